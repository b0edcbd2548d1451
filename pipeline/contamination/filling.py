# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment"
"""The compiled code that fills the index with the grams of items."""

import numpy as np

from pipeline.contamination.kernel import BASE, CLASS, OCCUPIED, PLACES, PRINT, SHORT, bits_of, finished
from pipeline.dedup.kernel import U64, mixed
from pipeline.signals.statistics.primitives import compiled


@compiled
def hash_sequences(words, bounds, out):
    """A hash of each sequence of words."""
    for e in range(len(bounds) - 1):
        h = U64(bounds[e + 1] - bounds[e])
        for i in range(bounds[e], bounds[e + 1]):
            h = mixed(h) * BASE + U64(words[i])
        out[e] = mixed(h)


@compiled
def fill_grams(words, k, hashes, at):
    """Hash and place of every gram of `k` words that crosses no gap (a word 0); returns how many there are."""
    rolling = U64(0)
    leaving = U64(1)
    for _ in range(k):
        leaving *= BASE
    n = 0
    length = 0
    for i in range(len(words)):
        if words[i] == 0:
            length = 0
            rolling = U64(0)
            continue
        rolling = rolling * BASE + U64(words[i])
        if length >= k:
            rolling -= leaving * U64(words[i - k])
        else:
            length += 1
        if length == k:
            hashes[n] = finished(rolling)
            at[n] = i - k + 1
            n += 1
    return n


@compiled
def count_documents(words, bounds, counted, ids, df):
    """In how many of the counted sequences each word (`ids`: its number in the vocabulary) stands."""
    last = np.full(len(df), -1, np.int64)
    for e in range(len(bounds) - 1):
        if counted[e]:
            for i in range(bounds[e], bounds[e + 1]):
                if words[i] and last[ids[i]] != e:
                    last[ids[i]] = e
                    df[ids[i]] += 1


@compiled
def fill_table(hashes, at, order, owner, short, bloom, slots, lists):
    """Fills the filter, the table and the lists of places from grams in the order of their hashes; returns how much of the
    lists is used. With no slots it only counts that and the distinct grams."""
    n = len(order)
    used = 1
    distinct = 0
    i = 0
    while i < n:
        g = hashes[order[i]]
        j = i
        kept = 0
        entities = 0
        hangs = False
        previous = -1
        of_this = 0
        while j < n and hashes[order[j]] == g:
            e = owner[order[j]]
            of_this = of_this + 1 if e == previous else 0
            entities += e != previous
            previous = e
            if of_this < PLACES:
                if len(slots):
                    lists[used + 1 + kept] = at[order[j]]
                kept += 1
            hangs |= short[order[j]]
            j += 1
        distinct += 1
        if len(slots):
            payload = U64(at[order[i]])
            size = U64(0)
            if kept > 1:
                lists[used] = kept
                payload = U64(used)
                size = U64(1)
                while 2 << np.int64(size) <= kept:
                    size += U64(1)
            slot = (g & U64(0xFFFFFF)) << PRINT | U64(hangs) << SHORT | size << CLASS | U64(1) << OCCUPIED | payload
            block = (g >> U64(32)) * U64(len(bloom)) >> U64(32)
            bloom[block] |= bits_of(g)
            s = (g >> U64(32)) * U64(len(slots)) >> U64(32)
            while slots[s] != 0:
                s += U64(1)
                if s == len(slots):
                    s = U64(0)
            slots[s] = slot
        if kept > 1:
            used += kept + 1
        i = j
    return used, distinct
