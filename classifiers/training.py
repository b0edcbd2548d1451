"""Training of fastText classifiers: labelled texts -> NAME.ftz with NAME.json beside it.

The training runs in a process of its own, because fastText ends the process that it does not like. It is done by floret
(Explosion's fastText, which has wheels and a module name of its own), or by any package named `fasttext` that can train;
the file is fastText's own format either way, byte for byte the same, and every fastText reads it.

With one thread, the same set of examples and the same options give the same bytes: examples are
put in an order that their content and the seed decide, whatever order they come in. Autotune tries the same options too.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from classifiers.evaluation import average_precision, roc_auc
from classifiers.modelfile import ModelFile, standard
from classifiers.normalise import check, normalised, shortened, strings
from classifiers.scoring import FORMAT, Head
from pipeline.errors import CrawlmillError, InputError, RecipeError, StorageError, UsageError
from pipeline.options import Options
from pipeline.yaml_files import line_of, nearest, read_yaml

_ROWS_TO_QUANTISE = 256
_PROCESS = Path(__file__).with_name("fasttext_process.py")


class Quantisation(Options):
    """How a model is made small (arXiv 1612.03651). `cutoff`: words and n-grams that stay, 0 for all; `retrain` those
    that stay; `qnorm`: norms quantised apart; `dsub`: columns that share a byte."""

    cutoff: int = Field(default=0, ge=0)
    retrain: bool = True
    qnorm: bool = True
    dsub: int = Field(default=2, ge=1, le=64)


class Autotune(Options):
    """A search for lr, epoch, dim and word_ngrams: so many `trials`, each trained and measured on the validation set by
    `metric` (for topics `accuracy`). The first trial is the options as they stand, the others are drawn by the seed.

    fastText has a search of its own, by the clock. It gives other options each time, and never came back from a small set.
    """

    trials: int = Field(default=20, ge=1, le=10_000)
    metric: Literal["average_precision", "roc_auc", "accuracy"] = "average_precision"


def _switch(value: Any) -> Any:
    return {} if value is True else None if value is False else value


class TrainingOptions(Options):
    """Options of one model; the defaults are fastText's for supervised training but for word pairs, buckets and threads.

    `max_chars`: texts are shortened to it in training and in scoring (the beginning, and pieces of the rest).
    `threads`: with more than one, no two trainings give the same model.
    """

    normalisation: Annotated[str, Field(min_length=1)] = "words"
    max_chars: int | None = Field(default=None, ge=100)
    lr: float = Field(default=0.1, gt=0, le=10)
    dim: int = Field(default=16, ge=1, le=4096)
    epoch: int = Field(default=5, ge=1, le=10_000)
    word_ngrams: int = Field(default=2, ge=1, le=10)
    min_n: int = Field(default=0, ge=0, le=20)
    max_n: int = Field(default=0, ge=0, le=20)
    bucket: int = Field(default=200_000, ge=0, le=2**31 - 1)
    min_count: int = Field(default=1, ge=1)
    loss: Literal["softmax", "ova", "hs"] = "softmax"
    quantise: Annotated[Quantisation | None, BeforeValidator(_switch)] = Quantisation()
    autotune: Annotated[Autotune | None, BeforeValidator(_switch)] = None
    seed: int = Field(default=1, ge=0, lt=2**31)
    threads: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _possible(self) -> "TrainingOptions":
        try:
            check(self.normalisation)
        except InputError as error:
            raise ValueError(str(error)) from error
        if self.min_n > self.max_n:
            raise ValueError(f"min_n {self.min_n} is above max_n {self.max_n}")
        if self.bucket == 0 and (self.word_ngrams > 1 or self.max_n > 0):
            raise ValueError("n-grams need buckets: set bucket, or word_ngrams: 1 and max_n: 0")
        return self


def load_options(path: str | Path) -> TrainingOptions:
    """The options of a YAML file. Raises RecipeError that names the file, the line, the key and the nearest right name."""
    body, node = read_yaml(path, "training options")
    if node is None:
        return TrainingOptions()
    if not isinstance(body, dict):
        raise RecipeError(f"{path}: training options are a mapping, such as `lr: 0.5`")
    try:
        return TrainingOptions.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]
        at = tuple(problem["loc"])
        key = ".".join(map(str, at))
        where = f"{path}, line {line_of(node, at)}"
        if problem["type"] == "extra_forbidden":
            parts: dict[str, type[Options]] = {"quantise": Quantisation, "autotune": Autotune}
            valid = sorted(parts.get(str(at[0]) if at[1:] else "", TrainingOptions).model_fields)
            raise RecipeError(
                f"{where}: unknown key {key!r}{nearest(str(at[-1]), valid)}; valid here: {', '.join(valid)}"
            ) from error
        message = problem["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where}: {key + ': ' if key else ''}{message[:1].lower() + message[1:]}") from error


def train(
    texts: pa.Array | pa.ChunkedArray | Sequence[str | None],
    labels: pa.Array | pa.ChunkedArray | Sequence[str | None],
    options: TrainingOptions,
    to: str | Path,
    *,
    scored: str | None = None,
    validation: tuple[Sequence[str | None] | pa.Array, Sequence[str | None] | pa.Array] | None = None,
    data: Mapping[str, Any] | None = None,
    command: str = "",
) -> Head:
    """Trains a model and writes `to`.ftz (.bin where `quantise` is null) with `to`.json; returns it, opened.

    `scored` is the label whose probability is the score; None for a model of topics. `data` (names, sizes, licences) and
    `command` go into the JSON, with the number of examples of each label and a digest of all of them. Examples without
    text are left out and counted. `validation`: texts and labels for autotune.

    Raises InputError for examples that no model can be trained on, UsageError for options that do not go together or where
    no fastText that trains is installed, StorageError where a file cannot be written, and CrawlmillError where the
    training failed, with what it said.
    """
    to = Path(to)
    examples, empty = _examples(texts, labels, options)
    counts = Counter(label for label, _ in examples)
    if len(counts) < 2:
        only = next(iter(counts), None)
        raise InputError(f"all examples have the label {only!r}; a classifier needs two at least")
    if scored is not None and scored not in counts:
        raise InputError(f"no example has the scored label {scored!r}; labels: {', '.join(sorted(counts))}")
    tuning: dict[str, Any] = {}
    if options.autotune:
        if validation is None:
            raise UsageError("autotune needs a validation set")
        if scored is None and options.autotune.metric != "accuracy":
            raise UsageError("without a scored label, autotune goes by metric: accuracy")
        options, tuning = _tuned(texts, labels, options, scored, validation)
        examples, empty = _examples(texts, labels, options)
    trainer = _trainer()
    try:
        with tempfile.TemporaryDirectory(prefix="crawlmill-train-") as folder:
            work = Path(folder)
            _write_examples(work / "train.txt", examples)
            _run(work, options, trainer)
            model = (work / "model").read_bytes()
            if trainer == "floret":
                model = standard(model)
            (work / "model").write_bytes(model)
            checked = _checked(work / "model", options)
    except OSError as error:
        raise StorageError(f"cannot train in {tempfile.gettempdir()}: {error.strerror or error}") from error
    facts = {
        "format": FORMAT,
        "name": to.name,
        "labels": list(checked.labels),
        "scored": scored,
        "normalisation": options.normalisation,
        "max_chars": options.max_chars,
        "options": options.model_dump(),
        "examples": {
            "labels": dict(sorted(counts.items())),
            "without_text": empty,
            "digest": _digest(examples),
        },
        "data": dict(data or {}),
        "command": command,
        "trainer": f"{trainer} {importlib.metadata.version(trainer) if trainer == 'floret' else _fasttext_version()}",
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    if tuning:
        facts["autotune"] = tuning
    suffix = ".ftz" if checked.quantised else ".bin"
    write_file(to.with_name(to.name + suffix), model)
    _write_json(to.with_name(to.name + ".json"), facts)
    return Head.open(to.with_name(to.name + suffix))


def _tuned(
    texts: Any, labels: Any, options: TrainingOptions, scored: str | None, validation: tuple[Any, Any]
) -> tuple[TrainingOptions, dict[str, Any]]:
    """The best options of a search, without `autotune`, and what each trial had and gave."""
    search = options.autotune or Autotune()
    plain = options.model_copy(update={"autotune": None})
    held_out, truth = validation
    truth = truth.to_pylist() if isinstance(truth, pa.Array | pa.ChunkedArray) else list(truth)
    draw = np.random.default_rng(options.seed)
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="crawlmill-tune-") as folder:
        for number in range(search.trials):
            changes = {
                "lr": round(float(10 ** draw.uniform(-2, 0)), 4),
                "epoch": round(10 ** draw.uniform(0, 1.7)),
                "dim": int(draw.choice([4, 8, 16, 32, 64])),
                "word_ngrams": int(draw.choice([1, 2, 3] if options.bucket else [1])),
            }
            tried = plain.model_copy(update=changes) if number else plain
            head = train(texts, labels, tried, Path(folder) / "trial", scored=scored)
            trials.append({key: getattr(tried, key) for key in changes})
            trials[-1][search.metric] = round(_measured(head, strings(held_out), truth, search.metric), 6)
    best = max(trials, key=lambda trial: trial[search.metric])
    chosen = plain.model_copy(update={key: best[key] for key in best if key != search.metric})
    return chosen, {"metric": search.metric, "validation_examples": len(truth), "trials": trials}


def _measured(head: Head, texts: pa.LargeStringArray, truth: list[str], metric: str) -> float:
    if head.scored is None or metric == "accuracy":
        named = head.topics(texts)[0].to_pylist()
        return sum(a == b for a, b in zip(named, truth, strict=True)) / max(1, len(truth))
    measure = average_precision if metric == "average_precision" else roc_auc
    return measure(head.score(texts), [label == head.scored for label in truth])


def update_facts(path: str | Path, **facts: Any) -> dict[str, Any]:
    """Adds facts, such as `calibration`, to the JSON of a model and returns all of it. Raises InputError, StorageError."""
    head = Head.open(path)
    if head.json is None:
        raise UsageError(f"{path} has no JSON beside it to add facts to")
    merged = {**head.facts, **facts}
    _write_json(head.json, merged)
    return merged


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    write_file(path, (json.dumps(facts, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all. Raises StorageError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _examples(texts: Any, labels: Any, options: TrainingOptions) -> tuple[list[tuple[str, str]], int]:
    """(label, line) of every example with text, in an order of their own; and how many had none."""
    given = labels.to_pylist() if isinstance(labels, pa.Array | pa.ChunkedArray) else list(labels)
    lines = normalised(shortened(strings(texts), options.max_chars), options.normalisation).to_pylist()
    if len(lines) != len(given):
        raise InputError(f"{len(lines)} texts have {len(given)} labels")
    if not lines:
        raise InputError("there are no examples to train on")
    missing = sum(not (isinstance(label, str) and label) for label in given)
    if missing:
        raise InputError(f"{missing} of {len(given)} examples have no label")
    for label in sorted(set(given)):
        if label != "".join(label.split()) or "\0" in label:
            raise InputError(f"label {label!r} has a space in it; fastText's labels are single words")
    kept = [(label, line) for label, line in zip(given, lines, strict=True) if line]
    if not kept:
        raise InputError("no example has any text")
    salt = options.seed.to_bytes(8, "big")
    keyed = sorted((hashlib.blake2b(f"{x}\0{y}".encode(), key=salt, digest_size=16).digest(), x, y) for x, y in kept)
    return [(label, line) for _, label, line in keyed], len(lines) - len(kept)


def _digest(examples: list[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for label, line in sorted(examples):
        digest.update(f"{label}\t{line}\n".encode())
    return digest.hexdigest()


def _write_examples(path: Path, examples: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"__label__{label} {line}\n" for label, line in examples)


def _trainer() -> str:
    """The module that trains. Raises UsageError where there is none."""
    if importlib.util.find_spec("floret"):
        return "floret"
    if importlib.util.find_spec("fasttext"):
        import fasttext

        if hasattr(fasttext, "train_supervised"):
            return "fasttext"
    raise UsageError("no fastText that trains is installed (the one for scoring only predicts): pip install floret")


def _fasttext_version() -> str:
    """Which distribution the module `fasttext` came from; several may claim it, and the last installed has won."""
    owners = importlib.metadata.packages_distributions().get("fasttext", [])
    return ", ".join(f"({name} {importlib.metadata.version(name)})" for name in sorted(set(owners)))


def _run(work: Path, options: TrainingOptions, trainer: str) -> None:
    """Trains in a process of its own, which leaves `model`."""
    job = {"folder": str(work), "trainer": trainer, "options": options.model_dump()}
    start = (
        "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], {}, '__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", start, json.dumps([p or str(Path.cwd()) for p in sys.path]), str(_PROCESS)],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return
    if "Encountered NaN" in said:
        raise CrawlmillError(
            "training gave no numbers (fastText: Encountered NaN): too few examples for these options, or lr too high; "
            f"lower lr ({options.lr}) or give more text"
        )
    if "too small for quantization" in said:
        raise InputError(
            f"fewer than {_ROWS_TO_QUANTISE} words and n-grams: too few to quantise; set quantise: false, or give more text"
        )
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    raise CrawlmillError(f"training failed ({how}): {last[:300]}")


def _checked(path: Path, options: TrainingOptions) -> ModelFile:
    try:
        model = ModelFile(path)
    except InputError as error:  # fastText does not notice a full disk
        raise StorageError(f"the trained model was not written whole; is {path.parent} full? ({error})") from error
    if not model.words and options.word_ngrams == 1 and not options.max_n:
        raise InputError(f"no word stands {options.min_count} times in the examples; lower min_count")
    if not model.finite():
        raise CrawlmillError(f"training gave weights that are no numbers; lower lr ({options.lr}) or give more text")
    return model
