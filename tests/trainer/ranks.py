"""Runs a function on several ranks, each a process of its own on one thread, and small models for them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from trainer import config
from trainer.model import Decoder

SHAPE = config.Model(layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab_size=96, qk_norm=True)


def meta(shape: config.Model = SHAPE, dtype: torch.dtype = torch.float32) -> Decoder:
    """A model without memory."""
    with torch.device("meta"):
        return Decoder(shape, dtype)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that is not spread over ranks, and does not change."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def on_ranks(size: int, task: Callable[..., Any], folder: Path, *given: Any) -> list[Any]:
    """What `task(*given)` returned on each rank, in the environment that torchrun makes. Raises what a rank raised."""
    folder.mkdir(parents=True, exist_ok=True)
    # They are copies of one process that has read PyTorch once: with two cores, that is most of a test's time.
    multiprocessing.set_forkserver_preload(["torch._dynamo", "trainer.parallel", "trainer.checkpoint"])
    arguments = (size, task, folder, given, free_port())
    mp.start_processes(_rank, arguments, size, start_method="forkserver")
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(size)]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """As torchrun sets it."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return dict(zip(names, map(str, (rank, rank, size, "127.0.0.1", port)), strict=True))


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _rank(rank: int, size: int, task: Callable[..., Any], folder: Path, given: tuple[Any, ...], port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= environment(rank, size, port)
    torch.save(task(*given), folder / f"rank-{rank}.pt")
