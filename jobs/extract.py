"""Job: input files to the tables records, documents and inputs. `spark-submit jobs/extract.py --help`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from jobs.runs import Run, Task, commit
from jobs.session import Watch, for_each
from jobs.store import RunFolder
from pipeline.errors import InputError
from pipeline.pages import Extractor, Part
from pipeline.recipe import Recipe
from pipeline.sources.archive import Damage, Record, Skipped, read_archive
from pipeline.sources.inputs import open_input
from pipeline.tables import UNKNOWN_DUMP

STAGE = "extract"


@dataclass(frozen=True)
class ExtractPart:
    """Reads one split and leaves its tables and manifest in the run folder."""

    output: str
    recipe: Recipe

    def __call__(self, task: Task) -> None:
        """Does the part of that task."""
        with Extractor(self.recipe) as extractor:
            part = extractor.extract(_items(task, self.recipe), task.path, task.start)
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
            problem=part.records.column("error")[0].as_py() if task.start == 0 and _is_unreadable(part) else None,
        )


def _is_unreadable(part: Part) -> bool:
    """True where the split gave nothing but one damaged stretch: the file is missing, closed to us, or no archive."""
    return part.records.num_rows == 1 and part.records.column("record_type")[0].as_py() == "damaged"


def _items(task: Task, recipe: Recipe) -> Iterator[Record | Damage | Skipped]:
    """What the archive holds; a file that cannot be read at all is one damaged stretch, so that it is accounted for."""
    if task.problem is not None:
        yield Damage(task.path, 0, 0, task.problem)
        return
    try:
        stream = open_input(task.path)
    except (InputError, OSError) as error:
        if task.start == 0:
            yield Damage(task.path, 0, 0, str(error))
        return
    reached = task.start
    nothing = True
    with stream:
        try:
            # One byte more than allowed is kept, so that a capped page is seen to be too large.
            for item in read_archive(stream, task.path, task.start, task.end, recipe.extraction.max_bytes + 1):
                yield item
                nothing = False
                reached = item.offset + item.length
        except (InputError, OSError) as error:
            # The store gave up in the middle, after its retries: what was read stands, the rest is one lost stretch.
            yield Damage(task.path, reached, max(0, (task.end or reached) - reached), f"reading stopped here: {error}")
            return
    if nothing and task.end in (None, 0):
        yield Damage(task.path, 0, 0, "the file is empty")


def extract(spark: Any, run: Run, partitions: int | None = None, watch: Watch | None = None) -> None:
    """Extracts every part that is not done yet."""
    done = run.done(STAGE)
    tasks = [task for task in run.tasks if task.part not in done]
    for_each(spark, tasks, ExtractPart(run.folder.path, run.recipe), STAGE, partitions, run.least_slices, watch)


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
