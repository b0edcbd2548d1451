"""Job: finds benchmark items in what rules and deduplication keep. `spark-submit jobs/decontaminate.py --help`.

One pass over the text as it will be written finds matches and counts in how many pages each n-gram stands. Judging then
needs the matches only, and a second look at the text of pages with items, for the examples.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.exchange import Hop, Parcel, Received, by_bucket, exchange
from jobs.measures import count
from jobs.report.decontamination import page
from jobs.runs import Run, code_version, read_compared
from jobs.session import Watch
from jobs.store import RunFolder
from pipeline.contamination.benchmark import digest, load_items
from pipeline.contamination.decoys import decoys
from pipeline.contamination.index import GramIndex
from pipeline.contamination.matching import find, grams, judge
from pipeline.contamination.proof import (
    TALLY,
    Pages,
    by_task,
    contamination,
    item_table,
    page_counts,
    summary,
    tally,
    total,
)
from pipeline.curation import kept_rows
from pipeline.dedup.candidates import ranges
from pipeline.recipe import Recipe
from pipeline.tables import CONTAMINATION

STAGE = "decontaminate"

RESULTS = "decontamination"
"""Folder of what people read: the page, and the lists of items for evaluation."""

WORK = f"{RESULTS}/work"
"""What tasks leave for each other; removed when the stage is done."""

TABLE = "contamination"
ITEMS = "benchmark_items/items.parquet"

DECOYS_AN_ITEM = 10
"""Decoys for each item at most: more of them would be much the same."""

GRAM_BUCKETS = 64
"""Tasks that count n-grams, each a range of them: there are no more than the benchmarks have, however large the crawl."""

TALLY_BUCKETS = 64
"""Tasks that bring together what the parts found of an item."""


@dataclass(frozen=True)
class _Search:
    """All that a task needs to know: where measures lie, where results go, what is looked for and how."""

    measures: str
    output: str
    recipe: Recipe
    index_name: str

    @property
    def folder(self) -> RunFolder:
        """Where results go."""
        return RunFolder(self.output)

    @property
    def index(self) -> GramIndex:
        """The n-grams of all items, one mapped copy for all workers of a machine."""
        return _open_index(str(self.folder.local_copy(self.index_name)))

    def pages(self, part: str) -> Pages:
        """The pages of a part that rules and deduplication keep."""
        (records, documents, signals, edits), scores, duplicates = read_compared(
            RunFolder(self.measures), self.folder, part, self.recipe
        )
        kept = pa.array(kept_rows(documents, signals, self.recipe, duplicates, scores))
        undecided = records.filter(records.column("outcome").is_null())
        rows = documents.select(["doc_id", "text", "language"]).filter(kept)
        return Pages(rows.append_column("url", undecided.column("url").filter(kept)), edits)

    def scan(self, n_buckets: int, part: str) -> Iterator[Parcel]:
        """First pass: matches to a work file, and how many pages of the part hold each n-gram to its bucket."""
        done = self.folder.read_json(f"{WORK}/pages-{part}.json")
        if done is None or done["index"] != self.index_name:
            pages = self.pages(part)
            matches = find(pages.texts, self.index)
            self.folder.write_table(f"{WORK}/matches-{part}.parquet", matches)
            self.folder.write_json(f"{WORK}/pages-{part}.json", {"pages": len(pages), "index": self.index_name})
        else:
            matches = self.folder.read_table(f"{WORK}/matches-{part}.parquet")
        if self.recipe.decontaminate.common is not None:
            held = grams(matches, self.index).column("gram").to_numpy()
            gram, n_pages = np.unique(held, return_counts=True)
            counted = pa.table({"gram": gram, "pages": n_pages.astype(np.int64)})
            yield from by_bucket(counted, ranges(gram, n_buckets), "grams")

    def count(self, _: int, received: Received) -> Iterator[Parcel]:
        """The n-grams of a bucket that stand in too many pages, to the one task that writes them."""
        most = self.recipe.decontaminate.common
        if "grams" in received and most is not None:
            sums = received["grams"].group_by("gram").aggregate([("pages", "sum")])
            yield 0, "common", sums.filter(pc.greater(sums.column("pages_sum"), most)).select(["gram"])

    def write_common(self, _: int, received: Received) -> None:
        """All n-grams that are common text, sorted."""
        common = received.get("common", pa.table({"gram": pa.array([], pa.uint64())}))
        self.folder.write_table(f"{WORK}/common.parquet", common.sort_by("gram"), plain=("gram",))

    def judge(self, part: str) -> Iterator[Parcel]:
        """Second pass, over the matches: the table contamination, and what was found to the bucket of each item."""
        folder = self.folder
        matches = folder.read_table(f"{WORK}/matches-{part}.parquet")
        found, tallies = CONTAMINATION.empty_table(), TALLY.empty_table()
        if matches.num_rows:
            common = folder.read_table(f"{WORK}/common.parquet").column("gram").to_numpy()
            judged = judge(matches, self.index, self.recipe.decontaminate.matching, common)
            if judged.num_rows:
                pages = self.pages(part)
                found = contamination(judged, self.index.items, pages)
                tallies = tally(judged, pages, self.recipe.pii)
        facts = {
            "part": part,
            "searched": (folder.read_json(f"{WORK}/pages-{part}.json") or {})["pages"],
            **page_counts(found),
        }
        count("left", facts["searched"])
        written = folder.write_table(f"{TABLE}/part-{part}.parquet", found)
        folder.write_json(f"_manifests/{STAGE}/{part}.json", {**facts, "tables": {TABLE: written}})
        yield from by_bucket(tallies, tallies.column("number").to_numpy() % TALLY_BUCKETS, "tallies")

    def write_tally(self, bucket: int, received: Received) -> None:
        """What all parts together found of the items of a bucket."""
        tallies = total(received.get("tallies", TALLY.empty_table()))
        self.folder.write_table(f"{WORK}/tally-{bucket:05d}.parquet", tallies)


@lru_cache(maxsize=1)
def _open_index(path: str) -> GramIndex:
    return GramIndex.open(path)


def decontaminate(
    spark: Any | None,
    run: Run,
    measures: Run | None = None,
    partitions: int | None = None,
    watch: Watch | None = None,
) -> None:
    """Finds the recipe's benchmarks in the pages that are kept so far; leaves the tables contamination and
    benchmark_items, the page and the lists of items.

    `measures` is the run whose texts are searched, by default `run` itself. Raises RecipeError for a benchmark that
    cannot be read.
    """
    options = run.recipe.decontaminate
    if run.is_done(STAGE) or not options.looks:
        return
    source = measures or run
    folder = run.folder
    parts = [task.part for task in source.tasks]
    name = _prepare(run, source)
    items = folder.read_table(f"{name}.parquet")
    search = _Search(source.folder.path, folder.path, run.recipe, f"{name}.arrow")
    ask = partial(exchange, spark, partitions=partitions, least=source.least_slices, watch=watch)
    hops = [Hop(GRAM_BUCKETS, search.count, light=True), Hop(1, search.write_common)]
    ask("looking for benchmarks", parts, partial(search.scan, GRAM_BUCKETS), hops)
    ask("judging matches", parts, search.judge, [Hop(TALLY_BUCKETS, search.write_tally, light=True)])
    tallies = pa.concat_tables(
        folder.read_table(f"{WORK}/tally-{bucket:05d}.parquet") for bucket in range(TALLY_BUCKETS)
    )
    _publish(run, item_table(items, search.index.items, tallies.cast(TALLY), options.matching))
    folder.remove_tree(WORK)


def _prepare(run: Run, source: Run) -> str:
    """Items and index, made once for the same benchmarks: where they lie in the run's folder, without the ending."""
    options = run.recipe.decontaminate
    made_of = [digest(options.benchmarks), options.ngram, options.decoys, code_version()]
    name = f"{RESULTS}/index-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
    if run.folder.has(f"{name}.parquet"):
        return name
    if source.folder.has(f"{name}.parquet"):
        items, index = (
            source.folder.read_table(f"{name}.parquet"),
            source.folder.local_copy(f"{name}.arrow").read_bytes(),
        )
    else:
        real = load_items(options.benchmarks)
        n_decoys = min(options.decoys, DECOYS_AN_ITEM * real.num_rows)
        items = pa.concat_tables([real, decoys(real, n_decoys)]).combine_chunks()
        with tempfile.TemporaryDirectory() as draft:
            GramIndex.build(items, options.ngram).write(Path(draft, "index"))
            index = Path(draft, "index").read_bytes()
    run.folder.write_bytes(f"{name}.arrow", index)
    run.folder.write_table(f"{name}.parquet", items)  # last: it says that both are there
    return name


def _publish(run: Run, items: pa.Table) -> None:
    """The table of items, and what people and evaluations read of it."""
    folder = run.folder
    folder.write_table(ITEMS, items)
    shown = page(
        run.recipe, items, summary(items, run.manifests(STAGE)), sum(m["searched"] for m in run.manifests(STAGE))
    )
    folder.write_bytes(f"{RESULTS}/report.html", shown.encode())
    for name, found in (("contaminated", True), ("clean", False)):
        folder.write_json(f"{RESULTS}/lm_eval_{name}.json", by_task(items, found))
    listed = items.filter(pc.and_(pc.greater(items.column("n_pages"), 0), pc.invert(items.column("decoy"))))
    chosen = ["benchmark", "item", "task", "doc", "n_pages", "best_score", "best_doc_id", "best_url"]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in listed.select(chosen).to_pylist())
    folder.write_bytes(f"{RESULTS}/contaminated.jsonl", "".join(lines).encode())


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
