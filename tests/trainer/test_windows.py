"""Samples of a stream of documents: windows that leave nothing out, and rows that documents are packed into."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.plan import CONTEXT, Plan, Source, Wanted
from trainer.windows import Packed, Windows

EOS = 0
QUICK = settings(max_examples=60, deadline=None)


class Documents:
    """Documents of such lengths. Tokens count up over the stream, so each says where it stands; documents end with EOS."""

    def __init__(self, lengths: list[int]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
        self.n_tokens = int(self.starts[-1])
        self.tokens = np.arange(1, self.n_tokens + 1)
        self.ends = self.starts[1:] - 1
        self.tokens[self.ends[self.ends >= 0]] = EOS

    def window(self, start: int, n: int) -> np.ndarray:
        assert start >= 0 and start + n <= self.n_tokens
        return self.tokens[start : start + n]


def read(stream: Windows | Packed) -> np.ndarray:
    held = np.empty((stream.n_samples, stream.seq_len + 1), np.int64)
    for i in range(stream.n_samples):
        stream.read(i, held[i])
    return held


def learned(stream: Windows | Packed) -> list[tuple[int, int]]:
    """(what is predicted, from which token) over all batches, as a model gets them."""
    source = (Source("s", 1.0, stream),)
    tokens = stream.n_samples * stream.seq_len
    plan = Plan([Wanted("p", tokens, stream.seq_len, stream.seq_len, source)], 0, EOS)
    batch = plan.read(plan.phases[0], np.arange(stream.n_samples))
    found = []
    for row in range(stream.n_samples):
        for at in range(stream.seq_len):
            if batch.targets[row, at] >= 0:
                found.append((int(batch.targets[row, at]), int(batch.tokens[row, at])))
    return found


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 16))
@QUICK
def test_windows_cover_each_target_once(lengths: list[int], seq_len: int) -> None:
    documents = Documents(lengths)
    stream = Windows(documents, seq_len)
    held = read(stream)
    assert held[:, 1:].ravel().tolist() == documents.tokens[1 : 1 + stream.n_samples * seq_len].tolist()
    assert held[:, :-1].ravel().tolist() == documents.tokens[: stream.n_samples * seq_len].tolist()
    left = documents.n_tokens - 1 - stream.n_samples * seq_len
    assert 0 <= left < seq_len


def test_windows_of_a_part_keep_to_it() -> None:
    documents = Documents([100])
    trained, held_out = Windows(documents, 8, 0, 57), Windows(documents, 8, 57)
    assert (trained.n_samples, held_out.n_samples) == (7, 5)
    assert read(trained).max() == 57 and read(held_out).min() == 58
    assert Windows(documents, 8, 0, 8).n_samples == 0 and Windows(documents, 8, 0, 9).n_samples == 1
    assert Windows(documents, 200).n_samples == 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=25), st.integers(2, 24))
@QUICK
def test_packed_rows_learn_each_token_of_each_document_once(lengths: list[int], seq_len: int) -> None:
    """From the token before it in its text, never across documents; the first of a document may be learned, from the token
    that ended another."""
    documents = Documents(lengths)
    stream = Packed(documents, seq_len)
    before = {int(documents.tokens[at]): int(documents.tokens[at - 1]) for at in range(1, documents.n_tokens)}
    opening = {int(documents.tokens[at]) for at in documents.starts[:-1]}
    seen: Counter[int] = Counter()
    for target, token in learned(stream) if stream.n_samples else ():
        if target == EOS:
            continue
        seen[target] += 1
        if target in opening:
            assert token == EOS
        else:
            assert token == before[target]
    inside = {int(token) for token in documents.tokens if token != EOS} - opening
    assert {target for target in seen if target not in opening} == inside
    assert all(n == 1 for n in seen.values())


@given(st.lists(st.integers(2, 60), min_size=1, max_size=25), st.integers(2, 24))
@QUICK
def test_packed_documents_see_their_own_text_only(lengths: list[int], seq_len: int) -> None:
    documents = Documents(lengths)
    stream = Packed(documents, seq_len, 0, documents.n_tokens * 2 // 3)  # where it ends a document may be torn
    if stream.n_samples == 0:
        return
    source = (Source("s", 1.0, stream),)
    plan = Plan([Wanted("p", stream.n_samples * seq_len, seq_len, seq_len, source)], 0, EOS)
    batch = plan.read(plan.phases[0], np.arange(stream.n_samples))
    number = np.searchsorted(documents.ends, np.arange(documents.n_tokens)).tolist()
    of_text = {int(documents.tokens[at]): number[at] for at in range(documents.n_tokens)}
    for tokens, docs, targets in zip(batch.tokens, batch.docs, batch.targets, strict=True):
        for doc in np.unique(docs):
            texts = {of_text[int(t)] for t in tokens[(docs == doc) & (targets >= 0)] if t != EOS}
            assert len(texts) <= 1
    assert batch.tokens.min() >= 0 and batch.tokens.max() <= documents.n_tokens * 2 // 3


def test_rows_are_packed_best_fit_first() -> None:
    stream = Packed(Documents([7, 3, 2, 5, 8, 3, 30]), 9)
    held = read(stream)
    # The last is 10, twice 9 after the token before, and 2 after it: three whole rows and an end of three. What is short
    # goes by size, 8 7 5 3 3 3 2, to where least is left: 8 + 2, 7 + 3, 5 + 3, 3.
    assert stream.n_samples == 7 and (held[:3] != -1).all()
    filled = sorted((held[3:] != -1).sum(1).tolist())
    assert filled == [3, 8, 10, 10]
    assert stream.fill == pytest.approx(61 / 70)


def test_the_rest_of_a_long_document_is_marked() -> None:
    stream = Packed(Documents([4, 13]), 9)
    held = read(stream)
    assert held[0].tolist() == list(range(5, 15))
    # 4 tokens, then what is left of 13: the last that was learned, as context, and three more.
    assert held[1].tolist() in ([1, 2, 3, 0, CONTEXT - 14, 15, 16, 0, -1, -1], [14, 15, 16, 0, 1, 2, 3, 0, -1, -1])
    assert [target for target, _ in learned(stream)].count(14) == 1


def test_real_lengths_fill_their_rows() -> None:
    """Lengths as web pages have them, log-normal about 600 tokens."""
    lengths = np.random.default_rng(0).lognormal(6.4, 1.1, 4000).astype(int) + 2
    stream = Packed(Documents(lengths.tolist()), 2048)
    assert stream.fill > 0.995


def test_packing_knows_no_order_but_that_of_the_documents() -> None:
    lengths = np.random.default_rng(1).integers(2, 40, 300).tolist()
    one, again = (read(Packed(Documents(lengths), 32)) for _ in range(2))
    assert np.array_equal(one, again)


def test_folders_without_a_document_hold_no_sample() -> None:
    assert Packed(Documents([]), 8).n_samples == 0 and Packed(Documents([1, 1, 1]), 8).n_samples == 0
    assert Packed(Documents([]), 8).fill == 0.0
