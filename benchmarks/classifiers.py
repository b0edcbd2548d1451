"""Pages a second and core that a fastText head scores, beside other ways to use the same model on the same pages.

    python benchmarks/classifiers.py --peer-python PEER/bin/python

Pages are those of the crawl and of the extraction sets as the pipeline extracts them. One model, trained here on pages told
apart by their length, is used by all. Rounds are interleaved; figures are medians, ratios those of medians; time is that of
the processor. Needs CRAWLMILL_DATA or ../shared/data; without `--peer-python` datatrove is left out.

- one head: normalisation `dclm` (lines joined), which is what the others do too, and `words`, the default of training.
- one by one: `predict` of fastText a page at a time in Python, as Dolma's taggers do for documents and paragraphs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from decontamination_pages import clean_pages

sys.path.append(sys.path.pop(0))  # this file has the name of the package that it measures: that comes first

from classifiers.normalise import normalised, shortened, strings
from classifiers.scoring import Head, score_all
from classifiers.sentences import sentences
from classifiers.training import Quantisation, TrainingOptions, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-python", help="an interpreter that has datatrove and a fasttext")
    asked = parser.parse_args()
    table = clean_pages()
    texts = strings(table.filter(pc.is_in(table["source"], pa.array(["crawl", "gold"])))["text"])
    step = len(texts) // asked.pages
    pages = texts.take(pa.array(range(0, step * asked.pages, step)))
    with tempfile.TemporaryDirectory() as folder:
        heads = _heads(texts, Path(folder))
        peer = _Peer(asked.peer_python, heads["dclm"]) if asked.peer_python else None
        _report(pages, heads, peer, asked.rounds)
        if peer:
            peer.close()


def _heads(texts: pa.LargeStringArray, folder: Path) -> dict[str, Head]:
    learned = texts.slice(0, 1000)
    truth = ["long" if n > 2000 else "short" for n in pc.utf8_length(learned).to_pylist()]
    heads = {}
    for name in ("dclm", "words", "plain"):
        options = TrainingOptions(normalisation=name, epoch=2, quantise=Quantisation(cutoff=60_000, retrain=False))
        heads[name] = train(learned, truth, options, folder / name, scored="long")
    return heads


class _Peer:
    def __init__(self, python: str, head: Head):
        script = Path(__file__).with_name("classifiers_peer.py")
        self._process = subprocess.Popen(
            [python, str(script), str(head.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self.ask({"version": True})

    def ask(self, question: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise SystemExit("datatrove has no pipes")
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise SystemExit("datatrove ended; its error stands above")
        return json.loads(answer)

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def _timed(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _report(pages: pa.LargeStringArray, heads: dict[str, Head], peer: _Peer | None, rounds: int) -> None:
    import fasttext

    model = fasttext.load_model(str(heads["dclm"].path))
    plain = pages.to_pylist()

    def one_by_one() -> list[float]:
        found = (model.f.predict(text.replace("\n", " ") + "\n", 2, 0.0, "strict") for text in plain)
        return [{label: p for p, label in f}["__label__long"] for f in found]

    def by_paragraph() -> None:
        for text in plain:
            for paragraph in text.split("\n"):
                model.f.predict(paragraph + "\n", 2, 0.0, "strict")

    # Three heads that read words: the same model thrice, which costs each as much as another would.
    three = [heads["words"]] * 3
    ways: dict[str, Callable[[], Any]] = {
        "one head, dclm": lambda: heads["dclm"].score(pages),
        "one head, words": lambda: heads["words"].score(pages),
        "one head, plain": lambda: heads["plain"].score(pages),
        "one head, words, 2,000 characters": lambda: heads["words"].score(shortened(pages, 2000)),
        "three heads, words, shared": lambda: score_all(three, pages),
        "three heads, words, each alone": lambda: [head.score(pages) for head in three],
        "one head, words, by sentence": lambda: heads["words"].score_sentences(pages),
        "normalisation, words": lambda: normalised(pages, "words"),
        "sentences found": lambda: sentences(pages),
        "fastText one by one": one_by_one,
        "fastText by paragraph": by_paragraph,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    question = {"time": plain, "label": "long"}
    for work in ways.values():
        work()
    replies = []
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(_timed(work))
        if peer:
            replies.append(peer.ask(question))
            times.setdefault("datatrove filter", []).append(replies[-1]["seconds"])

    size = pc.mean(pc.utf8_length(pages)).as_py()
    print(f"{len(pages)} pages of {size:,.0f} characters, {rounds} rounds, {os.cpu_count()} cores, one used")
    print(f"model: {heads['dclm'].path.stat().st_size:,} bytes, quantised; trained by {heads['dclm'].facts['trainer']}")
    print(f"predicts: {', '.join(_installed())}; datatrove {peer.version if peer else 'not run'}\n")
    print(f"{'way':<36}{'pages/s':>9}{'us a page':>11}{'time, one head dclm = 1':>25}")
    first = statistics.median(times["one head, dclm"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:<36}{len(pages) / median:>9,.0f}{median / len(pages) * 1e6:>11.0f}{median / first:>25.2f}")
    ours = np.nan_to_num(heads["dclm"].score(pages).to_numpy(zero_copy_only=False))
    print(f"\nlargest difference from one by one: {np.abs(ours - np.minimum(one_by_one(), 1)).max():.1e}")
    if replies:
        print(f"largest difference from datatrove:  {np.abs(ours - np.minimum(replies[0]['scores'], 1)).max():.1e}")
    whole = heads["words"].score(pages).to_numpy(zero_copy_only=False)
    for n in (1000, 2000, 4000):
        part = heads["words"].score(shortened(pages, n)).to_numpy(zero_copy_only=False)
        print(f"shortened to {n:,} characters: correlation with the whole {np.corrcoef(whole, part)[0, 1]:.3f}")


def _installed() -> list[str]:
    return [f"{name} {version(name)}" for name in ("fasttext-predict", "numba", "pyarrow")]


if __name__ == "__main__":
    main()
