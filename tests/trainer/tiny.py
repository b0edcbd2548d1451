"""Tiny tokenizers, models and runs that the tests of export and evaluation share."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer import config
from trainer.checkpoint import Checkpoints
from trainer.model import Decoder, padded_vocab
from trainer.optim import Optimizer
from trainer.parallel import start, stop
from trainer.shards import DTYPES, index_bytes
from trainer.state import RunState

END = "<|endoftext|>"
SENTENCES = [
    "The cat sat on the mat and looked at the dog.",
    "A dog may bark at a cat, but the cat does not care.",
    "Water boils at one hundred degrees at the level of the sea.",
    "Which of these animals can fly? The owl can fly, the cow cannot.",
    "Question: what is red? Answer: an apple, a rose – and ripe chérries.",
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models so small wait for threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def tokenizer_json(vocab_size: int = 300) -> str:
    """A byte-level BPE with one special token, the last."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(SENTENCES * 4, trainer)
    made.add_special_tokens([END])
    return made.to_str()


def shape(**changes: object) -> config.Model:
    """Two layers with shared keys and values, over the padded vocabulary of the tokenizer."""
    words = Tokenizer.from_str(tokenizer_json()).get_vocab_size()
    body = {
        "layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 48,
        "vocab_size": padded_vocab(words), "rope_theta": 500.0, "init_std": 0.25,
    }  # fmt: skip
    return config.Model(**{**body, **changes})  # type: ignore[arg-type]


def model(of: config.Model, seed: int = 3) -> Decoder:
    """A model with numbers in every parameter, norms too."""
    made = Decoder(of)
    made.initialise(seed)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=source), alpha=0.2)
    return made.requires_grad_(False)


def token_folder(folder: Path, texts: list[str]) -> Path:
    """Texts as `crawlmill tokenize` leaves them, in one shard."""
    folder.mkdir(parents=True)
    raw = tokenizer_json().encode()
    words = Tokenizer.from_str(raw.decode())
    eos = words.token_to_id(END)
    documents = [[*words.encode(text).ids, eos] for text in texts]
    lengths = np.array([len(d) for d in documents], np.int64)
    tokens = np.concatenate([np.array(d, DTYPES[8]) for d in documents])
    files = {".bin": tokens.tobytes(), ".idx": index_bytes(lengths, DTYPES[8])}
    for suffix, body in files.items():
        (folder / f"shard-00000{suffix}").write_bytes(body)
    sha256 = hashlib.sha256(raw).hexdigest()
    counts = {"documents": len(documents), "tokens": len(tokens)}
    manifest = {
        "files": {s: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for s, b in files.items()},
        "tokenizer": sha256,
        "dtype": "uint16",
        **counts,
    }
    (folder / "shard-00000.json").write_text(json.dumps(manifest))
    about = {"sha256": sha256, "vocab_size": words.get_vocab_size(), "eos": eos, "eos_token": END, "dtype": "uint16"}
    totals = {"shards": 1, "bytes": 0, **counts}
    (folder / "tokens.json").write_text(json.dumps({"tokenizer": about, "done": True, "totals": totals}))
    (folder / "tokenizer.json").write_bytes(raw)
    return folder


def run(folder: Path, of: config.Model, seq_len: int = 64) -> Path:
    """A run's folder with two checkpoints and a line of its log; its data are the sentences."""
    data = token_folder(folder / "data", SENTENCES * 3)
    run = folder / "run"
    run.mkdir()
    options = config.Config(
        name="tiny", out=str(run), model=of, data=config.Data(path=str(data), seq_len=seq_len, batch_tokens=seq_len)
    )
    (run / "config.json").write_text(json.dumps(asdict(options) | {"digest": options.digest}))
    sha256 = hashlib.sha256(tokenizer_json().encode()).hexdigest()
    world = start("cpu")
    try:
        about = {"config": options.digest, "plan": "p", "tokenizer": sha256, "model": asdict(of), "optimizer": "adamw"}
        saves = Checkpoints(run / "checkpoints", config.Checkpoint(asynchronous=False), world, about)
        for step in (1, 2):
            made = model(of, step).requires_grad_(True)
            saves.save(step, made, Optimizer(made, options.optim), {}, RunState(step=step, tokens=64 * step).to_json())
        saves.close()
    finally:
        stop(world)
    line = {"kind": "eval", "step": 2, "source": "data", "bits_per_byte": 2.5}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return run
