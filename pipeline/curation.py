"""Measures to decisions: the ledger, and the curated text of what is kept.

`decide` works on one part (the same records, documents and signals, row beside row). `settle` works on one shard, after
the rows of all parts were brought together by id: only there can it be seen that a record was archived twice.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contamination.cuts import pieces, widened
from pipeline.edits import apply_edits
from pipeline.masking import Masked, mask
from pipeline.recipe import Recipe
from pipeline.rules import hits, score_hits
from pipeline.scores import score_columns
from pipeline.signals.base import field
from pipeline.tables import CURATED, DOCUMENTS, DUPLICATES, RECORDS, Outcome

_BESIDE_TEXT = [column for column in DOCUMENTS if column.name not in ("doc_id", "text")]

PERSONAL = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))

CONTAMINATED = pa.list_(pa.struct([("benchmark", pa.string()), ("item", pa.string()), ("score", pa.float32())]))

_DECISION = [
    field("n_chars", pa.int32(), "length of the text as extracted", "characters"),
    field("rule_hits", pa.list_(pa.string()), "every gate and rule that the record broke, in the recipe's order"),
    field("duplicate_of", pa.string(), "page that it gave way to, which may itself have to; null if none", "doc_id"),
    field("similarity", pa.float32(), "similarity to the page that is kept of its near-duplicate cluster", "0..1"),
    field("cluster", pa.string(), "id of its near-duplicate cluster; null where it is in none", "hex"),
    field("cluster_size", pa.int32(), "pages of that cluster; null for a page that was not compared"),
    field("pii", PERSONAL, "what was masked as personal data: kind, and place in the extracted text; never the value"),
    field("contamination", CONTAMINATED, "benchmark items that it held, whatever became of them"),
    field("upsample", pa.float32(), "weight by the recipe's curve over cluster_size; null unless kept"),
    field("shard", pa.int32(), "curated shard that holds the page; null unless kept"),
    field("row", pa.int32(), "row in that shard, the first where it is several; null unless kept"),
    field("n_pieces", pa.int32(), "rows that it is: several where benchmark items were cut out; null unless kept"),
]

_TEXTS = field("texts", pa.list_(pa.string()), "text after edits, in pieces where it was cut; null unless kept")

NOTHING_LEFT = "dedup.nothing_left"
"""Reason of a page that held nothing but lines that are cut as repeated."""

NOTHING_MILD = "score.nothing_left"
"""Reason of a page that held nothing but sentences that are cut by their score."""

TOO_PERSONAL = "pii.max_hits"
"""Reason of a page that holds more personal data than the recipe allows."""

LEAKED = "decontaminate.overlap"
"""Reason of a page that holds a benchmark item, where the recipe drops such pages."""

TOO_MANY_PIECES = "decontaminate.pieces"
"""Reason of a page that falls in more pieces than the recipe allows when benchmark items are cut out."""

NOTHING_BUT_LEAKS = "decontaminate.nothing_left"
"""Reason of a page of which no piece is long enough when benchmark items are cut out."""

SAME_RECORD = "same_record"
"""Reason of a record that was read before under the same id: the same capture, archived twice."""


def ledger_schema(signals: pa.Schema) -> pa.Schema:
    """The ledger: what the record is, what was measured, every rule it broke, and what became of it."""
    measured = [column for column in signals if column.name != "doc_id"]
    gates = [column for column in RECORDS if column.name != "gate_hits"]
    return pa.schema([*gates, *_BESIDE_TEXT, _DECISION[0], *measured, *_DECISION[1:]])


def decided_schema(signals: pa.Schema) -> pa.Schema:
    """The ledger with the curated text beside it: what `decide` returns and `settle` takes."""
    return pa.schema([*ledger_schema(signals), _TEXTS])


def broken_rules(
    documents: pa.Table, signals: pa.Table, recipe: Recipe, scores: pa.Table | None = None
) -> list[tuple[str, ...]]:
    """For every document, the rules on its text that it breaks, in the recipe's order; for those that have `scores`
    (doc_id and the columns of `score_columns`) then the rules on these.
    """
    measures = signals.drop_columns(["doc_id"])
    for name in ("language", "language_score", "script_share"):
        measures = measures.append_column(name, documents.column(name))
    broken = hits(measures.combine_chunks(), recipe)
    if scores is not None and scores.num_rows:
        at = pc.index_in(
            documents.column("doc_id").combine_chunks(), value_set=scores.column("doc_id").combine_chunks()
        )
        rows = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
        for row, more in zip(rows.tolist(), score_hits(scores.take(at.drop_null()), recipe), strict=True):
            broken[row] += more
    return broken


def kept_rows(
    documents: pa.Table,
    signals: pa.Table,
    recipe: Recipe,
    duplicates: pa.Table | None = None,
    scores: pa.Table | None = None,
) -> np.ndarray:
    """Which documents break no rule on text or scores and, given what was compared, give way to no other. Of a capture
    that was archived twice in the part only the first counts, as in `settle`.
    """
    kept = _unbroken(broken_rules(documents, signals, recipe, scores)) & _first(documents.column("doc_id"))
    return kept & _compared(documents.column("doc_id"), duplicates).column("removed_by").is_null().to_numpy()


def decide(
    records: pa.Table,
    documents: pa.Table,
    signals: pa.Table,
    edits: pa.Table,
    recipe: Recipe,
    n_shards: int,
    duplicates: pa.Table | None = None,
    contamination: pa.Table | None = None,
    scores: pa.Table | None = None,
) -> pa.Table:
    """Verdicts for one part: one row a record, in the records' order, under `decided_schema`.

    documents and signals hold the undecided records (null outcome), in the records' order; duplicates (schema
    DUPLICATES) those that were compared, contamination (schema CONTAMINATION) the benchmark items found and scores those
    that were scored, in any order.
    Raises ValueError if documents or signals are of another part.
    """
    undecided = pc.is_null(records.column("outcome")).to_numpy()
    ids = records.column("doc_id").filter(pa.array(undecided))
    if not (ids.equals(documents.column("doc_id")) and ids.equals(signals.column("doc_id"))):
        raise ValueError("documents or signals do not belong to these records")
    broken = broken_rules(documents, signals, recipe, scores)
    compared = _compared(documents.column("doc_id"), duplicates)
    for i, removed in enumerate(compared.column("removed_by").to_pylist()):
        if removed is not None:
            broken[i] = (f"dedup.{removed}",)
    leaks = _leaks(documents.column("doc_id"), contamination)
    if recipe.decontaminate.action == "drop":
        for i in leaks:
            broken[i] = (*broken[i], LEAKED)
    kept = _unbroken(broken)
    masked = _masked(documents, kept & _first(documents.column("doc_id")), recipe)
    personal = _personal(documents.column("doc_id"), masked.found)
    edits = pa.concat_tables([edits, masked.edits])
    whole = _edited(documents, edits, kept)
    if recipe.dedup.cuts or recipe.score.cuts:
        n_words = _word_count(whole)
        for i in np.flatnonzero(kept & (n_words.fill_null(1).to_numpy() == 0)).tolist():
            broken[i] = (NOTHING_LEFT if recipe.dedup.cuts else NOTHING_MILD,)
    cut = {}
    if recipe.decontaminate.action == "cut":
        for i, found in leaks.items():
            if not broken[i]:
                cut[i], reason = _in_pieces(documents.slice(i, 1), found, edits, recipe)
                broken[i] = reason
    if recipe.pii.max_hits is not None:
        counts = pc.list_value_length(personal).to_numpy()
        for i in np.flatnonzero(kept & (counts > recipe.pii.max_hits)).tolist():
            broken[i] = (*broken[i], TOO_PERSONAL)
    kept = _unbroken(broken)
    texts = _lists(whole, cut, kept)
    position = np.where(undecided, np.cumsum(undecided) - 1, -1)
    into_documents = pa.array(position, mask=~undecided)

    outcome = records.column("outcome").to_pylist()
    reason = records.column("reason").to_pylist()
    rule_hits = records.column("gate_hits").to_pylist()
    for i in np.flatnonzero(undecided).tolist():
        rules = broken[position[i]]
        outcome[i] = Outcome.DROPPED if rules else Outcome.KEPT
        reason[i] = rules[0] if rules else None
        rule_hits[i] = list(rules)

    shards = shard_of(records.column("doc_id").to_pylist(), n_shards)
    columns = {name: records.column(name) for name in records.column_names if name != "gate_hits"}
    columns |= {c.name: documents.column(c.name).take(into_documents) for c in _BESIDE_TEXT}
    columns |= {n: signals.column(n).take(into_documents) for n in signals.column_names if n != "doc_id"}
    columns |= {n: c.take(into_documents) for n, c in _scores(documents.column("doc_id"), scores, recipe).items()}
    columns |= {n: compared.column(n).take(into_documents) for n in compared.column_names if n != "removed_by"}
    columns |= {
        "n_chars": pc.utf8_length(documents.column("text")).take(into_documents),
        "outcome": pa.array([o and str(o) for o in outcome], pa.string()),
        "reason": pa.array(reason, pa.string()),
        "rule_hits": pa.array([h or [] for h in rule_hits], pa.list_(pa.string())),
        "shard": pa.array(shards, pa.int32()),
        "row": pa.nulls(records.num_rows, pa.int32()),
        "pii": personal.take(into_documents),
        "upsample": _upsampled(compared.column("cluster_size"), kept, recipe).take(into_documents),
        "contamination": _held(leaks, len(broken)).take(into_documents),
        "n_pieces": pc.list_value_length(texts).take(into_documents),
        "texts": texts.take(into_documents),
    }
    schema = decided_schema(pa.schema([*signals.schema, *score_columns(recipe.score)]))
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)


Leaks = dict[int, list[dict[str, Any]]]
"""By the number of a document, the rows of CONTAMINATION that are about it."""


def _leaks(doc_ids: pa.ChunkedArray, contamination: pa.Table | None) -> Leaks:
    """The benchmark items in each document, in the order of documents; decoys are no items."""
    if contamination is None:
        return {}
    found = contamination.filter(pc.invert(contamination.column("decoy")))
    at = pc.index_in(found.column("doc_id"), value_set=doc_ids.combine_chunks()).to_pylist()
    leaks: Leaks = {}
    for i, row in sorted(zip(at, found.to_pylist(), strict=True), key=lambda pair: (pair[0], *_place(pair[1]))):
        leaks.setdefault(i, []).append(row)
    return leaks


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["start"], row["end"], row["benchmark"], row["item"]


def _held(leaks: Leaks, n_documents: int) -> pa.Array:
    """For each document the benchmark items in it, by name."""
    names = CONTAMINATED.value_type.names
    named = ([{name: row[name] for name in names} for row in leaks.get(i, ())] for i in range(n_documents))
    return pa.array(named, CONTAMINATED)


def _in_pieces(
    document: pa.Table, leaks: list[dict[str, Any]], edits: pa.Table, recipe: Recipe
) -> tuple[list[str], tuple[str, ...]]:
    """What is left of a document when the items in it are cut out, and the reason to drop it, if there is one."""
    options = recipe.decontaminate
    (doc_id,), (text,) = document.column("doc_id").to_pylist(), document.column("text").to_pylist()
    own = edits.filter(pc.equal(edits.column("doc_id"), doc_id)).select(["start", "end", "replacement"])
    cuts = widened(text, [(leak["start"], leak["end"]) for leak in leaks], options.context)
    left = pieces(text, cuts, [tuple(edit.values()) for edit in own.to_pylist()], options.least_piece)
    if left.n > options.most_pieces:
        return [], (TOO_MANY_PIECES,)
    return left.texts, () if left.texts else (NOTHING_BUT_LEAKS,)


def _lists(texts: pa.Array, cut: dict[int, list[str]], kept: np.ndarray) -> pa.ListArray:
    """A list of texts for each document that is kept, null for the others: its text, or its pieces where it was cut."""
    lengths = np.ones(len(texts), np.int32)
    values = []
    at = 0
    for i, left in cut.items():
        values += [texts.slice(at, i - at), pa.array(left, pa.string())]
        lengths[i] = len(left)
        at = i + 1
    flat = pa.concat_arrays([*values, texts.slice(at)])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(~kept))


def _unbroken(broken: list[tuple[str, ...]]) -> np.ndarray:
    return np.array([not rules for rules in broken], dtype=bool)


def _first(doc_ids: pa.ChunkedArray) -> np.ndarray:
    """Where an id stands for the first time."""
    first = np.zeros(len(doc_ids), bool)
    first[np.unique(doc_ids.to_numpy(), return_index=True)[1]] = True
    return first


def _masked(documents: pa.Table, kept: np.ndarray, recipe: Recipe) -> Masked:
    """What is to be masked in the documents that are kept."""
    chosen = documents.filter(pa.array(kept)).combine_chunks()
    texts, languages = (chosen.column(name).combine_chunks() for name in ("text", "language"))
    return mask(texts, chosen.column("doc_id").to_pylist(), languages, recipe.pii)


def _personal(doc_ids: pa.ChunkedArray, found: pa.Table) -> pa.Array:
    """For each document the kinds and places of what is masked in it."""
    held: dict[str, list[dict[str, Any]]] = {}
    for row in found.to_pylist():
        held.setdefault(row.pop("doc_id"), []).append(row)
    return pa.array([held.get(doc_id, []) for doc_id in doc_ids.to_pylist()], PERSONAL)


def _compared(doc_ids: pa.ChunkedArray, duplicates: pa.Table | None) -> pa.Table:
    """What comparing came to for each document, null where it was not compared."""
    names = ("removed_by", "similarity", "cluster", "cluster_size")
    if duplicates is None:
        duplicates = DUPLICATES.empty_table()
    at = pc.index_in(doc_ids.combine_chunks(), value_set=duplicates.column("doc_id").combine_chunks())
    rows = duplicates.take(at)
    keeper = pc.case_when(
        pc.make_struct(*(pc.equal(rows.column("removed_by"), by) for by in ("url", "exact", "minhash"))),
        *(rows.column(name) for name in ("url_keeper", "exact_keeper", "keeper")),
    )
    return rows.select(names).append_column("duplicate_of", keeper)


def _scores(doc_ids: pa.ChunkedArray, scores: pa.Table | None, recipe: Recipe) -> dict[str, pa.ChunkedArray]:
    """Each document's scores, null where it has none."""
    schema = score_columns(recipe.score)
    if scores is None:
        scores = pa.schema([DOCUMENTS.field("doc_id"), *schema]).empty_table()
    at = pc.index_in(doc_ids.combine_chunks(), value_set=scores.column("doc_id").combine_chunks())
    return {name: scores.column(name).take(at) for name in schema.names}


def _upsampled(sizes: pa.ChunkedArray, kept: np.ndarray, recipe: Recipe) -> pa.Array:
    """The recipe's weight of each kept page: that of the largest size on its curve that the cluster reaches, else 1."""
    curve = sorted(recipe.dedup.upsample.items())
    steps = np.array([size for size, _ in curve], np.int64)
    weights = np.array([1.0, *(weight for _, weight in curve)], np.float32)
    reached = np.searchsorted(steps, sizes.fill_null(1).to_numpy(), side="right")
    return pa.array(weights[reached], pa.float32(), mask=~kept)


def shard_of(doc_ids: list[str], n_shards: int) -> np.ndarray:
    """Shard of each id: the id space in `n_shards` equal ranges, so that sorted shards are one sorted whole."""
    prefix = np.array([int(doc_id[:8], 16) for doc_id in doc_ids], dtype=np.uint64)
    return ((prefix * np.uint64(n_shards)) >> np.uint64(32)).astype(np.int32)


def shard_count(n_text_bytes: int, recipe: Recipe) -> int:
    """How many shards a run has: a function of the extracted text and the recipe, never of the cluster."""
    return max(1, -(-n_text_bytes // recipe.output.shard_bytes))


def settle(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """One shard's decided rows, in any order, to its (ledger, curated) tables, both sorted by id.

    A capture that was archived twice is read twice; the first by file name and offset stands, the others are dropped.
    """
    rows = rows.sort_by([("doc_id", "ascending"), ("warc_file", "ascending"), ("warc_offset", "ascending")])
    rows = rows.combine_chunks()
    ids = rows.column("doc_id")
    again = np.zeros(rows.num_rows, dtype=bool)
    if rows.num_rows > 1:
        again[1:] = pc.equal(ids.slice(1), ids.slice(0, rows.num_rows - 1)).to_numpy()
    repeated = pa.array(again)
    outcome = rows.column("outcome")
    demoted = pc.and_(repeated, pc.not_equal(outcome, str(Outcome.ERROR)))
    rows = _replace(rows, "outcome", pc.if_else(demoted, str(Outcome.DROPPED), outcome))
    rows = _replace(rows, "reason", pc.if_else(demoted, SAME_RECORD, rows.column("reason")))
    rule_hits = rows.column("rule_hits").to_pylist()
    for i in np.flatnonzero(demoted.to_numpy()):
        rule_hits[i] = [SAME_RECORD, *rule_hits[i]]
    rows = _replace(rows, "rule_hits", pa.array(rule_hits, pa.list_(pa.string())))

    kept = pc.equal(rows.column("outcome"), str(Outcome.KEPT)).to_numpy()
    lengths = np.where(kept, rows.column("n_pieces").fill_null(0).to_numpy(), 0)
    first = pa.array(np.cumsum(lengths) - lengths, pa.int32(), mask=~kept)
    rows = _replace(rows, "row", first)
    for name in ("shard", "n_pieces"):
        rows = _replace(rows, name, pc.if_else(pa.array(kept), rows.column(name), None))

    ledger = rows.drop_columns([_TEXTS.name])
    return ledger.combine_chunks(), _curated(rows.filter(pa.array(kept)))


def _curated(kept: pa.Table) -> pa.Table:
    """The rows that people load: one for each piece of a page that is kept."""
    texts = kept.column(_TEXTS.name).combine_chunks()
    parents, flat = texts.value_parent_indices(), texts.flatten()
    lengths = kept.column("n_pieces").to_numpy()
    number = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    own = {
        "id": kept.column("doc_id").take(parents),
        "piece": pa.array(number, pa.int32()),
        "text": flat,
        "n_words": _word_count(flat),
        "n_bytes": pc.binary_length(flat),
    }
    columns = []
    for column in CURATED:
        if column.name in own:
            columns.append(own[column.name])
        elif column.name in kept.column_names:
            columns.append(kept.column(column.name).take(parents))
        else:
            columns.append(pa.nulls(len(flat), column.type))
    return pa.table(columns, schema=CURATED).combine_chunks()


def _replace(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), values.cast(table.schema.field(at).type))


def _edited(documents: pa.Table, edits: pa.Table, kept: np.ndarray) -> pa.Array:
    """Texts after edits where kept, null elsewhere."""
    texts = documents.column("text").combine_chunks()
    texts = pc.if_else(pa.array(kept), texts, pa.scalar(None, pa.string()))
    if edits.num_rows == 0:
        return texts
    return apply_edits(texts, documents.column("doc_id"), edits)


def _word_count(texts: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(texts)
    counts = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(0, counts.type), counts)  # Arrow splits "" into one word
