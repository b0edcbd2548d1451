"""Trains the block classifier of pipeline/extraction on the gold sets, and validates it on pages it has not seen.

    python -m benchmarks.extraction_training --validate     # five folds of pages, and each set left out in turn
    python -m benchmarks.extraction_training --write        # trains on all and writes pipeline/extraction/blocks.txt

A block counts as content by the share of its words that lie in 4-grams of the gold text. Needs CRAWLMILL_DATA.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.extraction_gold import SETS, Page, data_folder, pages, word_score, words
from pipeline.extraction import classifier
from pipeline.extraction.blocks import Blocks, read_blocks
from pipeline.extraction.engines import ExtractionOptions, prepare
from pipeline.extraction.features import features

GRAM = 4
HIDDEN, NETWORKS, EPOCHS, BATCH = 16, 3, 8, 512
RATE, DECAY = 3e-3, 3e-3
VERSION = "1"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """One page: features and target of its blocks, their words, and the words of the gold text."""

    set: str
    page: Page
    layout: Blocks
    x: Floats
    y: Floats
    weight: Floats
    size: Floats
    blocks: list[Counter[str]]
    gold: Counter[str]


def examples(of: Iterable[Page]) -> list[Example]:
    """The pages that have blocks and gold words, in order."""
    found = []
    for page in of:
        blocks = read_blocks(prepare(page.html, ExtractionOptions()))
        gold = words(page.gold or "")
        if not len(blocks) or not gold:
            continue
        block_words = [words(text) for text in blocks.text]
        lengths = np.array([len(block) for block in block_words]) ** 0.75
        found.append(
            Example(
                page.set,
                page,
                blocks,
                classifier.quantised(features(blocks)),
                labels(block_words, gold, page.gold or ""),
                lengths / max(lengths.sum(), 1.0),
                classifier.sizes(blocks),
                [Counter(block) for block in block_words],
                Counter(gold),
            )
        )
    return found


def labels(blocks: list[list[str]], gold: list[str], text: str) -> Floats:
    """Share of each block's words inside 4-grams of the gold; shorter blocks are looked up as lines, then phrases."""
    grams = {tuple(gold[i : i + GRAM]) for i in range(len(gold) - GRAM + 1)}
    lines = {" ".join(words(line)) for line in text.split("\n")}
    running = f" {' '.join(gold)} "
    result = []
    for block in blocks:
        if len(block) < GRAM:
            phrase = " ".join(block)
            result.append(0.0 if not block else 1.0 if phrase in lines else 0.7 if f" {phrase} " in running else 0.0)
            continue
        covered = np.zeros(len(block))
        for i in range(len(block) - GRAM + 1):
            if tuple(block[i : i + GRAM]) in grams:
                covered[i : i + GRAM] = 1
        result.append(float(covered.mean()))
    return np.array(result)


def train(of: Sequence[Example]) -> classifier.Network:
    """Several small networks from different seeds, averaged in their log-odds: one network with all their units."""
    pages_of = Counter(example.set for example in of)
    x = np.concatenate([example.x for example in of]).astype(np.float32)
    y = np.concatenate([example.y for example in of]).astype(np.float32)
    # A page counts alike whatever its length, and a large set more than a small one, but not in proportion.
    weight = np.concatenate([example.weight / pages_of[example.set] ** 0.5 for example in of])
    weight = np.minimum(weight / weight.mean(), 20).astype(np.float32)
    parts = [fit(x, y, weight, seed) for seed in range(NETWORKS)]

    def stepped(values: Floats) -> Floats:
        steps = np.rint(values.astype(np.float64) / classifier.WEIGHT_STEP)
        return np.clip(steps * classifier.WEIGHT_STEP, -8, 8)

    return classifier.Network(
        VERSION,
        stepped(np.concatenate([part[0] for part in parts], axis=1)),
        stepped(np.concatenate([part[1] for part in parts])),
        stepped(np.concatenate([part[2] for part in parts]) / NETWORKS),
        float(stepped(np.mean([part[3] for part in parts], axis=0))[0]),
    )


def fit(x: NDArray, y: NDArray, weight: NDArray, seed: int) -> list[NDArray]:
    """One network by Adam on weighted cross-entropy: inner weights, bias, outer weights, offset."""
    rng = np.random.default_rng(seed)
    n, k = x.shape
    net = [rng.normal(0, k**-0.5, (k, HIDDEN)), np.zeros(HIDDEN), rng.normal(0, HIDDEN**-0.5, HIDDEN), np.zeros(1)]
    net = [part.astype(np.float32) for part in net]
    first, second = [np.zeros_like(part) for part in net], [np.zeros_like(part) for part in net]
    steps, step = EPOCHS * (n // BATCH), 0
    for _ in range(EPOCHS):
        order = rng.permutation(n)
        for at in range(0, n - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            inputs = x[chosen]
            before = inputs @ net[0] + net[1]
            hidden = np.maximum(before, 0)
            error = (1 / (1 + np.exp(-(hidden @ net[2] + net[3]))) - y[chosen]) * weight[chosen] / BATCH
            inner = np.outer(error, net[2]) * (before > 0)
            slopes = [inputs.T @ inner + DECAY * net[0], inner.sum(0), hidden.T @ error + DECAY * net[2]]
            slopes.append(error.sum(keepdims=True))
            step += 1
            rate = RATE * (1 - step / steps) + 1e-5
            for i, slope in enumerate(slopes):
                first[i] += 0.1 * (slope - first[i])
                second[i] += 0.001 * (slope * slope - second[i])
                mean, spread = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
                net[i] = (net[i] - rate * mean / (np.sqrt(spread) + 1e-8)).astype(np.float32)
    return net


def scores(net: classifier.Network, on: Sequence[Example]) -> list[float]:
    result = []
    for example in on:
        kept = classifier.choose(classifier.content_probability(example.x, net), example.size)
        kept = classifier.whole(example.layout, kept)
        found: Counter[str] = Counter()
        for i in np.flatnonzero(kept):
            found.update(example.blocks[i])
        result.append(word_score(found, example.gold)[2])
    return result


def folds(of: list[Example]) -> Iterator[tuple[classifier.Network, list[Example]]]:
    """Networks trained on four fifths of the pages, each with the fifth it has not seen."""
    for fold in range(5):
        yield train([example for i, example in enumerate(of) if i % 5 != fold]), of[fold::5]


def sets_left_out(of: list[Example]) -> Iterator[tuple[classifier.Network, list[Example]]]:
    """Networks trained on all sets but one, each with the pages of that one."""
    for name in dict.fromkeys(example.set for example in of):
        yield train([e for e in of if e.set != name]), [e for e in of if e.set == name]


def validate(of: list[Example]) -> None:
    """Prints mean F1 by set: five folds of pages, then with the whole set left out of training."""
    folded: dict[str, list[float]] = defaultdict(list)
    for net, held in folds(of):
        for example, score in zip(held, scores(net, held), strict=True):
            folded[example.set].append(score)
    print(f"{'F1 of unseen pages':22} {'five folds':>10} {'set left out':>12}")
    means = []
    for net, held in sets_left_out(of):
        name = held[0].set
        means.append((float(np.mean(folded[name])), float(np.mean(scores(net, held)))))
        print(f"{name:22} {means[-1][0]:10.3f} {means[-1][1]:12.3f}", flush=True)
    seen, unseen = np.mean(means, axis=0)
    print(f"{'mean of sets':22} {seen:10.4f} {unseen:12.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    of = examples(page for name in SETS[:-1] for page in pages(name, data_folder()))
    if arguments.validate:
        validate(of)
    if arguments.write:
        comment = (
            "Block classifier, written by benchmarks/extraction_training.py. Integers are 1024ths.\n"
            f"Trained on {len(of)} pages of the gold sets {', '.join(SETS[:-1])}; holds no text of them.\n"
            "Rows: one for each feature, in the order of features.py; then bias, outer weights, offset."
        )
        path = Path(classifier.__file__).with_name("blocks.txt")
        path.write_text(classifier.format_network(train(of), comment), "utf-8")


if __name__ == "__main__":
    main()
