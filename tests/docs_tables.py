"""Writes docs/tables.md from the schemas: python tests/docs_tables.py."""

from pathlib import Path

from classifiers.training_set import LISTING
from jobs.references import REFERENCES
from pipeline.curation import ledger_schema
from pipeline.recipe import load_recipe
from pipeline.scores import QUALITY, SENTENCES, score_schema
from pipeline.signals.statistics import Statistics
from pipeline.tables import (
    BENCHMARK_ITEMS,
    CONTAMINATION,
    CURATED,
    DOCUMENTS,
    DUPLICATES,
    EDITS,
    INPUTS,
    MIXED_DOCUMENTS,
    RECORDS,
    TOKEN_DOCUMENTS,
    describe,
)

_HEAD = """# Tables

Parquet, zstd. This page is made from the schemas in the code; the same texts are in the field metadata of every file.
`records`, `documents`, `signals` and `edits` are in parts, one for each split of an input file, with the same records in
the same order; `cuts`, `duplicates` and `contamination` are in the same parts, keyed by doc_id. `benchmark_items` is in
the order of the benchmarks' files.
`ledger` and `curated` are in shards by ranges of the id, sorted by it.
"""


def page() -> str:
    """The whole page."""
    ledger = ledger_schema(Statistics.schema)
    known = {*RECORDS.names, *DOCUMENTS.names, *Statistics.schema.names}
    tables = {
        "records": ("one row for each record read", RECORDS),
        "documents": ("one row for each record whose page has text", DOCUMENTS),
        "signals": (
            "what was measured, one row a document; under a recipe that edits lines, once more of the edited text, in "
            "columns whose names begin with `edited_`",
            Statistics.schema,
        ),
        "edits": ("spans that a recipe's line edits cut or replace", EDITS),
        "cuts": ("spans that were cut as repeated lines or paragraphs", EDITS),
        "duplicates": ("one row for each document that was compared with others", DUPLICATES),
        "scores": (
            "one row for each page that the rules on text keep; a column for each thing that the recipe scores, here what "
            "`default` does; with them in the ledger stand `quality` and `quality_bin`",
            [*score_schema(load_recipe("default").score), *QUALITY],
        ),
        "sentences": ("one row for each sentence that a head with `sentences` scores high", SENTENCES),
        "contamination": ("one row for each benchmark item in a document", CONTAMINATION),
        "benchmark_items": ("one row for each item of the benchmarks that were looked for", BENCHMARK_ITEMS),
        "inputs": ("the account of each split of an input file", INPUTS),
        "ledger": (
            "records, documents without the text, signals, and:",
            [column for column in ledger if column.name not in known],
        ),
        "curated": ("what people load", CURATED),
        "references": ("what `crawlmill references` writes: one row for each address that a dump cites", REFERENCES),
        "SHARD.docs.parquet": (
            "what `crawlmill tokenize` writes beside each shard: one row a document",
            TOKEN_DOCUMENTS,
        ),
        "SHARD.docs.parquet of a mix": (
            "what `crawlmill mix` writes beside each shard: one row a document, or a stretch of one",
            MIXED_DOCUMENTS,
        ),
        "missing": ("what `crawlmill classifier train` lists to be fetched", LISTING),
    }
    parts = [_HEAD]
    for name, (about, schema) in tables.items():
        parts.append(f"\n## {name}\n\n{about[0].upper() + about[1:]}{'' if about.endswith(':') else '.'}\n\n")
        parts.append("| column | type | meaning |\n|---|---|---|\n")
        for column, kind, meaning in describe(schema):
            safe = meaning.replace("|", "\\|")
            parts.append(f"| `{column}` | {kind} | {safe} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (Path(__file__).resolve().parent.parent / "docs" / "tables.md").write_text(page(), encoding="utf-8")
