"""Object storage: the same bytes as on a disk, whatever the store does on the way, and one run at a time."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from s3 import OWNER, Proxy, Request, objects, proxied, serving
from test_mix import TEXT, write_tokens
from test_remote import in_process

from jobs import deduplicate, locks, store
from jobs.curate import outcome_counts
from jobs.mix import mix
from jobs.runs import Run, existing_run
from jobs.store import RunFolder
from jobs.tokenise import tokenise
from pipeline.errors import CrawlmillError, InputError, StorageError, UsageError
from pipeline.mixing.options import parse_mix
from pipeline.recipe import load_recipe
from pipeline.sources import inputs, stores
from pipeline.sources.archive import read_archive
from pipeline.tokenizer.files import TokenizerFile

ROOT = Path(__file__).resolve().parents[2]
TABLE = pa.table({"a": np.arange(5000), "b": [f"text {i}" for i in range(5000)]})
TABLES = ("records", "documents", "signals", "duplicates", "ledger", "curated")
RECIPE = """
name: stored
rules: {gopher_quality: gopher_quality@datatrove}
dedup: {minhash: {}}
inputs: {tolerate: 1}
"""
KINDS = ("503", "500", "429", "reset", "cut", "stall")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("s3")) as port:
        yield port


@pytest.fixture(scope="module")
def between(server: int) -> Iterator[Proxy]:
    with proxied(server) as proxy:
        yield proxy


@pytest.fixture
def proxy(between: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The store as this process reaches it, through the proxy, and with little patience."""
    between.clear()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**OWNER, "AWS_ENDPOINT_URL": between.address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "PAUSE", 0.01)
    monkeypatch.setattr(stores, "STALL", 1)
    yield between
    between.clear()


def folder(name: str) -> RunFolder:
    return RunFolder(f"s3://bucket/{name}")


def first(*kinds: str, when: Callable[[Request], bool] = lambda _: True) -> Callable[[Request], str | None]:
    """The first requests of a sort fail, each in its way."""
    left = list(kinds)
    return lambda request: left.pop(0) if left and when(request) else None


def digests(path: str, *tables: str) -> dict[str, str]:
    """SHA-256 of every file of some tables, wherever they are."""
    there = RunFolder(path)
    names = [name for table in tables for name in there.list(table)]
    return {name: hashlib.sha256(there.read_bytes(name) or b"").hexdigest() for name in names}


def unfinished(proxy: Proxy) -> int:
    """Uploads that are neither complete nor given up."""
    system, _ = stores.filesystem("s3://bucket")
    return len(system.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", ()))


def test_files_come_back_in_few_requests(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder("plain")
    assert out.is_empty() and out.list("t") == [] and out.read_json("run.json") is None and not out.has("run.json")
    facts = out.write_table("t/x.parquet", TABLE)
    assert out.has("t/x.parquet") and not out.has("t") and not out.is_empty()
    proxy.clear()
    assert out.read_table("t/x.parquet").equals(TABLE)
    assert [(r.method, r.range) for r in proxy.seen] == [("GET", "")]
    proxy.clear()
    assert out.read_table("t/x.parquet", ["a"]).equals(TABLE.select(["a"]))
    assert [r.method for r in proxy.seen] == ["HEAD", "GET"]
    assert out.scan("t", pc.field("a") > 4990, ["b"]).num_rows == 9
    assert hashlib.sha256(out.read_bytes("t/x.parquet") or b"").hexdigest() == facts["sha256"]
    # Of a large file only what is asked for is fetched.
    monkeypatch.setattr(store, "SMALL", 0)
    keys = np.random.default_rng(1).bytes(400_000)
    wide = pa.table({"a": np.arange(4000), "b": [keys[i * 100 : i * 100 + 100] for i in range(4000)]})
    size = out.write_table("t/y.parquet", wide, row_group=200)["bytes"]
    proxy.clear()
    assert out.read_rows("t/y.parquet", "a", np.array([77, 2000]), ["a", "b"]).column("a").to_pylist() == [77, 2000]
    assert proxy.received < size / 4 and len(proxy.seen) <= 5
    out.remove("t/x.parquet")
    out.remove("t/x.parquet")
    out.remove_tree("t")
    out.remove_tree("t")
    assert out.is_empty() and out.read_bytes("t/x.parquet") is None


def test_what_others_write_is_seen_at_once(proxy: Proxy, server: int) -> None:
    out = folder("others")
    out.write_json("_manifests/a.json", 1)
    assert out.list("_manifests") == ["_manifests/a.json"]
    script = "from jobs.store import RunFolder; RunFolder('s3://bucket/others').write_json('_manifests/b.json', 2)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=dict(os.environ))
    assert out.list("_manifests") == ["_manifests/a.json", "_manifests/b.json"] and out.has("_manifests/b.json")
    assert list(out.read_documents(["_manifests/b.json", "_manifests/none.json", "_manifests/a.json"])) == [2, 1]


def test_thousands_of_manifests_are_a_few_listings(proxy: Proxy) -> None:
    out = folder("many")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: out.write_bytes(f"_manifests/extract/part-{i:05d}.json", b"{}"), range(1100)))
    proxy.clear()
    assert len(out.list("_manifests/extract", ".json")) == 1100 and len(proxy.seen) == 2
    proxy.clear()
    assert len(inputs.expand(["s3://bucket/many"], inputs.Wanted("x", ("*.json",)))) == 1100
    assert len(proxy.seen) <= 5  # sizes and marks are those of the listing


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_fails_once_or_twice_is_done_again(proxy: Proxy, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PART", 5 << 20)
    out = folder(f"flaky-{kind}")
    twice = (kind,) if kind == "stall" else (kind, kind)
    once = ("lost",) if kind == "cut" else twice  # of writes the answer is lost, though they were done
    body = np.random.default_rng(1).bytes(12_000_000)

    def big() -> None:
        with out.create("big.bin") as sink:
            sink.write(memoryview(body)[:7_000_000])
            sink.write(memoryview(body)[7_000_000:])

    def lines() -> list[str]:
        with inputs.open_input("s3://bucket/" + out.path.rpartition("/")[2] + "/big.bin") as stream:
            stream.seek(6_000_000)
            return [hashlib.sha256(stream.read()).hexdigest()]

    steps: list[tuple[Callable[[], Any], tuple[str, ...], Any]] = [
        (lambda: out.write_json("x.json", {"a": 1}), once, None),
        (lambda: out.write_table("t/x.parquet", TABLE)["rows"], once, 5000),
        (big, once, None),
        (lambda: out.read_json("x.json"), twice, {"a": 1}),
        (lambda: out.read_table("t/x.parquet").equals(TABLE), twice, True),
        (lambda: out.read_table("t/x.parquet", ["a"]).num_rows, twice, 5000),
        (lambda: out.list(""), twice, ["big.bin", "t", "x.json"]),
        (lambda: out.has("x.json"), twice, True),
        (lambda: lines(), twice, [hashlib.sha256(body[6_000_000:]).hexdigest()]),
        (lambda: out.local_copy("big.bin", kind + proxy.address).read_bytes() == body, twice, True),
        (lambda: len(inputs.expand([f"{out.path}/*.bin"])), twice, 1),
        (lambda: out.remove("x.json"), once, None),
        (lambda: out.remove_tree("t"), once, None),
        (lambda: out.list("t"), twice, []),
    ]
    if kind == "stall":  # which costs a second each
        steps = [steps[0], steps[8]]
        steps.insert(1, (big, (), None))
    for act, kinds, expected in steps:
        proxy.clear()
        proxy.fault = first(*kinds)
        assert act() == expected
        assert proxy.faults == list(kinds)
    out.sweep()  # an upload whose beginning was not answered is known to nobody
    assert unfinished(proxy) == 0


def test_every_request_of_an_upload_in_parts_may_fail(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PART", 5 << 20)
    body = np.random.default_rng(2).bytes(11_000_000)
    out = folder("parts")
    for kind in ("503", "lost"):
        for query in ("uploads", "partNumber", "uploadId"):
            proxy.clear()
            only = first(kind, when=lambda r, q=query: q in r.query and (q == "partNumber" or r.method == "POST"))
            proxy.fault = only
            with out.create(f"{kind}-{query}") as sink:
                sink.write(body)
            assert proxy.faults == [kind]
            assert out.read_bytes(f"{kind}-{query}") == body
    out.sweep()
    assert unfinished(proxy) == 0


def test_a_store_that_stays_down_is_one_line_and_leaves_nothing(
    proxy: Proxy, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PART", 5 << 20)
    out = folder("down")
    out.write_json("ready.json", 1)
    monkeypatch.setattr(stores, "PATIENCE", 0.3)
    monkeypatch.setattr(stores, "FIRST_PATIENCE", 0.3)

    def write_large() -> None:
        with out.create("large.bin") as sink:
            sink.write(bytes(6 << 20))
            proxy.fault = lambda _: "503"
            sink.write(bytes(6 << 20))

    with pytest.raises(StorageError, match=r"cannot write s3://bucket/down/large.bin: gave up .*SlowDown.*overloaded"):
        write_large()
    asked = len(proxy.seen)
    for act in (
        lambda: out.write_json("x.json", 1),
        lambda: out.read_table("t/x.parquet"),
        lambda: out.read_json("ready.json"),
        lambda: out.list(""),
        lambda: out.remove("ready.json"),
        lambda: out.is_empty(),
        lambda: out.has("ready.json"),
    ):
        with pytest.raises(StorageError) as raised:
            act()
        assert "gave up after" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(InputError, match="gave up"):
        inputs.expand(["s3://bucket/down"])
    assert len(proxy.seen) - asked < 8 * 40  # a pause before each
    proxy.fault = lambda _: None
    assert objects(server, "down") == ["bucket/down/ready.json"]
    out.sweep()
    assert unfinished(proxy) == 0


def test_what_will_not_pass_is_said_at_once(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = folder("denied")
    out.write_json("x.json", 1)

    def said(act: Callable[[], Any], kind: type[CrawlmillError] = StorageError, most: int = 2) -> str:
        proxy.seen.clear()
        with pytest.raises(kind) as raised:
            act()
        assert len(proxy.seen) <= most and "\n" not in str(raised.value)
        return str(raised.value)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    assert out.read_json("x.json") == 1
    assert "AccessDenied" in said(lambda: out.write_json("x.json", 2))
    assert "and that they allow this" in said(lambda: out.remove("x.json"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "does not know these credentials" in said(lambda: out.read_json("x.json"))
    assert "AWS_PROFILE" in said(lambda: inputs.expand(["s3://bucket/denied/x.json"]), InputError)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "InvalidAccessKeyId" in said(lambda: out.write_json("x.json", 2))
    for name, value in OWNER.items():
        monkeypatch.setenv(name, value)
    gone = RunFolder("s3://nobucket/out")
    assert "make the bucket" in said(lambda: gone.write_json("x.json", 1))
    assert "check the address" in said(lambda: inputs.expand(["s3://nobucket/x.warc.gz"]), InputError)
    for status, words in (
        ("400", "have expired; renew"),
        ("301", "another region"),
        ("403", "set this machine's clock"),
    ):
        proxy.fault = lambda _, status=status: status
        assert words in said(lambda: out.read_json("x.json"), most=200 if status == "301" else 2)
    proxy.fault = lambda _: None
    monkeypatch.setenv("AWS_PROFILE", "none")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "a profile that there is" in said(lambda: out.read_json("x.json"), UsageError)


def test_credentials_come_from_a_profile_and_endpoints_from_the_environment(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder("profile").write_json("x.json", 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = owner\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.address)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert folder("profile").read_json("x.json") == 1


def test_a_public_bucket_needs_no_credentials(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (file,) = inputs.expand(["s3://public/*.txt"])
    with inputs.open_input(file.path) as stream:
        assert stream.read() == b"hello"
    assert not any("authorization" in request.headers for request in proxy.seen)
    with pytest.raises(StorageError, match="no credentials were found, so it was asked for without; set AWS_ACCESS"):
        folder("private").read_json("x.json")
    # Common Crawl's own bucket answers nobody without credentials, its web server everybody.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    path = "s3://commoncrawl/crawl-data/CC-MAIN-2024-10/warc.paths.gz"
    assert stores.filesystem(path)[1] == "https://data.commoncrawl.org/crawl-data/CC-MAIN-2024-10/warc.paths.gz"
    with pytest.raises(InputError, match="cannot be listed"):
        inputs.expand(["s3://commoncrawl/crawl-data/*.gz"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert stores.filesystem(path)[1].startswith("commoncrawl/")


def test_settings_of_fsspec_count(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": "true", "requester_pays": "true"})
    assert inputs.expand(["s3://public/hello.txt"])[0].size == 5
    assert all(r.headers.get("x-amz-request-payer") == "requester" for r in proxy.seen)
    assert not any("authorization" in request.headers for request in proxy.seen)


def test_packages_that_are_missing_are_named() -> None:
    for address, package in (("gs://b/out", "gcsfs"), ("abfs://c/out", "adlfs")):
        with pytest.raises(UsageError, match=f"pip install '{package}'"):
            RunFolder(address).write_json("x.json", 1)
        with pytest.raises(InputError, match=f"pip install '{package}'"):
            inputs.expand([f"{address}/x.warc.gz"])
    with pytest.raises(UsageError, match="cannot use hdfs://"):
        RunFolder("hdfs://namenode/out").write_json("x.json", 1)
    with pytest.raises(UsageError, match="cannot use gopher://"):
        RunFolder("gopher://h/out").read_json("x.json")


def test_a_forked_process_reaches_the_store(proxy: Proxy) -> None:
    folder("fork").write_json("x.json", 1)  # opens a connection, with a thread of its own
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=lambda: answer.put(folder("fork").read_json("x.json")))
    child.start()
    assert answer.get(timeout=30) == 1
    child.join()


def test_a_split_fetches_its_range(proxy: Proxy, sample_web: Path) -> None:
    archive = max(sample_web.glob("*.warc.gz"), key=lambda path: path.stat().st_size)
    body = archive.read_bytes() * (1 + 24_000_000 // archive.stat().st_size)
    RunFolder("s3://bucket/splits").write_bytes("a.warc.gz", body)
    (file,) = inputs.expand(["s3://bucket/splits/a.warc.gz"])
    parts = inputs.splits([file], 6_000_000)
    part = parts[1]
    proxy.clear()
    with inputs.open_input(part.path) as stream:
        rows = sum(1 for _ in read_archive(stream, part.path, part.start, part.end))
    assert rows and part.end is not None
    fetched = [tuple(int(n) for n in r.range.removeprefix("bytes=").split("-")) for r in proxy.seen if r.range]
    assert fetched[0][0] == 0 and fetched[0][1] < inputs.REMOTE_BLOCK / 2  # what it is
    assert min(begin for begin, _ in fetched[1:]) >= part.start
    assert max(last for _, last in fetched) < part.end + 2 * inputs.REMOTE_BLOCK
    assert proxy.received < part.end - part.start + 2 * inputs.REMOTE_BLOCK and len(proxy.seen) < 10


# One run at a time


def other_holder(name: str, seconds: float = 0) -> dict[str, Any]:
    """A lease of a process on another host."""
    held = {"host": "elsewhere", "pid": 1, "started": "7", "token": "theirs", "beat": 3}
    folder(name).write_json(locks.NAME, held)
    return held


def test_a_lease_keeps_others_out(proxy: Proxy, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder("lease")
    with out.lock():
        assert out.is_empty()
        out.write_json("x.json", 1)
        with pytest.raises(UsageError, match=r"in use by another run \(process \d+ on .*last sign of life"), out.lock():
            pass
    assert objects(server, "lease") == ["bucket/lease/x.json"]
    other_holder("lease")
    with pytest.raises(UsageError, match=r"process 1 on elsewhere, .* takes over 180 s after"), out.lock():
        pass
    monkeypatch.setattr(locks, "STALE", -1.0)
    with out.lock():
        assert out.read_json(locks.NAME)["pid"] == os.getpid()
    assert not out.has(locks.NAME)


def test_of_many_that_ask_at_once_one_gets_the_lease(proxy: Proxy) -> None:
    out = folder("race")
    holders, most, refused = [0], [0], [0]
    together = threading.Barrier(6)

    def ask(_: int) -> None:
        together.wait()
        try:
            with out.lock():
                holders[0] += 1
                most[0] = max(most[0], holders[0])
                time.sleep(1)
                holders[0] -= 1
        except UsageError:
            refused[0] += 1

    proxy.fault = first("lost", when=lambda r: r.method == "PUT")  # one has it and is not told
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    assert most == [1] and refused == [5]


def test_the_lease_of_a_dead_process_is_taken_over_at_once(proxy: Proxy) -> None:
    out = folder("dead")
    script = "import os; from jobs.store import RunFolder\n"
    script += "with RunFolder('s3://bucket/dead').lock(): os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL and out.has(locks.NAME)
    with out.lock():
        assert out.read_json(locks.NAME)["pid"] == os.getpid()


def test_a_lease_beats_and_a_lost_one_stops_its_holder(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.1)
    out = folder("lost")
    with pytest.raises(StorageError, match="taken over by process 1 on elsewhere; this run has stopped"), out.lock():
        while out.read_json(locks.NAME)["beat"] < 2:
            time.sleep(0.02)
        other_holder("lost")
        while not locks._HELD[out.path].lost:
            time.sleep(0.02)
        with pytest.raises(StorageError, match="taken over"):
            out.write_json("x.json", 1)
        with pytest.raises(StorageError, match="taken over"):
            out.remove("x.json")
    assert not out.has("x.json") and out.read_json(locks.NAME)["token"] == "theirs"


def test_a_lease_that_cannot_be_renewed_stops_its_holder(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.1)
    out = folder("cut-off")
    with out.lock():
        proxy.fault = lambda _: "reset"
        time.sleep(0.4)  # an outage
        proxy.fault = lambda _: None
        out.write_json("x.json", 1)
    monkeypatch.setattr(locks, "GRACE", 0.3)
    with pytest.raises(StorageError, match="could not be reached"), out.lock():
        proxy.fault = lambda _: "reset"
        time.sleep(0.5)
        out.write_json("x.json", 2)


def test_a_store_without_conditions_says_so(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stores.put
    monkeypatch.setattr(stores, "put", lambda path, body, new=False, instead_of=None, patience=None: whole(path, body))
    monkeypatch.setattr(locks, "BEAT", 0.1)
    out = folder("old")
    with pytest.warns(match="ignores conditional writes"), out.lock():
        with pytest.raises(UsageError, match="in use"), out.lock():
            pass
        assert out.has(locks.NAME)
    with pytest.warns(match="ignores"), pytest.raises(StorageError, match="taken over"), out.lock():
        other_holder("old")  # begun in the same moment
        time.sleep(0.5)


# Whole runs


@contextmanager
def started(arguments: list[str], proxy: Proxy, said: Path) -> Iterator[subprocess.Popen]:
    """The command line in a process of its own; what it leaves running is ended with it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {**OWNER, "AWS_ENDPOINT_URL": proxy.address, "PYTHONPATH": str(ROOT)}
    with said.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *arguments],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def crawl(proxy: Proxy, sample_web: Path) -> str:
    archive = min(sample_web.glob("*.warc.gz"), key=lambda path: path.stat().st_size)
    RunFolder("s3://bucket/crawl").write_bytes("a.warc.gz", archive.read_bytes())
    return "s3://bucket/crawl/a.warc.gz"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_run_from_s3_to_s3_that_is_killed_and_meets_an_outage(
    proxy: Proxy, server: int, crawl: str, recipe: Path, tmp_path: Path
) -> None:
    """Begun on Spark, whose workers find the store by themselves, killed, and taken up again on a store that fails."""
    near, far = str(tmp_path / "near"), "s3://bucket/out"
    in_process(load_recipe(str(recipe)), crawl, near)
    seen = 0

    def flaky(request: Request) -> str | None:
        nonlocal seen
        seen += 1
        return {7: "503", 23: "cut", 31: "429", 41: "lost", 43: "reset", 59: "500"}.get(seen % 61)

    proxy.clear()
    proxy.fault = flaky
    arguments = ["run", "--recipe", str(recipe), "--input", crawl, "--output", far]
    with started(arguments, proxy, tmp_path / "said") as killed:
        while killed.poll() is None and not objects(server, "out/_manifests/extract"):
            time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL, (tmp_path / "said").read_text()
    assert existing_run(far).done("extract")

    outage: list[float] = []

    def down(request: Request) -> str | None:
        """Away for a second, from the first results of comparing on."""
        if not outage and "/duplicates/" in request.key:
            outage.append(time.monotonic() + 1)
        return "reset" if outage and time.monotonic() < outage[0] else flaky(request)

    proxy.fault = down
    in_process(load_recipe(str(recipe)), crawl, far)
    assert proxy.faults.count("reset") > 3
    proxy.clear()
    assert outage and digests(far, *TABLES) == digests(near, *TABLES)
    assert outcome_counts(existing_run(far))["kept"] > 0
    assert not objects(server, "out/.lock")

    for name in ("one", "other"):
        shutil.copytree(near, tmp_path / name)
    indexes = {"one": str(tmp_path / "index"), "other": "s3://bucket/index"}
    for name, index in indexes.items():
        info = {key: value for key, value in existing_run(near).info.items() if key != "index"}
        run = Run(RunFolder(str(tmp_path / name)), load_recipe(str(recipe)), {**info, "stages": {}})
        deduplicate.check_index(run, index)
        with mock.patch.object(deduplicate, "LEAST_SHARDS", 2):
            deduplicate.deduplicate(None, run, None, index)
    assert digests(str(tmp_path / "one"), "duplicates") == digests(str(tmp_path / "other"), "duplicates")
    at = RunFolder(indexes["one"])
    (unit,) = at.list(at.list("crawls")[0])
    tables = [f"{unit}/{table}" for table in ("pages", "bands", "sketches")]
    assert digests(indexes["other"], *tables) == digests(indexes["one"], *tables) != {}
    assert not objects(server, "index/.lock")


def test_tokens_and_mixes_on_s3(
    proxy: Proxy, three: Path, whole: Path, tokenizer: TokenizerFile, tmp_path: Path
) -> None:
    texts = RunFolder("s3://bucket/texts")
    for path in three.glob("*.parquet"):
        texts.write_bytes(path.name, path.read_bytes())
    tokenise(["s3://bucket/texts"], "s3://bucket/books", tokenizer, source="books", extra=("ds", "npy"))
    made, near = digests("s3://bucket/books", ""), digests(str(whole), "")
    same = {name for name in near if made[name] == near[name]}
    # The other files name the inputs, which are called differently.
    assert same >= {name for name in made if not name.endswith((".json", ".docs.parquet"))} | {"tokenizer.json"}

    base = tmp_path / "mixing"
    write_tokens(base / "tokens" / "web", [300, 0, 170], 1)
    write_tokens(base / "tokens" / "wiki", [90, 40], 2)
    mix(parse_mix(TEXT), str(base / "mixed"), base)
    for path in sorted(p for p in (base / "tokens").rglob("*") if p.is_file()):
        RunFolder("s3://bucket/mixing").write_bytes(str(path.relative_to(base)), path.read_bytes())
    far = parse_mix(TEXT.replace("tokens/", "s3://bucket/mixing/tokens/"))
    proxy.fault = first("503", "cut", when=lambda r: r.method == "GET" and r.key.endswith(".bin"))
    mix(far, "s3://bucket/mixed")
    assert proxy.faults == ["503", "cut"]
    phases = ("pretrain/web", "pretrain/wiki", "anneal/web", "anneal/wiki")
    made, near = digests("s3://bucket/mixed", *phases), digests(str(base / "mixed"), *phases)
    assert (
        {name for name in near if made[name] == near[name]}
        >= {n for n in made if n.endswith((".bin", ".idx"))}
        != set()
    )
