"""Spark's settings that jobs start with, all of them and each with its reason. What a user sets wins over every one.

They fit an engine whose tasks are Python processes: the JVM schedules and moves bytes, and knows nothing of tables. What
has no effect on such tasks is not set; docs/cluster.md says of which that is known.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LOG4J = Path(__file__).with_name("log4j2.properties")

PYTHON_MB = 1536
"""Memory of a core beside the JVM: a Python worker, its sandbox child, and what they hold of one part. On the real crawl they
took 805 MB at most with parts of 16 MB, and grow by 8 MB with each MB of a part (docs/cluster.md)."""


class Setting(NamedTuple):
    """A value of Spark's, and why it is that."""

    value: str
    why: str


EVERYWHERE = {
    "spark.sql.session.timeZone": Setting(
        "UTC", "rows of a crawl's index carry times; results must not depend on a host"
    ),
    "spark.executorEnv.OMP_NUM_THREADS": Setting(
        "1", "Arrow sizes its pools by it; a core has a worker of its own, so that pools beside it only compete"
    ),
    "spark.python.worker.faulthandler.enabled": Setting(
        "true", "where native code kills a worker, the error names the line of Python; costs nothing until then"
    ),
}
"""On one machine and on many."""

CLUSTER = {
    "spark.locality.wait": Setting(
        "0s",
        "tasks read by themselves and shuffles come from everywhere: a core that waits 3 s for a near one wins nothing",
    ),
    "spark.task.maxFailures": Setting(
        "8", "a task of a million that meets a lost machine in 1 of 100 tries fails 4 times in a row once in 100 runs"
    ),
    "spark.stage.maxConsecutiveAttempts": Setting(
        "10",
        "each executor lost during a shuffle costs an attempt of the stage before it, and spot machines go in groups",
    ),
    "spark.speculation": Setting(
        "true", "the slowest machine decides when a stage ends; two writers of a part write the same bytes, atomically"
    ),
    "spark.speculation.minTaskRuntime": Setting(
        "60s", "a copy of a shorter task costs as much as it saves (Spark's own is 100 ms)"
    ),
    "spark.decommission.enabled": Setting(
        "true", "a machine that is told of its end takes no new tasks, and what it runs then does not count as failed"
    ),
    "spark.storage.decommission.enabled": Setting(
        "true", "such a machine hands its shuffle files over, so that the stage before is not done again"
    ),
}
"""On every master but local ones."""

LOCAL = {
    "spark.ui.enabled": Setting("false", "progress is in the terminal; saves a second of the start"),
    "spark.driver.host": Setting("localhost", "works without a network, and behind a VPN that renames the host"),
    "spark.driver.bindAddress": Setting("127.0.0.1", "nobody outside has business with it"),
    "spark.driver.memory": Setting("2g", "one JVM schedules and shuffles for all cores; Python has the rest"),
    "spark.ui.showConsoleProgress": Setting("false", "jobs.progress shows it"),
    # Compiling quickly beats compiling well where the JVM only schedules and moves bytes.
    "spark.driver.extraJavaOptions": Setting(
        f"-Dlog4j2.configurationFile=file:{LOG4J} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "of 34 CPU seconds over the 7,077 pages of the real crawl the JVM took 9.6, and takes 5.2 so",
    ),
}
"""On a local master that no spark-submit started."""

_MEMORY = ("spark.executor.memoryOverhead", "spark.executor.memoryOverheadFactor", "spark.executor.pyspark.memory")


def wanted(master: str, given: Mapping[str, str], submitted: bool) -> dict[str, str]:
    """Our settings for a master, less those that are `given`; `submitted` where spark-submit started the JVM already."""
    local = master.startswith("local")
    ours = EVERYWHERE | ((LOCAL if not submitted else {}) if local else CLUSTER)
    found = {name: setting.value for name, setting in ours.items()}
    if not local and not any(name in given for name in _MEMORY):
        # Containers of YARN and Kubernetes are killed where they exceed heap + overhead, and a tenth of the heap, which
        # Spark reserves, is not meant for Python. Standalone workers limit nothing.
        found["spark.executor.memoryOverhead"] = f"{PYTHON_MB * int(given.get('spark.executor.cores', 1))}m"
    return {name: value for name, value in found.items() if name not in given}


def given_in_files(environment: Mapping[str, str], home: str) -> dict[str, str]:
    """What spark-defaults.conf says, of the installation or of SPARK_CONF_DIR; {} where there is none."""
    path = Path(environment.get("SPARK_CONF_DIR") or Path(home, "conf"), "spark-defaults.conf")
    if not path.is_file():
        return {}
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (re.split(r"\s*[=\s]\s*", line, maxsplit=1) for line in lines if line and line[0] not in "#!")
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
