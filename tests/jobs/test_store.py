"""The run folder: atomic writes, clear errors, one run at a time."""

import errno
import hashlib
import json
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs import locks, store
from jobs.store import RunFolder, _upload
from pipeline.errors import StorageError, UsageError
from pipeline.sources import inputs, stores

TABLE = pa.table({"a": [1, 2, 3]})


def test_a_table_comes_back_and_its_bytes_are_stable(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    first = folder.write_table("t/x.parquet", TABLE)
    assert folder.read_table("t/x.parquet").equals(TABLE)
    assert (
        folder.write_table("t/y.parquet", pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]).combine_chunks())
        == first
    )
    assert folder.list("t", ".parquet") == ["t/x.parquet", "t/y.parquet"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("x.json", {"old": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        folder.write_json("x.json", {"new": 1})
    assert folder.read_json("x.json") == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_one_clear_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(StorageError):
        RunFolder("/dev/full").write_json("x.json", {})


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_json("none.json") is None
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.parquet").write_text("PAR1")
    with pytest.raises(StorageError, match=r"bad\.json"):
        folder.read_json("bad.json")
    with pytest.raises(StorageError, match=r"bad\.parquet"):
        folder.read_table("bad.parquet")
    with pytest.raises(StorageError, match=r"none\.parquet"):
        folder.read_table("none.parquet")


def test_two_runs_on_one_output_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    with folder.lock(), pytest.raises(UsageError, match="in use by another run"), RunFolder(tmp_path / "out").lock():
        pass
    with folder.lock():  # free again
        pass


def test_the_lock_of_a_dead_run_is_taken_over(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / ".lock").write_text(json.dumps({"host": socket.gethostname(), "pid": child}))
    with RunFolder(tmp_path).lock():
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_drafts_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    draft = tmp_path / "ledger" / ".shard-00000.parquet.abc.tmp"
    draft.write_text("half")
    RunFolder(tmp_path).sweep()
    assert not draft.exists()


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(tmp_path / "f").is_empty()


def test_other_filesystems_hold_a_run_too() -> None:
    folder = RunFolder("memory://stored/out")
    assert folder.is_empty()
    folder.write_table("ledger/shard-00000.parquet", TABLE)
    folder.write_json("run.json", {"a": 1})
    assert folder.read_json("run.json") == {"a": 1}
    assert folder.list("ledger") == ["ledger/shard-00000.parquet"]
    assert folder.scan("ledger", None).equals(TABLE)
    folder.remove("run.json")
    assert folder.read_json("run.json") is None


def test_rows_by_value_are_read_from_the_groups_that_hold_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    keys = np.sort(np.random.default_rng(1).integers(0, 2**64, 1000, dtype=np.uint64))
    keys[400:420] = keys[400]
    table = pa.table({"key": keys, "numbers": pa.array([[i] for i in range(1000)], pa.large_list(pa.int64()))})
    folder.write_table("t.parquet", table, row_group=64, plain=("numbers",))
    for wanted in (keys[[0]], keys[[999]], keys[[400]], keys[[63, 64, 65]], np.unique(keys), keys[[5]] + np.uint64(1)):
        rows = folder.read_rows("t.parquet", "key", wanted, ["key", "numbers"])
        assert rows.equals(table.filter(pa.array(np.isin(keys, wanted))))
    folder.write_table("empty.parquet", table.slice(0, 0))
    assert folder.read_rows("empty.parquet", "key", keys[:3], ["key"]).num_rows == 0


def test_a_file_written_piece_by_piece_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.create("a.bin") as sink:
        for piece in (b"one", memoryview(b""), bytearray(b" two")):
            sink.write(piece)
        assert not (tmp_path / "a.bin").exists() and sink.tell() == 7
    assert (tmp_path / "a.bin").read_bytes() == b"one two"
    assert sink.facts == {"bytes": 7, "sha256": hashlib.sha256(b"one two").hexdigest()}
    with pytest.raises(ZeroDivisionError), folder.create("b.bin") as sink:
        sink.write(b"half")
        _ = 1 / 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_an_upload_that_fails_is_given_up_and_not_completed() -> None:
    class Upload:
        def __init__(self) -> None:
            self.events: list[str] = []

        def commit(self) -> None:
            self.events.append("committed")

        def discard(self) -> None:
            self.events.append("discarded")

    good, bad = Upload(), Upload()
    with _upload(good):  # type: ignore[arg-type]
        pass
    with pytest.raises(ZeroDivisionError), _upload(bad):  # type: ignore[arg-type]
        _ = 1 / 0
    assert (good.events, bad.events) == (["committed"], ["discarded"])


def test_a_lock_is_never_without_a_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds a lock finds who holds it, and a process that dies while it signs leaves no lock."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", dies)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "out").lock():
        pass
    monkeypatch.undo()
    assert not list((tmp_path / "out").iterdir())

    seen = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b: (link(a, b), seen.append(json.loads(Path(b).read_text())["pid"])))
    with RunFolder(tmp_path / "out").lock():
        assert seen == [os.getpid()]


def test_of_many_that_take_over_a_dead_lock_one_gets_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    (tmp_path / ".lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    together, done, got = context.Barrier(6), context.Event(), context.Queue()

    def ask() -> None:
        together.wait()
        try:
            with RunFolder(tmp_path).lock():
                got.put(True)
                done.wait(30)
        except UsageError:
            got.put(False)

    asking = [context.Process(target=ask) for _ in range(6)]
    for process in asking:
        process.start()
    outcomes = [got.get(timeout=60) for _ in asking]
    done.set()
    for process in asking:
        process.join()
    assert sorted(outcomes) == [False] * 5 + [True] and not (tmp_path / ".lock").exists()


def test_a_process_number_that_is_used_again_holds_nothing(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not say when a process began")
    with RunFolder(tmp_path).lock():
        mine = json.loads((tmp_path / ".lock").read_text())
    (tmp_path / ".lock").write_text(json.dumps({**mine, "started": "1"}))
    with RunFolder(tmp_path).lock():
        pass
    (tmp_path / ".lock").write_text(json.dumps({**mine, "token": "another"}))
    with pytest.raises(UsageError, match="in use"), RunFolder(tmp_path).lock():
        pass


def test_a_file_system_without_links_has_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", none)
    with RunFolder(tmp_path).lock(), pytest.raises(UsageError, match="in use"), RunFolder(tmp_path).lock():
        pass
    (tmp_path / ".lock").write_text("")  # a run was killed between making and signing it
    with RunFolder(tmp_path).lock():
        pass


def test_a_lock_is_given_back_by_its_holder_alone(tmp_path: Path) -> None:
    with RunFolder(tmp_path).lock():
        (tmp_path / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs"}))
    assert (tmp_path / ".lock").exists()


def test_the_page_on_storage_says_what_is_done() -> None:
    page = " ".join((Path(__file__).resolve().parents[2] / "docs" / "storage.md").read_text().split())
    seconds = (stores.PATIENCE, stores.FIRST_PATIENCE, stores.PAUSE, stores.LONGEST_PAUSE, stores.STALL)
    for n in (*seconds, locks.BEAT, locks.STALE, locks.GRACE):
        assert f" {n:g} s" in page or f"({n:g} s" in page, n
    for n in (stores.PART, inputs.REMOTE_BLOCK, store.SMALL, store.AHEAD):
        assert f" {n >> 20} MB" in page
    assert f"{store.READERS} at a time" in page and inputs.LOOK_UPS == 8
    # An outage that is waited for does not cost the lease, and a lost one is noticed before it is taken.
    assert stores.PATIENCE + locks.BEAT < locks.GRACE < locks.STALE - locks.BEAT
