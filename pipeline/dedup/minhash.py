# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment"
"""MinHash: sketches of texts, the keys of their bands, and how alike two of them are.

A signature is bit for bit that of `datasketch.MinHash(scheme="affine32", hashfunc=ngram_hash)` fed with the n-grams of the
text as `MinHasher.ngrams` gives them, so that sketches can go from the one to the other.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.dedup.normalise import (
    FACTORS,
    LETTER,
    MIX_1,
    MIX_2,
    SPACE,
    U32,
    U64,
    WORD,
    beyond_ascii,
    forms,
    hash_word,
    longest_of,
    mixed,
    read_only,
    utf8,
    words,
)
from pipeline.signals.statistics.primitives import compiled, inlined

EMPTY = 2**32 - 1
"""What a signature holds in every place where a text has no n-gram."""
_FMIX_1, _FMIX_2 = U32(0x85EBCA6B), U32(0xC2B2AE35)
_MASK = (1 << 64) - 1


class Sketches(NamedTuple):
    """Sketches of n texts.

    `signatures` uint32 [n, hashes], 2**32 - 1 throughout for a text without n-gram; `ngrams` uint32, per text the sorted
    distinct hashes of its n-grams, one text after another; `offsets` int64 [n + 1], where those of each text begin.
    """

    signatures: np.ndarray
    ngrams: np.ndarray
    offsets: np.ndarray


class MinHasher:
    """Sketches texts by their n-grams of words (`normalise.words`).

    A text of fewer words than `ngram` gives one n-gram of all its words; a text without a word gives none. `hashes` is
    the length of signatures, `seed` that of datasketch's permutations. Without `normalise` words are taken as they stand.
    Raises ValueError for an `ngram` or a number of hashes below 1.
    """

    def __init__(self, ngram: int = 5, hashes: int = 112, seed: int = 1, normalise: bool = True):
        if ngram < 1 or hashes < 1:
            raise ValueError(f"ngram and hashes must be positive, not {ngram} and {hashes}")
        self.ngram, self.hashes, self.seed, self.normalise = ngram, hashes, seed, normalise

    def sketch(self, texts: pa.Array | pa.ChunkedArray, ngrams: bool = True) -> Sketches:
        """Sketches of every text, in order; without `ngrams` their hashes are left out and no time is spent on them.

        Memory beyond the result: about 6 bytes for each byte of the longest text, up to 20 more with `ngrams`.
        """
        data, offsets = utf8(texts)
        signatures = np.full((len(offsets) - 1, self.hashes), EMPTY, np.uint32)
        # A word takes at least a byte and a space, or three bytes where it is a character of its own.
        most = (int(offsets[-1] - offsets[0]) + len(offsets) - 1) // 2 + 1 if ngrams else 0
        found, ends = np.empty(most, np.uint32), np.zeros(len(offsets), np.int64)
        longest = int(np.diff(offsets).max(initial=0)) if ngrams else 0
        slots = np.zeros(5 * (longest // 2 + 2), np.uint64)  # pages that are not written take no memory
        drawn = permutations(self.hashes, self.seed)
        sketch_texts(data, offsets, forms(self.normalise), self.ngram, drawn, ngrams, slots, signatures, found, ends)
        return Sketches(signatures, found[: ends[-1]].copy(), ends)

    def ngrams(self, text: str) -> list[bytes]:
        """The n-grams of a text in plain Python, in order and with repeats: words joined by a space, as UTF-8."""
        found = words(text, self.normalise)
        n = min(self.ngram, len(found))
        starts = range(len(found) - n + 1) if n else range(0)
        return [" ".join(found[i : i + n]).encode("utf-8", "surrogatepass") for i in starts]

    def ngram_hashes(self, text: str) -> list[int]:
        """The hash of each of `ngrams`."""
        return [ngram_hash(ngram) for ngram in self.ngrams(text)]


def ngram_hash(ngram: bytes) -> int:
    """The 32-bit hash of words joined by a space, in plain Python: what the compiled code computes by rolling."""
    value = 0
    for word in ngram.decode("utf-8", "surrogatepass").split(" "):
        value = (value * int(MIX_2) + hash_word(word)) & _MASK
    return (((value ^ (value >> 32)) * int(MIX_1)) & _MASK) >> 32


@cache
def permutations(hashes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (odd) and terms of datasketch's affine32 permutations, uint32 of length `hashes` each."""
    draw = np.random.RandomState(seed)
    factors = draw.randint(0, 1 << 31, hashes, dtype=np.uint32) * U32(2) + U32(1)
    terms = draw.randint(0, 1 << 32, hashes, dtype=np.uint32)
    return read_only(factors), read_only(terms)


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """uint64 [n, bands]: a key of each band of `rows` values, with its number mixed in.

    Texts without n-gram have the keys of all such texts: leave them out before joining. Raises ValueError where
    signatures are shorter than bands times rows.
    """
    signatures = read_only(np.ascontiguousarray(signatures, np.uint32))
    if bands < 1 or rows < 1 or signatures.ndim != 2 or bands * rows > signatures.shape[1]:
        raise ValueError(f"{bands} bands of {rows} rows do not fit signatures of shape {signatures.shape}")
    keys = np.empty((len(signatures), bands), np.uint64)
    fill_keys(signatures, rows, keys)
    return keys


def estimated_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float32 [m]: the share of equal values in each pair of signatures [m, hashes]; 0 where a text has no n-gram.

    Raises ValueError where the shapes differ.
    """
    left, right = (read_only(np.ascontiguousarray(side, np.uint32)) for side in (left, right))
    if left.shape != right.shape or left.ndim != 2:
        raise ValueError(f"signatures of shapes {left.shape} and {right.shape} cannot be compared")
    out = np.empty(len(left), np.float32)
    compare_signatures(left, right, out)
    return out


def ngram_similarity(
    left_ngrams: np.ndarray, left_offsets: np.ndarray, right_ngrams: np.ndarray, right_offsets: np.ndarray
) -> np.ndarray:
    """float32 [m]: the Jaccard similarity of the i-th set of n-grams with the i-th of the other side, 0 for two empty.

    Sets are as in `Sketches`: sorted, distinct, one after another. Raises ValueError where the sides differ in length.
    """
    if len(left_offsets) != len(right_offsets):
        raise ValueError(f"{len(left_offsets) - 1} sets cannot be compared with {len(right_offsets) - 1}")
    sides = [read_only(np.ascontiguousarray(side, np.uint32)) for side in (left_ngrams, right_ngrams)]
    places = [read_only(np.ascontiguousarray(side, np.int64)) for side in (left_offsets, right_offsets)]
    out = np.empty(len(left_offsets) - 1, np.float32)
    compare_sets(sides[0], places[0], sides[1], places[1], out)
    return out


def candidate_probability(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """The probability that two texts of this Jaccard similarity share the key of a band at least."""
    return 1.0 - (1.0 - similarity**rows) ** bands


def optimal_bands(threshold: float, hashes: int) -> tuple[int, int]:
    """Bands and rows with the least error about a threshold of similarity, as datasketch finds them."""
    from datasketch import MinHashLSH  # takes a second to import

    found = MinHashLSH(threshold=threshold, num_perm=hashes)
    return int(found.b), int(found.r)


def s_curve(bands: int, rows: int) -> list[tuple[float, float]]:
    """Similarities 0, 0.05 … 1 with the probability that such a pair becomes a candidate."""
    return [(step / 20, float(candidate_probability(step / 20, bands, rows))) for step in range(21)]


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

    There is a choice at every character, which no processor could foresee: so every character writes a hash, and only
    the end of a word moves on to where the next one is written.
    """
    count = 0
    place = 0
    h = U64(0)
    while i < end:
        c = U32(data[i])
        size = 1
        if c >= 0x80:
            left = end - i
            c, size = beyond_ascii(
                data[i],
                data[i + 1] if left > 1 else 0,
                data[i + 2] if left > 2 else 0,
                data[i + 3] if left > 3 else 0,
            )
        i += size
        form = table[c]
        kind = form & 3
        if kind == WORD:
            hashes[count] = h
            count += place > 0
            hashes[count] = U64(form >> 2) * FACTORS[0]
            count += 1
            h = U64(0)
            place = 0
            continue
        if place == 64 and kind == LETTER:
            h = mixed(h)
            place = 0
        h += U64(form >> 2) * FACTORS[place & 63]
        place += kind & 1
        hashes[count] = h
        space = kind == SPACE
        count += space & (place > 0)
        h = U64(0) if space else h
        place = 0 if space else place
    hashes[count] = h
    count += place > 0
    for j in range(count):
        hashes[j] = mixed(hashes[j])
    return count


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
        x = U32(U32(x ^ (x >> U32(16))) * _FMIX_1)
        x = U32(U32(x ^ (x >> U32(13))) * _FMIX_2)
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
def compare_sets(left, left_at, right, right_at, out):
    """The share of common members, pair by pair."""
    for r in range(len(out)):
        i, i_end = left_at[r], left_at[r + 1]
        j, j_end = right_at[r], right_at[r + 1]
        total = i_end - i + j_end - j
        common = 0
        while i < i_end and j < j_end:
            x = left[i]
            y = right[j]
            common += x == y
            i += x <= y
            j += y <= x
        out[r] = common / (total - common) if total else 0.0
