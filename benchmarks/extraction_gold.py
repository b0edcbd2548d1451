"""The gold sets as (page, main text): the readings and the score that extraction is measured with."""

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lxml.html
from warcio.archiveiterator import ArchiveIterator

from pipeline.sources.charset import decode_text

SETS = (
    "wcxb",
    "dragnet",
    "cleaneval_final",
    "scrapinghub_aeb",
    "mozilla_readability",
    "page_signal",
    "htmltotext_multi",
    "trafilatura_eval",
)
"""The last has no full text, only snippets that must and must not appear."""

_WORD = re.compile(r"\w+")
_GOLD_CLASS = re.compile(r"\bx-nc-sel[12]\b")


@dataclass(frozen=True)
class Page:
    """One page of a gold set; `gold` is its main text, None where the set has only snippets."""

    set: str
    url: str
    html: str
    gold: str | None
    kind: str
    present: tuple[str, ...]
    absent: tuple[str, ...]


def data_folder() -> Path:
    """Where the real pages are: CRAWLMILL_DATA, else the folder that the tests look in."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return Path(os.environ.get("CRAWLMILL_DATA", default))


def pages(name: str, folder: Path) -> Iterator[Page]:
    """The pages of one gold set, in file order."""
    with (
        gzip.open(folder / "gold" / f"{name}.gold.jsonl.gz", "rt", encoding="utf-8") as rows,
        open(folder / "gold" / f"{name}.pages.warc.gz", "rb") as archive,
    ):
        records = (record for record in ArchiveIterator(archive) if record.rec_type == "response")
        for line, record in zip(rows, records, strict=True):
            row = json.loads(line)
            html = decode_text(record.content_stream().read(), None).text
            snippets = (tuple(row.get("with_") or row.get("with") or ()), tuple(row.get("without") or ()))
            yield Page(name, row["url"], html, gold_text(name, row), row.get("page_type", ""), *snippets)


def gold_text(name: str, row: dict) -> str | None:
    """Main text of a gold row, read as each set means it; None where the set has none."""
    if name == "mozilla_readability":
        return " ".join(lxml.html.fromstring(f"<div>{row['gold_html']}</div>").itertext())
    text = row.get("gold_text")
    if text is None:
        return None
    if name == "dragnet":
        return text.split("!@#$%^&*()")[0]  # what follows is comments
    if name == "cleaneval_final":
        return re.sub(r"</?[hpl]>", "", re.sub(r"^\s*URL:.*\n", "", text), flags=re.I)
    if name == "page_signal":
        chosen = []
        for node in lxml.html.fromstring(text).iter():
            names = [node.get("class") or "", *(above.get("class") or "" for above in node.iterancestors())]
            if _GOLD_CLASS.search(names[0]) and not any(_GOLD_CLASS.search(above) for above in names[1:]):
                chosen.append(" ".join(node.itertext()))
        return "\n".join(chosen)
    return text


def words(text: str) -> list[str]:
    """Maximal runs of `\\w` in the lower-cased text."""
    return _WORD.findall(text.lower())


def word_score(found: Counter[str], gold: Counter[str]) -> tuple[float, float, float]:
    """(precision, recall, F1) of two bags of words by the size of their multiset intersection; 0 where it is empty."""
    common = (found & gold).total()
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / found.total(), common / gold.total()
    return precision, recall, 2 * precision * recall / (precision + recall)
