"""MinHash deduplication from files to files, beside datatrove and text-dedup: same files, same cores, in turn.

    python -m benchmarks.dedup_scale --documents 100000 --rounds 3 \\
        --datatrove-python peer/bin/python --text-dedup-python peer2/bin/python > benchmarks/dedup_scale.txt

The corpus (`benchmarks/dedup_corpus.py`) is real sentences with graded copies whose similarity is known; every tool runs
over it and over one twice as large, 14 bands of 8 rows over word 5-grams. A figure is a median over rounds; a ratio is the
median of ratios within rounds. Wall time is that of the whole command, start-up of interpreters and of the JVM included.
Peak memory is the largest sum of proportional set sizes (a page that two processes share counts once) over the
command's process and all below it, looked at twice a second.

`left` are documents that should have gone: of each group that pairs of true similarity .75 or more link, one stays.
`lost` are documents that went though no document is so similar to them: the peers do not verify what shares a band. The
corpus holds many copies between .5 and .75, so both figures compare tools and say nothing of a crawl.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.dedup_corpus import base_texts, write_corpus
from benchmarks.processes import processes_below
from pipeline.dedup.components import components

ROOT = Path(__file__).resolve().parent.parent


class Tree:
    """Watches a process and all below it: CPU seconds, and the peak of their memory together."""

    def __init__(self, root: int):
        self._root, self._peak, self._done = root, 0.0, threading.Event()
        self._ticks: dict[int, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """CPU seconds and peak memory in MB, once the process has ended."""
        self._done.set()
        self._thread.join()
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK"), self._peak / 1024

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            kilobytes = 0
            for pid in processes_below(self._root):
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                    self._ticks[pid] = int(fields[11]) + int(fields[12])
                    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                    kilobytes += next((int(line.split()[1]) for line in rollup if line.startswith("Pss:")), 0)
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended in the meantime
            self._peak = max(self._peak, kilobytes)


def measure(command: list[str]) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak memory in MB of a command and its children."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:  # a pipe would be held open by helpers that outlive the command
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        tree = Tree(process.pid)
        process.wait()
        wall = time.perf_counter() - began
        cpu, peak = tree.stop()
        said.seek(0)
        output = said.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    return {"wall": wall, "cpu": cpu, "peak_mb": peak}


# ---- ours, as commands


def run_spark(folder: Path, output: Path, cores: int) -> None:
    """The Spark stage."""
    from jobs.deduplicate import deduplicate_files
    from jobs.session import session
    from pipeline.recipe import parse_recipe

    recipe = parse_recipe("name: benchmark\ndedup: [exact, {minhash: {ngram: 5, bands: 14, rows: 8, verify: 0.75}}]\n")
    spark = session("benchmark", f"local[{cores}]")
    deduplicate_files(spark, [str(path) for path in sorted(folder.glob("*.parquet"))], str(output), recipe)


def run_library(folder: Path, output: Path, cores: int) -> None:
    """The library, in this process alone."""
    from pipeline.dedup.local import deduplicate

    documents = pq.read_table(folder)
    found = deduplicate(documents.column("text"))
    (output / "kept").mkdir(parents=True)
    pq.write_table(documents.take(pa.array(found.kept)), output / "kept" / "part-000.parquet")


OURS: dict[str, Callable[[Path, Path, int], None]] = {"crawlmill": run_spark, "library": run_library}


def kept_ids(output: Path) -> list[str]:
    """The ids of the documents that a tool has kept."""
    folder = output / "kept"
    found = [pq.read_table(path, columns=["id"]).column("id") for path in sorted(folder.rglob("*.parquet"))]
    for path in sorted(folder.glob("*.arrow")):
        with pa.memory_map(str(path)) as file:
            found.append(pa.ipc.open_stream(file).read_all().column("id"))
    return [name for column in found for name in column.to_pylist()]


# ---- truth


class Truth:
    """Which documents belong together."""

    def __init__(self, folder: Path):
        pairs = pq.read_table(folder / "truth.parquet")
        a, b = (np.array([int(name[1:]) for name in pairs.column(side).to_pylist()], np.uint64) for side in ("a", "b"))
        nodes, labels = components(a, b)
        self._group = dict(zip(nodes.tolist(), labels.tolist(), strict=True))
        self.documents = pq.read_table(folder / "parquet", columns=["id"]).num_rows
        self.survivors = self.documents - len(nodes) + len(set(labels.tolist()))

    def judge(self, ids: list[str]) -> tuple[int, int]:
        """(left, lost): documents that should have gone, and documents that went without reason."""
        kept = [int(name[1:]) for name in ids]
        groups = [self._group[number] for number in kept if number in self._group]
        left = len(groups) - len(set(groups))
        lost = self.documents - len(self._group) - (len(kept) - len(groups))
        return left, lost + len(set(self._group.values()) - set(groups))


def main() -> None:
    """Makes the corpora, runs the rounds, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datatrove-rounds", type=int, help="fewer rounds for datatrove, which takes the longest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--datatrove-python", help="interpreter with datatrove; left out, it does not run")
    parser.add_argument("--text-dedup-python", help="interpreter with text-dedup; left out, it does not run")
    parser.add_argument("--ours", nargs="*", choices=tuple(OURS), default=tuple(OURS))
    parser.add_argument("--scratch", type=Path, help="folder for corpora and outputs, else a temporary one")
    parser.add_argument("--run", nargs=3, metavar=("NAME", "INPUT", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, folder, output = options.run
        OURS[name](Path(folder), Path(output), options.cores)
        return
    commands: dict[str, list[str]] = {
        name: [
            sys.executable,
            "-m",
            "benchmarks.dedup_scale",
            "--cores",
            str(options.cores),
            "--run",
            name,
            "INPUT",
            "OUTPUT",
        ]
        for name in options.ours
    }
    for tool, python in (("datatrove", options.datatrove_python), ("text-dedup", options.text_dedup_python)):
        if python:
            script = str(ROOT / "benchmarks" / "peer_minhash.py")
            wanted = ["--input", "INPUT", "--output", "OUTPUT", "--cores", str(options.cores)]
            commands[tool] = [str(Path(python).absolute()), script, tool, *wanted]
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        compare(commands, [options.documents, 2 * options.documents], options, Path(scratch))


def compare(commands: dict[str, list[str]], sizes: list[int], options: argparse.Namespace, scratch: Path) -> None:
    """Runs every command over every corpus in every round, in an order that rotates."""
    texts = base_texts()
    for size in sizes:
        write_corpus(texts, size, options.seed, scratch / str(size))
    del texts
    truths = {size: Truth(scratch / str(size)) for size in sizes}
    results: dict[tuple[str, int], list[dict[str, float]]] = {(name, size): [] for name in commands for size in sizes}
    judged: dict[tuple[str, int], tuple[int, int, int]] = {}
    for turn in range(options.rounds):
        names = list(commands)
        for size in sizes:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if name == "datatrove" and options.datatrove_rounds and turn >= options.datatrove_rounds:
                    continue
                output = scratch / "output"
                shutil.rmtree(output, ignore_errors=True)
                output.mkdir()
                places = {"INPUT": str(scratch / str(size) / "parquet"), "OUTPUT": str(output)}
                result = measure([places.get(part, part) for part in commands[name]])
                results[name, size].append(result)
                ids = kept_ids(output)
                judged[name, size] = (len(ids), *truths[size].judge(ids))
                print(f"round {turn + 1}, {size} documents, {name}: {json.dumps(result)}", file=sys.stderr, flush=True)
    report(results, judged, truths, list(commands), sizes, options)


def report(
    results: dict[tuple[str, int], list[dict[str, float]]],
    judged: dict[tuple[str, int], tuple[int, int, int]],
    truths: dict[int, Truth],
    names: list[str],
    sizes: list[int],
    options: argparse.Namespace,
) -> None:
    """Prints what was measured."""
    fewer = f" ({options.datatrove_rounds} of datatrove)" if options.datatrove_rounds else ""
    print(f"{options.cores} cores, {options.rounds} rounds{fewer}, medians; 14 bands of 8 rows, word 5-grams")
    for size in sizes:
        print(f"\n{size:,} documents, of which {truths[size].survivors:,} should stay")
        ratios = "".join(f" {'x ' + other:>12}" for other in names)
        print(
            f"{'':12} {'wall s':>8} {'cpu s':>8} {'docs/s':>8} {'peak MB':>8} {'stay':>8} {'left':>6} {'lost':>6}{ratios}"
        )
        for name in names:
            rows = results[name, size]
            wall, cpu, peak = (statistics.median(r[what] for r in rows) for what in ("wall", "cpu", "peak_mb"))
            line = f"{name:12} {wall:8.1f} {cpu:8.1f} {size / wall:8.0f} {peak:8.0f}"
            line += "".join(f" {figure:{width}}" for figure, width in zip(judged[name, size], (8, 6, 6), strict=True))
            for other in names:
                ratio = statistics.median(
                    o["wall"] / r["wall"] for o, r in zip(results[other, size], rows, strict=False)
                )
                line += f" {ratio:12.2f}"
            print(line)
    print("\nx NAME: wall time of NAME over that of the row. Growth when documents double, wall and peak memory:")
    for name in names:
        small, large = (results[name, size] for size in sizes)
        growth = [
            statistics.median(b[what] / a[what] for a, b in zip(small, large, strict=True))
            for what in ("wall", "peak_mb")
        ]
        print(f"{name:12} {growth[0]:5.2f} {growth[1]:5.2f}")


if __name__ == "__main__":
    main()
