"""Inputs over HTTP, and run folders on other file systems: the same bytes as from and on a disk. (S3: test_s3.py.)"""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.compute as pc
import pytest

from jobs import annotate, decontaminate, deduplicate, extract, score
from jobs.curate import curate, outcome_counts
from jobs.explain import extracted_text, find
from jobs.run import run
from jobs.runs import Run, existing_run, open_run
from pipeline.errors import InputError, UsageError
from pipeline.recipe import Recipe
from pipeline.scores import Scoring
from pipeline.sources import inputs, stores
from pipeline.sources.archive import Record, read_archive


class Server(http.server.ThreadingHTTPServer):
    """A server of one folder on loopback. /ranged/, /whole/ (no ranges) and /flaky/ (every third request fails)."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.gets = 0
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.server.gets += 1
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        _, kind, name = self.path.split("/", 2)
        path = self.server.folder / name
        if not path.is_file():
            return self._send(404, b"", {}, body)
        if kind == "flaky" and body and self.server.gets % 3 == 0:
            return self._send(503, b"", {}, body)
        data = path.read_bytes()
        if kind == "whole":
            return self._send(200, data, {}, body)
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._send(200, data, {"Accept-Ranges": "bytes"}, body)
        start, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        part = data[start : last + 1]
        ranged = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}
        return self._send(206, part, ranged, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "ETag": '"1"', "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def server(sample_web: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(stores, "PAUSE", 0.01)
    with Server(sample_web) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="session")
def archive(sample_web: Path) -> Path:
    return min(sample_web.glob("*.warc.gz"), key=lambda path: path.stat().st_size)


def without_names(done: Run) -> list[dict[str, object]]:
    """The ledger but for what the input was called."""
    rows = done.folder.scan("ledger", None).drop_columns(["warc_file"])
    return sorted(rows.to_pylist(), key=lambda row: (row["doc_id"], row["warc_offset"]))


def digests(folder: str) -> dict[str, str]:
    """SHA-256 of every curated and ledger shard, wherever the folder is."""
    system, root = fsspec.core.url_to_fs(folder)
    return {
        f"{table}/{path.rsplit('/', 1)[-1]}": hashlib.sha256(system.cat_file(path)).hexdigest()
        for table in ("curated", "ledger")
        for path in system.ls(f"{root}/{table}", detail=False)
    }


@pytest.mark.parametrize("kind", ["ranged", "whole", "flaky"])
def test_an_archive_over_http_is_the_archive(server: Server, archive: Path, kind: str) -> None:
    url = f"{server.address}/{kind}/{archive.name}"
    (file,) = inputs.expand([url])
    assert file.size == archive.stat().st_size
    with inputs.open_input(url) as remote, archive.open("rb") as local:
        theirs = list(read_archive(remote, "f"))
        assert theirs == list(read_archive(local, "f"))
    assert any(isinstance(item, Record) for item in theirs)


def test_a_split_over_http_fetches_its_range(server: Server, archive: Path) -> None:
    with inputs.open_input(f"{server.address}/ranged/{archive.name}") as remote:
        remote.seek(100)
        assert remote.read(50) == archive.read_bytes()[100:150]


def test_an_address_that_is_not_there_is_an_input_error(server: Server) -> None:
    with pytest.raises(InputError, match=r"none\.warc\.gz.*check the address"):
        inputs.expand([f"{server.address}/ranged/none.warc.gz"])
    with pytest.raises(InputError, match="cannot be read here"):
        inputs.expand(["gopherspace://h.example/x.warc.gz"])


@pytest.mark.spark
def test_a_run_over_http_gives_the_rows_of_a_run_over_files(
    server: Server, archive: Path, tolerant: Recipe, tmp_path: Path
) -> None:
    near = run(tolerant, [str(archive)], str(tmp_path / "near"), partitions=2, master="local[2]")
    far = run(
        tolerant,
        [f"{server.address}/ranged/{archive.name}", f"{server.address}/ranged/none.warc.gz"],
        str(tmp_path / "far"),
        partitions=2,
        master="local[2]",
    )
    rows = without_names(far)
    assert [r["reason"] for r in rows if r["doc_id"] not in {n["doc_id"] for n in without_names(near)}] == [
        "source.damaged"
    ]
    assert outcome_counts(far)["kept"] == outcome_counts(near)["kept"] > 0


def in_process(recipe: Recipe, archive: str, output: str) -> Run:
    """A whole run without Spark: memory:// lives in one process only."""
    opened = open_run(output, recipe, [archive], partitions=4)
    with opened.folder.lock():
        opened.folder.sweep()
        size = opened.info["inputs"][0]["size"]
        done = opened.done(extract.STAGE)
        for task in opened.tasks:
            if task.part not in done:
                extract.ExtractPart(opened.folder.path, recipe)(extract.Work(task, size, opened.files(task)))
            annotate.AnnotatePart(opened.folder.path, recipe)(task.part)
        score.score(None, opened)
        deduplicate.deduplicate(None, opened)
        decontaminate.decontaminate(None, opened)
        curate(None, opened)
        opened.record("curate", done=True)
    return opened


def test_a_run_folder_on_another_filesystem(archive: Path, tolerant: Recipe, tmp_path: Path) -> None:
    items = [
        {"id": str(i), "q": f"which of the {word} lamps of Farrow burns {i} nights"} for i, word in enumerate("abc")
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "benchmarks.yaml").write_text("benchmarks: [{name: b, path: items.jsonl, id: id, question: q}]\n")
    scoring = Scoring.model_validate({"heads": {"toxicity": {"model": "toxicity"}}, "quality": {"heads": ["toxicity"]}})
    tolerant = tolerant.with_benchmarks(tmp_path / "benchmarks.yaml").model_copy(update={"score": scoring})
    far, near = "memory://bucket/a run", str(tmp_path / "near")
    in_process(tolerant, str(archive), near)
    in_process(tolerant, str(archive), far)
    assert digests(far) == digests(near)
    again = existing_run(far)
    assert again.tasks and again.done("extract") == {task.part for task in again.tasks}
    row = find(again, again.folder.scan("ledger", pc.field("outcome") == "kept").column("url")[0].as_py())[0]
    assert extracted_text(again, row)
    other = tolerant.model_copy(update={"source": "another"})
    with pytest.raises(UsageError, match="choose a new folder"):
        open_run(far, other, [str(archive)])


def test_inputs_on_another_filesystem(archive: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/crawl/deep/a.warc.gz", archive.read_bytes())
    for pattern in ("memory://crawl", "memory://crawl/**/*.warc.gz", "memory://crawl/deep/a.warc.gz"):
        (file,) = inputs.expand([pattern])
        assert file.size == archive.stat().st_size
        with inputs.open_input(file.path) as far, archive.open("rb") as near:
            assert list(read_archive(far, "f")) == list(read_archive(near, "f"))
    with pytest.raises(InputError, match="no object matches"):
        inputs.expand(["memory://crawl/*.nothing"])
