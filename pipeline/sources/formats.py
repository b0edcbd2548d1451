"""The formats of inputs: what is taken of a folder, how files become splits, and splits documents."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import InputError
from pipeline.sources import wikipedia
from pipeline.sources.archive import Damage, Record, Skipped, read_archive
from pipeline.sources.documents import Document, Form
from pipeline.sources.inputs import ARCHIVE, InputFile, Wanted, open_input, splits
from pipeline.sources.options import TREES, CodeGate, Inputs
from pipeline.sources.rows import read_jsonl, read_parquet
from pipeline.sources.trees import PACKAGES, PACKED, Tree, languages, read_file, readable
from pipeline.sources.wiki_pages import read_pages

Item = Record | Document | Damage | Skipped

FILE_BYTES = 16_000
"""What opening a small file costs, as bytes that could be read in the time: so many small files make a task."""

_TEXTS = (".txt",)
_JSON_LINES = (".jsonl", ".ndjson")
_FORMS: dict[str, Form] = {"books": "book", "text": "file", "code": "code"}


@dataclass(frozen=True)
class Part:
    """What one task reads: the stretch [start, end) of a file, or `files`, numbers of the files, as wholes. `dump`: how a
    dump of a wiki is compressed, and its name."""

    path: str
    start: int
    end: int | None
    files: tuple[int, ...] = ()
    dump: tuple[str, str] | None = None
    problem: str | None = None


def wanted(inputs: Inputs) -> Wanted:
    """Which files of a folder are inputs."""
    given = inputs.endings
    packed = ("", *PACKED)
    match inputs.format:
        case "archive":
            return ARCHIVE
        case "wikipedia":
            names = [f"*{ending}" for ending in given] or ["*.xml", "*.xml.bz2", "*.xml.gz", "*.xml.zst", "*.xml-p*"]
            return Wanted(
                "dumps of a wiki", tuple(names), ("*multistream-index*", "*.md5", "*.sha1", "*.part", "*.tmp")
            )
        case "parquet":
            return Wanted("Parquet files", tuple(f"*{ending}" for ending in given or (".parquet",)))
        case "jsonl":
            endings = given or _JSON_LINES
            # C4, Dolma and others call their lines of JSON .json, but only where they are compressed.
            more = () if given else tuple(f"*.json{ending}" for ending in PACKED)
            return Wanted(f"{' or '.join(endings)}", (*(f"*{e}{p}" for e in endings for p in packed), *more))
        case "code":
            names = [f"*{ending}" for ending in given] or [
                f"*{name}" if name.startswith(".") else name for name in sorted(languages())
            ]
            return Wanted("source code", tuple(names))
        case _:
            endings = given or _TEXTS
            names = [f"*{e}{p}" for e in endings for p in packed] + [f"*{ending}" for ending in PACKAGES if not given]
            return Wanted("texts", tuple(names))


def parts(files: Sequence[InputFile], inputs: Inputs, split_bytes: int) -> list[Part]:
    """What tasks read, none of more than `split_bytes` where that can be helped."""
    if inputs.format in TREES:
        return list(_grouped(files, split_bytes))
    if inputs.format == "wikipedia":
        return [part for file in files for part in _dump(file, split_bytes)]
    found = []
    for file in files:
        # What is compressed as a whole is read as a whole; so is what turns out to be, by the task of its start.
        one = inputs.format == "jsonl" and file.path.lower().endswith(PACKED)
        size = max(1, file.size or 1) if one else split_bytes
        found += [Part(split.path, split.start, split.end) for split in splits([file], size)]
    return found


def _dump(file: InputFile, split_bytes: int) -> list[Part]:
    try:
        found = wikipedia.splits([file], split_bytes)
    except (InputError, OSError) as error:
        return [Part(file.path, 0, file.size, problem=str(error))]
    return [
        Part(s.path, s.start, s.end, dump=(s.codec, s.wiki))
        if s.content == wikipedia.PAGES
        else Part(s.path, 0, s.end, problem=f"{s.path}: holds links, not pages; give …-pages-articles….xml")
        for s in found
    ]


def _grouped(files: Sequence[InputFile], split_bytes: int) -> Iterator[Part]:
    group: list[int] = []
    size = 0
    for i, file in enumerate(files):
        cost = (file.size or 0) + FILE_BYTES
        if group and size + cost > split_bytes:
            yield Part(files[group[0]].path, 0, None, tuple(group))
            group, size = [], 0
        group.append(i)
        size += cost
    if group:
        yield Part(files[group[0]].path, 0, None, tuple(group))


def read(
    part: Part, inputs: Inputs, max_bytes: int, files: Sequence[tuple[str, str]] = (), code: CodeGate | None = None
) -> Iterator[Item]:
    """The records of a part, in order. `files` are path and name of the part's files where it has several.

    Of a payload no more than `max_bytes` + 1 bytes are kept. A file that cannot be read is one damaged stretch, told by the
    part that begins it.
    """
    if part.problem is not None:
        yield Damage(part.path, 0, 0, part.problem)
    elif inputs.format in TREES:
        tree = Tree(_FORMS[inputs.format], _members(inputs), max_bytes, code or CodeGate())
        for path, name in files:
            try:
                yield from read_file(path, name, tree)
            except (InputError, OSError) as error:
                yield Damage(path, 0, 0, str(error))
    else:
        yield from _stretch(part, inputs, max_bytes)


def _members(inputs: Inputs) -> Callable[[str], bool]:
    given = inputs.endings or (tuple(languages()) if inputs.format == "code" else _TEXTS)
    return readable(given)


def _stretch(part: Part, inputs: Inputs, max_bytes: int) -> Iterator[Item]:
    try:
        stream = open_input(part.path)
    except (InputError, OSError) as error:
        if part.start == 0:
            yield Damage(part.path, 0, 0, str(error))
        return
    reached = part.start
    nothing = True
    with stream:
        try:
            for item in _items(stream, part, inputs, max_bytes):
                yield item
                nothing = False
                if inputs.format != "parquet":
                    reached = item.offset + item.length
        except (InputError, OSError) as error:
            # The store gave up in the middle, after its retries: what was read stands, the rest is one lost stretch.
            lost = max(0, (part.end or reached) - reached)
            yield Damage(part.path, reached, lost, f"reading stopped here: {error}")
            return
    if nothing and part.end in (None, 0):
        yield Damage(part.path, 0, 0, "the file is empty")


def _items(stream: BinaryIO, part: Part, inputs: Inputs, max_bytes: int) -> Iterator[Item]:
    match inputs.format:
        case "wikipedia":
            codec, wiki = part.dump or ("plain", "")
            split = wikipedia.DumpSplit(part.path, part.start, part.end, wikipedia.PAGES, codec, wiki)
            return read_pages(split, max_bytes)
        case "jsonl":
            return read_jsonl(stream, part.path, part.start, part.end, inputs.fields, max_bytes)
        case "parquet":
            return read_parquet(stream, part.path, part.start, part.end, inputs.fields, max_bytes)
        case _:
            # One byte more than allowed is kept, so that a capped page is seen to be too large.
            return read_archive(stream, part.path, part.start, part.end, max_bytes + 1)


__all__ = ["Item", "Part", "parts", "read", "wanted"]
