"""How parameters move: rates over a phase, AdamW and Muon against their definitions, steps that are withheld."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer import config
from trainer.config import Ramp
from trainer.model import Decoder
from trainer.optim import Muon, Optimizer, factor, orthogonal

SHAPE = config.Model(layers=2, width=32, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab_size=64)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rates(ramp: Ramp, steps: int = 100, batch_tokens: int = 10) -> list[float]:
    return [factor(ramp, step, steps, batch_tokens) for step in range(steps)]


# Rates.


def test_a_warm_up_rises_evenly_and_ends_at_the_start() -> None:
    found = rates(Ramp(start=0.8, end=0.8, warmup=95))  # rounded up to ten steps
    assert found[:10] == pytest.approx([0.08 * n for n in range(1, 11)]) and set(found[10:]) == {0.8}


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (1.0, 0.1), (0.2, 1.0)])
@pytest.mark.parametrize("warmup", [0, 200])
def test_a_ramp_goes_its_way_without_turning_and_ends_at_its_end(
    shape: Any, start: float, end: float, warmup: int
) -> None:
    found = rates(Ramp(start, end, shape, warmup))[warmup // 10 :]
    assert found[-1] == pytest.approx(end, abs=1e-12)
    paces = [(b - a) * (end - start) for a, b in zip([start, *found], found, strict=False)]
    assert all(pace > 0 for pace in paces)


def test_shapes_are_those_of_their_sources() -> None:
    halfway = {shape: rates(Ramp(1.0, 0.0, shape))[49] for shape in ("linear", "cosine", "sqrt", "constant")}  # type: ignore[arg-type]
    assert halfway == pytest.approx({"linear": 0.5, "cosine": 0.5, "sqrt": 1 - math.sqrt(0.5), "constant": 1.0})
    quarter = {shape: rates(Ramp(1.0, 0.2, shape))[24] for shape in ("linear", "cosine", "sqrt")}  # type: ignore[arg-type]
    cosine = 1 - 0.8 * (1 - math.cos(math.pi / 4)) / 2
    assert quarter == pytest.approx({"linear": 0.8, "cosine": cosine, "sqrt": 0.6})


def test_a_warm_up_longer_than_the_phase_is_cut_to_it() -> None:
    found = rates(Ramp(1.0, 0.0, "linear", warmup=10_000), steps=5)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates(Ramp(1.0, 0.0), steps=1) == [0.0] and rates(Ramp(), steps=1) == [1.0]


# Optimisers.


def model_with_gradients(seed: int = 0) -> Decoder:
    model = Decoder(SHAPE)
    model.initialise(seed)
    give(model, seed)
    return model


def give(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.01


def states(optimizer: Optimizer) -> list[Tensor]:
    return [
        value.clone()
        for part in optimizer.all
        for state in part.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def test_adamw_is_as_it_was_published() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with decay on matrices only."""
    model, options = model_with_gradients(), config.Optim(lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8)
    optimizer = Optimizer(model, options)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step, rate in enumerate((1.0, 0.5, 0.25), 1):
        give(model, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient, lr = parameter.grad.double(), 1e-2 * rate
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            step_of = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.95**step)).sqrt() + 1e-8)
            decay = 0.1 if parameter.ndim == 2 else 0.0
            expected[name] = expected[name] - lr * decay * expected[name] - lr * step_of
        optimizer.step(rate, torch.zeros(()))
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.double(), expected[name], atol=1e-6), name


@pytest.mark.parametrize("shape", [(24, 24), (40, 16), (16, 40)])
def test_an_orthogonal_matrix_has_singular_values_near_one_and_the_directions_of_its_own(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out = orthogonal(matrix)
    assert out.shape == matrix.shape and out.dtype == matrix.dtype
    values = torch.linalg.svdvals(out)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ out @ right.T
    assert float((turned - torch.diag(turned.diagonal())).abs().max()) < 0.02
    assert torch.allclose(orthogonal(matrix * 1000), out, atol=1e-3)
    assert torch.isfinite(orthogonal(torch.zeros(4, 4))).all()


def test_muon_moves_along_its_momentum() -> None:
    parameter = nn.Parameter(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)))
    optimizer = Muon([parameter], lr=0.1, weight_decay=0.5)
    before = parameter.detach().clone()
    momentum = torch.zeros(12, 6)
    for seed in (1, 2):
        gradient = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
        momentum = 0.95 * momentum + gradient
        expected = before * (1 - 0.1 * 0.5) - 0.1 * math.sqrt(2) * orthogonal(gradient + 0.95 * momentum)
        parameter.grad = gradient
        optimizer.step()
        assert torch.allclose(parameter, expected, atol=1e-5)
        before = parameter.detach().clone()


def test_muon_has_hidden_matrices_and_adamw_the_rest() -> None:
    model = model_with_gradients()
    optimizer = Optimizer(model, config.Optim(name="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    assert optimizer.muon is not None
    of_muon, of_adam = (
        {names[id(p)] for group in part.param_groups for p in group["params"]}
        for part in (optimizer.muon, optimizer.adam)
    )
    assert of_muon | of_adam == {*names.values()} and not of_muon & of_adam
    assert all(".layers." in name and "norm" not in name for name in of_muon) and len(of_muon) == 2 * 7
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.adam.param_groups for p in group["params"]}
    assert decays["model.embed_tokens.weight"] == 0.1 and decays["model.norm.weight"] == 0.0


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_a_step_that_is_withheld_leaves_no_trace(name: Any, poison: float) -> None:
    """Neither in parameters nor in moments, nor in the number of steps that AdamW corrects by: what comes after is as if
    it had never been."""
    clean, hit = (model_with_gradients() for _ in range(2))
    ours, theirs = (Optimizer(model, config.Optim(name=name)) for model in (clean, hit))
    for step in range(4):
        if step == 2:
            for parameter in hit.parameters():
                parameter.grad = torch.full_like(parameter, poison)
            before = [p.detach().clone() for p in hit.parameters()], states(theirs)
            theirs.step(1.0, torch.ones(()))
            after = [p.detach() for p in hit.parameters()], states(theirs)
            for olds, news in zip(before, after, strict=True):
                assert all(torch.equal(old, new) for old, new in zip(olds, news, strict=True))
        for model, optimizer in ((clean, ours), (hit, theirs)):
            give(model, step)
            optimizer.step(1.0, torch.zeros((), dtype=torch.float64))
    for a, b in zip(clean.parameters(), hit.parameters(), strict=True):
        assert torch.equal(a, b) and torch.isfinite(a).all()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_very_first_step_can_be_withheld(name: Any) -> None:
    model = model_with_gradients()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = Optimizer(model, config.Optim(name=name))
    optimizer.step(1.0, torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    optimizer.step(1.0, torch.zeros(()))  # without gradients nothing moves
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
