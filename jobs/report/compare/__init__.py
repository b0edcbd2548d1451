"""What changed from one run to another: settings, inputs, outcomes, and where records went, with examples.

Counts come from manifests and are exact. Records are joined by id on a sample that is the same in both runs, since an id is
a hash; ledgers of any size then take seconds. Runs that share no record are compared by shares and distributions only.
"""

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.report.compare.examples import Side, examples, text_examples
from jobs.report.compare.settings import differing, inputs
from jobs.report.tables import IDS, Tables, below
from jobs.runs import Run
from pipeline.annotation import measured_schema
from pipeline.recipe import Recipe
from pipeline.rules import EDITED, bounds
from pipeline.scores import scored_names

JOINED = 200_000
"""Records of a run that are joined with those of the other, at most, about."""

TEXTS, TEXT_BYTES = 20_000, 200_000_000
"""Kept pages whose texts are compared, and bytes of these, at most, about."""

MEASURED = 50_000
"""Kept pages of a run whose signals and scores are compared, at most, about."""

CHANGES = 8
"""Ways from one reason to another that are shown with examples, the most frequent ones."""

GROUPS = {"language": "language", "host": "host", "topic": "topic"}
"""What pages are counted by, and the column of the ledger."""

MOST_GROUPS = 40
"""Of each of these so many that gained or lost most."""

STAGE_NUMBERS = ("seconds", "cpu_seconds", "peak_worker_bytes", "peak_child_bytes")

KEPT = "kept"


@dataclass
class Comparison:
    """All that `compare` found; `document` is the same for JSON. Letters name the runs in every row: a and b."""

    runs: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    """What cannot be compared, and why."""
    identical: bool = False
    """Whether ledgers and shards are the same, byte for byte."""
    settings: list[dict[str, str]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    joined: dict[str, Any] | None = None
    """How records were joined: `share` of ids, records of `both`, `only_a`, `only_b` and `changed` in that share."""
    moves: list[dict[str, Any]] = field(default_factory=list)
    texts: dict[str, Any] | None = None
    """Pages kept in both: `share` of ids, `pages` compared, `changed` of them, `examples` with lines that differ."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    distributions: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    """Kept pages whose signals were read, and the share of ids that they are."""
    groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)

    apart: bool = False
    """Whether both are finished and share no record."""

    @property
    def nothing_differs(self) -> bool:
        """Whether the runs were asked the same and did the same; only time and memory may differ."""
        return (
            not self.settings
            and not self.notes
            and bool(self.inputs["same"] or self.inputs["moved"])
            and (self.identical or self._same_records)
        )

    @property
    def _same_records(self) -> bool:
        joined, texts = self.joined, self.texts
        counted = all(row["a"] == row["b"] for row in self.outcomes) and all(
            row["a"] == row["b"] and row["hits_a"] == row["hits_b"] for row in self.reasons
        )
        moved = joined is None or joined["changed"] or joined["only_a"] or joined["only_b"]
        return counted and not moved and texts is not None and not texts["changed"]

    def document(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {"nothing_differs": self.nothing_differs, **asdict(self)}


def compare(a: Run, b: Run, n_examples: int = 3) -> Comparison:
    """What changed from run `a` to run `b`, with so many examples of each change. Reads tables of either, writes none.

    A run that is not finished is compared as far as it is. Raises StorageError where a table cannot be read.
    """
    found = Comparison({"a": _about(a), "b": _about(b)}, settings=differing(a.recipe, b.recipe), inputs=inputs(a, b))
    found.notes += _notes(a, b, found)
    found.stages = _stages(a, b)
    found.outcomes, found.reasons = _outcomes(a, b), _reasons(a, b)
    if not (a.is_done("curate") and b.is_done("curate")):
        return found
    found.identical = _digests(a) == _digests(b)
    tables = Tables(a), Tables(b)
    if not all(one.has("ledger") for one in tables):
        found.notes.append("a ledger is gone, so records cannot be joined")
        return found
    sides = Side("a", a, tables[0]), Side("b", b, tables[1])
    read = max(_rows(run) for run in (a, b))
    if found.identical:
        found.joined = {"share": 1.0, "both": _rows(a), "only_a": 0, "only_b": 0, "changed": 0, "identical": True}
    else:
        _join(found, sides, read, n_examples)
    _measure(found, sides)
    found.groups = {} if found.identical else _groups(sides)
    return found


def _about(run: Run) -> dict[str, Any]:
    done = [stage for stage in run.info["stages"] if run.is_done(stage)]
    return {
        "folder": run.folder.path,
        "recipe": run.recipe.name,
        "recipe_digest": run.info["recipe_digest"],
        "crawlmill": run.info["crawlmill"],
        "started": run.info.get("started"),
        "measures": run.info.get("measures"),
        "finished": run.is_done("curate"),
        "stages": done,
    }


def _notes(a: Run, b: Run, found: Comparison) -> list[str]:
    """What a reader has to know before the figures."""
    notes = []
    for letter, run in (("A", a), ("B", b)):
        if not run.is_done("curate"):
            done = ", ".join(stage for stage in run.info["stages"] if run.is_done(stage)) or "nothing"
            notes.append(
                f"{letter} is not finished ({done} done): its records, outcomes and reasons cannot be compared"
            )
    if a.info["crawlmill"] != b.info["crawlmill"]:
        notes.append(f"A was made by Crawlmill {a.info['crawlmill']}, B by {b.info['crawlmill']}")
    if not found.settings and a.info["recipe_digest"] != b.info["recipe_digest"]:
        notes.append("no setting differs, but lists, models or dialects that the recipes name do")
    without = [letter for letter, run in (("A", a), ("B", b)) if not _metrics(run)]
    if without:
        notes.append(f"{' and '.join(without)} measured nothing of time and memory: an older version made it")
    return notes


def _metrics(run: Run) -> dict[str, dict[str, Any]]:
    return {stage: facts["metrics"] for stage, facts in run.info["stages"].items() if facts.get("metrics")}


def _stages(a: Run, b: Run) -> list[dict[str, Any]]:
    """Time and memory of each stage, and by what B's is to be multiplied from A's; stages that took no time are left out."""
    left, right = _metrics(a), _metrics(b)
    rows = []
    for stage in dict.fromkeys([*left, *right]):
        row: dict[str, Any] = {"stage": stage}
        for number in STAGE_NUMBERS:
            x, y = ((side.get(stage) or {}).get(number) for side in (left, right))
            row[number] = {"a": x, "b": y, "ratio": round(y / x, 3) if x and y else None}
        if row["seconds"]["a"] or row["seconds"]["b"]:
            rows.append(row)
    return rows


def _curated(run: Run, name: str) -> int | None:
    """A sum over the manifests of curate."""
    manifests = run.manifests("curate") if run.is_done("curate") else []
    return sum(manifest.get(name, 0) for manifest in manifests) if manifests else None


def _rows(run: Run) -> int:
    return sum(manifest["tables"]["ledger"]["rows"] for manifest in run.manifests("curate"))


def _outcomes(a: Run, b: Run) -> list[dict[str, Any]]:
    """What was read and what became of it, side by side; null where a run is not that far."""
    sides = []
    for run in (a, b):
        facts: dict[str, int | None] = dict.fromkeys(("read", "kept", "dropped", "error", "pieces", "words", "bytes"))
        if run.is_done("curate"):
            counts: Counter[str] = Counter()
            for manifest in run.manifests("curate"):
                counts.update(manifest["outcomes"])
            facts |= {"read": sum(counts.values()), **{name: counts[name] for name in ("kept", "dropped", "error")}}
            facts["pieces"] = sum(manifest["tables"]["curated"]["rows"] for manifest in run.manifests("curate"))
            facts |= {"words": _curated(run, "words"), "bytes": _curated(run, "bytes")}
        elif run.is_done("extract"):
            facts["read"] = sum(manifest["tables"]["records"]["rows"] for manifest in run.manifests("extract"))
        sides.append(facts)
    left, right = sides
    return [{"what": name, "a": left[name], "b": right[name]} for name in left]


def _reasons(a: Run, b: Run) -> list[dict[str, Any]]:
    """Records that each reason decided, and that broke it, side by side: what differs most comes first."""
    if not (a.is_done("curate") and b.is_done("curate")):
        return []
    counts = {}
    for letter, run in (("a", a), ("b", b)):
        decided: Counter[str] = Counter()
        hits: Counter[str] = Counter()
        for manifest in run.manifests("curate"):
            decided.update(manifest["reasons"])
            hits.update(manifest["hits"])
        counts[letter] = decided, hits
    names = {name for sides in counts.values() for one in sides for name in one}
    rows = []
    for name in names:
        (x, hits_x), (y, hits_y) = (
            (decided[name], max(hits[name], decided[name])) for decided, hits in counts.values()
        )
        rows.append({"reason": name, "a": x, "b": y, "hits_a": hits_x, "hits_b": hits_y})
    return sorted(rows, key=lambda r: (-abs(r["b"] - r["a"]), -abs(r["hits_b"] - r["hits_a"]), r["reason"]))


def _digests(run: Run) -> list[tuple[str, str]]:
    tables = [manifest["tables"] for manifest in run.manifests("curate")]
    return [(table["ledger"]["sha256"], table["curated"]["sha256"]) for table in tables]


def _share(wanted: int, of: int) -> float:
    """The share of ids that about `wanted` of `of` records are below."""
    return 1.0 if of <= wanted else int(wanted / of * IDS) / IDS


def _where(column: str, share: float) -> tuple[str, list[str]]:
    """A condition on ids and its parameters. Files are sorted by id, so that what is not in the sample is not read."""
    least = below(share)
    return ("TRUE", []) if least is None else (f"{column} < ?", [least])


def _join(found: Comparison, sides: tuple[Side, Side], read: int, n_examples: int) -> None:
    """Where the records went that both runs have."""
    share = _share(JOINED, read)
    local = local_database()
    for side in sides:
        where, parameters = _where("doc_id", share)
        rows = side.tables.sql(
            "SELECT doc_id, warc_file AS file, warc_offset AS start, "
            f"CASE WHEN outcome = 'kept' THEN 'kept' ELSE split_part(coalesce(reason, outcome), ':', 1) END AS became "
            f"FROM ledger WHERE {where}",
            parameters,
        )
        rows = rows.append_column("place", _places(rows))
        local.register(side.letter, rows)
    local.execute(_JOIN)
    rows = local.sql("SELECT a, b, count(*) AS records FROM joined GROUP BY 1, 2").to_arrow_table().to_pylist()
    both = [row for row in rows if row["a"] is not None and row["b"] is not None]
    total = {"both": sum(row["records"] for row in both), "changed": 0, "only_a": 0, "only_b": 0}
    for row in rows:
        kind = "only_a" if row["b"] is None else "only_b" if row["a"] is None else "changed"
        total[kind] += row["records"] if row["a"] != row["b"] else 0
    if total["both"] == 0:
        found.apart = True
        found.notes.append(
            "the runs share no record: they read other crawls, or other copies of the pages; "
            "shares and distributions are compared, records are not"
        )
        return
    found.joined = {"share": share, **total, "identical": False}
    moves = [{**row, "changed": row["a"] != row["b"]} for row in rows]
    found.moves = sorted(
        moves, key=lambda r: (not r["changed"], None in (r["a"], r["b"]), -r["records"], r["a"] or "", r["b"] or "")
    )
    changed = [move for move in found.moves if move["changed"]]
    # What makes the output another one comes before another reason for the same outcome.
    changed.sort(key=lambda m: KEPT not in (m["a"], m["b"]))
    shown = [m for m in changed if None not in (m["a"], m["b"])][:CHANGES]
    shown += [m for m in changed if None in (m["a"], m["b"])][: CHANGES // 2]
    drawn = {(move["a"], move["b"]): _drawn(local, move, n_examples) for move in shown}
    found.examples = examples(sides, drawn, share)
    found.texts = _texts(found, sides, n_examples)


def local_database() -> duckdb.DuckDBPyConnection:
    """A database in memory, for tables that are there already: it reads and writes no file."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET enable_external_access = false")
    return connection


_JOIN = """
CREATE TEMP TABLE joined AS
WITH several AS (
    SELECT doc_id FROM a GROUP BY doc_id HAVING count(*) > 1
    UNION SELECT doc_id FROM b GROUP BY doc_id HAVING count(*) > 1
), left_ AS (
    SELECT *, row_number() OVER (PARTITION BY doc_id, key ORDER BY file, start) AS nth
    FROM (SELECT *, CASE WHEN doc_id IN (SELECT doc_id FROM several) THEN place ELSE '' END AS key FROM a)
), right_ AS (
    SELECT *, row_number() OVER (PARTITION BY doc_id, key ORDER BY file, start) AS nth
    FROM (SELECT *, CASE WHEN doc_id IN (SELECT doc_id FROM several) THEN place ELSE '' END AS key FROM b)
)
SELECT coalesce(x.doc_id, y.doc_id) AS doc_id, x.became AS a, y.became AS b,
       x.file AS file_a, x.start AS at_a, y.file AS file_b, y.start AS at_b
FROM left_ x FULL OUTER JOIN right_ y ON x.doc_id = y.doc_id AND x.key = y.key AND x.nth = y.nth
"""
"""Records by id; those of an id that stands more than once in a run by the name of the file and the offset, too."""


def _places(rows: pa.Table) -> pa.Array:
    """Name of the file without its folder, and the offset: what stays when a crawl is moved."""
    files = rows.column("file").combine_chunks().dictionary_encode()
    names = pa.array([posixpath.basename(name) for name in files.dictionary.to_pylist()], pa.string())
    at = rows.column("start").cast(pa.string()).combine_chunks()
    return pc.binary_join_element_wise(names.take(files.indices), at, ":")


def _drawn(local: duckdb.DuckDBPyConnection, move: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Records of one change: those with the smallest ids, which are hashes, so that they are a draw and always the same."""
    rows = local.execute(
        "SELECT doc_id, file_a, at_a, file_b, at_b FROM joined WHERE a IS NOT DISTINCT FROM ? AND b IS NOT DISTINCT FROM ? "
        "ORDER BY doc_id, file_a, at_a, file_b, at_b LIMIT ?",
        [move["a"], move["b"], n],
    )
    names = [column[0] for column in rows.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def _texts(found: Comparison, sides: tuple[Side, Side], n_examples: int) -> dict[str, Any] | None:
    """Pages kept in both whose text is not the same."""
    if not all(side.tables.has("curated") for side in sides):
        return None
    outcomes = {row["what"]: max(row["a"], row["b"]) for row in found.outcomes}
    share = min(_share(TEXTS, outcomes["kept"]), _share(TEXT_BYTES, outcomes["bytes"]))
    local = local_database()
    where, parameters = _where("id", share)
    for side in sides:
        rows = side.tables.sql(
            "SELECT id, md5(string_agg(text, chr(31) ORDER BY piece)) AS digest "
            f"FROM curated WHERE {where} GROUP BY id",
            parameters,
        )
        local.register(side.letter, rows)
    pages, changed = local.execute(
        "SELECT count(*), count(*) FILTER (a.digest <> b.digest) FROM a JOIN b USING (id)"
    ).fetchone() or (0, 0)
    drawn = local.execute(
        "SELECT id FROM a JOIN b USING (id) WHERE a.digest <> b.digest ORDER BY id LIMIT ?", [n_examples]
    ).fetchall()
    lines = text_examples(sides, [row[0] for row in drawn])
    return {"share": share, "pages": pages, "changed": changed, "examples": lines}


def _names(recipe: Recipe) -> list[str]:
    return ["n_chars", "language_score", "script_share", *measured_schema(recipe).names, *scored_names(recipe.score)]


def _measure(found: Comparison, sides: tuple[Side, Side]) -> None:
    """How signals and scores of kept pages are spread in either run; those that moved most come first."""
    kept = max(max(row["a"], row["b"]) for row in found.outcomes if row["what"] == "kept")
    share = _share(MEASURED, kept)
    asked = {bound.signal for side in sides for bound in bounds(side.run.recipe)}
    there = set(sides[0].tables.columns("ledger")) & set(sides[1].tables.columns("ledger"))
    every = dict.fromkeys(name for side in sides for name in _names(side.run.recipe))
    names = [name for name in every if name in there and (not name.startswith(EDITED) or name in asked)]
    where, parameters = _where("doc_id", share)
    columns = ", ".join(f'"{name}"' for name in names)
    read = [
        side.tables.sql(f"SELECT {columns} FROM ledger WHERE outcome = 'kept' AND {where}", parameters)
        for side in sides
        if names and not found.identical
    ]
    found.measured = {"share": share, **{side.letter: t.num_rows for side, t in zip(sides, read, strict=False)}}
    rows = []
    for name in names if read else ():
        x, y = (_numbers(table, name) for table in read)
        if len(x) and len(y):
            rows.append({"signal": name, "distance": distance(x, y), "a": _quantiles(x), "b": _quantiles(y)})
    found.distributions = sorted(rows, key=lambda row: (-row["distance"], row["signal"]))


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return np.empty(0)
    values = column.drop_null().to_numpy().astype(np.float64)
    return np.sort(values[~np.isnan(values)])


def _quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float | int]:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf")
    return {"pages": len(values), "p05": _tidy(low), "median": _tidy(middle), "p95": _tidy(high)}


def _tidy(value: float) -> float:
    return float(f"{value:.6g}")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two samples, each sorted: the most that their shares up to a value differ (0..1)."""
    every = np.concatenate([a, b])
    shares = (np.searchsorted(one, every, side="right") / len(one) for one in (a, b))
    x, y = shares
    return round(float(np.abs(x - y).max()), 6)


def _groups(sides: tuple[Side, Side]) -> dict[str, list[dict[str, Any]]]:
    """Languages, hosts and topics by kept pages, those first whose share of the run moved most."""
    found = {}
    for name, column in GROUPS.items():
        if not all(column in side.tables.columns("ledger") for side in sides):
            continue
        local = local_database()
        for side in sides:
            kept = f"SELECT coalesce(\"{column}\", 'unknown') AS name FROM ledger WHERE outcome = 'kept'"
            counted = side.tables.sql(f"SELECT name, count(*) AS pages FROM ({kept}) GROUP BY name")
            local.register(side.letter, counted)
        rows = local.sql(_SHARES, params=[MOST_GROUPS]).to_arrow_table()
        if rows.num_rows:
            found[name] = [
                {**row, "share_a": _tidy(row["share_a"]), "share_b": _tidy(row["share_b"])} for row in rows.to_pylist()
            ]
    return found


_SHARES = """
WITH sums AS (
    SELECT (SELECT sum(pages) FROM a) AS all_a, (SELECT sum(pages) FROM b) AS all_b
), counts AS (
    SELECT name, coalesce(a.pages, 0) AS a, coalesce(b.pages, 0) AS b FROM a FULL OUTER JOIN b USING (name)
)
SELECT name, a, b, coalesce(a / all_a, 0) AS share_a, coalesce(b / all_b, 0) AS share_b
FROM counts, sums
WHERE a <> b OR share_a <> share_b
ORDER BY abs(share_b - share_a) DESC, abs(b - a) DESC, name
LIMIT ?
"""
