"""The report: its numbers are those that one counts by hand."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sentences import SENTENCES, trained

from pipeline.tokenizer.encoding import Encoder
from pipeline.tokenizer.report import Usage

TEXTS = ["The mill stands at the river.", "水车在河边转动。", "", "The mill"]
SOURCES = ["web", "web", None, "books"]
LANGUAGES = ["en", "zh", None, "en"]


def test_counts_of_texts() -> None:
    encoder = Encoder(trained())
    usage = Usage(trained())
    usage.add_texts(encoder, pa.array(TEXTS[:2]), SOURCES[:2], LANGUAGES[:2])
    usage.add_texts(encoder, pa.array(TEXTS[2:]), SOURCES[2:], LANGUAGES[2:])
    facts = usage.facts()
    lengths = [len(encoder.encode(pa.array([text])).tokens) for text in TEXTS]
    assert facts["all"]["documents"] == 4 and facts["all"]["tokens"] == sum(lengths) == usage.counts.sum()
    web = facts["sources"]["web"]
    assert (web["documents"], web["bytes"]) == (2, sum(len(text.encode()) for text in TEXTS[:2]))
    assert web["bytes_per_token"] == web["bytes"] / (lengths[0] + lengths[1])
    assert facts["sources"]["books"]["tokens_per_word"] == lengths[3] / 2
    assert facts["languages"]["en"]["tokens"] == lengths[0] + lengths[3]
    assert facts["languages"]["unknown"]["bytes_per_token"] is None
    assert list(facts["sources"]) == ["web", "books", "unknown"]
    assert facts["all"]["round_trips"] == 1
    assert facts["most_frequent"][0]["count"] == usage.counts.max()
    assert facts["unused"]["tokens"] == (usage.counts[:-1] == 0).sum()
    assert json.loads(json.dumps(facts)) == facts


def test_parts_of_characters_are_counted() -> None:
    encoder, usage = Encoder(trained()), Usage(trained())
    usage.add_texts(encoder, pa.array(["\U00013000"]), ["x"], [None])  # a hieroglyph that no merge makes whole
    assert usage.facts()["all"]["parts"] == 1
    usage = Usage(trained())
    usage.add_texts(encoder, pa.array(["the mill"]), ["x"], [None])
    assert usage.facts()["all"]["parts"] == 0


def test_texts_that_do_not_come_back_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, usage = Encoder(trained()), Usage(trained())
    monkeypatch.setattr(Encoder, "round_trips", lambda *_: np.array([1]))
    usage.add_texts(encoder, pa.array(TEXTS), SOURCES, LANGUAGES)
    assert usage.facts()["all"]["round_trips"] == 0.75 and usage.facts()["sources"]["web"]["round_trips"] == 0.5


def test_counts_of_stored_tokens() -> None:
    encoded = Encoder(trained()).encode(pa.array(SENTENCES))
    n = len(SENTENCES)
    sizes = np.array([len(text.encode()) for text in SENTENCES])
    stored, texts = Usage(trained()), Usage(trained())
    stored.add_tokens(encoded.tokens.astype(np.uint16), encoded.lengths, sizes, ["web"] * n, ["en"] * n)
    texts.add_texts(Encoder(trained()), pa.array(SENTENCES), ["web"] * n, ["en"] * n)
    one, other = stored.facts(), texts.facts()
    assert one["all"]["round_trips"] is None and one["all"]["tokens_per_word"] is None
    for name in ("bytes", "tokens", "bytes_per_token", "parts"):
        assert one["all"][name] == other["all"][name]
    assert one["unused"] == other["unused"] and one["most_frequent"] == other["most_frequent"]
    with pytest.raises(ValueError, match="token 5000 is none of 900"):
        stored.add_tokens(np.array([5000]), np.array([1]), np.array([1]), ["x"], ["x"])
