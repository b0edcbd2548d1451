"""Toxicity of pages: a head trained on labelled comments, by page and by sentence, beside the density of listed words.

    head = Head.open("classifiers/models/toxicity")
    page_scores(head, texts, languages)      # a row a page: SCHEMA
    toxic_sentences(head, texts, 0.9)        # a row a sentence: SENTENCES

The head says how much a text reads like what people marked as hateful, insulting or obscene. It knows comments, and it has
no notion of who speaks: quoted hatred, reclaimed words and talk about violence can score high. Its card says how often.
It is made from a folder of data by

    python -m classifiers.toxicity train DATA --to classifiers/models/toxicity
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from classifiers.normalise import strings
from classifiers.scoring import Head, SentenceScores, sentence_columns
from classifiers.toxicity_sets import UNSEEN, Example, background, labelled
from classifiers.training import load_options, train, update_facts
from classifiers.wordlists import SCHEMA as LISTED
from classifiers.wordlists import WordLists
from pipeline.errors import InputError, UsageError
from pipeline.signals.base import field

TOXIC, CLEAN = "toxic", "clean"
SCHEMA = pa.schema(
    [
        field("toxicity", pa.float32(), "probability that the page as a whole is toxic", "0 to 1"),
        field("toxicity_max_sentence", pa.float32(), "highest probability of its sentences", "0 to 1"),
        field("toxicity_sentence_share", pa.float32(), "characters of sentences at or above the threshold", "share"),
        *LISTED,
    ]
)
SENTENCES = pa.schema(
    [
        field("row", pa.int32(), "number of the text"),
        field("start", pa.int64(), "where the sentence begins", "characters"),
        field("end", pa.int64(), "where it ends", "characters"),
        field("toxicity", pa.float32(), "probability that the sentence is toxic", "0 to 1"),
    ]
)
_DATA = Path(__file__).parent
_CLEAN_EXAMPLES = {
    "brown": 8000,
    "books": 6000,
    "wikitext2": 5000,
    "lingua": 15000,
    "crawl": 25000,
    "crawl_lines": 12000,
    "words": 8000,
}
"""Clean examples of each kind in training: no kind of text should be taken for toxic because it is rare."""
_IDENTITY_TIMES = 2
_OFTEN = 3
_TEMPLATED = ("hatecheck", "mhc")
_LICENCES = {
    "davidson": "MIT",
    "germeval2018": "CC-BY-4.0",
    "hatecheck": "CC-BY-4.0",
    "mhc": "CC-BY-4.0",
    "olid": "none seen",
    "toxic_spans": "CC0",
    "toxigen": "MIT",
    "unintended_bias": "Apache-2.0",
    "vicomtech": "CC-BY-SA-3.0",
    "brown": "see the index of nltk_data",
    "books": "public domain in the US",
    "wikitext2": "CC-BY-SA",
    "lingua": "Apache-2.0",
    "crawl": "of their publishers",
    "crawl_lines": "of their publishers",
    "words": "of Brown and WikiText-2, single words",
    "identity": "written for this project",
}


def page_scores(
    head: Head,
    texts: pa.Array | pa.ChunkedArray,
    languages: Sequence[str | None] | str | None = None,
    *,
    lists: WordLists | None = None,
    threshold: float | None = None,
) -> pa.RecordBatch:
    """`SCHEMA` for each text; null where there is nothing to score. Never raises over what a page holds.

    `languages`: codes by which word lists are chosen, none by default (the columns are null then); `lists`: ours by
    default. `threshold`: from which a sentence counts as toxic, by default that of the model's JSON
    (`sentence_threshold`). Raises UsageError where neither says one.
    """
    texts, threshold = strings(texts), _threshold(head, threshold)
    listed = (lists or WordLists.own()).densities(texts, languages if languages is not None else [None] * len(texts))
    most, share = sentence_columns(head.score_sentences(texts), len(texts), threshold)
    return pa.RecordBatch.from_arrays([head.score(texts), most, share, *listed.columns], schema=SCHEMA)


def toxic_sentences(
    head: Head, texts: pa.Array | pa.ChunkedArray, threshold: float | None = None, found: SentenceScores | None = None
) -> pa.RecordBatch:
    """`SENTENCES`: those at or above the threshold (that of the model's JSON by default), by row and start.

    `found`: what `head.score_sentences` gave, where the caller has it already. Raises UsageError as `page_scores`.
    """
    threshold = _threshold(head, threshold)
    found = head.score_sentences(texts) if found is None else found
    over = found.scores >= threshold  # NaN is not
    columns = (found.rows[over], found.starts[over], found.ends[over], found.scores[over])
    return pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=SENTENCES)


def _threshold(head: Head, given: float | None) -> float:
    threshold = head.facts.get("sentence_threshold") if given is None else given
    if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise UsageError(f"model {head.name} needs a threshold above 0 and up to 1 for sentences; its JSON has none")
    return float(threshold)


@cache
def _identity_file() -> Mapping[str, Any]:
    return yaml.safe_load((_DATA / "identity.yaml").read_text(encoding="utf-8"))


def identity_examples(kind: str) -> list[Example]:
    """Harmless sentences about groups of people: `training` or `evaluation`, which share no sentence."""
    found = []
    for language, one in _identity_file().items():
        for group, names in one["people"].items():
            for name in names:
                for sentence in one[kind]:
                    text = sentence.replace("{}", name)
                    found.append(
                        Example("identity", text[0].upper() + text[1:], False, "identity", language, sentence, group)
                    )
    return found


def training_examples(folder: str | Path) -> list[Example]:
    """What the head learns from, in an order of its own: the `train` parts of the labelled sets, of template sets no more
    hateful than harmless rows in each language; clean text without listed words; harmless sentences about groups.

    Raises InputError for sets that are missing.
    """
    folder = Path(folder)
    known = [e for e in labelled(folder) if e.part == "train"]
    chosen = _balanced(known)
    clean = [e for e in background(folder) if e.part == "train"]
    clean += _words(clean)
    for source, most in _CLEAN_EXAMPLES.items():
        chosen += _few(without_listed([e for e in clean if e.source == source]), most)
    return chosen + identity_examples("training") * _IDENTITY_TIMES


def _words(clean: Iterable[Example]) -> list[Example]:
    """Words that stand in edited English a few times, each alone: their letters are innocent too."""
    texts = [e.text for e in clean if e.source in ("brown", "wikitext2")]
    counts = Counter(word for text in texts for word in text.split() if len(word) > 2 and word.isalpha())
    return [Example("words", word, False, "words") for word, n in sorted(counts.items()) if n >= _OFTEN]


def without_listed(examples: Sequence[Example], lists: WordLists | None = None) -> list[Example]:
    """Those without a word of the lists of their language, nor of the English one."""
    lists = lists or WordLists.own()
    texts = pa.array([e.text for e in examples], pa.large_string())
    found = lists.count(texts, [e.language for e in examples]).matches + lists.count(texts, "en").matches
    return [e for e, n in zip(examples, found.sum(axis=1), strict=True) if n == 0]


def _balanced(examples: list[Example]) -> list[Example]:
    kept = [e for e in examples if e.source not in _TEMPLATED]
    for _, of in groupby(sorted((e for e in examples if e.source in _TEMPLATED), key=_kind), key=_kind):
        rows = list(of)
        harmless = [e for e in rows if not e.toxic]
        kept += harmless + _few([e for e in rows if e.toxic], len(harmless))
    return kept


def _kind(example: Example) -> tuple[str, str]:
    return example.source, example.language


def _few(examples: Iterable[Example], most: int) -> list[Example]:
    def order(example: Example) -> bytes:
        return hashlib.blake2b(example.text.encode("utf-8", "replace"), digest_size=8).digest()

    return sorted(examples, key=order)[:most]


def train_toxicity(folder: str | Path, to: str | Path, command: str = "") -> Head:
    """Trains the head on `training_examples` with the options in `models/toxicity.yaml`. Raises as `training.train`."""
    examples = training_examples(folder)
    if not any(e.toxic for e in examples):
        raise InputError(f"no toxic example under {folder}")
    counts = Counter((e.source, e.toxic) for e in examples)
    data = {
        source: {TOXIC: counts[source, True], CLEAN: counts[source, False], "licence": _LICENCES[source]}
        for source in sorted({e.source for e in examples})
    }
    head = train(
        [e.text for e in examples],
        [TOXIC if e.toxic else CLEAN for e in examples],
        load_options(_DATA / "models" / "toxicity.yaml"),
        to,
        scored=TOXIC,
        data=data,
        command=command,
    )
    update_facts(head.path, sentence_threshold=notes()["sentence_threshold"])
    return Head.open(head.path)


def notes() -> dict[str, Any]:
    """What people know of the head, for its JSON and its card: `models/toxicity.notes.yaml`."""
    return yaml.safe_load((_DATA / "models" / "toxicity.notes.yaml").read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """`train DATA --to PATH`: makes the head; its card is made by `benchmarks/toxicity.py`."""
    parser = argparse.ArgumentParser(prog="python -m classifiers.toxicity", description=train_toxicity.__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.add_argument("data", type=Path, help="folder with labelled/ and crawl/")
    command.add_argument("--to", type=Path, default=_DATA / "models" / "toxicity")
    given = parser.parse_args(arguments)
    head = train_toxicity(given.data, given.to, "python -m classifiers.toxicity train DATA")
    print(f"{head.path}: {head.path.stat().st_size:,} bytes; never seen: {', '.join(UNSEEN)}")


if __name__ == "__main__":
    main()
