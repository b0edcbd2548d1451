"""Causal attention inside of documents: one function, and the back-ends that a machine has.

A `Scope` says which tokens may see each other. It is made once a batch, outside of compiled code, and read by all layers.
Shapes: B samples, T tokens, H heads, G key and value heads, K width of a head.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

try:
    from torch.nn.attention import varlen

    _varlen_attn: Any = varlen.varlen_attn
except ImportError:
    _varlen_attn = None

# How this version of torch is told that nothing looks ahead. Found here, outside of what is compiled.
_named: Any = inspect.signature(_varlen_attn).parameters if _varlen_attn is not None else {}
_causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in _named else {"is_causal": True}

Backend = Literal["causal", "mask", "flex", "varlen"]
"""`causal`: no documents, whatever kernel PyTorch finds best. `mask`: an explicit mask; any device, memory T squared.
`flex`: block-sparse, compiled, CUDA. `varlen`: flash attention over packed documents, CUDA."""


@dataclass(frozen=True)
class Scope:
    """What attention needs to know of a batch. Exactly one of the fields that its back-end reads is set."""

    backend: Backend
    mask: Tensor | None = None  # (B, 1, T, T), True where a token may look
    block_mask: Any = None  # of flex_attention
    bounds: Tensor | None = None  # (padded,) int32: where documents begin in the B * T tokens, then the end repeated
    longest: int = 0


def choose(device: torch.device, dtype: torch.dtype, documents: bool) -> Backend:
    """The fastest back-end that is right for this device."""
    if not documents:
        return "causal"
    if device.type != "cuda":
        return "mask"
    if dtype in (torch.bfloat16, torch.float16) and _varlen_attn is not None:
        return "varlen"
    return "flex"


def scope(backend: Backend, docs: Tensor, n_docs: int | None = None) -> Scope:
    """The scope of a batch. `docs` (B, T) numbers the documents of each row; nothing looks across two of them, or ahead.

    `n_docs` is how many there are in all rows; without it `varlen` asks the device, and waits for it.
    """
    if backend == "causal":
        return Scope(backend)
    n_rows, length = docs.shape
    if backend == "mask":
        causal = torch.ones(length, length, dtype=torch.bool, device=docs.device).tril()
        return Scope(backend, mask=((docs[:, :, None] == docs[:, None, :]) & causal)[:, None])
    if backend == "flex":
        from torch.nn.attention.flex_attention import create_block_mask

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (q >= k) & (docs[b, q] == docs[b, k])

        made = create_block_mask(visible, n_rows, None, length, length, device=docs.device, _compile=True)
        return Scope(backend, block_mask=made)
    first = torch.ones_like(docs, dtype=torch.bool)
    first[:, 1:] = docs[:, 1:] != docs[:, :-1]
    total = n_rows * length
    # Places for a power of two of documents: few lengths, so that little is compiled twice. Not one for each token: kernels
    # launch blocks, and their backward pass takes memory, for documents of no tokens too.
    places = at_least(int(first.sum()) if n_docs is None else n_docs)
    starts = torch.where(first.flatten(), torch.arange(total, device=docs.device), total).sort().values
    bounds = starts.new_full((places + 1,), total)
    bounds[: min(places, total)] = starts[:places]
    return Scope(backend, bounds=bounds.to(torch.int32), longest=length)


def at_least(n_docs: int) -> int:
    """The power of two, 64 or more, that so many documents are padded to."""
    return max(64, 1 << max(0, n_docs - 1).bit_length())


def attend(q: Tensor, k: Tensor, v: Tensor, within: Scope) -> Tensor:
    """Attention of q (B, T, H, K) over k and v (B, T, G, K); returns (B, T, H, K)."""
    n_rows, length, heads, width = q.shape
    groups = heads // k.shape[2]
    if within.backend == "varlen":
        if groups > 1:  # torch 2.11's kernel wants as many heads of keys as of queries
            k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
        packed = (x.reshape(n_rows * length, -1, width) for x in (q, k, v))
        out = _varlen_attn(*packed, within.bounds, within.bounds, within.longest, within.longest, **_causal)
        return out.view(n_rows, length, heads, width)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if within.backend == "flex":
        flex = flex_attention if torch.compiler.is_compiling() else _flex()
        out = flex(q, k, v, block_mask=within.block_mask, enable_gqa=groups > 1)
    else:
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=within.mask, is_causal=within.mask is None, enable_gqa=groups > 1
        )
    return out.transpose(1, 2)


@cache
def _flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
