"""`crawlmill fetch` and `crawlmill select`: files and records of Common Crawl."""

import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from jobs.terminal import escape, print_json
from pipeline.errors import UsageError
from pipeline.options import parse_bytes
from pipeline.sources.crawl import HTTPS, KINDS, SUBSETS, Choice

out = Console()
err = Console(stderr=True)

_Base = Annotated[
    str, typer.Option("--base", help="Where the crawls are: an address or a folder laid out like Common Crawl's.")
]
_Contact = Annotated[
    str | None, typer.Option("--contact", help="Your address or page, which every request then names (User-Agent).")
]
_Rate = Annotated[str | None, typer.Option("--rate", help="Bytes a second at most, such as 20MB.", show_default=False)]


def fetch(
    crawl: Annotated[str | None, typer.Argument(help="Such as CC-MAIN-2025-26.", show_default=False)] = None,
    output: Annotated[str | None, typer.Option("--output", help="Folder for the files.", show_default=False)] = None,
    kind: Annotated[str, typer.Option("--kind", help=f"Which files: {', '.join(KINDS)}.")] = "warc",
    first: Annotated[int | None, typer.Option("--first", help="So many from the beginning of the list.", min=1)] = None,
    files: Annotated[int | None, typer.Option("--files", help="So many, drawn by --seed.", min=1)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other files.")] = 0,
    match: Annotated[str | None, typer.Option("--match", metavar="GLOB", help="Only paths that match.")] = None,
    segment: Annotated[str | None, typer.Option("--segment", help="Only files of this segment.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name the crawls there are, and fetch nothing.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Say how much it would be, and fetch nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare what is there by SHA-256 and not only by size.")
    ] = False,
    connections: Annotated[int, typer.Option("--connections", help="Files at a time.", min=1, max=16)] = 2,
    rate: _Rate = None,
    contact: _Contact = None,
    base: _Base = HTTPS,
) -> None:
    """Fetch files of a crawl, politely, checked, and resumably: run the same command again to go on.

    The folder is then an --input of `crawlmill run`, and a --base of `crawlmill select`.
    """
    from jobs.fetch import crawls, total_bytes
    from jobs.fetch import fetch as job

    manners = _manners(contact, rate)
    if list_:
        table = Table(box=None, pad_edge=False)
        for name in ("crawl", "name", "from", "to"):
            table.add_column(name)
        for entry in crawls(base, manners):
            table.add_row(*(escape(str(entry[name] or "")) for name in ("id", "name", "from", "to")))
        out.print(table)
        return
    if crawl is None:
        raise UsageError(
            "no crawl named; crawlmill fetch CC-MAIN-2025-26 --output DIR, or --list to see which there are"
        )
    if output is None:
        raise UsageError("no folder named; give --output DIR")
    if first is not None and files is not None:
        raise UsageError("--first takes the beginning of the list and --files a draw; give one of them")
    began = time.monotonic()
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[files]}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    bar = bars.add_task("fetching", total=None, files="")

    def planned(plan: Any) -> None:
        size = "of unknown size" if plan.bytes is None else f"of {'' if plan.exact else 'about '}{_size(plan.bytes)}"
        there = f", {len(plan.paths) - len(plan.left):,} are there" if len(plan.left) < len(plan.paths) else ""
        if count or err.is_terminal:
            left = f"{len(plan.left):,} to fetch {size}" if plan.left else "none to fetch"
            (out if count else err).print(f"{len(plan.paths):,} files{there}, {left}", highlight=False)
        if plan.left and not count:
            bars.start()

    def watch(state: Any) -> None:
        bars.update(bar, completed=state.bytes, total=state.total, files=f"{state.files:,}/{state.n_files:,} files")

    try:
        rows = job(
            crawl,
            output,
            kind=kind,
            choice=Choice(first, files, seed, match, segment),
            base=base,
            connections=connections,
            manners=manners,
            verify=verify,
            count=count,
            planned=planned,
            watch=watch,
        )
    finally:
        bars.stop()
    if not count:
        out.print(
            f"{len(rows):,} files of {_size(total_bytes(rows))} in {escape(output)}, checked as fetched.jsonl says "
            f"({time.monotonic() - began:.1f} s)",
            highlight=False,
            soft_wrap=True,
        )


def select(
    crawl: Annotated[str, typer.Argument(help="Such as CC-MAIN-2025-26.", show_default=False)],
    output: Annotated[
        str | None,
        typer.Option("--output", help="Folder for the records: a path or an s3:// address.", show_default=False),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Condition on columns of the index, in Spark's SQL.", show_default=False),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option("--language", help="Main language (ISO 639-3: isl). May be repeated.")
    ] = None,
    mime: Annotated[
        list[str] | None, typer.Option("--mime", help="Media type as detected: text/html. May be repeated.")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", help="Registered domain: example.com. May be repeated.")
    ] = None,
    host: Annotated[list[str] | None, typer.Option("--host", help="Host: www.example.com. May be repeated.")] = None,
    status: Annotated[list[int] | None, typer.Option("--status", help="HTTP status: 200. May be repeated.")] = None,
    sample: Annotated[float | None, typer.Option("--sample", help="Share of the records, drawn by --seed.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="So many records at most, drawn by --seed.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other records.")] = 0,
    count: Annotated[
        bool, typer.Option("--count", help="Say how many records and bytes it would be, and fetch none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --count: as JSON.")] = False,
    subset: Annotated[str, typer.Option("--subset", help=f"Part of the index: {', '.join(SUBSETS)}.")] = "warc",
    index: Annotated[
        str | None,
        typer.Option("--index", help="Files of the index, where they are elsewhere: a folder, glob or address."),
    ] = None,
    connections: Annotated[
        int, typer.Option("--connections", help="Requests at a time, over the whole cluster.", min=1, max=64)
    ] = 4,
    tolerate: Annotated[
        float, typer.Option("--tolerate", help="Share of the records that may be missing or wrong.", min=0, max=1)
    ] = 0.01,
    master: Annotated[str | None, typer.Option("--master", help="Spark master; all local cores if not given.")] = None,
    rate: _Rate = None,
    contact: _Contact = None,
    base: _Base = HTTPS,
) -> None:
    """Fetch just the records of a crawl that a query on its index names, as WARC files.

    The folder is then an --input of `crawlmill run`. Run the same command again to go on.
    """
    from jobs.index_query import Query
    from jobs.select_records import Source
    from jobs.select_records import count as counted
    from jobs.select_records import select as job

    if count == (output is not None):
        raise UsageError("give --count to see what it would be, or --output to fetch it")
    manners = _manners(contact, rate)
    source = Source(crawl, base, index, subset)
    query = Query(
        where=where,
        languages=tuple(sorted(language or ())),
        mimes=tuple(sorted(mime or ())),
        domains=tuple(sorted(domain or ())),
        hosts=tuple(sorted(host or ())),
        statuses=tuple(sorted(status or ())),
        sample=sample,
        limit=limit,
        seed=seed,
    )
    if output is None:
        _show_counts(counted(source, query, manners=manners, connections=connections, master=master), as_json)
        return
    began = time.monotonic()
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        "left",
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=err, disable=not err.is_terminal)
    bar = bars.add_task("reading the index", total=None)

    def planned(info: dict[str, Any]) -> None:
        bars.update(bar, description=f"fetching {_size(info['bytes'])} from {info['archives']:,} archives")

    def watch(n: int, total: int) -> None:
        bars.update(bar, completed=n, total=max(1, total))

    with bars:
        done = job(
            source,
            query,
            output,
            manners=manners,
            connections=connections,
            tolerate=tolerate,
            master=master,
            planned=planned,
            watch=watch,
        )
    totals = done["totals"]
    failed = sum(totals["problems"].values())
    out.print(
        f"{totals['selected'] - failed:,} records of {_size(totals['bytes'])} in {totals['archives']:,} archives"
        + (f", {failed:,} could not be had (column `problem` of selection.parquet)" if failed else "")
        + f" ({time.monotonic() - began:.1f} s). Next: crawlmill run --input {escape(output)} --output OUT",
        highlight=False,
        soft_wrap=True,
    )


def _manners(contact: str | None, rate: str | None) -> Any:
    from pipeline.sources.origin import Manners

    try:
        number = None if rate is None else int(parse_bytes(rate if not rate.isdigit() else f"{rate}B"))
    except ValueError as error:
        raise UsageError(f"--rate: {error}") from None
    if number is not None and number < 1:
        raise UsageError("--rate: give 1 byte a second or more")
    manners = Manners(contact=contact, rate=number)
    _ = manners.user_agent  # raises for a contact that no header can hold
    return manners


def _show_counts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(out, facts)
        return
    out.print(
        f"{facts['records']:,} records of {_size(facts['bytes'])} in {facts['archives']:,} archives of {facts['crawl']}",
        highlight=False,
    )
    for name, title in (("languages", "main language"), ("domains", "domain"), ("media_types", "media type")):
        table = Table(box=None, pad_edge=False)
        table.add_column(title, overflow="fold")
        table.add_column("records", justify="right")
        table.add_column("size", justify="right")
        for row in facts[name]:
            table.add_row(escape(row["name"] or "unknown"), f"{row['records']:,}", _size(row["bytes"]))
        out.print(table)


def _size(n: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n} bytes"
