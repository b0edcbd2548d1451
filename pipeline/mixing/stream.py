"""The streams of strata: where documents stand in them, where intervals begin and end, what a phase takes of a document.

All is vectorised over the documents of one shard, and adds up over shards: nowhere must all documents be in one place.
Places are found by halving the search: counts over bins of the permutation, of the bin with the place again, and so on
until the documents that are left can be looked at.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mixing.plan import Draw, Plan
from pipeline.mixing.scramble import GOLDEN, mix64, salt
from pipeline.mixing.strata import Named, Strata

BIN_BITS = 12

BINS = 1 << BIN_BITS
"""Bins of the permutation in which documents are counted at a time."""

FEW = 20_000
"""Documents of a bin that are looked at one by one."""

_MOST_BITS = 48
"""A bin is not divided further: what is left in it then has one key."""


def places(keys: np.ndarray, seed: int) -> np.ndarray:
    """The place of each document in the order of its stratum, by its key: uint64, one-to-one."""
    return mix64(keys ^ salt(seed, "order"))


@dataclass(frozen=True)
class Tally:
    """What shards of a source hold: `histogram` is int64 (strata, BINS, 2), documents and tokens; `seen` the documents of
    each value of the text columns that the mix weighs."""

    histogram: np.ndarray
    seen: dict[str, dict[str, int]]

    def __add__(self, other: "Tally") -> "Tally":
        seen = {column: dict(values) for column, values in self.seen.items()}
        for column, values in other.seen.items():
            into = seen.setdefault(column, {})
            for value, n in values.items():
                into[value] = into.get(value, 0) + n
        return Tally(self.histogram + other.histogram, seen)

    @classmethod
    def empty(cls, strata: Strata) -> "Tally":
        """Of no shards."""
        return cls(np.zeros((len(strata), BINS, 2), np.int64), {})


def tally(documents: pa.Table, strata: Strata, seed: int) -> Tally:
    """Counts the documents of one shard (columns `key`, `n_tokens` and those of the strata)."""
    bins = (places(_keys(documents), seed) >> np.uint64(64 - BIN_BITS)).astype(np.int64)
    histogram = _sums(strata.of(documents) * BINS + bins, _tokens(documents), len(strata) * BINS)
    seen = {}
    for feature in strata.features:
        if isinstance(feature, Named):
            found = pc.value_counts(documents.column(feature.feature).drop_null())
            values, counts = found.flatten()
            seen[feature.feature] = dict(zip(values.to_pylist(), counts.to_pylist(), strict=True))
    return Tally(histogram.reshape(len(strata), BINS, 2), seen)


def _keys(documents: pa.Table) -> np.ndarray:
    return documents.column("key").to_numpy()


def _tokens(documents: pa.Table) -> np.ndarray:
    return documents.column("n_tokens").to_numpy()


def _sums(cells: np.ndarray, tokens: np.ndarray, n_cells: int) -> np.ndarray:
    """Documents and tokens of each cell: int64 (n_cells, 2). A sum by weights would be one of floats."""
    sums = np.zeros((n_cells, 2), np.int64)
    if len(cells):
        ranked = np.argsort(cells, kind="stable")
        found, starts = np.unique(cells[ranked], return_index=True)
        sums[found, 0] = np.diff(np.append(starts, len(cells)))
        sums[found, 1] = np.add.reduceat(tokens[ranked], starts)
    return sums


class Bin(NamedTuple):
    """Documents of a stratum whose places begin with the same `bits` bits, and what comes before them."""

    stratum: int
    bits: int
    prefix: int
    documents: int
    documents_before: int
    tokens_before: int

    @property
    def few(self) -> bool:
        """Whether its documents can be looked at one by one."""
        return self.documents <= FEW or self.bits >= _MOST_BITS

    def holds(self, strata: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Row numbers of the documents, by strata and places, that are in the bin."""
        return np.flatnonzero((strata == self.stratum) & (at >> np.uint64(64 - self.bits) == np.uint64(self.prefix)))

    def narrowed(self, counts: np.ndarray, tokens: int) -> "Bin":
        """The part of it that holds the token with `tokens` before it in the stratum. `counts`: (BINS, 2), of its parts."""
        ends = self.tokens_before + np.cumsum(counts[:, 1])
        part = int(np.searchsorted(ends, tokens, side="right"))
        documents_before = self.documents_before + int(counts[:part, 0].sum())
        tokens_before = int(ends[part] - counts[part, 1])
        return Bin(
            self.stratum,
            self.bits + BIN_BITS,
            self.prefix * BINS + part,
            int(counts[part, 0]),
            documents_before,
            tokens_before,
        )


Cuts = Sequence[tuple[int, int]]
"""Of one source: (stratum, tokens into one pass)."""


def tally_bins(documents: pa.Table, strata: Strata, seed: int, bins: Sequence[Bin]) -> np.ndarray:
    """Counts the documents of one shard in the parts of bins: int64 (bins, BINS, 2)."""
    numbers, at, tokens = strata.of(documents), places(_keys(documents), seed), _tokens(documents)
    counts = np.zeros((len(bins), BINS, 2), np.int64)
    for i, bin_ in enumerate(bins):
        rows = bin_.holds(numbers, at)
        parts = (at[rows] >> np.uint64(64 - BIN_BITS - bin_.bits)) & np.uint64(BINS - 1)
        counts[i] = _sums(parts.astype(np.int64), tokens[rows], BINS)
    return counts


class Standing(NamedTuple):
    """A document in the order of its stratum; of two with one place (that is: one key) by id, piece, and where they lie."""

    place: int
    id: str
    piece: int
    shard: int
    document: int


def standing(
    documents: pa.Table, strata: Strata, seed: int, bins: Sequence[Bin], shard: int
) -> list[list[tuple[Standing, int]]]:
    """The documents of one shard in each bin, with their tokens. `shard` is the number of the shard in its source."""
    numbers, at, tokens = strata.of(documents), places(_keys(documents), seed), _tokens(documents)
    return [
        [(_standing(documents, at, row, shard), int(tokens[row])) for row in bin_.holds(numbers, at).tolist()]
        for bin_ in bins
    ]


def _standing(documents: pa.Table, at: np.ndarray, row: int, shard: int) -> Standing:
    name, piece = documents.column("id")[row].as_py(), documents.column("piece")[row].as_py()
    return Standing(int(at[row]), name, piece or 0, shard, row)


class Edge(NamedTuple):
    """A place in a stratum: `offset` tokens into document `at`, before which `rank` documents come."""

    rank: int
    at: Standing
    offset: int


def edge(bin_: Bin, held: Iterable[tuple[Standing, int]], tokens: int) -> Edge:
    """The place in a bin with `tokens` before it in the stratum; `held` are all documents of the bin, in any order."""
    before, rank = bin_.tokens_before, bin_.documents_before
    for document, n in sorted(held):
        if before + n > tokens:
            return Edge(rank, document, tokens - before)
        before, rank = before + n, rank + 1
    raise ValueError(f"{bin_} ends before token {tokens}")


Edges = Mapping[tuple[int, int], Edge]
"""Of one source: the place of each cut."""


def find_edges(
    histogram: np.ndarray,
    cuts: Cuts,
    count: Callable[[list[Bin]], np.ndarray],
    look: Callable[[list[Bin]], Sequence[Sequence[tuple[Standing, int]]]],
) -> dict[tuple[int, int], Edge]:
    """The place of each cut. `histogram` is of the source's `Tally`; `count` and `look` must give the sum of `tally_bins`,
    and what `standing` gives, over all shards."""
    bins = {(stratum, at): Bin(stratum, 0, 0, 0, 0, 0).narrowed(histogram[stratum], at) for stratum, at in cuts}
    while many := sorted({bin_ for bin_ in bins.values() if not bin_.few}):
        counts = dict(zip(many, count(many), strict=True))
        bins = {cut: bin_ if bin_.few else bin_.narrowed(counts[bin_], cut[1]) for cut, bin_ in bins.items()}
    last = sorted(set(bins.values()))
    held = dict(zip(last, look(last), strict=True)) if last else {}
    return {cut: edge(bin_, held[bin_], cut[1]) for cut, bin_ in bins.items()}


@dataclass(frozen=True)
class Copies:
    """What phases take of the documents of one shard: an entry for each copy, as arrays of one length.

    `row` of the document, number of the `phase`, `epoch` (int32), `first` token and `n_tokens` that are taken, and
    `position` in the phase: uint64, of 2^64.
    """

    row: np.ndarray
    phase: np.ndarray
    epoch: np.ndarray
    first: np.ndarray
    n_tokens: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


def select(documents: pa.Table, strata: Strata, plan: Plan, edges: Edges, seed: int, shard: int) -> Copies:
    """What the phases of a plan take of one shard's documents (schema TOKEN_DOCUMENTS).

    The j-th of r copies that a phase takes of a document lies at (j + u) / r of the phase, u being a draw of its own: so
    copies lie apart, and any stretch of the phase is a fair sample of all of it.
    """
    keys, sizes, numbers = _keys(documents), _tokens(documents), strata.of(documents)
    at = places(keys, seed)
    found: list[Copies] = []
    for number, phase in enumerate(plan.phases):
        draws = phase.of(strata.source)
        if not draws:
            continue
        begun, first = _reach(documents, numbers, at, sizes, shard, strata, draws, edges, "begin")
        ended, until = _reach(documents, numbers, at, sizes, shard, strata, draws, edges, "end")
        taken = np.zeros(len(keys), np.int64)
        parts = []
        for epoch in range(int(begun.min(initial=0)), int(ended.max(initial=0)) + 1):
            low = np.where(epoch < begun, sizes, np.where(epoch == begun, first, 0))
            high = np.where(epoch < ended, sizes, np.where(epoch == ended, until, 0))
            rows = np.flatnonzero(low < high)
            if len(rows):
                parts.append((rows, epoch, low[rows], (high - low)[rows], taken[rows]))
                taken[rows] += 1
        draw = mix64(keys ^ salt(seed, "phase", phase.name))
        for rows, epoch, low, n, copy in parts:
            found.append(
                Copies(
                    rows,
                    np.full(len(rows), number, np.int32),
                    np.full(len(rows), epoch, np.int32),
                    low,
                    n,
                    _positions(draw[rows], copy.astype(np.uint64), taken[rows].astype(np.uint64)),
                )
            )
    if not found:
        none = np.zeros(0, np.int64)
        return Copies(none, none.astype(np.int32), none.astype(np.int32), none, none, none.astype(np.uint64))
    return Copies(*(np.concatenate([getattr(part, name) for part in found]) for name in Copies.__dataclass_fields__))


def _positions(draws: np.ndarray, copy: np.ndarray, copies: np.ndarray) -> np.ndarray:
    slot = np.uint64(2**64 - 1) // copies
    return copy * slot + mix64(draws + copy * GOLDEN) // copies


def _reach(
    documents: pa.Table,
    numbers: np.ndarray,
    at: np.ndarray,
    sizes: np.ndarray,
    shard: int,
    strata: Strata,
    draws: Sequence[Draw],
    edges: Edges,
    end: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Where an end of the intervals of the documents' strata lies: in which pass, and how many tokens of each document come
    before it in that pass. Of a stratum without interval both ends are at 0."""
    epochs = np.zeros(len(strata), np.int64)
    by_stratum = np.zeros(len(strata), np.uint64)
    inside: dict[int, Edge] = {}
    for draw in draws:
        epochs[draw.stratum], into = divmod(getattr(draw, end), draw.held.tokens)
        if into:
            inside[draw.stratum] = edges[draw.stratum, into]
            by_stratum[draw.stratum] = edges[draw.stratum, into].at.place
    place = by_stratum[numbers]
    before = np.where(at < place, sizes, 0)
    # Only documents of the edge's own key are told apart by more than their place.
    for row in np.flatnonzero(at == place).tolist():
        reached = inside.get(int(numbers[row]))
        if reached is not None:
            here = _standing(documents, at, row, shard)
            before[row] = sizes[row] if here < reached.at else reached.offset if here == reached.at else 0
    return epochs[numbers], before


def shard_numbers(positions: np.ndarray, n_shards: int) -> np.ndarray:
    """The shard of each position when the phase is divided in `n_shards` (below 2^31) equal stretches."""
    return (((positions >> np.uint64(32)) * np.uint64(n_shards)) >> np.uint64(32)).astype(np.int64)
