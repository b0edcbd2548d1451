"""Lines that a host repeats on page after page, and paragraphs that stand all over a crawl: counted, then cut."""

import hashlib

import numpy as np
import pyarrow as pa

from pipeline.dedup.candidates import first_of_runs
from pipeline.dedup.normalise import Lines, lines
from pipeline.dedup.options import Dedup
from pipeline.tables import EDITS

LINES, PARAGRAPHS = 0, 1
REASONS = ("dedup.lines", "dedup.paragraphs")

OCCURRENCES = pa.schema(
    [
        ("key", pa.uint64()),  # the line, in its host and dump (or, for a paragraph, in its dump)
        ("kind", pa.uint8()),
        ("text", pa.uint64()),  # the text that it stands in
        ("address", pa.uint64()),  # the canonical address of that page
        ("n_chars", pa.int32()),  # the length of that text
        ("part", pa.int32()),
    ]
)
CUTS = pa.schema([("key", pa.uint64()), ("kind", pa.uint8()), ("keeper", pa.uint64()), ("part", pa.int32())])


def text_number(text: str, kind: str = "") -> int:
    """A 64-bit number for a short string, such as a host."""
    return int.from_bytes(hashlib.blake2b(f"{kind}\x1f{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest())


def occurrences(pages: pa.Table, dedup: Dedup, part: int) -> pa.Table:
    """Where the lines and paragraphs of one part stand (schema OCCURRENCES), no more rows of a key than deciding needs.

    `pages` has columns text, host, dump, text_hi (uint64) and address (uint64).
    """
    found, keys, kinds, _ = _keyed(pages, lines(pages.column("text").combine_chunks()), dedup)
    text, address = (pages.column(c).to_numpy()[found] for c in ("text_hi", "address"))
    n_chars = np.array([len(t) for t in pages.column("text").to_pylist()], np.int32)[found]
    columns = [keys, kinds, text, address, n_chars, np.full(len(keys), part, np.int32)]
    table = pa.table([pa.array(c) for c in columns], schema=OCCURRENCES)
    return table.take(pa.array(_needed(table, dedup)))


def repeated(found: pa.Table, dedup: Dedup) -> pa.Table:
    """Of all occurrences of some keys, those to cut (schema CUTS): one row a key and part. `keeper` is the text in which
    the paragraph stays, 0 where it stays nowhere.

    Copies are counted over different texts at different addresses, so that exact copies of a page and repeated captures
    of it do not count.
    """
    key, kind, text, address, n_chars, part = (found.column(c).to_numpy() for c in OCCURRENCES.names)
    most = np.array([_most_copies(dedup, k) for k in (LINES, PARAGRAPHS)])
    group = np.unique(key, return_inverse=True)[1]
    n_groups = int(group.max()) + 1 if len(group) else 0
    copies = np.minimum(_distinct(group, text, n_groups), _distinct(group, address, n_groups))
    kind_of = np.zeros(n_groups, np.uint8)
    kind_of[group] = kind
    over = copies > most[kind_of]
    longest = np.lexsort((text, -n_chars.astype(np.int64), group))
    first = np.unique(group[longest], return_index=True)[1]
    keeper = np.zeros(n_groups, np.uint64)
    keeper[group[longest[first]]] = text[longest[first]]
    stays = np.array([options is not None and options.keep == 1 for options in (dedup.lines, dedup.paragraphs)])
    keeper[~stays[kind_of]] = 0
    cut = over[group]
    rows = np.unique(np.column_stack([group[cut], part[cut]]), axis=0) if cut.any() else np.zeros((0, 2), np.int64)
    number = np.zeros(n_groups, np.uint64)
    number[group] = key
    columns = [number[rows[:, 0]], kind_of[rows[:, 0]], keeper[rows[:, 0]], rows[:, 1].astype(np.int32)]
    return pa.table([pa.array(c) for c in columns], schema=CUTS)


def cut_spans(pages: pa.Table, cuts: pa.Table, dedup: Dedup) -> pa.Table:
    """The spans of `pages` (as for `occurrences`, with doc_id) that `cuts` asks to cut, as EDITS in the pages' order."""
    keys = cuts.column("key").to_numpy()
    sorting = np.argsort(keys)
    keys, keepers = keys[sorting], cuts.column("keeper").to_numpy()[sorting]
    every = lines(pages.column("text").combine_chunks())
    found, wanted, kinds, which = _keyed(pages, every, dedup)
    if len(keys) == 0 or len(wanted) == 0:
        return EDITS.empty_table()
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    cut = (keys[at] == wanted) & (keepers[at] != pages.column("text_hi").to_numpy()[found])
    starts, ends = every.starts[which], every.ends[which]
    if dedup.lines is not None:
        repeated_lines = np.zeros(len(every.rows), bool)
        repeated_lines[which[cut]] = True
        short = (kinds == LINES) & (every.words[which] < dedup.lines.min_words)
        cut &= ~short | _at_an_edge(every.rows, repeated_lines)[which]
    # A line that is cut as one of its host's is not cut again as a paragraph.
    rows = np.lexsort((kinds[cut], starts[cut], found[cut]))
    row, start, end, kind = (values[cut][rows] for values in (found, starts, ends, kinds))
    fresh = first_of_runs(row, start)
    row, start, end, kind = row[fresh], start[fresh], end[fresh], kind[fresh]
    columns = [
        pages.column("doc_id").take(pa.array(row)),
        pa.array(start, pa.int32()),
        pa.array(end, pa.int32()),
        pa.array([""] * len(row), pa.string()),
        pa.DictionaryArray.from_arrays(pa.array(kind.astype(np.int8)), pa.array(REASONS)).cast(pa.string()),
    ]
    return pa.table(columns, schema=EDITS)


def _keyed(pages: pa.Table, every: Lines, dedup: Dedup) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(row of `pages`, key, kind, number in `every`) of every line and paragraph that is looked at."""
    dumps = np.array([text_number(d or "", "dump") for d in pages.column("dump").to_pylist()], np.uint64)
    # A page without a host shares its menus with nobody.
    named = zip(pages.column("host").to_pylist(), pages.column("doc_id").to_pylist(), strict=True)
    hosts = np.array([text_number(host or doc_id, "host") for host, doc_id in named], np.uint64)
    chosen = []
    for kind, options in ((LINES, dedup.lines), (PARAGRAPHS, dedup.paragraphs)):
        if options is None:
            continue
        long = np.flatnonzero(every.words >= (options.min_words if kind == PARAGRAPHS else 1))
        row = every.rows[long]
        place = dumps[row] if kind == PARAGRAPHS else dumps[row] ^ hosts[row]
        chosen.append((row, _mixed(every.keys[long], place, kind), np.full(len(row), kind, np.uint8), long))
    row, key, kinds, which = (np.concatenate(values) for values in zip(*chosen, strict=True))
    return row, key, kinds, which


def _at_an_edge(rows: np.ndarray, repeated_lines: np.ndarray) -> np.ndarray:
    """Which lines have nothing but repeated ones between them and the first or the last line of their text."""
    starts = np.flatnonzero(first_of_runs(rows))
    sizes = np.diff(np.append(starts, len(rows)))
    own = np.concatenate([[0], np.cumsum(~repeated_lines)])  # lines of its own before each line
    before = own[:-1] - np.repeat(own[starts], sizes)
    after = np.repeat(own[starts + sizes], sizes) - own[1:]
    return repeated_lines & ((before == 0) | (after == 0))


def _mixed(keys: np.ndarray, place: np.ndarray, kind: int) -> np.ndarray:
    """Hashes of (line, place, kind): the finaliser of SplitMix64 over their sum."""
    x = keys + place * np.uint64(0x9E3779B97F4A7C15) + np.uint64(kind)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _most_copies(dedup: Dedup, kind: int) -> int:
    options = dedup.lines if kind == LINES else dedup.paragraphs
    return options.max_copies if options else 2**31 - 1


def _distinct(group: np.ndarray, values: np.ndarray, n_groups: int) -> np.ndarray:
    """How many different values each group has."""
    ranked = np.lexsort((values, group))
    g, v = group[ranked], values[ranked]
    return np.bincount(g[first_of_runs(g, v)], minlength=n_groups)


def _needed(table: pa.Table, dedup: Dedup) -> np.ndarray:
    """Row numbers that settle the question as well as all rows would.

    A key that has more copies in one part than are allowed is cut whatever the other parts hold: of its rows, enough to
    prove that and the longest text are sent. So a line that stands on a million pages does not travel a million times.
    """
    key, kind, text, address, n_chars, _ = (table.column(c).to_numpy() for c in OCCURRENCES.names)
    ranked = np.lexsort((address, text, -n_chars.astype(np.int64), key))
    ranked = ranked[first_of_runs(key[ranked], text[ranked], address[ranked])]
    k, t, a, kinds = key[ranked], text[ranked], address[ranked], kind[ranked]
    # Rows that pair each text with one address and each address with one text prove as many copies as they are.
    proof = np.zeros(len(k), bool)
    proof[_first_of(k, t)] = True
    within = np.flatnonzero(proof)
    proof[:] = False
    proof[within[_first_of(k[within], a[within])]] = True
    group = np.unique(k, return_inverse=True)[1]
    so_far = np.cumsum(proof)
    n_groups = int(group.max()) + 1 if len(group) else 0
    total = np.bincount(group[proof], minlength=n_groups)
    before = np.concatenate([[0], np.cumsum(total)[:-1]]).astype(np.int64) if n_groups else np.zeros(0, np.int64)
    most = np.array([_most_copies(dedup, code) for code in (LINES, PARAGRAPHS)])[kinds] + 1
    settled = total[group] >= most
    enough = proof & (so_far - before[group] <= most)
    longest = np.zeros(len(k), bool)
    longest[_first_of(k)] = True
    return np.sort(ranked[~settled | enough | longest])


def _first_of(*keys: np.ndarray) -> np.ndarray:
    """The first row of each different combination of keys."""
    ranked = np.lexsort((np.arange(len(keys[0])), *reversed(keys)))
    return ranked[first_of_runs(*(key[ranked] for key in keys))]
