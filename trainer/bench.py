"""How fast this machine trains: tokens a second, share of the peak, memory, waiting for data. For `crawlmill train bench`.

Everything that a run does in a step is done here: batches from shards on disk through the loader, masks between documents,
compiled blocks, the loss in chunks, clipping, the guard's watch, fused AdamW. Left out are looks at held-out text and
checkpoints. Parameters and text are random: no kernel is faster for it.
"""

import gc
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import config
from trainer.attention import choose, scope
from trainer.estimate import activations, matmul_rate, memory, present
from trainer.guard import Watch
from trainer.late import Late
from trainer.loader import Loader
from trainer.metrics import strict_flops
from trainer.model import Decoder, flops_per_token
from trainer.optim import Optimizer
from trainer.parallel import (
    World,
    compiles,
    gradient_norm,
    prepare,
    reduce_gradients,
    reserve_in_segments,
    scale_gradients,
)
from trainer.plan import Plan, Source, Wanted
from trainer.shards import Shard, TokenStore, index_bytes
from trainer.windows import Windows

VOCABULARY = 50_304
"""GPT-2's, padded to a multiple of 128."""


def _shape(layers: int, width: int, heads: int, **other: int) -> config.Model:
    facts: dict[str, Any] = {"head_dim": 128, "vocab_size": VOCABULARY, **other}
    return config.Model(layers=layers, width=width, heads=heads, kv_heads=heads, **facts)


SHAPES = {
    "tiny": _shape(4, 256, 4, head_dim=64, vocab_size=8192),
    "125M": _shape(12, 768, 6),
    "350M": _shape(24, 1024, 8),
    "1.3B": _shape(24, 2048, 16),
}
"""Sizes that others publish speeds of (GPT-3's table 2.1), with heads as wide as current kernels like them."""

BATCH_TOKENS = {"cuda": 262_144, "cpu": 4_096}
"""Tokens of a step: enough that the optimiser's share is that of a real run."""

MICRO_TOKENS = {"cuda": (16_384, 32_768, 65_536), "cpu": (1_024, 4_096)}
"""What is tried for a forward pass."""

CPU_SEQ_LEN = 512
"""Longest samples where a mask holds seq_len squared places."""

WARM_UP = 2
"""Steps that compile, and fill caches."""

LEAST_STEPS = 3
SECONDS = {"cuda": 25.0, "cpu": 15.0}
"""A measurement ends after its steps, or this time."""

STORE_TOKENS = 16_000_000
MEDIAN_DOCUMENT = 600
"""Tokens, as web pages have them; lengths are log-normal."""


@dataclass(frozen=True)
class Measured:
    """One shape at one micro-batch. Rates are of one device."""

    shape: str
    micro_tokens: int
    tokens_per_second: float
    flops: float
    """A second, as `model.flops_per_token` counts."""
    strict: float
    """A second, of pairs that attend."""
    memory: int
    """Bytes at most."""
    data_wait: float
    """Share of the time."""
    loss: float


def bench(
    shapes: Sequence[str] | None = None,
    *,
    steps: int = 20,
    seq_len: int = 2048,
    device: str = "auto",
    documents: bool = True,
    compiled: bool | None = None,
) -> Iterator[str]:
    """Lines of a table, as they are measured. Raises ConfigError for a shape that is not known."""
    if device != "cpu":
        reserve_in_segments()
    here = present(device)
    where = torch.device("cuda" if here.gpu else "cpu")
    dtype = torch.bfloat16 if here.gpu else torch.float32
    if here.gpu:
        torch.set_float32_matmul_precision("high")
    else:
        seq_len = min(seq_len, CPU_SEQ_LEN)
    wanted = list(shapes or (("125M", "350M", "1.3B") if here.gpu else ("tiny",)))
    for name in wanted:
        if name not in SHAPES:
            raise config.ConfigError(f"--shape {name}: there are {', '.join(SHAPES)}")
    matmul = matmul_rate(where, dtype, 8192) if here.gpu else here.flops or 1.0
    kind = "BF16" if here.gpu else "FP32"
    yield f"{here.name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {kind}, samples of {seq_len:,}"
    top = f"{here.flops / 1e12:,.0f} TFLOP/s by its data sheet" if here.gpu and here.flops else "no peak known"
    yield f"matrix product: {matmul / 1e12:,.3g} TFLOP/s measured, {top}"
    yield f"attention: {choose(where, dtype, documents)}"
    with tempfile.TemporaryDirectory() as folder:
        stores = [synthetic(Path(folder) / str(i), VOCABULARY, STORE_TOKENS, seed=i) for i in range(2)]
        for prefetch in (1, 4):
            rate = loader_rate(stores, seq_len, where, prefetch)
            yield f"loader alone, {prefetch} ahead: {rate / 1e6:,.1f} M tokens/s from disk"
        yield ""
        yield _HEAD
        for name in wanted:
            for micro in MICRO_TOKENS[where.type]:
                kept = activations(SHAPES[name], micro, dtype.itemsize, "none")
                need = memory(SHAPES[name], "adamw", kept, dtype.itemsize, micro, 1).total
                if here.memory is not None and need > here.memory:
                    yield f"{name:<5} {micro:>7,}  needs {need / 1e9:,.0f} GB, there are {here.memory / 1e9:,.0f}"
                    continue
                try:
                    found = measure(name, micro, stores, seq_len, where, dtype, steps, documents, compiled)
                except torch.cuda.OutOfMemoryError:
                    yield f"{name:<5} {micro:>7,}  out of memory"
                    continue
                except RuntimeError as error:
                    # A kernel that this device or version lacks: the other rows are worth having.
                    yield f"{name:<5} {micro:>7,}  {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
                    continue
                finally:
                    _clean(where)
                yield row(found, here.flops if here.gpu else None, matmul)
    yield ""
    yield "MFU: 6 N + 12 L H K T operations a token (N without the embedding, T in"
    yield "full) over the data sheet's dense peak; strict: only pairs of tokens that"
    yield "attend; matmul: the same operations over the matrix product timed above;"
    yield "wait: share of the time spent waiting for data."


_HEAD = (
    f"{'shape':<5} {'micro':>7} {'tok/s':>9} {'TFLOP/s':>7} {'MFU %':>5} {'strict':>6} {'matmul %':>8} {'GB':>6} "
    f"{'wait %':>6} {'loss':>6}"
)


def row(found: Measured, peak: float | None, matmul: float) -> str:
    """A line under the head."""
    mfu, strict = (f"{100 * value / peak:.1f}" if peak else "-" for value in (found.flops, found.strict))
    return (
        f"{found.shape:<5} {found.micro_tokens:>7,} {found.tokens_per_second:>9,.0f} {found.flops / 1e12:>7.3g} "
        f"{mfu:>5} {strict:>6} {100 * found.flops / matmul:>8.1f} {found.memory / 1e9:>6.2f} "
        f"{100 * found.data_wait:>6.2f} {found.loss:>6.3f}"
    )


def measure(
    name: str,
    micro_tokens: int,
    stores: Sequence[TokenStore],
    seq_len: int,
    device: torch.device,
    dtype: torch.dtype,
    steps: int,
    documents: bool = True,
    compiled: bool | None = None,
) -> Measured:
    """Trains for a few steps, and times all but the first ones."""
    shape = SHAPES[name]
    batch_tokens = max(micro_tokens, BATCH_TOKENS[device.type])
    plan = plan_of(stores, seq_len, batch_tokens, steps + WARM_UP, shape.vocab_size)
    options = config.Config(model=shape, parallel=config.Parallel(compile=compiled))
    world = World(0, 1, 0, device, None)
    with torch.device("meta"):
        model = Decoder(shape, dtype)
    model = prepare(model, options.parallel, world)
    model.initialise(0)
    optimizer, watch = Optimizer(model, options.optim), Watch(options.guard, device)
    backend = choose(device, dtype, documents)
    loader = Loader(plan, 0, 0, 0, 1, micro_tokens, device, 4)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    gc.collect(2)
    gc.freeze()
    began = waited = last = 0.0
    done = 0
    pending: Late | None = None
    try:
        for step in loader:
            if step.number == WARM_UP:
                _wait(device)
                began, waited = time.perf_counter(), loader.waited
            sums = torch.zeros(3, device=device)
            for micro in step.micros:
                # What is summed is divided before the backward pass: with equal micro-batches of full rows all the same.
                loss = model(
                    micro.tokens,
                    micro.targets,
                    scope(backend, micro.docs, micro.n_docs),
                    options.optim.z_loss,
                    compiles(options.parallel, device),
                )
                (loss.total / batch_tokens).backward()
                sums += torch.stack([loss.total.detach(), loss.nll, loss.n])
            reduce_gradients(model, world)
            norm = gradient_norm(model, world)
            withheld = watch.withhold(sums[0] / sums[2], norm)
            scale_gradients(model, (options.optim.clip / (norm + 1e-6)).clamp_max(1.0))
            optimizer.step(1.0, withheld)
            optimizer.zero_grad()
            # As in a run, numbers are read one step late, and the device is never waited for.
            if pending is not None:
                last = pending.read()[0]
            pending = Late(torch.stack([sums[1] / sums[2], norm]))
            done = step.number + 1 - WARM_UP
            if done >= LEAST_STEPS and time.perf_counter() - began > SECONDS[device.type]:
                break
        _wait(device)
        took = time.perf_counter() - began
    finally:
        gc.unfreeze()
        loader.close()
    tokens = done * batch_tokens
    share = pairs_per_token(plan, documents)
    return Measured(
        shape=name,
        micro_tokens=micro_tokens,
        tokens_per_second=tokens / took,
        flops=tokens * flops_per_token(shape, seq_len) / took,
        strict=strict_flops(shape, tokens, int(tokens * share)) / took,
        memory=_memory(device),
        data_wait=(loader.waited - waited) / took,
        loss=last,
    )


def plan_of(stores: Sequence[TokenStore], seq_len: int, batch_tokens: int, steps: int, vocab_size: int) -> Plan:
    """A mix of the stores, three parts to one, for so many steps; their tokens taken below `vocab_size`."""
    streams = [_Below(Windows(store, seq_len), vocab_size) for store in stores]
    sources = tuple(
        Source(str(i), share, stream) for i, (share, stream) in enumerate(zip((3.0, 1.0), streams, strict=True))
    )
    wanted = Wanted("bench", steps * batch_tokens, seq_len, batch_tokens, sources)
    return Plan([wanted], 0, stores[0].tokenizer["eos"], max_epochs=1e9)


class _Below:
    """Samples whose tokens are folded into a smaller vocabulary."""

    def __init__(self, inner: Windows, vocab_size: int) -> None:
        self.inner, self.vocab_size = inner, vocab_size
        self.n_samples, self.n_tokens = inner.n_samples, inner.n_tokens

    def read(self, sample: int, out: np.ndarray) -> None:
        self.inner.read(sample, out)
        if self.vocab_size < VOCABULARY:
            np.remainder(out, self.vocab_size, out=out)


def synthetic(folder: Path, vocab_size: int, tokens: int, seed: int) -> TokenStore:
    """A store on disk of random tokens in documents as long as web pages; token 0 ends each."""
    folder.mkdir(parents=True)
    source = np.random.default_rng(seed)
    lengths = source.lognormal(np.log(MEDIAN_DOCUMENT), 1.1, 2 * tokens // MEDIAN_DOCUMENT).astype(np.int64) + 2
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]
    held = source.integers(1, vocab_size, int(lengths.sum()), dtype=np.uint16)
    held[np.cumsum(lengths) - 1] = 0
    prefix = folder / "shard-00000"
    held.astype("<u2").tofile(prefix.with_suffix(".bin"))
    prefix.with_suffix(".idx").write_bytes(index_bytes(lengths, np.dtype("<u2")))
    return TokenStore(
        folder, [Shard.open(prefix)], {"sha256": "", "eos": 0, "vocab_size": vocab_size, "dtype": "uint16"}
    )


def loader_rate(stores: Sequence[TokenStore], seq_len: int, device: torch.device, prefetch: int = 4) -> float:
    """Tokens a second that the loader gives when nothing else is done."""
    batch_tokens = 524_288 // seq_len * seq_len
    plan = plan_of(stores, seq_len, batch_tokens, 24, VOCABULARY)
    loader = Loader(plan, 0, 0, 0, 1, batch_tokens, device, prefetch)
    began, tokens = 0.0, 0
    for step in loader:
        if step.number == 0:
            began = time.perf_counter()
        else:
            tokens += batch_tokens
    return tokens / (time.perf_counter() - began)


def pairs_per_token(plan: Plan, documents: bool, samples: int = 256) -> float:
    """How many tokens a token attends to, itself included, on average over the first samples."""
    phase = plan.phases[0]
    if not documents:
        return (phase.seq_len + 1) / 2
    docs = plan.read(phase, np.arange(min(samples, sum(phase.samples)))).docs
    first = np.ones(docs.shape, bool)
    first[:, 1:] = docs[:, 1:] != docs[:, :-1]
    lengths = np.diff(np.append(np.flatnonzero(first), docs.size))
    return float((lengths * (lengths + 1) / 2).sum() / docs.size)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _clean(device: torch.device) -> None:
    torch.compiler.reset()
    gc.collect(2)
    if device.type == "cuda":
        torch.cuda.empty_cache()
