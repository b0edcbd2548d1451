# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment"
"""The compiled code of deduplication: texts normalised, their lines hashed, their n-grams sketched.

It stays in one file because Numba's cache looks at the file of the function that it compiled and at no other.
"""

import numpy as np

from pipeline.signals.statistics.primitives import compiled, inlined

# What the tables say of a code point: one of these kinds, and above its two bits the form that it takes plus one; nothing
# there for what is dropped and for white space, so that both add nothing to a hash.
DROPPED, LETTER, SPACE, WORD = range(4)

# Numba makes a float of a signed and an unsigned number together: all of these are unsigned.
U32, U64 = np.uint32, np.uint64
MIX_1, MIX_2 = U64(0xBF58476D1CE4E5B9), U64(0x94D049BB133111EB)
MASK = (1 << 64) - 1
EMPTY = 2**32 - 1
"""What a signature holds in every place where a text has no n-gram."""
FMIX_1, FMIX_2 = U32(0x85EBCA6B), U32(0xC2B2AE35)
# By kind of character: what stays of the hash of a word, everything or (after white space) nothing.
KEEP = np.array([MASK, MASK, 0, 0], np.uint64)


def mix(value: int) -> int:
    """64 bits of which each depends on each of `value` (the last steps of SplitMix64)."""
    value = ((value ^ (value >> 32)) * int(MIX_1)) & MASK
    value = ((value ^ (value >> 29)) * int(MIX_2)) & MASK
    return value ^ (value >> 32)


FACTORS = np.array([mix((i * 0x9E3779B97F4A7C15) & MASK) | 1 for i in range(1, 65)], np.uint64)
"""What the characters of a string are multiplied with, one place after another, in its hash."""


def hash_word(word: str) -> int:
    """The 64-bit hash of a string, in plain Python: what the compiled code computes.

    A sum of products, because those do not wait for each other as the steps of a chain would.
    """
    value = 0
    for i, char in enumerate(word):
        if i % 64 == 0:
            value = mix(value)
        value = (value + (ord(char) + 1) * int(FACTORS[i % 64])) & MASK
    return mix(value)


@inlined
def mixed(h):
    """`mix`, compiled."""
    h = (h ^ (h >> U64(32))) * MIX_1
    h = (h ^ (h >> U64(29))) * MIX_2
    return h ^ (h >> U64(32))


@inlined
def longest_of(offsets):
    """Bytes of the longest text."""
    longest = np.int64(0)
    for r in range(len(offsets) - 1):
        longest = max(longest, offsets[r + 1] - offsets[r])
    return longest


@inlined
def beyond_ascii(a, b, c, d):
    """The code point of four bytes, the first of which is none of ASCII, and how many bytes it takes.

    A byte of no whole character is a U+FFFD alone; what Python's decoder refuses is none. Beyond the end give 0.
    """
    size = 1
    point = U32(0xFFFD)
    if a >= 0xC2 and b & 0xC0 == 0x80:
        if a < 0xE0:
            size = 2
            point = U32(a & 0x1F) << U32(6) | U32(b & 0x3F)
        elif c & 0xC0 == 0x80:
            high = U32(a & 0x0F) << U32(12) | U32(b & 0x3F) << U32(6) | U32(c & 0x3F)
            if a < 0xF0:
                if high >= 0x800 and not 0xD800 <= high < 0xE000:
                    size = 3
                    point = high
            elif a < 0xF8 and d & 0xC0 == 0x80 and 0x400 <= high < 0x4400:
                size = 4
                point = high << U32(6) | U32(d & 0x3F)
    return point, size


# The loops below do not branch on what a character is, which no processor could foresee, but reckon with the two bits of
# its kind: the low one says that it stays, the high one that a word ends before it. Numbers are unsigned because an index
# that could be negative is looked at twice.


@compiled
def normalise_texts(data, offsets, table, out, ends):
    """Writes normalised texts one after another as UTF-8; `ends[r + 1]` is where text r ends."""
    one = U64(1)
    at = U64(0)
    ends[0] = 0
    for r in range(len(offsets) - 1):
        i = U64(offsets[r])
        end = U64(offsets[r + 1])
        inside = U64(0)  # the last thing written is no space
        while i < end:
            c = U32(data[i])
            size = one
            if c >= 0x80:
                left = end - i
                c, taken = beyond_ascii(
                    data[i],
                    data[i + one] if left > 1 else 0,
                    data[i + U64(2)] if left > 2 else 0,
                    data[i + U64(3)] if left > 3 else 0,
                )
                size = U64(taken)
            i += size
            form = table[c]
            stays = U64(form) & one
            gap = U64(form) >> one & inside & (stays ^ one)
            c = (form >> U32(2)) - U32(stays) + U32(gap << U64(5))
            if c < 0x80:
                out[at] = c
                at += stays | gap
            else:
                at += put(c, out, at)
            inside = stays | inside & (gap ^ one)
        if inside == 0 and at > U64(ends[r]):
            at -= one
        ends[r + 1] = at


@compiled
def put(c, out, at):
    """Writes a code point beyond ASCII as UTF-8; returns its bytes."""
    last = U32(0x80) | c & U32(0x3F)
    if c < 0x800:
        out[at] = U32(0xC0) | c >> U32(6)
        out[at + U64(1)] = last
        return U64(2)
    middle = U32(0x80) | c >> U32(6) & U32(0x3F)
    if c < 0x10000:
        out[at] = U32(0xE0) | c >> U32(12)
        out[at + U64(1)] = middle
        out[at + U64(2)] = last
        return U64(3)
    out[at] = U32(0xF0) | c >> U32(18)
    out[at + U64(1)] = U32(0x80) | c >> U32(12) & U32(0x3F)
    out[at + U64(2)] = middle
    out[at + U64(3)] = last
    return U64(4)


@compiled
def find_lines(data, offsets, table, rows, keys, starts, ends, words):
    """Fills the columns of `Lines`; returns how many lines there are."""
    one = U64(1)
    n = 0
    for r in range(len(offsets) - 1):
        i = U64(offsets[r])
        end = U64(offsets[r + 1])
        at = 0  # in characters
        while i < end:
            a = at
            h = U64(0)
            place = U64(0)
            count = U64(0)
            within = U64(0)  # inside a word of several characters
            inside = U64(0)  # the last thing hashed is no space
            c = U32(0)
            while i < end and c != 10:
                c = U32(data[i])
                size = one
                if c >= 0x80:
                    left = end - i
                    c, taken = beyond_ascii(
                        data[i],
                        data[i + one] if left > 1 else 0,
                        data[i + U64(2)] if left > 2 else 0,
                        data[i + U64(3)] if left > 3 else 0,
                    )
                    size = U64(taken)
                i += size
                at += 1
                form = U64(table[c])
                stays = form & one
                ends_word = form >> one & one
                gap = ends_word & inside & (stays ^ one)
                if place == 64 and stays | gap:
                    h = mixed(h)
                    place = U64(0)
                h += ((form >> U64(2)) + gap * U64(33)) * FACTORS[place & U64(63)]
                place += stays | gap
                count += stays & (ends_word | within ^ one)
                within = (stays | within) & (ends_word ^ one)
                inside = stays | inside & (gap ^ one)
            if count:
                if inside == 0:  # a space at the end goes; where it began a new row of factors, the mix is made already
                    place -= one
                    h -= U64(33) * FACTORS[place]
                rows[n] = r
                keys[n] = mixed(h) if place else h
                starts[n] = a
                ends[n] = at
                words[n] = count
                n += 1
    return n


@compiled
def sketch_texts(data, offsets, table, n, drawn, keep, slots, signatures, found, ends):
    """Fills signatures and, with `keep`, the distinct n-grams of texts one after another, which end at `ends`."""
    factors, terms = drawn
    longest = longest_of(offsets)
    hashes = np.empty(longest // 2 + 2, np.uint64)
    grams = np.empty(len(hashes), np.uint32)
    at = 0
    for r in range(len(offsets) - 1):
        k = hash_words(data, offsets[r], offsets[r + 1], table, hashes)
        k = hash_ngrams(hashes, k, n, grams)
        if keep:
            k = sort_distinct(grams, k, slots, U64(r + 1))
            for i in range(k):
                found[at + i] = grams[i]
            at += k
        ends[r + 1] = at
        if k:
            sign(grams, k, factors, terms, signatures[r])


@compiled
def hash_words(data, i, end, table, hashes):
    """Writes the hash of every word of the text from byte i to `end`; returns how many there are.

    No processor could foresee which character ends a word, so nothing branches on it: every character writes a hash, and
    only the end of a word moves on to where the next one is written. Numbers are unsigned because an index that could be
    negative is looked at twice.
    """
    i = U64(i)
    end = U64(end)
    one = U64(1)
    count = U64(0)
    place = U64(0)
    h = U64(0)
    while i < end:
        c = U32(data[i])
        size = one
        if c >= 0x80:
            left = end - i
            c, taken = beyond_ascii(
                data[i],
                data[i + one] if left > 1 else 0,
                data[i + U64(2)] if left > 2 else 0,
                data[i + U64(3)] if left > 3 else 0,
            )
            size = U64(taken)
        i += size
        form = U64(table[c])
        kind = form & U64(3)
        if kind == WORD:
            hashes[count] = h
            count += U64(place > 0)
            hashes[count] = (form >> U64(2)) * FACTORS[0]
            count += one
            h = U64(0)
            place = U64(0)
            continue
        if place == 64 and kind == LETTER:
            h = mixed(h)
            place = U64(0)
        h += (form >> U64(2)) * FACTORS[place & U64(63)]
        place += kind & one
        hashes[count] = h
        count += (kind >> one) & U64(place > 0)
        h &= KEEP[kind]
        place &= KEEP[kind]
    hashes[count] = h
    count += U64(place > 0)
    for j in range(count):
        hashes[j] = mixed(hashes[j])
    return np.int64(count)


@compiled
def hash_ngrams(hashes, count, n, grams):
    """Writes the hash of every n-gram of words; returns how many there are."""
    n = min(n, count)
    if n == 0:
        return 0
    leaving = U64(1)
    rolling = U64(0)
    for i in range(n):
        leaving *= MIX_2
        rolling = rolling * MIX_2 + hashes[i]
    grams[0] = finished(rolling)
    for i in range(n, count):
        rolling = rolling * MIX_2 + (hashes[i] - leaving * hashes[i - n])
        grams[i - n + 1] = finished(rolling)
    return count - n + 1


@inlined
def finished(rolling):
    """The hash of an n-gram, out of what rolled over its words."""
    return U32(((rolling ^ (rolling >> U64(32))) * MIX_1) >> U64(32))


@compiled
def sort_distinct(grams, k, slots, stamp):
    """Leaves the distinct ones of the first k in front, sorted; returns how many.

    Each has its place in a table by its high bits, so that the table is in order: hashes are spread evenly. A slot is a
    stamp and a hash, and what has another stamp is empty.
    """
    if k == 0:
        return 0
    shift = U64(32)
    size = 1
    while size < 2 * k and size < 1 << 32:
        size *= 2
        shift -= U64(1)
    distinct = 0
    for j in range(k):
        value = stamp << U64(32) | U64(grams[j])
        i = np.int64(U64(grams[j]) >> shift)
        while True:
            slot = slots[i]
            if slot >> U64(32) != stamp:
                slots[i] = value
                distinct += 1
                break
            if slot == value:
                break
            if slot > value:
                slots[i] = value
                value = slot
            i += 1
    at = 0
    i = 0
    while at < distinct:
        slot = slots[i]
        grams[at] = U32(slot & U64(0xFFFFFFFF))
        at += slot >> U64(32) == stamp
        i += 1
    return distinct


@compiled
def sign(grams, k, factors, terms, signature):
    """The least value of each permutation over k n-grams; mixes their hashes in place, as datasketch does."""
    for j in range(k):
        x = grams[j]
        x = U32(U32(x ^ (x >> U32(16))) * FMIX_1)
        x = U32(U32(x ^ (x >> U32(13))) * FMIX_2)
        grams[j] = x ^ (x >> U32(16))
    j = 0
    while j + 4 <= k:
        g0, g1, g2, g3 = grams[j], grams[j + 1], grams[j + 2], grams[j + 3]
        for p in range(len(signature)):
            a = factors[p]
            b = terms[p]
            low = min(U32(a * g0 + b), U32(a * g1 + b))
            other = min(U32(a * g2 + b), U32(a * g3 + b))
            signature[p] = min(signature[p], min(low, other))
        j += 4
    while j < k:
        g0 = grams[j]
        for p in range(len(signature)):
            signature[p] = min(signature[p], U32(factors[p] * g0 + terms[p]))
        j += 1


@compiled
def fill_keys(signatures, rows, keys):
    """Hashes the values of each band, from a start that is another one for each."""
    for r in range(len(signatures)):
        for band in range(keys.shape[1]):
            h = mixed(U64(band + 1))
            for i in range(band * rows, (band + 1) * rows):
                h = (h ^ U64(signatures[r, i])) * MIX_1
                h ^= h >> U64(32)
            keys[r, band] = mixed(h)


@compiled
def compare_signatures(left, right, out):
    """The share of equal values, pair by pair."""
    hashes = left.shape[1]
    for r in range(len(left)):
        equal = 0
        some = False
        for i in range(hashes):
            equal += left[r, i] == right[r, i]
            some |= left[r, i] != U32(EMPTY)
        out[r] = equal / hashes if some else 0.0


@compiled
def compare_sets(left, left_starts, left_ends, right, right_starts, right_ends, out):
    """The share of common members, pair by pair."""
    for r in range(len(out)):
        i, i_end = left_starts[r], left_ends[r]
        j, j_end = right_starts[r], right_ends[r]
        total = i_end - i + j_end - j
        common = 0
        while i < i_end and j < j_end:
            x = left[i]
            y = right[j]
            common += x == y
            i += x <= y
            j += y <= x
        out[r] = common / (total - common) if total else 0.0
