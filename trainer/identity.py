"""What makes a run itself: what a checkpoint must be of to be gone on from, and in what it differs where it is not."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from trainer.checkpoint_files import CheckpointError, manifest
from trainer.config import Config, ConfigError, from_mapping
from trainer.data import Corpus

SETTINGS = "config.json"
"""The config that a run was last taken up with, in its folder."""

TO_GO_ON = ("config", "plan", "tokenizer")
TO_BEGIN_FROM = ("tokenizer", "model", "optimizer")
"""What must be equal."""

_WORDS = {
    "config": "under another config",
    "plan": "on other data, or in another order",
    "tokenizer": "with another tokenizer",
    "model": "of another shape of model",
    "optimizer": "with another optim.name",
}


def identity(config: Config, corpus: Corpus, begun_from: str | None) -> dict[str, Any]:
    """What each checkpoint of a run says of it. `begun_from` is the checkpoint of another that it took up."""
    return {
        "config": config.digest,
        "plan": corpus.digest,
        "tokenizer": corpus.tokenizer["sha256"],
        "model": asdict(config.model),
        "optimizer": config.optim.name,
        "guard_window": config.guard.window,
        "begun_from": _contents(begun_from) if begun_from else None,
    }


def settings(config: Config) -> dict[str, Any]:
    """What is written into SETTINGS."""
    return {**asdict(config), "digest": config.digest}


def check_own(checkpoint: Path, own: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """What a checkpoint in the run's own folder says of itself. Raises UsageError where the run was another."""
    about = manifest(checkpoint)
    folder = Path(config.out)
    wrong = _wrong(about, own, TO_GO_ON)
    if wrong:
        changed = "; ".join(changes(folder / SETTINGS, config)) if wrong == "config" else ""
        raise UsageError(
            f"{folder} holds a run {_WORDS[wrong]}{f' ({changed})' if changed else ''}: take it up with what it was begun "
            f"with, or set another out, and --from {checkpoint} to start from where it is"
        )
    if own["begun_from"] is not None and about.get("begun_from") != own["begun_from"]:
        raise UsageError(
            f"{folder} holds a run already ({checkpoint.name}), which did not begin from that checkpoint: a run that "
            "starts from another's needs a folder of its own (out)"
        )
    return about


def check_other(checkpoint: str, own: Mapping[str, Any]) -> None:
    """Raises UsageError where a run cannot begin from a checkpoint of another."""
    about = manifest(checkpoint)
    wrong = _wrong(about, own, TO_BEGIN_FROM)
    if wrong:
        what = "; ".join(f"{'.'.join(k)} was {was!r}, is {now!r}" for k, was, now in _parts(about, own, wrong))
        raise UsageError(
            f"{checkpoint} is of a run {_WORDS[wrong]} ({what}): --from takes parameters and moments as they are, so begin "
            "from a checkpoint that fits, or without one"
        )


def changes(path: Path, config: Config, most: int = 4) -> list[str]:
    """In which keys a config differs from the one in `path`, of those that a run must not change on its way."""
    try:
        before = json.loads(path.read_bytes())
        before.pop("digest")
        digest = from_mapping(before).digest
    except (OSError, ValueError, KeyError, AttributeError, ConfigError):
        return []  # of another version, or not there: that it differs is said all the same
    found = []
    for keys, was, now in _differences(before, json.loads(json.dumps(asdict(config)))):
        other = json.loads(json.dumps(before))
        at = other
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = now
        try:
            binds = from_mapping(other).digest != digest
        except ConfigError:  # it fits only what else has changed
            binds = True
        if binds:
            found.append(f"{'.'.join(map(str, keys))} was {was!r}, is {now!r}")
    return found[:most]


def _contents(checkpoint: str) -> str | None:
    """The digest of a checkpoint, wherever it lies; None where it is gone, which a run that has begun need not mind."""
    try:
        return manifest(checkpoint)["sha256"]
    except CheckpointError:
        return None


def _wrong(about: Mapping[str, Any], own: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if about.get(name) != own[name]), None)


def _parts(about: Mapping[str, Any], own: Mapping[str, Any], name: str) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    for keys, was, now in _differences(about.get(name), own[name], (name,)):
        yield keys, _short(was), _short(now)


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) else value


def _differences(one: Any, other: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Places at which two JSON values differ, and both values."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differences(one[key], other[key], (*keys, key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, (*keys, i))
    elif one != other:
        yield keys, one, other
