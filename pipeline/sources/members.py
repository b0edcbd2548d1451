"""Compressed members (gzip members, zstd frames) of a file: inflating one, finding the next whole one after damage."""

import re
import zlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from pipeline.sources.records import starts_record

FEED = 1 << 14  # bytes of a member inflated at a time: what is left over after its end is copied, so keep it small
BLOCK = 1 << 20  # bytes read from the file at a time
WHOLE = 8 << 20  # bytes: a member that inflates to no more than this is parsed in one piece
BOMB_RATIO = 100  # deflate reaches 1,032:1 on zeros; real pages stay under 30:1
BOMB_BYTES = 256 << 20  # bytes that any record may inflate to whatever its ratio
STORED = 65_535  # bytes: the longest run that deflate stores as it is (RFC 1951, 3.2.4)


class MemberError(Exception):
    """A member cannot be inflated. `at` is the position in the file up to which it could."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at
        self.reason = reason


@dataclass(frozen=True)
class Codec:
    """A compression format made of members that can be told by their first bytes."""

    name: str
    magic: re.Pattern[bytes]
    feed: int
    limited: bool
    """Whether its inflaters take a limit on what they give at once."""
    inflater: Callable[[], Any]


GZIP = Codec("gzip", re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"), FEED, True, lambda: zlib.decompressobj(31))
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # skippable frame that holds the dictionary (IIPC, zstd for WARC 1.0)


def zstd_codec(dictionary: bytes | None) -> Codec:
    """Frames of zstd, with the dictionary of the file if it has one. Fed in small pieces: a few bytes of zstd can
    inflate to 128 kB, and its decompression object knows no limit."""
    data = zstandard.ZstdCompressionDict(dictionary) if dictionary else None

    def inflater() -> Any:
        return zstandard.ZstdDecompressor(dict_data=data).decompressobj()

    return Codec("zstd", re.compile(re.escape(ZSTD_MAGIC)), 1 << 10, False, inflater)


class Source:
    """A seekable stream read in blocks, with the last block kept."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._block = b""
        self._at = 0
        self.size = stream.seek(0, 2)

    def read(self, position: int, n: int) -> bytes:
        """`n` bytes at `position`, fewer at the end of the file."""
        offset = position - self._at
        if offset < 0 or offset + n > len(self._block):
            self._stream.seek(position)
            self._block = self._read(max(n, BLOCK))
            self._at = position
            offset = 0
        return self._block[offset : offset + n]

    def _read(self, n: int) -> bytes:
        data = self._stream.read(n) or b""
        while len(data) < n:
            more = self._stream.read(n - len(data))
            if not more:
                break
            data += more
        return data

    def search(self, pattern: re.Pattern[bytes], position: int, end: int) -> int | None:
        """Where the first match that begins in [position, end) does; matches are under 4 kB long."""
        while position < end:
            data = self.read(position, BLOCK)
            found = pattern.search(data)
            if found:
                return position + found.start() if position + found.start() < end else None
            if position + len(data) >= self.size or not data:
                return None
            position += len(data) - 4096
        return None


class Member:
    """One member being inflated. `read` gives its bytes a piece at a time; `end` is set when its checksum has held."""

    def __init__(self, source: Source, codec: Codec, start: int) -> None:
        self.start = start
        self.at = start
        self.end: int | None = None
        self.n_inflated = 0
        self._source = source
        self._codec = codec
        self._inflater = codec.inflater()
        self._tail = b""
        self.mark = (0, start)
        self.steps = [(0, start)]
        self._broken: MemberError | None = None

    def read(self, limit: int = BLOCK) -> bytes:
        """The next piece, about `limit` bytes, or b'' after the end. Raises MemberError once all that could be inflated
        has been given."""
        pieces: list[bytes] = []
        try:
            self._fill(pieces, limit)
        except MemberError:
            if not pieces:
                raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fill(self, pieces: list[bytes], limit: int) -> None:
        if self._broken is not None:
            raise self._broken
        n = 0
        inflater = self._inflater
        while n < limit and self.end is None:
            data = self._tail or self._source.read(self.at, self._codec.feed)
            self._tail = b""
            if not data:
                raise self._break("cut at the end of the file")
            try:
                if self._codec.limited:
                    piece = inflater.decompress(data, limit)
                    # After the end zlib gives what is left twice, as unused_data and as a stale unconsumed_tail.
                    self._tail = b"" if inflater.eof else inflater.unconsumed_tail
                else:
                    piece = inflater.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                raise self._break(f"damaged: {_words(error)}") from None
            self.at += len(data) - len(self._tail)
            if not self._tail:
                self.steps.append((self.n_inflated + len(piece), self.at))
            if inflater.eof:
                self.at -= len(inflater.unused_data)
                self.end = self.at
            if piece:
                pieces.append(piece)
                n += len(piece)
                self.n_inflated += len(piece)
                self._guard()

    def _break(self, reason: str) -> MemberError:
        self._broken = MemberError(self.at, f"{self._codec.name} member {reason}")
        return self._broken

    def record_starts(self) -> None:
        """Tells that a record begins about here: the guard against bombs counts from here."""
        self.mark = (self.n_inflated, self.at)

    def file_position(self, inflated: int) -> int:
        """A position in the file at or shortly before the byte that inflates to the byte at `inflated`."""
        return self.steps[bisect_right(self.steps, inflated, key=lambda step: step[0]) - 1][1]

    def _guard(self) -> None:
        inflated, taken = self.n_inflated - self.mark[0], self.at - self.mark[1]
        if inflated > BOMB_BYTES and inflated > BOMB_RATIO * taken:
            raise self._break(f"holds a record of more than {BOMB_BYTES >> 20} MiB, packed {BOMB_RATIO}:1 or denser")


def _words(error: Exception) -> str:
    return " ".join(str(error).replace("Error -3 while decompressing data:", "").split())


class Members:
    """The members of a file by position: which are whole, and where the next one is."""

    def __init__(self, source: Source, codec: Codec) -> None:
        self.source = source
        self.codec = codec
        self._known: dict[int, int | None] = {}

    def whole(self, position: int) -> int | None:
        """The end of the member at `position` if all of it inflates, its checksum holds, and a record begins in it."""
        if position not in self._known:
            self._known[position] = self._whole(position)
        return self._known[position]

    def _whole(self, position: int) -> int | None:
        if not self.codec.magic.match(self.source.read(position, 16)):
            return None
        member = Member(self.source, self.codec, position)
        try:
            if not starts_record(member.read(1 << 16)):
                return None
            while member.end is None:
                member.read()
        except MemberError:
            return None
        return member.end

    def continues(self, position: int) -> bool:
        """Whether a member begins at `position` that inflates but not to the start of a record."""
        if not self.codec.magic.match(self.source.read(position, 16)):
            return False
        try:
            head = Member(self.source, self.codec, position).read(1 << 12)
        except MemberError:
            return False
        return bool(head) and not starts_record(head)

    def next_whole(self, position: int, end: int | None = None) -> int:
        """Where the next whole member at or after `position` begins; `end` (the file's size) if none does before it."""
        end = self.source.size if end is None else end
        while True:
            found = self.source.search(self.codec.magic, position, end)
            if found is None:
                return end
            if self.whole(found) is not None:
                return found
            position = found + 1

    def proven(self, position: int) -> bool:
        """Whether the whole member at `position` is surely one of the file's own, not one inside a stored page (a WARC
        within a WARC): it and the members behind it run on, without a gap, for longer than deflate stores bytes as they
        are, or to the end of the file."""
        at = position
        while at - position <= STORED:
            end = self.whole(at)
            if end is None:
                return False
            at = end
            if not self.source.read(at, 4096).strip(b"\0"):
                return True
        return True
