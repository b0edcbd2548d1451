"""Pages to archive files: WARC (gzip a record, plain, damaged), ARC, WET; and where each record landed."""

import base64
import gzip
import hashlib
import zlib
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from random import Random
from uuid import UUID

from warcio.recordloader import ArcWarcRecord
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.sample.page import Page


@dataclass(frozen=True, slots=True)
class Placed:
    """A content record in a file. For a stretch of garbage `page` is null."""

    file: str
    offset: int
    length: int
    record_id: str | None
    page: Page | None
    damage: str = ""


def record_id(*parts: object) -> str:
    """A WARC-Record-ID that is a function of what it names."""
    digest = hashlib.sha1("\x1f".join(map(str, parts)).encode()).digest()
    return f"<urn:uuid:{UUID(bytes=digest[:16], version=5)}>"


def sha1(data: bytes) -> str:
    """A digest in the notation of WARC-Payload-Digest."""
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


class Archive:
    """One WARC file in the making. `types` counts the records written, `placed` says where the content records are."""

    def __init__(self, path: Path, dump: str, compress: bool = True):
        self.path, self.dump, self.compress = path, dump, compress
        self.types: dict[str, int] = {}
        self.placed: list[Placed] = []
        self.out = path.open("wb")
        self.writer = WARCWriter(self.out, gzip=compress)

    def write(
        self, kind: str, name: str, headers: list[tuple[str, str]], block: bytes, content_type: str
    ) -> tuple[int, int]:
        """Writes one record and returns the offset and length of what was written, in bytes."""
        start = self.out.tell()
        fields = [("WARC-Type", kind), ("WARC-Record-ID", name), *headers, ("WARC-Block-Digest", sha1(block))]
        if not any(key == "WARC-Payload-Digest" for key, _ in headers):
            fields.append(("WARC-Payload-Digest", sha1(block)))
        rec_headers = StatusAndHeaders("", fields, protocol="WARC/1.0")
        record = ArcWarcRecord("warc", kind, rec_headers, BytesIO(block), None, content_type, len(block))
        record.payload_length = len(block)
        self.writer.write_record(record)
        self.types[kind] = self.types.get(kind, 0) + 1
        return start, self.out.tell() - start

    def warcinfo(self, date: datetime) -> None:
        """The first record of a file."""
        lines = (
            ("isPartOf", self.dump), ("publisher", "Crawlmill"),
            ("description", "A synthetic web; every page is invented"),
            ("format", "WARC File Format 1.0"), ("software", "crawlmill sample"), ("robots", "obey"),
        )  # fmt: skip
        block = "".join(f"{key}: {value}\r\n" for key, value in lines).encode()
        headers = [("WARC-Date", stamp(date)), ("WARC-Filename", self.path.name)]
        self.write("warcinfo", record_id("warcinfo", self.path.name), headers, block, "application/warc-fields")

    def exchange(self, page: Page, date: datetime) -> None:
        """Request, response and metadata of a page, in the order of Common Crawl."""
        key = (self.path.name, page.url, stamp(date))
        common = [("WARC-Date", stamp(date)), ("WARC-Target-URI", page.url)]
        host, _, path = page.url.partition("://")[2].partition("/")
        request = (
            f"GET /{path} HTTP/1.1\r\nUser-Agent: crawlmill-sample/1.0\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode()
        )
        name = record_id("response", *key)
        self.write("request", record_id("request", *key), common, request, "application/http; msgtype=request")
        headers = [*common, ("WARC-Concurrent-To", record_id("request", *key)), ("WARC-IP-Address", "192.0.2.7")]
        headers.append(("WARC-Payload-Digest", sha1(page.body)))
        if page.truncated:
            headers.append(("WARC-Truncated", "length"))
        start, length = self.write("response", name, headers, page.http(), "application/http; msgtype=response")
        self.placed.append(Placed(self.path.name, start, length, name, page))
        fields = f"fetchTimeMs: {len(page.url) * 7 % 900}\r\n".encode()
        concurrent = [*common, ("WARC-Concurrent-To", name)]
        self.write("metadata", record_id("metadata", *key), concurrent, fields, "application/warc-fields")

    def revisit(self, page: Page, date: datetime) -> None:
        """A record that says a page had not changed. It holds no content."""
        headers = [
            ("WARC-Date", stamp(date)), ("WARC-Target-URI", page.url), ("WARC-Refers-To-Target-URI", page.url),
            ("WARC-Profile", "http://netpreserve.org/warc/1.0/revisit/identical-payload-digest"),
            ("WARC-Payload-Digest", sha1(page.body)),
        ]  # fmt: skip
        name = record_id("revisit", self.path.name, page.url)
        block = b"HTTP/1.1 304 Not Modified\r\nServer: sample\r\n\r\n"
        self.write("revisit", name, headers, block, "application/http; msgtype=response")

    def conversion(self, page: Page, date: datetime) -> None:
        """The text of a page as in a WET file."""
        name = record_id("conversion", self.path.name, page.url)
        headers = [
            ("WARC-Date", stamp(date)),
            ("WARC-Target-URI", page.url),
            ("WARC-Refers-To", record_id("of", page.url)),
        ]
        start, length = self.write("conversion", name, headers, page.body, "text/plain")
        self.placed.append(Placed(self.path.name, start, length, name, page))

    def garbage(self, random: Random, size: int) -> None:
        """A stretch of bytes between two records that is no record."""
        start = self.out.tell()
        self.out.write(bytes(random.choice(b"ABCDEFGHIJKLMNOP \n") for _ in range(size)))
        self.placed.append(Placed(self.path.name, start, size, None, None, "garbage"))

    def close(self) -> None:
        """Ends the file."""
        self.out.close()


def gzip_member(data: bytes) -> bytes:
    """One gzip member without time stamp. Made by zlib, as the header of `gzip.compress` differs by version."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS + 16)
    return compressor.compress(data) + compressor.flush()


def stamp(date: datetime) -> str:
    """WARC-Date."""
    return date.strftime("%Y-%m-%dT%H:%M:%SZ")


def write_arc(path: Path, pages: list[tuple[Page, datetime]]) -> list[Placed]:
    """An ARC 1.0 file, a gzip member a record. ARC knows no record ids."""
    placed = []
    with path.open("wb") as out:
        text = b"1 0 Crawlmill\nURL IP-address Archive-date Content-type Archive-length\n"
        first = pages[0][1].strftime("%Y%m%d%H%M%S")
        head = f"filedesc://{path.name} 0.0.0.0 {first} text/plain {len(text)}\n".encode()
        out.write(gzip_member(head + text + b"\n"))
        for page, date in pages:
            start, block = out.tell(), page.http()
            head = f"{page.url} 192.0.2.7 {date:%Y%m%d%H%M%S} {page.media_type} {len(block)}\n".encode()
            out.write(gzip_member(head + block + b"\n"))
            placed.append(Placed(path.name, start, out.tell() - start, None, page))
    return placed


def breaks(member: bytes) -> bool:
    """Whether a gzip member cannot be read."""
    try:
        gzip.decompress(member)
    except (zlib.error, OSError, EOFError):
        return True
    return False


def damage(path: Path, placed: Placed, how: str) -> None:
    """Breaks one gzip member in place: `middle` or `head` overwrite part of it, `cut` ends the file inside it.

    Raises ValueError when the member can still be read.
    """
    data = bytearray(path.read_bytes())
    start, end = placed.offset, placed.offset + placed.length
    if how == "cut":
        del data[start + placed.length * 2 // 3 :]
        end = len(data)
    else:
        at = start if how == "head" else start + placed.length // 2
        data[at : at + 24] = bytes(byte ^ 0x5A for byte in data[at : at + 24])
    if not breaks(bytes(data[start:end])):
        raise ValueError(f"{path.name}: the member at {start} survived its damage ({how})")
    path.write_bytes(data)
