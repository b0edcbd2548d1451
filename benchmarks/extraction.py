"""Word F1, precision, recall and time a page of every extraction engine on the gold sets.

    python -m benchmarks.extraction > benchmarks/extraction.txt

Word score: words are maximal runs of `\\w` in the lower-cased text; precision and recall are the multiset overlap with
the gold words over the found and the gold words; means are over pages, then over sets. The block classifier was trained
on these sets, so its rows come from networks that have not seen the page (five folds) or the whole set (set left out).
Times are processor time with the network that ships: parsing and extraction of decoded HTML with metadata, the engines
taking turns page by page. Needs CRAWLMILL_DATA; takes about three minutes.
"""

import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from warcio.archiveiterator import ArchiveIterator

from benchmarks.extraction_gold import SETS, Page, data_folder, pages, word_score, words
from benchmarks.extraction_training import examples, folds, sets_left_out
from pipeline.extraction import extract, extract_fast, preload, refine
from pipeline.extraction.blocks import read_blocks
from pipeline.extraction.classifier import content
from pipeline.extraction.engines import ExtractionOptions, prepare
from pipeline.sources.charset import decode_text

ENGINES = ("resiliparse", "resiliparse_all", "trafilatura")
FOLDS, LEFT_OUT = "cascade, five folds", "cascade, set left out"

Score = tuple[float, float, float]
Texts = dict[str, dict[int, str]]


def two_steps(html: str) -> str:
    return refine(html, extract_fast(html)).text


def run(of: Sequence[Page]) -> tuple[Texts, dict[str, list[float]]]:
    """Texts of each engine by page, and seconds a page, the engines taking turns."""
    texts: Texts = defaultdict(dict)
    seconds: dict[str, list[float]] = defaultdict(list)
    for i, page in enumerate(of):
        for engine in (*ENGINES, "cascade"):
            prepare.cache_clear()
            start = time.thread_time()
            texts[engine][i] = extract(page.html, engine=engine).text
            seconds[engine].append(time.thread_time() - start)
        prepare.cache_clear()
        start = time.thread_time()
        two_steps(page.html)
        seconds["cascade, two steps"].append(time.thread_time() - start)
    return texts, seconds


def hold_out(of: Sequence[Page], texts: Texts) -> None:
    """Adds the texts of networks that have not seen the page. Pages without blocks or gold keep the shipped text."""
    place = {id(page): i for i, page in enumerate(of)}
    known = examples(page for page in of if page.gold is not None)
    for name, split in ((FOLDS, folds), (LEFT_OUT, sets_left_out)):
        texts[name] = dict(texts["cascade"])
        for net, held in split(known):
            for example in held:
                text = content(read_blocks(prepare(example.page.html, ExtractionOptions())), net)
                texts[name][place[id(example.page)]] = text or texts["resiliparse"][place[id(example.page)]]


def table(head: str, rows: Sequence[tuple[str, Sequence[float]]], columns: Sequence[str]) -> None:
    print(f"\n{head:24}" + "".join(f"{column:>{max(18, len(column) + 2)}}" for column in columns))
    for name, values in rows:
        cells = zip(columns, values, strict=True)
        print(f"{name:24}" + "".join(f"{value:>{max(18, len(column) + 2)}.3f}" for column, value in cells))


def report(of: Sequence[Page], texts: Texts) -> None:
    """Prints the scores by set and by kind of page, and the snippets found and avoided."""
    engines = list(texts)
    engines.remove("cascade")
    gold = {i: Counter(words(page.gold or "")) for i, page in enumerate(of)}
    scores: dict[str, dict[int, Score]] = {
        engine: {i: word_score(Counter(words(texts[engine][i])), gold[i]) for i in gold if gold[i]}
        for engine in engines
    }
    for measure, at in (("F1", 2), ("precision", 0), ("recall", 1)):
        rows = []
        for name in SETS[:-1]:
            chosen = [i for i, page in enumerate(of) if page.set == name and gold[i]]
            best = [max(scores[engine][i][at] for engine in ENGINES[::2]) for i in chosen]
            means = [float(np.mean([scores[engine][i][at] for i in chosen])) for engine in engines]
            rows.append((f"{name} ({len(chosen)})", [*means, float(np.mean(best))]))
        rows.append(("mean of sets", np.mean([row[1] for row in rows], axis=0).tolist()))
        table(measure, rows, [*engines, "oracle of two"])
    kinds: dict[str, list[int]] = defaultdict(list)
    for i, page in enumerate(of):
        if page.kind and gold[i]:
            kinds[page.kind].append(i)
    rows = [(f"{k} ({len(v)})", [np.mean([scores[e][i][2] for i in v]) for e in engines]) for k, v in kinds.items()]
    table("F1, wcxb by page type", rows, engines)
    for name in ("trafilatura_eval", "wcxb"):
        chosen = [i for i, page in enumerate(of) if page.set == name]
        rows = [("wanted and found", [_share(of, texts[engine], chosen, True) for engine in engines])]
        rows.append(("unwanted and found", [_share(of, texts[engine], chosen, False) for engine in engines]))
        table(f"snippets, {name}", rows, engines)


def _share(of: Sequence[Page], texts: dict[int, str], chosen: Sequence[int], wanted: bool) -> float:
    hits = [
        " ".join(snippet.split()).lower() in " ".join(texts[i].split()).lower()
        for i in chosen
        for snippet in (of[i].present if wanted else of[i].absent)
        if snippet.strip()
    ]
    return float(np.mean(hits)) if hits else float("nan")


def times(head: str, seconds: dict[str, list[float]]) -> None:
    print(f"\n{head:24}{'median ms':>12}{'mean ms':>12}{'pages/s/core':>14}{'mean / trafilatura':>20}")
    base = statistics.fmean(seconds["trafilatura"])
    for engine, taken in seconds.items():
        mean = statistics.fmean(taken)
        print(f"{engine:24}{statistics.median(taken) * 1e3:12.2f}{mean * 1e3:12.2f}{1 / mean:14.0f}{mean / base:20.3f}")


def crawl(every: int = 20) -> list[Page]:
    """Every so-many-th page of the sample crawl."""
    found = []
    seen = 0
    for path in sorted((data_folder() / "crawl").glob("part-*.warc.gz")):
        with open(path, "rb") as archive:
            for record in ArchiveIterator(archive):
                if record.rec_type == "response":
                    seen += 1
                    if seen % every == 0:
                        html = decode_text(record.content_stream().read(), None).text
                        found.append(Page("crawl", record.rec_headers["WARC-Target-URI"], html, None, "", (), ()))
    return found


def main() -> None:
    timed: Callable[[Sequence[Page]], tuple[Texts, dict[str, list[float]]]] = run
    for engine in (*ENGINES, "cascade"):
        preload(engine)
    of = [page for name in SETS for page in pages(name, data_folder())]
    print("python -m benchmarks.extraction", *sys.argv[1:])
    texts, seconds = timed(of)
    hold_out(of, texts)
    report(of, texts)
    size = statistics.fmean(len(page.html) for page in of) / 1000
    times(f"gold, {len(of)} pages, {size:.0f} kB", seconds)
    sample = crawl()
    size = statistics.fmean(len(page.html) for page in sample) / 1000
    times(f"crawl, {len(sample)}, {size:.0f} kB", timed(sample)[1])


if __name__ == "__main__":
    main()
