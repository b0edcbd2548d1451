"""Normalisation, text hashes and lines: compiled code against plain Python, and plain Python against the definition."""

import codecs
import hashlib
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup.kernel import WORD
from pipeline.dedup.normalise import (
    UNSPACED,
    forms,
    line_key,
    lines,
    normalised,
    text_hashes,
    unspaced,
    words,
)
from pipeline.signals.statistics import characters

# Characters that make trouble are drawn as often as all others.
MARKS = (
    "aAéÉe\u0301ßẞİıσςΣ中文字カﾊがกำลัง한국ᄒ\u1112\u1161क़कुো😀👍🏽👨‍👩‍👧€©≠Ω…—-_'’“.,!$^`¨Ⱥ"
    "Ａ་፡\u200b\u200d\ufeff\u00ad\u0000\x1f\x85\u00a0\u3000 \t\r\n\n\u2028"
)
# All that Unicode has assigned, and some of the rest.
POINTS = [*range(0xD800), *range(0xE000, 0x32400), *range(0x32400, 0xE0000, 997), *range(0xE0000, 0xE0200), 0x10FFFF]
TEXTS = st.lists(st.one_of(st.text(), st.text(alphabet=MARKS)), max_size=8)


def expected_hash(text: str) -> list[int]:
    digest = hashlib.blake2b(normalised(text).encode("utf-8"), digest_size=16).digest()
    return [int.from_bytes(digest[:8]), int.from_bytes(digest[8:])]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("", ""),
        (" \n\t\u3000", ""),
        ("...!?", ""),
        ("\u200b\ufeff\u0301", ""),
        ("  The  Café,\r\n(“Déjà vu”) ", "the cafe deja vu"),
        ("Cafe\u0301 don't state-of-the-art", "cafe dont stateoftheart"),
        ("İSTANBUL ΟΔΟΣ Straße Ⱥ", "istanbul οδοσ straße ⱥ"),
        ("a < b + c = $5 ^ `d`", "a b c 5 d"),
        ("5 € © 😀 ∑", "5 € © 😀 ∑"),
        ("한국어 중앙", "한국어 중앙"),
        ("今天，天气。 很好", "今天天气 很好"),
        ("བོད་ཡིག ሰላም፡ለዓለም", "བད ཡག ሰላም ለዓለም"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
    ],
)
def test_examples(text: str, normal: str) -> None:
    assert normalised(text) == normal


def test_is_nfd_and_lower_case_over_whole_texts() -> None:
    def by_whole_text(text: str) -> str:
        bare = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) not in ("Mn", "Me"))
        small = "".join(bare).lower()
        kept = (c for c in small if unicodedata.category(c)[0] != "P")
        return " ".join("".join(kept).split())

    ranges = ((0x20, 0x24), (0x25, 0x2B), (0x2C, 0x3C), (0x3F, 0x5E), (0x61, 0x7C), (0xC0, 0x250), (0x300, 0x370))
    ranges += ((0x400, 0x530), (0x5D0, 0x5EB), (0x620, 0x660), (0x904, 0x93A), (0x1E00, 0x1F00))
    everything = " ".join(chr(c) for first, last in ranges for c in range(first, last))
    assert normalised(everything) == by_whole_text(everything)
    assert normalised(everything.replace(" ", "")) == by_whole_text(everything.replace(" ", ""))


def test_normalising_twice_changes_nothing() -> None:
    everything = "x".join(map(chr, POINTS))
    once = normalised(everything)
    assert normalised(once) == once


def test_what_stays_composed_is_left_as_it_is() -> None:
    composed = []
    for point in POINTS:
        parts = [c for c in unicodedata.normalize("NFD", chr(point)) if unicodedata.category(c) not in ("Mn", "Me")]
        if len(parts) > 1:
            assert normalised(chr(point)) == chr(point)
            composed.append(point)
    assert {unicodedata.category(chr(c)) for c in composed if not 0xAC00 <= c < 0xD7A4} <= {"Mc", "Lo", "So"}


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_hashes_are_those_of_the_normalised_text(texts: list[str]) -> None:
    assert text_hashes(pa.array(texts, pa.string())).tolist() == [expected_hash(text) for text in texts]


def test_every_code_point_is_hashed_as_plain_python_has_it() -> None:
    texts = ["".join(f"{chr(c)}x" for c in POINTS[i : i + 997]) for i in range(0, len(POINTS), 997)]
    assert text_hashes(pa.array(texts)).tolist() == [expected_hash(text) for text in texts]


def test_nothing_left_hashes_as_the_empty_text() -> None:
    found = text_hashes(pa.array(["", None, " \n ", "?!", "\u0301", "a"]))
    assert found.dtype == np.uint64
    assert found.shape == (6, 2)
    assert (found[:5] == expected_hash("")).all()
    assert (found[5] != found[0]).any()


def test_no_texts() -> None:
    for texts in (pa.array([], pa.string()), pa.nulls(0), pa.chunked_array([], pa.string())):
        assert text_hashes(texts).shape == (0, 2)
        assert len(lines(texts).rows) == 0


def test_layout_of_the_array_does_not_matter() -> None:
    texts = ["One line\nand two", None, "três ações", "", "四行\n", "six"]
    plain = pa.array(texts)
    # A null whose bytes are there all the same.
    hidden = pa.StringArray.from_buffers(
        3, pa.py_buffer(np.array([0, 1, 3, 4], np.int32)), pa.py_buffer(b"abcd"), pa.py_buffer(b"\x05"), 1
    )
    assert hidden.to_pylist() == ["a", None, "d"]
    assert text_hashes(hidden).tolist() == [expected_hash(t) for t in ("a", "", "d")]
    expected = text_hashes(plain)
    known = lines(plain)
    for same in (
        plain.cast(pa.large_string()),
        pa.chunked_array([plain[:2], plain[2:]]),
        plain.dictionary_encode(),
        pa.array(["before", *texts, "after"])[1:-1],
        pa.array(["before", *texts, "after"], pa.large_string())[1:-1],
    ):
        assert (text_hashes(same) == expected).all()
        assert all((a == b).all() for a, b in zip(lines(same), known, strict=True))


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_lines_point_at_themselves(texts: list[str]) -> None:
    expected = []
    for row, text in enumerate(texts):
        at = 0
        for line in text.split("\n"):
            end = min(at + len(line) + 1, len(text))
            if words(line):
                expected.append((row, line_key(line), at, end, len(words(line))))
            at = end
    found = lines(pa.array(texts, pa.string()))
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    for row, key, start, end, _ in zip(*found, strict=True):
        assert line_key(texts[row][start:end]) == key


def test_lines_have_the_declared_types_and_equal_keys_for_equal_lines() -> None:
    text = "Home | About\n\nFirst paragraph.\nHOME   about\n---\nlast"
    found = lines(pa.array([text, None, "", "home about"]))
    assert [column.dtype for column in found] == [np.int32, np.uint64, np.int32, np.int32, np.int32]
    assert found.rows.tolist() == [0, 0, 0, 0, 3]
    assert [text[a:b] for a, b in zip(found.starts[:4], found.ends[:4], strict=True)] == [
        "Home | About\n",
        "First paragraph.\n",
        "HOME   about\n",
        "last",
    ]
    assert found.keys[0] == found.keys[2] == found.keys[4]
    assert len(set(found.keys.tolist())) == 3
    assert found.words.tolist() == [2, 2, 2, 1, 2]


def test_keys_of_long_lines_depend_on_every_place() -> None:
    line = [chr(97 + i % 26) for i in range(400)]
    swapped = [line.copy() for _ in range(200)]
    for i, copy in enumerate(swapped):
        copy[i], copy[i + 65] = copy[i + 65], copy[i]
    texts = ["".join(line[:n]) for n in range(1, 401)] + ["".join(copy) for copy in swapped]
    texts += [f"{'x' * n} {end}" for n in range(60, 70) for end in ("", "y", "y ", "\u0301")]
    found = lines(pa.array(texts))
    assert len(set(found.keys.tolist())) == len(set(map(normalised, texts)))
    assert found.keys.tolist() == [line_key(text) for text in texts]


def test_words_of_unspaced_scripts_are_characters() -> None:
    assert words("Der 北京 hat ราคา") == ["der", "北", "京", "hat", "ร", "า", "ค", "า"]
    assert words("x中y", normalise=False) == ["x", "中", "y"]
    assert words("The   End.\u00a0", normalise=False) == ["The", "End."]
    assert words("한국어 слово ราคา 123", normalise=True)[:2] == ["한국어", "слово"]
    assert words("๑๒๓ ૧૨") == ["๑๒๓", "૧૨"]


def test_unspaced_scripts_hold_what_the_signals_count_by_character() -> None:
    cjk = np.flatnonzero(characters.classes() & characters.CJK)
    missing = [c for c in cjk.tolist() if chr(c) not in unspaced()]
    assert missing == []
    assert len(characters.code_points(UNSPACED)) == len(unspaced())


def test_damaged_bytes_are_replaced_one_by_one() -> None:
    codecs.register_error("each", lambda error: ("\ufffd", error.start + 1))
    damaged = [
        b"\xff\xfe one", b"two \xc3", b"\xe4\xb8 three", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80 ok", b"\xc0\x80\xc1\xbf",
        b"\xe0\x80\x80", b"\xed\xa0\x80 low", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x80\x80a",
        b"\xe4ab\nnext \xe4\xb8\xad", b"\xc3\xa9\xc3", b"\xf3\xa0\x80",
    ]  # fmt: skip
    draw = np.random.RandomState(0)
    damaged += [draw.randint(0x60, 0x100, 60, dtype=np.uint8).tobytes() for _ in range(200)]
    offsets = np.cumsum([0] + [len(text) for text in damaged], dtype=np.int32)
    array = pa.StringArray.from_buffers(len(damaged), pa.py_buffer(offsets), pa.py_buffer(b"".join(damaged)))
    replaced = [text.decode("utf-8", "each") for text in damaged]
    assert text_hashes(array).tolist() == [expected_hash(text) for text in replaced]
    assert lines(array).keys.tolist() == [
        line_key(line) for text in replaced for line in text.split("\n") if words(line)
    ]


def test_tables_without_normalisation_keep_all_but_white_space() -> None:
    table = forms(False)
    kept = table >> 2 != 0
    spaces = [c for c in range(0x110000) if chr(c).isspace()] + [0xF0B, 0xF0C, 0x1361]
    assert np.flatnonzero(~kept).tolist() == sorted(spaces)
    assert ((table[kept] >> 2) - 1 == np.flatnonzero(kept)).all()


def test_a_word_of_one_character_takes_three_bytes() -> None:
    # Which is what the room for words and n-grams is reckoned by.
    for table in (forms(True), forms(False)):
        assert np.flatnonzero(table & 3 == WORD).min() >= 0x800


def test_one_huge_line_and_many_short_ones() -> None:
    huge = "long line " * 500_000
    found = lines(pa.array([huge, "a\n" * 500_000]))
    assert found.words[0] == 1_000_000
    assert (found.starts[0], found.ends[0]) == (0, len(huge))
    assert len(found.rows) == 500_001
    assert len(set(found.keys[1:].tolist())) == 1
