"""What each stage of a run took, what that costs, and what a whole crawl would cost by it."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from jobs.report.facts.costs import Costs, Projected, Projection, Stage, Step
from jobs.runs import Run

CRAWL = Path(__file__).with_name("crawl.yaml")

_HOW = (
    "Processor time of this run by the ratio of bytes of inputs: rough. What starting a stage costs is scaled up with the "
    "data, the pages of a crawl are larger and more often in other languages than most samples, and duplicates grow faster "
    "than data. `crawlmill plan` tells these apart and gives intervals. Token folders and training are not in it."
)


@cache
def crawl() -> dict[str, Any]:
    """What a whole crawl is taken to be, prices and bytes per token: numbers with their sources."""
    return yaml.safe_load(CRAWL.read_text(encoding="utf-8"))


def stages(
    run: Run,
    names: Sequence[str],
    now: Mapping[str, Any] | None,
    metrics: Mapping[str, Mapping[str, Any]],
    outcome: str,
    records: int | None,
) -> list[Stage]:
    """Every stage, in order. `metrics` by stage and `now`, where the run stands, are those of `observe.progress_of`;
    `outcome` is the run's."""
    n_bytes = sum(file.get("size") or 0 for file in run.info["inputs"]) or None
    measured = "measures" in run.info
    shown = [name for name in names if not (measured and name in ("extract", "annotate"))]
    found = []
    for name in shown:
        facts = run.info["stages"].get(name, {})
        numbers = metrics.get(name, {})
        goes_on = now is not None and now.get("stage") == name
        seconds = numbers.get("seconds", facts.get("seconds"))
        cpu = numbers.get("cpu_seconds")
        done = bool(facts.get("done"))
        if done:
            state = "done"
        elif goes_on and outcome in ("going on", "killed"):
            state = outcome
        elif numbers:
            state = outcome if outcome in ("failed", "killed", "going on") else "not done"
        else:
            state = "not begun"
        peaks = [numbers.get(p) or 0 for p in ("peak_worker_bytes", "peak_child_bytes")]
        found.append(
            Stage(
                name,
                state,
                seconds,
                cpu,
                _rate(records if done else None, seconds),
                _rate(records if done else None, cpu),
                _rate(n_bytes if done else None, seconds),
                _rate(n_bytes if done else None, cpu),
                max(peaks) or None,
                numbers.get("tasks"),
                numbers.get("failed_tasks"),
                numbers.get("skew"),
                numbers.get("slowest"),
                numbers.get("bytes_read"),
                numbers.get("bytes_written"),
                numbers.get("shuffle_written_bytes"),
                None if cpu is None else cpu / 3600 * crawl()["price"]["core_hour"],
                (int(now.get("done") or 0), int(now.get("total") or 0)) if goes_on and now is not None else None,
                [_step(step, told) for step, told in (numbers.get("steps") or {}).items()],
            )
        )
    return found


def _step(name: str, told: Mapping[str, Any]) -> Step:
    keys = ("seconds", "cpu_seconds", "tasks", "skew", "bytes_written", "shuffle_written_bytes")
    return Step(name, *(told.get(key) for key in keys))


def _rate(n: float | None, seconds: float | None) -> float | None:
    return n / seconds if n and seconds else None


def costs(run: Run, done: Sequence[Stage], records: int | None, kept: int | None, curated_bytes: int | None) -> Costs:
    """What the stages cost; the projection only of a run that was done and measured, from inputs of a known size."""
    price = crawl()["price"]
    known = [stage for stage in done if stage.cpu_seconds is not None]
    hours = sum(stage.cpu_seconds or 0 for stage in known) / 3600
    seconds = [stage.seconds for stage in done if stage.seconds is not None]
    return Costs(
        price["core_hour"],
        price["currency"],
        price["source"],
        hours * price["core_hour"] if known else None,
        hours if known else None,
        sum(seconds) if seconds else None,
        _projection(run, done, records, kept, curated_bytes),
    )


def _projection(
    run: Run, done: Sequence[Stage], records: int | None, kept: int | None, curated_bytes: int | None
) -> Projection | None:
    n_bytes = sum(file.get("size") or 0 for file in run.info["inputs"])
    whole = all(stage.state == "done" and stage.cpu_seconds is not None for stage in done)
    # Bytes of a crawl's archives say nothing of other sources; a run that decided again did not do all of the work.
    if not whole or not done or not n_bytes or run.recipe.inputs.format != "archive" or "measures" in run.info:
        return None
    told = crawl()
    ratio = told["bytes"] / n_bytes
    price = told["price"]["core_hour"]
    rows = [
        Projected(stage.name, (stage.cpu_seconds or 0) / 3600 * ratio, (stage.cpu_seconds or 0) / 3600 * ratio * price)
        for stage in done
    ]
    hours = sum(row.core_hours for row in rows)
    pages = told["pages"] * kept / records if kept is not None and records else None
    return Projection(
        told["name"],
        told["bytes"],
        told["files"],
        told["pages"],
        ratio,
        rows,
        hours,
        hours * price,
        told["cores"],
        hours / told["cores"],
        pages,
        None if pages is None or curated_bytes is None or not kept else pages * curated_bytes / kept,
        _HOW,
        list(told["sources"]),
    )
