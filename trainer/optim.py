"""How parameters move: AdamW, Muon for hidden matrices, and the rate over a phase.

A step can be withheld on the device, without the host ever asking: AdamW (fused) reads `found_inf`, Muon `withheld`. Both
leave parameters and state as they were.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.config import Optim, Ramp

MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024, "Muon"), five times: singular values end in 0.7..1.2."""


def factor(ramp: Ramp, step: int, steps: int, batch_tokens: int) -> float:
    """The learning rate of a step (from 0) of a phase of `steps`, as a factor: a pure function, so nothing is saved."""
    warmup = min(steps, -(-ramp.warmup // batch_tokens))
    if step < warmup:
        return ramp.start * (step + 1) / warmup
    # The last step is at `end`, the first after the warm-up one pace from `start`.
    way = (step + 1 - warmup) / max(1, steps - warmup)
    if ramp.shape == "constant" or ramp.start == ramp.end:
        return ramp.start
    if ramp.shape == "cosine":
        gone = 0.5 * (1.0 - math.cos(math.pi * way))
    elif ramp.shape == "sqrt":
        gone = math.sqrt(way)
    else:
        gone = way
    return ramp.start + (ramp.end - ramp.start) * gone


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for hidden matrices (Jordan et al. 2024); scaled by sqrt(max(1, rows / columns)).

    `withheld`: a tensor that is 1 on the device where the step must not happen.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = MUON_MOMENTUM,
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.withheld: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step on every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            pace = min((_sharers(parameter) for parameter in moving), default=1)
            for first in range(0, len(moving), pace):
                self._move(moving[first : first + pace], group)

    def _move(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        momenta, ahead = [], []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momenta.append(state["momentum"] * group["momentum"] + parameter.grad)
            ahead.append(parameter.grad + momenta[-1] * group["momentum"])
        for parameter, momentum, update in zip(parameters, momenta, _shared(ahead), strict=True):
            state = self.state[parameter]
            rows, columns = parameter.shape
            size = math.sqrt(max(1.0, rows / columns))
            moved = parameter * (1.0 - group["lr"] * group["weight_decay"]) - update.to(parameter.dtype) * (
                group["lr"] * size
            )
            if self.withheld is not None:
                held = self.withheld.bool()
                momentum = torch.where(held, state["momentum"], momentum)
                moved = torch.where(held, parameter, moved)
            state["momentum"].copy_(momentum)
            parameter.copy_(moved)


def _sharers(matrix: Tensor) -> int:
    """How many ranks hold a part of it and nothing else: they can share the work on several."""
    return matrix.device_mesh.size() if isinstance(matrix, DTensor) and matrix.device_mesh.ndim == 1 else 1


def _shared(matrices: list[Tensor]) -> list[Tensor]:
    """Each made orthogonal. Where ranks share matrices, each makes one of them and hands it to the others, so that more
    ranks do not do the same work more often."""
    if len(matrices) == 1:
        return [orthogonal(matrices[0])]
    mesh = matrices[0].device_mesh  # type: ignore[attr-defined]
    own = mesh.get_local_rank()
    whole = [matrix.full_tensor() for matrix in matrices]  # type: ignore[attr-defined]
    made = [orthogonal(x).contiguous() if i == own else torch.empty_like(x) for i, x in enumerate(whole)]
    sent = [dist.broadcast(x, group=mesh.get_group(), group_src=i, async_op=True) for i, x in enumerate(made)]
    for work in sent:
        work.wait()
    return [
        distribute_tensor(x, mesh, matrix.placements, src_data_rank=None)  # type: ignore[attr-defined]
        for x, matrix in zip(made, matrices, strict=True)
    ]


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix with its singular values brought near 1, by Newton and Schulz's iteration in BF16 on CUDA, else FP32.

    A matrix that is spread over ranks (a DTensor) is gathered: the result is spread as it was.
    """
    spread = matrix if isinstance(matrix, DTensor) else None
    if spread is not None:
        matrix = spread.full_tensor()
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    x = (x.T if tall else x).to(matrix.dtype)
    if spread is not None:
        # Every rank has the whole of it: each keeps its part, and nothing is sent.
        return distribute_tensor(x, spread.device_mesh, spread.placements, src_data_rank=None)
    return x


class Optimizer:
    """AdamW over everything, or Muon over hidden matrices and AdamW over the rest."""

    def __init__(self, model: nn.Module, options: Optim) -> None:
        self.options = options
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [p for name, p in named if options.name == "muon" and _is_hidden(name, p)]
        taken = {id(p) for p in hidden}
        rest = [p for _, p in named if id(p) not in taken]
        groups = [
            {
                "params": [p for p in rest if (p.ndim >= 2) == decays and isinstance(p, DTensor) == spread],
                "weight_decay": w,
            }
            for decays, w in ((True, options.weight_decay), (False, 0.0))
            for spread in (False, True)  # one fused call takes tensors that are spread over ranks, or whole ones
        ]
        self.adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=options.lr,
            betas=options.betas,
            eps=options.eps,
            fused=True,
        )
        self.muon = Muon(hidden, options.muon_lr, options.weight_decay) if hidden else None

    @property
    def all(self) -> list[torch.optim.Optimizer]:
        """Those in use."""
        return [self.adam, *([self.muon] if self.muon else [])]

    def step(self, rate: float, withheld: Tensor) -> None:
        """Moves the parameters at `rate` times the configured rates; not at all where `withheld` (a scalar on their
        device) is 1."""
        for group in self.adam.param_groups:
            group["lr"] = self.options.lr * rate
        self.adam.grad_scale, self.adam.found_inf = None, withheld.float()  # type: ignore[attr-defined]
        self.adam.step()
        if self.muon is not None:
            for group in self.muon.param_groups:
                group["lr"] = self.options.muon_lr * rate
            self.muon.withheld = withheld
            self.muon.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)


def _is_hidden(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and ".layers." in name
