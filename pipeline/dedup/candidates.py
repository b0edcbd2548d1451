"""Band keys to pairs of nodes that may be near-duplicates, and the numbers that nodes go by."""

import hashlib

import numpy as np

PAIRED = 48
"""Buckets of up to so many members give all their pairs, which is 1,128 of them; a pair of any near-copies is then found
whatever its other neighbours are."""

CENTRES = 4
"""Members of a larger bucket are paired with so many of its members. One would do for copies of one page; several also
serve a bucket in which different pages met."""

_SCRAMBLE = np.uint64(0x9E3779B97F4A7C15)
_UNSCRAMBLE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))


def candidate_pairs(keys: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs (a, b) of nodes that share a key, in an order of their own. `keys` and `nodes` are uint64 of one length.

    A bucket of n members gives n(n-1)/2 pairs up to PAIRED members, and at most CENTRES * n beyond: stars around some of
    them, which are the a of their pairs. The result depends on the set of rows only, never on their order.
    """
    # Centres are the first in a scrambled order: the smallest numbers of all would lie in one range, and so all the work.
    nodes = nodes * _SCRAMBLE
    order = np.lexsort((nodes, keys))
    keys, nodes = keys[order], nodes[order]
    fresh = first_of_runs(keys, nodes)
    keys, nodes = keys[fresh], nodes[fresh]
    sizes = np.diff(np.append(np.flatnonzero(first_of_runs(keys)), len(keys)))
    # Most keys have one member: what follows looks at the others only.
    shared = np.repeat(sizes > 1, sizes)
    keys, nodes = keys[shared], nodes[shared]
    sizes = sizes[sizes > 1]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(sizes) else np.zeros(0, np.int64)
    hot = np.repeat(sizes > PAIRED, sizes)
    left, right = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for step in range(1, PAIRED):
        together = (keys[step:] == keys[:-step]) & ~hot[step:] if step < len(keys) else np.zeros(0, bool)
        if not together.any():
            break
        left.append(nodes[:-step][together])
        right.append(nodes[step:][together])
    in_bucket = np.arange(len(keys)) - np.repeat(starts, sizes)
    for centre in range(CENTRES):
        member = hot & (in_bucket > centre)
        left.append(nodes[(np.repeat(starts, sizes) + centre)[member]])
        right.append(nodes[member])
    a, b = distinct_pairs(np.concatenate(left), np.concatenate(right))
    return a * _UNSCRAMBLE, b * _UNSCRAMBLE


def distinct_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs without repetition, sorted."""
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    fresh = first_of_runs(a, b)
    return a[fresh], b[fresh]


def first_of_runs(*keys: np.ndarray) -> np.ndarray:
    """Of rows that are sorted by some columns, those that differ from the row before; bool, of their length."""
    fresh = np.zeros(len(keys[0]), bool)
    fresh[:1] = True
    for key in keys:
        fresh[1:] |= key[1:] != key[:-1]
    return fresh


def in_group(nodes: np.ndarray, group: str) -> np.ndarray:
    """Numbers of the same texts within one group of dumps: a text that stands in two groups is two nodes.

    The upper 32 bits stay, so that a node lies in the range of its text. The empty group leaves nodes as they are.
    """
    if not group:
        return nodes
    low = int.from_bytes(hashlib.blake2b(group.encode(), digest_size=4).digest())
    return nodes ^ np.uint64(low)


def ranges(hashes: np.ndarray, n: int) -> np.ndarray:
    """Which of `n` equal ranges of the 64-bit space each hash lies in, int32."""
    return (((hashes >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)).astype(np.int32)
