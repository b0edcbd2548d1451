"""Job: records of a crawl that a query on its columnar index names, fetched by their byte ranges into WARC files.
`spark-submit jobs/select_records.py --help`, `crawlmill select --help`.

OUT/selection.json                     what was asked for, how far it is, totals
OUT/plan/shard-00000.parquet           the records of a shard, in the order of files and offsets; until they are fetched
OUT/warc/CRAWL-selected-00000-00.warc.gz    the bytes of each record as they are in the crawl
OUT/selection.parquet/shard-00000.parquet   a row a record: where it was, where it is now, or what is wrong with it
OUT/_manifests/select/shard-00000.json      written last

A shard is a run of consecutive archives of the crawl, and depends on the selection alone, as all bytes do.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from jobs.index_query import IndexFile, Query, found, largest
from jobs.runs import code_version
from jobs.session import Watch, for_each, session, watched
from jobs.store import RunFolder, Sink
from pipeline.errors import CrawlmillError, InputError, UsageError
from pipeline.sources.crawl import (
    HTTPS,
    INDEX,
    INDEX_KIND,
    SELECTED,
    SUBSETS,
    Stretch,
    check_name,
    check_record,
    list_path,
    read_list,
    safe,
    stretches,
)
from pipeline.sources.inputs import Wanted, expand
from pipeline.sources.origin import Manners, MissingError, Origin, RangeError, origin

STAGE = "select"

CONNECTIONS = 4
"""Requests at a time, over the whole cluster."""

SHARD_BYTES = 256_000_000
"""Bytes of an archive that is written, about."""

GAP = 64 << 10
"""Bytes between two records that are fetched with them rather than asked around: they take less time than a request."""

LARGEST_RANGE = 16 << 20
"""Bytes asked for at once, but for a larger record."""

LARGEST_RECORD = 256 << 20
"""Bytes of a record at most. Common Crawl cuts pages off at a few MiB."""

TOLERATE = 0.01
"""Share of the records that may turn out to be missing or other than the index says."""

MOST_PARTITIONS = 20_000

_PARQUET = Wanted("Parquet files", ("*.parquet",))

_PLAN = pa.schema([INDEX.field(name) for name in SELECTED])

SELECTION = pa.schema(
    [*_PLAN, pa.field("file", pa.string()), pa.field("offset", pa.int64()), pa.field("problem", pa.string())]
)
"""Columns of selection.parquet: those of the index; the archive in OUT that holds the record and where in it, null where it
could not be had; and then what the problem is."""


@dataclass(frozen=True)
class Source:
    """Where a crawl is: its files below `base`; `index` are the files of its columnar index, where these are elsewhere."""

    crawl: str
    base: str = HTTPS
    index: str | None = None
    subset: str = "warc"

    def absolute(self) -> "Source":
        """The same with folders named wherever one stands: tasks may stand elsewhere."""
        index = self.index if self.index is None or "://" in self.index else str(Path(self.index).absolute())
        base = self.base if "://" in self.base else str(Path(self.base).absolute())
        return replace(self, base=base, index=index)

    def files(self, manners: Manners) -> list[IndexFile]:
        """The files of the index. Raises InputError, UsageError."""
        check_name(self.crawl)
        if self.subset not in SUBSETS:
            raise UsageError(f"no subset {self.subset!r} of the index; there are {', '.join(SUBSETS)}")
        if self.index is not None:
            files = [IndexFile("", file.path) for file in expand([self.index], _PARQUET)]
            names = [f for f in files if "subset=" not in f.path or f"subset={self.subset}/" in f.path]
            if not names:
                raise InputError(f"{self.index}: holds no files of subset={self.subset}")
            return names
        source, name = origin(self.base, manners), list_path(self.crawl, INDEX_KIND)
        try:
            paths = read_list(source.read(name), source.address(name))
        except MissingError as error:
            raise InputError(
                f"{error}; `crawlmill fetch --list` names the crawls, and --index a table elsewhere"
            ) from None
        paths = [path for path in paths if f"/subset={self.subset}/" in path]
        if not paths:
            raise InputError(f"{source.address(name)}: lists no files of subset={self.subset}")
        return [IndexFile(self.base, path) for path in paths]


@dataclass(frozen=True)
class _Fetch:
    """What a task needs to know to fetch a shard."""

    output: str
    source: Source
    manners: Manners
    shard_bytes: int
    gap: int

    def __call__(self, shard: str) -> None:
        """Fetches a shard, unless one could not be and so no more are asked for."""
        folder = RunFolder(self.output)
        if folder.list("_problems") or folder.has(f"{_MANIFESTS}/{shard}.json"):  # as when Spark tries a task twice
            return
        try:
            _fetch_shard(folder, shard, self)
        except InputError as error:
            folder.write_json(f"_problems/{shard}.json", {"problem": str(error)})


def count(
    source: Source,
    query: Query,
    *,
    manners: Manners | None = None,
    connections: int = CONNECTIONS,
    most: int = 20,
    master: str | None = None,
) -> dict[str, Any]:
    """What a selection would be: records, bytes and archives in all, and by language, domain and media type those with
    most. Nothing but the index is read. Raises UsageError, InputError."""
    from pyspark.sql import functions as F  # noqa: N812

    manners, source = manners or Manners(), source.absolute()
    spark = session(STAGE, master)
    frame = _found(spark, source, query, manners, connections)[0].persist()
    try:
        totals = frame.agg(
            F.count(F.lit(1)).alias("records"),
            F.sum("warc_record_length").alias("bytes"),
            F.count_distinct("warc_filename").alias("archives"),
        )
        total = watched(spark, "index", lambda: totals.first().asDict(), None, 1)
        return {
            "crawl": source.crawl,
            **{name: value or 0 for name, value in total.items()},
            "languages": largest(frame, F.split_part("content_languages", F.lit(","), F.lit(1)), most),
            "domains": largest(frame, F.col("url_host_registered_domain"), most),
            "media_types": largest(frame, F.col("content_mime_detected"), most),
        }
    finally:
        frame.unpersist()


def _found(spark: Any, source: Source, query: Query, manners: Manners, connections: int) -> tuple[Any, list[IndexFile]]:
    files = source.files(manners)
    remote = any("://" in file.base + file.path and not file.base.startswith("file://") for file in files)
    constants = {"crawl": source.crawl, "subset": source.subset}
    return found(spark, files, constants, query, manners, connections if remote else None), files


def select(
    source: Source,
    query: Query,
    output: str,
    *,
    manners: Manners | None = None,
    connections: int = CONNECTIONS,
    tolerate: float = TOLERATE,
    shard_bytes: int = SHARD_BYTES,
    gap: int = GAP,
    master: str | None = None,
    planned: Callable[[dict[str, Any]], None] | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Fetches the records that a query names into OUT; returns what selection.json says. Run again it goes on where it
    stopped. At most `connections` requests are made at a time, over the whole cluster.

    Raises UsageError where OUT holds something else, InputError where the crawl cannot be read, or, at the end, where
    more than the share `tolerate` of the records could not be had.
    """
    manners, source = manners or Manners(), source.absolute()
    check_name(source.crawl)
    _check_query(query)
    folder = RunFolder(output)
    info = _opened(folder, source, query, shard_bytes)
    if not info["done"]:
        with folder.lock():
            folder.sweep()
            folder.remove_tree("_problems")
            folder.write_json("selection.json", info)
            if not info["planned"]:
                _plan(session(STAGE, master), folder, info, source, query, manners, connections)
            if planned:
                planned(info)
            left = [shard for shard in _shards(info) if f"{_MANIFESTS}/{shard}.json" not in folder.list(_MANIFESTS)]
            if left:
                task = _Fetch(folder.absolute(), source, manners, shard_bytes, gap)
                for_each(session(STAGE, master), left, task, STAGE, connections, watch=watch)
            _finish(folder, info)
    totals = info["totals"]
    failed = sum(totals["problems"].values())
    if failed > tolerate * totals["selected"]:
        most = max(totals["problems"].items(), key=lambda item: (item[1], item[0]))[0]
        raise InputError(
            f"{failed} of {totals['selected']} records could not be had, most of them: {most}; the others are in {output}, "
            f"and column `problem` of selection.parquet says what is wrong with each"
        )
    return info


def _check_query(query: Query) -> None:
    if query.sample is not None and not 0 < query.sample <= 1:
        raise UsageError(f"a sample of {query.sample:g} is none; give a share above 0 and up to 1")
    if query.limit is not None and query.limit < 1:
        raise UsageError(f"a limit of {query.limit} leaves nothing; give 1 or more")


_MANIFESTS = f"_manifests/{STAGE}"


def _shards(info: dict[str, Any]) -> list[str]:
    return [f"shard-{number:05d}" for number in range(info["shards"])]


def _opened(folder: RunFolder, source: Source, query: Query, shard_bytes: int) -> dict[str, Any]:
    asked = {
        "crawlmill": code_version(),
        "source": asdict(source),
        "query": asdict(query),
        "shard_bytes": shard_bytes,
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    new = {**asked, "digest": digest, "planned": False, "done": False, "shards": 0, "totals": None}
    held = folder.read_json("selection.json")
    if held is None:
        if not folder.is_empty():
            raise UsageError(f"output {folder.path} is not empty and holds no selection; choose a new folder")
        return new
    if not held["planned"]:  # begun and failed before anything was chosen, such as for a condition that is none
        return new
    if held["digest"] != digest:
        differs = [name for name in asked if json.dumps(held[name]) != json.dumps(asked[name])]
        raise UsageError(
            f"output {folder.path} holds another selection ({', '.join(differs)} differs); choose a new folder"
        )
    return held


def _plan(
    spark: Any,
    folder: RunFolder,
    info: dict[str, Any],
    source: Source,
    query: Query,
    manners: Manners,
    connections: int,
) -> None:
    """Writes the records of each shard."""
    from pyspark import StorageLevel
    from pyspark.sql import functions as F  # noqa: N812

    folder.remove_tree("plan")
    frame, files = _found(spark, source, query, manners, connections)
    # Microseconds and no times: Python would take these for local ones.
    frame = frame.withColumn("fetch_time", F.unix_micros("fetch_time")).persist(StorageLevel.DISK_ONLY)
    try:
        sums = frame.groupBy("warc_filename").agg(F.sum("warc_record_length").alias("bytes"))
        # A line for each archive of a crawl, of which there are a hundred thousand.
        sizes = watched(spark, "index", lambda: [tuple(row) for row in sums.coalesce(1).toLocalIterator()], None, 1)
        shard_of, n = _assigned(sizes, info["shard_bytes"])
        if n:
            lookup = spark.sparkContext.broadcast(shard_of)
            parts = min(n, MOST_PARTITIONS)
            rows = frame.rdd.map(partial(_addressed, lookup)).partitionBy(parts, partial(_modulo, parts))
            write = partial(_write_plan, folder.absolute(), n, parts)
            watched(spark, "plan", lambda: rows.mapPartitionsWithIndex(write).count(), None, parts)
    finally:
        frame.unpersist()
    info |= {"planned": True, "shards": n, "index_files": len(files)}
    info["bytes"] = sum(size or 0 for _, size in sizes)
    info["archives"] = len(sizes)
    folder.write_json("selection.json", info)


def _assigned(sizes: Iterable[tuple[str, int | None]], shard_bytes: int) -> tuple[dict[str, int], int]:
    """The shard of each archive, and how many shards there are: consecutive archives, until the bytes are enough."""
    shard_of: dict[str, int] = {}
    number, filled = -1, shard_bytes
    for name, size in sorted(sizes):
        if filled >= shard_bytes:
            number, filled = number + 1, 0
        shard_of[name] = number
        filled += max(0, size or 0)
    return shard_of, number + 1


def _addressed(lookup: Any, row: Any) -> tuple[int, tuple[Any, ...]]:
    return lookup.value[row.warc_filename], tuple(row)


def _modulo(n: int, shard: int) -> int:
    return shard % n


def _write_plan(
    output: str, n: int, parts: int, index: int, rows: Iterable[tuple[int, tuple[Any, ...]]]
) -> Iterator[int]:
    held: dict[int, list[tuple[Any, ...]]] = {}
    for shard, row in rows:
        held.setdefault(shard, []).append(row)
    folder = RunFolder(output)
    for shard in range(index, n, parts):
        columns = list(zip(*held.pop(shard, []), strict=True)) or [()] * len(SELECTED)
        table = pa.table([_column(values, field) for values, field in zip(columns, _PLAN, strict=True)], schema=_PLAN)
        folder.write_table(f"plan/shard-{shard:05d}.parquet", _once(table))
        yield shard


def _column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).cast(field.type)
    return pa.array(values, field.type)


def _once(table: pa.Table) -> pa.Table:
    """The rows by archive and offset; of several for one place the first by all columns."""
    places = ("warc_filename", "warc_record_offset")
    others = [name for name in SELECTED if name not in places]
    table = table.sort_by([(name, "ascending") for name in (*places, *others)])
    files, offsets = (table.column(name).to_pylist() for name in places)
    new = [i == 0 or (files[i], offsets[i]) != (files[i - 1], offsets[i - 1]) for i in range(len(files))]
    return table.filter(pa.array(new, pa.bool_()))


class _Archives:
    """The archives of a shard, the next one begun when one is full. A context manager: what is not whole does not appear."""

    def __init__(self, folder: RunFolder, stem: str, full: int):
        self._folder, self._stem, self._full = folder, stem, full
        self._stack = ExitStack()
        self._sink: Sink | None = None
        self._name = ""
        self.written: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "_Archives":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if error[0] is None:
            self._close()

    def add(self, data: bytes) -> tuple[str, int]:
        """Writes a record; returns name and offset."""
        if self._sink is None or self._sink.tell() >= self._full:
            self._stack.close()
            self._close()
            self._name = f"{self._stem}-{len(self.written):02d}.warc.gz"
            self._sink = self._stack.enter_context(self._folder.create(self._name))
        offset = self._sink.tell()
        self._sink.write(data)
        return self._name, offset

    def _close(self) -> None:
        if self._sink is not None:
            self.written[self._name] = self._sink.facts
            self._sink = None


class _Place(NamedTuple):
    file: str | None
    offset: int | None
    problem: str | None


def _fetch_shard(folder: RunFolder, shard: str, job: _Fetch) -> None:
    """Fetches the records of a shard, writes them and what became of each."""
    source = origin(job.source.base, job.manners)
    rows = folder.read_table(f"plan/{shard}.parquet")
    plan = rows.to_pylist()
    stem = f"warc/{job.source.crawl.replace('/', '-')}-selected-{shard.removeprefix('shard-')}"
    places: list[_Place] = []
    n_bytes = 0
    with _Archives(folder, stem, job.shard_bytes) as archives:
        at = 0
        while at < len(plan):
            name = plan[at]["warc_filename"]
            end = next((i for i in range(at, len(plan)) if plan[i]["warc_filename"] != name), len(plan))
            for row, (data, problem) in zip(plan[at:end], _records(source, plan[at:end], job.gap), strict=True):
                if data is None or problem is not None:
                    places.append(_Place(None, None, problem))
                    continue
                file, offset = archives.add(data)
                n_bytes += row["warc_record_length"]
                places.append(_Place(file, offset, None))
            at = end
    for column in _Place._fields:
        field = SELECTION.field(column)
        rows = rows.append_column(field, pa.array([getattr(place, column) for place in places], field.type))
    written = folder.write_table(f"selection.parquet/{shard}.parquet", rows)
    problems = Counter(place.problem.partition(":")[0] for place in places if place.problem is not None)
    facts = {"selected": len(plan), "bytes": n_bytes, "problems": dict(sorted(problems.items()))}
    folder.write_json(f"{_MANIFESTS}/{shard}.json", {**facts, "archives": archives.written, "selection": written})


def _records(source: Origin, rows: list[dict[str, Any]], gap: int) -> Iterator[tuple[bytes | None, str | None]]:
    """The bytes of each record of one archive, or what is wrong with it. Raises InputError where it cannot be read now."""
    name = rows[0]["warc_filename"]
    problems = [_impossible(row) for row in rows]
    asked = [i for i, problem in enumerate(problems) if problem is None]
    extents = [(rows[i]["warc_record_offset"], rows[i]["warc_record_length"]) for i in asked]
    gone: str | None = None
    made: Iterator[tuple[bytes | None, str | None]] = iter(())
    if asked:
        made = _fetched(source, name, [rows[i] for i in asked], stretches(extents, gap, LARGEST_RANGE))
    for problem in problems:
        if problem is not None:
            yield None, problem
        elif gone is not None:
            yield None, gone
        else:
            try:
                yield next(made)
            except MissingError:
                gone = "missing: there is no such archive"
                yield None, gone


def _impossible(row: dict[str, Any]) -> str | None:
    offset, length = row["warc_record_offset"], row["warc_record_length"]
    if not safe(row["warc_filename"]):
        return "no place: the name is no path of a crawl"
    if offset is None or length is None or offset < 0 or length <= 0:
        return f"no place: offset {offset}, length {length}"
    return f"no place: {length} bytes are no page" if length > LARGEST_RECORD else None


def _fetched(
    source: Origin, name: str, rows: list[dict[str, Any]], wanted: list[Stretch]
) -> Iterator[tuple[bytes | None, str | None]]:
    for stretch in wanted:
        try:
            data = source.read_range(name, stretch.start, stretch.end)
        except RangeError:
            # One of them may point behind the end.
            for number in stretch.rows:
                yield _alone(source, name, rows[number])
            continue
        for number in stretch.rows:
            row = rows[number]
            start = row["warc_record_offset"] - stretch.start
            record = data[start : start + row["warc_record_length"]]
            if check_record(record, row["url"], row["content_digest"]) is None:
                yield record, None
            else:
                yield _alone(source, name, row)  # once more, in case it was spoiled on its way


def _alone(source: Origin, name: str, row: dict[str, Any]) -> tuple[bytes | None, str | None]:
    start = row["warc_record_offset"]
    try:
        record = source.read_range(name, start, start + row["warc_record_length"])
    except RangeError as error:
        return None, f"no bytes: {error}"
    problem = check_record(record, row["url"], row["content_digest"])
    return (record, None) if problem is None else (None, problem)


def _finish(folder: RunFolder, info: dict[str, Any]) -> None:
    """Adds up what the shards are. Raises InputError where some could not be fetched."""
    made: list[dict[str, Any]] = [folder.read_json(name) or {} for name in folder.list(_MANIFESTS, ".json")]
    if len(made) < info["shards"]:
        why = [(folder.read_json(name) or {}).get("problem") for name in folder.list("_problems", ".json")]
        raise InputError(
            f"{info['shards'] - len(made)} of {info['shards']} shards are not fetched: {why[0] if why else 'unknown'} "
            "(run the same command again to go on)"
        )
    whole = {name for shard in made for name in shard["archives"]}
    for name in folder.list("warc"):
        if name not in whole:  # of an attempt that was killed, when fewer records could be had now
            folder.remove(name)
    problems: Counter[str] = Counter()
    for shard in made:
        problems.update(shard["problems"])
    info["totals"] = {
        "selected": sum(shard["selected"] for shard in made),
        "bytes": sum(shard["bytes"] for shard in made),
        "archives": sum(len(shard["archives"]) for shard in made),
        "problems": dict(sorted(problems.items())),
    }
    info["done"] = True
    folder.write_json("selection.json", info)
    folder.remove_tree("plan")


def add_query(parser: argparse.ArgumentParser) -> None:
    """The options of a query, for a job that is submitted."""
    parser.add_argument("--where", help="condition on columns of the index, in Spark's SQL")
    for name in ("language", "mime", "domain", "host"):
        parser.add_argument(f"--{name}", action="append", default=[], help=f"{name} of the page; may be repeated")
    parser.add_argument("--status", action="append", default=[], type=int, help="HTTP status; may be repeated")
    parser.add_argument("--sample", type=float, help="share of the records, drawn by --seed")
    parser.add_argument("--limit", type=int, help="records at most, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws others")


def main(arguments: list[str] | None = None) -> None:
    """The command line of a job that is submitted to Spark; ends the process as `crawlmill select` does."""
    parser = argparse.ArgumentParser(
        prog="jobs/select_records.py",
        description="Fetches just the records of a crawl that a query on its columnar index names.",
        epilog="example: spark-submit jobs/select_records.py CC-MAIN-2025-26 --language isl --output isl",
    )
    parser.add_argument("crawl", help="such as CC-MAIN-2025-26")
    add_query(parser)
    parser.add_argument("--output", required=True, help="folder for the records: a path or an s3:// address")
    parser.add_argument("--base", default=HTTPS, help="what is laid out as https://data.commoncrawl.org/ is")
    parser.add_argument("--index", help="files of the columnar index, where they are elsewhere: path, glob, folder")
    parser.add_argument("--subset", default="warc", help=" or ".join(SUBSETS))
    parser.add_argument(
        "--connections", type=int, default=CONNECTIONS, help="requests at a time, over the whole cluster"
    )
    parser.add_argument("--contact", help="address or page that requests name as yours")
    parser.add_argument(
        "--tolerate", type=float, default=TOLERATE, help="share of records that may be missing or wrong"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    query = Query(
        where=options.where,
        languages=tuple(sorted(options.language)),
        mimes=tuple(sorted(options.mime)),
        domains=tuple(sorted(options.domain)),
        hosts=tuple(sorted(options.host)),
        statuses=tuple(sorted(options.status)),
        sample=options.sample,
        limit=options.limit,
        seed=options.seed,
    )
    try:
        info = select(
            Source(options.crawl, options.base, options.index, options.subset),
            query,
            options.output,
            manners=Manners(options.contact),
            connections=options.connections,
            tolerate=options.tolerate,
        )
    except CrawlmillError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    totals = info["totals"]
    print(f"selected={totals['selected']} bytes={totals['bytes']} archives={totals['archives']} "
          f"problems={sum(totals['problems'].values())}")  # fmt: skip


if __name__ == "__main__":
    from jobs import select_records as module

    module.main()  # of the module that workers import too
