"""The job of references: the same bytes however it is run, counts over all dumps, caps, accounts and restarts."""

import bz2
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import jobs.references as job
from jobs.references import REFERENCES, references
from pipeline.errors import InputError, UsageError

HEADER = "<mediawiki><siteinfo><dbname>testwiki</dbname></siteinfo>\n"
FOOTER = "</mediawiki>\n"


def page(number: int, text: str) -> str:
    return (
        f"<page><title>T{number}</title><ns>0</ns><id>{number}</id><revision><id>1</id><timestamp>x</timestamp>"
        f"<text>{text.replace('<', '&lt;')}</text></revision></page>\n"
    )


def dump(folder: Path, name: str, texts: list[str], a_stream: int | None = None) -> str:
    """A dump of pages 1, 2, … as plain XML, or bzip2 with so many pages a stream."""
    pages = [page(i, text) for i, text in enumerate(texts, 1)]
    groups = [HEADER, *("".join(pages[i : i + (a_stream or 1)]) for i in range(0, len(pages), a_stream or 1)), FOOTER]
    body = b"".join(bz2.compress(g.encode()) for g in groups) if a_stream else "".join(groups).encode()
    (folder / name).write_bytes(body)
    return str(folder / name)


TEXTS = [
    *(
        f"<ref>http://a.org/{i % 7}</ref> https://h{i % 5}.net/p{i}?utm_source=w [http://www.b.org/{i % 3}/ x]"
        for i in range(40)
    ),
    "{{cite web|url=https://a.org/3}} https://a.org/3 http://a.org/3 https://en.wikipedia.org/wiki/X",
]


def table(output: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(output / "references").to_pylist()
    return sorted(rows, key=lambda row: row["canonical"])


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "references").glob("*.parquet"))}


def test_one_row_an_address(tmp_path: Path) -> None:
    account = references(None, [dump(tmp_path, "d.xml", TEXTS)], str(tmp_path / "out"))
    rows = {row["canonical"]: row for row in table(tmp_path / "out")}
    assert pq.read_schema(next((tmp_path / "out" / "references").glob("*"))).names == REFERENCES.names
    row = rows["a.org/3"]
    # Pages 4, 11, 18, 25, 32, 39 once each, page 41 thrice.
    assert (row["n_citations"], row["n_articles"], row["article"], row["article_id"]) == (9, 7, "T4", 4)
    assert row["url"] == "http://a.org/3"
    assert row["kinds"] == ["ref", "template", "bare"]
    assert (row["host"], row["domain"], row["wiki"]) == ("a.org", "a.org", "testwiki")
    assert len(rows) == 7 + 40 + 3
    assert account["references"] == 50
    assert account["pages"] == 41
    assert account["dropped"] == {"wikimedia": 1}
    assert account["citations"] == {"bare": 82, "ref": 40, "template": 1}
    assert account["hosts"] == 7
    assert json.loads((tmp_path / "out" / "references.json").read_text()) == account
    assert not (tmp_path / "out" / "references_work").exists()


@pytest.mark.spark
def test_the_same_bytes_however_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.session import session

    monkeypatch.setattr(job, "BYTES_A_PART", 2000)
    many = dump(tmp_path, "many.xml.bz2", TEXTS, 3)
    half = dump(tmp_path, "half.xml.bz2", TEXTS[:20], 100)
    expected = None
    for number, (spark, inputs, split_bytes) in enumerate(
        [(None, [many, half], 1 << 30), (None, [half, many], 300), (session("tests", "local[2]"), [many, half], 700)]
    ):
        output = tmp_path / f"out{number}"
        references(spark, inputs, str(output), split_bytes=split_bytes, partitions=number + 1)
        found = contents(output)
        expected = expected or found
        assert len(found) > 1
        assert found == expected
    # Pages that both dumps hold count once.
    assert {row["canonical"]: row["n_citations"] for row in table(tmp_path / "out0")}["a.org/3"] == 9


def test_the_cap_of_a_host_keeps_the_same_addresses_whatever_else_is_there(tmp_path: Path) -> None:
    everything = [f"http://a.org/{i} http://b.org/{i}" for i in range(30)]
    few = dump(tmp_path, "few.xml", everything[::-1])
    one = references(None, [dump(tmp_path, "d.xml", everything)], str(tmp_path / "o1"), per_host=4)
    references(None, [few], str(tmp_path / "o2"), per_host=4)
    kept = [row["canonical"] for row in table(tmp_path / "o1")]
    assert len(kept) == 8
    assert kept == [row["canonical"] for row in table(tmp_path / "o2")]
    assert (one["hosts"], one["hosts_capped"], one["over_cap"]) == (2, 2, 52)
    references(None, [few], str(tmp_path / "o3"), per_host=None, kinds=["ref"])
    assert table(tmp_path / "o3") == []


def test_work_files_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dump(tmp_path, "d.xml", TEXTS)
    references(None, [path], str(tmp_path / "o1"))
    monkeypatch.setattr(job, "MOST_ROWS", 5)
    references(None, [path], str(tmp_path / "o2"))
    assert contents(tmp_path / "o1") == contents(tmp_path / "o2")


def test_the_table_of_links_adds_what_the_text_does_not_show(tmp_path: Path) -> None:
    path = dump(tmp_path, "d.xml", ["http://a.org/x", "http://b.org/y"])
    rows = "(1,1,'https://org.a.','/x'),(2,1,'https://net.c.','/z'),(3,9,'https://org.b.','/y')"
    columns = ", ".join(f"`{name}`" for name in ("el_id", "el_from", "el_to_domain_index", "el_to_path"))
    sql = f"-- Database: testwiki\nINSERT INTO `externallinks` ({columns}) VALUES {rows};\n-- Dump completed\n"
    links = tmp_path / "x-externallinks.sql.gz"
    links.write_bytes(gzip.compress(sql.encode()))
    account = references(None, [path, str(links)], str(tmp_path / "out"))
    got = {
        r["canonical"]: (r["n_citations"], r["n_articles"], r["kinds"], r["article"]) for r in table(tmp_path / "out")
    }
    assert got == {
        "a.org/x": (1, 1, ["bare"], "T1"),
        "b.org/y": (2, 2, ["bare", "table"], "T2"),
        "c.net/z": (1, 1, ["table"], None),
    }
    assert account["table_rows"] == 3


def test_damage_is_in_the_account_and_decides_the_outcome(tmp_path: Path) -> None:
    path = Path(dump(tmp_path, "d.xml.bz2", TEXTS, 5))
    path.write_bytes(path.read_bytes()[:-100])
    wrong = tmp_path / "wrong.xml"
    wrong.write_text("no dump")
    for tolerate in (0.0, 1.0):
        output = tmp_path / f"o{tolerate}"
        ask = {"inputs": [str(path), str(wrong)], "output": str(output), "tolerate": tolerate}
        if tolerate:
            references(None, **ask)
        else:
            with pytest.raises(InputError, match="1 of 2 dumps could not be read"):
                references(None, **ask)
        account = json.loads((output / "references.json").read_text())
        assert account["bytes_lost"] > 0
        assert account["damages"][0]["path"] == str(path)
        assert account["references"] > 40
        assert "no dump" in account["inputs"][1]["problem"]


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = dump(tmp_path, "d.xml", TEXTS)
    output = tmp_path / "out"
    for error, match, ask in (
        (UsageError, "no kind of citation", {"inputs": [path], "kinds": ["footnote"]}),
        (UsageError, "per_host", {"inputs": [path], "per_host": 0}),
        (InputError, "no such file", {"inputs": [str(tmp_path / "none.bz2")]}),
        (InputError, "is a folder", {"inputs": [str(tmp_path)]}),
        (InputError, "no dump given", {"inputs": []}),
    ):
        with pytest.raises(error, match=match):
            references(None, output=str(output), **ask)
    assert not output.exists()
    references(None, [path], str(output))
    with pytest.raises(UsageError, match="another run"):
        references(None, [path], str(output), per_host=3)


def test_a_run_that_was_stopped_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dump(tmp_path, "d.xml.bz2", TEXTS, 3)
    references(None, [path], str(tmp_path / "o1"), split_bytes=500)
    read: list[str] = []
    whole = job._Job.read

    def stopped(self: Any, task: Any) -> None:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(task.name)
        whole(self, task)

    monkeypatch.setattr(job._Job, "read", stopped)
    with pytest.raises(KeyboardInterrupt):
        references(None, [path], str(tmp_path / "o2"), split_bytes=500)
    again: list[str] = []
    monkeypatch.setattr(job._Job, "read", lambda self, task: (again.append(task.name), whole(self, task))[1])
    first = references(None, [path], str(tmp_path / "o2"), split_bytes=500)
    assert not set(read) & set(again)
    assert contents(tmp_path / "o1") == contents(tmp_path / "o2")
    again.clear()
    assert references(None, [path], str(tmp_path / "o2"), split_bytes=500) == first
    assert again == []


def test_the_command_line(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "jobs.references"]
    shown = subprocess.run([*command, "--help"], cwd=root, capture_output=True, text=True, check=True)
    assert "--per-host" in shown.stdout
    (tmp_path / "x.xml").write_text("no dump")
    wrong = [*command, "--input", str(tmp_path / "x.xml"), "--output", str(tmp_path / "o"), "--kinds", "none"]
    done = subprocess.run(wrong, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no kind of citation")
