"""How long this machine was suspended, told by two clocks of which one stops meanwhile. Knows no sweep.

    Linux      CLOCK_BOOTTIME goes on, CLOCK_MONOTONIC stops
    macOS      CLOCK_MONOTONIC_RAW (mach_continuous_time) goes on, CLOCK_UPTIME_RAW (mach_absolute_time) stops
    Windows    GetTickCount64 goes on, QueryUnbiasedInterruptTime stops
    elsewhere  the wall clock goes on, time.monotonic may stop: a wall clock that is set looks like a suspend there
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

LEAST = 0.5
"""Seconds by which the clocks part at least in a suspend: reading them one after the other never does that."""

APART = 0.05
"""Seconds between two readings of one clock within which the other one was read well."""

TRIES = 20

Clock = Callable[[], float]
"""Seconds from some moment on."""


def asleep() -> float:
    """Seconds for which the machine was suspended since some moment: only a difference of two means anything."""
    return parted(*_clocks())


def parted(goes_on: Clock, stops: Clock) -> float:
    """By how much one clock is ahead of another. They are read again where too much came between."""
    for _ in range(TRIES):
        before, other, after = stops(), goes_on(), stops()
        if after - before <= APART:
            break
    return other - (before + after) / 2


@lru_cache(maxsize=1)
def _clocks() -> tuple[Clock, Clock]:
    return clocks(time, getattr(ctypes, "windll", None))


def clocks(here: Any, windows: Any = None) -> tuple[Clock, Clock]:
    """The clock that goes on while the machine is suspended, and the one that stops.

    Args:
        here: the module time, or what stands for it.
        windows: ctypes.windll, where there is one.
    """
    for goes_on, stops in (("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"), ("CLOCK_MONOTONIC_RAW", "CLOCK_UPTIME_RAW")):
        if hasattr(here, goes_on) and hasattr(here, stops):
            first, second = (partial(here.clock_gettime, getattr(here, name)) for name in (goes_on, stops))
            return first, second
    if windows is not None:
        return partial(_ticks, windows.kernel32), partial(_unbiased, windows.kernel32)
    return here.time, here.monotonic


def _ticks(kernel32: Any) -> float:
    kernel32.GetTickCount64.restype = ctypes.c_ulonglong
    return float(kernel32.GetTickCount64()) / 1e3


def _unbiased(kernel32: Any) -> float:
    """In units of 100 ns, without what was slept."""
    count = ctypes.c_ulonglong()
    kernel32.QueryUnbiasedInterruptTime(ctypes.byref(count))
    return count.value / 1e7
