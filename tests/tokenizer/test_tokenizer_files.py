"""Tokenizer files: what is read, and what is refused with which words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sentences import trained

from pipeline.errors import InputError, UsageError
from pipeline.tokenizer.encoding import Encoder
from pipeline.tokenizer.files import BYTES, from_merges, load, parse


def edited(**changes: Any) -> bytes:
    return json.dumps(json.loads(trained().body) | changes).encode()


def test_gpt2_has_the_ids_that_were_published(shared_data: Callable[[str], Path]) -> None:
    tokenizer = load(shared_data("labelled/models/tokenizers/gpt2"))
    assert (tokenizer.vocab_size, tokenizer.eos, tokenizer.eos_token) == (50257, 50256, "<|endoftext|>")
    texts = pa.array(["Hello world", "The quick brown fox jumps over the lazy dog", "<|endoftext|>"])
    for engine in ("gigatoken", "tokenizers"):
        encoded = Encoder(tokenizer, engine).encode(texts)  # type: ignore[arg-type]
        assert encoded.row(0).tolist() == [15496, 995]
        assert encoded.row(1).tolist() == [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290]
        assert 50256 not in encoded.row(2)


def test_the_layout_of_gpt2_gives_the_same_tokenizer(tmp_path: Path) -> None:
    model = trained("gpt2", "runs", "runs").config["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n")
    assert load(tmp_path).body == trained("gpt2", "runs", "runs").body
    (tmp_path / "tokenizer.json").write_bytes(trained().body)
    assert load(tmp_path).sha256 == trained().sha256 == load(tmp_path / "tokenizer.json").sha256


def test_every_token_has_its_bytes() -> None:
    known = trained().token_bytes
    assert known is not None
    assert [known[byte] for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert known[trained().eos] == b"<|endoftext|>"
    assert len(set(known)) == trained().vocab_size
    assert sorted(BYTES.values()) == list(range(256))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff\xfe", "is not JSON"),
        (b"[1, 2]", "no `model`"),
        (b'{"model": {"type": "Magic"}}', "is no tokenizer that"),
        (b'{"version": "1.0"}', "no `model`"),
    ],
)
def test_what_is_no_tokenizer(body: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(body)


def test_a_vocabulary_with_holes() -> None:
    model = trained().config["model"]
    wider = {token: id_ + 5 if id_ > 500 else id_ for token, id_ in model["vocab"].items()}
    body = edited(model=model | {"vocab": wider}, added_tokens=[])
    with pytest.raises(InputError, match="holes in its vocabulary: 5 ids of 905 have no token, the first is 501"):
        parse(body)
    far = {token: 2**31 if id_ == 700 else id_ for token, id_ in model["vocab"].items()}
    with pytest.raises(InputError, match="have no token, the first is 700"):
        parse(edited(model=model | {"vocab": far}, added_tokens=[]))


def test_merges_that_are_dropped_at_random() -> None:
    with pytest.raises(InputError, match="at random"):
        parse(edited(model=trained().config["model"] | {"dropout": 0.1}))


def test_the_end_of_text_must_be_clear() -> None:
    (end,) = trained().config["added_tokens"]
    with pytest.raises(UsageError, match="no special tokens, and one must end a text"):
        parse(edited(added_tokens=[]))
    model = trained().config["model"]
    renamed = {"<|fin|>" if token == end["content"] else token: id_ for token, id_ in model["vocab"].items()}
    body = edited(added_tokens=[end | {"content": "<|fin|>"}], model=model | {"vocab": renamed})
    with pytest.raises(UsageError, match=r"with --eos: <\|fin\|>"):
        parse(body)
    assert parse(body, "<|fin|>").eos_token == "<|fin|>"
    with pytest.raises(UsageError, match="has no token '<stop>'"):
        parse(body, "<stop>")
    with pytest.raises(UsageError, match="'er' is an ordinary token"):
        parse(body, "er")


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read tokenizer"):
        load(tmp_path / "nothing.json")
    with pytest.raises(InputError, match=r"holds no tokenizer\.json, and no vocab\.json with merges\.txt"):
        load(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(InputError, match="not readable"):
        load(tmp_path)


def test_damaged_merges() -> None:
    with pytest.raises(InputError, match="'a b c' is no merge"):
        from_merges(b'{"a": 0}', b"#version: 0.2\na b c\n")
    with pytest.raises(InputError, match="no vocabulary"):
        from_merges(b'["a"]', b"")


def test_what_gives_texts_back() -> None:
    prefixed = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    (end,) = trained().config["added_tokens"]
    stripping = {**end, "id": 900, "content": "<x>", "special": False, "lstrip": True}
    assert trained().lossless
    assert not parse(edited(pre_tokenizer=prefixed)).lossless
    assert not parse(edited(normalizer={"type": "NFC"})).lossless
    assert not parse(edited(added_tokens=[end, stripping])).lossless
