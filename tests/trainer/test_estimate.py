"""What is said of a run before it starts: against the model itself, and against arithmetic on the back of an envelope."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trainer import bench, config
from trainer.attention import scope
from trainer.estimate import activations, estimate, memory, named, present
from trainer.model import Decoder, flops_per_token, n_parameters
from trainer.optim import Optimizer
from trainer.plan import Plan, Source, Wanted

TINY = config.Model(layers=2, width=64, heads=4, kv_heads=2, head_dim=16, vocab_size=256)
GPT3_1B = config.Model(layers=24, width=2048, heads=16, kv_heads=16, head_dim=128, vocab_size=50_304)


class Stream:
    def __init__(self, n_samples: int, seq_len: int) -> None:
        self.n_samples, self.n_tokens = n_samples, n_samples * seq_len + 1

    def read(self, sample: int, out: np.ndarray) -> None:
        out[:] = 0


def corpus(vocab_size: int = 50_000) -> Any:
    """One phase of 2048 and one of 1024 tokens a sample, of 64 and 32 Mi tokens."""
    sources = [(Source("web", 1.0, Stream(40_000, length)),) for length in (2048, 1024)]
    wanted = [
        Wanted("pretrain", 64 * 2**20, 2048, 2**19, sources[0]),
        Wanted("anneal", 32 * 2**20, 1024, 2**19, sources[1]),
    ]
    return SimpleNamespace(plan=Plan(wanted, 0, eos=0), tokenizer={"vocab_size": vocab_size})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_parameters_are_those_of_the_model(tied: bool, qk_norm: bool) -> None:
    shape = replace(TINY, tie_embeddings=tied, qk_norm=qk_norm)
    with torch.device("meta"):
        model = Decoder(shape)
    assert n_parameters(shape)[0] == sum(p.numel() for p in model.parameters())
    embedding = model.model.embed_tokens.weight.numel()
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2) - (0 if tied else embedding)
    assert n_parameters(shape)[1] == matrices


def test_operations_are_those_that_matrix_products_do() -> None:
    """Counted by PyTorch: forward and backward passes of all products, attention in full."""
    from torch.utils.flop_counter import FlopCounterMode

    shape = replace(TINY, kv_heads=4)
    model = Decoder(shape)
    model.initialise(0)
    tokens = torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens, tokens, scope("mask", tokens)).total.backward()
    assert counter.get_total_flops() == 2 * 32 * flops_per_token(shape, 32)


def test_operations_steps_and_tokens_of_a_whole_plan() -> None:
    options = config.Config(model=replace(GPT3_1B, vocab_size=0))
    found = estimate(options, corpus(), "NVIDIA H100 80GB HBM3")
    assert found.shape.vocab_size == 50_048  # the tokenizer's, padded
    assert (found.steps, found.tokens) == (192, 96 * 2**20)
    assert found.flops == 2**20 * (64 * flops_per_token(found.shape, 2048) + 32 * flops_per_token(found.shape, 1024))
    seconds = found.flops / (0.40 * 989e12)
    assert found.seconds() == pytest.approx(seconds) and found.seconds(8) == pytest.approx(seconds / 8)


def test_the_state_is_what_training_holds() -> None:
    for name, per_parameter in (("adamw", 8), ("muon", None)):
        model = Decoder(TINY)
        model.initialise(0)
        optimizer = Optimizer(model, config.Optim(name=name))  # type: ignore[arg-type]
        tokens = torch.zeros(1, 8, dtype=torch.long)
        model(tokens, tokens, scope("causal", tokens)).total.backward()
        optimizer.step(1.0, torch.zeros(()))
        held = [t for o in optimizer.all for state in o.state.values() for t in state.values() if t.ndim > 0]
        moments = sum(t.numel() * t.element_size() for t in held)
        found = memory(TINY, name, 0, 4, 8, 1)
        assert found.moments == moments
        assert found.masters == found.gradients == 4 * sum(p.numel() for p in model.parameters())
        if per_parameter:
            assert moments == per_parameter * sum(p.numel() for p in model.parameters())


def test_activations_are_about_what_autograd_keeps() -> None:
    """Without a compiler more is kept (each norm keeps its FP32 steps, SwiGLU its sigmoid); never less, nor twice as much."""
    model = Decoder(replace(TINY, layers=6))
    model.initialise(0)
    tokens = torch.zeros(4, 64, dtype=torch.long)
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stream = model.hidden(tokens, scope("causal", tokens))
    expected = activations(model.shape, tokens.numel(), 4, "none")
    assert stream.requires_grad and 1.0 <= sum(kept.values()) / expected < 2.0


def test_recomputation_keeps_less() -> None:
    none, selective, full = (activations(GPT3_1B, 1, 2, how) for how in ("none", "selective", "full"))
    assert none > 2 * selective > 2 * full
    assert 1.5e6 < none < 2.0e6  # some 1.7 MB a token at this size
    assert full < 24 * 2048 * 2 + 2 * 40 * 2048


def test_ranks_share_the_state_and_not_the_activations() -> None:
    one, eight = (memory(GPT3_1B, "adamw", 10**9, 2, 16_384, ranks) for ranks in (1, 8))
    assert one.masters == pytest.approx(8 * eight.masters, abs=8)
    assert one.moments == pytest.approx(8 * eight.moments, abs=8)
    assert eight.activations == one.activations and eight.logits == one.logits
    assert one.masters + one.gradients + one.moments == 16 * n_parameters(GPT3_1B)[0]
    assert eight.total < one.total


def test_rows_say_what_does_not_fit_and_what_it_costs() -> None:
    options = config.Config(
        model=replace(GPT3_1B, layers=100),
        log=config.Log(hour_price=2.0, watts=700),
        micro_tokens=8192,
        parallel=config.Parallel(checkpoint_activations="full"),
    )
    rows = dict(estimate(options, corpus(), "H100", mfu=0.5).rows())
    assert "MORE THAN ITS 80 GB" in rows["  1 GPU"] and "MORE THAN" not in rows["  8 GPUs"]
    assert "50%" in rows["reckoned on"] and "989 TFLOP/s" in rows["reckoned on"]
    assert "cost" in rows["  1 GPU"] and "kWh" in rows["  1 GPU"]
    assert "this config" in rows["  activations, full"] and "this config" not in rows["  activations, none"]
    assert "memory, 8,192 tokens at once" in rows


def test_a_cpu_is_timed_and_computes_in_fp32() -> None:
    found = estimate(config.Config(model=TINY, device="cpu"), corpus(256))
    assert found.device.measured and found.device.flops and found.memory[1].copies == 0
    rows = dict(found.rows())
    assert "this CPU" in rows["reckoned on"] and "  8 GPUs" not in rows and "  matrices in BF16" not in rows


def test_a_gpu_whose_peak_is_not_known_is_refused_not_guessed() -> None:
    with pytest.raises(config.ConfigError, match=r"--hardware V900: its peak is not known.*H200"):
        named("V900")
    assert named("H200").memory == 141 * 10**9 and named("NVIDIA A100-SXM4-80GB").flops == 312e12
    assert present("cpu").memory


def test_the_bench_fills_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SHAPES", {"small": replace(TINY, vocab_size=512)})
    monkeypatch.setattr(bench, "STORE_TOKENS", 20_000)
    monkeypatch.setattr(bench, "BATCH_TOKENS", {"cpu": 256})
    monkeypatch.setattr(bench, "MICRO_TOKENS", {"cpu": (64, 256)})
    monkeypatch.setattr(bench, "loader_rate", lambda *_: 1e6)
    lines = list(bench.bench(["small"], steps=3, seq_len=64, device="cpu", compiled=False))
    head = next(i for i, line in enumerate(lines) if line.startswith("shape"))
    rows = [line.split() for line in lines[head + 1 : head + 3]]
    assert [(row[0], row[1]) for row in rows] == [("small", "64"), ("small", "256")]
    for row in rows:
        assert float(row[2].replace(",", "")) > 0 and row[4:6] == ["-", "-"]
        assert float(row[-1]) == pytest.approx(np.log(512), abs=0.2)  # random text cannot be learned
    # Micro-batches change speed, not what is learned.
    assert rows[0][-1] == rows[1][-1]
    with pytest.raises(config.ConfigError, match="--shape 7B: there are small"):
        next(iter(bench.bench(["7B"], device="cpu")))


def test_the_loader_gives_what_the_bench_has_written(tmp_path: Path) -> None:
    stores = [bench.synthetic(tmp_path / str(i), 1000, 50_000, i) for i in range(2)]
    assert all(store.n_tokens >= 50_000 and store.n_documents > 20 for store in stores)
    assert bench.loader_rate(stores, 2048, torch.device("cpu")) > 0
    plan = bench.plan_of(stores, 128, 1024, 5, 1000)
    docs = plan.read(plan.phases[0], np.arange(40)).docs
    sees = np.tril(np.ones((128, 128), bool)) & (docs[:, :, None] == docs[:, None, :])
    assert bench.pairs_per_token(plan, True) == pytest.approx(sees.sum() / docs.size)
    assert bench.pairs_per_token(plan, False) == 64.5


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    estimate(config.Config(model=TINY), corpus(), "A100").rows()
    assert list(tmp_path.iterdir()) == []
