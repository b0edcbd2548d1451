"""Tasks: questions with choices, or texts with an end to be found, from JSONL files and what a YAML file says of them.

A task file names the fields and the prompt:

    file: arc.jsonl                 # beside this file
    kind: text                      # text, letter or cloze
    fields: {question: question, choices: choices.text, labels: choices.label, answer: answerKey, id: id}
    prompt: "Question: {question}\\nAnswer:"
    unconditional: "Answer:"        # also score each choice without its question
    shots: 5
    shots_from: arc-train.jsonl

A .jsonl file alone is a task with the fields question, choices and answer (cloze: text, or text and target).
"""

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.errors import InputError
from pipeline.yaml_files import line_of, nearest, read_yaml
from trainer.permutation import key_of, permute

Kind = Literal["text", "letter", "cloze"]
Answer = Literal["auto", "index", "letter", "text", "label"]

PROMPTS: Mapping[Kind, str] = {
    "text": "Question: {question}\nAnswer:",
    "letter": "{question}\n{options}\nAnswer:",
    "cloze": "{text}",
}
SHOWN = 5
"""Faults of a file that a message names; the rest are counted."""

_NAME = re.compile(r"\{(\w+(?:\.\w+)*)\}")


class TaskError(InputError):
    """A task that cannot be evaluated as it stands: names the file and each line that is wrong."""


@dataclass(frozen=True)
class Fields:
    """Where the parts of an item are; `a.b` is b within a. `labels` names the choices where the answer is one of them."""

    question: str = "question"
    choices: str = "choices"
    answer: str = "answer"
    labels: str | None = None
    id: str = "id"
    text: str = "text"
    target: str | None = None


@dataclass(frozen=True)
class Options:
    """What a task file says. `prompt` may use any field of an item as {name}, and {options}, the choices with letters.

    `kind`: `text` asks for the words of each choice after the prompt, `letter` for its letter, `cloze` for the rest of a
    text: `target`, or the last word of `text`. `delimiter` stands between prompt and what is asked for, and `between`
    between examples. `answer` says what the answer field holds: `auto` takes a number for an index from 0, and a text
    for a choice, a label or a letter.
    """

    file: str = ""
    name: str = ""
    kind: Kind = "text"
    fields: Fields = field(default_factory=Fields)
    answer: Answer = "auto"
    prompt: str | None = None
    delimiter: str = " "
    unconditional: str | None = None
    description: str = ""
    between: str = "\n\n"
    shots: int = 0
    shots_from: str | None = None
    seed: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Item:
    """One question: `asked` are the continuations of `prompt`, `gold` is which is right (cloze: the only one), `lengths` the
    UTF-8 bytes of each choice. `line` is where it stands in its file."""

    id: str
    line: int
    prompt: str
    asked: tuple[str, ...]
    gold: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """Items, ready to be asked. `unconditional` is the prompt without a question, None where none is asked."""

    name: str
    kind: Kind
    file: Path
    items: tuple[Item, ...]
    unconditional: str | None
    shots: int
    available: int
    """Items of the file, those beyond `limit` too."""


def read_task(path: str | Path, **changes: Any) -> Task:
    """A task from a YAML file, or from a JSONL file alone. `changes` are options that replace those of the file, where they
    are not None. Raises TaskError that names every line that is wrong."""
    path = Path(path)
    options = Options(file=str(path)) if path.suffix == ".jsonl" else _options(path)
    options = replace(options, **{key: value for key, value in changes.items() if value is not None})
    if options.limit is not None and options.limit < 1:
        raise TaskError(f"{path}: limit must be 1 or more, not {options.limit}")
    if options.shots < 0:
        raise TaskError(f"{path}: shots must be 0 or more, not {options.shots}")
    rows = _rows(Path(options.file))
    items = _items(Path(options.file), rows, options)
    examples, own = items, True
    if options.shots_from is not None:
        source = Path(options.shots_from)
        examples, own = _items(source, _rows(source), options), False
    if options.shots > len(examples) - own:
        raise TaskError(
            f"{options.shots_from or options.file} has {len(examples)} items, {options.shots} examples cannot be drawn "
            "from them; lower shots, or name another file in shots_from"
        )
    wanted = items[: options.limit]
    named = options.name or path.stem
    return Task(
        named,
        options.kind,
        Path(options.file),
        tuple(replace(item, prompt=_with_shots(item, examples, options, own)) for item in wanted),
        options.unconditional,
        options.shots,
        len(items),
    )


def _with_shots(item: Item, examples: Sequence[Item], options: Options, own: bool) -> str:
    """Examples before the prompt. Drawn by seed and id alone; from a file of their own all items have the same, so that
    what they share is the same text."""
    chosen = []
    if options.shots:
        key = key_of(options.seed, "shots", item.id if own else "")
        order = permute(np.arange(min(len(examples), options.shots + 1)), len(examples), key)
        chosen = [examples[i] for i in order if not own or examples[i].id != item.id][: options.shots]
    shown = [example.prompt + example.asked[example.gold] for example in chosen]
    return options.description + options.between.join([*shown, item.prompt])


def _items(path: Path, rows: Sequence[tuple[int, dict[str, Any]]], options: Options) -> list[Item]:
    found: list[Item] = []
    wrong: list[str] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        try:
            item = _item(line, row, options)
        except _FaultError as fault:
            wrong.append(f"line {line}: {fault}")
            continue
        if item.id in seen:
            wrong.append(f"line {line}: its id {item.id!r} is that of line {seen[item.id]}")
            continue
        seen[item.id] = line
        found.append(item)
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise TaskError(f"{path}, {'; '.join(wrong[:SHOWN])}{more}")
    if not found:
        raise TaskError(f"{path} has no items")
    return found


class _FaultError(Exception):
    """What is wrong with a line."""


def _item(line: int, row: dict[str, Any], options: Options) -> Item:
    names = options.fields
    name = _get(row, names.id)
    id_ = str(line) if name is None else str(name)
    if options.kind == "cloze":
        text, target = _cloze(row, names)
        prompt = _filled(options.prompt or PROMPTS["cloze"], {**row, "text": text}, options)
        return Item(id_, line, prompt, (options.delimiter + target,), 0, (len(target.encode()),))
    question = _text(row, names.question)
    choices = _choices(row, names.choices)
    labels = _choices(row, names.labels) if names.labels else []
    if labels and len(labels) != len(choices):
        raise _FaultError(f"it has {len(choices)} choices and {len(labels)} labels")
    gold = _gold(row, options, choices, labels)
    letters = string.ascii_uppercase
    if options.kind == "letter" and len(choices) > len(letters):
        raise _FaultError(f"it has {len(choices)} choices, there are {len(letters)} letters")
    shown = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=False))
    values = {**row, "question": question, "options": shown}
    prompt = _filled(options.prompt or PROMPTS[options.kind], values, options)
    asked = choices if options.kind == "text" else [*letters[: len(choices)]]
    return Item(
        id_, line, prompt, tuple(options.delimiter + a for a in asked), gold, tuple(len(a.encode()) for a in asked)
    )


def _gold(row: dict[str, Any], options: Options, choices: Sequence[str], labels: Sequence[str]) -> int:
    value = _get(row, options.fields.answer)
    kind = options.answer
    n = len(choices)
    if value is None:
        raise _FaultError(f"it has no {options.fields.answer!r}")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _FaultError(f"its answer is {value!r}, which is neither a number nor a text")
    if isinstance(value, int) and kind not in ("auto", "index"):
        raise _FaultError(f"its answer is {value!r}, the task says that it is a {kind}")
    if isinstance(value, int) or kind == "index":
        try:
            index = int(value)
        except ValueError:
            raise _FaultError(f"its answer is {value!r}, the task says that it is an index") from None
        if not 0 <= index < n:
            raise _FaultError(f"its answer is {index}, its {n} choices are 0 to {n - 1}")
        return index
    letters = [*string.ascii_uppercase[:n]]
    ways = {"text": choices, "label": labels, "letter": letters}
    if labels and kind == "auto":
        del ways["letter"]  # labels are what letters stand for where there are none
    tried = ways if kind == "auto" else {kind: ways[kind]}
    found = {known.index(value) for known in tried.values() if value in known}
    if len(found) > 1:
        raise _FaultError(
            f"its answer {value!r} is one choice's text and another's letter; say in the task file which (answer)"
        )
    if not found:
        raise _FaultError(
            f"its answer {value!r} is none of its {n} choices" + ("" if labels else f", nor A to {letters[-1]}")
        )
    return found.pop()


def _cloze(row: dict[str, Any], names: Fields) -> tuple[str, str]:
    text = _text(row, names.text)
    if names.target is not None:
        target = _text(row, names.target)
    else:
        text, _, target = text.rstrip().rpartition(" ")
        text = text.rstrip()
    if not text or not target.strip():
        raise _FaultError(
            "its text has no last word to be asked for" if names.target is None else "nothing is asked for"
        )
    return text, target.strip()


def _choices(row: dict[str, Any], name: str) -> list[str]:
    value = _get(row, name)
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise _FaultError(f"its {name!r} is no list of texts" if value is not None else f"it has no {name!r}")
    if len(value) < 2:
        raise _FaultError(f"it has {len(value)} choices; two are the least")
    if any(not choice.strip() for choice in value):
        raise _FaultError("one of its choices is empty")
    if len(set(value)) < len(value):
        raise _FaultError("two of its choices are the same")
    return value


def _text(row: dict[str, Any], name: str) -> str:
    value = _get(row, name)
    if not isinstance(value, str) or not value.strip():
        raise _FaultError(f"it has no {name!r}" if value is None else f"its {name!r} is empty or no text")
    return value


def _get(row: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(row, dict):
            return None
        row = row.get(part)
    return row


def _filled(template: str, values: dict[str, Any], options: Options) -> str:
    def value(found: re.Match[str]) -> str:
        known = _get(values, found[1])
        if known is None:
            raise _FaultError(f"the prompt wants {{{found[1]}}}, which it has not{nearest(found[1], values)}")
        return str(known)

    return _NAME.sub(value, template)


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8: {error}") from error
    return list(_parsed(path, lines))


def _parsed(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TaskError(f"{path}, line {number}: no JSON: {error}") from None
        if not isinstance(row, dict):
            raise TaskError(f"{path}, line {number}: an item is a mapping, not {line[:40]!r}")
        yield number, row


_KINDS: Mapping[str, Sequence[str]] = {
    "kind": ("text", "letter", "cloze"),
    "answer": ("auto", "index", "letter", "text", "label"),
}


def _options(path: Path) -> Options:
    body, node = read_yaml(path, "task")
    if not isinstance(body, dict):
        raise TaskError(f"{path}: a task is a mapping; see docs/evaluation.md")

    def build(kind: Any, given: Any, keys: tuple[str, ...]) -> Any:
        where = f"{path}, line {line_of(node, keys)}"
        if not isinstance(given, dict):
            raise TaskError(f"{where}: {'.'.join(keys)} is a mapping of names")
        known = {f.name: f for f in fields(kind)}
        values = {}
        for key, value in given.items():
            at = f"{path}, line {line_of(node, (*keys, key))}"
            if key not in known:
                raise TaskError(f"{at}: unknown key {key!r}{nearest(str(key), known)}; valid here: {', '.join(known)}")
            if key == "fields":
                values[key] = build(Fields, value, (*keys, key))
                continue
            if kind is Options and key in _KINDS and value not in _KINDS[key]:
                raise TaskError(f"{at}: {key} is one of {', '.join(_KINDS[key])}, not {value!r}")
            number = kind is Options and key in ("shots", "seed", "limit")
            if not isinstance(value, int if number else str) or isinstance(value, bool):
                raise TaskError(f"{at}: {key} is a {'whole number' if number else 'text'}, not {value!r}")
            values[key] = str(path.parent / str(value)) if kind is Options and key in ("file", "shots_from") else value
        return kind(**values)

    found = build(Options, body, ())
    if not found.file:
        raise TaskError(f"{path}: it names no file with items (file: NAME.jsonl)")
    return found
