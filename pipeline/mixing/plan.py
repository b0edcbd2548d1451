"""The plan of a mix: how many tokens of what each phase takes, exact to the unit.

A stratum is an endless stream, its documents in the order of a permutation again and again, and phases take consecutive
intervals of it. So a phase first gets what none before it had, and epochs are plain to see: the end of the last interval
over the tokens of the stratum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import UsageError
from pipeline.mixing.options import HELD_OUT, Mix, Phase
from pipeline.mixing.strata import Strata
from pipeline.yaml_files import nearest


class Count(NamedTuple):
    """Documents and tokens of a stratum."""

    documents: int
    tokens: int


Counts = Mapping[str, Sequence[Count]]
"""By source, for each of its strata."""


@dataclass(frozen=True)
class Draw:
    """What a phase takes of one stratum: the tokens `begin` to `end` of its stream.

    `held` is what the stratum holds. `documents` counts the copies that are taken, parts of documents too; None until it
    is known where documents begin.
    """

    source: str
    stratum: int
    label: str
    weight: Fraction
    held: Count
    begin: int
    end: int
    documents: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens that the phase takes."""
        return self.end - self.begin

    @property
    def unique(self) -> int:
        """Those of them that did not come before, in this phase or an earlier one."""
        return max(0, min(self.end, self.held.tokens) - self.begin)

    @property
    def epochs(self) -> Fraction:
        """How often the stratum has come at the end of the phase, phases before included."""
        return Fraction(self.end, self.held.tokens)


@dataclass(frozen=True)
class PhasePlan:
    """A phase: its draws, by source and stratum; none is empty."""

    name: str
    draws: tuple[Draw, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the phase."""
        return sum(draw.tokens for draw in self.draws)

    def of(self, source: str) -> tuple[Draw, ...]:
        """The draws of one source."""
        return tuple(draw for draw in self.draws if draw.source == source)

    @property
    def sources(self) -> list[str]:
        """Sources that the phase takes something of, in the order of the mix."""
        return list(dict.fromkeys(draw.source for draw in self.draws))


@dataclass(frozen=True)
class Plan:
    """All phases of a mix, and what each source holds. What is held out is one more phase, the last, named HELD_OUT."""

    phases: tuple[PhasePlan, ...]
    held: dict[str, Count]

    def cuts(self) -> dict[str, list[tuple[int, int]]]:
        """By source, where intervals begin or end inside of a stratum: (stratum, tokens into one pass), sorted."""
        found: dict[str, set[tuple[int, int]]] = {}
        for phase in self.phases:
            for draw in phase.draws:
                for at in (draw.begin % draw.held.tokens, draw.end % draw.held.tokens):
                    if at:
                        found.setdefault(draw.source, set()).add((draw.stratum, at))
        return {source: sorted(cuts) for source, cuts in found.items()}

    def counted(self, edges: "Mapping[str, Mapping[tuple[int, int], Any]]") -> "Plan":
        """The plan with documents. `edges` are those that `pipeline.mixing.stream` finds for `cuts`."""
        phases = tuple(
            replace(phase, draws=tuple(replace(draw, documents=_documents(draw, edges)) for draw in phase.draws))
            for phase in self.phases
        )
        return replace(self, phases=phases)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each phase and source: documents, tokens, share, epochs, unique_share, and `strata`, the same for
        each stratum with the `weight` of its documents. JSON can hold them."""
        rows = []
        for phase in self.phases:
            for source in phase.sources:
                draws = phase.of(source)
                strata = [
                    {"stratum": draw.label, "weight": float(draw.weight), **_facts([draw], phase.tokens)}
                    for draw in draws
                ]
                rows.append({"phase": phase.name, "source": source, **_facts(draws, phase.tokens), "strata": strata})
        return rows

    def totals(self) -> list[dict[str, Any]]:
        """A row for each phase, as `rows` has them for sources."""
        return [{"phase": phase.name, **_facts(phase.draws, phase.tokens)} for phase in self.phases]


def _facts(draws: Sequence[Draw], tokens_of_phase: int) -> dict[str, Any]:
    tokens = sum(draw.tokens for draw in draws)
    documents = [draw.documents for draw in draws]
    return {
        "documents": None if None in documents else sum(n for n in documents if n),
        "tokens": tokens,
        "share": tokens / tokens_of_phase,
        "epochs": float(max(draw.epochs for draw in draws)),
        "unique_share": sum(draw.unique for draw in draws) / tokens,
    }


def _documents(draw: Draw, edges: "Mapping[str, Mapping[tuple[int, int], Any]]") -> int:
    """Copies in an interval: those of whole passes, and those that its two ends touch."""
    total = draw.held.tokens
    begun, at = divmod(draw.begin, total)
    ended, until = divmod(draw.end, total)
    before = edges[draw.source][draw.stratum, at].rank if at else 0
    touched = 0
    if until:
        edge = edges[draw.source][draw.stratum, until]
        touched = edge.rank + (edge.offset > 0)
    return (ended - begun) * draw.held.documents + touched - before


def apportion(total: int, weights: Sequence[int | Fraction]) -> list[int]:
    """Whole numbers in proportion to weights (not negative, one above 0) that sum to `total`: the largest-remainder method,
    exact; of equal remainders the first gets more."""
    whole = sum(weights, start=Fraction(0))
    quotas = [total * Fraction(weight) / whole for weight in weights]
    counts = [floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def make_plan(mix: Mix, strata: Mapping[str, Strata], counts: Counts) -> Plan:
    """The plan of a mix over what there is. It depends on sums alone, not on how documents are spread over files.

    Raises UsageError where a source with a weight has no tokens, documents have no weight, or any would come too often.
    """
    used = {name: [0] * len(of) for name, of in strata.items()}
    phases = []
    for number, phase in enumerate(mix.phases):
        split = _Split.of(number, phase, strata, counts)
        total = phase.tokens
        if total == "all":
            total = split.most({name: _rooms(counts[name], used[name], Fraction(1)) for name in split.sources})
            if not total:
                raise UsageError(
                    f"phase {phase.name!r} asks for `tokens: all`, and the phases before it leave nothing that is new of at "
                    "least one of its sources or strata; say how many tokens, or take that one out"
                )
        taken = split.of_total(total)
        _check_epochs(mix, phase, split, taken, used, counts, strata)
        draws = []
        for name in strata:  # the order of the mix
            for stratum, tokens in taken.get(name, {}).items():
                if tokens:
                    begin = used[name][stratum]
                    used[name][stratum] = begin + tokens
                    weight = strata[name].weights[stratum][number] or Fraction(0)
                    held, label = counts[name][stratum], strata[name].labels[stratum]
                    draws.append(Draw(name, stratum, label, weight, held, begin, begin + tokens))
        phases.append(PhasePlan(phase.name, tuple(draws)))
    if mix.held_out and (kept_back := _kept_back(strata, counts)):
        phases.append(PhasePlan(HELD_OUT, kept_back))
    sums = {name: Count(sum(c.documents for c in of), sum(c.tokens for c in of)) for name, of in counts.items()}
    return Plan(tuple(phases), sums)


def _kept_back(strata: Mapping[str, Strata], counts: Counts) -> tuple[Draw, ...]:
    """What no phase takes, whole and once."""
    draws = []
    for name, of in strata.items():
        last = len(of) - 1
        held = counts[name][last]
        if held.tokens:
            draws.append(Draw(name, last, of.labels[last], Fraction(1), held, 0, held.tokens))
    return tuple(draws)


class _Split(NamedTuple):
    """How a phase divides tokens: weights of sources (by name), of strata inside of them (by number), weighed by size."""

    sources: dict[str, Fraction]
    strata: dict[str, dict[int, Fraction]]

    @classmethod
    def of(cls, number: int, phase: Phase, strata: Mapping[str, Strata], counts: Counts) -> "_Split":
        sources, inside = {}, {}
        for name in sorted(phase.weights):
            if not phase.weights[name]:
                continue
            weighed: dict[int, Fraction] = {}
            for stratum, count in enumerate(counts[name]):
                weight = strata[name].weights[stratum][number]
                if weight is None and count.documents:
                    raise UsageError(
                        f"phase {phase.name!r} gives no weight to {count.documents:,} documents of {name} "
                        f"({strata[name].labels[stratum]}); name these values within {name}, or add `default: 1` (as the "
                        "others) or `default: 0` (left out)"
                    )
                if weight and count.tokens:
                    weighed[stratum] = weight * count.tokens
            if not weighed:
                had = sum(count.tokens for count in counts[name])
                held_out = counts[name][-1].tokens if strata[name].kept_back else 0
                what = "are held out" if held_out == had else "have weight 0 within it or are held out"
                what = what if held_out else "have weight 0 within it"
                why = f"all of its {had:,} tokens {what}" if had else "it holds no tokens"
                raise UsageError(
                    f"phase {phase.name!r} gives {name} the weight {phase.weights[name]:g}, but {why}; take it out of the "
                    "weights, or add documents to it"
                )
            sources[name] = Fraction(repr(phase.weights[name]))
            inside[name] = weighed
        return cls(sources, inside)

    def of_total(self, total: int) -> dict[str, dict[int, int]]:
        """Tokens of each stratum where the phase has `total`."""
        per_source = dict(zip(self.sources, apportion(total, list(self.sources.values())), strict=True))
        return {
            name: dict(zip(inside, apportion(per_source[name], list(inside.values())), strict=True))
            for name, inside in self.strata.items()
        }

    def most(self, rooms: Mapping[str, Sequence[int]]) -> int:
        """The most tokens of the phase under which no stratum gets more than its room."""
        whole = sum(self.sources.values())
        total = min(
            floor(rooms[name][stratum] * (whole / self.sources[name]) * (sum(inside.values()) / weight))
            for name, inside in self.strata.items()
            for stratum, weight in inside.items()
        )
        # Remainders can push one a token over what its share would be; a few tokens fewer, and none does.
        while total > 0 and any(
            tokens > rooms[name][stratum]
            for name, inside in self.of_total(total).items()
            for stratum, tokens in inside.items()
        ):
            total -= 1
        return total


def _rooms(counts: Sequence[Count], used: Sequence[int], epochs: Fraction) -> list[int]:
    """Tokens of each stratum that can be taken before it has come `epochs` times."""
    return [max(0, floor(count.tokens * epochs) - gone) for count, gone in zip(counts, used, strict=True)]


def _check_epochs(
    mix: Mix,
    phase: Phase,
    split: _Split,
    taken: Mapping[str, Mapping[int, int]],
    used: Mapping[str, Sequence[int]],
    counts: Counts,
    strata: Mapping[str, Strata],
) -> None:
    limits = {name: mix.allowed(phase, name) for name in taken}
    worst, name, stratum = max(
        (Fraction(used[name][stratum] + tokens, counts[name][stratum].tokens) / limits[name], name, stratum)
        for name, inside in taken.items()
        for stratum, tokens in inside.items()
        if tokens
    )
    if worst <= 1:
        return
    epochs, held = worst * limits[name], counts[name][stratum].tokens
    label = strata[name].labels[stratum]
    what = name if label == "all" else f"{name} ({label})"
    fits = split.most({source: _rooms(counts[source], used[source], limits[source]) for source in taken})
    ask = f"Ask for at most {fits:,} tokens in this phase" if fits else "Ask for fewer tokens in the phases before it"
    raise UsageError(
        f"phase {phase.name!r} takes {what} to {_beyond(epochs, limits[name])} epochs over all phases, and at most "
        f"{float(limits[name]):g} are allowed: it holds {held:,} tokens and is asked for "
        f"{used[name][stratum] + taken[name][stratum]:,}. {ask}; or give this part a "
        f"lower weight, or more documents; or allow it with `max_epochs: {ceil(epochs)}` in the mix, the phase or for the "
        "source (--max-epochs)"
    )


def _beyond(epochs: Fraction, limit: Fraction) -> str:
    """Two digits after the point, rounded up where it would look allowed otherwise."""
    near = round(epochs, 2)
    return f"{float(near if near > limit else Fraction(ceil(epochs * 100), 100)):.2f}"


def check_values(mix: Mix, strata: Mapping[str, Strata], seen: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
    """Raises UsageError where the mix names a topic or language that no document has. `seen` has, by source and column,
    the documents of each value that there is."""
    for name, of in strata.items():
        for feature in of.features:
            for value in getattr(feature, "values", ()):
                there = seen[name].get(feature.feature, {})
                if value not in there:
                    known = ", ".join(sorted(there)) or "none (the column is empty)"
                    close = nearest(value, there)
                    raise UsageError(
                        f"no document of {name} has the {feature.feature} {value!r}{close}; there are: {known}"
                    )


def counts_of(histogram: np.ndarray) -> list[Count]:
    """What each stratum holds, of a histogram (strata, bins, 2) of documents and tokens."""
    return [Count(int(documents), int(tokens)) for documents, tokens in histogram.sum(axis=1)]
