"""What a run says of itself: a JSON line for machines, a line for people, a plot at the end.

`metrics.jsonl` is the truth: one object a line, `kind` is start, step, eval, event or end, `time` seconds since 1970, `step`
the number of a step (from 0), or for other lines how many were taken. A run that is resumed or goes back writes steps
anew: of two lines about one step, the later counts.
"""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from trainer import config
from trainer.model import n_parameters

FILE = "metrics.jsonl"

PEAKS = {
    r"\bGB[23]00\b": 2500.0,
    r"\bB[23]00\b": 2250.0,
    r"\bGH200\b": 989.0,
    r"\bH[12]00 NVL\b": 835.0,
    r"\bH200\b": 989.0,
    r"\bH[18]00 PCIe\b": 756.0,
    r"\bH[18]00\b": 989.0,
    r"\bH20\b": 148.0,
    r"\bA[18]00\b": 312.0,
    r"\bA40\b": 149.7,
    r"\bA30\b": 165.0,
    r"\bA10\b": 125.0,
    r"\bL40S\b": 362.0,
    r"\bL4\b": 121.0,
    r"\bMI300X\b": 1307.0,
    r"\bMI325X\b": 1307.0,
}
"""Dense BF16 TFLOP/s by the name a device gives itself; the first that fits counts. From the makers' data sheets, which
print twice as much for sparse matrices where a card has those."""

REDRAW = 0.2
"""Seconds between two drawings of the line on a terminal."""


def peak(device_name: str) -> float | None:
    """Dense BF16 TFLOP/s of a device, None where it is not known: a share of a guess would be worse than none."""
    return next((value for pattern, value in PEAKS.items() if re.search(pattern, device_name)), None)


def strict_flops(shape: config.Model, tokens: int, pairs: int) -> int:
    """Floating-point operations of training on tokens of which so many pairs meet: `model.flops_per_token` counts all
    seq_len squared pairs, which no causal kernel computes."""
    return 6 * n_parameters(shape)[1] * tokens + 12 * shape.layers * shape.heads * shape.head_dim * pairs


class Log:
    """Writes what happens, on rank 0; elsewhere nothing. Times are those of `clock`, in seconds."""

    def __init__(
        self,
        folder: str | Path,
        options: config.Log,
        rank: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.options = options
        self.folder = Path(folder)
        self.on = rank == 0
        self.stream = stream or sys.stderr
        self.clock = clock
        self.world = 1
        self.peak: float | None = None
        self._planned = 0
        self._file: TextIO | None = None
        self._board: Any = None
        self._drawn = -math.inf
        self._wide = False  # whether a line stands on the terminal that the next may overwrite
        self._failed = False
        self._began = clock()
        self._earlier = 0.0
        self._steady: tuple[float, int] | None = (
            None  # time and tokens after the first step, which compiles and warms up
        )
        self._since = _Since()
        if self.on:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._earlier = _mend(self.folder / FILE)
            if options.tensorboard:
                self._board = self._tensorboard()

    def note(self, kind: str, step: int = 0, **facts: Any) -> None:
        """Anything but a step: `start` (tokens and world of the run, and its device), `eval` (source and bits_per_byte),
        `event` (`what` happened), `end`. Its line says all of `facts`, and people read the gist."""
        if not self.on:
            return
        if kind == "start":
            self._planned, self.world = facts.get("tokens", 0), facts.get("world", 1)
            self.peak = peak(_device_name(facts.get("device", "cpu")))
        if kind == "end":
            facts |= self._spent()
        if facts.get("what") == "rollback":
            self._steady = None
            self._since = _Since()
        self._write(kind, {"step": step, **facts})
        if kind == "eval":
            if self._board is not None:
                self._board.add_scalar(f"bits_per_byte/{facts['source']}", facts["bits_per_byte"], step)
            text = f"held-out {facts['source']}: {facts['bits_per_byte']:.4f} bits per byte"
        elif kind == "event":
            named = [f"{name} {_short(value)}" for name, value in facts.items() if name != "what"]
            text = f"{facts['what']}{': ' if named else ''}{', '.join(named)}"
        elif kind == "end":
            text = f"end after {clock_time(self.seconds)}"
        else:
            text = f"{kind}: {self._planned:,} tokens on {self.world} x {facts.get('device', 'cpu')}"
        self._draw(f"step {step:,} · {text}", keep=True)

    def step(
        self,
        *,
        step: int,
        steps: int,
        phase: str,
        tokens: int,
        loss: float,
        gradient_norm: float,
        lr: float,
        withheld: bool,
        batch_tokens: int,
        seconds: float,
        wait: float,
        flops: float,
        strict_flops: float,
        world: int = 1,
        **facts: Any,
    ) -> None:
        """One step (from 0) of `steps`, of all ranks together: every `log.every` of them, and the first and the last, make
        a line. `tokens` learned from so far, the step's own are `batch_tokens`; `seconds` it took, of which it waited
        `wait` for data; its operations as `model.flops_per_token` and as `strict_flops` count them."""
        if not self.on:
            return
        since, self.world = self._since, world
        since.losses.append(loss)
        since.add(batch_tokens, seconds, wait, flops, strict_flops, withheld)
        due = (step + 1) % self.options.every == 0 or step + 1 == steps or self._steady is None
        if not due and not (self.stream.isatty() and self.clock() - self._drawn > REDRAW):
            return
        finite = [value for value in since.losses if math.isfinite(value)]
        per_second = self.peak * 1e12 * world * since.seconds if self.peak else 0.0
        line = {
            "step": step,
            "phase": phase,
            "tokens": tokens,
            "loss": loss,
            "mean_loss": sum(finite) / len(finite) if finite else None,
            "lr": lr,
            "gradient_norm": gradient_norm,
            "withheld": since.withheld,
            "tokens_per_second": since.tokens / since.seconds if since.seconds else None,
            "mfu": since.flops / per_second if per_second else None,
            "mfu_strict": since.strict / per_second if per_second else None,
            "data_wait": min(1.0, since.wait / since.seconds) if since.seconds else None,
            "seconds_left": self._left(tokens),
            **self._spent(),
            **facts,
        }
        if due:
            self._write("step", line)
            if self._board is not None:
                for name in ("loss", "lr", "gradient_norm", "tokens_per_second", "mfu", "data_wait"):
                    if line[name] is not None:
                        self._board.add_scalar(f"train/{name}", line[name], step)
            if self._steady is None:
                self._steady = (self.clock(), tokens)
            self._since = _Since()
        self._draw(said(line, steps), keep=False)

    @property
    def seconds(self) -> float:
        """Seconds of the run, those before it was resumed included."""
        return self._earlier + self.clock() - self._began

    def close(self) -> None:
        """Closes the files."""
        if self._wide:
            self.stream.write("\n")
            self._wide = False
        for file in (self._file, self._board):
            if file is not None:
                file.close()
        self._file = self._board = None

    def _left(self, tokens: int) -> float | None:
        """Seconds to the end at the pace so far, looks and saves included."""
        if self._steady is None or tokens <= self._steady[1]:
            return None
        pace = (self.clock() - self._steady[0]) / (tokens - self._steady[1])
        return max(0, self._planned - tokens) * pace if self._planned else None

    def _spent(self) -> dict[str, float | None]:
        seconds = self.seconds
        hours = seconds / 3600 * self.world
        return {
            "seconds": seconds,
            "cost": hours * self.options.hour_price if self.options.hour_price else None,
            "kwh": hours * self.options.watts / 1000 if self.options.watts else None,
        }

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        body = {"kind": kind, "time": round(time.time(), 3), **values}
        try:
            if self._file is None:
                self._file = (self.folder / FILE).open("a", encoding="utf-8")
            self._file.write(json.dumps(_plain(body), allow_nan=False) + "\n")
            self._file.flush()
            self._failed = False
        except OSError as error:
            # A run of days must not end because its diary is full; it says so once, and tries again each time.
            if not self._failed:
                self._draw(f"cannot write {self.folder / FILE}: {error.strerror}; training goes on", keep=True)
            self._failed = True
            self._drop()

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:  # what it still held cannot be written either, which has been said
                return

    def _tensorboard(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._draw(f"log.tensorboard is set, but tensorboard is not installed; {FILE} has it all", keep=True)
            return None
        return SummaryWriter(str(self.folder / "tensorboard"))

    def _draw(self, text: str, keep: bool) -> None:
        """A line for people: on a terminal the next one overwrites it unless it is to be kept."""
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{text}" + ("\n" if keep else ""))
            self._wide = not keep
            self._drawn = self.clock()
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


class _Since:
    """Sums since the last line."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.tokens = self.withheld = 0
        self.seconds = self.wait = self.flops = self.strict = 0.0

    def add(self, tokens: int, seconds: float, wait: float, flops: float, strict: float, withheld: bool) -> None:
        self.tokens += tokens
        self.seconds += seconds
        self.wait += wait
        self.flops += flops
        self.strict += strict
        self.withheld += withheld


def said(line: Mapping[str, Any], steps: int) -> str:
    """A step's line as people read it."""
    parts = [f"step {line['step'] + 1:,}/{steps:,}", line["phase"], f"loss {line['loss']:.4f}", f"lr {line['lr']:.2e}"]
    parts.append(f"grad {line['gradient_norm']:.3f}")
    if line["tokens_per_second"] is not None:
        parts.append(f"{_thousands(line['tokens_per_second'])} tok/s")
    if line["mfu"] is not None:
        parts.append(f"MFU {100 * line['mfu']:.1f}%")
    if line["data_wait"] is not None:
        parts.append(f"data wait {100 * line['data_wait']:.1f}%")
    if line["withheld"]:
        parts.append(f"{line['withheld']} left out")
    if line["seconds_left"] is not None:
        parts.append(f"{clock_time(line['seconds_left'])} left")
    if line["cost"] is not None:
        parts.append(f"cost {line['cost']:.2f}")
    return " · ".join(parts)


def clock_time(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 5 h 12 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def read(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run, in the order in which they were written. One that a kill cut short is left out."""
    found = []
    with (Path(folder) / FILE).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def plot(folder: str | Path, stream: TextIO | None = None) -> list[Path]:
    """Draws loss.png and loss.svg: training loss, held-out bits per byte by source, borders of phases, skips and rollbacks,
    over tokens. Returns what was written: nothing, and it says why, without matplotlib or any step."""
    stream = stream or sys.stderr
    lines = read(folder)
    steps = _latest(lines, "step")
    if not steps:
        stream.write(f"nothing to plot: {Path(folder) / FILE} tells of no step\n")
        return []
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        stream.write("no plot: matplotlib is not installed (pip install matplotlib)\n")
        return []
    evals = _latest(lines, "eval")
    unit, name = _unit(max(line["tokens"] for line in steps))

    def at(step: int) -> float:
        """Where a number of steps taken lies on the axis of tokens."""
        taken, tokens = zip(*((line["step"] + 1, line["tokens"]) for line in steps), strict=True)
        return float(np.interp(step, (0, *taken), (0, *tokens))) / unit

    figure = Figure(figsize=(8, 6.4 if evals else 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if evals else 1, 1, sharex=True, squeeze=False)[:, 0]
    _plot_loss(axes[0], steps, unit)
    if evals:
        _plot_evals(axes[1], evals, at)
    marks = [line for line in lines if line["kind"] == "event" and line["what"] in _MARKED]
    for axis in axes:
        _plot_phases(axis, steps, unit, named=axis is axes[0])
        for what, colour in _MARKED.items():
            places = [at(line["step"]) for line in marks if line["what"] == what]
            if places:
                low = [0.02] * len(places)
                axis.plot(places, low, "^", color=colour, transform=axis.get_xaxis_transform(), label=what)
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="upper right")
    axes[-1].set_xlabel(f"tokens{name}")
    written = [Path(folder) / f"loss.{kind}" for kind in ("png", "svg")]
    for path in written:
        figure.savefig(path, dpi=150)
    return written


_MARKED = {"skip": "#999999", "rollback": "#D55E00"}
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
"""Okabe and Ito 2008: colours that people who see few of them can tell apart."""


def _plot_loss(axis: Any, steps: list[dict[str, Any]], unit: float) -> None:
    known = [line for line in steps if line["mean_loss"] is not None]
    at = np.array([line["tokens"] / unit for line in known])
    loss = np.array([line["mean_loss"] for line in known])
    axis.plot(at, loss, color=_COLOURS[0], alpha=0.3, linewidth=0.8)
    wide = max(1, len(loss) // 50)
    padded = np.pad(loss, (wide - 1, 0), mode="edge")
    axis.plot(
        at, np.convolve(padded, np.ones(wide) / wide, "valid"), color=_COLOURS[0], linewidth=1.6, label="training"
    )
    axis.set_ylabel("loss (nats a token)")
    # The first steps are of another size than all that follows.
    if len(loss) > 20:
        late = loss[len(loss) // 20 :]
        room = max(0.05, 0.08 * float(late.max() - late.min()))
        axis.set_ylim(float(late.min()) - room, float(np.quantile(late, 0.999)) + room)


def _plot_evals(axis: Any, evals: list[dict[str, Any]], at: Callable[[int], float]) -> None:
    for i, name in enumerate(dict.fromkeys(line["source"] for line in evals)):
        of_source = [line for line in evals if line["source"] == name and line["bits_per_byte"] is not None]
        x, y = [at(line["step"]) for line in of_source], [line["bits_per_byte"] for line in of_source]
        axis.plot(x, y, "o-", color=_COLOURS[i % len(_COLOURS)], markersize=3, label=name)
    axis.set_ylabel("held-out bits per byte")


def _plot_phases(axis: Any, steps: list[dict[str, Any]], unit: float, named: bool) -> None:
    before = None
    for line in steps:
        if line["phase"] != before:
            at = 0.0 if before is None else line["tokens"] / unit
            if before is not None:
                axis.axvline(at, color="#555555", linestyle=":", linewidth=1)
            if named:
                axis.text(at, 1.01, f" {line['phase']}", transform=axis.get_xaxis_transform(), fontsize=8)
            before = line["phase"]


def _latest(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The lines of a kind, by step, without those that a later start or rollback took back."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for line in lines:
        if line.get("kind") == kind:
            while found and next(reversed(found))[0] > line["step"]:
                found.popitem()
            found[line["step"], line.get("source", "")] = line
    return list(found.values())


def _mend(path: Path) -> float:
    """Ends a line that a kill has cut, so that the next one stands alone; returns the seconds the run has taken so far."""
    try:
        with path.open("rb+") as file:
            if file.seek(0, 2) == 0:
                return 0.0
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return 0.0
    return next((line["seconds"] for line in reversed(read(path.parent)) if line.get("seconds") is not None), 0.0)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _thousands(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 999_500 else f"{value / 1e3:.1f}k" if value >= 1000 else f"{value:.0f}"


def _unit(most: float) -> tuple[float, str]:
    return next(
        ((size, f" ({name})") for size, name in ((1e9, "billions"), (1e6, "millions")) if most >= size), (1.0, "")
    )
