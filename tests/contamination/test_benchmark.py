import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from pipeline.contamination.benchmark import ITEMS, Benchmark, descriptions, digest, load_benchmarks, load_items
from pipeline.errors import RecipeError

ROWS: list[dict[str, Any]] = [
    {"q": "Which of these floats on water?", "options": ["cork", "lead"], "right": 0},
    {"q": "Which of these sinks in water?", "options": ["cork", "lead"], "right": 1},
]
OWN = {"name": "own", "question": "q", "choices": "options", "answer": "right", "answer_is": "index"}


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(**keys: Any) -> list[dict[str, Any]]:
    return load_items([Benchmark.model_validate(keys)]).to_pylist()


def refused(**keys: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load(**keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- formats


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


@pytest.mark.parametrize(
    "name", ["s.jsonl", "s.ndjson", "s.jsonl.gz", "s.jsonl.zst", "s.json", "s.json.gz", "s.parquet"]
)
def test_every_format_gives_the_same_items(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "s.parquet":
        pq.write_table(table(), path)
    else:
        text = json.dumps(ROWS) if ".json" in name and "jsonl" not in name else "\n".join(map(json.dumps, ROWS))
        pack: Callable[[bytes], bytes] = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(text.encode()))
    items = load(**OWN, path=str(path))
    assert [item["answer"] for item in items] == ["cork", "lead"]
    assert items[1] == {
        "benchmark": "own", "item": "1", "task": None, "doc": None, "question": "Which of these sinks in water?",
        "choices": ["cork", "lead"], "answer": "lead", "passage": None, "decoy": False,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "mark"), [("s.csv", ","), ("s.tsv", "\t"), ("s.csv.gz", ","), ("s.csv.zst", ",")])
def test_separated_values_with_quotes_line_ends_and_a_byte_order_mark(tmp_path: Path, name: str, mark: str) -> None:
    path = tmp_path / name
    text = (
        mark.join(["q", "a", "b", "right"])
        + "\r\n"
        + mark.join(['"two\nlines, ""said"" he"', "x", "0,1", "B"])
        + "\r\n"
    )
    pack: Callable[[bytes], bytes] = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(text.replace("0,1", '"0,1"').encode("utf-8-sig")))
    (item,) = load(name="t", path=str(path), question="q", choices=["a", "b"], answer="right", answer_is="letter")
    assert (item["question"], item["choices"], item["answer"]) == ('two\nlines, "said" he', ["x", "0,1"], "0,1")


def test_a_table_without_a_header_is_read_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "birds_test.csv"
    path.write_text("What flies?,stone,owl,sea,tree,B\nWhat is wet?,stone,owl,sea,tree,C\n")
    items = load(set="mmlu@csv", path=str(path))
    assert [(item["task"], item["doc"], item["answer"]) for item in items] == [
        ("mmlu_birds", 0, "owl"),
        ("mmlu_birds", 1, "sea"),
    ]


def test_several_files_are_read_in_order_and_name_their_items(tmp_path: Path) -> None:
    lines(tmp_path / "b" / "part.jsonl", ROWS)
    lines(tmp_path / "a" / "part.jsonl", ROWS[:1])
    items = load(**OWN, path=str(tmp_path / "*" / "*.jsonl"))
    assert [item["item"] for item in items] == ["a/part", "b/part/0", "b/part/1"]
    items = load(**OWN, path=[str(tmp_path / "b" / "part.jsonl"), str(tmp_path / "a" / "part.jsonl")])
    assert [item["item"] for item in items] == ["b/part/0", "b/part/1", "a/part"]


def test_relative_paths_start_from_the_base(tmp_path: Path) -> None:
    lines(tmp_path / "s.jsonl", ROWS)
    benchmark = Benchmark.model_validate({**OWN, "path": "s.jsonl"})
    assert load_items([benchmark], tmp_path).schema == ITEMS


# --- fields


def one(tmp_path: Path, row: dict[str, Any], **keys: Any) -> dict[str, Any]:
    (item,) = load(name="one", path=lines(tmp_path / "one.jsonl", [row]), **keys)
    return item


def test_fields_are_found_by_dotted_paths_through_lists_and_mappings(tmp_path: Path) -> None:
    row = {
        "question": {
            "stem": "What grows?",
            "choices": [{"label": "P", "text": "a plant"}, {"label": "R", "text": "rust"}],
        },
        "key": "R",
        "from": {"pages": ["first page", "second page"]},
    }
    item = one(
        tmp_path, row, question="question.stem", choices="question.choices.text", labels="question.choices.label",
        answer="key", answer_is="label", passage="from.pages.1",
    )  # fmt: skip
    assert (item["question"], item["choices"], item["answer"], item["passage"]) == (
        "What grows?", ["a plant", "rust"], "rust", "second page",
    )  # fmt: skip
    assert one(tmp_path, row, question="question.stem", passage="from.pages")["passage"] == "first page\nsecond page"


def test_templates_alternatives_and_fields_that_may_be_missing(tmp_path: Path) -> None:
    row = {"Body": "Ann has 3 pens.", "ask": "How many?", "n": 3.0, "share": 0.5, "sure": True}
    item = one(
        tmp_path,
        row,
        question="{Body} {Question | ask}{hint?}",
        answer="n",
        passage="passage | text?",
        id="{_file}-{_row}",
    )
    assert (item["item"], item["question"], item["answer"]) == ("one-0", "Ann has 3 pens. How many?", "3")
    assert item["passage"] is None
    assert one(tmp_path, row, question="ask", answer="share")["answer"] == "0.5"
    assert one(tmp_path, row, question="ask", answer="sure")["answer"] == "true"


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("index", 2, "sea"), ("index", "0", "owl"), ("number", 1, "owl"), ("number", "3", "sea"), ("letter", "b", "fox"),
        ("letter", "(C)", "sea"), ("marks", [0, 1, 0], "fox"), ("text", "fox", "fox"), ("text", ["", "sea"], "sea"),
        ("index", -1, None), ("letter", "", None), ("number", None, None), ("marks", [0, 0, 0], None),
    ],
)  # fmt: skip
def test_the_right_answer_comes_out_as_text(tmp_path: Path, kind: str, value: Any, text: str | None) -> None:
    row = {"q": "Which?", "c": ["owl", "fox", "sea"], "a": value}
    assert one(tmp_path, row, question="q", choices="c", answer="a", answer_is=kind)["answer"] == text


def test_a_row_without_labels_has_the_answer_itself(tmp_path: Path) -> None:
    keys = {"question": "q", "choices": "c?", "labels": "l?", "answer": "a", "answer_is": "label"}
    assert one(tmp_path, {"q": "How many?", "a": "8"}, **keys)["answer"] == "8"
    labelled = {"q": "Which?", "l": ["(A)", "(B)"], "c": ["owl", "fox"], "a": "an owl and a fox"}
    assert one(tmp_path, labelled, **keys)["answer"] == "an owl and a fox"


def test_each_makes_items_of_lists_within_a_row(tmp_path: Path) -> None:
    body = {
        "data": [
            {"title": "t", "paragraphs": [{"context": "Owls fly.", "qas": [{"q": "Who?"}, {"q": "What?"}]}]},
            {"title": "u", "paragraphs": [{"context": "Fish swim.", "qas": [{"q": "How?"}]}]},
        ]
    }
    path = tmp_path / "nested.json"
    path.write_text(json.dumps(body))
    items = load(name="n", path=str(path), each="data.paragraphs.qas", question="q", passage="context")
    assert [(item["item"], item["question"], item["passage"]) for item in items] == [
        ("0", "Who?", "Owls fly."), ("1", "What?", "Owls fly."), ("2", "How?", "Fish swim."),
    ]  # fmt: skip
    rows = [{"p": "Owls fly.", "qas": [{"q": "Who?"}]}, {"p": "Fish swim.", "q": "How?"}]
    items = load(name="n", path=lines(tmp_path / "mixed.jsonl", rows), each="qas?", question="q", passage="p")
    assert [(item["item"], item["question"]) for item in items] == [("0/0", "Who?"), ("1", "How?")]


def test_where_takes_rows_by_value(tmp_path: Path) -> None:
    rows = [{"q": name, "split": name, "n": number} for number, name in enumerate(["dev", "test", "train"])]
    path = lines(tmp_path / "s.jsonl", rows)
    assert [item["item"] for item in load(name="s", path=path, question="q", where={"split": "test"})] == ["1"]
    assert len(load(name="s", path=path, question="q", where={"n": [0, 2]})) == 2
    assert len(load(name="s", path=path, question="q", where={"fold?": "x"})) == 3


def test_wrappers_are_parsed_into_fields_and_marks_are_stripped(tmp_path: Path) -> None:
    row = {
        "prompt": "Answer this:  Who hoots?\n\n1) an owl 2) a\nfox 3) the sea\nReply with a number",
        "reply": "number 2",
        "why": "So <<1+1=2>>2.",
    }
    item = one(
        tmp_path, row, question="ask", choices="option", answer="n", answer_is="number", passage="why",
        parse={"prompt": r"Answer this: (?P<ask>.*?)(?:\s+\d\) (?P<option>.*?))+\nReply .*", "reply": r"number (?P<n>\d)"},
        strip=["<<[^>]*>>"],
    )  # fmt: skip
    assert (item["question"], item["choices"]) == ("Who hoots?", ["an owl", "a\nfox", "the sea"])
    assert (item["answer"], item["passage"]) == ("a\nfox", "So 2.")


def test_documents_are_counted_in_their_task_or_taken_from_a_field(tmp_path: Path) -> None:
    rows = [
        {"q": str(n), "kind": kind, "place": 7 * n} for n, kind in enumerate(["Odd Birds", "fish", "Odd Birds", "fish"])
    ]
    keys = {"name": "k", "path": lines(tmp_path / "k.jsonl", rows), "question": "q"}
    found = load(**keys, lm_eval={"task": "k_{kind}", "names": {"k_fish": "fishes"}}, where={"q": ["1", "2", "3"]})
    assert [(item["task"], item["doc"]) for item in found] == [("fishes", 0), ("k_Odd_Birds", 0), ("fishes", 1)]
    found = load(**keys, lm_eval={"task": "k", "index": "place"})
    assert [item["doc"] for item in found] == [0, 7, 14, 21]


def test_empty_items_stay_in_the_table(tmp_path: Path) -> None:
    rows = [{"q": ""}, {"q": None}, {"q": "  "}]
    items = load(name="e", path=lines(tmp_path / "e.jsonl", rows), question="q")
    assert [item["question"] for item in items] == ["", "", ""]


# --- what is refused


def test_a_file_that_is_not_there_or_not_a_benchmark(tmp_path: Path) -> None:
    lines(tmp_path / "birds_test.jsonl", ROWS)
    assert "did you mean 'birds_test.jsonl'" in refused(**OWN, path=str(tmp_path / "birds-test.jsonl"))
    assert "no file matches" in refused(**OWN, path=str(tmp_path / "*.csv"))
    (tmp_path / "s.xlsx").write_bytes(b"")
    assert "s.xlsx: not a format of benchmarks" in refused(**OWN, path=str(tmp_path / "s.xlsx"))
    assert "is a folder; name the files in it" in refused(**OWN, path=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("s.jsonl", b'{"q": "a"}\n{"q": \n', "s.jsonl, line 2: not JSON"),
        ("s.jsonl", b'{"q": "a"}\n\n["b"]\n', 's.jsonl, line 3: an object with named fields was expected, not ["b"]'),
        ("s.jsonl", b'{"q": "a"}\n{"q": "caf\xe9"}\n', "s.jsonl, line 2: not UTF-8 (byte 0xe9)"),
        ("s.jsonl", b"\n", "s.jsonl: holds no rows"),
        ("s.json", b'{"q": "a"}\n{"q": "b"}', "JSON lines are named .jsonl"),
        ("s.json", b"[]", "s.json: holds no rows"),
        ("s.csv", b"q\ncaf\xe9\n", "s.csv, line 2: not UTF-8"),
        ("s.csv", b"q,a\nx,y\nx,y,z\n", "s.csv, line 3: 3 values for 2 columns (q, a)"),
        ("s.csv", b'q,a\nx,"y\n', "s.csv, line 2: cannot be read"),
        ("s.csv", b"q,q\nx,y\n", "s.csv, line 1: two columns have one name"),
        ("s.csv", b"q,a\n", "s.csv: holds no rows"),
        ("s.jsonl.gz", b'{"q": "a"}', "s.jsonl.gz: cannot be unpacked as .gz"),
        ("s.jsonl.gz", gzip.compress(b'{"q": "a"}' * 50, mtime=0)[:-9], "s.jsonl.gz: cannot be unpacked as .gz"),
        ("s.jsonl.zst", b'{"q": "a"}', "s.jsonl.zst: cannot be unpacked as .zst"),
        ("s.parquet", b"PAR1", "s.parquet: not Parquet"),
    ],
)
def test_a_damaged_file(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert words in refused(name="s", path=str(tmp_path / name), question="q")


def test_text_in_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"good"] * 1500 + [b"caf\xe9", b"good"], pa.binary())
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"q": pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())}), path)
    assert "s.parquet, row 1501: not UTF-8" in refused(name="s", path=str(path), question="q")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"question": "qs"}, "line 1: no field 'qs'; did you mean 'q'?; the row has q, c, a, l, m, m.stem"),
        ({"question": "m.sten"}, "no field 'm.sten'; did you mean 'm.stem'?"),
        ({"question": "m"}, "question: m is a mapping with the keys stem, not a text; write for example m.stem"),
        ({"question": "c"}, "question: c is a list of 2, not a text"),
        ({"question": "{q} {c}"}, "c is a list of 2, not a text"),
        ({"choices": "m"}, "choices: m is a mapping with the keys stem, not a text"),
        ({"answer": "a", "answer_is": "index"}, "answer: a is '5', but there are 2 choices (`answer_is: index`)"),
        ({"answer": "q", "answer_is": "index"}, "answer: q is 'Who?', not a whole number"),
        ({"answer": "q", "answer_is": "letter"}, "answer: q is 'Who?', not a letter"),
        ({"answer": "a", "answer_is": "label", "labels": "l"}, "answer: a is '5', none of the labels A, B"),
        ({"answer": "a", "answer_is": "label", "labels": "q"}, "labels: q are 1 for 2 choices"),
        ({"answer": "q", "answer_is": "marks"}, "answer: q has 1 marks for 2 choices"),
        ({"each": "cs"}, "no field 'cs' for `each`; did you mean 'c'?"),
        ({"each": "c"}, "c of `each` is a list of 2, not a list of objects"),
        ({"where": {"sp": "x"}}, "no field 'sp'"),
        ({"where": {"a": 6}}, "own has no items: nothing matches `where`; a is 5"),
        ({"parse": {"q": "Prompt: (?P<x>.*)"}}, "line 1: q is 'Who?', which the expression of `parse` does not match"),
        ({"strip": ["Prompt:"]}, "own: strip 'Prompt:' is found in no item"),
        ({"lm_eval": {"task": "t", "index": "q"}}, "lm_eval.index: q is 'Who?', not a whole number"),
        ({"lm_eval": {"task": "t_{kind}"}}, "no field 'kind'"),
        ({"columns": ["q"]}, "`columns` names the fields of a CSV or TSV file"),
    ],
)
def test_a_row_that_does_not_fit_its_description(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    row = {"q": "Who?", "c": ["owl", "fox"], "a": 5, "l": ["A", "B"], "m": {"stem": "Who?"}}
    path = lines(tmp_path / "s.jsonl", [row])
    message = refused(**{"name": "own", "path": path, "question": "q", "choices": "c", **keys})
    assert "s.jsonl" in message and words in message


def test_the_layouts_that_ship_are_named_where_one_does_not_fit(tmp_path: Path) -> None:
    path = lines(tmp_path / "s.jsonl", [{"id": "1", "question": "Who?", "choice0": "owl", "answer": 0}])
    assert refused(set="mmlu", path=path).endswith("; other layouts that ship: mmlu@columns, mmlu@csv")
    assert "layouts that ship" not in refused(**OWN, path=path)


def test_two_items_with_one_id_or_one_document(tmp_path: Path) -> None:
    path = lines(tmp_path / "s.jsonl", [{"q": "a", "n": 1}, {"q": "b", "n": 2}, {"q": "c", "n": 1}])
    message = refused(name="s", path=path, question="q", id="n")
    assert "s.jsonl, line 3: s has two items with the id '1'; see" in message and message.endswith("line 1")
    message = refused(name="s", path=path, question="q", lm_eval={"task": "t", "index": "n"})
    assert "line 3: s has two items that are document 1 of lm_eval's task 't'" in message


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"set": "mmul"}, "no set named 'mmul'; did you mean 'mmlu'?"),
        ({"name": "x"}, "name the field of the `question`"),
        ({"name": "a/b", "question": "q"}, "String should match pattern"),
        ({"question": "q"}, "Field required"),
        ({"name": "x", "question": "q", "answer_is": "index", "answer": "a"}, "needs an `answer` and `choices`"),
        ({"name": "x", "question": "q", "labels": "l"}, "needs `labels`"),
        ({"name": "x", "question": "q", "strip": ["(x"]}, "'(x' is not a regular expression: missing )"),
        ({"name": "x", "question": "q", "parse": {"q": ".*"}}, "has no named group"),
        ({"name": "x", "question": "q", "qestion": "q"}, "Extra inputs are not permitted"),
        ({"name": "x", "question": "q", "lm_eval": {"tsk": "t"}}, "lm_eval.task"),
    ],
)
def test_a_description_that_cannot_be_meant(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Benchmark.model_validate({"path": "s.jsonl", **keys})
    assert words in str(caught.value)


# --- files of benchmarks, and the digest


def test_a_file_of_benchmarks_is_relative_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines(tmp_path / "tests" / "own.jsonl", ROWS)
    lines(tmp_path / "tests" / "g.jsonl", [{"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}])
    path = tmp_path / "tests" / "benchmarks.yaml"
    path.write_text(
        "benchmarks:\n"
        "  - {set: gsm8k, path: g.jsonl, name: sums, lm_eval: null}\n"
        "  - name: own\n    path: own.jsonl\n    question: q\n    choices: options\n"
        "  - {set: gsm8k, path: s3://bucket/g.jsonl}\n"
    )
    monkeypatch.chdir(tmp_path)
    *local, remote = load_benchmarks(os.path.join("tests", "benchmarks.yaml"))  # noqa: PTH118
    assert remote.path == ("s3://bucket/g.jsonl",)
    items = load_items(local).to_pylist()
    assert [(item["benchmark"], item["task"]) for item in items] == [("sums", None), ("own", None), ("own", None)]
    assert items[0]["answer"].split() == ["1", "+", "1", "=", "2", "2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "benchmarks:\n  - name: x\n    path: y\n    qestion: q\n",
            "line 4: unknown key 'benchmarks.0.qestion'; did you mean 'question'?",
        ),
        (
            "benchmarks:\n  - name: x\n    path: y\n    question: q\n    lm_eval:\n      task: t\n      indx: 3\n",
            "line 7: unknown key 'benchmarks.0.lm_eval.indx'; did you mean 'index'?",
        ),
        (
            "benchmarks:\n  - {set: gsm8k, path: y}\n  - {set: gms8k, path: y}\n",
            "line 3: benchmarks.1: no set named 'gms8k'; did you mean",
        ),
        ("benchmarks: [\n", "not valid YAML"),
        ("benchmark: []\n", "has the one key `benchmarks`"),
        ("benchmarks: []\n", "is empty"),
    ],
)
def test_a_file_of_benchmarks_with_a_mistake(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_benchmarks(path)
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)


def test_the_digest_follows_contents_and_descriptions_and_not_places(tmp_path: Path) -> None:
    def of(path: str, **keys: Any) -> str:
        return digest([Benchmark.model_validate({**OWN, "path": path, **keys})])

    here, there = lines(tmp_path / "a" / "s.jsonl", ROWS), lines(tmp_path / "b" / "s.jsonl", ROWS)
    assert of(here) == of(there)
    assert of(here) != of(lines(tmp_path / "c" / "s.jsonl", ROWS[:1]))
    assert of(here) != of(here, choices=None, answer=None, answer_is="text")
    assert len(of(here)) == 64


# --- what ships


@pytest.mark.parametrize("name", descriptions())
def test_every_description_that_ships_is_valid_and_says_where_it_is_from(name: str) -> None:
    benchmark = Benchmark.model_validate({"set": name, "path": "x.jsonl"})
    assert benchmark.name == name.partition("@")[0]
    assert benchmark.source and "http" in benchmark.source


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "mmlu",
            {"subject": "art", "question": "Q", "choices": ["a", "b", "c", "d"], "answer": 2},
            ("0", "mmlu_art", 0, "Q", "c"),
        ),
        (
            "mmlu_pro",
            {
                "question_id": 70,
                "category": "computer science",
                "question": "Q",
                "options": ["a", "b"],
                "answer_index": 1,
            },
            ("70", "mmlu_pro_computer_science", 0, "Q", "b"),
        ),
        (
            "arc_challenge",
            {"id": "M_1", "question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
            ("M_1", "arc_challenge", 0, "Q", "b"),
        ),
        (
            "openbookqa",
            {"id": "7", "question_stem": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
            ("7", "openbookqa", 0, "Q", "a"),
        ),
        ("hellaswag", {"ind": 24, "ctx": "Q", "endings": ["a", "b"], "label": "1"}, ("0", "hellaswag", 0, "Q", "b")),
        ("hellaswag", {"ind": 24, "ctx": "Q", "endings": ["a", "b"], "label": ""}, ("0", "hellaswag", 0, "Q", None)),
        (
            "winogrande",
            {"sentence": "Q", "option1": "a", "option2": "b", "answer": "2"},
            ("0", "winogrande", 0, "Q", "b"),
        ),
        ("boolq", {"question": "Q", "answer": True, "passage": "P"}, ("0", "boolq", 0, "Q", "true")),
        ("piqa", {"goal": "Q", "sol1": "a", "sol2": "b", "label": -1}, ("0", "piqa", 0, "Q", None)),
        (
            "siqa",
            {"context": "C", "question": "Q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"},
            ("0", "social_iqa", 0, "C Q", "c"),
        ),
        ("mbpp", {"task_id": 11, "text": "Q", "code": "def f(): ..."}, ("11", "mbpp", 0, "Q", "def f(): ...")),
        (
            "math",
            {"problem": "Q", "solution": "S", "type": "Number Theory"},
            ("0", "hendrycks_math_num_theory", 0, "Q", "S"),
        ),
        ("triviaqa", {"question": "Q", "answer": {"value": "a", "aliases": ["b"]}}, ("0", "triviaqa", 0, "Q", "a")),
        (
            "truthfulqa",
            {"question": "Q", "mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}},
            ("0", "truthfulqa_mc1", 0, "Q", "b"),
        ),
        ("truthfulqa@generation", {"question": "Q", "best_answer": "a"}, ("0", "truthfulqa_gen", 0, "Q", "a")),
        (
            "squad",
            {"id": "5", "question": "Q", "context": "P", "answers": {"text": ["a", "a b"]}},
            ("5", None, None, "Q", "a"),
        ),
        (
            "svamp",
            {"ID": "chal-1", "Body": "B", "Question": "Q", "Answer": "7.0"},
            ("chal-1", None, None, "B Q", "7.0"),
        ),
        ("asdiv", {"body": "B", "question": "Q", "answer": "7 (pens)"}, ("0", "asdiv", 0, "B Q", "7 (pens)")),
        ("humaneval", {"task_id": "H/0", "prompt": "Q", "canonical_solution": "x"}, ("H/0", "humaneval", 0, "Q", "x")),
        ("lambada", {"text": "It was over, said Ann"}, ("0", "lambada_openai", 0, "It was over, said Ann", "Ann")),
    ],
)
def test_published_layouts_are_read(tmp_path: Path, name: str, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    (item,) = load(set=name, path=lines(tmp_path / "x.jsonl", [row]))
    assert (item["item"], item["task"], item["doc"], item["question"], item["answer"]) == expected
    assert item["passage"] == row.get("passage", row.get("context") if name == "squad" else None)


def test_big_bench_hard_as_its_authors_have_it(tmp_path: Path) -> None:
    examples = [
        {"input": "Which is bigger?\nOptions:\n(A) an ant\n(B) a whale", "target": "(B)"},
        {"input": "Is it?\nOptions:\n- Yes\n- No", "target": "No"},
        {"input": "How many pens?", "target": "3"},
    ]
    path = tmp_path / "snarks.json"
    path.write_text(json.dumps({"canary": "none", "examples": examples}))
    items = load(set="bbh", path=str(path))
    assert [(item["item"], item["task"], item["doc"]) for item in items] == [
        (str(n), "bbh_cot_fewshot_snarks", n) for n in range(3)
    ]
    assert [item["question"] for item in items] == ["Which is bigger?", "Is it?", "How many pens?"]
    assert [item["choices"] for item in items] == [["an ant", "a whale"], ["Yes", "No"], []]
    assert [item["answer"] for item in items] == ["a whale", "No", "3"]


REAL = [
    # set, file, items, items with a choice, answers that are no choice (two rows of BBH are mangled at their source)
    ("mmlu@columns", "mmlu.jsonl.gz", 14042, 14042, 0),
    ("gsm8k", "gsm8k_test.jsonl.gz", 1319, 0, 0),
    ("humaneval", "humaneval.jsonl.gz", 164, 0, 0),
    ("hellaswag", "hellaswag_val.jsonl.gz", 4994, 4994, 0),
    ("arc_easy@llm_adapters", "arc_easy_test.jsonl.gz", 2376, 2376, 0),
    ("winogrande@llm_adapters", "winogrande_test.jsonl.gz", 1267, 1267, 0),
    ("openbookqa@llm_adapters", "openbookqa_test.jsonl.gz", 500, 500, 0),
    ("boolq@llm_adapters", "boolq_test.jsonl.gz", 3270, 0, 0),
    ("lambada", "lambada_test.jsonl.gz", 5153, 0, 0),
    ("bbh", "bbh.jsonl.gz", 2761, 2511, 2),
    ("commonsenseqa", "commonsenseqa_dev.jsonl.gz", 1221, 1221, 0),
    ("svamp", "svamp.jsonl.gz", 1000, 0, 0),
    ("asdiv", "asdiv.jsonl.gz", 2305, 0, 0),
    ("xquad@nested", "xquad_en.jsonl.gz", 1190, 0, 0),
]
PROMPT = (
    "Please choose the correct",
    "Please answer the following question with",
    "Answer format",
    "Answer1:",
    "Option2:",
)
WRAPPERS = {
    "gsm8k": ("<<", ">>", "####"),
    "bbh": ("\nOptions:", "(A)"),
    **{name: PROMPT for name, *_ in REAL if name.endswith("@llm_adapters")},
}


@pytest.mark.parametrize(("name", "file", "count", "chosen", "odd"), REAL)
def test_real_files(
    shared_data: Callable[[str], Path], name: str, file: str, count: int, chosen: int, odd: int
) -> None:
    items = load(set=name, path=str(shared_data(f"labelled/bench/{file}")))
    assert len(items) == len({item["item"] for item in items}) == count
    assert sum(bool(item["choices"]) for item in items) == chosen
    assert all(item["question"] and item["answer"] for item in items)
    assert sum(bool(item["choices"]) and item["answer"] not in item["choices"] for item in items) == odd
    assert all((item["passage"] is not None) == (name == "xquad@nested") for item in items)
    for item in items:
        texts = [item["question"], *item["choices"], item["answer"]]
        assert not any(wrapper in text for text in texts for wrapper in WRAPPERS.get(name, ())), item
        assert all(text and text == text.strip() for text in texts), item


def test_documents_of_real_files_are_those_of_the_whole_split(shared_data: Callable[[str], Path]) -> None:
    bench = shared_data("labelled/bench")
    half = load(set="hellaswag", path=str(bench / "hellaswag_val.jsonl.gz"))
    assert [item["doc"] for item in half[:3]] == [0, 2, 5] and half[-1]["doc"] == 10041
    subjects = load(set="mmlu@columns", path=str(bench / "mmlu.jsonl.gz"))
    assert all(item["item"].endswith(f"/test/{item['doc']}") for item in subjects)
    assert len({item["task"] for item in subjects}) == 57
