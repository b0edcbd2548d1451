import gzip
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.signals.statistics import Statistics
from pipeline.signals.statistics.characters import specials

PIECES = st.sampled_from(
    ["the", "The", "of", "be", "end.", "so...", "well…", "#tag", "{", "-", "•", "*", "●", ". . .", "....", "\n", "\n\n",
     "\n\n\n", "\r\n", " ", "\t", "\u00a0", "\u2028", "\x85", "x", "éà", "ÅB", "日本語", "かな", "１２", "𝟙", "🙂",
     "\U0001F468\u200d", "lorem ipsum", "JavaScript", "privacy policy", "a\u0301", "\ufffd", "9", "12.5", "don't", "?!",
     "¿qué?"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=60).map("".join), st.lists(PIECES).map(" ".join))
WORDS = st.lists(st.sampled_from(["the", "of", "abc", "de", "fghij", "k", "that"]), max_size=90)


def measure(*texts: str | None) -> list[dict[str, Any]]:
    return Statistics().annotate(pa.record_batch([pa.array(texts, pa.string())], ["text"])).to_pylist()


def assert_same(found: dict[str, Any], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_kernel_agrees_with_the_slow_reference(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert_same(measure(text)[0], reference.statistics(text))


@settings(max_examples=200, deadline=None)
@given(WORDS, st.sampled_from([" ", "\n", "  "]))
def test_repetition_agrees_with_the_slow_reference(words: list[str], gap: str) -> None:
    text = gap.join(words)
    assert_same(measure(text)[0], reference.word_statistics(words, text))


def tokens(text: str) -> int:
    return measure(text)[0]["token_count"]


@pytest.mark.parametrize(
    ("run", "count"),
    [
        ("word", 1), ("word.", 2), ("(word)", 3), ("don't", 2), ("don’t", 2), ("cannot", 2), ("John's", 2), ("Mr.", 1),
        ("e.g.", 1), ("U.S.", 1), ("end...", 2), ("wait…", 2), ("well-known", 3), ("and/or", 1), ("his/her", 3),
        ("http://example.org/a-b=c", 1), ("www.example.org", 1), ("example.org.", 2), ("a@example.org", 1),
        ("lower.Upper", 3), ("3.14", 1), ("5km", 2), ("10%", 2), ("$5", 2), ("9am", 2), ("1-2", 3), ("1,000", 1),
        ("what?!", 3), ("''", 1), ("日本語", 3), ("日本a語", 4), ("USA.", 2), ("x.", 1), ("its", 1), ("dont", 2), ("C++", 1),
    ],
)  # fmt: skip
def test_words_are_split_as_a_treebank_does(run: str, count: int) -> None:
    assert tokens(run) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two. Three.", 3), ("One\nTwo\nThree", 3), ("Mr. Smith went.", 1), ("Really?! Yes.", 2), ("Wait... what", 1),
        ("3.14 is pi.", 1), ('He said "no." Then left.', 2), ("", 0), ("  \n ", 0), ("one\u2028two", 2),
        ("はい。いいえ。", 2),
    ],
)  # fmt: skip
def test_sentences(text: str, count: int) -> None:
    assert measure(text)[0]["sentence_count"] == count


def test_implementations_disagree_about_copies_and_denominators() -> None:
    # Three lines of 4 characters, two of them equal, and two newlines: 14 characters, 12 of them in words.
    row = measure("aaaa\naaaa\nbbbb")[0]
    assert row["dup_line_frac"] == pytest.approx(1 / 3)  # second copy onwards
    assert row["dup_line_char_frac"] == pytest.approx(4 / 14)  # of the whole text
    assert row["dup_line_char_frac_fineweb"] == pytest.approx(4 / 12)  # of all but newlines
    assert row["dup_line_frac_dolma"] == pytest.approx(2 / 3)  # every copy
    assert row["dup_line_char_frac_dolma"] == pytest.approx(8 / 12)  # of characters in words
    assert row["dup_line_frac_dclm"] == pytest.approx(2 / 3)
    assert row["dup_line_char_frac_dclm"] == pytest.approx(8 / 12)


def test_implementations_disagree_about_stop_words_and_ellipses() -> None:
    row = measure("the the The sea...\nand then…")[0]
    assert row["stop_word_count"] == 2  # the, and
    assert row["stop_word_count_dolma"] == 3  # two "the" and an "and"
    assert row["stop_word_count_dclm"] == 4  # "The" as well
    assert (row["ellipsis_line_frac"], row["ellipsis_line_frac_dolma"], row["ellipsis_line_frac_dclm"]) == (1, 0.5, 1)
    assert row["ellipsis_word_ratio"] == pytest.approx(2 / 8)
    assert row["symbol_word_frac_dolma"] == pytest.approx(1 / 6)
    assert row["symbol_word_ratio_dclm"] == pytest.approx(2 / 6)


def test_word_count_leaves_out_punctuation() -> None:
    row = measure("Well , ok !")[0]
    assert (row["token_count"], row["word_count"], row["word_count_split"], row["word_count_dclm"]) == (4, 2, 4, 2)
    assert (row["mean_word_length"], row["median_word_length_split"], row["mean_word_length_split"]) == (3, 1.5, 2)


def test_top_and_duplicate_grams_by_hand() -> None:
    # "a b" three times with its space is 9 of 17 characters; words alone are 9 characters, "a b" makes 6 of them.
    row = measure("a b a b a b c d e")[0]
    assert row["top_2gram_char_frac"] == pytest.approx(9 / 17)
    assert row["top_2gram_char_frac_dolma"] == pytest.approx(6 / 9)
    assert row["top_2gram_char_frac_dclm"] == pytest.approx(6 / 9)
    # Nothing repeats: the first 2-gram stands for the most frequent, except for dclm.
    row = measure("aa b c d")[0]
    assert row["top_2gram_char_frac"] == pytest.approx(4 / 8)
    assert row["top_2gram_char_frac_dolma"] == pytest.approx(3 / 5)
    assert row["top_2gram_char_frac_dclm"] == 0
    # Five words twice: once more without overlap of 19 characters; all ten words lie in a repeated 5-gram.
    row = measure("a b c d e a b c d e")[0]
    assert row["dup_5gram_char_frac"] == pytest.approx(5 / 19)
    assert row["dup_5gram_char_frac_dolma"] == pytest.approx(10 / 30)
    assert row["dup_5gram_char_frac_dclm"] == 1


def test_null_empty_and_blank_texts() -> None:
    null, empty, blank = measure(None, "", " \n")
    assert set(null.values()) == {None}
    assert empty["word_count"] == 0
    assert math.isnan(empty["dup_line_frac"])
    assert blank["dup_5gram_char_frac"] == 0
    assert math.isnan(blank["terminal_punct_line_frac"])


def test_columns_are_documented_and_typed() -> None:
    schema = Statistics.schema
    assert len(set(schema.names)) == len(schema.names)
    for column in schema:
        assert b"meaning" in column.metadata, column.name
        assert b"unit" in column.metadata, column.name


def test_slices_chunks_and_large_strings() -> None:
    texts = pa.array(["skip", "One two.", None, "日本 three"])
    whole = Statistics().annotate(pa.record_batch([texts], ["text"]))
    part = Statistics().annotate(pa.record_batch([texts], ["text"]).slice(1, 3))
    assert repr(part.to_pylist()) == repr(whole.to_pylist()[1:])  # repr, for NaN is equal to nothing
    large = Statistics().annotate(pa.record_batch([texts.cast(pa.large_string())], ["text"]))
    assert repr(large.to_pylist()) == repr(whole.to_pylist())
    assert Statistics().annotate(pa.record_batch([pa.array([], pa.string())], ["text"])).num_rows == 0
    with pytest.raises(TypeError, match="int64"):
        Statistics().annotate(pa.record_batch([pa.array([1])], ["text"]))


def test_removed_word_share_compares_with_the_original() -> None:
    columns = [pa.array(["one two three", ""]), pa.array(["one two three four", ""])]
    shares = Statistics().annotate(pa.record_batch(columns, ["text", "original"])).column("removed_word_share")
    assert shares[0].as_py() == 0.25
    assert math.isnan(shares[1].as_py())
    assert measure("one")[0]["removed_word_share"] == 0


@pytest.mark.parametrize(
    "text",
    ["a" * 10_000_000, " " * 10_000_000, "\ufffd" * 3_000_000, "word " * 1_000_000, "\n" * 5_000_000, "(" * 3_000_000,
     "a." * 2_000_000, "a-" * 2_000_000, "\n".join(map(str, range(1_300_000))), "日" * 2_000_000],
    ids=["line", "spaces", "replacement", "repeats", "newlines", "marks", "stops", "hyphens", "lines", "han"],
)  # fmt: skip
def test_hostile_texts_end(text: str) -> None:
    row = measure(text)[0]
    assert row["char_count"] == len(text)
    assert row["word_count_split"] == len(text.split())


def test_every_special_form_splits_as_it_says() -> None:
    forms = specials()
    counts = [row["token_count"] for row in measure(*forms)]
    assert counts == [1 + len(cuts) for cuts in forms.values()]


def test_same_bytes_in_any_batch(shared_data: Any) -> None:
    path: Path = shared_data("labelled/neardup/articles_100.train.gz")
    texts = gzip.decompress(path.read_bytes()).decode().splitlines()
    together = measure(*texts)
    alone = [measure(text)[0] for text in texts[:20]]
    assert json.dumps(together[:20]) == json.dumps(alone)
