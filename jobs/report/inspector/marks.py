"""What was cut of a page's text, what was written in its place, and what else is pointed at, each where it stands."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from jobs.places import rows_of
from jobs.runs import Run
from jobs.store import RunFolder
from pipeline.contamination.cuts import pieces, widened
from pipeline.edits import apply
from pipeline.errors import RecipeError
from pipeline.masking import replacement
from pipeline.scores import sentence_edits

COLOURS = {
    "rule": 5,
    "overlap": 2,
    "line": 1,
    "repeated": 2,
    "personal": 3,
    "benchmark": 4,
    "sentence": 6,
    "scored": 6,
}
"""Which of the colours of marks each kind has. Where marks lie on each other the first of these is seen."""

KINDS = {
    "line": "line edit",
    "repeated": "repeated line",
    "personal": "personal data",
    "benchmark": "cut around a benchmark item",
    "sentence": "sentence cut by its score",
    "rule": "what the rule counts",
    "overlap": "words of a benchmark item",
    "scored": "sentence with a score of 0.5 or more",
}
"""Kinds of marks, in words."""

MOST_CHARS = 200_000
"""Characters of a text that are shown at a time."""


class Mark(NamedTuple):
    """A stretch of the extracted text. `written` is what stands there instead; None where nothing is changed."""

    start: int
    end: int
    kind: str
    reason: str
    written: str | None = None

    @property
    def edits(self) -> bool:
        """Whether the text is changed there."""
        return self.written is not None


class Entry(NamedTuple):
    """A line of the legend: all marks of a reason. `number` stands in the marks, too."""

    number: int
    kind: str
    reason: str
    places: int
    chars: int

    @property
    def colour(self) -> int:
        """Which of the colours of marks it has."""
        return COLOURS[self.kind]

    @property
    def words(self) -> str:
        """Its kind in words."""
        return KINDS[self.kind]

    @property
    def edits(self) -> bool:
        """Whether its marks change the text."""
        return self.kind not in ("rule", "overlap", "scored")


class Segment(NamedTuple):
    """A stretch of text under the same marks, by their numbers in the legend, most telling first. `begins`: a mark begins
    here; `cut`: one of them takes it out. `written`: what is written in place of what was cut before, and the number of its
    mark."""

    text: str
    numbers: tuple[int, ...]
    begins: bool
    cut: bool = False
    written: tuple[str, int] | None = None


@dataclass(frozen=True)
class Marked:
    """A window of a text with its marks. `legend` is of the whole text."""

    segments: list[Segment]
    legend: list[Entry]
    start: int
    end: int
    n_chars: int
    outside: int
    """Marks that lie outside of the window."""


@dataclass(frozen=True)
class Edited:
    """The edits of a text, in the order of their kinds, and what they make of it: pieces, where it was cut in several.
    `notes` are what is to be known of them."""

    marks: list[Mark]
    texts: list[str]
    notes: list[str] = field(default_factory=list)


def edited(run: Run, row: dict[str, Any], text: str, part: str) -> Edited:
    """What the run's recipe changes in a text. `row` is its row of the ledger, or of `records` where nothing is decided."""
    recipe, own, doc_id = run.recipe, run.folder, row["doc_id"]
    marks: list[Mark] = []
    notes: list[str] = []

    def add(kind: str, folder: RunFolder, table: str, ask: bool) -> None:
        rows = rows_of(folder, table, part, doc_id) if ask else None
        if rows is not None and kind == "sentence":
            rows = sentence_edits(rows, recipe.score)
        marks.extend(_edits(kind, rows, len(text)))

    add("line", run.measures_folder, "edits", bool(recipe.line_edits()))
    add("sentence", own, "sentences", recipe.score.cuts)
    add("repeated", own, "cuts", bool(recipe.dedup.cuts))
    found = row.get("pii") or []
    if found:
        key, how = b"", recipe.pii.how
        try:
            key = recipe.pii.key() if how == "hash" else b""
        except RecipeError as error:
            how = "placeholder"
            notes.append(f"What was written in place of personal data cannot be told without its key: {error}.")
        for hit in found:
            start, end, kind = hit["start"], hit["end"], hit["kind"]
            marks.append(Mark(start, end, "personal", f"pii.{kind}", replacement(text[start:end], kind, how, key)))
    plain = [(mark.start, mark.end, mark.written or "") for mark in marks]
    texts = [apply(text, plain)]
    cuts = _leaks(run, row, part, text)
    if cuts:
        texts = pieces(text, cuts, plain, recipe.decontaminate.least_piece).texts
        marks += [Mark(start, end, "benchmark", "decontaminate.overlap", "") for start, end in cuts]
    return Edited(marks, texts, notes)


def _edits(kind: str, rows: pa.Table | None, n_chars: int) -> list[Mark]:
    if rows is None:
        return []
    edits = (Mark(e["start"], e["end"], kind, e["reason"], e["replacement"] or "") for e in rows.to_pylist())
    return list(dict.fromkeys(mark for mark in edits if 0 <= mark.start <= mark.end <= n_chars))


def _leaks(run: Run, row: dict[str, Any], part: str, text: str) -> list[tuple[int, int]]:
    """What is cut around benchmark items: from pages that break no rule before that."""
    options = run.recipe.decontaminate
    reason = row["reason"] or ""
    if options.action != "cut" or (reason and not reason.startswith("decontaminate.")):
        return []
    rows = rows_of(run.folder, "contamination", part, row["doc_id"], ["start", "end", "decoy"])
    spans = [(hit["start"], hit["end"]) for hit in (rows.to_pylist() if rows is not None else []) if not hit["decoy"]]
    return widened(text, spans, options.context)


def marked(text: str, marks: Sequence[Mark], start: int = 0, most: int = MOST_CHARS) -> Marked:
    """A text with marks on it: `most` characters from `start` on."""
    groups: Counter[tuple[str, str]] = Counter()
    chars: Counter[tuple[str, str]] = Counter()
    for mark in marks:
        groups[mark.kind, mark.reason] += 1
        chars[mark.kind, mark.reason] += mark.end - mark.start
    order = sorted(groups, key=lambda group: (list(COLOURS).index(group[0]), group[1]))
    numbers = {group: number for number, group in enumerate(order)}
    legend = [Entry(numbers[group], *group, groups[group], chars[group]) for group in order]
    start = max(0, min(start, len(text)))
    end = min(len(text), start + most)
    inside = [mark for mark in marks if (mark.end > start and mark.start < end) or mark.start == mark.end == start]
    segments = list(_segments(text, inside, numbers, start, end))
    return Marked(segments, legend, start, end, len(text), len(marks) - len(inside))


def _segments(
    text: str, marks: Sequence[Mark], numbers: dict[tuple[str, str], int], start: int, end: int
) -> Iterable[Segment]:
    events: dict[int, tuple[list[int], list[int]]] = {}
    for mark in marks:
        number = numbers[mark.kind, mark.reason]
        events.setdefault(max(start, mark.start), ([], []))[0].append(number)
        events.setdefault(min(end, mark.end), ([], []))[1].append(number)
    written = _written(marks, numbers)
    cuts = {numbers[mark.kind, mark.reason] for mark in marks if mark.edits}
    active: Counter[int] = Counter()
    borders = sorted({start, end, *events, *(at for at in written if start <= at <= end)})
    for at, following in zip(borders, [*borders[1:], end], strict=True):
        begin, close = events.get(at, ([], []))
        for number in close:
            active[number] -= 1
        for number in begin:
            active[number] += 1
        if at in written:
            yield Segment("", (written[at][1],), False, written=written[at])
        if following > at:
            under = tuple(sorted(number for number, n in active.items() if n > 0))
            yield Segment(text[at:following], under, bool(begin) and bool(under), any(n in cuts for n in under))


def _written(marks: Sequence[Mark], numbers: dict[tuple[str, str], int]) -> dict[int, tuple[str, int]]:
    """By the end of an edit what is written in its place: of edits that overlap that of the first, as `apply` does it."""
    found: dict[int, tuple[str, int]] = {}
    taken = -1
    for mark in sorted((mark for mark in marks if mark.edits), key=lambda mark: (mark.start, -mark.end)):
        if mark.start < taken:
            taken = max(taken, mark.end)
            continue
        taken = mark.end
        # A line end that stays one is not told of.
        if mark.written and mark.written != "\n":
            found[mark.end] = (mark.written, numbers[mark.kind, mark.reason])
    return found
