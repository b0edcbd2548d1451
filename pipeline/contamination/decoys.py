"""Decoys: items that read like a benchmark's and stand in no benchmark, so that every page that matches one is a false
positive."""

import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from pipeline.contamination.benchmark import ITEMS

PIECE = 6  # words of a piece, on average: less than the shortest n-gram that is ever matched (8)
WHOLE = 8  # answers and choices of fewer words are taken over whole
GRAM = 4  # words that have to follow each other for a decoy to repeat a text
COMMON = 100  # items that share a gram from which on it is a template of the benchmark, and no item's own
TRIES = 20  # other items asked for a piece before the decoy ends
LEAST_CANDIDATES = 32

# A word with the white space before it, so that pieces can be joined; scripts without spaces go by character.
_SPACED = re.compile(r"\s*\S+")
_WORD = regex.compile(
    r"\s*(?:[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+)"
)


def decoys(items: pa.Table, n: int, seed: int = 0) -> pa.Table:
    """Items (schema ITEMS, `decoy` true, ids `decoy-0`, `decoy-1`, …) joined from pieces of different items of a benchmark.

    There are `n`, shared out by the sizes of the benchmarks; fewer where the items of one are too few or too much alike
    to be mixed. Each takes its shape from one item: how many pieces its question and passage have and how many choices.
    The piece at a place comes from the same place in another item and is at most half of its text; no decoy has more than
    half of the phrases of any one item's question or passage, phrases that are common in the benchmark aside. Which
    items are taken depends on their ids and `seed`, not on the order of the table.
    """
    real = items.filter(pc.invert(items["decoy"])).to_pylist()
    by_name: dict[str, list[dict[str, Any]]] = {}
    for item in real:
        by_name.setdefault(item["benchmark"], []).append(item)
    shares = _shares({name: len(found) for name, found in by_name.items()}, n)
    made = [decoy for name in sorted(by_name) for decoy in _Mixer(name, by_name[name], seed).make(shares[name])]
    return pa.Table.from_pylist(made, schema=ITEMS)


def _shares(sizes: dict[str, int], n: int) -> dict[str, int]:
    """`n` shared out in proportion, the largest remainders rounded up."""
    total = sum(sizes.values())
    shares = {name: n * size // total for name, size in sizes.items()}
    rest = sorted(sizes, key=lambda name: (-(n * sizes[name] % total), name))
    for name in rest[: n - sum(shares.values())]:
        shares[name] += 1
    return shares


def _words(text: str) -> list[str]:
    return _SPACED.findall(text) if text.isascii() else _WORD.findall(text)


def _pieces(text: str) -> list[str]:
    """A text in pieces of about PIECE words, none more than half of it; a single word stays one."""
    words = _words(text)
    count = max(min(2, len(words)), round(len(words) / PIECE))
    if count == 2 and len(words) % 2 and len(words) > 2:
        count = 3
    ends = [len(words) * k // count for k in range(count + 1)] if count else []
    return ["".join(words[start:end]) for start, end in pairwise(ends)]


def _draw(*key: object) -> int:
    return int.from_bytes(blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest())


class _Pool:
    """The texts of one field of a benchmark's items, in pieces, and who has a piece at each place."""

    def __init__(self, texts: Sequence[str], whole: int = 0) -> None:
        self.pieces = [[text.strip()] if 0 < len(_words(text)) < whole else _pieces(text) for text in texts]
        self.at: list[list[int]] = []
        for item, pieces in enumerate(self.pieces):
            for place in range(len(pieces)):
                if place == len(self.at):
                    self.at.append([])
                self.at[place].append(item)

    def mix(self, count: int, used: set[int], *key: object) -> str:
        """A text of up to `count` pieces, each of another item, which go to `used`; shorter where no others have one, and
        empty where all would be one item's."""
        mixed: list[str] = []
        for place in range(min(count, len(self.at))):
            holders = self.at[place]
            draws = (holders[_draw(*key, place, attempt) % len(holders)] for attempt in range(TRIES))
            donor = next((item for item in draws if item not in used), None)
            if donor is None:
                break
            used.add(donor)
            mixed.append(self.pieces[donor][place])
        return "".join(mixed).strip() if len(mixed) >= min(2, count) else ""


class _Phrases:
    """Which items have which grams, and how many grams are an item's own."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.vocabulary: dict[str, int] = {}
        self.known = {self._folded(text) for text in texts}
        hashed = [self._grams(text) for text in texts]
        grams = np.concatenate([*hashed, np.zeros(0, np.uint64)])
        owners = np.repeat(np.arange(len(texts)), [len(found) for found in hashed])
        order = np.argsort(grams, kind="stable")
        self.grams, self.owners = grams[order], owners[order]
        _, copies = np.unique(self.grams, return_counts=True)
        own = np.repeat(copies <= COMMON, copies)
        self.sizes = np.bincount(self.owners[own], minlength=len(texts))

    def repeats(self, text: str) -> bool:
        """Whether a text is one of these, or has more than half of the phrases of one."""
        if text and self._folded(text) in self.known:
            return True
        grams = self._grams(text)
        starts, ends = np.searchsorted(self.grams, grams), np.searchsorted(self.grams, grams, side="right")
        found = [self.owners[a:b] for a, b in zip(starts, ends, strict=True) if b - a <= COMMON]
        if not found:
            return False
        owners, counts = np.unique(np.concatenate(found), return_counts=True)
        return bool((2 * counts > self.sizes[owners]).any())

    def _folded(self, text: str) -> str:
        return " ".join(text.lower().split())

    def _grams(self, text: str) -> np.ndarray:
        numbers = [self.vocabulary.setdefault(word.strip(), len(self.vocabulary) + 1) for word in _words(text.lower())]
        words = np.array(numbers, np.uint64)
        count = max(0, len(words) - GRAM + 1)
        grams = np.zeros(count, np.uint64)
        for k in range(GRAM):
            grams = (
                grams * np.uint64(0x9E3779B97F4A7C15) + words[k : k + count]
            )  # wraps; equal grams are all that counts
        return np.unique(grams)


class _Mixer:
    """Makes the decoys of one benchmark."""

    def __init__(self, name: str, items: Sequence[dict[str, Any]], seed: int) -> None:
        self.name, self.seed = name, seed
        self.items = sorted(items, key=lambda item: (_draw(name, item["item"], seed), item["item"]))
        questions = [item["question"] for item in self.items]
        passages = [item["passage"] or "" for item in self.items]
        self.questions, self.passages = _Pool(questions), _Pool(passages)
        self.answers = _Pool([item["answer"] or "" if not item["choices"] else "" for item in self.items], WHOLE)
        most = max((len(item["choices"]) for item in self.items), default=0)
        self.choices = [
            _Pool([item["choices"][k] if k < len(item["choices"]) else "" for item in self.items], WHOLE)
            for k in range(most)
        ]
        self.phrases = [_Phrases(questions), _Phrases(passages)]

    def make(self, n: int) -> list[dict[str, Any]]:
        """Up to `n` decoys."""
        made: list[dict[str, Any]] = []
        seen: set[tuple[str, str | None]] = set()
        for candidate in self._candidates(LEAST_CANDIDATES + 4 * n):
            if len(made) == n:
                break
            text = (candidate["question"], candidate["passage"])
            if text in seen or not any(text):
                continue
            if any(known.repeats(part or "") for known, part in zip(self.phrases, text, strict=True)):
                continue
            seen.add(text)
            made.append({**candidate, "item": f"decoy-{len(made)}"})
        return made

    def _candidates(self, most: int) -> Iterator[dict[str, Any]]:
        for k in range(most):
            at = k % len(self.items)
            shape = self.items[at]
            key = (self.name, shape["item"], self.seed, k // len(self.items))
            used: set[int] = set()
            question = self.questions.mix(len(self.questions.pieces[at]), used, *key, "question")
            passage = self.passages.mix(len(self.passages.pieces[at]), set(), *key, "passage")
            if bool(question) != bool(shape["question"]) or bool(passage) != bool(shape["passage"]):
                continue
            choices = [
                pool.mix(len(pool.pieces[at]), used, *key, "choice", j)
                for j, pool in enumerate(self.choices[: len(shape["choices"])])
            ]
            yield {
                "benchmark": self.name,
                "task": None,
                "doc": None,
                "question": question,
                "choices": choices,
                "answer": self._answer(shape, at, choices, used, *key),
                "passage": passage or None,
                "decoy": True,
            }

    def _answer(self, shape: dict[str, Any], at: int, choices: list[str], used: set[int], *key: object) -> str | None:
        if shape["answer"] is None:
            return None
        if shape["answer"] in shape["choices"]:
            return choices[shape["choices"].index(shape["answer"])]
        return self.answers.mix(len(self.answers.pieces[at]), used, *key, "answer") or None
