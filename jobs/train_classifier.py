"""Job: a finished run and what is referenced -> training set, model, card. `spark-submit jobs/train_classifier.py --help`.

The parts of the run are looked through for referenced pages and for random ones; what is found is brought together, and
one process makes the training set of it, trains, and evaluates on the domains that were held out. Done steps are not done
again.
"""

import argparse
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from classifiers.card import write_card
from classifiers.evaluation import evaluate, length_slices
from classifiers.training import TrainingOptions, load_options, train, update_facts
from classifiers.training_set import (
    EXAMPLES,
    TEST,
    TRAIN,
    References,
    TrainingSet,
    TrainingSetOptions,
    build,
    candidates,
    held,
    missing,
    reference_table,
    texts_as_examples,
)
from jobs.runs import Run, code_version, existing_run, read_part
from jobs.session import Watch, for_each, session
from jobs.store import RunFolder
from pipeline.curation import kept_rows
from pipeline.dedup.local import read_texts
from pipeline.errors import CrawlmillError, InputError, UsageError
from pipeline.recipe import Recipe, load_recipe

STAGE = "candidates"
NUMBERS = "references"
"""Folder of the numbers of what is referenced, which every task maps into memory."""

SPARE = 4
"""Pages that are looked at for each that can be taken: some are copies, over the cap of their domain, or of a length that
is not wanted."""

LEAST_SHARE = 0.01
"""Of a crawl's pages, the share that is assumed to be on a referenced host or domain: no fewer would be enough."""


class TextFile(NamedTuple):
    """Further examples: the texts of a file or folder (`pipeline.dedup.local.read_texts`), under a name.

    `group` is the column, beside `text`, of what stays on one side of the split (an author, a site); without it every text
    is its own. `piece_words` cuts long texts in pieces of about so many words.
    """

    name: str
    path: str
    positive: bool = True
    group: str | None = None
    piece_words: int | None = None


@dataclass(frozen=True)
class _Search:
    """All that a task needs to know."""

    measures: str
    output: str
    recipe: Recipe
    options: TrainingSetOptions
    positives: float
    negatives: float

    def __call__(self, part: str) -> None:
        """The candidates of a part, and which referenced addresses it holds, then the manifest that makes them count."""
        folder = RunFolder(self.output)
        references = _mapped(*(str(folder.local_copy(f"{NUMBERS}/{kind}.npy")) for kind in References._fields))
        records, documents, signals, _ = read_part(RunFolder(self.measures), part, self.recipe)
        kept = pa.array(kept_rows(documents, signals, self.recipe))
        undecided = records.filter(records.column("outcome").is_null())
        pages = undecided.select(["doc_id", "url", "host", "domain"]).filter(kept)
        for name in ("language", "text"):
            pages = pages.append_column(name, documents.column(name).filter(kept))
        found = candidates(pages, references, self.options, positives=self.positives, negatives=self.negatives)
        there = pa.table({"number": held(records.select(["url"]), references)})
        folder.write_table(f"held/part-{part}.parquet", there, plain=("number",))
        written = folder.write_table(f"{STAGE}/part-{part}.parquet", found)
        facts = {"pages": undecided.num_rows, "kept": pages.num_rows, "held": there.num_rows}
        folder.write_json(f"_manifests/{STAGE}/{part}.json", {"part": part, "tables": {STAGE: written}, **facts})


@lru_cache(maxsize=1)
def _mapped(*paths: str) -> References:
    return References(*(np.load(path, mmap_mode="r") for path in paths))


def read_references(source: str) -> pa.Table:
    """References from a folder of the job `references`, a Parquet file with its columns, or a list of addresses (a text file,
    one a line, `.gz` or not). Raises InputError."""
    path = Path(source)
    columns = ["canonical", "url", "host", "domain"]
    if "://" in source or path.is_dir():
        folder = RunFolder(source)
        files = folder.list("references", ".parquet")
        if not files:
            raise InputError(f"{source} holds no references; make them with `crawlmill references`")
        return pa.concat_tables([folder.read_table(name, columns) for name in files])
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, columns=columns)
        body = path.read_bytes()
        text = (gzip.decompress(body) if path.suffix == ".gz" else body).decode("utf-8", "replace")
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read references {source}: {error}") from error
    table = reference_table([line.strip() for line in text.splitlines() if line.strip()])
    if not table.num_rows:
        raise InputError(f"{source} holds no address on the web")
    return table


def train_classifier(
    spark: Any | None,
    run: Run,
    output: str,
    *,
    references: str | None = None,
    name: str = "quality",
    options: TrainingSetOptions | None = None,
    training: TrainingOptions | None = None,
    files: Sequence[TextFile] = (),
    index: str | None = None,
    command: str = "",
    purpose: str = "",
    partitions: int | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains a classifier that tells what is referenced (and the positive `files`) from random pages of `run`.

    Leaves in the folder `output`: examples (the training set), missing (addresses to fetch, schema LISTING), models/NAME
    with its JSON and card, and training.json, which is returned: how many examples each step left, and the evaluation on
    the domains that were held out. Without a session, in this process. The candidates are held in memory here: about
    2 x SPARE x options.most texts at most.

    Raises UsageError for an output that holds another training, and InputError where too few examples are left.
    """
    options, training = options or TrainingSetOptions(), training or TrainingOptions()
    if references is None and not any(file.positive for file in files):
        raise UsageError("nothing says what a positive is: give references, or a file of positives")
    folder = RunFolder(output)
    lacking = [task.part for task in run.tasks if task.part not in run.done("annotate")]
    if lacking:
        raise UsageError(f"{run.folder.path} is not measured to the end ({len(lacking)} parts are not); run it on")
    with folder.lock():
        folder.sweep()
        listed = read_references(references) if references else reference_table([])
        _begin(folder, run, listed, options, training, files, name)
        parts = [task.part for task in run.tasks]
        search = _Search(run.folder.path, output, run.recipe, options, *_shares(run, listed, options))
        done = {n.rsplit("/", 1)[-1].removesuffix(".json") for n in folder.list(f"_manifests/{STAGE}", ".json")}
        left = [part for part in parts if part not in done]
        if spark is None:
            for part in left:
                search(part)
        else:
            for_each(spark, left, search, STAGE, partitions, run.least_slices, watch)
        account = _account(folder, parts, listed, index)
        made = build(_gathered(folder, parts, files, options), options)
        folder.write_table("examples/part-00000.parquet", made.examples)
        data = {"run": _run_facts(run), "training_set": made.account, "options": json.loads(options.model_dump_json())}
        facts = {**account, **data, **_trained(folder, made, training, options, name, command, purpose, data)}
        folder.write_json("training.json", facts)
    return facts


def _begin(
    folder: RunFolder,
    run: Run,
    listed: pa.Table,
    options: TrainingSetOptions,
    training: TrainingOptions,
    files: Sequence[TextFile],
    name: str,
) -> None:
    """Notes what is trained, or refuses where the folder holds something else; writes the numbers of what is referenced."""
    numbers = References.of(listed)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in numbers)).hexdigest()
    wanted = {
        "job": "train_classifier",
        "name": name,
        "run": _run_facts(run),
        "references_digest": digest,
        "options": json.loads(options.model_dump_json()),
        "training": json.loads(training.model_dump_json()),
        "files": [list(file) for file in files],
        "crawlmill": code_version(),
    }
    info = folder.read_json("run.json")
    if not folder.is_empty() if info is None else info.get("job") != wanted["job"]:
        raise UsageError(f"output {folder.path} is not empty and holds no training; choose a new folder")
    if info is not None and info != wanted:
        other = sorted(key for key in wanted if info.get(key) != wanted[key])
        raise UsageError(f"output {folder.path} holds another training (other {', '.join(other)}); choose a new folder")
    if info is None:
        for kind, array in zip(References._fields, numbers, strict=True):
            sink = io.BytesIO()
            np.save(sink, array)
            folder.write_bytes(f"{NUMBERS}/{kind}.npy", sink.getvalue())
        folder.write_json("run.json", wanted)


def _run_facts(run: Run) -> dict[str, Any]:
    return {"inputs_digest": run.info["inputs_digest"], "recipe": run.recipe.name, "recipe_digest": run.recipe.digest}


def _shares(run: Run, listed: pa.Table, options: TrainingSetOptions) -> tuple[float, float]:
    """Which shares of the referenced and of the other pages need to be looked at."""
    pages = max(1, sum(m["tables"]["documents"]["rows"] for m in run.manifests("extract")))
    enough = SPARE * options.most
    positives = enough / max(1, listed.num_rows) if options.match == "url" else enough / (LEAST_SHARE * pages)
    return min(1.0, positives), min(1.0, enough * options.negatives / pages)


def _account(folder: RunFolder, parts: Sequence[str], listed: pa.Table, index: str | None) -> dict[str, Any]:
    """What the run holds of what is referenced; the rest becomes the list of what to fetch."""
    manifests = [facts for part in parts if (facts := folder.read_json(f"_manifests/{STAGE}/{part}.json"))]
    found = [folder.read_table(f"held/part-{part}.parquet").column("number").to_numpy() for part in parts]
    numbers = np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)
    try:
        rows = pq.read_table(index) if index else None
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read index {index}: {error}") from error
    listing = missing(listed, numbers, rows)
    folder.write_table("missing/part-00000.parquet", listing)
    return {
        "references": listed.num_rows,
        "references_held": len(numbers),
        "references_missing": listing.num_rows,
        "references_placed": listing.num_rows - listing.column("warc_filename").null_count,
        "pages": sum(m["pages"] for m in manifests),
        "pages_kept": sum(m["kept"] for m in manifests),
    }


def _gathered(
    folder: RunFolder, parts: Sequence[str], files: Sequence[TextFile], options: TrainingSetOptions
) -> pa.Table:
    tables = [folder.read_table(f"{STAGE}/part-{part}.parquet").cast(EXAMPLES) for part in parts]
    for file in files:
        texts = read_texts(file.path).texts.to_pylist()
        groups = read_texts(file.path, file.group).texts.to_pylist() if file.group else [None] * len(texts)
        if len(groups) != len(texts):
            raise InputError(f"{file.path}: {len(texts)} rows have text, {len(groups)} have {file.group}")
        whole = [(text, group) for text, group in zip(texts, groups, strict=True) if text]
        label = options.positive if file.positive else options.negative
        bodies, named = [text for text, _ in whole], [group for _, group in whole]
        tables.append(texts_as_examples(bodies, label, file.name, groups=named, piece_words=file.piece_words))
    return pa.concat_tables(tables)


def _trained(
    folder: RunFolder,
    made: TrainingSet,
    training: TrainingOptions,
    options: TrainingSetOptions,
    name: str,
    command: str,
    purpose: str,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """The model, its evaluation on the held-out side, and its card."""
    if not folder.local:
        raise UsageError(f"models are written to a local folder, not to {folder.path}")
    base = Path(folder.path, "models", name)
    side, test = made.part(TRAIN), made.part(TEST)
    head = train(
        side.column("text"), side.column("label"), training, base, scored=options.positive, data=data, command=command
    )
    truth = pc.equal(test.column("label"), options.positive).to_numpy(zero_copy_only=False).astype(int)
    slices = {
        "length": length_slices(test.column("n_words").to_pylist()),
        "host": test.column("host").to_pylist(),
        "language": test.column("language").to_pylist(),
        "source": test.column("source").to_pylist(),
    }
    groups = test.column("group").to_pylist()
    found = evaluate(head.score(test.column("text")), truth, groups=groups, slices=slices)
    update_facts(head.path, calibration=found["calibration"])
    head = type(head).open(head.path)
    write_card(head, {"domains that were held out": found}, purpose=purpose)
    return {"model": str(head.path), "sha256": head.facts["sha256"], "evaluation": found}


def _named_file(text: str, positive: bool, group: str | None, piece_words: int | None) -> TextFile:
    name, sign, path = text.partition("=")
    if not sign or not name or not path:
        raise UsageError(f"{text!r} is no NAME=PATH")
    return TextFile(name, path, positive, group, piece_words)


def _command(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="jobs/train_classifier.py",
        description="Trains a classifier that tells referenced pages from random ones of a finished run.",
        epilog="example: spark-submit jobs/train_classifier.py --run out --references references --output quality",
    )
    parser.add_argument("--run", required=True, help="run folder, measured to the end")
    parser.add_argument("--recipe", help="decide by this recipe which pages are kept, instead of the run's own")
    parser.add_argument("--references", help="folder of the job references, Parquet file, or list of addresses")
    parser.add_argument("--positive", nargs="+", default=[], metavar="NAME=PATH", help="files of further positives")
    parser.add_argument("--negative", nargs="+", default=[], metavar="NAME=PATH", help="files of further negatives")
    parser.add_argument("--group", help="column of those files that says what stays on one side of the split")
    parser.add_argument("--piece-words", type=int, help="cut the texts of those files in pieces of so many words")
    parser.add_argument("--output", required=True, help="local folder of the training")
    parser.add_argument("--name", default="quality", help="name of the model")
    parser.add_argument("--match", choices=("url", "host", "domain"), default="url", help="what has to be referenced")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the domains that is not trained on")
    parser.add_argument("--per-domain", type=int, default=100, help="examples of a label from one domain at most")
    parser.add_argument("--most", type=int, default=200_000, help="positives at most")
    parser.add_argument("--seed", type=int, default=1, help="seed of what is drawn")
    parser.add_argument("--training", help="YAML file of training options")
    parser.add_argument("--index", help="Parquet of rows of a crawl's index: where the missing addresses lie")
    parser.add_argument("--partitions", type=int, help="Spark tasks to use; the result does not depend on it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args(arguments)
    # Pickled by reference, so that executors find it whether this file was submitted or imported.
    from jobs import train_classifier as job

    try:
        facts = job.train_classifier(
            session(STAGE),
            existing_run(given.run, load_recipe(given.recipe) if given.recipe else None),
            given.output,
            references=given.references,
            name=given.name,
            options=_options(given),
            training=load_options(given.training) if given.training else None,
            files=[
                _named_file(text, positive, given.group, given.piece_words)
                for positive, texts in ((True, given.positive), (False, given.negative))
                for text in texts
            ],
            index=given.index,
            command=" ".join(["jobs/train_classifier.py", *(arguments or sys.argv[1:])]),
            partitions=given.partitions,
        )
    except CrawlmillError as error:
        if given.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    area = facts["evaluation"]["roc_auc"]
    print(
        f"model={facts['model']} roc_auc={area['value']:.4f} ({area['low']:.4f} to {area['high']:.4f}) "
        f"references_held={facts['references_held']} references_missing={facts['references_missing']}"
    )


def _options(given: argparse.Namespace) -> TrainingSetOptions:
    names = ("match", "held_out", "per_domain", "most", "seed")
    try:
        return TrainingSetOptions(**{name: getattr(given, name) for name in names})
    except ValueError as error:
        problem = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
        raise UsageError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


if __name__ == "__main__":
    _command()
