"""Fields of a row: found by name, dotted path or template, and turned into text."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import regex

from pipeline.yaml_files import nearest


class FieldError(Exception):
    """What is wrong with a field of one row, in words that follow the name of the row."""


class Alternatives(NamedTuple):
    """The paths that may hold a field, the first that a row has counting, and whether all of them may be missing."""

    paths: tuple[str, ...]
    optional: bool


MISSING = object()
"""The value of an optional field that is not there."""


def to_text(value: Any) -> str:
    """A value of a row as text: numbers without a needless `.0`, null as nothing.

    Raises ValueError for lists and mappings.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple | dict):
        raise ValueError(f"is {shown(value)}, not a text")
    return str(value)


@lru_cache(maxsize=1024)
def alternatives(field: str) -> Alternatives:
    """What `question | query?` means."""
    bare = field.strip().removesuffix("?")
    return Alternatives(tuple(path.strip() for path in bare.split("|")), bare != field.strip())


def find(fields: Mapping[str, Any], field: str) -> Any:
    """The value of a field, `MISSING` where it is optional and not there. Raises FieldError."""
    paths, optional = alternatives(field)
    for path in paths:
        value = fields[path] if path in fields else _walk(fields, path.split("."))
        if value is not MISSING:
            return value
    if optional:
        return MISSING
    names = [name for name in fields if not name.startswith("_")]
    names += [f"{name}.{inner}" for name, value in fields.items() if isinstance(value, dict) for inner in value]
    raise FieldError(f"no field {' or '.join(paths)!r}{nearest(paths[0], names)}; the row has {', '.join(names)[:200]}")


def _walk(value: Any, steps: Sequence[str]) -> Any:
    if not steps:
        return value
    if isinstance(value, Mapping):
        return _walk(value[steps[0]], steps[1:]) if steps[0] in value else MISSING
    if isinstance(value, list):
        if steps[0].isdecimal():
            return _walk(value[int(steps[0])], steps[1:]) if int(steps[0]) < len(value) else MISSING
        found = [_walk(element, steps) for element in value]
        return MISSING if any(element is MISSING for element in found) else found
    return MISSING


def value_of(fields: Mapping[str, Any], field: str) -> Any:
    """What a field or a template gives. Raises FieldError."""
    if "{" not in field:
        return find(fields, field)

    def fill(match: Any) -> str:
        value = find(fields, match[1])
        return "" if value is MISSING else text_in(match[1], value)

    return regex.sub(r"\{([^{}]*)\}", fill, field)


def text_in(field: str, value: Any) -> str:
    """The value of a field as text. Raises FieldError."""
    try:
        return to_text(value)
    except ValueError as error:
        raise FieldError(f"{field} {error}") from None


def texts_in(field: str, value: Any) -> list[str]:
    """The texts of a list, or the one text. Raises FieldError."""
    return [text_in(field, element) for element in value] if isinstance(value, list) else [text_in(field, value)]


def shown(value: Any) -> str:
    """A value in an error: what it is, and the beginning of it."""
    if isinstance(value, dict):
        return f"a mapping with the keys {', '.join(value)}"[:120]
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else repr(value)[:60]
