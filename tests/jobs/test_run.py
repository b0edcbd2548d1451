"""Whole runs: the account, the truth, the same bytes however they are made, and going on after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from jobs.curate import outcome_counts, redecide
from jobs.run import run
from jobs.runs import Run, existing_run
from pipeline.errors import InputError, UsageError
from pipeline.recipe import Recipe, load_recipe

pytestmark = pytest.mark.spark


def digests(folder: str | Path) -> dict[str, str]:
    """SHA-256 of every curated and ledger shard, and of what duplicates were found."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for table in ("curated", "ledger")
        for path in sorted((root / table).glob("*.parquet"))
    }


def test_what_goes_in_is_accounted_for_in_every_file(finished: Run) -> None:
    ledger = finished.folder.scan("ledger", None, ["warc_file", "outcome", "doc_id"])
    inputs = finished.folder.scan("inputs", None, ["warc_file", "n_read"])
    read = Counter(ledger.column("warc_file").to_pylist())
    expected: Counter[str] = Counter()
    for row in inputs.to_pylist():
        expected[row["warc_file"]] += row["n_read"]
    assert read == expected
    assert set(ledger.column("outcome").to_pylist()) == {"kept", "dropped", "error"}
    assert sum(outcome_counts(finished).values()) == ledger.num_rows >= 1500


def test_curated_rows_are_where_the_ledger_says(finished: Run) -> None:
    ledger = finished.folder.scan("ledger", pc.field("outcome") == "kept", ["doc_id", "shard", "row"])
    for row in ledger.to_pylist()[:: max(1, ledger.num_rows // 50)]:
        shard = finished.folder.read_table(f"curated/shard-{row['shard']:05d}.parquet")
        assert shard.column("id")[row["row"]].as_py() == row["doc_id"]


def test_partitions_order_and_names_of_patterns_do_not_change_a_byte(
    finished: Run, sample_web: Path, tolerant: Recipe, tmp_path: Path
) -> None:
    files = sorted((str(p) for p in sample_web.iterdir() if "arc" in p.name), reverse=True)
    again = run(tolerant, files, str(tmp_path / "out"), partitions=5, master="local[2]")
    assert digests(again.folder.path) == digests(finished.folder.path)


def test_truth_of_the_sample_is_met(finished: Run, sample_web: Path) -> None:
    truth = [json.loads(line) for line in (sample_web / "truth.jsonl").read_text().splitlines()]
    columns = ["warc_file", "warc_offset", "outcome", "reason", "rule_hits"]
    rows = finished.folder.scan("ledger", None, columns).to_pylist()
    found = {(Path(row["warc_file"]).name, row["warc_offset"]): row for row in rows}
    confusion: Counter[tuple[str, str]] = Counter()
    wrong = []
    for page in truth:
        row = found.pop((page["file"], page["offset"]), None)
        actual = row["outcome"] if row else "missing"
        confusion[(page["expect"], actual)] += 1
        hits = row["rule_hits"] if row else []
        if actual == "dropped" and hits[0].startswith("dedup.") and "cluster" in page["notes"]:
            continue  # a copy; test_deduplicate looks at which of them go
        for_a_reason = not page["reasons"] or any(reason_class(hit) in page["reasons"] for hit in hits)
        if page["expect"] != actual or not for_a_reason:
            wrong.append((page["kind"], page["url"], page["expect"], actual, page["reasons"], hits))
    assert not wrong, (confusion, wrong[:20])
    assert not found, "the ledger has rows of which the truth knows nothing"


def reason_class(hit: str) -> str:
    """The class under which truth.jsonl names a reason: gates by name, every rule about the text as `quality`."""
    classes = {"extraction.empty": "empty", "source.damaged": "damaged"}
    if hit in classes:
        return classes[hit]
    if hit.startswith("gates.url"):
        return "gates.url"
    return hit if hit.startswith("gates.") else "quality"


def test_redecide_gives_the_bytes_of_a_fresh_run(finished: Run, sample_web: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "pipeline" / "recipes" / "default.yaml").read_text()
    stricter = tmp_path / "strict.yaml"
    stricter.write_text(
        text.replace(
            "gopher_quality: gopher_quality@datatrove",
            "gopher_quality: {dialect: gopher_quality@datatrove, bounds: {word_count: [150, 100000]}}",
        )
        + "inputs: {tolerate: 1}\n"
    )
    recipe = load_recipe(stricter)
    decided = redecide(finished.folder.path, recipe, str(tmp_path / "decided"))
    fresh = run(recipe, [str(sample_web)], str(tmp_path / "fresh"), master="local[2]")
    assert digests(decided.folder.path) == digests(fresh.folder.path)
    assert outcome_counts(decided)["kept"] < outcome_counts(finished)["kept"]
    assert Path(decided.info["measures"]).is_absolute()  # found from any working directory


def test_redecide_without_line_edits_gives_the_bytes_of_a_fresh_run(
    finished: Run, sample_web: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("gopher").model_copy(update={"inputs": finished.recipe.inputs})
    decided = redecide(finished.folder.path, recipe, str(tmp_path / "decided"))
    fresh = run(recipe, [str(sample_web)], str(tmp_path / "fresh"), master="local[2]")
    assert digests(decided.folder.path) == digests(fresh.folder.path)


def test_redecide_refuses_what_it_cannot_decide(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a new"):
        redecide(finished.folder.path, load_recipe("fineweb"), str(tmp_path / "x"))
    with pytest.raises(UsageError, match="edits lines in another way"):
        redecide(finished.folder.path, load_recipe("c4"), str(tmp_path / "x"))
    with pytest.raises(UsageError, match="holds no run"):
        redecide(str(tmp_path / "nothing"), load_recipe("default"), str(tmp_path / "x"))


def test_a_folder_with_another_run_is_refused(finished: Run, sample_web: Path, tmp_path: Path) -> None:
    output = finished.folder.path
    with pytest.raises(UsageError, match="recipe"):
        run(load_recipe("c4"), [str(sample_web)], output)
    with pytest.raises(UsageError, match="other inputs"):
        run(finished.recipe, [str(next(sample_web.glob("*.warc.gz")))], output)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        run(finished.recipe, [str(sample_web)], str(tmp_path))


def test_missing_inputs_cost_only_themselves(sample_web: Path, tmp_path: Path) -> None:
    good = str(sorted(sample_web.glob("*.warc.gz"))[0])
    missing = str(tmp_path / "gone.warc.gz")
    (tmp_path / "text.warc.gz").write_text("no archive at all\n")
    (tmp_path / "empty.warc.gz").write_bytes(b"")
    inputs = [good, missing, str(tmp_path / "text.warc.gz"), str(tmp_path / "empty.warc.gz")]
    with pytest.raises(InputError, match=r"gone\.warc\.gz"):
        run(load_recipe("default"), inputs, str(tmp_path / "out"), master="local[2]")
    done = existing_run(str(tmp_path / "out"))
    ledger = done.folder.scan("ledger", pc.field("reason") == "source.damaged", ["warc_file", "error"])
    assert {Path(f).name for f in ledger.column("warc_file").to_pylist()} >= {"gone.warc.gz", "text.warc.gz"}
    assert outcome_counts(done)["kept"] > 0


def test_nothing_to_read_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(load_recipe("default"), [str(tmp_path / "*.warc.gz")], str(tmp_path / "out"))


def test_a_stage_that_is_none_is_refused(sample_web: Path, tolerant: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no stage named"):
        run(tolerant, [str(sample_web)], str(tmp_path / "out"), upto="dedup")


def test_killed_twice_and_taken_up_again_gives_the_same_bytes(
    finished: Run, sample_web: Path, tolerant: Recipe, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = ["run", "--input", str(sample_web), "--output", str(output), "--tolerate", "1"]
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for sign, count in (("_manifests/extract/*.json", 4), ("dedup/work/live/*.parquet", 1)):
        victim = subprocess.Popen(command, start_new_session=True, **quiet)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and victim.poll() is None:
            if len(list(output.glob(sign))) >= count:
                break
            time.sleep(0.01)
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        assert len(list(output.glob(sign))) >= count
        assert json.loads((output / "run.json").read_text())["stages"].get("curate") is None
    again = run(tolerant, [str(sample_web)], str(output), master="local[2]")
    assert digests(again.folder.path) == digests(finished.folder.path)
    assert not list(output.glob("**/.*.tmp"))


@pytest.mark.parametrize("job", ["annotate", "score", "deduplicate", "decontaminate", "run", "tokenise", "mix"])
def test_a_job_can_be_run_from_its_file(job: str) -> None:
    """Then the folder of jobs is first on the path, as under spark-submit, and nothing in it may hide what others import."""
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "jobs" / f"{job}.py"), "--help"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0 and f"jobs/{job}.py" in done.stdout, done.stderr[-2000:]
