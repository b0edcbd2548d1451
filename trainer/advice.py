"""What to train next: whether more compute is better spent on tokens or on parameters, in a sentence with its figures."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError, UsageError
from pipeline.yaml_files import nearest, read_yaml
from trainer.quantities import short
from trainer.scaling import BEYOND, Fit, Interval, Law
from trainer.scaling_runs import OPERATIONS, PUBLIC

MORE = 1.1
"""What is weighed is a tenth more compute."""
EVEN = 1.1
"""Gains of which one is no more than this many times the other are called even."""


@dataclass(frozen=True)
class Advice:
    """Where the next tenth of compute goes. Losses in nats a token; `ratio` is the gain of tokens over that of parameters."""

    n: float
    d: float
    flops: float
    loss: float
    by_parameters: float
    """Loss that a tenth more parameters take off."""
    by_tokens: float
    ratio: float
    interval: Interval | None
    optimum: tuple[float, float, float]
    """Parameters, tokens and loss of the best split of the same operations."""
    beyond: str
    """Where the runs of the fit are too far away to trust it; empty where they are not."""

    @property
    def per_flop(self) -> tuple[float, float]:
        """Loss that one more operation takes off, by parameters and by tokens."""
        more = (MORE - 1) * self.flops
        return self.by_parameters / more, self.by_tokens / more

    def said(self) -> str:
        """The answer in a few sentences."""
        what = "data" if self.ratio > 1 else "parameters"
        if self.interval is not None and self.interval[0] <= 1 <= self.interval[1]:
            head = f"Spend on either (a little rather on {what}; these runs cannot tell)"
        elif 1 / EVEN <= self.ratio <= EVEN:
            head = "Spend on both alike"
        else:
            head = f"Spend on {what}"
        times = max(self.ratio, 1 / self.ratio)
        as_much = f"{times:.2g} times as much" if times > 1.05 else "about as much"
        more, less = ("tokens", "parameters") if self.ratio > 1 else ("parameters", "tokens")
        gain, other = max(self.by_tokens, self.by_parameters), min(self.by_tokens, self.by_parameters)
        span = ""
        if self.interval is not None:
            low, high = self.interval if self.ratio > 1 else (1 / self.interval[1], 1 / self.interval[0])
            span = f", {low:.2g} to {high:.2g} by the fit's interval"
        n, d, loss = self.optimum
        return (
            f"{head}: at {short(self.n)} parameters and {short(self.d)} tokens a tenth more compute takes {gain:.4f} nats "
            f"off the loss if it buys {more}, and {other:.4f} if it buys {less} ({as_much}{span}). "
            f"Best for these {self.flops:.3g} operations would be {short(n)} parameters and {short(d)} tokens "
            f"({d / n:.3g} a parameter; you have {self.d / self.n:.3g}), with a loss {self.loss - loss:.4f} lower."
            + (f" {self.beyond}" if self.beyond else "")
        )


def advise(fit: Fit | Law, n: float, d: float) -> Advice:
    """Weighs tokens against parameters for a model of n parameters after d tokens."""
    law = fit.law if isinstance(fit, Fit) else fit
    operations = fit.operations if isinstance(fit, Fit) else OPERATIONS
    flops = operations * n * d
    loss = law.loss(n, d)
    by_n, by_d = loss - law.loss(MORE * n, d), loss - law.loss(n, MORE * d)
    best = law.optimum(flops, operations)
    interval, beyond = None, ""
    if isinstance(fit, Fit):
        if len(fit.draws):
            _, a, b, alpha, beta = fit.draws.T
            gain_n = a * n**-alpha * (1 - MORE**-alpha)
            gain_d = b * d**-beta * (1 - MORE**-beta)
            low, high = np.quantile(np.log(gain_d / gain_n), [0.025, 0.975])
            interval = (math.exp(low), math.exp(high))
        beyond = _beyond(fit, n, d)
    return Advice(n, d, flops, loss, by_n, by_d, by_d / by_n, interval, (*best, law.loss(*best)), beyond)


def _beyond(fit: Fit, n: float, d: float) -> str:
    far = [
        f"{max(value / high, low / value):.3g} times {'more' if value > high else 'fewer'} {what}"
        for what, value, (low, high) in (("parameters", n, fit.n), ("tokens", d, fit.d))
        if value > BEYOND * high or value < low / BEYOND
    ]
    return f"But that is {' and '.join(far)} than in any run of the fit: take it as a guess." if far else ""


def body(fit: Fit) -> dict[str, Any]:
    """A fit as JSON has it."""
    draws = [[float(f"{x:.6g}") for x in row] for row in fit.draws.tolist()]
    return {**asdict(fit), "law": fit.law._asdict(), "draws": draws}


def load(path: Path) -> Fit:
    """The law of a fit.json, or of the folder of one. Raises InputError."""
    if path.is_dir():
        path = path / "fit.json"
    try:
        said = json.loads(path.read_bytes())["parametric"]
        if said is None:
            raise InputError(f"{path}: the runs of this fit were too few for the parametric law")
        return Fit(
            Law(**said["law"]),
            {name: (low, high) for name, (low, high) in said["intervals"].items()},
            np.array(said["draws"], np.float64).reshape(-1, len(Law._fields)),
            tuple(said["warnings"]),
            said["error"],
            said["operations"],
            (said["n"][0], said["n"][1]),
            (said["d"][0], said["d"][1]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as a fit of crawlmill scaling fit: {error!r}") from error


def published(name: str) -> Law:
    """A law that was published, by its name in trainer/public/laws.yaml. Raises UsageError."""
    body = read_yaml(PUBLIC / "laws.yaml", "laws").body
    if name not in body:
        raise UsageError(f"no law is named {name!r}{nearest(name, body)}; there are {', '.join(body)}")
    return Law(*(float(body[name][constant]) for constant in Law._fields))
