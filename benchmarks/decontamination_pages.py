"""Real pages that were made without any benchmark in mind, for `benchmarks/decontamination.py`.

The crawl as the pipeline extracts it, the pages of the extraction sets, film reviews, the Brown corpus, news, books in
pieces and articles of Wikipedia; each text once. Made once and kept in a file of the temporary folder.

That they hold no test item is not known, only likely: what is found on them is read by a person.
"""

import bz2
import gzip
import html
import json
import os
import re
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.extraction import extract
from pipeline.sources.archive import read_archive
from pipeline.sources.charset import decode_text
from pipeline.sources.http import decode_body
from pipeline.sources.records import Record

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
PIECE = 900  # words of a piece of a book or of a text of the Brown corpus
SHORTEST = 100  # characters: less is no page


def clean_pages(data: Path = DATA, fresh: bool = False) -> pa.Table:
    """`name`, `source` and `text` of every page, in an order that is always the same; raises SystemExit without data."""
    kept = Path(tempfile.gettempdir()) / "crawlmill-clean-pages.parquet"
    if kept.exists() and not fresh:
        return pq.read_table(kept)
    rows, seen = [], set()
    for source, name, text in _texts(data):
        if len(text) >= SHORTEST and text not in seen:
            seen.add(text)
            rows.append({"name": name, "source": source, "text": text})
    if not rows:
        raise SystemExit(f"no pages under {data} (set CRAWLMILL_DATA)")
    pages = pa.Table.from_pylist(rows)
    partial = kept.with_suffix(f".{os.getpid()}")
    pq.write_table(pages, partial, compression="zstd")
    partial.replace(kept)
    return pages


def other_texts(data: Path = DATA) -> pa.Array:
    """Real texts that are no pages: twenty sentences or comments each, or eight paragraphs of WikiText."""
    labelled = data / "labelled"
    groups: dict[str, list[str]] = defaultdict(list)
    for path in (*sorted((labelled / "langid").glob("*.gz")), *sorted((labelled / "toxicity").glob("*.gz"))):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                text = max((value for value in row.values() if isinstance(value, str)), key=len, default="")
                groups[row["lang"] if path.parent.name == "langid" else path.name].append(text)
    for path in sorted((labelled / "wiki").glob("wikitext2_*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            groups[path.name] = [line.strip() for line in lines if len(line) > 200]
    sizes = {name: 8 if name.startswith("wikitext") else 20 for name in groups}
    joined = (
        "\n".join(texts[i : i + sizes[name]])
        for name, texts in groups.items()
        for i in range(0, len(texts), sizes[name])
    )
    return pa.array(joined, pa.large_string())


def _texts(data: Path) -> Iterator[tuple[str, str, str]]:
    for folder, pattern in (("crawl", "part-*.warc.gz"), ("gold", "*.pages.warc.gz")):
        for path in sorted((data / folder).glob(pattern)):
            for offset, text in _extracted(path):
                yield folder, f"{path.name.partition('.')[0]}:{offset}", text
    labelled = data / "labelled"
    with zipfile.ZipFile(labelled / "text" / "nltk_movie_reviews.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt"):
                yield "reviews", Path(name).stem, archive.read(name).decode("utf-8", "replace")
    with gzip.open(labelled / "neardup" / "articles_1000.train.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            name, _, text = line.partition(" ")
            yield "news", name, text
    with zipfile.ZipFile(labelled / "text" / "nltk_brown.zip") as archive:
        for name in sorted(archive.namelist()):
            if re.fullmatch(r"brown/c[a-r]\d\d", name):
                tagged = archive.read(name).decode("utf-8", "replace")
                lines_of = (" ".join(word.rsplit("/", 1)[0] for word in line.split()) for line in tagged.splitlines())
                for i, piece in enumerate(pieces([line for line in lines_of if line])):
                    yield "brown", f"{Path(name).name}:{i}", piece
    for path in sorted((labelled / "text").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as book:
            for i, piece in enumerate(pieces(book.read().splitlines())):
                yield "books", f"{path.name.partition('.')[0]}:{i}", piece
    for path in sorted((labelled / "wiki").glob("gensim_enwiki*.bz2")):
        with bz2.open(path, "rt", encoding="utf-8") as dump:
            for i, body in enumerate(re.findall(r"<text[^>]*>(.*?)</text>", dump.read(), re.S)):
                yield "wikipedia", str(i), unmarked(body)


def pieces(lines: list[str]) -> Iterator[str]:
    """Lines in pieces of at least 900 words; what is left over goes with the last."""
    piece, n = [], 0
    for i, line in enumerate(lines):
        piece.append(line)
        n += len(line.split())
        if n >= PIECE and sum(len(rest.split()) for rest in lines[i + 1 : i + 200]) >= PIECE:
            yield "\n".join(piece)
            piece, n = [], 0
    yield "\n".join(piece)


def unmarked(wiki: str) -> str:
    """The text of an article without most of its marks."""
    wiki = html.unescape(wiki)
    wiki = re.sub(
        r"<ref[^>]*/>|<ref.*?</ref>|<[^>]*>|\{\{[^{}]*\}\}|\[\[(?:File|Image):[^\]]*\]\]", " ", wiki, flags=re.S
    )
    return re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]|'{2,}|={2,}", r"\1", wiki)


def _extracted(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as stream:
        for item in read_archive(stream, path.name):
            if isinstance(item, Record) and item.record_type == "response":
                body = decode_body(item.payload, item.http_headers, 10**7)
                page = decode_text(body.content, item.http_headers.get("content-type")).text
                yield item.offset, extract(page, engine="resiliparse").text
