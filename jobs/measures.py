"""What tasks measure of themselves, and numbers that add up over tasks, steps and attempts. No Spark.

Spark counts what its own threads do. The work here is done by Python workers beside them and by children of those, so each
task says itself how long it took, how much of the processors and of memory it used and what it read and wrote.
"""

import gc
import logging
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jobs.log import Settings, event, start_in_worker

METRICS: dict[str, tuple[str, str]] = {
    "tasks": ("count", "tasks that were done, each counted once however often it was tried"),
    "items": ("count", "parts, files or buckets that these tasks went through"),
    "failed_tasks": ("count", "attempts of tasks that failed or whose executor was lost, those of lost work included"),
    "killed_tasks": ("count", "attempts that were stopped because another was faster (speculation) or the job ended"),
    "repeated_tasks": ("count", "attempts that did again what had been done, since what was sent on had been lost"),
    "retried_stages": ("count", "times that Spark ran a stage of its own again"),
    "lost_executors": ("count", "executors that ended unasked meanwhile, of the last hundred that Spark remembers"),
    "seconds": ("s", "wall time"),
    "task_seconds": ("s", "wall time of tasks, summed; waiting for what is read and sent is part of it"),
    "cpu_seconds": ("s", "processor time of workers, their children and the JVM's task threads, summed"),
    "cpu_worker_seconds": ("s", "of it that of Python workers, their start and imports included"),
    "cpu_child_seconds": ("s", "of it that of children of workers: the sandboxes in which pages are parsed"),
    "cpu_jvm_seconds": ("s", "of it that of the threads of the JVM that serve tasks (not its compiler or collector)"),
    "cpu_driver_seconds": ("s", "processor time of the Python driver; not part of cpu_seconds"),
    "gc_seconds": ("s", "time that executors spent collecting garbage while tasks ran"),
    "records": ("records", "records of inputs that were read, damaged stretches included"),
    "left": ("records", "records that nothing had turned away when their task was done; of curate those kept"),
    "rows_read": ("rows", "rows of tables that were read from the run folder"),
    "rows_written": ("rows", "rows of tables that were written to it"),
    "bytes_read": ("bytes", "bytes of inputs and of files of tables that were read"),
    "bytes_written": ("bytes", "bytes of files of tables that were written"),
    "shuffle_written_bytes": ("bytes", "bytes that were sent to other tasks, as they lie on the disks of executors"),
    "shuffle_read_bytes": ("bytes", "bytes that were received from other tasks"),
    "spilled_memory_bytes": ("bytes", "bytes in memory of what did not fit and was written to disk"),
    "spilled_disk_bytes": ("bytes", "the same, as it was written"),
    "peak_worker_bytes": ("bytes", "most memory that a Python worker held in a task (resident, shared pages included)"),
    "peak_child_bytes": ("bytes", "most memory that a child of a worker held"),
    "task_seconds_min": ("s", "wall time of the quickest task"),
    "task_seconds_median": ("s", "wall time of the task in the middle, within 2.2 %"),
    "task_seconds_p95": ("s", "wall time that 95 % of tasks do not exceed, within 2.2 %"),
    "task_seconds_max": ("s", "wall time of the slowest task"),
    "skew": ("ratio", "slowest task by the one in the middle; of a whole stage, that of the step with most task time"),
    "slowest": ("name", "the part that took longest in all, or the number of the bucket"),
    "slowest_seconds": ("s", "wall time of that one"),
}
"""Every number of a step, and of a stage, with its unit and its meaning."""

USED = ("task_seconds", "cpu_worker_seconds", "cpu_child_seconds")
"""What is spent again when a task is done again."""

DONE = ("items", "records", "left", "rows_read", "rows_written", "bytes_read", "bytes_written")
"""What counts once, however often it is done."""

SUMS = (
    *("tasks", "failed_tasks", "killed_tasks", "repeated_tasks", "retried_stages", "lost_executors", "seconds"),
    *("cpu_jvm_seconds", "cpu_driver_seconds", "gc_seconds"),
    *("shuffle_written_bytes", "shuffle_read_bytes", "spilled_memory_bytes", "spilled_disk_bytes"),
    *USED,
    *DONE,
)
PEAKS = ("peak_worker_bytes", "peak_child_bytes")

_BINS = 16  # bins an octave of the histogram of durations: a quantile is exact to half a bin, 2.2 %
_LEAST_SECONDS = 2.0**-20


def count(name: str, amount: int) -> None:
    """Adds to what the task that runs in this process has read or written; `name` is one of DONE."""
    with _counting:  # files of a store are read and written by several threads
        _counts[name] += amount


_counts = dict.fromkeys(DONE, 0)
_counting = threading.Lock()


class Fact(NamedTuple):
    """What one attempt of a task measured. `numbers` has the names of USED, DONE and PEAKS."""

    step: str
    call: int
    partition: int
    numbers: dict[str, float]
    slowest: tuple[float, str]


@dataclass
class Numbers:
    """What is known of a step, a stage or several attempts of one. They add up in any order."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    peaks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PEAKS, 0))
    histogram: dict[int, int] = field(default_factory=dict)
    extremes: tuple[float, float] | None = None
    slowest: tuple[float, str] | None = None
    skew: float | None = None

    def book(self, fact: Fact, again: bool = False) -> None:
        """Adds a task; `again` one that was done before."""
        numbers = fact.numbers
        for name in USED:
            self.sums[name] += numbers[name]
        for name in PEAKS:
            self.peaks[name] = max(self.peaks[name], int(numbers[name]))
        if again:
            self.sums["repeated_tasks"] += 1
            return
        for name in DONE:
            self.sums[name] += numbers[name]
        self.sums["tasks"] += 1
        seconds = numbers["task_seconds"]
        least, most = self.extremes or (seconds, seconds)
        self.extremes = min(least, seconds), max(most, seconds)
        self.slowest = max(self.slowest or fact.slowest, fact.slowest)
        bin_ = _bin(seconds)
        self.histogram[bin_] = self.histogram.get(bin_, 0) + 1

    def __iadd__(self, other: "Numbers") -> "Numbers":
        for name in SUMS:
            self.sums[name] += other.sums[name]
        for name in PEAKS:
            self.peaks[name] = max(self.peaks[name], other.peaks[name])
        for bin_, n in other.histogram.items():
            self.histogram[bin_] = self.histogram.get(bin_, 0) + n
        known = [e for e in (self.extremes, other.extremes) if e]
        self.extremes = (min(e[0] for e in known), max(e[1] for e in known)) if known else None
        self.slowest = max((s for s in (self.slowest, other.slowest) if s), default=None)
        return self

    def quantile(self, share: float) -> float | None:
        """The duration that so many of the tasks do not exceed, in seconds, within half a bin."""
        if self.extremes is None:
            return None
        left = math.ceil(share * sum(self.histogram.values()))
        for bin_ in sorted(self.histogram):
            left -= self.histogram[bin_]
            if left <= 0:
                middle = _LEAST_SECONDS * 2 ** ((bin_ + 0.5) / _BINS)
                return min(max(middle, self.extremes[0]), self.extremes[1])
        return self.extremes[1]

    def facts(self) -> dict[str, Any]:
        """Every one of METRICS, and the histogram of durations: how many tasks took up to so many seconds."""
        median = self.quantile(0.5)
        least, most = self.extremes or (None, None)
        skew = self.skew
        if skew is None and median and most is not None:
            skew = most / median
        cpu = sum(self.sums[f"cpu_{part}_seconds"] for part in ("worker", "child", "jvm"))
        every = {
            **self.sums,
            **self.peaks,
            "cpu_seconds": cpu,
            "task_seconds_min": least,
            "task_seconds_median": median,
            "task_seconds_p95": self.quantile(0.95),
            "task_seconds_max": most,
            "skew": skew,
            "slowest": self.slowest[1] if self.slowest else None,
            "slowest_seconds": self.slowest[0] if self.slowest else None,
        }
        facts = {name: _tidy(every[name], unit) for name, (unit, _) in METRICS.items()}
        return {**facts, "histogram": {_edge(bin_): n for bin_, n in sorted(self.histogram.items())}}


def from_facts(facts: Mapping[str, Any]) -> Numbers:
    """The numbers that `Numbers.facts` told, with what they lack as zero: a folder may be older."""
    numbers = Numbers()
    for name in SUMS:
        numbers.sums[name] = facts.get(name) or 0
    for name in PEAKS:
        numbers.peaks[name] = facts.get(name) or 0
    numbers.histogram = {_bin(float(edge)) - 1: n for edge, n in facts.get("histogram", {}).items()}
    if facts.get("task_seconds_max") is not None:
        numbers.extremes = facts["task_seconds_min"], facts["task_seconds_max"]
    if facts.get("slowest") is not None:
        numbers.slowest = facts["slowest_seconds"], facts["slowest"]
    return numbers


def total(steps: Mapping[str, Numbers]) -> Numbers:
    """The numbers of a stage from those of its steps. Its skew is that of the step with most task time: tasks of several
    kinds have no common middle."""
    whole = Numbers()
    for numbers in steps.values():
        whole += numbers
    longest = max(steps.values(), key=lambda n: n.sums["task_seconds"], default=None)
    whole.skew = longest.facts()["skew"] if longest else None
    return whole


def _bin(seconds: float) -> int:
    return math.floor(_BINS * math.log2(max(seconds, _LEAST_SECONDS) / _LEAST_SECONDS) + 1e-3)


def _edge(bin_: int) -> str:
    """The upper bound of a bin, in digits that name it."""
    return f"{_LEAST_SECONDS * 2 ** ((bin_ + 1) / _BINS):.6g}"


def _tidy(value: Any, unit: str) -> Any:
    if value is None or unit == "name":
        return value
    return round(value, 4) if unit in ("s", "ratio") else int(value)


class Clock:
    """Measures one attempt of a task, from its making to `fact`.

    `alone` says that the process does nothing but tasks, one after the other: a worker of Spark's. Then all that it did since
    the last one belongs to this one, its start and its imports to the first.
    """

    def __init__(self, alone: bool = True) -> None:
        key = os.getpid()
        worker, children = _cpu()
        self._before = _settled.get(key, (0.0, 0.0)) if alone else (worker, children)
        self._alone = alone
        self._counts = dict(_counts)
        self._slowest: tuple[float, str] = (0.0, "")
        self._items = 0
        _forget_peak()
        self._began = time.monotonic()

    def item(self, name: str, seconds: float) -> None:
        """Notes that one part is done."""
        self._items += 1
        self._slowest = max(self._slowest, (seconds, name))

    def fact(self, step: str, call: int, partition: int) -> Fact:
        """What was measured."""
        seconds = time.monotonic() - self._began
        worker, children = _cpu()
        if self._alone:
            _settled.clear()
            _settled[os.getpid()] = (worker, children)
        child_seconds = max(0.0, children - self._before[1])
        numbers: dict[str, float] = {
            "task_seconds": seconds,
            "cpu_worker_seconds": max(0.0, worker - self._before[0]),
            "cpu_child_seconds": child_seconds,
            "peak_worker_bytes": _peak(),
            # The system tells the most that any child so far has held; it is of this task only if it had one.
            "peak_child_bytes": _resident(resource.RUSAGE_CHILDREN) if child_seconds else 0,
            **{name: _counts[name] - self._counts[name] for name in DONE},
        }
        numbers["items"] += self._items
        return Fact(step, call, partition, numbers, self._slowest if self._items else (seconds, str(partition)))


_settled: dict[int, tuple[float, float]] = {}
"""Processor time of this process, and of its children, that tasks have accounted for; by process id, since workers are
forked."""


def _cpu() -> tuple[float, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time(), children.ru_utime + children.ru_stime


def _resident(who: int) -> int:
    """Most resident bytes so far."""
    most = resource.getrusage(who).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _forget_peak() -> None:
    """Lets the system begin anew to look for the most memory; where it cannot, peaks are those of the process so far."""
    try:
        Path("/proc/self/clear_refs").write_bytes(b"5")
    except OSError:
        return


def _peak() -> int:
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc on this system, which has another way to tell
    return _resident(resource.RUSAGE_SELF)


def _keep_garbage_small(call: int) -> None:
    """Leaves out of collections what has outlived one, in the first tasks of a step that a worker does.

    Spark's daemon collects garbage after every task, which takes 0.15 to 0.3 s with all that we import, where the task of a
    small bucket takes 0.01 s. The first task imports what the step needs. Doing this in every task would keep 2 kB of each.
    """
    before, tasks = _frozen.get("step", (0, 0))
    tasks = tasks + 1 if before == call else 1
    _frozen["step"] = call, tasks
    if tasks <= _FREEZING_TASKS:
        gc.freeze()


_FREEZING_TASKS = 2
_frozen: dict[str, tuple[int, int]] = {}


def name_of(item: Any) -> str:
    """What an item that a task goes through is called."""
    part = getattr(getattr(item, "task", item), "part", None)
    return str(part if part is not None else item) if isinstance(part or item, str | int) else type(item).__name__


@dataclass(frozen=True)
class Probe:
    """Measures the tasks of one step and tells `report` of each that ends well. It travels to workers.

    `log` is where events go, if they are logged at all, and `where` what they say of where they happen.
    """

    step: str
    call: int
    report: Callable[[list[Fact]], None]
    alone: bool = True
    log: Settings | None = None
    where: dict[str, Any] = field(default_factory=dict)

    def over(self, function: Callable[[Any], Iterable[Any] | None], index: int, items: Iterable[Any]) -> Iterator[Any]:
        """All that `function` yields, if anything, for each of the items of a partition."""
        clock = self._start(index)
        for item in items:
            began = time.monotonic()
            try:
                yield from function(item) or ()
            except Exception as error:
                self._failed(error, name_of(item))
                raise
            clock.item(name_of(item), time.monotonic() - began)
        self.report([clock.fact(self.step, self.call, index)])

    def around(
        self, function: Callable[[int, Iterable[Any]], Iterable[Any]], index: int, items: Iterable[Any]
    ) -> Iterator[Any]:
        """All that `function` yields for a partition, which counts as one item."""
        clock, began = self._start(index), time.monotonic()
        try:
            yield from function(index, items)
        except Exception as error:
            self._failed(error, str(index))
            raise
        clock.item(str(index), time.monotonic() - began)
        self.report([clock.fact(self.step, self.call, index)])

    def _start(self, index: int) -> Clock:
        if self.alone:
            _keep_garbage_small(self.call)
            if self.log is not None:
                start_in_worker(self.log, **self.where, step=self.step, task=index)
        return Clock(self.alone)

    def _failed(self, error: Exception, part: str) -> None:
        """Notes on an error what was being worked at, which the driver finds in what Spark tells of it."""
        error.add_note(f"part: {part}")
        if self.alone and self.log is not None:
            event("task.error", logging.ERROR, part=part, reason=f"{type(error).__name__}: {error}")
