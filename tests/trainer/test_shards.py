"""Shards hold what was put in them, as their format says, and say so when they do not."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CrawlmillError
from trainer.shards import DTYPES, Shard, ShardError, TokenStore, dtype_for, index_bytes, verify

TOKENIZER = {"sha256": "ab" * 32, "vocab_size": 1000, "eos": 0, "eos_token": "<|endoftext|>", "dtype": "uint16"}

Documents = Sequence[Sequence[int]]


def write(
    prefix: Path, documents: Documents, dtype: np.dtype = DTYPES[8], tokenizer: str = TOKENIZER["sha256"]
) -> None:
    """A shard with its manifest."""
    tokens = np.concatenate([np.zeros(0, dtype), *(np.array(d, dtype) for d in documents)])
    files = {".bin": tokens.tobytes(), ".idx": index_bytes(np.array([len(d) for d in documents], np.int64), dtype)}
    for suffix, body in files.items():
        prefix.with_name(prefix.name + suffix).write_bytes(body)
    manifest = {
        "files": {s: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for s, b in files.items()},
        "tokenizer": tokenizer,
        "dtype": str(dtype),
        "documents": len(documents),
        "tokens": len(tokens),
    }
    prefix.with_name(prefix.name + ".json").write_text(json.dumps(manifest))


def folder_of(folder: Path, shards: Sequence[Documents]) -> Path:
    """A finished token folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, documents in enumerate(shards):
        write(folder / f"shard-{number:05d}", documents)
    totals = {
        "shards": len(shards),
        "documents": sum(map(len, shards)),
        "tokens": sum(len(d) for shard in shards for d in shard),
        "bytes": 0,
    }
    (folder / "tokens.json").write_text(json.dumps({"tokenizer": TOKENIZER, "done": True, "totals": totals}))
    return folder


def by_hand(prefix: Path) -> list[list[int]]:
    """The documents, read with `struct` from the description of the format alone."""
    index, data = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, n, n_ends = struct.unpack("<QBQQ", index[9:34])
    assert version == 1 and n_ends == n + 1
    kind, size = {8: ("H", 2), 4: ("i", 4), 3: ("h", 2), 1: ("B", 1), 2: ("b", 1), 5: ("q", 8)}[code]
    lengths = struct.unpack(f"<{n}i", index[34 : 34 + 4 * n])
    starts = struct.unpack(f"<{n}q", index[34 + 4 * n : 34 + 12 * n])
    assert struct.unpack(f"<{n_ends}q", index[34 + 12 * n :]) == tuple(range(n + 1))
    assert sum(lengths) * size == len(data)
    return [list(struct.unpack_from(f"<{k}{kind}", data, s)) for k, s in zip(lengths, starts, strict=True)]


LISTS = st.lists(st.lists(st.integers(0, 999), max_size=12), max_size=12)


@settings(deadline=None, max_examples=80)
@given(documents=LISTS, code=st.sampled_from([3, 4, 5, 8]))
def test_any_documents_come_back(documents: list[list[int]], code: int, tmp_path_factory: Any) -> None:
    prefix = tmp_path_factory.mktemp("shard") / "shard-00000"
    write(prefix, documents, DTYPES[code])
    shard = Shard.open(prefix)
    assert len(shard) == len(documents)
    assert [list(document) for document in shard] == documents == by_hand(prefix)
    assert shard.tokens.dtype == DTYPES[code]
    verify(prefix)
    flat = [(token, i) for i, document in enumerate(documents) for token in document]
    assert [shard.document_at(at) for at in range(len(flat))] == [i for _, i in flat]


@settings(deadline=None, max_examples=60)
@given(shards=st.lists(LISTS, max_size=4), data=st.data())
def test_a_store_is_one_stream(shards: list[list[list[int]]], data: Any, tmp_path_factory: Any) -> None:
    store = TokenStore.open(folder_of(tmp_path_factory.mktemp("store"), shards), verify=True)
    documents = [document for shard in shards for document in shard]
    stream = [token for document in documents for token in document]
    assert len(store) == store.n_documents == len(documents) and store.n_tokens == len(stream)
    assert [list(store.doc(i)) for i in range(len(store))] == documents
    start = data.draw(st.integers(0, len(stream)))
    n = data.draw(st.integers(0, len(stream) - start))
    assert list(store.window(start, n)) == stream[start : start + n]
    assert [stream[a:b] for a, b in zip(store.starts[:-1], store.starts[1:], strict=True)] == documents
    with pytest.raises(ShardError, match="tokens, not"):
        store.window(start, len(stream) - start + 1)
    with pytest.raises(IndexError):
        store.doc(len(documents))


def test_the_type_of_tokens_follows_the_vocabulary() -> None:
    assert dtype_for(65_499) == np.uint16 and dtype_for(65_500) == np.int32


def test_a_document_too_long_for_the_format_is_refused() -> None:
    with pytest.raises(ShardError, match="2,147,483,648 tokens"):
        index_bytes(np.array([5, 2**31]), DTYPES[8])
    with pytest.raises(ShardError, match="cannot be uint32"):
        index_bytes(np.array([5]), np.dtype(np.uint32))


THREE = [[1, 2, 0], [0], [4, 5, 6, 0]]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(at: int) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        body = bytearray(path.read_bytes())
        body[at] ^= 1
        path.write_bytes(bytes(body))

    return act


@pytest.mark.parametrize(
    ("suffix", "damage", "said"),
    [
        (".bin", cut, "15 bytes, its index says 16"),
        (".bin", Path.unlink, r"\.bin cannot be read"),
        (".bin", flip(3), "not what was written: SHA-256"),
        (".idx", cut, "not those of 3 documents"),
        (".idx", Path.unlink, r"\.idx cannot be read"),
        (".idx", flip(0), "no index of a shard of tokens"),
        (".idx", flip(17), "no index of a shard of tokens"),
        (".idx", flip(34), "contradicts itself"),
        (".idx", flip(-1), "contradicts itself"),
        (".idx", lambda path: path.write_bytes(b""), "no index of a shard"),
        (".json", Path.unlink, "no manifest"),
        (".json", cut, "cannot be read"),
        (".json", lambda path: path.write_text("{}"), "no manifest of a shard: it does not say files"),
        (
            ".json",
            lambda path: path.write_text(path.read_text().replace('"tokens": 8', '"tokens": 9')),
            "holds tokens 8",
        ),
    ],
)
def test_damage_is_told(suffix: str, damage: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    write(tmp_path / "shard-00000", THREE)
    damage(tmp_path / f"shard-00000{suffix}")
    with pytest.raises(ShardError, match=said) as caught:
        verify(tmp_path / "shard-00000")
    assert isinstance(caught.value, CrawlmillError) and caught.value.exit_code == 2


def test_other_peoples_shards_open_without_a_manifest(tmp_path: Path) -> None:
    write(tmp_path / "theirs.of-2024", THREE)
    (tmp_path / "theirs.of-2024.json").unlink()
    shard = Shard.open(tmp_path / "theirs.of-2024")
    assert shard.manifest is None and [list(d) for d in shard] == THREE


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda f: rewrite(f / "tokens.json", done=False), "not finished"),
        (lambda f: (f / "tokens.json").unlink(), "neither tokens.json"),
        (lambda f: (f / "shard-00001.json").unlink(), "shard-00001 is missing"),
        (lambda f: (f / "shard-00002.json").unlink(), "shard-00002 is missing"),
        (lambda f: write(f / "shard-00003", THREE), "shard-00003 is one too many"),
        (lambda f: write(f / "shard-00001", THREE, tokenizer="cd" * 32), "two tokenizers do not mix"),
        (lambda f: write(f / "shard-00001", THREE, DTYPES[4]), "is of dtype int32"),
        (lambda f: write(f / "shard-00001", THREE[:2]), "holds 8 documents, it should be 9"),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_a_store_is_whole_or_refused(act: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tokens", [THREE, THREE, THREE])
    act(folder)
    with pytest.raises(ShardError, match=said):
        TokenStore.open(folder)


def test_only_a_full_check_sees_other_tokens_of_the_same_number(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tokens", [THREE])
    flip(2)(folder / "shard-00000.bin")
    assert list(TokenStore.open(folder).doc(0)) == [1, 3, 0]
    with pytest.raises(ShardError, match="SHA-256"):
        TokenStore.open(folder, verify=True)


def mixed(root: Path) -> Path:
    folder = folder_of(root / "pretrain" / "web", [THREE, THREE])
    (folder / "tokens.json").unlink()
    source = {"folder": "pretrain/web", "tokens": 16, "documents": 6}
    phase = {"name": "pretrain", "tokens": 16, "mix": {"web": 1.0}, "sources": {"web": source}}
    (root / "schedule.json").write_text(json.dumps({"format": 1, "tokenizer": TOKENIZER, "phases": [phase]}))
    (root / "mix.json").write_text(json.dumps({"done": True}))
    return folder


def test_a_store_of_a_mix_is_held_to_its_schedule(tmp_path: Path) -> None:
    folder = mixed(tmp_path)
    store = TokenStore.open(folder)
    assert store.n_tokens == 16 and store.tokenizer == TOKENIZER
    write(folder / "shard-00002", THREE)
    with pytest.raises(ShardError, match="holds 9 documents, it should be 6"):
        TokenStore.open(folder)
    rewrite(tmp_path / "mix.json", done=False)
    with pytest.raises(ShardError, match="crawlmill mix"):
        TokenStore.open(folder)


def both_widths() -> list[tuple[int, list[list[int]]]]:
    rng = np.random.default_rng(7)
    lengths = [3, 1, 0, 700, 2]
    return [(v, [rng.integers(0, v, n).tolist() for n in lengths]) for v in (1000, 128_000)]


def test_megatron_reads_the_same_documents(peer: Callable[[str, str], ModuleType], tmp_path: Path) -> None:
    theirs = peer("megatron-core", "megatron.core.datasets.indexed_dataset")
    for vocabulary, documents in both_widths():
        write(tmp_path / str(vocabulary), documents, dtype_for(vocabulary))
        read = theirs.IndexedDataset(str(tmp_path / str(vocabulary)))
        assert [read[i].tolist() for i in range(len(read))] == documents
        assert read.document_indices.tolist() == list(range(len(documents) + 1))


def test_datatrove_writes_the_same_bytes(peer: Callable[[str, str], ModuleType], tmp_path: Path) -> None:
    theirs = peer("datatrove", "datatrove.pipeline.tokens.megatron_tokenizer")
    for vocabulary, documents in both_widths():
        dtype = dtype_for(vocabulary)
        write(tmp_path / "ours", documents, dtype)
        file = theirs.MegatronTokenizedFile(str(tmp_path), "theirs", token_size=dtype.itemsize)
        for document in documents:
            file.write(document)
        file.close()
        for suffix in (".bin", ".idx"):
            assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_the_trainers_reader_needs_numpy_alone() -> None:
    """Machines that train have no need of what curates."""
    code = "import sys, trainer.shards; print({'pyarrow', 'pyspark', 'torch', 'tokenizers'} & {*sys.modules} or '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and done.stdout.strip() == "", done.stdout + done.stderr
