"""Parquet files of texts in chunks: what is to be encoded, and what is known of each document."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.sources.inputs import Wanted, open_input
from pipeline.tables import TOKEN_DOCUMENTS

PARQUET = Wanted("Parquet files", ("*.parquet", "*.pq", "*.parq"), (".*", "_*"))
"""What is taken of a folder. Names with a dot or underscore in front are those of drafts and of Spark's notes."""

CHUNK_BYTES = 16_000_000
"""Text that is read, encoded and written at once. No byte of a shard depends on it."""

MOST_ROWS = 65_536

_NAMED = 20
"""So many columns are named where the one that was asked for is not there."""

COPIED = ("language", "topic", "quality_bin", "cluster_size", "warc_file", "warc_offset", "warc_length")
"""Columns of the table of documents that are taken from the file as they are, where it has them."""


@dataclass(frozen=True)
class Reading:
    """Which columns hold text and id, and the source of documents whose file names none."""

    text: str = "text"
    id: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Some documents of a file, in order: `texts` is large_string, valid UTF-8 and without nulls.

    `numbers` are their rows in the file, `rows` how many rows were read for them, those without a text (`null_texts`)
    included; `invalid_utf8` texts had bytes that are not UTF-8, in whose place U+FFFD stands.
    """

    file: str
    texts: pa.Array
    numbers: np.ndarray
    columns: dict[str, pa.Array]
    rows: int
    null_texts: int
    invalid_utf8: int

    @cached_property
    def keys(self) -> np.ndarray:
        """The key of each document, uint64."""
        pieces = self.columns["piece"].to_pylist()
        keys = (_key(id_, piece) for id_, piece in zip(self.columns["id"].to_pylist(), pieces, strict=True))
        return np.fromiter(keys, np.uint64, len(pieces))

    @cached_property
    def sizes(self) -> np.ndarray:
        """Length of each text in UTF-8, int64."""
        return pc.binary_length(self.texts).to_numpy(zero_copy_only=False).astype(np.int64)

    def place(self, row: int) -> str:
        """A document of the chunk in words."""
        return f"row {self.numbers[row]} of {self.file} ({self.columns['id'][row].as_py()})"

    def documents(self, lengths: np.ndarray) -> pa.Table:
        """Their rows of TOKEN_DOCUMENTS; `lengths` are their tokens as stored."""
        n = len(self.texts)
        columns = self.columns | {
            "key": pa.array(self.keys),
            "n_tokens": pa.array(lengths, pa.int64()),
            "n_bytes": pa.array(self.sizes),
            "file": pa.repeat(pa.scalar(self.file), n),
            "row": pa.array(self.numbers),
        }
        return pa.table([columns[name] for name in TOKEN_DOCUMENTS.names], schema=TOKEN_DOCUMENTS)


def _key(id_: str, piece: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{id_}\x1f{piece}".encode(), digest_size=8).digest())


def read_chunks(path: str, name: str, reading: Reading, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The documents of a Parquet file, about `chunk_bytes` of text at a time, or one text if that is longer.

    Rows without a text (null) are no documents. `name` is what the file is called in the table of documents. Raises
    InputError for a file that is no Parquet or has no such column.
    """
    try:
        with closing(open_input(path)) as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
            build = _builder(file.schema_arrow, path, name, reading)
            first = 0
            for batch in file.iter_batches(_batch_rows(file, reading.text, chunk_bytes), columns=build.names):
                for start, end in _parts(batch.column(reading.text), chunk_bytes):
                    yield build.chunk(batch.slice(start, end - start), first + start)
                first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _batch_rows(file: pq.ParquetFile, text: str, chunk_bytes: int) -> int:
    """Rows that hold about `chunk_bytes` of text, by what the file says of its columns."""
    at = next((i for i in range(file.metadata.num_columns) if file.metadata.schema.column(i).path == text), None)
    rows = file.metadata.num_rows
    if at is None or not rows:
        return MOST_ROWS
    groups = range(file.metadata.num_row_groups)
    size = sum(file.metadata.row_group(g).column(at).total_uncompressed_size for g in groups)
    return int(min(MOST_ROWS, max(1, chunk_bytes * rows // max(1, size))))


def _parts(texts: pa.Array, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about so many bytes: texts are of very different lengths."""
    if texts.nbytes <= 2 * chunk_bytes:
        yield 0, len(texts)
        return
    sizes = pc.fill_null(pc.binary_length(_as_binary(texts)), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes, dtype=np.int64)
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + chunk_bytes, "right")))
        yield start, end
        start = end


def _as_binary(texts: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    return texts.cast(pa.large_binary())


@dataclass(frozen=True)
class _Builder:
    """How rows of one file become documents: `taken` has the file's column for each of ours that it fills."""

    path: str
    name: str
    reading: Reading
    names: list[str]
    taken: dict[str, str]

    def chunk(self, batch: pa.RecordBatch, first: int) -> Chunk:
        rows = batch.num_rows
        numbers = np.arange(first, first + rows, dtype=np.int64)
        nulls = batch.column(self.reading.text).null_count
        if nulls:
            there = pc.is_valid(batch.column(self.reading.text))
            batch, numbers = batch.filter(there), numbers[there.to_numpy(zero_copy_only=False)]
        texts, invalid = _valid(batch.column(self.reading.text))
        columns = {field.name: self._column(batch, field) for field in TOKEN_DOCUMENTS if field.name in self.taken}
        n = len(texts)
        for name in COPIED:
            columns.setdefault(name, pa.nulls(n, TOKEN_DOCUMENTS.field(name).type))
        source = columns.get("source", pa.nulls(n, pa.string()))
        columns["source"] = pc.fill_null(source, self.reading.source) if self.reading.source is not None else source
        columns["piece"] = pc.fill_null(columns.get("piece", pa.nulls(n, pa.int32())), 0)
        ids = columns.get("id", pa.nulls(n, pa.string()))
        if ids.null_count:
            named = [i if i is not None else _hashed(text) for i, text in zip(ids.to_pylist(), texts, strict=True)]
            ids = pa.array(named, pa.string())
        columns["id"] = ids
        return Chunk(self.name, texts, numbers, columns, rows, nulls, invalid)

    def _column(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        column = batch.column(self.taken[field.name])
        try:
            if pa.types.is_string(field.type) and _is_text(column.type, binary=True):
                column, _ = _valid(column)  # what stands in a string column need not be UTF-8
            return column.cast(field.type)
        except pa.ArrowException as error:
            what = str(error).splitlines()[0]
            raise InputError(f"{self.path}: column {self.taken[field.name]!r} is no {field.type}: {what}") from error


def _builder(schema: pa.Schema, path: str, name: str, reading: Reading) -> _Builder:
    for wanted, option in ((reading.text, "--text"), (reading.id, "--id")):
        if wanted is not None and wanted not in schema.names:
            fitting = [field.name for field in schema if option == "--id" or _is_text(field.type, binary=True)]
            more = f", … ({len(fitting) - _NAMED} more)" if len(fitting) > _NAMED else ""
            what = "columns" if option == "--id" else "columns of text"
            there = f"{option}: {', '.join(fitting[:_NAMED])}{more}" if fitting else f"{option}, but it has no {what}"
            raise InputError(f"{path} has no column {wanted!r}; name one with {there}")
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise InputError(f"{path} has more than one column {twice[0]!r}; write it with each name once")
    kind = schema.field(reading.text).type
    if not _is_text(kind, binary=True):
        raise InputError(f"{path}: column {reading.text!r} holds {kind}, not text; name another with --text")
    taken = {
        c: c for c in (*COPIED, "source") if c in schema.names and _fits(schema.field(c), TOKEN_DOCUMENTS.field(c))
    }
    id_ = reading.id or "id"
    if id_ in schema.names:
        taken["id"] = id_
    if reading.id is None and "piece" in schema.names and pa.types.is_integer(schema.field("piece").type):
        taken["piece"] = "piece"
    names = list(dict.fromkeys([reading.text, *taken.values()]))
    return _Builder(path, name, reading, names, taken)


def _fits(theirs: pa.Field, ours: pa.Field) -> bool:
    """Whether a column of another's file can mean what ours of that name means."""
    return _is_text(theirs.type) if pa.types.is_string(ours.type) else pa.types.is_integer(theirs.type)


def _is_text(kind: pa.DataType, binary: bool = False) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks: list[Callable[[Any], bool]] = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view]
    if binary:
        checks += [pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary]
    return any(check(kind) for check in checks)


def _valid(texts: pa.Array) -> tuple[pa.Array, int]:
    """The texts as valid UTF-8, and how many of them were not."""
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    try:
        array = texts.cast(pa.large_string())
        array.validate(full=True)
        return array, 0
    except pa.ArrowInvalid:
        bodies = _as_binary(texts).to_pylist()
    repaired = [body if body is None else body.decode("utf-8", "replace") for body in bodies]
    invalid = sum(text is not None and text.encode() != body for text, body in zip(repaired, bodies, strict=True))
    return pa.array(repaired, pa.large_string()), invalid


def _hashed(text: pa.Scalar) -> str:
    return hashlib.blake2b(text.as_py().encode(), digest_size=16).hexdigest()
