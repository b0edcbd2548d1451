"""Shards of tokens as Megatron-LM reads them: written by `crawlmill tokenize` and `crawlmill mix`, read by the trainer.

    PREFIX.bin    tokens, little-endian, one document after the other, nothing between them
    PREFIX.idx    `MMIDIDX\\0\\0`, u64 version 1, u8 code of the token type, u64 sequences n, u64 documents + 1,
                  i32[n] lengths in tokens, i64[n] where each starts in bytes, i64[documents + 1] first sequence of each
    PREFIX.json   manifest: sizes and SHA-256 of all files of the shard, what its tokens mean

Here a document is one sequence. Shards of any size are read without loading them: files are memory-mapped.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import CrawlmillError


class ShardError(CrawlmillError):
    """Shards that are damaged, incomplete or do not belong together. Says which file and what to do about it."""

    exit_code = 2


DTYPES: dict[int, np.dtype] = {
    code: np.dtype(name) for code, name in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()
}
"""Token types by Megatron-LM's codes. 6 and 7, floating point, are no tokens."""

SHORT_VOCABULARY = 65_500
"""Vocabularies below this fit two bytes, as Megatron-LM draws the line."""

NAME = re.compile(r"shard-(\d{5,})\.json\Z")
"""A shard is there when its manifest is."""

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_AGAIN = "make it again, or fetch it from where it was made"


def dtype_for(vocab_size: int) -> np.dtype:
    """The type of tokens below `vocab_size`: uint16 where they fit, else int32 (the format has no uint32)."""
    return DTYPES[8] if vocab_size < SHORT_VOCABULARY else DTYPES[4]


def index_bytes(lengths: np.ndarray, dtype: np.dtype) -> bytes:
    """The index of documents of so many tokens each. Raises ShardError for a document of 2^31 tokens or more."""
    lengths = np.asarray(lengths, np.int64)
    code = next((code for code, known in DTYPES.items() if known == dtype), None)
    if code is None:
        raise ShardError(f"tokens cannot be {dtype} in a shard; there are {', '.join(map(str, DTYPES.values()))}")
    n = len(lengths)
    if n and (lengths.max() > np.iinfo(np.int32).max or lengths.min() < 0):
        raise ShardError(f"a document of {lengths.max():,} tokens does not fit the format; cut it below 2^31")
    starts = np.zeros(n, "<i8")
    np.cumsum(lengths[:-1], out=starts[1:])
    return b"".join(
        [
            _HEADER.pack(_MAGIC, 1, code, n, n + 1),
            lengths.astype("<i4").tobytes(),
            (starts * dtype.itemsize).tobytes(),
            np.arange(n + 1, dtype="<i8").tobytes(),
        ]
    )


class Shard:
    """One shard, memory-mapped: `shard[i]` is document i, `shard.tokens` all of them in a row.

    `lengths` is int32[n] in tokens, `starts` int64[n + 1] in tokens, `manifest` None for a shard of another maker.
    """

    def __init__(self, prefix: Path, tokens: np.ndarray, lengths: np.ndarray, manifest: dict[str, Any] | None):
        self.prefix = prefix
        self.tokens = tokens
        self.lengths = lengths
        self.starts = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=self.starts[1:])
        self.manifest = manifest

    @classmethod
    def open(cls, prefix: str | Path) -> "Shard":
        """Opens PREFIX.bin and PREFIX.idx. Raises ShardError unless they, and the manifest if there is one, agree."""
        prefix = Path(prefix)
        dtype, lengths = _read_index(_beside(prefix, ".idx"))
        path = _beside(prefix, ".bin")
        expected = int(lengths.sum(dtype=np.int64)) * dtype.itemsize
        size = _size(path)
        if size != expected:
            raise ShardError(f"{path} has {size:,} bytes, its index says {expected:,}; {_AGAIN}")
        tokens = np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)
        shard = cls(prefix, tokens, lengths, _read_manifest(prefix))
        shard._compare()
        return shard

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"document {i} of {n} in {self.prefix}")
        i %= n
        return self.tokens[self.starts[i] : self.starts[i + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def document_at(self, token: int) -> int:
        """Number of the document that token `token` of the shard belongs to. Raises ShardError where there is none."""
        if not 0 <= token < len(self.tokens):
            raise ShardError(f"{self.prefix} has {len(self.tokens):,} tokens, there is no token {token:,} (from 0)")
        return int(np.searchsorted(self.starts, token, side="right")) - 1

    def _compare(self) -> None:
        if self.manifest is None:
            return
        found = {"documents": len(self), "tokens": len(self.tokens), "dtype": str(self.tokens.dtype)}
        for name, value in found.items():
            if self.manifest[name] != value:
                raise ShardError(
                    f"{self.prefix} holds {name} {value}, its manifest says {self.manifest[name]}; {_AGAIN}"
                )
        for suffix, facts in self.manifest["files"].items():
            path = _beside(self.prefix, suffix)
            if _size(path) != facts["bytes"]:
                raise ShardError(f"{path} has {_size(path):,} bytes, its manifest says {facts['bytes']:,}; {_AGAIN}")


def verify(prefix: str | Path) -> None:
    """Reads every file of a shard and compares it with the manifest. Raises ShardError, also where there is none."""
    shard = Shard.open(prefix)
    if shard.manifest is None:
        raise ShardError(f"{prefix} has no manifest ({_beside(shard.prefix, '.json').name}) to compare it with")
    for suffix, facts in shard.manifest["files"].items():
        path = _beside(shard.prefix, suffix)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != facts["sha256"]:
            raise ShardError(
                f"{path} is not what was written: SHA-256 {found[:12]}…, not {facts['sha256'][:12]}…; {_AGAIN}"
            )


class TokenStore:
    """All shards of a folder, in order, as one stream of documents and tokens."""

    def __init__(self, folder: Path, shards: list[Shard], tokenizer: dict[str, Any]):
        self.folder = folder
        self.shards = shards
        self.tokenizer = tokenizer
        self._documents = _ends([len(shard) for shard in shards])
        self._tokens = _ends([len(shard.tokens) for shard in shards])

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> "TokenStore":
        """Opens a folder of `crawlmill tokenize`, or one source of one phase of `crawlmill mix`.

        With `verify` all bytes are compared with what was written. Raises ShardError for shards that are missing, that
        differ in tokenizer or token type from each other or from what the folder says, and for unfinished folders.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ShardError(f"{folder} is no folder on this machine; shards are read from disk")
        expected = _expected(folder)
        numbers = sorted(int(m[1]) for path in folder.iterdir() if (m := NAME.match(path.name)))
        n = len(numbers) if expected["shards"] is None else expected["shards"]
        missing = sorted({*range(n)} - {*numbers})
        if missing or (numbers and numbers[-1] >= n):
            what = f"shard-{missing[0]:05d} is missing" if missing else f"shard-{numbers[-1]:05d} is one too many"
            raise ShardError(f"{folder} should hold {n} shards: {what}; copy the folder as a whole, or make it again")
        prefixes = [folder / f"shard-{number:05d}" for number in numbers]
        shards = [Shard.open(prefix) for prefix in prefixes]
        tokenizer = expected["tokenizer"]
        for shard in shards:
            facts = shard.manifest or {}
            for name, value in (("tokenizer", tokenizer["sha256"]), ("dtype", tokenizer["dtype"])):
                if facts.get(name) != value:
                    raise ShardError(
                        f"{shard.prefix} is of {name} {str(facts.get(name))[:12]}, {folder} of {str(value)[:12]}; "
                        "shards of two tokenizers do not mix: tokenize one of them again"
                    )
        store = cls(folder, shards, tokenizer)
        for name, found in (("documents", store.n_documents), ("tokens", store.n_tokens)):
            if found != expected[name]:
                raise ShardError(f"{folder} holds {found:,} {name}, it should be {expected[name]:,}; {_AGAIN}")
        if verify:
            for prefix in prefixes:
                _verify(prefix)
        return store

    @property
    def n_documents(self) -> int:
        """Documents of all shards."""
        return int(self._documents[-1])

    @property
    def n_tokens(self) -> int:
        """Tokens of all shards, those that end texts included."""
        return int(self._tokens[-1])

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each document starts in the stream: int64[n_documents + 1], in tokens."""
        parts = [shard.starts[:-1] + start for shard, start in zip(self.shards, self._tokens, strict=False)]
        return np.concatenate([*parts, self._tokens[-1:]])

    def __len__(self) -> int:
        return self.n_documents

    def doc(self, i: int) -> np.ndarray:
        """The tokens of document i, that of the end of the text included."""
        if not 0 <= i < len(self):
            raise IndexError(f"document {i} of {len(self)} in {self.folder}")
        at = int(np.searchsorted(self._documents, i, side="right")) - 1
        return self.shards[at][i - int(self._documents[at])]

    def window(self, start: int, n: int) -> np.ndarray:
        """Tokens start … start + n of the stream, across documents and shards. Raises ShardError past the end."""
        if start < 0 or n < 0 or start + n > self.n_tokens:
            raise ShardError(f"{self.folder} has {self.n_tokens:,} tokens, not {start:,} to {start + n:,}")
        at = int(np.searchsorted(self._tokens, start, side="right")) - 1
        parts = []
        while n > 0:
            offset = start - int(self._tokens[at])
            part = self.shards[at].tokens[offset : offset + n]
            parts.append(part)
            start, n, at = start + len(part), n - len(part), at + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, np.dtype(self.tokenizer["dtype"]))


_verify = verify  # `TokenStore.open` has an option of that name


def _ends(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)


def _expected(folder: Path) -> dict[str, Any]:
    """What the folder should hold: tokenizer, documents, tokens and shards (None where that is not written down)."""
    tokens = _read_json(folder / "tokens.json")
    if tokens is not None:
        if not tokens.get("done"):
            raise ShardError(f"{folder} is not finished; run the same `crawlmill tokenize` command again")
        return {"tokenizer": tokens["tokenizer"], **tokens["totals"]}
    root = folder.resolve().parent.parent
    schedule = _read_json(root / "schedule.json")
    mix = _read_json(root / "mix.json")
    if schedule is None or mix is None:
        raise ShardError(f"{folder} holds neither tokens.json nor is part of a mix (schedule.json); name such a folder")
    if not mix.get("done"):
        raise ShardError(f"{root} is not finished; run the same `crawlmill mix` command again")
    own = folder.resolve().relative_to(root).as_posix()
    # Where the sources of a phase are interleaved, all of them name the one folder.
    named = [phase["sources"] for phase in schedule["phases"]] + [schedule.get("held_out", {})]
    entries = [entry for sources in named for entry in sources.values() if entry["folder"] == own]
    if not entries:
        raise ShardError(f"{root / 'schedule.json'} does not name {own}; make the mix again")
    return {
        "tokenizer": schedule["tokenizer"],
        "documents": sum(entry["documents"] for entry in entries),
        "tokens": sum(entry["tokens"] for entry in entries),
        "shards": entries[0].get("shards"),
    }


def _beside(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror}); copy the shard as a whole") from None


def _read_json(path: Path) -> Any | None:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} cannot be read ({error}); {_AGAIN}") from None


def _read_manifest(prefix: Path) -> dict[str, Any] | None:
    path = _beside(prefix, ".json")
    manifest = _read_json(path)
    if manifest is None:
        return None
    missing = [name for name in ("files", "documents", "tokens", "dtype", "tokenizer") if name not in manifest]
    if missing:
        raise ShardError(f"{path} is no manifest of a shard: it does not say {', '.join(missing)}; {_AGAIN}")
    return manifest


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray]:
    """Type and lengths of the documents. Raises ShardError unless the whole index says the same."""
    size = _size(path)
    try:
        with path.open("rb") as file:
            magic, version, code, n, ends = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error) as error:
        raise ShardError(f"{path} is no index of a shard ({error}); {_AGAIN}") from None
    if magic != _MAGIC or version != 1 or code not in DTYPES:
        raise ShardError(f"{path} is no index of a shard of tokens; {_AGAIN}")
    if ends != n + 1:
        raise ShardError(
            f"{path} joins {n:,} sequences to {ends - 1:,} documents; only one a document can be read here"
        )
    if size != _HEADER.size + 12 * n + 8 * ends:
        raise ShardError(f"{path} has {size:,} bytes, not those of {n:,} documents; {_AGAIN}")
    body = np.memmap(path, np.uint8, "r", offset=_HEADER.size)
    lengths = np.array(body[: 4 * n].view("<i4"))
    starts, documents = body[4 * n : 12 * n].view("<i8"), body[12 * n :].view("<i8")
    dtype = DTYPES[code]
    expected = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if (
        (lengths < 0).any()
        or not np.array_equal(starts, expected[:-1] * dtype.itemsize)
        or not np.array_equal(documents, np.arange(n + 1))
    ):
        raise ShardError(f"{path} contradicts itself (lengths, starts and documents); {_AGAIN}")
    return dtype, lengths
