"""Spans of a text: put in order, cut apart for showing, and the window that shows most of them."""

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np

LEAD = 4
"""One part in this many of an excerpt comes before the first span in it: what led up to it."""
BORDER = 40
"""Characters that an excerpt gives up at each end, at most, to begin and end between words."""


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


def merged(places: np.ndarray) -> np.ndarray:
    """Rows (start, end) in any order to rows that are sorted and neither overlap nor touch; empty ones are left out."""
    places = places[places[:, 1] > places[:, 0]]
    if len(places) < 2:
        return places
    places = places[np.argsort(places[:, 0], kind="stable")]
    reached = np.maximum.accumulate(places[:, 1])
    first = np.concatenate([[True], places[1:, 0] > reached[:-1]])
    last = np.append(np.flatnonzero(first)[1:] - 1, len(places) - 1)
    return np.column_stack([places[first, 0], reached[last]])


def pieces(text: str, spans: Sequence[tuple[int, int, str]]) -> list[tuple[str, str]]:
    """`text` cut into (piece, kind), which put together are the text; the kind outside of spans is "".

    Where spans (start, end, kind) overlap, the one that comes first in `spans` wins. What lies beyond the text is left
    out, and neighbours of one kind are one piece.
    """
    n = len(text)
    ends = [(max(0, start), min(n, end)) for start, end, _ in spans]
    order = sorted((i for i, (start, end) in enumerate(ends) if start < end), key=lambda i: ends[i][0])
    if not n:
        return []
    borders = sorted({0, n, *(at for i in order for at in ends[i])})
    found: list[tuple[int, str]] = []  # where a piece begins, and its kind
    open_: list[int] = []  # spans begun, the first of the list on top
    k = 0
    for at in borders[:-1]:
        while k < len(order) and ends[order[k]][0] == at:
            heappush(open_, order[k])
            k += 1
        while open_ and ends[open_[0]][1] <= at:
            heappop(open_)
        kind = spans[open_[0]][2] if open_ else ""
        if not found or found[-1][1] != kind:
            found.append((at, kind))
    starts = [at for at, _ in found]
    return [(text[a:b], kind) for (a, kind), b in zip(found, [*starts[1:], n], strict=True)]


def excerpt(text: str, spans: Sequence[tuple[Any, ...]], width: int) -> Span:
    """The stretch of at most `width` characters that holds the most of `spans` whole, the first of equals.

    `spans` are tuples that begin with start and end, in any order. What no excerpt can hold counts where it begins. Ends
    lie between words where white space is near. Without spans it is the beginning of the text. Raises ValueError for a
    width below 1.
    """
    if width < 1:
        raise ValueError(f"an excerpt has at least one character, not {width}")
    n = len(text)
    if n <= width:
        return Span(0, n)
    lead = width // LEAD
    places = sorted((max(0, span[0]), min(n, span[1])) for span in spans if span[0] < min(n, span[1]) and span[1] > 0)
    if not places:
        return _between_words(text, 0, width, 0, 0)
    starts = [start for start, _ in places]
    # A long span is shown by its beginning.
    ends = sorted(min(end, start + width - lead) for start, end in places)
    best, most = 0, 0
    for i, start in enumerate(starts):
        until = max(0, start - lead) + width
        # Of the spans that end in the window, those before this one are not counted.
        held = bisect_right(ends, until) - i
        if held > most:
            best, most = i, held
    start, end = places[best]
    a = min(max(0, start - lead), n - width)
    return _between_words(text, a, a + width, start, min(end, a + width))


def _between_words(text: str, a: int, b: int, first: int, last: int) -> Span:
    """a to b without the parts of words at its ends; what lies from first to last stays."""
    if a > 0 and not text[a - 1].isspace():
        for i in range(a, min(first, a + BORDER)):
            if text[i].isspace():
                a = i + 1
                break
    if b < len(text) and not text[b].isspace():
        for i in range(b - 1, max(last, b - BORDER, a), -1):
            if text[i].isspace():
                b = i
                break
    return Span(a, b)
