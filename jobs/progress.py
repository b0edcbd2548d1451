"""Progress of a run in a terminal: its stages, their tasks, rates and time left, and how many records are left.

Nothing is written where there is no terminal. What is drawn is what the run measures of itself (`jobs.observe`), looked at
four times a second; a run that nobody watches does no more than it would.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from jobs import observe
from jobs.observe import Meter
from jobs.runs import Run
from pipeline.recipe import Recipe

_DOING = {
    "extract": "extracting",
    "annotate": "measuring",
    "score": "scoring",
    "deduplicate": "comparing",
    "decontaminate": "benchmarks",
    "curate": "deciding",
}

_AFTER = {
    "extract": "still undecided",
    "score": "left after rules on text",
    "decontaminate": "left after comparing",
    "curate": "kept",
}
"""What is said of the records that a stage has told of as left."""

_BY_PARTS = ("extract", "annotate")
"""Stages that are one step, with a manifest for each part that is done: an interrupted one goes on in its middle."""

_DRAWN = 4
"""Times a second."""

_WIDE = 76
"""Columns from which rates and units are shown."""

_LEAST_DONE, _LEAST_SECONDS = 2, 1.0
"""Tasks and time from which something is known about the time left."""

_TRUST = 0.4
"""How much of a new estimate is believed, of what it differs from the earlier ones."""


@dataclass
class Estimate:
    """When work of tasks will be done, from those that are. It counts down between tasks, and does not jump with each."""

    began: float
    done: int = 0
    end: float | None = None

    def left(self, now: float, done: int, total: int) -> float | None:
        """Seconds left, when so many of the tasks that were there at the beginning are done; None while nobody knows."""
        passed = now - self.began
        if done != self.done and done >= _LEAST_DONE and passed >= _LEAST_SECONDS:
            end = now + passed * (total - done) / done
            self.end = end if self.end is None else self.end + _TRUST * (end - self.end)
            self.done = done
        if self.end is None or done >= total or self.end <= now:
            return None
        return self.end - now


@dataclass
class Row:
    """What is drawn of a stage. `state` is one of: to come, going on, done, failed."""

    stage: str
    state: str
    step: str | None = None
    done: int = 0
    total: int = 0
    unit: str = "tasks"
    seconds: float | None = None
    left: float | None = None
    rate: str = ""


@dataclass
class _Going:
    """The stage that goes on, since it was first looked at."""

    stage: str
    began: float
    before: int = 0
    parts: int = 0
    step: str | None = None
    counted: bool = False
    told: float = 0
    rate: str = ""
    estimate: Estimate = field(default_factory=lambda: Estimate(0.0))


_drawing: list[Live] = []


def put_away() -> None:
    """Ends what is being drawn, for a process that is about to end: a whole line, and the cursor back."""
    for live in _drawing:
        live.stop()


def _own_way(file: IO[str]) -> IO[str] | None:
    """A way of its own to the same terminal: while Spark starts, stderr goes elsewhere, and a drawing of which only a part
    arrives writes over what stands above it. None where the file is in memory."""
    try:
        return os.fdopen(
            os.dup(file.fileno()), "w", encoding=getattr(file, "encoding", None) or "utf-8", errors="replace"
        )
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return None


class Bar:
    """A line a stage, the ones to come too, and how many records are left. A context manager; `upto` is the last stage."""

    def __init__(self, console: Console, upto: str | None = None, clock: Callable[[], float] = time.monotonic):
        self._console = console
        self._upto = upto
        self._clock = clock
        self._before = observe.latest() if observe.current() is None else None  # one that has ended already
        self._meter: Meter | None = None
        self._going: _Going | None = None
        self._failed: Row | None = None
        self._last: Row | None = None
        self._live: Live | None = None
        self._file: IO[str] = sys.stderr
        self._own: IO[str] | None = None

    def __enter__(self) -> "Bar":
        if self._console.is_terminal:
            self._file, self._own = self._console.file, _own_way(self._console.file)
            self._console.file = self._own or self._file
            # Redirecting would take away a terminal from what else writes, such as Spark's start.
            self._live = Live(
                console=self._console,
                get_renderable=self.drawn,
                refresh_per_second=_DRAWN,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)
            _drawing.append(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._last is not None:
            self._last.state = "failed"
            self._failed = self._last
        if self._live is not None:
            self._live.stop()
            _drawing.remove(self._live)
            self._console.file = self._file
            if self._own is not None:
                self._own.close()

    def stage(self, name: str, run: Run) -> None:
        """A stage begins."""
        self.rows()

    def tasks(self, done: int, total: int) -> None:
        """So many of its tasks are done: the meter of the run knows."""

    def says(self, words: str) -> None:
        """A line above what is drawn."""
        self._console.print(words, highlight=False, soft_wrap=True, markup=False)

    def _look(self) -> Meter | None:
        """The meter of the run that goes on, or else of the last one: a short run is over before it was ever drawn."""
        meter = observe.latest()
        if meter is not self._before and meter is not self._meter:
            self._meter, self._going, self._last = meter, None, None
        return self._meter

    def rows(self) -> list[Row]:
        """What is to be drawn of each stage, in their order; [] before there is a run."""
        meter = self._look()
        if meter is None:
            return []
        return [self._row(meter, stage) for stage in stages_of(meter, self._upto)]

    def _row(self, meter: Meter, stage: str) -> Row:
        now = meter.now
        if self._failed is not None and self._failed.stage == stage:
            return self._failed
        facts = meter.run.info["stages"].get(stage, {})
        if meter.run.is_done(stage):
            metrics = facts.get("metrics", {})
            seconds = metrics.get("seconds") or facts.get("seconds")
            return Row(stage, "done", seconds=seconds, rate=_rate(stage, metrics, seconds or 0))
        if now.stage != stage:
            return self._last if self._last is not None and self._last.stage == stage else Row(stage, "to come")
        if self._going is None or self._going.stage != stage:
            self._going = self._begun(meter, stage)
        self._last = self._going_on(meter, self._going)
        return self._last

    def _begun(self, meter: Meter, stage: str) -> _Going:
        going = _Going(stage, self._clock())
        if stage in _BY_PARTS:
            going.parts = len(meter.run.tasks)
            # Told of tasks that end after this is asked for; those before are in neither count twice.
            going.before = max(0, len(meter.run.done(stage)) - int(_sums(meter, stage)["items"]))
        return going

    def _going_on(self, meter: Meter, going: _Going) -> Row:
        time_ = self._clock()
        sums, stage, step = _sums(meter, going.stage), going.stage, meter.now.step
        if step != going.step or going.estimate.began == 0.0:
            going.step, going.estimate = step, Estimate(time_)
        seconds = time_ - going.began
        if sums["tasks"] != going.told:
            # Until the next one ends it stands: it would only fall meanwhile.
            going.told, going.rate = sums["tasks"], _rate(stage, sums, seconds)
        row = Row(stage, "going on", step if step != stage else None, seconds=seconds, rate=going.rate)
        if going.parts:
            done, total = min(int(sums["items"]), going.parts - going.before), going.parts - going.before
            row.done, row.total, row.unit = going.before + done, going.parts, "parts"
        else:
            done, total = meter.now.done, meter.now.total
            going.counted = going.counted or total > 0
            # Without Spark nobody knows how many there will be.
            row.done, row.total = (done, total) if going.counted else (int(sums["tasks"]), 0)
        row.left = going.estimate.left(time_, done, total)
        return row

    # Drawing.

    def drawn(self) -> RenderableType:
        """All of it, as wide as the terminal."""
        rows, width = self.rows(), self._console.width
        if not rows or self._meter is None:
            return Spinner("line", "starting") if self._failed is None else Text("")
        table = Table.grid(padding=(0, 1), expand=False)
        table.add_column(no_wrap=True, width=12, overflow="ellipsis")
        table.add_column(width=max(3, min(30, width - (63 if width >= _WIDE else 37))))
        # As wide as they become, so that nothing moves while numbers grow.
        for least in (13, 5, 10, 13) if width >= _WIDE else (7, 10):
            table.add_column(no_wrap=True, justify="right", overflow="ellipsis", min_width=least)
        for row in rows:
            table.add_row(*_cells(row, width))
        step = next((f"{_DOING.get(row.stage, row.stage)}: {row.step}" for row in rows if row.step), "")
        if self._going is None and self._failed is None and observe.current() is not None:
            step = "starting Spark" if any(row.state == "to come" for row in rows) else ""
        lines = [Text(line, overflow="fold") for line in (step, survivors(self._meter)) if line]
        return Group(table, *lines)


def stages_of(meter: Meter, upto: str | None = None) -> list[str]:
    """The stages that a run does, up to that one: those that its recipe asks for, and that are not taken from another."""
    stages = meter.stages[: meter.stages.index(upto) + 1] if upto in meter.stages else meter.stages
    return [stage for stage in stages if _asked(stage, meter.run.recipe)]


def _asked(stage: str, recipe: Recipe) -> bool:
    if stage == "score":
        return bool(recipe.score.scores)
    if stage == "deduplicate":
        return bool(recipe.dedup.compares or recipe.dedup.cuts)
    return bool(recipe.decontaminate.looks) if stage == "decontaminate" else True


def _sums(meter: Meter, stage: str) -> dict[str, float]:
    """What the tasks of a stage have told this process so far; those that earlier processes did are not in it."""
    sums = dict.fromkeys(("tasks", "items", "records", "left", "rows_read", "bytes_read"), 0.0)
    for numbers in list(meter.steps.get(stage, {}).values()):
        for name in sums:
            sums[name] += numbers.sums[name]
    return sums


def _rate(stage: str, facts: dict[str, Any], seconds: float) -> str:
    """Records, or bytes of tables, a second."""
    if seconds <= 0:
        return ""
    if stage == "extract":
        return f"{facts['records'] / seconds:,.0f} records/s" if facts.get("records") else ""
    return f"{facts['bytes_read'] / seconds / 1e6:,.1f} MB/s" if facts.get("bytes_read") else ""


def survivors(meter: Meter) -> str:
    """How many records are left of those read, as far as it is known: `948 of 1,601 records left`."""
    known = meter.known
    if "kept" in known and known.get("read"):
        said = f"{known['kept']:,.0f} of {known['read']:,.0f} records kept"
    else:
        read, left, after = _left(meter)
        if not read:
            return ""
        said = f"{left:,.0f} of {read:,.0f} records {_AFTER[after]}"
    aside = known.get("quarantined")
    return f"{said}, {aside:,.0f} put aside" if aside else said


def _left(meter: Meter) -> tuple[float, float, str]:
    """Records read, those left by the last stage that knows, and its name."""
    read, left, after = 0.0, 0.0, "extract"
    for stage in meter.stages:
        metrics = meter.run.info["stages"].get(stage, {}).get("metrics", {})
        going = _sums(meter, stage) if meter.now.stage == stage else {}
        if stage == "extract":
            read = metrics.get("records", 0) + going.get("records", 0)
            left = metrics.get("left", 0) + going.get("left", 0)
        elif stage in _AFTER and meter.run.is_done(stage) and metrics.get("left"):
            # Of a stage that goes on only some of the records were looked at.
            left, after = metrics["left"], stage
    return read, left, after


def _cells(row: Row, width: int) -> Sequence[RenderableType]:
    """The cells of a line: name, bar, tasks, time, time left or rate."""
    name = _DOING.get(row.stage, row.stage)
    style = {"to come": "dim", "failed": "red", "done": ""}.get(row.state, "bold")
    going = row.state in ("going on", "failed")
    if row.state == "going on" and not row.total:
        bar = ProgressBar(total=None, pulse=True)
    else:
        total = max(1, row.total)
        bar = ProgressBar(total=total, completed=total if row.state == "done" else min(row.done, total) if going else 0)
    counted = ""
    if going and (row.total or row.done):
        counted = f"{row.done:,}/{row.total:,}" if row.total else f"{row.done:,}"
        counted += f" {row.unit if row.total or row.done > 1 else 'task'}" if width >= _WIDE else ""
    mark = {"to come": "", "done": "done", "failed": "failed"}.get(row.state, counted)
    if row.state == "failed" and counted:
        mark = f"{counted}" if width < _WIDE else f"failed {counted}"
    left = "" if row.left is None or row.state != "going on" else f"{_roughly(row.left)} left"
    passed = "" if row.seconds is None else _clock_words(row.seconds)
    cells: list[RenderableType] = [Text(name, style=style), bar, Text(mark, style=style)]
    if width >= _WIDE:
        cells += [Text(passed), Text(left), Text(row.rate, style="dim")]
    else:
        # One time is all that there is room for: the one that is left, where it is known.
        cells.append(Text(left or passed))
    return cells


def _clock_words(seconds: float) -> str:
    """0:07, 12:03 or 3:05:00"""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _roughly(seconds: float) -> str:
    """0:07, 12:03 or 3.1 h"""
    return _clock_words(seconds) if seconds < 3600 else f"{seconds / 3600:,.1f} h"
