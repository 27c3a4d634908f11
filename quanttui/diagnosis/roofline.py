"""The memory roofline: bytes that a token, a batch and a model cost, and the speed that a bandwidth allows. Pure.

Owns the byte counts and the choice of a ceiling; knows no verdicts. Sources: the definition of model bandwidth
utilization (MBU) by Databricks, achieved GB/s as gpt-fast prints it (embedding rows left out), KV cells padded to
256 as llama.cpp pads them.
"""

from __future__ import annotations

from quanttui.events import Ceiling, Shape
from quanttui.quants import BY_TYPE_NAME
from quanttui.state import Arm, Attempt, State
from quanttui.stats.intervals import median

KV_PAD = 256
"""llama.cpp attends over KV cells in whole blocks of this many."""

SLOW = 1 / 3
"""Below this share of the predicted speed an arm is run once more. Clean runs of Q8_0 kept 0.57 to 0.92 of it,
thrashing and contended ones fell below 0.26 (2 cores, DDR5 guest); chosen after seeing those runs."""

_TRUST = ("measured", "configured", "looked up")


def active_bytes(shape: Shape, depth: int, kv: str) -> float:
    """Bytes that one generated token reads at `depth` tokens of context, with a KV cache of type `kv` (f16, q8_0, …).

    Every tensor once, save for the embedding (one row, or once whole where it is tied to the output) and the
    experts (those used of those there are); plus the KV cells at that depth.

    Raises:
        ValueError: ggml has no type `kv`.
    """
    return sum(_read_by_token(shape).values()) + kv_bytes(shape, depth, kv)


def batch_bytes(shape: Shape) -> float:
    """Bytes of weights that one pass over a whole batch reads, however many tokens are in it.

    As for a token, but the experts whole: the tokens of a batch between them choose nearly all. KV is left out: what
    a batch reads of it stays in the cache while the batch lasts.
    """
    return sum(_read_by_token(shape).values()) + _role(shape, "experts") * (1 - _share_of_experts(shape))


def resident_bytes(shape: Shape) -> float:
    """Bytes of all weights: what must stay in memory, or is read again. Risk goes by these, speed by active bytes."""
    return float(sum(group.bytes for group in shape.tensors))


def kv_bytes(shape: Shape, depth: int, kv: str) -> float:
    """Bytes of KV cache that one token reads at `depth`: cells padded to 256, over all layers.

    A sliding window is taken to hold for every layer: the header's summary does not say which layers slide, so for
    models that mix both kinds this is a lower bound beyond the window.

    Raises:
        ValueError: ggml has no type `kv`.
    """
    kind = BY_TYPE_NAME.get(kv.upper())
    if kind is None:
        raise ValueError(f"KV cache type {kv!r} is none of ggml's")
    seen = min(depth, shape.window) if shape.window else depth
    cells = -(-seen // KV_PAD) * KV_PAD
    lengths = shape.key_length + shape.value_length
    return cells * sum(shape.head_count_kv) * lengths * kind.bytes / kind.block


def predicted_tok_s(shape: Shape, depth: int, kv: str, gb_s: float) -> float:
    """Tokens per second if reading the active bytes at `gb_s` (1e9 bytes per second) were all that a token costs."""
    return gb_s * 1e9 / active_bytes(shape, depth, kv)


def best_ceiling(attempt: Attempt) -> tuple[Ceiling | None, str]:
    """The bandwidth to hold an attempt against, or None and why there is none.

    It is of the memory that the weights lie in; a measured one goes before a configured one, that before one looked
    up, and the largest of a kind counts: what the memory gave once, it can give. With layers on both sides there is
    no one ceiling.
    """
    loaded = attempt.loaded
    offloaded = loaded.gpu_layers if loaded else 0
    if loaded and 0 < offloaded < loaded.layers:
        return None, f"{offloaded} of {loaded.layers} layers are offloaded: two memories have no one ceiling"
    ours = [c for c in attempt.ceilings if (c.device != "cpu") == (offloaded > 0)]
    known = [c for c in ours if c.how in _TRUST and c.gb_s]
    if known:
        return max(known, key=lambda c: (-_TRUST.index(c.how), c.gb_s or 0.0)), ""
    why = next((c.why for c in reversed(ours) if c.why), "")
    return None, why or "no bandwidth was measured next to this quant"


def cached(state: State, attempt: Attempt, shape: Shape) -> bool:
    """Whether the weights fit in the host's last-level cache, and lie where it caches them."""
    cache = state.host.cache if state.host else None
    offloaded = attempt.loaded.gpu_layers if attempt.loaded else 0
    return cache is not None and not offloaded and 0 < batch_bytes(shape) <= cache


def is_slow(state: State, arm: Arm) -> bool:
    """Whether the arm's last run decoded below a third of what its bytes and its ceiling predict: run it once more.

    Never so without a ceiling, and never for weights that the cache holds: nothing is predicted for those.
    """
    attempt, file = arm.attempt, arm.file
    if attempt is None or file is None or not attempt.decode or cached(state, attempt, file.shape):
        return False
    ceiling, _ = best_ceiling(attempt)
    if ceiling is None or ceiling.gb_s is None:
        return False
    if not resident_bytes(file.shape):
        return False
    depth, kv = attempt.decode[0].unit.depth, arm.plan.kv or state.settings.kv
    return median([r.tok_s for r in attempt.decode]) < SLOW * predicted_tok_s(file.shape, depth, kv, ceiling.gb_s)


def _role(shape: Shape, role: str) -> float:
    return float(sum(group.bytes for group in shape.tensors if group.role == role))


def _share_of_experts(shape: Shape) -> float:
    return min(1.0, shape.experts_used / shape.experts) if shape.experts and shape.experts_used else 1.0


def _read_by_token(shape: Shape) -> dict[str, float]:
    """Bytes of weights by role that one token reads."""
    read: dict[str, float] = {}
    for group in shape.tensors:
        share = 1.0
        if group.role == "embedding" and not shape.tied:
            share = 1 / max(1, shape.vocabulary)
        elif group.role == "experts":
            share = _share_of_experts(shape)
        read[group.role] = read.get(group.role, 0.0) + share * group.bytes
    return read
