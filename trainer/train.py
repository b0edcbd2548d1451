"""Training: build, resume, step, look, save. One loop for a laptop's CPU, one GPU and many."""

import gc
import json
import math
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import StorageError, UsageError
from trainer.attention import choose, scope
from trainer.checkpoint import Checkpoints, Saved
from trainer.checkpoint_files import CheckpointError
from trainer.config import Config
from trainer.data import Corpus, open_corpus
from trainer.evaluation import Evaluation
from trainer.failures import AbortedError, StoppedError, explained
from trainer.guard import Judge, Seen, Verdict, Watch
from trainer.identity import SETTINGS, check_other, check_own, identity, settings
from trainer.late import Late
from trainer.loader import MICRO_TOKENS, Loader, Micro, Step
from trainer.metrics import Log, plot, strict_flops
from trainer.model import Decoder, flops_per_token, padded_vocab
from trainer.optim import Optimizer, factor
from trainer.parallel import World, compiles, gradient_norm, prepare, reduce_gradients, scale_gradients, sum_over_ranks
from trainer.plan import PlannedPhase
from trainer.state import RunState, Skipped
from trainer.tokenizer import token_bytes

TOKENIZER = "tokenizer.json"
RECENT = 64
"""Steps that a diagnosis tells of."""


class Result(NamedTuple):
    """How a run ended. `loss` is that of the last step in nats a token, NaN where it was not finite."""

    step: int
    loss: float
    bits_per_byte: dict[str, float]
    rollbacks: int
    skipped_steps: int


@dataclass(frozen=True)
class Start:
    """Where a run begins that is not its own continuation: the parameters and moments of a checkpoint of another."""

    checkpoint: str


class Taken(NamedTuple):
    """A step that the device computes, or has computed, and that the host has not looked at yet."""

    step: Step
    rate: float
    tokens: int
    """Tokens of the run with it."""
    numbers: Late


class Trainer:
    """A run, ready to go: `Trainer(config, world).run()`."""

    def __init__(self, config: Config, world: World, start: Start | None = None) -> None:
        self.world = world
        self.device = world.device
        self.corpus: Corpus = open_corpus(config)
        self.plan = self.corpus.plan
        self.config = config = _complete(config, self.corpus)
        self.micro_tokens = config.micro_tokens or MICRO_TOKENS
        _check_batches(self.plan.phases, world.data_size)
        dtype = _dtype(config.dtype, self.device)
        self.compiled = compiles(config.parallel, self.device)
        self.backend = choose(self.device, dtype, config.data.document_mask)
        self.folder = Path(config.out)
        self.identity = identity(config, self.corpus, start.checkpoint if start else None)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.checkpoint, world, self.identity)
        with self._explained():
            with torch.device("meta"):
                model = Decoder(config.model, dtype)
            self.model = prepare(model, config.parallel, world)
            self.optimizer = Optimizer(self.model, config.optim)
        self.watch = Watch(config.guard, self.device)
        self.judge = Judge(config.guard, self.plan.steps)
        self.state = RunState()
        self.evaluation = Evaluation(
            world,
            self.backend,
            _byte_counts(self.corpus, config.model.vocab_size),
            self.plan.eos,
            config.log.evaluate_tokens,
            self.micro_tokens,
        )
        self.log: Log | None = None
        self._start = start
        self._held: dict[str, float] = {}
        self._recent: deque[Seen] = deque(maxlen=RECENT)
        self._saved: int | None = None  # step of the newest checkpoint
        self._asked = False  # whether this rank was told to stop
        self._leaving = False  # whether all ranks know that one was

    # What a run does, from the outside in.

    def run(self) -> Result:
        """Trains from where the run is to the end of the plan.

        Raises AbortedError, StoppedError, MemoryFullError, RankLostError, CheckpointError, and what shards raise.
        """
        try:
            with self._explained():
                self._begin()
                with self._signals():
                    self._steps()
            self.checkpoints.close()
        finally:
            self.checkpoints.release()
            gc.unfreeze()
        loss = math.nan if self.state.loss is None else self.state.loss
        self._note("end", step=self.state.step, tokens=self.state.tokens, loss=loss, bits_per_byte=self._held)
        if self.log is not None:
            self.log.close()
        if self.world.rank == 0:
            _draw(self.folder)
        return Result(self.state.step, loss, dict(self._held), len(self.judge.rollbacks), self.state.withheld)

    def _steps(self) -> None:
        # What is there by now stays: a collection that looked at all of it again would stop a step for half a second.
        gc.collect(2)
        gc.freeze()
        # A look that was due may have been cut off.
        if self.state.step > 0 and (self.state.sample == 0 or self._due(self.config.log.evaluate)):
            self._look()
        while self.state.step < self.plan.steps:
            if self._leaving:
                self._stop()
            self._stretch()
        self._say(self.checkpoints.wait())
        if self._saved != self.state.step:
            self._save(asynchronous=False, must=True)

    def _begin(self) -> None:
        """Takes up the run's newest checkpoint, or another run's, or starts afresh."""
        newest = self.checkpoints.latest()
        if newest is not None:
            about = check_own(newest, self.identity, self.config)
            self._load(newest, about["guard_window"] == self.config.guard.window)
        else:
            if self._start is not None:
                check_other(self._start.checkpoint, self.identity)
            self._take_up_start()
        self.checkpoints.hold()
        self.checkpoints.reserve(self.model, self.optimizer, self.watch.state())
        try:
            if self.world.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / SETTINGS).write_text(json.dumps(settings(self.config), indent=1), encoding="utf-8")
                # The model is of no use without it, and the data may go.
                shutil.copyfile(self.corpus.tokenizer_file, self.folder / TOKENIZER)
            self.log = Log(self.folder, self.config.log, self.world.rank)
        except OSError as error:
            raise StorageError(
                f"cannot write to {self.folder}: {error.strerror}; make room, or set another out"
            ) from error
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
        for name in self.corpus.not_held:
            self._note("event", step=self.state.step, what="nothing held out", source=name)

    def _take_up_start(self) -> None:
        """Parameters and moments as they are before the first step."""
        if self._start is not None:
            self.checkpoints.load(self._start.checkpoint, self.model, self.optimizer)
        else:
            self.model.initialise(self.config.seed)
            self.optimizer = Optimizer(self.model, self.config.optim)

    def _load(self, checkpoint: Path, with_watch: bool) -> None:
        extra = self.watch.state() if with_watch else None
        self.state = RunState.of_json(self.checkpoints.load(checkpoint, self.model, self.optimizer, extra))
        self.judge.load(self.state.judge)
        self._saved = self.state.step

    def _stretch(self) -> None:
        """Steps until the plan ends or the run goes back. Raises StoppedError where a rank was told to stop."""
        state, options = self.state, self.config
        loader = Loader(
            self.plan,
            state.step,
            state.sample,
            self.world.data_rank,
            self.world.data_size,
            self.micro_tokens,
            self.device,
            options.data.prefetch,
            state.skipped,
        )
        taken: deque[Taken] = deque()
        pace = _Pace(loader)
        try:
            for step in loader:
                phase = step.phase
                rate = factor(
                    self.corpus.phases[phase.number].lr,
                    step.number - phase.first_step,
                    phase.steps,
                    _batch_tokens(phase),
                )
                numbers = self._learn(step, rate)
                state.step, state.tokens = step.number + 1, state.tokens + _batch_tokens(phase)
                ends = state.step == phase.first_step + phase.steps
                state.sample = 0 if ends else step.first + phase.batch
                taken.append(Taken(step, rate, state.tokens, numbers))
                saves, looks = ends or self._due(options.checkpoint.every), ends or self._due(options.log.evaluate)
                # The device is not waited for: numbers are read a step late, unless something hangs on them now.
                while len(taken) > (0 if saves or looks or self._leaving else 1):
                    if self._settle(taken.popleft(), *pace.lap()):
                        return
                if ends:  # another phase has another level of loss
                    self.watch.clear()
                    self.judge.clear()
                if saves:
                    self._save(asynchronous=options.checkpoint.asynchronous)
                if self._leaving:
                    self._stop()
                if looks:
                    self._look()
                    pace.lap()
                self._say(self.checkpoints.poll())
        finally:
            loader.close()

    def _due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _learn(self, step: Step, rate: float) -> Late:
        """One step of the optimiser. Returns, summed over ranks: mean loss, gradient norm, withheld, whether somebody was
        asked to stop, attended pairs."""
        options = self.config
        expected = float(_batch_tokens(step.phase))
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        for micro in step.micros:
            loss = self.model(
                micro.tokens,
                micro.targets,
                scope(self.backend, micro.docs, micro.n_docs),
                options.optim.z_loss,
                self.compiled,
            )
            (loss.total / expected).backward()
            found = (loss.nll, loss.n, loss.total.detach(), _pairs(micro, self.backend))
            sums[:4] += torch.stack([part.double() for part in found])
        sums[4] = float(self._asked)
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
        return Late(torch.stack([mean, norm, withheld.double(), sums[4], sums[3]]))

    def _settle(self, taken: Taken, seconds: float, wait: float) -> bool:
        """Looks at a step, as all ranks do; True where the run went back because of it. Raises AbortedError."""
        loss, norm, withheld, asked, pairs = taken.numbers.read()
        seen = Seen(taken.step.number, loss, norm, bool(withheld))
        self._recent.append(seen)
        self.state.withheld += seen.withheld
        self.state.loss = loss if math.isfinite(loss) else None
        self._leaving = self._leaving or asked > 0
        verdict = self.judge.judge(seen)
        self._report(taken, seen, verdict, pairs, seconds, wait)
        if verdict in (Verdict.ROLLBACK, Verdict.ABORT):
            self._diagnose(taken.step, verdict)
            if verdict is Verdict.ABORT:
                raise AbortedError(
                    f"gave up at step {seen.step:,} after {len(self.judge.rollbacks) - 1} rollbacks, and the loss still "
                    f"fails; {self.folder / 'diagnosis.json'} says what was seen. Look at the sources named there, lower "
                    "optim.lr, or loosen [guard]"
                )
            self._go_back(taken.step)
            return True
        if not self.judge.in_a_row and not self.judge.risen:
            self.checkpoints.promote(seen.step + 1 - self.config.checkpoint.healthy)
        return False

    def _go_back(self, step: Step) -> None:
        """To the newest good checkpoint, or to the beginning; the samples since then are left out from now on."""
        phase = step.phase
        self._say(self.checkpoints.wait())
        rollbacks, skipped, withheld = self.judge.rollbacks, self.state.skipped, self.state.withheld
        good = self.checkpoints.latest(good=True)
        self.optimizer.zero_grad()
        if good is not None:
            self._load(good, with_watch=False)
        else:
            self.state, self._saved = RunState(), None
            self._take_up_start()
        self.watch.clear()
        self.judge.clear()
        self.judge.rollbacks = rollbacks
        first = self.state.sample if self.plan.phase_of(self.state.step) is phase else 0
        end = step.first + (1 + self.config.guard.margin) * phase.batch
        self.state.skipped, self.state.withheld = [*skipped, Skipped(phase.number, first, end)], withheld
        self.checkpoints.drop_after(self.state.step)
        self._note(
            "event",
            what="rollback",
            step=step.number,
            to=self.state.step,
            left_out={"phase": phase.name, "first": first, "end": end},
        )
        # A run that is killed now must know what it leaves out, and how often it has gone back.
        self._save(asynchronous=False)
        self.checkpoints.promote(self.state.step)

    def _stop(self) -> None:
        """Saves, unless that has been done, and raises StoppedError."""
        self._say(self.checkpoints.wait())
        if self._saved != self.state.step:
            self._save(asynchronous=False)
        self._note("event", what="stopped", step=self.state.step)
        saved = (
            "and saved"
            if self._saved == self.state.step
            else f"but that could not be saved; the newest checkpoint is of step {self._saved or 0:,}"
        )
        raise StoppedError(
            f"stopped at step {self.state.step:,} of {self.plan.steps:,} {saved}; run the same command to go on"
        )

    # Saying what happens.

    def _diagnose(self, step: Step, verdict: Verdict) -> None:
        """What was seen when a step failed, for a person: its samples, the steps before it, the size of each parameter."""
        phase = step.phase
        source, _, sample = self.plan.place(phase, np.arange(step.first, step.first + phase.batch))
        sizes = {}
        for name, parameter in self.model.named_parameters():
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            sizes[name] = float(whole.detach().float().norm())
        if self.world.rank:
            return
        found = {
            "step": step.number,
            "verdict": verdict.value,
            "phase": phase.name,
            "samples": [step.first, step.first + phase.batch],
            "of_sources": {name: sample[source == i].tolist() for i, name in enumerate(phase.sources)},
            "recent": [
                [seen.step, *(x if math.isfinite(x) else None for x in (seen.loss, seen.gradient_norm)), seen.withheld]
                for seen in self._recent
            ],
            "rollbacks": self.judge.rollbacks,
            "parameter_norms": {name: size if math.isfinite(size) else None for name, size in sizes.items()},
        }
        try:
            (self.folder / "diagnosis.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        except OSError as error:
            self._note("event", step=step.number, what="no diagnosis", why=str(error))

    def _report(self, taken: Taken, seen: Seen, verdict: Verdict, pairs: float, seconds: float, wait: float) -> None:
        if verdict is not Verdict.OK:
            self._note("event", what=verdict.value, step=seen.step, loss=seen.loss, gradient_norm=seen.gradient_norm)
        phase, shape = taken.step.phase, self.config.model
        tokens = _batch_tokens(phase)
        if self.log is not None:
            self.log.step(
                step=seen.step,
                steps=self.plan.steps,
                phase=phase.name,
                tokens=taken.tokens,
                loss=seen.loss,
                gradient_norm=seen.gradient_norm,
                lr=taken.rate * self.config.optim.lr,
                withheld=seen.withheld,
                batch_tokens=tokens,
                seconds=seconds,
                wait=wait,
                flops=flops_per_token(shape, phase.seq_len) * tokens,
                strict_flops=strict_flops(shape, tokens, int(pairs)),
                world=self.world.size,
            )

    def _note(self, kind: str, **facts: Any) -> None:
        if self.log is not None:
            self.log.note(kind, **facts)

    def _say(self, saved: Saved | None) -> None:
        """Notes how a save ended. One that failed does not end the run: earlier checkpoints are there."""
        if saved is None:
            return
        if saved.error is not None:
            self._note("event", step=saved.step, what="checkpoint failed", error=str(saved.error))
            return
        self._saved = saved.step
        facts = {"bytes": saved.bytes, "stall": round(saved.stall, 3), "seconds": round(saved.seconds, 3)}
        self._note("event", step=saved.step, what="checkpoint", **facts)
        if saved.note:
            self._note("event", step=saved.step, what="old checkpoints stay", why=saved.note)

    # Looking and saving.

    def evaluate(self) -> dict[str, float] | None:
        """Bits per byte of the held-out text of each source; None where a rank was told to stop meanwhile."""
        phase = self.plan.phase_of(max(0, self.state.step - 1)).name
        found = {}
        for part in self.corpus.held_out:
            known = self.evaluation(self.model, part, self._all_stop)
            if known is None:
                return None
            found[part.name] = known.bits_per_byte
            self._note(
                "eval",
                step=self.state.step,
                phase=phase,
                source=part.name,
                bits_per_byte=known.bits_per_byte,
                loss=known.loss,
                tokens=int(known.n_tokens),
            )
        return found

    def _look(self) -> None:
        found = self.evaluate()
        if found is None:
            self._leaving = True
            self._stop()
        else:
            self._held = found

    def _all_stop(self) -> bool:
        """Whether any rank was told to stop; all must ask together."""
        if self.world.size == 1:
            return self._asked
        asked = torch.full((), float(self._asked), device=self.device)
        return bool(sum_over_ranks(asked, self.world) > 0)

    def _save(self, asynchronous: bool, must: bool = False) -> None:
        """Saves the run as it is. A save that fails is noted, unless it `must` not."""
        self.state.judge = self.judge.state()
        self._say(self.checkpoints.wait())
        try:
            self._say(
                self.checkpoints.save(
                    self.state.step,
                    self.model,
                    self.optimizer,
                    self.watch.state(),
                    self.state.to_json(),
                    asynchronous=asynchronous,
                )
            )
        except CheckpointError as error:
            self._note("event", step=self.state.step, what="checkpoint failed", error=str(error))
            if must:
                raise

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.micro_tokens, self._newest)

    def _newest(self) -> str | None:
        """The newest checkpoint on the disk. A lost rank would be waited for in vain, a disk is not."""
        if self.world.size == 1:
            self._say(self.checkpoints.wait())
        known = self.checkpoints.list()
        return known[-1][1].name if known else None

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 and Ctrl-C ask for an end after this step, with everything saved. Asking again changes nothing,
        but who presses Ctrl-C twice wants to leave now."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._asked = True

        def ask_once(number: int, frame: FrameType | None) -> None:
            self._asked = True
            signal.signal(signal.SIGINT, before[signal.SIGINT])

        asking = {signal.SIGTERM: ask, signal.SIGUSR1: ask, signal.SIGINT: ask_once}
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
            del asking[signal.SIGINT]
        before = {number: signal.getsignal(number) for number in asking}
        for number, handler in asking.items():
            signal.signal(number, handler)
        try:
            yield
        finally:
            for number, earlier in before.items():
                signal.signal(number, earlier)


class _Pace:
    """Seconds since the last lap, and how many of them were spent waiting for data."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._began, self._waited = time.perf_counter(), 0.0

    def lap(self) -> tuple[float, float]:
        now, waited = time.perf_counter(), self.loader.waited
        found = now - self._began, waited - self._waited
        self._began, self._waited = now, waited
        return found


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


def _batch_tokens(phase: PlannedPhase) -> int:
    return phase.batch * phase.seq_len


def _pairs(micro: Micro, backend: str) -> Tensor:
    """Pairs of tokens of which one looks at the other."""
    n_rows, length = micro.docs.shape
    device = micro.docs.device
    if backend == "causal":
        return torch.full((), n_rows * length * (length + 1) / 2, dtype=torch.float64, device=device)
    place = torch.arange(length, device=device)
    opens = torch.ones_like(micro.docs, dtype=torch.bool)
    opens[:, 1:] = micro.docs[:, 1:] != micro.docs[:, :-1]
    first = torch.where(opens, place, 0).cummax(1).values
    return (place - first + 1).double().sum()


def _draw(folder: Path) -> None:
    try:
        plot(folder)
    except OSError as error:
        print(f"no plot: {error}", file=sys.stderr)
