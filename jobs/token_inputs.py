"""Token folders as a mix reads them: their shards, checked against what was written down about them."""

import hashlib
import json
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from jobs.store import RunFolder
from pipeline.errors import InputError, StorageError, UsageError
from pipeline.mixing.options import Mix
from pipeline.tables import TOKEN_DOCUMENTS


class TokenShard(NamedTuple):
    """One shard of a token folder: the source that the mix has it in, its number there, the folder as the mix names it and
    where it is, and what its manifest says."""

    source: str
    number: int
    named: str
    folder: str
    name: str
    documents: int
    tokens: int
    bin_bytes: int
    bin_sha256: str

    @property
    def where(self) -> str:
        """The shard in words."""
        return f"{self.folder}/{self.name}"

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its documents. Raises InputError where they are not what the manifest says."""
        wanted = list(dict.fromkeys(("key", "n_tokens", *(columns or ())))) if columns is not None else None
        try:
            found = RunFolder(self.folder).read_table(f"{self.name}.docs.parquet", wanted)
        except StorageError as error:
            raise InputError(f"token shard {self.where} is damaged: {error}; make the folder again") from error
        missing = {*(wanted or TOKEN_DOCUMENTS.names)} - {*found.column_names}
        if missing:
            raise self._damaged(f"its documents have no column {', '.join(sorted(missing))}")
        if found.column("key").null_count or found.column("n_tokens").null_count:
            raise self._damaged("documents without key or number of tokens")
        tokens = pc.sum(found.column("n_tokens")).as_py() or 0
        if (found.num_rows, tokens) != (self.documents, self.tokens):
            raise self._damaged(
                f"{found.num_rows:,} documents of {tokens:,} tokens, its manifest says {self.documents:,} of {self.tokens:,}"
            )
        return found.combine_chunks()

    def open(self) -> pa.Buffer:
        """Its tokens, as bytes. Raises InputError where they are not those that were written."""
        try:
            if "://" in self.folder:
                body = RunFolder(self.folder).read_bytes(f"{self.name}.bin")
                if body is None:
                    raise self._damaged("its .bin is missing")
                held = pa.py_buffer(body)
            else:
                held = _mapped(Path(self.folder, f"{self.name}.bin"))
        except OSError as error:
            raise InputError(f"cannot read {self.where}.bin: {error.strerror or error}") from error
        except StorageError as error:
            raise InputError(str(error)) from error
        if held.size != self.bin_bytes:
            raise self._damaged(f"its .bin has {held.size:,} bytes, its manifest says {self.bin_bytes:,}")
        if (self.where, self.bin_sha256) not in _VERIFIED:
            if hashlib.sha256(held).hexdigest() != self.bin_sha256:
                raise self._damaged("the SHA-256 of its .bin is not that of its manifest")
            _VERIFIED.add((self.where, self.bin_sha256))
        return held

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"token shard {self.where} is damaged: {why}; remove its .json and run the same `crawlmill tokenize` command "
            "again, it makes what is missing"
        )


_VERIFIED: set[tuple[str, str]] = set()
"""What this process has compared with its manifest: rounds come back to the same shards."""


def _mapped(path: Path) -> pa.Buffer:
    if not path.stat().st_size:
        return pa.py_buffer(b"")
    with path.open("rb") as file:
        return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@dataclass(frozen=True)
class Inputs:
    """The token folders of a mix: all shards, the tokenizer that all share, and by source what identifies each folder."""

    shards: list[TokenShard]
    tokenizer: dict[str, Any]
    folders: dict[str, list[dict[str, Any]]]

    def of(self, source: str) -> list[TokenShard]:
        """The shards of one source."""
        return [shard for shard in self.shards if shard.source == source]


def open_inputs(mix: Mix, base: str | Path) -> Inputs:
    """Looks at the token folders of a mix, which are relative to `base`.

    Raises UsageError for one that is none, is not finished or has another tokenizer, InputError for one that is damaged.
    """
    shards: list[TokenShard] = []
    folders: dict[str, list[dict[str, Any]]] = {}
    first: tuple[str, dict[str, Any]] | None = None
    seen: dict[str, str] = {}
    for source, named in mix.sources.items():
        number = 0
        for name in named:
            folder = RunFolder(name if "://" in name else Path(base, name))
            if (other := seen.setdefault(folder.absolute(), name)) != name:
                raise UsageError(f"token folders {other} and {name} are one; its documents would come twice as often")
            info, manifests = _manifests(folder)
            tokenizer = info["tokenizer"]
            first = first or (folder.path, tokenizer)
            for key in ("sha256", "dtype", "eos"):
                if tokenizer[key] != first[1][key]:
                    one, other = (str(value)[:12] for value in (first[1][key], tokenizer[key]))
                    raise UsageError(
                        f"token folders {first[0]} and {folder.path} differ in their tokenizer ({key} {one} and {other}); "
                        "tokenize one of them again with the other's tokenizer.json"
                    )
            for manifest in manifests:
                files = manifest["files"]
                facts = (manifest["documents"], manifest["tokens"], files[".bin"]["bytes"], files[".bin"]["sha256"])
                shards.append(TokenShard(source, number, name, folder.absolute(), manifest["shard"], *facts))
                number += 1
            identity = [
                (m["shard"], m["files"][".bin"]["sha256"], m["files"][".docs.parquet"]["sha256"]) for m in manifests
            ]
            folders.setdefault(source, []).append(
                {
                    "folder": name,
                    "path": folder.absolute(),
                    "run": info.get("run"),
                    "digest": digest_of([info["digest"], identity]),
                    "shards": len(manifests),
                    "documents": sum(m["documents"] for m in manifests),
                    "tokens": sum(m["tokens"] for m in manifests),
                }
            )
    return Inputs(shards, first[1] if first else {}, folders)


def digest_of(value: Any) -> str:
    """Digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


_SAYS = ("tokenizer.sha256", "tokenizer.dtype", "tokenizer.eos", "digest", "totals.shards", "totals.tokens")

_SHARD_SAYS = (
    *("shard", "documents", "tokens"),
    *(f"files.{suffix}.{fact}" for suffix in ("|bin", "|docs|parquet") for fact in ("bytes", "sha256")),
)
"""What must be said of a folder and of a shard; dots go down, bars stand for dots."""


def _check_keys(folder: RunFolder, name: str, body: Any, keys: Sequence[str]) -> None:
    for key in keys:
        at = body
        for step in key.split("."):
            at = at.get(step.replace("|", ".")) if isinstance(at, dict) else None
        if at is None:
            raise InputError(
                f"token folder {folder.path} is damaged: {name} does not say {key.replace('|', '.')}; make it again"
            )


def _manifests(folder: RunFolder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        info = folder.read_json("tokens.json")
        if info is None:
            raise UsageError(f"{folder.path} is no token folder (no tokens.json); make one with `crawlmill tokenize`")
        if not info.get("done"):
            raise UsageError(f"token folder {folder.path} is not finished; run the same `crawlmill tokenize` again")
        _check_keys(folder, "tokens.json", info, _SAYS)
        names = [f"shard-{number:05d}.json" for number in range(info["totals"]["shards"])]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(folder.read_json, names))
    except StorageError as error:
        raise InputError(f"token folder {folder.path} is damaged: {error}; make it again") from error
    missing = [name for name, manifest in zip(names, found, strict=True) if manifest is None]
    if missing:
        raise InputError(
            f"token folder {folder.path} is damaged: {missing[0]} is missing; copy the folder as a whole, or make it again"
        )
    for name, manifest in zip(names, found, strict=True):
        _check_keys(folder, name, manifest, _SHARD_SAYS)
    total = sum(m["tokens"] for m in found if m)
    if total != info["totals"]["tokens"]:
        raise InputError(
            f"token folder {folder.path} is damaged: its shards hold {total:,} tokens, tokens.json says "
            f"{info['totals']['tokens']:,}; make it again"
        )
    return info, [m for m in found if m]
