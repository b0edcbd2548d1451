"""Big compressed files as pieces of bytes, in parts: plain, gzip, zstd, and bzip2 of one stream or of many.

A bzip2 file of many streams (Wikimedia's multistream dumps, pbzip2) can be read from any place in it: every stream
belongs to the part in which it begins. Damage costs one stream there, and the rest of the file elsewhere.
"""

import bz2
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import zstandard

from pipeline.errors import InputError
from pipeline.sources.members import BLOCK, ZSTD_MAGIC, Source

CODECS = ("plain", "bzip2", "gzip", "zstd")

STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
"""A stream of bzip2: its header, then the magic number of its first block or of its end."""

FEED = 1 << 14  # bytes given to a decompressor at a time: damage takes with it what the same bytes gave before
FEED_ZSTD = 1 << 10  # its decompressor knows no limit, and a few bytes can give 128 kB
MOST_OUTPUT = 4 << 20  # bytes that a decompressor gives at once; a block of bzip2 is 900 kB, and 46 MB at the very most
PROBE = 16 << 20  # bytes at the start in which a second stream makes a file multistream
PROOF = 2 << 20  # bytes in which a stream must give something: a block of 900 kB never takes more

_NO_STREAM = "no bzip2 stream follows"

_SUFFIXES = {".bz2": "bzip2", ".gz": "gzip", ".zst": "zstd"}


class Damage(NamedTuple):
    """A stretch that could not be read: `offset` and `length` in bytes of the file as it is stored.

    `length` is 0 where the damage lies in the content of compressed bytes that could be read.
    """

    path: str
    offset: int
    length: int
    reason: str


class Piece(NamedTuple):
    """Decompressed bytes, and the stretch [start, end) of the file that was read to get them. `stream`: where the bzip2
    stream begins that they are of, 0 for other files."""

    data: bytes
    start: int
    end: int
    stream: int = 0


class Edge(NamedTuple):
    """From here on pieces belong to the next part, and are given for what runs on into it."""

    at: int


Event = Piece | Damage | Edge


def codec_of(source: Source, path: str) -> str:
    """How a file is compressed, by its first bytes, and by its name where these are damaged. Raises InputError."""
    head = source.read(0, 16)
    if not head:
        raise InputError(f"{path}: the file is empty: fetch it again")
    if STREAM.match(head):
        return "bzip2"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(ZSTD_MAGIC) or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", head):
        return "zstd"
    named = next((codec for suffix, codec in _SUFFIXES.items() if path.lower().endswith(suffix)), None)
    if named == "bzip2" and next_stream(source, 0, min(source.size, PROBE)) is not None:
        return "bzip2"
    if named:
        raise InputError(
            f"{path}: is not compressed with {named} as its name says, or its start is damaged: fetch it again"
        )
    return "plain"


def is_multistream(source: Source) -> bool:
    """Whether a bzip2 file has a second stream soon enough to be worth reading in parts."""
    return next_stream(source, 1, min(source.size, PROBE)) is not None


def next_stream(source: Source, position: int, end: int) -> int | None:
    """Where the first stream that decodes begins in [position, end)."""
    while position < end:
        found = source.search(STREAM, position, end)
        if found is None:
            return None
        if decodes(source, found):
            return found
        position = found + 1
    return None


def decodes(source: Source, position: int) -> bool:
    """Whether a bzip2 stream begins here and gives something, or ends at once as an empty one does."""
    if not STREAM.match(source.read(position, 16)):
        return False
    decoder = bz2.BZ2Decompressor()
    for at in range(position, position + PROOF, FEED):
        data = source.read(at, FEED)
        if not data:
            return False
        try:
            if decoder.decompress(data, 1) or decoder.eof:
                return True
        except OSError:
            return False
    return False


def pieces(source: Source, path: str, codec: str, start: int, end: int | None) -> Iterator[Event]:
    """What begins in the part [start, end) of a file, and after an Edge what follows it.

    Only plain and bzip2 files have parts. Damage is told where it lies, and the rest, if it can be read, follows.
    """
    end = source.size if end is None else end
    if codec == "plain":
        return _plain(source, start, end)
    if codec == "bzip2":
        return _bzip2(source, path, start, end)
    return _whole(source, path, codec)


def _plain(source: Source, start: int, end: int) -> Iterator[Event]:
    at = start
    while at < end:
        data = source.read(at, min(BLOCK, end - at))
        if not data:
            return
        yield Piece(data, at, at + len(data))
        at += len(data)
    if at < source.size:
        yield Edge(at)
    while data := source.read(at, 1 << 16):
        yield Piece(data, at, at + len(data))
        at += len(data)


def _bzip2(source: Source, path: str, start: int, end: int) -> Iterator[Event]:
    size = source.size
    at = next_stream(source, start, end) if start else 0
    if not start and not STREAM.match(source.read(0, 16)):
        at = next_stream(source, 0, size)
        yield Damage(path, 0, size if at is None else at, "no bzip2 stream begins at the start of the file")
    own = True
    while at is not None and at < size:
        if at >= end and own:
            # What follows the last stream of this part must be one, or this part tells of it: no other would.
            if not decodes(source, at):
                following = next_stream(source, at + 1, size)
                yield Damage(path, at, (size if following is None else following) - at, _fault(source, at))
                return
            own = False
            yield Edge(at)
        stream = _Stream(source, at)
        yield from stream.pieces()
        if stream.problem is None:
            at = stream.end
            if at < size and at < end and not STREAM.match(source.read(at, 16)):
                following = next_stream(source, at + 1, size)
                lost = size if following is None else following
                yield Damage(path, at, lost - at, _NO_STREAM)
                at = following
        else:
            following = next_stream(source, at + 1, size)
            lost = size if following is None else following
            yield Damage(path, stream.good, lost - stream.good, stream.problem)
            at = following


def _fault(source: Source, at: int) -> str:
    """Why no stream can be read here, in the words of a part that would have begun with it."""
    if not STREAM.match(source.read(at, 16)):
        return _NO_STREAM
    stream = _Stream(source, at)
    for _ in stream.pieces():
        pass
    return stream.problem or _NO_STREAM


class _Stream:
    """One bzip2 stream being decompressed; then `end` is where it ends, or `problem` says why not, and `good` the
    position up to which it gave something."""

    def __init__(self, source: Source, start: int) -> None:
        self._source = source
        self.end = self.good = start
        self.problem: str | None = None

    def pieces(self) -> Iterator[Piece]:
        decoder = bz2.BZ2Decompressor()
        at = stream = self.end
        while not decoder.eof:
            data = b""
            if decoder.needs_input:
                data = self._source.read(at, FEED)
                if not data:
                    self.problem = "the bzip2 stream is cut short at the end of the file"
                    return
                at += len(data)
            try:
                out = decoder.decompress(data, MOST_OUTPUT)
            except (OSError, ValueError) as error:
                self.problem = f"the bzip2 stream is damaged: {error}"
                return
            if out:
                start, self.good = self.good, at - len(decoder.unused_data)
                yield Piece(out, start, self.good, stream)
        self.end = at - len(decoder.unused_data)


def _whole(source: Source, path: str, codec: str) -> Iterator[Event]:
    at = good = 0
    decoder: Any = None
    tail = b""
    problem = None
    while True:
        data = tail or source.read(at, FEED if codec == "gzip" else FEED_ZSTD)
        if not tail:
            at += len(data)
        tail = b""
        if not data:
            if codec == "gzip" and decoder is not None and (rest := decoder.flush()):
                yield Piece(rest, good, at)
            if decoder is not None and not decoder.eof:
                problem = f"the {codec} stream is cut short at the end of the file"
            break
        if decoder is None:
            if not data.strip(b"\0"):  # padding
                continue
            decoder = zlib.decompressobj(31) if codec == "gzip" else zstandard.ZstdDecompressor().decompressobj()
        try:
            out = decoder.decompress(data, MOST_OUTPUT) if codec == "gzip" else decoder.decompress(data)
        except (zlib.error, zstandard.ZstdError) as error:
            problem = f"the {codec} stream is damaged: {' '.join(str(error).split())}"
            break
        if decoder.eof:
            tail, decoder = decoder.unused_data, None
        elif codec == "gzip":
            tail = decoder.unconsumed_tail
        if out:
            start, good = good, at - len(tail)
            yield Piece(out, start, good)
    if problem:
        yield Damage(path, good, source.size - good, problem)
