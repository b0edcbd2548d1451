"""What a search asks for: read from the query string of an address, and written back to it, as SQL and as words."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

NONE = "(none)"
"""Stands in a search for what is not known: no language, no dump."""

UNDECIDED = "undecided"
"""The outcome, in a search, of records of a run that has not decided them."""

OUTCOMES = ("kept", "dropped", "error")

MOST_CHARACTERS = 1_000
"""Length of what can be searched for."""

EQUAL = {
    "outcome": "outcome",
    "reason": "reason",
    "language": "language",
    "topic": "topic",
    "source": "source",
    "dump": "dump",
    "type": "media_type",
    "domain": "domain",
    "cluster": "cluster",
}
"""Parameters that ask for one value of a column, with that column."""

SORTS = {
    "id": ("doc_id", False, "id (random order)"),
    "address": ("url", False, "address"),
    "longest": ("words", True, "most words"),
    "shortest": ("words", False, "fewest words"),
    "best": ("quality", True, "highest quality"),
    "worst": ("quality", False, "lowest quality"),
    "newest": ("date", True, "newest"),
    "oldest": ("date", False, "oldest"),
    "copies": ("cluster_size", True, "largest cluster of near-duplicates"),
    "most": ("", True, "measure, highest first"),
    "least": ("", False, "measure, lowest first"),
}
"""Orders of results by their parameter: column ("" is the chosen measure), whether from the highest, and in words."""


class Condition(NamedTuple):
    """One condition of SQL with its parameters, and what it says in words."""

    sql: str
    values: dict[str, Any]
    parameters: tuple[str, ...]
    words: str


@dataclass(frozen=True)
class Selection:
    """What is looked for: fields are parameters of the address, "" where they are not given."""

    address: str = ""
    exact: str = ""
    host: str = ""
    text: str = ""
    outcome: str = ""
    reason: str = ""
    broken: str = ""
    language: str = ""
    topic: str = ""
    source: str = ""
    dump: str = ""
    type: str = ""
    domain: str = ""
    measure: str = ""
    min: str = ""
    max: str = ""
    cluster: str = ""
    id: str = ""
    sort: str = ""

    def without(self, *parameters: str) -> "Selection":
        """The same without some of its conditions."""
        return replace(self, **dict.fromkeys(parameters, ""))

    def having(self, parameter: str, value: str | None) -> "Selection":
        """The same with another condition; None looks for what is not known."""
        return replace(self, **{parameter: NONE if value is None else value})

    def query(self, **more: str) -> str:
        """The query string of the selection, with more parameters."""
        given = {field.name: getattr(self, field.name) for field in fields(self)} | more
        return urlencode({name: value for name, value in given.items() if value}, errors="replace")

    @property
    def order(self) -> tuple[str, bool]:
        """Column that results are sorted by, and whether from the highest."""
        column, falling, _ = SORTS[self.sort or "id"]
        return column or self.measure, falling


def read(parameters: Mapping[str, str], measures: Iterable[str]) -> tuple[Selection, list[str]]:
    """The selection of an address, and what of it could not be understood, in words; that is left out.

    `measures` are the columns that can be bounded: nothing else of a request is ever the name of one.
    """
    given = {field.name: parameters.get(field.name, "").strip() for field in fields(Selection)}
    problems = []
    for name, value in given.items():
        if len(value) > MOST_CHARACTERS:
            problems.append(f"{name}: longer than {MOST_CHARACTERS:,} characters")
            given[name] = ""
    if given["measure"] not in measures:
        if given["measure"]:
            problems.append("measure: this run has none of that name")
        if not given["measure"] and (given["min"] or given["max"]):
            problems.append("at least, at most: choose the measure that they bound")
        given |= {"measure": "", "min": "", "max": ""}
    for name, words in (("min", "at least"), ("max", "at most")):
        if given[name] and _number(given[name]) is None:
            problems.append(f"{words}: not a number")
            given[name] = ""
    if given["sort"] not in SORTS or given["sort"] == "id":
        if given["sort"] not in ("", "id"):
            problems.append("sort: no such order")
        given["sort"] = ""
    if given["sort"] in ("most", "least") and not given["measure"]:
        problems.append("sort: choose the measure to sort by")
        given["sort"] = ""
    if given["outcome"] not in ("", UNDECIDED, *OUTCOMES):
        problems.append("outcome: kept, dropped or error")
        given["outcome"] = ""
    given["exact"] = "1" if given["exact"] and given["address"] else ""
    return Selection(**given), problems


def conditions(selection: Selection, found: str | None) -> list[Condition]:
    """What a row of `pages` must meet. `found` is the table of what the text was found in, where a text is asked for."""
    made: list[Condition] = []

    def add(sql: str, words: str, parameters: tuple[str, ...], **values: Any) -> None:
        made.append(Condition(sql, values, parameters, words))

    if selection.exact:
        add("url = $address", f"address is {selection.address}", ("address", "exact"), address=selection.address)
    elif selection.address:
        sql = "contains(lower(url), lower($address))"
        add(sql, f"address has {selection.address}", ("address",), address=selection.address)
    if selection.host:
        host = selection.host.lower().strip(".")
        sql = "(host = $host OR ends_with(host, '.' || $host))"
        add(sql, f"host is or ends with {host}", ("host",), host=host)
    if selection.text and found is not None:
        # A kept page is looked for in its curated text, any other in what was extracted.
        sql = f"(doc_id, coalesce(outcome = 'kept', false)) IN (SELECT (doc_id, kept) FROM {found})"
        add(sql, f"text has {selection.text}", ("text",))
    for name, column in EQUAL.items():
        value = getattr(selection, name)
        if value == NONE or (name == "outcome" and value == UNDECIDED):
            add(f"{column} IS NULL", f"{name} is not known" if value == NONE else value, (name,))
        elif value:
            add(f"{column} = ${name}", f"{name} is {value}", (name,), **{name: value})
    if selection.broken:
        sql = "len(list_filter(rule_hits, lambda hit: hit = $broken OR split_part(hit, ':', 1) = $broken)) > 0"
        add(sql, f"broke {selection.broken}", ("broken",), broken=selection.broken)
    if selection.measure:
        column = quoted(selection.measure)
        bounds = {"min": (">=", "at least"), "max": ("<=", "at most")}
        for name, (sign, words) in bounds.items():
            bound = _number(getattr(selection, name))
            if bound is not None:
                text = f"{selection.measure} {words} {getattr(selection, name)}"
                add(f"{column} {sign} ${name}", text, (name,), **{name: bound})
    if selection.id:
        add("doc_id = $id", f"id is {selection.id}", ("id",), id=selection.id.lower())
    return made


class Place(NamedTuple):
    """Which row of the ledger: several may have one id, where one record was read twice."""

    doc_id: str
    offset: int
    file: str

    def __str__(self) -> str:
        return f"{self.doc_id}:{self.offset}:{self.file}"


def place(text: str) -> Place | None:
    """A place as it stands in an address; None where it is none."""
    doc_id, _, rest = text.partition(":")
    offset, _, file = rest.partition(":")
    is_place = doc_id and file and offset.isascii() and offset.isdigit() and len(offset) < 19
    return Place(doc_id, int(offset), file) if is_place else None


TIES = ("doc_id", "warc_file", "warc_offset")
"""What rows that are alike in what they are sorted by are sorted by further; no two rows have all of it."""


def ordered(column: str, falling: bool, back: bool = False) -> str:
    """An ORDER BY by a column, where unknown values are last, and then by TIES; `back` the other way round."""
    way = "DESC" if falling != back else "ASC"
    ties = ", ".join(f"{tie} {'DESC' if back else 'ASC'}" for tie in TIES)
    return f"{quoted(column)} {way} NULLS {'FIRST' if back else 'LAST'}, {ties}"


def beyond(column: str, falling: bool, value: Any, where: Place, back: bool = False) -> tuple[str, dict[str, Any]]:
    """The condition of rows that come after the row at `where`, which has `value`; before it with `back`."""
    name = quoted(column)
    ties = f"({', '.join(TIES)}) {'<' if back else '>'} ($key_id, $key_file, $key_offset)"
    values: dict[str, Any] = {"key_id": where.doc_id, "key_file": where.file, "key_offset": where.offset}
    if column == TIES[0]:
        return ties, values
    if value is None:
        return (f"({name} IS NOT NULL OR {ties})" if back else f"({name} IS NULL AND {ties})"), values
    sign = "<" if falling != back else ">"
    unknown = "" if back else f" OR {name} IS NULL"
    return f"({name} {sign} $key OR ({name} = $key AND {ties}){unknown})", values | {"key": value}


def quoted(name: str) -> str:
    """The name of a column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A value in SQL that is shown, and never run here."""
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"


def _number(text: str) -> float | None:
    """None also for what is not finite: nothing can be compared with it."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
