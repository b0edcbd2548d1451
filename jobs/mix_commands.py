"""`crawlmill mix`: the plan of a mix, and the mix."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jobs.terminal import escape, print_json
from pipeline.errors import UsageError

out = Console()
err = Console(stderr=True)


def mix(
    path: Annotated[Path, typer.Argument(metavar="MIX", help="A mix file; its token folders are relative to it.")],
    output: Annotated[str | None, typer.Option("--output", help="Folder to write the mix to.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the plan and write nothing.")] = False,
    strata: Annotated[bool, typer.Option("--strata", help="Print what is weighed alike within a source, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    also: Annotated[
        list[str] | None, typer.Option(help="Further form: ds (datatrove, nanotron) or npy (OLMo). May be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another order and draw than the file's.", min=0)] = None,
    max_epochs: Annotated[
        float | None, typer.Option(help="How often a document may come at most, whatever the file says.", min=0.01)
    ] = None,
    partitions: Annotated[int | None, typer.Option(help="Spark tasks to use; the result is the same.", min=1)] = None,
) -> None:
    """Mix token folders by weight into phases, shuffled, with exact counts of tokens."""
    from jobs.mix import mix as job
    from jobs.mix import plan_mix
    from pipeline.mixing.options import load_mix

    if show == (output is not None):
        raise UsageError("give --show to see the plan, or --output to carry it out")
    asked = load_mix(path).overridden(seed, max_epochs)
    if output is None:
        show_plan(plan_mix(asked, path.parent).facts, strata, as_json)
        return
    began = time.monotonic()
    columns = ("mixing", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
    progress = Progress(*columns, console=err, disable=not err.is_terminal)
    bar = progress.add_task("", total=None)

    def planned(facts: dict[str, Any]) -> None:
        show_plan(facts, strata, as_json)
        progress.start()

    def watch(n: int, total: int) -> None:
        progress.update(bar, completed=n, total=max(1, total))

    try:
        done = job(asked, output, path.parent, extra=also or (), partitions=partitions, planned=planned, watch=watch)
    finally:
        progress.stop()
    if as_json:
        return
    shards, tokens = sum(done["shards"].values()), sum(phase["tokens"] for phase in done["plan"]["phases"])
    out.print(
        f"{tokens:,} tokens in {shards:,} shards in {time.monotonic() - began:.1f} s. For the trainer: "
        f"{escape(output)}/schedule.json",
        highlight=False,
        soft_wrap=True,
    )


def show_plan(facts: dict[str, Any], strata: bool = False, as_json: bool = False) -> None:
    """Prints the plan of a mix (`Planned.facts`)."""
    if as_json:
        print_json(out, facts)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("phase", no_wrap=True)
    table.add_column("source", overflow="fold")
    for name in ("documents", "tokens", "share", "epochs", "unique"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase in facts["phases"]:
        of = [row for row in facts["sources"] if row["phase"] == phase["phase"]]
        for number, row in enumerate(of):
            table.add_row(escape(phase["phase"]) if not number else "", escape(row["source"]), *_cells(row))
            for stratum in row["strata"] if strata and len(row["strata"]) > 1 else ():
                name = f"  {stratum['stratum']} (weight {stratum['weight']:g})"
                table.add_row("", escape(name), *_cells(stratum), style="dim")
        table.add_row("", "total", *_cells(phase), style="bold", end_section=True)
    out.print(table)
    out.print(
        "epochs: how often the text that comes most often has come, phases before included; unique: share of the tokens "
        "that did not come before",
        highlight=False,
        style="dim",
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['documents']:,}",
        f"{row['tokens']:,}",
        f"{row['share']:.1%}".replace("%", " %"),
        f"{row['epochs']:.2f}",
        f"{row['unique_share']:.1%}".replace("%", " %"),
    )
