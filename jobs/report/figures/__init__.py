"""Figures of a report as inline SVG: drawn by matplotlib, then stripped of all style, so that the page's CSS colours them.

Every figure is one `<svg role="img">` with a title and a description that says its numbers, no id that another figure of the
page has (`name` makes them), no style, no script and no link. The same data gives the same bytes. They are drawn 340 units
wide, so that their text can be read on a phone. What there is nothing to draw of is "".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.path import Path

from jobs.report.figures.canvas import (
    Area,
    Canvas,
    apart,
    exact,
    identifier,
    linear_ticks,
    log_ticks,
    short,
)

__all__ = [
    "bars",
    "before_after",
    "curve",
    "exact",
    "funnel",
    "histogram",
    "identifier",
    "reliability",
    "short",
    "timeline",
]

SERIES = {
    "kept": "kept",
    "alone": "dropped",
    "other": "soft",
    "removed": "dropped",
}
"""Colours of series by name; others take what is left in the order of SPARE."""

SPARE = ("accent", "dropped-soft", "kept-soft", "dropped", "kept")


def _colours(names: Sequence[str]) -> list[str]:
    spare = iter(name for name in SPARE * (1 + len(names)))
    return [SERIES.get(name) or next(spare) for name in names]


def _stair(heights: Any, edges: Any) -> Path:
    """The outline of bars that stand side by side; neighbours of one height are one bar."""
    turns = np.flatnonzero(np.diff(heights, prepend=-1.0, append=-1.0))
    xs, ys = np.repeat(np.asarray(edges)[turns], 2), np.repeat(np.asarray(heights)[turns[:-1]], 2)
    outline = np.column_stack([xs, np.concatenate([[0.0], ys, [0.0]])])
    return Path(np.concatenate([outline, outline[:1]]), closed=True)


def histogram(
    name: str,
    edges: Sequence[float],
    series: Mapping[str, Sequence[int]],
    *,
    title: str,
    bounds: tuple[float | None, float | None] = (None, None),
    log: bool = False,
    zeros: Mapping[str, int] | None = None,
    what: str = "pages",
    height: float = 150,
) -> str:
    """How a value is spread: bars of `series`, one upon the other in their order, and the bounds as lines.

    `edges` has one more than each series. With `log` they rise by a factor and `zeros` are drawn apart on the left.
    """
    heaps = [np.asarray(counts, float) for counts in series.values()]
    if not heaps or len(edges) < 2:
        return ""
    at = np.log10(np.maximum(np.asarray(edges, float), 1e-300)) if log else np.asarray(edges, float)
    zero = [float((zeros or {}).get(key, 0)) for key in series]
    gap = (at[-1] - at[0]) * 0.06 if any(zero) else 0.0
    places = [_place(bound, log) for bound in bounds]
    low, high = float(at[0]), float(at[-1])
    span = apart(low, high)[1] - apart(low, high)[0]
    inside = [p for p in places if p is not None and low - span <= p <= high + span]
    low, high = min([low, *inside]), max([high, *inside])
    left = low - 1.7 * gap
    highest = max(float(np.max(sum(heaps))), sum(zero), 1.0)
    colours = _colours(list(series))
    canvas = Canvas(height, Area(), (left, high), (0, highest))
    canvas.y_grid(linear_ticks(0, highest, 3))
    # From the whole heap to its lowest part, each over the one before: outlines are then those of heaps, and short.
    for count in range(len(heaps), 0, -1):
        colour = colours[count - 1]
        edge = "muted" if colour == "soft" else None
        if heaps[count - 1].any():
            canvas.shape(_stair(sum(heaps[:count]), at), colour, edge, 0.6)
        if zero[count - 1]:
            canvas.boxes([(left, 0, left + gap, sum(zero[:count]))], colour, edge)
    ticks = log_ticks(low, high) if log else linear_ticks(low, high)
    canvas.x_ticks([*([(left + gap / 2, "0")] if gap else []), *ticks])
    _draw_bounds(canvas, bounds, places, (low, high), highest)
    return canvas.svg(name, title, _histogram_in_words(edges, series, zeros or {}, bounds, what))


def _place(bound: float | None, log: bool) -> float | None:
    if bound is None or not math.isfinite(bound) or (log and bound <= 0):
        return None
    return math.log10(bound) if log else bound


def _draw_bounds(
    canvas: Canvas,
    bounds: tuple[float | None, float | None],
    places: Sequence[float | None],
    ends: tuple[float, float],
    highest: float,
) -> None:
    """Lines at least and most, and a word above each."""
    words = ("at least", "at most")
    for word, bound, place in zip(words, bounds, places, strict=True):
        if bound is None or place is None or not ends[0] <= place <= ends[1]:
            continue
        canvas.lines([[(place, 0), (place, highest)]], "ink", 1.6, (0, (4, 2)))
        left = word == "at most" if bounds[0] is not None and bounds[1] is not None else None
        middle = (place - ends[0]) / (ends[1] - ends[0] or 1)
        ha = ("right" if middle > 0.5 else "left") if left is None else ("left" if left else "right")
        ha = "left" if middle < 0.2 else "right" if middle > 0.8 else ha
        canvas.text(place, highest + 4 * canvas.unit_y, f"{word} {short(bound)}", ha=ha, colour="ink")


def _histogram_in_words(
    edges: Sequence[float],
    series: Mapping[str, Sequence[int]],
    zeros: Mapping[str, int],
    bounds: tuple[float | None, float | None],
    what: str,
) -> str:
    total = sum(sum(counts) for counts in series.values()) + sum(zeros.values())
    parts = [f"{exact(sum(counts) + zeros.get(key, 0))} {key}" for key, counts in series.items()]
    heap = np.sum([np.asarray(counts, float) for counts in series.values()], axis=0)
    words = f"{exact(total)} {what}" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")
    if heap.any():
        middle = int(np.searchsorted(np.cumsum(heap), heap.sum() / 2))
        most = int(np.argmax(heap))
        words += f"; half of them below about {short(edges[middle + 1])}"
        words += f"; most ({exact(float(heap[most]))}) between {short(edges[most])} and {short(edges[most + 1])}"
    if any(zeros.values()):
        words += f"; {exact(sum(zeros.values()))} at 0"
    words += "".join(
        f"; bound {w} {short(b)}" for w, b in zip(("at least", "at most"), bounds, strict=True) if b is not None
    )
    return words + "."


def curve(
    name: str,
    thresholds: Sequence[float],
    kept: Sequence[float],
    newly: Sequence[float],
    *,
    bound: float,
    side: str,
    title: str,
    log: bool = False,
    what: str = "pages",
    height: float = 130,
) -> str:
    """What would be kept if one end of a bound were elsewhere: `kept` filled, `newly` passing upon it, the bound."""
    if len(thresholds) < 2:
        return ""
    log = log and min(thresholds) > 0
    at = np.log10(np.asarray(thresholds, float)) if log else np.asarray(thresholds, float)
    own, more = np.asarray(kept, float), np.asarray(newly, float)
    highest = max(float(np.max(own + more)), 1.0)
    canvas = Canvas(height, Area(), (float(at[0]), float(at[-1])), (0, highest))
    canvas.y_grid(linear_ticks(0, highest, 3))
    if own.any():
        canvas.shape(_between(at, np.zeros_like(own), own), "kept-soft")
    if more.any():
        canvas.shape(_between(at, own, own + more), "dropped-soft")
        canvas.lines([np.column_stack([at, own + more])], "dropped", 1.4, (0, (3, 2)))
    canvas.lines([np.column_stack([at, own])], "kept", 1.8)
    canvas.x_ticks(log_ticks(float(at[0]), float(at[-1])) if log else linear_ticks(float(at[0]), float(at[-1])))
    place = _place(bound, log)
    if place is not None and at[0] <= place <= at[-1]:
        canvas.lines([[(place, 0), (place, highest)]], "ink", 1.6, (0, (4, 2)))
        right = (place - at[0]) / (at[-1] - at[0] or 1) > 0.5
        canvas.text(
            place, highest + 4 * canvas.unit_y, f"now {short(bound)}", ha="right" if right else "left", colour="ink"
        )
    return canvas.svg(name, title, _curve_in_words(thresholds, kept, newly, bound, side, what))


def _between(at: Any, low: Any, high: Any) -> Path:
    line = np.concatenate([np.column_stack([at, high]), np.column_stack([at, low])[::-1]])
    return Path(np.concatenate([line, line[:1]]), closed=True)


def _curve_in_words(
    thresholds: Sequence[float], kept: Sequence[float], newly: Sequence[float], bound: float, side: str, what: str
) -> str:
    picked = sorted({0, len(thresholds) // 4, len(thresholds) // 2, 3 * len(thresholds) // 4, len(thresholds) - 1})
    now = min(range(len(thresholds)), key=lambda i: abs(thresholds[i] - bound))
    words = [f"Now, at {side} {short(bound)}, {exact(kept[now])} {what} are kept"]
    for i in picked:
        also = f" and {exact(newly[i])} would newly pass" if newly[i] else ""
        words.append(f"{exact(kept[i])}{also} at {short(thresholds[i])}")
    return "; ".join(words) + "."


class Level(NamedTuple):
    """A row of a funnel: what it is called, what it took and what is left after it."""

    label: str
    taken: float
    left: float


def funnel(
    name: str, levels: Sequence[Level], *, title: str, show: Callable[[float], str] = exact, row: float = 40
) -> str:
    """From the first level, which took nothing, to the last: what is left as shrinking bars, what was taken beside."""
    if not levels or levels[0].left <= 0:
        return ""
    start = levels[0].left
    height = row * len(levels) + 2
    canvas = Canvas(height, Area(2, 2, 0, 2), (0, start), (-row * len(levels), 0))
    tops = [-row * number for number in range(len(levels))]
    bar_top, bar_bottom = 17, 33
    slopes, last = [], start
    for top, level in zip(tops, levels, strict=True):
        if top:
            above = top + row - bar_bottom
            corners = [(0, above), (last, above), (level.left, top - bar_top), (0, top - bar_top), (0, above)]
            slopes.append(Path(corners, closed=True))
        last = level.left
    if slopes:
        canvas.shape(Path.make_compound_path(*slopes), "kept-soft")
    bars = [(0.0, top - bar_bottom, level.left, top - bar_top) for top, level in zip(tops, levels, strict=True)]
    canvas.boxes(bars, "kept")
    lost = [
        (level.left, top - bar_bottom, level.left + level.taken, top - bar_top)
        for top, level in zip(tops, levels, strict=True)
        if level.taken > 0
    ]
    canvas.boxes(lost, "dropped-soft", "dropped")
    words = []
    for top, level in zip(tops, levels, strict=True):
        canvas.text(0, top - 12, level.label, colour="ink", fontweight="bold")
        took = f"\u2212{show(level.taken)} \u2192 " if level.taken > 0 else ""
        said = f"{took}{show(level.left)} ({share(level.left, start)})"
        canvas.text(start, top - 12, said, ha="right", colour="ink")
        words.append(
            f"{level.label}: "
            + (f"{show(level.taken)} taken, " if level.taken > 0 else "")
            + f"{show(level.left)} left"
        )
    return canvas.svg(name, title, "; ".join(words) + ".")


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent: never 0 % of something or 100 % of less than all."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if percent and abs(percent) < 0.01:
        return "< 0.01 %"
    if part != whole and percent > 99.9:
        return "> 99.9 %" if percent < 100 else f"{percent:.4g} %"
    return f"{percent:.2g} %" if percent < 1 else f"{percent:.1f} %" if percent < 99.95 and part != whole else "100 %"


def before_after(name: str, rows: Sequence[tuple[str, float, float]], *, title: str, total: tuple[float, float]) -> str:
    """Shares of `total` before and after, two bars a row: what grew and what shrank in proportion."""
    if not rows or not total[0]:
        return ""
    shares = [(before / total[0], after / total[1] if total[1] else 0.0) for _, before, after in rows]
    most = max(max(pair) for pair in shares) or 1.0
    row = 34
    canvas = Canvas(row * len(rows) + 2, Area(2, 2, 0, 2), (0, most), (-row * len(rows), 0))
    before_bars, after_bars, words = [], [], []
    for number, ((label, before, after), (one, two)) in enumerate(zip(rows, shares, strict=True)):
        top = -row * number
        before_bars.append((0.0, top - 22.0, one, top - 15.0))
        after_bars.append((0.0, top - 29.0, two, top - 22.0))
        said = f"{share(before, total[0])} \u2192 {share(after, total[1])}"
        canvas.text(0, top - 11, _cut(label, 34), colour="ink")
        canvas.text(most, top - 11, said, ha="right")
        words.append(f"{_cut(label, 60)} {said}")
    canvas.boxes(before_bars, "soft", "muted")
    canvas.boxes(after_bars, "kept")
    return canvas.svg(name, title, "Shares before and after: " + "; ".join(words) + ".")


def _cut(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most - 1] + "\u2026"


def bars(
    name: str,
    rows: Sequence[tuple[str, float]],
    *,
    title: str,
    show: Callable[[float], str] = exact,
    colour: str = "accent",
    said: Sequence[str] = (),
) -> str:
    """One bar a row; `said` stands on the right instead of the value."""
    if not rows:
        return ""
    most = max(value for _, value in rows) or 1.0
    row = 27
    canvas = Canvas(row * len(rows) + 2, Area(2, 2, 0, 2), (0, most), (-row * len(rows), 0))
    texts = list(said) or [show(value) for _, value in rows]
    for number, ((label, _), words) in enumerate(zip(rows, texts, strict=True)):
        canvas.text(0, -row * number - 11, _cut(label, 34), colour="ink")
        canvas.text(most, -row * number - 11, words, ha="right")
    canvas.boxes([(0.0, -row * n - 23.0, value, -row * n - 15.0) for n, (_, value) in enumerate(rows)], colour)
    words = "; ".join(f"{_cut(label, 60)}: {text}" for (label, _), text in zip(rows, texts, strict=True))
    return canvas.svg(name, title, words + ".")


def timeline(name: str, rows: Sequence[tuple[str, float, float]], *, title: str, total: tuple[float, float]) -> str:
    """Shares of `total` over periods that follow each other: before as an area of steps, after as a line of steps."""
    if len(rows) < 2 or not total[0]:
        return ""
    before = np.array([value / total[0] for _, value, _ in rows])
    after = np.array([value / total[1] if total[1] else 0.0 for _, _, value in rows])
    most = float(max(before.max(), after.max())) or 1.0
    edges = np.arange(len(rows) + 1, dtype=float)
    canvas = Canvas(150, Area(), (0, float(len(rows))), (0, most))
    canvas.y_grid([(y, f"{100 * y:.3g} %") for y, _ in linear_ticks(0, most, 3)])
    canvas.shape(_stair(before, edges), "soft", "muted", 0.6)
    canvas.lines([np.column_stack([np.repeat(edges, 2)[1:-1], np.repeat(after, 2)])], "kept", 1.8)
    step = max(1, -(-len(rows) // 5))
    canvas.x_ticks([(number + 0.5, _cut(rows[number][0], 12)) for number in range(0, len(rows), step)])
    peaks = sorted(range(len(rows)), key=lambda i: -before[i])[:5]
    words = [
        f"{rows[i][0]} {share(rows[i][1], total[0])} before, {share(rows[i][2], total[1])} after" for i in sorted(peaks)
    ]
    return canvas.svg(
        name, title, f"{len(rows)} periods from {rows[0][0]} to {rows[-1][0]}; the largest: " + "; ".join(words) + "."
    )


def reliability(name: str, bins: Sequence[tuple[float, float, int]], *, title: str) -> str:
    """Mean score against the share of positives of each bin (mean, share, examples): on the diagonal a score is the chance
    that it claims to be. Circles grow with the number of examples."""
    if not bins:
        return ""
    canvas = Canvas(300, Area(44, 10, 10, 36), (0, 1), (0, 1))
    ticks = [(at / 4, f"{at / 4:g}") for at in range(5)]
    canvas.y_grid(ticks)
    canvas.lines([[(0, 0), (1, 1)]], "muted", 1, (0, (4, 3)))
    canvas.x_ticks(ticks)
    most = max(n for _, _, n in bins) or 1
    circles = []
    for mean, positives, n in bins:
        radius = 3 + 7 * math.sqrt(n / most)
        size = np.array([radius * canvas.unit_x, radius * canvas.unit_y])
        circle = Path.circle((0, 0), 1)
        circles.append(Path(circle.vertices * size + np.array([mean, positives]), circle.codes))
    canvas.lines([[(mean, share_) for mean, share_, _ in bins]], "accent", 1.4)
    canvas.shape(Path.make_compound_path(*circles), "accent", "paper", 1)
    canvas.text(0.5, -30 * canvas.unit_y, "score", ha="center", va="top")
    canvas.text(0, 1 + 2 * canvas.unit_y, "share of positives", va="bottom")
    words = "; ".join(
        f"{exact(n)} examples of mean score {mean:.2f}: {share_:.1%} positive" for mean, share_, n in bins
    )
    return canvas.svg(name, title, words + ".")
