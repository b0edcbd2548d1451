"""Cross-entropy of a language model without ever holding all of its logits.

The logits of 32,768 tokens over a vocabulary of 50,304 take 6.6 GB in FP32; here those of a chunk of tokens exist at one
time. Each chunk's gradient is made where its logits are, so the backward pass has nothing left to do but scale.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.plan import IGNORED

LOGITS = {"cuda": 1 << 28, "cpu": 1 << 22}
"""Logits that exist at one time. On a GPU a chunk costs a pass over the head's gradient, so there are few of them (512 MB in
BF16); on a CPU 16 MB stay in the cache of a processor, and in the heap: larger ones are given back to the system each time,
which fills them with zeros anew (half of all time, measured with a vocabulary of 16,384)."""

LEAST_CHUNK = 256
"""Tokens at least: a chunk of fewer spends its time reading the head and adding to its gradient."""


class Loss(NamedTuple):
    """Sums over the tokens that have a target, in nats. `total` is what is minimised: nll and z_loss times log Z squared."""

    total: Tensor
    nll: Tensor
    n: Tensor


def chunk_tokens(vocab_size: int, device_type: str) -> int:
    """How many tokens have their logits at one time: a power of two, so that batches are divided evenly."""
    fitting = LOGITS.get(device_type, LOGITS["cuda"]) // vocab_size
    return max(LEAST_CHUNK, 1 << max(0, fitting.bit_length() - 1))


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    z_loss: float = 0.0,
    chunk: int | None = None,
    compiled: bool = False,
) -> Loss:
    """Loss of hidden (N, D) against targets (N,) under the output matrix (V, D).

    Sums, not means: whoever adds up micro-batches and ranks divides once by the tokens of all of them. A batch in which
    every target is ignored has loss 0 and gradient 0. The backward pass can be taken once.
    """
    chunk = chunk or chunk_tokens(len(weight), hidden.device.type)
    total, nll, n = _LinearCrossEntropy.apply(hidden, weight, targets, z_loss, chunk, compiled)
    return Loss(total, nll, n)


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Loss of each token (N,) in nats, 0 where the target is ignored. For evaluation: no gradient."""
    chunk = chunk or chunk_tokens(len(weight), hidden.device.type)
    with torch.no_grad():
        cast, parts = weight.to(hidden.dtype).T, []
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = (h @ cast).float()
            parts.append(torch.nn.functional.cross_entropy(logits, t.long(), ignore_index=IGNORED, reduction="none"))
        return torch.cat(parts)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, chunk: int, compiled: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        cast = weight.to(hidden.dtype)
        learns = hidden.requires_grad or weight.requires_grad
        turn = _compiled_turn() if compiled else _turn
        sums = torch.zeros(3, device=hidden.device)
        grad_hidden = torch.empty_like(hidden if learns else sums)
        grad_weight = torch.zeros_like(weight if learns else sums, dtype=torch.float32)
        held = hidden.new_empty(min(chunk, len(hidden)), len(weight))
        for start in range(0, len(hidden), chunk):
            part = hidden[start : start + chunk]
            logits = torch.mm(part, cast.T, out=held[: len(part)])
            found, gradient = turn(logits, targets[start : start + chunk], z_loss, learns)
            sums += found
            if gradient is not None:
                torch.mm(gradient, cast, out=grad_hidden[start : start + chunk])
                _add_product(grad_weight, gradient.T, part)
        if learns:
            ctx.save_for_backward(grad_hidden, grad_weight)
        total, nll, n = (part.clone() for part in sums)  # of their own: FSDP2 warns of views
        ctx.mark_non_differentiable(nll, n)
        return total, nll, n

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # In place: what is saved is of no other use, and PyTorch refuses a second backward pass over it.
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grad_total), grad_weight.mul_(grad_total), None, None, None, None


def _turn(logits: Tensor, targets: Tensor, z_loss: float, learns: bool) -> tuple[Tensor, Tensor | None]:
    """Sums of (total, nll, n) of a chunk, and the gradient of the total in its logits, whose memory it takes if it can."""
    exact = logits.float()
    valid = targets != IGNORED
    index = targets.clamp_min(0).long()[:, None]
    right = exact.gather(-1, index)[:, 0]
    top = exact.amax(-1, keepdim=True)
    exact = exact.sub_(top).exp_()
    z = exact.sum(-1)
    log_z = top[:, 0] + z.log()
    nll = torch.where(valid, log_z - right, 0.0)
    squares = torch.where(valid, log_z.square(), 0.0)
    sums = torch.stack([(nll + z_loss * squares).sum(), nll.sum(), valid.sum().to(nll.dtype)])
    if not learns:
        return sums, None
    # d nll / d logits = softmax - onehot; d log_z^2 / d logits = 2 log_z softmax.
    exact = exact.mul_(torch.where(valid, (1.0 + 2.0 * z_loss * log_z) / z, 0.0)[:, None])
    if torch.compiler.is_compiling():
        # Compared with every place, it is part of the one kernel that writes the gradient; a scatter would be its own.
        places = torch.arange(exact.shape[1], device=exact.device)
        exact = exact - ((places == index) & valid[:, None]).to(exact.dtype)
    else:
        exact = exact.scatter_add_(-1, index, -valid.to(exact.dtype)[:, None])
    return sums, exact.to(logits.dtype)


def _add_product(to: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a @ b to an FP32 matrix in place, without rounding what is added where the device can."""
    if a.dtype == to.dtype:
        torch.addmm(to, a, b, out=to)
    elif _adds_wide(to.device, a.dtype):
        torch.addmm(to, a, b, out_dtype=to.dtype, out=to)
    else:
        to += a @ b


@cache
def _adds_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a product of narrow numbers can be added to FP32 as it is: tried, because versions and devices differ."""
    a, to = torch.eye(32, device=device, dtype=dtype), torch.full((32, 32), 1.0 + 2**-20, device=device)
    try:
        torch.addmm(to, a.T, a, out_dtype=torch.float32, out=to)
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return bool(torch.equal(to, a.float() + (1.0 + 2**-20)))


@cache
def _compiled_turn() -> Callable[..., Any]:
    return torch.compile(_turn, fullgraph=True, dynamic=False)
