"""What a run says that it took is what it took, in run.json, logs and Prometheus."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pyspark import cloudpickle
from typer.testing import CliRunner

from jobs import log, observe
from jobs.cli import app
from jobs.exchange import Hop, by_bucket, exchange
from jobs.log import masked
from jobs.measures import DONE, METRICS, PEAKS, SUMS, USED, Clock, Fact, Numbers, count, from_facts, total
from jobs.metrics_endpoint import serving
from jobs.runs import Run
from jobs.session import for_each, session
from jobs.store import RunFolder
from pipeline.errors import InputError, UsageError
from pipeline.recipe import load_recipe

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

DOCS = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"
MEGABYTE = 1 << 20


def empty_run(folder: Path) -> Run:
    recipe = load_recipe("default")
    return Run(RunFolder(folder), recipe, {"recipe": recipe.model_dump(mode="json"), "stages": {}})


def stages_of(folder: Path | str) -> dict[str, Any]:
    return json.loads((Path(folder) / "run.json").read_text())["stages"]


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def known(folder: str, kind: str) -> None:
    """A known workload; what it took of the processor by its own account is left in a file."""
    before = time.process_time()
    if kind == "burn":
        spin(0.5)
    elif kind == "memory":
        np.ones(200 * MEGABYTE, np.uint8)
    elif kind == "child":
        pid = os.fork()
        if pid == 0:
            held = np.ones(150 * MEGABYTE, np.uint8)
            spin(0.4 * held[-1])
            Path(folder, f"{kind}-{os.getpid()}").write_text(str(time.process_time()))
            os._exit(0)
        os.waitpid(pid, 0)
        return
    Path(folder, f"{kind}-{os.getpid()}-{time.monotonic_ns()}").write_text(str(time.process_time() - before))


@pytest.fixture(scope="module")
def spark() -> Any:
    return session("test", "local[2]")


@pytest.fixture(scope="module")
def worked(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """Stages of known workloads, one after the other in the same workers, logged."""
    own, folder = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("worked")
    run, kinds = empty_run(folder), ["warm", "burn", "child", "memory"]
    log.start(log.Settings(str(folder / "log")))
    with observe.measuring(run, kinds) as meter:
        for kind in kinds:
            with meter.stage(kind):
                for_each(spark, [kind, kind, "idle"], partial(known, str(own)), kind, partitions=3)
    log.start(None)
    yield stages_of(folder), own


def test_processor_time_of_workers_and_of_their_children_is_theirs(worked: tuple[dict[str, Any], Path]) -> None:
    stages, own = worked
    burn, child = (stages[kind]["metrics"] for kind in ("burn", "child"))
    burnt, by_children = (sum(float(f.read_text()) for f in own.glob(f"{kind}-*")) for kind in ("burn", "child"))
    assert burnt >= 1.0 and by_children >= 0.8
    assert burnt <= burn["cpu_worker_seconds"] <= burnt + 1.5  # what workers do between tasks is theirs, too
    assert by_children <= child["cpu_child_seconds"] <= by_children + 0.5
    assert burn["cpu_child_seconds"] == 0 and child["cpu_worker_seconds"] < 1.5
    for facts in (burn, child):
        assert facts["cpu_seconds"] == pytest.approx(
            sum(facts[f"cpu_{part}_seconds"] for part in ("worker", "child", "jvm")), abs=1e-3
        )
        assert (facts["tasks"], facts["items"], facts["failed_tasks"], facts["attempts"]) == (3, 3, 0, 1)
        assert facts["seconds"] >= facts["task_seconds_max"] >= 0.4 > facts["task_seconds_min"]
    assert (burn["slowest"], child["slowest"]) == ("burn", "child")
    assert burn["steps"]["burn"]["tasks"] == 3


def test_memory_is_that_of_the_stage_and_not_of_the_process_so_far(worked: tuple[dict[str, Any], Path]) -> None:
    stages, _ = worked
    peak, children = ({s: f["metrics"][name] / MEGABYTE for s, f in stages.items()} for name in PEAKS)
    assert 195 <= peak["memory"] - peak["burn"] < 240
    assert children["child"] >= 150
    assert children["burn"] == children["memory"] == 0


ROWS = 40_000


def spread(folder: str, task: int) -> Iterator[Any]:
    """40,000 rows of 100 random bytes, that cannot be made smaller, to four buckets."""
    random = np.random.default_rng(task)
    rows = pa.table({"body": [random.bytes(100) for _ in range(ROWS)]})
    RunFolder(folder).write_table(f"sent/part-{task}.parquet", rows)
    yield from by_bucket(rows, np.arange(ROWS) % 4, "rows")


def take(folder: str, bucket: int, received: Any) -> None:
    RunFolder(folder).read_table(f"sent/part-{bucket % 2}.parquet")
    RunFolder(folder).write_table(f"taken/part-{bucket}.parquet", received["rows"])


@pytest.mark.parametrize("on_spark", [True, False])
def test_rows_bytes_and_shuffles_are_those_there_were(spark: Any, tmp_path: Path, on_spark: bool) -> None:
    run, folder = empty_run(tmp_path), str(tmp_path)
    with observe.measuring(run, ["stage"]) as meter, meter.stage("stage"):
        hops = [Hop(4, partial(take, folder))]
        exchange(spark if on_spark else None, "moving", [0, 1], partial(spread, folder), hops, partitions=2)
    stage = stages_of(folder)["stage"]["metrics"]
    send, receive = stage["steps"]["moving: send"], stage["steps"]["moving: receive"]
    on_disk = {name: sum(f.stat().st_size for f in (tmp_path / name).iterdir()) for name in ("sent", "taken")}
    assert (send["rows_written"], receive["rows_written"]) == (2 * ROWS, 2 * ROWS)
    assert (send["bytes_written"], receive["bytes_written"]) == (on_disk["sent"], on_disk["taken"])
    assert (send["rows_read"], receive["rows_read"], stage["rows_written"]) == (0, 4 * ROWS, 4 * ROWS)
    assert 0.95 < receive["bytes_read"] / (2 * on_disk["sent"]) <= 1
    assert (send["tasks"], send["items"], receive["tasks"], receive["items"], stage["tasks"]) == (2, 2, 4, 4, 6)
    assert set(send) == set(receive) == {*METRICS, "histogram"}
    if on_spark:
        sent = 2 * ROWS * 100
        assert sent <= send["shuffle_written_bytes"] == receive["shuffle_read_bytes"] < 1.2 * sent
        assert send["shuffle_read_bytes"] == receive["shuffle_written_bytes"] == 0
        assert send["seconds"] > 0 and receive["cpu_jvm_seconds"] > 0
    else:
        assert stage["shuffle_written_bytes"] == 0 and send["cpu_worker_seconds"] > 0


def fact(partition: int, seconds: float, **numbers: float) -> Fact:
    every = {**dict.fromkeys((*USED, *DONE, *PEAKS), 0.0), "task_seconds": seconds, **numbers}
    return Fact("step", 1, partition, every, (seconds, f"part-{partition}"))


def test_a_task_that_is_done_again_counts_once_but_its_time_twice(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    with observe.measuring(run, ["stage"]) as meter, meter.stage("stage"):
        first, again = (fact(7, s, rows_read=10, cpu_worker_seconds=s, peak_worker_bytes=s * 100) for s in (1.0, 3.0))
        for told in ([first], [fact(8, 2.0, rows_read=5)], [again], [Fact("step", 2, *first[2:])]):
            meter.book(told)
    facts = stages_of(tmp_path)["stage"]["metrics"]
    # The last is of another call of the same step: other work.
    assert (facts["tasks"], facts["repeated_tasks"], facts["rows_read"]) == (3, 1, 25)
    assert (facts["cpu_worker_seconds"], facts["task_seconds"], facts["peak_worker_bytes"]) == (5, 7, 300)
    assert (facts["task_seconds_min"], facts["task_seconds_max"], facts["slowest"]) == (1, 2, "part-8")
    assert sum(facts["histogram"].values()) == 3


def test_quantiles_are_within_their_bin_and_numbers_add_up_in_any_order() -> None:
    seconds = np.random.default_rng(1).lognormal(0, 2, 5000)
    whole, parts = Numbers(), [Numbers() for _ in range(3)]
    for i, s in enumerate(seconds):
        whole.book(fact(i, float(s), items=1))
        parts[i % 3].book(fact(i, float(s), items=1))
    facts = whole.facts()
    for name, share in (("median", 0.5), ("p95", 0.95)):
        exact = np.quantile(seconds, share, method="inverted_cdf")
        assert facts[f"task_seconds_{name}"] == pytest.approx(exact, rel=0.0225)
    assert facts["task_seconds_max"] == round(seconds.max(), 4)
    assert facts["skew"] == pytest.approx(seconds.max() / np.median(seconds), rel=0.03)
    assert len(facts["histogram"]) < 400  # whatever the number of tasks
    added = Numbers()
    for numbers in reversed(parts):
        added += from_facts(json.loads(json.dumps(numbers.facts())))
    for name, value in added.facts().items():
        assert value == (pytest.approx(facts[name], rel=1e-3) if isinstance(value, float) else facts[name]), name


def test_the_skew_of_a_stage_is_that_of_its_longest_step() -> None:
    long, short = Numbers(), Numbers()
    for i, s in enumerate((10.0, 10.0, 30.0)):
        long.book(fact(i, s))
    for i in range(100):
        short.book(fact(i, 0.001))
    assert total({"short": short, "long": long}).facts()["skew"] == pytest.approx(3, rel=0.03)


def test_a_clock_beside_other_work_counts_its_own_only() -> None:
    spin(0.3)
    count("rows_read", 3)
    clock = Clock(alone=False)
    count("rows_read", 4)
    numbers = clock.fact("step", 1, 0).numbers
    assert numbers["rows_read"] == 4 and numbers["cpu_worker_seconds"] < 0.3


def fail(part: str) -> None:
    if part == "bad":
        raise InputError("cannot read https://me:hunter2@host/file?X-Amz-Signature=abcdef")


def test_what_failed_and_what_was_killed_adds_to_the_run_that_goes_on(spark: Any, tmp_path: Path) -> None:
    run, folder = empty_run(tmp_path / "run"), tmp_path / "run"
    log.start(log.Settings(str(tmp_path / "log")))
    with pytest.raises(InputError), observe.measuring(run, ["stage"]) as meter, meter.stage("stage"):
        for_each(spark, ["good", "bad"], fail, "stage", partitions=2)
    failed = stages_of(folder)["stage"]["metrics"]
    assert failed["failed_tasks"] >= 1 and failed["attempts"] == 1
    # A process that is killed leaves what it had written last.
    run = Run(run.folder, run.recipe, run.folder.read_json("run.json"))
    killed = observe.Meter(run, ["stage"])
    run.info["attempts"].append({"started": "", "ended": None, "outcome": None})
    run.save()
    killed.now = observe.Now(stage="stage", step="stage", done=2, total=9)
    killed.book([fact(0, 5.0, rows_read=11), fact(1, 5.0)])
    killed.save_live()
    shown = CliRunner().invoke(app, ["metrics", str(folder)])
    assert shown.exit_code == 0 and "2 of 9 tasks done" in shown.output, shown.output
    told = json.loads(CliRunner().invoke(app, ["metrics", str(folder), "--json"]).output)
    assert told["stages"]["stage"]["rows_read"] == 11 and told["now"]["done"] == 2
    with observe.measuring(run, ["stage"]) as meter, meter.stage("stage"):
        for_each(spark, ["good"], fail, "stage")
    log.start(None)
    facts, attempts = stages_of(folder)["stage"]["metrics"], run.folder.read_json("run.json")["attempts"]
    assert facts["attempts"] == 3 and facts["rows_read"] == 11 and facts["seconds"] > failed["seconds"]
    assert facts["tasks"] == failed["tasks"] + 2 + 1 and facts["failed_tasks"] == failed["failed_tasks"]
    assert [a["outcome"] for a in attempts] == ["failed", "killed", "done"]
    assert "hunter2" not in json.dumps(attempts) and "cannot read" in attempts[0]["error"]
    assert not (folder / observe.LIVE).exists()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (told,) = [line for line in lines if line["event"] == "task.failed"][:1]
    assert told["part"] == "bad" and "InputError: cannot read https://***@host" in told["reason"]
    assert told["run"] == str(folder) and told["stage"] == told["step"] == "stage" and told["level"] == "warning"
    assert "hunter2" not in (tmp_path / "log").read_text() and "abcdef" not in (tmp_path / "log").read_text()
    events = [line["event"] for line in lines]
    assert events[0] == "run.opened" and "run.resumed" in events and events[-1] == "run.end"
    assert {f"`{event}`" for event in events} <= set(re.findall(r"`[^`]+`", DOCS.read_text()))


def test_a_run_that_is_well_is_told_of_from_end_to_end(worked: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    stages, _ = worked
    # The log lies beside run.json of that run.
    runs = [p for p in worked[1].parent.iterdir() if p.name.startswith("worked")]
    lines = [json.loads(line) for line in (runs[0] / "log").read_text().splitlines()]
    ends = {line["stage"]: line["metrics"] for line in lines if line["event"] == "stage.end"}
    assert list(ends) == ["warm", "burn", "child", "memory"]
    assert all(ends[stage][name] == stages[stage]["metrics"][name] for stage in ends for name in METRICS)
    assert [line["level"] for line in lines] == ["info"] * len(lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)


SECRETS = {
    "s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI@bucket/key": "s3://***@bucket/key",
    "https://host/a?x=1&X-Amz-Credential=me%2F2026&X-Amz-Signature=ab12&y=2": (
        "https://host/a?x=1&X-Amz-Credential=***&X-Amz-Signature=***&y=2"
    ),
    "https://acc.blob.net/c?sv=2024&sig=a%2Bb%3D": "https://acc.blob.net/c?sv=2024&sig=***",
    "aws_secret_access_key = wJalr/K7MDENG": "aws_secret_access_key = ***",
    '{"client_kwargs": {"secret": "wJalr", "region": "eu"}}': '{"client_kwargs": {"secret": "***", "region": "eu"}}',
    "spark.hadoop.fs.s3a.secret.key=wJalr": "spark.hadoop.fs.s3a.secret.key=***",
    "Authorization: Bearer abcdefghijkl": "Authorization: Bearer ***",
    "key ASIAIOSFODNN7EXAMPLE is no longer valid": "key *** is no longer valid",
    "https://host/tokens/web?page=3 read 12 tokens: keys 5": "https://host/tokens/web?page=3 read 12 tokens: keys 5",
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_masked_and_nothing_else_is(text: str) -> None:
    assert masked(text) == SECRETS[text]


def test_workers_tell_of_a_failure_on_their_stderr_where_logs_are_asked_for() -> None:
    code = """
import gc
from jobs.log import Settings
from jobs.measures import Probe
def fail(item): raise ValueError("password=hunter2 is wrong")
for settings in (None, Settings("run.log", "json")):
    probe = Probe("step", 1, print, True, settings, {"run": "out", "stage": "stage"})
    try: list(probe.over(fail, 3, ["a/part"]))
    except ValueError as error: print(error.__notes__)
assert gc.get_freeze_count() > 1000  # or Spark's daemon looks at all of it after every task
frozen = gc.get_freeze_count()
list(probe.over(lambda item: (), 4, []))
assert gc.get_freeze_count() <= frozen  # what each of many tasks leaves is collected
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["['part: a/part']"] * 2
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert (told["event"], told["part"], told["task"], told["stage"]) == ("task.error", "a/part", 3, "stage")
    assert told["reason"] == "ValueError: password=*** is wrong"


def test_logs_as_text_and_formats_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAWLMILL_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("CRAWLMILL_LOG_FORMAT", "text")
    log.start(log.asked())
    with log.about(run="out"):
        log.event("stage.end", seconds=1.5, reason="two words", left=None)
    log.start(None)
    log.event("stage.end")
    assert (tmp_path / "log").read_text()[9:] == 'info    stage.end run=out seconds=1.5 reason="two words"\n'
    with pytest.raises(UsageError, match="formats: json, text"):
        log.asked("-", "xml")


def test_prometheus_reads_a_run_that_goes_on(spark: Any, tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    scraped: list[str] = []

    def scrape(done: int, total: int) -> None:
        with urllib.request.urlopen(address) as answer:
            scraped.append(answer.read().decode())

    def slow(_: int) -> None:
        time.sleep(0.8)

    with serving(0) as address:
        assert address.startswith("http://127.0.0.1:")
        with observe.measuring(run, ["stage", "later"]) as meter:
            with meter.stage("stage"):
                for_each(spark, [1, 2, 3], slow, "a step", partitions=3, watch=scrape)
            observe.tell(read=7, kept=4, dropped=3)
            scrape(3, 3)
        with pytest.raises(UsageError, match="cannot serve metrics"), serving(int(address.split(":")[2].split("/")[0])):
            pass
    first, last = (
        {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        for text in (scraped[0], scraped[-1])
    )
    assert first["crawlmill_stage_state", "stage"] == 1 and first["crawlmill_stage_state", "later"] == 0
    assert first["crawlmill_step_running", "a step", "stage"] == 1
    assert last["crawlmill_tasks_total", "stage"] == 3 and last["crawlmill_task_seconds_total", "stage"] >= 2.4
    assert last["crawlmill_task_duration_seconds_bucket", "+Inf", "stage"] == 3
    assert last["crawlmill_task_duration_seconds_bucket", "0.5", "stage"] == 0
    assert (last["crawlmill_outcomes", "kept"], last["crawlmill_outcomes", "read"]) == (4, 7)
    assert last["crawlmill_last_progress_time_seconds",] >= last["crawlmill_run_start_time_seconds",]
    assert last["crawlmill_step_tasks",] == last["crawlmill_step_tasks_done",] == 3
    documented = DOCS.read_text()
    sums = {f"crawlmill_{name}_total" for name in SUMS}
    for text in scraped:
        for family in text_string_to_metric_families(text):
            name = family.name + ("_total" if family.type == "counter" else "")
            assert name in sums or f"`{name}" in documented, name
    with pytest.raises(OSError):  # the server ends with the block
        scrape(0, 0)


def test_every_key_of_run_json_is_documented(finished: Run) -> None:
    info, documented = finished.folder.read_json("run.json"), DOCS.read_text()
    keys = {*info, *info["host"], *(key for facts in info["stages"].values() for key in facts)} - {"system", "python"}
    keys |= {key for attempt in info["attempts"] for key in attempt} - {"cores"}
    for facts in info["stages"].values():
        keys |= set(facts["metrics"])
        for step in facts["metrics"]["steps"].values():
            assert set(step) == {*METRICS, "histogram"}
    assert {key for key in keys if f"`{key}`" not in documented} <= {"cores"}
    for name, (unit, meaning) in METRICS.items():
        assert f"| `{name}` | {unit} | {meaning} |" in documented


def test_a_finished_run_says_what_it_took(finished: Run) -> None:
    stages = finished.folder.read_json("run.json")["stages"]
    took = {stage: facts["metrics"] for stage, facts in stages.items()}
    read = sum(m["tables"]["records"]["rows"] for m in finished.manifests("extract"))
    assert took["extract"]["records"] == read
    assert took["extract"]["bytes_read"] == sum(file["size"] for file in finished.info["inputs"])
    assert took["extract"]["items"] == took["annotate"]["items"] == len(finished.tasks)
    assert took["extract"]["cpu_child_seconds"] > 0 and took["extract"]["peak_child_bytes"] > 50 * MEGABYTE
    assert took["curate"]["shuffle_written_bytes"] == took["curate"]["shuffle_read_bytes"] > 0
    tables = {
        "extract": ("documents", "inputs", "records"),
        "annotate": ("edits", "signals"),
        "curate": ("curated", "ledger"),
    }
    for stage, names in tables.items():
        written = [m["tables"][name] for m in finished.manifests(stage) for name in names]
        assert took[stage]["rows_written"] == sum(table["rows"] for table in written)
        assert took[stage]["bytes_written"] == sum(table["bytes"] for table in written)
    assert all(took[stage]["attempts"] == 1 for stage in took)
    assert not finished.folder.has(observe.LIVE)
    shown = CliRunner().invoke(app, ["metrics", finished.folder.path, "--steps"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "curate: receive" in shown.output and "slowest part: " in shown.output


def test_a_run_that_measured_nothing_says_so(tmp_path: Path) -> None:
    empty_run(tmp_path).save()
    shown = CliRunner().invoke(app, ["metrics", str(tmp_path)])
    assert isinstance(shown.exception, UsageError) and "has measured nothing yet" in str(shown.exception)
