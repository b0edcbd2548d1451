"""What would be kept under other bounds, from the columns that a run measured: arrays in, arrays out.

Numbers are compared as `pipeline.rules` compares them.
"""

from typing import Literal

import numpy as np

Side = Literal["minimum", "maximum"]
"""Which end of an interval a threshold is."""


def curve(
    values: np.ndarray,
    passes_others: np.ndarray,
    thresholds: np.ndarray,
    side: Side,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """How many rows (int64), or what total of their `weights`, would be kept with a bound at each of the thresholds.

    values (n,) are those of one signal, passes_others (n,) says which rows break nothing else. Thresholds, in any order,
    are bounds that a value may touch; a null (NaN) value breaks every one. O(n log n).
    """
    rows = np.asarray(passes_others, dtype=bool)
    if values.dtype == object:
        values = values.astype(np.float64)
    kind = values.dtype.type if values.dtype.kind == "f" else np.float64
    if values.dtype.kind == "f":
        rows = rows & ~np.isnan(values)
    held = values[rows].astype(kind)
    order = np.argsort(held, kind="stable")
    totals = np.ones(len(held)) if weights is None else np.asarray(weights, dtype=np.float64)[rows][order]
    cumulated = np.concatenate([[0.0], np.cumsum(totals)])
    at = np.searchsorted(held[order], np.asarray(thresholds).astype(kind), "right" if side == "maximum" else "left")
    kept = cumulated[at] if side == "maximum" else cumulated[-1] - cumulated[at]
    return np.rint(kept).astype(np.int64)
