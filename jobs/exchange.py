"""Tables that tasks send to each other: the one shuffle under deduplication and curation.

A chain of hops: the first is given a task, every later one a bucket with all that was sent to it. What travels are
Arrow streams; Spark moves bytes and looks into none. Without a session the same chain runs in this process.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jobs import observe
from jobs.measures import Probe
from jobs.session import Watch, slice_count, watched

MOST_PARTITIONS = 20_000
"""Partitions of a shuffle at most; more would cost the driver more than they give."""

Parcel = tuple[int, str, pa.Table]
"""A bucket, the name under which it receives the table, and the table."""

Received = dict[str, pa.Table]
"""All that a bucket was sent, by name. The order of rows is that of arrival, so whoever needs one sorts."""


class Hop(NamedTuple):
    """What each of `n_buckets` buckets does with what it receives; the last hop of a chain sends nothing on.

    Buckets that are `light` share tasks of Spark's, since a task costs more to start than they cost to do.
    """

    n_buckets: int
    act: Callable[[int, Received], Iterable[Parcel] | None]
    light: bool = False


def exchange(
    spark: Any | None,
    name: str,
    tasks: Sequence[Any],
    send: Callable[[Any], Iterable[Parcel]],
    hops: Sequence[Hop],
    *,
    partitions: int | None = None,
    least: int = 1,
    watch: Watch | None = None,
) -> None:
    """Runs `send` on every task and then each hop on every bucket, also on those that were sent nothing.

    Raises the CrawlmillError that a task raised, as itself.
    """
    steps = [f"{name}: send", *(f"{name}: receive{f' {n}' if n > 1 else ''}" for n in range(1, len(hops) + 1))]
    steps = steps if hops else [name]
    probes = observe.probes(spark, steps)
    if spark is None:
        with observe.step(name, steps):
            _in_process(tasks, send, hops, probes)
        return
    slices = slice_count(spark, len(tasks), partitions, least) or 1
    total = slices
    moving = spark.sparkContext.parallelize(tasks, slices)
    moving = moving.mapPartitionsWithIndex(partial(probes[0].over, partial(_packed, send)))
    for hop, probe in zip(hops, probes[1:], strict=True):
        n = min(slice_count(spark, hop.n_buckets, None, least) if hop.light else hop.n_buckets, MOST_PARTITIONS)
        total += n
        moving = moving.partitionBy(n, int).mapPartitionsWithIndex(partial(probe.around, partial(_receive, hop, n)))
    watched(spark, name, lambda: moving.foreach(_nothing_left), watch, total, steps)


def _in_process(
    tasks: Sequence[Any], send: Callable[[Any], Iterable[Parcel]], hops: Sequence[Hop], probes: Sequence[Probe]
) -> None:
    parcels: list[Parcel] = [
        parcel for index, task in enumerate(tasks) for parcel in probes[0].over(send, index, [task])
    ]
    for hop, probe in zip(hops, probes[1:], strict=True):
        held: dict[int, dict[str, list[pa.Table]]] = {}
        for bucket, kind, table in parcels:
            held.setdefault(bucket, {}).setdefault(kind, []).append(table)
        sent: list[Parcel] = []
        for bucket in range(hop.n_buckets):
            act = partial(_act, hop, _joined(held.pop(bucket, {})))
            sent += probe.over(act, bucket, [bucket])
        parcels = sent
    for bucket, kind, _ in parcels:
        _nothing_left((bucket, (kind, b"")))


def _packed(send: Callable[[Any], Iterable[Parcel]], task: Any) -> Iterator[tuple[int, tuple[str, bytes]]]:
    for bucket, kind, table in send(task):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table.combine_chunks())
        yield int(bucket), (kind, sink.getvalue().to_pybytes())


def _receive(
    hop: Hop, n_partitions: int, index: int, arrived: Iterable[tuple[int, tuple[str, bytes]]]
) -> Iterator[tuple[int, tuple[str, bytes]]]:
    """A partition holds one bucket, or a few."""
    held: dict[int, dict[str, list[pa.Table]]] = {}
    for bucket, (kind, stream) in arrived:
        held.setdefault(bucket, {}).setdefault(kind, []).append(pa.ipc.open_stream(stream).read_all())
    for bucket in range(index, hop.n_buckets, n_partitions):
        tables = _joined(held.pop(bucket, {}))
        yield from _packed(partial(_act, hop, tables), bucket)


def _act(hop: Hop, tables: Received, bucket: int) -> Iterable[Parcel]:
    return hop.act(bucket, tables) or ()


def _joined(tables: dict[str, list[pa.Table]]) -> Received:
    return {kind: pa.concat_tables(several).combine_chunks() for kind, several in tables.items()}


def _nothing_left(parcel: Any) -> None:
    raise ValueError(f"the last hop of a chain sent something: {parcel[1][0]}")


def by_bucket(table: pa.Table, buckets: np.ndarray, name: str) -> Iterator[Parcel]:
    """The rows of a table apart by bucket (an integer array of its length). Nothing is sent to a bucket without rows."""
    if len(buckets) == 0:
        return
    ranked = np.argsort(buckets, kind="stable")
    values, starts = np.unique(buckets[ranked], return_index=True)
    rows = table.take(pa.array(ranked)) if len(values) > 1 else table
    for value, start, end in zip(values, starts, np.append(starts[1:], len(buckets)), strict=True):
        yield int(value), name, rows.slice(start, end - start)
