"""Job: curated Parquet to shards of tokens that trainers read. `spark-submit jobs/tokenise.py --help`.

OUT/tokenizer.json          the tokenizer
OUT/tokens.json             what the folder is: tokenizer, inputs, options, totals
OUT/shard-00000.bin .idx .docs.parquet .json      a shard for every Parquet file of the input; the manifest is written last

Reading, encoding and writing go on side by side in one process, or on Spark with a task for every file: the bytes are
the same. Each text is decoded again and compared, one in `audit_every` is encoded by `tokenizers` too.
"""

import argparse
import hashlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from jobs.runs import code_version, existing_run
from jobs.session import Watch, for_each, session
from jobs.store import RunFolder
from jobs.token_folders import manifests
from jobs.token_shards import ShardWriter, check_extras
from jobs.token_texts import PARQUET, Chunk, Reading, read_chunks
from pipeline.errors import CrawlmillError, UsageError
from pipeline.sources.inputs import expand
from pipeline.tables import TOKEN_DOCUMENTS
from pipeline.tokenizer.encoding import Encoded, Encoder, divisible
from pipeline.tokenizer.files import TokenizerFile, load
from pipeline.tokenizer.patterns import stretches
from trainer.shards import dtype_for

STAGE = "tokenise"

FORMAT = 1

AUDIT_EVERY = 1000
"""One document in so many is encoded by `tokenizers` too. It takes sixty times as long, so that this costs some 6 %."""

AUDIT_FIRST = 4
"""So many at the beginning of a shard are audited in any case."""

AUDIT_CHARS = 1 << 16
"""Of longer documents this much is audited: `tokenizers` may need hours for one of 50 MB."""

AUDIT_BROKEN = 16
"""So many of the documents of a chunk that do not come back from their tokens are audited."""

IN_PROCESS_BYTES = 20_000_000_000
"""Up to so many bytes of Parquet one process reads, encodes and writes, unless Spark is asked for."""

Progress = Callable[[int, int, int], None]
"""Called with (shards done, shards in all, tokens written) while they are written in this process."""

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A file and the number of the shard that it becomes; `name` is what the file is called in the shard."""

    number: int
    path: str
    name: str

    @property
    def shard(self) -> str:
        """Name of the shard."""
        return f"shard-{self.number:05d}"


@dataclass(frozen=True)
class _Job:
    """All that a task needs to know."""

    output: str
    tokenizer: TokenizerFile
    facts: dict[str, Any]
    engine: Any
    reading: Reading
    extras: tuple[str, ...]
    audit_every: int

    def writer(self, task: Task) -> ShardWriter:
        return ShardWriter(RunFolder(self.output), task.shard, self.facts, TOKEN_DOCUMENTS, self.extras)


def tokenise(
    inputs: Sequence[str],
    output: str,
    tokenizer: TokenizerFile,
    *,
    source: str | None = None,
    text: str = "text",
    id: str | None = None,
    extra: Sequence[str] = (),
    engine: Any = "auto",
    master: str | None = None,
    partitions: int | None = None,
    spark: bool | None = None,
    audit_every: int = AUDIT_EVERY,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the texts of a finished run, or of Parquet files, as shards of tokens; returns what tokens.json says.

    `source` names the source of documents whose file does not; `text` and `id` are columns (without `id` the column of
    that name, or where there is none a hash of the text); `extra` are further forms of the tokens. Run again it goes on
    where it stopped. With `spark` None one process does it all unless a master is named or there is much to read.

    Raises UsageError where the output holds something else, InputError for unreadable files, StorageError.
    """
    if audit_every < 1:
        raise UsageError("an audit of one document in 0 is none; give 1 or more")
    extras = check_extras(extra)
    listed, tasks, run = _listed(inputs)
    dtype = dtype_for(tokenizer.vocab_size)
    facts = {
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "eos": tokenizer.eos,
        "eos_token": tokenizer.eos_token,
        "dtype": str(dtype),
    }
    info: dict[str, Any] = {
        "crawlmill": code_version(),
        "format": FORMAT,
        "tokenizer": facts,
        "inputs": listed,
        "run": run,
        "source": source,
        "options": {"text": text, "id": id, "extra": list(extras)},
    }
    depends = {name: info[name] for name in ("crawlmill", "format", "tokenizer", "inputs", "source", "options")}
    info |= {
        "digest": hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32],
        "done": False,
        "totals": None,
    }
    encoder = Encoder(tokenizer, engine)
    folder = RunFolder(output)
    held = _held(folder, info)
    whole = held is not None and held["done"] and len(manifests(folder)) == len(tasks)
    if held is not None and whole and folder.read_bytes("tokenizer.json") == tokenizer.body:
        return held
    with folder.lock():
        folder.sweep()
        folder.write_json("tokens.json", info)  # first: a folder without it is somebody else's
        folder.write_bytes("tokenizer.json", tokenizer.body)
        done = set(folder.list("", ".json"))
        left = [task for task in tasks if f"{task.shard}.json" not in done]
        job = _Job(folder.path, tokenizer, facts, engine, Reading(text, id, source), extras, audit_every)
        if left and _wants_spark(spark, master, listed):
            started = session(STAGE, master)
            for_each(started, left, partial(_on_spark, job), STAGE, partitions, watch=watch)
        elif left:
            _in_process(job, encoder, left, len(tasks), progress)
        shards = manifests(folder)
        info["totals"] = {
            "shards": len(shards),
            **{name: sum(shard[name] for shard in shards) for name in ("documents", "tokens", "bytes")},
        }
        info["done"] = True
        folder.write_json("tokens.json", info)
    return info


def _listed(inputs: Sequence[str]) -> tuple[list[dict[str, Any]], list[Task], str | None]:
    """The input files as tokens.json lists them, a task for each, and the folder of the run if they are one's."""
    runs = [path for path in inputs if _may_be_folder(path) and RunFolder(path).read_json("run.json") is not None]
    if not runs:
        files = expand(list(inputs), PARQUET)
        listed = [{"path": f.path, "size": f.size, "version": f.version} for f in files]
        return listed, [Task(i, f.path, f.path) for i, f in enumerate(files)], None
    if len(inputs) > 1:
        raise UsageError(f"{runs[0]} is a run and is tokenized by itself, since a run is a source; mix them afterwards")
    run = existing_run(runs[0])
    if not run.is_done("curate"):
        raise UsageError(f"{runs[0]} is not finished; run the same `crawlmill run` command again to complete it")
    root = run.folder.absolute()
    listed, tasks = [], []
    for number, shard in enumerate(run.manifests("curate")):
        name, facts = f"curated/{shard['part']}.parquet", shard["tables"]["curated"]
        listed.append({"path": name, "size": facts["bytes"], "version": f"sha256:{facts['sha256']}"})
        tasks.append(Task(number, f"{root}/{name}", name))
    return listed, tasks, root


def _may_be_folder(path: str) -> bool:
    folder = RunFolder(path)
    if folder.local:
        return Path(folder.path).is_dir()
    return not has_magic(path) and not PARQUET.takes(path.rsplit("/", 1)[-1])


def _held(folder: RunFolder, info: dict[str, Any]) -> dict[str, Any] | None:
    """What the folder holds, None where it is empty. Raises UsageError where that is something else."""
    held = folder.read_json("tokens.json")
    if held is None:
        if not folder.is_empty():
            raise UsageError(f"output {folder.path} is not empty and holds no tokens; choose a new folder")
        return None
    if held["digest"] == info["digest"]:
        return held
    if not held["done"] and not manifests(folder):
        return None  # begun and failed before the first shard, such as for want of the right --text
    names = [name for name in ("tokenizer", "inputs", "source", "options", "crawlmill") if held[name] != info[name]]
    what = {
        "tokenizer": f"tokenizer {held['tokenizer']['sha256'][:12]} with {held['tokenizer']['eos_token']}",
        "inputs": "other inputs (or they changed since)",
        "source": f"source {held['source']}",
        "options": f"options {held['options']}",
        "crawlmill": f"crawlmill {held['crawlmill']}",
    }
    differs = "; ".join(what[name] for name in names) or f"format {held['format']}"
    raise UsageError(f"output {folder.path} was begun with {differs}: that differs; choose a new folder")


def _wants_spark(spark: bool | None, master: str | None, listed: list[dict[str, Any]]) -> bool:
    if spark is not None:
        return spark
    much = sum(file["size"] or 0 for file in listed) > IN_PROCESS_BYTES
    return bool(master) or "PYSPARK_GATEWAY_PORT" in os.environ or much


class _Checked(NamedTuple):
    """What checks of a chunk found; `wrong` are rows that the engine encoded other than `tokenizers`."""

    audited: int
    lossy: int
    wrong: list[int]


class _Tally:
    """Counts of a shard."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("bytes", "audited", "rows", "null_texts", "invalid_utf8", "lossy", "tokens"), 0)

    def add(self, chunk: Chunk, encoded: Encoded, checked: _Checked) -> None:
        """Counts a chunk."""
        self.counts["bytes"] += int(chunk.sizes.sum())
        self.counts["tokens"] += len(encoded.tokens) + len(encoded.lengths)
        self.counts["audited"] += checked.audited
        self.counts["lossy"] += checked.lossy
        for name in ("rows", "null_texts", "invalid_utf8"):
            self.counts[name] += getattr(chunk, name)


class _Mismatch(Exception):  # noqa: N818 (not an error: the shard is encoded by the other engine)
    """The engine encodes a text of this shard other than `tokenizers`."""


class _Shard:
    """A shard that is made of chunks, in order. A context manager; what is not finished leaves nothing behind."""

    def __init__(self, job: _Job, task: Task, encoder: Encoder, fallback: tuple[str, int, int] | None = None):
        self._job, self._task, self._encoder, self._fallback = job, task, encoder, fallback
        self._tally = _Tally()
        self._seen = 0
        self._writer = job.writer(task)

    def __enter__(self) -> "_Shard":
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)

    def add(self, chunk: Chunk, encoded: Encoded) -> int:
        """Checks and writes the documents of a chunk; returns how many tokens they are. Raises _Mismatch."""
        checked = check(self._encoder, chunk, encoded, self._job.audit_every, AUDIT_FIRST - self._seen)
        self._tally.add(chunk, encoded, checked)
        if checked.wrong:
            raise _Mismatch(chunk.place(checked.wrong[0]), len(checked.wrong), self._tally.counts["audited"])
        self._seen += len(encoded.lengths)
        tokens, lengths = with_ends(encoded, self._job.tokenizer.eos, np.dtype(self._job.facts["dtype"]))
        self._writer.add(tokens, lengths, chunk.documents(lengths))
        return len(tokens)

    def finish(self) -> None:
        """Writes what is left, and the manifest."""
        facts = {name: count for name, count in self._tally.counts.items() if name != "tokens"}
        why, mismatches = self._encoder.fallback, 0
        if self._fallback is not None:
            why, mismatches, audited = self._fallback
            facts["audited"] += audited
        self._writer.commit(
            **facts, mismatches=mismatches, encoder=self._encoder.name, fallback=why, input=self._task.name
        )


def check(encoder: Encoder, chunk: Chunk, encoded: Encoded, audit_every: int, first: int) -> _Checked:
    """Decodes every text, where the tokenizer keeps all, and encodes some by `tokenizers` too, the `first` in any case."""
    broken = encoder.round_trips(chunk.texts, encoded) if encoder.tokenizer.lossless else np.zeros(0, np.int64)
    if encoder.name.startswith("tokenizers"):
        return _Checked(0, len(broken), [])
    chosen = chunk.keys % np.uint64(audit_every) == 0
    chosen[: max(0, first)] = True
    chosen[broken[:AUDIT_BROKEN]] = True
    rows = np.flatnonzero(chosen)
    long = chunk.sizes[rows] > AUDIT_CHARS
    wrong = encoder.audit(chunk.texts, rows[~long], encoded)
    wrong += [int(row) for row in rows[long] if not _begins_as(encoder, chunk.texts[int(row)].as_py(), encoded, row)]
    return _Checked(len(rows), len(broken), sorted(wrong))


def _begins_as(encoder: Encoder, text: str, encoded: Encoded, row: int) -> bool:
    """Whether the beginning of a long text has the tokens that `tokenizers` gives."""
    if divisible(encoder.tokenizer):
        beginning = next(stretches(text, AUDIT_CHARS))
        if len(beginning) <= 2 * AUDIT_CHARS:
            ids = encoder.reference.encode(beginning, add_special_tokens=False).ids
            return np.array_equal(encoded.row(row)[: len(ids)], np.array(ids, np.uint32))
    # It is not known where its words end: the beginning may have other tokens by itself, with both engines.
    end = max(text.rfind(" ", 0, AUDIT_CHARS), text.rfind("\n", 0, AUDIT_CHARS), AUDIT_CHARS // 2)
    beginnings = pa.array([text[:end]], pa.large_string())
    return not encoder.audit(beginnings, [0], encoder.encode(beginnings))


def with_ends(encoded: Encoded, eos: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of `dtype` with the end-of-text token after each document, and the lengths with it."""
    lengths = encoded.lengths + 1
    ends = np.cumsum(lengths) - 1
    tokens = np.empty(len(encoded.tokens) + len(lengths), dtype)
    others = np.ones(len(tokens), np.bool_)
    others[ends] = False
    tokens[others] = encoded.tokens
    tokens[ends] = eos
    return tokens, lengths


_encoders: dict[tuple[str, str, str], Encoder] = {}


def _on_spark(job: _Job, task: Task) -> None:
    """Makes one shard on an executor, whose other cores have shards of their own."""
    key = (job.tokenizer.sha256, job.tokenizer.eos_token, job.engine)
    if key not in _encoders:
        _encoders[key] = Encoder(job.tokenizer, job.engine, parallel=False)
    try:
        _make(job, task, _encoders[key])
    except _Mismatch as error:
        _make_again(job, task, error)


def _make(job: _Job, task: Task, encoder: Encoder, fallback: tuple[str, int, int] | None = None) -> None:
    with _Shard(job, task, encoder, fallback) as shard:
        for chunk in read_chunks(task.path, task.name, job.reading):
            shard.add(chunk, encoder.encode(chunk.texts))
        shard.finish()


def _make_again(job: _Job, task: Task, error: _Mismatch, encoder: Encoder | None = None) -> None:
    """Makes a shard with `tokenizers`, which the other engine did not agree with."""
    where, n, audited = error.args
    engine = Encoder(job.tokenizer, job.engine).name
    why = f"{engine} encodes {where} other than tokenizers does"
    _make(job, task, encoder or Encoder(job.tokenizer, "tokenizers"), (why, n, audited))


def _in_process(job: _Job, encoder: Encoder, tasks: list[Task], n: int, progress: Progress | None) -> None:
    """Makes shards one after the other. While one chunk is encoded, the next is read and the one before is written."""
    written, done = 0, n - len(tasks)
    shard: _Shard | None = None
    again: list[tuple[Task, _Mismatch]] = []
    failed: _Mismatch | None = None
    with closing(_ahead(_encoded(encoder, job, tasks), 1)) as stream:
        try:
            for task, chunk, encoded in stream:
                if shard is None and failed is None:
                    shard = _Shard(job, task, encoder)
                    shard.__enter__()
                if shard is not None and chunk is not None:
                    try:
                        written += shard.add(chunk, encoded)
                    except _Mismatch as error:
                        failed = error
                        shard.__exit__(None, None, None)
                        shard = None
                if chunk is None:
                    if shard is not None:
                        shard.finish()
                    else:
                        again.append((task, failed or _Mismatch()))
                    done += failed is None
                    shard = failed = None
                if progress:
                    progress(done, n, written)
        except BaseException as error:
            if shard is not None:
                shard.__exit__(type(error), error, error.__traceback__)
            raise
    slow = Encoder(job.tokenizer, "tokenizers") if again else None
    for task, mismatch in again:
        _make_again(job, task, mismatch, slow)
        done += 1
        if progress:
            progress(done, n, written)


def _encoded(encoder: Encoder, job: _Job, tasks: list[Task]) -> Generator[tuple[Task, Chunk | None, Any], None, None]:
    """Chunks with their tokens, in order; after the last of a task comes one that is None."""
    with closing(_ahead(_chunks(job, tasks), 2)) as stream:
        for task, chunk in stream:
            yield task, chunk, encoder.encode(chunk.texts) if chunk is not None else None


def _chunks(job: _Job, tasks: list[Task]) -> Generator[tuple[Task, Chunk | None], None, None]:
    for task in tasks:
        for chunk in read_chunks(task.path, task.name, job.reading):
            yield task, chunk
        yield task, None


_END = object()


def _ahead(items: Generator[T, None, None], n: int) -> Generator[T, None, None]:
    """The items, of which up to `n` are made ahead in a thread of their own. Raises what making one raised."""
    made: queue.Queue[Any] = queue.Queue(n)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            with closing(items):
                for item in items:
                    if not put((item, None)):
                        return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def main(arguments: list[str] | None = None) -> None:
    """The command line of a job that is submitted to Spark; ends the process as `crawlmill tokenize` does."""
    parser = argparse.ArgumentParser(
        prog="jobs/tokenise.py",
        description="Tokenizes the texts of a finished run, or of Parquet files, a Spark task for every file; what is done "
        "already in the output folder is not done again.",
        epilog="example: spark-submit jobs/tokenise.py --input out --tokenizer tokenizer.json --output tokens/web",
    )
    parser.add_argument("--input", nargs="+", required=True, help="a finished run, or Parquet files, globs and folders")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json, or a folder with one")
    parser.add_argument("--output", required=True, help="folder for the shards: a path or an s3:// address")
    parser.add_argument("--source", help="source of documents whose file has no column of that name")
    parser.add_argument("--also", action="append", default=[], help="further form: ds or npy; may be repeated")
    parser.add_argument("--text", default="text", help="column that holds the text")
    parser.add_argument("--id", help="column of ids")
    parser.add_argument("--eos", help="end-of-text token")
    parser.add_argument("--engine", default="auto", help="auto, gigatoken or tokenizers")
    parser.add_argument("--audit-every", type=int, default=AUDIT_EVERY, help="documents of which one is audited")
    parser.add_argument("--partitions", type=int, help="Spark tasks to use; the result does not depend on it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    try:
        info = tokenise(
            options.input,
            options.output,
            load(options.tokenizer, options.eos),
            source=options.source,
            text=options.text,
            id=options.id,
            extra=options.also,
            engine=options.engine,
            partitions=options.partitions,
            audit_every=options.audit_every,
            spark=True,
        )
    except CrawlmillError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(" ".join(f"{name}={count}" for name, count in info["totals"].items()))


if __name__ == "__main__":
    from jobs import tokenise as module

    module.main()  # of the module that workers import too
