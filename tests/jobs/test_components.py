"""Components by star steps on Spark, by one task and in this process: the same bytes, and those of a union-find."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs import components as job
from jobs.components import connected_components
from jobs.session import session
from jobs.store import RunFolder
from pipeline.errors import CrawlmillError

Pairs = list[tuple[int, int]]
WORK = "dedup/components"
N_SHARDS = 5

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def spark() -> Any:
    return session("test", master="local[2]")


def path(n: int) -> Pairs:
    return [(i, i + 1) for i in range(n - 1)]


def clique(first: int, last: int) -> Pairs:
    return [(i, j) for i in range(first, last) for j in range(i) if j >= first]


def grid(side: int) -> Pairs:
    across = [(side * y + x, side * y + x + 1) for y in range(side) for x in range(side - 1)]
    down = [(side * y + x, side * y + x + side) for y in range(side - 1) for x in range(side)]
    return across + down


def random_graphs(seed: int) -> Iterator[Pairs]:
    """Some below, at and above the density at which a giant component appears (as many edges as half of the nodes)."""
    rng = np.random.default_rng(seed)
    for density in (0.2, 0.45, 0.5, 0.55, 0.8, 1.5):
        for n in (6, 40, 300):
            yield [tuple(pair) for pair in rng.integers(0, n, (int(density * n), 2)).tolist()]


def zoo() -> tuple[Pairs, int]:
    """One graph of many, apart in the space of nodes, in no order of it; and the number of graphs that are connected."""
    connected = [
        path(2000),
        [(0, i) for i in range(1, 1500)],
        [(1499, i) for i in range(1499)],
        [(700, i) for i in range(1500) if i != 700],
        [(20 * i, 20 * i + j) for i in range(60) for j in range(1, 20)] + [(20 * i, 20 * i + 20) for i in range(59)],
        clique(0, 25) + clique(25, 50) + [(3, 40)],
        grid(20),
        [(0, 0)],
        [(0, 1), (1, 0), (0, 1), (1, 1)],
    ]
    rng = np.random.default_rng(11)
    edges: Pairs = []
    for graph in [*connected, *random_graphs(5)]:
        n = 1 + max(max(pair) for pair in graph)
        # Names anywhere in 64 bits, half of them above 2**63.
        names = rng.integers(0, 2**64 - 1, n, dtype=np.uint64, endpoint=True).tolist()
        edges += [(names[a], names[b]) for a, b in graph]
    edges += [(0, 2**64 - 1), (2**63 - 1, 2**63)]
    turned = [(b, a) if turn else (a, b) for (a, b), turn in zip(edges, rng.random(len(edges)) < 0.5, strict=True)]
    return [turned[i] for i in rng.permutation(len(turned))], len(connected)


def by_union_find(edges: Pairs) -> dict[int, int]:
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in parent}


def write(folder: RunFolder, edges: Pairs, n_files: int, name: str = "edges") -> None:
    for i in range(n_files):
        mine = edges[i::n_files]
        columns = {end: pa.array([pair[side] for pair in mine], pa.uint64()) for side, end in enumerate("ab")}
        folder.write_table(f"{name}/part-{i:03d}.parquet", pa.table(columns | {"similarity": pa.nulls(len(mine))}))


def digest(folder: RunFolder, n_shards: int = N_SHARDS) -> str:
    names = folder.list("labels")
    assert names == [f"labels/shard-{shard:05d}.parquet" for shard in range(n_shards)]
    return hashlib.sha256(b"".join(Path(folder.path, name).read_bytes() for name in names)).hexdigest()


def left_in(folder: RunFolder) -> list[str]:
    return [str(p.relative_to(folder.path)) for p in Path(folder.path, WORK).rglob("*") if p.is_file()]


@pytest.fixture(scope="module")
def edges() -> Pairs:
    return zoo()[0]


@pytest.fixture(scope="module")
def settled(edges: Pairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """The labels as this process finds them, and their digest."""
    folder = RunFolder(tmp_path_factory.mktemp("settled"))
    write(folder, edges, 3)
    connected_components(None, folder, "edges", "labels", N_SHARDS)
    return folder, digest(folder)


def test_labels_are_those_of_union_find(edges: Pairs, settled: tuple[RunFolder, str]) -> None:
    folder, _ = settled
    expected = by_union_find(edges)
    found: dict[int, int] = {}
    for shard in range(N_SHARDS):
        table = folder.read_table(f"labels/shard-{shard:05d}.parquet")
        assert table.schema == pa.schema({"node": pa.uint64(), "label": pa.uint64()})
        nodes = table.column("node").to_pylist()
        assert nodes == sorted(nodes)
        assert {(node >> 32) * N_SHARDS >> 32 for node in nodes} <= {shard}
        found |= dict(zip(nodes, table.column("label").to_pylist(), strict=True))
    assert found == expected
    counts = folder.read_json(f"{WORK}/components.json")
    assert counts["edges"] == len(edges)
    assert counts["nodes"] == len(expected)
    assert counts["components"] == len(set(expected.values())) > zoo()[1]


@pytest.mark.parametrize(("n_files", "partitions"), [(7, 4)])
def test_star_steps_find_the_same_bytes(
    spark: Any,
    edges: Pairs,
    settled: tuple[RunFolder, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_files: int,
    partitions: int,
) -> None:
    monkeypatch.setattr(job, "LEAST_HOT", 50)  # so that the stars of 1,500 are hot
    folder = RunFolder(tmp_path)
    write(folder, edges if n_files == 1 else edges[::-1], n_files)
    shuffles = spark.conf.get("spark.sql.shuffle.partitions")
    # Once with the shuffled joins of large graphs, once with those that Spark makes of them for small ones.
    joins = "spark.sql.adaptive.autoBroadcastJoinThreshold"
    spark.conf.set(joins, "-1" if n_files == 7 else "10m")
    try:
        log = connected_components(spark, folder, "edges", "labels", N_SHARDS, partitions, in_one_task=0)
    finally:
        spark.conf.unset(joins)
    assert digest(folder) == settled[1]
    assert spark.conf.get("spark.sql.shuffle.partitions") == shuffles
    # The log: it ends when nothing moves any more, edges never become more, and it is also kept.
    assert [entry["iteration"] for entry in log] == list(range(1, len(log) + 1))
    assert [entry["changed"] > 0 for entry in log] == [True] * (len(log) - 1) + [False]
    counts = [entry["edges"] for entry in log]
    assert counts == sorted(counts, reverse=True)
    kept = folder.read_json(f"{WORK}/components.json")
    assert kept["log"] == log
    assert kept["nodes"] - kept["components"] <= counts[-1]
    assert left_in(folder) == [f"{WORK}/components.json"]


def test_one_task_finds_the_same_bytes(
    spark: Any, edges: Pairs, settled: tuple[RunFolder, str], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    write(folder, edges, 4)
    (entry,) = connected_components(spark, folder, "edges", "labels", N_SHARDS)
    assert entry["how"] == "one task"
    assert digest(folder) == settled[1]


def test_a_killed_job_goes_on_from_the_last_whole_iteration(
    spark: Any, edges: Pairs, settled: tuple[RunFolder, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    write(folder, edges, 2)
    with monkeypatch.context() as patch:
        patch.setattr(job, "MOST_ITERATIONS", 2)
        with pytest.raises(CrawlmillError, match="did not settle in 2 iterations"):
            connected_components(spark, folder, "edges", "labels", N_SHARDS, 4, in_one_task=0)
    before = folder.read_json(f"{WORK}/iteration-02.json")["log"]
    assert folder.list(f"{WORK}/iteration-01") == []
    # A third iteration that was being written, and remains of the first.
    write(folder, [(1, 2), (2, 3)], 1, f"{WORK}/iteration-03")
    write(folder, [(1, 2), (2, 3)], 1, f"{WORK}/iteration-01")
    log = connected_components(spark, folder, "edges", "labels", N_SHARDS, 3, in_one_task=0)
    assert log[:2] == before
    assert len(log) > 2
    assert digest(folder) == settled[1]
    assert left_in(folder) == [f"{WORK}/components.json"]


def test_checkpoints_of_other_edges_are_not_used(spark: Any, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(folder, [(1, 2)], 1)
    write(folder, [(5, 4)], 1, f"{WORK}/iteration-01")
    entry = {"iteration": 1, "edges": 1, "changed": 0, "seconds": 0.0, "how": "star steps"}
    folder.write_json(f"{WORK}/iteration-01.json", {"digest": "of others", "parts": 1, "log": [entry]})
    connected_components(spark, folder, "edges", "labels", 1)
    assert folder.read_table("labels/shard-00000.parquet").to_pydict() == {"node": [1, 2], "label": [1, 1]}
    assert left_in(folder) == [f"{WORK}/components.json"]


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("n_files", [0, 2])
def test_no_edges_make_empty_shards(spark: Any, tmp_path: Path, here: bool, n_files: int) -> None:
    folder = RunFolder(tmp_path)
    write(folder, [], n_files)
    folder.write_table("labels/shard-00002.parquet", pa.table({"of": ["an earlier count"]}))
    connected_components(None if here else spark, folder, "edges", "labels", 2, in_one_task=0)
    for shard in range(2):
        assert folder.read_table(f"labels/shard-{shard:05d}.parquet").to_pydict() == {"node": [], "label": []}
    assert len(folder.list("labels")) == 2
