"""What the kernel counted while an engine was timed: the lab's own witness, apart from quanttui's readings.

Readings are taken ten times a second by a thread and summed up afterwards over the timed stretches that the session's
log names. What a host does not count is left out, never 0.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from quanttui.probes import contents, process, swap
from quanttui.probes.cpu import core_seconds

from .cgroups import Group

PERIOD = 0.1

Readings = Mapping[str, float]
"""busy, steal, ours, hogs: core-seconds. file, anonymous: bytes fetched again for the cgroup. swap.in: bytes swapped in
by anybody. These are cumulative. swap.used, usage: bytes now."""

Span = tuple[float, float]
"""A stretch of time: begin and end, seconds of the monotonic clock."""


@dataclass(frozen=True)
class Taken:
    """Readings at one moment of the monotonic clock, seconds."""

    at: float
    readings: Readings


class Watch:
    """Takes readings from entering to leaving.

    Args:
        clock: the monotonic clock.
        group: the cgroup that quanttui runs in, None where there is none.
        pids: quanttui and its engine.
        hogs: core-seconds that the neighbours used so far.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        group: Group | None,
        pids: Callable[[], Iterable[int]],
        hogs: Callable[[], float],
    ) -> None:
        self.taken: list[Taken] = []
        self._clock, self._group, self._pids, self._hogs = clock, group, pids, hogs
        self._ticks, self._page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        self._ours, self._known = 0.0, dict[int, float]()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(PERIOD):
            at = self._clock()
            self.taken.append(Taken(at, self._read()))

    def _read(self) -> dict[str, float]:
        found: dict[str, float] = {"ours": self._cpu_of_ours(), "hogs": self._hogs()}
        for name, value in core_seconds(contents(Path("/proc/stat")), self._ticks).items():
            found[name.removeprefix("cpu.")] = value
        found |= swap.traffic(contents(Path("/proc/vmstat")), self._page)
        found |= swap.space(contents(Path("/proc/meminfo")))
        if self._group is not None:
            found["usage"] = self._group.usage()
            for name, count in zip(("file", "anonymous"), self._group.refaulted(), strict=True):
                if count is not None:
                    found[name] = count
        return found

    def _cpu_of_ours(self) -> float:
        """Core-seconds of our processes so far; those that have ended keep what they were last seen with."""
        for pid in self._pids():
            used = process.spent(contents(Path(f"/proc/{pid}/stat")), self._ticks).get("engine.cpu")
            if used is not None:
                self._ours += max(0.0, used - self._known.get(pid, 0.0))
                self._known[pid] = used
        return self._ours


def grown(taken: Sequence[Taken], name: str, spans: Iterable[Span]) -> float | None:
    """By how much a cumulative reading grew within the spans, straight lines between readings; None where no reading
    has it, or where the readings do not reach over a span."""
    known = [(one.at, one.readings[name]) for one in taken if name in one.readings]
    total = 0.0
    for begin, end in spans:
        if len(known) < 2 or begin < known[0][0] or end > known[-1][0]:
            return None
        total += _at(known, end) - _at(known, begin)
    return total


def within(taken: Sequence[Taken], name: str, spans: Iterable[Span]) -> list[float]:
    """The values of a reading that were taken within the spans."""
    spans = list(spans)
    return [
        one.readings[name]
        for one in taken
        if name in one.readings and any(begin <= one.at <= end for begin, end in spans)
    ]


def _at(known: Sequence[tuple[float, float]], moment: float) -> float:
    """The value at a moment that lies between the first and the last reading."""
    place = bisect_left(known, (moment,))
    if place < len(known) and known[place][0] == moment:
        return known[place][1]
    (before, low), (after, high) = known[place - 1], known[place]
    return low + (high - low) * (moment - before) / (after - before)


@dataclass(frozen=True)
class Facts:
    """What was so while decoding was timed, by the kernel's counts. None where it is not told.

    `file`, `anonymous`, `swapped`: shares of the active bytes, per token: fetched again from files, from swap, and
    swapped in by anybody; `peak`: the largest share of files in one repetition. `hogs`, `others`: cores that the
    neighbours and everybody else used. `steal`: cores that the hypervisor took. `swap_used`: bytes, at the least.
    `of_clean`: the speed as a share of the one of the clean run right before.
    """

    seconds: float
    tokens: int
    file: float | None = None
    peak: float | None = None
    anonymous: float | None = None
    swapped: float | None = None
    hogs: float | None = None
    others: float | None = None
    steal: float | None = None
    swap_used: float | None = None
    of_clean: float | None = None


def facts(taken: Sequence[Taken], spans: Sequence[Span], tokens: int, active: float) -> Facts:
    """The facts of timed repetitions in which so many tokens of `active` bytes were decoded, as many in each."""
    seconds = sum(end - begin for begin, end in spans)
    if seconds <= 0 or not tokens:
        return Facts(seconds, tokens)

    def share(name: str) -> float | None:
        bytes_ = grown(taken, name, spans)
        return None if bytes_ is None else bytes_ / (active * tokens)

    def cores(name: str) -> float | None:
        used = grown(taken, name, spans)
        return None if used is None else used / seconds

    each = [grown(taken, "file", [span]) for span in spans]
    most = max((bytes_ for bytes_ in each if bytes_ is not None), default=None)
    busy, ours, hogs = cores("busy"), cores("ours"), cores("hogs")
    known = busy is not None and ours is not None and hogs is not None
    return Facts(
        seconds=seconds,
        tokens=tokens,
        file=share("file"),
        peak=None if most is None else most * len(spans) / (active * tokens),
        anonymous=share("anonymous"),
        swapped=share("swap.in"),
        hogs=hogs,
        others=max(0.0, busy - ours - hogs) if known else None,  # type: ignore[operator]
        steal=cores("steal"),
        swap_used=min(within(taken, "swap.used", spans), default=None),
    )
