"""Samples of a token store: windows over its stream, or documents packed into rows that fit them best."""

from bisect import bisect_left, insort
from collections import defaultdict
from typing import Protocol

import numpy as np

from trainer.plan import CONTEXT, IGNORED

GROUP = 65_536
"""Documents that are packed together: enough that rows fill to 99.9 %, few enough that a store of any size can be packed
(Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830)."""


class Tokens(Protocol):
    """What samples are made of; a `trainer.shards.TokenStore` is one."""

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""

    @property
    def starts(self) -> np.ndarray:
        """Where documents start, in tokens, and the end."""

    def window(self, start: int, n: int) -> np.ndarray:
        """Tokens start … start + n of the stream."""


class Windows:
    """Sample i is tokens i * seq_len … (i + 1) * seq_len of the stream, and the one after them. No token is left out but
    what is less than a sample at the end."""

    def __init__(self, tokens: Tokens, seq_len: int, first: int = 0, end: int | None = None) -> None:
        self.tokens = tokens
        self.seq_len = seq_len
        self.first = first
        end = tokens.n_tokens if end is None else end
        self.n_tokens = max(0, end - first)
        self.n_samples = max(0, (self.n_tokens - 1) // seq_len)

    def read(self, sample: int, out: np.ndarray) -> None:
        """Writes the sample into `out`, seq_len + 1 integers."""
        out[:] = self.tokens.window(self.first + sample * self.seq_len, self.seq_len + 1)


class Packed:
    """Whole documents in rows, as few and as full as best-fit-decreasing makes them; what is left of a row is not learned
    from. Documents longer than a row fill rows of their own, and their ends are packed like short documents.

    Every token but the first of a row is a target once. Rows may hold what is left of a long document beside others: its
    first token was a target where the document went before, and is none again.
    """

    def __init__(self, tokens: Tokens, seq_len: int, first: int = 0, end: int | None = None) -> None:
        self.tokens = tokens
        self.seq_len = seq_len
        end = tokens.n_tokens if end is None else end
        starts = np.unique(np.clip(tokens.starts, first, end))
        self._torn = -1 if end in tokens.starts else end  # where a document ends that goes on beyond
        self.n_tokens = max(0, end - first)
        rows: list[np.ndarray] = []
        pieces: list[np.ndarray] = []
        n_pieces = 0
        for group in range(0, max(0, len(starts) - 1), GROUP):
            at = starts[group : group + GROUP + 1]
            bounds, placed = _pack(at[:-1], np.diff(at), seq_len)
            placed = np.column_stack([placed, ~np.isin(placed[:, 0], tokens.starts)])
            rows.append(bounds[:-1] + n_pieces)
            pieces.append(placed)
            n_pieces += len(placed)
        self._rows = np.concatenate([*rows, [n_pieces]]).astype(np.int64)
        self._pieces = np.concatenate(pieces) if pieces else np.zeros((0, 3), np.int64)
        self.n_samples = len(self._rows) - 1

    def read(self, sample: int, out: np.ndarray) -> None:
        """Writes the sample into `out`, seq_len + 1 integers, as a `plan.Stream` does."""
        filled, torn = 0, False
        for start, n, inside in self._pieces[self._rows[sample] : self._rows[sample + 1]].tolist():
            out[filled : filled + n] = self.tokens.window(start, n)
            if filled and (inside or torn):
                out[filled] = CONTEXT - out[filled]
            filled, torn = filled + n, start + n == self._torn
        out[filled:] = IGNORED

    @property
    def fill(self) -> float:
        """Share of the places of all rows that hold a token."""
        places = self.n_samples * (self.seq_len + 1)
        return float(self._pieces[:, 1].sum() / places) if places else 0.0


def _pack(starts: np.ndarray, lengths: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows as bounds into pieces, and pieces as (start, length): a function of the documents alone."""
    room = seq_len + 1
    rows: list[list[tuple[int, int]]] = []
    short: list[tuple[int, int]] = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        # Pieces overlap by the token that is the target of one and the context of the next.
        while length > room:
            rows.append([(start, room)])
            start, length = start + seq_len, length - seq_len
        if length > 1:
            short.append((start, length))
    short.sort(key=lambda piece: (-piece[1], piece[0]))
    left: list[int] = []  # room that rows have left, ascending, each once
    by_room: defaultdict[int, list[int]] = defaultdict(list)
    for piece in short:
        at = bisect_left(left, piece[1])
        if at == len(left):
            rows.append([])
            row, space = len(rows) - 1, room
        else:
            space = left[at]
            row = by_room[space].pop()
            if not by_room[space]:
                del left[at]
        rows[row].append(piece)
        space -= piece[1]
        if space > 1:
            if not by_room[space]:
                insort(left, space)
            by_room[space].append(row)
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in rows])]) if rows else np.zeros(1, np.int64)
    return bounds.astype(np.int64), np.array([p for row in rows for p in row], np.int64).reshape(-1, 2)
