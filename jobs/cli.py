"""The command line: `crawlmill …`. Errors are one line that says what to do; `--debug` shows where they come from."""

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs import (
    ablate_commands,
    classifier_commands,
    compare_commands,
    crawl_commands,
    decontamination_commands,
    dedup_commands,
    failures,
    inspect_commands,
    metrics_commands,
    mix_commands,
    plan_commands,
    report_commands,
    token_commands,
    tokenizer_commands,
)
from jobs.terminal import escape, print_json
from pipeline.errors import CrawlmillError, UsageError
from trainer import commands as training_commands
from trainer import contamination_commands, evaluation_commands, scaling_commands

app = typer.Typer(
    name="crawlmill",
    help="From Common Crawl archives to curated training text. Start with: crawlmill sample demo/web",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

app.add_typer(dedup_commands.app, name="dedup")
app.add_typer(classifier_commands.app, name="classifier")
app.command(
    epilog="Example: crawlmill references enwiki-latest-pages-articles-multistream.xml.bz2 --output references"
)(classifier_commands.references)
app.add_typer(decontamination_commands.app, name="decontaminate")
app.add_typer(tokenizer_commands.app, name="tokenizer")
app.command(epilog="Example: crawlmill tokenize demo/out --tokenizer demo/tokenizer --output demo/tokens")(
    token_commands.tokenize
)
app.add_typer(token_commands.app, name="tokens")
app.command(epilog="Example: crawlmill mix demo/mix.yaml --output demo/mixed")(mix_commands.mix)
app.add_typer(training_commands.app, name="train")
app.command()(evaluation_commands.evaluate)
app.command()(evaluation_commands.export)
app.command("import")(evaluation_commands.import_)
app.command()(contamination_commands.contamination)
app.command()(ablate_commands.ablate)
app.command(epilog="Example: crawlmill fetch CC-MAIN-2025-26 --files 8 --seed 1 --output crawl")(crawl_commands.fetch)
app.command(epilog="Example: crawlmill select CC-MAIN-2025-26 --language isl --output isl")(crawl_commands.select)
app.command(epilog="Example: crawlmill plan --input demo/web --sample 10% --plan demo/plan.json")(plan_commands.plan)
app.command(epilog="Example: crawlmill report demo/out")(report_commands.report)
app.command(epilog="Example: crawlmill metrics demo/out --steps")(metrics_commands.metrics)
app.command(epilog="Example: crawlmill compare demo/out demo/gopher --html demo/compare.html")(compare_commands.compare)
app.command(epilog="Example: crawlmill inspect demo/out")(inspect_commands.inspect)
app.add_typer(scaling_commands.scaling_app, name="scaling")
app.command()(scaling_commands.budget)

out = Console()
err = Console(stderr=True)

_RecipeOption = Annotated[str, typer.Option("--recipe", help="Name of a shipped recipe, or path of a .yaml file.")]

_IndexOption = Annotated[
    str | None, typer.Option("--index", help="Band index to look for duplicates in, and to add this run to.")
]

_BenchmarksOption = Annotated[
    str | None, typer.Option("--benchmarks", help="YAML file of benchmarks to look for, instead of the recipe's.")
]


def _version(asked: bool) -> None:
    if asked:
        from jobs.runs import code_version

        out.print(f"crawlmill {code_version()}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """`--debug` is read by `main`, which catches what commands raise."""


@app.command(epilog="Example: crawlmill sample demo/web")
def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write the archives and truth.jsonl.")],
    pages: Annotated[int, typer.Option(help="How many pages, about.")] = 1600,
    seed: Annotated[int, typer.Option(help="Another seed gives another web.")] = 0,
) -> None:
    """Write a small synthetic web as WARC files, with what should become of each page."""
    from pipeline.sample import write_sample

    try:
        summary = write_sample(folder, seed=seed, pages=pages)
    except OSError as error:
        raise UsageError(f"cannot write the sample to {folder}: {error.strerror or error}") from error
    out.print(f"wrote {escape(str(folder))}: {summary}", highlight=False)


@app.command(epilog="Example: crawlmill run --recipe default --input demo/web --output demo/out")
def run(
    input_: Annotated[
        list[str], typer.Option("--input", help="File, glob, folder, https:// or s3:// address. May be repeated.")
    ],
    output: Annotated[str, typer.Option("--output", help="Run folder: a path or an s3:// address.")],
    more: Annotated[list[str] | None, typer.Argument(help="More inputs.", show_default=False)] = None,
    recipe: _RecipeOption = "default",
    partitions: Annotated[
        int | None, typer.Option(help="Spark tasks to use; the result does not depend on it.", min=1)
    ] = None,
    upto: Annotated[
        str, typer.Option(help="Last stage to run: extract, annotate, score, deduplicate, decontaminate or curate.")
    ] = "curate",
    master: Annotated[str | None, typer.Option(help="Spark master; all local cores if not given.")] = None,
    index: _IndexOption = None,
    benchmarks: _BenchmarksOption = None,
    tolerate: Annotated[
        float | None,
        typer.Option(
            help="Share of input files or bytes that may be unreadable, instead of the recipe's.", min=0, max=1
        ),
    ] = None,
    retry_quarantined: Annotated[
        bool,
        typer.Option(
            "--retry-quarantined", help="Try again what ended the workers that touched it, also after an upgrade."
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Serve metrics for Prometheus at this port while it runs; 0 for any.", min=0, max=65535),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address to serve them at.")] = "127.0.0.1",
    log_file: Annotated[
        str | None, typer.Option("--log", metavar="FILE", help="Log what happens to this file; - for stderr.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="json (the default) or text.")] = None,
    spark_ui: Annotated[
        bool, typer.Option("--spark-ui", help="Have Spark serve its UI, and show its address.")
    ] = False,
    report: report_commands.ReportOption = True,
) -> None:
    """Run the whole pipeline: archives in, curated shards and the ledger out. Recipes name other sources, too: `wikipedia`,
    `books`, `text` (Parquet, JSONL) and `code` read what their names say.

    Run the same command again to go on after an interruption.
    """
    from jobs import run as job
    from jobs.progress import Bar
    from pipeline.recipe import load_recipe

    began = time.monotonic()
    loaded = load_recipe(recipe)
    if benchmarks is not None:
        loaded = loaded.with_benchmarks(benchmarks)
    if tolerate is not None:
        loaded = loaded.model_copy(update={"inputs": loaded.inputs.model_copy(update={"tolerate": tolerate})})
    problem: CrawlmillError | None = None
    logged = metrics_commands.logging_to(log_file, log_format)
    served = metrics_commands.served(err, metrics_port, metrics_host)
    with logged, served, report_commands.reporting(output, report, err) as reported, Bar(err, upto) as bar:
        try:
            done = job.run(
                loaded,
                [*input_, *(more or [])],
                output,
                partitions=partitions,
                upto=upto,
                master=master,
                index=index,
                progress=bar,
                retry_quarantined=retry_quarantined,
                spark_ui=spark_ui,
            )
        except CrawlmillError as error:
            if error.exit_code != 3:
                raise
            problem = error
    if problem is not None:
        from jobs.runs import existing_run

        try:
            done = existing_run(output)
        except UsageError:
            raise problem from None
    if upto == "curate":
        _show_funnel(done)
        rows = sum(s["tables"]["records"]["rows"] for s in done.manifests("extract"))
        seconds = time.monotonic() - began
        out.print(
            f"{rows:,} records in {seconds:.1f} s. Ask of any page: crawlmill explain {escape(output)} URL",
            highlight=False,
        )
    else:
        out.print(f"{upto} done in {escape(output)}; run again without --upto to complete it", highlight=False)
    failures.show_quarantined(out, done)
    if reported.place is not None:
        report_commands.say(out, reported.place)
    if problem is not None:
        raise problem


@app.command(epilog="Example: crawlmill redecide demo/out --recipe gopher --output demo/gopher")
def redecide(
    source: Annotated[str, typer.Argument(help="An earlier run.")],
    output: Annotated[str, typer.Option("--output", help="Folder for the new ledger and shards.")],
    recipe: _RecipeOption = "default",
    index: _IndexOption = None,
    benchmarks: _BenchmarksOption = None,
    report: report_commands.ReportOption = True,
) -> None:
    """Decide an earlier run again under other thresholds, without extracting again."""
    from jobs.curate import redecide as job
    from jobs.progress import Bar
    from pipeline.recipe import load_recipe

    began = time.monotonic()
    loaded = load_recipe(recipe)
    with report_commands.reporting(output, report, err) as reported, Bar(err) as bar:
        decided = loaded if benchmarks is None else loaded.with_benchmarks(benchmarks)
        done = job(source, decided, output, index, bar.tasks)
        seconds = time.monotonic() - began
    _show_funnel(done)
    out.print(f"decided in {seconds:.1f} s", highlight=False)
    if reported.place is not None:
        report_commands.say(out, reported.place)


@app.command(epilog="Example: crawlmill explain demo/out https://garden.example/articles/1")
def explain(
    folder: Annotated[
        str | None, typer.Argument(help="A finished run; with --token a folder of tokens or a mix.", show_default=False)
    ] = None,
    key: Annotated[
        str | None,
        typer.Argument(
            help="URL, doc_id or FILE:OFFSET. Without it, one example of each outcome, and what could not be read."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="SHARD:N",
            help="Which page a token came from: tokens/web/shard-00000:1000, or, with the folder, 0:1000 and in a mix "
            "PHASE/SOURCE/0:1000.",
        ),
    ] = None,
    similar: Annotated[
        str | None, typer.Option("--similar", help="List pages like this one (a key, or a text file) instead.")
    ] = None,
    least: Annotated[float, typer.Option(help="With --similar: least similarity.", min=0, max=1)] = 0.5,
    text: Annotated[bool, typer.Option("--text", help="Show the text as extracted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say why a page was kept or dropped: where it lies, what was measured, every rule that it broke.

    With --token say which page a token of a shard came from, and then the same of that page.
    """
    from jobs.explain import example_keys, extracted_text, find
    from jobs.explain import measures as measured
    from jobs.runs import existing_run

    if token is not None:
        origin = token_commands.origin(folder, token, as_json)
        if origin is None or as_json:
            return
        folder, key = origin
    if folder is None:
        raise UsageError("no run named; crawlmill explain FOLDER, or --token SHARD:N for a token")
    opened = existing_run(folder)
    if similar is not None:
        _show_similar(opened, similar, least, as_json)
        return
    keys = [key] if key is not None else list(example_keys(opened).values())
    for wanted in keys:
        rows = find(opened, wanted)
        if not rows:
            raise UsageError(
                f"no record of {wanted!r} in {folder}; give a URL, a doc_id, or FILE:OFFSET from the ledger"
            )
        for row in rows:
            body = extracted_text(opened, row) if text else None
            table = measured(row, opened.recipe)
            if as_json:
                print_json(out, {**row, "measures": table, "text": body})
            else:
                _show_record(row, table, body)
    if key is None and not as_json:
        failures.show(out, opened)


def _show_similar(run: Any, key: str, least: float, as_json: bool) -> None:
    from jobs.similar import similar

    found = similar(run, key, least)
    if as_json:
        rows = [{**page.row, "doc_id": page.doc_id, "similarity": page.similarity} for page in found]
        print_json(out, rows)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("similarity", "outcome", "doc_id", "url"):
        table.add_column(name, overflow="fold")
    for page in found:
        row = page.row
        became = row.get("reason") or row.get("outcome") or "of another run"
        table.add_row(f"{page.similarity:.2f}", escape(became), page.doc_id, escape(row.get("url") or ""))
    out.print(table if found else f"nothing at similarity {least:g} or more")


def _show_record(row: dict[str, Any], table: list[dict[str, Any]], body: str | None) -> None:
    colour = {"kept": "green", "dropped": "yellow", "error": "red"}[row["outcome"]]
    out.rule(f"[{colour}]{row['outcome']}[/] {escape(row['url'] or '(no address)')}", align="left")
    facts: list[tuple[str, Any]] = [
        ("doc_id", row["doc_id"]),
        ("file", row["warc_file"]),
        ("offset, length", f"{row['warc_offset']:,}, {row['warc_length']:,} bytes"),
        ("record", f"{row['record_type']}, {row['date'] or 'no date'}, id {row['record_id'] or 'none'}"),
        *_response(row),
        ("decided by", row["reason"] or "nothing: it broke no rule"),
        ("every rule broken", ", ".join(row["rule_hits"]) or "none"),
    ]
    if row["error"]:
        facts.append(("error", row["error"]))
    if row["flaws"]:
        facts.append(("flaws", ", ".join(row["flaws"])))
    if row["n_chars"] is not None:
        facts.append(("text", f"{row['n_chars']:,} characters by {row['engine']} {row['engine_version']}"))
    if row["duplicate_of"]:
        facts.append(("duplicate of", row["duplicate_of"]))
    if row["cluster"]:
        facts.append(("near-duplicates", f"{row['cluster_size']:,} pages in cluster {row['cluster']}"))
    if row["similarity"] is not None and row["duplicate_of"]:
        facts.append(("similarity", f"{row['similarity']:.3f} to the page that is kept of the cluster"))
    if row["pii"]:
        kinds = Counter(hit["kind"] for hit in row["pii"])
        facts.append(("masked", ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))))
    scores = [f"{name.removeprefix('score_')} {_number(row[name])}" for name in row if name.startswith("score_")]
    if row["n_chars"] is not None and any(row[name] is not None for name in row if name.startswith("score_")):
        facts.append(("scores", ", ".join(scores)))
    if row.get("quality") is not None:
        facts.append(("quality", f"rank {row['quality']:.3f}, bin {row['quality_bin']}"))
    if row["contamination"]:
        held = ", ".join(f"{hit['benchmark']}/{hit['item']} ({hit['score']:.2f})" for hit in row["contamination"])
        facts.append(("benchmark items", held))
    if row["outcome"] == "kept":
        several = f" to {row['row'] + row['n_pieces'] - 1}" if row["n_pieces"] > 1 else ""
        facts.append(("written to", f"curated/shard-{row['shard']:05d}.parquet, row {row['row']}{several}"))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        out.print(f"{name:<{width}}  {escape(str(value))}", highlight=False, soft_wrap=True)
    if table:
        grid = Table(box=None, pad_edge=False)
        for column, justify in (
            ("rule", "left"),
            ("least", "right"),
            ("measured", "right"),
            ("most", "right"),
            ("", "left"),
        ):
            grid.add_column(column, justify=justify)  # type: ignore[arg-type]
        for entry in table:
            note = "" if entry["rule"].endswith(entry["signal"]) else f" ({entry['signal']})"
            if entry["signal"].startswith("edited_"):
                note = " (edited text)"
            grid.add_row(
                escape(entry["rule"] + note),
                _number(entry["minimum"]),
                _number(entry["value"]),
                _number(entry["maximum"]),
                "[red]broken[/]" if entry["broken"] else "",
            )
        out.print(grid)
    if body is not None:
        out.print(escape(body), highlight=False, soft_wrap=True)
    out.print()


def _response(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What a server said; of rows and files only what they are."""
    if row["http_status"] is not None:
        return [("response", f"status {row['http_status']}, {row['media_type']}, charset {row['charset']}")]
    said = [row["media_type"], f"charset {row['charset']}" if row["charset"] else None]
    return [("read as", ", ".join(part for part in said if part))] if any(said) else []


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_funnel(done: Any) -> None:
    from jobs.curate import outcome_counts
    from jobs.funnel import funnel

    counts = outcome_counts(done)
    read = sum(counts.values())
    table = Table(box=None, pad_edge=False, title=f"recipe {done.recipe.name}", title_justify="left")
    for column in ("reason", "records", "hits", "only this", "left"):
        table.add_column(column, justify="left" if column == "reason" else "right")
    table.add_row("read", "", "", "", f"{read:,}")
    for step in funnel(done):
        table.add_row(escape(step.name), f"{step.decided:,}", f"{step.hits:,}", f"{step.sole:,}", f"{step.left:,}")
    out.print(table)
    out.print(
        f"read {read:,} = kept {counts['kept']:,} + dropped {counts['dropped']:,} + error {counts['error']:,}",
        highlight=False,
    )
    if done.recipe.decontaminate.looks:
        out.print(decontamination_commands.in_words(done), highlight=False)


PANELS = {
    "Curate": "sample run report explain redecide compare inspect metrics plan dedup decontaminate",
    "Get archives": "fetch select references",
    "Tokens and mixes": "tokenizer tokenize tokens mix",
    "Train and judge": "train evaluate contamination ablate export import classifier",
    "Reckon": "scaling budget",
}
"""Commands as `--help` shows them."""


def _grouped() -> None:
    """Puts each command into its panel, in the order of PANELS."""
    places = [(name, panel) for panel, names in PANELS.items() for name in names.split()]
    order = {name: number for number, (name, _) in enumerate(places)}

    def name_of(command: Any) -> str:
        return command.name or command.callback.__name__

    for commands in (app.registered_commands, app.registered_groups):
        commands.sort(key=lambda command: order[name_of(command)])  # type: ignore[attr-defined]
        for command in commands:
            command.rich_help_panel = places[order[name_of(command)]][1]


_grouped()


def main() -> None:
    """Runs the command line and ends the process: 0 done, 1 our fault, 2 wrong usage or recipe, 3 input problems."""
    debug = "--debug" in sys.argv
    signal.signal(signal.SIGINT, _stop)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except Exception as error:
        if debug:
            raise
        message, code = _in_words(error)
        err.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
        sys.exit(code)


def _stop(*_: object) -> None:
    """Ends the process at once on Ctrl-C: files appear whole or not at all, and a dead run's lock is taken over.

    Unwinding would have Py4J report at length how its call to the JVM was interrupted; the JVM ends with this process.
    """
    from jobs.progress import put_away

    put_away()
    err.show_cursor(True)
    err.print("stopped; run the same command again to go on")
    sys.stdout.flush()
    os._exit(130)


def _in_words(error: Exception) -> tuple[str, int]:
    """One line for an error, and the exit code."""
    if isinstance(error, CrawlmillError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # what Typer makes of wrong arguments, whichever Click it brings
        text = " ".join(str(error.format_message()).split())
        if not text or len(text) > 300:  # no arguments at all: Typer has shown the help already
            text = "no command given"
        return f"{text.rstrip('.')}; see crawlmill --help", 2
    lines = [line for line in str(error).splitlines() if line.strip()]
    first = next((line for line in lines if "Exception" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {first.strip()} (this is our fault; --debug shows more)", 1


if __name__ == "__main__":
    main()
