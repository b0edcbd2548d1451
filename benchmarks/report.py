"""What looking at a run costs beside the run: its report, and the inspector's answers.

    python -m benchmarks.report --rounds 3

Runs and reports are whole processes, in turn; the inspector is asked in this process, every page of it as a browser would.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.testclient import TestClient

from jobs.report.inspector.app import create
from jobs.report.tables import Tables
from jobs.runs import existing_run

DATA = Path(os.environ.get("CRAWLMILL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

PAGES = 40
"""Stories, sources and pairs that are asked for."""


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def crawlmill(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "jobs.cli", *words], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def inspector(folder: Path) -> Iterator[TestClient]:
    app = create(existing_run(str(folder)), "token")
    with TestClient(app, base_url="http://127.0.0.1:80", client=("127.0.0.1", 1)) as client:
        client.get("/?token=token").raise_for_status()
        yield client


def questions(folder: Path) -> dict[str, list[str]]:
    tables = Tables(existing_run(str(folder)))
    ids = [row["doc_id"] for row in tables.rows(f"SELECT doc_id FROM ledger ORDER BY doc_id LIMIT {PAGES}")]
    pairs = tables.rows(f"SELECT doc_id a, duplicate_of b FROM ledger WHERE duplicate_of <> '' LIMIT {PAGES}")
    moved = [f"gopher_quality.word_count.min={40 + i}" for i in range(PAGES)]
    return {
        "search, all": ["/"] * 5,
        "search by text": [f"/?text={word}" for word in ("water", "license", "mailing list", "the", "xylophone")],
        "search by reason and measure": ["/?reason=gates.language&measure=word_count&min=100&sort=most"] * 5,
        "a story": [f"/page/{doc_id}" for doc_id in ids],
        "a source": [f"/page/{doc_id}/source" for doc_id in ids],
        "two pages side by side": [f"/page/{pair['a']}/beside/{pair['b']}" for pair in pairs],
        "thresholds": ["/thresholds"] * 3,
        "a slider moved": [f"/thresholds/answer?{query}" for query in moved],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input", nargs="+", default=[str(DATA / "crawl"), str(DATA / "warc")])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs, reports = [], []
        for number in range(arguments.rounds):
            folder = Path(scratch, str(number))
            inputs = [word for path in arguments.input for word in ("--input", path)]
            words = ("run", "--recipe", "default", *inputs, "--output", str(folder), "--tolerate", "1", "--no-report")
            runs.append(timed(lambda words=words: crawlmill(*words)))
            reports.append(timed(lambda folder=folder: crawlmill("report", str(folder))))
        read = sum(m["tables"]["records"]["rows"] for m in existing_run(str(folder)).manifests("extract"))
        run, report = statistics.median(runs), statistics.median(reports)
        size = (folder / "report.html").stat().st_size
        print(f"{read:,} records, {arguments.rounds} rounds, medians of whole processes")
        print(f"run {run:.1f} s, report {report:.1f} s ({report / run:.3f} of the run), {size / 1e6:.2f} MB")
        print("\nthe inspector, ms: median, slowest")
        with inspector(folder) as client:
            for name, paths in questions(folder).items():
                took = []
                for path in paths:
                    began = time.perf_counter()
                    client.get(path).raise_for_status()
                    took.append(1000 * (time.perf_counter() - began))
                print(f"{name:<30} {statistics.median(took):8.0f} {max(took):8.0f}   ({len(took)} asked)")


if __name__ == "__main__":
    main()
