# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment,arg-type,operator"
"""The compiled kernel: UTF-8 in, one row of numbers out (places in `columns.py`), in time linear in the text."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.signals.statistics.columns import (
    ALPHA_WORD_FRAC,
    BULLET_LINE_FRAC,
    BULLET_LINE_FRAC_DCLM,
    BULLET_LINE_FRAC_DOLMA,
    CHAR_COUNT,
    CJK_CHAR_FRAC,
    CURLY_BRACE_COUNT,
    DIGIT_CHAR_FRAC,
    DUP_LINE_CHAR_FRAC,
    DUP_LINE_CHAR_FRAC_DOLMA,
    DUP_LINE_CHAR_FRAC_FINEWEB,
    DUP_LINE_FRAC,
    DUP_LINE_FRAC_DCLM,
    DUP_LINE_FRAC_DOLMA,
    DUP_PARA_CHAR_FRAC,
    DUP_PARA_FRAC,
    DUP_PARA_FRAC_DCLM,
    ELLIPSIS_LINE_FRAC,
    ELLIPSIS_LINE_FRAC_DCLM,
    ELLIPSIS_LINE_FRAC_DOLMA,
    ELLIPSIS_WORD_RATIO,
    HASH_WORD_RATIO,
    JAVASCRIPT_COUNT,
    LINE_COUNT,
    LONGEST_LINE_LENGTH,
    LOREM_IPSUM_COUNT,
    MEAN_LINE_LENGTH,
    MEAN_WORD_LENGTH,
    MEAN_WORD_LENGTH_SPLIT,
    NEWLINE_WORD_RATIO,
    POLICY_PHRASE_COUNT,
    PUNCT_CHAR_FRAC,
    REPETITION,
    SENTENCE_COUNT,
    SHORT_LINE_30_FRAC,
    STOP_WORD_COUNT,
    SYMBOL_WORD_RATIO_DCLM,
    TERMINAL_PUNCT_LINE_FRAC,
    TOKEN_COUNT,
    UNIGRAM_ENTROPY,
    UNIQUE_WORD_FRAC,
    UPPERCASE_CHAR_FRAC,
    WHITESPACE_CHAR_FRAC,
    WORD_COUNT,
    WORD_COUNT_DCLM,
)
from pipeline.signals.statistics.primitives import (
    ALPHA,
    ALPHAS,
    CATEGORY_P,
    CJK,
    DIGIT,
    ELLIPSIS,
    LENGTH_BINS,
    LINE_BREAK,
    MAX_AFFIXES,
    MAX_ITEMS,
    N_STATE,
    NEXT_ID,
    SENTENCES,
    SPACE,
    STOPS,
    TERMINAL,
    TOKENS,
    UPPER,
    WORD_CHARS,
    WORDS,
    clear,
    compiled,
    decode,
    hash_range,
    intern,
    share,
    source_number,
    starts_with,
)
from pipeline.signals.statistics.words import (
    ascii_words,
    segments,
    split_words,
    tokens,
)


@compiled
def characters(cp, n, fl, phrase_cp, phrase_starts, phrase_kinds, tally, row):
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
            if (
                i >= i_spaced
                and i + 4 < n
                and cp[i + 1] == 32
                and cp[i + 2] == 46
                and cp[i + 3] == 32
                and cp[i + 4] == 46
            ):
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
def lines(cp, n, fl, row):
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
            if ellipsis_at(cp, s, e) or (spaced and cp[e - 5] == 46):
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
def parts(cp, n, fl, least, count, table, mask, state, found):
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
def set_repeats(row, at, found):
    """dclm's share of repeated parts and of their characters, into row[at] and row[at + 1]; a single part repeats nothing."""
    row[at] = share(found[5], found[3])
    row[at + 1] = share(found[6], found[7])


@compiled
def repetition(wid, wlen, n_words, text_chars, mode, prev, cur, count, seen, table, mask, state, out):
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
                if count[gram] > best or (mode == 2 and chars > best_chars):
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


def _measure(sources: int) -> Any:
    """The entry, compiled. Numba renews its cache on disk when the file of the entry changes, or a number that the entry
    closes over: `sources` is made of every file of compiled code, so that none can go stale."""

    @compiled
    def measure(data, offsets, fl, tables, phrase_tables, out):
        """Measures every text of an Arrow string array: row r of `out` is the text of bytes offsets[r] to offsets[r + 1]."""
        if sources == 0:
            return
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
        ends = np.empty(longest + 2, np.int32)
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
            while mask < 2 * min(n, MAX_ITEMS) + 64:
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
            state[TOKENS] = 0
            clear(state)
            tokens(cp, n, fl, tables, state, wid, wlen, count, table, mask, ends, suffixes)
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

    return measure


measure = _measure(source_number(Path(__file__).parent))


@compiled
def count_ascii_words(data, offsets, fl, out):
    """`ascii_words` of every text of an Arrow string array."""
    longest = np.int64(0)
    for r in range(len(offsets) - 1):
        longest = max(longest, np.int64(offsets[r + 1]) - np.int64(offsets[r]))
    cp = np.empty(longest + 1, np.int32)
    for r in range(len(offsets) - 1):
        out[r] = ascii_words(cp, decode(data, offsets[r], offsets[r + 1], cp), fl)
