"""What two texts have in common is a longest common subsequence where they are small, and never wrong where they are not."""

import random

import pytest

from pipeline import differences as module
from pipeline.differences import Differences, differences, matches, words


def longest(a: list[str], b: list[str]) -> int:
    """Length of a longest common subsequence, by the textbook."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def random_pairs(n: int, length: int) -> list[tuple[list[str], list[str]]]:
    draw = random.Random(7)
    pairs = []
    for _ in range(n):
        letters = "abcdefghijklmnopqrst"[: draw.choice([2, 3, 8, 20])]
        a, b = ([draw.choice(letters) for _ in range(draw.randrange(length))] for _ in range(2))
        pairs.append((a, b))
    return pairs


def is_common(a: list[str], b: list[str]) -> int:
    """How many items are matched, if what is matched is the same in both, and in order."""
    i = j = n = 0
    for match in matches(a, b):
        assert match.left >= i and match.right >= j and match.n > 0
        i, j, n = match.left + match.n, match.right + match.n, n + match.n
        assert a[match.left : i] == b[match.right : j]
    return n


def test_small_sequences_have_a_longest_one_in_common() -> None:
    for a, b in random_pairs(400, 15):
        assert is_common(a, b) == longest(a, b), (a, b)


def test_large_ones_are_cut_where_something_stands_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS", 12)
    found = [(is_common(a, b), longest(a, b)) for a, b in random_pairs(400, 40)]
    assert all(n <= best for n, best in found)
    assert sum(n for n, _ in found) > sum(best for _, best in found) / 4
    a = [str(n) for n in range(300)]
    assert is_common(a, [*a[:100], "new", *a[150:]]) == 250
    a = list("abcdefgh" * 3 + "qrst" + "ab" * 20)
    assert is_common(a, list("ba" * 9 + "qrst" + "hg" * 9)) >= 4


def texts(found: Differences) -> tuple[str, str]:
    left, right = ("".join(p.text for block in found.blocks for p in block[side]) for side in (0, 1))
    return left, right


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("", ""),
        ("a\n", ""),
        ("one\ntwo three\nfour\n", "one\ntwo  3\nfour"),
        ("a\r\nb\u2028c\x0bd", "a\nb\u2029c d\x00"),
        ("\ud800 half", "half \udc00"),
        ("猫が好き", "犬が好き"),
        ("<b>" * 3000, "\n" * 3000),
        ("x" * 5000, "y" * 5000),
    ],
)
def test_both_texts_are_all_there(left: str, right: str) -> None:
    found = differences(left, right)
    assert texts(found) == (left, right)
    assert all(p.text for block in found.blocks for side in block[:2] for p in side)


def test_words_that_differ_are_marked() -> None:
    found = differences("The mill turns.\nIt is old, they say.\n", "The mill turns.\nIt is very old, he says.\n")
    same, differs = found.blocks
    assert same.same and not differs.same
    assert [p.text for p in differs.left if p.differs] == ["they say"]
    assert [p.text for p in differs.right if p.differs] == ["very ", "he says"]
    assert (found.common, found.words) == (6, (8, 9))
    assert [p.text for p in differences("猫が好き", "犬が好き").blocks[0].left if p.differs] == ["猫"]


def test_a_text_is_the_words_of_it() -> None:
    for text in ("a  b,c\n\nd", "x" * 1000, "ไทย 日本語 e\u0301"):
        assert "".join(words(text)) == text
    assert max(map(len, words("x" * 1000))) == 200


def test_hostile_texts_stay_within_the_budget() -> None:
    """Pairs that are compared exactly are counted: here nearly none are."""
    budget = module._Budget(1000)
    a, b = (list(text) for text in ("ab" * 5000, "ba" * 5000))
    module._matches(["x", *a, "y"], ["x", *b, "z"], budget)
    assert 0 <= budget.left <= 1000
