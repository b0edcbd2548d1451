"""Training: build, resume, step, look, save. One loop for a laptop's CPU, one GPU and many."""

import json
import math
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import CrawlmillError, UsageError
from trainer.attention import choose, scope
from trainer.checkpoint import Checkpoints, Saved
from trainer.config import Config
from trainer.data import Corpus, HeldOut, open_corpus
from trainer.guard import Judge, Seen, Verdict, Watch
from trainer.loader import Loader, Micro, Step
from trainer.metrics import Log, plot, strict_flops
from trainer.model import Decoder, flops_per_token, padded_vocab
from trainer.optim import Optimizer, factor
from trainer.parallel import World, gradient_norm, prepare, reduce_gradients, scale_gradients, sum_over_ranks
from trainer.plan import PlannedPhase
from trainer.state import RunState, Skipped
from trainer.tokenizer import token_bytes

MICRO_TOKENS = 16_384
"""Tokens of a forward pass where the config does not say: 1.3 billion parameters need some 28 GB of activations for them."""


class AbortedError(CrawlmillError):
    """The run went back as often as it may and still fails. A diagnosis lies in the run's folder."""

    exit_code = 4


class StoppedError(CrawlmillError):
    """A signal asked the run to stop; it saved and can go on."""

    exit_code = 143


class Result(NamedTuple):
    """How a run ended."""

    step: int
    loss: float
    bits_per_byte: dict[str, float]
    rollbacks: int
    skipped_steps: int


@dataclass(frozen=True)
class Start:
    """Where a run begins that is not its own continuation: the parameters and moments of a checkpoint of another."""

    checkpoint: str


class Trainer:
    """A run, ready to go: `Trainer(config, world).run()`."""

    def __init__(self, config: Config, world: World, start: Start | None = None) -> None:
        self.world = world
        self.corpus: Corpus = open_corpus(config)
        self.plan = self.corpus.plan
        self.config = config = _complete(config, self.corpus)
        self.device = world.device
        _check_batches(self.plan.phases, world.data_size)
        dtype = _dtype(config.dtype, self.device)
        with torch.device("meta"):
            model = Decoder(config.model, dtype)
        self.model = prepare(model, config.parallel, world)
        self.model.initialise(config.seed)
        self.optimizer = Optimizer(self.model, config.optim)
        self.watch = Watch(config.guard, self.device)
        self.judge = Judge(config.guard, self.plan.steps)
        self.state = RunState()
        self.backend = choose(self.device, dtype, config.data.document_mask)
        self.folder = Path(config.out)
        self.identity = {
            "config": config.digest,
            "plan": self.corpus.digest,
            "tokenizer": self.corpus.tokenizer["sha256"],
            "model": asdict(config.model),
        }
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.checkpoint, world, self.identity)
        self._start = start
        self._bytes = torch.from_numpy(_byte_counts(self.corpus, config.model.vocab_size)).to(self.device)
        self._stopping = False
        self._skipped_steps = 0
        self._held: dict[str, float] = {}
        self.log: Log | None = None

    # What a run does, from the outside in.

    def run(self) -> Result:
        """Trains from where the run is to the end of the plan. Raises AbortedError, StoppedError, and what files raise."""
        self._begin()
        with self._signals():
            last = math.nan
            while self.state.step < self.plan.steps:
                last = self._stretch()
            self._say(self.checkpoints.wait())
        self.checkpoints.close()
        self._note("end", step=self.state.step, tokens=self.state.tokens, loss=last, bits_per_byte=self._held)
        if self.log is not None:
            self.log.close()
        if self.world.rank == 0:
            plot(self.folder)
        return Result(self.state.step, last, dict(self._held), len(self.judge.rollbacks), self._skipped_steps)

    def _begin(self) -> None:
        """Takes up the run's newest checkpoint, or another run's, or starts afresh."""
        if self.world.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
        newest = self.checkpoints.latest()
        if newest is not None and self._start is not None:
            raise UsageError(
                f"{self.folder} holds a run already ({newest.name}): a run that starts from another's checkpoint "
                "needs a folder of its own (out)"
            )
        if newest is not None:
            self._load(self.checkpoints.load(newest, self.model, self.optimizer, self.watch.state()))
        elif self._start is not None:
            found = self.checkpoints.load(self._start.checkpoint, self.model, self.optimizer, self.watch.state())
            self._refuse_other(found, ("model", "tokenizer"), self._start.checkpoint)
            self.watch.clear()
        self.log = Log(self.folder, self.config.log, self.world.rank)
        if self.world.rank == 0:
            body = {**asdict(self.config), "digest": self.config.digest}
            (self.folder / "config.json").write_text(json.dumps(body, indent=1))
        self._note(
            "start",
            step=self.state.step,
            steps=self.plan.steps,
            tokens=self.plan.tokens,
            world=self.world.size,
            device=str(self.device),
            attention=self.backend,
            parameters=sum(p.numel() for p in self.model.parameters()),
            phases=[{"name": p.name, "first_step": p.first_step, "steps": p.steps} for p in self.plan.phases],
            torch=torch.__version__,
        )

    def _load(self, found: Mapping[str, Any]) -> None:
        self._refuse_other(found, ("config", "plan", "tokenizer"), str(self.folder))
        self.state = RunState.of_json(found["run"])
        self.judge.load(self.state.judge)
        self._skipped_steps = found.get("skipped_steps", 0)

    def _refuse_other(self, found: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
        words = {
            "config": "under another config",
            "plan": "on other data, or in another order",
            "tokenizer": "with another tokenizer",
            "model": "of another shape of model",
        }
        for name in names:
            if found["identity"][name] != self.identity[name]:
                raise UsageError(
                    f"{where} holds a run {words[name]}; take up that run with what it was begun with, set another out, "
                    "or start from its checkpoint with --from"
                )

    def _stretch(self) -> float:
        """Steps until the plan ends or the run goes back; returns the last loss."""
        state, options = self.state, self.config
        phase = self.plan.phase_of(state.step)
        loader = Loader(
            self.plan,
            state.step,
            state.sample,
            self.world.data_rank,
            self.world.data_size,
            options.micro_tokens or MICRO_TOKENS,
            self.device,
            options.data.prefetch,
            state.skipped,
        )
        pending: deque[tuple[Step, Tensor, float]] = deque()
        last = math.nan
        began, waited = time.perf_counter(), 0.0
        try:
            for step in loader:
                if step.number == step.phase.first_step and step.number > 0 and step.phase is not phase:
                    # Another phase has another level of loss; what is pending belongs to the old one.
                    last, back = self._settle(pending, last)
                    if back:
                        return last
                    phase = step.phase
                    self.watch.clear()
                    self.judge.clear()
                rate = factor(
                    self._ramp(step), step.number - step.phase.first_step, step.phase.steps, _batch_tokens(step)
                )
                pending.append((step, self._learn(step, rate), rate))
                state.step, state.tokens = step.number + 1, state.tokens + _batch_tokens(step)
                state.sample = step.first + step.phase.batch
                if state.step == step.phase.first_step + step.phase.steps:
                    state.sample = 0
                ends = state.sample == 0
                # Statistics are read one step late, unless something has to be decided on them now.
                due = ends or state.step % options.checkpoint.every == 0 or self._due(options.log.evaluate)
                while len(pending) > (0 if due or state.step == self.plan.steps else 1):
                    now = time.perf_counter()
                    seconds, began = now - began, now
                    wait, waited = loader.waited - waited, loader.waited
                    last, back = self._settle_one(pending, seconds, wait)
                    if back:
                        return last
                if state.step % options.checkpoint.every == 0 or ends:
                    self._save(asynchronous=options.checkpoint.asynchronous)
                if self._due(options.log.evaluate) or ends:
                    self.evaluate(step.phase.name)
                    began = time.perf_counter()
                self._say(self.checkpoints.poll())
        finally:
            loader.close()
        return last

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _ramp(self, step: Step) -> Any:
        return self.corpus.phases[step.phase.number].lr

    def _learn(self, step: Step, rate: float) -> Tensor:
        """One step of the optimiser. Returns, on the device and summed over ranks: mean loss, gradient norm, withheld,
        whether somebody was asked to stop, mean total, attended pairs."""
        options = self.config
        expected = float(_batch_tokens(step))
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        for micro in step.micros:
            loss = self.model(
                micro.tokens,
                micro.targets,
                scope(self.backend, micro.docs),
                options.optim.z_loss,
                options.parallel.compile,
            )
            (loss.total / expected).backward()
            found = (loss.nll, loss.n, loss.total.detach(), _pairs(micro, self.backend))
            sums[:4] += torch.stack([part.double() for part in found])
        sums[4] = float(self._stopping)
        reduce_gradients(self.model, self.world)
        sum_over_ranks(sums, self.world)
        # A batch in which nothing was to be learned has neither loss nor gradient.
        n = sums[1].clamp_min(1.0)
        mean, total = sums[0] / n, sums[2] / n
        scale = expected / n
        norm = gradient_norm(self.model, self.world).double() * scale
        withheld = self.watch.withhold(total, norm)
        shrink = (scale * (options.optim.clip / (norm + 1e-6)).clamp_max(1.0)).float()
        scale_gradients(self.model, shrink)
        self.optimizer.step(rate, withheld)
        self.optimizer.zero_grad()
        return torch.stack([mean, norm, withheld.double(), sums[4], total, sums[3]])

    def _settle(self, pending: deque[tuple[Step, Tensor, float]], last: float) -> tuple[float, bool]:
        while pending:
            last, back = self._settle_one(pending, 0.0, 0.0)
            if back:
                return last, True
        return last, False

    def _settle_one(
        self, pending: deque[tuple[Step, Tensor, float]], seconds: float, wait: float
    ) -> tuple[float, bool]:
        """Looks at the oldest step whose numbers are not known yet; True where the run went back."""
        step, numbers, rate = pending.popleft()
        loss, norm, withheld, stopping, _, pairs = numbers.tolist()
        verdict = self.judge.judge(Seen(step.number, loss, norm, bool(withheld)))
        self._skipped_steps += bool(withheld)
        self._report(step, loss, norm, rate, verdict, seconds, wait, pairs)
        if verdict in (Verdict.ROLLBACK, Verdict.ABORT):
            self._go_back(step, verdict)
            return loss, True
        if stopping:
            if pending:
                _, back = self._settle(pending, loss)
                if back:
                    return loss, True
            self._save(asynchronous=False)
            self._note("event", what="stopped", step=self.state.step)
            raise StoppedError(
                f"stopped at step {self.state.step:,} of {self.plan.steps:,} and saved; run the same command to go on"
            )
        return loss, False

    def _go_back(self, step: Step, verdict: Verdict) -> None:
        """To the newest good checkpoint, or to the beginning; the samples since then are left out from now on."""
        phase = step.phase
        end = step.first + (1 + self.config.guard.margin) * phase.batch
        self._diagnose(step, verdict)
        if verdict is Verdict.ABORT:
            raise AbortedError(
                f"gave up at step {step.number:,}: {len(self.judge.rollbacks)} rollbacks, and the loss still fails; "
                f"{self.folder / 'diagnosis.json'} says what was seen. Look at the sources named there, lower optim.lr, "
                "or loosen [guard]"
            )
        self._say(self.checkpoints.wait())
        rollbacks, skipped = self.judge.rollbacks, self.state.skipped
        good = self.checkpoints.latest(good=True)
        self.optimizer.zero_grad()
        if good is None:
            self.model.initialise(self.config.seed)
            self.optimizer = Optimizer(self.model, self.config.optim)
            self.state = RunState()
            self.watch.clear()
        else:
            self._load(self.checkpoints.load(good, self.model, self.optimizer, self.watch.state()))
        self.judge.clear()
        self.watch.clear()
        self.judge.rollbacks = rollbacks
        same_phase = self.plan.phase_of(self.state.step) is phase
        first = self.state.sample if same_phase else 0
        self.state.skipped = [*skipped, Skipped(phase.number, first, end)]
        self.checkpoints.drop_after(self.state.step)
        self._note(
            "event",
            what="rollback",
            step=step.number,
            to=self.state.step,
            left_out={"phase": phase.name, "first": first, "end": end},
        )

    def _diagnose(self, step: Step, verdict: Verdict) -> None:
        """What was seen when a step failed, for a person: sources of its samples, and the size of each parameter."""
        sources = np.concatenate([micro.source for micro in step.micros])
        counts = np.bincount(sources, minlength=len(step.phase.sources))
        sizes = {}
        for name, parameter in self.model.named_parameters():
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            sizes[name] = float(whole.detach().float().norm())
        if self.world.rank == 0:
            found = {
                "step": step.number,
                "verdict": verdict.value,
                "phase": step.phase.name,
                "samples": [step.first, step.first + step.phase.batch],
                "sources": dict(zip(step.phase.sources, counts.tolist(), strict=True)),
                "losses": list(self.judge.losses),
                "rollbacks": self.judge.rollbacks,
                "parameter_norms": sizes,
            }
            (self.folder / "diagnosis.json").write_text(json.dumps(found, indent=1))

    def _report(
        self,
        step: Step,
        loss: float,
        norm: float,
        rate: float,
        verdict: Verdict,
        seconds: float,
        wait: float,
        pairs: float,
    ) -> None:
        if verdict is not Verdict.OK:
            self._note("event", what=verdict.value, step=step.number, loss=loss, gradient_norm=norm)
        if self.log is not None:
            self.log.step(
                step=step.number,
                steps=self.plan.steps,
                phase=step.phase.name,
                tokens=self.state.tokens,
                loss=loss,
                gradient_norm=norm,
                lr=rate * self.config.optim.lr,
                withheld=verdict is not Verdict.OK,
                batch_tokens=_batch_tokens(step),
                seconds=seconds,
                wait=wait,
                flops=flops_per_token(self.config.model, step.phase.seq_len) * _batch_tokens(step),
                strict_flops=strict_flops(self.config.model, _batch_tokens(step), int(pairs)),
                world=self.world.size,
            )

    def _note(self, kind: str, **facts: Any) -> None:
        if self.log is not None:
            self.log.note(kind, **facts)

    # Looking and saving.

    @torch.no_grad()
    def evaluate(self, phase: str) -> dict[str, float]:
        """Bits per byte of the held-out text of each source: nats of its tokens / (ln 2 x bytes that they stand for)."""
        found = {}
        for part in self.corpus.held_out:
            nats, n_bytes, n_tokens = self._evaluate(part)
            found[part.name] = nats / (math.log(2) * max(1.0, n_bytes))
            self._note(
                "eval",
                step=self.state.step,
                phase=phase,
                source=part.name,
                bits_per_byte=found[part.name],
                loss=nats / max(1.0, n_tokens),
                tokens=int(n_tokens),
            )
        self._held = found
        return found

    def _evaluate(self, part: HeldOut) -> tuple[float, float, float]:
        windows = part.windows
        n = min(windows.n_samples, max(1, self.config.log.evaluate_tokens // windows.seq_len))
        at_once = max(1, (self.config.micro_tokens or MICRO_TOKENS) // windows.seq_len)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        mine = range(self.world.data_rank, -(-n // at_once), self.world.data_size)
        for number in range(-(-len(range(0, n, at_once)) // self.world.data_size)):
            # Every rank computes as often as every other: with sharded parameters a forward pass is done together.
            rows = self._rows(part, mine[number], at_once, n) if number < len(mine) else self._rows(part, 0, 1, 1)
            tokens, targets = rows[:, :-1], rows[:, 1:]
            docs = torch.cumsum(tokens == self.plan.eos, 1)
            losses = self.model(tokens, targets, scope(self.backend, docs), each=True)
            if number < len(mine):
                sums[:2] += torch.stack([losses.double().sum(), self._bytes[targets].double().sum()])
                sums[2] += targets.numel()
        sum_over_ranks(sums, self.world)
        nats, n_bytes, n_tokens = sums.tolist()
        return nats, n_bytes, n_tokens

    def _rows(self, part: HeldOut, number: int, at_once: int, n: int) -> Tensor:
        rows = range(number * at_once, min(n, (number + 1) * at_once))
        held = np.empty((len(rows), part.windows.seq_len + 1), np.int64)
        for row, index in enumerate(rows):
            part.windows.read(index, held[row])
        return torch.from_numpy(held).to(self.device)

    def _save(self, asynchronous: bool) -> None:
        if not self.judge.in_a_row and not self.judge.risen:
            self.checkpoints.promote(self.state.step - self.config.checkpoint.healthy)
        self.state.judge = self.judge.state()
        body = {"identity": self.identity, "run": self.state.to_json(), "skipped_steps": self._skipped_steps}
        saved = self.checkpoints.save(
            self.state.step, self.model, self.optimizer, self.watch.state(), body, asynchronous=asynchronous
        )
        self._say(saved)

    def _say(self, saved: Saved | None) -> None:
        """Notes how a save ended. One that failed does not end the run: earlier checkpoints are there."""
        if saved is None:
            return
        facts = {"bytes": saved.bytes, "stall": round(saved.stall, 3), "seconds": round(saved.seconds, 3)}
        if saved.error is not None:
            self._note("event", step=saved.step, what="checkpoint failed", error=str(saved.error))
        else:
            self._note("event", step=saved.step, what="checkpoint", **facts)
        if saved.note:
            self._note("event", step=saved.step, what="old checkpoints stay", why=saved.note)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGUSR1 ask for an end after this step, with everything saved."""
        before = {}

        def ask(number: int, frame: FrameType | None) -> None:
            self._stopping = True

        for number in (signal.SIGTERM, signal.SIGUSR1):
            before[number] = signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _complete(config: Config, corpus: Corpus) -> Config:
    """The config with the size of the vocabulary that the tokenizer has."""
    n = corpus.tokenizer["vocab_size"]
    shape = config.model
    if shape.vocab_size and shape.vocab_size < n:
        raise UsageError(
            f"model.vocab_size is {shape.vocab_size:,}, the data's tokenizer has {n:,} tokens; set 0 to follow it"
        )
    return replace(config, model=replace(shape, vocab_size=shape.vocab_size or padded_vocab(n)))


def _check_batches(phases: list[PlannedPhase], world: int) -> None:
    for phase in phases:
        if phase.batch % world:
            raise UsageError(
                f"phase {phase.name!r} has {phase.batch} samples a batch, which {world} ranks cannot share evenly: make "
                f"data.batch_tokens a multiple of {phase.seq_len * world:,}"
            )


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def _byte_counts(corpus: Corpus, vocab_size: int) -> np.ndarray:
    counts = token_bytes(corpus.tokenizer_file)
    return np.concatenate([counts, np.zeros(max(0, vocab_size - len(counts)), np.int64)])


def _batch_tokens(step: Step) -> int:
    return step.phase.batch * step.phase.seq_len


def _pairs(micro: Micro, backend: str) -> Tensor:
    """Pairs of tokens of which one looks at the other."""
    n_rows, length = micro.docs.shape
    if backend == "causal":
        return torch.tensor(n_rows * length * (length + 1) / 2, dtype=torch.float64, device=micro.docs.device)
    place = torch.arange(length, device=micro.docs.device)
    opens = torch.ones_like(micro.docs, dtype=torch.bool)
    opens[:, 1:] = micro.docs[:, 1:] != micro.docs[:, :-1]
    first = torch.where(opens, place, 0).cummax(1).values
    return (place - first + 1).double().sum()
