"""The page of thresholds: bounds are moved, and what that would change is told at once; moved bounds make a recipe.

Which bounds are moved stands in the address, so that it can be linked: `?gopher_quality.word_count.min=40`, and `=off`
where one is switched off.
"""

from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from jobs.report.inspector.dials import Dial, Dials, Example, load, value_text
from jobs.report.inspector.inspection import Inspection, form
from jobs.report.inspector.recipes import NAME, command, file_name, plain, recipe_text, suggested_name, write
from jobs.report.text import shown_line
from pipeline.errors import CrawlmillError, RecipeError, UsageError
from pipeline.recipe import Recipe
from pipeline.whatif import Change, Threshold, moved, really, thresholds

PATH = "/thresholds"

OFF = "off"
"""Value of a bound that is switched off; in a form the field that names such bounds."""

WRITTEN = "written"
"""The field that names the recipe that was written last."""

OURS = (OFF, WRITTEN)

MOST_URLS = 10_000
"""Addresses of pages that are remembered."""

LONGEST = 160
"""Characters that are shown of an address."""

_loading = Lock()


def page(request: Request) -> Response:
    """The page; a form that was sent is led to the address that says the same in fewer words."""
    inspection: Inspection = request.app.state.inspection
    if not inspection.tables.has("ledger"):
        return inspection.page(request, "thresholds.html", dials=None)
    asked = request.query_params.multi_items()
    moves, problems = asked_moves(asked, inspection.recipe)
    written = request.query_params.get(WRITTEN, "")
    wanted = [*state(moves, inspection.recipe), *([(WRITTEN, written)] if written else [])]
    if not problems and sorted(asked) != sorted(wanted):
        return RedirectResponse(PATH + (f"?{urlencode(wanted)}" if wanted else ""), 303)
    return _page(request, moves, problems, written)


def answer(request: Request) -> Response:
    """What the moves in the address would change, as JSON: texts of cells, outlines of histograms, examples."""
    inspection: Inspection = request.app.state.inspection
    moves, problems = asked_moves(request.query_params.multi_items(), inspection.recipe)
    return JSONResponse(_answer(inspection, _dials(request), moves, problems))


def download(request: Request) -> Response:
    """The recipe with the bounds that the field `state` moves."""
    inspection: Inspection = request.app.state.inspection
    name, text = _recipe(request, inspection, request.query_params)
    headers = {"content-disposition": f'attachment; filename="{name}.yaml"'}
    return Response(text, media_type="application/yaml", headers=headers)


def save(request: Request) -> Response:
    """Writes that recipe into the run folder."""
    inspection: Inspection = request.app.state.inspection
    fields = form(request)
    moves, problems = asked_moves(_state_of(fields), inspection.recipe)
    try:
        name, text = _recipe(request, inspection, fields)
        write(inspection.run, name, text, replace=fields.get("replace") == "yes")
    except CrawlmillError as error:
        status = 400 if isinstance(error, UsageError | RecipeError) else 500
        return _page(request, moves, [*problems, str(error)], "", status, fields.get("name", ""))
    query = urlencode([*state(moves, inspection.recipe), (WRITTEN, name)])
    return RedirectResponse(f"{PATH}?{query}#recipe", 303)


routes = [
    Route(PATH, page),
    Route(f"{PATH}/answer", answer),
    Route(f"{PATH}/recipe.yaml", download),
    Route(f"{PATH}/recipe", save, methods=["POST"]),
]


def asked_moves(asked: Iterable[tuple[str, str]], recipe: Recipe) -> tuple[dict[str, float | None], list[str]]:
    """The moves that an address or a form asks for, and what of it cannot be."""
    known = {threshold.key: threshold for threshold in thresholds(recipe)}
    moves: dict[str, float | None] = {}
    problems = []
    off = set()
    for key, text in asked:
        if key == OFF:
            off.add(text)
        if key in OURS:
            continue
        try:
            if key not in known:
                raise RecipeError(f"this run's recipe has no bound {shown_line(key)[:LONGEST]}; it was left out")
            if text == OFF:
                off.add(key)
                continue
            try:
                value = float(text)
            except ValueError:
                raise RecipeError(f"{key}: {shown_line(text)[:LONGEST] or 'nothing'!r} is not a number") from None
            moves |= really({key: value}, recipe)
        except RecipeError as error:
            problems.append(str(error))
    for key in sorted(off):
        try:
            moves |= really({key: None}, recipe)
        except RecipeError as error:
            problems.append(shown_line(str(error))[:LONGEST])
    return really(moves, recipe), problems


def state(moves: Mapping[str, float | None], recipe: Recipe) -> list[tuple[str, str]]:
    """The moves as fields of an address."""
    return [(key, OFF if value is None else plain(value)) for key, value in really(moves, recipe).items()]


def _state_of(fields: Mapping[str, str]) -> list[tuple[str, str]]:
    """The fields of an address that a form has in one field of its own."""
    return parse_qsl(fields.get("state", ""), keep_blank_values=True)


def _dials(request: Request) -> Dials:
    """The run's dials, read once."""
    with _loading:
        dials: Dials | None = getattr(request.app.state, "dials", None)
        if dials is None:
            inspection: Inspection = request.app.state.inspection
            dials = request.app.state.dials = load(inspection.tables, inspection.recipe)
        return dials


def _recipe(request: Request, inspection: Inspection, fields: Mapping[str, str]) -> tuple[str, str]:
    name = fields.get("name", "")
    file_name(name)
    moves, problems = asked_moves(_state_of(fields), inspection.recipe)
    if problems:
        raise UsageError("; ".join(problems))
    dials = _dials(request)
    change = dials.whatif.evaluate(moves)
    about = "about " if dials.scale > 1 else ""
    prediction = (
        f"Predicted: {about}{dials.pages(change.kept):,} pages stay, {dials.pages(change.lost):,} go, "
        f"{dials.pages(change.passing):,} newly pass the rules and are still to be compared."
    )
    return name, recipe_text(inspection.run, moves, name, prediction)


def _page(
    request: Request,
    moves: Mapping[str, float | None],
    problems: list[str],
    written: str,
    status: int = 200,
    name: str = "",
) -> Response:
    inspection: Inspection = request.app.state.inspection
    recipe = inspection.recipe
    dials = _dials(request)
    groups: dict[str, list[Dial]] = {}
    for dial in dials.dials:
        groups.setdefault(dial.group, []).append(dial)
    is_written = bool(NAME.fullmatch(written)) and inspection.run.folder.has(file_name(written))
    name = name or (written if is_written else suggested_name(recipe.name))
    return inspection.page(
        request,
        "thresholds.html",
        400 if problems and status == 200 else status,
        dials=dials,
        groups=groups,
        moves=moves,
        state=urlencode(state(moves, recipe)),
        answer=_answer(inspection, dials, moves, problems),
        reasons=_reason_names(dials),
        written=written if is_written else "",
        name=name,
        command=command(inspection.run, "NAME"),
        plain=plain,
        value_text=value_text,
    )


def _reason_names(dials: Dials) -> list[str]:
    """Every reason that a record with text can have."""
    return [*dials.whatif.names, *dials.whatif.later_reasons]


def _answer(
    inspection: Inspection, dials: Dials, moves: Mapping[str, float | None], problems: list[str]
) -> dict[str, Any]:
    recipe = inspection.recipe
    problems = list(problems)
    try:
        moved(recipe, moves)
    except RecipeError as error:
        problems.append(str(error))
    change = dials.whatif.evaluate(moves)
    was = dials.whatif.was_kept
    at = {threshold.key: threshold for threshold in dials.whatif.thresholds}
    return {
        "problems": problems,
        "cells": _cells(dials, change),
        "summary": _summary(dials, change),
        "moved": [
            {"key": key, "text": _move_text(at[key], value), "dial": _dial_name(at[key])}
            for key, value in moves.items()
        ],
        "changes": bool((was != (change.kept | change.passing)).any()),
        "paths": dials.kept_paths(change),
        "examples": _examples(inspection, dials, change, moves),
    }


def _dial_name(threshold: Threshold) -> str:
    return threshold.key if threshold.gate else threshold.rule


def _move_text(threshold: Threshold, value: float | None) -> str:
    end = "at least" if threshold.side == "minimum" else "at most"
    now = "switched off" if value is None else plain(value)
    return f"{_dial_name(threshold)} {end} {plain(threshold.value)} → {now}"


def _cells(dials: Dials, change: Change) -> dict[str, str]:
    was = dials.whatif.was_kept
    now = change.kept | change.passing
    cells = {}
    for name, rows in (("was", was), ("stay", change.kept), ("lost", change.lost), ("passing", change.passing)):
        cells[f"pages.{name}"], cells[f"tokens.{name}"] = f"{dials.pages(rows):,}", f"{dials.n_tokens(rows):,}"
    cells["pages.now"], cells["tokens.now"] = f"{dials.pages(now):,}", f"{dials.n_tokens(now):,}"
    cells["pages.change"] = _signed(dials.pages(now) - dials.pages(was))
    cells["tokens.change"] = _signed(dials.n_tokens(now) - dials.n_tokens(was))
    for rule in dials.whatif.names:
        for kind, counts, old in (("hits", change.hits, dials.base.hits), ("sole", change.sole, dials.base.sole)):
            cells[f"{kind}.{rule}"] = f"{dials.scaled(counts[rule]):,}"
            cells[f"{kind}.was.{rule}"] = f"{dials.scaled(old[rule]):,}"
    for reason in _reason_names(dials):
        before, after = (dials.scaled(counts.get(reason, 0)) for counts in (dials.base.reasons, change.reasons))
        cells[f"reason.{reason}"] = f"{after:,}"
        cells[f"reason.was.{reason}"] = f"{before:,}"
        cells[f"reason.change.{reason}"] = _signed(after - before)
    return cells


def _signed(number: int) -> str:
    return f"{number:+,}".replace("-", "−") if number else "0"


def _summary(dials: Dials, change: Change) -> str:
    """The answer in one sentence, for whoever listens to it."""
    was, now = dials.pages(dials.whatif.was_kept), dials.pages(change.kept | change.passing)
    about = "About " if dials.scale > 1 else ""
    return (
        f"{about}{now:,} pages would be kept, {was:,} were: {dials.pages(change.lost):,} newly dropped, "
        f"{dials.pages(change.passing):,} newly passing and not yet compared."
    )


def _examples(
    inspection: Inspection, dials: Dials, change: Change, moves: Mapping[str, float | None]
) -> list[dict[str, str]]:
    chosen = dials.examples(change)
    ids = [dials.ids[example.row].as_py() for example in chosen]
    urls = _urls(inspection, dials, ids)
    return [
        {
            "id": doc_id,
            "way": "newly dropped" if example.way == "lost" else "newly passing",
            "kind": example.way,
            "url": shown_line(urls[doc_id] or "(no address)")[:LONGEST],
            "why": _why(dials, example, moves if example.way == "lost" else {}),
        }
        for example, doc_id in zip(chosen, ids, strict=True)
    ]


def _urls(inspection: Inspection, dials: Dials, ids: list[str]) -> dict[str, str | None]:
    """The addresses of some pages. While a bound is moved they are mostly those of the answer before."""
    unknown = [doc_id for doc_id in ids if doc_id not in dials.urls]
    if unknown:
        marks = ", ".join("?" for _ in unknown)
        query = f"SELECT doc_id, min(url) AS url FROM ledger WHERE doc_id IN ({marks}) GROUP BY doc_id"
        if len(dials.urls) > MOST_URLS:
            dials.urls.clear()
        dials.urls.update({row["doc_id"]: row["url"] for row in inspection.tables.rows(query, unknown)})
    return {doc_id: dials.urls.get(doc_id) for doc_id in ids}


def _why(dials: Dials, example: Example, moves: Mapping[str, float | None]) -> str:
    """The rule that drops a page from now on, or did in the run, with the value that the page has and the bound."""
    whatif = dials.whatif
    ends = [end for end in whatif.thresholds if end.rule == example.rule]
    language = whatif.language(example.row)
    if example.rule == "gates.language":
        own = [end for end in ends if end.key == f"gates.language.{language}"]
        if not own:
            return f"{example.rule}: {language or 'unknown'} is not kept"
        ends = own
    value = whatif.values[ends[0].signal][example.row] if ends else float("nan")
    asked = []
    for end in ends:
        bound = moves.get(end.key, end.value)
        if bound is not None:
            asked.append(f"{'at least' if end.side == 'minimum' else 'at most'} {plain(bound)}")
    measured = "no value" if value != value else value_text(value)
    told = "the recipe's bound was" if example.way == "passing" else "the bound is now"
    return f"{example.rule}: {measured}, {told} {' and '.join(asked)}"
