"""`crawlmill report`, and the report that runs write when they end."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs import log
from jobs.store import RunFolder
from pipeline.errors import CrawlmillError, UsageError

out = Console()

ReportOption = Annotated[
    bool,
    typer.Option("--report/--no-report", envvar="CRAWLMILL_REPORT", help="Write report.html when the run ends."),
]


def report(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="A run: finished, failed, decided again, or going on.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="File to write, instead of report.html in the run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed shows other examples.", min=0)] = 0,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what the report shows as JSON, too.")
    ] = None,
) -> None:
    """Make the report of a run again: one HTML file that needs nothing else, to look at in any browser."""
    from jobs.report.facts import as_json as plain
    from jobs.report.facts.gather import gather
    from jobs.report.page import NAME, page
    from jobs.runs import existing_run

    run = existing_run(folder)
    facts = gather(run, seed=seed)
    made = page(facts).encode()
    if as_json is not None:
        _save(as_json, json.dumps(plain(facts), indent=1, ensure_ascii=False).encode() + b"\n")
    if output is None:
        run.folder.write_bytes(NAME, made)
    else:
        _save(output, made)
    say(out, str(output) if output is not None else f"{run.folder.path}/{NAME}")


def wanted() -> bool:
    """Whether the environment lets runs write reports: CRAWLMILL_REPORT=0 does not."""
    return os.environ.get("CRAWLMILL_REPORT", "1").lower() not in ("0", "false", "no", "off")


def _save(path: Path, body: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def say(console: Console, place: str) -> None:
    """Where a report is, on a line of its own."""
    console.print(f"report: {place}", highlight=False, markup=False, soft_wrap=True)


def write(folder: str, err: Console) -> str | None:
    """Writes the report of the run in a folder, and returns where it is; None where there is no run, or it could not be
    made: a report that fails is a warning, and never the end of a run.
    """
    from jobs.runs import existing_run

    try:
        run = existing_run(folder)
    except Exception:  # no folder of ours, or none that can be read: what ended the run says it better
        return None
    try:
        from jobs.report import page

        return page.write(run)
    except Exception as error:
        # What failed is the picture of a run, not the run.
        words = str(error) if isinstance(error, CrawlmillError) else f"{type(error).__name__}: {error}"
        why = log.masked(" ".join(words.split()))
        log.event("warning", logging.WARNING, reason=f"no report: {why}")
        err.print(f"warning: no report: {why}", highlight=False, markup=False, soft_wrap=True)
        return None


class Reported:
    """Where the report is, once the block of `reporting` has ended."""

    place: str | None = None


@contextmanager
def reporting(folder: str, wanted: bool, err: Console) -> Iterator[Reported]:
    """Writes the report when the block ends, also by an error, which goes on, if it came to run at all: wrong arguments, a
    folder of another run, or one that another process is at leave what there is.
    """
    reported = Reported()
    before = _noted(folder) if wanted else None
    try:
        yield reported
    except Exception as error:
        if wanted and not isinstance(error, UsageError) and _noted(folder) != before:
            reported.place = write(folder, err)
            if reported.place is not None:
                say(err, reported.place)
        raise
    if wanted:
        reported.place = write(folder, err)


def _noted(folder: str) -> bytes | None:
    """What a run has noted of itself; a store that does not answer has told, or will tell, the run."""
    try:
        return RunFolder(folder).read_bytes("run.json")
    except Exception:
        return None
