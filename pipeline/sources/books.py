"""Plain-text books: Project Gutenberg's frame removed, paragraphs in lines of 70 characters made one line each.

What a file says of itself is read by the lists of `books.yaml`. Whether the lines of a paragraph are joined is told by
how they break: prose breaks where the next word would not have fitted, verse, lists, tables and letter heads before.
"""

import re
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import yaml


class Book(NamedTuple):
    """A book. `title`, `author` and `language` are as its header has them ("English"); None where it has none."""

    text: str
    title: str | None
    author: str | None
    language: str | None


def book(text: str) -> Book:
    """The book in a file's text: without header, licence and notes on the file, its paragraphs a line each with one
    blank line between. Verse, tables and lists keep their lines.

    A text without Project Gutenberg's marks is all book: only its paragraphs are joined, and these only where the file
    is wrapped. The same goes for text extracted from HTML, whose lines are paragraphs. Never raises.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    inside, header = _framed(lines)
    title = author = language = None
    if inside is not None:
        title, author, language = _fields(header)
        lines = _without_notes(inside)
    wrapped = _width(lines)
    if wrapped:
        body = "\n\n".join(_unwrapped(paragraph, wrapped) for paragraph in _paragraphs(lines))
    else:
        body = "\n".join(lines) if inside is None else re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return Book(body.strip("\n"), title, author, language)


class _Rules(NamedTuple):
    starts: re.Pattern[str]
    small_print_starts: re.Pattern[str]
    small_print_ends: re.Pattern[str]
    ends: re.Pattern[str]
    about_file: re.Pattern[str]
    notes: re.Pattern[str]
    illustration: re.Pattern[str]
    first_line: re.Pattern[str]
    fields: dict[str, re.Pattern[str]]


@cache
def _rules() -> _Rules:
    lists = yaml.safe_load(Path(__file__).with_name("books.yaml").read_text(encoding="utf-8"))

    def any_of(patterns: Iterable[str]) -> re.Pattern[str]:
        return re.compile(r"\s{0,80}(?:" + "|".join(patterns) + ")", re.IGNORECASE)

    return _Rules(
        any_of(lists["starts"]),
        any_of(lists["small_print_starts"]),
        any_of(lists["small_print_ends"]),
        any_of(lists["ends"]),
        any_of(lists["about_file"]),
        any_of(lists["notes"]),
        any_of([lists["illustration"]]),
        re.compile(lists["first_line"], re.IGNORECASE),
        {
            name: re.compile(rf"\s{{0,10}}(?:{words})\s?:\s*(.*)", re.IGNORECASE)
            for name, words in lists["fields"].items()
        },
    )


def _framed(lines: list[str]) -> tuple[list[str] | None, list[str]]:
    """The lines between the marks and those before the first one; None for the former where there are no marks.

    A file may hold the licence in its middle, between two parts: what stands between an end and the next start goes.
    """
    rules = _rules()
    kept: list[str] = []
    header: list[str] | None = None
    inside = marked = False
    small_print: int | None = None
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if "*" not in line and "utenberg" not in line and "UTENBERG" not in line:
            if inside or not marked:
                kept.append(line)
            continue
        if rules.starts.match(line):
            for _ in range(3):  # a long title goes on below
                if line.rstrip().endswith("*") or number >= len(lines) or not lines[number].strip():
                    break
                line = lines[number]
                number += 1
            header, kept = _begun(header, kept, marked and not inside)
            inside = marked = True
            small_print = None
        elif rules.small_print_ends.match(line):
            if small_print is not None and header is not None:
                del kept[small_print:]
            else:
                header, kept = _begun(header, kept, False)
            inside = marked = True
            small_print = None
        elif rules.small_print_starts.match(line):
            small_print = len(kept) if inside or not marked else None
            if not marked:
                kept.append(line)
        elif rules.ends.match(line) and (marked or _late(kept)):
            inside, marked = False, True
            if header is None:
                header, kept = _split_header(kept)
        elif inside or not marked:
            kept.append(line)
    return (kept, header or []) if marked else (None, [])


def _begun(header: list[str] | None, kept: list[str], again: bool) -> tuple[list[str], list[str]]:
    """Header and book after a mark of a start: what came before it is header, unless a book was already over."""
    if header is None:
        return kept, []
    if again or _late(kept):
        return header, kept
    return header + kept, []  # two marks in one header


_HEADER_LINES = 800
"""Lines that a header has at most; the longest small print has about 400."""


def _late(kept: list[str]) -> bool:
    return len(kept) > _HEADER_LINES or sum(map(len, kept)) > 60 * _HEADER_LINES


def _split_header(lines: list[str]) -> tuple[list[str], list[str]]:
    """Header and book of a file that marks only its end: the header is its fields and the first line, if any."""
    rules = _rules()
    end = 0
    for number, line in enumerate(lines[:60]):
        if any(field.match(line) for field in rules.fields.values()) or "gutenberg" in line.lower():
            end = number + 1
    return lines[:end], lines[end:]


def _fields(header: list[str]) -> tuple[str | None, str | None, str | None]:
    rules = _rules()
    found: dict[str, str] = {}
    for number, line in enumerate(header[:_HEADER_LINES]):
        for name, field in rules.fields.items():
            if name not in found and (match := field.match(line)) and match[1].strip():
                value = [match[1].strip()]
                for following in header[number + 1 : number + 4]:  # an indented line goes on with the value
                    if not following.startswith("  ") or not following.strip() or ":" in following[:30]:
                        break
                    value.append(following.strip())
                found[name] = " ".join(value)[:500]
    if "title" not in found:
        for line in header[:40]:
            if (match := rules.first_line.fullmatch(line.strip()[:400])) and match["title"]:
                found["title"] = match["title"].strip(" ,*")
                if match["author"]:
                    found.setdefault("author", match["author"].strip(" ,*"))
                break
    return found.get("title"), found.get("author"), found.get("language")


_EDGE_PARAGRAPHS = 12
"""Paragraphs at each end of a book among which notes on the file are looked for."""

_HEADING = 30
"""Characters of a line that is a note's heading; a longer one begins with its text."""

_NOTE_SHARE = 0.05
"""Share of a book's lines that the note at its end has at most."""


def _end_of_book(paragraphs: list[list[str]]) -> int:
    """The paragraph that the note at the end begins with."""
    notes = _rules().notes
    most = max(40, int(_NOTE_SHARE * sum(map(len, paragraphs))))
    lines = 0
    end = len(paragraphs)
    for number in range(len(paragraphs) - 1, len(paragraphs) // 2 - 1, -1):
        lines += len(paragraphs[number])
        if lines > most:
            break
        if notes.match(paragraphs[number][0]):
            end = number
    return end


def _without_notes(lines: list[str]) -> list[str]:
    """The book without notes on the file at its ends, and without the places of pictures, whose captions go with
    them."""
    rules = _rules()
    blank_lines = any(not line.strip() for line in lines[: len(lines) // 2 + 1])
    paragraphs = _paragraphs(lines) if blank_lines else [[line] for line in lines if line.strip()]
    paragraphs = paragraphs[: _end_of_book(paragraphs)]
    kept: list[list[str]] = []
    n = len(paragraphs)
    in_note = False
    for number, paragraph in enumerate(paragraphs):
        first = paragraph[0]
        edge = number < _EDGE_PARAGRAPHS or number >= n - _EDGE_PARAGRAPHS
        is_note = rules.notes.match(first) is not None
        if edge and (is_note or rules.about_file.match(first) or _about_file(paragraph)):
            in_note = is_note and len(first.strip()) <= _HEADING  # it takes the paragraph below along
            continue
        if in_note:
            in_note = False
            continue
        if rules.illustration.match(first):
            end = next((i for i, line in enumerate(paragraph) if line.rstrip().endswith("]")), None)
            paragraph = paragraph if end is None else paragraph[end + 1 :]
        if paragraph:
            kept.append(paragraph)
    joined: list[str] = []
    for paragraph in kept:
        if joined and blank_lines:
            joined.append("")
        joined += paragraph
    return joined


def _about_file(paragraph: list[str]) -> bool:
    text = " ".join(line.strip() for line in paragraph[:6])[:500].lower()
    return "project gutenberg" in text or "pgdp.net" in text or "distributed proofread" in text


def _paragraphs(lines: list[str]) -> list[list[str]]:
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            paragraphs[-1].append(line.expandtabs(8).rstrip())
        elif paragraphs[-1]:
            paragraphs.append([])
    return [paragraph for paragraph in paragraphs if paragraph]


def _width(lines: list[str]) -> int:
    """Characters that a file's lines are wrapped at; 0 where they are not."""
    lengths = sorted(len(line.rstrip()) for line in lines if line.strip())
    if len(lengths) < 4 or len(lengths) > len(lines) * 0.98 > 100:
        return 0
    width = lengths[int(len(lengths) * 0.95)]
    if not 45 <= width <= 100 or lengths[int(len(lengths) * 0.995)] > 1.5 * width:
        return 0
    following = [b.lstrip()[:1] for a, b in pairwise(lines) if a.strip() and b.strip()]
    in_sentence = sum(not first.isupper() and first.isalpha() for first in following)
    return width if following and in_sentence >= 0.35 * len(following) else 0


_GAPS = re.compile(r"\S {3,}\S|\t|\.{6,}|(?: \.){5,}|\|")


_SIGNATURE = 12
"""Columns that a signature is indented more than what it signs."""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _unwrapped(paragraph: list[str], width: int) -> str:
    """A paragraph in one line, or its lines where it is none. A name that signs it far to the right has its own."""
    signed = len(paragraph)
    column = max(_indent(paragraph[0]) + _SIGNATURE, width * 2 // 5)
    while signed > 1 and _indent(paragraph[signed - 1]) >= column:
        signed -= 1
    if _is_prose(paragraph[:signed], width) and len(paragraph[0].strip()) > 0.5 * width:
        return "\n".join([_joined(paragraph[:signed]), *(line.strip() for line in paragraph[signed:])])
    if _is_prose(paragraph, width):
        return _joined(paragraph)
    parts = _indented_parts(paragraph)
    if len(parts) > 1 and all(len(part) > 1 and _is_prose(part, width) for part in parts[:-1]):
        return "\n".join(map(_joined, parts))
    indent = min(_indent(line) for line in paragraph)
    return "\n".join(line[indent:] for line in paragraph)


def _indented_parts(paragraph: list[str]) -> list[list[str]]:
    """A stretch without blank lines, cut before the lines that are indented more than the next one is: paragraphs of
    books that set them apart so."""
    parts: list[list[str]] = [[]]
    for number, line in enumerate(paragraph):
        following = paragraph[number + 1] if number + 1 < len(paragraph) else line
        if parts[-1] and _indent(line) > _indent(following) and _indent(line) > _indent(paragraph[number - 1]):
            parts.append([])
        parts[-1].append(line)
    return parts


def _is_prose(paragraph: list[str], width: int) -> bool:
    """Whether lines break for want of room: each but the last is so long that the next word would not have fitted."""
    if len(paragraph) == 1:
        return True
    indents = [_indent(line) for line in paragraph[1:]]
    if max(indents) - min(indents) > 1:
        return False
    if sum(bool(_GAPS.search(line.lstrip())) for line in paragraph) * 3 > len(paragraph):
        return False
    longest = max(map(len, paragraph))
    if longest < 0.72 * width:
        return False
    room = max(longest, width - 6) - 4  # whoever wrapped by hand did not use all of it
    full = sum(len(a) + 1 + len(b.split(None, 1)[0]) > room for a, b in pairwise(paragraph))
    starts = [line.lstrip("_\"'“‘«([* ")[:1] for line in paragraph[1:]]
    capital = sum(not (first.islower() or first.isdigit()) for first in starts)
    if len(starts) >= 3 and capital == len(starts) and full < len(starts):
        return False
    if len(starts) == 3 and full == 2 and capital < 3:
        return True
    return full >= (0.75 if len(starts) > 3 else 0.99) * len(starts) or (
        full >= 0.5 * len(starts) and capital <= 0.34 * len(starts)
    )


def _joined(paragraph: list[str]) -> str:
    text = paragraph[0].strip()
    pieces = [text]
    for line in paragraph[1:]:
        line = line.strip()
        # A dash or hyphen at the end of a line was broken behind, not put there.
        close = text.endswith(("--", "—")) or (text.endswith("-") and text[-2:-1].isalpha() and line[:1].isalpha())
        pieces.append(line if close else " " + line)
        text = line
    return re.sub(r" {2,}", " ", "".join(pieces))


__all__ = ["Book", "book"]
