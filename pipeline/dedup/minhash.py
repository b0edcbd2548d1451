"""MinHash: sketches of texts, the keys of their bands, and how alike two of them are.

A signature is bit for bit that of `datasketch.MinHash(scheme="affine32", hashfunc=ngram_hash)` fed with the n-grams of the
text as `MinHasher.ngrams` gives them, so that sketches can go from the one to the other.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.dedup.kernel import (
    EMPTY,
    MASK,
    MIX_1,
    MIX_2,
    U32,
    compare_sets,
    compare_signatures,
    fill_keys,
    hash_word,
    sketch_texts,
)
from pipeline.dedup.normalise import forms, read_only, utf8, words


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
        value = (value * int(MIX_2) + hash_word(word)) & MASK
    return (((value ^ (value >> 32)) * int(MIX_1)) & MASK) >> 32


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
    left_ngrams: np.ndarray,
    left_offsets: np.ndarray,
    right_ngrams: np.ndarray,
    right_offsets: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """float32 [m]: the Jaccard similarity of the i-th set of n-grams with the i-th of the other side, 0 for two empty.

    With `pairs` that of the sets `pairs[0][i]` and `pairs[1][i]`. Sets are as in `Sketches`: sorted, distinct, one after
    another. Raises ValueError where the sides differ in length.
    """
    sides = [read_only(np.ascontiguousarray(side, np.uint32)) for side in (left_ngrams, right_ngrams)]
    places = []
    for offsets, chosen in zip((left_offsets, right_offsets), pairs or (None, None), strict=True):
        for ends in (offsets[:-1], offsets[1:]):
            places.append(read_only(np.ascontiguousarray(ends if chosen is None else ends[chosen], np.int64)))
    if len(places[0]) != len(places[2]):
        raise ValueError(f"{len(places[0])} sets cannot be compared with {len(places[2])}")
    out = np.empty(len(places[0]), np.float32)
    compare_sets(sides[0], places[0], places[1], sides[1], places[2], places[3], out)
    return out


def candidate_probability(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """The probability that two texts of this Jaccard similarity share the key of a band at least."""
    return 1.0 - (1.0 - similarity**rows) ** bands


def optimal_bands(threshold: float, hashes: int) -> tuple[int, int]:
    """Bands and rows with the least error about a threshold of similarity, as datasketch finds them.

    Raises ValueError for a threshold outside 0 to 1, or fewer than two hashes.
    """
    from datasketch import MinHashLSH  # takes a second to import

    found = MinHashLSH(threshold=threshold, num_perm=hashes)
    return int(found.b), int(found.r)


def s_curve(bands: int, rows: int) -> list[tuple[float, float]]:
    """Similarities 0, 0.05 … 1 with the probability that such a pair becomes a candidate."""
    return [(step / 20, float(candidate_probability(step / 20, bands, rows))) for step in range(21)]
