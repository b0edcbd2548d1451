"""One page in 200,000 versions among 200,000 other pages: does any task of deduplication take much longer than the rest?

    python -m benchmarks.dedup_skew --members 200000 --singles 200000 > benchmarks/dedup_skew.txt

For every stage of Spark's: its tasks, the median and the longest of their times, and the ratio of the two. Workers are
started, and compiled code is loaded, by a small run before. Times of single tasks wander on a machine that does other
things; rows of a bucket do not, but who waits, waits for time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.dataset as ds

from benchmarks.dedup_corpus import base_texts, planted, write

RECIPE = "name: benchmark\ndedup: [exact, {minhash: {ngram: 5, bands: 14, rows: 8, verify: 0.75}}]\n"


def main() -> None:
    """Makes the corpora, runs both, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=200_000)
    parser.add_argument("--singles", type=int, default=200_000)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scratch", type=Path, help="folder for corpora and outputs, else a temporary one")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        _run(options.run, options.cores)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        texts = base_texts()
        write(planted(texts, options.members, options.singles, 1), scratch / "planted", jsonl=False)
        write(planted(texts, 50, 2000, 2), scratch / "small", jsonl=False)
        del texts
        (scratch / "events").mkdir()
        logged = {"enabled": "true", "dir": f"file:{scratch / 'events'}", "compress": "false"}
        conf = " ".join(f"--conf spark.eventLog.{key}={value}" for key, value in logged.items())
        environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": f"{conf} pyspark-shell"}
        command = [sys.executable, "-m", "benchmarks.dedup_skew", "--run", str(scratch), "--cores", str(options.cores)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        _report(scratch, json.loads(done.stdout), options)


def _run(scratch: Path, cores: int) -> None:
    import time

    from jobs.deduplicate import deduplicate_files
    from jobs.session import session
    from pipeline.recipe import parse_recipe

    spark = session("benchmark", f"local[{cores}]")
    seconds = {}
    for name in ("small", "planted"):
        began = time.time()
        files = [str(path) for path in sorted((scratch / name / "parquet").glob("*.parquet"))]
        deduplicate_files(spark, files, str(scratch / f"{name}-out"), parse_recipe(RECIPE))
        seconds[name] = [began, time.time()]
    print(json.dumps(seconds))


def _report(scratch: Path, seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    began = 1000 * seconds["planted"][0]
    jobs: dict[int, str] = {}
    times: dict[int, list[int]] = defaultdict(list)
    (log,) = [path for path in (scratch / "events").rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["Event"] == "SparkListenerJobStart":
            for stage in event["Stage IDs"]:
                jobs.setdefault(stage, (event.get("Properties") or {}).get("spark.jobGroup.id") or "")
        if event["Event"] == "SparkListenerTaskEnd" and event["Task Info"]["Launch Time"] >= began:
            times[event["Stage ID"]].append(event["Task Info"]["Finish Time"] - event["Task Info"]["Launch Time"])
    found = ds.dataset(scratch / "planted-out" / "duplicates").to_table(
        columns=["removed_by", "cluster", "cluster_size"]
    )
    sizes = Counter(found.column("cluster").to_pylist())
    sizes.pop(None, None)
    wall = seconds["planted"][1] - seconds["planted"][0]
    print(f"python -m benchmarks.dedup_skew --members {options.members} --singles {options.singles}")
    print(f"{options.cores} cores, {wall:.1f} s for {options.members + options.singles:,} documents")
    print(f"largest cluster: {max(sizes.values(), default=0):,} pages; clusters: {len(sizes):,}")
    print(f"removed: {dict(Counter(found.column('removed_by').to_pylist()))}\n")
    print(f"{'stage':<30}{'tasks':>7}{'median ms':>11}{'longest ms':>12}{'ratio':>8}{'share of time':>15}")
    total = sum(map(sum, times.values()))
    for stage in sorted(times):
        each = times[stage]
        middle = statistics.median(each)
        print(
            f"{jobs.get(stage, ''):<30}{len(each):>7}{middle:>11.0f}{max(each):>12}{max(each) / max(1, middle):>8.2f}"
            f"{sum(each) / total:>14.1%}"
        )


if __name__ == "__main__":
    main()
