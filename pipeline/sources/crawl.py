"""What Common Crawl publishes and where: crawls, lists of paths, checksums, what a record must be. Nothing is asked for here.

A crawl is a folder below `crawl-data/`, with a list of paths (`warc.paths.gz` …) for each kind of file in it. The columnar
index is a Parquet table of one row a record, partitioned by crawl and subset. Layout and columns:
https://commoncrawl.org/get-started, https://github.com/commoncrawl/cc-index-table (cc-index-schema-flat.json).
"""

import fnmatch
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError, UsageError
from pipeline.sources.archive import Record, read_archive
from pipeline.sources.inputs import COMMON_CRAWL

HTTPS, S3 = COMMON_CRAWL["https"], COMMON_CRAWL["s3"]

COLLECTIONS = "https://index.commoncrawl.org/collinfo.json"
"""List of all crawls, newest first."""

INDEX_KIND = "cc-index-table"

KINDS = {
    "warc": "pages as they were answered",
    "wet": "their text, as Common Crawl extracts it",
    "wat": "their metadata and links, as JSON",
    "non200responses": "redirects, errors and other answers",
    "robotstxt": "robots.txt files",
    INDEX_KIND: "the columnar index, Parquet",
    "cc-index": "the index by URL, CDXJ",
}
"""Kinds of files of a crawl; each has a list `KIND.paths.gz`."""

SUBSETS = ("warc", "crawldiagnostics", "robotstxt")
"""Partitions of the columnar index: successful captures, other answers, robots.txt."""

INDEX = pa.schema(
    [
        ("url_surtkey", pa.string()),
        ("url", pa.string()),
        ("url_host_name", pa.string()),
        ("url_host_tld", pa.string()),
        ("url_host_2nd_last_part", pa.string()),
        ("url_host_3rd_last_part", pa.string()),
        ("url_host_4th_last_part", pa.string()),
        ("url_host_5th_last_part", pa.string()),
        ("url_host_registry_suffix", pa.string()),
        ("url_host_registered_domain", pa.string()),
        ("url_host_private_suffix", pa.string()),
        ("url_host_private_domain", pa.string()),
        ("url_host_name_reversed", pa.string()),
        ("url_protocol", pa.string()),
        ("url_port", pa.int32()),
        ("url_path", pa.string()),
        ("url_query", pa.string()),
        ("fetch_time", pa.timestamp("us", "UTC")),
        ("fetch_status", pa.int16()),
        ("fetch_redirect", pa.string()),
        ("content_digest", pa.string()),
        ("content_mime_type", pa.string()),
        ("content_mime_detected", pa.string()),
        ("content_charset", pa.string()),
        ("content_languages", pa.string()),
        ("content_truncated", pa.string()),
        ("warc_filename", pa.string()),
        ("warc_record_offset", pa.int64()),
        ("warc_record_length", pa.int64()),
        ("warc_segment", pa.string()),
        ("crawl", pa.string()),
        ("subset", pa.string()),
    ]
)
"""Columns of the columnar index. Offsets and lengths are 32 bits in the files, and more here."""

SELECTED = (
    "url", "url_host_name", "url_host_registered_domain", "fetch_time", "fetch_status", "content_digest",
    "content_mime_detected", "content_languages", "warc_filename", "warc_record_offset", "warc_record_length",
)  # fmt: skip
"""Columns of the index that are kept of a selected record."""

PART_SIZES = tuple(mebi << 20 for mebi in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024))
"""Sizes of the parts in which clients of S3 upload large objects; those of AWS's own are 8 and 16 MiB, of Hadoop's 64
and 128."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_INFLATE = 1 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files of a list are taken. `match` and `segment` narrow the list; of what is left the first `first`, or
    `files` drawn by `seed`, or all."""

    first: int | None = None
    files: int | None = None
    seed: int = 0
    match: str | None = None
    segment: str | None = None


def check_name(crawl: str) -> str:
    """The name of a crawl: `CC-MAIN-2025-26`, or what else is a folder below crawl-data/ (`CC-NEWS/2025/06`).

    Raises UsageError.
    """
    if not _NAME.fullmatch(crawl):
        raise UsageError(f"{crawl!r} is no name of a crawl; one is like CC-MAIN-2025-26 (crawlmill fetch --list)")
    return crawl


def list_path(crawl: str, kind: str) -> str:
    """Where the list of a crawl's files of one kind lies. Raises UsageError for what is no crawl or kind."""
    if kind not in KINDS:
        raise UsageError(f"no files of kind {kind!r}; there are {', '.join(KINDS)}")
    return f"crawl-data/{check_name(crawl)}/{kind}.paths.gz"


def read_list(body: bytes, name: str) -> list[str]:
    """The paths in a list, in its order. Raises InputError where it is damaged or names what lies outside of the crawl."""
    if body.startswith(b"\x1f\x8b"):
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{name}: the list of paths is damaged ({error}): fetch it again") from None
    paths = [line.strip() for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    if not paths:
        raise InputError(f"{name}: the list of paths is empty")
    for path in paths:
        if not safe(path):
            raise InputError(f"{name}: names {path[:200]!r}, which is no path of a crawl; is this the right address?")
    return list(dict.fromkeys(paths))


def safe(path: str) -> bool:
    """Whether a path stays below the folder to which it is joined, and is a plain one."""
    steps = path.split("/")
    return all(step not in ("", ".", "..") for step in steps) and path.isprintable() and not set(path) & set("\\?#:%")


def pick(paths: Sequence[str], choice: Choice) -> list[str]:
    """The chosen paths, in the order of the list. A draw depends on the set of paths and the seed, not on their order.

    Raises UsageError where nothing is left.
    """
    left = list(paths)
    if choice.segment is not None:
        left = [path for path in left if choice.segment in path.split("/")]
    if choice.match is not None:
        left = [path for path in left if fnmatch.fnmatchcase(path, choice.match)]
    if not left:
        raise UsageError(
            f"none of the {len(paths)} files listed is in segment {choice.segment!r}"
            if choice.segment is not None
            else f"none of the {len(paths)} files listed matches {choice.match!r}; the first is {paths[0]}"
        )
    if choice.files is not None:
        drawn = set(sorted(left, key=lambda path: _draw(choice.seed, path))[: choice.files])
        return [path for path in left if path in drawn]
    return left[: choice.first] if choice.first is not None else left


def _draw(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{path}".encode()).digest()


def collections(body: bytes, name: str = COLLECTIONS) -> list[dict[str, Any]]:
    """The crawls there are, as listed: id, name, from, to. Raises InputError."""
    try:
        listed = json.loads(body)
        return [
            {
                "id": str(entry["id"]),
                "name": str(entry.get("name", "")),
                "from": entry.get("from"),
                "to": entry.get("to"),
            }
            for entry in listed
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{name}: is no list of crawls ({type(error).__name__}: {error})") from None


def part_sizes(etag: str, size: int) -> list[int]:
    """Sizes of the parts in which an object may have been uploaded whose ETag is `…-N`; [0] for a plain MD5, [] for an
    ETag that is neither."""
    found = re.fullmatch(r"[0-9a-f]{32}(?:-([1-9]\d{0,4}))?", etag)
    if found is None:
        return []
    if found[1] is None:
        return [0]
    n = int(found[1])
    return [part for part in PART_SIZES if -(-size // part) == n]


class Sums:
    """Checksums of a file, taken as it is read from its start: SHA-256 and the ETags that S3 may give to it."""

    def __init__(self, etag: str | None, size: int):
        self.size = 0
        self._etag = (etag or "").strip('"')
        self._sha256 = hashlib.sha256()
        # One digest of the whole, or for each size of parts those of the parts.
        self._parts: dict[int, tuple[list[bytes], Any]] = {
            part: ([], hashlib.md5(usedforsecurity=False)) for part in part_sizes(self._etag, size)
        }

    def update(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._sha256.update(data)
        for part, (done, running) in self._parts.items():
            if not part:
                running.update(data)
                continue
            view, at = memoryview(data), self.size
            while view:
                room = part - at % part
                running.update(view[:room])
                at += len(view[:room])
                view = view[room:]
                if at % part == 0:
                    done.append(running.digest())
                    running = hashlib.md5(usedforsecurity=False)
            self._parts[part] = (done, running)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """Of all that was taken, in hex."""
        return self._sha256.hexdigest()

    @property
    def matches(self) -> bool | None:
        """Whether the ETag is that of these bytes; None where it is none that tells."""
        if not self._parts:
            return None
        return self._etag in (self._tag(part, done, running) for part, (done, running) in self._parts.items())

    def _tag(self, part: int, done: list[bytes], running: Any) -> str:
        if not part:
            return running.hexdigest()
        parts = [*done, running.digest()] if self.size % part else done
        return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


class Members:
    """Whether a file is whole gzip members, each with its checksum, and nothing else; checked as it is read."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._begun = False
        self.count = 0
        self.problem: str | None = None

    def update(self, data: bytes) -> None:
        """Takes the next bytes. What they inflate to is dropped, a piece at a time."""
        while data and self.problem is None:
            self._begun = True
            try:
                # What a piece inflates to may be a thousand times its size.
                while len(self._member.decompress(data, _INFLATE)) == _INFLATE and not self._member.eof:
                    data = self._member.unconsumed_tail
            except zlib.error as error:
                self.problem = f"gzip member {self.count + 1}: {error}"
                return
            data = b""
            if self._member.eof:
                data = self._member.unused_data
                self._member = zlib.decompressobj(31)
                self._begun = False
                self.count += 1

    def finish(self) -> str | None:
        """What is wrong, or None."""
        if self.problem is None and (self._begun or not self.count):
            self.problem = f"gzip member {self.count + 1} is cut off" if self._begun else "holds nothing"
        return self.problem


def check_record(data: bytes, url: str, digest: str | None) -> str | None:
    """What is wrong with a record that the index says lies here, or None: it must be one whole gzip member and hold the
    capture of `url` with a payload of that digest (SHA-1, base 32, with or without `sha1:`)."""
    members = Members()
    members.update(data)
    problem = members.finish()
    if problem is not None:
        return f"damaged: {problem}"
    if members.count > 1:
        return f"damaged: {members.count} gzip members"
    items = list(read_archive(io.BytesIO(data), "", max_payload=0))
    records = [item for item in items if isinstance(item, Record)]
    if len(records) != 1:
        return "no record: " + (
            ", ".join(sorted({getattr(item, "record_type", "damage") for item in items})) or "empty"
        )
    (record,) = records
    if record.url != url:
        return f"other url: {record.url}"
    if digest and record.digest.removeprefix("sha1:") != digest.removeprefix("sha1:"):
        return f"other digest: {record.digest}"
    return None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes [start, end) of a file that are asked for at once, and the numbers of the records in them."""

    start: int
    end: int
    rows: tuple[int, ...]


def stretches(places: Iterable[tuple[int, int]], gap: int, largest: int) -> list[Stretch]:
    """Records (offset, length) of one file, in the order of offsets, put together where at most `gap` bytes lie between
    them and the whole stays within `largest` bytes."""
    found: list[Stretch] = []
    for row, (offset, length) in enumerate(places):
        last = found[-1] if found else None
        end = offset + length
        if last is not None and offset - last.end <= gap and max(end, last.end) - last.start <= largest:
            found[-1] = Stretch(last.start, max(end, last.end), (*last.rows, row))
        else:
            found.append(Stretch(offset, end, (row,)))
    return found
