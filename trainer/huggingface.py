"""Models as Hugging Face stores them: config.json, safetensors and tokenizer files of Llama and Qwen3, read and written.

The trainer's parameters have the same names, so nothing is renamed. What a config asks for that the trainer's decoder does
not compute (biases, scaled positions, sliding windows, quantised weights) is refused, not left out.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import InputError, StorageError
from trainer import config
from trainer.model import Decoder, ffn_width

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
"""Bytes of parameters in a file, as the hub asks for."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KINDS = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ModelError(InputError):
    """A model that cannot be read: names the folder, says what is missing or not understood, and what to do."""


class Written(NamedTuple):
    """What lies in a folder: shape, longest text in tokens, and the id of the token that ends texts."""

    shape: config.Model
    context: int
    eos: int | None


def config_of(shape: config.Model, context: int, eos: int, bos: int, dtype: str) -> dict[str, Any]:
    """config.json of a model whose texts end with `eos` and begin after `bos`."""
    kind = "qwen3" if shape.qk_norm else "llama"
    body = {
        "architectures": [_KINDS[kind]],
        "model_type": kind,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": ffn_width(shape),
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "initializer_range": shape.init_std,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,  # of transformers 4 and older vLLM; 5 has it in rope_parameters
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    return body | ({"use_sliding_window": False, "sliding_window": None} if shape.qk_norm else {"mlp_bias": False})


def read_config(folder: Path) -> Written:
    """Shape and facts of a model in a folder. Raises ModelError for one that the trainer's decoder does not compute."""
    path = folder / CONFIG
    body = _json(path)
    kind = body.get("model_type")
    if kind not in _KINDS:
        raise ModelError(f"{path}: model_type is {kind!r}; models of {' and '.join(_KINDS)} can be read")
    rope = body.get("rope_parameters") or {}
    scaling = body.get("rope_scaling") or {}
    refused = {
        "attention_bias": body.get("attention_bias"),
        "mlp_bias": body.get("mlp_bias"),
        "hidden_act": body.get("hidden_act", "silu") not in ("silu", "swish") and body.get("hidden_act"),
        "quantization_config": body.get("quantization_config") and "given",
        "use_sliding_window": body.get("use_sliding_window"),
        "rope_type": next(
            (t for t in (r.get("rope_type", r.get("type")) for r in (rope, scaling)) if t not in (None, "default")),
            None,
        ),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0 and rope["partial_rotary_factor"],
    }
    for key, value in refused.items():
        if value:
            raise ModelError(f"{path}: {key} is {value!r}, which the trainer's decoder does not compute")
    try:
        heads = int(body["num_attention_heads"])
        shape = config.Model(
            layers=int(body["num_hidden_layers"]),
            width=int(body["hidden_size"]),
            heads=heads,
            kv_heads=int(body.get("num_key_value_heads") or heads),
            head_dim=int(body.get("head_dim") or (128 if kind == "qwen3" else int(body["hidden_size"]) // heads)),
            ffn=int(body["intermediate_size"]),
            vocab_size=int(body["vocab_size"]),
            qk_norm=kind == "qwen3",
            tie_embeddings=bool(body.get("tie_word_embeddings", False)),
            rope_theta=float(rope.get("rope_theta") or body.get("rope_theta") or 10_000.0),
            norm_eps=float(body.get("rms_norm_eps", 1e-6)),
            init_std=float(body.get("initializer_range", 0.02)),
        )
        context = int(body.get("max_position_embeddings", 2048))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {type(error).__name__}: {error}; config.json is not whole") from error
    # As the trainer would have it: a width that follows from the others is not written down.
    if ffn_width(replace(shape, ffn=0)) == shape.ffn:
        shape = replace(shape, ffn=0)
    return Written(shape, context, _first(body.get("eos_token_id")))


def read_tensors(folder: Path, model: Decoder) -> None:
    """Fills a model's parameters from the safetensors of a folder, converted to the type that they have.

    Raises ModelError where a file or a parameter is missing, has another size, or is not of this model.
    """
    from safetensors import SafetensorError, safe_open

    wanted = dict(model.named_parameters())
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt") as file, torch.no_grad():
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    parameter = wanted.pop(name, None)
                    if parameter is None:
                        if _needless(name, model.shape):
                            continue
                        raise ModelError(f"{path} has {name}, which a model of this config.json has not")
                    tensor = file.get_tensor(name)
                    if tensor.shape != parameter.shape:
                        raise ModelError(
                            f"{path}: {name} is {tuple(tensor.shape)}, config.json says {tuple(parameter.shape)}"
                        )
                    parameter.copy_(tensor)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}; fetch it again") from error
    if wanted:
        raise ModelError(f"{folder} has no {next(iter(wanted))}; fetch the folder as a whole")


def write(folder: Path, files: Mapping[str, str], tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> int:
    """Writes texts and tensors into a folder that appears whole or not at all; returns its bytes.

    Raises StorageError where the folder exists, where there is no room, and where it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if folder.exists():
        raise StorageError(f"{folder} exists already; name a folder that does not, or remove it")
    size = sum(t.numel() * t.element_size() for t in tensors.values()) + sum(map(len, files.values()))
    draft = folder.with_name(f".{folder.name}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if draft.exists():  # of a command that was killed
            shutil.rmtree(draft)
        draft.mkdir()
        free = shutil.disk_usage(draft).free
        if free < size + 2**20:
            raise OSError(errno.ENOSPC, "")
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")
        shards = list(_shards(tensors, shard_bytes))
        names = [WEIGHTS] if len(shards) == 1 else [
            f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)
        ]  # fmt: skip
        for name, part in zip(names, shards, strict=True):
            save_file(part, draft / name, {"format": "pt"})
            (draft / name).chmod(0o666 & ~_umask())  # safetensors lets only its maker read a file
        if len(shards) > 1:
            where = {tensor: name for name, part in zip(names, shards, strict=True) for tensor in part}
            total = sum(t.numel() * t.element_size() for t in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
            (draft / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        for path in draft.iterdir():
            _sync(path)
        draft.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if getattr(error, "errno", None) in _FULL or "No space left" in str(error):
            raise full(folder.parent, size) from error
        why = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{folder} cannot be written: {why}; nothing of it was kept") from error
    return sum(path.stat().st_size for path in folder.iterdir())


def full(folder: Path, size: int) -> StorageError:
    """What is said where so many bytes do not fit."""
    free = shutil.disk_usage(folder).free
    return StorageError(
        f"the disk of {folder} is full ({size / 1e9:,.3f} GB are needed, {free / 1e9:,.3f} are free); nothing was written: "
        "make room, or name a folder elsewhere"
    )


def section(shape: config.Model) -> str:
    """The [model] section of a config of the trainer that has this shape."""
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else value}" for key, value in asdict(shape).items()
    ]
    return "\n".join(["[model]", *lines, ""])


def _files(folder: Path) -> Sequence[Path]:
    if (folder / INDEX).exists():
        try:
            names = sorted(set(_json(folder / INDEX)["weight_map"].values()))
        except (KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{folder / INDEX} names no files; fetch it again") from error
        return [folder / name for name in names]
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    raise ModelError(f"{folder} has neither {WEIGHTS} nor {INDEX}; only safetensors are read")


def _needless(name: str, shape: config.Model) -> bool:
    """What some makers write that follows from the rest."""
    return name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and shape.tie_embeddings)


def _shards(tensors: Mapping[str, Tensor], most: int) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        n = tensor.numel() * tensor.element_size()
        if part and size + n > most:
            yield part
            part, size = {}, 0
        part[name] = tensor.contiguous()
        size += n
    yield part


def _json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise ModelError(f"{path} is no mapping")
    return body


def _first(value: Any) -> int | None:
    """Some models have several tokens that end a text; the first is that of pretraining."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
