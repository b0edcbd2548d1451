"""The order of the data: shuffles, exact shares, and batches that depend on nothing but the plan and the sample's number."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.loader import Loader, rows_at_once
from trainer.permutation import key_of, permute
from trainer.plan import BLOCK, Plan, PlanError, Source, Wanted, largest_remainder
from trainer.state import RunState, Skipped, next_sample

CPU = torch.device("cpu")
QUICK = settings(max_examples=40, deadline=None)


class Stream:
    """Samples that say who they are: source, number of the sample, place in it. A negative `broken` is never read."""

    def __init__(self, number: int, n_samples: int, seq_len: int = 4, broken: int = -1) -> None:
        self.number, self.n_samples, self.seq_len, self.broken = number, n_samples, seq_len, broken
        self.n_tokens = n_samples * seq_len + 1

    def read(self, sample: int, out: np.ndarray) -> None:
        if sample == self.broken:
            raise OSError("a disk has failed")
        out[:] = 1_000_000 * (self.number + 1) + 10 * sample + np.arange(self.seq_len + 1)


def who(tokens: Any) -> list[tuple[int, int]]:
    """Source and sample of each row."""
    first = np.asarray(tokens)[:, 0]
    return list(zip((first // 1_000_000 - 1).tolist(), (first % 1_000_000 // 10).tolist(), strict=True))


def plan_of(
    samples: Sequence[int], sizes: Sequence[int], batch: int = 8, seed: int = 0, phases: int = 1, **options: Any
) -> Plan:
    """Phases alike: so many samples of each of several sources of such sizes, in batches."""
    streams = [Stream(i, size) for i, size in enumerate(sizes)]
    total = sum(samples)
    sources = tuple(
        Source(f"s{i}", n / total, stream) for i, (n, stream) in enumerate(zip(samples, streams, strict=True))
    )
    wanted = [Wanted(f"p{i}", total * 4, 4, batch * 4, sources) for i in range(phases)]
    return Plan(wanted, seed, eos=0, **options)


# Shuffles.


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@QUICK
def test_a_permutation_takes_each_place_once(n: int, key: int) -> None:
    out = permute(np.arange(n), n, key)
    assert out.dtype == np.int64 and sorted(out.tolist()) == list(range(n))


@given(st.integers(1, 2**45), st.integers(0, 2**64 - 1), st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
@QUICK
def test_places_of_huge_permutations_are_computed_alone(n: int, key: int, at: list[float]) -> None:
    index = np.array(sorted({int(share * n) for share in at}), np.int64)
    out = permute(index, n, key)
    assert len(set(out.tolist())) == len(index) and out.min(initial=0) >= 0 and out.max(initial=0) < n
    assert [int(permute(np.array([i]), n, key)[0]) for i in index] == out.tolist()


def test_permutations_differ_by_key_and_leave_no_trace_of_the_order() -> None:
    n = 4096
    orders = [permute(np.arange(n), n, key_of(0, "web", epoch)) for epoch in range(8)]
    for i, order in enumerate(orders):
        assert (order == np.arange(n)).sum() < 12  # one is expected to stay in its place
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.08  # five standard deviations
        assert (np.abs(np.diff(order)) == 1).mean() < 0.01  # neighbours part
        assert all((order == other).sum() < 12 for other in orders[:i])
    assert sorted(Counter(permute(np.arange(64), 64, k)[0] for k in range(640)).values())[-1] < 30


def test_permutations_are_the_same_on_every_machine() -> None:
    """Runs of years are resumed by them."""
    assert key_of(7, "web", 2) == 16667444248730523708
    assert key_of("a", "bc") != key_of("ab", "c")
    assert permute(np.arange(10), 10, 12345).tolist() == [3, 7, 0, 9, 5, 6, 1, 2, 8, 4]


def test_indices_outside_are_refused() -> None:
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match=r"outside of 0\.\.9"):
            permute(np.array([wrong]), 10, 0)


# Shares.


@given(st.integers(0, 10**12), st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12))
@QUICK
def test_whole_numbers_in_proportion_sum_up(total: int, weights: list[float]) -> None:
    counts = largest_remainder(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - total * weight / sum(weights)) < 1 + 1e-3


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=6), st.integers(0, 3))
@QUICK
def test_shares_are_exact_in_all_and_near_in_every_stretch(samples: list[int], seed: int) -> None:
    plan = plan_of(samples, [n + 5 for n in samples], batch=1, seed=seed)
    phase = plan.phases[0]
    assert phase.samples == tuple(samples) and phase.counts[-1].tolist() == samples
    sizes = np.diff(phase.counts, axis=0)
    assert (sizes >= 0).all() and (sizes.sum(1)[:-1] == BLOCK).all()
    share = np.array(samples) / sum(samples)
    assert (np.abs(phase.counts[:-1] - np.arange(len(sizes))[:, None] * BLOCK * share) <= 1.5).all()


def test_a_phase_reads_each_sample_once_before_any_twice() -> None:
    plan = plan_of([6000, 3000], [5000, 1500], batch=10, max_epochs=4)
    phase = plan.phases[0]
    source, epoch, inside = plan.place(phase, np.arange(9000))
    assert np.bincount(source).tolist() == [6000, 3000]
    for number, size, reads in ((0, 5000, 6000), (1, 1500, 3000)):
        here = source == number
        counts = np.bincount(inside[here], minlength=size)
        assert counts.sum() == reads and counts.max() - counts.min() <= 1 and counts.max() == 2
        for turn in (0, 1):
            ours = inside[here & (epoch == turn)]
            assert len(set(ours.tolist())) == len(ours)
    # Another epoch has another order: of the samples that both read, few keep their rank.
    first, again = (inside[(source == 1) & (epoch == turn)] for turn in (0, 1))
    assert sorted(first) == sorted(again) and (first == again).sum() < 20


def test_a_later_phase_goes_on_where_an_earlier_one_stopped() -> None:
    plan = plan_of([40, 24], [100, 60], phases=2)
    read = [plan.place(phase, np.arange(64)) for phase in plan.phases]
    for number in (0, 1):
        parts = [set(inside[source == number].tolist()) for source, _, inside in read]
        assert not parts[0] & parts[1]
    assert plan.epochs() == {"s0": 0.8, "s1": 0.8}
    assert (plan.steps, plan.phases[1].first_step, plan.tokens) == (16, 8, 2 * 64 * 4)
    assert plan.phase_of(7).name == "p0" and plan.phase_of(8).name == "p1"
    with pytest.raises(IndexError, match="16 is beyond the plan's 16"):
        plan.phase_of(16)


def test_samples_beyond_the_plan_go_on_with_its_shares_and_new_data() -> None:
    plan = plan_of([3000, 1000], [20_000, 20_000], batch=8)
    phase = plan.phases[0]
    source, _, inside = plan.place(phase, np.arange(4000 + 3 * BLOCK))
    more = source[4000:]
    assert np.bincount(more).tolist() == [3 * BLOCK * 3 // 4, 3 * BLOCK // 4]
    assert len(set(zip(source.tolist(), inside.tolist(), strict=True))) == len(source)
    # A few more take up few new samples, not some of the next thousands: what is left may be less.
    small = plan_of([120, 40], [170, 70])
    found = {tuple(map(int, place)) for place in zip(*small.place(small.phases[0], np.arange(200)), strict=True)}
    assert len(found) == 200 and all(epoch == 0 for _, epoch, _ in found)


def test_plans_of_another_seed_read_in_another_order() -> None:
    one, other = (plan_of([64], [64], seed=seed) for seed in (0, 1))
    first, second = (who(plan.read(plan.phases[0], np.arange(64)).tokens) for plan in (one, other))
    assert sorted(first) == sorted(second) and first != second


@given(st.lists(st.integers(0, 200), min_size=1, max_size=50))
@QUICK
def test_a_sample_does_not_depend_on_what_is_read_beside_it(numbers: list[int]) -> None:
    plan = plan_of([150, 50], [70, 25])
    phase = plan.phases[0]
    together = plan.place(phase, np.array(numbers))
    apart = [plan.place(phase, np.array([n])) for n in numbers]
    for i, part in enumerate(together):
        assert part.tolist() == [int(one[i][0]) for one in apart]


# What cannot be done is refused before it begins.


def test_too_little_data_is_refused() -> None:
    with pytest.raises(PlanError, match=r"'p0' would read s0 5\.00 times .*max_epochs is 4.*max_epochs=5"):
        plan_of([80], [16])
    assert plan_of([80], [16], max_epochs=5).epochs() == {"s0": 5.0}
    with pytest.raises(PlanError, match=r"'p1' would read s0 1\.50 times"):
        plan_of([48], [64], phases=2, max_epochs=1)
    with pytest.raises(PlanError, match="'p0' has 16 tokens, less than one batch of 32"):
        plan_of([4], [16])
    with pytest.raises(PlanError, match=r"source 's1' of phase 'p0' holds 1 tokens, less than one sample of 5"):
        plan_of([8, 8], [16, 0])
    with pytest.raises(PlanError, match="reads nothing"):
        Plan([Wanted("p", 64, 4, 32, (Source("s", 0.0, Stream(0, 9)),))], 0, 0)


def test_batches_of_broken_samples_are_refused() -> None:
    for batch_tokens in (30, 2):
        with pytest.raises(PlanError, match=rf"batch of {batch_tokens} tokens .* samples of 4"):
            Plan([Wanted("p", 640, 4, batch_tokens, (Source("s", 1.0, Stream(0, 999)),))], 0, 0)


# Batches.


def test_targets_follow_and_documents_open_with_what_ended_the_last() -> None:
    class Text(Stream):
        def read(self, sample: int, out: np.ndarray) -> None:
            out[:] = [5, 0, 7, 8, 0, 9, -1]

    plan = Plan([Wanted("p", 6, 6, 6, (Source("s", 1.0, Text(0, 1, 6)),))], 0, eos=0)
    batch = plan.read(plan.phases[0], np.arange(1))
    assert batch.tokens.tolist() == [[5, 0, 7, 8, 0, 9]]
    assert batch.targets.tolist() == [[0, 7, 8, 0, 9, -1]]
    assert batch.docs.tolist() == [[0, 1, 1, 1, 2, 2]] and batch.docs.dtype == np.int32


def steps_of(plan: Plan, step: int = 0, sample: int = 0, rank: int = 0, world: int = 1, **options: Any) -> list[Any]:
    """All that a loader gives: step, first sample, rows of the micro-batches."""
    options = {"micro_tokens": 16, "prefetch": 4, **options}
    loader = Loader(plan, step, sample, rank, world, device=CPU, **options)
    found = [(s.number, s.first, [who(micro.tokens) for micro in s.micros]) for s in loader]
    loader.close()
    return found


def rows(steps: list[Any]) -> list[list[tuple[int, int]]]:
    return [[row for micro in micros for row in micro] for _, _, micros in steps]


@pytest.mark.parametrize("prefetch", [1, 7])
@pytest.mark.parametrize("micro_tokens", [1, 8, 10_000])
def test_batches_do_not_depend_on_ranks_prefetching_or_restarts(prefetch: int, micro_tokens: int) -> None:
    plan = plan_of([48, 32], [30, 100], phases=2)
    expected = [plan.read(p, np.arange(n * 8, n * 8 + 8)) for p in plan.phases for n in range(p.steps)]
    whole = [who(batch.tokens) for batch in expected]
    assert len(whole) == 20
    options = {"prefetch": prefetch, "micro_tokens": micro_tokens}
    for world in (1, 2, 4, 8):
        parts = [rows(steps_of(plan, rank=rank, world=world, **options)) for rank in range(world)]
        together = [[row for part in step for row in part] for step in zip(*parts, strict=True)]
        assert together == whole
    for step, sample in ((3, 24), (9, 72), (10, 0), (13, 24)):
        found = steps_of(plan, step, sample, **options)
        assert rows(found) == whole[step:] and found[0][:2] == (step, sample)


def test_a_loader_counts_documents() -> None:
    class Text(Stream):
        def read(self, sample: int, out: np.ndarray) -> None:
            out[:] = [0, 7, 0, 9, 8] if sample % 2 else [5, 6, 7, 8, 9]

    plan = Plan([Wanted("p", 32, 4, 16, (Source("s", 1.0, Text(0, 8)),))], 0, eos=0)
    for step in Loader(plan, 0, 0, 0, 1, 8, CPU):
        for micro in step.micros:
            assert micro.n_docs == sum(len(set(row)) for row in micro.docs.tolist())


def test_what_a_rollback_left_out_is_not_read_again() -> None:
    plan = plan_of([160], [400], phases=2)
    phase = plan.phases[0]
    left_out = [Skipped(0, 40, 64), Skipped(0, 60, 72), Skipped(1, 0, 8)]
    found = steps_of(plan, 2, 16, skipped=left_out)
    assert [first for _, first, _ in found[:5]] == [16, 24, 32, 72, 80]
    assert found[18][:2] == (20, 8)  # the next phase has a hole of its own
    read = [row for step in rows(found)[:18] for row in step]
    gone = who(plan.read(phase, np.arange(40, 72)).tokens)
    assert not {*read} & {*gone} and len(read) == 18 * 8
    # The phase is as long as it was: it ends with samples beyond those that were planned.
    assert found[17][1] == 160 + 8 * 3 and len(found) == 38


def test_next_samples_and_states() -> None:
    gone = [Skipped(0, 10, 20), Skipped(0, 18, 30), Skipped(1, 30, 40)]
    assert [next_sample(0, at, gone) for at in (9, 10, 19, 29, 30)] == [9, 30, 30, 30, 30]
    state = RunState(7, 56, 1000, gone, {"rollbacks": [3]})
    assert RunState.of_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_failure_to_read_is_raised_where_it_happened() -> None:
    stream = Stream(0, 64)
    plan = Plan([Wanted("p", 256, 4, 32, (Source("s", 1.0, stream),))], 0, eos=0)
    bad = steps_of(plan)[5][2][0][0][1]
    stream.broken = bad
    loader = Loader(plan, 0, 0, 0, 1, 1000, CPU)
    seen = []
    with pytest.raises(OSError, match="a disk has failed"):
        for step in loader:
            seen.append(step.number)
    assert seen == [0, 1, 2, 3, 4]
    loader.close()


def test_a_loader_that_is_not_read_to_the_end_stops() -> None:
    loader = Loader(plan_of([800], [800]), 0, 0, 0, 1, 1000, CPU, prefetch=2)
    next(iter(loader))
    loader.close()
    assert not loader._thread.is_alive()


@given(st.integers(1, 200), st.sampled_from([1, 16, 128]), st.integers(1, 5000))
@QUICK
def test_micro_batches_are_equal_and_as_large_as_may_be(n_rows: int, seq_len: int, micro_tokens: int) -> None:
    n = rows_at_once(n_rows, seq_len, micro_tokens)
    assert n_rows % n == 0 and (n == 1 or n * seq_len <= micro_tokens)
    larger = [m for m in range(n + 1, n_rows + 1) if n_rows % m == 0]
    assert all(m * seq_len > micro_tokens for m in larger)
