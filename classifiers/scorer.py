"""Everything that a recipe's `score` asks for, of a batch of pages."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from classifiers import code_math
from classifiers.scoring import Head, sentence_columns
from classifiers.wordlists import WordLists
from pipeline.errors import UsageError
from pipeline.scores import SENTENCE, SENTENCES, Scoring, score_schema

SHIPPED = "shipped"
"""What a recipe calls the word lists that ship."""

_PLACES = pa.schema([("row", pa.int32()), *(SENTENCES.field(name) for name in ("head", "start", "end", "score"))])


class Scores(NamedTuple):
    """`pages` has the columns of `score_schema`, a row a text; `sentences` the places (row, head, start, end in characters
    of the text, score) of sentences of `SENTENCE` or more."""

    pages: pa.Table
    sentences: pa.Table


class Scorer:
    """The heads of a recipe, opened. Raises RecipeError, InputError or UsageError where one cannot be used.

    A page never raises: what a head cannot read has a null score.
    """

    def __init__(self, scoring: Scoring):
        self._scoring = scoring
        self.schema = score_schema(scoring)
        self._heads = {
            name: Head.open(
                options.path, normalisation=options.normalisation, scored=options.label, max_chars=options.max_chars
            )
            for name, options in scoring.heads.items()
        }
        for name, head in self._heads.items():
            if head.scored is None and not scoring.heads[name].topics:
                raise UsageError(
                    f"score.heads.{name}: model {head.name} has no label that is scored; say `topics: true`, or which `label`"
                    f" of {', '.join(head.labels)}"
                )
        listed = scoring.listed_words
        self._lists = None if listed is None else WordLists.own() if listed == SHIPPED else WordLists.read(listed)

    def score(self, texts: pa.Array, languages: pa.Array) -> Scores:
        """Scores texts (string, nulls allowed) in their languages (codes of lid.176)."""
        lines: dict[tuple[str, int | None], pa.LargeStringArray] = {}
        columns: dict[str, pa.Array] = {}
        found = [_PLACES.empty_table()]
        for name, head in self._heads.items():
            read = (head.normalisation, head.max_chars)
            if read not in lines:
                lines[read] = head.lines(texts)
            if self._scoring.heads[name].topics:
                columns[name], columns[f"{name}_score"] = head.topic_lines(lines[read])
                continue
            columns[f"score_{name}"] = head.score_lines(lines[read])
            if self._scoring.heads[name].sentences:
                most, share, places = _by_sentence(name, head, texts)
                columns[f"score_{name}_max_sentence"], columns[f"score_{name}_sentence_share"] = most, share
                found.append(places)
        if self._lists is not None:
            densities = self._lists.densities(texts, languages.to_pylist())
            columns |= {name: densities.column(name) for name in ("listed_density", "listed_sexual_density")}
        if self._scoring.code_math:
            shares = code_math.shares(texts)
            columns |= {name: shares.column(name) for name in shares.schema.names}
        pages = [columns[name].cast(self.schema.field(name).type) for name in self.schema.names]
        return Scores(pa.table(pages, schema=self.schema), pa.concat_tables(found))


def _by_sentence(name: str, head: Head, texts: pa.Array) -> tuple[pa.Array, pa.Array, pa.Table]:
    """The highest score of a sentence of each text, the share of the text in sentences that count as the scored label, and
    where those of SENTENCE or more are."""
    found = head.score_sentences(texts)
    most, share = sentence_columns(found, len(texts), head.facts.get("sentence_threshold", SENTENCE))
    high = found.scores >= np.float32(SENTENCE)  # NaN is not
    columns = [
        pa.array(found.rows[high], pa.int32()),
        pa.array([name] * int(high.sum()), pa.string()),
        *(pa.array(side[high].astype(np.int32)) for side in (found.starts, found.ends)),
        pa.array(found.scores[high], pa.float32()),
    ]
    return most, share, pa.table(columns, schema=_PLACES)
