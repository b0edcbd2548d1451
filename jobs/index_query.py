"""Spark SQL over the columnar index of a crawl, wherever it lies.

Tasks read the index with pyarrow, the columns that the query names and the rows that the simple parts of its condition leave
(these are what Spark's own optimizer makes of it); Spark SQL then decides. So nothing but Python needs to reach the store
that holds the index, and no rows travel that a plain comparison rules out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, NamedTuple

import pyarrow as pa

from jobs.session import slice_count
from pipeline.errors import InputError, UsageError
from pipeline.sources.crawl import INDEX, SELECTED
from pipeline.sources.crawl_index import Condition, partition, read_index
from pipeline.sources.origin import Manners, origin

DRAW = "_draw"
"""The column by which records are drawn and put in order: a hash of the seed, the URL and the place of the record."""

_TYPES = {pa.string(): "string", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint"}


@dataclass(frozen=True)
class Query:
    """What is asked of the index: a condition in Spark's SQL, and lists that a column must be in one of. `languages` are
    those that a page has most text in. Of what is left a `sample` (share) is drawn, and at most `limit` records."""

    where: str | None = None
    languages: tuple[str, ...] = ()
    mimes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    sample: float | None = None
    limit: int | None = None
    seed: int = 0


class IndexFile(NamedTuple):
    """A file of the index: `base` is what its path is below, and "" where the path is a whole address."""

    base: str
    path: str


@dataclass(frozen=True)
class _Reading:
    """How a task reads files of the index; its result are rows, times as microseconds."""

    columns: tuple[str, ...]
    condition: Condition | None
    constants: dict[str, str]
    manners: Manners

    def __call__(self, file: IndexFile) -> Iterator[tuple[Any, ...]]:
        address = file.path if not file.base else origin(file.base, self.manners).address(file.path)
        of = {**self.constants, **partition("/" + file.path)}
        try:
            if file.base:
                source, name = origin(file.base, self.manners), file.path
            else:
                folder, _, name = file.path.rpartition("/")
                source = origin(folder or ".", self.manners)
            with source.open(name) as opened:
                for table in read_index(opened, address, of, self.columns, self.condition):
                    yield from zip(*(_values(column) for column in table.columns), strict=True)
        except InputError as error:
            raise InputError(str(error)) from error  # of this very kind, which the driver knows


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return column.to_pylist()


def found(
    spark: Any,
    files: Sequence[IndexFile],
    constants: dict[str, str],
    query: Query,
    manners: Manners,
    connections: int | None = None,
) -> Any:
    """A DataFrame of the records that the query asks for, columns SELECTED, in no order. `constants` are crawl and subset
    where paths do not say. Raises UsageError for a query that Spark does not understand."""
    from pyspark.sql import functions as F  # noqa: N812 (as everyone calls it)

    condition = _condition(query)
    columns, pushed = _analysed(spark, condition)
    reading = _Reading(columns, pushed, constants, manners)
    slices = slice_count(spark, len(files), connections, 1) or 1
    rows = spark.sparkContext.parallelize(list(files), slices).flatMap(reading)
    frame = _frame(spark, rows, columns)
    if condition is not None:
        frame = frame.where(condition)
    frame = frame.where(F.col("warc_filename").isNotNull()).select(*SELECTED)
    if query.sample is None and query.limit is None:
        return frame
    key = F.concat_ws("\n", F.lit(str(query.seed)), "url", "warc_filename", F.col("warc_record_offset").cast("string"))
    frame = frame.withColumn(DRAW, F.sha2(key, 256))
    if query.sample is not None and query.sample < 1:
        frame = frame.where(F.col(DRAW) < f"{int(query.sample * 2**64):016x}")
    if query.limit is not None:
        # Sorted and cut, not kept in a heap of that many rows, where there are many.
        spark.conf.set("spark.sql.execution.topKSortFallbackThreshold", "100000")
        frame = frame.orderBy(DRAW, "warc_filename", "warc_record_offset").limit(query.limit)
    return frame.drop(DRAW)


def _condition(query: Query) -> Any | None:
    from pyspark.sql import functions as F  # noqa: N812

    parts = []
    if query.where is not None and query.where.strip():
        parts.append(F.expr(f"({query.where}\n)"))
    lists = {
        "content_mime_detected": query.mimes,
        "url_host_registered_domain": query.domains,
        "url_host_name": query.hosts,
        "fetch_status": query.statuses,
    }
    parts += [F.col(column).isin(*values) for column, values in lists.items() if values]
    if query.languages:
        column = F.col("content_languages")
        parts.append(reduce(lambda a, b: a | b, ((column == c) | column.startswith(f"{c},") for c in query.languages)))
    return reduce(lambda a, b: a & b, parts) if parts else None


def _frame(spark: Any, rows: Any, columns: Sequence[str]) -> Any:
    from pyspark.sql import functions as F  # noqa: N812

    kinds = ", ".join(f"{name} {_TYPES.get(INDEX.field(name).type, 'bigint')}" for name in columns)
    frame = spark.createDataFrame(rows, kinds, verifySchema=False)
    for name in columns:
        if pa.types.is_timestamp(INDEX.field(name).type):
            frame = frame.withColumn(name, F.timestamp_micros(name))
    return frame


def _analysed(spark: Any, condition: Any | None) -> tuple[tuple[str, ...], Condition | None]:
    """The columns to read, and as much of the condition as pyarrow can evaluate."""
    from pyspark.errors import PySparkException
    from pyspark.sql.types import IntegerType, LongType, ShortType, StringType, StructField, StructType, TimestampType

    if condition is None:
        return SELECTED, None
    kinds = {pa.string(): StringType(), pa.int16(): ShortType(), pa.int32(): IntegerType(), pa.int64(): LongType()}
    schema = StructType([StructField(f.name, kinds.get(f.type, TimestampType())) for f in INDEX])
    try:
        empty = spark.createDataFrame(spark.sparkContext.parallelize([], 1), schema, verifySchema=False)
        plan = empty.where(condition)._jdf.queryExecution()
        analysed, optimised = plan.analyzed(), plan.optimizedPlan()
    except PySparkException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UsageError(f"the condition cannot be used: {lines[0][:400]}") from error
    if analysed.getClass().getSimpleName() != "Filter" or analysed.child().getClass().getSimpleName() != "LogicalRDD":
        raise UsageError("the condition is more than one on the columns of the index (is there a subquery in it?)")
    if not analysed.condition().deterministic():
        raise UsageError("the condition gives other records each time; draw them with --sample or --limit, and --seed")
    named = {attribute.name() for attribute in _all(analysed.condition().references().iterator())}
    columns = (*SELECTED, *(name for name in INDEX.names if name in named and name not in SELECTED))
    filtered = optimised.getClass().getSimpleName() == "Filter"
    return columns, _conjunction(optimised.condition()) if filtered else None


def _all(iterator: Any) -> Iterator[Any]:
    while iterator.hasNext():
        yield iterator.next()


def _children(node: Any) -> list[Any]:
    children = node.children()
    return [children.apply(i) for i in range(children.size())]


def _conjunction(node: Any) -> Condition | None:
    """What can be told of the parts of a condition that must all be met."""
    if node.getClass().getSimpleName() != "And":
        return _translated(node)
    parts = [part for part in map(_conjunction, _children(node)) if part is not None]
    return reduce(lambda a, b: ("and", a, b), parts) if parts else None


_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARISONS = {
    "EqualTo": "=", "LessThan": "<", "LessThanOrEqual": "<=", "GreaterThan": ">", "GreaterThanOrEqual": ">=",
    "StartsWith": "starts", "EndsWith": "ends", "Contains": "contains",
}  # fmt: skip


def _translated(node: Any) -> Condition | None:
    """The same condition for pyarrow, or None where that has no words for it."""
    kind, children = node.getClass().getSimpleName(), _children(node)
    if kind in ("And", "Or"):
        left, right = (_translated(child) for child in children)
        return None if left is None or right is None else (kind.lower(), left, right)
    if kind == "Not":
        inner = _translated(children[0])
        return None if inner is None else ("not", inner)
    column = _column(children[0]) if children else None
    if kind in ("IsNull", "IsNotNull") and column:
        return ("null", column) if kind == "IsNull" else ("not", ("null", column))
    if kind in _COMPARISONS and len(children) == 2:
        how, other = _COMPARISONS[kind], children[1]
        if column is None and how in _MIRRORED:
            how, column, other = _MIRRORED[how], _column(children[1]), children[0]
        value = _literal(other, column)
        return None if column is None or value is None else (how, column, value)
    if kind in ("In", "InSet") and column:
        kinds = children[1:] if kind == "In" else []
        values = [_literal(child, column) for child in kinds]
        if kind == "InSet":
            values = [_python(value, column) for value in _all(node.hset().iterator())]
        return ("in", column, values) if values and None not in values else None
    return None


def _column(node: Any) -> str | None:
    return node.name() if node.getClass().getSimpleName() == "AttributeReference" else None


def _literal(node: Any, column: str | None) -> Any | None:
    if column is None or node.getClass().getSimpleName() != "Literal":
        return None
    return _python(node.value(), column)


def _python(value: Any, column: str) -> Any | None:
    """A value of Spark's as one of the column's type; None for what is none."""
    kind = INDEX.field(column).type
    if value is None:
        return None
    if pa.types.is_string(kind):
        return value.toString() if hasattr(value, "toString") else str(value)
    if not isinstance(value, int):
        return None
    if pa.types.is_timestamp(kind):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
    return value


def largest(frame: Any, column: Any, n: int) -> list[dict[str, Any]]:
    """The `n` values of a column that have most records: name, records, bytes."""
    from pyspark.sql import functions as F  # noqa: N812

    grouped = frame.groupBy(column.alias("name")).agg(
        F.count(F.lit(1)).alias("records"), F.sum("warc_record_length").alias("bytes")
    )
    return [row.asDict() for row in grouped.orderBy(F.desc("records"), F.asc_nulls_first("name")).take(n)]
