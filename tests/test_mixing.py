"""Mixing: exact counts, streams that depend on no partition, fair order, and what a mix file may say."""

import re
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RecipeError, UsageError
from pipeline.mixing import stream
from pipeline.mixing.options import Mix, Phase, Within, parse_count, parse_mix, parse_range
from pipeline.mixing.plan import Count, Plan, apportion, check_values, counts_of, make_plan
from pipeline.mixing.strata import Strata, strata_of
from pipeline.mixing.stream import Edge, Tally, find_edges, select, standing, tally, tally_bins
from pipeline.tables import TOKEN_DOCUMENTS

TWO = """
name: two
seed: 3
sources: {web: w, wiki: [a, b]}
phases:
  - {name: pretrain, tokens: 1000, weights: {web: 0.8, wiki: 0.2}}
  - name: anneal
    tokens: 333
    weights: {web: 1, wiki: 2}
    within:
      web: {quality_bin: {0-7: 0, 8-18: 1, 19: 7, null: 1}, topic: {health: 2, default: 1}}
"""


def documents(n: int, seed: int = 0, most: int = 20, **columns: object) -> pa.Table:
    """Documents as token folders have them, with keys that look like hashes."""
    draw = np.random.default_rng(seed)
    made: dict[str, object] = {
        "id": [f"{seed}-{i}" for i in range(n)],
        "piece": [0] * n,
        "key": draw.integers(0, 2**64, n, np.uint64),
        "topic": draw.choice(["health", "games", "law"], n).tolist(),
        "language": ["en"] * n,
        "quality_bin": draw.integers(0, 20, n).tolist(),
        "cluster_size": draw.integers(1, 9, n).tolist(),
        "n_tokens": draw.integers(1, most + 1, n),
        **columns,
    }
    arrays = {name: pa.array(values, TOKEN_DOCUMENTS.field(name).type) for name, values in made.items()}
    return pa.table({f.name: arrays[f.name] if f.name in arrays else pa.nulls(n, f.type) for f in TOKEN_DOCUMENTS})


class Done(NamedTuple):
    """A mix carried out over shards in memory."""

    plan: Plan
    strata: dict[str, Strata]
    edges: dict[str, dict[tuple[int, int], Edge]]
    copies: dict[str, list[stream.Copies]]
    shards: dict[str, list[pa.Table]]

    def taken(self) -> Counter:
        """What was taken, without saying from which shard."""
        found: Counter = Counter()
        for source, tables in self.shards.items():
            for table, copies in zip(tables, self.copies[source], strict=True):
                ids = np.array(table.column("id").to_pylist(), object)[copies.row]
                columns = (copies.phase, copies.epoch, copies.first, copies.n_tokens, copies.position)
                found.update(zip(ids, *(column.tolist() for column in columns), strict=True))
        return found


def carry_out(mix: Mix, shards: dict[str, list[pa.Table]]) -> Done:
    strata = {name: strata_of(mix, name) for name in mix.sources}
    tallies = {
        name: sum((tally(t, of, mix.seed) for t in shards[name]), start=Tally.empty(of)) for name, of in strata.items()
    }
    check_values(mix, strata, {name: found.seen for name, found in tallies.items()})
    plan = make_plan(mix, strata, {name: counts_of(found.histogram) for name, found in tallies.items()})
    edges = {}
    for name, cuts in plan.cuts().items():
        of, tables = strata[name], shards[name]

        def count(bins: list[stream.Bin], of: Strata = of, tables: list[pa.Table] = tables) -> np.ndarray:
            return sum((tally_bins(t, of, mix.seed, bins) for t in tables), start=np.int64(0))

        def look(bins: list[stream.Bin], of: Strata = of, tables: list[pa.Table] = tables) -> list:
            per_shard = [standing(t, of, mix.seed, bins, i) for i, t in enumerate(tables)]
            return [[entry for held in per_shard for entry in held[i]] for i in range(len(bins))]

        edges[name] = find_edges(tallies[name].histogram, cuts, count, look)
    plan = plan.counted(edges)
    copies = {
        name: [select(t, strata[name], plan, edges.get(name, {}), mix.seed, i) for i, t in enumerate(shards[name])]
        for name in mix.sources
    }
    return Done(plan, strata, edges, copies, shards)


def in_parts(table: pa.Table, ends: list[int]) -> list[pa.Table]:
    cuts = sorted({0, table.num_rows, *(end % (table.num_rows + 1) for end in ends)})
    return [table.slice(a, b - a) for a, b in pairwise(cuts)] or [table]


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**14), min_size=1, max_size=8).filter(any))
def test_shares_are_whole_numbers_that_sum_to_the_unit(total: int, weights: list[int]) -> None:
    counts = apportion(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - Fraction(total * weight, sum(weights))) < 1


def test_weights_mean_what_is_written() -> None:
    mix = parse_mix(TWO.replace("0.8", "0.1").replace("tokens: 1000", "tokens: 3"))
    done = carry_out(mix, {"web": [documents(300, 1)], "wiki": [documents(60, 2)]})
    assert [row["tokens"] for row in done.plan.rows()[:2]] == [1, 2]  # a tenth to two tenths, no float between


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 60),
    st.lists(st.integers(0, 400), max_size=5),
    st.integers(1, 900),
    st.integers(1, 900),
    st.randoms(use_true_random=False),
)
def test_a_mix_is_exact_and_depends_on_no_partition(seed, n, ends, first, second, shuffled) -> None:  # type: ignore[no-untyped-def]
    text = (
        f"{{name: x, seed: {seed}, max_epochs: 1000, sources: {{web: w, wiki: v}}, phases: ["
        f"{{name: a, tokens: {first}, weights: {{web: 3, wiki: 1}}}},"
        f"{{name: b, tokens: {second}, weights: {{web: 1, wiki: 0.7}},"
        " within: {web: {cluster_size: {1: 1, 2-5: 2, 6-: 0.3}}}}]}"
    )
    mix = parse_mix(text)
    web, wiki = documents(n, seed % 97), documents(7, 5)
    if n > 6:  # a text that came twice: one id, one key
        web = pa.concat_tables([web, web.slice(2, 2)]).combine_chunks()
    whole = carry_out(mix, {"web": [web], "wiki": [wiki]})
    order = list(range(web.num_rows))
    shuffled.shuffle(order)
    parts = carry_out(mix, {"web": in_parts(web.take(order), ends), "wiki": [wiki]})
    assert parts.plan == whole.plan
    if n <= 6:
        assert parts.taken() == whole.taken()
    for done in (whole, parts):
        assert [phase.tokens for phase in done.plan.phases] == [first, second]
        check_account(done)


def check_account(done: Done) -> None:
    """Copies add up to the plan, each token of a document comes floor or ceil times, and parts join without a gap."""
    for source, tables in done.shards.items():
        of = done.strata[source]
        sums: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        times: dict[int, set[int]] = defaultdict(set)
        for table, copies in zip(tables, done.copies[source], strict=True):
            numbers = of.of(table)
            sizes = table.column("n_tokens").to_numpy()
            cover = [np.zeros(size, int) for size in sizes]
            streams: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
            fields = (copies.row, copies.phase, copies.epoch, copies.first, copies.n_tokens)
            for row, phase, epoch, first, n in zip(*(f.tolist() for f in fields), strict=True):
                sums[phase, int(numbers[row])][0] += 1
                sums[phase, int(numbers[row])][1] += n
                cover[row][first : first + n] += 1
                streams[row].append((epoch, first, n))
            for row, taken in streams.items():
                ends = [epoch * int(sizes[row]) + first for epoch, first, _ in sorted(taken)]
                lengths = [n for _, _, n in sorted(taken)]
                assert ends[0] == 0 and all(a + n == b for a, n, b in zip(ends, lengths, ends[1:], strict=False))
            for row in range(table.num_rows):
                times[int(numbers[row])] |= set(cover[row].tolist())
        draws = {(p, d.stratum): d for p, phase in enumerate(done.plan.phases) for d in phase.of(source)}
        assert {at: tuple(found) for at, found in sums.items()} == {
            at: (draw.documents, draw.tokens) for at, draw in draws.items()
        }
        reached = {stratum: draw for (_, stratum), draw in sorted(draws.items())}
        for stratum, seen in times.items():
            epochs = reached[stratum].epochs if stratum in reached else Fraction(0)
            assert seen <= {int(epochs), -(-epochs.numerator // epochs.denominator)}


def test_phases_take_consecutive_stretches_of_a_stratum() -> None:
    done = carry_out(parse_mix(TWO), {"web": [documents(400, 1)], "wiki": [documents(60, 2)]})
    at: Counter = Counter()
    for phase in done.plan.phases:
        for draw in phase.draws:
            assert draw.begin == at[draw.source, draw.stratum]
            at[draw.source, draw.stratum] = draw.end


def test_what_is_held_out_comes_in_no_phase_and_whole() -> None:
    shards = {"web": [documents(2000, 1), documents(500, 3)], "wiki": [documents(300, 2)]}
    mix = parse_mix("held_out: 0.1\n" + TWO)
    done = carry_out(mix, shards)
    assert [phase.name for phase in done.plan.phases] == ["pretrain", "anneal", "held_out"]
    ids: list[set[str]] = [set(), set(), set()]
    for (name, phase, epoch, first, n_tokens, _), times in done.taken().items():
        ids[phase].add(name)
        if phase == 2:
            assert (epoch, first, times) == (0, 0, 1)
            table = next(t for tables in shards.values() for t in tables if name in set(t.column("id").to_pylist()))
            row = table.column("id").to_pylist().index(name)
            assert n_tokens == table.column("n_tokens")[row].as_py()
    assert not ids[2] & (ids[0] | ids[1])
    assert 0.08 * 2800 < len(ids[2]) < 0.12 * 2800
    assert [phase.tokens for phase in done.plan.phases[:2]] == [phase.tokens for phase in mix.phases]
    again = carry_out(parse_mix("held_out: 0.2\n" + TWO), shards)
    held = {name for (name, phase, *_) in again.taken() if phase == 2}
    assert ids[2] < held  # a larger share keeps what a smaller one kept
    with pytest.raises(UsageError, match=r"all of its [0-9,]+ tokens are held out; take it out"):
        carry_out(parse_mix("held_out: 0.9999999\n" + TWO), shards)
    with pytest.raises(RecipeError, match="name the phase otherwise"):
        parse_mix(TWO.replace("name: anneal", "name: held_out"))


def test_edges_are_found_where_few_documents_share_a_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    mix = parse_mix("{name: x, sources: {web: w}, phases: [{name: a, tokens: 9999, weights: {web: 1}}]}")
    web = documents(3000, 4)
    whole = carry_out(mix, {"web": [web]})
    monkeypatch.setattr(stream, "FEW", 1)
    monkeypatch.setattr(stream, "BIN_BITS", 4)
    monkeypatch.setattr(stream, "BINS", 16)
    deeper = carry_out(mix, {"web": in_parts(web, [700, 1900])})
    assert deeper.taken() == whole.taken() and deeper.plan == whole.plan


def test_documents_of_one_key_are_told_apart() -> None:
    mix = parse_mix("{name: x, sources: {web: w}, phases: [{name: a, tokens: 35, weights: {web: 1}}]}")
    web = documents(10, n_tokens=[10] * 10, key=[7] * 10, id=[f"{i}" for i in range(10)])
    done = carry_out(mix, {"web": [web.slice(5), web.slice(0, 5)]})
    assert sorted((name, n) for name, _, _, _, n, _ in done.taken()) == [("0", 10), ("1", 10), ("2", 10), ("3", 5)]


def test_any_stretch_of_a_phase_is_a_fair_sample() -> None:
    text = TWO.replace("tokens: 1000", "tokens: 400K").replace("tokens: 333", "tokens: 300K")
    mix = parse_mix(text.replace("seed: 3", "seed: 3\nmax_epochs: 30"))
    done = carry_out(mix, {"web": [documents(30_000, 1)], "wiki": [documents(9_000, 2)]})
    for number, phase in enumerate(done.plan.phases):
        for draw in phase.draws:
            if draw.documents < 4_000:
                continue
            copies, table = done.copies[draw.source][0], done.shards[draw.source][0]
            chosen = (copies.phase == number) & (done.strata[draw.source].of(table)[copies.row] == draw.stratum)
            tenth = stream.shard_numbers(copies.position[chosen], 10)
            tokens = np.bincount(tenth, copies.n_tokens[chosen], minlength=10)
            assert tokens == pytest.approx(draw.tokens / 10, rel=0.12)


def test_copies_of_a_document_lie_apart() -> None:
    mix = parse_mix("{name: x, max_epochs: 8, sources: {web: w}, phases: [{name: a, tokens: 8K, weights: {web: 1}}]}")
    done = carry_out(mix, {"web": [documents(200, n_tokens=[10] * 200)]})
    copies = done.copies["web"][0]
    for row in range(200):
        found = np.sort(copies.position[copies.row == row])
        assert len(found) == 4 and (found >> np.uint64(62)).tolist() == [0, 1, 2, 3]


def test_another_seed_is_another_order_and_another_draw() -> None:
    taken = []
    for seed in (3, 4):
        mix = parse_mix(TWO).overridden(seed, None)
        done = carry_out(mix, {"web": [documents(400, 1)], "wiki": [documents(60, 2)]})
        taken.append({(name, phase) for name, phase, *_ in done.taken()})
    assert taken[0] != taken[1]


def test_all_takes_what_comes_once_and_no_more() -> None:
    text = TWO.replace("tokens: 1000", "tokens: 500").replace("tokens: 333", "tokens: all").replace("19: 7", "19: 1")
    done = carry_out(parse_mix(text), {"web": [documents(4_000, 1)], "wiki": [documents(300, 2)]})
    rows = [row for row in done.plan.rows() if row["phase"] == "anneal"]
    assert max(row["epochs"] for row in rows) <= 1
    assert all(row["unique_share"] == 1 for row in rows)
    last = max(draw.epochs for draw in done.plan.phases[1].draws)
    assert last > 0.999
    check_account(done)


def test_weights_inside_of_a_source_are_products() -> None:
    mix = parse_mix(TWO)
    strata = strata_of(mix, "web")
    assert set(strata.weights) == {(1, 0), (1, 1), (1, 2), (1, 7), (1, 14), (1, None)}
    table = documents(5, quality_bin=[3, 8, 19, 19, None], topic=["law", None, "law", "health", "health"])
    weights = [strata.weights[s][1] for s in strata.of(table)]
    assert weights == [0, 1, 7, 14, 2]
    label = strata.labels[int(strata.of(table)[3])]
    assert label == "quality_bin 19, topic health"


def test_the_plan_says_what_repeats() -> None:
    text = (
        "{name: x, sources: {web: w}, phases: [{name: a, tokens: 60, weights: {web: 1}}, {name: b, tokens: 90, "
        "weights: {web: 1}}]}"
    )
    done = carry_out(parse_mix(text), {"web": [documents(10, n_tokens=[10] * 10)]})
    rows = done.plan.rows()
    assert [(r["documents"], r["epochs"], r["unique_share"]) for r in rows] == [(6, 0.6, 1), (9, 1.5, 40 / 90)]
    assert done.plan.totals()[1]["share"] == 1


def test_too_many_epochs_are_refused_with_ways_out() -> None:
    shards = {"web": [documents(10, n_tokens=[10] * 10)]}
    text = "{{name: x, {}sources: {{web: w}}, phases: [{{name: a, tokens: 450, weights: {{web: 1}}{}}}]}}"
    with pytest.raises(UsageError) as refused:
        carry_out(parse_mix(text.format("", "")), shards)
    for said in ("'a'", "web", "4.50 epochs", "100 tokens", "at most 400 tokens", "max_epochs: 5"):
        assert said in str(refused.value)
    for mix in (
        parse_mix(text.format("max_epochs: 5, ", "")),
        parse_mix(text.format("max_epochs: {web: 4.5}, ", "")),
        parse_mix(text.format("", ", max_epochs: 5")),
        parse_mix(text.format("max_epochs: 1, ", ", max_epochs: {default: 5}")),
        parse_mix(text.format("", ", max_epochs: 2")).overridden(None, 6),
    ):
        assert carry_out(mix, shards).plan.phases[0].tokens == 450
    with pytest.raises(UsageError, match="at most 2 are allowed"):
        carry_out(parse_mix(text.format("max_epochs: 9, ", ", max_epochs: {web: 2}")), shards)


def test_a_refusal_of_what_earlier_phases_used_up_says_so() -> None:
    text = (
        "{name: x, max_epochs: 5, sources: {web: w}, phases: [{name: a, tokens: 400, weights: {web: 1}}, {name: b, "
        "tokens: 50, weights: {web: 1}, max_epochs: 4}]}"
    )
    with pytest.raises(UsageError, match=r"phase 'b' takes web to 4.50 epochs .*fewer tokens in the phases before it"):
        carry_out(parse_mix(text), {"web": [documents(10, n_tokens=[10] * 10)]})


def test_what_a_refusal_proposes_is_allowed() -> None:
    text = TWO.replace("tokens: 333", "tokens: HOW_MANY")
    shards = {"web": [documents(90, 1)], "wiki": [documents(60, 2)]}
    with pytest.raises(UsageError) as refused:
        carry_out(parse_mix(text.replace("HOW_MANY", "1M")), shards)
    most = int(str(refused.value).split("at most ")[-1].split(" tokens")[0].replace(",", ""))
    assert carry_out(parse_mix(text.replace("HOW_MANY", str(most))), shards).plan.phases[1].tokens == most
    with pytest.raises(UsageError):
        carry_out(parse_mix(text.replace("HOW_MANY", str(most + 10))), shards)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"web": []}, "holds no tokens"),
        ({"web": [documents(9, quality_bin=[3] * 9)]}, "weight 0 within"),
    ],
)
def test_a_source_with_a_weight_has_something_to_take(change: dict[str, list[pa.Table]], said: str) -> None:
    text = TWO.replace("tokens: 1000", "tokens: 10").replace("tokens: 333", "tokens: 10")
    text = text.replace("topic: {health: 2, default: 1}", "language: {default: 1}")
    with pytest.raises(UsageError, match=said):
        carry_out(parse_mix(text), {"wiki": [documents(9)], **change})


def test_values_without_a_weight_and_topics_that_are_not_there() -> None:
    shards = {"web": [documents(400, 1)], "wiki": [documents(60, 2)]}
    with pytest.raises(UsageError, match=r"gives no weight to \d+ documents of web \(topic any other\)"):
        carry_out(
            parse_mix(
                TWO.replace(", default: 1}}", "}}").replace("quality_bin: {0-7: 0, 8-18: 1, 19: 7, null: 1}, ", "")
            ),
            shards,
        )
    with pytest.raises(
        UsageError, match=r"no document of web has the topic 'helth'; did you mean 'health'.*games, health, law"
    ):
        carry_out(parse_mix(TWO.replace("health", "helth")), shards)


def test_counts_of_a_hundred_trillion_tokens_are_exact() -> None:
    mix = parse_mix(TWO.replace("tokens: 1000", "tokens: 99_999_999_999_999").replace("tokens: 333", "tokens: all"))
    strata = {name: strata_of(mix, name) for name in mix.sources}
    held = Count(10**11, 10**14 + 7)
    counts = {
        name: [held if None not in weights else Count(0, 0) for weights in of.weights] for name, of in strata.items()
    }
    plan = make_plan(mix, strata, counts)
    assert plan.phases[0].tokens == 99_999_999_999_999
    assert sum(draw.tokens for draw in plan.phases[0].of("wiki")) == 20_000_000_000_000
    last = plan.phases[1].draws
    assert all(draw.epochs <= 1 for draw in last) and max(draw.end for draw in last) == 10**14 + 7


def test_an_empty_shard_changes_nothing() -> None:
    mix = parse_mix(TWO)
    one = carry_out(mix, {"web": [documents(400, 1)], "wiki": [documents(60, 2)]})
    other = carry_out(mix, {"web": [documents(0), documents(400, 1), documents(0)], "wiki": [documents(60, 2)]})
    assert one.taken() == other.taken()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("web: 0.8", "wob: 0.8", "line 6: phases.0.weights.wob: no source is named 'wob'; did you mean 'web'"),
        ("web: 0.8, wiki: 0.2", "web: 0, wiki: 0", "line 6: .*no source has a weight above 0"),
        ("web: 0.8", "web: -1", "line 6: phases.0.weights.web: .*greater than or equal to 0"),
        ("web: 0.8", "web: .inf", "line 6: phases.0.weights.web: .*finite"),
        ("tokens: 1000", "tokens: 0", "line 6: phases.0.tokens: .*greater than 0"),
        ("tokens: 1000", "tokens: 10 X", "line 6: phases.0.tokens: '10 X' is not a number of tokens"),
        ("tokens: 333", "token: 333", "unknown key 'phases.1.token'; did you mean 'tokens'"),
        ("name: anneal", "name: Pretrain", "line 7: phases.1.name: a phase before it"),
        ("name: anneal", "name: ../x", "line 7: phases.1.name: '../x' cannot name a folder"),
        ("web: w,", "we/b: w,", "'we/b' cannot name a folder"),
        ("[a, b]", "[a, w/]", "folder w/ stands in source 'web' already"),
        ("8-18", "5-18", "line 11: phases.1.within.web.quality_bin: the ranges '0-7' and '5-18' overlap"),
        ("8-18", "18-8", "ends before it begins"),
        ("8-18", "few", "'few' is no range"),
        ("health: 2", "no: 2", "put it in quotes"),
        ("quality_bin", "quality", "line 11: unknown key .*quality'; did you mean 'quality_bin'"),
        ("      web: {q", "      books: {q", "line 11: phases.1.within.books: no source"),
        ("seed: 3", "seed: 3\nmax_epochs: {wki: 3}", "line 4: max_epochs.wki: .*did you mean 'wiki'"),
        ("seed: 3", "seed: 3\nmax_epochs: 0", "line 4: max_epochs: .*greater than 0"),
        ("seed: 3", "seed: 3\nshards: both", "line 4: shards"),
        ("seed: 3", "seed: 3\nseed: 4", "line 4: key 'seed' stands twice"),
    ],
)
def test_mistakes_in_a_mix_are_told_with_their_line(old: str, new: str, said: str) -> None:
    assert old in TWO
    with pytest.raises(RecipeError, match=said):
        parse_mix(TWO.replace(old, new))


def test_numbers_of_tokens_and_ranges() -> None:
    assert [parse_count(n) for n in ("2M", "1.5 b", "500_000", "2t", 7)] == [
        2_000_000,
        1_500_000_000,
        500_000,
        2 * 10**12,
        7,
    ]
    assert [str(parse_range(r)) for r in ("19", "2-5", "6-", "3 - 3")] == ["19", "2-5", "6-", "3"]


def test_the_mix_in_the_docs_is_valid_and_every_option_is_described() -> None:
    page = (Path(__file__).parents[1] / "docs" / "mixing.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    mix = parse_mix(text)
    assert mix.phases[0].tokens == 20 * 10**9 and len(strata_of(mix, "web")) > 4
    for option in {*Mix.model_fields, *Phase.model_fields, *Within.model_fields} - {
        "description",
        "name",
        "phases",
        "sources",
    }:
        assert f"`{option}`" in page, option
