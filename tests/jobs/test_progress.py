"""What a user sees while a run goes on."""

import io
import os
import pty
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs import observe
from jobs.curate import redecide
from jobs.measures import DONE, PEAKS, USED, Fact
from jobs.observe import Meter
from jobs.progress import Bar, Estimate, put_away, stages_of, survivors
from jobs.run import STAGES
from jobs.runs import Run
from jobs.store import RunFolder
from pipeline.recipe import load_recipe


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def screen(bar: Bar, width: int = 80) -> list[str]:
    """What would be drawn, line by line."""
    file = io.StringIO()
    bar._console.width = width
    Console(file=file, width=width, force_terminal=True, no_color=True, legacy_windows=False).print(bar.drawn())
    return [line.rstrip() for line in plain(file.getvalue()).splitlines()]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    """A run of ten parts, of which three are extracted."""
    tasks = [{"part": f"p{i}", "path": f"{i}.warc", "start": 0, "end": None} for i in range(10)]
    facts = {"records": 300, "left": 200, "seconds": 50.0, "steps": {}}
    info = {"stages": {"extract": {"metrics": facts}}, "tasks": tasks, "inputs": []}
    run = Run(RunFolder(tmp_path), load_recipe("default"), info)
    run.save = lambda: None  # type: ignore[method-assign]
    for i in range(3):
        run.folder.write_json(f"_manifests/extract/p{i}.json", {})
    with observe.measuring(run, STAGES) as measuring:
        yield measuring


def told(meter: Meter, number: int, **numbers: float) -> None:
    """A task of the stage that goes on ends."""
    every = {**dict.fromkeys((*USED, *DONE, *PEAKS), 0.0), "task_seconds": 1.0, **numbers}
    meter.book([Fact(meter.now.stage or "", 1, number, every, (1.0, str(number)))])


def test_stages_to_come_are_there_and_those_not_asked_for_are_not(meter: Meter) -> None:
    assert stages_of(meter) == ["extract", "annotate", "score", "deduplicate", "curate"]
    assert stages_of(meter, "annotate") == ["extract", "annotate"]
    assert [row.state for row in Bar(Console()).rows()] == ["to come"] * 5


def test_parts_that_were_done_before_count_as_done_but_not_into_rate_and_time(meter: Meter) -> None:
    clock = Clock()
    bar = Bar(Console(file=io.StringIO()), clock=clock)
    meter.now = observe.Now(stage="extract", step="extract")
    first = bar.rows()[0]
    assert (first.state, first.done, first.total, first.unit, first.left) == ("going on", 3, 10, "parts", None)
    assert survivors(meter) == "200 of 300 records still undecided"
    for number in range(2):
        told(meter, number, items=1, records=100, left=60)
    clock.now += 20
    row = bar.rows()[0]
    # Two parts in 20 s: five more take 50 s. The three of before would have made it 20 s.
    assert (row.done, row.rate, row.left) == (5, "10 records/s", 50.0)
    assert survivors(meter) == "320 of 500 records still undecided"
    lines = screen(bar)
    assert "5/10 parts" in lines[0] and "0:50 left" in lines[0] and "10 records/s" in lines[0]
    assert [line.split()[0] for line in lines[1:5]] == ["measuring", "scoring", "comparing", "deciding"]


def test_time_left_counts_down_between_tasks_and_does_not_jump() -> None:
    estimate = Estimate(began=0.0)
    assert estimate.left(5.0, 0, 10) is None and estimate.left(10.0, 1, 10) is None
    assert estimate.left(20.0, 2, 10) == 80.0
    assert estimate.left(23.0, 2, 10) == 77.0
    # A slow one: its own word would be 120 s more.
    assert estimate.left(60.0, 3, 10) == pytest.approx(40 + 0.4 * (140 - 40))
    assert estimate.left(500.0, 3, 10) is None  # nobody knows
    assert estimate.left(501.0, 10, 10) is None


def test_steps_of_a_stage_are_named_and_each_has_its_own_time(meter: Meter) -> None:
    clock = Clock()
    bar = Bar(Console(file=io.StringIO()), clock=clock)
    meter.run.info["stages"] |= {name: {"done": True, "metrics": {"seconds": 2.0}} for name in ("extract", "annotate")}
    meter.run.info["stages"]["score"] = {"done": True, "metrics": {"seconds": 2.0, "left": 150}}
    meter.run.info["stages"]["extract"]["metrics"] |= {"records": 300, "left": 200}
    meter.now = observe.Now(stage="deduplicate", step="sketching texts")
    bar.rows()
    clock.now += 4
    meter.now.done, meter.now.total = 4, 8
    row = bar.rows()[3]
    assert (row.step, row.done, row.total, row.left) == ("sketching texts", 4, 8, 4.0)
    lines = screen(bar)
    assert lines[5] == "comparing: sketching texts"
    assert lines[6] == "150 of 300 records left after rules on text"
    meter.now.step, meter.now.done, meter.now.total = "choosing what is kept", 0, 0
    assert bar.rows()[3].left is None and bar.rows()[3].seconds == 4.0


def test_a_narrow_terminal_holds_every_line(meter: Meter) -> None:
    clock = Clock()
    bar = Bar(Console(file=io.StringIO()), clock=clock)
    meter.now = observe.Now(stage="deduplicate", step="comparing addresses and texts", done=1234, total=5678)
    bar.rows()
    clock.now += 7300
    bar.rows()
    for width in (40, 60, 80, 120):
        assert all(len(line) <= width for line in screen(bar, width)), width
    (line,) = (line for line in screen(bar, 40) if line.startswith("comparing") and ":" not in line.split()[0])
    assert "1,234/5,678" in line and line.endswith("7.3 h left")


def test_a_stage_that_fails_stays_where_it_was(meter: Meter) -> None:
    bar = Bar(Console(file=io.StringIO()))
    with pytest.raises(OSError, match="full"), bar:
        meter.now = observe.Now(stage="curate", step="curate", done=3, total=9)
        bar.rows()
        meter.now = observe.Now()
        raise OSError("disk full")
    row = bar.rows()[-1]
    assert (row.state, row.done, row.total) == ("failed", 3, 9)
    assert "failed 3/9" in screen(bar)[4]
    assert bar.rows()[1].state == "to come"


def test_nothing_at_all_is_written_where_there_is_no_terminal(finished: Run, tmp_path: Path) -> None:
    file = io.StringIO()
    with Bar(Console(file=file)) as bar:
        redecide(finished.folder.path, load_recipe("gopher"), str(tmp_path / "out"), watch=bar.tasks)
    assert file.getvalue() == ""


def _read(terminal: int, pieces: list[bytes]) -> None:
    """All that is written to a terminal until nobody holds it any more."""
    try:
        while piece := os.read(terminal, 1 << 16):
            pieces.append(piece)
    except OSError:
        return


def test_in_a_terminal_the_cursor_comes_back_and_what_is_kept_stays(finished: Run, tmp_path: Path) -> None:
    main, terminal = pty.openpty()
    pieces: list[bytes] = []
    reader = threading.Thread(target=_read, args=(main, pieces))
    reader.start()
    with os.fdopen(terminal, "w") as file:
        console = Console(file=file, width=80, force_terminal=True, no_color=True)
        with Bar(console) as bar:
            done = redecide(finished.folder.path, load_recipe("gopher"), str(tmp_path / "out"), watch=bar.tasks)
        assert console.file is file
    reader.join()
    os.close(main)
    drawn = b"".join(pieces).decode()
    kept = sum(manifest["outcomes"]["kept"] for manifest in done.manifests("curate"))
    assert drawn.startswith("\x1b[?25l") and drawn.rstrip().endswith("\x1b[?25h")
    assert f"{kept:,} of 1,601 records kept" in plain(drawn).splitlines()[-1]


def test_a_run_that_is_done_before_it_is_drawn_is_drawn_at_the_end(finished: Run, tmp_path: Path) -> None:
    file = io.StringIO()
    with Bar(Console(file=file, width=80, force_terminal=True, no_color=True)) as bar:
        assert bar._live is not None
        bar._live.auto_refresh = False
        bar._live._refresh_thread.stop()  # type: ignore[union-attr]
        redecide(finished.folder.path, load_recipe("gopher"), str(tmp_path / "out"), watch=bar.tasks)
    assert "1,008 of 1,601 records kept" in plain(file.getvalue())


def test_a_process_that_ends_at_once_gives_the_cursor_back() -> None:
    file = io.StringIO()
    with Bar(Console(file=file, width=80, force_terminal=True, no_color=True)) as bar:
        assert bar is not None
        put_away()
        assert file.getvalue().rstrip().endswith("\x1b[?25h")
    put_away()


def test_what_records_are_left_is_measured(finished: Run) -> None:
    left: dict[str, Any] = {
        stage: facts["metrics"]["left"] for stage, facts in finished.info["stages"].items() if facts["metrics"]["left"]
    }
    undecided = sum(manifest["tables"]["documents"]["rows"] for manifest in finished.manifests("extract"))
    kept = sum(manifest["outcomes"]["kept"] for manifest in finished.manifests("curate"))
    assert (left["extract"], left["curate"]) == (undecided, kept)
    assert kept < left["score"] < undecided
