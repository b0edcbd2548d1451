"""The inspector lets in whom it should, does nothing that a request or a page asks it to, and finds what there is."""

import csv
import io
import json
import re
import socket
from html import unescape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from jobs.cli import app as cli
from jobs.curate import outcome_counts
from jobs.inspect_commands import _listen, _loopback
from jobs.report.inspector import export, queries, searcher
from jobs.report.inspector.app import create
from jobs.report.inspector.searcher import marked
from jobs.report.inspector.security import MOST_ADDRESS, MOST_BODY, POLICY, cookie_name, is_own_name
from jobs.report.inspector.selection import Place, Selection, place, read
from jobs.runs import Run, existing_run
from pipeline.errors import UsageError

TOKEN = "a-token"
HERE = "http://127.0.0.1:8123"


def outside(run: Run, base: str = HERE) -> TestClient:
    """Who has not been let in."""
    return TestClient(create(run, TOKEN), base_url=base, follow_redirects=False, raise_server_exceptions=False)


def inside(run: Run) -> TestClient:
    client = outside(run)
    assert client.get("/", params={"token": TOKEN}).status_code == 303
    return client


@pytest.fixture(scope="module")
def client(finished: Run) -> TestClient:
    return inside(finished)


def found(page: str) -> int:
    status = re.search(r'role="status"[^>]*>(?:about )?([\d,]+) page', page)
    assert status is not None
    return int(status[1].replace(",", ""))


def links(page: str, kind: str) -> list[str]:
    return [unescape(link) for link in re.findall(rf'<a class="{kind}" href="([^"]+)"', page)]


def test_only_the_token_lets_in_and_it_leaves_the_address(finished: Run) -> None:
    client = outside(finished)
    for path in (
        "/",
        "/static/base.css",
        "/report",
        "/thresholds",
        "/nothing",
        "/?token=wrong",
        "/?token=",
        "/?token=%F0",
    ):
        answer = client.get(path)
        assert (answer.status_code, "crawlmill inspect" in answer.text) == (403, True), path
    answer = client.get("/page/x?a=%26&token=a-token&b=c")
    assert (answer.status_code, answer.headers["location"]) == (303, "/page/x?a=%26&b=c")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("crawlmill-8123=") and "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/").status_code == 200
    assert client.get(f"{HERE}//evil.example/%5Cx?token=a-token").headers["location"] == "/evil.example/%5Cx"


def test_the_token_that_a_browser_is_opened_with_lets_in_once(finished: Run) -> None:
    app = create(finished, TOKEN, once="once")
    first, second = (TestClient(app, base_url=HERE, follow_redirects=False) for _ in range(2))
    assert first.get("/?token=once").status_code == 303 and first.get("/").status_code == 200
    assert second.get("/?token=once").status_code == 403 and second.get("/?token=None").status_code == 403


def test_inspectors_at_two_ports_do_not_take_each_others_cookies(finished: Run) -> None:
    one, other = inside(finished), outside(finished, "http://127.0.0.1:8124")
    other.cookies.set(cookie_name(8123), TOKEN)
    assert other.get("/").status_code == 403
    assert one.get("/", headers={"cookie": f"crawlmill-8124=x; {cookie_name(8123)}={TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8123", "127.0.0.1", "127.0.0.1:8124", "127.0.0.1.evil.example:8123", ""]
)
def test_another_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8123", "[::1]:8123", "LOCALHOST:8123"])
def test_names_of_this_machine_are_not(client: TestClient, host: str) -> None:
    cookie = f"{cookie_name(8123)}={TOKEN}"
    assert client.get("/", headers={"host": host, "cookie": cookie}).status_code == 200


def test_a_name_is_ours_at_our_port_and_on_this_machine() -> None:
    assert is_own_name(["127.0.0.2:81"], ("127.0.0.2", 81)) and is_own_name(["localhost"], ("127.0.0.1", 80))
    assert not is_own_name(["10.0.0.1:81"], ("10.0.0.1", 81)) and not is_own_name(["localhost"], ("127.0.0.1", 81))
    assert not is_own_name(["localhost:81", "localhost:81"], ("127.0.0.1", 81)) and not is_own_name(["x"], None)


def test_every_answer_has_the_policy(client: TestClient) -> None:
    answers = [client.get(p) for p in ("/", "/?min=x", "/nothing", "/static/base.css", "/report", "/export?format=x")]
    answers += [client.request(method, "/") for method in ("POST", "PUT", "TRACE", "HEAD")]
    answers += [client.get("/", headers={"host": "x"}), client.get("/?a=" + "x" * MOST_ADDRESS), outside_page(client)]
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert (
            answer.headers["cross-origin-resource-policy"]
            == answer.headers["cross-origin-opener-policy"]
            == "same-origin"
        )
        assert "Traceback" not in answer.text


def outside_page(client: TestClient) -> object:
    return client.get("/", headers={"cookie": "crawlmill-8123=x"})


def test_pages_have_neither_scripts_nor_styles_in_them(client: TestClient) -> None:
    for path in ("/", "/?text=garden", "/nothing"):
        page = client.get(path).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://[^<]*\"", page.split("</header>")[0])
        assert all(
            "src=" in tag and tag.endswith("></script>") for tag in re.findall(r"<script.*?</script>", page, re.S)
        )
        assert not re.search(r"(?:href|src|action)=\"(?!/|#|data:,\")", page)


def test_methods_sizes_and_origins(client: TestClient) -> None:
    head = client.head("/")
    assert (head.status_code, head.text) == (200, "")
    assert client.request("PUT", "/").status_code == 405
    assert client.request("PROPFIND", "/").headers["allow"] == "GET, HEAD, POST"
    assert client.get("/?address=" + "x" * MOST_ADDRESS).status_code == 414
    assert client.post("/nothing").status_code == 403
    assert client.post("/nothing", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/nothing", headers={"origin": "null"}).status_code == 403
    assert client.post("/nothing", headers={"origin": "http://127.0.0.1:8124"}).status_code == 403
    ours = {"origin": HERE}
    assert client.post("/nothing", headers=ours).status_code == 404
    assert client.post("/nothing", headers={"origin": "null", "sec-fetch-site": "same-origin"}).status_code == 404
    assert client.post("/nothing", headers=ours, content=b"x" * (MOST_BODY + 1)).status_code == 413
    assert client.post("/nothing", headers=ours, content=iter([b"x" * MOST_BODY, b"x"])).status_code == 413
    other = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}
    assert client.get("/static/search.js", headers=other).status_code == 403


ELSEWHERE = """
/static/../app.py /static/%2e%2e/app.py /static/..%2f..%2fapp.py /static//etc/passwd /static/ /static/%00 /static/app.py
/static/inspector.css%00.js /page/..%2f..%2frun.json /run.json //etc/passwd /report/../run.json
"""


@pytest.mark.parametrize("path", ELSEWHERE.split())
def test_no_address_leads_to_another_file(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and "root:" not in answer.text and '"inputs_digest"' not in answer.text


def test_static_files_are_served_with_their_types(client: TestClient) -> None:
    assert client.get("/static/inspector.css").headers["content-type"].startswith("text/css")
    assert client.get("/static/search.js").headers["content-type"].startswith("text/javascript")


def test_the_report_may_do_less(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(finished.info, default=str))
    run = existing_run(str(tmp_path))
    assert inside(run).get("/report").status_code == 404
    (tmp_path / "report.html").write_text("<title>x</title>")
    answer = inside(run).get("/report")
    assert answer.text == "<title>x</title>"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy and "script-src" not in policy


def test_the_search_counts_what_the_run_counted(client: TestClient, finished: Run) -> None:
    counts = outcome_counts(finished)
    assert found(client.get("/").text) == sum(counts.values())
    for outcome, n in counts.items():
        assert found(client.get("/", params={"outcome": outcome}).text) == n


@pytest.mark.parametrize("order", ["", "address", "best", "most"])
def test_pages_of_results_hold_each_row_once_forwards_and_backwards(client: TestClient, order: str) -> None:
    asked = {"broken": "gopher_quality.word_count", "measure": "word_count", "sort": order}
    page = client.get("/", params={k: v for k, v in asked.items() if v}).text
    there, pages = [links(page, "open")], [page]
    while (more := re.search(r'rel="next" href="([^"]+)"', pages[-1])) is not None:
        pages.append(client.get(unescape(more[1])).text)
        there.append(links(pages[-1], "open"))
    seen = [link for part in there for link in part]
    assert len(there) > 2 and len(seen) == len(set(seen)) == found(page)
    page = pages[-1]
    for expected in reversed(there[:-1]):
        back = re.search(r'rel="prev" href="([^"]+)"', page)
        assert back is not None
        page = client.get(unescape(back[1])).text
        assert links(page, "open") == expected
    assert 'rel="prev"' not in page


def test_a_text_is_found_as_it_was_kept_or_extracted(client: TestClient, finished: Run) -> None:
    page = client.get("/?text=GARDEN").text
    tables = queries.Queries(finished)
    kept = tables.rows("SELECT count(DISTINCT id) AS n FROM curated WHERE text ILIKE '%garden%'")[0]["n"]
    others = tables.rows(
        "SELECT count(*) AS n FROM ledger l WHERE outcome != 'kept' AND EXISTS "
        "(SELECT 1 FROM documents d WHERE d.doc_id = l.doc_id AND text ILIKE '%garden%')"
    )[0]["n"]
    assert kept > 0 and others > 0 and found(page) == kept + others
    assert re.search(r'class="snippet">.*?<mark>[Gg]arden</mark>', page, re.S)
    assert found(client.get("/?text=garden&outcome=kept").text) == kept


def test_only_a_part_of_much_text_is_searched_and_that_is_said(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "TEXT_BYTES", 200_000)
    monkeypatch.setattr(searcher, "EXACT_ROWS", 400)
    page = inside(finished).get("/?text=garden").text
    assert "of its files of text were searched" in page and "drawn at random" in page


def test_a_query_that_takes_too_long_is_ended(finished: Run) -> None:
    tables = queries.Queries(finished)
    with pytest.raises(UsageError, match=r"more than 0\.05 seconds"), tables.limited(0.05) as cursor:
        cursor.execute("SELECT count(*) FROM range(100000000000) t(i) WHERE sin(i) > 2").fetchall()


ATTACKS = (
    "' OR 1=1 --",
    "'; DROP TABLE ledger; --",
    '" OR ""="',
    "1 UNION SELECT * FROM read_text('/etc/passwd')",
    "$id",
    "%00\0",
    "a\tb\r\nSet-Cookie: x=y",
    "\u202e\U000e0041",
    "<script>window.x=1</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "1e999",
    "(none)",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_asked_for_is_a_value_and_nothing_else(client: TestClient, attack: str) -> None:
    page = client.get("/", params=dict.fromkeys((*Selection().__dict__, "after", "before"), attack))
    assert (page.status_code, found(page.text)) == (200, 0)
    assert "<script>window" not in page.text and "<img" not in page.text and ">49" not in page.text
    assert "set-cookie" not in page.headers
    assert client.get("/", params={"nothing of ours": attack}).headers["location"] == "/"
    exported = client.get("/export", params={"format": "csv", "address": attack, "domain": attack})
    assert exported.status_code == 200 and exported.text.count("\n") == 1


def test_what_is_no_value_is_not_asked_for(client: TestClient) -> None:
    attack = '"; DROP TABLE ledger; --'
    bounded = client.get("/", params={"measure": "word_count", "min": attack, "max": "1e999"})
    assert bounded.status_code == 200 and bounded.text.count("not a number") == 2
    assert client.get("/export", params={"format": attack}).status_code == 400
    assert client.get("/export", params={"format": "csv", "measure": attack}).status_code == 400
    assert client.get("/", params={"sort": "best", "after": "0" * 32 + ":1:" + attack}).status_code == 400


def test_what_cannot_be_understood_is_said() -> None:
    selection, problems = read(
        {"measure": 'word_count" > 1 --', "min": "3", "sort": "most", "address": "x" * 2000}, ["word_count"]
    )
    assert selection == Selection() and len(problems) == 3
    selection, problems = read({"measure": "word_count", "min": "nan", "max": "5"}, ["word_count"])
    assert (selection.min, selection.max, len(problems)) == ("", "5", 1)
    assert place("x") is None and place(":1:f") is None and place("a:-1:f") is None
    assert place(str(Place("ab", 3, "s3://x/y:z"))) == Place("ab", 3, "s3://x/y:z")


def test_what_was_found_is_marked() -> None:
    assert marked("A garden, a GARDEN", "Garden") == [
        ("A ", False),
        ("garden", True),
        (", a ", False),
        ("GARDEN", True),
    ]
    assert marked("İ garden", "garden") == [("İ garden", False)]
    assert marked("", "x") == []


def test_a_selection_is_exported_in_three_formats(client: TestClient) -> None:
    asked = "/export?address=blog&outcome=kept&format="
    lines = [json.loads(line) for line in client.get(asked + "jsonl&texts=curated").text.splitlines()]
    table = pq.read_table(io.BytesIO(client.get(asked + "parquet&texts=extracted").content))
    answer = client.get(asked + "csv")
    cells = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert answer.headers["content-disposition"] == 'attachment; filename="selection.csv"'
    ids = [row["doc_id"] for row in lines]
    assert ids == sorted(ids) == table.column("doc_id").to_pylist() == [row["doc_id"] for row in cells]
    assert len(ids) == found(client.get("/?address=blog&outcome=kept").text) > 10
    assert all(row["curated_text"] and isinstance(row["curated_text"], list) for row in lines)
    assert all(table.column("extracted_text").to_pylist())


def test_no_cell_of_a_csv_is_run_by_a_spreadsheet() -> None:
    values = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a,b\n", None, "\u202e"]
    table = pa.table({"url": values, "n": [-1] * len(values), "hits": [["=x"]] * len(values)})
    text = b"".join(export._csv(table.to_reader(max_chunksize=4))).decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == ["url", "n", "hits"]
    assert [row[0] for row in rows] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", "a,b\n", "", "\u202e"]
    assert rows[0][1:] == ["-1", '["=x"]']


def test_a_run_that_has_decided_nothing_shows_its_records(finished: Run, tmp_path: Path) -> None:
    for table in ("records", "documents", "signals"):
        (tmp_path / table).symlink_to(Path(finished.folder.path, table))
    (tmp_path / "run.json").write_text(
        json.dumps({k: v for k, v in finished.info.items() if k != "tasks"}, default=str)
    )
    client = inside(existing_run(str(tmp_path)))
    page = client.get("/").text
    assert "decided nothing yet" in page and found(page) == sum(outcome_counts(finished).values())
    assert 0 < found(client.get("/?outcome=undecided&text=garden").text) < found(page)
    assert client.get("/export?format=jsonl&texts=extracted&text=garden").status_code == 200
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "run.json").write_text((tmp_path / "run.json").read_text())
    assert "No record has been read yet" in inside(existing_run(str(tmp_path / "none"))).get("/").text


def test_a_failure_is_a_page_of_its_own_without_details(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret of ours")

    client = inside(finished)
    monkeypatch.setattr(searcher.Searcher, "counts", broken)
    answer = client.get("/")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.headers["content-security-policy"] == POLICY


def test_it_is_served_to_this_machine_alone() -> None:
    assert _loopback("localhost") == _loopback("127.0.0.1") == "127.0.0.1" and _loopback("::1") == "::1"
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", ""):
        with pytest.raises(UsageError, match="ssh -L"):
            _loopback(host)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="something else serves there"):
            _listen("127.0.0.1", taken.getsockname()[1])


def test_the_command_refuses_what_is_no_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", str(tmp_path), "--no-browser"])
    assert isinstance(result.exception, UsageError) and "holds no run" in str(result.exception)
