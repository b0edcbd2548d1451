"""Bytes to text: which character set a page is in, whatever it says.

Order of belief: byte order mark, HTTP header, meta tag (both with the WHATWG meaning of labels: `latin-1` is
windows-1252, `gb2312` is GB 18030), then detection (uchardet, through Resiliparse). Bytes that are valid UTF-8 with
characters beyond ASCII are UTF-8 even where a header names something else: other encodings hardly ever look like it.
References: WHATWG Encoding Standard; HTML Living Standard section 13.2.3 (encoding sniffing).
"""

import codecs
import re
from dataclasses import dataclass
from functools import lru_cache

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

PRESCAN = 4096  # bytes searched for a meta tag; HTML asks for 1,024, pages put theirs later
SAMPLE = 1 << 15  # bytes that detection sees
MISLABELLED_BYTES = 8  # bytes beyond ASCII that must be valid UTF-8 to overrule a multi-byte charset

META = re.compile(
    rb"<meta\b(?=[^>]{0,512}?charset)[^>]{0,512}?charset[\s]{0,16}=[\s\"']{0,16}([A-Za-z0-9_.:+-]{2,40})", re.IGNORECASE
)
XML = re.compile(rb"\s{0,64}<\?xml\b[^>]{0,256}?encoding\s{0,16}=\s{0,16}[\"']([A-Za-z0-9_.:+-]{2,40})", re.IGNORECASE)
COMMENT = re.compile(rb"<!--.{0,4096}?-->", re.DOTALL)
HTTP = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:+-]{2,40})", re.IGNORECASE)

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

WIDER = {
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "big5": "big5hkscs",
    "iso8859-11": "cp874",
    "iso8859-9": "cp1254",
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
}
"""Python codec for what the WHATWG standard means by a name: the supersets that browsers decode with."""

SEVEN_BIT = re.compile(r"iso2022|hz|utf-?7|utf-?16|utf-?32")
"""Codecs whose text can look like ASCII bytes, or is made of single bytes that do."""

BEYOND_WHATWG = re.compile(r"(cp|windows-|ibm|iso|latin|mac|koi|hz|big5|gb|euc|johab|viscii|tis|ptcp)[a-z0-9_.-]*\Z")
SINGLE_BYTE = re.compile(r"(cp(?!932|936|949|950)|iso8859|mac|koi|tis|hp|ptcp|kz|latin)")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A page as text, safe for Arrow: no NUL, no lone surrogate, no byte order mark.

    `charset` is the Python codec it was decoded with, `how` says who named it: `bom`, `http`, `meta`, `detected`, or
    `utf-8` where the bytes themselves are valid UTF-8 (or ASCII) and nothing was declared. Flaws: `charset_unknown`
    (a label that is no charset), `charset_wrong` (the declared charset was overruled), `undecodable_bytes` (replaced by
    U+FFFD), `nul_bytes` (removed).
    """

    text: str
    charset: str
    how: str
    flaws: tuple[str, ...] = ()


def decode_text(content: bytes, content_type: str | None) -> Decoded:
    """Decodes a page. `content_type` is the HTTP header, with its charset parameter. Never raises on data."""
    flaws: list[str] = []
    for mark, charset in MARKS:
        if content.startswith(mark):
            text, bad = _decode(content[len(mark) :], charset)
            if bad:
                flaws.append("undecodable_bytes")
            return _clean(text, charset, "bom", flaws)
    declared = list(_declared(content, content_type, flaws))
    ascii_only = content.isascii()
    if ascii_only and not any(SEVEN_BIT.match(charset) for charset, _ in declared) and b"\0" not in content[:256]:
        charset, how = declared[0] if declared else ("utf-8", "utf-8")
        return _clean(content.decode("ascii"), charset, how, flaws)
    utf8, bad_utf8 = _decode_utf8(content)
    n_beyond = len(utf8.encode()) - len(utf8) if bad_utf8 == 0 and not ascii_only else 0
    for charset, how in declared:
        if charset == "utf-8":
            if bad_utf8 == 0 or _mostly_utf8(utf8, bad_utf8):
                return _finish(utf8, charset, how, bad_utf8, flaws)
            flaws.append("charset_wrong")
            continue
        if n_beyond >= (1 if SINGLE_BYTE.match(charset) else MISLABELLED_BYTES):
            flaws.append("charset_wrong")
            return _clean(utf8, "utf-8", "utf-8", flaws)
        text, bad = _decode(content, charset)
        # A few undecodable bytes are damage; many are a wrong label.
        if bad * 50 <= max(1, _beyond_ascii(content)):
            return _finish(text, charset, how, bad, flaws)
        flaws.append("charset_wrong")
    if bad_utf8 == 0 and b"\0" not in content[:256]:
        return _clean(utf8, "utf-8", "utf-8", flaws)
    charset = _detected(content)
    if charset == "utf-8" or _mostly_utf8(utf8, bad_utf8):
        return _finish(utf8, "utf-8", "detected", bad_utf8, flaws)
    text, bad = _decode(content, charset)
    return _finish(text, charset, "detected", bad, flaws)


def _declared(content: bytes, content_type: str | None, flaws: list[str]) -> list[tuple[str, str]]:
    """The charsets that HTTP header and markup name, in order of belief, as Python codecs."""
    found: list[tuple[str, str]] = []
    label = HTTP.search(content_type) if content_type else None
    if label:
        found.append((label[1], "http"))
    head = content[:PRESCAN]
    xml = XML.match(head)
    if b"<!--" in head:
        head = COMMENT.sub(b"", head)
    meta = META.search(head)
    # A page with both is served as HTML, where the meta tag counts.
    for mark in (meta, xml):
        if mark:
            found.append((mark[1].decode("ascii"), "meta"))
    named: list[tuple[str, str]] = []
    for name, how in found:
        charset = codec(name)
        if charset is None:
            flaws.append("charset_unknown")
            continue
        if how == "meta" and charset.startswith(("utf-16", "utf-32")):
            charset = "utf-8"  # it could not have been read in UTF-16 (HTML 13.2.3.2)
        if charset not in (known for known, _ in named):
            named.append((charset, how))
    return named


@lru_cache(maxsize=512)
def codec(label: str) -> str | None:
    """The Python codec for a charset label as the WHATWG Encoding Standard reads it, with what Python knows beyond it
    (`hz-gb-2312`, `iso-2022-kr`, code pages of DOS); None for anything else."""
    label = label.strip().lower()
    name = {"x-user-defined": "cp1252", "x-mac-cyrillic": "mac-cyrillic", "x-mac-ukrainian": "mac-cyrillic"}.get(label)
    name = name or map_encoding_to_html5(label, fallback_utf8=False)
    if name is None and BEYOND_WHATWG.match(label):
        name = label.replace("windows-", "cp").replace("x-mac-", "mac-").replace("hz-gb-2312", "hz")
    if name is None:
        return None
    try:
        name = codecs.lookup(WIDER.get(name, name)).name
    except LookupError:
        return None
    return WIDER.get(name, name)


def _decode_utf8(content: bytes) -> tuple[str, int]:
    try:
        return content.decode("utf-8"), 0
    except UnicodeDecodeError as error:
        if error.end >= len(content) and error.reason == "unexpected end of data":
            return content[: error.start].decode("utf-8"), 0  # cut within its last character
        text = content.decode("utf-8", "replace")
        return text, text.count("�")


def _decode(content: bytes, charset: str) -> tuple[str, int]:
    try:
        return content.decode(charset), 0
    except (UnicodeDecodeError, UnicodeError):
        text = content.decode(charset, "replace")
        return text, max(1, text.count("�"))


def _mostly_utf8(text: str, bad: int) -> bool:
    """Whether text decoded as UTF-8 with `bad` replacements is that: at least ten good characters to a bad one."""
    if bad == 0:
        return True
    sample = text if len(text) < 1 << 20 else text[: 1 << 20]
    good = len(sample.encode()) - len(sample) - 2 * sample.count("�")
    return good > 10 * bad


def _beyond_ascii(content: bytes) -> int:
    return len(content) - len(content.translate(None, _HIGH))


_HIGH = bytes(range(128, 256))


def _detected(content: bytes) -> str:
    head = content[:256]
    if head.count(b"\0") * 4 > len(head):
        return "utf-16-be" if head[:2].startswith(b"\0") else "utf-16-le"
    found = detect_encoding(content, max_len=SAMPLE)
    return codec(found) or "cp1252" if found else "cp1252"


def _finish(text: str, charset: str, how: str, bad: int, flaws: list[str]) -> Decoded:
    if bad:
        flaws.append("undecodable_bytes")
    return _clean(text, charset, how, flaws)


def _clean(text: str, charset: str, how: str, flaws: list[str]) -> Decoded:
    if "\0" in text:
        text = text.replace("\0", "")
        flaws.append("nul_bytes")
    if charset != "utf-8" and not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            flaws.append("undecodable_bytes")
    return Decoded(text.removeprefix("\ufeff"), charset, how, tuple(dict.fromkeys(flaws)))
