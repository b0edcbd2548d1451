"""Texts of an ablation: what two sets hold, which pages both keep, what each pair of models reads, what is held out.

Pages of one id, and pages of one text, are a *unit* and stay together: a set that holds a page ten times is drawn with all
ten. Units are put in the order of a seeded hash. The first are held out, the others dealt to the pairs.
"""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.runs import existing_run
from jobs.store import RunFolder
from jobs.token_folders import tokenizer_body
from jobs.token_texts import Chunk, Reading, read_chunks
from jobs.train_tokenizer import Input, find_texts
from pipeline.contamination.filling import fill_grams
from pipeline.contamination.index import forms
from pipeline.contamination.kernel import words_of_texts
from pipeline.dedup.components import components
from pipeline.dedup.local import deduplicate, read_texts
from pipeline.dedup.normalise import text_hashes, utf8
from pipeline.errors import InputError, UsageError
from pipeline.tokenizer.files import parse
from trainer.shards import TokenStore

GRAM = 13
"""Words of an n-gram that a held-out text may not share with either set (Brown et al. 2020, GPT-3, appendix C)."""

HELD_PAGES = 256
"""Pages that both sets keep of which so many are held out at most."""

HELD_SHARE = 0.2
"""Share of the units with pages in both sets that are held out at most."""

LEAST_PAGES = 50
"""So many texts at least must be left of a source for it to be compared on."""

HELD_CHARS = 4096
"""So much of a held-out text is scored: one long text is not to outweigh all others."""

COMMON = "pages that both sets keep"

TEXTS = pa.schema([("id", pa.string()), ("text", pa.large_string())])


class Pages(NamedTuple):
    """A page an entry, in the order of the files: `keys` uint64 of id and piece, `texts` uint64 of the normalised text (a
    *node* of deduplication), `sizes` int64 in bytes."""

    keys: np.ndarray
    texts: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Set:
    """One of the two sets. `digest` is of its pages and texts, whatever files they lie in."""

    name: str
    given: str
    files: list[Input]
    pages: Pages
    column: str = "text"
    recipe: str | None = None

    @property
    def digest(self) -> str:
        """Of its pages and their texts, in no order."""
        rows = np.unique(np.stack([self.pages.keys, self.pages.texts], 1), axis=0)
        counted = f"{len(self.pages.keys)} {int(self.pages.sizes.sum())} ".encode()
        return hashlib.sha256(counted + rows.astype("<u8").tobytes()).hexdigest()[:32]

    def read(self) -> Iterator[tuple[slice, Chunk]]:
        """Its pages some at a time, with their places among `pages`. Raises InputError where they are others by now."""
        for at, chunk in _chunks(self.files, self.column):
            if not np.array_equal(self.pages.keys[at], chunk.keys):
                raise InputError(f"{self.given} has changed while it was read; run the same command again")
            yield at, chunk


def open_set(name: str, given: str, column: str = "text", recipe: str | None = None) -> Set:
    """Looks through a finished run or Parquet files. Raises UsageError, InputError."""
    if not given.endswith(".parquet") and RunFolder(given).read_json("tokens.json") is not None:
        raise UsageError(
            f"{given} is a folder of tokens, made with a tokenizer of its own; name the run or the Parquet files that it "
            "was made of, and both sets are tokenized alike"
        )
    files = find_texts([given])
    keys, texts, sizes = [], [], []
    for _, chunk in _chunks(files, column):
        keys.append(chunk.keys)
        texts.append(text_hashes(chunk.texts)[:, 0])
        sizes.append(chunk.sizes)
    if not keys or not sum(int(part.sum()) for part in sizes):
        raise InputError(f"{given} holds no text")
    pages = Pages(np.concatenate(keys), np.concatenate(texts), np.concatenate(sizes))
    return Set(name, given, files, pages, column, recipe)


def _chunks(files: Sequence[Input], column: str) -> Iterator[tuple[slice, Chunk]]:
    first = 0
    for file in files:
        for chunk in read_chunks(file.path, file.path, Reading(column)):
            yield slice(first, first + len(chunk.texts)), chunk
            first += len(chunk.texts)


@dataclass(frozen=True)
class Dealt:
    """What becomes of each page of both sets: `parts` int16, the pair that reads it, HELD, or UNREAD."""

    parts: tuple[np.ndarray, np.ndarray]
    held: np.ndarray
    """Keys of the pages that are held out, one a unit, in their order (uint64)."""
    common: int
    """Pages that both sets keep."""
    pairs: int
    """Pairs that read draws of their own; 1 where all read the whole sets."""


HELD, UNREAD = -1, -2


def deal(a: Set, b: Set, pairs: int, seed: int, hold: bool = True, enough: float = np.inf) -> Dealt:
    """Deals units to pairs, evenly by bytes of each set, until each pair has `enough` bytes of both; with `hold` a draw of
    the pages that both sets keep is held out first."""
    keys = np.concatenate([a.pages.keys, b.pages.keys])
    texts = np.concatenate([a.pages.texts, b.pages.texts])
    nodes, labels = components(keys, texts)
    unit = labels[np.searchsorted(nodes, keys)]
    names, of = np.unique(unit, return_inverse=True)
    order = np.argsort(_shuffled(names, seed), kind="stable")
    n_a = len(a.pages.keys)
    common = np.intersect1d(a.pages.keys, b.pages.keys)
    part = np.full(len(names), UNREAD, np.int16)
    held = np.zeros(0, np.uint64)
    if hold and len(common):
        # The first page, by key, of each unit that has one in both sets.
        places = np.searchsorted(np.sort(keys[:n_a]), common)
        at = of[:n_a][np.argsort(keys[:n_a], kind="stable")][places]
        shared, first = np.unique(at, return_index=True)
        ranked = order[np.isin(order, shared)]
        chosen = ranked[: min(HELD_PAGES, int(HELD_SHARE * len(ranked)))]
        part[chosen] = HELD
        held = common[first[np.searchsorted(shared, chosen)]]
    sizes = [
        np.bincount(of[:n_a], a.pages.sizes, len(names)).tolist(),
        np.bincount(of[n_a:], b.pages.sizes, len(names)).tolist(),
    ]
    loads = np.zeros((pairs, 2))
    for number in order.tolist():
        if part[number] == HELD:
            continue
        size = np.array([sizes[0][number], sizes[1][number]])
        to = int(np.argmin(loads @ size))
        part[number] = to
        loads[to] += size
        if loads.min() >= enough:
            break
    each = part[of]
    return Dealt((each[:n_a], each[n_a:]), held, len(common), pairs)


def _shuffled(labels: np.ndarray, seed: int) -> np.ndarray:
    """A hash of each label under the seed, uint64."""
    key = f"ablation {seed}".encode()
    digests = (hashlib.blake2b(label, digest_size=8, key=key).digest() for label in labels.astype(">u8")[:, None])
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


@dataclass
class HeldOut:
    """Texts of one source that both sets are compared on. `removed` counts those that were taken away, by reason."""

    name: str
    given: str
    ids: list[str]
    texts: list[str]
    drawn: int = 0
    removed: Counter[str] = field(default_factory=Counter)

    @property
    def digest(self) -> str:
        """Of ids and texts."""
        body = json.dumps([self.ids, self.texts]).encode("utf-8", "surrogatepass")
        return hashlib.sha256(body).hexdigest()[:32]


def held_of(a: Set, b: Set, dealt: Dealt, name: str = "common") -> HeldOut:
    """The held-out pages of the sets: of each the lines that both sets keep, so that neither is asked for what only the
    other has."""
    wanted = {int(key): place for place, key in enumerate(dealt.held.tolist())}
    found: list[list[tuple[str, str] | None]] = []
    for one in (a, b):
        of: list[tuple[str, str] | None] = [None] * len(wanted)
        for _, chunk in one.read():
            for row in np.flatnonzero(np.isin(chunk.keys, dealt.held)).tolist():
                place = wanted[int(chunk.keys[row])]
                if of[place] is None:
                    of[place] = (chunk.columns["id"][row].as_py(), chunk.texts[row].as_py())
        found.append(of)
    ids, texts = [], []
    for left, right in zip(*found, strict=True):
        if left is not None and right is not None:
            ids.append(left[0])
            texts.append(shared_lines(left[1], right[1]))
    return HeldOut(name, COMMON, ids, texts, len(ids))


def shared_lines(one: str, other: str) -> str:
    """The lines that two texts have in common, in their order."""
    if one == other:
        return one
    a, b = one.split("\n"), other.split("\n")
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return "\n".join(line for block in blocks for line in a[block.a : block.a + block.size])


def read_held(given: str, column: str = "text", most: int = HELD_PAGES) -> HeldOut:
    """Held-out texts of `NAME=PATH`: a folder of tokens, a finished run, Parquet, or JSONL; of many `most`, drawn by their
    ids. Raises UsageError, InputError."""
    name, sign, path = given.partition("=")
    if not sign or not name or "/" in name or not path:
        raise UsageError(f"--held-out {given}: write NAME=PATH, such as wikipedia=held/wikipedia.jsonl")
    if name == "common":
        raise UsageError("--held-out: the name common is that of the pages that both sets keep; choose another")
    ids: list[str] = []
    texts: list[str] = []
    if ".jsonl" in Path(path).name:
        read = read_texts(path, column)
        ids, texts = list(read.names), read.texts.to_pylist()
    elif not path.endswith(".parquet") and RunFolder(path).read_json("tokens.json") is not None:
        ids, texts = _decoded(path)
    else:
        for _, chunk in _chunks(find_texts([path]), column):
            ids += [
                f"{id_}-{piece}" if piece else id_
                for id_, piece in zip(chunk.columns["id"].to_pylist(), chunk.columns["piece"].to_pylist(), strict=True)
            ]
            texts += chunk.texts.to_pylist()
    drawn = len(texts)
    hashes = [hashlib.blake2b(id_.rsplit("/", 1)[-1].encode(), digest_size=8).digest() for id_ in ids]
    chosen = sorted(sorted(range(drawn), key=lambda i: (hashes[i], i))[:most])
    return HeldOut(name, path, [ids[i] for i in chosen], [texts[i] or "" for i in chosen], drawn)


def _decoded(path: str) -> tuple[list[str], list[str]]:
    """Ids and texts of a folder of tokens. Raises InputError where its tokenizer is not that of its tokens."""
    folder = RunFolder(path)
    facts = (folder.read_json("tokens.json") or {})["tokenizer"]
    tokenizer = parse(tokenizer_body(folder, facts), facts["eos_token"], path).build()
    store = TokenStore.open(path)
    ids = [
        row
        for shard in store.shards
        for row in folder.read_table(f"{shard.prefix.name}.docs.parquet", ["id"]).column("id").to_pylist()
    ]
    tokens = [store.doc(number)[:-1].tolist() for number in range(len(store))]
    return ids, tokenizer.decode_batch(tokens, skip_special_tokens=False)


class Sifted(NamedTuple):
    """What the pass over a set found: n-grams of held-out texts that stand in it, and held-out texts with a near copy."""

    grams: np.ndarray
    copies: np.ndarray


def sift(one: Set, parts: np.ndarray, held: Sequence[HeldOut], output: RunFolder, folder: str, pairs: int) -> Sifted:
    """Reads a set once: writes what each pair reads to FOLDER-PAIR.parquet, and looks for the held-out texts in all of it but
    the pages that are held out themselves."""
    texts = pa.array([text for source in held for text in source.texts], pa.large_string())
    wanted = np.unique(grams(texts)[0])
    found = [np.zeros(0, np.uint64)]
    copied = np.zeros(len(texts), bool)
    drawn: list[list[pa.Table]] = [[TEXTS.empty_table()] for _ in range(pairs)]
    for at, chunk in one.read():
        part = parts[at]
        rest = chunk.texts.filter(pa.array(part != HELD))
        if len(texts):
            here = grams(rest)[0]
            found.append(np.unique(here[np.isin(here, wanted)]))
            clusters = deduplicate(pa.concat_arrays([texts, rest]))
            copied |= np.isin(clusters.cluster[: len(texts)], _not_0(clusters.cluster[len(texts) :]))
        rows = pa.table({"id": chunk.columns["id"], "text": chunk.texts}, schema=TEXTS)
        for number in range(pairs):
            drawn[number].append(rows.filter(pa.array(part == number)))
    for number, tables in enumerate(drawn):
        output.write_table(f"{folder}-{number}.parquet", pa.concat_tables(tables))
    return Sifted(np.unique(np.concatenate(found)), np.flatnonzero(copied))


def _not_0(clusters: np.ndarray) -> np.ndarray:
    return clusters[clusters != 0]  # 0 is a text without a word


def grams(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the n-grams of GRAM words of all texts (uint64), and the text that each stands in (int64)."""
    data, offsets = utf8(texts)
    words = np.zeros(int(offsets[-1] - offsets[0]) // 2 + 2 * len(offsets), np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    words_of_texts(data, offsets, forms(), words, ends)
    # A word 0 between texts is what no gram crosses.
    n = len(texts)
    apart = np.zeros(int(ends[-1]) + n, np.uint32)
    owner = np.repeat(np.arange(n), np.diff(ends) + 1) if n else np.zeros(0, np.int64)
    inside = np.ones(len(apart), bool)
    inside[ends[1:] + np.arange(n)] = False
    apart[inside] = words[: int(ends[-1])]
    hashes, places = np.empty(len(apart), np.uint64), np.empty(len(apart), np.int64)
    count = fill_grams(apart, GRAM, hashes, places)
    return hashes[:count], owner[places[:count]]


def decontaminate(held: Sequence[HeldOut], a: Sifted, b: Sifted, names: tuple[str, str]) -> None:
    """Takes away the held-out texts that share an n-gram or are a near copy of a text in either set, those that are near
    copies of each other but one, and those without an n-gram to look for. Counts them by reason."""
    texts = pa.array([text for source in held for text in source.texts], pa.large_string())
    hashes, owner = grams(texts)
    n = len(texts)
    some = np.bincount(owner, minlength=n) > 0
    shared = [np.bincount(owner[np.isin(hashes, found.grams)], minlength=n) > 0 for found in (a, b)]
    copied = [np.isin(np.arange(n), found.copies) for found in (a, b)]
    keeper = deduplicate(texts).keeper if n else np.zeros(0, np.int64)
    place = 0
    for source in held:
        kept = []
        for number in range(len(source.texts)):
            at = place + number
            where = [_where(bool(of[0][at]), bool(of[1][at]), names) for of in (copied, shared)]
            if not some[at]:
                source.removed[f"shorter than {GRAM} words"] += 1
            elif where[0]:
                source.removed[f"near copy of a page of {where[0]}"] += 1
            elif where[1]:
                source.removed[f"{GRAM} words in a row that are in {where[1]}"] += 1
            elif keeper[at] != at:
                source.removed["near copy of another held-out text"] += 1
            else:
                kept.append(number)
        place += len(source.texts)
        source.ids = [source.ids[i] for i in kept]
        source.texts = [source.texts[i][:HELD_CHARS] for i in kept]


def _where(in_a: bool, in_b: bool, names: tuple[str, str]) -> str:
    return "both sets" if in_a and in_b else names[0] if in_a else names[1] if in_b else ""


def unique_bytes(one: Set, part: np.ndarray) -> float:
    """Share of the bytes of some pages (a mask) that are not those of a text that came before."""
    texts, sizes = one.pages.texts[part], one.pages.sizes[part]
    _, first = np.unique(texts, return_index=True)
    return float(sizes[first].sum() / max(1, sizes.sum()))


def recipe_of(given: str) -> dict[str, Any] | None:
    """Name and digest of the recipe of a run; None for Parquet files."""
    if given.endswith(".parquet") or RunFolder(given).read_json("run.json") is None:
        return None
    run = existing_run(given)
    return {"name": run.recipe.name, "digest": run.recipe.digest}


def as_table(source: HeldOut) -> pa.Table:
    """Held-out texts as a table of TEXTS."""
    return pa.table({"id": source.ids, "text": source.texts}, schema=TEXTS)


def read_back(table: pa.Table, facts: dict[str, Any]) -> HeldOut:
    """A source as it was written, with what is known of it."""
    ids, texts = (table.column(name).to_pylist() for name in ("id", "text"))
    return HeldOut(facts["name"], facts["given"], ids, texts, facts["drawn"], Counter(facts["removed"]))


def bytes_of(table: pa.Table) -> np.ndarray:
    """Bytes of each text, float64."""
    return pc.binary_length(table.column("text").combine_chunks()).to_numpy(zero_copy_only=False).astype(np.float64)
