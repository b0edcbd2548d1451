"""The command line as a person meets it: help, tables, errors, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
