"""The contenders of `benchmarks/tokenise.py` that run in an environment of their own.

    peer/bin/python -P benchmarks/tokenise_peer.py datatrove|pool FOLDER --tokenizer tokenizer.json --output OUT

`datatrove` is its own reader, tokeniser and executor. `pool` does what Megatron-LM's preprocess_data.py does, written
anew: a pool of processes, each with an encoder of `tokenizers`, documents in chunks of 32, ids back to the parent.
"""

import argparse
import importlib.metadata
import multiprocessing
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

END = "<|endoftext|>"
CHUNK = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["datatrove", "pool", "versions"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--tokenizer")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.what == "versions":
        print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("datatrove", "tokenizers")))
    else:
        {"datatrove": datatrove, "pool": pool}[options.what](options.folder, options.tokenizer, options.output)


def datatrove(folder: Path, tokenizer: str, output: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core, as its executor has them
    cores = os.cpu_count() or 1
    steps = [
        ParquetReader(str(folder), glob_pattern="*.parquet"),
        DocumentTokenizer(
            str(output / "tokens"), tokenizer_name_or_path=tokenizer, eos_token=END, shuffle_documents=False
        ),
    ]
    files = len(list(folder.glob("*.parquet")))
    LocalPipelineExecutor(
        steps, tasks=files, workers=min(cores, files), logging_dir=str(output / "logs"), start_method="fork"
    ).run()


_encoder: Any = None
_end: int = 0


def _start(tokenizer: str) -> None:
    global _encoder, _end
    from tokenizers import Tokenizer

    _encoder = Tokenizer.from_file(tokenizer)
    _encoder.encode_special_tokens = True  # a page that spells the token is text, as it is for ours
    _end = _encoder.token_to_id(END)


def _encode(text: str) -> list[int]:
    return [*_encoder.encode(text).ids, _end]


def pool(folder: Path, tokenizer: str, output: Path) -> None:
    import numpy as np

    output.mkdir(parents=True)
    with multiprocessing.Pool(os.cpu_count(), _start, (tokenizer,)) as workers:
        for number, path in enumerate(sorted(folder.glob("*.parquet"))):
            lengths = []
            with (output / f"shard-{number:05d}.bin").open("wb") as sink:
                for ids in workers.imap(_encode, _texts(path), CHUNK):
                    sink.write(np.array(ids, np.uint16).tobytes())
                    lengths.append(len(ids))
            n = len(lengths)
            starts = 2 * np.cumsum([0, *lengths[:-1]], dtype=np.int64)
            head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, n, n + 1)
            parts = (np.array(lengths, np.int32), starts, np.arange(n + 1, dtype=np.int64))
            (output / f"shard-{number:05d}.idx").write_bytes(head + b"".join(part.tobytes() for part in parts))


def _texts(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(1000, columns=["text"]):
        yield from batch.column(0).to_pylist()


if __name__ == "__main__":
    main()
