"""Texts of some pages of a run, for excerpts: found by id, personal data masked whatever the recipe masks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.report.facts import Piece
from jobs.report.facts.rows import Note, numbered, parts_of, strings
from jobs.runs import Run
from pipeline.differences import differences
from pipeline.errors import CrawlmillError, StorageError
from pipeline.highlights import excerpt, pieces
from pipeline.masking import Masking, mask
from pipeline.recipe import Recipe

MOST_TEXT_BYTES = 500_000_000
"""Extracted text that is read at most."""

MOST_PARTS = 200
"""Parts that are opened at most."""

MOST_CHARS = 300_000
"""Characters of a text that are looked at: what offends farther on is not shown."""

MOST_COMPARED = 20_000
"""Characters of two texts that are looked through for what differs."""

WIDTH = 400
"""Characters of an excerpt, about."""

Marks = list[tuple[int, int, str]]
"""Stretches of a text, each with what it is."""


@dataclass(frozen=True)
class Text:
    """A page's extracted text as it must not be shown, and what is to be masked in it: start, end, kind of data."""

    text: str
    personal: Marks

    def excerpt(self, spans: Marks, width: int = WIDTH) -> tuple[list[Piece], bool, bool]:
        """About `width` characters around the spans, in pieces, and whether the text goes on before and after them."""
        start, end = excerpt(self.text, [(s[0], s[1]) for s in spans], width)
        # What must be masked is masked whole, even where it begins before the window.
        personal = [
            (max(a, start), min(b, end), f"masked:{kind}") for a, b, kind in self.personal if a < end and b > start
        ]
        marks = [(max(a, start), min(b, end), kind) for a, b, kind in spans if a < end and b > start]
        shifted = [(a - start, b - start, kind) for a, b, kind in [*personal, *marks]]
        shown = []
        for piece, kind in pieces(self.text[start:end], shifted):
            what, _, data = kind.partition(":")
            shown.append(Piece(f"<{data}>" if what == "masked" else piece, what))
        return shown, start > 0, end < len(self.text)


def differing(left: Text, right: Text) -> tuple[Marks, Marks]:
    """What of two texts the other has not; of long ones only the beginnings are compared."""
    marks: tuple[Marks, Marks] = ([], [])
    for block in differences(left.text[:MOST_COMPARED], right.text[:MOST_COMPARED]).blocks:
        for side, pieces_ in enumerate((block.left, block.right)):
            marks[side].extend((len(piece.text), int(piece.differs), "differs") for piece in pieces_)
    return _placed(marks[0]), _placed(marks[1])


def _placed(lengths: Marks) -> Marks:
    """Stretches of (length, whether they are marked, kind) by their places."""
    found, at = [], 0
    for length, marked, kind in lengths:
        if marked:
            found.append((at, at + length, kind))
        at += length
    return found


class Texts:
    """The texts that may be shown: those of parts chosen at random, so that not more than MOST_TEXT_BYTES are read."""

    def __init__(self, run: Run, recipe: Recipe, note: Note, seed: int = 0):
        self.run = run
        self.recipe = recipe
        self.note = note
        self.parts: list[str] = []
        self.all_parts = 0
        ids: list[np.ndarray] = []
        left = MOST_TEXT_BYTES
        for name, _, n_bytes in parts_of(run, seed):
            self.all_parts += 1
            # The first is read however large it is: else there would be nothing to see.
            if (self.parts and n_bytes > left) or len(self.parts) >= MOST_PARTS:
                continue
            try:
                found = run.folder.read_table(f"documents/part-{name}.parquet", ["doc_id"])
            except StorageError as error:
                note("texts", str(error))
                continue
            left -= n_bytes
            self.parts.append(name)
            ids.append(numbered(found.column("doc_id")))
        whole = np.concatenate([*ids, np.zeros(0, np.uint64)])
        part = np.repeat(np.arange(len(ids)), [len(i) for i in ids])
        at = np.argsort(whole, kind="stable")
        self._ids, self._part = whole[at], part[at]

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Which of some ids (their first 64 bits) have a text here."""
        at = np.minimum(np.searchsorted(self._ids, ids), max(0, len(self._ids) - 1))
        return self._ids[at] == ids if len(self._ids) else np.zeros(len(ids), bool)

    def part(self, doc_id: str) -> str | None:
        """The part that holds a page, of those chosen."""
        number = numbered(pa.array([doc_id], pa.string()))
        return self.parts[self._part[np.searchsorted(self._ids, number)[0]]] if self.has(number)[0] else None

    def read(self, doc_ids: Collection[str]) -> dict[str, Text]:
        """Those of the pages that are here. A part that cannot be read is noted."""
        by_part: dict[str, list[str]] = {}
        for doc_id in sorted(set(doc_ids)):
            part = self.part(doc_id)
            if part is not None:
                by_part.setdefault(part, []).append(doc_id)
        found: dict[str, Text] = {}
        for part, ids in by_part.items():
            try:
                found |= self._read(part, ids)
            except CrawlmillError as error:
                self.note("texts", str(error))
        return found

    def _read(self, part: str, ids: list[str]) -> dict[str, Text]:
        rows = self.run.folder.read_table(f"documents/part-{part}.parquet", ["doc_id", "text", "language"])
        rows = rows.filter(pc.is_in(rows.column("doc_id"), value_set=pa.array(ids, pa.string())))
        named = strings(rows.column("doc_id"))
        texts = [(text or "")[:MOST_CHARS] for text in strings(rows.column("text"))]
        safe = masked(texts, strings(rows.column("language")), self.recipe)
        return {doc_id: text for doc_id, text in zip(named, safe, strict=True) if doc_id is not None}


def masked(texts: Sequence[str], languages: Sequence[str | None], recipe: Recipe) -> list[Text]:
    """Texts with their personal data found, of every kind, whatever the recipe masks."""
    masking = Masking(mask=_kinds(recipe), role_addresses=True)
    names = [str(i) for i in range(len(texts))]
    found = mask(pa.array(texts, pa.string()), names, pa.array(languages, pa.string()), masking).found
    personal: list[Marks] = [[] for _ in texts]
    for row in found.to_pylist():
        personal[int(row["doc_id"])].append((row["start"], row["end"], row["kind"]))
    return [Text(text, own) for text, own in zip(texts, personal, strict=True)]


def _kinds(recipe: Recipe) -> tuple[str, ...]:
    """Every kind that can be recognised without a model, and those that the recipe masks by one."""
    from pipeline.signals.pii import KINDS

    return (*KINDS, *(kind for kind in recipe.pii.mask if kind not in KINDS))
