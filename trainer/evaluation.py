"""How well a model knows text that it was never trained on: bits a byte, which no tokenizer can flatter."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from trainer.attention import Backend, scope
from trainer.data import HeldOut
from trainer.loader import to_device
from trainer.parallel import World, sum_over_ranks
from trainer.plan import IGNORED, split


class Known(NamedTuple):
    """Sums over the targets of a text: nats, UTF-8 bytes that they stand for, tokens."""

    nats: float
    n_bytes: float
    n_tokens: float

    @property
    def bits_per_byte(self) -> float:
        """Nats / (ln 2 x bytes). What ends a text costs nats and has no bytes."""
        return self.nats / (math.log(2) * max(1.0, self.n_bytes))

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / max(1.0, self.n_tokens)


class Evaluation:
    """Looks at held-out text with the ranks of a run, which all must call it together.

    `token_bytes` is the UTF-8 bytes of each token (vocabulary,), `micro_tokens` what is computed at one time.
    """

    def __init__(
        self, world: World, backend: Backend, token_bytes: np.ndarray, eos: int, tokens: int, micro_tokens: int
    ) -> None:
        self.world, self.backend, self.eos = world, backend, eos
        self.tokens, self.micro_tokens = tokens, micro_tokens
        self._bytes = torch.from_numpy(token_bytes).to(world.device)

    def __call__(self, model: nn.Module, part: HeldOut, stopping: Callable[[], bool]) -> Known | None:
        """What the model knows of the first tokens of a text; None where `stopping` said so between two batches.

        A batch holds the same samples whatever the number of ranks, and all have one shape, for which is compiled once.
        """
        try:
            return self._known(model, part, stopping)
        finally:
            if isinstance(model, FSDPModule):
                model.reshard()  # what lies outside of blocks stays gathered for a backward pass, which there is none of

    @torch.no_grad()
    def _known(self, model: nn.Module, part: HeldOut, stopping: Callable[[], bool]) -> Known | None:
        windows, size, rank = part.windows, self.world.data_size, self.world.data_rank
        n = min(windows.n_samples, max(1, self.tokens // windows.seq_len))
        at_once = min(n, max(1, self.micro_tokens // windows.seq_len))
        sums = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        # A rank without a batch computes an empty one: with sharded parameters a forward pass is done together.
        for turn in range(-(-n // (at_once * size))):
            if stopping():
                return None
            first = (turn * size + rank) * at_once
            held = np.full((at_once, windows.seq_len + 1), IGNORED, np.int64)
            for row, sample in enumerate(range(first, min(n, first + at_once))):
                windows.read(sample, held[row])
            micro = to_device(*split(held, self.eos), self.world.device)
            within = scope(self.backend, micro.docs, micro.n_docs)
            losses = model(micro.tokens, micro.targets, within, each=True)
            valid = (micro.targets != IGNORED).double()
            n_bytes = self._bytes[micro.targets.clamp_min(0)] * valid
            sums += torch.stack([losses.double().sum(), n_bytes.sum(), valid.sum()])
        return Known(*sum_over_ranks(sums, self.world).tolist())
