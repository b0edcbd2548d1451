"""Progress of a run in a terminal: stages, tasks, time left and the funnel. Quiet where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.runs import Run

_DOING = {
    "extract": "extracting",
    "annotate": "measuring",
    "score": "scoring",
    "deduplicate": "comparing",
    "decontaminate": "looking for benchmarks",
    "curate": "deciding and writing",
}


class Bar:
    """A bar a stage, with tasks done, time passed and time left. A context manager."""

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tasks"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._current = self._bars.add_task("starting Spark", total=None)
        self._began = time.monotonic()

    def __enter__(self) -> "Bar":
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        self._bars.__exit__(kind, error, trace)

    def _finish(self) -> None:
        task = self._bars.tasks[self._current]
        total = task.total or 1
        self._bars.update(self._current, total=total, completed=total)

    def stage(self, name: str, run: Run) -> None:
        """Opens the bar of a stage."""
        self._finish()
        total = len(run.tasks) - (len(run.done(name)) if name in ("extract", "annotate") else 0)
        self._current = self._bars.add_task(_DOING.get(name, name), total=max(1, total))

    def says(self, words: str) -> None:
        """A line above the bars."""
        self._bars.console.print(words, highlight=False, soft_wrap=True)

    def tasks(self, done: int, total: int) -> None:
        """Moves the bar of the current stage."""
        self._bars.update(self._current, completed=done, total=max(1, total))
