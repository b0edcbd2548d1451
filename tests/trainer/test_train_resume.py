"""A run that is killed and taken up again ends as one that was not, to the bit, whoever computes it."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ranks import environment, free_port, on_ranks
from runs import Child, body, config, documents, events, losses, same, tokens, trained

from trainer.checkpoint import Checkpoints
from trainer.checkpoint_files import CheckpointError
from trainer.config import Config, from_mapping
from trainer.failures import StoppedError
from trainer.metrics import read
from trainer.parallel import start, stop


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens(tmp_path_factory.mktemp("data") / "t", [documents(200, seed=i) for i in range(2)])


# What a shell starts in the background hears no Ctrl-C, and hands that on.
HEARS = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def slowly(seconds: float) -> str:
    """Code that makes each step last, so that a signal can hit one."""
    return (
        "import time\nfrom trainer.train import Trainer\nlearn = Trainer._learn\n"
        f"Trainer._learn = lambda *given: (time.sleep({seconds}), learn(*given))[1]"
    )


def killed(wanted: dict[str, Any], folder: Path, after: int) -> None:
    """Runs in a process that is killed once step `after` has been taken."""
    child = Child(wanted, folder, before=slowly(0.03))
    child.wait_for_step(after)
    child.send(signal.SIGKILL)
    assert child.ended()[0] == -signal.SIGKILL


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, (20,)),
        # Through the border of two phases, of which the kill is in the second.
        ({"data__packing": "best_fit", "optim__name": "muon", "checkpoint__asynchronous": False}, (9, 11)),
    ],
)
def test_killed_and_taken_up(changes: dict[str, Any], steps: tuple[int, ...], data: Path, tmp_path: Path) -> None:
    through, broken = (body(data, tmp_path / name, steps, **changes) for name in ("through", "broken"))
    result, expected = trained(from_mapping(through))
    killed(broken, tmp_path / "process", random.randint(11, 16))
    lines = read(Path(broken["out"]))
    assert max(line["step"] for line in lines if line["kind"] == "step") < 19
    again, found = trained(from_mapping(broken))
    assert same(found, expected)
    assert again.loss == result.loss and again.bits_per_byte == result.bits_per_byte and again.step == 20
    assert losses(Path(broken["out"])) == losses(Path(through["out"]))
    first = [line["step"] for line in read(Path(broken["out"])) if line["kind"] == "start"]
    assert first[0] == 0 and first[1] >= 10, "it went on from a checkpoint, not from the beginning"


def test_a_border_of_phases_is_a_place_to_go_on_from(data: Path, tmp_path: Path) -> None:
    """What the guard knows of a phase's level ends with it, also where the run is taken up at that very place."""
    through, broken = (config(data, tmp_path / name, (10, 10)) for name in ("through", "broken"))
    _, expected = trained(through)

    def stops_at_the_border(trainer: Any) -> None:
        save = trainer._save

        def last(asynchronous: bool, must: bool = False) -> None:
            save(False, must)
            if trainer.state.step == 10:
                raise KeyboardInterrupt

        trainer._save = last

    with pytest.raises(KeyboardInterrupt):
        trained(broken, before=stops_at_the_border)
    assert same(trained(broken)[1], expected)


def two_ranks(wanted: list[dict[str, Any]], ports: list[int]) -> list[Any]:
    """Several runs after each other on the same ranks."""
    found = []
    for one, port in zip(wanted, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        result, held = trained(from_mapping(one))
        found.append((result, held))
    return found


def test_one_rank_and_two_take_each_other_up(data: Path, tmp_path: Path) -> None:
    """Two ranks compute what one does in two micro-batches; replicated, or with a shared state."""
    through = body(data, tmp_path / "through", (12,))
    result, expected = trained(from_mapping(through))
    halves = []
    # Begun by one, half of them ended by two replicas, half by two that share.
    for shard in (1, 2):
        half = body(data, tmp_path / f"one-{shard}", (12,), parallel__shard=shard % 2, checkpoint__every=6)
        broken_off(from_mapping(half), 9)
        halves.append(half)
    # Begun by two, to be ended by one.
    whole = [
        body(data, tmp_path / f"two-{shard}", (12,), parallel__shard=shard % 2, checkpoint__every=6, checkpoint__keep=9)
        for shard in (1, 2)
    ]
    both = on_ranks(2, two_ranks, tmp_path / "ranks", [*halves, *whole], [free_port() for _ in range(4)])
    for rank in both:
        for end, held in rank:
            assert same(held, expected)
            assert end.loss == result.loss
            assert end.bits_per_byte == pytest.approx(result.bits_per_byte, rel=1e-12)
    for one in [*halves, *whole]:
        assert losses(Path(one["out"])) == losses(Path(through["out"]))
    for one in whole:
        world = start("cpu")
        Checkpoints(Path(one["out"]) / "checkpoints", from_mapping(one).checkpoint, world).drop_after(6)
        stop(world)
        _, held = trained(from_mapping(one))
        assert same(held, expected)
        assert losses(Path(one["out"])) == losses(Path(through["out"]))


def broken_off(wanted: Config, step: int) -> None:
    """Trains, and ends without a word before a step."""

    def breaks(trainer: Any) -> None:
        learn = trainer._learn

        def learns(taken: Any, rate: float) -> Any:
            if taken.number == step:
                raise KeyboardInterrupt
            return learn(taken, rate)

        trainer._learn = learns

    with pytest.raises(KeyboardInterrupt):
        trained(wanted, before=breaks)


def test_a_run_that_is_done_says_so_again(data: Path, tmp_path: Path) -> None:
    wanted = config(data, tmp_path / "out", (6,))
    first, held = trained(wanted)
    again, same_held = trained(wanted)
    assert again == first and same(held, same_held)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["digest"]


# Signals


@pytest.mark.parametrize(("number", "twice"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_stop_saves_and_the_run_goes_on_exactly(number: int, twice: bool, data: Path, tmp_path: Path) -> None:
    through, stopped = (body(data, tmp_path / name, (16,), checkpoint__every=100) for name in ("through", "stopped"))
    _, expected = trained(from_mapping(through))
    # A slow disk, so that the second signal comes while the first one's checkpoint is written.
    slow_disk = (
        "\nfrom trainer.checkpoint import Checkpoints\nput = Checkpoints._put\n"
        "Checkpoints._put = lambda *given: (print('saving', flush=True), time.sleep(0.5), put(*given))[2]"
    )
    child = Child(stopped, tmp_path / "process", before=HEARS + slowly(0.1) + slow_disk)
    child.wait_for_step(4)
    child.send(number)
    if twice:
        child.wait_for_word("saving")
        child.send(number)
    code, said = child.ended()
    assert code == 143
    assert said.startswith("error: stopped at step") and said.endswith("run the same command to go on")
    (stop,) = events(tmp_path / "stopped", "stopped")
    assert 4 < stop["step"] < 16
    _, found = trained(from_mapping(stopped))
    assert same(found, expected) and losses(tmp_path / "stopped") == losses(tmp_path / "through")


def test_ctrl_c_twice_leaves_at_once_and_a_run_has_one_process(data: Path, tmp_path: Path) -> None:
    wanted = body(data, tmp_path / "out", (200,), checkpoint__every=4)
    child = Child(wanted, tmp_path / "process", before=HEARS + slowly(0.3))
    child.wait_for_step(2)
    with pytest.raises(CheckpointError, match="another process trains here"):
        trained(from_mapping(wanted))
    child.send(signal.SIGINT)
    time.sleep(0.1)
    child.send(signal.SIGINT)
    code, _ = child.ended()
    assert code not in (0, 143) and not events(tmp_path / "out", "stopped")


def test_sigterm_in_an_evaluation_does_not_wait_for_its_end(data: Path, tmp_path: Path) -> None:
    wanted = body(data, tmp_path / "out", (8,), log__evaluate=4)
    through, _ = trained(from_mapping(body(data, tmp_path / "through", (8,), log__evaluate=4)))
    forever = (
        "import time\nfrom trainer.windows import Windows\nread = Windows.read\n"
        "def slow(self, sample, out):\n"
        "    if self.first:\n"
        "        print('looking', flush=True)\n"
        "        time.sleep(0.2)\n"
        "    return read(self, sample, out)\n"
        "Windows.read = slow\n"
    )
    child = Child(wanted | {"micro_tokens": 32}, tmp_path / "process", before=forever)
    child.wait_for_word("looking")
    child.send(signal.SIGTERM)
    code, said = child.ended()
    assert code == 143 and "stopped at step 4 of 8 and saved" in said
    assert not [line for line in read(tmp_path / "out") if line["kind"] == "eval"]
    again, _ = trained(from_mapping(wanted))
    # The look that was cut off is done again.
    looks = [(line["step"], line["bits_per_byte"]) for line in read(tmp_path / "out") if line["kind"] == "eval"]
    assert [step for step, _ in looks] == [4, 8] and again.bits_per_byte.keys() == through.bits_per_byte.keys()


def test_sigterm_in_the_first_step(data: Path, tmp_path: Path) -> None:
    """Which compiles, and may take minutes."""
    wanted = body(data, tmp_path / "out", (8,))
    says = slowly(0.3).replace("time.sleep", "print('learning', flush=True), time.sleep").replace("[1]", "[-1]")
    child = Child(wanted, tmp_path / "process", before=says)
    child.wait_for_word("learning")
    child.send(signal.SIGTERM)
    code, said = child.ended()
    assert code == 143 and "and saved" in said
    (stop,) = events(tmp_path / "out", "stopped")
    assert stop["step"] <= 2


def one_is_told(wanted: list[dict[str, Any]], ports: list[int]) -> list[str]:
    """Only the second rank is told to stop: in a step, or in an evaluation."""
    found = []
    for one, port in zip(wanted, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)

        def before(trainer: Any, at_look: bool = one["log"]["evaluate"] > 0) -> None:
            name = "evaluate" if at_look else "_learn"
            inner = getattr(trainer, name)

            def told(*given: Any) -> Any:
                if trainer.world.rank == 1 and trainer.state.step >= 4:
                    os.kill(os.getpid(), signal.SIGTERM)
                return inner(*given)

            setattr(trainer, name, told)

        with pytest.raises(StoppedError) as stopped:
            trained(from_mapping(one), before=before)
        found.append(str(stopped.value))
    return found


def test_all_ranks_stop_where_one_is_told_to(data: Path, tmp_path: Path) -> None:
    """Ranks that share matrices, and read the same rows, too."""
    shapes: list[dict[str, Any]] = [{"parallel__shard": 0}, {"parallel__tensor": 2, "model__kv_heads": 2}]
    wanted = [
        body(data, tmp_path / f"{i}-{every}", (16,), log__evaluate=every, checkpoint__every=100, **shape)
        for i, shape in enumerate(shapes)
        for every in (0, 4)
    ]
    one, other = on_ranks(2, one_is_told, tmp_path / "ranks", wanted, [free_port() for _ in wanted])
    assert one == other
    # A step later than it was told, and at once.
    assert [text.split(" of ")[0] for text in one] == ["stopped at step 6", "stopped at step 4"] * 2


def test_a_rank_that_is_killed_ends_the_other_and_leaves_the_checkpoints(data: Path, tmp_path: Path) -> None:
    through, broken = (body(data, tmp_path / name, (16,), checkpoint__every=4) for name in ("through", "broken"))
    _, expected = trained(from_mapping(through))
    port = free_port()
    ranks = [
        Child(broken, tmp_path / f"rank-{rank}", before=slowly(0.1), **environment(rank, 2, port)) for rank in (0, 1)
    ]
    ranks[0].wait_for_step(9)
    ranks[1].send(signal.SIGKILL)
    code, said = ranks[0].ended()
    assert code == 1
    assert said.startswith("error: another rank is gone") and "goes on from step-000000" in said
    names = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir() if path.name[0] != ".")
    assert names[-1] >= "step-00000008"
    _, found = trained(from_mapping(broken))
    assert losses(tmp_path / "broken") == losses(tmp_path / "through")
    assert same(found, expected)
