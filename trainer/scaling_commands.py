"""`crawlmill scaling …` and `crawlmill budget`: what runs say of larger ones, and what those would take."""

import importlib.util
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
    _need_torch("a ladder trains models")
    from trainer import ladder as rungs_of
    from trainer.config import load

    base = rungs_of.base_of(load(config, changes or ()))
    rungs = rungs_of.plan(base, _list(sizes, "--sizes"), _list(budgets, "--budgets"), output, warmup)
    rungs_of.check(rungs)
    rungs_of.write(rungs)
    table = _table("the ladder", "operations, size", "layers", "width", "tokens", "a parameter", "steps", "rate")
    for rung in rungs:
        shape = rung.options.model
        table.add_row(
            rung.name, f"{shape.layers}", f"{shape.width}", short(rung.tokens),
            f"{rung.tokens / rung.parameters:.3g}", f"{rung.steps:,}", f"{rung.options.optim.lr:g}",
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


def budget(
    parameters: Annotated[str | None, typer.Option(help="Parameters of the model, such as 405B.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens to train on, such as 15.6T.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A training config instead: its shape, and the tokens of its phases.")
    ] = None,
    flops: Annotated[str | None, typer.Option(help="Operations to spend instead: the best split of them.")] = None,
    gpu: Annotated[str, typer.Option(help="Such as H100, H200, A100, 'H100 PCIe', B200, L40S.")] = "H100",
    gpus: Annotated[int, typer.Option(help="How many.", min=1)] = 8,
    mfu: Annotated[float, typer.Option(help="Share of the peak that training reaches.")] = 0.4,
    hour_price: Annotated[float | None, typer.Option(help="Of a GPU hour, for the money.", min=0)] = None,
    tensor: Annotated[
        int | None,
        typer.Option(help="GPUs that share each matrix, in the table of memory; 8 where there are as many.", min=1),
    ] = None,
    seq_len: Annotated[int, typer.Option(help="Tokens of a sample, where no config says.", min=16)] = 8192,
    micro_tokens: Annotated[
        int | None, typer.Option(help="Tokens that a GPU computes on at once; the config's, or one sample.", min=16)
    ] = None,
    checkpoint_activations: Annotated[
        str | None, typer.Option(help="none, selective or full; the config's, or full.", show_default=False)
    ] = None,
    state: Annotated[
        str, typer.Option(help="mixed: masters, gradients and moments in FP32; half: all in 16 bits.")
    ] = "mixed",
    watts: Annotated[
        float | None, typer.Option(help="Of a GPU, with its share of the host if you like.", min=0)
    ] = None,
    pue: Annotated[float | None, typer.Option(help="Power of the building over that of its machines.", min=1)] = None,
    grid: Annotated[str | None, typer.Option(help="Grams of CO2 a kWh, or world, us, france, …")] = None,
    inference_tokens: Annotated[
        str | None, typer.Option(help="Tokens the model will be used for in its life: the best size for both.")
    ] = None,
    law: Annotated[
        str, typer.Option(help="Published scaling law, or fit.json of crawlmill scaling fit.")
    ] = "besiroglu2024",
    check: Annotated[bool, typer.Option("--check", help="Compare with public runs instead.")] = False,
) -> None:
    """Reckon what a training run takes: operations, memory on each GPU, days, GPU hours, money, energy, CO2.

    Example: crawlmill budget --parameters 405B --tokens 15.6T --gpu H100 --gpus 16384 --hour-price 2
    """
    _need_torch("what a model takes is counted as the trainer counts it")
    from trainer import budget as reckon

    if check:
        _show_check(reckon.check())
        return
    figures = reckon.power()
    hosts = "" if watts is not None else " without its host"
    watts = watts if watts is not None else reckon.watts_of(gpu)
    grams = reckon.grid_of(grid if grid is not None else str(figures["grid"]))
    building = pue if pue is not None else float(figures["pue"])
    best = _law(law)
    plan, micro, how = _plan(
        reckon, best, parameters, tokens, config, flops, (gpu, gpus, mfu), seq_len, micro_tokens, checkpoint_activations
    )
    if state not in reckon.STATES:
        raise UsageError(f"--state {state}: mixed or half")
    kept = reckon.state_bytes(plan.parameters, state)
    rows = [
        ("parameters", f"{short(plan.parameters)} ({reckon.size_said(plan.shape)}{'' if plan.counted else ', say'})"),
        ("tokens", f"{short(plan.tokens)} ({plan.tokens / plan.parameters:.3g} a parameter)"),
        ("operations, 6 N D", f"{plan.simple:.3g}"),
        ("  with attention", f"{plan.exact:.3g}" + ("" if plan.counted else ", for such a shape")),
        (
            "state of training",
            f"{_scaled(sum(kept.values()), 'B')}: "
            + ", ".join(f"{name} {_scaled(size, 'B')}" for name, size in kept.items() if size),
        ),
        ("on", f"{gpus:,} x {plan.device.name}, {mfu:.0%} of {(plan.device.flops or 0) / 1e12:.4g} TFLOP/s"),
        ("time", f"{_time(plan.seconds)}, {short(plan.tokens / plan.seconds)} tokens/s"),
        ("GPU hours", f"{plan.gpu_hours:,.0f}" if 10 <= plan.gpu_hours < 1e6 else short(plan.gpu_hours)),
    ]
    if hour_price is not None:
        rows.append(("money", f"{_money(plan.gpu_hours * hour_price)} at {hour_price:g} a GPU hour"))
    if watts is not None:
        used = reckon.energy(plan.gpu_hours, watts, building, grams)
        rows.append(("energy", f"{_scaled(used.kwh * 1e3, 'Wh')} ({watts:g} W a GPU{hosts}, PUE {building:g})"))
        rows.append(("CO2", f"{_tonnes(used.co2)} ({grams:g} g a kWh{'' if grid else ', world average'})"))
    for name, value in rows:
        out.print(f"{name:<20}{escape(value)}", highlight=False)
    share = tensor if tensor is not None else (8 if gpus % 8 == 0 else 1)
    if gpus % share:
        raise UsageError(f"--tensor {share}: {gpus} GPUs cannot be split into groups of {share}")
    _show_memory(reckon.on_each(plan.shape, micro, gpus, share, how, state), plan.device.memory, f"{micro:,}", how)
    use = quantity(inference_tokens, "--inference-tokens") if inference_tokens else 0.0
    _show_sizes(reckon.best_sizes(best, plan.simple, use), use, law, plan)


def _plan(
    reckon: Any,
    best: Any,
    parameters: str | None,
    tokens: str | None,
    config: Path | None,
    flops: str | None,
    machine: tuple[str, int, float],
    seq_len: int,
    micro_tokens: int | None,
    how: str | None,
) -> tuple[Any, int, str]:
    """The plan, tokens that a GPU computes on at once, and how activations are kept."""
    from trainer.estimate import named

    gpu, gpus, mfu = machine
    if not 0 < mfu <= 1:
        raise UsageError(f"--mfu {mfu:g}: a share above 0 and no more than 1, such as 0.4")
    if how not in (None, "none", "selective", "full"):
        raise UsageError(f"--checkpoint-activations {how}: none, selective or full")
    try:
        device = named(gpu)
    except UsageError as error:
        raise UsageError(str(error).replace("--hardware", "--gpu")) from None
    if config is not None:
        if parameters or tokens or flops:
            raise UsageError("--config says what is trained: leave out --parameters, --tokens and --flops")
        from trainer.config import load
        from trainer.ladder import base_of
        from trainer.model import n_parameters

        base = base_of(load(config))
        options = base.options
        lengths = [phase.seq_len or options.data.seq_len for phase in base.phases]
        counts = [phase.tokens or 0 for phase in base.phases]
        exact = sum(reckon.operations(options.model, n, length) for n, length in zip(counts, lengths, strict=True))
        plan = reckon.Plan(
            options.model, n_parameters(options.model)[0], sum(counts), exact, True, device, gpus, mfu
        )  # fmt: skip
        micro = micro_tokens or options.micro_tokens or max(lengths)
        return plan, micro, how or options.parallel.checkpoint_activations
    if flops is not None:
        if parameters or tokens:
            raise UsageError(
                "--flops is split between parameters and tokens by the law: leave out --parameters and --tokens"
            )
        n, d = best.optimum(quantity(flops, "--flops"))
    elif parameters is not None and tokens is not None:
        n, d = quantity(parameters, "--parameters"), quantity(tokens, "--tokens")
    else:
        raise UsageError(
            "say what is to be trained: --parameters 405B --tokens 15.6T, or --flops 1e24, or --config train.toml"
        )
    shape = reckon.shape_like(n)
    exact = reckon.operations(shape, d, seq_len)
    plan = reckon.Plan(shape, n, d, exact, False, device, gpus, mfu)
    return plan, micro_tokens or seq_len, how or "full"


def _law(name: str) -> Any:
    from trainer import advice

    return advice.load(Path(name)).law if Path(name).exists() else advice.published(name)


def _show_memory(parts: list[Any], there: int | None, micro: str, how: str) -> None:
    names = ("weights", "masters", "gradients", "moments", "activations", "logits")
    size, unit = (1e9, "GB") if max(part.total for part in parts) >= 1e9 else (1e6, "MB")
    table = _table(
        f"{unit} on each GPU, {micro} tokens at once, activations checkpointed: {how}",
        "state shared by", *("activ." if name == "activations" else name for name in names), "total",
    )  # fmt: skip
    for part in parts:
        fits = there is None or part.total <= there
        total = f"{part.total / size:,.1f}"
        table.add_row(
            part.way, *(f"{getattr(part, name) / size:,.1f}" for name in names), total if fits else f"[red]{total}[/red]"
        )  # fmt: skip
    out.print(table)
    fitting = [part.way for part in parts if there is None or part.total <= there]
    if there is not None:
        said = (
            f"fits in {there / 1e9:g} GB: {', '.join(fitting)}"
            if fitting
            else f"NOTHING OF IT FITS in {there / 1e9:g} GB"
        )
        out.print(said + ("" if fitting else ": more GPUs, --tensor, or fewer --micro-tokens"), highlight=False)


def _show_sizes(sizes: Any, use: float, law: str, plan: Any) -> None:
    first, second = sizes
    table = _table(
        f"for as many operations, by {law}", "best for", "parameters", "tokens", "a parameter", "training", "and use"
    )
    rows = [("training", first)] + ([(f"{short(use)} tokens of use", second)] if second else [])
    for name, one in rows:
        table.add_row(
            name, short(one.n), short(one.d), f"{one.d / one.n:.3g}", f"{one.training:.3g}", f"{one.whole:.3g}" if use else ""
        )  # fmt: skip
    out.print(table)
    if second:
        saved = 1 - second.whole / first.whole
        out.print(f"the same loss, with {saved:.1%} fewer operations over training and use together", highlight=False)


def _show_check(found: list[Any]) -> None:
    table = _table("public runs", "run", "6 N D", "said", "GPU hours", "said", "MFU that means")
    for one in found:
        table.add_row(
            one.name, f"{one.flops:.3g}", f"{one.said_flops:.3g}" if one.said_flops else "",
            short(one.gpu_hours) if one.gpu_hours else "", short(one.said_hours) if one.said_hours else "",
            f"{one.mfu:.1%}" if one.mfu else "",
        )  # fmt: skip
    out.print(table)
    for one in found:
        out.print(f"{one.name}: {escape(one.source)}", highlight=False, style="dim")


def _time(seconds: float) -> str:
    from trainer.metrics import clock_time

    return (
        f"{seconds / 86400:,.1f} days" if seconds > 2 * 86400 else clock_time(seconds) if seconds >= 1 else "under 1 s"
    )


def _money(amount: float) -> str:
    return short(amount) if amount >= 1e6 else f"{amount:,.0f}" if amount >= 100 else f"{amount:,.2f}"


def _tonnes(kilograms: float) -> str:
    return f"{kilograms / 1000:,.0f} t" if kilograms >= 1e5 else _scaled(kilograms * 1000, "g")


def _scaled(value: float, unit: str) -> str:
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.3g} {name}{unit}"
    return f"{value:.3g} {unit}"


def _need_torch(why: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise UsageError(f"this needs PyTorch ({why}): pip install 'crawlmill[train]'")


def _list(text: str, name: str) -> list[float]:
    return [quantity(part, name) for part in text.split(",") if part.strip()] or [quantity("", name)]


def _collect(inputs: list[str], loss: str) -> "Found":
    from trainer.scaling_runs import collect

    if loss not in ("held-out", "train"):
        raise UsageError(f"--loss {loss}: held-out or train")
    if any(Path(given).is_dir() for given in inputs):
        _need_torch("run folders are read as the trainer reads them; a CSV file needs none")
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
