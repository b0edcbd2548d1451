"""A tokenizer with the token that ends texts: strings to tokens and back, for evaluation and export."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.tokenizer import TokenizerError

END_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|endofdocument|>",
    "<|eos|>",
    "<eos>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
)
"""Names that the token which ends texts goes by, in the order in which they are looked for: those of `crawlmill tokenize`."""


class Vocabulary:
    """A tokenizer.json, with the ids of the tokens that end texts (`eos`) and begin them (`bos`): one token, as in training,
    unless `bos` says otherwise, as models of other makers do."""

    def __init__(self, path: str | Path, eos: int | str | None = None, bos: int | str | None = None) -> None:
        from tokenizers import Tokenizer

        self.path = Path(path)
        try:
            self.raw = self.path.read_bytes()
            self.tokenizer: Any = Tokenizer.from_str(self.raw.decode())
        except OSError as error:
            raise TokenizerError(f"cannot read tokenizer {path}: {error.strerror}") from error
        except Exception as error:  # tokenizers raises nothing more exact
            raise TokenizerError(f"cannot read tokenizer {path}: {error}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.eos = self._end(eos)
        self.bos = self.eos if bos is None else self._end(bos)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def sha256(self) -> str:
        """Of the file, as token folders and checkpoints name it."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def end(self) -> str:
        """The token that ends a text."""
        return self.tokenizer.id_to_token(self.eos)

    @property
    def begin(self) -> str:
        """The token that begins a text."""
        return self.tokenizer.id_to_token(self.bos)

    @cached_property
    def special(self) -> list[str]:
        """All special tokens."""
        return [t.content for t in self.tokenizer.get_added_tokens_decoder().values() if t.special]

    def encode(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Ids of each text; with `special` also what the tokenizer puts around texts, if it does so."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts), add_special_tokens=special)]

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=skip_special)

    def _end(self, eos: int | str | None) -> int:
        known = self.tokenizer.get_vocab(with_added_tokens=True)
        if isinstance(eos, str):
            if eos not in known:
                raise TokenizerError(f"{self.path} has no token {eos!r}; its special tokens: {', '.join(self.special)}")
            return known[eos]
        if eos is not None:
            if self.tokenizer.id_to_token(eos) is None:
                raise TokenizerError(f"{self.path} has no token with id {eos}, which should end texts")
            return eos
        found = [name for name in END_NAMES if name in self.special] or (self.special if len(self.special) == 1 else [])
        if not found:
            raise TokenizerError(
                f"{self.path} does not say which token ends a text; name it with --eos: {', '.join(self.special) or 'none'}"
            )
        return known[found[0]]


def end_beside(path: Path) -> int | str | None:
    """The token that ends texts, as files beside a tokenizer.json say: of a token folder, a mix, or a model."""
    for name in ("tokens.json", "schedule.json"):
        about = _mapping(path.parent / name).get("tokenizer")
        if isinstance(about, dict) and isinstance(about.get("eos"), int):
            return about["eos"]
    return _named(path, "eos_token")


def begin_beside(path: Path) -> str | None:
    """The token that begins texts, as a model's tokenizer_config.json says."""
    return _named(path, "bos_token")


def _named(path: Path, token: str) -> str | None:
    said = _mapping(path.parent / "tokenizer_config.json").get(token)
    said = said.get("content") if isinstance(said, dict) else said
    return said if isinstance(said, str) else None


def _mapping(path: Path) -> dict[str, Any]:
    """Files beside a tokenizer are hints: without any, its own special tokens are asked."""
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
