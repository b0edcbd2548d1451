"""Everything that is measured of a text under one recipe, and the edits that its rules ask for."""

from typing import NamedTuple

import pyarrow as pa

from pipeline.edits import LineEdits, apply_edits
from pipeline.recipe import Recipe
from pipeline.rules import EDITED
from pipeline.signals.statistics import Statistics
from pipeline.tables import EDITS


class Measured(NamedTuple):
    """`signals` has one row a text; `edits` has any number of spans a text, keyed by doc_id (schema EDITS)."""

    signals: pa.RecordBatch
    edits: pa.Table


def measured_schema(recipe: Recipe) -> pa.Schema:
    """The columns that a recipe's measurement gives: the statistics, and those of the edited text if it edits lines."""
    columns = list(Statistics.schema)
    if recipe.line_edits():
        columns += [c.with_name(EDITED + c.name) for c in Statistics.schema]
    return pa.schema(columns)


class Measurement:
    """The annotators of a recipe, ready to use: the statistics, and those of the edited text where lines are edited."""

    def __init__(self, recipe: Recipe):
        self._statistics = Statistics()
        self._line_edits = [LineEdits(policy, name) for name, policy in recipe.line_edits().items()]
        self.schema = measured_schema(recipe)

    def annotate(self, batch: pa.RecordBatch) -> Measured:
        """Measures the column `text`. Rows are told apart in `edits` by column `doc_id`, or by number without one."""
        texts = batch.column("text")
        named = "doc_id" in batch.schema.names
        ids = batch.column("doc_id") if named else pa.array([str(i) for i in range(len(texts))], pa.string())
        signals = self._statistics.annotate(batch)
        columns = list(signals.columns)
        edits = EDITS.empty_table()
        if self._line_edits:
            edits = pa.concat_tables([policy.spans(texts, ids) for policy in self._line_edits]).combine_chunks()
            edited = apply_edits(texts, ids, edits)
            columns += self._statistics.annotate(pa.record_batch([edited, texts], ["text", "original"])).columns
        return Measured(pa.record_batch(columns, schema=self.schema), edits)
