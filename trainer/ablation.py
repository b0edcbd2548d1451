"""Whether one set of texts makes better models than another: paired differences, their interval, what they say in words.

Models come in pairs, one of each set, which share initialisation and order; each pair reads a draw of its own of both sets
where there is enough. Every model is asked about the same texts, so that a difference is known for each pair and text, and
varies with both: another draw would have given other models, other texts another mean.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy import stats

from pipeline.errors import UsageError

LEVEL = 0.95
POWER = 0.8

Verdict = Literal["a", "b", "none"]


@dataclass(frozen=True)
class Difference:
    """Bits a byte of set B less those of set A, so that below 0 B is better.

    `by_seed` are the differences of the pairs (S,), `models` the bits a byte of all models (2, S). `documents_error` is the
    standard error that comes from the texts, and `documents_free` its degrees of freedom.
    """

    by_seed: np.ndarray
    models: np.ndarray
    documents_error: float
    documents_free: int
    documents: int
    level: float = LEVEL

    @property
    def value(self) -> float:
        """Mean over pairs."""
        return float(self.by_seed.mean())

    @property
    def seeds(self) -> int:
        """How many pairs."""
        return len(self.by_seed)

    @cached_property
    def seeds_error(self) -> float:
        """Standard error that comes from the pairs: their initialisation, their order, their draws of the sets."""
        return float(self.by_seed.std(ddof=1)) / math.sqrt(self.seeds)

    @property
    def error(self) -> float:
        """Standard error of the difference. What pairs and texts have in common is counted with both: too large by that."""
        return math.hypot(self.seeds_error, self.documents_error)

    @cached_property
    def half(self) -> float:
        """Half of the interval: each source of variance by its own quantile of t, added as squares. It covers what is true at
        least as often as it says, whatever share each source has (Banerjee 1961, Sankhya A 23:377-382). Satterthwaite's is
        shorter and covers less than it says where few pairs happen to agree."""
        by_seeds, by_documents = (self._quantile(free) for free in (self.seeds - 1, self.documents_free))
        return math.hypot(by_seeds * self.seeds_error, by_documents * self.documents_error)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.value + self.half

    @property
    def verdict(self) -> Verdict:
        """Which set is better, if the interval says so."""
        if self.high < 0:
            return "b"
        return "a" if self.low > 0 else "none"

    @property
    def detectable(self) -> float:
        """A difference that would have been seen four times in five, about: with the variances found here."""
        return self.half + float(stats.norm.ppf(POWER)) * self.error

    def _quantile(self, free: int) -> float:
        return float(stats.t.ppf(0.5 + self.level / 2, free))

    def facts(self) -> dict[str, Any]:
        """All of it for report.json."""
        return {
            "documents": self.documents,
            "seeds": self.seeds,
            "bits_per_byte": {"a": self.models[0].tolist(), "b": self.models[1].tolist()},
            "difference": self.value,
            "interval": [self.low, self.high],
            "level": self.level,
            "half": self.half,
            "by_seed": self.by_seed.tolist(),
            "error_of_seeds": self.seeds_error,
            "error_of_documents": self.documents_error,
            "detectable": self.detectable,
            "verdict": self.verdict,
        }


def compare(bits: np.ndarray, n_bytes: np.ndarray, level: float = LEVEL) -> Difference:
    """The difference over texts of one source. `bits` (2, S, n) are bits that models of A and B need for each text, float;
    `n_bytes` (n,) the lengths of the texts in UTF-8. Bits a byte are those of all texts together: long ones count for more.

    Raises UsageError for fewer than two pairs or texts.
    """
    sets, seeds, n = bits.shape
    if sets != 2 or n_bytes.shape != (n,):
        raise ValueError(f"bits of shape {bits.shape} and lengths of shape {n_bytes.shape} do not belong together")
    if seeds < 2:
        raise UsageError("one pair of models does not say how much chance there is in it; take two seeds or more")
    if n < 2:
        raise UsageError(f"{n} held-out text is not enough to tell sets apart; give two or more")
    total = float(n_bytes.sum())
    models = bits.sum(2) / total
    by_seed = models[1] - models[0]
    each = (bits[1] - bits[0]).mean(0)
    # Error of a ratio by linearisation (Cochran 1977, "Sampling Techniques", section 6.3).
    rest = each - float(by_seed.mean()) * n_bytes
    error = math.sqrt(n / (n - 1) * float(rest @ rest)) / total
    return Difference(by_seed, models, error, n - 1, n, level)


def overall(found: Mapping[str, Difference]) -> Difference:
    """The mean over sources, each of which counts the same. Raises UsageError where there is none."""
    if not found:
        raise UsageError("no held-out texts are left to compare the sets on")
    parts = list(found.values())
    if len(parts) == 1:
        return parts[0]
    return Difference(
        np.mean([part.by_seed for part in parts], 0),
        np.mean([part.models for part in parts], 0),
        math.sqrt(sum(part.documents_error**2 for part in parts)) / len(parts),
        min(part.documents_free for part in parts),
        sum(part.documents for part in parts),
        parts[0].level,
    )


def sentence(found: Difference, a: str, b: str, where: str) -> str:
    """What was found, for people: `where` is the source, such as web."""
    pairs = f"{_NUMBERS.get(found.seeds, str(found.seeds))} seeds"
    if found.verdict != "none":
        better, other = (a, b) if found.verdict == "a" else (b, a)
        size = f"{abs(found.value):.3f} ± {found.half:.3f}"
        return f"{better} is better than {other} by {size} bits per byte on {where}, {pairs}"
    if not found.by_seed.any():
        return f"no difference at all on {where}: the models of {a} and {b} are the same, {pairs}"
    return (
        f"no difference could be shown on {where} ({b} less {a}: {found.value:+.3f} ± {found.half:.3f} bits per byte, "
        f"{pairs}); a difference of {found.detectable:.3f} would have been seen with power {POWER:g}"
    )


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
