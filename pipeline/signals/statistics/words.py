# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment,arg-type,operator"
"""Three word splitters, because the published filters disagree: `tokens` (punctuation split off, as spaCy does for
English), `split_words` (white space only) and `segments` (letters and digits, as Unicode word segmentation finds them)."""

import numpy as np

from pipeline.signals.statistics.columns import (
    ALPHA_WORD_FRAC_SPLIT,
    LONGEST_WORD_LENGTH,
    MEAN_WORD_LENGTH_SPLIT,
    MEDIAN_WORD_LENGTH_SPLIT,
    NON_ALPHA_WORD_FRAC_SPLIT,
    STOP_WORD_COUNT_DCLM,
    STOP_WORD_COUNT_DOLMA,
    SYMBOL_WORD_FRAC_DOLMA,
    WORD_COUNT_SPLIT,
)
from pipeline.signals.statistics.primitives import (
    AFFIX,
    ALNUM,
    ALPHA,
    ALPHAS,
    CATEGORY_P,
    CJK,
    DIGIT,
    ELLIPSIS,
    FNV_PRIME,
    FNV_SEED,
    ICON,
    JOINER,
    LENGTH_BINS,
    LINE_BREAK,
    LOWER,
    MAX_AFFIXES,
    MAX_SPECIAL,
    MAX_STOP_WORD,
    PREFIX,
    PUNCT,
    SENTENCES,
    SPACE,
    STOPS,
    TERMINAL,
    UPPER,
    WORD_CHARS,
    WORDS,
    compiled,
    find,
    hash_range,
    record,
)


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
def suffix_length(
    cp: np.ndarray, a: int, b: int, fl: np.ndarray, unit_keys: np.ndarray, unit_values: np.ndarray
) -> int:
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
        # Vowel signs and points of Hebrew, Arabic and the scripts of India end a word as letters do.
        return 1 if f & JOINER and 0x591 <= p < 0xE00 else 0
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
        if (fb & LOWER or (fb & AFFIX and not_ascii_mark(before))) and (
            (fa & ALPHA and (fa & UPPER or not is_cased(after))) or (fa & AFFIX and not_ascii_mark(after))
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
            if j < b and fl[cp[j]] & ALPHA and (j - i == 2 or (j - i == 3 and c == 45)):
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
def split_run(cp, s, e, fl, tables, ends, suffixes):
    """Splits a run of characters without white space; returns how many tokens, which end at `ends`.

    Marks are peeled off both ends until nothing changes or the rest is a special form; the rest is an address, or is
    split at infixes. The order of these steps is spaCy's.
    """
    special_keys, special_cuts, unit_keys, unit_values = tables[0], tables[1], tables[4], tables[5]
    a = s
    b = e
    n = 0
    n_suffixes = 0
    cut = np.int64(-1)
    while a < b and n < MAX_AFFIXES and n_suffixes < MAX_AFFIXES:
        if b - a <= MAX_SPECIAL:
            cut = find(special_keys, special_cuts, hash_range(cp, a, b))
            if cut >= 0:
                break
        pre = prefix_length(cp, a, b, fl)
        if pre and a + pre < b and b - a - pre <= MAX_SPECIAL:
            cut = find(special_keys, special_cuts, hash_range(cp, a + pre, b))
            if cut >= 0:
                a += pre
                ends[n] = a
                n += 1
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
            a += pre
            ends[n] = a
            n += 1
        if suf:
            suffixes[n_suffixes] = b
            n_suffixes += 1
            b -= suf
        if not pre and not suf:
            break
    if a < b:
        if cut > 0:
            ends[n] = a + cut
            n += 1
        elif cut < 0 and not is_address(cp, a, b, fl):
            t = a
            i = a
            while i < b:
                size = infix_length(cp, a, i, b, fl)
                if size and i > t:
                    ends[n] = i
                    ends[n + 1] = t = i + size
                    n += 2
                i += max(size, 1)
            if t == b:
                n -= 1  # noted below
        ends[n] = b
        n += 1
    for k in range(n_suffixes - 1, -1, -1):
        ends[n] = suffixes[k]
        n += 1
    return n


@compiled
def tokens(cp, n, fl, tables, state, wid, wlen, cnt, table, mask, ends, suffixes):
    """Splits a text into tokens and counts them by class; Han and kana are a token a character.

    A sentence begins with the first token of a line (any line break), and with the first token that is not punctuation
    after one that ends a sentence.
    """
    special_keys, special_cuts, stop_keys, stop_bits = tables[0], tables[1], tables[2], tables[3]
    words = word_chars = alphas = stops = sentences = 0
    in_line = seen_stop = False
    i = 0
    while i < n:
        f = fl[cp[i]]
        if f & SPACE:
            if f & LINE_BREAK:
                in_line = False
            i += 1
            continue
        a = i
        h = np.int64(FNV_SEED)
        body = h  # the hash without the last character
        all_flags = body_flags = 0xFFFF
        while i < n:
            c = cp[i]
            f = np.int64(fl[c])
            if f & SPACE:
                break
            body = h
            body_flags = all_flags
            all_flags &= f
            h = (h ^ np.int64(c)) * np.int64(FNV_PRIME)
            i += 1
        # Most runs are letters, or letters and one mark: the two cases of `split_run` that need no search.
        size = i - a
        last = cp[i - 1]
        f = np.int64(fl[last])
        splits = -1
        if body_flags & ALPHA and (size > MAX_SPECIAL or find(special_keys, special_cuts, h) < 0):
            if all_flags & ALPHA:
                splits = 0
            elif (
                size > 1
                and not f & ALPHA
                and ((last == 46 and fl[cp[i - 2]] & LOWER) or (last != 46 and f & AFFIX))
                and (size - 1 > MAX_SPECIAL or find(special_keys, special_cuts, body) < 0)
            ):
                splits = 1
                ends[0] = i - 1
        if splits < 0:
            splits = split_run(cp, a, i, fl, tables, ends, suffixes)
        else:
            ends[splits] = i
            splits += 1
        for k in range(splits):
            end = ends[k]
            while a < end:
                start = a
                h = np.int64(FNV_SEED)
                any_flags = 0
                all_flags = 0xFFFF
                while a < end:
                    c = cp[a]
                    f = np.int64(fl[c])
                    if f & CJK and a > start:
                        break
                    a += 1
                    any_flags |= f
                    all_flags &= f
                    h = (h ^ np.int64(c)) * np.int64(FNV_PRIME)
                    if f & CJK:
                        break
                size = a - start
                is_stop = size == 1 and all_flags & TERMINAL != 0
                if not in_line:
                    sentences += 1
                    in_line = True
                    seen_stop = is_stop
                elif is_stop:
                    seen_stop = True
                elif seen_stop and not all_flags & CATEGORY_P:
                    sentences += 1
                    seen_stop = False
                if not all_flags & PUNCT:
                    words += 1
                    word_chars += size
                if any_flags & ALPHA:
                    alphas += 1
                    if size <= MAX_STOP_WORD:
                        bit = find(stop_keys, stop_bits, h)
                        if bit > 0:
                            stops |= bit
                record(h, size, state, wid, wlen, cnt, table, mask)
    state[WORDS] = words
    state[WORD_CHARS] = word_chars
    state[ALPHAS] = alphas
    state[STOPS] = stops
    state[SENTENCES] = sentences


@compiled
def split_words(cp, n, fl, state, wid, wlen, cnt, table, mask, stop_keys, stop_bits, bins, row):
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
            if size <= MAX_STOP_WORD:
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
def segments(cp, n, fl, state, wid, wlen, cnt, table, mask):
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
                        ((joins or c == 58 or c == 0xB7) and before & ALPHA and after & ALPHA)
                        or ((joins or c == 44 or c == 59) and before & DIGIT and after & DIGIT)
                    ):  # fmt: skip
                        break
                i += 1
        record(hash_range(cp, a, i), i - a, state, wid, wlen, cnt, table, mask)


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
