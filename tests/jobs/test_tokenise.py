"""Texts become shards that decode to them, however they are made, and nothing half-made counts."""

import errno
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenised import decoded, files_of, other_words, parquet, rows_of, texts_of
from typer.testing import CliRunner

from jobs import token_commands
from jobs import tokenise as job
from jobs.runs import Run
from jobs.store import RunFolder, Sink
from jobs.token_folders import manifests, verified, where
from jobs.token_texts import Reading, read_chunks
from jobs.tokenise import tokenise
from pipeline.errors import CrawlmillError, InputError, StorageError, UsageError
from pipeline.tables import TOKEN_DOCUMENTS
from pipeline.tokenizer.encoding import Encoded, Encoder
from pipeline.tokenizer.files import TokenizerFile, load
from trainer.shards import ShardError, TokenStore

ROOT = Path(__file__).resolve().parents[2]


@settings(deadline=None, max_examples=15)
@given(
    texts=st.lists(st.none() | st.text(max_size=40) | st.sampled_from(texts_of(5, 1)), max_size=30),
    row_group=st.integers(1, 9),
)
def test_any_texts_come_back(
    texts: list[str | None], row_group: int, tokenizer: TokenizerFile, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    texts = [t if t is None else t.encode("utf-8", "replace").decode() for t in texts]
    info = tokenise([parquet(folder / "in.parquet", texts, row_group=row_group)], str(folder / "out"), tokenizer)
    there = [text for text in texts if text is not None]
    assert decoded(folder / "out", tokenizer) == there
    (shard,) = manifests(RunFolder(folder / "out"))
    assert info["totals"]["documents"] == shard["documents"] == len(there)
    assert shard["rows"] == len(texts) and shard["null_texts"] == len(texts) - len(there)
    assert info["totals"]["bytes"] == sum(len(text.encode()) for text in there)
    assert [row["row"] for row in rows_of(folder / "out")] == [i for i, text in enumerate(texts) if text is not None]
    assert shard["lossy"] == shard["mismatches"] == shard["invalid_utf8"] == 0 and shard["fallback"] is None


def test_each_file_is_a_shard_in_the_order_of_names(whole: Path, three: Path, tokenizer: TokenizerFile) -> None:
    shards = manifests(RunFolder(whole))
    assert [Path(shard["input"]).name for shard in shards] == ["b.parquet", "c.parquet", "d.parquet"]
    assert [shard["documents"] for shard in shards] == [120, 0, 201]
    assert shards[0]["encoder"].startswith("gigatoken") and shards[0]["audited"] >= 4
    assert decoded(whole, tokenizer) == [*texts_of(120, 2), *texts_of(200, 3), ""]
    assert pq.read_schema(whole / "shard-00001.docs.parquet").equals(TOKEN_DOCUMENTS)
    info = json.loads((whole / "tokens.json").read_text())
    assert info["done"] and info["totals"]["shards"] == 3 and info["source"] == "books"
    assert load(whole).sha256 == tokenizer.sha256 == info["tokenizer"]["sha256"]
    assert [s["documents"] for s in verified(str(whole))] == [120, 0, 201]


def test_the_account_holds_in_both_forms_of_the_index(whole: Path) -> None:
    for i, number in enumerate((120, 0, 201)):
        data = (whole / f"shard-{i:05d}.bin").read_bytes()
        assert data == (whole / f"shard-{i:05d}.ds").read_bytes() == (whole / f"shard-{i:05d}.npy").read_bytes()
        ends = struct.unpack(f"<{number}Q", (whole / f"shard-{i:05d}.ds.index").read_bytes())
        lengths = [row["n_tokens"] for row in pq.read_table(whole / f"shard-{i:05d}.docs.parquet").to_pylist()]
        assert list(ends) == np.cumsum(lengths).tolist()
        assert (whole / f"shard-{i:05d}.ds.metadata").read_text().split("\n")[1] == str(len(data) // 2)


def test_datatrove_reads_the_other_form(peer: Callable[[str, str], ModuleType], whole: Path) -> None:
    theirs = peer("datatrove", "datatrove.utils.dataset")
    store = TokenStore.open(whole)
    tokens = store.shards[0].tokens
    read = theirs.DatatroveFileDataset(str(whole / "shard-00000.ds"), seq_len=15, token_size=2, return_positions=True)
    assert len(read) == len(tokens) // 16 > 50
    for i in range(len(read)):
        item = read[i]
        assert item["input_ids"].tolist() == tokens[16 * i : 16 * i + 16].tolist()


def test_ids_and_keys_are_functions_of_what_the_file_says(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    columns = {
        "id": ["a", "b", "b"],
        "piece": [0, 0, 1],
        "source": ["code", None, "code"],
        "quality_bin": [3, None, 4],
        "language": [1.5, 2.5, 3.5],
        "number": [7, 8, 9],
    }
    path = parquet(tmp_path / "in.parquet", ["x", "y", "z"], **columns)
    tokenise([path], str(tmp_path / "o"), tokenizer, source="web")
    rows = rows_of(tmp_path / "o")
    assert [(r["id"], r["piece"], r["source"], r["quality_bin"], r["language"]) for r in rows] == [
        ("a", 0, "code", 3, None),
        ("b", 0, "web", None, None),
        ("b", 1, "code", 4, None),
    ]
    digest = hashlib.blake2b(b"b\x1f1", digest_size=8).digest()
    assert rows[2]["key"] == int.from_bytes(digest, "big") and rows[1]["key"] != rows[2]["key"]
    tokenise([path], str(tmp_path / "numbered"), tokenizer, id="number")
    assert [(r["id"], r["piece"]) for r in rows_of(tmp_path / "numbered")] == [("7", 0), ("8", 0), ("9", 0)]
    bare = parquet(tmp_path / "bare.parquet", ["x", "y", "x"])
    tokenise([bare], str(tmp_path / "bare"), tokenizer)
    ids = [r["id"] for r in rows_of(tmp_path / "bare")]
    assert ids[0] == ids[2] == hashlib.blake2b(b"x", digest_size=16).hexdigest() != ids[1]


@pytest.mark.parametrize("chunk_bytes", [1, 700, 10_000])
def test_no_byte_depends_on_how_much_is_read_at_once(
    chunk_bytes: int,
    whole: Path,
    three: Path,
    tokenizer: TokenizerFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "read_chunks", partial(read_chunks, chunk_bytes=chunk_bytes))
    assert chunk_bytes > 1000 or len(list(job.read_chunks(str(three / "b.parquet"), "b", Reading()))) > 20
    tokenise([str(three)], str(tmp_path / "o"), tokenizer, source="books", extra=("ds", "npy"))
    assert files_of(tmp_path / "o") == files_of(whole)


@pytest.mark.spark
def test_spark_writes_the_same_bytes(whole: Path, three: Path, tokenizer: TokenizerFile, tmp_path: Path) -> None:
    output, form = str(tmp_path / "o"), ("npy", "ds")
    tokenise([str(three)], output, tokenizer, source="books", extra=form, spark=True, master="local[2]", partitions=2)
    assert files_of(output) == files_of(whole)


def test_an_object_store_holds_the_same_bytes(whole: Path, three: Path, tokenizer: TokenizerFile) -> None:
    folder = RunFolder("memory://tokens/books")
    tokenise([str(three)], folder.path, tokenizer, source="books", extra=("ds", "npy"))
    assert {name: folder.read_bytes(name) for name in files_of(whole)} == files_of(whole)
    assert where(folder.path, "0", 5).row == where(str(whole), "0", 5).row


def test_bytes_that_are_no_utf8_are_replaced_and_counted(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    bodies = [b"good", b"bad \xff\xfe end", b"cut \xe6\x97", b"", b"surrogate \xed\xa0\x80", None]
    for kind in (pa.string(), pa.binary()):
        array = pa.array(bodies, pa.binary())
        array = pa.Array.from_buffers(kind, len(array), array.buffers(), array.null_count)
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(pa.table({"text": array}), path)
        tokenise([str(path)], str(tmp_path / f"o-{kind}"), tokenizer)
        expected = [body.decode("utf-8", "replace") for body in bodies if body is not None]
        assert decoded(tmp_path / f"o-{kind}", tokenizer) == expected
        (shard,) = manifests(RunFolder(tmp_path / f"o-{kind}"))
        assert shard["invalid_utf8"] == 3 and shard["null_texts"] == 1
        assert shard["bytes"] == sum(len(text.encode()) for text in expected)


def test_a_document_of_megabytes_is_one_document(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    long = " ".join(texts_of(12_000, 5))
    assert len(long) > 3_000_000
    path = parquet(tmp_path / "in.parquet", ["before", long, "x" * 300_000, "after"])
    tokenise([path], str(tmp_path / "o"), tokenizer, audit_every=1)
    assert decoded(tmp_path / "o", tokenizer) == ["before", long, "x" * 300_000, "after"]
    (shard,) = manifests(RunFolder(tmp_path / "o"))
    assert shard["audited"] == 4 and shard["fallback"] is None


def wrong_tokens(encode: Any, broken: str) -> Any:
    """An encoder that gives the word "quick" other tokens: those of another word, or its bytes one by one."""

    def act(self: Encoder, texts: pa.Array) -> Encoded:
        found = encode(self, texts)
        if self.name.startswith("tokenizers"):
            return found
        table = {token: i for i, token in enumerate(self.tokenizer.token_bytes or ())}
        rows = [found.row(i) for i in range(len(texts))]
        for i, text in enumerate(texts.to_pylist()):
            if text == "quick":
                ids = [table[bytes([b])] for b in b"quick"]
                rows[i] = np.array(ids[::-1] if broken == "bytes" else ids, np.uint32)
        return Encoded(np.concatenate(rows), np.array([len(row) for row in rows]))

    return act


@pytest.mark.parametrize(("broken", "at"), [("bytes", 700), ("merges", 0)])
@pytest.mark.parametrize("spark", [False, True])
def test_a_shard_that_the_fast_engine_gets_wrong_is_made_again(
    broken: str, at: int, spark: bool, tmp_path: Path, tokenizer: TokenizerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong bytes are seen in any document; other tokens of the same bytes in those that are audited."""
    texts = texts_of(800, 6)
    texts[at] = "quick"
    good = parquet(tmp_path / "a.parquet", texts_of(10, 7))
    bad = parquet(tmp_path / "b.parquet", texts)
    monkeypatch.setattr(Encoder, "encode", wrong_tokens(Encoder.encode, broken))
    if spark:  # what a worker does, in this process
        monkeypatch.setattr(job, "session", lambda *_: None)
        monkeypatch.setattr(job, "for_each", lambda _, tasks, act, *__, **___: [act(task) for task in tasks])
        monkeypatch.setattr(job, "_encoders", {})
    tokenise([good, bad, good.replace("a.", "./a.")], str(tmp_path / "o"), tokenizer, spark=spark)
    first, second = manifests(RunFolder(tmp_path / "o"))
    assert first["fallback"] is None and first["mismatches"] == 0 and first["encoder"].startswith("gigatoken")
    assert second["encoder"].startswith("tokenizers") and second["mismatches"] == 1
    assert f"row {at} of {bad}" in second["fallback"] and second["documents"] == 800
    monkeypatch.undo()
    tokenise([good, bad], str(tmp_path / "right"), tokenizer, engine="tokenizers")
    tokens = [(tmp_path / o / "shard-00001.bin").read_bytes() for o in ("o", "right")]
    assert tokens[0] == tokens[1]
    assert not list((tmp_path / "o").glob(".*.tmp"))


REFUSED = "choose a new folder"


def test_ids_that_are_no_utf8_are_ids_too(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    bodies = pa.array([b"one", b"two \xff", None], pa.binary())
    for kind in (pa.string(), pa.binary()):
        array = pa.Array.from_buffers(kind, len(bodies), bodies.buffers(), bodies.null_count)
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(pa.table({"id": array, "source": array, "text": ["a", "b", "c"]}), path)
        tokenise([str(path)], str(tmp_path / f"o-{kind}"), tokenizer)
        rows = rows_of(tmp_path / f"o-{kind}")
        assert [row["id"] for row in rows][:2] == ["one", "two \ufffd"] and rows[2]["id"]
        if kind == pa.string():
            assert [row["source"] for row in rows] == ["one", "two \ufffd", None]


def test_a_finished_folder_that_lost_a_shard_gets_it_again(
    three: Path, whole: Path, tokenizer: TokenizerFile, tmp_path: Path
) -> None:
    output = tmp_path / "o"
    again = partial(tokenise, [str(three)], str(output), tokenizer)
    again()
    made = files_of(output)
    (output / "shard-00001.json").unlink()  # what errors about damaged shards say to do
    again()
    assert files_of(output) == made


def test_a_command_that_failed_at_once_can_be_put_right(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"body": ["a"]}), path)
    with pytest.raises(InputError, match="no column 'text'"):
        tokenise([str(path)], str(tmp_path / "o"), tokenizer)
    assert tokenise([str(path)], str(tmp_path / "o"), tokenizer, text="body")["done"]


def test_a_run_killed_before_its_first_file_goes_on(three: Path, tokenizer: TokenizerFile, tmp_path: Path) -> None:
    output = tmp_path / "o"
    output.mkdir()
    (output / ".tokens.json.0123.tmp").write_text("{")
    tokenise([str(three)], str(output), tokenizer)
    assert not list(output.glob(".*"))


def test_a_folder_is_gone_on_with_only_by_the_same_command(
    three: Path, whole: Path, tokenizer: TokenizerFile, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for path in three.glob("[bcd].parquet"):
        (source / path.name).write_bytes(path.read_bytes())
    output = str(tmp_path / "o")
    again = partial(tokenise, [str(source)], output, tokenizer, source="books", extra=("ds", "npy"))
    first = again()
    made = files_of(output)
    assert again(engine="tokenizers", audit_every=7, partitions=3) == first and files_of(output) == made
    for suffix in (".json", ".bin"):
        (Path(output) / f"shard-00002{suffix}").unlink()
    info = Path(output, "tokens.json")
    info.write_text(json.dumps(json.loads(info.read_text()) | {"done": False}))
    with pytest.raises(ShardError, match="not finished"):
        TokenStore.open(output)
    assert again() == first and files_of(output) == made
    for changed, said in (
        ({"source": "web"}, "source books"),
        ({"extra": ()}, "options"),
        ({"text": "body"}, "options"),
        ({"tokenizer": load(other_words(tokenizer, tmp_path))}, "tokenizer"),
    ):
        options = {"tokenizer": tokenizer, "source": "books", "extra": ("ds", "npy")} | changed
        with pytest.raises(UsageError, match=f"(?s)begun with {said}.*{REFUSED}"):
            tokenise([str(source)], output, **options)
    with pytest.raises(UsageError, match="other inputs"):
        tokenise([str(source / "b.parquet")], output, tokenizer, source="books", extra=("ds", "npy"))


def test_what_cannot_be_tokenized_is_refused_in_words(tokenizer: TokenizerFile, tmp_path: Path, three: Path) -> None:
    output = str(tmp_path / "o")
    path = parquet(tmp_path / "in.parquet", ["x"], number=[1])
    refusals: list[tuple[type[CrawlmillError], str, dict[str, Any]]] = [
        (InputError, r"no column 'body'; name one with --text: text$", {"text": "body"}),
        (InputError, r"no column 'key'; name one with --id: text, number", {"id": "key"}),
        (InputError, r"'number' holds int64, not text", {"text": "number"}),
        (UsageError, "no form 'zip'", {"extra": ("zip",)}),
        (UsageError, "no engine 'best'", {"engine": "best"}),
        (UsageError, "1 or more", {"audit_every": 0}),
    ]
    for number, (kind, said, options) in enumerate(refusals):
        with pytest.raises(kind, match=said):
            tokenise([path], f"{output}{number}", tokenizer, **options)
    with pytest.raises(InputError, match="cannot read"):
        tokenise([str(three / "_drafts.parquet")], output, tokenizer)
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="more than one column 'text'"):
        tokenise([str(tmp_path / "twice.parquet")], output, tokenizer)
    with pytest.raises(InputError, match="no such file"):
        tokenise([str(tmp_path / "nothing")], output, tokenizer)
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(InputError, match="holds no Parquet files"):
        tokenise([str(tmp_path / "unfinished")], output, tokenizer)
    with pytest.raises(UsageError, match="not empty and holds no tokens"):
        tokenise([path], str(three), tokenizer)


@pytest.mark.spark
def test_an_unfinished_run_is_refused(finished: Run, tokenizer: TokenizerFile, tmp_path: Path) -> None:
    info = json.loads((Path(finished.folder.path) / "run.json").read_text())
    info["stages"]["curate"]["done"] = False
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="not finished; run the same `crawlmill run`"):
        tokenise([str(tmp_path / "run")], str(tmp_path / "o"), tokenizer)
    with pytest.raises(UsageError, match="tokenized by itself"):
        tokenise([finished.folder.path, str(tmp_path)], str(tmp_path / "o"), tokenizer)


def test_a_full_disk_leaves_nothing_that_counts(
    three: Path, whole: Path, tokenizer: TokenizerFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {"n": 0}
    write = Sink.write
    enough = (
        sum(len(body) for name, body in files_of(whole).items() if name < "shard-00002" and "json" not in name) + 1000
    )

    def full(self: Sink, body: Any) -> int:
        written["n"] += memoryview(body).nbytes
        if written["n"] > enough:
            raise OSError(errno.ENOSPC, "full")
        return write(self, body)

    monkeypatch.setattr(Sink, "write", full)
    output = tmp_path / "o"
    again = partial(tokenise, [str(three)], str(output), tokenizer, source="books", extra=("ds", "npy"))
    with pytest.raises(StorageError, match="no space left on the device; free some and run the same command again"):
        again()
    assert written["n"] > enough and [m["shard"] for m in manifests(RunFolder(output))] == [
        "shard-00000",
        "shard-00001",
    ]
    assert not list(output.glob(".*.tmp")) and not (output / "shard-00002.bin").exists()
    monkeypatch.undo()
    again()
    assert files_of(output) == files_of(whole)


KILLED = """
import sys, time
from jobs import tokenise as job
from pipeline.tokenizer.files import load
add = job._Shard.add
def slow(self, chunk, encoded):
    time.sleep(0.15)
    return add(self, chunk, encoded)
job._Shard.add = slow
job.tokenise([sys.argv[1]], sys.argv[2], load(sys.argv[3]))
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tokenizer: TokenizerFile, tmp_path: Path) -> None:
    for i in range(6):
        parquet(tmp_path / "in" / f"{i}.parquet", texts_of(40, 20 + i))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.body)
    tokenise([str(tmp_path / "in")], str(tmp_path / "undisturbed"), tokenizer)
    output = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "in"), str(output), str(tmp_path / "tokenizer.json")]
    victim = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not (output / "shard-00001.json").exists() and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (output / "shard-00005.json").exists() and (output / "shard-00001.json").exists()
    with pytest.raises(ShardError, match="not finished"):
        TokenStore.open(output)
    tokenise([str(tmp_path / "in")], str(output), tokenizer)
    assert files_of(output) == files_of(tmp_path / "undisturbed")


def test_the_commands(
    three: Path, tokenizer: TokenizerFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(token_commands.tokenize)
    app.add_typer(token_commands.app, name="tokens")
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.body)

    def said(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    output = str(tmp_path / "o")
    command = ["tokenize", str(three), "--tokenizer", str(tmp_path), "--output", output, "--also", "ds", "--no-spark"]
    first = said(*command)
    assert (
        "documents 321" in first and "shards 3" in first and "tokens a second" in first and "without a text 1" in first
    )
    assert "tokens a second" not in said(*command)
    assert "3 shards, 321 documents" in said("tokens", "verify", output)
    assert "bytes per token" in said("tokens", "show", output)
    assert token_commands.origin(None, f"{output}/2:10") is None  # no run to ask
    shown = " ".join(capsys.readouterr().out.split())
    assert "position 1 document 1" in shown and "run" not in shown
    with pytest.raises(UsageError, match="is no SHARD:N"):
        token_commands.origin(output, "2")


def test_the_job_for_spark_submit_says_errors_on_one_line(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        job.main(["--input", str(three), "--tokenizer", str(three / "none"), "--output", "o"])
    assert ended.value.code == 3 and capsys.readouterr().err.startswith("error: cannot read tokenizer")
