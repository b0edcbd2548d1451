"""`crawlmill metrics`: what a run took, stage by stage, while it goes on and afterwards."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs import log
from jobs.terminal import escape, print_json
from pipeline.errors import UsageError

out = Console()

_COLUMNS = (
    ("wall", "seconds"),
    ("task time", "task_seconds"),
    ("CPU", "cpu_seconds"),
    ("tasks", "tasks"),
    ("failed", "failed_tasks"),
    ("median", "task_seconds_median"),
    ("slowest", "task_seconds_max"),
    ("skew", "skew"),
    ("read", "bytes_read"),
    ("written", "bytes_written"),
    ("shuffled", "shuffle_written_bytes"),
    ("spilled", "spilled_disk_bytes"),
    ("memory", "peak_worker_bytes"),
    ("child", "peak_child_bytes"),
)

_WIDE = 140
"""Characters that all columns need."""

_NARROW = ("seconds", "cpu_seconds", "tasks", "task_seconds_max", "skew", "shuffle_written_bytes", "peak_worker_bytes")


@contextmanager
def logging_to(target: str | None, format_: str | None) -> Iterator[None]:
    """Logs to a file, or - for stderr, until the end of the block; where nothing is said, to where the environment says."""
    before = log.settings()
    log.start(log.asked(target, format_) or before)
    try:
        yield
    finally:
        log.start(before)


@contextmanager
def served(told: Console, port: int | None, host: str) -> Iterator[None]:
    """Serves metrics until the end of the block if there is a port, and tells where."""
    if port is None:
        yield
        return
    from jobs.metrics_endpoint import serving

    with serving(port, host) as address:
        told.print(f"metrics: {address}", highlight=False, soft_wrap=True)
        yield


def metrics(
    folder: Annotated[str, typer.Argument(help="A run: finished, failed or going on.")],
    steps: Annotated[bool, typer.Option("--steps", help="Show the steps of each stage, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say what a run took: time, processors, memory, bytes, shuffles and skew of each stage.

    A wide terminal shows more columns, --json every number; docs/monitoring.md says what each means.
    """
    from jobs.observe import progress_of
    from jobs.runs import existing_run

    run = existing_run(folder)
    now, stages = progress_of(run)
    if as_json:
        facts = {"attempts": run.info.get("attempts", []), "now": now, "stages": stages}
        print_json(out, facts)
        return
    if not stages:
        raise UsageError(f"{folder} has measured nothing yet; it was made by an earlier version, or has just begun")
    names = [name for _, name in _COLUMNS if name in _NARROW or out.width >= _WIDE]
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", overflow="fold")
    for title, name in _COLUMNS:
        if name in names:
            table.add_column(title, justify="right", no_wrap=True)
    for stage, facts in stages.items():
        table.add_row(escape(stage), *(_shown(name, facts.get(name)) for name in names))
        if steps and len(facts["steps"]) > 1:
            for step, numbers in facts["steps"].items():
                cells = (_shown(name, numbers.get(name)) for name in names)
                table.add_row(f"  {escape(step)}", *cells, style="dim")
    out.print(table)
    for line in _said(run.info.get("attempts", []), now, stages):
        out.print(escape(line), highlight=False, soft_wrap=True)


def _shown(name: str, value: Any) -> str:
    from jobs.measures import METRICS

    if not value:
        return ""
    unit, _ = METRICS[name]
    if unit == "bytes":
        return bytes_in_words(value)
    if unit == "s":
        return seconds_in_words(value)
    return f"{value:.1f}" if unit == "ratio" else f"{value:,}"


def bytes_in_words(n: float) -> str:
    """1.2 GB"""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.5:
            return f"{n:.0f} {unit}" if n >= 100 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"


def seconds_in_words(n: float) -> str:
    """4.2 s, 12 min or 3.1 h"""
    if n < 99.5:
        return f"{n:.2g} s" if n < 1 else f"{n:.1f} s"
    return f"{n / 60:.0f} min" if n < 5940 else f"{n / 3600:,.1f} h"


def _said(attempts: list[dict[str, Any]], now: dict[str, Any] | None, stages: dict[str, Any]) -> list[str]:
    """What numbers do not say: where the run stands, how often it was begun, which part was slowest."""
    lines = []
    if now and now.get("stage"):
        ago = seconds_in_words(max(0.0, time.time() - now["moved"]))
        lines.append(
            f"at {now['stage']}{': ' + now['step'] if now.get('step') and now['step'] != now['stage'] else ''}, "
            f"{now['done']:,} of {now['total']:,} tasks done, the last {ago} ago"
        )
    last = attempts[-1] if attempts else None
    if last and last["outcome"] == "failed":
        lines.append(f"failed: {last.get('error', '')}")
    if len(attempts) > 1:
        lines.append(f"begun {len(attempts)} times: " + ", ".join(a["outcome"] or "going on" for a in attempts))
    worst = max(stages.items(), key=lambda s: s[1].get("slowest_seconds") or 0)
    if worst[1].get("slowest"):
        lines.append(
            f"slowest part: {worst[1]['slowest']} ({worst[0]}, {seconds_in_words(worst[1]['slowest_seconds'])})"
        )
    return lines
