"""What is said to have changed between two runs is what changed."""

import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.curate import redecide
from jobs.report import compare as module
from jobs.report.compare import Comparison, compare, distance
from jobs.report.compare.examples import differences
from jobs.report.compare.page import page
from jobs.report.compare.settings import differing, in_words
from jobs.report.compare.tables import sheets
from jobs.runs import Run, existing_run
from pipeline.recipe import Recipe, parse_recipe


def moved(recipe: Recipe) -> Recipe:
    """The recipe with a stricter rule, a looser one, one group less, and without masking."""
    rules = {name: group for name, group in recipe.rules.items() if name != "fineweb"}
    quality = rules["gopher_quality"]
    bounds = {"word_count": (150.0, 100000.0), "stop_word_count": (1.0, None)}
    rules["gopher_quality"] = quality.model_copy(update={"bounds": bounds})
    pii = recipe.pii.model_copy(update={"mask": ()})
    return recipe.model_copy(update={"name": "moved", "rules": rules, "pii": pii})


@pytest.fixture(scope="module")
def other(finished: Run, tolerant: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return redecide(finished.folder.path, moved(tolerant), str(tmp_path_factory.mktemp("compare") / "moved"))


@pytest.fixture(scope="module")
def found(finished: Run, other: Run) -> Comparison:
    return compare(existing_run(finished.folder.path), existing_run(other.folder.path), 2)


def copied(run: Run, folder: Path) -> Path:
    """The parts of a run that are compared."""
    for name in ("ledger", "curated", "_manifests"):
        shutil.copytree(f"{run.folder.path}/{name}", folder / name)
    for name in ("run.json", "tasks.json"):
        if run.folder.has(name):
            shutil.copy(f"{run.folder.path}/{name}", folder / name)
    return folder


def rewritten(folder: Path, change: Any) -> Run:
    """The run whose ledger is what `change` makes of each file."""
    for file in sorted((folder / "ledger").glob("*.parquet")):
        pq.write_table(change(pq.read_table(file)), file)
    for file in sorted((folder / "_manifests" / "curate").glob("*.json")):
        manifest = json.loads(file.read_text())
        manifest["tables"]["ledger"]["sha256"] = str(folder)
        file.write_text(json.dumps(manifest))
    return existing_run(str(folder))


def ledger(run: Run) -> list[dict[str, Any]]:
    columns = ["doc_id", "warc_file", "warc_offset", "outcome", "reason", "word_count"]
    tables = [
        pq.read_table(file, columns=columns) for file in sorted(Path(run.folder.path, "ledger").glob("*.parquet"))
    ]
    return pa.concat_tables(tables).to_pylist()


def test_settings_that_differ_are_said_in_words(tolerant: Recipe) -> None:
    rows = {row["setting"]: row for row in differing(tolerant, moved(tolerant))}
    assert list(rows) == [
        "rules.gopher_quality.word_count",
        "rules.gopher_quality.stop_word_count",
        "rules.fineweb",
        "pii.mask",
    ]
    assert rows["rules.gopher_quality.word_count"] == {
        "setting": "rules.gopher_quality.word_count",
        "a": "50 to 100,000",
        "b": "150 to 100,000",
        "change": "stricter",
    }
    assert rows["rules.gopher_quality.stop_word_count"]["change"] == "looser"
    assert (rows["rules.fineweb"]["a"], rows["rules.fineweb"]["b"]) == ("fineweb@code, 4 bounds", "not asked")
    assert rows["pii.mask"]["b"] == "none" and "EMAIL_ADDRESS, PHONE_NUMBER" in rows["pii.mask"]["a"]
    assert differing(tolerant, tolerant) == []


def test_dialects_are_compared_by_what_they_ask_and_order_counts() -> None:
    one = parse_recipe("name: a\nrules:\n  c4: {dialect: c4@fineweb}\n  own: {bounds: {word_count: [5, null]}}\n")
    two = parse_recipe("name: b\nrules:\n  own: {bounds: {word_count: [null, 9]}}\n  c4: {dialect: c4@paper}\n")
    rows = {row["setting"]: (row["a"], row["b"], row["change"]) for row in differing(one, two)}
    assert rows["rules.own.word_count"] == ("at least 5", "at most 9", "moved")
    assert rows["rules.c4.dialect"][:2] == ("c4@fineweb", "c4@paper")
    assert rows["rules (order)"][:2] == ("c4, own", "own, c4")
    assert in_words((None, None)) == "any value" and in_words(0.15) == "0.15" and in_words(True) == "yes"


def test_counts_are_those_of_the_ledgers_and_each_record_went_one_way(
    finished: Run, other: Run, found: Comparison
) -> None:
    a, b = ledger(finished), ledger(other)
    assert {row["what"]: (row["a"], row["b"]) for row in found.outcomes}["kept"] == tuple(
        sum(row["outcome"] == "kept" for row in rows) for rows in (a, b)
    )
    own = {(row["doc_id"], row["warc_file"], row["warc_offset"]): row for row in b}
    became = [(x, own[x["doc_id"], x["warc_file"], x["warc_offset"]]) for x in a]
    ways = Counter(((x["reason"] or "kept").split(":")[0], (y["reason"] or "kept").split(":")[0]) for x, y in became)
    assert {(move["a"], move["b"]): move["records"] for move in found.moves} == dict(ways)
    assert found.joined is not None
    assert found.joined["both"] == len(a) and found.joined["changed"] == sum(n for (x, y), n in ways.items() if x != y)
    assert (found.joined["only_a"], found.joined["only_b"], found.joined["share"]) == (0, 0, 1.0)
    for row in found.reasons:
        assert (row["a"], row["b"]) == tuple(
            sum((one["reason"] or "").split(":")[0] == row["reason"] for one in rows) for rows in (a, b)
        )
    assert not found.nothing_differs and not found.identical


def test_examples_say_what_decided_in_either_run(finished: Run, found: Comparison) -> None:
    change = ("kept", "gopher_quality.word_count")
    examples = [one for one in found.examples if (one["a_became"], one["b_became"]) == change]
    rows = {row["doc_id"]: row for row in ledger(finished)}
    assert len(examples) == 2
    for example in examples:
        words = rows[example["doc_id"]]["word_count"]
        assert 50 <= words < 150
        assert example["a"]["because"] == [f"word_count {words}, least 50, most 100000: passes"]
        assert example["b"]["because"] == [f"word_count {words}, least 150, most 100000: broken"]
        assert "".join(piece for piece, _ in example["excerpt"]).strip() and example["url"].startswith("http")
    # Ids are hashes: the smallest are a draw, and always the same.
    ways = {row["doc_id"] for row in ledger(finished) if row["outcome"] == "kept" and row["word_count"] < 150}
    assert [example["doc_id"] for example in examples] == sorted(ways)[:2]


def test_texts_that_are_kept_in_both_and_differ_are_shown_with_their_lines(found: Comparison) -> None:
    assert found.texts is not None and 0 < found.texts["changed"] < found.texts["pages"]
    lines = [line for example in found.texts["examples"] for line in example["lines"]]
    assert {sign for sign, _ in lines} <= {"-", "+"} and len(found.texts["examples"]) == 2


def test_differences_are_short_and_begin_where_texts_differ() -> None:
    assert differences("same\none\ntwo", "same\none\ntwo") == ([], 0)
    assert differences("a\nb\nc", "a\nc") == ([("-", "b")], 0)
    long = "x" * 500
    (gone, come), more = differences(long + " masked", long + " shown")
    assert gone == ("-", "…" + "x" * 39 + " masked") and come[1].endswith(" shown") and more == 0
    lines, more = differences("", "\n".join(str(i) for i in range(30)))
    assert len(lines) == 8 and more == 23


def test_the_distance_of_distributions_is_that_of_kolmogorov_and_smirnov() -> None:
    from scipy.stats import ks_2samp

    random = np.random.default_rng(7)
    a, b = np.sort(random.normal(0, 1, 400).round(1)), np.sort(random.normal(0.4, 1, 300).round(1))
    assert distance(a, b) == pytest.approx(ks_2samp(a, b).statistic, abs=1e-6)
    assert distance(a, a) == 0 and distance(np.array([1.0]), np.array([2.0])) == 1


def test_what_moved_most_comes_first(found: Comparison) -> None:
    distances = [row["distance"] for row in found.distributions]
    assert distances == sorted(distances, reverse=True) and distances[0] > 0
    by_name = {row["signal"]: row for row in found.distributions}
    assert by_name["word_count"]["b"]["p05"] > by_name["word_count"]["a"]["p05"]
    kept = {row["what"]: (row["a"], row["b"]) for row in found.outcomes}["kept"]
    assert (by_name["word_count"]["a"]["pages"], by_name["word_count"]["b"]["pages"]) == kept
    shares = [abs(row["share_b"] - row["share_a"]) for row in found.groups["host"]]
    assert shares == sorted(shares, reverse=True)


def test_a_sample_of_ids_is_scaled_and_the_same_in_both(
    finished: Run, other: Run, found: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOINED", 800)
    drawn = compare(existing_run(finished.folder.path), existing_run(other.folder.path), 2)
    assert drawn.joined is not None and found.joined is not None
    share = drawn.joined["share"]
    assert share == pytest.approx(800 / 1601, abs=1e-6)
    assert drawn.joined["both"] / share == pytest.approx(found.joined["both"], rel=0.15)
    assert drawn.joined["only_a"] == drawn.joined["only_b"] == 0
    assert drawn.outcomes == found.outcomes and drawn.reasons == found.reasons
    printed = CliRunner().invoke(app, ["compare", finished.folder.path, other.folder.path]).output
    assert "records in both, from 49.97% of the ids" in " ".join(printed.split()) and "~" in printed


def test_a_run_and_itself_do_not_differ(finished: Run, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", finished.folder.path, finished.folder.path])
    assert result.exit_code == 0 and "nothing differs" in result.output
    # The same decisions in files that are not the same, by a version that measured nothing.
    run = rewritten(copied(finished, tmp_path / "copy"), lambda table: table)
    for facts in run.info["stages"].values():
        facts.pop("metrics")
    same = compare(existing_run(finished.folder.path), run)
    assert not same.identical and same.joined is not None and same.joined["changed"] == 0
    assert same.texts is not None and same.texts["changed"] == 0
    assert same.notes == ["B measured nothing of time and memory: an older version made it"]
    assert all(row["seconds"]["ratio"] is None for row in same.stages)


def test_an_unfinished_run_is_compared_as_far_as_it_is(finished: Run, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "half")
    shutil.rmtree(folder / "ledger")
    info = json.loads((folder / "run.json").read_text())
    del info["stages"]["curate"]
    (folder / "run.json").write_text(json.dumps(info))
    result = CliRunner().invoke(app, ["compare", finished.folder.path, str(folder)])
    assert result.exit_code == 0 and "B is not finished" in result.output and "nothing differs" not in result.output
    half = compare(existing_run(finished.folder.path), existing_run(str(folder)))
    assert {row["what"]: (row["a"], row["b"]) for row in half.outcomes}["read"] == (1601, 1601)
    assert half.joined is None and half.reasons == [] and half.stages


def test_runs_that_share_no_record_are_compared_by_shares(finished: Run, tmp_path: Path) -> None:
    def other_ids(table: pa.Table) -> pa.Table:
        ids = pa.array([doc_id[::-1] for doc_id in table.column("doc_id").to_pylist()], pa.string())
        return table.set_column(0, "doc_id", ids)

    run = rewritten(copied(finished, tmp_path / "elsewhere"), other_ids)
    apart = compare(existing_run(finished.folder.path), run)
    assert apart.apart and apart.joined is None and apart.moves == [] and apart.examples == []
    shares = sheets(apart)["reasons"]
    kept = {row["what"]: row["a"] for row in apart.outcomes}["kept"] / 1601
    assert shares.title.startswith("Shares") and shares.rows[0] == ("kept", f"{kept:.2%}", f"{kept:.2%}", "+0.00")
    assert any("share no record" in note for note in apart.notes)
    assert apart.distributions and all(row["distance"] == 0 for row in apart.distributions)


def test_ids_that_stand_twice_are_joined_by_their_place(finished: Run, tmp_path: Path) -> None:
    """One record twice in both runs, and in the other order; another only in one of them."""
    first, last = [], []

    def twice(table: pa.Table) -> pa.Table:
        row = table.slice(0, 1)
        again = row.set_column(row.schema.get_field_index("warc_offset"), "warc_offset", pa.array([10**9], pa.int64()))
        again = again.set_column(row.schema.get_field_index("outcome"), "outcome", pa.array(["error"]))
        again = again.set_column(row.schema.get_field_index("reason"), "reason", pa.array(["source.damaged"]))
        first.append(pa.concat_tables([row, again, table.slice(1)]))
        last.append(pa.concat_tables([again, row, table.slice(2)]))
        return table

    a, b = copied(finished, tmp_path / "a"), copied(finished, tmp_path / "b")
    rewritten(a, twice)
    one, two = iter(first), iter(last)
    joined = compare(rewritten(a, lambda _: next(one)), rewritten(b, lambda _: next(two))).joined
    assert joined is not None
    n_shards = len(first)
    assert (joined["changed"], joined["only_a"], joined["only_b"]) == (0, n_shards, 0)


class Tags(HTMLParser):
    """Elements and attributes of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)


HOSTILE = "http://a.example/<script>alert(1)</script>\x1b[2J[red]\u202egpj.exe\"onload='x'"


@pytest.fixture(scope="module")
def hostile(finished: Run, other: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two runs whose pages have an address that attacks whoever looks."""

    def attacking(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("url")
        urls = pc.if_else(pc.is_valid(table.column("url")), HOSTILE, table.column("url"))
        hosts = pa.array(["<img src=x onerror=alert(1)>"] * table.num_rows)
        return table.set_column(at, "url", urls).set_column(at + 1, "host", hosts)

    folder = tmp_path_factory.mktemp("hostile")
    runs = [rewritten(copied(run, folder / name), attacking) for name, run in (("a", finished), ("b", other))]
    return runs[0].folder.path, runs[1].folder.path


def test_pages_cannot_do_anything_to_the_page(hostile: tuple[str, str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", *hostile, "--html", str(tmp_path / "x" / "c.html"), "--examples", "1"])
    assert result.exit_code == 0
    body = (tmp_path / "x" / "c.html").read_text()
    parsed = Tags()
    parsed.feed(body)
    assert not {"script", "img", "a", "iframe", "form"} & set(parsed.tags)
    assert not any(name.startswith("on") or name in ("href", "src") for name in parsed.attributes)
    assert "&lt;script&gt;alert(1)" in body and "\x1b" not in body and "\u202e" not in body
    assert "default-src 'none'" in body and parsed.tags["h1"] == 1 and 'lang="en"' in body
    assert "\x1b" not in result.output and "\u202e" not in result.output and "[red]" in result.output
    # Folders are not broken, so that they can be copied.
    assert [line for line in result.output.splitlines() if len(line) > 80 and hostile[0][:20] not in line] == []


def test_json_and_page_hold_everything(finished: Run, other: Run, found: Comparison) -> None:
    result = CliRunner().invoke(app, ["compare", finished.folder.path, other.folder.path, "--json", "--examples", "2"])
    document = json.loads(result.output)
    assert document == json.loads(json.dumps(found.document()))
    body = page(found)
    assert body == page(found) and len(body) < 1_000_000
    for words in ("gopher_quality.word_count", "150 to 100,000", "Where records went", "Time and memory"):
        assert words in body
    assert CliRunner().invoke(app, ["compare", finished.folder.path, "nowhere"]).exit_code != 0
