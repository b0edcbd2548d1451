# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def"
"""Line-level edits as spans, and spans applied once.

A policy (the `edits` of a dialect in `pipeline/recipes/dialects/`) says which lines go and what is cut from those that
stay. It becomes spans over the extracted text, so that a run can show every cut with its reason and undo it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RecipeError
from pipeline.signals.statistics import characters
from pipeline.signals.statistics.primitives import (
    ALNUM,
    DIGIT,
    JOINER,
    LINE_BREAK,
    SPACE,
    UPPER,
    compiled,
    decode,
    inlined,
    starts_with,
)
from pipeline.tables import EDITS

POLICY_KEYS: dict[str, Any] = {
    "line_breaks": "newline",
    "strip_lines": False,
    "keep_blank_lines": False,
    "max_word_chars": None,
    "cut": [],
    "words_after_cuts": False,
    "terminal_punctuation": [],
    "not_terminal": [],
    "space_after_terminal": False,
    "max_uppercase_frac": None,
    "max_digit_frac": None,
    "drop_counters": [],
    "min_line_words": 0,
    "keep_lines_with": [],
    "drop_lines_with": [],
    "keep_policy_lines_with": [],
    "drop_policy_lines_with": [],
    "short_line_words": 0,
    "cut_from_short_lines": {},
}
"""Every key of a policy and what it is when left out. In the order in which they are looked at:

- `line_breaks`: `newline`, or `any` for every break that `str.splitlines` knows; a kept line ends in a newline after.
- `strip_lines`: cut white space at both ends of lines. `keep_blank_lines`: lines without text are not looked at.
- `max_word_chars`: drop lines with a longer word. `cut: [citations]`: cut `[1]`, `[]`, `[edit]`, `[citation needed]`.
- `terminal_punctuation`, `not_terminal`: drop lines that end with none of the one, or with one of the other;
  `space_after_terminal` allows white space behind.
- `max_uppercase_frac`, `max_digit_frac`: drop lines with a larger share of capital letters, of digits.
- `drop_counters`: drop lines such as `3 likes`. `min_line_words`: drop lines of fewer words; `words_after_cuts` counts
  them after cuts.
- `keep_lines_with`: such a line stays and nothing more is asked of it (a rule on the page will see the phrase);
  `drop_lines_with`: such a line goes; then the same pair again for policies. Phrases in small letters, any case found.
- `short_line_words`, `cut_from_short_lines`: from lines of at most so many words, cut phrases found at `any` place, as
  `prefix`, as `suffix`, with one white space beside them; a line with nothing else goes.
"""

_RULES = (
    "kept", "whitespace", "line_break", "long_word", "citation", "no_terminal_punctuation", "uppercase_line",
    "digit_line", "counter_line", "few_words", "phrase_line", "policy_line", "short_line_phrase",
)  # fmt: skip
(
    KEPT, WHITESPACE, LINE_BREAK_RULE, LONG_WORD, CITATION, NO_TERMINAL, UPPERCASE, DIGITS, COUNTER, FEW_WORDS, PHRASE,
    POLICY, SHORT_PHRASE,
) = range(13)  # fmt: skip
_GROUPS = (
    "terminal_punctuation", "not_terminal", "drop_counters", "keep_lines_with", "drop_lines_with",
    "keep_policy_lines_with", "drop_policy_lines_with", "short_any", "short_prefix", "short_suffix",
)  # fmt: skip
TERMINALS, NOT_TERMINALS, COUNTERS, KEEP, DROP, KEEP_POLICY, DROP_POLICY, ANY, PREFIX, SUFFIX = range(10)
_CITATIONS = ("[edit]", "[citation needed]")


class _Limits(NamedTuple):
    any_break: bool
    strip: bool
    keep_blank: bool
    max_word: int
    citations: bool
    words_after_cuts: bool
    space_after_terminal: bool
    max_upper: float
    max_digit: float
    min_words: int
    short_words: int


class LineEdits:
    """The line edits of one policy. `name` (the dialect) begins every reason, as in `c4@tfds.policy_line`.

    Raises RecipeError for a key that no policy has, or a value that it cannot have.
    """

    def __init__(self, policy: Mapping[str, Any], name: str = "edits"):
        for key in policy:
            if key not in POLICY_KEYS:
                raise RecipeError(f"{name}: unknown edit {key!r}; valid: {', '.join(POLICY_KEYS)}")
        p = {**POLICY_KEYS, **policy}
        if p["line_breaks"] not in ("newline", "any"):
            raise RecipeError(f"{name}: line_breaks is `newline` or `any`, not {p['line_breaks']!r}")
        if set(p["cut"]) - {"citations"}:
            raise RecipeError(f"{name}: cut knows only `citations`, not {p['cut']!r}")
        if set(p["cut_from_short_lines"]) - {"any", "prefix", "suffix"}:
            raise RecipeError(f"{name}: cut_from_short_lines has keys `any`, `prefix`, `suffix`")
        self.name = name
        self._limits = _Limits(
            p["line_breaks"] == "any",
            bool(p["strip_lines"]),
            bool(p["keep_blank_lines"]),
            -1 if p["max_word_chars"] is None else int(p["max_word_chars"]),
            "citations" in p["cut"],
            bool(p["words_after_cuts"]),
            bool(p["space_after_terminal"]),
            2.0 if p["max_uppercase_frac"] is None else float(p["max_uppercase_frac"]),
            2.0 if p["max_digit_frac"] is None else float(p["max_digit_frac"]),
            int(p["min_line_words"]),
            int(p["short_line_words"]),
        )
        short = {f"short_{place}": words for place, words in p["cut_from_short_lines"].items()}
        groups = [[str(w).lower() for w in {**p, **short}.get(group) or []] for group in _GROUPS]
        words, starts = characters.phrases([word for group in groups for word in group])
        firsts = np.cumsum([0] + [len(group) for group in groups]).astype(np.int32)
        initials = np.zeros(128, np.bool_)  # ASCII characters that a phrase looked for in lines can begin with
        for phrase in (word for group in groups[KEEP : DROP_POLICY + 1] for word in group):
            if not phrase.isascii() or not phrase:
                raise RecipeError(f"{name}: {phrase!r} cannot be looked for: phrases are of ASCII characters")
            initials[[ord(phrase[0]), ord(phrase[0].upper())]] = True
        self._phrases = (words, starts, firsts, initials)
        self._citations = characters.phrases(list(_CITATIONS))
        self._reasons = pa.array([f"{name}.{rule}" for rule in _RULES], pa.string())

    def spans(self, texts: pa.StringArray, ids: pa.Array | None = None) -> pa.Table:
        """Edits of every text (schema EDITS), ordered by text and start; rows are named by `ids`, else by number."""
        data, offsets = _utf8(texts)
        arguments = (data, offsets, characters.classes(), self._limits, self._phrases, self._citations)
        nothing = np.empty((0, 5), np.int32)
        spans = np.empty((find_spans(*arguments, nothing), 5), np.int32)
        find_spans(*arguments, spans)
        spans = spans[np.lexsort((spans[:, 2], spans[:, 1], spans[:, 0]))]
        if ids is None:
            ids = pa.array([str(i) for i in range(len(texts))], pa.string())
        codes = pa.DictionaryArray.from_arrays(pa.array(spans[:, 4]), self._reasons)
        breaks = pa.DictionaryArray.from_arrays(pa.array(spans[:, 3]), pa.array(["", "\n"]))
        columns = [
            ids.take(pa.array(spans[:, 0])),
            pa.array(spans[:, 1]),
            pa.array(spans[:, 2]),
            breaks.cast(pa.string()),
            codes.cast(pa.string()),
        ]
        return pa.table(columns, schema=EDITS)


def apply(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """`text` with every span `(start, end, replacement)` replaced; offsets in characters of the text given.

    Spans that overlap become one, from the first start to the last end, with the replacement of the one that starts
    first (of equals the longest). Spans that only touch stay apart. Raises ValueError for one that leaves the text.
    """
    pieces = []
    at = 0
    taken = -1
    for start, end, replacement in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not 0 <= start <= end <= len(text):
            raise ValueError(f"span {start}..{end} leaves a text of {len(text)} characters")
        if start < taken:
            at = taken = max(taken, end)
            continue
        pieces += [text[at:start], replacement]
        at = taken = end
    return "".join([*pieces, text[at:]])


def apply_edits(texts: pa.Array | pa.ChunkedArray, ids: pa.Array | pa.ChunkedArray, edits: pa.Table) -> pa.Array:
    """Every text with its edits (schema EDITS) applied, as `apply` does; null stays null.

    Edits of ids that are not among `ids` are those of other batches and left alone. Raises ValueError, naming the
    document, for a span that leaves its text.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    rows = pc.index_in(edits.column("doc_id"), value_set=ids)
    own = rows.is_valid()
    rows = rows.filter(own).to_numpy().astype(np.int64)
    starts, ends = (edits.column(c).filter(own).to_numpy().astype(np.int64) for c in ("start", "end"))
    order = np.lexsort((-ends, starts, rows))
    replacements = edits.column("replacement").filter(own).combine_chunks().take(pa.array(order))
    data, offsets = _utf8(texts)
    words, word_offsets = _utf8(replacements)
    size = int(offsets[-1]) - int(offsets[0]) + int(word_offsets[-1]) - int(word_offsets[0])
    if size >= 1 << 31:
        raise ValueError(
            f"a batch of {size} bytes of text is too large for one Arrow string array; use smaller batches"
        )
    out, out_offsets = np.empty(size, np.uint8), np.empty(len(texts) + 1, np.int32)
    bad = replace_spans(data, offsets, rows[order], starts[order], ends[order], words, word_offsets, out, out_offsets)
    if bad >= 0:
        at = order[bad]
        raise ValueError(f"document {ids[rows[at]]}: span {starts[at]}..{ends[at]} leaves its text")
    missing = texts.is_null() if texts.null_count else None
    edited = pa.StringArray.from_buffers(
        len(texts), pa.py_buffer(out_offsets), pa.py_buffer(out[: out_offsets[-1]].tobytes())
    )
    return edited if missing is None else pc.if_else(missing, pa.scalar(None, pa.string()), edited)


def _utf8(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and offsets of a string array. A null is an empty text."""
    if not pa.types.is_string(texts.type):
        texts = texts.cast(pa.string())
    _, offsets, data = texts.buffers()
    if offsets is None or len(texts) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int32)
    at = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), at


@compiled
def replace_spans(data, offsets, rows, starts, ends, words, word_offsets, out, out_offsets):
    """Writes edited texts; spans are sorted by row, start and falling end. Returns the first bad span, or -1."""
    n = 0
    k = 0
    out_offsets[0] = 0
    for r in range(len(offsets) - 1):
        i = np.int64(offsets[r])
        end = np.int64(offsets[r + 1])
        at = 0  # characters of the text passed so far
        taken = -1
        while k < len(rows) and rows[k] == r:
            start = starts[k]
            stop = ends[k]
            if start < 0 or stop < start:
                return k
            if start >= taken:
                while at < start and i < end:
                    out[n] = data[i]
                    n += 1
                    i += 1
                    while i < end and data[i] & 0xC0 == 0x80:
                        out[n] = data[i]
                        n += 1
                        i += 1
                    at += 1
                if at < start:
                    return k
                for j in range(word_offsets[k], word_offsets[k + 1]):
                    out[n] = words[j]
                    n += 1
            taken = max(taken, stop)
            while at < taken and i < end:
                i += 1
                while i < end and data[i] & 0xC0 == 0x80:
                    i += 1
                at += 1
            if at < taken:
                return k
            k += 1
        while i < end:
            out[n] = data[i]
            n += 1
            i += 1
        out_offsets[r + 1] = n
    return -1


@compiled
def find_spans(data, offsets, fl, limits, phrases, citations, out):
    """Spans (row, start, end, 1 for a newline, rule) into `out`; with an empty `out`, only how many there are."""
    longest = np.int64(0)
    for r in range(len(offsets) - 1):
        longest = max(longest, np.int64(offsets[r + 1]) - np.int64(offsets[r]))
    cp = np.empty(longest + 1, np.int32)
    line = np.empty(longest + 1, np.int32)
    cuts = np.empty(2 * longest + 16, np.int32)  # a citation is two characters or more, a cut takes three
    write = len(out) > 0
    total = 0
    last_kept = np.empty(len(offsets), np.int32)
    for r in range(len(offsets) - 1):
        n = decode(data, offsets[r], offsets[r + 1], cp)
        # Once without writing, to learn which line is the last to stay; the newline after it has to go.
        counted, last = edit_text(cp, n, fl, limits, phrases, citations, line, cuts, out, -1, r, n + 1)
        last_kept[r] = last
        if write:
            counted, last = edit_text(cp, n, fl, limits, phrases, citations, line, cuts, out, total, r, last)
        else:
            counted, last = edit_text(cp, n, fl, limits, phrases, citations, line, cuts, out, -1, r, last)
        total += counted
    return total


@compiled
def edit_text(cp, n, fl, limits, phrases, citations, line, cuts, out, at, row, last):
    """Edits one text line by line; returns how many spans, and where the last line with text that stays begins.

    Nothing is written where `at` is negative. Lines after the one that begins at `last` stay only if they hold text.
    """
    count = 0
    last_kept = -1
    a = 0
    while a < n:
        b = a
        while b < n and not (cp[b] == 10 or (limits.any_break and fl[cp[b]] & LINE_BREAK)):
            b += 1
        c = b
        if c < n:
            c += 2 if limits.any_break and cp[c] == 13 and c + 1 < n and cp[c + 1] == 10 else 1
        s = a
        e = b
        while s < e and fl[cp[s]] & SPACE:
            s += 1
        while e > s and fl[cp[e - 1]] & SPACE:
            e -= 1
        blank = s == e
        if not limits.strip:
            s = a
            e = b
        if blank and limits.keep_blank and s == e:
            # White space around the page goes; between lines that stay, it stays.
            if (last_kept < 0 or a > last) and c > a:
                count += put(out, at, count, row, a, c, 0, WHITESPACE)
            a = c
            continue
        rule, n_cuts = judge_line(cp, s, e, fl, limits, phrases, citations, line, cuts)
        if rule != KEPT:
            count += put(out, at, count, row, a, c, 0, rule)
            a = c
            continue
        if not blank:
            last_kept = a
        if s > a:
            count += put(out, at, count, row, a, s, 0, WHITESPACE)
        for k in range(n_cuts):
            count += put(out, at, count, row, cuts[3 * k], cuts[3 * k + 1], 0, cuts[3 * k + 2])
        if a >= last:
            if c > e:
                count += put(out, at, count, row, e, c, 0, WHITESPACE)
        elif c > b and (e < b or c - b > 1 or cp[b] != 10):
            count += put(out, at, count, row, e, c, 1, WHITESPACE if e < b else LINE_BREAK_RULE)
        elif c == b and e < b:
            count += put(out, at, count, row, e, b, 0, WHITESPACE)
        a = c
    return count, last_kept


@inlined
def put(out, at, count, row, start, end, newline, rule):
    """Writes one span where there is something to write to; returns 1."""
    if at >= 0:
        span = out[at + count]
        span[0] = row
        span[1] = start
        span[2] = end
        span[3] = newline
        span[4] = rule
    return 1


@compiled
def judge_line(cp, s, e, fl, limits, phrases, citations, line, cuts):
    """The rule that drops the line s to e, or KEPT, and how many cuts it takes (start, end, rule in `cuts`)."""
    words = 0
    longest = 0
    size = 0
    upper = 0
    digits = 0
    for i in range(s, e):
        f = fl[cp[i]]
        if f & UPPER:
            upper += 1
        if f & DIGIT:
            digits += 1
        if f & SPACE:
            size = 0
        else:
            if size == 0:
                words += 1
            size += 1
            longest = max(longest, size)
    if limits.max_word >= 0 and longest > limits.max_word:
        return LONG_WORD, 0
    n_cuts = 0
    m = 0
    i = s
    while i < e:
        size = citation(cp, i, e, citations) if limits.citations and cp[i] == 91 else 0
        if size:
            cuts[3 * n_cuts] = i
            cuts[3 * n_cuts + 1] = i + size
            cuts[3 * n_cuts + 2] = CITATION
            n_cuts += 1
            i += size
        else:
            line[m] = cp[i]
            m += 1
            i += 1
    if limits.words_after_cuts and n_cuts:
        words = count_words(line, m, fl)
    first = phrases[2]
    if first[TERMINALS + 1] > first[TERMINALS]:
        end = m
        if limits.space_after_terminal:
            while end > 0 and fl[line[end - 1]] & SPACE:
                end -= 1
        if not ends_with_any(line, end, phrases, TERMINALS) or ends_with_any(line, end, phrases, NOT_TERMINALS):
            return NO_TERMINAL, 0
    if e > s and upper / (e - s) > limits.max_upper:
        return UPPERCASE, 0
    if e > s and digits / (e - s) > limits.max_digit:
        return DIGITS, 0
    if first[COUNTERS + 1] > first[COUNTERS] and is_counter(line, m, fl, phrases):
        return COUNTER, 0
    if words < limits.min_words:
        return FEW_WORDS, 0
    found = groups_in(line, m, phrases)
    if found & (1 << KEEP):
        return KEPT, n_cuts
    if found & (1 << DROP):
        return PHRASE, 0
    if found & (1 << KEEP_POLICY):
        return KEPT, n_cuts
    if found & (1 << DROP_POLICY):
        return POLICY, 0
    if limits.short_words and words <= limits.short_words:
        before = n_cuts
        n_cuts = cut_short(cp, s, e, fl, phrases, cuts, n_cuts)
        if n_cuts > before:
            left = 0
            for i in range(s, e):
                if not fl[cp[i]] & SPACE:
                    left += 1
            for k in range(before, n_cuts):
                for i in range(cuts[3 * k], cuts[3 * k + 1]):
                    if not fl[cp[i]] & SPACE:
                        left -= 1
            if left <= 0:
                return SHORT_PHRASE, 0
    return KEPT, n_cuts


@compiled
def count_words(line: np.ndarray, m: int, fl: np.ndarray) -> int:
    """Words between white space."""
    words = 0
    inside = False
    for i in range(m):
        space = fl[line[i]] & SPACE != 0
        if not space and not inside:
            words += 1
        inside = not space
    return words


@compiled
def citation(cp, i, end, citations):
    """Length of the citation mark at i (`[12]`, `[]`, `[edit]`, `[citation needed]`), 0 for none."""
    j = i + 1
    while j < end and (48 <= cp[j] <= 57):
        j += 1
    if j < end and cp[j] == 93:
        return j + 1 - i
    words, starts = citations
    for p in range(len(starts) - 1):
        size = starts[p + 1] - starts[p]
        if i + size <= end:
            same = True
            for k in range(size):
                if cp[i + k] != words[starts[p] + k]:
                    same = False
                    break
            if same:
                return size
    return 0


@compiled
def ends_with_any(line, m, phrases, group):
    """True where the line ends with a phrase of the group."""
    words, starts, first, _ = phrases
    for p in range(first[group], first[group + 1]):
        size = starts[p + 1] - starts[p]
        if size <= m and starts_with(line, m - size, m, words, starts[p], starts[p + 1]):
            return True
    return False


@compiled
def groups_in(line, m, phrases):
    """A bit for each of the groups KEEP, DROP, KEEP_POLICY and DROP_POLICY with a phrase, in any case, in the line."""
    words, starts, first, initials = phrases
    found = 0
    for i in range(m):
        c = line[i]
        if c >= 128 or not initials[c]:
            continue
        for group in range(KEEP, DROP_POLICY + 1):
            if found & (1 << group):
                continue
            for p in range(first[group], first[group + 1]):
                if starts_with(line, i, m, words, starts[p], starts[p + 1]):
                    found |= 1 << group
                    break
    return found


@compiled
def is_counter(line, m, fl, phrases):
    """True for a number, perhaps with K, M or B, and a counted thing, with nothing but marks around."""
    words, starts, first, _ = phrases
    i = 0
    while i < m and not fl[line[i]] & (ALNUM | JOINER):
        i += 1
    if i >= m or not fl[line[i]] & DIGIT:
        return False
    while i < m and (fl[line[i]] & DIGIT or line[i] == 44 or line[i] == 46):
        i += 1
    if i < m and (line[i] | 32) in (107, 109, 98):
        i += 1
    if i >= m or not fl[line[i]] & SPACE:
        return False
    while i < m and fl[line[i]] & SPACE:
        i += 1
    for p in range(first[COUNTERS], first[COUNTERS + 1]):
        if starts_with(line, i, m, words, starts[p], starts[p + 1]):
            j = i + starts[p + 1] - starts[p]
            while j < m and not fl[line[j]] & (ALNUM | JOINER):
                j += 1
            if j == m:
                return True
    return False


@compiled
def cut_short(cp, s, e, fl, phrases, cuts, n_cuts):
    """Notes the phrases that short lines lose, each with one white space beside it; returns how many cuts there are."""
    words, starts, first, _ = phrases
    for p in range(first[ANY], first[ANY + 1]):
        i = s
        while i < e:
            if starts_with(cp, i, e, words, starts[p], starts[p + 1]):
                a = i - 1 if i > s and fl[cp[i - 1]] & SPACE else i
                i += starts[p + 1] - starts[p]
                cuts[3 * n_cuts] = a
                cuts[3 * n_cuts + 1] = i
                cuts[3 * n_cuts + 2] = SHORT_PHRASE
                n_cuts += 1
            else:
                i += 1
    for p in range(first[SUFFIX], first[SUFFIX + 1]):
        a = e - (starts[p + 1] - starts[p])
        if a >= s and starts_with(cp, a, e, words, starts[p], starts[p + 1]):
            if a > s and fl[cp[a - 1]] & SPACE:
                a -= 1
            cuts[3 * n_cuts] = a
            cuts[3 * n_cuts + 1] = e
            cuts[3 * n_cuts + 2] = SHORT_PHRASE
            n_cuts += 1
            break
    for p in range(first[PREFIX], first[PREFIX + 1]):
        if starts_with(cp, s, e, words, starts[p], starts[p + 1]):
            b = s + starts[p + 1] - starts[p]
            if b < e and fl[cp[b]] & SPACE:
                b += 1
            cuts[3 * n_cuts] = s
            cuts[3 * n_cuts + 1] = b
            cuts[3 * n_cuts + 2] = SHORT_PHRASE
            n_cuts += 1
            break
    return n_cuts
