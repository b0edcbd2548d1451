"""What the scores of a classifier are worth, on examples that it was not trained on.

Everything takes scores (floats; NaN or null where there is none: such examples are left out and counted), the truth (0
or 1, or bool) and gives plain numbers, tuples and dicts that go into JSON. Definitions: area under the ROC curve with ties
half (Mann-Whitney), average precision (area under the precision-recall curve, by steps), expected calibration error over
bins of equal width (Naeini et al. 2015), isotonic calibration (pool adjacent violators, SciPy).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.optimize import isotonic_regression

from pipeline.errors import InputError

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
LENGTHS = (50, 100, 200, 500, 1000, 2000, 5000)
"""Words, at which the slices by length are cut."""
_MIN_GROUPS = 2


class Interval(NamedTuple):
    """A figure with its bootstrap interval; NaN ends where there are too few groups for one."""

    value: float
    low: float
    high: float


class Bin(NamedTuple):
    """Scores in [low, high): how many, their mean, and the share of positives among them; NaN where there are none."""

    low: float
    high: float
    n: int
    mean_score: float
    share: float


class Threshold(NamedTuple):
    """What stays at or above the `quantile` of all scores: `score` there, share `kept`, and its precision and recall."""

    quantile: float
    score: float
    kept: float
    precision: float
    recall: float


class Rate(NamedTuple):
    """Of the `n` examples with this `value`, the share that is `kept`, and their mean score."""

    value: str
    n: int
    kept: float
    mean_score: float


class Calibration(NamedTuple):
    """Points of a rising line from scores to shares of positives; between them it is straight, beyond them flat."""

    scores: tuple[float, ...]
    shares: tuple[float, ...]

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """The share of positives to expect at each score."""
        return np.interp(scores, self.scores, self.shares)

    def facts(self) -> dict[str, list[float]]:
        """As it stands in a model's JSON under `calibration`."""
        return {"scores": list(self.scores), "shares": list(self.shares)}


class _Ranked:
    """Examples in order of score, so that a figure with other weights needs no new sort."""

    def __init__(self, scores: np.ndarray, truth: np.ndarray):
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self.positive = truth[self.order] == 1

    def classes(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Weight of the positives and of the negatives at each distinct score, rising."""
        w = np.ones(len(self.order)) if weights is None else weights[self.order]
        return (
            np.add.reduceat(np.where(self.positive, w, 0.0), self.starts),
            np.add.reduceat(np.where(self.positive, 0.0, w), self.starts),
        )

    def roc_auc(self, weights: np.ndarray | None = None) -> float:
        positive, negative = self.classes(weights)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        return float((positive * below).sum() / pairs) if pairs else float("nan")

    def average_precision(self, weights: np.ndarray | None = None) -> float:
        positive, negative = (c[::-1] for c in self.classes(weights))
        taken = np.cumsum(positive)
        if not len(taken) or not taken[-1] or not negative.sum():
            return float("nan")
        precision = taken / np.maximum(taken + np.cumsum(negative), 1e-300)
        return float((precision * positive).sum() / taken[-1])


def known(scores: Any, truth: Any, *others: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], int]:
    """Scores float64 and truth int8 of the examples that have a score, the other columns of those, and how many have none.

    Raises InputError where the columns are not of one length, the truth is not 0 or 1, or one class is missing.
    """
    values = _numbers(scores)
    labels = _numbers(truth)
    if len({len(values), len(labels), *map(len, others)}) != 1:
        raise InputError("scores, truth and what goes with them are not of one length")
    if not np.isin(labels, (0, 1)).all():
        raise InputError("the truth is 0 or 1 for each example")
    there = ~np.isnan(values)
    values, labels = values[there], labels[there].astype(np.int8)
    if not len(values) or labels.min() == labels.max():
        raise InputError("an evaluation needs scored examples of both classes")
    columns = [np.array([None if v is None else str(v) for v in other], object)[there] for other in others]
    return values, labels, columns, int((~there).sum())


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = values.to_pylist()
    if not isinstance(values, np.ndarray):
        values = [np.nan if v is None else v for v in values]
    return np.asarray(values, np.float64)


def roc_auc(scores: Any, truth: Any) -> float:
    """Chance that a positive scores above a negative, ties half; 0.5 is worth nothing. Raises InputError as `known`."""
    values, labels, _, _ = known(scores, truth)
    return _Ranked(values, labels).roc_auc()


def average_precision(scores: Any, truth: Any) -> float:
    """Area under the precision-recall curve by steps; the share of positives is worth nothing. Raises as `known`."""
    values, labels, _, _ = known(scores, truth)
    return _Ranked(values, labels).average_precision()


def with_intervals(
    scores: Any, truth: Any, groups: Sequence[Any] | None = None, draws: int = 500, seed: int = 1, level: float = 0.95
) -> dict[str, Interval]:
    """`roc_auc` and `average_precision` with percentile intervals of a bootstrap over `groups` (domains): examples of one
    group are drawn together, because they are no independent evidence. Without groups each example is one."""
    given = range(len(scores)) if groups is None else groups
    values, labels, (named,), _ = known(scores, truth, list(given))
    ranked = _Ranked(values, labels)
    names, number = np.unique(named.astype(str), return_inverse=True)
    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"roc_auc": [], "average_precision": []}
    if len(names) >= _MIN_GROUPS:
        for _ in range(draws):
            drawn = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))
            weights = drawn[number].astype(float)
            found["roc_auc"].append(ranked.roc_auc(weights))
            found["average_precision"].append(ranked.average_precision(weights))
    return {
        name: Interval(value, *_percentiles(found[name], level))
        for name, value in (("roc_auc", ranked.roc_auc()), ("average_precision", ranked.average_precision()))
    }


def _percentiles(values: list[float], level: float) -> tuple[float, float]:
    usable = [v for v in values if v == v]  # a draw without one of the classes has no figure
    if not usable:
        return float("nan"), float("nan")
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def reliability(scores: Any, truth: Any, bins: int = 10) -> list[Bin]:
    """Scores from 0 to 1 in bins of equal width, with the share of positives in each."""
    values, labels, _, _ = known(scores, truth)
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip((values * bins).astype(int), 0, bins - 1)
    n = np.bincount(at, minlength=bins)
    sums = np.bincount(at, values, bins)
    positive = np.bincount(at, labels, bins)
    return [
        Bin(
            round(float(edges[i]), 6),
            round(float(edges[i + 1]), 6),
            int(n[i]),
            float(sums[i] / n[i]) if n[i] else float("nan"),
            float(positive[i] / n[i]) if n[i] else float("nan"),
        )
        for i in range(bins)
    ]


def calibration_error(table: Sequence[Bin]) -> float:
    """Expected calibration error: how far mean score and share lie apart, over the bins by their size; 0 is best."""
    total = sum(b.n for b in table)
    return sum(b.n * abs(b.mean_score - b.share) for b in table if b.n) / total if total else float("nan")


def isotonic(scores: Any, truth: Any, digits: int = 6) -> Calibration:
    """The rising steps from scores to shares of positives that fit best, as points of a line. Raises as `known`.

    It knows only the mix of classes that it was fitted on: where positives are rarer, the shares are too high.
    """
    values, labels, _, _ = known(scores, truth)
    distinct, inverse, n = np.unique(values, return_inverse=True, return_counts=True)
    fitted = isotonic_regression(np.bincount(inverse, labels) / n, weights=n.astype(float))
    ends = np.asarray(fitted.blocks)
    points: dict[float, float] = {}
    for a, b in pairwise(ends):
        share = round(float(fitted.x[a]), digits)
        for x in (distinct[a], distinct[b - 1]):
            points[round(float(x), digits)] = share
    return Calibration(tuple(points), tuple(points.values()))


def thresholds(scores: Any, truth: Any, quantiles: Iterable[float] = QUANTILES) -> list[Threshold]:
    """What stays if all at or above a quantile of the scores is kept. Raises as `known`."""
    values, labels, _, _ = known(scores, truth)
    table = []
    for q in quantiles:
        score = float(np.quantile(values, q, method="higher"))
        kept = values >= score
        positive = int(labels[kept].sum())
        table.append(Threshold(q, score, float(kept.mean()), positive / int(kept.sum()), positive / int(labels.sum())))
    return table


def keep_rates(scores: Any, threshold: float, slices: Sequence[Any], most: int = 20) -> list[Rate]:
    """The share of examples at or above `threshold` for each value of `slices` (hosts, languages, lengths): the `most`
    frequent values, the rest together as `(other)`, null as `(none)`. Examples without a score are not kept."""
    values = _numbers(scores)
    if len(values) != len(slices):
        raise InputError("scores and slices are not of one length")
    named = ["(none)" if v is None else str(v) for v in slices]
    counts = Counter(named)
    shown = {name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]}
    at: dict[str, list[int]] = {}
    for i, name in enumerate(named):
        at.setdefault(name if name in shown else "(other)", []).append(i)
    order = sorted(at, key=lambda name: (name == "(other)", -len(at[name]), name))
    if all(_is_length(name) for name in at):
        order = sorted(at, key=_least)
    return [_rate(name, values[at[name]], threshold) for name in order]


def _rate(name: str, values: np.ndarray, threshold: float) -> Rate:
    there = values[~np.isnan(values)]
    mean = float(there.mean()) if len(there) else float("nan")
    return Rate(name, len(values), float((there >= threshold).sum() / len(values)), mean)


def length_slices(n_words: Iterable[int | None], cuts: Sequence[int] = LENGTHS) -> list[str | None]:
    """Names of the slices by length, such as `100-199 words`."""
    edges = [0, *cuts]
    names = [f"{a}-{b - 1} words" for a, b in zip(edges, cuts, strict=False)] + [f"{cuts[-1]}+ words"]
    return [None if n is None else names[int(np.searchsorted(cuts, n, "right"))] for n in n_words]


def _is_length(name: str) -> bool:
    return name.endswith(" words") and name[0].isdigit()


def _least(name: str) -> int:
    return int(name.split("+")[0].split("-")[0])


def evaluate(
    scores: Any,
    truth: Any,
    *,
    groups: Sequence[Any] | None = None,
    slices: Mapping[str, Sequence[Any]] | None = None,
    threshold: float = 0.5,
    draws: int = 500,
    seed: int = 1,
) -> dict[str, Any]:
    """Everything above of one model on held-out examples, as a dict for JSON and for a card.

    `groups`: what examples belong together, by which the test set should have been held out (registered domains).
    `slices`: a column of values for each name (`host`, `language`, `length`); keep-rates are at `threshold`.
    Raises InputError where nothing can be said: one class only, or columns that do not fit.
    """
    values, labels, _, missing = known(scores, truth)
    bins = reliability(values, labels)
    calibration = isotonic(values, labels)
    return {
        "examples": len(values),
        "positives": int(labels.sum()),
        "without_score": missing,
        "groups": None if groups is None else len(set(map(str, groups))),
        **{name: i._asdict() for name, i in with_intervals(scores, truth, groups, draws, seed).items()},
        "reliability": [b._asdict() for b in bins],
        "calibration_error": calibration_error(bins),
        "calibration_error_calibrated": calibration_error(reliability(calibration.apply(values), labels)),
        "calibration": calibration.facts(),
        "thresholds": [t._asdict() for t in thresholds(values, labels)],
        "keep_threshold": threshold,
        "keep_rates": {
            name: [r._asdict() for r in keep_rates(scores, threshold, column)]
            for name, column in (slices or {}).items()
        },
    }
