"""The first page: search among a run's pages. All of a search is in the address, so that it can be kept and sent on."""

from dataclasses import fields
from typing import NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from jobs.report.inspector import export
from jobs.report.inspector.inspection import Inspection
from jobs.report.inspector.searcher import FACETS, Counts
from jobs.report.inspector.selection import NONE, OUTCOMES, SORTS, UNDECIDED, Selection, place, read

MOST_LINKS = 12
"""Values of a facet that are shown as links."""


def search(request: Request) -> Response:
    """The search page."""
    inspection: Inspection = request.app.state.inspection
    tables = inspection.tables
    if not tables.has_pages:
        return inspection.page(request, "search.html", nothing=True)
    asked = request.query_params
    known = {field.name for field in fields(Selection)} | {"after", "before"}
    if any(not value.strip() or name not in known for name, value in asked.multi_items()):
        # What a form sends has a parameter for every empty field: addresses are for reading, too.
        kept = {name: value for name, value in asked.items() if value.strip() and name in known}
        return RedirectResponse("/" + (f"?{urlencode(kept)}" if kept else ""), 303)
    selection, problems = read(asked, tables.measures)
    after, before = place(asked.get("after", "")), place(asked.get("before", ""))
    searcher = inspection.searcher
    made, share = searcher.where(selection)
    counts = searcher.counts(selection)
    results = searcher.results(selection, after, before)
    query = selection.query()
    return inspection.page(
        request,
        "search.html",
        nothing=False,
        selection=selection,
        problems=problems,
        results=results,
        counts=counts,
        share=share,
        query=query,
        chosen=[(c.words, "/?" + selection.without(*c.parameters).query()) for c in made],
        facets=_facets(selection, counts),
        choices=_choices(inspection),
        sorts={name: words for name, (_, _, words) in SORTS.items()},
        measures=tables.measures,
        hidden=export.hidden(selection),
        texts=export.TEXTS,
        most_rows=export.MOST_ROWS,
        most_texts=export.MOST_TEXTS,
        recipe_sql=export.recipe(inspection, selection, made),
        more=any(getattr(selection, name) for name in _MORE),
        first_link="/" + (f"?{query}" if query else ""),
        next_link="/?" + selection.query(after=results.after) if results.after else None,
        previous_link="/?" + selection.query(before=results.before) if results.before else None,
    )


_MORE = (
    "host",
    "language",
    "topic",
    "domain",
    "source",
    "dump",
    "type",
    "measure",
    "min",
    "max",
    "cluster",
    "id",
    "exact",
)
"""Fields of the form that are folded away while none of them is used."""


class FacetValue(NamedTuple):
    """One value of a facet: its text, how many have it, and the search that asks for it or no longer does."""

    text: str
    n: int
    link: str
    chosen: bool


def _facets(selection: Selection, counts: Counts) -> list[tuple[str, list[FacetValue], int]]:
    """Title, the most frequent values and the number of others of each facet that has more than one value."""
    made = []
    for name, (_, title) in FACETS.items():
        values = counts.facets[name]
        chosen = getattr(selection, name)
        known = [(value, n) for value, n in values if value is not None]
        if not chosen and (not known or (len(values) < 2 and name != "broken")):
            continue
        listed = []
        for value, n in values[:MOST_LINKS]:
            text = _called(name, value)
            parameter = _parameter(name, value)
            is_chosen = chosen == parameter
            asked = selection.without(name) if is_chosen else selection.having(name, parameter)
            listed.append(FacetValue(text, n, "/?" + asked.query(), is_chosen))
        made.append((title, listed, max(0, len(values) - MOST_LINKS)))
    return made


def _parameter(name: str, value: str | None) -> str:
    return value if value is not None else UNDECIDED if name == "outcome" else NONE


def _called(name: str, value: str | None) -> str:
    if value is not None:
        return value
    return {"outcome": UNDECIDED, "reason": "nothing"}.get(name, "not known")


def _choices(inspection: Inspection) -> dict[str, list[tuple[str, str]]]:
    """What can be chosen in the form, by parameter: value and text with the count over the whole run."""
    everything = inspection.searcher.everything()
    made = {}
    for name, values in everything.facets.items():
        made[name] = [(_parameter(name, value), f"{_called(name, value)} ({n:,})") for value, n in values]
    there = [value for value, _ in made["outcome"]]
    made["outcome"] += [(outcome, outcome) for outcome in OUTCOMES if outcome not in there and inspection.finished]
    return made


routes = [Route("/", search)]
