"""What the rules for code and mathematics find and miss, and how fast they are.

    python -m benchmarks.code_math --runs CRAWL GOLD

The runs are those of `benchmarks.shipped_heads`. Truth of pages: the share of a page's text that its HTML has in `<code>`,
`<pre>` and `<textarea>`; sets that use `<pre>` for mail and verse, and forums where most code is posted without them, are
left out. A page with a share from 0.2 on is code, one
without such elements is none, the rest is left out. Truth of mathematics: paragraphs of the Wikipedia dump with and without
`<math>`, whose LaTeX stands in the text as extraction leaves it, after the word `displaystyle`.
"""

import argparse
import re
import sysconfig
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from lxml import html
from warcio.archiveiterator import ArchiveIterator

from benchmarks import head_sets as sets
from benchmarks.dedup_corpus import data_folder
from classifiers.code_math import kinds, shares
from classifiers.training_set import pieces
from pipeline.sources.inputs import expand
from pipeline.sources.wikipedia import pages as dump_pages
from pipeline.sources.wikipedia import splits

LISTED = ("code", "pre", "textarea")
LEFT_OUT = (
    "openscenegraph_site_lists", "suttacentral_multilang", "cleaneval_final", "chardet_multi_encoding", "opendcl_forum",
    "openenergymonitor_forum",
)  # fmt: skip
MOST_CODE = 0.2


def html_code_shares() -> dict[str, float]:
    """For every page of crawl/ and gold/, by URL, the share of its text that its HTML marks as code."""
    found = {}
    for path in sorted([*data_folder().glob("crawl/*.warc.gz"), *data_folder().glob("gold/*.warc.gz")]):
        with path.open("rb") as file:
            for record in ArchiveIterator(file):
                if record.rec_type != "response":
                    continue
                url = record.rec_headers.get_header("WARC-Target-URI")
                body = record.content_stream().read()
                if not any(f"<{tag}".encode() in body for tag in LISTED):
                    found[url] = 0.0
                    continue
                try:
                    tree = html.fromstring(body)
                except (ValueError, html.etree.ParserError):
                    continue
                for other in tree.xpath("//script|//style|//comment()"):
                    if other.getparent() is not None:
                        other.drop_tree()
                listed = tree.xpath("|".join(f"//{t}[not(ancestor::code or ancestor::pre)]" for t in LISTED))
                whole = sum(len(t.strip()) for t in tree.itertext())
                found[url] = sum(len("".join(e.itertext()).strip()) for e in listed) / max(1, whole)
    return found


def shown(name: str, found: np.ndarray, truth: np.ndarray) -> str:
    """Precision and recall in words."""
    right = int((found & truth).sum())
    precision, recall = right / max(1, int(found.sum())), right / max(1, int(truth.sum()))
    wrong = int((found & ~truth).sum())
    return (
        f"{name}: {int(truth.sum())} of {len(truth)} are; found {int(found.sum())}, precision {precision:.3f}, "
        f"recall {recall:.3f}, false positive rate {wrong / max(1, int((~truth).sum())):.4f}"
    )


def measured(texts: list[str], kind: str) -> np.ndarray:
    """bool: which texts are of a kind."""
    return kinds(shares(pa.array(texts, pa.large_string())))[kind].to_numpy(zero_copy_only=False).astype(bool)


def pages_with_code(runs: list[str]) -> None:
    """Pages whose HTML marks much of them as code, against pages whose HTML marks nothing."""
    truth = html_code_shares()
    pages = [p for p in sets.labelled_pages(runs) if p.url in truth and p.dataset not in LEFT_OUT]
    sure = [p for p in pages if truth[p.url] == 0 or truth[p.url] >= MOST_CODE]
    wanted = np.array([truth[p.url] >= MOST_CODE for p in sure])
    found = measured([p.text for p in sure], "code")
    print(shown("pages of the crawl and gold sets", found, wanted))
    measure = shares(pa.array([p.text for p in sure], pa.large_string()))["code_share"].to_numpy(zero_copy_only=False)
    for least in (0.05, 0.1, 0.2, 0.3, 0.5):
        print("  " + shown(f"at {least}", measure >= least, wanted))
    for dataset in sorted({p.dataset for p, w in zip(sure, wanted, strict=True) if w}):
        mine = np.array([p.dataset == dataset for p in sure])
        print("  " + shown(dataset, found[mine], wanted[mine]))


def source_files() -> None:
    """Files of the Python standard library, C headers, and HumanEval; books, news and Brown as what is none."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    headers = Path(np.get_include())
    of = {
        "HumanEval": sets.code_texts(),
        "Python's library": [p.read_text("utf-8", "replace") for p in sorted(stdlib.glob("*.py"))],
        "C headers of NumPy": [p.read_text("utf-8", "replace") for p in sorted(headers.rglob("*.h"))],
    }
    for name, texts in of.items():
        found, measure = measured(texts, "code"), shares(pa.array(texts))
        print(
            f"{name}: {len(texts)} texts, found {found.mean():.3f}, mean share {pa.compute.mean(measure['code_share'])}"
        )
    prose = [text for _, _, text in sets.brown()] + sets.news_articles() + [text for _, text in sets.movie_reviews()]
    prose += [piece for _, book in sets.books() for piece in pieces(book, 600)]
    print(
        f"prose: {len(prose)} texts, code {measured(prose, 'code').mean():.4f}, math {measured(prose, 'math').mean():.4f}"
    )


def mathematics() -> None:
    """Sections of Wikipedia articles with mathematics and without."""
    texts, truth = [], []
    for split in splits(expand([str(p) for p in sorted((data_folder() / "labelled/wiki").glob("*.bz2"))]), 1 << 40):
        for page in dump_pages(split):
            for section in re.split(r"(?m)^==.*==\s*$", page.text if page.redirect is None else ""):
                n_math = section.count("<math")
                plain = re.sub(r"(?s)<math[^>]*>(.*?)</math>", r" {\\displaystyle \1} ", section)
                plain = re.sub(r"(?s)\{\{.*?\}\}|<ref.*?(/>|</ref>)|\[\[|\]\]|'''?|<[^>]+>|\{\|.*?\|\}", " ", plain)
                if len(plain.split()) >= 50 and n_math != 1:
                    texts.append(plain)
                    truth.append(n_math >= 2)
    print(shown("sections of Wikipedia articles, two formulas or none", measured(texts, "math"), np.array(truth)))


def speed(runs: list[str]) -> None:
    """Pages a second of one process."""
    texts = pa.array([page.text for page in sets.labelled_pages(runs)], pa.large_string())
    shares(texts.slice(0, 10))
    rates = []
    for _ in range(3):
        began = time.process_time()
        shares(texts)
        rates.append(len(texts) / (time.process_time() - began))
    print(f"speed: {sorted(rates)[1]:,.0f} pages/s of CPU time, {texts.nbytes / len(texts):,.0f} bytes a page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", nargs="+", required=True)
    given = parser.parse_args()
    pages_with_code(given.runs)
    source_files()
    mathematics()
    speed(given.runs)


if __name__ == "__main__":
    main()
