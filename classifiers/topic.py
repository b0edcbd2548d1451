"""Topics of pages, for mixing: the names, who gets none, and what the head's answers are worth.

The head is a fastText model of many labels (`models/topic.ftz`). A page without a likely topic gets none rather than the
least unlikely one: most of the web is about something that the head has never seen.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from classifiers.scoring import Head
from pipeline.errors import InputError

_SHIPPED = Path(__file__).with_name("models") / "topic"


class Topics(NamedTuple):
    """`topics.yaml`: what each topic means, and the probability below which none is named."""

    meanings: dict[str, str]
    least: float


@cache
def topics() -> Topics:
    """The topics of the shipped head."""
    facts = yaml.safe_load(Path(__file__).with_name("topics.yaml").read_text(encoding="utf-8"))
    return Topics({name: about["meaning"] for name, about in facts["topics"].items()}, float(facts["least"]))


def topic_head() -> Head:
    """The head that is shipped. Raises InputError where it is missing or damaged."""
    return Head.open(_SHIPPED)


def assign(
    head: Head, texts: pa.Array | pa.ChunkedArray, least: float | None = None
) -> tuple[pa.StringArray, pa.FloatArray]:
    """The topic of each text, null where the most likely one is below `least`, and that one's probability (float32).

    `least` is by default that of `topics.yaml`. Both are null for a text without anything to read.
    """
    names, probabilities = head.topics(texts)
    bound = pa.scalar(topics().least if least is None else least, pa.float32())
    sure = pc.fill_null(pc.greater_equal(probabilities, bound), False)
    return pc.if_else(sure, names, pa.scalar(None, pa.string())), probabilities


def evaluate_topics(
    truth: Sequence[str], predicted: Sequence[str | None], groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """What the predicted labels are worth, as a dict for JSON and a card.

    `accuracy` counts no label as wrong; `macro_f1` is the mean of the classes' F1. `classes` has for each label of the
    truth its examples, groups, precision, recall and F1 (0 where nothing is right); `confusion` the rows of the matrix:
    the true label, then how often each label, or `(none)`, was named. Raises InputError where the columns differ in length
    or are empty.
    """
    if len(truth) != len(predicted) or (groups is not None and len(groups) != len(truth)):
        raise InputError("labels, predictions and groups are not of one length")
    if not truth:
        raise InputError("an evaluation needs examples")
    named = ["(none)" if label is None else label for label in predicted]
    pairs = Counter(zip(truth, named, strict=True))
    labels = sorted(set(truth))
    shown = sorted(set(truth) | set(named), key=lambda label: (label == "(none)", label))
    n_true, n_named = Counter(truth), Counter(named)
    classes = []
    for label in labels:
        right = pairs[label, label]
        precision = right / n_named[label] if n_named[label] else 0.0
        recall = right / n_true[label]
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        of = {} if groups is None else {"groups": len({g for g, t in zip(groups, truth, strict=True) if t == label})}
        classes.append({"label": label, "n": n_true[label], **of, "precision": precision, "recall": recall, "f1": f1})
    return {
        "examples": len(truth),
        "groups": None if groups is None else len(set(groups)),
        "accuracy": sum(pairs[label, label] for label in labels) / len(truth),
        "macro_f1": float(np.mean([row["f1"] for row in classes])),
        "classes": classes,
        "confusion": [{"truth": label, **{other: pairs[label, other] for other in shown}} for label in labels],
    }


def by_threshold(
    truth: Sequence[str], predicted: Sequence[str | None], probabilities: Sequence[float | None], at: Sequence[float]
) -> list[dict[str, float]]:
    """For each threshold: the share of texts whose topic is named, and the share of those names that are right (NaN where
    none is named)."""
    sure = np.array([0.0 if p is None else p for p in probabilities], np.float64)
    right = np.array([a == b for a, b in zip(truth, predicted, strict=True)], bool)
    rows = []
    for threshold in at:
        kept = (sure >= threshold) & np.array([p is not None for p in predicted], bool)
        accuracy = float(right[kept].mean()) if kept.any() else float("nan")
        rows.append({"threshold": threshold, "named": float(kept.mean()) if len(kept) else 0.0, "accuracy": accuracy})
    return rows
