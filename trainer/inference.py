"""Forward passes that training does not need: positions and masks of one's own, and keys and values that are kept.

The modules and parameters are those of `trainer.model`; only what attends to what differs.
Shapes: B rows, T tokens, S tokens that can be seen, D width, G key and value heads, K width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainer.model import Decoder


@dataclass
class Cache:
    """Keys and values (B, G, S, K) of each layer, in the order in which their tokens came. What is `frozen` is read only,
    and that of one row is what any number of rows begin with."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    frozen: bool = False

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, with these."""
        if self.frozen:
            keys, values = (part[layer].expand(len(k), -1, -1, -1) for part in (self.keys, self.values))
            return torch.cat([keys, k], 2), torch.cat([values, v], 2)
        if layer == len(self.keys):
            self.keys.append(k)
            self.values.append(v)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], k], 2)
            self.values[layer] = torch.cat([self.values[layer], v], 2)
        return self.keys[layer], self.values[layer]


@torch.no_grad()
def hidden(
    model: Decoder,
    tokens: Tensor,
    positions: Tensor | None = None,
    mask: Tensor | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """The normalised stream (B, T, D) of tokens (B, T) at positions (B, T).

    `mask` (B, T, S) is True where a token may look; without it each sees itself and those before it. With a `cache` the
    tokens come after those that it holds, and are added to it unless it is frozen.
    """
    shape = model.shape
    n_rows, length = tokens.shape
    if positions is None:
        positions = torch.arange(length, device=tokens.device).expand(n_rows, length)
    rate = shape.rope_theta ** (
        -torch.arange(0, shape.head_dim, 2, device=tokens.device, dtype=torch.float64) / shape.head_dim
    )
    angle = (positions[..., None].double() * rate).repeat(1, 1, 2)[:, None]
    turn = angle.cos().to(model.dtype), angle.sin().to(model.dtype)
    seen = None if mask is None else mask[:, None]
    body: Any = model.model
    x = functional.embedding(tokens, body.embed_tokens.weight).to(model.dtype)
    for number, layer in enumerate(body.layers):
        part, y = layer.self_attn, layer.input_layernorm(x)
        q, k, v = (
            proj(y).view(n_rows, length, -1, shape.head_dim).transpose(1, 2)
            for proj in (part.q_proj, part.k_proj, part.v_proj)
        )
        if shape.qk_norm:
            q, k = part.q_norm(q), part.k_norm(k)
        q, k = _turned(q, turn), _turned(k, turn)
        if cache is not None:
            k, v = cache.add(number, k, v)
        if (groups := shape.heads // shape.kv_heads) > 1:  # kernels that take a mask share no keys between heads
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        x = x + part.o_proj(y.transpose(1, 2).reshape(n_rows, length, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return body.norm(x)


def logits(model: Decoder, stream: Tensor) -> Tensor:
    """Logits (…, V) in FP32 of a stream (…, D)."""
    return (stream @ model.head.to(stream.dtype).T).float()


@torch.no_grad()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    most: int,
    eos: int,
    known: int,
    stop: Callable[[list[int]], bool] = lambda tokens: False,
) -> list[list[int]]:
    """The likeliest next tokens after each prompt, one by one: at most `most`, up to `eos` (left out) or until `stop` says
    so of what was generated. Ids from `known` on, which only pad the vocabulary, are never chosen."""
    if not prompts:
        return []
    device = model.head.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max())
    tokens = torch.tensor([[*prompt, *[eos] * (width - len(prompt))] for prompt in prompts], device=device)
    place = torch.arange(width, device=device)
    cache = Cache()
    stream = hidden(model, tokens, cache=cache)
    last = stream[torch.arange(len(prompts), device=device), lengths - 1]
    visible = place < lengths[:, None]
    made: list[list[int]] = [[] for _ in prompts]
    going = [True] * len(prompts)
    for turn in range(most):
        chosen = logits(model, last)[:, :known].argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if not going[row]:
                continue
            if token == eos:
                going[row] = False
                continue
            made[row].append(token)
            going[row] = not stop(made[row])
        if not any(going) or turn == most - 1:
            break
        visible = functional.pad(visible, (0, 1), value=True)
        last = hidden(model, chosen[:, None], (lengths + turn)[:, None], visible[:, None], cache)[:, 0]
    return made


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
