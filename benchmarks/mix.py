"""Tokens a second of mixing: documents of two sources drawn, shuffled and written, beside datatrove's merger.

    python -m venv peer && peer/bin/pip install 'datatrove[processing,io]'
    python -m benchmarks.mix --peer-python peer/bin/python --rounds 5 > benchmarks/mix.txt

Whole processes, started in turn, over the same synthetic documents (log-normal lengths, 2-byte tokens, on a disk's cache).
Ours draws two phases from two sources by weights and quality bins, shuffles each over all of its documents, and writes
tokens, indices, manifests with SHA-256, and where every document came from; in one process, and on Spark with two. The
merger of datatrove shuffles and copies all documents of its files, without weights, phases, hashes or where from. Tokens a
second are those that each wrote.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tables import TOKEN_DOCUMENTS
from trainer.shards import index_bytes

ROOT = Path(__file__).resolve().parent.parent
SHARDS = {"web": (8, 30_000), "wiki": (2, 20_000)}
MIX = """\
name: benchmark
shard_tokens: 20M
sources: {web: tokens/web, wiki: tokens/wiki}
phases:
  - {name: pretrain, tokens: 150M, weights: {web: 0.8, wiki: 0.2}}
  - name: anneal
    tokens: 40M
    weights: {web: 1, wiki: 1}
    within: {web: {quality_bin: {0-9: 0, 10-18: 1, 19: 3}}}
"""
MIXED = 190_000_000

OURS = """
import sys
from jobs.mix import mix
from jobs.session import session
from pipeline.mixing.options import load_mix
folder, out, how = sys.argv[1:]
spark = lambda: session("mix", "local[2]")
mix(load_mix(folder + "/mix.yaml"), out, folder, in_process=0 if how == "spark" else 10**12, spark=spark)
"""

MERGER = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.tokens.merger import DocumentTokenizerMerger
folder, out = sys.argv[1:3]
step = DocumentTokenizerMerger(folder + "/ds", out, "merged", max_tokens_per_file=20_000_000, seed=1, progress=False,
                               save_final_metadata=False)
LocalPipelineExecutor([step], tasks=1, logging_dir=out + "-logs").run()
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_documents, n_tokens = make(folder)
        commands = {
            "crawlmill, one process": ([sys.executable, "-c", OURS], "alone", MIXED),
            "crawlmill, Spark, two": ([sys.executable, "-c", OURS], "spark", MIXED),
            "datatrove's merger": ([options.peer_python, "-c", MERGER], "", n_tokens),
        }
        rates: dict[str, list[float]] = {what: [] for what in commands}
        for _ in range(options.rounds):
            for what, (command, how, written) in commands.items():
                out = folder / "out"
                began = time.monotonic()
                arguments = [str(folder), str(out), *([how] if how else [])]
                done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
                took = time.monotonic() - began
                if done.returncode:
                    sys.exit(f"{what} failed:\n{done.stderr[-2000:]}")
                rates[what].append(written / took / 1e6)
                shutil.rmtree(out)
                shutil.rmtree(folder / "out-logs", ignore_errors=True)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{n_documents:,} documents, {n_tokens:,} tokens; ours writes {MIXED:,} of them; {options.rounds} rounds in turn"
    )
    print()
    print(f"{'':<26}{'M tokens/s':>12}{'least':>8}{'most':>8}{'ratio':>8}")
    peer = statistics.median(rates["datatrove's merger"])
    for what, found in rates.items():
        middle = statistics.median(found)
        print(f"{what:<26}{middle:>12.1f}{min(found):>8.1f}{max(found):>8.1f}{middle / peer:>8.2f}")


def make(folder: Path) -> tuple[int, int]:
    """Token folders as `crawlmill tokenize` writes them, and the same tokens as datatrove does."""
    (folder / "mix.yaml").write_text(MIX)
    (folder / "ds").mkdir()
    n_documents = n_tokens = 0
    for seed, (source, (shards, n)) in enumerate(SHARDS.items()):
        draw = np.random.default_rng(seed)
        into = folder / "tokens" / source
        into.mkdir(parents=True)
        (into / "tokenizer.json").write_text("{}")
        tokenizer = hashlib.sha256(b"{}").hexdigest()
        about = {"sha256": tokenizer, "vocab_size": 50_257, "eos": 0, "eos_token": "<e>", "dtype": "uint16"}
        tokens = 0
        for shard in range(shards):
            lengths = np.minimum(draw.lognormal(6.2, 1.0, n).astype(np.int64) + 1, 100_000)
            body = np.minimum(draw.zipf(1.2, int(lengths.sum())), 50_000).astype("<u2")
            _write(into / f"shard-{shard:05d}", lengths, body, _documents(draw, lengths, f"{seed}-{shard}"), tokenizer)
            body.tofile(folder / "ds" / f"{source}-{shard}.ds")
            np.cumsum(lengths).astype("<u8").tofile(folder / "ds" / f"{source}-{shard}.ds.index")
            tokens += len(body)
        totals = {"shards": shards, "documents": shards * n, "tokens": tokens, "bytes": 4 * tokens}
        body_of = {"tokenizer": about, "run": None, "digest": str(seed), "done": True, "totals": totals}
        (into / "tokens.json").write_text(json.dumps(body_of))
        n_documents, n_tokens = n_documents + shards * n, n_tokens + tokens
    return n_documents, n_tokens


def _documents(draw: np.random.Generator, lengths: np.ndarray, name: str) -> pa.Table:
    n = len(lengths)
    made = {
        "id": [hashlib.md5(f"{name}-{i}".encode()).hexdigest() for i in range(n)],
        "piece": [0] * n,
        "key": draw.integers(0, 2**64, n, np.uint64),
        "source": ["web"] * n,
        "language": ["en"] * n,
        "topic": draw.choice(["health", "law", "games"], n).tolist(),
        "quality_bin": draw.integers(0, 20, n),
        "cluster_size": [1] * n,
        "n_tokens": lengths,
        "n_bytes": lengths * 4,
        "file": [f"curated/{name}.parquet"] * n,
        "row": range(n),
        "warc_file": ["CC-MAIN-2024.warc.gz"] * n,
        "warc_offset": draw.integers(0, 10**9, n),
        "warc_length": draw.integers(0, 10**5, n),
    }
    return pa.table([pa.array(made[field.name], field.type) for field in TOKEN_DOCUMENTS], schema=TOKEN_DOCUMENTS)


def _write(path: Path, lengths: np.ndarray, body: np.ndarray, documents: pa.Table, tokenizer: str) -> None:
    pq.write_table(documents, f"{path}.docs.parquet", compression="zstd")
    Path(f"{path}.bin").write_bytes(body.tobytes())
    Path(f"{path}.idx").write_bytes(index_bytes(lengths, np.dtype("<u2")))
    files = {}
    for suffix in (".bin", ".idx", ".docs.parquet"):
        held = Path(f"{path}{suffix}").read_bytes()
        files[suffix] = {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}
    about = {"shard": path.name, "files": files, "tokenizer": tokenizer, "dtype": "uint16", "eos": 0}
    about |= {"documents": len(lengths), "tokens": len(body), "bytes": 4 * len(body)}
    Path(f"{path}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()
