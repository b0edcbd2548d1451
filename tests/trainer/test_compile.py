"""What is compiled: whole graphs, each shape once, the same numbers. Traced as for Inductor, then run as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import body, documents, losses, tokens, trained

from trainer import loss
from trainer.attention import scope
from trainer.config import Model, Parallel, from_mapping
from trainer.model import Decoder
from trainer.parallel import World, prepare
from trainer.train import Trainer


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    loss._compiled_turn.cache_clear()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    loss._compiled_turn.cache_clear()
    torch._dynamo.reset()


@pytest.mark.parametrize("masked", [True, False])
def test_a_run_of_two_phases_compiles_each_shape_once(
    masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_all = torch.compile
    asked: list[dict[str, Any]] = []

    def traced(given: Any, **options: Any) -> Any:
        asked.append(options)
        return compile_all(given, **options, backend="aot_eager")

    data = tokens(tmp_path / "t", [documents(120)])
    counts: list[tuple[int, int]] = []

    def watch(trainer: Trainer) -> None:
        learn = trainer._learn

        def counted(step: Any, rate: float) -> Any:
            numbers = learn(step, rate)
            counts.append((step.phase.number, torch._dynamo.utils.counters["stats"]["unique_graphs"]))
            return numbers

        monkeypatch.setattr(trainer, "_learn", counted)

    found = []
    for compiled in (True, False):
        wanted = body(data, tmp_path / str(compiled), (5, 5), parallel__compile=compiled, log__evaluate=2)
        wanted["model"]["layers"] = 2
        wanted["data"]["document_mask"] = masked
        wanted["phase"][1] |= {"batch_tokens": 192, "seq_len": 64, "tokens": 5 * 192}
        if compiled:
            monkeypatch.setattr(torch, "compile", traced)
        _, state = trained(from_mapping(wanted), before=watch if compiled else None)
        found.append((state, losses(tmp_path / str(compiled))))
    assert len(asked) == 3 and all(options == {"fullgraph": True, "dynamic": False} for options in asked)
    assert not torch._dynamo.utils.counters["graph_break"]
    phases: dict[int, list[int]] = {0: [], 1: []}
    for phase, graphs in counts:
        phases[phase].append(graphs)
    # One block for all layers, and one chunk of the loss. Looks at held-out text come between steps: the same block without
    # gradient, once.
    assert phases[0] == [2, 2, 3, 3, 3]
    assert phases[1] == [phases[1][0]] * 5 and phases[1][0] <= 3 + 2, "nothing is compiled after the first step"
    (state, seen), (plain, expected) = found
    assert seen.keys() == expected.keys() and len(seen) == 10
    for step in seen:
        assert seen[step] == pytest.approx(expected[step], rel=1e-4)
    for name in state:
        torch.testing.assert_close(state[name], plain[name], rtol=1e-3, atol=1e-4)


def test_a_block_takes_more_shapes_than_pytorch_allows_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases, numbers of documents, with and without gradient: a long run must not end at the ninth."""
    compile_all = torch.compile
    monkeypatch.setattr(torch, "compile", lambda given, **options: compile_all(given, **options, backend="eager"))
    shape = Model(layers=2, width=16, heads=2, kv_heads=2, head_dim=8, ffn=16, vocab_size=32)
    with torch._dynamo.config.patch(recompile_limit=2):
        with torch.device("meta"):
            model = Decoder(shape)
        prepare(model, Parallel(compile=True), World(0, 1, 0, torch.device("cpu"), None)).initialise(0)
        for length in (4, 5, 6, 7):
            rows = torch.zeros(1, length, dtype=torch.long)
            model(rows, rows, scope("mask", rows)).total.backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
