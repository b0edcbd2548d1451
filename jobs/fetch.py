"""Files of a crawl to a folder, in the layout that they have there: `crawlmill fetch`. One process, a few connections.

OUT/crawl-data/CC-MAIN-…/…      the files, each under its name only when it is whole and checked
OUT/…/NAME.part, NAME.part.json    what there is of a file that is being fetched, and which version of it that is
OUT/fetched.jsonl               a line for each file: address, bytes, ETag, SHA-256, and what was checked
"""

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store import RunFolder
from pipeline.errors import CrawlmillError, InputError, StorageError, UsageError
from pipeline.sources.crawl import (
    COLLECTIONS,
    HTTPS,
    S3,
    Choice,
    Members,
    Sums,
    collections,
    list_path,
    pick,
    read_list,
)
from pipeline.sources.origin import PIECE, Facts, GaveUpError, Manners, MissingError, Origin, origin

MANIFEST = "fetched.jsonl"

CONNECTIONS = 2
"""Common Crawl serves everyone from the same few thousand requests a second; two connections fill most lines."""

MOST_ASKED = 200
"""Of so many files the size is asked for ahead; of more files that of so many, drawn by seed 0."""

ATTEMPTS_AT_CONTENT = 2
"""How often a file is fetched anew that came whole and is not what it should be."""

Watch = Callable[["State"], None]


@dataclass
class State:
    """How far it is: counts of files and bytes; `total` is what is to be fetched in bytes, as far as that is known."""

    files: int
    n_files: int
    bytes: int
    total: int | None


class Plan(NamedTuple):
    """What is asked for: `paths`, those of them that are not there yet, and the bytes of these; `exact` where every size
    was asked for."""

    paths: list[str]
    left: list[str]
    bytes: int | None
    exact: bool


def crawls(base: str = HTTPS, manners: Manners | None = None) -> list[dict[str, Any]]:
    """The crawls there are, newest first: id, name, from, to. Raises InputError."""
    source = origin(HTTPS if base in (HTTPS, S3) else base, manners or Manners())
    name = COLLECTIONS if base in (HTTPS, S3) else "collinfo.json"
    return collections(source.read(name), source.address(name))


def fetch(
    crawl: str,
    output: str | Path,
    *,
    kind: str = "warc",
    choice: Choice | None = None,
    base: str = HTTPS,
    connections: int = CONNECTIONS,
    manners: Manners | None = None,
    verify: bool = False,
    count: bool = False,
    planned: Callable[[Plan], None] | None = None,
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """Fetches files of a crawl; returns their lines of fetched.jsonl, in the order of the crawl's list.

    What is there is not fetched again: sizes are compared, and with `verify` SHA-256, too. With `count` nothing is
    fetched. `planned` is told what will be.

    Raises UsageError, InputError where files could not be fetched (the others were), StorageError for a full disk.
    """
    if "://" in str(output) and not str(output).startswith("file://"):
        raise UsageError(
            f"output {output} is no folder; fetch to a disk, or name s3://commoncrawl/ as the input of a run"
        )
    source = origin(base, manners or Manners(), connections)
    name = list_path(crawl, kind)
    try:
        body = source.read(name)
    except MissingError as error:
        raise InputError(f"{error}; `crawlmill fetch --list` names the crawls there are") from None
    paths = pick(read_list(body, source.address(name)), choice or Choice())
    folder = RunFolder(output)
    if count:
        if planned:
            planned(_plan(source, folder, paths, _Manifest(folder), verify))
        return []
    with folder.lock():
        manifest = _Manifest(folder)
        plan = _plan(source, folder, paths, manifest, verify)
        if planned:
            planned(plan)
        if plan.left:
            _check_space(folder, plan)
            if not folder.has(name):
                folder.write_bytes(name, body)
            _Fetching(source, folder, manifest, plan, watch).run(connections)
        manifest.tidy()
    return [manifest.rows[path] for path in paths]


def _plan(source: Origin, folder: RunFolder, paths: list[str], manifest: "_Manifest", verify: bool) -> Plan:
    left = [path for path in paths if not _is_there(folder, path, manifest.rows.get(path), verify)]
    asked = left if len(left) <= MOST_ASKED else pick(left, Choice(files=MOST_ASKED))
    sizes = []
    for path in asked:
        with suppress(MissingError):  # said of each file when its turn comes
            size = source.facts(path).size
            if size is None:
                return Plan(paths, left, None, False)
            sizes.append(size)
    total = sum(sizes) * len(left) // len(asked) if asked else 0
    return Plan(paths, left, total, len(asked) == len(left))


def _is_there(folder: RunFolder, path: str, row: dict[str, Any] | None, verify: bool) -> bool:
    place = Path(folder.path, path)
    if row is None or not place.is_file() or place.stat().st_size != row["bytes"]:
        return False
    return not verify or _check(place, Facts(row["bytes"], row["etag"], None)).sums.sha256 == row["sha256"]


def _check_space(folder: RunFolder, plan: Plan) -> None:
    if plan.bytes is None:
        return
    begun = sum(part.stat().st_size for path in plan.left if (part := _part(folder, path)).is_file())
    free = shutil.disk_usage(folder.path).free
    if plan.bytes - begun > free:
        about = "" if plan.exact else "about "
        raise StorageError(
            f"{len(plan.left)} files of {about}{plan.bytes / 1e6:,.1f} MB do not fit on the disk of {folder.path}, where "
            f"{free / 1e6:,.1f} MB are free; fetch fewer files, or to another disk"
        )


def _part(folder: RunFolder, path: str) -> Path:
    return Path(folder.path, f"{path}.part")


class _Manifest:
    """fetched.jsonl: lines are added as files come, and sorted at the end. A line that a killed process cut off does not
    count: that file is looked at again."""

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._lock = threading.Lock()
        self.rows: dict[str, dict[str, Any]] = {}
        body = folder.read_bytes(MANIFEST) or b""
        self._open_line = bool(body) and not body.endswith(b"\n")
        for line in body.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self.rows[row["path"]] = row

    def add(self, row: dict[str, Any]) -> None:
        """Notes a file, for good."""
        with self._lock, Path(self._folder.path, MANIFEST).open("a", encoding="utf-8") as sink:
            sink.write("\n" * self._open_line + json.dumps(row) + "\n")
            self._open_line = False
            sink.flush()
            os.fsync(sink.fileno())
            self.rows[row["path"]] = row

    def tidy(self) -> None:
        """Sorts the lines, each file once."""
        body = "".join(json.dumps(self.rows[path]) + "\n" for path in sorted(self.rows)).encode()
        if body and body != self._folder.read_bytes(MANIFEST):
            self._folder.write_bytes(MANIFEST, body)


class _Checked(NamedTuple):
    sums: Sums
    problem: str | None
    checks: list[str]


def _check(place: Path, facts: Facts, told: Callable[[], None] | None = None) -> _Checked:
    """Reads a file once and compares it with all that is known of it."""
    size = place.stat().st_size
    sums, members = Sums(facts.etag, size), Members()
    gzipped = place.name.removesuffix(".part").endswith(".gz")
    with place.open("rb") as file:
        while data := file.read(PIECE):
            sums.update(data)
            if gzipped:
                members.update(data)
            if told:
                told()
    checks = ["length"] if facts.size == size else []
    if facts.size is not None and facts.size != size:
        return _Checked(sums, f"{size} bytes where {facts.size} were announced", checks)
    if gzipped:
        problem = members.finish()
        if problem:
            return _Checked(sums, problem, checks)
        checks.append("gzip")
    elif place.name.removesuffix(".part").endswith(".parquet"):
        try:
            pq.read_metadata(place)
        except (OSError, pa.ArrowInvalid) as error:
            return _Checked(sums, f"is no whole Parquet file: {' '.join(str(error).split())}", checks)
        checks.append("parquet")
    if sums.matches is not None:
        checks.append("etag" if sums.matches else "etag differs")
    return _Checked(sums, None, checks)


class _StoppedError(InputError):
    """Another connection has found out that it is better to stop."""


class _Fetching:
    """The files that are left, on a few connections."""

    def __init__(self, source: Origin, folder: RunFolder, manifest: _Manifest, plan: Plan, watch: Watch | None):
        self._source, self._folder, self._manifest, self._plan, self._watch = source, folder, manifest, plan, watch
        self._state = State(len(plan.paths) - len(plan.left), len(plan.paths), 0, plan.bytes)
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self, connections: int) -> None:
        """Fetches all of them. Raises what went wrong, in the end."""
        problems: list[Exception] = []
        with ThreadPoolExecutor(connections, thread_name_prefix="fetch") as pool:
            for error in pool.map(self._one, self._plan.left):
                if error is not None:
                    problems.append(error)
        if not problems:
            return
        worst = next((e for e in problems if not isinstance(e, CrawlmillError)), None)
        worst = worst or next((e for e in problems if isinstance(e, StorageError)), None)
        if worst is not None:
            raise worst
        why = Counter(str(error) for error in problems if not isinstance(error, _StoppedError))
        left = sum(path not in self._manifest.rows for path in self._plan.left)
        raise InputError(f"{left} of {len(self._plan.paths)} files were not fetched: {'; '.join(list(why)[:3])}")

    def _one(self, path: str) -> Exception | None:
        if self._stop.is_set():
            return None
        try:
            self._manifest.add(self._fetched(path))
            self._moved(files=1)
        except Exception as error:
            if not isinstance(error, InputError) or isinstance(error, GaveUpError):
                self._stop.set()  # a full disk, or a server that has enough of us
            if isinstance(error, OSError):
                return StorageError(f"cannot write {self._folder.path}/{path}: {error.strerror or error}; what was "
                                    "fetched is kept, and the same command goes on")  # fmt: skip
            return error
        return None

    def _moved(self, n: int = 0, files: int = 0) -> None:
        with self._lock:
            self._state.bytes += n
            self._state.files += files
            if self._watch:
                self._watch(self._state)

    def _fetched(self, path: str) -> dict[str, Any]:
        """The line of a file, when it is there."""
        place, part = Path(self._folder.path, path), _part(self._folder, path)
        note = part.with_name(f"{part.name}.json")
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_file():
            row = self._adopted(path, place)
            if row is not None:
                return row
        seen: set[str] = set()
        problem = ""
        for _ in range(ATTEMPTS_AT_CONTENT):
            facts = self._transfer(path, part, note)
            checked = _check(part, facts, self._give_up)
            problem = checked.problem or ""
            if "etag differs" in checked.checks and checked.sums.sha256 not in seen:
                # An ETag need not be an MD5: the same bytes twice are what there is.
                problem = problem or f"its MD5 is not its ETag {facts.etag}"
            if not problem:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(place)
                note.unlink(missing_ok=True)
                return self._row(path, facts, checked)
            seen.add(checked.sums.sha256)
            self._moved(-checked.sums.size)
            part.unlink()
        raise InputError(f"{self._source.address(path)}: {problem}, also when fetched anew")

    def _adopted(self, path: str, place: Path) -> dict[str, Any] | None:
        """The line of a file that is there already, as when a process was killed before it noted it. Others go."""
        facts = self._source.facts(path)
        if facts.size == place.stat().st_size:
            checked = _check(place, facts, self._give_up)
            if checked.problem is None and "etag differs" not in checked.checks:
                self._moved(checked.sums.size)
                return self._row(path, facts, checked)
        place.unlink()
        return None

    def _row(self, path: str, facts: Facts, checked: _Checked) -> dict[str, Any]:
        return {
            "path": path,
            "url": self._source.address(path),
            "bytes": checked.sums.size,
            "etag": facts.etag,
            "last_modified": facts.modified,
            "sha256": checked.sums.sha256,
            "checked": checked.checks,
        }

    def _give_up(self) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _transfer(self, path: str, part: Path, note: Path) -> Facts:
        """Brings all of a file to `part`, from where an earlier attempt stopped if it is still the same file."""
        held = _noted(note)
        if held is None:
            part.unlink(missing_ok=True)
        counted = have = part.stat().st_size if part.is_file() else 0
        self._moved(have)
        stuck = 0
        while True:
            if held is not None and held.size is not None and have == held.size:
                return held
            if held is not None and held.size is not None and have > held.size:
                held = None
            self._give_up()
            body = self._source.body(path, have if held else 0, held.mark if held else None)
            if body.start == 0:
                part.write_bytes(b"")  # first: what is there must not pass for a part of what comes
                held = body.facts
                note.write_text(json.dumps(held._asdict()))
            have, before, failed = body.start, body.start, None
            self._moved(have - counted)
            counted = have
            with part.open("r+b") as sink:
                sink.truncate(body.start)
                sink.seek(body.start)
                try:
                    for piece in body.pieces:
                        sink.write(piece)
                        have += len(piece)
                        counted = have
                        self._moved(len(piece))
                        self._give_up()
                except GaveUpError as error:
                    failed = error
            if failed is None and held is not None and held.size in (None, have):
                return held._replace(size=have)
            stuck = 0 if have - before >= PIECE else stuck + 1
            if stuck >= self._attempts:
                raise failed or InputError(f"{self._source.address(path)}: ends early, again and again")

    @property
    def _attempts(self) -> int:
        return Manners().attempts


def _noted(note: Path) -> Facts | None:
    """Of which version a `.part` is."""
    try:
        facts = Facts(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return facts if facts.mark is not None else None


def total_bytes(rows: Sequence[dict[str, Any]]) -> int:
    """Bytes of the files of these lines."""
    return sum(row["bytes"] for row in rows)
