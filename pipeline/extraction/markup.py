"""What is done to markup before any engine parses it: depth is bounded, and mathematics becomes text."""

import html
import re

import numpy as np

# First two letters of tags whose nesting is bounded by the parser itself (void, or closed by the next of their kind):
# area base br col dd dt embed hr img in(put) li(nk) me(ta) option p param rp rt source td th tr track wbr. Leaving them
# out keeps unclosed <p> and <li> from looking deep. Names that merely start alike (`pre`, `time`) only make the
# estimate smaller where they nest, which they do not.
_SHALLOW: tuple[str, ...] = (
    "ar",
    "ba",
    "br",
    "co",
    "dd",
    "dt",
    "em",
    "hr",
    "im",
    "in",
    "li",
    "me",
    "op",
    "p>",
    "p ",
    "pa",
    "rp",
)
_SHALLOW += ("rt", "so", "td", "th", "tr", "wb")
_STEP = np.full((256, 256), 0, np.int8)
for _letter in range(ord("a"), ord("z") + 1):
    for _case in (_letter, _letter - 32):
        _STEP[_case, :] = 1
for _pair in _SHALLOW:
    for _first in {_pair[0], _pair[0].upper()}:
        for _second in {_pair[1], _pair[1].upper()}:
            _STEP[ord(_first), ord(_second)] = 0

# Quoted values end at `<` here, so that a page of unbalanced quotes takes linear time.
_TAG = re.compile(
    r"<(script|style|!--)|<(/?)([a-zA-Z][a-zA-Z0-9-]*)(?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*?(/?)>",
    re.I,
)
_RAW_END = {name: re.compile(end, re.I) for name, end in (("script", "</script"), ("style", "</style"), ("!--", "-->"))}


def nesting(markup: str) -> int:
    """An estimate of how deeply elements nest, in one linear pass (about 0.1 ms for a page of 60 kB).

    Tags that cannot nest are not counted. Unclosed elements and scripts that write markup raise it: of 7,077 crawled
    pages 5 come out above 200, though few of them are that deep. `flatten` looks closer at those.
    """
    if "<" not in markup:
        return 0
    data = np.frombuffer(markup.encode("ascii", "replace") + b">>>", np.uint8)
    at = np.flatnonzero(data == 60)  # <
    first, second, third = data[at + 1], data[at + 2], data[np.minimum(at + 3, len(data) - 1)]
    closing = first == 47  # /
    steps = np.where(closing, -_STEP[second, third], _STEP[first, second]).astype(np.int32)
    depth = np.cumsum(steps)
    return int((depth - np.minimum(np.minimum.accumulate(depth), 0)).max(initial=0))


def flatten(markup: str, limit: int) -> str:
    """`markup` without the tags that would nest deeper than `limit`; what they enclose stays.

    Browsers do the same (Blink stops at 512). Parsers that recurse, or take quadratic time in the depth, then see a
    page like any other.
    """
    if nesting(markup) <= limit:
        return markup
    pieces: list[str] = []
    end = 0
    opened: list[str] = []
    count: dict[str, int] = {}
    at = 0
    while (tag := _TAG.search(markup, at)) is not None:
        at = tag.end()
        raw, closing, name, self_closed = tag.groups()
        if raw:  # what looks like a tag in there is none
            ends = _RAW_END[raw.lower()].search(markup, at)
            if ends is None:
                break
            at = ends.end()
            continue
        if self_closed:
            continue
        name = name.lower()
        if _STEP[ord(name[0]), ord((name + ">")[1])] == 0:
            continue
        if not closing:
            opened.append(name)
            count[name] = count.get(name, 0) + 1
            outside = len(opened) > limit
        elif count.get(name):
            outside = len(opened) > limit
            while (last := opened.pop()) != name:  # what was left open inside ends here
                count[last] -= 1
            count[name] -= 1
            outside = outside and len(opened) >= limit
        else:
            outside = len(opened) >= limit
        if outside:
            pieces += (markup[end : tag.start()], " ")
            end = tag.end()
    pieces.append(markup[end:])
    return "".join(pieces)


_TEX_SCRIPT = re.compile(
    r"<script\b[^>]*\btype\s*=\s*[\"']?math/tex([^\"'>]*)[\"']?[^>]*>(.*?)</script\s*>", re.I | re.S
)
_MATH = re.compile(r"<math\b([^>]*)>(.*?)</math\s*>", re.I | re.S)
_ANNOTATION = re.compile(
    r"<annotation\b[^>]*\bencoding\s*=\s*[\"']?(?:application/x-tex|text/x-tex|latex|tex)[\"']?[^>]*>(.*?)</annotation\s*>",
    re.I | re.S,
)
_ANY_ANNOTATION = re.compile(r"<(annotation(?:-xml)?)\b.*?</\1\s*>", re.I | re.S)
_ATTRIBUTE_TEX = re.compile(r"\b(?:alttext|data-tex)\s*=\s*(\"[^\"]*\"|'[^']*')", re.I)
_IMAGE = re.compile(r"<img\b[^>]*>", re.I)
_FORMULA_CLASS = re.compile(r"\bclass\s*=\s*[\"']?[^\"'>]*(?:mwe-math|\blatex|\btex\b|\bmath)", re.I)
_ALT = re.compile(r"\balt\s*=\s*(\"[^\"]*\"|'[^']*')", re.I)
_FORMULA_WORDS = ("mwe-math", "latex", '"tex', "'tex", ' tex"', "math-", "math ", 'math"')
_DRAWN_TWICE = re.compile(
    r"<(?:img\b[^>]*\bmwe-math-fallback-image[^>]*>|span\b[^>]*\b(?:MathJax_Preview|MJX_Assistive_MathML)\b[^>]*>[^<]*</span>)",
    re.I,
)
_SPACES = re.compile(r"\s+")


def write_mathematics(markup: str) -> str:
    """`markup` with each formula as text: `$…$` around LaTeX, or the characters of MathML that carries no LaTeX.

    Reads `<script type="math/tex">`, MathML with an annotation or `alttext`, and the `alt` of formula images. A formula
    that a page holds twice (MathML and a fallback image) is written once.
    """
    if "math" not in markup and "latex" not in markup and "MATH" not in markup:
        return markup
    if "<math" in markup or "math/tex" in markup or "<MATH" in markup:
        markup = _TEX_SCRIPT.sub(lambda m: _formula(m[2], "display" in m[1].lower()), markup)
        markup, n = _MATH.subn(_mathml, markup)
        if n:
            markup = _DRAWN_TWICE.sub("", markup)
    if any(word in markup for word in _FORMULA_WORDS):
        markup = _IMAGE.sub(_image, markup)
    return markup


def _image(match: re.Match[str]) -> str:
    tag = match[0]
    if _FORMULA_CLASS.search(tag) is None or (alternative := _ALT.search(tag)) is None:
        return tag
    return _formula(alternative[1][1:-1], False)


def _mathml(match: re.Match[str]) -> str:
    attributes, body = match.groups()
    display = bool(re.search(r"display\s*=\s*[\"']?block", attributes, re.I))
    if (tex := _ANNOTATION.search(body)) is not None:
        return _formula(tex[1], display)
    if (alternative := _ATTRIBUTE_TEX.search(attributes)) is not None:
        return _formula(alternative[1][1:-1], display)
    symbols = _SPACES.sub("", re.sub(r"<[^>]*>", "", _ANY_ANNOTATION.sub("", body)))
    return f"<span> {symbols} </span>"


def _formula(tex: str, display: bool) -> str:
    tex = _SPACES.sub(" ", html.unescape(tex).replace("<![CDATA[", "").replace("]]>", "")).strip()
    if not tex:
        return ""
    if tex.startswith("{\\displaystyle ") and tex.endswith("}"):  # MediaWiki wraps every formula so
        tex = tex[len("{\\displaystyle ") : -1].strip()
    mark = "$$" if display else "$"
    if not tex.startswith("$"):
        tex = f"{mark}{tex}{mark}"
    return f"<span> {html.escape(tex, quote=False)} </span>"
