"""A real cluster of Spark on loopback: a standalone master and workers from the pyspark wheel, each worker its own host.

Nothing of it outlives the block in which it is used: every process carries a mark in its environment and is killed by it,
also those that nobody's child is any more.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyspark

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(pyspark.__file__).parent
MARK = "CRAWLMILL_CLUSTER"
PATIENCE = 100.0

# JVMs that live for a minute: small, and compiled quickly rather than well.
SMALL = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"


class NoClusterError(RuntimeError):
    """The cluster did not come up, or something awaited on it did not happen."""


@dataclass
class Cluster:
    """A cluster that runs, in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    master: str = ""
    submitted: list[subprocess.Popen[str]] = field(default_factory=list)

    def submit(self, job: str, *arguments: str, conf: Sequence[str] = (), python: str = sys.executable) -> Any:
        """Starts `spark-submit jobs/JOB.py ARGUMENTS`, whose tasks run in `python`. Its words are a file: see `said`."""
        settings = [word for setting in (*self._quick(), *conf) for word in ("--conf", setting)]
        command = [str(HOME / "bin" / "spark-submit"), "--master", self.master, *settings]
        environment = self.environment | {
            "PYTHONPATH": str(ROOT),
            "PYSPARK_PYTHON": python,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
        }
        log = self.folder / f"submitted-{len(self.submitted)}.log"
        with log.open("w") as sink:
            started = subprocess.Popen(
                [*command, str(ROOT / "jobs" / f"{job}.py"), *arguments],
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        self.submitted.append(started)
        return started

    def said(self, started: Any) -> str:
        """The last of what a submitted job said."""
        return (self.folder / f"submitted-{self.submitted.index(started)}.log").read_text(errors="replace")[-3000:]

    def finish(self, started: Any, within: float = 280) -> str:
        """Waits for a submitted job and gives its last words. Raises NoClusterError where it failed."""
        code = started.wait(within)
        if code:
            raise NoClusterError(f"exit code {code}: {self.said(started)}")
        return self.said(started)

    def kill(self, started: Any) -> None:
        """Kills the driver of a submitted job, JVM and Python, as a machine that loses power does."""
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()

    def at_work(self) -> dict[str, int]:
        """Process ids, by their number, of the executors that have Python at work."""
        processes = self.processes()
        busy = {parent(pid) for pid, command in processes.items() if "pyspark.daemon" in command}
        found = {}
        for pid, command in processes.items():
            number = re.search(r"CoarseGrainedExecutorBackend.*--executor-id (\d+)", command)
            if number and pid in busy:
                found[number[1]] = pid
        return found

    def processes(self) -> dict[int, str]:
        """Command lines of all that the cluster is made of and that was submitted to it, by process id."""
        mark = f"{MARK}={self.environment[MARK]}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
            except OSError:
                continue  # it has ended in the meantime, or is another user's
        return {pid: command for pid, command in found.items() if command}  # what has ended has none

    def events(self, started: Any) -> list[dict[str, Any]]:
        """All that the driver of a submitted job noted of stages, tasks and executors."""
        (log,) = self._folder_of_events(self.submitted.index(started)).iterdir()
        return [json.loads(line) for line in log.read_text().splitlines()]

    def _folder_of_events(self, number: int) -> Path:
        return self.folder / f"events-{number}"

    def _quick(self) -> list[str]:
        events = self._folder_of_events(len(self.submitted))
        events.mkdir()
        return [
            "spark.ui.enabled=false",
            "spark.driver.host=127.0.0.1",
            "spark.driver.memory=512m",
            "spark.executor.memory=512m",
            f"spark.driver.extraJavaOptions={SMALL}",
            f"spark.executor.extraJavaOptions={SMALL}",
            "spark.eventLog.enabled=true",
            "spark.eventLog.compress=false",
            "spark.eventLog.rolling.enabled=false",
            f"spark.eventLog.dir=file://{events}",
        ]


@contextmanager
def cluster(
    folder: Path, workers: int = 2, cores: int = 1, memory: str = "1g", bound: bool = False
) -> Iterator[Cluster]:
    """A master and workers with so many cores each. Workers are hosts of their own, 127.0.0.1 and so on: copies of slow tasks
    go to another host only. `bound`: each stays on a processor of its own, with all that it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYSPARK_", "SPARK_")) and k != "PYTHONPATH"}
    made = Cluster(
        folder,
        inherited
        | {
            MARK: uuid.uuid4().hex,
            "PYTHONHASHSEED": "7",  # another one than that of who compares
            "SPARK_HOME": str(HOME),
            "SPARK_NO_DAEMONIZE": "1",
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": SMALL,
            "SPARK_LOCAL_DIRS": str(folder / "local"),
        },
    )
    try:
        made.master = _started(made, "master.Master", "127.0.0.1", [], r"Starting Spark master at (spark://\S+)")
        for number in range(1, workers + 1):
            size = ["--cores", str(cores), "--memory", memory, "--work-dir", str(folder / "work"), made.master]
            where = ["taskset", "--cpu-list", str(number - 1)] if bound else []
            _started(made, "worker.Worker", f"127.0.0.{number}", size, r"Successfully (registered) with master", where)
        yield made
    finally:
        _end(made)


def _started(made: Cluster, name: str, host: str, arguments: list[str], sign: str, where: Sequence[str] = ()) -> str:
    """Starts a daemon of Spark's, waits for its sign of life, and gives what that says."""
    command = [
        *where,
        str(HOME / "bin" / "spark-class"),
        f"org.apache.spark.deploy.{name}",
        "--host",
        host,
        "--port",
        "0",
    ]
    log = made.folder / f"{name}-{host}.log"
    with log.open("w") as sink:
        daemon = subprocess.Popen(
            [*command, "--webui-port", "0", *arguments],
            env=made.environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def lives() -> Any:
        if daemon.poll() is not None:
            raise NoClusterError(f"{name} ended: {log.read_text()[-2000:]}")
        return re.search(sign, log.read_text())

    return until(lives, f"{name} on {host}")[1]


def _end(made: Cluster) -> None:
    """Kills every process of the cluster, again until none is left: workers start executors anew."""
    deadline = time.monotonic() + 20
    while (left := made.processes()) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
        for child in made.submitted:
            child.poll()
    if left:
        raise NoClusterError(f"left over: {left}")


def parent(pid: int) -> int:
    """Process id of the parent; 0 where there is none any more."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def until(happens: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """What the question gives as soon as that is true. Raises NoClusterError after `within` seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if answer := happens():
            return answer
        time.sleep(0.01)
    raise NoClusterError(f"in vain for {within} s: {what}")


def packed_environment(folder: Path) -> Path:
    """An archive as `make archive` makes one, in seconds: our code with its compiled kernels is in it, and of what it needs
    only the place. The interpreter of this test is left out of it: a worker finds our code in the archive or nowhere."""
    root = folder / "packed"
    packages = root / Path(sysconfig.get_path("purelib", vars={"base": ""})).relative_to("/")
    packages.mkdir(parents=True)
    for name in ("pipeline", "classifiers", "jobs", "trainer"):
        shutil.copytree(ROOT / name, packages / name)
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to(
        Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    )
    (root / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    archive = folder / "environment.tar.gz"
    # Numba compares times of files to the nanosecond, which this form keeps.
    command = ["tar", "--format=posix", "--use-compress-program=gzip -1", "-cf", str(archive), "-C", str(root), "."]
    subprocess.run(command, check=True)
    return archive
