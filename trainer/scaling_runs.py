"""Runs as a scaling law sees them: parameters, tokens, operations and the loss they ended with.

They come from run folders of the trainer, from CSV files, or from the tables of published runs in trainer/public.
"""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.errors import InputError, UsageError
from trainer.quantities import quantity

PUBLIC = Path(__file__).parent / "public"
OPERATIONS = 6.0
"""Operations on a token for a parameter, forward and backward, attention left out (Kaplan et al. 2020, arXiv:2001.08361)."""

METRICS = "metrics.jsonl"
Which = Literal["held-out", "train"]


class Run(NamedTuple):
    """One training run that came to its end. `loss` in nats a token."""

    name: str
    n: float
    d: float
    loss: float
    flops: float


@dataclass(frozen=True)
class Runs:
    """Runs, one number of each array a run (all float64)."""

    names: tuple[str, ...]
    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray
    flops: np.ndarray

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "Runs":
        """From single runs, in their order."""
        rows = list(runs)
        columns = np.array([row[1:] for row in rows], np.float64).reshape(-1, 4).T
        return cls(tuple(row.name for row in rows), *columns)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, which: np.ndarray) -> "Runs":
        """The runs at some places."""
        names = tuple(self.names[i] for i in np.arange(len(self))[which])
        return Runs(names, self.n[which], self.d[which], self.loss[which], self.flops[which])

    @property
    def operations(self) -> float:
        """Operations a parameter and token, the median over the runs: 6, or more where attention and small widths count."""
        return float(np.median(self.flops / (self.n * self.d)))


class Found(NamedTuple):
    """What was read, and what was not with the reason."""

    runs: Runs
    left_out: tuple[str, ...]


def collect(inputs: Sequence[str], loss: Which = "held-out") -> Found:
    """Reads run folders, folders that hold such (two levels deep), CSV files and names of public tables. Raises UsageError
    where one is neither, InputError where one is damaged."""
    found: list[Run] = []
    left_out: list[str] = []
    for given in inputs:
        path = Path(given)
        if path.is_file():
            found += read_table(path)
        elif path.is_dir():
            folders = [path] if (path / METRICS).is_file() else sorted(
                file.parent for pattern in (f"*/{METRICS}", f"*/*/{METRICS}") for file in path.glob(pattern)
            )  # fmt: skip
            if not folders:
                raise UsageError(f"{given}: no run of the trainer is in there (no {METRICS})")
            for folder in folders:
                run = read_run(folder, loss)
                if isinstance(run, str):
                    left_out.append(run)
                else:
                    found.append(run)
        elif (PUBLIC / f"{given}.csv").is_file():
            found += read_table(PUBLIC / f"{given}.csv")
        else:
            known = ", ".join(sorted(file.stem for file in PUBLIC.glob("*.csv")))
            raise UsageError(f"{given}: neither a run folder, nor a CSV file, nor a public table ({known})")
    return Found(Runs.of(found), tuple(left_out))


def read_table(path: Path) -> list[Run]:
    """Runs of a CSV file with the columns n_parameters, loss, and tokens or flops or both; `name` may be there, lines that
    begin with # are comments. What of tokens and flops is missing follows from flops = 6 n tokens. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    rows = csv.DictReader([line for _, line in lines])
    columns = [name.strip() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    missing = [name for name in ("n_parameters", "loss") if name not in columns]
    if missing or not {"tokens", "flops"} & set(columns):
        what = ", ".join(missing) or "tokens (or flops)"
        raise InputError(
            f"{path}: the column {what} is missing; there must be n_parameters, tokens, loss, and maybe flops"
        )
    found = []
    for row, (number, _) in zip(rows, lines[1:], strict=True):

        def value(name: str, row: dict[str, Any] = row, number: int = number) -> float | None:
            said = (row.get(name) or "").strip()
            try:
                return quantity(said, name) if said else None
            except UsageError as error:
                raise InputError(f"{path}, line {number}: {error}") from None

        n, loss, tokens, flops = (value(name) for name in ("n_parameters", "loss", "tokens", "flops"))
        if n is None or loss is None or (tokens is None and flops is None):
            raise InputError(f"{path}, line {number}: n_parameters, loss, and tokens or flops must be given")
        d = tokens if tokens is not None else (flops or 0.0) / (OPERATIONS * n)
        name = (row.get("name") or "").strip() or f"{path.stem}, line {number}"
        found.append(Run(name, n, d, loss, flops if flops is not None else OPERATIONS * n * d))
    return found


def read_run(folder: Path, loss: Which = "held-out") -> Run | str:
    """A run of the trainer: its parameters and tokens, its operations with attention, and its last loss on held-out text
    (over all sources, by tokens) or on training text (mean over the last tenth of its lines). A run that is not done, or
    has not that loss, is a sentence that says so. Raises InputError where its files cannot be read."""
    from trainer import metrics
    from trainer.config import Model
    from trainer.model import flops_per_token, n_parameters

    try:
        lines = metrics.read(folder)
        config = json.loads((folder / "config.json").read_bytes())
        shape = Model(**config["model"])
        lengths = {phase["name"]: phase["seq_len"] for phase in config["phase"]}
        batches = {phase["name"]: phase["batch_tokens"] for phase in config["phase"]}
        data = config["data"]
        starts = [line for line in lines if line["kind"] == "start"]
        ends = [line for line in lines if line["kind"] == "end"]
        if not starts:
            return f"{folder}: has not begun"
        steps = [line for line in lines if line["kind"] == "step"]
        if not ends or lines.index(ends[-1]) < lines.index(starts[-1]):
            at = steps[-1]["step"] + 1 if steps else 0
            return f"{folder}: not done yet (step {at:,} of {starts[-1]['steps']:,})"
        d = flops = 0.0
        for phase in starts[-1]["phases"]:
            tokens = phase["steps"] * (batches.get(phase["name"]) or data["batch_tokens"])
            d += tokens
            flops += tokens * flops_per_token(shape, lengths.get(phase["name"]) or data["seq_len"])
        last = _held_out(lines, ends[-1]["step"]) if loss == "held-out" else _trained(steps)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: cannot be read as a run of the trainer: {error}") from error
    if last is None or not math.isfinite(last):
        other = "; take --loss train" if loss == "held-out" else ""
        return f"{folder}: has no {loss} loss at its end{other}"
    return Run(folder.name, float(n_parameters(shape)[0]), d, last, flops)


def _held_out(lines: list[dict[str, Any]], end: int) -> float | None:
    of_source = {line["source"]: line for line in lines if line["kind"] == "eval" and line["step"] == end}
    known = [line for line in of_source.values() if line.get("loss") is not None and line.get("tokens")]
    total = sum(line["tokens"] for line in known)
    return sum(line["loss"] * line["tokens"] for line in known) / total if total else None


def _trained(steps: list[dict[str, Any]]) -> float | None:
    latest = {line["step"]: line.get("mean_loss") for line in steps}
    said = [latest[step] for step in sorted(latest)]
    tail = [value for value in said[-max(1, len(said) // 10) :] if value is not None]
    return sum(tail) / len(tail) if tail else None
