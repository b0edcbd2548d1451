"""Small runs: text that can be learned, token folders of it, and configs that train in seconds."""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ranks import environment

from trainer.config import Config, from_mapping
from trainer.metrics import read
from trainer.parallel import start, stop
from trainer.shards import dtype_for, index_bytes
from trainer.train import Result, Start, Trainer

LETTERS = "abcdefghijklmnopqrstuvwxyz ,.ABCDEF"
END = len(LETTERS)
VOCABULARY = END + 1
"""One token a letter, and one that ends texts."""


def tokenizer(folder: Path, vocab_size: int = VOCABULARY) -> dict[str, Any]:
    """Writes tokenizer.json; returns what tokens.json says of it. Tokens above the letters are numbers in brackets."""
    names = {letter: i for i, letter in enumerate(LETTERS)} | {"<|end|>": END}
    names |= {f"<{i}>": i for i in range(VOCABULARY, vocab_size)}
    model = {"type": "BPE", "vocab": names, "merges": [], "unk_token": None, "byte_fallback": False}
    body = {
        "version": "1.0",
        "added_tokens": [
            {"id": END, "content": "<|end|>", "special": True, "normalized": False, "single_word": False}
            | {"lstrip": False, "rstrip": False}
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": model,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(body)
    (folder / "tokenizer.json").write_text(text)
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "vocab_size": vocab_size,
        "eos": END,
        "eos_token": "<|end|>",
        "dtype": str(dtype_for(vocab_size)),
    }


def documents(n: int, seed: int = 0, mean: int = 40, chain: int = 0) -> list[np.ndarray]:
    """Texts of a Markov chain over letters, in which each letter has three that may follow; END ends each."""
    shape = np.random.default_rng(1000 + chain)
    follows = np.stack([shape.permutation(END)[:3] for _ in range(END)])
    source = np.random.default_rng(seed)
    made = []
    for length in source.integers(mean // 2, mean * 2, n):
        at = int(source.integers(END))
        text = []
        for choice in source.choice(3, size=int(length), p=(0.7, 0.2, 0.1)):
            text.append(at)
            at = int(follows[at, choice])
        made.append(np.array([*text, END]))
    return made


def tokens(folder: Path, shards: Sequence[Sequence[np.ndarray]], vocab_size: int = VOCABULARY) -> Path:
    """A finished token folder of such texts."""
    about = tokenizer(folder, vocab_size)
    dtype = dtype_for(vocab_size)
    for number, texts in enumerate(shards):
        held = np.concatenate(texts).astype(dtype)
        files = {".bin": held.tobytes(), ".idx": index_bytes(np.array([len(t) for t in texts]), dtype)}
        for suffix, data in files.items():
            (folder / f"shard-{number:05d}{suffix}").write_bytes(data)
        manifest = {
            "files": {s: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for s, b in files.items()},
            "tokenizer": about["sha256"],
            "dtype": str(dtype),
            "documents": len(texts),
            "tokens": len(held),
        }
        (folder / f"shard-{number:05d}.json").write_text(json.dumps(manifest))
    totals = {
        "shards": len(shards),
        "documents": sum(map(len, shards)),
        "tokens": sum(len(text) for shard in shards for text in shard),
        "bytes": 0,
    }
    (folder / "tokens.json").write_text(json.dumps({"tokenizer": about, "done": True, "totals": totals}))
    return folder


def body(data: Path, out: Path, steps: Sequence[int] = (12,), **changes: Any) -> dict[str, Any]:
    """A config as a mapping: batches of 8 samples of 32 tokens in micro-batches of half; `changes` as section__key."""
    made: dict[str, Any] = {
        "out": str(out),
        "device": "cpu",
        "micro_tokens": 128,
        "deterministic": True,
        "model": {"layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 64},
        "data": {"path": str(data), "seq_len": 32, "batch_tokens": 256, "held_out_share": 0.05},
        "optim": {"lr": 5e-3},
        "guard": {"window": 16, "least_history": 8, "rise_steps": 10},
        "checkpoint": {"every": 5, "healthy": 3},
        "parallel": {"compile": False},
        "log": {"every": 1, "evaluate": 0},
        "phase": [{"name": f"p{i}", "tokens": 256 * n} for i, n in enumerate(steps)],
    }
    for key, value in changes.items():
        at = made
        *sections, last = key.split("__")
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return made


def config(*given: Any, **changes: Any) -> Config:
    """The same, as a run takes it."""
    return from_mapping(body(*given, **changes))


def trained(
    wanted: Config, begin: str | None = None, before: Callable[[Trainer], None] | None = None
) -> tuple[Result, dict[str, torch.Tensor]]:
    """Runs in this process, as one of the ranks that the environment names; the result and all tensors of the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    world = start(wanted.device, wanted.parallel, wanted.deterministic)
    try:
        trainer = Trainer(wanted, world, Start(begin) if begin else None)
        if before is not None:
            before(trainer)
        result = trainer.run()
        return result, everything(trainer)
    finally:
        stop(world)
        torch.set_num_threads(threads)


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Parameters, moments and the guard's history, whole, whatever the number of ranks."""
    from trainer.checkpoint import _tensors

    held = _tensors(trainer.model, trainer.optimizer, trainer.watch.state())
    return {k: (t.full_tensor() if hasattr(t, "full_tensor") else t).detach().clone() for k, t in held.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(out: Path) -> dict[int, tuple[float, float, int]]:
    """Loss, gradient norm and tokens by step, of the lines that count."""
    lines = [line for line in read(out) if line["kind"] == "step"]
    return {line["step"]: (line["loss"], line["gradient_norm"], line["tokens"]) for line in lines}


def events(out: Path, what: str | None = None) -> list[dict[str, Any]]:
    """Lines of events."""
    return [line for line in read(out) if line["kind"] == "event" and what in (None, line["what"])]


class Child:
    """The command in a process of its own, begun as a copy of one that has read PyTorch; `before` is code that runs first."""

    def __init__(
        self, wanted: dict[str, Any], folder: Path, *arguments: str, before: str = "", **variables: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        path.write_text(json.dumps(wanted))
        self.out, self.metrics = folder / "out", Path(wanted["out"])
        multiprocessing.set_forkserver_preload(["torch._dynamo", "trainer.__main__", "trainer.train"])
        given = (folder, ["trainer", "--config", str(path), *arguments], before, variables)
        self._process = multiprocessing.get_context("forkserver").Process(target=_command, args=given)
        self._process.start()

    def send(self, number: int) -> None:
        """A signal."""
        os.kill(self._process.pid or 0, number)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Until `ready` says so. Raises AssertionError where the process ends before, or a minute has gone."""
        for _ in range(6000):
            if ready():
                return
            if not self._process.is_alive() and not ready():
                raise AssertionError(f"it ended with {self.ended()}")
            time.sleep(0.01)
        self._process.kill()
        raise AssertionError("it never came so far")

    def wait_for_step(self, step: int) -> None:
        """Until a line tells of it."""
        self.wait_for(lambda: any(line["kind"] == "step" and line["step"] >= step for line in _lines(self.metrics)))

    def wait_for_word(self, word: str) -> None:
        """Until it has been printed."""
        self.wait_for(lambda: self.out.exists() and word in self.out.read_text().split())

    def ended(self) -> tuple[int | None, str]:
        """Exit code (negative where a signal ended it) and the last line of all that was written."""
        self._process.join(60)
        lines = self.out.read_text().strip().splitlines()
        return self._process.exitcode, lines[-1] if lines else ""


def _lines(out: Path) -> list[dict[str, Any]]:
    return read(out) if (out / "metrics.jsonl").exists() else []


def _command(folder: Path, arguments: list[str], before: str, variables: dict[str, str]) -> None:
    handle = os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    for name in environment(0, 1, 0):
        os.environ.pop(name, None)
    os.environ |= variables
    torch.set_num_threads(1)
    exec(before, {})
    from trainer.__main__ import main

    sys.argv = arguments
    main()
