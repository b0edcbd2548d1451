"""From what a sample came to, to what the whole will: counts, duplicates, bytes, costs, each with its interval."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import curate, deduplicate, extract, score
from jobs.band_index import SHARD_BYTES
from jobs.plan_report import figures
from jobs.plan_sample import Sample, Survey
from jobs.runs import Run, read_scored
from jobs.store import ROW_GROUP
from pipeline.curation import kept_rows, shard_count
from pipeline.dedup.normalise import lines
from pipeline.dedup.repeats import text_number
from pipeline.planning import (
    DRAWS,
    Clusters,
    Interval,
    Prior,
    Totals,
    interval,
    near_duplicates,
    parcels,
    wall_seconds,
    widened,
)
from pipeline.recipe import Recipe
from pipeline.scores import RANK_BINS

CPU_ERROR, BYTES_ERROR, MEMORY_ERROR, WALL_ERROR = 0.08, 0.03, 0.08, 0.3
"""Relative standard deviations beside that of sampling: processor time of the same work on the same machine, compression of
files of other sizes, memory of the same task, wall time of the same processor time (benchmarks/plan.txt)."""

UNEVEN = {"edits": 0.15, "sentences": 0.15, "cuts": 0.2, "contamination": 0.3, "dedup": 0.06, "ranks": 0.1}
"""The same for tables of which some pages fill much more than others."""

STEP_ERROR = 0.15
"""Standard deviation of what a stage takes without data, as a share of it."""

BUSY = 0.85
"""What part of wall time a core that has work spends on it; the rest is waiting for disks, the JVM and the driver."""

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
    rates: dict[str, Any] = field(default_factory=dict)
    """What was measured of the sample, by unit: for projections onto other inputs (benchmarks/scale.py)."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        body = asdict(self)
        body["figures"] = {name: i._asdict() for name, i in self.figures.items()}
        return body


@dataclass
class Foresight:
    """What a sample and the two runs over it say of the whole."""

    plan: Plan
    recipe: Recipe
    found: Survey
    sample: Sample
    run: Run
    small: tuple[Run, Run]
    cores: int
    here: int
    prices: Prices

    def fill(self) -> None:
        """Fills in the figures."""
        self.seen = figures(self.run)
        self.cold, self.warm = (figures(run) for run in self.small)
        small, every = (sum(file["size"] for file in run.info["inputs"]) for run in (self.small[0], self.run))
        self.small_share = float(small / every)
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
            n_pages = float(np.median(left))
            prior = near_duplicates(n_pages) if method == "minhash" else Prior()
            law = Clusters.of(members, share, n_pages, prior=prior)
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
        for name, options, mine in (
            ("lines", dedup.lines, np.ones(len(counts), bool)),
            ("paragraphs", dedup.paragraphs, np.bincount(which, weights=long) > 0),
        ):
            if options is None:
                continue
            law = Clusters.of(counts[mine], share, float(counts.sum() / share))
            chances = law.above(options.max_copies, self.plan.seed)
            for k, chance in chances.items():
                rows = mine & (counts == k)
                cut_whole += chance * weight[rows].sum()
                rows_whole += chance * counts[rows].sum()
            mine_here = getattr(self.run.recipe.dedup, name)
            over = mine & (counts > mine_here.max_copies)
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
        self.index_shards = -(-int(np.median(self.drawn["text/extracted bytes"])) // SHARD_BYTES)
        total = np.zeros(DRAWS)
        by_table = self.plan.rates["bytes"] = {}
        for name in sorted(n.removeprefix("bytes/") for n in self.seen if n.startswith("bytes/")):
            seen = self.seen[f"bytes/{name}"]
            if name == "all":
                continue
            if name == "ranks":
                fixed = self._fixed(name)
                bins = np.minimum(self.covered["ruled"], RANK_BINS) / max(1, min(RANK_BINS, self.seen_of["ruled"]))
                draws = fixed + (seen - fixed) * bins
            elif name == "inputs":
                draws = np.full(DRAWS, seen * n_whole / n_seen)
            elif name == "run.json":
                draws = seen * (1 + 0.3 * np.arange(DRAWS) / DRAWS) + 300.0 * (n_whole - n_seen)
            elif name == "_manifests":
                of_shards = self._listed(self.run, f"_manifests/{curate.STAGE}")
                draws = np.full(DRAWS, (seen - of_shards) * n_whole / n_seen + of_shards * self.shards)
            elif name == "cuts":
                fixed = self._fixed(name)
                draws = fixed * n_whole / n_seen + (seen - fixed) * self.cut_rows
            else:
                per_part = name not in ("ledger", "curated", "dedup")
                fixed = self._fixed(name)
                times = (n_whole / n_seen) if per_part else self.shards
                driver = DRIVERS.get(name, "text")
                draws = fixed * times + (seen - fixed) * self._scaled(driver) * self._packing(name)
                a_unit = (seen - fixed) / max(1, self.seen_of[driver])
                by_table[name] = {"driver": driver, "bytes": a_unit, "file_bytes": fixed / (n_seen if per_part else 1)}
            draws = widened(draws, UNEVEN.get(name, BYTES_ERROR), self.plan.seed + len(name))
            self.drawn[f"bytes/{name}"] = draws
            total += draws
        self.drawn["bytes/all"] = total

    def _fixed(self, table: str, run: Run | None = None) -> int:
        """Bytes of a table that every file of it has, however few rows: what Parquet says of columns."""
        folder = (run or self.run).folder
        names = folder.list(table, ".parquet")
        return sum(pq.ParquetFile(Path(folder.path, name)).metadata.serialized_size for name in names)

    def _packing(self, table: str) -> float:
        """How much better larger files are compressed, as a factor: half of what the two runs' files differ in that, carried
        on up to a full group of rows. Parts of the whole are as large as those of the sample; its shards are larger."""
        if table != "ledger":
            return 1.0
        few, here = (self._listed(run, table) - self._fixed(table, run) for run in (self.small[1], self.run))
        rows, earlier = max(1.0, self.seen["records/read"]), self.warm["records/read"]
        if few <= 0 or earlier < 2 or rows <= earlier:
            return 1.0
        slower = np.clip(1 - np.log(here / few) / np.log(rows / earlier), 0, 0.3)
        larger = min(ROW_GROUP / rows, float(np.median(self._scaled("records"))) / self.shards)
        return float(max(1.0, larger) ** (-slower / 2))

    @staticmethod
    def _listed(run: Run, folder: str) -> int:
        return sum(Path(run.folder.path, name).stat().st_size for name in run.folder.list(folder))

    # Costs.

    def _costs(self) -> None:
        n_whole = self.found.n_tasks
        cpu, wall = np.zeros(DRAWS), np.zeros(DRAWS)
        by_stage = self.plan.rates["work"] = {}
        self.plan.rates |= {"shuffle": {}, "memory": {}, "seen": self.seen_of}
        for number, (stage, driver) in enumerate(WORK.items()):
            if f"cpu/{stage}" not in self.seen:
                continue
            seconds = self.seen[f"cpu/{stage}"]
            start, step, once = self._spent(f"cpu/{stage}", seconds)
            a_unit = once / max(1, self.seen_of[driver])
            by_stage[stage] = {"driver": driver, "seconds": a_unit, "start_seconds": start, "step_seconds": step}
            unsure = np.random.default_rng([self.plan.seed, number]).normal(0.0, STEP_ERROR * step, DRAWS)
            times = self._scaled(driver)
            data = widened(once * times, CPU_ERROR, self.plan.seed + number)
            data = np.maximum(data + unsure * np.maximum(times - 1, 0), 0.5 * data)
            spent = start * self.cores / self.here + step + data
            self.drawn[f"cpu/{stage}"] = spent
            cpu += spent
            tasks = min(n_whole, self.shards) if stage == curate.STAGE else n_whole
            longest = float(np.median(data)) / tasks
            waited = [
                wall_seconds((start + step) / self.here, d / BUSY, self.cores, longest, tasks) for d in data.tolist()
            ]
            took = widened(np.array(waited), WALL_ERROR, self.plan.seed + number)
            self.drawn[f"wall/{stage}"] = took
            wall += took
            self._memory(stage)
            for name in [n for n in self.seen if n == f"shuffle/{stage}" or n.startswith(f"shuffle/{stage}: ")]:
                self.drawn[name] = widened(self._sent(name, driver), BYTES_ERROR, self.plan.seed + number)
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

    def _sent(self, name: str, driver: str) -> np.ndarray:
        """Bytes of an exchange: what each table that travels begins with, and what its rows are. Both runs sent tables of
        different sizes, which tells them apart."""
        here, before = self.seen[name], self.warm.get(name, 0.0)
        parts, earlier = len(self.run.tasks), len(self.small[0].tasks)
        apart = earlier - parts * self.small_share
        if driver == "ruled text" and name.startswith(f"shuffle/{score.STAGE}") and before:
            # Counts by bins: what many pages share is sent once.
            grows = (1 + float(np.clip(np.log(here / before) / -np.log(self.small_share), 0, 1))) / 2
            self.plan.rates["shuffle"][name.removeprefix("shuffle/")] = {"bytes": here, "grows": grows}
            return here * self._scaled("ruled") ** grows
        each = min(max(0.0, (before - here * self.small_share) / apart), here / parts) if apart > 0.5 else 0.0
        buckets = self.shards if driver == "records" else self.index_shards
        rows_a_task = np.median(self.covered[driver if driver == "records" else "ruled"]) / self.found.n_tasks
        tables = parcels(float(rows_a_task), self.found.n_tasks, buckets)
        a_unit = (here - each * parts) / max(1, self.seen_of[driver])
        self.plan.rates["shuffle"][name.removeprefix("shuffle/")] = {
            "driver": driver,
            "bytes": a_unit,
            "table_bytes": each,
        }
        return each * tables + (here - each * parts) * self._scaled(driver)

    def _spent(self, name: str, here: float) -> tuple[float, float, float]:
        """Of processor seconds: what the start of workers took, what the stage takes without data, and what the data of the
        sample took. Between two runs of different sizes that are both warm only data differs."""
        cold, warm = self.cold.get(name, 0.0), self.warm.get(name, 0.0)
        data = min(here, max(0.0, here - warm) / (1 - self.small_share)) if self.small_share < 1 else here
        return max(0.0, cold - warm), max(0.0, here - data), data

    def _memory(self, stage: str) -> None:
        """The most that a task of the stage will hold: what grows with what it is given is carried on to what the tasks of
        the whole are given."""
        name = f"memory/{stage}"
        if name not in self.seen:
            return
        n_bytes, small = (sum(f["size"] for f in run.info["inputs"]) for run in (self.run, self.small[0]))
        if stage == curate.STAGE:
            given, earlier, wanted = float(n_bytes), float(small), self.found.n_bytes / self.shards
        else:
            given, earlier = n_bytes / len(self.run.tasks), small / len(self.small[0].tasks)
            wanted = self.found.n_bytes / self.found.n_tasks
        # A cold worker holds what one of the whole run will; a warm one also what other stages left.
        first = self.cold.get(name, self.seen[name])
        here, before = self.seen[name], self.warm.get(name, 0.0)
        here, before = first + max(0.0, here - before), first
        slope = max(0.0, (here - before) / (given - earlier)) if given > 1.5 * earlier else 0.0
        self.plan.rates["memory"][stage] = {"bytes": here, "given": given, "slope": slope}
        beyond = np.linspace(0.4, 1.6, DRAWS)
        grown = slope * max(0.0, wanted - given)
        self.drawn[name] = widened(here + grown * beyond, MEMORY_ERROR, self.plan.seed)

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
