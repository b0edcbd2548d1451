"""Pages that a page was found to be like: captures of its address, pages with its text, its near-duplicates."""

from typing import Any, NamedTuple

from jobs.report.inspector.inspection import Inspection

MOST = 50
"""Pages of a group that are listed."""


class Kin(NamedTuple):
    """Pages that were compared with each other. `members` (doc_id, url, outcome, reason, similarity) begin with the page
    that is kept; `size` counts all of them, this page included. `similarity` is that of this page to the keeper of a
    cluster."""

    title: str
    key: str
    keeper: str | None
    size: int
    members: list[dict[str, Any]]
    similarity: float | None


_GROUPS = (
    ("Captures of the same address", "url_keeper", "url_size", "url_keeper"),
    ("Pages with the same text", "exact_keeper", "exact_size", "exact_keeper"),
    ("Near-duplicates", "cluster", "cluster_size", "keeper"),
)


def kin(inspection: Inspection, row: dict[str, Any]) -> list[Kin]:
    """The groups of more than one page that a page is in; [] where pages were not compared."""
    tables = inspection.tables
    if not tables.has("duplicates", "ledger"):
        return []
    own = tables.rows("SELECT * FROM duplicates WHERE doc_id = ? LIMIT 1", [row["doc_id"]])
    if not own:
        return []
    found = []
    for title, column, size, keeper in _GROUPS:
        if own[0][column] is None or (own[0][size] or 0) < 2:
            continue
        rows = tables.rows(
            f"SELECT DISTINCT doc_id, similarity FROM duplicates WHERE {column} = ? "
            f"ORDER BY doc_id = ? DESC, similarity DESC NULLS LAST, doc_id LIMIT {MOST + 1}",
            [own[0][column], own[0][keeper]],
        )
        members = [member for member in rows if member["doc_id"] != row["doc_id"]][:MOST]
        facts = _facts(inspection, [member["doc_id"] for member in members])
        nothing = {"url": None, "outcome": None, "reason": None}
        members = [{**member, **facts.get(member["doc_id"], nothing)} for member in members]
        if column != "cluster":
            members = [{**member, "similarity": None} for member in members]
        similarity = own[0]["similarity"] if column == "cluster" else None
        found.append(Kin(title, column, own[0][keeper], own[0][size], members, similarity))
    return found


def _facts(inspection: Inspection, ids: list[str]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    holes = ", ".join("?" * len(ids))
    rows = inspection.tables.rows(f"SELECT doc_id, url, outcome, reason FROM ledger WHERE doc_id IN ({holes})", ids)
    return {row.pop("doc_id"): row for row in rows}
