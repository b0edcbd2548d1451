"""Blocks of a page -> numbers for the block classifier. Every feature is a function of the page alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.extraction.blocks import N_FLAGS, TAGS, Blocks

_TERMINAL = tuple(".!?:;\"'”’»…。！？」』）।؟)")
_LONG = 80  # bytes from which a block with few links counts as running text
_RIGHT = 1 << np.arange(N_FLAGS, dtype=np.int64)


def features(blocks: Blocks) -> NDArray[np.float64]:
    """A row for each block and a column for each feature, all roughly within -4 … 8."""
    n = len(blocks)
    texts = blocks.text
    size = np.array([len(text.encode("utf-8", "replace")) for text in texts], np.float64)
    chars = np.array([len(text) for text in texts], np.float64)
    words = np.array([text.count(" ") + 1 for text in texts], np.float64)
    commas = np.array([text.count(",") + text.count("、") + text.count("，") for text in texts], np.float64)
    stops = np.array([text.count(". ") + text.count("。") + text.count("? ") for text in texts], np.float64)
    terminal = np.array([text.endswith(_TERMINAL) for text in texts], np.float64)
    digits = np.array([sum(map(text[:200].count, "0123456789")) for text in texts], np.float64)
    bars = np.array(
        [text.count("|") + text.count("»") + text.count("©") + text.count("›") for text in texts], np.float64
    )
    upper = np.array([text[:1].isupper() for text in texts], np.float64)
    link = np.minimum(np.array(blocks.link_chars, np.float64) / chars, 1.0)
    tag = np.array(blocks.tag)
    level = np.array(blocks.level, np.float64)
    flags = np.array(blocks.flags, np.int64)
    own = np.array(blocks.own, np.int64)
    depth = np.array(blocks.depth, np.float64)
    breaks = np.array(blocks.breaks, np.float64)
    row = np.array(blocks.row, np.float64) > 0
    length = np.log1p(size)

    running = size * (1 - link) * ((size >= _LONG) & (link < 0.5))
    before = np.concatenate(([0.0], np.cumsum(running)))
    total = max(before[-1], 1.0)
    all_size = np.concatenate(([0.0], np.cumsum(size)))
    all_link = np.concatenate(([0.0], np.cumsum(size * link)))
    long_count = np.concatenate(([0.0], np.cumsum(running > 0)))

    start, end, parent = np.array(blocks.start), np.array(blocks.end), np.array(blocks.parent)
    element = np.array(blocks.element)
    held = before[end] - before[start]

    columns: list[NDArray[Any]] = [
        length - 4,
        np.log1p(words) - 2,
        link * 2,
        (link > 0.9) * 1.0,
        np.minimum(chars / words, 20) / 5,
        np.minimum(commas / words * 10, 3),
        np.log1p(stops),
        terminal,
        np.minimum(digits / np.minimum(chars, 200), 1) * 3,
        np.minimum(bars, 3),
        upper,
        np.log1p(breaks),
        row * 1.0,
        (level == 1) * 1.0,
        (level == 2) * 1.0,
        (level >= 3) * 1.0,
        np.minimum(depth, 30) / 10,
    ]
    columns += [(tag == i) * 1.0 for i in range(len(TAGS))]
    columns += list(((flags[:, None] & _RIGHT) > 0).T.astype(np.float64))
    columns += list(((own[:, None] & _RIGHT) > 0).T.astype(np.float64))

    # Where in the page, by blocks and by running text.
    index = np.arange(n)
    share = before[:-1] / total
    columns += [
        index / max(n, 1) * 2,
        share * 2,
        (share <= 0.0) * 1.0,
        (before[1:] >= total - 0.5) * 1.0,
        np.full(n, np.log1p(n) - 4),
        np.full(n, np.log1p(before[-1]) / 2 - 3),
        np.full(n, all_link[-1] / max(all_size[-1], 1.0) * 2),
        np.full(n, before[-1] / max(all_size[-1], 1.0) * 2),
        np.full(n, before[-1] / max(long_count[-1], 1.0) / 300).clip(0, 4),
    ]

    # The element around the block, the one around that, and the one around that.
    around = element
    for _ in range(4):
        inside = all_size[end[around]] - all_size[start[around]]
        columns += [
            held[around] / total * 2,
            held[around] / np.maximum(inside, 1.0) * 2,
            (all_link[end[around]] - all_link[start[around]]) / np.maximum(inside, 1.0) * 2,
            np.log1p(end[around] - start[around]) - 1,
        ]
        around = np.maximum(parent[around], 0)

    # The smallest elements that hold most of the running text.
    for part in (0.4, 0.6, 0.8, 0.95):
        candidates = np.flatnonzero(held >= part * total - 1e-9)
        if len(candidates) == 0:
            candidates = np.array([0])
        best = candidates[np.argmin((end - start)[candidates])]
        columns += [
            ((index >= start[best]) & (index < end[best])) * 1.0,
            (index < start[best]) * 1.0,
            np.clip((index - start[best]) / max(end[best] - start[best], 1), -1, 2),
        ]

    # The headline, if the title of the page names it.
    columns += _headline(blocks, index, level)

    # Neighbours.
    for step in (-1, 1, -2, 2, 3):
        at = index + step
        valid = (at >= 0) & (at < n)
        at = np.clip(at, 0, n - 1)
        columns += [
            np.where(valid, length[at] - 4, -4),
            np.where(valid, link[at] * 2, 0),
            np.where(valid, level[at] > 0, 0) * 1.0,
            np.where(valid, element[at] == element, 0) * 1.0,
            np.where(valid, terminal[at], 0) * 1.0,
        ]
    for reach in (3, 10):
        low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, n)
        inside = all_size[high] - all_size[low]
        columns += [
            np.log1p((before[high] - before[low]) / (high - low)) - 3,
            (all_link[high] - all_link[low]) / np.maximum(inside, 1.0) * 2,
        ]
    # The same text twice is seldom content.
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    columns.append(np.array([counts[text] > 1 for text in texts], np.float64))
    # How much of the running text stands in elements of the same place (tag, depth and own flags).
    places: dict[tuple[int, int, int], float] = {}
    keys = list(zip(blocks.tag, blocks.depth, blocks.own, strict=True))
    for key, amount in zip(keys, running.tolist(), strict=True):
        places[key] = places.get(key, 0.0) + amount
    columns.append(np.array([places[key] for key in keys]) / total * 2)
    return np.stack(columns, axis=1)


def _headline(blocks: Blocks, index: NDArray[np.int64], level: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    title = set(blocks.title.lower().split())
    best, best_score = -1, 0.5
    if title:
        for i in np.flatnonzero(level > 0).tolist():
            words = set(blocks.text[i].lower().split())
            score = len(words & title) / max(len(words), 1) * min(1.0, len(words) / 3) - 0.02 * level[i]
            if score > best_score:
                best, best_score = i, score
    known = best >= 0
    n = len(index)
    return [
        np.full(n, float(known)),
        (index == best) * 1.0,
        ((index < best) & known) * 1.0,
        np.clip((index - best) / 10.0, -2, 4) * known,
    ]
