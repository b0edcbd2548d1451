"""Cross-entropy of a language model without ever holding all of its logits.

The logits of 32,768 tokens over a vocabulary of 50,304 take 6.6 GB in FP32; a chunk of 2,048 takes 0.4. Each chunk's
gradient is made where its logits are, so the backward pass has nothing left to do but scale.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.plan import IGNORED

CHUNK = 2048
"""Tokens whose logits exist at one time."""


class Loss(NamedTuple):
    """Sums over the tokens that have a target, in nats. `total` is what is minimised: nll and z_loss times log Z squared."""

    total: Tensor
    nll: Tensor
    n: Tensor


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0, chunk: int = CHUNK, compiled: bool = False
) -> Loss:
    """Loss of hidden (N, D) against targets (N,) under the output matrix (V, D).

    Sums, not means: whoever adds up micro-batches and ranks divides once by the tokens of all of them. A batch in which
    every target is ignored has loss 0 and gradient 0.
    """
    total, nll, n = _LinearCrossEntropy.apply(hidden, weight, targets, z_loss, chunk, compiled)
    return Loss(total, nll, n)


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Loss of each token (N,) in nats, 0 where the target is ignored. For evaluation: no gradient."""
    with torch.no_grad():
        parts = []
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = (h @ weight.to(h.dtype).T).float()
            parts.append(torch.nn.functional.cross_entropy(logits, t.long(), ignore_index=IGNORED, reduction="none"))
        return torch.cat(parts)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, chunk: int, compiled: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        cast = weight.to(hidden.dtype)
        learns = hidden.requires_grad or weight.requires_grad
        step = _compiled_chunk() if compiled else _chunk
        sums = torch.zeros(3, device=hidden.device)
        grad_hidden = torch.empty_like(hidden if learns else sums)
        grad_weight = torch.zeros_like(weight if learns else sums, dtype=torch.float32)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            found, d_hidden, d_weight = step(hidden[part], cast, targets[part], z_loss, learns)
            sums += found
            if d_hidden is not None and d_weight is not None:
                grad_hidden[part] = d_hidden
                grad_weight += d_weight
        if learns:
            ctx.save_for_backward(grad_hidden, grad_weight)
        total, nll, n = (part.clone() for part in sums)  # of their own: FSDP2 warns of views
        ctx.mark_non_differentiable(nll, n)
        return total, nll, n

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total.to(grad_hidden.dtype), grad_weight * grad_total, None, None, None, None


def _chunk(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, learns: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    logits = (hidden @ weight.T).float()
    log_z = torch.logsumexp(logits, -1)
    valid = targets != IGNORED
    index = targets.clamp_min(0).long()
    nll = torch.where(valid, log_z - logits.gather(-1, index[:, None])[:, 0], 0.0)
    squares = torch.where(valid, log_z.square(), 0.0)
    sums = torch.stack([(nll + z_loss * squares).sum(), nll.sum(), valid.sum().to(nll.dtype)])
    if not learns:
        return sums, None, None
    # d nll / d logits = softmax - onehot; d log_z^2 / d logits = 2 log_z softmax.
    gradient = torch.exp(logits - log_z[:, None]) * (1.0 + 2.0 * z_loss * log_z)[:, None]
    gradient = gradient.scatter_add(-1, index[:, None], torch.full_like(log_z, -1.0)[:, None])
    gradient = torch.where(valid[:, None], gradient, 0.0).to(hidden.dtype)
    return sums, gradient @ weight, (gradient.T @ hidden).float()


@cache
def _compiled_chunk() -> Callable[..., Any]:
    return torch.compile(_chunk, dynamic=False)
