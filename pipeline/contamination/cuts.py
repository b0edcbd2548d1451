"""What is done about benchmark items in a page: the places are cut with what surrounds them, and the page falls in pieces.

GPT-3 (arXiv:2005.14165, appendix C) removed 200 characters on each side of an overlap, then pieces of fewer than 200
characters, and whole documents that fell in more than ten.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.edits import apply

Span = tuple[int, int]
Edit = tuple[int, int, str]


class Stretch(NamedTuple):
    """A stretch of text that edits left as it was: where it starts in the text as extracted and after edits."""

    extracted: int
    edited: int
    length: int


class Pieces(NamedTuple):
    """What is left of a page. `texts` are the pieces that are long enough, after edits; `n` counts the short ones too."""

    texts: list[str]
    n: int


def stretches(n_chars: int, edits: Iterable[Edit]) -> list[Stretch]:
    """What `edits` leave of a text of `n_chars` characters, in its order; overlapping edits are one, as in `apply`."""
    kept = []
    at = edited = 0
    taken = -1
    for start, end, replacement in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start < taken:
            at = taken = max(taken, end)
            continue
        if start > at:
            kept.append(Stretch(at, edited, start - at))
        edited += start - at + len(replacement)
        at = taken = end
    if n_chars > at:
        kept.append(Stretch(at, edited, n_chars - at))
    return kept


def to_extracted(span: Span, kept: Sequence[Stretch]) -> Span:
    """Where a span of the edited text lies in the text as extracted, with all that edits removed inside it.

    What edits put at its ends is left out; a span of nothing else becomes what was replaced.
    """
    start, end = span
    first = bisect_right(kept, start, key=lambda s: s.edited + s.length)
    last = bisect_left(kept, end, key=lambda s: s.edited) - 1
    from_ = kept[first].extracted + max(0, start - kept[first].edited) if first < len(kept) else None
    to = kept[last].extracted + min(kept[last].length, end - kept[last].edited) if last >= 0 else 0
    return (to, to) if from_ is None else (min(from_, to), max(from_, to))


def widened(text: str, spans: Iterable[Span], context: int) -> list[Span]:
    """The spans with `context` characters more on each side, to the end of the words they reach into, merged and sorted.

    Words are looked for over as many characters again at most, since some scripts have no spaces.
    """
    cuts: list[Span] = []
    for start, end in sorted(spans):
        a, b = max(0, start - context), min(len(text), end + context)
        while a > 0 and start - a < 2 * context and not text[a - 1].isspace() and not text[a].isspace():
            a -= 1
        while b < len(text) and b - end < 2 * context and not text[b - 1].isspace() and not text[b].isspace():
            b += 1
        if cuts and a <= cuts[-1][1]:
            cuts[-1] = (cuts[-1][0], max(cuts[-1][1], b))
        else:
            cuts.append((a, b))
    return cuts


def pieces(text: str, cuts: Sequence[Span], edits: Sequence[Edit], least: int) -> Pieces:
    """What is left between sorted, separate cuts, each piece with the edits inside it applied; those of white space are
    none, and those of fewer than `least` characters are counted only.

    An edit that reaches into a cut is applied to what is left of its span.
    """
    texts = []
    n = 0
    at = 0
    for start, end in [*cuts, (len(text), len(text))]:
        own = [
            (max(a, at) - at, min(b, start) - at, replacement)
            for a, b, replacement in edits
            if (a < start and b > at) or (a == b and at <= a <= start)
        ]
        piece = apply(text[at:start], own).strip()
        at = end
        if piece:
            n += 1
            if len(piece) >= least:
                texts.append(piece)
    return Pieces(texts, n)


def excerpt(
    text: str, spans: Iterable[Span], edits: Sequence[Edit], context: int = 100, most: int = 1_500
) -> tuple[str, list[Span]]:
    """What a text says around some spans, with `edits` applied, and where the spans lie in that.

    It holds `context` characters on both sides, whole words where there are some, and `most` at all; what is left out is
    left out at the end.
    """
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    if not merged:
        return "", []
    first = max(0, merged[0][0] - context)
    last = min(len(text), merged[-1][1] + context, first + most)
    first = next((i for i in range(first, merged[0][0]) if i == 0 or text[i - 1].isspace()), first)
    last = next((i for i in range(last, merged[-1][1], -1) if i == len(text) or text[i].isspace()), last)
    shown, marks = "", []
    at = first
    for start, end in [*merged, (last, last)]:
        for a, b, marked in ((at, min(start, last), False), (min(start, last), min(end, last), True)):
            if a < b:
                own = [(max(s, a) - a, min(e, b) - a, r) for s, e, r in edits if s < b and e > a]
                piece = apply(text[a:b], own)
                if marked and piece:
                    marks.append((len(shown), len(shown) + len(piece)))
                shown += piece
        at = max(at, min(end, last))
    return shown, marks
