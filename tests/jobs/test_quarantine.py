"""A record that ends every worker that touches it costs itself; the machine's failures cost nothing but time."""

import ctypes
import errno
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import SparkSession
from rich.console import Console
from test_hostile import HTML, warc
from test_run import digests

from classifiers.scorer import Scorer, Scores
from jobs import annotate, extract, failures, quarantine, runs, score
from jobs.curate import outcome_counts
from jobs.exchange import Parcel
from jobs.extract import ExtractPart, Work
from jobs.quarantine import Lost, isolate
from jobs.run import run
from jobs.runs import Run, Task, existing_run
from jobs.store import RunFolder
from pipeline.annotation import Measured, Measurement
from pipeline.errors import CrawlmillError, StorageError, UsageError
from pipeline.recipe import Recipe, parse_recipe
from pipeline.sources import formats

PLACES = ("harbour", "orchard", "quarry", "museum", "station", "library", "bakery", "tower")


def prose(number: int, word: str = "ferry") -> bytes:
    """A page of English that the default recipe keeps, unlike those of other numbers."""
    lines = (
        f"<p>On day {day * 7 + number} of that year the {word} to the {PLACES[(day + number) % 8]} carried {number + day} "
        f"letters, a crate of tools for workshop {number * 31 + day}, and {PLACES[(day * 3 + number) % 8]} keepers who "
        f"had asked the council about the road beside the {PLACES[(day * 5 + number) % 8]}.</p>"
        for day in range(9)
    )
    return ("<html><body><article>" + "".join(lines) + "</article></body></html>").encode()


def die(how: str) -> None:
    """Ends this process, or raises, in one of the ways in which native code and bugs do."""
    if how == "exit":
        os._exit(9)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "memory":
        raise MemoryError
    raise AttributeError("no such thing")


WHYS = {
    "exit": "exited with status 9",
    "kill": "killed by SIGKILL",
    "segfault": "killed by SIGSEGV",
    "memory": "ran out of memory",
    "raise": "AttributeError: no such thing",
}
WAYS = tuple(WHYS)
DEATHS = ("exit", "segfault", "memory")


def url(item: Any) -> str:
    return getattr(item, "url", None) or ""


@contextmanager
def planted(fails: Callable[[str], str | None]) -> Iterator[None]:
    """Readers, measures and scores that die at a text or an address for which `fails` says how."""
    real = formats.read_archive, Measurement.annotate, Scorer.score

    def read_archive(*args: Any, **more: Any) -> Iterator[formats.Item]:
        for item in real[0](*args, **more):
            if how := fails(url(item)):
                die(how)
            yield item

    def annotate(self: Measurement, batch: pa.RecordBatch) -> Measured:
        dies_at(batch.column("text"), "measured")
        return real[1](self, batch)

    def score(self: Scorer, texts: pa.Array, languages: pa.Array) -> Scores:
        dies_at(texts, "scored")
        return real[2](self, texts, languages)

    def dies_at(texts: pa.Array, when: str) -> None:
        for text in texts.to_pylist():
            for how in WAYS:
                if f"{when}-{how}" in text and fails(f"{when}-{how}"):
                    die(how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "read_archive", read_archive)
        patch.setattr(Measurement, "annotate", annotate)
        patch.setattr(Scorer, "score", score)
        yield


def named(address: str) -> str | None:
    """How a reader dies at an address that ends with the name of a way; whoever looks at a text that says so, too."""
    return next((how for how in WAYS if address.endswith(f"-{how}")), None)


def pages(host: str, odd: dict[int, str], n: int = 12) -> bytes:
    """A WARC of pages, each at an address with its number; `odd` are the last words of the addresses of some."""
    return warc((f"http://{host}.example/{i}{odd.get(i, '')}", prose(i + 50 * len(host)), HTML) for i in range(n))


def work_of(path: Path, *cuts: int) -> list[Work]:
    """Tasks that together read a file, cut at these bytes."""
    size = path.stat().st_size
    edges = [0, *cuts, size]
    return [Work(Task(f"p{a}", str(path), a, b), size, []) for a, b in itertools.pairwise(edges)]


def isolated(recipe: Recipe, work: list[Work]) -> tuple[pa.Table, pa.Table, list[dict[str, Any]]]:
    """Records, documents, and what was put aside of several tasks."""
    found = [ExtractPart("nowhere", recipe).isolated(one) for one in work]
    tables = (pa.concat_tables([getattr(part, name) for part, _ in found]) for name in ("records", "documents"))
    return (*tables, [lost for _, several in found for lost in several])


@pytest.mark.parametrize("how", WAYS)
def test_the_record_that_ends_its_reader_is_found_wherever_files_are_cut(
    how: str, tolerant: Recipe, tmp_path: Path
) -> None:
    odd = (3, 4, 11) if how == "raise" else (5,)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(pages("a", dict.fromkeys(odd, f"-{how}")))
    records, documents, _ = isolated(tolerant, work_of(path))
    assert records.num_rows == documents.num_rows == 12
    second = records.column("warc_offset")[4].as_py()
    ways = [(), (path.stat().st_size // 4, second), (second, second + 1, second + 900)] if how == "raise" else [()]
    with planted(named):
        found = [isolated(tolerant, work_of(path, *cuts)) for cuts in ways]
    for cut_records, cut_documents, aside in found:
        assert cut_records.equals(found[0][0]) and cut_documents.equals(found[0][1]) and aside == found[0][2]
    rows = cut_records.to_pylist()
    assert [row["reason"] for row in rows] == ["source.quarantined" if i in odd else None for i in range(12)]
    for i, row in enumerate(records.to_pylist()):
        assert [rows[i][name] for name in ("warc_offset", "warc_length")] == [row["warc_offset"], row["warc_length"]]
    assert cut_documents.equals(documents.filter(pa.array([i not in odd for i in range(12)])))
    assert [one["offset"] for one in aside] == [rows[i]["warc_offset"] for i in odd]
    bad = rows[odd[0]]
    assert bad["outcome"] == "error" and bad["error"] == aside[0]["error"] and "\n" not in bad["error"]


def test_the_account_of_a_file_in_pieces_is_that_of_the_whole(tolerant: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(pages("a", {5: "-kill"}) + b"no archive " * 9 + pages("b", {}))
    (work,) = work_of(path)
    whole, none = ExtractPart("nowhere", tolerant).isolated(work)
    with planted(named):
        part, lost = ExtractPart("nowhere", tolerant).isolated(work)
    (before,), (after,) = whole.inputs.to_pylist(), part.inputs.to_pylist()
    assert none == [] and before["n_damaged"] == 1 and after["n_read"] == before["n_read"] == 25
    assert after["n_damaged"] == 2 and after["n_bytes_lost"] == before["n_bytes_lost"] + lost[0]["length"]


def test_what_is_too_much_at_once_is_done_in_pieces() -> None:
    def work(start: int, end: int) -> list[int]:
        if end - start > 3:
            raise MemoryError
        return list(range(start, end))

    assert [i for piece in isolate(work, 0, 20) for i in piece] == list(range(20))


def test_a_part_that_fails_everywhere_is_put_aside_in_stretches() -> None:
    def work(start: int, end: int) -> int:
        if end > 100:
            raise ValueError("odd bytes")
        return end - start

    found = list(isolate(work, 0, 1 << 20))
    assert sum(piece for piece in found if isinstance(piece, int)) == 100
    lost = [piece for piece in found if isinstance(piece, Lost)]
    assert len(lost) < 40 and lost[0].start == 100 and lost[-1].end == 1 << 20
    assert all(a.end == b.start for a, b in itertools.pairwise(lost)) and lost[0].why == "ValueError: odd bytes"


def test_the_machine_s_failures_are_no_records(tmp_path: Path) -> None:
    def full(start: int, end: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def ours(start: int, end: int) -> None:
        raise StorageError("cannot write there")

    for work, words in ((full, "No space left"), (ours, "cannot write there")):
        with pytest.raises(StorageError, match=words):
            list(isolate(work, 0, 100))


def test_a_single_death_is_forgiven(tmp_path: Path) -> None:
    def work(start: int, end: int) -> str:
        with suppress(FileExistsError):
            (tmp_path / f"{start}-{end}").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    assert list(isolate(work, 0, 1)) == ["done"]


def test_a_fault_of_many_parts_is_no_matter_of_pages(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lost = [{"file": "f", "offset": 7, "length": 1, "doc_id": "d", "error": "killed by SIGSEGV"}]
    for i in range(3):
        quarantine.put_aside(folder, "extract", f"p{i}", lost, 0.01)
    with pytest.raises(CrawlmillError, match=r"4 parts fail .*f:7: killed by SIGSEGV.*--retry-quarantined"):
        quarantine.put_aside(folder, "extract", "p4", lost, 0.01)
    quarantine.put_aside(folder, "extract", "p1", lost, 0.01)  # the same again
    quarantine.put_aside(folder, "annotate", "p4", lost, 0.01)
    for i in range(100):
        folder.write_json(f"_manifests/extract/{i}.json", {})
    quarantine.put_aside(folder, "extract", "p4", lost, 0.01)
    quarantine.forget(folder, "extract", ["p1"])
    assert folder.list("_quarantine/extract") == ["_quarantine/extract/p1.json"]


@dataclass(frozen=True)
class Planted:
    """A task of Spark's that meets pages at which workers die."""

    task: Any

    def __call__(self, work: Any) -> None:
        with planted(named):
            self.task(work)


class PlantedScores(score._Scores):
    """Scoring that does."""

    def send(self, part: str) -> Iterator[Parcel]:
        with planted(named):
            yield from list(super().send(part))


@pytest.fixture(scope="module")
def retrying() -> Iterator[str]:
    """A Spark that tries again, as `crawlmill run` and clusters do, and not that of the other tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    others = SparkSession.getActiveSession()
    if others is not None:
        others.stop()
    yield "local[2,3]"
    own = SparkSession.getActiveSession()
    if own is not None:
        own.stop()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def odd_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives with pages that end who reads, measures or scores them, and some that only stand beside."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "a.warc.gz").write_bytes(pages("aa", {i: f"-{how}" for i, how in enumerate(DEATHS)}))
    bodies = [prose(200 + i) for i in range(12)]
    for i, word in ((4, "measured-segfault"), (5, "measured-raise"), (9, "scored-kill")):
        bodies[i] = prose(200 + i, word)
    (folder / "b.warc.gz").write_bytes(warc((f"http://b.example/{i}", body, HTML) for i, body in enumerate(bodies)))
    (folder / "c.warc.gz").write_bytes(pages("cccc", {}))
    return folder


RECIPE = parse_recipe(
    "name: odd\nextraction: {engine: resiliparse}\ninputs: {tolerate: 1}\n"
    "score: {heads: {toxicity: {model: toxicity, sentences: true}}}\n"
)


@pytest.fixture(scope="module")
def quarantined(retrying: str, odd_web: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over them."""
    return planted_run(odd_web, tmp_path_factory.mktemp("quarantined") / "out", retrying)


def planted_run(web: Path, output: Path, master: str) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((extract, "ExtractPart"), (annotate, "AnnotatePart")):
            real = getattr(module, name)
            patch.setattr(module, name, lambda *args, real=real: Planted(real(*args)))
        patch.setattr(score, "_Scores", PlantedScores)
        return run(RECIPE, [str(web)], str(output), master=master)


@pytest.mark.spark
def test_a_run_survives_them_and_says_so(quarantined: Run, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["warc_file", "warc_offset", "url", "outcome", "reason", "rule_hits", "error"]
    rows = quarantined.folder.scan("ledger", None, columns).sort_by(
        [("warc_file", "ascending"), ("warc_offset", "ascending")]
    )
    rows = rows.to_pylist()
    errors = [(row["url"], row["reason"], row["error"]) for row in rows if row["outcome"] == "error"]
    assert errors == [
        *((None, "source.quarantined", why) for why in (WHYS[how] for how in DEATHS)),
        ("http://b.example/4", "annotate.quarantined", "killed by SIGSEGV"),
        ("http://b.example/5", "annotate.quarantined", "AttributeError: no such thing"),
        ("http://b.example/9", "score.quarantined", "killed by SIGKILL"),
    ]
    assert all(row["rule_hits"] == [row["reason"]] for row in rows if row["outcome"] == "error")
    assert outcome_counts(quarantined) == {"kept": 30, "dropped": 0, "error": 6}
    facts = existing_run(quarantined.folder.path).info["quarantined"]
    assert {stage: (one["parts"], one["records"]) for stage, one in facts.items()} == {
        "extract": (1, 3), "annotate": (1, 2), "score": (1, 1)
    }  # fmt: skip
    failures.show_quarantined(Console(width=500), quarantined)
    failures.show(Console(width=500), quarantined)
    said = capsys.readouterr().out
    assert said.startswith("quarantined: 6 records in 3 parts (extract, annotate, score)") and "a.warc.gz:0" in said
    assert "a.warc.gz  counts as unreadable: 3 of 12 records failed" in said and "killed by SIGSEGV" in said


@pytest.mark.spark
def test_it_is_tried_again_when_asked_for(
    quarantined: Run, retrying: str, odd_web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(quarantined.folder.path, output)
    before = digests(output)
    monkeypatch.setattr(runs, "code_version", lambda: "99")
    with pytest.raises(UsageError, match="--retry-quarantined"):
        run(RECIPE, [str(odd_web)], str(output), master=retrying)
    again = run(RECIPE, [str(odd_web)], str(output), master=retrying, retry_quarantined=True)
    sound = run(RECIPE, [str(odd_web)], str(tmp_path / "sound"), master=retrying)
    assert outcome_counts(again) == {"kept": 36, "dropped": 0, "error": 0}
    assert digests(output) == digests(sound.folder.path) != before
    assert "quarantined" not in again.info and again.info["begun_by"] != "99" == again.info["crawlmill"]
    assert not list(output.glob("_quarantine/*/*"))
