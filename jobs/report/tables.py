"""A run's tables under SQL, for reports and the inspector: DuckDB over the Parquet files of the run folder.

Only these files can be read: DuckDB is told so, and cannot be told otherwise afterwards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from jobs.runs import Run
from jobs.store import RunFolder
from pipeline.errors import StorageError, UsageError

MEASURED = ("records", "documents", "signals", "edits", "inputs")
"""Tables that a run which decides another one again takes from that one."""

DECIDED = (
    "ledger", "curated", "scores", "sentences", "cuts", "duplicates", "contamination", "benchmark_items",
)  # fmt: skip
"""Tables of the run itself."""

IDS = 1 << 32
"""Values of the first eight digits of an id, which is a hash: a range of them is a random sample of the records."""


class Tables:
    """The tables that a run has so far, each a view of the same name; `has` tells which there are.

    Cells come from pages, and may hold anything: they go into a query as parameters, never as text of it. Raises
    StorageError where a file cannot be read.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        own = run.folder
        files = {name: _files(run.measures_folder, name) for name in MEASURED} | {
            name: _files(own, name) for name in DECIDED
        }
        self.files = {name: found for name, found in files.items() if found}
        self._connection = duckdb.connect(":memory:")
        try:
            self._open()
        except duckdb.Error as error:
            raise StorageError(f"cannot read a table of {run.folder.path}: {_first(error)}") from error

    def _open(self) -> None:
        """Confines DuckDB to the folders of these files, then gives each table its view."""
        folders = sorted({f"{Path(file).parent}/" for found in self.files.values() for file in found})
        self._connection.execute("SET allowed_directories = ?", [folders])
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        for name, found in self.files.items():
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in found)
            self._connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet([{listed}])')

    def has(self, *names: str) -> bool:
        """Whether the run has all of these tables."""
        return all(name in self.files for name in names)

    def columns(self, name: str) -> list[str]:
        """Names of a table's columns; [] where the run has no such table."""
        if name not in self.files:
            return []
        return [row[0] for row in self._connection.cursor().execute(f'DESCRIBE "{name}"').fetchall()]

    def sql(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> pa.Table:
        """What a query gives. May be called from several threads. Raises UsageError where a table is not there yet."""
        try:
            found = self._connection.cursor().sql(query, params=parameters).to_arrow_table()
        except duckdb.CatalogException as error:
            raise UsageError(f"{self.run.folder.path} is not that far yet: {_first(error)}") from error
        except duckdb.IOException as error:
            raise StorageError(f"cannot read a table of {self.run.folder.path}: {_first(error)}") from error
        return found

    def rows(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """The same as a list of rows."""
        return self.sql(query, parameters).to_pylist()


def below(share: float) -> str | None:
    """The id that about `share` of all ids are below: `WHERE doc_id < ?` draws them, the same in every table and run.

    None where that is all of them.
    """
    return None if share >= 1 else f"{int(share * IDS):08x}"


def _files(folder: RunFolder, table: str) -> list[str]:
    """Files of a table on this machine: those of a store are copied to it."""
    return [str(folder.local_copy(name).resolve()) for name in folder.list(table, ".parquet")]


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
