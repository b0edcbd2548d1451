"""The leaks that benchmarks/decontamination.py plants: the same each time, and each what its kind says."""

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import decontamination_leaks as leaks
from benchmarks.decontamination_leaks import leak, paraphrased, planted
from pipeline.dedup.normalise import words

ROOT = Path(__file__).resolve().parents[2]
QUIZ = {
    "benchmark": "tides",
    "item": "q/7",
    "question": 'Why does the "spring" tide near a harbour of 12,500 people rise more than a neap tide does?',
    "choices": ["The wind turns", "Sun and moon pull along one line", "Rivers swell", "Fish gather"],
    "answer": "Sun and moon pull along one line",
    "passage": None,
}
OPEN = {
    "benchmark": "sums",
    "item": "3",
    "question": "A baker sells nine rolls to each of four guests and keeps two. How many rolls were there at first?",
    "choices": [],
    "answer": "Nine times four is 36, and two more make 38.",
    "passage": "The bakery by the bridge opens at six.",
}
PAGE = "\n".join(f"Line {i} tells of boats, nets and the weather of that morning." for i in range(60))


def lines(text: str) -> list[str]:
    return text.split("\n")


def test_a_leak_is_a_function_of_seed_and_item():
    code = "import json, sys; from benchmarks.decontamination_leaks import KINDS, leak; "
    code += "print(json.dumps([leak(json.loads(sys.argv[1]), kind) for kind in KINDS]))"
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(QUIZ)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    here = [list(leak(QUIZ, kind)) for kind in leaks.KINDS]
    assert json.loads(run.stdout) == here == [list(leak(dict(QUIZ), kind)) for kind in leaks.KINDS]


def test_seeds_and_items_differ():
    assert len({leak(QUIZ, "reformatted", seed) for seed in range(20)}) > 15
    assert leaks.draw_of(1, "verbatim", QUIZ).random() != leaks.draw_of(1, "verbatim", OPEN).random()


def test_verbatim_prints_the_item_as_a_quiz_does():
    (text,) = leak(QUIZ, "verbatim")
    assert lines(text) == [
        QUIZ["question"],
        "A. The wind turns",
        "B. Sun and moon pull along one line",
        "C. Rivers swell",
        "D. Fish gather",
        "Answer: B. Sun and moon pull along one line",
    ]
    (text,) = leak(OPEN, "verbatim")
    assert lines(text) == [OPEN["passage"], OPEN["question"], f"Answer: {OPEN['answer']}"]


def test_a_program_goes_on_where_its_head_ends():
    item = {**OPEN, "passage": None, "question": "def double(n):", "answer": "return 2 * n"}
    assert leak(item, "verbatim") == ("def double(n):\n    return 2 * n",)


def test_reformatted_keeps_nearly_all_words_in_order():
    plain = words(" ".join([QUIZ["question"], *QUIZ["choices"]]))
    changed, kept = set(), []
    for seed in range(60):
        (text,) = leak(QUIZ, "reformatted", seed)
        found = words(text)
        at = 0
        for word in plain:
            if word in found[at:]:
                at = found.index(word, at) + 1
                kept.append(1)
            else:
                kept.append(0)
        changed.add(text)
    assert len(changed) > 50
    assert sum(kept) / len(kept) > 0.9


def test_reordered_has_the_same_choices_in_another_order():
    for seed in range(30):
        (text,) = leak(QUIZ, "reordered", seed)
        choices = [line[3:] for line in lines(text)[1:5]]
        assert choices != QUIZ["choices"]
        assert sorted(choices) == sorted(QUIZ["choices"])
        assert lines(text)[5] == "Answer: " + lines(text)[1 + choices.index(QUIZ["answer"])]


def test_no_order_without_choices():
    assert leak(OPEN, "reordered") is None
    assert leak({**QUIZ, "choices": ["same", "same"], "answer": "same"}, "reordered") is None


@pytest.mark.parametrize("strength", [12, 8, 5])
def test_paraphrased_changes_one_word_in_so_many(strength):
    long = {**OPEN, "question": " ".join(f"w{i}" for i in range(20 * strength)), "passage": None, "answer": None}
    for seed in range(10):
        found = paraphrased(long, strength, random.Random(seed))["question"].split()
        gone = 20 * strength - len(set(found) & set(long["question"].split()))
        swapped = sum(int(one[1:]) > int(next_[1:]) for one, next_ in pairwise(found) if one[0] == next_[0] == "w")
        assert gone + swapped == 20


def test_an_answer_that_is_a_choice_changes_with_it():
    for seed in range(30):
        item = paraphrased(QUIZ, 5, random.Random(seed))
        assert item["answer"] == item["choices"][1]


def test_question_has_no_answer():
    assert leak(QUIZ, "question") == (QUIZ["question"],)
    assert leak({**QUIZ, "question": ""}, "question") is None


def test_planted_stands_where_it_says():
    for kind in ("verbatim", "apart"):
        for seed in range(20):
            passages = leak(QUIZ, kind)
            page = planted(PAGE, passages, random.Random(seed))
            assert page.text[page.start : page.end] == passages[0]
            assert all(passage in page.text for passage in passages)
            assert words(page.text.replace(passages[0], "", 1).removesuffix(passages[-1])) == words(PAGE)


def test_the_answer_is_far_from_its_question():
    page = leaks.long_page([PAGE], random.Random(1), words=2 * leaks.APART)
    for seed in range(20):
        found = planted(page, leak(QUIZ, "apart"), random.Random(seed))
        assert len(found.text[found.end : found.text.rindex("Answer: ")].split()) >= leaks.APART


def test_long_pages_are_long():
    assert (
        leaks.LONG_PAGE <= len(leaks.long_page([PAGE, PAGE.upper()], random.Random(3)).split()) < leaks.LONG_PAGE + 1000
    )


def test_unknown_kind():
    with pytest.raises(KeyError):
        leak(QUIZ, "sung")
