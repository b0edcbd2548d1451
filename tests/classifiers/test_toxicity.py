"""The toxicity head: its examples are split without leaks, its columns fit the texts, and what it found stays found."""

import gzip
import json
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from classifiers import toxicity, toxicity_sets
from classifiers.evaluation import roc_auc
from classifiers.scoring import Head, SentenceScores, sentence_columns
from classifiers.toxicity_sets import Example, cleaned, part
from classifiers.wordlists import WordLists
from pipeline.errors import InputError, UsageError

MODEL = toxicity._DATA / "models" / "toxicity"


@pytest.fixture(scope="module")
def head():
    return Head.open(MODEL)


def write(folder, name, rows):
    path = folder / "labelled" / "toxicity"
    path.mkdir(parents=True, exist_ok=True)
    with gzip.open(path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_what_only_tweets_have_goes():
    raw = "RT @some_one: you &amp;amp; me &#128514; http://t.co/x #NoWay URL @USER @USER"
    assert cleaned(raw) == "you & me 😂 NoWay"


def test_near_copies_share_a_part(tmp_path):
    long = "one two three four five six seven eight"
    rows = [{"id": str(i), "class": "2", "tweet": f"{long} and number {i} ends in its own way {i}"} for i in range(40)]
    write(tmp_path, "davidson", [*rows, {"id": "x", "class": "0", "tweet": "something else"}])
    found = toxicity_sets.labelled(tmp_path, ["davidson"])
    assert len({e.group for e in found if not e.toxic}) == 1
    assert [e.toxic for e in found] == [False] * 40 + [True]


def test_equal_texts_are_kept_once(tmp_path):
    write(
        tmp_path,
        "davidson",
        [{"id": "1", "class": "1", "tweet": "@a Same!"}, {"id": "2", "class": "2", "tweet": "same"}],
    )
    assert [e.text for e in toxicity_sets.labelled(tmp_path, ["davidson"])] == ["Same!"]


def test_spans_mark_sentences(tmp_path):
    text = "This is harmless here. You utter nitwit you. Fine again."
    at = text.index("utter")
    write(
        tmp_path, "toxic_spans_train", [{"text": text, "spans": list(range(at, at + 12))}, {"text": "x y", "spans": []}]
    )
    found = toxicity_sets.labelled(tmp_path, ["toxic_spans_train"])
    assert [(e.toxic, e.text) for e in found] == [
        (False, "This is harmless here."),
        (True, "You utter nitwit you."),
        (False, "Fine again."),
    ]
    assert len({e.group for e in found}) == 1


def test_sets_that_are_missing_or_other(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        toxicity_sets.labelled(tmp_path, ["davidson"])
    write(tmp_path, "davidson", [{"text": "no such column"}])
    with pytest.raises(InputError, match="columns of davidson"):
        toxicity_sets.labelled(tmp_path, ["davidson"])


def test_parts_have_their_sizes():
    counts = defaultdict(int)
    for i in range(5000):
        counts[part(f"group {i}")] += 1
    assert 0.46 < counts["train"] / 5000 < 0.54 and 0.36 < counts["test"] / 5000 < 0.44


def test_identity_sentences_of_training_and_evaluation_differ():
    training, evaluation = toxicity.identity_examples("training"), toxicity.identity_examples("evaluation")
    assert not {e.text for e in training} & {e.text for e in evaluation}
    assert not {e.slice for e in training} & {e.slice for e in evaluation}
    assert {e.language for e in training} == {"en", "de", "es", "fr", "zh", "ar"}
    assert not any("{" in e.text or e.toxic for e in training + evaluation)


def test_templates_are_balanced_in_each_language():
    rows = [Example("mhc", f"{t} {i}", t, "g", lang) for lang, n in (("de", 5), ("fr", 2)) for t in (True, False)
            for i in range(n * (3 if t else 1))]  # fmt: skip
    kept = toxicity._balanced([*rows, Example("olid", "x", True, "g")])
    assert [sum(e.language == lang and e.toxic for e in kept) for lang in ("de", "fr", "en")] == [5, 2, 1]


def test_examples_with_listed_words_are_left_out():
    examples = [
        Example("crawl", t, False, "g", lang) for t, lang in [("what shit", "de"), ("classic", "en"), ("puta", "es")]
    ]
    assert [e.text for e in toxicity.without_listed(examples)] == ["classic"]


def test_columns_of_sentences():
    found = SentenceScores(
        np.array([0, 0, 2], np.int32),
        np.array([0, 10, 0]),
        np.array([10, 40, 5]),
        np.array([0.95, 0.2, np.nan], np.float32),
    )
    most, share = sentence_columns(found, 4, 0.9)
    assert most.to_pylist() == pytest.approx([0.95, None, None, None])
    assert share.to_pylist() == [0.25, None, None, None]


def test_pages(head):
    texts = pa.array(
        [
            "You are a fucking idiot. The museum opens at nine and closes at six in the evening.",
            "The museum opens at nine and closes at six in the evening.",
            None,
            " \n\t ",
            "\x00\u202e" * 50,
            "kurwa" * 5000,
        ]
    )
    table = toxicity.page_scores(head, texts, ["en", "en", "en", None, "xx", "pl"])
    assert table.schema.equals(toxicity.SCHEMA)
    rows = table.to_pylist()
    assert rows[0]["toxicity_max_sentence"] > 0.9 and 0.2 < rows[0]["toxicity_sentence_share"] < 0.4
    assert rows[0]["listed_words"] == 1
    assert rows[1]["toxicity"] < 0.2 and rows[1]["toxicity_sentence_share"] == 0
    assert all(value is None for row in rows[2:4] for value in row.values())
    again = toxicity.page_scores(head, texts, ["en", "en", "en", None, "xx", "pl"])
    assert again.equals(table)


def test_sentences_are_spans_of_the_text(head):
    texts = ["Good morning to all of you. You are a worthless piece of shit! Goodbye.", "Nothing to see here."]
    found = toxicity.toxic_sentences(head, pa.array(texts), 0.9).to_pylist()
    assert [(f["row"], texts[0][f["start"] : f["end"]]) for f in found] == [(0, "You are a worthless piece of shit!")]
    assert toxicity.toxic_sentences(head, pa.array([], pa.string())).schema.equals(toxicity.SENTENCES)


def test_a_threshold_is_needed(head):
    with pytest.raises(UsageError, match="threshold"):
        toxicity.toxic_sentences(head, pa.array(["x"]), 0.0)
    bare = Head.open(head.path)
    bare.facts.pop("sentence_threshold")
    with pytest.raises(UsageError, match="threshold"):
        toxicity.page_scores(bare, pa.array(["x"]))


def test_the_shipped_model_is_small_and_says_how_it_was_made(head):
    assert head.path.stat().st_size <= 4_000_000
    assert head.scored == "toxic" and head.facts["command"] == "python -m classifiers.toxicity train DATA"
    assert head.facts["sentence_threshold"] == toxicity.notes()["sentence_threshold"]
    card = (MODEL.parent / "toxicity.md").read_text(encoding="utf-8")
    assert head.facts["sha256"] in card


def test_real_sets_are_split_without_leaks_and_ranked(shared_data, head):
    folder = shared_data("labelled/toxicity").parent.parent
    examples = toxicity_sets.labelled(folder, ["hatecheck", "surge_toxicity", "vicomtech_train", "olid_train"])
    parts = defaultdict(set)
    for example in examples:
        parts[example.group].add(example.part)
    assert all(len(of) == 1 for of in parts.values())
    test = [e for e in examples if e.part == "test" and e.source in ("surge_toxicity", "olid")]
    scores = head.score(pa.array([e.text for e in test], pa.large_string()))
    assert roc_auc(scores, [e.toxic for e in test]) > 0.78


def test_harmless_sentences_about_groups_stay_below_the_threshold(head):
    examples = [e for e in toxicity.identity_examples("evaluation") if e.language == "en"]
    scores = head.score(pa.array([e.text for e in examples])).to_numpy()
    assert (scores >= 0.9).mean() < 0.03


def test_word_lists_and_head_agree_on_nothing_said(head):
    table = toxicity.page_scores(head, pa.array(["The weather is fine today."]), "en", lists=WordLists.own())
    assert table["listed_density"].to_pylist() == [0.0]
