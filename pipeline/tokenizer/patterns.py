"""How texts are split into words before merges are applied: regular expressions that tokenisers were published with.

No merge reaches over the end of a word. An expression is known here for two reasons: tokenisers are trained with it, and
it is certain where it cuts, so that a long text can be encoded in stretches (`stretches`).
"""

import re
from collections.abc import Iterator

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's, in the order that `tokenizers` and gigatoken have it; a space belongs to what follows, digits stay together."""

GPT4 = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES}"
"""cl100k's, as Llama 3 has it: one more sign may begin a word, three digits at most, line ends by themselves."""

GPT4_SINGLE = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
"""The same with each digit by itself: Qwen's."""

GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENGLISH}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
)
"""o200k's: words are cut where small letters end and a capital begins, and marks belong to letters."""

KNOWN = frozenset({GPT2, GPT4, GPT4_SINGLE, GPT4O})
"""Expressions of which it holds that a letter ends a word where neither letter, mark, digit nor apostrophe follows."""

LETTERS = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0400-\u0481\u048a-\u0527\u05d0-\u05ea\u0620-\u064a\u0904-\u0939"
    "\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
"""Ranges of code points that have been letters in every version of Unicode that an engine may have."""

ENDS = r" \t\n\r.,;:!?()\[\]\"/。、，"

_PLACE = re.compile(f"(?<=[{LETTERS}])(?=[{ENDS}])")


def stretches(text: str, size: int) -> Iterator[str]:
    """A text in stretches of `size` characters or more that can be encoded each by itself with an expression of KNOWN.

    A cut lies between a letter and a sign or white space of ENDS. There, no expression of KNOWN goes on with the word that
    holds the letter, whether the sign or the end of the text follows; and no expression looks back, so that what follows is
    split as before. A text without such a place is one stretch.
    """
    start = 0
    while len(text) - start > size:
        found = _PLACE.search(text, start + size)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]
