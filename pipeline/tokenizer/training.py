"""Training of byte-level BPE: what is asked for, which documents are learned from, and the tokenizer.json.

    body = train(texts, Options(vocab_size=32_768))

Every byte is a token, so that every text has tokens. The ids are those of the bytes (0 to 255), then merges in the order in
which they were learned, then special tokens.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from pipeline import options
from pipeline.errors import InputError, RecipeError
from pipeline.options import Size
from pipeline.tokenizer.files import BYTES, as_json
from pipeline.tokenizer.patterns import GPT2, Digits, Spaces, Words, expression
from pipeline.yaml_files import read_yaml

UNBROKEN = 1000
"""Characters with or without white space on end, beyond which a text is cut for training: a word of a megabyte would be
searched anew for thousands of merges, and what it repeats is not language."""

HELD_SHARE = 0.1
"""Of the documents of a source, the share that is held out at most."""

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(options.Options):
    """What a tokeniser is trained with; the YAML file of `crawlmill tokenizer train --config`.

    `vocab_size` counts bytes, merges and special tokens. 32,768 fits in two bytes a token and is a multiple of 128, as the
    matrices of a model are best; a model that pads its embedding needs no padding here. `words`, `digits` and `spaces` say
    how texts are split before anything is merged (`patterns.expression`). Merges that are found fewer than `min_frequency`
    times are not made, nor tokens longer than `max_token_length` bytes.

    `special` are the special tokens, and `end_of_text` the one of them that ends a document. The other options say what is
    learned from: `bytes` of text at most, of which each source gives a share (`shares`: `equal`, `proportional` to what
    there is, or a weight for each source), and `held_out` bytes that are kept for the report. `seed` draws other documents.
    """

    vocab_size: int = Field(default=32_768, gt=0, le=2**31 - 1)
    words: Words = "gpt4"
    digits: Digits = "triples"
    spaces: Spaces = "lines"
    min_frequency: int = Field(default=2, ge=1)
    max_token_length: int | None = Field(default=64, ge=2)
    special: tuple[str, ...] = ("<|endoftext|>",)
    end_of_text: str = "<|endoftext|>"
    bytes: Size = 1_000_000_000
    held_out: Size = 20_000_000
    shares: Literal["equal", "proportional"] | dict[str, Weight] = "equal"
    seed: int = Field(default=0, ge=0)

    @field_validator("special")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a special token is named twice")
        if any(len(name.encode()) < 2 for name in value):
            raise ValueError("a special token has two bytes or more: single bytes are tokens already")
        return value

    @field_validator("shares")
    @classmethod
    def _some(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if not value:
            raise ValueError("shares name no source")
        return value

    @model_validator(mode="after")
    def _enough(self) -> "Options":
        if self.end_of_text not in self.special:
            raise ValueError(f"end_of_text {self.end_of_text!r} is none of the special tokens")
        least = 256 + len(self.special)
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size {self.vocab_size} is too small: 256 bytes and {len(self.special)} special tokens are {least}"
            )
        return self

    @property
    def expression(self) -> str:
        """The regular expression that texts are split by."""
        return expression(self.words, self.digits, self.spaces)


def load_options(path: str) -> Options:
    """The options of a YAML file. Raises RecipeError for what it cannot say."""
    body = read_yaml(path, "options of a tokenizer").body
    return parse_options(body if body is not None else {}, path)


def parse_options(values: object, where: str = "options") -> Options:
    """Options from what a YAML file holds; `where` is how errors name it. Raises RecipeError."""
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        # Of a value that may be of several kinds, the error of the last kind says most.
        problem = error.errors()[-1]
        name = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))  # not the kind of a value
        if problem["type"] == "extra_forbidden":
            known = ", ".join(Options.model_fields)
            raise RecipeError(f"{where}: there is no option {name!r}; there are {known}") from error
        text = problem["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where}: {name + ': ' if name else ''}{text}") from error


def train(texts: Iterable[str], options: Options) -> bytes:
    """The tokenizer.json that is learned from texts: the same bytes for the same texts in any order.

    Raises InputError where the texts hold too few merges for the vocabulary.
    """
    learner = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(options.expression), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size - len(options.special),
        min_frequency=options.min_frequency,
        show_progress=False,
        initial_alphabet=sorted(BYTES),
        # The library makes tokens that are shorter than this.
        max_token_length=options.max_token_length + 1 if options.max_token_length else None,
    )
    learner.train_from_iterator((piece for text in texts for piece in bounded(text)), trainer)
    ids = dict(sorted(BYTES.items(), key=lambda item: item[1]))
    merges = []
    for left, right in map(_pair, json.loads(learner.to_str())["model"]["merges"]):
        # Now and then a token can be made in two ways; without the second every merge has an id of its own, in order.
        if left + right not in ids:
            ids[left + right] = len(ids)
            merges.append([left, right])
    if len(ids) < options.vocab_size - len(options.special):
        raise InputError(
            f"the texts hold {len(merges):,} merges that occur {options.min_frequency} times or more, and a vocabulary of "
            f"{options.vocab_size:,} needs {options.vocab_size - 256 - len(options.special):,}; give more text, or a "
            f"vocab_size of {len(ids) + len(options.special):,} or less"
        )
    for name in options.special:
        if name in ids:
            raise InputError(f"the special token {name!r} was learned as a word; give it a name that no text holds")
        ids[name] = len(ids)
    return as_json(ids, merges, list(options.special), _pre_tokenizer(options.expression))


def bounded(text: str) -> Iterator[str]:
    """A text, cut behind each UNBROKEN characters that have no white space among them, or nothing else."""
    start = 0
    for found in _LONG.finditer(text):
        yield text[start : found.end()]
        start = found.end()
    if start < len(text):
        yield text[start:]


_LONG = re.compile(rf"\S{{{UNBROKEN}}}|\s{{{UNBROKEN}}}")


class Draw(NamedTuple):
    """Documents that are taken of a source: with `draw_keys` below `sample`, and for the report those from `held` on."""

    sample: int
    held: int


def draws(sizes: Mapping[str, int], options: Options) -> dict[str, Draw]:
    """Which documents to take of sources that hold so many bytes (`sizes`).

    A source that has less than its share gives all that it has, and the others share the rest by their weights. Raises
    InputError for sources without text, and RecipeError for shares that name other sources.
    """
    empty = sorted(source for source, size in sizes.items() if size <= 0)
    if empty or not sizes:
        raise InputError(f"source {empty[0]!r} holds no text" if empty else "there is no text to learn from")
    weights = _weights(sizes, options)
    held = {source: min(HELD_SHARE, options.held_out * weights[source] / sizes[source]) for source in sizes}
    left = {source: size * (1 - held[source]) for source, size in sizes.items()}
    wanted: dict[str, float] = {}
    budget = float(options.bytes)
    while left:
        total = sum(weights[source] for source in left)
        short = [source for source in sorted(left) if left[source] <= budget * weights[source] / total]
        if not short:
            wanted |= {source: budget * weights[source] / total for source in left}
            break
        for source in short:
            wanted[source] = left.pop(source)
        budget = options.bytes - sum(wanted.values())
    found = {}
    for source, size in sizes.items():
        top = _place(1 - held[source])
        found[source] = Draw(min(top, _place(wanted[source] / size)), top)
    return found


def draw_keys(ids: Iterable[str], pieces: Iterable[int], seed: int) -> np.ndarray:
    """uint64: a number for every document that depends on its id, its piece and the seed alone, and is evenly spread."""
    return np.array(
        [
            int.from_bytes(hashlib.blake2b(f"{id_}\x1f{piece}\x1f{seed}".encode(), digest_size=8).digest())
            for id_, piece in zip(ids, pieces, strict=True)
        ],
        np.uint64,
    )


def _weights(sizes: Mapping[str, int], options: Options) -> dict[str, float]:
    """The share of each source in what is learned from; they sum to 1."""
    shares = options.shares
    if isinstance(shares, dict):
        other = sorted(shares.keys() ^ sizes.keys())
        if other:
            what = "is not there" if other[0] in shares else "has no share"
            raise RecipeError(f"shares: source {other[0]!r} {what}; the sources are {', '.join(sorted(sizes))}")
        given = {source: float(shares[source]) for source in sizes}
    else:
        given = {source: float(size) if shares == "proportional" else 1.0 for source, size in sizes.items()}
    total = math.fsum(given.values())
    return {source: weight / total for source, weight in given.items()}


def _place(share: float) -> int:
    return min(2**64, max(0, int(share * 2**53) << 11))


def _pair(merge: list[str] | str) -> list[str]:
    # Versions of `tokenizers` before 0.20 write "left right".
    return merge.split(" ") if isinstance(merge, str) else merge


def _pre_tokenizer(split: str) -> dict[str, object]:
    if split == GPT2:
        return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
