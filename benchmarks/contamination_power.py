"""Power and false alarms of the contamination test, from one small model that has read test sets 0, 1, 2 … 64 times.

    python -m benchmarks.contamination_power TOKENS [TOKENS …] --plot benchmarks/contamination_power.png

TOKENS are token folders of ordinary text (`crawlmill tokenize`); their texts are tokenized anew with a small vocabulary.
Two kinds of sets are planted, each in an order drawn once and called the published one:

- sentences: real ones, of documents that nothing else is taken from, one here and one there
- questions: about invented people and places, from a grammar, with their answers

Every copy of a set is one document, shuffled among the others. The model is then asked as `crawlmill contamination` asks.
"""

import argparse
import hashlib
import json
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainer.config import from_mapping
from trainer.contamination import LEVEL, Options, Shard, TextLikelihood, examine, judge, published
from trainer.models import open_model
from trainer.parallel import start, stop
from trainer.planting import Level, Planted, curve, plant, train_tokenizer
from trainer.scoring import Scorer
from trainer.shards import TokenStore
from trainer.train import Trainer
from trainer.vocabulary import Vocabulary, end_beside

SETS = {0: 150, 1: 10, 2: 12, 4: 12, 8: 6, 16: 4, 32: 2, 64: 1}
"""Sets of each kind by copies: text is dear, so those of many copies are fewer, and those of none cost none."""
PIECE = 20_000
"""Characters of a text, at most: a book is many."""
STARTS = ["b", "br", "d", "f", "g", "gr", "h", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z"]
MIDDLES = ["a", "e", "i", "o", "u", "ai", "ou", "ea"]
ENDS = ["l", "m", "n", "r", "s", "th", "nd", "rk", "v", "x"]
PLACES = ["river", "town", "mountain", "valley", "island", "harbour", "castle", "bridge", "lake", "forest"]
ASKED = (
    "Who built the {place} of {a}?|{b}",
    "What is the {place} of {a} named after?|the {place} of {b}",
    "In which year was the {place} at {a} first seen?|{year}",
    "Which {place} lies next to {a}?|{b}",
    "How far is it from {a} to {b}?|{number} miles",
    "When did {a} fall to the army of {b}?|in {year}",
    "What do they sell at the market of {a}?|{b} wool",
    "Of what is the {place} of {a} made?|of {b} stone",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", nargs="+", type=Path)
    parser.add_argument("--items", type=int, default=50, help="of a set")
    parser.add_argument("--text", type=int, default=2_000_000, help="characters of ordinary text, at most")
    parser.add_argument("--sets", type=float, default=1.0, help="factor on the number of sets")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--shuffles", type=int, default=11, help="the mean of few is enough here")
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the run and every set's result there")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        _measure(asked, asked.out or Path(scratch))


def _measure(asked: argparse.Namespace, folder: Path) -> None:
    began = time.perf_counter()
    sets, texts = _material(asked)
    options = Options(shuffles=asked.shuffles, seed=asked.seed)
    words = train_tokenizer(texts[:: max(1, len(texts) // 2000)], asked.vocabulary, folder / "tokenizer.json")
    n, own = plant(folder / "tokens", words, texts, sets, options.separator, asked.seed)
    trained, seconds = time.perf_counter(), {}
    result = _train(asked, folder)
    seconds["training"] = time.perf_counter() - trained
    opened = open_model(folder / "run")
    likelihood = TextLikelihood(Scorer(opened.model, opened.context, share=False), opened.vocabulary)
    parameters = sum(p.numel() for p in opened.model.parameters())
    asking = time.perf_counter()
    rows: list[dict[str, Any]] = []
    chance: list[float] = []
    for one in sets:
        found = examine(published(one.name, Path(one.name), one.texts, range(len(one.texts))), likelihood, options)
        row = {"set": one.name, "kind": one.name.split("-")[0], "copies": one.copies, "p": found.p, "p_t": found.p_t}
        rows.append(row | {"p_orders": found.p_orders, "effect": found.effect, "detectable": found.detectable})
        if not one.copies:
            chance += [_as_published(found.shards, place) for place in range(asked.shuffles)]
    seconds["asking"] = time.perf_counter() - asking
    seconds["all"] = time.perf_counter() - began
    if asked.out:
        (asked.out / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(
        f"{parameters / 1e6:.2f} M parameters ({asked.layers} layers of {asked.width}, {asked.vocabulary:,} tokens), "
        f"one epoch of {n:,} tokens, of which {own:,} are copies of {sum(s.copies > 0 for s in sets)} sets; "
        f"loss {result.loss:.3f}\nsets of {asked.items} items, {asked.shuffles} shuffles, seed {asked.seed}; "
        + ", ".join(f"{name} {value:,.0f} s" for name, value in seconds.items())
        + f" on {torch.get_num_threads()} threads\n"
    )
    curves = {kind: curve(_of(rows, kind)) for kind in ("all", "sentences", "questions")}
    for kind, levels in curves.items():
        print(_table(kind, levels))
    wrong = sum(p < LEVEL for p in chance)
    print(
        f"shuffles of sets that were not planted, each in the place of the published order: {wrong:,} of {len(chance):,} "
        f"({wrong / len(chance):.1%}) have p < {LEVEL}"
    )
    if asked.plot:
        _plot(asked.plot, curves, parameters, asked.items)


def _as_published(shards: Sequence[Shard], place: int) -> float:
    """p of a shuffle among the others and the published order: what chance alone makes of a set."""
    changed = [
        replace(s, published=s.shuffled[place], shuffled=(s.published, *s.shuffled[:place], *s.shuffled[place + 1 :]))
        for s in shards
    ]
    return judge(changed).p


def _of(rows: Sequence[dict[str, Any]], kind: str) -> Iterator[tuple[int, float, float]]:
    return ((r["copies"], r["p"], r["effect"]) for r in rows if kind in ("all", r["kind"]))


def _material(asked: argparse.Namespace) -> tuple[list[Planted], list[str]]:
    """Sets of both kinds, and the texts among which they are planted."""
    source = random.Random(asked.seed)
    levels = [copies for copies, n in SETS.items() for _ in range(max(1, round(n * asked.sets)))]
    wanted = len(levels) * asked.items
    documents = _documents(asked.tokens)
    source.shuffle(documents)
    sentences: list[str] = []
    known: set[str] = set()
    while len(sentences) < wanted:
        if not documents:
            raise SystemExit(f"the texts have {len(sentences):,} sentences of a fitting length, {wanted:,} are needed")
        for sentence in re.split(r"(?<=[.!?])\s+", documents.pop()):
            if 40 <= len(sentence) <= 100 and re.fullmatch(r"[A-Z][ -~]*[.!?]", sentence) and sentence not in known:
                known.add(sentence)
                sentences.append(sentence)
    source.shuffle(sentences)
    questions: list[str] = []
    while len(questions) < wanted:
        questions.append(_question(source))
    sets = [
        Planted(f"{kind}-{number:03d}", copies, tuple(items[number * asked.items : (number + 1) * asked.items]))
        for kind, items in (("sentences", sentences), ("questions", questions))
        for number, copies in enumerate(levels)
    ]
    texts, left = [], asked.text
    pieces = [document[at : at + PIECE] for document in documents for at in range(0, len(document), PIECE)]
    source.shuffle(pieces)
    for piece in pieces:
        if left > 0:
            texts.append(piece)
            left -= len(piece)
    return sets, texts


def _documents(folders: Sequence[Path]) -> list[str]:
    """All texts of token folders, each once, in the order of their digests."""
    found = {}
    for folder in folders:
        store = TokenStore.open(folder)
        file = folder / "tokenizer.json"
        words = Vocabulary(file, end_beside(file))
        for n in range(len(store)):
            text = words.decode(store.doc(n).tolist()).strip()
            found[hashlib.sha256(text.encode()).hexdigest()] = text
    return [found[digest] for digest in sorted(found) if found[digest]]


def _question(source: random.Random) -> str:
    question, answer = source.choice(ASKED).split("|")
    values = {
        "place": source.choice(PLACES),
        "year": str(source.randrange(900, 1990)),
        "number": str(source.randrange(3, 900)),
        **{name: _name(source) for name in "ab"},
    }
    return f"Question: {question.format(**values)}\nAnswer: {answer.format(**values)}"


def _name(source: random.Random) -> str:
    parts = [source.choice(STARTS) + source.choice(MIDDLES) for _ in range(source.choice((1, 2, 2)))]
    return ("".join(parts) + source.choice(ENDS)).capitalize()


def _train(asked: argparse.Namespace, folder: Path) -> Any:
    wanted = {
        "out": str(folder / "run"),
        "seed": asked.seed,
        "device": "cpu",
        "micro_tokens": 4096,
        "model": {
            "layers": asked.layers, "width": asked.width, "heads": asked.width // 32, "kv_heads": asked.width // 32,
            "head_dim": 32, "qk_norm": True,
        },
        "data": {"path": str(folder / "tokens"), "seq_len": 256, "batch_tokens": 4096, "held_out_share": 0.0},
        "optim": {"name": asked.optimizer, "lr": asked.lr, "weight_decay": 0.0},
        "checkpoint": {"every": 1_000_000, "asynchronous": False},
        "parallel": {"compile": False},
        "log": {"evaluate": 0},
        "phase": [{"name": "all", "lr": {"end": 0.1, "shape": "cosine", "warmup": 100_000}}],
    }  # fmt: skip
    options = from_mapping(wanted)
    world = start("cpu", options.parallel)
    try:
        return Trainer(options, world).run()
    finally:
        stop(world)


def _table(kind: str, levels: Sequence[Level]) -> str:
    head = f"{kind:<10}{'copies':>8}{'sets':>6}{'found':>7}{'share':>8}   {'95 % interval':<16}{'nats an item':>14}"
    lines = [head + f"{'uniform p':>12}"]
    for one in levels:
        interval = f"{one.interval[0]:.3f} to {one.interval[1]:.3f}"
        uniform = f"{one.uniform:.3f}" if one.copies == 0 else ""
        lines.append(
            f"{'':<10}{one.copies:>8}{one.sets:>6}{one.found:>7}{one.share:>8.3f}   {interval:<16}"
            f"{one.effect:>14.4f}{uniform:>12}"
        )
    return "\n".join(lines) + "\n"


def _plot(path: Path, curves: dict[str, list[Level]], parameters: int, items: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for (kind, levels), colour in zip(curves.items(), ("#222222", "#0072B2", "#D55E00"), strict=True):
        places = range(len(levels))
        shares = [one.share for one in levels]
        axis.plot(places, shares, "o-", color=colour, label=kind, linewidth=2 if kind == "all" else 1, markersize=4)
        if kind == "all":
            axis.fill_between(
                places, [o.interval[0] for o in levels], [o.interval[1] for o in levels], color=colour, alpha=0.12
            )
            axis.set_xticks(list(places), [str(one.copies) for one in levels])
    axis.axhline(0.05, color="#999999", linewidth=0.8, linestyle=":")
    axis.axhline(0.9, color="#999999", linewidth=0.8, linestyle=":")
    axis.set(
        xlabel="copies of the set in the training text",
        ylabel="share of sets with p < 0.05",
        title=f"{parameters / 1e6:.1f} M parameters, sets of {items} items",
        ylim=(-0.02, 1.02),
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
