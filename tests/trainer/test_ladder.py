"""A ladder of tiny runs is planned with sense, trained once, and read for its laws."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import body, documents, tokens
from typer.testing import CliRunner

from pipeline.errors import CrawlmillError, UsageError
from trainer import ladder
from trainer.config import Config, Model, Phase, Ramp, from_mapping, load
from trainer.ladder import Base, base_of, check, plan, shape_of, train, write
from trainer.model import flops_per_token, n_parameters
from trainer.parallel import start, stop
from trainer.scaling_commands import scaling_app
from trainer.scaling_runs import collect, read_run
from trainer.train import Trainer

LIKE = Model(heads=12, kv_heads=4, head_dim=64, vocab_size=50_304)


@pytest.mark.parametrize("n", [5e7, 1.25e8, 1e9, 7e9])
def test_shapes_have_the_size_and_the_ratios_of_the_base(n: float) -> None:
    shape = shape_of(n, LIKE)
    assert n_parameters(shape)[0] == pytest.approx(n, rel=0.1)
    assert shape.heads == 3 * shape.kv_heads and shape.width == shape.heads * shape.head_dim
    assert 20 < shape.width / shape.layers < 200
    wide = shape_of(n, replace(LIKE, ffn=4 * 768))
    assert wide.ffn == pytest.approx(4 * wide.width, rel=0.01)


def test_a_size_that_no_shape_has_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"about 1M parameters: the nearest has .*, of which a vocabulary of 50,304 takes"
    ):
        shape_of(1e6, LIKE)


def base(*phases: Phase, **changes: Any) -> Base:
    options = from_mapping(body(Path("data"), Path("out"), **changes))
    return Base(
        replace(options, model=replace(options.model, vocab_size=128)), phases or (Phase("all", tokens=10_000),)
    )


def test_rungs_spend_their_budget_with_rate_and_warm_up_that_suit_them() -> None:
    rungs = plan(base(), [20e3, 60e3], [4e9, 12e9], Path("ladder"), warmup=0.1)
    assert [rung.budget for rung in rungs] == [4e9, 4e9, 12e9, 12e9]
    assert len({rung.name for rung in rungs}) == 4
    for rung in rungs:
        options = rung.options
        assert rung.flops == pytest.approx(rung.budget, rel=0.03)
        assert rung.flops == rung.tokens * flops_per_token(options.model, 32)
        assert rung.tokens == rung.steps * 256 == options.phase[0].tokens
        assert options.optim.lr * options.model.width == pytest.approx(5e-3 * 32, rel=0.01)
        assert options.phase[0].lr == Ramp(1.0, 0.1, "cosine", int(0.1 * rung.tokens)), "over the run, and no longer"
    assert rungs[0].parameters < rungs[1].parameters


def test_phases_keep_their_shares_and_their_decay() -> None:
    phases = (
        Phase("pretrain", tokens=90_000, lr=Ramp(warmup=5)),
        Phase("anneal", tokens=10_000, lr=Ramp(end=0.0, shape="sqrt"), mix={"best": 1.0}),
    )
    (rung,) = plan(base(*phases), [20e3], [2e10], Path("ladder"))
    first, second = rung.options.phase
    assert (first.tokens or 0) / rung.tokens == pytest.approx(0.9, abs=0.01)
    assert first.lr == Ramp(warmup=int(0.02 * rung.tokens))
    assert second.lr == Ramp(end=0.0, shape="sqrt") and second.mix == {"best": 1.0}


def test_runs_of_a_few_steps_and_sizes_that_fall_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1e\+08 operations gives .* steps of 256 tokens, and 20 are the least"):
        plan(base(), [20e3], [1e8], Path("ladder"))
    with pytest.raises(UsageError, match="two of the sizes give the same model"):
        plan(base(), [20e3, 20_001], [2e9], Path("ladder"))


def in_this_process(rung: ladder.Rung) -> None:
    options = load(rung.config)
    world = start("cpu", options.parallel, True)
    try:
        Trainer(options, world).run()
    finally:
        stop(world)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base config with its data, and a ladder of two sizes at two budgets that was trained."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    where = tmp_path_factory.mktemp("ladder")
    data = tokens(where / "tokens", [documents(900)])
    (where / "base.yaml").write_text(yaml.safe_dump(body(data, where / "out", log__every=10)))
    rungs = rungs_of(where)
    check(rungs)
    write(rungs)
    train(rungs, in_this_process, lambda text: None)
    torch.set_num_threads(before)
    return where


def rungs_of(where: Path) -> list[ladder.Rung]:
    return plan(base_of(load(where / "base.yaml")), [15e3, 40e3], [2e9, 4e9], where / "ladder")


def test_configs_say_what_was_planned(folder: Path) -> None:
    for rung in rungs_of(folder):
        read = load(rung.config)
        assert read.model == rung.options.model and read.optim == rung.options.optim
        assert read.phase == rung.options.phase
        assert Path(read.out) == Path(rung.options.out).resolve()
        assert read.guard == rung.options.guard and read.seed == rung.options.seed


def test_runs_that_are_done_are_not_trained_again(folder: Path) -> None:
    def never(rung: ladder.Rung) -> None:
        raise AssertionError(rung.name)

    said: list[str] = []
    train(rungs_of(folder), never, said.append)
    assert len(said) == 4 and all("done before, loss" in one for one in said)


def test_what_was_trained_is_read_as_planned(folder: Path) -> None:
    found = collect([str(folder / "ladder" / "runs")])
    assert not found.left_out
    by_name = {rung.name: rung for rung in rungs_of(folder)}
    assert set(found.runs.names) == set(by_name)
    for name, n, d, flops in zip(found.runs.names, found.runs.n, found.runs.d, found.runs.flops, strict=True):
        rung = by_name[name]
        assert (n, d, flops) == (rung.parameters, rung.tokens, rung.flops)
    trained = collect([str(folder / "ladder" / "runs")], "train")
    assert (found.runs.loss < 3.6).all() and (abs(found.runs.loss / trained.runs.loss - 1) < 0.2).all()


def test_an_unfinished_run_is_left_out_by_name(folder: Path, tmp_path: Path) -> None:
    source = Path(rungs_of(folder)[0].options.out)
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(line for line in lines if '"end"' not in line[:20]))
    assert "not done yet (step" in str(read_run(tmp_path))
    (tmp_path / "metrics.jsonl").write_text("".join(line for line in lines if '"eval"' not in line[:20]))
    assert "take --loss train" in str(read_run(tmp_path))
    assert not isinstance(read_run(tmp_path, "train"), str)


def test_another_ladder_in_the_same_place_is_refused(folder: Path) -> None:
    other = load(folder / "base.yaml", ["optim.lr=1e-3"])
    with pytest.raises(UsageError, match="is of another ladder"):
        write(plan(base_of(other), [15e3, 40e3], [2e9, 4e9], folder / "ladder"))


def test_too_little_data_is_said_before_anything_is_trained(folder: Path) -> None:
    with pytest.raises(CrawlmillError, match=r"8e11-.*, which reads the most: .*times"):
        check(plan(base_of(load(folder / "base.yaml")), [15e3], [2e9, 8e11], folder / "more"))


def test_a_run_that_fails_says_why_and_where(folder: Path, tmp_path: Path) -> None:
    rung = replace(rungs_of(folder)[0], config=tmp_path / "broken.yaml")
    rung = replace(rung, options=replace(rung.options, out=str(tmp_path / "run")))
    rung.config.write_text("model: {layers: 0}\n")
    with pytest.raises(CrawlmillError, match=r"ended with 2: .*layers must be 1 or more.*log\.txt") as error:
        ladder.runner()(rung)
    assert error.value.exit_code == 2


def test_a_ladder_that_is_stopped_stops_its_run_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, signal, time; signal.signal(15, lambda *_: os._exit(143)); os.kill(os.getppid(), 15); "
    monkeypatch.setattr("trainer.ladder.COMMAND", ("-c", code + "time.sleep(60)"))
    rung = rungs_of(folder)[0]
    rung = replace(rung, options=replace(rung.options, out=str(tmp_path / "run")))
    with pytest.raises(CrawlmillError, match="stopped and saved; run the same command again") as error:
        ladder.runner()(rung)
    assert error.value.exit_code == 143


def test_the_command_plans_and_names_what_the_runs_cannot_tell(folder: Path) -> None:
    given = [
        "ladder",
        str(folder / "base.yaml"),
        "--sizes",
        "15K,40K",
        "--budgets",
        "2e9,4e9",
        "-o",
        str(folder / "ladder"),
    ]
    done = CliRunner().invoke(scaling_app, [*given, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0 and "configs in" in " ".join(done.output.split())
    done = CliRunner().invoke(scaling_app, given)
    assert "2 sizes of model, 3 are needed" in str(done.exception) and "at least 6 runs" in str(done.exception)


def test_a_config_without_changes_is_written_as_nothing() -> None:
    assert ladder._changed(Config(), Config()) == {}
