"""Which of several pages is kept: a total order over what pages are, never over how they came."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.dedup.candidates import first_of_runs
from pipeline.signals.base import field

ENTRIES = pa.schema(
    [
        field("doc_hi", pa.uint64(), "upper half of doc_id"),
        field("doc_lo", pa.uint64(), "lower half of doc_id"),
        field("text_hi", pa.uint64(), "upper half of the hash of the normalised text; the node of the text"),
        field("text_lo", pa.uint64(), "lower half of it"),
        field("address", pa.uint64(), "hash of the canonical URL; 0 without one"),
        field("date", pa.int64(), "when it was crawled; null when unknown", "seconds since 1970"),
        field("quality", pa.float32(), "rank by quality; null unless the recipe ranks", "0..1"),
        field("n_chars", pa.int32(), "length of the text after edits", "characters"),
        field("part", pa.int32(), "number of the part of its run that holds it"),
    ]
)
"""One row a page that is compared with others: all that comparing pages (not texts) needs."""


class Groups(NamedTuple):
    """For every row: the row that is kept of its group, and how many rows the group has."""

    keeper: np.ndarray
    size: np.ndarray


def column(table: pa.Table, name: str, missing: float = 0) -> np.ndarray:
    """A column as NumPy values, nulls replaced."""
    values = table.column(name)
    return values.fill_null(pa.scalar(missing, values.type)).to_numpy() if values.null_count else values.to_numpy()


def order(pages: pa.Table, prefer: Sequence[str]) -> list[np.ndarray]:
    """Sort keys, the most important first, under which a better page is smaller; no two different pages are equal."""
    made = {
        "quality": lambda: -column(pages, "quality", -1).astype(np.float64),
        "newest": lambda: -column(pages, "date", -(2**40)),
        "oldest": lambda: column(pages, "date", 2**40),
        "longest": lambda: -column(pages, "n_chars").astype(np.int64),
    }
    return [*(made[name]() for name in prefer), column(pages, "doc_hi"), column(pages, "doc_lo")]


def best_of(keys: Sequence[np.ndarray], pages: pa.Table, prefer: Sequence[str]) -> Groups:
    """The best page of each group of equal `keys` (arrays of one length as `pages`)."""
    n = pages.num_rows
    if n == 0:
        return Groups(np.zeros(0, np.int64), np.zeros(0, np.int64))
    ranked = np.lexsort((*reversed(order(pages, prefer)), *reversed(list(keys))))
    starts = np.flatnonzero(first_of_runs(*(key[ranked] for key in keys)))
    sizes = np.diff(np.append(starts, n))
    keeper, size = np.empty(n, np.int64), np.empty(n, np.int64)
    keeper[ranked] = np.repeat(ranked[starts], sizes)
    size[ranked] = np.repeat(sizes, sizes)
    return Groups(keeper, size)


def once(pages: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """The pages without those whose id came before (a capture that was archived twice), and for each row given the row
    that stands for it."""
    hi, lo, part = column(pages, "doc_hi"), column(pages, "doc_lo"), column(pages, "part")
    ranked = np.lexsort((part, lo, hi))
    first = first_of_runs(hi[ranked], lo[ranked])
    stands = np.empty(len(ranked), np.int64)
    stands[ranked] = np.cumsum(first) - 1
    return pages.take(pa.array(ranked[first])), stands


def hex_ids(hi: np.ndarray, lo: np.ndarray) -> pa.Array:
    """The 32 hex digits of 128-bit ids."""
    return pa.array([f"{a:016x}{b:016x}" for a, b in zip(hi.tolist(), lo.tolist(), strict=True)], pa.string())


def halves(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower halves of ids of 32 hex digits."""
    raw = np.frombuffer(bytes.fromhex("".join(ids)), ">u8").reshape(-1, 2)
    return raw[:, 0].astype(np.uint64), raw[:, 1].astype(np.uint64)
