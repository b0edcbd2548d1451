"""Benchmark items in the sample: every leak is found, cut and proved, and nothing else is touched."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from jobs.curate import redecide
from jobs.decontaminate import ITEMS
from jobs.run import run
from jobs.runs import Run
from pipeline.contamination.proof import by_task
from pipeline.errors import RecipeError, UsageError
from pipeline.recipe import Recipe, load_recipe


@pytest.fixture(scope="module")
def searching(sample_web: Path, tolerant: Recipe) -> Recipe:
    return tolerant.with_benchmarks(sample_web / "benchmarks.yaml")


@pytest.fixture(scope="module")
def searched(finished: Run, searching: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return redecide(finished.folder.path, searching, str(tmp_path_factory.mktemp("searched") / "out"))


@pytest.fixture(scope="module")
def leaks(finished: Run, sample_web: Path) -> dict[str, dict[str, Any]]:
    """By doc_id, what the sample says of the leak in each page that is kept without decontamination."""
    kept = {
        (row["warc_file"].rsplit("/", 1)[-1], row["warc_offset"]): row["doc_id"]
        for row in finished.folder.scan("ledger", pc.field("outcome") == "kept").to_pylist()
    }
    lines = (json.loads(line) for line in (sample_web / "truth.jsonl").read_text().splitlines())
    planted = {
        kept[key]: line["notes"]["contaminated"][0]
        for line in lines
        if line["notes"].get("contaminated") and (key := (line["file"], line["offset"])) in kept
    }
    assert len(planted) > 20
    return planted


def bodies(folder: str) -> dict[str, bytes]:
    names = (
        "ledger/*.parquet",
        "curated/*.parquet",
        "contamination/*.parquet",
        "benchmark_items/*",
        "decontamination/*",
    )
    files = sorted(path for name in names for path in Path(folder).glob(name))
    # Parts are numbered by splits, which depend on the number of tasks; their rows are compared by the ledger.
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if "contamination/part" not in str(f)}


def test_every_leak_is_found_and_nothing_else(searched: Run, leaks: dict[str, dict[str, Any]]) -> None:
    held = {
        row["doc_id"]: {hit["item"] for hit in row["contamination"]}
        for row in searched.folder.scan("ledger", None, ["doc_id", "contamination"]).to_pylist()
        if row["contamination"]
    }
    assert held == {doc_id: {note["item"]} for doc_id, note in leaks.items()}


def test_a_leak_is_cut_and_what_is_left_is_whole(
    searched: Run, finished: Run, leaks: dict[str, dict[str, Any]]
) -> None:
    before = {row["id"]: row["text"] for row in finished.folder.scan("curated", None).to_pylist()}
    after: dict[str, list[str]] = {}
    for row in searched.folder.scan("curated", None).sort_by([("id", "ascending"), ("piece", "ascending")]).to_pylist():
        after.setdefault(row["id"], []).append(row["text"])
    least = searched.recipe.decontaminate.least_piece
    for doc_id, text in before.items():
        if doc_id not in leaks:
            assert after[doc_id] == [text]
            continue
        for piece in after.get(doc_id, []):
            assert piece in text and len(piece) >= least
            assert leaks[doc_id]["quoted"][:40] not in piece
    assert any(len(pieces) > 1 for pieces in after.values())


def test_the_account_of_shards_and_ledger_holds_with_pieces(searched: Run) -> None:
    rows = searched.folder.scan("ledger", pc.field("outcome") == "kept", ["doc_id", "shard", "row", "n_pieces"])
    for row in rows.to_pylist():
        shard = searched.folder.read_table(f"curated/shard-{row['shard']:05d}.parquet", ["id", "piece"])
        own = shard.slice(row["row"], row["n_pieces"])
        assert own.column("id").to_pylist() == [row["doc_id"]] * row["n_pieces"]
        assert own.column("piece").to_pylist() == list(range(row["n_pieces"]))
    assert sum(rows.column("n_pieces").to_pylist()) == searched.folder.scan("curated", None, ["id"]).num_rows


def test_the_proof_names_item_page_and_words(searched: Run, leaks: dict[str, dict[str, Any]], sample_web: Path) -> None:
    items = searched.folder.read_table(ITEMS)
    real = items.filter(pc.invert(items.column("decoy"))).to_pylist()
    assert [row["item"] for row in real] == [
        json.loads(line)["id"] for line in (sample_web / "benchmark.jsonl").read_text().splitlines()
    ]
    n_pages = {row["item"]: sum(note["item"] == row["item"] for note in leaks.values()) for row in real}
    assert {row["item"]: row["n_pages"] for row in real} == n_pages
    for row in real:
        if row["n_pages"]:
            shown = " ".join(row["excerpt"][mark["start"] : mark["end"]] for mark in row["marks"])
            quoted = leaks[row["best_doc_id"]]["quoted"]
            assert (
                row["best_score"] > 0.5 and len(set(quoted.split()) & set(shown.split())) > len(set(quoted.split())) / 2
            )
    page = (Path(searched.folder.path) / "decontamination" / "report.html").read_text()
    assert "orlamund" in page and "<mark>" in page
    listed = (Path(searched.folder.path) / "decontamination" / "contaminated.jsonl").read_text().splitlines()
    assert {json.loads(line)["item"] for line in listed} == {item for item, n in n_pages.items() if n}
    assert by_task(items, True) == {} == by_task(items, False)  # this benchmark is no task of anybody's


def test_the_table_and_the_lists_of_a_benchmark_checked_by_hand(
    finished: Run, tolerant: Recipe, leaks: dict[str, dict[str, Any]], sample_web: Path, tmp_path: Path
) -> None:
    items = [json.loads(line) for line in (sample_web / "benchmark.jsonl").read_text().splitlines()]
    (known,) = (item for item in items if item["id"] == "orlamund-003")
    rows = [
        ("a", "x", known["question"], known["answer"]),
        ("b", "x", "Which of the moons of Farrow is lived on by singing beetles of green glass?", "the third"),
        ("c", "y", known["question"], known["answer"]),
        ("d", "y", "", ""),
        ("e", "y", "Why so?", "no"),
    ]
    lines = ["\t".join(row) for row in [("id", "subject", "q", "a"), *rows]]
    (tmp_path / "mini.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "benchmarks.yaml").write_text(
        "benchmarks: [{name: mini, path: mini.tsv, id: id, question: q, answer: a, lm_eval: {task: 'mini_{subject}'}}]\n"
    )
    recipe = tolerant.with_benchmarks(tmp_path / "benchmarks.yaml")
    done = redecide(finished.folder.path, recipe, str(tmp_path / "out"))
    table = done.folder.read_table(ITEMS)
    real = table.filter(pc.invert(table.column("decoy"))).to_pylist()
    n = sum(note["item"] == "orlamund-003" for note in leaks.values())
    assert n > 0
    facts = [(r["item"], r["task"], r["doc"], r["status"], r["duplicate_of"], r["n_pages"]) for r in real]
    assert facts == [
        ("a", "mini_x", 0, "ok", None, n),
        ("b", "mini_x", 1, "ok", None, 0),
        ("c", "mini_y", 0, "duplicate", "mini/a", n),
        ("d", "mini_y", 1, "empty", None, 0),
        ("e", "mini_y", 2, "short", None, 0),
    ]
    assert real[0]["text"] == f"{known['question']}\nAnswer: {known['answer']}"
    assert leaks[real[0]["best_doc_id"]]["item"] == "orlamund-003"
    results = Path(done.folder.path) / "decontamination"
    assert json.loads((results / "lm_eval_contaminated.json").read_text()) == {"mini_x": [0], "mini_y": [0]}
    assert json.loads((results / "lm_eval_clean.json").read_text()) == {"mini_x": [1], "mini_y": [1, 2]}
    listed = [json.loads(line)["item"] for line in (results / "contaminated.jsonl").read_text().splitlines()]
    assert listed == ["a", "c"]
    page = (results / "report.html").read_text()
    assert "1 item found" in page and "mini_x, document 0" in page


def test_the_result_does_not_depend_on_partitions_or_on_how_it_is_run(
    searched: Run, sample_web: Path, searching: Recipe, tmp_path: Path
) -> None:
    done = run(searching, [str(sample_web)], str(tmp_path / "out"), partitions=3, master="local[2]")
    ours, theirs = bodies(done.folder.path), bodies(searched.folder.path)
    assert ours.keys() == theirs.keys()
    # run.json names other folders; the page, the lists and the shards do not.
    assert ours == theirs
    assert not list(Path(done.folder.path).glob("decontamination/work/*"))


@pytest.mark.parametrize("mode", ["ngram", "idf"])
def test_pages_can_be_dropped_or_marked_instead(
    mode: str, finished: Run, searching: Recipe, leaks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    verbatim = {doc_id for doc_id, note in leaks.items() if note["verbatim"]}
    for action in ("drop", "mark"):
        chosen = searching.decontaminate.model_copy(update={"mode": mode, "action": action})
        recipe = searching.model_copy(update={"decontaminate": chosen})
        done = redecide(finished.folder.path, recipe, str(tmp_path / f"{mode}-{action}"))
        rows = done.folder.scan("ledger", None, ["doc_id", "outcome", "reason", "contamination"]).to_pylist()
        held = {row["doc_id"] for row in rows if row["contamination"]}
        assert verbatim <= held <= set(leaks)
        dropped = {row["doc_id"] for row in rows if row["reason"] == "decontaminate.overlap"}
        assert dropped == (held if action == "drop" else set())


def test_what_stands_in_too_many_pages_is_common_text(finished: Run, tolerant: Recipe, tmp_path: Path) -> None:
    """A sentence of the sample's grammar that more than a hundred articles share, as a benchmark item."""
    said = "half of the notes were lost when the cellar in"
    (tmp_path / "said.jsonl").write_text(json.dumps({"q": said}) + "\n")
    (tmp_path / "benchmarks.yaml").write_text("benchmarks: [{name: said, path: said.jsonl, question: q}]\n")
    recipe = tolerant.with_benchmarks(tmp_path / "benchmarks.yaml")
    for mode in ("idf", "ngram"):
        n_pages = {}
        for common in (10, None):
            chosen = recipe.decontaminate.model_copy(update={"common": common, "mode": mode, "action": "mark"})
            choice = recipe.model_copy(update={"decontaminate": chosen})
            done = redecide(finished.folder.path, choice, str(tmp_path / f"{mode}-{common}"))
            n_pages[common] = done.folder.read_table(ITEMS).column("n_pages")[0].as_py()
        texts = finished.folder.scan("curated", None, ["text"]).column("text").to_pylist()
        whole = sum(said in text.lower() for text in texts)
        # A near-copy that changes a word of the sentence holds none of its n-grams whole, and so nothing that is common.
        changed = n_pages[None] - whole
        assert n_pages[10] == changed and 0 <= changed <= (2 if mode == "idf" else 0) and whole > 10


def test_other_items_are_another_run(searched: Run, searching: Recipe, sample_web: Path, tmp_path: Path) -> None:
    lines = (sample_web / "benchmark.jsonl").read_text().splitlines(keepends=True)
    for name, held in (("same", lines), ("fewer", lines[:-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "benchmark.jsonl").write_text("".join(held))
        (tmp_path / name / "benchmarks.yaml").write_text((sample_web / "benchmarks.yaml").read_text())
    same, fewer = (searching.with_benchmarks(tmp_path / name / "benchmarks.yaml") for name in ("same", "fewer"))
    assert same.digest == searching.digest != fewer.digest
    with pytest.raises(UsageError, match="holds another run"):
        redecide(searched.info["measures"], fewer, searched.folder.path)


def test_a_benchmark_that_cannot_be_read_is_said_before_anything_is_written(sample_web: Path, tmp_path: Path) -> None:
    (tmp_path / "benchmarks.yaml").write_text("benchmarks: [{name: x, path: gone.jsonl, question: q}]\n")
    recipe = load_recipe("default")
    with pytest.raises(RecipeError, match=r"gone\.jsonl"):
        run(recipe.with_benchmarks(tmp_path / "benchmarks.yaml"), [str(sample_web)], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def crawlmill(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", "decontaminate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_line_shows_items_and_evidence(searched: Run, finished: Run, sample_web: Path) -> None:
    checked = crawlmill("items", str(sample_web / "benchmarks.yaml"), "--show", "1")
    assert checked.returncode == 0 and "orlamund" in checked.stdout and "kingdom of Orlamund" in checked.stdout
    folder = searched.folder.path
    assert "orlamund" in crawlmill("show", folder).stdout
    listed = json.loads(crawlmill("show", folder, "--benchmark", "orlamund", "--json").stdout)
    one = crawlmill("show", folder, "--benchmark", "orlamund", "--item", listed[0]["item"])
    assert "the item" in one.stdout and "the page" in one.stdout
    assert "no benchmark 'x'" in crawlmill("show", folder, "--benchmark", "x").stderr
    assert "looked for no benchmarks" in crawlmill("show", finished.folder.path).stderr
