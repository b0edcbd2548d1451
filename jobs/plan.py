"""Job: what a run will come to, foretold from a sample of its inputs. `spark-submit jobs/plan.py --help`.

The stages themselves are run, twice: on a small part of the sample, which pays for the start of workers and models, and on
all of it, which then shows what data costs. What they leave is counted unit by unit and carried over to the whole.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import curate, deduplicate, extract, score
from jobs import run as whole_run
from jobs.plan_report import figures
from jobs.plan_sample import Sample, Survey, choose, survey, take
from jobs.runs import Run, Task, code_version, existing_run, open_run, read_scored
from pipeline.curation import kept_rows, shard_count
from pipeline.dedup.normalise import lines
from pipeline.dedup.repeats import text_number
from pipeline.errors import UsageError
from pipeline.planning import DRAWS, Clusters, Interval, Totals, interval, wall_seconds, widened
from pipeline.recipe import Recipe

SAMPLE_BYTES = (16_000_000, 256_000_000)
"""Bytes of a sample of 1 % at least, and at most, where none is asked for."""

CALIBRATION_SHARE = 8
"""The first, small run reads this part of the sample."""

BYTES_A_CORE_SECOND = 300_000
"""Compressed bytes that one core does of the default recipe in a second, start included (benchmarks/throughput.txt: 42 MB
in 25 s on two cores, then without deduplication and scores): enough to say beforehand how long a plan takes."""

START_SECONDS = 40.0
"""What both runs cost beside reading, on two cores."""

CPU_ERROR, BYTES_ERROR, MEMORY_ERROR, WALL_ERROR = 0.08, 0.02, 0.08, 0.2
"""Relative standard deviations beside that of sampling: processor time of the same work on the same machine, compression of
files of other sizes, memory of the same task, wall time of the same processor time (benchmarks/plan.txt)."""

HEADROOM = 1.25
"""Memory recommended beyond the most that was foreseen."""


DRIVERS = {
    "records": "records",
    "inputs": "records",
    "documents": "text",
    "signals": "documents",
    "edits": "text",
    "scores": "ruled",
    "sentences": "ruled text",
    "duplicates": "ruled",
    "contamination": "kept",
    "dedup": "ruled text",
    "ledger": "records",
    "curated": "curated",
}
"""What makes each table large."""


WORK = {
    extract.STAGE: "text",
    "annotate": "text",
    score.STAGE: "ruled text",
    deduplicate.STAGE: "ruled text",
    "decontaminate": "ruled text",
    curate.STAGE: "records",
}
"""What makes each stage long."""


@dataclass(frozen=True)
class Prices:
    """What is paid, in any currency: a core for an hour; reading a GB of inputs from where they are."""

    core_hour: float = 0.04
    gb_read: float = 0.0


@dataclass
class Plan:
    """What was foreseen. `figures` by name, as in `jobs.plan_report.figures`."""

    recipe: str
    recipe_digest: str
    crawlmill: str
    seed: int
    inputs: dict[str, Any]
    sample: dict[str, Any]
    figures: dict[str, Interval] = field(default_factory=dict)
    at_scale: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        body = asdict(self)
        body["figures"] = {name: i._asdict() for name, i in self.figures.items()}
        return body


Tell = Callable[[str], None]


def plan(
    recipe: Recipe,
    inputs: Sequence[str],
    *,
    sample: str | None = None,
    files: int | None = None,
    cores: int | None = None,
    prices: Prices | None = None,
    partitions: int | None = None,
    seed: int = 0,
    master: str | None = None,
    scratch: str | None = None,
    tell: Tell = lambda _: None,
    progress: whole_run.Progress | None = None,
) -> Plan:
    """Foretells a run of the recipe over the inputs on `cores` (by default those of this machine).

    `sample` is a share ("1%") or an amount ("50MB"), `files` a number of whole files instead. What is about to be read is
    told to `tell` first. Raises UsageError, InputError or RecipeError where nothing can be foretold.
    """
    lenient = recipe.model_copy(update={"inputs": recipe.inputs.model_copy(update={"tolerate": 1.0})})
    score.check_models(recipe)
    with _scratch(scratch) as folder:
        found = survey(lenient, inputs, folder, partitions)
        chosen = choose(found, recipe, _amount(sample, found.n_bytes), files, seed)
        n_bytes = sum(s.end - s.start for s in chosen)
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        seconds = START_SECONDS + n_bytes * (1 + 1 / CALIBRATION_SHARE) / BYTES_A_CORE_SECOND / here
        many = f"{len(chosen):,} {'files' if files is not None else 'stretches'}"
        tell(
            f"reading {n_bytes:,} of {found.n_bytes:,} bytes ({n_bytes / found.n_bytes:.2%}) in {many} of "
            f"{len({s.file for s in chosen}):,} of {len(found.files):,} files: about {seconds:.0f} s on {here} cores, "
            f"and {3 * n_bytes / 1e6:,.0f} MB in {folder}"
        )
        part_bytes = max(1, found.n_bytes // max(1, found.n_tasks))
        small = chosen[:: max(1, len(chosen) // max(1, len(chosen) // CALIBRATION_SHARE))]
        few = take(found, small, files is not None, folder / "small", max(1, _bytes(small) // max(2, here)))
        taken = take(found, chosen, files is not None, folder / "sample", part_bytes)
        runs = [
            _run(lenient, part, folder / name, part_bytes, master, progress)
            for part, name in ((few, "small-run"), (taken, "run"))
        ]
        made = Plan(
            recipe.name,
            recipe.digest,
            code_version(),
            seed,
            {
                "files": len(found.files),
                "bytes": found.n_bytes,
                "tasks": found.n_tasks,
                "split_bytes": found.split_bytes,
            },
            {
                "units": len(chosen),
                "bytes": n_bytes,
                "share": n_bytes / found.n_bytes,
                "whole files": files is not None,
            },
        )
        Foresight(made, recipe, found, taken, runs[1], runs[0], cores or here, here, prices or Prices()).fill()
        return made


@contextmanager
def _scratch(folder: str | None) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="crawlmill-plan-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _bytes(chosen: Sequence[Any]) -> int:
    return sum(s.end - s.start for s in chosen)


def _amount(text: str | None, n_bytes: int) -> int:
    """Bytes of a share or an amount. Raises UsageError."""
    if text is None:
        return max(min(n_bytes // 100, SAMPLE_BYTES[1]), SAMPLE_BYTES[0])
    number = text.strip().rstrip("%BbKkMmGg").strip()
    unit = text.strip()[len(number) :].strip().upper()
    factors = {"%": n_bytes / 100, "B": 1, "": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "K": 1e3, "M": 1e6, "G": 1e9}
    try:
        amount = float(number) * factors[unit]
    except (ValueError, KeyError):
        raise UsageError(f"--sample {text!r} is no share and no amount; give 1% or 50MB") from None
    if not amount > 0 or (unit == "%" and float(number) > 100):
        raise UsageError(f"--sample {text!r} is not between nothing and all; give 1% or 50MB")
    return round(amount)


def _run(
    recipe: Recipe,
    sample: Sample,
    output: Path,
    part_bytes: int,
    master: str | None,
    progress: whole_run.Progress | None,
) -> Run:
    """Runs all stages on a sample, in parts of the size that those of the whole have."""
    total = int(sample.sizes.sum())
    opened = open_run(str(output), recipe, sample.paths, max(1, round(total / (2 * part_bytes))), 1)
    if sample.stretched:
        sizes = [file["size"] for file in opened.info["inputs"]]
        wanted = [
            Task(f"{i:05d}", path, 0, size) for i, (path, size) in enumerate(zip(sample.paths, sizes, strict=True))
        ]
        opened.info["tasks"] = [asdict(task) for task in wanted]
    opened.save()
    whole_run.run(recipe, sample.paths, str(output), master=master, progress=progress)
    return existing_run(str(output))


@dataclass
class Foresight:
    """What a sample and the two runs over it say of the whole."""

    plan: Plan
    recipe: Recipe
    found: Survey
    sample: Sample
    run: Run
    small: Run
    cores: int
    here: int
    prices: Prices

    def fill(self) -> None:
        """Fills in the figures."""
        self.seen = figures(self.run)
        self.seen_small = figures(self.small)
        self.totals = Totals(self.sample.sizes, float(self.found.n_bytes), self.plan.seed)
        self.drawn: dict[str, np.ndarray] = {}
        self._records()
        self._duplicates()
        self._texts()
        self._tables()
        self._costs()
        self.plan.figures = {name: interval(draws) for name, draws in self.drawn.items()}
        self._notes()

    # Records and texts.

    def _records(self) -> None:
        folder = self.run.folder
        columns = ["warc_file", "warc_offset", "outcome", "reason", "n_chars"]
        rows = pa.concat_tables([folder.read_table(name, columns) for name in folder.list("ledger", ".parquet")])
        self.unit = self.sample.units(rows.column("warc_file").to_pylist(), rows.column("warc_offset").to_pylist())
        reason = rows.column("reason").to_pylist()
        chars = rows.column("n_chars").fill_null(0).to_numpy()
        outcome = rows.column("outcome").to_pylist()
        late = [r is None or r.startswith("dedup.") or o == "kept" for r, o in zip(reason, outcome, strict=True)]
        ruled = np.array(late, bool)
        self.covered = {
            "records": self._total(np.ones(len(reason))),
            "documents": self._total(chars > 0),
            "text": self._total(chars),
            "ruled": self._total(ruled),
            "ruled text": self._total(chars * ruled),
        }
        self.seen_of = {
            "records": len(reason),
            "documents": int((chars > 0).sum()),
            "text": int(chars.sum()),
            "ruled": int(ruled.sum()),
            "ruled text": int((chars * ruled).sum()),
            "kept": self.seen["records/kept"],
        }
        self.drawn["records/read"] = self.covered["records"]
        self.early = sorted({r for r, l_ in zip(reason, late, strict=True) if r and not l_})
        self.reasons = {r: self._total(np.array([x == r for x in reason])) for r in self.early}

    def _total(self, values: np.ndarray) -> np.ndarray:
        known = self.unit >= 0
        held = np.bincount(self.unit[known], weights=values.astype(float)[known], minlength=len(self.sample.sizes))
        return self.totals.of(held)

    def _scaled(self, driver: str) -> np.ndarray:
        """How many times what was seen the whole holds, by one of the things that are counted."""
        return self.covered[driver] / max(1, self.seen_of[driver])

    def _duplicates(self) -> None:
        """Clusters of the sample, by method, to what each method will remove of the whole."""
        left = self.covered["ruled"]
        share = self.totals.share
        removed: dict[str, np.ndarray] = {}
        for method, members in self._clusters().items():
            law = Clusters.of(members, share, float(np.median(left)))
            rates = (
                law.removed(self.plan.seed) if share < 1 else np.full(DRAWS, 1 - len(members) / max(1, members.sum()))
            )
            removed[f"dedup.{method}"] = left * rates
            left = left * (1 - rates)
        kept_seen = self.seen["records/kept"]
        before = self.seen_of["ruled"] - sum(self.seen.get(f"records/{name}", 0) for name in removed)
        self.covered["kept"] = left * (kept_seen / before if before else 1.0)
        self.drawn["records/kept"] = self.covered["kept"]
        self.drawn |= {f"records/{name}": draws for name, draws in self.reasons.items()}
        self.drawn |= {f"records/{name}": draws for name, draws in removed.items()}

    def _clusters(self) -> dict[str, np.ndarray]:
        """Members that each cluster has in the sample, by method, of the pages that the methods before it leave."""
        dedup = self.recipe.dedup
        if not dedup.compares:
            return {}
        folder = self.run.folder
        columns = ["removed_by", "url_keeper", "exact_keeper", "keeper", "doc_id"]
        rows = pa.concat_tables([folder.read_table(name, columns) for name in folder.list("duplicates", ".parquet")])
        found: dict[str, np.ndarray] = {}
        for method, key in (("url", "url_keeper"), ("exact", "exact_keeper"), ("minhash", "keeper")):
            if getattr(dedup, method) is None:
                continue
            keys = pc.coalesce(rows.column(key), rows.column("doc_id"))
            found[method] = (
                pc.value_counts(keys.combine_chunks()).field("counts").to_numpy() if rows.num_rows else np.zeros(0)
            )
            gone = pc.equal(rows.column("removed_by"), method)
            rows = rows.filter(pc.invert(pc.fill_null(gone, False)))
        return found

    def _texts(self) -> None:
        self.drawn["text/extracted bytes"] = self.seen["text/extracted bytes"] * self._scaled("text")
        stays_seen, stays, self.cut_rows = self._repeats()
        a_page = self._scaled("ruled text") / np.maximum(self._scaled("ruled"), 1e-12)
        factor = self.covered["kept"] / max(1, self.seen_of["kept"]) * a_page * stays / stays_seen
        for name in ("text/curated bytes", "text/curated words"):
            self.drawn[name] = self.seen[name] * factor

    def _repeats(self) -> tuple[float, np.ndarray, np.ndarray]:
        """What share of the text repeated lines leave: in the sample, and in the whole; and how many times the lines that
        are cut in the sample are cut in the whole."""
        dedup = self.recipe.dedup
        share = self.totals.share
        whole = self._scaled("ruled text")
        if not dedup.cuts or share >= 1:
            return 1.0, np.ones(DRAWS), whole
        seen = [found for task in self.run.tasks if len((found := self._lines(task.part))[0])]
        if not seen:
            return 1.0, np.ones(DRAWS), whole
        keys, chars, long = (np.concatenate(columns) for columns in zip(*seen, strict=True))
        _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
        weight = np.bincount(which, weights=chars)
        rows_seen, cut_seen, cut_whole, rows_whole = 0.0, 0.0, np.zeros(DRAWS), np.zeros(DRAWS)
        for options, mine in (
            (dedup.lines, np.ones(len(counts), bool)),
            (dedup.paragraphs, np.bincount(which, weights=long) > 0),
        ):
            if options is None:
                continue
            law = Clusters.of(counts[mine], share, float(counts.sum() / share))
            chances = law.above(options.max_copies, self.plan.seed)
            for k, chance in chances.items():
                rows = mine & (counts == k)
                cut_whole += chance * weight[rows].sum()
                rows_whole += chance * counts[rows].sum()
            over = mine & (counts > options.max_copies)
            cut_seen += weight[over].sum()
            rows_seen += counts[over].sum()
            if dedup.lines is not None:
                break  # a line that its host repeats is not cut again as a paragraph, and few paragraphs are others
        every = max(1.0, weight.sum())
        rows = np.maximum(rows_whole, rows_seen) / max(1.0, rows_seen) * whole
        return 1 - min(0.99, cut_seen / every), 1 - np.clip(cut_whole / every, 0, 0.99), rows

    def _lines(self, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the lines of a part that could be cut wherever they stand: number of line and host, length, and whether it is
        a paragraph."""
        dedup = self.recipe.dedup
        read, scores = read_scored(self.run.folder, self.run.folder, part, self.recipe)
        kept = pa.array(kept_rows(read.documents, read.signals, self.recipe, scores=scores))
        hosts = read.records.filter(read.records.column("outcome").is_null()).column("host").filter(kept).to_pylist()
        every = lines(read.documents.column("text").filter(kept).combine_chunks())
        paragraph = every.words >= (dedup.paragraphs.min_words if dedup.paragraphs else 2**31)
        wanted = paragraph | (every.words >= dedup.lines.min_words) if dedup.lines else paragraph
        place = np.array([text_number(host or "", "host") for host in hosts] or [0], np.uint64)[every.rows]
        keys = every.keys ^ place if dedup.lines else every.keys
        return keys[wanted], (every.ends - every.starts)[wanted], paragraph[wanted]

    # Bytes.

    def _tables(self) -> None:
        curated = self.drawn["text/curated bytes"]
        self.covered["curated"], self.seen_of["curated"] = curated, max(1.0, self.seen["text/curated bytes"])
        n_seen, n_whole = len(self.run.tasks), self.found.n_tasks
        self.shards = shard_count(int(np.median(self.drawn["text/extracted bytes"])), self.recipe)
        total = np.zeros(DRAWS)
        for name in sorted(n.removeprefix("bytes/") for n in self.seen if n.startswith("bytes/")):
            seen = self.seen[f"bytes/{name}"]
            if name == "all":
                continue
            if name == "ranks":
                draws = seen * np.ones(DRAWS)
            elif name == "run.json":
                draws = seen * (1 + 0.3 * np.arange(DRAWS) / DRAWS) + 300.0 * (n_whole - n_seen)
            elif name == "_manifests":
                draws = np.full(DRAWS, seen * n_whole / n_seen)
            elif name == "cuts":
                fixed = self._fixed(name)
                draws = fixed * n_whole / n_seen + (seen - fixed) * self.cut_rows
            else:
                per_part = name not in ("ledger", "curated", "dedup")
                fixed = self._fixed(name)
                times = (n_whole / n_seen) if per_part else self.shards
                draws = fixed * times + (seen - fixed) * self._scaled(DRIVERS.get(name, "text"))
            draws = widened(draws, BYTES_ERROR, self.plan.seed + len(name))
            self.drawn[f"bytes/{name}"] = draws
            total += draws
        self.drawn["bytes/all"] = total

    def _fixed(self, table: str) -> int:
        """Bytes of a table that every file of it has, however few rows: what Parquet says of columns."""
        names = self.run.folder.list(table, ".parquet")
        return sum(pq.ParquetFile(Path(self.run.folder.path, name)).metadata.serialized_size for name in names)

    # Costs.

    def _costs(self) -> None:
        small_bytes, n_bytes = (sum(f["size"] for f in run.info["inputs"]) for run in (self.small, self.run))
        n_whole = self.found.n_tasks
        cpu, wall = np.zeros(DRAWS), np.zeros(DRAWS)
        for number, (stage, driver) in enumerate(WORK.items()):
            if f"cpu/{stage}" not in self.seen:
                continue
            seconds = self.seen[f"cpu/{stage}"]
            fixed = max(0.0, self.seen_small.get(f"cpu/{stage}", 0.0) - seconds * small_bytes / n_bytes)
            data = widened(seconds * self._scaled(driver), CPU_ERROR, self.plan.seed + number)
            spent = fixed * self.cores / self.here + data
            self.drawn[f"cpu/{stage}"] = spent
            cpu += spent
            tasks = min(n_whole, self.cores) if stage == curate.STAGE and self.shards < self.cores else n_whole
            slow = self.seen[f"wall/{stage}"] * self.here / max(1e-9, seconds)
            longest = float(np.median(data)) / n_whole
            each = [
                wall_seconds(fixed / self.here, d, self.cores, longest, tasks) for d in (data * max(1.0, slow)).tolist()
            ]
            took = widened(np.array(each), WALL_ERROR, self.plan.seed + number)
            self.drawn[f"wall/{stage}"] = took
            wall += took
            self._memory(stage, small_bytes, n_bytes)
            for name in [n for n in self.seen if n == f"shuffle/{stage}" or n.startswith(f"shuffle/{stage}: ")]:
                self.drawn[name] = widened(self.seen[name] * self._scaled(driver), BYTES_ERROR, self.plan.seed + number)
        self.drawn["cpu/all"], self.drawn["wall/all"] = cpu, wall
        hours = interval(cpu / 3600)
        held = interval(wall * self.cores / 3600)
        read_gb = self.found.n_bytes / 1e9
        price = [h * self.prices.core_hour + read_gb * self.prices.gb_read for h in held]
        memory = [float(np.median(d)) for n, d in self.drawn.items() if n.startswith("memory/")]
        self.plan.at_scale = {
            "cores": self.cores,
            "core_hours": hours._asdict(),
            "cores_held_hours": held._asdict(),
            "price": Interval(*price)._asdict(),
            "price_per_core_hour": self.prices.core_hour,
            "price_per_gb_read": self.prices.gb_read,
            "executor_bytes_per_core": round(HEADROOM * max(memory)) if memory else None,
            "shards": self.shards,
        }

    def _memory(self, stage: str, small_bytes: int, n_bytes: int) -> None:
        """The most that a task of the stage will hold: what grows with the part is carried on to the parts of the whole."""
        if f"memory/{stage}" not in self.seen:
            return
        here, before = self.seen[f"memory/{stage}"], self.seen_small.get(f"memory/{stage}", 0.0)
        part, earlier = n_bytes / len(self.run.tasks), small_bytes / len(self.small.tasks)
        wanted = self.found.n_bytes / self.found.n_tasks
        slope = max(0.0, (here - before) / (part - earlier)) if part > 1.5 * earlier else 0.0
        grown = slope * max(0.0, wanted - part)
        beyond = np.linspace(0.5, 1.5, DRAWS)
        self.drawn[f"memory/{stage}"] = widened(here + grown * beyond, MEMORY_ERROR, self.plan.seed)

    def _notes(self) -> None:
        notes = self.plan.notes
        for path, why in self.sample.problems.items():
            notes.append(f"not read: {why if path in why else f'{path}: {why}'}")
        for pattern, why in self.found.problems.items():
            notes.append(f"not found: {why if pattern in why else f'{pattern}: {why}'}")
        lost = sum(m.get("bytes_lost", 0) for m in self.run.manifests(extract.STAGE)) / max(
            1.0, self.sample.sizes.sum()
        )
        if lost > self.recipe.inputs.tolerate:
            notes.append(
                f"{lost:.1%} of the sample is damaged, more than the recipe tolerates: the run will end with exit 3"
            )
        if self.recipe.dedup.compares and self.totals.share < 0.02:
            notes.append(
                f"of {self.totals.share:.2g} of the inputs duplicates hardly show: what is removed as such is little more "
                "than a guess (its interval says so)"
            )
        if self.recipe.dedup.compares:
            notes.append("hosts and sites that the sample missed altogether are in no interval")


if __name__ == "__main__":
    from jobs.plan_commands import main

    main()
