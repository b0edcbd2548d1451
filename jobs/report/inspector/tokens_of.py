"""Where a page's tokens went: the documents of token folders and mixes that were made of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.store import RunFolder
from jobs.token_folders import folders_of
from pipeline.errors import CrawlmillError

MOST = 200
"""Documents of a folder that are listed."""


@dataclass(frozen=True)
class Held:
    """What a folder of tokens or a mix holds of a page. `rows`: shard, document, first token in the shard, n_tokens, piece,
    epoch, and of a mix phase and part; `problem` says why it cannot be told."""

    folder: str
    kind: str = "tokens"
    rows: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None


def held(folders: Sequence[str], doc_id: str) -> list[Held]:
    """What each folder holds of a page. Never raises for what a folder is."""
    found = []
    for folder in folders:
        try:
            found.append(_held(folder, doc_id))
        except (CrawlmillError, OSError, KeyError, TypeError, pa.ArrowException) as error:
            found.append(Held(folder, problem=f"cannot be read: {' '.join(str(error).split())[:300]}"))
    return found


def _held(path: str, doc_id: str) -> Held:
    root = RunFolder(path)
    schedule = root.read_json("schedule.json")
    if schedule is None:
        if root.read_json("tokens.json") is None:
            return Held(path, problem="holds no tokens: neither tokens.json nor schedule.json")
        return Held(path, "tokens", list(_documents(root, "", doc_id))[:MOST])
    rows: list[dict[str, Any]] = []
    for inner in folders_of(schedule):
        # Names come from a file: they stay inside of the folder.
        if inner.startswith("/") or ".." in inner.split("/"):
            return Held(path, "mix", problem=f"its schedule.json names {inner!r}, which lies outside of it")
        rows += ({**row, "phase": inner} for row in _documents(root, inner, doc_id))
    return Held(path, "mix", rows[:MOST])


def _documents(root: RunFolder, inner: str, doc_id: str) -> Iterator[dict[str, Any]]:
    for name in root.list(inner, ".docs.parquet"):
        with pq.ParquetFile(root.local_copy(name)) as file:
            own = pc.indices_nonzero(pc.equal(file.read(["id"]).column("id"), doc_id))
            if not len(own):
                continue
            columns = [c for c in ("n_tokens", "piece", "epoch", "first", "tokens") if c in file.schema_arrow.names]
            table = file.read(columns)
        ends = pc.cumulative_sum(table.column("n_tokens"))
        for at, row in zip(own.to_pylist(), table.take(own).to_pylist(), strict=True):
            start = ends[at].as_py() - row["n_tokens"]
            shard = name.removesuffix(".docs.parquet")
            yield {"epoch": None, "first": 0, "tokens": None, "phase": None, **row} | {
                "shard": shard.rsplit("/", 1)[-1],
                "document": at,
                "start": start,
                "command": f"crawlmill explain --token {root.path}/{shard}:{start}",
            }
