"""Connected components of a graph that fits in memory."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def components(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of the graph with edges (a[i], b[i]), sorted, and for each the smallest node of its component.

    Both results are uint64 and equally long. An edge may be repeated or lead from a node to itself; a node that is an
    end of no edge is not known here. Raises ValueError where the ends are not as many or not uint64.
    """
    if a.shape != b.shape or a.ndim != 1 or a.dtype != np.uint64 or b.dtype != np.uint64:
        raise ValueError(
            f"edge ends must be two equally long uint64 arrays, not {a.dtype}{a.shape}, {b.dtype}{b.shape}"
        )
    nodes, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    if not len(nodes):
        return nodes, nodes.copy()
    # 32-bit places save half of the memory and are what csgraph works with.
    places = places.astype(np.int32)
    links = coo_array((np.ones(len(a), dtype=np.int8), (places[: len(a)], places[len(a) :])), shape=(len(nodes),) * 2)
    number, membership = connected_components(links, directed=False)
    # Nodes are sorted, so the first of a component is its smallest.
    first = np.full(number, len(nodes), dtype=np.int64)
    np.minimum.at(first, membership, np.arange(len(nodes)))
    return nodes, nodes[first[membership]]
