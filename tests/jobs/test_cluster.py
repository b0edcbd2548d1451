"""A real cluster: the bytes of one process, whatever is killed, whatever is done twice, however many tasks there are."""

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import Cluster, cluster, packed_environment, until

from jobs.run import run
from pipeline.recipe import RECIPES, load_recipe
from pipeline.sample import write_sample

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]

TABLES = ("records", "documents", "signals", "edits", "scores", "duplicates", "cuts", "ledger", "curated")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of every table."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for table in TABLES
        for path in sorted((folder / table).glob("*.parquet"))
    }


@pytest.fixture(scope="module")
def webs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Archives enough for sixteen tasks, the damaged ones among them."""
    folder = tmp_path_factory.mktemp("webs")
    for seed in (1, 2):
        write_sample(folder / str(seed), seed=seed, pages=60)
    return [str(folder / "1"), str(folder / "2")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All stages of the default recipe; without the detector of personal data and all heads but one, which every worker of
    every run would open for seconds."""
    loaded = yaml.safe_load((RECIPES / "default.yaml").read_text(encoding="utf-8"))
    del loaded["pii"]
    loaded["score"] = {"heads": {"quality": {"model": "quality"}}, "quality": {"heads": ["quality"], "bins": 20}}
    loaded["inputs"] = {"tolerate": 1}
    path = tmp_path_factory.mktemp("recipe") / "cluster.yaml"
    path.write_text(yaml.safe_dump(loaded), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def expected(webs: list[str], recipe: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run in one process and one task gives."""
    output = tmp_path_factory.mktemp("local") / "out"
    done = run(load_recipe(recipe), webs, str(output), partitions=1, master="local[2]")
    assert len(done.tasks) >= 16
    found = digests(output)
    assert {name.split("/")[0] for name in found} == set(TABLES)
    return found


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def shipped(spark: Cluster) -> str:
    return f"spark.archives={packed_environment(spark.folder)}#environment"


def test_sixteen_local_tasks_do_not_change_a_byte(
    expected: dict[str, str], webs: list[str], recipe: str, tmp_path: Path
) -> None:
    run(load_recipe(recipe), webs, str(tmp_path / "out"), partitions=16, master="local[2]")
    assert digests(tmp_path / "out") == expected


def test_executors_that_are_killed_and_tasks_that_are_done_twice_do_not_change_a_byte(
    spark: Cluster, shipped: str, expected: dict[str, str], webs: list[str], recipe: str, tmp_path: Path
) -> None:
    """Sixteen tasks, each of which is copied as soon as a core is idle; one executor dies at work, another when it holds what
    the next stage is to read."""
    output = tmp_path / "out"
    eager = ["minTaskRuntime=0ms", "multiplier=1.0", "quantile=0.01", "interval=10ms"]
    conf = [shipped, *(f"spark.speculation.{setting}" for setting in eager)]
    job = spark.submit("run", *arguments(recipe, webs, output, 16), conf=conf, python="./environment/bin/python")
    lost = set()
    for sign, count in (("_manifests/extract/*.json", 3), ("dedup/work/live/*.parquet", 1)):
        until(lambda: job.poll() is not None or len(list(output.glob(sign))) >= count, sign)  # noqa: B023
        number, victim = until(lambda: sorted(spark.at_work().items(), reverse=True), "an executor at work")[0]
        os.kill(victim, signal.SIGKILL)
        assert not (output / "curated").exists(), "killed too late to matter"
        lost.add(number)
    spark.finish(job)
    assert digests(output) == expected
    events = spark.events(job)
    gone = {e["Executor ID"] for e in events if e["Event"] == "SparkListenerExecutorRemoved"}
    ends = [e for e in events if e["Event"] == "SparkListenerTaskEnd"]
    why = Counter(e["Task End Reason"]["Reason"] for e in ends)
    (told,) = {e["Spark Properties"]["spark.speculation.minTaskRuntime"] for e in events if "Spark Properties" in e}
    assert told == "0ms", "--conf does not win over our settings"
    assert gone >= lost and len(lost) == 2
    assert why["ExecutorLostFailure"] >= 1, "nothing was at work in what was killed"
    assert sum(e["Task Info"]["Speculative"] for e in ends) >= 1, "no task had a copy"
    assert not list(output.glob("**/.*.tmp"))


def test_a_driver_that_is_killed_and_the_same_command_again_do_not_change_a_byte(
    spark: Cluster, shipped: str, expected: dict[str, str], webs: list[str], recipe: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    # A job of one stage does what is to be done before it.
    first = spark.submit(
        "curate", *arguments(recipe, webs, output, 4), conf=[shipped], python="./environment/bin/python"
    )
    until(lambda: first.poll() is not None or (output / "dedup" / "work").is_dir(), "deduplication")
    workers = {pid for pid, command in spark.processes().items() if "pyspark.daemon" in command}
    assert workers
    spark.kill(first)
    again = spark.submit("run", *arguments(recipe, webs, output, 1), conf=[shipped], python="./environment/bin/python")
    spark.finish(again)
    assert digests(output) == expected
    assert not workers & spark.processes().keys(), "workers of the killed run live on"
    assert not list(output.glob("**/.*.tmp"))


def arguments(recipe: str, webs: list[str], output: Path, partitions: int) -> list[str]:
    return ["--recipe", recipe, "--input", *webs, "--output", str(output), "--partitions", str(partitions)]
