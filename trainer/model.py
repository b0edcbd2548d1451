"""The model: a decoder in Llama's format, with the parameter names of Hugging Face's, so that export renames nothing.

RMSNorm, rotary positions, grouped keys and values, SwiGLU; with `qk_norm` it is Qwen3's format. Parameters are FP32;
matrices are cast where they are used, so the computation has one explicit type and no autocast.
Shapes: B samples, T tokens, D width, H heads, G key and value heads, K width of a head, F width of the feed-forward.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer import config
from trainer.attention import Scope, attend
from trainer.loss import linear_cross_entropy, token_losses

PAD_TO = 128
"""Sizes are multiples of it: tensor cores work in tiles of 64 to 256, and an odd vocabulary costs a third of the head."""


class Linear(nn.Linear):
    """A matrix without bias that computes in the type of its input."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, n_in) to (…, n_out)."""
        return functional.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019, arXiv:1910.07467; computed in FP32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        # As in Llama: back to the type of the input, then the weight.
        return self.weight.to(x.dtype) * y.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: config.Model) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = Linear(shape.width, shape.heads * shape.head_dim)
        self.k_proj = Linear(shape.width, shape.kv_heads * shape.head_dim)
        self.v_proj = Linear(shape.width, shape.kv_heads * shape.head_dim)
        self.o_proj = Linear(shape.heads * shape.head_dim, shape.width)
        if shape.qk_norm:
            self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], within: Scope) -> Tensor:
        """x (B, T, D) to the same."""
        n_rows, length, _ = x.shape
        q, k, v = (
            proj(x).view(n_rows, length, -1, self.shape.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.shape.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.o_proj(attend(_turned(q, turn), _turned(k, turn), v, within).reshape(n_rows, length, -1))


class FeedForward(nn.Module):
    """SwiGLU, Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, shape: config.Model) -> None:
        super().__init__()
        width = ffn_width(shape)
        self.gate_proj = Linear(shape.width, width)
        self.up_proj = Linear(shape.width, width)
        self.down_proj = Linear(width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) to the same."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer: attention and feed-forward, each on the normalised stream and added to it."""

    def __init__(self, shape: config.Model) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = RMSNorm(shape.width, shape.norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_eps)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], within: Scope) -> Tensor:
        """x (B, T, D) to the same."""
        x = x + self.self_attn(self.input_layernorm(x), turn, within)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Everything but the head; named `model` in the whole, as in Hugging Face's."""

    def __init__(self, shape: config.Model) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.norm_eps)


class Decoder(nn.Module):
    """A language model. `shape.vocab_size` must be given."""

    def __init__(self, shape: config.Model, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if shape.vocab_size < 1:
            raise config.ConfigError("model.vocab_size is not known: it comes from the tokenizer of the data")
        self.shape = shape
        self.dtype = dtype
        self.model = Body(shape)
        if not shape.tie_embeddings:
            self.lm_head = Linear(shape.width, shape.vocab_size)
        self._turns: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def head(self) -> Tensor:
        """The output matrix (V, D)."""
        return self.model.embed_tokens.weight if self.shape.tie_embeddings else self.lm_head.weight

    def hidden(self, tokens: Tensor, within: Scope) -> Tensor:
        """Tokens (B, T) to the normalised stream (B, T, D)."""
        x = functional.embedding(tokens, self.model.embed_tokens.weight).to(self.dtype)
        turn = self._turn(tokens.shape[1], tokens.device)
        for layer in self.model.layers:
            x = layer(x, turn, within)
        return self.model.norm(x)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        within: Scope,
        z_loss: float = 0.0,
        compiled: bool = False,
        each: bool = False,
    ) -> Any:
        """Summed `Loss` of tokens (B, T) against targets (B, T). With `each` the loss of every token (B * T) in nats, 0 where
        there is no target, without gradient. The head is used inside of this call: sharded parameters are whole only there.
        """
        if each:
            with torch.no_grad():
                return token_losses(self.hidden(tokens, within).flatten(0, 1), self.head, targets.flatten())
        stream = self.hidden(tokens, within).flatten(0, 1)
        return linear_cross_entropy(stream, self.head, targets.flatten(), z_loss, compiled=compiled)

    def _turn(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        known = self._turns.get((length, device))
        if known is None:
            known = _rotary(length, self.shape.head_dim, self.shape.rope_theta, device, self.dtype)
            self._turns[length, device] = known
        return known

    @torch.no_grad()
    def initialise(self, seed: int, device: torch.device | str = "cpu") -> None:
        """Fills the parameters: normal with `init_std`, projections back into the stream scaled by 1 / sqrt(2 layers)
        (GPT-2; Radford et al. 2019). A parameter's numbers depend on the seed and its name, on no order and no device.
        """
        from trainer.permutation import key_of

        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            std = self.shape.init_std
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * self.shape.layers)
            generator = torch.Generator().manual_seed(key_of(seed, "init", name) >> 1)
            _fill(parameter, torch.empty(parameter.shape).normal_(0.0, std, generator=generator))


def _fill(parameter: Tensor, whole: Tensor) -> None:
    """Puts a whole tensor, which every rank has made, into a parameter that may be spread over ranks: each takes its part."""
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor):
        parameter.copy_(whole)
        return
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, offsets = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    if all(sizes):
        parameter.to_local().copy_(whole[tuple(slice(at, at + n) for at, n in zip(offsets, sizes, strict=True))])


def ffn_width(shape: config.Model) -> int:
    """Width of the feed-forward: as given, or 8/3 of the width rounded up to a multiple of 128."""
    return shape.ffn or -(-8 * shape.width // (3 * PAD_TO)) * PAD_TO


def padded_vocab(n: int) -> int:
    """A vocabulary rounded up to a size that matrices like."""
    return -(-n // PAD_TO) * PAD_TO


def n_parameters(shape: config.Model) -> tuple[int, int]:
    """Parameters in all, and those in matrices that every token passes (the head counts once, the embedding not)."""
    attention = shape.width * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    layer = attention + 3 * shape.width * ffn_width(shape)
    norms = shape.layers * (2 * shape.width + (2 * shape.head_dim if shape.qk_norm else 0)) + shape.width
    embedding = shape.vocab_size * shape.width
    matrices = shape.layers * layer + embedding
    return matrices + norms + (0 if shape.tie_embeddings else embedding), matrices


def flops_per_token(shape: config.Model, seq_len: int) -> int:
    """Floating-point operations of training on a token: 6 N + 12 L H K T, N the parameters in matrices, T not halved for
    the causal mask (as PaLM, nanoGPT and torchtitan count for MFU)."""
    return 6 * n_parameters(shape)[1] + 12 * shape.layers * shape.heads * shape.head_dim * seq_len


def _rotary(length: int, width: int, theta: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, K) of rotary positions (Su et al. 2021), halves as Hugging Face's Llama has them."""
    rate = theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float64) / width)
    angle = torch.arange(length, device=device, dtype=torch.float64)[:, None] * rate
    angle = torch.cat([angle, angle], -1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part[None, :, None, :] for part in turn)
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
