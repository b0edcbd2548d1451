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
    """A tokenizer.json, and the id of the token between texts."""

    def __init__(self, path: str | Path, eos: int | str | None = None) -> None:
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
    for name in ("tokens.json", "schedule.json", "tokenizer_config.json"):
        try:
            body = json.loads((path.parent / name).read_bytes())
            said = body["eos_token"] if name == "tokenizer_config.json" else body["tokenizer"]["eos"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # they are hints: without any, the tokenizer's own special tokens are asked
        return said["content"] if isinstance(said, dict) else said
    return None
