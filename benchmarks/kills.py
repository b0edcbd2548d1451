"""Kills runs at random moments, takes them up again, and compares every byte with a run that was left alone.

    python -m benchmarks.kills --times 30

What is killed with SIGKILL is in turn the whole process group, the driver alone, and one Python worker (which the run is to
survive by itself).
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline.sample import write_sample

TABLES = (
    "records",
    "documents",
    "signals",
    "edits",
    "scores",
    "cuts",
    "duplicates",
    "contamination",
    "ledger",
    "curated",
)
VICTIMS = ("group", "driver", "worker")


def command(web: Path, output: Path) -> list[str]:
    """A run of the default recipe."""
    arguments = ["--input", str(web), "--output", str(output), "--tolerate", "1", "--partitions", "6"]
    return [sys.executable, "-m", "jobs.cli", "run", *arguments]


def started(web: Path, output: Path) -> subprocess.Popen[bytes]:
    """A run in a process group of its own."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(web, output), start_new_session=True, **quiet)  # type: ignore[call-overload]


def digests(output: Path) -> dict[str, str]:
    """SHA-256 of every file of every table."""
    files = (path for table in TABLES for path in (output / table).glob("*.parquet"))
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def workers(session: int) -> list[int]:
    """Python workers of Spark, and their children, in a process's session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and b"pyspark.daemon" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, ValueError, IndexError):
            continue
    return sorted(found)[1:]  # the first is the daemon that forks them


def main() -> None:
    """Prints a line for every kill, and how many runs ended with other bytes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--times", type=int, default=30, help="runs to kill")
    parser.add_argument("--pages", type=int, default=300, help="pages of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        web, alone = Path(scratch, "web"), Path(scratch, "alone")
        write_sample(web, pages=options.pages)
        began = time.monotonic()
        started(web, alone).wait()
        whole = time.monotonic() - began
        expected = digests(alone)
        print(f"left alone: {whole:.1f} s, {len(expected)} files", flush=True)
        for number in range(options.times):
            output = Path(scratch, f"out-{number}")
            victim = VICTIMS[number % len(VICTIMS)]
            moment = chance.uniform(0.1, 0.95) * whole
            run = started(web, output)
            time.sleep(moment)
            reached = kill(run, victim, output, chance)
            again = subprocess.run(command(web, output), capture_output=True, text=True, check=False)
            same = digests(output) == expected
            quiet = not list(output.glob("**/.*.tmp")) and not list(output.glob("_quarantine/*/*"))
            became = "same bytes" if same and quiet and again.returncode == 0 else f"WRONG: {again.stderr[-300:]}"
            outcomes[became[:10]] += 1
            print(f"{number:>3} {victim:<7} at {moment:5.1f} s in {reached:<14} {became}", flush=True)
            subprocess.run(["rm", "-rf", str(output)], check=True)
    print(dict(outcomes))


def kill(run: "subprocess.Popen[bytes]", victim: str, output: Path, chance: random.Random) -> str:
    """Kills, waits until all of a killed run is gone, and says which stage was reached."""
    stages = sorted((p.stat().st_mtime, p.name) for p in (output / "_manifests").glob("*"))
    reached = stages[-1][1] if stages else "the beginning"
    if run.poll() is not None:
        return "its end"
    if victim == "worker":
        found = workers(run.pid)
        if found:
            os.kill(chance.choice(found), signal.SIGKILL)
            run.wait()
            return f"{reached}, {'survived' if run.returncode == 0 else f'exit {run.returncode}'}"
        return f"{reached}, none yet" if run.wait() == 0 else "failed"
    if victim == "driver":
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        return reached  # workers and JVM go on for a moment, beside the run that takes over
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return reached


if __name__ == "__main__":
    main()
