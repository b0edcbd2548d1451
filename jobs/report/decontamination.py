"""The page on decontamination: which items stand in which pages, with the evidence side by side."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader

from pipeline.recipe import Recipe

EXAMPLES = 50
"""Items of each benchmark that are shown; all of them are in the table benchmark_items."""

_WORD = re.compile(r"\w+")

Piece = tuple[str, bool]
"""A stretch of text, and whether it is highlighted."""


def page(recipe: Recipe, items: pa.Table, summary: Sequence[Mapping[str, Any]], searched: int) -> str:
    """The page as HTML. `items` has schema BENCHMARK_ITEMS, `summary` is that of `pipeline.contamination.proof`.

    `searched` is how many pages were looked at.
    """
    found = items.filter(pc.and_(pc.greater(items.column("n_pages"), 0), pc.invert(items.column("decoy"))))
    found = found.filter(pc.not_equal(found.column("status"), "duplicate"))
    found = found.sort_by([("n_pages", "descending"), ("best_score", "descending"), ("item", "ascending")])
    sections = []
    for row in summary:
        of_it = found.filter(pc.equal(found.column("benchmark"), row["benchmark"]))
        sections.append({"name": row["benchmark"], "n": of_it.num_rows, "examples": list(_examples(of_it))})
    environment = Environment(
        loader=PackageLoader("jobs.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("decontamination.html")
    return template.render(recipe=recipe, summary=summary, sections=sections, searched=searched, most=EXAMPLES)


def _examples(items: pa.Table) -> Iterator[dict[str, Any]]:
    for row in items.slice(0, EXAMPLES).to_pylist():
        marks = [(mark["start"], mark["end"]) for mark in row["marks"] or ()]
        excerpt = row["excerpt"] or ""
        words = {word.casefold() for start, end in marks for word in _WORD.findall(excerpt[start:end])}
        yield {**row, "page": _marked(excerpt, marks), "item_text": _shared(row["text"] or "", words)}


def _marked(text: str, marks: Sequence[tuple[int, int]]) -> list[Piece]:
    pieces = []
    at = 0
    for start, end in marks:
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [piece for piece in [*pieces, (text[at:], False)] if piece[0]]


def _shared(text: str, words: set[str]) -> list[Piece]:
    """The text of an item, its words highlighted that were matched in the page."""
    marks: list[tuple[int, int]] = []
    for word in _WORD.finditer(text):
        if word.group().casefold() in words:
            if marks and text[marks[-1][1] : word.start()].isspace():
                marks[-1] = (marks[-1][0], word.end())
            else:
                marks.append(word.span())
    return _marked(text, marks)
