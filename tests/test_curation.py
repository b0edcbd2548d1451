"""Decisions over parts, and what only a whole shard can see."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from pipeline.annotation import Measurement
from pipeline.curation import (
    LEAKED,
    NOTHING_BUT_LEAKS,
    NOTHING_LEFT,
    SAME_RECORD,
    TOO_MANY_PIECES,
    decide,
    settle,
    shard_count,
    shard_of,
)
from pipeline.recipe import Recipe, parse_recipe
from pipeline.tables import CONTAMINATION, CURATED, DOCUMENTS, EDITS, RECORDS, document_id

RECIPE = parse_recipe("name: x\nrules: {q: {bounds: {word_count: [3, null]}}}\n")
DATE = datetime(2024, 3, 1, 12, 0, 0, tzinfo=UTC)


def record(number: int, outcome: str | None = None, **more) -> dict:
    base = dict.fromkeys(RECORDS.names)
    return (
        base
        | {
            "doc_id": document_id(f"<urn:{number}>", "https://a.example/", DATE, "sha1:X"),
            "source": "web",
            "warc_file": "a.warc.gz",
            "warc_offset": number * 10,
            "warc_length": 10,
            "date": DATE,
            "record_type": "response",
            "url": "https://a.example/",
            "flaws": [],
            "gate_hits": ["g"] if outcome else [],
            "outcome": outcome,
            "reason": "g" if outcome else None,
        }
        | more
    )


def part(rows: list[dict], texts: dict[int, str], recipe: Recipe = RECIPE) -> list[pa.Table]:
    records = pa.Table.from_pylist(rows, RECORDS)
    documents = pa.Table.from_pylist(
        [
            dict.fromkeys(DOCUMENTS.names)
            | {"doc_id": rows[i]["doc_id"], "text": text, "language": "en", "language_score": 0.9, "script_share": 1.0}
            for i, text in texts.items()
        ],
        DOCUMENTS,
    )
    batch = documents.combine_chunks().to_batches()[0] if texts else pa.RecordBatch.from_pylist([], DOCUMENTS)
    measured = Measurement(recipe).annotate(batch)
    signals = pa.table(
        [batch.column("doc_id"), *measured.signals.columns], names=["doc_id", *measured.signals.schema.names]
    )
    return [records, documents, signals, measured.edits]


def test_every_record_gets_one_row_and_every_reason() -> None:
    rows = [record(0), record(1, "dropped"), record(2), record(3, "error", error="cut")]
    decided = decide(*part(rows, {0: "one two three four", 2: "one"}), RECIPE, 1)
    assert decided.column("doc_id").to_pylist() == [r["doc_id"] for r in rows]
    assert decided.column("outcome").to_pylist() == ["kept", "dropped", "dropped", "error"]
    assert decided.column("rule_hits").to_pylist() == [[], ["g"], ["q.word_count"], ["g"]]
    assert decided.column("texts").to_pylist() == [["one two three four"], None, None, None]
    assert decided.column("n_pieces").to_pylist() == [1, None, None, None]
    assert settle(decided)[1].column("n_words").to_pylist() == [4]
    assert decided.column("word_count").to_pylist() == [4, None, 1, None]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    tables = part([record(0), record(1)], {0: "a b c", 1: "a b c"})
    tables[1] = tables[1].slice(1)
    with pytest.raises(ValueError, match="do not belong"):
        decide(*tables, RECIPE, 1)


def test_settle_is_a_function_of_the_rows_not_of_their_order() -> None:
    rows = [record(i) for i in range(6)]
    decided = decide(*part(rows, {i: f"text number {i} here" for i in range(6)}), RECIPE, 1)
    ledger, curated = settle(decided)
    again = settle(decided.take([3, 1, 5, 0, 2, 4]))
    assert ledger.equals(again[0]) and curated.equals(again[1])
    assert curated.schema.equals(CURATED)
    assert curated.column("id").to_pylist() == sorted(r["doc_id"] for r in rows)
    assert ledger.column("row").to_pylist() == list(range(6))


def test_a_capture_archived_twice_is_read_twice_and_kept_once() -> None:
    rows = [record(0), record(0, warc_file="b.warc.gz")]
    ledger, curated = settle(decide(*part(rows, {0: "one two three", 1: "one two three"}), RECIPE, 1).take([1, 0]))
    assert curated.column("warc_file").to_pylist() == ["a.warc.gz"]
    assert ledger.column("outcome").to_pylist() == ["kept", "dropped"]
    assert ledger.column("reason").to_pylist() == [None, SAME_RECORD]
    assert ledger.column("shard").to_pylist() == [0, None]


def test_line_edits_are_applied_to_the_curated_text_only() -> None:
    recipe = parse_recipe("name: x\nrules: {c: {dialect: c4@fineweb, bounds: {sentence_count: null}}}\n")
    text = "The mill stands by the river and still turns.\nPlease accept our cookie policy to go on reading here.\nIt grinds."
    tables = part([record(0)], {0: text}, recipe)
    decided = decide(*tables, recipe, 1)
    assert tables[1].column("text").to_pylist() == [text]
    if decided.column("outcome")[0].as_py() == "kept":
        assert "cookie" not in decided.column("texts")[0].as_py()[0]
    assert any(e["reason"] for e in tables[3].to_pylist())


def test_an_empty_part_gives_an_empty_ledger() -> None:
    decided = decide(*part([], {}), RECIPE, 4)
    ledger, curated = settle(decided)
    assert ledger.num_rows == curated.num_rows == 0


def test_shards_are_equal_ranges_of_the_id_space() -> None:
    ids = ["00000000" + "0" * 24, "7fffffff" + "f" * 24, "80000000" + "0" * 24, "ffffffff" + "f" * 24]
    assert shard_of(ids, 2).tolist() == [0, 0, 1, 1]
    assert shard_of(ids, 1).tolist() == [0, 0, 0, 0]
    assert shard_count(0, RECIPE) == 1
    assert shard_count(RECIPE.output.shard_bytes + 1, RECIPE) == 2


ITEM = "what does the keeper of the lamp do when both bells ring at once"
FILL = " ".join(f"word{i}" for i in range(60))  # 409 characters


def leak(record: dict, text: str, **other: object) -> dict:
    start = text.index(ITEM)
    row = dict.fromkeys(CONTAMINATION.names) | {
        "doc_id": record["doc_id"],
        "benchmark": "b",
        "item": "7",
        "decoy": False,
    }
    return row | {"score": 1.0, "start": start, "end": start + len(ITEM), "spans": []} | other


def decontaminated(action: str, texts: dict[int, str], leaks: list[dict], more: str = "") -> tuple[pa.Table, pa.Table]:
    recipe = parse_recipe(f"name: x\ndecontaminate: {{action: {action}, context: 20, least_piece: 100{more}}}\n")
    rows = [record(i) for i in texts]
    table = pa.Table.from_pylist(leaks, CONTAMINATION)
    return settle(decide(*part(rows, texts, recipe), recipe, 1, None, table))


def test_a_page_with_an_item_is_cut_in_pieces_that_are_rows_of_their_own() -> None:
    texts = {0: f"{FILL} one {ITEM}? two {FILL}", 1: "a page without items"}
    ledger, curated = decontaminated("cut", texts, [leak(record(0), texts[0]), leak(record(0), texts[0], item="8")])
    by_id = {row["doc_id"]: row for row in ledger.to_pylist()}
    cut, plain = by_id[record(0)["doc_id"]], by_id[record(1)["doc_id"]]
    assert (cut["outcome"], cut["n_pieces"], plain["n_pieces"]) == ("kept", 2, 1)
    assert [(held["benchmark"], held["item"]) for held in cut["contamination"]] == [("b", "7"), ("b", "8")]
    assert plain["contamination"] == []
    rows = curated.to_pylist()
    assert [row["id"] for row in rows[cut["row"] : cut["row"] + 2]] == [cut["doc_id"]] * 2
    assert rows[plain["row"]]["text"] == texts[1]
    assert [row["piece"] for row in rows[cut["row"] : cut["row"] + 2]] == [0, 1]
    for row in rows[cut["row"] : cut["row"] + 2]:
        assert not any(word in row["text"].split() for word in (*ITEM.split(), "one", "two"))
        assert row["text"] in FILL and row["n_words"] == len(row["text"].split())


def test_pieces_that_are_too_short_go_and_with_the_last_the_page() -> None:
    texts = {0: f"{FILL} {ITEM} short end", 1: f"short {ITEM} end"}
    leaks = [leak(record(i), text) for i, text in texts.items()]
    ledger, curated = decontaminated("cut", texts, leaks)
    assert sorted(zip(ledger["outcome"].to_pylist(), ledger["reason"].to_pylist(), strict=True), key=str) == [
        ("dropped", NOTHING_BUT_LEAKS),
        ("kept", None),
    ]
    assert curated.column("piece").to_pylist() == [0]


def test_a_page_in_too_many_pieces_is_dropped() -> None:
    text = f" {ITEM} ".join([FILL] * 4)
    starts = [at for at in range(len(text)) if text.startswith(ITEM, at)]
    leaks = [leak(record(0), text, start=at, end=at + len(ITEM)) for at in starts]
    assert decontaminated("cut", {0: text}, leaks)[1].column("piece").to_pylist() == [0, 1, 2, 3]
    ledger, curated = decontaminated("cut", {0: text}, leaks, ", most_pieces: 3")
    assert ledger.column("rule_hits").to_pylist() == [[TOO_MANY_PIECES]] and curated.num_rows == 0


@pytest.mark.parametrize("action", ["drop", "mark"])
def test_pages_with_items_can_be_dropped_or_only_marked_and_decoys_do_nothing(action: str) -> None:
    texts = {0: f"{FILL} {ITEM} {FILL}", 1: f"{ITEM} {FILL}"}
    ledger, curated = decontaminated(
        action, texts, [leak(record(0), texts[0]), leak(record(1), texts[1], decoy=True, item="decoy-1")]
    )
    by_id = {row["doc_id"]: row for row in ledger.to_pylist()}
    leaked, clean = by_id[record(0)["doc_id"]], by_id[record(1)["doc_id"]]
    assert leaked["reason"] == (LEAKED if action == "drop" else None)
    assert [held["item"] for held in leaked["contamination"]] == ["7"]
    assert clean["outcome"] == "kept" and clean["contamination"] == []
    assert texts[1] in curated.column("text").to_pylist()
    assert (texts[0] in curated.column("text").to_pylist()) == (action == "mark")


def test_a_page_of_which_nothing_is_left_is_dropped_and_not_written_empty() -> None:
    recipe = parse_recipe("name: x\ndedup: [{lines: {per: host, max_copies: 1}}]\n")
    records, documents, signals, _ = part([record(0), record(1)], {0: "all of this goes", 1: "this line stays"}, recipe)
    cuts = [{"doc_id": record(0)["doc_id"], "start": 0, "end": 16, "replacement": "", "reason": "dedup.lines"}]
    ledger, curated = settle(decide(records, documents, signals, pa.Table.from_pylist(cuts, EDITS), recipe, 1))
    reasons = dict(zip(ledger["doc_id"].to_pylist(), ledger["reason"].to_pylist(), strict=True))
    assert reasons == {record(0)["doc_id"]: NOTHING_LEFT, record(1)["doc_id"]: None}
    assert curated["text"].to_pylist() == ["this line stays"]


def test_personal_data_of_a_capture_archived_twice_counts_once() -> None:
    recipe = parse_recipe("name: x\npii: {mask: [EMAIL_ADDRESS], max_hits: 1}\n")
    rows = [record(0), record(0, warc_offset=77)]
    text = "write to vera.holm@riverside-museum.net today"
    ledger, curated = settle(decide(*part(rows, {0: text, 1: text}, recipe), recipe, 1))
    assert ledger["reason"].to_pylist() == [None, SAME_RECORD]
    assert curated["text"].to_pylist() == ["write to <EMAIL_ADDRESS> today"]
