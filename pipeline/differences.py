"""How two texts differ, word by word, in time that hostile texts cannot stretch.

Lines are matched first, then words within what is left. Where a stretch is small its longest common subsequence is found
exactly, in bits (Hyyrö, Bit-parallel LCS-length computation revisited, AWOCA 2004). Where it is large it is cut at what
stands in both once (patience diff, Bram Cohen), and what has neither is said to differ as a whole.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

CELLS = 100_000_000
"""Pairs of a stretch (items of the one times items of the other) up to which it is compared exactly: a bit each."""

TOTAL = 400_000_000
"""Pairs that are compared exactly in all; what comes later differs as a whole, but for what stands in both once."""

DEPTH = 12
"""How often a stretch is cut again; each time all of it is read once."""

RUN = 4
"""Items in a row that may stand in both once, where no single one does."""

_WORD = re.compile(r"[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]{1,200}|\s+|.", re.DOTALL)
"""A word; white space; or a mark, or a character of a script that is written without spaces."""


class Match(NamedTuple):
    """Items that are the same: `n` of them, from `left` in the one and from `right` in the other."""

    left: int
    right: int
    n: int


class Piece(NamedTuple):
    """A stretch of one text; `differs` where the other has something else there, or nothing."""

    text: str
    differs: bool


class Block(NamedTuple):
    """Whole lines of both texts that stand beside each other. `same` where they are equal, with one piece each."""

    left: list[Piece]
    right: list[Piece]
    same: bool


class Differences(NamedTuple):
    """Two texts side by side: all of both, in order. `common` are words that stand in both, `words` those of each."""

    blocks: list[Block]
    common: int
    words: tuple[int, int]


class _Budget:
    def __init__(self, total: int) -> None:
        self.left = total

    def allows(self, n: int, m: int) -> bool:
        """Whether so many pairs may be compared exactly; if so they are counted."""
        if n * m > CELLS or n * m > self.left:
            return False
        self.left -= n * m
        return True


def differences(left: str, right: str) -> Differences:
    """Two texts side by side by lines, with the words marked that differ."""
    budget = _Budget(TOTAL)
    a, b = left.splitlines(keepends=True), right.splitlines(keepends=True)
    blocks: list[Block] = []
    common = 0
    for kind, i, j, n, m in _stretches(_matches(a, b, budget), len(a), len(b)):
        one, other = "".join(a[i : i + n]), "".join(b[j : j + m])
        if kind:
            blocks.append(Block([Piece(one, False)], [Piece(other, False)], True))
            common += _count(words(one))
        else:
            block, shared = _by_words(one, other, budget)
            blocks.append(block)
            common += shared
    return Differences(blocks, common, (_count(words(left)), _count(words(right))))


def words(text: str) -> list[str]:
    """A text in words of at most 200 characters, white space and marks; together they are the text."""
    return _WORD.findall(text)


def matches(left: Sequence[str], right: Sequence[str]) -> list[Match]:
    """What two sequences have in common, in the order of both: a longest common subsequence where they are small enough."""
    return _matches(left, right, _Budget(TOTAL))


def _by_words(one: str, other: str, budget: _Budget) -> tuple[Block, int]:
    """A block of two stretches that differ, and how many words they have in common."""
    if not one or not other:
        return Block(_pieces([(one, True)]), _pieces([(other, True)]), False), 0
    a, b = words(one), words(other)
    left: list[tuple[str, bool]] = []
    right: list[tuple[str, bool]] = []
    common = 0
    for same, i, j, n, m in _stretches(_matches(a, b, budget), len(a), len(b)):
        left.append(("".join(a[i : i + n]), not same))
        right.append(("".join(b[j : j + m]), not same))
        common += _count(a[i : i + n]) if same else 0
    return Block(_pieces(left), _pieces(right), False), common


def _count(items: Sequence[str]) -> int:
    """Those that are words."""
    return sum(item[0].isalnum() for item in items)


def _pieces(stretches: Sequence[tuple[str, bool]]) -> list[Piece]:
    """The same without empty ones, and without white space between two that differ standing alone as the same."""
    joined: list[Piece] = []
    found = [stretch for stretch in stretches if stretch[0]]
    for k, (text, differs) in enumerate(found):
        lonely = 0 < k < len(found) - 1 and text.isspace() and "\n" not in text
        differs = differs or (lonely and found[k - 1][1] and found[k + 1][1])
        if joined and joined[-1].differs == differs:
            joined[-1] = Piece(joined[-1].text + text, differs)
        else:
            joined.append(Piece(text, differs))
    return joined


def _stretches(found: Sequence[Match], n: int, m: int) -> Iterator[tuple[bool, int, int, int, int]]:
    """Stretches in turn: whether the same, where they begin in both, how long they are in both."""
    i = j = 0
    for match in [*found, Match(n, m, 0)]:
        if match.left > i or match.right > j:
            yield False, i, j, match.left - i, match.right - j
        if match.n:
            yield True, match.left, match.right, match.n, match.n
        i, j = match.left + match.n, match.right + match.n


def _matches(left: Sequence[str], right: Sequence[str], budget: _Budget) -> list[Match]:
    numbers: dict[str, int] = {}
    a = [numbers.setdefault(item, len(numbers)) for item in left]
    b = [numbers.setdefault(item, len(numbers)) for item in right]
    found: list[Match] = []
    # A list instead of recursion: the next stretch of the texts is the last one of the list.
    waiting = [(0, len(a), 0, len(b), 0)]
    while waiting:
        i, i_end, j, j_end, depth = waiting.pop()
        if depth < 0:  # a match that was found before what stands behind it was looked at
            found.append(Match(i, j, i_end - i))
            continue
        i, j, head = _common_start(a, b, i, i_end, j, j_end)
        if head:
            found.append(Match(i - head, j - head, head))
        tail = _common_end(a, b, i, i_end, j, j_end)
        i_end, j_end = i_end - tail, j_end - tail
        if tail:
            waiting.append((i_end, i_end + tail, j_end, j_end + tail, -1))
        n, m = i_end - i, j_end - j
        if not n or not m:
            continue
        # What stands in one of them only cannot be in common, and hostile texts are made of that.
        shared = set(a[i:i_end]) & set(b[j:j_end])
        one = [k for k in range(i, i_end) if a[k] in shared]
        other = [k for k in range(j, j_end) if b[k] in shared]
        if budget.allows(len(one), len(other)):
            pairs = _exact([a[k] for k in one], [b[k] for k in other])
            exact = _joined([Match(one[p], other[q], 1) for p, q in pairs])
            waiting += [(p, p + k, q, q + k, -1) for p, q, k in reversed(exact)]
            continue
        anchors = _anchors(a[i:i_end], b[j:j_end]) if depth < DEPTH else []
        if not anchors:
            continue
        parts = []
        x = y = 0
        for p, q, k in anchors:
            parts += [(i + x, i + p, j + y, j + q, depth + 1), (i + p, i + p + k, j + q, j + q + k, -1)]
            x, y = p + k, q + k
        parts.append((i + x, i_end, j + y, j_end, depth + 1))
        waiting += reversed(parts)
    return _joined(found)


def _common_start(a: Sequence[int], b: Sequence[int], i: int, i_end: int, j: int, j_end: int) -> tuple[int, int, int]:
    n = 0
    most = min(i_end - i, j_end - j)
    while n < most and a[i + n] == b[j + n]:
        n += 1
    return i + n, j + n, n


def _common_end(a: Sequence[int], b: Sequence[int], i: int, i_end: int, j: int, j_end: int) -> int:
    n = 0
    most = min(i_end - i, j_end - j)
    while n < most and a[i_end - 1 - n] == b[j_end - 1 - n]:
        n += 1
    return n


def _exact(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """A longest common subsequence, as pairs of places. Bit j of row i is 0 where the one of a[:i + 1] and b[:j + 1] is
    longer than the one without b[j]."""
    if len(a) > len(b):  # a step a row, and bits are cheaper than steps
        return [(i, j) for j, i in _exact(b, a)]
    m = len(b)
    full = (1 << m) - 1
    n_bytes = (m + 7) // 8
    places = _bits(b, set(a), n_bytes)
    row = full
    rows = []
    for item in a:
        hit = row & places.get(item, 0)
        row = ((row + hit) | (row - hit)) & full
        rows.append(row.to_bytes(n_bytes, "little"))  # one bit of a long integer costs all of it
    found: list[tuple[int, int]] = []
    i, j = len(a) - 1, m - 1
    while i >= 0 and j >= 0:
        byte, bit = j >> 3, 1 << (j & 7)
        if rows[i][byte] & bit:
            j -= 1
        elif i > 0 and not rows[i - 1][byte] & bit:
            i -= 1
        else:
            found.append((i, j))
            i, j = i - 1, j - 1
    return found[::-1]


def _bits(items: Sequence[int], wanted: set[int], n_bytes: int) -> dict[int, int]:
    """For each wanted item the places at which it stands, as the bits of a number."""
    at: dict[int, list[int]] = {}
    for j, item in enumerate(items):
        if item in wanted:
            at.setdefault(item, []).append(j)
    found = {}
    for item, places in at.items():
        if len(places) < 64:
            found[item] = sum(1 << j for j in places)
        else:
            body = bytearray(n_bytes)
            for j in places:
                body[j >> 3] |= 1 << (j & 7)
            found[item] = int.from_bytes(body, "little")
    return found


def _anchors(a: Sequence[int], b: Sequence[int]) -> list[Match]:
    """Items that stand once in both, or where there are none some in a row, as many as are in the same order in both."""
    left, right = np.array(a, np.uint64), np.array(b, np.uint64)
    for size in (1, RUN):
        pairs = _once_in_both(left, right, size)
        if pairs:
            return _apart(_increasing(pairs), size)
    return []


_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def _once_in_both(a: np.ndarray, b: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Where in both each item, or run of items, begins that stands once in both; in the order of the first."""
    if min(len(a), len(b)) < size:
        return []
    places = []
    keys = []
    for items in (a, b):
        runs = items[: len(items) - size + 1].copy()
        for k in range(1, size):
            runs = runs * _FACTOR + items[k : len(items) - size + 1 + k]
        found, at, counts = np.unique(runs, return_index=True, return_counts=True)
        keys.append(found[counts == 1])
        places.append(at[counts == 1])
    _, one, other = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    i, j = places[0][one], places[1][other]
    # Two runs may have one key.
    same = np.all([a[i + k] == b[j + k] for k in range(size)], axis=0)
    i, j = i[same], j[same]
    order = np.argsort(i)
    return list(zip(i[order].tolist(), j[order].tolist(), strict=True))


def _increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The most pairs that grow in both."""
    ends: list[int] = []
    last: list[int] = []
    before: list[int] = []
    for k, (_, j) in enumerate(pairs):
        at = bisect_left(ends, j)
        before.append(last[at - 1] if at else -1)
        if at == len(ends):
            ends.append(j)
            last.append(k)
        else:
            ends[at], last[at] = j, k
    chain = []
    k = last[-1] if last else -1
    while k >= 0:
        chain.append(pairs[k])
        k = before[k]
    return chain[::-1]


def _apart(pairs: Sequence[tuple[int, int]], size: int) -> list[Match]:
    found: list[Match] = []
    i_end = j_end = 0
    for i, j in pairs:
        skip = max(0, i_end - i, j_end - j)
        if skip < size:
            found.append(Match(i + skip, j + skip, size - skip))
            i_end, j_end = i + size, j + size
    return _joined(found)


def _joined(found: Sequence[Match]) -> list[Match]:
    """Matches that follow each other as one."""
    joined: list[Match] = []
    for match in found:
        last = joined[-1] if joined else None
        if last and last.left + last.n == match.left and last.right + last.n == match.right:
            joined[-1] = Match(last.left, last.right, last.n + match.n)
        else:
            joined.append(match)
    return joined
