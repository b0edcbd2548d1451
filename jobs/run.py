"""Job: the whole pipeline, from archives to curated shards. `spark-submit jobs/run.py --help`."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jobs import annotate, curate, decontaminate, deduplicate, extract, log, observe, quarantine, score
from jobs.runs import Run, file_accounts, open_run
from jobs.session import session
from pipeline.errors import InputError, UsageError
from pipeline.recipe import Recipe

STAGES = (extract.STAGE, annotate.STAGE, score.STAGE, deduplicate.STAGE, decontaminate.STAGE, curate.STAGE)


class Progress(Protocol):
    """Told of a run as it goes; `jobs.progress` shows it in a terminal."""

    def stage(self, name: str, run: Run) -> None:
        """A stage begins."""

    def tasks(self, done: int, total: int) -> None:
        """So many of its tasks are done."""

    def says(self, words: str) -> None:
        """Something that a user asked to be told."""


@dataclass
class Silent:
    """Tells nobody."""

    def stage(self, name: str, run: Run) -> None:
        """Nothing."""

    def tasks(self, done: int, total: int) -> None:
        """Nothing."""

    def says(self, words: str) -> None:
        """Nothing."""


def run(
    recipe: Recipe,
    inputs: Sequence[str],
    output: str,
    *,
    partitions: int | None = None,
    upto: str = STAGES[-1],
    master: str | None = None,
    index: str | None = None,
    progress: Progress | None = None,
    retry_quarantined: bool = False,
    spark_ui: bool = False,
) -> Run:
    """Runs the stages up to `upto` that are not done yet, and returns the run.

    `index` is a band index that duplicates are looked for in, and that the run is added to. `retry_quarantined`: parts of
    which something was put aside are done again, also by another version than began the run, and so is what follows.
    `spark_ui`: Spark serves its pages, and `progress` is told where.

    Raises InputError, when everything that could be read is done, if more than the tolerated share could not.
    """
    if upto not in STAGES:
        raise UsageError(f"no stage named {upto!r}; stages: {', '.join(STAGES)}")
    progress = progress or Silent()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    opened = open_run(output, recipe, inputs, partitions, cores, other_version=retry_quarantined)
    deduplicate.check_index(opened, index)
    score.check_models(recipe)
    with opened.folder.lock():
        opened.folder.sweep()
        if retry_quarantined:
            release(opened)
        opened.save()
        with observe.measuring(opened, STAGES) as meter:
            _stages(opened, STAGES[: STAGES.index(upto) + 1], partitions, master, index, progress, meter, spark_ui)
            # Workers outlive a killed run for a moment, and may have begun a file since the folder was swept.
            opened.folder.sweep()
            opened.note("quarantined", quarantine.summary(opened.folder))
            # An attempt that could not read more than is tolerated has failed, however much of it is done.
            check_inputs(opened)
    return opened


def _stages(
    opened: Run,
    names: Sequence[str],
    partitions: int | None,
    master: str | None,
    index: str | None,
    progress: Progress,
    meter: observe.Meter,
    spark_ui: bool,
) -> None:
    todo = [name for name in names if not opened.is_done(name)]
    if not todo:
        return
    spark = session("run", master, ui=spark_ui)
    if spark_ui:
        progress.says(f"Spark UI: {spark.sparkContext.uiWebUrl or 'off, since the session was there before'}")
    actions: dict[str, Callable[[], Any]] = {
        extract.STAGE: lambda: extract.extract(spark, opened, partitions, progress.tasks),
        annotate.STAGE: lambda: annotate.annotate(spark, opened, partitions, progress.tasks),
        score.STAGE: lambda: score.score(spark, opened, None, partitions, progress.tasks),
        deduplicate.STAGE: lambda: deduplicate.deduplicate(spark, opened, None, index, partitions, progress.tasks),
        decontaminate.STAGE: lambda: decontaminate.decontaminate(spark, opened, None, partitions, progress.tasks),
        curate.STAGE: lambda: curate.curate(spark, opened, None, partitions, progress.tasks),
    }
    for name in todo:
        progress.stage(name, opened)
        began = time.monotonic()
        with meter.stage(name):
            actions[name]()
        opened.record(name, done=True, seconds=round(time.monotonic() - began, 3))
        if name in quarantine.STAGES:
            _tell_quarantined(opened, name)


def _tell_quarantined(opened: Run, stage: str) -> None:
    found = quarantine.summary(opened.folder)
    observe.tell(quarantined=sum(facts["records"] for facts in found.values()))
    if stage in found:
        log.event("quarantined", logging.WARNING, stage=stage, **found[stage])


def release(opened: Run) -> None:
    """Has the parts done again of which something was put aside, and every stage that saw what was left of them."""
    notes = quarantine.put_aside_of(opened.folder)
    if not notes:
        return
    first = min(STAGES.index(stage) for stage in notes)
    for stage in STAGES[first:]:
        opened.info["stages"].pop(stage, None)
    opened.save()  # before anything is removed: a run that is killed in between finds what it lacks
    for stage, parts in notes.items():
        for later in quarantine.STAGES[quarantine.STAGES.index(stage) :]:
            for note in parts:
                opened.folder.remove(f"_manifests/{later}/{note['part']}.json")
    deduplicate.forget(opened)
    opened.folder.remove_tree(decontaminate.WORK)


def check_inputs(opened: Run) -> None:
    """Raises InputError where more of the inputs could not be read than the recipe tolerates."""
    manifests = opened.manifests(extract.STAGE)
    n_files = max(1, len(opened.info["inputs"]))
    size = max(1, sum(i["size"] or 0 for i in opened.info["inputs"]))
    problems = {path: why for m in manifests for path, why in m.get("unreadable", {}).items()}
    limit = opened.recipe.inputs.tolerate_file
    for file in file_accounts(opened):
        if file.lost_share > limit and file.path not in problems:
            problems[file.path] = f"{file.in_words()}; the recipe tolerates {limit:.1%} of a file"
    unreadable = sorted(problems)
    lost = sum(m.get("bytes_lost", 0) for m in manifests)
    tolerated = opened.recipe.inputs.tolerate
    if len(unreadable) / n_files > tolerated or lost / size > tolerated:
        named = f" ({', '.join(unreadable[:3])}{', …' if len(unreadable) > 3 else ''})" if unreadable else ""
        if len(unreadable) == 1:
            why = problems[unreadable[0]]
            named = f" ({why if unreadable[0] in why else f'{unreadable[0]}: {why}'})"
        raise InputError(
            f"{len(unreadable)} of {n_files} input files could not be read{named}, {lost:,} of {size:,} bytes are "
            f"damaged; the recipe tolerates {tolerated:.1%}. Everything else was processed; the ledger of "
            f"{opened.folder.path} lists what was not (reason source.damaged), and `crawlmill explain` of it the worst files"
        )


if __name__ == "__main__":
    from jobs.submit import main

    main("run")
