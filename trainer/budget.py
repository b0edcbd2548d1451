"""What a run would take: operations, memory on each GPU under each way of sharing, days, GPU hours, money, energy, CO2.

Arithmetic, from the same counts as training and its estimate (trainer.model, trainer.estimate); figures about hardware and
electricity stand with their sources in trainer/public.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.errors import UsageError
from pipeline.yaml_files import nearest, read_yaml
from trainer.config import Model
from trainer.estimate import Device, activations, memory
from trainer.model import flops_per_token, n_parameters
from trainer.scaling import Law
from trainer.scaling_runs import OPERATIONS, PUBLIC

WAYS = ("none", "ZeRO-1", "ZeRO-2", "ZeRO-3")
"""Rajbhandari et al. 2020 (arXiv:1910.02054): each shares more of the state; ZeRO-3 is what FSDP does."""

STATES = {"mixed": (2, 4, 4, 8), "half": (2, 0, 2, 4)}
"""Bytes a parameter for weights to compute with, masters, gradients, and Adam's two moments: in 16 bits with the rest in
FP32, or all in 16 bits without masters."""
VOCABULARIES = ((3e9, 128_256), (1e8, 50_304), (1e7, 32_000), (0.0, 4096))
"""From how many parameters on a model that only a size is known of is taken to have how many tokens: Llama 3's vocabulary,
GPT-2's padded, Llama 2's."""
UNTIED = 3e9
"""From so many parameters on embedding and head are matrices of their own, as in Llama 3's 8B."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and on what."""

    shape: Model
    parameters: float
    tokens: float
    exact: float
    """Operations with attention, of the shape, over all tokens."""
    counted: bool
    """Whether the shape is the user's, so that time follows from `exact`; from 6 N D where only a size is known."""
    device: Device
    gpus: int
    mfu: float

    @property
    def simple(self) -> float:
        """6 N D."""
        return OPERATIONS * self.parameters * self.tokens

    @property
    def flops(self) -> float:
        """What time is reckoned from."""
        return self.exact if self.counted else self.simple

    @property
    def seconds(self) -> float:
        """From the first step to the last, without stops."""
        if self.device.flops is None:
            raise UsageError(f"the peak of {self.device.name} is not known")
        return self.flops / (self.gpus * self.device.flops * self.mfu)

    @property
    def gpu_hours(self) -> float:
        """Of all GPUs together."""
        return self.seconds / 3600 * self.gpus


class Energy(NamedTuple):
    """Of a run: kWh from the grid, and kg of CO2-equivalent."""

    kwh: float
    co2: float


@dataclass(frozen=True)
class Part:
    """Bytes on one GPU, by what they hold."""

    way: str
    weights: float
    masters: float
    gradients: float
    moments: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it; an allocator adds some percent."""
        return self.weights + self.masters + self.gradients + self.moments + self.activations + self.logits


def energy(gpu_hours: float, watts: float, pue: float, grid: float) -> Energy:
    """Of GPUs at so many watts, in a building of a PUE, on a grid of so many grams of CO2 a kWh."""
    kwh = gpu_hours * watts / 1000 * pue
    return Energy(kwh, kwh * grid / 1000)


def state_bytes(parameters: float, state: str = "mixed") -> dict[str, float]:
    """Bytes of all that training with Adam keeps of so many parameters, by part."""
    names = ("weights", "masters", "gradients", "moments")
    return {name: size * parameters for name, size in zip(names, STATES[state], strict=True)}


def on_each(
    shape: Model, micro_tokens: int, gpus: int, tensor: int, how: str, state: str = "mixed", optimizer: str = "adamw"
) -> list[Part]:
    """Memory of one GPU for each way of sharing the state over `gpus`; with `tensor` > 1 also with hidden matrices spread
    over so many, alone and with the state shared over the rest. `how` activations are checkpointed."""
    kept = activations(shape, micro_tokens, 2, how)
    whole = memory(shape, optimizer, kept, 2, micro_tokens, 1)
    parts: dict[str, float] = {
        "weights": whole.copies,
        "masters": whole.masters,
        "gradients": whole.gradients,
        "moments": whole.moments,
    }
    if state == "half":
        parts = state_bytes(n_parameters(shape)[0], "half")
    gathered = float(memory(shape, optimizer, kept, 2, micro_tokens, 2).copies)
    if state == "half":
        gathered += parts["weights"] / gpus  # which no masters stand behind
    rest = {"activations": float(whole.activations), "logits": float(whole.logits)}
    found = [_shared(parts, gathered, way, gpus) | rest | {"way": way} for way in (WAYS if gpus > 1 else WAYS[:1])]
    if tensor > 1:
        split, gathered_split, kept_split = _spread(shape, parts, gathered, kept, micro_tokens, tensor)
        rest["activations"] = kept_split
        found.append(_shared(split, gathered_split, "none", 1) | rest | {"way": f"TP {tensor}"})
        if gpus > tensor:
            shared = _shared(split, gathered_split, "ZeRO-3", gpus // tensor)
            found.append(shared | rest | {"way": f"TP {tensor}, ZeRO-3"})
    return [Part(**one) for one in found]


def _shared(parts: dict[str, float], gathered: float, way: str, over: int) -> dict[str, Any]:
    stage = WAYS.index(way)
    return {
        "weights": gathered if stage == 3 else parts["weights"],
        "masters": parts["masters"] / (over if stage else 1),
        "gradients": parts["gradients"] / (over if stage > 1 else 1),
        "moments": parts["moments"] / (over if stage else 1),
    }


def _spread(
    shape: Model, parts: dict[str, float], gathered: float, kept: float, micro_tokens: int, tensor: int
) -> tuple[dict[str, float], float, float]:
    """State, gathered layers and activations where the matrices of layers are spread, as trainer.parallel does: embedding,
    head and the stream between the layers are whole on each GPU."""
    n, matrices = n_parameters(shape)
    hidden = (matrices - shape.vocab_size * shape.width) / n
    split = {name: size * (hidden / tensor + 1 - hidden) for name, size in parts.items()}
    layers = 2 * hidden * n / shape.layers * 2
    stream = micro_tokens * 2 * (shape.layers * (4 if kept > 0 else 0) + 2) * shape.width
    inside = max(0.0, kept - stream)
    return split, gathered - layers + layers / tensor, min(kept, stream) + inside / tensor


def shape_like(parameters: float) -> Model:
    """A shape for a model that only a size is known of: Llama's, with a vocabulary that is usual. Raises UsageError."""
    from trainer.ladder import shape_of

    vocab = next(size for least, size in VOCABULARIES if parameters >= least)
    large = parameters >= UNTIED
    like = Model(heads=8, kv_heads=1 if large else 8, vocab_size=vocab, tie_embeddings=not large)
    return shape_of(parameters, like)


def operations(shape: Model, tokens: float, seq_len: int) -> float:
    """Of training on tokens in samples of `seq_len`, attention counted."""
    return tokens * flops_per_token(shape, seq_len)


class Sizes(NamedTuple):
    """A model and its data by a scaling law."""

    n: float
    d: float
    loss: float
    training: float
    """Operations of training it."""
    whole: float
    """And of using it, where that was asked."""


def best_sizes(law: Law, flops: float, inference: float = 0.0) -> tuple[Sizes, Sizes | None]:
    """The model of least loss for a budget of training (Chinchilla's), and the one of the same loss that is cheapest to train
    and to use for so many tokens together (Sardana et al. 2023); the second only where there is use."""
    n, d = law.optimum(flops)
    loss = law.loss(n, d)
    first = Sizes(n, d, loss, flops, flops + 2 * n * inference)
    if inference <= 0:
        return first, None
    n, d = law.for_inference(loss, inference)
    training = OPERATIONS * n * d
    return first, Sizes(n, d, loss, training, training + 2 * n * inference)


def power() -> dict[str, Any]:
    """What trainer/public/power.yaml says."""
    body: dict[str, Any] = read_yaml(PUBLIC / "power.yaml", "figures of power").body
    return body


def watts_of(name: str) -> float | None:
    """Board power of a GPU by its name; None where it is not known."""
    return next((float(watts) for pattern, watts, _ in power()["watts"] if re.search(pattern, name)), None)


def grid_of(said: str) -> float:
    """Grams of CO2 a kWh: a number, or the name of a grid. Raises UsageError."""
    grids = power()["grids"]
    if said in grids:
        return float(grids[said])
    try:
        value = float(said)
    except ValueError:
        value = math.nan
    if not value >= 0 or not math.isfinite(value):
        raise UsageError(f"--grid {said}{nearest(said, grids)}: grams of CO2 a kWh, or one of {', '.join(grids)}")
    return value


class Checked(NamedTuple):
    """A public run beside what is reckoned here. None where its makers did not say."""

    name: str
    flops: float
    said_flops: float | None
    gpu_hours: float | None
    """At its makers' MFU."""
    said_hours: float | None
    mfu: float | None
    """That the makers' GPU hours come to."""
    source: str


def check() -> list[Checked]:
    """The public runs of trainer/public/training_runs.yaml, reckoned here."""
    from trainer.estimate import named

    found = []
    for name, run in read_yaml(PUBLIC / "training_runs.yaml", "public runs").body.items():
        flops = OPERATIONS * float(run["parameters"]) * float(run["tokens"])
        said, hours, mfu = (float(run[key]) if key in run else None for key in ("flops", "gpu_hours", "mfu"))
        peak = named(run["gpu"]).flops if "gpu" in run else None
        ours = flops / (peak * mfu) / 3600 if peak and mfu else None
        implied = flops / (peak * hours * 3600) if peak and hours else None
        found.append(Checked(name, flops, said, ours, hours, implied, run["source"]))
    return found


def size_said(shape: Model) -> str:
    """A shape as people read it."""
    return f"{shape.layers} layers of {shape.width:,}, vocabulary {shape.vocab_size:,}"
