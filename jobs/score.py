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
from jobs.exchange import Hop, Parcel, Received, exchange
from jobs.runs import Run, read_part, read_ranks
from jobs.session import Watch
from jobs.store import RunFolder
from pipeline.contamination.cuts import stretches, to_extracted
from pipeline.curation import kept_rows
from pipeline.edits import apply_edits
from pipeline.recipe import Recipe
from pipeline.scores import SENTENCES, Histogram, Scoring, combined, facts, score_schema
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

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table scores."""
        return pa.schema([DOCUMENTS.field("doc_id"), *score_schema(self.recipe.score)])

    def send(self, part: str) -> Iterator[Parcel]:
        """Scores a part, and sends how its quality heads' scores are spread, each to its own bucket."""
        own = RunFolder(self.output)
        records, documents, signals, edits = read_part(RunFolder(self.measures), part, self.recipe)
        del records
        documents = documents.filter(pa.array(kept_rows(documents, signals, self.recipe))).combine_chunks()
        scores, sentences = self._known(part)
        known = pc.is_in(documents.column("doc_id"), value_set=scores.column("doc_id").combine_chunks())
        new, found = self._scored(documents.filter(pc.invert(known)).combine_chunks(), edits)
        kept = documents.column("doc_id")
        scores, sentences = pa.concat_tables([scores, new]), pa.concat_tables([sentences, found])
        scores = scores.take(pc.index_in(kept, value_set=scores.column("doc_id").combine_chunks()))
        sentences = sentences.filter(pc.is_in(sentences.column("doc_id"), value_set=kept.combine_chunks()))
        order = [(name, "ascending") for name in ("doc_id", "head", "start")]
        own.write_table(f"scores/part-{part}.parquet", scores)
        own.write_table(f"sentences/part-{part}.parquet", sentences.sort_by(order))
        for number, name in enumerate(self.recipe.score.quality.heads):
            values = pc.fill_null(scores.column(f"score_{name}"), float("nan")).to_numpy().astype(np.float64)
            yield number, "spread", _spread(Histogram.of(values))

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

    def write_spread(self, name: str | None, bucket: int, received: Received) -> None:
        """How the scores of a head are spread over all parts."""
        rows = received.get("spread", _spread(Histogram(np.zeros(0, np.int64))))
        sums = rows.group_by("bin", use_threads=False).aggregate([("pages", "sum")]).sort_by("bin")
        counts = pa.table({"bin": sums.column("bin"), "pages": sums.column("pages_sum")})
        RunFolder(self.output).write_table(f"ranks/{name or self.recipe.score.quality.heads[bucket]}.parquet", counts)

    def combine(self, part: str) -> Iterator[Parcel]:
        """How the heads of a part combined are spread."""
        folder = RunFolder(self.output)
        scores = folder.read_table(f"scores/part-{part}.parquet")
        ranks = read_ranks(folder, self.recipe, combined=False)
        yield 0, "spread", _spread(Histogram.of(combined(scores, self.recipe.score, ranks)))


def _spread(histogram: Histogram) -> pa.Table:
    bins = np.flatnonzero(histogram.counts)
    return pa.table({"bin": bins.astype(np.int32), "pages": histogram.counts[bins].astype(np.int64)})


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
    _scorer(scoring)  # a model that cannot be used is an error before any task starts
    source = measures or run
    key = _key(run.recipe)
    same = source is not run and source.is_done(STAGE) and source.info["stages"][STAGE].get("key") == key
    scores = _Scores(source.folder.path, run.folder.path, run.recipe, source.folder.path if same else None)
    parts = [task.part for task in source.tasks]
    ask = partial(exchange, spark, partitions=partitions, least=source.least_slices, watch=watch)
    n_heads = len(scoring.quality.heads)
    ask("scoring", parts, scores.send, [Hop(n_heads, partial(scores.write_spread, None))] if n_heads else [])
    if scoring.ranks:
        ask("ranking", parts, scores.combine, [Hop(1, partial(scores.write_spread, "quality"))])
    run.record(STAGE, key=key)


def _key(recipe: Recipe) -> str:
    """What the score of a page depends on beside its text."""
    made_of = {"score": facts(recipe.score), "edits": recipe.line_edits()}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


if __name__ == "__main__":
    from jobs.submit import main

    main(STAGE)
