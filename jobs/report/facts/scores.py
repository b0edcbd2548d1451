"""Classifiers of a run: what their cards say of them, and what they made of the pages."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jobs.report.facts import Classifiers, Head, QualityBin, Reliability, ReliabilityBin
from jobs.report.facts.rows import Note, Rows, numbers
from jobs.report.facts.rules import spread
from pipeline.errors import CrawlmillError
from pipeline.recipe import Recipe
from pipeline.rules import bounds
from pipeline.scores import SENTENCE, HeadOptions, score_schema

_FIGURES = ("roc_auc", "average_precision", "calibration_error", "accuracy", "macro_f1")

_LISTED = ("listed_density", "listed_sexual_density")


def classifiers(recipe: Recipe, rows: Rows | None, note: Note) -> Classifiers | None:
    """Every head of a recipe; None for a recipe that scores nothing."""
    scoring = recipe.score
    if not scoring.scores:
        return None
    names = [n for n in score_schema(scoring).names if rows is not None and n in rows.names]
    scored = np.zeros(0 if rows is None else rows.n, bool)
    values = {}
    if rows is not None:
        for name in (n for n in names if n not in scoring.heads or not scoring.heads[n].topics):
            values[name] = numbers(rows.column(name))
            scored |= ~np.isnan(values[name])
    heads = []
    for name, options in scoring.heads.items():
        column = f"{name}_score" if options.topics else f"score_{name}"
        found = values.get(column)
        bound = next((b for b in bounds(recipe) if b.signal == column), None)
        histogram = spread(found, rows, scored, bound) if rows is not None and found is not None else None
        heads.append(_head(name, options, column, histogram, name in scoring.quality.heads, note))
    listed, listed_pages = [], {}
    for column in _LISTED:
        if rows is None or column not in values:
            continue
        of_it = spread(values[column], rows, scored, None)
        if of_it is not None:
            listed.append((column, of_it))
            listed_pages[column] = rows.scaled(int((np.nan_to_num(values[column]) > 0).sum()))
    return Classifiers(
        heads,
        _quality_bins(rows) if rows is not None and scoring.ranks else [],
        _keep(recipe),
        [h for _, h in listed],
        [n for n, _ in listed],
        listed_pages,
        rows.scaled(int(scored.sum())) if rows is not None else 0,
        rows is not None and rows.estimated,
    )


def _quality_bins(rows: Rows) -> list[QualityBin]:
    if "quality_bin" not in rows.names:
        return []
    bins = numbers(rows.column("quality_bin"))
    there = bins >= 0  # NaN is not
    if not there.any():
        return []
    at = bins[there].astype(np.int64)
    kept = rows.kept[there]
    words = np.nan_to_num(numbers(rows.column("word_count_split")))[there]
    size = int(at.max()) + 1
    pages, left = np.bincount(at, minlength=size), np.bincount(at[kept], minlength=size)
    own = np.bincount(at[kept], words[kept], size)
    return [QualityBin(i, rows.scaled(pages[i]), rows.scaled(left[i]), rows.scaled(own[i])) for i in range(size)]


def _keep(recipe: Recipe) -> str:
    keep, heads = recipe.score.quality.keep, ", ".join(recipe.score.quality.heads)
    if keep.least is not None:
        return f"pages whose {keep.by} by {heads} is at least {keep.least:g}"
    if keep.top is not None:
        return f"the best {keep.top:.0%} of the pages by {heads}"
    if keep.pareto is not None:
        return f"each page by a Pareto draw of {keep.pareto:g} against its {keep.by} by {heads}"
    return ""


def _head(name: str, options: HeadOptions, column: str, histogram: Any, in_quality: bool, note: Note) -> Head:
    facts: dict[str, Any] = {}
    card: dict[str, Any] = {}
    try:
        path = options.path
        facts = _document(path.with_suffix(".json"))
        card = _document(path.with_suffix(".card.json"))
    except (CrawlmillError, OSError, ValueError) as error:
        note("classifiers", f"the model of head {name}: {error}")
    return Head(
        name,
        options.model,
        options.label or facts.get("scored"),
        str(card.get("purpose") or ""),
        [str(line) for line in card.get("failures") or ()],
        facts.get("sha256"),
        [_reliability(among, found) for among, found in (card.get("evaluations") or {}).items()],
        column,
        histogram,
        options.topics,
        in_quality,
    )


def sentence_threshold(options: HeadOptions) -> float:
    """From which score on a head's share of sentences counts one, as its model says."""
    try:
        return float(_document(options.path.with_suffix(".json")).get("sentence_threshold", SENTENCE))
    except (CrawlmillError, OSError, ValueError, TypeError):
        return SENTENCE  # that the model cannot be read is noted with the classifiers


def _document(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file. Raises OSError or ValueError."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object")
    return found


def _reliability(among: str, found: dict[str, Any]) -> Reliability:
    bins = [
        ReliabilityBin(b["low"], b["high"], b["n"], b.get("mean_score"), b.get("share"))
        for b in (
            {"low": 0.0, "high": 1.0, "n": 0, **one} for one in found.get("reliability") or () if isinstance(one, dict)
        )
    ]
    return Reliability(among, found.get("examples"), bins, {k: found[k] for k in _FIGURES if k in found})
