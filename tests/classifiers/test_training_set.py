"""What becomes an example, what is held out, and what is left to fetch."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.training_set import (
    EXAMPLES,
    LISTING,
    References,
    TrainingSetOptions,
    build,
    candidates,
    capped,
    distinct,
    held,
    matched,
    missing,
    pieces,
    reference_table,
    texts_as_examples,
    with_split,
)
from pipeline.errors import InputError
from pipeline.signals.urls import split_url

WORDS = [f"{a}{b}" for a in ("sal", "tor", "min", "var", "lek", "dun", "pes") for b in ("do", "ra", "ti", "mo", "kan")]


def prose(seed: int, n: int) -> str:
    random = np.random.default_rng(seed)
    return " ".join(random.choice(WORDS, n))


def pages(rows: list[tuple[str, str]]) -> pa.Table:
    parts = [split_url(url) for url, _ in rows]
    return pa.table(
        {
            "doc_id": [f"{i:032x}" for i in range(len(rows))],
            "url": [url for url, _ in rows],
            "host": [p.host for p in parts],
            "domain": [p.domain for p in parts],
            "language": ["en"] * len(rows),
            "text": [text for _, text in rows],
        }
    )


def crawl(n: int = 240) -> pa.Table:
    """Pages of 40 domains; every third page is one that is cited."""
    return pages([(f"https://site{i % 40}.example/p{i}", prose(i, 60 + 37 * (i % 7))) for i in range(n)])


CITED = reference_table([f"https://site{i % 40}.example/p{i}" for i in range(0, 240, 3)])


def test_addresses_become_references_in_canonical_form() -> None:
    table = reference_table(
        [
            "http://example.org/a",
            "https://example.org/a#part",
            "https://web.archive.org/web/2010/http://b.example/x",
            "no",
        ]
    )
    assert table.column("canonical").to_pylist() == ["b.example/x", "example.org/a"]
    assert table.column("host").to_pylist() == ["b.example", "example.org"]


def test_a_page_is_matched_by_address_host_or_domain() -> None:
    references = References.of(reference_table(["https://www.one.example/a?utm_source=x", "https://sub.two.example/"]))
    table = pages(
        [
            ("http://www.one.example/a", ""),
            ("http://www.one.example/b", ""),
            ("https://one.example/a", ""),
            ("https://other.two.example/", ""),
        ]
    )
    assert matched(table, references).tolist() == [True, False, False, False]
    assert matched(table, references, "host").tolist() == [True, True, False, False]
    assert matched(table, references, "domain").tolist() == [True, True, True, True]


def test_pages_without_an_address_match_nothing() -> None:
    table = pages([("http://a.example/", "")]).slice(0, 0)
    nowhere = pa.table({"url": pa.array([None], pa.string()), "host": pa.array([None], pa.string())})
    references = References.of(CITED)
    assert matched(table, references).tolist() == []
    assert matched(nowhere, references).tolist() == [False]
    assert matched(nowhere, References.of(CITED.slice(0, 0)), "host").tolist() == [False]
    with pytest.raises(InputError, match="no column canonical"):
        References.of(pa.table({"host": ["a"], "domain": ["a"]}))


def test_both_sides_have_both_labels_the_same_lengths_and_no_domain_in_common() -> None:
    options = TrainingSetOptions(near=None, held_out=0.4)
    found = build(candidates(crawl(), References.of(CITED), options), options)
    assert found.examples.schema.equals(EXAMPLES)
    sides = {}
    for split in ("train", "test"):
        part = found.part(split)
        sides[split] = set(part.column("group").to_pylist())
        bins = np.searchsorted(options.lengths, part.column("n_words").to_numpy(), "right")
        positive = np.array(part.column("label").to_pylist()) == "reference"
        assert np.bincount(bins[positive], minlength=9).tolist() == np.bincount(bins[~positive], minlength=9).tolist()
        assert found.account[split]["reference"] == positive.sum() > 0
    assert not sides["train"] & sides["test"]


def test_the_order_and_the_parts_of_a_crawl_change_nothing() -> None:
    options = TrainingSetOptions(negatives=0.5)
    table, references = crawl(), References.of(CITED)
    whole = build(candidates(table, references, options), options)
    shuffled = table.take(pa.array(np.random.default_rng(5).permutation(table.num_rows)))
    parts = [candidates(shuffled.slice(at, 50), references, options) for at in range(0, 240, 50)]
    again = build(pa.concat_tables(parts[::-1]), options)
    assert again.examples.equals(whole.examples) and again.account == whole.account
    other = build(candidates(table, references, options), TrainingSetOptions(negatives=0.5, seed=2))
    assert not other.examples.equals(whole.examples)


def test_shares_of_a_large_crawl_are_drawn_by_id() -> None:
    options, references = TrainingSetOptions(), References.of(CITED)
    few = candidates(crawl(), references, options, positives=0.5, negatives=0.1)
    more = candidates(crawl(), references, options, positives=0.5, negatives=0.2)
    labels = few.column("label").to_pylist()
    assert 20 < labels.count("reference") < 60 and 5 < labels.count("random") < 35
    assert set(few.column("doc_id").to_pylist()) < set(more.column("doc_id").to_pylist())


def test_of_repeated_texts_the_positive_stays() -> None:
    text = prose(1, 80)
    rows = [("https://a.example/", text), ("https://b.example/", text.upper()), ("https://c.example/", text + " mora")]
    options = TrainingSetOptions()
    found = candidates(pages(rows), References.of(reference_table(["https://b.example/"])), options)
    assert distinct(found, None, "reference").column("url").to_pylist() == ["https://b.example/", "https://c.example/"]
    assert distinct(found, 0.75, "reference").column("url").to_pylist() == ["https://b.example/"]


def test_a_domain_gives_so_many_examples_of_each_label() -> None:
    found = candidates(crawl(), References.of(CITED), TrainingSetOptions())
    few = capped(found, 2)
    pairs = list(zip(few.column("label").to_pylist(), few.column("group").to_pylist(), strict=True))
    assert max(map(pairs.count, pairs)) == 2
    assert capped(found.slice(0, 0), 2).num_rows == 0
    assert capped(few.take(pa.array(np.arange(few.num_rows)[::-1])), 1).num_rows == len(set(pairs))


@given(st.lists(st.text("abcde", min_size=1, max_size=2), min_size=1, max_size=60), st.integers(0, 5))
def test_a_group_is_on_one_side_whoever_else_is_there(groups: list[str], seed: int) -> None:
    table = texts_as_examples([f"{g} {i}" for i, g in enumerate(groups)], "x", "file", groups=groups)
    sides = {}
    for group, split in zip(
        *(with_split(table, 0.3, seed).column(c).to_pylist() for c in ("group", "split")), strict=True
    ):
        assert sides.setdefault(group, split) == split
    alone = with_split(table.slice(0, 1), 0.3, seed)
    assert alone.column("split")[0].as_py() == sides[alone.column("group")[0].as_py()]


def test_too_few_examples_are_an_error_that_counts() -> None:
    options = TrainingSetOptions()
    with pytest.raises(InputError, match=r"no 'reference' examples are left for train.*candidates"):
        build(candidates(crawl(), References.of(CITED.slice(0, 0)), options), options)
    with pytest.raises(InputError, match="labels books, which"):
        build(texts_as_examples([prose(1, 90)], "books", "shelf"), options)
    with pytest.raises(ValueError, match="both called"):
        TrainingSetOptions(positive="random")
    with pytest.raises(ValueError, match="lengths rise"):
        TrainingSetOptions(lengths=(5, 3))


def test_long_texts_are_cut_in_pieces_like_pages() -> None:
    book = "\n".join(prose(i, 9) for i in range(100)) + "\n" + prose(1000, 350)
    found = pieces(book, 100)
    assert " ".join(found).split() == book.split()
    assert all(50 <= len(piece.split()) < 200 for piece in found)
    assert pieces("", 100) == [] and pieces("one two", 100) == ["one two"]
    table = texts_as_examples([book, prose(7, 30)], "books", "shelf", groups=["author", None], piece_words=100)
    assert table.column("group").to_pylist()[:2] == ["shelf:author"] * 2
    assert len(set(table.column("doc_id").to_pylist())) == table.num_rows == len(found) + 1


def test_what_a_crawl_does_not_hold_is_listed_to_be_fetched() -> None:
    cited = reference_table(["https://a.example/1", "https://a.example/2", "https://b.example/3?utm_medium=x"])
    found = held(pages([("http://a.example/1#top", ""), ("https://z.example/", "")]), References.of(cited))
    assert len(found) == 1
    listing = missing(cited, found)
    assert listing.schema.equals(LISTING)
    assert listing.column("canonical").to_pylist() == ["a.example/2", "b.example/3"]
    assert listing.column("warc_filename").null_count == 2
    index = pa.table(
        {
            "url": ["http://b.example/3", "https://b.example/3", "https://z.example/"],
            "warc_filename": ["new.warc.gz", "old.warc.gz", "new.warc.gz"],
            "warc_record_offset": [70, 10, 5],
            "warc_record_length": [7, 1, 3],
            "fetch_time": ["2024-05-01T00:00:00Z", "2023-05-01T00:00:00Z", None],
        }
    )
    placed = missing(cited, found, index).to_pylist()
    assert placed[1]["warc_filename"] == "new.warc.gz" and placed[1]["warc_record_offset"] == 70
    assert placed[0]["warc_filename"] is None
    untimed = missing(cited, found, index.drop_columns("fetch_time")).to_pylist()
    assert untimed[1]["warc_filename"] == "old.warc.gz"
    with pytest.raises(InputError, match="no column warc_filename"):
        missing(cited, found, index.select(["url"]))


def test_addresses_that_wikipedia_cites(shared_data) -> None:
    path: Path = shared_data("labelled/wiki/wikipedia_external_links.txt.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = reference_table([line.strip() for line in file])
    assert 4_900 < table.num_rows < 5_404
    references = References.of(table)
    assert len(references.urls) == table.num_rows > len(references.hosts) > len(references.domains) > 1_000
