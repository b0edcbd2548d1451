"""The inline side of wikitext: what is literal or dropped, templates, links, tags, emphasis.

All of it runs in one pass each over the text, with a stack for what nests, innermost first: a template's arguments hold
no templates and no links any more when it is looked at, so that `|` and `=` in them mean what they say. Parsers that
build spans for a whole article take time with the square of what an author may write; this takes it linear.
"""

import html
import re
from collections.abc import Callable

from pipeline.sources.wikitext_templates import arguments_of, lowered, raised, rules, shown, template_name

# Code points that Unicode reserves for use inside of programs; what a page holds of them is removed first.
DROP = "\ufdd0"
"""Where something without words was dropped, for `mend`."""
PIPE, EQUALS = "\ufdd3", "\ufdd4"
"""`|` and `=` that came out of a template or a link."""
BREAK = "\ufdd5"
"""A line break within a block."""
ROW = "\ufdd6"
"""Begins the line of a table row."""
_LITERAL_START, _LITERAL_END = "\ufdd1", "\ufdd2"
_RESERVED = re.compile("[\ufdd0-\ufdef\x00]")

MOST_DEPTH = 40
"""Templates and links in each other that are looked into; MediaWiki stops at 40 as well ($wgMaxTemplateDepth)."""


class Literals:
    """Stretches of a text that are shown as they stand, kept aside under a number."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def put(self, text: str) -> str:
        """What stands for `text` until `restore`."""
        self._texts.append(text)
        return f"{_LITERAL_START}{len(self._texts) - 1}{_LITERAL_END}"

    def restore(self, text: str) -> str:
        """`text` with the stretches in their places."""
        return _PLACE.sub(lambda found: self._texts[int(found[1])], text)


_PLACE = re.compile(f"{_LITERAL_START}([0-9]+){_LITERAL_END}")


def clean(text: str) -> str:
    """Valid Unicode with line feeds and without the characters that this module reserves."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _RESERVED.sub("", text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text


_ELEMENT = re.compile(r"<!--|<([a-zA-Z]{1,20})\b([^<>]{0,1000})>")
_REF = re.compile(r"<(/?)(?:ref|references)\b[^<>]{0,1000}>", re.IGNORECASE)


def set_aside(text: str, literals: Literals) -> str:
    """The text without comments, references and elements that hold no text, and with code and mathematics in
    `literals`. A comment that does not end goes on to the end of the text; of an element that does not, the tag goes."""
    if "<" not in text:
        return text
    dropped = rules().dropped_elements
    lower = text.lower()
    if len(lower) != len(text):  # a few letters are longer in lower case
        lower = text
    kept: list[str] = []
    position = at = 0
    endless: set[str] = set()
    while found := _ELEMENT.search(text, at):
        name = (found[1] or "").lower()
        at = found.end()
        if not name:
            start = found.start()
            end = text.find("-->", start + 4)
            end = len(text) if end < 0 else end + 3
            # A comment alone on its lines takes them with it.
            line = text.rfind("\n", position, start) + 1
            if (line or position == 0) and not text[line:start].strip(" \t") and line >= position:
                after = end
                while after < len(text) and text[after] in " \t":
                    after += 1
                if after < len(text) and text[after] == "\n":
                    start, end = line, after + 1
            kept.append(text[position:start])
            position = at = end
            continue
        if name not in _ASIDE and name not in dropped and name != "ref" and name != "references":
            continue
        kept.append(text[position : found.start()])
        position = at
        if found[2].endswith("/"):
            continue
        if name in ("ref", "references"):
            position = at = _end_of_reference(text, at, name)
            continue
        close = -1 if name in endless else lower.find(f"</{name}", at)
        if close < 0:
            endless.add(name)
            continue
        end = text.find(">", close)
        end = len(text) if end < 0 else end + 1
        if name not in dropped:
            kept.append(_ASIDE[name](text[at:close], found[2], literals))
        position = at = end
    kept.append(text[position:])
    return "".join(kept)


def _end_of_reference(text: str, at: int, name: str) -> int:
    """Where a reference ends. One that the next begins in, or nothing ends, ends with its line."""
    nested = 0
    for edge in _REF.finditer(text, at, min(len(text), at + 20_000 if name == "ref" else len(text))):
        if edge[1]:
            if nested == 0 or name == "ref":
                return edge.end()
            nested -= 1
        elif not edge[0].endswith("/>"):
            if name == "ref":
                line = text.find("\n", at, edge.start())
                return edge.start() if line < 0 else line
            nested += 1
    line = text.find("\n", at)
    return len(text) if line < 0 else line


def _nowiki(body: str, attributes: str, literals: Literals) -> str:
    return literals.put(html.unescape(body)) if body else ""


def _pre(body: str, attributes: str, literals: Literals) -> str:
    return _lines(html.unescape(re.sub(r"</?nowiki\s*/?>", "", body)), literals)


def _code(body: str, attributes: str, literals: Literals) -> str:
    if re.search(r"\binline\b", attributes):
        return literals.put(" ".join(body.split()))
    return _lines(body, literals)


def _lines(body: str, literals: Literals) -> str:
    lines = (line.rstrip() for line in body.split("\n"))
    body = "\n".join(line for line in lines if line)
    return f"{BREAK}{literals.put(body)}{BREAK}" if body else ""


def _formula(body: str, attributes: str, literals: Literals) -> str:
    tex = " ".join(html.unescape(body).split())
    if not tex:
        return ""
    mark = "$$" if re.search(r"display\s*=\s*[\"']?block", attributes) else "$"
    return literals.put(f"{mark}{tex}{mark}")


def _chemistry(body: str, attributes: str, literals: Literals) -> str:
    tex = " ".join(html.unescape(body).split())
    return literals.put(f"$\\ce{{{tex}}}$") if tex else ""


def _poem(body: str, attributes: str, literals: Literals) -> str:
    return "\n\n" + body.strip("\n").replace("\n", "<br>\n") + "\n\n"


_ASIDE: dict[str, Callable[[str, str, Literals], str]] = {
    "nowiki": _nowiki,
    "pre": _pre,
    "syntaxhighlight": _code,
    "source": _code,
    "math": _formula,
    "chem": _chemistry,
    "ce": _chemistry,
    "poem": _poem,
}

_BRACKET = re.compile(r"\{\{+|\}\}+|\[\[|\]\]|\n(?=[\n=])")
_HEADING_NEXT = re.compile(r"\n=+[^=\n]")


class _Open:
    """Something opened: `[[`, or a run of `n` braces, and what came after it so far."""

    __slots__ = ("n", "parts")

    def __init__(self, n: int) -> None:
        self.n = n  # braces; 0 for a link
        self.parts: list[str] = []


def expand(text: str, title: str) -> str:
    """The text with each template as what it shows and each link as its label. Brackets without a partner go; of a
    template that nothing ends goes the line that it begins on, and the lines of arguments below."""
    stack = [_Open(-1)]
    n_braces = skipped = 0  # frames of braces on the stack; brackets beyond the depth
    position = 0

    def close_link() -> None:
        inside = "".join(stack.pop().parts)
        stack[-1].parts.append(inside)

    for found in _BRACKET.finditer(text):
        token = found[0]
        stack[-1].parts.append(text[position : found.start()])
        position = found.end()
        first = token[0]
        if first == "\n":
            while stack[-1].n == 0:  # links do not go on to the next paragraph
                close_link()
            stack[-1].parts.append("\n")
        elif first == "[":
            if len(stack) > MOST_DEPTH:
                skipped += 1
            else:
                stack.append(_Open(0))
        elif first == "{":
            if len(stack) > MOST_DEPTH:
                skipped += len(token) // 2
            else:
                stack.append(_Open(len(token)))
                n_braces += 1
        elif first == "]":
            if skipped:
                skipped -= 1
            elif stack[-1].n == 0:
                inside = "".join(stack.pop().parts)
                stack[-1].parts.append(_guarded(_link(inside, title)))
        else:
            left = len(token)
            while left >= 2:
                if skipped:
                    skipped -= 1
                    left -= 2
                    continue
                if not n_braces:
                    break
                while stack[-1].n == 0:
                    close_link()
                top = stack[-1]
                taken = 3 if top.n >= 3 and left >= 3 and top.n != 4 else 2
                inside = "".join(top.parts)
                output = _parameter(inside) if taken == 3 else _template(inside, title)
                left -= taken
                top.n -= taken
                if top.n >= 2:
                    top.parts = [_guarded(output)]
                else:
                    stack.pop()
                    n_braces -= 1
                    stack[-1].parts.append(("{" if top.n else "") + _guarded(output))
            if left == 1:
                stack[-1].parts.append("}")
    stack[-1].parts.append(text[position:])
    while len(stack) > 1:
        top = stack.pop()
        inside = "".join(top.parts)
        stack[-1].parts.append(inside if top.n == 0 else DROP + _unclosed(inside))
    return "".join(stack[0].parts).replace(PIPE, "|").replace(EQUALS, "=")


def _guarded(text: str) -> str:
    return text.replace("|", PIPE).replace("=", EQUALS)


def _unclosed(inside: str) -> str:
    lines = inside.split("\n")
    at = 1
    while at < len(lines) and lines[at].lstrip()[:1] in ("|", "}", "*"):
        at += 1
    return "\n".join(["", *lines[at:]])


def _parameter(inside: str) -> str:
    """`{{{name|default}}}`, which outside of templates shows its default."""
    return inside.partition("|")[2]


_FUNCTIONS = {"formatnum", "lc", "uc", "lcfirst", "ucfirst", "subst", "safesubst", "plural", "nowrap"}


def _template(inside: str, title: str) -> str:
    parts = [part if part.strip(f" \n{DROP}") else "" for part in inside.split("|")]
    name = parts[0].replace(DROP, "").strip()
    before, colon, first = name.partition(":")
    if colon and before.strip().lower() in _FUNCTIONS:
        if "subst" in before:
            name = first
        else:
            return first.strip()
    if name.upper() in ("PAGENAME", "FULLPAGENAME", "BASEPAGENAME", "SUBJECTPAGENAME"):
        return title
    if name.startswith(("#", "DEFAULTSORT", "DISPLAYTITLE")):
        return DROP if name.startswith("#") else ""
    output = shown(name, arguments_of(parts[1:]))
    if output is None:
        return DROP
    # What shows its arguments more than once could double with each level.
    return output[: 2 * len(inside) + 200] if output else DROP


_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,10})*|simple|zh-[a-z-]+")


def _link(inside: str, title: str) -> str:
    """What `[[inside]]` shows: its label, or its target; nothing for files, categories and other languages."""
    target, bar, label = inside.partition("|")
    target = target.replace(DROP, "").strip()
    known = rules()
    shown_whole = target.startswith(":")
    space, colon, rest = target.lstrip(":").partition(":")
    space = space.strip().replace("_", " ").lower()
    if colon and not shown_whole and (space in known.files or space in known.categories):
        return ""
    if colon and not shown_whole and not bar and _LANGUAGE.fullmatch(space) and space not in known.prefixes:
        return "" if rest else inside
    label = label.strip(DROP)
    if label.strip():
        return label
    target = target.lstrip(":")
    if bar or (colon and (space in known.prefixes or space in known.files or space in known.categories)):
        target = (rest if colon else target).strip()
    if bar:  # the pipe trick
        target = re.sub(r"\s*\([^()]*\)$", "", target) if target.endswith(")") else target.partition(",")[0]
    target = target.strip("/").replace("_", " ") if target.startswith("/") else target.replace("_", " ")
    return target.removeprefix("#").strip()


# A label may hold no bracket: links in it are text by now. Possessive, so that no input makes it look twice.
_EXTERNAL = re.compile(
    r"\[(?:(?:https?|ftps?|irc|ircs|news|gopher|git|svn|telnet|sftp|xmpp|sip|geo|magnet|worldwind)://|//|mailto:|news:|tel:|urn:)"
    r"[^\s\[\]<>\"]*+[ \t]*+([^\[\]\n]*+)\]",
    re.IGNORECASE,
)


def external_links(text: str) -> str:
    """The text with labels for the links that have one, and without those that show a number."""
    if "//" not in text and ":" not in text:
        return text
    return _EXTERNAL.sub(lambda found: found[1] or DROP, text)


_HIDDEN = re.compile(r"<([a-zA-Z]{1,10})\b([^<>]{0,500})>([^<>]{0,2000})</\1\s*>")
_STYLE_NONE = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_SCRIPTS = re.compile(r"<su([bp])\b[^<>]{0,200}>([^<>]{0,200})</su[bp]\s*>", re.IGNORECASE)
_CELL = re.compile(r"</t[dh]\s*>\s*<t[dh]\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]{0,20})\b[^<>]*>")
_BLOCK_TAGS = frozenset((
    "br", "hr", "p", "div", "blockquote", "center", "table", "tbody", "thead", "tr", "td", "th", "caption", "ul", "ol",
    "li", "dl", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "pre",
))  # fmt: skip
_MAGIC = re.compile(r"__[A-Z]{3,30}__")


def without_tags(text: str) -> str:
    """The text without tags and magic words; those that begin or end a block are line breaks in it."""
    if "__" in text:
        text = _MAGIC.sub("", text)
    if "<" not in text:
        return text
    if "none" in text:
        text = _HIDDEN.sub(lambda found: "" if _STYLE_NONE.search(found[2]) else found[0], text)
    text = _SCRIPTS.sub(_script, text)
    if "<t" in text or "<T" in text:
        text = _CELL.sub(" &#124; ", text)
    return _TAG.sub(lambda found: BREAK if found[1].lower() in _BLOCK_TAGS else "", text)


_VARIABLE = re.compile(r"[\w+\-−*/., ()]{1,16}")


def _script(found: re.Match[str]) -> str:
    """Sub- or superscript: Unicode's where it has all of it, `x_n` and `2^(n−1)` for what is set as a variable, else as
    it is (`19th`)."""
    below = found[1] in "bB"
    marked = html.unescape(found[2]).strip()
    bare = marked.replace("''", "")
    text = lowered(bare) if below else raised(bare)
    if text != bare or bare == marked or not _VARIABLE.fullmatch(bare):
        return text
    return f"{'_' if below else '^'}{bare if len(bare) == 1 else f'({bare})'}"


_QUOTES = re.compile(r"'{2,}")
_BOLD_IN_WORD = re.compile(r"(?<=\w)'''(?!')")


def plain(text: str) -> str:
    """A line without emphasis marks, with entities resolved and what dropped things left behind mended."""
    if "''" in text:
        runs = [len(run) for run in _QUOTES.findall(text)]
        bold = sum(n != 2 for n in runs)
        italic = sum(n != 3 and n != 4 for n in runs)
        if bold % 2 and italic % 2:  # L'''Aurore'' is an apostrophe before italics
            text = _BOLD_IN_WORD.sub("'", text, count=1)
        text = _QUOTES.sub(_apostrophes, text)
    if "&" in text:
        text = html.unescape(text)
    if DROP in text:
        text = mend(text)
    return text


def _apostrophes(run: re.Match[str]) -> str:
    n = len(run[0])
    return "'" if n == 4 else "'" * (n - 5) if n > 5 else ""


_CLOSING = {"(": ")", "[": "]", "（": "）"}


def mend(text: str) -> str:
    """The text without the marks of what was dropped, and without the brackets, commas and spaces that stood for it:
    `( ; born 1950)` becomes `(born 1950)`, and `Tea ( ) is` becomes `Tea is`."""
    pieces = text.split(DROP)
    kept = [pieces[0]]
    for number, piece in enumerate(pieces[1:], 1):
        if number < len(pieces) - 1 and not piece.strip(" ,;:/"):
            if piece and kept[-1][-1:] not in (" ", "("):
                kept[-1] += " "
            continue
        left, right = kept[-1].rstrip(" "), piece.lstrip(" ")
        spaced = left != kept[-1] or right != piece
        last = left[-1:]
        if last in _CLOSING:
            right = right.lstrip(" ,;:–—")
            if right[:1] == _CLOSING[last]:
                left, right = left[:-1].rstrip(" "), right[1:]
                spaced = right[:1].isalnum() or right[:1] in ("(", "–", "—")
                right = right.lstrip(" ") if spaced else right
            else:
                spaced = False
        elif right[:1] in (")", "]", "）"):
            left, spaced = left.rstrip(" ,;:–—"), False
        elif right[:1] in (",", ".", ";", ":", "!", "?"):
            left, spaced = left.rstrip(" ,;"), False
        kept[-1] = left
        kept.append((" " if spaced and left and right else "") + right)
    return "".join(kept)


__all__ = [
    "BREAK", "DROP", "ROW", "Literals", "clean", "expand", "external_links", "mend", "plain", "set_aside", "template_name",
    "without_tags",
]  # fmt: skip
