"""Repeated lines and paragraphs: what counts as a copy, what is cut, and that sending less changes nothing."""

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dedup.addresses import address_number, canonical_url
from pipeline.dedup.normalise import text_hashes
from pipeline.dedup.options import Dedup
from pipeline.dedup.repeats import cut_spans, occurrences, repeated
from pipeline.edits import apply_edits


def pages(
    texts: list[str], hosts: list[str] | None = None, urls: list[str] | None = None, dumps: Any = None
) -> pa.Table:
    n = len(texts)
    ids = [f"{i:032x}" for i in range(n)]
    array = pa.array(texts, pa.string())
    address = [address_number(u, i) for u, i in zip(urls or [None] * n, ids, strict=True)]
    return pa.table(
        {
            "doc_id": ids,
            "host": hosts or ["h.example"] * n,
            "dump": pa.array(dumps or [None] * n, pa.string()),
            "text": array,
            "text_hi": text_hashes(array)[:, 0],
            "address": pa.array(address, pa.uint64()),
        }
    )


def after_cuts(table: pa.Table, dedup: Dedup, n_parts: int = 1) -> list[str]:
    """The texts without what is cut, counted over `n_parts` parts."""
    parts = [table.slice(i * table.num_rows // n_parts, 0) for i in range(n_parts)]
    parts = [table.filter(pa.array(np.arange(table.num_rows) % n_parts == i)) for i in range(n_parts)]
    found = pa.concat_tables([occurrences(part, dedup, i) for i, part in enumerate(parts)])
    cuts = repeated(found, dedup)
    spans = [cut_spans(p, cuts.filter(pa.compute.equal(cuts.column("part"), i)), dedup) for i, p in enumerate(parts)]
    return apply_edits(table.column("text"), table.column("doc_id"), pa.concat_tables(spans)).to_pylist()


MENU = "Home | About | Contact | Search this site"
LINES = Dedup.model_validate({"lines": {"max_copies": 3, "keep": 0}})


def test_a_line_goes_from_every_page_of_its_host_and_stays_elsewhere() -> None:
    texts = [f"{MENU}\nPage number {i} has a text of its own.\n{MENU.upper()}!" for i in range(5)]
    hosts = ["a.example"] * 4 + ["b.example"]
    cut = after_cuts(pages(texts, hosts), LINES)
    assert cut[:4] == [f"Page number {i} has a text of its own.\n" for i in range(4)]
    assert cut[4] == texts[4]


def test_exactly_as_many_copies_as_allowed_stay() -> None:
    texts = [f"{MENU}\nPage number {i} has a text of its own." for i in range(3)]
    assert after_cuts(pages(texts), LINES) == texts


def test_dumps_are_counted_apart() -> None:
    texts = [f"{MENU}\nPage number {i} has a text of its own." for i in range(6)]
    assert after_cuts(pages(texts, dumps=["D1", "D2"] * 3), LINES) == texts


def test_copies_of_a_page_and_captures_of_an_address_do_not_count() -> None:
    assert (
        after_cuts(pages(["A line that is long enough.\nAnd another one of it."] * 9), LINES)
        == ["A line that is long enough.\nAnd another one of it."] * 9
    )
    texts = [f"{MENU}\nThis page was seen {i} times before today." for i in range(9)]
    assert after_cuts(pages(texts, urls=["https://h.example/a?sid=1#x"] * 9), LINES) == texts


def test_short_lines_go_at_the_edges_only() -> None:
    texts = [f"Home\nNews\nText number {i} is here.\nOverview\nMore of text {i} is there.\nBack" for i in range(5)]
    assert after_cuts(pages(texts), LINES) == [
        f"Text number {i} is here.\nOverview\nMore of text {i} is there.\n" for i in range(5)
    ]


def test_the_longest_text_keeps_its_paragraph() -> None:
    passage = "It is a truth that one long paragraph which is quoted everywhere stands in a book."
    texts = [f"{passage}\nQuoted by {i}." for i in range(5)]
    texts.append(f"Before it.\n{passage}\n" + "The book goes on for long. " * 5)
    dedup = Dedup.model_validate({"paragraphs": {"max_copies": 5}})
    hosts = [f"h{i}.example" for i in range(6)]
    assert after_cuts(pages(texts, hosts), dedup) == [*(f"Quoted by {i}." for i in range(5)), texts[5]]
    copies = [*texts, texts[5]]  # the keeper is a text, so that its exact copies stay exact copies
    assert after_cuts(pages(copies, [*hosts, "copy.example"]), dedup)[5:] == [texts[5]] * 2


@pytest.mark.parametrize("seed", range(4))
def test_parts_and_what_they_leave_out_change_nothing(seed: int) -> None:
    random = Random(seed)
    stock = [f"sentence number {i} of the stock of lines" for i in range(12)] + ["Home", "Up"]
    texts, hosts, urls = [], [], []
    for _ in range(150):
        texts.append("\n".join([*random.choices(stock, k=random.randrange(1, 6)), f"own {random.randrange(40)}"]))
        hosts.append(random.choice(("a.example", "b.example")))
        urls.append(f"https://{hosts[-1]}/{random.randrange(60)}")
    dedup = Dedup.model_validate(
        {"lines": {"max_copies": 4, "keep": seed % 2}, "paragraphs": {"max_copies": 9, "min_words": 5}}
    )
    table = pages(texts, hosts, urls)
    expected = after_cuts(table, dedup)
    assert expected != texts
    for n_parts in (2, 7, 150):
        assert after_cuts(table, dedup, n_parts) == expected


def test_a_line_on_many_pages_travels_few_times() -> None:
    texts = [f"{MENU}\nPage number {i} has a text of its own." for i in range(500)]
    sent = occurrences(pages(texts), LINES, 0)
    assert sent.num_rows <= 500 + 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://Site.example:80/a?b=2&a=1#top", "https://site.example/a?a=1&b=2"),
        ("https://site.example/a?utm_source=x&session=5", "https://site.example/a"),
        ("https://site.example/", "https://site.example"),
    ],
)
def test_addresses_of_one_page(one: str, other: str) -> None:
    assert canonical_url(one) == canonical_url(other)


def test_other_addresses_stay_apart() -> None:
    urls = ["https://a.example/x", "https://a.example/X", "https://a.example/x?id=1", "https://a.example/x/", "https://b.example/x",
            "not a url", "https://[bad/", "a:b@c", ""]  # fmt: skip
    assert len({canonical_url(url) for url in urls}) == len(urls)
    assert address_number(None, "1") != address_number(None, "2")
