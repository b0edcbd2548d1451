"""`crawlmill plan`: what a run will come to, and afterwards how far that was off."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import escape, print_json
from pipeline.errors import CrawlmillError, UsageError

out = Console()
err = Console(stderr=True)


def plan(
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", help="File, glob, folder, https:// or s3:// address. May be repeated."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="Name of a shipped recipe, or path of a .yaml file.")
    ] = "default",
    sample: Annotated[
        str | None,
        typer.Option(help="Share (1%) or amount (50MB) of the inputs to read; 1 %, but 16 to 256 MB, if not given."),
    ] = None,
    files: Annotated[int | None, typer.Option(help="Read so many whole files instead.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws another sample.", min=0)] = 0,
    cores: Annotated[
        int | None, typer.Option(help="Cores the run will have; this machine's if not given.", min=1)
    ] = None,
    price_per_core_hour: Annotated[float, typer.Option(help="What a core costs an hour.", min=0)] = 0.04,
    egress_per_gb: Annotated[float, typer.Option(help="What reading a GB of the inputs costs.", min=0)] = 0.0,
    partitions: Annotated[int | None, typer.Option(help="As the run will be given it.", min=1)] = None,
    master: Annotated[
        str | None, typer.Option(help="Spark master for the sample; all local cores if not given.")
    ] = None,
    scratch: Annotated[str | None, typer.Option(help="Folder for the sample and its run, on a local disk.")] = None,
    saved: Annotated[
        Path | None, typer.Option("--plan", help="File to save the plan in, or to read with --check.")
    ] = None,
    check: Annotated[str | None, typer.Option(help="A finished run to compare the saved plan with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Foretell a run from a sample of its inputs: records, survivors, bytes, shuffles, memory, core-hours, price.

    With --check, compare a plan that was saved with the run, line by line.
    """
    if check is not None:
        _check(saved, check, as_json)
        return
    from jobs import plan as job
    from jobs.progress import Bar
    from pipeline.recipe import load_recipe

    _one_way(sample, files)
    with Bar(err) as bar:
        made = job.plan(
            load_recipe(recipe),
            input_ or [],
            sample=sample,
            files=files,
            cores=cores,
            prices=job.Prices(price_per_core_hour, egress_per_gb),
            partitions=partitions,
            seed=seed,
            master=master,
            scratch=scratch,
            tell=lambda text: err.print(text, highlight=False, soft_wrap=True),
            progress=bar,
        )
    document = made.document()
    _save(saved, document)
    if as_json:
        print_json(out, document)
    else:
        _show(document)


def _one_way(sample: str | None, files: int | None) -> None:
    if sample is not None and files is not None:
        raise UsageError("give --sample or --files, not both")


def _save(path: Path | None, document: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot save the plan as {path}: {error.strerror or error}") from error


def load_plan(path: Path | None) -> dict[str, Any]:
    """A plan that was saved. Raises UsageError."""
    if path is None:
        raise UsageError("--check needs the plan that was saved: crawlmill plan --check RUN --plan plan.json")
    try:
        document = json.loads(path.read_text())
        document["figures"], document["recipe_digest"], document["inputs"]["bytes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no plan"
        raise UsageError(f"cannot read the plan {path}: {why}; make one with crawlmill plan --plan {path}") from error
    return dict(document)


def _check(saved: Path | None, folder: str, as_json: bool) -> None:
    from jobs import plan_report
    from jobs.runs import existing_run

    rows = plan_report.check(load_plan(saved), existing_run(folder))
    if as_json:
        print_json(out, [{**row._asdict(), "planned": row.planned._asdict()} for row in rows])
        return
    table = _table("figure", "planned", "from", "to", "came to", "off", "")
    for row in rows:
        off = "" if row.ratio is None else f"{row.ratio - 1:+.1%}"
        mark = "" if row.covered else "outside"
        show = [plan_report.shown(row.name, value) for value in (*row.planned, row.actual)]
        table.add_row(escape(row.name), *show, off, mark)
    out.print(table)
    inside = sum(row.covered for row in rows)
    out.print(f"{inside} of {len(rows)} within their 90 % intervals", highlight=False)


def _show(document: dict[str, Any]) -> None:
    from jobs.plan_report import GROUPS, shown

    inputs, taken, scale = document["inputs"], document["sample"], document["at_scale"]
    last = None
    table = _table("", "foreseen", "from", "to")
    for name, facts in document["figures"].items():
        group, _, what = name.partition("/")
        if group != last:
            table.add_row(f"[bold]{GROUPS.get(group, group)}[/]")
            last = group
        table.add_row("  " + escape(what), *(shown(name, facts[key]) for key in ("value", "low", "high")))
    out.print(table)
    hours, price = scale["core_hours"], scale["price"]
    lines = [
        f"{inputs['bytes']:,} bytes in {inputs['files']:,} files, {inputs['tasks']:,} tasks; foreseen from "
        f"{taken['share']:.2%} of them in {taken['units']:,} pieces; from and to: nine times of ten",
        f"{hours['value']:,.3g} core-hours of work ({hours['low']:,.3g} to {hours['high']:,.3g}); {scale['cores']:,} cores "
        f"are held for {document['figures']['wall/all']['value'] / 3600:,.3g} h: {price['value']:,.2f} "
        f"({price['low']:,.2f} to {price['high']:,.2f}) at {scale['price_per_core_hour']:g} a core-hour"
        + (f" and {scale['price_per_gb_read']:g} a GB read" if scale["price_per_gb_read"] else ""),
    ]
    if scale["executor_bytes_per_core"]:
        lines.append(
            f"memory of executors outside the JVM: {scale['executor_bytes_per_core'] / 1e9:.2g} GB for each core"
        )
    for line in (*lines, *document["notes"]):
        out.print(escape(line), highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def main(arguments: list[str] | None = None, plan_: Callable[..., None] = plan) -> None:
    """The command line of the job under spark-submit; ends the process with the exit codes of `crawlmill`."""
    parser = argparse.ArgumentParser(
        prog="jobs/plan.py",
        description="Foretells a run from a sample of its inputs.",
        epilog="example: spark-submit jobs/plan.py --recipe default --input s3://bucket/crawl/ --sample 50MB --cores 1000",
    )
    parser.add_argument("--recipe", default="default", help="name of a shipped recipe, or path of a .yaml file")
    parser.add_argument("--input", nargs="+", required=True, help="files, globs, folders, https:// or s3:// addresses")
    parser.add_argument("--sample", help="share (1%%) or amount (50MB) of the inputs to read")
    parser.add_argument("--files", type=int, help="read so many whole files instead")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another sample")
    parser.add_argument("--cores", type=int, help="cores that the run will have")
    parser.add_argument("--price-per-core-hour", type=float, default=0.04, help="what a core costs an hour")
    parser.add_argument("--egress-per-gb", type=float, default=0.0, help="what reading a GB of the inputs costs")
    parser.add_argument("--partitions", type=int, help="as the run will be given it")
    parser.add_argument("--scratch", help="folder for the sample and its run, on a local disk")
    parser.add_argument("--plan", type=Path, help="file to save the plan in")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = vars(parser.parse_args(arguments))
    debug, patterns, as_json, saved = (options.pop(name) for name in ("debug", "input", "json", "plan"))
    try:
        plan_(input_=patterns, as_json=as_json, saved=saved, **options)
    except CrawlmillError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
