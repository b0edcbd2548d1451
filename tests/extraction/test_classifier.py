"""The block classifier: exact arithmetic, the choice by expected F1, and what real pages make of it."""

import itertools

import numpy as np
import pytest
from warcio.archiveiterator import ArchiveIterator

from pipeline.extraction import Result, Sandbox, extract, preload
from pipeline.extraction.blocks import TAGS, Blocks, read_blocks
from pipeline.extraction.classifier import (
    STEP,
    WEIGHT_STEP,
    choose,
    content_probability,
    format_network,
    network,
    parse_network,
    quantised,
    render,
    whole,
)
from pipeline.extraction.features import features

PAGE = (
    "<html><head><title>Iron</title></head><body><div class='nav'><a href='/'>Home</a></div><h1>Iron</h1>"
    "<p>Iron melts at a temperature that few household fires will ever reach, which is fortunate for kettles.</p>"
    "<pre>a\n  b</pre><p>one<br>two</p></body></html>"
)


def test_blocks_of_a_page():
    blocks = read_blocks(PAGE)
    assert blocks.title == "Iron"
    assert [TAGS[tag] for tag in blocks.tag] == ["div", "heading", "p", "pre", "p"]
    assert blocks.text[-2:] == ["a\n  b", "one\ntwo"]
    assert blocks.link_chars == [4, 0, 0, 0, 0]
    assert read_blocks("").text == []


def test_elements_cover_their_blocks():
    blocks = read_blocks("<div>a<section>b<p>c</p></section>d</div><div>e</div>")
    spans = {tuple(blocks.text[i:j]) for i, j in zip(blocks.start, blocks.end, strict=True)}
    assert {("a", "b", "c", "d"), ("b", "c"), ("c",), ("e",)} <= spans
    for element, parent in enumerate(blocks.parent):
        assert parent < element
        if parent >= 0:
            assert blocks.start[parent] <= blocks.start[element] <= blocks.end[element] <= blocks.end[parent]


def test_features_fit_the_network():
    found = features(read_blocks(PAGE))
    assert found.shape == (5, network().inner.shape[0])
    assert np.isfinite(found).all()


def test_arithmetic_is_exact_in_any_order():
    """Float addition is not associative; on these grids every partial sum is representable, so it is here."""
    net = network()
    rng = np.random.default_rng(0)
    x = quantised(rng.normal(0, 8, (200, net.inner.shape[0])))
    order = rng.permutation(net.inner.shape[0])
    assert (x @ net.inner == x[:, order] @ net.inner[order]).all()
    summed = np.stack([sum(x[:, i, None] * net.inner[i] for i in order)])[0]
    assert (x @ net.inner == summed).all()
    for values, step in ((x, STEP), (net.inner, WEIGHT_STEP), (net.outer, WEIGHT_STEP)):
        assert (np.rint(values / step) * step == values).all()
    assert (content_probability(x, net) == content_probability(x[::-1], net)[::-1]).all()


def test_network_round_trip():
    again = parse_network(format_network(network(), "a comment\nof two lines"))
    assert again.version == network().version
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(again[1:], network()[1:], strict=True))


def test_choice_has_the_highest_expected_f1():
    rng = np.random.default_rng(1)
    for _ in range(50):
        p, size = rng.random(7).round(3), rng.integers(1, 50, 7).astype(float)

        def expected(kept, p=p, size=size):
            return 2 * (p * size)[kept].sum() / (size[kept].sum() + (p * size).sum())

        best = max(expected(np.array(kept)) for n in range(1, 8) for kept in itertools.combinations(range(7), n))
        assert expected(choose(p, size)) == pytest.approx(best)


def test_nothing_likely_nothing_kept():
    assert not choose(np.zeros(3), np.ones(3)).any()


def columns(*rows: tuple[str, str, int]) -> Blocks:
    return Blocks(
        text=[text for _, text, _ in rows],
        tag=[TAGS.index(tag) for tag, _, _ in rows],
        row=[row for _, _, row in rows],
        link_chars=[0] * len(rows),
    )


def test_tables_lists_and_code_are_kept_whole():
    blocks = columns(
        ("p", "before", 0), ("cell", "a", 1), ("cell", "b", 1), ("p", "between", 0), ("pre", "code", 0), ("li", "x", 0),
        ("p", "after", 0), ("pre", "outside", 0),
    )  # fmt: skip
    kept = np.array([True, False, False, True, False, False, True, False])
    assert whole(blocks, kept).tolist() == [True, True, True, True, True, False, True, False]
    kept = np.array([True, False, False, False, False, False, True, False])
    assert whole(blocks, kept).tolist() == [True, False, False, False, True, False, True, False]
    blocks.link_chars = [0, 1, 1, 0, 0, 0, 0, 0]
    kept = np.array([True, False, False, True, False, False, True, False])
    assert not whole(blocks, kept)[1:3].any()


def test_rows_are_lines():
    blocks = columns(("cell", "a", 1), ("cell", "b", 1), ("cell", "c", 2), ("p", "d", 2))
    assert render(blocks, np.array([True] * 4)) == "a | b\nc\nd"


def test_real_pages_give_text(shared_data):
    pages = []
    with open(shared_data("crawl") / "part-000.warc.gz", "rb") as archive:
        for record in ArchiveIterator(archive):
            if record.rec_type == "response":
                pages.append(record.content_stream().read().decode("utf-8", "replace"))
            if len(pages) == 80:
                break
    preload()
    with Sandbox(extract, timeout_s=20) as sandbox:
        outcomes = list(sandbox.map(pages))
    assert all(isinstance(outcome, Result) for outcome in outcomes)
    texts = [outcome.value.text for outcome in outcomes if isinstance(outcome, Result)]
    assert sum(len(text) > 50 for text in texts) > 60
    assert not any("\n\n" in text or "\0" in text for text in texts)
