"""Finds benchmark items in texts.

`find` looks up what of which item stands where, `grams` names the N-grams in that, of which the caller counts in how many
documents each stands, and `judge` says which items are in a text after all.
"""

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.contamination.index import GramIndex, forms
from pipeline.contamination.kernel import UNIT, find_all
from pipeline.contamination.weighing import fill_item_grams, outdone, weigh_all
from pipeline.dedup.normalise import read_only, utf8

RUN = pa.struct([("at", pa.int32()), ("words", pa.int32()), ("start", pa.int32()), ("end", pa.int32())])
SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
MATCHES = pa.schema([("row", pa.int32()), ("item", pa.int32()), ("place", pa.int32()), ("runs", pa.list_(RUN))])
"""What stands where, one row a place of a text that may hold an item. `row`: of the texts; `item`: row of the index's
items; `place`: 0, 1 … in the order of the text, -1 for the runs of the item's passage. `runs`: equal words, by start. `at`
is the first in the sequence of the item's words: question, choices, an empty place and the answer where that is no choice,
an empty place and the passage. `words` is how many; `start` and `end` are characters of the text."""

GRAMS = pa.schema([("row", pa.int32()), ("gram", pa.uint64())])

FOUND = pa.schema(
    [
        ("row", pa.int32()),
        ("item", pa.int32()),
        ("score", pa.float32()),
        ("question", pa.float32()),
        ("answer", pa.float32()),
        ("passage", pa.float32()),
        ("n_grams", pa.int32()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("spans", pa.list_(SPAN)),
    ]
)
"""An item in a text. `score`: share of its weight (question, choices, answer) that was found at the best place; `question`,
`answer` (of all choices or of the right one, whichever is more), `passage`: the shares of each, null where the item has
none; `n_grams`: N-grams found that are not common; `start`, `end`: characters from the first thing matched to the last;
`spans`: all that was matched, in order, apart from each other."""


class Matching(NamedTuple):
    """How items are judged. All shares are of the weight of words: their inverse document frequency over the items, in nats.

    `mode` ngram: an item is found where one of its N-grams, not a common one, stands (GPT-3, appendix C). Mode idf weighs
    question, choices and answer, and passage apart, and finds an item where at one place stand

    - `edited` of the question, if that is `long` nats or more, or
    - `whole` of the question, if that is `alone` nats or more, or `bare` where the item has nothing else to ask for: no
      choices, and an answer below `apart` nats, such as "true", or
    - `short` of the question with `answered` of the choices or of the answer, which come to `together` nats or more and of
      which the question and the rest have `apart` nats each, or
    - `short` of the question, `apart` nats or more, in a text with `passage` of the passage.

    `hair`: of items over the same place only those within so much of the best score are kept.
    """

    mode: Literal["idf", "ngram"] = "idf"
    edited: float = 0.6
    long: float = 50.0
    whole: float = 0.9
    alone: float = 25.0
    bare: float = 17.5
    short: float = 0.8
    answered: float = 0.5
    together: float = 30.0
    apart: float = 5.0
    passage: float = 0.5
    hair: float = 0.02


NONE_COMMON = np.zeros(0, np.uint64)


def find(texts: pa.Array | pa.ChunkedArray, index: GramIndex) -> pa.Table:
    """What of which item stands where in texts (null is the empty text): a table of schema MATCHES, by row, item and place.

    A function of each text and the index alone. Memory beyond the index and the result: 14 bytes for each byte of the
    longest text at most.
    """
    data, offsets = utf8(texts)
    covered = np.zeros(index.n_sequences, np.uint64)
    stamps = np.zeros(index.longest + 1, np.int64)
    found = find_all(data, offsets, forms(), index.arrays, covered, stamps)
    row, entry, place, at, words, start, end = found.T
    order = np.lexsort((at, start, place, entry, row))
    found = found[order]
    row, entry, place, at, words, start, end = (np.ascontiguousarray(column) for column in found.T)
    new = np.ones(len(row), np.bool_)
    new[1:] = (row[1:] != row[:-1]) | (entry[1:] != entry[:-1]) | (place[1:] != place[:-1])
    first = np.flatnonzero(new)
    runs = pa.StructArray.from_arrays([pa.array(column) for column in (at, words, start, end)], fields=list(RUN))
    offsets = pa.array(np.append(first, len(row)).astype(np.int32))
    columns = [pa.array(row[first]), pa.array(index.rows[entry[first]]), pa.array(place[first])]
    return pa.table([*columns, pa.ListArray.from_arrays(offsets, runs)], schema=MATCHES)


class _Matches:
    """The columns of MATCHES as arrays; `entries` are the numbers of items among the entries of the index."""

    def __init__(self, matches: pa.Table, index: GramIndex):
        matches = matches.combine_chunks()
        self.row, self.item, self.place = (matches.column(name).to_numpy() for name in ("row", "item", "place"))
        runs = matches.column("runs").combine_chunks()
        self.ends = read_only(np.cumsum(runs.value_lengths().to_numpy()).astype(np.int64))
        flat = runs.flatten()
        self.at, self.words, self.start, self.end = (
            read_only(np.ascontiguousarray(flat.field(name).to_numpy())) for name in ("at", "words", "start", "end")
        )
        self.entries = read_only(np.searchsorted(index.rows, self.item).astype(np.int64))


def grams(matches: pa.Table, index: GramIndex) -> pa.Table:
    """The N-grams of items (N is that of the item) that stand in texts, each once a row: schema GRAMS, sorted."""
    m = _Matches(matches, index)
    most = int(m.words.sum()) if len(m.words) else 0
    hashes, of = np.empty(most, np.uint64), np.empty(most, np.int64)
    n = fill_item_grams(m.entries, m.ends, m.at, m.words, index.arrays, index.ns, hashes, of)
    rows, hashes = m.row[of[:n]], hashes[:n]
    order = np.lexsort((hashes, rows))
    rows, hashes = rows[order], hashes[order]
    new = np.ones(n, np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (hashes[1:] != hashes[:-1])
    return pa.table([pa.array(rows[new]), pa.array(hashes[new])], schema=GRAMS)


def judge(matches: pa.Table, index: GramIndex, options: Matching, common: np.ndarray = NONE_COMMON) -> pa.Table:
    """The items that texts hold: schema FOUND, by row and item.

    `matches`: all those of a text, as `find` gives them. `common`: N-grams (as of `grams`) that are common text, uint64,
    sorted: words that stand only in such do not count.
    """
    m = _Matches(matches, index)
    out = np.zeros((len(m.row), 5), np.int64)
    stamps = np.zeros(2 * index.longest + 2, np.int64)
    values = read_only(np.ascontiguousarray(common, np.uint64))
    weigh_all(m.entries, m.ends, m.at, m.words, index.arrays, index.ns, values, stamps, out)
    verdict = _Verdict(m, index, out)
    found = verdict.n_grams > 0 if options.mode == "ngram" else verdict.by_weight(options)
    found &= m.place >= 0
    if options.mode == "idf":
        found = verdict.best(found, options.hair)
    return verdict.table(found)


class _Verdict:
    """Shares of all that was matched, match by match."""

    def __init__(self, m: _Matches, index: GramIndex, out: np.ndarray):
        self.m = m
        e = m.entries
        _, _, _, _, _, _, _, seg_first, _, _, _, answer, own, weight, _ = index.arrays
        sums = np.concatenate([[0], np.cumsum(weight)])
        first, last = seg_first[e], seg_first[e + 1]
        question, self.n_grams = weight[first], out[:, 4]
        right = np.where(answer[e] >= 0, weight[np.minimum(first + np.maximum(answer[e], 0), len(weight) - 1)], 0)
        all_of = sums[last] - sums[first]
        choices = all_of - question - np.where(own[e], right, 0)
        asked, chosen, answered = out[:, 0], out[:, 1], out[:, 2]
        self.asked = asked / UNIT
        self.question = _share(asked, question)
        self.untold = (all_of - question) / UNIT
        best = np.fmax(_share(chosen, choices), _share(answered, right))
        self.answer = best
        self.told = np.maximum(chosen, answered) / UNIT
        self.covered = (asked + chosen + np.where(own[e], answered, 0)) / UNIT
        self.score = _share(asked + chosen + np.where(own[e], answered, 0), all_of)
        # The passage of a match is what the match of place -1 before it has.
        passage = np.zeros(len(e), np.int64)
        group = np.ones(len(e), np.bool_)
        group[1:] = (m.row[1:] != m.row[:-1]) | (e[1:] != e[:-1])
        self.first = np.flatnonzero(group)
        self.group = np.cumsum(group) - 1
        if len(e):
            passage = out[self.first, 3][self.group]
        self.passage = _share(passage, index.passage_weight[e])

    def by_weight(self, options: Matching) -> np.ndarray:
        """Which matches are an item, by mode idf."""
        o = options
        nothing_asked = np.isnan(self.question)
        question = np.where(nothing_asked, self.answer, self.question)
        asked = np.where(nothing_asked, self.told, self.asked)
        edited = (question >= o.edited) & (asked >= o.long)
        whole = (question >= o.whole) & (asked >= np.where(self.untold < o.apart, o.bare, o.alone))
        short = (question >= o.short) & (asked >= o.apart) & ~nothing_asked
        with_answer = (self.answer >= o.answered) & (self.told >= o.apart) & (asked + self.told >= o.together)
        with_passage = self.passage >= o.passage
        return edited | whole | short & (with_answer | with_passage)

    def best(self, found: np.ndarray, hair: float) -> np.ndarray:
        """Those of the found ones that no other on the same place outdoes."""
        at = np.flatnonzero(found)
        m = self.m
        begins = np.concatenate([[0], m.ends])[at]
        starts = np.minimum.reduceat(m.start, np.concatenate([[0], m.ends[:-1]]))[at] if len(at) else begins
        ends = np.maximum.reduceat(m.end, np.concatenate([[0], m.ends[:-1]]))[at] if len(at) else begins
        rows = m.row[at]
        order = np.lexsort((starts, rows))
        out = np.zeros(len(at), np.bool_)
        outdone(rows, starts, ends, order, self.score[at], self.covered[at], hair, out)
        kept = np.zeros(len(found), np.bool_)
        kept[at[~out]] = True
        return kept

    def table(self, found: np.ndarray) -> pa.Table:
        """Schema FOUND, of the best place of each item and the spans of all of its places."""
        m = self.m
        begins = np.concatenate([[0], m.ends[:-1]]) if len(m.ends) else m.ends
        columns: dict[str, list] = {name: [] for name in FOUND.names}
        at = np.flatnonzero(found)
        for same in np.split(at, np.flatnonzero(np.diff(self.group[at])) + 1) if len(at) else []:
            best = same[np.lexsort((-self.n_grams[same], -self.score[same]))[0]]
            first = self.first[self.group[best]]
            chosen = [first, *same] if m.place[first] < 0 else same
            spans = _union([pair for c in chosen for pair in _pairs(m, begins[c], m.ends[c])])
            columns["row"].append(m.row[best])
            columns["item"].append(m.item[best])
            columns["score"].append(self.score[best])
            for name in ("question", "answer", "passage"):
                value = getattr(self, name)[same].max()
                columns[name].append(None if np.isnan(value) else value)
            columns["n_grams"].append(self.n_grams[same].max())
            columns["start"].append(spans[0][0])
            columns["end"].append(spans[-1][1])
            columns["spans"].append([{"start": a, "end": b} for a, b in spans])
        return pa.table(columns, schema=FOUND)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where there is no whole."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _pairs(m: _Matches, first: int, last: int) -> list[tuple[int, int]]:
    return list(zip(m.start[first:last].tolist(), m.end[first:last].tolist(), strict=True))


def _union(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch or overlap as one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out
