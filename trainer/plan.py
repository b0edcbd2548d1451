"""What is read when: phases and sources to sample index to tokens. A batch is a pure function of (plan, sample index).

So nothing has to be remembered but one integer a phase: world size, prefetching, restarts and rollbacks cannot change the
order of the data. A *sample* is `seq_len` tokens and the one after them. Samples of a phase come in blocks of `BLOCK`; how
many of a block a source gives is settled exactly (whole phases have exactly the shares that were asked for), and inside of
a block their order is a keyed permutation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.errors import UsageError
from trainer.permutation import key_of, permute

BLOCK = 4096
"""Samples within which each source has its share: small enough that no stretch of training lacks one."""

IGNORED = -1
"""Target of a token from which nothing is learned, and the token where a row holds nothing."""

CONTEXT = -2
"""Less a token: a token that opens a document but is no target, since what came before it in its text is elsewhere."""


class PlanError(UsageError):
    """There is too little data for the plan, or it cannot be divided as asked."""


class Stream(Protocol):
    """The samples of one source at one length, in no particular order: `trainer.windows` makes them of token stores."""

    n_samples: int
    n_tokens: int

    def read(self, sample: int, out: np.ndarray) -> None:
        """Writes the sample's tokens into `out`, which holds seq_len + 1 of them: IGNORED where there is none, and those
        that are no targets as CONTEXT less the token."""


class Batch(NamedTuple):
    """Samples as the model takes them: arrays of (samples, seq_len).

    `targets` is what comes after each token, -1 where nothing is to be learned. `docs` numbers the documents of a row
    from 0; a token that ends a text belongs to the text after it, which it opens, so that every target has its context.
    """

    tokens: np.ndarray
    targets: np.ndarray
    docs: np.ndarray
    source: np.ndarray
    """Number of the source of each row, into `PlannedPhase.sources`."""


@dataclass(frozen=True)
class PlannedPhase:
    """One row of the schedule, counted out. `samples` are exact numbers by source; `first` is where a source goes on that
    earlier phases have read from, in samples."""

    name: str
    number: int
    first_step: int
    steps: int
    seq_len: int
    batch: int
    sources: tuple[str, ...]
    samples: tuple[int, ...]
    first: tuple[int, ...]
    streams: tuple[Stream, ...]
    counts: np.ndarray
    """Samples by (block, source) added up over the blocks before, int64; one row more than there are blocks."""

    @property
    def tokens(self) -> int:
        """Tokens that are learned from: targets."""
        return self.steps * self.batch * self.seq_len


class Source(NamedTuple):
    """What a phase asks of a source."""

    name: str
    share: float
    stream: Stream


class Wanted(NamedTuple):
    """A phase as it was asked for."""

    name: str
    tokens: int
    seq_len: int
    batch_tokens: int
    sources: tuple[Source, ...]


class Plan:
    """Phases one after the other, and which tokens each sample of them holds."""

    def __init__(self, wanted: Sequence[Wanted], seed: int, eos: int, max_epochs: float = 4.0) -> None:
        """Counts the phases out. Raises PlanError where one needs more epochs than allowed, or less than a batch."""
        self.seed = seed
        self.eos = eos
        self.phases: list[PlannedPhase] = []
        step = 0
        used: dict[tuple[str, int], int] = {}
        for number, phase in enumerate(wanted):
            planned = _planned(phase, number, step, used)
            self.phases.append(planned)
            step += planned.steps
            for name, stream, n, first in zip(
                planned.sources, planned.streams, planned.samples, planned.first, strict=True
            ):
                used[name, id(stream)] = first + n
                epochs = (first + n) / stream.n_samples
                if epochs > max_epochs + 1e-9:
                    raise PlanError(
                        f"phase {phase.name!r} would read {name} {epochs:.2f} times ({stream.n_tokens:,} tokens are there), "
                        f"and data.max_epochs is {max_epochs:g}: lower its share or the tokens of the phase, add data, "
                        f"or set data.max_epochs={math.ceil(epochs)}"
                    )
        self.steps = step

    @property
    def tokens(self) -> int:
        """Tokens of the whole plan."""
        return sum(phase.tokens for phase in self.phases)

    def phase_of(self, step: int) -> PlannedPhase:
        """The phase that a step (from 0) is in."""
        for phase in self.phases:
            if step < phase.first_step + phase.steps:
                return phase
        raise IndexError(f"step {step} is beyond the plan's {self.steps}")

    def place(self, phase: PlannedPhase, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source number, epoch and sample of that source's stream, for each sample of the phase (int64, from 0).

        Samples beyond those planned exist too: a run that has left bad ones out takes them instead.
        """
        sample = np.asarray(sample, np.int64)
        total = sum(phase.samples)
        n_blocks = len(phase.counts) - 1
        beyond = sample >= total
        block, at = np.divmod(np.where(beyond, sample - total, sample), BLOCK)
        block = np.where(beyond, block + n_blocks, block)
        source = np.empty(sample.shape, np.int64)
        nth = np.empty(sample.shape, np.int64)
        for number in np.unique(block):
            here = block == number
            before, counts = _block(phase, int(number))
            starts = np.concatenate([[0], np.cumsum(counts)])
            key = key_of(self.seed, "block", phase.number, number)
            # Beyond the plan a source is read on from where it stopped, so that little data does not begin anew early.
            asked = np.arange(starts[-1]) if number >= n_blocks else at[here]
            place = permute(asked, int(starts[-1]), key)
            chosen = np.searchsorted(starts, place, side="right") - 1
            inner = place - starts[chosen]
            if number >= n_blocks:
                inner[np.argsort(chosen, kind="stable")] = np.concatenate([np.arange(n) for n in counts])
                chosen, inner = chosen[at[here]], inner[at[here]]
            source[here] = chosen
            nth[here] = before[chosen] + inner
        epoch = np.empty(sample.shape, np.int64)
        inside = np.empty(sample.shape, np.int64)
        for number in np.unique(source):
            here = source == number
            n = phase.streams[number].n_samples
            rounds, ordinal = np.divmod(nth[here] + phase.first[number], n)
            epoch[here] = rounds
            order = np.empty(ordinal.shape, np.int64)
            for turn in np.unique(rounds):
                of_turn = rounds == turn
                key = key_of(self.seed, "order", phase.sources[number], phase.seq_len, turn)
                order[of_turn] = permute(ordinal[of_turn], n, key)
            inside[here] = order
        return source, epoch, inside

    def read(self, phase: PlannedPhase, sample: np.ndarray) -> Batch:
        """The samples' tokens."""
        source, _, inside = self.place(phase, sample)
        held = np.empty((len(source), phase.seq_len + 1), np.int64)
        for row, (number, index) in enumerate(zip(source.tolist(), inside.tolist(), strict=True)):
            phase.streams[number].read(index, held[row])
        return Batch(*split(held, self.eos), source)

    def epochs(self) -> Mapping[str, float]:
        """How often each source will have been read when the plan is done, by name."""
        done: dict[str, float] = {}
        for phase in self.phases:
            for name, n, first, stream in zip(phase.sources, phase.samples, phase.first, phase.streams, strict=True):
                done[name] = max(done.get(name, 0.0), (first + n) / stream.n_samples)
        return done


def split(held: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, targets and docs of a `Batch`, from rows as a `Stream` writes them (samples, seq_len + 1). Uses `held` up."""
    targets = np.maximum(held[:, 1:], IGNORED)
    torn = held < IGNORED
    if torn.any():
        held[torn] = CONTEXT - held[torn]
    tokens = held[:, :-1]
    docs = np.cumsum((tokens == eos) | torn[:, :-1], axis=1, dtype=np.int32)
    return np.maximum(tokens, 0), targets, docs


def largest_remainder(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to weights that sum to `total`; ties go to the first."""
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    counts = [int(value) for value in exact]
    ranked = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for i in ranked[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _planned(phase: Wanted, number: int, first_step: int, used: Mapping[tuple[str, int], int]) -> PlannedPhase:
    batch, rest = divmod(phase.batch_tokens, phase.seq_len)
    if rest or batch < 1:
        raise PlanError(
            f"phase {phase.name!r} has a batch of {phase.batch_tokens:,} tokens and samples of {phase.seq_len:,}: "
            "make data.batch_tokens a multiple of data.seq_len"
        )
    steps = phase.tokens // phase.batch_tokens
    if steps < 1:
        raise PlanError(
            f"phase {phase.name!r} has {phase.tokens:,} tokens, less than one batch of {phase.batch_tokens:,}: "
            "lower data.batch_tokens or give it more tokens"
        )
    sources = [source for source in phase.sources if source.share > 0]
    if not sources:
        raise PlanError(f"phase {phase.name!r} reads nothing: every share of its mix is 0")
    for source in sources:
        if source.stream.n_samples < 1:
            raise PlanError(
                f"source {source.name!r} of phase {phase.name!r} holds {source.stream.n_tokens:,} tokens, less than one "
                f"sample of {phase.seq_len + 1:,}: lower data.seq_len or leave it out"
            )
    samples = largest_remainder(steps * batch, [source.share for source in sources])
    return PlannedPhase(
        name=phase.name,
        number=number,
        first_step=first_step,
        steps=steps,
        seq_len=phase.seq_len,
        batch=batch,
        sources=tuple(source.name for source in sources),
        samples=tuple(samples),
        first=tuple(used.get((source.name, id(source.stream)), 0) for source in sources),
        streams=tuple(source.stream for source in sources),
        counts=_blocks(samples),
    )


def _blocks(samples: Sequence[int]) -> np.ndarray:
    """How many samples each source has given before each block: the shares hold in every block as well as whole numbers
    can, never fall, and end in `samples`."""
    total = sum(samples)
    share = np.array(samples, np.float64) / total
    n_blocks = -(-total // BLOCK)
    sums = np.zeros((n_blocks + 1, len(samples)), np.int64)
    for block in range(n_blocks):
        size = min(BLOCK, total - block * BLOCK)
        last = block + 1 == n_blocks
        want = (np.array(samples) if last else (block * BLOCK + size) * share) - sums[block]
        counts = np.maximum(np.floor(want + 1e-9), 0).astype(np.int64)
        # What rounding left over goes to the largest remainders; what a source had too much of is taken back there, too.
        while (left := size - int(counts.sum())) != 0:
            rank = np.argsort(-(want - counts), kind="stable") if left > 0 else np.argsort(want - counts, kind="stable")
            rank = rank if left > 0 else rank[counts[rank] > 0]
            counts[rank[: abs(left)]] += 1 if left > 0 else -1
        sums[block + 1] = sums[block] + counts
    return sums


def _block(phase: PlannedPhase, block: int) -> tuple[np.ndarray, np.ndarray]:
    """What each source gave before a block, and what it gives in it; beyond the plan the shares go on."""
    n = len(phase.counts) - 1
    if block < n:
        return phase.counts[block], phase.counts[block + 1] - phase.counts[block]
    whole = np.array(largest_remainder(BLOCK, phase.samples))
    return phase.counts[n] + (block - n) * whole, whole
