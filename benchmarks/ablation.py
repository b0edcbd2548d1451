"""Does `crawlmill ablate` find a change that is known to be good, and none where there is none? On the real crawl, on a CPU.

    python -m benchmarks.ablation --output benchmarks/ablation.txt

Known good: the curated crawl, against the same pages spoiled: each carries the notices of its site (about a fifth of the
bytes), and copies of one page in twenty are added until they are two fifths of all bytes. `--parts` also tries each alone.

Null: pages are held out once; the rest are halved at random, again and again, and the halves compared. `different` counts
the verdicts; since A and B of each pair may be swapped, and pairs of different halvings put together, the same models give
many more null comparisons, which are not independent but on average as often wrong.

Models are kept in --work, so that the same command goes on. `--run` names a finished run of the crawl; without it one is
made.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import ablation_models
from jobs.ablate import Asked, ablate
from trainer.ablation import compare

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))

NOTICES = (
    "You are here: Home > {site}. Skip to main content. Menu. Search this site. Log in. Create an account. Contact us.",
    "{site} and its partners keep small files on your device to remember what you like and to count visits. Choose "
    "Accept to agree to all of it, or Settings to decide for each purpose. You can change your mind at any time.",
    "Share this page: by mail, by message, on the networks you use. Print. Save for later. Report a problem with it.",
    "Sign up for the newsletter of {site}: news, offers and events once a week, straight to your inbox. No spam, ever.",
    "All rights reserved. Terms of use. Privacy. Accessibility. Site map. {site} answers for no page that it links to.",
)
SMALLER = """
[model]
layers = 1
width = 64
heads = 2
kv_heads = 2
[data]
batch_tokens = 1024
"""
"""For the null comparisons, of which there are many."""

COPIED_PAGES, COPIED_BYTES = 0.05, 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="finished run of the crawl")
    parser.add_argument("--work", type=Path, help="folder for sets and models; a temporary one by default")
    parser.add_argument("--tokens", type=int, default=500_000, help="tokens of a model of the known good comparison")
    parser.add_argument("--splits", type=int, default=12, help="null comparisons")
    parser.add_argument("--null-tokens", type=int, default=65_000, help="tokens of a model of a null comparison")
    parser.add_argument("--parts", action="store_true", help="try notices and copies apart, too")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        run = given.run or crawl_run(work)
        lines = [f"{os.cpu_count()} cores", ""]
        lines += known_good(run, work, given.tokens, given.parts)
        lines += null(run, work, given.splits, given.null_tokens)
    text = "\n".join(lines) + "\n"
    print(text)
    if given.output:
        given.output.write_text(text)


def crawl_run(work: Path) -> Path:
    """A run of the real crawl under the default recipe."""
    command = [sys.executable, "-m", "jobs.cli", "run", "--recipe", "default", "--output", str(work / "run")]
    command += ["--tolerate", "1", "--input", str(DATA / "crawl")]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return work / "run"


def curated(run: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((run / "curated").glob("*.parquet"))])


def write(path: Path, ids: list[str], texts: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # a file that was written again is another one
        pq.write_table(pa.table({"id": ids, "text": texts}), path)
    return str(path)


def spoiled(table: pa.Table, notices: bool, copies: bool) -> tuple[list[str], list[str]]:
    """Ids and texts of the pages with what is planted."""
    ids, texts = table.column("id").to_pylist(), table.column("text").to_pylist()
    if notices:
        sites = [urlsplit(url).hostname or "this site" for url in table.column("url").to_pylist()]
        blocks = [[notice.format(site=site) for notice in NOTICES] for site in sites]
        texts = ["\n".join([*b[:2], t, *b[2:]]) for b, t in zip(blocks, texts, strict=True)]
    if copies:
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(texts))[: int(COPIED_PAGES * len(texts))].tolist()
        own = sum(len(text.encode()) for text in texts)
        planted = 0
        for number, row in enumerate(itertools.cycle(chosen)):
            if planted >= own * COPIED_BYTES / (1 - COPIED_BYTES):
                break
            ids.append(f"copy-{number}")
            texts.append(texts[row])
            planted += len(texts[row].encode())
    return ids, texts


def known_good(run: Path, work: Path, tokens: int, parts: bool) -> list[str]:
    table = curated(run)
    cases = {"notices and copies": (True, True)}
    if parts:
        cases |= {"notices": (True, False), "copies": (False, True)}
    lines = ["KNOWN GOOD: the crawl as it was curated, against the same with what is named planted", ""]
    for name, what in cases.items():
        folder = work / name.replace(" ", "-")
        raw = write(folder / "raw.parquet", *spoiled(table, *what))
        asked = Asked((str(run), raw), names=("clean", "raw"), tokens=tokens)
        report, seconds = timed(asked, folder / "out")
        found = report["overall"]
        lines += [
            f"{name}: {report['verdict']}",
            f"  interval {found['interval'][0]:+.4f} to {found['interval'][1]:+.4f}, by seed "
            + ", ".join(f"{value:+.4f}" for value in found["by_seed"])
            + f"; {found['documents']} held-out pages of {report['held_out']['common']['drawn']}",
            f"  {report['parameters']:,} parameters, {report['tokens']:,} tokens each, {seconds}",
        ]
        for one in (report["sets"]["a"], report["sets"]["b"]):
            lines.append(
                f"  {one['name']}: {one['pages']:,} pages, {one['bytes']:,} bytes, {min(one['tokens']):,} tokens a pair, "
                f"{max(one['epochs']):.2f} epochs, {one['unique_share']:.1%} unique"
            )
    return [*lines, ""]


def timed(asked: Asked, output: Path, workers: int | None = None) -> tuple[dict[str, Any], str]:
    there = (output / "report.json").exists()
    began = time.monotonic()
    report = ablate(asked, str(output), workers, lambda line: print(line, file=sys.stderr))
    noted = output / "seconds.txt"
    if not there:
        noted.write_text(f"{time.monotonic() - began:.0f} s")
    return report, noted.read_text()


def on_one_core(given: tuple[Asked, Path]) -> tuple[dict[str, Any], str]:
    """An ablation by this process, beside others."""
    ablation_models._cores = lambda: 1
    return timed(*given, 1)


def null(run: Path, work: Path, splits: int, tokens: int) -> list[str]:
    table = curated(run)
    ids, texts = table.column("id").to_pylist(), table.column("text").to_pylist()
    order = np.random.default_rng(1).permutation(len(ids)).tolist()
    held, rest = order[:200], order[200:]
    folder = work / f"null-{tokens}"
    folder.mkdir(parents=True, exist_ok=True)
    body = "\n".join(json.dumps({"text": texts[row]}) for row in held)
    (folder / "held.jsonl").write_text(body, encoding="utf-8")
    # One tokenizer for all, so that models of different halvings can be put together.
    everything = write(folder / "all.parquet", [ids[row] for row in rest], [texts[row] for row in rest])
    from jobs.train_tokenizer import train_tokenizer
    from pipeline.tokenizer.training import Options

    train_tokenizer(None, [f"all={everything}"], str(folder / "tokenizer"), Options(vocab_size=4096))
    (folder / "config.toml").write_text(SMALLER)
    asked = []
    for split in range(splits):
        shuffled = np.random.default_rng([2, split]).permutation(rest).tolist()
        parts = [sorted(shuffled[: len(rest) // 2]), sorted(shuffled[len(rest) // 2 :])]
        paths = [
            write(folder / f"{split}" / f"{name}.parquet", [ids[row] for row in part], [texts[row] for row in part])
            for name, part in zip(("one", "other"), parts, strict=True)
        ]
        one = Asked(
            tuple(paths),
            names=("one", "other"),
            tokenizer=str(folder / "tokenizer" / "tokenizer.json"),
            tokens=tokens,
            held_out=(f"web={folder / 'held.jsonl'}",),
            config=str(folder / "config.toml"),
        )
        asked.append((one, folder / f"{split}" / "out"))
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        found_of = list(pool.map(on_one_core, asked))
    different, values, halves, times, kept, scored = 0, [], [], [], [], []
    for split, (report, seconds) in enumerate(found_of):
        found = report["overall"]
        different += found["verdict"] != "none"
        values.append(found["difference"])
        halves.append(found["half"])
        times.append(seconds)
        rows = pq.read_table(folder / f"{split}" / "out" / "documents.parquet")
        kept.append(set(rows.column("id").to_pylist()))
        scored.append(rows)
    wrong, n = recombined(scored, set.intersection(*kept))
    every = ", ".join(f"{value:+.4f}±{half:.4f}" for value, half in zip(values, halves, strict=True))
    return [
        f"NULL: {splits} random halvings of {len(rest)} pages, {tokens:,} tokens each by models of "
        f"{found_of[0][0]['parameters']:,} parameters, compared on 200 others",
        "",
        f"different: {different} of {splits}; {every}",
        f"recombined: {wrong} of {n:,} ({wrong / n:.1%}; 5 % are allowed)",
        f"root mean square of the differences {np.sqrt(np.mean(np.square(values))):.4f}, median half of the interval "
        f"{np.median(halves):.4f}; {', '.join(times)}",
        "",
    ]


def recombined(scored: list[pa.Table], kept: set[str]) -> tuple[int, int]:
    """Of null comparisons made of the pairs of all halvings: how often the verdict is that sets differ, and of how many."""
    tables = [rows.filter(pa.array([id_ in kept for id_ in rows.column("id").to_pylist()])) for rows in scored]
    n_bytes = tables[0].column("bytes").to_numpy().astype(float)
    bits = np.array([[[t.column(f"{s}-{p}").to_numpy() for s in "ab"] for p in range(3)] for t in tables])
    wrong = n = 0
    for chosen in itertools.product(range(len(tables)), repeat=3):
        for swapped in itertools.product((False, True), repeat=2):
            pairs = [bits[split, pair] for pair, split in enumerate(chosen)]
            pairs = [pair[::-1] if turn else pair for pair, turn in zip(pairs, (False, *swapped), strict=True)]
            wrong += compare(np.stack(pairs, 1), n_bytes).verdict != "none"
            n += 1
    return wrong, n


if __name__ == "__main__":
    main()
