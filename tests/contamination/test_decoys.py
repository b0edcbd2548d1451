from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.contamination.benchmark import ITEMS, Benchmark, load_items
from pipeline.contamination.decoys import decoys

NOUNS = ["owl", "fox", "river", "tower", "garden", "engine", "letter", "island", "window", "market"]
VERBS = ["crosses", "watches", "leaves", "finds", "paints", "carries", "follows", "opens", "repairs", "describes"]


def sentence(n: int, length: int) -> str:
    """Words that stand in this order in no other sentence."""
    return " ".join(
        f"{(NOUNS if k % 2 else VERBS)[(n * 7 + k * (n + 3)) % 10]}{n if k % 3 == 0 else ''}" for k in range(length)
    )


def item(name: str, n: int, question: str, **fields: Any) -> dict[str, Any]:
    empty = {"task": "t", "doc": n, "choices": [], "answer": None, "passage": None, "decoy": False}
    return {"benchmark": name, "item": str(n), "question": question, **empty, **fields}


def bench(name: str, count: int, length: int = 20) -> list[dict[str, Any]]:
    return [
        item(
            name, n, sentence(n, length + n % 5), choices=[f"choice {n} {k}" for k in range(4)], answer=f"choice {n} 2",
            passage=sentence(1000 + n, 60),
        )
        for n in range(count)
    ]  # fmt: skip


def table(*items: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([row for part in items for row in part], schema=ITEMS)


def phrases(text: str, size: int = 4) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[k : k + size]) for k in range(len(words) - size + 1)}


def test_decoys_have_the_shape_of_items_and_are_told_from_them() -> None:
    items = bench("birds", 40)
    made = decoys(table(items), 30)
    assert made.schema == ITEMS
    rows = made.to_pylist()
    assert [row["item"] for row in rows] == [f"decoy-{n}" for n in range(30)]
    words = {word for row in items for word in row["question"].split()}
    choices = {choice for row in items for choice in row["choices"]}
    for row in rows:
        assert row["decoy"] and row["benchmark"] == "birds" and row["task"] is None and row["doc"] is None
        assert 15 <= len(row["question"].split()) <= 30 and set(row["question"].split()) <= words
        assert len(row["choices"]) == 4 and set(row["choices"]) <= choices and row["answer"] == row["choices"][2]
        assert 50 <= len(row["passage"].split()) <= 70
    lengths = [len(row["question"].split()) for row in rows]
    assert abs(sum(lengths) / len(lengths) - 22) < 2


def test_no_decoy_has_more_than_half_of_an_item() -> None:
    items = bench("birds", 60)
    for decoy in decoys(table(items), 60).to_pylist():
        for field in ("question", "passage"):
            found = phrases(decoy[field])
            assert max(len(phrases(row[field]) & found) / len(phrases(row[field])) for row in items) <= 0.5


def test_items_that_repeat_each_other_do_not_come_back_through_their_copies() -> None:
    twins = [item("twins", n, f"{sentence(n // 12, 24)} number {n}") for n in range(120)]
    made = decoys(table(twins), 40).to_pylist()
    assert made
    for decoy in made:
        found = phrases(decoy["question"])
        assert max(len(phrases(row["question"]) & found) / len(phrases(row["question"])) for row in twins) <= 0.5


def test_all_items_alike_make_no_decoys() -> None:
    assert decoys(table([item("same", n, sentence(0, 24)) for n in range(50)]), 10).num_rows == 0
    assert decoys(table([item("one", 0, sentence(0, 24))]), 10).num_rows == 0
    assert decoys(table([item("empty", n, "") for n in range(50)]), 10).num_rows == 0
    assert decoys(table(), 10).num_rows == 0


def test_decoys_depend_on_contents_and_seed_and_not_on_order() -> None:
    items = [*bench("birds", 40), *bench("fish", 20)]
    made = decoys(table(items), 12)
    assert decoys(table(items[::-1]), 12) == made
    assert decoys(table(items), 12, seed=1) != made
    assert decoys(pa.concat_tables([table(items), made]), 12) == made


def test_decoys_are_shared_out_by_the_sizes_of_the_benchmarks() -> None:
    made = decoys(table(bench("birds", 60), bench("fish", 30), bench("sums", 10)), 21)
    assert Counter(made["benchmark"].to_pylist()) == {"birds": 13, "fish": 6, "sums": 2}


def test_one_item_shapes_several_decoys_where_more_are_asked_for_than_there_are() -> None:
    questions = decoys(table(bench("birds", 30)), 50)["question"].to_pylist()
    assert len(set(questions)) == 50


def test_short_items_are_mixed_by_their_words() -> None:
    short = [item("short", n, f"{VERBS[n % 10]} {NOUNS[n // 10]} {n}") for n in range(100)]
    made = decoys(table(short), 20).to_pylist()
    assert len(made) == 20
    assert not {row["question"] for row in made} & {row["question"] for row in short}
    assert all(len(row["question"].split()) == 3 for row in made)


def test_scripts_without_spaces_are_cut_by_character_and_keep_their_spacing() -> None:
    signs = [chr(0x4E00 + k) for k in range(2000)]
    texts = ["".join(signs[(n * 37 + k * k) % 2000] for k in range(30)) + "。" for n in range(40)]
    made = decoys(table([item("zh", n, text) for n, text in enumerate(texts)]), 20).to_pylist()
    assert len(made) == 20
    for row in made:
        assert " " not in row["question"] and 25 <= len(row["question"]) <= 35
        assert not any(row["question"][k : k + 10] in text for text in texts for k in range(len(row["question"]) - 9))


def test_line_ends_and_indents_of_code_stay() -> None:
    code = [
        f"def name{n}(first{n}, second{n}):\n    return first{n} + second{n} - {n} * 2\n    # end {n} of it"
        for n in range(30)
    ]
    made = decoys(table([item("code", n, text) for n, text in enumerate(code)]), 10).to_pylist()
    assert made and all("\n    return" in row["question"] for row in made)


@pytest.mark.parametrize(
    ("name", "file"),
    [("bbh", "bbh"), ("svamp", "svamp"), ("xquad@nested", "xquad_en"), ("openbookqa@llm_adapters", "openbookqa_test")],
)
def test_real_benchmarks_give_as_many_decoys_as_asked_and_none_is_an_item(
    shared_data: Callable[[str], Path], name: str, file: str
) -> None:
    path = str(shared_data(f"labelled/bench/{file}.jsonl.gz"))
    items = load_items([Benchmark.model_validate({"set": name, "path": path})])
    made = decoys(items, 100).to_pylist()
    assert len(made) == 100
    real = items.to_pylist()
    shared = Counter(phrase for row in real for phrase in phrases(row["question"]))
    for row in real:
        own = {phrase for phrase in phrases(row["question"]) if shared[phrase] <= 100}
        for decoy in made if own else []:
            assert len(own & phrases(decoy["question"])) <= len(own) / 2, (row["question"], decoy["question"])
