"""Taint: the stretches of a phase in which something contaminated it, and the speed outside of them. Pure.

What is told here follows from the log alone, so it is the same whoever looks and when: a figure that was measured
across such a stretch stays marked for ever, also once the phase as a whole looks clean again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from quanttui.diagnosis import roofline, thresholds, windows
from quanttui.diagnosis.thresholds import Thresholds
from quanttui.diagnosis.windows import Bounds, Part
from quanttui.state import Arm, Attempt, State

SWAP, PAGE_IN, CPU = "swap-contaminated", "page-in-thrash", "cpu-contention"


class Interval(msgspec.Struct, frozen=True):
    """From `start` to `end` in session time the phase was contaminated: `code` is the verdict's, `worst` the largest
    share of the active bytes read again, or the smallest share of the CPU time."""

    code: str
    start: float
    end: float
    worst: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Clean(msgspec.Struct, frozen=True):
    """Decoding outside of all tainted stretches: tokens per second over `seconds`, out of `of` that were timed."""

    tok_s: float
    seconds: float
    of: float


class Found(msgspec.Struct, frozen=True):
    """The tainted stretches of one phase of an attempt, in order, and what is clean of it; `settled` seconds of it are
    clean at its end, and none before."""

    intervals: tuple[Interval, ...] = ()
    clean: Clean | None = None
    settled: float = 0.0


def of(state: State, arm: Arm, attempt: Attempt, kind: str, bounds: Bounds, limits: Thresholds) -> Found:
    """What was contaminated of a phase. Perplexity is none of it: its value is what it would be anyway."""
    if kind not in ("prompt", "decode") or bounds.active <= 0:
        return Found()
    parts, first = windows.parts(state, arm, attempt, kind)
    return found(parts, first, bounds, limits)


def at_depth(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int) -> bool:
    """Whether a repetition at one of the deeper depths was contaminated, by its own counters."""
    if arm.file is None:
        return False
    limits, shape = thresholds.of(state.settings), arm.file.shape
    active = roofline.batch_bytes(shape)
    if kind == "decode":
        active = roofline.active_bytes(shape, depth, arm.plan.kv or state.settings.kv)
    threads = (attempt.loaded.threads if attempt.loaded else 0) or state.settings.threads
    offloaded = attempt.loaded.gpu_layers if attempt.loaded else None
    bounds = Bounds(active=active, resident=roofline.resident_bytes(shape), threads=threads, offloaded=offloaded)
    parts = [windows.of_repetition(one, state.settings) for one in attempt.at_depth(kind, depth)]
    return active > 0 and bool(found(parts, set(), bounds, limits).intervals)


def found(parts: Sequence[Part], first: set[float], bounds: Bounds, limits: Thresholds) -> Found:
    """The same of parts in order; `first` are the units that came right after a load."""
    swap, file = _shares(parts, first, bounds)
    again = [
        *_held(SWAP, parts, swap, limits.contaminated, limits.edge),
        *_held(PAGE_IN, parts, file, limits.contaminated, limits.edge),
    ]
    starved = _starved(parts, bounds, limits) if bounds.offloaded == 0 and not again else []
    intervals = tuple(sorted([*again, *starved], key=lambda one: one.start))
    if not intervals:
        return Found()
    clean = [part for part in parts if not _touches(part, intervals)]
    seconds, tokens = math.fsum(one.seconds for one in clean), math.fsum(one.tokens for one in clean)
    whole = math.fsum(one.seconds for one in parts)
    end = max(one.end for one in intervals)
    settled = math.fsum(one.seconds for one in clean if one.start >= end)
    prefix = math.isclose(settled, seconds, rel_tol=1e-9) and bool(again)
    return Found(
        intervals,
        Clean(tokens / seconds, seconds, whole) if seconds > 0 and tokens > 0 else None,
        settled if prefix else 0.0,
    )


def _shares(parts: Sequence[Part], first: set[float], bounds: Bounds) -> tuple[list[float], list[float]]:
    """Of each part the bytes read again from swap and from the file, as shares of what its passes needed.

    Inside a unit that is under way the token that has begun counts whole, as the one-sided rule has it.
    """
    cold = {at for at in first if windows.is_cold(at, parts)}
    swap, file = [], []
    last = parts[-1].at if parts else None
    for part in parts:
        if not part.read and not part.zswap_in:
            swap.append(0.0)
            file.append(0.0)
            continue
        again = windows.reread(windows.joined("", [part], set()), bounds.resident)
        passes = part.passes + (1.0 if part.at == last and part.passes < 1 else 0.0)
        needed = bounds.active * passes
        swap.append((again.swap or 0.0) / needed if needed > 0 else 0.0)
        file.append((again.file or 0.0) / needed if needed > 0 and part.at not in cold else 0.0)
    return swap, file


def _held(code: str, parts: Sequence[Part], shares: list[float], enter: float, leave: float) -> list[Interval]:
    """Where the share reached `enter`, and on for as long as it stayed above `leave`."""
    intervals: list[Interval] = []
    begin: int | None = None
    for place, share in enumerate([*shares, 0.0]):
        if begin is None and place < len(parts) and share >= enter:
            begin = place
        elif begin is not None and share < leave:
            last = parts[place - 1]
            intervals.append(
                Interval(code, parts[begin].start, last.start + last.seconds, max(shares[begin:place]))
            )
            begin = None
    return intervals


def _starved(parts: Sequence[Part], bounds: Bounds, limits: Thresholds) -> list[Interval]:
    """Where the threads got too little CPU time, over stretches of at least the window's seconds.

    A stretch convicts below `cpu_share_now`, if other processes used a part of what it lacked; else its threads may
    have waited for storage that has not answered yet. It goes on for as long as the next ones stay below `cpu_share`.
    """
    shares = _rolling(parts, bounds.threads, limits.window)
    intervals: list[Interval] = []
    on = False
    begin, worst = 0, 1.0
    for place, (first, share) in enumerate(shares):
        short = share is not None and share < limits.cpu_share_now
        blamed = short and windows.is_blamed(parts[first : place + 1], bounds.threads, limits.blame)
        if share is not None and (blamed or (on and share < limits.cpu_share)):
            if not on:
                on, begin, worst = True, first, share
            worst = min(worst, share)
            last = parts[place]
        elif on:
            intervals.append(Interval(CPU, parts[begin].start, last.start + last.seconds, worst))
            on = False
    if on:
        intervals.append(Interval(CPU, parts[begin].start, last.start + last.seconds, worst))
    return intervals


def _rolling(parts: Sequence[Part], threads: int, seconds: float) -> list[tuple[int, float | None]]:
    """For each part the shortest stretch of at least `seconds` that ends with it: its first part, and the share of the
    CPU time that `threads` could have had; None where it is shorter, or not told."""
    found: list[tuple[int, float | None]] = []
    first, cpu, wall = 0, 0.0, 0.0
    for place, part in enumerate(parts):
        if part.cpu is None:
            found.append((place, None))
            first, cpu, wall = place + 1, 0.0, 0.0
            continue
        cpu, wall = cpu + part.cpu, wall + part.cpu_seconds
        while first < place and wall - parts[first].cpu_seconds >= seconds:
            cpu, wall = cpu - (parts[first].cpu or 0.0), wall - parts[first].cpu_seconds
            first += 1
        found.append((first, cpu / (threads * wall) if wall >= seconds and threads > 0 else None))
    return found


def _touches(part: Part, intervals: Sequence[Interval]) -> bool:
    return any(part.start < one.end - 1e-9 and part.start + part.seconds > one.start + 1e-9 for one in intervals)
