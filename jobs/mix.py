"""Job: token folders to the shards of a mix. `crawlmill mix MIX.yaml`, or `spark-submit jobs/mix.py --help`.

Documents are counted by stratum and place, the plan is made of the sums, and one exchange brings what each phase takes of a
document to the shard of its place in that phase. A shard that is there is not made again.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.exchange import Hop, Parcel, Received, exchange
from jobs.runs import code_version
from jobs.session import Watch, session, slice_count, watched
from jobs.store import RunFolder
from jobs.token_folders import tokenizer_body
from jobs.token_inputs import Inputs, TokenShard, digest_of, open_inputs
from jobs.token_shards import ShardWriter, check_extras
from pipeline.errors import CrawlmillError, StorageError, UsageError
from pipeline.mixing.options import HELD_OUT, Mix, load_mix
from pipeline.mixing.plan import Plan, check_values, counts_of, make_plan
from pipeline.mixing.strata import Strata, strata_of
from pipeline.mixing.stream import (
    Bin,
    Edge,
    Standing,
    Tally,
    find_edges,
    select,
    shard_numbers,
    standing,
    tally,
    tally_bins,
)
from pipeline.tables import MIXED_DOCUMENTS

STAGE = "mix"

IN_PROCESS_DOCUMENTS = 20_000_000
"""Up to so many documents are counted in this process: starting a session would take longer."""

IN_PROCESS_BYTES = 4_000_000_000
"""Up to so many bytes of tokens are shuffled in this process."""

HELD_BYTES = 500_000_000
"""Tokens that are held at a time where they are shuffled in this process."""

WRITE_BYTES = 64_000_000
"""Tokens that are put in order at a time."""

_DATA, _POSITION = "_data", "_position"


Spark = Callable[[], Any]
"""Starts a session, or gives the one that runs."""


def _session() -> Any:
    return session(STAGE)


@dataclass(frozen=True)
class Planned:
    """A mix that is ready to be carried out: nothing is written yet."""

    mix: Mix
    inputs: Inputs
    strata: dict[str, Strata]
    plan: Plan
    edges: dict[str, dict[tuple[int, int], Edge]]

    def digest(self, extras: Sequence[str]) -> str:
        """What the bytes of the output depend on."""
        folders = {name: [folder["digest"] for folder in of] for name, of in self.inputs.folders.items()}
        mix = self.mix.model_dump(exclude={"description"})
        return digest_of({"format": 1, "mix": mix, "folders": folders, "extras": extras})

    @property
    def facts(self) -> dict[str, Any]:
        """The plan as it is printed and kept."""
        return {"phases": self.plan.totals(), "sources": self.plan.rows()}


def plan_mix(mix: Mix, base: str | Path = ".", spark: Spark = _session) -> Planned:
    """Counts what the token folders of a mix (relative to `base`) hold, and plans it. Writes nothing.

    Raises UsageError where the mix cannot be carried out with what there is, InputError where a folder is damaged.
    """
    inputs = open_inputs(mix, base)
    strata = {name: strata_of(mix, name) for name in mix.sources}
    started = spark() if sum(shard.documents for shard in inputs.shards) > IN_PROCESS_DOCUMENTS else None

    def over(
        shards: list[TokenShard], of: Callable[[TokenShard], Any], add: Callable[[Any, Any], Any], none: Any
    ) -> Any:
        """The sum of something over shards."""
        if started is None or not shards:
            for shard in shards:
                none = add(none, of(shard))
            return none
        slices = slice_count(started, len(shards), None, 1)
        counted = started.sparkContext.parallelize(shards, slices).map(of)
        return watched(started, STAGE, lambda: counted.treeReduce(add), None, slices)

    tallies = {}
    for name, of in strata.items():
        tallies[name] = over(inputs.of(name), partial(_tally, of, mix.seed), _add, Tally.empty(of))
    check_values(mix, strata, {name: found.seen for name, found in tallies.items()})
    plan = make_plan(mix, strata, {name: counts_of(found.histogram) for name, found in tallies.items()})
    edges: dict[str, dict[tuple[int, int], Edge]] = {name: {} for name in strata}
    for name, cuts in plan.cuts().items():
        shards, of = inputs.of(name), strata[name]

        def count(bins: list[Bin], shards: list[TokenShard] = shards, of: Strata = of) -> Any:
            return over(shards, partial(_tally_bins, of, mix.seed, bins), _add, 0)

        def look(bins: list[Bin], shards: list[TokenShard] = shards, of: Strata = of) -> Any:
            return over(shards, partial(_standing, of, mix.seed, bins), _join, [[] for _ in bins])

        edges[name] = find_edges(tallies[name].histogram, cuts, count, look)
    return Planned(mix, inputs, strata, plan.counted(edges), edges)


def _tally(strata: Strata, seed: int, shard: TokenShard) -> Tally:
    return tally(shard.read(strata.columns), strata, seed)


def _tally_bins(strata: Strata, seed: int, bins: list[Bin], shard: TokenShard) -> np.ndarray:
    return tally_bins(shard.read(strata.columns), strata, seed, bins)


def _standing(strata: Strata, seed: int, bins: list[Bin], shard: TokenShard) -> list[list[tuple[Standing, int]]]:
    return standing(shard.read(["id", "piece", *strata.columns]), strata, seed, bins, shard.number)


def _add(one: Any, other: Any) -> Any:
    return one + other


def _join(one: list[list[Any]], other: list[list[Any]]) -> list[list[Any]]:
    return [a + b for a, b in zip(one, other, strict=True)]


class Bucket(NamedTuple):
    """A shard of the output: its folder, such as pretrain/web, its number there, and its tokens, about."""

    folder: str
    number: int
    tokens: int

    @property
    def name(self) -> str:
        """Its files without their endings."""
        return f"{self.folder}/shard-{self.number:05d}"


@dataclass(frozen=True)
class Shuffle:
    """All that a task needs to know: what is taken of documents, to which shard it goes, and how that is written."""

    planned: Planned
    output: str
    extras: tuple[str, ...]
    todo: tuple[int, ...]

    def folder_of(self, phase: str, source: str) -> str:
        """Where what a phase takes of a source goes."""
        interleaved = self.planned.mix.shards == "phase" and phase != HELD_OUT
        return f"{phase}/{'all' if interleaved else source}"

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Tokens of each folder."""
        tokens: dict[str, int] = {}
        for phase in self.planned.plan.phases:
            for draw in phase.draws:
                folder = self.folder_of(phase.name, draw.source)
                tokens[folder] = tokens.get(folder, 0) + draw.tokens
        return tokens

    @cached_property
    def counts(self) -> dict[str, int]:
        """Shards of each folder."""
        return {folder: max(1, round(n / self.planned.mix.shard_tokens)) for folder, n in self.tokens.items()}

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All shards of the output."""
        return [Bucket(f, number, self.tokens[f] // n) for f, n in self.counts.items() for number in range(n)]

    @cached_property
    def starts(self) -> dict[str, int]:
        """Number of the first shard of each folder among all."""
        ends = np.cumsum([0, *self.counts.values()]).tolist()
        return dict(zip(self.counts, ends, strict=False))

    @property
    def dtype(self) -> np.dtype:
        """Type of a token in files."""
        return np.dtype(self.planned.inputs.tokenizer["dtype"]).newbyteorder("<")

    def send(self, shard: TokenShard) -> Iterator[Parcel]:
        """What the phases take of a shard, apart by shard of the output."""
        planned = self.planned
        documents = shard.read()
        strata, edges = planned.strata[shard.source], planned.edges[shard.source]
        copies = select(documents, strata, planned.plan, edges, planned.mix.seed, shard.number)
        buckets = np.full(len(copies), -1, np.int64)
        wanted = np.full(len(self.buckets), -1, np.int64)
        wanted[list(self.todo)] = np.arange(len(self.todo))
        for number, phase in enumerate(planned.plan.phases):
            folder = self.folder_of(phase.name, shard.source)
            rows = np.flatnonzero(copies.phase == number)
            if len(rows):
                places = shard_numbers(copies.position[rows], self.counts[folder])
                buckets[rows] = wanted[self.starts[folder] + places]
        ranked = np.argsort(buckets, kind="stable")
        ranked = ranked[np.searchsorted(buckets[ranked], 0) :]
        if not len(ranked):
            return
        sizes = documents.column("n_tokens").to_numpy()
        ends = np.concatenate([[0], np.cumsum(sizes)]) * self.dtype.itemsize
        held = shard.open()
        tokens = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), [None, pa.py_buffer(ends), held])
        rows, first, n = copies.row[ranked], copies.first[ranked], copies.n_tokens[ranked]
        taken = _with_origin(documents.take(pa.array(rows)), shard, rows, first, n, copies.epoch[ranked])
        taken = taken.append_column(_POSITION, pa.array(copies.position[ranked]))
        cut = n < sizes[rows]
        numbers, begins = np.unique(buckets[ranked], return_index=True)
        for number, begin, end in zip(numbers, begins, [*begins[1:], len(ranked)], strict=True):
            data = tokens.take(pa.array(rows[begin:end]))
            parts = np.flatnonzero(cut[begin:end])
            if len(parts):
                item = self.dtype.itemsize
                spans = [(int(ends[rows[i]] + first[i] * item), int(n[i] * item)) for i in (parts + begin).tolist()]
                pieces = pa.array([held.slice(at, size).to_pybytes() for at, size in spans], pa.large_binary())
                data = pc.replace_with_mask(data, pa.array(cut[begin:end]), pieces)
            yield int(number), "rows", taken.slice(begin, end - begin).append_column(_DATA, data)

    def write(self, number: int, received: Received) -> None:
        """The files of a shard of the output, its manifest last."""
        bucket = self.buckets[self.todo[number]]
        rows = received.get("rows")
        if rows is None:
            rows = MIXED_DOCUMENTS.empty_table()
            rows = rows.append_column(_POSITION, pa.array([], pa.uint64()))
            rows = rows.append_column(_DATA, pa.array([], pa.large_binary()))
        order = _order(rows)
        documents = rows.select(MIXED_DOCUMENTS.names).take(pa.array(order)).cast(MIXED_DOCUMENTS).combine_chunks()
        lengths = documents.column("n_tokens").to_numpy()
        data = rows.column(_DATA).combine_chunks()
        facts = self.planned.inputs.tokenizer
        with ShardWriter(RunFolder(self.output), bucket.name, facts, MIXED_DOCUMENTS, self.extras) as writer:
            for piece in _pieces(lengths * self.dtype.itemsize, WRITE_BYTES):
                buffer = data.take(pa.array(order[piece])).buffers()[2]
                tokens = np.frombuffer(buffer, self.dtype, int(lengths[piece].sum()))
                writer.add(tokens, lengths[piece], documents.slice(piece.start, piece.stop - piece.start))
            writer.commit(
                bytes=pc.sum(documents.column("n_bytes")).as_py() or 0,
                sources=_tokens_by_source(documents),
                encoder=None,
                audited=0,
                mismatches=0,
                invalid_utf8=0,
                input=None,
                fallback=None,
            )


def _tokens_by_source(documents: pa.Table) -> dict[str, dict[str, int]]:
    by = documents.group_by("source").aggregate([("n_tokens", "sum"), ("n_tokens", "count")]).sort_by("source")
    columns = (by.column(name).to_pylist() for name in ("source", "n_tokens_count", "n_tokens_sum"))
    return {name: {"documents": n, "tokens": tokens} for name, n, tokens in zip(*columns, strict=True)}


def _with_origin(
    taken: pa.Table, shard: TokenShard, rows: np.ndarray, first: np.ndarray, n: np.ndarray, epoch: np.ndarray
) -> pa.Table:
    """Documents of a token shard as MIXED_DOCUMENTS. Bytes of a text that is cut go to its parts in proportion to their
    tokens, so that they add up."""
    sizes = taken.column("n_tokens").to_numpy()
    n_bytes = pc.fill_null(taken.column("n_bytes"), 0).to_numpy().copy()
    for i in np.flatnonzero(n < sizes).tolist():
        whole, begin, end, total = int(n_bytes[i]), int(first[i]), int(first[i] + n[i]), int(sizes[i])
        n_bytes[i] = whole * end // total - whole * begin // total
    same = {"source": shard.source, "tokens": shard.named, "shard": shard.name}
    own = {"n_tokens": n, "n_bytes": n_bytes, "document": rows, "epoch": epoch, "first": first}
    columns = []
    for column in MIXED_DOCUMENTS:
        if column.name in same:
            columns.append(pa.repeat(pa.scalar(same[column.name], column.type), taken.num_rows))
        elif column.name in own:
            columns.append(pa.array(own[column.name], column.type))
        else:
            columns.append(taken.column(column.name).cast(column.type))
    return pa.table(columns, schema=MIXED_DOCUMENTS)


_TIES = ("id", "piece", "epoch", "first", "source", "tokens", "shard", "document")


def _order(rows: pa.Table) -> np.ndarray:
    """Row numbers in the order of positions; of equal ones by what the documents are."""
    positions = rows.column(_POSITION).to_numpy()
    order = np.argsort(positions, kind="stable")
    ranked = positions[order]
    if (ranked[1:] == ranked[:-1]).any():
        keys = [(_POSITION, "ascending"), *((name, "ascending") for name in _TIES)]
        return pc.sort_indices(rows, sort_keys=keys).to_numpy()
    return order


def _pieces(sizes: np.ndarray, most: int) -> Iterator[slice]:
    """Consecutive stretches that come to about `most` each."""
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        reached = (ends[begin - 1] if begin else 0) + most
        end = max(begin + 1, int(np.searchsorted(ends, reached, side="right")))
        yield slice(begin, end)
        begin = end


def mix(
    asked: Mix,
    output: str,
    base: str | Path = ".",
    *,
    extra: Sequence[str] = (),
    spark: Spark = _session,
    partitions: int | None = None,
    in_process: int = IN_PROCESS_BYTES,
    planned: Callable[[dict[str, Any]], None] | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Carries a mix out and returns what `mix.json` says. Token folders are relative to `base`.

    `extra` are further forms of the tokens, as `tokenise` has them. `planned` is called with the plan before anything is
    written. More than `in_process` bytes of tokens are shuffled on Spark; the output is the same. Raises UsageError where
    `output` holds something else, and what `plan_mix` raises.
    """
    extras = check_extras(extra)
    ready = plan_mix(asked, base, spark)
    digest = ready.digest(extras)
    if planned is not None:
        planned(ready.facts)
    folder = RunFolder(output)
    info = folder.read_json("mix.json")
    if info is None and not folder.is_empty():
        raise UsageError(f"output {output} is not empty and holds no mix; choose a new folder")
    if info is not None and info.get("digest") != digest:
        raise UsageError(
            f"output {output} holds another mix (other weights, seed, forms or token folders); choose a new folder"
        )
    shuffle = Shuffle(ready, folder.path, extras, ())
    if info is not None and info["done"] and not _left(shuffle, folder):
        return info
    with folder.lock():
        folder.sweep()
        info = {
            "crawlmill": code_version(),
            "format": 1,
            "mix": asked.model_dump(mode="json"),
            "digest": digest,
            "extra": list(extras),
            "sources": ready.inputs.folders,
            "plan": ready.facts,
            "shards": shuffle.counts,
            "done": False,
        }
        folder.write_json("mix.json", info)
        _copy_tokenizer(ready.inputs, folder)
        _carry_out(replace(shuffle, todo=_left(shuffle, folder)), spark, partitions, in_process, watch)
        folder.write_json("schedule.json", _schedule(shuffle, folder))
        info["done"] = True
        folder.write_json("mix.json", info)
    return info


def _left(shuffle: Shuffle, folder: RunFolder) -> tuple[int, ...]:
    """Numbers of the shards that have no manifest yet."""
    there = {name for of in shuffle.counts for name in folder.list(of, ".json")}
    return tuple(i for i, bucket in enumerate(shuffle.buckets) if f"{bucket.name}.json" not in there)


def _carry_out(shuffle: Shuffle, spark: Spark, partitions: int | None, in_process: int, watch: Watch | None) -> None:
    """Makes the shards that are to do."""
    sizes = np.array([shuffle.buckets[i].tokens for i in shuffle.todo], np.int64) * shuffle.dtype.itemsize
    if not len(sizes):
        return
    _check_space(RunFolder(shuffle.output), int(sizes.sum()) * (1 + len(shuffle.extras)))
    shards = shuffle.planned.inputs.shards
    if int(sizes.sum()) > in_process:
        started = spark()
        # Tasks need not know the shards of all other tasks.
        inputs = replace(shuffle.planned.inputs, shards=[])
        shuffle = replace(shuffle, planned=replace(shuffle.planned, inputs=inputs))
        hops = [Hop(len(shuffle.todo), shuffle.write)]
        exchange(started, STAGE, shards, shuffle.send, hops, partitions=partitions, watch=watch)
        return
    # Each round reads the documents again, and of the tokens those that it needs.
    for piece in _pieces(sizes, HELD_BYTES):
        part = replace(shuffle, todo=shuffle.todo[piece])
        exchange(None, STAGE, shards, part.send, [Hop(len(part.todo), part.write)])
        if watch is not None:
            watch(piece.stop, len(sizes))


def _check_space(folder: RunFolder, needed: int) -> None:
    if not folder.local:
        return
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise StorageError(
            f"{folder.path} needs {needed / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB left; free some and run the "
            "same command again, or choose another output folder"
        )


def _copy_tokenizer(inputs: Inputs, folder: RunFolder) -> None:
    folder.write_bytes("tokenizer.json", tokenizer_body(RunFolder(inputs.shards[0].folder), inputs.tokenizer))


def _schedule(shuffle: Shuffle, folder: RunFolder) -> dict[str, Any]:
    """What the trainer reads. Raises CrawlmillError if the shards do not hold what was planned."""
    ready = shuffle.planned
    written: dict[tuple[str, str], list[int]] = {}
    for bucket in shuffle.buckets:
        manifest = folder.read_json(f"{bucket.name}.json") or {"sources": {}}
        for source, found in manifest["sources"].items():
            sums = written.setdefault((bucket.folder, source), [0, 0])
            sums[0] += found["documents"]
            sums[1] += found["tokens"]
    phases: list[dict[str, Any]] = []
    held_out: dict[str, Any] = {}
    rows = ready.plan.rows()
    for phase in ready.plan.phases:
        sources = {}
        for row in (row for row in rows if row["phase"] == phase.name):
            at = shuffle.folder_of(phase.name, row["source"])
            documents, tokens = written.get((at, row["source"]), (0, 0))
            if (documents, tokens) != (row["documents"], row["tokens"]):
                raise CrawlmillError(
                    f"the account does not balance: {at} holds {documents:,} documents and {tokens:,} tokens of "
                    f"{row['source']}, planned were {row['documents']:,} and {row['tokens']:,}; remove {folder.path} and run "
                    "the command again"
                )
            facts = {name: row[name] for name in ("tokens", "documents", "epochs", "unique_share")}
            sources[row["source"]] = {"folder": at, **facts}
        shares = {name: facts["tokens"] / phase.tokens for name, facts in sources.items()}
        if phase.name == HELD_OUT:
            held_out = {
                name: {key: of[key] for key in ("folder", "tokens", "documents")} for name, of in sources.items()
            }
        else:
            phases.append({"name": phase.name, "tokens": phase.tokens, "mix": shares, "sources": sources})
    return {
        "format": 1,
        "name": ready.mix.name,
        "seed": ready.mix.seed,
        "tokenizer": ready.inputs.tokenizer,
        "phases": phases,
        "held_out": held_out,
    }


def _command(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="jobs/mix.py",
        description="Mixes token folders by weight into the shards of a training run; what is done already in the output "
        "folder is not done again.",
        epilog="example: spark-submit jobs/mix.py two-phase.yaml --output mixed/two-phase",
    )
    parser.add_argument("mix", help="mix file; its token folders are relative to it")
    parser.add_argument("--output", required=True, help="folder: a path or an s3:// address")
    parser.add_argument("--seed", type=int, help="instead of the mix file's")
    parser.add_argument("--max-epochs", type=float, help="instead of all that the mix file says")
    parser.add_argument("--partitions", type=int, help="Spark tasks to use; the result does not depend on it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    # Pickled by reference, so that executors find it whether this file was submitted or imported.
    from jobs import mix as job

    try:
        asked = load_mix(options.mix).overridden(options.seed, options.max_epochs)
        done = job.mix(asked, options.output, Path(options.mix).parent, partitions=options.partitions, in_process=0)
    except CrawlmillError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(" ".join(f"{phase['phase']}={phase['tokens']}" for phase in done["plan"]["phases"]))


if __name__ == "__main__":
    _command()
