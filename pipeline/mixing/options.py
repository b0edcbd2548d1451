"""The mix file: sources, phases, weights. `load_mix` reads one with errors that name the line."""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from pipeline.errors import RecipeError
from pipeline.options import Options
from pipeline.yaml_files import line_of, nearest, parse_yaml, read_yaml

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

SHIPPED = Path(__file__).parent.parent / "recipes" / "mixes"
"""Published mixtures. Which folders hold their sources only a copy can say."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names of sources and phases become folders."""

MOST_TOKENS = 10**17
"""Counts beyond are a slip of the pen: all that is written comes to less."""

DEFAULT = "default"
"""Key of the weight of all values that are not named."""

HELD_OUT = "held_out"
"""What stands beside the phases for documents that none of them takes."""

NULL = "null"
"""Key of the weight of documents without a value."""


def parse_count(value: Any) -> Any:
    """`"1.5B"` -> 1500000000; numbers pass through. Raises ValueError."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9_]+(?:\.[0-9]+)?)([KMBT]?)", value.strip().upper().replace(" ", ""))
    if not found:
        raise ValueError(f"{value!r} is not a number of tokens; write for example 500_000, 2M, 1.5B or 1T")
    exact = Fraction(found[1].replace("_", "")) * UNITS[found[2]]
    if exact.denominator != 1:
        raise ValueError(f"{value!r} is no whole number of tokens")
    return int(exact)


def _count_or_all(value: Any) -> Any:
    return value if value == "all" else parse_count(value)


def _keys_as_text(value: Any) -> Any:
    """Keys of a mapping as they stand in the file: YAML reads 19, null and no as something else than text."""
    if not isinstance(value, dict):
        return value
    for key in value:
        if isinstance(key, bool):
            raise ValueError(f"YAML reads the key {'no' if not key else 'yes'} as {key}; put it in quotes")
    return {NULL if key is None else str(key): entry for key, entry in value.items()}


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0, le=MOST_TOKENS)]
Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Weights = Annotated[dict[str, Weight], BeforeValidator(_keys_as_text)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
Name = str


class Within(Options):
    """Weights of the documents inside of a source: the product of the weight of each value that is named here.

    Keys of `quality_bin` and `cluster_size` are numbers and ranges (`19`, `2-5`, `6-`), of `topic` and `language` values;
    `default` is the weight of all others, `null` that of documents without a value. Documents must have a weight.
    """

    quality_bin: Weights | None = None
    topic: Weights | None = None
    cluster_size: Weights | None = None
    language: Weights | None = None


RANGED = ("quality_bin", "cluster_size")
"""Those of `Within` whose keys are numbers and ranges."""


class Phase(Options):
    """A stretch of training. `weights`: shares of its `tokens` by source, normalised. `tokens: all`: as many as the weights
    allow without any document coming twice, phases before included. `max_epochs` overrides that of the mix.
    """

    name: Name
    tokens: Annotated[int, BeforeValidator(_count_or_all), Field(gt=0, le=MOST_TOKENS)] | Literal["all"]
    weights: Weights
    within: dict[str, Within] = Field(default_factory=dict)
    max_epochs: Epochs | dict[str, Epochs] | None = None


class Mix(Options):
    """A mix file. `sources` names token folders, relative to the file; several are joined.

    `held_out`: the share of each source's documents that no phase takes, and that are written apart to be evaluated on.
    `max_epochs`: how often a document may come at most, all phases together; or by source, with `default` for the others.
    `shard_tokens`: tokens of a shard of the output, about. `shards: phase` interleaves the sources of a phase.
    """

    name: Name
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**63)
    held_out: float = Field(default=0, ge=0, lt=1)
    max_epochs: Epochs | dict[str, Epochs] = 4.0
    shard_tokens: Count = 100_000_000
    shards: Literal["source", "phase"] = "source"
    sources: dict[str, Annotated[tuple[str, ...], BeforeValidator(_one_or_more), Field(min_length=1)]]
    phases: tuple[Phase, ...] = Field(min_length=1)

    def allowed(self, phase: Phase, source: str) -> Fraction:
        """How often a document of the source may have come at the end of the phase."""
        for limit in (phase.max_epochs, self.max_epochs):
            if isinstance(limit, dict):
                limit = limit.get(source, limit.get(DEFAULT))
            if limit is not None:
                return exact(limit)
        return exact(4.0)

    def overridden(self, seed: int | None, max_epochs: float | None) -> "Mix":
        """This mix with another seed, and with another limit of epochs instead of all that it has."""
        changed: dict[str, Any] = {} if seed is None else {"seed": seed}
        if max_epochs is not None:
            phases = tuple(phase.model_copy(update={"max_epochs": None}) for phase in self.phases)
            changed |= {"max_epochs": float(max_epochs), "phases": phases}
        return self.model_copy(update=changed)


def exact(weight: float) -> Fraction:
    """The number as it was written: 0.1 is a tenth."""
    return Fraction(repr(weight))


class Range(NamedTuple):
    """Whole numbers from `first` to `last`; without a `last` all from there on."""

    first: int
    last: int | None

    def __str__(self) -> str:
        if self.last is None:
            return f"{self.first}-"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_range(key: str) -> Range:
    """`19`, `2-5` or `6-`. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+)\s*(?:(-)\s*(\d+)?\s*)?", key)
    if not found:
        raise ValueError(f"{key!r} is no range; write 19, 2-5, 6-, default or null")
    first = int(found[1])
    last = first if not found[2] else int(found[3]) if found[3] else None
    if max(first, last or 0) >= 2**62:
        raise ValueError(f"{key!r} is out of range")
    if last is not None and last < first:
        raise ValueError(f"the range {key!r} ends before it begins")
    return Range(first, last)


def ranges(weights: dict[str, float]) -> dict[Range, float]:
    """The ranges among the keys, in order. Raises ValueError where two overlap."""
    parsed = ((parse_range(key), weight) for key, weight in weights.items() if key not in (DEFAULT, NULL))
    found = sorted(parsed, key=lambda entry: entry[0].first)
    for (one, _), (other, _) in pairwise(found):
        if one.last is None or other.first <= one.last:
            raise ValueError(f"the ranges {str(one)!r} and {str(other)!r} overlap")
    return dict(found)


def load_mix(path: str | Path) -> Mix:
    """Reads a mix file. Raises RecipeError that names the file, the line, the key and the nearest right name."""
    shipped = SHIPPED / f"{Path(path).stem}.yaml"
    if not Path(path).exists() and shipped.is_file():
        raise RecipeError(f"there is no mix file {path}; copy {shipped} and name your token folders in the copy")
    return _validated(*read_yaml(path, "mix"), str(path))


def parse_mix(text: str, where: str = "mix") -> Mix:
    """Parses and validates YAML text; `where` is how errors name it. Raises RecipeError."""
    return _validated(*parse_yaml(text, where), where)


def _validated(body: Any, node: yaml.Node | None, where: str) -> Mix:
    if not isinstance(body, dict) or node is None:
        raise RecipeError(
            f"{where}: a mix is a mapping with `name`, `sources` and `phases`; see `crawlmill mix --help`"
        )
    try:
        mix = Mix.model_validate(body)
    except ValidationError as error:
        raise RecipeError(_explain(error, node, where)) from error
    for path, problem in _problems(mix):
        raise RecipeError(f"{where}, line {line_of(node, path)}: {'.'.join(map(str, path))}: {problem}")
    return mix


def _problems(mix: Mix) -> Iterator[tuple[tuple[Any, ...], str]]:
    """What no type can say: where it stands, and what is wrong."""
    if not mix.sources:
        yield ("sources",), "names no token folder"
    seen: dict[str, str] = {}
    for name, folders in mix.sources.items():
        if not NAME.fullmatch(name):
            yield ("sources", name), f"{name!r} cannot name a folder; use letters, digits, _ . and -"
        for folder in folders:
            if not folder.strip():
                yield ("sources", name), "names no folder"
            if folder.rstrip("/") in seen:
                yield ("sources", name), f"the folder {folder} stands in source {seen[folder.rstrip('/')]!r} already"
            seen[folder.rstrip("/")] = name
    yield from _unknown_limits(mix, mix.max_epochs, ("max_epochs",))
    names: set[str] = set()
    for number, phase in enumerate(mix.phases):
        here = ("phases", number)
        if not NAME.fullmatch(phase.name):
            yield (*here, "name"), f"{phase.name!r} cannot name a folder; use letters, digits, _ . and -"
        # Two names that differ in case only are one folder on some disks.
        if phase.name.lower() in names:
            yield (*here, "name"), f"a phase before it is named {phase.name!r}, too"
        if phase.name.lower() == HELD_OUT:
            yield (*here, "name"), f"{HELD_OUT!r} is what is kept from all phases; name the phase otherwise"
        names.add(phase.name.lower())
        yield from _unknown_limits(mix, phase.max_epochs, (*here, "max_epochs"))
        for name in phase.weights:
            if name not in mix.sources:
                yield (*here, "weights", name), _no_source(name, mix)
        if not any(phase.weights.values()):
            yield (*here, "weights"), "no source has a weight above 0"
        for name, within in phase.within.items():
            place = (*here, "within", name)
            if name not in mix.sources:
                yield place, _no_source(name, mix)
            if not phase.weights.get(name):
                yield place, f"the phase gives {name} no weight"
            yield from _bad_within(within, place)


def _unknown_limits(mix: Mix, limit: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    for name in limit if isinstance(limit, dict) else ():
        if name not in mix.sources and name != DEFAULT:
            yield (*place, name), _no_source(name, mix)


def _no_source(name: str, mix: Mix) -> str:
    return f"no source is named {name!r}{nearest(name, mix.sources)}; sources: {', '.join(mix.sources)}"


def _bad_within(within: Within, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    for feature in Within.model_fields:
        weights = getattr(within, feature)
        if weights is None:
            continue
        if not any(weights.values()):
            yield (*place, feature), "no value has a weight above 0"
        if feature in RANGED:
            try:
                ranges(weights)
            except ValueError as error:
                yield (*place, feature), str(error)


_KIND = re.compile(r"(function-|constrained-|dict\[|literal\[)|(float|int)$")
"""Steps in the places of pydantic's errors that stand for a kind of value and not for a key."""


def _explain(error: ValidationError, node: yaml.Node, where: str) -> str:
    # A key that is not known says more than the one that is missing instead.
    problems = error.errors()
    problem = next((found for found in problems if found["type"] == "extra_forbidden"), problems[0])
    path = tuple(step for step in problem["loc"] if not _KIND.match(str(step)))
    line, key = line_of(node, path), ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        valid = sorted((Within if "within" in path else Phase if path[0] == "phases" else Mix).model_fields)
        return (
            f"{where}, line {line}: unknown key {key!r}{nearest(str(path[-1]), valid)}; valid here: {', '.join(valid)}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}, line {line}: {key}: {message[:1].lower() + message[1:]}"
