"""The Spark session that every job shares, and the one way in which jobs hand work to it."""

import atexit
import itertools
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from jobs import observe, settings, spark_metrics
from pipeline import errors
from pipeline.errors import CrawlmillError, UsageError

Watch = Callable[[int, int], None]
"""Called with (tasks done, tasks in all) while a stage runs."""


def session(app: str, master: str | None = None, ui: bool = False) -> Any:
    """The Spark session: the running one, or that of spark-submit, or a local one over all cores.

    `ui` has a session that is started here serve Spark's pages, which a local one does not by itself.

    Raises UsageError where Java is missing.
    """
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    # spark-submit has started a JVM already and has told it the master.
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if submitted:
        chosen = settings.wanted((given := _submitted_with()).get("spark.master", "local"), given, submitted)
    else:
        _check_java()
        chosen = {"spark.master": _retrying(master or "local[*]")}
        chosen |= settings.wanted(chosen["spark.master"], settings.given_in_files(os.environ, _spark_home()), submitted)
    if ui:
        chosen["spark.ui.enabled"] = "true"
    # What goes wrong between here and the JVM is raised as well; Py4J's account of it in between helps nobody.
    logging.getLogger("py4j").setLevel(logging.CRITICAL + 1)
    builder = SparkSession.builder.appName(f"crawlmill {app}")
    for key, value in chosen.items():
        builder = builder.config(key, value)
    if submitted:
        return builder.getOrCreate()
    interrupted = signal.getsignal(signal.SIGINT)
    with _quiet_launch():
        started = builder.getOrCreate()
    if threading.current_thread() is threading.main_thread():
        # PySpark puts a handler of its own here, which cancels jobs and reports each at length.
        signal.signal(signal.SIGINT, interrupted)
    return started


def _retrying(master: str) -> str:
    """A local master that tries a task whose worker was killed again, twice, as a cluster would: `local[4]` does not."""
    return re.sub(r"\Alocal(?:\[([^,\]]+)\])?\Z", lambda found: f"local[{found[1] or 1},3]", master)


def _submitted_with() -> dict[str, str]:
    """All that spark-submit was told, on its command line and in files."""
    from pyspark import SparkConf, SparkContext

    SparkContext.getSystemProperty("spark.master")  # meets the JVM, of which a SparkConf then takes what it was told
    return dict(SparkConf().getAll())


def _spark_home() -> str:
    import pyspark

    return os.environ.get("SPARK_HOME") or str(Path(pyspark.__file__).parent)


@contextmanager
def _quiet_launch() -> Iterator[None]:
    """Sends what the JVM and the workers say on stderr to a file beside the temporary ones; errors come back in words.

    The JVM greets every start with warnings that a user can do nothing about, and native parsers in workers write there
    what they think of a page.
    """
    log = Path(tempfile.gettempdir()) / f"crawlmill-spark-{os.getpid()}.log"
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with log.open("wb") as sink:
            os.dup2(sink.fileno(), 2)
        atexit.register(log.unlink, missing_ok=True)
        try:
            yield
        except Exception as error:
            said = log.read_text(errors="replace").strip().splitlines()
            why = next((line for line in said if "Exception" in line), said[-1] if said else str(error)).strip()
            atexit.unregister(log.unlink)
            raise UsageError(f"Spark did not start: {why} (all of it: {log})") from error
        finally:
            os.dup2(kept, 2)
    finally:
        os.close(kept)


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = Path(home, "bin", "java") if home else shutil.which("java")
    if not java or not Path(java).exists():
        raise UsageError(
            "Spark needs Java 17 or newer and none was found; install it (Debian: apt-get install "
            "openjdk-17-jre-headless) or set JAVA_HOME"
        )


def slice_count(spark: Any, n_tasks: int, partitions: int | None, least: int) -> int:
    """Tasks of Spark's for `n_tasks` of ours: `partitions` if asked for, else four a core and at least `least`.

    Four a core keep all busy to the end; one for each of a thousand small files would cost more to start than to do.
    """
    return min(n_tasks, partitions or max(4 * spark.sparkContext.defaultParallelism, least))


def for_each(
    spark: Any,
    tasks: Sequence[Any],
    function: Callable[[Any], None],
    name: str,
    partitions: int | None = None,
    least: int = 1,
    watch: Watch | None = None,
) -> None:
    """Runs `function` on every task, on the executors. Nothing comes back: functions leave manifests in the run folder.

    `partitions` asks for so many tasks of Spark's; otherwise there are at least `least`, as far as there is work.

    Raises the CrawlmillError that a task raised, as itself.
    """
    if not tasks:
        return
    slices = slice_count(spark, len(tasks), partitions, least)
    (probe,) = observe.probes(spark, [name])
    moving = spark.sparkContext.parallelize(tasks, slices).mapPartitionsWithIndex(partial(probe.over, function))
    watched(spark, name, lambda: moving.foreach(_ignore), watch, slices, [name])


def _ignore(_: Any) -> None:
    """Functions that leave their results in the run folder yield nothing."""


_groups = itertools.count(1)


def watched(
    spark: Any, name: str, action: Callable[[], Any], watch: Watch | None, total: int, phases: Sequence[str] = ()
) -> Any:
    """Runs a Spark action as the step `name` of a run, while telling `watch` how many tasks are done.

    `phases` are the steps that the stages of the action are, in their order, where they are measured apart.
    """
    context = spark.sparkContext
    meter = observe.current()
    # Names come again, and a group has all jobs that ever had its name.
    group = f"crawlmill {next(_groups)}: {name}"
    stage = meter.now.stage if meter else None
    context.setJobGroup(group, name if stage in (None, name) else f"{stage}: {name}")
    done = threading.Event()
    with meter.step(name, phases, context) if meter else nullcontext() as step:

        def poll() -> None:
            while not done.wait(0.25 if watch else 1.0):
                known = [s for s in _spark_stages(context, group) if s is not None]
                if not known:
                    continue
                finished, every = sum(s.numCompletedTasks for s in known), max(total, sum(s.numTasks for s in known))
                if watch:
                    watch(finished, every)
                if meter and step:
                    meter.progress(finished, every)
                    failed = {s.stageId: s.numFailedTasks for s in known if s.numFailedTasks}
                    if sum(failed.values()) > step.failed:
                        step.failed = sum(failed.values())
                        for number in failed:
                            meter.tell_failures(step, context, number)

        thread = threading.Thread(target=poll, daemon=True) if watch or meter else None
        lost = spark_metrics.lost_executors(context) if meter else 0
        if thread:
            thread.start()
        try:
            return action()
        except Exception as error:
            raise (_as_ours(error) or error) from error
        finally:
            done.set()
            if thread:
                thread.join(timeout=2)
            if meter and step:
                meter.settle(step, context, group, lost)


def _spark_stages(context: Any, group: str) -> list[Any]:
    """What Spark says of the stages of a group's jobs."""
    tracker = context.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    return [tracker.getStageInfo(s) for job in jobs if job for s in job.stageIds]


_RAISED = re.compile(r"pipeline\.errors\.(\w+): (.*)")


def _as_ours(error: BaseException) -> CrawlmillError | None:
    """The error that a task raised, found in what Spark makes of it."""
    if isinstance(error, CrawlmillError):
        return error
    found = _RAISED.findall(str(error))
    if not found:
        return None
    kind, message = found[-1]
    return getattr(errors, kind, CrawlmillError)(message.strip())
