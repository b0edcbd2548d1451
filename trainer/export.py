"""From a run to a folder that transformers and vLLM load, and from such a folder to a checkpoint to start from."""

import errno
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.errors import StorageError
from trainer import config
from trainer.huggingface import DTYPES, SHARD_BYTES, config_of, full, section, write
from trainer.model import n_parameters
from trainer.models import Opened, open_model, run_config


class Exported(NamedTuple):
    """What was written: the folder, its bytes, the architecture's name, and tokens that the model knows and no text has."""

    folder: Path
    bytes: int
    architecture: str
    unused: int


def export(
    source: str | Path,
    out: str | Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    tokenizer: str | Path | None = None,
    eos: str | None = None,
    context: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Writes a model as transformers and vLLM load it: safetensors, config.json, tokenizer, a model card.

    `source` is as `open_model` takes it. The vocabulary keeps the rows that pad it to a multiple of 128, so that the folder
    holds what was trained, to the bit in FP32; generation_config.json forbids their ids. Raises StorageError where `out`
    exists or there is no room; then nothing is left.
    """
    found = open_model(source, "cpu", "float32", tokenizer, eos, context)
    shape, words = found.model.shape, found.vocabulary
    body = config_of(shape, found.context, words.eos, words.bos, dtype)
    unused = [*range(words.size, shape.vocab_size)]
    generation: dict[str, Any] = {"bos_token_id": words.bos, "eos_token_id": words.eos, "pad_token_id": words.eos}
    if unused:
        generation["suppress_tokens"] = unused
    special = {"bos_token": words.begin, "eos_token": words.end, "pad_token": words.end}
    about_tokenizer = {
        **special,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": found.context,
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "config.json": _text(body),
        "generation_config.json": _text(generation),
        "tokenizer.json": words.raw.decode(),
        "tokenizer_config.json": _text(about_tokenizer),
        "special_tokens_map.json": _text(special),
        "README.md": card(found, dtype),
    }
    tensors = {name: p.detach().to(DTYPES[dtype]) for name, p in found.model.named_parameters()}
    size = write(Path(out), files, tensors, shard_bytes)
    return Exported(Path(out), size, body["architectures"][0], len(unused))


def import_(
    source: str | Path,
    out: str | Path,
    optimizer: Literal["adamw", "muon"] = "adamw",
    tokenizer: str | Path | None = None,
    eos: str | None = None,
) -> Path:
    """Turns a folder of Llama or Qwen3 (ours, or of another maker) into one that `crawlmill train --from` starts from.

    `out` gets a checkpoint of step 0 with moments of zero for `optimizer`, the tokenizer, a config that evaluation reads,
    and model.toml, the section that a training config must have. Returns the checkpoint. Raises ModelError, StorageError.
    """
    from trainer.checkpoint import Checkpoints
    from trainer.checkpoint_files import CheckpointError
    from trainer.optim import Optimizer
    from trainer.parallel import start, stop
    from trainer.state import RunState

    folder = Path(out)
    if folder.exists():
        raise StorageError(f"{folder} exists already; name a folder that does not, or remove it")
    found = open_model(source, "cpu", "float32", tokenizer, eos)
    shape, words = found.model.shape, found.vocabulary
    identity = {
        "config": "imported",
        "plan": "imported",
        "tokenizer": words.sha256,
        "model": asdict(shape),
        "optimizer": optimizer,
        "imported_from": str(Path(source).name),
    }
    body = config.Config(
        name=Path(source).name,
        out=str(folder),
        model=shape,
        data=config.Data(seq_len=found.context, batch_tokens=found.context),
        optim=config.Optim(name=optimizer),
    )
    found.model.requires_grad_(True)
    draft = folder.with_name(f".{folder.name}.tmp")
    world = start("cpu")
    try:
        if draft.exists():  # of a command that was killed
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
        _put(draft / "config.json", _text(asdict(body)))
        _put(draft / "tokenizer.json", words.raw.decode())
        _put(draft / "tokenizer_config.json", _text({"bos_token": words.begin, "eos_token": words.end}))
        _put(draft / "model.toml", section(shape))
        saves = Checkpoints(draft / "checkpoints", config.Checkpoint(asynchronous=False), world, identity)
        saves.save(0, found.model, Optimizer(found.model, body.optim), {}, RunState().to_json())
        saves.close()
        draft.rename(folder)
    except (CheckpointError, OSError) as error:
        # Parameters and their moments: two with AdamW, one with Muon for matrices.
        size = 4 * n_parameters(shape)[0] * (3 if optimizer == "adamw" else 2)
        if "is full" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
            raise full(folder.parent, size) from error
        raise StorageError(f"{folder} cannot be written: {error}; nothing of it was kept") from error
    finally:
        stop(world)
        shutil.rmtree(draft, ignore_errors=True)
    return next((folder / "checkpoints").glob("step-*"))


def card(found: Opened, dtype: str) -> str:
    """A model card with what is known of the run: to be completed by a person."""
    shape = found.model.shape
    parameters = n_parameters(shape)[0]
    rows = {
        "parameters": f"{parameters:,}",
        "layers, width, heads (key and value heads), width of a head": f"{shape.layers}, {shape.width}, {shape.heads} "
        f"({shape.kv_heads}), {shape.head_dim}",
        "longest text in training": f"{found.context:,} tokens",
        "vocabulary": f"{found.vocabulary.size:,} tokens, padded to {shape.vocab_size:,}; SHA-256 of tokenizer.json "
        f"{found.vocabulary.sha256}",
        "type of the numbers": dtype,
    }
    if found.step is not None:
        rows["step"] = f"{found.step:,}"
    if found.tokens:
        rows["tokens learned from"] = f"{found.tokens:,}"
    options = run_config(found.run) if found.run else None
    name = options.name if options else found.folder.name
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "---", "", f"# {name}", ""]
    lines += ["A language model, pretrained only: it continues texts.", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    log = _log(found.run) if found.run else []
    lines += _data(options, log) + _held_out(log, found.step)
    lines += ["", f"Written by Crawlmill {crawlmill_version()}.", ""]
    return "\n".join(lines)


def crawlmill_version() -> str:
    """Of the package that is installed, or `unknown`."""
    try:
        return version("crawlmill")
    except PackageNotFoundError:
        return "unknown"


def _data(options: config.Config | None, log: list[dict[str, Any]]) -> list[str]:
    """What was read, phase by phase. Names only: where things lay on a machine is nobody's business."""
    if options is None:
        return []
    schedule: Mapping[str, Any] = {}
    if options.data.path:
        try:
            schedule = json.loads((Path(options.data.path) / "schedule.json").read_bytes())
        except (OSError, ValueError):
            schedule = {}  # the card says what is known; the data may be elsewhere by now
    lines = []
    for phase in schedule.get("phases", []):
        parts = ", ".join(f"{name} {part['tokens']:,}" for name, part in phase["sources"].items())
        lines.append(f"| {phase['name']} | {phase['tokens']:,} | {parts} |")
    if not schedule:
        start = next((line for line in log if line.get("kind") == "start"), {})
        named = {phase.name: phase for phase in options.phase}
        for entry in start.get("phases", []):
            phase = named.get(entry["name"])
            parts = ", ".join(f"{n} {share:g}" for n, share in phase.mix.items()) if phase else ""
            tokens = f"{phase.tokens:,}" if phase and phase.tokens else ""
            lines.append(f"| {entry['name']} | {tokens} | {parts or ', '.join(options.data.sources)} |")
    return ["", "## Data", "", "| phase | tokens | of which |", "|---|---|---|", *lines] if lines else []


def _held_out(log: list[dict[str, Any]], step: int | None) -> list[str]:
    """The newest look at each source up to the step."""
    found = {
        line["source"]: line
        for line in log
        if line.get("kind") == "eval"
        and (step is None or line["step"] <= step)
        and math.isfinite(line["bits_per_byte"])
    }
    if not found:
        return []
    rows = [f"| {name} | {line['bits_per_byte']:.4f} | {line['step']:,} |" for name, line in sorted(found.items())]
    return ["", "## Held-out text", "", "| source | bits per byte | step |", "|---|---|---|", *rows]


def _log(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # the last one of a run that is training, or was killed
    return found


def _text(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=2) + "\n"


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
