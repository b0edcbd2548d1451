"""Every reason of a run with random drops and keeps: what was measured, and the part of the page that offends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.funnel import Step
from jobs.report.facts import Beside, Example, Measured, Piece, Reason
from jobs.report.facts.funnel import Grouping
from jobs.report.facts.rows import Note, Rows, family, order, shown, strings
from jobs.report.facts.rules import Asked
from jobs.report.facts.scores import sentence_threshold
from jobs.report.facts.texts import Marks, Text, Texts, differing
from jobs.runs import Run
from pipeline.curation import SAME_RECORD, TOO_PERSONAL
from pipeline.errors import StorageError
from pipeline.highlights import offending, pieces, url_parts
from pipeline.rules import Bound

EXAMPLES = 20
"""Drops of each reason, and as many keeps."""

ASKS = {
    "source.damaged": "a stretch of the input could not be read",
    "source.no_text": "the row holds no text",
    "gates.url": "the address is on a list, or holds words of one",
    "gates.http.status": "the status of the response is none that the recipe takes",
    "gates.http.media_type": "the media type is none that the recipe takes",
    "gates.http.content": "the content is not text, whatever the response calls it",
    "gates.size": "the page is larger than the recipe takes",
    "gates.redirect": "the page only leads to another",
    "gates.disambiguation": "the page only tells apart what has one name",
    "gates.code": "the file was generated, or belongs to others",
    "gates.language": "the language is none that the recipe keeps, or not certain enough",
    "gates.script": "too few letters are of scripts that the language is written in",
    "extraction.empty": "no text was found in the page",
    "extraction": "the page could not be parsed",
    "annotate": "measuring the page ended the worker",
    "score.quarantined": "scoring the page ended the worker",
    "score.quality": "its quality is too low",
    "score.nothing_left": "nothing is left when sentences are cut by their score",
    "dedup.nothing_left": "nothing is left when repeated lines are cut",
    "dedup.url": "a newer capture of the same address is kept",
    "dedup.exact": "another page with the same text is kept",
    "dedup.minhash": "another page with nearly the same text is kept",
    "decontaminate.overlap": "it holds an item of a benchmark",
    "decontaminate.pieces": "it falls in too many pieces when benchmark items are cut out",
    "decontaminate.nothing_left": "no piece is long enough when benchmark items are cut out",
    "pii.max_hits": "it holds more personal data than the recipe allows",
    "same_record": "the same capture was read before",
}
"""What each reason but the bounds says."""

_ROW = (
    "doc_id",
    "warc_file",
    "warc_offset",
    "outcome",
    "reason",
    "url",
    "title",
    "error",
    "http_status",
    "media_type",
    "language",
    "language_score",
    "duplicate_of",
    "similarity",
    "contamination",
    "rule_hits",
)


@dataclass(frozen=True)
class Pick:
    """Rows that were drawn for a reason."""

    reason: str
    drops: list[int]
    keeps: list[int]
    keeps_are: str


def reasons(
    run: Run,
    sources: Sequence[Rows],
    steps: Sequence[Step],
    asked: Sequence[Asked],
    texts: Texts,
    note: Note,
    seed: int = 0,
) -> list[Reason]:
    """Every reason of the ledger, in the funnel's order. Examples of each come from the first source that has any."""
    picks: list[list[Pick]] = [[] for _ in sources]
    showing = [texts.has(rows.ids) & rows.has_text for rows in sources]
    group_of = Grouping(run.recipe)
    chosen = []
    for step in steps:
        deciding = [i for i, rows in enumerate(sources) if step.name in rows.reasons.names]
        hit = [i for i, rows in enumerate(sources) if step.name in rows.hits.names]
        source = next(iter([*deciding, *hit]), 0)
        pick = _pick(step.name, group_of(step.name), sources[source], asked, showing[source], seed)
        picks[source].append(pick)
        chosen.append((source, pick))
    shows = [Examples(run, rows, asked, texts, note, own) for rows, own in zip(sources, picks, strict=True)]
    made = []
    for step, (source, pick) in zip(steps, chosen, strict=True):
        examples = shows[source]
        made.append(
            Reason(
                step.name,
                examples.group_of(step.name),
                asks(step.name, asked),
                step.decided,
                step.hits,
                step.sole,
                [examples.of(row, step.name) for row in pick.drops],
                [examples.of(row, step.name) for row in pick.keeps],
                pick.keeps_are if pick.keeps else "",
            )
        )
    return made


def asks(reason: str, asked: Sequence[Asked]) -> str:
    """What a reason says, in words or as the bound it is."""
    bounds = [a.bound for a in asked if a.bound.rule == reason and a.language is None]
    if bounds:
        return f"kept where {bounds[0]}"
    at = reason
    while at:
        if at in ASKS:
            return ASKS[at]
        at = at.rpartition(".")[0]
    return ""


def _pick(reason: str, group: str, rows: Rows, asked: Sequence[Asked], with_text: np.ndarray, seed: int) -> Pick:
    """Rows at random: drops that the reason decided, or where it decided none those that it hit; `with_text` says which
    rows have a text to show."""
    decided = rows.reasons.by(reason)
    drops = decided if len(decided) else rows.hits.by(reason)
    # Rather pages with a text to show; but of a reason that few have, all.
    shown = drops[with_text[drops]]
    drops = shown if len(shown) >= min(EXAMPLES, len(drops)) else drops
    kept, what = _keeps(reason, group, rows, asked, with_text)
    return Pick(
        reason,
        _draw(drops, rows, f"{seed} drop {reason}"),
        _draw(kept, rows, f"{seed} keep {reason}"),
        what,
    )


def _keeps(
    reason: str, group: str, rows: Rows, asked: Sequence[Asked], with_text: np.ndarray
) -> tuple[np.ndarray, str]:
    if reason == SAME_RECORD or reason.startswith(("source.", "annotate.", "score.quarantined")):
        return np.zeros(0, np.int64), ""
    if group == "archive":
        return np.flatnonzero(rows.kept), "kept pages"
    kept = rows.kept & with_text
    if group == "deduplication" and "cluster_size" in rows.names:
        compared = kept & rows.column("cluster_size").is_valid().to_numpy()
        return np.flatnonzero(compared), "kept pages that were compared"
    bound = next((a.bound for a in asked if a.bound.rule == reason), None)
    if bound is not None and bound.signal in rows.names:
        there = rows.column(bound.signal).is_valid().to_numpy()
        return np.flatnonzero(kept & there), "kept pages that this was asked of"
    return np.flatnonzero(kept), "kept pages"


def _draw(among: np.ndarray, rows: Rows, key: str) -> list[int]:
    keys = order(rows.ids[among], key)
    return among[np.argsort(keys, kind="stable")[:EXAMPLES]].tolist()


class Examples:
    """What is shown of the rows that were drawn."""

    def __init__(self, run: Run, rows: Rows, asked: Sequence[Asked], texts: Texts, note: Note, picks: Sequence[Pick]):
        self.run, self.asked, self.texts, self.note = run, asked, texts, note
        wanted = sorted({row for pick in picks for row in (*pick.drops, *pick.keeps)})
        self.at = {row: i for i, row in enumerate(wanted)}
        take = pa.array(wanted, pa.int64())
        self.rows = _plain(rows.read(_ROW).take(take))
        signals = sorted({a.bound.signal for a in asked} & set(rows.names))
        self.values = {name: values[wanted] for name, values in rows.batches(signals)}
        self.group_of = Grouping(run.recipe)
        shown = [pick for pick in picks if self.group_of(pick.reason) != "archive"]
        showing = {row for pick in shown for row in (*pick.drops, *pick.keeps)}
        ids = [self.rows[self.at[row]]["doc_id"] for row in sorted(showing)]
        self.keepers = self._keepers(rows)
        self.text: dict[str, Text] = texts.read([i for i in (*ids, *self.keepers) if i])
        self.matches = self._matches(picks)
        self.sentences = self._sentences(picks)
        self.least = {name: sentence_threshold(head) for name, head in run.recipe.score.heads.items()}

    def _keepers(self, rows: Rows) -> dict[str, dict[str, Any]]:
        """The ledger's rows of the pages that the drawn ones gave way to."""
        wanted = sorted({row["duplicate_of"] for row in self.rows if row["duplicate_of"]})
        if not wanted:
            return {}
        at = np.flatnonzero(pc.is_in(rows.column("doc_id"), value_set=pa.array(wanted, pa.string())).to_numpy())
        found = _plain(rows.read(("doc_id", "url", "title")).take(pa.array(at)))
        return {doc_id: {} for doc_id in wanted} | {row["doc_id"]: row for row in found}

    def _matches(self, picks: Sequence[Pick]) -> dict[str, Marks]:
        """What was matched with benchmarks in the drawn pages."""
        drawn = [p for p in picks if p.reason.startswith("decontaminate.")]
        found: dict[str, Marks] = {}
        for row in self._beside_parts("contamination", ["doc_id", "decoy", "spans"], drawn):
            if not row["decoy"]:
                spans = ((span["start"], span["end"], "match") for span in row["spans"] or ())
                found.setdefault(row["doc_id"], []).extend(spans)
        return {doc_id: sorted(marks) for doc_id, marks in found.items()}

    def _sentences(self, picks: Sequence[Pick]) -> dict[tuple[str, str], list[tuple[float, int, int]]]:
        """Sentences that a head scored high, with their scores, in the pages drawn for rules on it."""
        heads = {name for name, head in self.run.recipe.score.heads.items() if head.sentences}
        rules = {a.bound.rule for a in self.asked if self._head(a.bound.signal) in heads}
        found: dict[tuple[str, str], list[tuple[float, int, int]]] = {}
        drawn = [p for p in picks if p.reason in rules]
        for row in self._beside_parts("sentences", ["doc_id", "head", "start", "end", "score"], drawn):
            found.setdefault((row["doc_id"], row["head"]), []).append((row["score"], row["start"], row["end"]))
        return found

    def _counted(self, doc_id: str, head: str, bound: Bound) -> set[tuple[int, int]]:
        """The sentences that a bound on a head is about: those that its share counts, the highest, or all that are known."""
        sentences = self.sentences.get((doc_id, head), [])
        if bound.signal.endswith("_sentence_share"):
            sentences = [s for s in sentences if s[0] >= self.least[head]]
        elif bound.signal.endswith("_max_sentence"):
            sentences = sorted(sentences, key=lambda s: (-s[0], s[1]))[:1]
        return {(start, end) for _, start, end in sentences}

    def _head(self, signal: str) -> str | None:
        """The head that a column of scores is of."""
        heads = self.run.recipe.score.heads
        columns = {f"score_{name}{more}": name for name in heads for more in ("", "_max_sentence", "_sentence_share")}
        return columns.get(signal)

    def _beside_parts(self, table: str, columns: list[str], picks: Sequence[Pick]) -> Iterator[dict[str, Any]]:
        """The rows of a table that are about pages that were drawn."""
        ids = {self.rows[self.at[row]]["doc_id"] for pick in picks for row in (*pick.drops, *pick.keeps)}
        for part in sorted({part for i in ids if i and (part := self.texts.part(i))}):
            try:
                rows = self.run.folder.read_table(f"{table}/part-{part}.parquet", columns)
            except StorageError as error:
                self.note("reasons", str(error))
                continue
            yield from (row for row in rows.to_pylist() if row["doc_id"] in ids)

    def of(self, row: int, reason: str) -> Example:
        """A row as an example of a reason."""
        at = self.at[row]
        told = self.rows[at]
        bounds = [a for a in self.asked if a.bound.rule == reason and a.language in (None, told["language"])]
        text = self.text.get(told["doc_id"] or "")
        keeper = self.text.get(told["duplicate_of"] or "") if reason.startswith("dedup.") else None
        marks, others = self._marks(told, text, reason, bounds), Marks()
        if text is not None and keeper is not None:
            marks, others = differing(text, keeper)
        excerpt, before, after = text.excerpt(marks) if text is not None else ([], False, False)
        if self.group_of(reason) == "archive":
            excerpt, before, after = [], False, False
        return Example(
            told["doc_id"] or "",
            told["warc_file"] or "",
            told["warc_offset"] if told["warc_offset"] is not None else -1,
            told["outcome"] or "undecided",
            shown(told["reason"]),
            self._url(told, reason),
            shown(told["title"]),
            self._measured(at, told, reason, bounds),
            excerpt,
            before,
            after,
            _note(told, reason),
            self._beside(told, reason, keeper, others),
        )

    def _marks(self, told: dict[str, Any], text: Text | None, reason: str, bounds: Sequence[Asked]) -> Marks:
        if text is None:
            return []
        if reason.startswith("decontaminate."):
            return self.matches.get(told["doc_id"], [])
        if reason == TOO_PERSONAL:  # which is masked, and shown as such
            return [(start, end, "offending") for start, end, _ in text.personal]
        found: set[tuple[int, int]] = set()
        for one in bounds:
            head = self._head(one.bound.signal)
            if head is not None:
                found |= self._counted(told["doc_id"], head, one.bound)
                continue
            signal, language = one.bound.signal, told["language"]
            spans = offending(text.text, reason, signal, self.run.recipe, language=language)
            found |= {(span.start, span.end) for span in spans}
        return [(start, end, "offending") for start, end in sorted(found)]

    def _url(self, told: dict[str, Any], reason: str) -> list[Piece]:
        url = shown(told["url"])
        if not url:
            return []
        spans = {
            (span.start, span.end, "offending")
            for hit in told["rule_hits"] or ()
            if hit and family(hit) == reason
            for span in url_parts(url, hit, self.run.recipe)
        }
        return [Piece(*p) for p in pieces(url, sorted(spans))]

    def _measured(self, at: int, told: dict[str, Any], reason: str, bounds: Sequence[Asked]) -> list[Measured]:
        if reason == "gates.language" and not bounds:
            return [Measured("language", told["language"], None, None)]
        made = []
        minhash = self.run.recipe.dedup.minhash
        if reason == "dedup.minhash" and minhash is not None:
            made.append(Measured("similarity", _finite(told["similarity"]), minhash.verify, None))
        for one in bounds:
            values = self.values.get(one.bound.signal)
            value = None if values is None or not np.isfinite(values[at]) else float(values[at])
            name = f"{one.bound.signal} of {told['language']}" if one.language else one.bound.signal
            made.append(Measured(name, value, one.bound.minimum, one.bound.maximum))
        return made

    def _beside(self, told: dict[str, Any], reason: str, text: Text | None, marks: Marks) -> Beside | None:
        if not reason.startswith("dedup.") or not told["duplicate_of"]:
            return None
        keeper = told["duplicate_of"]
        excerpt = text.excerpt(marks)[0] if text is not None else []
        return Beside(keeper, shown(self.keepers.get(keeper, {}).get("url")), _finite(told["similarity"]), excerpt)


def _note(told: dict[str, Any], reason: str) -> str:
    if told["error"]:
        return shown(str(told["error"])) or ""
    if reason == "gates.http.status":
        return f"status {told['http_status']}"
    if reason.startswith(("gates.http.", "gates.size", "gates.content")):
        return f"media type {told['media_type']}"
    if reason.startswith("decontaminate."):
        return ", ".join(f"{c['benchmark']} {c['item']} ({c['score']:.2f})" for c in told["contamination"] or ())
    return ""


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts; texts that are no UTF-8 become readable."""
    texts = [f.name for f in table.schema if pa.types.is_string(f.type)]
    rows = (
        table.drop_columns(texts).to_pylist() if len(texts) < table.num_columns else [{} for _ in range(table.num_rows)]
    )
    for name in texts:
        for row, value in zip(rows, strings(table.column(name)), strict=True):
            row[name] = value
    return rows
