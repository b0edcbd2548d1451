"""Moved bounds to a recipe file: what it says, where it is written, and the command that decides the run by it."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from jobs.report.text import shown_line
from jobs.runs import Run
from pipeline.errors import RecipeError, UsageError
from pipeline.recipe import Recipe, parse_recipe
from pipeline.whatif import Moves, moved, really, thresholds

FOLDER = "recipes"
"""Where in a run folder recipes are written."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def file_name(name: str) -> str:
    """The file of a recipe, relative to the run folder. Raises UsageError for a name that is none."""
    if not NAME.fullmatch(name):
        raise UsageError(
            "a recipe's name is up to 64 small letters, digits, - and _, and begins with a letter or digit; "
            f"{shown_line(name)[:80]!r} is not"
        )
    return f"{FOLDER}/{name}.yaml"


def suggested_name(name: str) -> str:
    """A name for a recipe that is made of another one."""
    letters = re.sub(r"[^a-z0-9_-]+", "-", name.lower())[:50].strip("-_")
    return f"{letters}-moved" if letters else "moved"


def recipe_text(run: Run, moves: Moves, name: str, prediction: str = "") -> str:
    """The run's recipe under another name with its bounds moved, as YAML that `load_recipe` reads. What was moved, and
    what that was predicted to come to, stands in comments above it.

    Raises RecipeError for moves that make no recipe, and where the recipe's own files are gone.
    """
    file_name(name)
    recipe = moved(run.recipe, moves).model_copy(update={"name": name})
    lines = [
        f"Recipe {run.recipe.name} of the run {run.folder.absolute()},",
        "with bounds moved in the inspector:" if really(moves, run.recipe) else "with no bound moved.",
        *(f"  {line}" for line in told(run.recipe, moves)),
        *([prediction] if prediction else []),
    ]
    header = "".join(f"# {shown_line(line)}\n" for line in lines)
    for short in (True, False):
        text = header + _yaml(recipe, short)
        if parse_recipe(text, name) == recipe:
            return text
    raise RecipeError("this recipe cannot be written as YAML that reads as the same recipe")


def told(recipe: Recipe, moves: Moves) -> list[str]:
    """One line for each bound that is moved, in the recipe's order."""
    at = {threshold.key: threshold for threshold in thresholds(recipe)}
    lines = []
    for key, value in really(moves, recipe).items():
        end = "at least" if at[key].side == "minimum" else "at most"
        name = key if at[key].gate else at[key].rule
        lines.append(f"{name}: {end} {plain(at[key].value)} -> {'no bound' if value is None else plain(value)}")
    return lines


def write(run: Run, name: str, text: str, replace: bool = False) -> str:
    """Writes a recipe into the run folder; returns its path. Raises UsageError where there is one of that name already
    and it is not to be replaced, or where the folder of recipes lies elsewhere, StorageError where it cannot be written.
    """
    file = file_name(name)
    if run.folder.local and not _inside(Path(run.folder.path), file):
        raise UsageError(f"{run.folder.path}/{file} leads out of the run folder; nothing was written")
    if not replace and run.folder.has(file):
        raise UsageError(f"there is a recipe {file} in the run folder already; choose another name, or replace it")
    run.folder.write_bytes(file, text.encode())
    return f"{run.folder.path}/{file}"


def _inside(folder: Path, file: str) -> bool:
    return (folder / file).resolve().is_relative_to(folder.resolve())


def command(run: Run, name: str) -> str:
    """What decides the run by a recipe of that name that was written beside it."""
    path = run.folder.path
    words = ["crawlmill", "redecide", path, "--recipe", f"{path}/{FOLDER}/{name}.yaml", "--output", f"{path}-{name}"]
    return shlex.join(words)


def _yaml(recipe: Recipe, short: bool) -> str:
    body: dict[str, Any] = recipe.model_dump(mode="json", exclude_defaults=short)
    body = {"name": recipe.name, **body}
    for name, group in body.get("rules", {}).items():
        group = {key: value for key, value in group.items() if value is not None}
        bounds = {
            signal: bound and [_number(end) for end in bound] for signal, bound in group.get("bounds", {}).items()
        }
        group.pop("bounds", None)
        if bounds:
            group["bounds"] = bounds
        body["rules"][name] = group["dialect"] if list(group) == ["dialect"] else group
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def plain(value: float) -> str:
    """A number as it stands in an address or a field: the shortest that is read back as the same."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _number(value: float | None) -> float | int | None:
    return int(value) if value is not None and float(value).is_integer() else value
