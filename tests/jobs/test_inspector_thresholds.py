"""Bounds moved over a run: what the page foretells is what deciding the run again comes to, and its recipe is one."""

import re
import shlex
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from starlette.testclient import TestClient
from typer.testing import CliRunner

from jobs.cli import app as cli
from jobs.curate import redecide
from jobs.report.inspector import dials
from jobs.report.inspector.app import create
from jobs.report.inspector.queries import Queries
from jobs.report.inspector.recipes import command, recipe_text, suggested_name, write
from jobs.runs import Run, existing_run
from jobs.store import RunFolder
from pipeline.dedup.options import Dedup, MinHashDedup
from pipeline.errors import StorageError, UsageError
from pipeline.recipe import load_recipe, parse_recipe
from pipeline.rules import hits
from pipeline.whatif import WhatIf, moved

HERE = "http://127.0.0.1:8123"
MOVES: dict[str, float | None] = {
    "gates.language.en": 0.9,
    "gopher_quality.word_count.min": 20.0,
    "gopher_quality.mean_word_length.max": 5.0,
    "gopher_quality.stop_word_count.min": None,
    "gopher_repetition.dup_line_frac.max": 0.6,
}
STATE = urlencode({key: "off" if value is None else f"{value:g}" for key, value in MOVES.items()})


def inside(run: Run) -> TestClient:
    client = TestClient(create(run, "secret"), base_url=HERE, follow_redirects=False, headers={"origin": HERE})
    client.get("/", params={"token": "secret"})
    return client


@pytest.fixture(scope="module")
def plain_run(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The sample under rules alone, which nothing comes after."""
    recipe = load_recipe("gopher").model_copy(update={"dedup": Dedup()})
    return redecide(finished.folder.path, recipe, str(tmp_path_factory.mktemp("plain") / "a run"))


@pytest.fixture(scope="module")
def client(plain_run: Run) -> TestClient:
    return inside(plain_run)


def ledger(run: Run) -> pa.Table:
    return run.folder.scan("ledger", pc.field("n_chars").is_valid())


def kept_ids(run: Run) -> set[str]:
    return set(run.folder.scan("ledger", pc.field("outcome") == "kept", ["doc_id"]).column("doc_id").to_pylist())


def by_id(table: pa.Table, rows: object) -> set[str]:
    return set(table.filter(pa.array(rows)).column("doc_id").to_pylist())


def numbers(cells: dict[str, str], *names: str) -> list[int]:
    return [int(cells[name].replace(",", "")) for name in names]


def test_the_ledger_of_a_whole_run_is_decided_as_its_columns_say(finished: Run) -> None:
    table = ledger(finished)
    whatif = WhatIf(table, finished.recipe)
    assert whatif.disagreeing == 0
    assert by_id(table, whatif.was_kept) == kept_ids(finished)
    assert set(whatif.later_reasons) >= {"dedup.url", "dedup.exact", "dedup.minhash"}


def test_what_is_written_decides_as_foretold_where_nothing_comes_after_the_rules(
    plain_run: Run, client: TestClient, tmp_path: Path
) -> None:
    table = ledger(plain_run)
    answer = client.get(f"/thresholds/answer?{STATE}").json()
    assert answer["problems"] == []
    response = client.post("/thresholds/recipe", data={"state": STATE, "name": "mine"})
    assert response.status_code == 303
    assert response.headers["location"] == f"/thresholds?{STATE}&written=mine#recipe"
    file = Path(plain_run.folder.path, "recipes", "mine.yaml")
    text = file.read_text()
    assert "word_count: at least 50 -> 20" in text and "stop_word_count: at least 2 -> no bound" in text
    recipe = load_recipe(file)
    assert recipe.extracting == plain_run.info["extracting_digest"]
    assert recipe == moved(plain_run.recipe, MOVES).model_copy(update={"name": "mine"})
    assert yaml.safe_load(text)["rules"]["gopher_quality"] == {
        "dialect": "gopher_quality@datatrove",
        "bounds": {"word_count": [20, 100000], "mean_word_length": [3, 5], "stop_word_count": None},
    }

    page = client.get(f"/thresholds?{STATE}&written=mine").text
    shown = unescape(re.findall(r'<pre id="command"[^>]*>(.*?)</pre>', page)[0])
    assert shown == command(plain_run, "mine")
    words = shlex.split(shown)
    assert words[0] == "crawlmill" and words[-1] == f"{plain_run.folder.path}-mine"
    result = CliRunner().invoke(cli, words[1:])
    assert result.exit_code == 0, result.output
    again = existing_run(words[-1])
    change = WhatIf(table, plain_run.recipe).evaluate(MOVES)
    assert change.lost.any() and change.passing.any()
    assert by_id(table, change.kept | change.passing) == kept_ids(again)
    assert numbers(answer["cells"], "pages.was", "pages.now") == [len(kept_ids(plain_run)), len(kept_ids(again))]
    decided = ledger(again)
    assert change.reasons == {
        row["values"]: row["counts"] for row in decided.column("reason").drop_null().value_counts().to_pylist()
    }


def test_with_duplicates_it_differs_only_in_what_was_not_compared(finished: Run, tmp_path: Path) -> None:
    dedup = Dedup(minhash=MinHashDedup())
    recipe = load_recipe("gopher").model_copy(update={"dedup": dedup})
    loose = redecide(finished.folder.path, recipe, str(tmp_path / "loose"))
    words = dict(zip(*(ledger(loose).column(name).to_pylist() for name in ("doc_id", "word_count")), strict=True))
    copies = [row for row in ledger(loose).to_pylist() if row["reason"] == "dedup.minhash"]
    most = max(row["word_count"] for row in copies if row["word_count"] < words[row["duplicate_of"]])
    key = "gopher_quality.word_count.max"
    strict = redecide(str(tmp_path / "loose"), moved(recipe, {key: most}), str(tmp_path / "strict"))

    # A page that gave way to one that goes comes back.
    _, came_back = differences(loose, {key: most}, strict)
    assert came_back == {"dedup.minhash"}
    # A page that only now passes makes others give way.
    gave_way, _ = differences(strict, {key: 100_000}, loose)
    assert gave_way == {"dedup.minhash"}


def differences(before: Run, moves: dict[str, float | None], after: Run) -> tuple[set[str], set[str]]:
    """What dropped pages that were foretold as kept, and what had dropped those that were kept and not foretold."""
    table = ledger(before)
    change = WhatIf(table, before.recipe).evaluate(moves)
    foretold = by_id(table, change.kept | change.passing)
    unbroken = by_id(table, [not found for found in hits(table, after.recipe)])
    assert kept_ids(after) <= unbroken and foretold <= unbroken
    was, now = (
        dict(zip(*(ledger(run).column(name).to_pylist() for name in ("doc_id", "reason")), strict=True))
        for run in (before, after)
    )
    return {now[one] for one in foretold - kept_ids(after)}, {was[one] for one in kept_ids(after) - foretold}


def test_a_form_becomes_the_address_of_what_it_moves(client: TestClient) -> None:
    page = client.get("/thresholds").text
    fields = dict(re.findall(r'name="([^"]+\.(?:min|max|en|script))" value="([^"]+)"', page))
    assert len(fields) == len(re.findall(r'type="range"', page)) >= 20
    sent = {**fields, "gopher_quality.word_count.min": "020.0", "off": "gopher_quality.word_count.max"}
    response = client.get("/thresholds", params=sent)
    address = "/thresholds?gopher_quality.word_count.min=20&gopher_quality.word_count.max=off"
    assert (response.status_code, response.headers["location"]) == (303, address)
    page = client.get(address).text
    assert 'name="gopher_quality.word_count.min" value="20"' in page
    assert re.search(r'value="gopher_quality.word_count.max" checked', page)
    assert client.get("/thresholds", params=fields).headers["location"] == "/thresholds"


def test_answers_name_pages_and_the_rule_that_changes_them(plain_run: Run, client: TestClient) -> None:
    answer = client.get(f"/thresholds/answer?{STATE}&gopher_quality.mean_word_length.max=4.6").json()
    assert len(answer["examples"]) == 20
    assert {example["kind"] for example in answer["examples"]} == {"lost", "passing"}
    table = ledger(plain_run)
    urls = dict(zip(*(table.column(name).to_pylist() for name in ("doc_id", "url")), strict=True))
    for example in answer["examples"]:
        assert example["url"] == urls[example["id"]][:160]
        assert re.match(r"(gopher_\w+|gates)\.\w+: ", example["why"])
    assert set(answer["paths"]) == {dial.name for dial in dials.load(Queries(plain_run), plain_run.recipe).dials}
    assert client.get("/thresholds/answer").json()["changes"] is False


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("gopher_quality.word_count.min=x", "not a number"),
        ("gopher_quality.word_count.min=", "not a number"),
        ("gopher_quality.word_count.min=nan", "a bound is a number"),
        ("gopher_quality.word_count.min=1e999", "a bound is a number"),
        ("gopher_quality.word_count.min=1000000", "above the maximum"),
        ("gates.language.en=2", "from 0 to 1"),
        ("gates.script=off", "from 0 to 1"),
        ("off=gates.script", "from 0 to 1"),
        ("%3Cscript%3E=1", "has no bound &lt;script&gt;"),
        ("off=%3Cscript%3E", "has no bound"),
        ("%E2%80%AEa=1", "[U+202E]a"),
    ],
)
def test_what_no_bound_can_be_is_said_and_makes_no_recipe(client: TestClient, query: str, says: str) -> None:
    page = client.get(f"/thresholds?{query}")
    assert page.status_code in (200, 400) and says in page.text and "<script>" not in page.text
    assert client.get(f"/thresholds/answer?{query}").json()["problems"]
    response = client.post("/thresholds/recipe", data={"state": query, "name": "never"})
    assert response.status_code == 400 and says in response.text
    assert client.get("/thresholds/recipe.yaml", params={"state": query, "name": "never"}).status_code == 400


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "A", "a" * 65, "a.yaml", "x\n", "\u202ex", "%2e%2e"])
def test_a_recipe_has_a_name_that_leads_nowhere_else(plain_run: Run, client: TestClient, name: str) -> None:
    before = sorted(Path(plain_run.folder.path).rglob("*"))
    assert client.post("/thresholds/recipe", data={"state": "", "name": name}).status_code == 400
    assert sorted(Path(plain_run.folder.path).rglob("*")) == before


def test_a_recipe_is_replaced_only_where_that_is_asked_for(plain_run: Run, client: TestClient) -> None:
    first, second = "gates.script=0.1", "gates.script=0.2"
    file = Path(plain_run.folder.path, "recipes", "twice.yaml")
    assert client.post("/thresholds/recipe", data={"state": first, "name": "twice"}).status_code == 303
    refused = client.post("/thresholds/recipe", data={"state": second, "name": "twice"})
    assert refused.status_code == 400 and "already" in refused.text and 'value="gates.script=0.2"' in refused.text
    assert load_recipe(file).gates.language.script == 0.1
    sent = {"state": second, "name": "twice", "replace": "yes"}
    assert client.post("/thresholds/recipe", data=sent).status_code == 303
    assert load_recipe(file).gates.language.script == 0.2
    downloaded = client.get("/thresholds/recipe.yaml", params={"state": second, "name": "twice"})
    assert downloaded.text == file.read_text()
    assert downloaded.headers["content-disposition"] == 'attachment; filename="twice.yaml"'
    other = client.post("/thresholds/recipe", data=sent, headers={"origin": "http://evil.example"})
    assert other.status_code == 403


def test_recipes_stay_inside_of_the_run_folder(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "recipes").symlink_to(tmp_path / "elsewhere")
    run = Run(RunFolder(tmp_path / "run"), finished.recipe, finished.info)
    with pytest.raises(UsageError, match="leads out"):
        write(run, "mine", "x")
    assert not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "run" / "recipes").unlink()
    (tmp_path / "run" / "recipes").write_text("a file where the folder would be")
    with pytest.raises(StorageError, match="cannot write"):
        write(run, "mine", "x")


def test_a_recipe_of_a_whole_run_reads_as_the_same_one(finished: Run) -> None:
    text = recipe_text(finished, {}, "same")
    assert parse_recipe(text).digest == finished.info["recipe_digest"]
    assert len(text.splitlines()) < 60
    assert [suggested_name(name) for name in ("default", "Ä b/../c", "…")] == ["default-moved", "b-c-moved", "moved"]


def test_a_large_ledger_is_sampled_and_scaled(
    plain_run: Run, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dials, "MOST_ROWS", 400)
    loaded = dials.load(Queries(plain_run), plain_run.recipe)
    assert 200 < loaded.whatif.rows < 600
    exact = numbers(client.get("/thresholds/answer").json()["cells"], "pages.was")[0]
    assert loaded.pages(loaded.whatif.was_kept) == pytest.approx(exact, rel=0.2)
    page = inside(plain_run).get("/thresholds?gates.script=0.4").text
    assert "scaled up from a sample" in page and "About " in page


def test_runs_without_a_ledger_or_without_rules(finished: Run, tmp_path: Path) -> None:
    path = tmp_path / "begun"
    path.mkdir()
    (path / "run.json").write_bytes(Path(finished.folder.path, "run.json").read_bytes())
    begun = inside(existing_run(str(path)))
    page = begun.get("/thresholds")
    assert page.status_code == 200 and "no ledger" in page.text
    assert begun.get("/thresholds/answer").status_code == 400
    assert begun.post("/thresholds/recipe", data={"name": "x", "state": ""}).status_code == 400
    bare = load_recipe("gopher").model_copy(update={"rules": {}, "dedup": Dedup()})
    run = redecide(finished.folder.path, bare, str(tmp_path / "bare"))
    page = inside(run).get("/thresholds?gates.language.en=0.9")
    assert page.status_code == 200 and page.text.count('type="range"') == 2
