"""What to do when a step goes wrong: leave its update out, go back, or give up.

A step whose loss or gradient is not finite, or lies far above what it was, is left out on the device before any host knows
of it. The host looks at the numbers a step later. Steps that keep failing, or a loss that has risen and stays up, mean
that what was learned is spoilt: the run goes back to the last good checkpoint, and the samples since then are left out.
Every number that decides has been summed over all ranks, so all ranks decide alike.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.config import Guard as Options

EMA = 2 / (20 + 1)
"""Weight of a new loss in the mean over about 20 steps."""

LEAST_SPREAD = 0.01
"""Share of the mean that counts as spread at least: a loss that hardly moves must not make the next batch a spike."""

MEDIAN_OF = 256
"""Steps over which the level of the loss is known."""

MADS = 6.0
"""Median absolute deviations by which a loss must have risen, as the standard deviations of a single step."""


class Verdict(StrEnum):
    """What follows from a step."""

    OK = "ok"
    SKIP = "skip"
    ROLLBACK = "rollback"
    ABORT = "abort"


class Seen(NamedTuple):
    """What the host knows of a step, one step later."""

    step: int
    loss: float
    gradient_norm: float
    withheld: bool


class Watch:
    """The part on the device: the last losses and gradient norms of steps that were taken."""

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options = options
        self.history = torch.zeros(2, options.window, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def withhold(self, loss: Tensor, gradient_norm: Tensor) -> Tensor:
        """1.0 where this step's update must not happen, else 0.0; remembers it otherwise. Scalars on the device."""
        now = torch.stack([loss, gradient_norm]).double()
        bad = ~torch.isfinite(now).all()
        if self.options.on:
            n = self.count.clamp(1, self.options.window)
            known = torch.arange(self.options.window, device=now.device) < n
            mean = (self.history * known).sum(1) / n
            spread = (((self.history - mean[:, None]) * known).square().sum(1) / n).sqrt()
            spread = torch.maximum(spread, mean.abs() * LEAST_SPREAD)
            far = (now > mean + self.options.sigmas * spread).any()
            bad = bad | (far & (self.count >= self.options.least_history))
        place = (self.count % self.options.window).reshape(1)
        kept = torch.where(bad, self.history.index_select(1, place), now[:, None])
        self.history.index_copy_(1, place, kept)
        self.count += (~bad).long()
        return bad.float()

    def clear(self) -> None:
        """Forgets: another phase has another level of loss."""
        self.history.zero_()
        self.count.zero_()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"history": self.history, "count": self.count}

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from what a checkpoint kept."""
        self.history.copy_(state["history"])
        self.count.copy_(state["count"])


@dataclass
class Judge:
    """The part on the host."""

    options: Options
    steps: int
    """Steps of the whole plan; rollbacks are bounded within a share of them."""
    in_a_row: int = 0
    risen: int = 0
    mean: float | None = None
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=MEDIAN_OF))
    rollbacks: list[int] = field(default_factory=list)
    """Steps at which the run went back."""

    def judge(self, seen: Seen) -> Verdict:
        """What follows from a step. Steps must come in order, each once."""
        if seen.withheld:
            self.in_a_row += 1
            return self._back(seen.step) if self.options.on and self.in_a_row >= self.options.skips else Verdict.SKIP
        self.in_a_row = 0
        self.mean = seen.loss if self.mean is None else self.mean + EMA * (seen.loss - self.mean)
        if self.options.on and len(self.losses) >= self.options.least_history:
            level = median(self.losses)
            spread = median(abs(loss - level) for loss in self.losses)
            above = self.mean > level + max(MADS * spread, self.options.rise_nats)
            self.risen = self.risen + 1 if above else 0
            if self.risen >= self.options.rise_steps:
                return self._back(seen.step)
            if above:
                # The level is that of the time before: a rise must not become the level by lasting.
                return Verdict.OK
        self.losses.append(seen.loss)
        return Verdict.OK

    def _back(self, step: int) -> Verdict:
        # In a short run the share is a few steps; failures that a window holds are of one kind all the same.
        reach = max(self.options.window, self.options.within_share * self.steps)
        near = [at for at in self.rollbacks if abs(step - at) <= reach]
        self.rollbacks.append(step)
        self.clear()
        return Verdict.ABORT if len(near) + 1 > self.options.rollbacks else Verdict.ROLLBACK

    def clear(self) -> None:
        """Forgets the level of the loss, not the rollbacks."""
        self.in_a_row = self.risen = 0
        self.mean = None
        self.losses.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "in_a_row": self.in_a_row,
            "risen": self.risen,
            "mean": self.mean,
            "losses": list(self.losses),
            "rollbacks": self.rollbacks,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what a checkpoint kept."""
        self.in_a_row, self.risen, self.mean = state["in_a_row"], state["risen"], state["mean"]
        self.losses = deque(state["losses"], maxlen=MEDIAN_OF)
        self.rollbacks = list(state["rollbacks"])
