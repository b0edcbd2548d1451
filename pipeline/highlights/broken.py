"""A rule that a text broke to the parts of the text that broke it."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.edits import LineEdits
from pipeline.highlights.counted import COUNTED, NOT_COUNTED, SIZED, places
from pipeline.highlights.reading import Reading, sound
from pipeline.highlights.spans import Span, merged
from pipeline.recipe import Recipe
from pipeline.rules import EDITED, Bound, bounds
from pipeline.signals.language import identify, script_share
from pipeline.signals.statistics import Statistics

SCRIPT = "gates.script"
SAMPLE = 2000
"""Characters that language and script are measured on."""


def offending(text: str, rule: str, signal: str, recipe: Recipe, *, language: str | None = None) -> list[Span]:
    """The parts of an extracted text that `signal` counts and `rule` bounds: sorted, apart, in characters of `text`.

    `rule` is named as in the ledger, `signal` as in the table of signals (`Bound.rule` and `Bound.signal`). Where the
    signal is too high, it is what the signal counts; where a share of words or lines is too low, those that it does not
    count; where a count is too low, what little there is. Lengths: words or lines beyond the bound. A signal that begins
    with `edited_` is looked for in the text after the recipe's line edits, and no part of what these cut is marked, but
    for `edited_removed_word_share`, which is just that. A signal that keeps to its bounds, or that the recipe does not
    bound, is taken as too high, unless only a minimum is given.

    `gates.script`: letters, among those that were looked at, of scripts that `language` (by default, that of the text)
    is not written in. Empty where the text as a whole is at fault (its length, its language), where edits left nothing,
    and for reasons whose places stand in tables: scores of sentences, duplicates, benchmark items, personal data.
    """
    if rule == SCRIPT:
        return _spans(_foreign(sound(text[:SAMPLE]), language))
    name = signal.removeprefix(EDITED)
    if name not in COUNTED and name not in SIZED and name != "removed_word_share":
        return []
    text = sound(text)
    edits = _edits(text, recipe) if signal != name else []
    if name == "removed_word_share":
        return _spans(_filled(text, merged(np.array([edit[:2] for edit in edits], np.int64).reshape(-1, 2))))
    edited = Edited(text, edits)
    bound = next((bound for bound in bounds(recipe) if bound.rule == rule), None)
    low, high = (bound.minimum, bound.maximum) if bound else (None, None)
    found = places(Reading(edited.text), name, below=_below(edited.text, name, bound), minimum=low, maximum=high)
    return _spans(edited.to_extracted(merged(found)))


def _below(text: str, signal: str, bound: Bound | None) -> bool:
    """Whether it is the minimum that is broken."""
    if bound is None or bound.minimum is None:
        return False
    if bound.maximum is None or not (signal in SIZED or signal in NOT_COUNTED):
        return True  # of the others, the same is marked on both sides
    value = Statistics().annotate(pa.record_batch([pa.array([text], pa.string())], ["text"])).column(signal)[0].as_py()
    return value < bound.minimum


def _spans(rows: np.ndarray) -> list[Span]:
    return [Span(start, end) for start, end in merged(rows).tolist()]


def _foreign(sample: str, language: str | None) -> np.ndarray:
    code = language or identify(sample).code or ""
    letters = {letter for letter in sorted(set(sample)) if script_share(letter, code) < 1}
    at = np.array([i for i, letter in enumerate(sample) if letter in letters], np.int64)
    return np.column_stack([at, at + 1])


def _filled(text: str, rows: np.ndarray) -> np.ndarray:
    """Rows without white space at their ends."""
    reading = Reading(text)
    return np.array([reading.stripped(a, b) for a, b in rows.tolist()], np.int64).reshape(-1, 2)


Edit = tuple[int, int, str]


def _edits(text: str, recipe: Recipe) -> list[Edit]:
    """The recipe's line edits of a text."""
    texts = pa.array([text], pa.string())
    found: list[Edit] = []
    for name, policy in recipe.line_edits().items():
        table = LineEdits(policy, name).spans(texts)
        found += zip(*(table.column(c).to_pylist() for c in ("start", "end", "replacement")), strict=True)
    return found


class Edited:
    """A text after edits, which are applied as `edits.apply` does, and where each part of it came from."""

    def __init__(self, text: str, edits: Iterable[Edit]):
        parts: list[str] = []
        rows: list[tuple[int, int, int, int]] = []  # start and end after edits, start and end before
        size = 0

        def put(part: str, start: int, end: int) -> None:
            nonlocal size
            if part:
                parts.append(part)
                rows.append((size, size + len(part), start, end))
                size += len(part)

        at = 0
        taken = -1
        for start, end, replacement in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
            if start < taken:
                at = taken = max(taken, end)
                continue
            put(text[at:start], at, start)
            put(replacement, start, end)
            at = taken = end
        put(text[at:], at, len(text))
        self.text = "".join(parts)
        self._rows = np.array(rows, np.int64).reshape(-1, 4)

    def to_extracted(self, found: np.ndarray) -> np.ndarray:
        """Rows (start, end) of the edited text as rows of the extracted one, without what was cut inside of them.

        What was replaced stands for its replacement.
        """
        starts, ends, from_, to = self._rows.T
        first = np.searchsorted(ends, found[:, 0], side="right")
        last = np.searchsorted(starts, found[:, 1], side="left")
        times = last - first
        part = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times) + np.repeat(first, times)
        a = np.maximum(np.repeat(found[:, 0], times), starts[part]) - starts[part]
        b = np.minimum(np.repeat(found[:, 1], times), ends[part]) - starts[part]
        replaced = ends[part] - starts[part] != to[part] - from_[part]
        return np.column_stack(
            [np.where(replaced, from_[part], from_[part] + a), np.where(replaced, to[part], from_[part] + b)]
        )
