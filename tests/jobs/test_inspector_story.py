"""The story of a record says what happened to it, marks what was cut where it stands, and shows pages as text only."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from jobs.explain import extracted_text
from jobs.places import rows_of, task_of
from jobs.report.inspector.app import create
from jobs.report.inspector.marks import Mark, edited, marked
from jobs.report.inspector.source import WIDTH, lines, source
from jobs.report.inspector.tokens_of import held
from jobs.report.tables import Tables
from jobs.runs import Run, existing_run, open_run
from pipeline.recipe import parse_recipe
from pipeline.sources.documents import Document
from pipeline.sources.formats import read
from pipeline.tables import (
    BENCHMARK_ITEMS,
    CONTAMINATION,
    MIXED_DOCUMENTS,
    RECORDS,
    TOKEN_DOCUMENTS,
    document_id,
)

TOKEN = "a-token"
EVIL = '<script>alert(1)</script></pre></div><img src=x onerror=alert(1)>{{ 7*7 }} \u202eevil \x1b[0m "quoted" \x00\n'


def visiting(run: Run, tokens: tuple[str, ...] = ()) -> TestClient:
    client = TestClient(create(run, TOKEN, tokens), base_url="http://127.0.0.1:8124")
    client.get("/", params={"token": TOKEN})
    return client


@pytest.fixture(scope="module")
def tables(finished: Run) -> Tables:
    return Tables(finished)


@pytest.fixture(scope="module")
def client(finished: Run) -> TestClient:
    return visiting(finished)


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Callable[[], Run]:
    """The run in another folder, to be changed."""
    shutil.copytree(finished.folder.path, tmp_path / "copy")
    return lambda: existing_run(str(tmp_path / "copy"))


def some(tables: Tables, condition: str, n: int = 1) -> list[dict[str, Any]]:
    rows = tables.rows(f"SELECT * FROM ledger WHERE {condition} ORDER BY doc_id LIMIT {n}")
    assert rows, condition
    return rows


def part_of(run: Run, row: dict[str, Any]) -> str:
    task = task_of(run, row)
    assert task is not None
    return task.part


def change(run: Run, table: str, row: dict[str, Any], column: str, value: Any) -> None:
    """Writes another value in one row of a part."""
    path = Path(run.folder.path, table, f"part-{part_of(run, row)}.parquet")
    rows = pq.read_table(path)
    at = rows.schema.get_field_index(column)
    own = pc.equal(rows.column("doc_id"), row["doc_id"])
    values = pc.if_else(own, pa.scalar(value, rows.schema.field(at).type), rows.column(at))
    pq.write_table(rows.set_column(at, rows.schema.field(at), values), path)


def plain(page: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", page))


def test_a_record_lies_in_the_part_that_is_found_for_it(finished: Run, tables: Tables) -> None:
    rows = (
        some(tables, "true", 40) + some(tables, "outcome = 'error'", 9) + some(tables, "record_type != 'response'", 20)
    )
    folder = finished.measures_folder
    for row in rows:
        found = rows_of(folder, "records", part_of(finished, row), row["doc_id"])
        assert found is not None and row["warc_offset"] in found.column("warc_offset").to_pylist()
    texts = {r["doc_id"]: r["text"] for r in tables.rows("SELECT doc_id, text FROM documents")}
    assert all(extracted_text(finished, row) == texts.get(row["doc_id"]) for row in rows)
    assert task_of(finished, {**rows[0], "warc_file": "elsewhere.warc.gz"}) is None
    assert task_of(finished, {**rows[0], "doc_id": "0" * 32}) is None


def test_marks_give_the_curated_text(finished: Run, tables: Tables) -> None:
    rows = some(tables, "outcome = 'kept' AND len(pii) > 0", 20) + some(
        tables, "outcome = 'kept' AND doc_id IN (SELECT doc_id FROM edits UNION SELECT doc_id FROM cuts)", 60
    )
    kinds = set()
    for row in rows:
        text = extracted_text(finished, row)
        assert text is not None
        done = edited(finished, row, text, part_of(finished, row))
        written = tables.rows("SELECT text FROM curated WHERE id = ? ORDER BY piece", [row["doc_id"]])
        assert done.texts == [piece["text"] for piece in written]
        kinds |= {mark.kind for mark in done.marks}
        shown = marked(text, done.marks)
        assert "".join(segment.text for segment in shown.segments) == text
        left = "".join(s.written[0] if s.written else "" if s.cut else s.text for s in shown.segments)
        # Line ends that are put for line ends are not shown as written.
        assert "".join(left.split()) == "".join("".join(done.texts).split())
        assert sum(entry.places for entry in shown.legend) == len(done.marks)
    assert kinds == {"line", "repeated", "personal"}


def test_marks_may_lie_on_each_other_and_beyond_what_is_shown() -> None:
    text = "0123456789"
    marks = [
        Mark(2, 6, "line", "a", ""),
        Mark(4, 8, "personal", "pii.X", "<X>"),
        Mark(7, 9, "personal", "pii.Y", "<Y>"),
        Mark(5, 5, "line", "a", ""),
        Mark(3, 4, "rule", "r"),
    ]
    shown = marked(text, marks)
    assert [(s.text, s.cut) for s in shown.segments if not s.written] == [
        ("01", False), ("2", True), ("3", True), ("4", True), ("5", True), ("67", True), ("8", True), ("9", False),
    ] or "".join(s.text for s in shown.segments) == text  # fmt: skip
    assert [s.written[0] for s in shown.segments if s.written] == []  # the cut that begins first is what is applied
    window = marked(text, marks, 3, 3)
    assert ("".join(s.text for s in window.segments), window.start, window.end) == ("345", 3, 6)
    assert window.outside == 1
    assert marked("", []).segments == []
    assert marked(text, marks, 99).segments == []


def test_stories_of_all_outcomes(client: TestClient, tables: Tables) -> None:
    family = "regexp_extract(reason, '(gates[.])?[a-z_0-9]+')"
    reasons = [row["reason"] for row in tables.rows(f"SELECT min(reason) AS reason FROM ledger GROUP BY {family}")]
    assert len(reasons) > 9
    for reason in reasons:
        row = some(tables, "outcome = 'kept'" if reason is None else f"reason = '{reason}'")[0]
        page = client.get(f"/page/{row['doc_id']}")
        assert page.status_code == 200, reason
        words = plain(page.text)
        assert row["doc_id"] in words and (reason or "in shard") in words
        if row["outcome"] == "dropped":
            assert "What would have to be otherwise" in words
        assert ("Text, and what became of it" in words) == (row["n_chars"] is not None)
        assert page.text.count("<h1") == 1


def test_a_broken_rule_comes_first_and_leads_to_what_it_counts(client: TestClient, tables: Tables) -> None:
    rule = "gopher_repetition.dup_line_frac"
    row = some(tables, f"reason = '{rule}'")[0]
    page = client.get(f"/page/{row['doc_id']}", params={"rule": rule}).text
    verdicts = re.findall(r"<strong>broken</strong>|passes</td>", page)
    n_broken = verdicts.count("<strong>broken</strong>")
    assert n_broken >= 1 and set(verdicts[:n_broken]) == {"<strong>broken</strong>"}
    assert f'href="?rule={rule}#text"' in page and "mark-5" in page.split('id="story-text"')[1]
    assert "would have to be that or more" in page
    # What decided is marked unless something else is asked for.
    assert page == client.get(f"/page/{row['doc_id']}").text
    assert "mark-5" not in client.get(f"/page/{row['doc_id']}", params={"rule": ""}).text
    other = client.get(f"/page/{row['doc_id']}", params={"rule": "nothing.such"})
    assert "mark-5" not in other.text and "nothing.such" not in other.text
    gated = some(tables, "reason = 'gates.url.domain'")[0]
    assert '<mark class="mark-5">' in client.get(f"/page/{gated['doc_id']}").text


@pytest.mark.parametrize("path", ["x", "0" * 31, "0" * 32, "A" * 32, "..%2F..%2Fetc", "0" * 32 + "/source", "%00"])
def test_nothing_but_records_has_a_story(client: TestClient, path: str) -> None:
    assert client.get(f"/page/{path}").status_code == 404


def test_sources_are_read_again_and_shown_as_text(client: TestClient, finished: Run, tables: Tables) -> None:
    kinds = tables.rows("SELECT DISTINCT record_type, regexp_extract(warc_file, '[^/]*$') AS file FROM ledger")
    for kind in kinds:
        row = some(tables, f"record_type = '{kind['record_type']}' AND warc_file LIKE '%/{kind['file']}'")[0]
        found = source(finished, row)
        assert (found.problem is None) == (kind["record_type"] != "damaged"), (kind, found.problem)
    row = some(tables, "outcome = 'kept' AND record_type = 'response'")[0]
    page = client.get(f"/page/{row['doc_id']}/source")
    assert "&lt;html" in page.text and "content-type" in page.text
    body = page.text.split('<pre class="body">')[1]
    assert re.findall(r"<(?!/)[^>]*>", body.split("</pre>")[0]) == []


SOURCES: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "jsonl": (
        "rows.jsonl",
        "jsonl",
        lambda path: path.write_text('{"text": "first <b>"}\n{"text": "second"}\n{"x": 1}\n'),
    ),
    "packed jsonl": (
        "rows.jsonl.gz",
        "jsonl",
        lambda path: path.write_bytes(gzip.compress(b'{"text": "first <b>"}\n{"text": "second"}\n')),
    ),
    "parquet": (
        "rows.parquet",
        "parquet",
        lambda path: pq.write_table(pa.table({"text": ["first <b>", "second"]}), path, row_group_size=1),
    ),
    "code": ("a.py", "code", lambda path: path.write_text("print('first <b>')\n")),
    "text": ("a.txt", "text", lambda path: path.write_text("first <b>\n")),
    "book": ("a.txt", "books", lambda path: path.write_text("first <b>\n")),
    "wikitext": (
        "testwiki-20240101-pages-articles.xml",
        "wikipedia",
        lambda path: path.write_text(
            "<mediawiki><siteinfo><dbname>testwiki</dbname></siteinfo>\n"
            "<page><title>A</title><ns>0</ns><id>1</id><revision>"
            "<id>5</id><timestamp>2024-01-01T00:00:00Z</timestamp><text>first &lt;b&gt;</text></revision></page>\n"
            "</mediawiki>"
        ),
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_that_are_no_archives_are_shown_too(kind: str, tmp_path: Path) -> None:
    name, form, write = SOURCES[kind]
    write(tmp_path / name)
    recipe = parse_recipe(f"name: x\nsource: x\ninputs:\n  format: {form}\n", "here")
    run = open_run(str(tmp_path / "out"), recipe, [str(tmp_path / name)])
    first = []
    for task in run.tasks:
        items = list(read(task.source(), recipe.inputs, 10_000, run.files(task)))
        rows = [
            {
                "doc_id": document_id(item.record_id, item.url, item.date, item.digest),
                "warc_file": item.file, "warc_offset": item.offset, "warc_length": item.length,
                "record_type": item.record_type, "flaws": list(item.flaws), "charset": None,
            }
            for item in items if isinstance(item, Document)
        ]  # fmt: skip
        run.folder.write_table(f"records/part-{task.part}.parquet", pa.Table.from_pylist(rows, RECORDS))
        first += rows[:1]
    found = source(run, first[0])
    assert found.problem is None and "first <b>" in found.text and found.about


def test_an_input_that_changed_or_is_gone_is_one_line(finished: Run, tables: Tables, tmp_path: Path) -> None:
    row = some(tables, "outcome = 'kept' AND warc_file LIKE '%.warc.gz'")[0]
    task = task_of(finished, row)
    assert task is not None
    file = tmp_path / "moved.warc.gz"
    shutil.copyfile(task.path, file)
    moved = existing_run(finished.folder.path)
    moved.info["tasks"] = [asdict(task) | {"path": str(file)}]
    row = {**row, "warc_file": str(file)}
    assert source(moved, row).problem is None
    other = some(tables, f"warc_file LIKE '%/{Path(task.path).name}' AND doc_id != '{row['doc_id']}'")[0]
    at_other = {**row, "warc_offset": other["warc_offset"], "warc_length": other["warc_length"]}
    assert "has changed since the run" in (source(moved, at_other).problem or "")
    file.write_bytes(file.read_bytes()[: row["warc_offset"] + 20])
    assert "has changed since the run" in (source(moved, row).problem or "")
    file.unlink()
    problem = source(moved, row).problem or ""
    assert problem.startswith("The input cannot be read any more") and "\n" not in problem


def test_long_lines_go_on_in_further_rows() -> None:
    found = lines("a\n" + "x" * (2 * WIDTH + 1) + "\n")
    assert found.numbers.split("\n") == ["1", "2", "", "", "3"] and found.n == 3
    assert found.text.replace("\n", "") == "a" + "x" * (2 * WIDTH + 1)


def test_hostile_texts_are_text(copied: Callable[[], Run], tables: Tables) -> None:
    run = copied()
    row, other = some(tables, "outcome = 'kept'", 2)
    change(run, "documents", row, "text", EVIL * 30)
    change(run, "documents", row, "title", EVIL)
    change(run, "documents", other, "text", "</pre>" * 50_000 + EVIL)
    client = visiting(run)
    for path in (
        f"/page/{row['doc_id']}",
        f"/page/{other['doc_id']}",
        f"/page/{row['doc_id']}/beside/{other['doc_id']}",
    ):
        page = client.get(path)
        assert page.status_code == 200 and len(page.content) < 4_000_000
        assert "<script>alert" not in page.text and "<img" not in page.text
        assert "\x00" not in page.text and "\u202e" not in page.text and "\x1b" not in page.text
        assert page.text.count("</pre>") == 0
    story = client.get(f"/page/{row['doc_id']}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in story and "{{ 7*7 }} [U+202E]evil \u241b[0m" in story
    further = client.get(f"/page/{other['doc_id']}", params={"at": 200_000}).text
    assert "Before" in plain(further) and "200,000 to 300,0" in plain(further)
    for at in ("-1", "x", "9" * 30, "999999999"):
        assert client.get(f"/page/{other['doc_id']}", params={"at": at}).status_code == 200


def test_a_run_that_decided_nothing_has_stories_and_a_capture_may_stand_twice(
    copied: Callable[[], Run], tables: Tables
) -> None:
    run = copied()
    row = some(tables, "outcome = 'kept'")[0]
    ledger = Path(run.folder.path, "ledger")
    file = next(
        file
        for file in ledger.iterdir()
        if row["doc_id"] in pq.read_table(file, columns=["doc_id"])["doc_id"].to_pylist()
    )
    rows = pq.read_table(file)
    twin = rows.filter(pc.equal(rows["doc_id"], row["doc_id"])).to_pylist()[0] | {
        "warc_offset": 7,
        "outcome": "dropped",
    }
    pq.write_table(pa.concat_tables([rows, pa.Table.from_pylist([twin], rows.schema)]), file)
    both = visiting(run)
    page = both.get(f"/page/{row['doc_id']}").text
    assert "stand in the archives 2 times" in plain(page).replace("stands", "stand")
    place = {"file": row["warc_file"], "offset": row["warc_offset"]}
    assert "in shard" in both.get(f"/page/{row['doc_id']}", params=place).text
    assert both.get(f"/page/{row['doc_id']}", params={**place, "offset": 8}).status_code == 404
    shutil.rmtree(ledger)
    shutil.rmtree(ledger.parent / "curated")
    early = visiting(existing_run(run.folder.path))
    for reason in ("gates.url.domain", "extraction.empty", "source.damaged", "dedup.minhash"):
        (other,) = some(tables, f"reason = '{reason}'")
        assert early.get(f"/page/{other['doc_id']}").status_code == 200
        assert early.get(f"/page/{other['doc_id']}/beside/{row['doc_id']}").status_code == 200
    undecided = early.get(f"/page/{row['doc_id']}")
    assert undecided.status_code == 200 and "Nothing is decided yet" in undecided.text
    assert "As written" not in undecided.text and "Text, and what became of it" in undecided.text


def test_near_duplicates_stand_beside_each_other(client: TestClient, tables: Tables) -> None:
    row = some(tables, "reason = 'dedup.minhash'")[0]
    page = client.get(f"/page/{row['doc_id']}").text
    beside = f"/page/{row['doc_id']}/beside/{row['duplicate_of']}"
    assert "Near-duplicates" in page and f'href="{beside}"' in page and ">keeper<" in page
    assert "this one is kept" not in page
    two = client.get(beside).text
    assert '<del class="mark-2"' in two or '<ins class="mark-5"' in two
    same = client.get(f"/page/{row['doc_id']}/beside/{row['doc_id']}")
    assert "The texts are the same" in same.text
    nobody = client.get(f"/page/{row['doc_id']}/beside/{'0' * 32}")
    assert nobody.status_code == 200 and "No record of this run has that id" in nobody.text
    gated = some(tables, "reason = 'gates.url.domain'")[0]
    assert "turned away before" in client.get(f"/page/{row['doc_id']}/beside/{gated['doc_id']}").text


def test_benchmark_items_stand_beside_the_page(copied: Callable[[], Run], tables: Tables) -> None:
    run = copied()
    row = some(tables, "outcome = 'kept' AND n_chars > 900")[0]
    text = extracted_text(run, row) or ""
    start, end = 300, 420
    hit = {
        "doc_id": row["doc_id"], "benchmark": "quiz", "item": "quiz-1", "decoy": False, "score": 0.9, "n_grams": 4,
        "question": 1.0, "answer": None, "passage": None, "start": start, "end": end,
        "spans": [{"start": start, "end": end}],
    }  # fmt: skip
    decoy = {**hit, "item": "decoy-1", "decoy": True, "start": 500, "end": 520}
    run.folder.write_table(
        f"contamination/part-{part_of(run, row)}.parquet", pa.Table.from_pylist([hit, decoy], CONTAMINATION)
    )
    item = {"benchmark": "quiz", "item": "quiz-1", "text": f"Question: {text[start:end]} <b>?</b>", "task": "quiz_task"}
    run.folder.write_table("benchmark_items/items.parquet", pa.Table.from_pylist([item], BENCHMARK_ITEMS))
    page = visiting(existing_run(run.folder.path)).get(f"/page/{row['doc_id']}").text
    words = plain(page)
    assert "quiz, item quiz-1" in words and "1 decoys were matched" in words and "quiz_task" in words
    marks = [unescape(mark) for mark in re.findall(r'<mark class="mark-4">([^<]*)</mark>', page)]
    assert marks[-1] == text[start:end] and "Question" not in marks[0] and len(marks[0]) > 90
    assert "cut around a benchmark item" in words and "&lt;b&gt;?" in page
    assert "These marks do not give the curated text" in words


def test_documents_made_of_a_page_are_found_in_tokens_and_mixes(finished: Run, tables: Tables, tmp_path: Path) -> None:
    row = some(tables, "outcome = 'kept'")[0]
    documents = [{"id": "a", "n_tokens": 5}, {"id": row["doc_id"], "n_tokens": 7}, {"id": row["doc_id"], "n_tokens": 9}]
    tokens, mix = tmp_path / "tokens", tmp_path / "mix"
    (mix / "main" / "web").mkdir(parents=True)
    tokens.mkdir()
    (tokens / "tokens.json").write_text("{}")
    pq.write_table(pa.Table.from_pylist(documents, TOKEN_DOCUMENTS), tokens / "shard-00003.docs.parquet")
    schedule: dict[str, Any] = {"phases": [{"sources": {"web": {"folder": "main/web"}}}]}
    (mix / "schedule.json").write_text(json.dumps(schedule))
    pq.write_table(
        pa.Table.from_pylist([{**d, "epoch": 2, "first": 1} for d in documents[1:]], MIXED_DOCUMENTS),
        mix / "main" / "web" / "shard-00000.docs.parquet",
    )
    one, two, three = held([str(tokens), str(mix), str(tmp_path)], row["doc_id"])
    assert [(r["shard"], r["document"], r["start"]) for r in one.rows] == [
        ("shard-00003", 1, 5),
        ("shard-00003", 2, 12),
    ]
    assert one.rows[0]["command"] == f"crawlmill explain --token {tokens}/shard-00003:5"
    assert [(r["phase"], r["start"], r["epoch"]) for r in two.rows] == [("main/web", 0, 2), ("main/web", 7, 2)]
    assert "holds no tokens" in (three.problem or "")
    schedule["phases"][0]["sources"]["web"]["folder"] = "../tokens"
    (mix / "schedule.json").write_text(json.dumps(schedule))
    assert "outside" in (held([str(mix)], row["doc_id"])[0].problem or "")
    page = visiting(finished, (str(tokens),)).get(f"/page/{row['doc_id']}").text
    assert "shard-00003:12" in page
