"""A trained model, wherever it lies: a run's folder, one of its checkpoints, or a folder of Hugging Face's format.

Only parameters are read, by one process, with no process group.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.errors import UsageError
from trainer import config
from trainer.checkpoint_files import MANIFEST, STATE, CheckpointError, complete, damage, manifest
from trainer.huggingface import CONFIG, DTYPES, ModelError, read_config, read_tensors
from trainer.model import Decoder
from trainer.vocabulary import Vocabulary, begin_beside, end_beside


@dataclass(frozen=True)
class Opened:
    """A model that can be asked, with its tokenizer. `context` is the longest text that it was trained on, in tokens;
    `folder` is where it lies, and `run` the folder of its run, `step` and `tokens` how far that was, where that is known."""

    model: Decoder
    vocabulary: Vocabulary
    context: int
    folder: Path
    run: Path | None = None
    step: int | None = None
    tokens: int | None = None


def open_model(
    where: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: str | Path | None = None,
    eos: str | None = None,
    context: int | None = None,
) -> Opened:
    """Reads a model. What is not given is that of the run or folder. Raises ModelError, CheckpointError, TokenizerError.

    `dtype` is what is computed in; parameters of a Hugging Face folder are held in FP32 like those of a checkpoint.
    """
    folder = Path(where)
    if (folder / "checkpoints").is_dir():
        return _of_checkpoint(_newest(folder), device, dtype, tokenizer, eos, context)
    if (folder / MANIFEST).exists():
        return _of_checkpoint(folder, device, dtype, tokenizer, eos, context)
    if not (folder / CONFIG).exists():
        raise ModelError(
            f"{folder} is no model: name a run's folder, one of its checkpoints (…/checkpoints/step-00001000), or a folder "
            "with config.json and safetensors"
        )
    written = read_config(folder)
    model = _empty(written.shape, device, dtype)
    read_tensors(folder, model)
    path = Path(tokenizer) if tokenizer else folder / "tokenizer.json"
    end = eos if eos is not None else end_beside(path)
    # The id of config.json for the beginning is not asked: makers without such a token leave there what stood there.
    words = Vocabulary(path, written.eos if end is None else end, begin_beside(path))
    return Opened(_ready(model), _fitting(words, written.shape), context or written.context, folder)


def pick(device: str, dtype: Literal["auto", "float32", "bfloat16"]) -> tuple[str, str]:
    """The device and type that `auto` means: CUDA with BF16 where there is one, else FP32 on the CPU. Raises UsageError for
    CUDA where there is none."""
    there = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if there else "cpu"
    if device.startswith("cuda") and not there:
        raise UsageError(f"device {device} was asked for, and PyTorch finds no GPU; use cpu")
    return device, dtype if dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")


def run_config(run: Path) -> config.Config | None:
    """What a run was configured with, or None where that is not written down."""
    try:
        body = json.loads((run / CONFIG).read_bytes())
        body.pop("digest", None)
        return config.from_mapping(body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{run / CONFIG} cannot be read: {error}") from error


def _newest(run: Path) -> Path:
    found = complete(run / "checkpoints")
    if not found:
        raise ModelError(f"{run} has no checkpoint yet")
    return found[-1][1]


def _of_checkpoint(
    path: Path, device: str, dtype: str, tokenizer: str | Path | None, eos: str | None, context: int | None
) -> Opened:
    about = _whole(path)
    try:
        shape = config.Model(**about["model"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path / MANIFEST} does not say what shape the model has ({error})") from error
    model = _empty(shape, device, dtype)
    _read(path, model)
    run = path.resolve().parent.parent
    options = run_config(run)
    known = tokenizer or _tokenizer_of(run, options)
    if known is None:
        raise ModelError(f"{path}: its tokenizer is not where the run found it; name it with --tokenizer FILE")
    beside = Path(known)
    vocabulary = Vocabulary(known, eos if eos is not None else end_beside(beside), begin_beside(beside))
    said = about.get("tokenizer")
    if said is not None and said != vocabulary.sha256:
        raise ModelError(
            f"{path} was trained with a tokenizer of SHA-256 {said[:12]}…, {known} is {vocabulary.sha256[:12]}…; name the "
            "right one with --tokenizer FILE"
        )
    if context is None:
        if options is None:
            raise ModelError(
                f"{run} has no {CONFIG}: say with --context how many tokens the model was trained on at once"
            )
        context = max([options.data.seq_len, *(p.seq_len for p in options.phase if p.seq_len)])
    state = json.loads((path / STATE).read_bytes())
    tokens = state.get("run", state).get("tokens")
    return Opened(_ready(model), _fitting(vocabulary, shape), context, path, run, about["step"], tokens)


def _tokenizer_of(run: Path, options: config.Config | None) -> Path | None:
    """A run's tokenizer.json: beside its config, or in the data that it read."""
    places = [run / "tokenizer.json"]
    if options is not None:
        data = options.data
        folders = [data.path] if data.path else [*data.sources.values()]
        places += [Path(folder) / "tokenizer.json" for folder in folders]
    return next((place for place in places if place.exists()), None)


def _whole(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all as they were written. Raises CheckpointError."""
    about = manifest(path)
    if wrong := damage(path):
        raise CheckpointError(f"checkpoint {path} cannot be used: {wrong}")
    return about


def _read(path: Path, model: Decoder) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")  # as is meant here
            dcp.load(tensors, storage_reader=dcp.FileSystemReader(path), no_dist=True)
    except (CheckpointException, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _empty(shape: config.Model, device: str, dtype: str) -> Decoder:
    with torch.device("meta"):
        model = Decoder(shape, DTYPES[dtype])
    return model.to_empty(device=device)


def _ready(model: Decoder) -> Decoder:
    return model.requires_grad_(False).eval()


def _fitting(vocabulary: Vocabulary, shape: config.Model) -> Vocabulary:
    if vocabulary.size > shape.vocab_size:
        raise ModelError(
            f"{vocabulary.path} has {vocabulary.size:,} tokens, the model knows {shape.vocab_size:,}; name the right one "
            "with --tokenizer FILE"
        )
    return vocabulary
