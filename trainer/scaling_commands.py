"""`crawlmill scaling …` and `crawlmill budget`: what runs say of larger ones, and what those would take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import UsageError
from trainer.quantities import quantity, short

if TYPE_CHECKING:
    from trainer.scaling import Fit, IsoFlop
    from trainer.scaling_runs import Found, Which

scaling_app = typer.Typer(
    help="Scaling laws from your own runs: fit them, run a ladder of small ones, ask what to train next.",
    no_args_is_help=True,
)
out = Console()
err = Console(stderr=True)

_Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Run folders of the trainer, folders of them, CSV files (n_parameters, tokens, loss, flops), or a public table: "
        "chinchilla, cs336.",
        show_default=False,
    ),
]
_Loss = Annotated[str, typer.Option(help="held-out or train: which loss of a run folder.")]
_Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="FLOPS", help="Operations to predict for, such as 1e21; may be repeated."),
]
_Draws = Annotated[int, typer.Option(help="Refits, for the intervals.", min=20)]
_Seed = Annotated[int, typer.Option(help="Of the refits.")]


@scaling_app.command(epilog="Example: crawlmill scaling fit runs/ladder --output runs/ladder/fit")
def fit(
    inputs: _Inputs,
    output: Annotated[Path | None, typer.Option(help="Folder for fit.json and the pictures.")] = None,
    budgets: _Budgets = None,
    loss: _Loss = "held-out",
    within: Annotated[
        float, typer.Option(help="Runs whose operations differ by up to this share are of one budget.", min=0, max=1)
    ] = 0.1,
    draws: _Draws = 200,
    seed: _Seed = 0,
) -> None:
    """Fit isoFLOP parabolas and power laws, and the law L = E + A / N^alpha + B / D^beta, with 95 % intervals."""
    found = _collect(inputs, loss)
    wanted = [quantity(text, "--budget") for text in budgets or ()]
    curves, law = _fits(found, within, draws, seed)
    _show(found, curves, law, wanted)
    if output is not None:
        _write(output, found, curves, law)


@scaling_app.command(epilog="Example: crawlmill scaling advise --parameters 7B --tokens 140B --law besiroglu2024")
def advise(
    parameters: Annotated[str, typer.Option(help="Parameters of your model, such as 1.3B.", show_default=False)],
    tokens: Annotated[str, typer.Option(help="Tokens it has learned from, such as 26B.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="What to fit the law to: as for crawlmill scaling fit.", show_default=False),
    ] = None,
    fitted: Annotated[
        Path | None, typer.Option("--fit", help="A fit.json, or its folder, of crawlmill scaling fit, instead.")
    ] = None,
    law: Annotated[
        str | None, typer.Option(help="A published law instead: besiroglu2024 (Chinchilla done again) or hoffmann2022.")
    ] = None,
    loss: _Loss = "held-out",
    draws: _Draws = 200,
    seed: _Seed = 0,
) -> None:
    """Say whether the next compute is better spent on data or on parameters."""
    from trainer import advice

    if sum((bool(inputs), fitted is not None, law is not None)) != 1:
        raise UsageError("name one of: runs or a CSV to fit, --fit FOLDER of a fit made before, --law besiroglu2024")
    n, d = quantity(parameters, "--parameters"), quantity(tokens, "--tokens")
    source: Any
    if law is not None:
        source = advice.published(law)
    elif fitted is not None:
        source = advice.load(fitted)
    else:
        from trainer.scaling import fit as fit_law

        source = fit_law(_collect(inputs or [], loss).runs, draws, seed)
    answer = advice.advise(source, n, d)
    out.print(escape(answer.said()), highlight=False)
    by_n, by_d = answer.per_flop
    out.print(
        f"For each further operation: {by_d:.3g} nats by tokens, {by_n:.3g} by parameters; by the law the loss is now "
        f"{answer.loss:.4f}.",
        highlight=False,
        style="dim",
    )
    _warn(getattr(source, "warnings", ()))


@scaling_app.command(
    epilog="Example: crawlmill scaling ladder train.toml --sizes 20M,50M,120M --budgets 1e17,3e17 -o ladder"
)
def ladder(
    config: Annotated[Path, typer.Argument(help="Config to start from: its data, phases, batch and rate.")],
    sizes: Annotated[
        str, typer.Option(help="Parameters, embedding and all, such as 20M,50M,120M.", show_default=False)
    ],
    budgets: Annotated[str, typer.Option(help="Operations of a run, such as 1e17,3e17.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for configs, runs and the fit.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the config; may be repeated.")
    ] = None,
    warmup: Annotated[
        float, typer.Option(help="Share of the tokens over which the rate rises.", min=0, max=0.5)
    ] = 0.02,
    gpus: Annotated[int, typer.Option(help="GPUs of this machine to train each run on.", min=1)] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the configs and show the plan; train nothing.")
    ] = False,
    draws: _Draws = 200,
    seed: _Seed = 0,
) -> None:
    """Train a sweep of small models, sizes by budgets, one after the other, and fit the laws to them. Run the same command
    again to go on after a stop."""
    from trainer import ladder as rungs_of
    from trainer.config import load

    base = rungs_of.base_of(load(config, changes or ()))
    rungs = rungs_of.plan(base, _list(sizes, "--sizes"), _list(budgets, "--budgets"), output, warmup)
    rungs_of.check(rungs)
    rungs_of.write(rungs)
    table = _table(
        "the ladder", "run", "layers", "width", "parameters", "tokens", "a parameter", "steps", "rate", "operations"
    )
    for rung in rungs:
        shape = rung.options.model
        table.add_row(
            rung.name, f"{shape.layers}", f"{shape.width}", short(rung.parameters), short(rung.tokens),
            f"{rung.tokens / rung.parameters:.3g}", f"{rung.steps:,}", f"{rung.options.optim.lr:g}", f"{rung.flops:.3g}",
        )  # fmt: skip
    out.print(table)
    out.print(f"configs in {escape(str(output / 'configs'))}", highlight=False)
    if dry_run:
        return
    rungs_of.train(rungs, rungs_of.runner(gpus), lambda text: out.print(escape(text), highlight=False))
    found = _collect([rung.options.out for rung in rungs], "held-out")
    if not len(found.runs):
        found = _collect([rung.options.out for rung in rungs], "train")
    curves, law = _fits(found, 0.1, draws, seed)
    _show(found, curves, law, [])
    _write(output / "fit", found, curves, law)


def _list(text: str, name: str) -> list[float]:
    return [quantity(part, name) for part in text.split(",") if part.strip()] or [quantity("", name)]


def _collect(inputs: list[str], loss: str) -> "Found":
    from trainer.scaling_runs import collect

    if loss not in ("held-out", "train"):
        raise UsageError(f"--loss {loss}: held-out or train")
    which: Which = "held-out" if loss == "held-out" else "train"
    found = collect(inputs, which)
    for left in found.left_out:
        err.print(f"left out: {escape(left)}", highlight=False)
    if not len(found.runs):
        raise UsageError("there is no run to fit that came to its end")
    return found


def _fits(found: "Found", within: float, draws: int, seed: int) -> "tuple[IsoFlop | None, Fit | None]":
    """Both ways, or that one of them which the runs suffice for; the other says what it lacks. Raises TooLittleError where
    they suffice for neither."""
    from trainer.scaling import TooLittleError, isoflop
    from trainer.scaling import fit as fit_law

    curves: IsoFlop | None = None
    law: Fit | None = None
    refused = []
    try:
        curves = isoflop(found.runs, draws=5 * draws, seed=seed, within=within)
    except TooLittleError as error:
        refused.append(error)
    try:
        law = fit_law(found.runs, draws=draws, seed=seed)
    except TooLittleError as error:
        refused.append(error)
    if len(refused) == 2:
        raise TooLittleError(f"{refused[1]}. {refused[0]}")
    for lack in refused:
        err.print(f"not fitted: {escape(str(lack))}", highlight=False)
    return curves, law


def _show(found: "Found", curves: "IsoFlop | None", law: "Fit | None", budgets: list[float]) -> None:
    runs = found.runs
    out.print(
        f"{len(runs)} runs of {short(runs.n.min())} to {short(runs.n.max())} parameters, {short(runs.d.min())} to "
        f"{short(runs.d.max())} tokens, {runs.flops.min():.3g} to {runs.flops.max():.3g} operations",
        highlight=False,
    )
    largest = float(runs.flops.max())
    wanted = budgets or [largest, 10 * largest, 100 * largest]
    if curves is not None:
        table = _table(
            "isoFLOP: least loss by budget", "operations", "runs", "parameters", "tokens", "a parameter", "loss"
        )
        for one in curves.budgets:
            table.add_row(
                f"{one.flops:.3g}", f"{len(one.runs)}", short(one.n), short(one.d), f"{one.d / one.n:.3g}", f"{one.loss:.4f}"
            )  # fmt: skip
        out.print(table)
        by_reason: dict[str, list[str]] = {}
        for refused in curves.refused:
            by_reason.setdefault(refused.why, []).append(f"{refused.flops:.3g}")
        for why, of in by_reason.items():
            shown = ", ".join(of[:6]) + (f" and {len(of) - 6} more" if len(of) > 6 else "")
            err.print(f"left out: budget{'s' * (len(of) > 1)} {shown}: {escape(why)}", highlight=False)
        for name, power in (("parameters", curves.n), ("tokens", curves.d)):
            out.print(f"best {name} grow as C^{power.exponent:.3f}{_span(power.interval)}", highlight=False)
    if law is not None:
        said = ", ".join(f"{name} {value:.4g}{_span(law.intervals[name])}" for name, value in law.law._asdict().items())
        out.print(f"L = E + A / N^alpha + B / D^beta: {said}; typical error {law.error:.2%}", highlight=False)
        _warn(law.warnings)
    _predict(curves, law, wanted, largest)


def _predict(curves: "IsoFlop | None", law: "Fit | None", budgets: list[float], largest: float) -> None:
    from trainer.scaling import BEYOND

    table = _table(
        "best split of a budget, and its 95 % interval", "operations", "by", "parameters", "", "tokens", "", "loss"
    )
    for flops in budgets:
        if curves is not None:
            table.add_row(
                f"{flops:.3g}", "isoFLOP", short(curves.n.at(flops)), _band(curves.n.band(flops)),
                short(curves.d.at(flops)), _band(curves.d.band(flops)), "",
            )  # fmt: skip
        if law is not None:
            n, d = law.optimum(flops)
            bands = law.optimum_band(flops)
            table.add_row(
                f"{flops:.3g}", "law", short(n), _band(bands[0]), short(d), _band(bands[1]), f"{law.law.loss(n, d):.4f}"
            )  # fmt: skip
    out.print(table)
    if max(budgets) > BEYOND * largest:
        err.print(
            f"budgets of more than {BEYOND:g} times the largest run ({largest:.3g} operations) are guesses: the intervals "
            "hold if the law does",
            highlight=False,
        )


def _write(folder: Path, found: "Found", curves: "IsoFlop | None", law: "Fit | None") -> None:
    from trainer import advice
    from trainer.scaling_plots import plot

    body: dict[str, Any] = {"runs": [], "isoflop": None, "parametric": advice.body(law) if law is not None else None}
    runs = found.runs
    for row in zip(runs.names, runs.n.tolist(), runs.d.tolist(), runs.loss.tolist(), runs.flops.tolist(), strict=True):
        body["runs"].append(dict(zip(("name", "n_parameters", "tokens", "loss", "flops"), row, strict=True)))
    if curves is not None:
        body["isoflop"] = {
            "budgets": [{"flops": b.flops, "n_parameters": b.n, "tokens": b.d, "loss": b.loss} for b in curves.budgets],
            "refused": [one._asdict() for one in curves.refused],
        } | {
            name: {"intercept": power.intercept, "exponent": power.exponent, "interval": power.interval}
            for name, power in (("n_parameters", curves.n), ("tokens", curves.d))
        }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fit.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
        written = plot(folder, runs, curves, law)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error
    pictures = f" and {', '.join(path.name for path in written)}" if written else "; no picture without matplotlib"
    out.print(f"in {escape(str(folder))}: fit.json{pictures}", highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _span(interval: tuple[float, float] | None) -> str:
    return f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval is not None else " (too few runs for an interval)"


def _band(interval: tuple[float, float] | None) -> str:
    return f"{short(interval[0])} to {short(interval[1])}" if interval is not None else ""


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        err.print(f"beware: {escape(warning)}", highlight=False)
