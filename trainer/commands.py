"""`crawlmill train …`, and `torchrun -m trainer …` for many GPUs: the same command, the same options."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import UsageError

app = typer.Typer(invoke_without_command=True)
out = Console()


@app.callback(epilog="Example: crawlmill train --config train.toml --set optim.lr=3e-4")
def train(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML or YAML file; docs/training.md has one.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the config; may be repeated.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Another run, or one of its checkpoints, whose parameters and moments to start from."
        ),
    ] = None,
    phases: Annotated[
        Path | None,
        typer.Option(help="Config file whose phases, and data if it has any, replace those of --config."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show plan, memory, time and cost; train nothing.")
    ] = False,
    hardware: Annotated[
        str | None, typer.Option(help="With --dry-run: the GPU to reckon with, such as H100; this machine's otherwise.")
    ] = None,
) -> None:
    """Train a model on token shards: pretrain, anneal, or whatever phases the config has. Run the same command again to
    go on after a stop.

    On many GPUs: torchrun --nproc-per-node 8 -m trainer --config train.toml
    """
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise UsageError("no config named; crawlmill train --config FILE (docs/training.md has one to start from)")
    from trainer.config import load

    loaded = load(config, changes or (), phases)
    found = _checkpoint(start) if start is not None else None
    if dry_run:
        _show_plan(loaded, hardware)
        return
    from trainer.parallel import start as join
    from trainer.parallel import stop
    from trainer.train import Start, Trainer

    world = join(loaded.device, loaded.parallel, loaded.deterministic)
    try:
        result = Trainer(loaded, world, Start(found) if found else None).run()
    finally:
        stop(world)
    if world.rank == 0:
        held = ", ".join(f"{name} {value:.4f}" for name, value in sorted(result.bits_per_byte.items()))
        out.print(
            f"{result.step:,} steps, loss {result.loss:.4f}"
            + (f"; bits per byte of held-out text: {held}" if held else ""),
            highlight=False,
        )
        out.print(f"in {escape(loaded.out)}: checkpoints, metrics.jsonl, the loss as a picture", highlight=False)


@app.command(epilog="Example: crawlmill train bench")
def bench(
    shapes: Annotated[list[str] | None, typer.Option("--shape", help="125M, 350M, 1.3B or tiny; all that fit.")] = None,
    steps: Annotated[int, typer.Option(help="Steps that are timed, of each.", min=1)] = 20,
    seq_len: Annotated[int, typer.Option(help="Tokens of a sample.", min=16)] = 2048,
) -> None:
    """Measure training on this machine: tokens a second, MFU, memory, waiting for data."""
    from trainer.bench import bench as measure

    for row in measure(shapes, steps=steps, seq_len=seq_len):
        out.print(row, highlight=False)


def _checkpoint(start: str) -> str:
    """The checkpoint that --from means: itself, or the newest of a run's folder. Raises ConfigError."""
    from trainer.checkpoint_files import complete
    from trainer.config import ConfigError

    given = Path(start)
    of_run = given / "checkpoints"
    found = [path for _, path in complete(of_run)] if of_run.is_dir() else [given] if given.exists() else []
    if not found:
        raise ConfigError(
            f"--from {start}: there is no such checkpoint; name a run, or a folder such as runs/a/checkpoints/step-00001000"
        )
    return str(found[-1])


def _show_plan(loaded: Any, hardware: str | None) -> None:
    from trainer.data import open_corpus
    from trainer.estimate import estimate

    corpus = open_corpus(loaded)
    table = Table(box=None, pad_edge=False, title=f"plan of {loaded.name}", title_justify="left")
    for name in ("phase", "source", "share", "tokens", "epochs", "steps", "learning rate"):
        table.add_column(name, justify="left" if name in ("phase", "source", "learning rate") else "right")
    for phase, wanted in zip(corpus.plan.phases, corpus.phases, strict=True):
        ramp = wanted.lr
        rate = f"{ramp.start:g} to {ramp.end:g}, {ramp.shape}" + (f", warm-up {ramp.warmup:,}" if ramp.warmup else "")
        table.add_row(phase.name, "", "", f"{phase.tokens:,}", "", f"{phase.steps:,}", rate)
        for name, n, first, stream in zip(phase.sources, phase.samples, phase.first, phase.streams, strict=True):
            share = n / sum(phase.samples)
            epochs = (first + n) / stream.n_samples
            table.add_row("", escape(name), f"{share:.1%}", f"{n * phase.seq_len:,}", f"{epochs:.2f}", "", "")
    out.print(table)
    for name, value in estimate(loaded, corpus, hardware).rows():
        out.print(f"{name:<28} {value}", highlight=False)
