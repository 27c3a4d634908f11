"""Energy of the CPU package by RAPL. Owns /sys/class/powercap, and that its counters wrap round."""

from __future__ import annotations

from pathlib import Path

from quanttui.probes import ROOT, Absent, Kept, Probe, close_all, contents, whole


def unwrapped(before: int, total: int, now: int, span: int | None) -> int:
    """The running total when a counter that was `before` is `now`: a smaller value means that it passed `span`.

    Without a known span what was counted round the wrap is unknown, so the total stands still once.
    """
    if now >= before:
        return total + now - before
    return total if span is None else total + span - before + now


class Domain:
    """One package: its counter of microjoules, carried over the wraps (minutes apart on a large machine)."""

    def __init__(self, directory: Path) -> None:
        self.file = Kept(directory / "energy_uj")
        self._span = whole(contents(directory / "max_energy_range_uj"))
        self._before: int | None = None
        self._total = 0

    def read(self) -> int | None:
        """Microjoules, from what the counter showed at first; None where it shows no number."""
        now = whole(self.file.read())
        if now is None:
            return None
        self._total = now if self._before is None else unwrapped(self._before, self._total, now, self._span)
        self._before = now
        return self._total


class Power(Probe):
    """package.energy: the sum over all packages. Names: AMD's counters appear under intel-rapl as well."""

    name = "power"

    def __init__(self, root: Path = ROOT) -> None:
        self._powercap = root / "sys/class/powercap"
        self._domains: list[Domain] = []

    def open(self) -> str:
        zones = sorted(self._powercap.glob("intel-rapl:*"))
        packages = [zone for zone in zones if contents(zone / "name").startswith(b"package")]
        if not packages:
            raise Absent(f"no RAPL package under {self._powercap}: a virtual machine, or a CPU or kernel without it")
        self._domains = [Domain(package) for package in packages]
        try:
            self.read()
        except PermissionError as error:
            raise Absent(
                f"{error.filename} is readable by root only (CVE-2020-8694): sudo chmod a+r {error.filename}"
            ) from None
        except OSError as error:
            raise Absent(f"{error.filename} cannot be read: {error.strerror}") from None
        return f"{len(packages)} package" + "s" * (len(packages) > 1)

    def read(self) -> dict[str, float]:
        joules = [domain.read() for domain in self._domains]
        known = [value for value in joules if value is not None]
        return {"package.energy": round(sum(known) / 1e6, 3)} if known and len(known) == len(joules) else {}

    def close(self) -> None:
        close_all(domain.file for domain in self._domains)
        self._domains = []
