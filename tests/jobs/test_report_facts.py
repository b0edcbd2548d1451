"""What the report of a run shows: counted beside the ledger, of runs that were cut off anywhere, over damaged tables."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.curate import outcome_counts, redecide
from jobs.funnel import funnel
from jobs.report.facts import Facts, as_json
from jobs.report.facts import rows as fact_rows
from jobs.report.facts import texts as fact_texts
from jobs.report.facts.extraction import message_kind
from jobs.report.facts.gather import gather
from jobs.report.facts.rows import Hits, Rows, numbered, order
from jobs.report.facts.rules import binned
from jobs.run import STAGES
from jobs.runs import Run, existing_run
from pipeline.recipe import load_recipe

TABLES = {
    "extract": ("records", "documents", "inputs"),
    "annotate": ("signals", "edits"),
    "score": ("scores", "sentences", "ranks"),
    "deduplicate": ("duplicates", "cuts", "dedup"),
    "decontaminate": (),
    "curate": ("ledger", "curated"),
}


@pytest.fixture(scope="module")
def facts(finished: Run) -> Facts:
    return gather(finished)


@pytest.fixture(scope="module")
def ledger(finished: Run) -> pa.Table:
    files = sorted(Path(finished.folder.path, "ledger").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def copied(finished: Run, to: Path, but: tuple[str, ...] = ()) -> Run:
    """A copy of the run without some of its folders."""
    shutil.copytree(finished.folder.path, to, ignore=lambda _, names: [name for name in names if name in but])
    return existing_run(str(to))


def edited(run: Run, edit: Callable[[dict[str, Any]], Any]) -> Run:
    """The run with another run.json."""
    path = Path(run.folder.path, "run.json")
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))
    return existing_run(run.folder.path)


def printable(facts: Facts) -> str:
    """As JSON, which every facts must be."""
    return json.dumps(as_json(facts), allow_nan=False)


def test_nothing_is_wrong_with_a_finished_run(facts: Facts) -> None:
    assert facts.problems == []
    assert facts.about.outcome == "done"
    assert facts.about.stages_done == list(STAGES)
    assert facts.about.sampled is not None and facts.about.sampled.share == 1
    assert all(stage.state == "done" for stage in facts.stages)
    assert facts.costs is not None and facts.costs.projection is not None


def test_the_funnel_is_that_of_the_ledger(facts: Facts, finished: Run, ledger: pa.Table) -> None:
    made = facts.funnel
    assert made is not None and made.end is not None and made.complete and not made.estimated
    assert made.start.left == ledger.num_rows
    assert [s.name for g in made.groups for s in g.steps] == [s.name for s in funnel(finished)]
    kept = outcome_counts(finished)["kept"]
    assert made.groups[-1].whole.left == made.end.left == kept
    payload = np.nan_to_num(ledger.column("n_payload_bytes").to_numpy())
    is_kept = np.array(ledger.column("outcome").to_pylist()) == "kept"
    assert made.start.bytes_left == payload.sum()
    assert made.groups[-1].whole.bytes_left == payload[is_kept].sum()
    extracted = sum(m["text_bytes"] for m in finished.manifests("extract"))
    by_name = {group.name: group.whole for group in made.groups}
    assert by_name["archive"].text_bytes_left is None
    assert by_name["extraction"].text_bytes_left == pytest.approx(extracted, abs=2)
    sizes = [by_name[n].tokens_left or 0 for n in ("extraction", "language", "rules", "deduplication")]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0


def test_every_bound_has_a_histogram_of_all_pages(facts: Facts, finished: Run, ledger: pa.Table) -> None:
    steps = {step.name: step for step in funnel(finished)}
    n_texts = sum(c is not None for c in ledger.column("n_chars").to_pylist())
    kept = outcome_counts(finished)["kept"]
    for rule in facts.rules:
        step = steps.get(rule.name)
        assert (rule.hits, rule.sole) == ((step.hits, step.sole) if step else (0, 0))
        shown = rule.histogram
        assert shown is not None and rule.meaning
        counted = sum(map(sum, shown.series.values())) + sum(shown.zeros.values())
        assert counted == shown.n
        if not rule.among:
            assert shown.n + shown.missing == n_texts
            assert sum(shown.series["kept"]) + shown.zeros["kept"] == kept
        assert shown.edges == sorted(shown.edges)
        for end in (rule.minimum, rule.maximum):
            assert end is None or shown.edges[0] <= end <= shown.edges[-1] or shown.log


def test_a_bound_that_moves_lets_in_what_the_ledger_says(facts: Facts, ledger: pa.Table, finished: Run) -> None:
    rule = next(r for r in facts.rules if r.name == "gopher_quality.stop_word_count")
    values = ledger.column(rule.signal).to_numpy()
    hits = [set(h) for h in ledger.column("rule_hits").to_pylist()]
    is_kept = np.array(ledger.column("outcome").to_pylist()) == "kept"
    alone = np.array([h == {rule.name} for h in hits])
    (curve,) = rule.curves
    assert curve.bound in curve.thresholds
    for threshold, kept, newly in zip(curve.thresholds, curve.kept, curve.newly, strict=True):
        assert kept == (is_kept & (values >= threshold)).sum()
        assert newly == (alone & (values >= threshold)).sum()
    for other in facts.rules:
        for curve in other.curves:
            at = curve.thresholds.index(curve.bound)
            assert curve.newly[at] == 0
            assert curve.kept[at] == outcome_counts(finished)["kept"] or other.among


def test_examples_are_of_their_reason_and_always_the_same(facts: Facts, finished: Run, ledger: pa.Table) -> None:
    told = {row["doc_id"]: row for row in ledger.select(["doc_id", "reason", "rule_hits", "outcome"]).to_pylist()}
    for reason in facts.reasons:
        assert reason.asks
        assert len(reason.drops) == min(20, reason.decided or reason.hits) and len(reason.keeps) <= 20
        for example in reason.drops:
            row = told[example.doc_id]
            assert row["reason"] == reason.name if reason.decided else reason.name in row["rule_hits"]
        assert all(told[example.doc_id]["outcome"] == "kept" for example in reason.keeps)
    again = gather(existing_run(finished.folder.path))
    assert printable(again) == printable(facts)


def test_what_offends_is_marked_in_text_and_address(facts: Facts) -> None:
    by_name = {reason.name: reason for reason in facts.reasons}
    for name in ("gopher_repetition.dup_line_frac", "c4.lorem_ipsum_count", "c4.curly_brace_count"):
        marked = ["".join(p.text for p in e.excerpt if p.kind == "offending") for e in by_name[name].drops]
        assert all(marked)
    assert "lorem ipsum" in "".join(p.text for p in by_name["c4.lorem_ipsum_count"].drops[0].excerpt).lower()
    assert all(any(p.kind == "offending" for p in e.url) for e in by_name["gates.url.domain"].drops)
    assert {e.note for e in by_name["gates.http.status"].drops} <= {f"status {n}" for n in range(300, 600)}
    besides = [e.beside for e in by_name["dedup.minhash"].drops]
    assert all(b is not None and b.url and b.similarity and b.excerpt for b in besides)
    assert any(p.kind == "differs" for b in besides if b is not None for p in b.excerpt)


def test_no_personal_data_is_in_an_excerpt(facts: Facts, finished: Run, ledger: pa.Table) -> None:
    texts = {}
    for file in Path(finished.folder.path, "documents").glob("*.parquet"):
        table = pq.read_table(file, columns=["doc_id", "text"])
        texts |= dict(zip(table.column("doc_id").to_pylist(), table.column("text").to_pylist(), strict=True))
    masked = {
        texts[row["doc_id"]][span["start"] : span["end"]]
        for row in ledger.select(["doc_id", "pii"]).to_pylist()
        for span in row["pii"] or ()
    }
    examples = [e for r in facts.reasons for e in (*r.drops, *r.keeps)]
    shown = [p.text for e in examples for p in (*e.excerpt, *(e.beside.excerpt if e.beside else ()))]
    assert len(masked) > 5
    assert not [value for value in masked if any(value in text for text in shown)]
    assert any(p.kind == "masked" for e in examples for p in e.excerpt)


def test_shapes_add_up(facts: Facts, finished: Run, ledger: pa.Table) -> None:
    kept = outcome_counts(finished)["kept"]
    named = {b.name: b for b in facts.breakdowns}
    assert {"languages", "hosts", "domains", "topics", "dates", "media types", "dumps"} <= set(named)
    for name in ("hosts", "dates", "dumps"):
        every = [*named[name].rows, *([named[name].rest] if named[name].rest else [])]
        assert sum(s.before for s in every) == ledger.num_rows
        assert sum(s.after for s in every) == kept
    assert [s.value for s in named["dates"].rows if s.value] == sorted(s.value for s in named["dates"].rows if s.value)
    shown = facts.duplicates
    assert shown is not None
    assert sum(size.pages for size in shown.spectrum) == shown.compared
    sizes = [c.size for c in shown.largest]
    assert sizes == sorted(sizes, reverse=True) and min(sizes) > 1
    assert facts.personal is not None
    assert sum(kind.hits for kind in facts.personal.kinds) == sum(
        len(p or ()) for p in ledger.column("pii").to_pylist()
    )
    assert facts.classifiers is not None
    assert [bin_.low for bin_ in facts.classifiers.heads[0].reliability[0].bins] == [n / 10 for n in range(10)]
    assert sum(bin_.pages for bin_ in facts.classifiers.quality_bins) == facts.classifiers.scored
    assert facts.extraction is not None
    assert sum(c.n for c in facts.extraction.engines) == len(ledger.column("n_chars").drop_null())
    assert sum(kind.n for kind in facts.extraction.errors) == outcome_counts(finished)["error"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_ended_at_any_stage_has_a_report(finished: Run, tmp_path: Path, stage: str) -> None:
    later = STAGES[STAGES.index(stage) :]
    gone = tuple(table for name in later[1:] for table in TABLES[name])
    run = copied(finished, tmp_path / "run", (*gone, *later[1:]))

    def failed(info: dict[str, Any]) -> None:
        for name in later:
            info["stages"].pop(name)
        info["stages"][stage] = {"metrics": finished.info["stages"][stage]["metrics"]}
        info["attempts"][-1].update(outcome="failed", error="<b>no space</b>")

    run = edited(run, failed)
    for manifest in sorted(Path(run.folder.path, "_manifests", stage).glob("*.json"))[1:]:
        manifest.unlink()  # the stage had done one part
    made = gather(run)
    assert printable(made) and made.problems == []
    assert (made.about.outcome, made.about.error) == ("failed", "<b>no space</b>")
    assert [s.state for s in made.stages] == [
        *["done"] * STAGES.index(stage),
        "failed",
        *["not begun"] * (len(later) - 1),
    ]
    assert made.funnel is not None and not made.funnel.complete
    assert (
        made.funnel.start.left
        == made.about.n_records
        == sum(m["tables"]["records"]["rows"] for m in run.manifests("extract"))
    )
    assert all(rule.hits is None for rule in made.rules)


def test_a_killed_run_is_told_from_one_that_goes_on(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run", ("ledger", "curated", "curate"))

    def cut(info: dict[str, Any]) -> None:
        info["stages"].pop("curate")
        info["attempts"][-1].update(outcome=None, ended=None)

    run = edited(run, cut)
    now = {"stage": "curate", "step": "decide", "done": 3, "total": 8, "stages_done": 5, "moved": 0}
    run.folder.write_json("_live.json", {"now": now, "pid": os.getpid(), "stages": {}})
    for pid, outcome in ((os.getpid(), "going on"), (2**22 + 1, "killed")):
        run.folder.write_json(".lock", {"host": socket.gethostname(), "pid": pid})
        made = gather(run)
        assert made.about.outcome == made.stages[-1].state == outcome
        assert made.stages[-1].progress == (3, 8)


def test_an_empty_run_has_a_report(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    info = {k: v for k, v in finished.info.items() if k not in ("tasks", "attempts", "host")}
    (folder / "run.json").write_text(json.dumps({**info, "stages": {}}))
    made = gather(existing_run(str(folder)))
    assert printable(made) and made.problems == []
    assert (made.about.outcome, made.funnel, made.reasons) == ("unfinished", None, [])


def test_a_run_that_lost_too_much_of_its_inputs_has_failed(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run", ("ledger", "signals", "documents", "curated"))
    made = gather(edited(run, lambda info: info["recipe"]["inputs"].update(tolerate=0.0)))
    assert made.about.outcome == "failed" and "the recipe tolerates 0.0%" in (made.about.error or "")
    assert all(stage.state == "done" for stage in made.stages)


def test_what_cannot_be_read_is_said_and_the_rest_is_there(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    for table in ("ledger", "documents"):
        first = sorted(Path(run.folder.path, table).glob("*.parquet"))[0]
        first.write_bytes(first.read_bytes()[:-100])
        made = gather(existing_run(run.folder.path))
        assert printable(made)
        found = {p.part: p.why for p in made.problems}
        assert set(found) == ({"ledger"} if table == "ledger" else {"texts"})
        assert all(first.name in why for why in found.values())
        assert made.funnel is not None and made.funnel.complete
        shutil.copy(Path(finished.folder.path, table, first.name), first)
    assert made.reasons and made.breakdowns


def rewritten(run: Run, edit: Callable[[pa.Table], pa.Table]) -> Facts:
    for file in Path(run.folder.path, "ledger").glob("*.parquet"):
        pq.write_table(edit(pq.read_table(file)), file)
    return gather(existing_run(run.folder.path))


def test_cells_may_hold_anything(finished: Run, tmp_path: Path) -> None:
    bad = [b"</script><script>alert(1)</script>", b"\0", "\u202egnp".encode(), b"a" * 9999, b"", b"\xed\xa0\x80", None]
    odd = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 0.5, 0])

    def hostile(table: pa.Table) -> pa.Table:
        for i, column in enumerate(table.schema):
            if column.name in ("url", "host", "title", "error", "language", "media_type", "engine", "reason", "topic"):
                raw = pa.array([bad[n % len(bad)] for n in range(table.num_rows)], pa.binary())
                valid, offsets, body = raw.buffers()
                table = table.set_column(i, column, pa.StringArray.from_buffers(len(raw), offsets, body, valid))
            elif pa.types.is_floating(column.type):
                with np.errstate(over="ignore"):
                    values = np.resize(odd, table.num_rows).astype(column.type.to_pandas_dtype())
                table = table.set_column(i, column, pa.array(values))
        return table

    run = copied(finished, tmp_path / "run", ("dedup", "curated"))
    made = rewritten(run, hostile)
    assert made.problems == []
    assert len(printable(made)) < 5_000_000
    assert next(r for r in made.rules if r.signal == "alpha_word_frac").histogram is not None
    one = rewritten(run, lambda table: table.slice(0, 1))
    assert printable(one) and one.problems == []
    none = rewritten(run, lambda table: table.slice(0, 0))
    assert printable(none) and none.problems == [] and none.breakdowns == []


def test_of_a_large_run_a_sample_is_read(facts: Facts, finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_rows, "MOST_ROWS", 600)
    monkeypatch.setattr(fact_texts, "MOST_TEXT_BYTES", 1_500_000)
    made = gather(existing_run(finished.folder.path))
    assert made.problems == []
    assert made.about.sampled is not None and made.about.sampled.rows == 600
    assert "parts, chosen at random" in made.about.sampled.texts
    whole, part = facts.funnel, made.funnel
    assert whole is not None and part is not None and part.estimated
    assert [s.left for g in part.groups for s in g.steps] == [s.left for g in whole.groups for s in g.steps]
    assert part.start.bytes_left and part.start.bytes_left != whole.start.bytes_left
    english = [next(s for s in f.breakdowns[0].rows if s.value == "en").before for f in (facts, made)]
    assert english[1] == pytest.approx(english[0], rel=0.1) and made.breakdowns[0].estimated
    shown = {r.name: r for r in made.reasons}  # whole parts are decided once more, for texts to show
    assert all(e.excerpt for e in shown["gopher_quality.word_count"].drops)
    assert len(shown["gates.language"].drops) == 20 and any(e.excerpt for e in shown["gates.language"].drops)


def test_a_run_that_was_decided_again_shows_its_own_verdicts(finished: Run, tmp_path: Path) -> None:
    run = redecide(finished.folder.path, load_recipe("gopher"), str(tmp_path / "again"))
    made = gather(existing_run(run.folder.path), seed=1)
    assert made.problems == []
    assert made.about.measures == run.info["measures"]
    assert made.about.n_records == sum(outcome_counts(run).values())
    assert made.about.n_kept == outcome_counts(run)["kept"]
    assert "extract" not in [stage.name for stage in made.stages]
    assert made.duplicates is None and made.classifiers is None
    assert any(e.excerpt for r in made.reasons for e in r.drops)
    shutil.rmtree(run.folder.path + "/curated")
    gone = edited(run, lambda info: info.update(measures=str(tmp_path / "nowhere")))
    assert {p.part for p in gather(gone).problems} == {"about"}


def rows_of(n: int) -> Rows:
    table = pa.table({"doc_id": [f"{i:032x}" for i in range(n)], "outcome": ["kept"] * n})
    return Rows([table.select], table.column_names, 1.0, decided=True)


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.5] * 9, False),
        ([0, 1, 2, 3], False),
        ([0.0, 0.1, 0.99, 1.0], False),
        ([1, 2, 3, 4, 5, 6, 100_000], True),
        ([0, 0, 0, 0, 900], False),
        ([-1e308, 1e308], False),
        ([7], False),
    ],
)
def test_bins_hold_every_value(values: list[float], log: bool) -> None:
    held = np.array(values, np.float64)
    made = binned(held, {"kept": np.ones(len(held), bool)}, rows_of(len(held)), (0.3,), 0, 0)
    assert made.log == log
    assert sum(made.series["kept"]) + made.zeros["kept"] == len(held)
    assert np.isfinite(made.edges).all() and (np.diff(made.edges) > 0).all()
    assert made.least == held.min() and made.most == held.max()


def test_families_are_counted_once_a_row() -> None:
    hits = Hits.of(np.array([0, 0, 0, 2]), pa.array(["a:x", "a:y", "b", "b"]), 3)
    assert hits.by("a").tolist() == [0] and hits.by("b").tolist() == [0, 2] and hits.by("c").tolist() == []
    assert hits.alone("b").tolist() == [2] and hits.counts.tolist() == [2, 0, 1]


def test_draws_depend_on_the_id_and_the_key_alone() -> None:
    ids = numbered(pa.array([f"{i:016x}{0:016x}" for i in range(1000)]))
    one = order(ids, "a")
    assert (order(ids[::-1], "a")[::-1] == one).all() and (order(ids, "b") != one).all()
    assert len(set(one.tolist())) == 1000
    assert numbered(pa.array(["no hex", None])).dtype == np.uint64


def test_messages_lose_what_is_of_one_record() -> None:
    one, other = "took 5.3 s at '/a/b' of https://x.example/1", "took 17 s at '/c' of https://y.example"
    assert message_kind(one) == message_kind(other) == "took … s at … of …"


def test_json_holds_plain_values() -> None:
    assert as_json({"a": [float("nan"), (1, float("inf")), "x\ud800"]}) == {"a": [None, [1, None], "x\ufffd"]}
