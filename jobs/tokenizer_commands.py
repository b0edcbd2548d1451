"""`crawlmill tokenizer …`: train a tokenizer on runs, and see what one does to texts or did to shards."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import escape, print_json
from pipeline.errors import InputError, RecipeError, UsageError

app = typer.Typer(help="Tokenizers: train one on runs, see what it does to texts.", no_args_is_help=True)
out = Console()

TOKENS = 1 << 24
"""Tokens of shards that are counted at once."""


@app.command(epilog="Example: crawlmill tokenizer train web-run books-run --output tokenizer --vocab-size 32768")
def train(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Finished runs, or NAME=PATH of Parquet files; a source has the name that they say."),
    ],
    output: Annotated[str, typer.Option("--output", help="Folder for the tokenizer and its report.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of options; those given here go before it.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens: bytes, merges and special ones.")] = None,
    words: Annotated[str | None, typer.Option(help="How words are split: gpt2, gpt4 or gpt4o.")] = None,
    digits: Annotated[str | None, typer.Option(help="Digits stay together in runs, triples or single.")] = None,
    spaces: Annotated[str | None, typer.Option(help="White space stays together in runs, lines or single.")] = None,
    min_frequency: Annotated[int | None, typer.Option(help="Least count of a merge.")] = None,
    special: Annotated[
        list[str] | None, typer.Option(help="Special token; may be repeated. The first one ends a text.")
    ] = None,
    bytes_: Annotated[str | None, typer.Option("--bytes", help="Text to learn from, such as 1GB.")] = None,
    shares: Annotated[
        str | None, typer.Option(help="equal, proportional, or weights by source: web:2,books:1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed draws other documents.")] = None,
    text: Annotated[str, typer.Option(help="Column of texts.")] = "text",
    master: Annotated[str | None, typer.Option(help="Spark master; without it all is done in this process.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train byte-level BPE on a sample of the texts of several sources.

    The report is made on documents that were held out. Run the same command again to go on after an interruption.
    """
    from jobs.session import session
    from jobs.train_tokenizer import train_tokenizer
    from pipeline.tokenizer.training import load_options, parse_options

    given: dict[str, Any] = {
        "vocab_size": vocab_size,
        "words": words,
        "digits": digits,
        "spaces": spaces,
        "min_frequency": min_frequency,
        "special": tuple(special) if special else None,
        "end_of_text": special[0] if special else None,
        "bytes": bytes_,
        "shares": _shares(shares) if shares else None,
        "seed": seed,
    }
    base = load_options(str(config)).model_dump() if config else {}
    options = parse_options(base | {name: value for name, value in given.items() if value is not None})
    info = train_tokenizer(session("tokenizer", master) if master else None, inputs, output, options, text=text)
    from jobs.store import RunFolder

    facts = RunFolder(output).read_json("report.json") or {}
    if as_json:
        print_json(out, facts)
        return
    for source, size in info["sources"].items():
        out.print(
            f"{escape(source)}: learned from {size['sample_bytes']:,} of {size['bytes']:,} bytes "
            f"({size['documents']:,} documents)",
            highlight=False,
        )
    _show(facts)
    out.print(f"texts are encoded by {info['tokenizer']['engine']}", highlight=False)
    if info["fallback"]:
        out.print(f"  since {escape(info['fallback'])}", highlight=False, soft_wrap=True)
    out.print(f"tokenizer: {escape(output.rstrip('/'))}/tokenizer.json", highlight=False, soft_wrap=True)


@app.command(epilog="Example: crawlmill tokenizer report tokenizer.json --texts web-run")
def report(
    path: Annotated[
        str,
        typer.Argument(help="Token folder or mix, folder of `tokenizer train`, tokenizer.json, or GPT-2's two files."),
    ],
    texts: Annotated[
        list[str] | None, typer.Option(help="Runs or NAME=PATH of Parquet files to encode; may be repeated.")
    ] = None,
    eos: Annotated[str | None, typer.Option(help="The token that ends a text, where it is not clear.")] = None,
    text: Annotated[str, typer.Option(help="Column of texts.")] = "text",
    engine: Annotated[str, typer.Option(help="auto, gigatoken or tokenizers.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a tokenizer does: bytes per token by source and language, unused tokens, whether texts come back.

    Of a token folder its tokens are counted; of a training the documents that were held out are encoded, or those of
    --texts.
    """
    facts = _reported(path, texts or [], eos, text, engine)
    if as_json:
        print_json(out, facts)
        return
    _show(facts)


def _reported(path: str, texts: list[str], eos: str | None, text: str, engine: str) -> dict[str, Any]:
    from jobs.store import RunFolder
    from jobs.train_tokenizer import add_table, find_texts, read_texts, trained
    from pipeline.tokenizer.encoding import Encoder
    from pipeline.tokenizer.files import load
    from pipeline.tokenizer.report import Usage

    if engine not in ("auto", "gigatoken", "tokenizers"):
        raise UsageError(f"--engine is auto, gigatoken or tokenizers, not {engine!r}")
    shards = sorted(Path(path).rglob("shard-*.idx")) if Path(path).is_dir() else []
    if shards and not texts:
        return _stored(Path(path), shards, eos)
    learned = None if eos or not Path(path).is_dir() else trained(path)
    tokenizer = learned or load(path, eos)
    held = [] if texts else RunFolder(path).list("held", ".parquet") if Path(path).is_dir() else []
    if not texts and not held:
        raise UsageError(f"{path} holds no texts; name runs or Parquet files with --texts")
    usage, encoder = Usage(tokenizer), Encoder(tokenizer, engine)  # type: ignore[arg-type]
    for name in held:
        add_table(usage, encoder, RunFolder(path).read_table(name))
    for file in find_texts(texts) if texts else []:
        for _, rows in read_texts(file, text):
            add_table(usage, encoder, rows)
    return usage.facts() | {"encoder": encoder.name, "fallback": encoder.fallback}


def _stored(folder: Path, shards: list[Path], eos: str | None) -> dict[str, Any]:
    """What the shards of a token folder or of a mix hold."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.tokenizer.files import load
    from pipeline.tokenizer.report import Usage
    from trainer.shards import Shard

    home = next((place for place in (folder, *folder.resolve().parents) if (place / "tokenizer.json").is_file()), None)
    if home is None:
        raise InputError(f"{folder} holds shards and no tokenizer.json; copy the folder as a whole")
    noted = home / "tokens.json"
    if eos is None and noted.is_file():
        eos = json.loads(noted.read_bytes())["tokenizer"]["eos_token"]
    tokenizer = load(home, eos)
    usage = Usage(tokenizer)
    for index in shards:
        shard = Shard.open(index.with_suffix(""))
        if shard.manifest is not None and shard.manifest["tokenizer"] != tokenizer.sha256:
            raise InputError(f"{index.with_suffix('')} was made with another tokenizer than {home}/tokenizer.json")
        try:
            columns = ["n_tokens", "n_bytes", "source", "language"]
            documents = pq.read_table(index.with_suffix(".docs.parquet"), columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"cannot read {index.with_suffix('.docs.parquet')}: {error}") from error
        if documents.num_rows != len(shard):
            raise InputError(f"{index.with_suffix('')} holds {len(shard)} documents, its table {documents.num_rows}")
        first = 0
        while first < len(shard):
            end = int(np.searchsorted(shard.starts, shard.starts[first] + TOKENS, "right")) - 1
            last = max(first + 1, min(len(shard), end))
            rows = documents.slice(first, last - first)
            usage.add_tokens(
                np.asarray(shard.tokens[shard.starts[first] : shard.starts[last]]),
                shard.lengths[first:last].astype(np.int64),
                rows.column("n_bytes").to_numpy(),
                rows.column("source").to_pylist(),
                rows.column("language").to_pylist(),
            )
            first = last
    return usage.facts() | {"encoder": None, "fallback": None}


def _shares(given: str) -> Any:
    if given in ("equal", "proportional"):
        return given
    weights = {}
    for part in given.split(","):
        source, sign, weight = part.strip().rpartition(":")
        try:
            weights[source] = float(weight)
        except ValueError:
            sign = ""
        if not sign:
            raise RecipeError(f"--shares is equal, proportional or SOURCE:WEIGHT,…, not {given!r}")
    return weights


def _show(facts: dict[str, Any]) -> None:
    """The report as tables."""
    tokenizer = facts["tokenizer"]
    out.print(
        f"{tokenizer['vocab_size']:,} tokens, {len(tokenizer['special'])} of them special, end of text "
        f"{escape(tokenizer['eos_token'])} ({tokenizer['eos']}), sha256 {tokenizer['sha256'][:16]}",
        highlight=False,
        soft_wrap=True,
    )
    for title in ("sources", "languages"):
        groups = dict(list(facts[title].items())[:EXAMPLES]) | {"all": facts["all"]}
        table = Table(box=None, pad_edge=False, collapse_padding=True)
        table.add_column(title.removesuffix("s"))
        for column in ("documents", "bytes", "tokens", "bytes/token", "tokens/word", "parts", "round trips"):
            table.add_column(column, justify="right")
        for name, group in groups.items():
            table.add_row(
                escape(name),
                *(f"{group[column]:,}" for column in ("documents", "bytes", "tokens")),
                *(_number(group[column]) for column in ("bytes_per_token", "tokens_per_word")),
                *(_percent(group[column]) for column in ("parts", "round_trips")),
            )
        out.print(table)
        if len(facts[title]) > EXAMPLES:
            out.print(f"  and {len(facts[title]) - EXAMPLES} more {title} (all with --json)", highlight=False)
    unused = facts["unused"]
    out.print(f"unused: {unused['tokens']:,} tokens, {unused['share']:.1%}", highlight=False)
    for title, tokens in (
        ("for example", unused["examples"]),
        ("longest", facts["longest"]),
        ("most frequent", facts["most_frequent"]),
    ):
        if tokens:
            shown = " ".join(escape(json.dumps(token["text"][:40], ensure_ascii=False)) for token in tokens)
            out.print(f"{title}: {shown}", highlight=False, soft_wrap=True)


EXAMPLES = 30
"""Sources and languages that are shown; those with the most text."""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    # Of a million documents one that fails must show.
    return (
        ""
        if value is None
        else "100 %"
        if value == 1
        else f"{int(value * 1e6) / 1e4:.4f} %"
        if value > 0.99
        else f"{value:.1%}"
    )
