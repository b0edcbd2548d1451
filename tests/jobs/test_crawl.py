"""Files of a crawl over a server that misbehaves: what arrives is what is there, and no more is asked for than needed."""

import base64
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crawl_server import CRAWL, Server, lay_out, serving
from typer.testing import CliRunner

from jobs.cli import app
from jobs.fetch import MANIFEST, fetch
from pipeline.errors import InputError, StorageError, UsageError
from pipeline.sources import crawl_index
from pipeline.sources.crawl import Choice, Members, Stretch, Sums, check_record, pick, read_list, stretches
from pipeline.sources.crawl_index import possible, read_index
from pipeline.sources.origin import GaveUpError, Manners, Pace, RangeError, origin

ROOT = Path(__file__).resolve().parents[2]
HASTY = Manners(pause=0.01, attempts=6)
"""Impatient, since nobody else uses this server."""


@pytest.fixture(scope="module")
def mirror(sample_web: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(sample_web, tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def _server(mirror: Path) -> Iterator[Server]:
    with serving(mirror) as server:
        yield server


@pytest.fixture
def server(_server: Server, mirror: Path) -> Server:
    _server.folder = mirror
    _server.behave()
    return _server


def warcs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.warc.gz")}


# ---- which files


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_list() -> None:
    paths = [f"crawl-data/C/segments/{i // 10}/warc/{i:03d}.warc.gz" for i in range(100)]
    drawn = pick(paths, Choice(files=7, seed=1))
    assert len(drawn) == 7 and drawn == sorted(drawn)
    assert set(pick(paths[::-1], Choice(files=7, seed=1))) == set(drawn) != set(pick(paths, Choice(files=7, seed=2)))
    assert set(drawn) < set(pick(paths, Choice(files=9, seed=1)))
    assert pick(paths, Choice(first=3, segment="4")) == paths[40:43]
    assert pick(paths, Choice(match="*/05?.warc.gz")) == paths[50:60]
    with pytest.raises(UsageError, match="the first is crawl-data/C/segments/0"):
        pick(paths, Choice(match="nothing"))


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "a//b", "a/./b", "a\\b", "a?b", "s3://x/y", "a/%2e%2e/b"]
)
def test_a_list_cannot_lead_out_of_its_folder(path: str) -> None:
    with pytest.raises(InputError, match="no path of a crawl"):
        read_list(f"crawl-data/a.warc.gz\n{path}\n".encode(), "list")


def test_a_damaged_list_is_said_to_be() -> None:
    for body in (gzip.compress(b"a\nb\n")[:-5], gzip.compress(b""), b"\n \n"):
        with pytest.raises(InputError, match="list of paths is"):
            read_list(body, "list")


# ---- checksums


@pytest.mark.parametrize("size", [5 << 20, (10 << 20) + 1, (15 << 20) - 1])
def test_the_etag_of_an_object_in_parts_is_computed_where_the_size_of_parts_can_be_told(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    parts = [hashlib.md5(data[i : i + (5 << 20)]).digest() for i in range(0, size, 5 << 20)]
    etag = f'"{hashlib.md5(b"".join(parts)).hexdigest()}-{len(parts)}"'
    for body, expected in ((data, True), (data[:-1] + b"x", False)):
        sums = Sums(etag, size)
        for i in range(0, size, 3_000_001):
            sums.update(body[i : i + 3_000_001])
        assert sums.matches is expected
        assert sums.sha256 == hashlib.sha256(body).hexdigest()


def test_an_etag_that_is_no_md5_tells_nothing() -> None:
    for etag in (None, 'W/"0123"', '"5f3a-61"', '"0123456789abcdef0123456789abcdef-9999"'):
        sums = Sums(etag, 100)
        sums.update(bytes(100))
        assert sums.matches is None


def test_members_must_be_whole_to_the_last_byte() -> None:
    one, bomb = gzip.compress(b"some page " * 99), gzip.compress(bytes(10_000_000))

    def problem(data: bytes, step: int) -> str | None:
        members = Members()
        for i in range(0, len(data), step):
            members.update(data[i : i + step])
        return members.finish()

    for step in (1, 7, 1 << 20):
        assert problem(one * 3, step) is None
        assert "cut off" in str(problem(one * 2 + one[:-1], step))
        assert "member 3" in str(problem(one * 2 + b"trailing", step))
        assert "member 2" in str(problem(one + one[:-6] + b"wrong!" + one, step))
    assert problem(bomb, 1000) is None and "cut off" in str(problem(bomb[:-4], 1000))
    assert problem(b"", 1) == "holds nothing"


# ---- records


def record(url: str, body: bytes, kind: str = "response") -> tuple[bytes, str]:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2025-06-12T03:45:00Z\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n" + f"Content-Length: {len(http)}\r\n\r\n"
    digest = base64.b32encode(hashlib.sha1(body).digest()).decode()
    return gzip.compress(head.encode() + http + b"\r\n\r\n"), digest


def test_a_record_is_checked_to_be_the_one_that_the_index_means() -> None:
    data, digest = record("https://a.example/", b"page")
    other, _ = record("https://a.example/", b"another page")
    asked, _ = record("https://a.example/", b"", "request")
    assert check_record(data, "https://a.example/", digest) is None
    assert check_record(data, "https://a.example/", None) is None
    assert check_record(data, "https://b.example/", digest) == "other url: https://a.example/"
    assert str(check_record(other, "https://a.example/", digest)).startswith("other digest: ")
    assert str(check_record(asked, "https://a.example/", None)).startswith("no record: request")
    assert check_record(data + other, "https://a.example/", digest) == "damaged: 2 gzip members"
    for wrong in (data[:-1], data[1:], data[:40] + b"x" + data[41:], b"", b"plain text"):
        assert str(check_record(wrong, "https://a.example/", digest)).startswith("damaged: ")


def test_neighbours_are_asked_for_together() -> None:
    places = [(0, 10), (10, 5), (20, 5), (100, 50), (120, 10), (400, 10)]
    assert stretches(places, 5, 1000) == [Stretch(0, 25, (0, 1, 2)), Stretch(100, 150, (3, 4)), Stretch(400, 410, (5,))]
    assert [s.rows for s in stretches(places, 1000, 160)] == [(0, 1, 2, 3, 4), (5,)]
    assert [s.rows for s in stretches(places, 0, 1)] == [(i,) for i in range(6)]
    assert stretches([], 5, 5) == []


# ---- the index


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    n = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.n += len(data)
        return data


def index_file(rows: int = 20_000, **options: object) -> bytes:
    hosts = [f"h{i // 200:03d}.example" if i % 11 else None for i in range(rows)]
    table = pa.table(
        {
            "url": [f"https://{host}/{hashlib.md5(str(i).encode()).hexdigest()}" for i, host in enumerate(hosts)],
            "url_host_name": hosts,
            "fetch_status": pa.array([200 if i % 3 else 404 for i in range(rows)], pa.int16()),
            "fetch_time": pa.array(range(rows), pa.timestamp("s")).cast(pa.timestamp("ms")),
            "warc_record_offset": pa.array(range(rows), pa.int32()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1000, **options)
    return sink.getvalue()


COLUMNS = ("url", "warc_record_offset", "fetch_time", "content_languages", "crawl")


@pytest.mark.parametrize("options", [{}, {"use_deprecated_int96_timestamps": True}, {"write_statistics": False}])
def test_of_the_index_only_what_a_condition_calls_for_is_read(options: dict[str, bool]) -> None:
    body = index_file(**options)
    of = crawl_index.partition("cc-index/table/crawl=C/subset=warc/part-0.parquet")
    assert of == {"crawl": "C", "subset": "warc"}
    host = ("in", "url_host_name", ["h042.example", "h043.example"])
    since = (">=", "fetch_time", datetime(1970, 1, 1, 5, tzinfo=UTC))
    for condition, rows, most in (
        (None, 20_000, 1.2),
        (("and", host, ("=", "fetch_status", 200)), sum(i % 11 > 0 < i % 3 for i in range(8400, 8800)), 0.2),
        (("and", host, ("not", ("contains", "url", "a"))), None, 0.2),
        (("starts", "url_host_name", "h09"), sum(i % 11 > 0 for i in range(18_000, 20_000)), 0.3),
        (since, 2000, 0.4),
        (("=", "content_languages", "isl"), 0, 0.1),
        (("null", "content_languages"), 20_000, 1.2),
        (("=", "crawl", "D"), 0, 0.1),
    ):
        file = Counted(body)
        tables = list(read_index(file, "index", of, COLUMNS, condition))
        found = sum(table.num_rows for table in tables)
        assert rows is None or found == rows
        if "write_statistics" not in options:
            # Footers are read in pieces of 64 KiB.
            assert file.n < most * len(body) + 66_000, condition
        for table in tables:
            assert table.column_names == list(COLUMNS) and table.schema.field("warc_record_offset").type == pa.int64()
            assert str(table.column("fetch_time").type) == "timestamp[us, tz=UTC]"


def test_bounds_rule_out_only_what_cannot_be() -> None:
    bounds = {"a": (10, 20), "b": ("com,b", "com,d")}.get
    for condition in (
        ("=", "a", 10),
        ("<", "a", 11),
        ("<=", "a", 10),
        (">", "a", 19),
        (">=", "a", 20),
        ("in", "a", [1, 15]),
    ):
        assert possible(condition, bounds)
    for condition in (
        ("=", "a", 9),
        ("<", "a", 10),
        ("<=", "a", 9),
        (">", "a", 20),
        (">=", "a", 21),
        ("in", "a", [1, 25]),
    ):
        assert not possible(condition, bounds)
        assert possible(("not", condition), bounds) and possible(("or", condition, ("=", "a", 15)), bounds)
    assert possible(("starts", "b", "com"), bounds) and possible(("starts", "b", "com,d"), bounds)
    assert not possible(("starts", "b", "com,e"), bounds) and not possible(("starts", "b", "com,a"), bounds)
    assert possible(("=", "unknown", 1), bounds)


def test_what_is_no_index_is_an_input_error() -> None:
    for body in (b"", b"PAR1 not really", index_file(100)[:-20]):
        with pytest.raises(InputError, match=r"part-7.*cannot be read as a columnar index"):
            list(read_index(io.BytesIO(body), "part-7", {}, COLUMNS, None))


# ---- fetching files


def test_what_is_fetched_is_what_is_there_and_is_not_fetched_again(
    server: Server, mirror: Path, tmp_path: Path
) -> None:
    manners = Manners("someone@a.example", pause=0.01)
    rows = fetch(CRAWL, tmp_path, base=server.address, manners=manners, connections=2)
    assert warcs(tmp_path) == {name: body for name, body in warcs(mirror).items() if ".wet." not in name}
    assert len(rows) == 4 and all(row["checked"] == ["length", "gzip", "etag"] for row in rows)
    for row in rows:
        body = (tmp_path / row["path"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    asked = server.behaviour
    assert asked.most_at_once <= 2 and {a.agent for a in asked.asked} == {manners.user_agent}
    assert re.fullmatch(r"crawlmill/\S+ \(Common Crawl access; someone@a.example\)", manners.user_agent)
    manifest = (tmp_path / MANIFEST).read_bytes()
    again = server.behave()
    assert fetch(CRAWL, tmp_path, base=server.address, manners=HASTY) == rows
    assert [a.path.rsplit("/", 1)[-1] for a in again.asked] == ["warc.paths.gz"]
    victim = tmp_path / rows[1]["path"]
    body = victim.read_bytes()
    victim.write_bytes(body[:1000] + b"?" + body[1001:])
    assert fetch(CRAWL, tmp_path, base=server.address, manners=HASTY) == rows and victim.read_bytes() != body
    assert fetch(CRAWL, tmp_path, base=server.address, manners=HASTY, verify=True) == rows
    assert victim.read_bytes() == body and (tmp_path / MANIFEST).read_bytes() == manifest
    # What was fetched is laid out as the crawl is, and is a place to fetch from.
    copy = fetch(CRAWL, tmp_path / "copy", base=str(tmp_path), choice=Choice(first=1))
    assert copy[0]["sha256"] == rows[0]["sha256"]


def test_a_server_that_has_enough_is_waited_for(server: Server, mirror: Path, tmp_path: Path) -> None:
    how = server.behave(faults={"00001.warc.gz": ["503", "429:1", "500", "cut", "cut"], "warc.paths.gz": ["503"]})
    rows = fetch(CRAWL, tmp_path, base=server.address, manners=HASTY, choice=Choice(match="*00001.warc.gz"))
    assert (tmp_path / rows[0]["path"]).read_bytes() == (mirror / rows[0]["path"]).read_bytes()
    gets = [a for a in how.asked if a.method == "GET" and a.path.endswith("00001.warc.gz")]
    assert gets[2].time - gets[1].time >= 1  # as 429 asked for
    size = rows[0]["bytes"]
    assert [a.range for a in gets] == [None, None, None, None, f"bytes={size // 2}-", f"bytes={size // 2 + size // 4}-"]


def test_a_server_that_forbids_is_not_asked_on_and_on(server: Server, tmp_path: Path) -> None:
    how = server.behave(faults={"00001.warc.gz": ["403"] * 50, "00002.warc.gz": ["503"] * 50})
    with pytest.raises(InputError, match=r"files were not fetched: .*(403 Forbidden: .*wait|503)"):
        fetch(CRAWL, tmp_path, base=server.address, manners=HASTY)
    assert how.gets("00001.warc.gz") <= 3 and how.gets("00002.warc.gz") <= HASTY.attempts
    server.behave(faults={"warc.paths.gz": ["503:90000"]})
    with pytest.raises(InputError, match="come back in 90000 s"):
        fetch(CRAWL, tmp_path / "other", base=server.address, manners=HASTY)
    server.behave()
    assert len(fetch(CRAWL, tmp_path, base=server.address, manners=HASTY)) == 4


def test_a_spoiled_file_is_fetched_anew_and_one_that_stays_so_is_not_taken(
    server: Server, mirror: Path, tmp_path: Path
) -> None:
    faults = {"00000.warc.gz": ["spoiled"], "00002.warc.gz": ["short"], "00003.warc.gz": ["spoiled"] * 9}
    server.behave(faults=faults, etags="")
    with pytest.raises(InputError, match=r"1 of 4 files were not fetched: .*00003.*also when fetched anew"):
        fetch(CRAWL, tmp_path, base=server.address, manners=HASTY)
    expected = warcs(mirror)
    assert {n: b == expected[n] for n, b in warcs(tmp_path).items()} == {
        n: True for n in expected if re.search(r"0[012].warc.gz", n)
    }
    assert not list(tmp_path.rglob("*00003*.warc.gz"))


@pytest.mark.parametrize(("etags", "checked"), [("parts", []), ("wrong", ["etag differs"]), ("", [])])
def test_an_etag_that_is_no_checksum_keeps_nobody_from_fetching(
    server: Server, tmp_path: Path, etags: str, checked: list[str]
) -> None:
    how = server.behave(etags=etags)
    (row,) = fetch(CRAWL, tmp_path, base=server.address, manners=HASTY, choice=Choice(first=1))
    assert row["checked"] == ["length", "gzip", *checked]
    assert how.gets("00000.warc.gz") == (2 if checked else 1)


def begin(server: Server, folder: Path, size: int = 1000) -> tuple[Path, str]:
    """What a killed process leaves: the beginning of the first archive, and which version of it that is."""
    facts = origin(server.address, HASTY).facts
    path = fetch(CRAWL, folder, base=server.address, manners=HASTY, choice=Choice(first=1))[0]["path"]
    whole = folder / path
    part = whole.with_name(whole.name + ".part")
    part.write_bytes(whole.read_bytes()[:size])
    part.with_name(part.name + ".json").write_text(json.dumps(facts(path)._asdict()))
    whole.unlink()
    (folder / MANIFEST).unlink()
    server.behave()
    return part, path


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_is_gone_on_with_only_while_its_file_is_the_same(
    server: Server, mirror: Path, tmp_path: Path, ranges: bool
) -> None:
    own = tmp_path / "crawl"
    shutil.copytree(mirror / "crawl-data", own / "crawl-data")
    server.folder = own
    _, path = begin(server, tmp_path / "a")
    server.behave(ranges=ranges)
    fetch(CRAWL, tmp_path / "a", base=server.address, manners=HASTY, choice=Choice(first=1))
    assert (tmp_path / "a" / path).read_bytes() == (own / path).read_bytes()
    assert [a.range for a in server.behaviour.asked if a.method == "GET" and a.path.endswith(path)] == ["bytes=1000-"]
    part, path = begin(server, tmp_path / "b")
    changed = gzip.compress(b"WARC/1.0 another file altogether") * 40
    (own / path).write_bytes(changed)
    fetch(CRAWL, tmp_path / "b", base=server.address, manners=HASTY, choice=Choice(first=1))
    assert (tmp_path / "b" / path).read_bytes() == changed
    assert not part.exists() and not list(tmp_path.rglob("*.part*"))


def test_parts_that_make_no_sense_are_begun_anew(server: Server, mirror: Path, tmp_path: Path) -> None:
    part, path = begin(server, tmp_path)
    note = part.with_name(part.name + ".json")
    body = (mirror / path).read_bytes()
    facts = note.read_text()
    for held, said in ((b"?" * 1000, facts), (body + b"?", facts), (body, facts), (body[:9], "{"), (body[:9], None)):
        part.write_bytes(held)
        note.unlink(missing_ok=True)
        if said is not None:
            note.write_text(said)
        (row,) = fetch(CRAWL, tmp_path, base=server.address, manners=HASTY, choice=Choice(first=1))
        assert (tmp_path / path).read_bytes() == body and row["checked"] == ["length", "gzip", "etag"]
        (tmp_path / path).unlink()
        (tmp_path / MANIFEST).unlink()


def test_a_file_that_nobody_noted_is_looked_at_and_taken(server: Server, mirror: Path, tmp_path: Path) -> None:
    fetch(CRAWL, tmp_path, base=server.address, manners=HASTY)
    manifest = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(manifest[: len(manifest) // 2])  # a line that a killed process cut off
    how = server.behave()
    fetch(CRAWL, tmp_path, base=server.address, manners=HASTY)
    assert how.gets(".warc.gz") == 0 and (tmp_path / MANIFEST).read_bytes() == manifest


def test_fetching_is_killed_and_goes_on_where_it_was(server: Server, mirror: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "fetch", CRAWL, "--base", server.address, "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        running = subprocess.Popen([*command, "--rate", "900kB"], env=environment, stderr=subprocess.DEVNULL)
        part = 0
        for _ in range(600):
            # The one file that is more than one piece.
            part = max([path.stat().st_size for path in tmp_path.rglob("*00001.warc.gz.part")], default=0)
            if part > 100_000:
                break
            time.sleep(0.05)
        assert running.poll() is None and part > 100_000
        running.send_signal(signal.SIGKILL)
        running.wait()
    how = server.behave()
    fetch(CRAWL, tmp_path, base=server.address, manners=HASTY)
    assert warcs(tmp_path) == {name: body for name, body in warcs(mirror).items() if ".wet." not in name}
    assert any(a.range for a in how.asked) and not list(tmp_path.rglob("*.part*"))


def test_a_disk_that_is_too_small_is_found_out_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("jobs.fetch.shutil.disk_usage", lambda _: usage(10**9, 0, 3_000_000))
    with pytest.raises(StorageError, match=r"4 files of 3.6 MB do not fit .* 3.0 MB are free; fetch fewer files"):
        fetch(CRAWL, tmp_path, base=server.address, manners=HASTY)
    assert server.behaviour.gets(".warc.gz") == 0
    fetch(CRAWL, tmp_path, base=server.address, manners=HASTY, choice=Choice(files=2))


def test_the_rate_is_that_of_all_connections_together() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(10):
        pace.spend(500)
    assert now[0] == pytest.approx(5.0)
    pace.hold(3)
    pace.hold(1)
    pace.wait()
    assert now[0] == pytest.approx(8.0)


def test_ranges_are_exact_or_an_error(server: Server, mirror: Path) -> None:
    path = f"crawl-data/{CRAWL}/warc.paths.gz"
    body = (mirror / path).read_bytes()
    web, folder = origin(server.address, HASTY), origin(str(mirror), HASTY)
    for source in (web, folder):
        assert source.read(path) == body and source.read_range(path, 3, 40) == body[3:40]
        for end in (len(body) + 1, len(body) + 1000):
            with pytest.raises(RangeError):
                source.read_range(path, 5, end)
        with pytest.raises(RangeError):
            source.read_range(path, len(body) + 10, len(body) + 20)
    server.behave(faults={path: ["cut", "503", "cut"]})
    assert web.read_range(path, 3, 40) == body[3:40]
    server.behave(faults={path: ["ignore", "ignore"]})
    assert web.read_range(path, 3, 40) == body[3:40]
    server.behave(ranges=False)
    with pytest.raises(GaveUpError, match="serves no ranges"):
        web.read_range(path, 3, 40)


def test_the_commands_say_what_there_is(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["fetch", *arguments, "--base", server.address])
        assert done.exit_code == 0, done.exception
        return done.output

    assert re.search(rf"{CRAWL} +June 2025 Index", said("--list"))
    assert "1 files, 1 to fetch of 45.79 kB" in said(CRAWL, "--kind", "wet", "--count", "--output", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    assert "1 files of 45.79 kB" in said(CRAWL, "--kind", "wet", "--output", str(tmp_path / "x"))
    table = said(CRAWL, "--kind", "cc-index-table", "--match", "*subset=warc/*", "--output", str(tmp_path / "x"))
    assert "2 files of " in table
    for arguments, words in (
        (("CC-MAIN-2099-99", "--output", "x"), "names the crawls there are"),
        (("../x", "--output", "x"), "is no name of a crawl"),
        ((CRAWL, "--kind", "pictures", "--output", "x"), "there are warc, wet"),
        ((CRAWL, "--output", "s3://bucket/x"), "fetch to a disk"),
        ((CRAWL, "--contact", "a\nb", "--output", "x"), "cannot hold"),
        ((CRAWL, "--rate", "fast", "--output", "x"), "is not a size"),
        ((CRAWL,), "give --output"),
        ((), "no crawl named"),
    ):
        done = CliRunner().invoke(app, ["fetch", *arguments, "--base", server.address])
        assert done.exit_code and words in str(done.exception), arguments
