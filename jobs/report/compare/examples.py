"""Examples of what changed between two runs: addresses, what decided with value and bounds, texts and their differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from jobs.explain import extracted_text
from jobs.report.facts.texts import MOST_CHARS, Marks, masked
from jobs.report.tables import Tables, below
from jobs.runs import Run
from pipeline.errors import UsageError
from pipeline.highlights import offending
from pipeline.rules import bounds

EXCERPT = 300
"""Characters of a page that are shown."""

DIFFERENCES, LINE = 8, 160
"""Lines of a difference that are shown, and characters of each."""

MOST_LINES = 2_000
"""Lines of a text that are compared: what is shown comes from its beginning."""

_AROUND = 40
"""Characters before the first difference of a line that are shown."""

_ALIKE = 20
"""Lines that begin with the same so many characters are one line that was changed."""

_LEDGER = (
    *("doc_id", "warc_file", "warc_offset", "url", "outcome", "reason", "error", "n_chars", "rule_hits"),
    *("language", "language_score", "script_share", "duplicate_of", "similarity", "cluster_size", "quality"),
)


@dataclass(frozen=True)
class Side:
    """One of the two runs: its letter, a or b, and its tables."""

    letter: str
    run: Run
    tables: Tables


Drawn = Mapping[tuple[str | None, str | None], Sequence[Mapping[str, Any]]]
"""By what records became in a and in b (None where one does not have them): doc_id, and file and offset in either."""


def examples(sides: tuple[Side, Side], drawn: Drawn, share: float) -> list[dict[str, Any]]:
    """The records in the order of `drawn`, each with both of its ledger rows in short and an excerpt where it has a text.

    `share`: all their ids are among the first so many.
    """
    every = [record for records in drawn.values() for record in records]
    reasons = {reason for pair in drawn for reason in pair if reason}
    rows = [_rows(side, every, reasons, share) for side in sides]
    found = []
    for (a, b), records in drawn.items():
        for record in records:
            own = [
                rows[i].get((record[f"file_{side.letter}"], record[f"at_{side.letter}"]))
                for i, side in enumerate(sides)
            ]
            example: dict[str, Any] = {"a_became": a, "b_became": b, "doc_id": record["doc_id"]}
            example["url"] = next((row["url"] for row in own if row is not None), None)
            for side, row in zip(sides, own, strict=True):
                example[side.letter] = None if row is None else _in_short(side, row, (a, b))
            example["excerpt"] = _excerpt(sides, own, (a, b))
            found.append(example)
    return found


def _rows(
    side: Side, records: Sequence[Mapping[str, Any]], reasons: set[str], share: float
) -> dict[tuple[str, int], dict[str, Any]]:
    """Ledger rows of these records, by file and offset, with the signals that these reasons bound."""
    ids = sorted({record["doc_id"] for record in records})
    if not ids:
        return {}
    there = set(side.tables.columns("ledger"))
    signals = [bound.signal for bound in bounds(side.run.recipe) if bound.rule in reasons]
    columns = [name for name in dict.fromkeys([*_LEDGER, *signals]) if name in there]
    least = below(share)
    # The bound on ids leaves out files without reading them; a list of ids alone does not.
    named = ", ".join(f'"{name}"' for name in columns)
    within = " AND doc_id < ?" if least else ""
    query = f"SELECT {named} FROM ledger WHERE doc_id IN (SELECT unnest(?)){within}"
    rows = side.tables.rows(query, [ids, *([least] if least else [])])
    return {(row["warc_file"], row["warc_offset"]): row for row in rows}


def _in_short(side: Side, row: Mapping[str, Any], reasons: Sequence[str | None]) -> dict[str, Any]:
    """Outcome and reason of a ledger row, and `because`: what the rules that decided in either run make of it here."""
    said = [words for reason in dict.fromkeys(r for r in reasons if r) if (words := _because(side, row, reason))]
    if row["error"]:
        said.append(str(row["error"]))
    return {"outcome": row["outcome"], "reason": row["reason"], "because": said}


def _because(side: Side, row: Mapping[str, Any], reason: str) -> str | None:
    """What was measured for a rule beside its bounds here; None where there is nothing to say of it."""
    if reason == "gates.language" and row["language"] is not None:
        keep = side.run.recipe.gates.language.keep
        kept = ", ".join(f"{code} from {least:g}" for code, least in keep.items()) or "every language"
        return f"language {row['language']} {row['language_score']:.2f}; kept: {kept}"
    if reason == "gates.script" and row["script_share"] is not None:
        return f"script_share {row['script_share']:.2f}, least {side.run.recipe.gates.language.script:g}"
    if reason.startswith("dedup.") and row["duplicate_of"] is not None and row["outcome"] == "dropped":
        similar = "" if row["similarity"] is None else f", similarity {row['similarity']:.2f}"
        return f"duplicate of {row['duplicate_of']}{similar}"
    for bound in bounds(side.run.recipe):
        if bound.rule == reason and row.get(bound.signal) is not None:
            low = [] if bound.minimum is None else [f"least {bound.minimum:g}"]
            high = [] if bound.maximum is None else [f"most {bound.maximum:g}"]
            value = row[bound.signal]
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            passed = "broken" if reason in (row.get("rule_hits") or ()) else "passes"
            return f"{bound.signal} {shown}, {', '.join(low + high)}: {passed}"
    return None


def _excerpt(
    sides: Sequence[Side], rows: Sequence[Mapping[str, Any] | None], reasons: Sequence[str | None]
) -> list[list[str]] | None:
    """Of a page's text, of the first run that has it, what is around the part that the rule counts which decided in one of
    them: pieces, each with its kind, of which "" is none. Personal data is masked. None where neither has a text.
    """
    for side, row in zip(sides, rows, strict=True):
        if row is None or row["n_chars"] is None:
            continue
        try:
            text = extracted_text(side.run, dict(row))
        except UsageError:  # the documents are gone
            continue
        if text is None:
            continue
        own = side.run.recipe
        known = {bound.rule: bound.signal for bound in bounds(own)}
        marks: Marks = [
            (*span, "offending")
            for reason in dict.fromkeys(r for r in reasons if r in known)
            for span in offending(text[:MOST_CHARS], reason, known[reason], own, language=row["language"])
        ]
        (safe,) = masked([text[:MOST_CHARS]], [row["language"]], own)
        found, before, after = safe.excerpt(sorted(marks), EXCERPT)
        around = [["… ", ""]] if before else []
        return [*around, *([piece.text, piece.kind] for piece in found), *([[" …", ""]] if after else [])]
    return None


def text_examples(sides: tuple[Side, Side], ids: Sequence[str]) -> list[dict[str, Any]]:
    """Pages that both runs keep, with the lines of their texts that differ: `lines` of (sign, text), sign - of a, + of b."""
    if not ids:
        return []
    least = max(ids)
    texts = []
    urls: dict[str, str] = {}
    for side in sides:
        rows = side.tables.rows(
            "SELECT id, any_value(url) AS url, string_agg(text, chr(10) ORDER BY piece) AS text, count(*) AS pieces "
            "FROM curated WHERE id <= ? AND id IN (SELECT unnest(?)) GROUP BY id",
            [least, list(ids)],
        )
        texts.append({row["id"]: row for row in rows})
        urls |= {row["id"]: row["url"] for row in rows}
    found = []
    for doc_id in ids:
        a, b = (side[doc_id] for side in texts)
        lines, left_out = differences(a["text"], b["text"])
        if not lines:
            lines = [("-", f"in {a['pieces']} pieces"), ("+", f"in {b['pieces']} pieces")]
        found.append({"doc_id": doc_id, "url": urls[doc_id], "lines": lines, "left_out": left_out})
    return found


def differences(a: str, b: str) -> tuple[list[tuple[str, str]], int]:
    """Lines of `a` (-) and of `b` (+) that differ, shortened to where they do, and how many more there are."""
    left, right = a.split("\n")[:MOST_LINES], b.split("\n")[:MOST_LINES]
    lines: list[tuple[str, str]] = []
    for kind, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        gone, come = left[i:j], right[k:m]
        while gone or come:
            # A line that was only changed stands beside what it became.
            paired = bool(gone and come) and (len(gone) == len(come) or gone[0][:_ALIKE] == come[0][:_ALIKE])
            if gone:
                lines.append(("-", _cut(gone[0], come[0] if paired else None)))
            if come and (paired or not gone):
                lines.append(("+", _cut(come[0], gone[0] if paired else None)))
                come = come[1:]
            gone = gone[1:]
    return lines[:DIFFERENCES], max(0, len(lines) - DIFFERENCES)


def _cut(line: str, other: str | None) -> str:
    """A line as short as it has to be, from a little before where it differs from the other."""
    start = 0
    if other is not None:
        same = next(
            (i for i, (x, y) in enumerate(zip(line, other, strict=False)) if x != y), min(len(line), len(other))
        )
        start = max(0, same - _AROUND) if len(line) > LINE or len(other) > LINE else 0
    cut = line[start : start + LINE]
    return ("…" if start else "") + cut + ("…" if start + LINE < len(line) else "")
