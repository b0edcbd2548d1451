"""Bodies and character sets: encodings undone, lies seen through."""

import gzip
import random
import zlib

import brotli
import pytest
import zstandard

from pipeline.sources.charset import decode_text
from pipeline.sources.http import decode_body

NOISE = random.Random(0)
PAGE = b"<html><p>" + b" ".join(b"%d" % NOISE.randrange(10**6) for _ in range(20_000)) + b"</p></html>"
CHUNKED = b"%x\r\n%s\r\n%x;ext=1\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (1000, PAGE[:1000], len(PAGE) - 1000, PAGE[1000:])


@pytest.mark.parametrize(
    ("payload", "coding"),
    [
        (gzip.compress(PAGE), "gzip"),
        (zlib.compress(PAGE), "deflate"),
        (zlib.compress(PAGE)[2:-4], "deflate"),
        (brotli.compress(PAGE), "br"),
        (zstandard.compress(PAGE), "zstd"),
        (brotli.compress(gzip.compress(PAGE)), "gzip, br"),
    ],
)
def test_codings(payload: bytes, coding: str) -> None:
    body = decode_body(payload, {"content-encoding": coding, "content-type": "text/html"}, 1 << 20)
    assert (body.content, body.flaws) == (PAGE, ())
    assert decode_body(payload, {"content-encoding": coding}, 1000).content == PAGE[:1000]
    assert decode_body(PAGE, {"content-encoding": coding}, 1 << 20).content == PAGE
    cut = decode_body(payload[:-20], {"content-encoding": coding}, 1 << 20)
    assert PAGE.startswith(cut.content) and cut.flaws


def test_chunks_declared_undeclared_and_not_there() -> None:
    chunked = {"transfer-encoding": "chunked"}
    assert decode_body(CHUNKED, chunked, 1 << 20).content == PAGE
    assert decode_body(CHUNKED[:-30], {}, 1 << 20).content == CHUNKED[:-30]
    body = decode_body(PAGE, chunked, 1 << 20)
    assert (body.content, body.flaws) == (PAGE, ("chunked_lie",))
    assert decode_body(gzip.compress(PAGE), {"content-type": "text/html"}, 1 << 20).flaws == ("encoding_undeclared",)


@pytest.mark.parametrize(
    ("content", "header", "charset", "how"),
    [
        ("grün".encode("latin-1"), "text/html; charset=latin-1", "cp1252", "http"),
        ("grün".encode(), "text/html; charset=latin-1", "utf-8", "utf-8"),
        (b"<meta charset=shift_jis>" + "日本語".encode("cp932"), "text/html", "cp932", "meta"),
        (b"\xef\xbb\xbfx", None, "utf-8", "bom"),
        ("日本語".encode("utf-16"), None, "utf-16-le", "bom"),
        (b"plain", None, "utf-8", "utf-8"),
    ],
)
def test_charsets(content: bytes, header: str | None, charset: str, how: str) -> None:
    decoded = decode_text(content, header)
    assert (decoded.charset, decoded.how) == (charset, how)
    assert "\0" not in decoded.text and decoded.text.encode()


def test_text_is_always_safe() -> None:
    assert decode_text(b"a\0b\xff", "text/html; charset=nonsense").text.encode()
