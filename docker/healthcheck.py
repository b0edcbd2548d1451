"""Is this container well? Exit code 0 if so, 1 with a line that says what is not.

What runs here is seen in the process list. Spark's master, worker and history server must answer on their web port. With
HEARTBEAT_FILE (the `metrics.jsonl` of a training run) a process is well while that file is younger than HEARTBEAT_SECONDS
(1800); before the file is there, it is starting. Anything else is well as long as it runs.
"""

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PAGES = {
    "org.apache.spark.deploy.master.Master": "http://{host}:{port}/json/",
    "org.apache.spark.deploy.worker.Worker": "http://{host}:{port}/json/",
    "org.apache.spark.deploy.history.HistoryServer": "http://{host}:{port}/api/v1/applications",
}
PORTS = {
    "Master": "SPARK_MASTER_WEBUI_PORT",
    "Worker": "SPARK_WORKER_WEBUI_PORT",
    "HistoryServer": "SPARK_HISTORY_PORT",
}
DEFAULTS = {"Master": "8080", "Worker": "8081", "HistoryServer": "18080"}


def running() -> list[list[str]]:
    """The command lines of this container's processes."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_bytes().decode("utf-8", "replace").split("\0"))
        except OSError:  # it has ended in the meantime
            continue
    return found


def ask(url: str) -> str | None:
    """What is wrong with a page, or None."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return None if answer.status == 200 else f"{url} answered {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{url}: {error}"


def heartbeat(path: Path, seconds: float) -> str | None:
    """What is wrong with a file that should grow, or None."""
    if not path.exists():
        return None
    age = time.time() - path.stat().st_mtime
    return f"{path} has not grown for {age:.0f} seconds" if age > seconds else None


def problems() -> list[str]:
    """Everything that is wrong."""
    found = []
    for command in running():
        for name, page in PAGES.items():
            if name in command:
                kind = name.rsplit(".", 1)[-1]
                port = os.environ.get(PORTS[kind], DEFAULTS[kind])
                found.append(ask(page.format(host=os.environ.get("HEALTH_HOST", "localhost"), port=port)))
    if path := os.environ.get("HEARTBEAT_FILE"):
        found.append(heartbeat(Path(path), float(os.environ.get("HEARTBEAT_SECONDS", "1800"))))
    return [problem for problem in found if problem]


if __name__ == "__main__":
    wrong = problems()
    print("\n".join(wrong) or "well")
    sys.exit(bool(wrong))
