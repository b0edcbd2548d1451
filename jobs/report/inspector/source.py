"""What a page was made of: its record, read again from the input by file and offset, and shown as source text only."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.places import task_of
from jobs.report.inspector.rows import asked_rows
from jobs.runs import Run, Task
from pipeline.errors import CrawlmillError, InputError
from pipeline.sources.archive import Record, read_archive
from pipeline.sources.charset import decode_text
from pipeline.sources.documents import INFLATED, STREAM, Document
from pipeline.sources.formats import Item, read
from pipeline.sources.http import decode_body
from pipeline.sources.inputs import open_input
from pipeline.sources.options import TREES
from pipeline.tables import document_id

MOST_CHARS = 1_000_000
"""Characters of a source that are shown."""

MOST_BYTES = 4 * MOST_CHARS
"""Bytes of a source that are decoded: as many as these characters can take."""

MOST_STORED = 64 << 20
"""Bytes of a record in the file beyond which it is not read for this."""

SECONDS = 8.0
"""How long is looked for a record that has no place of its own in the file."""

WIDTH = 2_000
"""Characters after which a line goes on in a further row: browsers are slow with longer ones."""

HEADERS = 200
"""Headers that are shown."""


@dataclass(frozen=True)
class Source:
    """A record's source. `problem` says why there is none, or `missing` what there never was; `notes` what is to be known of
    it. `headers` are those of the response; `about` says what the text is."""

    about: str = ""
    text: str = ""
    n_bytes: int = 0
    charset: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None


class Lines(NamedTuple):
    """A text in rows: numbers of its lines, one a row and empty where a row goes on with the line before."""

    numbers: str
    text: str
    n: int


def source(run: Run, row: dict[str, Any]) -> Source:
    """The source of a record, a row of the ledger or of `records`. Never raises for what became of the input."""
    task = task_of(run, row)
    if task is None:
        return Source(problem="The part of the run that read this record is gone, so its input is not known.")
    if row["record_type"] == "damaged":
        return Source(problem="This stretch of the file could not be read, so there is no source to show.")
    if row["warc_length"] > MOST_STORED:
        return Source(problem=f"The record takes {row['warc_length']:,} bytes of the file: too many to be shown here.")
    try:
        item = _find(run, task, row)
    except (CrawlmillError, OSError) as error:
        return Source(problem=_unreadable(row, error))
    except TimeoutError:
        return Source(
            problem="The input is compressed as a whole, and the record too far inside of it to be looked for here."
        )
    if item is None:
        return Source(
            problem=f"{row['warc_file']} has changed since the run: this record does not lie at {row['warc_offset']:,} "
            "any more."
        )
    return _shown(run, row, item)


def lines(text: str) -> Lines:
    """A text with the numbers of its lines beside it, long lines in several rows."""
    numbers, rows = [], []
    whole = text.split("\n")
    for number, line in enumerate(whole, 1):
        for start in range(0, max(1, len(line)), WIDTH):
            numbers.append("" if start else str(number))
            rows.append(line[start : start + WIDTH])
    return Lines("\n".join(numbers), "\n".join(rows), len(whole))


def _unreadable(row: dict[str, Any], error: Exception) -> str:
    words = str(error) if isinstance(error, InputError) else f"{row['warc_file']}: {error}"
    hint = "" if "://" in row["warc_file"] or row["warc_file"].startswith("/") else (
        " The run was given this name relative to the folder that it was started in: start the inspector there."
    )  # fmt: skip
    return f"The input cannot be read any more: {' '.join(words.split())[:500]}.{hint}"


def _find(run: Run, task: Task, row: dict[str, Any]) -> Record | Document | None:
    """The record, if what lies there still is the record. Raises TimeoutError where that takes too long."""
    began = time.monotonic()
    for item in _items(run, task, row):
        if isinstance(item, Record | Document) and item.offset == row["warc_offset"] and _id(item) == row["doc_id"]:
            return item
        if time.monotonic() - began > SECONDS:
            raise TimeoutError
    return None


def _id(item: Record | Document) -> str:
    return document_id(item.record_id, item.url, item.date, item.digest)


def _items(run: Run, task: Task, row: dict[str, Any]) -> Iterator[Item]:
    """What to look at for a record, the likeliest first."""
    inputs = run.recipe.inputs
    most = run.recipe.extraction.max_bytes
    part = task.source()
    placed = not {INFLATED, STREAM} & set(row["flaws"] or ())
    if inputs.format in TREES:
        files = [(path, name) for path, name in run.files(task) if _clean(path) == row["warc_file"]]
        yield from _unless_gone(task.path, read(part, inputs, most, files, run.recipe.gates.code))
        return
    if placed and inputs.format in ("archive", "jsonl"):
        offset, length = row["warc_offset"], row["warc_length"]
        yield from _unless_gone(task.path, read(replace(part, start=offset, end=offset + 1), inputs, most))
        if inputs.format == "archive":
            # Files that are not compressed cannot be read in splits, but cut to the record's bytes as a whole.
            with open_input(task.path, 1 << 18) as stream:
                stream.seek(offset)
                for item in read_archive(BytesIO(stream.read(length)), task.path, max_payload=most + 1):
                    yield replace(item, offset=item.offset + offset)
            return
    yield from _unless_gone(task.path, read(part, inputs, most))


def _unless_gone(path: str, items: Iterator[Item]) -> Iterator[Item]:
    # Reading a run tells of a file that is gone in a row; here it is all that there is to say.
    open_input(path, 1 << 16).close()
    yield from items


def _shown(run: Run, row: dict[str, Any], item: Record | Document) -> Source:
    notes = []
    if isinstance(item, Record):
        headers = [(name, value) for name, value in item.http_headers.items()]
        body = decode_body(item.payload, item.http_headers, run.recipe.extraction.max_bytes)
        content, total = body.content, item.n_payload
        about = "text of a WET record" if item.record_type == "conversion" else "page as the server sent it"
        if len(headers) > HEADERS:
            notes.append(f"{len(headers):,} headers were sent; the first {HEADERS} are shown.")
        if content != item.payload:
            notes.append(f"Stored in {total:,} bytes under the encodings that the headers name; here they are undone.")
        decoded = decode_text(content[:MOST_BYTES], item.http_headers.get("content-type"))
    else:
        headers = []
        content, total = item.content, item.n_content
        about = _ABOUT[item.form]
        content_type = "text/plain; charset=utf-8" if item.form in ("text", "wikitext") else None
        decoded = decode_text(content[:MOST_BYTES], content_type)
    if len(content) > MOST_BYTES or len(decoded.text) > MOST_CHARS:
        notes.append(f"Only the first {min(len(decoded.text), MOST_CHARS):,} characters are shown.")
    if b"\0" in content[:8000]:
        notes.append("These bytes are not text; what can be read of them as text is shown.")
    if row["charset"] not in (None, decoded.charset):
        notes.append(f"The run read it as {row['charset']}; here it is read as {decoded.charset}.")
    text = decoded.text.replace("\r\n", "\n").replace("\r", "\n")[:MOST_CHARS]
    return Source(about, text, total, decoded.charset, headers[:HEADERS], notes)


_ABOUT = {
    "html": "page as the source has it",
    "plain": "text as the source has it",
    "text": "text of the row",
    "file": "text of the file",
    "book": "text of the book's file",
    "code": "source code",
    "wikitext": "wikitext",
}


def _clean(path: str) -> str:
    return path.encode("utf-8", "replace").decode("utf-8")


def endpoint(request: Request) -> Response:
    """`/page/{doc_id}/source`: the source of one record."""
    inspection = request.app.state.inspection
    row, _ = asked_rows(request)
    found = source(inspection.run, row)
    page: Response = inspection.page(
        request, "source.html", row=row, source=found, lines=lines(found.text), here=request.url.query
    )
    return page


routes = [Route("/page/{doc_id}/source", endpoint)]
