"""Log-likelihoods of continuations: many at once, and what they share computed once.

Continuations of one context lie in one row behind it: each sees the context and itself, not the others, and its positions
go on from the context's. The last token of a context predicts the first of all its continuations, so continuations of one
token, such as letters, cost nothing beyond their context. What many contexts begin with, such as the same examples, is
computed once too, and its keys and values are kept.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from trainer.inference import Cache, hidden, logits
from trainer.loss import chunk_tokens
from trainer.model import Decoder
from trainer.vocabulary import Vocabulary

BATCH_TOKENS = 16_384
"""Tokens of a forward pass, padding with them."""

PREFIX = 32
"""Tokens that contexts must begin with in common for those to be computed apart."""


class Request(NamedTuple):
    """Tokens that are given, at least one, and tokens that are asked for, at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Score(NamedTuple):
    """Sum of log p(token | what came before) over a continuation, in nats; and whether each was the likeliest token."""

    logprob: float
    greedy: bool


class _Row(NamedTuple):
    """A context and some of its continuations; `numbers` says which requests they are."""

    context: tuple[int, ...]
    parts: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.context) + sum(len(part) - 1 for part in self.parts)


class _Given(NamedTuple):
    """What the contexts of a batch begin with: its tokens, and its keys and values, those of one row."""

    tokens: tuple[int, ...]
    cache: Cache


class Scorer:
    """Scores requests with a model. `longest` is the most tokens that it looks at; `computed` counts the tokens, padding
    with them, that passed through it. Without `share` each continuation gets a context of its own. `told` is called after
    each batch with how many of a call's requests are done, and how many there are."""

    def __init__(self, model: Decoder, longest: int, batch_tokens: int = BATCH_TOKENS, share: bool = True) -> None:
        self.model, self.longest, self.batch_tokens, self.share = model, longest, batch_tokens, share
        self.computed = 0
        self.told: Callable[[int, int], None] | None = None

    def __call__(self, requests: Sequence[Request]) -> list[Score]:
        """A score for each request, in order. What is too long loses tokens at its left, as in lm-evaluation-harness."""
        nats = np.zeros(len(requests))
        greedy = np.ones(len(requests), bool)
        done = 0
        for given, rows in self._batches(requests):
            which, found, best = self._scored(given, rows)
            np.add.at(nats, which, found)
            np.logical_and.at(greedy, which, best)
            done += sum(len(row.parts) for row in rows)
            if self.told is not None:
                self.told(done, len(requests))
        return [Score(float(n), bool(g)) for n, g in zip(nats, greedy, strict=True)]

    def fits(self, request: Request) -> bool:
        """Whether nothing of it would be cut off."""
        return len(request.context) + len(request.continuation) <= self.longest + 1

    def _batches(self, requests: Sequence[Request]) -> Iterator[tuple[_Given, list[_Row]]]:
        """Rows of similar length, the longest first: what is too much for the memory fails at once. Each with what all of
        them begin with, which the rows leave out."""
        ordered = sorted(self._rows(requests), key=lambda row: (-row.length, row.numbers))
        starts = [row.context[:PREFIX] if self.share and len(row.context) > PREFIX else () for row in ordered]
        often = Counter(starts)
        clusters: dict[tuple[int, ...], list[_Row]] = defaultdict(list)
        for row, begin in zip(ordered, starts, strict=True):
            clusters[begin if often[begin] > 1 else ()].append(row)
        for begin, rows in clusters.items():
            given = _Given((), Cache())
            if begin:
                given = self._read(rows)
                rows = [row._replace(context=row.context[len(given.tokens) :]) for row in rows]
            start = 0
            while start < len(rows):
                width = bucket(rows[start].length)
                # Keys and values of what is given are copied for each row.
                n = min(self.batch_tokens // width, 8 * self.batch_tokens // (width + len(given.tokens)))
                yield given, rows[start : start + max(1, n)]
                start += max(1, n)

    def _read(self, rows: Sequence[_Row]) -> _Given:
        """What contexts begin with, at least a token less than the shortest of them, read once."""
        first, last = min(row.context for row in rows), max(row.context for row in rows)
        common = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        tokens = first[: min(common, *(len(row.context) - 1 for row in rows))]
        cache = Cache()
        hidden(self.model, torch.tensor([tokens], device=self.model.head.device), cache=cache)
        self.computed += len(tokens)
        return _Given(tokens, replace(cache, frozen=True))

    def _rows(self, requests: Sequence[Request]) -> Iterator[_Row]:
        groups: dict[object, list[int]] = defaultdict(list)
        cut = []
        for number, request in enumerate(requests):
            asked = request.continuation
            context = request.context[max(0, len(request.context) + len(asked) - self.longest - 1) :]
            cut.append((context, asked))
            groups[context if self.share else number].append(number)
        for group in groups.values():
            row: list[int] = []
            size = limit = 0
            for number in group:
                context, asked = cut[number]
                more = len(asked) - 1
                # A row is at most twice as long as a context alone: attention costs its length squared.
                if row and size + more > limit:
                    yield _Row(context, tuple(cut[n][1] for n in row), tuple(row))
                    row = []
                if not row:
                    size, limit = len(context), max(2 * len(context), self.longest)
                row.append(number)
                size += more
            yield _Row(cut[row[0]][0], tuple(cut[n][1] for n in row), tuple(row))

    @torch.no_grad()
    def _scored(self, given: _Given, rows: list[_Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each token that is asked for: its request, its log-probability, whether it was the likeliest."""
        width = bucket(max(row.length for row in rows))
        self.computed += width * len(rows)
        before = len(given.tokens)
        tokens = np.zeros((len(rows), width), np.int64)
        positions = np.zeros((len(rows), width), np.int64)
        segment = np.full((len(rows), width), -1, np.int64)  # 0 is the context, -1 padding
        at: list[tuple[int, int]] = []
        target: list[int] = []
        which: list[int] = []
        for number, row in enumerate(rows):
            n = len(row.context)
            tokens[number, :n], positions[number, :n], segment[number, :n] = row.context, range(n), 0
            end = n
            for place, (part, request) in enumerate(zip(row.parts, row.numbers, strict=True), 1):
                more = len(part) - 1
                here = slice(end, end + more)
                tokens[number, here], segment[number, here] = part[:-1], place
                positions[number, here] = range(n, n + more)
                at += [(number, n - 1), *((number, p) for p in range(end, end + more))]
                target += part
                which += [request] * len(part)
                end += more
        device = self.model.head.device
        mask = None
        if before or any(len(row.parts) > 1 and row.length > len(row.context) for row in rows):
            seg = torch.from_numpy(segment).to(device)
            order = torch.arange(width, device=device)
            behind = order[:, None] >= order
            mask = behind & ((seg[:, None] == seg[:, :, None]) | (seg[:, None] == 0))
            mask = functional.pad(mask, (before, 0), value=True)
        places = torch.from_numpy(positions + before).to(device)
        stream = hidden(self.model, torch.from_numpy(tokens).to(device), places, mask, given.cache if before else None)
        row_of, place_of = torch.tensor(at, device=device).T
        wanted = torch.tensor(target, device=device)
        found, best = [], []
        chunk = chunk_tokens(self.model.shape.vocab_size, device.type)
        for part in torch.arange(len(wanted), device=device).split(chunk):
            scores = logits(self.model, stream[row_of[part], place_of[part]])
            found.append(torch.log_softmax(scores, -1).gather(1, wanted[part, None])[:, 0])
            best.append(scores.argmax(-1) == wanted[part])
        return np.array(which), torch.cat(found).double().cpu().numpy(), torch.cat(best).cpu().numpy()


def bucket(length: int) -> int:
    """The least of 16, 24, 32, 48, 64, 96, … that holds so many tokens: few shapes, and at most a third is padding."""
    size = 16
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def encode(words: Vocabulary, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """Tokens of contexts and what follows them, divided as lm-evaluation-harness does: together, so that a word is not cut
    where they meet, with the spaces that end a context moved to what follows. No context is the token that begins texts."""
    moved = []
    for context, asked in pairs:
        bare = context.rstrip()
        moved.append((bare, context[len(bare) :] + asked) if context else (context, asked))
    ids: dict[str, list[int]] = {}
    # What a tokenizer puts before texts it does not put before one that spells it out.
    texts = sorted({c for c, _ in moved if c} | {c + a for c, a in moved if c})
    for special in (True, False):
        some = [text for text in texts if text.startswith(words.begin) is not special]
        ids.update(zip(some, words.encode(some, special), strict=True))
    alone = sorted({a for c, a in moved if not c})
    bare_ids = dict(zip(alone, words.encode(alone, special=False), strict=True))
    found = []
    for context, asked in moved:
        if context:
            given = ids[context]
            rest = ids[context + asked][len(given) :]
        else:
            given, rest = [words.bos], bare_ids[asked]
            if rest[:1] == given:
                rest = rest[1:]
        found.append(Request(tuple(given), tuple(rest)))
    return found


def rolling(tokens: Sequence[int], before: int, longest: int) -> list[Request]:
    """A text as requests in which every token is asked for once, the first after `before`: windows of `longest` tokens,
    the last of which reaches back so that it is full (lm-evaluation-harness's, with one token of context)."""
    given = (before, *tokens)
    found = [Request(given[:1], tuple(tokens[:longest]))] if tokens else []
    for start in range(longest, len(tokens), longest):
        end = min(start + longest, len(tokens))
        first = max(0, end - longest)
        found.append(Request(given[first : start + 1], given[start + 1 : end + 1]))
    return found
