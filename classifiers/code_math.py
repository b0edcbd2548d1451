"""How much of a text is code, and how much is mathematics, by the look of its lines.

Rules, not a model: a line that looks like a statement, a command, a tag or a comment of a programming language is code; one
that holds LaTeX, MathML or several signs of mathematics is mathematics. The patterns and thresholds stand in
`code_math.yaml`. Extraction keeps lines, so what it made one paragraph of a listing is not seen.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from classifiers.normalise import strings
from pipeline.signals.base import field

SCHEMA = pa.schema(
    [
        field("code_share", pa.float32(), "characters in lines that look like code; null for a blank text", "0..1"),
        field("math_share", pa.float32(), "characters in lines that hold mathematics; null for a blank text", "0..1"),
    ]
)


class Rules(NamedTuple):
    """`code_math.yaml`: one pattern (RE2) of each kind, and the thresholds of `kinds`."""

    code: str
    not_code: str
    math: str
    thresholds: dict[str, float]


@cache
def rules() -> Rules:
    """The rules that ship."""
    facts = yaml.safe_load(Path(__file__).with_name("code_math.yaml").read_text(encoding="utf-8"))
    return Rules(_either(facts["code"]), _either(facts["not_code"]), _either(facts["math"]), facts["thresholds"])


def _either(patterns: Sequence[str]) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns)


class CodeMath:
    """An annotator (`pipeline.signals.base.Annotator`) that adds code_share and math_share."""

    schema = SCHEMA

    def annotate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The two shares of each row's text."""
        return shares(batch.column("text"))


def shares(texts: pa.Array | pa.ChunkedArray | Sequence[str | None]) -> pa.RecordBatch:
    """code_share and math_share (schema SCHEMA) of each text: of its characters, white space at the ends of lines aside,
    those in lines that look like code, or hold mathematics. A line may be both. Null for a null or blank text."""
    texts = strings(texts)
    lines = pc.split_pattern(pc.fill_null(texts, ""), "\n")
    offsets = lines.offsets.to_numpy()
    flat = lines.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])) if len(texts) else lines.values
    flat = pc.utf8_rtrim_whitespace(flat)
    sizes = pc.utf8_length(pc.utf8_ltrim_whitespace(flat)).to_numpy(zero_copy_only=False).astype(np.int64)
    of = rules()
    code = _matches(flat, of.code)
    code[code] = ~_matches(flat.filter(pa.array(code)), of.not_code)
    math = _matches(flat, of.math)
    starts = offsets - offsets[0] if len(texts) else offsets
    whole, coded, counted = (_sums(values, starts) for values in (sizes, sizes * code, sizes * math))
    blank = whole == 0
    of_all = np.maximum(whole, 1)
    columns = [pa.array((part / of_all).astype(np.float32), mask=blank) for part in (coded, counted)]
    return pa.record_batch(columns, schema=SCHEMA)


def _matches(lines: pa.Array, pattern: str) -> np.ndarray:
    return np.array(pc.match_substring_regex(lines, pattern).to_numpy(zero_copy_only=False), bool)


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of the values of each text; `starts` has one more entry than there are texts."""
    running = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=running[1:])
    return running[starts[1:]] - running[starts[:-1]]


def kinds(measured: pa.RecordBatch) -> dict[str, Any]:
    """bool arrays `code` and `math`: which texts, by the shares that `shares` measured, reach the thresholds that ship."""
    least = rules().thresholds
    return {
        kind: pc.greater_equal(
            pc.fill_null(measured.column(f"{kind}_share"), 0.0), pa.scalar(least[kind], pa.float32())
        )
        for kind in ("code", "math")
    }
