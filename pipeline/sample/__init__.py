"""The project's own small synthetic web, and the truth about it.

`write_sample(folder)` writes 1,600 content records into eight archive files:

| file | what |
|---|---|
| `CC-MAIN-2024-10-0000?.warc.gz` | two WARC files in the order of Common Crawl, a gzip member a record |
| `CC-MAIN-2024-22-0000?.warc.gz` | two more, of a later crawl; some revisits |
| `CC-MAIN-2024-10-plain.warc` | WARC without compression |
| `CC-MAIN-2024-10-old.arc.gz` | ARC 1.0 |
| `CC-MAIN-2024-22-text.warc.wet.gz` | WET (conversion records) |
| `CC-MAIN-2024-22-damaged.warc.gz` | WARC with overwritten gzip members, a stretch of garbage, and an end cut off |
| `benchmark.jsonl` | an invented benchmark; some pages quote its items |
| `benchmarks.yaml` | what `crawlmill run --benchmarks` needs to know about it |
| `mix.yaml` | two phases of training on the web, tokenized into a folder `tokens` beside it |
| `train.toml` | a model of a million parameters to be trained on that mix, in a folder `mixed` beside it |
| `truth.jsonl` | what should become of every content record and damaged stretch, and why |

Kinds of pages are listed with their counts in `worthwhile` (kept), `planted` (kept today; duplicates, personal data,
benchmark leaks, boilerplate, insults), `rubbish` (dropped), `wire` (odd bytes) and `plan` (WET). Articles make up what
the others leave open. All text is made by the grammar of `prose` from the phrase banks in `banks/`, all of it written
for this project; hosts stand under reserved names (`.example`, `.test`, `example.org`).

A line of `truth.jsonl`: `file`, `offset` and `length` of the record (its gzip member) in bytes, `url` and
`warc_record_id` (null where a record has none or cannot be read), `dump`, `date`, `kind`, `language` (ISO 639-1),
`expect` (`kept`, `dropped` or `error` under the recipe `default` without deduplication), `reasons` (classes of rule; at
least one of them must be among the hits: `gates.url`, `gates.http.status`, `gates.http.media_type`, `gates.language`,
`quality` for any rule on text, `empty`, `damaged`), `must_contain` (passages of the main text, which every page with
`expect` kept must keep), `must_not_contain` (menu and footer, which good extraction leaves out), and `notes` for later
stages: `cluster` (id, relation original/exact/near, 5-gram Jaccard to the original), `pii`, `contaminated`,
`boilerplate`, `repeated`, `toxic`, `code`, `formulas`, `cells`, `encoding`, `charset`.

The same seed gives the same pages, ids and dates on every machine. The files are the same bytes wherever zlib
compresses alike; another zlib (zlib-ng) may give other offsets, and `truth.jsonl` follows them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from pipeline.sample.archive import Archive, Placed, damage, stamp, write_arc
from pipeline.sample.page import DUMPS, Page
from pipeline.sample.plan import FULL, dates, plan
from pipeline.sample.planted import item_id
from pipeline.sample.prose import bank

__all__ = ["SampleSummary", "write_sample"]

DAMAGES = ("middle", "head", "middle", "middle", "head", "cut")

BENCHMARKS = """\
benchmarks:
  - name: orlamund
    path: benchmark.jsonl
    id: id
    question: question
    answer: answer
"""

MIX = """\
name: sample
seed: 1
held_out: 0.02
sources:
  web: ../tokens
phases:
  - name: pretrain
    tokens: 300_000
    weights: {web: 1}
  - name: anneal             # the better half of the pages alone
    tokens: 60_000
    weights: {web: 1}
    within:
      web: {quality_bin: {0-9: 0, 10-: 1}}
"""

TRAIN = """\
# A first look, half a minute on two cores. docs/training.md says what else there is.
name = "sample"
out = "../model"

[model]
layers = 2
width = 64
heads = 2
kv_heads = 2
head_dim = 32

[data]
path = "../mixed"
seq_len = 128
batch_tokens = 2048

[optim]
lr = 3e-3

[checkpoint]
every = 50
healthy = 20

[log]
every = 20
evaluate = 50

[[phase]]
name = "pretrain"
lr = {warmup = 20_000}

[[phase]]
name = "anneal"
lr = {end = 0.0}
"""


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What `write_sample` wrote. `files` maps each archive to its records by WARC type (`arc` in ARC files; damaged
    members count under the type they had), `n_records` counts content records, `n_damaged` the damaged stretches
    among the lines of truth. `kinds`, `expectations` and `languages` count those lines.
    """

    folder: Path
    files: dict[str, dict[str, int]]
    n_records: int
    n_damaged: int
    kinds: dict[str, int]
    expectations: dict[str, int]
    languages: dict[str, int]

    def __str__(self) -> str:
        expected = ", ".join(f"{n:,} to be {name}" for name, n in self.expectations.items())
        expected = expected.replace("to be error", "to be reported as damaged")
        return f"{self.n_records:,} content records in {len(self.files)} archives; {expected}"


def write_sample(folder: Path, seed: int = 0, pages: int = FULL) -> SampleSummary:
    """Writes the sample into `folder`, which is made if missing; files of the same names are overwritten.

    `pages` is the number of content records; below about 400 there are more, as each kind occurs at least once.
    Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    planned = plan(seed, pages)
    files: dict[str, dict[str, int]] = {}
    truth: list[dict[str, Any]] = []

    def settle(name: str, dump: str, types: dict[str, int], placed: list[Placed], when: dict[int, datetime]) -> None:
        files[name] = types
        for record in sorted(placed, key=lambda p: p.offset):
            date = when[id(record.page)] if record.page else None
            truth.append(_line(record, dump, date))

    for stem, group in planned.main.items():
        dump = stem[: len(DUMPS[0])]
        archive, when = _archive(folder / f"{stem}.warc.gz", dump, seed, group)
        settle(archive.path.name, dump, archive.types, archive.placed, when)

    dump = DUMPS[0]
    archive, when = _archive(folder / f"{dump}-plain.warc", dump, seed, planned.side["plain"], compress=False)
    settle(archive.path.name, dump, archive.types, archive.placed, when)

    path = folder / f"{dump}-old.arc.gz"
    group = planned.side["arc"]
    days = dates(seed, path.name, dump, len(group))
    placed = write_arc(path, list(zip(group, days, strict=True)))
    settle(path.name, dump, {"arc": len(group)}, placed, {id(p): d for p, d in zip(group, days, strict=True)})

    dump = DUMPS[1]
    path = folder / f"{dump}-text.warc.wet.gz"
    days = dates(seed, path.name, dump, len(planned.wet))
    wet = Archive(path, dump)
    wet.warcinfo(days[0])
    for page, day in zip(planned.wet, days, strict=True):
        wet.conversion(page, day)
    wet.close()
    settle(path.name, dump, wet.types, wet.placed, {id(p): d for p, d in zip(planned.wet, days, strict=True)})

    archive, when = _archive(folder / f"{dump}-damaged.warc.gz", dump, seed, planned.side["damaged"], garbage=True)
    settle(archive.path.name, dump, archive.types, _damaged(archive, seed), when)

    _write_lines(folder / "truth.jsonl", truth)
    items = [{"id": item_id(i), **item} for i, item in enumerate(bank("benchmark"))]
    _write_lines(folder / "benchmark.jsonl", items)
    (folder / "benchmarks.yaml").write_text(BENCHMARKS, encoding="utf-8")
    (folder / "mix.yaml").write_text(MIX, encoding="utf-8")
    (folder / "train.toml").write_text(TRAIN, encoding="utf-8")
    return SampleSummary(
        folder=folder,
        files=files,
        n_records=sum(line["kind"] != "garbage" for line in truth),
        n_damaged=sum("damage" in line["notes"] for line in truth),
        kinds=dict(sorted(Counter(line["kind"] for line in truth).items())),
        expectations=dict(sorted(Counter(line["expect"] for line in truth).items())),
        languages=dict(sorted(Counter(line["language"] for line in truth).items())),
    )


def _archive(
    path: Path, dump: str, seed: int, group: list[Page], compress: bool = True, garbage: bool = False
) -> tuple[Archive, dict[int, datetime]]:
    """Writes a WARC file of the group and returns it closed, with the date of each page by identity."""
    days = dates(seed, path.name, dump, len(group))
    random = Random(f"{seed}/archive/{path.name}")
    archive = Archive(path, dump, compress)
    archive.warcinfo(days[0])
    for i, (page, day) in enumerate(zip(group, days, strict=True)):
        archive.exchange(page, day)
        if i % 40 == 10 and page.expect == "kept":
            archive.revisit(page, day)
        if garbage and i == len(group) // 2:
            archive.garbage(random, 700)
    archive.close()
    return archive, {id(page): day for page, day in zip(group, days, strict=True)}


def _damaged(archive: Archive, seed: int) -> list[Placed]:
    """Breaks some response records of a closed archive, the last among them, and returns where all records are now."""
    placed = list(archive.placed)
    candidates = [i for i, record in enumerate(placed) if record.page is not None][2:-2:2]
    random = Random(f"{seed}/damage")
    victims = [*sorted(random.sample(candidates, len(DAMAGES) - 1)), len(placed) - 1]
    for index, how in zip(victims, DAMAGES, strict=True):
        record = placed[index]
        damage(archive.path, record, how)
        length = archive.path.stat().st_size - record.offset if how == "cut" else record.length
        placed[index] = Placed(record.file, record.offset, length, record.record_id, record.page, how)
    return placed


def _line(record: Placed, dump: str, date: datetime | None) -> dict[str, Any]:
    """The line of truth about a record."""
    page = record.page
    place = {"file": record.file, "offset": record.offset, "length": record.length}
    if page is None or record.damage:
        notes: dict[str, Any] = {"damage": record.damage}
        if page is not None:
            notes |= {"lost_url": page.url, "lost_record_id": record.record_id, "lost_kind": page.kind}
        kind = "garbage" if page is None else "damaged"
        rest = {"url": None, "warc_record_id": None, "dump": dump, "date": None, "kind": kind, "language": ""}
        verdict = {"expect": "error", "reasons": ["damaged"], "must_contain": [], "must_not_contain": []}
        return {**place, **rest, **verdict, "notes": notes}
    return {
        **place,
        "url": page.url,
        "warc_record_id": record.record_id,
        "dump": dump,
        "date": stamp(date) if date else None,
        "kind": page.kind,
        "language": page.language,
        "expect": page.expect,
        "reasons": list(page.reasons),
        "must_contain": page.must_contain,
        "must_not_contain": page.must_not_contain,
        "notes": page.notes,
    }


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
