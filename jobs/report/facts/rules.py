"""Every bound of a recipe, and every signal: how it is spread, and what another bound would keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.funnel import Step
from jobs.report.facts import Curve, Histogram, Rule, Signal
from jobs.report.facts.funnel import Grouping
from jobs.report.facts.rows import Rows, strings
from pipeline.annotation import measured_schema
from pipeline.recipe import Recipe
from pipeline.rules import EDITED, QUALITY_RULE, Bound, score_bounds, text_bounds
from pipeline.scores import score_columns
from pipeline.signals.base import field
from pipeline.tables import DOCUMENTS
from pipeline.whatif import Side, curve

BINS = 40

THRESHOLDS = 20
"""On each side of a bound."""

MOST_LANGUAGES = 10
"""Languages of the gate that have a histogram of their own."""

_MOST = 1e30
"""Values beyond this are put in the outer bins: near the end of what a float32 can hold widths of bins overflow."""

_LOG_SPREAD = 50
"""Where the largest values are so many times the middle, bins grow by a factor."""


@dataclass(frozen=True)
class Asked:
    """A bound with the rows that it is asked of (None: all) and what the signal means."""

    bound: Bound
    field: pa.Field
    among: str = ""
    language: str | None = None


def fields(recipe: Recipe) -> dict[str, pa.Field]:
    """Every number that is measured of a page under a recipe, with its meaning, by name."""
    found = {f.name: f for f in (*measured_schema(recipe), *score_columns(recipe.score)) if f.type != pa.string()}
    own = {name: DOCUMENTS.field(name) for name in ("language_score", "script_share")}
    similarity = field("similarity", pa.float32(), "similarity to the page that is kept of its cluster", "0..1")
    return own | found | {"similarity": similarity}


def asked(recipe: Recipe, rows: Rows | None) -> list[Asked]:
    """All bounds in the order in which they are asked: language by language, script, text, scores, quality."""
    known = fields(recipe)
    gate = recipe.gates.language
    found = []
    for code in _languages(recipe, rows):
        bound = Bound("gates.language", "language_score", gate.keep[code], None, "this recipe")
        found.append(Asked(bound, known["language_score"], f"pages whose likeliest language is {code}", code))
    if gate.script > 0:
        script = Bound("gates.script", "script_share", gate.script, None, "this recipe")
        found.append(Asked(script, known["script_share"]))
    found += [Asked(b, known[b.signal]) for b in text_bounds(recipe) if b.signal in known]
    among = "pages that the rules on text keep"
    found += [Asked(b, known[b.signal], among) for b in score_bounds(recipe) if b.signal in known]
    keep = recipe.score.quality.keep
    heads = recipe.score.quality.heads
    if keep.least is not None and (keep.by == "rank" or len(heads) == 1):
        signal = "quality" if keep.by == "rank" else f"score_{heads[0]}"
        found.append(Asked(Bound(QUALITY_RULE, signal, keep.least, None, "this recipe"), known[signal], among))
    return found


def _languages(recipe: Recipe, rows: Rows | None) -> list[str]:
    """The languages that the gate keeps, those with most pages first where there are many."""
    kept = list(recipe.gates.language.keep)
    if len(kept) <= MOST_LANGUAGES or rows is None:
        return kept[:MOST_LANGUAGES]
    found = strings(rows.column("language"))
    counts = dict.fromkeys(kept, 0)
    for code in found:
        if code in counts:
            counts[code] += 1
    return sorted(kept, key=lambda code: (-counts[code], code))[:MOST_LANGUAGES]


def rules(recipe: Recipe, rows: Rows | None, steps: Mapping[str, Step] | None, per_char: float) -> list[Rule]:
    """Every bound with its counts (None before the run was decided), histogram and curves. `per_char` are tokens."""
    todo = asked(recipe, rows)
    group_of = Grouping(recipe)
    by_signal: dict[str, np.ndarray] = {}
    scores = set(score_columns(recipe.score).names)
    if rows is not None:
        names = sorted({a.bound.signal for a in todo} & set(rows.names))
        by_signal = dict(rows.batches(names))
        languages = np.array(strings(rows.column("language")), object)
    made = []
    for one in todo:
        bound = one.bound
        values = by_signal.get(bound.signal)
        histogram, curves = None, []
        if rows is not None and values is not None:
            of_it = languages == one.language if one.language else rows.has_text
            if bound.signal in scores:  # which others do not have
                of_it = of_it & np.isfinite(values)
                of_it[rows.hits.by(bound.rule)] = True
            histogram = spread(values, rows, of_it, bound)
            if rows.decided:
                curves = moved(values, rows, of_it, bound, per_char)
        step = None if steps is None else steps.get(bound.rule, Step(bound.rule, 0, 0, 0, 0))
        made.append(
            Rule(
                bound.rule,
                group_of(bound.rule),
                bound.signal,
                *described(one.field),
                bound.source,
                bound.minimum,
                bound.maximum,
                one.among,
                None if step is None else step.hits,
                None if step is None else step.sole,
                None if step is None else step.decided,
                histogram,
                curves,
            )
        )
    return made


def signals(recipe: Recipe, rows: Rows | None) -> list[Signal]:
    """The measures that no bound asks for."""
    if rows is None:
        return []
    bounded = {one.bound.signal for one in asked(recipe, rows)}
    free = {name: f for name, f in fields(recipe).items() if name not in bounded and name in rows.names}
    return [
        Signal(name, *described(free[name]), spread(values, rows, rows.has_text, None))
        for name, values in rows.batches(list(free))
    ]


def described(column: pa.Field) -> tuple[str, str, str]:
    """Meaning, unit and source."""
    told = {k.decode(): v.decode() for k, v in (column.metadata or {}).items()}
    meaning = told.get("meaning", "")
    if column.name.startswith(EDITED):
        meaning += " (of the text after line edits)"
    return meaning, told.get("unit", ""), told.get("source", "")


def spread(values: np.ndarray, rows: Rows, among: np.ndarray, bound: Bound | None) -> Histogram | None:
    """How values are spread, by what became of the pages; None where there are none."""
    finite = np.isfinite(values) & among
    held = values[finite]
    if not len(held):
        return None
    kept = rows.kept[finite]
    if not rows.decided:
        series = {"undecided": np.ones(len(held), bool)}
    elif bound is None:
        series = {"kept": kept, "other": ~kept}
    else:
        alone = np.zeros(rows.n, bool)
        alone[rows.hits.alone(bound.rule)] = True
        alone = alone[finite] & ~kept
        series = {"kept": kept, "alone": alone, "other": ~kept & ~alone}
    missing = int((np.isnan(values) & among).sum())
    infinite = int((np.isinf(values) & among).sum())
    ends = () if bound is None else tuple(e for e in (bound.minimum, bound.maximum) if e is not None)
    return binned(held, series, rows, ends, missing, infinite)


def binned(
    held: np.ndarray, series: Mapping[str, np.ndarray], rows: Rows, ends: Sequence[float], missing: int, infinite: int
) -> Histogram:
    """A histogram of finite values, apart by masks, that shows `ends` wherever they lie."""
    held = held.astype(np.float64)
    edges, log = _edges(held, ends)
    at = np.clip(np.searchsorted(edges, held, "right") - 1, 0, len(edges) - 2)
    positive = held > 0 if log else np.ones(len(held), bool)
    counts = {
        name: [rows.scaled(n) for n in np.bincount(at[mask & positive], minlength=len(edges) - 1).tolist()]
        for name, mask in series.items()
    }
    zeros = {name: rows.scaled(int((mask & ~positive).sum())) for name, mask in series.items()}
    return Histogram(
        [float(f"{edge:.9g}") for edge in edges],
        counts,
        log,
        zeros if log else dict.fromkeys(series, 0),
        rows.scaled(len(held)),
        rows.scaled(missing),
        rows.scaled(infinite),
        float(held.min()),
        float(held.max()),
        rows.estimated,
    )


def _edges(held: np.ndarray, ends: Sequence[float]) -> tuple[np.ndarray, bool]:
    """Edges that show nearly all values (the ends of their distribution are put in the outer bins), and whether they grow
    by a factor."""
    held = np.clip(held, -_MOST, _MOST)
    low, middle, high = (float(q) for q in np.quantile(held, (0.002, 0.5, 0.998)))
    low, high = min([low, *ends]), max([high, *ends])
    positive = held[held > 0]
    if (
        held.min() >= 0
        and high > 10
        and high > _LOG_SPREAD * max(middle, float(np.median(positive)) if len(positive) else 0)
    ):
        least = float(positive.min()) if len(positive) else 1.0
        least = min([max(least, high / 1e6), *(e for e in ends if e > 0)])
        return np.geomspace(least, high * (1 + 1e-9), BINS + 1), True
    whole = high > 1 and bool((held == np.rint(held)).all())
    if whole and high - low < 3 * BINS:
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        first, last = np.floor(low) - 0.5, np.ceil(high) + 0.5
        return first + step * np.arange(int(np.ceil((last - first) / step)) + 1), False
    if low >= 0 and high <= 1 and high - low > 0.5:
        low, high = 0.0, 1.0
    if high <= low:
        pad = abs(low) * 0.5 or 0.5
        low, high = low - pad, high + pad
    return np.linspace(low, high, BINS + 1), False


def moved(values: np.ndarray, rows: Rows, among: np.ndarray, bound: Bound, per_char: float) -> list[Curve]:
    """What would be kept with either end elsewhere; the other stays where it is."""
    kept = rows.kept & among
    alone = np.zeros(rows.n, bool)
    alone[rows.hits.alone(bound.rule)] = True
    alone &= among & ~rows.kept & ~rows.failed
    tokens = np.nan_to_num(rows.n_chars).astype(np.float64) * per_char
    made = []
    sides: tuple[tuple[Side, float | None, float | None], ...] = (
        ("minimum", bound.minimum, bound.maximum),
        ("maximum", bound.maximum, bound.minimum),
    )
    for side, end, other in sides:
        if end is None:
            continue
        kind = values.dtype.type
        beyond = np.ones(rows.n, bool)
        if other is not None:  # a page beyond the other end does not come back when this one moves
            beyond = values <= kind(other) if side == "minimum" else values >= kind(other)
        newly = alone & beyond
        thresholds = _thresholds(values[(kept | newly) & (np.abs(values) <= _MOST)], end)
        made.append(
            Curve(
                side,
                float(end),
                thresholds.tolist(),
                *([rows.scaled(n) for n in curve(values, who, thresholds, side).tolist()] for who in (kept, newly)),
                *(
                    [rows.scaled(n) for n in curve(values, who, thresholds, side, tokens).tolist()]
                    for who in (kept, newly)
                ),
            )
        )
    return made


def _thresholds(held: np.ndarray, end: float) -> np.ndarray:
    """Some values on each side of a bound, dense where pages are and denser near the bound, and the bound itself."""
    held = held.astype(np.float64)
    shares = np.linspace(0, 1, THRESHOLDS + 1)[1:] ** 1.5
    chosen = [np.array([end], np.float64)]
    for side in (held[held < end], held[held > end]):
        if len(side):
            near = shares if side[0] > end else 1 - shares
            chosen.append(np.quantile(side, near, method="nearest"))
    found = np.unique(np.concatenate(chosen))
    # A value is shown as it is compared: one that only rounding tells from the bound is the bound.
    return found[(found == end) | ~np.isclose(found, end, rtol=1e-6, atol=0)]
