"""Job: curated texts of several sources -> a tokenizer and its report. `spark-submit jobs/train_tokenizer.py --help`.

OUT/tokenizer.json          byte-level BPE
OUT/report.json             what it does to documents that were held out: pipeline.tokenizer.report
OUT/held/part-*.parquet     those documents
OUT/training.json           what it was trained on, and how

Every file is looked at twice: how much text of each source it holds, and then, when it is clear which share of a source is
wanted, for the documents of the sample. Whether a document is in it depends on its id alone, so that neither the order of
files nor the number of tasks changes the tokenizer. Run again, it goes on where it stopped.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jobs.runs import code_version, existing_run
from jobs.session import Watch, for_each, session
from jobs.store import RunFolder
from jobs.token_texts import PARQUET, Chunk, Reading, read_chunks
from pipeline.errors import CrawlmillError, InputError, UsageError
from pipeline.sources.inputs import expand
from pipeline.tokenizer.encoding import Encoder
from pipeline.tokenizer.files import TokenizerFile, parse
from pipeline.tokenizer.report import UNKNOWN, Usage
from pipeline.tokenizer.training import Draw, Options, draw_keys, draws, load_options, train

STAGE = "tokenizer"

SAMPLE = pa.schema([("text", pa.large_string()), ("source", pa.string()), ("language", pa.string())])


class Input(NamedTuple):
    """A Parquet file of texts, what changes when it does, and the source of those documents that do not name one."""

    path: str
    version: str | None
    source: str | None


def train_tokenizer(
    spark: Any | None,
    inputs: Sequence[str],
    output: str,
    options: Options | None = None,
    *,
    text: str = "text",
    partitions: int | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains a tokenizer on finished runs, or on `NAME=PATH` of Parquet files with a column `text`; returns training.json.

    Without a session, in this process, which also learns the merges: it holds the words of the sample, not its texts.

    Raises UsageError for a run that is not finished or an output that holds something else, InputError for sources without
    text and for too little of it.
    """
    options = options or Options()
    files = find_texts(inputs)
    folder = RunFolder(output)
    info = _begun(folder, files, options, text)
    if info["done"]:
        return info
    with folder.lock():
        folder.sweep()
        folder.write_json("training.json", info)
        numbered = list(enumerate(files))
        _each(spark, folder, "sizes", numbered, _Measure(output, text), partitions, watch)
        sizes = _sizes(folder, len(files))
        drawn = draws({source: size["bytes"] for source, size in sizes.items()}, options)
        _each(spark, folder, "sample", numbered, _Take(output, text, drawn, options.seed), partitions, watch)
        parts = [f"part-{number:05d}.parquet" for number in range(len(files))]
        sample = Counter[str]()
        body = train(_texts(folder, parts, sample), options)
        tokenizer = parse(body, options.end_of_text)
        encoder = Encoder(tokenizer)
        usage = Usage(tokenizer)
        for part in parts:
            add_table(usage, encoder, folder.read_table(f"held/{part}"))
        folder.write_json("report.json", usage.facts())
        folder.write_bytes("tokenizer.json", body)
        info |= {
            "done": True,
            "tokenizer": {"sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size, "engine": encoder.name},
            "fallback": encoder.fallback,
            "sources": {source: size | {"sample_bytes": sample[source]} for source, size in sorted(sizes.items())},
        }
        folder.write_json("training.json", info)
        folder.remove_tree("sample")
    return info


def find_texts(inputs: Sequence[str]) -> list[Input]:
    """The files of finished runs, and of `NAME=PATH` or PATH of Parquet files. Raises UsageError and InputError."""
    found: dict[str, Input] = {}
    for given in inputs:
        name, sign, path = given.partition("=")
        source, path = (name, path) if sign and "/" not in name else (None, given)
        if path.endswith(".parquet") or RunFolder(path).read_json("run.json") is None:
            for file in expand([path], PARQUET):
                found[file.path] = Input(file.path, file.version or str(file.size), source)
            continue
        run = existing_run(path)
        if not run.is_done("curate"):
            raise UsageError(f"{path} is not finished; run the same `crawlmill run` command again to complete it")
        for shard in run.manifests("curate"):
            at = f"{run.folder.absolute()}/curated/{shard['part']}.parquet"
            found[at] = Input(at, shard["tables"]["curated"]["sha256"], source)
    if not found:
        raise InputError("no texts to learn from; name runs or Parquet files")
    return sorted(found.values())


def read_texts(file: Input, text: str) -> Iterator[tuple[Chunk, pa.Table]]:
    """The documents of a file, some at a time, and their rows of SAMPLE. Raises InputError."""
    for chunk in read_chunks(file.path, file.path, Reading(text, None, file.source or UNKNOWN)):
        columns = {name: chunk.columns[name] for name in ("source", "language")}
        yield chunk, pa.table({"text": chunk.texts} | columns, schema=SAMPLE)


def add_table(usage: Usage, encoder: Encoder, table: pa.Table) -> None:
    """Counts the texts of a table with text, source and language."""
    if table.num_rows:
        sources, languages = (table.column(name).to_pylist() for name in ("source", "language"))
        usage.add_texts(encoder, table.column("text").combine_chunks(), sources, languages)


@dataclass(frozen=True)
class _Measure:
    """Notes how many documents and bytes of each source a file holds."""

    output: str
    text: str

    def __call__(self, task: tuple[int, Input]) -> None:
        number, file = task
        documents, sizes = Counter[str](), Counter[str]()
        for chunk, rows in read_texts(file, self.text):
            for source, length in zip(rows.column("source").to_pylist(), chunk.sizes.tolist(), strict=True):
                documents[source] += 1
                sizes[source] += length
        found = {source: {"documents": documents[source], "bytes": sizes[source]} for source in sorted(documents)}
        RunFolder(self.output).write_json(f"_manifests/sizes/{number:05d}.json", found)


@dataclass(frozen=True)
class _Take:
    """Takes the documents of the sample, and those that are held out, from a file."""

    output: str
    text: str
    drawn: Mapping[str, Draw]
    seed: int

    def __call__(self, task: tuple[int, Input]) -> None:
        number, file = task
        folder = RunFolder(self.output)
        taken, held = [SAMPLE.empty_table()], [SAMPLE.empty_table()]
        for chunk, rows in read_texts(file, self.text):
            keys = draw_keys(chunk.columns["id"].to_pylist(), chunk.columns["piece"].to_pylist(), self.seed)
            sources = rows.column("source").to_pylist()
            # 2^64, which stands for all, is no uint64.
            below = np.array([min(self.drawn[source].sample, 2**64 - 1) for source in sources], np.uint64)
            above = np.array([min(self.drawn[source].held, 2**64 - 1) for source in sources], np.uint64)
            taken.append(rows.filter(pa.array(keys < below)))
            held.append(rows.filter(pa.array(keys >= above)))
        folder.write_table(f"held/part-{number:05d}.parquet", pa.concat_tables(held))
        written = folder.write_table(f"sample/part-{number:05d}.parquet", pa.concat_tables(taken))
        folder.write_json(f"_manifests/sample/{number:05d}.json", written)


def _each(
    spark: Any | None,
    folder: RunFolder,
    step: str,
    tasks: list[tuple[int, Input]],
    function: Any,
    partitions: int | None,
    watch: Watch | None,
) -> None:
    """Does a step for the files for which it is not done."""
    done = {name.rsplit("/", 1)[-1] for name in folder.list(f"_manifests/{step}", ".json")}
    left = [task for task in tasks if f"{task[0]:05d}.json" not in done]
    if spark is not None:
        for_each(spark, left, function, step, partitions, watch=watch)
        return
    for task in left:
        function(task)


def _sizes(folder: RunFolder, files: int) -> dict[str, dict[str, int]]:
    """Documents and bytes by source, over all files."""
    sizes: dict[str, dict[str, int]] = {}
    for number in range(files):
        for source, found in (folder.read_json(f"_manifests/sizes/{number:05d}.json") or {}).items():
            total = sizes.setdefault(source, {"documents": 0, "bytes": 0})
            for name, value in found.items():
                total[name] += value
    return sizes


def _texts(folder: RunFolder, parts: list[str], sample: Counter[str]) -> Iterator[str]:
    """The texts of the sample; counts their bytes by source."""
    for part in parts:
        rows = folder.read_table(f"sample/{part}")
        for body, source in zip(rows.column("text").to_pylist(), rows.column("source").to_pylist(), strict=True):
            sample[source] += len(body.encode())
            yield body


def _begun(folder: RunFolder, files: list[Input], options: Options, text: str) -> dict[str, Any]:
    """training.json as it stands. Raises UsageError where the folder holds something else."""
    wanted = {
        "job": "train_tokenizer",
        "crawlmill": code_version(),
        "inputs": [file._asdict() for file in files],
        "text": text,
        "options": json.loads(options.model_dump_json()),
    }
    held = folder.read_json("training.json")
    if held is None or held.get("job") != wanted["job"]:
        if not folder.is_empty():
            raise UsageError(
                f"output {folder.path} is not empty and holds no training of a tokenizer; choose a new folder"
            )
        return wanted | {"done": False}
    other = sorted(key for key in wanted if held.get(key) != wanted[key])
    if other:
        raise UsageError(f"output {folder.path} holds another training (other {', '.join(other)}); choose a new folder")
    return held


def trained(folder: str) -> TokenizerFile | None:
    """The tokenizer that a training left, with the end of text that it was told; None where the folder holds none."""
    store = RunFolder(folder)
    info = store.read_json("training.json")
    if info is None or info.get("job") != "train_tokenizer":
        return None
    if not info["done"]:
        raise UsageError(f"{folder}: the training is not finished; run the same `crawlmill tokenizer train` again")
    body = store.read_bytes("tokenizer.json")
    if body is None:
        raise InputError(f"{folder} holds no tokenizer.json; copy the folder as a whole")
    return parse(body, info["options"]["end_of_text"], folder)


def _command(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="jobs/train_tokenizer.py",
        description="Trains byte-level BPE on finished runs and Parquet files.",
        epilog="example: spark-submit jobs/train_tokenizer.py --inputs web books=books/ --output tokenizer",
    )
    parser.add_argument("--inputs", required=True, nargs="+", metavar="RUN|NAME=PATH", help="runs, or Parquet files")
    parser.add_argument("--output", required=True, help="folder of the tokenizer")
    parser.add_argument("--config", help="YAML file of options")
    parser.add_argument("--text", default="text", help="column of texts")
    parser.add_argument("--partitions", type=int, help="Spark tasks to use; the result does not depend on it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args(arguments)
    # Pickled by reference, so that executors find it whether this file was submitted or imported.
    from jobs import train_tokenizer as job

    try:
        info = job.train_tokenizer(
            session(STAGE),
            given.inputs,
            given.output,
            load_options(given.config) if given.config else None,
            text=given.text,
            partitions=given.partitions,
        )
    except CrawlmillError as error:
        if given.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    facts = info["tokenizer"]
    print(f"tokenizer={given.output}/tokenizer.json vocab_size={facts['vocab_size']} sha256={facts['sha256']}")


if __name__ == "__main__":
    _command()
