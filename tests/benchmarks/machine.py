"""Whether somebody else uses the machine, before a round and during it. Owns the waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from quanttui.probes import host

OTHERS = 0.1
"""Cores used by others, above which a round counts for nothing."""

PAUSE = 2.0
"""Seconds between looks at a busy machine."""

_IDLE = (3, 4)
"""Fields of /proc/stat's line that are no use of a core: idle, iowait. Guests' time is in user time already."""


class Machine:
    """Waits for a quiet machine, and tells afterwards whether it stayed one.

    Args:
        patience: seconds to wait at most, per round. After that the round begins all the same.
        say: told why it waits, and when it gives up.
        busy: what keeps the machine from being idle, "" if nothing does.
    """

    def __init__(self, patience: float, say: Callable[[str], None], busy: Callable[[], str] = host.idle) -> None:
        self.given_up = 0
        self._patience, self._say, self._busy = patience, say, busy
        self._before = (0.0, 0.0, 0.0)

    def wait(self) -> None:
        """Until the machine is quiet, or patience ends; then a round begins."""
        begun, told = time.monotonic(), ""
        while why := self._busy():
            if not told:
                told = why
                self._say(f"waiting for a quiet machine: {why}")
            if time.monotonic() - begun >= self._patience:
                self.given_up += 1
                self._say(f"no quiet machine within {self._patience:.0f} s ({why}): measuring all the same")
                break
            time.sleep(PAUSE)
        self._before = _times()

    def others(self) -> float:
        """Cores that others used since the round began, on average; 0 where the system does not tell."""
        elapsed, busy, own = (now - then for now, then in zip(_times(), self._before, strict=True))
        return max(0.0, (busy - own) / elapsed) if busy and elapsed > 0 else 0.0


def _times() -> tuple[float, float, float]:
    """Seconds: the clock, all cores in use since boot, and this process with its children that have ended."""
    mine = os.times()
    return time.monotonic(), _in_use(), mine.user + mine.system + mine.children_user + mine.children_system


def _in_use() -> float:
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0.0
    ticks = [int(field) for field in first.split()[1:9]]
    return (sum(ticks) - sum(ticks[at] for at in _IDLE)) / os.sysconf("SC_CLK_TCK")
