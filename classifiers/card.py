"""The card of a model: what it was made of, what it can do, where it fails. Markdown for people, JSON for programs.

A card is made of the JSON beside the model (data, options, command, sha256), of what `evaluation.evaluate` found on
examples held out, and of what somebody who looked knows. The same facts give the same bytes. Figures are rounded to four
digits behind the point; a figure that is not there is shown as `–`, and is null in the JSON.

    head = Head.open("classifiers/models/toxicity")
    found = evaluate(head.score(texts), truth, groups=domains, slices={"language": languages})
    write_card(head, {"test halves of the development sets": found}, purpose="...", failures=["..."])
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.scoring import Head
from classifiers.training import write_file
from pipeline.errors import InputError

_DIGITS = 4
_WORDS = 30


def heaviest_words(head: Head, label: str | None = None, n: int = _WORDS) -> dict[str, list[tuple[str, float]]]:
    """The `n` words that speak most `for` and most `against` a label (the scored one), with their weights.

    The weight of a word is its input vector times the difference between the output vector of the label and the mean of
    those of the other labels: what one occurrence, alone in a text, adds to the label's logit over theirs. Character and
    word n-grams have no names and are not shown. Empty for models of hierarchical softmax, whose output vectors are not
    those of labels, and for models without words. Raises InputError for a label that the model does not have.
    """
    model, label = head.model, label or head.scored
    if label not in model.labels:
        raise InputError(f"model {head.name} has no label {label!r}; labels: {', '.join(model.labels)}")
    if model.options["loss"] == "hs" or not model.words:
        return {"for": [], "against": []}
    outputs = model.label_vectors().astype(np.float64)
    mine = np.arange(len(outputs)) == model.labels.index(label)
    direction = outputs[mine][0]
    if len(outputs) > 1 and model.options["loss"] == "softmax":
        direction = direction - outputs[~mine].mean(axis=0)
    weights = (model.word_vectors().astype(np.float64) * direction).sum(axis=1)
    ranked = sorted(
        (-round(float(w), _DIGITS), word) for word, w in zip(model.words, weights, strict=True) if word != "</s>"
    )
    return {
        "for": [(word, -w) for w, word in ranked[:n] if w < 0],
        "against": [(word, -w) for w, word in sorted(ranked, key=lambda item: (-item[0], item[1]))[:n] if w > 0],
    }


def card(
    head: Head,
    evaluations: Mapping[str, Mapping[str, Any]],
    *,
    purpose: str = "",
    failures: Sequence[str] = (),
    sections: Mapping[str, str | Sequence[Mapping[str, Any]]] | None = None,
    words: int = _WORDS,
    hidden_words: Sequence[str] = (),
) -> dict[str, Any]:
    """The card as a dict for JSON.

    `evaluations`: what `evaluate` gave, by the name of the held-out set. `purpose`, `failures`: what people know, as
    Markdown lines. `sections`: further headings with Markdown, or with rows of a table (dicts with the same keys).
    `words`: how many of the heaviest are shown for each label, 0 for none; those in `hidden_words` are starred out but for
    their first letter, because a card is read in the open.
    """
    labels = [head.scored] if head.scored is not None else list(head.labels)
    hidden = {word.lower() for word in hidden_words}
    shown = {label: heaviest_words(head, label, words) for label in labels} if words else {}
    return _clean(
        {
            "name": head.name,
            "purpose": purpose,
            "model": {**head.facts, "size": head.path.stat().st_size, "file": head.path.name},
            "evaluations": {name: dict(found) for name, found in evaluations.items()},
            "sections": dict(sections or {}),
            "words": {
                label: {
                    side: [[_hide(w) if w.lower() in hidden else w, weight] for w, weight in of]
                    for side, of in sides.items()
                }
                for label, sides in shown.items()
            },
            "failures": list(failures),
        }
    )


def markdown(facts: Mapping[str, Any]) -> str:
    """The card of `card` as Markdown."""
    model = facts["model"]
    scored = (
        f"The score is the probability of `{model['scored']}`."
        if model["scored"]
        else "It names one label of each text."
    )
    parts = [f"# {facts['name']}", facts["purpose"], f"Labels: {_listed(model['labels'])}. {scored}"]
    parts += _made(model)
    for name, found in facts["evaluations"].items():
        parts += _evaluation(name, found, model["scored"])
    for heading, content in facts["sections"].items():
        parts += [f"## {heading}", content if isinstance(content, str) else _rows(content)]
    if any(of for sides in facts["words"].values() for of in sides.values()):
        parts += ["## Words that weigh most", "What one occurrence, alone, adds to the logit of the label."]
    for label, sides in facts["words"].items():
        for side, of in sides.items():
            if of:
                parts.append(f"{side.capitalize()} `{label}`: " + ", ".join(f"{_code(w)} {_figure(x)}" for w, x in of))
    if facts["failures"]:
        parts += ["## Known failures", "\n".join(f"- {line}" for line in facts["failures"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_card(head: Head, evaluations: Mapping[str, Mapping[str, Any]], **options: Any) -> tuple[Path, Path]:
    """Writes NAME.md and NAME.card.json beside the model; takes what `card` takes. Raises StorageError."""
    facts = card(head, evaluations, **options)
    base = head.path.with_suffix("")
    page, data = base.with_name(base.name + ".md"), base.with_name(base.name + ".card.json")
    write_file(data, (json.dumps(facts, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode())
    write_file(page, markdown(facts).encode())
    return page, data


def _made(model: Mapping[str, Any]) -> list[str]:
    rows = [{"": "file", "value": f"`{model['file']}`, {model['size']:,} bytes"}]
    if "sha256" in model:
        rows.append({"": "sha256", "value": f"`{model['sha256']}`"})
    rows.append({"": "normalisation", "value": f"`{model['normalisation']}`"})
    if model.get("max_chars"):
        rows.append({"": "texts shortened to", "value": f"{model['max_chars']:,} characters"})
    for name in ("trainer", "command"):
        if model.get(name):
            rows.append({"": name, "value": f"`{model[name]}`"})
    if model.get("options"):
        set_options = {
            k: v for k, v in model["options"].items() if k not in ("normalisation", "max_chars") and v is not None
        }
        rows.append({"": "options", "value": f"`{json.dumps(set_options, sort_keys=True)}`"})
    examples = model.get("examples")
    if examples:
        counts = ", ".join(f"{n:,} `{label}`" for label, n in examples["labels"].items())
        rows += [{"": "examples", "value": counts}, {"": "digest of them", "value": f"`{examples['digest']}`"}]
    parts = ["## Made of", _rows(rows)]
    data = model.get("data") or {}
    kinds = {frozenset(value) if isinstance(value, Mapping) else None for value in data.values()}
    if data and len(kinds) == 1 and None not in kinds:
        parts += [_rows([{"data": name, **value} for name, value in data.items()])]
    elif data:  # facts of different kinds: each on a line of its own
        flat = [
            (f"{name}: {key}", value)
            for name, facts in data.items()
            for key, value in (facts.items() if isinstance(facts, Mapping) else [("", facts)])
        ]
        parts += [_rows([{"data": name.removesuffix(": "), "": value} for name, value in flat])]
    return parts


def _evaluation(name: str, found: Mapping[str, Any], scored: str | None) -> list[str]:
    parts = [f"## Held out: {name}"]
    if "roc_auc" not in found:
        return [*parts, _rows([{"": key, "value": value} for key, value in found.items()])]
    groups = f" in {found['groups']:,} groups" if found.get("groups") else ""
    parts.append(
        f"{found['examples']:,} examples{groups}, of which {found['positives']:,} are `{scored}`; "
        f"{found['without_score']:,} without a score are left out."
    )
    figures = [
        {
            "figure": title,
            "value": found[key]["value"],
            "95 %": f"{_figure(found[key]['low'])} to {_figure(found[key]['high'])}",
        }
        for key, title in (("roc_auc", "ROC AUC"), ("average_precision", "average precision"))
    ]
    figures.append({"figure": "calibration error", "value": found["calibration_error"], "95 %": ""})
    parts.append(_rows(figures))
    bins = [
        {
            "score": f"{b['low']:.1f} to {b['high']:.1f}",
            "n": b["n"],
            "mean score": b["mean_score"],
            "positives": b["share"],
        }
        for b in found["reliability"]
    ]
    cuts = [
        {
            "drop lowest": t["quantile"],
            "threshold": t["score"],
            "kept": t["kept"],
            "precision": t["precision"],
            "recall": t["recall"],
        }
        for t in found["thresholds"]
    ]
    parts += ["### Reliability", _rows(bins), "### Thresholds", _rows(cuts)]
    for title, rates in found["keep_rates"].items():
        parts += [
            f"### Share at or above {_figure(found['keep_threshold'])} by {title}",
            _rows([{title: r["value"], "n": r["n"], "share": r["kept"], "mean score": r["mean_score"]} for r in rates]),
        ]
    return parts


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float) or value is None:
        return _figure(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return " ".join(text.split()).replace("|", "\\|")


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.{_DIGITS}f}".rstrip("0").rstrip(".")


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


def _code(word: str) -> str:
    fence = "``" if "`" in word else "`"
    pad = " " if "`" in word else ""
    return f"{fence}{pad}{word}{pad}{fence}"


def _hide(word: str) -> str:
    return word[:1] + "*" * (len(word) - 1)


def _clean(value: Any) -> Any:
    """Rounded, and without what JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
