"""Training: the same tokenizer from the same texts, a sample that only ids decide, and words for what cannot be done."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sentences import combinations, corpus, trained

from pipeline.errors import InputError, RecipeError
from pipeline.tokenizer.files import parse
from pipeline.tokenizer.patterns import GPT2, KNOWN, expression
from pipeline.tokenizer.training import (
    UNBROKEN,
    Draw,
    Options,
    bounded,
    draw_keys,
    draws,
    load_options,
    parse_options,
    train,
)

AGAIN = """
import hashlib, sys
from sentences import corpus
from pipeline.tokenizer.training import Options, train
texts = corpus()
if sys.argv[1] == "backwards":
    texts.reverse()
print(hashlib.sha256(train(texts, Options(vocab_size=900))).hexdigest())
"""


@pytest.mark.parametrize(("order", "threads"), [("forwards", "1"), ("backwards", "2")])
def test_another_process_trains_the_same_bytes(order: str, threads: str) -> None:
    here = Path(__file__).resolve().parent
    path = os.pathsep.join((str(here), str(here.parents[1])))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": threads, "RAYON_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, order], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == trained().sha256


def test_ids_are_bytes_then_merges_then_special_tokens() -> None:
    options = Options(vocab_size=600, special=("<|end|>", "<|pad|>"), end_of_text="<|end|>")
    tokenizer = parse(train(corpus(), options), "<|end|>")
    assert tokenizer.special == {"<|end|>": 598, "<|pad|>": 599} and tokenizer.vocab_size == 600
    model = tokenizer.config["model"]
    made = ["".join(merge) for merge in model["merges"]]
    assert [model["vocab"][token] for token in made] == list(range(256, 598))


def test_digits_and_white_space_stay_apart_as_asked() -> None:
    for words, digits, spaces in combinations():
        known = trained(words, digits, spaces, 600).token_bytes
        assert known is not None
        texts = [token.decode("utf-8", "ignore") for token in known[256:-1]]
        most = max((len(run) for text in texts for run in re.findall(r"\d+", text)), default=0)
        assert most <= {"single": 1, "triples": 3, "runs": 9}[digits]
        if spaces == "single":
            assert not any(re.search(r"\s\s", text) and not text.strip() for text in texts)


def test_expressions_are_the_published_ones() -> None:
    assert GPT2 == r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    assert expression("gpt4", "triples", "lines") == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    assert len(KNOWN) == len(list(combinations()))


def test_tokens_are_no_longer_than_asked() -> None:
    known = parse(train(corpus(), Options(vocab_size=1000, max_token_length=5))).token_bytes
    assert known is not None and max(len(token) for token in known[:-1]) == 5


def test_too_few_texts() -> None:
    with pytest.raises(
        InputError, match=r"hold 3 merges that occur 2 times or more, .* needs 743; .* vocab_size of 260 or less"
    ):
        train(["abcd abcd"], Options(vocab_size=1000))
    assert parse(train(["abcd abcd"], Options(vocab_size=260))).vocab_size == 260


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vocab_sise": 1000}, "there is no option 'vocab_sise'; there are vocab_size, words"),
        ({"vocab_size": 256}, "256 bytes and 1 special tokens are 257"),
        ({"words": "bert"}, "words: .*'gpt2', 'gpt4' or 'gpt4o'"),
        ({"special": ["<|pad|>"]}, "none of the special tokens"),
        ({"special": ["<|endoftext|>", "<|endoftext|>"]}, "named twice"),
        ({"special": ["x", "<|endoftext|>"]}, "two bytes or more"),
        ({"shares": {}}, "name no source"),
        ({"shares": {"web": 0}}, "shares.web: "),
        ({"bytes": "many"}, "bytes: .*not a size"),
        ([1], "valid dictionary"),
    ],
)
def test_options_that_cannot_be(values: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_options(values)


def test_options_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("vocab_size: 1000\nbytes: 5MB\nshares: {web: 2, books: 1}\n")
    assert load_options(str(path)) == Options(vocab_size=1000, bytes=5_000_000, shares={"web": 2, "books": 1})
    path.write_text("")
    assert load_options(str(path)) == Options()


def test_the_options_in_the_docs_are_the_defaults() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "tokenizer.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    values = yaml.safe_load(text)
    assert values.keys() == Options.model_fields.keys() and parse_options(values) == Options()


@given(st.text(st.sampled_from("a 漢\n"), max_size=40), st.integers(0, 3))
def test_long_words_are_cut(text: str, times: int) -> None:
    whole = text + "x" * (times * UNBROKEN + 1) + text + " " * (times * UNBROKEN)
    cut = list(bounded(whole))
    assert "".join(cut) == whole
    assert not any(re.search(rf"\S{{{UNBROKEN + 1}}}|\s{{{UNBROKEN + 1}}}", piece) for piece in cut)
    assert list(bounded("")) == []


def test_a_megabyte_without_a_space_can_be_learned_from() -> None:
    letters = hashlib.shake_256(b"letters").hexdigest(500_000)
    assert parse(train([letters, *corpus()], Options(vocab_size=700))).vocab_size == 700


def share(draw: Draw) -> tuple[float, float]:
    return draw.sample / 2**64, 1 - draw.held / 2**64


def test_what_is_drawn_of_each_source() -> None:
    sizes = {"web": 1_000_000, "books": 100_000, "code": 10_000}
    equal = draws(sizes, Options(bytes=60_000, held_out=6000))
    # Of code there is less than 20,000 bytes: all but what is held out, and the others share the rest.
    assert share(equal["code"]) == (pytest.approx(0.9), pytest.approx(0.1))
    assert share(equal["web"]) == (pytest.approx(0.0255), pytest.approx(0.002))
    assert share(equal["books"]) == (pytest.approx(0.255), pytest.approx(0.02))
    proportional = draws(sizes, Options(bytes=111_000, shares="proportional"))
    assert [share(draw)[0] for draw in proportional.values()] == [pytest.approx(0.1)] * 3
    weighted = draws(sizes, Options(bytes=9000, shares={"web": 2, "books": 1, "code": 6}))
    assert [round(share(weighted[s])[0] * sizes[s]) for s in sizes] == [2000, 1000, 6000]
    everything = draws(sizes, Options())
    assert all(draw.sample == draw.held for draw in everything.values())


def test_sources_that_cannot_be_drawn_from() -> None:
    with pytest.raises(InputError, match="source 'books' holds no text"):
        draws({"web": 5, "books": 0}, Options())
    with pytest.raises(InputError, match="no text to learn from"):
        draws({}, Options())
    with pytest.raises(RecipeError, match="source 'books' has no share"):
        draws({"web": 5, "books": 5}, Options(shares={"web": 1}))
    with pytest.raises(RecipeError, match="source 'code' is not there"):
        draws({"web": 5}, Options(shares={"web": 1, "code": 1}))


def test_keys_depend_on_the_document_and_the_seed_alone() -> None:
    ids = [f"{number:032x}" for number in range(4000)]
    keys = draw_keys(ids, [0] * 4000, 0)
    assert np.array_equal(draw_keys(ids[::-1], [0] * 4000, 0)[::-1], keys)
    other = draw_keys(ids, [0] * 4000, 1)
    assert not np.intersect1d(keys, other).size and not np.intersect1d(keys, draw_keys(ids, [1] * 4000, 0)).size
    for drawn in (keys, other):
        assert 0.22 < np.mean(drawn < 2**62) < 0.28
