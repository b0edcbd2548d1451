"""A plan of a run: the sample is made of whole records, figures are near, and what cannot be planned is told."""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jobs import plan as job
from jobs import plan_commands
from jobs.plan_report import check, figures, shown
from jobs.plan_sample import choose, survey, take
from jobs.runs import Run
from pipeline.errors import InputError, UsageError
from pipeline.planning import Interval, Stretch
from pipeline.recipe import load_recipe
from pipeline.sources.archive import Record, read_archive

RECIPE = load_recipe("default")


def records(path: Path) -> list[tuple[str | None, str]]:
    with path.open("rb") as stream:
        return [(r.url, r.digest) for r in read_archive(stream, str(path)) if isinstance(r, Record)]


@pytest.fixture(scope="module")
def planned(sample_web: Path, finished: Run) -> job.Plan:
    """A plan of the run that the other tests share, from a third of its inputs."""
    del finished  # its session is used again
    return job.plan(RECIPE, [str(sample_web)], sample="33%", seed=1, cores=2, master="local[2]")


def test_the_plan_is_near_the_run(planned: job.Plan, finished: Run) -> None:
    rows = {row.name: row for row in check(planned.document(), finished)}
    for name in ("records/read", "text/extracted bytes", "bytes/records", "bytes/documents", "bytes/ledger"):
        ratio = rows[name].ratio
        assert ratio is not None and 0.6 < ratio < 1.6, (name, ratio)
    assert 0.5 < (rows["records/kept"].ratio or 0) < 1.6
    counts = [row for row in rows.values() if row.name.startswith(("records/", "text/"))]
    assert sum(row.covered for row in counts) >= 0.7 * len(counts)


def test_every_figure_of_the_run_is_foreseen_and_intervals_are_in_order(planned: job.Plan, finished: Run) -> None:
    expected = {name for name in figures(finished) if name.startswith(("text/", "bytes/", "cpu/", "memory/", "wall/"))}
    assert expected <= set(planned.figures)
    assert all(0 <= i.low <= i.value <= i.high for i in planned.figures.values())
    assert json.loads(json.dumps(planned.document()))["figures"]["records/kept"]["low"] > 0


def test_duplicates_are_not_carried_over_in_proportion(planned: job.Plan) -> None:
    """The more of a crawl is compared, the larger a share of it is a duplicate."""
    removed = planned.figures["records/dedup.exact"]
    assert removed.low < removed.value < removed.high


def test_more_cores_take_less_time_and_more_starts(sample_web: Path, planned: job.Plan) -> None:
    del sample_web
    scale = planned.at_scale
    assert scale["cores"] == 2 and scale["price"]["low"] <= scale["price"]["value"] <= scale["price"]["high"]
    assert scale["price"]["value"] == pytest.approx(0.04 * scale["cores_held_hours"]["value"])


def test_a_plan_is_compared_only_with_a_run_of_its_recipe_and_inputs(planned: job.Plan, finished: Run) -> None:
    document = planned.document()
    with pytest.raises(UsageError, match="plan again with the run's recipe"):
        check({**document, "recipe_digest": "0" * 32}, finished)
    with pytest.raises(UsageError, match=r"the plan is for 5 bytes"):
        check({**document, "inputs": {"bytes": 5}}, finished)


def test_a_saved_plan_is_checked_from_the_command_line(
    planned: job.Plan, finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "plan.json"
    saved.write_text(json.dumps(planned.document()))
    plan_commands.plan(check=finished.folder.path, saved=saved, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert {"records/kept", "bytes/curated"} <= {row["name"] for row in rows}
    plan_commands.plan(check=finished.folder.path, saved=saved)
    assert "within their 90 % intervals" in capsys.readouterr().out
    plan_commands._show(planned.document())
    assert "core-hours of work" in capsys.readouterr().out


def test_a_sample_is_whole_records_of_the_inputs(sample_web: Path, tmp_path: Path) -> None:
    found = survey(RECIPE, [str(sample_web)], tmp_path)
    chosen = choose(found, RECIPE, found.n_bytes // 2, None, 5)
    taken = take(found, chosen, False, tmp_path / "taken", 400_000)
    every = Counter(record for file in found.files for record in records(Path(file.path)))
    here = Counter(record for path in taken.paths for record in records(Path(path)))
    assert here and not here - every
    assert here.total() == pytest.approx(every.total() / 2, rel=0.35)
    path = taken.paths[0]
    starts, numbers = taken.starts[path]
    assert taken.units([path, path, "elsewhere"], [int(starts[-1]), 0, 0]).tolist() == [numbers[-1], numbers[0], -1]


def test_all_stretches_together_are_all_records(sample_web: Path, tmp_path: Path) -> None:
    found = survey(RECIPE, [str(sample_web)], tmp_path)
    every = choose(found, RECIPE, found.n_bytes, None, 0)
    taken = take(found, every, False, tmp_path / "taken", 10**9)
    here = sorted(r for path in taken.paths for r in records(Path(path)))
    assert here == sorted(
        r for file in found.files if file.path not in taken.problems for r in records(Path(file.path))
    )
    assert [Path(path).name for path in taken.problems] == ["CC-MAIN-2024-10-plain.warc"]


def test_whole_files_are_read_where_they_lie(sample_web: Path, tmp_path: Path) -> None:
    found = survey(RECIPE, [str(sample_web)], tmp_path)
    chosen = choose(found, RECIPE, None, len(found.files), 0)
    taken = take(found, chosen, True, tmp_path / "none", 1)
    assert set(taken.paths) == {file.path for file in found.files} and not (tmp_path / "none").exists()
    assert taken.units([taken.paths[-1]], [77]).tolist() == [len(taken.paths) - 1]


def test_what_cannot_be_planned_is_told_in_one_line(sample_web: Path, tmp_path: Path) -> None:
    cases: list[tuple[type[Exception], str, dict[str, object]]] = [
        (InputError, "no input given", {"inputs": []}),
        (InputError, "nowhere", {"inputs": [str(tmp_path / "nowhere")]}),
        (UsageError, "says nothing; take at least", {"sample": "10B"}),
        (UsageError, "give 1% or 50MB", {"sample": "much"}),
        (UsageError, "give 1% or 50MB", {"sample": "200%"}),
        (UsageError, "1 files say too little", {"files": 1}),
    ]
    for kind, words, given in cases:
        arguments = {"inputs": [str(sample_web)], **given}
        with pytest.raises(kind, match=words) as caught:
            job.plan(RECIPE, scratch=str(tmp_path), **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_sources_of_which_only_whole_files_can_be_taken_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text.\n" * 100)
    recipe = load_recipe("books")
    found = survey(recipe, [str(tmp_path)], tmp_path / "none")
    with pytest.raises(UsageError, match=r"recipe 'books' reads books, .* give --files N"):
        choose(found, recipe, 100, None, 0)


def test_files_that_cannot_be_parted_or_read_are_told_and_the_others_are_read(sample_web: Path, tmp_path: Path) -> None:
    good = sorted(sample_web.glob("*.warc.gz"))[0]
    shutil.copyfile(good, tmp_path / "a.warc.gz")
    (tmp_path / "b.warc").write_bytes(gzip.decompress(good.read_bytes()))
    (tmp_path / "c.warc.gz").write_bytes(gzip.compress(gzip.decompress(good.read_bytes())))
    found = survey(RECIPE, [str(tmp_path)], tmp_path / "none")
    chosen = [Stretch(i, 0, file.size or 0) for i, file in enumerate(found.files)]
    taken = take(found, chosen, False, tmp_path / "taken", 10**9)
    assert {Path(path).name for path in taken.problems} == {"b.warc", "c.warc.gz"}
    assert all("give --files N instead" in why for why in taken.problems.values())
    with pytest.raises(InputError, match="nothing could be read of the sample"):
        take(found, chosen[1:], False, tmp_path / "other", 10**9)


def test_an_unfinished_run_or_a_file_that_is_no_plan_cannot_be_checked(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(UsageError, match="it is no plan"):
        plan_commands.load_plan(tmp_path / "plan.json")
    with pytest.raises(UsageError, match="--check needs the plan"):
        plan_commands.load_plan(None)
    begun = Run(finished.folder, finished.recipe, {**finished.info, "stages": {}})
    with pytest.raises(UsageError, match="is not finished"):
        figures(begun)


def test_figures_are_shown_in_units() -> None:
    assert [shown("bytes/all", v) for v in (12.0, 3.2e6, 8e13)] == ["12 B", "3.2 MB", "80 TB"]
    assert shown("cpu/all", 7.2e7) == "2e+04 h" or shown("cpu/all", 7.2e7) == "20,000 h"
    assert shown("records/read", 2_140_000_000) == "2.14 G"
    assert Interval(1, 0, 2).value == 1 and np.isfinite(1.0)


def test_the_job_ends_with_the_exit_codes_of_the_command_line(
    sample_web: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in (
        (["--input", "nowhere.warc.gz"], 3),
        (["--input", str(sample_web), "--sample", "all"], 2),
        (["--input", str(sample_web), "--recipe", "nothing"], 2),
        (["--input", str(sample_web), "--sample", "1%", "--files", "2"], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            plan_commands.main(arguments)
        assert ended.value.code == code
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
