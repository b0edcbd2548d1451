"""From a config to what is read: token folders are opened, phases counted out, held-out text set aside."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import config
from trainer.config import Config, ConfigError
from trainer.plan import Plan, PlanError, Source, Wanted
from trainer.shards import Shard, ShardError, TokenStore
from trainer.windows import Packed, Windows


@dataclass(frozen=True)
class HeldOut:
    """Text of one source that is never trained on: its first samples are what is evaluated."""

    name: str
    windows: Windows


@dataclass(frozen=True)
class Corpus:
    """All that a run reads, opened and checked."""

    plan: Plan
    phases: tuple[config.Phase, ...]
    """The config's phases with tokens and mix filled in, in the order of the plan's."""
    held_out: tuple[HeldOut, ...]
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
    tokenizer = _one_tokenizer({**stores, **{f"held_out {name}": store for name, store in held_stores.items()}})

    ends = {key: store.n_tokens - int(store.n_tokens * share) for key, store in stores.items()}
    streams: dict[tuple[str, int], Windows | Packed] = {}
    kind = Packed if data.packing == "best_fit" else Windows
    wanted = []
    for phase in phases:
        seq_len = phase.seq_len or data.seq_len
        sources = []
        for name, weight in phase.mix.items():
            key = f"{phase.name}/{name}" if schedule is not None else name
            if (key, seq_len) not in streams:
                streams[key, seq_len] = kind(stores[key], seq_len, 0, ends[key])
            sources.append(Source(name, weight, streams[key, seq_len]))
        assert phase.tokens is not None
        wanted.append(
            Wanted(phase.name, phase.tokens, seq_len, phase.batch_tokens or data.batch_tokens, tuple(sources))
        )
    plan = Plan(wanted, options.seed, tokenizer["eos"], data.max_epochs)

    longest = max(phase.seq_len for phase in plan.phases)
    if held_stores:
        held = [HeldOut(name, Windows(store, longest)) for name, store in held_stores.items()]
    else:
        held = [
            HeldOut(name, Windows(store, longest, ends[name]))
            for name, store in stores.items()
            if schedule is None and share > 0
        ]
    held = [part for part in held if part.windows.n_samples > 0]
    return Corpus(
        plan,
        tuple(phases),
        tuple(held),
        tokenizer,
        tokenizer_file,
        _digest(options, phases, stores),
    )


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
    """Stores by the names of sources, and the config's phases."""
    data = options.data
    named = dict(data.sources)
    if data.path is not None:
        if named:
            raise ConfigError("data.path and data.sources both name what is read; leave one out")
        named = {Path(data.path).name: data.path}
    if not named:
        raise ConfigError("nothing to read: set data.path to a mixed or token folder, or data.sources to several")
    stores = {name: TokenStore.open(path, data.verify) for name, path in named.items()}
    phases = []
    for phase in options.phase or (config.Phase("pretrain"),):
        for name in phase.mix:
            if name not in stores:
                raise ConfigError(
                    f"phase {phase.name!r} reads {name!r}, which is not in data.sources: {', '.join(stores)}"
                )
        mix = phase.mix or {name: float(store.n_tokens) for name, store in stores.items()}
        tokens = phase.tokens or sum(int(s.n_tokens * (1 - data.held_out_share)) for n, s in stores.items() if n in mix)
        phases.append(replace(phase, mix=mix, tokens=tokens))
    return stores, phases


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
