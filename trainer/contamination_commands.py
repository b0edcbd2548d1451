"""`crawlmill contamination`: whether a model was trained on a test set."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import UsageError
from trainer.evaluation_commands import write_report

if TYPE_CHECKING:
    from trainer.contamination import Confound, Finding, Options, Published, TextLikelihood

out = Console()

SHOWN = 5
"""Lines of a file that a message names."""
CONFOUNDS = {
    "length": "neighbours are of more similar length",
    "alphabet": "neighbours are closer in the alphabet",
    "wording": "neighbours share more words",
    "answer": "neighbours have the same right answer more often",
}


def contamination(
    source: Annotated[
        Path, typer.Argument(help="A run's folder, one of its checkpoints, or a folder that transformers loads.")
    ],
    sets: Annotated[
        list[Path],
        typer.Option("--set", help="Task file (YAML) or JSONL, as for evaluate, in published order; may be repeated."),
    ],
    form: Annotated[
        Literal["prompt", "line"],
        typer.Option("--as", help="What is read as an item: prompt and right answer, or the very line of the file."),
    ] = "prompt",
    kind: Annotated[
        Literal["text", "letter", "cloze"] | None, typer.Option(help="How items are asked, whatever their files say.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first items of each set only.", min=1)] = None,
    separator: Annotated[
        str | None, typer.Option(help="Between items, \\n for a line's end; an empty line, or with --as line none.")
    ] = None,
    shuffles: Annotated[int, typer.Option(help="Shuffles of each shard.", min=1)] = 51,
    shard_items: Annotated[int | None, typer.Option(help="Items of a shard; by the size of the set.", min=2)] = None,
    seed: Annotated[int, typer.Option(help="Which shuffles are drawn.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at the sets, say what the test costs, no more.")
    ] = False,
    report: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Type to compute in.")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a forward pass.", min=1)] = 16_384,
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json, where the model does not lead to it.")] = None,
    eos: Annotated[str | None, typer.Option(help="The token that ends texts, where it is not known.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens that the model looks at, where it is not known.", min=2)
    ] = None,
) -> None:
    """Test whether a model was trained on a test set: are its items likelier in their published order than shuffled?

    Example: crawlmill contamination runs/350m --set arc.yaml --set gsm8k.jsonl --json contamination.json
    """
    from trainer.contamination import Options, TextLikelihood, confounds, examine, read_published, to_json
    from trainer.models import open_model, pick
    from trainer.scoring import Scorer

    between = separator.replace("\\n", "\n") if separator is not None else "\n" if form == "line" else "\n\n"
    options = Options(shuffles, seed, between, shard_items)
    # All that can be wrong with files is found before a model is read.
    read = [read_published(path, form, kind, limit) for path in sets]
    names = [one.name for one in read]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--set: {twice[0]!r} stands twice; its figures could not be told apart: name one otherwise")
    where, computed_in = pick(device, dtype)
    with _memory(source, batch_tokens):
        found = open_model(source, where, computed_in, tokenizer, eos, context)
        likelihood = TextLikelihood(Scorer(found.model, found.context, batch_tokens, share=False), found.vocabulary)
        warned = {one.name: confounds(one, seed) for one in read}
        for one in read:
            _warn(one, warned[one.name], likelihood)
        _show_cost(read, options, likelihood)
        if dry_run:
            return
        findings = {one.name: examine(one, likelihood, options, _Pace()) for one in read}
    _show(findings, warned)
    if report is not None:
        model = {
            "path": str(source), "step": found.step, "tokens": found.tokens, "context": found.context,
            "dtype": computed_in, "tokenizer": found.vocabulary.sha256,
        }  # fmt: skip
        of_sets = {one.name: to_json(one, findings[one.name], warned[one.name], options) for one in read}
        write_report(report, json.dumps({"model": model, "form": form, "sets": of_sets}, indent=1) + "\n")


@contextmanager
def _memory(source: Path, batch_tokens: int) -> Iterator[None]:
    """Says what to do where a model does not fit."""
    import torch

    from trainer.failures import MemoryFullError

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
        if not told:
            raise
        raise MemoryFullError(
            f"{source} does not fit into memory with {batch_tokens:,} tokens at a time: lower --batch-tokens or --context, "
            "take --dtype bfloat16, or a device with more memory"
        ) from error


class _Pace:
    """Says after the first shard how long the others will take."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if done == 1 and of > 1 and (left := (time.monotonic() - self.began) * (of - 1)) > 5:
            _say(f"about {_duration(left)} more for the other {of - 1} shards")


def _warn(one: "Published", warned: Sequence["Confound"], likelihood: "TextLikelihood") -> None:
    from trainer.contamination import LEAST_SHARDS, SHARD, longer_than

    file, n = str(one.file), len(one.texts)
    if one.repeated:
        _say(
            f"{file}: {len(one.repeated)} items are the same as an earlier one ({_lines(one.repeated)}) and are left out: "
            "where they stand would be part of the order",
            "yellow",
        )
    if n < SHARD[0] * LEAST_SHARDS:
        _say(
            f"{file}: {n} items are too few for shards; their orders are ranked as a whole, and little is found",
            "yellow",
        )
    seen = likelihood.scorer.longest - likelihood.stride
    if long := longer_than(one, likelihood.vocabulary, seen):
        _say(
            f"{file}: {len(long)} of {n} items are longer than the {seen:,} tokens that the model always sees before a "
            f"token ({_lines(long)}): it does not see where their neighbours begin, and finds less",
            "yellow",
        )
    for confound in warned:
        _say(
            f"{file}: {CONFOUNDS[confound.what]} than in shuffles ({confound.neighbours:.3f}, by chance "
            f"{confound.chance:.3f}; p = {confound.p:.3f}): any model may find this order likelier, and a small p is no "
            "evidence that it was trained on",
            "yellow",
        )


def _show_cost(read: Sequence["Published"], options: "Options", likelihood: "TextLikelihood") -> None:
    from trainer.contamination import divide
    from trainer.model import flops_per_token

    once = 0
    for one in read:
        texts = [one.texts[s.start : s.stop] for s in divide(len(one.texts), options.shard_items)]
        once += likelihood.tokens([options.separator.join(items) for items in texts])
    tokens = once * (1 + options.shuffles)
    scorer = likelihood.scorer
    flops = tokens * flops_per_token(scorer.model.shape, scorer.longest) / 3  # forward only
    _say(
        f"{sum(len(one.texts) for one in read):,} items in {1 + options.shuffles} orders: {tokens:,} tokens, "
        f"{flops:.2g} operations"
    )


def _show(findings: dict[str, "Finding"], warned: dict[str, list["Confound"]]) -> None:
    from trainer.contamination import LEVEL, POWER

    table = Table(box=None, pad_edge=False)
    for name in (
        "set",
        "items",
        "shards",
        "p",
        "t",
        "p of t",
        "p of orders",
        "nats an item",
        "95 % interval",
        "detectable",
    ):
        table.add_column(name, justify="left" if name == "set" else "right")
    for name, found in findings.items():
        between = "" if found.interval is None else f"{found.interval[0]:+.4f} … {found.interval[1]:+.4f}"
        table.add_row(
            escape(name),
            f"{sum(s.items for s in found.shards):,}",
            f"{len(found.shards):,}",
            _p(found.p),
            "" if found.t is None else f"{found.t:.2f}",
            "" if found.p_t is None else _p(found.p_t),
            _p(found.p_orders),
            f"{found.effect:+.4f}",
            between,
            "" if math.isnan(found.detectable) else f"{found.detectable:.4f}",
        )
    out.print(table)
    n = len(findings)
    bound = LEVEL / n
    for name, found in findings.items():
        if found.p < bound:
            why = (
                "; but its order is no matter of chance (above), so this may say nothing of training"
                if warned[name]
                else ": the model has most likely been trained on it in this order"
            )
            _say(f"{name}: the published order is likelier than chance allows{why}", "bold")
        else:
            _say(
                f"{name}: no sign that the model has read it in this order. Of a gain of {found.detectable:.4f} nats an "
                f"item, {POWER:.0%} of such tests would have told; what was read shuffled, reworded or seldom may leave none"
            )
    if n > 1:
        _say(f"of {n} sets, each is judged by p < {bound:.3g}, so that all together err in {LEVEL:.0%} (Bonferroni)")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _lines(lines: Sequence[int]) -> str:
    return (
        ("line " if len(lines) == 1 else "lines ")
        + ", ".join(map(str, lines[:SHOWN]))
        + (" …" if lines[SHOWN:] else "")
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _say(text: str, style: str | None = None) -> None:
    out.print(escape(text), highlight=False, soft_wrap=True, style=style)
