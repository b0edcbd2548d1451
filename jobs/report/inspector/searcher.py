"""Searches a run: rows of a page of results, how many there are, and how they are spread over facets."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from jobs.report.inspector.queries import Queries
from jobs.report.inspector.selection import TIES, Condition, Place, Selection, beyond, conditions, ordered, quoted
from jobs.report.tables import below
from pipeline.errors import UsageError

PER_PAGE = 50

EXACT_ROWS = 20_000_000
"""Rows that are counted one by one: of a larger run a random sample of so many is."""

MOST_CHOICES = 200
"""Values that a list to choose from has at most, the most frequent ones."""

FACETS = {
    "outcome": ("outcome", "Outcome"),
    "reason": ("reason", "Decided by"),
    "broken": ("", "Rule broken"),
    "language": ("language", "Language"),
    "topic": ("topic", "Topic"),
    "domain": ("domain", "Domain"),
    "type": ("media_type", "Media type"),
    "dump": ("dump", "Crawl"),
    "source": ("source", "Source"),
}
"""Parameters that results are counted by, with column and title."""

_COLUMNS = (
    *TIES,
    "url",
    "title",
    "outcome",
    "reason",
    "error",
    "language",
    "words",
    "quality",
    "topic",
    "cluster",
    "cluster_size",
    "date",
    "rule_hits",
)

Values = list[tuple[str | None, int]]


class Counts(NamedTuple):
    """How many rows a selection has, and how many of each value by facet; of the share of all rows that was counted."""

    total: int
    facets: dict[str, Values]
    share: float

    @property
    def words(self) -> str:
        """How many, in words."""
        pages = "page" if self.total == 1 else "pages"
        return f"{'about ' if self.share < 1 else ''}{self.total:,} {pages}"


@dataclass(frozen=True)
class Hit:
    """A row of the results."""

    row: dict[str, Any]
    link: str
    snippet: list[tuple[str, bool]]
    address: list[tuple[str, bool]]
    measure: float | None


class Results(NamedTuple):
    """A page of results, and where the pages before and after it begin."""

    hits: list[Hit]
    before: str | None
    after: str | None


class Searcher:
    """Answers what the search page asks of one run, and remembers counts: a run does not change."""

    def __init__(self, tables: Queries) -> None:
        self.tables = tables
        self._counted = lru_cache(64)(self._count)

    def where(self, selection: Selection) -> tuple[list[Condition], float]:
        """Conditions of a selection, and the share of the run's text that was searched for its text."""
        if not selection.text:
            return conditions(selection, None), 1.0
        found = self.tables.found(selection.text)
        return conditions(selection, found.table), found.share

    def counts(self, selection: Selection) -> Counts:
        """Counts of a selection."""
        return self._counted(selection.without("sort"))

    def everything(self) -> Counts:
        """Counts of the run."""
        return self.counts(Selection())

    def _count(self, selection: Selection) -> Counts:
        made, _ = self.where(selection)
        sql, values = joined(made)
        share = min(1.0, EXACT_ROWS / max(1, self._rows()))
        if (most := below(share)) is not None:
            sql, values = f"{sql} AND doc_id < $sample", values | {"sample": most}
        columns = {name: column for name, (column, _) in FACETS.items() if column}
        listed = ", ".join(columns.values())
        sets = ", ".join(f"({column})" for column in columns.values())
        query = (
            f"SELECT grouping({listed}) AS g, {listed}, count(*) AS n FROM pages WHERE {sql} "
            f"GROUP BY GROUPING SETS ({sets}, ()) "
            f"QUALIFY row_number() OVER (PARTITION BY g ORDER BY n DESC, {listed}) <= {MOST_CHOICES} "
            f"ORDER BY g, n DESC, {listed}"
        )
        facets: dict[str, Values] = {name: [] for name in FACETS}
        total = 0
        every = (1 << len(columns)) - 1
        bits = {every ^ (1 << (len(columns) - 1 - i)): name for i, name in enumerate(columns)}
        for row in self.tables.rows(query, values):
            n = round(row["n"] / share)
            if row["g"] == every:
                total = n
            else:
                name = bits[row["g"]]
                facets[name].append((row[columns[name]], n))
        broken = (
            "SELECT hit, count(*) AS n FROM (SELECT unnest(list_distinct(list_transform(rule_hits, "
            f"lambda h: split_part(h, ':', 1)))) AS hit FROM pages WHERE {sql}) GROUP BY hit ORDER BY n DESC, hit "
            f"LIMIT {MOST_CHOICES}"
        )
        facets["broken"] = [(row["hit"], round(row["n"] / share)) for row in self.tables.rows(broken, values)]
        return Counts(total, facets, share)

    @lru_cache(1)  # noqa: B019 - one searcher lives as long as the process
    def _rows(self) -> int:
        return int(self.tables.rows("SELECT count(*) AS n FROM pages")[0]["n"])

    def results(self, selection: Selection, after: Place | None = None, before: Place | None = None) -> Results:
        """PER_PAGE rows of a selection: the first ones, or those after or before a row."""
        made, _ = self.where(selection)
        sql, values = joined(made)
        column, falling = selection.order
        back = before is not None
        at = before or after
        if at is not None:
            beyond_sql, key = beyond(column, falling, self._value(column, at), at, back)
            sql, values = f"{sql} AND {beyond_sql}", values | key
        shown = ", ".join(
            (*_COLUMNS, *((quoted(selection.measure),) if selection.measure not in ("", *_COLUMNS) else ()))
        )
        order = ordered(column, falling, back)
        query = f"SELECT {shown} FROM pages WHERE {sql} ORDER BY {order} LIMIT {PER_PAGE + 1}"
        rows = self.tables.rows(query, values)
        more = len(rows) > PER_PAGE
        rows = rows[:PER_PAGE]
        if back:
            rows.reverse()
        snippets = self._snippets(selection, rows)
        hits = [_hit(selection, row, snippets.get((row["doc_id"], row["outcome"] == "kept"), "")) for row in rows]
        first, last = (str(_place(row)) for row in (rows[0], rows[-1])) if rows else (None, None)
        is_first, is_last = (not more, False) if back else (at is None, not more)
        return Results(hits, None if is_first else first, None if is_last else last)

    def _value(self, column: str, at: Place) -> Any:
        if column == TIES[0]:
            return at.doc_id
        query = f"SELECT {quoted(column)} AS v FROM pages WHERE doc_id = $id AND warc_file = $file AND warc_offset = $offset"
        rows = self.tables.rows(query, {"id": at.doc_id, "file": at.file, "offset": at.offset})
        if not rows:
            raise UsageError("there is no such page to go on from; search anew")
        return rows[0]["v"]

    def _snippets(self, selection: Selection, rows: list[dict[str, Any]]) -> dict[tuple[str, bool], str]:
        if not selection.text or not rows:
            return {}
        table = self.tables.found(selection.text).table
        query = (
            f"SELECT doc_id, kept, min(snippet) AS snippet FROM {table} "
            "WHERE doc_id IN (SELECT unnest($ids)) GROUP BY ALL"
        )
        found = self.tables.rows(query, {"ids": [row["doc_id"] for row in rows]})
        return {(row["doc_id"], row["kept"]): row["snippet"] for row in found}


def joined(made: list[Condition]) -> tuple[str, dict[str, Any]]:
    """Conditions as one of SQL, and its parameters."""
    values: dict[str, Any] = {}
    for condition in made:
        values |= condition.values
    return " AND ".join(condition.sql for condition in made) or "true", values


def marked(text: str, wanted: str) -> list[tuple[str, bool]]:
    """`text` cut into pieces, each with whether it is what was looked for, upper and lower case alike."""
    low, wanted = text.lower(), wanted.lower()
    if not wanted or len(low) != len(text):
        return [(text, False)] if text else []
    pieces, at = [], 0
    while (found := low.find(wanted, at)) >= 0:
        pieces += [(text[at:found], False), (text[found : found + len(wanted)], True)]
        at = found + len(wanted)
    return [piece for piece in (*pieces, (text[at:], False)) if piece[0]]


def story_link(at: Place) -> str:
    """Address of the story of a row."""
    return f"/page/{quote(at.doc_id, safe='')}?{urlencode({'file': at.file, 'offset': at.offset}, errors='replace')}"


def _hit(selection: Selection, row: dict[str, Any], snippet: str) -> Hit:
    address = row["url"] or row["title"] or "(no address)"
    return Hit(
        row,
        story_link(_place(row)),
        marked(snippet, selection.text),
        marked(address, selection.address),
        row.get(selection.measure) if selection.measure else None,
    )


def _place(row: Mapping[str, Any]) -> Place:
    return Place(row["doc_id"], row["warc_offset"], row["warc_file"])
