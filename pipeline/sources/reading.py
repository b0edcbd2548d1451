"""Bytes of documents that are no pages of the web to text: wikitext, books, source code, files and rows of text."""

from typing import NamedTuple, Protocol

from pipeline.sources.charset import MARKS, decode_text
from pipeline.sources.documents import Form
from pipeline.sources.options import CodeGate

REDIRECT, DISAMBIGUATION = "gates.redirect", "gates.disambiguation"
BINARY, GENERATED = "gates.content", "gates.code.generated"

PROBE = 8000
"""Bytes in which a NUL makes a file binary, as git has it (buffer_is_binary)."""


class _Bytes(Protocol):
    """What is read of a document."""

    @property
    def payload(self) -> bytes:
        """Its bytes."""

    @property
    def form(self) -> Form:
        """How they become text."""

    @property
    def title(self) -> str | None:
        """Its title, where the source names it."""

    @property
    def wiki(self) -> str:
        """Name of its wiki's database."""


class Read(NamedTuple):
    """A text. `drop` names the gate that turned the document away, and then there is none."""

    text: str
    drop: str | None = None
    title: str | None = None
    date: str | None = None
    charset: str | None = None
    flaws: tuple[str, ...] = ()
    reader: str = "text"
    version: str = "1"


def preload_form(form: str) -> None:
    """Imports and warms what a form needs, so that forked children have it."""
    if form == "wikitext":
        from pipeline.sources.wikitext import plain_text

        plain_text("'''A''' mill is a [[machine]].", "Mill", "enwiki")
    elif form == "book":
        from pipeline.sources.books import book

        book("A mill.\n\nA river.")


def read_document(document: _Bytes, gate: CodeGate) -> Read:
    """The text of a document. Never raises on bytes that are no text; what its parser raises passes through."""
    match document.form:
        case "wikitext":
            return _wikitext(document)
        case "book":
            return _book(document.payload)
        case "code":
            return _code(document.payload, gate)
        case "file":
            return _file(document.payload)
        case _:
            text, flaws = as_it_is(document.payload)
            return Read(text, charset="utf-8", flaws=flaws)


def as_it_is(content: bytes) -> tuple[str, tuple[str, ...]]:
    """UTF-8 as text: U+FFFD for what is none, `\\n` for every line end, no NUL and no byte order mark; and what was done."""
    flaws = []
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
        flaws.append("undecodable_bytes")
    if "\0" in text:
        text = text.replace("\0", "")
        flaws.append("nul_bytes")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\ufeff"), tuple(flaws)


def is_binary(content: bytes) -> bool:
    """Whether the bytes of a file are no text."""
    if any(content.startswith(mark) for mark, charset in MARKS if charset != "utf-8"):
        return False
    return b"\0" in content[:PROBE] or content.startswith(b"%PDF-")


def _file(content: bytes, reader: str = "text") -> Read:
    """A file that is text in UTF-8 or, where it is not, in the character set that it looks like."""
    if is_binary(content):
        return Read("", BINARY)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        decoded = decode_text(content, None)
        text, _ = as_it_is(decoded.text.encode("utf-8", "replace"))
        return Read(text, charset=decoded.charset, flaws=decoded.flaws, reader=reader)
    text, flaws = as_it_is(content)
    return Read(text, charset="utf-8", flaws=flaws, reader=reader)


def _code(content: bytes, gate: CodeGate) -> Read:
    read = _file(content, "code")
    if read.drop or not gate.generated:
        return read
    head = "\n".join(read.text.split("\n", gate.generated_lines)[: gate.generated_lines]).lower()
    if any(mark.lower() in head for mark in gate.generated):
        return read._replace(text="", drop=GENERATED)
    return read


def _book(content: bytes) -> Read:
    from pipeline.sources.books import book

    read = _file(content, "book")
    if read.drop:
        return read
    found = book(read.text)
    return read._replace(text=found.text, title=found.title)


def _wikitext(document: _Bytes) -> Read:
    from pipeline.sources.wikitext import is_disambiguation, is_redirect, plain_text

    source, flaws = as_it_is(document.payload)
    read = Read("", charset="utf-8", flaws=flaws, reader="wikitext")
    if is_redirect(source):
        return read._replace(drop=REDIRECT)
    if is_disambiguation(source):
        return read._replace(drop=DISAMBIGUATION)
    return read._replace(text=as_it_is(plain_text(source, document.title, document.wiki).encode("utf-8", "replace"))[0])
