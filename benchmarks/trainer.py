"""Training steps a second: crawlmill's trainer beside the same model in plain PyTorch and in transformers.

    python -m venv peer4 && peer4/bin/pip install torch transformers
    python -m benchmarks.trainer --peer-python peer4/bin/python > benchmarks/trainer.txt

All train one model (a Llama of the given shape, the same first numbers) on the same random tokens with fused AdamW and
clipping: FP32 on a CPU, BF16 on a GPU. Each contender is a process of its own; rounds of all are taken in turn. `plain` is
the way of nanoGPT: a forward pass to all logits, cross_entropy, backward, clip, step, written here. Losses after the first
step show that all do the same work. On a CPU two vocabularies are taken, at one thread and at two, and nothing is compiled
unless --compiled asks for it. Then the loader alone. `crawlmill train bench` fills the table of a GPU.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
LR, BETAS, DECAY, CLIP = 6e-4, (0.9, 0.95), 0.1, 1.0
# Name, whether it is compiled; the first is what the others are measured against.
CONTENDERS = [
    ("crawlmill, all of it", False),
    ("crawlmill", False),
    ("plain", False),
    ("transformers", False),
    ("crawlmill, all of it", True),
    ("crawlmill", True),
    ("plain", True),
    ("transformers", True),
]
VOCABULARIES = (8_192, 50_304)
THREADS = (1, 2)
HOW = {
    "crawlmill": "loss in chunks; blocks compiled, or nothing",
    "crawlmill, all of it": "with loader, document masks, z-loss and guard",
    "plain": "whole logits, as nanoGPT; the whole model compiled, or nothing",
    "transformers": "LlamaForCausalLM, SDPA; the whole model compiled, or nothing",
}

Step = Callable[[Tensor, Tensor], Tensor]


class Plain(nn.Module):
    """A Llama as one would write it down, with the names of its parameters."""

    def __init__(self, shape: dict[str, Any], length: int) -> None:
        super().__init__()
        width, head = shape["width"], shape["head_dim"]
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(shape["vocab_size"], width)
        self.model.layers = nn.ModuleList(PlainBlock(shape) for _ in range(shape["layers"]))
        self.model.norm = nn.RMSNorm(width, shape["norm_eps"])
        at = torch.arange(length)[:, None] * shape["rope_theta"] ** (-torch.arange(0, head, 2) / head)
        self.register_buffer("cos", torch.cat([at, at], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([at, at], -1).sin(), persistent=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean loss."""
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.model.norm(x) @ self.model.embed_tokens.weight.T
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)


class PlainBlock(nn.Module):
    """Attention and feed-forward."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        width, self.head = shape["width"], shape["head_dim"]
        q, k, ffn = shape["heads"] * self.head, shape["kv_heads"] * self.head, shape["ffn"]
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name, n_in, n_out in (("q", width, q), ("k", width, k), ("v", width, k), ("o", q, width)):
            setattr(self.self_attn, f"{name}_proj", nn.Linear(n_in, n_out, bias=False))
        for name, n_in, n_out in (("gate", width, ffn), ("up", width, ffn), ("down", ffn, width)):
            setattr(self.mlp, f"{name}_proj", nn.Linear(n_in, n_out, bias=False))
        self.input_layernorm = nn.RMSNorm(width, shape["norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(width, shape["norm_eps"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, D) to the same."""

        def turned(y: Tensor) -> Tensor:
            left, right = y.chunk(2, -1)
            return y * cos + torch.cat([-right, left], -1) * sin

        y = self.input_layernorm(x)
        q, k, v = (
            proj(y).unflatten(-1, (-1, self.head)).transpose(1, 2)
            for proj in (self.self_attn.q_proj, self.self_attn.k_proj, self.self_attn.v_proj)
        )
        out = functional.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=True)
        x = x + self.self_attn.o_proj(out.transpose(1, 2).flatten(2))
        y = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(functional.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


def usual(model: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> Step:
    """The step that everybody writes."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def step(tokens: Tensor, targets: Tensor) -> Tensor:
        with half:
            loss = forward(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def ours(shape: Any, device: torch.device, state: dict[str, Tensor], compiled: bool, everything: bool) -> Step:
    from trainer import config
    from trainer.attention import choose, scope
    from trainer.guard import Watch
    from trainer.model import Decoder
    from trainer.optim import Optimizer
    from trainer.parallel import World, gradient_norm, prepare, scale_gradients

    world, dtype = World(0, 1, 0, device, None), torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device("meta"):
        model = Decoder(config.Model(**shape), dtype)
    model = prepare(model, config.Parallel(compile=compiled), world)
    model.load_state_dict(state)
    optimizer = Optimizer(model, config.Optim(lr=LR, betas=BETAS, weight_decay=DECAY))
    watch = Watch(config.Guard(), device)
    backend = choose(device, dtype, everything)

    def step(tokens: Tensor, targets: Tensor) -> Tensor:
        docs = torch.cumsum(tokens == 0, 1, dtype=torch.int32)
        found = model(tokens, targets, scope(backend, docs), 1e-4 if everything else 0.0, compiled)
        (found.total / targets.numel()).backward()
        norm = gradient_norm(model, world)
        held = watch.withhold(found.total / found.n, norm) if everything else torch.zeros((), device=device)
        scale_gradients(model, (CLIP / (norm + 1e-6)).clamp_max(1.0))
        optimizer.step(1.0, held)
        optimizer.zero_grad()
        return found.nll / found.n

    return step


def transformers_model(shape: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    options = LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["width"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        rms_norm_eps=shape["norm_eps"],
        rope_theta=shape["rope_theta"],
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(options)
    model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    return model


def work(name: str, compiled: bool, folder: Path, device: torch.device) -> Step:
    """The step of one contender; nothing of the others is imported."""
    task = json.loads((folder / "task.json").read_text())
    shape = task["shape"]
    state = torch.load(folder / "state.pt", map_location=device)
    if name.startswith("crawlmill"):
        return ours(shape, device, state, compiled, name.endswith("it"))
    if name == "plain":
        model: nn.Module = Plain(shape, task["seq_len"])
        model.load_state_dict(state)
        model.to(device)
        run = torch.compile(model) if compiled else model
        return usual(model, lambda tokens, targets: run(tokens, targets), device)
    model = transformers_model(shape, state).to(device)
    run = torch.compile(model) if compiled else model
    return usual(
        model,
        # Its own loss shifts by one: the targets are put where it looks for them.
        lambda tokens, targets: run(input_ids=tokens, labels=targets, shift_labels=targets).loss,
        device,
    )


def serve(number: int, folder: Path, device: torch.device) -> None:
    """Warms up with two steps, then times a round for each line on standard input."""
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    task = json.loads((folder / "task.json").read_text())
    torch.set_num_threads(task["threads"])
    step = work(*CONTENDERS[number], folder, device)
    batches = Batches(folder, CONTENDERS[number][0].endswith("it"), device, task)
    losses = [float(step(*batches())) for _ in range(2)]
    print(json.dumps({"losses": losses}), flush=True)
    for _ in sys.stdin:
        _wait(device)
        before, began = os.times(), time.perf_counter()
        for _ in range(task["steps"]):
            loss = step(*batches())
        _wait(device)
        took, after = time.perf_counter() - began, os.times()
        found = {
            "seconds": took,
            "user": after.user - before.user,
            "system": after.system - before.system,
            "loss": float(loss),
            "memory": _memory(device),
        }
        print(json.dumps(found), flush=True)


class Batches:
    """Batches that lie in memory, or those of the loader."""

    def __init__(self, folder: Path, loaded: bool, device: torch.device, task: dict[str, Any]) -> None:
        self.held = torch.load(folder / "batches.pt", map_location=device)
        self.at, self.steps = 0, None
        if loaded:
            from trainer import bench
            from trainer.loader import Loader

            vocabulary, length = task["shape"]["vocab_size"], task["seq_len"]
            stores = [bench.synthetic(folder / f"store-{i}", vocabulary, 2_000_000, i) for i in range(2)]
            tokens = self.held[0].shape[0] * length
            plan = bench.plan_of(stores, length, tokens, 100_000, vocabulary)
            self.steps = iter(Loader(plan, 0, 0, 0, 1, tokens, device))

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The next tokens and targets."""
        if self.steps is not None:
            micro = next(self.steps).micros[0]
            return micro.tokens, micro.targets
        rows = self.held[self.at % len(self.held)]
        self.at += 1
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--peer-python", help="interpreter that has torch and transformers; without it they are left out"
    )
    parser.add_argument("--shape", default="tiny", help="of trainer.bench.SHAPES")
    parser.add_argument("--vocabulary", type=int, nargs="+", help="sizes; on a GPU that of the shape")
    parser.add_argument("--threads", type=int, nargs="+", help="of a CPU")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--rows", type=int, default=8, help="samples of a step")
    parser.add_argument("--steps", type=int, default=1, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compiled", action="store_true", help="compiled contenders on a CPU, too: minutes more")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.serve is not None:
        serve(options.serve, options.folder, device)
        return
    print("$ python -m benchmarks.trainer --peer-python peer4/bin/python")
    on_cpu = device.type == "cpu"
    for vocabulary in options.vocabulary or (VOCABULARIES if on_cpu else (0,)):
        for threads in options.threads or (THREADS if on_cpu else (1,)):
            with tempfile.TemporaryDirectory() as folder:
                compare(options, vocabulary, threads, Path(folder), device)
    print(
        "\nratio: time over that of the first row in the same round, median; CPU s: processor time of a step, and how much"
    )
    print("of it is the system's; memory: most that the process has had.")
    with tempfile.TemporaryDirectory() as folder:
        loaders(Path(folder))


def compare(options: argparse.Namespace, vocabulary: int, threads: int, folder: Path, device: torch.device) -> None:
    from trainer.bench import SHAPES
    from trainer.model import Decoder, ffn_width, flops_per_token, n_parameters

    shape = SHAPES[options.shape]
    shape = replace(shape, vocab_size=vocabulary or shape.vocab_size)
    facts = {**asdict(shape), "ffn": ffn_width(shape)}
    task = {"shape": facts, "seq_len": options.seq_len, "steps": options.steps, "threads": threads}
    (folder / "task.json").write_text(json.dumps(task))
    model = Decoder(shape)
    model.initialise(0)
    torch.save(model.state_dict(), folder / "state.pt")
    drawn = torch.Generator().manual_seed(0)
    drawn_size = (8, options.rows, options.seq_len + 1)
    torch.save(torch.randint(1, shape.vocab_size, drawn_size, generator=drawn), folder / "batches.pt")
    on_cpu = device.type == "cpu"
    kind = f"FP32, {threads} thread{'s' * (threads > 1)}" if on_cpu else f"BF16, {torch.cuda.get_device_name()}"
    n, size = n_parameters(shape)[0], f"{options.rows} samples of {options.seq_len:,} tokens"
    print(f"\n{options.shape}: {n:,} parameters, vocabulary {shape.vocab_size:,}; torch {torch.__version__}, {kind}")
    print(f"{size} a step, {options.rounds} rounds of {options.steps} step{'s' * (options.steps > 1)}\n")
    running = {}
    for number, (name, compiled) in enumerate(CONTENDERS):
        python = options.peer_python if name == "transformers" else sys.executable
        if python and (options.compiled or not on_cpu or not compiled):
            running[number] = start(python, number, folder, options.device, threads)
    rounds: dict[int, list[dict[str, float]]] = {number: [] for number in running}
    try:
        firsts = {number: told(process)["losses"] for number, process in running.items()}
        for _ in range(options.rounds):
            for number, process in running.items():
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                rounds[number].append(told(process))
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    tokens = options.steps * options.rows * options.seq_len
    flops = flops_per_token(shape, options.seq_len)
    print(
        f"{'contender':<22}{'compiled':<10}{'tok/s':>9}{'GFLOP/s':>9}{'ratio':>7}{'CPU s':>7}{'system':>8}{'memory GB':>11}"
        f"  {'losses 1, 2':<17}  how"
    )
    for number, found in rounds.items():
        name, compiled = CONTENDERS[number]
        speed = statistics.median(tokens / one["seconds"] for one in found)
        ratio = statistics.median(one["seconds"] / base["seconds"] for one, base in zip(found, rounds[0], strict=True))
        spent = statistics.median((one["user"] + one["system"]) / options.steps for one in found)
        system = statistics.median(one["system"] / max(1e-9, one["user"] + one["system"]) for one in found)
        losses = ", ".join(f"{loss:.4f}" for loss in firsts[number])
        memory = f"{max(one['memory'] for one in found) / 1e9:.2f}"
        figures = f"{speed:>9,.0f}{speed * flops / 1e9:>9,.1f}{ratio:>7.2f}{spent:>7.2f}{system:>8.0%}{memory:>11}"
        print(f"{name:<22}{'yes' if compiled else 'no':<10}{figures}  {losses:<17}  {HOW[name]}", flush=True)


def loaders(folder: Path) -> None:
    """The loader alone, on one thread of its own, from shards on disk."""
    from trainer import bench

    print()
    stores = [bench.synthetic(folder / f"alone-{i}", 50_304, bench.STORE_TOKENS, i) for i in range(2)]
    for length in (512, 2048):
        rates = [bench.loader_rate(stores, length, torch.device("cpu")) / 1e6 for _ in range(5)]
        print(
            f"loader alone, samples of {length:,}: {statistics.median(rates):.1f} M tokens/s (median of 5 runs, goal 5)"
        )


def start(python: str, number: int, folder: Path, device: str, threads: int) -> "subprocess.Popen[str]":
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [python, "-m", "benchmarks.trainer", "--serve", str(number), "--folder", str(folder), "--device", device]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def told(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"{' '.join(map(str, process.args))} ended early")  # type: ignore[union-attr]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
