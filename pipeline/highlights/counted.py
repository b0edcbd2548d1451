"""What each signal of the statistics counts, as places in the text it was measured on.

The definitions are those of `pipeline.signals.statistics` (schema and kernel); the words are the kernel's own. Not every
number can be read off the places that are marked:

- `dup_line_frac` also counts an empty line at each end of the text, which has no characters to mark;
  `dup_line_frac_dolma` counts every empty line.
- Copies of a top n-gram can overlap (`a b a b a` holds `a b a` twice): the signal counts each, a mark covers both. A copy
  is marked with whatever stands between its words; datatrove counts one space there, dolma and dclm none.
- `dup_Ngram_char_frac_dolma` counts the words of overlapping n-grams as often as they occur.
- Beyond 1,048,576 words the kernel looks for no repetition, and neither do these; of lines it stops there, these do not.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np

from pipeline.highlights.reading import Reading, Words
from pipeline.signals.statistics import characters
from pipeline.signals.statistics.primitives import (
    ALPHA,
    CATEGORY_P,
    CJK,
    DIGIT,
    LINE_BREAK,
    MAX_STOP_WORD,
    PUNCT,
    SPACE,
    TERMINAL,
    UPPER,
)

Places = np.ndarray
"""int64, one row (start, end) for each thing that is counted; things may overlap."""

SHORT_LINE = 30
"""Characters of a short line: part of the signal's name."""


def _places(rows: Iterable[tuple[int, int]]) -> Places:
    return np.array(list(rows), np.int64).reshape(-1, 2)


# Characters.


def _characters(reading: Reading, flag: int) -> Places:
    return _each(np.flatnonzero(reading.flags & flag))


def _point(reading: Reading, point: int) -> Places:
    return _each(np.flatnonzero(reading.points == point))


def _each(at: np.ndarray) -> Places:
    return np.column_stack([at, at + 1]).astype(np.int64)


# Phrases and marks.


def _found(reading: Reading, *patterns: re.Pattern[str]) -> Places:
    return _places(match.span() for pattern in patterns for match in pattern.finditer(reading.text))


@cache
def _phrases(group: str) -> tuple[re.Pattern[str], ...]:
    # One pattern a phrase, because one may begin inside another. ASCII, as the kernel has it: no other letter is a K.
    words = characters.english()[group]["words"]
    return tuple(re.compile(re.escape(word), re.ASCII | re.IGNORECASE) for word in words)


def _phrase(reading: Reading, group: str) -> Places:
    return _found(reading, *_phrases(group))


_ELLIPSIS = re.compile(r"\.\.\.|…")
_SPACED = re.compile(r"\. \. \.")
_HASH = re.compile("#")

# Words.


def _with(words: Words, flags: np.ndarray) -> Places:
    return words.places[flags]


def _flags(reading: Reading, words: Words, every: bool) -> np.ndarray:
    """Character flags that all characters of each word have, or that one of them has."""
    if not len(words.starts):
        return np.zeros(0, np.uint16)
    filled = reading.flags[(reading.flags & SPACE) == 0][: int(words.lengths.sum())]
    firsts = np.cumsum(words.lengths) - words.lengths
    return (np.bitwise_and if every else np.bitwise_or).reduceat(filled, firsts)


def _tokens_by_letter(reading: Reading, letters: bool) -> Places:
    return _with(reading.tokens, ((_flags(reading, reading.tokens, False) & ALPHA) != 0) == letters)


def _words_by_letter(reading: Reading, letters: bool) -> Places:
    return _with(reading.words, ((_flags(reading, reading.words, False) & ALPHA) != 0) == letters)


def _symbol_words(reading: Reading) -> Places:
    marks = np.isin(reading.points, [ord("#"), ord("…")]).cumsum()
    words = reading.words
    before = np.where(words.starts > 0, marks[words.starts - 1], 0) if len(words.starts) else marks[:0]
    return _with(words, marks[words.ends - 1] > before)


def _kinds(words: Words) -> np.ndarray:
    """Number of the first word of each id."""
    return np.unique(words.ids, return_index=True)[1]


def _stop_words(reading: Reading, split: str, any_case: bool = False) -> Places:
    words: Words = getattr(reading, split)
    stop_words = set(characters.english()["stop_words"]["words"])
    stops = []
    for i in _kinds(words).tolist():
        if words.ends[i] - words.starts[i] > MAX_STOP_WORD:
            continue
        word = reading.text[words.starts[i] : words.ends[i]]
        if word in stop_words or (any_case and word.isascii() and word.lower() in stop_words):
            stops.append(words.ids[i])
    return _with(words, np.isin(words.ids, stops))


def _first_of_kind(reading: Reading, first: bool) -> Places:
    is_first = np.zeros(len(reading.tokens.ids), bool)
    is_first[_kinds(reading.tokens)] = True
    return _with(reading.tokens, is_first == first)


def _sentences(reading: Reading) -> Places:
    """The word that each sentence begins with."""
    words = reading.tokens
    every = _flags(reading, words, True)
    line = ((reading.flags & LINE_BREAK) != 0).cumsum()[words.starts]
    new_line = np.concatenate([[True], line[1:] != line[:-1]]) if len(line) else np.zeros(0, bool)
    is_stop = (words.lengths == 1) & ((every & TERMINAL) != 0)
    is_mark = (every & CATEGORY_P) != 0
    begins = []
    seen = False
    for i, (new, stop, mark) in enumerate(zip(new_line.tolist(), is_stop.tolist(), is_mark.tolist(), strict=True)):
        if new:
            begins.append(i)
            seen = stop
        elif stop:
            seen = True
        elif seen and not mark:
            begins.append(i)
            seen = False
    return words.places[begins]


# Lines and paragraphs.


def _lines_that(reading: Reading, test: Callable[[str], bool]) -> Places:
    """Lines between newlines that are not blank and pass a test, without white space at their ends."""
    text = reading.text
    rows = (reading.stripped(a, b) for a, b in reading.lines if test(text[a:b]))
    return _places((a, b) for a, b in rows if a < b)


def _any_lines_that(reading: Reading, test: Callable[[str], bool]) -> Places:
    """The same of lines that any line break ends; the test sees them stripped."""
    rows = (reading.stripped(a, b) for a, b in reading.any_lines)
    return _places((a, b) for a, b in rows if a < b and test(reading.text[a:b]))


def _terminal(line: str) -> bool:
    return bool(line) and bool(characters.classes()[ord(line[-1])] & TERMINAL)


def _copies(
    reading: Reading, parts: str = "lines", every: bool = False, strip: bool = False, blank: bool = True
) -> Places:
    """Parts that are copies of an earlier one; `every`: of an earlier or later one. `blank`: white space is a part too."""
    rows = []
    for a, b in getattr(reading, parts):
        c, d = reading.stripped(a, b) if strip or not blank else (a, b)
        if c < d:
            rows.append((c, d) if strip else (a, b))
    text = reading.text
    if every:
        times = Counter(text[a:b] for a, b in rows)
        return _places((a, b) for a, b in rows if times[text[a:b]] > 1)
    seen: set[str] = set()
    later = []
    for a, b in rows:
        part = text[a:b]
        if part in seen:
            later.append((a, b))
        seen.add(part)
    return _places(later)


# n-grams.


def _grams(words: Words, n: int) -> np.ndarray:
    """An id for the n-gram that begins at each word: equal n-grams have equal ids, which count from 0."""
    size = 1
    ids = words.ids
    while size < n and len(ids):
        step = min(size, n - size)
        m = len(words.ids) - (size + step) + 1
        if m < 1:
            return np.zeros(0, np.int64)
        # Two n-grams one `step` apart, which overlap or touch, make the longer one.
        ids = np.unique(ids[:m] * (int(ids.max()) + 1) + ids[step : step + m], return_inverse=True)[1]
        size += step
    return ids


def _top_gram(reading: Reading, split: str, n: int, longest: bool) -> Places:
    words: Words = getattr(reading, split)
    grams = _grams(words, n)
    if not len(grams):
        return _places([])
    times = np.bincount(grams)[grams]
    candidates = np.flatnonzero(times == times.max())
    top = candidates[0]
    if longest:
        if times.max() < 2:
            return _places([])
        reached = np.concatenate([[0], np.cumsum(words.lengths)])
        top = candidates[np.argmax(reached[candidates + n] - reached[candidates])]
    return _stretch(words, np.flatnonzero(grams == grams[top]), n)


def _stretch(words: Words, firsts: np.ndarray, n: int) -> Places:
    return np.column_stack([words.starts[firsts], words.ends[firsts + n - 1]])


def _grams_seen(reading: Reading, n: int) -> Places:
    """n-grams of tokens that were seen before, from the left and without overlap."""
    grams = _grams(reading.tokens, n)
    if not len(grams):
        return _places([])
    seen = set()
    firsts = []
    free = 0
    again = np.flatnonzero(np.bincount(grams)[grams] > 1)
    for i, gram in zip(again.tolist(), grams[again].tolist(), strict=True):
        if i < free:
            continue
        if gram in seen:
            firsts.append(i)
            free = i + n
        seen.add(gram)
    return _stretch(reading.tokens, np.array(firsts, np.int64), n)


def _grams_twice(reading: Reading, split: str, n: int) -> Places:
    """Every copy of every n-gram that occurs twice."""
    words: Words = getattr(reading, split)
    grams = _grams(words, n)
    if not len(grams):
        return _places([])
    return _stretch(words, np.flatnonzero(np.bincount(grams)[grams] > 1), n)


COUNTED: dict[str, Callable[[Reading], Places]] = {
    "stop_word_count": partial(_stop_words, split="tokens"),
    "stop_word_count_dolma": partial(_stop_words, split="words"),
    "stop_word_count_dclm": partial(_stop_words, split="words", any_case=True),
    "sentence_count": _sentences,
    "curly_brace_count": partial(_point, point=ord("{")),
    "lorem_ipsum_count": partial(_phrase, group="placeholder_phrases"),
    "javascript_count": partial(_phrase, group="script_phrases"),
    "policy_phrase_count": partial(_phrase, group="policy_phrases"),
    "hash_word_ratio": partial(_point, point=ord("#")),
    "ellipsis_word_ratio": lambda reading: _found(reading, _ELLIPSIS),
    "symbol_word_ratio_dclm": lambda reading: _found(reading, _HASH, _ELLIPSIS, _SPACED),
    "symbol_word_frac_dolma": _symbol_words,
    "newline_word_ratio": partial(_point, point=ord("\n")),
    "bullet_line_frac": partial(_any_lines_that, test=lambda line: line[0] in "•-"),
    "bullet_line_frac_dolma": partial(_lines_that, test=lambda line: line[:1] in ("*", "-")),
    "bullet_line_frac_dclm": partial(_lines_that, test=lambda line: line.lstrip()[:1] in ("●", "•", "*", "-")),
    "ellipsis_line_frac": partial(_any_lines_that, test=lambda line: line.endswith(("...", "…"))),
    "ellipsis_line_frac_dolma": partial(_lines_that, test=lambda line: line.endswith("…")),
    "ellipsis_line_frac_dclm": partial(_lines_that, test=lambda line: line.rstrip().endswith(("...", "…", ". . ."))),
    "terminal_punct_line_frac": partial(_lines_that, test=_terminal),
    "short_line_30_frac": partial(_lines_that, test=lambda line: len(line) <= SHORT_LINE),
    "alpha_word_frac": partial(_tokens_by_letter, letters=True),
    "alpha_word_frac_split": partial(_words_by_letter, letters=True),
    "non_alpha_word_frac_split": partial(_words_by_letter, letters=False),
    "unique_word_frac": partial(_first_of_kind, first=True),
    "uppercase_char_frac": partial(_characters, flag=UPPER),
    "digit_char_frac": partial(_characters, flag=DIGIT),
    "punct_char_frac": partial(_characters, flag=CATEGORY_P),
    "whitespace_char_frac": partial(_characters, flag=SPACE),
    "cjk_char_frac": partial(_characters, flag=CJK),
    "dup_line_frac": _copies,
    "dup_line_char_frac": _copies,
    "dup_line_char_frac_fineweb": partial(_copies, blank=False),
    "dup_line_frac_dolma": partial(_copies, every=True),
    "dup_line_char_frac_dolma": partial(_copies, every=True),
    "dup_line_frac_dclm": partial(_copies, every=True, strip=True),
    "dup_line_char_frac_dclm": partial(_copies, every=True, strip=True),
    "dup_para_frac": partial(_copies, parts="paragraphs"),
    "dup_para_char_frac": partial(_copies, parts="paragraphs"),
    "dup_para_frac_dclm": partial(_copies, parts="paragraphs", every=True, strip=True),
    "dup_para_char_frac_dclm": partial(_copies, parts="paragraphs", every=True, strip=True),
    **{
        f"top_{n}gram_char_frac{dialect}": partial(_top_gram, split=split, n=n, longest=dialect == "_dclm")
        for dialect, split in (("", "tokens"), ("_dolma", "words"), ("_dclm", "segments"))
        for n in (2, 3, 4)
    },
    **{f"dup_{n}gram_char_frac": partial(_grams_seen, n=n) for n in range(5, 11)},
    **{
        f"dup_{n}gram_char_frac_{dialect}": partial(_grams_twice, split=split, n=n)
        for dialect, split in (("dolma", "words"), ("dclm", "segments"))
        for n in range(5, 11)
    },
}
"""What a signal counts, and so what is at fault where it is too high."""

NOT_COUNTED: dict[str, Callable[[Reading], Places]] = {
    "alpha_word_frac": partial(_tokens_by_letter, letters=False),
    "alpha_word_frac_split": partial(_words_by_letter, letters=False),
    "non_alpha_word_frac_split": partial(_words_by_letter, letters=True),
    "terminal_punct_line_frac": partial(_lines_that, test=lambda line: not _terminal(line)),
    "unique_word_frac": partial(_first_of_kind, first=False),
}
"""What is at fault where a share is too low: what it does not count. Of other signals that are too low, what there is of
what they count."""


def _sizes_of_tokens(reading: Reading) -> Places:
    """Tokens that are words: not of punctuation only."""
    return _with(reading.tokens, (_flags(reading, reading.tokens, True) & PUNCT) == 0)


def _lines(reading: Reading) -> Places:
    return _places((a, b) for a, b in reading.lines if reading.text[a:b].strip())


SIZED: dict[str, Callable[[Reading], Places]] = {
    "mean_word_length": _sizes_of_tokens,
    "mean_word_length_split": lambda reading: reading.words.places,
    "median_word_length_split": lambda reading: reading.words.places,
    "longest_word_length": lambda reading: reading.words.places,
    "mean_line_length": _lines,
    "longest_line_length": _lines,
}
"""Things whose length a signal is about. Those beyond the bound are at fault."""

WHOLE = frozenset(
    {
        "char_count", "token_count", "word_count", "word_count_split", "word_count_dclm", "line_count",
        "unigram_entropy", "removed_word_share",
    }
)  # fmt: skip
"""Signals that say nothing of one part of a text more than of another; what edits removed is looked up in the edits."""


def places(
    reading: Reading, signal: str, *, below: bool = False, minimum: float | None = None, maximum: float | None = None
) -> Places:
    """What is at fault where `signal` is above its maximum or, with `below`, under its minimum: a row a thing, unmerged.

    Of lengths it is the things longer than `maximum`, or shorter than `minimum`. Empty for signals of `WHOLE`, where a
    length has no such bound, and for names that are none of the statistics.
    """
    if signal in SIZED:
        limit = minimum if below else maximum
        if limit is None or (below and signal.startswith("longest")):
            return _places([])
        rows = SIZED[signal](reading)
        sizes = rows[:, 1] - rows[:, 0]
        return rows[sizes < limit] if below else rows[sizes > limit]
    if below and signal in NOT_COUNTED:
        return NOT_COUNTED[signal](reading)
    counted = COUNTED.get(signal)
    return _places([]) if counted is None else counted(reading)
