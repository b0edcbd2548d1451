import gzip
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dedup import local
from pipeline.dedup.local import deduplicate, read_texts, repeated_lines, without
from pipeline.dedup.lookup import NearDuplicates
from pipeline.dedup.minhash import MinHasher
from pipeline.dedup.normalise import words
from pipeline.errors import InputError


def sentence(seed: int, n: int = 120) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(n)]


def changed(words: list[str], *places: int) -> str:
    return " ".join("changed" if k in places else word for k, word in enumerate(words))


def jaccard(left: str, right: str, n: int = 5) -> float:
    a, b = (set(zip(*(text.split()[k:] for k in range(n)), strict=False)) for text in (left, right))
    return len(a & b) / len(a | b)


def test_equal_texts_and_near_ones_find_their_keeper():
    base, other = sentence(1), sentence(2)
    texts = [" ".join(base), " ".join(other), changed(base, 60), "  " + " ".join(base).upper() + "!", changed(other, 7)]
    found = deduplicate(texts)
    assert found.size.tolist() == [3, 2, 3, 3, 2]
    assert len(set(found.cluster.tolist())) == 2
    assert len(found.kept) == 2
    for row, keeper in enumerate(found.keeper):
        normal = [text.lower().strip(" !") for text in (texts[row], texts[keeper])]
        assert found.similarity[row] == pytest.approx(jaccard(*normal))


def test_similarity_is_a_bound_on_pairs():
    base = sentence(3)
    texts = [" ".join(base), changed(base, 30, 60, 90)]  # 15 n-grams of 116 go and come: 101 / 131
    true = jaccard(*texts)
    assert true == pytest.approx(101 / 131)
    assert len(deduplicate(texts, similarity=true - 1e-6).kept) == 1
    assert len(deduplicate(texts, similarity=true + 1e-6).kept) == 2


def test_the_result_does_not_depend_on_the_order_of_texts():
    texts = [changed(sentence(seed), *places) for seed in range(6) for places in ((), (5,), (50, 51), (10, 90), (5,))]
    texts += ["", "One", "one", "ONE.", "two", "", " ".join(sentence(0)).title()]
    expected: set[tuple[object, ...]] | None = None
    for seed in range(5):
        order = list(range(len(texts)))
        random.Random(seed).shuffle(order)
        found = deduplicate([texts[k] for k in order])
        result = {
            (texts[order[row]], texts[order[keeper]], int(cluster), int(size), float(similarity))
            for row, (keeper, cluster, size, similarity) in enumerate(zip(*found, strict=True))
        }
        assert len(found.kept) == 6 + 2 + 2  # two texts without a word
        expected = expected or result
        assert result == expected


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch):
    texts = [changed(sentence(seed), *places) + "\nfooter" for seed in range(5) for places in ((), (5,), (50, 51))] + [
        ""
    ]
    whole, spans = deduplicate(texts), repeated_lines(texts, 3)
    for most, large in ((1, 1 << 20), (4, 1 << 20), (100, 1), (100, 2000)):
        monkeypatch.setattr(local, "BATCH", most)
        monkeypatch.setattr(local, "LARGE", large)
        for column, expected in zip(deduplicate(texts), whole, strict=True):
            assert column.tolist() == expected.tolist()
        assert [column.tolist() for column in repeated_lines(texts, 3)] == [column.tolist() for column in spans]
        assert all("footer" not in text for text in without(texts, spans).to_pylist())


def test_an_order_says_which_text_is_kept():
    base = sentence(4)
    texts = [" ".join(base), changed(base, 3), changed(base, 70)]
    for best in range(3):
        assert deduplicate(texts, order=[int(row != best) for row in range(3)]).kept.tolist() == [best]
    with pytest.raises(ValueError, match="2 numbers"):
        deduplicate(texts, order=[1, 2])
    with pytest.raises(ValueError, match="NaN"):
        deduplicate(texts, order=[1, 2, float("nan")])


def test_texts_without_a_word_are_duplicates_of_nothing():
    found = deduplicate(["", "", None, " \n", "!?", "word", "Word", "words"])
    assert found.keeper[:5].tolist() == [0, 1, 2, 3, 4]
    assert found.size.tolist() == [1, 1, 1, 1, 1, 2, 2, 1]
    assert found.keeper[5] == found.keeper[6]
    assert found.keeper[7] == 7


def test_no_texts():
    found = deduplicate([])
    assert [len(column) for column in found] == [0, 0, 0, 0]
    assert len(found.kept) == 0
    assert len(repeated_lines([], 1).rows) == 0
    assert len(without([], repeated_lines([], 1))) == 0


def test_parameters_out_of_range():
    with pytest.raises(ValueError, match="similarity"):
        deduplicate(["a"], similarity=1.5)
    with pytest.raises(ValueError, match="positive"):
        deduplicate(["a"], bands=0)
    with pytest.raises(TypeError, match="not one text"):
        deduplicate("one text")


def test_ten_thousand_copies_of_one_text():
    base = sentence(5)
    found = deduplicate([" ".join(base)] * 10_000 + [" ".join(sentence(6))])
    assert len(found.kept) == 2
    assert found.size[0] == 10_000
    many = [changed(base, k % 120) for k in range(10_000)]  # 120 different ones, each with one word of its own
    assert set(deduplicate(many).size.tolist()) == {10_000}


def test_half_surrogates_and_arrow_arrays():
    texts = ["one\ud800 two three", " ".join(sentence(7)), " ".join(sentence(7))]
    assert deduplicate(texts).size.tolist() == [1, 2, 2]
    array = pa.array(texts[1:])
    assert deduplicate(array).size.tolist() == [2, 2]
    assert deduplicate(pa.chunked_array([array, array])).size.tolist() == [4, 4, 4, 4]
    assert deduplicate(array.slice(1)).size.tolist() == [1]


def test_chinese_texts_have_a_word_a_character():
    draw = random.Random(8)
    base = [chr(draw.randint(0x4E00, 0x9000)) for _ in range(150)]
    near = [*base[:70], "的", *base[71:]]
    other = [chr(draw.randint(0x4E00, 0x9000)) for _ in range(150)]
    found = deduplicate(["".join(base), "".join(near), "".join(other)])
    assert found.size.tolist() == [2, 2, 1]
    assert found.similarity.min() == pytest.approx(141 / 151)


@pytest.mark.parametrize("size", [100, 1000])
def test_planted_pairs_of_real_news_are_found_and_nothing_else(shared_data: Callable[[str], Path], size: int):
    folder = shared_data("labelled/neardup")
    with gzip.open(folder / f"articles_{size}.train.gz", "rt") as lines:
        ids, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    with gzip.open(folder / f"articles_{size}.truth.gz", "rt") as lines:
        truth = {frozenset(line.split()) for line in lines}
    found = deduplicate(texts)
    pairs = {frozenset((ids[row], ids[keeper])) for row, keeper in enumerate(found.keeper) if row != keeper}
    assert pairs == truth


def test_news_of_one_story_are_found_where_their_words_are_the_same(shared_data: Callable[[str], Path]):
    with gzip.open(shared_data("labelled/neardup") / "scoop_news.jsonl.gz", "rt") as lines:
        items = [json.loads(line) for line in lines]
    texts = [f"{item['title']}\n{item['item'].get('body_text') or ''}" for item in items]
    stories = [item["story_gt_id"] for item in items]
    keeper = deduplicate(texts).keeper
    grams = [set(zip(*(words(text)[k:] for k in range(5)), strict=False)) for text in texts]
    found = missed = 0
    for a, b in itertools.combinations(range(len(texts)), 2):
        if keeper[a] == keeper[b]:
            assert stories[a] == stories[b]
            found += 1
        elif stories[a] == stories[b]:  # told in other words, which is not for n-grams to see
            assert len(grams[a] & grams[b]) < 0.5 * len(grams[a] | grams[b])
            missed += 1
    assert (found, missed) == (73, 20)


def test_repeated_lines_are_counted_over_different_texts():
    texts = [f"Home | About\n{' '.join(sentence(seed))}\nHOME | about!" for seed in range(4)]
    assert len(repeated_lines(texts, 4).rows) == 0
    spans = repeated_lines(texts, 3)
    assert list(zip(spans.rows.tolist(), spans.starts.tolist(), strict=True))[:2] == [(0, 0), (0, len(texts[0]) - 13)]
    assert without(texts, spans).to_pylist() == [" ".join(sentence(seed)) + "\n" for seed in range(4)]
    assert len(repeated_lines(texts, 3, min_words=3).rows) == 0
    assert len(repeated_lines(texts[:1] * 9, 3).rows) == 0  # copies of one text


def test_cuts_in_texts_with_wide_characters():
    texts = [f"菜单 😀\n{k} é" for k in "abc"]
    assert without(texts, repeated_lines(texts, 2)).to_pylist() == ["a é", "b é", "c é"]


def test_reads_folders_lines_and_tables(tmp_path: Path):
    (tmp_path / "b.txt").write_text("two\nlines", encoding="utf-8")
    (tmp_path / "a.txt").write_text("\ufeffone", encoding="utf-8")
    found = read_texts(tmp_path)
    assert found.texts.to_pylist() == ["one", "two\nlines"]
    assert [Path(name).name for name in found.names] == ["a.txt", "b.txt"]
    lines = read_texts(tmp_path / "b.txt")
    assert (lines.texts.to_pylist(), lines.names[1]) == (["two", "lines"], f"{tmp_path / 'b.txt'}:2")
    for name, opener in (("c.jsonl", open), ("d.jsonl.gz", gzip.open)):
        with opener(tmp_path / name, "wt", encoding="utf-8") as file:
            file.write(json.dumps({"text": "x"}) + "\n\n" + json.dumps({"text": None}) + "\n")
        assert read_texts(tmp_path / name).texts.to_pylist() == ["x", None]
    pq.write_table(pa.table({"body": ["p", "q"]}), tmp_path / "e.parquet")
    assert read_texts(tmp_path / "e.parquet", field="body").texts.to_pylist() == ["p", "q"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "line 2: no field 'text'; there are body"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: field 'text' is not a text"),
        ("a.jsonl", b"[1]\n", "line 1: not an object"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1: not UTF-8"),
        ("a.jsonl.gz", b"no gzip", "after line 0"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9)[:-12], "after line"),
        ("a.parquet", b"no parquet", "not a Parquet file"),
        ("a.csv", b"x", "ends in none of"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / name)


def test_says_what_is_wrong_with_tables_and_folders(tmp_path: Path):
    pq.write_table(pa.table({"body": ["p"], "n": [1]}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match="no column 'text'; there are body, n"):
        read_texts(tmp_path / "e.parquet")
    with pytest.raises(InputError, match="'n' holds int64"):
        read_texts(tmp_path / "e.parquet", field="n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        read_texts(tmp_path / "empty")
    with pytest.raises(InputError, match="no such file"):
        read_texts(tmp_path / "absent")


def test_look_up_gives_the_most_similar_first():
    base = sentence(9)
    texts = [
        " ".join(base),
        changed(base, 40),
        changed(base, 20, 40, 80, 100),
        " ".join(sentence(10)),
        "",
        changed(base, 40),
    ]
    signatures = MinHasher().sketch(pa.array(texts)).signatures
    index = NearDuplicates(["b", "c", "d", "e", "f", "a"], signatures, 14, 8)
    found = index.similar(signatures[1])
    assert [name for name, _ in found] == ["a", "c", "b", "d"]
    assert found[0][1] == 1
    assert found[2][1] == pytest.approx(jaccard(texts[0], texts[1]), abs=0.1)
    assert index.similar(signatures[1], least=0.999) == [("a", 1.0), ("c", 1.0)]
    assert index.similar(signatures[4]) == []
    assert NearDuplicates([], signatures[:0], 14, 8).similar(signatures[0]) == []
    with pytest.raises(ValueError, match="bands"):
        NearDuplicates(["b"], signatures[:1], 15, 8)
    with pytest.raises(ValueError, match="shape"):
        index.similar(np.zeros(5, np.uint32))
