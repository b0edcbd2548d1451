"""What is measured while a run goes on: kept by the driver, written to run.json, told to logs and to Prometheus.

Tasks tell what they measured through an accumulator of Spark's, which takes an attempt's word only when it ends well. The
driver holds sums, a histogram of durations and one bit a task, whatever the number of tasks.
"""

import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from jobs import log, spark_metrics
from jobs.measures import Fact, Numbers, Probe, from_facts, total
from jobs.runs import Run
from pipeline.errors import CrawlmillError

LIVE = "_live.json"
"""File in the run folder with what a run that goes on has measured so far; a run that ends removes it."""

LIVE_SECONDS = 10.0
"""How often that is written."""

_ERROR = re.compile(r"(?:pipeline\.errors\.)?[\w.]*(?:Error|Exception|Exit|Interrupt|Failure)\b(?:: |$)")


@dataclass
class Now:
    """Where a run stands."""

    stage: str | None = None
    step: str | None = None
    done: int = 0
    total: int = 0
    stages_done: int = 0
    moved: float = field(default_factory=time.time)
    """When something was last done, in seconds since 1970."""


@dataclass
class Step:
    """A step that is being done."""

    name: str
    phases: Sequence[str]
    began: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)
    told: set[int] = field(default_factory=set)
    failed: int = 0


class Meter:
    """Measures a run from when this process opened it. One at a time."""

    def __init__(self, run: Run, stages: Sequence[str]) -> None:
        self.run = run
        self.stages = tuple(stages)
        self.now = Now()
        self.steps: dict[str, dict[str, Numbers]] = {}
        self.known: dict[str, float] = {}
        """Counts that a run has told of: records, kept, dropped, error, quarantined."""
        self._lock = threading.RLock()
        self._calls = itertools.count(1)
        self._seen: dict[int, bytearray] = {}
        self._accumulator: Any = None
        self._live_at = time.monotonic()
        self._writing = threading.Lock()
        self._stage_began = time.monotonic()
        self.began = time.monotonic()
        self.opened = time.time()

    @property
    def folder(self) -> str:
        """The run's folder, without credentials."""
        return log.masked(self.run.folder.path)

    # Tasks.

    def probes(self, spark: Any | None, steps: Sequence[str]) -> list[Probe]:
        """A probe for each of the phases of a step; without a session for tasks in this process."""
        if spark is None:
            return [Probe(step, next(self._calls), self.book, alone=False) for step in steps]
        report = _Report(self._reporting(spark.sparkContext))
        where = {"run": self.run.folder.path, "stage": self.now.stage}
        return [Probe(step, next(self._calls), report, True, log.settings(), where) for step in steps]

    def _reporting(self, context: Any) -> Any:
        if self._accumulator is None or self._accumulator[0] is not context:
            self._accumulator = context, context.accumulator(_Facts(self.book), _Sum())
        return self._accumulator[1]

    def book(self, facts: Sequence[Fact]) -> None:
        """Takes what tasks measured. What a task tells twice counts once, but the time that it took both times."""
        with self._lock:
            for fact in facts:
                seen = self._seen.setdefault(fact.call, bytearray())
                at, bit = fact.partition >> 3, 1 << (fact.partition & 7)
                if len(seen) <= at:
                    seen.extend(bytes(at + 1 - len(seen)))
                again = bool(seen[at] & bit)
                seen[at] |= bit
                self._numbers(fact.step).book(fact, again)
            self.now.moved = time.time()

    def _numbers(self, step: str) -> Numbers:
        return self.steps.setdefault(self.now.stage or "", {}).setdefault(step, Numbers())

    # Steps.

    @contextmanager
    def step(self, name: str, phases: Sequence[str], context: Any | None) -> Iterator[Step]:
        """A step, done by jobs of Spark's if there is a `context`; `phases` are the steps that its stages are."""
        step = Step(name, phases or (name,))
        self.now.step, self.now.done, self.now.total = name, 0, 0
        with log.about(step=name):
            log.event("step.start")
            try:
                yield step
            finally:
                log.event("step.end", seconds=round(time.monotonic() - step.began, 3))
                self.now.step = None
                self._numbers(step.phases[0]).sums["cpu_driver_seconds"] += time.process_time() - step.cpu
                if context is None:
                    # Tasks in this process come one after the other, and their steps, too.
                    for phase in step.phases:
                        numbers = self._numbers(phase)
                        numbers.sums["seconds"] = numbers.sums["task_seconds"]

    def settle(self, step: Step, context: Any, group: str, lost: int) -> None:
        """Takes what Spark knows of a step that has ended, well or not."""
        spark_metrics.settle(context)
        stages = spark_metrics.stages_of(context, group)
        if stages:
            self.progress(sum(stage.done for stage in stages), sum(stage.tasks for stage in stages))
        with self._lock:
            # The stages of a chain are made in its order. Should Spark have forgotten some, those were the first.
            phases = [*step.phases][-len(stages) :] if stages else []
            phases = [phases[0]] * (len(stages) - len(phases)) + phases if phases else []
            for phase, stage in zip(phases, stages, strict=True):
                numbers = self._numbers(phase)
                for name, value in stage.numbers.items():
                    numbers.sums[name] += value
                numbers.sums["seconds"] += stage.seconds
                if numbers.extremes is None:  # tasks that measure nothing themselves
                    numbers.sums["tasks"] += stage.done
                    numbers.sums["task_seconds"] += stage.run_seconds
            self._numbers(step.phases[-1]).sums["lost_executors"] += spark_metrics.lost_executors(context) - lost
        for stage in stages:
            if stage.numbers["failed_tasks"]:
                self.tell_failures(step, context, stage.number)

    def tell_failures(self, step: Step, context: Any, stage: int) -> None:
        """Logs attempts that failed since this was last asked for."""
        for failure in spark_metrics.failures(context, stage, step.told):
            part, reason = _first_line(failure.reason)
            log.event(
                "task.failed",
                logging.WARNING,
                task=failure.partition,
                attempt=failure.attempt,
                executor=failure.executor,
                part=part,
                reason=reason,
            )

    def progress(self, done: int, total_: int) -> None:
        """So many tasks of the current step are done."""
        if done != self.now.done:
            self.now.moved = time.time()
        self.now.done, self.now.total = done, total_
        if time.monotonic() - self._live_at >= LIVE_SECONDS:
            self.save_live()

    # Stages.

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage. When it ends, well or not, what was measured stands in `run.info` beside what earlier attempts did."""
        began = self._stage_began = time.monotonic()
        self.now = Now(stage=name, stages_done=self.now.stages_done)
        with log.about(stage=name):
            log.event("stage.start")
            try:
                yield
            except BaseException as error:
                self._end(name, began)
                log.event("stage.failed", logging.ERROR, reason=_first_line(str(error))[1] or type(error).__name__)
                raise
            self._end(name, began)
            self.now.stages_done += 1
            metrics = self.run.info["stages"][name]["metrics"]
            log.event("stage.end", metrics={k: v for k, v in metrics.items() if k not in ("steps", "histogram")})

    def _end(self, name: str, began: float) -> None:
        with self._lock:
            add(self.run.info, name, self.steps.pop(name, {}), time.monotonic() - began)
        self.now.stage = None

    # What others read.

    def so_far(self) -> dict[str, Any]:
        """Facts of every stage, as they will stand in run.json, the one that goes on included."""
        with self._lock:
            info: dict[str, Any] = {"stages": {}}
            for stage, facts in self.run.info["stages"].items():
                if "metrics" in facts:
                    info["stages"][stage] = {"metrics": facts["metrics"]}
            if self.now.stage is not None:
                add(info, self.now.stage, self.steps.get(self.now.stage, {}), time.monotonic() - self._stage_began)
            return {stage: facts["metrics"] for stage, facts in info["stages"].items()}

    def save_live(self) -> None:
        """Writes what was measured so far, and where the run stands. A folder that cannot be written to is left alone."""
        stage = self.now.stage
        if stage is None or not self._writing.acquire(blocking=False):
            return
        try:
            self._live_at = time.monotonic()
            with self._lock:
                info: dict[str, Any] = {"stages": {}}
                add(info, stage, self.steps.get(stage, {}), time.monotonic() - self._stage_began)
            self.run.folder.write_json(LIVE, {"now": vars(self.now), "pid": os.getpid(), **info})
        except CrawlmillError as error:
            log.event("warning", logging.WARNING, reason=str(error))
        finally:
            self._writing.release()


def add(info: dict[str, Any], stage: str, steps: dict[str, Numbers], seconds: float, attempts: int = 1) -> None:
    """Adds what an attempt at a stage measured to what run.json says of earlier ones."""
    facts = info["stages"].setdefault(stage, {})
    before = facts.get("metrics", {})
    every = {name: from_facts(numbers) for name, numbers in before.get("steps", {}).items()}
    for name, numbers in steps.items():
        every.setdefault(name, Numbers())
        every[name] += numbers
    whole = total(every)
    whole.sums["seconds"] = before.get("seconds", 0) + seconds
    facts["metrics"] = {
        "attempts": before.get("attempts", 0) + attempts,
        **whole.facts(),
        "steps": {name: numbers.facts() for name, numbers in every.items()},
    }


class _Facts(list):  # type: ignore[type-arg]
    """The driver's end of the accumulator: it hands on what comes in and keeps nothing."""

    def __init__(self, book: Callable[[Sequence[Fact]], None]) -> None:
        super().__init__()
        self.book = book


class _Sum:
    """How facts of tasks are added: on the driver they go to its books, in a worker they are those of one task."""

    def zero(self, value: Any) -> list[Fact]:
        """No facts."""
        return []

    def addInPlace(self, value: Any, facts: list[Fact]) -> Any:  # noqa: N802  (PySpark's name)
        """What `facts` make of `value`."""
        if isinstance(value, _Facts):
            value.book(facts)
        else:
            value += facts
        return value


@dataclass(frozen=True)
class _Report:
    """Tells the driver, from a worker."""

    accumulator: Any

    def __call__(self, facts: list[Fact]) -> None:
        self.accumulator.add(facts)


def _nobody(facts: Sequence[Fact]) -> None:
    """Forgets."""


_meter: Meter | None = None
_latest: Meter | None = None


def current() -> Meter | None:
    """The meter of the run that this process works at."""
    return _meter


def latest() -> Meter | None:
    """The same, or when that has ended the last one."""
    return _latest


def probes(spark: Any | None, steps: Sequence[str]) -> list[Probe]:
    """A probe for each of these steps, of the run that is measured, if one is."""
    if _meter is not None:
        return _meter.probes(spark, steps)
    return [Probe(step, 0, _nobody, alone=False) for step in steps]


def step(name: str, phases: Sequence[str]) -> AbstractContextManager[Step | None]:
    """A step that this process does itself, of the run that is measured, if one is."""
    return _meter.step(name, phases, None) if _meter is not None else nullcontext()


@contextmanager
def measuring(run: Run, stages: Sequence[str]) -> Iterator[Meter]:
    """Measures what this process does for a run, until the end of the block, and adds it to run.json.

    What a process that was killed had measured is taken over first. Only for the holder of the lock.
    """
    global _meter, _latest
    left = run.folder.read_json(LIVE)
    for stage, facts in (left or {}).get("stages", {}).items():
        metrics = facts["metrics"]
        steps = {name: from_facts(numbers) for name, numbers in metrics["steps"].items()}
        add(run.info, stage, steps, metrics["seconds"])
    attempts = run.info.setdefault("attempts", [])
    if attempts and attempts[-1]["ended"] is None:
        attempts[-1]["outcome"] = "killed"
    mine: dict[str, Any] = {"started": _utc(), "ended": None, "outcome": None}
    attempts.append(mine)
    run.save()
    run.folder.remove(LIVE)
    outer, _meter = _meter, Meter(run, stages)
    _latest = _meter
    with log.about(run=run.folder.path):
        log.event("run.opened" if len(attempts) == 1 else "run.resumed", attempt=len(attempts))
        try:
            yield _meter
            mine["outcome"] = "done"
        except BaseException as error:
            mine["outcome"] = "failed"
            mine["error"] = log.masked(_first_line(str(error))[1] or type(error).__name__)
            raise
        finally:
            mine["ended"] = _utc()
            began, _meter = _meter.began, outer
            log.event("run.end", outcome=mine["outcome"], seconds=round(time.monotonic() - began, 3))
            try:
                run.save()
                run.folder.remove(LIVE)
            except CrawlmillError as error:
                if mine["outcome"] == "done":
                    raise
                # Why the run failed matters more, and may well be the same.
                log.event("warning", logging.WARNING, reason=str(error))


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _first_line(text: str) -> tuple[str | None, str]:
    """Of a traceback or a message: the part that it names, and the line that says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    part = next((line.removeprefix("part: ") for line in lines if line.startswith("part: ")), None)
    said = [line for line in lines if _ERROR.match(line)]
    return part, (said[-1] if said else lines[0] if lines else "")[:500]


def tell(**known: float) -> None:
    """Notes counts of the run that is measured, if one is: records by what became of them."""
    if _meter is not None:
        _meter.known.update(known)


def progress_of(run: Run) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Where a run stands, if it goes on or was killed on its way, and the metrics of every stage so far. Any process may
    ask."""
    info: dict[str, Any] = {"stages": {}}
    for stage, facts in run.info["stages"].items():
        if "metrics" in facts:
            info["stages"][stage] = {"metrics": facts["metrics"]}
    live = run.folder.read_json(LIVE) or {}
    for stage, facts in live.get("stages", {}).items():
        metrics = facts["metrics"]
        steps = {name: from_facts(numbers) for name, numbers in metrics["steps"].items()}
        add(info, stage, steps, metrics["seconds"])
    return live.get("now"), {stage: facts["metrics"] for stage, facts in info["stages"].items()}
