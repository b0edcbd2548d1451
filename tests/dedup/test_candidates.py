"""Pairs from buckets: all of a small one, stars in a large one, and nothing that depends on order."""

import numpy as np
import pytest

from pipeline.dedup.candidates import CENTRES, PAIRED, candidate_pairs, distinct_pairs, in_group, ranges


def pairs(keys: list[int], nodes: list[int]) -> set[frozenset[int]]:
    a, b = candidate_pairs(np.array(keys, np.uint64), np.array(nodes, np.uint64))
    found = [frozenset(pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert len(found) == len(set(found)), "a pair came twice"
    return set(found)


def test_pairs_are_of_nodes_that_share_a_key() -> None:
    big = 2**64 - 1
    assert pairs([1, 1, 2, 2, 3, 1], [7, big, 7, 9, 8, 7]) == {frozenset((7, big)), frozenset((7, 9))}
    assert pairs([], []) == set()
    assert pairs([5], [1]) == set()
    assert pairs([5, 5], [1, 1]) == set()


@pytest.mark.parametrize("n", [2, 3, PAIRED - 1, PAIRED])
def test_a_small_bucket_gives_every_pair(n: int) -> None:
    assert len(pairs([9] * n + [1, 2], [*range(n), 500, 501])) == n * (n - 1) // 2


def test_a_large_bucket_gives_stars() -> None:
    n = 5000
    found = pairs([9] * n, list(range(n)))
    assert len(found) == sum(n - 1 - i for i in range(CENTRES))
    degree = np.bincount([node for pair in found for node in pair], minlength=n)
    assert (np.sort(degree)[-CENTRES:] == n - 1).all() and degree.min() == CENTRES


def test_the_first_of_a_pair_is_the_centre_and_centres_lie_in_all_ranges() -> None:
    random = np.random.default_rng(1)
    nodes = random.integers(0, 2**64, 60_000, dtype=np.uint64)
    a, _ = candidate_pairs(np.repeat(np.arange(300, dtype=np.uint64), 200), nodes)
    centres = np.unique(a)
    assert len(centres) == 300 * CENTRES
    assert np.bincount(ranges(centres, 8), minlength=8).min() > 300 * CENTRES / 16


def test_order_and_repetition_of_rows_do_not_matter() -> None:
    random = np.random.default_rng(2)
    keys, nodes = random.integers(0, 40, 3000).astype(np.uint64), random.integers(0, 900, 3000).astype(np.uint64)
    expected = candidate_pairs(keys, nodes)
    order = random.permutation(np.repeat(np.arange(3000), 2))
    again = candidate_pairs(keys[order], nodes[order])
    assert all(np.array_equal(one, other) for one, other in zip(expected, again, strict=True))


def test_distinct_pairs_and_groups() -> None:
    a, b = distinct_pairs(np.array([3, 1, 3], np.uint64), np.array([4, 2, 4], np.uint64))
    assert (a.tolist(), b.tolist()) == ([1, 3], [2, 4])
    nodes = np.array([5, 2**63 + 9], np.uint64)
    assert in_group(nodes, "") is nodes
    one, other = in_group(nodes, "D1"), in_group(nodes, "D2")
    assert not set(one.tolist()) & set(other.tolist())
    assert (ranges(one, 1000) == ranges(nodes, 1000)).all()  # a node lies in the range of its text
    assert ranges(np.array([0, 2**64 - 1], np.uint64), 7).tolist() == [0, 6]
