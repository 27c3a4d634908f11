"""Windows: what the repetitions of one phase amount to, and the bytes that they read again. Pure.

Owns the sums and whose bytes they are; knows no thresholds. The engine reads its own counters at each repetition's
edges; inside a repetition under way, the samples' cumulative readings stand in for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from quanttui.diagnosis import roofline
from quanttui.events import Ceiling, Settings, Unit
from quanttui.state import Arm, Attempt, Repetition, Running, State

TOLD = 1.0
"""Seconds of tokens that an engine may hold back before it tells of them: samples run ahead of tokens by so much."""

COLD_FAULTS = 1
"""A first reading of the file takes at most so many major faults (measured: 0 or 1); eviction takes more."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The repetitions of one phase of one attempt, and the one under way.

    `passes` is how often the weights were read whole: once a token when decoding, once a batch otherwise.
    `read`, `swap_in`, `zswap_in` in bytes and `majflt` are sums over it, `swap_in` and `zswap_in` those of the whole
    machine. `cold_read` is what of `read` may have been the first reading after a load. `cpu` core-seconds were used
    in `cpu_seconds` of it. None where the host does not tell.
    """

    phase: str
    repetitions: int
    tokens: int
    passes: int
    seconds: float
    tok_s: float | None = None
    read: float | None = None
    majflt: float | None = None
    swap_in: float | None = None
    zswap_in: float | None = None
    cold_read: float = 0.0
    cpu: float | None = None
    cpu_seconds: float = 0.0
    under_way: bool = False

    @property
    def most_passes(self) -> int:
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

    `active` bytes are read by one pass, `resident` bytes must stay in memory. `offloaded` layers lie on a GPU (None:
    not known). `cache` is the last-level cache in bytes where it holds all the weights, else None. `ceiling` is None
    for the reason `why`.
    """

    active: float
    resident: float
    threads: int
    offloaded: int | None = None
    cache: float | None = None
    ceiling: Ceiling | None = None
    why: str = ""


def reread(window: Window, resident: float) -> Reread:
    """S and F of the window: bytes read again from swap and from the file.

    S = min(swap-ins + zswap-ins, own reads + zswap-ins) if there were major faults, else 0; F = own reads - S. So a
    neighbour's swapping stays the neighbour's. What a cold start reads for the first time, `resident` bytes at most,
    is no re-reading.
    """
    if window.read is None:
        return Reread(None, None, "this host does not tell what the engine reads from storage")
    first = min(window.cold_read, resident)
    if window.majflt == 0:
        return Reread(0.0, max(0.0, window.read - first))
    if window.swap_in is None:
        return Reread(None, max(0.0, window.read - first), "page-ins and swap-ins cannot be told apart on this host")
    zswap = window.zswap_in or 0.0
    swap = min(window.swap_in + zswap, window.read + zswap)
    note = "compressed memory (zswap) gave pages back, and the kernel does not say whose" if zswap else ""
    return Reread(swap, max(0.0, window.read - swap - first), note)


def latest(arm: Arm, kind: str) -> Attempt | None:
    """The latest attempt that has repetitions of this kind: the one whose figures count."""
    return next((one for one in reversed(arm.attempts) if one.repetitions(kind)), None)


def under_way(state: State, arm: Arm, kind: str) -> Attempt | None:
    """The attempt that is in the middle of a unit of this kind, None where there is none.

    A repetition at one of the deeper depths is none: its speed and its bytes are not those of the first.
    """
    unit = state.running.unit if state.running else None
    if unit is None or unit.arm != arm.id or unit.kind != kind:
        return None
    if kind in ("prompt", "decode") and unit.depth != state.settings.depths[0]:
        return None
    return next((one for one in arm.attempts if one.number == unit.attempt), None)


def window(state: State, arm: Arm, attempt: Attempt, kind: str) -> Window | None:
    """The attempt's repetitions of one kind joined, with the unit under way if it is one of them; None without any."""
    done = attempt.repetitions(kind) if kind in ("prompt", "decode") else []
    parts = [_done(one, state.settings) for one in done]
    if under_way(state, arm, kind) is attempt and state.running is not None:
        parts.append(_partial(state, state.running))
    if not parts:
        return None
    first = _first_after_loads(state, arm, attempt)
    cold = [part for part in parts if part.at in first]
    rates = [one.tok_s for one in done]
    return Window(
        phase=kind,
        repetitions=len(done),
        tokens=sum(part.tokens for part in parts),
        passes=sum(part.passes for part in parts),
        seconds=math.fsum(part.seconds for part in parts),
        tok_s=math.fsum(rates) / len(rates) if rates else parts[-1].tok_s,
        read=_sum(part.read for part in parts),
        majflt=_sum(part.majflt for part in parts),
        swap_in=_sum(part.swap_in for part in parts),
        zswap_in=_sum(part.zswap_in for part in parts),
        cold_read=sum(part.read or 0.0 for part in cold if part.majflt is not None and part.majflt <= COLD_FAULTS),
        cpu=_sum(part.cpu for part in parts),
        cpu_seconds=math.fsum(part.cpu_seconds for part in parts if part.cpu is not None),
        under_way=len(parts) > len(done),
    )


def bounds(state: State, arm: Arm, attempt: Attempt, kind: str) -> Bounds | None:
    """What the attempt's windows of one kind are held against, None before the file's header is known."""
    if arm.file is None:
        return None
    shape, settings, loaded = arm.file.shape, state.settings, attempt.loaded
    ceiling, why = roofline.best_ceiling(attempt)
    active = roofline.batch_bytes(shape)
    if kind == "decode":
        active = roofline.active_bytes(shape, settings.depths[0], arm.plan.kv or settings.kv)
    return Bounds(
        active=active,
        resident=roofline.resident_bytes(shape),
        threads=(loaded.threads if loaded else 0) or settings.threads,
        offloaded=loaded.gpu_layers if loaded else None,
        cache=state.host.cache if state.host and roofline.cached(state, attempt, shape) else None,
        ceiling=ceiling,
        why=why,
    )


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """One repetition, or what is known of the one under way."""

    at: float
    tokens: int
    passes: int
    seconds: float
    tok_s: float | None
    read: float | None
    majflt: float | None
    swap_in: float | None
    zswap_in: float | None
    cpu: float | None
    cpu_seconds: float


def _passes(unit: Unit, settings: Settings) -> int:
    """How often a whole unit reads the weights. The sequences of a perplexity group share their batches."""
    if unit.kind == "decode":
        return unit.tokens
    tokens = unit.count * settings.context if unit.kind == "perplexity" else unit.tokens
    return -(-tokens // max(1, settings.ubatch))


def _done(one: Repetition, settings: Settings) -> _Part:
    counted = one.counters
    return _Part(
        at=one.at,
        tokens=one.tokens,
        passes=_passes(one.unit, settings),
        seconds=one.ns / 1e9,
        tok_s=one.tok_s,
        read=counted.read,
        majflt=counted.majflt,
        swap_in=counted.swap_in,
        zswap_in=counted.zswap_in,
        cpu=None if counted.cpu_ns is None else counted.cpu_ns / 1e9,
        cpu_seconds=one.ns / 1e9,
    )


def _partial(state: State, running: Running) -> _Part:
    """The unit under way, from its first sample to the last one.

    Passes are never counted too few: tokens may be held back for TOLD seconds, and of a prompt nothing is told
    before its end, so that its bytes are held against all of its passes.
    """
    begun = running.first_t if running.first_t is not None else running.at
    sampled = max(0.0, (state.readings_t or begun) - begun)
    if running.unit.kind == "decode":
        held_back = int(TOLD * running.tokens * 1e9 / running.ns) if running.ns else 0
        passes = running.tokens - running.first_tokens + held_back
    else:
        passes = max(0, _passes(running.unit, state.settings) - 1)

    def since(name: str) -> float | None:
        if name not in running.first or name not in state.readings:
            return None
        change = state.readings[name] - running.first[name]
        return change if change >= 0 else None

    return _Part(
        at=running.at,
        tokens=running.tokens,
        passes=passes,
        seconds=running.ns / 1e9,
        tok_s=running.tokens * 1e9 / running.ns if running.ns else None,
        read=since("engine.read"),
        majflt=since("engine.majflt"),
        swap_in=since("swap.in"),
        zswap_in=since("zswap.in"),
        cpu=since("engine.cpu"),
        cpu_seconds=sampled,
    )


def _first_after_loads(state: State, arm: Arm, attempt: Attempt) -> set[float]:
    """When the first unit after each load of the attempt began."""
    begun = [one.at for one in attempt.prompt + attempt.decode]
    if state.running and state.running.unit.arm == arm.id and state.running.unit.attempt == attempt.number:
        begun.append(state.running.at)
    loads = [s.start for s in state.spans if (s.arm, s.phase, s.attempt) == (arm.id, "load", attempt.number)]
    after = ([at for at in begun if at >= load] for load in loads or [0.0])
    return {min(each) for each in after if each}


def _sum(values: Iterable[float | None]) -> float | None:
    """Sum of what is known: an unknown part can only hide bytes, never add them. None where nothing is known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None
