"""Texts for the heads that are shipped: pages of finished runs with the set they come from, and labelled collections.

The texts are those in the folder that `CRAWLMILL_DATA` names; runs are made over its crawl/ and gold/ archives.
"""

import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import wikitextparser

from benchmarks.dedup_corpus import data_folder
from classifiers.training_set import EXAMPLES, texts_as_examples
from jobs.runs import existing_run, read_part
from pipeline.curation import kept_rows
from pipeline.sources.inputs import expand
from pipeline.sources.wikipedia import pages as dump_pages
from pipeline.sources.wikipedia import splits

ENGLISH, SURE = "en", 0.65
LEAST_WORDS, PIECE = 50, 600


class LabelledPage(NamedTuple):
    """A page of a run, the set of the data folder that it comes from, and what that set says of it."""

    doc_id: str
    url: str
    host: str | None
    group: str
    language: str
    n_words: int
    text: str
    dataset: str
    page_type: str | None
    path: str
    kept: bool

    def example(self, label: str, group: str | None = None, source: str | None = None) -> dict[str, Any]:
        """As a row of EXAMPLES."""
        row = {name: getattr(self, name) for name in ("doc_id", "url", "host", "language", "n_words", "text")}
        return row | {"label": label, "split": None, "group": group or self.group, "source": source or self.dataset}


def labelled_pages(runs: list[str]) -> list[LabelledPage]:
    """The English pages of at least LEAST_WORDS words that pass the gates of the runs; `kept` are those that rules keep."""
    known = _sets()
    found = []
    for name in runs:
        run = existing_run(name)
        for task in run.tasks:
            part = read_part(run.folder, task.part, run.recipe)
            kept = kept_rows(part.documents, part.signals, run.recipe)
            records = part.records.filter(pa.compute.is_null(part.records.column("outcome")))
            rows = records.select(["doc_id", "url", "host", "domain", "warc_file", "warc_offset"]).to_pylist()
            texts = part.documents.select(["text", "language", "language_score"]).to_pylist()
            for row, text, keep in zip(rows, texts, kept.tolist(), strict=True):
                if text["language"] != ENGLISH or text["language_score"] < SURE:
                    continue
                n_words = len(text["text"].split())
                of = known.get((Path(row["warc_file"]).name, row["warc_offset"]))
                if n_words < LEAST_WORDS or of is None:
                    continue
                group = row["domain"] or row["host"] or row["doc_id"]
                page = (row["doc_id"], row["url"], row["host"], group, ENGLISH, n_words, text["text"])
                found.append(LabelledPage(*page, of["dataset"], of["page_type"], of["path"], keep))
    return sorted(found)


def _sets() -> dict[tuple[str, int], dict[str, Any]]:
    folder = data_folder()
    known = {}
    for row in _jsonl(folder / "crawl/index.jsonl.gz"):
        known[row["file"], row["offset"]] = {"dataset": row["dataset"], "page_type": None, "path": row["source"]}
    for file in sorted((folder / "gold").glob("*.gold.jsonl.gz")):
        name = file.name.partition(".")[0]
        for row in _jsonl(file):
            facts = {"dataset": name, "page_type": row.get("page_type"), "path": row["source"]}
            known[f"{name}.pages.warc.gz", row["offset"]] = facts
    return known


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def brown() -> list[tuple[str, str, str]]:
    """(genre, file, text) of the Brown corpus, tags taken off."""
    found = []
    with zipfile.ZipFile(data_folder() / "labelled/text/nltk_brown.zip") as archive:
        genres = dict(line.split() for line in archive.read("brown/cats.txt").decode().splitlines() if line.strip())
        for name, genre in sorted(genres.items()):
            lines = archive.read(f"brown/{name}").decode("latin-1").splitlines()
            words = (" ".join(token.rsplit("/", 1)[0] for token in line.split()) for line in lines)
            found.append((genre, name, "\n".join(_joined(line) for line in words if line)))
    return found


def _joined(line: str) -> str:
    """A tokenised line with its quotes, contractions and marks as people write them."""
    line = line.replace("``", '"').replace("''", '"').replace(" n't", "n't").replace("<unk>", "")
    line = re.sub(r" @(.)@ ", r"\1", line)
    return re.sub(r" ([.,;:?!)%]|'(?:s|re|ve|ll|d|m)\b)", r"\1", re.sub(r"([($]) ", r"\1", line))


def movie_reviews() -> list[tuple[str, str]]:
    """(file, text)."""
    with zipfile.ZipFile(data_folder() / "labelled/text/nltk_movie_reviews.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
        return [(name, _joined(archive.read(name).decode("latin-1"))) for name in names]


def news_articles() -> list[str]:
    """The thousand articles of the near-duplicate set."""
    with gzip.open(data_folder() / "labelled/neardup/articles_1000.train.gz", "rt", encoding="utf-8") as file:
        return [line.partition(" ")[2] for line in file]


def books() -> list[tuple[str, str]]:
    """(name, text) of the plain Gutenberg books, without their header and footer."""
    found = []
    for path in sorted((data_folder() / "labelled/text").glob("gutenberg_*.txt.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        text = re.split(r"\*\*\* ?START OF[^\n]*\n", text, maxsplit=1)[-1]
        found.append((path.name.partition(".")[0], re.split(r"\*\*\* ?END OF", text, maxsplit=1)[0]))
    return found


def encyclopedia() -> list[tuple[str, str]]:
    """(collection, text) of Wikipedia articles: WikiText-2, and the dump's without its markup."""
    found = []
    folder = data_folder() / "labelled/wiki"
    for path in sorted(folder.glob("wikitext2_*.txt.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
        articles = re.split(r"(?m)^ = [^=\n]+ = ?\n", text)
        found += [("wikitext2", "\n".join(map(_joined, article.splitlines()))) for article in articles]
    for split in splits(expand([str(p) for p in sorted(folder.glob("*.bz2"))]), 1 << 40):
        for page in dump_pages(split):
            if page.redirect is None:
                plain = wikitextparser.parse(page.text[:12_000]).plain_text()
                found.append(("dump", re.sub(r"(?s)<!--.*?-->|\{\|.*?\|\}|\{\{.*?\}\}", " ", plain)))
    return [(name, text) for name, text in found if len(text.split()) >= 100]


def from_texts(rows: list[tuple[str, str]], label: str, source: str) -> pa.Table:
    """Examples of (group, text), in pieces the size of pages."""
    groups, texts = [g for g, _ in rows], [t for _, t in rows]
    return texts_as_examples(texts, label, source, groups=groups, language=ENGLISH, piece_words=PIECE)


def from_pages(rows: list[dict[str, Any]]) -> pa.Table:
    """Examples of pages."""
    return pa.Table.from_pylist(rows, schema=EXAMPLES)


def code_texts() -> list[str]:
    """Functions with their descriptions, of HumanEval: to measure the code detector, never to train on."""
    rows = _jsonl(data_folder() / "labelled/bench/humaneval.jsonl.gz")
    return [row["prompt"] + row["canonical_solution"] for row in rows]
