"""`crawlmill ablate`: which of two sets of texts makes better models."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import escape, print_json
from pipeline.errors import UsageError

out = Console()
err = Console(stderr=True)


def ablate(
    sets: Annotated[
        list[str],
        typer.Argument(metavar="A [B]", help="Two finished runs, or Parquet files and folders; one run with --recipe."),
    ],
    output: Annotated[str | None, typer.Option("--output", help="Folder for models and report.")] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="Give it twice: the run is decided by both, which are compared."),
    ] = None,
    names: Annotated[str | None, typer.Option(help="What the sets are called, such as raw,clean.")] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--held-out",
            metavar="NAME=PATH",
            help="More texts to compare on: JSONL, Parquet, a run or a folder of tokens. May be repeated.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json of both; without it one is trained on as much text of each.")
    ] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Tokens of the tokenizer that is trained.", min=257)] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Tokens that each model reads, such as 2M; at most as the sets allow.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Pairs of models.")] = 3,
    seed: Annotated[int, typer.Option(help="The first seed; another draws other pages, too.", min=0)] = 0,
    config: Annotated[
        Path | None, typer.Option(help="Model, optimiser and batch, as for crawlmill train, instead of the preset's.")
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Every pair reads all of both sets: the interval is about these very pages."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Models that are trained at once; as many as cores on a CPU.", min=1)
    ] = None,
    text: Annotated[str, typer.Option(help="Column or field that holds the text.")] = "text",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show plan, tokens, epochs and time; train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the report as JSON.")] = False,
) -> None:
    """Compare two curated sets: train pairs of small models on them, and ask which knows common held-out text better.

    Run the same command again to go on after an interruption.
    """
    from jobs import ablate as job
    from trainer.ablation_run import VOCABULARY
    from trainer.quantities import quantity

    asked = job.Asked(
        tuple(sets),
        tuple(recipe or ()),
        tuple(part.strip() for part in names.split(",")) if names is not None else (),
        tokenizer,
        vocabulary or VOCABULARY,
        int(quantity(tokens, "--tokens")) if tokens is not None else None,
        seeds,
        seed,
        tuple(held_out or ()),
        str(config) if config is not None else None,
        whole,
        text,
    )
    if dry_run:
        facts = job.dry_run(asked, workers)
        if as_json:
            print_json(out, facts)
        else:
            show_plan(facts)
        return
    if output is None:
        raise UsageError("name a folder for models and report with --output, or see the plan with --dry-run")
    report = job.ablate(asked, output, workers, lambda line: err.print(escape(line), highlight=False, soft_wrap=True))
    if as_json:
        print_json(out, report)
        return
    show_report(report)
    out.print(f"report: {escape(output)}/report.md", highlight=False, soft_wrap=True)


def show_plan(facts: dict[str, Any]) -> None:
    """Prints what `dry_run` found."""
    from trainer.metrics import clock_time

    table = Table(box=None, pad_edge=False)
    for name in ("set", "pages", "bytes", "tokens for a pair", "epochs", "unique"):
        table.add_column(name, justify="left" if name == "set" else "right")
    for one in facts["sets"]:
        table.add_row(
            escape(one["name"]),
            f"{one['pages']:,}",
            f"{one['bytes']:,}",
            f"about {one['tokens']:,}",
            f"{one['epochs']:.2f}",
            f"{one['unique']:.1%}".replace("%", " %"),
        )
    out.print(table)
    held = ", ".join(f"{name} {n:,}" for name, n in facts["held_out"].items())
    lines = [
        f"models            {facts['models']} of {facts['parameters']:,} parameters, {facts['workers']} at once",
        f"tokens of each    {facts['tokens']:,} ({facts['possible']:,} would be possible)",
        f"held-out texts    {held} (before those are taken away that stand in a set)",
        f"pages in both     {facts['common']:,}",
        f"time              about {clock_time(facts['seconds'])}",
    ]
    for line in lines:
        out.print(escape(line), highlight=False, soft_wrap=True)


def show_report(report: dict[str, Any]) -> None:
    """Prints what an ablation found."""
    sets = report["sets"]
    table = Table(box=None, pad_edge=False)
    for name in ("held-out", "texts", sets["a"]["name"], sets["b"]["name"], "difference", "interval"):
        table.add_column(escape(name), justify="left" if name == "held-out" else "right", no_wrap=True)
    rows = dict(report["results"])
    if len(rows) > 1:
        rows["all"] = report["overall"]
    for name, found in rows.items():
        means = [sum(found["bits_per_byte"][letter]) / found["seeds"] for letter in "ab"]
        table.add_row(
            escape(name),
            f"{found['documents']:,}",
            *(f"{value:.4f}" for value in means),
            f"{found['difference']:+.4f}",
            "{:+.4f} to {:+.4f}".format(*found["interval"]),
        )
    out.print(table)
    said = list(report["verdicts"].values())
    for line in [*said, *([report["verdict"]] if len(said) > 1 else [])]:
        out.print(escape(line), highlight=False, soft_wrap=True)
