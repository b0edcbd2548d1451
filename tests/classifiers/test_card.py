"""The card of a model: what stands in it, and that it is the same each time."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from classifiers.card import card, heaviest_words, markdown, write_card
from classifiers.evaluation import evaluate, length_slices
from classifiers.scoring import Head
from classifiers.training import TrainingOptions, train
from pipeline.errors import InputError


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    draw = random.Random(5)
    fill = ["".join(draw.choices("bcdfglmnprst", k=3)) for _ in range(300)]
    texts, labels = [], []
    for i in range(300):
        marked = "lovely" if i % 2 else "awful|thing"
        texts.append(" ".join([*draw.choices(fill, k=20), marked]))
        labels.append("good" if i % 2 else "bad")
    options = TrainingOptions(dim=8, bucket=1000, lr=0.5, epoch=30, quantise=None, normalisation="plain")
    data = {"toy|set": {"size": 300, "licence": "CC0"}}
    return train(
        texts, labels, options, tmp_path_factory.mktemp("m") / "toy", scored="good", data=data, command="make toy"
    )


def found() -> dict:
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 2, 300)
    return evaluate(
        0.3 * truth + draw.random(300) * 0.6,
        truth,
        groups=[i % 30 for i in range(300)],
        slices={"length": length_slices([i * 10 for i in range(300)]), "language": ["en", None] * 150},
        draws=50,
    )


def test_the_words_that_decide_weigh_most(head: Head) -> None:
    words = heaviest_words(head, n=5)
    assert words["for"][0][0] == "lovely" and words["against"][0][0] == "awful|thing"
    assert words["for"][0][1] > words["for"][1][1] > 0 > words["against"][0][1]
    assert heaviest_words(head, "bad", 1)["for"][0][0] == "awful|thing"
    with pytest.raises(InputError, match="no label 'nice'"):
        heaviest_words(head, "nice")


def test_the_weight_of_a_word_is_what_it_adds_to_the_logit(head: Head) -> None:
    """A text of one word is that word, its pairs and the end of the line, in equal parts."""
    word, weight = heaviest_words(head, n=1)["for"][0]
    model = head.model
    end = float(model.word_vectors()[model.words.index("</s>")] @ (_outputs(head, "good") - _outputs(head, "bad")))
    bare = head.score(pa.array([word]))[0].as_py()
    pair = model._input[model.words_count :]  # the pair of word and end of line is in one of these buckets
    logits = [
        (weight + end + float(row @ (_outputs(head, "good") - _outputs(head, "bad")))) / 3 for row in np.asarray(pair)
    ]
    assert min(abs(bare - 1 / (1 + np.exp(-logit))) for logit in logits) < 1e-3


def _outputs(head: Head, label: str) -> np.ndarray:
    return head.model.label_vectors()[head.labels.index(label)]


def test_the_card_says_what_was_found(head: Head, tmp_path: Path) -> None:
    facts = card(head, {"toy test": found()}, purpose="A toy.", failures=["Knows no irony."], words=3)
    page = markdown(facts)
    for part in (
        "# toy\n\nA toy.",
        f"`{head.facts['sha256']}`",
        "| toy\\|set | CC0 | 300 |",
        "150 `bad`, 150 `good`",
        "`make toy`",
        "## Held out: toy test",
        "300 examples in 30 groups",
        "| ROC AUC | ",
        "### Reliability",
        "### Thresholds",
        "### Share at or above 0.5 by length",
        "| (none) | 150 |",
        "For `good`: `lovely`",
        "Against `good`: `awful|thing`",
        "## Known failures\n\n- Knows no irony.",
    ):
        assert part in page
    assert facts["evaluations"]["toy test"]["roc_auc"]["value"] == round(found()["roc_auc"]["value"], 6)
    assert page.endswith("\n") and "nan" not in page.lower().replace("banana", "")


def test_the_same_facts_give_the_same_bytes(head: Head) -> None:
    first = [path.read_bytes() for path in write_card(head, {"toy test": found()}, words=3)]
    second = [path.read_bytes() for path in write_card(Head.open(head.path), {"toy test": found()}, words=3)]
    assert first == second
    base = head.path.with_suffix("")
    assert json.loads(base.with_name("toy.card.json").read_text())["name"] == "toy"
    assert base.with_name("toy.md").exists()
    assert Head.open(base).scored == "good"


def test_figures_that_are_not_there_and_words_better_not_read(head: Head) -> None:
    one_group = evaluate([0.1, 0.9, 0.8], [0, 1, 0], groups=["a"] * 3)
    facts = card(
        head,
        {"tiny": one_group, "counts": {"n": 3}},
        words=2,
        hidden_words=["Lovely"],
        sections={"By hand": [{"x": 1.5}]},
    )
    assert facts["evaluations"]["tiny"]["roc_auc"]["low"] is None
    page = markdown(facts)
    assert "– to –" in page and "## By hand\n\n| x |\n|---|\n| 1.5 |" in page
    assert "lovely" not in page and "`l*****`" in page
    json.dumps(facts, allow_nan=False)
