"""Benchmark files to rows: JSON lines, JSON, CSV, TSV and Parquet, plain or compressed, local or remote."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.errors import InputError, RecipeError
from pipeline.sources.inputs import expand, open_input
from pipeline.yaml_files import nearest

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of the files that can be read; all but Parquet also with .gz or .zst behind them."""


class Row(NamedTuple):
    """`where` is how errors name it ("line 3" of a text file, "row 3" else, counted from 1)."""

    where: str
    fields: dict[str, Any]


def find_files(paths: Sequence[str], base: Path | None = None) -> list[str]:
    """The files that paths and globs name, in the order given, those of a glob sorted, each once.

    Relative paths start from `base`. Raises RecipeError for what is not there or cannot be read here.
    """
    files: dict[str, None] = {}
    for path in paths:
        if base is not None and "://" not in path:
            path = str(base / path)
        if Path(path).is_dir():
            raise RecipeError(f"{path}: is a folder; name the files in it, for example {path.rstrip('/')}/*.jsonl")
        try:
            found = expand([path])
        except InputError as error:
            folder = Path(path).parent
            near = nearest(Path(path).name, (p.name for p in folder.iterdir())) if folder.is_dir() else ""
            raise RecipeError(f"{error}{near}") from None
        files.update(dict.fromkeys(file.path for file in found))
    for file in files:
        _kind(file)
    return list(files)


def read_bytes(path: str) -> bytes:
    """The file as it is. Raises RecipeError."""
    try:
        with open_input(path) as stream:
            return stream.read()
    except (InputError, OSError) as error:
        raise RecipeError(str(error)) from None


def read_rows(path: str, data: bytes, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a file with the content `data`; its name tells the format.

    `columns` are the names of the fields of a CSV or TSV file without a header. The values of such a file are texts;
    other formats keep their types. A JSON file holds a list of objects, or one object, which is one row.
    Raises RecipeError naming the file and the row.
    """
    kind, packing = _kind(path)
    try:
        if packing == ".gz":
            data = gzip.decompress(data)
        elif packing == ".zst":
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
                data = reader.read()
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise RecipeError(f"{path}: cannot be unpacked as {packing}: {error}") from None
    if columns is not None and kind not in (".csv", ".tsv"):
        raise RecipeError(f"{path}: `columns` names the fields of a CSV or TSV file without a header")
    if kind == ".parquet":
        return list(_parquet(path, data))
    text = _decode(path, data)
    if kind in (".csv", ".tsv"):
        return list(_separated(path, text, "," if kind == ".csv" else "\t", columns))
    return list(_json(path, text)) if kind == ".json" else list(_json_lines(path, text))


def stem(path: str) -> str:
    """The name of a file without its endings."""
    return PurePosixPath(path).name.split(".")[0]


def _kind(path: str) -> tuple[str, str]:
    endings = [ending.lower() for ending in PurePosixPath(path).suffixes[-2:]]
    packing = endings.pop() if endings and endings[-1] in (".gz", ".zst") else ""
    kind = endings[-1] if endings else ""
    if kind not in FORMATS or (packing and kind == ".parquet"):
        raise RecipeError(
            f"{path}: not a format of benchmarks by its name; known: {', '.join(FORMATS)}, all but Parquet also with "
            ".gz or .zst"
        )
    return kind, packing


def _decode(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x}): convert the file, or take the original"
        ) from None


def _json_lines(path: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"line {number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise RecipeError(f"{path}, {where}: not JSON ({error})") from None
            yield Row(where, _object(path, where, value))


def _json(path: str, text: str) -> Iterator[Row]:
    try:
        body = json.loads(text)
    except ValueError as error:
        advice = "; JSON lines are named .jsonl" if str(error).startswith("Extra data") else ""
        raise RecipeError(f"{path}: not JSON ({error}){advice}") from None
    for number, value in enumerate(body if isinstance(body, list) else [body], 1):
        where = f"row {number}"
        yield Row(where, _object(path, where, value))


def _object(path: str, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{path}, {where}: an object with named fields was expected, not {json.dumps(value)[:60]}")
    return value


def _separated(path: str, text: str, delimiter: str, columns: Sequence[str] | None) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = list(columns) if columns is not None else None
    before = 0
    try:
        for values in reader:
            where, before = f"line {before + 1}", reader.line_num
            if not values:
                continue
            if names is None:
                names = values
                if len(set(names)) < len(names):
                    raise RecipeError(
                        f"{path}, {where}: two columns have one name, or there is no header: give `columns`"
                    )
                continue
            if len(values) != len(names):
                raise RecipeError(
                    f"{path}, {where}: {len(values)} values for {len(names)} columns ({', '.join(names)})"
                )
            yield Row(where, dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise RecipeError(f"{path}, line {before + 1}: cannot be read ({error})") from None


def _parquet(path: str, data: bytes) -> Iterator[Row]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise RecipeError(f"{path}: not Parquet ({' '.join(str(error).split())[:200]})") from None
    number = 0
    for batch in table.to_batches(max_chunksize=1024):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_record(path, number + k + 1, batch.slice(k, 1)) for k in range(batch.num_rows)]
        for fields in rows:
            number += 1
            yield Row(f"row {number}", fields)


def _record(path: str, number: int, batch: pa.RecordBatch) -> dict[str, Any]:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}, row {number}: not UTF-8 ({error.reason})") from None
