"""Connected components by star steps on Spark: iterations, time, and how even the tasks are where a node is hot.

    python benchmarks/components.py

Graphs: a star of 200,000 leaves among 200,000 pairs, its centre the least, the middle or the greatest of all nodes; and
random graphs of as many edges as nodes. Each runs in a process of its own after a graph of 1,000 edges that starts the
workers. Star steps are forced though one task would be faster at these sizes; the labels are compared byte for byte
with those of scipy in one process (`scipy s`, files included). `cpu s` is the JVM's CPU time in tasks, by Spark's own
account. `slowest/median` is of the run times of tasks, the worst of all stages whose median task takes 0.1 s or more;
`rows` the same of rows that tasks take from a shuffle of 10,000 rows or more, which other load on the machine cannot
change. `driver MB` is the peak resident size of the Python driver (the JVM of a local session holds the executors too).
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from jobs.components import connected_components  # noqa: E402
from jobs.session import session  # noqa: E402
from jobs.store import RunFolder  # noqa: E402

TOP = 2**64 - 1
CENTRES = {"star-least": 0, "star-middle": 2**63, "star-greatest": TOP}
RANDOM = {"random-1m": 1_000_000, "random-2m": 2_000_000}
FILES, SHARDS = 8, 8


def graph(case: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    if case in RANDOM:
        n = RANDOM[case]
        names = rng.integers(0, TOP, n, dtype=np.uint64)
        return names[rng.integers(0, n, n)], names[rng.integers(0, n, n)]
    leaves = rng.integers(1, TOP - 1, 200_000, dtype=np.uint64)
    pairs = rng.integers(1, TOP - 1, (2, 200_000), dtype=np.uint64)
    centre = np.full(200_000, CENTRES[case], dtype=np.uint64)
    order = rng.permutation(400_000)
    return np.concatenate([centre, pairs[0]])[order], np.concatenate([leaves, pairs[1]])[order]


def digest(folder: RunFolder, labels: str) -> str:
    return hashlib.sha256(b"".join(Path(folder.path, name).read_bytes() for name in folder.list(labels))).hexdigest()


def make(case: str, place: str) -> None:
    """Writes the edges of a graph, and its labels as scipy finds them; in a process of its own, to leave none of it."""
    a, b = graph(case)
    for name, length in (("run", len(a)), ("small", 1000)):
        folder = RunFolder(Path(place, name))
        for i in range(FILES):
            part = slice(i, length, FILES)
            folder.write_table(f"edges/part-{i}.parquet", pa.table({"a": a[part], "b": b[part]}))
    folder = RunFolder(Path(place, "run"))
    began = time.perf_counter()
    connected_components(None, folder, "edges", "expected", SHARDS)
    print(json.dumps({"edges": len(a), "scipy": time.perf_counter() - began}))


def one(case: str, cores: int) -> dict[str, float]:
    """Runs one graph; Spark's event log tells of its tasks."""
    with tempfile.TemporaryDirectory() as place:
        events = Path(place, "events")
        events.mkdir()
        logging = {"enabled": "true", "dir": str(events), "compress": "false", "rolling.enabled": "false"}
        confs = " ".join(f"--conf spark.eventLog.{key}={value}" for key, value in logging.items())
        os.environ["PYSPARK_SUBMIT_ARGS"] = f"{confs} pyspark-shell"
        made = subprocess.run(
            [sys.executable, __file__, "--make", case, place], stdout=subprocess.PIPE, check=True, text=True
        )
        spark = session("benchmark", master=f"local[{cores}]")
        connected_components(spark, RunFolder(Path(place, "small")), "edges", "labels", SHARDS, in_one_task=0)
        warm, began = time.time(), time.perf_counter()
        folder = RunFolder(Path(place, "run"))
        log = connected_components(spark, folder, "edges", "labels", SHARDS, in_one_task=0)
        wall = time.perf_counter() - began
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        if digest(folder, "labels") != digest(folder, "expected"):
            raise SystemExit(f"{case}: star steps and scipy differ")
        spark.stop()
        (file,) = events.iterdir()
        return {
            **json.loads(made.stdout),
            "wall": wall,
            "iterations": len(log),
            "driver_mb": driver,
            **evenness(file, warm),
        }


def evenness(events: Path, since: float) -> dict[str, float]:
    seconds, rows, cpu = defaultdict(list), defaultdict(list), 0.0
    with events.open() as lines:
        for event in map(json.loads, lines):
            if event["Event"] == "SparkListenerTaskEnd" and event["Task Info"]["Launch Time"] >= since * 1000:
                metrics = event["Task Metrics"]
                seconds[event["Stage ID"]].append(metrics["Executor Run Time"] / 1e3)
                rows[event["Stage ID"]].append(metrics["Shuffle Read Metrics"]["Total Records Read"])
                cpu += metrics["Executor CPU Time"] / 1e9
    slow = [max(t) / statistics.median(t) for t in seconds.values() if statistics.median(t) >= 0.1]
    # Two shuffles side by side, one of them empty, are not one that is uneven.
    read = [[n for n in counts if n] for counts in rows.values() if sum(counts) >= 10_000]
    return {"cpu": cpu, "slowest": max(slow, default=1.0), "rows": max(max(n) / statistics.median(n) for n in read)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=[*CENTRES, *RANDOM], choices=[*CENTRES, *RANDOM])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(*options.make)
        return
    if options.one:
        print(json.dumps(one(options.one, options.cores)))
        return
    print(f"{options.cores} cores, {options.rounds} rounds, medians")
    print("graph              edges  iterations  wall s   cpu s  scipy s  slowest/median   rows  driver MB")
    for case in options.cases:
        command = [sys.executable, __file__, "--one", case, "--cores", str(options.cores)]
        runs = []
        for _ in range(options.rounds):
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        m = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"{case:14} {m['edges']:9,.0f}  {m['iterations']:10.0f} {m['wall']:7.1f} {m['cpu']:7.1f} "
            f"{m['scipy']:8.2f} {m['slowest']:15.2f} {m['rows']:6.2f} {m['driver_mb']:10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
