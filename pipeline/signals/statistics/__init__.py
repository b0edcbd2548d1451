"""Statistics of plain text that the published quality rules are written in, measured in one compiled pass."""

from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.signals.statistics import characters, kernel
from pipeline.signals.statistics.columns import NAMES, WORD_COUNT_DCLM
from pipeline.signals.statistics.schema import SCHEMA

__all__ = ["Statistics"]


class Statistics:
    """Measures column `text` of a batch; see `schema` for what, in which unit, after whom.

    Where the published implementations of a rule disagree, each has a column of its own: `dup_line_frac` is datatrove's,
    `dup_line_frac_dolma` and `dup_line_frac_dclm` are the others'. No column depends on a threshold.
    """

    schema: ClassVar[pa.Schema] = SCHEMA

    def annotate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`schema` for each row of `batch`, in order; all null where `text` is.

        With a column `original` (the same texts before line edits), `removed_word_share` compares the two; else it is 0.
        Raises TypeError where a text column holds no strings.
        """
        texts = _strings(batch, "text")
        values = _measure(texts)
        removed = np.zeros(len(texts))
        if "original" in batch.schema.names:
            at = WORD_COUNT_DCLM
            before = word_counts(_strings(batch, "original"))
            with np.errstate(divide="ignore", invalid="ignore"):
                removed = (before - values[:, at]) / before
        missing = texts.is_null().to_numpy(zero_copy_only=False) if texts.null_count else None
        columns = []
        for i, column in enumerate(SCHEMA):
            numbers = removed if i == len(NAMES) else values[:, i]
            if pa.types.is_integer(column.type):
                numbers = numbers.astype(np.int32)
            columns.append(pa.array(numbers, column.type, mask=missing))
        return pa.record_batch(columns, schema=SCHEMA)


def word_counts(texts: pa.StringArray) -> np.ndarray:
    """`word_count_dclm` of each text, float64."""
    data, offsets = _buffers(texts)
    counts = np.zeros(len(texts))
    kernel.count_ascii_words(data, offsets, characters.classes(), counts)
    return counts


def _strings(batch: pa.RecordBatch, name: str) -> pa.StringArray:
    column = batch.column(name)
    if pa.types.is_string(column.type):
        return column
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return pc.cast(column, pa.string())
    raise TypeError(f"column {name!r} holds {column.type}, not strings")


def _buffers(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    _, offsets, data = texts.buffers()
    if offsets is None or len(texts) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int32)
    at = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), at


def _measure(texts: pa.StringArray) -> np.ndarray:
    data, offsets = _buffers(texts)
    out = np.empty((len(texts), len(NAMES)), np.float64)
    tables = (*characters.special_table(), *characters.stop_word_table(), *characters.unit_table())
    kernel.measure(data, offsets, characters.classes(), tables, characters.phrase_table(), out)
    return out
