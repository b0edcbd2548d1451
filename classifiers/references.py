"""Wikitext -> the addresses that it cites: what Wikipedia's editors found worth pointing at.

wikitextparser takes the wikitext apart, courlan (through `canonical_url`) and tldextract the addresses. The parser is
given pieces of a bounded size and depth, so that no page makes it take long.
"""

import html
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import wikitextparser
import yaml

from pipeline.dedup.addresses import canonical_url
from pipeline.signals.urls import split_url
from pipeline.sources.wikipedia import Page

REF, TEMPLATE, BARE, SECTION, TABLE = "ref", "template", "bare", "external_links_section", "table"

KINDS = (REF, TEMPLATE, BARE, SECTION, TABLE)
"""Where a citation stands: in `<ref>`, in a citation template outside of one, elsewhere in the text, in the section of
external links; `table` is a row of the table externallinks, of which it is not known."""

MOST_URL = 2_000
"""Characters of an address; longer ones name a state of an application, not a page."""

PIECE, MOST_PIECE = 6_000, 16_000
"""Characters from which the parser's pieces end at the next line outside of templates, and at which they end anywhere.
Its time can grow with the square of what it is given: 0.3 s for the worst of this length, seconds for six times it."""

MOST_DEPTH = 40
"""Templates in templates; MediaWiki expands to this depth by default ($wgMaxTemplateDepth). The parser hangs at 5,000."""

MOST_ARGUMENTS = 300
"""Arguments that a template is searched for addresses with; with 2,000 the parser takes two seconds."""

MOST_WRAPS = 5
"""Archives of archives that are unwrapped."""


class Citation(NamedTuple):
    """A cited address. `canonical` is what crawls are joined on; `domain` is None for an IP address."""

    url: str
    canonical: str
    host: str
    domain: str | None
    kind: str
    title: str


class _Rules(NamedTuple):
    """`references.yaml`."""

    wikimedia: frozenset[str]
    archives: frozenset[str]
    not_archived: dict[str, list[str]]
    archived_under: dict[str, list[str]]
    url_parameters: frozenset[str]
    url_templates: frozenset[str]
    usurped_parameters: frozenset[str]
    usurped_values: frozenset[str]
    external_links: frozenset[str]


@cache
def _rules() -> _Rules:
    lists = yaml.safe_load(Path(__file__).with_name("references.yaml").read_text(encoding="utf-8"))
    return _Rules(
        frozenset(lists["wikimedia"]),
        frozenset(lists["archives"]),
        lists["not_archived"],
        lists["archived_under"],
        frozenset(lists["url_parameters"]),
        frozenset(lists["url_templates"]),
        frozenset(lists["usurped"]["parameters"]),
        frozenset(lists["usurped"]["values"]),
        frozenset(lists["external_links"]),
    )


def cited(page: Page, dropped: Counter[str] | None = None) -> list[Citation]:
    """The addresses that a page cites, in the order of the text, one a place: a citation that names a page and its
    archived copy is one.

    Counts in `dropped`, by reason, what was left out. Never raises, whatever the text.
    """
    dropped = Counter() if dropped is None else dropped
    if page.redirect is not None:
        return []
    found: list[Citation] = []
    for text, in_section in _pieces(_without_literals(page.text)):
        if _MAY_CITE.search(text):
            for url, kind, group in _links(_plainer(text), in_section, dropped):
                citation = citation_of(url, kind, page.title, dropped)
                if citation is None:
                    continue
                if group is not None:
                    if citation.canonical in group:
                        dropped["archived_copy"] += 1
                        continue
                    group.add(citation.canonical)
                found.append(citation)
    return found


def citation_of(url: str, kind: str, title: str, dropped: Counter[str] | None = None) -> Citation | None:
    """An address as a citation: entities and archives resolved, in canonical form. None, counted in `dropped`, for what
    is no address on the web, or one of Wikimedia."""
    dropped = Counter() if dropped is None else dropped
    resolved = _resolve(url)
    if isinstance(resolved, _Reason):
        dropped[resolved.name] += 1
        return None
    parts = split_url(resolved)
    if parts.host is None or ("." not in parts.host and ":" not in parts.host):
        dropped["no_host"] += 1
        return None
    if covers(_rules().wikimedia, parts.host):
        dropped["wikimedia"] += 1
        return None
    return Citation(resolved, canonical_url(resolved), parts.host, parts.domain, kind, title)


class _Reason(NamedTuple):
    name: str


_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}):")
_WEB = re.compile(r"https?:/{1,3}(?=[^/\s])", re.IGNORECASE)
_BAD = re.compile(r"[\s<>\"\x00-\x20\x7f\ufffd{}\ud800-\udfff]")


def _resolve(url: str) -> str | _Reason:
    url = _ENTITY.sub(lambda entity: html.unescape(entity[0]), url.strip())
    if url.startswith("//"):
        url = f"https:{url}"
    scheme = _SCHEME.match(url)
    if not scheme or scheme[1].lower() not in ("http", "https"):
        return _Reason("other_scheme" if scheme else "no_address")
    for _ in range(MOST_WRAPS):
        inner = unwrapped(url)
        if inner == url:
            break
        if inner is None:
            return _Reason("archive_without_address")
        url = inner
    url = url.partition("#")[0]
    if _BAD.search(url) or not _WEB.match(url):
        return _Reason("no_address")
    if len(url) > MOST_URL:
        return _Reason("too_long")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return _Reason("no_address")
    return _Reason("credentials") if "@" in parts.netloc else url


def covers(hosts: Collection[str], host: str) -> str | None:
    """Which of `hosts` is this host or stands above it."""
    labels = host.split(".")
    return next((name for i in range(len(labels)) if (name := ".".join(labels[i:])) in hosts), None)


_DATED = re.compile(r"/(?:\d{4,14}(?:[a-z]{2}_)?|\d{4}[.-][\d.-]{4,17}|\*)/+(.+)", re.DOTALL)
_INSIDE = re.compile(r"(?:https?:/|https?%3[aA]%2[fF]).+", re.DOTALL | re.IGNORECASE)
_HOSTLIKE = re.compile(r"[\w-]+(?:\.[\w-]+)+(?::\d+)?(?:[/?].*)?", re.DOTALL)


def unwrapped(url: str) -> str | None:
    """The address of the page that a copy in a web archive is of; None where the address of the copy does not tell, and
    the address itself where it is none of an archive."""
    rules = _rules()
    host = split_url(url).host
    archive = covers(rules.archives, host) if host else None
    if archive is None:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    first = parts.path.lstrip("/").partition("/")[0].lower()
    if archive in rules.archived_under:
        if first not in rules.archived_under[archive]:
            return url
    elif first in rules.not_archived.get(archive, ()) or (not first and not parts.query):
        return url
    rest = parts.path + (f"?{parts.query}" if parts.query else "") + (f"#{parts.fragment}" if parts.fragment else "")
    dated = _DATED.search(parts.path)
    if dated and (inner := _inner(rest[dated.start(1) :])):
        return inner
    inside = _INSIDE.search(parts.path)
    if inside and (inner := _inner(rest[inside.start() :])):
        return inner
    for name, values in parse_qs(parts.query, max_num_fields=100).items() if parts.query.count("&") < 100 else ():
        if name in ("url", "u", "q") and (inner := _inner(values[0].removeprefix("cache:").strip())):
            return inner
    inside = _INSIDE.search(parts.query)
    return _inner(inside[0]) if inside else None


def _inner(text: str) -> str | None:
    """An address that stands in another one: with its slashes doubled or not, escaped or not, with its scheme or not."""
    text = text.strip()
    if re.match(r"https?%3[aA]", text):
        text = unquote(text)
    found = re.match(r"(https?):/*(?=[^/])", text, re.IGNORECASE)
    if found:
        return f"{found[1].lower()}://{text[found.end() :]}"
    found = re.match(r"[\w.-]*:?(https?)://?(?=[^/])", text, re.IGNORECASE)  # cache:ID:http://…
    if found:
        return f"{found[1].lower()}://{text[found.end() :]}"
    return f"http://{text}" if _HOSTLIKE.fullmatch(text) and not text[0].isdigit() else None


# Tags whose content is shown as it is written; their addresses are no links. `pre` and others take attributes.
_LITERAL = re.compile(
    r"<!--|<(nowiki|pre|math|syntaxhighlight|source|score|graph|timeline|templatedata|hiero|chem|mapframe|maplink)"
    r"\b([^<>]{0,300})>",
    re.IGNORECASE,
)


def _without_literals(text: str) -> str:
    """The text without comments and literal stretches. A comment that does not end goes on to the end of the text; a tag
    that does not is text."""
    if "<" not in text:
        return text
    kept: list[str] = []
    position = at = 0
    endless: set[str] = set()
    lower = text.lower()
    if len(lower) != len(text):  # a few letters are longer in lower case
        lower = text
    while found := _LITERAL.search(text, at):
        name = (found[1] or "").lower()
        at = found.end()
        if name in endless or (name and (found[2] or "").endswith("/")):
            continue
        close = lower.find(f"</{name}" if name else "-->", at)
        if close < 0:
            endless.add(name)
            if name:
                continue
            kept.append(text[position : found.start()])
            position = len(text)
            break
        kept.append(text[position : found.start()])
        end = text.find(">", close)
        position = at = end + 1 if end >= 0 else len(text)
    kept.append(text[position:])
    return "".join(kept)


_TOKEN = re.compile(
    r"(?P<heading>^={1,6}[^\n]{1,200}$)|(?P<open>\{\{)|(?P<close>\}\})|(?P<ref><ref\b[^<>]{0,300}>)|(?P<end></ref)|(?P<line>\n)",
    re.MULTILINE | re.IGNORECASE,
)
_HEADING = re.compile(r"(={1,6})(.*?)=+\s*")


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces that the parser can take, and whether each stands in the section of external links."""
    start = depth = 0
    in_ref = in_section = False
    level = 0
    titles = _rules().external_links
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        # What is longer than a piece may be is cut anywhere, and what was open is taken for closed.
        while token.start() - start > MOST_PIECE:
            yield text[start : start + MOST_PIECE], in_section
            start += MOST_PIECE
            depth, in_ref = 0, False
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "ref":
            in_ref = not token[0].endswith("/>")
        elif kind == "end":
            in_ref = False
        elif kind == "line":
            if depth == 0 and not in_ref and token.start() - start >= PIECE:
                yield text[start : token.start()], in_section
                start = token.start()
        elif found := _HEADING.fullmatch(token[0]):
            yield text[start : token.start()], in_section
            start, depth, in_ref = token.start(), 0, False
            if not in_section or len(found[1]) <= level:
                level = len(found[1])
                in_section = found[2].strip(" '\t").casefold() in titles
    while len(text) - start > MOST_PIECE:
        yield text[start : start + MOST_PIECE], in_section
        start += MOST_PIECE
    yield text[start:], in_section


_MAY_CITE = re.compile(
    r"//|www\.|mailto:|\{\{\s*(?:url|official|webarchive|wayback|offiz|site off|página web|sito uff)", re.IGNORECASE
)
_REF = re.compile(r"</?ref\b", re.IGNORECASE)
_ANY_URL = re.compile(r"https?://[^\s<>\"\[\]{}|]{1,2000}", re.IGNORECASE)

_Found = tuple[str, str, set[str] | None]
"""An address as it is written, its kind, and what its template has cited already."""


def _links(text: str, in_section: bool, dropped: Counter[str]) -> list[_Found]:
    default = SECTION if in_section else BARE
    if _depth(text) <= MOST_DEPTH:
        try:
            return _parsed(text, in_section, dropped)
        except Exception:  # a parser that meets what its authors did not think of
            pass
    dropped["unparsed_piece"] += 1
    return [(_trimmed(url), default, None) for url in _ANY_URL.findall(text)]


def _depth(text: str) -> int:
    depth = most = 0
    for found in re.finditer(r"\{\{|\}\}|\[\[|\]\]", text):
        depth = depth + 1 if found[0] in ("{{", "[[") else max(0, depth - 1)
        most = max(most, depth)
    return most


def _parsed(text: str, in_section: bool, dropped: Counter[str]) -> list[_Found]:
    parsed = wikitextparser.parse(text)
    refs = _Spans([tag.span for tag in parsed.get_tags("ref")] if "<ref" in text else [])
    found: list[tuple[int, _Found]] = []
    taken: list[tuple[int, int]] = []
    for template in parsed.templates:
        body = template.string
        if body.count("|") > MOST_ARGUMENTS or not _MAY_CITE.search(body):
            continue
        cites = _template(template, taken, dropped)
        for at, url, group in cites:
            kind = REF if refs.cover(at) else SECTION if in_section else TEMPLATE
            found.append((at, (url, kind, group)))
    used = _Spans(taken)
    for link in parsed.external_links:
        at = link.span[0]
        if used.cover(at):
            continue
        url = link.url if link.in_brackets else _trimmed(link.url)
        if link.in_brackets and text.startswith("{{", at + 1 + len(url)):
            url += "{{"  # an address that a template completes is not known
        kind = REF if refs.cover(at) else SECTION if in_section else BARE
        found.append((at, (url, kind, None)))
    return [link for _, link in sorted(found, key=lambda each: each[0])]


def _plainer(text: str) -> str:
    """The text with tags as the parser knows them, and without the templates by which arguments write `=` and `|`."""
    return _REF.sub(lambda found: found[0].lower(), text).replace("{{=}}", "=").replace("{{!}}", "%7C")


class _Spans:
    """Spans of a text, to ask of a place whether it lies in one."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        merged: list[list[int]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([start, end])
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]

    def cover(self, at: int) -> bool:
        number = bisect_right(self._starts, at) - 1
        return number >= 0 and at < self._ends[number]


def _template(template: Any, taken: list[tuple[int, int]], dropped: Counter[str]) -> list[tuple[int, str, set[str]]]:
    """The addresses in arguments of a template that hold nothing else; `taken` gets where they stand."""
    rules = _rules()
    arguments = [(argument, _key(argument.name)) for argument in template.arguments]
    positional = template.normal_name(capitalize=False).lower() in rules.url_templates
    addresses: list[tuple[int, str]] = []
    usurped = False
    for argument, key in arguments:
        if key in rules.usurped_parameters:
            usurped = usurped or argument.value.strip().lower() in rules.usurped_values
        elif key in rules.url_parameters or (positional and key == "" and argument.name.strip() == "1"):
            value = argument.value.strip()
            if value.startswith("["):
                value = value.strip("[]").split(maxsplit=1)[0] if value.strip("[] ") else ""
            if _WEB.match(value) or value.startswith("//") or _SCHEME.match(value):
                pass
            elif _HOSTLIKE.fullmatch(value) and (positional or value.lower().startswith("www.")):
                value = f"http://{value}"
            else:
                continue
            addresses.append((argument.span[0], value.split(maxsplit=1)[0]))
            taken.append(argument.span)
    if usurped:
        dropped["usurped"] += len(addresses)
        return []
    group: set[str] = set()
    return [(at, url, group) for at, url in addresses]


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower()).rstrip("0123456789")


def _trimmed(url: str) -> str:
    """A bare address without what belongs to the sentence around it, as MediaWiki has it: quotes of emphasis, marks at
    the end, and a final bracket that was not opened."""
    url = url.partition("''")[0]
    marks = ",;.:!?" if "(" in url else ",;.:!?)"
    return url.rstrip(marks)
