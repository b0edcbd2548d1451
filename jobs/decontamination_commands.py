"""`crawlmill decontaminate …`: benchmark files before a run, and what a run found of them."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import escape, print_json
from pipeline.errors import UsageError

app = typer.Typer(help="Benchmarks: check their files, and see which items a run found.", no_args_is_help=True)
out = Console()


@app.command(epilog="Example: crawlmill decontaminate items demo/web/benchmarks.yaml")
def items(
    path: Annotated[Path, typer.Argument(help="YAML file of benchmarks.")],
    show: Annotated[int, typer.Option(help="Print so many items of each, as they were read.", min=0)] = 0,
) -> None:
    """Read benchmark files and say what can be matched: how many items are too short, empty or repeat another."""
    from pipeline.contamination.benchmark import load_benchmarks, load_items
    from pipeline.contamination.index import GramIndex
    from pipeline.contamination.options import Decontamination
    from pipeline.contamination.proof import item_text, statuses

    benchmarks = load_benchmarks(path)
    loaded = load_items(benchmarks)
    options = Decontamination()
    index = GramIndex.build(loaded, options.ngram)
    known = pa.array(statuses(index.items, options.matching))
    table = _table("benchmark", "items", "ok", "repeat another", "too short", "empty", "n-gram", "tasks of lm_eval")
    for name in dict.fromkeys(loaded.column("benchmark").to_pylist()):
        own = pc.equal(loaded.column("benchmark"), name)
        status = Counter(known.filter(own.combine_chunks()).to_pylist())
        tasks = len(set(loaded.filter(own).column("task").drop_null().to_pylist()))
        sizes = index.items.filter(own).column("n").drop_null()
        counts = [sum(status.values()), *(status[s] for s in ("ok", "duplicate", "short", "empty"))]
        table.add_row(escape(name), *(f"{n:,}" for n in counts), f"{pc.max(sizes).as_py() or ''}", f"{tasks:,}")
    out.print(table)
    out.print(f"{loaded.num_rows:,} items, {index.n_bytes / 1e6:.0f} MB of n-grams", highlight=False)
    for name in dict.fromkeys(loaded.column("benchmark").to_pylist()) if show else ():
        for row in loaded.filter(pc.equal(loaded.column("benchmark"), name)).slice(0, show).to_pylist():
            out.rule(escape(f"{name} {row['item']}"), align="left")
            out.print(escape(item_text(row)), highlight=False, soft_wrap=True)


@app.command(epilog="Example: crawlmill decontaminate show demo/out")
def show(
    folder: Annotated[str, typer.Argument(help="A finished run.")],
    benchmark: Annotated[str | None, typer.Option(help="List the items of this benchmark that were found.")] = None,
    item: Annotated[str | None, typer.Option(help="Show this item of --benchmark beside a page that holds it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say which benchmark items a run found in which pages."""
    from jobs.runs import existing_run

    opened = existing_run(folder)
    table, rows = found_in(opened)
    if benchmark is None:
        if item is not None:
            raise UsageError("--item needs the --benchmark that it belongs to")
        if as_json:
            print_json(out, rows)
        else:
            _show_summary(rows)
            out.print(f"the evidence: {escape(folder)}/decontamination/report.html", highlight=False, soft_wrap=True)
        return
    of_it = table.filter(pc.equal(table.column("benchmark"), benchmark))
    if not of_it.num_rows:
        known = ", ".join(row["benchmark"] for row in rows)
        raise UsageError(f"the run looked for no benchmark {benchmark!r}; it looked for {known}")
    if item is None:
        chosen = of_it.filter(pc.and_(pc.greater(of_it.column("n_pages"), 0), pc.invert(of_it.column("decoy"))))
        _show_items(chosen.sort_by([("n_pages", "descending"), ("item", "ascending")]), as_json)
        return
    one = of_it.filter(pc.equal(of_it.column("item"), item)).to_pylist()
    if not one:
        raise UsageError(f"benchmark {benchmark!r} has no item {item!r}")
    _show_item(one[0], as_json)


def found_in(run: Any) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The table of items of a run, and a row for each benchmark. Raises UsageError where it looked for none."""
    from jobs.decontaminate import ITEMS, STAGE
    from pipeline.contamination.proof import summary

    if not run.recipe.decontaminate.looks:
        raise UsageError(
            f"{run.folder.path} looked for no benchmarks; name them with --benchmarks, or in the recipe (`decontaminate`)"
        )
    table = run.folder.read_table(ITEMS)
    return table, summary(table, run.manifests(STAGE))


def in_words(run: Any) -> str:
    """One line on what a run found."""
    _, rows = found_in(run)
    found, n_items = sum(row["found"] for row in rows), sum(row["items"] for row in rows)
    if not found:
        return f"none of {n_items:,} benchmark items was found"
    return (
        f"{found:,} of {n_items:,} benchmark items were found: crawlmill decontaminate show {escape(run.folder.path)}"
    )


def _show_summary(rows: list[dict[str, Any]]) -> None:
    table = _table(
        "benchmark", "items", "too short", "empty", "found", "pages", "best score", "decoys", "pages with decoys"
    )
    for row in rows:
        counts = (row[name] for name in ("items", "short", "empty", "found", "pages"))
        best = "" if row["best_score"] is None else f"{row['best_score']:.2f}"
        decoys = (f"{row[name]:,}" for name in ("decoys", "decoy_pages"))
        table.add_row(escape(row["benchmark"]), *(f"{n:,}" for n in counts), best, *decoys)
    out.print(table)


def _show_items(chosen: pa.Table, as_json: bool) -> None:
    names = ["item", "task", "doc", "n_pages", "best_score", "best_doc_id", "best_url"]
    rows = chosen.select(names).to_pylist()
    if as_json:
        print_json(out, rows)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("item", "pages", "best score", "best page"):
        table.add_column(name, overflow="fold", justify="right" if name in ("pages", "best score") else "left")
    for row in rows:
        shown = row["best_url"] or row["best_doc_id"]
        table.add_row(escape(row["item"]), f"{row['n_pages']:,}", f"{row['best_score']:.2f}", escape(shown))
    out.print(table if rows else "none of its items was found")


def _show_item(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(out, row)
        return
    if not row["n_pages"]:
        out.print(f"no page holds it (status {row['status']}, {row['n_words']} words)", highlight=False)
        return
    where = row["best_url"] or row["best_doc_id"]
    pages = f"{row['n_pages']:,} pages" if row["n_pages"] > 1 else "1 page"
    out.print(f"{pages}, best score {row['best_score']:.2f}: {escape(where)}", highlight=False, soft_wrap=True)
    out.rule("the item", align="left")
    out.print(escape(row["text"]), highlight=False, soft_wrap=True)
    out.rule("the page", align="left")
    at = 0
    shown = ""
    for mark in row["marks"]:
        shown += escape(row["excerpt"][at : mark["start"]])
        shown += f"[bold yellow]{escape(row['excerpt'][mark['start'] : mark['end']])}[/]"
        at = mark["end"]
    out.print(shown + escape(row["excerpt"][at:]), highlight=False, soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table
