"""What processes cost: the engine that is watched, and this one. Owns /proc/PID.

/proc/PID/smaps_rollup is not read: it costs milliseconds per mapped gigabyte. Context switches are not sampled: the
kernel tells them per thread, and the engine's threads are not all of the process; the engine counts its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from quanttui.probes import ROOT, Absent, Kept, Probe, close_all, number, whole

MAJFLT, UTIME, STIME = 9, 11, 12
"""Places in /proc/PID/stat after the command's closing bracket (fields 12, 14 and 15 of proc_pid_stat(5))."""


def spent(stat: bytes, ticks: int) -> dict[str, float]:
    """engine.majflt and engine.cpu from /proc/PID/stat; empty where it makes no sense.

    The command in it may hold blanks and brackets: what follows its last bracket is counted.
    """
    words = stat.rpartition(b")")[2].split()
    if len(words) <= STIME:
        return {}
    faults, user, system = (whole(words[place]) for place in (MAJFLT, UTIME, STIME))
    found: dict[str, float] = {}
    if faults is not None:
        found["engine.majflt"] = faults
    if user is not None and system is not None:
        found["engine.cpu"] = (user + system) / ticks
    return found


def resident(status: bytes) -> dict[str, float]:
    """engine.rss and engine.anonymous in bytes from /proc/PID/status; what it lacks is left out (a zombie has none)."""
    found = {"engine.rss": number(status, b"VmRSS:"), "engine.anonymous": number(status, b"RssAnon:")}
    return {name: value for name, value in found.items() if value is not None}


def fetched(io: bytes) -> dict[str, float]:
    """engine.read in bytes from /proc/PID/io: what storage really delivered, page-ins and swap-ins included."""
    value = number(io, b"read_bytes:")
    return {} if value is None else {"engine.read": value}


class Engine(Probe):
    """engine.rss, anonymous, read, majflt, cpu of the process that is watched; nothing while there is none."""

    name = "engine"

    def __init__(self, root: Path = ROOT, ticks: int | None = None) -> None:
        self._proc = root / "proc"
        self._ticks = os.sysconf("SC_CLK_TCK") if ticks is None else ticks
        self._files: dict[str, Kept] = {}

    def open(self) -> str:
        if not self._proc.is_dir():
            raise Absent(f"there is no {self._proc}")
        return ""

    def watch(self, pid: int | None) -> None:
        self.close()
        if pid is not None:
            self._files = {name: Kept(self._proc / str(pid) / name) for name in ("stat", "status", "io")}

    def read(self) -> dict[str, float]:
        stat, status, io = (self._one(name) for name in ("stat", "status", "io"))
        return {**spent(stat, self._ticks), **resident(status), **fetched(io)}

    def _one(self, name: str) -> bytes:
        """A file of the process; empty when it has died, or may not be read (another user's io)."""
        try:
            return self._files[name].read() if name in self._files else b""
        except OSError:
            return b""

    def close(self) -> None:
        close_all(self._files.values())
        self._files = {}


class EngineElsewhere(Probe):
    """engine.rss and engine.cpu by psutil where there is no /proc.

    The rest stays away: Windows' read_bytes are calls of ReadFile, not fetches from storage, and leave page-ins out.
    """

    name = "engine"

    def __init__(self) -> None:
        self._pid: int | None = None

    def open(self) -> str:
        import psutil

        psutil.Process()
        return "memory and core-seconds only"

    def watch(self, pid: int | None) -> None:
        self._pid = pid

    def read(self) -> dict[str, float]:
        import psutil

        if self._pid is None:
            return {}
        try:
            process = psutil.Process(self._pid)
            times, memory = process.cpu_times(), process.memory_info()
        except psutil.Error:
            return {}
        return {"engine.rss": memory.rss, "engine.cpu": round(times.user + times.system, 3)}


class Own(Probe):
    """self.cpu and self.rss of the process that samples, its screen included."""

    name = "self"

    def __init__(self, root: Path = ROOT) -> None:
        self._statm = Kept(root / "proc/self/statm")

    def open(self) -> str:
        return "" if "self.rss" in self.read() else "core-seconds only"

    def read(self) -> dict[str, float]:
        found = {"self.cpu": round(time.process_time(), 4)}
        try:
            words = self._statm.read().split()
        except OSError:
            return found | self._elsewhere()
        pages = whole(words[1]) if len(words) > 1 else None
        return found if pages is None else found | {"self.rss": pages * os.sysconf("SC_PAGE_SIZE")}

    @staticmethod
    def _elsewhere() -> dict[str, float]:
        import psutil

        return {"self.rss": psutil.Process().memory_info().rss}

    def close(self) -> None:
        self._statm.close()
