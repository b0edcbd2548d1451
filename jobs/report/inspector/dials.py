"""What the page of thresholds shows of a run: a dial for each signal that is bounded, and what moving them comes to."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from jobs.report.inspector.queries import Queries
from jobs.report.tables import below
from pipeline.errors import UsageError
from pipeline.recipe import Recipe
from pipeline.rules import EDITED, Bound, score_bounds, text_bounds
from pipeline.scores import score_columns
from pipeline.signals.statistics import Statistics
from pipeline.tables import DOCUMENTS
from pipeline.whatif import Change, Threshold, WhatIf, grid, thresholds

MOST_ROWS = 1_000_000
"""Records with text that are held in memory; of more of them a sample is drawn."""

LOADING_SECONDS = 300.0
"""How long reading them may take; it is done once."""

HEIGHT = 100
"""Height of a histogram in its own units."""

EXAMPLES = 20
"""Pages that are shown of what would change, half of them each way while there are enough."""


@dataclass(frozen=True)
class Dial:
    """One signal: its thresholds (one or two), the values that they can take and how often the signal has each.

    `steps` are the edges of `total`, the records by value; `bins` says where a row is, at len(total) those without a value.
    Edges belong to the bin above them, or below them where the only threshold is a maximum.
    """

    name: str
    group: str
    signal: str
    thresholds: tuple[Threshold, ...]
    meaning: str
    unit: str
    source: str
    steps: np.ndarray
    bins: np.ndarray
    total: np.ndarray
    missing: int

    @property
    def n_bins(self) -> int:
        """How many bins there are."""
        return len(self.total)

    def count(self, rows: np.ndarray) -> np.ndarray:
        """The rows by bin."""
        return np.bincount(self.bins[rows], minlength=self.n_bins + 1)[: self.n_bins]

    def outline(self, counts: np.ndarray) -> str:
        """The bars of a histogram as the path of an SVG: as high as the logarithm of the count."""
        most = float(np.log1p(self.total.max())) or 1.0
        tops = (HEIGHT - np.rint(HEIGHT * np.log1p(np.maximum(counts, 0)) / most)).astype(int).tolist()
        return f"M0 {HEIGHT}" + "".join(f"V{top}H{i + 1}" for i, top in enumerate(tops)) + f"V{HEIGHT}Z"

    def place(self, value: float) -> float:
        """Where a value is along the steps, in bins."""
        steps = self.steps
        return round(float(np.interp(value, steps, np.arange(len(steps)))), 3)


class Example(NamedTuple):
    """A page that would change: `way` is passing or lost, `rule` the one that drops it, in the run or from now on."""

    row: int
    way: str
    rule: str


@dataclass(frozen=True)
class Dials:
    """A run whose bounds can be moved. `scale` is how many records each row stands for; `before` the records that were
    dropped before their text was measured."""

    whatif: WhatIf
    dials: tuple[Dial, ...]
    base: Change
    kept_bins: tuple[np.ndarray, ...]
    ids: pa.ChunkedArray
    tokens: np.ndarray
    scale: float
    with_text: int
    before: int
    edited: bool
    urls: dict[str, str | None] = field(default_factory=dict)

    def kept_paths(self, change: Change) -> dict[str, str]:
        """For each dial the outline of what is kept, or newly passes."""
        more, less = np.flatnonzero(change.passing), np.flatnonzero(change.lost)
        return {
            dial.name: dial.outline(kept + dial.count(more) - dial.count(less))
            for dial, kept in zip(self.dials, self.kept_bins, strict=True)
        }

    def pages(self, rows: np.ndarray) -> int:
        """How many records some rows stand for."""
        return self.scaled(int(np.count_nonzero(rows)))

    def scaled(self, n: int) -> int:
        """How many records so many rows stand for."""
        return round(n * self.scale)

    def n_tokens(self, rows: np.ndarray) -> int:
        """Their tokens."""
        return round(int(self.tokens[rows].sum()) * self.scale)

    def examples(self, change: Change) -> list[Example]:
        """Pages that would change. Ids are hashes, so the first rows are as good as drawn."""
        passing, lost = np.flatnonzero(change.passing), np.flatnonzero(change.lost)
        half = EXAMPLES // 2
        n_passing = min(len(passing), max(half, EXAMPLES - len(lost)))
        n_lost = min(len(lost), EXAMPLES - n_passing)
        first = self.whatif.first
        return [
            *(Example(row, "lost", self.whatif.names[change.first[row]]) for row in lost[:n_lost].tolist()),
            *(Example(row, "passing", self.whatif.names[first[row]]) for row in passing[:n_passing].tolist()),
        ]


def load(tables: Queries, recipe: Recipe) -> Dials:
    """Reads the measured records of a ledger. Raises UsageError where the run has none, or none that can be decided."""
    if not tables.has("ledger"):
        raise UsageError("this run has decided nothing yet: there is no ledger to move bounds over")
    columns = set(tables.columns("ledger"))
    bounded = [*text_bounds(recipe), *score_bounds(recipe)]
    if missing := sorted({bound.signal for bound in bounded} - columns):
        raise UsageError(f"the ledger has no column {', '.join(missing)}, which the recipe bounds")
    counted = tables.rows("SELECT count(*) AS n, count(n_chars) AS with_text FROM ledger")[0]
    limit = below(MOST_ROWS / counted["with_text"] if counted["with_text"] else 1)
    edited = EDITED + "token_count" in columns
    weight = EDITED + "token_count" if edited else "token_count"
    names = ["doc_id", "outcome", "rule_hits", "language", "language_score", "script_share", weight]
    chosen = ", ".join(f'"{name}"' for name in dict.fromkeys([*names, *(bound.signal for bound in bounded)]))
    drawn = "" if limit is None else "AND doc_id < ?"
    query = f"SELECT {chosen} FROM ledger WHERE n_chars IS NOT NULL {drawn}"
    with tables.limited(LOADING_SECONDS) as cursor:
        rows = cursor.sql(query, params=[] if limit is None else [limit]).to_arrow_table()
    whatif = WhatIf(rows, recipe)
    tokens = np.nan_to_num(rows.column(weight).to_numpy().astype(np.float64)).astype(np.int64)
    dials = tuple(_dials(whatif, recipe, bounded))
    with_text = counted["with_text"]
    return Dials(
        whatif,
        dials,
        whatif.evaluate({}),
        tuple(dial.count(whatif.was_kept) for dial in dials),
        rows.column("doc_id"),
        tokens,
        with_text / rows.num_rows if rows.num_rows else 1.0,
        with_text,
        counted["n"] - with_text,
        edited,
    )


def _dials(whatif: WhatIf, recipe: Recipe, bounded: list[Bound]) -> list[Dial]:
    facts = _facts(recipe)
    sources = {bound.rule: bound.source for bound in bounded}
    together: dict[str, list[Threshold]] = {}
    for threshold in thresholds(recipe):
        together.setdefault(threshold.key if threshold.gate else threshold.rule, []).append(threshold)
    made = []
    for name, ends in together.items():
        meaning, unit, source = facts[ends[0].signal]
        group = "gates" if ends[0].gate else ends[0].rule.rpartition(".")[0]
        made.append(_dial(whatif, name, group, tuple(ends), meaning, unit, sources.get(ends[0].rule, source)))
    return made


def _dial(
    whatif: WhatIf, name: str, group: str, ends: tuple[Threshold, ...], meaning: str, unit: str, source: str
) -> Dial:
    signal = ends[0].signal
    values = np.asarray(whatif.values[signal], np.float64)
    applies = whatif.applies(ends[0])
    has = applies & ~np.isnan(values)
    marks = [end.value for end in ends]
    steps = grid(values[has], [*marks, 0.0, 1.0] if ends[0].gate else marks)
    if len(steps) == 1:
        steps = np.append(steps, steps[0] + 1)
    # As they are compared: a bound of 0.65 and a float32 measured as 0.65 are one.
    kind = whatif.values[signal].dtype.type if whatif.values[signal].dtype.kind == "f" else np.float64
    side: Literal["left", "right"] = "left" if ends[0].side == "maximum" and len(ends) == 1 else "right"
    at = np.searchsorted(steps.astype(kind), values.astype(kind), side) - 1
    n_bins = len(steps) - 1
    bins = np.where(has, np.clip(at, 0, n_bins - 1), n_bins).astype(np.int16)
    total = np.bincount(bins, minlength=n_bins + 1)[:n_bins]
    missing = int((applies & ~has).sum())
    return Dial(name, group, signal, ends, meaning, unit, source, steps, bins, total, missing)


def _facts(recipe: Recipe) -> dict[str, tuple[str, str, str]]:
    """Meaning, unit and source of every signal that can be bounded."""
    found: dict[str, tuple[str, str, str]] = {}
    for column in (*Statistics.schema, *score_columns(recipe.score), *DOCUMENTS):
        told = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
        found[column.name] = (told.get("meaning", ""), told.get("unit", ""), told.get("source", ""))
    edited = {EDITED + name: found[name] for name in Statistics.schema.names}
    return {**found, **{name: (f"{fact[0]}; after line edits", *fact[1:]) for name, fact in edited.items()}}


def value_text(value: Any) -> str:
    """A measured value or bound as people write it, at most six digits."""
    if value is None:
        return "none"
    number = float(value)
    if number.is_integer():
        return f"{int(number):,}"
    return f"{number:.4g}"
