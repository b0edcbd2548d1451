"""What a run could not do, for a terminal: the files that lost most, and the records that were put aside."""

from rich.console import Console
from rich.table import Table

from jobs import quarantine
from jobs.runs import Run, file_accounts
from jobs.terminal import escape

MOST_SHOWN = 10
"""Rows of each list."""


def show_quarantined(out: Console, run: Run) -> None:
    """One line, where anything was put aside."""
    words = quarantine.in_words(run.info.get("quarantined", {}))
    if words:
        out.print(escape(words), highlight=False, soft_wrap=True)


def show(out: Console, run: Run) -> None:
    """The worst files, and every record that was put aside with its error."""
    files = file_accounts(run)
    if files:
        out.rule("files of which something could not be read, the worst first", align="left")
        limit = run.recipe.inputs.tolerate_file
        for file in files[:MOST_SHOWN]:
            bad = "counts as unreadable: " if file.lost_share > limit else ""
            out.print(f"{escape(file.path)}  {bad}{file.in_words()}", highlight=False, soft_wrap=True)
        if len(files) > MOST_SHOWN:
            out.print(f"and {len(files) - MOST_SHOWN:,} more")
    notes = quarantine.put_aside_of(run.folder)
    if notes:
        out.rule("quarantined: ended every worker that touched it", align="left")
        table = Table(box=None, pad_edge=False)
        for name in ("stage", "place", "bytes", "error"):
            table.add_column(name, overflow="fold", justify="right" if name == "bytes" else "left")
        rows = [(stage, lost) for stage, several in notes.items() for note in several for lost in note["lost"]]
        for stage, lost in rows[:MOST_SHOWN]:
            table.add_row(stage, escape(quarantine.in_place(lost)), f"{lost['length']:,}", escape(lost["error"]))
        out.print(table)
        if len(rows) > MOST_SHOWN:
            out.print(f"and {len(rows) - MOST_SHOWN:,} more, in {escape(run.folder.path)}/{quarantine.NOTES}")
