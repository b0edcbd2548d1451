"""How pages became text, and what could not be read; benchmark items that were found."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.quarantine import summary as put_aside
from jobs.report.facts import (
    Benchmark,
    Contamination,
    Count,
    DamagedFile,
    ErrorKind,
    Extraction,
    Match,
    PutAside,
)
from jobs.report.facts.reasons import Examples, Pick
from jobs.report.facts.rows import Note, Rows, parts_of, shown, strings
from jobs.report.facts.texts import masked
from jobs.runs import Run, file_accounts
from pipeline.contamination.proof import summary
from pipeline.errors import StorageError
from pipeline.recipe import Recipe

TOP = 20

MOST_KINDS = 30
"""Kinds of errors that are shown."""

ERROR_EXAMPLES = 3
"""Of each kind."""

MOST_FILES = 50
"""Damaged files that are shown."""

MOST_MATCHES = 5
"""Items of each benchmark that are shown: those in most pages."""

ACCOUNTS = 1_000
"""Parts whose accounts of skipped records are read at most."""

_SLOW = "blocks"
"""The engine that the cascade asks where its fast one is not enough."""

_VARYING = re.compile(r"0x[0-9a-f]+|\d+(?:[.,]\d+)*|'[^']*'|\"[^\"]*\"|https?://\S+|(?:/[\w.\-]+){2,}")


def message_kind(message: str) -> str:
    """A message without what is of the one record: numbers, quotations, addresses, paths."""
    return _VARYING.sub("…", message)[:200]


def error_rows(rows: Rows) -> dict[tuple[str, str], list[int]]:
    """Rows of errors by reason and kind of message, the most frequent first."""
    at = rows.failed.nonzero()[0]
    if not len(at):
        return {}
    told = rows.read(["reason", "error"]).take(pa.array(at))
    kinds: dict[tuple[str, str], list[int]] = {}
    for row, reason, error in zip(
        at.tolist(), strings(told.column("reason")), strings(told.column("error")), strict=True
    ):
        kinds.setdefault((shown(reason) or "", message_kind(error or "")), []).append(row)
    ranked = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    return dict(ranked[:MOST_KINDS])


def error_picks(kinds: Mapping[tuple[str, str], list[int]]) -> list[Pick]:
    """Rows to show of each kind, the first by id."""
    return [Pick(reason, at[:ERROR_EXAMPLES], [], "") for (reason, _), at in kinds.items()]


def extraction(
    run: Run,
    measures: Run,
    rows: Rows | None,
    kinds: Mapping[tuple[str, str], list[int]],
    examples: Examples | None,
    note: Note,
) -> Extraction | None:
    """How pages became text. `measures` is the run that read the inputs."""
    manifests = measures.manifests("extract")
    if not manifests and rows is None:
        return None
    engines = Counter[str]()
    charsets, flaws, types = Counter[str](), Counter[str](), Counter[str]()
    errors = []
    if rows is not None:
        told = rows.read(["engine", "engine_version", "charset", "flaws", "record_type"])
        names, versions = (strings(told.column(name)) for name in ("engine", "engine_version"))
        engines.update(f"{n} {v or ''}".strip() for n, v in zip(names, versions, strict=True) if n)
        charsets.update(c for c in strings(told.column("charset")) if c)
        types.update(t for t in strings(told.column("record_type")) if t)
        if not pa.types.is_null(told.column("flaws").type):
            flaws.update(f for f in strings(pc.list_flatten(told.column("flaws").combine_chunks())) if f)
        if examples is not None:
            errors = [
                ErrorKind(reason, message, rows.scaled(len(at)), [examples.of(r, reason) for r in at[:ERROR_EXAMPLES]])
                for (reason, message), at in kinds.items()
            ]
    escalated = None
    if run.recipe.extraction.engine == "cascade" and rows is not None:
        escalated = rows.scaled(sum(n for name, n in engines.items() if name.split(" ")[0] == _SLOW))
    skipped, estimated = _skipped(measures, note)
    return Extraction(
        run.recipe.extraction.engine,
        _counts(engines, rows),
        escalated,
        _counts(charsets, rows),
        _counts(flaws, rows),
        _counts(types, rows),
        skipped,
        errors,
        _damaged(measures, manifests),
        _quarantined(measures, run),
        sum(m.get("text_bytes") or 0 for m in manifests) if manifests else None,
        estimated or (rows is not None and rows.estimated),
    )


def _counts(found: Counter[str], rows: Rows | None) -> list[Count]:
    ranked = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    most = [Count(shown(name) or "", n if rows is None else rows.scaled(n)) for name, n in ranked[:TOP]]
    rest = sum(n for _, n in ranked[TOP:])
    return [*most, Count("others", rest if rows is None else rows.scaled(rest))] if rest else most


def _skipped(run: Run, note: Note) -> tuple[list[Count], bool]:
    """Records that hold no page by type; of many parts some are read and scaled up."""
    parts = parts_of(run, 0)
    found = Counter[str]()
    read = 0
    for name, n, _ in parts[:ACCOUNTS]:
        try:
            table = run.folder.read_table(f"inputs/part-{name}.parquet", ["skipped_types"])
        except StorageError as error:
            note("extraction", str(error))
            continue
        read += n
        for types in table.column("skipped_types").to_pylist():
            found.update({str(kind): int(count or 0) for kind, count in types or ()})
    factor = sum(n for _, n, _ in parts) / read if read else 1.0
    ranked = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Count(name, round(n * factor)) for name, n in ranked if n], len(parts) > ACCOUNTS


def _damaged(run: Run, manifests: Sequence[dict[str, Any]]) -> list[DamagedFile]:
    problems = {path: why for m in manifests for path, why in m.get("unreadable", {}).items()}
    problems |= {i["path"]: i["problem"] for i in run.info["inputs"] if i.get("problem")}
    found = [
        DamagedFile(f.path, f.read, f.errors, f.lost, f.size, problems.pop(f.path, None))
        for f in file_accounts(run)[:MOST_FILES]
    ]
    left = max(0, MOST_FILES - len(found))
    return found + [DamagedFile(path, 0, 0, 0, 0, why) for path, why in sorted(problems.items())[:left]]


def _quarantined(*runs: Run) -> list[PutAside]:
    found: dict[str, Any] = {}
    for run in runs:
        found |= put_aside(run.folder)
    return [PutAside(s, f["parts"], f["records"], list(f["places"])) for s, f in sorted(found.items())]


ITEMS = "benchmark_items/items.parquet"


def contamination(run: Run) -> Contamination | None:
    """What decontamination found; None where nothing was looked for, or not yet. Raises StorageError."""
    options = run.recipe.decontaminate
    if not options.looks or not run.is_done("decontaminate"):
        return None
    items = run.folder.read_table(ITEMS)
    counts = run.manifests("decontaminate")
    rows = [Benchmark(name=row.pop("benchmark"), **row) for row in summary(items, counts)]
    return Contamination(
        options.mode, options.action, sum(m.get("searched") or 0 for m in counts), rows, _matches(items, run.recipe)
    )


def _matches(items: pa.Table, recipe: Recipe) -> list[Match]:
    found = items.filter(pc.and_(pc.greater(items.column("n_pages"), 0), pc.invert(items.column("decoy"))))
    found = found.filter(pc.not_equal(found.column("status"), "duplicate"))
    found = found.sort_by([("n_pages", "descending"), ("best_score", "descending"), ("item", "ascending")])
    taken: Counter[str] = Counter()
    made = []
    for name, row in zip(found.column("benchmark").to_pylist(), range(found.num_rows), strict=True):
        taken[name] += 1
        if taken[name] > MOST_MATCHES:
            continue
        (told,) = found.slice(row, 1).to_pylist()
        text = told["excerpt"] or ""
        marks = [(m["start"], m["end"], "match") for m in told["marks"] or ()]
        made.append(
            Match(
                name,
                told["item"],
                told["best_score"],
                told["n_pages"],
                told["best_doc_id"],
                told["best_url"],
                told["text"] or "",
                masked([text], [None], recipe)[0].excerpt(marks, len(text) + 1)[0],
            )
        )
    return sorted(made, key=lambda m: (m.benchmark, -m.n_pages, -(m.score or 0), m.item))
