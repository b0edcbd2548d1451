"""Wikitext of an article -> reading text.

Kept are headings, paragraphs, lists, tables, quotations, poems, code and mathematics; dropped are references, the
sections that only point elsewhere, boxes, pictures with their captions, and all markup. The text has the shape that
`pipeline.extraction` gives pages: each heading, paragraph, list item and table row on a line of its own with no blank
line between, cells separated by ` | `, items after `- ` or their number with two spaces a level, formulas as `$…$`,
code with its indentation.

wikitextparser reads the tables; `wikitext_markup` what stands in a line, `wikitext_templates` what templates show, by
the lists of `wikitext.yaml`.

Captions are dropped with their pictures: they break into the paragraph that they float beside, and speak of what a
reader of the text cannot see.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import wikitextparser

from pipeline.sources.wikitext_markup import (
    BREAK,
    DROP,
    ROW,
    Literals,
    clean,
    expand,
    external_links,
    plain,
    set_aside,
    without_tags,
)
from pipeline.sources.wikitext_templates import rules, template_name

MOST_TABLE_DEPTH = 10
"""Tables in tables that are read as such."""

MOST_LIST_DEPTH = 8
"""Levels of a list that are shown by indentation."""


def plain_text(wikitext: str, title: str | None = None, wiki: str = "") -> str:
    """The text of an article; its first line is `title`, where one is given.

    wiki: as `Page.wiki` has it (`enwiki`, or a host): where it names a language that `wikitext.yaml` knows, sections
    are dropped by their titles in this language and in English, else in all of them.

    Never raises, whatever the text, and takes time about linear in it.
    """
    literals = Literals()
    text = set_aside(clean(wikitext), literals)
    text = expand(text, title or "")
    text = without_tags(external_links(text))
    blocks = [block for block in _sections(_blocks(_without_tables(text)), _dropped_sections(wiki)) if block.text]
    lines = [_finished(block.text, literals) for block in _without_empty_headings(blocks)]
    heading = " ".join(clean(title).split()) if title else ""
    return "\n".join(line for line in (heading, *lines) if line)


def is_redirect(wikitext: str) -> bool:
    """Whether the page only points to another one, in any language that `wikitext.yaml` knows."""
    found = re.match(r"\s*#\s*([^\s\[\]:]{1,40})\s*:?\s*\[\[", wikitext)
    return found is not None and found[1].lower() in rules().redirects


_TEMPLATE_START = re.compile(r"\{\{([^{}|\n]{1,60})")


def is_disambiguation(wikitext: str) -> bool:
    """Whether the page lists the articles that a name can mean, told by its templates."""
    if "__DISAMBIG__" in wikitext:
        return True
    names = rules().disambiguations
    for found in _TEMPLATE_START.finditer(wikitext):
        name = template_name(found[1])
        if name in names or name.endswith(" disambiguation"):
            return True
    return False


@cache
def _dropped_sections(wiki: str) -> frozenset[str]:
    titles = rules().sections
    language = re.split(r"wiki|\.", wiki, maxsplit=1)[0]
    if language in titles:
        return titles[language] | titles["en"]
    return frozenset().union(*titles.values())


class _Block(NamedTuple):
    """Lines of text that stand together; `level` is 1..6 for a heading and 0 for anything else."""

    level: int
    text: str


def _blocks(lines: list[str]) -> Iterator[_Block]:
    paragraph: list[str] = []
    numbers: list[int] = []  # of the last item on each level of the list

    def flush() -> Iterator[_Block]:
        if paragraph:
            yield _Block(0, _broken(" ".join(paragraph)))
            paragraph.clear()

    for line in lines:
        if line.startswith(ROW):
            yield from flush()
            yield _Block(0, _row(line))
            continue
        whole = line.strip(" \t")
        line = line.lstrip(BREAK)
        bare = line.strip(f" \t{DROP}{BREAK}")
        first = bare[:1]
        if not bare:
            yield from flush()
            if not line.strip():
                numbers.clear()
            continue
        if first == "=" and (heading := _heading(bare)):
            yield from flush()
            numbers.clear()
            yield heading
        elif first in "*#:;" and line.lstrip(f" {DROP}")[:1] == first:
            yield from flush()
            yield from _item(bare, numbers)
            continue
        elif first == "-" and bare.startswith("----"):
            yield from flush()
        elif first in "|!" and re.match(r"\|[-}+]|\|\s*[\w ]{0,40}=|!", bare):
            yield from flush()  # what is left of a broken table or template
        elif line[0] == " " and not paragraph:
            yield _Block(0, _broken(line[1:], keep_spaces=True))
        else:
            paragraph.append(whole)
        numbers.clear()
    yield from flush()


def _heading(line: str) -> _Block | None:
    n_left = len(line) - len(line.lstrip("="))
    n_right = len(line) - len(line.rstrip("="))
    level = min(n_left, n_right, 6)
    if not level or n_left == len(line):
        return None
    text = " ".join(plain(line[level : len(line) - level].replace(BREAK, " ")).split())
    return _Block(level, text)


def _item(line: str, numbers: list[int]) -> Iterator[_Block]:
    if line[0] == ":" and rules().hatnotes.match(line):
        return
    marks = re.match(r"[*#:;]+", line)
    prefix = marks[0] if marks else ""
    text = line[len(prefix) :]
    depth = min(len(prefix), MOST_LIST_DEPTH)
    del numbers[depth:]
    numbers.extend([0] * (depth - len(numbers)))
    kind = prefix[-1:]
    indent = "  " * sum(mark in "*#" for mark in prefix[: depth - 1])
    if kind == "#":
        numbers[-1] += 1
        mark = f"{numbers[-1]}. "
    else:
        mark = "- " if kind == "*" else ""
    parts = [text]
    if kind == ";" and (found := re.search(r"\s:|:\s", text)):
        parts = [text[: found.start()], text[found.end() :]]
    for part in parts:
        lines = _broken(part).split("\n")
        if lines[0]:
            below = "\n" + indent + " " * len(mark)
            yield _Block(0, indent + mark + below.join(lines))


def _broken(text: str, keep_spaces: bool = False) -> str:
    """Text of one block as lines, without marks."""
    kept = []
    for line in text.split(BREAK):
        line = plain(line)
        line = line.replace("\xa0", " ").rstrip() if keep_spaces else " ".join(line.split())
        if line.strip():
            kept.append(line)
    return "\n".join(kept)


def _row(line: str) -> str:
    cells = [" ".join(plain(cell.replace(BREAK, " ")).split()) for cell in line[1:].split(ROW)]
    while cells and not cells[-1]:
        cells.pop()
    return " | ".join(cells).lstrip() if any(cells) else ""


def _sections(blocks: Iterator[_Block], dropped: frozenset[str]) -> Iterator[_Block]:
    """The blocks without the sections whose titles are `dropped`, and what stands below them."""
    level = 0
    for block in blocks:
        if block.level and (not level or block.level <= level):
            level = block.level if block.text.casefold().strip(" :.") in dropped else 0
        if not level:
            yield block


def _without_empty_headings(blocks: list[_Block]) -> list[_Block]:
    kept: list[_Block] = []
    for block in reversed(blocks):
        if not block.level or (kept and (not kept[-1].level or kept[-1].level > block.level)):
            kept.append(block)
    return kept[::-1]


def _finished(text: str, literals: Literals) -> str:
    return literals.restore(text).rstrip()


_CLASS = re.compile(r"class\s*=\s*(?:\"([^\"\n]*)|'([^'\n]*)|([\w-]+))", re.IGNORECASE)


def _without_tables(text: str) -> list[str]:
    """The lines of a text, with those of each table made rows."""
    if "{|" not in text and not (DROP in text and "|" in text):
        return text.split("\n")
    stack: list[list[str]] = [[]]
    for line in text.split("\n"):
        bare = line.lstrip(f" \t:*#{DROP}{BREAK}")
        if bare.startswith("{|"):
            if len(stack) <= MOST_TABLE_DEPTH:
                stack.append([bare])
        elif len(stack) > 1 and bare.startswith("|}"):
            table = stack.pop()
            stack[-1] += _table(table)
            if rest := bare[2:].strip():
                stack[-1].append(rest)
        else:
            stack[-1].append(line if len(stack) == 1 else bare if bare[:1] in ("|", "!") else line)
    while len(stack) > 1:  # a table that nothing ends goes on to the next heading
        table = stack.pop()
        end = next((n for n, line in enumerate(table) if line.startswith("=") and _heading(line.strip())), len(table))
        stack[-1] += _table(table[:end]) + table[end:]
    return stack[0]


def _table(lines: list[str]) -> list[str]:
    """A table as lines: one a row, cells apart by ROW. Rows of cells that hold lists, tables or paragraphs are there to
    place these on the page: what is in them comes as it is."""
    found = _CLASS.search(lines[0])
    if found and rules().dropped_tables.intersection((found[1] or found[2] or found[3] or "").lower().split()):
        return []
    try:
        table = wikitextparser.Table("\n".join([*lines, "|}"]))
        rows = table.data(span=False, strip=True)
        caption = table.caption
    except Exception:  # a parser that meets what its authors did not think of: the table without its marks
        return [ROW + re.sub(r"^[|!][-+}]?|\|\||!!", " ", line) for line in lines[1:]]
    out = [ROW + " ".join(caption.split())] if caption and caption.strip() else []
    for row in rows:
        cells = [cell or "" for cell in row]
        if any(_holds_blocks(cell) for cell in cells):
            for cell in cells:
                out += ["", *cell.split("\n")]
        else:
            out.append(ROW + ROW.join(_one_line(cell) for cell in cells))
    return ["", *out, ""]


def _holds_blocks(cell: str) -> bool:
    return ROW in cell or cell.count("\n") > 2


def _one_line(cell: str) -> str:
    if "\n" not in cell:
        return cell
    lines = [line for line in cell.split("\n") if line.strip()]
    items = [line.lstrip("*#:; ") for line in lines]
    return (", " if any(line.startswith(("*", "#")) for line in lines) else " ").join(items)


__all__ = ["is_disambiguation", "is_redirect", "plain_text"]
