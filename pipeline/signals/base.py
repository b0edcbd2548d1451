"""The one contract of everything that measures text."""

from typing import Protocol

import pyarrow as pa


class Annotator(Protocol):
    """Measures texts. Knows nothing of Spark, files or thresholds."""

    schema: pa.Schema
    """The columns it adds; field metadata holds `unit`, `meaning` and `source`."""

    def annotate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns `schema` columns for each row of `batch`, in order. `batch` has at least the column `text`."""
        ...


def field(name: str, type_: pa.DataType, meaning: str, unit: str = "", source: str = "") -> pa.Field:
    """A column with its documentation attached, so that tables, recipes and reports can show it."""
    metadata = {"meaning": meaning, "unit": unit, "source": source}
    return pa.field(name, type_, metadata={k: v for k, v in metadata.items() if v})
