"""`crawlmill tokenize` and `crawlmill tokens …`: curated text to shards of tokens, and looking after those."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from jobs.terminal import escape, print_json
from pipeline.errors import UsageError

app = typer.Typer(help="Shards of tokens: check them, see what a token is.", no_args_is_help=True)
out = Console()
err = Console(stderr=True)


def tokenize(
    inputs: Annotated[list[str], typer.Argument(help="A finished run, or Parquet files, globs and folders.")],
    tokenizer: Annotated[
        Path, typer.Option("--tokenizer", help="tokenizer.json, or a folder with it or with vocab.json and merges.txt.")
    ],
    output: Annotated[str, typer.Option("--output", help="Folder for the shards: a path or an s3:// address.")],
    source: Annotated[
        str | None, typer.Option(help="Source of documents whose file has no column of that name.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Further form: ds (datatrove, nanotron) or npy (OLMo). May be repeated."),
    ] = None,
    text: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    id: Annotated[
        str | None, typer.Option(help="Column of ids; if not given `id`, or where there is none a hash of the text.")
    ] = None,
    eos: Annotated[
        str | None, typer.Option(help="End-of-text token, where the tokenizer's is not of a usual name.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, gigatoken or tokenizers.")] = "auto",
    spark: Annotated[
        bool | None, typer.Option("--spark/--no-spark", help="Use Spark, or this process alone; by size if not given.")
    ] = None,
    partitions: Annotated[
        int | None, typer.Option(help="Spark tasks to use; the result does not depend on it.", min=1)
    ] = None,
    master: Annotated[str | None, typer.Option(help="Spark master; all local cores if not given.")] = None,
    audit_every: Annotated[
        int | None, typer.Option(help="Encode one document in so many by `tokenizers` too, and compare.", min=1)
    ] = None,
) -> None:
    """Tokenize the texts of a run, or of Parquet files, into Megatron shards (.bin, .idx) that say where they are from.

    Run the same command again to go on after an interruption.
    """
    from jobs.store import RunFolder
    from jobs.token_folders import manifests
    from jobs.tokenise import AUDIT_EVERY, tokenise
    from pipeline.tokenizer.files import load

    began = time.monotonic()
    with _Bar() as bar:
        info = tokenise(
            inputs,
            output,
            load(tokenizer, eos),
            source=source,
            text=text,
            id=id,
            extra=also or (),
            engine=engine,
            master=master,
            partitions=partitions,
            spark=spark,
            audit_every=audit_every or AUDIT_EVERY,
            watch=bar.tasks,
            progress=bar.shards,
        )
    report(info, manifests(RunFolder(output)), bar.written, time.monotonic() - began)


class _Bar:
    """Shards and tokens while they are written; quiet where there is no terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("tokenizing"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=err, disable=not err.is_terminal)
        self._task = self._bar.add_task("shards", total=None)
        self._began = time.monotonic()
        self.written: int | None = None
        """Tokens written by this process; None where nobody counted them."""

    def __enter__(self) -> "_Bar":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def shards(self, done: int, total: int, tokens: int) -> None:
        """Moves the bar of one process."""
        self.written = tokens
        rate = tokens / max(1e-9, time.monotonic() - self._began)
        said = f"shards, {tokens / 1e6:,.1f} M tokens, {rate / 1e6:.1f} M a second"
        self._bar.update(self._task, completed=done, total=total, description=said)

    def tasks(self, done: int, total: int) -> None:
        """Moves the bar of a Spark job."""
        self._bar.update(self._task, completed=done, total=max(1, total), description="tasks")


def report(info: dict[str, Any], shards: list[dict[str, Any]], written: int | None, seconds: float) -> None:
    """Prints what a folder holds; `written` are tokens that took so many seconds."""
    totals = info["totals"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("documents", "tokens", "bytes", "shards"):
        table.add_row(name, f"{totals[name]:,}")
    table.add_row("bytes per token", f"{totals['bytes'] / max(1, totals['tokens']):.3f}")
    audited = sum(shard["audited"] for shard in shards)
    table.add_row("encoder", ", ".join(sorted({shard["encoder"] for shard in shards})) or "none")
    table.add_row("audited", f"{audited:,}")
    for name, said in _NOTES.items():
        count = sum(shard[name] for shard in shards)
        if count:
            table.add_row(said, f"{count:,}")
    if written:
        table.add_row("tokens a second", f"{written / seconds:,.0f}")
    out.print(table)
    whys: dict[str, list[str]] = {}
    for shard in shards:
        if shard["fallback"]:
            whys.setdefault(shard["fallback"], []).append(shard["shard"])
    for why, names in whys.items():
        which = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        out.print(f"{which} by `tokenizers`: {escape(why)}", highlight=False, soft_wrap=True)


_NOTES = {
    "null_texts": "rows without a text",
    "invalid_utf8": "texts that were not UTF-8",
    "lossy": "texts that tokens do not give back",
    "mismatches": "texts that engines disagree on",
}


@app.command(epilog="Example: crawlmill tokens verify tokens/web")
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of `crawlmill tokenize` or `crawlmill mix`.")],
) -> None:
    """Read every byte of a folder of tokens or a mix, and compare it with what was written."""
    from jobs.token_folders import verified

    n, documents, tokens = 0, 0, 0
    for shard in verified(str(folder)):
        n, documents, tokens = n + 1, documents + shard["documents"], tokens + shard["tokens"]
    out.print(f"{n:,} shards, {documents:,} documents, {tokens:,} tokens: as they were written", highlight=False)


@app.command(epilog="Example: crawlmill tokens show tokens/web")
def show(
    folder: Annotated[str, typer.Argument(help="Folder of `crawlmill tokenize` or `crawlmill mix`.")],
) -> None:
    """Show what a folder holds. What one token is: crawlmill explain --token FOLDER/SHARD:N"""
    from jobs.mix_commands import show_plan
    from jobs.store import RunFolder
    from jobs.token_folders import manifests

    root = RunFolder(folder)
    for name, command in (("tokens.json", "tokenize"), ("mix.json", "mix")):
        info = root.read_json(name)
        if info is None:
            continue
        if not info["done"]:
            raise UsageError(f"{folder} is not finished; run the same `crawlmill {command}` command again")
        if command == "mix":
            show_plan(info["plan"])
        else:
            report(info, manifests(root), None, 0)
        return
    raise UsageError(f"{folder} holds no tokens.json and no mix.json; name a folder of `crawlmill tokenize` or `mix`")


def origin(folder: str | None, token: str, as_json: bool = False) -> tuple[str, str] | None:
    """Prints which document a token belongs to, and the text around it; returns the run and the doc_id of its page, None
    where there is no run to ask."""
    from jobs.store import RunFolder
    from jobs.token_folders import run_of, where

    shard, _, number = token.rpartition(":")
    if not shard or not (number.isascii() and number.isdigit()):
        raise UsageError(f"{token!r} is no SHARD:N, such as tokens/web/shard-00000:1000")
    if folder is None:
        folder, slash, shard = shard.rpartition("/")
        if not slash:
            raise UsageError(f"--token {token}: name the folder, too, such as tokens/web/{token}")
    place = where(folder, shard, int(number))
    run = run_of(place, folder)
    if as_json:
        print_json(out, {**place._asdict(), "run": run})
        return None
    out.print(
        f"…{escape(place.before)}[reverse]{escape(place.text)}[/reverse]{escape(place.after)}…\n",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("", Column(overflow="fold"), box=None, pad_edge=False, show_header=False)
    row = dict(place.row)
    if "tokens" in row:
        row["taken from"] = f"{row.pop('tokens')}/{row.pop('shard')}, document {row.pop('document')}"
        row["first"] = f"{row['first']} (token of the document there with which the part here begins)"
    rows = {"token": place.token, "position": place.position, "document": place.document, **row, "run": run}
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, escape(str(value)))
    out.print(table)
    if run is None or RunFolder(run).read_json("run.json") is None:
        return None
    out.print()
    return run, place.row["id"]
