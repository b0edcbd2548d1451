"""Training: options, the examples it refuses, what it writes, and that it writes the same bytes again."""

import errno
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from classifiers import training
from classifiers.modelfile import ModelFile, standard
from classifiers.scoring import Head
from classifiers.training import TrainingOptions, load_options, train, update_facts
from pipeline.errors import CrawlmillError, InputError, RecipeError, StorageError, UsageError

SMALL = TrainingOptions(dim=8, bucket=2000, lr=0.5, epoch=3)


def corpus(n: int = 400, seed: int = 7) -> tuple[list[str], list[str]]:
    """Texts of made-up words, of which a third stand in both classes."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("bcdfglmnprst", k=2) + draw.choices("aeiou", k=2)) for _ in range(300)]
    texts, labels = [], []
    for i in range(n):
        own, label = (words[:200], "good") if i % 2 else (words[100:], "bad")
        texts.append(" ".join(draw.choices(own, k=25)).capitalize() + ".")
        labels.append(label)
    return texts, labels


def test_a_model_learns_and_says_what_it_was_made_of(tmp_path: Path) -> None:
    texts, labels = corpus()
    head = train(
        [*texts[:300], None, " \n"], [*labels[:300], "bad", "bad"], SMALL, tmp_path / "toy", scored="good",
        data={"toy": {"size": 300, "licence": "CC0"}}, command="make toy",
    )  # fmt: skip
    scores = head.score(pa.array(texts[300:])).to_pylist()
    right = sum((score > 0.5) == (label == "good") for score, label in zip(scores, labels[300:], strict=True))
    assert right > 95
    facts = json.loads((tmp_path / "toy.json").read_text())
    assert facts["labels"] == list(head.labels) and set(head.labels) == {"good", "bad"}
    assert facts["scored"] == "good" and facts["normalisation"] == "words" and facts["command"] == "make toy"
    assert facts["examples"]["labels"] == {"bad": 150, "good": 150} and facts["examples"]["without_text"] == 2
    assert facts["sha256"] == hashlib.sha256((tmp_path / "toy.ftz").read_bytes()).hexdigest()
    assert facts["options"]["bucket"] == 2000 and facts["options"]["quantise"]["dsub"] == 2
    assert facts["data"]["toy"]["licence"] == "CC0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.ftz", "toy.json"]


def test_the_same_examples_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    texts, labels = corpus()
    pairs = list(zip(texts, labels, strict=True))
    train(texts, labels, SMALL, tmp_path / "a" / "toy", scored="good")
    random.Random(3).shuffle(pairs)
    shuffled = [list(column) for column in zip(*pairs, strict=True)]
    train(*shuffled, SMALL, tmp_path / "b" / "toy", scored="good")
    train(*shuffled, SMALL.model_copy(update={"seed": 2}), tmp_path / "c" / "toy", scored="good")
    first, second, other = ((tmp_path / folder / "toy.ftz").read_bytes() for folder in "abc")
    assert first == second and first != other
    assert (tmp_path / "a" / "toy.json").read_bytes() == (tmp_path / "b" / "toy.json").read_bytes()


def test_the_file_is_what_every_fasttext_reads(tmp_path: Path) -> None:
    texts, labels = corpus(200)
    head = train(texts, labels, SMALL, tmp_path / "toy", scored="good")
    script = (
        "import fasttext, json, sys\n"
        "model = fasttext.load_model(sys.argv[1])\n"
        "print(json.dumps(dict((b, a) for a, b in model.f.predict(sys.argv[2] + '\\n', 2, 0.0, 'strict'))))"
    )
    line = head.lines(pa.array(texts[:1]))[0].as_py()
    said = subprocess.run(
        [sys.executable, "-c", script, str(head.path), line], capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout)["__label__good"] == pytest.approx(head.score(pa.array(texts[:1]))[0].as_py())


@pytest.mark.parametrize("loss", ["softmax", "ova", "hs"])
@pytest.mark.parametrize("quantise", [None, {"cutoff": 400}])
def test_every_kind_of_model_is_read(tmp_path: Path, loss: str, quantise: dict | None) -> None:
    texts, labels = corpus(200)
    options = {
        **SMALL.model_dump(),
        "loss": loss,
        "quantise": quantise,
        "min_n": 2,
        "max_n": 3,
        "normalisation": "plain",
    }
    head = train(texts, labels, TrainingOptions.model_validate(options), tmp_path / "toy", scored="good")
    assert head.path.suffix == (".ftz" if quantise else ".bin")
    model = ModelFile(head.path)
    assert model.quantised == bool(quantise) and model.finite() and model.options["loss"] == loss
    assert model.word_vectors().shape == (len(model.words), 8) and model.label_vectors().shape[1] == 8
    assert model.words[0] == "</s>"
    assert all(0 <= score <= 1 for score in head.score(pa.array(texts[:20])).to_pylist())


def test_vectors_are_those_that_fasttext_knows(tmp_path: Path) -> None:
    """Read by ours, and by floret from the file that it wrote itself."""
    floret = pytest.importorskip("floret")
    texts, labels = corpus(200)
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"__label__{y} {x}\n" for x, y in zip(texts, labels, strict=True)))
    theirs = floret.train_supervised(str(lines), dim=6, epoch=2, wordNgrams=1, minn=0, maxn=0, thread=1, verbose=0)
    theirs.quantize(qnorm=True, dsub=4)
    theirs.save_model(str(tmp_path / "theirs.bin"))
    (tmp_path / "ours.ftz").write_bytes(standard((tmp_path / "theirs.bin").read_bytes()))
    model = ModelFile(tmp_path / "ours.ftz")
    for word, vector in list(zip(model.words, model.word_vectors(), strict=True))[:50]:
        assert vector == pytest.approx(theirs.get_word_vector(word), abs=1e-5)
    with pytest.raises(InputError, match="no sound fastText model"):
        ModelFile(tmp_path / "theirs.bin")


def test_text_that_looks_like_a_label_makes_none(tmp_path: Path) -> None:
    texts, labels = corpus(300)
    texts[1] += " __label__bad __label__evil </s> more"
    for name in ("plain", "dclm", "words"):
        options = SMALL.model_copy(update={"normalisation": name})
        assert set(train(texts, labels, options, tmp_path / name, scored="good").labels) == {"good", "bad"}


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a b", "c d"], ["x", "x"], "all examples have the label 'x'"),
        (["a b", "c d"], ["x", None], "1 of 2 examples have no label"),
        (["a b", "c d"], ["x", ""], "1 of 2 examples have no label"),
        (["a b", "c d"], ["x", "not good"], "'not good' has a space in it"),
        (["a b", "c d"], ["x", "y\u2028z"], "has a space in it"),
        (["a b"], ["x", "y"], "1 texts have 2 labels"),
        ([], [], "no examples"),
        ([None, " "], ["x", "y"], "no example has any text"),
        (["a b", "c d"], ["x", "y"], "no example has the scored label 'good'; labels: x, y"),
    ],
)
def test_examples_that_cannot_be_learned_are_refused(tmp_path: Path, texts: list, labels: list, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train(texts, labels, SMALL, tmp_path / "toy", scored="good")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_little_text_to_quantise_is_said(tmp_path: Path) -> None:
    few = ["one two three", "four five six"]
    with pytest.raises(InputError, match=r"fewer than 256 words and n-grams.*quantise: false"):
        train(few, ["good", "bad"], TrainingOptions(word_ngrams=1, bucket=0), tmp_path / "toy")
    with pytest.raises(InputError, match="lower min_count"):
        train(few, ["good", "bad"], TrainingOptions(min_count=50, word_ngrams=1, quantise=None), tmp_path / "toy")
    head = train(few, ["good", "bad"], TrainingOptions(quantise=None, bucket=100), tmp_path / "toy")
    assert head.path.name == "toy.bin"


def _failing(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Training runs `code` in its process, in the place of fastText."""
    run = subprocess.run
    monkeypatch.setattr(training.subprocess, "run", lambda args, **rest: run([sys.executable, "-c", code], **rest))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('Encountered NaN.')", "Encountered NaN.*too few examples.*lower lr"),
        ("import os; os.abort()", "training failed .signal 6.: it said nothing"),
        ("raise SystemExit('bad_alloc')", "training failed .code 1.: bad_alloc"),
    ],
)
def test_what_fasttext_dies_of_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    _failing(monkeypatch, code)
    with pytest.raises(CrawlmillError, match=message) as caught:
        train(*corpus(20), SMALL, tmp_path / "toy")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = train(*corpus(200), SMALL, tmp_path / "toy", scored="good")
    before = head.path.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(StorageError, match=r"cannot write .*toy.ftz: No space left"):
            train(*corpus(220), SMALL, tmp_path / "toy", scored="good")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.ftz", "toy.json"]
    assert head.path.read_bytes() == before and Head.open(head.path).scored == "good"


def test_a_model_cut_short_by_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json, pathlib, sys; work = pathlib.Path(json.load(sys.stdin)['folder']);"
        "(work / 'model').write_bytes(bytes(200))"
    )
    _failing(monkeypatch, code)
    monkeypatch.setattr(training, "_trainer", lambda: "fasttext")
    with pytest.raises(StorageError, match="not written whole"):
        train(*corpus(20), SMALL, tmp_path / "toy")


def test_without_a_fasttext_that_trains_it_says_which_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install floret"):
        train(*corpus(20), SMALL, tmp_path / "toy")


def test_autotune_finds_options_and_writes_them_down(tmp_path: Path) -> None:
    texts, labels = corpus(160)
    bad = SMALL.model_dump() | {
        "lr": 1e-6,
        "epoch": 1,
        "quantise": None,
        "bucket": 100,
        "autotune": {"trials": 3, "metric": "roc_auc"},
    }
    options = TrainingOptions.model_validate(bad)
    with pytest.raises(UsageError, match="needs a validation set"):
        train(texts, labels, options, tmp_path / "toy", scored="good")
    held_out = (texts[100:], labels[100:])
    with pytest.raises(UsageError, match="metric: accuracy"):
        train(texts, labels, options, tmp_path / "toy", validation=held_out)
    head = train(texts[:100], labels[:100], options, tmp_path / "toy", scored="good", validation=held_out)
    trials = head.facts["autotune"]["trials"]
    assert len(trials) == 3 and trials[0]["lr"] == 1e-6
    best = max(trials, key=lambda trial: trial["roc_auc"])
    assert best["roc_auc"] > trials[0]["roc_auc"]
    assert {key: head.facts["options"][key] for key in ("lr", "dim")} == {key: best[key] for key in ("lr", "dim")}
    again = train(texts[:100], labels[:100], options, tmp_path / "again", scored="good", validation=held_out)
    assert again.facts["sha256"] == head.facts["sha256"] and again.facts["options"]["autotune"] is None


def test_facts_are_added_to_a_model(tmp_path: Path) -> None:
    head = train(*corpus(200), SMALL, tmp_path / "toy", scored="good")
    update_facts(head.path, calibration={"scores": [0.0, 1.0], "shares": [0.1, 0.3]})
    again = Head.open(tmp_path / "toy")
    assert again.calibrated(pa.array([0.0, 0.5, None], pa.float32())).to_pylist() == [
        pytest.approx(0.1), pytest.approx(0.2), None,
    ]  # fmt: skip
    assert again.facts["sha256"] == head.facts["sha256"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 0.5\nepochs: 3", "line 2: unknown key 'epochs'; did you mean 'epoch'"),
        (
            "lr: 0.5\nquantise:\n  dsubs: 3",
            "line 3: unknown key 'quantise.dsubs'; did you mean 'dsub'?; valid here: cutoff",
        ),
        ("lr: -1", "line 1: lr: input should be greater than 0"),
        ("lr: 1\nlr: 2", "line 2: key 'lr' stands twice"),
        ("normalisation: word", "unknown text normalisation 'word'; known: plain, dclm, words"),
        ("min_n: 4", "min_n 4 is above max_n 0"),
        ("bucket: 0", "n-grams need buckets"),
        ("- lr", "a mapping"),
        ("lr: [", "not valid YAML"),
        ("loss: nss", "line 1: loss: input should be"),
    ],
)
def test_options_that_are_wrong_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_options(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_options_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("lr: 0.5\nquantise: {cutoff: 1000}\nautotune: false\n")
    assert load_options(path) == TrainingOptions(lr=0.5, quantise=training.Quantisation(cutoff=1000))
    path.write_text("")
    assert load_options(path) == TrainingOptions()
    with pytest.raises(RecipeError, match="cannot read training options"):
        load_options(tmp_path / "none.yaml")
