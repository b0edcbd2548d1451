"""Tables that tasks send to each other: the one shuffle under deduplication and curation.

A chain of hops: the first is given a task, every later one a bucket with all that was sent to it. What travels are
Arrow streams; Spark moves bytes and looks into none. Without a session the same chain runs in this process.

A bucket is held whole by the worker that acts on it, so buckets have to be small: ranges of hashes, enough of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jobs import observe
from jobs.measures import Probe
from jobs.session import Watch, slice_count, watched

MOST_PARTITIONS = 20_000
"""Partitions of a shuffle at most; more would cost the driver more than they give."""

TOGETHER = 256
"""Parcels that are put together as they arrive. A table of a row and 200 columns takes fifty times the room of its bytes."""

Parcel = tuple[int, str, pa.Table]
"""A bucket, the name under which it receives the table, and the table."""

Received = dict[str, pa.Table]
"""All that a bucket was sent, by name. The order of rows is that of arrival, so whoever needs one sorts."""


class Hop(NamedTuple):
    """What each of `n_buckets` buckets does with what it receives; the last hop of a chain sends nothing on.

    Buckets that are `light` share tasks of Spark's, since a task costs more to start than they cost to do. Tables whose
    schema is in `schemas`, by the name under which they are received, travel without it: one of many columns is larger than
    the few rows that a part of a crawl has for one of very many buckets.
    """

    n_buckets: int
    act: Callable[[int, Received], Iterable[Parcel] | None]
    light: bool = False
    schemas: Mapping[str, pa.Schema] = {}


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
    moving = moving.mapPartitionsWithIndex(partial(probes[0].over, partial(_packed, send, _schemas(hops, 0))))
    for number, (hop, probe) in enumerate(zip(hops, probes[1:], strict=True), 1):
        n = min(slice_count(spark, hop.n_buckets, None, least) if hop.light else hop.n_buckets, MOST_PARTITIONS)
        total += n
        moving = moving.partitionBy(n, int).mapPartitionsWithIndex(
            partial(probe.around, partial(_receive, hop, _schemas(hops, number), n))
        )
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


Packed = tuple[int, tuple[str, int, bytes]]
"""A bucket, and the name, size and compressed bytes of what it is sent."""

_CODEC = pa.Codec("zstd", 1)


def _schemas(hops: Sequence[Hop], number: int) -> Mapping[str, pa.Schema]:
    """What the hop of that number knows of what it receives."""
    return hops[number].schemas if number < len(hops) else {}


def _packed(send: Callable[[Any], Iterable[Parcel]], schemas: Mapping[str, pa.Schema], task: Any) -> Iterator[Packed]:
    for bucket, kind, table in send(task):
        body = _serialised(table.combine_chunks(), schemas.get(kind))
        # Compressed as a whole: Arrow's own way, buffer by buffer, makes a small table of many columns larger.
        yield int(bucket), (kind, body.size, _CODEC.compress(body, asbytes=True))


def _serialised(table: pa.Table, known: pa.Schema | None) -> pa.Buffer:
    batches = table.to_batches()
    if known is not None and len(batches) == 1 and table.schema.equals(known):
        return batches[0].serialize()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _unpacked(body: pa.Buffer, known: pa.Schema | None) -> pa.Table:
    """A stream begins with its schema, a batch without one does not."""
    message = pa.ipc.read_message(body)
    if message.type == "record batch" and known is not None:
        return pa.Table.from_batches([pa.ipc.read_record_batch(message, known)])
    return pa.ipc.open_stream(body).read_all()


@dataclass
class _Arriving:
    """What arrives for one bucket under one name."""

    together: list[pa.Table] = field(default_factory=list)
    last: list[pa.Table] = field(default_factory=list)

    def add(self, table: pa.Table) -> None:
        """Takes the next one."""
        self.last.append(table)
        if len(self.last) == TOGETHER:
            self.together.append(pa.concat_tables(self.last).combine_chunks())
            self.last = []

    def tables(self) -> list[pa.Table]:
        """All of it."""
        return self.together + self.last


def _receive(
    hop: Hop, onward: Mapping[str, pa.Schema], n_partitions: int, index: int, arrived: Iterable[Packed]
) -> Iterator[Packed]:
    """A partition holds one bucket, or a few."""
    held: dict[int, dict[str, _Arriving]] = {}
    for bucket, (kind, size, body) in arrived:
        table = _unpacked(_CODEC.decompress(body, size), hop.schemas.get(kind))
        held.setdefault(bucket, {}).setdefault(kind, _Arriving()).add(table)
    for bucket in range(index, hop.n_buckets, n_partitions):
        tables = _joined({kind: arriving.tables() for kind, arriving in held.pop(bucket, {}).items()})
        yield from _packed(partial(_act, hop, tables), onward, bucket)


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
