# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment"
"""The compiled code that weighs what was found of items."""

import numpy as np

from pipeline.contamination.kernel import BASE
from pipeline.dedup.kernel import U64, mixed
from pipeline.signals.statistics.primitives import compiled, inlined


@compiled
def fill_item_grams(entries, ends, at, lengths, index, ns, grams, rows):
    """Writes the N-grams of an item that lie in runs of its own words, each with the number of its match."""
    items, bounds = index[0], index[2]
    used = 0
    i = 0
    for m in range(len(entries)):
        e = entries[m]
        n = ns[e]
        own = bounds[e + 1] - bounds[e]
        while i < ends[m]:
            if at[i] < own:
                for k in range(lengths[i] - n + 1):
                    grams[used] = gram_of(items, bounds[e] + at[i] + k, n)
                    rows[used] = m
                    used += 1
            i += 1
    return used


@inlined
def gram_of(items, g, n):
    """The hash of `n` words of the index."""
    h = U64(0)
    for k in range(n):
        h = h * BASE + U64(items[g + k])
    return mixed(h)


@compiled
def weigh_all(entries, ends, at, lengths, index, ns, common, stamps, out):
    """For each match the weight that is covered, by more than common N-grams, of question, choices, answer and passage,
    and how many N-grams are not common. `stamps`: zeroed scratch for twice the words of the longest sequence."""
    items, weights, bounds = index[0], index[1], index[2]
    seg_first, seg_start, seg_end, passage, answer = index[7], index[8], index[9], index[10], index[11]
    half = len(stamps) // 2
    i = 0
    for m in range(len(entries)):
        e = entries[m]
        base = bounds[e]
        own = bounds[e + 1] - base
        n = ns[e]
        stamp = m + 1
        first = seg_first[e]
        question = seg_end[first]
        right = first + answer[e]
        right_start = seg_start[right] if answer[e] >= 0 else own
        right_end = seg_end[right] if answer[e] >= 0 else own
        choices_end = seg_end[seg_first[e + 1] - 1]
        if answer[e] >= 0 and index[12][e]:
            choices_end = seg_end[right - 1]
        while i < ends[m]:
            length = np.int64(lengths[i])
            begin = np.int64(at[i])
            inside = begin < own
            g = base + begin if inside else bounds[passage[e]] + begin - own
            counted = 0  # words of the run up to here are counted, or known not to be
            k = 0
            while k < length:
                fresh = length < n
                if not fresh and k + n <= length:
                    fresh = not contains(common, gram_of(items, g + k, n))
                    if fresh and inside and stamps[half + begin + k] != stamp:
                        stamps[half + begin + k] = stamp
                        out[m, 4] += 1
                stop = k + (1 if length < n else n)
                if fresh:
                    for w in range(max(k, counted), stop):
                        if not inside:
                            if stamps[begin - own + w] != stamp:
                                stamps[begin - own + w] = stamp
                                out[m, 3] += weights[g + w]
                        elif stamps[begin + w] != stamp:
                            stamps[begin + w] = stamp
                            if begin + w < question:
                                out[m, 0] += weights[g + w]
                            elif begin + w < choices_end:
                                out[m, 1] += weights[g + w]
                            if right_start <= begin + w < right_end:
                                out[m, 2] += weights[g + w]
                    counted = stop
                k += 1
            i += 1


@inlined
def contains(values, value):
    """True where a sorted array holds a value."""
    low = 0
    high = len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(values) and values[low] == value


@compiled
def outdone(rows, starts, ends, order, scores, weights, hair, out):
    """Marks what another match of the same page outdoes: it covers most of the same place, weighs no less, and has a score
    more than a hair above. `order` sorts by row and start."""
    for x in range(len(order)):
        a = order[x]
        for direction in (1, -1):
            y = x + direction
            while 0 <= y < len(order) and not out[a]:
                b = order[y]
                y += direction
                if rows[b] != rows[a] or (direction == 1 and starts[b] >= ends[a]):
                    break
                shared = min(ends[a], ends[b]) - max(starts[a], starts[b])
                if (
                    5 * shared >= 4 * (ends[a] - starts[a])
                    and scores[b] > scores[a] + hair
                    and weights[b] >= weights[a]
                ):
                    out[a] = True
