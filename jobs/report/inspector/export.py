"""What a search finds, as a file: JSON lines, CSV or Parquet, made and sent piece by piece."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from jobs.report.inspector.inspection import Inspection
from jobs.report.inspector.searcher import joined
from jobs.report.inspector.selection import TIES, Condition, Selection, literal, read
from pipeline.errors import UsageError

MOST_ROWS = 100_000
"""Rows of a file at most: those with the smallest ids, which are a random sample of the selection."""

MOST_TEXTS = 20_000
"""The same of a file with texts."""

SECONDS = 300.0
"""How long it may take to make a file."""

TEXTS = {"": "no texts", "extracted": "the text as extracted", "curated": "the curated text, as a list of its pieces"}
"""Texts that can go with the rows, by the value of `texts`."""

_BATCH = 1_000

_RUNS = ("=", "+", "-", "@", "\t", "\r")
"""With these begins what spreadsheets take for a formula."""


class Format(NamedTuple):
    """How rows become a file."""

    name: str
    media_type: str
    write: Callable[[pa.RecordBatchReader], Iterator[bytes]]


def _jsonl(reader: pa.RecordBatchReader) -> Iterator[bytes]:
    for batch in reader:
        lines = (json.dumps(row, ensure_ascii=False, default=str) for row in batch.to_pylist())
        yield "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _csv(reader: pa.RecordBatchReader) -> Iterator[bytes]:
    yield _lines([reader.schema.names])
    for batch in reader:
        yield _lines(zip(*(_cells(column) for column in batch.columns), strict=True))


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink).writerows(rows)
    return sink.getvalue().encode("utf-8", "replace")


def _cells(column: pa.Array) -> list[Any]:
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    values: list[Any] = column.to_pylist()
    return values if numbers else [_cell(value) for value in values]


def _cell(value: Any) -> str:
    """A cell that no spreadsheet runs."""
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
    return f"'{text}" if text.startswith(_RUNS) else text


class _Pipe(io.RawIOBase):
    """A file that is only written, and whose bytes are taken out as they come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._parts.append(piece)
        self._at += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        """What was written since the last time."""
        body = b"".join(self._parts)
        self._parts.clear()
        return body


def _parquet(reader: pa.RecordBatchReader) -> Iterator[bytes]:
    pipe = _Pipe()
    with pq.ParquetWriter(pa.PythonFile(pipe, mode="w"), reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield pipe.taken()
    yield pipe.taken()


FORMATS = {
    "jsonl": Format("selection.jsonl", "application/x-ndjson", _jsonl),
    "csv": Format("selection.csv", "text/csv; charset=utf-8", _csv),
    "parquet": Format("selection.parquet", "application/vnd.apache.parquet", _parquet),
}


def export(request: Request) -> Response:
    """`/export?format=…`: the rows of a search as a file, with texts if `texts` says which."""
    inspection: Inspection = request.app.state.inspection
    asked = request.query_params
    made = FORMATS.get(asked.get("format", ""))
    texts = asked.get("texts", "")
    if made is None or texts not in TEXTS:
        raise UsageError(f"format: one of {', '.join(FORMATS)}; texts: {', '.join(t for t in TEXTS if t)} or nothing")
    if not inspection.tables.has_pages:
        raise UsageError("no record has been read yet")
    selection, problems = read(asked, inspection.tables.measures)
    if problems:
        raise UsageError("; ".join(problems))
    query, values = statement(inspection, selection, texts)
    headers = {"content-disposition": f'attachment; filename="{made.name}"'}
    if request.method == "HEAD":
        return Response(media_type=made.media_type, headers=headers)
    return StreamingResponse(_rows(inspection, query, values, made), media_type=made.media_type, headers=headers)


def _rows(inspection: Inspection, query: str, values: dict[str, Any], made: Format) -> Iterator[bytes]:
    with inspection.tables.limited(SECONDS) as cursor:
        reader = cursor.sql(query, params=values).to_arrow_reader(_BATCH)
        yield from made.write(reader)


def statement(inspection: Inspection, selection: Selection, texts: str) -> tuple[str, dict[str, Any]]:
    """The query for a selection's rows, and its parameters."""
    sql, values = joined(inspection.searcher.where(selection)[0])
    ids = ", ".join(TIES)
    base = "ledger" if inspection.finished else "pages"
    # `pages` has columns of its own, that the search needs.
    chosen = f"SELECT {ids} FROM pages WHERE {sql} ORDER BY {ids} LIMIT {MOST_TEXTS if texts else MOST_ROWS}"
    head = f"WITH chosen AS MATERIALIZED ({chosen}) SELECT rows.*"
    rows = f"FROM {base} rows SEMI JOIN chosen USING ({ids})"
    if texts == "extracted" and inspection.tables.has("documents"):
        more = (
            "SELECT doc_id, any_value(text) AS extracted_text FROM documents SEMI JOIN chosen USING (doc_id) "
            "GROUP BY doc_id"
        )
        return f"{head}, extracted_text {rows} LEFT JOIN ({more}) texts USING (doc_id) ORDER BY {ids}", values
    if texts == "curated" and inspection.tables.has("curated"):
        more = (
            "SELECT id, list(text ORDER BY piece) AS curated_text FROM curated "
            "WHERE id IN (SELECT doc_id FROM chosen) GROUP BY id"
        )
        on = "ON texts.id = rows.doc_id AND rows.outcome = 'kept'"
        return f"{head}, curated_text {rows} LEFT JOIN ({more}) texts {on} ORDER BY {ids}", values
    return f"{head} {rows} ORDER BY {ids}", values


def recipe(inspection: Inspection, selection: Selection, made: list[Condition]) -> str:
    """SQL that does the same with DuckDB outside of the inspector; of text, without telling kept pages from others."""
    folder = inspection.run.folder.path
    table = "ledger" if inspection.finished else "records"
    lines = []
    for condition in made:
        if condition.parameters == ("text",):
            source = inspection.run.measures_folder.path
            sql = (
                f"doc_id IN (SELECT doc_id FROM read_parquet({literal(source + '/documents/*.parquet')}) "
                f"WHERE contains(lower(text), lower({literal(selection.text)})))"
            )
        else:
            sql = condition.sql
            for name, value in sorted(condition.values.items(), key=lambda pair: -len(pair[0])):
                sql = sql.replace(f"${name}", literal(value))
        lines.append(sql)
    where = "\n    AND ".join(lines)
    rows = f"SELECT * FROM read_parquet({literal(f'{folder}/{table}/*.parquet')})"
    return f"COPY (\n  {rows}" + (f"\n  WHERE {where}" if where else "") + "\n) TO 'selection.parquet'"


def hidden(selection: Selection) -> list[tuple[str, str]]:
    """The conditions of a selection as fields of a form that nobody sees."""
    given = ((field.name, getattr(selection, field.name)) for field in fields(selection))
    return [(name, value) for name, value in given if value]


routes = [Route("/export", export)]
