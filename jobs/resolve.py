"""Compares what a band index holds: addresses, equal texts, near-duplicates, and which page is kept of each group.

Everything here is a function of the set of pages in the index, so that adding crawls one by one comes to the same as
adding them at once. Only ids, hashes and sketches move between tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.band_index import BandIndex, Unit, folder_name
from jobs.components import connected_components
from jobs.exchange import Hop, Parcel, Received, by_bucket
from jobs.store import RunFolder
from pipeline.dedup.candidates import candidate_pairs, distinct_pairs, first_of_runs, in_group, ranges
from pipeline.dedup.minhash import estimated_similarity, ngram_similarity
from pipeline.dedup.options import Dedup
from pipeline.dedup.survivors import ENTRIES, best_of, column, hex_ids, once
from pipeline.recipe import Recipe
from pipeline.tables import DUPLICATES

WORK = "dedup/work"
"""Where intermediate files of a resolution lie in the run folder; removed at its end."""

PAIRS_AT_ONCE = 1 << 16
"""Pairs of signatures laid side by side at a time: 60 MB."""

LIVE, BY_ADDRESS, BY_TEXT = 0, 1, 2
"""What became of a page before near-duplicates are looked for."""

_LIVE = pa.schema(
    [
        *ENTRIES,
        ("unit", pa.int32()),
        ("fate", pa.uint8()),
        *((f"{method}_{half}", pa.uint64()) for method in ("url", "exact") for half in ("hi", "lo")),
        ("url_size", pa.int32()),
        ("exact_size", pa.int32()),
    ]
)
_NO_PAIRS = pa.table({name: pa.array([], pa.uint64()) for name in ("a", "b")} | {"group": pa.array([], pa.int32())})
_NO_EDGES = pa.table(
    {name: pa.array([], pa.uint64()) for name in ("a", "b")} | {"similarity": pa.array([], pa.float32())}
)


def groups(dumps: Sequence[str], scope: str | int) -> dict[str, str]:
    """The group of each dump under a scope, named after its first dump; the empty name where there is one for all."""
    named = sorted(set(dumps))
    if scope == "global":
        return dict.fromkeys(named, "")
    width = 1 if scope == "dump" else int(scope)
    return {dump: named[i - i % width] for i, dump in enumerate(named)}


def related(dumps: Sequence[str], own: Sequence[str], dedup: Dedup) -> list[str]:
    """The dumps whose comparison can change when `own` are added or removed, and those that they are compared with."""
    scopes = [method.scope for method in (dedup.url, dedup.exact, dedup.minhash) if method]
    named = sorted(set(dumps) | set(own))
    reached = set(own)
    while True:
        wider = set(reached)
        for scope in scopes:
            group = groups(named, scope)
            wider |= {dump for dump in named if group[dump] in {group[known] for known in reached}}
            if isinstance(scope, int):
                # Windows are counted off from the first dump: from that of the change on, all of them shift.
                wider |= {dump for dump in named if dump >= min(group[known] for known in reached)}
        if wider == reached:
            return sorted(reached)
        reached = wider


@dataclass(frozen=True)
class Resolution:
    """What tasks need to compare the pages of an index; the methods are what they do."""

    index: BandIndex
    output: str
    recipe: Recipe
    units: tuple[Unit, ...]
    own: tuple[int, ...]
    parts: tuple[str, ...]
    url_group: tuple[int, ...]
    exact_group: tuple[int, ...]
    minhash_group: tuple[str, ...]
    shared: bool

    @classmethod
    def of(
        cls,
        index: BandIndex,
        own: Sequence[Unit],
        output: str,
        recipe: Recipe,
        parts: Sequence[str] = (),
        shared: bool = False,
        wanted: Sequence[str] = (),
    ) -> "Resolution":
        """The comparison of the units `own`, and of the dumps `wanted`, with all that the index holds in their scopes.

        The rows of `own` are written beside the `parts` that they came from, in `output`; those of all that was compared
        into the index where it is `shared`.
        """
        dedup = recipe.dedup
        every = index.units()
        dumps = [unit.dump for unit in every]
        reached = related(dumps, [*(unit.dump for unit in own), *wanted], dedup)
        units = tuple(unit for unit in every if unit.dump in reached)
        url, exact, minhash = (
            groups(dumps, method.scope if method else "dump") for method in (dedup.url, dedup.exact, dedup.minhash)
        )
        numbers = {name: i for i, name in enumerate(sorted(set(dumps) | {""}))}
        return cls(
            index,
            output,
            recipe,
            units,
            tuple(i for i, unit in enumerate(units) if unit in set(own)),
            tuple(parts),
            tuple(numbers[url[unit.dump]] for unit in units),
            tuple(numbers[exact[unit.dump]] for unit in units),
            tuple(minhash[unit.dump] for unit in units),
            shared,
        )

    @property
    def n_shards(self) -> int:
        """Shards of the index, of texts as of keys."""
        return self.index.n_shards

    @property
    def folder(self) -> RunFolder:
        """Where intermediate files and the result go."""
        return RunFolder(self.output)

    @property
    def dumps(self) -> list[str]:
        """The dumps that are compared."""
        return sorted({unit.dump for unit in self.units})

    # Addresses, then equal texts. An older capture goes first, so that no page is ever dropped in favour of one that is
    # itself an outdated capture.

    def pages(self, shard: int) -> pa.Table:
        """All pages of a shard of texts, in an order of their own."""
        tables = []
        for number, unit in enumerate(self.units):
            rows = self.index.read(unit, "pages", shard)
            tables.append(rows.append_column("unit", pa.array(np.full(rows.num_rows, number, np.int32))))
        return pa.concat_tables(tables).combine_chunks()

    def send_pages(self, shard: int) -> Iterator[Parcel]:
        """Pages to the bucket of their address."""
        pages = self.pages(shard)
        yield from by_bucket(pages, ranges(pages.column("address").to_numpy(), self.n_shards), "pages")

    def newest(self, bucket: int, received: Received) -> Iterator[Parcel]:
        """The newest capture of each address, back to the shard of each text."""
        if "pages" in received:
            pages = self._by_address(received["pages"])
            yield from by_bucket(pages, ranges(pages.column("text_hi").to_numpy(), self.n_shards), "pages")

    def _by_address(self, pages: pa.Table) -> pa.Table:
        unique, stands = once(pages)
        group = np.array(self.url_group)[column(unique, "unit")]
        best = best_of([group, column(unique, "address")], unique, ("newest", *self.recipe.dedup.prefer))
        return _with_keeper(pages, "url", unique, best.keeper, best.size, stands)

    def alone(self, shard: int) -> Iterator[Parcel]:
        """Where addresses are not compared: every page is the capture that counts."""
        self.write_live(shard, {"pages": self._each_its_own(self.pages(shard), "url")})
        return iter(())

    def write_live(self, shard: int, received: Received) -> None:
        """The best page of each text, among the captures that count."""
        pages = received.get("pages")
        if pages is None:
            self._write("live", shard, _LIVE.empty_table())
            return
        doc = (column(pages, "doc_hi"), column(pages, "doc_lo"))
        outdated = (doc[0] != column(pages, "url_hi")) | (doc[1] != column(pages, "url_lo"))
        fate = np.where(outdated, BY_ADDRESS, LIVE).astype(np.uint8)
        pages = self._each_its_own(pages, "exact")
        if self.recipe.dedup.exact is not None:
            current = np.flatnonzero(~outdated)
            chosen = pages.take(pa.array(current))
            unique, stands = once(chosen)
            group = np.array(self.exact_group)[column(unique, "unit")]
            best = best_of(
                [group, column(unique, "text_hi"), column(unique, "text_lo")], unique, self.recipe.dedup.prefer
            )
            chosen = _with_keeper(chosen, "exact", unique, best.keeper, best.size, stands)
            for name in ("exact_hi", "exact_lo", "exact_size"):
                values = column(pages, name).copy()
                values[current] = column(chosen, name)
                pages = _put(pages, name, values)
            copy = (doc[0] != column(pages, "exact_hi")) | (doc[1] != column(pages, "exact_lo"))
            fate[copy & ~outdated] = BY_TEXT
        pages = _put(pages, "fate", fate).select(_LIVE.names).cast(_LIVE)
        self._write(
            "live", shard, pages.sort_by([(n, "ascending") for n in ("text_hi", "doc_hi", "doc_lo", "unit", "part")])
        )

    @staticmethod
    def _each_its_own(pages: pa.Table, method: str) -> pa.Table:
        pages = _put(pages, f"{method}_hi", column(pages, "doc_hi"))
        pages = _put(pages, f"{method}_lo", column(pages, "doc_lo"))
        return _put(pages, f"{method}_size", np.ones(pages.num_rows, np.int32))

    # Near-duplicates: candidates from the bands, verified where the sketches lie.

    def candidates(self, shard: int) -> Iterator[Parcel]:
        """Pairs of texts that share a key of this shard, to the shard of their smaller node."""
        for name in sorted(set(self.minhash_group)):
            members = [i for i, group in enumerate(self.minhash_group) if group == name]
            bands = pa.concat_tables([self.index.read(self.units[i], "bands", shard) for i in members])
            a, b = candidate_pairs(bands.column("key").to_numpy(), bands.column("node").to_numpy())
            number = np.full(len(a), members[0], np.int32)
            pairs = pa.table({"a": a, "b": b, "group": number})
            yield from by_bucket(pairs, ranges(a, self.n_shards), "pairs")

    def first_ends(self, shard: int, received: Received) -> Iterator[Parcel]:
        """Each pair once, with the sketch of its smaller node, to the shard of the other."""
        pairs = self._alive(shard, _distinct(received.get("pairs", _NO_PAIRS)), "a")
        if pairs.num_rows == 0:
            return
        a, bucket = column(pairs, "a"), ranges(column(pairs, "b"), self.n_shards)
        yield from by_bucket(pairs, bucket, "pairs")
        if self._verifies:
            sketches = self._sketches(shard, np.unique(a))
            for target in np.unique(bucket):
                wanted = np.unique(a[bucket == target])
                yield (
                    int(target),
                    "sketches",
                    sketches.take(pa.array(np.searchsorted(column(sketches, "node"), wanted))),
                )

    def verify(self, shard: int, received: Received) -> None:
        """Writes the edges between texts that are as similar as the recipe asks."""
        pairs = self._alive(shard, received.get("pairs", _NO_PAIRS), "b")
        edges = _NO_EDGES
        if pairs.num_rows:
            pairs = pairs.sort_by([("group", "ascending"), ("a", "ascending"), ("b", "ascending")])
            a, b, group = (column(pairs, name) for name in ("a", "b", "group"))
            similarity = np.full(len(a), np.nan, np.float32)
            if self._verifies:
                similarity = self._similarity(
                    received["sketches"].sort_by("node").combine_chunks(), a, self._sketches(shard, np.unique(b)), b
                )
                near = similarity >= np.float32(self.recipe.dedup.minhash.verify)  # type: ignore[union-attr]
                a, b, group, similarity = a[near], b[near], group[near], similarity[near]
            edges = pa.table({"a": self._node(a, group), "b": self._node(b, group), "similarity": similarity})
        self._write("edges", shard, edges)

    @property
    def _verifies(self) -> bool:
        return self.recipe.dedup.minhash is not None and self.recipe.dedup.minhash.verify is not None

    def _alive(self, shard: int, pairs: pa.Table, end: str) -> pa.Table:
        """The pairs whose text at `end`, which lies in this shard, is the text of a page that counts in the group."""
        if pairs.num_rows == 0:
            return pairs
        live = self._read("live", shard, ["text_hi", "unit", "fate"])
        counts = live.filter(pa.array(column(live, "fate") == LIVE))
        known = np.unique(self._node(column(counts, "text_hi"), column(counts, "unit")))
        nodes = self._node(column(pairs, end), column(pairs, "group"))
        return pairs.filter(pa.array(np.isin(nodes, known)))

    def _node(self, texts: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """The nodes of texts within the groups of units: `unit` is any unit of the group."""
        nodes = texts.copy()
        for number in np.unique(unit):
            rows = unit == number
            nodes[rows] = in_group(texts[rows], self.minhash_group[number])
        return nodes

    def _sketches(self, shard: int, nodes: np.ndarray) -> pa.Table:
        """Sketches of texts of this shard, which may lie in several units; sorted by node."""
        by = self._measure
        tables = []
        for unit in self.units:
            tables.append(self.index.read_texts(unit, shard, nodes, ["text_hi", "text_lo", by]))
        rows = pa.concat_tables(tables).combine_chunks()
        hi = column(rows, "text_hi")
        ranked = np.lexsort((column(rows, "text_lo"), hi))
        return (
            rows.take(pa.array(ranked[first_of_runs(hi[ranked])])).select(["text_hi", by]).rename_columns(["node", by])
        )

    @property
    def _measure(self) -> str:
        minhash = self.recipe.dedup.minhash
        return "ngrams" if minhash is not None and minhash.by == "ngrams" else "signature"

    def _similarity(self, left: pa.Table, a: np.ndarray, right: pa.Table, b: np.ndarray) -> np.ndarray:
        """Similarity of the text of each a, sketched in `left`, and of each b, sketched in `right`."""
        places = (np.searchsorted(column(left, "node"), a), np.searchsorted(column(right, "node"), b))
        one, other = (sketches.column(self._measure).combine_chunks() for sketches in (left, right))
        if self._measure == "ngrams":
            # The sets stay where they are: there may be far more pairs than texts.
            sets = (one.values.to_numpy(), one.offsets.to_numpy(), other.values.to_numpy(), other.offsets.to_numpy())
            return ngram_similarity(*sets, places)
        signatures = (_matrix(one), _matrix(other))
        found = np.empty(len(a), np.float32)
        for start in range(0, len(a), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            found[some] = estimated_similarity(signatures[0][places[0][some]], signatures[1][places[1][some]])
        return found

    # Clusters: the best page of each, and what every page is to it.

    def bests(self, shard: int) -> Iterator[Parcel]:
        """Of each cluster the best page of this shard, with counts, to the shard of the cluster's label."""
        rows, label = self._labelled(shard)
        live = np.flatnonzero((column(rows, "fate") == LIVE) & _is_label(label))
        if len(live) == 0:
            return
        chosen, own = rows.take(pa.array(live)), label[live]
        unique, stands = once(chosen)
        first = np.zeros(unique.num_rows, np.int64)
        first[stands] = np.arange(len(stands))
        cluster = own[first]
        best = best_of([cluster], unique, self.recipe.dedup.prefer)
        weight = column(unique, "exact_size").astype(np.int64)
        keepers, inverse = np.unique(best.keeper, return_inverse=True)
        table = unique.take(pa.array(keepers)).append_column("label", pa.array(cluster[keepers]))
        table = table.append_column("size", pa.array(np.bincount(inverse, weights=weight).astype(np.int64)))
        table = table.append_column("from", pa.array(np.full(len(keepers), shard, np.int32)))
        yield from by_bucket(table, ranges(cluster[keepers], self.n_shards), "bests")

    def keepers(self, bucket: int, received: Received) -> Iterator[Parcel]:
        """Of each cluster the best page of all, to the shard where its text is sketched."""
        if "bests" not in received:
            return
        bests = received["bests"]
        label = column(bests, "label")
        best = best_of([label], bests, self.recipe.dedup.prefer)
        size = np.zeros(bests.num_rows, np.int64)
        np.add.at(size, best.keeper, column(bests, "size"))
        wanted = pa.array(best.keeper)
        table = pa.table(
            {
                "label": label,
                "from": bests.column("from"),
                "keeper_hi": bests.column("doc_hi").take(wanted),
                "keeper_lo": bests.column("doc_lo").take(wanted),
                "node": bests.column("text_hi").take(wanted),
                "size": size[best.keeper],
            }
        )
        yield from by_bucket(table, ranges(column(table, "node"), self.n_shards), "clusters")

    def with_sketch(self, shard: int, received: Received) -> Iterator[Parcel]:
        """Each cluster's keeper and its sketch, to every shard that holds a member."""
        if "clusters" not in received:
            return
        clusters = received["clusters"]
        target, node = column(clusters, "from"), column(clusters, "node")
        yield from by_bucket(clusters, target, "clusters")
        sketches = self._sketches(shard, np.unique(node))
        for bucket in np.unique(target):
            wanted = np.unique(node[target == bucket])
            yield int(bucket), "sketches", sketches.take(pa.array(np.searchsorted(column(sketches, "node"), wanted)))

    def verdicts(self, shard: int, received: Received) -> Iterator[Parcel]:
        """Every page of a shard with its clusters, to the part that it came from and to the index."""
        rows, label = self._labelled(shard)
        n = rows.num_rows
        doc_hi, doc_lo, fate = column(rows, "doc_hi"), column(rows, "doc_lo"), column(rows, "fate")
        in_cluster = _is_label(label)
        keeper_hi, keeper_lo = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        size = column(rows, "exact_size").astype(np.int64)
        similarity = np.full(n, np.nan, np.float32)
        members = np.flatnonzero(in_cluster)
        if len(members):
            clusters = received["clusters"].sort_by("label").combine_chunks()
            at = np.searchsorted(column(clusters, "label"), label[members])
            keeper_hi[members], keeper_lo[members] = (column(clusters, f"keeper_{h}")[at] for h in ("hi", "lo"))
            size[members] = column(clusters, "size")[at]
            texts = column(rows, "text_hi")[members]
            sketches = received["sketches"].sort_by("node").combine_chunks()
            similarity[members] = self._similarity(
                sketches, column(clusters, "node")[at], self._sketches(shard, np.unique(texts)), texts
            )
        other = in_cluster & ((keeper_hi != doc_hi) | (keeper_lo != doc_lo))
        removed_by = np.select(
            [fate == BY_ADDRESS, fate == BY_TEXT, other], ["url", "exact", "minhash"], default=""
        ).astype(object)
        removed_by[removed_by == ""] = None
        url_size, exact_size = column(rows, "url_size"), column(rows, "exact_size")
        outdated = fate == BY_ADDRESS
        columns = [
            hex_ids(doc_hi, doc_lo),
            pa.array(removed_by, pa.string()),
            hex_ids(column(rows, "url_hi"), column(rows, "url_lo")),
            pa.array(url_size, pa.int32()),
            _masked(hex_ids(column(rows, "text_hi"), column(rows, "text_lo")), outdated),
            _masked(hex_ids(column(rows, "exact_hi"), column(rows, "exact_lo")), outdated),
            _masked(pa.array(exact_size, pa.int32()), outdated),
            _masked(pa.array([f"{value:016x}" for value in label.tolist()], pa.string()), ~in_cluster),
            _masked(hex_ids(keeper_hi, keeper_lo), ~in_cluster),
            pa.array(similarity, pa.float32(), mask=~in_cluster),
            _masked(pa.array(size, pa.int32()), outdated),
        ]
        table = pa.table(columns, schema=DUPLICATES)
        unit = column(rows, "unit")
        mine = np.isin(unit, self.own)
        yield from by_bucket(table.filter(pa.array(mine)), column(rows, "part")[mine], "rows")
        if self.shared:
            yield from self._to_index(table, unit)

    def _to_index(self, table: pa.Table, unit: np.ndarray) -> Iterator[Parcel]:
        dump = np.array([self.dumps.index(u.dump) for u in self.units])[unit]
        prefix = np.array([int(i[:16], 16) for i in table.column("doc_id").to_pylist()], np.uint64)
        bucket = len(self.parts) + dump * self.n_shards + ranges(prefix, self.n_shards)
        yield from by_bucket(table, bucket, "rows")

    def write_rows(self, bucket: int, received: Received) -> None:
        """The duplicates of a part of the run, or of a shard of one dump of the index."""
        rows = received.get("rows", DUPLICATES.empty_table()).sort_by("doc_id").combine_chunks()
        ids = rows.column("doc_id")
        if rows.num_rows > 1:
            fresh = np.ones(rows.num_rows, bool)
            fresh[1:] = pc.not_equal(ids.slice(1), ids.slice(0, rows.num_rows - 1)).to_numpy()
            rows = rows.filter(pa.array(fresh))
        if bucket < len(self.parts):
            self.folder.write_table(f"duplicates/part-{self.parts[bucket]}.parquet", rows)
            return
        dump, shard = divmod(bucket - len(self.parts), self.n_shards)
        name = folder_name(self.dumps[dump])
        self.index.folder.write_table(f"duplicates/{name}/shard-{shard:05d}.parquet", rows)

    def _labelled(self, shard: int) -> tuple[pa.Table, np.ndarray]:
        """The pages of a shard and the label of each one's cluster; `_NO_LABEL` where its text is like no other."""
        rows = self._read("live", shard)
        label = np.full(rows.num_rows, _NO_LABEL)
        if self.recipe.dedup.minhash is not None:
            labels = self._read("labels", shard)
            nodes = self._node(column(rows, "text_hi"), column(rows, "unit"))
            # Equal texts are one cluster also where no recipe asked for `exact`, or asked in a narrower scope.
            live = column(rows, "fate") == LIVE
            held, counts = np.unique(nodes[live], return_counts=True)
            several = np.isin(nodes, held[counts > 1])
            label[several] = nodes[several]
            at = np.minimum(np.searchsorted(column(labels, "node"), nodes), max(0, labels.num_rows - 1))
            if labels.num_rows:
                found = column(labels, "node")[at] == nodes
                label[found] = column(labels, "label")[at[found]]
        label[column(rows, "fate") == BY_ADDRESS] = _NO_LABEL
        return rows, label

    def _read(self, name: str, shard: int, columns: list[str] | None = None) -> pa.Table:
        return self.folder.read_table(f"{WORK}/{name}/shard-{shard:05d}.parquet", columns)

    def _write(self, name: str, shard: int, rows: pa.Table) -> None:
        self.folder.write_table(f"{WORK}/{name}/shard-{shard:05d}.parquet", rows)


_NO_LABEL = np.uint64(2**64 - 1)


def _is_label(label: np.ndarray) -> np.ndarray:
    return label != _NO_LABEL


def _put(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.append_column(name, pa.array(values)) if at < 0 else table.set_column(at, name, pa.array(values))


def _with_keeper(
    pages: pa.Table, method: str, unique: pa.Table, keeper: np.ndarray, size: np.ndarray, stands: np.ndarray
) -> pa.Table:
    hi, lo = column(unique, "doc_hi")[keeper], column(unique, "doc_lo")[keeper]
    pages = _put(pages, f"{method}_hi", hi[stands])
    pages = _put(pages, f"{method}_lo", lo[stands])
    return _put(pages, f"{method}_size", size[stands].astype(np.int32))


def _distinct(pairs: pa.Table) -> pa.Table:
    """Each pair once within its group: texts that share several bands were sent several times."""
    tables = [_NO_PAIRS]
    for group in np.unique(column(pairs, "group")):
        mine = pairs.filter(pa.array(column(pairs, "group") == group))
        a, b = distinct_pairs(column(mine, "a"), column(mine, "b"))
        tables.append(pa.table({"a": a, "b": b, "group": np.full(len(a), group, np.int32)}))
    return pa.concat_tables(tables)


def _matrix(values: pa.Array) -> np.ndarray:
    """Signatures stored as bytes, a row each."""
    n = len(values)
    return np.frombuffer(b"".join(values.to_pylist()), "<u4").reshape(n, -1) if n else np.zeros((0, 1), np.uint32)


def _masked(values: pa.Array, missing: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(missing), pa.scalar(None, values.type), values)


def resolve(spark: Any | None, resolution: Resolution, ask: Callable[..., None]) -> list[dict[str, Any]]:
    """Compares, and writes the table duplicates of the run, and of the index where it is shared.

    `ask` is `exchange` for this session. Returns the log of connecting components.
    """
    n = resolution.n_shards
    shards = range(n)
    log = []
    resolution.folder.remove_tree(WORK)
    if resolution.recipe.dedup.url is not None:
        hops = [Hop(n, resolution.newest), Hop(n, resolution.write_live)]
        ask("comparing addresses and texts", shards, resolution.send_pages, hops)
    else:
        ask("comparing texts", shards, resolution.alone, [])
    if resolution.recipe.dedup.minhash is not None:
        hops = [Hop(n, resolution.first_ends), Hop(n, resolution.verify)]
        ask("comparing near-duplicates", shards, resolution.candidates, hops)
        work = f"{WORK}/components"
        log = connected_components(spark, resolution.folder, f"{WORK}/edges", f"{WORK}/labels", n, work=work)
    n_written = len(resolution.parts) + (len(resolution.dumps) * n if resolution.shared else 0)
    hops = [
        Hop(n, resolution.keepers),
        Hop(n, resolution.with_sketch),
        Hop(n, resolution.verdicts),
        Hop(n_written, resolution.write_rows, light=True),
    ]
    ask("choosing what is kept", shards, resolution.bests, hops)
    resolution.folder.remove_tree(WORK)
    return log
