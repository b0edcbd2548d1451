"""Job: documents to the tables signals and edits, beside the text. `spark-submit jobs/annotate.py --help`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from jobs import quarantine
from jobs.quarantine import Lost
from jobs.runs import Run, commit, is_committed, places
from jobs.session import Watch, for_each
from jobs.store import RunFolder
from pipeline.annotation import Measurement
from pipeline.recipe import Recipe
from pipeline.tables import DOCUMENTS, EDITS

STAGE = "annotate"

BATCH_ROWS = 2048
"""Documents measured at a time: about 10 MB of text."""


_FEW_WORDS = pa.record_batch({"doc_id": ["0"], "text": ["A few words, of two lines.\nNo more."]})


@dataclass(frozen=True)
class AnnotatePart:
    """Measures one part of documents and leaves signals, edits and manifest in the run folder."""

    output: str
    recipe: Recipe

    def __call__(self, part: str) -> None:
        """Does the part of that name."""
        folder = RunFolder(self.output)
        again = quarantine.retried()
        if again and is_committed(folder, STAGE, part):
            return
        documents = folder.read_table(f"documents/part-{part}.parquet", ["doc_id", "text"]).combine_chunks()
        measurement = Measurement(self.recipe)
        if again:
            tables = self.isolated(folder, part, measurement, documents)
        else:
            tables = _measured(measurement, documents, 0, documents.num_rows)
        commit(folder, STAGE, part, tables)

    def isolated(
        self, folder: RunFolder, part: str, measurement: Measurement, documents: pa.Table
    ) -> dict[str, pa.Table]:
        """The tables without the texts that end a worker by themselves: their signals are null, and the schema of signals
        names them."""
        measurement.annotate(_FEW_WORDS)  # compiled here, and not again in every child
        lost: dict[str, str] = {}
        pieces = []
        for piece in quarantine.isolate(partial(_measured, measurement, documents), 0, documents.num_rows):
            if isinstance(piece, Lost):
                gone = documents.column("doc_id").slice(piece.start, piece.end - piece.start)
                lost |= dict.fromkeys(gone.to_pylist(), piece.why)
                piece = {"edits": EDITS.empty_table(), "signals": _unmeasured(measurement, gone)}
            pieces.append(piece)
        if lost:
            notes = places(folder, part, lost)
            quarantine.put_aside(folder, STAGE, part, notes, self.recipe.inputs.tolerate)
        tables = {name: pa.concat_tables([piece[name] for piece in pieces]).combine_chunks() for name in pieces[0]}
        return tables | {"signals": quarantine.mark(tables["signals"], lost)}


def _signals(measurement: Measurement) -> pa.Schema:
    return pa.schema([DOCUMENTS.field("doc_id"), *measurement.schema])


def _measured(measurement: Measurement, documents: pa.Table, start: int, end: int) -> dict[str, pa.Table]:
    """Edits and signals of the documents [start, end)."""
    schema = _signals(measurement)
    signals, edits = [schema.empty_table()], [EDITS.empty_table()]
    for batch in documents.slice(start, end - start).combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
        measured = measurement.annotate(batch)
        signals.append(pa.table([batch.column("doc_id"), *measured.signals.columns], schema=schema))
        edits.append(measured.edits)
    return {"edits": pa.concat_tables(edits), "signals": pa.concat_tables(signals).combine_chunks()}


def _unmeasured(measurement: Measurement, doc_ids: pa.ChunkedArray) -> pa.Table:
    """Signals of documents that cannot be measured."""
    schema = _signals(measurement)
    return pa.table([doc_ids, *(pa.nulls(len(doc_ids), column.type) for column in measurement.schema)], schema=schema)


def annotate(spark: Any, run: Run, partitions: int | None = None, watch: Watch | None = None) -> None:
    """Measures every part that is not measured yet."""
    done = run.done(STAGE)
    quarantine.forget(run.folder, STAGE, done)
    parts = [task.part for task in run.tasks if task.part not in done]
    for_each(spark, parts, AnnotatePart(run.folder.path, run.recipe), STAGE, partitions, run.least_slices, watch)


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
