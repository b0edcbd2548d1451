"""Figures of an evaluation against their definitions, written out slowly."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.evaluation import (
    average_precision,
    calibration_error,
    evaluate,
    isotonic,
    keep_rates,
    length_slices,
    reliability,
    roc_auc,
    thresholds,
    with_intervals,
)
from pipeline.errors import InputError

SCORED = st.lists(st.tuples(st.integers(0, 10).map(lambda n: n / 10), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


@given(SCORED)
@settings(max_examples=200, deadline=None)
def test_areas_are_what_their_definitions_say(rows: list[tuple[float, bool]]) -> None:
    scores, truth = zip(*rows, strict=True)
    positive = [s for s, label in rows if label]
    negative = [s for s, label in rows if not label]
    wins = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    assert roc_auc(scores, truth) == pytest.approx(wins / len(positive) / len(negative))
    area, recall = 0.0, 0.0
    for cut in sorted(set(scores), reverse=True):
        taken = [label for s, label in rows if s >= cut]
        area += (sum(taken) / len(positive) - recall) * sum(taken) / len(taken)
        recall = sum(taken) / len(positive)
    assert average_precision(scores, truth) == pytest.approx(area)


@given(SCORED)
@settings(max_examples=100, deadline=None)
def test_calibration_rises_keeps_the_mean_and_never_fits_worse(rows: list[tuple[float, bool]]) -> None:
    scores, truth = (np.array(column, float) for column in zip(*rows, strict=True))
    calibration = isotonic(scores, truth)
    shares = calibration.apply(scores)
    assert list(calibration.scores) == sorted(set(calibration.scores))
    assert list(calibration.shares) == sorted(calibration.shares)
    assert shares.mean() == pytest.approx(truth.mean(), abs=1e-5)
    assert ((shares - truth) ** 2).mean() <= ((scores - truth) ** 2).mean() + 1e-5


def test_reliability_by_hand() -> None:
    table = reliability([0.05, 0.95, 1.0, 0.91, None], [0, 1, 1, 0, 1])
    assert (table[0].n, table[0].share, table[5].n) == (1, 0, 0) and math.isnan(table[5].share)
    assert table[9].n == 3 and table[9].share == pytest.approx(2 / 3)
    assert table[9].mean_score == pytest.approx(2.86 / 3)
    assert calibration_error(table) == pytest.approx((0.05 + 3 * (2.86 / 3 - 2 / 3)) / 4)


def test_intervals_are_wider_where_examples_hang_together() -> None:
    draw = np.random.default_rng(5)
    host = np.repeat(np.arange(40), 25)
    truth = (host % 2).astype(int)
    scores = 0.4 * truth + draw.normal(0, 0.5, 40)[host] + draw.normal(0, 0.1, 1000)
    alone = with_intervals(scores, truth, draws=200)["roc_auc"]
    together = with_intervals(scores, truth, host.tolist(), draws=200)["roc_auc"]
    assert together == with_intervals(scores, truth, host.tolist(), draws=200)["roc_auc"]
    assert alone.value == together.value == pytest.approx(roc_auc(scores, truth))
    assert together.low <= together.value <= together.high
    assert together.high - together.low > 2 * (alone.high - alone.low)
    one = with_intervals(scores, truth, ["same"] * 1000)["roc_auc"]
    assert math.isnan(one.low) and one.value == alone.value


def test_thresholds_by_quantile() -> None:
    scores, truth = [i / 10 for i in range(10)], [0, 0, 0, 0, 1, 0, 0, 1, 1, 1]
    everything, half, top = thresholds(scores, truth, (0, 0.5, 0.9))
    assert everything == (0, 0.0, 1.0, 0.4, 1.0)
    assert half == (0.5, 0.5, 0.5, 0.6, 0.75)
    assert top == (0.9, 0.9, 0.1, 1.0, 0.25)


def test_keep_rates_by_slice() -> None:
    scores = [0.9, 0.1, 0.8, None, 0.2, 0.7]
    rates = keep_rates(scores, 0.5, ["a", "a", "b", "a", None, "c"], most=2)
    assert [(r.value, r.n) for r in rates] == [("a", 3), ("(none)", 1), ("(other)", 2)]
    assert rates[0].kept == pytest.approx(1 / 3) and rates[0].mean_score == pytest.approx(0.5)
    assert rates[2].kept == 1
    lengths = length_slices([0, 49, 50, 99, 100, 7000, None])
    assert lengths == ["0-49 words", "0-49 words", "50-99 words", "50-99 words", "100-199 words", "5000+ words", None]
    assert [r.value for r in keep_rates([0.5] * 4, 0.5, length_slices([7000, 100, 2, 3]))] == [
        "0-49 words", "100-199 words", "5000+ words",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([0.1, 0.2], [1, 1], "both classes"),
        ([0.1, None], [1, 0], "both classes"),
        ([], [], "both classes"),
        ([0.1], [1, 0], "one length"),
        ([0.1, 0.2], [1, 2], "0 or 1"),
        ([0.1, 0.2], [1, None], "0 or 1"),
    ],
)
def test_what_cannot_be_evaluated_is_said(scores: list, truth: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(scores, truth)


def test_everything_at_once() -> None:
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 2, 500)
    scores = pa.array(np.clip(0.3 * truth + draw.random(500) * 0.7, 0, 1), pa.float32())
    scores = pa.concat_arrays([scores, pa.array([None], pa.float32())])
    found = evaluate(
        scores, [*truth, 1], groups=[f"h{i % 50}" for i in range(501)], slices={"language": ["en"] * 501}, draws=50
    )
    assert found["examples"] == 500 and found["without_score"] == 1 and found["groups"] == 50
    assert found["roc_auc"]["low"] < found["roc_auc"]["value"] < found["roc_auc"]["high"]
    assert found["calibration_error_calibrated"] < found["calibration_error"]
    assert sum(b["n"] for b in found["reliability"]) == 500
    assert found["keep_rates"]["language"][0]["n"] == 501
