"""MinHash deduplication of a folder of Parquet files by datatrove or text-dedup, as `benchmarks/dedup_scale.py` runs them.

Each runs in an environment of its own. Both get the project's settings (14 bands of 8 rows over word 5-grams, as FineWeb
has them) and their faster hash; what has no counterpart is left at its default. The last line printed is JSON: `survivors`
and `seconds` of the stages.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def datatrove(folder: Path, output: Path, cores: int) -> tuple[int, dict[str, float]]:
    """Signatures, buckets, clusters and filter, as datatrove's example for MinHash chains them."""
    import pyarrow.parquet as pq
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(hash_fc="xxhash", precision=64)
    )
    signatures, buckets, removals, kept = (str(output / name) for name in ("signatures", "buckets", "removals", "kept"))
    reader = ParquetReader(str(folder))
    stages = {
        "signatures": ([reader, MinhashDedupSignature(signatures, config)], cores),
        "buckets": ([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
        "clusters": ([MinhashDedupCluster(buckets, removals, config=config)], 1),
        "filter": ([reader, MinhashDedupFilter(removals), ParquetWriter(kept)], cores),
    }
    seconds = {}
    for name, (pipeline, tasks) in stages.items():
        began = time.perf_counter()
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=min(cores, tasks), logging_dir=str(output / "logs" / name)
        ).run()
        seconds[name] = time.perf_counter() - began
    return sum(pq.read_metadata(path).num_rows for path in Path(kept).glob("*.parquet")), seconds


def text_dedup(folder: Path, output: Path, cores: int) -> tuple[int, dict[str, float]]:
    """Its MinHash command. It has no smallest text here, as neither has ours."""
    settings = {
        "path": "parquet",
        "data_files": str(folder / "*.parquet"),
        "split": "train",
        "cache_dir": str(output / "cache"),
        "output": str(output / "kept"),
        "num_proc": cores,
        "column": "text",
        "ngram": 5,
        "min_length": 1,
        "num_perm": 112,
        "b": 14,
        "r": 8,
        "hash_func": "xxh3",
    }
    options = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    environment = {**os.environ, "HF_HOME": str(output / "cache"), "HF_DATASETS_OFFLINE": "1"}
    began = time.perf_counter()
    # As a command: it hands functions of its main module to its workers.
    subprocess.run([sys.executable, "-m", "text_dedup.minhash", *options, "--no-local"], env=environment, check=True)
    seconds = time.perf_counter() - began
    import datasets

    return len(datasets.load_from_disk(str(output / "kept"))), {"all": seconds}


def main() -> None:
    """Runs one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=("datatrove", "text-dedup"))
    parser.add_argument("--input", required=True, type=Path, help="folder of .parquet files with columns id and text")
    parser.add_argument("--output", required=True, type=Path, help="empty folder")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    run = datatrove if options.tool == "datatrove" else text_dedup
    survivors, seconds = run(options.input, options.output, options.cores)
    print(json.dumps({"survivors": survivors, "seconds": seconds}))


if __name__ == "__main__":
    main()
