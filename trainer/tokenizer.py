"""How many bytes of text each token stands for: what turns nats a token into bits a byte, which tokenizers share.

Counted on the tokens' own names, never on decoded strings: a token may hold half of a character, which no string can.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UsageError

SPACE = "\u2581"
"""How SentencePiece writes a space (Kudo and Richardson 2018)."""

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>\Z")


class TokenizerError(UsageError):
    """A tokenizer.json that cannot be read, or whose tokens do not say what text they stand for."""


def token_bytes(path: str | Path) -> np.ndarray:
    """UTF-8 bytes that each token stands for, int64[largest id + 1].

    Byte-level tokens have one byte a character of their name, those of byte fallback (<0x41>) one, SentencePiece's sign for
    a space counts as a space. Special tokens, the one for the unknown, and ids that no token has stand for none. A space
    that some tokenizers put before a text is counted, so that of such a text one byte too many.
    Raises TokenizerError where words are cut without a trace of the spaces between them (WordPiece and its like).
    """
    try:
        body = json.loads(Path(path).read_bytes())
        return _counted(body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"cannot read tokenizer {path}: {type(error).__name__}: {error}") from error
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _counted(body: dict[str, Any]) -> np.ndarray:
    model = body["model"]
    names = dict(_vocabulary(model))
    added = {int(token["id"]): token for token in body.get("added_tokens") or []}
    parts = {part["type"]: part for key in ("pre_tokenizer", "decoder") for part in _parts(body.get(key))}
    byte_level = "ByteLevel" in parts
    # Trained vocabularies say their type since tokenizers 0.9; older files are known by what they hold.
    kind = model.get("type") or ("Unigram" if isinstance(model["vocab"], list) else "BPE" if "merges" in model else "")
    if kind == "WordPiece" or model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        raise TokenizerError("its tokens do not say where spaces were, so bits per byte cannot be told")
    unknown = model.get("unk_token") if kind != "Unigram" else names.get(model.get("unk_id", -1))
    fallback = bool(model.get("byte_fallback")) or "ByteFallback" in parts
    found = np.zeros(max([*names, *added], default=-1) + 1, np.int64)
    for id_, name in names.items():
        if name == unknown:
            continue
        if byte_level:
            found[id_] = len(name)
        elif fallback and _BYTE.match(name):
            found[id_] = 1
        else:
            found[id_] = len(name.replace(SPACE, " ").encode())
    for id_, token in added.items():
        found[id_] = 0 if token.get("special") else len(token["content"].encode())
    return found


def _vocabulary(model: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Ids and names."""
    if isinstance(model["vocab"], list):  # Unigram: names and their scores in the order of ids
        yield from ((id_, name) for id_, (name, _) in enumerate(model["vocab"]))
    else:
        yield from ((int(id_), name) for name, id_ in model["vocab"].items())


def _parts(stage: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The steps of a stage, those of sequences too."""
    if not stage:
        return
    yield stage
    for key in ("pretokenizers", "decoders"):
        for inner in stage.get(key) or []:
            yield from _parts(inner)
