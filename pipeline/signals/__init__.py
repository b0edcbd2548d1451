"""Text to columns of numbers: statistics, language, addresses."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:  # a recipe's parts import signals, so that at run time this must not import recipes
    from pipeline.recipe import Recipe


@cache
def known_signals() -> frozenset[str]:
    """Names of every signal that a recipe's rules may bound."""
    from pipeline.signals.statistics import Statistics

    return frozenset(Statistics.schema.names)


def measure(texts: pa.Array, recipe: Recipe) -> pa.Table:
    """Every signal that the recipe needs of each text: one row a text, in order.

    Columns: language, language_score, script_share, the statistics, and, if the recipe edits lines, the statistics of
    the edited text under names that begin with `edited_`.
    """
    from pipeline.annotation import Measurement
    from pipeline.signals.language import LanguageSignals

    batch = pa.record_batch([texts], ["text"])
    language = LanguageSignals().annotate(batch)
    columns = {name: language.column(name) for name in language.schema.names}
    signals = Measurement(recipe).annotate(batch).signals
    columns.update({name: signals.column(name) for name in signals.schema.names})
    return pa.table(columns)
