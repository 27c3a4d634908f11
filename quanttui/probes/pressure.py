"""Pressure stall information: how long tasks waited for memory, a disk, a core. Owns /proc/pressure.

The totals are read, not the averages: avg10 still shows a wait that ended ten seconds ago.
"""

from __future__ import annotations

import errno
from pathlib import Path

from quanttui.probes import ROOT, Absent, Kept, Probe, close_all, whole

LINES = {
    "memory": {"psi.memory.some": b"some ", "psi.memory.full": b"full "},
    "io": {"psi.io.some": b"some "},
    "cpu": {"psi.cpu.some": b"some "},
}


def total(text: bytes, kind: bytes) -> int | None:
    """Microseconds since boot on the line that begins with `kind`, b"some " or b"full "; None without one."""
    for line in text.splitlines():
        if line.startswith(kind):
            return whole(line.partition(b"total=")[2])
    return None


class Pressure(Probe):
    """psi.memory.some, psi.memory.full, psi.io.some, psi.cpu.some."""

    name = "pressure"

    def __init__(self, root: Path = ROOT) -> None:
        self._files = {source: Kept(root / "proc/pressure" / source) for source in LINES}

    def open(self) -> str:
        try:
            if self.read():
                return ""
        except FileNotFoundError:
            raise Absent(
                "the kernel gives no /proc/pressure: it needs Linux 4.20 built with CONFIG_PSI, outside of a sandbox"
            ) from None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise Absent("pressure is switched off: boot with psi=1 on the kernel's command line") from None
            raise Absent(f"/proc/pressure cannot be read: {error.strerror}") from None
        raise Absent("/proc/pressure holds no totals")

    def read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for source, file in self._files.items():
            text = file.read()
            for name, kind in LINES[source].items():
                value = total(text, kind)
                if value is not None:
                    found[name] = value
        return found

    def close(self) -> None:
        close_all(self._files.values())
