"""The funnel of a run: how many records each kind of reason took, in the order in which they are asked."""

from collections import Counter
from dataclasses import dataclass

from jobs.curate import STAGE, outcome_counts
from jobs.runs import Run


@dataclass(frozen=True)
class Step:
    """One reason: how many records it decided, how many broke it at all, how many broke only it, and what is left."""

    name: str
    decided: int
    hits: int
    sole: int
    left: int


def funnel(run: Run) -> list[Step]:
    """Steps in the order of deciding; those that took nothing are left out. `left` of the last step is what was kept."""
    reasons: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    sole: Counter[str] = Counter()
    for manifest in run.manifests(STAGE):
        reasons.update(_families(manifest["reasons"]))
        hits.update(_families(manifest["hits"]))
        sole.update(_families(manifest["sole_hits"]))
    left = sum(outcome_counts(run).values())
    steps = []
    for name in sorted(set(reasons) | set(hits), key=_rank(run)):
        left -= reasons[name]
        steps.append(Step(name, reasons[name], max(hits[name], reasons[name]), sole[name], left))
    return steps


def _families(counts: dict[str, int]) -> Counter[str]:
    """`gates.url.domain` and its like counted as they are: rules are few enough to be shown one by one."""
    return Counter(counts)


def _rank(run: Run):  # type: ignore[no-untyped-def]
    order = ["source", "gates.url", "gates.http", "gates.size", "extraction", "gates.http.content", "gates.language"]
    order += ["gates.script", *run.recipe.rules, "same_record"]

    def key(name: str) -> tuple[int, str]:
        places = [i for i, prefix in enumerate(order) if name == prefix or name.startswith(prefix + ".")]
        return (max(places, default=len(order)), name)

    return key
