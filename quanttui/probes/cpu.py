"""Core-seconds of the whole machine: used by anybody, and taken by the hypervisor. Owns /proc/stat."""

from __future__ import annotations

import os
from pathlib import Path

from quanttui.probes import ROOT, Absent, Kept, Probe, whole

BUSY = (0, 1, 2, 5, 6)
"""user, nice, system, irq, softirq of /proc/stat's first line; guests' time is in user and nice already."""
STEAL = 7


def core_seconds(stat: bytes, ticks: int) -> dict[str, float]:
    """cpu.busy and cpu.steal since boot, at `ticks` a second; what a kernel does not count is left out."""
    words = stat.partition(b"\n")[0].split()
    if words[:1] != [b"cpu"]:
        return {}
    counts = [whole(word) for word in words[1:]]
    busy = [counts[place] if place < len(counts) else None for place in BUSY]
    found: dict[str, float] = {}
    known = [count for count in busy if count is not None]
    if len(known) == len(BUSY):
        found["cpu.busy"] = sum(known) / ticks
    steal = counts[STEAL] if len(counts) > STEAL else None
    if steal is not None:
        found["cpu.steal"] = steal / ticks
    return found


class Cpu(Probe):
    """cpu.busy, cpu.steal."""

    name = "cpu"

    def __init__(self, root: Path = ROOT, ticks: int | None = None) -> None:
        self._stat = Kept(root / "proc/stat")
        self._ticks = os.sysconf("SC_CLK_TCK") if ticks is None else ticks

    def open(self) -> str:
        try:
            found = self.read()
        except OSError as error:
            raise Absent(f"{self._stat.path} cannot be read: {error.strerror}") from None
        if not found:
            raise Absent(f"{self._stat.path} holds no core times: a sandbox's?")
        return ""

    def read(self) -> dict[str, float]:
        return core_seconds(self._stat.read(), self._ticks)

    def close(self) -> None:
        self._stat.close()


class CpuElsewhere(Probe):
    """cpu.busy by psutil where there is no /proc; nobody there tells what a hypervisor took."""

    name = "cpu"

    def open(self) -> str:
        self.read()
        return "busy only"

    def read(self) -> dict[str, float]:
        import psutil

        now = psutil.cpu_times()
        return {"cpu.busy": round(now.user + now.system + getattr(now, "nice", 0.0), 3)}
