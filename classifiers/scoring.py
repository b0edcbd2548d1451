"""Scores of texts by fastText classifiers, a batch at a time.

A model is `NAME.ftz` (or `.bin`) with `NAME.json` beside it, which says how its texts are normalised and which label is
scored. A bare model of somebody else's can be opened too, where both are said. Before fastText sees a file it is read and
checked (`modelfile`), because fastText ends the process over a bad one. A page never raises: whatever is in it, it has a
score, or null where it has no text.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from classifiers.modelfile import ModelFile
from classifiers.normalise import check, normalised, shortened, strings
from classifiers.sentences import sentences
from pipeline.errors import CrawlmillError, InputError, UsageError

FORMAT = 1
"""Version of the JSON beside a model."""
_SUFFIXES = (".ftz", ".bin")
_NEEDED = ("format", "labels", "scored", "normalisation", "sha256")


class SentenceScores(NamedTuple):
    """Scores of sentences, ordered by row and start; arrays of one length.

    `rows` int32: number of the text; `starts`, `ends` int64: characters of the text; `scores` float32, NaN where a
    sentence has nothing that the model reads.
    """

    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray


class Head:
    """An opened model. Pickles as its path and options, so that it can be sent to workers.

    `name`; `path` of the model; `json` path of its facts or None; `facts` all of them; `labels`; `scored` label or None;
    `normalisation`; `max_chars` to which texts are shortened or None.
    """

    def __init__(self, path: Path, json_path: Path | None, facts: dict[str, Any], model: ModelFile):
        """See `open`."""
        self.path, self.json, self.facts, self.model = path, json_path, facts, model
        self.name: str = facts.get("name") or path.stem
        self.labels: tuple[str, ...] = model.labels
        self.scored: str | None = facts["scored"]
        self.normalisation: str = facts["normalisation"]
        self.max_chars: int | None = facts.get("max_chars")

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        normalisation: str | None = None,
        scored: str | None = None,
        max_chars: int | None = None,
    ) -> "Head":
        """Opens a model by its path, with or without `.ftz`, `.bin` or `.json`.

        `normalisation` and `scored` are needed for a model without JSON; with one, another normalisation than its own is
        refused, another label may be scored. Raises InputError, on one line, for a file that is missing, damaged, of
        another kind, other than its JSON says, or made with another normalisation; UsageError for what is not said.
        """
        path, facts_path = _find(Path(path))
        model = ModelFile(path)
        if model.kind != "supervised" or not model.labels:
            raise InputError(f"{path} is a {model.kind} model of word vectors, not a classifier with labels")
        if facts_path is None:
            if normalisation is None:
                raise UsageError(f"{path} has no JSON beside it: say which normalisation its texts had")
            facts: dict[str, Any] = {"normalisation": normalisation, "scored": scored, "labels": list(model.labels)}
        else:
            facts = _facts(facts_path)
            if facts["sha256"] != _sha256(path):
                raise InputError(f"{path} is not the model that {facts_path.name} describes: its sha256 is another")
            if sorted(facts["labels"]) != sorted(model.labels):
                raise InputError(f"{path} has other labels than {facts_path.name} says")
            made = facts["normalisation"]
            if normalisation is not None and normalisation != made:
                raise InputError(f"{path} was made with normalisation {made!r}, not {normalisation!r}; train it anew")
        try:
            check(facts["normalisation"])
        except InputError as error:
            raise InputError(f"{facts_path or path}: {error}") from error
        facts = {**facts, "scored": scored or facts["scored"], "max_chars": max_chars or facts.get("max_chars")}
        if facts["scored"] is not None and facts["scored"] not in model.labels:
            raise InputError(f"{path} has no label {facts['scored']!r}; labels: {', '.join(model.labels)}")
        if not model.finite():
            raise InputError(f"{path} has weights that are no numbers")
        return cls(path, facts_path, facts, model)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self.normalisation, self.scored, self.max_chars)

    def lines(self, texts: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
        """The texts as the model reads them: shortened, normalised."""
        return normalised(shortened(strings(texts), self.max_chars), self.normalisation)

    def score(self, texts: pa.Array | pa.ChunkedArray) -> pa.FloatArray:
        """float32, 0 to 1: the probability of the scored label of each text; null for a null or blank text, and for one
        in which there is nothing that the model reads. Raises UsageError where the model has no scored label."""
        return self.score_lines(self.lines(texts))

    def score_lines(self, lines: pa.LargeStringArray) -> pa.FloatArray:
        """`score` of texts that `lines` has normalised."""
        if self.scored is None:
            raise UsageError(
                f"model {self.name} has no scored label; give one of {', '.join(self.labels)}, or use topics"
            )
        predict, wanted = self._predict, "__label__" + self.scored
        k = len(self.labels)
        found = (_of(predict(line, k), wanted) if line else None for line in lines.to_pylist())
        return pa.array(found, pa.float32())

    def topics(self, texts: pa.Array | pa.ChunkedArray) -> tuple[pa.StringArray, pa.FloatArray]:
        """The most likely label of each text and its probability (float32); null for texts without anything to read."""
        return self.topic_lines(self.lines(texts))

    def topic_lines(self, lines: pa.LargeStringArray) -> tuple[pa.StringArray, pa.FloatArray]:
        """`topics` of texts that `lines` has normalised."""
        predict = self._predict
        best = [next(iter(predict(line, 1)), None) if line else None for line in lines.to_pylist()]
        names = pa.array([b and b[1].removeprefix("__label__") for b in best], pa.string())
        return names, pa.array([b and min(1.0, max(0.0, b[0])) for b in best], pa.float32())

    def score_sentences(self, texts: pa.Array | pa.ChunkedArray) -> SentenceScores:
        """The score of every sentence of every text (not shortened)."""
        texts = strings(texts)
        rows, starts, ends = sentences(texts)
        whole = texts.to_pylist()
        parts = [whole[r][a:b] for r, a, b in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)]
        scores = self.score_lines(normalised(pa.array(parts, pa.large_string()), self.normalisation))
        return SentenceScores(rows, starts, ends, pc.fill_null(scores, float("nan")).to_numpy())

    def calibrated(self, scores: pa.FloatArray | pa.ChunkedArray) -> pa.FloatArray:
        """float32: the share of positives to expect at each score, by the calibration in the model's JSON.

        Raises UsageError where it has none.
        """
        points = self.facts.get("calibration")
        if not points:
            raise UsageError(f"model {self.name} has no calibration; evaluate it first")
        if isinstance(scores, pa.ChunkedArray):
            scores = scores.combine_chunks()
        values = np.interp(scores.to_numpy(zero_copy_only=False), points["scores"], points["shares"])
        return pa.array(values, pa.float32(), mask=np.asarray(scores.is_null()))

    @cached_property
    def _predict(self) -> Callable[[str, int], list[tuple[float, str]]]:
        return _predictor(self.path)


def score_all(heads: Sequence[Head], texts: pa.Array | pa.ChunkedArray) -> list[pa.FloatArray]:
    """`score` of each head; texts are normalised once for all heads that read them alike."""
    texts = strings(texts)
    lines: dict[tuple[str, int | None], pa.LargeStringArray] = {}
    for head in heads:
        key = (head.normalisation, head.max_chars)
        if key not in lines:
            lines[key] = head.lines(texts)
    return [head.score_lines(lines[head.normalisation, head.max_chars]) for head in heads]


def sentence_columns(found: SentenceScores, n: int, threshold: float) -> tuple[pa.FloatArray, pa.FloatArray]:
    """The highest score of the sentences of each of `n` texts, and the share of their characters that stands in
    sentences at or above the threshold; float32, null for a text without a scored sentence."""
    there = ~np.isnan(found.scores)
    rows, scores, lengths = found.rows[there], found.scores[there], (found.ends - found.starts)[there].astype(float)
    most = np.zeros(n, np.float32)
    np.maximum.at(most, rows, scores)
    all_chars = np.bincount(rows, lengths, n)
    share = np.bincount(rows, lengths * (scores >= threshold), n) / np.maximum(all_chars, 1)
    none = all_chars == 0
    return pa.array(most, mask=none), pa.array(share.astype(np.float32), mask=none)


def _of(found: list[tuple[float, str]], wanted: str) -> float | None:
    for probability, label in found:
        if label == wanted:
            return min(1.0, max(0.0, probability))  # fastText adds 1e-5 before it takes a logarithm
    return None


def _reopen(path: str, normalisation: str, scored: str | None, max_chars: int | None) -> Head:
    return Head.open(path, normalisation=normalisation, scored=scored, max_chars=max_chars)


def _find(path: Path) -> tuple[Path, Path | None]:
    base = path.with_suffix("") if path.suffix in (*_SUFFIXES, ".json") else path
    facts = base.with_name(base.name + ".json")
    candidates = [path] if path.suffix in _SUFFIXES else [base.with_name(base.name + suffix) for suffix in _SUFFIXES]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f"no model at {path} (looked for {', '.join(candidate.name for candidate in candidates)})")
    return found, facts if facts.is_file() else None


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    missing = [key for key in _NEEDED if key not in facts] if isinstance(facts, dict) else list(_NEEDED)
    if missing:
        raise InputError(f"{path} does not describe a model: no {', '.join(missing)}")
    if facts["format"] != FORMAT:
        raise InputError(f"{path} has format {facts['format']!r}; this version reads {FORMAT}")
    return facts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _predictor(path: Path) -> Callable[[str, int], list[tuple[float, str]]]:
    """A function of a line and k to (probability, label) pairs, whichever fastText is installed.

    Bindings are called directly: `predict` of fasttext 0.9 fails on NumPy 2 for a single string, that of fasttext-predict
    for a list. floret reads its own format only, and so cannot stand in.
    """
    try:
        import fasttext
    except ImportError as error:
        raise CrawlmillError("no fastText module is installed; pip install fasttext-predict") from error
    try:
        model = fasttext.load_model(str(path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"fastText cannot open {path}: {str(error) or type(error).__name__}") from error
    binding: Any = getattr(model, "f", None)
    if hasattr(binding, "predict"):
        predict = binding.predict
        return lambda line, k: predict(line + "\n", k, 0.0, "replace")

    def through_list(line: str, k: int) -> list[tuple[float, str]]:
        labels, scores = model.predict([line], k=k)
        return [(float(score), label) for score, label in zip(scores[0], labels[0], strict=True)]

    return through_list
