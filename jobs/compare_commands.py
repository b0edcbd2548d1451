"""Command `crawlmill compare`: what changed from one run to another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.terminal import print_json
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from jobs.report.compare import Comparison
    from jobs.report.compare.tables import Sheet

out = Console()

MOST_ROWS, MOST_SETTINGS = 12, 30
"""Rows of a table that a terminal shows, and of that of settings; --json and --html have all."""


def compare(
    run_a: Annotated[str, typer.Argument(help="A run: the one before.")],
    run_b: Annotated[str, typer.Argument(help="Another: the one after.")],
    examples: Annotated[int, typer.Option(help="Examples of each change.", min=0, max=50)] = 3,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say what changed from one run to another: settings, inputs, outcomes, reasons, where records went, with examples.

    Large runs are joined on a sample of their ids, which is the same every time; counts are exact.
    """
    from jobs.report.compare import compare as job
    from jobs.runs import existing_run

    found = job(existing_run(run_a), existing_run(run_b), examples)
    if html is not None:
        from jobs.report.compare.page import page

        try:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {html}: {error.strerror or error}") from error
    if as_json:
        print_json(out, found.document())
        return
    show(out, found)
    if html is not None:
        out.print(f"\nwrote {escape(str(html))}", highlight=False, soft_wrap=True)


def show(console: Console, found: "Comparison") -> None:
    """Prints a comparison."""
    from jobs.report.compare.tables import inputs_in_words, sheets

    for letter, facts in found.runs.items():
        again = f", decided again from {facts['measures']}" if facts["measures"] else ""
        console.print(
            f"{letter.upper()}  {_text(facts['folder'])}: recipe {_text(facts['recipe'])}{_text(again)}",
            highlight=False,
        )
    for note in found.notes:
        console.print(f"[yellow]note:[/] {_text(note)}", highlight=False)
    if found.nothing_differs:
        same = "ledgers and shards are the same, byte for byte" if found.identical else "every record went the same way"
        moved = "" if found.inputs["same"] else "; the inputs have other names"
        console.print(f"nothing differs: {same}{moved}", highlight=False)
        for sheet in (sheet for name, sheet in sheets(found).items() if name == "stages"):
            _table(console, sheet)
        return
    tables = sheets(found)
    for name in ("settings", "outcomes", "reasons", "moves"):
        if name in tables:
            _table(console, tables.pop(name), MOST_SETTINGS if name == "settings" else MOST_ROWS)
        if name == "settings":
            none = "" if found.settings else "no setting differs\n"
            console.print(f"\n{none}{_text(inputs_in_words(found.inputs))}", highlight=False)
    _examples(console, found)
    _changed_texts(console, found)
    if found.identical:
        console.print("\nledgers and shards are the same, byte for byte", highlight=False)
    for sheet in tables.values():
        _table(console, sheet)


def _table(console: Console, sheet: "Sheet", most: int = MOST_ROWS) -> None:
    """A table with as many rows as a terminal takes."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(sheet.heads):
        is_number = number in sheet.numbers
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in sheet.rows[:most]:
        table.add_row(*(_text(cell) for cell in row))
    console.print(f"\n[bold]{_text(sheet.title)}[/]", highlight=False)
    console.print(table)
    if len(sheet.rows) > most:
        console.print(f"and {len(sheet.rows) - most:,} more (--json, --html)", style="dim", highlight=False)


def _examples(console: Console, found: "Comparison") -> None:
    from jobs.report.compare.tables import because

    before: tuple[Any, Any] | None = None
    for example in found.examples:
        change = example["a_became"], example["b_became"]
        if change != before:
            words = " → ".join(became or "not there" for became in change)
            console.print(f"\n[bold]{_text(words)}[/]", highlight=False)
            before = change
        console.print(f"{_text(example['url'] or '(no address)')}  [dim]{example['doc_id']}[/]", highlight=False)
        for letter, line in because(example):
            console.print(f"  {letter}: {_text(line)}", highlight=False)
        if example["excerpt"]:
            pieces = ((_text(" ".join(f"|{piece}|".split())[1:-1]), kind) for piece, kind in example["excerpt"])
            line = "".join(f"[not dim yellow underline]{piece}[/]" if kind else piece for piece, kind in pieces)
            console.print(f"  {line}", style="dim", highlight=False)


def _changed_texts(console: Console, found: "Comparison") -> None:
    texts = found.texts
    if texts is None or not texts["pages"]:
        return
    looked = "" if texts["share"] == 1.0 else f" (of {texts['share']:.2%} of the ids)"
    console.print(
        f"\n[bold]Pages kept in both[/]: {texts['pages']:,}{looked}, {texts['changed']:,} of them with another text",
        highlight=False,
    )
    for example in texts["examples"]:
        console.print(f"{_text(example['url'] or '(no address)')}  [dim]{example['doc_id']}[/]", highlight=False)
        for sign, line in example["lines"]:
            console.print(f"  {sign} {_text(line)}", style="red" if sign == "-" else "green", highlight=False)
        if example["left_out"]:
            console.print(f"  and {example['left_out']:,} more lines", style="dim", highlight=False)


def _text(text: str) -> str:
    """Text of a page, or of a run, for the terminal: nothing in it that moves a cursor, and no markup."""
    from jobs.report.text import shown_line

    return escape(shown_line(text))
