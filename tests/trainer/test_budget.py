"""What runs take, against what the makers of public ones said that they took."""

import math
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from pipeline.errors import UsageError
from trainer import scaling_commands
from trainer.advice import published
from trainer.budget import (
    Plan,
    best_sizes,
    check,
    energy,
    grid_of,
    on_each,
    operations,
    power,
    shape_like,
    state_bytes,
    watts_of,
)
from trainer.config import Model
from trainer.estimate import activations, memory, named
from trainer.metrics import PEAKS
from trainer.model import flops_per_token, n_parameters
from trainer.scaling import Law, TooLittleError
from trainer.scaling_runs import PUBLIC

LLAMA_405B = Model(126, 16_384, 128, 8, 128, ffn=53_248, vocab_size=128_256, tie_embeddings=False)
"""Dubey et al. 2024, arXiv:2407.21783, table 3."""


def llama(gpus: int = 16_384, mfu: float = 0.40) -> Plan:
    exact = operations(LLAMA_405B, 15.6e12, 8192)
    return Plan(LLAMA_405B, 405e9, 15.6e12, exact, False, named("H100"), gpus, mfu)


def test_llama_3_takes_what_its_makers_said() -> None:
    """3.8e25 operations (section 1), 16,384 H100 at 38 to 43 % (table 4), 30.84 M hours on the model card, stops and all."""
    assert n_parameters(LLAMA_405B)[0] == pytest.approx(405e9, rel=0.003)
    plan = llama()
    assert plan.simple == pytest.approx(3.8e25, rel=0.01)
    assert plan.exact == pytest.approx(plan.simple, rel=0.10) and plan.exact > plan.simple
    assert 66 < plan.seconds / 86_400 < 72
    assert 68 < llama(16_000).seconds / 86_400 < 71
    assert 26e6 < plan.gpu_hours < 30e6
    assert 52e6 < plan.gpu_hours * 2 < 60e6, "about 52 million at 2 an hour"
    assert 24e6 < llama(mfu=0.43).gpu_hours < llama(mfu=0.38).gpu_hours < 30.84e6


def test_llamas_card_and_ours_agree_on_carbon() -> None:
    """30.84 M hours at 700 W: 8,930 t, location-based."""
    watts = watts_of("H100")
    assert watts == 700
    found = energy(30.84e6, watts, power()["pue"], grid_of("us"))
    assert found.co2 / 1000 == pytest.approx(8930, rel=0.05)


def test_the_state_of_gpt_4_is_14400_gigabytes() -> None:
    """1.8 T parameters: two FP32 moments of each, or weights, gradients and moments all in FP16."""
    assert state_bytes(1.8e12)["moments"] == pytest.approx(14_400e9)
    assert sum(state_bytes(1.8e12, "half").values()) == pytest.approx(14_400e9)
    assert sum(state_bytes(1e9).values()) == pytest.approx(18e9)


def test_public_runs_are_reckoned_as_published() -> None:
    found = {one.name: one for one in check()}
    for one in found.values():
        if one.said_flops:
            assert one.flops == pytest.approx(one.said_flops, rel=0.03), one
        if one.mfu:
            assert 0.3 < one.mfu < 0.5, "what GPU hours that were published come to is a share that training reaches"
        assert one.source
    assert found["LLaMA 65B"].said_hours == pytest.approx(2048 * 21 * 24, rel=0.02), "its 21 days on 2048"


def test_sardanas_example_comes_out() -> None:
    """Figure 1 of arXiv:2401.00448: for 2 T tokens of use a 7B model saves 17 %, 1.7e22 operations, of a 13B's."""
    law = published("sardana2023")
    budget = 1e22
    while law.optimum(budget)[0] < 13e9:
        budget *= 1.001
    chinchilla, cheaper = best_sizes(law, budget, 2e12)
    assert cheaper is not None
    assert cheaper.n == pytest.approx(7e9, rel=0.01)
    assert chinchilla.whole - cheaper.whole == pytest.approx(1.7e22, rel=0.01)
    assert 1 - cheaper.whole / chinchilla.whole == pytest.approx(0.17, abs=0.005)
    assert law.loss(cheaper.n, cheaper.d) == pytest.approx(chinchilla.loss)


def test_without_use_the_cheapest_model_is_chinchillas() -> None:
    law = published("besiroglu2024")
    n, d = law.optimum(1e22)
    assert law.for_inference(law.loss(n, d), 1.0) == pytest.approx((n, d), rel=1e-3)
    assert best_sizes(law, 1e22)[1] is None
    with pytest.raises(TooLittleError, match="cannot be gone below"):
        law.for_inference(law.E, 1e12)
    assert law.tokens_for(law.E, 1e9) == math.inf


def test_chinchilla_is_near_its_budget() -> None:
    n, d = published("besiroglu2024").optimum(5.76e23)
    assert (n, d) == (pytest.approx(70e9, rel=0.1), pytest.approx(1.4e12, rel=0.1))


@pytest.mark.parametrize("law", yaml.safe_load((PUBLIC / "laws.yaml").read_text()))
def test_published_laws_have_sources(law: str) -> None:
    assert isinstance(published(law), Law)
    assert "arXiv" in yaml.safe_load((PUBLIC / "laws.yaml").read_text())[law]["source"]


SHAPE = Model(layers=32, width=4096, heads=32, kv_heads=8, vocab_size=128_256, ffn=14_336, tie_embeddings=False)


def test_each_way_of_sharing_holds_less_and_the_parts_are_those_of_the_estimate() -> None:
    parts = {part.way: part for part in on_each(SHAPE, 8192, 64, 8, "full")}
    assert list(parts) == ["none", "ZeRO-1", "ZeRO-2", "ZeRO-3", "TP 8", "TP 8, ZeRO-3"]
    totals = [part.total for part in parts.values()]
    assert totals[:4] == sorted(totals[:4], reverse=True)
    n = n_parameters(SHAPE)[0]
    none, one, two, three = (parts[way] for way in ("none", "ZeRO-1", "ZeRO-2", "ZeRO-3"))
    assert (none.masters, none.gradients, none.moments) == (4 * n, 4 * n, 8 * n)
    assert (one.masters, one.gradients, one.moments) == (4 * n / 64, 4 * n, 8 * n / 64)
    assert two.gradients == 4 * n / 64 and two.weights == none.weights
    fsdp = memory(SHAPE, "adamw", activations(SHAPE, 8192, 2, "full"), 2, 8192, 64)
    assert three.total == pytest.approx(fsdp.total, rel=1e-6)
    assert parts["TP 8"].masters < none.masters / 3, "embedding and head are whole on each"
    assert parts["TP 8, ZeRO-3"].total < parts["TP 8"].total


def test_one_gpu_shares_with_nobody_and_half_has_no_masters() -> None:
    (only,) = on_each(SHAPE, 8192, 1, 1, "none", "half")
    assert only.masters == 0
    assert only.weights + only.gradients + only.moments == 8 * n_parameters(SHAPE)[0]
    assert only.activations > on_each(SHAPE, 8192, 1, 1, "full", "half")[0].activations


@pytest.mark.parametrize("n", [1e6, 1.25e8, 1.3e9, 7e9, 70e9, 405e9, 1.8e12])
def test_shapes_are_near_the_size_asked_for(n: float) -> None:
    shape = shape_like(n)
    assert n_parameters(shape)[0] == pytest.approx(n, rel=0.1)
    if n > 1e8:
        assert 30 < shape.width / shape.layers < 250
    assert shape.heads % shape.kv_heads == 0 and shape.heads * shape.head_dim == shape.width


def test_every_gpu_with_a_peak_has_watts() -> None:
    for pattern in PEAKS:
        name = pattern.replace(r"\b", "").replace("[23]", "2").replace("[12]", "2").replace("[18]", "1")
        assert watts_of(name), name
    assert watts_of("Toaster") is None
    assert watts_of("NVIDIA H100 PCIe") == 350 and watts_of("NVIDIA H200") == 700


def command(arguments: str, *more: str) -> str:
    app = typer.Typer()
    app.command()(scaling_commands.budget)
    done = CliRunner().invoke(app, [*arguments.split(), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_the_command_says_what_llama_took() -> None:
    text = command("--parameters 405B --tokens 15.6T --gpu H100 --gpus 16384 --mfu 0.4 --hour-price 2")
    for part in ("405B", "15.6T", "3.79e+25", "67.7 days", "26.6M", "53.2M at 2", "ZeRO-3", "TP 8", "481 g"):
        assert part in text, part
    text = command("--flops 5.76e23 --gpu A100 --gpus 4 --tensor 1 --inference-tokens 2T --grid france --watts 500")
    for part in ("tokens of use", "56 g", "500 W", "fewer operations"):
        assert part in text, part
    assert "TP" not in text.replace("TPU", "")
    assert "Llama 3 405B" in command("--check")


def test_a_config_is_counted_exactly(tmp_path: Path) -> None:
    from runs import body, documents, tokens

    data = tokens(tmp_path / "tokens", [documents(200)])
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(body(data, tmp_path / "out", steps=(12, 4))))
    text = command("--gpus 1 --config", str(path))
    shape = Model(**body(data, tmp_path)["model"], vocab_size=128)
    assert f"with attention {16 * 256 * flops_per_token(shape, 32):.3g}" in text
    assert "MB on each GPU" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "say what is to be trained: --parameters"),
        ("--parameters 405B", "say what is to be trained"),
        ("--parameters 405B --tokens lots", "--tokens: 'lots' is not a number above 0"),
        ("--parameters -1 --tokens 1T", "--parameters: '-1' is not a number above 0"),
        ("--parameters 7B --tokens 1T --gpu Toaster", "--gpu Toaster: its peak is not known"),
        ("--parameters 7B --tokens 1T --mfu 40", "--mfu 40: a share above 0"),
        ("--parameters 7B --tokens 1T --grid frence", "did you mean 'france'"),
        ("--parameters 7B --tokens 1T --state quarter", "--state quarter: mixed or half"),
        ("--parameters 7B --tokens 1T --gpus 6 --tensor 4", "6 GPUs cannot be split into groups of 4"),
        ("--parameters 7B --tokens 1T --flops 1e24", "leave out --parameters"),
        ("--parameters 7B --tokens 1T --law kaplan", "no law is named 'kaplan'"),
        ("--parameters 100 --tokens 1T", "no model of this base has about 100 parameters"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        command(arguments)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_figures_have_their_sources() -> None:
    figures: dict[str, Any] = power()
    assert all(source for _, _, source in figures["watts"])
    assert figures["grid"] in figures["grids"] and figures["pue"] >= 1
    assert grid_of("120.5") == 120.5
