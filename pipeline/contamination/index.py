"""The words of texts, and the index of the grams of all benchmark items.

Words are letters and digits in a row, lower-cased, without accents and in their plain width; everything else stands
between words, except an apostrophe, which is dropped. A character of a script without spaces is a word of its own. Labels
of choices (`A.`, `(b)`, `C)`; `1.` and `2)` where a line begins) are no words: re-formatting does not matter.
"""

import unicodedata
import zlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.contamination.filling import count_documents, fill_grams, fill_table, hash_sequences
from pipeline.contamination.kernel import UNIT, K, places_of_texts, words_of_texts
from pipeline.dedup.kernel import DROPPED, LETTER, SPACE, WORD
from pipeline.dedup.normalise import UNSPACED, read_only, utf8
from pipeline.errors import RecipeError, StorageError
from pipeline.signals.statistics.characters import code_points

INDEXED = pa.schema(
    [
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("task", pa.string()),
        ("doc", pa.int32()),
        ("decoy", pa.bool_()),
        ("status", pa.string()),
        ("duplicate_of", pa.string()),
        ("n_words", pa.int32()),
        ("n", pa.int32()),
        ("n_grams", pa.int32()),
        ("n_shared", pa.int32()),
        ("weight", pa.float32()),
    ]
)
"""`GramIndex.items`, row for row the ITEMS that it was built of. `status`: ok; short: fewer words than the least N, never
found by N-grams; empty: no words; duplicate: the same words as `duplicate_of` (BENCHMARK/ITEM), matched as that. `n_words`:
words of question and choices, or of the answer where that is longer; `n`: the length of its N-grams; `n_grams`: how many it
has; `n_shared`: those that other items have as well; `weight`: nats of question, choices and answer together."""

LEAST_RARITY = 10_000
"""A word of one item alone weighs as much as in this many items at least: few items say little about what is rare."""
LOAD = 0.6
BLOOM_BITS = 16
_FORMAT = b"crawlmill grams 1"
_APOSTROPHES = "'\u2019\u02bc\uff07"
_LAST_ASSIGNED = 0x323B0


def folded(char: str) -> str:
    """What a character is in a word: another one, a space where it ends the word, or nothing where it is dropped."""
    category = unicodedata.category(char)
    if category in ("Mn", "Me", "Cf") or char in _APOSTROPHES:
        return ""
    if category[0] not in "LNM":
        return " "
    parts = [part for part in unicodedata.normalize("NFKD", char) if unicodedata.category(part) not in ("Mn", "Me")]
    form = parts[0] if len(parts) == 1 else char
    lower = form.lower()
    form = lower if len(lower) == 1 else form
    return "σ" if form == "ς" else form


@cache
def forms() -> np.ndarray:
    """uint32 of every code point: the form that it takes and its kind, as `pipeline.dedup.normalise.forms` has them."""
    table = np.full(0x110000, SPACE, np.uint32)
    for point in range(_LAST_ASSIGNED):
        form = folded(chr(point))
        table[point] = (ord(form) + 1 << 2 | LETTER if form != " " else SPACE) if form else DROPPED
    for point in range(0xE0000, 0xE01F0):
        table[point] = DROPPED
    alone = np.zeros(0x110001, np.bool_)
    alone[np.array(code_points(UNSPACED)) + 1] = True
    table[(table & 1 == 1) & alone[table >> 2]] |= WORD
    return read_only(table)


def places(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of a text: uint32 hashes, and the characters at which they start and end."""
    data, offsets = utf8(pa.array([text], pa.large_string()))
    return places_of_texts(data, offsets[0], offsets[1], forms())


class GramIndex:
    """Grams of all benchmark items, in plain arrays that can be mapped from a file. A function of the items alone.

    `items` is a table of schema INDEXED; `arrays` are what the compiled code reads, `ns` int32 the N of every entry and
    `rows` int32 its row among the items: an entry is an item that is neither empty nor a duplicate.
    """

    NAMES = (
        "words", "weights", "bounds", "first", "bloom", "slots", "lists", "seg_first", "seg_start", "seg_end", "passage",
        "answer", "own_answer", "seg_weight", "meta", "ns", "rows", "passage_weight",
    )  # fmt: skip

    def __init__(self, items: pa.Table, arrays: dict[str, np.ndarray]):
        self.items = items
        self._all = {name: read_only(arrays[name]) for name in self.NAMES}
        self.arrays = tuple(self._all[name] for name in self.NAMES[:15])
        self.ns, self.rows = self._all["ns"], self._all["rows"]
        self.passage_weight = self._all["passage_weight"]

    @property
    def n_bytes(self) -> int:
        """Bytes of all arrays, the table of items not counted."""
        return sum(array.nbytes for array in self._all.values())

    @property
    def n_sequences(self) -> int:
        """Entries and passages."""
        return len(self._all["bounds"]) - 1

    @property
    def longest(self) -> int:
        """Words of the longest sequence."""
        return int(np.diff(self._all["bounds"]).max(initial=0))

    @classmethod
    def build(cls, items: pa.Table, ngram: tuple[int, int] = (8, 13)) -> "GramIndex":
        """The index of items of schema ITEMS. `ngram`: the least and the greatest N.

        Raises RecipeError for more than 2**31 words.
        """
        return cls(*_build(items.combine_chunks(), ngram))

    def write(self, path: str | Path) -> None:
        """Writes the index as one Arrow IPC file. Raises StorageError where that cannot be done."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.items.schema) as writer:
            writer.write_table(self.items)
        values = {"items": np.frombuffer(sink.getvalue(), np.uint8), **self._all}
        fields = [
            pa.field(
                name,
                pa.large_binary(),
                metadata={"dtype": value.dtype.str, "crc": str(zlib.crc32(pa.py_buffer(value)))},
            )
            for name, value in values.items()
        ]
        schema = pa.schema(fields, metadata={"format": _FORMAT})
        columns = []
        for value in values.values():
            ends = pa.py_buffer(np.array([0, value.nbytes], np.int64))
            columns.append(pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(value)]))
        try:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as out:
                out.write_batch(pa.record_batch(columns, schema=schema))
        except OSError as error:
            raise StorageError(f"cannot write the index of benchmarks to {path}: {error}") from error

    @classmethod
    def open(cls, path: str | Path) -> "GramIndex":
        """The index of a file, mapped into memory. Raises StorageError where it cannot be read, is damaged, or is none."""
        try:
            with pa.memory_map(str(path)) as file:
                batch = pa.ipc.open_file(file).get_batch(0)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot read the index of benchmarks in {path}: {error}".splitlines()[0]) from error
        schema = batch.schema
        if (schema.metadata or {}).get(b"format") != _FORMAT or schema.names != ["items", *cls.NAMES]:
            raise StorageError(f"{path} is no index of benchmarks that this version can read; build it anew")
        arrays = {}
        for field, column in zip(schema, batch.columns, strict=True):
            buffer = column.buffers()[2]
            arrays[field.name] = np.frombuffer(buffer if buffer else b"", np.dtype(field.metadata[b"dtype"].decode()))
            if zlib.crc32(pa.py_buffer(arrays[field.name])) != int(field.metadata[b"crc"]):
                raise StorageError(f"the index of benchmarks in {path} is damaged; build it anew")
        items = pa.ipc.open_stream(pa.py_buffer(arrays.pop("items"))).read_all()
        return cls(items, arrays)


class _Texts:
    """Words of many texts, one after another."""

    def __init__(self, texts: pa.Array):
        data, offsets = utf8(texts)
        words = np.empty(int(offsets[-1] - offsets[0]) // 2 + len(offsets), np.uint32)
        self.ends = np.empty(len(offsets), np.int64)
        words_of_texts(data, offsets, forms(), words, self.ends)
        self.words = words[: self.ends[-1]].copy()
        self.hashes = np.empty(len(offsets) - 1, np.uint64)
        hash_sequences(self.words, self.ends, self.hashes)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.words[self.ends[i] : self.ends[i + 1]]


_GAP = np.zeros(1, np.uint32)


class _Sequences:
    """Items as they are laid out in the index: entries, then passages, a gap between all of them."""

    def __init__(self, items: pa.Table):
        column = {name: items.column(name).combine_chunks() for name in items.column_names}
        question, answer, passage = (_Texts(column[name]) for name in ("question", "answer", "passage"))
        lists = column["choices"].fill_null([])
        choices = _Texts(lists.flatten())
        first = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
        names = list(zip(column["benchmark"].to_pylist(), column["item"].to_pylist(), strict=True))
        decoys = column["decoy"].to_pylist()
        n = items.num_rows
        self.status = ["ok"] * n
        self.duplicate_of: list[str | None] = [None] * n
        self.lengths = np.zeros(n, np.int64)
        self.rows: list[int] = []
        self.parts: list[np.ndarray] = []  # with the gap in front
        self.segments: list[list[tuple[int, int]]] = []
        self.answers: list[int] = []
        self.own_answers: list[bool] = []
        self.passages: list[int] = []
        self.known: dict[int, int] = {}
        self.texts: list[np.ndarray] = []
        entries: dict[tuple[Any, ...], int] = {}
        for row in range(n):
            segments = [question[row], *(choices[j] for j in range(first[row], first[row + 1]))]
            right, text = answer[row], passage[row]
            if not any(map(len, segments)) and not len(right):  # the passage is all there is
                segments, text = [text], text[:0]
            hit = -1
            if len(right):
                equal = choices.hashes[first[row] : first[row + 1]] == answer.hashes[row]
                hit = 1 + int(np.argmax(equal)) if equal.any() else -1
            own = hit < 0 and len(right) > 0
            length = sum(map(len, segments))
            self.lengths[row] = max(length, len(right))
            if not self.lengths[row]:
                self.status[row] = "empty"
                continue
            key_of_passage = int(passage.hashes[row]) if len(text) else -1
            whole = np.concatenate([*segments, *([_GAP, right] if own else [])])
            key = (whole.tobytes(), len(segments[0]), hit, key_of_passage, decoys[row])
            if key in entries:
                self.status[row] = "duplicate"
                self.duplicate_of[row] = "/".join(names[entries[key]])
                continue
            entries[key] = row
            if len(text) and key_of_passage not in self.known:
                self.known[key_of_passage] = len(self.texts)
                self.texts.append(text)
            self.rows.append(row)
            self.parts += [_GAP, whole]
            ends = np.cumsum([0, *map(len, segments)]).tolist()
            spans = list(pairwise(ends))
            if own:
                hit = len(spans)
                spans.append((length + 1, length + 1 + len(right)))
            self.segments.append(spans)
            self.answers.append(hit)
            self.own_answers.append(own)
            self.passages.append(self.known[key_of_passage] if len(text) else -1)

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """All words, and where each sequence begins (the gap before the next counts to it)."""
        behind = [part for text in self.texts for part in (_GAP, text)]
        words = np.concatenate([*self.parts, *behind, _GAP])
        lengths = [len(part) + 1 for part in (*self.parts[1::2], *self.texts)]
        return words, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64) + 1


def _lengths_of_grams(sequences: _Sequences, items: pa.Table, ngram: tuple[int, int]) -> np.ndarray:
    """The N of every item: GPT-3's 5th percentile of its benchmark, but no more words than it has."""
    lengths = sequences.lengths
    benchmarks = np.array(items.column("benchmark").to_pylist(), object)
    decoy = np.array(items.column("decoy").to_pylist(), np.bool_)
    ns = np.full(len(lengths), ngram[0], np.int64)
    for name in dict.fromkeys(benchmarks.tolist()):
        own = (benchmarks == name) & (lengths > 0)
        real = own & ~decoy
        if own.any():
            usual = int(np.percentile(lengths[real if real.any() else own], 5))
            ns[own] = np.maximum(ngram[0], np.minimum(np.clip(usual, *ngram), lengths[own]))
    return ns


def _weights(words: np.ndarray, bounds: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """uint16 of each word: its inverse document frequency in 1/4096 nats."""
    vocabulary, ids = np.unique(words, return_inverse=True)
    df = np.zeros(len(vocabulary), np.int64)
    count_documents(words, bounds, counted, ids.astype(np.int64), df)
    n = max(int(counted.sum()), 1)
    idf = np.log(n / np.maximum(df, 1))
    scale = max(1.0, np.log(LEAST_RARITY) / np.log(n)) if n > 1 else 1.0
    nats = idf * scale if n > 1 else np.full(len(df), np.log(LEAST_RARITY))
    return np.clip(np.rint(nats * UNIT), 1, 65535).astype(np.uint16)[ids] * (words > 0)


def _build(items: pa.Table, ngram: tuple[int, int]) -> tuple[pa.Table, dict[str, np.ndarray]]:
    sequences = _Sequences(items)
    words, bounds = sequences.words()
    if len(words) >= 1 << 31:
        raise RecipeError(f"the benchmarks hold {len(words):,} words, more than 2**31; take some of them out")
    n_entries = len(sequences.rows)
    decoys = items.column("decoy").combine_chunks()
    decoy = decoys.take(pa.array(sequences.rows, pa.int64())).to_numpy(zero_copy_only=False).astype(np.bool_)
    counted = np.ones(len(bounds) - 1, np.bool_)
    counted[:n_entries] = ~decoy if not decoy.all() else True
    weights = _weights(words, bounds, counted)
    spans = [span for segments in sequences.segments for span in segments]
    seg_first = np.concatenate([[0], np.cumsum([len(segments) for segments in sequences.segments])]).astype(np.int64)
    seg_start, seg_end = (np.array(side, np.int64) for side in (zip(*spans, strict=True) if spans else ([], [])))
    sums = np.concatenate([[0], np.cumsum(weights, dtype=np.int64)])
    bases = np.repeat(bounds[:n_entries], np.diff(seg_first))
    passage = np.array([n_entries + p if p >= 0 else -1 for p in sequences.passages], np.int64)
    all_ns = _lengths_of_grams(sequences, items, ngram)
    whole = min(8, ngram[0])
    question = seg_end[seg_first[:-1]]
    arrays: dict[str, np.ndarray] = {
        "words": words,
        "weights": weights,
        "bounds": bounds,
        "first": np.maximum(np.searchsorted(bounds, np.arange(0, len(words), 64), "right") - 1, 0).astype(np.uint32),
        **_table(words, bounds, question, whole),
        "seg_first": seg_first,
        "seg_start": seg_start,
        "seg_end": seg_end,
        "passage": passage,
        "answer": np.array(sequences.answers, np.int64),
        "own_answer": np.array(sequences.own_answers, np.bool_),
        "seg_weight": sums[bases + seg_end] - sums[bases + seg_start],
        "meta": np.array([whole], np.int64),
        "ns": all_ns[sequences.rows].astype(np.int32),
        "rows": np.array(sequences.rows, np.int32),
        "passage_weight": np.where(passage >= 0, sums[bounds[passage + 1] - 1] - sums[bounds[passage]], 0),
    }
    return _indexed(items, sequences, arrays, all_ns, ngram[0]), arrays


def _table(words: np.ndarray, bounds: np.ndarray, question: np.ndarray, whole: int) -> dict[str, np.ndarray]:
    """Filter, slots and lists of all grams."""
    hashes, at = np.empty(len(words), np.uint64), np.empty(len(words), np.int64)
    n = fill_grams(words, K, hashes, at)
    hashes, at = hashes[:n], at[:n]
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if n else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, n))
    often = np.empty(n, np.int64)
    often[order] = np.repeat(sizes, sizes)
    short = np.zeros(n, np.bool_)
    begins = bounds[: len(question)]
    for e in np.flatnonzero((question >= K) & (question < whole)).tolist():
        gram = int(np.searchsorted(at, begins[e]))
        short[gram + int(np.argmin(often[gram : gram + int(question[e]) - K + 1]))] = True
    owner = (np.searchsorted(bounds, at, "right") - 1).astype(np.int64)
    empty = (np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint32))
    used, distinct = fill_table(hashes, at, order, owner, short, *empty)
    bloom = np.zeros(max(1, distinct * BLOOM_BITS // 64), np.uint64)
    slots = np.zeros(max(2, int(distinct / LOAD)), np.uint64)
    lists = np.zeros(used + 2, np.uint32)  # a single place is written there before it is known to be single
    fill_table(hashes, at, order, owner, short, bloom, slots, lists)
    return {"bloom": bloom, "slots": slots, "lists": lists}


def _indexed(
    items: pa.Table, sequences: _Sequences, arrays: dict[str, np.ndarray], ns: np.ndarray, least: int
) -> pa.Table:
    """The table of items: what is known of each before any page was read."""
    n_entries = len(sequences.rows)
    bounds, words = arrays["bounds"], arrays["words"]
    n_grams, n_shared = np.zeros(items.num_rows, np.int32), np.zeros(items.num_rows, np.int32)
    rows = arrays["rows"]
    last = bounds[n_entries]
    for n in np.unique(arrays["ns"]).tolist():
        hashes, at = np.empty(last, np.uint64), np.empty(last, np.int64)
        found = fill_grams(words[:last], n, hashes, at)
        of = np.searchsorted(bounds, at[:found], "right") - 1
        order = np.lexsort((of, hashes[:found]))
        of, hashes = of[order], hashes[:found][order]
        new = np.ones(found, np.bool_)
        new[1:] = (hashes[1:] != hashes[:-1]) | (of[1:] != of[:-1])
        of, hashes = of[new], hashes[new]
        same = np.cumsum(np.concatenate([[0], hashes[1:] != hashes[:-1]])) if len(of) else of
        mine = arrays["ns"][of] == n
        shared = mine & (np.bincount(same)[same] > 1) if len(of) else mine
        for counts, which in ((n_grams, mine), (n_shared, shared)):
            counts += np.bincount(rows[of[which]], minlength=items.num_rows).astype(np.int32)
    weight = np.zeros(items.num_rows, np.float32)
    totals = np.concatenate([[0], np.cumsum(arrays["seg_weight"])])
    weight[rows] = (totals[arrays["seg_first"][1:]] - totals[arrays["seg_first"][:-1]]) / UNIT
    status = np.array(sequences.status, object)
    status[(status == "ok") & (sequences.lengths < least)] = "short"
    columns: Sequence[Any] = (
        *(items.column(name) for name in ("benchmark", "item", "task", "doc", "decoy")),
        status.tolist(),
        sequences.duplicate_of,
        sequences.lengths.astype(np.int32),
        ns.astype(np.int32),
        n_grams,
        n_shared,
        weight,
    )
    return pa.table([pa.array(c) if isinstance(c, np.ndarray) else c for c in columns], schema=INDEXED)
