"""Personal data to edits: what is found in a text is replaced, and never written down anywhere else."""

import hashlib
import hmac
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import yaml
from pydantic import Field, field_validator, model_validator

from pipeline.errors import RecipeError
from pipeline.options import Options
from pipeline.tables import EDITS, PII

SUBSTITUTES = Path(__file__).parent / "recipes" / "pii" / "substitutes.yaml"

LEAST_KEY_BYTES = 16
"""A key shorter than this could be guessed, and with it the values behind the tokens."""


class Masking(Options):
    """The `pii` of a recipe: the kinds of personal data that are masked, and how.

    `placeholder` writes the kind (`<EMAIL_ADDRESS>`); `substitute` a fixed value of the kind that is nobody's, chosen by
    the value that it replaces; `hash` a token under the key in `key_file`, the same for the same value
    (`<EMAIL_ADDRESS:1f8a…>`). Pages with more than `max_hits` are dropped. `role_addresses` masks info@ and the like, too.
    """

    mask: tuple[str, ...] = ()
    how: Literal["placeholder", "substitute", "hash"] = "placeholder"
    key_file: str | None = None
    max_hits: int | None = Field(default=None, ge=0)
    role_addresses: bool = False

    @field_validator("mask")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            return value
        from pipeline.signals.pii import KINDS, NAME_KINDS

        for kind in value:
            if kind not in (*KINDS, *NAME_KINDS):
                raise ValueError(f"unknown kind {kind!r}; known: {', '.join((*KINDS, *NAME_KINDS))}")
        return value

    @model_validator(mode="after")
    def _with_key(self) -> "Masking":
        if (self.how == "hash") != (self.key_file is not None):
            raise ValueError("`how: hash` needs a key_file, and nothing else does")
        return self

    def key(self) -> bytes:
        """The key of tokens. Raises RecipeError where its file cannot be read or is too short."""
        try:
            key = Path(self.key_file or "").read_bytes().strip()
        except OSError as error:
            raise RecipeError(f"cannot read the key of pii.key_file: {error.strerror or error}") from error
        if len(key) < LEAST_KEY_BYTES:
            raise RecipeError(f"the key in {self.key_file} has {len(key)} bytes; {LEAST_KEY_BYTES} at least are needed")
        return key

    def fingerprint(self) -> str | None:
        """What tells one key from another in a digest, without telling the key."""
        return hmac.digest(self.key(), b"crawlmill key", "sha256").hex()[:16] if self.key_file else None


class Masked(NamedTuple):
    """`edits` has schema EDITS; `found` has schema PII, a row for everything that is masked."""

    edits: pa.Table
    found: pa.Table


@cache
def substitutes() -> dict[str, tuple[str, ...]]:
    """Values of each kind that are nobody's."""
    body: dict[str, dict[str, Any]] = yaml.safe_load(SUBSTITUTES.read_text(encoding="utf-8"))
    return {kind: tuple(entry["values"]) for kind, entry in body.items()}


def mask(texts: pa.Array, ids: Sequence[str], languages: pa.Array | None, masking: Masking) -> Masked:
    """What is to be masked in some texts, named by `ids`. Null texts hold nothing.

    Values that stand in place of others already (placeholders, substitutes) are left as they are. Raises RecipeError for
    a key that cannot be read, UsageError where names are asked for and no model is installed.
    """
    if not masking.mask:
        return Masked(EDITS.empty_table(), PII.empty_table())
    from pipeline.signals.pii import Detector

    hits = Detector(masking.mask, role_addresses=masking.role_addresses).find(texts, languages)
    key = masking.key() if masking.how == "hash" else b""
    known = {value for values in substitutes().values() for value in values}
    rows: list[tuple[str, int, int, str, str]] = []
    for at, group in groupby(hits.to_pylist(), lambda hit: hit["row"]):
        text = texts[at].as_py()
        spans = [(hit["start"], hit["end"], hit["kind"]) for hit in group]
        spans = [span for span in spans if text[span[0] : span[1]] not in known]
        for start, end, kind in _wherever_they_stand(text, spans):
            rows.append((ids[at], start, end, kind, replacement(text[start:end], kind, masking.how, key)))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], [], []]
    reasons = [f"pii.{kind}" for kind in columns[3]]
    edits = pa.table([*columns[:3], columns[4], reasons], schema=EDITS)
    return Masked(edits, pa.table(columns[:4], schema=PII))


Span = tuple[int, int, str]


def _wherever_they_stand(text: str, spans: list[Span]) -> list[Span]:
    """The spans, and every other place at which one of their values stands: what was recognised once must not be read
    elsewhere in the page, where its surroundings hid it."""
    kinds = {text[start:end]: kind for start, end, kind in reversed(spans)}
    taken = sorted(spans)
    for value in sorted(kinds, key=lambda v: (-len(v), v)):
        more = []
        at = text.find(value)
        while at >= 0:
            if not any(start < at + len(value) and at < end for start, end, _ in _near(taken, at, at + len(value))):
                more.append((at, at + len(value), kinds[value]))
            at = text.find(value, at + len(value))
        taken = sorted(taken + more)
    return taken


def _near(spans: list[Span], start: int, end: int) -> list[Span]:
    """Of sorted spans that do not overlap, those that can overlap [start, end)."""
    first = max(0, bisect_left(spans, (start, 0, "")) - 1)
    return spans[first : bisect_left(spans, (end, 0, ""))]


def replacement(value: str, kind: str, how: str, key: bytes = b"") -> str:
    """What is written for a value: a function of it, its kind and the key."""
    if how == "hash":
        token = hmac.digest(key, f"{kind}\x1f{canonical(value, kind)}".encode("utf-8", "surrogatepass"), "sha256")
        return f"<{kind}:{token.hex()[:12]}>"
    choices = substitutes().get(kind, ()) if how == "substitute" else ()
    if not choices:
        return f"<{kind}>"
    digest = hashlib.blake2b(canonical(value, kind).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return choices[int.from_bytes(digest) % len(choices)]


_BETWEEN = re.compile(r"\s*[\[({<]?\s*\b(at|dot)\b\s*[\])}>]?\s*", re.IGNORECASE)


def canonical(value: str, kind: str) -> str:
    """One way of writing a value that people write in several, so that they get one token."""
    value = "".join(c for c in unicodedata.normalize("NFKC", value) if unicodedata.category(c) != "Cf")
    if kind == "EMAIL_ADDRESS":
        if "@" not in value:
            value = _BETWEEN.sub(lambda word: "@" if word.group(1).lower() == "at" else ".", value)
        return "".join(value.lower().removeprefix("mailto:").split())
    if kind in ("PHONE_NUMBER", "CREDIT_CARD", "US_SSN"):
        digits = "".join(c for c in value if c.isdecimal())
        return digits.removeprefix("00") if kind == "PHONE_NUMBER" else digits
    if kind == "IBAN_CODE":
        return "".join(c for c in value.upper() if c.isalnum())
    return " ".join(value.split())
