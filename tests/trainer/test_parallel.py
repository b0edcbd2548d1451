"""However a model is spread over ranks, it learns the same."""

import dataclasses
import os
import shutil
from typing import Any, NamedTuple

import pytest
import torch
from ranks import SHAPE, environment, free_port, meta, on_ranks, whole
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import UsageError
from trainer import config
from trainer.attention import scope
from trainer.model import Block, Decoder
from trainer.optim import Optimizer
from trainer.parallel import (
    World,
    gradient_norm,
    prepare,
    reduce_gradients,
    scale_gradients,
    start,
    stop,
    sum_over_ranks,
)

LENGTH, STEPS = 16, 3


class Case(NamedTuple):
    """How a model is trained: each of the ranks that read different rows has one row of a step's."""

    parallel: config.Parallel
    optim: str = "adamw"
    dtype: torch.dtype = torch.float32
    ranks: int = 2
    rows: int = 2


class Run(NamedTuple):
    """What came of it. The gradient norm is that of the last step, found in both ways."""

    losses: list[float]
    norms: list[float]
    fast_norm: float
    parameters: dict[str, Tensor]
    token_losses: Tensor


PLAIN = config.Parallel(compile=False)
CASES = {
    "replicated": Case(config.Parallel(shard=1, compile=False)),
    "sharded": Case(PLAIN),
    "sharded bf16": Case(PLAIN, dtype=torch.bfloat16),
    "sharded and recomputed": Case(config.Parallel(checkpoint_activations="full", compile=False)),
    "sharded, muon": Case(PLAIN, "muon"),
    "replicated, muon": Case(config.Parallel(shard=1, compile=False), "muon"),
    "tensor": Case(config.Parallel(tensor=2, compile=False)),
    "tensor, muon": Case(config.Parallel(tensor=2, compile=False), "muon"),
    "tensor and sharded": Case(config.Parallel(tensor=2, compile=False), ranks=4),
    "two replicas of two shards": Case(config.Parallel(shard=2, compile=False), ranks=4, rows=4),
}


def run(case: Case, steps: int = STEPS) -> Run:
    """Trains on the same rows a step, whatever the number of ranks: one micro-batch a rank, or one after another."""
    world = start("cpu", case.parallel, deterministic=True)
    try:
        model = prepare(meta(dtype=case.dtype), case.parallel, world)
        model.initialise(7)
        optimizer = Optimizer(model, config.Optim(name=case.optim))
        source = torch.Generator().manual_seed(1)
        losses, norms, fast = [], [], torch.zeros(())
        for _ in range(steps):
            rows = torch.randint(0, SHAPE.vocab_size, (case.rows, LENGTH + 1), generator=source)
            optimizer.zero_grad()
            sums = torch.zeros(3)
            for row in rows.chunk(case.rows)[world.data_rank :: world.data_size]:
                loss = model(row[:, :-1], row[:, 1:], scope("mask", documents()), 1e-4)
                loss.total.backward()
                sums += torch.stack([part.detach() for part in loss])
            reduce_gradients(model, world)
            sum_over_ranks(sums, world)
            scale_gradients(model, 1 / sums[2])
            losses.append(float(sums[1] / sums[2]))
            norms.append(float(gradient_norm(model, world)))
            fast = gradient_norm(model, dataclasses.replace(world, deterministic=False))
            optimizer.step(1.0, torch.zeros(()))
        parameters = {name: whole(p) for name, p in model.named_parameters()}
        moments = [whole(t) for o in optimizer.all for state in o.state.values() for t in state.values()]
        optimizer.step(1.0, torch.ones(()))  # withheld: however it is spread, nothing moves
        assert all(torch.equal(whole(p), parameters[name]) for name, p in model.named_parameters())
        after = [whole(t) for o in optimizer.all for state in o.state.values() for t in state.values()]
        assert all(torch.equal(*pair) for pair in zip(moments, after, strict=True))
        seen = model(rows[:1, :-1], rows[:1, 1:], scope("mask", documents()), each=True)
        return Run(losses, norms, float(fast), parameters, seen)
    finally:
        stop(world)


def documents() -> Tensor:
    """A row of two."""
    return (torch.arange(LENGTH) > 8).long()[None]


TINY = dataclasses.replace(SHAPE, layers=1, width=4, heads=1, kv_heads=1, head_dim=2, ffn=3, vocab_size=1)


def initialised() -> dict[str, Tensor]:
    """The parameters as ranks that share them have them at first."""
    world = start("cpu")
    try:
        model = prepare(meta(TINY), PLAIN, world)
        model.initialise(3)
        return {name: whole(p) for name, p in model.named_parameters()}
    finally:
        stop(world)


def run_all(ports: list[int]) -> list[Any]:
    """Several worlds one after the other in the same processes: starting those takes longer than training. None where a
    rank has no part in a world."""
    done: list[Any] = []
    rank = int(os.environ["RANK"])
    for case, port in zip([None, *CASES.values()], ports, strict=True):
        size = case.ranks if case else 2
        os.environ |= environment(rank, size, port)
        done.append(None if rank >= size else run(case) if case else initialised())
    return done


@pytest.fixture(scope="module")
def spread(tmp_path_factory: Any) -> dict[str, list[Any]]:
    """Each case on its ranks: what each of them saw."""
    ports = [free_port() for _ in range(len(CASES) + 1)]
    ranks = on_ranks(4, run_all, tmp_path_factory.mktemp("ranks"), ports)
    cases = zip(*ranks, strict=True)
    return {name: [r for r in seen if r is not None] for name, seen in zip(["start", *CASES], cases, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_many_ranks_learn_what_one_does(name: str, spread: dict[str, list[Any]]) -> None:
    alone = run(CASES[name]._replace(parallel=PLAIN))
    assert alone.losses[-1] != alone.losses[0]
    for found in spread[name]:
        if "tensor" in name or "replicas" in name:  # a sum in other parts rounds otherwise
            assert found.losses == pytest.approx(alone.losses, rel=1e-6)
            assert found.norms == pytest.approx(alone.norms, rel=1e-5)
            for key, tensor in alone.parameters.items():
                torch.testing.assert_close(found.parameters[key], tensor, rtol=0, atol=2e-6)
            torch.testing.assert_close(found.token_losses, alone.token_losses)
            continue
        assert found.losses == alone.losses
        assert found.norms == alone.norms
        assert torch.equal(found.token_losses, alone.token_losses)
        assert all(torch.equal(found.parameters[key], tensor) for key, tensor in alone.parameters.items())
    first, *others = spread[name]
    assert len(others) == CASES[name].ranks - 1
    for other in others:
        assert all(torch.equal(tensor, other.parameters[key]) for key, tensor in first.parameters.items())


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_norm_is_the_same_by_parts(name: str, spread: dict[str, list[Any]]) -> None:
    first, *others = spread[name]
    assert {other.fast_norm for other in others} == {first.fast_norm}
    assert first.fast_norm == pytest.approx(first.norms[-1], rel=1e-5)
    alone = run(CASES[name]._replace(parallel=PLAIN), STEPS)
    assert alone.fast_norm == pytest.approx(alone.norms[-1], rel=1e-6)


def gradients(parallel: config.Parallel) -> tuple[dict[str, Tensor], int, int]:
    """Gradients of one batch, and how many matrix products the forward and the backward pass took (if not compiled)."""

    class Count(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.n += func is torch.ops.aten.mm.default
            return func(*args, **(kwargs or {}))

    world = start("cpu", parallel)
    try:
        model = prepare(meta(), parallel, world)
        model.initialise(7)
        rows = torch.randint(0, SHAPE.vocab_size, (1, LENGTH + 1), generator=torch.Generator().manual_seed(1))
        if parallel.compile:
            model(rows[:, :-1], rows[:, 1:], scope("mask", documents())).total.backward()
            return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, 0, 0
        with Count() as forward:
            loss = model(rows[:, :-1], rows[:, 1:], scope("mask", documents()))
        with Count() as backward:
            loss.total.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, forward.n, backward.n
    finally:
        stop(world)


def test_activations_are_computed_again_and_gradients_are_equal() -> None:
    plain, forward, backward = gradients(PLAIN)
    assert len(plain) == 2 + 11 * SHAPE.layers
    for kind, again in (("full", 7), ("selective", 4)):
        found, n_forward, n_backward = gradients(dataclasses.replace(PLAIN, checkpoint_activations=kind))
        assert list(found) == list(plain), "no name may change"
        assert all(torch.equal(found[name], plain[name]) for name in plain)
        # Seven products in a layer; what comes after the last one that is asked for is not computed.
        assert (n_forward, n_backward - backward) == (forward, (again - 1) * SHAPE.layers)


@pytest.mark.parametrize("kind", ["none", "full", "selective"])
def test_a_block_is_one_graph(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(self: Block, fullgraph: bool, dynamic: bool) -> None:
        assert fullgraph and not dynamic
        nn.Module.compile(self, fullgraph=True, dynamic=False, backend="aot_eager")

    monkeypatch.setattr(Block, "compile", traced)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found, _, _ = gradients(config.Parallel(checkpoint_activations=kind, compile=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "the blocks share one graph"
    plain, _, _ = gradients(PLAIN)
    assert list(found) == list(plain)
    for name in plain:
        torch.testing.assert_close(found[name], plain[name])


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_a_compiled_block_has_the_same_gradients() -> None:
    torch._dynamo.reset()
    found, _, _ = gradients(config.Parallel(compile=True))
    plain, _, _ = gradients(PLAIN)
    for name in plain:
        torch.testing.assert_close(found[name], plain[name])


def test_a_world_of_one_is_not_wrapped() -> None:
    world = start("cpu")
    try:
        assert world == World(0, 1, 0, torch.device("cpu"), None)
        assert (world.data_rank, world.data_size) == (0, 1)
        model = prepare(meta(), PLAIN, world)
        assert type(model) is Decoder and {type(block) for block in model.model.layers} == {Block}
        model.initialise(7)
        reduce_gradients(model, world)
        assert gradient_norm(model, world) == 0.0, "no gradient yet"
        assert sum_over_ranks(torch.tensor([3]), world).tolist() == [3]
    finally:
        stop(world)


@pytest.mark.parametrize(
    ("variables", "device", "options", "said"),
    [
        ({}, "cuda", config.Parallel(), "PyTorch sees no GPU"),
        ({"RANK": "x"}, "cpu", config.Parallel(), "RANK is 'x', not a number"),
        ({"WORLD_SIZE": "2"}, "cpu", config.Parallel(), "MASTER_ADDR is not set: start several ranks with torchrun"),
        ({"WORLD_SIZE": "3"}, "cpu", config.Parallel(tensor=2), r"parallel.tensor \(2\) must divide .* ranks \(3\)"),
        ({"WORLD_SIZE": "6"}, "cpu", config.Parallel(shard=4), r"parallel.shard \(4\) must divide .* \(6\)"),
        ({"WORLD_SIZE": "4"}, "cpu", config.Parallel(shard=4, tensor=2), r"parallel.shard \(4\) must divide .* \(2\)"),
    ],
)
def test_a_world_that_cannot_be_is_refused(
    variables: dict[str, str], device: Any, options: config.Parallel, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=said):
        start(device, options)
    assert not torch.distributed.is_initialized()


def test_heads_that_cannot_be_divided_are_refused() -> None:
    world = World(0, 3, 0, torch.device("cpu"), None, tensor=3)
    with pytest.raises(config.ConfigError, match=r"model.heads \(4\) must be a multiple of parallel.tensor \(3\)"):
        prepare(meta(), config.Parallel(tensor=3, compile=False), world)


def test_a_start_does_not_depend_on_how_many_share_it(spread: dict[str, list[Any]]) -> None:
    """Parts of a matrix are cut from the whole, so seeds mean the same everywhere; a part may be empty."""
    one, two = spread["start"]
    model = Decoder(TINY)
    model.initialise(3)
    for name, parameter in model.named_parameters():
        assert torch.equal(one[name], parameter) and torch.equal(two[name], parameter)
