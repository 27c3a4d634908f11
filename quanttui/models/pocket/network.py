"""The pocket model's network in JAX: a llama as llama.cpp runs it, so that trained weights need no translation.

Owns the shape, the start weights and the loss. Needs the extra `train`. Must not know of files or text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Weights = dict[str, Any]
QUERIES = 64  # attention goes by blocks of queries, so that nothing is computed for keys that come after all of them


@dataclass(frozen=True)
class Shape:
    """Every row length is a multiple of 256, the block of the K- and IQ-quants, so that no tensor falls back."""

    vocab: int = 1536
    embd: int = 256
    ff: int = 768
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head(self) -> int:
        return self.embd // self.heads


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """GGUF tensor names with their dimensions, rows first: (out, in) for matrices."""
    d, kv = shape.embd, shape.kv_heads * shape.head
    block = {
        "attn_norm": (d,),
        "attn_q": (d, d),
        "attn_k": (kv, d),
        "attn_v": (kv, d),
        "attn_output": (d, d),
        "ffn_norm": (d,),
        "ffn_gate": (shape.ff, d),
        "ffn_up": (shape.ff, d),
        "ffn_down": (d, shape.ff),
    }
    named = {"token_embd.weight": (shape.vocab, d), "output_norm.weight": (d,), "output.weight": (shape.vocab, d)}
    for i in range(shape.layers):
        named |= {f"blk.{i}.{name}.weight": dims for name, dims in block.items()}
    return named


UNEVEN = (0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4)
"""Powers of two to draw from: binomial, which is close to log-normal with a standard deviation of 0.69."""


def start(shape: Shape, seed: int) -> Weights:
    """Norms at one; matrices normal with variance 1/fan-in, or 1/(2 layers) of it where they write to the residual."""
    named = tensors(shape)
    keys = jax.random.split(jax.random.key(seed), len(named))
    weights: Weights = {}
    for key, (name, dims) in zip(keys, named.items(), strict=True):
        if len(dims) == 1:
            weights[name] = jnp.ones(dims)
            continue
        writes = "attn_output" in name or "ffn_down" in name
        variance = 1 / dims[1] / (2 * shape.layers if writes else 1)
        weights[name] = jax.random.normal(key, dims) * variance**0.5
    return weights


def uneven(shape: Shape, weights: Weights, seed: int) -> Weights:
    """The same network with columns of uneven size: what the norms lose, the matrices that follow them gain.

    Large models grow activations and columns that differ widely in size, and that is much of what their quantization
    costs; this one is too small and too briefly trained for it, and would lose next to nothing at three bits. The
    factors are powers of two, so that not even rounding changes what it computes.
    """
    draw, scaled = random.Random(seed).random, dict(weights)
    for i in range(shape.layers):
        for norm, matrices in (("attn_norm", ("attn_q", "attn_k", "attn_v")), ("ffn_norm", ("ffn_gate", "ffn_up"))):
            factors = jnp.array([2.0 ** UNEVEN[int(draw() * len(UNEVEN))] for _ in range(shape.embd)])
            scaled[f"blk.{i}.{norm}.weight"] = weights[f"blk.{i}.{norm}.weight"] / factors
            for matrix in matrices:
                scaled[f"blk.{i}.{matrix}.weight"] = weights[f"blk.{i}.{matrix}.weight"] * factors
    return scaled


def rms_norm(x: Any, weight: Any, eps: float) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x: Any, base: float) -> Any:
    """Rotate neighbouring pairs (2i, 2i+1) of (batch, position, head, dim): llama.cpp's "norm" ordering."""
    n, half = x.shape[1], x.shape[-1] // 2
    angle = jnp.arange(n)[:, None] * base ** (-jnp.arange(half) / half)[None, :]
    cos, sin = jnp.cos(angle)[None, :, None, :], jnp.sin(angle)[None, :, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attention(shape: Shape, weights: Weights, block: str, x: Any) -> Any:
    batch, n, _ = x.shape
    group = shape.heads // shape.kv_heads
    q = (x @ weights[block + "attn_q.weight"].T).reshape(batch, n, shape.heads, shape.head)
    k = (x @ weights[block + "attn_k.weight"].T).reshape(batch, n, shape.kv_heads, shape.head)
    v = (x @ weights[block + "attn_v.weight"].T).reshape(batch, n, shape.kv_heads, shape.head)
    q = rope(q, shape.rope_base).reshape(batch, n, shape.kv_heads, group, shape.head)
    k = rope(k, shape.rope_base)
    mixed = []
    for at in range(0, n, QUERIES):
        end = min(at + QUERIES, n)
        scores = jnp.einsum("bqhgd,bkhd->bhgqk", q[:, at:end], k[:, :end]) * shape.head**-0.5
        scores = jnp.where(jnp.tril(jnp.ones((end - at, end), bool), k=at), scores, -jnp.inf)
        mixed.append(jnp.einsum("bhgqk,bkhd->bqhgd", jax.nn.softmax(scores), v[:, :end]))
    return jnp.concatenate(mixed, axis=1).reshape(batch, n, shape.embd) @ weights[block + "attn_output.weight"].T


def logits(shape: Shape, weights: Weights, tokens: Any) -> Any:
    """(batch, position) ids to (batch, position, vocabulary) logits."""
    x = weights["token_embd.weight"][tokens]
    for i in range(shape.layers):
        block = f"blk.{i}."
        x = x + attention(shape, weights, block, rms_norm(x, weights[block + "attn_norm.weight"], shape.eps))
        h = rms_norm(x, weights[block + "ffn_norm.weight"], shape.eps)
        gated = jax.nn.silu(h @ weights[block + "ffn_gate.weight"].T) * (h @ weights[block + "ffn_up.weight"].T)
        x = x + gated @ weights[block + "ffn_down.weight"].T
    return rms_norm(x, weights["output_norm.weight"], shape.eps) @ weights["output.weight"].T


def loss(shape: Shape, weights: Weights, windows: Any) -> Any:
    """Mean negative log-likelihood, in nats, of each token of (batch, n) windows after the ones before it."""
    scores = logits(shape, weights, windows[:, :-1])
    target = jnp.take_along_axis(scores, windows[:, 1:, None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(scores, axis=-1) - target)
