"""`crawlmill export`, `import` and `evaluate`."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pipeline.errors import StorageError, UsageError

if TYPE_CHECKING:
    from trainer.evals import Metric, TaskResult, TextResult
    from trainer.scoring import Scorer

out = Console()

Source = Annotated[
    Path, typer.Argument(help="A run's folder, one of its checkpoints, or a folder that transformers loads.")
]
Tokenizer = Annotated[Path | None, typer.Option(help="tokenizer.json, where the model does not lead to it.")]
End = Annotated[str | None, typer.Option(help="The token that ends texts, where it is not known.")]
Longest = Annotated[int | None, typer.Option(help="Tokens that the model looks at, where it is not known.", min=2)]


def export(
    source: Source,
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the numbers.")] = "float32",
    tokenizer: Tokenizer = None,
    eos: End = None,
    context: Longest = None,
) -> None:
    """Write a model as transformers and vLLM load it: safetensors, config, tokenizer, model card.

    Example: crawlmill export runs/350m exported/350m --dtype bfloat16
    """
    from trainer.export import export as write

    done = write(source, folder, dtype, tokenizer, eos, context)
    padded = f"; {done.unused} ids only pad the vocabulary and are never generated" if done.unused else ""
    out.print(
        f"{escape(str(done.folder))}: {done.architecture}, {done.bytes / 1e9:,.3f} GB{padded}",
        highlight=False,
        soft_wrap=True,
    )


def import_(
    source: Annotated[Path, typer.Argument(help="A folder of Llama or Qwen3 with safetensors and tokenizer.json.")],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    optimizer: Annotated[
        Literal["adamw", "muon"], typer.Option(help="optim.name of the run that starts from it.")
    ] = "adamw",
    tokenizer: Tokenizer = None,
    eos: End = None,
) -> None:
    """Turn a model of Llama's or Qwen3's format into a checkpoint that training starts from, and evaluation reads.

    Example: crawlmill import downloads/llama-1b runs/llama-1b; crawlmill train --config more.toml --from runs/llama-1b
    """
    from trainer.export import import_ as read

    checkpoint = read(source, folder, optimizer, tokenizer, eos)
    out.print(
        f"{escape(str(checkpoint))}: start from it with --from {escape(str(folder))}, with the \\[model] of "
        f"{escape(str(folder / 'model.toml'))} and data of {escape(str(folder / 'tokenizer.json'))}",
        highlight=False,
        soft_wrap=True,
    )


def evaluate(
    source: Source,
    task: Annotated[
        list[Path] | None,
        typer.Option(help="Task file (YAML), or JSONL with question, choices, answer; may be repeated."),
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Token folder for bits per byte; may be repeated.")
    ] = None,
    texts: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="JSONL with text for bits per byte; may be repeated.")
    ] = None,
    kind: Annotated[
        Literal["text", "letter", "cloze"] | None,
        typer.Option(help="How all tasks are asked, whatever their files say."),
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Examples before each question.", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="Which examples are drawn.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Items of each task, and texts of each file, at most.", min=1)
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Held-out tokens of each source, at most.", min=1)] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    items: Annotated[Path | None, typer.Option(help="Write every item's log-likelihoods to this file (JSONL).")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Type to compute in.")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a forward pass.", min=1)] = 16_384,
    tokenizer: Tokenizer = None,
    eos: End = None,
    context: Longest = None,
) -> None:
    """Measure a model: bits per byte by source, multiple choice and cloze by likelihood. Without a task or texts, a run's
    own held-out text.

    Example: crawlmill evaluate runs/350m --task arc.yaml --held-out wiki=tokens/wiki --json 350m.json
    """
    from trainer.evals import evaluate as ask
    from trainer.evals import evaluate_texts
    from trainer.evals import held_out as held
    from trainer.models import open_model, pick
    from trainer.scoring import Scorer
    from trainer.tasks import read_task

    # All that can be wrong with files is found before a model is read.
    tasks = [read_task(path, kind=kind, shots=shots, seed=seed, limit=limit) for path in task or ()]
    folders, files = _named(held_out or (), "--held-out"), _named(texts or (), "--texts")
    _refuse_twice([t.name for t in tasks], "task")
    for written in (report, items):
        if written is not None and not written.absolute().parent.is_dir():
            raise UsageError(f"{written} cannot be written: {written.parent} is no folder")
    where, computed_in = pick(device, dtype)
    found = open_model(source, where, computed_in, tokenizer, eos, context)
    scorer = Scorer(found.model, found.context, batch_tokens)
    text_results: list[TextResult] = []
    if folders or not (tasks or files):
        text_results += held(found, folders, tokens, batch_tokens)
        if not text_results:
            raise UsageError(f"{source} has no held-out text of its own: name some with --held-out, --texts or --task")
    task_results = []
    with _watched(scorer) as begin:
        for name, path in files.items():
            begin(name)
            text_results.append(evaluate_texts(scorer, found, name, path, limit))
        for each in tasks:
            begin(each.name)
            task_results.append(ask(scorer, found, each))
    _show_texts(text_results)
    for result in task_results:
        _warn_of_cut(result, scorer.longest)
    _show_tasks(task_results)
    if items is not None:
        rows = (json.dumps(row, ensure_ascii=False) for result in task_results for row in result.items)
        write_report(items, "".join(f"{row}\n" for row in rows))
    if report is not None:
        body = {
            "model": {
                "path": str(source), "step": found.step, "tokens": found.tokens, "context": found.context,
                "dtype": computed_in, "tokenizer": found.vocabulary.sha256,
            },
            "texts": {r.name: _of_texts(r) for r in text_results},
            "tasks": {r.task.name: _of_task(r) for r in task_results},
        }  # fmt: skip
        write_report(report, json.dumps(body, indent=1) + "\n")


@contextmanager
def _watched(scorer: "Scorer") -> Iterator[Callable[[str], None]]:
    """Shows how far each task is, on a terminal only, and leaves nothing of it behind."""
    with Progress(console=Console(stderr=True), transient=True) as progress:

        def begin(name: str) -> None:
            bar = progress.add_task(escape(name), total=None)
            scorer.told = lambda done, of: progress.update(bar, completed=done, total=of)

        yield begin
    scorer.told = None


def _named(given: Iterable[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not sign or not name or not path:
            raise UsageError(f"{option} {text!r}: write NAME=PATH, such as wiki=tokens/wiki")
        _refuse_twice([*found, name], option)
        found[name] = path
    return found


def _refuse_twice(names: Sequence[str], what: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{what}: {twice!r} stands twice; its figures could not be told apart: name one otherwise")


def _warn_of_cut(result: "TaskResult", longest: int) -> None:
    if not result.cut:
        return
    shown = ", ".join(map(str, result.cut[:5])) + (" …" if len(result.cut) > 5 else "")
    out.print(
        f"{escape(str(result.task.file))}: {len(result.cut)} of {len(result.items)} items are longer than the "
        f"{longest:,} tokens that the model looks at and lost their beginnings (line {shown})",
        highlight=False,
        soft_wrap=True,
        style="yellow",
    )


def _show_texts(results: Sequence["TextResult"]) -> None:
    if not results:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("text", "bits per byte", "±", "perplexity a token", "tokens"):
        table.add_column(name, justify="left" if name == "text" else "right")
    for r in results:
        bits, error = f"{r.bits_per_byte.value:.4f}", _error(r.bits_per_byte, ".4f")
        table.add_row(escape(r.name), bits, error, f"{r.perplexity.value:,.2f}", f"{r.n_tokens:,}")
    out.print(table)


def _show_tasks(results: Sequence["TaskResult"]) -> None:
    if not results:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("task", "kind", "shots", "items", "metric", "value", "±"):
        table.add_column(name, justify="left" if name in ("task", "kind", "metric") else "right")
    for r in results:
        n = f"{len(r.items):,}" + (f" of {r.task.available:,}" if len(r.items) < r.task.available else "")
        head = [escape(r.task.name), r.task.kind, str(r.task.shots), n]
        for name, metric in r.metrics.items():
            table.add_row(*head, name, f"{metric.value:.4f}", _error(metric, ".4f"))
            head = [""] * 4
    out.print(table)


def _error(metric: "Metric", form: str) -> str:
    return "" if metric.error is None else format(metric.error, form)


def _of_texts(r: "TextResult") -> Mapping[str, Any]:
    return {
        "bits_per_byte": _of_metric(r.bits_per_byte),
        "perplexity": _of_metric(r.perplexity),
        "bytes": r.n_bytes,
        "tokens": r.n_tokens,
        "parts": r.parts,
    }


def _of_task(r: "TaskResult") -> Mapping[str, Any]:
    return {
        "file": str(r.task.file),
        "kind": r.task.kind,
        "shots": r.task.shots,
        "items": len(r.items),
        "available": r.task.available,
        "cut": list(r.cut),
        "metrics": {name: _of_metric(metric) for name, metric in r.metrics.items()},
    }


def _of_metric(metric: "Metric") -> Mapping[str, float | None]:
    return {"value": metric.value, "standard_error": metric.error}


def write_report(path: Path, text: str) -> None:
    """Writes a file of figures, whole or not at all. Raises StorageError."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
