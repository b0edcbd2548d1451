"""Components in memory against a plain union-find."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedup.components import components


def by_union_find(edges: list[tuple[int, int]]) -> dict[int, int]:
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            node = parent[node]
        return node

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in parent}


def of(edges: list[tuple[int, int]]) -> dict[int, int]:
    a, b = (np.array([edge[side] for edge in edges], dtype=np.uint64) for side in (0, 1))
    nodes, labels = components(a, b)
    assert nodes.dtype == labels.dtype == np.uint64
    assert nodes.tolist() == sorted(set(nodes.tolist()))
    return dict(zip(nodes.tolist(), labels.tolist(), strict=True))


few = st.sampled_from([0, 1, 2, 3, 5, 8, 2**31, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1])
node = few | st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(node, node), max_size=40))
def test_labels_are_those_of_union_find(edges: list[tuple[int, int]]) -> None:
    assert of(edges) == by_union_find(edges)


@given(st.lists(st.tuples(few, few), max_size=20), st.randoms(use_true_random=False))
def test_neither_order_nor_direction_nor_repetition_matters(edges: list[tuple[int, int]], random) -> None:
    other = [(b, a) if random.random() < 0.5 else (a, b) for a, b in edges + edges[: len(edges) // 2]]
    random.shuffle(other)
    assert of(other) == of(edges)


def test_a_long_path_is_one_component() -> None:
    order = np.random.default_rng(1).permutation(100_000).astype(np.uint64) + np.uint64(7)
    nodes, labels = components(order[:-1], order[1:])
    assert len(nodes) == 100_000
    assert set(labels.tolist()) == {7}


def test_no_edges_no_nodes() -> None:
    assert of([]) == {}


def test_a_node_of_its_own_may_be_named() -> None:
    assert of([(9, 9), (4, 4), (4, 2)]) == {2: 2, 4: 2, 9: 9}


@pytest.mark.parametrize(
    ("a", "b"), [(np.zeros(2, np.uint64), np.zeros(3, np.uint64)), (np.zeros(2, np.int64), np.zeros(2, np.uint64))]
)
def test_ends_that_are_no_pairs_of_nodes_are_refused(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint64"):
        components(a, b)
