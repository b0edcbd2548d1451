"""One model of an ablation: trained, then asked for the bits of every held-out text. `python -m trainer.ablation_run TASK`.

A process of its own for each model, with a share of the cores, makes small models fastest. It ends when the process that
started it does.
"""

import dataclasses
import json
import math
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import CrawlmillError, InputError
from trainer import config
from trainer.config import Config

PRESET: dict[str, Any] = {
    # About a million parameters: a million tokens take one core of a CPU two minutes or so.
    "model": {"layers": 2, "width": 128, "heads": 4, "kv_heads": 4, "head_dim": 32},
    "data": {"seq_len": 256, "batch_tokens": 2048},
    # After 300,000 tokens of a crawl 2.43 bits a byte; AdamW alone, at 3e-3, has 2.80.
    "optim": {"name": "muon", "lr": 0.015, "muon_lr": 0.02},
    "guard": {"on": False},  # both of a pair are to read the same; a first repetition looks like a spike
    "checkpoint": {"keep": 1, "asynchronous": False},
    "parallel": {"compile": False},
}

VOCABULARY = 4096
"""Tokens of a tokenizer that is trained for an ablation: more would be most of so small a model."""

TOKENS = 1_000_000
"""Tokens that a model of the preset is trained on at most, unless more are asked for."""

WARMUP = 0.1
"""Share of a run's tokens; then the rate falls to zero in a line, so that models are compared at their best."""

LOOKS = 8
"""So often a run looks at held-out texts on its way, for the picture."""

LOOK_TOKENS = 32_768


@dataclass(frozen=True)
class Task:
    """A model to make. `held_out` are token folders by source, of which every document is scored; `scores` is where."""

    name: str
    options: Config
    held_out: dict[str, str]
    scores: str
    threads: int = 0

    def save(self, path: Path) -> None:
        """Writes it down. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Task":
        """Reads it back. Raises InputError."""
        try:
            body = json.loads(path.read_bytes())
            return cls(**{**body, "options": config.from_mapping(body["options"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no task of an ablation: {error}") from error


def run_options(
    base: Config, name: str, seed: int, tokens: int, data: str, held_out: dict[str, str], folder: Path
) -> Config:
    """The config of one model. Runs of a seed have all in common but what they read."""
    steps = tokens // base.data.batch_tokens
    ramp = config.Ramp(1.0, 0.0, "linear", int(WARMUP * tokens))
    return dataclasses.replace(
        base,
        name=name,
        out=str(folder),
        seed=seed,
        data=dataclasses.replace(base.data, path=None, sources={"set": data}, held_out=held_out, verify=False),
        checkpoint=dataclasses.replace(base.checkpoint, every=max(1, -(-steps // 4))),
        log=dataclasses.replace(base.log, evaluate=max(1, -(-steps // LOOKS)), evaluate_tokens=LOOK_TOKENS),
        phase=(config.Phase("train", tokens, {"set": 1.0}, ramp),),
    )


def learn(task: Task) -> None:
    """Trains the model, from where it was if it was begun, and writes its scores. Raises what training raises."""
    import torch

    from trainer.parallel import start, stop
    from trainer.train import Trainer

    before = torch.get_num_threads()
    torch.set_num_threads(task.threads or before)
    try:
        world = start(task.options.device, task.options.parallel, task.options.deterministic)
        try:
            result = Trainer(task.options, world).run()
        finally:
            stop(world)
        scores = {name: score(task.options.out, folder) for name, folder in task.held_out.items()}
    finally:
        torch.set_num_threads(before)
    body = {
        "name": task.name,
        "seed": task.options.seed,
        "config": task.options.digest,
        "steps": result.step,
        "loss": result.loss,
        "withheld": result.skipped_steps,
        "rollbacks": result.rollbacks,
        "bits": scores,
    }
    path = Path(task.scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(body), encoding="utf-8")
    draft.replace(path)


def score(run: str, folder: str) -> list[float]:
    """Bits that a run's model needs for each document of a token folder, in order. Raises ModelError, ShardError."""
    from trainer.huggingface import ModelError
    from trainer.models import open_model, pick
    from trainer.scoring import Request, Scorer, rolling
    from trainer.shards import TokenStore

    found = open_model(run, *pick("auto", "auto"))
    store = TokenStore.open(folder)
    scorer = Scorer(found.model, found.context)
    requests: list[Request] = []
    places = []
    for number in range(len(store)):
        # What ends a text is no part of it.
        parts = rolling(store.doc(number)[:-1].tolist(), found.vocabulary.eos, found.context)
        places.append(slice(len(requests), len(requests) + len(parts)))
        requests += parts
    scores = scorer(requests)
    bits = [-sum(one.logprob for one in scores[place]) / math.log(2) for place in places]
    if not all(map(math.isfinite, bits)):
        raise ModelError(f"{run} gives no number for a text of {folder}: its training has failed; lower optim.lr")
    return bits


def pace(options: Config, threads: int) -> float:
    """Seconds that this machine takes for a token of training, measured on one small batch. `model.vocab_size` is given."""
    import torch

    from trainer.attention import choose, scope
    from trainer.model import Decoder
    from trainer.optim import Optimizer
    from trainer.parallel import start, stop

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    world = start(options.device)
    try:
        dtype = torch.bfloat16 if world.device.type == "cuda" else torch.float32
        model = Decoder(options.model, dtype).to(world.device)
        optimizer = Optimizer(model, options.optim)
        rows, length = max(1, min(options.data.batch_tokens, 16_384) // options.data.seq_len), options.data.seq_len
        tokens = torch.zeros((rows, length), dtype=torch.int64, device=world.device)
        docs = torch.zeros((rows, length), dtype=torch.int32, device=world.device)
        within = scope(choose(world.device, dtype, options.data.document_mask), docs, rows)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            model(tokens, tokens, within).total.backward()
            optimizer.step(0.0, torch.zeros((), device=world.device))
            optimizer.zero_grad()
            if world.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return min(seconds) / (rows * length)
    finally:
        stop(world)
        torch.set_num_threads(before)


def _end_with_parent() -> None:
    """Ends this process when the other end of its standard input is closed, as it is when the parent was killed: two
    processes that train one model would spoil it."""

    def wait() -> None:
        # Not through sys.stdin: its lock, held by a thread, spoils the end of the interpreter.
        while os.read(0, 1):
            pass
        os._exit(143)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Learns the task that the command names."""
    _end_with_parent()
    try:
        learn(Task.load(Path(sys.argv[1])))
    except CrawlmillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
