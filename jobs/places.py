"""Where a record lies among the parts of a run: found by file and offset, so that only its part is read."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.runs import Run, Task
from jobs.store import RunFolder
from pipeline.errors import StorageError


def task_of(run: Run, row: dict[str, Any]) -> Task | None:
    """The task that read a record, a row of `records` or of the ledger; None where no part holds it."""
    folder = run.measures_folder
    for task in _likely(run, row):
        ids = _column(folder, f"records/part-{task.part}.parquet", "doc_id")
        if ids is not None and pc.index(ids, row["doc_id"]).as_py() >= 0:
            return task
    return None


def rows_of(folder: RunFolder, table: str, part: str, doc_id: str, columns: list[str] | None = None) -> pa.Table | None:
    """The rows of one part of a table that are about a record; None where the part is not there. Only row groups that
    have some are read. Raises StorageError.
    """
    file = _open(folder, f"{table}/part-{part}.parquet")
    if file is None:
        return None
    with file:
        found = [
            file.schema_arrow.empty_table() if columns is None else file.schema_arrow.empty_table().select(columns)
        ]
        try:
            for group in range(file.num_row_groups):
                own = pc.equal(file.read_row_group(group, ["doc_id"]).column("doc_id"), doc_id)
                if pc.any(own).as_py():
                    found.append(file.read_row_group(group, columns).filter(own))
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot read {folder.path}/{table}/part-{part}.parquet: {error}") from error
    return pa.concat_tables(found)


def _likely(run: Run, row: dict[str, Any]) -> Iterator[Task]:
    """The tasks of a record's file: first the one whose split holds its offset, then by how near they begin before it. The
    offset is no byte of the file in Parquet and in files that are compressed as a whole, and a damaged stretch belongs to
    the split before it, so that any may be the one."""
    file, offset = row["warc_file"], row["warc_offset"]

    def far(task: Task) -> tuple[bool, bool, int]:
        holds = task.start <= offset and (task.end is None or offset < task.end)
        return not holds, task.start > offset, abs(offset - task.start)

    yield from sorted((task for task in run.tasks if _reads(run, task, file)), key=far)


def _reads(run: Run, task: Task, file: str) -> bool:
    paths = [path for path, _ in run.files(task)] if task.files else [task.path]
    # As the tables have it: names of files may hold what is no text.
    return any(path.encode("utf-8", "replace").decode("utf-8") == file for path in paths)


def _column(folder: RunFolder, name: str, column: str) -> pa.ChunkedArray | None:
    file = _open(folder, name)
    if file is None:
        return None
    with file:
        try:
            return file.read([column]).column(column)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot read {folder.path}/{name}: {error}") from error


def _open(folder: RunFolder, name: str) -> pq.ParquetFile | None:
    if not folder.has(name):
        return None
    path = folder.local_copy(name)
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {folder.path}/{name}: {error}") from error
