"""Sources that are no archives, byte for byte: what becomes a document, what is damage, and that splits do not matter."""

import bz2
import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.pages import Extractor
from pipeline.recipe import parse_recipe
from pipeline.sources.archive import Damage, Skipped
from pipeline.sources.documents import Document, moment
from pipeline.sources.formats import Item, parts, read, wanted
from pipeline.sources.inputs import expand
from pipeline.sources.options import CodeGate, Fields, Inputs
from pipeline.sources.wiki_pages import page_url

MOST = 10_000


def items(path: Path | str, inputs: Inputs, split_bytes: int = 1 << 30, code: CodeGate | None = None) -> list[Item]:
    """Everything that the parts of an input give, in order, but padding."""
    files = expand([str(path)], wanted(inputs))
    found: list[Item] = []
    for part in parts(files, inputs, split_bytes):
        named = [(files[i].path, files[i].name) for i in part.files]
        found += read(part, inputs, MOST, named, code)
    return [item for item in found if not (isinstance(item, Skipped) and item.record_type == "padding")]


def documents(path: Path | str, inputs: Inputs, split_bytes: int = 1 << 30) -> list[Document]:
    found = items(path, inputs, split_bytes)
    assert all(isinstance(item, Document) for item in found), found
    return found  # type: ignore[return-value]


JSONL = Inputs(format="jsonl")
PARQUET = Inputs(format="parquet")


def test_rows_of_json_lines_become_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"text": "One.", "id": 7, "url": "https://a.org/", "timestamp": "2024-05-01T10:00:00Z", "title": "T"},
        {"content": "Zwei ü.", "meta": {"url": "https://b.org/"}, "created": 1714557600},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    one, two = documents(path, JSONL)
    assert (one.content, one.record_id, one.url, one.title) == (b"One.", "7", "https://a.org/", "T")
    assert one.date == two.date == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert (two.content.decode(), two.record_id, two.url) == ("Zwei ü.", None, "https://b.org/")
    for document in (one, two):
        line = path.read_bytes()[document.offset : document.offset + document.length]
        assert json.loads(line) in rows


def test_bad_lines_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        b'\xef\xbb\xbf{"text": "first"}',
        b'{"text": "cut',
        b'{"body_text": "x"}',
        b'{"text": null}',
        b'{"text": 3.5}',
        b"",
        b"[1, 2]",
        b'{"text": "bad \xff byte"}',
        b'{"text": "lone \\ud800 surrogate", "date": "yesterday"}',
        b"[" * 100_000,
        b'{"text": "' + b"x" * (MOST + 5) + b'"}',
        b'{"text": "' + b"y" * (2 << 20) + b'"}',
        b'{"text": "last"}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    found = items(path, JSONL)
    assert [type(item).__name__ for item in found] == [
        *("Document", "Damage"),
        *("Document",) * 6,
        *("Damage", "Document", "Document", "Document"),
    ]
    first, cut, missing, null, number, array, byte, surrogate, deep, long, endless, last = found
    assert first.content == b"first" and last.content == b"last"
    assert isinstance(cut, Damage) and "not JSON" in cut.reason and isinstance(deep, Damage)
    assert "no field text, content" in missing.error and "body_text" in missing.error
    assert null.error is None and null.content == b""
    assert "a number" in number.error and "a list" in array.error
    assert "undecodable_bytes" in byte.flaws and "date_malformed" in surrogate.flaws
    assert long.n_content == MOST + 5 and len(long.content) == MOST + 1
    assert endless.n_content > 2 << 20 and endless.content == b"" and "row_not_parsed" in endless.flaws
    assert sum(item.length for item in found) == path.stat().st_size - 2  # but the blank line


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=30), st.integers(1, 200), st.sampled_from(["\n", "\r\n"]))
def test_splits_do_not_matter(tmp_path_factory: pytest.TempPathFactory, texts: list[str], n: int, end: str) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes("".join(json.dumps({"text": text}) + end for text in texts).encode() or b"{}")
    whole = items(path, JSONL)
    assert items(path, JSONL, n) == whole
    assert [item.content.decode("utf-8", "surrogatepass") for item in whole] == (texts or [""])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, zstandard.compress])
def test_compressed_lines_are_the_same_rows(tmp_path: Path, pack: object) -> None:
    text = "".join(json.dumps({"text": f"row {i} " * 50}) + "\n" for i in range(300)).encode()
    ending = {gzip.compress: ".gz", bz2.compress: ".bz2"}.get(pack, ".zst")  # type: ignore[call-overload]
    (tmp_path / "a.jsonl").write_bytes(text)
    half = len(text) // 2
    packed = pack(text[:half]) + pack(text[half:])  # type: ignore[operator]
    (tmp_path / f"b.jsonl{ending}").write_bytes(packed)
    plain = documents(tmp_path / "a.jsonl", JSONL)
    for split_bytes in (1 << 30, 100):
        found = documents(tmp_path / f"b.jsonl{ending}", JSONL, split_bytes)
        assert [(d.content, d.offset, d.length) for d in found] == [(d.content, d.offset, d.length) for d in plain]
        assert all("offset_inflated" in d.flaws for d in found)
    # Compressed, whatever its name says: the task of its start reads it as a whole.
    (tmp_path / "c.jsonl").write_bytes(packed)
    assert [d.content for d in documents(tmp_path / "c.jsonl", JSONL, 100)] == [d.content for d in plain]
    (tmp_path / f"d.jsonl{ending}").write_bytes(packed[:-40])
    found = items(tmp_path / f"d.jsonl{ending}", JSONL)
    assert isinstance(found[-1], Damage) and "cut short" in found[-1].reason
    assert all(isinstance(item, Document) and item.error is None for item in found[:-1])


def test_fields_that_no_table_could_hold(tmp_path: Path) -> None:
    odd = {"text": "t \ud83d", "id": "i\ud800\0", "url": "http://a\udfff.org:x/\ud800", "title": "\udc00", "date": 9e99}
    wrong = {"text": "t", "id": [1], "url": 5, "title": {"a": 1}, "date": [2]}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, (odd, wrong, {**odd, "text": 1}, {"\ud800": 1}))))
    recipe = parse_recipe("name: a\ninputs: {format: jsonl}\ngates: {url: {words: urls/words.yaml}}\n")
    with Extractor(recipe) as extractor:
        made = extractor.extract(items(tmp_path / "a.jsonl", JSONL), "a.jsonl")
    reasons = made.records.column("reason").to_pylist()
    assert reasons == [None, None, "source.no_text", "source.no_text"]
    assert made.records.column("url").to_pylist()[1] == "5" and made.documents.num_rows == 2
    assert made.documents.column("text").to_pylist()[1] == "t"


def test_a_folder_in_a_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.makedirs("/rows/deep", exist_ok=True)
    store.pipe("/rows/deep/a.jsonl", b'{"text": "far away"}')
    store.pipe("/rows/a.md", b"no")
    assert [d.content for d in documents("memory://rows", JSONL)] == [b"far away"]
    (code,) = documents("memory://rows/**/*.md", CODE)
    assert code.url == "a.md"


def table(n: int, **more: object) -> pa.Table:
    return pa.table({"text": [f"row {i}" for i in range(n)], "id": list(range(n)), **more})


def test_rows_of_parquet_by_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    meta = [{"url": f"https://a.org/{i}"} for i in range(250)]
    dates = pa.array([datetime(2024, 1, 1)] * 250, pa.timestamp("us"))
    pq.write_table(table(250, meta=meta, date=dates), path, row_group_size=40)
    whole = documents(path, PARQUET)
    assert [(d.content.decode(), d.offset, d.length, d.record_id) for d in whole] == [
        (f"row {i}", i, 1, str(i)) for i in range(250)
    ]
    assert whole[3].url == "https://a.org/3" and whole[3].date == datetime(2024, 1, 1, tzinfo=UTC)
    for split_bytes in (50, 100, 1000):
        assert documents(path, PARQUET, split_bytes) == whole


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"title": ["t"], "words": [["a"]], "n": [3]}), path)
    (damage,) = items(path, PARQUET, 50)
    assert "no column text, content, raw_content, body" in damage.reason and "title, words, n" in damage.reason
    (damage,) = items(path, Inputs(format="parquet", fields=Fields(text="n")))
    assert "column n holds int64, not text" in damage.reason
    pq.write_table(table(1000), path, row_group_size=200, compression=None)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-200])
    (damage,) = items(path, PARQUET, 500)
    assert "no whole Parquet file" in damage.reason and damage.length == len(data) - 200
    begins = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(2).column(0).dictionary_page_offset
    data[begins : begins + 60] = b"\xff" * 60
    path.write_bytes(data)
    found = items(path, PARQUET)
    (damage,) = [item for item in found if isinstance(item, Damage)]
    assert damage.offset == begins and "row group 2 is damaged" in damage.reason
    assert [item.offset for item in found if isinstance(item, Document)] == [*range(400), *range(600, 1000)]
    pq.write_table(table(0), path)
    assert items(path, PARQUET) == []


def test_text_that_is_no_utf8_or_null_in_parquet(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"bad \xff", None], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert [d.content for d in documents(tmp_path / "a.parquet", PARQUET)] == [b"good", b"bad \xff", b""]
    pq.write_table(pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()}), tmp_path / "b.parquet")
    assert [d.content for d in documents(tmp_path / "b.parquet", PARQUET)] == [b"a", b"b", b"a"]


def test_a_field_that_holds_pages(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"page": "<p>Hello</p>", "text": "x"}))
    (document,) = documents(tmp_path / "a.jsonl", Inputs(format="jsonl", fields=Fields(html="page")))
    assert (document.form, document.content) == ("html", b"<p>Hello</p>")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, text in {
        "src/a.py": "print(1)\n",
        "src/deep/b.RS": "fn main() {}\n",
        "node_modules/x/c.js": "let x = 1\n",
        "web/d.min.js": "let y=2\n",
        "Makefile": "all:\n\techo\n",
        "data.csv": "1,2\n",
        ".git/hooks/e.py": "pass\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "src" / "loop").symlink_to(root, target_is_directory=True)
    (root / "src" / "gone.py").symlink_to(root / "nothing.py")
    (root / "src" / "self.py").symlink_to(root / "src" / "self.py")
    os.mkfifo(root / "src" / "pipe.py")
    return root


CODE = Inputs(format="code")


def test_a_tree_of_code(tree: Path) -> None:
    gate = CodeGate(folders=("node_modules",), files=(".min.js",))
    found = items(tree, CODE, code=gate)
    good = {item.url: item for item in found if isinstance(item, Document)}
    assert {url: (d.media_type, d.gates) for url, d in good.items()} == {
        "src/a.py": ("text/x-python", ()),
        "src/deep/b.RS": ("text/x-rust", ()),
        "node_modules/x/c.js": ("text/x-javascript", ("gates.code.folders",)),
        "web/d.min.js": ("text/x-javascript", ("gates.code.files",)),
        "Makefile": ("text/x-makefile", ()),
    }
    lost = [item for item in found if isinstance(item, Damage)]
    assert {Path(item.file).name for item in lost} == {"gone.py", "self.py"}
    assert items(tree, CODE, 1, gate) == found
    assert len(parts(expand([str(tree)], wanted(CODE)), CODE, 1 << 20)) == 1  # many small files, one task
    only = {d.url for d in items(tree, Inputs(format="code", endings=(".rs",))) if isinstance(d, Document)}
    assert only == {"src/deep/b.RS"}


def test_names_are_those_within_what_was_given(tree: Path) -> None:
    by_glob = items(f"{tree}/**/a.py", CODE)
    assert {item.url for item in by_glob} == {"src/a.py"}
    assert [item.url for item in items(tree / "data.csv", CODE)] == ["data.csv"]  # what is named is read


@pytest.mark.parametrize(
    ("inputs", "missing"),
    [
        (JSONL, "the folder holds no .jsonl or .ndjson"),
        (PARQUET, "no Parquet files"),
        (CODE, "no source code"),
        (Inputs(format="wikipedia"), "no dumps of a wiki"),
        (Inputs(format="text"), "no texts"),
    ],
)
def test_folders_without_what_is_wanted(tmp_path: Path, inputs: Inputs, missing: str) -> None:
    (tmp_path / "a.warc").write_text("x")
    with pytest.raises(InputError, match=missing):
        expand([str(tmp_path)], wanted(inputs))


BOOKS = Inputs(format="books")


def test_texts_alone_compressed_and_in_packages(tmp_path: Path) -> None:
    text = "A mill stood by the river.\n" * 5
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(text.encode())[:-12])
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("x/one.txt", text)
        package.writestr("x/two.bin", b"\0")
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as package:
        package.add(tmp_path / "a.txt", "./y/three.txt")
    found = items(tmp_path, BOOKS)
    good = [item for item in found if isinstance(item, Document) and item.n_content]
    assert {d.url for d in good} == {"a.txt", "b.txt", "x/one.txt", "y/three.txt"}
    assert {d.content for d in good} == {text.encode()} and len({d.digest for d in good}) == 1
    (empty,) = [item for item in found if isinstance(item, Document) and not item.n_content]
    assert empty.url == "empty.txt"
    (lost,) = [item for item in found if isinstance(item, Damage)]
    assert lost.length == (tmp_path / "cut.txt.gz").stat().st_size
    assert [(s.record_type, Path(s.file or "").name) for s in found if isinstance(s, Skipped)] == [("member", "c.zip")]


def test_books_and_texts_that_are_pages(tmp_path: Path) -> None:
    page = b"\xef\xbb\xbf<!DOCTYPE html>\n<html><body><p>A mill.</p></body></html>"
    (tmp_path / "a.htm.gz").write_bytes(gzip.compress(b"<p>A mill."))
    (tmp_path / "b.txt").write_bytes(page)
    (tmp_path / "c.txt").write_bytes(b"<html> is how a page begins, says <a book> of it.")
    (tmp_path / "d.txt").write_bytes(b"The tag <html> is not at the start here.")
    forms = {path.name: documents(path, BOOKS)[0].form for path in sorted(tmp_path.iterdir())}
    assert forms == {"a.htm.gz": "html", "b.txt": "html", "c.txt": "html", "d.txt": "book"}
    (tmp_path / "e.html").write_bytes(page)
    assert documents(tmp_path / "e.html", CODE)[0].form == "code"


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_costs_itself(tmp_path: Path, how: int) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w", how) as package:
        for i in range(3):
            package.writestr(f"{i}.txt", " ".join(str(n**3 + i) for n in range(300)))
    data = bytearray((tmp_path / "c.zip").read_bytes())
    for member in zipfile.ZipFile(io.BytesIO(bytes(data))).infolist()[1:2]:
        at = member.header_offset + 30 + len(member.filename)
        data[at + 9 : at + 25] = b"\xff" * 16
    (tmp_path / "c.zip").write_bytes(data)
    found = items(tmp_path / "c.zip", BOOKS)
    assert [type(item).__name__ for item in found] == ["Document", "Damage", "Document"]
    assert isinstance(found[1], Damage) and "member 1.txt cannot be read" in found[1].reason
    needed = data.rindex(b"PK\x01\x02") + 6  # the version that is needed to read the last member
    data[needed] = 99
    (tmp_path / "c.zip").write_bytes(data)
    (damage,) = items(tmp_path / "c.zip", BOOKS)
    assert isinstance(damage, Damage) and "zip file version" in damage.reason


def test_damaged_packages(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as package:
        for i in range(3):
            package.writestr(f"{i}.txt", f"text {i} " * 100)
    data = bytearray((tmp_path / "c.zip").read_bytes())
    second = zipfile.ZipFile(io.BytesIO(bytes(data))).infolist()[1]
    at = second.header_offset + 30 + len(second.filename)
    data[at : at + 8] = b"\xff" * 8
    (tmp_path / "c.zip").write_bytes(data)
    kinds = [type(item).__name__ for item in items(tmp_path / "c.zip", BOOKS)]
    assert kinds == ["Document", "Damage", "Document"]
    (tmp_path / "c.zip").write_bytes(data[:-30])
    (damage,) = items(tmp_path / "c.zip", BOOKS)
    assert "no whole zip file" in damage.reason
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for name in ("c.zip", "c.zip"):
            tar.add(tmp_path / name, "a.txt")
    (tmp_path / "d.tar").write_bytes((tmp_path / "d.tar").read_bytes()[:1200])
    assert [type(item).__name__ for item in items(tmp_path / "d.tar", BOOKS)] in (
        ["Document", "Damage"],
        ["Damage"],
    )


PAGE = """  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>{number}</id>
    {redirect}<revision>
      <id>{revision}</id>
      <timestamp>2024-05-01T10:00:00Z</timestamp>
      <text bytes="9">{text}</text>
    </revision>
  </page>
"""


def dump(n: int = 40) -> Iterator[str]:
    yield "<mediawiki>\n  <siteinfo>\n    <dbname>enwiki</dbname>\n  </siteinfo>\n"
    for i in range(1, n + 1):
        yield PAGE.format(
            title=f"Page {i}",
            ns=10 if i % 10 == 0 else 0,
            number=i,
            revision=1000 + i,
            redirect='<redirect title="X" />\n    ' if i % 7 == 0 else "",
            text=f"The page of number {i}. " * 30,
        )
    yield "</mediawiki>\n"


WIKI = Inputs(format="wikipedia")


def test_pages_of_a_dump_and_their_places(tmp_path: Path) -> None:
    pages = list(dump())
    whole = "".join(pages).encode()
    (tmp_path / "plain.xml").write_bytes(whole)
    (tmp_path / "one.xml.bz2").write_bytes(bz2.compress(whole))
    groups = ["".join(pages[i : i + 5]).encode() for i in range(0, len(pages), 5)]
    (tmp_path / "many.xml.bz2").write_bytes(b"".join(bz2.compress(group) for group in groups))
    plain = items(tmp_path / "plain.xml", WIKI)
    found = [item for item in plain if isinstance(item, Document)]
    assert len(found) == 36 and sum(bool(d.gates) for d in found) == 5
    assert sum(isinstance(item, Skipped) and item.record_type == "other_namespace" for item in plain) == 4
    first = found[0]
    assert (first.record_id, first.url) == ("enwiki:1:1001", "https://en.wikipedia.org/wiki/Page_1")
    assert first.date == datetime(2024, 5, 1, 10, tzinfo=UTC) and first.title == "Page 1"
    for document in found:
        xml = whole[document.offset : document.offset + document.length]
        assert xml.startswith(b"<page>") and xml.endswith(b"</page>") and document.title.encode() in xml
    inflated = [item for item in items(tmp_path / "one.xml.bz2", WIKI) if isinstance(item, Document)]
    assert [(d.offset, d.flaws) for d in inflated] == [(d.offset, ("offset_inflated",)) for d in found]
    in_one = [item for item in items(tmp_path / "many.xml.bz2", WIKI) if isinstance(item, Document)]
    data = (tmp_path / "many.xml.bz2").read_bytes()
    for document in in_one:
        stream = bz2.BZ2Decompressor().decompress(data[document.offset :])
        assert f"<title>{document.title}</title>".encode() in stream
    for split_bytes in (200, 700, 3000):
        again = [i for i in items(tmp_path / "many.xml.bz2", WIKI, split_bytes) if isinstance(i, Document)]
        assert again == in_one
        assert [i for i in items(tmp_path / "plain.xml", WIKI, split_bytes) if isinstance(i, Document)] == found


def test_a_dump_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "cut.xml.bz2"
    path.write_bytes(bz2.compress("".join(dump(2000)).encode())[:-5000])
    *good, last = [item for item in items(path, WIKI) if not isinstance(item, Skipped)]
    assert isinstance(last, Damage) and "cut short" in last.reason
    assert all(isinstance(item, Document) for item in good)
    (tmp_path / "no.xml").write_text("<html>not found</html>")
    (damage,) = items(tmp_path / "no.xml", WIKI)
    assert "HTML page" in damage.reason


@pytest.mark.parametrize(
    ("title", "wiki", "url"),
    [
        ("A/B (c)", "enwiki", "https://en.wikipedia.org/wiki/A/B_(c)"),
        ("Zürich?", "dewiktionary", "https://de.wiktionary.org/wiki/Z%C3%BCrich%3F"),
        ("X", "zh_yuewiki", "https://zh-yue.wikipedia.org/wiki/X"),
        ("X", "commonswiki", "https://commons.wikimedia.org/wiki/X"),
        ("X", "wiki.example.org", "https://wiki.example.org/wiki/X"),
        ("X", "", None),
    ],
)
def test_addresses_of_pages(title: str, wiki: str, url: str | None) -> None:
    assert page_url(title, wiki) == url


def test_dates_as_rows_have_them() -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    for value in ("2024-05-01T12:00:00Z", "2024-05-01 14:00:00+02:00", 1714564800, 1714564800000, "1714564800", noon):
        assert moment(value) == noon
    assert moment(None) is None and moment("") is None
    for value in ("soon", True, float("nan"), 1e300, [2024]):
        with pytest.raises(ValueError, match=r"."):
            moment(value)
