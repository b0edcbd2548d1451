"""One worker and two: the same job on a standalone cluster, in turn. What doubling the machines gives.

    python -m benchmarks.cluster --rounds 3
    python -m benchmarks.cluster --rounds 1 --repeat 4

A worker has one core and is bound to a processor of its own, with all that it starts, as a machine of one core would be.
With --free it is not: then what a single worker runs beside its task (a sandbox, threads of the JVM) finds the other
processor idle. Master and driver run wherever there is room, so two workers share two processors with them.

`stages` are the seconds that the run's stages took, serial parts included. `job` is spark-submit from start to end; the
start of two JVMs and of executors, which is in it beside the stages, does not grow with the data. A ratio is the median of
the ratios within rounds. The outputs are compared byte by byte.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def default_input() -> str:
    """The real pages that tests use, where they are."""
    return str(Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data")) / "crawl")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every shard."""
    found = [path for table in ("curated", "ledger") for path in (folder / table).glob("*.parquet")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def measure(workers: int, inputs: list[str], options: argparse.Namespace) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds by stage and of the whole job (`job`), and what came out."""
    sys.path.insert(0, str(ROOT / "tests" / "jobs"))
    from cluster import cluster

    with tempfile.TemporaryDirectory() as scratch:
        folder, output = Path(scratch, "cluster"), Path(scratch, "out")
        with cluster(folder, workers, bound=not options.free, memory="2g") as running:
            arguments = ["--recipe", options.recipe, "--input", *inputs, "--output", str(output), "--tolerate", "1"]
            conf = [f"spark.executorEnv.PYTHONPATH={ROOT}", "spark.executor.memory=1g", "spark.driver.memory=1g"]
            began = time.perf_counter()
            running.finish(running.submit("run", *arguments, "--partitions", str(options.partitions), conf=conf), 3000)
            whole = time.perf_counter() - began
        stages = json.loads((output / "run.json").read_text())["stages"]
        return {name: facts["seconds"] for name, facts in stages.items()} | {"job": whole}, digests(output)


def copies(folder: str, repeat: int, into: Path) -> list[str]:
    """The archives of a folder, so many times over under other names."""
    if repeat == 1:
        return [folder]
    for number in range(repeat):
        for path in Path(folder).glob("*.warc.gz"):
            shutil.copyfile(path, into / f"{number}-{path.name}")  # a link would be the same input
    return [str(into)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default=default_input(), help="folder of WARC files")
    parser.add_argument("--recipe", default="default", help="shipped recipe, or path")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured")
    parser.add_argument("--repeat", type=int, default=1, help="times that the archives are read, under other names")
    parser.add_argument("--partitions", type=int, default=16, help="tasks of Spark's, the same for both")
    parser.add_argument("--free", action="store_true", help="do not bind workers to processors")
    options = parser.parse_args()
    seen: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    outputs = []
    with tempfile.TemporaryDirectory() as scratch:
        inputs = copies(options.input, options.repeat, Path(scratch))
        for number in range(options.rounds):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                seconds, written = measure(workers, inputs, options)
                seconds["stages"] = sum(value for name, value in seconds.items() if name != "job")
                seen[workers].append(seconds)
                outputs.append(written)
                print(
                    f"round {number + 1}, {workers} workers: {seconds['stages']:.1f} s, {seconds['job']:.1f} s",
                    file=sys.stderr,
                )
    print(f"{len(outputs[0])} shards, all alike: {all(output == outputs[0] for output in outputs)}")
    print(f"{'seconds':14}{'1 worker':>10}{'2 workers':>10}{'ratio':>8}{'from':>8}{'to':>6}")
    for name in seen[1][0]:
        one, two = ([seconds[name] for seconds in seen[workers]] for workers in (1, 2))
        ratios = [a / b for a, b in zip(one, two, strict=True) if b]
        if ratios:
            figures = f"{statistics.median(one):>10.1f}{statistics.median(two):>10.1f}{statistics.median(ratios):>8.2f}"
            print(f"{name:14}{figures}{min(ratios):>8.2f}{max(ratios):>6.2f}")


if __name__ == "__main__":
    main()
