"""Swap space, and what went in and out of it since boot, by anybody. Owns /proc/vmstat's swap counters.

The engine's own swapping is not told by the kernel: diagnosis compares these with the engine's own reads, since a
neighbour's swapping moves them as well.
"""

from __future__ import annotations

import os
from pathlib import Path

from quanttui.probes import ROOT, Absent, Kept, Probe, close_all, number

PAGES = {"swap.in": b"pswpin ", "swap.out": b"pswpout ", "zswap.in": b"zswpin "}


def traffic(vmstat: bytes, page: int) -> dict[str, float]:
    """Bytes in and out since boot, from counters of pages of `page` bytes; those that a kernel lacks are left out."""
    counts = {name: number(vmstat, key) for name, key in PAGES.items()}
    return {name: count * page for name, count in counts.items() if count is not None}


def space(meminfo: bytes) -> dict[str, float]:
    """Bytes of swap space, and used; empty where /proc/meminfo does not say."""
    total, free = number(meminfo, b"SwapTotal:"), number(meminfo, b"SwapFree:")
    return {} if total is None or free is None else {"swap.total": total, "swap.used": max(0, total - free)}


class Swap(Probe):
    """swap.total, swap.used, swap.in, swap.out, zswap.in."""

    name = "swap"

    def __init__(self, root: Path = ROOT, page: int | None = None) -> None:
        self._files = self._meminfo, self._vmstat = Kept(root / "proc/meminfo"), Kept(root / "proc/vmstat")
        self._page = os.sysconf("SC_PAGE_SIZE") if page is None else page

    def open(self) -> str:
        try:
            found = self.read()
        except OSError as error:
            raise Absent(f"{error.filename} cannot be read: {error.strerror}") from None
        if not found:
            raise Absent("/proc/meminfo and /proc/vmstat say nothing of swap: a kernel without swap, or a sandbox")
        missing = [name for name in ("swap.total", *PAGES) if name not in found]
        return "without " + ", ".join(missing) if missing else ""

    def read(self) -> dict[str, float]:
        return {**space(self._meminfo.read()), **traffic(self._vmstat.read(), self._page)}

    def close(self) -> None:
        close_all(self._files)


class SwapElsewhere(Probe):
    """Swap space by psutil where there is no /proc. Its counters are left out on purpose: on macOS psutil's `sin` is
    page-ins of files, on Windows `sin` and `sout` are always 0."""

    name = "swap"

    def open(self) -> str:
        self.read()
        return "space only: what goes in and out is not told here"

    def read(self) -> dict[str, float]:
        import psutil

        now = psutil.swap_memory()
        return {"swap.total": now.total, "swap.used": now.used}
