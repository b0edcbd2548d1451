"""A sample of a run's inputs, as archives of its own that the stages can read.

Stretches of bytes are copied as they are, record by record, from files spread over all inputs. Of what is not an archive
that is compressed record by record, whole files are taken.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from jobs.runs import find_inputs, open_run
from jobs.store import RunFolder
from pipeline.errors import InputError, UsageError
from pipeline.pages import _DUMP
from pipeline.planning import LEAST_UNITS, Stretch, some_files, stretches
from pipeline.recipe import Recipe
from pipeline.sources.archive import Record, Skipped, read_archive
from pipeline.sources.formats import wanted
from pipeline.sources.inputs import InputFile, open_input
from pipeline.tables import UNKNOWN_DUMP

WANTED_UNITS = 48
"""Stretches that a sample is made of, unless they would be smaller or larger than is sensible."""

STRETCH_BYTES = (64_000, 8_000_000)
"""Least and most bytes of a stretch: a few records at least, and not so many that sites fill it."""

_GZIP, _ZSTD, _ZSTD_DICTIONARY = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18"


class Survey(NamedTuple):
    """All that there is to read, and how a run would part it."""

    files: list[InputFile]
    problems: dict[str, str]
    n_tasks: int
    split_bytes: int

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size or 0 for file in self.files)


@dataclass(frozen=True)
class Sample:
    """What was taken: `paths` are read by the stages. A unit is a stretch or a file, `sizes` its bytes.

    `starts` has for every path the offsets at which its units begin and their numbers.
    """

    paths: tuple[str, ...]
    sizes: np.ndarray
    starts: dict[str, tuple[np.ndarray, np.ndarray]]
    problems: dict[str, str]
    stretched: bool

    def units(self, paths: Sequence[str], offsets: Sequence[int]) -> np.ndarray:
        """The number of the unit of each record, by path and offset; -1 where it is of none."""
        found = np.full(len(paths), -1)
        names = np.array([_name(path) for path in paths], object)
        places = np.array(offsets, np.int64)
        for path, (starts, numbers) in self.starts.items():
            mine = np.flatnonzero(names == _name(path))
            found[mine] = numbers[np.searchsorted(starts, places[mine], side="right").clip(1) - 1]
        return found


def _name(path: str) -> str:
    return path.removeprefix("file://")


def survey(recipe: Recipe, patterns: Sequence[str], scratch: Path, partitions: int | None = None) -> Survey:
    """Looks at the inputs without reading them, or writing to `scratch`.

    Raises InputError where there are none, or their sizes are not told.
    """
    files, problems = find_inputs(patterns, wanted(recipe.inputs))
    unknown = [file.path for file in files if file.size is None]
    if unknown:
        raise InputError(
            f"{unknown[0]}: its server does not tell its size, so nothing can be planned; download it first"
        )
    if not sum(file.size or 0 for file in files):
        raise InputError(f"{files[0].path}: is empty, and so are all inputs; there is nothing to plan")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    opened = open_run(str(scratch / "whole"), recipe, patterns, partitions, cores)
    return Survey(files, problems, len(opened.info["tasks"]), opened.info["split_bytes"])


def choose(found: Survey, recipe: Recipe, n_bytes: int | None, n_files: int | None, seed: int) -> list[Stretch]:
    """What will be read: stretches of `n_bytes` in all, or `n_files` whole files.

    Raises UsageError where that is too little to say anything, or the inputs can only be read as whole files.
    """
    sizes = [file.size or 0 for file in found.files]
    if n_files is not None:
        chosen = [Stretch(i, 0, sizes[i]) for i in some_files(len(sizes), n_files, seed)]
        if len(chosen) < min(LEAST_UNITS, len(sizes)):
            raise UsageError(
                f"{n_files} files say too little of {len(sizes)}; take at least {min(LEAST_UNITS, len(sizes))}"
            )
        return chosen
    if recipe.inputs.format != "archive":
        raise UsageError(
            f"recipe {recipe.name!r} reads {recipe.inputs.format}, of which only whole files can be taken; "
            f"give --files N (there are {len(sizes):,})"
        )
    wanted_bytes = min(n_bytes or 0, found.n_bytes)
    size = min(max(wanted_bytes // WANTED_UNITS, STRETCH_BYTES[0]), STRETCH_BYTES[1])
    chosen = stretches(sizes, wanted_bytes, size, seed)
    if len(chosen) < LEAST_UNITS and sum(s.end - s.start for s in chosen) < found.n_bytes:
        least = LEAST_UNITS * STRETCH_BYTES[0]
        raise UsageError(
            f"a sample of {wanted_bytes:,} bytes says nothing; take at least {least:,} ({least / found.n_bytes:.2%}), "
            "better some 20 MB"
        )
    return chosen


def take(found: Survey, chosen: Sequence[Stretch], whole_files: bool, folder: Path, part_bytes: int) -> Sample:
    """Copies stretches into archives of about `part_bytes` in `folder`; of whole files only notes the names.

    What cannot be read is in `problems`, by path; its unit holds nothing. A unit of a file of which no part can be taken has
    no size, as if it were like the others. Raises InputError where nothing can be read.
    """
    if whole_files:
        paths = tuple(found.files[s.file].path for s in chosen)
        starts = {path: (np.zeros(1, np.int64), np.array([i])) for i, path in enumerate(paths)}
        return Sample(paths, np.array([s.end - s.start for s in chosen], float), starts, {}, False)
    writers: dict[str, _Writer] = {}
    problems: dict[str, str] = {}
    sizes = np.array([s.end - s.start for s in chosen], float)
    copied = 0
    for number, stretch in enumerate(chosen):
        path = found.files[stretch.file].path
        try:
            body, kind = _bytes(path, stretch)
        except _UndividedError as error:
            problems.setdefault(path, str(error))
            sizes[number] = 0
            continue
        except (InputError, OSError) as error:
            problems.setdefault(path, str(error))
            continue
        known = _DUMP.search(path)
        dump = known.group() if known else UNKNOWN_DUMP
        writer = writers.setdefault(f"{dump}.{kind}", _Writer(folder / dump, kind, part_bytes))
        writer.write(number, body)
        copied += len(body)
    if not copied:
        why = next(iter(problems.values()), "the stretches that were drawn hold no records")
        raise InputError(f"nothing could be read of the sample: {why}")
    starts = {path: place for writer in writers.values() for path, place in writer.places().items()}
    return Sample(tuple(sorted(starts)), sizes, starts, problems, True)


def _bytes(path: str, stretch: Stretch) -> tuple[bytes, str]:
    """The records that start in a stretch, as they lie in the file, and how they are compressed."""
    with open_input(path) as stream:
        kind = _kind(path, stream)
        first = last = None
        for item in read_archive(stream, path, stretch.start, stretch.end, 0):
            if isinstance(item, Record):
                several = "offset_inflated" in item.flaws
            else:
                several = item.inflated or (isinstance(item, Skipped) and item.record_type in ("gzip", "wacz"))
            if several:
                raise _undivided(path)
            first = item.offset if first is None else first
            last = item.offset + item.length
        if first is None or last is None:
            return b"", kind
        stream.seek(first)
        return stream.read(last - first), kind


def _kind(path: str, stream: BinaryIO) -> str:
    stream.seek(0)
    head = stream.read(4)
    if head.startswith(_GZIP):
        return "gz"
    if head == _ZSTD:
        return "zst"
    if head == _ZSTD_DICTIONARY:
        raise _UndividedError(
            f"{path}: its records share a dictionary, so no part of it can be taken; give --files N instead"
        )
    raise _undivided(path)


class _UndividedError(InputError):
    """A file that can only be read as a whole."""


def _undivided(path: str) -> InputError:
    return _UndividedError(
        f"{path}: is not compressed record by record, so no part of it can be taken; give --files N instead"
    )


class _Writer:
    """Archives of a like size, one after the other."""

    def __init__(self, folder: Path, kind: str, part_bytes: int) -> None:
        self._folder, self._kind, self._part_bytes = folder, kind, part_bytes
        self._files: list[tuple[Path, list[int], list[int], int]] = []

    def write(self, number: int, body: bytes) -> None:
        if not body:
            return
        if not self._files or self._files[-1][3] + len(body) / 2 > self._part_bytes:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._files.append((self._folder / f"sample-{len(self._files):05d}.warc.{self._kind}", [], [], 0))
        path, starts, numbers, size = self._files[-1]
        with path.open("ab") as sink:
            sink.write(body)
        starts.append(size)
        numbers.append(number)
        self._files[-1] = (path, starts, numbers, size + len(body))

    def places(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {str(path): (np.array(starts), np.array(numbers)) for path, starts, numbers, _ in self._files}


def folder_sizes(folder: RunFolder) -> tuple[dict[str, int], int]:
    """Bytes below each name of a run folder, and how many files there are."""
    import fsspec

    system, root = fsspec.core.url_to_fs(folder.absolute())
    sizes: dict[str, int] = {}
    entries = system.find(root, detail=True)
    for path, about in entries.items():
        name = path[len(root) :].lstrip("/").split("/", 1)[0]
        sizes[name] = sizes.get(name, 0) + int(about.get("size") or 0)
    return sizes, len(entries)
