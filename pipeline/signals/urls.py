"""URLs -> host, registered domain, and every URL rule that they break.

The rules are those of RefinedWeb (Penedo et al. 2023, appendix G.1): a list of domains, and words that are weighed as
strict substrings, as whole words, and as soft words of which several are needed. Lists and words are data; this file
holds only how they match.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import ahocorasick_rs
import idna
import yaml
from tldextract import TLDExtract

from pipeline.errors import InputError, RecipeError
from pipeline.signals.fingerprints import Fingerprints, fingerprints_of_lines, lines_of

SHIPPED = Path(__file__).resolve().parent.parent / "recipes" / "urls"
"""Where the lists that come with the project are: `words.yaml`, `blocklist.txt`, `curated.txt`."""

Entries = Iterable[str | Path]
"""List entries; a `Path` among them is a list file (plain or .gz), read as one entry a line with `#` comments."""

_AUTHORITY = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//([^/?#\\\s]*)")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_\-]{1,63}(?:\.[a-z0-9_\-]{1,63})*")
_PLAIN = re.compile(r"[a-z0-9.\-_]+")
_HOST_CACHE = 1 << 16  # 30 MB when full; neighbours in a crawl share hosts


class UrlParts(NamedTuple):
    """`host` in its normal form and `domain`, the registered domain; None for what a URL does not have."""

    host: str | None
    domain: str | None


class UrlVerdict(NamedTuple):
    """What `UrlRules.check` found. A URL passes when `hits` is empty."""

    hits: tuple[str, ...] = ()
    """Every rule broken and what broke it, as `domain:blocked.example`; empty when an allow list names the URL."""
    allowed: str | None = None
    """Entry of the allow list that overrode everything else."""
    n_hard: int = 0
    """Distinct hard words in the URL."""
    n_soft: int = 0
    """Distinct soft words in the URL, whether or not there are enough of them."""
    n_substrings: int = 0
    """Distinct forbidden substrings in the URL."""


def split_url(url: str | None) -> UrlParts:
    """The host (lower case, IDNA A-labels, no port, no credentials, no final dot) and registered domain of a URL.

    IPv6 hosts come without brackets in their short form. Registered domains follow the ICANN part of the public suffix
    list bundled with tldextract, and the list's own rule `*` where no suffix is known (`a.b.invalid` -> `b.invalid`);
    IP addresses, bare suffixes and single labels have none. Never raises: what has no usable host gives None twice.
    """
    if not url:
        return _NOTHING
    found = _AUTHORITY.match(url)
    return _split_authority(found[1]) if found else _NOTHING


_NOTHING = UrlParts(None, None)


@lru_cache(_HOST_CACHE)
def _split_authority(authority: str) -> UrlParts:
    host = normal_host(authority)
    return UrlParts(host, _registered_domain(host)) if host else _NOTHING


@lru_cache(_HOST_CACHE)
def normal_host(authority: str) -> str | None:
    """The normal form of `[user@]host[:port]`, or None where there is no host that could be one."""
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        inside, bracket, _ = host[1:].partition("]")
        return _address(inside) if bracket else None
    host = host.partition(":")[0].lower().rstrip(".")
    if not _PLAIN.fullmatch(host):
        try:
            host = unquote_to_bytes(host).decode("utf-8")
            host = idna.encode(host, uts46=True).decode("ascii").rstrip(".")
        except (UnicodeError, IndexError):  # idna.IDNAError is a UnicodeError; idna indexes into empty labels
            return None
    return host if _HOST.fullmatch(host) else None


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:
        return None


@cache
def _suffixes() -> TLDExtract:
    return TLDExtract(suffix_list_urls=(), cache_dir=None)  # the bundled list only: no network, nothing written


def _registered_domain(host: str) -> str | None:
    if ":" in host or (host[-1].isdigit() and _address(host)):
        return None
    parts = _suffixes().extract_str(host)
    if parts.suffix:
        return f"{parts.domain}.{parts.suffix}" if parts.domain else None
    labels = host.rsplit(".", 2)
    return ".".join(labels[-2:]) if len(labels) > 1 and all(labels[-2:]) else None


def normal_url(url: str) -> str | None:
    """What a list of URLs is matched on: host, path and query; no scheme, port, credentials, fragment or final slash.

    A URL without a scheme is taken as one that starts with its host. None where there is no host.
    """
    url = url.strip()
    found = _AUTHORITY.match(url)
    rest = url[found.end() :] if found else url
    authority = found[1] if found else None
    if authority is None:
        authority, slash, tail = url.partition("/")
        rest = slash + tail
    host = normal_host(authority)
    if host is None:
        return None
    path, question, query = rest.partition("#")[0].partition("?")
    return host + path.rstrip("/") + question + query


class Words(NamedTuple):
    """Vocabulary of the word rules, in lower case."""

    hard: tuple[str, ...] = ()
    """One of these as a whole word (between characters that are neither letters nor digits) is enough."""
    soft: tuple[str, ...] = ()
    """As many different ones as `soft_threshold` says are needed."""
    substrings: tuple[str, ...] = ()
    """One of these anywhere is enough; whatever separates letters and digits in the URL is ignored."""

    @classmethod
    def read(cls, source: "Path | Mapping[str, Iterable[str]] | Words") -> "Words":
        """Words from a mapping or a YAML file with the keys `hard`, `soft` and `substrings`, all optional.

        Raises RecipeError for other keys and for words that could never match, InputError for a missing file.
        """
        if isinstance(source, Words):
            return source
        name = str(source) if isinstance(source, Path) else "words"
        content: object = source
        if isinstance(source, Path):
            try:
                content = yaml.safe_load(source.read_bytes()) or {}
            except OSError as error:
                raise InputError(f"cannot read the word list {source}: {error.strerror}") from error
            except yaml.YAMLError as error:
                raise RecipeError(f"{source} is not YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(content, Mapping):
            raise RecipeError(f"{name}: must be a mapping of {', '.join(cls._fields)} to lists of words")
        if unknown := sorted(set(map(str, content)) - set(cls._fields)):
            raise RecipeError(f"{name}: unknown key {unknown[0]}; known are {', '.join(cls._fields)}")
        lists = {key: _vocabulary(name, key, content.get(key)) for key in ("hard", "soft", "substrings")}
        for word in lists["hard"] + lists["soft"]:
            if len(_tokens(word)) != 1 or _tokens(word)[0] != word.encode():
                raise RecipeError(f"{name}: {word!r} is no single word and would never match; make it a substring")
        lists["substrings"] = tuple(_squeezed(_url_bytes(word)).decode() for word in lists["substrings"])
        if "" in lists["substrings"]:
            raise RecipeError(f"{name}: an empty substring would match every URL")
        return cls(**lists)


def _vocabulary(name: str, key: str, words: object) -> tuple[str, ...]:
    listed = [] if words is None else None if isinstance(words, str) or not isinstance(words, Iterable) else list(words)
    if listed is None or not all(isinstance(word, str) for word in listed):
        raise RecipeError(
            f"{name}: {key} must be a list of words; put quotes around numbers and YAML's yes, no, on, off"
        )
    return tuple(dict.fromkeys(word.strip().lower() for word in listed))


# Bytes from 0x80 count as letters, so that words of any script stay whole in UTF-8.
_SEPARATORS = bytes(b for b in range(128) if not chr(b).isalnum())
_TO_SPACES = bytes(32 if b in _SEPARATORS else b for b in range(256))


def _url_bytes(url: str) -> bytes:
    try:
        raw = url.lower().encode()
    except UnicodeEncodeError:  # lone surrogates
        raw = url.lower().encode("utf-8", "surrogatepass")
    return unquote_to_bytes(raw).lower() if b"%" in raw else raw


def _tokens(text: str) -> list[bytes]:
    return _url_bytes(text).translate(_TO_SPACES).split()


def _squeezed(raw: bytes) -> bytes:
    return raw.translate(None, _SEPARATORS)


class UrlRules:
    """The URL gate. Built from lists, it answers for one URL at a time, in microseconds whatever the length of the lists.

    Args:
        domains: blocked with everything below them; `*.suffix` blocks only what is below. Top-level domains may stand here.
        hosts: blocked as they are, without their subdomains.
        urls: blocked as `normal_url` writes them.
        curated: domains that other sources of a corpus already cover; matched like `domains`, reported as `curated`.
        allow: like `domains`; a URL that is found here breaks nothing.
        words: vocabulary, as `Words.read` takes it.
        soft_threshold: how many different soft words make a hit (RefinedWeb: 2).
        cache_dir: where lookup tables of list files are kept and memory-mapped from, so that the workers of a machine
            share one copy; None builds them in each process.

    Raises InputError for list files that cannot be read, RecipeError for unusable words, StorageError for an unusable
    `cache_dir`. Entries that can never match are counted in `ignored`, by list. Pickles as its arguments.
    """

    def __init__(
        self,
        *,
        domains: Entries = (),
        hosts: Entries = (),
        urls: Entries = (),
        curated: Entries = (),
        allow: Entries = (),
        words: Path | Mapping[str, Iterable[str]] | Words | None = None,
        soft_threshold: int = 2,
        cache_dir: Path | None = None,
    ):
        if soft_threshold < 1:
            raise RecipeError(f"soft_threshold must be at least 1, not {soft_threshold}")
        self.words = Words() if words is None else Words.read(words)
        self._lists = {
            "domain": tuple(domains),
            "host": tuple(hosts),
            "url": tuple(urls),
            "curated": tuple(curated),
            "allow": tuple(allow),
        }
        self._soft_threshold = soft_threshold
        self._cache_dir = cache_dir
        self.ignored: dict[str, int] = {}
        self._tables: dict[str, Fingerprints] = {}
        for name, entries in self._lists.items():
            if entries:
                normal = normal_url if name == "url" else _normal_entry
                table, bad = fingerprints_of_lines(lines_of(entries), normal, name == "url", cache_dir)
                self._tables[name] = table
                self.ignored[name] = bad
        self._hard = frozenset(word.encode() for word in self.words.hard)
        self._soft = frozenset(word.encode() for word in self.words.soft)
        self._vocabulary = self._hard | self._soft
        patterns = [word.encode() for word in self.words.substrings]
        self._substrings = ahocorasick_rs.BytesAhoCorasick(patterns) if patterns else None

    def __reduce__(self) -> tuple:
        return _rebuild, (self._lists, self.words, self._soft_threshold, self._cache_dir)

    def check(self, url: str | None) -> UrlVerdict:
        """Every rule that `url` breaks. Never raises; a missing URL breaks nothing."""
        if not url:
            return UrlVerdict()
        found = _AUTHORITY.match(url)
        host = normal_host(found[1]) if found else None
        hits: list[str] = []
        if host and self._tables:
            if "allow" in self._tables and (entry := self._tables["allow"].covering(host)):
                return UrlVerdict(allowed=entry)
            hits = self._listed(url, host)
        raw = _url_bytes(url)
        words = self._vocabulary.intersection(raw.translate(_TO_SPACES).split())
        hard, soft, substrings = words & self._hard, words & self._soft, set()
        if self._substrings is not None:
            matches = self._substrings.find_matches_as_indexes(_squeezed(raw), overlapping=True)
            substrings = {self.words.substrings[index] for index, _, _ in matches}
        if hard:
            hits += (f"word:{word.decode()}" for word in sorted(hard))
        if len(soft) >= self._soft_threshold:
            hits.append("soft:" + "+".join(word.decode() for word in sorted(soft)))
        if substrings:
            hits += (f"substring:{word}" for word in sorted(substrings))
        return UrlVerdict(tuple(hits), None, len(hard), len(soft), len(substrings))

    def _listed(self, url: str, host: str) -> list[str]:
        hits = []
        tables = self._tables
        if "domain" in tables and (entry := tables["domain"].covering(host)):
            hits.append(f"domain:{entry}")
        if "host" in tables and host in tables["host"]:
            hits.append(f"host:{host}")
        if "url" in tables and (normal := normal_url(url)) is not None and normal in tables["url"]:
            hits.append(f"url:{normal}")
        if "curated" in tables and (entry := tables["curated"].covering(host)):
            hits.append(f"curated:{entry}")
        return hits


def _rebuild(
    lists: dict[str, tuple[str | Path, ...]], words: Words, soft_threshold: int, cache_dir: Path | None
) -> UrlRules:
    return UrlRules(
        domains=lists["domain"],
        hosts=lists["host"],
        urls=lists["url"],
        curated=lists["curated"],
        allow=lists["allow"],
        words=words,
        soft_threshold=soft_threshold,
        cache_dir=cache_dir,
    )


def _normal_entry(entry: str) -> str | None:
    """A host as an entry writes it, `*.` in front kept."""
    star = "*." if entry.startswith("*.") else ""
    entry = entry[len(star) :]
    if "://" in entry or "/" in entry or "@" in entry:
        return None
    host = _address(entry) if entry.count(":") > 1 else normal_host(entry)
    return star + host if host else None
