"""What a tokeniser does to texts: bytes per token by source and language, what it never uses, whether texts come back."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tokenizer.encoding import Encoder
from pipeline.tokenizer.files import TokenizerFile

EXAMPLES = 20
"""Tokens that are named of those that are unused, longest or most frequent."""

COLUMNS = ("documents", "bytes", "tokens", "words", "parts", "failed")

UNKNOWN = "unknown"
"""What stands for a source or language that a file does not say."""


class Usage:
    """Counts, as texts or tokens are added: of every token, and of documents by source and language.

    Of tokens without texts it is not known how many words they stand for and whether they give the texts back.
    """

    def __init__(self, tokenizer: TokenizerFile) -> None:
        self.tokenizer = tokenizer
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
        self.groups: dict[tuple[str, str], dict[str, int]] = {}
        self.has_texts = True
        self._parts = _parts(tokenizer)

    def add_texts(
        self, encoder: Encoder, texts: pa.Array, sources: Sequence[str | None], languages: Sequence[str | None]
    ) -> None:
        """Encodes texts and counts what comes of it. Raises InputError where they are not UTF-8."""
        encoded = encoder.encode(texts)
        failed = np.zeros(len(texts), np.int64)
        failed[encoder.round_trips(texts, encoded)] = 1
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.fill_null(texts, ""))))
        sizes = pc.fill_null(pc.binary_length(texts), 0)
        self._add(
            encoded.tokens,
            encoded.lengths,
            sources,
            languages,
            bytes=sizes.to_numpy(zero_copy_only=False),
            words=words.to_numpy(zero_copy_only=False),
            failed=failed,
        )

    def add_tokens(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        sizes: np.ndarray,
        sources: Sequence[str | None],
        languages: Sequence[str | None],
    ) -> None:
        """Counts tokens as they are stored, of documents of so many tokens (`lengths`) and bytes (`sizes`)."""
        self.has_texts = False
        nothing = np.zeros(len(lengths), np.int64)
        self._add(tokens, lengths, sources, languages, bytes=sizes, words=nothing, failed=nothing)

    def _add(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        sources: Sequence[str | None],
        languages: Sequence[str | None],
        **measured: np.ndarray,
    ) -> None:
        found = np.bincount(tokens, minlength=len(self.counts))
        if len(found) > len(self.counts):
            raise ValueError(f"token {len(found) - 1} is none of {len(self.counts)}")
        self.counts += found
        columns = measured | {"tokens": lengths, "documents": np.ones(len(lengths), np.int64)}
        if self._parts is not None:
            before = np.concatenate(([0], np.cumsum(self._parts[tokens], dtype=np.int64)))
            ends = np.cumsum(lengths)
            columns["parts"] = before[ends] - before[ends - lengths]
        names = [(s or UNKNOWN, language or UNKNOWN) for s, language in zip(sources, languages, strict=True)]
        known = {name: i for i, name in enumerate(dict.fromkeys(names))}
        of = np.array([known[name] for name in names], np.int64)
        for column, values in columns.items():
            # Of float64, which a weight makes of a count, every sum here is a whole number below 2^53.
            sums = np.bincount(of, values, len(known))
            for name, i in known.items():
                group = self.groups.setdefault(name, dict.fromkeys(COLUMNS, 0))
                group[column] += int(sums[i])

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON can hold it: what `crawlmill tokenizer report --json` prints.

        Of tokens, `parts` are those that hold no whole character. `round_trips` is the share of documents that come back
        from their tokens; it and `tokens_per_word` are null where only tokens were seen.
        """
        seen = np.delete(self.counts, list(self.tokenizer.special.values()))
        return {
            "tokenizer": {
                "sha256": self.tokenizer.sha256,
                "vocab_size": self.tokenizer.vocab_size,
                "eos_token": self.tokenizer.eos_token,
                "eos": self.tokenizer.eos,
                "special": self.tokenizer.special,
                "byte_level": self.tokenizer.byte_level,
            },
            "all": self._ratios([group for _, group in sorted(self.groups.items())]),
            "sources": self._by(0),
            "languages": self._by(1),
            "groups": [
                {"source": source, "language": language} | self._ratios([group])
                for (source, language), group in sorted(self.groups.items())
            ],
            "unused": {
                "tokens": int((seen == 0).sum()),
                "share": float((seen == 0).mean()) if len(seen) else 0.0,
                "examples": [self._shown(token) for token in self._unused()],
            },
            "longest": [self._shown(token) for token in self._longest()],
            "most_frequent": [
                self._shown(int(token)) | {"count": int(self.counts[token])}
                for token in np.lexsort((np.arange(len(self.counts)), -self.counts))[:EXAMPLES]
                if self.counts[token]
            ],
        }

    def _by(self, place: int) -> dict[str, Any]:
        names = sorted({name[place] for name in self.groups})
        found = {
            name: self._ratios([group for key, group in self.groups.items() if key[place] == name]) for name in names
        }
        return dict(sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0])))

    def _ratios(self, groups: list[dict[str, int]]) -> dict[str, Any]:
        sums = {column: sum(group[column] for group in groups) for column in COLUMNS}
        found: dict[str, Any] = {name: sums[name] for name in ("documents", "bytes", "tokens")}
        found["bytes_per_token"] = _ratio(sums["bytes"], sums["tokens"])
        found["tokens_per_word"] = _ratio(sums["tokens"], sums["words"]) if self.has_texts else None
        found["parts"] = _ratio(sums["parts"], sums["tokens"]) if self._parts is not None else None
        found["round_trips"] = 1 - (_ratio(sums["failed"], sums["documents"]) or 0.0) if self.has_texts else None
        return found

    def _shown(self, token: int) -> dict[str, Any]:
        known = self.tokenizer.token_bytes
        text = known[token].decode("utf-8", "backslashreplace") if known is not None else self.tokenizer.name(token)
        return {"id": token, "text": text}

    def _unused(self) -> Iterator[int]:
        special = set(self.tokenizer.special.values())
        unused = [int(token) for token in np.flatnonzero(self.counts == 0) if int(token) not in special]
        # That control characters and bytes that UTF-8 never has are unused says nothing: they come last.
        known = self.tokenizer.token_bytes
        yield from sorted(unused, key=lambda t: (known is not None and len(known[t]) == 1, t))[:EXAMPLES]

    def _longest(self) -> list[int]:
        known = self.tokenizer.token_bytes
        special = set(self.tokenizer.special.values())
        sizes = {
            token: len(known[token] if known is not None else self.tokenizer.name(token))
            for token in range(self.tokenizer.vocab_size)
            if token not in special
        }
        return sorted(sizes, key=lambda token: (-sizes[token], token))[:EXAMPLES]


def _ratio(one: float, other: float) -> float | None:
    return one / other if other else None


def _parts(tokenizer: TokenizerFile) -> np.ndarray | None:
    """Of every token, whether it holds no whole character; None where tokens are not made of bytes."""
    known = tokenizer.token_bytes
    if known is None:
        return None
    return np.array([not token.decode("utf-8", "ignore") for token in known], np.bool_)
