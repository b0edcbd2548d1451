"""The order of the data is the plan's, whoever reads it, from wherever, as far ahead as he likes."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import END, body, documents, tokens

from trainer.config import from_mapping
from trainer.data import open_corpus
from trainer.loader import Loader, to_device
from trainer.plan import Plan
from trainer.state import Skipped, next_sample

CPU = torch.device("cpu")

KINDS = [("concat", 36), ("best_fit", 36), ("concat", 70_000), ("best_fit", 70_000)]
"""Packing, and a vocabulary whose tokens take two or four bytes."""


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def plan(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two phases of two sources, of which the second phase reads rows of another length, six to a batch."""
    packing, vocabulary = request.param
    folder = tmp_path_factory.mktemp("data")
    far = vocabulary - END - 1  # tokens that do not fit two bytes, where there are any
    sources = {
        name: str(tokens(folder / name, [shard(seed, far), shard(seed + 1, far)], vocabulary))
        for seed, name in enumerate(("web", "books"))
    }
    phase = {"tokens": 8 * 256, "mix": {"web": 0.7, "books": 0.3}}
    later = {"tokens": 6 * 288, "mix": {"books": 1.0}, "seq_len": 24, "batch_tokens": 288}
    wanted = body(Path(), folder, (), data__path=None, data__sources=sources, data__packing=packing)
    wanted["phase"] = [{"name": "a", **phase}, {"name": "b", **later}]
    return open_corpus(from_mapping(wanted)).plan


def shard(seed: int, far: int) -> list[np.ndarray]:
    return [np.where(text == END, END, text + far) for text in documents(60, seed=seed)]


Rows = dict[int, tuple[list[list[int]], list[list[int]], list[list[int]]]]


def rows_of(plan: Plan, worlds: int, step: int = 0, skipped: Sequence[Skipped] = (), **how: Any) -> Rows:
    """Tokens, targets and documents by step, of all ranks together."""
    sample = first_of(plan, step, skipped)
    found: Rows = {}
    for rank in range(worlds):
        loader = Loader(plan, step, sample, rank, worlds, how.get("micro", 64), CPU, how.get("prefetch", 2), skipped)
        for one in loader:
            parts = found.setdefault(one.number, ([], [], []))
            for micro in one.micros:
                for part, tensor in zip(parts, micro[:3], strict=True):
                    part.extend(tensor.tolist())
                numbers = [len(set(row)) for row in micro.docs.tolist()]
                assert micro.n_docs == sum(numbers)
        loader.close()
    return found


def first_of(plan: Plan, step: int, skipped: Sequence[Skipped]) -> int:
    """The sample that a run which has taken `step` steps goes on with."""
    phase, sample = plan.phase_of(step), 0
    for _ in range(phase.first_step, step):
        sample = next_sample(phase.number, sample, list(skipped)) + phase.batch
    return sample


def test_the_order_is_one_for_any_ranks_depth_and_place_to_begin(plan: Plan) -> None:
    expected = rows_of(plan, 1)
    assert list(expected) == list(range(14))
    lengths = {step: {len(row) for row in parts[0]} for step, parts in expected.items()}
    assert lengths[7] == {32} and lengths[8] == {24} and len(expected[8][0]) == 12

    @given(
        worlds=st.sampled_from([1, 2, 4]),
        step=st.integers(0, 13),
        prefetch=st.integers(1, 6),
        micro=st.sampled_from([16, 64, 512]),
    )
    @settings(max_examples=15, deadline=None)
    def same(worlds: int, step: int, prefetch: int, micro: int) -> None:
        found = rows_of(plan, worlds, step, prefetch=prefetch, micro=micro)
        assert found == {number: parts for number, parts in expected.items() if number >= step}

    same()


def test_what_is_left_out_is_left_out_for_all(plan: Plan) -> None:
    gone = [Skipped(0, 16, 40), Skipped(0, 64, 72), Skipped(1, 0, 12)]
    expected = rows_of(plan, 1, skipped=gone)
    assert expected[2] == rows_of(plan, 1)[5] and expected[8] == rows_of(plan, 1)[9]
    for worlds, step in ((2, 0), (4, 3), (2, 9)):
        found = rows_of(plan, worlds, step, gone)
        assert found == {number: parts for number, parts in expected.items() if number >= step}


def test_rows_are_what_the_shards_hold(plan: Plan) -> None:
    """Targets follow tokens, a document's number changes where a text ends, and big tokens arrive whole."""
    rows = rows_of(plan, 2)
    known = set()
    for phase in plan.phases:
        for stream in phase.streams:
            store = stream.tokens  # type: ignore[attr-defined]
            for i in range(len(store)):
                text = store.doc(i).tolist()
                known |= set(pairwise(text))
    pairs = {
        (token, target)
        for tokens_, targets, docs in rows.values()
        for row in zip(tokens_, targets, docs, strict=True)
        for (token, target, doc), after in zip(zip(*row, strict=True), [*row[2][1:], None], strict=True)
        if target >= 0 and target != END and token != END and doc == after
    }
    assert len(pairs) > 60 and pairs <= known


def test_an_error_of_the_disk_is_raised_where_the_data_are_wanted(plan: Plan) -> None:
    class Broken(Plan):
        def read(self, phase: Any, sample: np.ndarray) -> Any:
            if sample[0] >= 16:
                raise OSError("a disk has failed")
            return super().read(phase, sample)

    broken = object.__new__(Broken)
    broken.__dict__ |= plan.__dict__
    loader = Loader(broken, 0, 0, 0, 1, 64, CPU)
    with pytest.raises(OSError, match="a disk has failed"):
        for step in loader:
            assert step.number < 2
    loader.close()


def test_what_is_moved_is_a_copy_of_its_own() -> None:
    held = np.arange(12).reshape(3, 4)
    micro = to_device(held[:2], held[1:], held[:2] * 0, CPU)
    assert micro.tokens.is_contiguous() and micro.targets.tolist() == held[1:].tolist() and micro.n_docs == 2
