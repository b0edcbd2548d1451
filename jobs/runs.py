"""What a run is: its folder, its recipe and inputs, which parts are done, and when a folder may be used again."""

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.quarantine import marked
from jobs.store import RunFolder
from pipeline.annotation import measured_schema
from pipeline.errors import InputError, UsageError
from pipeline.recipe import Recipe
from pipeline.scores import COMBINED, RANK_BINS, Histogram, sentence_edits, with_quality
from pipeline.sources.formats import Part as SourcePart
from pipeline.sources.formats import parts, wanted
from pipeline.sources.inputs import ARCHIVE, InputFile, Wanted, expand
from pipeline.sources.options import TREES
from pipeline.tables import Outcome

SPLIT_BYTES = 64_000_000
"""Compressed bytes a task reads at most, as long as that makes no more than MOST_TASKS tasks."""

MOST_SPLIT_BYTES = 1_024_000_000
"""Compressed bytes a task reads at most of however large a crawl: most WARCs of Common Crawl are then one task each."""

MOST_TASKS = 100_000
"""Where smaller splits make more tasks than these, splits are larger: every task has a manifest, a file in each table and
a block for every shard in the shuffle."""

LEAST_SPLIT_BYTES = 1_000_000
"""Below this a task costs more to start than to do."""


@dataclass(frozen=True)
class Task:
    """What a task reads and the name of the part it becomes: a split of an input file, or several whole files, which are
    `files`, numbers in the inputs of run.json. `problem` says why it cannot be read at all."""

    part: str
    path: str
    start: int
    end: int | None
    problem: str | None = None
    files: tuple[int, ...] = ()
    dump: tuple[str, str] | None = None

    def source(self) -> SourcePart:
        """What is read."""
        return SourcePart(self.path, self.start, self.end, self.files, self.dump, self.problem)


@dataclass
class Run:
    """A run folder that was opened for a recipe and its inputs."""

    folder: RunFolder
    recipe: Recipe
    info: dict[str, Any]
    _written: list[dict[str, Any]] | None = field(default=None, repr=False)
    _read: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)

    @property
    def measures_folder(self) -> RunFolder:
        """The folder with records, documents and measures: of a run that was decided again that of the run that measured."""
        return RunFolder(self.info["measures"]) if "measures" in self.info else self.folder

    @property
    def tasks(self) -> list[Task]:
        """Every part of the run, in the order of files and offsets."""
        if "tasks" not in self.info:
            self.info["tasks"] = self._written = _read_tasks(self.measures_folder, self.info)
        return [Task(**task) for task in self.info["tasks"]]

    def files(self, task: Task) -> list[tuple[str, str]]:
        """Path and name of each of a task's files; none for a task that reads a split."""
        inputs = self.info["inputs"]
        return [(inputs[i]["path"], inputs[i]["name"]) for i in task.files]

    @property
    def least_slices(self) -> int:
        """Tasks of Spark's that the size of the inputs calls for."""
        total = sum(file["size"] or 0 for file in self.info["inputs"])
        return min(MOST_TASKS, -(-total // SPLIT_BYTES))

    def done(self, stage: str) -> set[str]:
        """Names of the parts whose manifest says that `stage` is done with them."""
        return {
            name.rsplit("/", 1)[-1].removesuffix(".json") for name in self.folder.list(f"_manifests/{stage}", ".json")
        }

    def manifests(self, stage: str) -> list[dict[str, Any]]:
        """The manifests of a stage, in the order of parts; read once where the stage is done."""
        if stage not in self._read or not self.is_done(stage):
            names = self.folder.list(f"_manifests/{stage}", ".json")
            self._read[stage] = list(self.folder.read_documents(names))
        return self._read[stage]

    def is_done(self, stage: str) -> bool:
        """Whether the whole stage is done."""
        return bool(self.info["stages"].get(stage, {}).get("done"))

    def step_done(self, stage: str, step: str, now: bool = False) -> bool:
        """Whether a step of a stage was done, by this process or one that was killed; `now` notes that it is."""
        done = self.info["stages"].setdefault(stage, {}).setdefault("steps", [])
        if now and step not in done:
            done.append(step)
            self.save()
        return step in done

    def record(self, stage: str, **facts: Any) -> None:
        """Notes what a stage did in run.json."""
        self._read.pop(stage, None)
        self.info["stages"].setdefault(stage, {}).update(facts)
        self.save()

    def note(self, name: str, facts: Any) -> None:
        """Notes something of the whole run in run.json, if it is anything."""
        if facts:
            self.info[name] = facts
        if facts or self.info.pop(name, None):
            self.save()

    def save(self) -> None:
        """Writes run.json, and beside it the tasks where they changed."""
        tasks = self.info.get("tasks")
        self.folder.write_json("run.json", {key: value for key, value in self.info.items() if key != "tasks"})
        if tasks is not None and tasks is not self._written:
            _write_tasks(self.folder, self.info, tasks)
            self._written = tasks


class FileAccount(NamedTuple):
    """What became of one input file: records read, those with outcome error after extraction, bytes lost, and its size."""

    path: str
    read: int
    errors: int
    lost: int
    size: int

    @property
    def lost_share(self) -> float:
        """The larger one of the shares of records and of bytes."""
        return max(self.errors / max(1, self.read), self.lost / max(1, self.size))

    def in_words(self) -> str:
        """That in one line."""
        return f"{self.errors:,} of {self.read:,} records failed, {self.lost:,} of {self.size:,} bytes are damaged"


def file_accounts(run: Run) -> list[FileAccount]:
    """The files of which something could not be read, the worst first."""
    read, errors, lost = Counter[str](), Counter[str](), Counter[str]()
    for manifest in run.manifests("extract"):
        for path, file in manifest.get("files", {}).items():
            read[path] += file["read"]
            errors[path] += file["errors"]
            lost[path] += file["lost"]
    sizes = {file["path"]: file["size"] or 0 for file in run.info["inputs"]}
    found = [FileAccount(p, read[p], errors[p], lost[p], sizes.get(p, 0)) for p in read if errors[p] or lost[p]]
    return sorted(found, key=lambda file: (-file.lost_share, file.path))


class Part(NamedTuple):
    """The tables of one part: `records` has every record; `documents` and `signals` the undecided ones, in that order."""

    records: pa.Table
    documents: pa.Table
    signals: pa.Table
    edits: pa.Table


def read_part(folder: RunFolder, part: str, recipe: Recipe) -> Part:
    """A part as `recipe` sees it: the signals that its rules need, and the line edits that it asks for."""
    names = ("records", "documents", "signals", "edits")
    records, documents, signals, edits = (folder.read_table(f"{name}/part-{part}.parquet") for name in names)
    if not recipe.line_edits():
        # A run that was measured with line edits can be decided without them: the raw signals are all there.
        edits = edits.slice(0, 0)
    read = Part(records, documents, signals.select(["doc_id", *measured_schema(recipe).names]), edits)
    return without(read, marked(signals), "annotate.quarantined")


def without(part: Part, lost: dict[str, str], reason: str) -> Part:
    """The part with the documents that are `lost`, by id with the error, as errors for that reason."""
    if not lost:
        return part
    records, *measures = part
    ids = pa.array(list(lost), pa.string())
    gone = pc.and_(pc.is_in(records.column("doc_id"), value_set=ids), pc.is_null(records.column("outcome")))
    errors = pa.array([lost.get(doc_id) for doc_id in records.column("doc_id").to_pylist()], pa.string())
    hits = pa.array([[reason]] * records.num_rows, records.schema.field("gate_hits").type)
    values = {"outcome": Outcome.ERROR.value, "reason": reason, "gate_hits": hits, "error": errors}
    for name, value in values.items():
        at = records.schema.get_field_index(name)
        records = records.set_column(at, records.schema.field(at), pc.if_else(gone, value, records.column(at)))
    kept = (t.filter(pc.invert(pc.is_in(t.column("doc_id"), value_set=ids))) for t in measures)
    return Part(records, *(table.combine_chunks() for table in kept))


def places(folder: RunFolder, part: str, lost: dict[str, str]) -> list[dict[str, Any]]:
    """Where the documents lie that are `lost`, by id with the error: what `quarantine.put_aside` notes."""
    columns = {"warc_file": "file", "warc_offset": "offset", "warc_length": "length", "doc_id": "doc_id"}
    records = folder.read_table(f"records/part-{part}.parquet", [*columns, "outcome"])
    undecided = records.filter(records.column("outcome").is_null()).select(list(columns)).rename_columns(columns)
    rows = undecided.filter(pc.is_in(undecided.column("doc_id"), value_set=pa.array(list(lost), pa.string())))
    return [{**row, "error": lost[row["doc_id"]]} for row in rows.to_pylist()]


class Scored(NamedTuple):
    """A part whose edits hold the sentences that are cut by their score; `scores` is None where the recipe scores nothing.

    `scores` has doc_id and the columns of `pipeline.scores.score_columns`.
    """

    part: Part
    scores: pa.Table | None


def read_scored(measures: RunFolder, own: RunFolder, part: str, recipe: Recipe) -> Scored:
    """A part with its scores. `own` is the folder of the run that scored."""
    read = read_part(measures, part, recipe)
    if not recipe.score.scores:
        return Scored(read, None)
    scores = own.read_table(f"scores/part-{part}.parquet")
    read = without(read, marked(scores), "score.quarantined")
    if recipe.score.ranks:
        scores = with_quality(scores, recipe.score, read_ranks(own, recipe))
    if any(head.cut_sentences is not None for head in recipe.score.heads.values()):
        cuts = sentence_edits(own.read_table(f"sentences/part-{part}.parquet"), recipe.score)
        read = read._replace(edits=pa.concat_tables([read.edits, cuts]))
    return Scored(read, scores)


def rank_file(name: str) -> str:
    """The file of how the scores of a head, or COMBINED, are spread."""
    return "ranks/quality.parquet" if name == COMBINED else f"ranks/head-{name}.parquet"


def read_ranks(folder: RunFolder, recipe: Recipe, combined: bool = True) -> dict[str, Histogram]:
    """How scores are spread over the pages that the rules keep: those of quality heads and, with `combined`, of all."""
    ranks = {}
    for name in (*recipe.score.quality.heads, *((COMBINED,) if combined else ())):
        counts = np.zeros(RANK_BINS, np.int64)
        rows = folder.read_table(rank_file(name))
        counts[rows.column("bin").to_numpy()] = rows.column("pages").to_numpy()
        ranks[name] = Histogram(counts)
    return ranks


class Compared(NamedTuple):
    """A part whose edits hold the lines that are cut as repeated; `duplicates` is None where pages are not compared."""

    part: Part
    scores: pa.Table | None
    duplicates: pa.Table | None


def read_compared(measures: RunFolder, own: RunFolder, part: str, recipe: Recipe) -> Compared:
    """A part with all that was found before decontamination. `own` is the folder of the run that looked for duplicates."""
    read, scores = read_scored(measures, own, part, recipe)
    if recipe.dedup.cuts:
        cuts = own.read_table(f"cuts/part-{part}.parquet")
        read = read._replace(edits=pa.concat_tables([read.edits, cuts]))
    duplicates = own.read_table(f"duplicates/part-{part}.parquet") if recipe.dedup.compares else None
    return Compared(read, scores, duplicates)


def commit(folder: RunFolder, stage: str, part: str, tables: dict[str, pa.Table], **facts: Any) -> None:
    """Writes a part's tables, then the manifest that makes them count."""
    written = {name: folder.write_table(f"{name}/part-{part}.parquet", table) for name, table in tables.items()}
    folder.write_json(f"_manifests/{stage}/{part}.json", {"part": part, "tables": written, **facts})


def is_committed(folder: RunFolder, stage: str, part: str) -> bool:
    """Whether a part's manifest is there."""
    return folder.read_bytes(f"_manifests/{stage}/{part}.json") is not None


def code_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("crawlmill")
    except PackageNotFoundError:
        return "unknown"


def find_inputs(patterns: Sequence[str], wanted: Wanted = ARCHIVE) -> tuple[list[InputFile], dict[str, str]]:
    """Files that the patterns mean, and problems by pattern. Raises InputError when nothing at all can be read."""
    files: dict[str, InputFile] = {}
    problems: dict[str, str] = {}
    for pattern in dict.fromkeys(p for p in patterns if p):
        try:
            for file in expand([pattern], wanted):
                files[file.path] = file
        except InputError as error:
            problems[pattern] = str(error)
    if not files:
        raise InputError("; ".join(problems.values()) or "no input given; name files, globs or folders with --input")
    return sorted(files.values(), key=lambda f: f.path), problems


def open_run(
    output: str,
    recipe: Recipe,
    patterns: Sequence[str],
    partitions: int | None = None,
    cores: int = 1,
    other_version: bool = False,
) -> Run:
    """Opens OUT for this recipe and these inputs: new, or the same run taken up again, also by another version of the
    software where that is asked for. Nothing is written yet.

    Raises UsageError where the folder holds something else.
    """
    folder = RunFolder(output)
    files, problems = find_inputs(patterns, wanted(recipe.inputs))
    inputs = [{"path": f.path, "size": f.size, "version": f.version} for f in files]
    if recipe.inputs.format in TREES:
        # Names of documents come from these, so they are part of what the inputs are.
        inputs = [{**facts, "name": file.name} for facts, file in zip(inputs, files, strict=True)]
    inputs += [{"path": p, "size": 0, "version": None, "problem": text} for p, text in sorted(problems.items())]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
    info = folder.read_json("run.json")
    if info is None:
        if not folder.is_empty():
            raise UsageError(f"output {output} is not empty and holds no run; choose a new folder")
        size = _split_bytes(files, partitions or 2 * cores)
        info = {
            "crawlmill": code_version(),
            "recipe": json.loads(recipe.model_dump_json()),
            "recipe_digest": recipe.digest,
            "extracting_digest": recipe.extracting,
            "inputs_digest": digest,
            "inputs": inputs,
            "split_bytes": size,
            "tasks": _planned(files, problems, recipe, size),
            "host": {"system": platform.platform(), "python": platform.python_version(), "cores": cores},
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "stages": {},
        }
    else:
        _refuse_other(output, info, recipe, digest, other_version)
        # A run that was killed at its very beginning has not written them yet.
        info["tasks"] = _read_tasks(folder, info) or _planned(files, problems, recipe, info["split_bytes"])
        if info["crawlmill"] != code_version():
            info.setdefault("begun_by", info["crawlmill"])
            info["crawlmill"] = code_version()
    return Run(folder, recipe, info)


def existing_run(output: str, recipe: Recipe | None = None) -> Run:
    """Opens a run that was made before, under its own recipe or another. Raises UsageError where there is none."""
    folder = RunFolder(output)
    info = folder.read_json("run.json")
    if info is None:
        raise UsageError(f"{output} holds no run (no run.json); make one with `crawlmill run`")
    return Run(folder, recipe or Recipe.model_validate(info["recipe"]), info)


def _refuse_other(output: str, info: dict[str, Any], recipe: Recipe, inputs_digest: str, other_version: bool) -> None:
    if info["inputs_digest"] != inputs_digest:
        raise UsageError(f"output {output} holds a run over other inputs (or they changed since); choose a new folder")
    if info["recipe_digest"] != recipe.digest:
        hint = (
            f"; only thresholds differ: `crawlmill redecide {output} --recipe … --output …` takes seconds"
            if info["extracting_digest"] == recipe.extracting
            else ""
        )
        raise UsageError(
            f"output {output} holds a run of recipe {info['recipe']['name']!r} "
            f"({info['recipe_digest'][:8]}), not of {recipe.name!r} ({recipe.digest[:8]}); choose a new folder{hint}"
        )
    if info["crawlmill"] != code_version() and not other_version:
        raise UsageError(
            f"output {output} was begun by crawlmill {info['crawlmill']}, this is {code_version()}; choose a new folder "
            "(or do again only what was quarantined, with --retry-quarantined)"
        )


def _split_bytes(files: Sequence[InputFile], tasks: int) -> int:
    """Splits small enough to keep every core busy to the end, large enough to be worth starting, and not too many."""
    sizes = [SPLIT_BYTES if f.size is None else f.size for f in files]
    size = max(LEAST_SPLIT_BYTES, min(SPLIT_BYTES, -(-sum(sizes) // (2 * tasks))))
    while size < MOST_SPLIT_BYTES and sum(max(1, -(-one // size)) for one in sizes) > MOST_TASKS:
        size *= 2
    return size


def _planned(
    files: Sequence[InputFile], problems: dict[str, str], recipe: Recipe, split_bytes: int
) -> list[dict[str, Any]]:
    return [asdict(task) for task in _tasks(files, problems, recipe, split_bytes)]


TASKS = "tasks.json"
"""The tasks of a run: the number of the file in run.json, start and end of each, or all that there is to say of it."""


def _write_tasks(folder: RunFolder, info: dict[str, Any], tasks: list[dict[str, Any]]) -> None:
    numbers = {file["path"]: i for i, file in enumerate(info["inputs"])}
    rows: list[Any] = []
    for task in tasks:
        path, start, end = task["path"], task["start"], task["end"]
        plain = path in numbers and task == asdict(Task(_part_name(path, start), path, start, end))
        rows.append([numbers[path], start, end] if plain else task)
    folder.write_bytes(TASKS, json.dumps(rows, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def _read_tasks(folder: RunFolder, info: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a run; [] where they were not written yet."""
    paths = [file["path"] for file in info["inputs"]]

    def task(row: Any) -> dict[str, Any]:
        if isinstance(row, dict):
            dump = row.get("dump")
            return asdict(Task(**{**row, "files": tuple(row.get("files", ())), "dump": tuple(dump) if dump else None}))
        path, start = paths[row[0]], row[1]
        return asdict(Task(_part_name(path, start), path, start, row[2]))

    return [task(row) for row in folder.read_json(TASKS) or ()]


def _tasks(files: Sequence[InputFile], problems: dict[str, str], recipe: Recipe, split_bytes: int) -> list[Task]:
    tasks = [_task(part) for part in parts(files, recipe.inputs, split_bytes)]
    tasks += [Task(_part_name(p, 0), p, 0, None, text) for p, text in sorted(problems.items())]
    return tasks


def _task(part: SourcePart) -> Task:
    name = _part_name(part.path, part.start)
    return Task(name, part.path, part.start, part.end, part.problem, part.files, part.dump)


def _part_name(path: str, start: int) -> str:
    """A name that depends on the file's name and the place in it alone, so that order and count of files do not matter."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{digest[:12]}-{start:014d}"
