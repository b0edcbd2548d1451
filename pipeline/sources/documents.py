"""A document of a source that is no archive, and what readers of such sources share."""

import base64
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.sources.archive import Damage
from pipeline.sources.members import Source
from pipeline.sources.streams import Damage as StreamDamage
from pipeline.sources.streams import Edge, Piece, codec_of, pieces

Form = Literal["html", "plain", "text", "file", "book", "code", "wikitext"]
"""How bytes become text: a page; a plain response or WET record; text in UTF-8 as it is; a file of text in any character
set; a book; source code; a page of a wiki."""

INFLATED = "offset_inflated"
"""Flaw of a record whose offset and length count in the inflated stream of a compressed file."""

STREAM = "offset_of_stream"
"""Flaw of a page of a dump of many bzip2 streams: its offset is that of the stream, as in the dump's own index."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document, as its source has it."""

    file: str
    offset: int
    length: int
    """Where it lies in the file, in bytes; in Parquet: the number of its row, and 1. See the flaws `offset_inflated` and
    `offset_of_stream`."""
    record_type: str
    """`page` of a wiki, `row` of a table, `file`, or `member` of a zip or tar file."""
    form: Form
    content: bytes
    """At most as many bytes as the reader was asked for."""
    n_content: int
    """The true length in bytes."""
    digest: str
    """SHA-1 of the content, in the notation of WARC-Payload-Digest."""
    record_id: str | None = None
    url: str | None = None
    date: datetime | None = None
    title: str | None = None
    media_type: str | None = None
    wiki: str = ""
    gates: tuple[str, ...] = ()
    """Reasons to turn it away that are known without reading it."""
    error: str | None = None
    """Why nothing can be made of it, as a row without text; `content` is then empty."""
    flaws: tuple[str, ...] = ()


def sha1(content: bytes) -> str:
    """The digest of a payload in the notation of WARC-Payload-Digest."""
    return named_sha1(hashlib.sha1(content, usedforsecurity=False).digest())


def named_sha1(digest: bytes) -> str:
    """That notation for a digest that was made elsewhere."""
    return "sha1:" + base64.b32encode(digest).decode()


def moment(value: Any) -> datetime | None:
    """A date as rows have it, in UTC and whole seconds: ISO 8601, seconds or milliseconds since 1970, or a date of
    Parquet. None for no date. Raises ValueError for what is none."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            text = value.strip()
            value = float(text) if text.isascii() and text.isdigit() and len(text) > 8 else datetime.fromisoformat(text)
        if isinstance(value, bool):
            raise ValueError("true and false are no dates")
        if isinstance(value, int | float):
            if not math.isfinite(value):
                raise ValueError("no number")
            # Seconds reach this number in the year 5138, milliseconds did so in 1973.
            value = datetime.fromtimestamp(value / 1000 if abs(value) >= 1e11 else value, UTC)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        if not isinstance(value, datetime):
            raise ValueError(f"a date, not {type(value).__name__}")
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return value.replace(microsecond=0)
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from None


class Inflated:
    """The bytes of a file, decompressed where it is compressed, in order. After a damaged stretch `damages` has it, and
    `broken` is set until it is cleared: what comes next does not follow what came before."""

    def __init__(self, source: Source, path: str, start: int = 0, end: int | None = None) -> None:
        """Raises InputError where the file is empty, or not compressed as its name says."""
        self.codec = codec_of(source, path)
        self.packed = self.codec != "plain"
        self.path = path
        self._events: Iterator[Any] = pieces(source, path, self.codec, start, end)
        self.damages: list[Damage] = []
        self.broken = False

    def __iter__(self) -> Iterator[bytes]:
        for event in self._events:
            if isinstance(event, Piece):
                yield event.data
            elif isinstance(event, StreamDamage):
                self.damages.append(Damage(event.path, event.offset, event.length, event.reason))
                self.broken = True
                yield b""
            elif isinstance(event, Edge):
                return

    def drain(self) -> Iterator[Damage]:
        """The damages so far, each once."""
        while self.damages:
            yield self.damages.pop(0)


def unreadable(path: str, source: Source | None, error: Exception) -> Damage:
    """A file of which nothing can be read."""
    return Damage(path, 0, source.size if source is not None else 0, " ".join(str(error).split())[:500])


__all__ = [
    "INFLATED", "STREAM", "Damage", "Document", "Form", "Inflated", "InputError", "moment", "named_sha1", "sha1",
    "unreadable",
]  # fmt: skip
