"""Duplicates over whole runs and over indexes: what goes, what stays, and that nothing depends on how it was computed."""

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.band_index import existing_index, make_or_open
from jobs.deduplicate import compare, count_repeats, deduplicate_files, remove_dump
from jobs.exchange import Hop, by_bucket, exchange
from jobs.resolve import groups, related
from jobs.run import run
from jobs.runs import Run
from jobs.session import session
from jobs.store import RunFolder
from pipeline.errors import UsageError
from pipeline.recipe import Recipe, parse_recipe
from pipeline.tables import EDITS, TIMESTAMP, document_id

WORDS = [
    f"{a}{b}"
    for a in ("lor", "mer", "tan", "vel", "quin", "ost", "bra", "dun")
    for b in ("a", "en", "is", "or", "ul", "ey")
]


def recipe(methods: str) -> Recipe:
    return parse_recipe(f"name: test\ndedup: {methods}\n")


def prose(seed: int, n: int = 120) -> list[str]:
    random = Random(seed)
    return [random.choice(WORDS) for _ in range(n)]


def changed(words: list[str], seed: int, n: int) -> list[str]:
    random = Random(seed)
    words = list(words)
    for _ in range(n):
        words[random.randrange(len(words))] = f"new{random.randrange(10**6)}"
    return words


@dataclass(frozen=True)
class Pages:
    """A source of pages that stand in the test."""

    parts: tuple[tuple[dict[str, Any], ...], ...]
    output: str
    recipe: Recipe

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{i:03d}" for i in range(len(self.parts)))

    def pages(self, number: int) -> tuple[pa.Table, pa.Table]:
        rows = self.parts[number]
        schema = pa.schema(
            [("doc_id", pa.string()), ("url", pa.string()), ("host", pa.string()), ("date", TIMESTAMP),
             ("dump", pa.string()), ("text", pa.string())]
        )  # fmt: skip
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema), EDITS.empty_table()


def page(name: str, text: str, *, day: int = 1, dump: str = "D1", url: str | None = None) -> dict[str, Any]:
    address = url or f"https://{name}.example/"
    date = datetime(2024, 1, day, tzinfo=UTC)
    return {"doc_id": document_id(name, None, None, None), "url": address, "host": f"{name}.example", "date": date,
            "dump": dump, "text": text}  # fmt: skip


def split(pages: list[dict[str, Any]], n: int) -> tuple[tuple[dict[str, Any], ...], ...]:
    return tuple(tuple(pages[i::n]) for i in range(n))


def duplicates(
    pages: list[dict[str, Any]], methods: str, folder: Path, *, n_parts: int = 3, spark: Any = None,
    index: Path | None = None, unit: str = "unit",
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The rows of the table, by doc_id."""
    asked = recipe(methods)
    source = Pages(split(pages, n_parts), str(folder), asked)
    opened = make_or_open(str(index or folder / "index"), asked, 1000, least=4)
    dumps = {p["dump"] for p in pages}
    if asked.dedup.cuts:
        count_repeats(source, opened.n_shards, partial(exchange, spark))
    compare(spark, source, opened, dumps, unit, index is not None, partial(exchange, spark))
    rows = RunFolder(str(folder)).scan("duplicates", None).to_pylist()
    return {row["doc_id"]: row for row in rows}


def outcome(found: dict[str, dict[str, Any]], pages: list[dict[str, Any]]) -> list[str | None]:
    return [found[p["doc_id"]]["removed_by"] for p in pages]


MINHASH = "{minhash: {ngram: 5, bands: 14, rows: 8, verify: 0.75, scope: %s}}"


def test_of_one_address_the_newest_is_kept_and_of_one_text_the_best(tmp_path: Path) -> None:
    a, b, c = (" ".join(prose(i)) for i in range(3))
    pages = [
        page("a1", a, day=1, url="https://site.example/a?utm_source=feed"),
        page("a2", b, day=2, url="http://site.example/a"),
        page("b", b.upper() + "!", day=3),
        page("c", c, day=1),
        page("copy of a", a, day=1),
    ]
    found = duplicates(pages, "[url, exact]", tmp_path)
    # The older capture of a1 goes, so its copy elsewhere is the only page with that text and stays.
    assert outcome(found, pages) == ["url", "exact", None, None, None]
    assert found[pages[0]["doc_id"]]["url_keeper"] == pages[1]["doc_id"]
    assert found[pages[1]["doc_id"]]["exact_keeper"] == pages[2]["doc_id"]
    assert found[pages[2]["doc_id"]]["exact_size"] == 2
    assert found[pages[1]["doc_id"]]["text_hash"] == found[pages[2]["doc_id"]]["text_hash"]


def test_near_copies_make_a_cluster_and_the_preferred_page_stays(tmp_path: Path) -> None:
    base = prose(1, 200)
    pages = [page("base", " ".join(base), day=1)]
    pages += [page(f"near{i}", " ".join(changed(base, i, 2)), day=2 + i) for i in range(3)]
    pages += [page("copy", " ".join(base), day=9), page("other", " ".join(prose(2, 200)))]
    found = duplicates(pages, f"[exact, {MINHASH % 'dump'}]", tmp_path / "newest")
    assert outcome(found, pages) == ["exact", "minhash", "minhash", "minhash", None, None]
    sizes = [found[p["doc_id"]]["cluster_size"] for p in pages]
    assert sizes == [5, 5, 5, 5, 5, 1]
    assert found[pages[4]["doc_id"]]["similarity"] == 1.0
    words = {p["doc_id"]: p["text"].split() for p in pages}
    for p in pages[1:4]:
        one, other = (
            {tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (words[p["doc_id"]], words[pages[4]["doc_id"]])
        )
        assert found[p["doc_id"]]["similarity"] == pytest.approx(len(one & other) / len(one | other), abs=1e-6)
    oldest = duplicates(pages, f"[{MINHASH % 'dump'}, {{prefer: [oldest]}}]", tmp_path / "oldest")
    # Without `exact`, equal texts are near-copies like others.
    assert outcome(oldest, pages) == [None, "minhash", "minhash", "minhash", "minhash", None]


def test_similarity_by_signature_and_texts_as_they_stand(tmp_path: Path) -> None:
    base = prose(1, 200)
    pages = [
        page("base", " ".join(base)),
        page("near", " ".join(changed(base, 3, 2)), day=2),
        page("same", " ".join(base).upper()),
    ]
    found = duplicates(pages, "[{minhash: {by: signature, verify: 0.7, normalise: false}}]", tmp_path / "signature")
    assert 0.7 <= found[pages[0]["doc_id"]]["similarity"] < 1
    # Equal texts are equal after normalisation whatever MinHash is told; `near` is like the text, not like its capitals.
    assert outcome(found, pages) == ["minhash", None, "minhash"]
    assert {row["cluster_size"] for row in found.values()} == {3}


def test_chains_of_unlike_pages_are_not_joined_without_a_similar_pair(tmp_path: Path) -> None:
    base = prose(3, 200)
    half = base[:100] + prose(4, 100)
    pages = [page("one", " ".join(base)), page("other", " ".join(half))]
    loose = "{minhash: {ngram: 1, bands: 56, rows: 1, verify: %s}}"
    assert outcome(duplicates(pages, f"[{loose % 0.99}]", tmp_path / "a"), pages) == [None, None]
    joined = duplicates(pages, f"[{loose % 'null'}]", tmp_path / "b")
    assert sorted(map(str, outcome(joined, pages))) == ["None", "minhash"]


def test_texts_too_short_or_without_words(tmp_path: Path) -> None:
    pages = [
        page("e1", ""),
        page("e2", "  \n "),
        page("dots", "..."),
        page("w1", "yes"),
        page("w2", "Yes!"),
        page("w3", "no"),
    ]
    found = duplicates(pages, f"[exact, {MINHASH % 'dump'}]", tmp_path)
    assert {p["doc_id"] for p in pages[:3]}.isdisjoint(found)  # nothing to compare: they are nobody's duplicates
    assert sorted(map(str, outcome(found, pages[3:]))) == ["None", "None", "exact"]


def test_many_copies_of_one_page(tmp_path: Path) -> None:
    text = " ".join(prose(5))
    pages = [page(f"copy{i}", text) for i in range(20_000)] + [page("single", " ".join(prose(6)))]
    found = duplicates(pages, f"[exact, {MINHASH % 'dump'}]", tmp_path)
    assert Counter(row["removed_by"] for row in found.values()) == {"exact": 19_999, None: 2}
    assert {row["exact_size"] for row in found.values()} == {20_000, 1}


def corpus(n: int = 60) -> list[dict[str, Any]]:
    """Clusters of near-copies, exact copies and recrawls over four dumps."""
    random, pages = Random(8), []
    for i in range(n):
        base = prose(100 + i, 150)
        for j in range(random.randrange(1, 6)):
            words = changed(base, 1000 * i + j, random.choice((0, 0, 1, 2, 6)))
            url = f"https://site{i}.example/{random.choice(('a', 'b', str(j)))}"
            pages.append(
                page(
                    f"{i}-{j}", " ".join(words), day=random.randrange(1, 28), dump=f"D{random.randrange(1, 5)}", url=url
                )
            )
    return pages


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.parquet"))
    }


@pytest.mark.parametrize("scope", ["dump", "global", "2"])
def test_adding_crawls_one_by_one_equals_from_scratch_and_any_can_be_removed(tmp_path: Path, scope: str) -> None:
    methods = f"[{{url: {{scope: {scope}}}}}, {{exact: {{scope: {scope}}}}}, {MINHASH % scope}]"
    pages = corpus()
    dumps = sorted({p["dump"] for p in pages})
    duplicates(pages, methods, tmp_path / "all", index=tmp_path / "scratch")
    for dump in dumps:
        own = [p for p in pages if p["dump"] == dump]
        duplicates(own, methods, tmp_path / dump, index=tmp_path / "grown", n_parts=1 + int(dump[1]))
    whole = files(tmp_path / "scratch" / "duplicates")
    assert len(whole) == 4 * len(dumps) and files(tmp_path / "grown" / "duplicates") == whole
    removed = [row["removed_by"] for row in RunFolder(tmp_path / "scratch").scan("duplicates/D1", None).to_pylist()]
    assert "minhash" in removed and None in removed
    remove_dump(existing_index(str(tmp_path / "grown")), "D2")
    rest = [p for p in pages if p["dump"] != "D2"]
    duplicates(rest, methods, tmp_path / "rest", index=tmp_path / "without")
    assert files(tmp_path / "grown" / "duplicates") == files(tmp_path / "without" / "duplicates")


def test_scopes_group_dumps() -> None:
    dumps = ["D3", "D1", "D2", "D1"]
    assert groups(dumps, "dump") == {"D1": "D1", "D2": "D2", "D3": "D3"}
    assert groups(dumps, "global") == {"D1": "", "D2": "", "D3": ""}
    assert groups(dumps, 2) == {"D1": "D1", "D2": "D1", "D3": "D3"}
    four, by_two = [f"D{i}" for i in range(1, 5)], recipe("[url, {minhash: {scope: 2}}]").dedup
    assert related(four, ["D4"], by_two) == ["D3", "D4"]
    assert related(four, ["D0"], by_two) == ["D0", *four]  # all later windows shift
    assert related(four, ["D2"], recipe("[url, exact, minhash]").dedup) == ["D2"]
    assert related(dumps, ["D2"], recipe("[{url: {scope: global}}]").dedup) == ["D1", "D2", "D3"]


def test_the_same_inputs_replace_what_they_added(tmp_path: Path) -> None:
    pages = corpus(10)
    methods = f"[exact, {MINHASH % 'dump'}]"
    first = duplicates(pages, methods, tmp_path / "a", index=tmp_path / "index")
    again = duplicates(pages, methods, tmp_path / "b", index=tmp_path / "index")
    other = duplicates(pages, "[exact, {minhash: {verify: 0.9}}]", tmp_path / "c", index=tmp_path / "index")
    assert again == first and set(other) == set(first)
    assert {unit.name for unit in existing_index(str(tmp_path / "index")).units()} == {"unit"}


@pytest.mark.parametrize(
    ("other", "named"),
    [("{minhash: {bands: 9, rows: 13}}", "bands is 14 there and 9"), ("{minhash: {ngram: 4}}", "ngram"),
     ("{minhash: {normalise: false}}", "normalise"), ("exact", "the recipe has none")],
)  # fmt: skip
def test_an_index_with_other_parameters_is_refused(tmp_path: Path, other: str, named: str) -> None:
    make_or_open(str(tmp_path / "index"), recipe("[minhash]"), 1000)
    with pytest.raises(UsageError, match=named):
        make_or_open(str(tmp_path / "index"), recipe(f"[{other}]"), 1000)


def test_an_index_made_by_another_python_is_refused(tmp_path: Path) -> None:
    index = make_or_open(str(tmp_path), recipe("[minhash]"), 1000)
    index.folder.write_json("index.json", {**index.folder.read_json("index.json"), "unicode": "6.0.0"})
    with pytest.raises(UsageError, match=r"Unicode 6\.0\.0"):
        make_or_open(str(tmp_path), recipe("[minhash]"), 1000)


def test_a_unit_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    pages = corpus(10)
    methods = f"[exact, {MINHASH % 'dump'}]"
    expected = duplicates(pages, methods, tmp_path / "a", index=tmp_path / "index")
    unit = next((tmp_path / "index" / "crawls" / "D1").iterdir())
    (unit / "unit.json").unlink()  # as a kill between its files and its manifest leaves it
    next((unit / "sketches").iterdir()).unlink()
    assert duplicates(pages, methods, tmp_path / "b", index=tmp_path / "index") == expected


def test_a_run_killed_just_before_its_end_compares_again(tmp_path: Path) -> None:
    pages = corpus(10)
    methods = f"[url, exact, {MINHASH % 'dump'}]"
    expected = duplicates(pages, methods, tmp_path)  # its bands are gone, and nobody has noted that it is done
    assert duplicates(pages, methods, tmp_path) == expected


def test_a_removal_that_was_killed_can_be_asked_for_again(tmp_path: Path) -> None:
    methods = f"[exact, {MINHASH % 'global'}]"
    pages = corpus(10)
    duplicates(pages, methods, tmp_path / "all", index=tmp_path / "index")
    for unit in (tmp_path / "index" / "crawls" / "D2").iterdir():
        (unit / "unit.json").unlink()
    remove_dump(existing_index(str(tmp_path / "index")), "D2")
    rest = [p for p in pages if p["dump"] != "D2"]
    duplicates(rest, methods, tmp_path / "rest", index=tmp_path / "without")
    assert files(tmp_path / "index" / "duplicates") == files(tmp_path / "without" / "duplicates")
    with pytest.raises(UsageError, match="holds no dump"):
        remove_dump(existing_index(str(tmp_path / "index")), "D2")


@pytest.mark.spark
def test_spark_partitions_and_input_order_do_not_change_a_byte(tmp_path: Path) -> None:
    spark = session("test", "local[2]")
    pages = corpus()
    methods = f"[url, exact, {MINHASH % 'global'}, {{paragraphs: {{max_copies: 3, min_words: 5}}}}]"

    def found(name: str, engine: Any, rows: list[dict[str, Any]], n_files: int) -> list[dict[str, Any]]:
        written = []
        for i, part in enumerate(split(rows, n_files)):
            written.append(str(tmp_path / f"{name}-{i}.parquet"))
            columns = {"id": [p["doc_id"] for p in part], "text": [p["text"] for p in part]}
            pq.write_table(pa.table(columns), written[-1])
        deduplicate_files(engine, written, str(tmp_path / name), recipe(methods))
        return sorted(RunFolder(str(tmp_path / name)).scan("duplicates", None).to_pylist(), key=lambda r: r["doc_id"])

    expected = found("local", None, pages, 1)
    kept = RunFolder(str(tmp_path / "local")).scan("kept", None)
    ids = {document_id(name, None, None, None) for name in kept.column("id").to_pylist()}
    assert ids == {row["doc_id"] for row in expected if row["removed_by"] is None}
    assert sum(map(len, kept.column("text").to_pylist())) < sum(len(p["text"]) for p in pages)
    assert Counter(row["removed_by"] for row in expected).keys() == {None, "exact", "minhash"}
    assert found("spark", spark, pages[::-1], 5) == expected
    assert found("again", spark, pages, 5) and files(tmp_path / "again" / "cuts").keys() == {
        f"part-0000{i}.parquet" for i in range(5)
    }


def test_the_last_hop_must_not_send_and_empty_buckets_are_called(tmp_path: Path) -> None:
    called: list[tuple[int, int]] = []
    table = pa.table({"x": [5, 3, 5]})

    def keep(bucket: int, received: dict[str, pa.Table]) -> None:
        called.append((bucket, received["t"].num_rows if "t" in received else 0))

    exchange(None, "x", [0], lambda _: by_bucket(table, table.column("x").to_numpy(), "t"), [Hop(7, keep)])
    assert called == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 0), (5, 2), (6, 0)]


def truth_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


def test_copies_of_the_sample_go_and_nothing_else(finished: Run, sample_web: Path) -> None:
    rows = finished.folder.scan("ledger", None).to_pylist()
    by_place = {(Path(row["warc_file"]).name, row["warc_offset"]): row for row in rows}
    by_id = {row["doc_id"]: row for row in rows}
    cluster_of: dict[str, str] = {}
    groups_in_dump: dict[tuple[str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
    for line in truth_of(sample_web):
        row = by_place[line["file"], line["offset"]]
        if cluster := line["notes"].get("cluster"):
            cluster_of[row["doc_id"]] = cluster["id"]
            groups_in_dump[cluster["id"], row["dump"]].append((line, row))
        else:
            assert not str(row["reason"]).startswith("dedup."), line
    for row in rows:
        if str(row["reason"]).startswith("dedup."):
            assert cluster_of[row["duplicate_of"]] == cluster_of[row["doc_id"]]
            assert by_id[row["duplicate_of"]]["dump"] == row["dump"]
    missed = found = 0
    for (name, _), members in groups_in_dump.items():
        if not name.startswith("near"):
            assert [row["outcome"] for _, row in members].count("kept") == 1, members
            continue
        close = [row for line, row in members if line["notes"]["cluster"]["jaccard"] > 0.85]
        found += len(close) > 1 and len({row["cluster"] for row in close} - {None}) == 1
        missed += len(close) > 1 and len({row["cluster"] for row in close} - {None}) != 1
        assert all(row["cluster"] is None for line, row in members if line["notes"]["cluster"]["jaccard"] < 0.6)
    assert found >= 5 and missed <= 1  # 14 bands of 8 rows find .97 of the pairs at .85


def test_lines_that_a_host_repeats_are_cut_with_a_reason(finished: Run, sample_web: Path) -> None:
    curated = {row["id"]: row["text"] for row in finished.folder.scan("curated", None, ["id", "text"]).to_pylist()}
    rows = finished.folder.scan("ledger", pc.field("outcome") == "kept", ["doc_id", "warc_file", "warc_offset"])
    ids = {(Path(r["warc_file"]).name, r["warc_offset"]): r["doc_id"] for r in rows.to_pylist()}
    cuts = finished.folder.scan("cuts", None).to_pylist()
    with_blocks = [line for line in truth_of(sample_web) if line["notes"].get("boilerplate")]
    assert with_blocks and {cut["reason"] for cut in cuts} == {"dedup.lines"}
    left: Counter[str] = Counter()
    for line in with_blocks:
        text = curated[ids[line["file"], line["offset"]]]
        left.update(block for block in line["notes"]["boilerplate"] if block in text)
    assert set(left.values()) == {2}, left  # each stays in the longest text of each of the two dumps
    licences = [line for line in truth_of(sample_web) if line["notes"].get("repeated")]
    assert all(
        line["notes"]["repeated"][0] in curated[ids[line["file"], line["offset"]]] for line in licences
    )  # 24 hosts


def test_a_run_keeps_to_the_index_it_began_with(
    finished: Run, sample_web: Path, tolerant: Recipe, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder.path, copy)
    with pytest.raises(UsageError, match="begun without an index"):
        run(tolerant, [str(sample_web)], str(copy), index=str(tmp_path / "index"))
    make_or_open(str(tmp_path / "nine"), recipe("[{minhash: {bands: 9, rows: 12}}]"), 1000)
    with pytest.raises(UsageError, match="bands is 9 there and 14"):
        run(tolerant, [str(sample_web)], str(tmp_path / "new"), index=str(tmp_path / "nine"))
    assert not (tmp_path / "new").exists()
    plain = tolerant.model_copy(update={"dedup": type(tolerant.dedup)()})
    with pytest.raises(UsageError, match="compares no documents"):
        run(plain, [str(sample_web)], str(tmp_path / "new"), index=str(tmp_path / "index"))
