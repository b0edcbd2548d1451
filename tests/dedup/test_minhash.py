"""Sketches: bit for bit those of datasketch, and estimates that mean what they say."""

import pickle
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from pipeline.dedup.kernel import EMPTY
from pipeline.dedup.minhash import (
    MinHasher,
    Sketches,
    band_keys,
    candidate_probability,
    estimated_similarity,
    ngram_hash,
    ngram_similarity,
    optimal_bands,
    permutations,
    s_curve,
)
from pipeline.dedup.normalise import normalised, text_hashes, words

# Words come back, and characters that make trouble are drawn as often as all others.
PIECES = st.sampled_from(
    ["a", "b ", " cat", "Dog,", "é", "e\u0301", "İ", "ς", "\n", "\t", "\u3000", " ", "中", "文", "กำ", "한국", "😀", "👩‍👩‍👧",
     "\u200b", "\ufeff", "\u0000", "\U0010ffff", "-", "x" * 63, "y" * 64, "z" * 200]
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=40).map("".join)), max_size=6)
HASHERS = st.builds(
    MinHasher, st.sampled_from([1, 2, 5]), st.sampled_from([1, 16, 113]), st.sampled_from([1, 42]), st.booleans()
)


def by_datasketch(hasher: MinHasher, text: str) -> np.ndarray:
    known = datasketch.MinHash(num_perm=hasher.hashes, seed=hasher.seed, scheme="affine32", hashfunc=ngram_hash)
    known.update_batch(hasher.ngrams(text))
    return known.hashvalues


def sets_of(sketches: Sketches) -> list[list[int]]:
    at = sketches.offsets
    return [sketches.ngrams[a:b].tolist() for a, b in pairwise(at)]


def assert_is_reference(hasher: MinHasher, texts: list[str]) -> None:
    array = pa.array(texts, pa.string())
    sketches = hasher.sketch(array)
    assert sketches.signatures.dtype == np.uint32
    assert sketches.signatures.shape == (len(texts), hasher.hashes)
    for signature, text in zip(sketches.signatures, texts, strict=True):
        assert signature.tolist() == by_datasketch(hasher, text).tolist()
    assert sets_of(sketches) == [sorted(set(hasher.ngram_hashes(text))) for text in texts]
    bare = hasher.sketch(array, ngrams=False)
    assert (bare.signatures == sketches.signatures).all()
    assert len(bare.ngrams) == 0
    assert bare.offsets.tolist() == [0] * (len(texts) + 1)


@settings(max_examples=200, deadline=None)
@given(HASHERS, TEXTS)
def test_signatures_are_those_of_datasketch(hasher: MinHasher, texts: list[str]) -> None:
    assert_is_reference(hasher, texts)


def test_signatures_of_long_texts_are_those_of_datasketch() -> None:
    draw = np.random.RandomState(0)
    vocabulary = np.array(["the", "of", "straße", "дом", "中文", "été", "ราคา", "word", "x" * 130, "1999"])
    texts = [" ".join(draw.choice(vocabulary, size)) for size in (4, 5, 6, 9, 400, 3000)]
    for normalise in (True, False):
        assert_is_reference(MinHasher(normalise=normalise), texts)


def test_signatures_of_real_pages_are_those_of_datasketch(shared_data: Callable[[str], Path]) -> None:
    with shared_data("crawl/wet/part-000.warc.wet.gz").open("rb") as stream:
        records = (record for record in ArchiveIterator(stream) if record.rec_type == "conversion")
        texts = [record.content_stream().read().decode("utf-8") for record in islice(records, 40)]
    assert_is_reference(MinHasher(), texts)
    found = text_hashes(pa.array(texts))
    assert len(set(map(tuple, found.tolist()))) == len(set(map(normalised, texts)))


def test_permutations_are_those_of_datasketch() -> None:
    for hashes, seed in ((112, 1), (9000, 7)):
        known = datasketch.MinHash(num_perm=hashes, seed=seed, scheme="affine32").permutations
        assert (np.array(permutations(hashes, seed)) == known).all()


def test_ngrams_are_words_joined_by_a_space() -> None:
    assert MinHasher(ngram=3).ngrams("The cat -- sat, DOWN\nhere") == [
        b"the cat sat",
        b"cat sat down",
        b"sat down here",
    ]
    assert MinHasher(ngram=3, normalise=False).ngrams(" The cat,\nsat") == [b"The cat, sat"]
    assert MinHasher(ngram=2).ngrams("北京x") == ["北 京".encode(), "京 x".encode()]


def test_short_and_empty_texts() -> None:
    texts = ["", None, " \n", "?!", "one", "One!", "one two three four", "one two three four five"]
    hasher = MinHasher()
    sketches = hasher.sketch(pa.array(texts))
    assert np.diff(sketches.offsets).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (sketches.signatures[:4] == EMPTY).all()
    assert (sketches.signatures[4] == sketches.signatures[5]).all()
    assert hasher.ngrams("One, two") == [b"one two"]
    assert hasher.ngrams("") == []
    assert sets_of(hasher.sketch(pa.array(["one two"]))) == [hasher.ngram_hashes("one two")]


def test_no_texts_and_layouts() -> None:
    hasher = MinHasher(hashes=8)
    for nothing in (pa.array([], pa.string()), pa.nulls(0), pa.chunked_array([], pa.string())):
        sketches = hasher.sketch(nothing)
        assert sketches.signatures.shape == (0, 8)
        assert sketches.offsets.tolist() == [0]
    texts = ["one two three", None, "four 五 六 七 八 九", "", "ten"]
    known = hasher.sketch(pa.array(texts))
    padded = pa.array(["some text before", *texts, "some after"])
    for same in (padded[1:-1], padded.cast(pa.large_string())[1:-1], pa.chunked_array([padded[1:3], padded[3:-1]])):
        assert all((a == b).all() for a, b in zip(hasher.sketch(same), known, strict=True))


def test_damaged_bytes_do_not_stop_the_rest() -> None:
    whole = b"one two \xff three\xc3 four \xe4\xb8 five"
    array = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, len(whole), len(whole) + 3], np.int32)), pa.py_buffer(whole + b"a b")
    )
    hasher = MinHasher(ngram=2)
    assert sets_of(hasher.sketch(array)) == [
        sorted(hasher.ngram_hashes("one two \ufffd three\ufffd four \ufffd\ufffd five")),
        hasher.ngram_hashes("a b"),
    ]


def test_huge_texts() -> None:
    numbered = " ".join(map(str, range(1_000_000)))
    repeated = "a b c d e f " * 200_000
    hasher = MinHasher()
    sketches = hasher.sketch(pa.array(["x" * 10_000_000, numbered, repeated]))
    first, second, third = np.diff(sketches.offsets).tolist()
    assert (first, third) == (1, 6)
    assert second > 999_996 - 1000  # about a hundred meet among 2**32
    assert (np.diff(sketches.ngrams[1 : 1 + second].astype(np.int64)) > 0).all()
    start = hasher.sketch(pa.array([numbered[: numbered.index(" 100000 ")]]))
    expected = 99_996 / 999_996
    measured = estimated_similarity(sketches.signatures[1:2], start.signatures)[0]
    assert abs(measured - expected) < 3 * (expected * (1 - expected) / 112) ** 0.5


def test_hasher_travels_and_refuses_nonsense() -> None:
    hasher = pickle.loads(pickle.dumps(MinHasher(ngram=3, hashes=16, seed=9, normalise=False)))
    assert hasher.sketch(pa.array(["A b"])).signatures[0].tolist() == by_datasketch(hasher, "A b").tolist()
    for wrong in ({"ngram": 0}, {"hashes": 0}):
        with pytest.raises(ValueError, match="positive"):
            MinHasher(**wrong)


def graded_pairs(similarity: float, pairs: int, draw: np.random.Generator) -> tuple[list[str], list[str]]:
    """Texts of single words that are sets of 200 in union, with this share in common."""
    left, right = [], []
    for _ in range(pairs):
        union = draw.choice(10**8, 200, replace=False)
        common, rest = np.split(union, [round(similarity * 200)])
        ours, theirs = np.split(rest, 2)
        left.append(" ".join(map(str, [*common, *ours])))
        right.append(" ".join(map(str, [*theirs, *common])))
    return left, right


@pytest.mark.parametrize("similarity", [0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_estimates_are_unbiased(similarity: float) -> None:
    pairs = 400
    hasher = MinHasher(ngram=1)
    left, right = (hasher.sketch(pa.array(side)) for side in graded_pairs(similarity, pairs, np.random.default_rng(17)))
    assert ngram_similarity(left.ngrams, left.offsets, right.ngrams, right.offsets) == pytest.approx(similarity)
    estimates = estimated_similarity(left.signatures, right.signatures)
    deviation = (similarity * (1 - similarity) / 112) ** 0.5
    assert abs(estimates.mean() - similarity) <= 3 * deviation / pairs**0.5
    assert np.std(estimates) == pytest.approx(deviation, rel=0.15)


def test_candidates_are_as_frequent_as_the_curve_says() -> None:
    bands, rows, pairs = 14, 8, 600
    hasher = MinHasher(ngram=1)
    for similarity in (0.6, 0.7, 0.8, 0.9):
        sides = graded_pairs(similarity, pairs, np.random.default_rng(3))
        left, right = (band_keys(hasher.sketch(pa.array(side)).signatures, bands, rows) for side in sides)
        found = (left == right).any(axis=1).mean()
        p = candidate_probability(similarity, bands, rows)
        assert abs(found - p) <= 3 * (p * (1 - p) / pairs) ** 0.5


def test_hashes_of_similar_ngrams_are_spread_evenly() -> None:
    hasher = MinHasher(ngram=2)
    text = " ".join(f"w{i}" for i in range(200_000))
    hashes = hasher.sketch(pa.array([text])).ngrams
    assert 200_000 - 1 - len(hashes) < 25  # 4.7 meet by accident
    for shift in (24, 12, 0):
        counts = np.bincount(hashes >> shift & 0xFF, minlength=256)
        assert ((counts - len(hashes) / 256) ** 2 / (len(hashes) / 256)).sum() < 350  # chi square, 255 degrees


def test_order_of_words_and_their_borders_count() -> None:
    ngrams = [b"a b", b"b a", b"ab", b"a", b"b", b"a a", b"aa", b"aaa", b"a a a", b"aa a", b"a aa", b"a\x00", b"\x00a"]
    assert len({ngram_hash(ngram) for ngram in ngrams}) == len(ngrams)


@pytest.mark.parametrize(
    "alphabet",
    [
        "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜",
        "กขคงจฉชซญดตถทนบปผพฟมยรลวสหอาเแโไะ",
    ],
)
def test_unspaced_scripts_are_compared_by_character(alphabet: str) -> None:
    draw = np.random.RandomState(5)
    original = draw.choice(list(alphabet), 2000)
    edited = original.copy()
    places = draw.choice(2000, 20, replace=False)
    edited[places] = draw.choice(list(alphabet), 20)
    other = draw.choice(list(alphabet), 2000)
    texts = ["".join(text) for text in (original, edited, other)]
    assert len(words(texts[0])) == 2000
    hasher = MinHasher()
    sketches = hasher.sketch(pa.array(texts))
    near, far = (set(hasher.ngrams(text)) for text in texts[1:])
    own = set(hasher.ngrams(texts[0]))
    truth = len(own & near) / len(own | near)
    assert 0.85 < truth < 0.95
    estimates = estimated_similarity(sketches.signatures[[0, 0]], sketches.signatures[[1, 2]])
    assert abs(estimates[0] - truth) < 3 * (truth * (1 - truth) / 112) ** 0.5
    assert estimates[1] < 0.05
    assert len(own & far) < 5


def test_ngram_similarity_is_that_of_the_sets() -> None:
    draw = np.random.RandomState(2)
    sides = []
    for _ in range(2):
        sets = [np.unique(draw.randint(0, 40, size)).astype(np.uint32) for size in draw.randint(0, 30, 300)]
        sets[0] = sets[1] = np.array([], np.uint32)
        sides.append((sets, np.concatenate(sets), np.cumsum([0] + [len(s) for s in sets], dtype=np.int64)))
    (a, *left), (b, *right) = sides
    b[1] = np.array([], np.uint32)
    found = ngram_similarity(*left, *right)
    assert found.dtype == np.float32
    expected = [len(set(x) & set(y)) / max(1, len(set(x) | set(y))) for x, y in zip(a, b, strict=True)]
    assert found == pytest.approx(np.array(expected, np.float32))
    assert found[0] == 0
    with pytest.raises(ValueError, match="300 sets"):
        ngram_similarity(*left, right[0], right[1][:-1])


def test_estimated_similarity_counts_equal_places() -> None:
    draw = np.random.RandomState(2)
    left, right = (draw.randint(0, 3, (50, 7), dtype=np.uint32) for _ in range(2))
    left[0] = right[0] = EMPTY
    left[1] = right[1]
    found = estimated_similarity(left, right)
    assert found.dtype == np.float32
    assert found[0] == 0
    assert found[1] == 1
    assert found[1:] == pytest.approx((left == right).mean(axis=1)[1:])
    assert estimated_similarity(np.asfortranarray(left), right[:, ::1]).tolist() == found.tolist()
    with pytest.raises(ValueError, match="shapes"):
        estimated_similarity(left, right[:, :3])


def test_keys_of_bands_meet_where_bands_are_equal() -> None:
    draw = np.random.RandomState(4)
    signatures = draw.randint(0, 2, (500, 12), dtype=np.uint32)
    keys = band_keys(signatures, 4, 3)
    assert keys.dtype == np.uint64
    assert keys.shape == (500, 4)
    seen = {(band, tuple(row[3 * band : 3 * band + 3].tolist())) for row in signatures for band in range(4)}
    assert len(set(keys.ravel().tolist())) == len(seen) == 32
    assert (band_keys(signatures[:, :7], 2, 3) == keys[:, :2]).all()
    same = np.zeros((1, 12), np.uint32)
    assert len(set(band_keys(same, 12, 1).ravel().tolist())) == 12
    with pytest.raises(ValueError, match="do not fit"):
        band_keys(signatures, 4, 4)
    with pytest.raises(ValueError, match="do not fit"):
        band_keys(signatures, 0, 3)


def test_curve_and_optimal_bands() -> None:
    assert candidate_probability(0.8, 14, 8) == pytest.approx(0.924, abs=5e-4)
    curve = s_curve(14, 8)
    assert [s for s, _ in curve] == [step / 20 for step in range(21)]
    assert (curve[0], curve[-1]) == ((0, 0), (1, 1))
    assert all(a[1] <= b[1] for a, b in pairwise(curve))
    both = candidate_probability(np.array([0.5, 0.8]), 14, 8)
    assert both.tolist() == [candidate_probability(0.5, 14, 8), candidate_probability(0.8, 14, 8)]
    for threshold in (0.5, 0.8, 0.9):
        bands, rows = optimal_bands(threshold, 112)
        lsh = datasketch.MinHashLSH(threshold=threshold, num_perm=112)
        assert (bands, rows) == (lsh.b, lsh.r)
        assert bands * rows <= 112
        assert abs((1 / bands) ** (1 / rows) - threshold) < 0.1
    with pytest.raises(ValueError, match="threshold"):
        optimal_bands(1.5, 112)
