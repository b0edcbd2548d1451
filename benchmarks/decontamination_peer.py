"""datatrove's n-gram decontamination, for `benchmarks/decontamination.py`, in an interpreter of its own.

Started with that interpreter, this file answers each JSON line on standard input with one:

    {"version": true}                                     the version
    {"build": {"items": FILE, "folder": F, "query": b}}   what making and loading an index took
    {"find": [text, ...]}                                 the benchmark named for each text, or null
    {"time": [text, ...]}                                 seconds of processor time for all of them

Items are JSON lines of `task`, `query` and `label`. The index is what its `NGramsDecontIndexer` writes: n-grams come from its
`compute_hashes`, files have its format. Its `run` is not used, since that asks for lighteval and its tasks. `query`: grams of
the question too, which it leaves out by default.
"""

import importlib.metadata
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np


def resident() -> int:
    """Bytes that this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def build(items: str, folder: str, query: bool) -> tuple[dict[str, float], Any]:
    """Seconds and bytes of making the index and of loading it, and the filter that has it."""
    from datatrove.pipeline.decont import n_grams

    config = n_grams.NGramsDecontConfig(find_query_ngrams=query)
    indexer = object.__new__(n_grams.NGramsDecontIndexer)  # its own __new__ asks for lighteval
    indexer.__init__(folder, config=config)  # type: ignore[misc]
    indexer.compute_hashes("warm", "up")
    start = time.process_time()
    hashes: dict[str, set[int]] = defaultdict(set)
    with Path(items).open(encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            hashes[item["task"]].update(indexer.compute_hashes(item["label"], item["query"]))
    for task, of in hashes.items():
        path = Path(folder) / f"{task.replace(' ', '_')}.index.hashes"
        np.array(list(of), dtype=config.hash_config.np_descr).tofile(path)
    made = time.process_time() - start
    n = sum(map(len, hashes.values()))
    hashes.clear()

    step = n_grams.NGramsDecontFilter(folder, config=config)
    _ = step.tokenizer
    before, start = resident(), time.process_time()
    step.load_index_hashes()
    return {"made": made, "loaded": time.process_time() - start, "bytes": resident() - before, "grams": n}, step


def main() -> None:
    """Answers until standard input ends."""
    from datatrove.data import Document

    step: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        reply: Any
        if "version" in asked:
            reply = importlib.metadata.version("datatrove")
        elif "build" in asked:
            reply, step = build(**asked["build"])
        elif "find" in asked:
            documents = [Document(text=text, id=str(i)) for i, text in enumerate(asked["find"])]
            for document in documents:
                step.filter(document)
            reply = [document.metadata.get("contaminated_task") for document in documents]
        else:
            documents = [Document(text=text, id=str(i)) for i, text in enumerate(asked["time"])]
            start = time.process_time()
            for document in documents:
                step.filter(document)
            reply = time.process_time() - start
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
