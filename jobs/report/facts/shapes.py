"""What a run's pages are: languages, hosts, dates and more before and after, clusters of duplicates, personal data."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.report.facts import Breakdown, Cluster, ClusterSize, Duplicates, Kind, Personal, Share
from jobs.report.facts.rows import Note, Rows, numbers, shown, strings
from jobs.report.facts.rules import binned
from jobs.runs import Run
from pipeline.curation import TOO_PERSONAL
from pipeline.errors import StorageError

TOP = 20
"""Values that are shown by themselves."""

MOST_DATES = 60

LARGEST = 10
"""Clusters that are shown by themselves."""

MOST_FILES = 1_000
"""Files of cut lines that are opened at most."""

_METHODS = ("url", "exact", "minhash")

_OF = {
    "languages": ("language", "records with text"),
    "hosts": ("host", "all records"),
    "domains": ("domain", "all records"),
    "topics": ("topic", "pages that were scored"),
    "media types": ("media_type", "all records"),
    "dumps": ("dump", "all records"),
    "sources": ("source", "all records"),
}


def breakdowns(rows: Rows) -> list[Breakdown]:
    """Records by each property that they have."""
    words = np.nan_to_num(numbers(rows.column("word_count_split" if "word_count_split" in rows.names else "n_words")))
    made = []
    for name, (column, among) in _OF.items():
        if column not in rows.names:
            continue
        values = rows.column(column)
        of_it = {"language": rows.has_text, "topic": values.is_valid().to_numpy()}.get(column, np.ones(rows.n, bool))
        if of_it.any():
            made.append(_breakdown(name, among, values, of_it, words, rows))
    dates = _dates(rows, words)
    return made if dates is None else [*made, dates]


def _breakdown(
    name: str, among: str, values: pa.ChunkedArray, of_it: np.ndarray, words: np.ndarray, rows: Rows
) -> Breakdown:
    encoded = _encoded(values)
    names = strings(encoded.dictionary)
    codes = encoded.indices.fill_null(len(names)).to_numpy().astype(np.int64)
    shares = _shares([*names, None], codes, of_it, words, rows)
    shares.sort(key=lambda s: (-s.before, s.value is None, s.value or ""))
    top, others = shares[:TOP], shares[TOP:]
    return Breakdown(name, among, "", top, _others(others), len(shares), rows.estimated)


def _encoded(values: pa.ChunkedArray) -> pa.DictionaryArray:
    chunk = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], pa.string())
    if pa.types.is_null(chunk.type):
        chunk = chunk.cast(pa.string())
    return chunk.dictionary_encode()


def _shares(
    names: Sequence[str | None], codes: np.ndarray, of_it: np.ndarray, words: np.ndarray, rows: Rows
) -> list[Share]:
    counts = [
        np.bincount(codes[who], None if weights is None else weights[who], len(names))
        for weights in (None, words)
        for who in (of_it, of_it & rows.kept)
    ]
    return [
        Share(shown(name), *(rows.scaled(c[i]) for c in counts)) for i, name in enumerate(names) if counts[0][i] > 0
    ]


def _others(shares: Sequence[Share]) -> Share | None:
    if not shares:
        return None
    sums = (sum(getattr(s, f) for s in shares) for f in ("before", "after", "words_before", "words_after"))
    return Share("others", *sums)


def _dates(rows: Rows, words: np.ndarray) -> Breakdown | None:
    """Records by year, month or day, as their spread calls for, in order of time; the earliest are put together where there
    are too many."""
    values = rows.column("date")
    if pa.types.is_null(values.type) or not values.is_valid().to_numpy().any():
        return None
    seconds = values.cast(pa.timestamp("s")).cast(pa.int64())
    known = seconds.drop_null().to_numpy()
    spread = float(np.quantile(known, 0.99) - np.quantile(known, 0.01)) / 86_400
    unit, digits = ("year", 4) if spread > 3 * 366 else ("month", 7) if spread > 62 else ("day", 10)
    texts = np.datetime_as_string(seconds.fill_null(0).to_numpy().astype("datetime64[s]"))
    labels = pa.chunked_array([pa.array([t[:digits] for t in texts.tolist()], pa.string())])
    encoded = _encoded(labels)
    codes = encoded.indices.to_numpy().astype(np.int64).copy()
    names: list[str | None] = [*encoded.dictionary.to_pylist(), None]
    codes[~seconds.is_valid().to_numpy()] = len(names) - 1
    shares = _shares(names, codes, np.ones(rows.n, bool), words, rows)
    shares.sort(key=lambda s: s.value or "")
    unknown = [s for s in shares if s.value is None]
    shares = [s for s in shares if s.value is not None]
    most = MOST_DATES - len(unknown)
    early, late = shares[:-most], shares[-most:]
    n = len(shares) + len(unknown)
    return Breakdown("dates", "all records", unit, [*late, *unknown], _others(early), n, rows.estimated)


def duplicates(run: Run, rows: Rows, reasons: Mapping[str, int], note: Note) -> Duplicates | None:
    """Clusters of pages, of a run that compared them. From n sampled pages of clusters of a size there are n / size such
    clusters: a page of a large one is the likelier drawn."""
    if not run.recipe.dedup.compares or "cluster_size" not in rows.names:
        return None
    column = rows.column("cluster_size")
    compared = column.is_valid().to_numpy()
    size = np.nan_to_num(numbers(column)).astype(np.int64)
    size[compared & (size < 1)] = 1
    held = size[compared]
    spectrum = []
    top = int(held.max()) if len(held) else 0
    low = 1
    while low <= top:
        high = low if low < 3 else 4 if low == 3 else 2 * (low - 1)
        inside = held[(held >= low) & (held <= high)]
        if len(inside):
            clusters = rows.scaled(float((1 / inside).sum()))
            spectrum.append(ClusterSize(low, high, max(1, clusters), rows.scaled(len(inside))))
        low = high + 1
    similarity = None
    values = numbers(rows.column("similarity"))
    removed = np.zeros(rows.n, bool)
    removed[rows.reasons.by("dedup.minhash")] = True
    at = removed & np.isfinite(values)
    if at.any():
        n = int(at.sum())
        verify = run.recipe.dedup.minhash.verify if run.recipe.dedup.minhash else None
        ends = () if verify is None else (float(verify),)
        similarity = binned(values[at], {"removed": np.ones(n, bool)}, rows, ends, int((removed & ~at).sum()), 0)
    by_method = {m: reasons.get(f"dedup.{m}", 0) for m in _METHODS if getattr(run.recipe.dedup, m) is not None}
    return Duplicates(
        rows.scaled(int(compared.sum())),
        by_method,
        spectrum,
        similarity,
        _largest(rows, size),
        _cut_lines(run, note),
        rows.estimated,
    )


def _largest(rows: Rows, size: np.ndarray) -> list[Cluster]:
    """The largest clusters that a page was drawn of."""
    clusters = rows.column("cluster")
    known = np.flatnonzero(clusters.is_valid().to_numpy() & (size > 1))
    if not len(known):
        return []
    encoded = _encoded(pa.chunked_array([pa.concat_arrays(clusters.take(pa.array(known)).chunks)]))
    codes = encoded.indices.to_numpy()
    names = strings(encoded.dictionary)
    sizes = np.zeros(len(names), np.int64)
    np.maximum.at(sizes, codes, size[known])
    chosen = sorted(range(len(names)), key=lambda i: (-sizes[i], names[i] or ""))[:LARGEST]
    members = [known[codes == i] for i in chosen]
    examples = [int(next((m for m in some if rows.kept[m]), some[0])) for some in members]
    told = rows.read(["url", "title"]).take(pa.array(examples))
    urls, titles = (strings(told.column(name)) for name in ("url", "title"))
    return [
        Cluster(
            names[i] or "",
            int(sizes[i]),
            min(int(sizes[i]), rows.scaled(int((~rows.kept[some]).sum()))),
            shown(url),
            shown(title),
        )
        for i, some, url, title in zip(chosen, members, urls, titles, strict=True)
    ]


def _cut_lines(run: Run, note: Note) -> int | None:
    """Lines that were cut; None where there are too many files to count them."""
    if not run.recipe.dedup.cuts:
        return None
    files = run.folder.list("cuts", ".parquet")
    if not files or len(files) > MOST_FILES:
        return None
    try:
        return sum(run.folder.read_table(name, ["start"]).num_rows for name in files)
    except StorageError as error:
        note("duplicates", str(error))
        return None


def personal(run: Run, rows: Rows, dropped: int) -> Personal | None:
    """Kinds of personal data in the pages that were kept, or dropped for having too much."""
    masking = run.recipe.pii
    if not masking.mask or "pii" not in rows.names:
        return None
    column = rows.column("pii")
    lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.null())
    hits: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    some = 0
    if pa.types.is_list(lists.type):
        relevant = rows.kept.copy()
        relevant[rows.reasons.by(TOO_PERSONAL)] = True
        parents = pc.list_parent_indices(lists).to_numpy()
        kinds = np.array(strings(pc.struct_field(pc.list_flatten(lists), "kind")), object)
        mine = relevant[parents] if len(parents) else np.zeros(0, bool)
        hits.update(kinds[mine].tolist())
        pages.update(kind for _, kind in set(zip(parents[mine].tolist(), kinds[mine].tolist(), strict=True)))
        some = len(np.unique(parents[mine]))
    every = [*masking.mask, *sorted(set(hits) - set(masking.mask))]
    made = [Kind(kind, rows.scaled(hits[kind]), rows.scaled(pages[kind])) for kind in every]
    return Personal(list(masking.mask), masking.how, masking.max_hits, made, rows.scaled(some), dropped, rows.estimated)
