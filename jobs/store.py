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
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import locks
from jobs.measures import count
from pipeline.errors import CrawlmillError, InputError, StorageError, UsageError
from pipeline.sources import stores
from pipeline.sources.inputs import open_input
from pipeline.sources.stores import StoreError

Item = TypeVar("Item")
Value = TypeVar("Value")

ROW_GROUP = 8192
"""Rows a row group. Fixed, since the bytes of a file depend on it."""

SMALL = 8 << 20
"""Bytes of a file in a store that is fetched whole, whatever is wanted of it."""

AHEAD = 1 << 20
"""Bytes that are fetched with a column: the same of the next rows is near."""

READERS = 16
"""Small files of a store that are read or written at a time."""

LARGE_READERS = 4
"""Files of a table that are fetched at a time: they are held in memory."""

COPY = 8 << 20


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

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

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
        locks.check(self.path)
        try:
            if not self.local:
                with _upload(stores.Upload(self._at(name))) as sink:
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
        except (OSError, StoreError) as error:
            raise _storage_error("write", self._at(name), error) from error

    def has(self, name: str) -> bool:
        """Whether there is a file of that name. Raises StorageError."""
        if self.local:
            return Path(self.path, name).is_file()
        try:
            return stores.has(self._at(name))
        except StoreError as error:
            raise _storage_error("read", self._at(name), error) from error

    def local_copy(self, name: str, version: str = "") -> Path:
        """A file of this folder on this machine, which must not change once it is written, or have another `version`
        then: itself, or a copy in the temporary folder that all processes of this user share. Raises StorageError.
        """
        if self.local:
            return Path(self.path, name)
        try:
            # Another store may have a file of the same address: what is in it tells them apart.
            version = version or stores.etag(self._at(name)) or ""
            key = hashlib.sha256(f"{self.path}/{name}\x1f{version}".encode()).hexdigest()[:32]
            kept = Path(tempfile.gettempdir(), f"crawlmill-{os.getuid()}", key)
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            if kept.parent.stat().st_uid != os.getuid():
                raise StorageError(f"{kept.parent} belongs to another user; set TMPDIR to a folder of your own")
            if not kept.exists():
                draft = kept.with_name(f".{key}.{uuid.uuid4().hex}.tmp")
                try:
                    with open_input(self._at(name)) as source, draft.open("wb") as sink:
                        shutil.copyfileobj(source, sink, COPY)
                    draft.replace(kept)
                finally:
                    draft.unlink(missing_ok=True)
        except (OSError, InputError, StoreError) as error:
            raise StorageError(f"cannot copy {self.path}/{name}: {_cause(error)}") from error
        return kept

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Reads one file of a table. Raises StorageError where it is missing or damaged."""
        return self._read(name, lambda file: _counted(file, file.read(columns)), None if columns is None else AHEAD)

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

        return self._read(name, read, 1)

    def _read(self, name: str, read: Callable[[pq.ParquetFile], pa.Table], ahead: int | None) -> pa.Table:
        """From a store a small file is fetched in one request, and so is all that is wanted whole (`ahead` None);
        otherwise what is read of it and `ahead` bytes more, so that one request does for neighbours."""
        path = self._at(name)
        try:
            if self.local:
                return read(pq.ParquetFile(Path(self.path, name)))
            if ahead is None:
                return read(pq.ParquetFile(pa.BufferReader(stores.read_whole(path))))
            with open_input(path, ahead) as source:
                if source.size <= SMALL:
                    return read(pq.ParquetFile(pa.BufferReader(source.read())))
                return read(pq.ParquetFile(source, pre_buffer=True))
        except (OSError, pa.ArrowInvalid, StoreError, InputError) as error:
            raise _storage_error("read", path, error) from error

    def scan(self, table: str, condition: Any, columns: list[str] | None = None) -> pa.Table:
        """The rows of all files of a table that meet a pyarrow.dataset condition. Raises StorageError."""
        import pyarrow.dataset as ds

        files = self.list(table, ".parquet")
        if not files:
            raise UsageError(f"{self.path} has no {table} yet; run `crawlmill run` on it to the end")
        if self.local:
            dataset = ds.dataset([f"{self.path}/{name}" for name in files], format="parquet")
            return dataset.to_table(columns=columns, filter=condition)

        def matching(name: str) -> pa.Table:
            body = self.read_bytes(name)
            if body is None:
                raise StorageError(f"cannot read {self._at(name)}: it was removed just now")
            try:
                return pq.read_table(pa.BufferReader(body), columns=columns, filters=condition)
            except (OSError, pa.ArrowInvalid) as error:
                raise _storage_error("read", self._at(name), error) from error

        with ThreadPoolExecutor(LARGE_READERS) as pool:
            return pa.concat_tables(pool.map(matching, files))

    def read_bytes(self, name: str) -> bytes | None:
        """A small file, or None where there is none. Raises StorageError."""
        path = self._at(name)
        try:
            return Path(self.path, name).read_bytes() if self.local else stores.read_whole(path)
        except (OSError, StoreError) as error:
            if isinstance(error, FileNotFoundError) or getattr(error, "missing", False):
                return None
            raise _storage_error("read", path, error) from error

    def read_documents(self, names: Sequence[str]) -> Iterator[Any]:
        """The documents of those names in their order, without those that are not there. Raises StorageError."""
        return (document for document in self.each(self.read_json, names) if document is not None)

    def each(self, act: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
        """What `act` gives for each item, in their order; it reads or writes files here, and a store, which takes its time
        over each, is asked for several at a time."""
        if self.local:
            yield from map(act, items)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(act, items)

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
        try:
            names = stores.list_names(self._at(folder))
        except StoreError as error:
            raise _storage_error("list", self._at(folder), error) from error
        return sorted(inside + n for n in names if _visible(n, suffix))

    def remove(self, name: str) -> None:
        """Removes a file if it is there. Raises StorageError."""
        self._remove(name, lambda path: path.unlink(missing_ok=True), tree=False)

    def remove_tree(self, name: str) -> None:
        """Removes a folder and all in it, if it is there. Raises StorageError."""
        self._remove(name, lambda path: shutil.rmtree(path, ignore_errors=True), tree=True)

    def _remove(self, name: str, act: Callable[[Path], None], tree: bool) -> None:
        locks.check(self.path)
        try:
            act(Path(self.path, name)) if self.local else stores.remove(self._at(name), tree)
        except (OSError, StoreError) as error:
            raise _storage_error("remove", self._at(name), error) from error

    def sweep(self) -> None:
        """Removes drafts that a killed run left behind. Only for the holder of the lock."""
        if not self.local:
            stores.remove_drafts(self.path)
        elif Path(self.path).is_dir():
            for draft in Path(self.path).glob("**/.*.tmp"):
                draft.unlink(missing_ok=True)

    def is_empty(self) -> bool:
        """True where the folder does not exist or holds nothing."""
        if self.local:
            directory = Path(self.path)
            if directory.exists() and not directory.is_dir():
                raise UsageError(f"output {self.path} is a file; give a folder")
            return not directory.exists() or not any(_counts(p.name) for p in directory.iterdir())
        try:
            return not any(_counts(name) for name in stores.list_names(self.path))
        except StoreError as error:
            raise _storage_error("list", self.path, error) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one run. Raises UsageError while another run holds it, and StorageError in the end where a
        lease in a store was lost meanwhile."""
        held = locks.on_disk(Path(self.path)) if self.local else locks.in_store(self.path)
        with held:
            yield


@contextmanager
def _upload(upload: stores.Upload) -> Iterator[Any]:
    """An object of a store, which appears when its upload completes: not at all where writing it fails."""
    try:
        yield upload
        upload.commit()
    except BaseException:
        upload.discard()
        raise


def _storage_error(verb: str, path: str, error: Exception) -> CrawlmillError:
    if isinstance(error, StoreError) and error.unopened:
        return UsageError(f"cannot use {path}: {error}")
    return StorageError(f"cannot {verb} {path}: {_cause(error)}")


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
    return name != locks.NAME and not (name.startswith(".") and name.endswith(".tmp"))


def _cause(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOSPC:
        return "no space left on the device; free some and run the same command again, it goes on where it stopped"
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{os.strerror(number)}; choose another output folder"
    return os.strerror(number) if number else (str(error).splitlines() or [type(error).__name__])[0]
