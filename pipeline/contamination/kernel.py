# Numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def,assignment"
"""The compiled code that finds items: texts split into words and looked up in the index.

It stays in one file because Numba's cache looks at the file of the function that it compiled and at no other. What is
compiled in `filling` and `weighing` calls nothing of this beyond a few lines that the form of the index fixes.
"""

import numpy as np

from pipeline.dedup.kernel import FACTORS, KEEP, LETTER, MIX_2, U32, U64, WORD, beyond_ascii, longest_of, mixed
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
_CLOSES[list(b".):];-,\xc2\xe2")] = True
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
        word = mixed(raw[j])
        if last < end and _CLOSES[data[last]]:
            if is_label(data, begin, first, last, end) or is_entity(data, begin, first, last):
                continue
            if j + 1 < count and is_joined(data, begin, last, starts[j + 1], ends[j + 1]):
                # The next word takes its place, and may be joined with the one behind it in turn.
                raw[j + 1] = joined(data, first, U64(ends[j + 1]) + begin, table)
                starts[j + 1] = starts[j]
                continue
        words[kept] = max(U32(word >> U64(32)), U32(1))
        starts[kept] = starts[j]
        ends[kept] = ends[j]
        kept += one
    return np.int64(kept)


@compiled
def is_entity(data, begin, first, last):
    """True where the word is the name or number of an HTML entity, even of one that was escaped twice."""
    one = U64(1)
    if data[last] != 59 or first == begin:
        return False
    i = first - one
    if data[i] == 35 and i > begin:
        i -= one
    if data[i] == 38:
        return True
    if data[i] != 59 or i - begin < 4:
        return False
    return data[i - one] == 112 and data[i - U64(2)] == 109 and data[i - U64(3)] == 97 and data[i - U64(4)] == 38


@compiled
def is_joined(data, begin, last, start, end):
    """True where the word that ends at `last` goes on in the next: it was hyphenated at the end of a line, or both are
    digits with a mark of thousands between them."""
    a = U64(start) + begin
    b = U64(end) + begin
    one = U64(1)
    mark = data[last]
    if mark == 45:
        return a == last + U64(2) and data[last + one] == 10
    size = one if mark == 44 else U64(2) if mark == 0xC2 else U64(3)
    if mark == 46 or mark == 58 or a != last + size or b - a != 3 or not 48 <= data[last - one] <= 57:
        return False
    if mark == 0xC2 and data[last + one] != 0xA0:
        return False
    if mark == 0xE2 and not (data[last + one] == 0x80 and (data[last + U64(2)] == 0xAF or data[last + U64(2)] == 0x89)):
        return False
    for i in range(a, b):
        if not 48 <= data[i] <= 57:
            return False
    return mark == 44 or mark >= 0xC2


@compiled
def joined(data, i, end, table):
    """The raw hash of one word out of all letters between two bytes."""
    h = U64(0)
    place = U64(0)
    one = U64(1)
    i = U64(i)
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
        i += size
        form = U64(table[c])
        if form & U64(3) == LETTER:
            if place == 64:
                h = mixed(h)
                place = U64(0)
            h += (form >> U64(2)) * FACTORS[place]
            place += one
    return h


@compiled
def is_label(data, begin, first, last, end):
    """True where the word that a closing mark follows is the label of a choice: one letter of a to j, or a number of at
    most three digits where a line begins."""
    b = data[first]
    mark = data[last]
    one = U64(1)
    if not (mark == 46 or mark == 41 or mark == 58 or mark == 93):
        return False
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
        keys[p] = finished(rolling)
        p += one
    # In a loop of its own, so that many words of the filter, which is larger than the near caches, are on their way at once.
    for q in range(p):
        g = keys[q]
        bits = bits_of(g)
        hits[n_hits] = q
        n_hits += U64(bloom[(g >> U64(32)) * size >> U64(32)] & bits == bits)
    size = U64(len(slots))
    kept = U64(0)
    for i in range(n_hits):
        g = keys[hits[i]]
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
    if not (
        longest >= index[14][0] or whole or 5 * asked >= 2 * seg_weight[seg_first[e]] > 0 or 5 * total >= 2 * all_of
    ):
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
            n_found = put(
                found, n_found, row, e, -1, behind + runs[low, 2] - bounds[passage], runs[low, 3], runs[low, 1]
            )
            kept += 1
        low += 1
    return found, n_found
