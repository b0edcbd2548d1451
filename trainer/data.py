"""From a config to what is read: token folders are opened, phases counted out, held-out text set aside."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer import config
from trainer.config import Config, ConfigError
from trainer.plan import Plan, PlanError, Source, Wanted
from trainer.shards import Shard, ShardError, TokenStore
from trainer.windows import Packed, Windows


@dataclass(frozen=True)
class HeldOut:
    """Text of one source that is never trained on: its first samples are what is evaluated. They are as long as the longest
    of training, or all that there is where that is less."""

    name: str
    windows: Windows


@dataclass(frozen=True)
class Corpus:
    """All that a run reads, opened and checked."""

    plan: Plan
    phases: tuple[config.Phase, ...]
    """The config's phases with tokens and mix filled in, in the order of the plan's."""
    held_out: tuple[HeldOut, ...]
    not_held: tuple[str, ...]
    """Sources of which no text could be kept back: they have too little for the share."""
    tokenizer: dict[str, Any]
    """As tokens.json has it: sha256, vocab_size, eos, dtype."""
    tokenizer_file: Path
    digest: str
    """Digest of the plan: what is read when. Runs with equal digests read the same."""


def open_corpus(options: Config) -> Corpus:
    """Opens what the config names. Raises ConfigError, ShardError or PlanError."""
    data = options.data
    schedule = _schedule(data.path)
    if schedule is not None:
        folder, body = schedule
        stores, phases = _of_schedule(folder, body, options)
        kept = {name: str(folder / entry["folder"]) for name, entry in body.get("held_out", {}).items()}
        tokenizer_file = folder / "tokenizer.json"
        share = 0.0
    else:
        stores, phases = _of_folders(options)
        kept = {}
        tokenizer_file = next(iter(stores.values())).folder / "tokenizer.json"
        share = data.held_out_share if not data.held_out else 0.0
    held_stores = {name: TokenStore.open(path, data.verify) for name, path in (data.held_out or kept).items()}
    _refuse_trained_on(stores, held_stores)
    tokenizer = _one_tokenizer({**stores, **{f"held_out {name}": store for name, store in held_stores.items()}})

    ends = {key: _end_of_training(store, share) for key, store in stores.items()}
    streams: dict[tuple[str, int], Windows | Packed] = {}
    kind = Packed if data.packing == "best_fit" else Windows
    wanted, settled = [], []
    for phase in phases:
        seq_len = phase.seq_len or data.seq_len
        of_source = {}
        for name in phase.mix or stores:
            key = f"{phase.name}/{name}" if schedule is not None else name
            if (key, seq_len) not in streams:
                streams[key, seq_len] = kind(stores[key], seq_len, 0, ends[key])
            of_source[name] = streams[key, seq_len]
        mix = phase.mix or {name: float(stream.n_samples) for name, stream in of_source.items()}
        once = sum(stream.n_samples for name, stream in of_source.items() if mix[name] > 0) * seq_len
        tokens = once if phase.tokens is None else phase.tokens
        sources = tuple(Source(name, mix[name], stream) for name, stream in of_source.items())
        wanted.append(Wanted(phase.name, tokens, seq_len, phase.batch_tokens or data.batch_tokens, sources))
        settled.append(replace(phase, mix=mix, tokens=tokens))
    plan = Plan(wanted, options.seed, tokenizer["eos"], data.max_epochs)

    longest = max(phase.seq_len for phase in plan.phases)
    wanted_parts = [(name, store, 0) for name, store in held_stores.items()]
    if share > 0:
        wanted_parts += [(name, store, ends[name]) for name, store in stores.items()]
    held = [
        HeldOut(name, Windows(store, min(longest, store.n_tokens - first - 1), first))
        for name, store, first in wanted_parts
        if store.n_tokens - first > 1
    ]
    return Corpus(
        plan,
        tuple(settled),
        tuple(held),
        tuple(name for name, store, first in wanted_parts if store.n_tokens - first <= 1),
        tokenizer,
        tokenizer_file,
        _digest(options, settled, stores),
    )


def _end_of_training(store: TokenStore, share: float) -> int:
    """The token of a store from which on its text is held out: the first document that begins in the last `share` of it, so
    that none is learned from in part. Where none begins there, the last one is cut."""
    cut = store.n_tokens - int(store.n_tokens * share)
    found = int(store.starts[np.searchsorted(store.starts, cut)])
    return found if found < store.n_tokens else cut


def _schedule(path: str | None) -> tuple[Path, dict[str, Any]] | None:
    if path is None:
        return None
    folder = Path(path)
    try:
        return folder, json.loads((folder / "schedule.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"data.path: {folder / 'schedule.json'} cannot be read ({error})") from None


def _of_schedule(
    folder: Path, body: dict[str, Any], options: Config
) -> tuple[dict[str, TokenStore], list[config.Phase]]:
    """Stores by PHASE/SOURCE, and the schedule's phases with what the config says of them."""
    own = {phase.name: phase for phase in options.phase}
    known = [entry["name"] for entry in body["phases"]]
    unknown = [name for name in own if name not in known]
    if unknown:
        raise ConfigError(
            f"the config has a phase {unknown[0]!r} that the mix in {folder} has not; it has {', '.join(known)}"
        )
    stores: dict[str, TokenStore] = {}
    phases = []
    for entry in body["phases"]:
        phase = own.get(entry["name"], config.Phase(entry["name"]))
        if phase.mix:
            raise ConfigError(
                f"phase {phase.name!r} has a mix, and the mix in {folder} has settled that already: make another mix, or "
                "name token folders in data.sources instead"
            )
        if phase.tokens is not None and phase.tokens > entry["tokens"]:
            raise PlanError(
                f"phase {phase.name!r} wants {phase.tokens:,} tokens, the mix in {folder} holds {entry['tokens']:,} for it: "
                "ask for fewer, or make a larger mix"
            )
        by_folder: dict[str, int] = {}
        for name, source in entry["sources"].items():
            label = name if source["folder"].rsplit("/", 1)[-1] == name else source["folder"].rsplit("/", 1)[-1]
            by_folder[label] = by_folder.get(label, 0) + source["tokens"]
            stores.setdefault(f"{phase.name}/{label}", TokenStore.open(folder / source["folder"], options.data.verify))
        phases.append(
            replace(phase, tokens=phase.tokens or entry["tokens"], mix={k: float(v) for k, v in by_folder.items()})
        )
    return stores, phases


def _of_folders(options: Config) -> tuple[dict[str, TokenStore], list[config.Phase]]:
    """Stores by the names of sources, and the config's phases: without a mix they read all of them."""
    data = options.data
    named = dict(data.sources)
    if data.path is not None:
        if named:
            raise ConfigError("data.path and data.sources both name what is read; leave one out")
        named = {Path(data.path).name: data.path}
    if not named:
        raise ConfigError("nothing to read: set data.path to a mixed or token folder, or data.sources to several")
    stores = {name: TokenStore.open(path, data.verify) for name, path in named.items()}
    phases = list(options.phase) or [config.Phase("pretrain")]
    for phase in phases:
        for name in phase.mix:
            if name not in stores:
                raise ConfigError(
                    f"phase {phase.name!r} reads {name!r}, which is not in data.sources: {', '.join(stores)}"
                )
    return stores, phases


def _refuse_trained_on(stores: dict[str, TokenStore], held: dict[str, TokenStore]) -> None:
    read = {store.folder.resolve(): name for name, store in stores.items()}
    for name, store in held.items():
        if store.folder.resolve() in read:
            raise ConfigError(
                f"held-out {name!r} is {store.folder}, which {read[store.folder.resolve()]!r} trains on: name a folder that "
                "no source reads, or leave data.held_out out and a share of each source is kept back"
            )


def _one_tokenizer(stores: dict[str, TokenStore]) -> dict[str, Any]:
    (first, store), *others = stores.items()
    for name, other in others:
        if other.tokenizer["sha256"] != store.tokenizer["sha256"]:
            raise ShardError(
                f"{first} and {name} are of two tokenizers ({store.tokenizer['sha256'][:12]} and "
                f"{other.tokenizer['sha256'][:12]}): tokenize one of them again"
            )
    return store.tokenizer


def _digest(options: Config, phases: list[config.Phase], stores: dict[str, TokenStore]) -> str:
    data = options.data
    rows = [
        [p.name, p.tokens, sorted(p.mix.items()), p.seq_len or data.seq_len, p.batch_tokens or data.batch_tokens]
        for p in phases
    ]
    body = {
        "seed": options.seed,
        "packing": data.packing,
        "held_out_share": data.held_out_share,
        "phases": rows,
        "stores": {name: [_fingerprint(shard) for shard in store.shards] for name, store in stores.items()},
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _fingerprint(shard: Shard) -> list[Any]:
    files = (shard.manifest or {}).get("files", {})
    return [files.get(".bin", {}).get("sha256"), len(shard), len(shard.tokens)]
