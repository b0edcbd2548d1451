import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edits import LineEdits, apply, apply_edits
from pipeline.errors import RecipeError
from pipeline.recipe import dialects


def policy(name: str) -> LineEdits:
    return LineEdits(dialects()[name].edits or {}, name)


def edited(name: str, text: str) -> str:
    texts, ids = pa.array([text]), pa.array(["a"])
    return apply_edits(texts, ids, policy(name).spans(texts, ids))[0].as_py()


def reasons(name: str, text: str) -> list[str]:
    rows = policy(name).spans(pa.array([text])).to_pylist()
    return [row["reason"].removeprefix(name + ".") for row in rows]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("A line that ends well.", None),
        ("A line that ends", "no_terminal_punctuation"),
        ("A line that trails off...", "no_terminal_punctuation"),
        ("Too short.", "few_words"),
        ("We use cookies here, friend.", "policy_line"),
        ("Please enable JavaScript in it.", "phrase_line"),
        ("A word of " + "x" * 1001 + " letters.", "long_word"),
        ("A word of " + "x" * 990 + " letters.", None),
        ("This { keeps a privacy policy line.", None),
        ("Lorem ipsum and javascript, both here.", None),
        ("javascript with { goes before it.", "phrase_line"),
        ("It ends with an apostrophe'", None),
    ],
)
def test_c4_line_rules(line: str, rule: str | None) -> None:
    assert reasons("c4@tfds", line) == ([rule] if rule else [])


def test_c4_dialects_disagree() -> None:
    text = "Four words in it.\nNo mark at the end of this\nIt ends with five words'\nAll agree to keep this one."
    assert edited("c4@tfds", text) == "Four words in it.\nIt ends with five words'\nAll agree to keep this one."
    assert edited("c4@paper", text) == "All agree to keep this one."
    assert edited("c4@fineweb", text) == text


def test_c4_cuts_citations_and_white_space() -> None:
    text = "\n  A fact[12] is known[citation needed] well.[edit] \r\n\u2028 And[] another one here. \n\n"
    assert edited("c4@tfds", text) == "A fact is known well.\nAnd another one here."
    assert "citation" in reasons("c4@tfds", text)


def test_c4_words_are_counted_before_citations_are_cut_and_ends_after() -> None:
    assert edited("c4@fineweb", "[1] [2] [3] x") == "   x"
    assert reasons("c4@tfds", "It ends with a mark. [1]") == ["no_terminal_punctuation"]


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("THIS IS SHOUTED aloud", None),
        ("12345", None),
        ("3 likes", None),
        ("1.2K followers!", None),
        ("3 likes from friends", "3 likes from friends"),
        ("word", None),
        ("Sign-in to go on", "to go on"),
        ("Quite a story Read more...", "Quite a story"),
        ("You have items in cart now", "You have now"),
        ("Read more...", None),
        ("one two three four five six seven eight nine ten Read more...",) * 2,
    ],
)
def test_refinedweb_lines(line: str, kept: str | None) -> None:
    frame = "The first line stays.\n{}The last line stays."
    assert edited("refinedweb@dclm", frame.format(line + "\n")) == frame.format("" if kept is None else kept + "\n")


def test_refinedweb_keeps_blank_lines_between_and_not_around() -> None:
    assert edited("refinedweb@dclm", "\n\nOne two.\n\nword\n\nThree four.\n\n\n") == "One two.\n\n\nThree four."


POLICIES = "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"


def slow_c4(text: str) -> str:
    """c4@tfds, line by line."""
    kept = []
    for raw in text.splitlines():
        line = raw.strip()
        words = line.split()
        if any(len(word) > 1000 for word in words):
            continue
        line = re.sub(r"\[[0-9]*\]|\[edit\]|\[citation needed\]", "", line)
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...") or len(words) < 3:
            continue
        low = line.lower()
        if "lorem ipsum" not in low:
            if "javascript" in low:
                continue
            if "{" not in line and re.search(POLICIES, low):
                continue
        kept.append(line)
    return "\n".join(kept)


PIECES = st.sampled_from(
    ["one two three.", "no end", "word ", " ", "\n", "\r\n", "\n\n", "\u2028", "\x0b", "[1]", "[edit]", "use cookies ", "{",
     "é日🙂 ", "javascript ", "lorem ipsum ", ".", "...", "'", "\t"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_c4_agrees_with_the_slow_reference(text: str) -> None:
    assert edited("c4@tfds", text) == slow_c4(text)


def test_spans_are_ordered_named_and_in_characters() -> None:
    texts = pa.array(["日本語 🙂 here ok.\nbad", None, "bad\nÉté à la plage."])
    table = policy("c4@tfds").spans(texts, pa.array(["x", "y", "z"]))
    assert [(r["doc_id"], r["start"], r["end"]) for r in table.to_pylist()] == [
        ("x", 14, 15),
        ("x", 15, 18),
        ("z", 0, 4),
    ]
    assert apply_edits(texts, pa.array(["x", "y", "z"]), table).to_pylist() == [
        "日本語 🙂 here ok.",
        None,
        "Été à la plage.",
    ]


SPANS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from(["", "·", "<é>"])), max_size=6).map(
    lambda spans: [(min(a, b), max(a, b), r) for a, b, r in spans]
)


def table(spans: list[tuple[int, int, str]], name: str = "a") -> pa.Table:
    from pipeline.tables import EDITS

    rows = [{"doc_id": name, "start": a, "end": b, "replacement": r, "reason": "test"} for a, b, r in spans]
    return pa.Table.from_pylist(rows, schema=EDITS)


@settings(max_examples=300, deadline=None)
@given(SPANS)
def test_batch_applies_as_one_text_does(spans: list[tuple[int, int, str]]) -> None:
    text = "aé日🙂b\nc d e f"
    spans = [(min(a, len(text)), min(b, len(text)), r) for a, b, r in spans]
    assert apply_edits(pa.array([text]), pa.array(["a"]), table(spans)).to_pylist() == [apply(text, spans)]


def test_overlapping_spans_become_one_and_touching_ones_do_not() -> None:
    assert apply("abcdefgh", [(2, 5, "X"), (1, 3, "Y")]) == "aYfgh"
    assert apply("abcdefgh", [(1, 3, "X"), (3, 5, "Y")]) == "aXYfgh"
    assert apply("abcdefgh", [(1, 3, "X"), (1, 6, "Y")]) == "aYgh"
    assert apply("abc", [(1, 1, "-")]) == "a-bc"


@pytest.mark.parametrize("span", [(-1, 1, ""), (2, 1, ""), (0, 4, ""), (4, 4, "x")])
def test_spans_that_leave_the_text_are_errors(span: Any) -> None:
    with pytest.raises(ValueError, match="leaves"):
        apply("abc", [span])
    with pytest.raises(ValueError, match="document a: span"):
        apply_edits(pa.array(["abc"]), pa.array(["a"]), table([span]))


def test_edits_of_other_documents_are_left_alone() -> None:
    texts = pa.chunked_array([["abc"], ["def"]])
    assert apply_edits(texts, pa.chunked_array([["a", "b"]]), table([(0, 9, "")], "other")).to_pylist() == [
        "abc",
        "def",
    ]


def test_unknown_and_impossible_policies() -> None:
    with pytest.raises(RecipeError, match="min_line_word"):
        LineEdits({"min_line_word": 3})
    with pytest.raises(RecipeError, match="line_breaks"):
        LineEdits({"line_breaks": "all"})


def test_hostile_lines_end() -> None:
    for text in ("[" * 2_000_000, "[1]" * 1_000_000, "\n" * 3_000_000, "use cookie " * 300_000, "a" * 5_000_000):
        edited("c4@tfds", text)
        edited("refinedweb@dclm", text)
