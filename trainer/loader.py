"""Batches ahead of the model: a thread reads and packs them while the device computes.

Nothing here has a state worth saving. What the loader reads next follows from the place it is started at, so a run that
stops, goes back or has another number of ranks starts one where it wants to go on.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.plan import Plan, PlannedPhase
from trainer.state import Skipped, next_sample

MICRO_TOKENS = 16_384
"""Tokens of a forward pass where the config does not say: 1.3 billion parameters need some 28 GB of activations for them."""


class Micro(NamedTuple):
    """A rank's part of a batch that is computed at once, on the device: tokens, targets and docs (samples, seq_len)."""

    tokens: Tensor
    targets: Tensor
    docs: Tensor
    n_docs: int
    """Documents, and pieces of them, of all samples."""


class Step(NamedTuple):
    """All that a rank computes in a step; `first` is the whole batch's first sample of the phase."""

    number: int
    phase: PlannedPhase
    first: int
    micros: list[Micro]


class Loader:
    """Iterates over the steps from `step` on; `sample` is the cursor in that step's phase.

    `rank` of `world` gets its rows of each batch. Raises what reading raises, at the step that it happened in.
    """

    def __init__(
        self,
        plan: Plan,
        step: int,
        sample: int,
        rank: int,
        world: int,
        micro_tokens: int,
        device: torch.device,
        prefetch: int = 4,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        self.plan, self.rank, self.world, self.device = plan, rank, world, device
        self.micro_tokens = micro_tokens
        self.skipped = list(skipped)
        self.waited = 0.0
        self._start = (step, sample)
        self._queue: queue.Queue[Step | BaseException | None] = queue.Queue(maxsize=prefetch)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True, name="loader")
        self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        while True:
            began = time.perf_counter()
            got = self._queue.get()
            self.waited += time.perf_counter() - began
            if got is None:
                return
            if isinstance(got, BaseException):
                raise got
            yield got

    def close(self) -> None:
        """Stops reading ahead."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _fill(self) -> None:
        try:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # each thread has a current one: pinning must not wake the first GPU
            step, sample = self._start
            while step < self.plan.steps and not self._stopped.is_set():
                phase = self.plan.phase_of(step)
                if step == phase.first_step and step != self._start[0]:
                    sample = 0
                sample = next_sample(phase.number, sample, self.skipped)
                if not self._put(self._step(step, phase, sample)):
                    return
                step, sample = step + 1, sample + phase.batch
            self._put(None)
        except BaseException as error:  # whatever it is, the training loop must see it
            self._put(error)

    def _put(self, item: Step | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _step(self, step: int, phase: PlannedPhase, sample: int) -> Step:
        rows = phase.batch // self.world
        first = sample + self.rank * rows
        at_once = rows_at_once(rows, phase.seq_len, self.micro_tokens)
        batch = self.plan.read(phase, np.arange(first, first + rows))
        micros = []
        for start in range(0, rows, at_once):
            part = slice(start, start + at_once)
            micros.append(to_device(batch.tokens[part], batch.targets[part], batch.docs[part], self.device))
        return Step(step, phase, sample, micros)


def to_device(tokens: np.ndarray, targets: np.ndarray, docs: np.ndarray, device: torch.device) -> Micro:
    """What is computed at once, on the device, which is not waited for."""

    def moved(part: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(part))
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    return Micro(moved(tokens), moved(targets), moved(docs), int((docs[:, -1] - docs[:, 0] + 1).sum()))


def rows_at_once(rows: int, seq_len: int, micro_tokens: int) -> int:
    """The most rows, of those that divide `rows`, whose tokens are no more than `micro_tokens`; at least one."""
    fitting = [n for n in range(1, rows + 1) if rows % n == 0 and n * seq_len <= micro_tokens]
    return max(fitting, default=1)
