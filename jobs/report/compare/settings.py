"""What two runs were asked to do: settings of recipes that differ, in words, and inputs that do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.runs import Run
from pipeline.recipe import Recipe

NOT_ASKED = "not asked"
"""How a setting reads in a recipe that does not have it."""

_LEFT_OUT = ("name", "description", "rules")


def settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting, nested as in a recipe, rules first and dialects resolved. Bounds are (least, most)."""
    groups: dict[str, Any] = {}
    for name, dialect in recipe.groups():
        groups[name] = {
            "dialect": recipe.rules[name].dialect or "bounds of its own",
            "text": dialect.text,
            "edits": dialect.edits,
            "bounds": {signal: tuple(bound) for signal, bound in dialect.bounds.items()},
        }
    return {"rules": groups, **recipe.model_dump(mode="json", exclude=set(_LEFT_OUT))}


def differing(a: Recipe, b: Recipe) -> list[dict[str, str]]:
    """Settings that differ: `setting`, what it is in `a` and in `b` in words, and `change`.

    `change` of a bound is stricter, looser, moved, new or gone, of a group of rules new or gone; of others it is empty.
    What only one of the recipes asks for at all is one row.
    """
    rows = list(_differing("", settings(a), settings(b)))
    common = [[name for name in recipe.rules if name in other.rules] for recipe, other in ((a, b), (b, a))]
    if common[0] != common[1]:
        rows.append(_row("rules (order)", in_words(common[0]), in_words(common[1]), ""))
    return rows


def _differing(name: str, x: Any, y: Any) -> Iterator[dict[str, str]]:
    if isinstance(x, Mapping) and isinstance(y, Mapping) and ((x and y) or not name):
        for key in [*x, *(key for key in y if key not in x)]:
            # The name of a bound is that of its rule.
            below = name if key == "bounds" else f"{name}.{key}" if name else key
            yield from _differing(below, x.get(key), y.get(key))
    elif _plain(x) != _plain(y):
        asked = [one for one in (x, y) if one is not None]
        is_rule = name.startswith("rules.") and all(_is_bound(one) or _is_group(one) for one in asked)
        if not is_rule:
            change = ""
        elif x is None or y is None:
            change = "new" if x is None else "gone"
        else:
            change = _moved(x, y)
        left, right = (NOT_ASKED if one is None and is_rule else in_words(one) for one in (x, y))
        yield _row(name, left, right, change)


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() >= {"dialect", "bounds"}


def _row(name: str, a: str, b: str, change: str) -> dict[str, str]:
    return {"setting": name, "a": a, "b": b, "change": change}


def _is_bound(value: Any) -> bool:
    return isinstance(value, tuple)


def _moved(a: tuple[float | None, float | None], b: tuple[float | None, float | None]) -> str:
    """What became of an interval."""
    low_a, low_b = (-float("inf") if side[0] is None else side[0] for side in (a, b))
    high_a, high_b = (float("inf") if side[1] is None else side[1] for side in (a, b))
    if low_b >= low_a and high_b <= high_a:
        return "stricter"
    return "looser" if low_b <= low_a and high_b >= high_a else "moved"


def in_words(value: Any) -> str:
    """A setting for people: at least 50, 50 to 100,000, yes, none, names after each other."""
    if _is_bound(value):
        low, high = value
        if low is not None and high is not None:
            return f"{number(low)} to {number(high)}"
        if low is None and high is None:
            return "any value"
        return f"at least {number(low)}" if low is not None else f"at most {number(high)}"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if _is_group(value):
        return f"{value['dialect']}, {len(value['bounds'])} bounds"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(one)}" for name, one in (_plain(value) or {}).items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(in_words(one) for one in value) or "none"
    return str(value)


def number(value: float) -> str:
    """A number as people write it: 100,000 or 0.15."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _plain(value: Any) -> Any:
    """Objects without what is not set: a benchmark has a dozen options, of which a recipe names three."""
    if isinstance(value, Mapping):
        plain = {name: _plain(one) for name, one in value.items()}
        return {name: one for name, one in plain.items() if one not in (None, [], {}, "")} or None
    if isinstance(value, list):
        return [_plain(one) for one in value] or None
    return value


def inputs(a: Run, b: Run) -> dict[str, Any]:
    """How the inputs of two runs differ: `same`, `moved` (the same files under other names), and by path those of `only_a`,
    `only_b` and `changed` (another size or version)."""
    left, right = ({file["path"]: file for file in run.info["inputs"]} for run in (a, b))
    same = a.info["inputs_digest"] == b.info["inputs_digest"]
    only_a, only_b = (sorted(set(x) - set(y)) for x, y in ((left, right), (right, left)))
    changed = sorted(path for path in left.keys() & right.keys() if _content(left[path]) != _content(right[path]))
    names = [sorted((path.rsplit("/", 1)[-1], files[path]["size"] or 0) for path in files) for files in (left, right)]
    return {
        "same": same,
        "moved": not same and bool(only_a) and names[0] == names[1],
        "files": {"a": len(left), "b": len(right)},
        "only_a": only_a,
        "only_b": only_b,
        "changed": changed,
    }


def _content(file: Mapping[str, Any]) -> tuple[Any, Any]:
    return file.get("size"), file.get("version")
