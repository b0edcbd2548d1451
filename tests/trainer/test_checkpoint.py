"""A checkpoint is whole or it is not there, and what was saved comes back to the bit, however many ranks read it."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import SHAPE, environment, free_port, meta, on_ranks, whole
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter

from trainer import config
from trainer.attention import scope
from trainer.checkpoint import Checkpoints
from trainer.checkpoint_files import CheckpointError, manifest
from trainer.model import Decoder
from trainer.optim import Optimizer
from trainer.parallel import World, prepare, reduce_gradients, start, stop

PLAIN = config.Parallel(compile=False)
KEEP = config.Checkpoint(keep=3, asynchronous=False)
ABOUT = {"config": "c0ffee", "plan": "p1", "tokenizer": "ab" * 32}


class Trained:
    """A model after two steps of Muon and AdamW, and a guard's history."""

    def __init__(self, world: World, parallel: config.Parallel = PLAIN, seed: int = 7) -> None:
        self.model = prepare(meta(), parallel, world)
        self.model.initialise(seed)
        self.optimizer = Optimizer(self.model, config.Optim(name="muon"))
        self.extra = {"history": torch.zeros(2, 4, dtype=torch.float64), "count": torch.zeros((), dtype=torch.int64)}
        self.world = world

    def train(self, steps: int = 2) -> "Trained":
        source = torch.Generator().manual_seed(1)
        for step in range(steps):
            rows = torch.randint(0, SHAPE.vocab_size, (2, 9), generator=source)
            self.optimizer.zero_grad()
            for row in rows.chunk(2)[self.world.data_rank :: self.world.data_size]:
                docs = torch.zeros(1, 8, dtype=torch.int64)
                self.model(row[:, :-1], row[:, 1:], scope("mask", docs)).total.backward()
            reduce_gradients(self.model, self.world)
            self.optimizer.step(1.0, torch.zeros(()))
            self.extra["history"][:, step % 4] = 0.1 * (step + 1)
            self.extra["count"] += 1
        return self

    @property
    def all(self) -> dict[str, Tensor]:
        """Everything that must come back, whole."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        found = {name: whole(p) for name, p in self.model.named_parameters()}
        for optimizer in self.optimizer.all:
            for parameter, state in optimizer.state.items():
                found |= {f"{names[id(parameter)]} {kind}": whole(tensor) for kind, tensor in state.items()}
        return found | {name: whole(tensor) for name, tensor in self.extra.items()}

    def saved(self, into: Checkpoints, step: int, **how: Any) -> Any:
        return into.save(step, self.model, self.optimizer, self.extra, {"step": step, "skipped": [[0, 1, 2]]}, **how)

    def loaded(self, of: Checkpoints, where: Any) -> dict[str, Any]:
        return of.load(where, self.model, self.optimizer, self.extra)


@pytest.fixture
def world() -> Iterator[World]:
    found = start("cpu")
    yield found
    stop(found)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Two ranks that share a model, one rank, and the two again.


def two_ranks_save(folder: Path, parallels: list[config.Parallel], ports: list[int]) -> list[Any]:
    found = []
    for i, (parallel, port) in enumerate(zip(parallels, ports, strict=True)):
        os.environ["MASTER_PORT"] = str(port)
        world = start("cpu", parallel)
        try:
            # What one rank saved comes back on two …
            points = Checkpoints(folder / "one", KEEP, world)
            run = Trained(world, parallel, seed=8)
            state = run.loaded(points, points.latest())
            read = run.all
            # … and what two save is for one to read.
            points = Checkpoints(folder / f"two-{i}", KEEP, world, ABOUT)
            run.train()
            run.saved(points, 4, asynchronous=True)
            before = run.all
            run.train(1)  # goes on while the other is written
            ended = points.wait()
            assert ended is not None and ended.error is None
            found.append((state, read, before, one_fails(run, points, world)))
            points.close()
        finally:
            stop(world)
    return found


def one_fails(run: Trained, points: Checkpoints, world: World) -> str:
    """What each rank is told of a save in which the second has no room."""
    write = FileSystemWriter.write_data
    if world.rank == 1:
        FileSystemWriter.write_data = no_room  # type: ignore[method-assign]
    run.saved(points, 5, asynchronous=True)
    ended = points.wait()
    FileSystemWriter.write_data = write  # type: ignore[method-assign]
    assert ended is not None and names(points.folder) == ["step-00000004"]
    return str(ended.error)


def no_room(*given: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_does_not_depend_on_how_the_model_was_spread(tmp_path: Path, world: World) -> None:
    parallels = [PLAIN, config.Parallel(shard=1, compile=False), config.Parallel(tensor=2, compile=False)]
    run = Trained(world).train()
    expected = run.all
    # The step that AdamW counts, the moments and the momentum are among what is compared.
    kinds = {name.split(" ")[1] for name in expected if " " in name}
    assert kinds == {"step", "exp_avg", "exp_avg_sq", "momentum"}
    run.saved(Checkpoints(tmp_path / "one", KEEP, world), 2)
    both = on_ranks(2, two_ranks_save, tmp_path / "ranks", tmp_path, parallels, [free_port() for _ in parallels])
    for i in range(len(parallels)):
        points = Checkpoints(tmp_path / f"two-{i}", KEEP, world)
        again = Trained(world, seed=9)
        assert again.loaded(points, 4) == {"step": 4, "skipped": [[0, 1, 2]]}
        for rank in both:
            state, read, before, failure = rank[i]
            assert state == {"step": 2, "skipped": [[0, 1, 2]]}
            assert same(read, expected)
            assert same(again.all, before)
            # All are told the same, nobody waits for ever.
            assert failure == both[0][i][3] and "is full" in failure and "newest one is step-00000004" in failure
        body = manifest(points.folder / "step-00000004")
        assert body["ranks"] == 2 and body["torch"] == torch.__version__ and body.items() >= ABOUT.items()


def test_one_goes_on_as_if_it_had_never_stopped(tmp_path: Path, world: World) -> None:
    through = Trained(world).train(2)
    points = Checkpoints(tmp_path, KEEP, world)
    assert through.saved(points, 2).error is None
    through.train(2)
    again = Trained(world, seed=1)
    again.loaded(points, 2)
    assert same(again.train(2).all, through.all)
    # Parameters alone, as evaluation wants them; and before the first step, when there are no moments yet.
    model = Trained(world, seed=2).model
    points.load(2, model)
    assert not same({n: whole(p) for n, p in model.named_parameters()}, through.all)
    fresh = Trained(world, seed=3)
    fresh.saved(points, 0)
    other = Trained(world, seed=4)
    other.loaded(points, 0)
    assert same(other.train().all, fresh.train().all)


def test_what_is_saved_is_what_was_when_save_returned(tmp_path: Path, world: World, monkeypatch: Any) -> None:
    """Training goes on while the disk is slow, and saves follow each other in one set of buffers."""
    gate = Gate(monkeypatch)
    points = Checkpoints(tmp_path, KEEP, world)
    run = Trained(world).train()
    then = []
    for step in (2, 4):
        then.append(run.all)
        assert run.saved(points, step, asynchronous=True) is None
        run.train()
        assert points.poll() is None and points.latest() == (None if step == 2 else tmp_path / "step-00000002")
        gate.open.set()
        ended = points.wait()
        gate.open.clear()
        assert ended is not None and ended.error is None and ended.path == points.latest()
        assert 0 < ended.stall < ended.seconds and ended.bytes > 10_000
        assert points.poll() is None, "told once"
    for step, expected in zip((2, 4), then, strict=True):
        again = Trained(world)
        again.loaded(points, step)
        assert same(again.all, expected)
    gate.open.set()
    points.close()


def test_how_fast_the_disk_is_decides_nothing(tmp_path: Path, world: World, monkeypatch: Any) -> None:
    """A checkpoint that is still being written when it has proven itself is waited for, one that is too young is not."""
    gate = Gate(monkeypatch)
    points = Checkpoints(tmp_path, KEEP, world)
    run = Trained(world).train()
    run.saved(points, 2, asynchronous=True)
    points.promote(1)
    assert points.latest() is None
    threading.Timer(0.2, gate.open.set).start()
    points.promote(2)
    assert points.latest(good=True) == tmp_path / "step-00000002"
    ended = points.poll()
    assert ended is not None and ended.error is None
    points.close()


class Gate:
    """Writers wait until it is opened; `error` is what they meet then."""

    def __init__(self, monkeypatch: Any) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None
        write = FileSystemWriter.write_data

        def slow(writer: FileSystemWriter, plan: Any, planner: Any) -> Any:
            self.open.wait(30)
            if self.error is not None:
                (Path(writer.path) / "__0_0.distcp").write_bytes(b"half")
                raise self.error
            return write(writer, plan, planner)

        monkeypatch.setattr(FileSystemWriter, "write_data", slow)


# Nothing half


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"the disk of .* is full .* lower checkpoint.keep"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (RuntimeError("unexpected pos 64 vs 0"), "unexpected pos 64"),
    ],
)
def test_a_save_that_fails_says_so_and_leaves_nothing(
    error: Exception, said: str, asynchronous: bool, tmp_path: Path, world: World, monkeypatch: Any
) -> None:
    points = Checkpoints(tmp_path, KEEP, world)
    run = Trained(world).train()
    run.saved(points, 2)
    gate = Gate(monkeypatch)
    gate.error = error
    gate.open.set()
    match = rf"checkpoint of step 4 was not saved: .*{said}.*; the newest one is step-00000002, and it is whole"
    if asynchronous:
        run.saved(points, 4, asynchronous=True)
        ended = points.wait()
        assert ended is not None and points.poll() is None
        with pytest.raises(CheckpointError, match=match):
            raise ended.error  # type: ignore[misc]
    else:
        with pytest.raises(CheckpointError, match=match):
            run.saved(points, 4)
    assert names(tmp_path) == ["step-00000002"]
    gate.error = None
    assert run.saved(points, 6).error is None, "the next one is tried again"
    assert names(tmp_path) == ["step-00000002", "step-00000006"]


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path: Path, world: World, monkeypatch: Any) -> None:
    run = Trained(world)
    points = Checkpoints(tmp_path / "new", KEEP, world)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30, 4096))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"step 2 .* is full \(0.\d+ GB are needed, 0.000 are free\).*no earlier"):
        run.saved(points, 2)
    assert names(tmp_path / "new") == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting wants root")
def test_a_disk_that_fills_up_while_it_is_written(tmp_path: Path, world: World, monkeypatch: Any) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this root may not mount")
    try:
        run = Trained(world).train()
        points = Checkpoints(small, KEEP, world)
        run.extra["filler"] = torch.zeros(2**16)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 2**40))  # type: ignore[attr-defined]
        saved = [run.saved(points, 1).step]  # half a megabyte
        with pytest.raises(CheckpointError, match=r"the disk of .* is full.*and it is whole"):
            for step in (2, 3, 4):
                saved.append(run.saved(points, step).step)
        assert names(small) == [f"step-{step:08d}" for step in saved] and len(saved) < 4
        again = Trained(world)
        again.extra["filler"] = torch.ones(2**16)
        again.loaded(points, saved[-1])
        assert same(again.all, run.all)
    finally:
        subprocess.run(["umount", small], check=True)


KILLED = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {path!r}
from test_checkpoint import KEEP, Trained
from torch.distributed.checkpoint import FileSystemWriter
from trainer.checkpoint import Checkpoints
from trainer.parallel import start
world = start("cpu")
points = Checkpoints({folder!r}, KEEP, world)
run = Trained(world).train()
run.saved(points, 2)
run.train()
write = FileSystemWriter.write_data
def slow(writer, plan, planner):
    done = write(writer, plan, planner)
    print("written", flush=True)
    time.sleep(60)
    return done
FileSystemWriter.write_data = slow
run.saved(points, 4, asynchronous=True)
time.sleep(60)
"""


def test_a_run_killed_while_it_saves_has_its_earlier_checkpoint(tmp_path: Path, world: World) -> None:
    folder = tmp_path / "points"
    code = KILLED.format(path=[str(Path(__file__).parent), *sys.path], folder=str(folder))
    variables = {name: value for name, value in os.environ.items() if name not in environment(0, 1, 0)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=variables) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        child.send_signal(signal.SIGKILL)
    assert names(folder) == [".step-00000004.tmp", "step-00000002"]
    assert any(path.suffix == ".distcp" for path in (folder / ".step-00000004.tmp").iterdir())
    points = Checkpoints(folder, KEEP, world)
    assert names(folder) == ["step-00000002"], "what is half is put away"
    assert points.latest() == folder / "step-00000002"
    run = Trained(world, seed=1)
    assert run.loaded(points, points.latest())["step"] == 2
    assert same(run.all, Trained(world).train().all)


def test_a_run_killed_between_two_names_has_the_old_one(tmp_path: Path, world: World) -> None:
    """A step saved anew after a rollback takes the place of the one that was given up."""
    run = Trained(world).train()
    points = Checkpoints(tmp_path, KEEP, world)
    run.saved(points, 2)
    old = run.all
    run.train(1)
    run.saved(points, 2)
    assert names(tmp_path) == ["step-00000002"]
    again = Trained(world)
    again.loaded(points, 2)
    assert same(again.all, run.all) and not same(again.all, old)
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.old")
    (tmp_path / ".step-00000002.tmp").mkdir()
    assert Checkpoints(tmp_path, KEEP, world).latest() == tmp_path / "step-00000002"
    assert names(tmp_path) == ["step-00000002"]


# What is kept


def test_what_is_kept(tmp_path: Path, world: World) -> None:
    run = Trained(world)
    points = Checkpoints(tmp_path, config.Checkpoint(keep=2, permanent=40, asynchronous=False), world)
    kept = []
    for step in range(10, 101, 10):
        run.saved(points, step)
        points.promote(step - 30)  # three saves later it is known to have been good
        kept.append([at for at, _ in points.list()])
    # The newest two, multiples of 40, the newest good one, and the next that can become good.
    assert kept[:4] == [[10], [10, 20], [10, 20, 30], [10, 30, 40]]
    assert kept[-1] == [40, 60, 80, 90, 100]
    assert points.latest() == tmp_path / "step-00000100"
    assert points.latest(good=True) == tmp_path / "step-00000060"
    points.drop_after(60)
    assert [at for at, _ in points.list()] == [40, 60] and points.latest() == points.latest(good=True)
    assert Checkpoints(tmp_path / "none", KEEP, world).latest() is None


# Damage


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("__0_0.distcp", flip, "__0_0.distcp is not what was written: its SHA-256 differs"),
    ("__0_0.distcp", cut, r"__0_0.distcp has [\d,]+ bytes, [\d,]+ were written"),
    ("__0_0.distcp", Path.unlink, "__0_0.distcp cannot be read: No such file"),
    (".metadata", flip, ".metadata is not what was written"),
    ("state.json", flip, "state.json is not what was written"),
    ("manifest.json", cut, "manifest.json"),
    ("manifest.json", Path.unlink, "is no checkpoint: it has no manifest.json"),
    ("manifest.json", lambda path: path.write_text("[]"), "manifest.json cannot be read"),
    (
        "manifest.json",
        lambda path: path.write_text(path.read_text().replace('"step": 4', '"step": 5')),
        "manifest.json is not what was written",
    ),
]


def test_damage_is_named_and_the_next_one_too(tmp_path: Path, world: World) -> None:
    whole_one = tmp_path / "whole"
    points = Checkpoints(whole_one, KEEP, world)
    run = Trained(world).train()
    for step in (2, 3, 4):
        run.saved(points, step)
    for i, (name, damage, said) in enumerate(DAMAGE):
        folder = tmp_path / str(i)
        shutil.copytree(whole_one, folder)
        damage(folder / "step-00000004" / name)
        flip(folder / "step-00000003" / "__0_0.distcp")
        points = Checkpoints(folder, KEEP, world)
        other = Trained(world, seed=5)
        before = other.all
        with pytest.raises(CheckpointError, match=said) as caught:
            other.loaded(points, 4)
        message = str(caught.value)
        assert "\n" not in message and str(folder / "step-00000004") in message
        assert message.endswith(f"{folder / 'step-00000002'} is whole and can be used")
        assert same({**other.all, **before}, before | other.all), "nothing was overwritten"
        assert other.loaded(points, 2)["step"] == 2
    with pytest.raises(CheckpointError, match=r"step-00000009.*it has no manifest.json"):
        run.loaded(points, 9)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, world: World) -> None:
    points = Checkpoints(tmp_path, KEEP, world)
    run = Trained(world).train()
    run.saved(points, 2)
    for changes, said in (
        ({"vocab_size": 128}, r"parameter.model.embed_tokens.weight is \(96, 32\) in it and \(128, 32\) here"),
        ({"layers": 3}, "it has no parameter.model.layers.2"),
        ({"layers": 1}, "it has parameter.model.layers.1.* which is not here"),
    ):
        other = Decoder(dataclasses.replace(SHAPE, **changes))  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=f"not of this model: {said}"):
            points.load(2, other)
    with pytest.raises(CheckpointError, match=r"it has no adam.model.layers.0.self_attn.q_proj.weight"):
        points.load(2, run.model, Optimizer(run.model, config.Optim()))
    with pytest.raises(CheckpointError, match=r"it has no extra.more"):
        points.load(2, run.model, None, {"more": torch.zeros(1)})


def test_a_manifest_lists_every_file(tmp_path: Path, world: World) -> None:
    points = Checkpoints(tmp_path, KEEP, world, ABOUT)
    Trained(world).saved(points, 2)
    folder = tmp_path / "step-00000002"
    assert sorted(manifest(folder)["files"]) == [name for name in names(folder) if name != "manifest.json"]
    assert json.loads((folder / "state.json").read_text()) == {"step": 2, "skipped": [[0, 1, 2]]}


def test_saving_waits_for_the_one_before(tmp_path: Path, world: World, monkeypatch: Any) -> None:
    gate = Gate(monkeypatch)
    points = Checkpoints(tmp_path, KEEP, world)
    run = Trained(world)
    run.saved(points, 1, asynchronous=True)
    gate.error = OSError(errno.EIO, "Input/output error")
    gate.open.set()
    run.saved(points, 2, asynchronous=True)
    first, second = points.wait(), points.wait()
    assert first is not None and first.error is not None, "a failure is not lost"
    assert second is not None and second.step == 2
    deadline = time.monotonic() + 10
    gate.error = None
    run.saved(points, 3, asynchronous=True)
    while (ended := points.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended is not None and ended.step == 3 and ended.error is None


def test_a_rank_that_is_lost_while_saving_is_told_of(tmp_path: Path, world: World, monkeypatch: Any) -> None:
    points = Checkpoints(tmp_path, KEEP, world)
    run = Trained(world)
    run.saved(points, 1)

    def lost(*given: Any, **how: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_gather_object", lost)
    run.saved(points, 2, asynchronous=True)
    ended = points.wait()
    assert ended is not None and "a rank was lost (RuntimeError: Connection closed" in str(ended.error)
    assert "step-00000001, and it is whole" in str(ended.error)


def test_what_cannot_be_removed_is_told_of(tmp_path: Path, world: World, monkeypatch: Any) -> None:
    points = Checkpoints(tmp_path, config.Checkpoint(keep=1), world)
    run = Trained(world)
    points.reserve(run.model, run.optimizer, run.extra)
    remove = shutil.rmtree

    def refused(path: Any, **how: Any) -> None:
        if path.name.endswith(".gone"):
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(path, **how)

    monkeypatch.setattr(shutil, "rmtree", refused)
    ended = []
    for step in (1, 2, 3):
        run.saved(points, step)
        ended.append(points.wait())
    assert [e.error for e in ended if e] == [None] * 3
    assert ended[1] and ended[1].note is None, "the first may yet become good"
    assert ended[2] and str(ended[2].note).startswith("older checkpoints could not be removed: PermissionError")
    assert points.latest() == tmp_path / "step-00000003"
