"""The recipe: one YAML file that describes a run, typed, validated and hashed.

Thresholds stand in recipes and nowhere else. A rule group usually names a published dialect (`gopher_quality@datatrove`)
from `pipeline/recipes/dialects/` and may override single bounds; `resolve` turns groups into plain bounds.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from pipeline.contamination.benchmark import digest, load_benchmarks
from pipeline.contamination.options import Decontamination
from pipeline.dedup.options import Dedup
from pipeline.errors import RecipeError
from pipeline.masking import Masking
from pipeline.options import Options, Share, Size
from pipeline.scores import QUALITY, Scoring, facts, score_schema, scored_names
from pipeline.sources.options import CodeGate, Inputs
from pipeline.tables import CURATED
from pipeline.yaml_files import line_of, nearest, parse_yaml

RECIPES = Path(__file__).parent / "recipes"


class UrlWords(Options):
    """Words that condemn an address: `hard` as whole words, `substrings` anywhere, `soft` only several together."""

    hard: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    substrings: tuple[str, ...] = ()


class UrlGate(Options):
    """Which addresses are turned away before their page is parsed.

    Each list holds list files (paths, or files that ship, such as `urls/blocklist.txt`) and single entries. `domains`
    block all below them, `hosts` themselves only, `urls` one page; `curated` are domains that other sources cover;
    `allow` overrides all of them. `soft_minimum`: so many different soft words make a hit (RefinedWeb: 2).
    """

    domains: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    curated: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    words: str | UrlWords | None = None
    soft_minimum: int = Field(default=2, ge=1)

    def entries(self, kind: str) -> tuple[str | Path, ...]:
        """One of the lists, with the names of list files as paths. Raises RecipeError for a file that is not there."""
        return tuple(data_file(name) or name for name in getattr(self, kind))


class HttpGate(Options):
    """Which responses hold a page. `unknown_*` decide about responses that do not say."""

    status: tuple[int, ...] = (200,)
    unknown_status: bool = True
    media_types: tuple[str, ...] = ("text/html", "application/xhtml+xml", "text/plain")
    unknown_media_type: bool = True


class LanguageGate(Options):
    """Languages to keep with their least probability, and the least share of letters in that language's scripts.

    An empty `keep` keeps every language. Decided late: the text of other languages stays in the run folder.
    """

    keep: dict[str, Share] = Field(default_factory=dict)
    script: Share = 0.5


class Gates(Options):
    """Cheap decisions that come before the text is measured."""

    url: UrlGate = UrlGate()
    http: HttpGate = HttpGate()
    language: LanguageGate = LanguageGate()
    code: CodeGate = CodeGate()


class Extraction(Options):
    """How HTML becomes text, and what a page may cost.

    The cascade leaves pages in unwanted languages to its fast engine. `trusted_chars`: where that finds less text, its
    language is not believed and the page is read by the slow engine too.
    """

    engine: Literal["cascade", "blocks", "resiliparse", "trafilatura"] = "cascade"
    timeout_s: float = Field(default=5, gt=0, le=600)
    memory: Size = 1_000_000_000
    max_bytes: Size = 10_000_000
    trusted_chars: int = Field(default=200, ge=0)


class Output(Options):
    """`shard_bytes`: text per curated shard; the number of shards is a function of the content, never of the cluster."""

    shard_bytes: Size = 128_000_000


def _interval(value: Any) -> Any:
    if value is None or not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("a bound is [minimum, maximum], either of them null for an open end")
    low, high = value
    if not all(end is None or (isinstance(end, int | float) and not isinstance(end, bool)) for end in value):
        raise ValueError(f"a bound holds numbers, not {value}")
    if low is None and high is None:
        raise ValueError("a bound with two open ends decides nothing; leave it out")
    if low is not None and high is not None and low > high:
        raise ValueError(f"impossible bound: minimum {low} is above maximum {high}")
    return (low, high)


Interval = Annotated[tuple[float | None, float | None], BeforeValidator(_interval)]


class Dialect(Options):
    """A published rule group as one implementation has it: bounds, the text they are measured on, and line edits."""

    source: str
    text: Literal["raw", "edited"] = "raw"
    edits: dict[str, Any] | None = None
    bounds: dict[str, Interval] = Field(default_factory=dict)


class RuleGroup(Options):
    """A rule group of a recipe: a dialect with overrides, or bounds of one's own. A null bound removes the dialect's."""

    dialect: str | None = None
    source: str | None = None
    text: Literal["raw", "edited"] | None = None
    bounds: dict[str, Interval | None] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"dialect": value} if isinstance(value, str) else value

    @field_validator("dialect")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in dialects():
            raise ValueError(f"unknown dialect {value!r}{nearest(value, dialects())}")
        return value

    def resolve(self) -> Dialect:
        """The dialect with this group's overrides applied."""
        base = dialects()[self.dialect] if self.dialect else Dialect(source=self.source or "this recipe")
        kept = {signal: bound for signal, bound in base.bounds.items() if signal not in self.bounds}
        own = {signal: bound for signal, bound in self.bounds.items() if bound is not None}
        # The dialect's order is kept so that overriding a bound does not change which reason comes first.
        merged = {**kept, **own}
        ordered = {signal: merged[signal] for signal in base.bounds if signal in merged}
        return Dialect(
            source=self.source or base.source,
            text=self.text or base.text,
            edits=base.edits,
            bounds={**ordered, **own},
        )


class Recipe(Options):
    """Everything that decides what a run makes of its inputs. Load one with `load_recipe`."""

    name: str
    description: str = ""
    dump: str | None = None
    source: str = "web"
    inputs: Inputs = Inputs()
    gates: Gates = Gates()
    extraction: Extraction = Extraction()
    rules: dict[str, RuleGroup] = Field(default_factory=dict)
    score: Scoring = Scoring()
    dedup: Dedup = Dedup()
    decontaminate: Decontamination = Decontamination()
    pii: Masking = Masking()
    output: Output = Output()

    def groups(self) -> Iterator[tuple[str, Dialect]]:
        """Rule groups in the recipe's order, dialects resolved."""
        for name, group in self.rules.items():
            yield name, group.resolve()

    def line_edits(self) -> dict[str, dict[str, Any]]:
        """Line-edit policies by the dialect (or group) that asks for them, in the recipe's order."""
        policies = {}
        for name, group in self.rules.items():
            edits = group.resolve().edits
            if edits is not None:
                policies[group.dialect or name] = edits
        return policies

    @property
    def extracting(self) -> str:
        """Digest of all that records and documents depend on. Only runs that share it can be re-decided."""
        return _digest(
            {
                "source": self.source,
                "dump": self.dump,
                "url": self.gates.url.model_dump(),
                "url_files": _file_digests(self.gates.url),
                "http": self.gates.http.model_dump(),
                # The language gate is left out: pages in other languages keep the fast engine's text and can come back.
                "extraction": self.extraction.model_dump(),
                "inputs": self.inputs.model_dump(exclude={"tolerate", "tolerate_file"}),
                "code": self.gates.code.model_dump(),
            }
        )

    @property
    def digest(self) -> str:
        """Digest of the whole recipe with dialects and word lists resolved: equal digests decide alike."""
        rules = {name: dialect.model_dump() for name, dialect in self.groups()}
        body = self.model_dump(
            exclude={
                "name": True,
                "description": True,
                "rules": True,
                "inputs": True,
                # These name files: what counts is what is in them.
                "decontaminate": {"benchmarks"},
                "score": {"heads"},
            }
        )
        own = {
            "rules": rules,
            "extracting": self.extracting,
            "pii_key": self.pii.fingerprint(),
            "benchmarks": digest(self.decontaminate.benchmarks),
            "scoring": facts(self.score),
            "cut_sentences": {name: head.cut_sentences for name, head in self.score.heads.items()},
        }
        return _digest({**body, **own})

    def with_benchmarks(self, path: str | Path) -> "Recipe":
        """This recipe with the benchmarks of a YAML file instead of its own. Raises RecipeError."""
        chosen = self.decontaminate.model_copy(update={"benchmarks": load_benchmarks(path)})
        return self.model_copy(update={"decontaminate": chosen})


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _file_digests(gate: UrlGate) -> dict[str, str]:
    named = [name for kind in ("domains", "hosts", "urls", "curated", "allow") for name in getattr(gate, kind)]
    if isinstance(gate.words, str):
        named.append(gate.words)
    files = {name: data_file(name) for name in named}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path}


def data_file(name: str) -> Path | None:
    """The list file that `name` means: a path, or a file that ships in `pipeline/recipes/`; None if it is an entry.

    Raises RecipeError for what looks like a file and is not there.
    """
    for path in (Path(name), RECIPES / name):
        if path.is_file():
            return path
    if "://" not in name and name.endswith((".txt", ".gz", ".yaml")):
        raise RecipeError(f"list file {name!r} does not exist; give a path, or one of: {', '.join(_shipped_lists())}")
    return None


def _shipped_lists() -> list[str]:
    return sorted(str(p.relative_to(RECIPES)) for p in RECIPES.glob("urls/*"))


@cache
def dialects() -> Mapping[str, Dialect]:
    """Every published dialect that ships, by name."""
    found: dict[str, Dialect] = {}
    for path in sorted((RECIPES / "dialects").glob("*.yaml")):
        for name, body in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            found[name] = Dialect.model_validate(body)
    return found


def published_recipes() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """Loads a shipped recipe by name or any recipe by path.

    Raises RecipeError that names the file, the line, the key and the nearest valid name.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name}.yaml"
        if not path.is_file():
            known = published_recipes()
            raise RecipeError(
                f"no recipe named {str(name)!r}{nearest(str(name), known)}; shipped: {', '.join(known)}; "
                "or give the path of a .yaml file"
            )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}") from error
    return parse_recipe(text, str(name))


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Parses and validates YAML text; `where` is how errors name it. Raises RecipeError."""
    body, node = parse_yaml(text, where)
    if not isinstance(body, dict) or node is None:
        raise RecipeError(f"{where}: a recipe is a mapping with at least `name`; see `crawlmill run --help`")
    try:
        recipe = Recipe.model_validate(body)
    except ValidationError as error:
        raise RecipeError(_explain(error, node, where)) from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    _check_signals(recipe, node, where)
    _file_digests(recipe.gates.url)
    recipe.pii.fingerprint()
    recipe.score.digests()
    return recipe


def _check_signals(recipe: Recipe, node: yaml.Node, where: str) -> None:
    from pipeline.annotation import measured_schema
    from pipeline.curation import ledger_schema
    from pipeline.signals import known_signals

    measured = known_signals()
    taken = {*ledger_schema(measured_schema(recipe)).names, *CURATED.names} - {"topic"}
    if not recipe.score.ranks:
        taken |= set(QUALITY.names)
    for name in score_schema(recipe.score).names:
        if name in taken:
            line = line_of(node, ("score", "heads", name.removeprefix("score_")))
            raise RecipeError(
                f"{where}, line {line}: score: {name!r} is the name of another column; name the head otherwise"
            )
        taken.add(name)
    known = {*measured, *scored_names(recipe.score)}
    for name, dialect in recipe.groups():
        for signal in dialect.bounds:
            if signal not in known:
                line = line_of(node, ("rules", name, "bounds", signal))
                raise RecipeError(
                    f"{where}, line {line}: rules.{name}: unknown signal {signal!r}{nearest(signal, known)}"
                )


def _explain(error: ValidationError, node: yaml.Node, where: str) -> str:
    problem = error.errors()[0]
    path = tuple(p for p in problem["loc"] if not (isinstance(p, str) and p.startswith("function-")))
    key = ".".join(str(p) for p in path)
    line = line_of(node, path)
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(path[:-1])
        return f"{where}, line {line}: unknown key {key!r}{nearest(str(path[-1]), valid)}" + (
            f"; valid here: {', '.join(valid)}" if valid else ""
        )
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}, line {line}: {key}: {message[:1].lower() + message[1:]}"


def _valid_keys(path: tuple[Any, ...]) -> list[str]:
    """The keys of the model at the end of a path; steps that are no fields are elements of lists and mappings."""
    model: Any = Recipe
    for step in path:
        info = model.model_fields.get(str(step))
        if info is not None:
            model = _model_in(info.annotation)
            if model is None:
                return []
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The model that a type is, or is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
