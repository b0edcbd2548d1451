"""What a run came to, in figures that a plan foretells, and the two side by side."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from jobs import curate, extract
from jobs.plan_sample import folder_sizes
from jobs.runs import Run
from pipeline.errors import UsageError
from pipeline.planning import Interval

GROUPS = {
    "records": "records",
    "text": "text",
    "bytes": "bytes of the run folder",
    "shuffle": "bytes sent between tasks",
    "memory": "most bytes that a task holds",
    "cpu": "processor seconds",
    "wall": "wall seconds",
}
"""Groups of figures; the name of a figure is `group/what`."""

TOLERANCE = 0.20
"""How far a plan may be off the run: what `--check` marks."""


def figures(run: Run) -> dict[str, float]:
    """What a finished run came to, by name. Raises UsageError where it is not finished."""
    if not run.is_done(curate.STAGE):
        raise UsageError(
            f"{run.folder.path} is not finished; run the same `crawlmill run` command again to complete it"
        )
    found: dict[str, float] = {}
    reasons: Counter[str] = Counter()
    words = text = 0
    for manifest in run.manifests(curate.STAGE):
        reasons.update(manifest["reasons"])
        words += manifest["words"]
        text += manifest["bytes"]
    outcomes = curate.outcome_counts(run)
    extracted = run.manifests(extract.STAGE)
    found["records/read"] = sum(outcomes.values())
    found["records/kept"] = outcomes["kept"]
    found |= {f"records/{name}": count for name, count in sorted(reasons.items())}
    found["text/extracted bytes"] = sum(m["text_bytes"] for m in extracted)
    found["text/curated bytes"] = text
    found["text/curated words"] = words
    sizes, files = folder_sizes(run.folder)
    found |= {f"bytes/{name}": size for name, size in sorted(sizes.items()) if not name.startswith(".")}
    found["bytes/all"] = sum(sizes.values())
    found["files/all"] = files
    for stage, facts in run.info["stages"].items():
        found |= _costs(stage, facts, run.info["host"]["cores"])
    found["cpu/all"] = sum(value for name, value in found.items() if name.startswith("cpu/"))
    found["wall/all"] = sum(value for name, value in found.items() if name.startswith("wall/"))
    return found


def _costs(stage: str, facts: Mapping[str, Any], cores: int) -> dict[str, float]:
    """What a stage cost. A run of an earlier version has measured wall time only."""
    seconds = facts.get("seconds", 0.0)
    metrics = facts.get("metrics")
    if seconds < 0.05 and not (metrics and metrics.get("tasks")):
        return {}
    if not metrics:
        return {f"cpu/{stage}": seconds * cores, f"wall/{stage}": seconds}
    found = {
        f"cpu/{stage}": metrics["cpu_seconds"],
        f"wall/{stage}": seconds,
        f"memory/{stage}": metrics["peak_worker_bytes"] + metrics["peak_child_bytes"],
    }
    for name, step in metrics.get("steps", {}).items():
        if step["shuffle_written_bytes"]:
            found[f"shuffle/{stage}: {name}"] = step["shuffle_written_bytes"]
    if metrics["shuffle_written_bytes"]:
        found[f"shuffle/{stage}"] = metrics["shuffle_written_bytes"]
    return found


class Compared(NamedTuple):
    """A figure of a plan beside what the run came to; `ratio` is plan by run."""

    name: str
    planned: Interval
    actual: float
    ratio: float | None
    covered: bool


def check(plan: Mapping[str, Any], run: Run) -> list[Compared]:
    """Every figure of the plan that the run has too, in the plan's order.

    Raises UsageError where the run is of another recipe or other inputs, or is not finished.
    """
    digest = run.recipe.digest
    if plan["recipe_digest"] != digest:
        raise UsageError(
            f"the plan is for recipe {plan['recipe']!r} ({plan['recipe_digest'][:8]}), the run is of "
            f"{run.recipe.name!r} ({digest[:8]}); plan again with the run's recipe"
        )
    read = sum(file["size"] or 0 for file in run.info["inputs"])
    if read != plan["inputs"]["bytes"]:
        raise UsageError(
            f"the plan is for {plan['inputs']['bytes']:,} bytes of inputs, the run read {read:,}; plan again"
        )
    actual = figures(run)
    rows = []
    for name, facts in plan["figures"].items():
        if name in actual or name.startswith("records/"):
            interval = Interval(facts["value"], facts["low"], facts["high"])
            came = actual.get(name, 0.0)
            ratio = interval.value / came if came else None
            rows.append(Compared(name, interval, came, ratio, interval.low <= came <= interval.high))
    return rows


def shown(name: str, value: float) -> str:
    """A figure in units that are read easily."""
    group = name.split("/", 1)[0]
    if group in ("bytes", "shuffle", "memory") or name.endswith(" bytes"):
        for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value:.0f} B"
    if group in ("cpu", "wall"):
        return f"{value / 3600:,.3g} h" if value >= 36_000 else f"{value:,.1f} s"
    if value >= 1e9:
        return f"{value / 1e9:.3g} G"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
