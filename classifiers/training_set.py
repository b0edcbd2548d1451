"""Training sets: which pages of a crawl are examples of what is looked for, which are its background, and which are held out.

Positives are pages that somebody pointed at (Wikipedia's references, or any list of addresses) or texts of files; negatives
are random pages of the same crawl, through the same extraction and rules. What is chosen is a function of the pages, the
references and the options: never of the order in which they come. Numbers of addresses, hosts and domains are 64 bits of a
hash, so that the references of all Wikipedias fit in the memory of a task.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from classifiers.references import TABLE, citation_of
from pipeline.dedup.addresses import canonical_url
from pipeline.dedup.candidates import first_of_runs
from pipeline.dedup.local import deduplicate
from pipeline.dedup.normalise import text_hashes
from pipeline.dedup.repeats import text_number
from pipeline.errors import InputError
from pipeline.options import Options, Share
from pipeline.signals.base import field

TRAIN, TEST = "train", "test"
CRAWL = "crawl"
"""Source of examples that are pages of the run."""

EXAMPLES = pa.schema(
    [
        field("doc_id", pa.string(), "page of the run; of a text from a file, a hash of the text", "hex"),
        field("label", pa.string(), "what it is an example of"),
        field("split", pa.string(), f"{TRAIN} or {TEST}; null until it is split"),
        field("group", pa.string(), "what stays on one side: registered domain, else host, else what the file says"),
        field("source", pa.string(), f"{CRAWL}, or the name that the file of the text was given under"),
        field("url", pa.string(), "address of the page"),
        field("host", pa.string(), "host name in lower case, without port"),
        field("language", pa.string(), "most likely language", "ISO 639 code of lid.176"),
        field("n_words", pa.int32(), "white-space separated words of text"),
        field("text", pa.string(), "text as extracted"),
    ]
)

LISTING = pa.schema(
    [
        field("url", pa.string(), "address to fetch"),
        field("canonical", pa.string(), "its canonical form, on which crawls are joined"),
        field("warc_filename", pa.string(), "archive that holds it; null where the index names none"),
        field("warc_record_offset", pa.int64(), "where its record starts there", "bytes"),
        field("warc_record_length", pa.int64(), "length of its record there", "bytes"),
    ]
)
"""Addresses to fetch, with the column names of Common Crawl's index."""


class TrainingSetOptions(Options):
    """How a training set is made.

    `match`: what of a page must be referenced for it to be a positive: its `url`, or only its `host` or registered
    `domain`, which give many more positives of which many were never cited. `negatives`: random pages for each positive.
    `per_domain`: examples of one label from one registered domain at most. `lengths`: words at which the bins begin within
    which both labels have the same mix. `near`: similarity from which a text repeats another, null for equal texts only.
    `held_out`: share of the domains that is not trained on. `most`: positives at most.
    """

    match: Literal["url", "host", "domain"] = "url"
    positive: Annotated[str, Field(pattern=r"^\S+$")] = "reference"
    negative: Annotated[str, Field(pattern=r"^\S+$")] = "random"
    negatives: float = Field(default=1.0, gt=0, le=100)
    per_domain: int = Field(default=100, ge=1)
    min_words: int = Field(default=50, ge=1)
    lengths: tuple[int, ...] = (100, 200, 400, 800, 1600, 3200, 6400)
    near: Share | None = 0.75
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    most: int = Field(default=200_000, ge=1)
    seed: int = Field(default=1, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _possible(self) -> "TrainingSetOptions":
        if self.positive == self.negative:
            raise ValueError(f"positives and negatives are both called {self.positive!r}")
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError("lengths rise")
        return self


class References(NamedTuple):
    """What is referenced: sorted uint64 numbers of canonical addresses, hosts and registered domains."""

    urls: np.ndarray
    hosts: np.ndarray
    domains: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "References":
        """Of a table with columns canonical, host and domain; a null is no reference. Raises InputError without them."""
        lacking = [name for name in ("canonical", "host", "domain") if name not in table.column_names]
        if lacking:
            raise InputError(f"references have no column {', '.join(lacking)}")
        return cls(*(np.unique(_numbers(table.column(name), name)) for name in ("canonical", "host", "domain")))

    def by(self, match: str) -> np.ndarray:
        """The numbers that pages are matched with."""
        return {"url": self.urls, "host": self.hosts, "domain": self.domains}[match]


class TrainingSet(NamedTuple):
    """`examples` (schema EXAMPLES, by doc_id) and how they came about: counts by step, as a dict for JSON."""

    examples: pa.Table
    account: dict[str, Any]

    def part(self, split: str) -> pa.Table:
        """The examples of one side."""
        return self.examples.filter(pc.equal(self.examples.column("split"), split))


def reference_table(urls: Sequence[str]) -> pa.Table:
    """Addresses as a table of references (canonical, url, host, domain), each canonical address once, in its order.

    As `classifiers.references` has them: archived copies stand for what they are copies of, and what is no address on the
    web, or one of Wikimedia's, is left out.
    """
    found: dict[str, tuple[str | None, ...]] = {}
    for url in sorted(set(urls)):
        cited = citation_of(url, TABLE, "")
        if cited is not None:
            found.setdefault(cited.canonical, (cited.url, cited.host, cited.domain))
    rows = [(canonical, *rest) for canonical, rest in sorted(found.items())]
    columns: list[Sequence[Any]] = [*zip(*rows, strict=True)] if rows else [(), (), (), ()]
    names = ("canonical", "url", "host", "domain")
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})


def _numbers(values: pa.Array | pa.ChunkedArray, kind: str) -> np.ndarray:
    found = [text_number(value, kind) for value in values.to_pylist() if value is not None]
    return np.array(found, np.uint64)


def matched(pages: pa.Table, references: References, match: str = "url") -> np.ndarray:
    """bool: which pages (columns url, host, domain) are referenced."""
    if match == "url":
        kind = "canonical"
        keys = [None if url is None else canonical_url(url) for url in pages.column("url").to_pylist()]
    else:
        kind = match
        keys = pages.column(match).to_pylist()
    wanted = references.by(match)
    numbers = np.array([0 if key is None else text_number(key, kind) for key in keys], np.uint64)
    there = np.array([key is not None for key in keys], bool)
    return there & _among(numbers, wanted)


def _among(numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which numbers stand in `wanted`, which is sorted and may be a mapped file of gigabytes."""
    if len(wanted) == 0 or len(numbers) == 0:
        return np.zeros(len(numbers), bool)
    at = np.minimum(np.searchsorted(wanted, numbers), len(wanted) - 1)
    return np.asarray(wanted[at] == numbers)


def candidates(
    documents: pa.Table,
    references: References,
    options: TrainingSetOptions,
    *,
    positives: float = 1.0,
    negatives: float = 1.0,
) -> pa.Table:
    """The pages of one part that may become examples (schema EXAMPLES, split null), in the order of `documents`.

    `documents`: doc_id, url, host, domain, language, text of the pages that gates and rules keep. `positives` and
    `negatives` are the shares of referenced and of other pages that are looked at, by a hash of doc_id: what a large crawl
    holds too many of need not be read twice.
    """
    referenced = matched(documents, references, options.match)
    n_words = _word_counts(documents.column("text"))
    draw = _draws(documents.column("doc_id"), "draw", options.seed)
    wanted = (n_words >= options.min_words) & (draw < np.where(referenced, positives, negatives))
    chosen = documents.filter(pa.array(wanted))
    labels = np.where(referenced, options.positive, options.negative)[wanted]
    urls, hosts, domains, ids = (chosen.column(c).to_pylist() for c in ("url", "host", "domain", "doc_id"))
    n = chosen.num_rows
    columns = {
        "doc_id": ids,
        "label": labels.tolist(),
        "split": [None] * n,
        "group": [d or h or i for d, h, i in zip(domains, hosts, ids, strict=True)],
        "source": [CRAWL] * n,
        "url": urls,
        "host": hosts,
        "language": chosen.column("language"),
        "n_words": n_words[wanted],
        "text": chosen.column("text"),
    }
    return _table(columns)


def texts_as_examples(
    texts: Sequence[str],
    label: str,
    source: str,
    *,
    groups: Sequence[str | None] | None = None,
    language: str | None = None,
    piece_words: int | None = None,
) -> pa.Table:
    """Texts of files as examples (schema EXAMPLES, split null).

    `groups` are what stays on one side of the split (authors, sites, books); without them every text is its own. With
    `piece_words` a text is cut, at line ends where it can be, in pieces of about so many words: books are to be like pages.
    """
    rows: list[tuple[str, str]] = []
    given = groups or [None] * len(texts)
    if len(given) != len(texts):
        raise InputError(f"{len(texts)} texts have {len(given)} groups")
    for text, group in zip(texts, given, strict=True):
        named = f"{source}:{group}" if group is not None else f"{source}:{text_number(text, 'text'):016x}"
        rows += [(named, piece) for piece in (pieces(text, piece_words) if piece_words else [text])]
    bodies = pa.array([text for _, text in rows], pa.string())
    hashes = text_hashes(bodies)
    n = len(rows)
    return _table(
        {
            "doc_id": [f"{hi:016x}{lo:016x}" for hi, lo in hashes.tolist()],
            "label": [label] * n,
            "split": [None] * n,
            "group": [group for group, _ in rows],
            "source": [source] * n,
            "url": [None] * n,
            "host": [None] * n,
            "language": [language] * n,
            "n_words": _word_counts(bodies),
            "text": bodies,
        }
    )


def pieces(text: str, n_words: int) -> list[str]:
    """A text in pieces of `n_words` words or a little more: ends are line ends, or the space where a line is as long as a
    piece. A rest of less than half a piece belongs to the last."""
    found: list[str] = []
    held: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        for part in _portions(line, n_words):
            held.append(part)
            size += len(part.split())
            if size >= n_words:
                found.append("".join(held))
                held, size = [], 0
    if held:
        rest = "".join(held)
        if found and size < n_words / 2:
            found[-1] += rest
        else:
            found.append(rest)
    return [piece.strip() for piece in found if piece.strip()]


def _portions(line: str, n_words: int) -> list[str]:
    words = line.split()
    if len(words) <= n_words:
        return [line]
    return [" ".join(words[i : i + n_words]) + " " for i in range(0, len(words), n_words)]


def build(
    examples: pa.Table, options: TrainingSetOptions, *, report: Callable[[str], None] | None = None
) -> TrainingSet:
    """The training set of all candidates: each text once, capped by domain, split by domain, of equal lengths.

    In this order. Of texts that repeat each other a positive is kept before a negative. Within a bin of lengths and a side
    of the split, negatives stand to positives as options.negatives says, so a bin that is short of one of them gives up
    some of the other. Raises InputError where one of the labels has no example left.
    """
    account: dict[str, Any] = {"candidates": _by_label(examples)}

    def note(step: str, table: pa.Table) -> pa.Table:
        account[step] = _by_label(table)
        if report:
            report(f"{step}: {account[step]}")
        return table

    unknown = set(account["candidates"]) - {options.positive, options.negative}
    if unknown:
        raise InputError(f"examples have the labels {', '.join(sorted(unknown))}, which the options do not name")
    table = examples.filter(pc.greater_equal(examples.column("n_words"), options.min_words))
    table = note("long_enough", table.sort_by([("doc_id", "ascending"), ("label", "ascending")]))
    table = note("distinct", distinct(table, options.near, first=options.positive))
    table = note("capped", capped(table, options.per_domain, options.seed))
    table = with_split(table, options.held_out, options.seed)
    table = note("matched", length_matched(table, options))
    for split in (TRAIN, TEST):
        side = table.filter(pc.equal(table.column("split"), split))
        account[split] = {**_by_label(side), "groups": pc.count_distinct(side.column("group")).as_py()}
        for label in (options.positive, options.negative):
            if label not in account[split]:
                steps = "; ".join(f"{step} {counts}" for step, counts in account.items())
                raise InputError(f"no {label!r} examples are left for {split}: {steps}")
    account["sources"] = dict(sorted(Counter(table.column("source").to_pylist()).items()))
    return TrainingSet(table.sort_by("doc_id"), account)


def distinct(examples: pa.Table, near: float | None, first: str | None = None) -> pa.Table:
    """The examples without those whose text repeats another, exactly after normalisation or by `near` similarity (Jaccard,
    word 5-grams). Of repeats one with label `first` is kept; otherwise hashes of the texts decide. The order stays."""
    examples = examples.sort_by([("doc_id", "ascending"), ("label", "ascending")])
    rank = np.array([label != first for label in examples.column("label").to_pylist()], float)
    if near is not None:
        return examples.take(pa.array(deduplicate(examples.column("text"), similarity=near, order=rank).kept))
    hashes = text_hashes(examples.column("text"))
    ranked = np.lexsort((rank, hashes[:, 1], hashes[:, 0]))
    kept = ranked[first_of_runs(hashes[ranked, 0], hashes[ranked, 1])]
    return examples.take(pa.array(np.sort(kept)))


def capped(examples: pa.Table, per_group: int, seed: int = 1) -> pa.Table:
    """At most `per_group` examples of a label from one group, those with the smallest hash of doc_id. The order stays."""
    order = _draws(examples.column("doc_id"), "cap", seed)
    groups = np.array([*zip(examples.column("label").to_pylist(), examples.column("group").to_pylist(), strict=True)])
    if len(groups) == 0:
        return examples
    _, number = np.unique(groups, axis=0, return_inverse=True)
    return examples.take(pa.array(np.sort(_first_in_each(number.ravel(), order, np.full(len(order), per_group)))))


def with_split(examples: pa.Table, held_out: float, seed: int = 1) -> pa.Table:
    """The examples with their side of the split: a group is in TEST with the chance `held_out`, by a hash of its name."""
    side = {g: text_number(g, f"split:{seed}") / 2**64 < held_out for g in set(examples.column("group").to_pylist())}
    column = [TEST if side[g] else TRAIN for g in examples.column("group").to_pylist()]
    at = examples.schema.get_field_index("split")
    return examples.set_column(at, EXAMPLES.field("split"), pa.array(column, pa.string()))


def length_matched(examples: pa.Table, options: TrainingSetOptions) -> pa.Table:
    """As many negatives for each positive in every bin of lengths, on both sides of the split."""
    positive = np.array([label == options.positive for label in examples.column("label").to_pylist()], bool)
    test = np.array([split == TEST for split in examples.column("split").to_pylist()], bool)
    bins = np.searchsorted(options.lengths, examples.column("n_words").to_numpy(), "right")
    cell = bins * 2 + test
    n_cells = (len(options.lengths) + 1) * 2
    n_positive = np.bincount(cell[positive], minlength=n_cells)
    n_negative = np.bincount(cell[~positive], minlength=n_cells)
    share = min(1.0, options.most / max(1, n_positive.sum()))
    kept_positive = np.minimum((n_positive * share).astype(int), (n_negative / options.negatives).astype(int))
    kept_negative = np.minimum(n_negative, np.round(kept_positive * options.negatives).astype(int))
    order = _draws(examples.column("doc_id"), "match", options.seed)
    number = cell * 2 + positive
    quota = np.column_stack((kept_negative, kept_positive)).ravel()[number]
    return examples.take(pa.array(np.sort(_first_in_each(number, order, quota))))


def _first_in_each(group: np.ndarray, order: np.ndarray, quota: np.ndarray) -> np.ndarray:
    """Rows whose place by `order` in their group is below the group's quota (one number a row)."""
    ranked = np.lexsort((order, group))
    if len(ranked) == 0:
        return ranked
    starts = np.flatnonzero(np.r_[True, group[ranked][1:] != group[ranked][:-1]])
    sizes = np.diff(np.r_[starts, len(ranked)])
    place = np.arange(len(ranked)) - np.repeat(starts, sizes)
    return ranked[place < quota[ranked]]


def held(records: pa.Table, references: References) -> np.ndarray:
    """uint64, sorted: the numbers of the referenced addresses that a part of a crawl (column url) holds."""
    keys = {canonical_url(url) for url in records.column("url").to_pylist() if url is not None}
    numbers = np.array([text_number(key, "canonical") for key in sorted(keys)], np.uint64)
    return np.unique(numbers[_among(numbers, references.urls)])


def missing(references: pa.Table, found: np.ndarray, index: pa.Table | None = None) -> pa.Table:
    """What to fetch: the references (columns canonical, url) that are not among the numbers `found`, as `held` gives them.

    Schema LISTING, in the order of canonical. `index`: rows of a crawl's index (url, warc_filename, warc_record_offset,
    warc_record_length and perhaps fetch_time) that say where an address lies; of several captures the newest is named, or
    without times that of the last archive by name.
    """
    numbers = np.array([text_number(c, "canonical") for c in references.column("canonical").to_pylist()], np.uint64)
    wanted = references.filter(pa.array(~np.isin(numbers, found))).sort_by("canonical")
    places = _places(index, set(wanted.column("canonical").to_pylist())) if index is not None else {}
    rows = [
        (url, canonical, *places.get(canonical, (None, None, None)))
        for url, canonical in zip(*(wanted.column(c).to_pylist() for c in ("url", "canonical")), strict=True)
    ]
    columns: list[Sequence[Any]] = [*zip(*rows, strict=True)] if rows else [()] * len(LISTING)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LISTING, strict=True)], schema=LISTING)


def _places(index: pa.Table, wanted: set[str]) -> dict[str, tuple[str, int, int]]:
    needed = ["url", *LISTING.names[2:]]
    lacking = [name for name in needed if name not in index.column_names]
    if lacking:
        raise InputError(f"the index has no column {', '.join(lacking)}")
    columns = [index.column(name).to_pylist() for name in needed]
    has_times = "fetch_time" in index.column_names
    times = index.column("fetch_time").cast(pa.string()).to_pylist() if has_times else [""] * index.num_rows
    best: dict[str, tuple[str, str, int, int]] = {}
    for url, name, offset, length, time in zip(*columns, times, strict=True):
        if url is None or name is None:
            continue
        canonical = canonical_url(url)
        if canonical in wanted:
            capture = (time or "", name, offset, length)
            best[canonical] = max(best.get(canonical, capture), capture)
    return {canonical: capture[1:] for canonical, capture in best.items()}


def _draws(ids: pa.Array | pa.ChunkedArray, kind: str, seed: int) -> np.ndarray:
    """float64 from 0 to 1 for each id, by a hash."""
    return np.array([text_number(i, f"{kind}:{seed}") / 2**64 for i in ids.to_pylist()], np.float64)


def _word_counts(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.array([len(text.split()) if text else 0 for text in texts.to_pylist()], np.int32)


def _by_label(table: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(table.column("label").to_pylist()).items()))


def _table(columns: dict[str, Any]) -> pa.Table:
    arrays = []
    for column in EXAMPLES:
        values = columns[column.name]
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        arrays.append(values.cast(column.type) if isinstance(values, pa.Array) else pa.array(values, column.type))
    return pa.table(arrays, schema=EXAMPLES)
