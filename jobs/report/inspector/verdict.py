"""What was decided of a record, in words: why, and what would have to be otherwise for it to be kept."""

from typing import Any, NamedTuple

from pipeline.curation import (
    LEAKED,
    NOTHING_BUT_LEAKS,
    NOTHING_LEFT,
    NOTHING_MILD,
    SAME_RECORD,
    TOO_MANY_PIECES,
    TOO_PERSONAL,
)
from pipeline.recipe import Recipe
from pipeline.rules import QUALITY_RULE


class Change(NamedTuple):
    """A rule that a record broke, and what would have to change for it to pass."""

    rule: str
    words: str


def changes(row: dict[str, Any], measures: list[dict[str, Any]], recipe: Recipe) -> list[Change]:
    """For every rule that a record broke, in order, what would have to change. `row` is of the ledger or of `records`."""
    by_rule: dict[str, list[dict[str, Any]]] = {}
    for measure in measures:
        by_rule.setdefault(measure["rule"], []).append(measure)
    broken = list(
        dict.fromkeys(row.get("rule_hits") or row.get("gate_hits") or ([row["reason"]] if row["reason"] else []))
    )
    return [Change(rule, _words(rule, by_rule.get(rule, []), row, recipe)) for rule in broken]


def number(value: Any) -> str:
    """A measured value or a bound in few digits: as many as tell it from its neighbours."""
    if value is None or value != value:
        return "not measured"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _words(rule: str, measures: list[dict[str, Any]], row: dict[str, Any], recipe: Recipe) -> str:
    if rule == "gates.language":
        return _language(row, recipe)
    if measures:
        return "; ".join(_bound(measure) for measure in measures)
    if rule in _FIXED:
        return _FIXED[rule]
    if rule == QUALITY_RULE:
        asked = recipe.score.quality.keep.model_dump(exclude_none=True)
        said = ", ".join(f"{key}: {value}" for key, value in asked.items())
        return (
            f"its quality ({number(row.get('quality'))} of the ranks 0 to 1) is not kept by score.quality.keep ({said})"
        )
    if rule == TOO_PERSONAL:
        return (
            f"it holds {len(row.get('pii') or []):,} pieces of personal data; pii.max_hits allows {recipe.pii.max_hits}"
        )
    family, _, what = rule.partition(":")
    if family == "gates.http.status":
        asked_status = ", ".join(map(str, recipe.gates.http.status))
        return f"the status is {row['http_status'] or 'not said'}; gates.http.status takes {asked_status}"
    if family == "gates.http.media_type":
        types = ", ".join(recipe.gates.http.media_types)
        return f"the media type is {row['media_type'] or 'not said'}; gates.http.media_types takes {types}"
    if family.startswith("gates.url."):
        found = f" by {what!r}" if what else ""
        return (
            f"its address is turned away{found}; the list of {family} would have to be without that, or gates.url.allow "
            "would have to hold it"
        )
    for begins, words in _FAMILIES.items():
        if family.startswith(begins):
            return words
    return "the recipe would have to be without this rule"


_FIXED = {
    "dedup.url": "another capture of its address is kept; it would be if that one were not, or with dedup.url left out",
    "dedup.exact": "another page with the same text is kept; it would be if that one were not, or with dedup.exact left out",
    "dedup.minhash": "a page much like it is kept; it would be if that one were not, or with dedup.minhash left out or "
    "asking for more similarity",
    NOTHING_LEFT: "all of its lines are cut as repeated; dedup.lines or dedup.paragraphs would have to cut less",
    NOTHING_MILD: "all of its sentences are cut by their score; cut_sentences would have to be higher",
    LEAKED: "it holds a benchmark item; decontaminate.action would have to be cut or mark",
    TOO_MANY_PIECES: "it falls in too many pieces when benchmark items are cut out; decontaminate.most_pieces would have to "
    "be greater",
    NOTHING_BUT_LEAKS: "no piece is long enough when benchmark items are cut out; decontaminate.least_piece or context would "
    "have to be less",
    SAME_RECORD: "the same capture stands in the archives twice; one of the two is kept",
    "gates.size": "it is larger than extraction.max_bytes",
    "gates.http.content": "its bytes are no text",
    "extraction.empty": "no text was found in it",
}

_FAMILIES = {
    "source.": "the file it lies in would have to be whole: fetch it again",
    "extraction.": "reading it failed; another engine, or more time or memory under extraction, may read it",
    "annotate.": "measuring it ended the worker; --retry-quarantined tries again",
    "score.": "scoring it ended the worker; --retry-quarantined tries again",
    "gates.": "the gate would have to be left out or widened",
}


def _bound(measure: dict[str, Any]) -> str:
    value, low, high = measure["value"], measure["minimum"], measure["maximum"]
    name = measure["signal"]
    if value is None or value != value:
        return f"{name} was not measured, which breaks every bound"
    if low is not None and value < low:
        return f"{name} is {number(value)}; the minimum of {number(low)} would have to be that or less"
    if high is not None and value > high:
        return f"{name} is {number(value)}; the maximum of {number(high)} would have to be that or more"
    return f"{name} is {number(value)}"


def _language(row: dict[str, Any], recipe: Recipe) -> str:
    keep = recipe.gates.language.keep
    language = row.get("language") or "unknown"
    score = number(row.get("language_score"))
    if language in keep:
        return f"{language} with {score}; gates.language asks for at least {number(keep[language])}"
    return f"its language is {language} ({score}); gates.language keeps {', '.join(keep)}"
