"""Depth, formulas and metadata, read from markup before any parser sees it."""

import pytest

from pipeline.extraction.markup import flatten, nesting, write_mathematics
from pipeline.extraction.metadata import read_metadata


@pytest.mark.parametrize(
    ("markup", "depth"),
    [
        ("", 0),
        ("plain", 0),
        ("<div><div></div></div>", 2),
        ("<div></div>" * 50, 1),
        ("<p>" * 50, 0),
        ("<ul>" + "<li>x" * 50 + "</ul>", 1),
        ("<br><img><hr><input>" * 50, 0),
        ("</div>" * 50 + "<div><section>", 2),
        ("<!-- <div> --><!DOCTYPE html>", 1),
        ("<", 0),
        ("a < b </", 0),
    ],
)
def test_nesting(markup, depth):
    assert nesting(markup) == depth


def test_flatten_bounds_depth_and_keeps_words():
    deep = "<div>" * 500 + "<p>core</p>" + "</div>" * 500 + "<p>after</p>"
    flat = flatten(deep, 100)
    assert nesting(flat) <= 100
    assert "core" in flat and "<p>after</p>" in flat
    assert flat.count("<div>") == flat.count("</div>") == 100
    assert flatten("<div><p>a</p></div>", 100) == "<div><p>a</p></div>"


def test_flatten_leaves_pages_alone_that_only_look_deep():
    unclosed = "".join(f"<div><span><span>{i}</div>" for i in range(300))
    scripted = "<script>" + "w('<div>');" * 300 + "</script><p>a</p>"
    commented = "<!--" + "<div>" * 300 + "--><p>a</p>"
    for markup in (unclosed, scripted, commented):
        assert nesting(markup) > 200
        assert flatten(markup, 200) == markup


def test_display_formulas_and_entities():
    tex = '<script type="math/tex; mode=display">a &lt; b</script>'
    assert "$$a &lt; b$$" in write_mathematics(tex)
    assert write_mathematics("<p>a latex glove</p>") == "<p>a latex glove</p>"
    assert "x+1" in write_mathematics("<math> <mi>x</mi> <mo>+</mo> <mn>1</mn> </math>")


@pytest.mark.parametrize(
    ("head", "title", "day"),
    [
        ("<title> A &amp; B\n C </title>", "A & B C", None),
        ('<meta property="og:title" content="Card"><title>Page</title>', "Card", None),
        ("<meta content='Card' property='og:title'>", "Card", None),
        ("<title></title><h1>The <em>head</em></h1>", "The head", None),
        ('<meta property="article:published_time" content="2021-03-04T05:06:07Z">', None, "2021-03-04"),
        ('<script type="application/ld+json">{"datePublished": "2019-12-31"}</script>', None, "2019-12-31"),
        ('<time datetime="2020-02-30">', None, None),
        ('<time class=x datetime="2020-02-29 10:00">', None, "2020-02-29"),
        ('<meta name="date" content="20180102">', None, "2018-01-02"),
        ('<meta name="date" content="0000-00-00"><time datetime="2001-01-01">', None, "2001-01-01"),
        ('<meta name="date" content="yesterday">', None, None),
        ("", None, None),
    ],
)
def test_metadata(head, title, day):
    found = read_metadata(f'<html lang="De-AT"><head>{head}</head></html>')
    assert (found.title, found.date_published, found.language) == (title, day, "de-at")
