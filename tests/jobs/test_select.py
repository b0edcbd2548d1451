"""Records of a crawl that a query on its index names: the exact bytes, however they are asked for, and what is wrong said."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crawl_server import CRAWL, Server, kinds_of, lay_out, serving, write_index

from jobs import index_query
from jobs.index_query import Query
from jobs.select_records import SELECTION, Source, count, select
from jobs.session import session
from pipeline.errors import InputError, UsageError
from pipeline.sources.archive import Record, read_archive
from pipeline.sources.origin import Manners

pytestmark = pytest.mark.spark

HASTY = Manners(pause=0.01, attempts=3)


@pytest.fixture(scope="module")
def mirror(sample_web: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(sample_web, tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def _server(mirror: Path) -> Iterator[Server]:
    with serving(mirror) as server:
        yield server


@pytest.fixture
def server(_server: Server) -> Server:
    _server.behave()
    return _server


@pytest.fixture(scope="module")
def spark() -> Any:
    return session("tests", "local[2]")


@pytest.fixture(scope="module")
def index(mirror: Path) -> list[dict[str, Any]]:
    """The index of successful captures."""
    files = sorted((mirror / "cc-index").rglob("subset=warc/*.parquet"))
    return [row for path in files for row in pq.read_table(path, partitioning=None).to_pylist()]


def selected(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "selection.parquet").to_pylist()


def digests(folder: Path) -> dict[str, str]:
    """Of all that a selection consists of, but for where it came from."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "selection.json"
    }


def check_bytes(folder: Path, mirror: Path) -> None:
    """Every record is where the table says, with the bytes that it has in the crawl, and the archives hold nothing else."""
    expected: dict[str, int] = {}
    for row in selected(folder):
        if row["problem"] is None:
            n = row["warc_record_length"]
            with (mirror / row["warc_filename"]).open("rb") as theirs, (folder / row["file"]).open("rb") as ours:
                theirs.seek(row["warc_record_offset"])
                ours.seek(row["offset"])
                assert theirs.read(n) == ours.read(n)
            expected[row["file"]] = expected.get(row["file"], 0) + n
        else:
            assert row["file"] is None and row["offset"] is None
    assert {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*.warc.gz")} == expected


WANTED = Query(where="content_languages LIKE 'eng%' AND length(url) > 50", mimes=("text/html",), statuses=(200,))


@pytest.fixture(scope="module")
def whole(_server: Server, mirror: Path, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A selection in shards of 200 kB."""
    _server.behave()
    output = tmp_path_factory.mktemp("selected") / "whole"
    select(Source(CRAWL, _server.address), WANTED, str(output), manners=HASTY, shard_bytes=200_000, connections=2)
    assert _server.behaviour.most_at_once <= 2
    return output


def test_what_a_query_names_is_fetched_byte_for_byte(
    whole: Path, mirror: Path, index: list[dict[str, Any]], server: Server
) -> None:
    rows = selected(whole)
    assert {(r["warc_filename"], r["warc_record_offset"]) for r in rows} == {
        (r["warc_filename"], r["warc_record_offset"])
        for r in index
        if (r["content_languages"] or "").startswith("eng")
        and len(r["url"]) > 50
        and r["content_mime_detected"] == "text/html"
    }
    assert 100 < len(rows) < len(index) and pq.read_schema(next((whole / "selection.parquet").iterdir())) == SELECTION
    assert kinds_of(rows, "problem") == {None: len(rows)}
    assert {r["fetch_time"] for r in rows} <= {
        r["fetch_time"].replace(tzinfo=rows[0]["fetch_time"].tzinfo) for r in index
    }
    check_bytes(whole, mirror)
    assert len(list((whole / "warc").iterdir())) > 3 and not (whole / "plan").exists()
    for path in (whole / "warc").iterdir():
        with path.open("rb") as file:
            assert all(isinstance(item, Record) for item in read_archive(file, path.name))
    # Again: nothing is asked for.
    select(Source(CRAWL, server.address), WANTED, str(whole), manners=HASTY, shard_bytes=200_000)
    assert not server.behaviour.asked


def test_the_bytes_depend_on_nothing_but_the_records(whole: Path, mirror: Path, spark: Any, tmp_path: Path) -> None:
    """Not on where the crawl is, how many ask, how records are put together, or the order of the index."""
    index = tmp_path / f"crawl={CRAWL}" / "subset=warc"
    index.mkdir(parents=True)
    files = sorted((mirror / "cc-index").rglob("subset=warc/*.parquet"))
    rows = [row for path in reversed(files) for row in pq.read_table(path, partitioning=None).to_pylist()]
    rows = rows[1::2] + rows[::2] + rows[:50]  # some of them twice
    for number in range(3):
        write_index(index / f"{number}.parquet", rows[number::3], row_group=37)
    source = Source(CRAWL, str(mirror), str(tmp_path / f"crawl={CRAWL}"))
    select(source, WANTED, str(tmp_path / "out"), connections=5, shard_bytes=200_000, gap=0)
    assert digests(tmp_path / "out") == digests(whole)


def test_a_draw_is_the_same_from_any_index(
    mirror: Path, index: list[dict[str, Any]], spark: Any, tmp_path: Path
) -> None:
    other = tmp_path / "subset=warc"
    other.mkdir()
    write_index(other / "all.parquet", index[::-1], row_group=11)

    def drawn(query: Query, folder: str | None = None) -> set[tuple[str, int]]:
        source = Source(CRAWL, str(mirror), folder)
        files = source.files(HASTY)
        frame = index_query.found(spark, files, {"crawl": CRAWL, "subset": "warc"}, query, HASTY)
        return {(row.warc_filename, row.warc_record_offset) for row in frame.toLocalIterator()}

    ten = drawn(Query(limit=10, seed=3))
    assert len(ten) == 10 and ten == drawn(Query(limit=10, seed=3), str(other))
    assert ten != drawn(Query(limit=10, seed=4)) and ten < drawn(Query(limit=15, seed=3), str(other))
    fifth = drawn(Query(sample=0.2, seed=3))
    assert fifth == drawn(Query(sample=0.2, seed=3), str(other)) and 0.15 < len(fifth) / len(index) < 0.25
    assert ten <= fifth and drawn(Query(sample=0.2, limit=10, seed=3)) == ten


CONDITIONS = {
    "url_host_tld = 'example' AND NOT (content_languages <=> 'eng')": ("=", "url_host_tld", "example"),
    "url_host_registered_domain IN ('a.example', 'example.org') OR fetch_status <> 200": (
        "or",
        ("in", "url_host_registered_domain", ["a.example", "example.org"]),
        ("not", ("=", "fetch_status", 200)),
    ),
    "url LIKE 'https://%' AND url LIKE '%.html' AND contains(url, 'a')": (
        "and",
        ("and", ("starts", "url", "https://"), ("ends", "url", ".html")),
        ("contains", "url", "a"),
    ),
    "content_languages NOT IN ('eng', 'fra')": ("not", ("in", "content_languages", ["eng", "fra"])),
    "content_languages IS NULL OR upper(content_languages) = 'ENG'": None,
    "200 <= fetch_status AND warc_record_length BETWEEN 1000 AND 2000": (
        "and",
        (">=", "fetch_status", 200),
        ("and", (">=", "warc_record_length", 1000), ("<=", "warc_record_length", 2000)),
    ),
    "fetch_time < timestamp'2024-05-20 12:00:00' AND subset = 'warc'": None,
    f"url_host_registered_domain IN ({', '.join(repr(f'h{i}.example') for i in range(30))}, 'example.org')": None,
    "url = 'it''s' OR url LIKE '%\\'%' OR true": None,
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_what_is_left_to_pyarrow_never_loses_a_record(
    mirror: Path, spark: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    query = Query(where)
    _, pushed = index_query._analysed(spark, index_query._condition(query))
    if CONDITIONS[where] is not None:
        assert str(CONDITIONS[where]) in str(pushed)
    files = Source(CRAWL, str(mirror)).files(HASTY)

    def found() -> set[str]:
        frame = index_query.found(spark, files, {"crawl": CRAWL, "subset": "warc"}, query, HASTY)
        return {f"{row.url} {row.warc_filename} {row.warc_record_offset}" for row in frame.toLocalIterator()}

    with_it = found()
    analysed = index_query._analysed
    monkeypatch.setattr(index_query, "_analysed", lambda *a: (analysed(*a)[0], None))
    assert with_it == found() and (with_it or "timestamp" in where)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("rand() < 0.1", "other records each time"),
        ("contentlanguages = 'isl'", "cannot be used.*contentlanguages"),
        ("url = ", "cannot be used"),
        ("url IN (SELECT url FROM other)", "cannot be used"),
        ("url", "cannot be used"),
        ("1 = 1) OR (1 = 1", None),
    ],
)
def test_conditions_that_are_none_are_refused(mirror: Path, spark: Any, tmp_path: Path, where: str, words: str) -> None:
    if words is None:
        assert count(Source(CRAWL, str(mirror)), Query(where))["records"] > 1000
        return
    with pytest.raises(UsageError, match=words):
        select(Source(CRAWL, str(mirror)), Query(where), str(tmp_path / "out"))


def test_counts_say_what_a_selection_would_be(mirror: Path, index: list[dict[str, Any]], server: Server) -> None:
    facts = count(Source(CRAWL, server.address), Query(languages=("eng",)), manners=HASTY)
    rows = [r for r in index if (r["content_languages"] or "").split(",")[0] == "eng"]
    assert (facts["records"], facts["bytes"]) == (len(rows), sum(r["warc_record_length"] for r in rows))
    assert facts["languages"] == [{"name": "eng", "records": len(rows), "bytes": facts["bytes"]}]
    domains = kinds_of(rows, "url_host_registered_domain")
    assert {d["name"]: d["records"] for d in facts["domains"][:3]} == dict(
        sorted(domains.items(), key=lambda i: (-i[1], i[0]))[:3]
    )
    assert all(a.path.startswith("/cc-index/") or a.path.endswith(".paths.gz") for a in server.behaviour.asked)


def spoil(rows: list[dict[str, Any]]) -> dict[int, str]:
    """Makes some rows of an index wrong; returns what should be said of them."""
    changes: list[tuple[dict[str, Any], str]] = [
        ({"warc_record_offset": rows[0]["warc_record_offset"] + 1}, "damaged: gzip member 1"),
        ({"warc_record_offset": 2_000_000_000}, "no bytes"),
        ({"warc_record_length": rows[2]["warc_record_length"] - 3}, "damaged: gzip member 1 is cut off"),
        ({"warc_record_length": rows[3]["warc_record_length"] + 400}, "damaged"),
        ({"url": "https://another.example/"}, "other url: http"),
        ({"content_digest": "A" * 32}, "other digest: sha1:"),
        ({"warc_filename": rows[6]["warc_filename"].replace("-0000", "-0077")}, "missing: "),
        ({"warc_filename": "../../../etc/passwd"}, "no place: the name"),
        ({"warc_record_offset": -5}, "no place: offset -5"),
        ({"warc_record_length": 2_000_000_000}, "no place: 2000000000 bytes"),
        ({"warc_record_offset": 0, "warc_record_length": 749}, ""),
        ({"content_digest": None}, ""),
    ]
    for number, (change, _) in enumerate(changes):
        rows[number].update(change)
    return {number: words for number, (_, words) in enumerate(changes)}


def test_an_index_that_is_wrong_costs_the_records_that_it_is_wrong_about(
    server: Server, mirror: Path, index: list[dict[str, Any]], spark: Any, tmp_path: Path
) -> None:
    rows = [dict(row) for row in index[100:150]]
    expected = spoil(rows)
    folder = tmp_path / "subset=warc"
    folder.mkdir()
    write_index(folder / "part.parquet", rows)
    source = Source(CRAWL, server.address, str(tmp_path))
    for _ in range(2):
        with pytest.raises(InputError, match=r"11 of 50 records could not be had"):
            select(source, Query(), str(tmp_path / "out"), manners=HASTY)
    told = {(r["url"], r["warc_filename"], r["warc_record_offset"]): r["problem"] for r in selected(tmp_path / "out")}
    for number, row in enumerate(rows):
        problem = told[(row["url"], row["warc_filename"], row["warc_record_offset"])]
        if expected.get(number) is None or number == 11:
            assert problem is None, number
        else:
            assert problem and problem.startswith(expected[number]), (number, problem)
    check_bytes(tmp_path / "out", mirror)
    info = select(source, Query(), str(tmp_path / "out"), manners=HASTY, tolerate=0.5)
    assert info["totals"]["selected"] == 50 and sum(info["totals"]["problems"].values()) == 11


def test_a_server_that_fails_stops_it_and_it_goes_on(
    server: Server, mirror: Path, whole: Path, spark: Any, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    arguments: dict[str, Any] = {"manners": HASTY, "shard_bytes": 200_000, "connections": 1}
    how = server.behave(faults={"00002.warc.gz": ["503"] * 99})
    with pytest.raises(InputError, match=r"shards are not fetched: .*00002.*503.*run the same command again"):
        select(Source(CRAWL, server.address), WANTED, output, **arguments)
    done = set(Path(output, "_manifests/select").iterdir())
    assert done and how.gets("00002.warc.gz") <= HASTY.attempts and not how.gets("00003.warc.gz")
    # What a process that was killed may leave: drafts, an archive of an attempt, the lock.
    Path(output, "warc", ".x.tmp").write_bytes(b"draft")
    Path(output, "warc", f"{CRAWL}-selected-00002-07.warc.gz").write_bytes(b"left behind")
    Path(output, ".lock").write_text(json.dumps({"host": os.uname().nodename, "pid": 2**22 + 1}))
    # Bytes that change on their way, or do not come, are asked for again.
    how = server.behave(faults={"00002.warc.gz": ["spoiled", "cut", "429:0", "cut"]})
    select(Source(CRAWL, server.address), WANTED, output, **arguments)
    assert digests(Path(output)) == digests(whole)
    assert not how.gets(".parquet") and not how.gets("00000.warc.gz")


def test_a_folder_that_holds_another_selection_is_refused(whole: Path, server: Server, tmp_path: Path) -> None:
    for source, query, words in (
        (Source(CRAWL, server.address), Query(limit=5), "query"),
        (Source("CC-MAIN-2024-10", server.address), WANTED, "source"),
    ):
        with pytest.raises(UsageError, match=rf"holds another selection \({words} differs\)"):
            select(source, query, str(whole), shard_bytes=200_000)
    (tmp_path / "thesis.tex").write_text("all I have")
    with pytest.raises(UsageError, match="not empty and holds no selection"):
        select(Source(CRAWL, server.address), WANTED, str(tmp_path))
    for query, words in ((Query(sample=1.5), "a sample of 1.5"), (Query(limit=0), "a limit of 0")):
        with pytest.raises(UsageError, match=words):
            select(Source(CRAWL, server.address), query, str(tmp_path / "x"))


def test_what_is_not_there_is_said(mirror: Path, server: Server, spark: Any, tmp_path: Path) -> None:
    for source, words in (
        (Source("CC-MAIN-2099-01", server.address), "`crawlmill fetch --list` names the crawls"),
        (Source(CRAWL, server.address, subset="robotstxt"), "lists no files of subset=robotstxt"),
        (Source(CRAWL, str(tmp_path / "none")), "no such folder"),
        (Source(CRAWL, str(mirror), str(tmp_path)), "holds no Parquet files"),
    ):
        with pytest.raises(InputError, match=words):
            select(source, WANTED, str(tmp_path / "out"), manners=HASTY)
    broken = tmp_path / "broken"
    shutil.copytree(mirror / "cc-index", broken / "cc-index")
    victim = next(broken.rglob("subset=warc/*.parquet"))
    sink = io.BytesIO()
    pq.write_table(pa.table({"url": [1, 2]}), sink)
    for body in (victim.read_bytes()[:-100], sink.getvalue()[:-8] + b"\xff\xff\xff\x7fPAR1"):
        victim.write_bytes(body)
        with pytest.raises(InputError, match="cannot be read as a columnar index"):
            count(Source(CRAWL, str(mirror), str(broken)), Query("url IS NOT NULL"))
