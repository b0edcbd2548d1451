"""What goes wrong in the middle of a run: bad data, numbers that are none, full disks, full memory."""

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Child, body, config, documents, events, losses, same, tokens, trained
from torch.distributed.checkpoint import FileSystemWriter

from trainer.checkpoint_files import CheckpointError
from trainer.config import Config, from_mapping
from trainer.data import open_corpus
from trainer.failures import MemoryFullError

STEPS = 90
BAD = (70, 71, 72)
"""Steps whose samples are spoilt: as many in a row as send a run back."""

CALM = {
    "optim__lr": 1e-2,
    "guard__window": 16,
    "guard__least_history": 16,
    "checkpoint__every": 20,
    "checkpoint__healthy": 5,
    "data__verify": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens(tmp_path_factory.mktemp("data") / "t", [documents(320, seed=i) for i in range(2)])


@pytest.fixture(scope="module")
def clean(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Held-out bits per byte of clean runs: of the seed that is used below, and of others, which is what noise is."""
    folder = tmp_path_factory.mktemp("clean")
    found = []
    for seed in range(4):
        result, _ = trained(config(data, folder / str(seed), (STEPS,), seed=seed, **CALM))
        assert result.rollbacks == result.skipped_steps == 0
        found.append(result.bits_per_byte["t"])
    return found


def read_in(wanted: Config, steps: tuple[int, ...], number: int = 0) -> set[int]:
    """The windows of the only source that some steps of a phase read."""
    plan = open_corpus(wanted).plan
    phase = plan.phases[number]
    samples = np.concatenate([np.arange(step * phase.batch, (step + 1) * phase.batch) for step in steps])
    return set(plan.place(phase, samples)[2].tolist())


def test_a_corrupt_shard_is_survived_by_one_rollback(data: Path, clean: list[float], tmp_path: Path) -> None:
    copy = tmp_path / "t"
    subprocess.run(["cp", "-r", data, copy], check=True)
    wanted = config(copy, tmp_path / "out", (STEPS,), **CALM)
    bad = read_in(wanted, BAD)
    store = open_corpus(wanted).plan.phases[0].streams[0].tokens  # type: ignore[attr-defined]
    source = np.random.default_rng(0)
    for window in bad:  # tokens that some process has overwritten
        start = 0
        for shard in store.shards:
            held = np.memmap(shard.prefix.with_name(shard.prefix.name + ".bin"), shard.tokens.dtype, "r+")
            low, high = max(0, window * 32 - start), min(len(held), window * 32 + 33 - start)
            if low < high:
                held[low:high] = source.integers(0, 34, high - low)
            start += len(held)
            held.flush()
    result, _ = trained(wanted)
    survived(result, clean, tmp_path / "out")
    steps = losses(tmp_path / "out")
    assert max(steps[step][0] for step in range(60, STEPS)) < max(steps[step][0] for step in range(10, 20))


def survived(result: Any, clean: list[float], out: Path) -> None:
    """One rollback, over the bad samples, and an end within what other seeds make of clean data."""
    assert result.rollbacks == 1 and result.skipped_steps == len(BAD)
    (back,) = (line for line in events(out, "rollback") if "to" in line)
    # The checkpoint of step 60 was five steps old and healthy.
    assert back["step"] in BAD and back["to"] == 60
    assert back["left_out"] == {"phase": "p0", "first": 60 * 8, "end": (BAD[-1] + 1 + 2) * 8}
    noise = max(clean) - min(clean)
    assert 0 < noise < 0.5, "the clean runs tell nothing"
    assert abs(result.bits_per_byte["t"] - clean[0]) <= noise
    said = json.loads((out / "diagnosis.json").read_text())
    assert said["step"] == BAD[-1] and said["verdict"] == "rollback"
    assert [step for step, *_, withheld in said["recent"] if withheld] == list(BAD)


def spoilt(wanted: Config, steps: tuple[int, ...], number: int = 0) -> Callable[[Any], None]:
    """Makes the loss of the samples of some steps of a phase NaN, whenever they are read."""
    bad = read_in(wanted, steps, number)

    def spoils(trainer: Any) -> None:
        windows = trainer.plan.phases[number].streams[0]
        held = np.empty(33, np.int64)
        rows = set()
        for window in bad:
            windows.read(window, held)
            rows.add(held[:-1].tobytes())

        def hook(module: Any, given: tuple[Any, ...], loss: Any) -> Any:
            if any(row.numpy().tobytes() in rows for row in given[0]):
                return loss._replace(total=loss.total * torch.nan, nll=loss.nll * torch.nan)
            return loss

        trainer.model.register_forward_hook(hook)

    return spoils


def test_batches_of_nan_are_survived_by_one_rollback(data: Path, clean: list[float], tmp_path: Path) -> None:
    wanted = config(data, tmp_path / "out", (STEPS,), **CALM)
    result, held = trained(wanted, before=spoilt(wanted, BAD))
    assert all(torch.isfinite(tensor).all() for tensor in held.values())
    survived(result, clean, tmp_path / "out")
    # What was left out is remembered: taken up anew, the run ends the same.
    again, same_held = trained(wanted)
    assert same(held, same_held) and again.rollbacks == 1


def test_a_rollback_across_a_border_leaves_out_what_is_bad_and_learns_the_rest_again(
    data: Path, tmp_path: Path
) -> None:
    wanted = config(data, tmp_path / "out", (30, 20), **CALM)
    result, held = trained(wanted, before=spoilt(wanted, (2, 3, 4), number=1))
    assert (result.step, result.rollbacks, result.skipped_steps) == (50, 1, 3)
    (back,) = (line for line in events(tmp_path / "out", "rollback") if "to" in line)
    # The border's own checkpoint was too young to be trusted.
    assert (back["step"], back["to"]) == (34, 20)
    assert back["left_out"] == {"phase": "p1", "first": 0, "end": (5 + 2) * 8}
    assert all(torch.isfinite(tensor).all() for tensor in held.values()) and result.loss < 2.6


def test_one_batch_of_nan_costs_its_step_and_no_more(data: Path, tmp_path: Path) -> None:
    wanted = config(data, tmp_path / "out", (30,), **CALM)
    result, held = trained(wanted, before=spoilt(wanted, (20,)))
    assert (result.rollbacks, result.skipped_steps) == (0, 1)
    assert all(torch.isfinite(tensor).all() for tensor in held.values())
    (skip,) = events(tmp_path / "out", "skip")
    assert skip["step"] == 20 and skip["loss"] is None
    assert result.loss < 2.6 and len(losses(tmp_path / "out")) == 30


def test_failures_that_go_on_end_the_run_with_a_diagnosis(data: Path, tmp_path: Path) -> None:
    always = (
        "from trainer.train import Trainer\nlearn = Trainer._learn\n"
        "def spoils(self, step, rate):\n"
        "    if step.number >= 12:\n"
        "        self.model.model.norm.weight.data.fill_(float('nan'))\n"
        "    return learn(self, step, rate)\n"
        "Trainer._learn = spoils"
    )
    wanted = body(data, tmp_path / "out", (30,), guard__rollbacks=2, data__max_epochs=9)
    child = Child(wanted, tmp_path / "process", before=always)
    code, said = child.ended()
    assert code == 4
    assert re.match(r"error: gave up at step \d+ after 2 rollbacks.*diagnosis.json says .*lower optim.lr", said)
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert found["verdict"] == "abort" and len(found["rollbacks"]) == 3
    assert found["parameter_norms"]["model.norm.weight"] is None, "the parameter that is to blame"
    assert set(found["of_sources"]) == {"t"} and len(found["of_sources"]["t"]) == 8
    # What was good is there still.
    names = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert "step-00000005" in names or "step-00000010" in names


# Full disks


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_run(
    asynchronous: bool, data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    _, expected = trained(config(data, tmp_path / "clean", (16,)))
    write = FileSystemWriter.write_data

    def full(writer: FileSystemWriter, plan: Any, planner: Any) -> Any:
        if "step-00000010" in str(writer.path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(writer, plan, planner)

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    wanted = config(data, tmp_path / "out", (16,), checkpoint__asynchronous=asynchronous, checkpoint__keep=9)
    _, held = trained(wanted)
    assert same(held, expected)
    (failed,) = events(tmp_path / "out", "checkpoint failed")
    assert failed["step"] == 10 and "is full" in failed["error"] and "step-00000005, and it is whole" in failed["error"]
    names = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert names == ["step-00000005", "step-00000015", "step-00000016"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting wants root")
def test_a_disk_that_is_full_for_a_while_or_to_the_end(data: Path, tmp_path: Path, capfd: Any) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("this root may not mount")
    filler = small / "filler"

    def fills(first: int, last: int) -> Callable[[Any], None]:
        def before(trainer: Any) -> None:
            learn = trainer._learn

            def learns(step: Any, rate: float) -> Any:
                if step.number == first:
                    # A save under way would take or give room after the disk is full, and say so in the file of metrics.
                    trainer.checkpoints._join()
                    try:
                        with filler.open("wb", buffering=0) as file:
                            while True:
                                file.write(bytes(4096))
                    except OSError:
                        pass
                    # What is left of a page of the disk could hold the lines of some steps.
                    metrics = trainer.folder / "metrics.jsonl"
                    with metrics.open("ab") as file:
                        file.write(b"\n" * (-metrics.stat().st_size % 4096))
                if step.number == last:
                    filler.unlink()
                return learn(step, rate)

            trainer._learn = learns

        return before

    try:
        _, expected = trained(config(data, tmp_path / "clean", (16,)))
        _, held = trained(config(data, small / "a", (16,)), before=fills(6, 12))
        assert same(held, expected)
        assert "cannot write" in (said := capfd.readouterr().err) and "training goes on" in said
        # What was said of step 10 could not be written either; what came after was.
        assert [line["step"] for line in events(small / "a", "checkpoint")][-2:] == [15, 16]
        with pytest.raises(CheckpointError, match=r"step 16 was not saved: the disk of .* is full.*step-00000005"):
            trained(config(data, small / "b", (16,), checkpoint__asynchronous=False), before=fills(6, 99))
        filler.unlink()
        _, held = trained(config(data, small / "b", (16,)))
        assert same(held, expected)
    finally:
        subprocess.run(["umount", small], check=True)


# Full memory


def too_much(*given: Any) -> Any:
    return torch.empty(2**58, dtype=torch.float32)


def on_a_gpu(*given: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …\nmore")


@pytest.mark.parametrize("fails", [too_much, on_a_gpu])
def test_full_memory_says_what_to_change(fails: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    def before(trainer: Any) -> None:
        learn = trainer._learn
        trainer._learn = lambda step, rate: learn(step, rate) if step.number < 7 else fails()

    match = r"out of memory \(.*\): lower micro_tokens \(now 128\).*checkpoint_activations.*shard.* step-00000005$"
    with pytest.raises(MemoryFullError, match=match) as told:
        trained(config(data, tmp_path / "out", (12,)), before=before)
    assert told.value.exit_code != 0 and "\n" not in str(told.value)
    assert trained(config(data, tmp_path / "out", (12,)))[0].step == 12


def test_a_model_that_does_not_fit_is_told_of_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    wanted = body(data, tmp_path / "out", (12,), model__width=2**24, model__ffn=2**24)
    with pytest.raises(MemoryFullError, match="begins anew, nothing was saved yet"):
        trained(from_mapping(wanted))
    assert not (tmp_path / "out").exists()


def test_memory_for_copies_is_set_aside_before_the_first_step(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Pinning it takes seconds on a GPU, which no step should wait for."""
    from trainer.checkpoint import Checkpoints

    order: list[str] = []
    reserve = Checkpoints.reserve
    monkeypatch.setattr(Checkpoints, "reserve", lambda *given: (order.append("reserve"), reserve(*given))[1])

    def before(trainer: Any) -> None:
        learn = trainer._learn
        trainer._learn = lambda *given: (order.append("step"), learn(*given))[1]

    trained(config(data, tmp_path / "out", (2,)), before=before)
    assert order == ["reserve", "step", "step"]
