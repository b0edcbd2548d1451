"""Job: input files to the tables records, documents and inputs. `spark-submit jobs/extract.py --help`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from jobs import quarantine
from jobs.measures import count
from jobs.quarantine import Lost
from jobs.runs import Run, Task, commit, is_committed
from jobs.session import Watch, for_each
from jobs.store import RunFolder
from pipeline.pages import Extractor, Part
from pipeline.recipe import Recipe
from pipeline.sources.archive import Damage
from pipeline.sources.formats import Item, read
from pipeline.sources.formats import Part as SourcePart
from pipeline.tables import INPUTS, UNKNOWN_DUMP, Outcome

STAGE = "extract"

AT_ONCE = 4096
"""Records that become tables together."""

PUT_ASIDE = "source.quarantined"
"""Reason of a stretch of a file that ended every worker that read it."""


class Work(NamedTuple):
    """A task, the size of its file or files, and path and name of each of its files where it has several."""

    task: Task
    size: int | None
    files: list[tuple[str, str]]

    def bytes_read(self, in_bytes: bool) -> int:
        """Bytes that the task reads. Where offsets are not `in_bytes` the first task of a file is said to read it all."""
        if self.size is None or (not in_bytes and self.task.start):
            return 0
        whole = not in_bytes or self.files or self.task.end is None
        return max(0, (self.size if whole else min(self.task.end or 0, self.size)) - self.task.start)


@dataclass(frozen=True)
class ExtractPart:
    """Reads one split and leaves its tables and manifest in the run folder."""

    output: str
    recipe: Recipe

    def __call__(self, work: Work) -> None:
        """Does the part of that task."""
        folder = RunFolder(self.output)
        task = work.task
        lost: list[dict[str, Any]] = []
        if not quarantine.retried():
            part = self._part(Extractor(self.recipe), work, *_whole(work))
        elif is_committed(folder, STAGE, task.part):
            return
        else:
            part, lost = self.isolated(work)
        if lost:
            quarantine.put_aside(folder, STAGE, task.part, lost, self.recipe.inputs.tolerate)
        text_bytes = pc.sum(pc.binary_length(part.documents.column("text"))).as_py() or 0
        count("records", part.records.num_rows)
        count("left", part.documents.num_rows)
        count("bytes_read", work.bytes_read(in_bytes=self.recipe.inputs.format != "parquet"))
        commit(
            folder,
            STAGE,
            task.part,
            {"documents": part.documents, "inputs": part.inputs, "records": part.records},
            path=task.path,
            text_bytes=text_bytes,
            dumps=sorted({dump or UNKNOWN_DUMP for dump in part.records.column("dump").unique().to_pylist()}),
            bytes_lost=sum(part.inputs.column("n_bytes_lost").to_pylist()),
            files=_account(part, every=not work.files),
            unreadable=_unreadable(part) if task.start == 0 else {},
        )

    def isolated(self, work: Work) -> tuple[Part, list[dict[str, Any]]]:
        """The part without the records that end a worker by themselves: each of these is a row like that of a damaged
        stretch, and is told of beside the part."""
        extractor = Extractor(self.recipe)  # what children need is loaded before they are forked
        pieces, lost = [], []
        for piece in quarantine.isolate(partial(self._part, extractor, work), *_whole(work)):
            if isinstance(piece, Lost):
                for damage in self._stretches(work, piece):
                    part = _put_aside(extractor, work, damage)
                    pieces.append(part)
                    (row,) = part.records.to_pylist()
                    place = {"file": row["warc_file"], "offset": row["warc_offset"], "length": row["warc_length"]}
                    lost.append({**place, "doc_id": row["doc_id"], "error": row["error"]})
            else:
                pieces.append(piece)
        return _joined(pieces, work.task.start), lost

    def _part(self, extractor: Extractor, work: Work, start: int, end: int | None) -> Part:
        """What is read of the range [start, end): bytes of the file, or files."""
        items = self._items(work, start, end)
        pieces = []
        with extractor:
            # A large file has many rows, and they take less memory as tables: of 7,077 pages 116 MB instead of 160.
            for first in items:
                some = islice(chain([first], items), AT_ONCE)
                pieces.append(extractor.extract(some, work.task.path, work.task.start))
            pieces = pieces or [extractor.extract((), work.task.path, work.task.start)]
        return _joined(pieces, work.task.start)

    def _items(self, work: Work, start: int, end: int | None) -> Iterator[Item]:
        source, files = _range(work, start, end)
        return read(source, self.recipe.inputs, self.recipe.extraction.max_bytes, files, self.recipe.gates.code)

    def _stretches(self, work: Work, lost: Lost) -> list[Damage]:
        """A file each, or the bytes from the record at fault to the next one."""
        if work.files:
            return [Damage(path, 0, 0, lost.why) for path, _ in work.files[lost.start : lost.end]]
        task = work.task
        if task.end is None:
            return [Damage(task.path, task.start, max(0, (work.size or 0) - task.start), lost.why)]
        end = lost.end
        if lost.end - lost.start == 1 and self.recipe.inputs.format != "parquet":  # whose offsets are no bytes
            size = max(work.size or 0, end)
            # The next record may be such a one itself, and in the part of another task.
            found = quarantine.isolate(partial(self._first, work), end, size)
            begins = (piece.start if isinstance(piece, Lost) else piece for piece in found)
            end = next((begin for begin in begins if begin is not None), size)
        return [Damage(task.path, lost.start, end - lost.start, lost.why)]

    def _first(self, work: Work, start: int, end: int) -> int | None:
        """Where the first record begins that begins in a range of bytes."""
        first = next(iter(self._items(work, start, end)), None) if start < end else None
        return None if first is None else first.offset


def _put_aside(extractor: Extractor, work: Work, damage: Damage) -> Part:
    """The row of a stretch that was put aside."""
    part = extractor.extract([damage], damage.file, work.task.start)
    records = part.records
    for name, value in (("reason", PUT_ASIDE), ("gate_hits", [PUT_ASIDE])):
        at = records.schema.get_field_index(name)
        records = records.set_column(at, records.schema.field(at), pa.array([value], records.schema.field(at).type))
    return replace(part, records=records)


def _whole(work: Work) -> tuple[int, int]:
    """The range that a task reads, of bytes or of files; a file of unknown size, or one that is read whole, is one thing."""
    task = work.task
    if work.files:
        return 0, len(work.files)
    return (0, 1) if task.end is None or task.problem is not None else (task.start, task.end)


def _range(work: Work, start: int, end: int | None) -> tuple[SourcePart, list[tuple[str, str]]]:
    """A part of what a task reads."""
    source = work.task.source()
    if work.files:
        return source, work.files[start:end]
    if source.end is None or source.problem is not None:
        return source, []
    return replace(source, start=start, end=end), []


def _joined(pieces: list[Part], start: int) -> Part:
    """Parts that follow each other as one, with one account a file."""
    records, documents = (
        pa.concat_tables([getattr(piece, name) for piece in pieces]).combine_chunks()
        for name in ("records", "documents")
    )
    accounts: dict[str, dict[str, Any]] = {}
    for row in (row for piece in pieces for row in piece.inputs.to_pylist()):
        types = Counter(dict(row.pop("skipped_types")))
        if row["warc_file"] not in accounts:
            accounts[row["warc_file"]] = {**row, "start": start, "skipped_types": types}
            continue
        own = accounts[row["warc_file"]]
        own["skipped_types"] += types
        for name in ("n_read", "n_damaged", "n_bytes_lost", "n_skipped"):
            own[name] += row[name]
    rows = [{**own, "skipped_types": sorted(own["skipped_types"].items())} for own in accounts.values()]
    return Part(records, documents, pa.Table.from_pylist(rows, INPUTS))


def _account(part: Part, every: bool) -> dict[str, dict[str, int]]:
    """By file what was read, what of that is an error, and bytes lost: of `every` file, or of those with errors."""
    records = part.records.filter(pc.equal(part.records.column("outcome"), Outcome.ERROR.value))
    errors = Counter(records.column("warc_file").to_pylist())
    return {
        row["warc_file"]: {
            "read": row["n_read"],
            "errors": errors[row["warc_file"]],
            "lost": row["n_bytes_lost"],
        }
        for row in part.inputs.to_pylist()
        if every or errors[row["warc_file"]]
    }


def _unreadable(part: Part) -> dict[str, str]:
    """Why, by the path, of each file that gave nothing but one damaged stretch: it is missing, closed to us, or something
    else than the recipe says."""
    files = Counter(part.records.column("warc_file").to_pylist())
    damaged = part.records.filter(pc.equal(part.records.column("record_type"), "damaged"))
    return {row["warc_file"]: row["error"] for row in damaged.to_pylist() if files[row["warc_file"]] == 1}


def extract(spark: Any, run: Run, partitions: int | None = None, watch: Watch | None = None) -> None:
    """Extracts every part that is not done yet."""
    done = run.done(STAGE)
    inputs = run.info["inputs"]
    sizes = {file["path"]: file["size"] for file in inputs}
    quarantine.forget(run.folder, STAGE, done)
    work = [
        Work(task, sum(inputs[i]["size"] or 0 for i in task.files) or sizes.get(task.path), run.files(task))
        for task in run.tasks
        if task.part not in done
    ]
    for_each(spark, work, ExtractPart(run.folder.path, run.recipe), STAGE, partitions, run.least_slices, watch)


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
