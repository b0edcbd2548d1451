"""A record's whole story on one page, in the order in which it happened."""

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.explain import measures
from jobs.places import rows_of, task_of
from jobs.report.inspector import beside, source
from jobs.report.inspector.inspection import Inspection
from jobs.report.inspector.kin import kin
from jobs.report.inspector.marks import MOST_CHARS, Edited, Mark, Marked, edited, marked
from jobs.report.inspector.overlaps import Overlaps, overlaps
from jobs.report.inspector.rows import asked_rows
from jobs.report.inspector.tokens_of import held
from jobs.report.inspector.verdict import changes, number
from pipeline.highlights import offending, pieces, url_parts
from pipeline.scores import score_columns

MOST_COUNTED = 1_000_000
"""Characters of a text that are searched for what a rule counts: what it counts in longer ones takes too long."""

MOST_SENTENCES = 500
"""Sentences with a score that are marked."""


def endpoint(request: Request) -> Response:
    """`/page/{doc_id}`: everything that a run knows of a record. What the rule counts that decided is marked, or that of
    `?rule=`, `?at=` shows a long text from that character on, `?file=&offset=` tells records apart that were archived twice.
    """
    inspection: Inspection = request.app.state.inspection
    row, twins = asked_rows(request)
    run = inspection.run
    task = task_of(run, row)
    found = rows_of(run.measures_folder, "documents", task.part, row["doc_id"]) if task is not None else None
    document = found.slice(0, 1).to_pylist()[0] if found is not None and found.num_rows else None
    decided = inspection.finished
    measured = _measured(row, inspection) if decided else []
    place = {"file": row["warc_file"], "offset": row["warc_offset"]} if len(twins) > 1 else {}
    counted_rules = {measure["rule"] for measure in measured}
    # Unless another is asked for, or none, the rule that decided.
    rule = request.query_params.get("rule", row["reason"] or "")
    context: dict[str, Any] = {
        "row": row,
        "document": document,
        "twins": twins,
        "decided": decided,
        "place": place,
        "link": lambda **more: "?" + urlencode({**place, **more}),
        "number": number,
        "measured": measured,
        "rule": rule if rule in counted_rules else "",
        "counted_rules": counted_rules,
        "changes": changes(row, measured, run.recipe),
        "address": _address(row, inspection),
        "scores": _scores(row, inspection),
        "groups": kin(inspection, row),
        "tokens": held(inspection.tokens_folders, row["doc_id"]) if row["outcome"] == "kept" else [],
        "token_folders": len(inspection.tokens_folders),
        "text": None,
        "edited": None,
        "written": [],
        "overlaps": None,
        "nothing_counted": False,
    }
    if document is not None and task is not None:
        counted = _counted(inspection, document["text"], context["rule"], measured, document["language"])
        context |= _text(inspection, row, document["text"], task.part, counted, request.query_params.get("at"))
        context["nothing_counted"] = bool(context["rule"]) and not counted
        if context["rule"] and len(document["text"]) > MOST_COUNTED:
            words = f"Only the first {MOST_COUNTED:,} characters were searched for what {context['rule']} counts."
            context["text_notes"].append(words)
    page: Response = inspection.page(request, "story.html", **context)
    return page


def _text(
    inspection: Inspection, row: dict[str, Any], text: str, part: str, counted: list[Mark], at: str | None
) -> dict[str, Any]:
    """What the page says of a text: a window of it with marks, what was written, which benchmark items it holds."""
    done: Edited = edited(inspection.run, row, text, part)
    leaks: Overlaps = overlaps(inspection, row, text, part)
    marks = [*counted, *done.marks, *leaks.marks, *_scored(inspection, row, part, done.marks, len(text))]
    start = int(at) if at is not None and at.isascii() and at.isdigit() and len(at) < 12 else None
    if start is None:
        start = counted[0].start // MOST_CHARS * MOST_CHARS if counted else 0
    shown: Marked = marked(text, marks, min(start, max(0, len(text) - 1)))
    written = []
    if row["outcome"] == "kept" and inspection.tables.has("curated"):
        written = inspection.tables.rows(
            "SELECT piece, text, n_words, n_bytes, length(text) AS n_chars FROM curated "
            "WHERE id = ? AND warc_offset = ? AND warc_file = ? ORDER BY piece",
            [row["doc_id"], row["warc_offset"], row["warc_file"]],
        )
    texts = [piece["text"] for piece in written]
    notes = list(done.notes)
    if texts and texts != done.texts and not notes:
        notes.append(
            "These marks do not give the curated text as it was written: the run's tables do not belong together, or the "
            "recipe's word lists have changed since."
        )
    return {
        "text": shown,
        "edited": done,
        "written": [{**piece, "text": piece["text"][:MOST_CHARS]} for piece in written],
        "unchanged": texts == [text],
        "overlaps": leaks,
        "text_notes": notes,
        "next_at": shown.end if shown.end < len(text) else None,
        "last_at": max(0, shown.start - MOST_CHARS) if shown.start else None,
    }


def _measured(row: dict[str, Any], inspection: Inspection) -> list[dict[str, Any]]:
    """Every bound beside what was measured, those that are broken first."""
    return sorted(measures(row, inspection.recipe), key=lambda measure: not measure["broken"])


def _counted(inspection: Inspection, text: str, rule: str, measured: list[dict[str, Any]], language: str) -> list[Mark]:
    """What a rule counts in the text."""
    signal = next((measure["signal"] for measure in measured if measure["rule"] == rule), None)
    if signal is None:
        return []
    spans = offending(text[:MOST_COUNTED], rule, signal.partition(" ")[0], inspection.recipe, language=language)
    return [Mark(start, end, "rule", rule) for start, end in spans if 0 <= start < end <= len(text)]


def _scored(inspection: Inspection, row: dict[str, Any], part: str, cuts: list[Mark], n_chars: int) -> list[Mark]:
    """The sentences with a score, but for those that are cut by it."""
    rows = rows_of(inspection.run.folder, "sentences", part, row["doc_id"])
    found = rows.slice(0, MOST_SENTENCES).to_pylist() if rows is not None else []
    gone = {(mark.start, mark.end) for mark in cuts if mark.kind == "sentence"}
    return [
        Mark(hit["start"], hit["end"], "scored", hit["head"])
        for hit in found
        if (hit["start"], hit["end"]) not in gone and 0 <= hit["start"] < hit["end"] <= n_chars
    ]


def _scores(row: dict[str, Any], inspection: Inspection) -> list[dict[str, Any]]:
    """The scores of a page, each with its meaning."""
    found = []
    for column in score_columns(inspection.recipe.score):
        if row.get(column.name) is not None:
            meaning = (column.metadata or {}).get(b"meaning", b"").decode()
            found.append({"name": column.name, "value": number(row[column.name]), "meaning": meaning})
    return found


def _address(row: dict[str, Any], inspection: Inspection) -> list[tuple[str, str]]:
    """The address in pieces, with what a gate on addresses found in it."""
    url = row["url"] or ""
    for reason in row.get("rule_hits") or row.get("gate_hits") or ():
        parts = url_parts(url, reason, inspection.recipe)
        if parts:
            return pieces(url, [(*part, "rule") for part in parts])
    return [(url, "")] if url else []


routes = [*source.routes, *beside.routes, Route("/page/{doc_id}", endpoint)]
