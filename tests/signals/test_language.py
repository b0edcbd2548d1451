"""Language and script: what is identified, what is safe, what the table of scripts holds."""

import gzip
import json
import sys
import types
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import CrawlmillError
from pipeline.signals import language
from pipeline.signals.language import Language, LanguageSignals, candidates, identify, script_share
from pipeline.tables import DOCUMENTS

ENGLISH = "The river had risen in the night, and by morning the wheel of the old mill was turning again."
GERMAN = "Der Fluss war in der Nacht gestiegen, und am Morgen drehte sich das Rad der alten Mühle wieder."
RUSSIAN = "Ночью река поднялась, и к утру колесо старой мельницы снова вращалось."
JAPANESE = "夜のうちに川の水かさが増し、朝には古い水車が再び回っていた。"


@pytest.mark.parametrize(("text", "code"), [(ENGLISH, "en"), (GERMAN, "de"), (RUSSIAN, "ru"), (JAPANESE, "ja")])
def test_plain_texts(text: str, code: str) -> None:
    found = identify(text)
    assert found.code == code
    assert 0.6 < found.score <= 1.0


def test_only_the_first_characters_count_and_lines_do_not_matter() -> None:
    assert identify(ENGLISH + GERMAN * 100, max_chars=len(ENGLISH)) == identify(ENGLISH)
    assert identify(ENGLISH.replace(", ", ",\n")) == identify(ENGLISH)


def test_candidates_come_best_first() -> None:
    found = candidates(ENGLISH, k=3)
    assert len(found) == 3 and found[0] == identify(ENGLISH) == identify(ENGLISH, k=3)
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)


@pytest.mark.parametrize("text", ["", " \n\t", "123 456", "\x00\x00", "🎉🎊" * 50, "\ufffd" * 100, "...!!!", "__ 1_0"])
def test_text_without_letters_has_no_language(text: str) -> None:
    assert identify(text) == Language(None, 0.0)
    assert script_share(text, "en") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH.replace(" ", "\x00"),
        "</s> " + ENGLISH,
        ENGLISH + " \ud800",
        "\ufffd " + ENGLISH,
        "🎉 " + ENGLISH,
        ENGLISH.upper(),
    ],
)
def test_hostile_text_keeps_its_language(text: str) -> None:
    assert identify(text).code == "en"


@pytest.mark.parametrize("text", ["a" * 10_000_000, "__label__de " * 1000, "\u202e" + "x\u0301" * 3000, "</s>a"])
def test_hostile_text_is_survived(text: str) -> None:
    found = identify(text)
    assert 0.0 <= found.score <= 1.0
    assert 0.0 <= script_share(text, "en") <= 1.0


@pytest.mark.parametrize(
    ("text", "code", "share"),
    [
        (ENGLISH, "en", 1.0),
        (RUSSIAN, "en", 0.0),
        (RUSSIAN, "ru", 1.0),
        ("привет abcd", "ru", 0.6),
        (JAPANESE, "ja", 1.0),
        ("漢字かなカナー", "zh", 2 / 6),
        ("한글 漢字", "ko", 1.0),
        ("Ђ đ", "sr", 1.0),
        ("ﬁ ½ x² 123 ", "en", 1.0),
        (RUSSIAN, "tlh", 1.0),
        (RUSSIAN, "", 1.0),
    ],
)
def test_script_share(text: str, code: str, share: float) -> None:
    assert script_share(text, code) == pytest.approx(share)


def test_every_label_of_the_model_has_scripts() -> None:
    labels = {found.code for text in ("a", "я", "ا", "अ", JAPANESE) for found in candidates(text, k=176)}
    assert len(labels) > 150
    assert labels <= set(language._scripts().of_language)
    assert len(language._scripts().of_language) == 176


def test_letters_agree_with_the_names_of_unicode() -> None:
    """An independent reading: the names of letters begin with their script's, but for a few."""
    scripts = language._scripts()
    names = {
        "ru": "CYRILLIC",
        "el": "GREEK",
        "he": "HEBREW",
        "th": "THAI",
        "hi": "DEVANAGARI",
        "ta": "TAMIL",
        "hy": "ARMENIAN",
    }
    for code, name in names.items():
        number = np.flatnonzero(scripts.of_language[code])[0]
        ours = set(np.flatnonzero(scripts.of_letter == number).tolist())
        assigned = [p for p in range(0x30000) if unicodedata.category(chr(p)).startswith("L")]
        named = {p for p in assigned if unicodedata.name(chr(p), "").startswith(name + " ")}
        assert len(named - ours) <= 2, name  # a letter or two that Unicode counts as shared, as the Greek numeral sign
        assert ours and all(unicodedata.category(chr(p))[0] in "LC" for p in ours), name  # C: newer than this Python


def test_annotator() -> None:
    batch = pa.record_batch([pa.array([ENGLISH, None, "", RUSSIAN * 1000])], ["text"])
    found = LanguageSignals().annotate(batch)
    assert found.schema == LanguageSignals.schema
    assert found.schema.equals(pa.schema([DOCUMENTS.field(name) for name in found.schema.names]), check_metadata=True)
    assert found.column("language").to_pylist() == ["en", None, None, "ru"]
    assert found.column("script_share").to_pylist() == [1.0, None, 1.0, 1.0]
    scores = found.column("language_score").to_pylist()
    assert scores[1] is None and scores[2] == 0.0
    assert scores[0] == pytest.approx(identify(ENGLISH).score)
    assert LanguageSignals().annotate(batch.slice(0, 0)).num_rows == 0


def test_missing_fasttext_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    language._predictor.cache_clear()
    try:
        with pytest.raises(CrawlmillError, match="pip install fasttext"):
            identify(ENGLISH)
    finally:
        language._predictor.cache_clear()


def test_another_fasttext_without_the_binding_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def predict(self, texts: list[str], k: int) -> tuple:
            assert isinstance(texts, list)
            return [["__label__xx", "__label__yy"][:k]], np.array([[1.00005, 0.2]])[:, :k]

    monkeypatch.setitem(sys.modules, "fasttext", types.SimpleNamespace(load_model=lambda path: Model()))
    language._predictor.cache_clear()
    try:
        assert candidates("text", k=2) == [Language("xx", 1.0), Language("yy", 0.2)]
    finally:
        language._predictor.cache_clear()


def test_accuracy_on_real_sentences(shared_data: Callable[[str], Path]) -> None:
    texts: dict[str, list[str]] = defaultdict(list)
    for line in gzip.decompress(shared_data("labelled/langid/lingua_sentences.jsonl.gz").read_bytes()).splitlines():
        row = json.loads(line)
        if len(texts[row["lang"]]) < 60:
            texts[row["lang"]].append(row["text"])
    unknown = {"lg", "mi", "sn", "st", "tn", "ts", "xh", "zu"}  # not among the model's 176
    right = {
        code: np.mean([identify(text).code == code.replace("nb", "no") for text in found])
        for code, found in texts.items()
        if code not in unknown
    }
    assert np.mean(list(right.values())) > 0.87
    assert min(right[code] for code in ("en", "de", "fr", "es", "ru", "zh", "ja", "ko", "el", "he", "th")) > 0.85
    fitting = [share >= 0.9 for code, found in texts.items() for share in [script_share(text, code) for text in found]]
    assert np.mean(fitting) > 0.95  # some of the sentences carry mark-up or another language
