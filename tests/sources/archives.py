"""Small archives made in the tests, and checks of how readers account for them."""

import gzip
import io
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

from pipeline.sources.archive import Damage, Item, Record, Skipped, read_archive


def http(body: bytes, *headers: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    lines = [status, *(headers or ("Content-Type: text/html",))]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def warc(
    block: bytes,
    kind: str = "response",
    number: int = 0,
    length: int | None = None,
    newline: bytes = b"\r\n",
    extra: Sequence[str] = (),
) -> bytes:
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>",
        "WARC-Date: 2024-05-06T07:08:09Z",
        f"WARC-Target-URI: http://example.org/{number}",
        *extra,
        f"Content-Length: {len(block) if length is None else length}",
    ]
    return newline.join(line.encode() for line in lines) + newline * 2 + block + newline * 2


def arc(url: str, block: bytes, length: int | None = None) -> bytes:
    line = f"{url} 192.0.2.1 20080430204825 text/html {len(block) if length is None else length}\n"
    return line.encode() + block + b"\n"


def page(number: int, size: int = 400) -> bytes:
    noise = random.Random(number)
    words = " ".join(noise.choice(("river", "stone", "light", "market", "seven", "under")) for _ in range(size // 6))
    # Some bytes that do not compress, so that members have the size of real ones.
    return http(f"<html><title>{number}</title><p>{words}</p></html>".encode() + noise.randbytes(size))


def members(records: Iterable[bytes]) -> bytes:
    return b"".join(gzip.compress(record, mtime=0) for record in records)


def read(data: bytes, start: int = 0, end: int | None = None, **options: int) -> list[Item]:
    return list(read_archive(io.BytesIO(data), "f", start, end, **options))


def records(items: Iterable[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def damage(items: Iterable[Item]) -> list[Damage]:
    return [item for item in items if isinstance(item, Damage)]


def uncovered(items: Iterable[Item], size: int) -> str | None:
    """None if the bytes of a file lie in exactly one item each, else what is wrong."""
    at = 0
    spans = []
    for item in items:
        inflated = "offset_inflated" in item.flaws if isinstance(item, Record) else item.inflated
        if not inflated:
            spans.append((item.offset, item.length))
    for offset, length in sorted(spans):
        if offset != at or length <= 0:
            return f"{offset}+{length} after {at}"
        at += length
    return None if at == size else f"ends at {at} of {size}"


def union(data: bytes, n: int) -> list[Item]:
    """All items over `n` splits of a file."""
    bounds = [i * len(data) // n for i in range(n + 1)]
    return [item for a, b in pairwise(bounds) for item in read(data, a, b)]


def same(a: Iterable[Item], b: Iterable[Item]) -> bool:
    return sorted(map(repr, a)) == sorted(map(repr, b))


__all__ = [
    "Damage", "Record", "Skipped", "arc", "damage", "http", "members", "page", "read", "records", "same", "uncovered",
    "union", "warc",
]  # fmt: skip
