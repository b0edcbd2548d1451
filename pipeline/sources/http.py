"""HTTP bodies as servers sent them and crawlers stored them: transfer and content encodings undone, lies included.

Archives hold bodies under headers that no longer describe them: crawlers store a body decoded and keep its headers, or
drop the headers and keep the encoding; servers name an encoding they did not use. So a header is a hint here and the
bytes decide. References: RFC 9112 section 7 (chunked), RFC 9110 section 8.4 (content codings), RFC 7932 (brotli),
RFC 8878 (zstd).
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import brotli
import zstandard

FEED = 1 << 16  # bytes handed to a decoder at a time
ZSTD_FEED = 1 << 10  # bytes; a block of zstd takes as little as four and gives up to 128 kB
MAX_LAYERS = 5  # encodings undone on top of each other; more than two are never meant

CHUNK_LINE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")
TEXT_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
TEXTUAL = re.compile(r"text/|.*(?:html|xml|json|javascript)|\Z")

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class Body:
    """A body without its encodings. `flaws` names what the headers got wrong and what could not be undone:

    `chunked_lie` (header says chunked, body is not), `chunked_undeclared`, `chunked_broken` (cut, or a size line is
    wrong: what can be read is here), `encoding_lie` (header names an encoding that the body is not in),
    `encoding_undeclared`, `encoding_unknown`, `encoding_broken` (the stream is cut or damaged: what came before is
    here), `body_capped` (more than `max_bytes`).
    """

    content: bytes
    flaws: tuple[str, ...] = ()


def decode_body(payload: bytes, headers: Mapping[str, str], max_bytes: int) -> Body:
    """The content of a stored body, at most `max_bytes` of it. `headers`: lower-case names. Never raises on data."""
    flaws: list[str] = []
    content = _unchunked(payload, headers.get("transfer-encoding", ""), flaws)
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Transfer codings other than chunked are content codings that took the wrong header.
    named = f"{headers.get('content-encoding', '')},{headers.get('transfer-encoding', '')}".lower().replace(";", ",")
    codings = [name for token in named.split(",") if (name := token.strip().strip("\"'")) not in _NOTHING]
    for coding in list(reversed(codings))[:MAX_LAYERS]:
        decoder = _CODINGS.get(coding)
        if decoder is None:
            flaws.append("encoding_unknown")
        else:
            content = decoder(content, max_bytes, flaws)
    for _ in range(MAX_LAYERS):
        if not content.startswith((GZIP_MAGIC, ZSTD_MAGIC)) or not TEXTUAL.match(media):
            break
        flaws.append("encoding_undeclared")
        inner = (_gunzip if content.startswith(GZIP_MAGIC) else _unzstd)(content, max_bytes, flaws)
        if inner is content:
            break
        content = inner
    if len(content) > max_bytes:
        content = content[:max_bytes]
        flaws.append("body_capped")
    return Body(content, tuple(dict.fromkeys(flaws)))


_NOTHING = frozenset({"", "identity", "none", "chunked", "binary", "8bit", "7bit", "utf-8", "utf8", "trailers"})


def _unchunked(payload: bytes, transfer: str, flaws: list[str]) -> bytes:
    declared = "chunked" in transfer.lower()
    if not declared and not (CHUNK_LINE.match(payload) and payload.rstrip(b"\r\n").endswith(b"0")):
        return payload
    content, state = _chunks(payload)
    if declared:
        if state == "no chunks":
            flaws.append("chunked_lie")
            return payload
        if state == "broken":
            flaws.append("chunked_broken")
        return content
    if state != "whole":
        return payload
    flaws.append("chunked_undeclared")
    return content


def _chunks(payload: bytes) -> tuple[bytes, str]:
    """The chunks put together, and `whole`, `broken`, or `no chunks` where the first one already is none."""
    pieces: list[bytes] = []
    at = 0
    while True:
        line = CHUNK_LINE.match(payload, at)
        if line is None:
            if not pieces:
                # an empty body under a chunked header is whole
                return (b"", "whole") if not payload.strip() else (payload, "no chunks")
            pieces.append(payload[at:])
            return b"".join(pieces), "broken"
        size = int(line[1], 16)
        if size == 0:
            return b"".join(pieces), "whole"
        start = line.end()
        stop = start + size
        if not pieces and stop < len(payload) and payload[stop : stop + 1] not in (b"\r", b"\n"):
            return payload, "no chunks"
        if not pieces and stop > len(payload) and size > 16 * len(payload):
            return payload, "no chunks"  # a text that begins with a number
        pieces.append(payload[start:stop])
        if stop >= len(payload):
            return b"".join(pieces), "broken"
        at = stop
        if payload[at : at + 2] == b"\r\n":
            at += 2
        elif payload[at : at + 1] == b"\n":
            at += 1


def _inflate(content: bytes, bits: int, max_bytes: int) -> tuple[bytes, bool]:
    """What zlib gives of a stream, up to one byte over `max_bytes`, and whether the stream was whole (or capped)."""
    pieces: list[bytes] = []
    n = 0
    rest = content
    while True:
        inflater = zlib.decompressobj(bits)
        try:
            piece = inflater.decompress(rest, max_bytes + 1 - n)
        except zlib.error:
            # Everything before the damage: zlib gives nothing of a call that fails, so go in small steps.
            pieces.extend(_stepwise(rest, bits, max_bytes + 1 - n))
            return b"".join(pieces), False
        pieces.append(piece)
        n += len(piece)
        if n > max_bytes:
            return b"".join(pieces), True
        if not inflater.eof:
            return b"".join(pieces), False
        rest = inflater.unused_data
        if bits < 31 or not rest.startswith(GZIP_MAGIC):
            return b"".join(pieces), True


def _stepwise(content: bytes, bits: int, limit: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(bits)
    for at in range(0, len(content), 64):
        if limit <= 0:
            return
        try:
            piece = inflater.decompress(content[at : at + 64], limit)
        except zlib.error:
            return
        limit -= len(piece)
        yield piece


def _gunzip(content: bytes, max_bytes: int, flaws: list[str]) -> bytes:
    if not content.startswith(GZIP_MAGIC):
        return _undeflate(content, max_bytes, flaws) if content[:1] == b"\x78" else _lie(content, flaws)
    return _result(content, _inflate(content, 31, max_bytes), flaws)


def _undeflate(content: bytes, max_bytes: int, flaws: list[str]) -> bytes:
    if content.startswith(GZIP_MAGIC):
        return _gunzip(content, max_bytes, flaws)
    if not content:
        return content
    zlib_header = len(content) > 1 and content[0] & 0x0F == 8 and int.from_bytes(content[:2], "big") % 31 == 0
    for bits in (15, -15) if zlib_header else (-15,):
        result = _inflate(content, bits, max_bytes)
        if result[1] or (result[0] and not _is_text(content)):
            return _result(content, result, flaws)
    return _lie(content, flaws)


def _unbrotli(content: bytes, max_bytes: int, flaws: list[str]) -> bytes:
    if content.startswith(GZIP_MAGIC):
        return content  # undeclared gzip: the bytes decide
    decoder = brotli.Decompressor()
    return _drained(
        content,
        max_bytes,
        flaws,
        lambda data, limit: decoder.process(data, output_buffer_limit=limit),
        decoder.can_accept_more_data,
        decoder.is_finished,
        brotli.error,
    )


def _drained(
    content: bytes,
    max_bytes: int,
    flaws: list[str],
    step: Callable[[bytes, int], bytes],
    hungry: Callable[[], bool],
    finished: Callable[[], bool],
    error: Any,
) -> bytes:
    """Runs a decoder over `content` until it is finished, starved, broken or over `max_bytes`."""
    pieces: list[bytes] = []
    n = at = 0
    try:
        while not finished() and n <= max_bytes:
            data = b""
            if hungry():
                data = content[at : at + FEED]
                at += len(data)
                if not data:
                    break
            piece = step(data, max_bytes + 1 - n)
            pieces.append(piece)
            n += len(piece)
    except error:
        return _result(content, (b"".join(pieces), False), flaws)
    return _result(content, (b"".join(pieces), finished() or n > max_bytes), flaws)


def _unzstd(content: bytes, max_bytes: int, flaws: list[str]) -> bytes:
    if not content.startswith(ZSTD_MAGIC):
        return _lie(content, flaws)
    pieces: list[bytes] = []
    n = at = 0
    inflater = zstandard.ZstdDecompressor().decompressobj()
    try:
        while n <= max_bytes and at < len(content):
            # zstandard has no limit on what one call gives, so the pieces are small.
            data = content[at : at + ZSTD_FEED]
            pieces.append(inflater.decompress(data))
            n += len(pieces[-1])
            at += len(data)
            if inflater.eof:
                at -= len(inflater.unused_data)
                if not content.startswith(ZSTD_MAGIC, at):
                    return _result(content, (b"".join(pieces), True), flaws)
                inflater = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError:
        return _result(content, (b"".join(pieces), False), flaws)
    return _result(content, (b"".join(pieces), n > max_bytes), flaws)


def _result(content: bytes, result: tuple[bytes, bool], flaws: list[str]) -> bytes:
    decoded, whole = result
    if whole:
        return decoded
    if not decoded or (not content.startswith((GZIP_MAGIC, ZSTD_MAGIC)) and _is_text(content)):
        return _lie(content, flaws)
    flaws.append("encoding_broken")
    return decoded


def _lie(content: bytes, flaws: list[str]) -> bytes:
    if content:
        flaws.append("encoding_lie")
    return content


def _is_text(content: bytes) -> bool:
    return TEXT_CONTROLS.search(content[:512]) is None


_CODINGS: dict[str, Callable[[bytes, int, list[str]], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "x-deflate": _undeflate,
    "br": _unbrotli,
    "brotli": _unbrotli,
    "zstd": _unzstd,
    "x-zstd": _unzstd,
}
