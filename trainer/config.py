"""A training run as one file: TOML or YAML into frozen dataclasses; unknown keys and impossible values are refused.

Numbers that say how a model is trained stand in configs; the defaults here are those that a user would start from, with
their source beside them.
"""

import dataclasses
import hashlib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.errors import UsageError
from pipeline.yaml_files import line_of, nearest, parse_yaml

Shape = Literal["constant", "linear", "cosine", "sqrt"]


class ConfigError(UsageError):
    """A config that cannot be followed: names the file, the key and what is allowed there."""


@dataclass(frozen=True)
class Ramp:
    """How the learning rate moves over a phase, as factors of `optim.lr`.

    `warmup` tokens rise from 0 to `start`, then the factor goes from `start` to `end` along `shape`: linear, cosine, or
    sqrt (1 minus the square root of the way, Hägele et al. 2024, arXiv:2405.18392).
    """

    start: float = 1.0
    end: float = 1.0
    shape: Shape = "linear"
    warmup: int = 0


@dataclass(frozen=True)
class Phase:
    """One row of the schedule: what to read and how fast to learn.

    `tokens` and `mix` come from the schedule of a mixed folder where they are not given. A phase without `mix` reads all
    of its data in proportion to what there is. `seq_len` and `batch_tokens` default to those of `[data]`.
    """

    name: str
    tokens: int | None = None
    mix: dict[str, float] = field(default_factory=dict)
    lr: Ramp = Ramp()
    seq_len: int | None = None
    batch_tokens: int | None = None


@dataclass(frozen=True)
class Model:
    """A decoder in Llama's format. `vocab_size` 0 means that of the tokenizer, padded to a multiple of 128.

    `ffn` 0 means 8/3 of the width, rounded up to a multiple of 128. `qk_norm` exports as Qwen3, otherwise as Llama.
    """

    layers: int = 12
    width: int = 768
    heads: int = 6
    kv_heads: int = 6
    head_dim: int = 128
    ffn: int = 0
    vocab_size: int = 0
    qk_norm: bool = False
    tie_embeddings: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    init_std: float = 0.02


@dataclass(frozen=True)
class Data:
    """What is read. `path` is a mixed folder (`crawlmill mix`) or a token folder (`crawlmill tokenize`); `sources` names
    token folders for phases with a `mix` of their own. `held_out` are token folders that are never trained on; without
    them a share of each source's windows, chosen by the seed, is kept back.
    """

    path: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    held_out: dict[str, str] = field(default_factory=dict)
    held_out_share: float = 0.005
    seq_len: int = 2048
    batch_tokens: int = 524_288
    document_mask: bool = True
    packing: Literal["concat", "best_fit"] = "concat"
    max_epochs: float = 4.0  # Muennighoff et al. 2023 (arXiv:2305.16264): up to four epochs are nearly as good as new
    prefetch: int = 4
    verify: bool = True


@dataclass(frozen=True)
class Optim:
    """`muon` trains hidden matrices with Muon and the rest with AdamW. Decay falls on matrices only."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 6e-4  # GPT-3's for 125M (Brown et al. 2020, table 2.1)
    muon_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    z_loss: float = 1e-4  # PaLM (Chowdhery et al. 2022, section 5)


@dataclass(frozen=True)
class Guard:
    """When a step is skipped, when the run goes back, when it gives up. Counts are optimiser steps."""

    on: bool = True
    window: int = 128  # OLMo-core's SkipStepOptimizer: six standard deviations over 128 steps
    sigmas: float = 6.0
    least_history: int = 64
    skips: int = 3
    rise_nats: float = 0.15
    rise_steps: int = 30
    margin: int = 2  # steps' worth of samples beyond the spike that are left out too
    rollbacks: int = 3
    within_share: float = 0.02


@dataclass(frozen=True)
class Checkpoint:
    """`every` optimiser steps; the newest `keep` stay, and all whose step is a multiple of `permanent`."""

    every: int = 500
    keep: int = 3
    permanent: int = 0
    healthy: int = 100  # steps beyond a checkpoint that must be clean before a rollback may return to it
    asynchronous: bool = True


@dataclass(frozen=True)
class Parallel:
    """`shard` ranks share the state of a model (FSDP2), `tensor` ranks share each matrix; 0 means all ranks."""

    shard: int = 0
    tensor: int = 1
    checkpoint_activations: Literal["none", "selective", "full"] = "none"
    compile: bool | None = None  # where it is left open: on a GPU; a CPU gains nothing by it


@dataclass(frozen=True)
class Log:
    """`every` steps a line; `evaluate` steps a look at held-out text; 0 means at the ends of phases only."""

    every: int = 10
    evaluate: int = 250
    evaluate_tokens: int = 1_048_576
    tensorboard: bool = False
    hour_price: float = 0.0  # currency units a GPU hour, for the cost in the log
    watts: float = 0.0


@dataclass(frozen=True)
class Config:
    """A whole training run."""

    name: str = "run"
    out: str = "runs/run"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    micro_tokens: int = 0  # tokens of a rank's forward pass; 0 means as many as fit the batch and 16,384
    deterministic: bool = False
    model: Model = Model()
    data: Data = Data()
    optim: Optim = Optim()
    guard: Guard = Guard()
    checkpoint: Checkpoint = Checkpoint()
    parallel: Parallel = Parallel()
    log: Log = Log()
    phase: tuple[Phase, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of what a run must not change on its way: not where things lie, are logged or how often saved, nor what is
        changed to get on with a run, on how many ranks it computes, in how small pieces, and what the guard lets through.
        The plan has a digest of its own, of the data themselves."""
        body = dataclasses.asdict(self)
        for key in ("name", "out", "log", "checkpoint", "device", "guard", "parallel", "micro_tokens", "deterministic"):
            del body[key]
        for key in ("path", "sources", "held_out", "prefetch", "verify"):
            del body["data"][key]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def load(path: str | Path, changes: Sequence[str] = (), phases: str | Path | None = None) -> Config:
    """Reads a .toml, .yaml or .json config and applies `changes`, such as `optim.lr=3e-4`. Raises ConfigError.

    `phases` is a second file, whose phases take the place of the first one's, and what it says of data and `out` too.
    Paths in a config are relative to its file, those of `changes` to where the command runs.
    """
    body, where = _read(Path(path))
    if phases is not None:
        body, where = _with_phases(body, where, Path(phases))
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise ConfigError(f"--set {change!r}: write KEY=VALUE, such as optim.lr=3e-4")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change}: {value!r} is no value: {getattr(error, 'problem', error)}") from None
        _put(body, key.split("."), parsed, change)
    return from_mapping(body, where)


Where = Callable[[tuple[Any, ...]], str]
"""From the keys that lead to a value to its place, for messages."""


def _read(path: Path) -> tuple[dict[str, Any], Where]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config {path}: {error}") from error
    node = None
    if path.suffix in (".yaml", ".yml", ".json"):
        body, node = parse_yaml(text, str(path))
    else:
        try:
            body = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: a config is a mapping; see docs/training.md")
    _settle_paths(body, path.parent)

    def where(keys: tuple[Any, ...]) -> str:
        line = line_of(node, keys) if node is not None else _toml_line(text, keys)
        return f"{path}, line {line}" if line else str(path)

    return body, where


def _with_phases(body: dict[str, Any], where: Where, path: Path) -> tuple[dict[str, Any], Where]:
    """A config with the phases, data and `out` of another file."""
    other, other_where = _read(path)
    for key in other:
        if key not in ("out", "data", "phase"):
            raise ConfigError(
                f"{other_where((key,))}: a file of phases has out, data and phase; {key!r} stays that of the config"
            )
    data, more = body.get("data", {}), other.get("data", {})
    if isinstance(data, dict) and isinstance(more, dict):
        named = {"path", "sources", "held_out"} if {"path", "sources"} & set(more) else set()
        more = {key: value for key, value in data.items() if key not in named} | more
    return {**body, **other, "phase": other.get("phase", []), "data": more}, lambda keys: (
        other_where if keys[:1] == ("phase",) or _holds(other, keys) else where
    )(keys)


def _holds(body: Any, keys: tuple[Any, ...]) -> bool:
    for key in keys:
        if not isinstance(body, dict) or key not in body:
            return False
        body = body[key]
    return True


def from_mapping(body: Mapping[str, Any], where: Where | None = None) -> Config:
    """A config from nested mappings. Raises ConfigError that names the key, and by `where(keys)` its place."""
    config = _build(Config, body, (), where or (lambda keys: "config"))
    _check(config)
    return config


def _settle_paths(body: dict[str, Any], folder: Path) -> None:
    """Makes paths those that they are for this process. What is no path is left for `_build` to refuse."""

    def settle(at: Any, key: str) -> None:
        if isinstance(at, dict) and isinstance(at.get(key), str):
            at[key] = os.path.normpath(folder / at[key])

    settle(body, "out")
    data = body.get("data")
    if isinstance(data, dict):
        settle(data, "path")
        for key in ("sources", "held_out"):
            for name in data[key] if isinstance(data.get(key), dict) else ():
                settle(data[key], name)


def _put(body: dict[str, Any], keys: list[str], value: Any, change: str) -> None:
    at: Any = body
    for key in keys[:-1]:
        if isinstance(at, list):
            found = [item for item in at if isinstance(item, dict) and item.get("name") == key]
            if not found:
                raise ConfigError(f"--set {change}: no phase is named {key!r}")
            at = found[0]
        else:
            at = at.setdefault(key, {})
        if not isinstance(at, dict | list):
            raise ConfigError(f"--set {change}: {key!r} holds a value, not a section")
    if isinstance(at, list):
        raise ConfigError(f"--set {change}: name the phase and a key in it")
    at[keys[-1]] = value


def _toml_line(text: str, keys: tuple[Any, ...]) -> int:
    """The line of an assignment, or of the section that it is missing from; 0 if unknown. TOML's parser gives no places."""
    section: tuple[Any, ...] = ()
    counts: dict[tuple[Any, ...], int] = {}
    best = 0
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split("#")[0].strip()
        if bare.startswith("["):
            section = tuple(part.strip().strip('"') for part in bare.strip("[]").split("."))
            if bare.startswith("[["):
                counts[section] = counts.get(section, -1) + 1
            # phase.lr below the second [[phase]] is phase, 1, lr.
            section = tuple(
                item
                for n, part in enumerate(section)
                for item in ((part, counts[section[: n + 1]]) if section[: n + 1] in counts else (part,))
            )
            found = section
        else:
            name = bare.split("=")[0].strip() if "=" in bare else ""
            found = (*section, *(part.strip().strip('"') for part in name.split("."))) if name else ()
        if found and found == keys:
            return number
        if found and found == keys[: len(found)]:
            best = number
    return best


def _build(kind: Any, body: Any, keys: tuple[Any, ...], where: Any) -> Any:
    if not isinstance(body, Mapping):
        raise ConfigError(f"{where(keys)}: {_name(keys)} is a section, not {body!r}")
    known = {f.name: f for f in dataclasses.fields(kind)}
    types_of = typing.get_type_hints(kind)
    values = {}
    for key, value in body.items():
        key = "on" if key is True else key  # as which YAML 1.1 reads it
        if key not in known:
            raise ConfigError(
                f"{where((*keys, key))}: unknown key {_name((*keys, key))!r}{nearest(str(key), known)}; "
                f"valid here: {', '.join(known)}"
            )
        values[key] = _value(types_of[key], value, (*keys, key), where)
    missing = [
        f.name for f in known.values()
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise ConfigError(f"{where(keys)}: {_name(keys) or 'config'} lacks {', '.join(missing)}")
    return kind(**values)


def _value(kind: Any, value: Any, keys: tuple[Any, ...], where: Any) -> Any:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, keys, where)
    if origin is Literal:
        if value not in inside:
            raise ConfigError(
                f"{where(keys)}: {_name(keys)} is one of {', '.join(map(str, inside))}, not {value!r}"
                f"{nearest(str(value), inside)}"
            )
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _value(next(k for k in inside if k is not type(None)), value, keys, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where(keys)}: {_name(keys)} is a list, not {value!r}")
        if inside[-1] is Ellipsis:
            return tuple(_value(inside[0], item, (*keys, i), where) for i, item in enumerate(value))
        if len(value) != len(inside):
            raise ConfigError(f"{where(keys)}: {_name(keys)} holds {len(inside)} values, not {len(value)}")
        return tuple(_value(k, item, (*keys, i), where) for i, (k, item) in enumerate(zip(inside, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where(keys)}: {_name(keys)} is a section, not {value!r}")
        return {str(name): _value(inside[1], item, (*keys, name), where) for name, item in value.items()}
    return _scalar(kind, value, keys, where)


_SUFFIX = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def _scalar(kind: type, value: Any, keys: tuple[Any, ...], where: Any) -> Any:
    wrong = ConfigError(f"{where(keys)}: {_name(keys)} is {_WORDS[kind]}, not {value!r}")
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind in (int, float):
        if isinstance(value, str):  # 500M, and YAML 1.1 takes 3e-4 for a text
            text = value.strip().upper().replace("_", "")
            factor = _SUFFIX.get(text[-1:], 1)
            try:
                value = float(text[:-1] if factor > 1 else text) * factor
            except ValueError:
                raise wrong from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong
        if kind is int and value != int(value):
            raise wrong
        return kind(value)
    if not isinstance(value, str):
        raise wrong
    return value


_WORDS = {bool: "true or false", int: "a whole number (500M is understood)", float: "a number", str: "a text"}


def _name(keys: tuple[Any, ...]) -> str:
    return ".".join(str(key) for key in keys)


def _check(config: Config) -> None:
    model, data = config.model, config.data

    def refuse(wrong: bool, message: str) -> None:
        if wrong:
            raise ConfigError(message)

    sections: tuple[tuple[Any, int, str], ...] = (
        (model, 1, "layers width heads kv_heads head_dim"),
        (data, 1, "seq_len batch_tokens prefetch"),
        (config.guard, 1, "window least_history skips rise_steps"),
        (config.checkpoint, 1, "every keep"),
        (config.parallel, 1, "tensor"),
        (config.log, 1, "every"),
        (config, 0, "micro_tokens"),
        (model, 0, "ffn vocab_size init_std"),
        (config.optim, 0, "weight_decay eps z_loss"),
        (config.guard, 0, "margin rollbacks"),
        (config.checkpoint, 0, "permanent healthy"),
        (config.parallel, 0, "shard"),
        (config.log, 0, "evaluate evaluate_tokens hour_price watts"),
    )
    for section, least, names in sections:
        for name in names.split():
            value = getattr(section, name)
            kind = "" if section is config else f"{type(section).__name__.lower()}."
            refuse(value < least, f"{kind}{name} must be {least} or more, not {value}")
    refuse(
        model.heads % model.kv_heads != 0,
        f"model.heads ({model.heads}) must be a multiple of kv_heads ({model.kv_heads})",
    )
    refuse(model.head_dim % 2 != 0, f"model.head_dim ({model.head_dim}) must be even: rotary positions turn pairs")
    for name in ("lr", "muon_lr", "clip"):
        value = getattr(config.optim, name)
        refuse(value <= 0, f"optim.{name} must be above 0, not {value}")
    for value in config.optim.betas:
        refuse(not 0 <= value < 1, f"optim.betas are at least 0 and below 1, not {value}")
    refuse(not 0 <= data.held_out_share < 1, f"data.held_out_share is a share below 1, not {data.held_out_share}")
    refuse(data.max_epochs <= 0, f"data.max_epochs must be above 0, not {data.max_epochs}")
    called = [phase.name for phase in config.phase]
    refuse(len(set(called)) < len(called), f"two phases have one name: {', '.join(called)}")
    for phase in config.phase:
        _check_phase(phase, refuse)
    # Without phases of its own a run has those of its data, or one over all of them.
    for phase in config.phase or (Phase("pretrain"),):
        length = phase.seq_len or data.seq_len
        batch = phase.batch_tokens or data.batch_tokens
        refuse(
            batch % length != 0,
            f"phase {phase.name!r}: batch_tokens ({batch:,}) must be a multiple of seq_len ({length:,}); "
            f"the nearest is {max(1, round(batch / length)) * length:,}",
        )


def _check_phase(phase: Phase, refuse: Callable[[bool, str], None]) -> None:
    for name in ("tokens", "seq_len", "batch_tokens"):
        value = getattr(phase, name)
        refuse(value is not None and value < 1, f"phase {phase.name!r}: {name} must be 1 or more, not {value}")
    refuse(any(share < 0 for share in phase.mix.values()), f"phase {phase.name!r}: a share of its mix is below 0")
    refuse(phase.lr.start < 0 or phase.lr.end < 0, f"phase {phase.name!r}: a factor of its lr is below 0")
    refuse(phase.lr.warmup < 0, f"phase {phase.name!r}: lr.warmup is below 0 tokens")
