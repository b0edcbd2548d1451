"""Web archives as a stream of records: WARC, ARC and WET, in gzip, zstd, WACZ or plain, however damaged.

`read_archive` accounts for every byte of its input: each lies in exactly one `Record`, `Skipped` or `Damage`. It stops
at nothing. After damage it goes on to the next gzip member that inflates whole, with its checksum, to the header of a
record (in plain files: to the next record header), and reports the bytes between as one `Damage`.

A file may be read in splits by several tasks. A member belongs to the split in which it starts; a gap belongs to the
owner of the member before it; what comes before the first member belongs to the split that starts at 0. The union over
any set of splits is what one pass yields. Files that cannot be split (plain, compressed as a whole, WACZ) are read by
the split that starts at 0, and the others yield nothing.

In a member that holds many records (a file compressed as a whole) the records have no place of their own in the file:
their offsets count in the inflated stream, their flaws have `offset_inflated`, and one `Skipped` stands for the member.
"""

import io
import zipfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import BinaryIO

import zstandard

from pipeline.sources.members import (
    GZIP,
    WHOLE,
    ZSTD_DICTIONARY,
    ZSTD_MAGIC,
    Codec,
    Member,
    MemberError,
    Members,
    Source,
    zstd_codec,
)
from pipeline.sources.records import (
    MAX_PAYLOAD,
    NO_RECORD,
    RECORD_LINE,
    Damage,
    Item,
    Record,
    Skipped,
    Window,
    read_records,
    starts_record,
)

__all__ = ["MAX_PAYLOAD", "NO_RECORD", "Damage", "Item", "Record", "Skipped", "read_archive"]

UNREADABLE = {
    b"\x04\x22\x4d\x18": "LZ4: unpack it with `lz4 -d`, or recompress it as gzip or zstd",
    b"\x02\x21\x4c\x18": "LZ4 (legacy): unpack it with `lz4 -d`, or recompress it as gzip or zstd",
    b"BZh": "bzip2: unpack it with `bunzip2`, or recompress it as gzip or zstd",
    b"\xfd7zXZ\x00": "xz: unpack it with `unxz`, or recompress it as gzip or zstd",
}
"""Compression formats (by their first bytes) that archives come in now and then and that are not read."""


def read_archive(
    stream: BinaryIO, file: str, start: int = 0, end: int | None = None, max_payload: int = MAX_PAYLOAD
) -> Iterator[Item]:
    """Yields what is in the bytes [start, end) of an archive, in file order.

    stream: seekable, binary. file: the name that records carry. start, end: a split, in bytes; all of the file by
    default. max_payload: bytes of each payload to keep; length and digest are of all of it. Memory stays within a few
    times `max_payload` whatever the input.

    Raises OSError where the stream itself fails; nothing about the data raises.
    """
    source = Source(stream)
    if end is None or end > source.size:
        end = source.size
    if source.size == 0 or start >= end:
        return
    codec = _codec(source)
    if codec is not None:
        if start == 0 or not _is_block_gzip(source):
            yield from _compressed(Members(source, codec), file, start, end, max_payload)
        return
    if start:
        return
    head = source.read(0, 16)
    for magic, advice in UNREADABLE.items():
        if head.startswith(magic):
            yield Damage(file, 0, source.size, f"compressed with {advice}")
            return
    if head.startswith(b"PK\x03\x04"):
        yield from _wacz(stream, source.size, file, max_payload)
        return
    yield from _plain(source, file, max_payload)


def _codec(source: Source) -> Codec | None:
    """The compression of a file by what is in it: its first bytes, or, where these are damaged, the first thing in it
    that is a record. None for anything that is not gzip or zstd."""
    head = source.read(0, 16)
    if GZIP.magic.match(head):
        return GZIP
    if head.startswith((ZSTD_MAGIC, ZSTD_DICTIONARY)):
        return zstd_codec(_dictionary(source))
    if starts_record(source.read(0, 1 << 16)) or head.startswith((*UNREADABLE, b"PK\x03\x04")):
        return None
    for codec in (GZIP, zstd_codec(None)):
        first = Members(source, codec).next_whole(0)
        if first < source.size:
            text = source.search(RECORD_LINE, 0, source.size)
            return codec if text is None or first < text else None
    return None


def _dictionary(source: Source) -> bytes | None:
    head = source.read(0, 8)
    if not head.startswith(ZSTD_DICTIONARY):
        return None
    data = source.read(8, int.from_bytes(head[4:8], "little"))
    if data.startswith(ZSTD_MAGIC):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def _is_block_gzip(source: Source) -> bool:
    """Whether the gzip members are blocks of one stream (BGZF, as made by bgzip), which cannot be split by record."""
    head = source.read(0, 18)
    return len(head) == 18 and bool(head[3] & 4) and head[12:14] == b"BC"


def _compressed(members: Members, file: str, start: int, end: int, max_payload: int) -> Iterator[Item]:
    source = members.source
    at = _first(members, start, end) if start else 0
    if start == 0 and members.codec.name == "zstd" and source.read(0, 4) == ZSTD_DICTIONARY:
        at = min(8 + int.from_bytes(source.read(4, 4), "little"), source.size)
        yield Skipped("zstd", 0, at)
    if start and at >= end:
        return
    while at < source.size:
        if at >= end and members.whole(at) is not None:
            return
        try:
            at = yield from _member(members, file, at, max_payload)
            continue
        except MemberError as error:
            reason = error.reason
            lost = error.at if isinstance(error, _CutMemberError) else at
        # Not from where inflating failed: a cut member runs on into the good ones behind it before it fails.
        following = members.next_whole(max(lost, at + 1))
        yield from _gap(source, file, lost, following, reason)
        at = following


class _CutMemberError(MemberError):
    """A member of many records that breaks after some were read; the rest of it, from `at` on, could not be."""


def _first(members: Members, start: int, end: int) -> int:
    """Where the first member that one pass over the file would see in [start, end) begins; `end` or more if none."""
    at = members.next_whole(start, end)
    if at >= end or members.proven(at):
        return at
    at = 0
    while at < start:
        whole = members.whole(at)
        at = whole if whole is not None else members.next_whole(at + 1)
    # What lies here may be a gap, which belongs to the owner of the member before it.
    return at if members.whole(at) is not None else members.next_whole(at + 1, end)


def _gap(source: Source, file: str, start: int, end: int, reason: str) -> Iterator[Damage | Skipped]:
    """A stretch without members: damage, and the zeros at its end or all of it as padding."""
    content = start
    at = start
    while at < end:
        data = source.read(at, min(1 << 20, end - at))
        rest = data.rstrip(b"\0\r\n")
        if rest:
            content = at + len(rest)
        at += len(data)
    if content > start:
        yield Damage(file, start, end - start, reason)
    elif end > start:
        yield Skipped("padding", start, end - start)


def _member(members: Members, file: str, start: int, max_payload: int) -> Generator[Item, None, int]:
    """The records of the member at `start`; returns its end. Raises MemberError, before yielding anything unless the
    member is one of many records."""
    source = members.source
    if not members.codec.magic.match(source.read(start, 16)):
        raise MemberError(start, f"no {members.codec.name} member here")
    member = Member(source, members.codec, start)
    data = member.read(WHOLE)
    if member.end is not None:
        if not data:
            yield Skipped("padding", start, member.end - start)
            return member.end
        if not starts_record(data):
            raise MemberError(start, "member inflates to something that is no record")
        pieces = [data]
        items = list(read_records(Window(lambda: pieces.pop() if pieces else b"", whole=True), file, max_payload))
        if _one_record(items):
            yield _placed(items[0], start, member.end)
            return member.end
        if not members.continues(member.end):
            yield Skipped(members.codec.name, start, member.end - start)
            yield from map(_inflated, items)
            return member.end
        member = Member(source, members.codec, start)
        data = member.read(WHOLE)
    elif not starts_record(data):
        raise MemberError(start, "member inflates to something that is no record")
    return (yield from _streamed(members, member, data, file, max_payload))


def _one_record(items: list[Item]) -> bool:
    return (
        bool(items)
        and not isinstance(items[0], Damage)
        and all(isinstance(item, Skipped) and item.record_type == "padding" for item in items[1:])
    )


def _streamed(members: Members, member: Member, data: bytes, file: str, max_payload: int) -> Generator[Item, None, int]:
    """Records of a member too large to hold, or of members that are pieces of one stream; returns the end."""
    start = member.start
    stream = _Pieces(members, member, data)
    window = Window(stream.pull, stream.reopen)
    stream.window = window
    held: Item | None = None
    many = False
    whole = 0  # where the last record that came whole ends in the inflated stream
    for item in read_records(window, file, max_payload):
        if not isinstance(item, Damage):
            stream.member.record_starts()
            whole = item.offset + item.length
        if held is not None:
            many = True
            yield _inflated(held)
        held = item
    if stream.error is not None:
        if not many:
            raise stream.error
        if held is not None and not isinstance(held, Damage):
            yield _inflated(held)
        # The record that broke off is part of the damage, as far as a place in the file can be told.
        cut = stream.member.file_position(whole) if stream.member is member else stream.member.start
        if cut > start:
            yield Skipped(members.codec.name, start, cut - start)
        raise _CutMemberError(cut, stream.error.reason)
    end = stream.member.at
    if held is None:
        raise MemberError(start, "member inflates to something that is no record")
    if many or isinstance(held, Damage):
        yield _inflated(held)
        yield Skipped(members.codec.name, start, end - start)
    else:
        yield _placed(held, start, end)
    return end


class _Pieces:
    """The inflated bytes of a member, and of those behind it that go on in the middle of a record."""

    def __init__(self, members: Members, member: Member, data: bytes) -> None:
        self.members = members
        self.first = member.start
        self.member = member
        self.data = data
        self.window: Window | None = None
        self.error: MemberError | None = None

    def pull(self) -> bytes:
        if self.data:
            data, self.data = self.data, b""
            return data
        while self.member.end is not None:
            if self.window is None or not self.window.in_block or not self.members.continues(self.member.end):
                return b""
            self.member = Member(self.members.source, self.members.codec, self.member.end)
        try:
            return self.member.read() or self.pull()
        except MemberError as error:
            self.error = error
            return b""

    def reopen(self, position: int) -> Callable[[], bytes]:
        self.member = Member(self.members.source, self.members.codec, self.first)
        while position > 0:
            data = self.pull()
            if not data:
                break
            if len(data) > position:
                self.data = data[position:]
                break
            position -= len(data)
        return self.pull


def _placed(item: Item, start: int, end: int) -> Item:
    return replace(item, offset=start, length=end - start)


def _inflated(item: Item) -> Item:
    if isinstance(item, Record):
        return replace(item, flaws=(*item.flaws, "offset_inflated"))
    return replace(item, inflated=True)


def _plain(source: Source, file: str, max_payload: int) -> Iterator[Item]:
    def open_at(position: int) -> Callable[[], bytes]:
        def pull() -> bytes:
            nonlocal position
            data = source.read(position, 1 << 20)
            position += len(data)
            return data

        return pull

    yield from read_records(Window(open_at(0), open_at, source.read), file, max_payload)


class _Part(io.RawIOBase):
    """Part of a stream as a stream of its own."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._stream.seek(self._start + self._at)
        data = self._stream.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def _wacz(stream: BinaryIO, size: int, file: str, max_payload: int) -> Iterator[Item]:
    """The archives in a WACZ package, with offsets in the package: they lie in it uncompressed (WACZ 1.1.1, 5.3)."""
    try:
        with zipfile.ZipFile(stream) as package:
            entries = sorted(package.infolist(), key=lambda entry: entry.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        yield Damage(file, 0, size, f"zip file that cannot be opened: {error}")
        return
    at = 0
    for entry in entries:
        if not entry.filename.startswith("archive/") or not entry.file_size:
            continue
        stream.seek(entry.header_offset)
        head = stream.read(30)
        first = entry.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        if len(head) < 30 or first < at or first + entry.compress_size > size:
            continue
        if first > at:
            yield Skipped("wacz", at, first - at)
        at = first + entry.compress_size
        if entry.compress_type != zipfile.ZIP_STORED:
            reason = f"{entry.filename} is compressed within the zip file: unpack it and name the archives inside"
            yield Damage(file, first, entry.compress_size, reason)
            continue
        part: BinaryIO = _Part(stream, first, entry.compress_size)  # type: ignore[assignment]
        for item in read_archive(part, file, max_payload=max_payload):
            inflated = item.inflated if not isinstance(item, Record) else "offset_inflated" in item.flaws
            yield item if inflated else replace(item, offset=item.offset + first)
    if at < size:
        yield Skipped("wacz", at, size - at)
