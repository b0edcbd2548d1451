"""Tokenizers: bytes per second of both engines over texts that they have not seen, and of the checks beside them.

    python benchmarks/tokenizer.py > benchmarks/tokenizer.txt

Sentences in 75 languages, books in English and the code of this project, once each. Every engine reads them in a process of
its own, for the first time (words are not in its cache) and again; medians of three processes. Data as in tests/conftest.py.
"""

import gzip
import json
import multiprocessing
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.tokenizer.encoding import Encoder
from pipeline.tokenizer.files import parse
from pipeline.tokenizer.training import Options, train

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
FAST = {
    "gpt4 triples lines": {},
    "gpt4 single lines": {"digits": "single"},
    "gpt4o triples lines": {"words": "gpt4o"},
    "gpt2 runs runs": {"words": "gpt2", "digits": "runs", "spaces": "runs"},
}


def texts() -> list[str]:
    with gzip.open(DATA / "labelled/langid/lingua_sentences.jsonl.gz", "rt") as file:
        found = [json.loads(line)["text"] for line in file]
    for path in sorted((DATA / "labelled/text").glob("gutenberg_*.txt.gz")):
        book = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        found += [book[i : i + 3000] for i in range(0, len(book), 3000)]
    for package in ("pipeline", "jobs", "classifiers", "tests"):
        found += [path.read_text(encoding="utf-8") for path in sorted((ROOT / package).rglob("*.py"))]
    return found


def measure(body: bytes, engine: str, parallel: bool, array: pa.Array) -> dict[str, float]:
    encoder = Encoder(parse(body), engine, parallel)  # type: ignore[arg-type]
    encoder.round_trips(array.slice(0, 1), encoder.encode(array.slice(0, 1)))
    found = {}
    for name in ("first", "again"):
        began = time.perf_counter()
        encoded = encoder.encode(array)
        found[name] = time.perf_counter() - began
    began = time.perf_counter()
    failed = encoder.round_trips(array, encoded)
    found["round trips"] = time.perf_counter() - began
    return found | {"tokens": len(encoded.tokens), "failed": len(failed)}


def disagreements(body: bytes, array: pa.Array) -> int:
    one, other = (Encoder(parse(body), engine).encode(array) for engine in ("gigatoken", "tokenizers"))
    return sum(not np.array_equal(one.row(i), other.row(i)) for i in range(len(array)))


def main() -> None:
    bodies = texts()
    array = pa.array(bodies, pa.large_string())
    size = sum(len(text.encode()) for text in bodies) / 1e6
    print(f"{len(bodies):,} texts, {size:.1f} MB; {os.cpu_count()} cores, {platform.machine()}", end="; ")
    print(", ".join(f"{name} {version(name)}" for name in ("gigatoken", "tokenizers")))
    spawn = multiprocessing.get_context("spawn")
    for name, changes in FAST.items():
        began = time.perf_counter()
        body = train(bodies, Options.model_validate({"vocab_size": 32_768} | changes))
        trained = time.perf_counter() - began
        print(f"\n{name}, 32,768 tokens, learned in {trained:.1f} s ({size / trained:.1f} MB/s)", end="; ")
        print(f"texts with other tokens: {disagreements(body, array)}")
        for engine, parallel, times in (("gigatoken", False, 3), ("gigatoken", True, 3), ("tokenizers", True, 1)):
            rows = []
            for _ in range(times):
                with spawn.Pool(1) as pool:
                    rows.append(pool.apply(measure, (body, engine, parallel, array)))
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            threads = "all cores" if parallel else "one core"
            print(f"  {engine:10} {threads:9}", end="")
            for key in ("first", "again"):
                print(
                    f"  {key} {size / middle[key]:6.1f} MB/s {middle['tokens'] / 1e6 / middle[key]:6.1f} Mtok/s", end=""
                )
            print(f"  round trips {size / middle['round trips']:5.0f} MB/s, {int(middle['failed'])} fail")


if __name__ == "__main__":
    main()
