"""Paired differences: their interval covers what is true, whatever varies, and words say what numbers do."""

import numpy as np
import pytest

from pipeline.errors import UsageError
from trainer.ablation import Difference, compare, overall, sentence


def drawn(
    rng: np.random.Generator, seeds: int, n: int, true: float, of_seeds: float, of_texts: float, of_both: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bits of models of two sets over texts of different lengths; the rest are standard deviations of the difference."""
    n_bytes = rng.integers(200, 4000, n).astype(float)
    base = rng.normal(1.5, 0.3, n)[None, :] + rng.normal(0, 0.05, (seeds, 1))
    difference = (
        true
        + rng.normal(0, 1, (seeds, 1)) * of_seeds
        + rng.normal(0, 1, (1, n)) * of_texts
        + rng.normal(0, 1, (seeds, n)) * of_both
    )
    return np.stack([base * n_bytes, (base + difference) * n_bytes]), n_bytes


# Standard deviations by seed, text, and both. With 60 texts and 3 seeds, .01 of seeds is about as much as .05 of texts.
CASES = {
    "seeds": (0.02, 0.0, 0.001),
    "texts": (0.0, 0.05, 0.0),
    "both": (0.01, 0.08, 0.02),
    "seeds a little": (0.002, 0.05, 0.02),
    "nothing but noise": (0.0, 0.0, 0.05),
}


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_the_interval_covers_the_true_difference_at_least_as_often_as_it_says(case: str, seeds: int) -> None:
    rng = np.random.default_rng([seeds, *case.encode()])
    n, true = 600, 0.03
    hits = 0
    for _ in range(n):
        found = compare(*drawn(rng, seeds, 60, true, *CASES[case]))
        hits += found.low <= true <= found.high
    # Two standard errors of the simulation below .95.
    assert hits / n > 0.95 - 2 * np.sqrt(0.95 * 0.05 / n)


def test_the_interval_is_not_much_longer_than_it_must_be() -> None:
    """Where texts are all that varies it is that of a mean over texts, and covers as often as it says."""
    rng = np.random.default_rng(1)
    found = [compare(*drawn(rng, 5, 60, 0.0, 0.0, 0.05, 0.0)) for _ in range(600)]
    hits = np.mean([one.low <= 0 <= one.high for one in found])
    assert hits < 0.97
    assert np.median([one.half for one in found]) == pytest.approx(2 * 0.05 / np.sqrt(60) * 1.17, rel=0.1)


def test_nothing_is_found_where_nothing_is_and_a_difference_of_the_size_it_names_most_of_the_time() -> None:
    rng = np.random.default_rng(2)
    spread = (0.004, 0.05, 0.02)
    null = [compare(*drawn(rng, 3, 60, 0.0, *spread)) for _ in range(600)]
    assert np.mean([one.verdict != "none" for one in null]) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)
    size = float(np.median([one.detectable for one in null]))
    real = [compare(*drawn(rng, 3, 60, -size, *spread)) for _ in range(300)]
    assert all(one.verdict in ("b", "none") for one in real)
    assert 0.7 < np.mean([one.verdict == "b" for one in real]) < 0.95


def test_bits_per_byte_are_those_of_all_texts_together() -> None:
    bits = np.array([[[10.0, 30.0], [12.0, 30.0]], [[8.0, 26.0], [10.0, 26.0]]])
    found = compare(bits, np.array([10.0, 20.0]))
    assert found.models.tolist() == [[40 / 30, 42 / 30], [34 / 30, 36 / 30]]
    assert found.value == pytest.approx(-0.2)
    assert found.by_seed.tolist() == pytest.approx([-0.2, -0.2])
    # Each text is better by the same share: nothing varies.
    assert found.seeds_error == pytest.approx(0) and found.documents_error == pytest.approx(0)
    assert found.facts()["interval"] == pytest.approx([-0.2, -0.2])


def test_swapping_the_sets_turns_the_sign_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    bits, n_bytes = drawn(rng, 3, 40, 0.1, 0.01, 0.05, 0.02)
    one, other = compare(bits, n_bytes), compare(bits[::-1], n_bytes)
    assert (one.value, one.low) == pytest.approx((-other.value, -other.high))
    assert {one.verdict, other.verdict} == {"a", "b"}


def test_sources_count_the_same_however_many_texts_they_have() -> None:
    rng = np.random.default_rng(4)
    large = compare(*drawn(rng, 3, 400, 0.10, 0.001, 0.01, 0.0))
    small = compare(*drawn(rng, 3, 20, 0.30, 0.001, 0.01, 0.0))
    both = overall({"large": large, "small": small})
    assert both.value == pytest.approx((large.value + small.value) / 2)
    assert both.documents == 420 and both.documents_free == 19
    assert both.seeds_error == pytest.approx(np.std((large.by_seed + small.by_seed) / 2, ddof=1) / np.sqrt(3))
    assert overall({"large": large}) is large


def test_words() -> None:
    def of(value: float, models: float = 1.0) -> Difference:
        by_seed = np.array([value, value + 0.001, value - 0.001]) * models
        return Difference(by_seed, np.ones((2, 3)), 0.002 * models, 99, 100)

    assert sentence(of(-0.031), "raw", "clean", "web") == (
        "clean is better than raw by 0.031 ± 0.005 bits per byte on web, three seeds"
    )
    assert sentence(of(0.031), "raw", "clean", "web").startswith("raw is better than clean by 0.031 ")
    said = sentence(of(0.001), "raw", "clean", "web")
    assert said.startswith("no difference could be shown on web (clean less raw: +0.001 ± 0.005 bits per byte, three ")
    assert said.endswith("a difference of 0.006 would have been seen with power 0.8")
    assert "the models of raw and clean are the same" in sentence(of(0.0, 0.0), "raw", "clean", "web")


def test_too_little_to_compare_is_said() -> None:
    with pytest.raises(UsageError, match="two seeds or more"):
        compare(np.ones((2, 1, 5)), np.ones(5))
    with pytest.raises(UsageError, match="1 held-out text"):
        compare(np.ones((2, 3, 1)), np.ones(1))
    with pytest.raises(UsageError, match="no held-out texts"):
        overall({})
