"""Recall and precision of near-duplicate pairs on graded edits of real texts, beside what theory says.

    python -m benchmarks.dedup_truth --per-level 6000 --documents 40000 \\
        --plot benchmarks/dedup_truth.png > benchmarks/dedup_truth.txt

A pair of similarity s becomes a candidate with probability 1 - (1 - s^rows)^bands. Theory here is the mean of that over
the true similarities of the pairs, counted with Python sets of 5-grams (`benchmarks/dedup_corpus.py`), so measured and
expected differ by chance alone: the standard error of a level is at most .5 / sqrt(pairs).

The second part looks at a whole corpus, where unrelated documents may meet in a band too: every pair that was accepted is
counted again with Python sets, and the planted pairs are looked for. The plot wants matplotlib.
"""

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.dedup_corpus import LEVELS, base_texts, graded, jaccard, ngrams, words, write_corpus
from pipeline.dedup.candidates import candidate_pairs
from pipeline.dedup.minhash import (
    MinHasher,
    Sketches,
    band_keys,
    candidate_probability,
    estimated_similarity,
    ngram_similarity,
)

BANDS, ROWS, NGRAM = 14, 8, 5


class Found(NamedTuple):
    """One level: true similarities of its pairs, which became candidates, and their similarities as the code has them."""

    true: np.ndarray
    candidate: np.ndarray
    by_ngrams: np.ndarray
    by_signature: np.ndarray


def look(level: float, texts: Sequence[str], per_level: int, seed: int) -> Found:
    """Makes the pairs of one level and runs the code over them."""
    pairs = graded(texts, [level], per_level, seed)
    hasher = MinHasher(NGRAM, BANDS * ROWS)
    left, right = (
        hasher.sketch(pa.array([getattr(p, side) for p in pairs], pa.large_string())) for side in ("left", "right")
    )
    shared = (band_keys(left.signatures, BANDS, ROWS) == band_keys(right.signatures, BANDS, ROWS)).any(axis=1)
    return Found(
        np.array([p.jaccard for p in pairs]),
        shared,
        ngram_similarity(left.ngrams, left.offsets, right.ngrams, right.offsets),
        estimated_similarity(left.signatures, right.signatures),
    )


def table(levels: Sequence[float], found: Sequence[Found], threshold: float) -> list[str]:
    """The figures by level, and over all."""
    lines = [
        "level  pairs  mean J  candidates  theory    diff  | J>=t  found  theory    diff "
        "| precision by ngrams, by signature, unverified"
    ]
    for level, f in [*zip(levels, found, strict=True), (None, Found(*map(np.concatenate, zip(*found, strict=True))))]:
        theory = candidate_probability(f.true, BANDS, ROWS)
        line = f"{'all' if level is None else format(level, '.2f'):>5} {len(f.true):6}  {f.true.mean():.4f}"
        line += f"      {f.candidate.mean():.4f}  {theory.mean():.4f}  {f.candidate.mean() - theory.mean():+.4f}"
        same = f.true >= threshold
        kept = f.candidate & (f.by_ngrams >= np.float32(threshold))
        if same.any():
            recall, expected = (kept & same).sum() / same.sum(), theory[same].mean()
            line += f"  |{same.sum():6} {recall:.4f}  {expected:.4f} {recall - expected:+.4f}"
        else:
            line += f"  |{0:6} {'-':>6}  {'-':>6} {'-':>7}"
        accepted = (kept, f.candidate & (f.by_signature >= threshold), f.candidate)
        line += " |" + "".join(
            f"  {(same & a).sum() / a.sum():.4f} ({a.sum()})" if a.any() else f"  {'-':>6} (0)" for a in accepted
        )
        lines.append(line)
    worst = max(abs(f.candidate.mean() - candidate_probability(f.true, BANDS, ROWS).mean()) for f in found)
    error = max(abs(f.by_ngrams - f.true).max() for f in found)
    spread = np.concatenate([f.by_signature - f.true for f in found])
    lines.append(f"largest difference of a level from theory: {worst:.4f}")
    lines.append(f"largest difference of the code's n-gram similarity from the true one: {error:.2g}")
    lines.append(f"estimate from signatures: mean error {spread.mean():+.4f}, standard deviation {spread.std():.4f}")
    return lines


def whole_corpus(texts: Sequence[str], n: int, seed: int, threshold: float) -> list[str]:
    """Candidates among all documents of a corpus, verified, beside the planted truth."""
    with tempfile.TemporaryDirectory() as scratch:
        write_corpus(texts, n, seed, Path(scratch))
        documents, truth = pq.read_table(Path(scratch) / "parquet"), pq.read_table(Path(scratch) / "truth.parquet")
    ids = documents.column("id").to_pylist()
    row_of = {name: row for row, name in enumerate(ids)}
    column = documents.column("text").cast(pa.large_string()).combine_chunks()
    sketches = MinHasher(NGRAM, BANDS * ROWS).sketch(column)
    keys = band_keys(sketches.signatures, BANDS, ROWS)
    nodes = np.repeat(np.arange(n, dtype=np.uint64), BANDS)
    a, b = (side.astype(np.int64) for side in candidate_pairs(keys.ravel(), nodes))
    lines = [f"{n} documents, {len(a)} candidate pairs, {truth.num_rows} planted pairs with J >= {threshold}"]
    planted = {
        (min(pair), max(pair))
        for pair in zip(*([row_of[name] for name in truth.column(side).to_pylist()] for side in "ab"), strict=True)
    }
    expected = candidate_probability(truth.column("jaccard").to_numpy(), BANDS, ROWS).mean()
    met = set(zip(a.tolist(), b.tolist(), strict=True))
    lines.append(f"planted pairs among the candidates: {len(planted & met) / len(planted):.4f} (theory {expected:.4f})")
    grams = {row: ngrams(words(column[row].as_py())) for row in set(a.tolist()) | set(b.tolist())}
    true = np.array([jaccard(grams[i], grams[j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)])
    ways = {
        "true Jaccard": np.concatenate(
            [similarity(sketches, a[k : k + 4096], b[k : k + 4096]) for k in range(0, len(a), 4096)]
        ),
        "signature": estimated_similarity(sketches.signatures[a], sketches.signatures[b]),
        "none": np.ones(len(a), np.float32),
    }
    for name, measured in ways.items():
        accepted = measured >= np.float32(threshold)
        right = (true >= threshold) & accepted
        lines.append(
            f"verified by {name:12}: accepted {accepted.sum():7}, precision {right.sum() / accepted.sum():.4f}, "
            f"of the true candidates kept {right.sum() / (true >= threshold).sum():.4f}"
        )
    unplanted = sum(
        pair not in planted
        for pair, s in zip(zip(a.tolist(), b.tolist(), strict=True), true, strict=True)
        if s >= threshold
    )
    lines.append(f"true pairs among the candidates that were not planted: {unplanted}")
    return lines


def similarity(sketches: Sketches, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Jaccard similarity of n-grams of pairs of rows."""
    sides = []
    for rows in (left, right):
        parts = [sketches.ngrams[sketches.offsets[r] : sketches.offsets[r + 1]] for r in rows]
        sides += [np.concatenate(parts), np.cumsum([0, *map(len, parts)])]
    return ngram_similarity(*sides)


def plot(levels: Sequence[float], found: Sequence[Found], threshold: float, path: Path) -> None:
    """Measured recall over the curve of theory."""
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    figure: Figure
    figure, axes = pyplot.subplots(figsize=(7.5, 5), dpi=110)
    s = np.linspace(0.4, 1, 300)
    axes.plot(s, candidate_probability(s, BANDS, ROWS), color="0.45", label=f"theory: 1 - (1 - s^{ROWS})^{BANDS}")
    mean = np.array([f.true.mean() for f in found])
    share = np.array([f.candidate.mean() for f in found])
    error = 1.96 * np.sqrt(share * (1 - share) / [len(f.true) for f in found])
    axes.errorbar(mean, share, error, fmt="o", markersize=5, capsize=3, color="#1f5fa8", label="candidates, measured")
    kept = [(f.candidate & (f.by_ngrams >= np.float32(threshold))).mean() for f in found]
    axes.plot(mean, kept, "x", markersize=8, color="#c0392b", label=f"left after verification (J at least {threshold})")
    axes.axvline(threshold, color="0.8", linewidth=1, zorder=0)
    axes.set(
        xlabel="true Jaccard similarity of word 5-grams", ylabel="share of pairs", xlim=(0.45, 1), ylim=(-0.02, 1.02)
    )
    axes.set_title(f"Graded edits of real texts, {len(found[0].true):,} pairs a level")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-level", type=int, default=6000)
    parser.add_argument("--documents", type=int, default=20_000, help="documents of the whole corpus; 0 leaves it out")
    parser.add_argument("--threshold", type=float, default=0.75)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    texts = base_texts()
    with ProcessPoolExecutor(options.processes) as pool:
        work = partial(look, texts=texts, per_level=options.per_level, seed=options.seed)
        found = list(pool.map(work, LEVELS))
    print(
        f"{len(texts)} real texts, {options.per_level} pairs a level, {BANDS} bands of {ROWS} rows, word {NGRAM}-grams,"
    )
    print(f"threshold t = {options.threshold}, seed {options.seed}\n")
    print("\n".join(table(LEVELS, found, options.threshold)))
    if options.documents:
        print("\nWhole corpus")
        print("\n".join(whole_corpus(texts, options.documents, options.seed, options.threshold)))
    if options.plot:
        plot(LEVELS, found, options.threshold, options.plot)


if __name__ == "__main__":
    main()
