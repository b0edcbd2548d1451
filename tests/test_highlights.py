"""What is marked is held against what the kernel measured: the same characters, lines and words, for every signal."""

import gzip
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.edits import apply
from pipeline.highlights import Span, excerpt, offending, pieces, url_part, url_parts
from pipeline.highlights.broken import Edited
from pipeline.highlights.counted import COUNTED, NOT_COUNTED, SIZED, WHOLE, places
from pipeline.highlights.reading import Reading
from pipeline.highlights.spans import merged
from pipeline.recipe import Recipe, dialects, load_recipe, parse_recipe, published_recipes
from pipeline.rules import EDITED, bounds, judge
from pipeline.scores import scored_names
from pipeline.signals import known_signals
from pipeline.signals.language import script_share
from pipeline.signals.statistics import Statistics
from pipeline.signals.urls import UrlRules, Words

PIECES = st.sampled_from(
    ["the", "The", "of", "be", "end.", "so...", "well…", "#tag", "{", "-", "•", "*", "●", ". . .", ". . ...", "\n", "\n\n",
     "\n\n\n", "\r\n", " ", "\t", "\u00a0", "\u2028", "\x85", "x", "éà", "ÅB", "日本語", "かな", "１２", "𝟙", "🙂", "_", "_a",
     "\U0001F468\u200d", "lorem ipsum", "JavaScript", "\u212aavaScript", "privacy policy", "uses cookies", "a\u0301",
     "\ufffd", "9", "12.5", "don't", "?!", "¿qué?", "\u0301b", "a line of words that is longer than most\n", "[1]"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace").decode()),
    st.lists(PIECES, max_size=60).map("".join),
    st.lists(PIECES, max_size=60).map(" ".join),
    st.lists(st.sampled_from(["the", "of", "abc", "de.", "fghij", "k\n", "a-b"]), max_size=90).map(" ".join),
)


@cache
def statistics() -> Statistics:
    return Statistics()


def measured(text: str) -> dict[str, Any]:
    return statistics().annotate(pa.record_batch([pa.array([text], pa.string())], ["text"])).to_pylist()[0]


def marked(text: str, spans: Any) -> str:
    return "".join(text[a:b] for a, b in spans)


def filled(text: str) -> int:
    return len("".join(text.split()))


def expected(text: str) -> dict[str, tuple[float, float]]:
    """For every signal, what its marks say it is, as a part and a whole."""
    reading = Reading(text)
    m = measured(text)
    lines = text.split("\n")
    nonempty = [line for line in lines if line]
    blank = [line for line in lines if line.strip()]
    paragraphs = re.split("\n\n+", text.strip())
    edges = text.startswith("\n") + text.endswith("\n") if text else 0
    empty = len(lines) - len(nonempty)
    inside = np.zeros(len(text) + 1, np.int64)  # characters of words as dclm segments them, up to each place
    for a, b in reading.segments.places:
        inside[a + 1 : b + 1] = 1
    inside = inside.cumsum()

    def count(signal: str) -> int:
        return len(places(reading, signal))

    def chars(signal: str) -> int:
        return len(marked(text, merged(places(reading, signal))))

    def unmarked(signal: str) -> int:
        return len(places(reading, signal, below=True))

    found: dict[str, tuple[float, float]] = {
        name: (count(name), 1)
        for name in (
            "sentence_count", "curly_brace_count", "lorem_ipsum_count", "javascript_count", "policy_phrase_count",
            "stop_word_count_dolma", "stop_word_count_dclm",
        )
    }  # fmt: skip
    found["stop_word_count"] = (len({text[a:b] for a, b in places(reading, "stop_word_count")}), 1)
    wholes = {
        "hash_word_ratio": m["token_count"],
        "ellipsis_word_ratio": m["token_count"],
        "newline_word_ratio": m["token_count"],
        "alpha_word_frac": m["token_count"],
        "unique_word_frac": m["token_count"],
        "symbol_word_ratio_dclm": m["word_count_split"],
        "symbol_word_frac_dolma": m["word_count_split"],
        "alpha_word_frac_split": m["word_count_split"],
        "non_alpha_word_frac_split": m["word_count_split"],
        "bullet_line_frac": len(text.splitlines()),
        "ellipsis_line_frac": len(text.splitlines()),
        "bullet_line_frac_dolma": len(lines),
        "ellipsis_line_frac_dolma": len(lines),
        "bullet_line_frac_dclm": len(blank),
        "ellipsis_line_frac_dclm": len(blank),
        "terminal_punct_line_frac": len(blank),
        "short_line_30_frac": len(blank),
        "dup_line_frac_dclm": len(blank),
        "dup_para_frac_dclm": len([part for part in paragraphs if part.strip()]),
    }
    found |= {name: (count(name), whole) for name, whole in wholes.items()}
    found |= {f"not {name}": (wholes[name] - unmarked(name), wholes[name]) for name in NOT_COUNTED}
    found["dup_line_frac"] = (count("dup_line_frac") + max(edges - 1, 0), len(nonempty) + edges)
    found["dup_para_frac"] = (count("dup_para_frac"), max(len([part for part in paragraphs if part]), 1))
    found["dup_line_frac_dolma"] = (count("dup_line_frac_dolma") + (empty if empty > 1 else 0), len(lines))
    wholes = {name: len(text) for name in COUNTED if re.fullmatch("[a-z]+_char_frac|dup_(line|para)_char_frac", name)}
    wholes["dup_line_char_frac_fineweb"] = len(text) - text.count("\n")
    wholes["dup_line_char_frac_dolma"] = max(filled(text), 1)
    wholes["dup_line_char_frac_dclm"] = sum(len(line.strip()) for line in lines)
    wholes["dup_para_char_frac_dclm"] = sum(len(part.strip()) for part in paragraphs)
    found |= {name: (chars(name), whole) for name, whole in wholes.items()}
    words = [len(word) for word in text.split()]
    for n in range(2, 11):
        kind = "top" if n < 5 else "dup"
        for dialect in ("", "_dolma", "_dclm"):
            name = f"{kind}_{n}gram_char_frac{dialect}"
            rows = places(reading, name)
            copies = [filled(text[a:b]) for a, b in rows]
            whole = len(text) if dialect == "" else sum(words)
            if dialect == "_dclm":
                once = merged(rows) if n > 4 else rows
                found[name] = (int((inside[once[:, 1]] - inside[once[:, 0]]).sum()), int(inside[-1]))
            elif n < 5:
                found[name] = (sum(copies) + len(rows) * (n - 1 if dialect == "" else 0), whole)
            elif dialect == "_dolma":
                found[name] = (sum(copies), sum(sum(words[i : i + n]) for i in range(len(words) - n + 1)))
            else:
                found[name] = (filled(marked(text, merged(rows))), whole)
    return found


def assert_agrees(text: str) -> None:
    m = measured(text)
    for name, (part, whole) in expected(text).items():
        if whole and text:
            assert m[name.removeprefix("not ")] == pytest.approx(part / whole, abs=1e-9), name
    reading = Reading(text)
    for name in SIZED:
        every = places(reading, name, maximum=-1)
        sizes = every[:, 1] - every[:, 0]
        if len(sizes) and "median" not in name:
            value = sizes.max() if name.startswith("longest") else sizes.mean()
            assert m[name] == pytest.approx(value), name
            longer, shorter = places(reading, name, maximum=m[name]), places(reading, name, below=True, minimum=m[name])
            assert len(longer) == (sizes > m[name]).sum()
            assert len(shorter) == (0 if name.startswith("longest") else (sizes < m[name]).sum())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(TEXTS)
@example("")
@example("\n")
@example("a b a b a b a b a b a b a b a b a b a b a b a b a b\n\na b\n\na b")
@example("_ a_b _c d'e f. . .. \n- \r\n•x\r- y…\u2028…\n  * z . . .\n* z…\n")
def test_marks_are_what_the_kernel_counted(text: str) -> None:
    assert_agrees(text)


def test_every_signal_has_its_place() -> None:
    assert set(COUNTED) | set(SIZED) | WHOLE == known_signals()
    assert len(COUNTED) + len(SIZED) + len(WHOLE) == len(known_signals())
    assert set(NOT_COUNTED) <= set(COUNTED)
    for name in published_recipes():
        recipe = load_recipe(name)
        bound = {bound.signal.removeprefix(EDITED) for bound in bounds(recipe)} - set(scored_names(recipe.score))
        assert bound <= known_signals()
    assert {signal for dialect in dialects().values() for signal in dialect.bounds} <= known_signals()


def test_marks_of_real_pages_are_what_the_kernel_counted(shared_data: Callable[[str], Path]) -> None:
    with gzip.open(shared_data("crawl/wet/part-000.warc.wet.gz"), "rt", encoding="utf-8", errors="replace") as stream:
        pages = re.split(r"^WARC/1.0$", stream.read(400_000), flags=re.MULTILINE)[2:]
    for page in pages[:40]:
        assert_agrees(page.partition("\n\n")[2][:6000])


EDITING = parse_recipe(
    """
name: editing
rules:
  c4: {dialect: c4@fineweb, bounds: {dup_line_char_frac: [null, 0.1], top_2gram_char_frac: [null, 0.1],
       newline_word_ratio: [null, 0.1], mean_word_length: [3, 10], alpha_word_frac: [0.8, null]}}
  refinedweb: refinedweb@dclm
"""
)


def offences(text: str, rule: str, recipe: Recipe = EDITING) -> list[str]:
    signal = next(bound.signal for bound in bounds(recipe) if bound.rule == rule)
    return [text[a:b] for a, b in offending(text, rule, signal, recipe)]


def test_lines_that_edits_cut_are_not_marked() -> None:
    text = (
        "The first line { stays here.\n{ gone\nNeeds javascript { to run.\nThe { last line stays [1] here.  \r\n3 likes"
    )
    assert [text[a - 1] for a, b in offending(text, "c4.curly_brace_count", "edited_curly_brace_count", EDITING)] == [
        " "
    ] * 2
    assert offending(text, "c4.curly_brace_count", "edited_curly_brace_count", EDITING)[1].start == text.index("{ last")
    assert len(offending(text, "c4.curly_brace_count", "curly_brace_count", EDITING)) == 4
    removed = offences(text, "refinedweb.removed_word_share")
    assert removed == ["{ gone\nNeeds javascript { to run.", "[1]", "3 likes"]


def test_an_ngram_across_a_cut_line_is_marked_around_it() -> None:
    text = "one two three\nx\nfour five one two\nthree four five and nothing more"
    assert offences(text, "c4.top_2gram_char_frac") == ["one two", "one two"]
    text = "we met one\nx\ntwo three and one two three"
    assert offences(text, "c4.top_2gram_char_frac")[:2] == ["one\n", "two"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.text("ab \n", max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["", "", "\n"])), max_size=5),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=3),
)
def test_places_after_edits_are_found_before_them(text: str, edits: list, chosen: list) -> None:
    n = len(text)
    edits = [(min(a, b, n), min(max(a, b), n), new) for a, b, new in edits]
    edited = Edited(text, edits)
    assert edited.text == apply(text, edits)
    m = len(edited.text)
    rows = np.array([(min(a, b, m), min(max(a, b), m)) for a, b in chosen], np.int64).reshape(-1, 2)
    cut = {i for a, b, _ in edits for i in range(a, b)}
    kept = [i for i in range(n) if i not in cut]
    found = merged(edited.to_extracted(merged(rows)))
    assert all(0 <= a < b <= n for a, b in found)
    if not any(new for _, _, new in edits):
        wanted = {kept[i] for a, b in rows for i in range(a, b)}
        assert {i for a, b in found for i in range(a, b)} == wanted


DEFAULT = load_recipe("default")


@pytest.mark.parametrize(
    ("rule", "text", "spans"),
    [
        ("gopher_quality.stop_word_count", "The cat sat with the dog.", ["with", "the"]),
        ("gopher_quality.alpha_word_frac", "12 cats, 7 dogs", ["12", ",", "7"]),
        ("gopher_quality.mean_word_length", "a fathomlessness unfathomed", ["fathomlessness"]),
        ("gopher_quality.mean_word_length", "a to incomprehensible I b c d e f g", ["a", "to", *"Ibcdefg"]),
        ("gopher_quality.word_count", "too short", []),
        ("gopher_quality.bullet_line_frac", "- one\n  • two  \nthree", ["- one", "• two"]),
        ("gopher_quality.ellipsis_line_frac", "read on...\nno\nmore…  ", ["read on...", "more…"]),
        ("gopher_repetition.dup_line_char_frac", "same\nother\nsame\nsame", ["same", "same"]),
        ("gopher_repetition.dup_para_frac", "a\nb\n\nc\n\n\na\nb\n", ["a\nb"]),
        ("gopher_repetition.top_3gram_char_frac", "buy it now, buy it now and buy it now!", ["buy it now"] * 3),
        ("gopher_repetition.dup_5gram_char_frac", "a b c d e f a b c d e g", ["a b c d e"]),
        ("c4.lorem_ipsum_count", "Here is Lorem Ipsum text, as always.", ["Lorem Ipsum"]),
        ("c4.sentence_count", "First one here. And the second? Yes.\nA line by itself", ["First", "And", "Yes", "A"]),
        ("fineweb.terminal_punct_line_frac", "A line that ends.\nAnd one that does not", ["And one that does not"]),
        ("fineweb.short_line_30_frac", "A short line\nA line that is longer than thirty characters", ["A short line"]),
        ("fineweb.dup_line_char_frac_fineweb", "over and out\nover and over\nover and out", ["over and out"]),
        ("fineweb.newline_word_ratio", "one two three\nfour five six\r\nseven eight nine", ["\n", "\r\n"]),
        ("dedup.minhash", "whatever", []),
        ("gates.language", "Guten Tag", []),
    ],
)  # fmt: skip
def test_marks_of_the_rules_that_ship(rule: str, text: str, spans: list[str]) -> None:
    signal = next((bound.signal for bound in bounds(DEFAULT) if bound.rule == rule), "")
    found = offending(text, rule, signal, DEFAULT)
    assert [text[a:b] for a, b in found] == spans


def test_a_text_that_breaks_a_rule_of_parts_has_marks() -> None:
    text = "\n".join(["Buy the now...", "# 1 2 3 { lorem ipsum } 4 5 6", "- - - -"] * 30)
    hits = [hit for hit in judge(text, DEFAULT).hits if hit not in ("gates.language", "gates.script")]
    assert len(hits) > 15
    signals = {bound.rule: bound.signal for bound in bounds(DEFAULT)}
    for hit in hits:
        assert offending(text, hit, signals[hit], DEFAULT), hit


def test_letters_of_other_scripts_are_marked() -> None:
    text = "Привет, мир 42! Hello. " + "x" * 2000 + " снова"
    found = offending(text, "gates.script", "script_share", DEFAULT, language="en")
    assert [text[a:b] for a, b in found] == ["Привет", "мир"]
    letters = sum(letter.isalpha() for letter in text[:2000])
    assert 1 - script_share(text[:2000], "en") == pytest.approx(len(marked(text, found)) / letters)
    assert marked(text, offending(text, "gates.script", "script_share", DEFAULT, language="ru")).startswith("Hello")


HOSTILE = [
    "a",
    "\n",
    "\r",
    "{",
    ".",
    "_ ",
    "x\n",
    "x\n\n",
    "a b ",
    "日本",
    "🙂 𝟙",
    "\ud800",
    "\udc00 \ud83d",
    "\x00",
    "\u202e ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_texts_are_marked_all_the_same(unit: str) -> None:
    text = unit * (20_000 // len(unit))
    for signal in ("top_2gram_char_frac", "dup_10gram_char_frac", "edited_dup_line_char_frac", "sentence_count",
                   "dup_6gram_char_frac_dclm", "edited_curly_brace_count"):  # fmt: skip
        spans = offending(text, "", signal, DEFAULT)
        assert all(0 <= a < b <= len(text) for a, b in spans)
        assert all(one.end < other.start for one, other in pairwise(spans))
    assert not offending(text, "gates.script", "", DEFAULT, language="en") or unit == "日本"
    assert "".join(piece for piece, _ in pieces(text, [(a, b, "x") for a, b in spans])) == text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(-3, 25), st.integers(-3, 25), st.sampled_from("xyz")), max_size=8))
def test_pieces_are_the_text_and_the_first_span_wins(spans: list[tuple[int, int, str]]) -> None:
    text = "abcdefghijklmnopqrst"
    kinds = [next((kind for a, b, kind in spans if a <= i < b), "") for i in range(len(text))]
    found = pieces(text, spans)
    assert [(letter, kind) for piece, kind in found for letter in piece] == list(zip(text, kinds, strict=True))
    assert all(one[1] != other[1] for one, other in pairwise(found))
    assert pieces("", spans) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["a", "bcd", "efghij", "klmnopqrstuvwxyz" * 4]), min_size=1, max_size=40).map(" ".join),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=6),
    st.integers(1, 120),
)
def test_excerpts_hold_as_many_spans_as_any_window(text: str, chosen: list[tuple[int, int]], width: int) -> None:
    spans = [(a, min(a + size, len(text))) for a, size in chosen if a < len(text)]
    start, end = excerpt(text, spans, width)
    assert 0 <= start < end <= len(text)
    assert end - start <= width
    if len(text) <= width:
        assert (start, end) == (0, len(text))
    elif spans:
        assert any(start <= a < end for a, _ in spans)


def test_excerpts_end_between_words_and_hold_the_densest_place() -> None:
    text = "word " * 100 + "bad bad bad " + "word " * 100
    spans = [(5, 9), *((m.start(), m.end()) for m in re.finditer("bad", text))]
    start, end = excerpt(text, spans, 60)
    assert text[start:end].count("bad") == 3
    assert re.fullmatch(r"(word )+bad bad bad (word )*word", text[start:end])
    assert excerpt(text, [], 12) == Span(0, 9)
    assert excerpt(text, [(0, 1000, "kind")], 12).start == 0
    with pytest.raises(ValueError, match="at least one"):
        excerpt(text, [], 0)


RULES = UrlRules(
    domains=["blocked.example", "*.spam.example", "xn--bcher-kva.example"],
    hosts=["www.host.example"],
    urls=["one.example/a/b?c=d"],
    curated=["wiki.example"],
    words=Words(("porn", "größe"), ("casino", "slots"), ("freestuff",)),
)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://a.Blocked.example:80/x", ["Blocked.example"]),
        ("https://user:pw@blocked.example./x", ["blocked.example"]),
        ("http://deep.in.spam.example/", ["spam.example"]),
        ("http://www.bücher.example/", ["www.bücher.example"]),
        ("http://%62locked.example/", ["%62locked.example"]),
        ("http://www.host.example/blocked.example", ["www.host.example"]),
        ("https://one.example:443/a/b/?c=d#frag", ["one.example:443/a/b/?c=d"]),
        ("http://one.example/a/b?c=d#frag", ["one.example/a/b?c=d"]),
        ("http://en.wiki.example/Mill", ["wiki.example"]),
        ("http://site.example/P%6Frn/porn-x/porny", ["P%6Frn", "porn"]),
        ("http://site.example/Casino_and-slots/casino", ["Casino", "slots", "casino"]),
        ("http://site.example/gr%C3%B6ße", ["gr%C3%B6ße"]),
        ("http://site.example/Free-%53tuff", ["Free-%53tuff"]),
        ("http://free.stuff.example/", ["free.stuff"]),
    ],
)
def test_the_part_of_an_address_that_a_rule_matched(url: str, parts: list[str]) -> None:
    (hit,) = RULES.check(url).hits
    found = url_parts(url, f"gates.url.{hit}", DEFAULT)
    assert [url[a:b] for a, b in found] == parts
    assert url_part(url, f"gates.url.{hit}", DEFAULT) == found[0]


def test_addresses_of_source_files_and_other_reasons() -> None:
    code = load_recipe("code")
    assert url_part("pkg/Node_Modules/x.js", "gates.code.folders", code) == Span(4, 16)
    assert url_part("pkg/x.min.js", "gates.code.files", code) == Span(5, 12)
    for reason in (
        "gates.http.status",
        "gates.url.word:absent",
        "gates.url.domain:other.example",
        "gates.url.new:x",
        "",
    ):
        assert url_part("http://site.example/", reason, code) is None
    for url in ("", "no scheme", "//", "http://", "http://[::1", "%", "%zz" * 1000, "\ud800", "http://\ud800/%ff"):
        for kind in ("domain", "host", "url", "word", "soft", "substring", "curated"):
            for a, b in url_parts(url, f"gates.url.{kind}:zz", code):
                assert 0 <= a <= b <= len(url)
