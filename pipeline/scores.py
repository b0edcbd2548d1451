"""Scores of classifiers: what a recipe asks for, ranks over a crawl, and what is kept by them.

Scoring itself needs models and is in `classifiers`; here is what becomes of the numbers.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import Field, field_validator, model_validator

from pipeline.errors import RecipeError
from pipeline.options import Options, Share
from pipeline.signals.base import field
from pipeline.tables import EDITS

MODELS = Path(__file__).parents[1] / "classifiers" / "models"
"""The models that ship."""

SENTENCE = 0.5
"""Sentences of at least this score are kept with their place, so that a recipe can cut from there on."""

RANK_BINS = 1 << 16
"""Scores are told apart to 1/65,536 where they are ranked: counts of bins add up exactly, whatever their order."""

NAME = r"^[a-z][a-z0-9_]*$"


class HeadOptions(Options):
    """One classifier. `model`: a model that ships, or the path of a .ftz or .bin file. A model of somebody else's, without
    facts beside it, needs the `label` that is scored and the `normalisation` that its texts had.

    `topics`: the model tells classes apart, and what counts is the likeliest. `sentences`: each sentence is scored, too.
    `cut_sentences`: sentences of this score or more are cut.
    """

    model: str
    label: str | None = None
    normalisation: str | None = None
    max_chars: int | None = Field(default=None, ge=100)
    topics: bool = False
    sentences: bool = False
    cut_sentences: float | None = Field(default=None, ge=SENTENCE, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> "HeadOptions":
        if self.cut_sentences is not None and not self.sentences:
            raise ValueError("`cut_sentences` needs `sentences: true`")
        if self.topics and (self.sentences or self.label):
            raise ValueError("a head of topics has no single label, and does not score sentences")
        return self

    @property
    def path(self) -> Path:
        """Where the model lies. Raises RecipeError where there is none."""
        for path in (Path(self.model), MODELS / f"{self.model}.ftz"):
            if path.is_file():
                return path
        shipped = ", ".join(sorted(path.stem for path in MODELS.glob("*.ftz"))) or "none"
        raise RecipeError(f"no model {self.model!r}: neither a file nor one that ships ({shipped})")


class Keep(Options):
    """Which pages are kept by quality: the name of a published way (`recipes/scores/quality.yaml`), or one of these.

    `least`: those of at least this score. `top`: this share of the pages, the best. `pareto`: each page by a draw of its
    own, so that lesser ones stay with a small chance: GPT-3 kept a page where a Pareto draw of 9 exceeded 1 minus its score
    (arXiv:2005.14165, appendix A). `by`: the mean score of the heads as it is, or its rank among the pages.
    """

    least: Share | None = None
    top: Share | None = None
    pareto: float | None = Field(default=None, gt=0)
    by: Literal["score", "rank"] = "score"

    @model_validator(mode="before")
    @classmethod
    def _published(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in published():
            raise ValueError(f"no way of keeping named {value!r}; published: {', '.join(published())}")
        return published()[value]

    @model_validator(mode="after")
    def _one(self) -> "Keep":
        if sum(value is not None for value in (self.least, self.top, self.pareto)) > 1:
            raise ValueError("give one of least, top and pareto")
        return self

    @property
    def asks(self) -> bool:
        """Whether anything is dropped."""
        return any(value is not None for value in (self.least, self.top, self.pareto))


@cache
def published() -> dict[str, dict[str, Any]]:
    """How others keep pages by quality, by name."""
    body = yaml.safe_load((Path(__file__).parent / "recipes" / "scores" / "quality.yaml").read_text(encoding="utf-8"))
    return {name: entry["keep"] for name, entry in body.items()}


class QualityOptions(Options):
    """What `quality` is made of: the ranks of `heads` among the pages that the rules keep, their mean or their greatest
    (`combine`), and in how many `bins` of equal size the pages are put by it.
    """

    heads: tuple[str, ...] = ()
    combine: Literal["mean", "max"] = "mean"
    bins: int = Field(default=20, ge=1, le=1000)
    keep: Keep = Keep()


class Scoring(Options):
    """The `score` of a recipe. Only pages that the rules on text keep are scored, and rules can bound what they get.

    `heads` are named by their columns: `score_NAME`, with sentences also `score_NAME_max_sentence` and
    `score_NAME_sentence_share`; topics give `NAME` and `NAME_score`. `listed_words`: the word lists that ship (`shipped`) or
    a folder of lists, a file a language, give `listed_density` and, of that, `listed_sexual_density`. `code_math` gives
    `code_share` and `math_share`.
    """

    heads: dict[str, HeadOptions] = Field(default_factory=dict)
    listed_words: str | None = None
    code_math: bool = False
    quality: QualityOptions = QualityOptions()

    @field_validator("heads")
    @classmethod
    def _names(cls, value: dict[str, HeadOptions]) -> dict[str, HeadOptions]:
        for name in value:
            if not re.match(NAME, name):
                raise ValueError(f"the name of a head is letters, digits and _, not {name!r}")
        return value

    @model_validator(mode="after")
    def _heads_there(self) -> "Scoring":
        for name in self.quality.heads:
            if name not in self.heads:
                raise ValueError(
                    f"quality.heads names {name!r}, which is no head; heads: {', '.join(self.heads) or 'none'}"
                )
            if self.heads[name].topics:
                raise ValueError(f"quality.heads names {name!r}, which tells topics apart and has no score to rank")
        if self.quality.keep.asks and not self.quality.heads:
            raise ValueError("quality.keep needs quality.heads")
        return self

    @property
    def scores(self) -> bool:
        """Whether there is anything to score."""
        return bool(self.heads or self.listed_words or self.code_math)

    @property
    def ranks(self) -> bool:
        """Whether pages are ranked by quality."""
        return bool(self.quality.heads)

    @property
    def cuts(self) -> bool:
        """Whether sentences are cut."""
        return any(head.cut_sentences is not None for head in self.heads.values())

    def digests(self) -> dict[str, str]:
        """SHA-256 of every model with its facts, and of the word lists of a folder."""
        models = {name: [head.path, head.path.with_suffix(".json")] for name, head in sorted(self.heads.items())}
        if self.listed_words and Path(self.listed_words).is_dir():
            models["listed_words"] = sorted(path for path in Path(self.listed_words).iterdir() if path.is_file())
        return {name: _digest(path for path in files if path.is_file()) for name, files in models.items()}


def _digest(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def score_schema(scoring: Scoring) -> pa.Schema:
    """The columns that scoring adds, quality aside."""
    columns = []
    for name, head in scoring.heads.items():
        if head.topics:
            columns.append(field(name, pa.string(), f"likeliest class by {head.model}; null where it can read nothing"))
            columns.append(field(f"{name}_score", pa.float32(), f"probability of that class by {head.model}", "0..1"))
            continue
        columns.append(field(f"score_{name}", pa.float32(), f"probability of the scored label by {head.model}", "0..1"))
        if head.sentences:
            columns.append(field(f"score_{name}_max_sentence", pa.float32(), "highest score of a sentence", "0..1"))
            meaning = (
                "share of its characters in sentences of the model's sentence threshold (0.5 if none is said) or more"
            )
            columns.append(field(f"score_{name}_sentence_share", pa.float32(), meaning, "0..1"))
    if scoring.listed_words:
        meaning = "words that stand on the list of the page's language; null where there is none"
        columns.append(field("listed_density", pa.float32(), meaning, "share of words"))
        columns.append(field("listed_sexual_density", pa.float32(), "those of them listed as sexual", "share of words"))
    if scoring.code_math:
        columns.append(field("code_share", pa.float32(), "share of lines that look like code", "0..1"))
        columns.append(field("math_share", pa.float32(), "share of lines with mathematics", "0..1"))
    return pa.schema(columns)


QUALITY = pa.schema(
    [
        field(
            "quality", pa.float32(), "rank of the page by its quality heads among the pages that the rules keep", "0..1"
        ),
        field("quality_bin", pa.int16(), "bin of equal size by that, 0 the least"),
    ]
)


def score_columns(scoring: Scoring) -> pa.Schema:
    """All columns that scoring adds to the ledger."""
    return pa.schema([*score_schema(scoring), *(QUALITY if scoring.ranks else ())])


def scored_names(scoring: Scoring) -> list[str]:
    """Names of all columns that rules can bound once scores are there."""
    return [column.name for column in score_columns(scoring) if column.type != pa.string()]


SENTENCES = pa.schema(
    [
        field("doc_id", pa.string(), "key into records", "hex"),
        field("head", pa.string(), "head that scored the sentence"),
        field("start", pa.int32(), "first character of the sentence", "characters of the extracted text"),
        field("end", pa.int32(), "one past its last character", "characters of the extracted text"),
        field("score", pa.float32(), f"its score, {SENTENCE} or more", "0..1"),
    ]
)


class Histogram(NamedTuple):
    """How many values fall in each of RANK_BINS bins over 0..1; int64 of that length."""

    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Histogram":
        """Of numbers in 0..1; NaN is none."""
        return cls(np.bincount(_bins(values[~np.isnan(values)]), minlength=RANK_BINS))

    def rank(self, values: np.ndarray) -> np.ndarray:
        """The share of values below each, half of those in its own bin counted; NaN where there is none, or no value."""
        total = int(self.counts.sum())
        if total == 0:
            return np.full(len(values), np.nan)
        middle = (np.cumsum(self.counts) - self.counts / 2) / total
        ranks = middle[_bins(np.nan_to_num(values))]
        return np.where(np.isnan(values), np.nan, ranks)

    def below(self, values: np.ndarray, top: float, draws: np.ndarray) -> np.ndarray:
        """Which values are not among the share `top` of the greatest; of those in the bin that is cut in two as many stay
        as fit, by `draws` (0 to 1). NaN is below."""
        total = max(1, int(self.counts.sum()))
        bins = _bins(np.nan_to_num(values))
        upper = np.cumsum(self.counts)[bins] / total
        share = np.maximum(self.counts[bins], 1) / total
        return np.isnan(values) | ((upper - (1 - top)) / share <= draws)


def _bins(values: np.ndarray) -> np.ndarray:
    return np.minimum((np.clip(values, 0, 1) * RANK_BINS).astype(np.int64), RANK_BINS - 1)


Ranks = Mapping[str, Histogram]
"""By head, and under `quality` of the heads combined."""


def combined(scores: pa.Table, scoring: Scoring, ranks: Ranks) -> np.ndarray:
    """What the quality heads come to, 0..1: the mean or greatest of their ranks; NaN where one has no score."""
    heads = np.stack([ranks[name].rank(values_of(scores, name)) for name in scoring.quality.heads])
    return heads.mean(axis=0) if scoring.quality.combine == "mean" else heads.max(axis=0)


def values_of(scores: pa.Table, name: str) -> np.ndarray:
    """The scores of a head as float64, NaN where there is none."""
    return pc.fill_null(scores.column(f"score_{name}"), float("nan")).to_numpy().astype(np.float64)


COMBINED = "*"
"""Among ranks, those of all quality heads together; the name of no head, since a head may well be called quality."""

BELOW = "below_top"
"""Column beside those of QUALITY: whether a page is not among the best that the recipe keeps."""


def with_quality(scores: pa.Table, scoring: Scoring, ranks: Ranks) -> pa.Table:
    """The scores with the columns of QUALITY, and BELOW, beside them."""
    values = combined(scores, scoring, ranks)
    quality = ranks[COMBINED].rank(values)
    missing = np.isnan(quality)
    bins = np.minimum((np.nan_to_num(quality) * scoring.quality.bins).astype(np.int16), scoring.quality.bins - 1)
    columns = (pa.array(quality.astype(np.float32), mask=missing), pa.array(bins, pa.int16(), mask=missing))
    for column, ranked in zip(QUALITY, columns, strict=True):
        scores = scores.append_column(column, ranked)
    top = scoring.quality.keep.top
    below = np.zeros(len(quality), bool)
    if top is not None:
        draws = np.array([draw(doc_id) for doc_id in scores.column("doc_id").to_pylist()], np.float64)
        below = ranks[COMBINED].below(values, top, draws)
    return scores.append_column(BELOW, pa.array(below))


def dropped(scores: pa.Table, scoring: Scoring) -> np.ndarray:
    """Which pages quality drops. `scores` is what `with_quality` gives.

    A page without a score is dropped. The draw of a page is a function of its doc_id.
    """
    keep = scoring.quality.keep
    if not keep.asks:
        return np.zeros(scores.num_rows, bool)
    rank = pc.fill_null(scores.column("quality"), float("nan")).to_numpy().astype(np.float64)
    if keep.top is not None:
        return scores.column(BELOW).to_numpy()
    value = rank
    if keep.by == "score":
        value = np.mean([values_of(scores, name) for name in scoring.quality.heads], axis=0)
    if keep.least is not None:
        # A score is a float32: a bound of 0.65 admits what was measured as 0.65.
        return ~(value.astype(np.float32) >= np.float32(keep.least))
    draws = np.array([draw(doc_id) for doc_id in scores.column("doc_id").to_pylist()], np.float64)
    pareto = (1 - draws) ** (-1 / float(keep.pareto or 1)) - 1
    return ~(pareto > 1 - value)


def sentence_edits(sentences: pa.Table, scoring: Scoring) -> pa.Table:
    """What the recipe cuts of the sentences that were kept with their place (schema EDITS)."""
    edits = [EDITS.empty_table()]
    for name, head in scoring.heads.items():
        if head.cut_sentences is not None:
            score = sentences.column("score")
            chosen = pc.and_(
                pc.equal(sentences.column("head"), name),
                pc.greater_equal(score, pa.scalar(head.cut_sentences, pa.float32())),
            )
            rows = sentences.filter(chosen)
            blank, reason = (pa.array([text] * rows.num_rows, pa.string()) for text in ("", f"score.{name}"))
            edits.append(pa.table([*(rows.column(c) for c in ("doc_id", "start", "end")), blank, reason], schema=EDITS))
    return pa.concat_tables(edits)


def draw(doc_id: str, purpose: str = "quality") -> float:
    """A number in [0, 1) that is a function of the page: the same in every run."""
    digest = hashlib.blake2b(f"{purpose}\x1f{doc_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def facts(scoring: Scoring) -> dict[str, Any]:
    """What scores depend on: heads and models, and nothing that is decided late."""
    heads = {name: head.model_dump(exclude={"cut_sentences", "model"}) for name, head in scoring.heads.items()}
    return {
        "heads": heads,
        "models": scoring.digests(),
        "listed_words": scoring.listed_words,
        "code_math": scoring.code_math,
    }
