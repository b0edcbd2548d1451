"""Figures of reports: marks that stand where the numbers are, in SVG that is inert and has no style of its own."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from jobs.report import figures
from jobs.report.text import shown

EDGES = [1.0, 10.0, 100.0, 1000.0]
HOSTILE = 'x"><script>alert(1)</script>$\\frac{1}{2}$ \u202e\x00\ud800 日本'


def drawn() -> dict[str, str]:
    series = {"kept": [5, 20, 0], "alone": [0, 3, 1], "other": [9, 0, 2]}
    return {
        "histogram": figures.histogram(
            HOSTILE, EDGES, series, title=HOSTILE, bounds=(10, 500), log=True, zeros={"kept": 1, "alone": 0, "other": 7}
        ),
        "curve": figures.curve(
            "c", EDGES, [30, 20, 10, 0], [4, 0, 0, 0], bound=10, side="minimum", title=HOSTILE, log=True
        ),
        "funnel": figures.funnel("f", [figures.Level(HOSTILE, 0, 100), figures.Level("rules", 75, 25)], title="t"),
        "before_after": figures.before_after("b", [(HOSTILE, 80, 1), ("en", 20, 9)], title="t", total=(100, 10)),
        "bars": figures.bars("bars", [(HOSTILE, 3.0), ("two", 1.0)], title="t"),
        "timeline": figures.timeline("t", [("2020", 3, 1), (HOSTILE, 4, 0)], title="t", total=(7, 1)),
        "reliability": figures.reliability("r", [(0.1, 0.05, 20), (0.9, 0.95, 80)], title="t"),
    }


@pytest.fixture(scope="module")
def all_figures() -> dict[str, str]:
    return drawn()


def test_figures_are_inert_have_no_style_and_ids_of_their_own(all_figures: dict[str, str]) -> None:
    ids: list[str] = []
    for name, svg in all_figures.items():
        root = ElementTree.fromstring(svg)
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        attributes = {key for element in root.iter() for key in element.attrib}
        assert tags <= {"svg", "title", "desc", "path", "text"}, name
        assert not any(key.startswith(("on", "style", "href", "{")) for key in attributes), name
        ids += [element.get("id", "") for element in root.iter() if element.get("id")]
        assert root.get("role") == "img" and len(svg) < 20_000
        svg.encode()
        assert not re.search(r"#0000[0-9a-f]{2}", svg), "a colour that became no class"
    assert len(ids) == len(set(ids))


def test_the_same_data_gives_the_same_bytes(all_figures: dict[str, str]) -> None:
    assert drawn() == all_figures


def test_descriptions_say_the_numbers(all_figures: dict[str, str]) -> None:
    said = {name: " ".join(re.findall(r"<desc[^>]*>(.*?)</desc>", svg)) for name, svg in all_figures.items()}
    assert "48 pages (26 kept, 4 alone, 18 other)" in said["histogram"] and "8 at 0" in said["histogram"]
    assert "bound at least 10; bound at most 500" in said["histogram"]
    assert "20 pages are kept" in said["curve"] and "30 and 4 would newly pass at 1" in said["curve"]
    assert "rules: 75 taken, 25 left" in said["funnel"]
    assert "en 20.0 % → 90.0 %" in said["before_after"]
    assert "80 examples of mean score 0.90: 95.0% positive" in said["reliability"]


def test_bars_and_bounds_stand_where_the_numbers_are() -> None:
    svg = figures.histogram("h", [0, 1, 2, 3, 4], {"kept": [0, 8, 4, 0]}, title="t", bounds=(1, 2))
    root = ElementTree.fromstring(svg)
    paths = {e.get("class"): e.get("d", "") for e in root.iter() if e.tag.endswith("path")}
    left, right, top, bottom = 40, 330, 16, 128
    points = [tuple(map(float, xy)) for xy in re.findall(r"([\d.]+) ([\d.]+)", paths["fill-kept"])]
    unit = (right - left) / 4
    assert {x for x, _ in points} >= {left + unit, left + 2 * unit, left + 3 * unit}
    assert min(y for _, y in points) == top and max(y for _, y in points) == bottom
    lines = [e.get("d", "") for e in root.iter() if e.get("stroke-dasharray")]
    assert [float(d.split()[1]) for d in lines] == [left + unit, left + 2 * unit]


def test_funnel_bars_have_the_length_of_what_is_left() -> None:
    svg = figures.funnel("f", [figures.Level("read", 0, 200), figures.Level("rules", 150, 50)], title="t")
    (lost,) = (e.get("d", "") for e in ElementTree.fromstring(svg).iter() if "fill-dropped-soft" in e.get("class", ""))
    xs = [float(x) for x in re.findall(r"([\d.]+) [\d.]+", lost)]
    assert (min(xs), max(xs)) == (2 + 336 / 4, 338)


def test_nothing_to_draw_is_nothing() -> None:
    assert figures.histogram("a", [], {}, title="t") == ""
    assert figures.curve("a", [1.0], [1], [0], bound=1, side="minimum", title="t") == ""
    assert (
        figures.funnel("a", [], title="t")
        == figures.bars("a", [], title="t")
        == figures.reliability("a", [], title="t")
        == ""
    )
    assert "<path" in figures.histogram("a", [2, 2], {"kept": [3]}, title="one value")
    assert "<svg" in figures.histogram("a", [0, 1], {"kept": [0]}, title="no page", bounds=(None, float("inf")))


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (1, 10**6, "< 0.01 %"),
        (9999, 10_000, "> 99.9 %"),
        (1, 3, "33.3 %"),
        (1, 0, "0 %"),
    ],
)
def test_shares_are_never_rounded_to_all_or_nothing(part: int, whole: int, words: str) -> None:
    assert figures.share(part, whole) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (950, "950"), (1234, "1.23k"), (999_950, "1M"), (15e12, "15T"), (0.25, "0.25"), (1e-6, "1e-6")],
)
def test_short_numbers(value: float, words: str) -> None:
    assert figures.short(value) == words


def test_what_nobody_sees_is_shown() -> None:
    assert shown("a\x00\u202eb\ud800\r\n\tc\u200dd") == "a␀[U+202E]b\ufffd␍\n\tc\u200dd"
    assert shown("日本語 ä \U0001f600") == "日本語 ä \U0001f600"
