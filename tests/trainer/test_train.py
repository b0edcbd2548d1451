"""What a run is made of and how it begins: refusals that change nothing, starts from other runs, looks at held-out text."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import free_port, on_ranks
from runs import END, body, config, documents, events, losses, same, tokens, trained
from tokenizers import Tokenizer

from pipeline.errors import CrawlmillError, UsageError
from trainer.attention import scope
from trainer.checkpoint_files import CheckpointError
from trainer.config import from_mapping
from trainer.data import open_corpus
from trainer.metrics import read
from trainer.parallel import start, stop
from trainer.train import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens(tmp_path_factory.mktemp("data") / "t", [documents(120, seed=i) for i in range(2)])


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 10 steps."""
    out = tmp_path_factory.mktemp("run") / "out"
    trained(config(data, out, (10,)))
    return out


def contents(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


def refused(wanted: dict[str, Any], match: str, begin: str | None = None, ranks: int = 1) -> None:
    """That a run is not begun, in one line, and that nothing is written."""
    out = Path(wanted["out"])
    before = contents(out.parent)
    world = start("cpu")
    try:
        with pytest.raises(CrawlmillError, match=match) as told:
            if ranks > 1:
                Trainer(from_mapping(wanted), replace(world, size=ranks))
            else:
                trained_here(wanted, begin)
    finally:
        stop(world)
    assert "\n" not in str(told.value) and told.value.exit_code not in (0, 4, 143)
    assert contents(out.parent) == before


def trained_here(wanted: dict[str, Any], begin: str | None) -> None:
    from trainer.parallel import World
    from trainer.train import Start

    world = World(0, 1, 0, torch.device("cpu"), None)
    Trainer(from_mapping(wanted), world, Start(begin) if begin else None).run()


# Data that cannot be


def damaged(folder: Path, suffix: str, change: Callable[[bytearray], None]) -> None:
    path = folder / f"shard-00001{suffix}"
    held = bytearray(path.read_bytes())
    change(held)
    path.write_bytes(held)


def flip(held: bytearray) -> None:
    held[100] ^= 1


def cut(held: bytearray) -> None:
    del held[-2:]


@pytest.mark.parametrize(
    ("suffix", "change", "match"),
    [
        (".bin", flip, r"shard-00001.bin is not what was written: SHA-256"),
        (".bin", cut, r"shard-00001.bin has .* bytes, its index says"),
        (".idx", cut, r"shard-00001.idx has .* bytes"),
    ],
)
def test_a_shard_that_is_not_what_was_written_is_refused_by_name(
    suffix: str, change: Callable[[bytearray], None], match: str, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "in" / "t"
    shutil.copytree(data, copy)
    damaged(copy, suffix, change)
    refused(body(copy, tmp_path / "runs" / "out"), match)
    assert not (tmp_path / "runs").exists()


def test_tokens_of_two_tokenizers_are_refused(data: Path, tmp_path: Path) -> None:
    other = tokens(tmp_path / "in" / "other", [documents(60)], vocab_size=60)
    wanted = body(data, tmp_path / "runs" / "out", data__path=None, data__sources={"a": str(data), "b": str(other)})
    refused(wanted, r"a and b are of two tokenizers .*: tokenize one of them again")
    wanted = body(data, tmp_path / "runs" / "out", data__held_out={"b": str(other)})
    refused(wanted, r"t and held_out b are of two tokenizers")
    refused(body(data, tmp_path / "runs" / "out", data__held_out={"b": str(data)}), r"'b' is .*, which 't' trains on")


def test_too_little_data_is_refused_with_what_would_be_enough(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(body(data, out, (200,)), r"would read t \d+\.\d\d times .*max_epochs is 4: lower .*set data.max_epochs=\d+")
    refused(body(data, out, (1,), data__batch_tokens=512), r"'p0' has 256 tokens, less than one batch of 512")
    refused(
        body(data, out, (1,), data__seq_len=20_480, data__batch_tokens=20_480), r"less than one (batch|sample) of 20,48"
    )


def test_all_of_the_data_once_is_one_epoch(data: Path, tmp_path: Path) -> None:
    for changes in ({}, {"data__packing": "best_fit"}, {"data__held_out_share": 0.0}):
        wanted = body(data, tmp_path / "out", (), data__max_epochs=1.0, **changes)
        plan = open_corpus(from_mapping(wanted)).plan
        assert 0.9 < plan.epochs()["t"] <= 1.0


def test_a_batch_that_ranks_cannot_share_is_refused(data: Path, tmp_path: Path) -> None:
    refused(
        body(data, tmp_path / "out"), r"8 samples a batch, which 3 ranks .*data.batch_tokens a multiple of 96", ranks=3
    )
    refused(body(data, tmp_path / "out", model__vocab_size=8), r"model.vocab_size is 8, .* has 36 tokens; set 0")


# Another run


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"optim__lr": 1e-4}, r"under another config \(optim.lr was 0.005, is 0.0001\): take it up .*another out"),
        (
            {"model__width": 48, "optim__eps": 1e-9},
            r"config \(model.width was 32, is 48; optim.eps was 1e-08, is 1e-09\)",
        ),
        ({"seed": 1}, r"seed was 0, is 1"),
        ({"phase": [{"name": "p0", "tokens": 5120}]}, r"phase.0.tokens was 2560, is 5120"),
    ],
)
def test_a_run_is_not_gone_on_with_as_another(changes: dict[str, Any], match: str, data: Path, run: Path) -> None:
    refused(body(data, run, (10,), **changes), match)


def test_what_may_change_on_the_way_may(data: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run, out)
    free = {
        "log__every": 3,
        "guard__window": 32,  # the guard's history is of another size then
        "guard__sigmas": 9.0,
        "micro_tokens": 64,
        "checkpoint__every": 7,
        "data__prefetch": 1,
        "name": "another",
    }
    assert trained(config(data, out, (10,), **free))[0].step == 10


def test_a_run_on_other_data_is_refused(data: Path, run: Path, tmp_path: Path) -> None:
    other = tokens(tmp_path / "t", [documents(120, seed=i) for i in (7, 8)])
    refused(body(other, run, (10,)), r"holds a run on other data, or in another order")
    other = tokens(tmp_path / "u" / "t", [documents(120, seed=i) for i in range(2)], vocab_size=40)
    refused(body(other, run, (10,)), r"holds a run (on other data|with another tokenizer)")


def test_a_start_from_a_checkpoint_that_does_not_fit_is_refused(data: Path, run: Path, tmp_path: Path) -> None:
    point, out = str(run / "checkpoints" / "step-00000010"), tmp_path / "runs" / "out"
    other = tokens(tmp_path / "other" / "t", [documents(120)], vocab_size=40)
    refused(
        body(data, out, model__width=48),
        r"step-00000010 is of a run of another shape .*model.width was 32, is 48",
        point,
    )
    refused(body(other, out, (5,)), r"step-00000010 is of a run with another tokenizer \(tokenizer was", point)
    refused(body(data, out, optim__name="muon"), r"another optim.name \(optimizer was 'adamw', is 'muon'\)", point)
    refused(body(data, out), r"is no checkpoint: it has no manifest.json", str(run))
    refused(body(data, run, (10,)), r"holds a run already \(step-00000010\), which did not begin", point)
    assert not out.exists()


def test_a_damaged_checkpoint_is_named_with_one_that_is_whole(data: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run, out)
    (file,) = (out / "checkpoints" / "step-00000010").glob("*.distcp")
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)
    refused(
        body(data, out, (10,)),
        r"step-00000010 cannot be used: .*SHA-256 differs; .*step-00000005 is whole and can be used",
    )
    shutil.rmtree(out / "checkpoints" / "step-00000010")
    through = tmp_path / "through"
    _, expected = trained(config(data, through, (10,)))
    _, found = trained(config(data, out, (10,)))
    assert same(found, expected)


# Annealing


def test_annealing_takes_parameters_and_moments_and_begins_its_own_schedule(
    data: Path, run: Path, tmp_path: Path
) -> None:
    point = run / "checkpoints" / "step-00000010"
    _, before = trained(config(data, run, (10,)))
    anneal = body(data, tmp_path / "anneal", (6,), guard__window=32)
    anneal["phase"][0] |= {"name": "anneal", "lr": {"start": 0.5, "end": 0.0}}
    seen: dict[str, Any] = {}

    def looks(trainer: Any) -> None:
        learn = trainer._learn

        def learns(step: Any, rate: float) -> Any:
            from runs import everything

            if step.number == 0:
                seen["held"] = everything(trainer)
            if step.number == 3 and "broken" not in seen:
                seen["broken"] = True
                trainer._save(asynchronous=False)
            return learn(step, rate)

        trainer._learn = learns

    result, after = trained(from_mapping(anneal), str(point), looks)
    held = {name: tensor for name, tensor in seen["held"].items() if not name.startswith("extra")}
    assert same(held, {name: tensor for name, tensor in before.items() if not name.startswith("extra")})
    assert float(held["adam.model.norm.weight.step"]) == 10 and float(after["adam.model.norm.weight.step"]) == 16
    steps = [line for line in read(tmp_path / "anneal") if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(6)) and steps[0]["tokens"] == 256
    rates = [0.005 * 0.5 * (1 - (i + 1) / 6) for i in range(6)]
    assert [line["lr"] for line in steps] == pytest.approx(rates) and steps[0]["phase"] == "anneal"
    assert steps[0]["loss"] < losses(run)[0][0] - 1, "it begins with what was learned"
    # The same command goes on, and so does one without --from.
    shutil.rmtree(tmp_path / "anneal" / "checkpoints" / "step-00000006")
    assert trained(from_mapping(anneal), str(point))[0].step == 6
    again, same_after = trained(from_mapping(anneal))
    assert again == result and same(after, same_after)
    with pytest.raises(UsageError, match="did not begin from that checkpoint"):
        trained(from_mapping(anneal), str(run / "checkpoints" / "step-00000005"))


# Held-out text


def test_bits_per_byte_are_those_of_the_text(data: Path, tmp_path: Path) -> None:
    """Counted anew from the logits and the decoded text."""
    wanted = config(data, tmp_path / "out", (8,), data__held_out_share=0.2)
    kept: list[Any] = []
    result, _ = trained(wanted, before=kept.append)
    (trainer,) = kept
    (part,) = trainer.corpus.held_out
    decode = Tokenizer.from_file(str(data / "tokenizer.json"))
    nats, n_bytes = 0.0, 0
    held = np.empty(33, np.int64)
    for sample in range(part.windows.n_samples):
        part.windows.read(sample, held)
        row = torch.from_numpy(held.copy())
        docs = torch.cumsum(row[:-1] == trainer.plan.eos, 0)[None]
        with torch.no_grad():
            stream = trainer.model.hidden(row[None, :-1], scope("mask", docs))
            logits = (stream[0] @ trainer.model.head.T).double()
        nats -= float(torch.log_softmax(logits, -1).gather(-1, row[1:, None]).sum())
        n_bytes += len(decode.decode(row[1:].tolist(), skip_special_tokens=True).encode())
    assert part.windows.n_samples > 20
    assert result.bits_per_byte["t"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)


def evaluated(wanted: list[dict[str, Any]], ports: list[int]) -> list[dict[str, float]]:
    import os

    found = []
    for one, port in zip(wanted, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        found.append(trained(from_mapping(one))[0].bits_per_byte)
    return found


def test_bits_per_byte_do_not_depend_on_the_ranks(data: Path, run: Path, tmp_path: Path) -> None:
    """Nor on whether each of them has something to look at."""
    expected = trained(config(data, run, (10,)))[0].bits_per_byte
    outs = []
    for name in ("replicas", "sharded"):
        shutil.copytree(run, tmp_path / name)
        outs.append(body(data, tmp_path / name, (10,), parallel__shard=1 if name == "replicas" else 0))
    for found in on_ranks(2, evaluated, tmp_path / "ranks", outs, [free_port() for _ in outs]):
        for one in found:
            assert one == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_nothing_of_a_held_out_document_is_learned_from(packing: str, tmp_path: Path) -> None:
    """Every token says which document it is of."""
    texts = [np.full(20 + i % 30, 100 + i) for i in range(300)]
    for text in texts:
        text[-1] = END
    folder = tokens(tmp_path / "t", [texts[i::2] for i in range(2)], 70_000)
    corpus = open_corpus(config(folder, tmp_path / "out", (), data__packing=packing, data__held_out_share=0.1))
    phase = corpus.plan.phases[0]
    batch = corpus.plan.read(phase, np.arange(sum(phase.samples) + 64))
    learned = set(np.unique(batch.tokens)) | set(np.unique(batch.targets)) - {-1, 0, END}
    held: set[int] = set()
    row = np.empty(33, np.int64)
    for sample in range(corpus.held_out[0].windows.n_samples):
        corpus.held_out[0].windows.read(sample, row)
        held |= set(row.tolist()) - {END}
    assert len(held) > 20 and not held & learned
    share = corpus.held_out[0].windows.n_tokens / sum(len(t) for t in texts)
    assert 0.09 < share <= 0.1


def test_held_out_text_shorter_than_a_sample_is_looked_at_all_the_same(data: Path, tmp_path: Path) -> None:
    short = tokens(tmp_path / "short", [[documents(1, mean=20)[0][:12]]])
    empty = tokens(tmp_path / "empty", [[np.array([3])]])
    wanted = config(data, tmp_path / "out", (4,), data__held_out={"short": str(short), "empty": str(empty)})
    result, _ = trained(wanted)
    assert list(result.bits_per_byte) == ["short"] and 1 < result.bits_per_byte["short"] < 9
    looks = [line for line in read(tmp_path / "out") if line["kind"] == "eval"]
    assert [(line["source"], line["tokens"]) for line in looks] == [("short", 11)]
    assert [line["source"] for line in events(tmp_path / "out", "nothing held out")] == ["empty"]
    # One document is all there is: its end is held out, and the rest trained on.
    one = tokens(tmp_path / "one", [[np.concatenate([text[:-1] for text in documents(200, seed=3)])]])
    corpus = open_corpus(config(one, tmp_path / "out", ()))
    assert corpus.held_out[0].windows.n_tokens == int(
        0.05 * (200 * 0 + int(json.loads((one / "tokens.json").read_text())["totals"]["tokens"]))
    )


def test_a_checkpoint_says_what_run_it_is_of(data: Path, run: Path) -> None:
    from trainer.checkpoint_files import manifest

    about = manifest(run / "checkpoints" / "step-00000010")
    assert about["tokenizer"] == hashlib.sha256((data / "tokenizer.json").read_bytes()).hexdigest()
    assert about["model"]["vocab_size"] == 128 and about["begun_from"] is None
    assert about["config"] == json.loads((run / "config.json").read_text())["digest"]
    with pytest.raises(CheckpointError):
        manifest(run)
