"""Reading the columnar index of a crawl: only the columns and row groups that a condition calls for.

A condition is a nested tuple, so that it can travel: ("and", a, b), ("or", a, b), ("not", a), ("null", column),
("=", column, value) and the like with < <= > >=, ("in", column, values), ("starts", column, text), ("ends", …) and
("contains", …). As in SQL, what is compared with null is neither true nor false, and is left out.
"""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.sources.crawl import INDEX

Condition = tuple[Any, ...]

_ROW = "_row"

_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_MATCHED = {"starts": pc.starts_with, "ends": pc.ends_with, "contains": pc.match_substring}


def expression(condition: Condition) -> pc.Expression:
    """The condition as pyarrow evaluates it. Raises ValueError for what is none."""
    kind, *rest = condition
    if kind in ("and", "or"):
        left, right = (expression(part) for part in rest)
        return left & right if kind == "and" else left | right
    if kind == "not":
        return ~expression(rest[0])
    if kind == "null":
        return ds.field(rest[0]).is_null()
    column, value = rest
    field, of = ds.field(column), INDEX.field(column).type
    if kind == "in":
        return field.isin(pa.array(value, of))
    if kind in _MATCHED:
        return _MATCHED[kind](field, value)
    if kind in _COMPARED:
        return _COMPARED[kind](field, pa.scalar(value, of))
    raise ValueError(f"no condition of kind {kind!r}")


def partition(path: str) -> dict[str, str]:
    """Crawl and subset of a file of the index, as far as its path says."""
    return dict(re.findall(r"(?:^|/)(crawl|subset)=([^/]+)(?=/)", path))


def columns_of(condition: Condition) -> set[str]:
    """The columns that a condition looks at."""
    kind, *rest = condition
    if kind in ("and", "or", "not"):
        return set().union(*(columns_of(part) for part in rest))
    return {rest[0]}


def possible(condition: Condition, bounds: Callable[[str], tuple[Any, Any] | None]) -> bool:
    """Whether a row between these bounds (least and greatest value of a column; None where that is not known) can meet a
    condition."""
    kind, *rest = condition
    if kind == "and":
        return all(possible(part, bounds) for part in rest)
    if kind == "or":
        return any(possible(part, bounds) for part in rest)
    known = bounds(rest[0]) if kind in ("=", "<", "<=", ">", ">=", "in", "starts") else None
    if known is None:
        return True
    (least, most), value = known, rest[1]
    if kind == "in":
        return any(least <= one <= most for one in value)
    if kind == "starts":
        return bool(least[: len(value)] <= value <= most)
    return bool({"=": least <= value <= most, "<": least < value, "<=": least <= value}.get(
        kind, most > value or (kind == ">=" and most == value)
    ))  # fmt: skip


def read_index(
    file: BinaryIO, name: str, of: dict[str, str], columns: Sequence[str], condition: Condition | None
) -> Iterator[pa.Table]:
    """Rows of a file of the index that meet the condition, as far as it is given, in the order of the file, a table for a
    row group. `of` holds the values of partition columns. A column that the file does not have is null.

    The columns of the condition are read first, and the others where some row meets it. Raises InputError.
    """
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False, coerce_int96_timestamp_unit="us")
        looked_at = sorted(columns_of(condition)) if condition is not None else []
        rest = [column for column in columns if column not in looked_at]
        for group in range(parquet.num_row_groups):
            if condition is None:
                yield _rows(parquet, group, columns, of)
                continue
            if not possible(condition, partial(_bounds, parquet, group, of)):
                continue
            seen = _rows(parquet, group, looked_at, of)
            numbers = pa.array(range(seen.num_rows), pa.int64())
            seen = seen.append_column(_ROW, numbers).filter(expression(condition))
            if seen.num_rows:
                others = _rows(parquet, group, rest, of).take(seen.column(_ROW)) if rest else seen.select([])
                wanted = [others.column(c) if c in rest else seen.column(c) for c in columns]
                yield pa.table(wanted, names=list(columns))
    except (pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read as a columnar index: {' '.join(str(error).split())[:300]}") from error


def _rows(parquet: pq.ParquetFile, group: int, columns: Sequence[str], of: dict[str, str]) -> pa.Table:
    there = [column for column in columns if column in parquet.schema_arrow.names and column not in of]
    read = parquet.read_row_group(group, columns=there, use_threads=False)
    n = parquet.metadata.row_group(group).num_rows
    arrays = []
    for column in columns:
        kind = INDEX.field(column).type
        if column in of:
            arrays.append(pa.repeat(pa.scalar(of[column], kind), n))
        elif column not in there:
            arrays.append(pa.nulls(n, kind))
        elif pa.types.is_timestamp(kind):
            # Without a time zone they are in UTC, too.
            arrays.append(read.column(column).cast(pa.timestamp("us")).cast(pa.int64()).cast(kind))
        else:
            arrays.append(read.column(column).cast(kind))
    return pa.table(arrays, schema=pa.schema([INDEX.field(column) for column in columns]))


def _bounds(parquet: pq.ParquetFile, group: int, of: dict[str, str], column: str) -> tuple[Any, Any] | None:
    if column in of:
        return of[column], of[column]
    at = parquet.schema_arrow.get_field_index(column)
    if at < 0:
        return None
    held = parquet.metadata.row_group(group).column(at).statistics
    if held is None or not held.has_min_max or not isinstance(held.min, str | int):
        return None
    return held.min, held.max
