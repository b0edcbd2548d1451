"""Job: documents to the tables signals and edits, beside the text. `spark-submit jobs/annotate.py --help`."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.runs import Run, commit
from jobs.session import Watch, for_each
from jobs.store import RunFolder
from pipeline.annotation import Measurement
from pipeline.recipe import Recipe
from pipeline.tables import DOCUMENTS, EDITS

STAGE = "annotate"

BATCH_ROWS = 2048
"""Documents measured at a time: about 10 MB of text."""


@dataclass(frozen=True)
class AnnotatePart:
    """Measures one part of documents and leaves signals, edits and manifest in the run folder."""

    output: str
    recipe: Recipe

    def __call__(self, part: str) -> None:
        """Does the part of that name."""
        folder = RunFolder(self.output)
        documents = folder.read_table(f"documents/part-{part}.parquet", ["doc_id", "text"])
        measurement = Measurement(self.recipe)
        schema = pa.schema([DOCUMENTS.field("doc_id"), *measurement.schema])
        signals, edits = [schema.empty_table()], [EDITS.empty_table()]
        for batch in documents.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
            measured = measurement.annotate(batch)
            signals.append(pa.table([batch.column("doc_id"), *measured.signals.columns], schema=schema))
            edits.append(measured.edits)
        tables = {"edits": pa.concat_tables(edits), "signals": pa.concat_tables(signals).combine_chunks()}
        commit(folder, STAGE, part, tables)


def annotate(spark: Any, run: Run, partitions: int | None = None, watch: Watch | None = None) -> None:
    """Measures every part that is not measured yet."""
    done = run.done(STAGE)
    parts = [task.part for task in run.tasks if task.part not in done]
    for_each(spark, parts, AnnotatePart(run.folder.path, run.recipe), STAGE, partitions, run.least_slices, watch)


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
