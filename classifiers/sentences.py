"""Where sentences begin and end, by simple rules for all scripts: enough for scoring and for cutting, not for grammar.

A sentence ends at a line break, and after a sentence-final mark (Unicode's Sentence_Terminal, as the statistics count
them) with the closing marks that follow it, where white space comes next; in Han, kana and other scripts whose final
marks are wide, white space need not come. It does not end at a full stop after a single letter (initials, `e.g.`) or one
of the abbreviations that the statistics know, or where a small letter or a digit follows the white space. A very long one
is cut at white space.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from classifiers.normalise import strings
from pipeline.dedup.normalise import utf8
from pipeline.signals.statistics import characters as ch
from pipeline.signals.statistics.primitives import compiled, decode, find, hash_range

_MOST = 2000
"""Characters of a sentence, at which the next white space ends it: tables and code have lines without an end."""
_CLOSING = "\"'’”»)]}」』）】〉》"
_WIDE = "。！？｡．‼⁇⁈⁉"
_CLOSES, _ENDS_ALONE = 1 << 15, ch.ICON  # bits of characters.classes that are not needed here, used anew


class Sentences(NamedTuple):
    """Sentences ordered by row and start; arrays of one length.

    `rows` int32: number of the text; `starts`, `ends` int64: characters of the text, white space around left out.
    """

    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def sentences(texts: pa.Array | pa.ChunkedArray) -> Sentences:
    """The sentences of every text; a null or blank text has none."""
    data, offsets = utf8(strings(texts))
    n = len(offsets) - 1
    longest = int(np.diff(offsets).max()) if n else 0
    points = np.empty(longest, np.int32)
    keys, values = _abbreviations()
    most = max(1024, int(offsets[-1] - offsets[0]) // 16 + n)
    while True:
        rows, starts, ends = np.empty(most, np.int32), np.empty(most, np.int64), np.empty(most, np.int64)
        found = _find(data, offsets, _flags(), keys, values, points, rows, starts, ends)
        if found <= most:
            return Sentences(rows[:found], starts[:found], ends[:found])
        most = found


@cache
def _flags() -> np.ndarray:
    table = ch.classes() & np.uint16(~(_CLOSES | _ENDS_ALONE) & 0xFFFF)
    table[[ord(c) for c in _CLOSING]] |= _CLOSES
    table[[ord(c) for c in _WIDE]] |= _ENDS_ALONE
    return table


@cache
def _abbreviations() -> tuple[np.ndarray, np.ndarray]:
    return ch.lookup(dict.fromkeys((w for w in ch.english()["abbreviations"]["words"] if w.endswith(".")), 1))


@compiled
def _find(
    data: np.ndarray,
    offsets: np.ndarray,
    flags: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    points: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
) -> int:
    """Fills the columns of `Sentences` as far as they go; returns how many sentences there are."""
    found = 0
    for r in range(len(offsets) - 1):
        n = decode(data, offsets[r], offsets[r + 1], points)
        start = -1
        last = -1  # the last character that is no white space
        i = 0
        while i <= n:
            done = i == n
            if not done:
                f = flags[points[i]]
                if f & ch.SPACE:
                    done = (f & ch.LINE_BREAK) != 0 or (start >= 0 and i - start >= _MOST)
                else:
                    if start < 0:
                        start = i
                    last = i
                    if f & ch.TERMINAL:
                        j = i + 1
                        while j < n and flags[points[j]] & (ch.TERMINAL | _CLOSES):
                            j += 1
                        last = j - 1
                        if f & _ENDS_ALONE:
                            done = True
                        elif j < n and flags[points[j]] & ch.SPACE:
                            k = j
                            while k < n and flags[points[k]] & ch.SPACE:
                                k += 1
                            stop = points[i] == 46
                            initial = stop and i > 0 and flags[points[i - 1]] & ch.ALPHA != 0
                            initial = initial and (i < 2 or flags[points[i - 2]] & (ch.ALNUM | ch.DIGIT) == 0)
                            if stop and not initial:
                                a = i
                                while a > start and i - a < ch.MAX_SPECIAL and flags[points[a - 1]] & ch.ALPHA:
                                    a -= 1
                                initial = find(keys, values, hash_range(points, a, i + 1)) >= 0
                            goes_on = k < n and flags[points[k]] & (ch.LOWER | ch.DIGIT) != 0
                            cased = k < n and points[k] < 0x2E80
                            done = not initial and not (goes_on and cased and stop)
                        i = j - 1
            if done and start >= 0:
                if found < len(rows):
                    rows[found] = r
                    starts[found] = start
                    ends[found] = last + 1
                found += 1
                start = -1
            i += 1
    return found
