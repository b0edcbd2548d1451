"""What tasks send to each other arrives whole, and a little of many columns is little."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from jobs import exchange
from jobs.exchange import Hop, Parcel, Received, _packed, _receive, by_bucket
from pipeline.signals.base import field

WIDE = pa.schema(
    [
        field("doc_id", pa.string(), "key", "hex"),
        field("texts", pa.list_(pa.string()), "text in pieces"),
        *(field(f"signal_{i}", pa.float32(), "a measure that is described at some length", "0..1") for i in range(200)),
    ]
)


def rows(n: int) -> pa.Table:
    ids = [f"{i:032x}" for i in range(n)]
    numbers = [[None if i % 7 == 3 else math.nan if i % 7 == 4 else i / k for i in range(n)] for k in range(1, 201)]
    texts = [[f"text {i}", "ü"] if i % 3 else None for i in range(n)]
    columns = [ids, texts, *numbers]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, WIDE, strict=True)], schema=WIDE)


def arrived(hop: Hop, table: pa.Table, n_tasks: int) -> list[str]:
    """The rows that a hop's buckets receive of tasks that each send a stretch of a table, and what was sent in bytes."""
    found: list[pa.Table] = []

    def send(task: int) -> Iterator[Parcel]:
        part = table.slice(task * table.num_rows // n_tasks, table.num_rows // n_tasks)
        yield from by_bucket(part, np.arange(part.num_rows) % hop.n_buckets, "rows")
        yield 0, "other", pa.table({"task": [task]})

    def act(bucket: int, received: Received) -> Iterable[Parcel]:
        assert (received["other"].num_rows == n_tasks) if bucket == 0 else ("other" not in received)
        found.append(received["rows"])
        return ()

    sent = [packed for task in range(n_tasks) for packed in _packed(send, hop.schemas, task)]
    acting = hop._replace(act=act)
    for partition in range(3):
        of_partition = (packed for packed in sent if packed[0] % 3 == partition)
        assert list(_receive(acting, {}, 3, partition, of_partition)) == []
    assert all(part.schema.equals(WIDE, check_metadata=True) for part in found)
    assert all(len(column.chunks) == 1 for part in found for column in part.columns)
    arrived.bytes = sum(len(body) for _, (kind, _, body) in sent if kind == "rows")  # type: ignore[attr-defined]
    return sorted(map(str, pa.concat_tables(found).to_pylist()))


@pytest.mark.parametrize("together", [1, 3, 256])
def test_tables_arrive_as_they_were_sent(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(exchange, "TOGETHER", together)
    table = rows(120)
    sizes = []
    for schemas in ({}, {"rows": WIDE}, {"rows": WIDE.remove_metadata()}, {"rows": pa.schema([])}):
        hop = Hop(8, lambda *_: (), schemas=schemas)
        assert arrived(hop, table, 12) == sorted(map(str, table.to_pylist()))
        sizes.append(arrived.bytes)  # type: ignore[attr-defined]
    assert sizes[1] < sizes[0] / 2 and sizes[3] == sizes[0]
    assert sizes[1] / (12 * 8) < 5000  # bytes for a row or two of 202 columns
