"""Kinds whose text is ordinary and whose bytes are not: codings, charsets, status lines, and lies about them."""

import zlib
from collections.abc import Callable

import brotli

from pipeline.sample import layouts
from pipeline.sample.archive import gzip_member
from pipeline.sample.draft import Draft, snippets
from pipeline.sample.layouts import Main
from pipeline.sample.page import Page, document, paragraphs

HTML = ("Content-Type", "text/html; charset=utf-8")


def chunk(body: bytes, size: int = 1000) -> bytes:
    """The body in HTTP chunked coding."""
    parts = (body[i : i + size] for i in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


ENCODINGS: tuple[tuple[str, Callable[[bytes], bytes], list[tuple[str, str]]], ...] = (
    ("gzip", gzip_member, [("Content-Encoding", "gzip")]),
    ("deflate", zlib.compress, [("Content-Encoding", "deflate")]),
    ("brotli", brotli.compress, [("Content-Encoding", "br")]),
    ("chunked", chunk, [("Transfer-Encoding", "chunked")]),
    (
        "gzip in chunks",
        lambda b: chunk(gzip_member(b)),
        [("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")],
    ),
    ("raw deflate", lambda b: zlib.compress(b)[2:-4], [("Content-Encoding", "deflate")]),
    ("says gzip, is plain", bytes, [("Content-Encoding", "gzip")]),
    ("says brotli, is plain", bytes, [("Content-Encoding", "br")]),
    ("is gzip, says nothing", gzip_member, []),
    ("says deflate, is gzip", gzip_member, [("Content-Encoding", "deflate")]),
    ("says chunked, is not", bytes, [("Transfer-Encoding", "chunked")]),
    ("is chunked, says nothing", chunk, []),
    ("wrong length", bytes, [("Content-Length", "77")]),
    ("identity", bytes, [("Content-Encoding", "identity")]),
)


def encoded(draft: Draft) -> list[Page]:
    """An article under one of the content and transfer codings, declared truly or not."""
    name, encode, headers = ENCODINGS[draft.index % len(ENCODINGS)]
    page = draft.page(layouts.article(draft.english), notes={"encoding": name})
    page.body, page.headers = encode(page.body), [HTML, *headers]
    return [page]


ACCENTS = "The café in the passage keeps the naïve drawings of the señora – “all of them”, as she says."

CHARSETS = (
    # name, codec, HTTP charset, meta charset, exact: whether the accents can be told from what is declared
    ("windows-1252 in meta", "cp1252", "", "windows-1252", True),
    ("latin-1 in HTTP, windows-1252 in fact", "cp1252", "iso-8859-1", "", True),
    ("UTF-16 little endian with mark", "utf-16-le", "", "", True),
    ("UTF-16 big endian with mark", "utf-16-be", "", "", True),
    ("UTF-8 with mark, latin-1 in HTTP", "utf-8-sig", "iso-8859-1", "", True),
    ("UTF-8 in fact, latin-1 in meta", "utf-8", "utf-8", "iso-8859-1", True),
    ("windows-1252 in fact, UTF-8 in HTTP", "cp1252", "utf-8", "utf-8", False),
    ("UTF-8, nothing declared", "utf-8", "", "", True),
    ("unknown charset name", "utf-8", "x-nonsense", "", False),
)


def charset(draft: Draft) -> list[Page]:
    """An English article with accents in an encoding that is declared well, wrongly or not at all."""
    name, codec, in_http, in_meta, exact = CHARSETS[draft.index % len(CHARSETS)]
    main = layouts.article(draft.english)
    texts = [*main.prose, ACCENTS]
    html = document(draft.site, main.title, paragraphs(texts), charset=in_meta)
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(codec, b"")
    contain = snippets(draft.random, main.prose) + ([ACCENTS[:50]] if exact else [])
    page = draft.page(Main(main.title, "", texts), body=mark + html.encode(codec), must_contain=contain)
    page.headers = [("Content-Type", f"text/html; charset={in_http}" if in_http else "text/html")]
    page.notes["charset"] = name
    return [page]


LEGACY = (("ru", "cp1251", ""), ("ja", "shift_jis", ""), ("ru", "koi8_r", "koi8-r"), ("zh", "gb18030", "gb2312"),
          ("ru", "cp1251", "iso-8859-1"), ("el", "iso8859_7", "iso-8859-7"), ("ja", "euc_jp", "euc-jp"))  # fmt: skip


def legacy_charset(draft: Draft) -> list[Page]:
    """An article of another language in an old encoding of its country."""
    language, codec, declared = LEGACY[draft.index % len(LEGACY)]
    writer = draft.foreign(language)
    texts = [writer.paragraph() for _ in range(4)]
    main = Main(writer.title(), paragraphs(texts), texts)
    body = document(draft.site, main.title, main.html, language, charset="").encode(codec, "replace")
    reasons = ("gates.language", "quality")
    page = draft.page(main, body=body, language=language, expect="dropped", reasons=reasons, must_contain=[])
    page.headers = [("Content-Type", f"text/html; charset={declared}" if declared else "text/html")]
    page.notes["charset"] = codec
    return [page]


STATUS_LINES = ("HTTP/1.1 HTTP/1.1 200 OK", "HTTP/1.1", "HTTP/1.1 OK", "HTTP/1.1 ??? OK")


def malformed_status(draft: Draft) -> list[Page]:
    """A status line without a readable code: unknown is not a failure."""
    line = STATUS_LINES[draft.index % len(STATUS_LINES)]
    return [draft.page(layouts.article(draft.english), status_line=line, notes={"status_line": line})]


def bare_newlines(draft: Draft) -> list[Page]:
    """Header lines that end in a line feed only."""
    return [draft.page(layouts.article(draft.english), newline=b"\n")]


def cut_short(draft: Draft) -> list[Page]:
    """A page that the crawler cut at a length limit, in the middle of its last paragraphs, and marked as truncated."""
    main = layouts.article(draft.english, words=500)
    page = draft.page(main, must_contain=snippets(draft.random, main.prose[:2]), must_not_contain=[])
    end = page.body.find(main.prose[-1][:30].replace("&", "&amp;").encode())
    page.body, page.truncated = page.body[: end + 40], True
    return [page]


def odd_bytes(draft: Draft) -> list[Page]:
    """NUL bytes, invalid UTF-8, unclosed tags and control characters around an article."""
    main = layouts.article(draft.english)
    page = draft.page(main)
    noise = (b"\x00\x00", b"\xff\xfe\xc0", b"<b><i><p <div", b"\x08\x0b\x1b")[draft.index % 4]
    page.body = page.body.replace(b"</body>", b"<div>" + noise + b"</div></body>")
    page.notes["noise"] = noise.decode("latin-1")
    return [page]


KINDS = {
    "encoded": (28, encoded),
    "charset": (27, charset),
    "legacy_charset": (14, legacy_charset),
    "malformed_status": (8, malformed_status),
    "bare_newlines": (4, bare_newlines),
    "cut_short": (4, cut_short),
    "odd_bytes": (8, odd_bytes),
}
"""Kind -> (pages in a sample of 1,600, builder)."""
