"""Dumps of MediaWiki: `pages-articles*.xml` to pages, `externallinks.sql` to links, one at a time.

Plain, bzip2 (one stream or many), gzip and zstd; local or remote. What is damaged costs itself: pages before it are
read, and in plain XML and in bzip2 of many streams those after it too, and each stretch lost is in the account.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from lxml import etree

from pipeline.errors import InputError
from pipeline.sources.inputs import InputFile, open_input
from pipeline.sources.members import Source
from pipeline.sources.streams import CODECS, Damage, Edge, Piece, codec_of, is_multistream, pieces

ARTICLES = frozenset({0})
"""The namespace of articles."""

PAGES, LINKS = "pages", "external_links"

MOST_PAGE_BYTES = 16 << 20
"""Bytes of XML a page may have. MediaWiki takes 2 MiB of wikitext ($wgMaxArticleSize); escapes can make it longer."""

HEAD_BYTES = 1 << 16
"""Decompressed bytes by which a dump is recognised."""

GAP_BYTES = 1 << 17
"""Bytes that may stand before the first page: some 2 kB of names of namespaces in English."""

_TAIL = 256
"""Bytes at the end of a dump in which its last tag must stand."""

_PAGE, _END_PAGE, _END = b"<page>", b"</page>", b"</mediawiki>"
_INDEX_NAME = re.compile(r"-multistream-index\d*\.txt[^/]*\Z")
_INDEX = re.compile(rb"\d+:\d+:.")


class Page(NamedTuple):
    """A page as its last revision in the dump has it. `redirect` is the title it leads to; `text` is wikitext."""

    title: str
    page_id: int
    namespace: int
    redirect: str | None
    revision_id: int
    timestamp: str
    text: str
    wiki: str = ""


class Link(NamedTuple):
    """A row of the table externallinks."""

    page_id: int
    url: str


@dataclass(frozen=True, slots=True, order=True)
class DumpSplit:
    """The part [start, end) of a dump that one task reads, and what kind of dump it is.

    `content` is `pages` or `external_links`, `codec` one of plain, bzip2, gzip, zstd, `wiki` the name of its database
    (enwiki) or ''.
    """

    path: str
    start: int
    end: int | None
    content: str
    codec: str
    wiki: str


@dataclass
class Account:
    """What became of a split: counts of pages, and what could not be read."""

    pages: int = 0
    redirects: int = 0
    other_namespaces: int = 0
    links: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def bytes_lost(self) -> int:
        """Bytes of the file that could not be read."""
        return sum(damage.length for damage in self.damages)


def splits(files: Iterable[InputFile], split_bytes: int) -> list[DumpSplit]:
    """Each dump in parts of at most `split_bytes` bytes of the file: plain XML and bzip2 of many streams; what is
    compressed in one piece, and SQL, is one part. Indexes of multistream dumps are left out: none is needed.

    Raises InputError for a file that is no dump.
    """
    return [split for file in files if not is_index(file.path) for split in _splits(file, split_bytes)]


def is_index(path: str) -> bool:
    """Whether a file goes by the name of a multistream dump's index."""
    return bool(_INDEX_NAME.search(path))


def _splits(file: InputFile, split_bytes: int) -> list[DumpSplit]:
    with open_input(file.path) as stream:
        source = Source(stream)
        codec = codec_of(source, file.path)
        content, wiki = _recognise(file.path, _head(source, file.path, codec))
        size = source.size
        parallel = codec == "plain" or (codec == "bzip2" and is_multistream(source))
    n = max(1, -(-size // split_bytes)) if parallel and content == PAGES else 1
    return [DumpSplit(file.path, i * size // n, (i + 1) * size // n, content, codec, wiki) for i in range(n)]


def _head(source: Source, path: str, codec: str) -> bytes:
    head = b""
    for piece in pieces(source, path, codec, 0, None):
        if isinstance(piece, Piece):
            head += piece.data
        if len(head) >= HEAD_BYTES:
            break
    return head[: 4 * HEAD_BYTES]


def _recognise(path: str, head: bytes) -> tuple[str, str]:
    """What a dump holds and the wiki it is of. Raises InputError."""
    if b"<mediawiki" in head or _PAGE in head:
        found = re.search(rb"<dbname>([^<]{1,100})<", head)
        base = re.search(rb"<base>([^<]{1,500})<", head)
        if found:
            return PAGES, found[1].decode("utf-8", "replace").strip()
        return PAGES, _host(base[1].decode("utf-8", "replace")) if base else ""
    if re.search(rb"(?:TABLE|INTO) `?externallinks`?", head):
        found = re.search(rb"Database: (\S{1,100})", head)
        return LINKS, found[1].decode("utf-8", "replace") if found else ""
    table = re.search(rb"(?:CREATE TABLE|INSERT INTO) `?(\w+)`?", head)
    if not head:
        why = "is empty or nothing of it can be read"
    elif table:
        why = f"is a dump of the table {table[1].decode()}; of SQL dumps only externallinks can be read"
    elif _INDEX.match(head):
        why = "is the index of a multistream dump; give the dump itself, the index is not needed"
    elif re.match(rb"\s*<(!doctype html|html)", head, re.IGNORECASE):
        why = "is an HTML page, perhaps the error page of a download"
    else:
        why = "is no dump of MediaWiki"
    raise InputError(f"{path}: {why} (wanted: …-pages-articles….xml or …-externallinks.sql, plain or .bz2, .gz, .zst)")


def _host(url: str) -> str:
    try:
        return urlsplit(url.strip()).hostname or ""
    except ValueError:
        return ""


def pages(split: DumpSplit, account: Account | None = None, namespaces: Set[int] | None = ARTICLES) -> Iterator[Page]:
    """The pages that begin in a split, redirects among them; those of all namespaces for None.

    At most one page is in memory. What could not be read is noted in `account`. Raises InputError where the file cannot
    be read at all, and for a split of links.
    """
    for page, _ in located(split, account, namespaces):
        yield page


class Place(NamedTuple):
    """Where the XML of a page lies: `offset` in the file, which is that of the bzip2 stream in which it begins where there
    are many, and in the inflated stream where the file is compressed in one; and its length in bytes of XML."""

    offset: int
    length: int
    of: Literal["file", "stream", "inflated"]


def located(
    split: DumpSplit, account: Account | None = None, namespaces: Set[int] | None = ARTICLES
) -> Iterator[tuple[Page, Place]]:
    """`pages`, each with its place, which does not depend on the splits."""
    account = Account() if account is None else account
    if split.content != PAGES:
        raise InputError(f"{split.path}: holds links, not pages; read it with external_links")
    with open_input(split.path) as stream:
        source = Source(stream)
        plain = split.codec == "plain"
        many = split.codec == "bzip2" and is_multistream(source)
        arriving = pieces(source, split.path, split.codec, split.start, split.end)
        tail = source.read(max(0, source.size - _TAIL), _TAIL) if plain else b""
        for fragment in _Cutter(split, account, tail).fragments(arriving):
            page = _parse(fragment, split, account)
            if page is None:
                continue
            if namespaces is not None and page.namespace not in namespaces:
                account.other_namespaces += 1
                continue
            account.pages += 1
            account.redirects += page.redirect is not None
            length = len(fragment.xml)
            if plain:
                yield page, Place(fragment.at, length, "file")
            elif many:
                yield page, Place(fragment.stream, length, "stream")
            else:
                yield page, Place(fragment.inflated, length, "inflated")


class _Fragment(NamedTuple):
    """The XML of a page, where in the file it begins (of a compressed file: begins to be decompressed); where its bzip2
    stream begins; and where it begins in what the split inflates to."""

    xml: bytes
    at: int
    stream: int = 0
    inflated: int = 0


class _Mark(NamedTuple):
    """From the byte `inflated` of what a split inflates to, bytes come from the place `at` of the file, of a stream."""

    inflated: int
    at: int
    stream: int


class _Cutter:
    """Cuts a stream of pieces into pages. A page belongs to the split in whose pieces its `<page>` begins."""

    def __init__(self, split: DumpSplit, account: Account, tail: bytes = b"") -> None:
        """`tail` is the end of a plain file: the last split can be shorter than what must stand there."""
        self._split = split
        self._tail = tail
        self._account = account
        self._plain = split.codec == "plain"
        self._buffer = b""
        self._at = split.start  # where in the file the buffer begins
        self._inside = False
        self._whole = split.start == 0  # whether nothing before the buffer is missing
        self._header = self._whole
        self._inflated = 0  # bytes before the buffer
        self._marks: list[_Mark] = []

    def fragments(self, arriving: Iterator[Piece | Damage | Edge]) -> Iterator[_Fragment]:
        """Each page; damage goes into the account."""
        own = True
        size = self._split.start
        last = b""
        damaged = False
        astray = False  # whether the edge lies in what is no page, which this split tells of up to the next one
        edge = 0  # where the split's own bytes end in what it inflates to, once that is passed
        for event in arriving:
            if isinstance(event, Edge):
                own, edge = False, self._inflated + len(self._buffer)
                if not self._inside and not self._open_tag():
                    astray = self._whole and not _END.startswith(self._buffer.strip())
                    if not astray:
                        return
                continue
            if isinstance(event, Damage):
                if astray:  # as one task would have it: the damage is told by the split in which it begins
                    return
                self._note(event.offset, event.length if own else 0, event.reason)
                self._drop()
                damaged = True
                if not own:
                    return
                continue
            size = event.end
            if self._plain:
                if not self._buffer:
                    self._at = event.start
            else:
                self._mark(event)
            self._buffer += event.data
            last, damaged = (last + event.data)[-_TAIL:], False
            if own:
                yield from self._cut()
                continue
            if astray:
                found = self._buffer.find(_PAGE)
                if found < 0 and len(self._buffer) < GAP_BYTES:
                    continue
                self._gap(0, len(self._buffer) if found < 0 else found, self._buffer)
                return
            if not self._inside:
                found = self._buffer.find(_PAGE)
                if not 0 <= found < edge - self._inflated:
                    return
            for fragment in self._cut():
                yield fragment
                if fragment.inflated + len(fragment.xml) >= edge:
                    return
            if not self._inside or self._inflated >= edge:
                return
        if astray:
            self._gap(0, len(self._buffer), self._buffer)
        elif self._inside:
            length = size - self._at if self._plain else 0
            self._note(self._at, length, "a page is cut short at the end of the file")
        elif own and last and not damaged and self._ends_early(last):
            self._note(size, 0, f"the dump ends without {_END.decode()}: it is cut short")

    def _ends_early(self, last: bytes) -> bool:
        """Whether the end of the dump is missing, `last` being the last of the split."""
        tail = self._tail or last
        if _END in tail:
            return False
        # A split that lies within a page as a whole leaves it to the one in which the page begins to tell of the cut.
        return self._whole or not self._plain or tail.rfind(_END_PAGE) > tail.rfind(_PAGE)

    def _open_tag(self) -> bool:
        return any(self._buffer.endswith(_PAGE[:n]) for n in range(1, len(_PAGE)))

    def _note(self, offset: int, length: int, reason: str) -> None:
        self._account.damages.append(Damage(self._split.path, offset, length, reason))

    def _mark(self, piece: Piece) -> None:
        """Notes where the end of the buffer comes from, and forgets what lies before its start."""
        self._marks.append(_Mark(self._inflated + len(self._buffer), piece.start, piece.stream))
        first = bisect_right(self._marks, self._inflated, key=lambda mark: mark.inflated) - 1
        if first > 0:
            del self._marks[:first]
        self._at = self._marks[0].at

    def _origin(self, position: int) -> _Mark:
        """Where the byte at a position of the buffer comes from."""
        if self._plain or not self._marks:
            return _Mark(0, self._at + position, 0)
        number = bisect_right(self._marks, self._inflated + position, key=lambda mark: mark.inflated) - 1
        return self._marks[max(number, 0)]

    def _drop(self) -> None:
        self._inflated += len(self._buffer)
        self._buffer, self._inside, self._whole, self._header = b"", False, False, False

    def _advance(self, n: int) -> None:
        self._buffer = self._buffer[n:]
        self._inflated += n
        if self._plain:
            self._at += n
        elif self._marks:
            self._at = self._origin(0).at

    def _cut(self) -> Iterator[_Fragment]:
        position = 0
        buffer = self._buffer
        while True:
            if not self._inside:
                start = buffer.find(_PAGE, position)
                end = buffer.find(_END_PAGE, position, None if start < 0 else start)
                if not self._whole and end >= 0:
                    # The end of a page that belongs to another split; from here on nothing is missing.
                    position, self._whole, self._header = end + len(_END_PAGE), True, False
                if start < 0:
                    keep = max(position, len(buffer) - (GAP_BYTES if self._whole else len(_END_PAGE) - 1))
                    if self._whole and keep > position:
                        self._gap(position, keep, buffer)
                    self._advance(keep)
                    return
                self._gap(position, start, buffer)
                self._inside, self._whole, position = True, True, start
            end = buffer.find(_END_PAGE, position)
            # Where the end tag of a page is damaged, the next page is well, and may be the next split's.
            following = buffer.find(_PAGE, position + len(_PAGE), None if end < 0 else end)
            if following >= 0:
                origin = self._origin(position)
                yield _Fragment(buffer[position:following], origin.at, origin.stream, self._inflated + position)
                position = following
                continue
            if end < 0:
                self._advance(position)
                if len(self._buffer) > MOST_PAGE_BYTES:
                    length = len(self._buffer) if self._plain else 0
                    self._note(self._at, length, f"a page of more than {MOST_PAGE_BYTES >> 20} MiB of XML")
                    at = self._at + (len(self._buffer) if self._plain else 0)
                    self._drop()
                    self._at = at
                return
            end += len(_END_PAGE)
            self._inside = False
            # The state must stand before anything is given away: whoever reads may stop here.
            origin = self._origin(position)
            yield _Fragment(buffer[position:end], origin.at, origin.stream, self._inflated + position)
            position = end

    def _gap(self, start: int, end: int, buffer: bytes) -> None:
        """Between pages nothing stands but white space, and once the header; anything else was a page."""
        if not self._whole:
            return
        gap = buffer[start:end].strip()
        header, self._header = self._header, False
        if not gap or b"<logitem>" in gap or _END in gap or (header and b"<title>" not in gap):
            return
        self._note(self._origin(start).at, end - start if self._plain else 0, "what stands between two pages is none")


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True
    )


def _parse(fragment: _Fragment, split: DumpSplit, account: Account) -> Page | None:
    """The page, or None with the reason in the account. A page has no document type of its own, so no entities."""
    try:
        return _page(etree.fromstring(fragment.xml, _parser()), split.wiki)
    except (etree.XMLSyntaxError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    length = len(fragment.xml) if split.codec == "plain" else 0
    account.damages.append(Damage(split.path, fragment.at, length, f"a page is not well-formed: {reason}"))
    return None


def _page(root: etree._Element, wiki: str) -> Page:
    """Raises ValueError or TypeError where a field is missing or is no number."""
    revisions = root.findall("revision")
    if not revisions:
        raise ValueError("it has no revision")
    revision = revisions[-1]
    redirect = root.find("redirect")
    title = root.findtext("title")
    if not title:
        raise ValueError("it has no title")
    return Page(
        title,
        int(root.findtext("id") or "none"),
        int(root.findtext("ns") or 0),
        None if redirect is None else redirect.get("title", ""),
        int(revision.findtext("id") or 0),
        revision.findtext("timestamp") or "",
        revision.findtext("text") or "",
        wiki,
    )


# Values of an INSERT as mysqldump writes them. Possessive, so that no input makes them look twice.
_STRING = rb"'((?:[^'\\]++|\\.|'')*+)'"
_VALUE = rb"(?:_binary )?(?:" + _STRING + rb"|(NULL|-?[0-9.eE+-]++|0x[0-9A-Fa-f]*+))"
_COLUMN = re.compile(rb"^\s*`(\w+)` ", re.MULTILINE)
_INSERT = re.compile(rb"INSERT INTO `?externallinks`?\s*(?:\(([^()]*)\)\s*)?VALUES\s*")
_ESCAPE = re.compile(rb"\\(.)|''", re.DOTALL)
_ESCAPES = {b"0": b"\0", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"Z": b"\x1a"}

MOST_ROW_BYTES = 1 << 20
"""Bytes a row may have. `el_to` is a blob of at most 65,535, every byte of which may be escaped."""


def external_links(split: DumpSplit, account: Account | None = None) -> Iterator[Link]:
    """The links of an `externallinks.sql` dump, in both forms: with `el_to`, and with `el_to_domain_index` and
    `el_to_path` (MediaWiki 1.41).

    Rows are read one at a time, however long the statement. Raises InputError for a dump without these columns.
    """
    account = Account() if account is None else account
    with open_input(split.path) as stream:
        for row in _rows(pieces(Source(stream), split.path, split.codec, split.start, split.end), split, account):
            account.links += 1
            yield row


def _rows(arriving: Iterator[Piece | Damage | Edge], split: DumpSplit, account: Account) -> Iterator[Link]:
    buffer = b""
    columns: list[str] = []
    row: re.Pattern[bytes] | None = None
    in_values = False
    at = split.start
    ended = False
    while True:
        event = next(arriving, None)
        if isinstance(event, Damage):
            account.damages.append(event)
            buffer, in_values, ended = b"", False, True
            continue
        if isinstance(event, Piece):
            buffer += event.data
            at = event.end
        last = event is None
        position = 0
        while True:
            if not in_values:
                found = _INSERT.search(buffer, position)
                if not found:
                    if not columns and not row:
                        columns = [name.decode() for name in _COLUMN.findall(buffer)]
                        keep = position if len(buffer) - position < MOST_ROW_BYTES else len(buffer) - 4096
                    else:
                        keep = max(position, len(buffer) - 4096)
                    ended = ended or b"Dump completed" in buffer[position:] or b"UNLOCK TABLES" in buffer[position:]
                    position = keep
                    break
                if found[1]:
                    columns = [name.strip(" `\n") for name in found[1].decode("utf-8", "replace").split(",")]
                elif row is None:
                    columns = [name.decode() for name in _COLUMN.findall(buffer[: found.start()])] or columns
                row = _row_pattern(columns, split.path)
                in_values, position = True, found.end()
            assert row is not None  # for the type checker: in_values is only set beside it
            matched = row.match(buffer, position)
            if matched is None:
                if len(buffer) - position <= MOST_ROW_BYTES and not last:
                    break
                if len(buffer) > position or last:
                    reason = "the dump ends within a statement" if last else "a row cannot be read"
                    account.damages.append(
                        Damage(split.path, at, len(buffer) - position if split.codec == "plain" else 0, reason)
                    )
                in_values, ended = False, ended or last
                if last:
                    break
                continue
            position = matched.end()
            in_values = matched[matched.lastindex or 0] == b","
            link = _link(columns, matched)
            if link is not None:
                yield link
        buffer = buffer[position:]
        if last:
            if not ended:
                account.damages.append(Damage(split.path, at, 0, "the dump ends before its last statement"))
            return


def _row_pattern(columns: list[str], path: str) -> re.Pattern[bytes]:
    if "el_from" not in columns or not ("el_to" in columns or "el_to_domain_index" in columns):
        named = ", ".join(columns[:8]) or "none"
        raise InputError(f"{path}: the table has no columns el_from and el_to or el_to_domain_index (found: {named})")
    values = rb"\s*,\s*".join([_VALUE] * len(columns))
    return re.compile(rb"\s*\(\s*" + values + rb"\s*\)\s*([,;])", re.DOTALL)


def _link(columns: list[str], matched: re.Match[bytes]) -> Link | None:
    def value(name: str) -> bytes | None:
        number = columns.index(name)
        text, plain = matched[2 * number + 1], matched[2 * number + 2]
        if text is None:
            return None if plain == b"NULL" else plain
        return _ESCAPE.sub(_unescaped, text) if b"\\" in text or b"''" in text else text

    try:
        page_id = int(value("el_from") or b"0")
    except ValueError:
        return None
    if "el_to_domain_index" in columns and (index := value("el_to_domain_index")):
        url = url_of_index(index.decode("utf-8", "replace"), (value("el_to_path") or b"").decode("utf-8", "replace"))
    else:
        url = (value("el_to") or b"").decode("utf-8", "replace") if "el_to" in columns else ""
    return Link(page_id, url) if url else None


def _unescaped(found: re.Match[bytes]) -> bytes:
    return b"'" if found[1] is None else _ESCAPES.get(found[1], found[1])


def url_of_index(index: str, path: str) -> str:
    """The address that MediaWiki keeps as a reversed host (`https://org.example.www.`) and the rest.

    After `LinkFilter::reverseIndexes` of MediaWiki 1.41: labels in reverse with a final dot, `V4.` and `V6.` before IP
    addresses, a port behind.
    """
    scheme, slashes, host = index.partition("://")
    if not slashes:
        scheme, slashes, host = index.partition(":")
    user, at, host = host.rpartition("@")
    host, colon, port = host.partition(":")
    if host.startswith("V4."):
        host = host[3:].strip(".")
    elif host.startswith("V6."):
        host = f"[{host[3:].strip('.').replace('.', ':')}]"
    else:
        host = ".".join(reversed(host.rstrip(".").split(".")))
    return f"{scheme}{slashes}{user}{at}{host}{colon}{port}{path}"


__all__ = [
    "ARTICLES", "CODECS", "Account", "Damage", "DumpSplit", "Link", "Page", "Place", "external_links", "located", "pages",
    "splits",
]  # fmt: skip
