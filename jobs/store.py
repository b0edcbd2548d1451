"""The run folder: tables in parts, manifests written last, on a disk or an object store.

OUT/run.json                        recipe, inputs, code version, counts, timings
OUT/<table>/part-<name>.parquet     one file a part; co-partitioned over records, documents, signals, edits
OUT/_manifests/<stage>/<name>.json  written last: a part without one is not there
OUT/ledger|curated/shard-00000.parquet
"""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.measures import count
from pipeline.errors import StorageError, UsageError

ROW_GROUP = 8192
"""Rows a row group. Fixed, since the bytes of a file depend on it."""


class Sink(io.RawIOBase):
    """Bytes on their way to a file."""

    def __init__(self, file: BinaryIO):
        super().__init__()
        self._file = file
        self._bytes = 0
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def write(self, body: Any) -> int:
        """Writes all of a buffer."""
        view = memoryview(body)
        if not view.nbytes:  # which cannot be cast
            return 0
        view = view.cast("B")
        self._file.write(view)
        self._hash.update(view)
        self._bytes += len(view)
        return len(view)

    @property
    def facts(self) -> dict[str, Any]:
        """What was written so far: bytes and sha256."""
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}


class RunFolder:
    """A run's output folder. Every write appears under its name only when it is whole."""

    def __init__(self, path: str | Path):
        self.path = str(path).rstrip("/")
        if not self.path:
            raise UsageError("no output folder named; give a path or an s3:// address")
        self.local = "://" not in self.path or self.path.startswith("file://")
        if self.local:
            self.path = self.path.removeprefix("file://")

    def __repr__(self) -> str:
        return f"RunFolder({self.path!r})"

    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.path)
        except (ValueError, ImportError) as error:
            raise UsageError(f"cannot use {self.path}: {_cause(error)}") from error

    def absolute(self) -> str:
        """The folder's name wherever one stands."""
        return str(Path(self.path).resolve()) if self.local else self.path

    def write_table(
        self, name: str, table: pa.Table, row_group: int = ROW_GROUP, plain: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Writes `name` (`ledger/shard-00000.parquet`); returns its rows, bytes and sha256. Raises StorageError.

        `plain` are columns of random numbers, on which compression is lost.
        """
        sink = pa.BufferOutputStream()
        compression = (
            {c: "none" if c.split(".")[0] in plain else "zstd" for c in _leaves(table.schema)} if plain else "zstd"
        )
        pq.write_table(table, sink, compression=compression, row_group_size=row_group)
        body = sink.getvalue()
        self._write(name, lambda file: file.write(body))
        count("rows_written", table.num_rows)
        count("bytes_written", body.size)
        return {"rows": table.num_rows, "bytes": body.size, "sha256": hashlib.sha256(body).hexdigest()}

    def write_json(self, name: str, value: Any) -> None:
        """Writes a small JSON document. Raises StorageError."""
        body = json.dumps(value, indent=1, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
        self._write(name, lambda sink: sink.write(body))

    def write_bytes(self, name: str, body: bytes) -> None:
        """Writes a small file. Raises StorageError."""
        self._write(name, lambda sink: sink.write(body))

    @contextmanager
    def create(self, name: str) -> Iterator["Sink"]:
        """A file to write piece by piece, counted and hashed on the way. It appears when the block ends without an error.

        Raises StorageError.
        """
        with self._opened(name) as file:
            sink = Sink(file)
            yield sink
        count("bytes_written", sink.tell())

    def _write(self, name: str, write: Any) -> None:
        with self._opened(name) as file:
            write(file)

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        try:
            if not self.local:
                fs, root = self._filesystem()
                with _upload(fs.open(f"{root}/{name}", "wb")) as sink:
                    yield sink
                return
            path = Path(self.path, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Speculative or retried attempts of one task write side by side, so each has a name of its own.
            draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
            try:
                with draft.open("wb") as sink:
                    yield sink
                    sink.flush()
                    os.fsync(sink.fileno())
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}/{name}: {_cause(error)}") from error

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        folder, _, _ = name.rpartition("/")
        return name in self.list(folder)

    def local_copy(self, name: str, version: str = "") -> Path:
        """A file of this folder on this machine, which must not change once it is written, or have another `version`
        then: itself, or a copy in the temporary folder that all processes of this user share. Raises StorageError.
        """
        if self.local:
            return Path(self.path, name)
        fs, root = self._filesystem()
        key = hashlib.sha256(f"{self.path}/{name}\x1f{version}".encode()).hexdigest()[:32]
        kept = Path(tempfile.gettempdir(), f"crawlmill-{os.getuid()}", key)
        try:
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            if kept.parent.stat().st_uid != os.getuid():
                raise StorageError(f"{kept.parent} belongs to another user; set TMPDIR to a folder of your own")
            if not kept.exists():
                draft = kept.with_name(f".{key}.{uuid.uuid4().hex}.tmp")
                try:
                    fs.get_file(f"{root}/{name}", str(draft))
                    draft.replace(kept)
                finally:
                    draft.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot copy {self.path}/{name}: {_cause(error)}") from error
        return kept

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Reads one file of a table. Raises StorageError where it is missing or damaged."""
        return self._read(name, lambda file: _counted(file, file.read(columns)))

    def read_rows(self, name: str, column: str, values: np.ndarray, columns: list[str]) -> pa.Table:
        """The rows of one file, which is sorted by `column`, that hold one of `values` (sorted) there.

        Only row groups that can hold one are read. Raises StorageError.
        """

        def read(file: pq.ParquetFile) -> pa.Table:
            at = file.schema_arrow.get_field_index(column)
            wanted = []
            for number in range(file.num_row_groups):
                bounds = file.metadata.row_group(number).column(at).statistics
                if bounds is None or not bounds.has_min_max:  # an empty file
                    continue
                first, last = np.searchsorted(values, np.array([bounds.min, bounds.max], values.dtype))
                if first < len(values) and (last > first or values[first] == values.dtype.type(bounds.max)):
                    wanted.append(number)
            rows = _counted(file, file.read_row_groups(wanted, columns), wanted)
            return rows.filter(pa.array(np.isin(rows.column(column).to_numpy(), values)))

        return self._read(name, read)

    def _read(self, name: str, read: Callable[[pq.ParquetFile], pa.Table]) -> pa.Table:
        try:
            if self.local:
                return read(pq.ParquetFile(Path(self.path, name)))
            fs, root = self._filesystem()
            with fs.open(f"{root}/{name}", "rb") as source:
                return read(pq.ParquetFile(source))
        except (OSError, pa.ArrowInvalid) as error:
            raise StorageError(f"cannot read {self.path}/{name}: {_cause(error)}") from error

    def scan(self, table: str, condition: Any, columns: list[str] | None = None) -> pa.Table:
        """The rows of all files of a table that meet a pyarrow.dataset condition."""
        import pyarrow.dataset as ds

        files = self.list(table, ".parquet")
        if not files:
            raise UsageError(f"{self.path} has no {table} yet; run `crawlmill run` on it to the end")
        fs, root = (None, self.path) if self.local else self._filesystem()
        dataset = ds.dataset([f"{root}/{name}" for name in files], format="parquet", filesystem=fs)
        return dataset.to_table(columns=columns, filter=condition)

    def read_bytes(self, name: str) -> bytes | None:
        """A small file, or None where there is none. Raises StorageError."""
        try:
            if self.local:
                return Path(self.path, name).read_bytes()
            fs, root = self._filesystem()
            return fs.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.path}/{name}: {_cause(error)}") from error

    def read_json(self, name: str) -> Any | None:
        """The document, or None where there is none. Raises StorageError where it is damaged."""
        body = self.read_bytes(name)
        try:
            return None if body is None else json.loads(body)
        except ValueError as error:
            raise StorageError(f"cannot read {self.path}/{name}: {_cause(error)}") from error

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Names (relative to the run folder) of the files in `folder`, sorted; [] where it does not exist. `folder` ""
        is the run folder itself."""
        inside = f"{folder}/" if folder else ""
        if self.local:
            directory = Path(self.path, folder)
            if not directory.is_dir():
                return []
            return sorted(inside + p.name for p in directory.iterdir() if _visible(p.name, suffix))
        fs, root = self._filesystem()
        try:
            names = [str(p).rsplit("/", 1)[-1] for p in fs.ls(f"{root}/{folder}", detail=False)]
        except FileNotFoundError:
            return []
        return sorted(inside + n for n in names if _visible(n, suffix))

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        if self.local:
            Path(self.path, name).unlink(missing_ok=True)
            return
        fs, root = self._filesystem()
        if fs.exists(f"{root}/{name}"):
            fs.rm_file(f"{root}/{name}")

    def remove_tree(self, name: str) -> None:
        """Removes a folder and all in it, if it is there."""
        if self.local:
            shutil.rmtree(Path(self.path, name), ignore_errors=True)
            return
        fs, root = self._filesystem()
        if fs.exists(f"{root}/{name}"):
            fs.rm(f"{root}/{name}", recursive=True)

    def sweep(self) -> None:
        """Removes drafts that a killed run left behind. Only for the holder of the lock."""
        if self.local and Path(self.path).is_dir():
            for draft in Path(self.path).glob("**/.*.tmp"):
                draft.unlink(missing_ok=True)

    def is_empty(self) -> bool:
        """True where the folder does not exist or holds nothing."""
        if self.local:
            directory = Path(self.path)
            if directory.exists() and not directory.is_dir():
                raise UsageError(f"output {self.path} is a file; give a folder")
            return not directory.exists() or not any(_counts(p.name) for p in directory.iterdir())
        fs, root = self._filesystem()
        try:
            return not fs.ls(root, detail=False)
        except FileNotFoundError:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one run. Raises UsageError while another live process of this host holds it."""
        if not self.local:
            yield
            return
        path = Path(self.path, ".lock")
        mine = {"host": socket.gethostname(), "pid": os.getpid()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                    break
                except FileExistsError:
                    holder = _holder(path)
                    if holder and not _is_gone(holder):
                        raise UsageError(
                            f"output {self.path} is in use by another run (process {holder.get('pid')} on "
                            f"{holder.get('host')}); wait for it, or remove {path} if that run is no more"
                        ) from None
                    path.unlink(missing_ok=True)
            with os.fdopen(descriptor, "w") as sink:
                json.dump(mine, sink)
        except OSError as error:
            raise StorageError(f"cannot write to output {self.path}: {_cause(error)}") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _upload(file: Any) -> Iterator[BinaryIO]:
    """An object of a store, which appears when its upload completes: not at all where writing it fails."""
    try:
        yield file
    except BaseException:
        if hasattr(file, "discard"):
            file.discard()
        with suppress(AttributeError):  # closing completes the upload; files in memory cannot be told not to
            file.closed = True
        raise
    file.close()


def _counted(file: pq.ParquetFile, table: pa.Table, groups: Sequence[int] | None = None) -> pa.Table:
    """A table that was read of a file, or of some of its row groups: its rows and bytes are those of the task."""
    groups = range(file.num_row_groups) if groups is None else groups
    names, told = set(table.column_names), file.metadata
    columns = [c for c in range(told.num_columns) if told.schema.column(c).path.split(".")[0] in names]
    count("rows_read", table.num_rows)
    count("bytes_read", sum(told.row_group(g).column(c).total_compressed_size for g in groups for c in columns))
    return table


def _leaves(schema: pa.Schema) -> list[str]:
    """The names under which Parquet knows the columns that hold values: a list's values have one of their own."""
    return [f"{c.name}.list.element" if pa.types.is_large_list(c.type) else c.name for c in schema]


def _visible(name: str, suffix: str) -> bool:
    return not name.startswith(".") and name.endswith(suffix)


def _counts(name: str) -> bool:
    """Whether a file is more than the lock or a draft, which is all that a run killed at its beginning leaves."""
    return name != ".lock" and not (name.startswith(".") and name.endswith(".tmp"))


def _holder(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # a run was killed between making the lock and signing it


def _is_gone(holder: dict[str, Any]) -> bool:
    """True only where the holder ran on this host and its process has ended."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def _cause(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOSPC:
        return "no space left on the device; free some and run the same command again, it goes on where it stopped"
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{os.strerror(number)}; choose another output folder"
    return os.strerror(number) if number else (str(error).splitlines() or [type(error).__name__])[0]
