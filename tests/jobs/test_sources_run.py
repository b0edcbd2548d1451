"""Runs over sources that are no archives: the same stages, the same account, the same bytes however they are made."""

import bz2
import gzip
import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import runs
from jobs.curate import outcome_counts, redecide
from jobs.explain import extracted_text, find, measures
from jobs.funnel import funnel
from jobs.run import run
from jobs.runs import Run, existing_run
from pipeline.dedup.options import Dedup
from pipeline.errors import InputError, RecipeError
from pipeline.recipe import Recipe, load_recipe, parse_recipe

pytestmark = pytest.mark.spark

_SAID = "the mill stood by a river where old stones turn and grain is ground to flour for bread that people eat"
WORDS = _SAID.split(" ")


def prose(seed: int, n: int = 12) -> str:
    """English of a kind, other for every seed."""
    lines = []
    for i in range(n):
        numbers = hashlib.sha256(f"{seed}:{i}".encode()).digest()
        words = [WORDS[b % len(WORDS)] for b in numbers[:16]]
        lines.append(f"{words[0].capitalize()} {' '.join(words[1:])}, and with that {words[3]} of number {seed}.")
    return "\n".join(lines)


def digests(folder: str | Path) -> dict[str, str]:
    root = Path(folder)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for table in ("curated", "ledger")
        for path in sorted((root / table).glob("*.parquet"))
    }


def check_account(done: Run) -> list[dict]:
    """The ledger, after a look that every file's records are in it."""
    rows = done.folder.scan("ledger", None).to_pylist()
    read: Counter[str] = Counter()
    for row in done.folder.scan("inputs", None, ["warc_file", "n_read"]).to_pylist():
        read[row["warc_file"]] += row["n_read"]
    assert Counter(row["warc_file"] for row in rows) == +read
    assert sum(outcome_counts(done).values()) == len(rows)
    steps = funnel(done)
    assert (steps[-1].left if steps else len(rows)) == outcome_counts(done).get("kept", 0) + 0
    return rows


def recipe(name: str, dedup: bool = False, **inputs: object) -> Recipe:
    """One that ships, whatever is damaged; without deduplication, which has tests of its own, unless it is asked for."""
    loaded = load_recipe(name)
    more = {"tolerate": 1.0, **inputs}
    changed = {"inputs": loaded.inputs.model_copy(update=more)} | ({} if dedup else {"dedup": Dedup()})
    return loaded.model_copy(update=changed)


def extracted_in_parts(done: Run, inputs: Path, output: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether tasks of about `size` bytes read what one read. What comes after reading does not know the source."""
    monkeypatch.setattr(runs, "LEAST_SPLIT_BYTES", size)
    monkeypatch.setattr(runs, "SPLIT_BYTES", size)
    again = run(done.recipe, [str(inputs)], str(output), upto="extract", master="local[2]")
    assert len(again.tasks) > 4 > len(done.tasks)
    order = [("warc_file", "ascending"), ("warc_offset", "ascending"), ("doc_id", "ascending")]
    records = [of.folder.scan("records", None).sort_by(order).to_pylist() for of in (done, again)]
    texts = [of.folder.scan("documents", None).sort_by("doc_id").to_pylist() for of in (done, again)]
    return records[0] == records[1] and texts[0] == texts[1]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSON lines with everything that can be wrong with them."""
    folder = tmp_path_factory.mktemp("rows")
    rows: list[bytes] = [
        json.dumps({"text": prose(i), "id": f"n{i}", "url": f"https://a.org/{i}"}).encode() for i in range(400)
    ]
    rows[100] = b'{"text": "broken'
    rows[150] = b'{"words": "no text"}'
    rows[160] = b'{"text": null}'
    rows[170] = b'{"text": 42}'
    rows[180] = json.dumps({"text": prose(180)}).replace("mill", "mi\u00fcll").encode("latin-1")
    rows[200] = rows[210] = json.dumps({"text": prose(200)}).encode()
    rows[220] = json.dumps({"text": "word " * 10_000_000, "id": "large"}).encode()
    rows[230] = json.dumps({"text": prose(230) + "\0\r\nEnd of it.", "id": "odd"}).encode()
    (folder / "a.jsonl").write_bytes(b"\n".join(rows[:215]) + b"\n")
    (folder / "b.jsonl").write_bytes(b"\n".join(rows[215:330]))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n".join([*rows[330:], rows[200]])))
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "readme.md").write_text("not rows")
    return folder


@pytest.fixture(scope="module")
def rows_run(lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("runs") / "rows"
    return run(recipe("text", format="jsonl"), [str(lines)], str(output), master="local[2]", partitions=1)


def test_rows_with_all_that_can_be_wrong(rows_run: Run) -> None:
    rows = check_account(rows_run)
    by_place = {(Path(row["warc_file"]).name, row["record_id"]): row for row in rows}
    large = by_place["b.jsonl", "large"]
    assert (large["reason"], large["n_payload_bytes"]) == ("gates.size", 50_000_000)
    errors = Counter(row["reason"] for row in rows if row["outcome"] == "error")
    assert errors == {"source.damaged": 2, "source.no_text": 2}
    messages = " ".join(row["error"] for row in rows if row["error"])
    assert "not JSON" in messages and "no field text" in messages and "a number" in messages and "empty" in messages
    assert sum(row["reason"] == "extraction.empty" for row in rows) == 1
    assert sum("undecodable_bytes" in row["flaws"] for row in rows) == 1
    repeated = [row for row in rows if row["digest"] == by_place_digest(rows)]
    assert sorted(row["reason"] or "kept" for row in repeated) == ["kept", "same_record", "same_record"]
    assert len({row["doc_id"] for row in repeated}) == 1
    curated = rows_run.folder.scan("curated", None, ["text", "url", "source"]).to_pylist()
    assert {row["source"] for row in curated} == {"text"} and len(curated) == outcome_counts(rows_run)["kept"] > 350
    (odd,) = [row for row in curated if "End of it." in row["text"]]
    assert odd["text"] == prose(230) + "\nEnd of it."


def by_place_digest(rows: list[dict]) -> str:
    return Counter(row["digest"] for row in rows if row["digest"]).most_common(1)[0][0]


def test_a_run_that_lost_half_of_what_it_read_goes_on_to_the_same_bytes(
    rows_run: Run, lines: Path, tmp_path: Path
) -> None:
    """What a kill leaves: parts without a manifest, of which some are half written. Here in other tasks, too."""
    output = tmp_path / "out"
    cut = run(rows_run.recipe, [str(lines)], str(output), upto="extract", master="local[2]", partitions=6)
    assert len(cut.tasks) > len(rows_run.tasks)
    info = json.loads((output / "run.json").read_text())
    info["stages"]["extract"]["done"] = False
    (output / "run.json").write_text(json.dumps(info))
    for manifest in sorted((output / "_manifests" / "extract").iterdir())[::2]:
        manifest.unlink()
        for part in output.glob(f"*/part-{manifest.stem}.parquet"):
            part.write_bytes(part.read_bytes()[:100])
    again = run(rows_run.recipe, [str(lines)], str(output), master="local[2]", partitions=6)
    assert digests(again.folder.path) == digests(rows_run.folder.path)


def test_explain_and_redecide(rows_run: Run, tmp_path: Path) -> None:
    (row,) = find(rows_run, "https://a.org/7")
    assert row["record_type"] == "row" and extracted_text(rows_run, row) == prose(7)
    assert any(entry["rule"] == "gopher_quality.word_count" for entry in measures(row, rows_run.recipe))
    (same,) = find(rows_run, f"a.jsonl:{row['warc_offset']}")
    assert same["doc_id"] == row["doc_id"]
    text = (Path(__file__).parents[2] / "pipeline" / "recipes" / "text.yaml").read_text()
    text = text.replace("format: parquet", "format: jsonl, tolerate: 1")
    stricter = parse_recipe(text.replace("dedup:", "  mine: {bounds: {char_count: [1300, null]}}\ndedup:"))
    decided = redecide(rows_run.folder.path, stricter, str(tmp_path / "decided"))
    assert 0 < outcome_counts(decided)["kept"] < outcome_counts(rows_run)["kept"]


def test_parquet_gives_what_json_lines_give(rows_run: Run, lines: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (lines / "a.jsonl").read_bytes().split(b"\n")[:100]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=30)
    pq.write_table(pa.table({"words": ["none"]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"2 of 3 input files could not be read"):
        run(recipe("text", tolerate=0.5), [str(tmp_path)], str(tmp_path / "out"), master="local[2]")
    done = existing_run(str(tmp_path / "out"))
    ledger = check_account(done)
    lost = {Path(row["warc_file"]).name: row["error"] for row in ledger if row["outcome"] == "error"}
    assert "no column text, content, raw_content, body; its columns: words" in lost["b.parquet"]
    assert "no whole Parquet file" in lost["c.parquet"]
    kept = done.folder.scan("curated", None, ["id", "text", "warc_offset", "warc_length"]).to_pylist()
    assert all(row["text"] == prose(row["warc_offset"]) and row["warc_length"] == 1 for row in kept)
    of_lines = rows_run.folder.scan("ledger", pc.field("record_id").is_valid(), ["doc_id", "record_id"]).to_pylist()
    ids = {row["record_id"]: row["doc_id"] for row in of_lines}
    assert len(kept) > 90 and all(ids[f"n{row['warc_offset']}"] == row["id"] for row in kept)


def test_one_file_that_is_wrong_is_named_with_its_reason(tmp_path: Path) -> None:
    pq.write_table(pa.table({"words": ["none"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"no column text.*its columns: words; name the one"):
        run(load_recipe("text"), [str(tmp_path)], str(tmp_path / "out"), upto="extract", master="local[2]")


def test_a_tree_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    good = (
        "# Copyright 2024 the authors. MIT licence.\n\ndef mill(x):\n\treturn x * 2\n\n\nprint(mill(21), 'ready')\n" * 2
    )
    files = {
        "a/good.py": good.encode(),
        "a/copy.py": good.encode(),
        "b/windows.c": b"int wheel(int stones) {\r\n\treturn stones + 1;\r\n}\r\n\r\nint main() { wheel(3); }\r\n\r\n"
        * 2,
        "b/latin.c": ("// ein Mühlrad in der Mühle, für Köche\n" + good).encode("latin-1"),
        "b/made.py": b"# Generated by the compiler. DO NOT EDIT.\n" + good.encode(),
        "b/one_line.js": b"let a = 1;" * 500,
        "b/binary.py": b"\x00\x01\x02" * 100,
        "node_modules/c.js": b"let b = 2;\n" * 40,
        "d/empty.py": b"",
        "d/tiny.py": b"x = 1\n",
        "notes.xyz": b"no code",
    }
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    (tree / os.fsdecode(b"a/n\xefme.py")).write_bytes(good.replace("mill", "wheel and stone").encode() * 3)
    (tree / "a" / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "a" / "gone.py").symlink_to(tree / "nowhere")
    done = run(recipe("code", True), [str(tree)], str(tmp_path / "out"), master="local[2]")
    assert extracted_in_parts(done, tree, tmp_path / "parts", 300, monkeypatch)
    reasons = {row["url"] or row["warc_file"]: row["reason"] for row in check_account(done)}
    assert len(reasons) == 12
    assert sorted((reasons["a/good.py"] or "", reasons["a/copy.py"] or "")) == ["", "dedup.exact"]
    assert reasons["b/made.py"] == "gates.code.generated"
    assert reasons["b/one_line.js"] == "the_stack.longest_line_length"
    assert reasons["b/binary.py"] == "gates.content"
    assert reasons["node_modules/c.js"] == "gates.code.folders"
    assert reasons["d/empty.py"] == "extraction.empty" and reasons["d/tiny.py"].startswith("length.")
    assert reasons[str(tree / "a" / "gone.py")] == "source.damaged"
    texts = {row["url"]: row["text"] for row in done.folder.scan("curated", None, ["url", "text"]).to_pylist()}
    assert "Mühlrad in der Mühle, für Köche" in texts["b/latin.c"]
    assert "\r" not in texts["b/windows.c"] and "{\n\treturn stones" in texts["b/windows.c"]


PAGE = (
    "<page><title>{0}</title><ns>0</ns><id>{1}</id>{2}<revision><id>{1}</id>"
    "<timestamp>2024-05-01T10:00:00Z</timestamp><text>{3}</text></revision></page>\n"
)


def test_a_dump_of_wikipedia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "<mediawiki><siteinfo><dbname>enwiki</dbname></siteinfo>\n"
    pages = [
        PAGE.format(f"Mill {i}", i, "", f"'''Mill {i}''' is a [[mill]].\n\n== Past ==\n{prose(i)}") for i in range(60)
    ]
    pages[5] = PAGE.format("M", 5, '<redirect title="Mill 1" />', "#REDIRECT [[Mill 1]]")
    pages[6] = PAGE.format("M (disambiguation)", 6, "", "'''M''' may refer to:\n* [[Mill 1]]\n{{disambiguation}}")
    pages[7] = PAGE.format("Stub", 7, "", "A '''stub'''.")
    streams = [head, *("".join(pages[i : i + 10]) for i in range(0, 60, 10)), "</mediawiki>\n"]
    path = tmp_path / "enwiki-20240501-pages-articles-multistream.xml.bz2"
    packed = [bz2.compress(stream.encode()) for stream in streams]
    path.write_bytes(b"".join(packed[:-2]) + packed[-2][:-30])  # cut within the last pages
    done = run(recipe("wikipedia"), [str(path)], str(tmp_path / "out"), master="local[2]")
    assert extracted_in_parts(done, path, tmp_path / "parts", 2000, monkeypatch)
    rows = check_account(done)
    reasons = {row["url"]: row["reason"] for row in rows}
    assert reasons["https://en.wikipedia.org/wiki/M"] == "gates.redirect"
    assert reasons["https://en.wikipedia.org/wiki/M_(disambiguation)"] == "gates.disambiguation"
    assert reasons["https://en.wikipedia.org/wiki/Stub"].startswith("length.")
    assert [row["reason"] for row in rows if row["outcome"] == "error"] == ["source.damaged"]
    assert {row["dump"] for row in rows} == {"enwiki-20240501"}
    (row,) = find(done, "https://en.wikipedia.org/wiki/Mill_9")
    text = extracted_text(done, row) or ""
    assert row["outcome"] == "kept" and prose(9).replace("\n", " ") in text and "'''" not in text and "[[" not in text


def test_books(tmp_path: Path) -> None:
    book = (
        "The Project Gutenberg EBook of Mills, by A. Miller\n\nTitle: Mills\n\nAuthor: A. Miller\n\nLanguage: English\n\n"
        "*** START OF THE PROJECT GUTENBERG EBOOK MILLS ***\n\n"
        + prose(1, 40)
        + "\n\n*** END OF THE PROJECT GUTENBERG EBOOK MILLS ***\n\nLicense.\n"
    )
    (tmp_path / "mills.txt.gz").write_bytes(gzip.compress(book.encode()))
    (tmp_path / "none.txt").write_bytes(b"\0" * 100)
    page = (
        "<html><head><title>Rivers</title></head><body>"
        + "".join(f"<p>{prose(2, 40)}</p>".split("\n"))
        + "</body></html>"
    )
    (tmp_path / "rivers.txt").write_text(page)
    done = run(recipe("books"), [str(tmp_path)], str(tmp_path / "out"), master="local[2]")
    reasons = {row["url"]: row["reason"] for row in check_account(done)}
    assert reasons == {"mills.txt": None, "none.txt": "gates.content", "rivers.txt": None}
    texts = {row["url"]: row["text"] for row in done.folder.scan("curated", pc.field("source") == "books").to_pylist()}
    assert "of number 1." in texts["mills.txt"] and "Gutenberg" not in texts["mills.txt"]
    assert "of number 2." in texts["rivers.txt"] and "<p>" not in texts["rivers.txt"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name: a\ninputs: {format: jsnol}\n", r"line 2: inputs.format.*'jsonl'"),
        (
            "name: a\ninputs:\n  format: jsonl\n  fields: {txt: body}\n",
            r"line 4: unknown key 'inputs.fields.txt'.*'text'",
        ),
        ("name: a\ninputs:\n  format: code\n  fields: {text: body}\n", r"line 2: inputs: `fields` is for rows"),
        ("name: a\ninputs: {format: code, endings: [py]}\n", r"line 2: inputs.endings: an ending begins with a dot"),
        ("name: a\ninputs: {endings: [.gz]}\n", r"`endings` is for other formats"),
        ("name: a\ngates:\n  code: {folder: [x]}\n", r"line 3: unknown key 'gates.code.folder'.*'folders'"),
    ],
)
def test_mistakes_in_recipes_are_named(text: str, error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        parse_recipe(text)


def test_what_inputs_are_is_part_of_what_is_extracted() -> None:
    one, two, three = (
        parse_recipe(f"name: a\ninputs: {{format: jsonl, {more}}}\n")
        for more in ("tolerate: 0.1", "tolerate: 0.5", "fields: {text: body}")
    )
    assert one.extracting == two.extracting != three.extracting
    assert one.digest == two.digest != three.digest
