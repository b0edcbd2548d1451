"""What a page says about itself, by a few searches over its markup: no parse, no guess."""

import html
import re
from datetime import date, datetime
from typing import NamedTuple

_HEAD = 200_000  # characters searched: heads with inlined styles run long, and dates may stand near the headline
_META = re.compile(r"<meta\s([^>]{1,2000})>", re.I)
_KEY = re.compile(r"(?:property|name|itemprop|http-equiv)\s*=\s*[\"']?\s*([^\"'\s>]+)", re.I)
_CONTENT = re.compile(r"content\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+))", re.I)
_TITLE = re.compile(r"<title\b[^>]*>([^<]*)", re.I)
_H1 = re.compile(r"<h1\b[^>]*>(.{1,1000}?)</h1", re.I | re.S)
_LANG = re.compile(r"<html\b[^>]*?\blang\s*=\s*[\"']?([A-Za-z][A-Za-z0-9_-]*)", re.I)
_JSON_DATE = re.compile(r"\"datePublished\"\s*:\s*\"([^\"]{8,40})\"")
_TIME = re.compile(r"<time\b[^>]*?\bdatetime\s*=\s*[\"']?([^\"'>]{8,40})", re.I)
_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ]|$)")
_TAG = re.compile(r"<[^>]*>")

_TITLES = ("og:title", "twitter:title", "dc.title", "headline")
_DATES = (
    "article:published_time",
    "og:published_time",
    "datepublished",
    "date",
    "dc.date",
    "dc.date.issued",
    "dcterms.created",
    "dcterms.date",
    "pubdate",
    "publishdate",
    "publish_date",
    "publication_date",
    "parsely-pub-date",
    "sailthru.date",
    "citation_publication_date",
    "citation_date",
)


class Metadata(NamedTuple):
    """Title, main date (ISO 8601, day) and language tag, each as declared and None where the page is silent."""

    title: str | None
    date_published: str | None
    language: str | None


def read_metadata(markup: str) -> Metadata:
    """What `markup` declares. Titles: `og:title`, `<title>`, the first `<h1>`; dates: meta tags, JSON-LD, `<time>`."""
    head = markup[:_HEAD]
    declared: dict[str, str] = {}
    for tag in _META.finditer(head):
        key = _KEY.search(tag[1])
        if key is None:
            continue
        name = key[1].lower()
        if (name in _TITLES or name in _DATES or name == "content-language") and name not in declared:
            content = _CONTENT.search(tag[1])
            if content is not None:
                declared[name] = next(group for group in (*content.groups(), "") if group is not None)
    titles = [declared[name] for name in _TITLES if name in declared]
    for pattern in (_TITLE, _H1):
        if not any(title.strip() for title in titles) and (found := pattern.search(head)) is not None:
            titles.append(found[1])
    title = next((text for raw in titles if (text := _plain(raw))), None)
    dates = [declared[name] for name in _DATES if name in declared]
    for pattern in (_JSON_DATE, _TIME):
        if (found := pattern.search(head)) is not None:
            dates.append(found[1])
    day = next((iso for raw in dates if (iso := _day(raw)) is not None), None)
    language = found[1] if (found := _LANG.search(head[:20_000])) is not None else declared.get("content-language")
    return Metadata(title, day, language.strip().lower()[:35] or None if language else None)


def _plain(raw: str) -> str:
    """Text of a fragment of markup on one line, at most 1,000 characters."""
    text = html.unescape(_TAG.sub(" ", raw))
    return " ".join(text.replace("\0", "").encode("utf-8", "replace").decode("utf-8").split())[:1000]


def _day(raw: str) -> str | None:
    found = _DATE.match(raw.strip())
    if found is None:
        return None
    try:
        day = date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None
    return day.isoformat() if 1990 <= day.year <= datetime.max.year and day.year < 2100 else None
