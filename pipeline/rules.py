"""Columns and bounds to verdicts. No thresholds here: they come from the recipe."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.recipe import Recipe
from pipeline.scores import dropped, scored_names

EDITED = "edited_"
"""Prefix of a signal that was measured on the text after the recipe's line edits."""

QUALITY_RULE = "score.quality"
"""The rule that a page breaks which the recipe's `score.quality.keep` does not keep."""


class Bound(NamedTuple):
    """Keep where `minimum <= signal <= maximum`; a null or NaN signal breaks the rule."""

    rule: str
    signal: str
    minimum: float | None
    maximum: float | None
    source: str = ""

    def __str__(self) -> str:
        low = "" if self.minimum is None else f"{self.minimum:g} <= "
        high = "" if self.maximum is None else f" <= {self.maximum:g}"
        return f"{low}{self.signal}{high}"


class Verdict(NamedTuple):
    """What the rules make of one text: `hits` are the rules that it broke, in the recipe's order."""

    kept: bool
    hits: tuple[str, ...]

    @property
    def reason(self) -> str | None:
        """The first rule broken, or None."""
        return self.hits[0] if self.hits else None


def bounds(recipe: Recipe) -> list[Bound]:
    """The recipe's rules as flat bounds, named `group.signal`, in order."""
    has_edits = bool(recipe.line_edits())
    flat = []
    for name, dialect in recipe.groups():
        prefix = EDITED if dialect.text == "edited" and has_edits else ""
        for signal, (low, high) in dialect.bounds.items():
            flat.append(Bound(f"{name}.{signal}", prefix + signal, low, high, dialect.source))
    return flat


def text_bounds(recipe: Recipe) -> list[Bound]:
    """The bounds on what is measured of the text, which are asked first."""
    scored = scored_names(recipe.score)
    return [bound for bound in bounds(recipe) if bound.signal not in scored]


def score_bounds(recipe: Recipe) -> list[Bound]:
    """The bounds on scores, which only pages have that break none of the others."""
    scored = scored_names(recipe.score)
    return [bound for bound in bounds(recipe) if bound.signal in scored]


def broken(columns: pa.Table | pa.RecordBatch, rules: Sequence[Bound]) -> np.ndarray:
    """Boolean matrix (rows x rules): True where a row breaks a rule."""
    result = np.zeros((columns.num_rows, len(rules)), dtype=bool)
    for j, rule in enumerate(rules):
        values = columns.column(rule.signal).to_numpy(zero_copy_only=False)
        result[:, j] = ~within(values, rule.minimum, rule.maximum)
    return result


def within(values: np.ndarray, minimum: float | None, maximum: float | None) -> np.ndarray:
    """True where a value lies in the closed interval; False for null and NaN.

    float32 columns are compared as float32, so that a bound written as 0.65 admits a value measured as 0.65.
    """
    if values.dtype == object:
        values = values.astype(np.float64)
    kind = values.dtype.type if values.dtype.kind == "f" else np.float64
    inside = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), dtype=bool)
    if minimum is not None:
        inside &= values >= kind(minimum)
    if maximum is not None:
        inside &= values <= kind(maximum)
    return inside


def language_hits(languages: pa.Array, scores: pa.Array, script_shares: pa.Array, recipe: Recipe) -> np.ndarray:
    """Boolean matrix (rows x 2): breaks `gates.language`, breaks `gates.script`."""
    gate = recipe.gates.language
    codes = languages.to_pylist()
    score = np.nan_to_num(scores.to_numpy(zero_copy_only=False).astype(np.float32))
    if gate.keep:
        least = np.array([gate.keep.get(code, np.inf) for code in codes], dtype=np.float32)
        wrong_language = ~(score >= least)
    else:
        wrong_language = np.zeros(len(codes), dtype=bool)
    share = script_shares.to_numpy(zero_copy_only=False).astype(np.float32)
    return np.column_stack([wrong_language, ~within(share, gate.script, None)])


def judge(text: str, recipe: Recipe) -> Verdict:
    """What the recipe's rules on text, language gate included, make of one text; scores are not asked.

    Needs no Spark and no files.
    """
    from pipeline.signals import measure

    broken_rules = hits(measure(pa.array([text], pa.string()), recipe), recipe)[0]
    return Verdict(not broken_rules, broken_rules)


def hits(signals: pa.Table, recipe: Recipe) -> list[tuple[str, ...]]:
    """For every row of signals (language columns included), the rules on text that it breaks, in the recipe's order."""
    rules = text_bounds(recipe)
    names = np.array(["gates.language", "gates.script", *(r.rule for r in rules)], dtype=object)
    codes, scores, shares = (signals.column(c).combine_chunks() for c in ("language", "language_score", "script_share"))
    language = language_hits(codes, scores, shares, recipe)
    matrix = np.hstack([language, broken(signals, rules)])
    return [tuple(names[row]) for row in matrix]


def score_hits(scores: pa.Table, recipe: Recipe) -> list[tuple[str, ...]]:
    """For every row of scores (with the columns of quality), the rules on scores that it breaks, quality last.

    Where there is no word list for the language of a page, its words break no rule.
    """
    rules = score_bounds(recipe)
    names = np.array([*(rule.rule for rule in rules), QUALITY_RULE], dtype=object)
    breaks = broken(scores, rules)
    for j, rule in enumerate(rules):
        if rule.signal.startswith("listed_"):
            breaks[:, j] &= scores.column(rule.signal).is_valid().to_numpy()
    matrix = np.hstack([breaks, dropped(scores, recipe.score)[:, None]])
    return [tuple(names[row]) for row in matrix]
