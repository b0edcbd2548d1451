"""Topics: which text gets which, which gets none, and what the answers are worth."""

import math
from pathlib import Path

import pyarrow as pa
import pytest

from classifiers.scoring import Head
from classifiers.topic import assign, by_threshold, evaluate_topics, topic_head, topics
from classifiers.training import TrainingOptions, train
from pipeline.errors import InputError

COOKING = "whisk two eggs with flour and butter then bake the dough in a hot oven until golden"
RECIPE = """Onion tart. Prep time: 20 minutes. Cook time: 40 minutes. Serves 6.
Ingredients
- 2 cups flour
- 1 tsp salt
- 3 onions, finely sliced
- 2 tablespoons butter
- 1/2 cup cream
- 1 egg
- black pepper
Preheat the oven to 180C. Rub the butter into the flour, add a little water and chill the pastry. Fry the onions in a pan
over low heat until soft, stir in the cream and the egg and season with pepper. Roll out the pastry, fill it and bake for 40
minutes until golden. Serve warm with a salad."""
COURTS = "the court finds that the appeal of the defendant against the judgment has no merit"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    texts = [f"{text} {i}" for i in range(30) for text in (COOKING, COURTS)]
    options = TrainingOptions(dim=4, epoch=20, lr=0.5, bucket=1000)
    return train(texts, ["recipes", "government"] * 30, options, tmp_path_factory.mktemp("model") / "two")


def test_a_text_gets_its_topic_or_none(head: Head) -> None:
    names, sure = assign(head, pa.array([COOKING, COURTS, None, " "]), 0.5)
    assert names.to_pylist() == ["recipes", "government", None, None]
    assert sure.null_count == 2 and min(sure.to_pylist()[:2]) > 0.5
    none, same = assign(head, pa.array([COOKING, COURTS]), 1.0)
    assert none.null_count == 2 and same.to_pylist() == sure.to_pylist()[:2]


def test_figures_of_each_topic_and_the_confusion_between_them() -> None:
    truth = ["a", "a", "a", "b", "b", "c"]
    found = evaluate_topics(truth, ["a", "a", "b", "b", None, "a"], groups=["1", "1", "2", "3", "3", "4"])
    assert found["accuracy"] == pytest.approx(3 / 6) and found["groups"] == 4
    of = {row["label"]: row for row in found["classes"]}
    assert of["a"] == {
        "label": "a",
        "n": 3,
        "groups": 2,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": pytest.approx(2 / 3),
    }
    assert of["b"]["precision"] == 0.5 and of["b"]["recall"] == 0.5 and of["c"]["f1"] == 0
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.5 + 0) / 3)
    assert found["confusion"][1] == {"truth": "b", "a": 0, "b": 1, "c": 0, "(none)": 1}
    assert sum(sum(v for k, v in row.items() if k != "truth") for row in found["confusion"]) == len(truth)


def test_a_higher_threshold_names_fewer() -> None:
    rows = by_threshold(["a", "b", "a", "b"], ["a", "a", "a", None], [0.9, 0.4, 0.6, None], (0.0, 0.5, 0.95))
    assert [row["named"] for row in rows] == [0.75, 0.5, 0.0]
    assert rows[0]["accuracy"] == pytest.approx(2 / 3) and rows[1]["accuracy"] == 1 and math.isnan(rows[2]["accuracy"])


def test_columns_of_other_lengths_are_refused() -> None:
    for truth, predicted, groups in ((["a"], [], None), (["a"], ["a"], []), ([], [], None)):
        with pytest.raises(InputError):
            evaluate_topics(truth, predicted, groups)


def test_the_shipped_head_knows_the_shipped_topics() -> None:
    head = topic_head()
    assert sorted(head.labels) == sorted(topics().meanings)
    assert head.path.stat().st_size <= 4_000_000
    names, _ = assign(head, pa.array([RECIPE]))
    assert names.to_pylist() == ["recipes"]


def test_the_shipped_quality_head_prefers_an_article_to_a_menu() -> None:
    head = Head.open(Path(topic_head().path).with_name("quality"))
    assert head.path.stat().st_size <= 4_000_000 and head.scored in head.labels
    article = (
        "The bridge was built between 1894 and 1899 by engineers from three countries. According to the historian who "
        "studied its accounts, the cost was twice what had been planned, because the river bed was deeper than the first "
        "survey had said. When it opened, the railway that it carried changed trade in the whole region."
    )
    menu = "Home | Login | Register | Cart (0)\nAdd to cart $9.99\nPrevious Next 1 2 3 4 5\nContact us Terms Privacy"
    better, worse = head.score(pa.array([article, menu])).to_pylist()
    assert better > worse
