"""The Spark session that every job shares, and the one way in which jobs hand work to it."""

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import errors
from pipeline.errors import CrawlmillError, UsageError

Watch = Callable[[int, int], None]
"""Called with (tasks done, tasks in all) while a stage runs."""

_DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "2000",
    "spark.sql.adaptive.enabled": "true",
    # Curated partitions are shards: they must not be joined or split by size.
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
    "spark.python.worker.reuse": "true",
    "spark.task.maxFailures": "4",
}

_LOCAL = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "localhost",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.sql.shuffle.partitions": "8",
}


def session(app: str, master: str | None = None) -> Any:
    """The Spark session: the running one, or that of spark-submit, or a local one over all cores.

    Raises UsageError where Java is missing or too old.
    """
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    _check_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(f"crawlmill {app}")
    submitted = "SPARK_ENV_LOADED" in os.environ or "PYSPARK_GATEWAY_PORT" in os.environ
    for key, value in _DEFAULTS.items():
        builder = builder.config(key, value)
    if master or not submitted:
        master = master or "local[*]"
        builder = builder.master(master)
        if master.startswith("local"):
            log4j = Path(__file__).with_name("log4j2.properties")
            # The defaults go first, so that a user's SPARK_CONF_DIR and environment still decide.
            for key, value in _LOCAL.items():
                builder = builder.config(key, value)
            builder = builder.config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile=file:{log4j}")
    return builder.getOrCreate()


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = Path(home, "bin", "java") if home else shutil.which("java")
    if not java or not Path(java).exists():
        raise UsageError(
            "Spark needs Java 17 or newer and none was found; install it (Debian: apt-get install "
            "openjdk-17-jre-headless) or set JAVA_HOME"
        )


def for_each(
    spark: Any,
    tasks: Sequence[Any],
    function: Callable[[Any], None],
    name: str,
    partitions: int | None = None,
    watch: Watch | None = None,
) -> None:
    """Runs `function` on every task, on the executors. Nothing comes back: functions leave manifests in the run folder.

    Raises the CrawlmillError that a task raised, as itself.
    """
    if not tasks:
        return
    context = spark.sparkContext
    slices = min(len(tasks), partitions or len(tasks))
    watched(spark, name, lambda: context.parallelize(tasks, slices).foreach(function), watch, slices)


def watched(spark: Any, name: str, action: Callable[[], Any], watch: Watch | None, total: int) -> Any:
    """Runs a Spark action while telling `watch` how many tasks are done."""
    context = spark.sparkContext
    context.setJobGroup(name, f"crawlmill {name}")
    done = threading.Event()

    def poll() -> None:
        tracker = context.statusTracker()
        while not done.wait(0.25):
            stages = [
                tracker.getStageInfo(s)
                for j in tracker.getJobIdsForGroup(name)
                for s in getattr(tracker.getJobInfo(j), "stageIds", ())
            ]
            known = [s for s in stages if s is not None]
            if known and watch:
                watch(sum(s.numCompletedTasks for s in known), max(total, sum(s.numTasks for s in known)))

    thread = threading.Thread(target=poll, daemon=True) if watch else None
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
