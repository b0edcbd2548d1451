"""How much of a text stands on lists of words: of our own, in 27 languages, or of the user's.

Terms are words and phrases. They and the texts are normalised alike (`classifiers.normalise`, `words`: small letters,
marks apart, each letter of a script without spaces apart), and a term matches where its words stand one after another and
nowhere else: a listed word inside another word is no match, and `f*ck` is found as the three words that it becomes. Where
terms overlap, the first that begins counts, and of those the longest. In Chinese, Japanese and Thai a term of two or more
letters matches inside a sentence, for there are no words to be seen; terms of one letter are left out there.

The list of a text's own language is used, for a bad word of one is a good one of another. Words of the texts are counted
without punctuation, and letters of scripts without spaces count as words, in the density too.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import yaml

from classifiers.normalise import normalised, strings
from pipeline.dedup.normalise import unspaced, utf8
from pipeline.errors import InputError
from pipeline.signals.base import field
from pipeline.signals.statistics.primitives import FNV_PRIME, FNV_SEED, compiled

OWN = Path(__file__).parent / "wordlists"
"""The lists that ship: LANGUAGE.yaml with a list of terms for each category."""
CATEGORIES = ("sexual", "vulgar", "slurs")
SCHEMA = pa.schema(
    [
        field("listed_density", pa.float32(), "words that stand on the list of the language", "share of words"),
        field("listed_sexual_density", pa.float32(), "those of them listed as sexual", "share of words"),
        field("listed_words", pa.int32(), "matched words and phrases", "matches"),
    ]
)
_NORMALISATION = "words"
_LONGEST = 16
"""Words of a phrase, at most."""
_MANY = 100_000


class WordList(NamedTuple):
    """Terms of one language by category; terms whose category nobody said are in the category `listed`."""

    language: str
    terms: dict[str, tuple[str, ...]]


class Counts(NamedTuple):
    """Of each text: `words` int64; `listed` int64 [texts, categories], words in matches; `matches` likewise, and
    `known` bool, whether there was a list for its language."""

    words: np.ndarray
    listed: np.ndarray
    matches: np.ndarray
    known: np.ndarray


class WordLists:
    """Lists of several languages, ready for matching. Pickles as its terms.

    `languages`: codes that there are lists for; `categories`: in the order of the columns of `Counts`.
    """

    def __init__(self, lists: Iterable[WordList]):
        """Raises InputError for a term that nothing could match, or two lists of one language."""
        self.lists = tuple(lists)
        self.languages = tuple(one.language for one in self.lists)
        if len(set(self.languages)) != len(self.languages):
            raise InputError(f"two word lists are of one language: {', '.join(sorted(self.languages))}")
        self.categories = tuple(dict.fromkeys(c for one in self.lists for c in one.terms)) or ("listed",)
        self._tables = {one.language: _table(one, self.categories) for one in self.lists}

    def __reduce__(self) -> tuple[Any, ...]:
        return WordLists, (self.lists,)

    @classmethod
    def own(cls) -> "WordLists":
        """The lists that ship."""
        return _own()

    @classmethod
    def read(cls, folder: str | Path) -> "WordLists":
        """The lists of a folder: files LANGUAGE.yaml as ours, or files LANGUAGE (or LANGUAGE.txt) with a term a line, as
        the List of Dirty, Naughty, Obscene and Otherwise Bad Words has them. Other files are left alone.

        Raises InputError for a folder without lists, and a list that cannot be read or is empty.
        """
        folder = Path(folder)
        try:
            files = sorted(path for path in folder.iterdir() if path.is_file())
        except OSError as error:
            raise InputError(f"cannot read word lists in {folder}: {error.strerror or error}") from error
        lists = [_read_yaml(p) if p.suffix == ".yaml" else _read_lines(p) for p in files if _is_list(p)]
        if not lists:
            raise InputError(f"no word lists in {folder}: they are called en, de.txt or fr.yaml, by language")
        return cls(lists)

    def count(self, texts: pa.Array | pa.ChunkedArray, languages: Sequence[str | None] | str) -> Counts:
        """What stands in each text of the list of its language (ISO 639-1, or one code for all texts)."""
        return self.count_lines(normalised(strings(texts), _NORMALISATION), languages)

    def count_lines(self, lines: pa.LargeStringArray, languages: Sequence[str | None] | str) -> Counts:
        """`count` of texts that are normalised already."""
        codes = [languages] * len(lines) if isinstance(languages, str) else list(languages)
        if len(codes) != len(lines):
            raise InputError(f"{len(lines)} texts have {len(codes)} languages")
        codes = [_code(code, self._tables) for code in codes]
        data, offsets = utf8(lines)
        words = np.zeros(len(lines), np.int64)
        listed, matches = (np.zeros((len(lines), len(self.categories)), np.int64) for _ in range(2))
        for code in sorted(set(codes), key=str):
            table = self._tables.get(code, _nothing()) if code else _nothing()
            rows = np.array([i for i, c in enumerate(codes) if c == code], np.int64)
            _count(data, offsets, rows, _marks(), *table, words, listed, matches)
        return Counts(words, listed, matches, np.array([code is not None for code in codes], np.bool_))

    def densities(self, texts: pa.Array | pa.ChunkedArray, languages: Sequence[str | None] | str) -> pa.RecordBatch:
        """`SCHEMA` for each text: null where there is no list for its language or no word in it, and
        `listed_sexual_density` where the lists have no such category."""
        return self._columns(self.count(texts, languages))

    def _columns(self, counts: Counts) -> pa.RecordBatch:
        unknown = ~counts.known | (counts.words == 0)
        words = np.maximum(counts.words, 1)
        density = counts.listed.sum(axis=1) / words
        if "sexual" in self.categories:
            sexual, without = counts.listed[:, self.categories.index("sexual")] / words, unknown
        else:
            sexual, without = np.zeros(len(words)), np.ones(len(words), np.bool_)
        return pa.RecordBatch.from_arrays(
            [
                pa.array(density.astype(np.float32), mask=unknown),
                pa.array(sexual.astype(np.float32), mask=without),
                pa.array(counts.matches.sum(axis=1).astype(np.int32), mask=unknown),
            ],
            schema=SCHEMA,
        )


@cache
def _own() -> WordLists:
    return WordLists(_read_yaml(path) for path in sorted(OWN.glob("*.yaml")))


def _is_list(path: Path) -> bool:
    name = path.name.removesuffix(".txt").removesuffix(".yaml")
    language = name.split("-")[0]
    return (
        2 <= len(language) <= 3 and language.isascii() and language.islower() and language.isalpha() and "." not in name
    )


def _read_yaml(path: Path) -> WordList:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read word list {path}: {' '.join(str(error).split())}") from error
    fits = isinstance(found, Mapping) and all(
        isinstance(terms, list) and all(isinstance(term, str) for term in terms) for terms in found.values()
    )
    if not fits or not any(found.values()):
        raise InputError(f"{path} is no word list: it should have lists of terms (in quotes where YAML has a meaning)")
    return WordList(path.stem, {str(category): tuple(terms) for category, terms in found.items()})


def _read_lines(path: Path) -> WordList:
    try:
        terms = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read word list {path}: {error}") from error
    if not terms or len(terms) > _MANY:
        raise InputError(f"{path} is no word list: it has {len(terms):,} terms")
    return WordList(path.name.removesuffix(".txt"), {"listed": terms})


def _code(language: str | None, tables: Mapping[str, Any]) -> str | None:
    """The list for a language: its own, or that of the language without its region; `nb` and `nn` are `no`."""
    if language is None:
        return None
    code = language.replace("_", "-")
    for name in (code, code.split("-")[0].lower(), {"nb": "no", "nn": "no", "tl": "fil"}.get(code.lower(), "")):
        if name in tables:
            return name
    return None


def _table(one: WordList, categories: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values, open addressing: of a phrase `category + 1`, of the beginnings of longer ones also `64`."""
    values: dict[int, int] = {}
    alone = unspaced()
    given = [(category, term) for category, terms in one.terms.items() for term in terms]
    lines = normalised(pa.array([term for _, term in given], pa.large_string()), _NORMALISATION).to_pylist()
    for (category, term), line in zip(given, lines, strict=True):
        tokens = line.split()
        if not tokens or len(tokens) > _LONGEST:
            raise InputError(f"word list {one.language}: term {term!r} has {len(tokens)} words; 1 to {_LONGEST} match")
        if len(tokens) == 1 and tokens[0] in alone:
            continue  # a letter that stands in many words
        key = FNV_SEED
        for i, token in enumerate(tokens):
            key = _hash(key, token)
            if i < len(tokens) - 1:
                values[key] = values.get(key, 0) | 64
            elif not values.get(key, 0) & 63:
                values[key] = values.get(key, 0) | (categories.index(category) + 1)
    size = 1 << max(4, (2 * len(values)).bit_length())
    keys, slots = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for key in sorted(values):
        at = (key ^ (key >> 32)) & (size - 1)
        while slots[at]:
            at = (at + 1) & (size - 1)
        keys[at], slots[at] = key, values[key]
    return keys, slots


@cache
def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(16, np.uint64), np.zeros(16, np.int64)


def _hash(key: int, token: str) -> int:
    for byte in b" " + token.encode():
        key = (key ^ byte) * _PRIME & 0xFFFFFFFFFFFFFFFF
    return key


@cache
def _marks() -> np.ndarray:
    """Of every code point whether `words` sets it apart as a mark."""
    import unicodedata

    table = np.zeros(0x110000, np.bool_)
    table[[point for point in range(0x323B0) if unicodedata.category(chr(point))[0] in "PS"]] = True
    return table


_PRIME = FNV_PRIME & 0xFFFFFFFFFFFFFFFF


@compiled
def _count(
    data: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    marks: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    words: np.ndarray,
    listed: np.ndarray,
    matches: np.ndarray,
) -> None:
    """Adds what the rows have to the three columns. Tokens are parted by one space each."""
    mask = np.uint64(len(keys) - 1)
    prime = np.uint64(_PRIME)
    for r in rows:
        end = offsets[r + 1]
        i = offsets[r]
        while i < end:
            # from a token on, as far as some phrase goes
            key = np.uint64(_SEED)
            at = i
            after = i  # where the next token begins
            token = 0
            best = 0
            n = 0  # words that are no marks, of the tokens so far
            n_best = 0
            n_first = 0
            stop = i
            while at < end:
                key = (key ^ np.uint64(32)) * prime
                b = np.int32(data[at])
                size = 1 if b < 0x80 else 4 if b >= 0xF0 else 3 if b >= 0xE0 else 2
                point = b & (0x7F if size == 1 else 0x07 if size == 4 else 0x0F if size == 3 else 0x1F)
                for k in range(1, size):
                    point = point << 6 | np.int32(data[at + k]) & 0x3F
                mark = marks[point] and (at + size >= end or data[at + size] == 32)
                while at < end and data[at] != 32:
                    key = (key ^ np.uint64(data[at])) * prime
                    at += 1
                at += 1
                n += 0 if mark else 1
                token += 1
                if token == 1:
                    after = at
                    n_first = n
                value = 0
                slot = (key ^ (key >> np.uint64(32))) & mask
                while values[slot] != 0:
                    if keys[slot] == key:
                        value = values[slot]
                        break
                    slot = (slot + np.uint64(1)) & mask
                if value & 63:
                    best = value & 63
                    n_best = max(n, 1)
                    stop = at
                if value & 64 == 0 or token >= _LONGEST:
                    break
            if best:
                listed[r, best - 1] += n_best
                matches[r, best - 1] += 1
                words[r] += n_best
                i = stop
            else:
                words[r] += n_first
                i = after


_SEED = FNV_SEED & 0xFFFFFFFFFFFFFFFF
