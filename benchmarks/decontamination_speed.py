"""Time a page, time and memory of the index, beside datatrove; for `benchmarks/decontamination.py`.

`python -m benchmarks.decontamination_speed build SIZE` and `... open FILE` measure one index in a process of their own.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.decontamination_sets import Bench, load, of_mode
from pipeline.contamination.decoys import decoys
from pipeline.contamination.index import GramIndex
from pipeline.contamination.matching import find, judge

ROOT = Path(__file__).resolve().parent.parent

# ---- speed and memory


class Peer:
    """datatrove in an interpreter of its own."""

    def __init__(self, python: str) -> None:
        command = [python, str(Path(__file__).with_name("decontamination_peer.py"))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, question: dict[str, Any]) -> Any:
        """The answer to one question."""
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("the peer was started without pipes")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise SystemExit(f"the peer stopped: {self._process.args!r}")
        return json.loads(reply)

    def build(self, items: Sequence[dict[str, Any]], query: bool) -> dict[str, float]:
        """Makes its index of items: question and choices are the query, the answer is the label."""
        folder = tempfile.mkdtemp(prefix="crawlmill-decontamination-")
        path = Path(folder) / "items.jsonl"
        with path.open("w", encoding="utf-8") as out:
            for item in items:
                labelled = (
                    f"{chr(65 + i)}. {choice}" for i, choice in enumerate(item["choices"])
                )  # as prompts have them
                query_text = "\n".join(filter(None, [item["passage"], item["question"], *labelled]))
                row = {"task": item["benchmark"], "query": query_text, "label": item["answer"] or ""}
                out.write(json.dumps(row) + "\n")
        return self.ask({"build": {"items": str(path), "folder": folder, "query": query}})

    def close(self) -> None:
        """Waits until it has ended."""
        self._process.communicate()


def memory(name: str) -> int:
    """Bytes of this process: VmRSS, VmHWM, ..."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure_index(size: int) -> None:
    """Builds an index of `size` items and decoys in this process, and prints what it took."""
    both = items_of(load(), size)
    GramIndex.build(both.slice(0, 100))  # compiles
    start = time.process_time()
    index = GramIndex.build(both)
    made = time.process_time() - start
    peak = memory("VmHWM")
    path = Path(tempfile.mkdtemp(prefix="crawlmill-index-")) / "index.arrow"
    index.write(path)
    took = {"items": both.num_rows, "made": made, "file": path.stat().st_size, "path": str(path), "peak": peak}
    print(json.dumps(took))


def open_index(path: str) -> None:
    """Opens an index in this process, looks at a page, and prints how much memory that took."""
    text = pa.array(["A page without anything on it, to touch the index with a few words."])
    find(text, GramIndex.build(load().slice(0, 10)))  # compiles
    before, start = memory("VmRSS"), time.process_time()
    index = GramIndex.open(path)
    find(text, index)
    print(json.dumps({"opened": time.process_time() - start, "bytes": memory("VmRSS") - before}))


def itself(*arguments: str) -> dict[str, Any]:
    """What this file prints, run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.decontamination_speed", *arguments]
    return json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()[-1]
    )


def items_of(table: pa.Table, size: int) -> pa.Table:
    """The items and so many decoys that both are `size`."""
    return pa.concat_tables([table, decoys(table, max(0, size - table.num_rows))]).combine_chunks()


def show_speed(bench: Bench, peer: Peer | None, size: int, n_pages: int, rounds: int) -> None:
    """Time a page on the crawl, with an index of `size` items and decoys, in turn with the peer."""
    both = items_of(bench.table, size)
    index = GramIndex.build(both)
    crawl = bench.pages.filter(pc.equal(bench.pages.column("source"), "crawl")).column("text").combine_chunks()
    some = crawl.take(pa.array(random.Random(1).sample(range(len(crawl)), min(n_pages, len(crawl)))))
    texts = some.to_pylist()

    def took(work: Callable[[], Any]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def whole(mode: str, pages: pa.Array = some) -> float:
        return took(lambda: judge(find(pages, index), index, of_mode(mode), bench.common))

    runs: dict[str, Callable[[], float]] = {
        "crawlmill, idf": lambda: whole("idf"),
        "crawlmill, ngram": lambda: whole("ngram"),
        "crawlmill, find alone": lambda: took(lambda: find(some, index)),
    }
    if peer is not None:
        built = peer.build(both.to_pylist(), query=True)
        runs["datatrove, 12-grams"] = lambda: peer.ask({"time": texts})
        print(
            f"datatrove: index of {built['grams']:,.0f} n-grams made in {built['made']:.1f} s, read in {built['loaded']:.1f};"
            f" {built['bytes'] / 1e6:,.0f} MB of memory"
        )
    own = itself("build", str(size))
    opened = itself("open", own["path"])
    print(
        f"crawlmill: index of {own['items']:,} items made in {own['made']:.1f} s (peak of the process "
        f"{own['peak'] / 1e6:,.0f} MB), file {own['file'] / 1e6:,.0f} MB, opened in {opened['opened'] * 1e3:.1f} ms, "
        f"{opened['bytes'] / 1e6:,.1f} MB of memory touched\n"
    )
    for name in runs:
        if name.startswith("crawlmill"):
            runs[name]()
    taken: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        order = list(runs)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            taken[name].append(runs[name]() / len(texts) * 1e6)
    characters = sum(map(len, texts)) / len(texts)
    print(
        f"{len(texts):,} pages of the crawl of {characters:,.0f} characters, {both.num_rows:,} items, {rounds} rounds in turn"
    )
    print(f"{'contender':24}{'us a page':>11}{'over ours':>11}")
    for name in runs:
        ratio = statistics.median(a / b for a, b in zip(taken[name], taken["crawlmill, idf"], strict=True))
        print(f"{name:24}{statistics.median(taken[name]):>11,.1f}{ratio:>11.2f}")
    everything = statistics.median(whole("idf", crawl) / len(crawl) * 1e6 for _ in range(rounds))
    print(f"\ncrawlmill, idf, on all {len(crawl):,} pages of the crawl: {everything:.1f} us a page\n")


if __name__ == "__main__":
    if sys.argv[1] == "build":
        measure_index(int(sys.argv[2]))
    else:
        open_index(sys.argv[2])
