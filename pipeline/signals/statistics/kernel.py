"""The compiled kernel: UTF-8 in, one row of numbers out, in time linear in the text.

Columns are named by `NAMES`, in order; what they mean stands in `schema.py`. Three word splitters run, because the
published filters disagree: `words` (punctuation split off, as spaCy does for English), `split` (white space only) and
`segments` (letters and digits, as Unicode word segmentation finds them). All compiled code of this package is in this
one file: Numba's cache looks at the file of the function that it compiled, and at no other.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

from pipeline.signals.statistics import characters as ch

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`numba.njit` with the cache on disk where some folder can be written, without it where none can."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # Numba found no writable cache folder
        return njit(nogil=True)(function)


# Columns of a row, in order. The names of the repetition columns follow these.
(
    CHAR_COUNT, TOKEN_COUNT, WORD_COUNT, MEAN_WORD_LENGTH, HASH_WORD_RATIO, ELLIPSIS_WORD_RATIO,
    BULLET_LINE_FRAC, ELLIPSIS_LINE_FRAC, ALPHA_WORD_FRAC, STOP_WORD_COUNT, DUP_LINE_FRAC, DUP_LINE_CHAR_FRAC,
    DUP_PARA_FRAC, DUP_PARA_CHAR_FRAC, LINE_COUNT, TERMINAL_PUNCT_LINE_FRAC, SHORT_LINE_30_FRAC,
    DUP_LINE_CHAR_FRAC_FINEWEB, NEWLINE_WORD_RATIO, SENTENCE_COUNT, CURLY_BRACE_COUNT, LOREM_IPSUM_COUNT,
    JAVASCRIPT_COUNT, POLICY_PHRASE_COUNT, WORD_COUNT_SPLIT, MEAN_WORD_LENGTH_SPLIT, MEDIAN_WORD_LENGTH_SPLIT,
    LONGEST_WORD_LENGTH, ALPHA_WORD_FRAC_SPLIT, NON_ALPHA_WORD_FRAC_SPLIT, SYMBOL_WORD_FRAC_DOLMA,
    STOP_WORD_COUNT_DOLMA, BULLET_LINE_FRAC_DOLMA, ELLIPSIS_LINE_FRAC_DOLMA, DUP_LINE_FRAC_DOLMA,
    DUP_LINE_CHAR_FRAC_DOLMA, WORD_COUNT_DCLM, SYMBOL_WORD_RATIO_DCLM, STOP_WORD_COUNT_DCLM,
    BULLET_LINE_FRAC_DCLM, ELLIPSIS_LINE_FRAC_DCLM, DUP_LINE_FRAC_DCLM, DUP_LINE_CHAR_FRAC_DCLM,
    DUP_PARA_FRAC_DCLM, DUP_PARA_CHAR_FRAC_DCLM, UNIQUE_WORD_FRAC, UNIGRAM_ENTROPY, MEAN_LINE_LENGTH,
    LONGEST_LINE_LENGTH, UPPERCASE_CHAR_FRAC, DIGIT_CHAR_FRAC, PUNCT_CHAR_FRAC, WHITESPACE_CHAR_FRAC,
    CJK_CHAR_FRAC,
) = range(54)  # fmt: skip
REPETITION = 54
"""First of 3 x 9 columns: top 2- to 4-grams and duplicate 5- to 10-grams as datatrove, dolma and dclm define them."""
NAMES = (
    "char_count", "token_count", "word_count", "mean_word_length", "hash_word_ratio", "ellipsis_word_ratio",
    "bullet_line_frac", "ellipsis_line_frac", "alpha_word_frac", "stop_word_count", "dup_line_frac",
    "dup_line_char_frac", "dup_para_frac", "dup_para_char_frac", "line_count", "terminal_punct_line_frac",
    "short_line_30_frac", "dup_line_char_frac_fineweb", "newline_word_ratio", "sentence_count",
    "curly_brace_count", "lorem_ipsum_count", "javascript_count", "policy_phrase_count", "word_count_split",
    "mean_word_length_split", "median_word_length_split", "longest_word_length", "alpha_word_frac_split",
    "non_alpha_word_frac_split", "symbol_word_frac_dolma", "stop_word_count_dolma", "bullet_line_frac_dolma",
    "ellipsis_line_frac_dolma", "dup_line_frac_dolma", "dup_line_char_frac_dolma", "word_count_dclm",
    "symbol_word_ratio_dclm", "stop_word_count_dclm", "bullet_line_frac_dclm", "ellipsis_line_frac_dclm",
    "dup_line_frac_dclm", "dup_line_char_frac_dclm", "dup_para_frac_dclm", "dup_para_char_frac_dclm",
    "unique_word_frac", "unigram_entropy", "mean_line_length", "longest_line_length", "uppercase_char_frac",
    "digit_char_frac", "punct_char_frac", "whitespace_char_frac", "cjk_char_frac",
    *(
        f"{'top' if n < 5 else 'dup'}_{n}gram_char_frac{dialect}"
        for dialect in ("", "_dolma", "_dclm")
        for n in range(2, 11)
    ),
)  # fmt: skip

MAX_ITEMS = 1 << 20
"""Words, lines and paragraphs beyond this many of one text take no part in the measures of repetition: it bounds memory,
and lies ten times above the longest page that a published recipe keeps (100,000 words)."""
MAX_AFFIXES = 1024
"""Marks stripped from each side of one run of characters without white space."""
LENGTH_BINS = 256
"""Word lengths from here on count as this less one in the median."""

SPACE, ALPHA, DIGIT, UPPER, LOWER = ch.SPACE, ch.ALPHA, ch.DIGIT, ch.UPPER, ch.LOWER
PUNCT, TERMINAL, AFFIX, PREFIX, CATEGORY_P = ch.PUNCTUATION, ch.TERMINAL, ch.AFFIX, ch.PREFIX, ch.CATEGORY_P
CJK, ALNUM, LINE_BREAK, ICON, JOINER = ch.CJK, ch.ALNUM, ch.LINE_BREAK, ch.ICON, ch.JOINER
MAX_SPECIAL = ch.MAX_SPECIAL
FNV_SEED, FNV_PRIME = -3750763034362895579, 1099511628211
ELLIPSIS = 0x2026

# Slots of the state that one pass over words carries.
TOKENS, WORDS, WORD_CHARS, ALPHAS, STOPS, SENTENCES, SEEN_STOP, IN_LINE, NEXT_ID, STAMP = range(10)
N_STATE = 10


@compiled
def decode(data: np.ndarray, start: int, end: int, out: np.ndarray) -> int:
    """Code points of UTF-8 bytes into `out`; returns how many. A damaged sequence becomes U+FFFD, byte by byte."""
    n = 0
    i = start
    while i < end:
        b = np.int32(data[i])
        size = 1
        point = b
        if b >= 0xC0:
            if b >= 0xF0:
                size = 4
                point = b & 0x07
            elif b >= 0xE0:
                size = 3
                point = b & 0x0F
            else:
                size = 2
                point = b & 0x1F
            if i + size > end:
                size = 1
                point = np.int32(0xFFFD)
            else:
                for k in range(1, size):
                    point = (point << 6) | (np.int32(data[i + k]) & 0x3F)
                if point > 0x10FFFF:
                    point = np.int32(0xFFFD)
        elif b >= 0x80:
            point = np.int32(0xFFFD)
        out[n] = point
        n += 1
        i += size
    return n


@compiled
def hash_range(cp: np.ndarray, a: int, b: int) -> int:
    """FNV-1a over code points a to b."""
    h = np.int64(FNV_SEED)
    for i in range(a, b):
        h = (h ^ np.int64(cp[i])) * np.int64(FNV_PRIME)
    return h


@compiled
def find(keys: np.ndarray, values: np.ndarray, key: int) -> int:
    """The value of a key in a table that `characters.lookup` made, -1 where it is not."""
    mask = len(keys) - 1
    i = (key ^ (key >> 32)) & mask
    while values[i] >= 0:
        if keys[i] == key:
            return values[i]
        i = (i + 1) & mask
    return -1


@compiled
def intern(table: np.ndarray, state: np.ndarray, mask: int, key: int) -> int:
    """The id of a key in the current table (ids count from 0 in order of first sight); -1 when the table is full.

    A slot is a key and, in one number, the stamp of the table that it belongs to and the id: raising the stamp empties
    the table.
    """
    x = np.int64(key) * np.int64(-7046029254386353131)
    x ^= (x >> 32) & 0xFFFFFFFF
    i = x & mask
    stamp = state[STAMP]
    while table[i, 1] >> 32 == stamp:
        if table[i, 0] == key:
            return table[i, 1] & 0xFFFFFFFF
        i = (i + 1) & mask
    known = state[NEXT_ID]
    if 2 * known >= mask:
        return -1
    table[i, 0] = key
    table[i, 1] = (stamp << 32) | known
    state[NEXT_ID] = known + 1
    return known


@compiled
def clear(state: np.ndarray) -> None:
    """Starts a new, empty table."""
    state[STAMP] += 1
    state[NEXT_ID] = 0


@compiled
def emit(cp, a, b, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits):  # type: ignore[no-untyped-def]
    """Takes note of the token a to b. Han and kana become a word a character."""
    if b - a > 1:
        for i in range(a, b):
            if fl[cp[i]] & CJK:
                t = a
                for j in range(a, b):
                    if fl[cp[j]] & CJK:
                        if t < j:
                            token(cp, t, j, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
                        token(cp, j, j + 1, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
                        t = j + 1
                if t < b:
                    token(cp, t, b, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
                return
    token(cp, a, b, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)


@compiled
def token(cp, a, b, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits):  # type: ignore[no-untyped-def]
    """Counts one token: its hash, its classes, and whether it begins a sentence."""
    h = np.int64(FNV_SEED)
    any_flags = 0
    all_flags = 0xFFFF
    for i in range(a, b):
        c = cp[i]
        f = np.int64(fl[c])
        any_flags |= f
        all_flags &= f
        h = (h ^ np.int64(c)) * np.int64(FNV_PRIME)
    n = b - a
    is_stop = n == 1 and all_flags & TERMINAL
    # A sentence begins with the first token of a line, and with the first that is not punctuation after a full stop.
    if not state[IN_LINE]:
        state[SENTENCES] += 1
        state[IN_LINE] = 1
        state[SEEN_STOP] = 1 if is_stop else 0
    elif is_stop:
        state[SEEN_STOP] = 1
    elif state[SEEN_STOP] and not all_flags & CATEGORY_P:
        state[SENTENCES] += 1
        state[SEEN_STOP] = 0
    if not all_flags & PUNCT:
        state[WORDS] += 1
        state[WORD_CHARS] += n
    if any_flags & ALPHA:
        state[ALPHAS] += 1
        if n <= 8:
            bit = find(stop_keys, stop_bits, h)
            if bit > 0:
                state[STOPS] |= bit
    record(h, n, state, wid, wlen, cnt, table, mask)


@compiled
def record(h, n, state, wid, wlen, cnt, table, mask):  # type: ignore[no-untyped-def]
    """Appends a word to the sequence that n-grams are taken from."""
    at = state[TOKENS]
    if at < len(wid):
        known = state[NEXT_ID]
        word = intern(table, state, mask, h)
        wid[at] = word
        wlen[at] = n
        if word >= 0:
            if word == known:
                cnt[word] = 1
            else:
                cnt[word] += 1
    state[TOKENS] += 1


@compiled
def prefix_length(cp: np.ndarray, a: int, b: int, fl: np.ndarray) -> int:
    """Length of the mark that a run of characters begins with, 0 for none."""
    c = cp[a]
    if c == 46:
        i = a + 1
        while i < b and cp[i] == 46:
            i += 1
        return i - a if i - a > 1 else 0
    if fl[c] & (AFFIX | PREFIX | ICON):
        return 1
    if c == 43:
        return 0 if a + 1 < b and fl[cp[a + 1]] & DIGIT else 1
    if c == 67 or c == 65:
        return 2 if a + 1 < b and cp[a + 1] == 36 else 0
    if c == 85 and a + 2 < b and cp[a + 1] == 83 and cp[a + 2] == 36:
        return 3
    return 0


@compiled
def suffix_length(cp: np.ndarray, a: int, b: int, fl: np.ndarray, unit_keys: np.ndarray, unit_values: np.ndarray) -> int:
    """Length of the mark, clitic or unit that a run of characters ends with, 0 for none."""
    if a >= b:
        return 0
    c = cp[b - 1]
    if c == 46:
        i = b - 1
        while i > a and cp[i - 1] == 46:
            i -= 1
        if b - i > 1:
            return b - i
        if b - a < 2:
            return 0
        p = cp[b - 2]
        f = fl[p]
        if f & LOWER or 48 <= p <= 57 or f & AFFIX or p == 37 or p == 0xB2 or p == 43 or p == 45 or p == 124:
            return 1
        if f & UPPER and b - a > 2 and fl[cp[b - 3]] & UPPER:
            return 1
        return 0
    # A unit after a number begins further left than any one mark, so it goes first.
    for size in range(min(4, b - a - 1), 0, -1):
        p = cp[b - size - 1]
        if 48 <= p <= 57 and find(unit_keys, unit_values, hash_range(cp, b - size, b)) > 0:
            return size
    if b - a > 1 and (c == 115 or c == 83) and (cp[b - 2] == 39 or cp[b - 2] == 0x2019):
        return 2
    if fl[c] & (AFFIX | ICON):
        return 1
    if c == 43 and b - a > 1 and 48 <= cp[b - 2] <= 57:
        return 1
    return 0


@compiled
def infix_length(cp: np.ndarray, a: int, i: int, b: int, fl: np.ndarray) -> int:
    """Length of the mark at i that splits the run a to b, 0 for none."""
    c = cp[i]
    f = fl[c]
    if f & (ALPHA | ALNUM):
        return 0
    if c == 46 and i + 1 < b and cp[i + 1] == 46:
        j = i + 2
        while j < b and cp[j] == 46:
            j += 1
        return j - i
    if c == ELLIPSIS or f & ICON:
        return 1
    if i == a or i + 1 >= b:
        return 0
    before = cp[i - 1]
    after = cp[i + 1]
    fb = fl[before]
    fa = fl[after]
    if c == 46:
        if (fb & LOWER or fb & AFFIX and not_ascii_mark(before)) and (
            fa & ALPHA and (fa & UPPER or not is_cased(after)) or fa & AFFIX and not_ascii_mark(after)
        ):
            return 1
        return 0
    if c == 44:
        return 1 if fb & ALPHA and fa & ALPHA else 0
    digit_before = 48 <= before <= 57
    if digit_before and (c == 43 or c == 45 or c == 42 or c == 94) and (48 <= after <= 57 or after == 45):
        return 1
    if fb & ALPHA or digit_before:
        if fa & ALPHA and (
            c == 45 or c == 0x2013 or c == 0x2014 or c == 126 or c == 58 or c == 60 or c == 62 or c == 61 or c == 47
        ):
            return 1
        if c == 45 or c == 0x2014:
            j = i + 1
            while j < b and cp[j] == c:
                j += 1
            if j < b and fl[cp[j]] & ALPHA and (j - i == 2 or j - i == 3 and c == 45):
                return j - i
    return 0


@compiled
def not_ascii_mark(c: int) -> bool:
    """True for quotation marks, which count as letters around a full stop; other marks do not."""
    return c == 39 or c == 34 or c == 96 or c == 0xB4 or c == 0xAB or c == 0xBB or 0x2018 <= c <= 0x201E


@compiled
def is_cased(c: int) -> bool:
    """True for letters of alphabets with two cases: Latin, Greek, Cyrillic, Armenian and full-width Latin."""
    return c < 0x590 or 0x1E00 <= c < 0x2000 or 0xFF21 <= c <= 0xFF5A


@compiled
def is_address(cp: np.ndarray, a: int, b: int, fl: np.ndarray) -> bool:
    """True where a to b reads as a URL or host name, which stays one word: [scheme://][user@]host.tld[:port][/path]."""
    host = a
    i = a
    while i < b and (fl[cp[i]] & ALNUM or cp[i] == 43 or cp[i] == 45 or cp[i] == 46 or cp[i] == 95):
        i += 1
    if i - a >= 2 and i + 2 < b and cp[i] == 58 and cp[i + 1] == 47 and cp[i + 2] == 47:
        host = i + 3
    end = host
    while end < b and cp[end] != 47 and cp[end] != 63 and cp[end] != 35:
        if cp[end] == 64 and end > host:
            host = end + 1
        end += 1
    port = end
    while port > host and 48 <= cp[port - 1] <= 57:
        port -= 1
    if port > host and cp[port - 1] == 58 and 2 <= end - port <= 5:
        end = port - 1
    # Labels of letters, digits, hyphens and underscores, and a last one of two letters or more.
    label = host
    dots = 0
    numeric = True
    for i in range(host, end):
        c = cp[i]
        if c == 46:
            if i == label or cp[i - 1] == 45 or cp[i - 1] == 95 or i - label > 64:
                return False
            dots += 1
            label = i + 1
        else:
            ordinary = 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122 or c >= 0xA1
            if not ordinary and (i == label or (c != 45 and c != 95)):
                return False
            if not 48 <= c <= 57:
                numeric = False
    if dots == 0 or end - label < 1:
        return False
    if numeric:
        return dots == 3 and end - label <= 3
    if end - label < 2:
        return False
    for i in range(label, end):  # noqa: SIM110 - compiled
        if not fl[cp[i]] & LOWER:
            return False
    return True


@compiled
def split_run(cp, s, e, fl, tables, state, wid, wlen, cnt, table, mask, suffixes):  # type: ignore[no-untyped-def]
    """Splits a run of characters without white space into tokens and takes note of each.

    Marks are peeled off both ends until nothing changes or the rest is a special form; the rest is an address, or is
    split at infixes. The order of these steps is spaCy's.
    """
    special_keys, special_cuts, stop_keys, stop_bits, unit_keys, unit_values = tables
    a = s
    b = e
    n_suffixes = 0
    n_prefixes = 0
    cut = np.int64(-1)
    while a < b and n_prefixes < MAX_AFFIXES and n_suffixes < MAX_AFFIXES:
        if b - a <= MAX_SPECIAL:
            cut = find(special_keys, special_cuts, hash_range(cp, a, b))
            if cut >= 0:
                break
        pre = prefix_length(cp, a, b, fl)
        if pre and a + pre < b and b - a - pre <= MAX_SPECIAL:
            cut = find(special_keys, special_cuts, hash_range(cp, a + pre, b))
            if cut >= 0:
                emit(cp, a, a + pre, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
                a += pre
                break
        suf = suffix_length(cp, a + pre, b, fl, unit_keys, unit_values)
        if suf and a < b - suf and b - a - suf <= MAX_SPECIAL:
            cut = find(special_keys, special_cuts, hash_range(cp, a, b - suf))
            if cut >= 0:
                suffixes[n_suffixes] = b
                n_suffixes += 1
                b -= suf
                break
        if pre:
            emit(cp, a, a + pre, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
            a += pre
            n_prefixes += 1
        if suf:
            suffixes[n_suffixes] = b
            n_suffixes += 1
            b -= suf
        if not pre and not suf:
            break
    if a < b:
        if cut > 0:
            emit(cp, a, a + cut, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
            emit(cp, a + cut, b, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
        elif cut == 0 or is_address(cp, a, b, fl):
            emit(cp, a, b, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
        else:
            t = a
            i = a
            while i < b:
                size = infix_length(cp, a, i, b, fl)
                if size == 0:
                    i += 1
                    continue
                if i > t:
                    emit(cp, t, i, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
                    emit(cp, i, i + size, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
                    t = i + size
                i += size
            if t < b:
                emit(cp, t, b, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
    t = b
    for k in range(n_suffixes - 1, -1, -1):
        emit(cp, t, suffixes[k], fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits)
        t = suffixes[k]


@compiled
def repetition(wid, wlen, n_words, text_chars, mode, prev, cur, count, seen, table, mask, state, out):  # type: ignore[no-untyped-def]
    """Fractions of characters in the top 2- to 4-gram and in duplicate 5- to 10-grams, into out[0:9].

    `mode` is the definition: 0 datatrove, 1 dolma, 2 dclm. `count` holds how often each word occurs. An n-gram can
    repeat only where both (n-1)-grams in it do, so each step looks only at what is left of the step before: exact,
    and nearly free on ordinary text. n-grams are compared as sequences of words.
    """
    word_chars = 0
    for i in range(n_words):
        word_chars += wlen[i]
        prev[i] = wid[i] if wid[i] >= 0 and count[wid[i]] > 1 else -1
    whole = text_chars if mode == 0 else word_chars
    for n in range(2, 11):
        m = n_words - n + 1
        if m < 1:
            out[n - 2] = np.nan if whole == 0 else 0.0
            continue
        clear(state)
        for i in range(m):
            cur[i] = -1
            if prev[i] >= 0 and prev[i + 1] >= 0:
                known = state[NEXT_ID]
                gram = intern(table, state, mask, (np.int64(prev[i]) << 32) | np.int64(wid[i + n - 1]))
                cur[i] = gram
                if gram >= 0:
                    if gram == known:
                        count[gram] = 1
                        seen[gram] = 0
                    else:
                        count[gram] += 1
        best = 0
        best_chars = 0
        for i in range(m):
            gram = cur[i]
            if gram < 0:
                continue
            if count[gram] < 2:
                cur[i] = -1
            elif n < 5 and count[gram] >= best:
                chars = n - 1 if mode == 0 else 0
                for k in range(n):
                    chars += wlen[i + k]
                # Of equally frequent ones the first counts; dclm takes the longest.
                if count[gram] > best or mode == 2 and chars > best_chars:
                    best = count[gram]
                    best_chars = chars
        if n < 5:
            if best == 0 and mode != 2:
                best = 1
                best_chars = n - 1 if mode == 0 else 0
                for k in range(n):
                    best_chars += wlen[k]
            out[n - 2] = best * best_chars / whole if whole else np.nan
        elif mode == 0:
            repeated = 0
            i = 0
            while i < m:
                gram = cur[i]
                if gram >= 0 and seen[gram]:
                    for k in range(n):
                        repeated += wlen[i + k]
                    i += n
                else:
                    if gram >= 0:
                        seen[gram] = 1
                    i += 1
            out[n - 2] = repeated / whole if whole else np.nan
        elif mode == 1:
            repeated = 0
            total = 0
            chars = 0
            for k in range(n - 1):
                chars += wlen[k]
            for i in range(m):
                chars += wlen[i + n - 1]
                total += chars
                if cur[i] >= 0:
                    repeated += chars
                chars -= wlen[i]
            out[n - 2] = repeated / total if total else np.nan
        else:
            repeated = 0
            left = 0
            for i in range(n_words):
                if i < m and cur[i] >= 0:
                    left = n
                if left > 0:
                    repeated += wlen[i]
                    left -= 1
            out[n - 2] = repeated / whole if whole else np.nan
        for i in range(m):
            prev[i] = cur[i]


@compiled
def split_words(cp, n, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits, bins, row):  # type: ignore[no-untyped-def]
    """White-space words (as Python's `str.split`) and what dolma and dclm measure of them, into row."""
    bins[:] = 0
    words = chars = alphas = symbols = stops = stops_lower = longest = 0
    i = 0
    while i < n:
        if fl[cp[i]] & SPACE:
            i += 1
            continue
        a = i
        h = np.int64(FNV_SEED)
        lower = np.int64(FNV_SEED)
        flags = 0
        symbol = False
        while i < n:
            c = cp[i]
            f = np.int64(fl[c])
            if f & SPACE:
                break
            flags |= f
            h = (h ^ np.int64(c)) * np.int64(FNV_PRIME)
            lower = (lower ^ np.int64(c + 32 if 65 <= c <= 90 else c)) * np.int64(FNV_PRIME)
            if c == 35 or c == ELLIPSIS:
                symbol = True
            i += 1
        size = i - a
        words += 1
        chars += size
        longest = max(longest, size)
        bins[min(size, LENGTH_BINS - 1)] += 1
        if symbol:
            symbols += 1
        if flags & ALPHA:
            alphas += 1
            if size <= 8:
                if find(stop_keys, stop_bits, h) > 0:
                    stops += 1
                if find(stop_keys, stop_bits, lower) > 0:
                    stops_lower += 1
        record(h, size, state, wid, wlen, cnt, table, mask)
    row[WORD_COUNT_SPLIT] = words
    row[STOP_WORD_COUNT_DOLMA] = stops
    row[STOP_WORD_COUNT_DCLM] = stops_lower
    row[LONGEST_WORD_LENGTH] = longest
    if words:
        row[MEAN_WORD_LENGTH_SPLIT] = chars / words
        row[MEDIAN_WORD_LENGTH_SPLIT] = (nth(bins, (words - 1) // 2) + nth(bins, words // 2)) / 2
        row[ALPHA_WORD_FRAC_SPLIT] = alphas / words
        row[NON_ALPHA_WORD_FRAC_SPLIT] = (words - alphas) / words
        row[SYMBOL_WORD_FRAC_DOLMA] = symbols / words
    return words


@compiled
def nth(bins: np.ndarray, rank: int) -> int:
    """The value at a rank of a histogram over 0, 1, 2 …"""
    for value in range(len(bins)):
        rank -= bins[value]
        if rank < 0:
            return value
    return len(bins) - 1


@compiled
def segments(cp, n, fl, state, wid, wlen, cnt, table, mask):  # type: ignore[no-untyped-def]
    """Takes note of words as Unicode segmentation (UAX 29) finds them, those that begin with a letter or digit."""
    i = 0
    while i < n:
        f = fl[cp[i]]
        if not f & ALNUM:
            i += 1
            # What an underscore or a mark begins is one segment, and not a word.
            if f & JOINER:
                while i < n and fl[cp[i]] & (ALNUM | JOINER):
                    i += 1
            continue
        a = i
        i += 1
        if not f & CJK:
            while i < n:
                c = cp[i]
                f = fl[c]
                if f & CJK and f & ALNUM:
                    break
                if not f & (ALNUM | JOINER):
                    if i + 1 >= n or f & CJK or fl[cp[i + 1]] & CJK:
                        break
                    before = fl[cp[i - 1]]
                    after = fl[cp[i + 1]]
                    joins = c == 46 or c == 39 or c == 0x2019
                    if not (
                        (joins or c == 58 or c == 0xB7) and before & ALPHA and after & ALPHA
                        or (joins or c == 44 or c == 59) and before & DIGIT and after & DIGIT
                    ):  # fmt: skip
                        break
                i += 1
        record(hash_range(cp, a, i), i - a, state, wid, wlen, cnt, table, mask)


@compiled
def parts(cp, n, fl, least, count, table, mask, state, found):  # type: ignore[no-untyped-def]
    """Splits at runs of at least `least` newlines and counts equal parts, as they stand and stripped.

    `found` receives: 0 parts that are not empty, 1 of them beyond the first copy, 2 the characters of those, 3 parts
    not blank, 4 characters of copies among them after the first, 5 stripped parts that occur more than once, 6 their
    characters, 7 characters of all stripped parts, 8 parts in `count` that occur more than once, 9 their characters.
    """
    found[:] = 0
    # Ids of raw and stripped parts live in one table: the stripped hash is made distinct by a constant.
    clear(state)
    a = 0
    while a <= n:
        b = a
        newlines = 0
        nxt = n + 1
        while b < n:
            if cp[b] == 10:
                j = b
                while j < n and cp[j] == 10:
                    j += 1
                if j - b >= least:
                    newlines = j - b
                    nxt = j
                    break
                b = j
            else:
                b += 1
        if b > a:
            s = a
            e = b
            while s < e and fl[cp[s]] & SPACE:
                s += 1
            while e > s and fl[cp[e - 1]] & SPACE:
                e -= 1
            h = hash_range(cp, a, b)
            known = state[NEXT_ID]
            i = intern(table, state, mask, h)
            found[0] += 1
            if i >= 0:
                if i == known:
                    count[i] = 0
                count[i] += 1
                if count[i] > 1:
                    found[1] += 1
                    found[2] += b - a
                    if e > s:
                        found[4] += b - a
                    again = 2 if count[i] == 2 else 1
                    found[8] += again
                    found[9] += again * (b - a)
            if e > s:
                found[3] += 1
                found[7] += e - s
                h2 = (h if s == a and e == b else hash_range(cp, s, e)) ^ np.int64(0x5851F42D4C957F2D)
                known = state[NEXT_ID]
                i = intern(table, state, mask, h2)
                if i >= 0:
                    if i == known:
                        count[i] = 0
                    count[i] += 1
                    if count[i] > 1:
                        again = 2 if count[i] == 2 else 1
                        found[5] += again
                        found[6] += again * (e - s)
        if newlines == 0:
            break
        a = nxt


@compiled
def share(part: float, whole: float) -> float:
    """part / whole, NaN where there is no whole."""
    return part / whole if whole else np.nan


@compiled
def characters(cp, n, fl, phrase_cp, phrase_starts, phrase_kinds, tally, row):  # type: ignore[no-untyped-def]
    """Counts by character class, marks and phrases, into row; `tally` receives hashes, ellipses, newlines, dclm marks."""
    upper = digits = punct = space = cjk = hashes = dots = single = spaced = newlines = curly = 0
    found = np.zeros(3, np.int64)
    i_dots = i_spaced = 0
    initials = np.int64(0)  # a bit for each letter that a phrase begins with
    for p in range(len(phrase_kinds)):
        initials |= np.int64(1) << (phrase_cp[phrase_starts[p]] - 97)
    for i in range(n):
        c = cp[i]
        f = fl[c]
        if f & UPPER:
            upper += 1
        if f & DIGIT:
            digits += 1
        if f & CATEGORY_P:
            punct += 1
        if f & SPACE:
            space += 1
        if f & CJK:
            cjk += 1
        if c == 10:
            newlines += 1
        elif c == 35:
            hashes += 1
        elif c == 123:
            curly += 1
        elif c == ELLIPSIS:
            single += 1
        elif c == 46:
            if i >= i_dots and i + 2 < n and cp[i + 1] == 46 and cp[i + 2] == 46:
                dots += 1
                i_dots = i + 3
            if i >= i_spaced and i + 4 < n and cp[i + 1] == 32 and cp[i + 2] == 46 and cp[i + 3] == 32 and cp[i + 4] == 46:
                spaced += 1
                i_spaced = i + 5
        elif c < 128 and f & ALPHA and (initials >> ((c | 32) - 97)) & 1:
            for p in range(len(phrase_kinds)):
                if starts_with(cp, i, n, phrase_cp, phrase_starts[p], phrase_starts[p + 1]):
                    found[phrase_kinds[p]] += 1
    row[CHAR_COUNT] = n
    row[UPPERCASE_CHAR_FRAC] = share(upper, n)
    row[DIGIT_CHAR_FRAC] = share(digits, n)
    row[PUNCT_CHAR_FRAC] = share(punct, n)
    row[WHITESPACE_CHAR_FRAC] = share(space, n)
    row[CJK_CHAR_FRAC] = share(cjk, n)
    row[CURLY_BRACE_COUNT] = curly
    row[LOREM_IPSUM_COUNT] = found[0]
    row[JAVASCRIPT_COUNT] = found[1]
    row[POLICY_PHRASE_COUNT] = found[2]
    tally[0] = hashes
    tally[1] = dots + single
    tally[2] = newlines
    tally[3] = hashes + dots + single + spaced


@compiled
def starts_with(cp: np.ndarray, i: int, end: int, phrase: np.ndarray, first: int, last: int) -> bool:
    """True where the text at i reads as phrase[first:last], capital ASCII letters taken as small ones."""
    if i + last - first > end:
        return False
    for k in range(last - first):
        c = cp[i + k]
        if 65 <= c <= 90:
            c += 32
        if c != phrase[first + k]:
            return False
    return True


@compiled
def lines(cp, n, fl, row):  # type: ignore[no-untyped-def]
    """What is measured line by line, into row. Lines end at a newline; for bullets and ellipses, at any line break."""
    any_lines = bullets = ends = 0
    all_lines = bullets_dolma = ends_dolma = 0
    filled = bullets_dclm = ends_dclm = terminal = short = longest = 0
    total = 0
    a = 0  # start of the line that any line break ends
    start = 0  # start of the line that a newline ends
    for i in range(n + 1):
        at_end = i == n
        if not at_end and not fl[cp[i]] & LINE_BREAK:
            continue
        newline = at_end or cp[i] == 10
        after_return = not at_end and cp[i] == 10 and i > 0 and cp[i - 1] == 13
        if not after_return and not (at_end and a == n):
            any_lines += 1
            s = a
            e = i
            while s < e and fl[cp[s]] & SPACE:
                s += 1
            while e > s and fl[cp[e - 1]] & SPACE:
                e -= 1
            if s < e:
                if cp[s] == 0x2022 or cp[s] == 45:
                    bullets += 1
                if ellipsis_at(cp, s, e):
                    ends += 1
        a = i + 1
        if not newline:
            continue
        all_lines += 1
        s = start
        e = i
        if s < e:
            if cp[s] == 42 or cp[s] == 45:
                bullets_dolma += 1
            if cp[e - 1] == ELLIPSIS:
                ends_dolma += 1
        while s < e and fl[cp[s]] & SPACE:
            s += 1
        while e > s and fl[cp[e - 1]] & SPACE:
            e -= 1
        if s < e:
            filled += 1
            c = cp[s]
            if c == 0x25CF or c == 0x2022 or c == 42 or c == 45:
                bullets_dclm += 1
            spaced = e - s >= 5 and cp[e - 1] == 46 and cp[e - 2] == 32 and cp[e - 3] == 46 and cp[e - 4] == 32
            if ellipsis_at(cp, s, e) or spaced and cp[e - 5] == 46:
                ends_dclm += 1
            if fl[cp[i - 1]] & TERMINAL:
                terminal += 1
            if i - start <= 30:
                short += 1
            longest = max(longest, i - start)
            total += i - start
        start = i + 1
    row[BULLET_LINE_FRAC] = share(bullets, any_lines)
    row[ELLIPSIS_LINE_FRAC] = share(ends, any_lines)
    row[BULLET_LINE_FRAC_DOLMA] = share(bullets_dolma, all_lines)
    row[ELLIPSIS_LINE_FRAC_DOLMA] = share(ends_dolma, all_lines)
    row[BULLET_LINE_FRAC_DCLM] = share(bullets_dclm, filled)
    row[ELLIPSIS_LINE_FRAC_DCLM] = share(ends_dclm, filled)
    row[LINE_COUNT] = filled
    row[TERMINAL_PUNCT_LINE_FRAC] = share(terminal, filled)
    row[SHORT_LINE_30_FRAC] = share(short, filled)
    row[LONGEST_LINE_LENGTH] = longest
    row[MEAN_LINE_LENGTH] = share(total, filled)


@compiled
def ellipsis_at(cp: np.ndarray, s: int, e: int) -> bool:
    """True where s to e ends with three full stops or U+2026."""
    if cp[e - 1] == ELLIPSIS:
        return True
    return e - s >= 3 and cp[e - 1] == 46 and cp[e - 2] == 46 and cp[e - 3] == 46


@compiled
def tokens(cp, n, fl, tables, state, wid, wlen, cnt, table, mask, suffixes):  # type: ignore[no-untyped-def]
    """Splits a text into tokens run by run; a line break of any kind ends a sentence."""
    i = 0
    while i < n:
        f = fl[cp[i]]
        if f & SPACE:
            if f & LINE_BREAK:
                state[IN_LINE] = 0
            i += 1
            continue
        a = i
        while i < n and not fl[cp[i]] & SPACE:
            i += 1
        split_run(cp, a, i, fl, tables, state, wid, wlen, cnt, table, mask, suffixes)


@compiled
def ascii_words(cp: np.ndarray, n: int, fl: np.ndarray) -> int:
    """Words between ASCII white space (or NUL) that begin with a letter or digit, as fastText splits."""
    words = 0
    start = True
    for i in range(n):
        c = cp[i]
        if c == 32 or 9 <= c <= 13 or c == 0:
            start = True
        else:
            if start and fl[c] & ALNUM:
                words += 1
            start = False
    return words


@compiled
def measure(data, offsets, fl, tables, phrase_tables, out):  # type: ignore[no-untyped-def]
    """Measures every text of an Arrow string array: row r of `out` is the text of bytes offsets[r] to offsets[r + 1]."""
    longest = np.int64(0)
    for r in range(len(offsets) - 1):
        longest = max(longest, np.int64(offsets[r + 1]) - np.int64(offsets[r]))
    items = min(longest, MAX_ITEMS) + 2
    size = 64
    while size < 4 * items + 64:
        size *= 2
    table = np.zeros((size, 2), np.int64)
    count = np.empty(size // 2 + 1, np.int32)
    scratch = np.empty(size // 2 + 1, np.int32)
    cp = np.empty(longest + 1, np.int32)
    wid = np.empty(items, np.int32)
    wlen = np.empty(items, np.int32)
    prev = np.empty(items, np.int32)
    cur = np.empty(items, np.int32)
    suffixes = np.empty(MAX_AFFIXES + 2, np.int32)
    bins = np.empty(LENGTH_BINS, np.int64)
    state = np.zeros(N_STATE, np.int64)
    tally = np.zeros(4, np.int64)
    found = np.zeros(10, np.int64)
    stop_keys, stop_bits = tables[2], tables[3]
    for r in range(len(offsets) - 1):
        row = out[r]
        row[:] = np.nan
        n = decode(data, offsets[r], offsets[r + 1], cp)
        mask = 64
        while mask < 4 * min(n, MAX_ITEMS) + 64:
            mask *= 2
        mask -= 1
        characters(cp, n, fl, phrase_tables[0], phrase_tables[1], phrase_tables[2], tally, row)
        lines(cp, n, fl, row)

        # Lines and paragraphs. A split at runs of newlines leaves an empty part at each end that has a newline; at
        # single newlines, every line between two newlines counts.
        parts(cp, n, fl, 1, count, table, mask, state, found)
        edges = (1 if n and cp[0] == 10 else 0) + (1 if n and cp[n - 1] == 10 else 0)
        row[DUP_LINE_FRAC] = share(found[1] + max(edges - 1, 0), found[0] + edges)
        row[DUP_LINE_CHAR_FRAC] = share(found[2], n)
        row[DUP_LINE_CHAR_FRAC_FINEWEB] = share(found[4], n - tally[2])
        empty = tally[2] + 1 - found[0]
        row[DUP_LINE_FRAC_DOLMA] = share(found[8] + (empty if empty > 1 else 0), tally[2] + 1) if n else np.nan
        dolma_chars = found[9]
        set_repeats(row, DUP_LINE_FRAC_DCLM, found)
        s = 0
        e = n
        while s < e and fl[cp[s]] & SPACE:
            s += 1
        while e > s and fl[cp[e - 1]] & SPACE:
            e -= 1
        parts(cp[s:e], e - s, fl, 2, count, table, mask, state, found)
        row[DUP_PARA_FRAC] = share(found[1], max(found[0], 1)) if n else np.nan
        row[DUP_PARA_CHAR_FRAC] = share(found[2], n)
        set_repeats(row, DUP_PARA_FRAC_DCLM, found)

        # Words, split in three ways.
        state[TOKENS:IN_LINE + 1] = 0
        clear(state)
        tokens(cp, n, fl, tables, state, wid, wlen, count, table, mask, suffixes)
        n_tokens = state[TOKENS]
        row[TOKEN_COUNT] = n_tokens
        row[WORD_COUNT] = state[WORDS]
        row[MEAN_WORD_LENGTH] = share(state[WORD_CHARS], state[WORDS])
        row[HASH_WORD_RATIO] = share(tally[0], n_tokens)
        row[ELLIPSIS_WORD_RATIO] = share(tally[1], n_tokens)
        row[ALPHA_WORD_FRAC] = share(state[ALPHAS], n_tokens)
        row[STOP_WORD_COUNT] = bits(state[STOPS])
        row[SENTENCE_COUNT] = state[SENTENCES]
        row[NEWLINE_WORD_RATIO] = share(tally[2], n_tokens)
        kept = min(n_tokens, len(wid))
        row[UNIQUE_WORD_FRAC] = share(state[NEXT_ID], kept)
        row[UNIGRAM_ENTROPY] = entropy(count, state[NEXT_ID], kept)
        at = REPETITION
        repetition(
            wid, wlen, kept, n, 0, prev, cur, count, scratch, table, mask, state, row[at : at + 9]
        )  # fmt: skip

        state[TOKENS] = 0
        clear(state)
        words = split_words(
            cp, n, fl, state, wid, wlen, count, table, mask, stop_keys, stop_bits, bins, row
        )  # fmt: skip
        row[SYMBOL_WORD_RATIO_DCLM] = share(tally[3], words)
        chars = row[MEAN_WORD_LENGTH_SPLIT] * words if words else 0.0
        row[DUP_LINE_CHAR_FRAC_DOLMA] = dolma_chars / max(np.round(chars), 1.0) if n else np.nan
        at += 9
        repetition(
            wid, wlen, min(words, len(wid)), n, 1, prev, cur, count, scratch, table, mask, state,
            row[at : at + 9],
        )  # fmt: skip

        state[TOKENS] = 0
        clear(state)
        segments(cp, n, fl, state, wid, wlen, count, table, mask)
        row[WORD_COUNT_DCLM] = ascii_words(cp, n, fl)
        at += 9
        repetition(
            wid, wlen, min(state[TOKENS], len(wid)), n, 2, prev, cur, count, scratch, table, mask, state,
            row[at : at + 9],
        )  # fmt: skip


@compiled
def set_repeats(row, at, found):  # type: ignore[no-untyped-def]
    """dclm's share of repeated parts and of their characters, into row[at] and row[at + 1]; a single part repeats nothing."""
    row[at] = share(found[5], found[3])
    row[at + 1] = share(found[6], found[7])


@compiled
def bits(value: int) -> int:
    """How many bits are set."""
    n = 0
    while value:
        n += value & 1
        value >>= 1
    return n


@compiled
def entropy(count: np.ndarray, kinds: int, total: int) -> float:
    """Shannon entropy of counts in bits; NaN without any."""
    if total == 0:
        return np.nan
    h = 0.0
    for i in range(kinds):
        p = count[i] / total
        h -= p * math.log2(p)
    return h


@compiled
def count_ascii_words(data, offsets, fl, out):  # type: ignore[no-untyped-def]
    """`ascii_words` of every text of an Arrow string array."""
    longest = np.int64(0)
    for r in range(len(offsets) - 1):
        longest = max(longest, np.int64(offsets[r + 1]) - np.int64(offsets[r]))
    cp = np.empty(longest + 1, np.int32)
    for r in range(len(offsets) - 1):
        out[r] = ascii_words(cp, decode(data, offsets[r], offsets[r + 1], cp), fl)
