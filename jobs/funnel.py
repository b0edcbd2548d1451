"""The funnel of a run: how many records each kind of reason took, in the order in which they are asked."""

from collections import Counter
from dataclasses import dataclass

from jobs.curate import STAGE, outcome_counts
from jobs.runs import Run
from pipeline.curation import (
    LEAKED,
    NOTHING_BUT_LEAKS,
    NOTHING_LEFT,
    NOTHING_MILD,
    SAME_RECORD,
    TOO_MANY_PIECES,
    TOO_PERSONAL,
)
from pipeline.rules import QUALITY_RULE, score_bounds, text_bounds

_BEFORE_RULES = (
    "source",
    "gates.url",
    "gates.http.status",
    "gates.http.media_type",
    "gates.size",
    "gates.http.content",
    "gates.redirect",
    "gates.disambiguation",
    "gates.code.folders",
    "gates.code.files",
    "gates.code.generated",
    "gates.content",
    "extraction",
    "annotate",
    "gates.language",
    "gates.script",
)

_AFTER_RULES = (
    "score.quarantined",
    QUALITY_RULE,
    NOTHING_MILD,
    NOTHING_LEFT,
    "dedup.url",
    "dedup.exact",
    "dedup.minhash",
    LEAKED,
    TOO_MANY_PIECES,
    NOTHING_BUT_LEAKS,
    TOO_PERSONAL,
    SAME_RECORD,
)


@dataclass(frozen=True)
class Step:
    """One reason: how many records it decided, how many broke it at all, how many broke only it, and what is left."""

    name: str
    decided: int
    hits: int
    sole: int
    left: int


def funnel(run: Run) -> list[Step]:
    """Steps in the order of deciding; those that nothing broke are left out. `left` of the last is what was kept."""
    reasons: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    sole: Counter[str] = Counter()
    for manifest in run.manifests(STAGE):
        reasons.update(manifest["reasons"])
        hits.update(manifest["hits"])
        sole.update(manifest["sole_hits"])
    rules = [bound.rule for bound in (*text_bounds(run.recipe), *score_bounds(run.recipe))]
    order = [*_BEFORE_RULES, *rules, *_AFTER_RULES]

    def place(name: str) -> tuple[int, str]:
        at = (i for i, known in enumerate(order) if name == known or name.startswith(known + "."))
        return (next(at, len(order)), name)

    left = sum(outcome_counts(run).values())
    steps = []
    for name in sorted(set(reasons) | set(hits), key=place):
        left -= reasons[name]
        steps.append(Step(name, reasons[name], max(hits[name], reasons[name]), sole[name], left))
    return steps
