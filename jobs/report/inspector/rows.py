"""The row of a run that an address means."""

import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from jobs.report.inspector.inspection import Inspection

_UNDECIDED = dict.fromkeys(("duplicate_of", "rule_hits", "pii", "upsample", "shard", "row"))
"""What is asked of rows, and only the ledger has."""

_ID = re.compile(r"[0-9a-f]{32}\Z")


def rows_by_id(inspection: Inspection, doc_id: str) -> list[dict[str, Any]]:
    """Every row of the ledger for an id, in the order of files and offsets: a record that was archived twice has two. Of a
    run that has decided nothing yet the rows of records. Raises HTTPException for what is no id."""
    if not _ID.match(doc_id):
        raise HTTPException(404, "An id is 32 digits from 0 to f.")
    tables = inspection.tables
    for table in ("ledger", "records"):
        if tables.has(table):
            rows = tables.rows(f"SELECT * FROM {table} WHERE doc_id = ? ORDER BY warc_file, warc_offset", [doc_id])
            return [{**_UNDECIDED, **row} for row in rows]
    return []


def asked_rows(request: Request) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row that `/page/{doc_id}` and what is below it mean, and all rows of that id: of several it is the one of
    `?file=&offset=`, or the first. Raises HTTPException where there is none.
    """
    rows = rows_by_id(request.app.state.inspection, request.path_params["doc_id"])
    file, offset = request.query_params.get("file"), request.query_params.get("offset")
    asked = [row for row in rows if (row["warc_file"], str(row["warc_offset"])) == (file, offset)]
    if not rows or (file is not None and offset is not None and not asked):
        raise HTTPException(404, "No record of this run has that id.")
    return (asked or rows)[0], rows
