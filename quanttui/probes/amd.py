"""AMD cards through the Linux kernel's amdgpu driver. Owns its files in /sys/class/drm/cardN/device.

No library is needed, and no permission. There is energy only where the driver counts it (hwmon's energy1_input):
power is an average over about a second, so joules are never made of it, and of utilization even less.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from quanttui import format
from quanttui.probes import ROOT, Absent, Kept, Probe, close_all, contents, whole
from quanttui.probes.counters import Rising

VENDOR = b"0x1002"
HWMON = "hwmon/"
"""Stands for the card's own folder of sensors, hwmon/hwmonN."""


class Source(NamedTuple):
    """One reading: the files that may hold it, the better first, and what its whole number is multiplied with.

    A number above `most` is none: some firmware answers 65535 for what it does not know.
    """

    name: str
    files: tuple[str, ...]
    scale: float = 1
    most: float = float("inf")


SOURCES = (
    Source("util", ("gpu_busy_percent",), most=100),
    Source("mem_total", ("mem_info_vram_total",)),
    Source("mem_used", ("mem_info_vram_used",)),
    Source("shared_used", ("mem_info_gtt_used",)),
    Source("power", ("hwmon/power1_average", "hwmon/power1_input"), 1e-6),
    Source("energy", ("hwmon/energy1_input",), 1e-6),
    Source("temperature", ("hwmon/temp1_input",), 1e-3),
    Source("clock", ("hwmon/freq1_input",), 1e-6),
)
"""Units of the files: percent, bytes, microwatts, microjoules, thousandths of a degree Celsius, hertz (the kernel's
Documentation/gpu/amdgpu/thermal.rst and Documentation/hwmon/sysfs-interface.rst)."""


def value(text: bytes, source: Source) -> float | None:
    """The reading that a file's text holds; None where that is no whole number, or an impossible one."""
    count = whole(text)
    return None if count is None or count * source.scale > source.most else round(count * source.scale, 6)


def cards(root: Path = ROOT) -> list[Path]:
    """The device folders of AMD's cards, in the order in which the host lists them; outputs (card0-DP-1) are none."""
    found = sorted((root / "sys/class/drm").glob("card[0-9]*"))
    devices = [card / "device" for card in found if whole(card.name[4:].encode()) is not None]
    return [device for device in devices if contents(device / "vendor").strip() == VENDOR]


class Card(Probe):
    """One card: gpuN.util, mem_total, mem_used, shared_used, power, energy, temperature, clock, as far as it tells.

    A file that cannot be read for once (a card that sleeps) takes only its own reading away.
    """

    def __init__(self, index: int, device: Path) -> None:
        self.name = f"gpu{index}"
        self._device = device
        self._files: dict[Source, Kept] = {}
        self._rising = Rising(())

    def open(self) -> str:
        self.close()
        sensors = next(iter(sorted((self._device / "hwmon").glob("hwmon[0-9]*"))), self._device / "hwmon")
        for source in SOURCES:
            places = [self._place(file, sensors) for file in source.files]
            there = next((place for place in places if place.is_file()), None)
            if there is not None:
                self._files[source] = Kept(there)
        if not self._files:
            raise Absent(f"{self._device} tells nothing of the card: another driver than amdgpu, or a sandbox")
        self._rising = Rising([f"{self.name}.energy"])
        missing = [source.name for source in SOURCES if source not in self._files and source.name != "energy"]
        known = {source.name for source in self._files}
        words = [f"does not tell {', '.join(missing)}"] if missing else []
        words += [] if "energy" in known else ["has no energy counter, and joules are not made of watts"]
        return self._label() + (f", which {' and '.join(words)}" if words else "")

    def _place(self, file: str, sensors: Path) -> Path:
        return sensors / file.removeprefix(HWMON) if file.startswith(HWMON) else self._device / file

    def _label(self) -> str:
        product = contents(self._device / "product_name").decode("utf-8", "replace").strip()
        number = contents(self._device / "device").decode("utf-8", "replace").strip().removeprefix("0x")
        return format.clean(product if product.startswith("AMD") else f"AMD {product or 'GPU ' + number}", 80)

    def read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        failed = 0
        for source, file in self._files.items():
            try:
                reading = value(file.read(), source)
            except OSError:
                failed += 1
                continue
            if reading is not None:
                found[f"{self.name}.{source.name}"] = reading
        if self._files and failed == len(self._files):
            raise Absent(f"{self._device} has vanished: the card was taken out or its driver unloaded")
        return self._rising.kept(found)

    def close(self) -> None:
        close_all(self._files.values())
        self._files = {}


def probes(root: Path = ROOT, first: int = 0) -> list[Probe]:
    """One probe per card, numbered from `first` on: after the devices of NVIDIA's driver."""
    return [Card(first + place, device) for place, device in enumerate(cards(root))]
