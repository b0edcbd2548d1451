"""Where inputs come from: patterns to files, files to splits, files to streams.

Local paths, globs and folders; `https://`; `s3://` and whatever else fsspec knows, read in ranges; lists of paths.

A file that turns out unreadable, at the start or in the middle, costs only itself: `open_input` and the reads of its
stream raise `InputError` when `pipeline.sources.stores` gives up, and whoever reads the file records that and goes on to
the next.
"""

import fnmatch
import gzip
import io
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pipeline.errors import InputError
from pipeline.sources import stores
from pipeline.sources.stores import is_remote

ARCHIVES = ("*.warc", "*.warc.*", "*.arc", "*.arc.*", "*.wet", "*.wet.*", "*.wacz")
"""Names (in any case) that are taken from a folder."""
NOT_ARCHIVES = (
    "*.md5", "*.sha1", "*.sha256", "*.cdx", "*.cdx.gz", "*.cdxj", "*.idx", "*.json", "*.part", "*.tmp", "*.log",
    "*.wat", "*.wat.gz",
)  # fmt: skip
"""Names beside archives in folders that are not read unless they are named."""
NOT_SOURCES = (".git", ".hg", ".svn", "CVS", "__pycache__", "__MACOSX")
"""Folders inside of folders that hold copies of what is beside them, and no documents of their own."""

COMMON_CRAWL = {"https": "https://data.commoncrawl.org/", "s3": "s3://commoncrawl/"}
"""What the lines of Common Crawl's path lists (`crawl-data/…`) are relative to."""

REMOTE_BLOCK = 4 << 20  # bytes asked for at a time, about 200 records of Common Crawl, where a file is read on and on
FIRST_BLOCK = 256 << 10  # the same where reading jumps to: four times as much each time until REMOTE_BLOCK
LOOK_UPS = 8  # files of a list that are asked about at a time
SPOOL = 64 << 20  # bytes of a file that cannot be read in ranges that are held in memory before they go to disk

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class InputFile:
    """A file to read: its path as it was named, its size in bytes and a mark that changes when its content does (ETag,
    or time of modification), where these are known."""

    path: str
    size: int | None
    version: str | None
    name: str = ""
    """Its path within the folder, or behind the fixed part of the glob, that was named; of a file its last part."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files are taken of a folder: `names` are patterns for their names in lower case. `whole`: of a folder of which
    some files cannot be read the others are wanted; these are then found out when they are opened."""

    called: str
    names: tuple[str, ...]
    unless: tuple[str, ...] = ()
    whole: bool = True

    def takes(self, name: str) -> bool:
        """Whether a file of that name is taken."""
        name = name.lower()
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names) and not any(
            fnmatch.fnmatchcase(name, pattern) for pattern in self.unless
        )

    def nothing(self, path: str) -> InputError:
        """The error for a folder of which nothing is taken."""
        names = ", ".join(self.names[:12]) + (", …" if len(self.names) > 12 else "")
        return InputError(f"{path}: the folder holds no {self.called} (looked for {names})")


ARCHIVE = Wanted("archives", ARCHIVES, NOT_ARCHIVES, whole=False)


@dataclass(frozen=True, slots=True, order=True)
class Split:
    """The part [start, end) of a file that one task reads; `end` is None for a file of unknown size."""

    path: str
    start: int
    end: int | None


def expand(patterns: Sequence[str], wanted: Wanted = ARCHIVE) -> list[InputFile]:
    """The files that patterns name, sorted by path, each once.

    A pattern is a path, a glob (`**` included), a folder (its archives, or what else is wanted, at any depth), a URL
    (globs and folders where the store has such), or a list of paths, one a line: `@list.txt`, or a `…paths.gz` as Common
    Crawl publishes them.
    Raises InputError, naming every pattern that is at fault.
    """
    files: dict[str, InputFile] = {}
    problems: list[str] = []
    for pattern in patterns:
        try:
            for identity, file in _expand(pattern, wanted):
                files[identity] = min(file, files.get(identity, file))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    if not files:
        raise InputError("no inputs named: give a path, a glob such as 'crawl/*.warc.gz', a folder or a URL")
    return sorted(files.values())


def open_input(path: str, ahead: int = REMOTE_BLOCK) -> "InputStream":
    """A seekable stream of the file's bytes; from afar `ahead` bytes more are fetched than were asked for. Raises
    InputError here and on reading."""
    return InputStream(path, ahead)


def splits(files: Iterable[InputFile], split_bytes: int) -> list[Split]:
    """Each file in even parts of at most `split_bytes`; a file of unknown size is one part."""
    parts: list[Split] = []
    for file in files:
        if file.size is None:
            parts.append(Split(file.path, 0, None))
            continue
        n = max(1, -(-file.size // split_bytes))
        parts.extend(Split(file.path, i * file.size // n, (i + 1) * file.size // n) for i in range(n))
    return parts


def _expand(pattern: str, wanted: Wanted) -> list[tuple[str, InputFile]]:
    if pattern.startswith("@"):
        return _expand_all(_lines(pattern[1:]), wanted)
    if re.search(r"[./]paths(\.gz)?\Z", pattern):
        return _expand_all(_lines(pattern), wanted)
    if is_remote(pattern):
        return _expand_remote(pattern, wanted)
    return _expand_local(pattern.removeprefix("file://"), wanted)


def _expand_all(lines: list[str], wanted: Wanted) -> list[tuple[str, InputFile]]:
    """The files of all lines. A crawl is 90,000 of them, each of which has to be asked about."""
    with ThreadPoolExecutor(LOOK_UPS) as pool:
        return [file for found in pool.map(lambda line: _expand(line, wanted), lines) for file in found]


def _lines(path: str) -> list[str]:
    with open_input(path) as stream:
        data = stream.read()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise InputError(f"{path}: the list of paths is damaged ({error}): fetch it again") from None
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path}: the list of paths is empty")
    return [_resolve(line, path) for line in lines]


def _resolve(line: str, base: str) -> str:
    if is_remote(line) or Path(line).is_absolute():
        return line
    if line.startswith("crawl-data/"):
        return COMMON_CRAWL["s3" if base.startswith("s3://") else "https"] + line
    return posixpath.join(posixpath.dirname(base), line)


def _fixed_part(pattern: str) -> str:
    """The folder in front of the first wildcard."""
    steps = pattern.split("/")
    return "/".join(steps[: next(i for i, step in enumerate(steps) if has_magic(step))])


def _expand_local(pattern: str, wanted: Wanted) -> list[tuple[str, InputFile]]:
    found = [pattern] if os.path.lexists(pattern) else sorted(glob(pattern, recursive=True))  # noqa: PTH207 (an absolute pattern)
    if not found:
        hint = "no file matches this pattern" if has_magic(pattern) else "no such file or folder"
        raise InputError(f"{pattern}: {hint} (looked from {Path.cwd()})")
    alone = found == [pattern]
    base = pattern if alone else _fixed_part(pattern)
    files = []
    for path in found:
        if not Path(path).is_dir():
            name = posixpath.basename(path) if alone else os.path.relpath(path, base or ".")
            files.append(_local_file(path, name))
            continue
        inside = list(_walk(path, wanted))
        if not inside and len(found) == 1:
            raise wanted.nothing(path)
        files += [_local_file(file, os.path.relpath(file, base or "."), wanted.whole) for file in inside]
    return files


def _walk(folder: str, wanted: Wanted) -> Iterator[str]:
    """The wanted files of a folder at any depth, each folder once, however many links lead to it."""
    seen: set[str] = set()
    closed: list[str] = []

    def note(error: OSError) -> None:
        if not wanted.whole:
            _unlistable(error)
        closed.append(str(error.filename))

    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if wanted.whole:
            folders[:] = [name for name in folders if name not in NOT_SOURCES]
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)  # noqa: PTH118 (keeps the folder as it was named, `./` and all)
            # Pipes and devices are no files, and opening one could wait for ever; a broken link is one that cannot be read.
            if wanted.takes(name) and (Path(path).is_file() or Path(path).is_symlink() or not wanted.whole):
                yield path
    yield from closed


def _unlistable(error: OSError) -> None:
    raise InputError(f"{error.filename}: the folder cannot be listed ({error.strerror}): check its permissions")


def _local_file(path: str, name: str, leniently: bool = False) -> tuple[str, InputFile]:
    name = name.replace(os.sep, "/")
    try:
        status = Path(path).stat()
    except OSError as error:
        if leniently:
            return path, InputFile(path, 0, None, name)
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not leniently and not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read (permission denied): make it readable or leave it out")
    return os.path.realpath(path), InputFile(path, status.st_size, f"mtime:{status.st_mtime_ns}", name)


def _expand_remote(pattern: str, wanted: Wanted) -> list[tuple[str, InputFile]]:
    system, root = _filesystem(pattern)
    web = bool(re.match("https?://", root))
    if web and not re.match("https?://", pattern) and (has_magic(root) or root.endswith("/")):
        raise InputError(
            f"{pattern}: without credentials it cannot be listed: set AWS_PROFILE, or name files or a paths.gz"
        )
    base = posixpath.dirname(root)
    about: dict[str, dict[str, Any]] = {}
    if not web and has_magic(root):
        base = _fixed_part(root)
        about = _patiently(pattern, lambda: system.glob(root, detail=True))
        if not about:
            raise InputError(f"{pattern}: no object matches this pattern")
    else:
        about = {root: _patiently(pattern, lambda: system.info(root))}
        if about[root].get("type") == "directory":
            base = root
            inside = _patiently(pattern, lambda: system.find(root, detail=True))
            about = {path: facts for path, facts in inside.items() if wanted.takes(posixpath.basename(path))}
            if not about:
                raise wanted.nothing(pattern)
    files = []
    for path in sorted(about):
        facts = about[path]
        if facts.get("type") == "directory":
            continue
        name = pattern if web or path == root else system.unstrip_protocol(path)
        marks = (("etag", "ETag"), ("etag", "etag"), ("mtime", "LastModified"), ("mtime", "last_modified"))
        mark = next((f"{kind}:{facts[key]}" for kind, key in marks if facts.get(key)), None)
        size = facts.get("size")
        within = posixpath.basename(path.partition("?")[0]) if web else posixpath.relpath(path, base or ".")
        files.append((name, InputFile(name, int(size) if size is not None else None, mark, within)))
    return files


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        return stores.filesystem(path)
    except stores.StoreError as fault:
        raise InputError(f"{path}: this kind of address cannot be read here: {fault}") from None


def _patiently(path: str, act: Callable[[], T]) -> T:
    """Does `act`, again after a while where it fails for a reason that may pass."""
    try:
        return stores.patiently(path, act)
    except stores.StoreError as fault:
        raise InputError(f"{path}: {fault}") from fault


class PositionedFile(io.RawIOBase, BinaryIO):  # type: ignore[misc]
    """A file of known size that is read by position; how bytes are got is for those that inherit to say."""

    _at: int
    _size: int

    def _take(self, n: int) -> bytes:
        """The `n` bytes from the position on, `n` being at least one and within the file. Raises InputError."""
        raise NotImplementedError

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a position; nothing is read yet."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, all that are left for -1; b'' at the end. Raises InputError."""
        left = max(0, self._size - self._at)
        n = left if size is None or size < 0 else min(size, left)
        data = self._take(n) if n else b""
        self._at += len(data)
        return data


class InputStream(PositionedFile):
    """A file read by position, wherever it is: local, or remote in ranges. Failed reads are repeated for a while, then
    raise InputError."""

    def __init__(self, path: str, ahead: int = REMOTE_BLOCK) -> None:
        super().__init__()
        self.path = path
        self._most, self._ahead = ahead, 0
        self._held, self._held_at = b"", 0
        self._at = 0
        self._file = _patiently(path, self._open)
        self._size = _patiently(path, lambda: self._file.seek(0, 2))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def _open(self) -> BinaryIO:
        if not is_remote(self.path):
            return open(self.path.removeprefix("file://"), "rb", buffering=0)
        system, root = _filesystem(self.path)
        file = system.open(root, "rb", cache_type="none")
        ranged = not root.startswith("http") or system.info(root).get("partial")
        if ranged and getattr(file, "size", None) is not None and file.seekable():
            return file
        # A server that does not serve ranges: fetch the file once.
        spool = tempfile.SpooledTemporaryFile(max_size=SPOOL)  # noqa: SIM115 (closed with the stream)
        with system.open(root, "rb", block_size=0) as whole:
            while data := whole.read(1 << 20):
                spool.write(data)
        return spool  # type: ignore[return-value]

    def _take(self, n: int) -> bytes:
        return _patiently(f"{self.path} at byte {self._at}", lambda: self._read(n))

    def _read(self, n: int) -> bytes:
        if not is_remote(self.path):
            return self._fetch(self._at, n)
        held = self._held[self._at - self._held_at :] if self._at >= self._held_at else b""
        if len(held) >= n:
            return held[:n]
        reads_on = bool(held) or self._at == self._held_at + len(self._held) > 0
        self._ahead = min(self._most, 4 * self._ahead if reads_on else FIRST_BLOCK)
        begin = self._at + len(held)
        more = self._fetch(begin, min(self._at + n + self._ahead, self._size) - begin)
        self._held, self._held_at = more, begin
        return held + more[: n - len(held)]

    def _fetch(self, at: int, n: int) -> bytes:
        try:
            self._file.seek(at)
            data = self._file.read(n)
            while len(data) < n:
                more = self._file.read(n - len(data))
                if not more and is_remote(self.path):
                    raise ConnectionError(f"the answer ended {n - len(data):,} bytes early")
                if not more:
                    raise InputError(
                        f"{self.path}: ends at byte {at + len(data)}, though it had {self._size} when it was "
                        "opened: it changed while being read"
                    )
                data += more
        except InputError:
            raise
        except Exception:
            if is_remote(self.path):
                self._file = self._open()
            raise
        return data

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            self._file.close()
        super().close()
