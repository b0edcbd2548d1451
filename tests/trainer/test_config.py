"""Configs: what is understood, and what is refused with its place and what to write instead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CrawlmillError
from trainer.config import Config, ConfigError, Parallel, Phase, Ramp, from_mapping, load

TOML = """\
name = "small"
seed = 3

[model]
layers = 4          # of 512
width = 512
heads = 4
kv_heads = 2

[data]
path = "mix"
batch_tokens = "64K"
seq_len = 500

[optim]
lr = 3e-4
betas = [0.9, 0.98]

[[phase]]
name = "pretrain"
tokens = "500M"
lr = { warmup = "10M" }

[[phase]]
name = "anneal"
tokens = 1_000_000
mix = { books = 0.75, web = 1 }
[phase.lr]
end = 0.0
shape = "sqrt"
"""

YAML = """\
name: small
seed: 3
model: {layers: 4, width: 512, heads: 4, kv_heads: 2}
data: {path: mix, batch_tokens: 64K, seq_len: 500}
optim:
  lr: 3e-4
  betas: [0.9, 0.98]
phase:
  - name: pretrain
    tokens: 500M
    lr: {warmup: 10M}
  - name: anneal
    tokens: 1_000_000
    mix: {books: 0.75, web: 1}
    lr: {end: 0.0, shape: sqrt}
"""


def written(folder: Path, text: str, name: str = "train.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, name: str = "train.toml", changes: Any = ()) -> str:
    with pytest.raises(CrawlmillError) as raised:
        load(written(folder, text, name), changes)
    assert raised.value.exit_code == 2
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_both_languages_say_the_same(tmp_path: Path) -> None:
    one, other = load(written(tmp_path, TOML)), load(written(tmp_path, YAML, "train.yaml"))
    assert one == other and one.digest == other.digest
    assert one.optim.lr == 3e-4 and one.optim.betas == (0.9, 0.98) and one.data.batch_tokens == 64_000
    assert one.phase == (
        Phase("pretrain", 500_000_000, lr=Ramp(warmup=10_000_000)),
        Phase("anneal", 1_000_000, {"books": 0.75, "web": 1.0}, Ramp(end=0.0, shape="sqrt")),
    )
    assert isinstance(one.phase[1].mix["web"], float) and one.log == Config().log


def test_changes_are_put_in_before_anything_is_checked(tmp_path: Path) -> None:
    path = written(tmp_path, TOML)
    changes = [
        "optim.lr=1e-3",
        "phase.anneal.lr.end=0.1",
        "guard.on=false",
        "data.sources.web=/a",
        "phase.pretrain.tokens=2M",
    ]
    found = load(path, changes)
    assert found.optim.lr == 1e-3 and found.phase[1].lr == Ramp(end=0.1, shape="sqrt") and not found.guard.on
    assert found.data.sources == {"web": "/a"} and found.phase[0].tokens == 2_000_000
    assert load(path, ["out=runs/a=b"]).out == "runs/a=b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optim.lr", "write KEY=VALUE"),
        ("optim.rl=1", "unknown key 'optim.rl'; did you mean 'lr'?"),
        ("phase.final.tokens=1", "no phase is named 'final'"),
        ("phase.anneal=1", "name the phase and a key in it"),
        ("seed.a=1", "'seed' holds a value, not a section"),
        ("optim.lr=[1", "'[1' is no value"),
        ("optim.lr=fast", "optim.lr is a number, not 'fast'"),
    ],
)
def test_changes_that_cannot_be_are_refused(tmp_path: Path, change: str, message: str) -> None:
    assert message in refusal(tmp_path, TOML, changes=[change])


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("width = 512", "widht = 512", 6, "unknown key 'model.widht'; did you mean 'width'?"),
        ("[optim]", "[optimiser]", 15, "unknown key 'optimiser'; did you mean 'optim'?"),
        ("tokens = 1_000_000\n", "tokens = 1.5\n", 26, "phase.1.tokens is a whole number"),
        ("kv_heads = 2", "kv_heads = true", 8, "model.kv_heads is a whole number"),
        ("betas = [0.9, 0.98]", "betas = [0.9]", 17, "optim.betas holds 2 values, not 1"),
        ("betas = [0.9, 0.98]", "betas = 0.9", 17, "optim.betas is a list"),
        (
            'shape = "sqrt"',
            'shape = "sqr"',
            30,
            "one of constant, linear, cosine, sqrt, not 'sqr'; did you mean 'sqrt'?",
        ),
        ("lr = 3e-4", "lr = inf", 16, "optim.lr is a number, not inf"),
        ("lr = 3e-4", "lr = nan", 16, "optim.lr is a number"),
        ("lr = { warmup", "lr = { warm", 22, "unknown key 'phase.0.lr.warm'; did you mean 'warmup'?"),
        ('path = "mix"', "path = 3", 11, "data.path is a text, not 3"),
        ("mix = { books = 0.75, web = 1 }", 'mix = { books = "many" }', 27, "phase.1.mix.books is a number"),
        ("seed = 3", "seed = inf", 2, "seed is a whole number"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert TOML.count(old) >= 1
    text = TOML.replace(old, new, 1)
    found = refusal(tmp_path, text)
    assert message in found and f"train.toml, line {line}:" in found


def test_mistakes_in_yaml_are_told_with_their_line(tmp_path: Path) -> None:
    found = refusal(tmp_path, YAML.replace("    tokens: 1_000_000", "    token: 1_000_000"), "train.yaml")
    assert "train.yaml, line 13:" in found and "did you mean 'tokens'?" in found
    assert "stands twice" in refusal(tmp_path, "seed: 1\nseed: 2\n", "train.yaml")


def test_a_key_that_yaml_takes_for_true_is_a_key(tmp_path: Path) -> None:
    assert not load(written(tmp_path, "guard: {on: false}\n", "train.yaml")).guard.on


def test_files_that_are_no_configs_are_refused(tmp_path: Path) -> None:
    assert "not valid TOML" in refusal(tmp_path, "a = = 1")
    assert "a config is a mapping" in refusal(tmp_path, "- 1\n", "train.yaml")
    assert "not valid YAML" in refusal(tmp_path, "a: [1\n", "train.yaml")
    assert "phase.0 lacks name" in refusal(tmp_path, "[[phase]]\ntokens = 1\n")
    assert "model is a section, not 3" in refusal(tmp_path, "model = 3\n")
    with pytest.raises(ConfigError, match=r"cannot read config .*absent\.toml"):
        load(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read config"):
        load(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": {"layers": 0}}, "model.layers must be 1 or more"),
        ({"model": {"heads": 6, "kv_heads": 4}}, r"heads \(6\) must be a multiple of kv_heads \(4\)"),
        ({"model": {"head_dim": 33}}, "must be even"),
        ({"model": {"vocab_size": -1}}, "model.vocab_size must be 0 or more, not -1"),
        ({"optim": {"lr": 0}}, "optim.lr must be above 0"),
        ({"optim": {"clip": 0}}, "optim.clip must be above 0"),
        ({"optim": {"betas": [0.9, 1.0]}}, "betas are at least 0 and below 1"),
        ({"data": {"held_out_share": 1}}, "held_out_share is a share below 1"),
        ({"data": {"max_epochs": 0}}, "max_epochs must be above 0"),
        ({"data": {"batch_tokens": 1000}}, r"must be a multiple of seq_len \(2,048\); the nearest is 2,048"),
        ({"data": {"seq_len": 1000}}, r"batch_tokens \(524,288\) must be a multiple of seq_len \(1,000\)"),
        ({"phase": [{"name": "a", "seq_len": 1000}]}, "phase 'a': batch_tokens .* nearest is 524,000"),
        ({"phase": [{"name": "a", "seq_len": -1}]}, "seq_len must be 1 or more"),
        ({"phase": [{"name": "a", "tokens": 0}]}, "tokens must be 1 or more"),
        ({"phase": [{"name": "a"}, {"name": "a"}]}, "two phases have one name"),
        ({"phase": [{"name": "a", "mix": {"web": -1}}]}, "a share of its mix is below 0"),
        ({"phase": [{"name": "a", "lr": {"end": -0.1}}]}, "a factor of its lr is below 0"),
        ({"phase": [{"name": "a", "lr": {"warmup": -1}}]}, "lr.warmup is below 0"),
        ({"checkpoint": {"every": 0}}, "checkpoint.every must be 1 or more"),
        ({"log": {"every": 0}}, "log.every must be 1 or more"),
        ({"parallel": {"tensor": 0}}, "parallel.tensor must be 1 or more"),
        ({"guard": {"window": 0}}, "guard.window must be 1 or more"),
        ({"micro_tokens": -1}, "micro_tokens must be 0 or more"),
    ],
)
def test_values_that_cannot_be_are_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(body)


def test_phases_that_say_their_own_sizes_need_no_others() -> None:
    made = from_mapping({"data": {"seq_len": 1000}, "phase": [{"name": "a", "batch_tokens": 8000}]})
    assert made.phase[0].batch_tokens == 8000


def test_a_run_may_change_what_gets_it_on_and_nothing_that_it_learns_by() -> None:
    base = Config()
    same = [
        replace(base, name="b", out="c", micro_tokens=4096, device="cpu", deterministic=True),
        replace(base, parallel=Parallel(shard=2, checkpoint_activations="full", compile=False)),
        replace(base, guard=replace(base.guard, sigmas=8.0), log=replace(base.log, every=1)),
        replace(base, checkpoint=replace(base.checkpoint, every=7)),
        replace(base, data=replace(base.data, path="elsewhere", prefetch=9, verify=False)),
    ]
    assert {config.digest for config in same} == {base.digest}
    other = [
        replace(base, seed=1),
        replace(base, dtype="bfloat16"),
        replace(base, model=replace(base.model, layers=13)),
        replace(base, optim=replace(base.optim, lr=1e-3)),
        replace(base, data=replace(base.data, document_mask=False)),
        replace(base, phase=(Phase("a", 1),)),
    ]
    assert len({config.digest for config in (base, *other)}) == 7


def test_paths_are_relative_to_the_file_and_those_of_changes_are_not(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text('out = "../model"\n[data.sources]\nweb = "tokens/web"\nbooks = "/books"\n')
    config = load(tmp_path / "train.toml", ["data.held_out.wiki=here"])
    assert config.out == str(tmp_path.parent / "model")
    assert config.data.sources == {"web": str(tmp_path / "tokens" / "web"), "books": "/books"}
    assert config.data.held_out == {"wiki": "here"}


def test_a_file_of_phases_replaces_phases_and_what_it_says_of_data(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'out = "a"\n[optim]\nlr = 1e-3\n[data]\npath = "x"\nseq_len = 256\nbatch_tokens = 1024\n'
        '[data.held_out]\nweb = "w"\n[[phase]]\nname = "pretrain"\n'
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "anneal.yaml").write_text(
        "out: run\ndata: {path: mixed}\nphase:\n- {name: anneal, lr: {end: 0}}\n"
    )
    config = load(tmp_path / "a.toml", ["phase.anneal.tokens=5M"], tmp_path / "b" / "anneal.yaml")
    assert [(phase.name, phase.tokens) for phase in config.phase] == [("anneal", 5_000_000)]
    assert (config.out, config.data.path) == (str(tmp_path / "b" / "run"), str(tmp_path / "b" / "mixed"))
    assert (config.data.seq_len, config.data.held_out, config.optim.lr) == (256, {}, 1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {path: mixed}\noptim: {lr: 1}\n", "anneal.yaml, line 2: .*'optim' stays that of the config"),
        ("phase:\n- {name: anneal, warmup: 1}\n", "anneal.yaml, line 2: unknown key 'phase.0.warmup'"),
        ("data: {seq: 1}\n", "anneal.yaml, line 1: unknown key 'data.seq'"),
        ("data: 3\n", "anneal.yaml, line 1: data is a section"),
    ],
)
def test_mistakes_in_a_file_of_phases_are_told_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text('[data]\npath = "x"\n')
    (tmp_path / "anneal.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "a.toml", phases=tmp_path / "anneal.yaml")
