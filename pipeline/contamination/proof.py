"""What was found, as tables: which page holds which item, and what became of every item of a benchmark."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contamination.cuts import Edit, Stretch, excerpt, stretches, to_extracted
from pipeline.contamination.kernel import K
from pipeline.contamination.matching import Matching
from pipeline.dedup.candidates import first_of_runs
from pipeline.edits import apply_edits
from pipeline.masking import Masking, mask
from pipeline.tables import BENCHMARK_ITEMS, CONTAMINATION

TALLY = pa.schema(
    [
        pa.field("number", pa.int32()),
        *(
            BENCHMARK_ITEMS.field(name)
            for name in ("n_pages", "best_score", "best_doc_id", "best_url", "excerpt", "marks")
        ),
    ]
)
"""What is known of an item, by its number in the index: of one part, or of all."""


class Pages:
    """Pages that items are looked for in. `rows` has doc_id, url, language and text as extracted; `edits` (schema EDITS) is
    all that will be cut from them or replaced; `texts` are the texts as they will be written."""

    def __init__(self, rows: pa.Table, edits: pa.Table):
        self.rows = rows.combine_chunks()
        self.texts = apply_edits(self.rows.column("text"), self.rows.column("doc_id"), edits)
        self._edits = edits

    def __len__(self) -> int:
        return self.rows.num_rows

    def value(self, name: str, row: int) -> Any:
        """What a column holds of a page."""
        return self.rows.column(name)[row].as_py()

    def edits(self, row: int) -> list[Edit]:
        """Everything that is cut from a page or replaced in it."""
        own = self._edits.filter(pc.equal(self._edits.column("doc_id"), self.value("doc_id", row)))
        return _edits(own)


def _edits(table: pa.Table) -> list[Edit]:
    columns = (table.column(name).to_pylist() for name in ("start", "end", "replacement"))
    return list(zip(*columns, strict=True))


def contamination(found: pa.Table, items: pa.Table, pages: Pages) -> pa.Table:
    """What `matching.judge` found in pages under CONTAMINATION: items by name, places in the text as extracted.

    `items` is the table of the index. Sorted by page, benchmark, item and place.
    """
    rows = []
    left: dict[int, list[Stretch]] = {}
    for row in found.to_pylist():
        page = row["row"]
        if page not in left:
            left[page] = stretches(len(pages.value("text", page)), pages.edits(page))
        kept = left[page]
        start, end = to_extracted((row["start"], row["end"]), kept)
        spans = [to_extracted((span["start"], span["end"]), kept) for span in row["spans"]]
        named = {name: items.column(name)[row["item"]].as_py() for name in ("benchmark", "item", "decoy")}
        places = {"start": start, "end": end, "spans": [{"start": a, "end": b} for a, b in spans]}
        rows.append({**row, **named, **places, "doc_id": pages.value("doc_id", page)})
    order = [(name, "ascending") for name in ("doc_id", "benchmark", "item", "start", "end")]
    return pa.Table.from_pylist(rows, CONTAMINATION).sort_by(order)


def tally(found: pa.Table, pages: Pages, masking: Masking) -> pa.Table:
    """For each item found how many pages hold it, and the best of them (schema TALLY), personal data masked."""
    ids = pages.rows.column("doc_id").take(found.column("row"))
    rows = found.append_column("doc_id", ids)
    rows = rows.sort_by(
        [("item", "ascending"), ("score", "descending"), ("doc_id", "ascending"), ("start", "ascending")]
    )
    sizes = rows.group_by("item").aggregate([("doc_id", "count_distinct")]).to_pylist()
    n_pages = {size["item"]: size["doc_id_count_distinct"] for size in sizes}
    best = []
    masks: dict[int, list[Edit]] = {}
    for row in rows.take(pa.array(np.flatnonzero(first_of_runs(rows.column("item").to_numpy())))).to_pylist():
        page, text = row["row"], pages.texts[row["row"]].as_py()
        if page not in masks:
            languages = pa.array([pages.value("language", page)], pa.string())
            masks[page] = _edits(mask(pa.array([text], pa.string()), [row["doc_id"]], languages, masking).edits)
        shown, marks = excerpt(text, [(span["start"], span["end"]) for span in row["spans"]], masks[page])
        best.append(
            {
                "number": row["item"],
                "n_pages": n_pages[row["item"]],
                "best_score": row["score"],
                "best_doc_id": row["doc_id"],
                "best_url": pages.value("url", page),
                "excerpt": shown,
                "marks": [{"start": a, "end": b} for a, b in marks],
            }
        )
    return pa.Table.from_pylist(best, TALLY)


def total(tallies: pa.Table) -> pa.Table:
    """The tallies of several parts as one: pages added up, and the best of the best."""
    order = [("number", "ascending"), ("best_score", "descending"), ("best_doc_id", "ascending")]
    rows = tallies.sort_by(order).combine_chunks()
    first = rows.take(pa.array(np.flatnonzero(first_of_runs(rows.column("number").to_numpy()))))
    sums = rows.group_by("number", use_threads=False).aggregate([("n_pages", "sum")])
    at = pc.index_in(first.column("number"), value_set=sums.column("number").combine_chunks())
    n_pages = sums.column("n_pages_sum").take(at).cast(pa.int32())
    return first.set_column(first.schema.get_field_index("n_pages"), TALLY.field("n_pages"), n_pages)


def statuses(indexed: pa.Table, matching: Matching) -> list[str]:
    """What keeps each item from being found: ok, short, empty, or duplicate.

    By N-grams an item of fewer words than the least N is short, by weight one without a gram of the index, or of fewer
    nats than are asked for in any case.
    """
    status = indexed.column("status").to_pylist()
    if matching.mode == "ngram":
        return status
    needed = min(matching.long, matching.alone, matching.bare, matching.together)
    sizes = zip(indexed.column("n_words").to_pylist(), indexed.column("weight").to_pylist(), strict=True)
    return [
        ("ok" if n_words >= K and weight >= needed else "short") if known in ("ok", "short") else known
        for known, (n_words, weight) in zip(status, sizes, strict=True)
    ]


def item_table(items: pa.Table, indexed: pa.Table, tallies: pa.Table, matching: Matching) -> pa.Table:
    """Every item and what became of it (schema BENCHMARK_ITEMS), in the order of the benchmarks' files.

    `items` has schema ITEMS, `indexed` is the table of the index, row beside row; `tallies` are totals. An item that
    repeats another was matched as that one, and stands in the same pages.
    """
    first = {
        f"{benchmark}/{item}": number
        for number, (benchmark, item) in enumerate(
            zip(indexed.column("benchmark").to_pylist(), indexed.column("item").to_pylist(), strict=True)
        )
    }
    same = [first[name] if name else number for number, name in enumerate(indexed.column("duplicate_of").to_pylist())]
    at = pc.index_in(pa.array(same, pa.int32()), value_set=tallies.column("number").combine_chunks())
    known = tallies.take(at)
    texts: list[str | None] = [None] * items.num_rows
    held = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
    for number, row in zip(held.tolist(), items.take(pa.array(held)).to_pylist(), strict=True):
        texts[number] = item_text(row)
    own = {
        "status": pa.array(statuses(indexed, matching), pa.string()),
        "n_pages": known.column("n_pages").fill_null(0),
        "text": pa.array(texts, pa.string()),
    }
    columns = [
        own[column.name]
        if column.name in own
        else (indexed if column.name in indexed.column_names else known).column(column.name)
        for column in BENCHMARK_ITEMS
    ]
    return pa.table(columns, schema=BENCHMARK_ITEMS)


def item_text(item: dict[str, Any]) -> str:
    """An item (a row of ITEMS) as people read it."""
    parts = [item["passage"], item["question"], *(f"- {choice}" for choice in item["choices"] or ())]
    if item["answer"]:
        parts.append(f"Answer: {item['answer']}")
    return "\n".join(part for part in parts if part)


def page_counts(found: pa.Table) -> dict[str, dict[str, int]]:
    """How many pages hold an item of each benchmark (`pages`), and a decoy made of it (`decoy_pages`)."""
    counts: dict[str, dict[str, int]] = {}
    for name, decoy in (("pages", False), ("decoy_pages", True)):
        rows = found.filter(pc.equal(found.column("decoy"), decoy))
        sizes = rows.group_by("benchmark").aggregate([("doc_id", "count_distinct")]).sort_by("benchmark").to_pylist()
        counts[name] = {size["benchmark"]: size["doc_id_count_distinct"] for size in sizes}
    return counts


def summary(items: pa.Table, counts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each benchmark: how many items, what kept some from being matched, how many stand in pages, in how many.

    `items` has schema BENCHMARK_ITEMS, `counts` are the `page_counts` of all parts. `false_pages` is how many of the pages
    would be expected by chance: the pages with decoys, times how many items there are for a decoy; null without decoys.
    """
    pages, decoy_pages = (
        {name: sum(part[which].get(name, 0) for part in counts) for name in set(items.column("benchmark").to_pylist())}
        for which in ("pages", "decoy_pages")
    )
    rows = []
    for benchmark in dict.fromkeys(items.column("benchmark").to_pylist()):
        of_it = items.filter(pc.equal(items.column("benchmark"), benchmark))
        real, shuffled = (of_it.filter(pc.equal(of_it.column("decoy"), decoy)) for decoy in (False, True))
        status = real.column("status").to_pylist()
        matchable = sum(s in ("ok", "duplicate") for s in status)
        rows.append(
            {
                "benchmark": benchmark,
                "items": real.num_rows,
                "duplicate": status.count("duplicate"),
                "short": status.count("short"),
                "empty": status.count("empty"),
                "found": pc.sum(pc.greater(real.column("n_pages"), 0)).as_py() or 0,
                "pages": pages[benchmark],
                "best_score": pc.max(real.column("best_score")).as_py(),
                "decoys": shuffled.num_rows,
                "decoy_pages": decoy_pages[benchmark],
                "false_pages": decoy_pages[benchmark] * matchable / shuffled.num_rows if shuffled.num_rows else None,
            }
        )
    return rows


def by_task(items: pa.Table, found: bool) -> dict[str, list[int]]:
    """Document numbers by task of lm-evaluation-harness, of the items that stand in pages, or of those that do not.

    Those that do not can be given to `lm_eval --samples`. Items without a task are left out, decoys too.
    """
    named = items.filter(pc.and_(pc.invert(items.column("decoy")), items.column("task").is_valid()))
    tasks: dict[bool, dict[str, set[int]]] = {True: {}, False: {}}
    for row in named.select(["task", "doc", "n_pages"]).to_pylist():
        if row["doc"] is not None:
            tasks[row["n_pages"] > 0].setdefault(row["task"], set()).add(row["doc"])
    # A document of several items is clean if all of them are.
    left = {task: docs - (set() if found else tasks[True].get(task, set())) for task, docs in tasks[found].items()}
    return {task: sorted(docs) for task, docs in sorted(left.items()) if docs}
