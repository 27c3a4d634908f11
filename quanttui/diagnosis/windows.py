"""Windows: what the repetitions of one phase amount to, the bytes that they read again, and what they are held against.
Pure. Owns the sums, and whose bytes they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from quanttui.diagnosis import ceilings, parts, roofline, thresholds
from quanttui.diagnosis.parts import Part, is_blamed, is_cold, known_sum
from quanttui.events import Ceiling
from quanttui.state import Arm, Attempt, Slice, State

PAGE = 16384
"""Bytes of a page at most (Apple's, and some ARM kernels'): what one major fault can bring back from compressed memory.

"""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The repetitions of one phase of one attempt and the one under way, or a stretch of them.

    `passes` is how often the weights were read whole: once a token when decoding, once a batch otherwise.
    `read`, `swap_in`, `zswap_in` in bytes and `majflt` are sums over it, `swap_in` and `zswap_in` those of the whole
    machine. `cold_read` is what of `read` may have been the first reading after a load. `cpu` core-seconds were used
    in `cpu_seconds` of it, and others used `others` core-seconds in `others_seconds`; `blamed`: that is part of what
    its threads lacked, or it is not known. `devices` are levels of the GPUs
    as means over it (state.Slice). None where the host does not tell.
    """

    phase: str
    repetitions: int
    tokens: float
    passes: float
    seconds: float
    tok_s: float | None = None
    read: float | None = None
    majflt: float | None = None
    swap_in: float | None = None
    zswap_in: float | None = None
    cold_read: float = 0.0
    cpu: float | None = None
    cpu_seconds: float = 0.0
    others: float | None = None
    others_seconds: float = 0.0
    blamed: bool | None = None
    devices: dict[str, float] = {}
    under_way: bool = False

    @property
    def others_cores(self) -> float | None:
        """Cores that other processes used, None where it is not told."""
        return None if self.others is None or self.others_seconds <= 0 else self.others / self.others_seconds

    @property
    def most_passes(self) -> float:
        """Passes that the bytes may belong to: the one under way counts whole."""
        return self.passes + self.under_way

    def cpu_share(self, threads: int) -> float | None:
        """Own CPU time as a share of what `threads` could have used, None where it is not told."""
        if self.cpu is None or self.cpu_seconds <= 0 or threads <= 0:
            return None
        return self.cpu / (threads * self.cpu_seconds)


class Reread(msgspec.Struct, frozen=True):
    """Bytes read again in a window, from swap and from the file; None where they cannot be told, `note` says why."""

    swap: float | None
    file: float | None
    note: str = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a window is held against.

    `active` bytes are read by one pass, `resident` bytes must stay in memory. `threads` compute, of `host_threads` that
    the machine has (0: not known). `offloaded` of `layers` lie on a GPU
    (None: not known). `cache` is the last-level cache in bytes where it holds all the weights, else None. `ceiling` is
    None for the reason `why`.
    `compute` is C, in GB/s of weights: what the arm's own mixture of tensor types allows from the cache; None where it
    is not known. `probed` is the bandwidth next to the arm, `usual` the one of this session, `remembered` of earlier
    ones. `split` is the tok/s that partly offloaded weights are predicted to give, `split_why` why none is predicted.
    `spilled` bytes of the host's memory a GPU took as its own since before the load; `best_clock` is the largest share
    of its best clock that the session has seen. `flops` are the floating-point operations of one token.
    """

    active: float
    resident: float
    threads: int
    host_threads: int = 0
    offloaded: int | None = None
    layers: int = 0
    cache: float | None = None
    ceiling: Ceiling | None = None
    why: str = ""
    compute: float | None = None
    probed: float | None = None
    usual: float | None = None
    remembered: float | None = None
    split: float | None = None
    split_why: str = ""
    spilled: float | None = None
    best_clock: float | None = None
    flops: float = 0.0


def reread(window: Window, resident: float) -> Reread:
    """S and F of the window: bytes read again from swap and from the file.

    S = min(swap-ins + zswap-ins, own reads + zswap-ins) if there were major faults, else 0; F = own reads - S. So a
    neighbour's swapping stays the neighbour's: of compressed memory no more is ours than our own major faults can have
    brought back. What a cold start reads for the first time, `resident` bytes at most, is no re-reading.
    """
    if window.read is None:
        return Reread(None, None, "this host does not tell what the engine reads from storage")
    first = min(window.cold_read, resident)
    if window.majflt == 0:
        return Reread(0.0, max(0.0, window.read - first))
    if window.swap_in is None:
        return Reread(None, max(0.0, window.read - first), "page-ins and swap-ins cannot be told apart on this host")
    ours = math.inf if window.majflt is None else window.majflt * PAGE
    zswap = min(window.zswap_in or 0.0, ours)
    swap = min(window.swap_in + zswap, window.read + zswap)
    note = "compressed memory (zswap) gave pages back, and the kernel does not say whose" if zswap else ""
    return Reread(swap, max(0.0, window.read - swap - first), note)


def latest(arm: Arm, kind: str) -> Attempt | None:
    """The latest attempt that has repetitions of this kind: the one whose figures count. One that failed counts only
    where there is no other."""
    timed = [one for one in arm.attempts if one.has(kind)]
    return next((one for one in reversed(timed) if one.failed is None), timed[-1] if timed else None)


def window(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int | None = None) -> Window | None:
    """The attempt's repetitions of one kind joined, with the unit under way if it is one of them; None without any.

    Args:
        depth: of prompt and decode; the first of the settings' depths unless given.
    """
    found = parts.whole(state, arm, attempt, kind, depth)
    if not found:
        return None
    rates = [one.tok_s for one in parts.repetitions(state, attempt, kind, depth)]
    threads = (attempt.loaded.threads if attempt.loaded else 0) or state.settings.threads
    cores, blame = state.host.threads if state.host else 0, thresholds.of(state.settings).blame
    made = joined(
        kind,
        found,
        parts.first_after_loads(state, arm, attempt),
        tok_s=math.fsum(rates) / len(rates) if rates else found[-1].tok_s,
        repetitions=len(rates),
        under_way=len(found) > len(rates),
    )
    return msgspec.structs.replace(
        made,
        blamed=is_blamed(found, threads, blame, cores),
        devices=_levels(parts.slices_of(attempt, found)),
    )


def joined(
    kind: str,
    found: Sequence[Part],
    first: set[float],
    tok_s: float | None = None,
    repetitions: int = 0,
    under_way: bool = False,
) -> Window:
    """Parts as one window. `first` are the units that came right after a load."""
    cold = [part for part in found if part.at in first and part.read and is_cold(part.at, found)]
    others = [(part, part.others) for part in found if part.others is not None]
    return Window(
        phase=kind,
        repetitions=repetitions,
        tokens=sum(part.tokens for part in found),
        passes=math.fsum(part.passes for part in found),
        seconds=math.fsum(part.seconds for part in found),
        tok_s=tok_s,
        read=known_sum(part.read for part in found),
        majflt=known_sum(part.majflt for part in found),
        swap_in=known_sum(part.swap_in for part in found),
        zswap_in=known_sum(part.zswap_in for part in found),
        cold_read=sum(part.read or 0.0 for part in cold),
        cpu=known_sum(part.cpu for part in found),
        cpu_seconds=math.fsum(part.cpu_seconds for part in found if part.cpu is not None),
        others=math.fsum(cores for _, cores in others) if others else None,
        others_seconds=math.fsum(part.cpu_seconds for part, _ in others),
        under_way=under_way,
    )


def _levels(slices: Sequence[Slice]) -> dict[str, float]:
    """The GPUs' levels as means over all samples in these slices."""
    samples = sum(one.samples for one in slices if one.devices)
    found: dict[str, float] = {}
    for one in slices:
        for name, value in one.devices.items():
            found[name] = found.get(name, 0.0) + value / samples
    return found


def bounds(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int | None = None) -> Bounds | None:
    """What the attempt's windows of one kind and depth are held against, None before the file's header is known, and
    where nobody knows what its KV cache is of."""
    kv = arm.plan.kv or state.settings.kv
    if arm.file is None or not roofline.knows(kv):
        return None
    shape, settings, loaded = arm.file.shape, state.settings, attempt.loaded
    ceiling, why = ceilings.best_ceiling(attempt)
    active = roofline.batch_bytes(shape)
    split, split_why = None, ""
    if kind == "decode":
        at = settings.depths[0] if depth is None else depth
        active = roofline.active_bytes(shape, at, kv)
        split, split_why = ceilings.split(attempt, shape, at, kv)
    offloaded = loaded.gpu_layers if loaded else None
    if kind == "prompt" and not offloaded and state.build is not None and state.build.gpu_offload:
        offloaded = None  # a build with a GPU computes large batches on it, whatever lies there
    return Bounds(
        active=active,
        resident=roofline.resident_bytes(shape),
        threads=(loaded.threads if loaded else 0) or settings.threads,
        host_threads=state.host.threads if state.host else 0,
        offloaded=offloaded,
        layers=loaded.layers if loaded else 0,
        cache=state.host.cache if state.host and ceilings.cached(state, attempt, shape) else None,
        ceiling=ceiling,
        why=why,
        compute=ceilings.compute(attempt, shape),
        probed=ceilings.probed(attempt),
        usual=ceilings.usual(state, attempt),
        remembered=ceilings.remembered(state, attempt),
        split=split,
        split_why=split_why,
        spilled=_spilled(state, arm, attempt, kind, depth),
        best_clock=best_clock(state) if loaded and loaded.gpu_layers else None,
        flops=roofline.flops_per_token(shape, settings.depths[0] if depth is None else depth),
    )


def best_clock(state: State) -> float | None:
    """The largest share of its best clock that a GPU ran at, over all slices; None where none was told."""
    return max(_clocks(state), default=None)


def _clocks(state: State) -> Iterable[float]:
    """The largest share of its best clock that a GPU ran at, of each attempt that has one."""
    for arm in state.arms.values():
        for attempt in arm.attempts:
            if (best := attempt.best_clock) is not None:
                yield best


def _spilled(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int | None) -> float | None:
    """By how much the host memory that GPUs use as their own lay above what it was before the load, in bytes, less the
    buffers that llama.cpp itself keeps there for its transfers."""
    before = [value for name, value in attempt.before.items() if name.endswith(".shared_used")]
    if not before:
        return None
    slices = parts.slices_of(attempt, parts.whole(state, arm, attempt, kind, depth))
    seen = [one.devices["shared"] / one.samples for one in slices if "shared" in one.devices and one.samples]
    if not seen:
        return None
    pinned = sum(size for name, size in attempt.loaded.buffers.items() if "_Host" in name) if attempt.loaded else 0
    return max(seen) - math.fsum(before) - pinned
