"""Rows of a run that figures are reckoned from: all of its ledger, or of a large run a sample; of a run without a ledger
what its records, documents and signals say."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.runs import Run, read_compared
from jobs.store import RunFolder
from pipeline.curation import decide
from pipeline.errors import StorageError
from pipeline.masking import Masking
from pipeline.tables import DOCUMENTS, Outcome

MOST_ROWS = 1_000_000
"""Rows of the ledger that are read at most. A share of a half is then known to 0.1 %, and what is held of them at one time
(addresses, titles, the columns of a dozen signals) stays under 1 GB."""

MOST_UNDECIDED = 100_000
"""Rows that are read of a run without a ledger, where all columns are held at once."""

MOST_SHOWN = 500
"""Characters of an address, a title or an error that a report has at most."""

LEAST_CANDIDATES = 20_000
"""Rows whose text can be shown, that examples are drawn from."""

COLUMNS_AT_ONCE = 16
"""Signals that are held at once."""

Note = Callable[[str, str], None]
"""Notes a problem: the part of the report, and what is wrong in words."""

Read = Callable[[list[str]], pa.Table]
"""The named columns of some rows."""


@dataclass
class Rows:
    """Some rows of a run, read by column. `share` is what part of all records they are; `decided` whether verdicts are
    known; `names` the columns there are, in the ledger's order."""

    pieces: Sequence[Read]
    names: list[str]
    share: float
    decided: bool

    @cached_property
    def n(self) -> int:
        """How many rows."""
        return self.read(["doc_id"]).num_rows

    @property
    def estimated(self) -> bool:
        """Whether what is counted here is scaled up."""
        return self.share < 1

    def read(self, names: Sequence[str]) -> pa.Table:
        """Columns of all rows; those that are not there are null. Raises StorageError."""
        there = [name for name in names if name in self.names]
        read = there or ["doc_id"]  # which counts the rows
        table = pa.concat_tables([piece(read) for piece in self.pieces], promote_options="permissive")
        for name in names:
            if name not in there:
                table = table.append_column(name, pa.nulls(table.num_rows))
        return table.select(list(names)).combine_chunks()

    def column(self, name: str) -> pa.ChunkedArray:
        """One column."""
        return self.read([name]).column(name)

    def batches(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Columns of numbers one after the other as floats, NaN for null; some are read at once."""
        for at in range(0, len(names), COLUMNS_AT_ONCE):
            table = self.read(names[at : at + COLUMNS_AT_ONCE])
            for name in table.column_names:
                yield name, numbers(table.column(name))

    def scaled(self, n: float) -> int:
        """A count of these rows as a count of all."""
        return round(float(n) / self.share) if self.share else 0

    @cached_property
    def kept(self) -> np.ndarray:
        """Which rows are kept."""
        return self._is(Outcome.KEPT)

    @cached_property
    def failed(self) -> np.ndarray:
        """Which rows ended as an error."""
        return self._is(Outcome.ERROR)

    def _is(self, outcome: Outcome) -> np.ndarray:
        known = pc.fill_null(pc.equal(self.column("outcome").cast(pa.string()), outcome.value), False)
        return known.to_numpy().astype(bool)

    @cached_property
    def has_text(self) -> np.ndarray:
        """Which rows have an extracted text."""
        return self.column("engine").is_valid().to_numpy().astype(bool)

    @cached_property
    def n_chars(self) -> np.ndarray:
        """Characters of extracted text; NaN without."""
        return numbers(self.column("n_chars" if "n_chars" in self.names else "char_count"))

    @cached_property
    def ids(self) -> np.ndarray:
        """The first 64 bits of each id, which is a hash: uint64."""
        return numbered(self.column("doc_id"))

    @cached_property
    def reasons(self) -> "Hits":
        """What decided each row, by family."""
        column = self.column("reason").cast(pa.string())
        rows = np.flatnonzero(column.is_valid().to_numpy())
        return Hits.of(rows, column.drop_null(), self.n)

    @cached_property
    def hits(self) -> "Hits":
        """Every gate and rule that each row broke, by family."""
        name = "rule_hits" if "rule_hits" in self.names else "gate_hits"
        column = self.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if not pa.types.is_list(column.type):
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), [], np.zeros(self.n, np.int64))
        return Hits.of(pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column), self.n)


@dataclass(frozen=True)
class Hits:
    """Rows and the families that they hit: rows[i] hit names[codes[i]], each pair once. `counts` are families by row."""

    rows: np.ndarray
    codes: np.ndarray
    names: list[str]
    counts: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, values: pa.Array | pa.ChunkedArray, n: int) -> "Hits":
        """From strings beside the numbers of their rows; what follows ":" says more and belongs to the family."""
        encoded = pc.dictionary_encode(values)
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().chunk(0) if encoded.num_chunks else pa.array([]).dictionary_encode()
        families = [family(value or "") for value in strings(encoded.dictionary)]
        names = sorted(set(families))
        code = np.array([names.index(name) for name in families], np.int64)
        own = encoded.indices.fill_null(0).to_numpy().astype(np.int64)
        pairs = np.unique(rows.astype(np.int64) * max(1, len(names)) + (code[own] if len(code) else own))
        rows, codes = np.divmod(pairs, max(1, len(names)))
        return cls(rows, codes, names, np.bincount(rows, minlength=n))

    def by(self, name: str) -> np.ndarray:
        """The rows that hit a family, rising."""
        if name not in self.names:
            return np.zeros(0, np.int64)
        return self.rows[self.codes == self.names.index(name)]

    def alone(self, name: str) -> np.ndarray:
        """The rows that hit this family and no other."""
        rows = self.by(name)
        return rows[self.counts[rows] == 1]


def family(reason: str) -> str:
    """A reason without what it says of the one record."""
    return reason.split(":", 1)[0]


def shown(text: str | None) -> str | None:
    """A text of the ledger as a report has it: what is endless is cut off."""
    return text if text is None or len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"


def strings(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """A column's texts; bytes that are no UTF-8 become U+FFFD."""
    if pa.types.is_null(column.type):
        return [None] * len(column)
    try:
        return column.cast(pa.string()).to_pylist()
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return [None if v is None else v.decode("utf-8", "replace") for v in column.cast(pa.binary()).to_pylist()]


def numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column's numbers as floats (float32 stays), NaN for null."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def numbered(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The first 64 bits of ids in hex, of others of their hash."""
    return np.fromiter((_number(one or "") for one in strings(ids)), np.uint64, len(ids))


def _number(one: str) -> int:
    try:
        return int(one[:16], 16)
    except ValueError:
        return int.from_bytes(hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def order(ids: np.ndarray, key: str) -> np.ndarray:
    """Numbers that order ids at random, the same for the same key (splitmix64, Steele et al. 2014)."""
    salt = np.uint64(int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()))
    z = (ids ^ salt) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def parts_of(run: Run, seed: int) -> list[tuple[str, int, int]]:
    """Parts that were extracted, in random order: name, records, bytes of text."""
    found = [
        (m["part"], m["tables"]["records"]["rows"], m.get("text_bytes") or 0)
        for m in run.manifests("extract")
        if "records" in m.get("tables", {})
    ]
    keys = order(
        numbered(pa.array([hashlib.blake2b(p[0].encode()).hexdigest() for p in found], pa.string())), str(seed)
    )
    return [found[i] for i in np.argsort(keys, kind="stable")]


def ledger_rows(run: Run, note: Note) -> Rows | None:
    """The ledger, or of a large one its first shards: an id is a hash, and shards are ranges of ids. None without a ledger
    that is whole."""
    if not run.is_done("curate"):
        return None
    sizes = {f"ledger/{m['part']}.parquet": m["tables"]["ledger"]["rows"] for m in run.manifests("curate")}
    names = run.folder.list("ledger", ".parquet")
    if not names:
        note("ledger", f"{run.folder.path} has no ledger any more")
        return None
    total = sum(sizes.get(name, 0) for name in names)
    pieces: list[Read] = []
    columns: list[str] = []
    taken = 0
    for name in names:
        if taken >= MOST_ROWS:
            break
        try:
            n = run.folder.read_table(name, ["doc_id"]).num_rows
            columns = columns or _columns(run.folder, name)
        except StorageError as error:
            note("ledger", str(error))
            continue
        most = min(n, MOST_ROWS - taken)
        pieces.append(_reader(run.folder, name, most))
        taken += most
    if not pieces:
        return None
    return Rows(pieces, columns, taken / total if total else 1.0, decided=True)


def _columns(folder: RunFolder, name: str) -> list[str]:
    try:
        return pq.read_schema(folder.local_copy(name)).names
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"cannot read {folder.path}/{name}: {error}") from error


def _reader(folder: RunFolder, name: str, most: int) -> Read:
    return lambda columns: folder.read_table(name, columns).slice(0, most)


def undecided_rows(run: Run, note: Note, seed: int = 0) -> Rows | None:
    """What the parts say that were extracted, of a run without a ledger; None where there is none."""
    parts = parts_of(run, seed)
    tables: list[pa.Table] = []
    taken = total = 0
    for name, n, _ in parts:
        total += n
        if taken >= MOST_UNDECIDED:
            continue
        try:
            tables.append(_part(run, name))
        except StorageError as error:
            note("records", str(error))
            continue
        taken += n
    if not tables:
        return None
    whole = pa.concat_tables(tables, promote_options="permissive")
    return Rows([whole.select], whole.column_names, taken / total if total else 1.0, decided=False)


def decided_rows(run: Run, measures: Run, parts: Sequence[str], note: Note) -> Rows | None:
    """Whole parts as the ledger would have them, decided once more: of a large run hardly a page of the ledger's sample has
    its text in the few parts that are read. At most LEAST_CANDIDATES rows or a part more."""
    recipe = run.recipe
    if recipe.pii.max_hits is None:  # looking for personal data takes longer than all else, and decides nothing
        recipe = recipe.model_copy(update={"pii": Masking()})
    tables: list[pa.Table] = []
    for name in parts:
        if sum(table.num_rows for table in tables) >= LEAST_CANDIDATES:
            break
        try:
            read, scores, duplicates = read_compared(measures.folder, run.folder, name, recipe)
            looks = recipe.decontaminate.looks
            leaks = run.folder.read_table(f"contamination/part-{name}.parquet") if looks else None
            tables.append(decide(*read, recipe, 1, duplicates, leaks, scores).drop_columns(["texts"]))
        except StorageError as error:
            note("reasons", str(error))
    if not tables:
        return None
    whole = pa.concat_tables(tables)
    return Rows([whole.select], whole.column_names, 1.0, decided=True)


def _part(run: Run, name: str) -> pa.Table:
    """The records of a part with what was extracted and measured beside them."""
    records = run.folder.read_table(f"records/part-{name}.parquet")
    undecided = pc.is_null(records.column("outcome")).to_numpy()
    position = pa.array(np.where(undecided, np.cumsum(undecided) - 1, -1), mask=~undecided)
    beside = [c.name for c in DOCUMENTS if c.name not in ("doc_id", "text")]
    measured = [run.folder.read_table(f"documents/part-{name}.parquet", beside)]
    if name in run.done("annotate"):
        signals = run.folder.read_table(f"signals/part-{name}.parquet")
        measured.append(signals.drop_columns(["doc_id"]))
    columns = {c: records.column(c) for c in records.column_names}
    for table in measured:
        if table.num_rows != int(undecided.sum()):
            raise StorageError(f"tables of part {name} of {run.folder.path} do not belong together")
        columns |= {c: table.column(c).take(position) for c in table.column_names}
    return pa.table(columns)
