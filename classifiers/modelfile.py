"""The file of a fastText model, read without fastText.

fastText trusts what it reads: a damaged or foreign file makes it allocate without bound, divide by zero or end the
process. So a file is read here first, every count in it checked against its length, and only a sound one is opened. The
format is that of fastText 0.9 (src/fasttext.cc, args.cc, dictionary.cc, quantmatrix.cc; version 12 of the format).
"""

import mmap
import struct
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError

_MAGIC = 793712314
_VERSION = 12
_ARGS = struct.Struct("<12id")
_HEAD = struct.Struct("<2i")
_SIZES = struct.Struct("<3i2q")
_MODELS = {1: "cbow", 2: "skipgram", 3: "supervised"}
_LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
_PREFIX = "__label__"
_FLORET = slice(_HEAD.size + 11 * 4, _HEAD.size + 13 * 4)
"""Where floret keeps two numbers more (mode, hash count) than fastText."""


class Quantised(NamedTuple):
    """A matrix by product quantisation: `codes` uint8 [rows, parts], `centroids` float32 [parts, 256, width] (a last part
    that is narrower is padded with zeros), `norms` float32 [rows] or None, `dim` columns."""

    codes: np.ndarray
    centroids: np.ndarray
    norms: np.ndarray | None
    dim: int

    def rows(self, count: int | None = None) -> np.ndarray:
        """float32 [rows, dim]: the first `count` rows as fastText sees them."""
        codes = self.codes[:count]
        parts = self.centroids[np.arange(codes.shape[1]), codes]
        values = parts.reshape(len(codes), -1)[:, : self.dim]
        return values if self.norms is None else values * self.norms[:count, None]


class ModelFile:
    """What a model file holds. `kind` is `supervised` for classifiers; `labels` without fastText's prefix, in its order;
    `words` with their `counts`; `options` as fastText names them; `quantised` or not."""

    def __init__(self, path: Path):
        """Reads and checks `path`. Raises InputError, on one line, for anything but a sound fastText model."""
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise InputError(f"cannot read model {path}: {error.strerror or error}") from error
        self._data = data
        self._at = 0
        try:
            self._read()
        except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
            reason = str(error) if type(error) is ValueError else "it ends too early"
            raise InputError(f"{path} is no sound fastText model: {reason}") from error

    def _take(self, layout: struct.Struct) -> tuple:
        values = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return values

    def _array(self, kind: str, count: int) -> np.ndarray:
        if count < 0 or self._at + count * np.dtype(kind).itemsize > len(self._data):
            raise ValueError("it ends too early, or a size in it is wrong")
        array = np.frombuffer(self._data, kind, count, self._at)
        self._at += array.nbytes
        return array

    def _read(self) -> None:
        magic, version = self._take(_HEAD) if len(self._data) >= _HEAD.size else (0, 0)
        if magic != _MAGIC:
            raise ValueError("it does not begin as one")
        if not 11 <= version <= _VERSION:
            raise ValueError(f"version {version} of the format is not known")
        dim, _, epoch, min_count, _, ngrams, loss, model, bucket, min_n, max_n, _, _ = self._take(_ARGS)
        if model not in _MODELS or loss not in _LOSSES or not 0 < dim <= 1 << 16 or bucket < 0:
            raise ValueError("its options are impossible")
        self.kind, self.dim = _MODELS[model], dim
        if version == 11 and self.kind == "supervised":
            max_n = 0
        self.options = {
            "dim": dim, "epoch": epoch, "minCount": min_count, "wordNgrams": ngrams, "loss": _LOSSES[loss],
            "bucket": bucket, "minn": min_n, "maxn": max_n,
        }  # fmt: skip
        self._read_dictionary()
        self.quantised = bool(self._array("u1", 1)[0])
        self._input, rows, columns = self._read_matrix(self.quantised)
        out_quantised = bool(self._array("u1", 1)[0]) and self.quantised
        self._output, out_rows, out_columns = self._read_matrix(out_quantised)
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes follow its end")
        hashed = ngrams > 1 or max_n > 0
        if hashed and bucket == 0:
            raise ValueError("it has n-grams but no buckets for them")
        pruned = self._pruned
        if pruned is None:
            enough = rows >= self.words_count + (bucket if hashed else 0)
        else:
            enough = self.quantised and rows >= self.words_count
            if len(pruned):
                enough = enough and 0 <= int(pruned["row"].min()) <= int(pruned["row"].max()) < rows - self.words_count
        expected = self.labels_count if self.kind == "supervised" else self.words_count
        if not enough or columns != dim or out_columns != dim or out_rows != expected:
            raise ValueError("its matrices do not fit its dictionary")

    def _read_dictionary(self) -> None:
        size, n_words, n_labels, _, n_pruned = self._take(_SIZES)
        if n_words < 0 or n_labels < 0 or size != n_words + n_labels or n_pruned < -1:
            raise ValueError("the sizes of its dictionary are impossible")
        entries = []
        data, at = self._data, self._at
        tail = struct.Struct("<qb")
        for i in range(size):
            end = data.find(b"\0", at)
            if end < 0:
                raise ValueError("its dictionary has no end")
            count, kind = tail.unpack_from(data, end + 1)
            if kind != (i >= n_words):
                raise ValueError("its dictionary has words among the labels")
            entries.append((data[at:end], count))
            at = end + 1 + tail.size
        self._at = at
        self.words_count, self.labels_count = n_words, n_labels
        self._entries = entries
        pairs = np.dtype([("bucket", "<i4"), ("row", "<i4")])
        self._pruned = None
        if n_pruned >= 0:
            self._pruned = self._array("u1", 8 * n_pruned).view(pairs)

    def _read_matrix(self, quantised: bool) -> tuple[np.ndarray | Quantised, int, int]:
        if not quantised:
            rows, columns = self._take(struct.Struct("<2q"))
            if rows < 0 or columns <= 0:
                raise ValueError("the size of a matrix is impossible")
            return self._array("<f4", rows * columns).reshape(rows, columns), rows, columns
        normed = bool(self._array("u1", 1)[0])
        rows, columns, size = self._take(struct.Struct("<2qi"))
        if rows <= 0 or columns <= 0 or size < 0 or size % rows:
            raise ValueError("the size of a matrix is impossible")
        codes = self._array("u1", size).reshape(rows, -1)
        centroids, dim = self._read_quantiser()
        if dim != columns or centroids.shape[0] != codes.shape[1]:
            raise ValueError("a matrix does not fit its quantiser")
        norms = None
        if normed:
            norm_codes = self._array("u1", rows)
            norm_centroids, one = self._read_quantiser()
            if one != 1:
                raise ValueError("norms do not fit their quantiser")
            norms = norm_centroids[0, norm_codes, 0]
        return Quantised(codes, centroids, norms, dim), rows, columns

    def _read_quantiser(self) -> tuple[np.ndarray, int]:
        dim, parts, width, last = self._take(struct.Struct("<4i"))
        if min(dim, parts, width, last) <= 0 or (parts - 1) * width + last != dim or last > width:
            raise ValueError("a quantiser is impossible")
        flat = self._array("<f4", dim * 256)
        centroids = np.zeros((parts, 256, width), np.float32)
        full = 256 * width * (parts - 1)
        centroids[:-1] = flat[:full].reshape(parts - 1, 256, width)
        centroids[-1, :, :last] = flat[full:].reshape(256, last)
        return centroids, dim

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels of a supervised model, without `__label__`."""
        entries = self._entries[self.words_count :]
        return tuple(word.decode("utf-8", "replace").removeprefix(_PREFIX) for word, _ in entries)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words that the model keeps, the most frequent of training first; `</s>` is the end of a line."""
        return tuple(word.decode("utf-8", "replace") for word, _ in self._entries[: self.words_count])

    def word_vectors(self) -> np.ndarray:
        """float32 [words, dim]: the input vector of each word, without its character n-grams."""
        matrix = self._input
        return matrix.rows(self.words_count) if isinstance(matrix, Quantised) else matrix[: self.words_count]

    def label_vectors(self) -> np.ndarray:
        """float32 [labels, dim]: the output vector of each label. Of no meaning under the loss `hs`."""
        return self._output.rows() if isinstance(self._output, Quantised) else self._output

    def finite(self) -> bool:
        """Whether all weights are numbers."""
        matrices = (m.centroids if isinstance(m, Quantised) else m for m in (self._input, self._output))
        norms = self._input.norms if isinstance(self._input, Quantised) else None
        return all(bool(np.isfinite(m).all()) for m in matrices) and (norms is None or bool(np.isfinite(norms).all()))


def standard(data: bytes) -> bytes:
    """A model that floret wrote, as fastText writes it: without the two numbers that only floret knows.

    Raises InputError where they say that the model hashes as fastText cannot.
    """
    mode, hashes = struct.unpack("<2i", data[_FLORET])
    if (mode, hashes) != (1, 1):
        raise InputError("the model was trained in floret's own mode, which fastText cannot read")
    return data[: _FLORET.start] + data[_FLORET.stop :]
