"""What is exported is what transformers computes, and what is imported is what was exported, to the bit."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401

from pipeline.errors import StorageError
from pipeline.tokenizer import files
from trainer import config, huggingface
from trainer.attention import scope
from trainer.checkpoint_files import CheckpointError
from trainer.export import export, import_
from trainer.huggingface import ModelError
from trainer.model import Decoder
from trainer.models import open_model
from trainer.parallel import start, stop
from trainer.scoring import encode
from trainer.tokenizer import TokenizerError
from trainer.train import Start, Trainer
from trainer.vocabulary import END_NAMES

SHAPES = {
    "llama, shared keys, tied": tiny.shape(),
    "llama, untied": tiny.shape(tie_embeddings=False, kv_heads=4, ffn=0, rope_theta=10_000.0),
    "qwen3, shared keys, tied": tiny.shape(qk_norm=True, rope_theta=1e6, norm_eps=1e-6),
    "qwen3, one key, untied": tiny.shape(qk_norm=True, tie_embeddings=False, kv_heads=1, head_dim=16),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.run(tmp_path_factory.mktemp("run"), tiny.shape(qk_norm=True))


def logits(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    return model.hidden(tokens, scope("causal", torch.zeros_like(tokens))) @ model.head.T


def write(folder: Path, shape: config.Model, **options: Any) -> Decoder:
    """A folder of a model that was never in a checkpoint."""
    made = tiny.model(shape)
    body = json.dumps(huggingface.config_of(shape, 64, 299, 299, "float32"))
    files = {"config.json": body, "tokenizer.json": tiny.tokenizer_json()}
    huggingface.write(folder, files, {n: p.detach() for n, p in made.named_parameters()}, **options)
    return made


def state(model: Decoder) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def assert_same(left: Decoder, right: Decoder) -> None:
    assert left.shape == right.shape
    for name, parameter in left.named_parameters():
        assert torch.equal(parameter, state(right)[name]), name


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_transformers_computes_the_same(shape: config.Model, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = write(tmp_path / "out", shape)
    theirs, said = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if shape.qk_norm else "LlamaForCausalLM")
    assert not said["missing_keys"] and not said["unexpected_keys"] and not said["mismatched_keys"]
    tokens = torch.randint(0, shape.vocab_size, (3, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = theirs(tokens).logits
    ours = logits(made, tokens)
    assert ours.abs().max() > 1  # or there would be nothing to compare
    assert (found - ours).abs().max() < 1e-4
    assert_same(open_model(tmp_path / "out").model, made)


def test_a_run_becomes_a_folder_that_generates(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    done = export(run, tmp_path / "out")
    found = open_model(run)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (words.eos_token, words.pad_token, words.eos_token_id) == (tiny.END, tiny.END, found.vocabulary.eos)
    assert words.model_max_length == 64
    for text in [*tiny.SENTENCES, "naïve 🦉\n\n", tiny.END]:
        assert words.encode(text) == found.vocabulary.encode([text])[0]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.tensor([words.encode("The cat")])
    assert (theirs(tokens).logits - logits(found.model, tokens)).abs().max() < 1e-4
    # None of the ids that only pad the vocabulary is ever generated, likely as they are in a model that learned nothing.
    made = theirs.generate(tokens, max_new_tokens=40, do_sample=True, temperature=9.0)
    assert done.unused == found.model.shape.vocab_size - found.vocabulary.size > 0
    assert made.max() < found.vocabulary.size and made.shape[1] > tokens.shape[1]


def test_the_card_says_what_is_known(run: Path, tmp_path: Path) -> None:
    export(run / "checkpoints" / "step-00000001", tmp_path / "one")
    export(run, tmp_path / "two", "bfloat16")
    one, two = ((tmp_path / name / "README.md").read_text() for name in ("one", "two"))
    assert "| step | 1 |" in one and "Held-out" not in one
    assert "| step | 2 |" in two and "| data | 2.5000 | 2 |" in two and "| tokens learned from | 128 |" in two
    assert str(tmp_path) not in two and str(run) not in two


def test_bfloat16_is_rounded_once(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", "bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    rounded = open_model(tmp_path / "out").model
    for name, parameter in open_model(run).model.named_parameters():
        assert torch.equal(parameter.bfloat16().float(), state(rounded)[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_to_the_bit(run: Path, tmp_path: Path, dtype: Any) -> None:
    export(run, tmp_path / "out", dtype)
    checkpoint = import_(tmp_path / "out", tmp_path / "in", "muon")
    assert_same(open_model(tmp_path / "in").model, open_model(tmp_path / "out").model)
    export(checkpoint, tmp_path / "again", dtype)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    if dtype == "float32":
        assert_same(open_model(checkpoint).model, open_model(run).model)


def test_a_model_of_transformers_is_taken_up_by_a_run(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=77.0, max_position_embeddings=50, eos_token_id=299,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / huggingface.INDEX).exists()
    (tmp_path / "theirs" / "tokenizer.json").write_text(tiny.tokenizer_json())
    checkpoint = import_(tmp_path / "theirs", tmp_path / "ours")
    found = open_model(checkpoint)
    assert (found.context, found.vocabulary.end) == (50, tiny.END)
    tokens = torch.randint(0, 300, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (theirs(tokens).logits - logits(found.model, tokens)).abs().max() < 1e-4
    # A run takes it up with the section that lies beside it.
    data = tiny.token_folder(tmp_path / "data", tiny.SENTENCES * 20)
    body = tomllib.loads((tmp_path / "ours" / "model.toml").read_text())
    body |= {
        "out": str(tmp_path / "run"),
        "data": {"path": str(data), "seq_len": 16, "batch_tokens": 32},
        "parallel": {"compile": False},
        "optim": {"lr": 1e-9},
        "phase": [{"name": "on", "tokens": 64}],
    }
    world = start("cpu")
    try:
        trainer = Trainer(config.from_mapping(body), world, Start(str(checkpoint)))
        assert trainer.run().step == 2
    finally:
        stop(world)
    for name, parameter in trainer.model.named_parameters():
        assert torch.allclose(parameter, state(found.model)[name], atol=1e-7)


def test_a_token_that_begins_texts_of_its_own_stays(tmp_path: Path) -> None:
    """Llama's tokenizers put one before every text; ours has one token between texts."""
    write(tmp_path / "out", tiny.shape())
    words = json.loads(tiny.tokenizer_json())
    template = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    words["added_tokens"].append({**words["added_tokens"][0], "id": 300, "content": "<s>"})
    words["post_processor"] = {
        "type": "TemplateProcessing", "single": template, "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [300], "tokens": ["<s>"]}},
    }  # fmt: skip
    (tmp_path / "out" / "tokenizer.json").write_text(json.dumps(words))
    (tmp_path / "out" / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": tiny.END}))
    checkpoint = import_(tmp_path / "out", tmp_path / "in")
    found = open_model(checkpoint).vocabulary
    assert (found.bos, found.end) == (300, tiny.END)
    export(checkpoint, tmp_path / "again")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "again" / name).read_text())["bos_token_id"] == 300
    given, begun, nothing = encode(found, [("a", "b"), ("<s>a", "b"), ("", "b")])
    assert given == begun and given.context[0] == 300 and 300 not in given.context[1:]
    assert nothing.context == (300,) and 300 not in nothing.continuation


def test_shards_of_a_bounded_size(tmp_path: Path) -> None:
    made = write(tmp_path / "out", tiny.shape(), shard_bytes=20_000)
    index = json.loads((tmp_path / "out" / huggingface.INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    assert len(names) > 3 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert set(index["weight_map"]) == set(state(made))
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in made.parameters())
    assert_same(open_model(tmp_path / "out").model, made)
    (tmp_path / "out" / names[1]).unlink()
    with pytest.raises(ModelError, match=names[1]):
        open_model(tmp_path / "out")


def full(*_: Any) -> Any:
    return shutil._ntuple_diskusage(100, 90, 10)


def broken(*_: Any) -> None:
    from safetensors import SafetensorError

    raise SafetensorError('Error while serializing: I/O error: Os { code: 28, message: "No space left on device" }')


@pytest.mark.parametrize(("name", "act"), [("shutil.disk_usage", full), ("safetensors.torch.save_file", broken)])
def test_a_full_disk_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[..., Any]
) -> None:
    monkeypatch.setattr(name, act)
    with pytest.raises(StorageError, match=r"is full .* are needed.*nothing was written"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_import_to_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", tiny.shape())
    monkeypatch.setattr("shutil.disk_usage", full)
    with pytest.raises(StorageError, match=r"is full .* are needed.*nothing was written"):
        import_(tmp_path / "out", tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_in_nobodys_way(run: Path, tmp_path: Path) -> None:
    for name in (".out.tmp", ".in.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("a")
    export(run, tmp_path / "out")
    import_(tmp_path / "out", tmp_path / "in")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "in"}
    assert not (tmp_path / "out" / "half").exists() and not (tmp_path / "in" / "half").exists()


def test_what_is_there_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already"):
        export(run, tmp_path)
    with pytest.raises(StorageError, match="exists already"):
        import_(run, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; models of llama and qwen3"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type is 'llama3'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is 'given'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"hidden_size": None}, "not whole"),
        ({"intermediate_size": 49}, "config.json says"),
        ({"num_hidden_layers": 3}, "has no model.layers.2"),
        ({"num_hidden_layers": 1}, "which a model of this config.json has not"),
        ({"vocab_size": 256}, "config.json says"),
    ],
)
def test_models_that_are_not_computed_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write(tmp_path / "out", tiny.shape())
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=said):
        open_model(tmp_path / "out")


def test_what_is_missing_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model: name a run's folder"):
        open_model(tmp_path)
    write(tmp_path / "out", tiny.shape())
    (tmp_path / "out" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        open_model(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has neither"):
        open_model(tmp_path / "out")
    other = tmp_path / "other.json"
    other.write_text(tiny.tokenizer_json(290))
    with pytest.raises(ModelError, match="trained with a tokenizer of SHA-256"):
        open_model(run, tokenizer=other)
    with pytest.raises(TokenizerError, match="has no token '<end>'; its special tokens"):
        open_model(run, eos="<end>")


def test_a_damaged_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = next((tmp_path / "run" / "checkpoints" / "step-00000002").glob("*.distcp"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"distcp is not what was written"):
        open_model(tmp_path / "run")
    assert open_model(tmp_path / "run" / "checkpoints" / "step-00000001").step == 1


def test_a_checkpoint_alone_needs_to_be_told(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-00000001", tmp_path / "a" / "b" / "alone")
    with pytest.raises(ModelError, match="--tokenizer"):
        open_model(tmp_path / "a" / "b" / "alone")
    words = tmp_path / "tokenizer.json"
    words.write_text(tiny.tokenizer_json())
    with pytest.raises(ModelError, match="--context"):
        open_model(tmp_path / "a" / "b" / "alone", tokenizer=words)
    assert open_model(tmp_path / "a" / "b" / "alone", tokenizer=words, context=32).context == 32


def test_texts_end_as_they_were_tokenized() -> None:
    assert END_NAMES == files.END_NAMES
