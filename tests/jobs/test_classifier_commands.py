"""`crawlmill references` and `crawlmill classifier …`, from a small dump to scores."""

import html
import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner, Result

from classifiers.training import TrainingOptions, train
from jobs.cli import app
from jobs.runs import Run

PAGE = """<page><title>{title}</title><ns>0</ns><id>{number}</id><revision><id>{number}</id>
<timestamp>2024-01-01T00:00:00Z</timestamp><text xml:space="preserve">A mill.&lt;ref&gt;[{url} mill]&lt;/ref&gt;</text>
</revision></page>"""


def crawlmill(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def mills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that tells mills from lamps."""
    random = Random(1)
    words = {"mill": ["flour", "wheel", "miller", "grain"], "lamp": ["wick", "oil", "flame", "glass"]}
    rows = [(label, " ".join(random.choices(of, k=8))) for label, of in words.items() for _ in range(200)]
    path = tmp_path_factory.mktemp("head") / "mills"
    options = TrainingOptions(dim=4, lr=0.5, bucket=1000, quantise=None)
    train([text for _, text in rows], [label for label, _ in rows], options, path, scored="mill")
    return path.with_suffix(".bin")


def test_references_are_read_and_used_for_training(finished: Run, tmp_path: Path) -> None:
    rows = finished.folder.scan("ledger", None, ["url", "outcome", "language"]).to_pylist()
    urls = sorted({row["url"] for row in rows if row["outcome"] == "kept"})[::2]
    pages = [
        PAGE.format(title=f"Mill {i}", number=i, url=html.escape(url))
        for i, url in enumerate([*urls, "http://gone.example/x"], 1)
    ]
    (tmp_path / "dump.xml").write_text("<mediawiki>" + "".join(pages) + "</mediawiki>")
    read = crawlmill("references", tmp_path / "dump.xml", "--output", tmp_path / "references")
    assert read.exit_code == 0, read.output
    assert "damages" in read.output and f"{len(pages):,}" in read.output
    (tmp_path / "options.yaml").write_text("dim: 4\nepoch: 2\nbucket: 1000\nquantise: false\n")
    trained = crawlmill(
        "classifier", "train", finished.folder.path, "--references", tmp_path / "references", "--output",
        tmp_path / "trained", "--config", tmp_path / "options.yaml", "--name", "cited",
    )  # fmt: skip
    assert trained.exit_code == 0, (trained.output, trained.exception)
    assert "ROC AUC on held-out domains" in trained.output and "to be fetched" in trained.output
    facts = json.loads((tmp_path / "trained" / "training.json").read_text())
    assert facts["references_missing"] >= 1
    assert (tmp_path / "trained" / "models" / "cited.md").read_text().startswith("#")


def test_texts_are_scored_in_their_order(mills: Path, tmp_path: Path) -> None:
    texts = ["grain and flour for the miller", "", "oil for the flame", "\n \t"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    shown = crawlmill("classifier", "score", mills, tmp_path / "t.jsonl")
    scores = [json.loads(line)["score"] for line in shown.output.splitlines()]
    assert scores[0] > 0.5 > scores[2] and scores[1] is scores[3] is None
    shipped = crawlmill("classifier", "score", "topic", tmp_path / "t.jsonl")
    assert set(json.loads(shipped.output.splitlines()[0])) == {"name", "label", "score"}
    listed = crawlmill("classifier", "models").output
    assert all(name in listed for name in ("quality", "toxicity", "topic"))


def test_a_model_is_evaluated_on_labelled_texts(mills: Path, tmp_path: Path) -> None:
    rows = [("flour of the mill wheel", "good", i) for i in range(30)] + [
        ("wick of glass", "bad", i) for i in range(30)
    ]
    lines = (json.dumps({"text": text, "label": label, "site": str(i)}) + "\n" for text, label, i in rows)
    (tmp_path / "l.jsonl").write_text("".join(lines))
    shown = crawlmill(
        "classifier", "evaluate", mills, tmp_path / "l.jsonl", "--positive", "good", "--group-field", "site"
    )
    assert shown.exit_code == 0 and "roc_auc 1.0000" in shown.output and "30 of them good" in shown.output
    wrong = crawlmill(
        "classifier", "evaluate", mills, tmp_path / "l.jsonl", "--positive", "good", "--label-field", "lable"
    )
    assert "no field 'lable'" in str(wrong.exception)
    single = crawlmill("classifier", "evaluate", mills, tmp_path / "l.jsonl", "--positive", "nothing")
    assert single.exit_code != 0 and "both classes" in str(single.exception)


def test_wrong_use_is_said_in_words(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\n")
    missing = crawlmill("classifier", "score", "toxicty", tmp_path / "t.txt")
    assert "no model 'toxicty'" in str(missing.exception) and "toxicity" in str(missing.exception)
    (tmp_path / "no.ftz").write_bytes(b"no model")
    bad = crawlmill("classifier", "score", tmp_path / "no.ftz", tmp_path / "t.txt", "--normalisation", "plain")
    assert "no.ftz" in str(bad.exception)
    nothing = crawlmill("classifier", "train", finished.folder.path, "--output", tmp_path / "x")
    assert "give references" in str(nothing.exception)
    unnamed = crawlmill("classifier", "train", finished.folder.path, "--output", tmp_path / "x", "--positive", "a.txt")
    assert "NAME=PATH" in str(unnamed.exception)
    (tmp_path / "dump.xml").write_text("no dump\n")
    dump = crawlmill("references", tmp_path / "dump.xml", "--output", tmp_path / "refs")
    assert dump.exit_code != 0 and "dump.xml" in str(dump.exception)
