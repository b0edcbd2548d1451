"""Pictures of scaling laws: isoFLOP curves with their minima, what grows with the budget, what the law says of each run."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from trainer.scaling import Fit, IsoFlop, PowerLaw
from trainer.scaling_runs import Runs

BEYOND = 100.0
"""Budgets are drawn as far beyond the largest one."""


def plot(folder: Path, runs: Runs, curves: IsoFlop | None, fit: Fit | None) -> list[Path]:
    """Draws scaling.png and scaling.svg into a folder. Returns what was written: nothing without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return []
    parts: list[Any] = []
    if curves is not None:
        parts += [lambda axis: _draw_curves(axis, runs, curves), lambda axis: _draw_growth(axis, curves, fit)]
    if fit is not None:
        parts += [lambda axis: _draw_fit(axis, runs, fit), lambda axis: _draw_frontier(axis, runs, fit)]
    if not parts:
        return []
    figure = Figure(figsize=(11, 4.2 * len(parts) / 2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, part in zip(figure.subplots(len(parts) // 2, 2, squeeze=False).flat, parts, strict=True):
        part(axis)
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=7)
    written = [folder / f"scaling.{kind}" for kind in ("png", "svg")]
    for path in written:
        figure.savefig(path, dpi=150)
    return written


def _colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(1, n - 1)) for i in range(n)]


def _draw_curves(axis: Any, runs: Runs, curves: IsoFlop) -> None:
    members = np.concatenate([one.runs for one in curves.budgets])
    others = np.setdiff1d(np.arange(len(runs)), members)
    axis.plot(runs.n[others], runs.loss[others], ".", color="#bbbbbb", markersize=3)
    for one, colour in zip(curves.budgets, _colours(len(curves.budgets)), strict=True):
        n = np.geomspace(runs.n[one.runs].min(), runs.n[one.runs].max(), 100)
        axis.plot(n, np.polyval(one.c, np.log(n)), color=colour, linewidth=1)
        axis.plot(runs.n[one.runs], runs.loss[one.runs], ".", color=colour, label=f"{one.flops:.2g}")
        axis.plot(one.n, one.loss, "*", color="#D55E00", markersize=9)
    axis.set(xscale="log", xlabel="parameters", ylabel="loss, nats a token", title="isoFLOP: runs by budget, minima")


def _draw_growth(axis: Any, curves: IsoFlop, fit: Fit | None) -> None:
    flops = np.array([one.flops for one in curves.budgets])
    budgets = np.geomspace(flops.min(), flops.max() * BEYOND, 60)
    laws: tuple[tuple[str, str, PowerLaw, list[float]], ...] = (
        ("parameters", "#0072B2", curves.n, [one.n for one in curves.budgets]),
        ("tokens", "#E69F00", curves.d, [one.d for one in curves.budgets]),
    )
    for number, (name, colour, law, minima) in enumerate(laws):
        axis.plot(flops, minima, "o", color=colour, markersize=4)
        axis.plot(budgets, [law.at(c) for c in budgets], color=colour, label=f"{name}: C^{law.exponent:.3f}")
        if len(law.draws):
            low, high = np.array([law.band(c) for c in budgets]).T
            axis.fill_between(budgets, low, high, color=colour, alpha=0.2, linewidth=0)
        if fit is not None:
            axis.plot(
                budgets, [fit.optimum(c)[number] for c in budgets], ":", color=colour, label=f"{name}, by the law"
            )
    axis.set(xscale="log", yscale="log", xlabel="operations", title="best split by budget, 95 % bands")


def _draw_fit(axis: Any, runs: Runs, fit: Fit) -> None:
    said = np.array([fit.law.loss(n, d) for n, d in zip(runs.n, runs.d, strict=True)])
    ends = [min(said.min(), runs.loss.min()), max(said.max(), runs.loss.max())]
    axis.plot(ends, ends, color="#999999", linewidth=0.8)
    shown = axis.scatter(runs.loss, said, c=np.log10(runs.n), cmap="viridis", s=12)
    axis.figure.colorbar(shown, ax=axis, label="log10 of parameters")
    axis.set(xlabel="loss of the run", ylabel="loss by the law", title=f"law and runs, typical error {fit.error:.2%}")


def _draw_frontier(axis: Any, runs: Runs, fit: Fit) -> None:
    budgets = np.geomspace(runs.flops.min(), runs.flops.max() * BEYOND, 60)
    axis.plot(runs.flops, runs.loss, ".", color="#0072B2", label="runs")
    axis.plot(
        budgets, [fit.law.loss(*fit.optimum(c)) for c in budgets], color="#D55E00", label="best split, by the law"
    )
    if len(fit.draws):
        bands = np.array([np.quantile(_least_losses(fit, c), [0.025, 0.975]) for c in budgets])
        axis.fill_between(budgets, *bands.T, color="#D55E00", alpha=0.2, linewidth=0)
    axis.axvline(runs.flops.max(), color="#999999", linewidth=0.8, linestyle="--")
    axis.set(xscale="log", xlabel="operations", ylabel="loss, nats a token", title="least loss by budget, 95 % band")


def _least_losses(fit: Fit, flops: float) -> np.ndarray:
    """Least losses of a budget by each refit (k,)."""
    e, a, b, alpha, beta = fit.draws.T
    log_product = math.log(flops / fit.operations)
    log_n = (np.log(alpha * a / (beta * b)) + beta * log_product) / (alpha + beta)
    return e + a * np.exp(-alpha * log_n) + b * np.exp(-beta * (log_product - log_n))
