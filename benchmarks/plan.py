"""Plans of a run, from samples of several shares and seeds, beside the run itself.

    python -m benchmarks.plan --shares 10% 25% --seeds 0 1 2

A cell is plan by run: 1.00 is exact, and `*` marks a run that lies outside the plan's 90 % interval. Processor seconds are
those of the tasks (jobs/measures.py), so a busy machine disturbs them little; wall time is left out. `--actual` takes a run
that was made before by `crawlmill run` over the same inputs with as many cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.throughput import ROOT, default_input
from jobs.plan_report import TOLERANCE, Compared, check
from jobs.runs import existing_run

LEAST_BYTES = 10_000
"""Tables and exchanges of fewer bytes are left out of the tally: they are what files and messages begin with."""


def command(*arguments: str) -> None:
    """Runs `crawlmill …` in a process of its own, as users do: nothing is warm."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    # A run ends with 3 where inputs are damaged, and is whole but for them; a plan with 3 is none.
    if done.returncode not in ((0, 3) if arguments[0] == "run" else (0,)):
        raise SystemExit(f"crawlmill {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")


def counted(row: Compared) -> bool:
    """Whether a figure is one of those that a plan promises: survivors, bytes, shuffles, memory, core-hours."""
    group, _, what = row.name.partition("/")
    if group in ("bytes", "shuffle"):
        return row.actual >= LEAST_BYTES and ": " not in what and what not in ("run.json", "_manifests")
    return group in ("memory", "cpu", "text") or row.name in ("records/read", "records/kept")


def table(results: dict[str, list[Compared]]) -> str:
    """The figures that are promised, a plan a column, and what they come to."""
    names = list(dict.fromkeys(row.name for rows in results.values() for row in rows if counted(row)))
    lines = [f"{'plan by run':32}" + "".join(f"{column:>12}" for column in results)]
    for name in names:
        cells = []
        for rows in results.values():
            row = next((row for row in rows if row.name == name), None)
            cells.append("" if row is None or row.ratio is None else f"{row.ratio:.2f}{' ' if row.covered else '*'}")
        lines.append(f"{name:32}" + "".join(f"{cell:>12}" for cell in cells))
    every = [row for rows in results.values() for row in rows if counted(row) and row.ratio is not None]
    near = sum(abs((row.ratio or 0) - 1) <= TOLERANCE for row in every)
    whole = [row for rows in results.values() for row in rows if not row.name.startswith("wall/")]
    lines += [
        "",
        f"within ±{TOLERANCE:.0%}: {near} of {len(every)} cells ({near / len(every):.0%})",
        f"run within the 90 % interval: {sum(r.covered for r in every)} of these {len(every)} "
        f"({sum(r.covered for r in every) / len(every):.0%}); of all {len(whole)} figures, each reason and exchange "
        f"included, {sum(r.covered for r in whole) / len(whole):.0%}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Plans, runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default=default_input(), help="folder of .warc.gz files")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--shares", nargs="+", default=["10%", "25%"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--actual", help="a finished run to compare with, instead of making one")
    parser.add_argument("--plans", help="folder of plans: those that are there are not made again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        actual = options.actual or str(Path(scratch, "run"))
        common = ("--recipe", options.recipe, "--input", options.input)
        if options.actual is None:
            command("run", *common, "--output", actual, "--tolerate", "1")
        run = existing_run(actual)
        results = {}
        for share in options.shares:
            for seed in options.seeds:
                saved = Path(options.plans or scratch, f"plan-{share}-{seed}.json")
                if not saved.exists():
                    command("plan", *common, "--sample", share, "--seed", str(seed), "--plan", str(saved))
                results[f"{share} #{seed}"] = check(json.loads(saved.read_text()), run)
                print(f"{share} seed {seed} done", file=sys.stderr, flush=True)
    read = sum(file["size"] or 0 for file in run.info["inputs"])
    print(f"{read:,} bytes of archives, recipe {options.recipe}; a column is a share of them and a seed\n")
    print(table(results))


if __name__ == "__main__":
    main()
