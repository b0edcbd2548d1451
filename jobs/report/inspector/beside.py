"""Two pages' texts side by side, with what differs."""

from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.explain import extracted_text
from jobs.report.inspector.inspection import Inspection
from jobs.report.inspector.rows import asked_rows, rows_by_id
from pipeline.differences import Block, Piece, differences
from pipeline.errors import UsageError

MOST_CHARS = 1_000_000
"""Characters of each text that are compared."""

MOST_BLOCKS = 1_000
"""Places that are shown."""

MOST_SHOWN = 20_000
"""Characters of one side of a place that are shown."""

MOST_IN_ALL = 400_000
"""Characters that are shown of all places together; with them the page ends."""

FOLDED_LINES = 6
"""Lines that are the same in both, from which on they are folded."""

FOLDED_CHARS = 800


class Place(NamedTuple):
    """A place in both texts. `folded` where both have the same there and much of it; `left_out` are characters that are
    not shown."""

    left: list[Piece]
    right: list[Piece]
    same: bool
    folded: bool
    n_lines: int
    left_out: int


def endpoint(request: Request) -> Response:
    """`/page/{doc_id}/beside/{other}`."""
    inspection: Inspection = request.app.state.inspection
    row, _ = asked_rows(request)
    others = rows_by_id(inspection, request.path_params["other"])
    sides = [_side(inspection, row), _side(inspection, others[0]) if others else _nobody(request.path_params["other"])]
    places: list[Place] = []
    more = 0
    found = None
    if all(side["text"] is not None for side in sides):
        found = differences(*(side["text"][:MOST_CHARS] for side in sides))
        places = _places(found.blocks)
        more = len(found.blocks) - len(places)
    page: Response = inspection.page(
        request,
        "beside.html",
        row=row,
        sides=sides,
        places=places,
        more=more,
        found=found,
        most=MOST_CHARS,
        n_places=sum(not block.same for block in found.blocks) if found else 0,
        longest=max(len(side["text"] or "") for side in sides),
    )
    return page


def _side(inspection: Inspection, row: dict[str, Any]) -> dict[str, Any]:
    """One page: its row, and its text as extracted, or why there is none."""
    text, problem = None, None
    try:
        text = extracted_text(inspection.run, {"n_chars": 0, **row})
        if text is None:
            problem = "It was turned away before its text was extracted."
    except UsageError:
        problem = "The run has no text of it."
    return {"row": row, "text": text, "problem": problem}


def _nobody(doc_id: str) -> dict[str, Any]:
    row = {"doc_id": doc_id, "url": None, "outcome": None, "reason": None, "date": None, "title": None}
    return {"row": row, "text": None, "problem": "No record of this run has that id."}


def _places(blocks: list[Block]) -> list[Place]:
    """The first places, as many as a browser can show."""
    places: list[Place] = []
    room = MOST_IN_ALL
    for block in blocks[:MOST_BLOCKS]:
        if room <= 0:
            break
        places.append(_place(block))
        sides = (places[-1].left,) if block.same else (places[-1].left, places[-1].right)
        room -= sum(len(piece.text) for side in sides for piece in side)
    return places


def _place(block: Block) -> Place:
    text = block.left[0].text if block.same else ""
    n_lines = text.count("\n") + (not text.endswith("\n")) if text else 0
    folded = block.same and (n_lines >= FOLDED_LINES or len(text) >= FOLDED_CHARS)
    left, left_out = _limited(block.left)
    right, right_out = _limited(block.right)
    return Place(left, right, block.same, folded, n_lines, max(left_out, right_out))


def _limited(pieces: list[Piece]) -> tuple[list[Piece], int]:
    """The first characters of a side, and how many are left out."""
    shown: list[Piece] = []
    room = MOST_SHOWN
    for piece in pieces:
        if room <= 0:
            break
        shown.append(Piece(piece.text[:room], piece.differs))
        room -= len(piece.text)
    return shown, sum(len(piece.text) for piece in pieces) - sum(len(piece.text) for piece in shown)


routes = [Route("/page/{doc_id}/beside/{other}", endpoint)]
