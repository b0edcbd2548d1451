"""A run's tables for the inspector: queries with an end, one view of all pages, and the pages that a text stands in."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from jobs.report.inspector.selection import quoted
from jobs.report.tables import Tables
from jobs.runs import Run
from pipeline.errors import StorageError, UsageError

SECONDS = 20.0
"""How long a query may take."""

TEXT_BYTES = 1_000_000_000
"""Text that is searched at most: of a larger run every nth file."""

AROUND = 90
"""Characters that are shown before and after what was found."""

MOST_FOUND = 6
"""Texts that were searched for and are remembered."""

_ALWAYS = {
    "title": "VARCHAR",
    "language": "VARCHAR",
    "topic": "VARCHAR",
    "quality": "FLOAT",
    "cluster": "VARCHAR",
    "cluster_size": "INTEGER",
    "rule_hits": "VARCHAR[]",
}
"""Columns that the search has whether the run has them or not."""

_WORDS = ("word_count", "word_count_split", "word_count_dclm")
"""Counts of words, of which a run has the first that its rules need."""

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE")

_NO_MEASURES = ("warc_offset", "shard", "row")


class Found(NamedTuple):
    """Where a text was found: a table (doc_id, kept, snippet), and the share of the run's text that was searched."""

    table: str
    share: float


class Queries(Tables):
    """Tables with the view `pages`: the ledger, or of a run that has none yet what is known of its records.

    A query that takes too long is ended, and raises UsageError.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._numbers = 0
        base = self._base()
        self.has_pages = base is not None
        if base is None:
            return
        self._connection.execute(f"CREATE VIEW pages AS {self._completed(base)}")
        described = self._connection.execute("DESCRIBE pages").fetchall()
        self.types: dict[str, str] = {name: kind for name, kind, *_ in described}
        self.measures = [n for n, kind in self.types.items() if kind in _NUMBERS and n not in _NO_MEASURES]

    def _base(self) -> str | None:
        if self.has("ledger"):
            return "SELECT * FROM ledger"
        if not self.has("records"):
            return None
        parts = ["SELECT r.* EXCLUDE (gate_hits), r.gate_hits AS rule_hits"]
        joins = ["FROM records r"]
        known = set(self.columns("records")) | {"rule_hits"}
        for table in ("documents", "signals", "scores"):
            columns = [name for name in self.columns(table) if name not in known and name != "text"]
            known |= set(columns)
            if columns:
                named = ", ".join(quoted(name) for name in columns)
                parts += [f"{table}.{quoted(name)}" for name in columns]
                # A record that was read twice has two rows of each table, of which one is joined.
                once = f"(SELECT DISTINCT ON (doc_id) doc_id, {named} FROM {table})"
                joins.append(f"LEFT JOIN {table if self._is_unique(table) else once} {table} USING (doc_id)")
        return f"{', '.join(parts)} {' '.join(joins)}"

    def _is_unique(self, table: str) -> bool:
        found = self._connection.execute(f"SELECT count(*) = count(DISTINCT doc_id) FROM {table}").fetchone()
        return found is not None and bool(found[0])

    def _completed(self, base: str) -> str:
        described = self._connection.execute(f"DESCRIBE {base}").fetchall()
        there = {name for name, *_ in described}
        lacking = [f"NULL::{kind} AS {name}" for name, kind in _ALWAYS.items() if name not in there]
        words = next((name for name in _WORDS if name in there), "NULL::INTEGER")
        return f"SELECT base.*, {', '.join([*lacking, f'{words} AS words'])} FROM ({base}) base"

    @contextmanager
    def limited(self, seconds: float = SECONDS) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor whose queries are ended when time is up. Raises UsageError for that, and StorageError for a table that
        cannot be read."""
        cursor = self._connection.cursor()
        timer = threading.Timer(seconds, cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield cursor
        except duckdb.InterruptException as error:
            raise UsageError(f"this took more than {seconds:g} seconds and was ended; ask for less") from error
        except duckdb.OutOfMemoryException as error:
            raise UsageError("this needs more memory than there is; ask for less") from error
        except duckdb.CatalogException as error:
            raise UsageError(f"{self.run.folder.path} is not that far yet") from error
        except duckdb.IOException as error:
            raise StorageError(
                f"cannot read a table of {self.run.folder.path}: {str(error).splitlines()[0]}"
            ) from error
        finally:
            timer.cancel()
            cursor.close()

    def sql(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> pa.Table:
        """What a query gives. May be called from several threads."""
        with self.limited() as cursor:
            return cursor.sql(query, params=parameters).to_arrow_table()

    def found(self, text: str) -> Found:
        """The pages that a text stands in, upper and lower case alike: kept pages by their curated text, others by what
        was extracted."""
        with self._lock:
            if text in self._found:
                self._found.move_to_end(text)
                return self._found[text]
            self._numbers += 1
            table = f"found_{self._numbers}"
            made = self._search(text, table)
            self._found[text] = made
            while len(self._found) > MOST_FOUND:
                _, old = self._found.popitem(last=False)
                self._connection.cursor().execute(f"DROP TABLE {old.table}")
            return made

    def _search(self, text: str, table: str) -> Found:
        sizes = {"documents": self._text_bytes("extract", "text_bytes"), "curated": self._text_bytes("curate", "bytes")}
        total = sum(size for name, size in sizes.items() if self.has(name))
        step = max(1, -(-total // TEXT_BYTES))
        chosen = {name: self.files[name][::step] for name in sizes if self.has(name)}
        parts = []
        for name, identity, kept in (("curated", "id", "true"), ("documents", "doc_id", "false")):
            if chosen.get(name):
                parts.append(
                    f"SELECT {identity} AS doc_id, {kept} AS kept, {_SNIPPET} AS snippet FROM read_parquet(${name}) "
                    "WHERE contains(lower(text), lower($text))"
                )
        if not parts:
            raise UsageError("the texts of this run are not there, so that nothing can be looked for in them")
        with self.limited() as cursor:
            query = f"CREATE TABLE {table} AS {' UNION ALL '.join(parts)}"
            cursor.execute(query, {"text": text, "around": AROUND, **{n: f for n, f in chosen.items() if f}})
        read, every = (
            sum(len(files) for files in which) for which in (chosen.values(), (self.files[n] for n in chosen))
        )
        return Found(table, read / every if every else 1.0)

    def _text_bytes(self, stage: str, fact: str) -> int:
        source = self.run if stage == "curate" else self._measured()
        return sum(manifest.get(fact) or 0 for manifest in source.manifests(stage))

    def _measured(self) -> Run:
        """The run that extracted what this one decided."""
        from jobs.runs import existing_run

        return existing_run(self.run.info["measures"]) if "measures" in self.run.info else self.run


_SNIPPET = "substr(text, greatest(1, instr(lower(text), lower($text)) - $around)::BIGINT, 2 * $around + length($text))"
