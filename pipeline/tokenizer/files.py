"""Tokeniser files: any `tokenizer.json`, or the vocabulary and merges that GPT-2 was published as."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pipeline.errors import InputError, UsageError

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
"""Names that the end-of-text token goes by, in the order in which they are looked for."""

VOCABULARIES, MERGES = ("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")
"""Names of the two files of GPT-2's layout."""


def _byte_characters() -> dict[str, int]:
    """GPT-2's notation: the character that stands for each byte. Printable ones for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_characters()
"""The byte that each character of a byte-level token stands for."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokeniser as its file describes it.

    `body` is the tokenizer.json and `sha256` the hash of its bytes: a file that says the same in other words has another
    hash, and is another tokeniser. `vocab_size` is one more than the largest id. `special` holds the ids of the special
    tokens, `added` those of added tokens that are ordinary text.
    """

    body: bytes
    sha256: str
    vocab_size: int
    eos: int
    eos_token: str
    special: dict[str, int]
    added: dict[str, int]
    byte_level: bool
    lossless: bool
    """Whether the bytes of a text's tokens are the bytes of the text: byte-level, without a normaliser or a prefix space."""
    tokens: dict[int, str] = field(repr=False, compare=False)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the file says."""
        return json.loads(self.body)

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...] | None:
        """The bytes of every id; None where they are not made of bytes. Special and added ones have those of their names."""
        if not self.byte_level:
            return None
        names = {id_: name for found in (self.special, self.added) for name, id_ in found.items()}
        return tuple(
            names[id_].encode() if id_ in names else _spelled(self.tokens[id_]) for id_ in range(self.vocab_size)
        )

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """`token_bytes` as one uint8 array, the first eight bytes of each as a little-endian uint64, and int64 offsets
        (vocab_size + 1) into the first."""
        if self.token_bytes is None:
            return None
        offsets = np.zeros(self.vocab_size + 1, np.int64)
        np.cumsum([len(token) for token in self.token_bytes], out=offsets[1:])
        heads = np.frombuffer(b"".join(token[:8].ljust(8, b"\0") for token in self.token_bytes), "<u8")
        return np.frombuffer(b"".join(self.token_bytes), np.uint8), heads, offsets

    def build(self) -> Tokenizer:
        """The tokeniser of the library `tokenizers`, without truncation and padding."""
        made = Tokenizer.from_str(self.body.decode())
        made.no_truncation()
        made.no_padding()
        return made

    def name(self, token: int) -> str:
        """A token as the file has it."""
        return self.tokens[token]


def load(path: str | Path, eos: str | None = None) -> TokenizerFile:
    """A tokenizer.json, a folder with one, or a folder with the vocabulary and merges of GPT-2's layout.

    `eos` names the end-of-text token; without it the first of END_NAMES that is a special token is taken. Raises InputError
    for what is no tokeniser, and UsageError where the end-of-text token is not clear.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return parse(path.read_bytes(), eos, str(path))
        if (path / "tokenizer.json").is_file():
            return parse((path / "tokenizer.json").read_bytes(), eos, str(path / "tokenizer.json"))
        vocabulary = next((path / name for name in VOCABULARIES if (path / name).is_file()), None)
        merges = next((path / name for name in MERGES if (path / name).is_file()), None)
        if vocabulary and merges:
            return parse(from_merges(vocabulary.read_bytes(), merges.read_bytes(), str(vocabulary)), eos, str(path))
    except OSError as error:
        raise InputError(f"cannot read tokenizer {path}: {error.strerror or error}") from error
    raise InputError(f"{path} holds no tokenizer.json, and no {VOCABULARIES[0]} with {MERGES[0]}")


def parse(body: bytes, eos: str | None = None, where: str = "tokenizer.json") -> TokenizerFile:
    """The tokeniser that the bytes of a tokenizer.json describe; `where` is how errors name it. Raises as `load` does."""
    config = _config(body, where)
    try:
        built = Tokenizer.from_str(body.decode())
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"{where} is no tokenizer that `tokenizers` can read: {error}") from error
    tokens = _vocabulary(built, where)
    listed = config.get("added_tokens") or []
    special = {str(token["content"]): int(token["id"]) for token in listed if token.get("special")}
    added = {str(token["content"]): int(token["id"]) for token in listed if not token.get("special")}
    eos_token = _end(special, {name: id_ for id_, name in tokens.items()}, eos, where)
    byte_level = _is_byte_level(config, tokens, special.keys() | added.keys())
    return TokenizerFile(
        body=body,
        sha256=hashlib.sha256(body).hexdigest(),
        vocab_size=len(tokens),
        eos=special[eos_token],
        eos_token=eos_token,
        special=special,
        added=added,
        byte_level=byte_level,
        lossless=byte_level and _keeps_all(config, listed),
        tokens=tokens,
    )


def from_merges(vocabulary: bytes, merges: bytes, where: str = "vocab.json") -> bytes:
    """The tokenizer.json of a byte-level BPE in GPT-2's layout, split into words as GPT-2 does. Raises InputError."""
    try:
        ids = json.loads(vocabulary)
        lines = merges.decode().split("\n")
    except ValueError as error:
        raise InputError(f"{where}: vocabulary or merges are not readable: {error}") from error
    if not isinstance(ids, dict) or not all(isinstance(id_, int) for id_ in ids.values()):
        raise InputError(f"{where} is no vocabulary: it must map tokens to ids")
    rules = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    wrong = next((" ".join(rule) for rule in rules if len(rule) != 2), None)
    if wrong is not None:
        raise InputError(f"{where}: {wrong!r} is no merge; a merge is two tokens with a space between them")
    special = [name for name in END_NAMES if name in ids]
    return as_json(ids, rules, special, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True})


def as_json(ids: dict[str, int], merges: list[list[str]], special: list[str], pre_tokenizer: dict[str, Any]) -> bytes:
    """A tokenizer.json of byte-level BPE. The same bytes whatever the version of `tokenizers`."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    body = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[name],
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name in sorted(special, key=ids.__getitem__)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level | pre_tokenizer if pre_tokenizer["type"] == "ByteLevel" else pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted(ids.items(), key=lambda item: item[1])),
            "merges": merges,
        },
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _config(body: bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(body)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise InputError(f"{where} holds no tokenizer: it has no `model`")
    if config["model"].get("dropout"):
        raise InputError(
            f"{where} drops merges at random (model.dropout); set it to null, or no text has certain tokens"
        )
    return config


def _vocabulary(built: Tokenizer, where: str) -> dict[int, str]:
    """The token of every id, without holes."""
    ids = built.get_vocab(with_added_tokens=True)
    tokens = {id_: name for name, id_ in sorted(ids.items())}
    if not tokens:
        raise InputError(f"{where} has no tokens")
    if len(tokens) != len(ids):
        twice = sorted(name for name, id_ in ids.items() if tokens[id_] != name)
        raise InputError(f"{where} gives an id to several tokens, such as {twice[0]!r} and {tokens[ids[twice[0]]]!r}")
    holes = max(tokens) + 1 - len(tokens)
    if holes:
        # Not a set of all ids: one that is too large by a slip would fill the memory.
        first = next(id_ for id_ in range(len(tokens)) if id_ not in tokens)
        raise InputError(
            f"{where} has holes in its vocabulary: {holes:,} ids of {max(tokens) + 1:,} have no token, the first is {first}"
        )
    return tokens


def _end(special: dict[str, int], ids: dict[str, int], eos: str | None, where: str) -> str:
    if not special:
        raise UsageError(
            f"{where} has no special tokens, and one must end a text; add one to its `added_tokens` with `special: true`"
        )
    shown = ", ".join(sorted(special, key=special.__getitem__)[:20])
    if eos is None:
        found = next((name for name in END_NAMES if name in special), None)
        if found is None:
            raise UsageError(
                f"{where} has no end-of-text token of a usual name; name one of its special tokens with --eos: {shown}"
            )
        return found
    if eos in special:
        return eos
    if eos in ids:
        raise UsageError(
            f"{eos!r} is an ordinary token of {where}, which texts may hold; its special tokens are: {shown}"
        )
    raise UsageError(f"{where} has no token {eos!r}; its special tokens are: {shown}")


def _parts(node: Any, key: str) -> list[dict[str, Any]]:
    """A pre-tokeniser, normaliser or decoder as a list of steps."""
    if not isinstance(node, dict):
        return []
    return [step for part in node.get(key) or [] for step in _parts(part, key)] if node.get(key) else [node]


def _is_byte_level(config: dict[str, Any], tokens: dict[int, str], named: set[str]) -> bool:
    steps = [*_parts(config.get("pre_tokenizer"), "pretokenizers"), *_parts(config.get("decoder"), "decoders")]
    model = config["model"]
    if not any(step.get("type") == "ByteLevel" for step in steps) or model.get("type", "BPE") != "BPE":
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("byte_fallback"):
        return False
    present = set(tokens.values())
    return present >= BYTES.keys() and all(
        name in named or all(character in BYTES for character in name) for name in present
    )


def _keeps_all(config: dict[str, Any], added: list[dict[str, Any]]) -> bool:
    """Whether nothing is added to a text or taken from it before it becomes bytes."""
    if config.get("normalizer") is not None or any(token.get("lstrip") or token.get("rstrip") for token in added):
        return False
    steps = _parts(config.get("pre_tokenizer"), "pretokenizers")
    if any(step.get("type") == "Split" and step.get("behavior") == "Removed" for step in steps):
        return False
    kinds = {"ByteLevel", "Split", "Digits", "Punctuation"}
    # `tokenizers` adds a space in front of the text where the file does not say.
    return all(
        step.get("type") in kinds and not step.get("add_prefix_space", step["type"] == "ByteLevel") for step in steps
    )


def _spelled(name: str) -> bytes:
    return bytes(BYTES[character] for character in name)
