"""YAML files that people write: read with errors that name the line, the key and the nearest right name."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import RecipeError


class Parsed(NamedTuple):
    """What a file says, and where: `node` is its tree with the places of everything."""

    body: Any
    node: yaml.Node | None


def parse_yaml(text: str, where: str) -> Parsed:
    """Parses a text; `where` is how errors name it. Raises RecipeError, also for a key that stands twice."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        body = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    repeated = _repeated_key(node) if node else None
    if repeated:
        raise RecipeError(f"{where}, line {repeated[1]}: key {repeated[0]!r} stands twice")
    return Parsed(body, node)


def read_yaml(path: str | Path, what: str) -> Parsed:
    """Parses a file; `what` is what errors call it, such as recipe. Raises RecipeError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {what} {path}: {error}") from error
    return parse_yaml(text, str(path))


def line_of(node: yaml.Node | None, path: Iterable[Any]) -> int:
    """The line, from 1, of the key or element at the end of `path`, or of as much of it as there is."""
    if node is None:
        return 1
    line = node.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if str(key.value) == str(step):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and (item := _entry(node, str(step))) is not None:
            line, node = item.start_mark.line + 1, item
        else:
            return line
    return line


def _entry(node: yaml.SequenceNode, name: str) -> yaml.Node | None:
    """What stands behind `name` in a list of names and one-key mappings; the name itself where nothing does."""
    for item in node.value:
        if isinstance(item, yaml.MappingNode) and len(item.value) == 1 and str(item.value[0][0].value) == name:
            return item.value[0][1]
        if isinstance(item, yaml.ScalarNode) and str(item.value) == name:
            return item
    return None


def _repeated_key(node: yaml.Node) -> tuple[str, int] | None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                return str(key.value), key.start_mark.line + 1
            seen.add(key.value)
            if (found := _repeated_key(value)) is not None:
                return found
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            if (found := _repeated_key(value)) is not None:
                return found
    return None


def nearest(name: str, known: Iterable[Any]) -> str:
    """A hint at the known name that is closest, or nothing."""
    close = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
