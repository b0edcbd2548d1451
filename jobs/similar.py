"""Looks up the pages of a run whose text is like that of one page, whatever the recipe made of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.band_index import BandIndex, existing_index
from jobs.deduplicate import PRIVATE
from jobs.explain import extracted_text, find
from jobs.runs import Run
from pipeline.dedup.lookup import NearDuplicates
from pipeline.dedup.minhash import MinHasher
from pipeline.dedup.survivors import column, hex_ids
from pipeline.errors import InputError, UsageError

BANDS_OF = 4
"""Rows a band here: pairs at similarity .5 are found with probability .84 in 28 bands, where 14 bands of 8 rows find .05."""


class Similar(NamedTuple):
    """A page that is like the one asked for."""

    doc_id: str
    similarity: float
    row: dict[str, Any]


def index_of(run: Run) -> BandIndex:
    """The index that the run was compared over. Raises UsageError where it has none."""
    if run.recipe.dedup.minhash is None:
        raise UsageError(f"recipe {run.recipe.name!r} of {run.folder.path} sketches no texts (no minhash in its dedup)")
    return existing_index(run.info.get("index") or f"{run.folder.path}/{PRIVATE}")


def similar(run: Run, key: str, least: float = 0.5) -> list[Similar]:
    """Pages at an estimated similarity of `least` or more, the most similar first, with their ledger rows.

    `key` is a URL, doc_id or FILE:OFFSET of the run, or the path of a text file. Everything that was compared is looked
    through, in memory: about 3 kB a page. Raises UsageError where nothing is found under the key, or it has no text.
    """
    index = index_of(run)
    settings = (index.folder.read_json("index.json") or {})["minhash"]
    ids, signatures = _signatures(index)
    text, own = _text(run, key)
    hasher = MinHasher(settings["ngram"], settings["hashes"], settings["seed"], settings["normalise"])
    if own in ids:
        # As it was compared, after edits.
        signature = signatures[ids.index(own)]
    else:
        signature = hasher.sketch(pa.array([text], pa.string()), ngrams=False).signatures[0]
    rows = min(BANDS_OF, settings["hashes"] // 2)
    lookup = NearDuplicates(ids, signatures, settings["hashes"] // rows, rows, settings["seed"])
    found = [(doc_id, score) for doc_id, score in lookup.similar(signature, least) if doc_id != own]
    ledger = run.folder.scan("ledger", pc.field("doc_id").isin([doc_id for doc_id, _ in found])).to_pylist()
    known = {row["doc_id"]: row for row in ledger}
    return [Similar(doc_id, score, known.get(doc_id, {})) for doc_id, score in found]


def _text(run: Run, key: str) -> tuple[str, str | None]:
    """The text that a key means, and its doc_id where it is a page of the run."""
    rows = find(run, key)
    if not rows:
        if not Path(key).is_file():
            raise UsageError(f"no record of {key!r} in {run.folder.path}, and no text file of that name")
        try:
            return Path(key).read_text(encoding="utf-8"), None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {key}: {error}") from error
    text = extracted_text(run, rows[0])
    if text is None:
        raise UsageError(f"{key} was turned away before its text was extracted ({rows[0]['reason']})")
    return text, rows[0]["doc_id"]


def _signatures(index: BandIndex) -> tuple[list[str], np.ndarray]:
    """Ids and signatures of all pages in the index, a row each."""
    ids: list[str] = []
    matrices = []
    for unit in index.units():
        for shard in range(index.n_shards):
            pages = index.read(unit, "pages", shard, ["doc_hi", "doc_lo", "text_hi"])
            sketches = index.read(unit, "sketches", shard, ["text_hi", "signature"])
            if pages.num_rows == 0:
                continue
            stored = np.frombuffer(b"".join(sketches.column("signature").to_pylist()), "<u4")
            matrix = stored.reshape(sketches.num_rows, -1).astype(np.uint32)
            ids += hex_ids(column(pages, "doc_hi"), column(pages, "doc_lo")).to_pylist()
            matrices.append(matrix[np.searchsorted(column(sketches, "text_hi"), column(pages, "text_hi"))])
    return ids, np.concatenate(matrices) if matrices else np.zeros((0, 2), np.uint32)
