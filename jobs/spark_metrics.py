"""What Spark knows of the work it was given, asked of its status store, which is there with and without the UI."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError

FAILURES_TOLD = 20
"""Failed attempts that are looked at of a stage at a time; more of them are counted and not told one by one."""

_PER_SECOND = {"executorRunTime": 1e3, "executorCpuTime": 1e9, "jvmGcTime": 1e3}
_LONG_WAIT_MS = 5_000


class SparkStage(NamedTuple):
    """One of Spark's stages, all attempts of it together."""

    number: int
    name: str
    tasks: int
    done: int
    seconds: float
    run_seconds: float
    numbers: dict[str, float]


class Failure(NamedTuple):
    """An attempt of a task that failed."""

    task: int
    partition: int
    attempt: int
    executor: str
    reason: str


def stages_of(context: Any, group: str) -> list[SparkStage]:
    """The stages of the jobs of a group that ran at all, in the order in which they were made.

    Raises nothing: a store that has forgotten a stage (`spark.ui.retainedStages`) just lacks it.
    """
    tracker = context.statusTracker()
    numbers = set()
    for job in tracker.getJobIdsForGroup(group):
        known = tracker.getJobInfo(job)
        numbers |= set(known.stageIds) if known else set()
    return [stage for number in sorted(numbers) if (stage := _stage(context, number)) is not None]


def _stage(context: Any, number: int) -> SparkStage | None:
    attempts = _attempts(context, number)
    if not attempts:
        return None
    last = attempts[-1]
    began = [at for a in attempts if (at := _millis(a.submissionTime())) is not None]
    ended = [at for a in attempts if (at := _millis(a.completionTime())) is not None]
    seconds = (max(ended) - min(began)) / 1e3 if began and ended else 0.0

    def summed(get: Callable[[Any], float]) -> float:
        return sum(get(attempt) for attempt in attempts)

    def named(method: str) -> float:
        return summed(lambda a: getattr(a, method)()) / _PER_SECOND.get(method, 1)

    return SparkStage(
        number,
        last.name(),
        last.numTasks(),
        int(summed(lambda a: a.numCompletedIndices())),
        max(0.0, seconds),
        named("executorRunTime"),
        {
            "failed_tasks": named("numFailedTasks"),
            "killed_tasks": named("numKilledTasks"),
            "retried_stages": len(attempts) - 1,
            "cpu_jvm_seconds": named("executorCpuTime"),
            "gc_seconds": named("jvmGcTime"),
            "shuffle_written_bytes": named("shuffleWriteBytes"),
            "shuffle_read_bytes": named("shuffleReadBytes"),
            "spilled_memory_bytes": named("memoryBytesSpilled"),
            "spilled_disk_bytes": named("diskBytesSpilled"),
        },
    )


def _attempts(context: Any, number: int) -> list[Any]:
    """What the store knows of each attempt of a stage. A stage that was skipped, or forgotten, has none."""
    store = context._jsc.sc().statusStore()
    try:
        last = store.lastStageAttempt(number)
    except Py4JJavaError:  # there is none
        return []
    found = []
    for attempt in range(last.attemptId()):
        nothing, no_quantiles = context._jvm.java.util.ArrayList(), context._gateway.new_array(context._jvm.double, 0)
        with suppress(Py4JJavaError):
            found.append(store.stageAttempt(number, attempt, False, nothing, False, no_quantiles)._1())
    return [attempt for attempt in (*found, last) if attempt.submissionTime().isDefined()]


def _millis(option: Any) -> int | None:
    return option.get().getTime() if option.isDefined() else None


def settle(context: Any) -> None:
    """Waits until the store has heard of all that has happened, a few seconds at most: it hears of it a little later."""
    with suppress(Py4JJavaError):
        context._jsc.sc().listenerBus().waitUntilEmpty(_LONG_WAIT_MS)


def failures(context: Any, stage: int, told: set[int]) -> list[Failure]:
    """Attempts of tasks of a stage that failed, but those in `told`, to which they are added."""
    jvm, store = context._jvm, context._jsc.sc().statusStore()
    failed = jvm.java.util.ArrayList()
    failed.add(jvm.org.apache.spark.status.api.v1.TaskStatus.FAILED)
    try:
        attempt = store.lastStageAttempt(stage).attemptId()
        rows = store.taskList(stage, attempt, 0, FAILURES_TOLD, jvm.scala.Option.empty(), True, failed)
    except Py4JJavaError:
        return []
    found = []
    for i in range(rows.size()):
        row = rows.apply(i)
        if row.taskId() not in told:
            told.add(row.taskId())
            reason = row.errorMessage()
            text = reason.get() if reason.isDefined() else ""
            found.append(Failure(row.taskId(), row.index(), row.attempt(), row.executorId(), text))
    return found


def lost_executors(context: Any) -> int:
    """Executors that ended and were not asked to, of those that Spark remembers (`spark.ui.retainedDeadExecutors`)."""
    every = context._jsc.sc().statusStore().executorList(False)
    rows = [every.apply(i) for i in range(every.size())]
    reasons = [(r.removeReason().get() if r.removeReason().isDefined() else "") for r in rows if not r.isActive()]
    return sum(not any(word in reason.lower() for word in _ASKED) for reason in reasons)


_ASKED = ("killed by driver", "idle", "decommission")
