"""How texts are split into words before merges are applied: regular expressions that tokenisers were published with.

No merge reaches over the end of a word. An expression is known here for two reasons: tokenisers are trained with it, and
it is certain where it cuts, so that a long text can be encoded in stretches (`stretches`).
"""

import re
from collections.abc import Iterator
from typing import Literal

Words = Literal["gpt2", "gpt4", "gpt4o"]
Digits = Literal["runs", "triples", "single"]
Spaces = Literal["runs", "lines", "single"]

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FIRST = r"[^\r\n\p{L}\p{N}]?"

_LETTERS: dict[Words, str] = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+",
    "gpt4": rf"{_ENGLISH}|{_FIRST}\p{{L}}+",
    "gpt4o": rf"{_FIRST}{_UPPER}*{_LOWER}+{_ENGLISH}?|{_FIRST}{_UPPER}+{_LOWER}*{_ENGLISH}?",
}
_SIGNS: dict[Words, str] = {
    "gpt2": r" ?[^\s\p{L}\p{N}]+",
    "gpt4": r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    "gpt4o": r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
}
_DIGITS: dict[Digits, str] = {"runs": r"\p{N}+", "triples": r"\p{N}{1,3}", "single": r"\p{N}"}
_SPACES: dict[Spaces, str] = {
    "runs": r"\s+(?!\S)|\s+",
    "lines": r"\s*[\r\n]+|\s+(?!\S)|\s+",
    "single": r"\s",
}


def expression(words: Words, digits: Digits, spaces: Spaces) -> str:
    """The regular expression whose matches are the words of a text; every character of a text is in one.

    Words: `gpt2` puts a space in front of a word to it; `gpt4` (cl100k's) any one sign, and line ends behind a sign;
    `gpt4o` (o200k's) moreover cuts where a capital follows a small letter, and counts marks as letters. Digits stay
    together, by three at most, or each by itself. White space stays together in `runs`, all but the last character of one
    before a word; `lines` ends a word behind each run of line ends; `single` keeps each character by itself, but for the
    one in front of a word.
    """
    numbers = f" ?{_DIGITS[digits]}" if (words, digits) == ("gpt2", "runs") else _DIGITS[digits]
    signs = _SIGNS["gpt2" if spaces == "single" else words]
    return "|".join((_LETTERS[words], numbers, signs, _SPACES[spaces]))


GPT2 = expression("gpt2", "runs", "runs")
"""GPT-2's, which `tokenizers` has built in."""

KNOWN = frozenset(expression(words, digits, spaces) for words in _LETTERS for digits in _DIGITS for spaces in _SPACES)
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
