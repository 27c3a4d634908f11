"""The measuring process's own counters. Owns where each is read and what a host cannot give; knows no measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO

import psutil

from quanttui.events import Counters

try:
    import resource
except ImportError:  # Windows has no getrusage
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Reading:
    """Cumulative counters at one moment; None where the host does not tell."""

    cpu_ns: int
    majflt: int | None
    minflt: int | None
    nvcsw: int | None
    nivcsw: int | None
    read: int | None
    swap_in: int | None
    zswap_in: int | None
    busy_ns: int | None


class Meter:
    """Reads the counters of the process it lives in, all threads together, through descriptors kept open.

    One reading takes some tens of microseconds, so that it may stand at both edges of a timed region.
    """

    def __init__(self) -> None:
        self._io = _open("/proc/self/io")
        self._status = _open("/proc/self/status")
        self._vmstat = _open("/proc/vmstat")
        self._stat = _open("/proc/stat")
        self._tick_ns = 10**9 // os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0
        self._page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

    def read(self) -> Reading:
        """All counters now."""
        usage = resource.getrusage(resource.RUSAGE_SELF) if resource else None
        vmstat = _text(self._vmstat)
        swapped, zswapped = _field(vmstat, b"pswpin "), _field(vmstat, b"zswpin ")
        return Reading(
            cpu_ns=time.process_time_ns(),
            majflt=usage.ru_majflt if usage else None,
            minflt=usage.ru_minflt if usage else None,
            nvcsw=usage.ru_nvcsw if usage else None,
            nivcsw=usage.ru_nivcsw if usage else None,
            read=_field(_text(self._io), b"read_bytes:"),
            swap_in=None if swapped is None else swapped * self._page,
            zswap_in=None if zswapped is None else zswapped * self._page,
            busy_ns=self._busy(),
        )

    def _busy(self) -> int | None:
        """Nanoseconds in which the machine's cores were used by anybody: user, nice, system, irq, softirq and steal."""
        words = _text(self._stat).partition(b"\n")[0].split()
        if len(words) < 9 or words[0] != b"cpu":
            return None
        return sum(int(words[place]) for place in (1, 2, 3, 6, 7, 8)) * self._tick_ns

    def since(self, before: Reading) -> Counters:
        """The differences from `before` to now, and the memory held now (bytes)."""
        now = self.read()
        rss, anonymous = self.memory()
        return Counters(
            cpu_ns=now.cpu_ns - before.cpu_ns,
            majflt=_difference(now.majflt, before.majflt),
            minflt=_difference(now.minflt, before.minflt),
            read=_difference(now.read, before.read),
            nvcsw=_difference(now.nvcsw, before.nvcsw),
            nivcsw=_difference(now.nivcsw, before.nivcsw),
            swap_in=_difference(now.swap_in, before.swap_in),
            zswap_in=_difference(now.zswap_in, before.zswap_in),
            busy_ns=_difference(now.busy_ns, before.busy_ns),
            rss=rss,
            anonymous=anonymous,
        )

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes in memory, and of them those that no file backs."""
        status = _text(self._status)
        rss, anonymous = _field(status, b"VmRSS:"), _field(status, b"RssAnon:")
        if rss is None:
            return psutil.Process().memory_info().rss, None
        return rss * 1024, None if anonymous is None else anonymous * 1024


def total(parts: Sequence[Counters]) -> Counters:
    """The counters of a region measured in parts: sums, None where a part does not tell; memory at the end."""
    last = parts[-1]
    return Counters(
        cpu_ns=_sum([part.cpu_ns for part in parts]),
        majflt=_sum([part.majflt for part in parts]),
        minflt=_sum([part.minflt for part in parts]),
        read=_sum([part.read for part in parts]),
        nvcsw=_sum([part.nvcsw for part in parts]),
        nivcsw=_sum([part.nivcsw for part in parts]),
        swap_in=_sum([part.swap_in for part in parts]),
        zswap_in=_sum([part.zswap_in for part in parts]),
        busy_ns=_sum([part.busy_ns for part in parts]),
        rss=last.rss,
        anonymous=last.anonymous,
    )


def _sum(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _open(path: str) -> FileIO | None:
    try:
        return FileIO(path)  # a file object: it closes with the meter that holds it
    except OSError:
        return None


def _text(file: FileIO | None) -> bytes:
    if file is None:
        return b""
    try:
        return os.pread(file.fileno(), 65536, 0)
    except OSError:
        return b""


def _field(text: bytes, name: bytes) -> int | None:
    """The integer that follows `name` at the beginning of a line."""
    at = 0 if text.startswith(name) else text.find(b"\n" + name) + 1
    if at == 0 and not text.startswith(name):
        return None
    return int(text[at + len(name) :].split(None, 1)[0])


def _difference(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before
