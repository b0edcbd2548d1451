"""What the tables weigh that tasks send each other: what each begins with, and what a row adds."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.exchange import _CODEC, _packed, _unpacked
from pipeline.annotation import measured_schema
from pipeline.curation import decided_schema
from pipeline.dedup.repeats import OCCURRENCES
from pipeline.dedup.survivors import ENTRIES
from pipeline.recipe import Recipe
from pipeline.scores import score_columns
from pipeline.tables import DUPLICATES

ROWS, TIMES = 200, 100
KNOWN = ("decided",)
"""Tables that travel without their schema (`Hop.schemas`)."""

_BYTES_A_SKETCH = 112 * 4 + 4 * 500
"""A signature of 112 hashes and the n-grams of a page of some 500 words."""


def tables(recipe: Recipe) -> dict[str, dict[str, float]]:
    """By kind: bytes that a table of one row has beyond its row, bytes of a row among many, and milliseconds of processor
    time to pack and to read a table of one row."""
    decided = decided_schema(pa.schema([*measured_schema(recipe), *score_columns(recipe.score)]))
    key = pa.schema([("key", pa.uint64()), ("node", pa.uint64())])
    sketch = pa.schema([("text_hi", pa.uint64()), ("text_lo", pa.uint64()), ("sketch", pa.binary())])
    kinds = {
        "decided": decided,
        "lines": OCCURRENCES,
        "pages": ENTRIES,
        "bands": key,
        "sketches": sketch,
        "verdicts": DUPLICATES,
    }
    return {name: _measured(schema, name in KNOWN) for name, schema in kinds.items()}


def _measured(schema: pa.Schema, known: bool) -> dict[str, float]:
    rng = np.random.default_rng(0)
    table = pa.table([_column(field, rng) for field in schema], schema=schema)
    schemas = {"rows": schema} if known else {}
    sent = partial(_sent, schemas)
    many, one = (len(sent(some)[1]) for some in (table, table.slice(0, 1)))
    row = (many - one) / (ROWS - 1)
    began = time.process_time()
    for i in range(TIMES):
        size, body = sent(table.slice(i, 1))
        _unpacked(_CODEC.decompress(body, size), schemas.get("rows"))
    return {
        "table_bytes": round(one - row),
        "row_bytes": round(row),
        "ms": round((time.process_time() - began) / TIMES * 1e3, 3),
    }


def _sent(schemas: Mapping[str, pa.Schema], table: pa.Table) -> tuple[int, bytes]:
    (_, (_, size, body)) = next(_packed(lambda _: [(0, "rows", table)], schemas, None))
    return size, body


def _column(field: Any, rng: np.random.Generator) -> pa.Array:
    kind = field.type
    if pa.types.is_integer(kind):
        return pa.array(
            rng.integers(0, 2**62, ROWS, dtype=np.int64) % (2 ** min(62, kind.bit_width - 1)), pa.int64()
        ).cast(kind)
    if pa.types.is_floating(kind):
        return pa.array(rng.random(ROWS), pa.float64()).cast(kind)
    if pa.types.is_string(kind):
        return pa.array([rng.bytes(16).hex() for _ in range(ROWS)], kind)
    if pa.types.is_binary(kind):
        return pa.array([rng.bytes(_BYTES_A_SKETCH) for _ in range(ROWS)], kind)
    return pa.nulls(ROWS, kind)
