"""Dumps of MediaWiki, whole and damaged, in one part and in many."""

import bz2
import gzip
import random
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.sources.inputs import expand
from pipeline.sources.wikipedia import (
    MOST_PAGE_BYTES,
    Account,
    Page,
    external_links,
    located,
    pages,
    splits,
    url_of_index,
)

HEADER = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">\n<siteinfo>'
    "<dbname>testwiki</dbname></siteinfo>\n"
)
FOOTER = "</mediawiki>\n"


def page_xml(number: int, text: str, namespace: int = 0, redirect: str | None = None) -> str:
    leads = f'<redirect title="{redirect}" />' if redirect else ""
    return (
        f"  <page>\n<title>Title {number}</title><ns>{namespace}</ns><id>{number}</id>{leads}<revision><id>{number + 9}</id>"
        f"<timestamp>2024-01-02T03:04:05Z</timestamp><text>{escape(text)}</text></revision>\n  </page>\n"
    )


def written(n: int, seed: int = 0) -> list[str]:
    """Pages whose text does not compress much, so that streams have some length."""
    draw = random.Random(seed)
    return [page_xml(i, f"é <page> & {draw.randbytes(draw.randrange(20, 3000)).hex()}") for i in range(1, n + 1)]


def streams(texts: list[str], a_stream: int) -> list[bytes]:
    groups = ["".join(texts[i : i + a_stream]) for i in range(0, len(texts), a_stream)]
    return [bz2.compress(part.encode()) for part in (HEADER, *groups, FOOTER)]


def read(path: Path, split_bytes: int = 1 << 30, **options: object) -> tuple[list[Page], Account]:
    account = Account()
    found = [
        page
        for split in splits(expand([str(path)]), split_bytes)
        for page in pages(split, account, **options)  # type: ignore[arg-type]
    ]
    return found, account


def ids(found: list[Page]) -> list[int]:
    return [page.page_id for page in found]


def test_a_page_has_its_fields_and_other_namespaces_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml"
    body = page_xml(1, "a < b & c") + page_xml(2, "talk", 1) + page_xml(3, "#REDIRECT", redirect="A &amp; B")
    path.write_text(HEADER + body + FOOTER)
    found, account = read(path)
    assert found == [
        Page("Title 1", 1, 0, None, 10, "2024-01-02T03:04:05Z", "a < b & c", "testwiki"),
        Page("Title 3", 3, 0, "A & B", 12, "2024-01-02T03:04:05Z", "#REDIRECT", "testwiki"),
    ]
    assert (account.pages, account.redirects, account.other_namespaces, account.damages) == (2, 1, 1, [])
    assert ids(read(path, namespaces=None)[0]) == [1, 2, 3]


@pytest.mark.parametrize("packing", ["plain", "gz", "zst", "bz2", "multistream", "arbitrary"])
def test_every_page_is_in_exactly_one_split(tmp_path: Path, packing: str) -> None:
    texts = written(60)
    whole = (HEADER + "".join(texts) + FOOTER).encode()
    bodies = {
        "plain": lambda: whole,
        "gz": lambda: gzip.compress(whole[:5000]) + gzip.compress(whole[5000:]),
        "zst": lambda: zstandard.compress(whole),
        "bz2": lambda: bz2.compress(whole),
        "multistream": lambda: b"".join(streams(texts, 7)),
        # As pbzip2 does it: streams end anywhere, in the middle of a tag too.
        "arbitrary": lambda: b"".join(bz2.compress(whole[i : i + 4999]) for i in range(0, len(whole), 4999)),
    }
    suffix = {"plain": "", "gz": ".gz", "zst": ".zst"}.get(packing, ".bz2")
    path = tmp_path / f"dump.xml{suffix}"
    path.write_bytes(bodies[packing]())
    parts = splits(expand([str(path)]), 3001)
    assert (len(parts) > 20) is (packing in ("plain", "multistream", "arbitrary"))
    for size in (500, 3001, 50_021, 1 << 30):
        found, account = read(path, size)
        assert ids(found) == list(range(1, 61)), size
        assert account.damages == [], size
    assert found[0].text.startswith("é <page> & ")
    assert {page.wiki for page in found} == {"testwiki"}


def test_damage_in_one_stream_costs_its_pages_and_is_told_once(tmp_path: Path) -> None:
    texts = written(50)
    parts = streams(texts, 5)
    starts = [sum(map(len, parts[:i])) for i in range(len(parts))]
    path = tmp_path / "dump.xml.bz2"
    for number in (1, 4, 10):
        for place in (2, 7, len(parts[number]) // 2, len(parts[number]) - 3):
            body = bytearray(b"".join(parts))
            body[starts[number] + place] ^= 0x55
            path.write_bytes(body)
            for size in (997, 6007, 1 << 30):
                found, account = read(path, size)
                lost = set(range(5 * number - 4, 5 * number + 1))
                got = set(ids(found))
                assert len(got) == len(found)
                assert got >= set(range(1, 51)) - lost, (number, place, size)
                damaged = [damage for damage in account.damages if damage.length]
                assert len(damaged) == 1, (number, place, size, account.damages)
                assert (
                    starts[number] <= damaged[0].offset <= damaged[0].offset + damaged[0].length <= starts[number + 1]
                )


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_dump_cut_anywhere_gives_what_is_before_the_cut_and_says_so(tmp_path: Path, data: st.DataObject) -> None:
    texts = written(12, seed=1)
    whole = (HEADER + "".join(texts) + FOOTER).encode()
    packing = data.draw(st.sampled_from(["plain", "gz", "zst", "bz2", "multistream"]))
    body = {
        "plain": whole,
        "gz": gzip.compress(whole),
        "zst": zstandard.compress(whole),
        "bz2": bz2.compress(whole),
        "multistream": b"".join(streams(texts, 3)),
    }[packing]
    cut = data.draw(st.integers(200, len(body) - len(FOOTER) - 1))
    path = tmp_path / {"plain": "d.xml", "gz": "d.xml.gz", "zst": "d.xml.zst"}.get(packing, "d.xml.bz2")
    path.write_bytes(body[:cut])
    size = data.draw(st.sampled_from([700, 1 << 30]))
    try:
        found, account = read(path, size)
    except InputError:
        # Of one small block nothing can be read before it is whole.
        assert packing in ("bz2", "zst", "gz")
        return
    assert ids(found) == list(range(1, len(found) + 1))
    assert account.damages
    if packing == "plain":
        assert len(found) == whole[:cut].count(b"</page>")
        assert account.damages[-1].offset + account.damages[-1].length == cut


@given(st.integers(0, 10**9), st.sampled_from(["plain", "gz", "bz2", "multistream"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bits_never_raise_and_never_go_unnoticed_in_compressed_dumps(
    tmp_path: Path, seed: int, packing: str
) -> None:
    texts = written(12, seed=2)
    whole = (HEADER + "".join(texts) + FOOTER).encode()
    packed = {"plain": whole, "gz": gzip.compress(whole), "bz2": bz2.compress(whole)}
    body = bytearray(packed.get(packing) or b"".join(streams(texts, 3)))
    place = seed % (len(body) - 300) + 300
    body[place] ^= 1 << (seed % 8)
    path = tmp_path / {"plain": "d.xml", "gz": "d.xml.gz"}.get(packing, "d.xml.bz2")
    path.write_bytes(body)
    try:
        found, account = read(path, 900)
    except InputError:
        assert packing in ("gz", "bz2")
        return
    good = {page.page_id: page for page in _undamaged(texts, tmp_path)}
    if packing != "plain":
        assert account.damages
        # The checksum of gzip stands at its end, after all pages; that of bzip2 behind every block.
        assert packing == "gz" or all(good[page.page_id] == page for page in found)
    else:
        assert len(found) >= 10  # a flipped bit of a tag costs its page, or two
        assert len(found) == 12 or account.damages


def _undamaged(texts: list[str], folder: Path) -> list[Page]:
    path = folder / "good.xml"
    path.write_text(HEADER + "".join(texts) + FOOTER)
    return read(path)[0]


def test_a_damaged_page_of_xml_costs_itself(tmp_path: Path) -> None:
    texts = [page_xml(i, f"text {i}") for i in range(1, 6)]
    path = tmp_path / "dump.xml"
    for broken, lost in (
        (texts[2].replace("<page>", "<pagf>"), {3}),
        (texts[2].replace("</page>", "</pagf>"), {3}),
        (texts[2].replace("<title>", "<titl"), {3}),
        (texts[2].replace("text 3", "text &bomb; 3"), {3}),
        (texts[2].replace("text 3", "text \x01 3"), {3}),
        (texts[2].replace("<id>3</id>", "<id>three</id>"), {3}),
        (texts[2].replace("text 3", "<deep>" * 9000), {3}),
    ):
        body = HEADER + "".join([*texts[:2], broken, *texts[3:]]) + FOOTER
        path.write_text(body)
        found, account = read(path)
        assert set(ids(found)) == {1, 2, 3, 4, 5} - lost, broken
        assert len(account.damages) == 1, account.damages
        at = account.damages[0]
        assert body.encode()[at.offset : at.offset + at.length].strip().startswith((b"<page>", b"<pagf>"))


def test_damage_is_told_alike_however_a_dump_is_split(tmp_path: Path) -> None:
    """End tags that are damaged hand the next page to the one before it, start tags leave one astray; cuts lie within a page
    or behind one."""
    texts = written(12)
    whole = (HEADER + "".join(texts) + FOOTER).encode()
    ends = [at for at in range(len(whole)) if whole.startswith(b"</page>", at)]
    flipped = bytearray(whole)
    for at in (ends[4], ends[5], ends[8]):
        flipped[at + 3] ^= 0x40
    begun = bytearray(whole)
    begun[whole.index(b"<page>", ends[6]) + 4] ^= 0x40
    for body in (
        whole,
        bytes(flipped),
        bytes(begun),
        whole[: ends[9] + 60],
        whole[: ends[9] + 8],
        whole[: ends[9] - 60],
    ):
        path = tmp_path / "dump.xml"
        path.write_bytes(body)
        found, account = read(path)
        assert bool(account.damages) is (body != whole)
        for size in (len(body) // 2, 1000, 333, 97):
            again, other = read(path, size)
            assert ids(again) == ids(found) and sorted(other.damages) == sorted(account.damages), size
    path.write_bytes(flipped)
    places = {page.page_id: place.offset for page, place in located(splits(expand([str(path)]), 1 << 30)[0])}
    starts = [at for at in range(len(whole)) if whole.startswith(b"<page>", at)]
    assert places == {number: starts[number - 1] for number in range(1, 13) if number not in (5, 6, 9)}


def test_entities_of_a_document_type_are_never_expanded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.xml"
    entities = '<!ENTITY a "ha">' + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12))
    path.write_text(
        f"<!DOCTYPE x [{entities}]>{HEADER}{page_xml(1, 'x').replace('>x<', '>&m;<')}{page_xml(2, 'y')}{FOOTER}"
    )
    found, account = read(path)
    assert ids(found) == [2]
    assert len(account.damages) == 1


def test_a_page_without_end_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "huge.xml.gz"
    huge = "<page><title>huge</title>" + "x" * (MOST_PAGE_BYTES + 5_000_000)
    path.write_bytes(gzip.compress((HEADER + page_xml(1, "a") + huge + page_xml(2, "b") + FOOTER).encode(), 1))
    found, account = read(path)
    assert ids(found) == [1, 2]
    assert "16 MiB" in account.damages[0].reason


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("empty.xml.bz2", b"", "empty"),
        ("text.xml", b"hello", "no dump of MediaWiki"),
        ("text.xml.bz2", b"hello" * 99, "not compressed with bzip2"),
        ("page.xml", b"<!DOCTYPE html><html>404", "HTML page"),
        ("index.bz2", bz2.compress(b"600:10:AccessibleComputing\n"), "index of a multistream dump"),
        ("page.sql.gz", gzip.compress(b"-- MySQL dump\nCREATE TABLE `page` (\n"), "the table page"),
        ("stub.bz2", b"BZh91AY&SY" + b"\0" * 500, "nothing of it can be read"),
        ("zeros.gz", b"\x1f\x8b\x08\0" + b"\0" * 500, "nothing of it can be read"),
        ("pages.parquet", b"PAR1" + bytes(range(256)) * 9, "no dump"),
    ],
)
def test_a_file_that_is_no_dump_is_refused_in_one_line(tmp_path: Path, name: str, body: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(body)
    with pytest.raises(InputError, match=says) as raised:
        splits(expand([str(path)]), 1 << 20)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_index_beside_a_multistream_dump_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "x-pages-articles-multistream.xml.bz2").write_bytes(b"".join(streams(written(9), 3)))
    (tmp_path / "x-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress(b"5:1:Title 1\n"))
    parts = splits(expand([str(tmp_path / "*.bz2")]), 1 << 30)
    assert [Path(part.path).name for part in parts] == ["x-pages-articles-multistream.xml.bz2"]


OLD = (
    "CREATE TABLE `externallinks` (\n  `el_id` int(10),\n  `el_from` int(8),\n  `el_to` blob,\n  `el_index` blob\n);\n"
)
NEW = (
    "CREATE TABLE `externallinks` (\n  `el_id` int(10),\n  `el_from` int(8),\n  `el_to_domain_index` varbinary(255),\n"
    "  `el_to_path` blob\n);\n"
)


def sql(folder: Path, create: str, body: str, end: str = "UNLOCK TABLES;\n-- Dump completed\n") -> Path:
    path = folder / "x-externallinks.sql.gz"
    head = "-- MySQL dump\n-- Host: x    Database: testwiki\n"
    path.write_bytes(gzip.compress((head + create + body + end).encode()))
    return path


def links(path: Path) -> tuple[list[tuple[int, str]], Account]:
    account = Account()
    (split,) = splits(expand([str(path)]), 100)
    assert split.wiki == "testwiki"
    return [tuple(link) for link in external_links(split, account)], account


def test_links_of_both_forms_of_the_table(tmp_path: Path) -> None:
    rows = (
        r"(1,10,'http://a.org/it\'s?x=(1),(2);','http://org.a./'),(2,11,'http://b.org/\\\"q\"','x'),"
        r"(3,12,'','x'),(4,13,NULL,NULL)"
    )
    found, account = links(sql(tmp_path, OLD, f"INSERT INTO `externallinks` VALUES {rows};\n"))
    assert found == [(10, "http://a.org/it's?x=(1),(2);"), (11, 'http://b.org/\\"q"')]
    assert account.damages == []
    rows = "(1,10,'https://org.example.www.','/a?b'),(2,11,'http://V4.192.0.2.1.:8080','/'),(3,12,'https://org.x.','')"
    found, _ = links(sql(tmp_path, NEW, 2 * f"INSERT INTO `externallinks` VALUES {rows};\n"))
    assert found == 2 * [(10, "https://www.example.org/a?b"), (11, "http://192.0.2.1:8080/"), (12, "https://x.org")]


def test_a_statement_of_megabytes_is_read_a_row_at_a_time(tmp_path: Path) -> None:
    rows = ",".join(f"({i},{i},'http://h{i % 7}.org/{'p' * (i % 90)}','')" for i in range(60_000))
    found, account = links(sql(tmp_path, OLD, f"INSERT INTO `externallinks` VALUES {rows};\n"))
    assert len(found) == 60_000
    assert account.damages == []
    assert Counter(url.split("/")[2] for _, url in found)["h3.org"] == 8_571


def test_damage_in_a_dump_of_links_is_told(tmp_path: Path) -> None:
    good = "INSERT INTO `externallinks` VALUES (1,1,'http://a.org/','');\n"
    broken = "INSERT INTO `externallinks` VALUES (2,2,'http://b.org/',''),(x,'http://c.org');\n"
    padding = f"-- {'x' * 1_200_000}\n"
    found, account = links(sql(tmp_path, OLD, good + broken + padding + good))
    assert [page for page, _ in found] == [1, 2, 1]
    assert len(account.damages) == 1
    for end in ("", "INSERT INTO `externallinks` VALUES (1,2,'http://a"):
        found, account = links(sql(tmp_path, OLD, good, end))
        assert len(found) == 1
        assert len(account.damages) == 1
    path = sql(tmp_path, OLD, good * 5000)
    path.write_bytes(path.read_bytes()[:-40])
    found, account = links(path)
    assert account.damages
    with pytest.raises(InputError, match="no columns"):
        links(sql(tmp_path, "CREATE TABLE `externallinks` (\n  `el_id` int\n);\n", good))


def test_hosts_of_the_table_are_turned_round() -> None:
    assert url_of_index("http://V6.2001.DB8.0.0.0.0.0.1.", "/x") == "http://[2001:DB8:0:0:0:0:0:1]/x"
    assert url_of_index("https://uk.co.example.www.:8443", "/") == "https://www.example.co.uk:8443/"


def test_the_real_dump_reads_the_same_in_one_stream_and_in_many(shared_data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = shared_data("labelled/wiki")
    (real,) = folder.glob("*pages-articles*.bz2")
    (split,) = splits(expand([str(real)]), 1 << 19)
    account = Account()
    found = list(pages(split, account, None))
    assert (len(found), account.redirects, split.wiki) == (206, 100, "enwiki")
    assert sum(page.text.count("<ref") for page in found) >= 8_550
    assert account.damages == []
    whole = bz2.decompress(real.read_bytes())
    many = tmp_path / "many.xml.bz2"
    cuts = _page_starts(whole)
    many.write_bytes(b"".join(bz2.compress(whole[a:b]) for a, b in zip(cuts, [*cuts[1:], len(whole)], strict=True)))
    assert len(splits(expand([str(many)]), 1 << 19)) > 2
    assert read(many, 1 << 19, namespaces=None)[0] == found


def _page_starts(whole: bytes) -> list[int]:
    found, at = [0], whole.find(b"  <page>\n")
    while at >= 0:
        found.append(at)
        at = whole.find(b"  <page>\n", at + 200_000)
    return found
