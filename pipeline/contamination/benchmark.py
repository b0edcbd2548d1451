"""Benchmarks as data: a few lines of YAML name the text fields of the user's files, and the items come out as a table."""

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import regex
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.contamination.fields import (
    MISSING,
    FieldError,
    alternatives,
    find,
    shown,
    text_in,
    texts_in,
    to_text,
    value_of,
)
from pipeline.contamination.rows import find_files, read_bytes, read_rows, stem
from pipeline.errors import RecipeError
from pipeline.options import Options
from pipeline.yaml_files import line_of, nearest, read_yaml

DESCRIPTIONS = Path(__file__).parents[1] / "recipes" / "benchmarks"

ITEMS = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        ("task", pa.string()),
        ("doc", pa.int32()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string()), nullable=False),
        ("answer", pa.string()),
        ("passage", pa.string()),
        pa.field("decoy", pa.bool_(), nullable=False),
    ]
)
"""One row an item. `item` is unique in its benchmark; `task` and `doc` are lm-evaluation-harness's name of the task and
the index of the item among its documents; `answer` is the text of the right answer; a decoy stands in no benchmark."""

PARSE_SECONDS = 10  # for one value: an expression that takes longer than this would never end


class LmEval(Options):
    """Where lm-evaluation-harness has the items: `task` is its name for the task, a template over the row's fields with
    spaces as underscores; `names` maps what the template gives to task names where they differ.

    `index` is the field that holds the index of the item in the task; by default it is the position among the items of
    the task in the order of the files, after `where`: right for files that hold the whole split in its published order.
    """

    task: str
    index: str | None = None
    names: dict[str, str] = Field(default_factory=dict)


class Benchmark(Options):
    r"""A benchmark: its files, and which of their fields hold the text of an item.

    `set: mmlu` takes a description that ships (`descriptions()`), any key of which can be overridden; else `name` and at
    least `question` or `passage` are needed. `path`: files or globs, .jsonl .json .csv .tsv .parquet, also .gz and .zst.

    A field is a name, a dotted path (`choices.text`, through lists as well), or a template (`"{Body} {Question}"`).
    `question | query` is the first of these that a row has; a `?` behind it (`passage?`) lets all of them be missing.
    Beside the row's own there are `_file` (its name without endings), `_folder` and `_row` (counted from 0).

    `id` names the items (default: the row's number, behind the file's name where there are several). `choices` is a
    field that holds a list, or a list of fields. `answer` is the right answer by `answer_is`: its `text`; an `index` from
    0; a `number` from 1; a `letter`; a `label`, one of those in `labels`, a list beside the choices (or the text itself
    where the row has no labels, or none so long); `marks`, a list of 0 and 1 beside the choices. An empty answer, and -1
    for an index, are those of a test set whose answers are not public.

    `where: {split: test}` takes the rows with this value, or one of a list of values. `each: qas` makes an item of every
    element of a list in the row (`each: data.paragraphs.qas` of lists in lists), which has the fields of the row, too.
    `columns` are the fields of a CSV file without a header.

    `parse: {prompt: 'Question: (?P<question>.*?)(?: \d\) (?P<choices>.*?))+'}` makes fields of the named groups of a
    regular expression, which has to match the whole field (`.` matches line ends, too); a group that matches more than
    once is a list. `strip` are regular expressions for what is removed from all texts of an item.

    `lm_eval` says where lm-evaluation-harness has the items; `source` where the description is from.
    """

    set: str | None = None
    name: str = Field(pattern=r"^[\w.@-]+$")
    source: str | None = None
    path: tuple[str, ...] = Field(min_length=1)
    columns: tuple[str, ...] | None = None
    where: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    each: str | None = None
    parse: dict[str, str] = Field(default_factory=dict)
    id: str | None = None
    question: str | None = None
    choices: str | tuple[str, ...] | None = None
    labels: str | None = None
    answer: str | None = None
    answer_is: Literal["text", "index", "number", "letter", "label", "marks"] = "text"
    passage: str | None = None
    strip: tuple[str, ...] = ()
    lm_eval: LmEval | None = None

    @model_validator(mode="before")
    @classmethod
    def _described(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("set") is None:
            return value
        name = value["set"]
        if name not in descriptions():
            raise ValueError(
                f"no set named {name!r}{nearest(str(name), descriptions())}; shipped: {', '.join(descriptions())}"
            )
        return {"name": str(name).partition("@")[0], **descriptions()[name], **value}

    @field_validator("path", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("where", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            key: tuple(to_text(v) for v in wanted) if isinstance(wanted, list | tuple) else to_text(wanted)
            for key, wanted in value.items()
        }

    @field_validator("parse", "strip")
    @classmethod
    def _compiles(cls, value: Any) -> Any:
        for pattern in value.values() if isinstance(value, dict) else value:
            try:
                compiled = regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
            if isinstance(value, dict) and not compiled.groupindex:
                raise ValueError(f"{pattern!r} has no named group, such as (?P<question>.*)")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "Benchmark":
        if self.question is None and self.passage is None:
            raise ValueError("name the field of the `question`, or of the `passage`, or a `set` that ships")
        if self.answer_is != "text" and (self.choices is None or self.answer is None):
            raise ValueError(f"`answer_is: {self.answer_is}` needs an `answer` and `choices`")
        if (self.answer_is == "label") != (self.labels is not None):
            raise ValueError("`answer_is: label` needs `labels`, the field that holds them, and nothing else does")
        return self


@cache
def descriptions() -> Mapping[str, Mapping[str, Any]]:
    """The descriptions of published benchmarks that ship, by name; `mmlu@columns` is another layout of `mmlu`."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(DESCRIPTIONS.glob("*.yaml")):
        found.update(yaml.safe_load(path.read_text(encoding="utf-8")))
    return found


def load_items(benchmarks: Sequence[Benchmark], base: Path | None = None) -> pa.Table:
    """The items of all benchmarks, schema ITEMS, in the order of benchmarks, files and rows; empty ones included.

    Relative paths start from `base`, by default the working folder. Raises RecipeError, which names the file, the row
    and the field.
    """
    items: list[dict[str, Any]] = []
    seen: dict[tuple[str, str], str] = {}
    documents: dict[tuple[str, str, int], str] = {}
    for benchmark in benchmarks:
        for item, where in _Reader(benchmark).read(find_files(benchmark.path, base)):
            other = seen.setdefault((item["benchmark"], item["item"]), where)
            if other is not where:
                raise RecipeError(
                    f"{where}: {item['benchmark']} has two items with the id {item['item']!r}; see {other}"
                )
            if item["doc"] is not None:
                other = documents.setdefault((item["benchmark"], item["task"], item["doc"]), where)
                if other is not where:
                    raise RecipeError(
                        f"{where}: {item['benchmark']} has two items that are document {item['doc']} of lm_eval's task "
                        f"{item['task']!r}; see {other}"
                    )
            items.append(item)
    return pa.Table.from_pylist(items, schema=ITEMS)


def digest(benchmarks: Sequence[Benchmark], base: Path | None = None) -> str:
    """SHA-256 over the descriptions and the contents of the files: what the items depend on, but not where files lie."""
    total = hashlib.sha256()
    for benchmark in benchmarks:
        files = find_files(benchmark.path, base)
        names = _short_names(files) if len(files) > 1 else [stem(file) for file in files]
        body = benchmark.model_dump(exclude={"path", "set", "source"})
        contents = [
            [name, hashlib.sha256(read_bytes(file)).hexdigest()] for name, file in zip(names, files, strict=True)
        ]
        total.update(json.dumps([body, contents], sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return total.hexdigest()


def load_benchmarks(path: str | Path) -> tuple[Benchmark, ...]:
    """The benchmarks of a YAML file `benchmarks: [...]`, with paths relative to it.

    Raises RecipeError naming the line, the key and the nearest key.
    """
    path = Path(path)
    body, node = read_yaml(path, "benchmarks")
    if not isinstance(body, dict) or list(body) != ["benchmarks"] or not isinstance(body["benchmarks"], list):
        raise RecipeError(f"{path}: a file of benchmarks has the one key `benchmarks`, with a list of them")
    found = []
    for number, entry in enumerate(body["benchmarks"]):
        try:
            benchmark = Benchmark.model_validate(entry)
        except ValidationError as error:
            raise RecipeError(_explain(error, node, str(path), ("benchmarks", number))) from None
        paths = tuple(p if "://" in p or Path(p).is_absolute() else str(path.parent / p) for p in benchmark.path)
        found.append(benchmark.model_copy(update={"path": paths}))
    if not found:
        raise RecipeError(f"{path}: `benchmarks` is empty")
    return tuple(found)


def _short_names(files: Sequence[str]) -> list[str]:
    """Names without endings that tell the files apart: what follows the folder that they have in common."""
    common = posixpath.commonpath([posixpath.dirname(file) for file in files]) if len(files) > 1 else ""
    names = [posixpath.join(posixpath.dirname(file), stem(file))[len(common) :].lstrip("/") for file in files]
    return names if len(set(names)) == len(names) else [file[len(common) :].lstrip("/") for file in files]


class _Reader:
    """Reads one benchmark; counts what can only be judged when all rows have been seen."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.parse = {field: regex.compile(pattern, regex.DOTALL) for field, pattern in benchmark.parse.items()}
        self.strip = {pattern: regex.compile(pattern) for pattern in benchmark.strip}
        self.stripped: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()
        self.values: dict[str, Counter[str]] = {field: Counter() for field in benchmark.where}

    def read(self, files: Sequence[str]) -> list[tuple[dict[str, Any], str]]:
        """Items, each with the words that name its place."""
        read: list[tuple[dict[str, Any], str]] = []
        several = len(files) > 1
        names = _short_names(files)
        for file, name in zip(files, names, strict=True):
            rows = read_rows(file, read_bytes(file), self.benchmark.columns)
            if not rows:
                raise RecipeError(f"{file}: holds no rows")
            about = {"_file": stem(file), "_folder": posixpath.basename(posixpath.dirname(file))}
            for number, row in enumerate(rows):
                at = ([name] if several else []) + ([str(number)] if len(rows) > 1 or not several else [])
                where = f"{file}, {row.where}"
                fields = {**about, "_row": number, **row.fields}
                try:
                    parts = self._spread(fields)
                except FieldError as fault:
                    raise RecipeError(f"{where}: {fault}{self._layouts()}") from None
                single = len(parts) == 1 and parts[0] is fields
                for k, part in enumerate(parts):
                    here = where if single else f"{where}, item {k + 1}"
                    inner = at if len(rows) > 1 or several else []
                    try:
                        if self._wanted(part):
                            read.append((self._item(part, "/".join(at if single else [*inner, str(k)])), here))
                    except (FieldError, TimeoutError) as fault:
                        raise RecipeError(f"{here}: {fault}{self._layouts()}") from None
        self._judge(files, len(read))
        return read

    def _layouts(self) -> str:
        """A hint at the other layouts of a set that ship."""
        used = self.benchmark.set or ""
        others = [name for name in descriptions() if name.partition("@")[0] == used.partition("@")[0] and name != used]
        return f"; other layouts that ship: {', '.join(others)}" if others else ""

    def _judge(self, files: Sequence[str], count: int) -> None:
        first = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        if not count:
            values = [
                f"{field} is {', '.join(value for value, _ in seen.most_common(5))}"
                for field, seen in self.values.items()
                if seen
            ]
            why = f": nothing matches `where`; {'; '.join(values)}" if values else ""
            raise RecipeError(f"{first}: {self.benchmark.name} has no items{why}")
        for pattern in self.strip:
            if not self.stripped[pattern]:
                raise RecipeError(
                    f"{first}: {self.benchmark.name}: strip {pattern!r} is found in no item: another layout of the set, or "
                    "a wrapper that is already gone"
                )

    def _spread(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        each = self.benchmark.each
        if each is None:
            return [fields]
        paths, optional = alternatives(each)
        path = next((path for path in paths if path.split(".")[0] in fields), None)
        if path is None:
            if optional:
                return [fields]
            names = [name for name in fields if not name.startswith("_")]
            raise FieldError(
                f"no field {' or '.join(paths)!r} for `each`{nearest(paths[0], names)}; the row has {', '.join(names)}"
            )
        rows = [fields]
        for step in path.split("."):
            spread: list[dict[str, Any]] = []
            for row in rows:
                inside = row.get(step, MISSING)
                if not isinstance(inside, list) or not all(isinstance(element, dict) for element in inside):
                    what = "missing" if inside is MISSING else shown(inside)
                    raise FieldError(f"{step} of `each` is {what}, not a list of objects")
                outside = {name: value for name, value in row.items() if name != step}
                spread.extend({**outside, **element} for element in inside)
            rows = spread
        return rows

    def _wanted(self, fields: dict[str, Any]) -> bool:
        for field, wanted in self.benchmark.where.items():
            value = find(fields, field)
            if value is MISSING:
                continue
            text = text_in(field, value)
            self.values[field][text] += 1
            if text not in ((wanted,) if isinstance(wanted, str) else wanted):
                return False
        return True

    def _item(self, fields: dict[str, Any], default: str) -> dict[str, Any]:
        benchmark = self.benchmark
        for field, pattern in self.parse.items():
            fields = {**fields, **self._parsed(field, pattern, fields)}
        name = self._one("id", benchmark.id, fields) if benchmark.id else None
        choices = self._choices(fields)
        answer = self._answer(fields, choices)
        task, doc = self._document(fields)
        return {
            "benchmark": benchmark.name,
            "item": name or default,
            "task": task,
            "doc": doc,
            "question": self._bare(self._one("question", benchmark.question, fields) or ""),
            "choices": [self._bare(choice) for choice in choices],
            "answer": self._bare(answer) if answer else None,
            "passage": self._bare(self._passage(fields)) or None,
            "decoy": False,
        }

    def _parsed(self, field: str, pattern: Any, fields: dict[str, Any]) -> dict[str, Any]:
        value = find(fields, field)
        if value is MISSING:
            return {}
        text = text_in(field, value)
        match = pattern.fullmatch(text, timeout=PARSE_SECONDS)
        if match is None:
            if alternatives(field).optional:
                return {}
            raise FieldError(
                f"{field} is {text[:80]!r}, which the expression of `parse` does not match: another layout?"
            )
        groups = {name: match.captures(name) for name in pattern.groupindex}
        return {name: found[0] if len(found) == 1 else found for name, found in groups.items() if found}

    def _one(self, role: str, field: str | None, fields: dict[str, Any]) -> str | None:
        value = value_of(fields, field) if field else MISSING
        if value is MISSING or field is None:
            return None
        try:
            return to_text(value)
        except ValueError as error:
            advice = f"; write for example {field}.{next(iter(value))}" if isinstance(value, dict) and value else ""
            raise FieldError(f"{role}: {field} {error}{advice}") from None

    def _passage(self, fields: dict[str, Any]) -> str:
        value = value_of(fields, self.benchmark.passage) if self.benchmark.passage else MISSING
        return "" if value is MISSING else "\n".join(texts_in(f"passage: {self.benchmark.passage}", value))

    def _choices(self, fields: dict[str, Any]) -> list[str]:
        named = self.benchmark.choices
        if named is None:
            return []
        if isinstance(named, str):
            value = value_of(fields, named)
            return [] if value is MISSING or value is None else texts_in(f"choices: {named}", value)
        values = [(field, value_of(fields, field)) for field in named]
        return [text_in(f"choices: {field}", value) for field, value in values if value is not MISSING]

    def _answer(self, fields: dict[str, Any], choices: list[str]) -> str | None:
        """The text of the right answer, None where it is not known."""
        benchmark = self.benchmark
        value = value_of(fields, benchmark.answer) if benchmark.answer else MISSING
        if value is MISSING or value is None:
            return None
        role = f"answer: {benchmark.answer}"
        if benchmark.answer_is == "marks":
            marks = texts_in(role, value)
            if len(marks) != len(choices):
                raise FieldError(f"{role} has {len(marks)} marks for {len(choices)} choices")
            return next((choice for mark, choice in zip(marks, choices, strict=True) if mark in ("1", "true")), None)
        texts = [text.strip() for text in texts_in(role, value)]
        text = next((text for text in texts if text), "")
        if not text or benchmark.answer_is == "text":
            return text or None
        if benchmark.answer_is == "label":
            found = value_of(fields, benchmark.labels or "")
            if found is MISSING:
                return text
            labels = [label.strip() for label in texts_in(f"labels: {benchmark.labels}", found)]
            if len(labels) != len(choices):
                raise FieldError(f"labels: {benchmark.labels} are {len(labels)} for {len(choices)} choices")
            if text in labels:
                return choices[labels.index(text)]
            if len(text) <= max(map(len, labels), default=0):
                raise FieldError(f"{role} is {text!r}, none of the labels {', '.join(labels)}")
            return text  # too long for a label: BIG-Bench Hard has such rows
        return self._counted(role, text, choices)

    def _counted(self, role: str, text: str, choices: list[str]) -> str | None:
        kind = self.benchmark.answer_is
        if kind == "letter":
            letter = text.strip("().").upper()
            if len(letter) != 1 or not "A" <= letter <= "Z":
                raise FieldError(f"{role} is {text!r}, not a letter")
            index = ord(letter) - ord("A")
        else:
            try:
                index = int(text) - (kind == "number")
            except ValueError:
                raise FieldError(f"{role} is {text!r}, not a whole number") from None
            if int(text) == -1:
                return None
        if not 0 <= index < len(choices):
            raise FieldError(f"{role} is {text!r}, but there are {len(choices)} choices (`answer_is: {kind}`)")
        return choices[index]

    def _document(self, fields: dict[str, Any]) -> tuple[str | None, int | None]:
        found = self.benchmark.lm_eval
        if found is None:
            return None, None
        task = self._one("lm_eval.task", found.task, fields) if "{" in found.task else found.task
        task = found.names.get(task or "", task or "").replace(" ", "_")
        position = self.documents[task]
        self.documents[task] += 1
        index = value_of(fields, found.index) if found.index else MISSING
        if index is MISSING:
            return task, position
        text = text_in(f"lm_eval.index: {found.index}", index)
        if not text.isdecimal() or int(text) >= 2**31:
            raise FieldError(f"lm_eval.index: {found.index} is {text!r}, not a whole number")
        return task, int(text)

    def _bare(self, text: str) -> str:
        for pattern, compiled in self.strip.items():
            text, count = compiled.subn("", text, timeout=PARSE_SECONDS)
            self.stripped[pattern] += count
        return text.strip()


def _explain(error: ValidationError, node: yaml.Node | None, where: str, at: tuple[Any, ...]) -> str:
    problem = error.errors()[0]
    known = Benchmark.model_fields if len(problem["loc"]) == 1 else LmEval.model_fields
    path = (*at, *problem["loc"])
    key = ".".join(str(step) for step in path)
    line = line_of(node, path)
    if problem["type"] == "extra_forbidden":
        hint = nearest(str(path[-1]), known)
        return f"{where}, line {line}: unknown key {key!r}{hint}; valid here: {', '.join(sorted(known))}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}, line {line}: {key}: {message[:1].lower() + message[1:]}"
