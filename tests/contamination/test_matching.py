import re
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.contamination.benchmark import ITEMS
from pipeline.contamination.index import GramIndex, folded, places
from pipeline.contamination.kernel import UNIT
from pipeline.contamination.matching import FOUND, MATCHES, Matching, find, grams, judge
from pipeline.errors import StorageError

NGRAM = Matching(mode="ngram")


def items_of(*rows):
    """Items by question alone, or by what a dictionary says of them."""
    named = [row if isinstance(row, dict) else {"question": row} for row in rows]
    plain = {"task": None, "doc": None, "choices": [], "answer": None, "passage": None, "decoy": False, "question": ""}
    full = [{**plain, "benchmark": "set", "item": str(i), **row} for i, row in enumerate(named)]
    return pa.Table.from_pylist(full, ITEMS)


def index_of(*rows, ngram=(8, 13)):
    return GramIndex.build(items_of(*rows), ngram)


def texts(*values):
    return pa.array(values, pa.string())


def found_in(index, *values, options=NGRAM, common=()):
    matches = find(texts(*values), index)
    return judge(matches, index, options, np.array(common, np.uint64)).to_pylist()


def words_of(text):
    """The words of a text without labels, in plain Python."""
    return [word for word in re.split(r" +", "".join(map(folded, text))) if word]


def weighed(index):
    return index.items.column("weight").to_pylist()


# ---- words


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Don't stop", "don’t STOP"),
        ("dont", "don't"),
        ("Café Ünïon", "cafe union"),
        ("cafe\u0301", "café"),
        ("ＡＢＣ１２３", "abc123"),
        ("A. gray (b) warm C) long [D] soft", "gray warm long soft"),
        ("1. one\n 2) two\n- 3. three", "one two three"),
        ("* one\n• two", "one two"),
        ("the differ-\nence", "the difference"),
        ("costs 1,234,567 or 2\u202f000", "costs 1234567 or 2000"),
        ("salt &amp; pepper&nbsp;&amp;nbsp;&#160;mill", "salt pepper mill"),
        ("so\u00adft z\u200bero", "soft zero"),
        ("**bold** _under_ `code`", "bold under code"),
        ("ΣΊΣΥΦΟΣ", "σισυφος"),
    ],
)
def test_formatting_makes_no_other_words(left, right):
    assert places(left)[0].tolist() == places(right)[0].tolist()
    assert len(places(right)[0]) == len(right.split())


@pytest.mark.parametrize(
    ("left", "right"),
    [("a cat", "cat"), ("is 1. one", "is one"), ("x) y", "y"), ("1,23", "123"), ("a b", "ab"), ("a, b", "b")],
)
def test_other_words_stay_apart(left, right):
    assert places(left)[0].tolist() != places(right)[0].tolist()


def test_a_character_is_a_word_without_spaces():
    text = "😀日本語 ไทย abc"
    _, starts, ends = places(text)
    assert [text[a:b] for a, b in zip(starts, ends, strict=True)] == ["日", "本", "語", "ไ", "ท", "ย", "abc"]


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters=".):],;&-\u00a0\u2009\u202f"), max_size=200))
def test_words_are_those_of_plain_python(text):
    hashes, starts, ends = places(text)
    known = {}
    found = [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    plain = "".join(" " + c + " " if len(places(c + c)[0]) == 2 else folded(c) for c in text)
    expected = [word for word in plain.split(" ") if word]
    assert len(found) == len(expected)
    for value, word in zip(hashes.tolist(), expected, strict=True):
        folding = "".join(folded(c) for c in word)
        assert known.setdefault(folding, value) == value
    assert list(starts) == sorted(starts)


# ---- N-grams against an oracle

LETTERS = st.sampled_from(["ka", "lo", "mi", "nu"])
LINES = st.lists(LETTERS, max_size=30).map(" ".join)
ITEM = st.fixed_dictionaries({"question": LINES, "choices": st.lists(LINES, max_size=3), "answer": st.none() | LINES})


def ngrams(words, n):
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def oracle(item, n, page):
    """The N-grams of an item that stand in a page."""
    question = item["question"].split() + " ".join(item["choices"]).split()
    answer = (item["answer"] or "").split()
    if answer in [choice.split() for choice in item["choices"]]:
        answer = []
    return (ngrams(question, n) | ngrams(answer, n)) & ngrams(page.split(), n)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ITEM, min_size=1, max_size=5), st.lists(LINES, min_size=1, max_size=3), st.data())
def test_ngrams_are_those_of_plain_python(rows, pages, data):
    # Half of the pages quote items, or none would ever be found.
    quoted = [" ".join([page, row["question"], *row["choices"]]) for page, row in zip(pages, rows, strict=False)]
    index = index_of(*rows)
    matches = find(texts(*pages, *quoted), index)
    status, ns = (index.items.column(name).to_pylist() for name in ("status", "n"))
    expected = {
        (row, i): grams_in
        for row, page in enumerate(pages + quoted)
        for i, item in enumerate(rows)
        if status[i] == "ok" and (grams_in := oracle(item, ns[i], page))
    }
    found = judge(matches, index, NGRAM)
    assert list(zip(found["row"].to_pylist(), found["item"].to_pylist(), strict=True)) == sorted(expected)
    of_rows = {}
    for (row, _), grams_in in expected.items():
        of_rows.setdefault(row, set()).update(grams_in)
    counted = {}
    for row in grams(matches, index).column("row").to_pylist():
        counted[row] = counted.get(row, 0) + 1
    assert counted == {row: len(grams_in) for row, grams_in in of_rows.items()}
    # What all of the grams are common in is not found.
    values = np.unique(grams(matches, index).column("gram").to_numpy())
    assert judge(matches, index, NGRAM, values).num_rows == 0
    if len(values):
        kept = data.draw(st.sampled_from(values.tolist()))
        some = judge(matches, index, NGRAM, values[values != kept])
        held = grams(matches, index).to_pylist()
        assert set(some["row"].to_pylist()) == {row["row"] for row in held if row["gram"] == kept}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["日", "本", "é", "😀 x", "ไท", "word", "e\u0301", "𝔘n", "it’s"]), min_size=8, max_size=20)
)
def test_places_are_characters_of_the_text(pieces):
    question = " ".join(pieces)
    index = index_of(question)
    text = f"😀 先 — {question} … 後"
    for run in find(texts(text), index).column("runs").to_pylist()[0]:
        words = places(question)[0][run["at"] : run["at"] + run["words"]]
        assert places(text[run["start"] : run["end"]])[0].tolist() == words.tolist()


# ---- items and their status

LONG = "which of these rivers flows north through seven provinces before it meets the sea at Vellmar"


def test_every_item_has_a_status():
    index = index_of(
        LONG,
        {"question": "", "choices": ["...", ""], "answer": "?"},
        "what is this thing",
        {"question": LONG.upper() + "?", "benchmark": "other", "item": "x"},
        {"question": "", "passage": "all there is of this item is a passage of some words"},
        {"question": "2 + 2", "answer": "four it is because two and two make four"},
    )
    table = index.items.to_pylist()
    assert [row["status"] for row in table] == ["ok", "empty", "short", "duplicate", "ok", "ok"]
    assert [row["duplicate_of"] for row in table] == [None, None, None, "set/0", None, None]
    assert [row["n_words"] for row in table] == [16, 0, 4, 16, 12, 9]
    assert [bool(row["weight"]) for row in table] == [True, False, True, False, True, True]
    assert [row["n_grams"] for row in table][:3] == [9, 0, 0]


@pytest.mark.parametrize(("lengths", "n"), [([20] * 20, 13), ([6] * 3 + [20] * 20, 8), ([10] * 20, 10), ([3], 8)])
def test_n_is_the_fifth_percentile_of_the_benchmark(lengths, n):
    rows = [" ".join(f"w{i}x{j}" for j in range(length)) for i, length in enumerate(lengths)]
    assert index_of(*rows).items.column("n").to_pylist()[-1] == n


def test_grams_that_items_share_are_counted():
    head = "a long head that all the items of a template have in common"
    index = index_of(f"{head} apples", f"{head} pears", "no word of this one is in any of the others here")
    shared = [row["n_shared"] for row in index.items.to_pylist()]
    assert shared[0] == shared[1] > 0 == shared[2]
    assert [row["n_grams"] - row["n_shared"] for row in index.items.to_pylist()][:2] == [1, 1]


def test_words_of_many_items_weigh_little():
    rows = [f"what is the colour of the thing called name{i} in the book of title{i}" for i in range(200)]
    index = index_of(*rows)
    words, weights = index.arrays[0], index.arrays[1]
    nats = dict(zip(words.tolist(), (weights / UNIT).tolist(), strict=True))
    common, rare = (nats[int(places(word)[0][0])] for word in ("colour", "name7"))
    assert common < 0.01 and rare == pytest.approx(np.log(10_000), abs=0.01)


def test_no_items_find_nothing():
    index = index_of()
    assert index.items.num_rows == 0
    matches = find(texts("some text", None, ""), index)
    assert matches.num_rows == grams(matches, index).num_rows == judge(matches, index, Matching()).num_rows == 0
    assert matches.schema == MATCHES and judge(matches, index, Matching()).schema == FOUND


# ---- mode idf

FILLER = " ".join(f"filler{i}" for i in range(400))
CHOICES = ["a quiet harbour town", "an old lighthouse", "three fishing boats", "the northern pier"]
ASKED = {"question": "What did Marguerite Halloway paint last?", "choices": CHOICES, "answer": CHOICES[1]}


def crowd(*rows):
    """Items among a hundred others, so that words have weights."""
    others = [
        f"what did person{i} do last in the town of place{i} with a boat and an old friend named name{i}"
        for i in range(100)
    ]
    return index_of(*rows, *others)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
def test_choices_may_stand_in_any_order(order):
    listed = "\n".join(f"({'abcd'[i]}) {CHOICES[c]}" for i, c in enumerate(order))
    text = f"{FILLER}\n12. {ASKED['question']}\n{listed}\n{FILLER}"
    (found,) = found_in(crowd(ASKED), text, options=Matching())
    assert (found["item"], found["question"], found["answer"]) == (0, 1, 1)
    assert text[found["start"] :].startswith("What did Marguerite")
    assert text[: found["end"]].endswith(CHOICES[order[-1]])


def test_a_passage_alone_is_no_contamination():
    passage = " ".join(f"passage{i}" for i in range(60))
    item = {"question": "Where does the third passage of it stand?", "answer": "behind passage2", "passage": passage}
    index = crowd(item)
    assert found_in(index, f"{FILLER} {passage} {FILLER}", options=Matching()) == []
    assert found_in(index, f"{FILLER} {passage} {FILLER}") == []
    (found,) = found_in(index, f"{passage}\n{item['question']}\n{FILLER}", options=Matching())
    assert found["passage"] == found["question"] == 1
    assert found["start"] == 0


def test_a_question_that_anyone_asks_needs_its_choices():
    rows = [
        {"question": "Which of the following is true of it?", "choices": [f"only{i}", f"never{i}"]} for i in range(50)
    ]
    index = crowd(*rows)
    assert found_in(index, f"{FILLER} which of the following is true of it {FILLER}", options=Matching()) == []


def test_light_edits_leave_a_long_question():
    question = " ".join(f"word{i}" for i in range(40))
    edited = " ".join(f"word{i}" if i % 8 else "other" for i in range(40))
    (found,) = found_in(crowd(question), f"{FILLER} {edited} {FILLER}", options=Matching())
    assert 0.8 < found["question"] < 0.95


def test_siblings_lose_to_the_best():
    template = "the bus from {} to {} leaves the old station of the city every twenty minutes on weekdays and sundays"
    rows = [template.format(f"start{i}", f"goal{i}") for i in range(30)]
    found = found_in(index_of(*rows), f"{FILLER} {rows[7]} {FILLER}", options=Matching())
    assert [row["item"] for row in found] == [7]


def test_every_place_is_a_span():
    question = " ".join(f"word{i}" for i in range(20))
    text = f"{question} {FILLER} {question} {FILLER} {question}"
    for options in (Matching(), NGRAM):
        (found,) = found_in(crowd(question), text, options=options)
        assert [text[s["start"] : s["end"]] for s in found["spans"]] == [question] * 3


def test_decoys_are_found_like_items():
    index = index_of({"question": LONG, "decoy": True}, "some other item of ten words that is here too")
    assert [row["item"] for row in found_in(index, f"{FILLER} {LONG}")] == [0]


# ---- bad input


def test_a_page_of_one_gram_takes_no_square():
    row = "again " * 30
    index = index_of(row, *(f"again again again again again again again again {i}" for i in range(100)))
    (first, *_) = found_in(index, "again " * 200_000)
    assert first["start"] == 0 and first["end"] > 100_000


def test_one_item_ten_thousand_times():
    (found,) = found_in(crowd(LONG), f"{LONG} ; " * 10_000)
    assert found["score"] == 1 and found["end"] == len(f"{LONG} ; ") * 10_000 - 3


def test_a_hundred_thousand_equal_items():
    index = index_of(*[LONG] * 100_000)
    assert [row["item"] for row in found_in(index, f"{FILLER} {LONG}")] == [0]
    assert index.items.column("status").to_pylist().count("duplicate") == 99_999


def test_a_very_long_item():
    question = " ".join(f"{i}th" for i in range(150_000))
    (found,) = found_in(crowd(question), f"{FILLER} {question} {FILLER}", options=Matching())
    assert found["question"] == 1


def test_nulls_and_empty_texts():
    index = index_of(LONG)
    rows = texts(None, "", " \n", LONG, None)
    assert find(rows, index).column("row").to_pylist() == [3]
    assert find(rows.slice(2), index).column("row").to_pylist() == [1]
    assert find(pa.chunked_array([rows, rows]), index).column("row").to_pylist() == [3, 8]


def test_rows_do_not_touch_each_other():
    rows = [LONG, FILLER, ASKED["question"] + " " + " ".join(CHOICES), f"{FILLER} {LONG}", LONG[:50]] * 3
    index = crowd(LONG, ASKED)
    together = find(texts(*rows), index).to_pylist()
    alone = [{**match, "row": i} for i, row in enumerate(rows) for match in find(texts(row), index).to_pylist()]
    assert together == alone


# ---- the file


def test_a_file_is_the_index(tmp_path):
    index = crowd(ASKED, LONG, {"question": LONG, "decoy": True})
    index.write(tmp_path / "grams.arrow")
    opened = GramIndex.open(tmp_path / "grams.arrow")
    assert opened.items.equals(index.items) and opened.n_bytes == index.n_bytes
    rows = texts(LONG, ASKED["question"] + " ".join(CHOICES), FILLER)
    assert find(rows, opened).equals(find(rows, index))
    again = crowd(ASKED, LONG, {"question": LONG, "decoy": True})
    again.write(tmp_path / "again.arrow")
    assert (tmp_path / "grams.arrow").read_bytes() == (tmp_path / "again.arrow").read_bytes()
    index_of().write(tmp_path / "none.arrow")
    assert GramIndex.open(tmp_path / "none.arrow").items.num_rows == 0


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "grams.arrow"
    crowd(LONG).write(path)
    whole = path.read_bytes()
    middle = whole.index(struct.pack("<I", int(places("vellmar")[0][0])))
    damaged = [whole[:-20], whole[: len(whole) // 2], b"", b"ARROW1\0\0" + bytes(100)]
    damaged.append(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(StorageError) as error:
            GramIndex.open(path)
        assert "\n" not in str(error.value)
    table = pa.table({"a": [1]})
    with pa.ipc.new_file(str(path), table.schema) as out:
        out.write_table(table)
    with pytest.raises(StorageError, match="no index"):
        GramIndex.open(path)
    with pytest.raises(StorageError, match="cannot read"):
        GramIndex.open(tmp_path / "missing")
    with pytest.raises(StorageError, match="cannot write"):
        crowd(LONG).write(tmp_path / "missing" / "grams.arrow")
