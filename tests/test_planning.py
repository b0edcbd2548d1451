"""What a sample says of the whole: draws, totals with intervals, clusters that are thinned."""

import numpy as np
import pytest

from benchmarks import scale
from pipeline.planning import (
    LEAST_UNITS,
    Clusters,
    Stretch,
    Totals,
    interval,
    near_duplicates,
    parcels,
    some_files,
    stretches,
    wall_seconds,
)


def test_stretches_lie_in_files_apart_and_come_to_what_was_asked() -> None:
    sizes = [1_000_000, 0, 20_000, 7_345_678, 2_500_000]
    for seed in range(20):
        drawn = stretches(sizes, 1_000_000, 50_000, seed)
        assert all(0 <= s.start < s.end <= sizes[s.file] for s in drawn)
        assert len(set(drawn)) == len(drawn) and sorted(drawn) == drawn
        assert sum(s.end - s.start for s in drawn) == pytest.approx(1_000_000, rel=0.1)
        by_file = np.bincount([s.file for s in drawn], weights=[s.end - s.start for s in drawn], minlength=5)
        assert by_file[3] == pytest.approx(1_000_000 * 7_345_678 / sum(sizes), abs=120_000)


def test_every_byte_of_every_file_has_the_same_chance() -> None:
    sizes = [300, 700]
    met = np.zeros(1000)
    for seed in range(2000):
        for s in stretches(sizes, 100, 10, seed):
            met[s.file * 300 + s.start : s.file * 300 + s.end] += 1
    assert met.mean() == pytest.approx(200, rel=0.01)
    assert met.min() > 140 and met.max() < 260


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    assert stretches([10**7], 10**6, 10**4, 3) == stretches([10**7], 10**6, 10**4, 3)
    assert stretches([10**7], 10**6, 10**4, 3) != stretches([10**7], 10**6, 10**4, 4)


def test_all_is_taken_where_all_is_asked_for_and_nothing_of_nothing() -> None:
    assert stretches([100, 50], 1000, 25, 0)[0] == Stretch(0, 0, 25)
    assert sum(s.end - s.start for s in stretches([100, 50], 1000, 25, 0)) == 150
    assert stretches([0, 0], 10, 5, 0) == [] and stretches([], 10, 5, 0) == []


def test_files_are_spread_over_their_order() -> None:
    drawn = some_files(100, 10, 1)
    assert [file // 10 for file in drawn] == list(range(10))
    assert some_files(3, 10, 1) == [0, 1, 2]


def test_nine_of_ten_intervals_of_totals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        rates = rng.gamma(2.0, 1e-3, 400)
        values = rng.poisson(rates * 50_000)
        chosen = rng.choice(400, 40, replace=False)
        totals = Totals(np.full(40, 50_000.0), 400 * 50_000.0, trial)
        found = interval(totals.of(values[chosen]))
        held += found.low <= values.sum() <= found.high
    assert 0.84 <= held / 300 <= 0.96


def test_of_all_there_is_the_total_is_known() -> None:
    totals = Totals(np.full(8, 10.0), 80.0)
    assert interval(totals.of(np.arange(8.0))) == (28.0, 28.0, 28.0)


def test_what_was_never_seen_may_still_be_there() -> None:
    totals = Totals(np.full(20, 1e6), 1e9)
    found = interval(totals.of(np.zeros(20)))
    assert found.low == 0 and 50 < found.high < 250  # three in what was read, at most, fifty times


def test_few_units_say_less() -> None:
    rng = np.random.default_rng(2)
    wide, narrow = (
        interval(Totals(np.full(n, 1e4), 1e8, 1).of(np.tile(rng.normal(100, 30, LEAST_UNITS), n // LEAST_UNITS)))
        for n in (LEAST_UNITS, 25 * LEAST_UNITS)
    )
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("several", "exponent", "share"), [(0.03, 2.8, 0.1), (0.2, 2.2, 0.1), (0.2, 2.2, 0.25), (0.4, 3, 0.05)]
)
def test_the_law_of_clusters_foretells_what_a_larger_crawl_loses(several: float, exponent: float, share: float) -> None:
    held, naive = 0, 0
    for trial in range(20):
        rng = np.random.default_rng(trial)
        sizes = np.ones(20_000, int)
        tail = np.arange(2, 3000.0)
        chances = tail**-exponent / (tail**-exponent).sum()
        more = rng.random(len(sizes)) < several
        sizes[more] = rng.choice(np.arange(2, 3000), more.sum(), p=chances)
        truth = 1 - len(sizes) / sizes.sum()
        members = rng.binomial(sizes, share)
        law = Clusters.of(members, share, float(sizes.sum()))
        found = interval(law.removed(trial))
        held += found.low <= truth <= found.high
        seen = 1 - (members > 0).sum() / members.sum()
        naive += abs(seen - truth) < abs(found.value - truth)
    assert held >= 15
    assert naive <= 2  # what the sample itself loses is further off


def test_the_law_agrees_with_the_sample_at_the_size_of_the_sample() -> None:
    rng = np.random.default_rng(5)
    sizes = np.where(rng.random(30_000) < 0.2, 2 + rng.poisson(3, 30_000), 1)
    members = rng.binomial(sizes, 0.2)
    law = Clusters.of(members, 0.2, float(sizes.sum()))
    assert law.removed_at(0.2) == pytest.approx(1 - (members > 0).sum() / members.sum(), rel=0.1)
    assert law.removed_at(0.1) < law.removed_at(0.2) < law.removed_at(0.5) < float(np.median(law.removed(1)))


def test_a_tiny_share_of_the_whole_says_little_of_duplicates() -> None:
    members = np.ones(3000, int)
    near, far = (interval(Clusters.of(members, s, 3000 / s).removed(0)) for s in (0.5, 1e-6))
    assert near.high < 0.03
    assert far.high - far.low > 0.2
    common = interval(Clusters.of(members[:1000], 1e-6, 4e8, prior=near_duplicates(4e8)).removed(0))
    assert common.low < 0.1 and common.high > 0.5


def test_no_pages_no_clusters() -> None:
    assert 0 <= interval(Clusters.of(np.zeros(0, int), 0.1, 0.0).removed(0)).value <= 1


def test_lines_that_were_seen_often_are_cut_and_others_perhaps() -> None:
    rng = np.random.default_rng(3)
    sizes = np.where(rng.random(20_000) < 0.02, rng.integers(2, 200, 20_000), 1)
    share = 0.1
    members = rng.binomial(sizes, share)
    law = Clusters.of(members, share, float(sizes.sum()))
    chances = {k: float(np.median(draws)) for k, draws in law.above(5, 0).items()}
    assert chances[1] < 0.1 and all(chances[k] == 1 for k in chances if k > 5)
    foretold = sum(chance * (members == k).sum() for k, chance in chances.items())
    assert foretold == pytest.approx(((sizes > 5) & (members > 0)).sum(), rel=0.25)


def test_a_table_travels_only_where_rows_go() -> None:
    assert parcels(1000, 8, 1) == 8
    assert parcels(1, 50, 1000) == pytest.approx(50)
    assert parcels(10_000, 8, 4) == pytest.approx(32)
    assert parcels(2_000, 1, 20_000) == pytest.approx(1_903, abs=1)


def test_more_cores_than_tasks_do_not_help() -> None:
    assert wall_seconds(10, 1000, 10, 0, 100) == 110
    assert wall_seconds(10, 1000, 10_000, 10, 100) == wall_seconds(10, 1000, 100, 10, 100) == 25
    assert wall_seconds(3, 0, 8, 0, 0) == 3


def test_the_page_on_scale_shows_what_the_command_computes() -> None:
    """`python -m benchmarks.scale --write` puts it there."""
    assert f"{scale.BEGIN}\n{scale.figures(scale.load())}\n{scale.END}" in scale.PAGE.read_text(encoding="utf-8")


def test_a_crawl_of_another_size_costs_in_proportion_but_for_what_travels_alone() -> None:
    rates = scale.load()
    one, ten = (
        scale.Projection(rates, scale.Crawl(files=n * 9000, n_bytes=n * 8e12, pages=n * 2.14e8)) for n in (1, 10)
    )
    for stage in ("extract", "annotate", "curate"):
        assert ten.work()[stage] == pytest.approx(10 * one.work()[stage])
    assert ten.parts == 10 * one.parts and ten.shards == pytest.approx(10 * one.shards, abs=10)
    sent = [p.exchanges()["decided rows (curate)"] for p in (one, ten)]
    assert sent[1]["row_bytes"] == pytest.approx(10 * sent[0]["row_bytes"])
    assert sent[1]["tables"] / sent[1]["rows"] > sent[0]["tables"] / sent[0]["rows"]
