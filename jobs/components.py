"""Connected components over a run folder's edges: alternating large-star and small-star on Spark DataFrames.

An edge is kept as (hi, lo) with lo ≤ hi. With least(x) the smallest neighbour of x that is below x, else x itself:
large-star moves (hi, lo) to (hi, least(lo)); small-star moves (hi, lo) to (lo, least(hi)), or leaves it where lo is
least(hi). Both keep components as they are, and what no longer changes is a set of stars around the smallest nodes.
Kiveris et al., "Connected Components in MapReduce and Beyond", SoCC 2014.

Nothing of the data comes to the driver but counts, and the minima of hot nodes (a few a partition at most) on their way
to all executors. PySpark's Arrow functions need pandas; here columns pass between Python and the JVM as arrays of longs.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.session import slice_count, watched
from jobs.store import RunFolder
from pipeline.dedup.components import components
from pipeline.errors import CrawlmillError

IN_ONE_TASK_EDGES = 5_000_000
"""Up to so many edges one task does it all, in about a gigabyte."""

MOST_ITERATIONS = 50
"""Star steps settle in O(log² n) rounds, in practice about ten; more means that something is wrong."""

EDGES_PER_PARTITION = 1_000_000
"""Edges of a shuffle partition where `partitions` is not given: some ten megabytes."""

HOT_SHARE = 4
"""A node is hot if it alone has more than this part of a partition's edges; its minimum is then broadcast instead of
its edges shuffled to one place. So no partition grows by more than a few such parts, and there are few hot nodes."""

LEAST_HOT = 10_000
"""Fewer edges than this are never worth a broadcast."""

CHUNK = 16_384
"""Edges that pass between Python and the JVM at a time."""

MOST_SHARD_TASKS = 20_000
"""Tasks that write labels at most; beyond, each writes several shards."""

_TOP = np.uint64(1 << 63)
_SIGN = -(1 << 63)


def connected_components(
    spark: Any | None,
    folder: RunFolder,
    edges: str,
    labels: str,
    n_shards: int,
    partitions: int | None = None,
    work: str = "dedup/components",
    in_one_task: int | None = None,
) -> list[dict[str, Any]]:
    """Labels every node of `edges/*.parquet` (a, b: uint64) with the smallest of its component; returns the log.

    Writes `labels/shard-00000.parquet` and so on to `n_shards`: node and label, uint64, sorted by node; a node's shard
    is `(node >> 32) * n_shards >> 32`. The bytes depend on the edge set alone. `work` holds checkpoints while it runs,
    from which a killed job goes on, and `components.json` after: counts of edges read, nodes and components, and the
    log, for each iteration its number, the edges after it, how many it moved, seconds, and how it was done.

    Up to `in_one_task` edges (by default IN_ONE_TASK_EDGES) are done by one task; without `spark` by this process.
    Raises CrawlmillError where iterations do not settle, StorageError where a file cannot be read or written.
    """
    limit = IN_ONE_TASK_EDGES if in_one_task is None else in_one_task
    files = folder.list(edges, ".parquet")
    _sweep_labels(folder, labels, n_shards)
    solve = partial(_solve, folder.path, labels, n_shards)
    if spark is None:
        started = time.monotonic()
        read, nodes, found = solve(files)
        log = [_entry(1, read, 0, started, "in process")]
        return _finish(folder, work, read, nodes, found, log)
    read, mixed = _totals(spark, "components: survey", files, partial(_survey, folder.path), (0, 0))
    digest = f"{read}:{mixed & (2**64 - 1):016x}"
    log = _resume(folder, work, digest)
    if log:
        files = folder.list(_checkpoint(work, len(log)), ".parquet")
    with _settings(spark, partitions or _partition_count(spark, read)) as width:
        while not log or log[-1]["changed"]:
            held = log[-1]["edges"] if log else read
            if not held or held <= limit:
                started = time.monotonic()
                _, nodes, found = _totals(spark, "components", [files], solve, (0, 0, 0))
                log.append(_entry(len(log) + 1, held, 0, started, "one task"))
                return _finish(folder, work, read, nodes, found, log)
            if len(log) >= MOST_ITERATIONS:
                raise CrawlmillError(
                    f"components did not settle in {MOST_ITERATIONS} iterations "
                    f"({log[-1]['changed']} of {held} edges changed in the last one)"
                )
            files = _iterate(spark, folder, work, digest, files, held, width, log)
        nodes, found = _label(spark, folder, files, labels, n_shards, log[-1]["edges"], width)
    return _finish(folder, work, read, nodes, found, log)


def _entry(iteration: int, edges: int, changed: int, started: float, how: str) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 3)
    return {"iteration": iteration, "edges": edges, "changed": changed, "seconds": seconds, "how": how}


def _finish(
    folder: RunFolder, work: str, edges: int, nodes: int, found: int, log: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    folder.write_json(f"{work}/components.json", {"edges": edges, "nodes": nodes, "components": found, "log": log})
    _sweep(folder, work, keep=0)
    return log


def _sweep_labels(folder: RunFolder, labels: str, n_shards: int) -> None:
    """Removes shards of an earlier, larger count."""
    names = {_shard_name(labels, shard) for shard in range(n_shards)}
    for name in folder.list(labels, ".parquet"):
        if name not in names:
            folder.remove(name)


def _shard_name(labels: str, shard: int) -> str:
    return f"{labels}/shard-{shard:05d}.parquet"


# Checkpoints: work/iteration-07/part-*.parquet, and work/iteration-07.json written when all of them are there.


def _checkpoint(work: str, iteration: int) -> str:
    return f"{work}/iteration-{iteration:02d}"


def _resume(folder: RunFolder, work: str, digest: str) -> list[dict[str, Any]]:
    """The log up to the last whole iteration over the same edges, [] where there is none; all others are removed."""
    log: list[dict[str, Any]] = []
    for name in folder.list(work, ".json"):
        state = folder.read_json(name) if "/iteration-" in name else None
        if state and state["digest"] == digest:
            parts = folder.list(_checkpoint(work, len(state["log"])), ".parquet")
            if len(parts) == state["parts"]:
                log = state["log"]
    _sweep(folder, work, keep=len(log))
    return log


def _sweep(folder: RunFolder, work: str, keep: int) -> None:
    """Removes every checkpoint but that of iteration `keep`. First what makes it count, then what it counts."""
    kept = _checkpoint(work, keep)
    for name in folder.list(work):
        if name.startswith(f"{work}/iteration-") and name.removesuffix(".json") != kept:
            if name.endswith(".json"):
                folder.remove(name)
                name = name.removesuffix(".json")
            for part in folder.list(name):
                folder.remove(part)


# In Python: reading and writing, by tasks.


def _read(folder: RunFolder, name: str) -> tuple[np.ndarray, np.ndarray]:
    table = folder.read_table(name, ["a", "b"])
    return tuple(table.column(end).to_numpy().astype(np.uint64, copy=False) for end in ("a", "b"))  # type: ignore


def _survey(path: str, name: str) -> tuple[int, int]:
    """How many edges a file has and the sum of their digests, which no order of rows or files changes."""
    a, b = _read(RunFolder(path), name)
    digests = _mixed(np.maximum(a, b) + _mixed(np.minimum(a, b)))
    return len(a), int(np.sum(digests, dtype=np.uint64))


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _solve(path: str, labels: str, n_shards: int, files: Sequence[str]) -> tuple[int, int, int]:
    """All of it at once. Returns how many edges were read, of how many nodes, in how many components."""
    folder = RunFolder(path)
    read = list(folder.each(partial(_read, folder), files))
    empty = np.empty(0, dtype=np.uint64)
    a, b = (np.concatenate([empty, *(ends[side] for ends in read)]) for side in (0, 1))
    nodes, label = components(a, b)
    edges = np.searchsorted(_shard_of(nodes, n_shards), np.arange(n_shards + 1, dtype=np.uint64))

    def write(shard: int) -> None:
        mine = slice(edges[shard], edges[shard + 1])
        _write_shard(folder, labels, shard, nodes[mine], label[mine])

    for _ in folder.each(write, range(n_shards)):
        pass
    return len(a), len(nodes), int(np.count_nonzero(nodes == label))


def _shard_of(nodes: np.ndarray, n_shards: int) -> np.ndarray:
    return ((nodes >> np.uint64(32)) * np.uint64(n_shards)) >> np.uint64(32)


def _write_shard(folder: RunFolder, labels: str, shard: int, nodes: np.ndarray, label: np.ndarray) -> None:
    folder.write_table(_shard_name(labels, shard), pa.table({"node": nodes, "label": label}))


def _signed(x: np.ndarray) -> array:
    """Spark's longs have a sign: flipping the top bit keeps the order. (Of the codes for 64 bits the JVM knows "l".)"""
    return array("l", (x ^ _TOP).tobytes())


def _unsigned(x: Sequence[int]) -> np.ndarray:
    return np.array(x, dtype=np.int64).view(np.uint64) ^ _TOP


def _edge_arrays(path: str, name: str) -> Iterator[tuple[array, array]]:
    a, b = _read(RunFolder(path), name)
    hi, lo = np.maximum(a, b), np.minimum(a, b)
    for start in range(0, len(hi), CHUNK):
        yield _signed(hi[start : start + CHUNK]), _signed(lo[start : start + CHUNK])


def _write_part(path: str, target: str, index: int, rows: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """Writes a partition of a checkpoint; yields one part, its edges, and how many were moved there."""
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    moves = 0
    for hi, lo, moved in rows:
        ends.append((_unsigned(hi), _unsigned(lo)))
        moves += moved
    a, b = (np.concatenate([np.empty(0, dtype=np.uint64), *(end[side] for end in ends)]) for side in (0, 1))
    RunFolder(path).write_table(f"{target}/part-{index:05d}.parquet", pa.table({"a": a, "b": b}))
    yield 1, len(a), moves


def _keyed(row: Any) -> tuple[int, tuple[bytes, bytes]]:
    return row.shard, (_unsigned(row.nodes).tobytes(), _unsigned(row.labels).tobytes())


def _write_labels(
    path: str, labels: str, n_shards: int, tasks: int, index: int, rows: Iterable[tuple[int, tuple[bytes, bytes]]]
) -> Iterator[tuple[int, int]]:
    """Writes the shards of one task, empty ones too; yields how many nodes and components they hold."""
    held: dict[int, list[tuple[bytes, bytes]]] = {}
    for shard, columns in rows:
        held.setdefault(shard, []).append(columns)
    for shard in range(index, n_shards, tasks):
        chunks = held.pop(shard, [])
        nodes, label = (np.frombuffer(b"".join(c[side] for c in chunks), dtype=np.uint64) for side in (0, 1))
        order = np.argsort(nodes)
        _write_shard(RunFolder(path), labels, shard, nodes[order], label[order])
        yield len(nodes), int(np.count_nonzero(nodes == label))


# On Spark.


def _added(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _totals(
    spark: Any, name: str, tasks: Sequence[Any], function: Callable[[Any], tuple[int, ...]], zero: tuple[int, ...]
) -> tuple[int, ...]:
    """The sums of what `function` counts in every task."""
    if not tasks:
        return zero
    counted = spark.sparkContext.parallelize(tasks, slice_count(spark, len(tasks), None, 1)).map(function)
    return watched(spark, name, lambda: counted.treeReduce(_added), None, 0)


def _partition_count(spark: Any, edges: int) -> int:
    return max(2 * spark.sparkContext.defaultParallelism, -(-edges // EDGES_PER_PARTITION))


@contextmanager
def _settings(spark: Any, width: int) -> Iterator[int]:
    """Shuffles of `width` partitions, which adaptive execution may make fewer, for the time of this job."""
    wanted = {"spark.sql.shuffle.partitions": str(width), "spark.sql.adaptive.enabled": "true"}
    before = {key: spark.conf.get(key) for key in wanted}
    for key, value in wanted.items():
        spark.conf.set(key, value)
    try:
        yield width
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)


def _edges(spark: Any, folder: RunFolder, files: list[str], width: int) -> Any:
    """The edges of the files as a DataFrame of two longs, hi and lo, in about `width` partitions of like size."""
    from pyspark.sql import functions as F  # noqa: N812  (what all of Spark's own documentation calls it)

    slices = slice_count(spark, len(files), None, width)
    arrays = spark.sparkContext.parallelize(files, slices).flatMap(partial(_edge_arrays, folder.path))
    frame = spark.createDataFrame(arrays, "hi array<bigint>, lo array<bigint>", verifySchema=False)
    pairs = frame.select(F.inline(F.arrays_zip("hi", "lo")))
    # A few files would keep a few cores busy.
    return pairs if len(files) >= width else pairs.repartition(width, "hi", "lo")


def _beside(spark: Any, name: str, edges: Any, end: str, least: Any, hot: int) -> Any:
    """`edges` with a column least: the minimum of the node at `end`, null where it has none.

    `least` has node, least and n, the number of edges with the node at `end`; it is computed here, and should be kept.
    """
    from pyspark.sql import functions as F  # noqa: N812

    counted = least.agg(F.count_if(F.col("n") > hot))
    some_hot = watched(spark, name, lambda: counted.head()[0], None, 0)
    kept = [F.col(column) for column in edges.columns]
    key, found = F.col(end), F.col("least")
    if some_hot:
        few = least.where(F.col("n") > hot).select("node", F.col("least").alias("broadcast"))
        edges = edges.join(F.broadcast(few), key == few.node, "left").withColumnRenamed("node", "hot")
        # The edges of a hot node go anywhere: whatever they may meet there, they have their minimum already.
        is_hot = F.col("hot").isNotNull()
        key = F.when(is_hot, F.xxhash64("hi", "lo")).otherwise(key)
        found = F.when(is_hot, F.col("broadcast")).otherwise(found)
    # Of the others only nodes that have a minimum, and on a side to which edges come.
    known = least.where(F.col("n").between(1, hot) & F.col("least").isNotNull()).select("node", "least")
    joined = edges.withColumn("key", key)
    return joined.join(known, joined.key == known.node, "left").select(*kept, found.alias("least"))


def _iterate(
    spark: Any,
    folder: RunFolder,
    work: str,
    digest: str,
    files: list[str],
    held: int,
    width: int,
    log: list[dict[str, Any]],
) -> list[str]:
    """One large-star and one small-star, written as a checkpoint and noted in `log`; returns its files.

    Every move makes hi + lo of an edge smaller, so an edge set that comes out as it went in is one of which no edge
    moved: counting moves tells exactly whether the stars are done.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as F  # noqa: N812

    started = time.monotonic()
    iteration = len(log) + 1
    name = f"components: iteration {iteration}"
    target = _checkpoint(work, iteration)
    hot = max(LEAST_HOT, held // (HOT_SHARE * width))
    hi, lo, least = F.col("hi"), F.col("lo"), F.col("least")
    with _kept(StorageLevel.MEMORY_AND_DISK) as keep:
        edges = keep(_edges(spark, folder, files, width))
        as_hi = F.struct(hi.alias("node"), lo.alias("least"), F.lit(0).alias("n"))
        as_lo = F.struct(lo.alias("node"), F.lit(None).cast("bigint").alias("least"), F.lit(1).alias("n"))
        ends = edges.select(F.inline(F.array(as_hi, as_lo)))
        minima = keep(ends.groupBy("node").agg(F.min("least").alias("least"), F.sum("n").alias("n")).where("n > 0"))
        large = _beside(spark, name, edges, "lo", minima, hot)
        large = keep(large.select(hi, F.coalesce(least, lo).alias("lo"), (lo > F.coalesce(least, lo)).alias("moved")))

        minima = keep(large.groupBy(hi.alias("node")).agg(F.min("lo").alias("least"), F.count("*").alias("n")))
        small = _beside(spark, name, large, "hi", minima, hot)
        stays = lo == least
        small = small.select(
            F.when(stays, hi).otherwise(lo).alias("hi"), least.alias("lo"), (F.col("moved") | ~stays).alias("moved")
        )
        # Buckets of a chunk at most, in which edges then pass to Python as arrays; one shuffle does for both groupings.
        # (Their number is a power of two so that most iterations are one compiled plan.)
        mask = (1 << max(32 * width, held // CHUNK).bit_length()) - 1
        bucket = F.xxhash64("hi", "lo").bitwiseAND(F.lit(mask))
        once = (
            small.withColumn("bucket", bucket)
            .repartition(width, "bucket")
            .groupBy("bucket", "hi", "lo")
            .agg(F.count_if("moved").alias("moves"))
        )
        packed = once.groupBy("bucket").agg(
            F.collect_list("hi").alias("his"), F.collect_list("lo").alias("los"), F.sum("moves").alias("moves")
        )
        written = packed.drop("bucket").rdd.mapPartitionsWithIndex(partial(_write_part, folder.path, target))
        parts, count, moves = watched(spark, name, lambda: written.treeReduce(_added), None, 0)
    log.append(_entry(iteration, count, moves, started, "star steps"))
    folder.write_json(f"{target}.json", {"digest": digest, "parts": parts, "log": log})
    _sweep(folder, work, keep=iteration)
    return folder.list(target, ".parquet")


@contextmanager
def _kept(level: Any) -> Iterator[Callable[[Any], Any]]:
    """Lends `keep(frame)`: what it was given is held by the executors until the end."""
    frames: list[Any] = []

    def keep(frame: Any) -> Any:
        frames.append(frame.persist(level))
        return frames[-1]

    try:
        yield keep
    finally:
        for frame in reversed(frames):
            frame.unpersist()


def _label(
    spark: Any, folder: RunFolder, files: list[str], labels: str, n_shards: int, held: int, width: int
) -> tuple[int, int]:
    """Writes stars as labels, each shard by one task; returns how many nodes and components there are."""
    from pyspark.sql import functions as F  # noqa: N812

    stars = _edges(spark, folder, files, width)
    roots = stars.select(F.col("lo").alias("node"), F.col("lo").alias("label")).distinct()
    every = stars.where("hi != lo").select(F.col("hi").alias("node"), F.col("lo").alias("label")).union(roots)
    high = F.shiftrightunsigned(F.col("node").bitwiseXOR(F.lit(_SIGN)), 32)
    shard = F.shiftrightunsigned(high * F.lit(n_shards), 32).cast("int")
    chunk = F.pmod(F.xxhash64("node"), F.lit(1 + 2 * held // (CHUNK * n_shards)))
    packed = every.groupBy(shard.alias("shard"), chunk.alias("chunk")).agg(
        F.collect_list("node").alias("nodes"), F.collect_list("label").alias("labels")
    )
    tasks = min(n_shards, MOST_SHARD_TASKS)
    write = partial(_write_labels, folder.path, labels, n_shards, tasks)
    written = packed.rdd.map(_keyed).partitionBy(tasks, int).mapPartitionsWithIndex(write)
    nodes, found = watched(spark, "components: labels", lambda: written.treeReduce(_added), None, 0)
    return nodes, found
