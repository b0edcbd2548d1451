"""The command line as a person meets it: help, tables, errors, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

from jobs.runs import Run

ROOT = Path(__file__).resolve().parents[2]


def crawlmill(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "140", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], capture_output=True, text=True, timeout=200, env=environment
    )


@pytest.mark.parametrize("command", ["sample", "run", "redecide", "explain"])
def test_help_shows_an_example(command: str) -> None:
    done = crawlmill(command, "--help")
    assert done.returncode == 0
    assert f"Example: crawlmill {command}" in done.stdout


def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for arguments in (
        ["run", "--recipe", "finweb", "--input", "x", "--output", str(tmp_path / "o")],
        ["explain", str(tmp_path)],
        ["redecide", str(tmp_path), "--output", str(tmp_path / "o")],
        ["run", "--input", "x", "--output", str(tmp_path / "o"), "--upto", "dedup"],
    ):
        done = crawlmill(*arguments)
        assert done.returncode == 2, done
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in crawlmill("--debug", "explain", str(tmp_path)).stderr


def test_missing_input_is_exit_code_3(tmp_path: Path) -> None:
    done = crawlmill("run", "--input", str(tmp_path / "none*.warc.gz"), "--output", str(tmp_path / "o"))
    assert done.returncode == 3 and "none*.warc.gz" in done.stderr


def test_an_output_that_cannot_be_written_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "x.warc").write_text("no archive")
    (tmp_path / "file").write_text("")
    done = crawlmill("run", "--input", str(tmp_path / "x.warc"), "--output", str(tmp_path / "file" / "below"))
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr


@pytest.mark.spark
def test_explain_answers_for_kept_dropped_and_broken(finished: Run) -> None:
    done = crawlmill("explain", finished.folder.path)
    assert done.returncode == 0
    for word in ("kept", "dropped", "error", "offset", "every rule broken", "gopher_quality.word_count"):
        assert word in done.stdout


@pytest.mark.spark
def test_explain_finds_by_id_by_address_and_by_place(finished: Run) -> None:
    first = json.loads(crawlmill("explain", finished.folder.path, "--json").stdout.split("\n}\n")[0] + "\n}")
    place = f"{Path(first['warc_file']).name}:{first['warc_offset']}"
    for key in (first["doc_id"], first["url"], place):
        done = crawlmill("explain", finished.folder.path, key, "--text")
        assert first["doc_id"] in done.stdout
    nothing = crawlmill("explain", finished.folder.path, "https://nowhere.example/")
    assert nothing.returncode == 2 and "no record" in nothing.stderr


@pytest.mark.spark
def test_redecide_prints_the_funnel(finished: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "loose.yaml"
    default = (ROOT / "pipeline" / "recipes" / "default.yaml").read_text()
    recipe.write_text(default.replace("{en: 0.65}", "{en: 0.65, de: 0.65}"))
    done = crawlmill("redecide", finished.folder.path, "--recipe", str(recipe), "--output", str(tmp_path / "o"))
    assert done.returncode == 0, done.stderr
    assert "read" in done.stdout and "kept" in done.stdout
    assert "pyspark" not in done.stderr


@pytest.mark.spark
def test_pages_like_another_are_looked_up(finished: Run, tmp_path: Path) -> None:
    rows = finished.folder.scan("ledger", pc.field("reason") == "dedup.minhash").to_pylist()
    page = rows[0]
    done = crawlmill("explain", finished.folder.path, page["url"], "--json")
    assert json.loads(done.stdout)["duplicate_of"] == page["duplicate_of"]
    found = json.loads(crawlmill("explain", finished.folder.path, "--similar", page["doc_id"], "--json").stdout)
    assert page["duplicate_of"] in {row["doc_id"] for row in found}
    assert page["doc_id"] not in {row["doc_id"] for row in found}
    assert [row["similarity"] for row in found] == sorted((row["similarity"] for row in found), reverse=True)
    text = tmp_path / "mine.txt"
    text.write_text(crawlmill("explain", finished.folder.path, page["doc_id"], "--text", "--json").stdout)
    body = json.loads(text.read_text())["text"]
    text.write_text(body)
    table = crawlmill("explain", finished.folder.path, "--similar", str(text))
    assert "dedup.minhash" in table.stdout and "1.00" in table.stdout
    for key, said in (("no/such/file", "no text file"), (dropped_early(finished), "turned away")):
        done = crawlmill("explain", finished.folder.path, "--similar", key)
        assert done.returncode == 2 and said in done.stderr


def dropped_early(run: Run) -> str:
    """A page whose text was never extracted."""
    return run.folder.scan("ledger", pc.field("reason") == "gates.http.status", ["doc_id"]).column(0)[0].as_py()


def test_texts_without_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    mill = "the mill by the river turns all day while the miller sleeps under the old willow tree"
    for name, text in {"a": mill, "b": mill.upper(), "c": mill + " and then", "d": "something else"}.items():
        (folder / f"{name}.txt").write_text(f"Home\n{text}")
    kept, report = tmp_path / "kept.jsonl", tmp_path / "report.jsonl"
    done = crawlmill("dedup", "texts", str(folder), "--kept", str(kept), "--report", str(report), "--lines", "2")
    assert done.returncode == 0, done.stderr
    assert "cut 4 lines" in done.stdout and "4 texts: 2 kept, 2 duplicates" in done.stdout
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [row["cluster_size"] for row in rows] == [3, 3, 3, 1] and sum(row["kept"] for row in rows) == 2
    assert "something else" in [json.loads(line)["text"] for line in kept.read_text().splitlines()]
    nothing = crawlmill("dedup", "texts", str(tmp_path / "none"))
    assert nothing.returncode == 3 and nothing.stderr.startswith("error: ")


def test_the_s_curve() -> None:
    done = crawlmill("dedup", "curve")
    assert "14 bands of 8 rows" in done.stdout and " 0.923" in done.stdout  # 1 - (1 - .8^8)^14
    found = crawlmill("dedup", "curve", "--target", "0.9", "--hashes", "128")
    assert "5 bands of 25 rows" in found.stdout  # as RedPajama-2 has it
    assert crawlmill("dedup", "curve", "--target", "0.9", "--bands", "3").returncode == 2
    assert crawlmill("dedup", "curve", "--bands", "3").returncode == 2


@pytest.mark.spark
def test_an_index_is_shown_and_a_dump_removed(finished: Run, tmp_path: Path) -> None:
    index, out = str(tmp_path / "index"), str(tmp_path / "out")
    done = crawlmill("redecide", finished.folder.path, "--output", out, "--index", index)
    assert done.returncode == 0, done.stderr
    shown = crawlmill("dedup", "index", index).stdout
    assert "CC-MAIN-2024-10" in shown and "CC-MAIN-2024-22" in shown and "bands 14, rows 8" in shown
    assert crawlmill("dedup", "remove", index, "CC-MAIN-2024-10").returncode == 0
    assert "CC-MAIN-2024-10" not in crawlmill("dedup", "index", index).stdout
    gone = crawlmill("dedup", "remove", index, "CC-MAIN-2024-10")
    assert gone.returncode == 2 and "it holds CC-MAIN-2024-22" in gone.stderr
    assert "no index.json" in crawlmill("dedup", "index", out).stderr
