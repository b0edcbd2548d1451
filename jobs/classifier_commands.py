"""`crawlmill references` and `crawlmill classifier …`: from a dump of Wikipedia to a score on every text."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import escape, print_json
from pipeline.errors import InputError, UsageError

app = typer.Typer(help="Classifiers: train one on a run, see what it is worth, score texts.", no_args_is_help=True)
out = Console()

_Model = Annotated[str, typer.Argument(help="Name of a model that ships, or path of a .ftz or .bin file.")]
_Normalisation = Annotated[
    str | None, typer.Option(help="How the texts of a model without facts beside it were normalised.")
]
_Label = Annotated[str | None, typer.Option(help="Label that is scored, instead of the model's own.")]
_Field = Annotated[str, typer.Option(help="Name of the text field in JSON and Parquet.")]


def references(
    inputs: Annotated[list[str], typer.Argument(help="Dumps: pages-articles*.xml.bz2, or externallinks.sql.gz.")],
    output: Annotated[str, typer.Option("--output", help="Folder for the table of addresses and the account.")],
    per_host: Annotated[int | None, typer.Option(help="Addresses of one host at most.", min=1)] = None,
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="Citations that count; may be repeated. All, if not given.")
    ] = None,
    tolerate: Annotated[
        float, typer.Option(help="Share of files or bytes that may be unreadable.", min=0, max=1)
    ] = 0.01,
    partitions: Annotated[int | None, typer.Option(help="Spark tasks to use.", min=1)] = None,
    master: Annotated[str | None, typer.Option(help="Spark master; all local cores if not given.")] = None,
) -> None:
    """Read dumps of Wikipedia and write the addresses that they cite."""
    from jobs.references import KINDS, PER_HOST
    from jobs.references import references as job
    from jobs.session import session

    account = job(
        lambda: session("references", master),
        inputs,
        output,
        per_host=per_host or PER_HOST,
        kinds=kinds or KINDS,
        tolerate=tolerate,
        partitions=partitions,
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in account.items():
        if isinstance(value, int | float):
            table.add_row(name.replace("_", " "), f"{value:,}")
    out.print(table)


@app.command(epilog="Example: crawlmill classifier train out --references references --output quality")
def train(
    run: Annotated[str, typer.Argument(help="A run, measured to the end.")],
    output: Annotated[str, typer.Option("--output", help="Folder for the training set, the model and its card.")],
    references: Annotated[
        str | None, typer.Option(help="What `crawlmill references` wrote, or a list of addresses: the positives.")
    ] = None,
    positive: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="File of further positives; may be repeated.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="File of further negatives; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "quality",
    match: Annotated[str, typer.Option(help="What has to be referenced: url, host or domain.")] = "url",
    held_out: Annotated[float, typer.Option(help="Share of the domains that is held out.", min=0, max=1)] = 0.2,
    most: Annotated[int, typer.Option(help="Positives at most.", min=1)] = 200_000,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.", min=0)] = 1,
    config: Annotated[Path | None, typer.Option(help="YAML file of training options.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe that says which pages are kept, instead of the run's.")
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="Parquet of rows of a crawl's index: where addresses to fetch lie.")
    ] = None,
    master: Annotated[str | None, typer.Option(help="Spark master; without it all is done in this process.")] = None,
) -> None:
    """Train a classifier that tells referenced pages from random ones of the same crawl.

    Leaves the training set, the model with its card, and a list of referenced addresses that the crawl does not hold.
    """
    from classifiers.training import load_options
    from classifiers.training_set import TrainingSetOptions
    from jobs.runs import existing_run
    from jobs.session import session
    from jobs.train_classifier import train_classifier
    from pipeline.recipe import load_recipe

    files = [_file(text, True) for text in positive or []] + [_file(text, False) for text in negative or []]
    if match not in ("url", "host", "domain"):
        raise UsageError(f"--match is url, host or domain, not {match!r}")
    facts = train_classifier(
        session("train", master) if master else None,
        existing_run(run, load_recipe(recipe) if recipe else None),
        output,
        references=references,
        name=name,
        options=TrainingSetOptions.model_validate({"match": match, "held_out": held_out, "most": most, "seed": seed}),
        training=load_options(config) if config else None,
        files=files,
        index=index,
        command=" ".join(["crawlmill", *sys.argv[1:]]),
    )
    area = facts["evaluation"]["roc_auc"]
    out.print(
        f"ROC AUC on held-out domains {area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})", highlight=False
    )
    if references:
        held, missing = facts["references_held"], facts["references_missing"]
        out.print(f"{held:,} referenced addresses are in the crawl, {missing:,} are to be fetched", highlight=False)
    out.print(f"model and card: {escape(str(facts['model']))}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: crawlmill classifier evaluate toxicity held-out.jsonl --positive toxic")
def evaluate(
    model: _Model,
    path: Annotated[Path, typer.Argument(help="JSONL or Parquet with a text, a label and perhaps a group.")],
    positive: Annotated[str, typer.Option(help="Label in the file that the scored label stands for.")],
    field: _Field = "text",
    label_field: Annotated[str, typer.Option(help="Name of the field of labels.")] = "label",
    group_field: Annotated[
        str | None, typer.Option(help="Field of what belongs together (domains), for the intervals.")
    ] = None,
    label: _Label = None,
    normalisation: _Normalisation = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a model's scores are worth on labelled texts: areas with intervals, reliability, thresholds."""
    from classifiers.evaluation import evaluate as evaluated

    rows = _rows(path, [field, label_field, *([group_field] if group_field else [])])
    head = _head(model, normalisation, label)
    scores = head.score(_texts(rows, field))
    truth = [str(row[label_field]) == positive for row in rows]
    facts = evaluated(scores, truth, groups=[row[group_field] for row in rows] if group_field else None)
    if as_json:
        print_json(out, facts)
        return
    for name in ("roc_auc", "average_precision"):
        found = facts[name]
        out.print(f"{name} {found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f})", highlight=False)
    out.print(f"{facts['examples']:,} texts, {facts['positives']:,} of them {escape(positive)}; calibration error "
              f"{facts['calibration_error']:.3f}", highlight=False)  # fmt: skip
    _show(facts["thresholds"])
    _show(facts["reliability"])


@app.command(epilog="Example: crawlmill classifier score toxicity notes.jsonl")
def score(
    model: _Model,
    path: Annotated[
        Path, typer.Argument(help="Folder of .txt files, .txt (a text a line), .jsonl, .jsonl.gz or .parquet.")
    ],
    field: _Field = "text",
    label: _Label = None,
    normalisation: _Normalisation = None,
) -> None:
    """Score texts: a line of JSON for each, in order; null where a text has nothing that the model reads."""
    from pipeline.dedup.local import read_texts

    head = _head(model, normalisation, label)
    named = read_texts(path, field)
    if head.scored is None:
        classes, scores = head.topics(named.texts)
        rows = [{"label": c, "score": s} for c, s in zip(classes.to_pylist(), scores.to_pylist(), strict=True)]
    else:
        rows = [{"score": s} for s in head.score(named.texts).to_pylist()]
    for name, row in zip(named.names, rows, strict=True):
        sys.stdout.write(json.dumps({"name": name, **row}, ensure_ascii=False) + "\n")


@app.command(epilog="Example: crawlmill classifier models")
def models() -> None:
    """List the models that ship, with where their cards are."""
    from classifiers.scoring import Head
    from pipeline.scores import MODELS

    table = Table(box=None, pad_edge=False)
    for name in ("model", "scores", "size", "card"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for path in sorted(MODELS.glob("*.ftz")):
        head = Head.open(path)
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        table.add_row(head.name, head.scored or ", ".join(head.labels), size, str(path.with_suffix(".md")))
    out.print(table)


def _file(text: str, positive: bool) -> Any:
    from jobs.train_classifier import TextFile

    name, _, path = text.partition("=")
    if not name or not path:
        raise UsageError(f"{text!r} is no NAME=PATH")
    return TextFile(name, path, positive)


def _head(model: str, normalisation: str | None, label: str | None) -> Any:
    from classifiers.scoring import Head
    from pipeline.scores import HeadOptions

    return Head.open(HeadOptions(model=model).path, normalisation=normalisation, scored=label)


def _rows(path: Path, fields: list[str]) -> list[dict[str, Any]]:
    """The rows of a JSONL or Parquet file. Raises InputError for a field that is not there."""
    from pipeline.contamination.rows import find_files, read_bytes, read_rows

    (found,) = find_files([str(path)])
    rows = read_rows(found, read_bytes(found))
    for row in rows:
        for name in fields:
            if name not in row.fields:
                raise InputError(f"{path}, {row.where}: no field {name!r}; there are {', '.join(row.fields)}")
    return [row.fields for row in rows]


def _texts(rows: list[dict[str, Any]], field: str) -> Any:
    import pyarrow as pa

    return pa.array([None if row[field] is None else str(row[field]) for row in rows], pa.large_string())


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    out.print(table)
