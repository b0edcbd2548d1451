"""Writing one shard of tokens: tokens as they come, and at the end the index, the extra forms and the manifest."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store import ROW_GROUP, RunFolder, Sink
from pipeline.errors import UsageError
from trainer.shards import index_bytes

EXTRAS = ("ds", "npy")
"""Other forms of the same tokens: `ds` for datatrove and nanotron, `npy` (raw, whatever its name says) for OLMo."""

DOCUMENT_ROWS = 8 * ROW_GROUP
"""Rows a row group of the table of documents, which are short. Fixed, since the bytes of a file depend on it."""

RANDOM = ("key",)
"""Columns on which compression is lost."""


def check_extras(extras: Sequence[str]) -> tuple[str, ...]:
    """The extra forms that are asked for, in a fixed order. Raises UsageError for one that there is not."""
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown:
        raise UsageError(f"there is no form {unknown[0]!r}; beside .bin and .idx there are {', '.join(EXTRAS)}")
    return tuple(extra for extra in EXTRAS if extra in extras)


class ShardWriter:
    """A shard of a folder while it is written. A context manager: what is not committed leaves nothing behind.

    `name` is relative to the folder and has no suffix. `tokenizer` is that of tokens.json.
    """

    def __init__(
        self, folder: RunFolder, name: str, tokenizer: dict[str, Any], schema: pa.Schema, extras: Sequence[str] = ()
    ):
        self._folder, self._name, self._tokenizer, self._extras = folder, name, tokenizer, extras
        self._dtype = np.dtype(tokenizer["dtype"])
        self._schema = schema
        self._lengths: list[np.ndarray] = []
        self._pending: list[pa.Table] = []
        self._open = ExitStack()
        self._done = False

    def __enter__(self) -> "ShardWriter":
        self._open.__enter__()
        try:
            self._sinks: dict[str, Sink] = {
                suffix: self._open.enter_context(self._folder.create(self._name + suffix))
                for suffix in (".bin", ".docs.parquet", *(f".{extra}" for extra in self._extras))
            }
            columns = {c: "none" if c in RANDOM else "zstd" for c in self._schema.names}
            self._table = pq.ParquetWriter(self._sinks[".docs.parquet"], self._schema, compression=columns)
        except BaseException as error:
            self._open.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done:
            error = error or _Abandoned()
            self._table.is_open = False  # or it would be finished when it is forgotten, into a file that is closed
            with suppress(_Abandoned):
                self._open.__exit__(type(error), error, trace)

    def add(self, tokens: np.ndarray, lengths: np.ndarray, documents: pa.Table) -> None:
        """Writes documents: their tokens in a row, how many each has, and their rows. Raises StorageError."""
        body = np.ascontiguousarray(tokens, self._dtype)
        for suffix, sink in self._sinks.items():
            if suffix != ".docs.parquet":
                sink.write(body)
        self._lengths.append(np.asarray(lengths, np.int64))
        self._pending.append(documents)
        if sum(table.num_rows for table in self._pending) >= DOCUMENT_ROWS:
            self._write_rows(whole=False)

    def _write_rows(self, whole: bool) -> None:
        """Writes full row groups, and with `whole` the rest too: the file does not show in which pieces rows came."""
        if not self._pending:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        n = table.num_rows if whole else table.num_rows // DOCUMENT_ROWS * DOCUMENT_ROWS
        if n:
            self._table.write_table(table.slice(0, n), row_group_size=DOCUMENT_ROWS)
        self._pending = [table.slice(n)]

    def commit(self, **facts: Any) -> dict[str, Any]:
        """Writes the rest, and last of all the manifest with `facts` in it, which is returned. Raises StorageError."""
        self._write_rows(whole=True)
        self._table.close()
        files = {suffix: sink.facts for suffix, sink in self._sinks.items()}
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        index = index_bytes(lengths, self._dtype)
        self._open.close()
        self._done = True
        small = {".idx": index}
        n = int(lengths.sum())
        if "ds" in self._extras:
            small[".ds.index"] = np.cumsum(lengths).astype("<u8").tobytes()
            said = f"{self._tokenizer['sha256']}|{self._dtype.itemsize}\n{n}\n{n} tokens"
            small[".ds.metadata"] = said.encode()
        for suffix, body in small.items():
            with self._folder.create(self._name + suffix) as sink:
                sink.write(body)
            files[suffix] = sink.facts
        manifest = {
            "shard": self._name.rsplit("/", 1)[-1],
            "files": dict(sorted(files.items())),
            "tokenizer": self._tokenizer["sha256"],
            "dtype": self._tokenizer["dtype"],
            "eos": self._tokenizer["eos"],
            "documents": len(lengths),
            "tokens": n,
            **facts,
        }
        self._folder.write_json(f"{self._name}.json", manifest)
        return manifest


class _Abandoned(Exception):  # noqa: N818 (nothing went wrong)
    """Tells the files of a shard that they are not wanted."""
