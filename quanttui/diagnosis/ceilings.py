"""What an attempt's speed is held against: the bandwidth of the memory that its weights lie in, the arithmetic of its
tensor types, and which of them count.

Owns the choice among the ceilings that a log holds; the byte counts are the roofline's.
"""

from __future__ import annotations

import re

import msgspec

from quanttui.diagnosis import roofline
from quanttui.diagnosis.roofline import batch_bytes, predicted_tok_s, resident_bytes
from quanttui.events import Ceiling, Shape
from quanttui.state import Arm, Attempt, State
from quanttui.stats.intervals import median

SLOW = 1 / 3
"""Below this share of the predicted speed an arm is run once more. Clean runs of Q8_0 kept 0.57 to 0.92 of it,
thrashing and contended ones fell below 0.26 (2 cores, DDR5 guest); chosen after seeing those runs."""

USUAL = 3
"""So many quants' bandwidths make a median that one of them can be held against."""

_TRUST = ("configured", "measured", "looked up")
"""Whose word counts first: what the user says, then what was measured here, then a table."""

_DEVICE = re.compile(r"^(?:CUDA|ROCm|Vulkan|SYCL|Metal|MTL|CANN|OpenCL)(\d*)")
"""llama.cpp's names of buffers on devices; all others are the host's memory."""


def best_ceiling(attempt: Attempt) -> tuple[Ceiling | None, str]:
    """The bandwidth to hold an attempt against, or None and why there is none.

    It is of the memory that the weights lie in; one that the user configured goes before a measured one, that before
    one looked up. Of several measured next to it, before and after, the median counts: a machine's bandwidth changes
    (33 or 55 GB/s on one guest), and one outlier as the most that was ever seen turned an MBU of 0.81 into 0.53. With
    layers on both sides there is no one ceiling.
    """
    loaded = attempt.loaded
    offloaded = loaded.gpu_layers if loaded else 0
    if loaded and 0 < offloaded < loaded.layers:
        return None, f"{offloaded} of {loaded.layers} layers are offloaded: two memories have no one ceiling"
    ours = [c for c in attempt.ceilings if (c.device != "cpu") == (offloaded > 0)]
    for how in _TRUST:
        known = [c for c in ours if c.how == how and c.gb_s]
        if known:
            rate = median([c.gb_s for c in known if c.gb_s])
            each = tuple(value for c in known for value in c.repeats)
            return msgspec.structs.replace(known[-1], gb_s=rate, repeats=each), ""
    why = next((c.why for c in reversed(ours) if c.why), "")
    return None, why or "no bandwidth was measured next to this quant"


def split(attempt: Attempt, shape: Shape, depth: int, kv: str) -> tuple[float | None, str]:
    """Tok/s that a partly offloaded model is predicted to give, by the bytes that each memory holds; or why not.

    None and "" where it is not partly offloaded.
    """
    loaded = attempt.loaded
    if loaded is None or not 0 < loaded.gpu_layers < loaded.layers:
        return None, ""
    held: dict[str, float] = {}
    for name, size in loaded.buffers.items():
        if (device := device_of(name)) != "cpu":
            held[device] = held.get(device, 0.0) + size
    # A mapped buffer of the host's spans what lies between its tensors, offloaded ones too: the rest is what is left.
    held["cpu"] = max(0.0, resident_bytes(shape) - sum(held.values()))
    rates: dict[str, float] = {}
    for device in held:
        found = [c for c in attempt.ceilings if c.device == device and c.how in _TRUST and c.gb_s]
        if found:
            best = max(found, key=lambda c: (-_TRUST.index(c.how), c.gb_s or 0.0))
            rates[device] = best.gb_s or 0.0
    missing = sorted(set(held) - set(rates))
    if missing or len(held) < 2:
        return None, f"the bandwidth of {', '.join(missing) or 'one side'} is not known"
    return roofline.split_tok_s(shape, depth, kv, held, rates), ""


def device_of(buffer: str) -> str:
    """The device of a buffer by llama.cpp's name of it: CUDA0 is gpu0, what is no device's is cpu."""
    found = _DEVICE.match(buffer)
    if found is None or "_Host" in buffer:
        return "cpu"
    return f"gpu{found[1] or 0}"


def compute(attempt: Attempt, shape: Shape) -> float | None:
    """C of the arm's own mixture of tensor types, in GB/s of weights; None where too little of it is known, or where
    layers are on another device than the rates."""
    loaded = attempt.loaded
    device = "cpu" if loaded is None or not loaded.gpu_layers else "gpu0"
    rates = {one.type: one.gb_s for one in attempt.kernels.values() if one.gb_s and one.device == device}
    return roofline.compute_ceiling(roofline.active_types(shape), rates)


def probed(attempt: Attempt) -> float | None:
    """The bandwidth of the host's memory next to the attempt, in GB/s: the median of what was measured before and after
    it, as in `usual`."""
    found = [c.gb_s for c in attempt.ceilings if is_of_host(c) and c.gb_s]
    return median(found) if found else None


def usual(state: State, attempt: Attempt) -> float | None:
    """The bandwidth that this machine's memory gives with so many threads in this session, in GB/s: the median of what
    was measured next to its quants; None below USUAL of them.
    """
    threads = next((c.threads for c in attempt.ceilings if is_of_host(c)), None)
    each = [
        median(found)
        for arm in state.arms.values()
        for one in arm.attempts
        if (found := [c.gb_s for c in one.ceilings if is_of_host(c) and c.threads == threads and c.gb_s])
    ]
    return median(each) if len(each) >= USUAL else None


def remembered(state: State, attempt: Attempt) -> float | None:
    """The same of earlier sessions on this machine."""
    threads = next((c.threads for c in attempt.ceilings if is_of_host(c)), None)
    earlier = state.remembered
    return earlier.gb_s if earlier is not None and earlier.threads == threads else None


def is_of_host(one: Ceiling) -> bool:
    """Whether it was measured of the host's memory."""
    return one.how == "measured" and one.device == "cpu"


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
