"""A text as the kernel of the statistics reads it: its characters, words and lines with their places."""

import re
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipeline.signals.statistics import characters
from pipeline.signals.statistics.columns import NAMES
from pipeline.signals.statistics.primitives import (
    ALNUM,
    JOINER,
    LENGTH_BINS,
    MAX_AFFIXES,
    MAX_ITEMS,
    N_STATE,
    SPACE,
    TOKENS,
    clear,
)
from pipeline.signals.statistics.words import segments, split_words, tokens

_GAP = re.compile("\n{2,}")
_SURROGATES = re.compile("[\ud800-\udfff]")


def sound(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate, as every table of a run has it: as many characters as before."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


class Words(NamedTuple):
    """Words in the text's order. Equal ids are equal words; they count from 0 in order of first sight."""

    starts: np.ndarray
    ends: np.ndarray
    ids: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Characters of each."""
        return self.ends - self.starts

    @property
    def places(self) -> np.ndarray:
        """(start, end) of each."""
        return np.column_stack([self.starts, self.ends])


class Reading:
    """One text, split when it is asked for. The kernel says where words end, no second splitter does."""

    def __init__(self, text: str):
        self.text = sound(text)
        self.points = np.frombuffer(self.text.encode("utf-32-le"), np.uint32).astype(np.int32)
        self.flags = characters.classes()[self.points]

    @cached_property
    def tokens(self) -> Words:
        """Words and marks as `token_count` has them."""
        ends, suffixes = np.empty(len(self.points) + 2, np.int32), np.empty(MAX_AFFIXES + 2, np.int32)
        tables = (*characters.special_table(), *characters.stop_word_table(), *characters.unit_table())
        return self._filling(*self._split(tokens, (tables,), (ends, suffixes)))

    @cached_property
    def words(self) -> Words:
        """Words between white space."""
        more = (*characters.stop_word_table(), np.empty(LENGTH_BINS, np.int64), np.empty(len(NAMES), np.float64))
        return self._filling(*self._split(split_words, (), more))

    @cached_property
    def segments(self) -> Words:
        """Words as Unicode segments them, those that begin with a letter or digit."""
        lengths, ids = self._split(segments, (), ())
        n = len(self.points)
        inside = (self.flags & (ALNUM | JOINER)) != 0
        at = np.arange(n)
        begins = np.minimum.accumulate(np.where(inside, at, n)[::-1])[::-1].tolist()
        stops = np.minimum.accumulate(np.where(inside, n, at)[::-1])[::-1].tolist()
        begins_word = ((self.flags & ALNUM) != 0).tolist()
        starts = np.empty(len(lengths), np.int64)
        i = 0
        for k, length in enumerate(lengths.tolist()):
            i = begins[i]
            while not begins_word[i]:  # what a mark or an underscore begins is no word
                i = begins[stops[i]]
            starts[k] = i
            i += length
        return Words(starts, starts + lengths, ids)

    def _split(self, splitter: Any, tables: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Lengths and ids of the words that a compiled splitter takes note of; what it needs besides stands around."""
        n = len(self.points)
        items = min(n, MAX_ITEMS) + 2
        mask = 64
        while mask < 2 * items + 64:
            mask *= 2
        table = np.zeros((mask, 2), np.int64)
        ids, lengths = np.empty(items, np.int32), np.empty(items, np.int32)
        count = np.empty(mask // 2 + 1, np.int32)
        state = np.zeros(N_STATE, np.int64)
        clear(state)
        classes = characters.classes()
        splitter(self.points, n, classes, *tables, state, ids, lengths, count, table, mask - 1, *more)
        kept = min(int(state[TOKENS]), items)
        return lengths[:kept].astype(np.int64), ids[:kept].astype(np.int64)

    def _filling(self, lengths: np.ndarray, ids: np.ndarray) -> Words:
        """Words of these lengths that fill, one after another, all that is not white space."""
        filled = np.flatnonzero((self.flags & SPACE) == 0)
        starts = filled[np.cumsum(lengths) - lengths]
        return Words(starts, starts + lengths, ids)

    @cached_property
    def lines(self) -> list[tuple[int, int]]:
        """(start, end) of every line between newlines, empty ones too."""
        found = []
        at = 0
        for line in self.text.split("\n"):
            found.append((at, at + len(line)))
            at += len(line) + 1
        return found

    @cached_property
    def any_lines(self) -> list[tuple[int, int]]:
        """(start, end) of every line that any line break ends, with that break, as `str.splitlines` has them."""
        found = []
        at = 0
        for line in self.text.splitlines(keepends=True):
            found.append((at, at + len(line)))
            at += len(line)
        return found

    @cached_property
    def paragraphs(self) -> list[tuple[int, int]]:
        """(start, end) of what runs of newlines part in the text without white space at its ends."""
        start, end = self.stripped(0, len(self.text))
        found = []
        for gap in _GAP.finditer(self.text, start, end):
            found.append((start, gap.start()))
            start = gap.end()
        return [*found, (start, end)]

    def stripped(self, start: int, end: int) -> tuple[int, int]:
        """start to end without white space at both ends."""
        part = self.text[start:end]
        bare = part.lstrip()
        start += len(part) - len(bare)
        return start, start + len(bare.rstrip())
