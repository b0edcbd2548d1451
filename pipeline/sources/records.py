"""Finding and parsing WARC and ARC records in a stream of bytes, including records whose stated length is wrong.

The headers are parsed with warcio. What is our own is where a record ends: warcio believes `Content-Length`, and one
wrong digit costs it the rest of the file. Formats: WARC 1.0 and 1.1 (ISO 28500, and the drafts 0.17 and 0.18 that
crawls before 2009 were written in), ARC version 1 and 2 (Internet Archive, 1996).
"""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from warcio.statusandheaders import StatusAndHeadersParser

MAX_HEADER = 1 << 20  # bytes; WARC headers of real crawls stay under 10 kB, those that carry JSON metadata under 100 kB
MAX_PAYLOAD = 16 << 20  # bytes of a payload that are kept unless the caller asks otherwise; Common Crawl stores 5 MiB
CHUNK = 1 << 20
RETURNS = 16  # times that one compressed member is inflated anew to go back in it: else a hostile file costs n squared

PAGE_TYPES = frozenset({"response", "resource", "conversion"})

WARC_LINE = re.compile(rb"WARC/\d\.\d{1,2}[ \t]*\r*\n[A-Za-z][A-Za-z0-9_-]*[ \t]*:")
ARC_LINE = re.compile(
    rb"(?P<url>[a-z][a-z0-9+.-]*:[^\n]*?) (?P<ip>\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+|-) "
    rb"(?P<date>\d{8,18}) (?P<rest>[^\n]*?) ?(?P<length>\d+)\r?\n"
)
_ARC_PATTERN = re.sub(rb"\?P<\w+>", b"?:", ARC_LINE.pattern)
RECORD_LINE = re.compile(b"(?:" + WARC_LINE.pattern + b")|(?:(?<=\n)" + _ARC_PATTERN + b")")
BLANK_LINE = re.compile(rb"\n[ \t]*\r*\n")
STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?!\d)")
HTTP_START = re.compile(rb"HTTP/|HTTP\S{0,16}[ \t]+\d{3}|ICY \d{3}", re.IGNORECASE)
STATUS_ANYWHERE = re.compile(rb"[ \t](\d{3})(?!\d)")
LONGEST_LINE = 1 << 16  # bytes; how much of a header line may lie over the border of two chunks while searching

_FIELDS = StatusAndHeadersParser([], verify=False)
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Record:
    """One record that may hold a page."""

    file: str
    offset: int
    """Where its gzip member starts in the file (the record itself in an uncompressed file). In a member that holds
    several records: where the record starts in the inflated stream, and `flaws` has `offset_inflated`."""
    length: int
    """Bytes from `offset` to the next record, in the same space as `offset`."""
    record_type: str
    """`response`, `resource`, `conversion` or `arc`."""
    record_id: str | None
    url: str | None
    date: datetime | None
    """UTC, whole seconds."""
    http_status: int | None
    http_headers: Mapping[str, str]
    """Lower-case name to value; values of a repeated name are joined with `, `. For records without HTTP headers:
    `content-type` from the record's own header, where it has one."""
    payload: bytes
    """The HTTP body as stored (encodings undone by `http.decode_body`), at most `max_payload` bytes of it."""
    n_payload: int
    """The body's true length in bytes."""
    digest: str
    """SHA-1 over the whole body as stored, `sha1:` and 32 base-32 digits as in WARC-Payload-Digest."""
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch that could not be read: exactly the bytes lost."""

    file: str
    offset: int
    length: int
    reason: str
    inflated: bool = False
    """Whether offset and length count in the inflated stream of a compressed file."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that holds no page (`request`, `warcinfo`, `dns` …), or bytes that are no record.

    `padding` is zeros or blank lines between records, `gzip` and `zstd` are members whose records follow with offsets
    into their inflated stream, `wacz` is what a WACZ package holds beside its archives.
    """

    record_type: str
    offset: int
    length: int
    inflated: bool = False
    file: str | None = None
    """The file, where it is not the one that is being read as a whole."""


NO_RECORD = frozenset({"padding", "gzip", "zstd", "wacz"})
"""The `record_type`s of `Skipped` that are not records."""

Item = Record | Damage | Skipped


class Window:
    """Bytes of a stream by absolute position: reads on as needed, forgets what was released, goes back at a price."""

    def __init__(
        self,
        pull: Callable[[], bytes],
        reopen: Callable[[int], Callable[[], bytes]] | None = None,
        probe: Callable[[int, int], bytes] | None = None,
        whole: bool = False,
    ) -> None:
        self._pull = pull
        self._reopen = reopen
        self.probe = probe
        self.whole = whole
        self._buffer = bytearray()
        self._base = 0
        self._ended = False
        self.in_block = False
        self._returns = RETURNS

    @property
    def available(self) -> int:
        """One past the last byte that is in memory."""
        return self._base + len(self._buffer)

    def ensure(self, end: int) -> int:
        """Reads on until `end`; returns `end`, or where the stream ended before it."""
        while self.available < end and not self._ended:
            chunk = self._pull()
            if chunk:
                self._buffer += chunk
            else:
                self._ended = True
        return min(end, self.available)

    def slice(self, start: int, end: int) -> bytes:
        """The bytes of [start, end), fewer where the stream ends."""
        end = self.ensure(end)
        return bytes(self._buffer[start - self._base : max(end - self._base, start - self._base)])

    def match(self, pattern: re.Pattern[bytes], start: int, end: int) -> re.Match[bytes] | None:
        """A match that begins at `start` and lies before `end`."""
        end = self.ensure(end)
        return pattern.match(self._buffer, start - self._base, end - self._base)

    def search(self, pattern: re.Pattern[bytes], start: int, end: int) -> tuple[int, int] | None:
        """Position and end of the first match within [start, end), which is read into memory."""
        end = self.ensure(end)
        found = pattern.search(self._buffer, start - self._base, end - self._base)
        return (found.start() + self._base, found.end() + self._base) if found else None

    def release(self, position: int) -> None:
        """Allows everything before `position` to be forgotten."""
        if position - self._base > CHUNK:
            position = min(position, self.available)
            del self._buffer[: position - self._base]
            self._base = position

    def seek(self, position: int) -> bool:
        """Makes `position` readable again; False where this stream cannot go back that far."""
        if position >= self._base:
            return True
        if self._reopen is None or self._returns == 0:
            return False
        if self.probe is None:
            self._returns -= 1
        self._pull = self._reopen(position)
        self._buffer.clear()
        self._base = position
        self._ended = False
        return True

    def next_record(self, start: int, keep: int = 0) -> int:
        """Where the next record header begins at or after `start`, or the end of the stream. The last `keep` bytes
        before it stay in memory."""
        while True:
            end = self.ensure(start + CHUNK)
            found = self.search(RECORD_LINE, start, end)
            if found:
                return found[0]
            if end < start + CHUNK:
                return end
            start = end - LONGEST_LINE
            self.release(start - 1 - keep)


@dataclass(slots=True)
class _Header:
    """A record header as parsed: where its block begins, how long it claims to be, and its fields."""

    kind: str
    start: int
    body: int
    length: int | None
    fields: dict[str, str] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)


def starts_record(head: bytes) -> bool:
    """Whether these first bytes of an inflated member (some hundred suffice) are the head of a record."""
    return bool(WARC_LINE.match(head) or ARC_LINE.match(head))


def read_records(window: Window, file: str, max_payload: int) -> Iterator[Item]:
    """Every record of a stream in order, with offsets into that stream; damage and padding between them included."""
    at = 0
    while True:
        window.release(at)
        if window.ensure(at + 1) <= at:
            return
        blank = _blank_until(window, at)
        if blank > at:
            yield Skipped("padding", at, blank - at)
            at = blank
            continue
        header = _header(window, at)
        if header is None:
            following = window.next_record(at + 1)
            yield Damage(file, at, following - at, "no record header here")
            at = following
            continue
        try:
            window.in_block = True
            item, at = _record(window, header, file, max_payload)
        finally:
            window.in_block = False
        yield item


def _blank_until(window: Window, at: int) -> int:
    """The end of zeros and line ends that begin at `at`."""
    while True:
        data = window.slice(at, at + 4096)
        rest = data.lstrip(b"\0\r\n")
        at += len(data) - len(rest)
        if rest or not data:
            return at
        window.release(at)


def _header(window: Window, at: int) -> _Header | None:
    """The record header at `at`; None when there is none, or it does not end, or it does not say how long its block is
    and no other record follows."""
    if window.slice(at, at + 5) == b"WARC/":
        end = _head_end(window, at, at + MAX_HEADER)
        if end is None:
            return None
        fields = _parse_fields(window.slice(at, end))
        if not fields:
            return None
        header = _Header("warc", at, end, _number(fields.get("content-length")), fields)
        if header.length is None:
            header.flaws.append("content_length_missing")
        return header
    match = window.match(ARC_LINE, at, at + LONGEST_LINE)
    if match is None:
        return None
    text = {name: value.decode("utf-8", "replace") for name, value in match.groupdict().items()}
    fields = {"url": text["url"], "date": text["date"], "content-type": text["rest"].partition(" ")[0]}
    return _Header("arc", at, at + len(match[0]), int(text["length"]), fields)


def _head_end(window: Window, at: int, limit: int) -> int | None:
    """One past the blank line that ends a header, or None."""
    step = 4096
    while True:
        end = window.ensure(min(at + step, limit))
        found = window.search(BLANK_LINE, at, end)
        if found:
            return found[1]
        if end < at + step:
            return None
        step *= 4


def _parse_fields(head: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in _FIELDS.parse(io.BytesIO(head)).headers:
        name = name.strip().lower()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _record(window: Window, header: _Header, file: str, max_payload: int) -> tuple[Item, int]:
    """The record of a header and where the next one begins."""
    kind = _kind(header)
    holds_page = kind in PAGE_TYPES or kind == "arc"
    stop, following = _stated_end(window, header)

    status: int | None = None
    headers: Mapping[str, str] = NO_HEADERS
    body = header.body
    if holds_page:
        limit = body + MAX_HEADER if stop is None else min(stop, body + MAX_HEADER)
        headers, status, body = _http(window, header, kind, limit)

    content: _Content | None = None
    if stop is not None:
        content = _Content.read(window, min(body, stop), stop, header.start, max_payload, holds_page)
        if following < 0:  # a block too long to look beyond: only now its end is seen
            following, closed = _terminator(window, header.kind, stop)
            if content.end < stop or not closed:
                content = None
    if content is None:
        # The length is wrong: the block reaches to the next record header.
        if not window.seek(header.body):
            at = window.next_record(window.available)
            reason = "length is wrong, and the record too large to go back in"
            return Damage(file, header.start, at - header.start, reason), at
        stop, following, lost = _searched_end(window, header)
        if lost or not window.seek(min(body, stop)):
            return Damage(file, header.start, following - header.start, lost or "length is wrong"), following
        header.flaws.append("content_length_wrong")
        content = _Content.read(window, min(body, stop), stop, header.start, max_payload, holds_page)
    length = following - header.start
    if not holds_page:
        return Skipped(kind, header.start, length), following
    return _page(header, kind, file, length, status, headers, content), following


@dataclass(slots=True)
class _Content:
    """Bytes of a block: the first of them, how many there are, where they end in the window, and their SHA-1."""

    kept: bytes
    n: int
    end: int
    sha1: bytes

    @classmethod
    def read(cls, window: Window, start: int, stop: int, keep_from: int, max_payload: int, wanted: bool) -> "_Content":
        """Reads [start, stop), or up to the end of the stream. What lies further back than a record that is kept may
        be is released; with `wanted` false nothing is kept or hashed."""
        sha1 = hashlib.sha1(usedforsecurity=False)
        kept: list[bytes] = []
        n = 0
        at = start
        while at < stop:
            chunk = window.slice(at, min(stop, at + CHUNK))
            if not chunk:
                break
            if wanted:
                sha1.update(chunk)
                if n < max_payload:
                    kept.append(chunk[: max_payload - n])
            n += len(chunk)
            at += len(chunk)
            if at - keep_from > MAX_PAYLOAD + 2 * CHUNK:
                window.release(at)
        return cls(kept[0] if len(kept) == 1 else b"".join(kept), n, at, sha1.digest())


def _page(
    header: _Header,
    kind: str,
    file: str,
    length: int,
    status: int | None,
    headers: Mapping[str, str],
    content: _Content,
) -> Record:
    fields, flaws = header.fields, header.flaws
    if content.n > len(content.kept):
        flaws.append("payload_truncated")
    if "warc-truncated" in fields:
        flaws.append("truncated_by_crawler")
    if fields.get("warc-segment-number"):
        flaws.append("segmented")
    date = _date(fields.get("date" if header.kind == "arc" else "warc-date"), flaws)
    url = (fields.get("url" if header.kind == "arc" else "warc-target-uri") or "").strip()
    if url.startswith("<") and url.endswith(">"):
        url = url[1:-1]
    return Record(
        file=file,
        offset=header.start,
        length=length,
        record_type=kind,
        record_id=(fields.get("warc-record-id") or "").strip() or None,
        url=url or None,
        date=date,
        http_status=status,
        http_headers=headers,
        payload=content.kept,
        n_payload=content.n,
        digest="sha1:" + base64.b32encode(content.sha1).decode(),
        flaws=tuple(flaws),
    )


def _kind(header: _Header) -> str:
    fields = header.fields
    if header.kind == "arc":
        scheme = fields["url"].partition(":")[0]
        return {"filedesc": "arcinfo", "dns": "dns", "metadata": "metadata", "warcinfo": "warcinfo"}.get(scheme, "arc")
    kind = (fields.get("warc-type") or "").strip().lower() or "untyped"
    if kind in PAGE_TYPES:
        media = (fields.get("content-type") or "").strip().lower()
        if media.startswith("text/dns") or (fields.get("warc-target-uri") or "").lstrip("< ").startswith("dns:"):
            return "dns"
    return kind


def _stated_end(window: Window, header: _Header) -> tuple[int | None, int]:
    """Where the block ends and the next record begins if the stated length proves right, else (None, -1). The second is
    -1, too, where the block is too long to look ahead: its end is then checked when it is reached."""
    if header.length is None:
        return None, -1
    stop = header.body + header.length
    near = header.length <= MAX_PAYLOAD + CHUNK
    if near:
        if window.ensure(stop) < stop:
            return None, -1
        following, closed = _terminator(window, header.kind, stop)
        return (stop, following) if closed else (None, -1)
    if window.probe is not None:
        tail = window.probe(stop - 1, LONGEST_LINE)
        if len(tail) < 1 or not _closes(header.kind, tail[1:], len(tail) < LONGEST_LINE):
            return None, -1
    return stop, -1


def _terminator(window: Window, kind: str, stop: int) -> tuple[int, bool]:
    """Where the next record begins if the block ends at `stop`, and whether what stands there really ends a record."""
    end = window.ensure(stop + 64)
    tail = window.slice(stop, end)
    at_end = end < stop + 64
    blank = len(tail) - len(tail.lstrip(b"\r\n"))
    if kind == "arc" and not at_end:
        tail = window.slice(stop, stop + LONGEST_LINE)
    return stop + blank, _closes(kind, tail, at_end)


def _closes(kind: str, tail: bytes, at_end: bool) -> bool:
    rest = tail.lstrip(b"\r\n")
    if at_end and not rest:
        return True
    if kind == "warc":
        return tail.startswith((b"\r\n\r\n", b"\n\n")) or rest.startswith(b"WARC/")
    return tail.startswith((b"\n", b"\r\n")) or ARC_LINE.match(rest) is not None


def _searched_end(window: Window, header: _Header) -> tuple[int, int, str]:
    """For a record whose stated length is wrong: end of its block, start of the next record, and why it is lost ('' if
    it is not): the block reaches to the next record header, less the blank line before it."""
    following = window.next_record(header.body, keep=MAX_PAYLOAD)
    at_end = window.ensure(following + 1) <= following
    if at_end and not window.whole and (header.length is None or header.body + header.length > following):
        return following, following, "record cut at the end of the file"
    start = max(header.body, following - 4)
    if not window.seek(start):
        return following, following, "length is wrong and the record too large to recover"
    tail = window.slice(start, following)
    for ending in (b"\r\n\r\n", b"\n\n", b"\r\n", b"\n"):
        if tail.endswith(ending):
            return following - len(ending), following, ""
    return following, following, ""


def _http(window: Window, header: _Header, kind: str, limit: int) -> tuple[Mapping[str, str], int | None, int]:
    """HTTP headers, status and where the body begins. `limit` is the end of the block, or as far as to look."""
    media = header.fields.get("content-type")
    own = MappingProxyType({"content-type": media}) if media else NO_HEADERS
    block = header.body
    if kind not in ("response", "arc") and not (media or "").lower().startswith("application/http"):
        return own, None, block
    if not HTTP_START.match(window.slice(block, min(block + 64, limit))):
        header.flaws.append("http_header_missing")
        if kind == "response":
            own = NO_HEADERS
        return own, None, block
    end = _head_end(window, block, limit)
    if end is None or end > limit:
        following = window.next_record(block) if header.length is None else limit
        end = min(window.ensure(limit), limit, following)
        header.flaws.append("http_header_unfinished")
    head = window.slice(block, end)
    line = head.split(b"\n", 1)[0]
    match = STATUS_LINE.match(line)
    if match is None:
        header.flaws.append("status_line_malformed")
        match = STATUS_ANYWHERE.search(line)
    return MappingProxyType(_parse_fields(head)), int(match[1]) if match else None, end


def _date(text: str | None, flaws: list[str]) -> datetime | None:
    text = (text or "").strip()
    try:
        if text.isdecimal():
            text = text[:14].ljust(14, "0")
            return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return moment.replace(microsecond=0)
    except (ValueError, OverflowError):
        flaws.append("date_malformed" if text else "date_missing")
        return None
