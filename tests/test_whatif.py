"""Moved bounds against the truth: what the rules themselves say under the moved recipe."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, parse_recipe
from pipeline.rules import hits, score_hits, within
from pipeline.whatif import WhatIf, curve, grid, moved, really, thresholds

RECIPE = parse_recipe(
    """
name: bounded
gates: {language: {keep: {en: 0.65, de: 0.3}, script: 0.5}}
rules:
  gopher: gopher_quality@datatrove
  own: {bounds: {unique_word_frac: [0.1, 0.9], line_count: [1, null]}}
  scored: {bounds: {score_good: [0.2, null], listed_density: [null, 0.1]}}
score: {heads: {good: {model: quality}}, listed_words: shipped}
"""
)


def _ledger(recipe: Recipe, n: int = 1500, seed: int = 3) -> pa.Table:
    """Random records whose values often lie on a bound, with nulls, NaN and infinite ones, decided by the rules."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {}
    for threshold in thresholds(recipe):
        if threshold.signal in columns:
            continue
        near = threshold.value * rng.choice([0.5, 0.9, 1, 1, 1.1, 3], n) + rng.choice([0.0, 0.0, 0.05], n)
        inside = threshold.value * (1.2 if threshold.side == "minimum" else 0.8)
        near = np.where(rng.random(n) < 0.85, inside, near)
        if "count" in threshold.signal:
            columns[threshold.signal] = pa.array(np.rint(near), pa.int32())
            continue
        near[rng.random(n) < 0.02] = np.nan
        near[rng.random(n) < 0.01] = np.inf
        is_share = threshold.signal in ("language_score", "script_share", "score_good", "listed_density")
        kind = pa.float32() if is_share else pa.float64()
        columns[threshold.signal] = pa.array(near, kind, mask=rng.random(n) < 0.02)
    columns["language"] = pa.array([[None, "en", "de", "fr"][i] for i in rng.choice(4, n, p=[0.05, 0.6, 0.25, 0.1])])
    table = pa.table(columns)
    text = hits(table, recipe)
    unscored = pa.array([bool(found) for found in text])
    for name in ("score_good", "listed_density"):
        at = table.schema.get_field_index(name)
        values = pa.array(table.column(name).to_pylist(), pa.float32())
        table = table.set_column(at, name, pa.array(values.to_numpy(False), mask=_or(values.is_null(), unscored)))
    scored = score_hits(_with_quality(table), recipe)
    later = rng.choice(["", "dedup.minhash", "pii.max_hits", "score.quality"], n, p=[0.85, 0.05, 0.05, 0.05])
    reasons = [
        list(one) if one else list(two) if two else [last] if last else []
        for one, two, last in zip(text, scored, later.tolist(), strict=True)
    ]
    for row in range(0, n, 100):
        reasons[row] = ["same_record", *reasons[row]]
    table = table.append_column("rule_hits", pa.array(reasons, pa.list_(pa.string())))
    return table.append_column("outcome", pa.array(["dropped" if found else "kept" for found in reasons]))


def _or(one: pa.Array, other: pa.Array) -> np.ndarray:
    return np.asarray(one.to_numpy(zero_copy_only=False) | other.to_numpy(zero_copy_only=False))


def _with_quality(table: pa.Table) -> pa.Table:
    return table.append_column("below_top", pa.array([False] * table.num_rows))


def _truth(table: pa.Table, recipe: Recipe, was_scored: np.ndarray) -> list[tuple[str, ...]]:
    text, scores = hits(table, recipe), score_hits(_with_quality(table), recipe)
    return [(*one, *(two if known else ())) for one, two, known in zip(text, scores, was_scored.tolist(), strict=True)]


def _moves(recipe: Recipe, rng: np.random.Generator) -> dict[str, float | None]:
    known = thresholds(recipe)
    moves: dict[str, float | None] = {}
    for number in rng.choice(len(known), rng.integers(1, 7), replace=False):
        one = known[number]
        value = one.value * float(rng.choice([0.5, 0.7, 0.9, 1.0, 1.1, 1.5]))
        moves[one.key] = min(value, 1.0) if one.gate else None if rng.random() < 0.2 else value
    return moves


def test_moved_bounds_decide_as_the_rules_do() -> None:
    table = _ledger(RECIPE)
    whatif = WhatIf(table, RECIPE)
    assert whatif.disagreeing == 0
    assert whatif.was_kept.sum() > 100
    later = np.array([bool(set(found) - set(whatif.names)) for found in table.column("rule_hits").to_pylist()])
    again = np.array(["same_record" in found for found in table.column("rule_hits").to_pylist()])
    was_scored = np.array([not found for found in hits(table, RECIPE)])
    was = whatif.was_kept
    rng = np.random.default_rng(5)
    tried = 0
    for _ in range(45):
        moves = _moves(RECIPE, rng)
        try:
            recipe = moved(RECIPE, moves)
        except RecipeError:
            continue  # a minimum above its maximum
        tried += 1
        truth = _truth(table, recipe, was_scored)
        passes = np.array([not found for found in truth]) & ~later
        change = whatif.evaluate(moves)
        assert np.array_equal(change.kept | change.passing, passes)
        assert np.array_equal(change.kept, passes & was)
        assert np.array_equal(change.lost, was & ~passes)
        for row in range(table.num_rows):
            expected = table.column("rule_hits")[row].as_py()[0] if again[row] else None
            if not again[row] and truth[row]:
                expected = truth[row][0]
            elif not again[row] and later[row]:
                expected = whatif.reason(row, whatif.first) if not whatif.first[row] >= 0 else None
                assert expected in ("dedup.minhash", "pii.max_hits", "score.quality")
            assert whatif.reason(row, change.first) == expected
        count: dict[str, int] = {}
        sole: dict[str, int] = {}
        for found, twice, after in zip(truth, again.tolist(), later.tolist(), strict=True):
            for rule in () if twice else found:
                count[rule] = count.get(rule, 0) + 1
            if len(found) == 1 and not after:
                sole[found[0]] = sole.get(found[0], 0) + 1
        assert {rule: n for rule, n in change.hits.items() if n} == count
        assert {rule: n for rule, n in change.sole.items() if n} == sole
        assert sum(change.reasons.values()) == table.num_rows - int(passes.sum())
    assert tried > 20


def test_a_bound_that_is_measured_on_itself_admits_what_was_measured_as_it() -> None:
    scores = pa.array([0.65, np.nextafter(np.float32(0.65), np.float32(0))], pa.float32())
    recipe = parse_recipe("name: gate\ngates: {language: {keep: {en: 0.5}, script: 0}}")
    table = pa.table(
        {
            "language": ["en", "en"],
            "language_score": scores,
            "script_share": pa.array([1.0, 1.0], pa.float32()),
            "rule_hits": pa.array([[], []], pa.list_(pa.string())),
            "outcome": ["kept", "kept"],
        }
    )
    assert WhatIf(table, recipe).evaluate({"gates.language.en": 0.65}).kept.tolist() == [True, False]


def test_a_bound_is_moved_by_several_at_once() -> None:
    whatif = WhatIf(_ledger(RECIPE, 300), RECIPE)
    tried = [float(value) for value in range(40, 240)]
    alone = [int(whatif.evaluate({"gopher.word_count.min": value}).lost.sum()) for value in tried]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda value: int(whatif.evaluate({"gopher.word_count.min": value}).lost.sum()), tried)
    assert list(together) == alone and len(set(alone)) > 1


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows_and_columns_without_a_value(n: int) -> None:
    signals = {threshold.signal for threshold in thresholds(RECIPE)}
    table = pa.table(
        {
            **{name: pa.nulls(n) for name in sorted(signals)},
            "language": pa.nulls(n, pa.string()),
            "rule_hits": pa.array([["gates.language"]] * n, pa.list_(pa.string())),
            "outcome": pa.array(["dropped"] * n, pa.string()),
        }
    )
    whatif = WhatIf(table, RECIPE)
    change = whatif.evaluate({"gopher.word_count.min": 0.0, "gopher.word_count.max": None})
    assert change.kept.tolist() == [False] * n
    assert change.hits["gopher.word_count"] == n  # a null value breaks a bound
    assert (
        whatif.evaluate({"gopher.word_count.min": None, "gopher.word_count.max": None}).hits["gopher.word_count"] == 0
    )


@pytest.mark.parametrize("side", ["minimum", "maximum"])
def test_a_curve_is_what_each_threshold_would_keep(side: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.choice(np.array([0.1, 0.3, 0.65, np.nan, np.inf, -np.inf, 2]), 500).astype(np.float32)
    passes, weights = rng.random(500) < 0.5, rng.integers(0, 90, 500)
    at = np.array([0.65, 0.1, -np.inf, np.inf, 5.0, 0.31])
    ends = [(value, None) if side == "minimum" else (None, value) for value in at.tolist()]
    kept = [within(values, *end) & passes for end in ends]
    assert curve(values, passes, at, side).tolist() == [int(rows.sum()) for rows in kept]
    assert curve(values, passes, at, side, weights).tolist() == [int(weights[rows].sum()) for rows in kept]


@pytest.mark.parametrize(
    "key", ["gopher.word_count.min", "gopher.mean_word_length.max", "gates.language.en", "gates.script"]
)
def test_the_curve_of_a_threshold_is_what_moving_it_there_keeps(key: str) -> None:
    table = _ledger(RECIPE, 800)
    whatif = WhatIf(table, RECIPE)
    other: dict[str, float | None] = {"own.line_count.min": 0.5}
    values = np.array([0.1, 0.5, 0.65, 0.9] if key.startswith("gates") else [3.0, 9, 10, 49, 50, 51, 160])
    changes = [whatif.evaluate({**other, key: value}) for value in values.tolist()]
    assert whatif.curve(key, values, other).tolist() == [int((c.kept | c.passing).sum()) for c in changes]


def test_a_moved_recipe_overrides_its_dialects() -> None:
    recipe = moved(RECIPE, {"gopher.word_count.min": 20, "gopher.stop_word_count.min": None, "gates.language.de": 0})
    assert recipe.rules["gopher"].dialect == "gopher_quality@datatrove"
    assert recipe.rules["gopher"].bounds == {"word_count": (20, 100000), "stop_word_count": None}
    assert recipe.gates.language.keep == {"en": 0.65, "de": 0}
    assert moved(RECIPE, {"gopher.word_count.min": 50}) == RECIPE
    assert really({"gopher.word_count.min": 50.0, "own.line_count.min": 2}, RECIPE) == {"own.line_count.min": 2}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("gopher.word_cuont.min", 1.0, "no bound"),
        ("gopher.word_count.min", float("nan"), "a number"),
        ("gopher.word_count.min", float("inf"), "a number"),
        ("gopher.word_count.min", 1e6, "above the maximum"),
        ("gates.script", None, "0 to 1"),
        ("gates.language.en", 1.5, "0 to 1"),
    ],
)
def test_moves_that_make_no_recipe_are_refused(key: str, value: float | None, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        moved(RECIPE, {key: value})


@pytest.mark.parametrize(
    ("values", "marks", "is_even"),
    [
        (np.array([]), [], True),
        (np.array([np.nan, np.inf]), [0.2], True),
        (np.arange(90) / 89, [0.65], True),
        (np.geomspace(1, 1e5, 400).round(), [50, 100_000], False),
        (np.array([0, 0, 0]), [0], True),
        (np.array([-3.5, 8]), [2], True),
        (np.geomspace(1e-6, 0.7, 300), [0.1], False),
    ],
)
def test_a_grid_has_the_marks_and_stays_near_what_was_seen(values: Any, marks: list[float], is_even: bool) -> None:
    steps = grid(values, marks)
    seen = np.concatenate([values[np.isfinite(values)], marks])
    assert 2 <= len(steps) <= 160
    assert (np.diff(steps) > 0).all()
    assert set(marks) <= set(steps.tolist())
    if len(seen):
        spread = max(float(np.ptp(seen)), 1)
        assert seen.min() - 0.02 * spread <= steps[0] <= seen.min()
        assert seen.max() <= steps[-1] <= seen.max() + max(0.02 * spread, 1)
    others = [value for value in steps.tolist() if value not in marks and value != 0]
    assert all(float(f"{value:.3g}") == pytest.approx(value, rel=1e-9) for value in others)
    gaps = np.diff(steps)
    assert (np.median(gaps[-20:]) < 20 * np.median(gaps[:20])) == is_even
