"""Job: what a run will come to, foretold from a sample of its inputs. `spark-submit jobs/plan.py --help`.

The stages themselves are run, each three times in a row: on a small part of the sample, which pays for the start of
workers and models; on the same again, which shows what a stage costs however little it does; and on all of the sample,
which shows what data costs. What the last one leaves is counted unit by unit and carried over to the whole.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs import run as whole_run
from jobs import score
from jobs.plan_foresight import Foresight, Plan, Prices
from jobs.plan_sample import Sample, choose, survey, take
from jobs.runs import Run, Task, code_version, existing_run, open_run
from pipeline.errors import UsageError
from pipeline.recipe import Recipe

SAMPLE_BYTES = (16_000_000, 256_000_000)
"""Bytes of a sample of 1 % at least, and at most, where none is asked for."""

CALIBRATION_SHARE = 8
"""The first, small run reads this part of the sample."""

BYTES_A_CORE_SECOND = 300_000
"""Compressed bytes that one core does of the default recipe in a second, start included (benchmarks/throughput.txt: 42 MB
in 25 s on two cores, then without deduplication and scores): enough to say beforehand how long a plan takes."""

START_SECONDS = 40.0
"""What the three runs cost beside reading, on two cores."""

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
        thinned = _thinned(lenient, n_bytes / found.n_bytes)
        names = ("cold", "warm", "run")
        runs = [
            _begin(thinned, part, folder / name, part_bytes)
            for part, name in zip((few, few, taken), names, strict=True)
        ]
        for stage in whole_run.STAGES:
            for run, part in zip(runs, (few, few, taken), strict=True):
                whole_run.run(thinned, part.paths, run.folder.path, upto=stage, master=master, progress=progress)
        done = [existing_run(run.folder.path) for run in runs]
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
        Foresight(
            made, recipe, found, taken, done[2], (done[0], done[1]), cores or here, here, prices or Prices()
        ).fill()
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


def _thinned(recipe: Recipe, share: float) -> Recipe:
    """The recipe for a sample of that share: as many copies of a line stand in it as its share of those that the whole may
    hold. Else pages that differ in nothing but what the whole would cut from them would be taken for near-duplicates."""
    changed = {
        name: options.model_copy(update={"max_copies": max(1, round(options.max_copies * share))})
        for name in ("lines", "paragraphs")
        if (options := getattr(recipe.dedup, name)) is not None
    }
    return recipe.model_copy(update={"dedup": recipe.dedup.model_copy(update=changed)})


def _begin(recipe: Recipe, sample: Sample, output: Path, part_bytes: int) -> Run:
    """A run over a sample that nothing is done of yet, in parts of the size that those of the whole have."""
    total = int(sample.sizes.sum())
    opened = open_run(str(output), recipe, sample.paths, max(1, round(total / (2 * part_bytes))), 1)
    if sample.stretched:
        sizes = [file["size"] for file in opened.info["inputs"]]
        wanted = [
            Task(f"{i:05d}", path, 0, size) for i, (path, size) in enumerate(zip(sample.paths, sizes, strict=True))
        ]
        opened.info["tasks"] = [asdict(task) for task in wanted]
    opened.save()
    return opened


if __name__ == "__main__":
    from jobs.plan_commands import main

    main()
