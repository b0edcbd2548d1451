"""`crawlmill dedup …`: texts without a run, the S-curve, and looking after a band index."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import escape
from pipeline.errors import StorageError, UsageError

app = typer.Typer(help="Duplicates without a run: texts in files, the S-curve, the band index.", no_args_is_help=True)
out = Console()

_Similarity = Annotated[float, typer.Option(help="Least Jaccard similarity of a pair.", min=0, max=1)]


@app.command(epilog="Example: crawlmill dedup texts notes/ --kept kept.jsonl")
def texts(
    path: Annotated[
        Path, typer.Argument(help="Folder of .txt files, .txt (a text a line), .jsonl, .jsonl.gz or .parquet.")
    ],
    field: Annotated[str, typer.Option(help="Name of the text field in JSON and Parquet.")] = "text",
    similarity: _Similarity = 0.75,
    ngram: Annotated[int, typer.Option(help="Words an n-gram.", min=1)] = 5,
    lines: Annotated[
        int | None, typer.Option(help="First cut lines that stand in more than so many texts.", min=1)
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write what became of each text, as JSON lines.")] = None,
    kept: Annotated[Path | None, typer.Option(help="Write the texts that are kept, as JSON lines.")] = None,
) -> None:
    """Find exact and near-duplicates among texts in files, in memory and without Spark."""
    from pipeline.dedup.local import deduplicate, read_texts, repeated_lines, without

    named = read_texts(path, field)
    bodies = named.texts
    if lines is not None:
        spans = repeated_lines(bodies, lines)
        bodies = without(bodies, spans)
        out.print(f"cut {len(spans.rows):,} lines that stand in more than {lines:,} texts", highlight=False)
    found = deduplicate(bodies, ngram=ngram, similarity=similarity)
    rows = range(len(named.names))
    if report is not None:
        _write(
            report,
            (
                {
                    "name": named.names[i],
                    "keeper": named.names[found.keeper[i]],
                    "kept": bool(found.keeper[i] == i),
                    "cluster_size": int(found.size[i]),
                    "similarity": round(float(found.similarity[i]), 4),
                }
                for i in rows
            ),
        )
    if kept is not None:
        _write(kept, ({"name": named.names[i], "text": bodies[i].as_py()} for i in found.kept.tolist()))
    n_kept = len(found.kept)
    n_clusters = len({int(c) for c, size in zip(found.cluster, found.size, strict=True) if size > 1})
    out.print(
        f"{len(rows):,} texts: {n_kept:,} kept, {len(rows) - n_kept:,} duplicates; clusters: {n_clusters:,}",
        highlight=False,
    )


def _write(path: Path, rows: object) -> None:
    try:
        with path.open("w", encoding="utf-8") as sink:
            for row in rows:  # type: ignore[attr-defined]
                sink.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@app.command(epilog="Example: crawlmill dedup curve --bands 14 --rows 8")
def curve(
    bands: Annotated[int | None, typer.Option(help="Bands of the signature.", min=1)] = None,
    rows: Annotated[int | None, typer.Option(help="Values a band.", min=1)] = None,
    target: Annotated[
        float | None, typer.Option(help="Find bands and rows for this similarity instead.", min=0.01, max=0.99)
    ] = None,
    hashes: Annotated[int, typer.Option(help="Values of the signature, with --target.", min=2)] = 112,
) -> None:
    """Show how likely pairs of each similarity become candidates: the S-curve of bands and rows."""
    from pipeline.dedup.minhash import optimal_bands

    if target is not None:
        if bands or rows:
            raise UsageError("give --bands and --rows, or --target")
        bands, rows = optimal_bands(target, hashes)
    if (bands is None) != (rows is None):
        raise UsageError("give --bands and --rows together")
    show_curve(bands or 14, rows or 8)


def show_curve(bands: int, rows: int) -> None:
    """Prints the S-curve of a banding."""
    from pipeline.dedup.minhash import s_curve

    knee = (1 / bands) ** (1 / rows)
    out.print(
        f"{bands} bands of {rows} rows: {bands * rows} hashes, steepest at similarity {knee:.2f}", highlight=False
    )
    for similarity, probability in s_curve(bands, rows):
        bar = "█" * round(40 * probability)
        out.print(f"{similarity:5.2f}  {probability:7.4f}  {bar}", highlight=False)


@app.command(epilog="Example: crawlmill dedup index crawls.index")
def index(folder: Annotated[str, typer.Argument(help="A band index.")]) -> None:
    """Show what a band index holds."""
    from jobs.band_index import existing_index

    opened = existing_index(folder)
    info = opened.folder.read_json("index.json") or {}
    table = Table(box=None, pad_edge=False)
    for name, justify in (
        ("dump", "left"),
        ("added under", "left"),
        ("unit", "left"),
        ("pages", "right"),
        ("texts", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    minhash = info["minhash"]
    for unit in opened.units():
        about = opened.describe(unit)
        pages, held = (
            sum(opened.read(unit, name, shard, ["text_hi"]).num_rows for shard in range(opened.n_shards))
            for name in ("pages", "sketches" if minhash else "pages")
        )
        table.add_row(
            escape(unit.dump), escape(about["recipe"]), unit.name, f"{pages:,}", f"{held:,}" if minhash else ""
        )
    out.print(table)
    if minhash:
        out.print(", ".join(f"{name} {value}" for name, value in minhash.items()), highlight=False)


@app.command(epilog="Example: crawlmill dedup remove crawls.index CC-MAIN-2024-10")
def remove(
    folder: Annotated[str, typer.Argument(help="A band index.")],
    dump: Annotated[str, typer.Argument(help="The dump to remove.")],
) -> None:
    """Remove a dump from a band index; what is left is compared as if it had never been there."""
    from jobs.band_index import existing_index
    from jobs.deduplicate import remove_dump

    remove_dump(existing_index(folder), dump)
    out.print(f"removed {escape(dump)} from {escape(folder)}", highlight=False)
