"""The funnel of the report: what each group of reasons took, in records, bytes and tokens."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from jobs.funnel import funnel
from jobs.report.facts import Funnel, FunnelGroup, FunnelStep
from jobs.report.facts.rows import Rows, numbers
from jobs.runs import Run
from pipeline.recipe import Recipe
from pipeline.rules import score_bounds, text_bounds

GROUPS = (
    "archive",
    "extraction",
    "language",
    "rules",
    "scores",
    "deduplication",
    "decontamination",
    "personal data",
    "other",
)

_PREFIXES = {
    "source": "archive",
    "gates.language": "language",
    "gates.script": "language",
    "gates": "archive",
    "extraction": "extraction",
    "annotate": "extraction",
    "score": "scores",
    "dedup": "deduplication",
    "decontaminate": "decontamination",
    "pii": "personal data",
}


class Grouping:
    """The group of the funnel that a reason belongs to, under a recipe."""

    def __init__(self, recipe: Recipe):
        self._bounds = {b.rule: "rules" for b in text_bounds(recipe)} | {b.rule: "scores" for b in score_bounds(recipe)}

    def __call__(self, reason: str) -> str:
        """One of GROUPS."""
        if reason in self._bounds:
            return self._bounds[reason]
        found = (g for prefix, g in _PREFIXES.items() if reason == prefix or reason.startswith(prefix + "."))
        return next(found, "other")


def text_bytes_per_char(run: Run, rows: Rows | None) -> float:
    """UTF-8 bytes of a character of extracted text: what extraction counted, by what the rows hold. 1 where not known."""
    if rows is None:
        return 1.0
    chars = float(np.nansum(rows.n_chars)) / rows.share if rows.share else 0
    known = sum(m.get("text_bytes") or 0 for m in run.manifests("extract"))
    return known / chars if chars and known else 1.0


def decided_funnel(run: Run, rows: Rows | None, per_char: float, per_token: float, how: str) -> Funnel:
    """Of a run with a ledger. Records are exact; bytes by reason come from the rows."""
    steps = funnel(run)
    read = steps[0].left + steps[0].decided if steps else sum(_outcomes(run).values())
    payload, text = _by_reason(rows)
    left_payload, left_text = sum(payload.values()), sum(text.values()) * per_char
    start = FunnelStep("read", 0, None, None, read, _whole(left_payload, rows))
    groups: dict[str, list[FunnelStep]] = {}
    group_of = Grouping(run.recipe)
    for step in steps:
        name = group_of(step.name)
        left_payload -= payload.get(step.name, 0)
        left_text -= text.get(step.name, 0) * per_char
        shown = FunnelStep(step.name, step.decided, step.hits, step.sole, step.left, _whole(left_payload, rows))
        if name != "archive":
            shown = _with_text(shown, left_text, per_token, rows)
        groups.setdefault(name, []).append(shown)
    if "extraction" not in groups:  # text begins there, even if nothing is lost
        before = groups.get("archive", [start])[-1]
        nothing = replace(before, name="extraction", decided=0, hits=None, sole=None)
        groups["extraction"] = []
        wholes = {"extraction": _with_text(nothing, sum(text.values()) * per_char, per_token, rows)}
    else:
        wholes = {}
    made = [FunnelGroup(n, wholes.get(n) or _sum(n, groups[n]), groups[n]) for n in GROUPS if n in groups]
    manifests = run.manifests("curate")
    n_bytes = sum(m.get("bytes") or 0 for m in manifests)
    kept = sum(m["outcomes"].get("kept", 0) for m in manifests)
    end = FunnelStep("curated", 0, None, None, kept, None, n_bytes, round(n_bytes / per_token))
    return Funnel(start, made, end, True, rows is None or rows.estimated, how)


def undecided_funnel(run: Run, rows: Rows | None, per_token: float, how: str) -> Funnel | None:
    """Of a run that was not decided: what was turned away before there was a text, as far as parts were read."""
    manifests = [m for m in run.manifests("extract") if "records" in m.get("tables", {})]
    if not manifests:
        return None
    read = sum(m["tables"]["records"]["rows"] for m in manifests)
    left = read
    n_text = sum(m["tables"].get("documents", {}).get("rows", 0) for m in manifests)
    start = FunnelStep("read", 0, None, None, read)
    if rows is None:
        return Funnel(start, [], None, False, True, how)
    groups: dict[str, list[FunnelStep]] = {}
    group_of = Grouping(run.recipe)
    names = sorted(rows.reasons.names, key=lambda n: (GROUPS.index(group_of(n)), n))
    for name in names:
        decided = rows.scaled(len(rows.reasons.by(name)))
        left = max(left - decided, n_text)
        step = FunnelStep(name, decided, rows.scaled(len(rows.hits.by(name))), None, left)
        groups.setdefault(group_of(name), []).append(step)
    text = sum(m.get("text_bytes") or 0 for m in manifests)
    made = [FunnelGroup(n, _sum(n, groups[n]), groups[n]) for n in GROUPS if n in groups and n != "extraction"]
    whole = FunnelStep(
        "extraction",
        sum(s.decided for s in groups.get("extraction", ())),
        None,
        None,
        n_text,
        None,
        text,
        round(text / per_token),
    )
    made.append(FunnelGroup("extraction", whole, groups.get("extraction", [])))
    return Funnel(start, made, None, False, rows.estimated, how)


def _outcomes(run: Run) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for manifest in run.manifests("curate"):
        for name, n in manifest["outcomes"].items():
            total[name] += n
    return total


def _by_reason(rows: Rows | None) -> tuple[dict[str, float], dict[str, float]]:
    """Payload bytes and characters of text by reason ("" is none), scaled up to the run."""
    if rows is None:
        return {}, {}
    payload = np.nan_to_num(numbers(rows.column("n_payload_bytes"))).astype(np.float64)
    chars = np.nan_to_num(rows.n_chars).astype(np.float64)
    number = np.zeros(rows.n, np.int64)
    number[rows.reasons.rows] = rows.reasons.codes + 1
    names = ["", *rows.reasons.names]
    sums = [np.bincount(number, values, len(names)) / (rows.share or 1) for values in (payload, chars)]
    return dict(zip(names, sums[0].tolist(), strict=True)), dict(zip(names, sums[1].tolist(), strict=True))


def _whole(value: float, rows: Rows | None) -> int | None:
    return None if rows is None else max(0, round(value))


def _with_text(step: FunnelStep, n_bytes: float, per_token: float, rows: Rows | None) -> FunnelStep:
    if rows is None:
        return step
    n_bytes = max(0.0, n_bytes)
    return replace(step, text_bytes_left=round(n_bytes), tokens_left=round(n_bytes / per_token))


def _sum(name: str, steps: Iterable[FunnelStep]) -> FunnelStep:
    """A group as one step: what is left is what its last step left."""
    steps = list(steps)
    return replace(steps[-1], name=name, decided=sum(s.decided for s in steps), hits=None, sole=None)
