"""The memory roofline: bytes that a token, a batch and a model cost, and the speed that a bandwidth allows. Pure.

Owns the counts of bytes and operations; knows no session and no verdicts. Sources: the definition of model bandwidth
utilization (MBU) by Databricks, achieved GB/s as gpt-fast prints it (embedding rows left out), KV cells padded to
256 as llama.cpp pads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from quanttui.events import Shape
from quanttui.quants import BY_TYPE_NAME

KV_PAD = 256
"""llama.cpp attends over KV cells in whole blocks of this many."""

KNOWN_SHARE = 0.95
"""Of the bytes that a token reads, so many must be of types whose rate is known before their rates make a ceiling: the
rest is norms and biases, which no rate is measured for. Chosen; of Llama-3.1-8B's bytes they make less than 0.1 %."""

EMBEDDING_DEVICE = "cpu"
"""Where llama.cpp leaves tables of which a token takes one row, whatever else it offloads."""


def active_bytes(shape: Shape, depth: int, kv: str) -> float:
    """Bytes that one generated token moves at `depth` tokens of context, with a KV cache of type `kv` (f16, q8_0, …).

    Every tensor once, save for the embedding (one row, or once whole where it is tied to the output), other tables
    (one row) and the experts (those used of those there are); plus the KV cells at that depth, plus recurrent state
    twice: a token reads it and writes it.

    Raises:
        ValueError: ggml has no type `kv`.
    """
    return sum(read for _, read in _read_by_token(shape)) + kv_bytes(shape, depth, kv) + 2 * shape.state_bytes


def active_types(shape: Shape) -> dict[str, float]:
    """Bytes of weights that one generated token reads, by tensor type: active bytes without KV cache and state."""
    types: dict[str, float] = {}
    for kind, read in _read_by_token(shape):
        types[kind] = types.get(kind, 0.0) + read
    return types


def batch_bytes(shape: Shape) -> float:
    """Bytes of weights that one pass over a whole batch reads, however many tokens are in it.

    As for a token, but the experts whole: the tokens of a batch between them choose nearly all. KV is left out: what
    a batch reads of it stays in the cache while the batch lasts.
    """
    read = sum(read for _, read in _read_by_token(shape))
    return read + _role(shape, "experts") * (1 - _share(shape, "experts"))


def resident_bytes(shape: Shape) -> float:
    """Bytes of all weights: what must stay in memory, or is read again. Risk goes by these, speed by active bytes."""
    return float(sum(group.bytes for group in shape.tensors))


def knows(kv: str) -> bool:
    """Whether ggml has a type of this name: a session of a newer llama.cpp may have another one."""
    return kv.upper() in BY_TYPE_NAME


def kv_bytes(shape: Shape, depth: int, kv: str) -> float:
    """Bytes of KV cache that one token reads at `depth`, over all layers that keep one.

    In each the cells that its window lets it see, padded to 256: its KV heads' keys and values, or with multi-head
    latent attention the latent once, of which the values are a part.

    Raises:
        ValueError: ggml has no type `kv`.
    """
    kind = BY_TYPE_NAME.get(kv.upper())
    if kind is None:
        raise ValueError(f"KV cache type {kv!r} is none of ggml's")
    elements = 0
    for heads, seen in _seen(shape, depth):
        cells = -(-seen // KV_PAD) * KV_PAD
        elements += cells * (shape.latent or heads * (shape.key_length + shape.value_length))
    return elements * kind.bytes / kind.block


def flops_per_token(shape: Shape, depth: int) -> float:
    """Floating-point operations of one generated token at `depth`: two for every weight that it multiplies with, and
    two for every element of keys and of values that each head attends to (4·d·n_head·head_dim a layer, where both have
    the same length). Looking up a row is none; those of recurrent layers' state are left out.
    """
    weights = sum(
        _share(shape, group.role) * group.elements for group in shape.tensors if not _is_table(shape, group.role)
    )
    attended = sum(seen for _, seen in _seen(shape, depth))
    return 2 * weights + 2 * attended * shape.heads * (shape.key_length + shape.value_length)


def predicted_tok_s(shape: Shape, depth: int, kv: str, gb_s: float) -> float:
    """Tokens per second if moving the active bytes at `gb_s` (1e9 bytes per second) were all that a token costs.

    Raises:
        ValueError: ggml has no type `kv`.
    """
    return gb_s * 1e9 / active_bytes(shape, depth, kv)


def split_tok_s(
    shape: Shape, depth: int, kv: str, resident: Mapping[str, float], gb_s: Mapping[str, float]
) -> float | None:
    """Tokens per second with the weights on several devices, if moving bytes were all that a token costs.

    `resident` has the bytes of weights on each device, as llama.cpp's buffers tell them, `gb_s` each one's ceiling in
    1e9 bytes per second. The devices work one after the other, so t = Σ bytes there / B: the bound of perfect serial
    use, with no time for handing over. Tables of which a token takes a row lie on "cpu" and are taken off there; what
    a token moves of experts, KV cache and state is spread as the other weights are. None where a device that holds
    any has no known ceiling, or nothing is resident.

    Raises:
        ValueError: ggml has no type `kv`.
    """
    idle = sum(_role(shape, role) for role in ("embedding", "rows") if _is_table(shape, role))
    if shape.tied:
        # The output's copy of a tied embedding may lie on another device: then the two come to more than the file has.
        idle += min(_role(shape, "embedding"), max(0.0, sum(resident.values()) - resident_bytes(shape)))
    held = {device: size - idle * (device == EMBEDDING_DEVICE) for device, size in resident.items()}
    here = {device: size for device, size in held.items() if size > 0}
    active = active_bytes(shape, depth, kv)
    if not here or not active or any(not gb_s.get(device, 0) > 0 for device in here):
        return None
    share = active / sum(here.values())
    return 1 / sum(share * size / (gb_s[device] * 1e9) for device, size in here.items())


def compute_ceiling(types: Mapping[str, float], rates: Mapping[str, float]) -> float | None:
    """The rate in 1e9 bytes per second at which weights can be multiplied: Σ bytes / Σ (bytes of a type / its rate).

    `types` as of `active_types`, `rates` the mat-vec rate C(type) in the same unit. Types without a rate are left out
    of both sums; None where the others make less than KNOWN_SHARE of the bytes.
    """
    known = {kind: read for kind, read in types.items() if read > 0 and rates.get(kind, 0) > 0}
    if not known or math.fsum(known.values()) < KNOWN_SHARE * math.fsum(types.values()):
        return None
    return math.fsum(known.values()) / math.fsum(read / rates[kind] for kind, read in known.items())


def _seen(shape: Shape, depth: int) -> Iterator[tuple[int, int]]:
    """KV heads of each layer that has any, and the tokens that it sees at `depth`."""
    windows = shape.windows or (shape.window,) * len(shape.head_count_kv)
    for heads, window in zip(shape.head_count_kv, windows, strict=False):
        if heads:
            yield heads, min(depth, window) if window else depth


def _role(shape: Shape, role: str) -> float:
    return float(sum(group.bytes for group in shape.tensors if group.role == role))


def _is_table(shape: Shape, role: str) -> bool:
    """Whether tensors of that role are tables of which a token takes one row."""
    return role == "rows" or (role == "embedding" and not shape.tied)


def _share(shape: Shape, role: str) -> float:
    """The share of tensors of that role that one token reads. A table's is a row per word of the vocabulary, which is
    too little, by some kilobytes, for a table of positions."""
    if _is_table(shape, role):
        return 1 / max(1, shape.vocabulary)
    if role == "experts" and shape.experts and shape.experts_used:
        return min(1.0, shape.experts_used / shape.experts)
    return 1.0


def _read_by_token(shape: Shape) -> list[tuple[str, float]]:
    """The tensors' types, and the bytes of each group of tensors that one token reads."""
    return [(group.type, _share(shape, group.role) * group.bytes) for group in shape.tensors]
