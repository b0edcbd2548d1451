"""What a run will need before it is started: operations, memory by part, time and cost. For `crawlmill train --dry-run`.

Arithmetic on the config, not a measurement: parameters, operations and steps are exact, memory is what the parts must hold
(an allocator adds some percent), and time follows from a share of the device's peak that comparable runs reach.
"""

import os
import re
import time
from dataclasses import dataclass, replace

import torch

from trainer.config import Config, ConfigError, Model
from trainer.data import Corpus
from trainer.loader import MICRO_TOKENS, rows_at_once
from trainer.loss import chunk_tokens
from trainer.metrics import clock_time, peak
from trainer.model import ffn_width, flops_per_token, n_parameters, padded_vocab

MFU = 0.40
"""Share of the peak that is reckoned with where none is given: what MPT 1.3B reached on 16 to 128 H100 (40.6 to 42.4 %,
llm-foundry's benchmarking page) and OLMo 1B (40 %, allenai/OLMo-core#38). One GPU with large batches reaches more."""

GIGABYTES = {
    r"\bH200\b": 141,
    r"\bH[18]00\b": 80,
    r"\b[GB]*B200\b": 180,
    r"\bA[18]00\b": 80,
    r"\bL40S\b": 48,
    r"\bL4\b": 24,
}
"""Memory of devices by their names, in 10^9 bytes; of two sizes that are sold, the larger."""

RANKS = (1, 2, 4, 8)
"""Numbers of GPUs that are compared."""


@dataclass(frozen=True)
class Device:
    """What a run is reckoned on."""

    name: str
    flops: float | None
    """Operations a second at best; None where nothing is known."""
    memory: int | None
    """Bytes."""
    gpu: bool
    measured: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one of `ranks` GPUs that share the state (FSDP2), and what cannot be shared."""

    masters: int
    gradients: int
    moments: int
    copies: int
    """Matrices in the type of the computation, as long as their gradients are to come."""
    activations: int
    """Of one micro-batch, as the config checkpoints them."""
    logits: int
    """A chunk of them, and the gradients of the head and of the last layer that are made beside it."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.masters + self.gradients + self.moments + self.copies + self.activations + self.logits


@dataclass(frozen=True)
class Estimate:
    """What a run needs. Bytes, seconds, operations."""

    shape: Model
    device: Device
    mfu: float
    steps: int
    tokens: int
    flops: int
    parameters: int
    flops_each: int
    """Operations on a token of the longest samples."""
    micro_tokens: int
    memory: dict[int, Memory]
    """By number of GPUs."""
    activations: dict[str, int]
    """Of one micro-batch, by `parallel.checkpoint_activations`."""
    checkpointed: str
    hour_price: float
    watts: float
    checkpoint_bytes: int

    def seconds(self, ranks: int = 1) -> float | None:
        """Training time on so many devices, evaluation and saving left out; None where the device's peak is not known."""
        return self.flops / (self.mfu * self.device.flops * ranks) if self.device.flops else None

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, as people read them."""
        shape, memory = self.shape, self.memory[1]
        rows = [
            (
                "parameters",
                f"{self.parameters:,} ({shape.layers} layers of {shape.width}, vocabulary {shape.vocab_size:,})",
            ),
            ("steps", f"{self.steps:,}"),
            ("tokens", f"{self.tokens:,} ({self.tokens / self.parameters:.1f} a parameter)"),
            ("operations", f"{self.flops:.3g} ({self.flops_each / 1e9:.3g} GFLOP a token)"),
            ("a checkpoint", _size(self.checkpoint_bytes)),
            (f"memory, {self.micro_tokens:,} tokens at once", _size(memory.total)),
            ("  FP32 parameters", _size(memory.masters)),
            ("  gradients", _size(memory.gradients)),
            ("  moments", _size(memory.moments)),
            ("  matrices in BF16", _size(memory.copies)),
        ]
        if not memory.copies:
            rows.pop()
        for how, n_bytes in self.activations.items():
            used = " (this config)" if how == self.checkpointed else ""
            rows.append((f"  activations, {how}", _size(n_bytes) + used))
        rows.append(("  logits, a chunk", _size(memory.logits)))
        rows += self._places()
        return rows

    def _places(self) -> list[tuple[str, str]]:
        device = self.device
        if device.flops is None:
            return [
                ("time", f"not known for {device.name}: measure with `crawlmill train bench`, or name a GPU it is for")
            ]
        what = f"{device.flops / 1e12:.3g} TFLOP/s {'measured' if device.measured else 'at peak, dense BF16'}"
        rows = [("reckoned on", f"{device.name}, {what}, of which {self.mfu:.0%}")]
        for ranks in RANKS if device.gpu else RANKS[:1]:
            seconds, need = self.seconds(ranks), self.memory[ranks].total
            assert seconds is not None
            parts = [clock_time(seconds), f"{self.tokens / seconds:,.0f} tokens/s", f"{_size(need)} each"]
            if device.memory is not None and need > device.memory:
                parts[-1] += f", MORE THAN ITS {_size(device.memory)}"
            hours = seconds / 3600 * ranks
            if self.hour_price:
                parts.append(f"cost {hours * self.hour_price:,.2f}")
            if self.watts:
                parts.append(f"{hours * self.watts / 1000:,.1f} kWh")
            rows.append((f"  {ranks} {'GPU' if device.gpu else 'machine'}{'s' if ranks > 1 else ''}", "; ".join(parts)))
        return rows


def estimate(options: Config, corpus: Corpus, hardware: str | None = None, mfu: float = MFU) -> Estimate:
    """What the run of a config over its corpus needs, on the named GPU or on this machine. Raises ConfigError for a GPU
    whose peak is not known."""
    shape = options.model
    shape = replace(shape, vocab_size=shape.vocab_size or padded_vocab(corpus.tokenizer["vocab_size"]))
    device = named(hardware) if hardware else present(options.device)
    half = options.dtype == "bfloat16" or (options.dtype == "auto" and device.gpu)
    item = 2 if half else 4
    phases = corpus.plan.phases
    longest = max(phases, key=lambda phase: phase.seq_len)
    micro = max(
        phase.seq_len * rows_at_once(phase.batch, phase.seq_len, options.micro_tokens or MICRO_TOKENS)
        for phase in phases
    )
    kept = {how: activations(shape, micro, item, how) for how in ("none", "selective", "full")}
    how = options.parallel.checkpoint_activations
    parameters, _ = n_parameters(shape)
    moments = _moments(shape, options.optim.name)
    return Estimate(
        shape=shape,
        device=device,
        mfu=mfu,
        steps=corpus.plan.steps,
        tokens=corpus.plan.tokens,
        flops=sum(phase.tokens * flops_per_token(shape, phase.seq_len) for phase in phases),
        parameters=parameters,
        flops_each=flops_per_token(shape, longest.seq_len),
        micro_tokens=micro,
        memory={ranks: memory(shape, options.optim.name, kept[how], item, micro, ranks) for ranks in RANKS},
        activations=kept,
        checkpointed=how,
        hour_price=options.log.hour_price,
        watts=options.log.watts,
        checkpoint_bytes=4 * parameters + moments,
    )


def memory(shape: Model, optimizer: str, kept: int, item: int, micro_tokens: int, ranks: int) -> Memory:
    """Memory of one of `ranks` GPUs that share the state, computing on `micro_tokens` in a type of `item` bytes, with `kept`
    bytes of activations."""
    n, matrices = n_parameters(shape)
    head = shape.vocab_size * shape.width
    hidden = matrices - head
    # One rank casts each matrix where it is used and keeps that for the gradient; FSDP2 gathers two layers at a time, and
    # the embedding and head in FP32.
    cast = matrices * 2 if item == 2 else 0
    gathered = 2 * hidden // shape.layers * item + (n - hidden) * 4
    chunk = min(chunk_tokens(shape.vocab_size, "cuda" if item == 2 else "cpu"), micro_tokens)
    return Memory(
        masters=4 * n // ranks,
        gradients=4 * n // ranks,
        moments=_moments(shape, optimizer) // ranks,
        copies=cast if ranks == 1 else gathered,
        activations=kept,
        # Logits, which in FP32 become their gradient in place; in BF16 there are FP32 exponentials and a gradient beside
        # them. Then what is kept until the backward pass scales it.
        logits=chunk * shape.vocab_size * (4 if item == 4 else 8) + 4 * head + micro_tokens * shape.width * item,
    )


def activations(shape: Model, tokens: int, item: int, how: str) -> int:
    """Bytes that the backward pass needs of a forward pass over `tokens`: every input of a matrix product, of attention and
    of a norm once, as a compiler keeps them; less by recomputation."""
    width, ffn = shape.width, ffn_width(shape)
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # The stream before each norm and its norm, q and k before and after turning, v, what attention gives; the two halves of
    # SwiGLU and their product.
    block = 4 * width + 2 * q + 3 * k + q + 3 * ffn
    if how == "none":
        each = shape.layers * block
    elif how == "selective":  # block inputs, and what trainer.parallel keeps: every second product, and attention
        each = shape.layers * (width + k + q + width + ffn) + block
    else:
        each = shape.layers * width + block
    return tokens * item * (each + 2 * width)


def named(name: str) -> Device:
    """A GPU by its name. Raises ConfigError where its peak is not known."""
    flops = peak(name)
    if flops is None:
        raise ConfigError(
            f"--hardware {name}: its peak is not known here; names such as H200, H100, 'H100 PCIe', A100, B200, L40S are"
        )
    gigabytes = next((size for pattern, size in GIGABYTES.items() if re.search(pattern, name)), None)
    return Device(name, flops * 1e12, gigabytes * 10**9 if gigabytes else None, True)


def present(wanted: str = "auto") -> Device:
    """This machine: its first GPU, or its CPU at the rate of a matrix product that is timed here."""
    if wanted != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        flops = peak(name)
        total = torch.cuda.get_device_properties(0).total_memory
        return Device(name, flops * 1e12 if flops else None, total, True)
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Device("this CPU", matmul_rate(torch.device("cpu"), torch.float32, 1024), pages * size, False, measured=True)


def matmul_rate(device: torch.device, dtype: torch.dtype, n: int, rounds: int = 5) -> float:
    """Operations a second of a matrix product of n by n by n of random numbers, ten after one another, the best of `rounds`:
    what a device really gives when nothing else is done on it."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(n, n, generator=generator, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    took = []
    for _ in range(rounds):
        _wait(device)
        began = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b)
        _wait(device)
        took.append(time.perf_counter() - began)
    return 2 * n**3 * 10 / min(took)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _moments(shape: Model, optimizer: str) -> int:
    """Bytes of the optimiser's state: two FP32 numbers a parameter, of a hidden matrix under Muon one."""
    n, matrices = n_parameters(shape)
    hidden = matrices - shape.vocab_size * shape.width
    return 8 * n - (4 * hidden if optimizer == "muon" else 0)


def _size(n_bytes: float) -> str:
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {name}"
    return f"{n_bytes / 1e3:.3g} kB"
