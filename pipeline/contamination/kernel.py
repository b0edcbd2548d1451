# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment"
"""The compiled code of decontamination: texts split into words, looked up in the index, and what was found judged.

It stays in one file because Numba's cache looks at the file of the function that it compiled and at no other.
"""

import numpy as np

from pipeline.dedup.kernel import FACTORS, KEEP, LETTER, MIX_1, MIX_2, U32, U64, WORD, beyond_ascii, longest_of, mixed
from pipeline.signals.statistics.primitives import compiled, inlined

K = 5
"""Words of a gram of the index. Three words stand in half of all English pages by chance and eight are lost to the first
edit of a sentence; a question of five words, the shortest that says something, has just one gram of five."""
WHOLE = 8
"""Runs of at least so many equal words, or of the least N where that is smaller, are always looked at."""
FREQUENT = 64
"""Grams in more places than this are looked up only inside a run of `WHOLE` words of which each gram is in the index."""
WINDOW, ENOUGH = 32, 4
"""Hits within `WINDOW` words are looked at when their points (2 for a gram of at most `RARE` places, 1 for one of at most
`FREQUENT`) reach `ENOUGH`."""
RARE = 4
PLACES = 16
"""Places of one gram in one item that are kept."""
GAP = 24
"""Between two runs, before the first and after the last, at most so many words are compared one by one."""
NEAR = 32
"""Choices and answers are searched for up to so many words around where they are due."""
STEPS = 64
"""A page may take so many steps for each of its words, and `PATIENCE` more, before frequent grams are left alone: what a
page made for it would cost otherwise grows with its square."""
PATIENCE = 1 << 16
MAX_PASSAGE = 64
"""Runs of a passage that are kept of one page."""

BASE = U64(MIX_2)
LEAVING = U64(pow(int(MIX_2), K, 1 << 64))
OCCUPIED, CLASS, SHORT, PRINT = U64(32), U64(33), U64(39), U64(40)
"""A slot: a place or list in its low 32 bits, then these bits: taken, log2 of the number of places plus one (0: a single
place, which stands in the slot), some short question hangs on it, and 24 bits of the gram's hash."""
LOW = U64(0xFFFFFFFF)
UNIT = 4096
"""Weights of words are whole numbers of 1/4096 nats, so that no sum depends on its order."""

_CLOSES = np.zeros(256, np.bool_)
_CLOSES[list(b".):]")] = True
_LEADS = np.zeros(256, np.bool_)
_LEADS[list(b" \t*#>-(")] = True


@inlined
def finished(rolling):
    """The hash of a gram, out of what rolled over its words."""
    return mixed(rolling)


@compiled
def split_words(data, i, end, table, raw, words, starts, ends):
    """Writes hash, first byte and end of every word of the text from byte i to `end`; returns how many there are.

    Bytes count from the start of the text. No processor could foresee which character ends a word, so nothing branches
    on it: every character writes a word, and only the end of one moves on to where the next is written.
    """
    begin = U64(i)
    i = begin
    end = U64(end)
    one = U64(1)
    count = U64(0)
    place = U64(0)
    h = U64(0)
    opened = U64(0)
    while i < end:
        c = U32(data[i])
        size = one
        if c >= 0x80:
            left = end - i
            c, taken = beyond_ascii(
                data[i],
                data[i + one] if left > 1 else 0,
                data[i + U64(2)] if left > 2 else 0,
                data[i + U64(3)] if left > 3 else 0,
            )
            size = U64(taken)
        form = U64(table[c])
        kind = form & U64(3)
        if kind == WORD:
            ends[count] = i - begin
            count += U64(place > 0)
            raw[count] = (form >> U64(2)) * FACTORS[0]
            starts[count] = i - begin
            ends[count] = i + size - begin
            count += one
            h = U64(0)
            place = U64(0)
            i += size
            continue
        if place == 64 and kind == LETTER:
            h = mixed(h)
            place = U64(0)
        opened = i if place == 0 and h == 0 else opened
        h += (form >> U64(2)) * FACTORS[place & U64(63)]
        place += kind & one
        raw[count] = h
        starts[count] = opened - begin
        ends[count] = i - begin
        count += (kind >> one) & U64(place > 0)
        h &= KEEP[kind]
        place &= KEEP[kind]
        i += size
    ends[count] = i - begin
    count += U64(place > 0)
    kept = U64(0)
    for j in range(count):
        first = U64(starts[j]) + begin
        last = U64(ends[j]) + begin
        if last < end and _CLOSES[data[last]] and is_label(data, begin, first, last, end):
            continue
        word = U32(mixed(raw[j]) >> U64(32))
        words[kept] = max(word, U32(1))
        starts[kept] = starts[j]
        ends[kept] = ends[j]
        kept += one
    return np.int64(kept)


@compiled
def is_label(data, begin, first, last, end):
    """True where the word that a closing mark follows is the label of a choice: one letter of a to j, or a number of at
    most three digits where a line begins."""
    b = data[first]
    one = U64(1)
    if 97 <= b | 0x20 <= 106 and b < 128:
        return last - first == one and last + one < end
    if not 48 <= b <= 57 or last - first > U64(3) or last + U64(2) >= end:
        return False
    for i in range(first, last):
        if not 48 <= data[i] <= 57:
            return False
    if data[last + one] != 32 and data[last + one] != 9:
        return False
    i = first
    for _ in range(8):
        if i == begin or data[i - one] == 10:
            return True
        i -= one
        if not _LEADS[data[i]]:
            return False
    return False


@compiled
def words_of_texts(data, offsets, table, words, ends):
    """Words of texts one after another, with nothing between them; `ends[r + 1]` is where those of text r end."""
    longest = longest_of(offsets) // 2 + 2
    raw = np.empty(longest, np.uint64)
    own = np.empty(longest, np.uint32)
    starts = np.empty(longest, np.uint32)
    stops = np.empty(longest, np.uint32)
    at = 0
    ends[0] = 0
    for r in range(len(offsets) - 1):
        n = split_words(data, offsets[r], offsets[r + 1], table, raw, own, starts, stops)
        for j in range(n):
            words[at + j] = own[j]
        at += n
        ends[r + 1] = at


@compiled
def places_of_texts(data, start, end, table):
    """Characters at which each word of one text starts and ends."""
    most = (end - start) // 2 + 2
    raw = np.empty(most, np.uint64)
    words = np.empty(most, np.uint32)
    starts = np.empty(most, np.uint32)
    ends = np.empty(most, np.uint32)
    n = split_words(data, start, end, table, raw, words, starts, ends)
    to_characters(data, start, n, starts, ends)
    return words[:n], starts[:n], ends[:n]


@compiled
def to_characters(data, start, n, starts, ends):
    """Turns the bytes of words into characters, in place."""
    at = 0
    chars = 0
    for j in range(n):
        while at < starts[j]:
            chars += data[start + at] & 0xC0 != 0x80
            at += 1
        starts[j] = chars
        while at < ends[j]:
            chars += data[start + at] & 0xC0 != 0x80
            at += 1
        ends[j] = chars


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


@inlined
def bits_of(g):
    """The three bits of a gram in its word of the filter."""
    one = U64(1)
    return one << (g & U64(63)) | one << (g >> U64(6) & U64(63)) | one << (g >> U64(12) & U64(63))


@inlined
def grown(array, used, more):
    """The array, or a longer one with its first `used` rows, so that `more` rows fit behind them."""
    if used + more > len(array):
        longer = np.empty((2 * (used + more), array.shape[1]), array.dtype)
        longer[:used] = array[:used]
        array = longer
    return array


@compiled
def find_all(data, offsets, table, index, covered, stamps):
    """int32 records of all that was found: row, entry, place, at, words, start, end.

    `covered` and `stamps` are zeroed scratch: for each sequence, and for each word of the longest.
    """
    longest = longest_of(offsets) // 2 + 2
    raw = np.empty(longest, np.uint64)
    words = np.empty(longest, np.uint32)
    starts = np.empty(longest, np.uint32)
    ends = np.empty(longest, np.uint32)
    hits = np.empty(longest, np.uint32)
    runs = np.empty((256, 4), np.int64)
    found = np.empty((256, 7), np.int32)
    lcs = np.zeros((GAP + 1, GAP + 1), np.int64)
    n_found = 0
    stamp = 0
    for r in range(len(offsets) - 1):
        start = offsets[r]
        if offsets[r + 1] == start:
            continue
        n = split_words(data, start, offsets[r + 1], table, raw, words, starts, ends)
        n_hits = look_up(words, n, index, hits, raw)
        if n_hits == 0:
            continue
        runs, n_runs = find_runs(words, n, index, hits, raw, n_hits, covered, r + 1, runs)
        if n_runs == 0:
            continue
        before = n_found
        found, n_found, stamp = find_places(words, n, index, runs, n_runs, r, found, n_found, stamps, stamp, lcs)
        if n_found > before:
            to_characters(data, start, n, starts, ends)
            for i in range(before, n_found):
                p = found[i, 5]
                found[i, 5] = starts[p]
                found[i, 6] = ends[p + found[i, 4] - 1]
    return found[:n_found]


@compiled
def look_up(words, n, index, hits, keys):
    """The places of words where a gram of the index begins, and its slot in `keys`; returns how many there are."""
    bloom = index[4]
    slots = index[5]
    rolling = U64(0)
    size = U64(len(bloom))
    n_hits = U64(0)
    one = U64(1)
    n = U64(n)
    for i in range(min(n, U64(K - 1))):
        rolling = rolling * BASE + U64(words[i])
    p = U64(0)
    last = U64(K - 1)
    leaves = U64(0)
    while p + last < n:
        rolling = rolling * BASE + U64(words[p + last]) - leaves
        leaves = U64(words[p]) * LEAVING
        g = finished(rolling)
        bits = bits_of(g)
        hits[n_hits] = p
        keys[n_hits] = g
        n_hits += U64(bloom[(g >> U64(32)) * size >> U64(32)] & bits == bits)
        p += one
    size = U64(len(slots))
    kept = U64(0)
    for i in range(n_hits):
        g = keys[i]
        s = (g >> U64(32)) * size >> U64(32)
        mark = g & U64(0xFFFFFF)
        while True:
            slot = slots[s]
            if slot == 0 or slot >> PRINT == mark:
                break
            s += one
            if s == size:
                s = U64(0)
        hits[kept] = hits[i]
        keys[kept] = slot
        kept += U64(slot != 0)
    return np.int64(kept)


@compiled
def find_runs(words, n, index, hits, keys, n_hits, covered, stamp, runs):
    """Runs of equal words on a page: rows of sequence, place on the page, place in the index, words; in order.

    A run that lies on the page within a run of the same sequence may be left out.
    """
    items = index[0]
    bounds = index[2]
    first = index[3]
    lists = index[6]
    stretch_of = np.int64(index[14][0]) - K + 1
    mark_windows(hits, keys, n_hits)
    budget = PATIENCE + STEPS * n
    n_runs = 0
    stretch_end = -1  # last hit of the current stretch
    stretch = False
    for i in range(n_hits):
        p = np.int64(hits[i])
        if i > stretch_end:
            j = i
            while j + 1 < n_hits and hits[j + 1] == hits[j] + 1:
                j += 1
            stretch_end = j
            stretch = j - i + 1 >= stretch_of
        key = keys[i]
        size = key >> CLASS & U64(63)
        hangs = key >> SHORT & U64(1)
        if not (stretch or hangs or key >> OCCUPIED & U64(1)):
            continue
        count = 1
        at = np.int64(key & LOW)
        if size:
            count = np.int64(lists[at])
            if count > FREQUENT and not hangs and not (stretch and p % stretch_of == 0):
                continue
            if count > RARE and budget < 0:
                continue
            at += 1
        budget -= count
        for k in range(count):
            g = at if size == 0 else np.int64(lists[at + k])
            e = np.int64(first[g >> 6])
            while bounds[e + 1] <= g:
                e += 1
            until = covered[e]
            if until >> U64(32) == stamp and np.int64(until & LOW) >= p + K:
                continue
            length = 0
            while p + length < n and items[g + length] == words[p + length]:
                length += 1
            if length < K:
                continue
            back = 0
            while back < p and items[g - back - 1] == words[p - back - 1]:
                back += 1
            budget -= (length + back) >> 4
            covered[e] = U64(stamp) << U64(32) | U64(p + length)
            runs = grown(runs, n_runs, 1)
            runs[n_runs, 0] = e
            runs[n_runs, 1] = p - back
            runs[n_runs, 2] = g - back
            runs[n_runs, 3] = length + back
            n_runs += 1
    if n_runs > 1:
        order = np.argsort((runs[:n_runs, 0] << 32) + runs[:n_runs, 1], kind="mergesort")
        runs[:n_runs] = runs[:n_runs][order]
    return runs, n_runs


@inlined
def mark_windows(hits, keys, n_hits):
    """Leaves the bit `OCCUPIED` only in the hits of windows with enough points."""
    tail = 0
    marked = 0
    points = 0
    for i in range(n_hits):
        keys[i] &= ~(U64(1) << OCCUPIED)
        points += worth(keys[i])
        while hits[tail] + U32(WINDOW) <= hits[i]:
            points -= worth(keys[tail])
            tail += 1
        if points >= ENOUGH:
            for j in range(max(tail, marked), i + 1):
                keys[j] |= U64(1) << OCCUPIED
            marked = i + 1


@inlined
def worth(key):
    """The points of a hit."""
    size = key >> CLASS & U64(63)
    return 2 if size <= 2 else 1 if size <= 6 else 0


@compiled
def find_places(words, n, index, runs, n_runs, row, found, n_found, stamps, stamp, lcs):
    """Appends what stands at every place of a page where enough of an item does; `start` holds the word on the page."""
    passage = index[10]
    n_entries = len(passage)
    end_of_items = n_runs
    while end_of_items > 0 and runs[end_of_items - 1, 0] >= n_entries:
        end_of_items -= 1
    i = 0
    while i < end_of_items:
        e = runs[i, 0]
        last = i
        while last < end_of_items and runs[last, 0] == e:
            last += 1
        place = 0
        while i < last:
            j = end_of_place(index, runs, i, last)
            stamp += 1
            before = n_found
            found, n_found = place_of(words, n, index, runs, i, j, row, place, found, n_found, stamps, stamp, lcs)
            place += n_found > before
            i = j
        if place and passage[e] >= 0:
            found, n_found = add_passage(index, runs, end_of_items, n_runs, e, row, found, n_found)
    return found, n_found, stamp


@compiled
def end_of_place(index, runs, i, last):
    """The first run behind i that belongs to another place: far away, or the question begins anew."""
    base = index[2][runs[i, 0]]
    length = index[2][runs[i, 0] + 1] - base
    question = index[9][index[7][runs[i, 0]]]
    reach = runs[i, 1] + 2 * length + NEAR
    seen = np.int64(0)
    page_end = np.int64(0)
    j = i
    while j < last and runs[j, 1] < reach:
        at = runs[j, 2] - base
        if j > i and at < question and at + K <= seen and runs[j, 1] >= page_end:
            break
        if at < question:
            seen = max(seen, min(at + runs[j, 3], question))
        page_end = max(page_end, runs[j, 1] + runs[j, 3])
        j += 1
    return j


@compiled
def place_of(words, n, index, runs, i, j, row, place, found, n_found, stamps, stamp, lcs):
    """Appends runs i to j, what is equal between them, and the choices and answer near by, if that is enough to look at."""
    items, weights, bounds = index[0], index[1], index[2]
    seg_first, seg_start, seg_end, seg_weight = index[7], index[8], index[9], index[13]
    e = runs[i, 0]
    base = bounds[e]
    question = seg_end[seg_first[e]]
    longest = np.int64(0)
    asked = np.int64(0)
    n_asked = np.int64(0)
    total = np.int64(0)
    before = n_found
    for k in range(i, j):
        at = runs[k, 2] - base
        longest = max(longest, runs[k, 3])
        for g in range(at, at + runs[k, 3]):
            if stamps[g] != stamp:
                stamps[g] = stamp
                total += weights[base + g]
                if g < question:
                    asked += weights[base + g]
                    n_asked += 1
        found = grown(found, n_found, 1)
        n_found = put(found, n_found, row, e, place, at, runs[k, 3], runs[k, 1])
    all_of = np.int64(0)
    for s in range(seg_first[e], seg_first[e + 1]):
        all_of += seg_weight[s]
    whole = question > 0 and n_asked == question
    if not (longest >= index[14][0] or whole or 5 * asked >= 2 * seg_weight[seg_first[e]] > 0 or 5 * total >= 2 * all_of):
        return found, before
    found = grown(found, n_found, (j - i + 1) * 2 * GAP)
    n_found = compare_gaps(words, n, index, runs, i, j, row, place, found, n_found, stamps, stamp, lcs)
    # Choices may stand in any order, and what has fewer words than a gram was not found yet.
    low = n
    high = np.int64(0)
    after = runs[i, 1]
    length = bounds[e + 1] - 1 - base
    for k in range(i, j):
        at = runs[k, 2] - base
        low = min(low, runs[k, 1] - at)
        high = max(high, runs[k, 1] + max(runs[k, 3], length - at))
        if at < question:
            after = max(after, runs[k, 1] + min(runs[k, 3], question - at))
    low = max(0, low - NEAR)
    high = min(n, high + NEAR)
    n_segments = seg_first[e + 1] - seg_first[e]
    found = grown(found, n_found, n_segments)
    budget = PATIENCE * 16
    for s in range(seg_first[e], seg_first[e + 1]):
        size = seg_end[s] - seg_start[s]
        missing = False
        for g in range(seg_start[s], seg_end[s]):
            missing |= stamps[g] != stamp
        if not missing or budget < 0:
            continue
        at = base + seg_start[s]
        p = search(words, max(low, after), high, items, at, size) if s > seg_first[e] else np.int64(-1)
        if p < 0:
            p = search(words, low, high, items, at, size)
        budget -= high - low
        if p >= 0:
            for g in range(seg_start[s], seg_end[s]):
                stamps[g] = stamp
            n_found = put(found, n_found, row, e, place, seg_start[s], size, p)
    return found, n_found


@inlined
def put(found, n_found, row, e, place, at, length, p):
    """Writes one record; returns how many there are then."""
    found[n_found, 0] = row
    found[n_found, 1] = e
    found[n_found, 2] = place
    found[n_found, 3] = at
    found[n_found, 4] = length
    found[n_found, 5] = p
    return n_found + 1


@inlined
def search(words, low, high, items, at, size):
    """Where words `low` to `high` first read as `size` words of the index from `at`; -1 where they do nowhere."""
    result = np.int64(-1)
    p = low
    while p + size <= high:
        k = 0
        while k < size and words[p + k] == items[at + k]:
            k += 1
        if k == size:
            result = p
            break
        p += 1
    return result


@compiled
def compare_gaps(words, n, index, runs, i, j, row, place, found, n_found, stamps, stamp, lcs):
    """Appends the words in common before, between and after runs of one place, in order on both sides."""
    items, weights, bounds = index[0], index[1], index[2]
    seg_first, seg_start, seg_end = index[7], index[8], index[9]
    e = runs[i, 0]
    base = bounds[e]
    page_end = np.int64(0)
    item_end = np.int64(-1)
    for k in range(i, j + 1):
        at = runs[k, 2] - base if k < j else np.int64(0)
        p = runs[k, 1] if k < j else n
        if item_end >= 0 and not (k < j and item_end <= at <= item_end + GAP and page_end <= p <= page_end + GAP):
            stop = item_end
            for s in range(seg_first[e], seg_first[e + 1]):
                if seg_start[s] < item_end <= seg_end[s]:
                    stop = seg_end[s]
            stop = min(stop, item_end + GAP)
            last = min(n, page_end + GAP)
            n_found = align(words, page_end, last, items, weights, base, item_end, stop, row, e, place, found, n_found,
                            stamps, stamp, lcs)  # fmt: skip
            item_end = np.int64(-1)
        if k == j:
            break
        if item_end >= 0:
            n_found = align(words, page_end, p, items, weights, base, item_end, at, row, e, place, found, n_found,
                            stamps, stamp, lcs)  # fmt: skip
        else:
            begin = at
            for s in range(seg_first[e], seg_first[e + 1]):
                if seg_start[s] <= at < seg_end[s]:
                    begin = seg_start[s]
            begin = max(begin, at - GAP)
            low = max(page_end, max(0, p - GAP))
            if low < p:
                n_found = align(words, low, p, items, weights, base, begin, at, row, e, place, found, n_found,
                                stamps, stamp, lcs)  # fmt: skip
        if p + runs[k, 3] > page_end:
            page_end = p + runs[k, 3]
            item_end = at + runs[k, 3]
        else:
            item_end = np.int64(-1)
    return n_found


@compiled
def align(words, p, p_end, items, weights, base, at, at_end, row, e, place, found, n_found, stamps, stamp, lcs):
    """Appends the heaviest common subsequence of some words of the page and some of an item, at most `GAP` each."""
    a = at_end - at
    b = p_end - p
    if a <= 0 or b <= 0:
        return n_found
    for x in range(a + 1):
        lcs[x, b] = 0
    for y in range(b + 1):
        lcs[a, y] = 0
    for x in range(a - 1, -1, -1):
        for y in range(b - 1, -1, -1):
            best = max(lcs[x + 1, y], lcs[x, y + 1])
            if items[base + at + x] == words[p + y]:
                best = max(best, lcs[x + 1, y + 1] + weights[base + at + x])
            lcs[x, y] = best
    x = 0
    y = 0
    open_at = np.int64(-2)
    open_p = np.int64(-2)
    while x < a and y < b:
        if (
            items[base + at + x] == words[p + y]
            and lcs[x, y] == lcs[x + 1, y + 1] + weights[base + at + x]
            and stamps[at + x] != stamp
        ):
            stamps[at + x] = stamp
            if open_at == at + x and open_p == p + y:
                found[n_found - 1, 4] += 1
            else:
                n_found = put(found, n_found, row, e, place, at + x, 1, p + y)
            open_at = at + x + 1
            open_p = p + y + 1
            x += 1
            y += 1
        elif lcs[x, y] == lcs[x + 1, y]:
            x += 1
        else:
            y += 1
    return n_found


@compiled
def add_passage(index, runs, low, high, e, row, found, n_found):
    """Appends the runs of an item's passage, which count behind its own words, as place -1."""
    bounds = index[2]
    passage = np.int64(index[10][e])
    behind = bounds[e + 1] - bounds[e]
    end = high
    while low < end:
        middle = (low + end) // 2
        if runs[middle, 0] < passage:
            low = middle + 1
        else:
            end = middle
    kept = 0
    while low < high and runs[low, 0] == passage and kept < MAX_PASSAGE:
        if runs[low, 3] >= index[14][0]:
            found = grown(found, n_found, 1)
            n_found = put(found, n_found, row, e, -1, behind + runs[low, 2] - bounds[passage], runs[low, 3], runs[low, 1])
            kept += 1
        low += 1
    return found, n_found


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
                if 5 * shared >= 4 * (ends[a] - starts[a]) and scores[b] > scores[a] + hair and weights[b] >= weights[a]:
                    out[a] = True
