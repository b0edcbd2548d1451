"""Why a record was kept or dropped: everything the ledger knows of it, beside the bounds of the recipe."""

from typing import Any

import pyarrow.compute as pc

from jobs.places import rows_of, task_of
from jobs.runs import Run
from pipeline.errors import UsageError
from pipeline.recipe import Recipe
from pipeline.rules import bounds


def find(run: Run, key: str) -> list[dict[str, Any]]:
    """Ledger rows for a doc_id, a URL, or FILE:OFFSET (any ending of the file name will do); [] where there is none."""
    if len(key) == 32 and all(c in "0123456789abcdef" for c in key.lower()):
        condition = pc.field("doc_id") == key.lower()
    elif (place := _place(key)) is not None:
        condition = pc.ends_with(pc.field("warc_file"), place[0]) & (pc.field("warc_offset") == place[1])
    else:
        condition = pc.field("url") == key
    rows = run.folder.scan("ledger", condition).sort_by([("warc_file", "ascending"), ("warc_offset", "ascending")])
    return rows.to_pylist()


def _place(key: str) -> tuple[str, int] | None:
    file, _, offset = key.rpartition(":")
    is_offset = offset.isascii() and offset.isdigit() and int(offset) < 2**63
    # A URL with a port (http://host:8080) is a URL.
    return (file, int(offset)) if file and is_offset and "://" not in key else None


def example_keys(run: Run) -> dict[str, str]:
    """One doc_id for each outcome that the run has, the smallest, to show what `explain` can say."""
    keys = {}
    for outcome in ("kept", "dropped", "error"):
        rows = run.folder.scan("ledger", pc.field("outcome") == outcome, ["doc_id"])
        if rows.num_rows:
            keys[outcome] = pc.min(rows.column("doc_id")).as_py()
    return keys


def measures(row: dict[str, Any], recipe: Recipe) -> list[dict[str, Any]]:
    """Each bound of the recipe beside what was measured: rule, signal, value, minimum, maximum, broken."""
    if row["n_chars"] is None:
        return []
    gate = recipe.gates.language
    least = gate.keep.get(row["language"] or "") if gate.keep else 0.0
    table = [
        {
            "rule": "gates.language",
            "signal": f"language_score of {row['language'] or 'unknown'}"
            + ("" if least is not None else f" (kept: {', '.join(gate.keep)})"),
            "value": row["language_score"],
            "minimum": least,
            "maximum": None,
            "broken": "gates.language" in row["rule_hits"],
        },
        {
            "rule": "gates.script",
            "signal": "script_share",
            "value": row["script_share"],
            "minimum": gate.script,
            "maximum": None,
            "broken": "gates.script" in row["rule_hits"],
        },
    ]
    for bound in bounds(recipe):
        table.append(
            {
                "rule": bound.rule,
                "signal": bound.signal,
                "value": row[bound.signal],
                "minimum": bound.minimum,
                "maximum": bound.maximum,
                "broken": bound.rule in row["rule_hits"],
            }
        )
    return table


def extracted_text(run: Run, row: dict[str, Any]) -> str | None:
    """The text as extracted, before edits; None where the page was turned away before that."""
    if row["n_chars"] is None:
        return None
    folder = run.measures_folder
    task = task_of(run, row)
    found = rows_of(folder, "documents", task.part, row["doc_id"], ["text"]) if task is not None else None
    if found is None or found.num_rows == 0:
        raise UsageError(f"the documents of {folder.path} are gone; the ledger still holds what was measured")
    text: str = found.column("text")[0].as_py()
    return text
