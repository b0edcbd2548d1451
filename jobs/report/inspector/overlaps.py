"""Benchmark items that were found in a page: the item's text beside what the page says there, both marked."""

import re
from typing import Any, NamedTuple

from jobs.places import rows_of
from jobs.report.inspector.inspection import Inspection
from jobs.report.inspector.marks import Mark
from pipeline.differences import Piece, matches

MOST = 20
"""Items that are shown with their text; all of them are listed."""

CONTEXT = 200
"""Characters of the page that are shown on both sides of an item."""

MOST_CHARS = 3_000
"""Characters of an item, and of what the page says, that are shown."""

_WORD = re.compile(r"\w+|\W+")


class Overlap(NamedTuple):
    """A benchmark item in a page. `item` is its text, None where the run has none; `page` what the page says there."""

    facts: dict[str, Any]
    item: list[Piece] | None
    page: list[Piece]
    task: str | None


class Overlaps(NamedTuple):
    """Those that count, the best first, and how many more there are; `marks` are the places of all of them."""

    shown: list[Overlap]
    more: int
    decoys: int
    marks: list[Mark]


def overlaps(inspection: Inspection, row: dict[str, Any], text: str, part: str) -> Overlaps:
    """The benchmark items in a page's text."""
    table = rows_of(inspection.run.folder, "contamination", part, row["doc_id"])
    hits = table.to_pylist() if table is not None else []
    found = sorted(
        (hit for hit in hits if not hit["decoy"]), key=lambda hit: (-(hit["score"] or 0), hit["benchmark"], hit["item"])
    )
    marks = [
        Mark(span["start"], span["end"], "overlap", f"{hit['benchmark']}")
        for hit in found
        for span in hit["spans"] or [{"start": hit["start"], "end": hit["end"]}]
    ]
    marks = list(dict.fromkeys(mark for mark in marks if 0 <= mark.start <= mark.end <= len(text)))
    shown = [_overlap(inspection, hit, text) for hit in found[:MOST]]
    return Overlaps(shown, len(found) - len(shown), len(hits) - len(found), marks)


def _overlap(inspection: Inspection, hit: dict[str, Any], text: str) -> Overlap:
    tables = inspection.tables
    items = (
        tables.rows(
            "SELECT task, doc, text FROM benchmark_items WHERE benchmark = ? AND item = ?",
            [hit["benchmark"], hit["item"]],
        )
        if tables.has("benchmark_items")
        else []
    )
    start = max(0, hit["start"] - CONTEXT)
    end = min(len(text), hit["end"] + CONTEXT, start + MOST_CHARS)
    spans = sorted((span["start"], span["end"]) for span in hit["spans"] or [])
    page, at = [], start
    for a, b in spans:
        a, b = max(a, at), min(b, end)
        if a < b:
            page += [Piece(text[at:a], False), Piece(text[a:b], True)]
            at = b
    page.append(Piece(text[at:end], False))
    said = (items[0]["text"] or "")[:MOST_CHARS] if items else ""
    task = f"{items[0]['task']}, document {items[0]['doc']}" if items and items[0]["task"] else None
    item = _shared(said, text[max(0, hit["start"]) : min(hit["end"], hit["start"] + MOST_CHARS)]) if said else None
    return Overlap(hit, item, [piece for piece in page if piece.text], task)


def _shared(item: str, page: str) -> list[Piece]:
    """The item with the words marked that the page has in the same order."""
    words = _WORD.findall(item)
    at = [k for k, word in enumerate(words) if word[0].isalnum() or word[0] == "_"]
    same = set()
    for match in matches([words[k].casefold() for k in at], re.findall(r"\w+", page.casefold())):
        same |= {at[k] for k in range(match.left, match.left + match.n)}
    pieces: list[Piece] = []
    for k, word in enumerate(words):
        marked = k in same or (k - 1 in same and k + 1 in same)
        if pieces and pieces[-1].differs == marked:
            pieces[-1] = Piece(pieces[-1].text + word, marked)
        else:
            pieces.append(Piece(word, marked))
    return pieces
