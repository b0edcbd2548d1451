"""Job: scores what the rules keep with classifiers. `spark-submit jobs/score.py --help`.

A page that was scored by an earlier decision on the same measures is not scored again. How the scores of quality heads are
spread over all pages is counted by bins, so that ranks are the same whatever the partitions.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from classifiers.scorer import Scorer
from jobs import quarantine
from jobs.exchange import Hop, Parcel, Received, by_bucket, exchange
from jobs.measures import count
from jobs.quarantine import Lost
from jobs.runs import Run, places, rank_file, read_part, read_ranks
from jobs.session import Watch
from jobs.store import RunFolder
from pipeline.contamination.cuts import stretches, to_extracted
from pipeline.curation import kept_rows
from pipeline.edits import apply_edits
from pipeline.recipe import Recipe
from pipeline.scores import (
    COMBINED,
    RANK_BINS,
    SENTENCES,
    Histogram,
    Scoring,
    combined,
    facts,
    score_schema,
    values_of,
)
from pipeline.tables import DOCUMENTS

STAGE = "score"


@lru_cache(maxsize=2)
def _opened(scoring: str) -> Scorer:
    return Scorer(Scoring.model_validate_json(scoring))


def _scorer(scoring: Scoring) -> Scorer:
    """The models, opened once in a process."""
    return _opened(scoring.model_dump_json(exclude={"quality"}))


@dataclass(frozen=True)
class _Scores:
    """All that a task needs to know: where texts lie, what scores them, and where scores of the same heads lie already."""

    measures: str
    output: str
    recipe: Recipe
    earlier: str | None
    key: str

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table scores."""
        return pa.schema([DOCUMENTS.field("doc_id"), *score_schema(self.recipe.score)])

    def send(self, part: str) -> Iterator[Parcel]:
        """Scores a part that is not scored yet, and sends how its quality heads' scores are spread."""
        own = RunFolder(self.output)
        manifest = f"_manifests/{STAGE}/{part}.json"
        if (own.read_json(manifest) or {}).get("key") != self.key:
            self._write(own, part)
            own.write_json(manifest, {"part": part, "key": self.key})
        scores = own.read_table(f"scores/part-{part}.parquet")
        count("left", scores.num_rows)
        for number, name in enumerate(self.recipe.score.quality.heads):
            yield from _spread(Histogram.of(values_of(scores, name)), number)

    def _write(self, own: RunFolder, part: str) -> None:
        """Scores a part, but for what is known of it."""
        records, documents, signals, edits = read_part(RunFolder(self.measures), part, self.recipe)
        del records
        documents = documents.filter(pa.array(kept_rows(documents, signals, self.recipe))).combine_chunks()
        scores, sentences = self._known(part)
        known = pc.is_in(documents.column("doc_id"), value_set=scores.column("doc_id").combine_chunks())
        new = documents.filter(pc.invert(known)).combine_chunks()
        more, found, lost = self._isolated(own, part, new, edits) if quarantine.retried() else self._all(new, edits)
        scores, sentences = pa.concat_tables([scores, more]), pa.concat_tables([sentences, found])
        at = pc.index_in(documents.column("doc_id"), value_set=scores.column("doc_id").combine_chunks())
        scores = scores.take(at.drop_null())
        kept = scores.column("doc_id").combine_chunks()
        sentences = sentences.filter(pc.is_in(sentences.column("doc_id"), value_set=kept))
        order = [(name, "ascending") for name in ("doc_id", "head", "start")]
        own.write_table(f"scores/part-{part}.parquet", quarantine.mark(scores, lost))
        own.write_table(f"sentences/part-{part}.parquet", sentences.sort_by(order))

    def _all(self, documents: pa.Table, edits: pa.Table) -> tuple[pa.Table, pa.Table, dict[str, str]]:
        return *self._scored(documents, edits), {}

    def _isolated(
        self, own: RunFolder, part: str, documents: pa.Table, edits: pa.Table
    ) -> tuple[pa.Table, pa.Table, dict[str, str]]:
        """Scores and sentences without the texts that end a worker by themselves, and the ids of these with the error."""
        # Opened and compiled here, and not again in every child.
        _scorer(self.recipe.score).score(pa.array(["A few words."]), pa.array(["en"]))
        scores, sentences = [self.schema.empty_table()], [SENTENCES.empty_table()]
        lost: dict[str, str] = {}
        for piece in quarantine.isolate(
            lambda start, end: self._scored(documents.slice(start, end - start).combine_chunks(), edits),
            0,
            documents.num_rows,
        ):
            if isinstance(piece, Lost):
                gone = documents.column("doc_id").slice(piece.start, piece.end - piece.start)
                lost |= dict.fromkeys(gone.to_pylist(), piece.why)
            else:
                scores.append(piece[0])
                sentences.append(piece[1])
        if lost:
            notes = places(RunFolder(self.measures), part, lost)
            quarantine.put_aside(own, STAGE, part, notes, self.recipe.inputs.tolerate)
        return pa.concat_tables(scores).combine_chunks(), pa.concat_tables(sentences), lost

    def _known(self, part: str) -> tuple[pa.Table, pa.Table]:
        """What an earlier decision scored of a part."""
        if self.earlier is None:
            return self.schema.empty_table(), SENTENCES.empty_table()
        folder = RunFolder(self.earlier)
        return folder.read_table(f"scores/part-{part}.parquet"), folder.read_table(f"sentences/part-{part}.parquet")

    def _scored(self, documents: pa.Table, edits: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The scores of documents as line edits leave them, and the sentences that are kept with their place."""
        ids = documents.column("doc_id")
        texts = apply_edits(documents.column("text"), ids, edits)
        scores, sentences = _scorer(self.recipe.score).score(texts, documents.column("language").combine_chunks())
        own = edits.filter(pc.is_in(edits.column("doc_id"), value_set=ids.combine_chunks()))
        by_doc: dict[str, list[tuple[int, int, str]]] = {}
        for edit in own.to_pylist():
            by_doc.setdefault(edit["doc_id"], []).append((edit["start"], edit["end"], edit["replacement"]))
        rows = []
        for row in sentences.to_pylist():
            doc_id = ids[row["row"]].as_py()
            start, end = row["start"], row["end"]
            if doc_id in by_doc:
                n_chars = len(documents.column("text")[row["row"]].as_py())
                start, end = to_extracted((start, end), stretches(n_chars, by_doc[doc_id]))
            rows.append({"doc_id": doc_id, "head": row["head"], "start": start, "end": end, "score": row["score"]})
        scores = scores.add_column(0, "doc_id", ids.combine_chunks()).cast(self.schema)
        return scores, pa.Table.from_pylist(rows, SENTENCES)

    def add(self, bucket: int, received: Received) -> Iterator[Parcel]:
        """How a range of the scores of a head is spread over all parts, to the one task that writes it."""
        if "spread" in received:
            sums = received["spread"].group_by("bin", use_threads=False).aggregate([("pages", "sum")])
            yield bucket // RANGES, "spread", pa.table({"bin": sums.column("bin"), "pages": sums.column("pages_sum")})

    def write_spread(self, names: tuple[str, ...], number: int, received: Received) -> None:
        """How the scores of a head are spread over all parts."""
        rows = received.get("spread", EMPTY_SPREAD).sort_by("bin")
        RunFolder(self.output).write_table(rank_file(names[number]), rows)

    def combine(self, part: str) -> Iterator[Parcel]:
        """How the heads of a part combined are spread."""
        folder = RunFolder(self.output)
        scores = folder.read_table(f"scores/part-{part}.parquet")
        ranks = read_ranks(folder, self.recipe, combined=False)
        yield from _spread(Histogram.of(combined(scores, self.recipe.score, ranks)), 0)


RANGES = 64
"""Tasks that add up the spread of one head, each a range of its bins."""

EMPTY_SPREAD = pa.table({"bin": pa.array([], pa.int32()), "pages": pa.array([], pa.int64())})


def _spread(histogram: Histogram, number: int) -> Iterator[Parcel]:
    """The counts of a head, apart by range."""
    bins = np.flatnonzero(histogram.counts)
    counts = pa.table({"bin": bins.astype(np.int32), "pages": histogram.counts[bins].astype(np.int64)})
    yield from by_bucket(counts, number * RANGES + bins * RANGES // RANK_BINS, "spread")


def check_models(recipe: Recipe) -> None:
    """Raises InputError, UsageError or RecipeError where a model or word list of the recipe cannot be used."""
    if recipe.score.scores:
        _scorer(recipe.score)


def score(
    spark: Any | None,
    run: Run,
    measures: Run | None = None,
    partitions: int | None = None,
    watch: Watch | None = None,
) -> None:
    """Scores the pages that the rules on text keep; leaves the tables scores and sentences, and the ranks of quality.

    `measures` is the run whose texts are scored, by default `run` itself; what it scored already is taken from there.
    Raises InputError for a model that cannot be used.
    """
    scoring = run.recipe.score
    if run.is_done(STAGE) or not scoring.scores:
        return
    check_models(run.recipe)
    quarantine.forget(run.folder, STAGE, run.done(STAGE))
    source = measures or run
    key = _key(run.recipe)
    same = source is not run and source.is_done(STAGE) and source.info["stages"][STAGE].get("key") == key
    scores = _Scores(source.folder.path, run.folder.path, run.recipe, source.folder.path if same else None, key)
    parts = [task.part for task in source.tasks]
    ask = partial(exchange, spark, partitions=partitions, least=source.least_slices, watch=watch)

    def spread_of(*names: str) -> list[Hop]:
        if not names:
            return []
        adding = Hop(len(names) * RANGES, scores.add, light=True)
        return [adding, Hop(len(names), partial(scores.write_spread, names))]

    ask("scoring", parts, scores.send, spread_of(*scoring.quality.heads))
    if scoring.ranks:
        ask("ranking", parts, scores.combine, spread_of(COMBINED))
    run.record(STAGE, key=key)


def _key(recipe: Recipe) -> str:
    """What the score of a page depends on beside its text."""
    made_of = {"score": facts(recipe.score), "edits": recipe.line_edits()}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
