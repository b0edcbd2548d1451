"""Bounds and verdicts."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.recipe import parse_recipe
from pipeline.rules import Bound, bounds, broken, judge, language_hits, within


@pytest.mark.parametrize(
    ("values", "low", "high", "expected"),
    [
        (pa.array([1, 2, 3], pa.int32()), 2, 3, [False, True, True]),
        (pa.array([0.5, None, float("nan")], pa.float32()), None, 1, [True, False, False]),
        (pa.array([None, 4], pa.int32()), 0, None, [False, True]),
        (pa.array([0.65], pa.float32()), 0.65, None, [True]),
        (pa.array([0.65], pa.float32()), None, 0.65, [True]),
    ],
)
def test_within_is_closed_and_refuses_null(values, low, high, expected) -> None:
    assert within(values.to_numpy(zero_copy_only=False), low, high).tolist() == expected


def test_every_broken_rule_is_seen_not_only_the_first() -> None:
    table = pa.table({"a": [1, 5], "b": [1.0, 9.0]})
    rules = [Bound("r.a", "a", None, 2), Bound("r.b", "b", None, 2)]
    assert broken(table, rules).tolist() == [[False, False], [True, True]]


def test_edited_groups_read_edited_columns_only_if_lines_are_edited() -> None:
    plain = parse_recipe("name: x\nrules: {f: {text: edited, bounds: {word_count: [1, 2]}}}\n")
    edited = parse_recipe("name: x\nrules: {c: c4@fineweb, f: {text: edited, bounds: {word_count: [1, 2]}}}\n")
    assert [b.signal for b in bounds(plain)] == ["word_count"]
    assert [b.signal for b in bounds(edited) if b.rule == "f.word_count"] == ["edited_word_count"]


def test_language_gate_has_a_threshold_for_each_language() -> None:
    recipe = parse_recipe("name: x\ngates: {language: {keep: {en: 0.65, de: 0.5}, script: 0.5}}\n")
    hits = language_hits(
        pa.array(["en", "en", "de", "fr", None, "en"]),
        pa.array([0.7, 0.6, 0.5, 0.99, 0.0, 0.9], pa.float32()),
        pa.array([1, 1, 1, 1, 1, 0.2], pa.float32()),
        recipe,
    )
    assert hits[:, 0].tolist() == [False, True, False, True, True, False]
    assert hits[:, 1].tolist() == [False] * 5 + [True]


GOOD = (
    "The harbour at Lenn has been deepened twice since the war, and each time the town quarrelled about the cost. "
    "Boats that once waited for the tide now come and go as they please. A ferry crosses to the islands every morning "
    "with post, bread and the few passengers who have business there. In winter the crossing takes an hour; with a fair "
    "wind in June it is done in half of that. The pilots say that the new channel has changed the way sand moves along "
    "the shore, and they keep their own charts of it."
)


def test_judge_keeps_good_prose_and_names_every_reason_for_bad() -> None:
    recipe = parse_recipe(
        "name: x\ngates: {language: {keep: {en: 0.5}}}\n"
        "rules: {q: {bounds: {word_count: [50, null]}}, r: {bounds: {mean_word_length: [3, 10]}}}\n"
    )
    assert judge(GOOD, recipe).kept
    verdict = judge("a b c d", recipe)
    assert not verdict.kept
    assert {"q.word_count", "r.mean_word_length"} <= set(verdict.hits)
    assert verdict.reason == verdict.hits[0]


def test_bound_reads_as_a_sentence() -> None:
    assert str(Bound("g.word_count", "word_count", 50, None)) == "50 <= word_count"
    assert np.array_equal(within(np.array([1, 2]), None, None), [True, True])
