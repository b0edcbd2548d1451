"""Decontamination: which planted leaks are found, which clean pages are named falsely, and time a page, beside datatrove.

    python -m venv peer && peer/bin/pip install 'datatrove[processing,io]' spacy
    python -m benchmarks.decontamination --peer-python peer/bin/python > benchmarks/decontamination.txt
    python -m benchmarks.decontamination --parts recall --items 2000
    python -m benchmarks.decontamination --parts sweep --items 4000

Items are those of 14 test sets in the folder that CRAWLMILL_DATA names. Leaks are made of them as
`benchmarks/decontamination_leaks.py` says, and each stands in a real page of 200 to 1,500 words on which nothing is found
without it. Clean pages (`benchmarks/decontamination_pages.py`) may hold items all the same: quotations, for example. What
is found on them is printed beside the item; a person read it, and what they said is `VERDICTS`.

found: the page is said to hold the item that was planted, or one of the same words. any: it is said to hold some item.
first: the item with the best score is the one that was planted, or one of the same words.

datatrove is given each item as a prompt has it: passage, question and choices labelled with letters are its query, the
answer is its label. Leaks print the same letters, so that its n-grams can run across the choices.
"""

import argparse
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.decontamination_leaks import APART, KINDS, LONG_PAGE, draw_of, leak, long_page, planted
from benchmarks.decontamination_pages import other_texts
from benchmarks.decontamination_sets import BATCH, COMMON, MODES, Bench, of_mode
from benchmarks.decontamination_speed import Peer, show_speed
from pipeline.contamination.matching import Matching, find, judge

TARGETS = {"verbatim": 0.99, "reformatted": 0.95, "reordered": 0.9, "embedded": 0.99}
CLASSES = ((0, 8), (8, 13), (13, 25), (25, 50), (50, 10**9))  # words of question, choices and answer
LONG_KINDS = ("apart", "embedded")
SAMPLE = 4000  # items for kinds that want long pages, and for thresholds
SWEEP = (
    "alone=15/20/25/30/35,bare=10/15/17.5/20/25,edited=0.4/0.5/0.6/0.7/0.8,long=30/40/50/60/80,"
    "together=20/25/30/40,answered=0.4/0.5/0.75/1"
)

VERDICTS = {
    "wikipedia:161": "quotation: the article on the Articles of Confederation quotes the letter of 1777 that two items print "
    "before their questions; neither question is there. No leak.",
    "wikipedia:64": "chance: the article on Alabama names the Voting Rights Act of 1965; the stem of the item is that name.",
    "brown:cg10:1": "quotation: an essay quotes the preamble of the constitution, as the platform of 1892 in the items does. "
    "No leak.",
    "brown:cg72:1": "quotation: an essay on NATO quotes Article 2 of the treaty, a part of what the items print. No leak.",
    "brown:ch09:0": "formula: each act of Congress begins with the words that the act in the items begins with. No leak.",
    "brown:ch09:1": "formula: each act of Congress begins with the words that the act in the items begins with. No leak.",
    "books:gutenberg_972:29": "quotation: a book twists the opening of the Declaration of Independence, which the item "
    "quotes. No leak.",
    "gold:cleaneval_final:484514": "chance: a page of puzzles asks for the odd one out in nearly the words of the item, and "
    "of other things. No leak.",
}
"""What a person who read a clean page and the items found on it said of it."""


# ---- recall


class Recall(NamedTuple):
    """Of planted leaks: numbers of the items, and for each whether it was found, any was, and the first was right;
    `others` counts the items named that are not of the planted one's words."""

    items: np.ndarray
    found: np.ndarray
    any: np.ndarray
    first: np.ndarray
    others: np.ndarray


def leaks_of(bench: Bench, kind: str, chosen: Sequence[int]) -> Iterator[tuple[list[int], pa.Array]]:
    """Pages with a leak of each item that has one of the kind, in batches, with the numbers of the items."""
    long = kind in LONG_KINDS
    numbers: list[int] = []
    texts: list[str] = []
    for number in chosen:
        item = bench.items[number]
        passages = leak(item, kind)
        if passages is None:
            continue
        draw = draw_of(1, f"place {kind}", item)
        base = (
            long_page(bench.bases, draw, LONG_PAGE if kind == "embedded" else 2 * APART)
            if long
            else draw.choice(bench.bases)
        )
        numbers.append(number)
        texts.append(planted(base, passages, draw).text)
        if len(texts) == (BATCH // 10 if long else BATCH):
            yield numbers, pa.array(texts, pa.large_string())
            numbers, texts = [], []
    if texts:
        yield numbers, pa.array(texts, pa.large_string())


def scored(found: pa.Table, numbers: Sequence[int], same: np.ndarray, decoy: np.ndarray) -> Recall:
    """What was found beside what was planted."""
    of_row = np.array(numbers)
    n = len(of_row)
    rows, named = found.column("row").to_numpy(), found.column("item").to_numpy()
    scores = found.column("score").to_numpy()
    real = ~decoy[named]
    rows, named, scores = rows[real], named[real], scores[real]
    right = same[named] == same[of_row[rows]]
    is_found, is_any, is_first = (np.zeros(n, np.bool_) for _ in range(3))
    is_found[rows[right]] = True
    is_any[rows] = True
    best = np.zeros(n)
    np.maximum.at(best, rows, scores)
    is_first[rows[right & (scores == best[rows])]] = True
    others = np.zeros(n, np.int64)
    for row in {(r, g) for r, g in zip(rows[~right].tolist(), same[named[~right]].tolist(), strict=True)}:
        others[row[0]] += 1
    return Recall(of_row, is_found, is_any, is_first, others)


def recall(bench: Bench, kind: str, chosen: Sequence[int], ways: Sequence[Matching]) -> list[Recall]:
    """Recall of one kind for every way of matching; the pages are made and looked at once."""
    same = bench.same_question if kind == "question" else bench.same
    parts: list[list[Recall]] = [[] for _ in ways]
    for numbers, texts in leaks_of(bench, kind, chosen):
        matches = find(texts, bench.index)
        for part, way in zip(parts, ways, strict=True):
            part.append(scored(judge(matches, bench.index, way, bench.common), numbers, same, bench.decoy))
    return [Recall(*(np.concatenate(column) for column in zip(*part, strict=True))) for part in parts]


def share(values: np.ndarray) -> str:
    return f"{values.mean():.4f}" if len(values) else "-"


def show_recall(bench: Bench, chosen: Sequence[int], kinds: Sequence[str]) -> None:
    """The tables of recall: all items, by benchmark, by length."""
    ways = [of_mode(mode) for mode in MODES]
    long = random.Random(1).sample(list(chosen), min(SAMPLE, len(chosen)))
    got = {kind: recall(bench, kind, long if kind in LONG_KINDS else chosen, ways) for kind in kinds}
    print("Recall of planted leaks; can: of items with words enough to be found at all by the mode\n")
    print(f"{'kind':16}{'mode':7}{'leaks':>7}{'found':>8}{'can':>8}{'any':>8}{'first':>8}{'others':>8}  target")
    for kind, of_ways in got.items():
        for mode, of in zip(MODES, of_ways, strict=True):
            can = of.found[bench.matchable[mode][of.items]]
            print(
                f"{kind:16}{mode:7}{len(of.items):>7,}{share(of.found):>8}{share(can):>8}{share(of.any):>8}"
                f"{share(of.first[of.found]):>8}{of.others.mean():>8.3f}  {TARGETS.get(kind, '')}".rstrip()
            )
    print("\nfirst: of those found; others: items of other words named a page\n")
    names = np.array([item["benchmark"] for item in bench.items])
    lengths = bench.n_words
    classes = {f"{a}-{b - 1}" if b < 10**9 else f"{a}+": (lengths >= a) & (lengths < b) for a, b in CLASSES}
    benchmarks = {str(name): names == name for name in dict.fromkeys(names.tolist())}
    for mode, title, groups in (
        *((mode, "benchmark", benchmarks) for mode in MODES),
        *((mode, "words", classes) for mode in MODES),
    ):
        print(f"found, of all items, mode {mode}")
        print(
            f"{title:14}{'items':>7}{'cannot':>7}"
            + "".join(f"{kind.replace('paraphrased', 'para'):>12}" for kind in got)
        )
        for name, mask in groups.items():
            within = mask[list(chosen)].sum(), (mask & ~bench.matchable[mode])[list(chosen)].sum()
            cells = (of[MODES.index(mode)] for of in got.values())
            line = "".join(f"{share(of.found[mask[of.items]]):>12}" for of in cells)
            print(f"{name:14}{within[0]:>7,}{within[1]:>7,}{line}")
        print()


# ---- clean pages


def show_false(bench: Bench, shown: bool) -> None:
    """False pages by mode, and each with what is said to be on it."""
    n = bench.pages.num_rows
    sources = Counter(bench.pages.column("source").to_pylist())
    print(f"{n:,} clean pages: " + ", ".join(f"{name} {count:,}" for name, count in sources.items()))
    n_items, n_decoys = int((~bench.decoy).sum()), int(bench.decoy.sum())
    print(f"{len(bench.common):,} n-grams stand in more than {COMMON} of them and count for nothing\n")
    print(f"{'mode':7}{'pages':>7}{'a 10,000':>10}{'pages with decoys':>19}{'a 10,000, per real item':>25}")
    listed: dict[str, pa.Table] = {}
    for mode in MODES:
        found = bench.false(of_mode(mode))
        decoy = bench.decoy[found.column("item").to_numpy()]
        listed[mode] = found.filter(pa.array(~decoy))
        pages = len(set(listed[mode].column("row").to_pylist()))
        floor = len(set(found.filter(pa.array(decoy)).column("row").to_pylist()))
        per_item = floor / n * 1e4 * n_items / max(1, n_decoys)
        print(f"{mode:7}{pages:>7}{pages / n * 1e4:>10.2f}{floor:>19}{per_item:>25.2f}")
    print()
    for mode in MODES:
        print(f"pages that mode {mode} names")
        show_pages(bench, listed[mode], shown)
        print()


def show_others(bench: Bench) -> None:
    """What is found in texts that are no pages."""
    texts = other_texts()
    counts = []
    for mode in MODES:
        rows = [
            (at + row["row"], row["item"])
            for at in range(0, len(texts), BATCH)
            for row in judge(
                find(texts.slice(at, BATCH), bench.index), bench.index, of_mode(mode), bench.common
            ).to_pylist()
        ]
        for decoy in (False, True):
            counts.append(len({row for row, item in rows if bench.decoy[item] == decoy}))
    print(
        f"{len(texts):,} texts that are no pages (twenty sentences or comments each, and WikiText), with items, with decoys:"
    )
    print(f"ngram {counts[0]}, {counts[1]}; idf {counts[2]}, {counts[3]}\n")


def show_pages(bench: Bench, found: pa.Table, shown: bool, most: int = 160) -> None:
    """Every page with its best items: score, the verdict of a person, and what there is to judge where it is `shown`."""
    by_page: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in found.to_pylist():
        by_page[row["row"]].append(row)
    for page, rows in sorted(by_page.items()):
        source, name, text = (bench.pages.column(c)[page].as_py() for c in ("source", "name", "text"))
        best = sorted(rows, key=lambda row: (-row["score"], row["item"]))
        for row in best[:3]:
            item = bench.items[row["item"]]
            of = f"{item['benchmark']}/{item['item']}"
            print(f"{source}:{name}  {of}  score {row['score']:.3f}, {len(best)} items on the page")
            if shown:
                print(f"  page: {short(text[row['start'] : row['end']], most)}")
                print(f"  item: {short(item['question'], most)}")
        print(f"  verdict: {VERDICTS.get(f'{source}:{name}', 'NOT READ YET')}")


def short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def show_peer_recall(bench: Bench, peer: Peer, chosen: Sequence[int], kinds: Sequence[str]) -> None:
    """How much of the same leaks datatrove names with the right benchmark, with and without grams of questions."""
    some = random.Random(2).sample(list(chosen), min(1000, len(chosen)))
    names = {number: bench.items[number]["benchmark"] for number in some}
    short_kinds = [kind for kind in kinds if kind not in LONG_KINDS]
    print(
        f"datatrove, leaks of {len(some):,} of the items: pages dropped by n-grams of any benchmark (right: of its own)"
    )
    print(
        f"{'kind':16}{'leaks':>7}" + "".join(f"{title:>22}" for title in ("default, any  right", "queries, any  right"))
    )
    pages = {kind: list(leaks_of(bench, kind, some)) for kind in short_kinds}
    texts = bench.pages.column("text").to_pylist()
    cells: dict[str, str] = defaultdict(str)
    false = []
    for query in (False, True):
        peer.build(bench.items, query)
        for kind, batches in pages.items():
            any_, right, n = 0, 0, 0
            for numbers, leaked in batches:
                for number, task in zip(numbers, peer.ask({"find": leaked.to_pylist()}), strict=True):
                    n += 1
                    any_ += task is not None
                    right += task == names[number]
            cells[kind] = cells[kind] or f"{n:>7,}"
            cells[kind] += f"{any_ / n:>14.4f}{right / n:>8.4f}"
        tasks = [task for at in range(0, len(texts), BATCH) for task in peer.ask({"find": texts[at : at + BATCH]})]
        false.append(sum(task is not None for task in tasks))
    for kind, line in cells.items():
        print(f"{kind:16}{line}")
    print(
        f"its false pages: {false[0]} of {len(texts):,} by default, {false[1]} with grams of queries; not read one by one\n"
    )


# ---- thresholds


def show_sweep(bench: Bench, chosen: Sequence[int], kinds: Sequence[str], ways: Sequence[tuple[str, Matching]]) -> None:
    """False pages, pages with decoys, and recall of each kind, for each way of matching."""
    kinds = [kind for kind in kinds if kind not in LONG_KINDS]
    got = {kind: recall(bench, kind, chosen, [way for _, way in ways]) for kind in kinds}
    print(
        f"Mode idf, leaks of {len(chosen):,} items: what each threshold does, all others at their defaults\n{Matching()}\n"
    )
    print(
        f"{'thresholds':40}{'false':>6}{'decoys':>8}"
        + "".join(f"{kind.replace('paraphrased', 'para'):>12}" for kind in kinds)
    )
    for i, (name, way) in enumerate(ways):
        found = bench.false(way)
        decoy = bench.decoy[found.column("item").to_numpy()]
        pages = [len(set(found.filter(pa.array(mask)).column("row").to_pylist())) for mask in (~decoy, decoy)]
        print(f"{name:40}{pages[0]:>6}{pages[1]:>8}" + "".join(f"{share(got[kind][i].found):>12}" for kind in kinds))
    print()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def show_items(bench: Bench) -> None:
    """What became of the items of each benchmark in the index."""
    status = bench.index.items.column("status").to_pylist()[: len(bench.items)]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item, of in zip(bench.items, status, strict=True):
        counts[item["benchmark"]][of] += 1
    kinds = sorted(set(status))
    print(f"{'items':14}{'all':>8}" + "".join(f"{kind:>11}" for kind in kinds))
    for name, of in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{name:14}{of.total():>8,}" + "".join(f"{of[kind]:>11,}" for kind in kinds))
    print("short: fewer words than the least N; mode idf finds those of five words or more\n")


def main() -> None:
    """Runs the parts asked for and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter with datatrove")
    parser.add_argument("--parts", default="items,false,recall,sweep,peer,speed")
    parser.add_argument("--items", type=int, help="leaks of so many items only, drawn at random")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument(
        "--sweep", default=SWEEP, help="thresholds of mode idf: name=value/value,name=value/value+name=..."
    )
    parser.add_argument("--show", action="store_true", help="print what false pages say beside the items")
    parser.add_argument("--decoys", type=int, default=40_000)
    parser.add_argument("--index-size", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=1000, help="pages of a round of speed")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    python = str(Path(options.peer_python).absolute()) if options.peer_python else None  # a link, not resolved
    peer = Peer(python) if python else None
    shown = ["python", "-m", "benchmarks.decontamination", *sys.argv[1:]]
    print(" ".join("peer/bin/python" if part == options.peer_python else part for part in shown))
    print(f"{processor()}, {os.cpu_count()} cores shared with other work: compare ratios, not runs")
    if peer is not None:
        print(f"datatrove {peer.ask({'version': True})}")
    print()
    bench = Bench(options.decoys)
    chosen = list(range(len(bench.items)))
    if options.items:
        chosen = sorted(random.Random(3).sample(chosen, min(options.items, len(chosen))))
    kinds = options.kinds.split(",")
    parts = options.parts.split(",")
    if "items" in parts:
        show_items(bench)
    if "false" in parts:
        show_false(bench, options.show)
        show_others(bench)
    if "recall" in parts:
        show_recall(bench, chosen, kinds)
    if "sweep" in parts:
        some = sorted(random.Random(4).sample(chosen, min(SAMPLE, len(chosen))))
        show_sweep(bench, some, kinds, sweep_ways(options.sweep))
    if "peer" in parts and peer is not None:
        show_peer_recall(bench, peer, chosen, kinds)
    if "speed" in parts:
        show_speed(bench, peer, options.index_size, options.pages, options.rounds)
    if peer is not None:
        peer.close()


def sweep_ways(which: str) -> list[tuple[str, Matching]]:
    """Ways of matching to compare: the defaults, and for each `name=value/value` of `which` the defaults but for that."""
    ways = [("defaults", Matching())]
    for part in filter(None, which.split(",")):
        changes = [pair.split("=") for pair in part.split("+")]
        names = [name for name, _ in changes]
        for values in zip(*(value.split("/") for _, value in changes), strict=True):
            change = dict(zip(names, map(float, values), strict=True))
            ways.append((" ".join(f"{name} {value:g}" for name, value in change.items()), Matching(**change)))
    return ways


if __name__ == "__main__":
    main()
