"""Benchmark items in texts in memory, without a run."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.contamination.benchmark import ITEMS
from pipeline.contamination.index import GramIndex
from pipeline.contamination.matching import find, grams, judge
from pipeline.contamination.options import Decontamination


def search(
    texts: pa.Array, items: pa.Table | Iterable[Mapping[str, Any]], options: Decontamination | None = None
) -> pa.Table:
    """Which items stand in which of the texts, and where.

    `items` has schema ITEMS, or is an iterable of mappings with some of its keys (`item` at least, and `question` or
    `passage`). A row of the result is a place: row (of `texts`), benchmark, item, score, question, answer, passage,
    n_grams, start, end (characters), spans. N-grams in more than `options.common` of the texts are common text.
    """
    options = options or Decontamination()
    if not isinstance(items, pa.Table):
        blank: dict[str, Any] = {"benchmark": "items", "question": "", "choices": [], "decoy": False}
        items = pa.Table.from_pylist([{**dict.fromkeys(ITEMS.names), **blank, **item} for item in items], ITEMS)
    index = GramIndex.build(items, options.ngram)
    matches = find(texts, index)
    common = np.zeros(0, np.uint64)
    if options.common is not None:
        gram, n_texts = np.unique(grams(matches, index).column("gram").to_numpy(), return_counts=True)
        common = gram[n_texts > options.common]
    found = judge(matches, index, options.matching, common)
    names = [index.items.column(name).take(found.column("item")) for name in ("benchmark", "item")]
    rest = found.drop_columns(["row", "item"])
    named = pa.table(
        [found.column("row"), *names, *rest.columns], names=["row", "benchmark", "item", *rest.column_names]
    )
    return named.sort_by([(name, "ascending") for name in ("row", "start", "end", "benchmark", "item")])
