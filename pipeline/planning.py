"""What a sample of the inputs says about all of them: where to look, totals with intervals, duplicates in what was not read.

A *unit* is what is drawn: a stretch of a file, or a whole file. A *draw* is one of `DRAWS` equally likely states of the
whole; a quantity is an array of them, so that what is computed from several keeps how they vary together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

DRAWS = 1000
"""Draws of every quantity. The ends of a 90 % interval are then known to about a tenth of its half width."""

LOW, HIGH = 5.0, 95.0
"""The percentiles between which nine of ten draws lie."""

LEAST_UNITS = 4
"""Fewer units than this say nothing of how units differ."""


class Stretch(NamedTuple):
    """The bytes [start, end) of the file of that number."""

    file: int
    start: int
    end: int


class Interval(NamedTuple):
    """An estimate and the ends of its 90 % interval."""

    value: float
    low: float
    high: float


def stretches(sizes: Sequence[int], n_bytes: int, stretch_bytes: int, seed: int) -> list[Stretch]:
    """About `n_bytes` of files of these sizes in stretches of `stretch_bytes`, in the order of files.

    All files behind each other are laid out in cells; these are parted into as many runs of like length as cells are
    wanted, and one cell of each run is drawn. So every byte has the same chance, and the draw is spread evenly over the
    files and over their beginnings, middles and ends. All of it is taken where that is not more than `n_bytes`.
    """
    counts = [max(1, -(-size // stretch_bytes)) if size else 0 for size in sizes]
    n_cells = sum(counts)
    wanted = n_cells if n_bytes >= sum(sizes) else min(n_cells, max(1, round(n_bytes / stretch_bytes)))
    if not n_cells:
        return []
    ends = np.linspace(0, n_cells, wanted + 1)
    places = np.random.default_rng(seed).random(wanted)
    chosen = np.unique((ends[:-1] + places * np.diff(ends)).astype(np.int64)).clip(0, n_cells - 1)
    starts = np.cumsum([0, *counts])
    found = []
    for cell in chosen.tolist():
        file = int(np.searchsorted(starts, cell, side="right")) - 1
        number = cell - int(starts[file])
        edges = [sizes[file] * i // counts[file] for i in (number, number + 1)]
        found.append(Stretch(file, edges[0], edges[1]))
    return found


def some_files(n_files: int, wanted: int, seed: int) -> list[int]:
    """Numbers of `wanted` files, spread over their order, sorted."""
    return [stretch.file for stretch in stretches([1] * n_files, wanted, 1, seed)]


@dataclass(frozen=True)
class Totals:
    """Estimates of totals over the whole from what units hold: the ratio estimator, by the size of units in bytes.

    `sizes` are the bytes of the units that were read, `whole` the bytes of all there are. The units are drawn again with
    replacement `DRAWS` times (the bootstrap). Deviations are then shrunk by what was read of the whole and stretched by
    Student's t, for few units know little of how much they differ.
    """

    sizes: np.ndarray
    whole: float
    seed: int = 0

    @property
    def share(self) -> float:
        """What part of the whole was read."""
        return min(1.0, float(self.sizes.sum()) / self.whole) if self.whole else 1.0

    def _weights(self) -> np.ndarray:
        n = len(self.sizes)
        rng = np.random.default_rng([self.seed, n])
        return rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)

    @property
    def _spread(self) -> float:
        n = len(self.sizes)
        if n < 2:
            return 1.0
        small = math.sqrt(n / (n - 1)) * float(stats.t.ppf(HIGH / 100, n - 1) / stats.norm.ppf(HIGH / 100))
        return small * math.sqrt(max(0.0, 1 - self.share))

    def of(self, values: np.ndarray) -> np.ndarray:
        """Draws of the total over the whole of what is counted in `values`, one a unit. Never below what was seen."""
        weights = self._weights()
        seen = weights @ self.sizes
        estimate = values.sum() / max(1.0, float(self.sizes.sum()))
        rates = (weights @ values) / np.maximum(seen, 1)
        rates = estimate + (rates - estimate) * self._spread
        n = len(self.sizes)
        if values.sum() == 0 and n:
            # Nothing seen is not nothing there: the rule of three as a draw (Jovanovic and Levy, 1997).
            rng = np.random.default_rng([self.seed, n, 1])
            rates = rng.exponential(1 / float(self.sizes.sum()), DRAWS) * (1 - self.share)
            rates[: DRAWS // 2] = 0
        return np.maximum(rates * self.whole, float(values.sum()))


def interval(draws: np.ndarray, value: float | None = None) -> Interval:
    """The middle of draws, or `value`, between the ends of nine tenths of them."""
    low, high = np.percentile(draws, [LOW, HIGH])
    middle = float(np.median(draws)) if value is None else value
    return Interval(middle, min(float(low), middle), max(float(high), middle))


def widened(draws: np.ndarray, relative: float, seed: int) -> np.ndarray:
    """Draws with an error beside that of sampling: a factor, log-normal with that relative standard deviation."""
    if relative <= 0:
        return draws
    factors = np.exp(np.random.default_rng([seed, 7]).normal(0.0, relative, len(draws)))
    return draws * factors


# Duplicates. A cluster of s pages of the whole shows k of them in a sample of share f, with k binomial in s and f.


@dataclass(frozen=True)
class Prior:
    """What is known of clusters before any is seen: the median share of them that have more than one member, the standard
    deviation of its logarithm, and the exponent of the law of their sizes with its standard deviation.

    A share of 0.02 is that of a mixture of 7,000 pages of some twenty sites, by address, by text and nearly.
    """

    several: float = 0.02
    several_log_sd: float = 1.5
    exponent: float = 2.5
    exponent_sd: float = 0.6


def near_duplicates(n_pages: float) -> Prior:
    """What is known of near-duplicates: crawls of more pages have more of them, such that of 400 million pages of one crawl
    44 % are removed (FineWeb, base filter to MinHash of one dump: 36 T tokens to 20 T)."""
    return Prior(several=min(0.3, 0.006 * math.exp(0.4 * math.log10(max(10.0, n_pages)))))


@dataclass(frozen=True)
class Clusters:
    """The law of cluster sizes: of clusters a share `several` has s ≥ 2 members with a chance like s ** -exponent.

    It is fitted to how often clusters of a sample have 1, 2, 3 … members, on a grid of both, and kept as weights of all
    grid points: the posterior. Where the sample is so small a share that clusters hardly show, the weights stay near the
    prior and what follows is as uncertain as that. (Whole clusters could be drawn by the hash of their texts, and would
    need no law, but that takes reading everything.) The estimators of Good and Toulmin (1956) and Chao use the same
    counts without a law; beyond twice the sample the first is unstable and the second a lower bound.
    """

    share: float
    whole: float
    counts: tuple[tuple[int, int], ...]
    """(members in the sample, clusters of so many), sorted."""
    prior: Prior = Prior()
    trust: float = 1.0
    """Weight of each cluster of the sample as evidence; below 1 where clusters lie together in units."""

    @classmethod
    def of(cls, members: np.ndarray, share: float, whole: float, **options: object) -> "Clusters":
        """From the number of members that each cluster has in the sample."""
        sizes, times = np.unique(members[members > 0], return_counts=True)
        counts = tuple(zip(sizes.tolist(), times.tolist(), strict=True))
        return cls(share, whole, counts, **options)  # type: ignore[arg-type]

    @property
    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Cluster sizes of the grid, and how many whole numbers each stands for."""
        most = max(4.0, self.whole)
        exact = np.arange(1, 33)
        edges = np.unique(np.geomspace(33, max(34.0, most), 60).astype(np.int64)) if most > 33 else np.array([33])
        middles = np.sqrt(edges[:-1] * (edges[1:] - 1.0)) if len(edges) > 1 else np.array([])
        return np.concatenate([exact, middles]), np.concatenate([np.ones(32), np.diff(edges)])

    def _laws(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The grid: chances of sizes under each of its points (a row a point), and the two numbers of each point."""
        several = np.geomspace(1e-5, 0.9, 60)
        exponents = np.linspace(1.3, 6.0, 40)
        sizes, numbers = self._sizes
        tail = np.where(sizes >= 2, sizes, np.inf) ** -exponents[:, None] * numbers
        tail /= tail.sum(axis=1, keepdims=True)
        one = (sizes == 1).astype(float)
        laws = several[:, None, None] * tail + (1 - several[:, None, None]) * one
        pairs = np.array(np.meshgrid(several, exponents, indexing="ij")).reshape(2, -1)
        return laws.reshape(-1, len(sizes)), pairs[0], pairs[1]

    def _seen(self, least: int, most: int) -> np.ndarray:
        """The chance that a cluster of each size shows `least` to `most` members."""
        sizes, _ = self._sizes
        share = min(self.share, 1.0)
        return stats.binom.cdf(most, np.rint(sizes), share) - stats.binom.cdf(least - 1, np.rint(sizes), share)

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Laws (a row each) and their weights, which sum to 1."""
        laws, several, exponents = self._laws()
        score = -0.5 * ((np.log(several) - math.log(self.prior.several)) / self.prior.several_log_sd) ** 2
        score -= 0.5 * ((exponents - self.prior.exponent) / self.prior.exponent_sd) ** 2
        shown = np.log(np.maximum(laws @ self._seen(1, 2**62), 1e-300))
        for least, most, times in _binned(self.counts):
            chance = np.log(np.maximum(laws @ self._seen(least, most), 1e-300))
            score += self.trust * times * (chance - shown)
        weights = np.exp(score - score.max())
        return laws, weights / weights.sum()

    def _drawn(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        laws, weights = self.posterior()
        rng = np.random.default_rng([seed, 11])
        return laws, rng.choice(len(weights), size=DRAWS, p=weights)

    def removed(self, seed: int) -> np.ndarray:
        """Draws of the share of members that are not the one that is kept of their cluster, in the whole."""
        sizes, _ = self._sizes
        laws, chosen = self._drawn(seed)
        rates = 1 - 1 / (laws @ sizes)
        # What a finite number of clusters realises differs from the law that made them.
        n = max(1.0, self.whole)
        second = laws @ sizes**2
        errors = np.sqrt(np.minimum(second / (laws @ sizes) ** 2, n) / n) * rates
        noise = np.random.default_rng([seed, 13]).normal(size=DRAWS)
        return np.clip(
            rates[chosen] * np.exp(np.clip(noise * errors[chosen] / np.maximum(rates[chosen], 1e-9), -1, 1)), 0, 1
        )

    def removed_at(self, share: float) -> float:
        """The share of members that a sample of that share of the whole would lose, by the posterior mean of the law."""
        sizes, _ = self._sizes
        laws, weights = self.posterior()
        law = weights @ laws
        members = share * float(law @ sizes)
        return 1 - float(law @ (1 - (1 - share) ** sizes)) / members if members else 0.0

    def above(self, most: int, seed: int) -> Mapping[int, np.ndarray]:
        """By members in the sample (1 and up): draws of the chance that the cluster has more than `most` in the whole."""
        sizes, _ = self._sizes
        laws, chosen = self._drawn(seed)
        beyond = sizes > most
        found = {}
        for k, _ in self.counts:
            seen = self._seen(k, k)
            every = laws @ seen
            chance = (laws[:, beyond] @ seen[beyond]) / np.maximum(every, 1e-300)
            found[k] = np.ones(DRAWS) if k > most else chance[chosen]
        return found


def _binned(counts: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(least, most, clusters): sizes of up to four alone, and then by powers of two, since large ones are each alone."""
    found: dict[tuple[int, int], int] = {}
    for size, times in counts:
        power = 1 << (size.bit_length() - 1)
        key = (size, size) if size <= 4 else (power, 2 * power - 1)
        found[key] = found.get(key, 0) + times
    return [(least, most, times) for (least, most), times in sorted(found.items())]


# Sizes of what tasks send and write.


def parcels(rows_a_task: float, n_tasks: float, n_buckets: float) -> float:
    """How many tables travel when each of `n_tasks` sends its rows to buckets that hashes choose."""
    if n_buckets <= 1:
        return n_tasks * min(1.0, rows_a_task)
    return n_tasks * n_buckets * -math.expm1(rows_a_task * math.log1p(-1 / n_buckets))


def wall_seconds(fixed: float, core_seconds: float, cores: float, longest: float, n_tasks: float) -> float:
    """Wall time of a stage of `n_tasks` on `cores`: the waves of its tasks, and half of the longest one waited for at the
    end (Graham's bound is all of it)."""
    if n_tasks <= 0:
        return fixed
    busy = min(cores, n_tasks)
    return fixed + core_seconds / busy + 0.5 * longest
