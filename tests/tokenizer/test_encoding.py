"""Encoding: both engines give the same tokens, which spell the text, whatever the text spells."""

import gzip
import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import FAST, SENTENCES, combinations, corpus, trained
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.errors import InputError, UsageError
from pipeline.tokenizer import encoding
from pipeline.tokenizer.encoding import Encoder, divisible
from pipeline.tokenizer.files import load, parse
from pipeline.tokenizer.patterns import LETTERS, stretches

SPECIAL = "<|endoftext|>"
PIECES = [
    *SENTENCES,
    SPECIAL,
    "<|endof",
    "text|>",
    "\0",
    "\r",
    "\n",
    " ",
    "'",
    "\u0301",
    "\u200d",
    "7",
    "漢",
    "a",
    "A",
    "é",
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@cache
def engines(*options: str) -> tuple[Encoder, Encoder]:
    """Both engines with the tokenizer of those options."""
    tokenizer = trained(*options)
    return Encoder(tokenizer, "gigatoken"), Encoder(tokenizer, "tokenizers")


def agree(fast: Encoder, slow: Encoder, texts: list[str]) -> None:
    """Both engines give the same tokens, and these spell the texts."""
    array = pa.array(texts, pa.large_string())
    one, other = fast.encode(array), slow.encode(array)
    differing = [texts[i] for i in range(len(texts)) if not np.array_equal(one.row(i), other.row(i))]
    assert not differing, differing[:3]
    assert not fast.round_trips(array, one).size
    assert not np.isin(one.tokens, list(fast.tokenizer.special.values())).any()


@pytest.mark.parametrize("options", combinations(), ids="-".join)
def test_every_way_of_splitting_gives_texts_back(options: tuple[str, str, str]) -> None:
    tokenizer = trained(*options, 600)  # type: ignore[call-arg]
    encoder = Encoder(tokenizer)
    assert (encoder.fallback is None) == (options in FAST) == encoder.name.startswith("gigatoken")
    array = pa.array(corpus(1, 100))
    encoded = encoder.encode(array)
    assert not encoder.round_trips(array, encoded).size and not encoder.audit(array, range(0, 100, 9), encoded)
    assert b"".join(encoder.decode(encoded.row(i)) for i in range(100)) == "".join(array.to_pylist()).encode()


@pytest.mark.parametrize("options", FAST, ids="-".join)
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
def test_engines_agree_on_any_texts(options: tuple[str, str, str], texts: list[str]) -> None:
    agree(*engines(*options), texts)


@pytest.mark.parametrize("options", FAST, ids="-".join)
def test_engines_agree_on_pathological_words(options: tuple[str, str, str]) -> None:
    units = ("a", "7", " ", "\n", "\r", "漢", "ab", "'s", "!", "é", "aB", "\u0301", "\0", "👍🏽", "\u3000", SPECIAL)
    agree(*engines(*options), [unit * (100_000 // len(unit)) for unit in units])


@pytest.mark.parametrize("options", FAST, ids="-".join)
def test_engines_agree_on_real_texts(options: tuple[str, str, str], shared_data: Callable[[str], Path]) -> None:
    with gzip.open(shared_data("labelled/langid/lingua_sentences.jsonl.gz"), "rt") as file:
        texts = [json.loads(line)["text"] for line in file][::5]
    agree(*engines(*options), texts)
    if options == FAST[0]:
        gpt2 = load(shared_data("labelled/models/tokenizers/gpt2"))
        agree(Encoder(gpt2, "gigatoken"), Encoder(gpt2, "tokenizers"), texts[::3])


# Code points around which engines with tables of another version of Unicode would differ: categories and scripts that
# were added late, and the ends of blocks.
ODD = [*range(0x250), *range(0x300, 0x370), *range(0x600, 0x700), *range(0xE00, 0xE60), *range(0x1C80, 0x1C90)]
ODD += [*range(0x2000, 0x2070), *range(0x3000, 0x3020), *range(0xA640, 0xA7FF), *range(0xFE00, 0xFE10)]
ODD += [*range(0x10D40, 0x10D90), *range(0x1E4D0, 0x1E500), *range(0x1E5D0, 0x1E600), *range(0x31350, 0x323B0, 64)]


@pytest.mark.parametrize("options", FAST, ids="-".join)
def test_engines_agree_on_odd_characters(options: tuple[str, str, str]) -> None:
    agree(*engines(*options), [f"a{c}b 1{c}2  {c}{c}.{c}\n{c} '{c}" for c in map(chr, ODD)])


def test_special_tokens_in_texts_are_text() -> None:
    texts = pa.array([f"{SPECIAL}{SPECIAL}", f"a {SPECIAL} b", SPECIAL[:-1], ""])
    for engine in ("gigatoken", "tokenizers"):
        encoder = Encoder(trained(), engine)  # type: ignore[arg-type]
        encoded = encoder.encode(texts)
        assert trained().eos not in encoded.tokens
        assert encoder.decode(encoded.row(1)) == f"a {SPECIAL} b".encode()


def test_forms_of_arrays() -> None:
    encoder = Encoder(trained())
    whole = encoder.encode(pa.array(list(SENTENCES)))
    assert whole.lengths.dtype == np.int64 and whole.tokens.dtype == np.uint32
    assert whole.offsets[-1] == len(whole.tokens) == whole.lengths.sum()
    for array in (
        pa.array(SENTENCES, pa.large_string()),
        pa.array([text.encode() for text in SENTENCES], pa.binary()),
        pa.chunked_array([list(SENTENCES[:7]), list(SENTENCES[7:])]),
        pa.array(["x", *SENTENCES, "y"]).slice(1, len(SENTENCES)),
    ):
        again = encoder.encode(array)
        assert np.array_equal(again.tokens, whole.tokens) and np.array_equal(again.lengths, whole.lengths)
        assert not encoder.round_trips(array, again).size
    some = encoder.encode(pa.array(["", None, "a", ""]))
    assert some.lengths.tolist() == [0, 0, 1, 0]
    nothing = encoder.encode(pa.array([], pa.string()))
    assert len(nothing.tokens) == len(nothing.lengths) == 0
    assert not encoder.round_trips(pa.array([], pa.string()), nothing).size


def test_bytes_that_are_no_text_are_refused() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")]
    )
    for array in (pa.array([b"\xff\xfe"], pa.binary()), broken):
        with pytest.raises(InputError, match="not UTF-8"):
            Encoder(trained()).encode(array)


def test_damage_is_found() -> None:
    encoder = Encoder(trained())
    texts = pa.array(list(SENTENCES))
    encoded = encoder.encode(texts)
    for row in (0, 7, len(SENTENCES) - 1):
        tokens = encoded.tokens.copy()
        place = encoded.offsets[row] + 1
        tokens[place] = 66 if tokens[place] != 66 else 67
        damaged = encoded._replace(tokens=tokens)
        assert encoder.round_trips(texts, damaged).tolist() == [row]
        assert encoder.audit(texts, [0, row, 3], damaged) in ([row], [row, row])
    # Other tokens that spell the same text are found by the audit alone.
    text = pa.array(["the"])
    spelled = encoding.Encoded(np.array([116, 104, 101], np.uint32), np.array([3]))
    assert not encoder.round_trips(text, spelled).size and encoder.audit(text, [0], spelled) == [0]
    # Tokens too many, too few, or of no vocabulary.
    for ids in ([116, 104], [116, 104, 101, 101], [116, 104, 4_000_000_000]):
        wrong = encoding.Encoded(np.array(ids, np.uint32), np.array([len(ids)]))
        assert encoder.round_trips(text, wrong).tolist() == [0]


@cache
def either(*options: str) -> Encoder:
    """The engine that is taken for those options."""
    return Encoder(trained(*options))


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=9)), max_size=30).map("".join),
    size=st.integers(1, 40),
)
def test_a_text_in_stretches_has_the_same_tokens(text: str, size: int) -> None:
    cut = list(stretches(text, size))
    assert "".join(cut) == text
    for options in (("gpt2", "runs", "runs"), ("gpt4", "triples", "lines"), ("gpt4o", "single", "single")):
        encoder = either(*options)
        assert divisible(encoder.tokenizer)
        assert np.array_equal(encoder.encode(pa.array(cut)).tokens, encoder.encode(pa.array([text])).tokens)


@pytest.mark.parametrize("options", combinations(), ids="-".join)
def test_stretches_of_every_way_of_splitting(options: tuple[str, str, str]) -> None:
    slow = Encoder(trained(*options, 600), "tokenizers")  # type: ignore[call-arg]
    for text in corpus(2, 12):
        for size in (1, 5, 60):
            cut = list(stretches(text, size))
            assert np.array_equal(slow.encode(pa.array(cut)).tokens, slow.encode(pa.array([text])).tokens)


def test_places_to_cut_are_behind_letters() -> None:
    import re
    import unicodedata

    letters = [c for c in map(chr, range(0x30000)) if re.match(f"[{LETTERS}]", c)]
    assert len(letters) > 30_000
    assert {unicodedata.category(c)[0] for c in letters} == {"L"}


def test_long_texts_are_encoded_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array(["short", " ".join(corpus(3, 40)), "", "a" * 5000, " ".join(corpus(4, 30))])
    for engine in ("gigatoken", "tokenizers"):
        encoder = Encoder(trained(), engine)  # type: ignore[arg-type]
        monkeypatch.undo()
        whole = encoder.encode(texts)
        monkeypatch.setattr(encoding, "STRETCH", 1000)
        assert encoder._divided(texts.cast(pa.large_string()))[1] is not None
        cut = encoder.encode(texts)
        assert np.array_equal(cut.tokens, whole.tokens) and np.array_equal(cut.lengths, whole.lengths)


def test_a_text_too_long_for_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = Encoder(trained()), Encoder(trained(), "tokenizers")
    monkeypatch.setattr(encoding, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"a text holds 1,001 bytes in which no end of a word is certain"):
        slow.encode(pa.array(["a" * 1001]))
    assert fast.encode(pa.array(["a" * 1001])).lengths[0] > 0


def test_an_engine_that_fails_is_replaced() -> None:
    class PanicException(BaseException):
        pass

    class Broken:
        def encode_batch(self, *_: Any, **__: Any) -> None:
            raise PanicException("index out of bounds")

    encoder = Encoder(trained())
    encoder._fast = Broken()
    texts = pa.array(list(SENTENCES))
    encoded = encoder.encode(texts)
    assert encoder.name.startswith("tokenizers") and encoder.fallback == "gigatoken failed: index out of bounds"
    assert not encoder.round_trips(texts, encoded).size


def test_an_encoder_can_be_sent_to_another_process() -> None:
    again = pickle.loads(pickle.dumps(Encoder(trained(), "tokenizers", parallel=False)))
    assert again.name.startswith("tokenizers") and again.tokenizer == trained()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalizer"),
        (
            {
                "pre_tokenizer": {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                }
            },
            "pre-tokenizer",
        ),
        ({"pre_tokenizer": None}, "pre-tokenizer"),
        ({"model": {"ignore_merges": True}}, "ignore_merges"),
    ],
)
def test_tokenizers_that_gigatoken_is_not_trusted_with(changes: dict[str, Any], words: str) -> None:
    config = json.loads(trained().body)
    changed = {name: config[name] | value if name == "model" else value for name, value in changes.items()}
    encoder = Encoder(parse(json.dumps(config | changed).encode()))
    assert encoder.name.startswith("tokenizers") and words in (encoder.fallback or "")
    texts = pa.array(corpus(5, 20))
    assert not encoder.audit(texts, range(20), encoder.encode(texts))


def test_an_engine_that_differs_is_refused() -> None:
    config = json.loads(trained().body)
    config["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    with pytest.raises(UsageError, match=r"gigatoken encodes .* other than tokenizers does"):
        Encoder(parse(json.dumps(config).encode()), "gigatoken")
    with pytest.raises(UsageError, match="no engine 'fast'"):
        Encoder(trained(), "fast")  # type: ignore[arg-type]


def test_added_tokens_that_are_not_special_stay_tokens() -> None:
    config = json.loads(trained().body)
    extra = {**config["added_tokens"][0], "id": trained().vocab_size, "content": "<tool>", "special": False}
    tokenizer = parse(json.dumps(config | {"added_tokens": [*config["added_tokens"], extra]}).encode())
    encoder = Encoder(tokenizer)
    encoded = encoder.encode(pa.array([f"a<tool>{SPECIAL}"]))
    assert "not special" in (encoder.fallback or "") and not divisible(tokenizer)
    assert trained().vocab_size in encoded.tokens and tokenizer.eos not in encoded.tokens


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(
        corpus(),
        trainers.UnigramTrainer(
            vocab_size=500, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    return made


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    names = ["[UNK]", "</s>"]
    made.train_from_iterator(
        corpus(), trainers.WordPieceTrainer(vocab_size=700, special_tokens=names, show_progress=False)
    )
    return made


def sentencepiece() -> Tokenizer:
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        corpus(0, 60),
        trainers.BpeTrainer(vocab_size=800, special_tokens=names, show_progress=False, max_token_length=12),
    )
    config = json.loads(made.to_str())
    config["added_tokens"] = config["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(config))


@pytest.mark.parametrize("make", [unigram, wordpiece, sentencepiece])
def test_other_models_work_and_keep_special_tokens_for_themselves(make: Callable[[], Tokenizer]) -> None:
    tokenizer = parse(make().to_str().encode())
    assert tokenizer.eos_token == "</s>" and tokenizer.token_bytes is None and not tokenizer.lossless
    encoder = Encoder(tokenizer)
    assert encoder.name.startswith("tokenizers")
    texts = pa.array(["The mill stands at the river", "</s> a</s>b </s> </s></s>", "水车 𓀀", ""])
    encoded = encoder.encode(texts)
    assert tokenizer.eos not in encoded.tokens and encoded.lengths[3] == 0 and encoded.lengths[0] > 0
    assert not encoder.audit(texts, range(4), encoded)
    if make is not wordpiece:  # which loses white space
        assert 0 not in encoder.round_trips(texts, encoded)
    if make is sentencepiece:
        assert not encoder.round_trips(texts, encoded).size
        assert np.array_equal(Encoder(tokenizer, "gigatoken").encode(texts).tokens, encoded.tokens)
