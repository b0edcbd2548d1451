"""Deduplication as a library: lists of texts and files, in one process, with the same rules as a run on Spark.

found = deduplicate(texts)
unique = [texts[row] for row in found.kept]
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dedup.candidates import candidate_pairs, first_of_runs
from pipeline.dedup.components import components
from pipeline.dedup.minhash import MinHasher, Sketches, band_keys, ngram_similarity
from pipeline.dedup.normalise import lines, text_hashes
from pipeline.edits import apply_edits
from pipeline.errors import InputError
from pipeline.tables import EDITS

BATCH, LARGE = 4096, 1 << 23
"""Texts and pairs are worked on so many at a time, or fewer where they hold more bytes or n-grams than LARGE. That bounds
memory and changes no result."""

Texts: TypeAlias = Sequence[str | None] | pa.Array | pa.ChunkedArray


class Deduplicated(NamedTuple):
    """What was found; arrays of one length, one entry a text.

    `keeper` int64: the row that stands for the text, its own where it is kept. `cluster` uint64: the smallest node (upper
    half of the hash of the normalised text) of its cluster, the same in every run over the same texts; 0 for a text without
    a word. `size` int64: texts in the cluster. `similarity` float32: Jaccard similarity of n-grams with the keeper's, 1 for
    the keeper itself and for equal texts. A chain of near-duplicates can hold texts less similar than was asked of a pair.
    """

    keeper: np.ndarray
    cluster: np.ndarray
    size: np.ndarray
    similarity: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """int64: the rows that are kept, in order."""
        return np.flatnonzero(self.keeper == np.arange(len(self.keeper)))


class Spans(NamedTuple):
    """Stretches of texts, ordered by row and start: characters `starts[i]` to `ends[i]` of text `rows[i]`, all int32."""

    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class Named(NamedTuple):
    """Texts, and where each was read: a file, with a line or row (from 1) where it holds several."""

    names: list[str]
    texts: pa.Array


def deduplicate(
    texts: Texts,
    *,
    ngram: int = 5,
    bands: int = 14,
    rows: int = 8,
    similarity: float = 0.75,
    order: Sequence[float] | np.ndarray | None = None,
) -> Deduplicated:
    """Which texts repeat another one, exactly or nearly.

    Texts are equal when they are equal after normalisation (`normalise.normalised`). Of the others, those that share one
    of `bands` bands of `rows` MinHash values become a candidate pair, and a pair counts when the Jaccard similarity of its
    word n-grams, counted on the n-grams themselves, is `similarity` or more. Texts that are linked by pairs are a cluster.
    A text without a word, or null, is a duplicate of nothing.

    Of a cluster that text is kept for which `order` (one number a text) is smallest, then the one whose normalised text
    and then whose text has the smallest hash; so the same texts are kept in whatever order they come. Memory beside the
    texts: about 300 bytes a text, 4 for each word of those with a candidate, and 300 MB for work in progress. Raises
    ValueError for parameters out of range.
    """
    if not 0 <= similarity <= 1:
        raise ValueError(f"similarity lies between 0 and 1, not at {similarity}")
    array = as_array(texts)
    n = len(array)
    if order is not None and len(order) != n:
        raise ValueError(f"{len(order)} numbers do not order {n} texts")
    ranks = np.zeros(n) if order is None else np.asarray(order)
    if ranks.dtype.kind == "f" and np.isnan(ranks).any():
        raise ValueError("an order holds no NaN")
    hasher = MinHasher(ngram, bands * rows)
    hashes = _batched_hashes(array)
    distinct, of = _distinct(hashes)  # the hash of each distinct text, in order, and for each row its number
    empty = (hashes == text_hashes(pa.array([""]))).all(axis=1)
    first = np.full(len(distinct), n, np.int64)
    np.minimum.at(first, of, np.arange(n))
    alike = np.setdiff1d(first, np.flatnonzero(empty))  # a row for each distinct text with a word
    keys = _keys(array, alike, hasher, bands, rows)
    left, right = candidate_pairs(keys.ravel(), np.repeat(of[alike].astype(np.uint64), bands))
    del keys
    involved = np.unique(np.concatenate((left, right)))
    sketches = _ngrams(array, first[involved.astype(np.int64)], hasher)
    # Numbers of distinct texts follow the order of hashes, so the smallest is that of the smallest node.
    a, b = np.searchsorted(involved, left), np.searchsorted(involved, right)
    linked = _similarities(sketches, a, b) >= np.float32(similarity)
    label = np.arange(len(distinct), dtype=np.int64)
    nodes, labels = components(left[linked], right[linked])
    label[nodes.astype(np.int64)] = labels.astype(np.int64)

    group = label[of]
    group = np.where(empty, len(distinct) + np.arange(n), group)  # each text without a word by itself
    keeper, size = _best(group, ranks, of, array)
    near = np.ones(n, np.float32)
    others = np.flatnonzero(of != of[keeper])
    places = [np.searchsorted(involved, of[side].astype(np.uint64)) for side in (others, keeper[others])]
    near[others] = _similarities(sketches, *places)
    cluster = np.where(empty, np.uint64(0), distinct[label[of], 0])
    return Deduplicated(keeper, cluster, size, near)


def repeated_lines(texts: Texts, max_copies: int, min_words: int = 1) -> Spans:
    """The lines of at least `min_words` words that stand in more than `max_copies` different texts, wherever they stand.

    Lines are compared as texts are, after normalisation; a line ends with its newline. Texts that are equal count once: they
    are duplicates, and not what this looks for.
    """
    array = as_array(texts)
    _, of = _distinct(_batched_hashes(array))
    found = []
    for batch in _batches(_sizes(array)):
        every = lines(_part(array, batch))
        chosen = every.words >= min_words
        found.append(
            (every.rows[chosen] + np.int32(batch.start), every.keys[chosen], every.starts[chosen], every.ends[chosen])
        )
    if not found:
        return Spans(*(np.zeros(0, np.int32) for _ in range(3)))
    row, key, start, end = (np.concatenate(column) for column in zip(*found, strict=True))
    _, number = np.unique(key, return_inverse=True)
    pairs = np.unique(np.column_stack((number, of[row])), axis=0)
    many = np.bincount(pairs[:, 0]) > max_copies if len(pairs) else np.zeros(0, bool)
    cut = many[number]
    return Spans(row[cut], start[cut], end[cut])


def without(texts: Texts, spans: Spans) -> pa.Array:
    """The texts without the spans. Raises ValueError for a span that leaves its text."""
    array = as_array(texts)
    done = []
    for batch in _batches(_sizes(array)):
        a, b = np.searchsorted(spans.rows, [batch.start, batch.stop])
        ids = pa.array(np.arange(batch.start, batch.stop)).cast(pa.string())
        columns = [
            pa.array(spans.rows[a:b]).cast(pa.string()),
            pa.array(spans.starts[a:b], pa.int32()),
            pa.array(spans.ends[a:b], pa.int32()),
            pa.array([""] * int(b - a), pa.string()),
            pa.array(["dedup.lines"] * int(b - a), pa.string()),
        ]
        done.append(apply_edits(_part(array, batch), ids, pa.table(columns, schema=EDITS)).cast(pa.large_string()))
    return pa.concat_arrays(done) if done else pa.array([], pa.large_string())


def read_texts(path: str | Path, field: str = "text") -> Named:
    """The texts of a file or folder.

    `.txt`: each line that is not blank is a text. `.jsonl` and `.jsonl.gz`: one object a line, of which `field` is taken.
    `.parquet`: the column `field`. A folder: every such file in and below it, by name; there each `.txt` is one text.
    Raises InputError, with the file and the line, for what cannot be read as that.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(tuple(_READERS)))
        if not files:
            raise InputError(f"{path}: the folder holds no file ending in {', '.join(_READERS)}")
        parts = [_whole(file) if file.suffix == ".txt" else _read(file, field) for file in files]
        return Named([name for part in parts for name in part.names], pa.concat_arrays([part.texts for part in parts]))
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    return _read(path, field)


def as_array(texts: Texts) -> pa.Array:
    """The texts as one Arrow array. Half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD.

    Raises TypeError for a single string, of which the characters would be taken as texts.
    """
    if isinstance(texts, str):
        raise TypeError("a list of texts is expected, not one text")
    if isinstance(texts, pa.ChunkedArray):
        return texts.cast(pa.large_string()).combine_chunks()
    if isinstance(texts, pa.Array):
        return texts.cast(pa.large_string())
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        whole = (text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts)
        return pa.array(whole, pa.large_string())


# ---- finding


def _batches(sizes: np.ndarray) -> Iterator[slice]:
    """Slices over all of `sizes`, each of one entry, or of at most BATCH whose sum is at most LARGE."""
    ends = np.cumsum(sizes)
    at, before = 0, 0
    while at < len(sizes):
        stop = int(np.searchsorted(ends, before + LARGE, "right"))
        stop = max(at + 1, min(stop, at + BATCH))
        yield slice(at, stop)
        at, before = stop, int(ends[stop - 1])


def _sizes(array: pa.Array) -> np.ndarray:
    """Bytes of each text."""
    return pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)


def _part(array: pa.Array, batch: slice) -> pa.Array:
    return array.slice(batch.start, batch.stop - batch.start)


def _batched_hashes(array: pa.Array) -> np.ndarray:
    parts = [text_hashes(_part(array, batch)) for batch in _batches(_sizes(array))]
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.uint64)


def _distinct(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct 128-bit hashes in order, and for every row the number of its own."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ranked = hashes[order]
    fresh = first_of_runs(ranked[:, 0], ranked[:, 1])
    of = np.empty(len(order), np.int64)
    of[order] = np.cumsum(fresh) - 1
    return ranked[fresh], of


def _keys(array: pa.Array, which: np.ndarray, hasher: MinHasher, bands: int, rows: int) -> np.ndarray:
    """Band keys of the texts in some rows."""
    keys = np.empty((len(which), bands), np.uint64)
    for batch in _batches(_sizes(array)[which]):
        texts = array.take(pa.array(which[batch]))
        keys[batch] = band_keys(hasher.sketch(texts, ngrams=False).signatures, bands, rows)
    return keys


def _ngrams(array: pa.Array, which: np.ndarray, hasher: MinHasher) -> Sketches:
    """The n-grams of the texts in some rows; their signatures are not kept."""
    grams, offsets = [np.zeros(0, np.uint32)], [np.zeros(1, np.int64)]
    for batch in _batches(_sizes(array)[which]):
        part = hasher.sketch(array.take(pa.array(which[batch])))
        grams.append(part.ngrams)
        offsets.append(part.offsets[1:] + offsets[-1][-1])
    return Sketches(np.zeros((0, hasher.hashes), np.uint32), np.concatenate(grams), np.concatenate(offsets))


def _similarities(sketches: Sketches, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float32: the Jaccard similarity of the n-grams of text `left[i]` and text `right[i]`."""
    return ngram_similarity(sketches.ngrams, sketches.offsets, sketches.ngrams, sketches.offsets, (left, right))


def _best(group: np.ndarray, ranks: np.ndarray, of: np.ndarray, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """For every row the best of its group, and how many rows that has. `of` numbers texts in the order of their hashes."""
    n = len(group)
    if n == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ranked = np.lexsort((of, ranks, group))
    starts = np.flatnonzero(first_of_runs(group[ranked]))
    sizes = np.diff(np.append(starts, n))
    best = ranked[starts]
    # Where texts that differ only in what normalisation takes away tie for the first place, hashes of themselves decide.
    leader = np.repeat(best, sizes)
    tied = np.flatnonzero((of[ranked] == of[leader]) & (ranks[ranked] == ranks[leader]) & (np.repeat(sizes, sizes) > 1))
    place = np.repeat(np.arange(len(starts)), sizes)[tied]
    rows = ranked[tied]
    high, low = _digests(array, rows).T
    again = np.lexsort((rows, low, high, place))
    chosen = np.flatnonzero(first_of_runs(place[again]))
    best[place[again[chosen]]] = rows[again[chosen]]
    keeper, size_of = np.empty(n, np.int64), np.empty(n, np.int64)
    keeper[ranked], size_of[ranked] = np.repeat(best, sizes), np.repeat(sizes, sizes)
    return keeper, size_of


def _digests(array: pa.Array, which: np.ndarray) -> np.ndarray:
    """uint64 [n, 2]: hashes of the bytes of the texts in some rows."""
    texts = (array[row].as_buffer() or b"" for row in which.tolist())
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts), ">u8").reshape(
        -1, 2
    )


# ---- reading


def _read(path: Path, field: str) -> Named:
    for suffix, reader in _READERS.items():
        if path.name.endswith(suffix):
            return reader(path, field)
    raise InputError(f"{path}: the name ends in none of {', '.join(_READERS)}")


def _whole(path: Path) -> Named:
    try:
        return Named([str(path)], pa.array([path.read_text(encoding="utf-8-sig")], pa.large_string()))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers, without their newlines."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number}: not UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: {error}") from error


def _text_lines(path: Path, field: str) -> Named:
    found = list(_numbered(path))
    return Named([f"{path}:{number}" for number, _ in found], pa.array([line for _, line in found], pa.large_string()))


def _json_lines(path: Path, field: str) -> Named:
    names, texts = [], []
    for number, line in _numbered(path):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: not an object")
        if field not in record:
            raise InputError(f"{path}, line {number}: no field {field!r}; there are {', '.join(record) or 'none'}")
        if not isinstance(record[field], str | None):
            raise InputError(f"{path}, line {number}: field {field!r} is not a text")
        names.append(f"{path}:{number}")
        texts.append(record[field])
    return Named(names, as_array(texts))


def _parquet(path: Path, field: str) -> Named:
    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
        if field not in columns:
            raise InputError(f"{path}: no column {field!r}; there are {', '.join(columns)}")
        column = file.read([field]).column(field)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file that can be read ({error})") from error
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{path}: column {field!r} holds {column.type}, not texts")
    return Named([f"{path}:{row + 1}" for row in range(len(column))], as_array(column))


_READERS = {".txt": _text_lines, ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".parquet": _parquet}
