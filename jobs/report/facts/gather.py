"""Collects what the report of a run shows, whatever became of the run.

Exact counts come from manifests. What reads rows reads at most MOST_ROWS of the ledger, and excerpts come from at most
MOST_TEXT_BYTES of text, so that the report of a crawl of billions of pages takes a minute or two and 1.7 GB.
"""

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from jobs import locks, log, observe
from jobs.funnel import Step, funnel
from jobs.report.facts import (
    About,
    Asked,
    Attempt,
    Facts,
    Problem,
    Sampled,
    as_json,
    extraction,
    rules,
    scores,
    shapes,
    stages,
)
from jobs.report.facts.funnel import decided_funnel, text_bytes_per_char, undecided_funnel
from jobs.report.facts.reasons import Examples, reasons
from jobs.report.facts.rows import LEAST_CANDIDATES, Note, Rows, decided_rows, ledger_rows, shown, undecided_rows
from jobs.report.facts.texts import Texts
from jobs.run import STAGES, check_inputs
from jobs.runs import Run, existing_run
from pipeline.curation import TOO_PERSONAL
from pipeline.errors import CrawlmillError, InputError
from pipeline.recipe import Recipe

Value = TypeVar("Value")

MOST_INPUTS = 10

MOST_PROBLEMS = 3


class Gathering:
    """Makes parts of the report one by one: what goes wrong with one is noted, and the others are made."""

    def __init__(self) -> None:
        self._problems: dict[str, list[str]] = {}

    def note(self, part: str, why: str) -> None:
        """Notes a problem, once."""
        why = shown(log.masked(why)) or ""
        noted = self._problems.setdefault(part, [])
        if why not in noted:
            noted.append(why)

    @property
    def problems(self) -> list[Problem]:
        """What was noted: of each part the first few."""
        found = []
        for part, noted in self._problems.items():
            found += [Problem(part, why) for why in noted[:MOST_PROBLEMS]]
            if len(noted) > MOST_PROBLEMS:
                found.append(Problem(part, f"and {len(noted) - MOST_PROBLEMS:,} more like these"))
        return found

    def make(self, part: str, empty: Value, work: Callable[[], Value]) -> Value:
        """What `work` gives; `empty` where it cannot be made."""
        try:
            return work()
        except CrawlmillError as error:
            self.note(part, str(error))
        except Exception as error:  # a report says what it lacks: it must not fail a run that is done
            self.note(part, f"{type(error).__name__}: {error}")
        return empty

    def many(self, part: str, work: Callable[[], list[Value]]) -> list[Value]:
        """The same of a list, which is empty where it cannot be made."""
        return self.make(part, [], work)


def gather(run: Run, *, seed: int = 0) -> Facts:
    """Everything that the report of a run shows. `seed` chooses other examples and another sample of texts.

    Never raises for what the run folder holds or lacks: that is in `problems`.
    """
    work = Gathering()
    told = stages.crawl()
    per_token = float(told["bytes_per_token"])
    how = (
        f"tokens are estimated as UTF-8 bytes of extracted text by {per_token:g} ({told['bytes_per_token_source']}); those "
        "of other languages, of code and of other tokenizers differ"
    )
    measures = work.make("about", run, lambda: _measures(run))
    nothing: tuple[dict[str, Any] | None, dict[str, Any]] = (None, {})
    now, metrics = work.make("stages", nothing, lambda: observe.progress_of(run))
    decided = run.is_done("curate")
    rows = work.make("ledger" if decided else "records", None, lambda: _rows(run, measures, work.note, seed))
    per_char = work.make("funnel", 1.0, lambda: text_bytes_per_char(measures, rows))
    steps = work.many("funnel", lambda: funnel(run)) if decided else []
    unknown: tuple[str, str | None] = ("unfinished", None)
    outcome, error = work.make("about", unknown, lambda: _outcome(run, now))

    if decided:
        fun = work.make("funnel", None, lambda: decided_funnel(run, rows, per_char, per_token, how))
    else:
        fun = work.make("funnel", None, lambda: undecided_funnel(measures, rows, per_token, how))
    by_name = {step.name: step for step in steps}
    bounded = work.many(
        "rules", lambda: rules.rules(run.recipe, rows, by_name if decided else None, per_char / per_token)
    )
    signals = work.many("signals", lambda: rules.signals(run.recipe, rows))
    shown = work.many("breakdowns", lambda: shapes.breakdowns(rows) if rows is not None else [])
    texts: Texts | None = None
    given: list[Any] = []
    kinds: dict[tuple[str, str], list[int]] = {}
    examples: Examples | None = None
    if rows is not None:
        asked = work.many("rules", lambda: rules.asked(run.recipe, rows))
        texts = work.make("texts", None, lambda: Texts(measures, run.recipe, work.note, seed))
        kinds = work.make("extraction", {}, lambda: extraction.error_rows(rows))
        if texts is not None:
            chosen = texts
            picks = extraction.error_picks(kinds)
            examples = work.make("extraction", None, lambda: Examples(run, rows, asked, chosen, work.note, picks))
            todo = steps if decided else _so_far(rows)
            sources = work.many("reasons", lambda: _sources(run, measures, rows, chosen, work.note))
            given = work.many("reasons", lambda: reasons(run, sources, todo, asked, chosen, work.note, seed))
    found = rows
    about = _about(run, measures, work, rows, texts, outcome, error)
    done = work.many("stages", lambda: stages.stages(run, STAGES, now, metrics, outcome, about.n_records))
    return Facts(
        about,
        fun,
        bounded,
        signals,
        given,
        shown,
        work.make(
            "duplicates",
            None,
            lambda: shapes.duplicates(run, found, _reasons(steps), work.note) if found and decided else None,
        ),
        work.make("classifiers", None, lambda: scores.classifiers(run.recipe, found if decided else None, work.note)),
        work.make(
            "personal",
            None,
            lambda: shapes.personal(run, found, _reasons(steps).get(TOO_PERSONAL, 0)) if found and decided else None,
        ),
        work.make("contamination", None, lambda: extraction.contamination(run)),
        work.make("extraction", None, lambda: extraction.extraction(run, measures, found, kinds, examples, work.note)),
        done,
        work.make("costs", None, lambda: stages.costs(run, done, about.n_records, about.n_kept, about.n_curated_bytes)),
        work.problems,
    )


def _measures(run: Run) -> Run:
    """The run that read the inputs. Raises UsageError where it is gone."""
    folder = run.info.get("measures")
    return existing_run(folder, run.recipe) if folder else run


def _rows(run: Run, measures: Run, note: Note, seed: int) -> Rows | None:
    """The rows that figures are reckoned from; None where there are none. What everything needs is read, so that a ledger
    that is damaged is told of once. Raises StorageError."""
    rows = ledger_rows(run, note) if run.is_done("curate") else undecided_rows(measures, note, seed)
    whole = rows is not None and rows.n and len(rows.ids) == len(rows.kept) == len(rows.hits.counts)
    return rows if whole else None


def _sources(run: Run, measures: Run, rows: Rows, texts: Texts, note: Note) -> list[Rows]:
    """Rows that examples are drawn from, the best first."""
    if rows.decided and rows.estimated and int(texts.has(rows.ids).sum()) < LEAST_CANDIDATES:
        again = decided_rows(run, measures, texts.parts, note)
        return [rows] if again is None else [again, rows]
    return [rows]


def _so_far(rows: Rows) -> list[Step]:
    """Reasons of records that were turned away before they were decided."""
    return [
        Step(
            n,
            rows.scaled(len(rows.reasons.by(n))),
            rows.scaled(len(rows.hits.by(n))),
            rows.scaled(len(rows.hits.alone(n))),
            0,
        )
        for n in rows.reasons.names
    ]


def _reasons(steps: list[Step]) -> dict[str, int]:
    return {step.name: step.decided for step in steps}


def _outcome(run: Run, now: dict[str, Any] | None) -> tuple[str, str | None]:
    """What became of the run, and the error it failed with."""
    attempts = run.info.get("attempts") or []
    last = attempts[-1] if attempts else {}
    if last.get("outcome") == "failed":
        return "failed", last.get("error")
    if last.get("outcome") == "killed" or (attempts and last.get("ended") is None and not _lives(run)):
        return "killed", None
    if attempts and last.get("ended") is None:
        # The process that works at a run makes its report when all else is done.
        meter = observe.current()
        ours = meter is not None and meter.run.folder.path == run.folder.path
        if not (ours and run.is_done(STAGES[-1])):
            return "going on", None
    if "measures" not in run.info:
        try:
            check_inputs(run)
        except InputError as error:  # all else is done: the command failed, and says so
            return "failed", str(error)
    return ("done" if run.is_done(STAGES[-1]) else "unfinished"), None


def _lives(run: Run) -> bool:
    """Whether a process holds the folder; of one on another machine it is believed."""
    meter = observe.current()
    if meter is not None and meter.run.folder.path == run.folder.path:
        return True
    holder = run.folder.read_json(locks.NAME)
    if not isinstance(holder, dict):
        return False
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(holder["pid"]), 0)
    except PermissionError:
        return True
    except (KeyError, ValueError, TypeError, OSError):
        return False
    return True


def _about(
    run: Run, measures: Run, work: Gathering, rows: Rows | None, texts: Texts | None, outcome: str, error: str | None
) -> About:
    info, recipe = run.info, run.recipe
    inputs = info.get("inputs") or []
    attempts = [
        Attempt(a.get("started"), a.get("ended"), a.get("outcome") or "going on", a.get("error"))
        for a in info.get("attempts") or []
    ]
    if attempts and attempts[-1].outcome == "going on":
        last = attempts[-1]
        attempts[-1] = Attempt(last.started, last.ended, outcome if outcome != "unfinished" else "going on", last.error)
    curated = work.many("about", lambda: run.manifests("curate")) if run.is_done("curate") else []
    extracted = work.many("about", lambda: measures.manifests("extract"))
    read = sum(m.get("tables", {}).get("records", {}).get("rows", 0) for m in extracted)
    outcomes = [m.get("outcomes", {}) for m in curated]
    some = curated != []
    return About(
        log.masked(run.folder.path),
        recipe.name,
        recipe.description,
        info.get("recipe_digest", ""),
        asked_for(recipe),
        info.get("crawlmill", "unknown"),
        info.get("begun_by"),
        len(inputs),
        sum(file.get("size") or 0 for file in inputs),
        [log.masked(file["path"]) for file in inputs[:MOST_INPUTS]],
        attempts[0].started if attempts else info.get("started"),
        attempts[-1].ended if attempts else None,
        outcome,
        error,
        attempts,
        list(STAGES),
        [name for name in STAGES if (run if name in info["stages"] else measures).is_done(name)],
        info.get("measures"),
        info.get("host") or {},
        read if extracted else sum(sum(o.values()) for o in outcomes) if some else None,
        sum(o.get("kept", 0) for o in outcomes) if some else None,
        sum(o.get("error", 0) for o in outcomes) if some else None,
        sum(m.get("words") or 0 for m in curated) if some else None,
        sum(m.get("bytes") or 0 for m in curated) if some else None,
        None if rows is None else Sampled(rows.share, rows.n, _texts(texts)),
    )


def _texts(texts: Texts | None) -> str:
    if texts is None:
        return ""
    if len(texts.parts) == texts.all_parts:
        return "examples are drawn from all texts"
    return f"examples are drawn from the texts of {len(texts.parts):,} of {texts.all_parts:,} parts, chosen at random"


def asked_for(recipe: Recipe) -> list[Asked]:
    """What a recipe asks for, a line each."""
    gates, dedup, score = recipe.gates, recipe.dedup, recipe.score
    lists = [
        f"{kind}: {', '.join(names)}"
        for kind in ("domains", "hosts", "urls", "curated")
        if (names := getattr(gates.url, kind))
    ]
    if gates.url.words is not None:
        lists.append("words in addresses")
    heads = [f"{name} ({head.model})" for name, head in score.heads.items()]
    heads += ["word lists"] if score.listed_words else []
    heads += ["code and mathematics"] if score.code_math else []
    languages = ", ".join(f"{code} from {least:g}" for code, least in gates.language.keep.items()) or "all"
    methods = [name for name in ("url", "exact", "lines", "paragraphs", "minhash") if getattr(dedup, name) is not None]
    leaks = recipe.decontaminate
    lines = [
        ("inputs", f"{recipe.inputs.format} of source {recipe.source}"),
        ("addresses turned away", "; ".join(lists)),
        ("languages", f"{languages}; at least {gates.language.script:g} of letters in their scripts"),
        ("extraction", recipe.extraction.engine if recipe.inputs.format == "archive" else ""),
        (
            "rules",
            ", ".join(
                f"{name} ({_of(group.dialect, len(group.resolve().bounds))})" for name, group in recipe.rules.items()
            ),
        ),
        ("scores", ", ".join(heads)),
        ("duplicates", ", ".join(methods)),
        ("decontamination", f"{', '.join(b.name for b in leaks.benchmarks)}; {leaks.action}" if leaks.looks else ""),
        ("personal data", f"{', '.join(recipe.pii.mask)}; {recipe.pii.how}" if recipe.pii.mask else ""),
    ]
    return [Asked(what, words) for what, words in lines if words]


def _of(dialect: str | None, n: int) -> str:
    return f"{dialect}, {n} bounds" if dialect else f"{n} bounds"


__all__ = ["as_json", "gather"]
