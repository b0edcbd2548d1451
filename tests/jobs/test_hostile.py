"""The web at its worst, and machines at theirs: every record keeps its row, and every other page is read."""

import errno
import gzip
import io
import json
import multiprocessing
import os
import shutil
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow.compute as pc
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from jobs import run as job
from jobs import runs
from jobs.annotate import AnnotatePart
from jobs.curate import outcome_counts, redecide
from jobs.explain import find
from jobs.extract import ExtractPart, Work
from jobs.run import run
from jobs.runs import Run, Task, existing_run, file_accounts, open_run
from pipeline import pages
from pipeline.errors import InputError, StorageError, UsageError
from pipeline.pages import Extractor, PageBytes, PageText, Part
from pipeline.recipe import Recipe
from pipeline.sources.archive import read_archive
from pipeline.sources.inputs import InputFile

HTML = (("Content-Type", "text/html"),)
PROSE = (
    b"<html><body><article>"
    + b"".join(
        b"<p>On day %d the ferry brought letters, flour and two surveyors, who asked for the road to the lake.</p>"
        % day
        for day in range(12)
    )
    + b"</article></body></html>"
)


def warc(responses: Iterable[tuple[str, bytes, Sequence[tuple[str, str]]]]) -> bytes:
    """Bytes of a WARC with a gzip member a response."""
    sink = io.BytesIO()
    writer = WARCWriter(sink, gzip=True)
    for url, body, headers in responses:
        http = StatusAndHeaders("200 OK", list(headers), protocol="HTTP/1.1")
        when = {"WARC-Date": "2024-05-06T07:08:09Z"}
        record = writer.create_warc_record(
            url, "response", payload=io.BytesIO(body), http_headers=http, warc_headers_dict=when
        )
        writer.write_record(record)
    return sink.getvalue()


def extracted(recipe: Recipe, data: bytes) -> Part:
    """All of an archive through one Extractor."""
    with Extractor(recipe) as extractor:
        items = read_archive(io.BytesIO(data), "f", max_payload=recipe.extraction.max_bytes + 1)
        return extractor.extract(items, "f")


def limited(recipe: Recipe, **limits: object) -> Recipe:
    return recipe.model_copy(update={"extraction": recipe.extraction.model_copy(update=limits)})


def account(done: Run) -> dict[str, Counter[str]]:
    """Outcomes by file name, after checking that each file has a row for every record read."""
    counts: dict[str, Counter[str]] = {}
    for row in done.folder.scan("ledger", None, ["warc_file", "outcome"]).to_pylist():
        counts.setdefault(row["warc_file"], Counter())[row["outcome"]] += 1
    read: Counter[str] = Counter()
    for row in done.folder.scan("inputs", None, ["warc_file", "n_read"]).to_pylist():
        read[row["warc_file"]] += row["n_read"]
    for file, n in read.items():
        assert sum(counts.get(file, Counter()).values()) == n, file
    assert set(counts) <= set(read)
    by_name: dict[str, Counter[str]] = {}
    for file in read:
        by_name.setdefault(Path(file).name, Counter()).update(counts.get(file, Counter()))
    return by_name


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hang", "extraction.timeout"),
        ("abort", "extraction.crash"),
        ("kill", "extraction.crash"),
        ("allocate", "extraction.memory"),
        ("raise", "extraction.exception"),
    ],
)
def test_an_engine_that_fails_costs_one_page(
    tolerant: Recipe, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    real = pages.read_page

    def read_page(page: PageBytes, recipe: Recipe) -> PageText:
        if page.url and page.url.endswith("/7"):
            if how == "hang":
                time.sleep(600)
            if how == "abort":
                os.abort()
            if how == "kill":
                os.kill(os.getpid(), 9)
            if how == "allocate":
                bytearray(64 << 30)
            raise ValueError("no\nsuch\udcffthing")
        return real(page, recipe)

    monkeypatch.setattr(pages, "read_page", read_page)
    data = warc((f"http://h.example/{i}", PROSE, HTML) for i in range(20))
    part = extracted(limited(tolerant, timeout_s=1), data)
    rows = part.records.to_pylist()
    assert [row["url"] for row in rows] == [f"http://h.example/{i}" for i in range(20)]
    assert [row["reason"] for row in rows] == [reason if i == 7 else None for i in range(20)]
    assert rows[7]["outcome"] == "error" and rows[7]["error"] and "\n" not in rows[7]["error"]
    assert part.documents.column("doc_id").to_pylist() == [row["doc_id"] for row in rows if row["url"][-2:] != "/7"]


def bomb(n_mb: int) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(n_mb)) + squeeze.flush()


def test_bodies_that_are_too_large_are_gated_and_not_unpacked(tolerant: Recipe) -> None:
    recipe = limited(tolerant, max_bytes=1_000_000)
    packed = (*HTML, ("Content-Encoding", "gzip"))
    data = warc(
        [
            ("http://h.example/large", b"<p>" + b"many words here " * 4_000_000, HTML),
            ("http://h.example/bomb", bomb(300), packed),
            ("http://h.example/bomb-in-bomb", gzip.compress(bomb(300)), (*HTML, ("Content-Encoding", "gzip, gzip"))),
            ("http://h.example/good", PROSE, HTML),
        ]
    )
    part = extracted(recipe, data)
    assert part.records.column("reason").to_pylist() == ["gates.size"] * 3 + [None]
    assert part.records.column("n_payload_bytes")[0].as_py() == 64_000_003
    assert part.documents.num_rows == 1


ODD = {
    "nested": b"<div>" * 100_000 + b"deep" + b"</div>" * 100_000,
    "nested inline": b"<b><i>" * 50_000 + PROSE,
    "nested tables": b"<table><tr><td>" * 30_000 + PROSE,
    "nul": PROSE.replace(b"ferry", b"fer\0ry") + bytes(1000),
    "only nul": bytes(5000),
    "invalid utf-8": PROSE.replace(b"ferry", b"\xff\xfe\xc3\x28\x80"),
    "surrogates as bytes": b"<p>\xed\xa0\x80\xed\xbf\xbf</p>" + PROSE,
    "surrogates as references": b"<p>&#xD800;&#xDFFF;&#x110000;&#0;</p>" + PROSE,
    "truncated": PROSE[:-400] + b"<scr",
}


def test_odd_pages_are_rows_like_any_other(tolerant: Recipe) -> None:
    part = extracted(tolerant, warc((f"http://h.example/{i}", body, HTML) for i, body in enumerate(ODD.values())))
    errors = dict(zip(ODD, part.records.column("error").to_pylist(), strict=True))
    assert not any(errors.values()), errors
    assert part.records.num_rows == len(ODD)
    texts = part.documents.column("text").to_pylist()
    assert all("\0" not in text for text in texts)
    assert sum("surveyors" in text for text in texts) >= 5


@pytest.mark.parametrize(
    "charset", ["utf-7", "idna", "rot13", "zlib_codec", "unicode_escape", "\0\xff", "x" * 5000, "undefined"]
)
def test_charsets_that_are_none_do_no_harm(tolerant: Recipe, charset: str) -> None:
    part = extracted(
        tolerant, warc([("http://h.example/", PROSE, (("Content-Type", f"text/html; charset={charset}"),))])
    )
    assert "surveyors" in part.documents.column("text")[0].as_py()


def test_surrogates_and_nuls_in_addresses_and_headers(tolerant: Recipe) -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Odd: \xed\xa0\x80\0\xff\r\n\r\n" + PROSE
    addresses = [
        b"http://h.example/\xed\xa0\x80\xff", b"http://h.example/\0", b"http://[h", b"http://h.example:99999999/",
        b"no address", b"http://" + b"a." * 5000 + b"example/", b"http://xn--a.xn--b/", b"", b"http:///",
    ]  # fmt: skip
    records = [
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:\xed\xa0\x80%d>\r\nWARC-Date: 9999-99-99T99:99:99Z\r\n"
        b"WARC-Target-URI: %s\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
        % (i, address, len(body), body)
        for i, address in enumerate(addresses)
    ]
    part = extracted(tolerant, b"".join(records))
    assert part.records.num_rows == part.documents.num_rows == len(addresses)
    assert len(set(part.records.column("doc_id").to_pylist())) == len(addresses)


@pytest.fixture(scope="module")
def rubbish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs of which few are sound."""
    folder = tmp_path_factory.mktemp("rubbish")
    good = warc((f"http://good.example/{i}", PROSE, HTML) for i in range(5))
    (folder / "good, with space ü [1] %20.warc.gz").write_bytes(good)
    (folder / "twin.warc.gz").write_bytes(good)
    (folder / "cut.warc.gz").write_bytes(good[:-50])
    (folder / "text.warc.gz").write_text("<html>404 not found</html>\n")
    (folder / "empty.warc.gz").write_bytes(b"")
    (folder / "noise.warc.gz").write_bytes(b"\x1f\x8b\x08" + bytes(range(256)) * 20)
    (folder / "folder.warc.gz").mkdir()
    (folder / "endless.warc").write_bytes(
        b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 9223372036854775808\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    )
    (folder / "negative.warc").write_bytes(b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: -5\r\n\r\n\r\n\r\n")
    return folder


@pytest.fixture(scope="module")
def survived(rubbish: Path, tolerant: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over rubbish, given twice: as a folder and as a pattern."""
    output = tmp_path_factory.mktemp("survived") / "out put ü"
    inputs = [str(rubbish), str(rubbish / "t*.warc.gz")]
    return run(tolerant, inputs, str(output), partitions=2, master="local[2]")


@pytest.mark.spark
def test_rubbish_is_accounted_for(survived: Run) -> None:
    counts = account(survived)
    assert sum(counts["good, with space ü [1] %20.warc.gz"].values()) == 5
    assert counts["cut.warc.gz"]["error"] == 1 and sum(counts["cut.warc.gz"].values()) == 5
    assert counts["empty.warc.gz"] == {"error": 1}
    for name in ("text.warc.gz", "noise.warc.gz", "endless.warc", "negative.warc"):
        assert counts[name] == {"error": 1}, name
    assert "folder.warc.gz" not in counts


@pytest.mark.spark
def test_a_file_has_a_budget_of_its_own(survived: Run) -> None:
    accounts = {Path(file.path).name: file for file in file_accounts(survived)}
    assert set(accounts) == {
        "cut.warc.gz",
        "empty.warc.gz",
        "text.warc.gz",
        "noise.warc.gz",
        "endless.warc",
        "negative.warc",
    }
    cut = accounts["cut.warc.gz"]
    assert (cut.read, cut.errors) == (5, 1) and 0.2 <= cut.lost_share < 0.5
    assert [file.lost_share for file in accounts.values()] == sorted(
        (f.lost_share for f in accounts.values()), reverse=True
    )

    def check(**limits: float) -> None:
        inputs = survived.recipe.inputs.model_copy(update=limits)
        job.check_inputs(Run(survived.folder, survived.recipe.model_copy(update={"inputs": inputs}), survived.info))

    check(tolerate=0.95)
    with pytest.raises(InputError, match="6 of 8 input files"):
        check(tolerate=0.7, tolerate_file=0.1)
    with pytest.raises(InputError, match="5 of 8 input files"):
        check(tolerate=0.6, tolerate_file=0.5)


@pytest.mark.spark
def test_a_capture_in_two_files_counts_once(survived: Run) -> None:
    ledger = survived.folder.scan("ledger", pc.field("reason") == "same_record", ["warc_file", "doc_id"])
    curated = survived.folder.scan("curated", None, ["id"]).column("id").to_pylist()
    assert len(curated) == len(set(curated))
    assert Counter(Path(f).name for f in ledger.column("warc_file").to_pylist()) == {
        "good, with space ü [1] %20.warc.gz": 4,
        "twin.warc.gz": 5,
    }


@pytest.mark.spark
def test_what_cannot_be_opened_costs_itself(rubbish: Path, tolerant: Recipe, tmp_path: Path) -> None:
    (tmp_path / "broken.warc.gz").symlink_to(tmp_path / "nowhere")
    strict = tolerant.model_copy(update={"inputs": tolerant.inputs.model_copy(update={"tolerate": 0.01})})
    inputs = [str(rubbish / "twin.warc.gz"), str(tmp_path / "broken.warc.gz"), str(rubbish / "folder.warc.gz")]
    with pytest.raises(InputError, match=r"2 of 3 input files .*broken\.warc\.gz"):
        run(strict, inputs, str(tmp_path / "out"), master="local[2]")
    assert account(existing_run(str(tmp_path / "out"))) == {
        "twin.warc.gz": survivors(5),
        "broken.warc.gz": {"error": 1},
        "folder.warc.gz": {"error": 1},
    }


def survivors(n: int) -> Counter[str]:
    """Outcomes of `n` repetitive but readable pages."""
    return Counter({"dropped": n})


@pytest.mark.spark
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    finished: Run, tolerant: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "out")
    real, written = os.fsync, []

    def fsync(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "full")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match=r"no space left.*run the same command again") as caught:
            redecide(finished.folder.path, tolerant, output)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert not list(Path(output).glob("**/.*"))
    done = redecide(finished.folder.path, tolerant, output)
    again = redecide(finished.folder.path, tolerant, output)
    for table in ("ledger", "curated"):
        for shard in sorted(Path(finished.folder.path, table).glob("*.parquet")):
            assert Path(output, table, shard.name).read_bytes() == shard.read_bytes()
    assert outcome_counts(done) == outcome_counts(again) == outcome_counts(finished)


def test_an_output_below_a_file_is_refused_before_spark_starts(
    rubbish: Path, tolerant: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "session", lambda *_: pytest.fail("no session is needed to see this"))
    with pytest.raises((StorageError, UsageError), match=r"twin\.warc\.gz"):
        run(tolerant, [str(rubbish / "twin.warc.gz")], str(rubbish / "twin.warc.gz" / "out"))


@pytest.mark.spark
def test_a_folder_in_use_is_refused_and_left_alone(survived: Run, rubbish: Path, tolerant: Recipe) -> None:
    lock = Path(survived.folder.path, ".lock")
    lock.write_text(f'{{"host": "{socket.gethostname()}", "pid": {os.getppid()}}}')
    try:
        with pytest.raises(UsageError, match="in use"):
            run(tolerant, [str(rubbish), str(rubbish / "t*.warc.gz")], survived.folder.path)
        assert lock.exists()
    finally:
        lock.unlink()


@pytest.mark.spark
def test_a_half_deleted_run_is_an_error_in_words(survived: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(survived.folder.path, copy)
    shutil.rmtree(copy / "ledger")
    with pytest.raises(UsageError, match="no ledger"):
        find(existing_run(str(copy)), "http://good.example/1")
    (copy / "run.json").write_text("{")
    with pytest.raises(StorageError, match=r"run\.json"):
        existing_run(str(copy))


@pytest.mark.spark
def test_records_are_found_by_any_key(survived: Run) -> None:
    row = find(survived, "http://good.example/3")[0]
    place = f"{Path(row['warc_file']).name}:{row['warc_offset']}"
    for key in (row["doc_id"], place, f"{row['warc_file']}:{row['warc_offset']}"):
        assert row in find(survived, key)
    for key in ("", ":", ":0", "http://h.example:8080", "%", "é", "0" * 32):
        assert find(survived, key) == []


def test_edge_archives_are_accounted_for(shared_data: Callable[[str], Path], tolerant: Recipe, tmp_path: Path) -> None:
    done = run(tolerant, [str(shared_data("edge"))], str(tmp_path / "out"), partitions=2, master="local[2]")
    counts = account(done)
    total = outcome_counts(done)
    assert len(counts) > 80 and total["kept"] > 10
    assert sum(total.values()) == sum(sum(c.values()) for c in counts.values())
    assert counts["bitflips-in-members.warc.gz"]["error"] == 3
    broken = done.folder.scan("ledger", pc.field("outcome") == "error", ["reason"]).column("reason").to_pylist()
    assert set(broken) == {"source.damaged"}


def archives(n: int, size: int) -> list[InputFile]:
    """Files of a crawl, as an object store lists them."""
    return [InputFile(f"s3://crawl/warc/{i:06d}.warc.gz", size + i % 7, f"v{i}") for i in range(n)]


def test_a_crawl_of_any_size_is_so_many_tasks(
    tolerant: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n_files, size, n_tasks in (
        (3, 10_000_000, 6),
        (100, 1_000_000_000, 1600),
        (90_000, 10**9, 90_000),
    ):
        found = archives(n_files, size)
        monkeypatch.setattr(runs, "find_inputs", lambda *_, found=found: (found, {}))
        assert len(open_run(str(tmp_path / "never"), tolerant, ["x"], 3).tasks) == n_tasks
    assert not (tmp_path / "never").exists()


def test_tasks_stand_beside_run_json_and_are_planned_again_if_they_are_not_there(
    tolerant: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = archives(40, 1_000_000_000)
    monkeypatch.setattr(runs, "find_inputs", lambda *_: (found, {"gone*": "no file matches"}))
    output = tmp_path / "out"
    opened = open_run(str(output), tolerant, ["x"])
    opened.save()
    assert "tasks" not in json.loads((output / "run.json").read_text())
    assert (output / "tasks.json").stat().st_size < 40 * len(opened.tasks)
    assert opened.tasks[-1].problem == "no file matches" and len(opened.tasks) == 641
    assert existing_run(str(output)).tasks == opened.tasks == open_run(str(output), tolerant, ["x"], 99).tasks
    (output / "tasks.json").unlink()  # killed between the two
    again = open_run(str(output), tolerant, ["x"], 99)
    again.save()
    assert existing_run(str(output)).tasks == again.tasks == opened.tasks
    again.info["tasks"] = [*again.info["tasks"][:3], {"part": "own", "path": found[0].path, "start": 5, "end": 9}]
    again.save()
    assert existing_run(str(output)).tasks == [*opened.tasks[:3], Task("own", found[0].path, 5, 9)]


def test_two_attempts_at_one_part_write_the_same_bytes_side_by_side(
    tolerant: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with speculative execution. Whoever looks meanwhile finds files that are whole, or none."""
    web, alone, raced = tmp_path / "web.warc.gz", tmp_path / "alone", tmp_path / "raced"
    web.write_bytes(warc((f"http://h.example/{i}", PROSE, HTML) for i in range(8)))
    work = Work(Task("p", str(web), 0, web.stat().st_size), None, [])
    # Processes, as executors are: children of threads that fork at once share more than two attempts do.
    processes = multiprocessing.get_context("fork")
    waiting = processes.Barrier(2)
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        with suppress(threading.BrokenBarrierError):
            waiting.wait(timeout=5)  # both have written when either appears
        return real(self, target)

    def attempt(output: Path) -> None:
        ExtractPart(str(output), tolerant)(work)
        AnnotatePart(str(output), tolerant)("p")

    attempt(alone)
    monkeypatch.setattr(Path, "replace", replace)
    attempts = [processes.Process(target=attempt, args=(raced,)) for _ in range(2)]
    for one in attempts:
        one.start()
    for one in attempts:
        one.join(120)
    assert [one.exitcode for one in attempts] == [0, 0]
    files = sorted(p.relative_to(alone) for p in alone.rglob("*") if p.is_file())
    assert len(files) == 7 and files == sorted(p.relative_to(raced) for p in raced.rglob("*") if p.is_file())
    assert [name for name in files if (alone / name).read_bytes() != (raced / name).read_bytes()] == []
