"""A ladder of small runs for a scaling law: some sizes of model at some budgets of operations, from one base config.

Each run is a config file of its own beside the others, trained by `python -m trainer`, so one that stopped goes on and one
that is done is left as it is.
"""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import yaml

from pipeline.errors import CrawlmillError, InputError, UsageError
from trainer.config import Config, Model, Phase, Ramp
from trainer.model import flops_per_token, n_parameters, padded_vocab
from trainer.quantities import short
from trainer.scaling_runs import METRICS, Run, read_run

ASPECT = 64
"""Width over number of layers: GPT-3's 125M and nanochat have 64, Llama's 8B to 405B have 100 to 130. Losses differ little
between 40 and 200 (Kaplan et al. 2020, figure 5)."""
LARGE_ASPECT, LARGE = 128, 5e9
OFF = 0.25
"""A model may be so much smaller or larger than was asked for; beyond that the size is refused."""
LEAST_STEPS = 20
COMMAND = ("-m", "trainer")
STOPPED = 143
"""Exit code of a run that was asked to stop."""
WARMUP = 0.02
"""Share of a run's tokens."""
END = 0.1
"""Where the rate falls to where the base has no decay of its own: a cosine to a tenth, over the whole run and no longer, as
Hoffmann et al. 2022 found needful (section 3.1)."""


@dataclass(frozen=True)
class Rung:
    """One run of a ladder."""

    name: str
    budget: float
    options: Config
    parameters: int
    tokens: int
    steps: int
    flops: float
    config: Path
    """Where its config file lies."""


@dataclass(frozen=True)
class Base:
    """What the ladder takes from a base config and its data."""

    options: Config
    """With the size of the vocabulary filled in."""
    phases: tuple[Phase, ...]
    """With their tokens filled in."""


def base_of(options: Config) -> Base:
    """Opens the data of a config. Raises what opening raises."""
    from trainer.data import open_corpus

    # Sizes and tokens are counted here; each run looks at its data for itself.
    corpus = open_corpus(replace(options, data=replace(options.data, verify=False, max_epochs=math.inf)))
    vocab = options.model.vocab_size or padded_vocab(corpus.tokenizer["vocab_size"])
    mixes = {phase.name: phase.mix for phase in options.phase}
    phases = tuple(
        replace(wanted, tokens=planned.tokens, mix=mixes.get(wanted.name, {}))
        for wanted, planned in zip(corpus.phases, corpus.plan.phases, strict=True)
    )
    return Base(replace(options, model=replace(options.model, vocab_size=vocab)), phases)


def shape_of(parameters: float, like: Model, aspect: float | None = None) -> Model:
    """The shape nearest to a number of parameters, embedding and all, with heads and ratios as in `like`. Width is a multiple
    of the width of a head, about `aspect` times the layers. Raises UsageError where none is near."""
    wanted = aspect or (LARGE_ASPECT if parameters >= LARGE else ASPECT)
    group = max(1, like.heads // like.kv_heads)
    found: list[tuple[float, Model]] = []
    nearest = like, math.inf
    # A head of the base may be wider than a whole small model.
    for head_dim in {like.head_dim} | {size for size in (128, 64, 32, 16) if size < like.head_dim}:
        unit = head_dim * group if group > 1 else head_dim
        for width in range(unit, 65_536 + 1, unit):
            shape = replace(like, width=width, head_dim=head_dim, heads=width // head_dim, ffn=0, layers=1)
            shape = replace(shape, kv_heads=shape.heads // group)
            if like.ffn:
                shape = replace(shape, ffn=max(8, round(like.ffn / like.width * width / 8) * 8))
            one, two = (n_parameters(replace(shape, layers=layers))[0] for layers in (1, 2))
            layers = max(1, round((parameters - 2 * one + two) / (two - one)))
            n = one + (layers - 1) * (two - one)
            off = abs(math.log(n / parameters))
            if off < nearest[1]:
                nearest = replace(shape, layers=layers), off
            if one > parameters * (1 + OFF):
                break
            if off > math.log(1 + OFF):
                continue
            # Near the size first, near the aspect next, with the base's heads if they do.
            cost = off + 0.1 * math.log(width / layers / wanted) ** 2 + 0.02 * math.log2(like.head_dim / head_dim)
            found.append((cost, replace(shape, layers=layers)))
    if not found:
        shape = nearest[0]
        n = n_parameters(shape)[0]
        raise UsageError(
            f"no model of this base has about {short(parameters)} parameters: the nearest has {short(n)}, of which "
            f"a vocabulary of {shape.vocab_size:,} takes {short(shape.vocab_size * shape.width)}"
        )
    return min(found, key=lambda pair: (pair[0], pair[1].width))[1]


def plan(
    base: Base, sizes: Sequence[float], budgets: Sequence[float], folder: Path, warmup: float = WARMUP
) -> list[Rung]:
    """The runs of a ladder, budget by budget. Raises UsageError where a run has too few steps to mean anything."""
    shapes = [shape_of(size, base.options.model) for size in sorted(set(sizes))]
    if len({n_parameters(shape)[0] for shape in shapes}) < len(shapes):
        raise UsageError("two of the sizes give the same model; take sizes that are further apart")
    rungs = []
    for budget in sorted(set(budgets)):
        for shape in shapes:
            rungs.append(_rung(base, shape, budget, folder, warmup))
    return rungs


def _rung(base: Base, shape: Model, budget: float, folder: Path, warmup: float) -> Rung:
    options = base.options
    whole = sum(phase.tokens or 0 for phase in base.phases)
    lengths = [phase.seq_len or options.data.seq_len for phase in base.phases]
    batches = [phase.batch_tokens or options.data.batch_tokens for phase in base.phases]
    shares = [(phase.tokens or 0) / whole for phase in base.phases]
    each = sum(share * flops_per_token(shape, length) for share, length in zip(shares, lengths, strict=True))
    steps = [round(budget / each * share / batch) for share, batch in zip(shares, batches, strict=True)]
    n = n_parameters(shape)[0]
    if sum(steps) < LEAST_STEPS or min(steps) < 1:
        raise UsageError(
            f"a budget of {budget:.3g} operations gives {short(n)} parameters {short(budget / each)} tokens, which are "
            f"{sum(steps)} steps of {batches[0]:,} tokens, and {LEAST_STEPS} are the least: take a larger budget, smaller "
            "models or a smaller data.batch_tokens"
        )
    tokens = [count * batch for count, batch in zip(steps, batches, strict=True)]
    rises = int(warmup * sum(tokens))
    decays = any(phase.lr.end < phase.lr.start for phase in base.phases)
    phases = []
    for number, (phase, count) in enumerate(zip(base.phases, tokens, strict=True)):
        ramp = replace(phase.lr, warmup=rises if number == 0 else 0)
        if not decays and len(base.phases) == 1:
            ramp = Ramp(1.0, END, "cosine", rises)
        phases.append(replace(phase, tokens=count, lr=ramp))
    name = f"{budget:.3g}-{short(n)}".replace("+", "")
    # In inverse proportion to the width: Yang et al. 2022 (arXiv:2203.03466), and about GPT-3's slope over its sizes.
    rate = float(f"{options.optim.lr * options.model.width / shape.width:.3g}")
    changed = replace(
        options,
        name=name,
        out=str(folder / "runs" / name),
        model=shape,
        optim=replace(options.optim, lr=rate),
        phase=tuple(phases),
    )
    flops = float(sum(c * flops_per_token(shape, length) for c, length in zip(tokens, lengths, strict=True)))
    return Rung(name, budget, changed, n, sum(tokens), sum(steps), flops, folder / "configs" / f"{name}.yaml")


def check(rungs: Sequence[Rung]) -> None:
    """Opens the data as the longest run will read them. Raises what opening raises, where they are too few for it."""
    from trainer.data import open_corpus

    longest = max(rungs, key=lambda rung: rung.tokens)
    options = longest.options
    try:
        open_corpus(replace(options, data=replace(options.data, verify=False)))
    except CrawlmillError as error:
        raise type(error)(f"{longest.name}, which reads the most: {error}") from error


def write(rungs: Sequence[Rung]) -> None:
    """Writes the config files. Raises UsageError where the folder holds another ladder's config of the same name."""
    bodies = {rung.config: yaml.safe_dump(_body(rung.options), sort_keys=False) for rung in rungs}
    for path, body in bodies.items():
        if path.is_file() and path.read_text(encoding="utf-8") != body:
            raise UsageError(f"{path} is of another ladder (another base, or other options): name another --output")
    for path, body in bodies.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _body(options: Config) -> dict[str, Any]:
    """What a config file says: all that differs from the defaults, with paths that hold from anywhere."""
    body = _changed(options, Config())
    body["out"] = str(Path(options.out).resolve())
    data = body["data"]
    if options.data.path:
        data["path"] = str(Path(options.data.path).resolve())
    for key in ("sources", "held_out"):
        if data.get(key):
            data[key] = {name: str(Path(path).resolve()) for name, path in data[key].items()}
    body["phase"] = [_changed(phase, Phase(phase.name)) | {"name": phase.name} for phase in options.phase]
    return body


def _changed(value: Any, default: Any) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        mine, usual = getattr(value, field.name), getattr(default, field.name)
        if mine == usual or field.name == "phase":
            continue
        if dataclasses.is_dataclass(mine):
            body[field.name] = _changed(mine, usual)
        else:
            body[field.name] = list(mine) if isinstance(mine, tuple) else mine
    return body


Runner = Callable[[Rung], None]


def train(rungs: Sequence[Rung], run: Runner, say: Callable[[str], None] = print) -> None:
    """Trains the runs one after the other; those that are done are left alone. Raises what the runner raises."""
    for number, rung in enumerate(rungs, 1):
        head = f"{number} of {len(rungs)}: {rung.name}"
        found = done(rung)
        if found is None:
            say(f"{head}: {short(rung.tokens)} tokens in {rung.steps:,} steps")
            run(rung)
            found = done(rung)
            if found is None:
                raise InputError(f"{rung.name}: was trained, but {rung.options.out} has no loss at its end")
            say(f"{head}: loss {found.loss:.4f}")
        else:
            say(f"{head}: done before, loss {found.loss:.4f}")


def done(rung: Rung) -> Run | None:
    """The run of a rung if it came to its end."""
    folder = Path(rung.options.out)
    if not (folder / METRICS).is_file() or not (folder / "config.json").is_file():
        return None
    found = read_run(folder)
    return found if isinstance(found, Run) else _trained(folder)


def _trained(folder: Path) -> Run | None:
    found = read_run(folder, "train")
    return found if isinstance(found, Run) else None


def runner(gpus: int = 1) -> Runner:
    """Trains a rung in a process of its own, on so many GPUs of this machine; what it says goes to log.txt of the run."""

    def run(rung: Rung) -> None:
        many = ("-m", "torch.distributed.run", "--nproc-per-node", str(gpus)) if gpus > 1 else ()
        command = [sys.executable, *many, *COMMAND]
        folder = Path(rung.options.out)
        folder.mkdir(parents=True, exist_ok=True)
        here = str(Path(__file__).resolve().parent.parent)
        paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        log = folder / "log.txt"
        with log.open("a", encoding="utf-8") as file:
            code = _supervised(
                [*command, "--config", str(rung.config)], file, os.environ | {"PYTHONPATH": paths}
            )  # fmt: skip
        if code:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")
            error = CrawlmillError(
                f"{rung.name} stopped and saved; run the same command again to go on"
                if code == STOPPED
                else f"{rung.name} ended with {code}: {said.removeprefix('error: ')}; all of it is in {log}"
            )
            error.exit_code = code if code > 0 else 1
            raise error

    return run


def _supervised(command: Sequence[str], output: TextIO, environment: Mapping[str, str]) -> int:
    """Runs a command to its end and returns its exit code. Who stops this process stops that one, which saves first."""
    children: list[subprocess.Popen[bytes]] = []
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for child in children:
            child.terminate()

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # In a session of its own, so that Ctrl-C reaches it once, as the signal that it saves on.
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
        children.append(child)
        if asked:
            child.terminate()
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
