"""Files that are documents: text, books and code; on their own, compressed, or members of zip and tar files."""

import hashlib
import lzma
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import InputError
from pipeline.sources.archive import Damage, Skipped
from pipeline.sources.documents import INFLATED, Document, Form, Inflated, named_sha1, sha1, unreadable
from pipeline.sources.inputs import open_input
from pipeline.sources.members import Source
from pipeline.sources.options import CodeGate

Item = Document | Damage | Skipped

CHUNK = 1 << 20
PACKED = (".gz", ".bz2", ".zst")
PACKAGES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.zst")
"""Endings of files whose members are documents."""

PAGES = (".html", ".htm", ".xhtml")
"""Endings of books and texts that are pages, and are read as such."""

_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype html|html)\b", re.IGNORECASE)
_LANGUAGES = Path(__file__).parents[1] / "recipes" / "code" / "languages.yaml"


@cache
def languages() -> dict[str, str]:
    """Name of the programming language by ending (`.py`) or whole name (`makefile`) of a file, in lower case."""
    named = yaml.safe_load(_LANGUAGES.read_text(encoding="utf-8"))
    return {ending: name for name, endings in named.items() for ending in endings}


def language_of(path: str) -> str | None:
    """The programming language of a file by its name."""
    name = posixpath.basename(path).lower()
    known = languages()
    if name in known:
        return known[name]
    steps = name.split(".")
    endings = ("." + ".".join(steps[i:]) for i in range(1, len(steps)))
    return next((known[ending] for ending in endings if ending in known), None)


class Tree(NamedTuple):
    """How files become documents. `takes` says which members of packages are; files that were named are, whatever they are
    called. Of the content no more than `max_bytes` + 1 bytes are kept."""

    form: Form
    takes: Callable[[str], bool]
    max_bytes: int
    code: CodeGate = CodeGate()


def read_file(path: str, name: str, tree: Tree) -> Iterator[Item]:
    """The document of a file, or those of the members of a package. `name` is its path within what was named as input, and
    becomes the document's address. Raises InputError where reading stops."""
    with open_input(path) as stream:
        source = Source(stream)
        if source.size == 0:
            yield _document(path, name, 0, 0, "file", b"", 0, sha1(b""), tree)
            return
        if source.read(0, 4) in (b"PK\x03\x04", b"PK\x05\x06") and not name.lower().endswith(PACKED):
            yield from _zip(path, stream, source, tree)
            return
        try:
            inflated = Inflated(source, path)
        except InputError as error:
            yield unreadable(path, source, error)
            return
        if name.lower().endswith(PACKAGES):
            yield from _tar(path, inflated, source, tree)
            return
        content, n, digest = _collect(inflated, tree.max_bytes)
        if inflated.damages:
            # A text of which a part is missing would be taken for the whole, so all of it is lost.
            yield Damage(path, 0, source.size, inflated.damages[0].reason)
            return
        yield _document(
            path, _unpacked(name) if inflated.packed else name, 0, source.size, "file", content, n, digest, tree
        )


def _collect(chunks: Iterator[bytes] | Inflated, max_bytes: int) -> tuple[bytes, int, str]:
    """The first bytes of a stream, how many it has, and their digest."""
    digest = hashlib.sha1(usedforsecurity=False)
    kept = bytearray()
    n = 0
    for chunk in chunks:
        digest.update(chunk)
        kept += chunk[: max(0, max_bytes + 1 - n)]
        n += len(chunk)
    return bytes(kept), n, named_sha1(digest.digest())


def _unpacked(name: str) -> str:
    ending = next((ending for ending in PACKED if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _document(
    path: str, name: str, at: int, length: int, kind: str, content: bytes, n: int, digest: str, tree: Tree,
    flaws: tuple[str, ...] = (),
) -> Document:  # fmt: skip
    language = language_of(name) if tree.form == "code" else None
    gates = code_hits(name, tree.code) if tree.form == "code" else ()
    media_type = f"text/x-{language}" if language else None
    form = tree.form
    if form != "code" and (name.lower().endswith(PAGES) or _PAGE.match(content)):
        form, media_type = "html", "text/html"
    return Document(
        path, at, length, kind, form, content, n, digest, url=name, media_type=media_type, gates=gates, flaws=flaws
    )


def code_hits(name: str, gate: CodeGate) -> tuple[str, ...]:
    """The gates that the path of a source file breaks."""
    steps = name.lower().split("/")
    hits = []
    if any(step in gate.folders for step in steps[:-1]):
        hits.append("gates.code.folders")
    if any(steps[-1].endswith(ending) for ending in gate.files):
        hits.append("gates.code.files")
    return tuple(hits)


_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError,
)  # fmt: skip
"""What reading a damaged member of a zip file raises."""


def _zip(path: str, stream: Any, source: Source, tree: Tree) -> Iterator[Item]:
    try:
        package = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        yield unreadable(path, source, InputError(f"{path}: is no whole zip file: {error}"))
        return
    for member in package.infolist():
        at, length = member.header_offset, member.compress_size
        if member.is_dir() or not tree.takes(member.filename):
            yield Skipped("padding" if member.is_dir() else "member", at, length, False, path)
            continue
        try:
            with package.open(member) as file:
                content, n, digest = _collect(iter(lambda: file.read(CHUNK), b""), tree.max_bytes)
        except (OSError, *_BROKEN) as error:
            # An error of a disk or a store has a number, bzip2's word for damaged data has none.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield Damage(path, at, length, f"member {member.filename[:200]} cannot be read: {error}")
            continue
        yield _document(path, member.filename, at, length, "member", content, n, digest, tree)


class _Reader:
    """What `tarfile` asks of a stream that it reads once."""

    def __init__(self, inflated: Inflated) -> None:
        self._inflated = inflated
        self._chunks = iter(inflated)
        self._left = b""

    def read(self, n: int) -> bytes:
        parts = [self._left[:n]]
        missing = n - len(parts[0])
        self._left = self._left[n:]
        while missing > 0:
            chunk = next(self._chunks, None)
            if chunk is None or self._inflated.broken:
                break
            parts.append(chunk[:missing])
            self._left = chunk[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)


def _tar(path: str, inflated: Inflated, source: Source, tree: Tree) -> Iterator[Item]:
    flaws = (INFLATED,) if inflated.packed else ()
    at = 0
    try:
        with tarfile.open(fileobj=_Reader(inflated), mode="r|") as package:  # type: ignore[call-overload]
            for member in package:
                at = member.offset_data
                if not member.isfile() or not tree.takes(member.name):
                    kind = "member" if member.isfile() else "padding"
                    yield Skipped(kind, at, member.size, inflated.packed, path)
                    continue
                file = package.extractfile(member)
                if file is None:
                    yield Damage(path, at, member.size, f"member {member.name[:200]} cannot be read", inflated.packed)
                    continue
                content, n, digest = _collect(iter(lambda: file.read(CHUNK), b""), tree.max_bytes)  # noqa: B023
                if n < member.size:
                    raise tarfile.ReadError(f"member {member.name[:200]} is cut short")
                name = member.name.removeprefix("./")
                yield _document(path, name, at, member.size, "member", content, n, digest, tree, flaws)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if not inflated.damages:
            length = 0 if inflated.packed else max(0, source.size - at)
            yield Damage(path, at, length, f"the tar file cannot be read on: {error}", inflated.packed)
    yield from inflated.drain()


def readable(endings: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name ends in one of these, or in one and a way of compressing."""
    plain = tuple(endings)

    def takes(name: str) -> bool:
        return _unpacked(name.lower()).endswith(plain)

    return takes
