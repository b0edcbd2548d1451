"""Strata: the documents of a source that have equal weights in every phase.

Which there can be follows from the mix alone, so that every task numbers them alike without having seen the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import floor, prod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RecipeError
from pipeline.mixing.options import DEFAULT, HELD_OUT, NULL, RANGED, Mix, Range, Within, exact, ranges
from pipeline.mixing.scramble import mix64, salt

MOST_STRATA = 2_000
"""Strata of a source at most: each costs 64 KB wherever documents are counted."""

MOST_CELLS = 200_000
"""Combinations of classes at most that are told apart before those of equal weights become one stratum."""

_LISTED = 3
"""So many combinations of values are named where a stratum has several."""

Weight = Fraction | None
"""None where the mix does not say what weight a document has."""


class Ranged(NamedTuple):
    """Classes of whole numbers: 0 below the first of `edges`, then one from each edge to the next, last the null."""

    feature: str
    edges: tuple[int, ...]

    @property
    def n_classes(self) -> int:
        """Classes, the null among them."""
        return len(self.edges) + 2

    def codes(self, column: pa.ChunkedArray) -> np.ndarray:
        """The class of each row."""
        values = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
        found = np.searchsorted(np.array(self.edges, np.int64), values, side="right")
        return np.where(column.is_null().to_numpy(), self.n_classes - 1, found)

    def spans(self) -> list[Range | None]:
        """The numbers of each class, None for the null."""
        starts = (0, *self.edges)
        spans: list[Range | None] = [Range(s, e - 1) for s, e in zip(starts, self.edges, strict=False)]
        return [*spans, Range(starts[-1], None), None]

    def label(self, code: int) -> str:
        """The class in words."""
        span = self.spans()[code]
        return NULL if span is None else str(span)

    def weights(self, given: Mapping[str, float]) -> list[Weight]:
        """The weight of each class by one phase's weights."""
        named = ranges(dict(given))
        default = exact(given[DEFAULT]) if DEFAULT in given else None
        found: list[Weight] = []
        for span in self.spans():
            if span is None:
                found.append(exact(given[NULL]) if NULL in given else default)
                continue
            holding = (
                w for r, w in named.items() if r.first <= span.first and (r.last is None or span.first <= r.last)
            )
            weight = next(holding, None)
            found.append(default if weight is None else exact(weight))
        return found


class Named(NamedTuple):
    """Classes of texts: 0 for all that is not named, then one for each of `values`, last the null."""

    feature: str
    values: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """Classes, the null among them."""
        return len(self.values) + 2

    def codes(self, column: pa.ChunkedArray) -> np.ndarray:
        """The class of each row."""
        found = pc.index_in(column, value_set=pa.array(self.values, column.type))
        codes = pc.fill_null(found, -1).to_numpy().astype(np.int64) + 1
        return np.where(column.is_null().to_numpy(), self.n_classes - 1, codes)

    def label(self, code: int) -> str:
        """The class in words."""
        if code == self.n_classes - 1:
            return NULL
        return self.values[code - 1] if code else "any other" if self.values else "any"

    def weights(self, given: Mapping[str, float]) -> list[Weight]:
        """The weight of each class by one phase's weights."""
        default = exact(given[DEFAULT]) if DEFAULT in given else None
        named = [exact(given[v]) if v in given else default for v in self.values]
        return [default, *named, exact(given[NULL]) if NULL in given else default]


@dataclass(frozen=True)
class Strata:
    """The strata of one source. `weights[s][p]` is the weight of stratum s in phase p, 0 where the phase leaves the source
    out, None where the mix does not say. `cells` maps combinations of classes to strata; `labels` are for people.
    """

    source: str
    features: tuple[Ranged | Named, ...]
    cells: np.ndarray
    weights: tuple[tuple[Weight, ...], ...]
    labels: tuple[str, ...]
    kept_back: int = 0
    """Of 2^64 keys, those whose documents are the last stratum, which no phase takes."""
    seed: int = 0

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def columns(self) -> list[str]:
        """The columns that `of` looks at."""
        return [feature.feature for feature in self.features]

    def of(self, documents: pa.Table) -> np.ndarray:
        """The stratum of each document (schema TOKEN_DOCUMENTS, at least `key` and `columns`): int64."""
        cells = np.zeros(documents.num_rows, np.int64)
        for feature in self.features:
            cells = cells * feature.n_classes + feature.codes(documents.column(feature.feature))
        found = self.cells[cells]
        if self.kept_back:
            draws = mix64(documents.column("key").to_numpy() ^ salt(self.seed, HELD_OUT))
            found = np.where(draws < np.uint64(self.kept_back), len(self) - 1, found)
        return found


def strata_of(mix: Mix, source: str) -> Strata:
    """The strata that a source can have under a mix. Raises RecipeError where they are too many."""
    withins = [phase.within.get(source, Within()) for phase in mix.phases]
    weighed = [bool(phase.weights.get(source)) for phase in mix.phases]
    features: list[Ranged | Named] = []
    by_feature: list[list[tuple[Weight, ...]]] = []
    for name in Within.model_fields:
        given = [getattr(within, name) if used else None for within, used in zip(withins, weighed, strict=True)]
        if all(weights is None for weights in given):
            continue
        feature = _classes(name, [weights for weights in given if weights is not None])
        one = [Fraction(1)] * feature.n_classes
        per_phase = [one if weights is None else feature.weights(weights) for weights in given]
        features.append(feature)
        by_feature.append(list(zip(*per_phase, strict=True)))
    if prod(f.n_classes for f in features) > MOST_CELLS:
        raise RecipeError(f"within: {source} falls in more than {MOST_CELLS:,} combinations of values; name fewer")
    numbers: dict[tuple[Any, ...], int] = {}
    vectors: list[tuple[Weight, ...]] = []
    cells: list[int] = []
    held: list[list[tuple[int, ...]]] = []
    for codes in product(*(range(f.n_classes) for f in features)):
        of_cell = [weights[code] for weights, code in zip(by_feature, codes, strict=True)]
        vector = tuple(
            _times([weights[p] for weights in of_cell]) if used else Fraction(0) for p, used in enumerate(weighed)
        )
        # Documents without a weight are refused by the value that has none, so these are not thrown together.
        missing = tuple(code if None in weights else -1 for weights, code in zip(of_cell, codes, strict=True))
        number = numbers.setdefault((vector, missing if None in vector else ()), len(numbers))
        if number == len(held):
            held.append([])
            vectors.append(vector)
        held[number].append(codes)
        cells.append(number)
    if len(numbers) > MOST_STRATA:
        raise RecipeError(
            f"within: {source} falls in {len(numbers):,} strata of different weights, more than {MOST_STRATA:,}; use "
            "fewer different weights"
        )
    labels = tuple(_label(features, codes) for codes in held)
    kept_back = floor(exact(mix.held_out) * 2**64)
    if kept_back:
        vectors.append((Fraction(0),) * len(mix.phases))
        labels = (*labels, "held out")
    return Strata(source, tuple(features), np.array(cells, np.int64), tuple(vectors), labels, kept_back, mix.seed)


def _times(weights: Sequence[Weight]) -> Weight:
    if any(weight == 0 for weight in weights):
        return Fraction(0)
    return None if any(weight is None for weight in weights) else prod((w for w in weights if w), start=Fraction(1))


def _classes(name: str, given: Sequence[Mapping[str, float]]) -> Ranged | Named:
    if name not in RANGED:
        return Named(name, tuple(sorted({key for weights in given for key in weights} - {DEFAULT, NULL})))
    edges = set()
    for weights in given:
        for held in ranges(dict(weights)):
            edges |= {held.first} if held.last is None else {held.first, held.last + 1}
    return Ranged(name, tuple(sorted(edges - {0})))


def _label(features: Sequence[Ranged | Named], cells: Sequence[tuple[int, ...]]) -> str:
    """The combinations in words: values of each feature where they are a product, else the first combinations."""
    if not features:
        return "all"
    per_feature = [sorted({cell[i] for cell in cells}) for i in range(len(features))]
    if prod(map(len, per_feature)) == len(cells):
        named = (
            f"{f.feature} {_values(f, codes)}"
            for f, codes in zip(features, per_feature, strict=True)
            if len(codes) < f.n_classes
        )
        return ", ".join(named) or "all"
    shown = [
        ", ".join(f"{f.feature} {f.label(code)}" for f, code in zip(features, cell, strict=True))
        for cell in cells[:_LISTED]
    ]
    return " or ".join(shown) + (f" or {len(cells) - _LISTED} other combinations" if len(cells) > _LISTED else "")


def _values(feature: Ranged | Named, codes: Sequence[int]) -> str:
    """The values of classes in words, neighbouring numbers as one range."""
    if isinstance(feature, Named):
        return "/".join(feature.label(code) for code in codes)
    spans = feature.spans()
    joined: list[Range] = []
    for code in codes:
        span = spans[code]
        if span is None:
            continue
        if joined and joined[-1].last == span.first - 1:
            joined[-1] = Range(joined[-1].first, span.last)
        else:
            joined.append(span)
    return "/".join([*map(str, joined), *([NULL] if None in (spans[code] for code in codes) else [])])
