"""What would be kept under other bounds, from the columns that a run measured: tables in, arrays out.

What the ledger knows stays as it is: a record that was dropped before its text was measured, or by what comes after the
rules (deduplication, decontamination, personal data, quality), stays dropped. A page that only now passes the rules was
never scored or compared with others, so it is counted apart. Deciding the run again gives the exact answer.

Numbers are compared as `pipeline.rules` compares them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.curation import SAME_RECORD
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.rules import Bound, score_bounds, text_bounds, within
from pipeline.tables import Outcome

Side = Literal["minimum", "maximum"]
"""Which end of an interval a threshold is."""

LANGUAGE = "gates.language"
SCRIPT = "gates.script"

MOVED = 32
"""Verdicts of moved rules that are kept, since one bound is moved while the others stay where they are."""


class Threshold(NamedTuple):
    """One number of a recipe that can be moved. `key` names it; gates cannot be switched off, but be set to 0."""

    key: str
    rule: str
    signal: str
    side: Side
    value: float
    gate: bool = False


Moves = Mapping[str, float | None]
"""New values by the key of a threshold; None switches it off."""


def thresholds(recipe: Recipe) -> list[Threshold]:
    """Every number of the recipe that can be moved, in the order in which the rules are asked."""
    gate = recipe.gates.language
    found = [
        Threshold(f"{LANGUAGE}.{code}", LANGUAGE, "language_score", "minimum", least, True)
        for code, least in gate.keep.items()
    ]
    found.append(Threshold(SCRIPT, SCRIPT, "script_share", "minimum", gate.script, True))
    for bound in (*text_bounds(recipe), *score_bounds(recipe)):
        if bound.minimum is not None:
            found.append(Threshold(f"{bound.rule}.min", bound.rule, bound.signal, "minimum", bound.minimum))
        if bound.maximum is not None:
            found.append(Threshold(f"{bound.rule}.max", bound.rule, bound.signal, "maximum", bound.maximum))
    return found


def really(moves: Moves, recipe: Recipe) -> dict[str, float | None]:
    """The moves that change something, in the recipe's order.

    Raises RecipeError for a key that the recipe does not have, and for a value that no bound can have.
    """
    known = {threshold.key: threshold for threshold in thresholds(recipe)}
    for key, value in moves.items():
        if key not in known:
            raise RecipeError(f"the recipe has no bound {key!r}")
        if value is not None and not math.isfinite(value):
            raise RecipeError(f"{key}: a bound is a number, not {value}")
        if known[key].gate and (value is None or not 0 <= value <= 1):
            raise RecipeError(f"{key}: a share from 0 to 1, not {'nothing' if value is None else f'{value:g}'}")
    return {key: moves[key] for key, threshold in known.items() if key in moves and moves[key] != threshold.value}


def moved(recipe: Recipe, moves: Moves) -> Recipe:
    """The recipe with its bounds moved: dialects are overridden, and a bound that is switched off is null.

    Raises RecipeError for an unknown key, a value that no bound can have and a minimum above its maximum.
    """
    moves = really(moves, recipe)
    gate = recipe.gates.language
    keep = {code: moves.get(f"{LANGUAGE}.{code}", least) for code, least in gate.keep.items()}
    language = {"keep": keep, "script": moves.get(SCRIPT, gate.script)}
    body = recipe.model_dump()
    body["gates"]["language"] = language
    for name, dialect in recipe.groups():
        for signal, (low, high) in dialect.bounds.items():
            rule = f"{name}.{signal}"
            ends = (moves.get(f"{rule}.min", low), moves.get(f"{rule}.max", high))
            if ends == (low, high):
                continue
            if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
                raise RecipeError(f"{rule}: the minimum {ends[0]:g} is above the maximum {ends[1]:g}")
            body["rules"][name]["bounds"][signal] = None if ends == (None, None) else ends
    return Recipe.model_validate(body)


class Change(NamedTuple):
    """What moved bounds make of the rows: boolean arrays of a row each, and numbers by rule or reason.

    `kept` was kept and still is; `passing` breaks no rule any more but was never compared; `lost` was kept and breaks a
    rule now. `hits` and `sole` count, by rule, the rows that break it, and that break nothing else. `reasons` are the rows
    by the first rule that they break, or by what dropped them later. `first` is the number of that rule, or -1.
    """

    kept: np.ndarray
    passing: np.ndarray
    lost: np.ndarray
    first: np.ndarray
    hits: dict[str, int]
    sole: dict[str, int]
    reasons: dict[str, int]


class WhatIf:
    """The measured rows of a ledger under a recipe whose bounds can be moved.

    `ledger` has a row for each record with text (n_chars is not null) and the columns outcome, rule_hits, language,
    language_score, script_share and those that the recipe bounds. To move one bound is O(rows). May be used by several
    threads.
    """

    def __init__(self, ledger: pa.Table, recipe: Recipe):
        self.recipe = recipe
        self.thresholds = thresholds(recipe)
        gates = [
            Bound(LANGUAGE, "language_score", None, None),
            Bound(SCRIPT, "script_share", recipe.gates.language.script, None),
        ]
        self.rules = [*gates, *text_bounds(recipe), *score_bounds(recipe)]
        self.names = [rule.rule for rule in self.rules]
        self._number = {name: j for j, name in enumerate(self.names)}
        self._n_text = len(self.rules) - len(score_bounds(recipe))
        self.rows = ledger.num_rows
        ledger = ledger.combine_chunks()
        self.values = {
            rule.signal: ledger.column(rule.signal).to_numpy(zero_copy_only=False).astype(_kind(ledger, rule.signal))
            for rule in self.rules
        }
        # Where there is no word list for the language of a page, its words break no rule.
        self._listed: dict[str, np.ndarray] = {
            rule.signal: ledger.column(rule.signal).is_valid().to_numpy()
            for rule in self.rules
            if rule.signal.startswith("listed_")
        }
        coded = pc.dictionary_encode(ledger.column("language").combine_chunks(), null_encoding="encode")
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.combine_chunks()
        self._codes = [] if not self.rows else coded.dictionary.to_pylist()
        self._language = np.zeros(0, np.int64) if not self.rows else coded.indices.to_numpy(zero_copy_only=False)
        self._later, self._reason, self._again = _later(ledger, self.names)
        # A page that broke a rule on its text was never scored, so nothing is known of its scores.
        self._scored: np.ndarray = np.ones(self.rows, bool)
        self._masks = np.zeros((len(self.rules), self.rows), bool)
        for j, rule in enumerate(self.rules):
            if j == self._n_text:
                self._scored = ~np.logical_or.reduce(self._masks[: self._n_text])
            self._masks[j] = self._broken(j, rule.minimum, rule.maximum, recipe.gates.language.keep)
        self._count = self._masks.sum(axis=0, dtype=np.int16)
        # Where one rule alone is broken, the sum of the numbers of the broken rules is its number.
        self._sum = np.zeros(self.rows, np.int32)
        for j in range(1, len(self.rules)):
            self._sum[self._masks[j]] += j
        self.first = np.where(self._count > 0, self._masks.argmax(axis=0), -1).astype(np.int16)
        self._hits = self._masks.sum(axis=1, dtype=np.int64)
        self.was_kept = (self._count == 0) & (self._later == 0)
        outcome = ledger.column("outcome")
        kept = pc.fill_null(pc.equal(outcome, str(Outcome.KEPT)), False).to_numpy(zero_copy_only=False)
        self.disagreeing = int((kept != self.was_kept).sum())
        """Rows of which the ledger says something else than its own columns under the recipe: 0 unless it was changed."""
        self._verdicts: dict[tuple[object, ...], np.ndarray] = {}
        self._lock = Lock()

    def _broken(self, j: int, low: float | None, high: float | None, keep: Mapping[str, float]) -> np.ndarray:
        rule = self.rules[j]
        values = self.values[rule.signal]
        if rule.rule == LANGUAGE:
            if not keep:
                return np.zeros(self.rows, bool)
            least = np.array([keep.get(code, np.inf) for code in self._codes], np.float32)
            broken = ~(np.nan_to_num(values.astype(np.float32)) >= least[self._language])
        elif low is None and high is None:
            broken = np.zeros(self.rows, bool)
        else:
            if rule.rule == SCRIPT:
                values = values.astype(np.float32)
            broken = ~within(values, low, high)
            if j >= self._n_text:
                broken &= self._scored
                if rule.signal in self._listed:
                    broken &= self._listed[rule.signal]
        return broken & ~self._again

    def _moved(self, moves: Moves) -> Iterator[tuple[int, np.ndarray]]:
        """Numbers and verdicts of the rules that are moved, in order."""
        moves = really(moves, self.recipe)
        at = {threshold.key: threshold for threshold in self.thresholds}
        keep = dict(self.recipe.gates.language.keep)
        ends = {rule.rule: [rule.minimum, rule.maximum] for rule in self.rules}
        touched = set()
        for key, value in moves.items():
            threshold = at[key]
            touched.add(self._number[threshold.rule])
            if threshold.rule == LANGUAGE and value is not None:
                keep[key.removeprefix(f"{LANGUAGE}.")] = value
            else:
                ends[threshold.rule][threshold.side == "maximum"] = value
        for j in sorted(touched):
            low, high = ends[self.names[j]]
            known = (j, low, high, *(sorted(keep.items()) if self.names[j] == LANGUAGE else ()))
            with self._lock:
                verdict = self._verdicts.get(known)
            if verdict is None:
                verdict = self._broken(j, low, high, keep)
                with self._lock:
                    while len(self._verdicts) >= MOVED:
                        del self._verdicts[next(iter(self._verdicts))]
                    self._verdicts[known] = verdict
            yield j, verdict

    def evaluate(self, moves: Moves) -> Change:
        """What the moves would change. Raises RecipeError as `really` does."""
        count, total, first, hits = self._count, self._sum, self.first, self._hits.copy()
        changed = dict(self._moved(moves))
        if changed:
            count, total, first = count.copy(), total.copy(), first.copy()
        again: list[np.ndarray] = []
        for j, verdict in changed.items():
            hits[j] = int(verdict.sum())
            on, off = verdict & ~self._masks[j], self._masks[j] & ~verdict
            count += on
            count -= off
            total[on] += j
            total[off] -= j
            again.append(off & (self.first == j))
            sooner = on & ((first > j) | (first < 0))
            first[sooner] = j
        if again:
            self._ask_again(np.flatnonzero(np.logical_or.reduce(again)), changed, count, first)
        free = count == 0
        unbroken = free & (self._later == 0)
        kept = unbroken & self.was_kept
        lost = self.was_kept & ~unbroken
        sole = np.bincount(total[(count == 1) & (self._later == 0)], minlength=len(self.rules))
        codes = np.where(free, len(self.rules) + self._later, first)
        tally = np.bincount(codes, minlength=len(self.rules) + len(self._reason)).tolist()
        names = [*self.names, *self._reason]
        return Change(
            kept,
            unbroken & ~self.was_kept,
            lost,
            first,
            dict(zip(self.names, hits.tolist(), strict=True)),
            dict(zip(self.names, sole.tolist(), strict=True)),
            {name: n for name, n in zip(names, tally, strict=True) if n and name},
        )

    def _ask_again(
        self, rows: np.ndarray, changed: Mapping[int, np.ndarray], count: np.ndarray, first: np.ndarray
    ) -> None:
        """Finds the first broken rule of rows whose own was moved out of their way."""
        first[rows] = -1
        rows = rows[count[rows] > 0]
        for j in range(len(self.rules)):
            if not len(rows):
                return
            broken = changed.get(j, self._masks[j])[rows]
            first[rows[broken]] = j
            rows = rows[~broken]

    def reason(self, row: int, first: np.ndarray) -> str | None:
        """Why a row is dropped, given `first` of a Change; None where it is not."""
        return self.names[first[row]] if first[row] >= 0 else self._reason[self._later[row]] or None

    @property
    def later_reasons(self) -> list[str]:
        """What dropped rows after the rules: the reasons that no bound moves."""
        return self._reason[1:]

    def language(self, row: int) -> str | None:
        """The language of a row."""
        code: str | None = self._codes[self._language[row]]
        return code

    def applies(self, threshold: Threshold) -> np.ndarray:
        """Rows that a threshold speaks of: pages of its language, and for bounds on scores the pages that have them."""
        if threshold.rule == LANGUAGE:
            code = threshold.key.removeprefix(f"{LANGUAGE}.")
            least = np.array([known == code for known in self._codes], bool)
            return least[self._language] if self.rows else np.zeros(0, bool)
        if threshold.signal in self._listed:
            return self._scored & self._listed[threshold.signal]
        return self._scored if self._number[threshold.rule] >= self._n_text else np.ones(self.rows, bool)

    def curve(
        self, key: str, values: np.ndarray, moves: Moves | None = None, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """How many rows, or what of their weights, would be kept or newly pass with one threshold at each of `values`
        and the others where `moves` puts them. Raises RecipeError for an unknown key.
        """
        threshold = next((one for one in self.thresholds if one.key == key), None)
        if threshold is None:
            raise RecipeError(f"the recipe has no bound {key!r}")
        # With this end as low (or high) as it goes, what is left is what everything else lets pass.
        open_end: float | None = 0.0 if threshold.gate else None
        change = self.evaluate({**(moves or {}), key: open_end})
        passes = change.kept | change.passing
        held = self.values[threshold.signal]
        applies = self.applies(threshold) & passes
        base = passes & ~applies
        fixed = float(base.sum()) if weights is None else float(np.asarray(weights, np.float64)[base].sum())
        return curve(held, applies, values, threshold.side, weights) + round(fixed)


def _kind(ledger: pa.Table, signal: str) -> type:
    """The type that a column's numbers are compared in, as `pipeline.rules.within` has it."""
    numbers = ledger.column(signal).to_numpy(zero_copy_only=False)
    return np.float64 if numbers.dtype == object else numbers.dtype.type


def _later(ledger: pa.Table, rules: Sequence[str]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """For every row the number of what dropped it after the rules, 0 if nothing did; the names of these numbers; and
    which rows are captures that were archived twice, of which nothing else counts.
    """
    hits = ledger.column("rule_hits").combine_chunks()
    if isinstance(hits, pa.ChunkedArray):
        hits = pa.concat_arrays(hits.chunks) if hits.num_chunks else pa.array([], hits.type)
    flat, parents = hits.flatten(), hits.value_parent_indices().to_numpy()
    others = pc.invert(pc.is_in(flat, value_set=pa.array(rules, pa.string()))).to_numpy(zero_copy_only=False)
    coded = pc.dictionary_encode(flat.filter(pa.array(others)))
    names = ["", *coded.dictionary.to_pylist()]
    numbers = np.zeros(ledger.num_rows, np.int16)
    # The first counts: rows are written from the last hit to the first.
    numbers[parents[others][::-1]] = coded.indices.to_numpy(zero_copy_only=False)[::-1] + 1
    again = numbers == names.index(SAME_RECORD) if SAME_RECORD in names else np.zeros(ledger.num_rows, bool)
    return numbers, names, again


STEPS = 150
"""About so many values are offered for a threshold: one for each place of a slider."""


def grid(values: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """Values that are worth trying as a threshold on a signal, ascending (float64): of three digits, from the least to the
    greatest of its values and `marks`, which are among them; evenly spaced, or by ratio where the signal is spread so.

    NaN and infinite values do not count. With neither values nor marks it is 0 to 1.
    """
    seen = np.asarray(values, np.float64)
    seen = seen[np.isfinite(seen)]
    held = np.concatenate([seen, np.asarray(marks, np.float64)])
    if not len(held):
        held = np.array([0.0, 1.0])
    low, high = float(held.min()), float(held.max())
    whole = bool((held == np.rint(held)).all()) and (high > 1 or not len(seen))
    if low == high:
        high = low + 1
    if whole and high - low <= STEPS:
        steps = np.arange(low, high + 1)
    elif low >= 0 and _by_ratio(seen, high):
        positive = held[held > 0]
        least = max(1.0 if whole else float(np.quantile(positive, 0.001)), high / 1e6)
        steps = np.array([_rounded(value) for value in np.geomspace(least, high, STEPS)])
        steps = np.concatenate([[low], np.rint(steps) if whole else steps, [_rounded(high, up=True)]])
    else:
        step = _nice((high - low) / STEPS)
        step = max(1.0, step) if whole else step
        places = max(0, -math.floor(math.log10(step)))
        numbers = np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
        steps = np.round(numbers * step, places)
    return np.unique(np.concatenate([steps, np.asarray(marks, np.float64)]))


def _by_ratio(values: np.ndarray, high: float) -> bool:
    """Whether most of the values that are not 0 would be pressed into the first twentieth of an even scale."""
    positive = values[values > 0]
    return bool(len(positive)) and high > 20 * float(np.median(positive))


def _rounded(value: float, up: bool = False) -> float:
    """A value at three digits."""
    if value == 0:
        return 0.0
    places = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return round(rounded + 10.0**-places, places) if up and rounded < value else rounded


def _nice(step: float) -> float:
    """The next larger one of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def curve(
    values: np.ndarray,
    passes_others: np.ndarray,
    thresholds: np.ndarray,
    side: Side,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """How many rows (int64), or what total of their `weights`, would be kept with a bound at each of the thresholds.

    values (n,) are those of one signal, passes_others (n,) says which rows break nothing else. Thresholds, in any order,
    are bounds that a value may touch; a null (NaN) value breaks every one. O(n log n).
    """
    rows = np.asarray(passes_others, dtype=bool)
    if values.dtype == object:
        values = values.astype(np.float64)
    kind = values.dtype.type if values.dtype.kind == "f" else np.float64
    if values.dtype.kind == "f":
        rows = rows & ~np.isnan(values)
    held = values[rows].astype(kind)
    order = np.argsort(held, kind="stable")
    totals = np.ones(len(held)) if weights is None else np.asarray(weights, dtype=np.float64)[rows][order]
    cumulated = np.concatenate([[0.0], np.cumsum(totals)])
    at = np.searchsorted(held[order], np.asarray(thresholds).astype(kind), "right" if side == "maximum" else "left")
    kept = cumulated[at] if side == "maximum" else cumulated[-1] - cumulated[at]
    return np.rint(kept).astype(np.int64)
