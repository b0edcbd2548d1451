"""Job: measures to the ledger and the curated shards. `spark-submit jobs/curate.py --help`.

The only shuffle of a run: decided rows travel to the shard of their id, each with its text if it is kept.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs import decontaminate, deduplicate, observe, score
from jobs.exchange import Hop, Parcel, Received, by_bucket, exchange
from jobs.measures import count
from jobs.runs import Run, existing_run, read_compared
from jobs.session import Watch, session
from jobs.store import RunFolder
from pipeline.annotation import measured_schema
from pipeline.curation import decide, decided_schema, settle, shard_count
from pipeline.errors import CrawlmillError, UsageError
from pipeline.recipe import Recipe
from pipeline.scores import score_columns
from pipeline.tables import Outcome

STAGE = "curate"

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
        own = RunFolder(self.output)
        read, scores, duplicates = read_compared(RunFolder(self.measures), own, part, self.recipe)
        leaks = own.read_table(f"contamination/part-{part}.parquet") if self.recipe.decontaminate.looks else None
        return decide(*read, self.recipe, self.n_shards, duplicates, leaks, scores).cast(self.schema)

    def send(self, part: str) -> Iterator[Parcel]:
        """A part's decided rows, apart by shard."""
        rows = self.decided(part)
        yield from by_bucket(rows, rows.column("shard").to_numpy(), "rows")

    def write(self, shard: int, received: Received) -> None:
        """The two files of a shard. Every shard number exists, so that readers can tell a complete output."""
        ledger, curated = settle(received.get("rows", self.schema.empty_table()).cast(self.schema))
        folder = RunFolder(self.output)
        name = f"shard-{shard:05d}"
        written = {
            "curated": folder.write_table(f"curated/{name}.parquet", curated),
            "ledger": folder.write_table(f"ledger/{name}.parquet", ledger),
        }
        tally = _tally(ledger, curated)
        folder.write_json(f"_manifests/{STAGE}/{name}.json", {"part": name, "tables": written, **tally})
        count("left", tally["outcomes"].get(Outcome.KEPT.value, 0))


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
    schema = decided_schema(pa.schema([*measured_schema(run.recipe), *score_columns(run.recipe.score)]))
    curation = _Curation(source.folder.path, run.folder.path, run.recipe, n_shards, schema)
    exchange(
        spark,
        STAGE,
        parts,
        curation.send,
        [Hop(n_shards, curation.write, schemas={"rows": schema})],
        partitions=partitions,
        least=source.least_slices,
        watch=watch,
    )
    _remove_other_shards(run, n_shards)
    _check_account(run, extracted)


def _remove_other_shards(run: Run, n_shards: int) -> None:
    """Removes shards of an earlier count."""
    names = {f"shard-{shard:05d}" for shard in range(n_shards)}
    for folder, suffix in (("curated", ".parquet"), ("ledger", ".parquet"), (f"_manifests/{STAGE}", ".json")):
        for path in run.folder.list(folder, suffix):
            if path.rsplit("/", 1)[-1].removesuffix(suffix) not in names:
                run.folder.remove(path)


def _check_account(run: Run, extracted: list[dict[str, Any]]) -> None:
    read = sum(m["tables"]["records"]["rows"] for m in extracted)
    outcomes = outcome_counts(run)
    observe.tell(read=read, **outcomes)
    if read != sum(outcomes.values()):
        raise CrawlmillError(f"the account does not balance: {read} records read, ledger holds {outcomes}")


def outcome_counts(run: Run) -> dict[str, int]:
    """Records by outcome over the whole run: kept, dropped, error."""
    total: Counter[str] = Counter({o.value: 0 for o in Outcome})
    for manifest in run.manifests(STAGE):
        total.update(manifest["outcomes"])
    return dict(total)


def redecide(source: str, recipe: Recipe, output: str, index: str | None = None, watch: Watch | None = None) -> Run:
    """Decides the records of an earlier run under other thresholds, into a folder of its own.

    Duplicates are looked for again, since others may be kept; with `index` beside the crawls that it holds.

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
        **{key: value for key, value in measures.info.items() if key not in ("index", "attempts")},
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
    deduplicate.check_index(run, index)
    score.check_models(recipe)
    with folder.lock():
        folder.sweep()
        run.save()
        spark = None
        if sum(m["text_bytes"] for m in measures.manifests("extract")) > IN_PROCESS_BYTES:
            spark = session("redecide")
        stages: dict[str, Callable[[], None]] = {
            score.STAGE: lambda: score.score(spark, run, measures, watch=watch),
            deduplicate.STAGE: lambda: deduplicate.deduplicate(spark, run, measures, index, watch=watch),
            decontaminate.STAGE: lambda: decontaminate.decontaminate(spark, run, measures, watch=watch),
            STAGE: lambda: curate(spark, run, measures, watch=watch),
        }
        with observe.measuring(run, tuple(stages)) as meter:
            for name, do in stages.items():
                with meter.stage(name):
                    do()
                run.record(name, done=True)
    return run


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
