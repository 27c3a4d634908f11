"""Taint: the stretches of a phase in which something contaminated it, and the speed outside of them. Pure.

What is told here follows from the log alone, so it is the same whoever looks and when: a figure that was measured
across such a stretch stays marked for ever, also once the phase as a whole looks clean again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from quanttui.diagnosis import parts, windows
from quanttui.diagnosis.parts import Part
from quanttui.diagnosis.thresholds import Thresholds
from quanttui.diagnosis.windows import Bounds
from quanttui.state import Arm, Attempt, State

SWAP, PAGE_IN, CPU = "swap-contaminated", "page-in-thrash", "cpu-contention"


class Interval(msgspec.Struct, frozen=True):
    """From `start` to `end` in session time the phase was contaminated, `seconds` of which were timed: `code` is the
    verdict's, `worst` the largest share of the active bytes read again, or the smallest share of the CPU time."""

    code: str
    start: float
    end: float
    seconds: float
    worst: float


class Clean(msgspec.Struct, frozen=True):
    """Decoding outside of all stretches of re-reading and CPU contention: tokens per second over `seconds`, out of `of`
    that were timed."""

    tok_s: float
    seconds: float
    of: float


class Found(msgspec.Struct, frozen=True):
    """The tainted stretches of one phase of an attempt, in order, and what is clean of it; `settled` seconds of it are
    clean at its end, and none before."""

    intervals: tuple[Interval, ...] = ()
    clean: Clean | None = None
    settled: float = 0.0


def of(
    state: State, arm: Arm, attempt: Attempt, kind: str, bounds: Bounds, limits: Thresholds, depth: int | None = None
) -> Found:
    """What was contaminated of a phase. Perplexity is none of it: its value is what it would be anyway."""
    if kind not in ("prompt", "decode") or bounds.active <= 0:
        return Found()
    running = parts.under_way(state, arm, kind, depth) is attempt and state.running is not None
    return found(
        parts.fine(state, arm, attempt, kind, depth),
        parts.first_after_loads(state, arm, attempt),
        bounds,
        limits,
        state.running.at if running and state.running is not None else None,
    )


def is_under_the_same(one: Bounds, other: Bounds) -> bool:
    """Whether the same stretches are contaminated under both."""
    return all(getattr(one, name) == getattr(other, name) for name in _BY)


_BY = ("active", "resident", "threads", "host_threads", "offloaded")
"""What of the bounds decides about stretches."""


def found(
    each: Sequence[Part], first: set[float], bounds: Bounds, limits: Thresholds, now: float | None = None
) -> Found:
    """The same of parts in order; `first` are the units that came right after a load, `now` is the one under way."""
    swap, file = _shares(each, first, bounds, now)
    again = [
        *_held(SWAP, each, swap, limits.contaminated, limits.edge),
        *_held(PAGE_IN, each, file, limits.contaminated, limits.edge),
    ]
    # Threads that wait for what is read again lack CPU time through nobody.
    left = [part for part in each if not _touches(part, again)]
    starved = _starved(left, bounds, limits) if bounds.offloaded == 0 else []
    intervals = tuple(sorted([*again, *starved], key=lambda one: one.start))
    if not intervals:
        return Found()
    clean = [part for part in left if not _touches(part, starved)]
    seconds, tokens = math.fsum(one.seconds for one in clean), math.fsum(one.tokens for one in clean)
    timed = math.fsum(one.seconds for one in each)
    end = max(one.end for one in intervals)
    settled = math.fsum(one.seconds for one in clean if one.start >= end - 1e-9)
    is_prefix = math.isclose(settled, seconds, rel_tol=1e-9) and bool(again) and not starved
    return Found(
        intervals,
        Clean(tokens / seconds, seconds, timed) if seconds > 0 and tokens > 0 else None,
        settled if is_prefix else 0.0,
    )


def _shares(
    each: Sequence[Part], first: set[float], bounds: Bounds, now: float | None
) -> tuple[list[float], list[float]]:
    """Of each part the bytes read again from swap and from the file, as shares of what its passes needed.

    Inside a unit that is under way the token that has begun counts whole, as the one-sided rule has it.
    """
    cold = {at for at in first if parts.is_cold(at, each)}
    swap, file = [], []
    for part in each:
        if not part.read and not part.zswap_in:
            swap.append(0.0)
            file.append(0.0)
            continue
        again = windows.reread(windows.joined("", [part], set()), bounds.resident)
        needed = bounds.active * (part.passes + (1.0 if part.at == now and part.passes < 1 else 0.0))
        swap.append((again.swap or 0.0) / needed if needed > 0 else 0.0)
        file.append((again.file or 0.0) / needed if needed > 0 and part.at not in cold else 0.0)
    return swap, file


def _interval(code: str, each: Sequence[Part], worst: float) -> Interval:
    """From the first of these parts to the end of the last."""
    last = each[-1]
    return Interval(code, each[0].start, last.start + last.seconds, math.fsum(one.seconds for one in each), worst)


def _held(code: str, each: Sequence[Part], shares: list[float], enter: float, leave: float) -> list[Interval]:
    """Where the share reached `enter`, and on for as long as it stayed above `leave`."""
    intervals: list[Interval] = []
    begin: int | None = None
    for place, share in enumerate([*shares, 0.0]):
        if begin is None and place < len(each) and share >= enter:
            begin = place
        elif begin is not None and share < leave:
            intervals.append(_interval(code, each[begin:place], max(shares[begin:place])))
            begin = None
    return intervals


def _starved(each: Sequence[Part], bounds: Bounds, limits: Thresholds) -> list[Interval]:
    """Where the threads got too little CPU time, over stretches of at least the window's seconds.

    A stretch convicts below `cpu_share_now`, if other processes used a part of what it lacked; else its threads may
    have waited for storage that has not answered yet. It goes on for as long as the next ones stay below `cpu_share`.
    """
    intervals: list[Interval] = []
    begin, worst = -1, 1.0
    for place, (first, share) in enumerate(_rolling(each, bounds.threads, limits.window)):
        on = begin >= 0
        blamed = (
            share is not None
            and share < limits.cpu_share_now
            and _squeezed(each[first : place + 1]) < limits.contaminated * bounds.resident
            and parts.is_blamed(each[first : place + 1], bounds.threads, limits.blame, bounds.host_threads)
        )
        if share is not None and (blamed or (on and share < limits.cpu_share)):
            begin, worst = (begin, min(worst, share)) if on else (first, share)
        elif on:
            intervals.append(_interval(CPU, each[begin:place], worst))
            begin = -1
    if begin >= 0:
        intervals.append(_interval(CPU, each[begin:], worst))
    return intervals


def _squeezed(each: Sequence[Part]) -> float:
    """Bytes that the machine wrote to swap meanwhile: while memory is being taken away, threads wait for that, and what
    takes it uses CPU time."""
    return math.fsum(part.swap_out for part in each)


def _rolling(each: Sequence[Part], threads: int, seconds: float) -> list[tuple[int, float | None]]:
    """For each part the shortest stretch of at least `seconds` that ends with it: its first part, and the share of the
    CPU time that `threads` could have had; None where it is shorter, or not told."""
    found: list[tuple[int, float | None]] = []
    first, cpu, wall = 0, 0.0, 0.0
    for place, part in enumerate(each):
        if part.cpu is None:
            found.append((place, None))
            first, cpu, wall = place + 1, 0.0, 0.0
            continue
        cpu, wall = cpu + part.cpu, wall + part.cpu_seconds
        while first < place and wall - each[first].cpu_seconds >= seconds:
            cpu, wall = cpu - (each[first].cpu or 0.0), wall - each[first].cpu_seconds
            first += 1
        found.append((first, cpu / (threads * wall) if wall >= seconds and threads > 0 else None))
    return found


def _touches(part: Part, intervals: Sequence[Interval]) -> bool:
    return any(part.start < one.end - 1e-9 and part.start + part.seconds > one.start + 1e-9 for one in intervals)
