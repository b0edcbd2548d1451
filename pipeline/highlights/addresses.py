"""The part of an address that the URL gate, or the gate of source files, turned it away for."""

import re
from urllib.parse import unquote_to_bytes

from pipeline.highlights.spans import Span
from pipeline.recipe import Recipe
from pipeline.signals.urls import normal_host

_AUTHORITY = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//([^/?#\\\s]*)")
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
GATE = "gates.url."


def url_part(url: str, reason: str, recipe: Recipe) -> Span | None:
    """The first of `url_parts`, or None where there is none."""
    return next(iter(url_parts(url, reason, recipe)), None)


def url_parts(url: str, reason: str, recipe: Recipe) -> list[Span]:
    """What of `url` the rule `reason` matched, as the ledger names it (`gates.url.domain:blocked.example`).

    Domains, also curated ones: the end of the host that the entry covers, or the host where it is written otherwise (in
    another script, or escaped). Hosts: the host. URLs: from the host to the end of the query. Words: each whole word, of
    soft words each of each; substrings: each, with the separators inside. `gates.code.folders` and `gates.code.files`
    of a recipe for source files: the folder, the ending. Empty for other reasons, and where nothing of it is found.
    """
    if reason == "gates.code.folders":
        return _folders(url, recipe.gates.code.folders)
    if reason == "gates.code.files":
        return _endings(url, recipe.gates.code.files)
    if not reason.startswith(GATE):
        return []
    kind, _, what = reason.removeprefix(GATE).partition(":")
    match kind:
        case "domain" | "curated":
            return _domain(url, what)
        case "host":
            return _domain(url, "")
        case "url":
            return _page(url)
        case "word":
            return _words(url, {what})
        case "soft":
            return _words(url, set(what.split("+")))
        case "substring":
            return _substring(url, what)
    return []


def _host(url: str) -> Span | None:
    """The host without credentials and port; of what has no `//`, None."""
    found = _AUTHORITY.match(url)
    if not found:
        return None
    start = found.start(1) + found[1].rfind("@") + 1
    host = url[start : found.end(1)]
    length = host.find("]") + 1 if host.startswith("[") else host.find(":")
    return Span(start, start + length) if length > 0 else Span(start, found.end(1))


def _domain(url: str, entry: str) -> list[Span]:
    place = _host(url)
    if place is None or place.start == place.end:
        return []
    host = url[place.start : place.end].lower().rstrip(".")
    end = place.start + len(host)
    domain = entry.removeprefix("*.")
    if domain and len(host) == place.end - place.start - url[place.start : place.end].count(".", len(host)):
        if host == domain or host.endswith("." + domain):
            return [Span(end - len(domain), end)]
        # An entry of another address would be marked wrongly as the whole host.
        normal = normal_host(url[place.start : place.end])
        if normal is not None and normal != domain and not normal.endswith("." + domain):
            return []
    return [place]


def _page(url: str) -> list[Span]:
    place = _host(url)
    if place is None:
        return []
    end = url.find("#", place.end)
    return [Span(place.start, len(url.rstrip()) if end < 0 else end)]


def _letters(url: str) -> tuple[bytes, list[int], list[int]]:
    """A URL as its words are looked for: bytes in lower case without escapes, and where the character of each begins and
    ends."""
    raw = bytearray()
    starts: list[int] = []
    ends: list[int] = []
    i = 0
    while i < len(url):
        escape = _ESCAPE.match(url, i) if url[i] == "%" else None
        end = escape.end() if escape else i + 1
        part = unquote_to_bytes(escape[0]).lower() if escape else url[i].lower().encode("utf-8", "surrogatepass")
        raw += part
        starts += [i] * len(part)
        ends += [end] * len(part)
        i = end
    return bytes(raw), starts, ends


_WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+")


def _words(url: str, words: set[str]) -> list[Span]:
    raw, starts, ends = _letters(url)
    wanted = {word.encode("utf-8", "surrogatepass") for word in words}
    return [Span(starts[m.start()], ends[m.end() - 1]) for m in _WORD.finditer(raw) if m[0] in wanted]


def _substring(url: str, what: str) -> list[Span]:
    raw, starts, ends = _letters(url)
    kept = [i for m in _WORD.finditer(raw) for i in range(*m.span())]
    squeezed = bytes(raw[i] for i in kept)
    wanted = what.encode("utf-8", "surrogatepass")
    found = []
    at = squeezed.find(wanted) if wanted else -1
    while at >= 0:
        found.append(Span(starts[kept[at]], ends[kept[at + len(wanted) - 1]]))
        at = squeezed.find(wanted, at + len(wanted))
    return found


def _folders(name: str, folders: tuple[str, ...]) -> list[Span]:
    found = []
    at = 0
    for step in name.split("/")[:-1]:
        if step.lower() in folders:
            found.append(Span(at, at + len(step)))
        at += len(step) + 1
    return found


def _endings(name: str, endings: tuple[str, ...]) -> list[Span]:
    last = name.lower().rpartition("/")[2]
    longest = max((len(ending) for ending in endings if last.endswith(ending)), default=0)
    return [Span(len(name) - longest, len(name))] if longest else []
