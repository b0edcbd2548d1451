"""Job: two sets of texts to a verdict which one makes better models. `crawlmill ablate A B --output DIR`.

OUT/ablation.json           what was asked for
OUT/sets/NAME/              runs decided anew, where recipes are compared
OUT/held_out/NAME.parquet   texts that models are compared on, and texts.json: where they are from, which were taken away
OUT/texts/a-0.parquet …     what each pair of models reads of each set
OUT/tokenizer/, tokens/     the tokenizer, and tokens of both
OUT/tasks/, runs/, scores/  of each model its config, its run, and its bits for each held-out text
OUT/report.md, report.json, ablation.png, documents.parquet

Every step leaves a file that says that it is done, so that the same command goes on after a kill.
"""

import dataclasses
import hashlib
import json
import math
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs import ablation_texts
from jobs.ablation_models import Say, default_workers, threads, train
from jobs.ablation_report import write_report
from jobs.ablation_texts import HELD, LEAST_PAGES, Dealt, HeldOut, Set, deal, open_set
from jobs.curate import redecide
from jobs.runs import code_version
from jobs.store import RunFolder
from jobs.tokenise import tokenise
from jobs.train_tokenizer import train_tokenizer
from pipeline.errors import InputError, UsageError
from pipeline.recipe import load_recipe
from pipeline.tokenizer.files import TokenizerFile, load
from pipeline.tokenizer.training import Options as TokenizerOptions
from pipeline.yaml_files import parse_yaml
from trainer import config as training
from trainer.ablation_run import PRESET, TOKENS, VOCABULARY, Task, pace, run_options
from trainer.model import n_parameters, padded_vocab
from trainer.shards import TokenStore

FORMAT = 1

BYTES_A_TOKEN = 8
"""At most, of any tokenizer: so much text is drawn for a token that is to be read."""

USUAL_BYTES_A_TOKEN = 3.7
"""For a plan before there are tokens: what 4,096 tokens make of English pages."""

LEAST_STEPS = 20


@dataclass(frozen=True)
class Asked:
    """What is compared, and how. `sets` are two runs or folders of Parquet, or one run with two `recipes`."""

    sets: tuple[str, ...]
    recipes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    tokenizer: str | None = None
    vocabulary: int = VOCABULARY
    tokens: int | None = None
    seeds: int = 3
    seed: int = 0
    held_out: tuple[str, ...] = ()
    config: str | None = None
    whole: bool = False
    text: str = "text"

    def __post_init__(self) -> None:
        if len(self.recipes) not in (0, 2):
            raise UsageError(f"an ablation compares two recipes, not {len(self.recipes)}; give --recipe twice")
        if len(self.sets) != (1 if self.recipes else 2):
            raise UsageError(
                "name one run for two recipes"
                if self.recipes
                else "name two sets, or one run with --recipe A --recipe B"
            )
        if self.seeds < 2:
            raise UsageError("one pair of models does not say how much chance there is in it; take --seeds 2 or more")
        if len(self.named) != 2 or self.named[0] == self.named[1] or not all(self.named):
            raise UsageError("--names are two different names, such as --names raw,clean")
        names = [given.partition("=")[0] for given in self.held_out]
        if len(set(names)) < len(names):
            raise UsageError("two --held-out have one name")

    @cached_property
    def named(self) -> tuple[str, ...]:
        """Names of the two sets: as given, or those of the recipes or folders."""
        if self.names:
            return self.names
        found = [Path(each).stem if self.recipes else Path(each.rstrip("/")).name for each in self.recipes or self.sets]
        if found[0] == found[1]:
            found = [f"{name} ({letter})" for name, letter in zip(found, "AB", strict=True)]
        return tuple(found)


@dataclass(frozen=True)
class Plan:
    """What will be done, before texts are tokens: tokens are estimates here."""

    asked: Asked
    base: training.Config
    tokenizer: TokenizerFile | None
    sets: tuple[Set, Set]
    dealt: Dealt
    held_out: tuple[HeldOut, ...]
    cap: int

    def part(self, number: int, pair: int) -> Any:
        """A mask of the pages of a set that a pair reads."""
        return self.dealt.parts[number] == (pair if self.dealt.pairs > 1 else 0)

    def facts(self, bytes_a_token: float = USUAL_BYTES_A_TOKEN) -> dict[str, Any]:
        """The plan in numbers, with tokens by so many bytes each."""
        parts = [
            [int(one.pages.sizes[self.part(i, pair)].sum() / bytes_a_token) for pair in range(self.dealt.pairs)]
            for i, one in enumerate(self.sets)
        ]
        most = most_tokens(self.base, min(min(of) for of in parts))
        tokens = min(self.cap, most)
        return {
            "sets": [
                {
                    "name": one.name,
                    "pages": len(one.pages.keys),
                    "bytes": int(one.pages.sizes.sum()),
                    "tokens": min(of),
                    "epochs": tokens / max(1, min(of)),
                    "unique": _unique(self, i, tokens, min(of)),
                }
                for i, (one, of) in enumerate(zip(self.sets, parts, strict=True))
            ],
            "common": self.dealt.common,
            "held_out": {held.name: len(held.texts) for held in self.held_out} | _drawn(self.dealt),
            "pairs": self.asked.seeds,
            "tokens": tokens,
            "possible": most,
        }


def _drawn(dealt: Dealt) -> dict[str, int]:
    return {"common": len(dealt.held)} if len(dealt.held) else {}


def _unique(plan: Plan, number: int, tokens: int, held: int) -> float:
    """Share of the tokens that a model reads that are not those of a text that it has read before."""
    masks = [plan.part(number, pair) for pair in range(plan.dealt.pairs)]
    fresh = sum(ablation_texts.unique_bytes(plan.sets[number], mask) for mask in masks) / len(masks)
    return fresh * min(1.0, held / max(1, tokens))


def make_plan(asked: Asked, folder: Path) -> Plan:
    """Looks through the sets and deals their pages. Recipes are carried out into `folder`/sets.

    Raises UsageError, InputError, RecipeError.
    """
    base = base_config(asked.config)
    tokenizer = load(asked.tokenizer) if asked.tokenizer else None
    if tokenizer is not None and 0 < base.model.vocab_size < tokenizer.vocab_size:
        raise UsageError(
            f"{asked.config} has a model.vocab_size of {base.model.vocab_size:,}, and {asked.tokenizer} has "
            f"{tokenizer.vocab_size:,} tokens; leave it out, and it follows the tokenizer"
        )
    given = list(asked.sets)
    if asked.recipes:
        recipes = [load_recipe(name) for name in asked.recipes]
        if recipes[0].digest == recipes[1].digest:
            raise UsageError(f"{asked.recipes[0]} and {asked.recipes[1]} are the same recipe")
        for name, recipe in zip("ab", recipes, strict=True):
            redecide(asked.sets[0], recipe, str(folder / "sets" / name))
        given = [str(folder / "sets" / name) for name in "ab"]
    a, b = (open_set(name, path, asked.text) for name, path in zip(asked.named, given, strict=True))
    held = tuple(ablation_texts.read_held(each, asked.text) for each in asked.held_out)
    cap = asked.tokens or TOKENS
    pairs = 1 if asked.whole else asked.seeds
    dealt = deal(a, b, pairs, asked.seed, enough=cap * BYTES_A_TOKEN)
    if len(dealt.held) < LEAST_PAGES:
        if not held:
            raise InputError(
                f"{a.name} and {b.name} have {dealt.common:,} pages in common, of which {len(dealt.held)} could be held out, "
                f"and {LEAST_PAGES} are the least to compare them on; name texts of another origin with --held-out NAME=PATH"
            )
        dealt = deal(a, b, pairs, asked.seed, hold=False, enough=cap * BYTES_A_TOKEN)
    return Plan(asked, base, tokenizer, (a, b), dealt, held, cap)


def base_config(path: str | None) -> training.Config:
    """The preset, with what a config file says in its place. Raises ConfigError."""
    body: dict[str, Any] = {key: dict(value) for key, value in PRESET.items()}
    if path is None:
        return training.from_mapping(body)
    try:
        text = Path(path).read_text(encoding="utf-8")
        own = parse_yaml(text, path).body if Path(path).suffix in (".yaml", ".yml", ".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise training.ConfigError(f"cannot read config {path}: {error}") from error
    if not isinstance(own, dict):
        raise training.ConfigError(f"{path}: a config is a mapping; see docs/training.md")
    data = own["data"] if isinstance(own.get("data"), dict) else {}
    taken = [key for key in ("out", "seed", "phase") if key in own]
    taken += [f"data.{key}" for key in ("path", "sources", "held_out") if key in data]
    if taken:
        raise training.ConfigError(
            f"{path}: {taken[0]} is what the ablation sets for each model; a config says model, optim, batch and the like"
        )
    for key, value in own.items():
        body[key] = {**body.get(key, {}), **value} if isinstance(value, dict) else value
    try:
        return training.from_mapping(body, lambda keys: str(path))
    except training.ConfigError:
        training.load(path)  # whose errors name the line; what is wrong only beside the preset, it does not know
        raise


def most_tokens(base: training.Config, held: int) -> int:
    """As many tokens, in whole batches, as may be read of a draw of `held` tokens."""
    samples = max(0, (held - 1) // base.data.seq_len)
    batch = base.data.batch_tokens
    return math.floor(samples * base.data.max_epochs + 1e-9) * base.data.seq_len // batch * batch


def estimate(plan: Plan, workers: int) -> dict[str, Any]:
    """The plan in numbers, with how long it will take on this machine, in seconds."""
    size = plan.tokenizer.vocab_size if plan.tokenizer else plan.asked.vocabulary
    shape = replace(plan.base.model, vocab_size=plan.base.model.vocab_size or padded_vocab(size))
    facts = plan.facts(_bytes_a_token(plan))
    facts["tokens"] = facts["tokens"] // plan.base.data.batch_tokens * plan.base.data.batch_tokens
    each = pace(replace(plan.base, model=shape), threads(workers))
    scored = sum(facts["held_out"].values()) * ablation_texts.HELD_CHARS / USUAL_BYTES_A_TOKEN / 3
    models = 2 * plan.asked.seeds
    seconds = math.ceil(models / workers) * (facts["tokens"] + scored) * each * (1 if workers == 1 else 1.1)
    return facts | {"parameters": n_parameters(shape)[0], "models": models, "workers": workers, "seconds": seconds}


def _bytes_a_token(plan: Plan) -> float:
    """Of the tokenizer that was given, on some texts of each set."""
    if plan.tokenizer is None:
        return USUAL_BYTES_A_TOKEN
    build = plan.tokenizer.build()
    n_bytes = n_tokens = 0
    for one in plan.sets:
        _, chunk = next(iter(one.read()))
        texts = chunk.texts.slice(0, 100).to_pylist()
        n_bytes += sum(len(text.encode()) for text in texts)
        n_tokens += sum(len(found.ids) + 1 for found in build.encode_batch(texts))
    return n_bytes / max(1, n_tokens)


def dry_run(asked: Asked, workers: int | None = None) -> dict[str, Any]:
    """What `ablate` would do, in numbers. Writes nothing that stays."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(asked, Path(folder))
        return estimate(plan, workers or default_workers(plan.base, 2 * asked.seeds))


def ablate(asked: Asked, output: str, workers: int | None = None, say: Say = print) -> dict[str, Any]:
    """Trains pairs of models on two sets and compares them; returns what report.json says. Run again it goes on.

    Raises UsageError where the output holds something else or sets cannot be compared as asked, InputError where there is too
    little text, and what training raises.
    """
    folder = RunFolder(output)
    if not folder.local:
        raise UsageError(f"output {output}: models are trained from shards on a disk; give a path")
    root = Path(folder.path)
    held = folder.read_json("ablation.json")
    if held is None and not folder.is_empty():
        raise UsageError(f"output {output} is not empty and holds no ablation; choose a new folder")
    if held is not None and held["asked"] != _plain(asked):
        other = sorted(key for key, value in _plain(asked).items() if held["asked"].get(key) != value)
        raise UsageError(f"output {output} holds another ablation (other {', '.join(other)}); choose a new folder")
    with folder.lock():
        folder.sweep()
        if held is None:
            begun = {"job": "ablate", "crawlmill": code_version(), "format": FORMAT, "asked": _plain(asked)}
            folder.write_json("ablation.json", begun)
        plan = make_plan(asked, root)
        _check_same(folder, plan)
        sources = _texts(folder, plan, say)
        tokenizer = _tokenizer(folder, plan, say)
        stores = _tokens(folder, plan, sources, tokenizer, say)
        tokens = _settle_tokens(plan, stores)
        workers = workers or default_workers(plan.base, 2 * asked.seeds)
        tasks = _tasks(root, plan, sources, tokens, workers)
        train(tasks, workers, say)
        facts = _facts(plan, tokenizer, stores, tokens, tasks)
        facts["left_out"] = (folder.read_json("texts.json") or {})["left_out"]
        return write_report(root, facts, sources)


def _plain(asked: Asked) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(asked)))


def _check_same(folder: RunFolder, plan: Plan) -> None:
    """Raises UsageError where sets, config or tokenizer are others than when the ablation began."""
    found = {
        **{f"set {one.name}": one.digest for one in plan.sets},
        "config": plan.base.digest,
        "tokenizer": plan.tokenizer.sha256 if plan.tokenizer else None,
        "held-out texts": {held.name: held.digest for held in plan.held_out},
    }
    begun = folder.read_json("ablation.json") or {}
    if begun.setdefault("of", found) != found:
        other = ", ".join(key for key in found if begun["of"].get(key) != found[key])
        raise UsageError(f"output {folder.path} was begun with another {other}; choose a new folder")
    folder.write_json("ablation.json", begun)


def _texts(folder: RunFolder, plan: Plan, say: Say) -> list[HeldOut]:
    """Draws what pairs read and what is held out, unless that is done. Raises InputError where too little is left."""
    known = folder.read_json("texts.json")
    if known is not None:
        return [
            ablation_texts.read_back(folder.read_table(f"held_out/{facts['name']}.parquet"), facts)
            for facts in known["held_out"]
        ]
    a, b = plan.sets
    held = list(plan.held_out)
    if len(plan.dealt.held):
        held.insert(0, ablation_texts.held_of(a, b, plan.dealt))
    in_a, in_b = [
        ablation_texts.sift(one, parts, held, folder, f"texts/{letter}", plan.dealt.pairs)
        for letter, one, parts in zip("ab", plan.sets, plan.dealt.parts, strict=True)
    ]
    ablation_texts.decontaminate(held, in_a, in_b, (a.name, b.name))
    left_out = {}
    for source in held:
        said = f"{source.name}, {len(source.texts):,} of {source.drawn:,} texts{_removed(source)}"
        if len(source.texts) >= LEAST_PAGES:
            say(f"held out: {said}")
            folder.write_table(f"held_out/{source.name}.parquet", ablation_texts.as_table(source))
        elif source.given != ablation_texts.COMMON or len(held) == 1:
            raise InputError(
                f"held-out texts are too few: {said}, and {LEAST_PAGES} are the least to compare sets on; give more of it, "
                "or texts of another origin, with --held-out NAME=PATH"
            )
        else:
            left_out[source.name] = f"{said}, and {LEAST_PAGES} are the least"
            say(f"left out: {left_out[source.name]}")
    held = [source for source in held if source.name not in left_out]
    facts = [
        {"name": s.name, "given": s.given, "drawn": s.drawn, "removed": dict(sorted(s.removed.items()))} for s in held
    ]
    folder.write_json("texts.json", {"held_out": facts, "left_out": left_out})
    return held


def _removed(source: HeldOut) -> str:
    said = "; ".join(f"{n:,} {why}" for why, n in sorted(source.removed.items()))
    return f" (taken away: {said})" if said else ""


def _tokenizer(folder: RunFolder, plan: Plan, say: Say) -> TokenizerFile:
    """The tokenizer that was given, or one that is trained on as much of the one set as of the other."""
    if plan.tokenizer is not None:
        return plan.tokenizer
    at = f"{folder.path}/tokenizer"
    pairs = range(plan.dealt.pairs)
    inputs = [f"{letter}={folder.path}/texts/{letter}-{pair}.parquet" for letter in "ab" for pair in pairs]
    # Each gives as much as the smaller one has.
    sizes = [
        sum(int(one.pages.sizes[plan.part(number, pair)].sum()) for pair in pairs)
        for number, one in enumerate(plan.sets)
    ]
    options = TokenizerOptions(vocab_size=plan.asked.vocabulary, bytes=2 * min(sizes), held_out=1)
    if (folder.read_json("tokenizer/training.json") or {}).get("done") is not True:
        say(f"training a tokenizer of {plan.asked.vocabulary:,} tokens on both sets")
        train_tokenizer(None, inputs, at, options)
    return load(at)


def _tokens(
    folder: RunFolder, plan: Plan, sources: list[HeldOut], tokenizer: TokenizerFile, say: Say
) -> dict[str, TokenStore]:
    """Tokens of what pairs read (a-0, b-0 …) and of what is held out (held-NAME)."""
    wanted = {f"{letter}-{pair}": f"texts/{letter}-{pair}" for letter in "ab" for pair in range(plan.dealt.pairs)}
    wanted |= {f"held-{source.name}": f"held_out/{source.name}" for source in sources}
    stores = {}
    for name, texts in wanted.items():
        at = f"{folder.path}/tokens/{name}"
        if (folder.read_json(f"tokens/{name}/tokens.json") or {}).get("done") is not True:
            tokenise([f"{folder.path}/{texts}.parquet"], at, tokenizer, id="id", spark=False)
        stores[name] = TokenStore.open(at)
    total = {letter: sum(s.n_tokens for n, s in stores.items() if n.startswith(f"{letter}-")) for letter in "ab"}
    say("; ".join(f"{one.name}: {total[letter]:,} tokens" for letter, one in zip("ab", plan.sets, strict=True)))
    return stores


def _settle_tokens(plan: Plan, stores: dict[str, TokenStore]) -> int:
    """Tokens that each model reads. Raises InputError where the sets have too few for what was asked, or for anything."""
    sizes = {name: store.n_tokens for name, store in stores.items() if not name.startswith("held-")}
    least = min(sizes, key=lambda name: (sizes[name], name))
    most = most_tokens(plan.base, sizes[least])
    name = plan.sets["ab".index(least[0])].name
    each = "" if plan.dealt.pairs == 1 else f" for each of {plan.dealt.pairs} pairs of models"
    have = f"{name} has {sizes[least]:,} tokens{each}, which read {plan.base.data.max_epochs:g} times are {most:,}"
    batch = plan.base.data.batch_tokens
    wanted = plan.asked.tokens // batch * batch if plan.asked.tokens else 0
    cure = "give a larger set" + ("" if plan.dealt.pairs == 1 else ", fewer --seeds, or --whole")
    if wanted > most:
        raise InputError(f"{have}, fewer than the {plan.asked.tokens:,} asked for; lower --tokens, or {cure}")
    tokens = min(plan.cap // batch * batch, most)
    if tokens < LEAST_STEPS * batch:
        raise InputError(
            f"{have if tokens == most else f'{tokens:,} tokens were asked for'}, fewer than {LEAST_STEPS} batches of "
            f"{batch:,}; {cure}, or a config with a smaller data.batch_tokens"
        )
    return tokens


def _tasks(root: Path, plan: Plan, sources: list[HeldOut], tokens: int, workers: int) -> list[Task]:
    held = {source.name: str(root / "tokens" / f"held-{source.name}") for source in sources}
    tasks = []
    for pair in range(plan.asked.seeds):
        for letter in "ab":
            name = f"{letter}-{pair}"
            data = str(root / "tokens" / (name if plan.dealt.pairs > 1 else f"{letter}-0"))
            seed = plan.asked.seed + pair
            options = run_options(plan.base, name, seed, tokens, data, held, root / "runs" / name)
            tasks.append(Task(name, options, held, str(root / "scores" / f"{name}.json"), threads(workers)))
    return tasks


def _facts(
    plan: Plan, tokenizer: TokenizerFile, stores: dict[str, TokenStore], tokens: int, tasks: Sequence[Task]
) -> dict[str, Any]:
    """What report.json says of how the models were made."""
    sets = {}
    for number, (letter, one) in enumerate(zip("ab", plan.sets, strict=True)):
        sizes = [stores[f"{letter}-{pair}"].n_tokens for pair in range(plan.dealt.pairs)]
        sets[letter] = {
            "name": one.name,
            "given": one.given,
            "recipe": ablation_texts.recipe_of(one.given),
            "digest": one.digest,
            "pages": len(one.pages.keys),
            "bytes": int(one.pages.sizes.sum()),
            "held_out_pages": int((plan.dealt.parts[number] == HELD).sum()),
            "tokens": sizes,
            "epochs": [tokens / size for size in sizes],
            "unique_share": _unique(plan, number, tokens, min(sizes)),
        }
    size = plan.base.model.vocab_size or padded_vocab(tokenizer.vocab_size)
    shape = replace(plan.base.model, vocab_size=size)
    settings = dataclasses.asdict(plan.base)
    return {
        "crawlmill": code_version(),
        "sets": sets,
        "common_pages": plan.dealt.common,
        "whole": plan.asked.whole,
        "tokenizer": {
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "from": plan.asked.tokenizer or "trained on as much text of each set",
        },
        "tokens": tokens,
        "seeds": [plan.asked.seed + pair for pair in range(plan.asked.seeds)],
        "parameters": n_parameters(shape)[0],
        "config": {key: settings[key] for key in ("model", "data", "optim")} | {"digest": plan.base.digest},
        "models": {task.name: _model(task) for task in tasks},
    }


def _model(task: Task) -> dict[str, Any]:
    body = Path(task.scores).read_bytes()
    known = json.loads(body)
    return {key: known[key] for key in ("seed", "config", "steps", "loss", "withheld", "rollbacks")} | {
        "scores_sha256": hashlib.sha256(body).hexdigest()
    }
