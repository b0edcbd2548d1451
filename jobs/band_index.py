"""The band index: what deduplication knows of every crawl that was added, so that a new one can be compared with them.

INDEX/index.json                                parameters that all crawls share
INDEX/crawls/<dump>/<unit>/unit.json            written last: a unit without it is not there
INDEX/crawls/<dump>/<unit>/pages/shard-00000    pages by range of their text's hash (schema ENTRIES)
INDEX/crawls/<dump>/<unit>/sketches/shard-00000 signatures and n-grams of texts, by range of the hash
INDEX/crawls/<dump>/<unit>/bands/shard-00000    (key, node) rows by range of the key, sorted
INDEX/duplicates/<dump>/shard-00000.parquet     what comparing them all came to, by range of doc_id

A unit is what one run added of one dump. No row says where another lies, so a unit can be removed by removing its folder.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa

from jobs.store import RunFolder
from pipeline.dedup.options import MinHashDedup
from pipeline.errors import UsageError
from pipeline.recipe import Recipe

VERSION = 1
"""Raised whenever what is stored changes its meaning: normalisation, hashes, canonical addresses, files."""

SHARD_BYTES = 64_000_000
"""Text a shard, when an index is made: a task then holds some 100 MB of sketches."""

LEAST_SHARDS = 64
"""Shards at least of an index that crawls are added to: their number stays, and later crawls may be larger."""


def folder_name(dump: str) -> str:
    """A dump's name as the name of a folder."""
    return quote(dump, safe="")


SKETCHES_A_GROUP = 512
"""Texts a row group of sketches, some 1 MB: few texts have candidates, and only their groups are read."""


@dataclass(frozen=True, order=True)
class Unit:
    """What one run added of one dump."""

    dump: str
    name: str

    @property
    def path(self) -> str:
        """Its folder in the index."""
        return f"crawls/{folder_name(self.dump)}/{self.name}"


@dataclass(frozen=True)
class BandIndex:
    """An index that was opened; cheap to send to tasks."""

    root: str
    n_shards: int

    @property
    def folder(self) -> RunFolder:
        """Where it lies."""
        return RunFolder(self.root)

    def units(self) -> list[Unit]:
        """Every unit that is whole, by dump and name."""
        folder = self.folder
        found = []
        for dump in folder.list("crawls"):
            for unit in folder.list(dump):
                if folder.read_json(f"{unit}/unit.json") is not None:
                    _, name, part = unit.split("/")
                    found.append(Unit(unquote(name), part))
        return sorted(found)

    def note_recipe(self, recipe: Recipe) -> None:
        """Remembers how the index was last compared, for when a crawl is removed."""
        info = self.folder.read_json("index.json") or {}
        self.folder.write_json("index.json", {**info, "recipe": recipe.model_dump(mode="json")})

    def last_recipe(self) -> Recipe:
        """The recipe that the index was last compared under. Raises UsageError where it never was."""
        info = self.folder.read_json("index.json") or {}
        if "recipe" not in info:
            raise UsageError(
                f"index {self.root} was never compared; add a crawl with `crawlmill run --index {self.root} …`"
            )
        return Recipe.model_validate(info["recipe"])

    def describe(self, unit: Unit) -> dict[str, Any]:
        """What unit.json says; {} where the unit is not there."""
        return self.folder.read_json(f"{unit.path}/unit.json") or {}

    def read(self, unit: Unit, table: str, shard: int, columns: list[str] | None = None) -> pa.Table:
        """One file of a unit."""
        return self.folder.read_table(f"{unit.path}/{table}/shard-{shard:05d}.parquet", columns)

    def read_texts(self, unit: Unit, shard: int, nodes: np.ndarray, columns: list[str]) -> pa.Table:
        """Of one file of sketches the rows of some texts (sorted)."""
        name = f"{unit.path}/sketches/shard-{shard:05d}.parquet"
        return self.folder.read_rows(name, "text_hi", nodes, columns)

    def write(self, unit: Unit, table: str, shard: int, rows: pa.Table) -> None:
        """Writes one file of a unit."""
        name = f"{unit.path}/{table}/shard-{shard:05d}.parquet"
        if table == "sketches":
            self.folder.write_table(name, rows, SKETCHES_A_GROUP, plain=("signature", "ngrams"))
        else:
            self.folder.write_table(name, rows)


def parameters(recipe: Recipe) -> dict[str, Any]:
    """What every unit of an index must share; scopes, thresholds and what is preferred are decided later."""
    minhash = recipe.dedup.minhash
    # Python's Unicode tables decide which characters are letters, and so what a normalised text is.
    return {
        "version": VERSION,
        "unicode": unicodedata.unidata_version,
        "minhash": _sketching(minhash) if minhash else None,
    }


def _sketching(minhash: MinHashDedup) -> dict[str, Any]:
    hashes, bands, rows = minhash.banding()
    return {
        "ngram": minhash.ngram,
        "normalise": minhash.normalise,
        "hashes": hashes,
        "bands": bands,
        "rows": rows,
        "seed": minhash.seed,
        "by": minhash.by,
    }


def make_or_open(root: str, recipe: Recipe, text_bytes: int, least: int = 1) -> BandIndex:
    """The index at `root`, made with at least `least` shards if there is none.

    Raises UsageError, naming what differs, if it has other parameters.
    """
    folder = RunFolder(root)
    info = folder.read_json("index.json")
    wanted = parameters(recipe)
    if info is None:
        if not folder.is_empty():
            raise UsageError(f"{root} is not empty and holds no index; choose a new folder")
        # A function of the text, as with shards: the result does not depend on it, but files do.
        info = {**wanted, "shards": max(least, -(-text_bytes // SHARD_BYTES))}
        folder.write_json("index.json", info)
    _refuse_other(root, info, wanted)
    return BandIndex(folder.path, info["shards"])


def check_fits(root: str, recipe: Recipe) -> None:
    """Raises UsageError, naming what differs, if there is an index at `root` and it has other parameters."""
    info = RunFolder(root).read_json("index.json")
    if info is not None:
        _refuse_other(root, info, parameters(recipe))


def existing_index(root: str) -> BandIndex:
    """The index at `root`. Raises UsageError where there is none."""
    info = RunFolder(root).read_json("index.json")
    if info is None:
        raise UsageError(f"{root} holds no index (no index.json); make one with `crawlmill run --index {root} …`")
    return BandIndex(RunFolder(root).path, info["shards"])


def _refuse_other(root: str, info: dict[str, Any], wanted: dict[str, Any]) -> None:
    if info["version"] != wanted["version"]:
        raise UsageError(f"index {root} is of version {info['version']}, this is {wanted['version']}; build it anew")
    if info["unicode"] != wanted["unicode"]:
        raise UsageError(
            f"index {root} was made with the tables of Unicode {info['unicode']}, this Python has {wanted['unicode']}; use "
            "the Python version that it was made with, or build it anew"
        )
    stored, asked = info["minhash"], wanted["minhash"]
    if (stored is None) != (asked is None):
        has = "holds no" if stored is None else "is made for"
        raise UsageError(f"index {root} {has} minhash and the recipe {'has it' if asked else 'has none'}")
    differing = [name for name in stored or {} if stored[name] != asked[name]]
    if differing:
        named = ", ".join(f"{name} is {stored[name]} there and {asked[name]} in the recipe" for name in differing)
        raise UsageError(f"index {root} was made with other parameters: {named}; use the same, or another index")
