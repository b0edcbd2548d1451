"""Which blocks of a page are content: a small neural network over block features, and the choice it leads to.

The network was trained by benchmarks/extraction_training.py; its weights stand in blocks.txt beside this file. Features
and weights are multiples of fixed powers of two, small enough for every product and sum to be exact in double
precision, so a verdict does not depend on the processor, the BLAS or the order of summation.
"""

import functools
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.extraction.blocks import TAGS, Blocks
from pipeline.extraction.features import features

STEP = 1 / 64
"""Features and hidden values are multiples of this …"""
WEIGHT_STEP = 1 / 1024
"""… and weights of this."""
_LIMIT = 16.0
_CELL, _CODE, _ITEM = TAGS.index("cell"), TAGS.index("pre"), TAGS.index("li")
_LINKS_AMID = 0.2
"""A table or list between kept blocks is kept below this share of links. With 0.2 and 0.5 the mean F1 of unseen pages
rises alike (0.8995 to 0.9003 in five folds); more than that invites lists of related pages."""


class Network(NamedTuple):
    """One hidden layer of rectifiers: `relu(x @ inner + bias) @ outer + offset` is a block's log-odds of content."""

    version: str
    inner: NDArray[np.float64]
    bias: NDArray[np.float64]
    outer: NDArray[np.float64]
    offset: float


@functools.cache
def network() -> Network:
    """The network that ships with the package."""
    return parse_network((files(__package__) / "blocks.txt").read_text("utf-8"))


def parse_network(text: str) -> Network:
    """Reads what `format_network` writes. Raises ValueError where shapes do not fit."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = [np.array(line.split(), np.float64) * WEIGHT_STEP for line in lines[1:]]
    return Network(lines[0].split()[1], np.stack(rows[:-3]), rows[-3], rows[-2], float(rows[-1][0]))


def format_network(net: Network, comment: str) -> str:
    """The network as text: comment, version, a row of integers for each feature, bias, outer weights, offset."""
    rows = [*net.inner, net.bias, net.outer, np.array([net.offset])]
    lines = [f"# {line}".rstrip() for line in comment.splitlines()] + [f"version {net.version}"]
    lines += [" ".join(str(int(value)) for value in np.rint(row / WEIGHT_STEP)) for row in rows]
    return "\n".join(lines) + "\n"


def quantised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features as the network takes them: multiples of STEP within ±16."""
    return np.clip(np.rint(values / STEP) * STEP, -_LIMIT, _LIMIT)


def content_probability(x: NDArray[np.float64], net: Network) -> NDArray[np.float64]:
    """Probability of being content for each row of quantised features, in steps of 1/4096."""
    hidden = np.rint(np.maximum(x @ net.inner + net.bias, 0.0) / STEP) * STEP
    logit = np.rint((hidden @ net.outer + net.offset) / STEP) * STEP
    return np.rint(4096 / (1 + np.exp(-np.clip(logit, -30, 30)))) / 4096


def choose(probability: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The blocks to keep: those whose choice has the highest expected F1 over words.

    With p the probability of a block and s its words, keeping the blocks of highest p down to some bound is expected to
    score 2 Σ_kept p s / (Σ_kept s + Σ_all p s); the bound with the highest score is taken. So a page of doubtful blocks
    keeps doubtful blocks, and one with a clear article keeps only that (Ye et al., Optimizing F-measure, ICML 2012).
    """
    order = np.argsort(-probability, kind="stable")
    gain = np.cumsum((probability * size)[order])
    expected = 2 * gain / (np.cumsum(size[order]) + gain[-1] + 1e-9)
    bound = probability[order[int(np.argmax(expected))]]
    return (probability >= bound) & (probability > 0)


def content(blocks: Blocks, net: Network | None = None) -> str:
    """Text of the blocks that are content; empty for a page without blocks."""
    if not len(blocks):
        return ""
    probability = content_probability(quantised(features(blocks)), net or network())
    return render(blocks, whole(blocks, choose(probability, sizes(blocks))))


def whole(blocks: Blocks, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`kept` with what belongs together: tables and lists kept by halves or amid kept blocks, and code amid the rest.

    Short cells, items and lines of code look like anything; what stands around them says more than they do.
    """
    found = np.flatnonzero(kept)
    if not len(found):
        return kept
    result = kept.copy()
    tag = np.array(blocks.tag)
    code = tag == _CODE
    result[found[0] : found[-1] + 1] |= code[found[0] : found[-1] + 1]
    for kind in ((tag == _CELL) & (np.array(blocks.row) > 0), tag == _ITEM):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], kind.astype(np.int8), [0]))))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if kept[start:end].all():
                continue
            amid = start > 0 and end < len(kept) and kept[start - 1] and kept[end]
            if 2 * kept[start:end].sum() >= end - start or (amid and _links(blocks, start, end) < _LINKS_AMID):
                result[start:end] = True
    return result


def _links(blocks: Blocks, start: int, end: int) -> float:
    """Mean share of link text over a stretch of blocks."""
    shares = (blocks.link_chars[i] / max(len(blocks.text[i]), 1) for i in range(start, end))
    return sum(shares) / (end - start)


def sizes(blocks: Blocks) -> NDArray[np.float64]:
    """Words of each block; text without spaces (Chinese, Japanese, Thai …) counts one for every 30 bytes."""
    return np.array([max(text.count(" ") + 1, len(text.encode("utf-8", "replace")) / 30) for text in blocks.text])


def render(blocks: Blocks, kept: NDArray[np.bool_]) -> str:
    """The kept blocks, each on lines of its own; neighbouring cells of a table row on one line, divided by ` | `."""
    lines: list[str] = []
    last_row = 0
    for i in np.flatnonzero(kept).tolist():
        row = blocks.row[i] if blocks.tag[i] == _CELL else 0
        if row and row == last_row:
            lines[-1] = f"{lines[-1]} | {blocks.text[i]}"
        else:
            lines.append(blocks.text[i])
        last_row = row
    return "\n".join(lines)
