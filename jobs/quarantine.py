"""What is done when a part fails again: the record at fault is found and put aside, and all the others are done.

The first attempt at a part is made as ever, and costs nothing more. Spark makes another when a worker died or raised. Then
the part is done in a child process, and where that fails in halves, down to the one record that fails by itself, twice. So
nothing is blamed that only stood beside it, what was too large for a worker in one piece is done in several, and what is
put aside depends on the record and not on how files were split.
"""

import json
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from jobs.store import RunFolder
from pipeline.errors import CrawlmillError, StorageError
from pipeline.extraction.sandbox import Failure, Sandbox

Value = TypeVar("Value")

NOTES = "_quarantine"
"""Folder of a note for each part of which something was put aside, by stage."""

STAGES = ("extract", "annotate", "score")
"""Stages that put records aside."""

MOST_ALONE = 16
"""Records of a part that are looked for one by one. A part with more of them is at fault itself: from there on a stretch
that fails is put aside as a whole."""

LEAST_PARTS = 3
"""So many parts of a stage may always be put aside from: a run of few parts has no share to speak of."""

_FOREVER = 1e6
"""Seconds. A part takes what it takes: Spark sets no limit either."""

_LOST = b"crawlmill.quarantined"


class Lost(NamedTuple):
    """A range that failed by itself, and why."""

    start: int
    end: int
    why: str


def retried() -> bool:
    """Whether this is another attempt at a task of Spark's: an earlier one failed, or is slow and this one races it."""
    pyspark = sys.modules.get("pyspark")
    context = pyspark.TaskContext.get() if pyspark is not None else None
    return context is not None and context.attemptNumber() > 0


def isolate(work: Callable[[int, int], Value], start: int, end: int) -> Iterator[Value | Lost]:
    """What `work` gives for the range [start, end), in order: in one piece, or in pieces around what failed by itself.

    `work` runs in a forked child, its value is pickled. Raises the CrawlmillError that it raises, and StorageError for an
    error of the machine: neither is the fault of a record.
    """
    n_lost = 0
    left = [(start, end)]
    with Sandbox(partial(_told, work), timeout_s=_FOREVER, memory_mb=0) as sandbox:
        while left:
            start, end = left.pop()
            outcome = sandbox.run((start, end))
            if isinstance(outcome, Failure) and end - start > 1 and n_lost < MOST_ALONE:
                middle = (start + end) // 2
                left += [(middle, end), (start, middle)]
                continue
            if isinstance(outcome, Failure):
                sandbox.close()
                outcome = sandbox.run((start, end))
            if isinstance(outcome, Failure):
                n_lost += 1
                yield Lost(start, end, "ran out of memory" if outcome.kind == "memory" else outcome.message)
                continue
            error, value = outcome.value
            if error is not None:
                raise error
            yield value


def _told(work: Callable[[int, int], Any], span: tuple[int, int]) -> tuple[CrawlmillError | None, Any]:
    """The value, or the error that no record is to blame for."""
    with suppress(
        OSError
    ):  # where the machine is out of memory, this process is to go, and not the worker that waits for it
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        return None, work(*span)
    except CrawlmillError as error:
        return error, None
    except OSError as error:
        if error.errno is None:  # what a reader says of bytes, as gzip does
            raise
        return StorageError(f"a task cannot go on: {error}"), None


def put_aside(folder: RunFolder, stage: str, part: str, lost: list[dict[str, Any]], tolerated: float) -> None:
    """Leaves a note of what was put aside of a part: dicts of file, offset, length, doc_id and error.

    Raises CrawlmillError where this happened in more parts than the share `tolerated` of those that are done: then it is
    not the pages.
    """
    place = f"{NOTES}/{stage}"
    name = f"{place}/{part}.json"
    others = [note for note in folder.list(place, ".json") if note != name]
    most = LEAST_PARTS + tolerated * len(folder.list(f"_manifests/{stage}", ".json"))
    if len(others) >= most:
        first = (folder.read_json(others[0]) or {}).get("lost") or lost
        raise CrawlmillError(
            f"{stage}: {len(others) + 1} parts fail again and again, more than {most:.0f}; that is no matter of a few pages. "
            f"{in_place(first[0])}: {first[0]['error']}; {in_place(lost[0])}: {lost[0]['error']}. What is done stays done: "
            "cure the cause and run the same command with --retry-quarantined"
        )
    folder.write_json(name, {"part": part, "lost": lost})


def forget(folder: RunFolder, stage: str, done: Collection[str]) -> None:
    """Removes the notes of parts that are not among the `done`: a run was killed between note and manifest."""
    for name in folder.list(f"{NOTES}/{stage}", ".json"):
        if name.rsplit("/", 1)[-1].removesuffix(".json") not in done:
            folder.remove(name)


def in_place(lost: dict[str, Any]) -> str:
    """Where something lies that was put aside."""
    return f"{lost['file']}:{lost['offset']}"


def mark(table: pa.Table, lost: dict[str, str]) -> pa.Table:
    """The table with the documents that were put aside, by id with the error, noted in its schema."""
    return table.replace_schema_metadata({_LOST: json.dumps(lost, sort_keys=True).encode()} if lost else None)


def marked(table: pa.Table) -> dict[str, str]:
    """The documents that `mark` noted."""
    noted = (table.schema.metadata or {}).get(_LOST)
    return {} if noted is None else json.loads(noted)


def put_aside_of(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """By stage the notes of a run, in the order of parts: dicts of part and lost."""
    found = {}
    for stage in STAGES:
        notes = [folder.read_json(name) for name in folder.list(f"{NOTES}/{stage}", ".json")]
        if notes:
            found[stage] = [note for note in notes if note is not None]
    return found


def summary(folder: RunFolder) -> dict[str, Any]:
    """What run.json says of it: by stage how many parts and records were put aside, and where the first ten lie."""
    return {
        stage: {
            "parts": len(notes),
            "records": sum(len(note["lost"]) for note in notes),
            "places": [in_place(lost) for note in notes for lost in note["lost"]][:10],
        }
        for stage, notes in put_aside_of(folder).items()
    }


def in_words(facts: dict[str, Any]) -> str:
    """One line for that summary; empty where nothing was put aside."""
    if not facts:
        return ""
    records, parts = (sum(stage[key] for stage in facts.values()) for key in ("records", "parts"))
    places = [place for stage in facts.values() for place in stage["places"]]
    named = ", ".join(places[:3]) + (", …" if records > 3 else "")
    return (
        f"quarantined: {records:,} record{'s' if records != 1 else ''} in {parts:,} part{'s' if parts != 1 else ''} "
        f"({', '.join(facts)}) that ended every worker that touched them: {named}; --retry-quarantined tries them again"
    )
