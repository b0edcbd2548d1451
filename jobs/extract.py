"""Job: input files to the tables records, documents and inputs. `spark-submit jobs/extract.py --help`."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.compute as pc

from jobs.runs import Run, Task, commit
from jobs.session import Watch, for_each
from jobs.store import RunFolder
from pipeline.pages import Extractor, Part
from pipeline.recipe import Recipe
from pipeline.sources.formats import read
from pipeline.tables import UNKNOWN_DUMP

STAGE = "extract"


class Work(NamedTuple):
    """A task, and path and name of each of its files where it has several."""

    task: Task
    files: list[tuple[str, str]]


@dataclass(frozen=True)
class ExtractPart:
    """Reads one split and leaves its tables and manifest in the run folder."""

    output: str
    recipe: Recipe

    def __call__(self, work: Work) -> None:
        """Does the part of that task."""
        task, files = work
        recipe = self.recipe
        items = read(task.source(), recipe.inputs, recipe.extraction.max_bytes, files, recipe.gates.code)
        with Extractor(recipe) as extractor:
            part = extractor.extract(items, task.path, task.start)
        text_bytes = pc.sum(pc.binary_length(part.documents.column("text"))).as_py() or 0
        commit(
            RunFolder(self.output),
            STAGE,
            task.part,
            {"documents": part.documents, "inputs": part.inputs, "records": part.records},
            path=task.path,
            text_bytes=text_bytes,
            dumps=sorted({dump or UNKNOWN_DUMP for dump in part.records.column("dump").unique().to_pylist()}),
            bytes_lost=sum(part.inputs.column("n_bytes_lost").to_pylist()),
            unreadable=_unreadable(part) if task.start == 0 else {},
        )


def _unreadable(part: Part) -> dict[str, str]:
    """Why, by the path, of each file that gave nothing but one damaged stretch: it is missing, closed to us, or something
    else than the recipe says."""
    files = Counter(part.records.column("warc_file").to_pylist())
    damaged = part.records.filter(pc.equal(part.records.column("record_type"), "damaged"))
    return {row["warc_file"]: row["error"] for row in damaged.to_pylist() if files[row["warc_file"]] == 1}


def extract(spark: Any, run: Run, partitions: int | None = None, watch: Watch | None = None) -> None:
    """Extracts every part that is not done yet."""
    done = run.done(STAGE)
    work = [Work(task, run.files(task)) for task in run.tasks if task.part not in done]
    for_each(spark, work, ExtractPart(run.folder.path, run.recipe), STAGE, partitions, run.least_slices, watch)


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
