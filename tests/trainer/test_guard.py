"""Verdicts on series that were made up: what is skipped, what sends a run back, what ends it."""

import json
import math
import random
from collections.abc import Sequence

import pytest
import torch

from trainer.config import Guard
from trainer.guard import Judge, Seen, Verdict, Watch

CPU = torch.device("cpu")
OK, SKIP, ROLLBACK, ABORT = Verdict.OK, Verdict.SKIP, Verdict.ROLLBACK, Verdict.ABORT


def series(n: int, level: float = 3.0, noise: float = 0.05, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [level + source.gauss(0, noise) for _ in range(n)]


def watched(watch: Watch, losses: Sequence[float], norms: Sequence[float] | None = None) -> list[bool]:
    """Which steps are withheld."""
    norms = norms or series(len(losses), 0.5, 0.02, seed=9)
    return [
        bool(watch.withhold(torch.tensor(loss), torch.tensor(norm))) for loss, norm in zip(losses, norms, strict=True)
    ]


def judged(judge: Judge, losses: Sequence[float], first: int = 0) -> list[Verdict]:
    """Verdicts on steps of which those with a NaN were withheld."""
    return [judge.judge(Seen(first + i, loss, 0.5, math.isnan(loss))) for i, loss in enumerate(losses)]


# On the device.


def test_noise_is_let_through() -> None:
    assert not any(watched(Watch(Guard(), CPU), series(2000)))


def test_a_falling_loss_is_let_through() -> None:
    falling = [3 + 8 * math.exp(-i / 50) + noise for i, noise in enumerate(series(600, 0.0))]
    assert not any(watched(Watch(Guard(), CPU), falling))


@pytest.mark.parametrize("kind", ["loss", "norm"])
@pytest.mark.parametrize("size", [math.nan, math.inf, -math.inf, 4.0])
def test_a_spike_is_withheld_and_does_not_become_the_level(kind: str, size: float) -> None:
    watch = Watch(Guard(), CPU)
    watched(watch, series(200), series(200, 0.5, 0.02))
    history = watch.history.clone()
    spikes = [size] * 5
    usual = [3.0] * 5 if kind == "norm" else [0.5] * 5
    found = watched(watch, spikes, usual) if kind == "loss" else watched(watch, usual, spikes)
    assert found == [True] * 5
    assert torch.equal(watch.history, history) and int(watch.count) == 200
    assert watched(watch, series(50, seed=2)) == [False] * 50


def test_what_is_not_finite_is_withheld_from_the_first_step_and_with_the_guard_off() -> None:
    for options in (Guard(), Guard(on=False)):
        watch = Watch(options, CPU)
        assert watched(watch, [math.nan, 9.0, math.inf, 3.0]) == [True, False, True, False]
    watch = Watch(Guard(on=False), CPU)
    assert not any(watched(watch, [*series(200), 50.0]))


def test_a_young_run_may_leap() -> None:
    watch = Watch(Guard(least_history=64), CPU)
    assert watched(watch, [*series(63), 9.0]) == [False] * 64
    watch = Watch(Guard(least_history=64), CPU)
    assert watched(watch, [*series(64), 9.0]) == [False] * 64 + [True]


def test_a_loss_that_hardly_moves_does_not_make_the_next_batch_a_spike() -> None:
    assert not any(watched(Watch(Guard(), CPU), [*[3.0] * 200, 3.1], [0.5] * 201))
    assert watched(Watch(Guard(), CPU), [*[3.0] * 200, 3.3], [0.5] * 201)[-1]


def test_only_the_window_counts() -> None:
    """A level that was left long ago does not say what is far now."""
    watch = Watch(Guard(window=32, least_history=16), CPU)
    watched(watch, series(100, 9.0))
    watched(watch, series(32, 3.0))
    assert watched(watch, [9.0]) == [True]


def test_the_watch_goes_on_from_what_was_saved() -> None:
    one = Watch(Guard(), CPU)
    watched(one, series(100))
    other = Watch(Guard(), CPU)
    other.load({name: value.clone() for name, value in one.state().items()})
    rest = [*series(30, seed=4), 3.6, *series(30, seed=5), math.nan]
    assert watched(one, rest) == watched(other, rest)
    one.clear()
    assert watched(one, [30.0]) == [False]


# On the host.


def test_a_single_bad_step_is_skipped_and_three_in_a_row_send_the_run_back() -> None:
    judge = Judge(Guard(skips=3), 10_000)
    nan = math.nan
    assert judged(judge, [*series(5), nan, nan, 3.0, nan, nan, nan]) == [
        *[OK] * 5,
        SKIP,
        SKIP,
        OK,
        SKIP,
        SKIP,
        ROLLBACK,
    ]
    assert judge.rollbacks == [10]
    assert judged(judge, [nan, nan]) == [SKIP, SKIP]  # counted anew


def test_a_loss_that_rises_and_stays_sends_the_run_back_before_it_becomes_the_level() -> None:
    judge = Judge(Guard(rise_steps=30), 10_000)
    found = judged(judge, series(300) + series(100, 3.4))
    assert found.index(ROLLBACK) in range(330, 345) and found[:300] == [OK] * 300


def test_a_slow_climb_is_seen() -> None:
    """A nat in 200 steps; one in 400 moves the level and its spread along with it."""
    climbing = [level + i / 200 for i, level in enumerate(series(200, seed=3))]
    found = judged(Judge(Guard(), 10_000), series(300) + climbing)
    assert ROLLBACK in found


def test_a_bump_that_passes_is_let_through() -> None:
    judge = Judge(Guard(), 10_000)
    assert ROLLBACK not in judged(judge, series(300) + series(15, 3.5) + series(300, seed=2))


def test_noise_and_learning_are_let_through() -> None:
    falling = [3 + 8 * math.exp(-i / 50) + noise for i, noise in enumerate(series(3000, 0.0))]
    assert set(judged(Judge(Guard(), 10_000), falling)) == {OK}
    assert set(judged(Judge(Guard(), 10_000), series(3000, noise=0.3))) == {OK}


def test_another_phase_has_another_level() -> None:
    judge = Judge(Guard(), 10_000)
    judged(judge, series(300))
    judge.clear()
    assert set(judged(judge, series(300, 4.0), 300)) == {OK}


def test_a_run_that_keeps_going_back_is_ended() -> None:
    judge = Judge(Guard(skips=3, rollbacks=3, within_share=0.02), 10_000)
    found = []
    for step in (500, 520, 560, 600):
        found.append(judged(judge, [math.nan] * 3, step)[-1])
    assert found == [ROLLBACK, ROLLBACK, ROLLBACK, ABORT]


def test_rollbacks_far_from_each_other_do_not_add_up() -> None:
    judge = Judge(Guard(skips=3, rollbacks=3, within_share=0.02), 10_000)
    assert {judged(judge, [math.nan] * 3, step)[-1] for step in range(500, 9500, 1000)} == {ROLLBACK}


def test_short_runs_are_bounded_too() -> None:
    """2 % of 200 steps are four: a run that fails at every turn must not go back for ever."""
    judge = Judge(Guard(skips=3, rollbacks=3), 200)
    found = [judged(judge, [math.nan] * 3, step)[-1] for step in (40, 60, 50, 90)]
    assert found[-1] is ABORT


def test_with_the_guard_off_nothing_sends_a_run_back() -> None:
    judge = Judge(Guard(on=False), 1000)
    assert set(judged(judge, [*series(300), *[math.nan] * 20, *series(300, 9.0)])) == {OK, SKIP}


def test_the_judge_goes_on_from_what_was_saved() -> None:
    one = Judge(Guard(), 10_000)
    judged(
        one, [*series(200), math.nan, math.nan, math.nan, *series(150, seed=7), *series(20, 3.6), math.nan, math.nan]
    )
    other = Judge(Guard(), 10_000)
    other.load(json.loads(json.dumps(one.state())))
    rest = [math.nan, *series(100, 3.2), *series(100, 3.9)]
    assert judged(one, rest, 400) == judged(other, rest, 400)
    assert one.state() == other.state()
