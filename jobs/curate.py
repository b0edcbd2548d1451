"""Job: measures to the ledger and the curated shards. `spark-submit jobs/curate.py --help`.

The only shuffle of a run: decided rows travel to the shard of their id, each with its text if it is kept.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.runs import Run, existing_run
from jobs.session import Watch, slice_count, watched
from jobs.store import RunFolder
from pipeline.annotation import measured_schema
from pipeline.curation import decide, decided_schema, settle, shard_count
from pipeline.errors import CrawlmillError, UsageError
from pipeline.recipe import Recipe
from pipeline.tables import Outcome

STAGE = "curate"

MOST_PARTITIONS = 20_000
"""Partitions of the shuffle at most; more would cost the driver more than they give."""

IN_PROCESS_BYTES = 500_000_000
"""Up to so much extracted text a run is re-decided without Spark: starting a session would take longer than the work."""


@dataclass(frozen=True)
class _Curation:
    """All that a task needs to know: where measures lie, where shards go, and how to decide."""

    measures: str
    output: str
    recipe: Recipe
    n_shards: int
    schema: pa.Schema

    def decided(self, part: str) -> pa.Table:
        folder = RunFolder(self.measures)
        names = ("records", "documents", "signals", "edits")
        records, documents, signals, edits = (folder.read_table(f"{name}/part-{part}.parquet") for name in names)
        if not self.recipe.line_edits():
            # A run that was measured with line edits can be decided without them: the raw signals are all there.
            edits = edits.slice(0, 0)
        signals = signals.select(["doc_id", *measured_schema(self.recipe).names])
        return decide(records, documents, signals, edits, self.recipe, self.n_shards).cast(self.schema)

    def write(self, shard: int, rows: pa.Table) -> None:
        ledger, curated = settle(rows.cast(self.schema))
        folder = RunFolder(self.output)
        name = f"shard-{shard:05d}"
        written = {
            "curated": folder.write_table(f"curated/{name}.parquet", curated),
            "ledger": folder.write_table(f"ledger/{name}.parquet", ledger),
        }
        folder.write_json(
            f"_manifests/{STAGE}/{name}.json", {"part": name, "tables": written, **_tally(ledger, curated)}
        )


def _tally(ledger: pa.Table, curated: pa.Table) -> dict[str, Any]:
    """Counts of one shard: outcomes, first reasons, every hit, and hits that alone decided."""
    every = ledger.column("rule_hits").to_pylist()
    families = [[hit.split(":", 1)[0] for hit in hits] for hits in every]
    return {
        "outcomes": dict(sorted(Counter(ledger.column("outcome").to_pylist()).items())),
        "reasons": dict(sorted(Counter(r for r in ledger.column("reason").to_pylist() if r).items())),
        "hits": dict(sorted(Counter(hit for hits in families for hit in set(hits)).items())),
        "sole_hits": dict(sorted(Counter(hits[0] for hits in families if len(set(hits)) == 1).items())),
        "words": sum(curated.column("n_words").to_pylist()),
        "bytes": sum(curated.column("n_bytes").to_pylist()),
    }


def _decide_part(curation: _Curation, part: str) -> Iterator[tuple[int, bytes]]:
    """A part's decided rows, apart by shard. They travel as Arrow streams: Spark moves bytes and looks into none."""
    rows = curation.decided(part)
    shards = rows.column("shard").to_numpy()
    for shard in np.unique(shards):
        mine = rows.filter(pa.array(shards == shard)).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, mine.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(mine)
        yield int(shard), sink.getvalue().to_pybytes()


def _write_shards(curation: _Curation, arrived: Iterable[tuple[int, bytes]]) -> None:
    """A partition holds one shard (or, past MOST_PARTITIONS, a few)."""
    held: dict[int, list[pa.Table]] = {}
    for shard, stream in arrived:
        held.setdefault(shard, []).append(pa.ipc.open_stream(stream).read_all())
    for shard in sorted(held):
        curation.write(shard, pa.concat_tables(held.pop(shard)))


def curate(
    spark: Any | None,
    run: Run,
    measures: Run | None = None,
    partitions: int | None = None,
    watch: Watch | None = None,
) -> None:
    """Decides every record and writes the ledger and the curated shards; without a session, in this process.

    `measures` is the run whose records, documents and signals are decided, by default `run` itself. Raises
    CrawlmillError if the ledger does not hold exactly what was read.
    """
    if run.is_done(STAGE):
        return
    source = measures or run
    parts = [task.part for task in source.tasks]
    extracted = source.manifests("extract")
    n_shards = shard_count(sum(m["text_bytes"] for m in extracted), run.recipe)
    schema = decided_schema(measured_schema(run.recipe))
    curation = _Curation(source.folder.path, run.folder.path, run.recipe, n_shards, schema)
    if spark is None:
        _in_process(curation, parts)
    else:
        _on_spark(spark, curation, parts, partitions, source.least_slices, watch)
    _write_empty_shards(curation, run)
    _check_account(run, extracted)


def _in_process(curation: _Curation, parts: list[str]) -> None:
    rows = pa.concat_tables([curation.decided(part) for part in parts])
    shards = rows.column("shard")
    for shard in range(curation.n_shards):
        mine = rows.filter(pc.equal(shards, shard))
        if mine.num_rows:
            curation.write(shard, mine)


def _on_spark(
    spark: Any, curation: _Curation, parts: list[str], partitions: int | None, least: int, watch: Watch | None
) -> None:
    slices = slice_count(spark, len(parts), partitions, least)
    decided = spark.sparkContext.parallelize(parts, slices).flatMap(partial(_decide_part, curation))
    shards = decided.partitionBy(min(curation.n_shards, MOST_PARTITIONS), int)
    write = partial(_write_shards, curation)
    watched(spark, STAGE, lambda: shards.foreachPartition(write), watch, slices + shards.getNumPartitions())


def _write_empty_shards(curation: _Curation, run: Run) -> None:
    """Every shard number exists, so that readers can tell a complete output; shards of an earlier count are removed."""
    names = {f"shard-{shard:05d}" for shard in range(curation.n_shards)}
    for name in sorted(names - run.done(STAGE)):
        curation.write(int(name.removeprefix("shard-")), curation.schema.empty_table())
    for folder, suffix in (("curated", ".parquet"), ("ledger", ".parquet"), (f"_manifests/{STAGE}", ".json")):
        for path in run.folder.list(folder, suffix):
            if path.rsplit("/", 1)[-1].removesuffix(suffix) not in names:
                run.folder.remove(path)


def _check_account(run: Run, extracted: list[dict[str, Any]]) -> None:
    read = sum(m["tables"]["records"]["rows"] for m in extracted)
    outcomes = outcome_counts(run)
    if read != sum(outcomes.values()):
        raise CrawlmillError(f"the account does not balance: {read} records read, ledger holds {outcomes}")


def outcome_counts(run: Run) -> dict[str, int]:
    """Records by outcome over the whole run: kept, dropped, error."""
    total: Counter[str] = Counter({o.value: 0 for o in Outcome})
    for manifest in run.manifests(STAGE):
        total.update(manifest["outcomes"])
    return dict(total)


def redecide(source: str, recipe: Recipe, output: str, watch: Watch | None = None) -> Run:
    """Decides the records of an earlier run under other thresholds, into a folder of its own.

    Raises UsageError if the recipe differs in more than what is decided late, or the earlier run is not measured.
    """
    earlier = existing_run(source)
    # A run that was itself re-decided points at the one that holds the measures.
    measures = existing_run(earlier.info.get("measures", source))
    if not measures.is_done("annotate"):
        raise UsageError(f"{source} is not finished; run the same `crawlmill run` command again to complete it")
    if measures.info["extracting_digest"] != recipe.extracting:
        raise UsageError(
            f"recipe {recipe.name!r} differs from the run's in gates on address or response, or in extraction; that "
            "needs a new `crawlmill run`"
        )
    if recipe.line_edits() and recipe.line_edits() != measures.recipe.line_edits():
        raise UsageError(
            f"recipe {recipe.name!r} edits lines in another way than the run; that needs a new `crawlmill run`"
        )
    own = {
        **measures.info,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": recipe.digest,
        "measures": measures.folder.absolute(),
        "stages": {},
    }
    folder = RunFolder(output)
    info = folder.read_json("run.json")
    if info is None and not folder.is_empty():
        raise UsageError(f"output {output} is not empty and holds no run; choose a new folder")
    if info is not None and (info["recipe_digest"] != recipe.digest or info.get("measures") != own["measures"]):
        raise UsageError(f"output {output} holds another run; choose a new folder")
    run = Run(folder, recipe, info or own)
    with folder.lock():
        folder.sweep()
        run.save()
        if sum(m["text_bytes"] for m in measures.manifests("extract")) <= IN_PROCESS_BYTES:
            curate(None, run, measures)
        else:
            from jobs.session import session

            curate(session("redecide"), run, measures, watch=watch)
        run.record(STAGE, done=True)
    return run


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
