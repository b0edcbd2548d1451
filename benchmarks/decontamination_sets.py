"""What `benchmarks/decontamination.py` measures on: items of 14 test sets with decoys, their index, and clean pages."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.decontamination_pages import DATA, clean_pages
from benchmarks.dedup_corpus import words
from pipeline.contamination.benchmark import Benchmark, load_items
from pipeline.contamination.decoys import decoys
from pipeline.contamination.index import GramIndex
from pipeline.contamination.kernel import K
from pipeline.contamination.matching import Matching, find, grams, judge

SETS = {
    "mmlu@columns": "mmlu",
    "gsm8k": "gsm8k_test",
    "humaneval": "humaneval",
    "hellaswag": "hellaswag_val",
    "arc_easy@llm_adapters": "arc_easy_test",
    "winogrande@llm_adapters": "winogrande_test",
    "openbookqa@llm_adapters": "openbookqa_test",
    "boolq@llm_adapters": "boolq_test",
    "lambada": "lambada_test",
    "bbh": "bbh",
    "commonsenseqa": "commonsenseqa_dev",
    "svamp": "svamp",
    "asdiv": "asdiv",
    "xquad@nested": "xquad_en",
}
COMMON = 10  # pages: n-grams in more are common text
BATCH = 1000
MODES = ("ngram", "idf")


def load(data: Path = DATA) -> pa.Table:
    """All items, schema ITEMS. Raises SystemExit without data."""
    folder = data / "labelled" / "bench"
    if not folder.exists():
        raise SystemExit(f"no benchmarks under {data} (set CRAWLMILL_DATA)")
    return load_items([Benchmark(set=name, path=str(folder / f"{file}.jsonl.gz")) for name, file in SETS.items()])


class Bench:
    """Items and decoys, their index, clean pages, and what is common among them."""

    def __init__(self, n_decoys: int, data: Path = DATA) -> None:
        self.table = load(data)
        self.items: list[dict[str, Any]] = self.table.to_pylist()
        self.index = index_of(self.table, n_decoys)
        self.pages = clean_pages(data)

    @cached_property
    def decoy(self) -> np.ndarray:
        """Of every item of the index, whether it is a decoy."""
        return self.index.items.column("decoy").to_numpy(zero_copy_only=False)

    @cached_property
    def matchable(self) -> dict[str, np.ndarray]:
        """Of every item by mode, whether it has words enough to be found at all: N, or a gram of the index."""
        n_words = self.index.items.column("n_words").to_numpy()[: len(self.items)]
        status = np.array(self.index.items.column("status").to_pylist()[: len(self.items)])
        return {"ngram": (status == "ok") | (status == "duplicate"), "idf": n_words >= K}

    @cached_property
    def bags(self) -> list[tuple[str, ...]]:
        """The words of every item: questions and choices, these sorted, so that items of the same words are equal."""
        return [
            (
                " ".join(words(f"{item['passage'] or ''} {item['question']}")),
                *sorted(" ".join(words(c)) for c in item["choices"]),
            )
            for item in self.items
        ]

    @cached_property
    def same(self) -> np.ndarray:
        """A number for every item, equal for items of the same words; of decoys their own."""
        return self._numbered(self.bags)

    @cached_property
    def same_question(self) -> np.ndarray:
        """The same, of questions alone."""
        return self._numbered([bag[0] for bag in self.bags])

    def _numbered(self, keys: Sequence[Any]) -> np.ndarray:
        numbers: dict[Any, int] = {}
        own = [numbers.setdefault(key, len(numbers)) for key in keys]
        return np.array(own + [len(numbers) + i for i in range(self.index.items.num_rows - len(own))])

    @cached_property
    def n_words(self) -> np.ndarray:
        """Words of question, choices and answer of every item."""
        return np.array(
            [len(words(" ".join([i["question"], *i["choices"], i["answer"] or ""]))) for i in self.items], np.int64
        )

    @cached_property
    def clean_matches(self) -> list[pa.Table]:
        """What `find` says of the clean pages, `BATCH` at a time."""
        return [find(chunk(self.pages, at), self.index) for at in range(0, self.pages.num_rows, BATCH)]

    @cached_property
    def common(self) -> np.ndarray:
        """N-grams in more than `COMMON` clean pages, sorted."""
        held = [grams(matches, self.index).column("gram").to_numpy() for matches in self.clean_matches]
        values, counts = np.unique(np.concatenate(held), return_counts=True)
        return values[counts > COMMON]

    def false(self, matching: Matching) -> pa.Table:
        """What is found on clean pages, `row` being the number of the page."""
        return pa.concat_tables(
            shifted(judge(matches, self.index, matching, self.common), i * BATCH)
            for i, matches in enumerate(self.clean_matches)
        )

    @cached_property
    def bases(self) -> list[str]:
        """Texts of the clean pages that leaks are planted in: 200 to 1,500 words, nothing found in either mode."""
        taken = set()
        for mode in MODES:
            taken |= set(self.false(of_mode(mode)).column("row").to_pylist())
        texts = self.pages.column("text").to_pylist()
        return [text for i, text in enumerate(texts) if i not in taken and 200 <= text.count(" ") <= 1500]


def index_of(table: pa.Table, n_decoys: int) -> GramIndex:
    """The index of items with so many decoys."""
    parts = [table, decoys(table, n_decoys)] if n_decoys else [table]
    return GramIndex.build(pa.concat_tables(parts).combine_chunks())


def of_mode(mode: str) -> Matching:
    """The defaults of a mode."""
    return Matching(mode=mode)


def chunk(pages: pa.Table, at: int) -> pa.Array:
    return pages.column("text").slice(at, BATCH).combine_chunks()


def shifted(found: pa.Table, by: int) -> pa.Table:
    at = found.schema.get_field_index("row")
    return found.set_column(at, "row", pc.add(found.column("row").cast(pa.int64()), by))
