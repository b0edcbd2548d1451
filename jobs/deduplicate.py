"""Job: finds duplicates among what the rules keep. `spark-submit jobs/deduplicate.py --help`.

Two passes over the text: the first counts repeated lines and paragraphs and leaves the cuts; the second hashes and
sketches the text as it will be written and adds it to a band index. Comparing then needs no text (`jobs.resolve`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.band_index import (
    LEAST_SHARDS,
    BandIndex,
    Unit,
    check_fits,
    existing_index,
    folder_name,
    make_or_open,
    parameters,
)
from jobs.exchange import Hop, Parcel, Received, by_bucket, exchange
from jobs.resolve import Resolution, related, resolve
from jobs.runs import Run, read_scored
from jobs.session import Watch
from jobs.store import RunFolder
from pipeline.curation import kept_rows
from pipeline.dedup.addresses import address_number
from pipeline.dedup.candidates import first_of_runs, ranges
from pipeline.dedup.minhash import MinHasher, band_keys
from pipeline.dedup.normalise import text_hashes
from pipeline.dedup.repeats import cut_spans, occurrences, repeated
from pipeline.dedup.survivors import ENTRIES, halves
from pipeline.edits import apply_edits
from pipeline.errors import UsageError
from pipeline.recipe import Recipe
from pipeline.sources.inputs import expand
from pipeline.tables import EDITS, TIMESTAMP, UNKNOWN_DUMP, document_id

STAGE = "deduplicate"
PRIVATE = "dedup/index"
"""Where a run keeps what it knows of its own texts when it is given no index."""


class Source(Protocol):
    """Where pages come from, in numbered parts."""

    @property
    def recipe(self) -> Recipe:
        """How duplicates are looked for."""

    @property
    def output(self) -> str:
        """The folder that cuts and duplicates are written to."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts are called."""

    def pages(self, number: int) -> tuple[pa.Table, pa.Table]:
        """The pages of a part that are compared (doc_id, url, host, date, dump, text; quality where they are ranked), and
        what is cut from them already (schema EDITS)."""


@dataclass(frozen=True)
class _Kept:
    """The pages of a run that the rules keep."""

    measures: str
    output: str
    recipe: Recipe
    names: tuple[str, ...]

    def pages(self, number: int) -> tuple[pa.Table, pa.Table]:
        """Text as extracted, and the rules' edits."""
        part, scores = read_scored(RunFolder(self.measures), RunFolder(self.output), self.names[number], self.recipe)
        kept = pa.array(kept_rows(part.documents, part.signals, self.recipe, scores=scores))
        undecided = part.records.filter(part.records.column("outcome").is_null())
        pages = undecided.select(["doc_id", "url", "host", "date", "dump"]).filter(kept)
        pages = pages.append_column("text", part.documents.column("text").filter(kept))
        if scores is not None and self.recipe.score.ranks:
            at = pc.index_in(pages.column("doc_id"), value_set=scores.column("doc_id").combine_chunks())
            pages = pages.append_column("quality", scores.column("quality").take(at))
        return pages.combine_chunks(), part.edits


@dataclass(frozen=True)
class _Files:
    """Parquet files with columns id and text. They have no addresses and no dates, and all of one dump."""

    files: tuple[str, ...]
    output: str
    recipe: Recipe
    names: tuple[str, ...]

    def _rows(self, number: int) -> tuple[pa.Table, list[str]]:
        folder, _, name = self.files[number].rpartition("/")
        rows = RunFolder(folder or ".").read_table(name, ["id", "text"])
        return rows, [document_id(str(i), None, None, None) for i in rows.column("id").to_pylist()]

    def write_kept(self, number: int) -> Iterator[Parcel]:
        """The rows of a file that are nobody's duplicates, texts after cuts. A text without words is nobody's."""
        rows, ids = self._rows(number)
        folder, name = RunFolder(self.output), f"part-{self.names[number]}.parquet"
        found = folder.read_table(f"duplicates/{name}", ["doc_id", "removed_by"])
        gone = found.filter(found.column("removed_by").is_valid()).column("doc_id")
        doc_ids = pa.array(ids, pa.string())
        if self.recipe.dedup.cuts:
            texts = apply_edits(rows.column("text").cast(pa.string()), doc_ids, folder.read_table(f"cuts/{name}"))
            rows = rows.set_column(1, "text", texts)
        folder.write_table(f"kept/{name}", rows.filter(pc.invert(pc.is_in(doc_ids, value_set=gone.combine_chunks()))))
        return iter(())

    def pages(self, number: int) -> tuple[pa.Table, pa.Table]:
        """The texts of a file; nothing is cut from them yet."""
        rows, ids = self._rows(number)
        nothing = pa.nulls(rows.num_rows, pa.string())
        columns = [pa.array(ids, pa.string()), nothing, nothing, pa.nulls(rows.num_rows, TIMESTAMP), nothing]
        texts = rows.column("text").cast(pa.string()).combine_chunks()
        return pa.table([*columns, texts], names=["doc_id", "url", "host", "date", "dump", "text"]), EDITS.empty_table()


@dataclass(frozen=True)
class _Parts:
    """What tasks need to count repeated lines over the parts of a source."""

    source: Source
    n_buckets: int

    @property
    def recipe(self) -> Recipe:
        """How duplicates are looked for."""
        return self.source.recipe

    def pages(self, number: int) -> tuple[pa.Table, pa.Table]:
        """The source's pages with the number of their address, and their edits."""
        pages, edits = self.source.pages(number)
        addresses = (address_number(u, i) for u, i in zip(*_lists(pages, "url", "doc_id"), strict=True))
        return pages.append_column("address", pa.array(addresses, pa.uint64())), edits

    def occurrences(self, number: int) -> Iterator[Parcel]:
        """First pass: where lines and paragraphs stand, to the bucket of each."""
        pages, _ = self.pages(number)
        found = occurrences(_with_hash(pages), self.recipe.dedup, number)
        yield from by_bucket(found, ranges(found.column("key").to_numpy(), self.n_buckets), "found")

    def cuts(self, bucket: int, received: Received) -> Iterator[Parcel]:
        """Which of them are to be cut, to every part that holds one."""
        if "found" in received:
            cuts = repeated(received["found"], self.recipe.dedup)
            yield from by_bucket(cuts, cuts.column("part").to_numpy(), "cuts")

    def write_cuts(self, number: int, received: Received) -> None:
        """The spans to cut from the pages of a part."""
        cuts = received.get("cuts")
        spans = EDITS.empty_table()
        if cuts is not None:
            spans = cut_spans(_with_hash(self.pages(number)[0]), cuts, self.recipe.dedup)
        RunFolder(self.source.output).write_table(f"cuts/part-{self.source.names[number]}.parquet", spans)


@dataclass(frozen=True)
class _Sketching:
    """What tasks need to add a run to an index."""

    parts: _Parts
    index: BandIndex
    units: tuple[Unit, ...]

    def send(self, number: int) -> Iterator[Parcel]:
        """Second pass: pages, sketches and bands of the final texts of a part."""
        pages, edits = self.parts.pages(number)
        if self.parts.recipe.dedup.cuts:
            source = self.parts.source
            cuts = RunFolder(source.output).read_table(f"cuts/part-{source.names[number]}.parquet")
            edits = pa.concat_tables([edits, cuts])
        texts = apply_edits(pages.column("text"), pages.column("doc_id"), edits)
        hashes = text_hashes(texts)
        entries = _entries(pages, texts, hashes, number)
        dumps = np.array([dump or UNKNOWN_DUMP for dump in pages.column("dump").to_pylist()], dtype=object)
        empty = text_hashes(pa.array([""], pa.string()))[0]
        whole = (hashes != empty).any(axis=1)
        for dump in sorted(set(dumps[whole])):
            mine = np.flatnonzero(whole & (dumps == dump))
            rows = entries.take(pa.array(mine))
            yield from by_bucket(rows, ranges(hashes[mine, 0], self.index.n_shards), f"pages:{dump}")
            yield from self._sketches(texts.take(pa.array(mine)), hashes[mine], dump)

    def _sketches(self, texts: pa.Array, hashes: np.ndarray, dump: str) -> Iterator[Parcel]:
        """Of every text once, how often it may stand in the part."""
        settings = parameters(self.parts.recipe)["minhash"]
        if settings is None:
            return
        _, first = np.unique(hashes, axis=0, return_index=True)
        hashes, texts = hashes[first], texts.take(pa.array(first))
        by_ngrams = settings["by"] == "ngrams"
        hasher = _hasher(settings["ngram"], settings["hashes"], settings["seed"], settings["normalise"])
        sketches = hasher.sketch(texts, ngrams=by_ngrams)
        columns = {
            "text_hi": pa.array(hashes[:, 0]),
            "text_lo": pa.array(hashes[:, 1]),
            "signature": _rows_of_bytes(sketches.signatures),
        }
        if by_ngrams:
            columns["ngrams"] = pa.LargeListArray.from_arrays(pa.array(sketches.offsets), pa.array(sketches.ngrams))
        n_shards = self.index.n_shards
        yield from by_bucket(pa.table(columns), ranges(hashes[:, 0], n_shards), f"sketches:{dump}")
        keys = band_keys(sketches.signatures, settings["bands"], settings["rows"])
        nodes = np.repeat(hashes[:, 0], keys.shape[1])
        bands = pa.table({"key": keys.ravel(), "node": nodes})
        yield from by_bucket(bands, ranges(keys.ravel(), n_shards), f"bands:{dump}")

    def write(self, shard: int, received: Received) -> None:
        """The files of one shard, for every dump of the run."""
        sketching = parameters(self.parts.recipe)["minhash"] is not None
        for unit in self.units:
            pages = received.get(f"pages:{unit.dump}", ENTRIES.empty_table())
            ordered = [(name, "ascending") for name in ("text_hi", "text_lo", "doc_hi", "doc_lo", "part")]
            self.index.write(unit, "pages", shard, pages.sort_by(ordered))
            if sketching:
                self._write_sketches(unit, shard, received)

    def _write_sketches(self, unit: Unit, shard: int, received: Received) -> None:
        settings = parameters(self.parts.recipe)["minhash"]
        sketches = received.get(f"sketches:{unit.dump}", _no_sketches(settings["by"] == "ngrams"))
        hi, lo = (sketches.column(c).to_numpy() for c in ("text_hi", "text_lo"))
        ranked = np.lexsort((lo, hi))
        # A text may come from several parts. Should two texts ever share 64 bits, the one with the smaller rest is the
        # node, and the other is compared with nothing.
        nodes = ranked[first_of_runs(hi[ranked])]
        self.index.write(unit, "sketches", shard, sketches.take(pa.array(nodes)))
        bands = received.get(f"bands:{unit.dump}", pa.table({"key": _NOTHING, "node": _NOTHING}))
        key, node = bands.column("key").to_numpy(), bands.column("node").to_numpy()
        ranked = np.lexsort((node, key))
        distinct = ranked[first_of_runs(key[ranked], node[ranked])]
        self.index.write(unit, "bands", shard, bands.take(pa.array(distinct)))


_NOTHING = pa.array([], pa.uint64())


def _no_sketches(by_ngrams: bool) -> pa.Table:
    columns = {"text_hi": _NOTHING, "text_lo": _NOTHING, "signature": pa.array([], pa.binary())}
    return pa.table(columns | ({"ngrams": pa.array([], pa.large_list(pa.uint32()))} if by_ngrams else {}))


def _rows_of_bytes(matrix: np.ndarray) -> pa.Array:
    """A row of a matrix a value, little-endian."""
    n, width = matrix.shape
    data = np.ascontiguousarray(matrix.astype("<u4"))
    offsets = np.arange(n + 1, dtype=np.int32) * (4 * width)
    return pa.BinaryArray.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(data.tobytes())])


def _lists(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table.column(name).to_pylist() for name in names]


def _with_hash(pages: pa.Table) -> pa.Table:
    return pages.append_column("text_hi", pa.array(text_hashes(pages.column("text").combine_chunks())[:, 0]))


def _entries(pages: pa.Table, texts: pa.Array, hashes: np.ndarray, part: int) -> pa.Table:
    n = pages.num_rows
    hi, lo = halves(pages.column("doc_id").to_pylist())
    columns = [
        pa.array(hi),
        pa.array(lo),
        pa.array(hashes[:, 0]),
        pa.array(hashes[:, 1]),
        pages.column("address"),
        pages.column("date").cast(pa.int64()),
        pages.column("quality") if "quality" in pages.column_names else pa.nulls(n, pa.float32()),
        pc.utf8_length(texts),
        pa.array(np.full(n, part, np.int32)),
    ]
    return pa.table(columns, schema=ENTRIES)


@lru_cache(maxsize=2)
def _hasher(ngram: int, hashes: int, seed: int, normalise: bool) -> MinHasher:
    return MinHasher(ngram=ngram, hashes=hashes, seed=seed, normalise=normalise)


def deduplicate(
    spark: Any | None,
    run: Run,
    measures: Run | None = None,
    index: str | None = None,
    partitions: int | None = None,
    watch: Watch | None = None,
) -> None:
    """Finds the duplicates among the pages that the rules of `run` keep; leaves the tables cuts and duplicates.

    `measures` is the run whose texts are compared, by default `run` itself. `index` is a band index to compare with and
    to add to; without one the pages are compared with each other. Steps that are done are not done again. Raises
    UsageError where the index has other parameters.
    """
    dedup = run.recipe.dedup
    if run.is_done(STAGE) or not (dedup.compares or dedup.cuts):
        return
    source = measures or run
    extracted = source.manifests("extract")
    text_bytes = sum(m["text_bytes"] for m in extracted)
    names = tuple(task.part for task in source.tasks)
    pages = _Kept(source.folder.path, run.folder.path, run.recipe, names)
    opened = make_or_open(index or f"{run.folder.path}/{PRIVATE}", run.recipe, text_bytes, LEAST_SHARDS if index else 1)
    ask = partial(exchange, spark, partitions=partitions, least=source.least_slices, watch=watch)
    if dedup.cuts and not run.step_done(STAGE, "cuts"):
        count_repeats(pages, opened.n_shards, ask)
        run.step_done(STAGE, "cuts", now=True)
    if dedup.compares:
        dumps = {dump for manifest in extracted for dump in manifest["dumps"]}
        log = compare(spark, pages, opened, dumps, source.info["inputs_digest"][:16], index is not None, ask)
        run.record(STAGE, iterations=log)


def deduplicate_files(
    spark: Any | None, files: Sequence[str], output: str, recipe: Recipe, partitions: int | None = None
) -> None:
    """Finds the duplicates among the texts of Parquet files (columns id, text), by the method of a run.

    Leaves in `output`, a file for each given, the table duplicates (its doc_id made of the id by
    `pipeline.tables.document_id`) and in `kept` the rows that are kept, their texts after cuts. Texts have no host and no
    address here: `lines` and `url` of the recipe find nothing.
    """
    names = tuple(f"{number:05d}" for number in range(len(files)))
    pages = _Files(tuple(files), output, recipe, names)
    text_bytes = sum(file.size or 0 for file in expand(files))
    opened = make_or_open(f"{output}/{PRIVATE}", recipe, text_bytes)
    ask = partial(exchange, spark, partitions=partitions)
    if recipe.dedup.cuts:
        count_repeats(pages, opened.n_shards, ask)
    compare(spark, pages, opened, {UNKNOWN_DUMP}, "files", False, ask)
    ask("writing what is kept", range(len(files)), pages.write_kept, [])


def count_repeats(pages: Source, n_buckets: int, ask: Callable[..., None]) -> None:
    """Finds repeated lines and paragraphs and leaves the table cuts, beside the parts of the source."""
    parts, names = _Parts(pages, n_buckets), pages.names
    hops = [Hop(parts.n_buckets, parts.cuts), Hop(len(names), parts.write_cuts, light=True)]
    ask("counting repeated lines", range(len(names)), parts.occurrences, hops)


def compare(
    spark: Any | None,
    pages: Source,
    index: BandIndex,
    dumps: Iterable[str],
    name: str,
    shared: bool,
    ask: Callable[..., None],
) -> list[dict[str, Any]]:
    """Adds the pages to the index, as one unit a dump, and compares them with what it holds."""
    # The same inputs replace what they added before.
    units = tuple(Unit(dump, name) for dump in sorted(dumps))
    about = {"recipe": pages.recipe.name, "recipe_digest": pages.recipe.digest}
    with index.folder.lock():
        index.folder.sweep()
        if any(index.describe(unit) != {"dump": unit.dump, **about} for unit in units):
            for unit in units:
                index.folder.remove(f"{unit.path}/unit.json")
                index.folder.remove_tree(unit.path)
            sketching = _Sketching(_Parts(pages, index.n_shards), index, units)
            ask("sketching texts", range(len(pages.names)), sketching.send, [Hop(index.n_shards, sketching.write)])
            for unit in units:
                index.folder.write_json(f"{unit.path}/unit.json", {"dump": unit.dump, **about})
        log = resolve(spark, Resolution.of(index, units, pages.output, pages.recipe, pages.names, shared), ask)
        index.note_recipe(pages.recipe)
    if not shared:
        # Nothing will be added to this index: what only comparing needed can go. It is said first, so that a run that is
        # killed here knows that it has to make it again.
        for unit in units:
            index.folder.write_json(f"{unit.path}/unit.json", {"dump": unit.dump, **about, "bands": "removed"})
            index.folder.remove_tree(f"{unit.path}/bands")
    return log


def remove_dump(index: BandIndex, dump: str, spark: Any | None = None) -> None:
    """Removes all that was added of a dump, and compares what is left as if it had never been there.

    Raises UsageError where the index holds no such dump.
    """
    units = index.units()
    dumps = sorted({unit.dump for unit in units})
    results = f"duplicates/{folder_name(dump)}"
    if dump not in dumps and not index.folder.list(results):
        raise UsageError(f"index {index.root} holds no dump {dump!r}; it holds {', '.join(dumps) or 'none'}")
    recipe = index.last_recipe()
    with index.folder.lock():
        touched = [other for other in related(dumps, [dump], recipe.dedup) if other != dump]
        for unit in units:
            if unit.dump == dump:
                index.folder.remove(f"{unit.path}/unit.json")
                index.folder.remove_tree(unit.path)
        if touched:
            resolution = Resolution.of(index, (), index.root, recipe, shared=True, wanted=touched)
            resolve(spark, resolution, partial(exchange, spark))
        # Last, so that a removal that was killed can be asked for again.
        index.folder.remove_tree(results)


def forget(run: Run) -> None:
    """Has the pages of a run hashed and sketched again, since others of them are to be compared."""
    run.folder.remove_tree("dedup")
    if run.info.get("index"):
        index = existing_index(run.info["index"])
        for unit in index.units():
            if unit.name == run.info["inputs_digest"][:16]:
                index.folder.remove(f"{unit.path}/unit.json")


def check_index(run: Run, index: str | None) -> None:
    """Notes which index a run uses, before anything is written.

    Raises UsageError where the run was begun with another index, or with none, or the index does not fit the recipe.
    """
    if index is not None and not run.recipe.dedup.compares:
        raise UsageError(f"recipe {run.recipe.name!r} compares no documents (no dedup), so --index has no use")
    if index is not None:
        check_fits(index, run.recipe)
    named = RunFolder(index).absolute() if index else None
    known = run.info.setdefault("index", named)
    if known != named:
        raise UsageError(
            f"output {run.folder.path} was begun {'with index ' + known if known else 'without an index'}; go on with the "
            "same --index, or choose a new folder"
        )


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
