"""A page as a list of blocks: the runs of text between block-level tags, with where each stands in the page.

One walk over the tree that libxml2 builds. Every element covers a contiguous run of blocks, so what a container holds
is a difference of prefix sums; `features.py` turns the blocks into numbers.
"""

import functools
import re
from dataclasses import dataclass, field
from importlib.resources import files

import yaml
from lxml import etree

_NAMES = yaml.safe_load((files(__package__) / "names.yaml").read_text("utf-8"))
DROPPED: tuple[str, ...] = tuple(_NAMES["dropped"].split())
_INLINE = frozenset(_NAMES["inline"].split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}

TAGS = ("p", "heading", "li", "cell", "pre", "quote", "term", "caption", "div", "other")
"""Kinds of the element that a block stands in directly."""
_TAG_OF = {
    **dict.fromkeys(_HEADINGS, "heading"),
    "p": "p",
    "li": "li",
    "td": "cell",
    "th": "cell",
    "pre": "pre",
    "listing": "pre",
    "blockquote": "quote",
    "dt": "term",
    "dd": "term",
    "figcaption": "caption",
    "caption": "caption",
    "summary": "heading",
    **dict.fromkeys(("div", "section", "article", "main", "body", "center"), "div"),
}
_TAG_INDEX = {tag: TAGS.index(kind) for tag, kind in _TAG_OF.items()}

PLACES = ("nav", "header", "footer", "aside", "article", "main", "form", "table", "list", "figure", "quote", "hidden")
"""Elements that mark everything inside them; bit i of a block's mask is PLACES[i], and the hints follow."""
_PLACE_OF = {
    **{place: place for place in ("nav", "header", "footer", "aside", "article", "main", "form", "table", "figure")},
    "ul": "list",
    "ol": "list",
    "blockquote": "quote",
    "menu": "nav",
}
_PLACE_BIT = {tag: 1 << PLACES.index(place) for tag, place in _PLACE_OF.items()}
_HIDDEN = 1 << PLACES.index("hidden")

HINTS: dict[str, str] = _NAMES["hints"]
_HINT = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in HINTS.items()))
_HINT_BIT = {name: 1 << (len(PLACES) + i) for i, name in enumerate(HINTS)}
N_FLAGS = len(PLACES) + len(HINTS)


@functools.lru_cache(maxsize=50_000)
def _hints(names: str) -> int:
    mask = 0
    for name in names[:300].split():
        mask |= _hints_of_name(name)
    return mask


@functools.lru_cache(maxsize=200_000)
def _hints_of_name(name: str) -> int:
    mask = 0
    for found in _HINT.finditer(name.lower()):
        mask |= _HINT_BIT[found.lastgroup or "site"]
    return mask


@dataclass(slots=True)
class Blocks:
    """The blocks of a page in page order, as columns, and the elements that hold them."""

    text: list[str] = field(default_factory=list)
    link_chars: list[int] = field(default_factory=list)
    tag: list[int] = field(default_factory=list)
    """Index into TAGS."""
    level: list[int] = field(default_factory=list)
    """1..6 in a heading, else 0."""
    flags: list[int] = field(default_factory=list)
    """Bit mask of PLACES and HINTS over all ancestors."""
    own: list[int] = field(default_factory=list)
    """The same over the element itself and its parent only."""
    depth: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    """Line breaks inside the block."""
    row: list[int] = field(default_factory=list)
    """Number of the table row around the block; 0 outside tables."""
    element: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    """By element: the element around it, -1 for the root."""
    start: list[int] = field(default_factory=list)
    """By element: its first block."""
    end: list[int] = field(default_factory=list)
    """By element: one past its last block."""
    title: str = ""

    def __len__(self) -> int:
        return len(self.text)


_PARSER = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)


def read_blocks(markup: str) -> Blocks:
    """The blocks of a page. No blocks where libxml2 finds no element."""
    blocks = Blocks()
    data = markup.encode("utf-8", "replace")
    try:
        root = etree.fromstring(data, _PARSER) if data.strip() else None
    except etree.XMLSyntaxError:  # nothing but white space and comments
        root = None
    if root is None:
        return blocks
    title = root.find("head/title")
    blocks.title = " ".join((title.text or "").split()) if title is not None else ""
    etree.strip_elements(root, *DROPPED, with_tail=False)
    body = root.find("body")
    _walk(root if body is None else body, blocks)
    return blocks


def _walk(body: "etree._Element", blocks: Blocks) -> None:
    # One long loop and local names on purpose: it runs for every tag of every page.
    pieces: list[str] = []
    link_chars = breaks = 0
    in_link = in_pre = 0
    bullet = ""
    rows = 0
    # One entry for each open block-level element: element, tag index, heading level, flags, own flags, row.
    stack: list[tuple[int, int, int, int, int, int]] = []
    element, tag_index, level, flags, own, row = -1, len(TAGS) - 1, 0, 0, 0, 0
    parent_own = 0
    parents, starts, ends = blocks.parent, blocks.start, blocks.end
    texts = blocks.text
    inline, tag_indices, place_bits = _INLINE, _TAG_INDEX, _PLACE_BIT

    def flush() -> None:
        nonlocal link_chars, breaks, bullet
        raw = "".join(pieces)
        pieces.clear()
        if in_pre:
            text = raw.strip("\n").rstrip()
        elif breaks:
            text = "\n".join(line for part in raw.split("\x1f") if (line := " ".join(part.split())))
        else:
            text = " ".join(raw.split())
        if text and not text.isspace():
            if bullet:
                text = bullet + text
                bullet = ""
            texts.append(text)
            blocks.link_chars.append(link_chars)
            blocks.tag.append(tag_index)
            blocks.level.append(level)
            blocks.flags.append(flags)
            blocks.own.append(own)
            blocks.depth.append(len(stack))
            blocks.breaks.append(breaks)
            blocks.row.append(row)
            blocks.element.append(max(element, 0))
        link_chars = breaks = 0

    for event, node in etree.iterwalk(body, events=("start", "end")):
        tag = node.tag
        if event == "start":
            if tag in inline:
                if tag == "a":
                    in_link += 1
                piece = node.text
                if piece:
                    pieces.append(piece)
                    if in_link:
                        link_chars += len(piece)
            elif tag == "br":
                pieces.append("\n" if in_pre else "\x1f")
                breaks += 1
            else:
                if pieces:
                    flush()
                stack.append((element, tag_index, level, flags, own, row))
                parents.append(element)
                element = len(starts)
                starts.append(len(texts))
                ends.append(0)
                names = node.get("class") or ""
                identity = node.get("id")
                if identity:
                    names = f"{names} {identity}"
                mask = _hints(names) if names else 0
                mask |= place_bits.get(tag, 0)
                style = node.get("style")
                if (style and "none" in style and "display" in style) or node.get("hidden") is not None:
                    mask |= _HIDDEN
                own = mask | parent_own
                parent_own = mask
                flags |= mask
                tag_index = tag_indices.get(tag, len(TAGS) - 1)
                level = _HEADINGS.get(tag, 0)
                if tag == "li":
                    bullet = "- "
                elif tag == "tr":
                    rows += 1
                    row = rows
                elif tag == "table":
                    row = 0
                elif tag == "pre":
                    in_pre += 1
                piece = node.text
                if piece:
                    pieces.append(piece)
                    if in_link:
                        link_chars += len(piece)
        else:
            if tag in inline:
                if tag == "a" and in_link:
                    in_link -= 1
            elif tag != "br":
                if pieces:
                    flush()
                bullet = ""
                if tag == "pre" and in_pre:
                    in_pre -= 1
                ends[element] = len(texts)
                element, tag_index, level, flags, own, row = stack.pop()
                parent_own = own
            piece = node.tail
            if piece and node is not body:
                pieces.append(piece)
                if in_link:
                    link_chars += len(piece)
    if pieces:
        flush()
