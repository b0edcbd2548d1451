"""Rows with named fields to documents: JSON lines, plain or compressed, and Parquet.

What cannot be read costs itself: a line that is no JSON is a damaged stretch, a row without text an error of that row, and
a damaged row group the rows of that group.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.sources.archive import Damage, Skipped
from pipeline.sources.documents import INFLATED, Document, Form, Inflated, moment, sha1, unreadable
from pipeline.sources.members import Source
from pipeline.sources.options import Fields

ESCAPED = 6
"""Bytes of JSON that one byte of text can take, as \\u0041 for A."""

BATCH_ROWS = 64
"""Rows of Parquet that are held at a time."""

_MISSING = object()

Item = Document | Damage | Skipped


def read_jsonl(
    stream: BinaryIO, path: str, start: int, end: int | None, fields: Fields, max_bytes: int
) -> Iterator[Item]:
    """The rows whose lines begin in [start, end) of a file of JSON lines; all of them, for `start` 0, where the file is
    compressed: then offsets count in the inflated stream.

    Of a text no more than `max_bytes` + 1 bytes are kept. Raises InputError where reading stops.
    """
    source = Source(stream)
    if source.size == 0:
        return
    try:
        inflated = Inflated(source, path)
    except InputError as error:
        if start == 0:
            yield unreadable(path, source, error)
        return
    if inflated.packed:
        if start == 0:
            yield from _lines(path, inflated, 0, None, fields, max_bytes)
        return
    if start:
        start = _next_line(source, start)
        inflated = Inflated(source, path, start)
    if end is None or start < end:
        yield from _lines(path, inflated, start, end, fields, max_bytes)


def _next_line(source: Source, at: int) -> int:
    """Where the first line begins at or after `at`."""
    at -= 1
    while data := source.read(at, 1 << 16):
        found = data.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(data)
    return source.size


def _lines(path: str, inflated: Inflated, at: int, end: int | None, fields: Fields, max_bytes: int) -> Iterator[Item]:
    longest = ESCAPED * max_bytes + (1 << 20)
    flaws = (INFLATED,) if inflated.packed else ()
    buffer = bytearray()
    n_beyond = 0  # bytes of an endless line that were let go
    skipping = False  # whether the rest of a line is to be left out of which the start is lost
    for data in inflated:
        if inflated.broken:
            # What a damaged stretch cuts belongs to it, and so does the rest of the line behind it.
            inflated.broken = False
            at += len(buffer) + n_beyond
            buffer.clear()
            n_beyond, skipping = 0, True
            yield from inflated.drain()
            continue
        position = 0
        while (found := data.find(b"\n", position)) >= 0:
            buffer += data[position : found + 1]
            position = found + 1
            if skipping:
                at, skipping = at + len(buffer), False
                buffer.clear()
                continue
            length = len(buffer) + n_beyond
            yield from _line(path, at, length, bytes(buffer), n_beyond, fields, max_bytes, flaws)
            at += length
            buffer.clear()
            n_beyond = 0
            if end is not None and at >= end:
                return
        buffer += data[position:]
        if len(buffer) > longest:
            n_beyond += len(buffer) - longest
            del buffer[longest:]
    if buffer and not skipping:
        yield from _line(path, at, len(buffer) + n_beyond, bytes(buffer), n_beyond, fields, max_bytes, flaws)
    yield from inflated.drain()


def _line(
    path: str, at: int, length: int, line: bytes, n_beyond: int, fields: Fields, max_bytes: int, flaws: tuple[str, ...]
) -> Iterator[Item]:
    if n_beyond:
        # Longer than any text that would be read, whatever stands in it.
        yield Document(path, at, length, "row", "text", b"", length, sha1(line), flaws=(*flaws, "row_not_parsed"))
        return
    if at == 0:
        line = line.removeprefix(b"\xef\xbb\xbf")
    line = line.strip()
    if not line:
        yield Skipped("padding", at, length, bool(flaws), path)
        return
    try:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text, flaws = line.decode("utf-8", "replace"), (*flaws, "undecodable_bytes")
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        yield Damage(path, at, length, f"a line is not JSON: {why}", bool(flaws and INFLATED in flaws))
        return
    if not isinstance(row, dict):
        reason = f"the line holds no object with named fields but {_called(row)}"
        yield Document(path, at, length, "row", "text", b"", 0, sha1(line), error=reason, flaws=flaws)
        return
    yield document(row, path, at, length, fields, max_bytes, flaws)


def read_parquet(
    stream: BinaryIO, path: str, start: int, end: int | None, fields: Fields, max_bytes: int
) -> Iterator[Item]:
    """The rows of the row groups that begin in [start, end) of a Parquet file. Their offset is the number of the row in the
    file, their length 1; those of a damaged row group are bytes.

    Of a text no more than `max_bytes` + 1 bytes are kept. Raises InputError where reading stops.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    if size == 0:
        return
    try:
        file = pq.ParquetFile(pa.PythonFile(stream, mode="r"))
        columns = _columns(path, file.schema_arrow, fields)
    except (pa.ArrowException, OSError, InputError) as error:
        if start == 0:
            why = str(error) if isinstance(error, InputError) else f"{path}: is no whole Parquet file: {error}"
            yield Damage(path, 0, size, " ".join(why.split())[:500])
        return
    about = file.metadata
    row = 0
    for group in range(about.num_row_groups):
        facts = about.row_group(group)
        begins = min((_begin(facts.column(i)) for i in range(facts.num_columns)), default=0)
        if start <= begins and (end is None or begins < end):
            try:
                for number, values in enumerate(_rows(file, group, columns)):
                    yield document(values, path, row + number, 1, fields, max_bytes, ())
            except (pa.ArrowException, OSError) as error:
                length = sum(facts.column(i).total_compressed_size for i in range(facts.num_columns))
                why = " ".join(str(error).split())[:200]
                yield Damage(path, begins, length, f"row group {group} is damaged: {why}")
        row += facts.num_rows
    if about.num_rows == 0 and start == 0:
        yield Skipped("padding", 0, size, False, path)


def _begin(column: Any) -> int:
    offsets = (column.dictionary_page_offset, column.data_page_offset)
    return min(offset for offset in offsets if offset is not None)


def _columns(path: str, schema: pa.Schema, fields: Fields) -> list[str]:
    """The columns to read. Raises InputError where none holds the text."""
    names = set(schema.names)
    found = [name for name in fields.of_body() if _top(name, names)]
    if not found:
        wanted = ", ".join(fields.of_body())
        raise InputError(
            f"{path}: holds no column {wanted}; its columns: {', '.join(schema.names)[:300]}; name the one with the text in "
            "the recipe, inputs.fields.text"
        )
    top = _top(found[0], names)
    kind = schema.field(top).type
    if top == found[0] and not _is_text(kind):
        raise InputError(f"{path}: column {top} holds {kind}, not text; name another in the recipe, inputs.fields.text")
    others = (
        *fields.of_body()[fields.of_body().index(found[0]) :],
        *fields.id,
        *fields.url,
        *fields.date,
        *fields.title,
    )
    return sorted({name for other in others if (name := _top(other, names))})


def _top(name: str, names: set[str]) -> str:
    """The column that a name, or the first step of it, means; '' for none."""
    if name in names:
        return name
    first = name.partition(".")[0]
    return first if first in names and first != name else ""


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    named = (
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.binary_view(),
        pa.null(),
    )
    return kind in named


def _rows(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
        names = batch.schema.names
        # As bytes, since what a file calls text need not be UTF-8.
        values = [_as_bytes(column).to_pylist() for column in batch.columns]
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))


def _as_bytes(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type):
        return column.cast(pa.large_binary())
    if pa.types.is_string(column.type):
        return column.cast(pa.binary())
    return column


def document(
    row: Mapping[str, Any], path: str, at: int, length: int, fields: Fields, max_bytes: int, flaws: tuple[str, ...]
) -> Document:
    """The document of a row; one with an error where the text is missing or is none."""
    found = [str_of(_field(row, names)) for names in (fields.id, fields.url, fields.title)]
    record_id, url, title = (None if value is None else value.strip() or None for value in found)
    when = None
    try:
        when = moment(_text(_field(row, fields.date)))
    except (ValueError, TypeError):
        flaws = (*flaws, "date_malformed")
    body = _field(row, fields.of_body())
    content, problem = b"", None
    if body is _MISSING:
        named = ", ".join(fields.of_body())
        problem = f"the row has no field {named} (its fields: {', '.join(map(str, row))[:200] or 'none'})"
    elif isinstance(body, str):
        # A lone surrogate is no character: its bytes are not UTF-8, which is noticed where they are decoded.
        content = body.encode("utf-8", "surrogatepass")
    elif isinstance(body, bytes):
        content = body
    elif body is not None:
        problem = f"the field that should hold the text holds {_called(body)}"
    digest = sha1(content if problem is None else json.dumps(row, default=str).encode())
    form: Form = "html" if fields.html else "text"
    return Document(
        path, at, length, "row", form, content[: max_bytes + 1], len(content), digest, record_id, url, when, title,
        error=problem, flaws=flaws,
    )  # fmt: skip


def _field(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value under the first of the names that the row has."""
    for name in names:
        if name in row:
            return row[name]
        value: Any = row
        for step in name.split("."):
            value = value.get(step, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is not _MISSING:
            return value
    return _MISSING


def _text(value: Any) -> Any:
    if value is _MISSING:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def str_of(value: Any) -> str | None:
    """A name or number as text; None for what is neither."""
    value = _text(value)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _called(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
