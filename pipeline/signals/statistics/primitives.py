# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment,arg-type,operator,return-value"
"""What all compiled code here stands on: compiling, UTF-8, hashes and a table of ids."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from pipeline.signals.statistics import characters as ch

MAX_ITEMS = 1 << 20
"""Words, lines and paragraphs beyond this many of one text take no part in the measures of repetition: it bounds memory,
and lies ten times above the longest page that a published recipe keeps (100,000 words)."""
MAX_AFFIXES = 1024
"""Marks stripped from each side of one run of characters without white space."""
LENGTH_BINS = 256
"""Word lengths from here on count as this less one in the median."""
MAX_STOP_WORD = 8
"""Words longer than this are not looked up among the stop words."""

SPACE, ALPHA, DIGIT, UPPER, LOWER = ch.SPACE, ch.ALPHA, ch.DIGIT, ch.UPPER, ch.LOWER
PUNCT, TERMINAL, AFFIX, PREFIX, CATEGORY_P = ch.PUNCTUATION, ch.TERMINAL, ch.AFFIX, ch.PREFIX, ch.CATEGORY_P
CJK, ALNUM, LINE_BREAK, ICON, JOINER = ch.CJK, ch.ALNUM, ch.LINE_BREAK, ch.ICON, ch.JOINER
MAX_SPECIAL = ch.MAX_SPECIAL
FNV_SEED, FNV_PRIME = -3750763034362895579, 1099511628211
ELLIPSIS = 0x2026

# Slots of the state that one pass over words carries.
TOKENS, WORDS, WORD_CHARS, ALPHAS, STOPS, SENTENCES, NEXT_ID, STAMP = range(8)
N_STATE = 8


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit` with the cache on disk where some folder can be written, without it where none can."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # Numba found no writable cache folder
        return njit(nogil=True)(function)


def source_number(folder: Path) -> int:
    """A number made of the Python files of a folder: another one whenever any of them changes."""
    digest = hashlib.blake2b(digest_size=7)
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest())


def inlined(function: Callable[..., Any]) -> Any:
    """Compiled into each caller: a call would count references of every array that it is given, which costs more than
    what these few lines do."""
    return njit(inline="always")(function)


@compiled
def decode(data: np.ndarray, start: int, end: int, out: np.ndarray) -> int:
    """Code points of UTF-8 bytes into `out`; returns how many. A damaged sequence becomes U+FFFD, byte by byte."""
    n = 0
    i = start
    while i < end:
        b = np.int32(data[i])
        size = 1
        point = b
        if b >= 0xC0:
            if b >= 0xF0:
                size = 4
                point = b & 0x07
            elif b >= 0xE0:
                size = 3
                point = b & 0x0F
            else:
                size = 2
                point = b & 0x1F
            if i + size > end:
                size = 1
                point = np.int32(0xFFFD)
            else:
                for k in range(1, size):
                    point = (point << 6) | (np.int32(data[i + k]) & 0x3F)
                if point > 0x10FFFF:
                    point = np.int32(0xFFFD)
        elif b >= 0x80:
            point = np.int32(0xFFFD)
        out[n] = point
        n += 1
        i += size
    return n


@compiled
def hash_range(cp: np.ndarray, a: int, b: int) -> int:
    """FNV-1a over code points a to b."""
    h = np.int64(FNV_SEED)
    for i in range(a, b):
        h = (h ^ np.int64(cp[i])) * np.int64(FNV_PRIME)
    return h


@inlined
def find(keys: np.ndarray, values: np.ndarray, key: int) -> int:
    """The value of a key in a table that `characters.lookup` made, -1 where it is not."""
    mask = len(keys) - 1
    i = (key ^ (key >> 32)) & mask
    while values[i] >= 0:
        if keys[i] == key:
            return values[i]
        i = (i + 1) & mask
    return -1


@inlined
def intern(table: np.ndarray, state: np.ndarray, mask: int, key: int) -> int:
    """The id of a key in the current table (ids count from 0 in order of first sight); -1 when the table is full.

    A slot is a key and, in one number, the stamp of the table that it belongs to and the id: raising the stamp empties
    the table.
    """
    x = np.int64(key) * np.int64(-7046029254386353131)
    x ^= (x >> 32) & 0xFFFFFFFF
    i = x & mask
    stamp = state[STAMP]
    while table[i, 1] >> 32 == stamp:
        if table[i, 0] == key:
            return table[i, 1] & 0xFFFFFFFF
        i = (i + 1) & mask
    known = state[NEXT_ID]
    if 2 * known >= mask:
        return -1
    table[i, 0] = key
    table[i, 1] = (stamp << 32) | known
    state[NEXT_ID] = known + 1
    return known


@compiled
def clear(state: np.ndarray) -> None:
    """Starts a new, empty table."""
    state[STAMP] += 1
    state[NEXT_ID] = 0


@inlined
def record(h, n, state, wid, wlen, cnt, table, mask):
    """Appends a word to the sequence that n-grams are taken from."""
    at = state[TOKENS]
    if at < len(wid):
        known = state[NEXT_ID]
        word = intern(table, state, mask, h)
        wid[at] = word
        wlen[at] = n
        if word >= 0:
            if word == known:
                cnt[word] = 1
            else:
                cnt[word] += 1
    state[TOKENS] += 1


@inlined
def starts_with(cp: np.ndarray, i: int, end: int, phrase: np.ndarray, first: int, last: int) -> bool:
    """True where the text at i reads as phrase[first:last], capital ASCII letters taken as small ones."""
    if i + last - first > end:
        return False
    for k in range(last - first):
        c = cp[i + k]
        if 65 <= c <= 90:
            c += 32
        if c != phrase[first + k]:
            return False
    return True


@compiled
def share(part: float, whole: float) -> float:
    """part / whole, NaN where there is no whole."""
    return part / whole if whole else np.nan
