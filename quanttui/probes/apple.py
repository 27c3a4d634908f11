"""macOS, by its own calls: libproc, Mach, sysctl and IOKit through ctypes. Owns their structures, and what a chip's
memory is said to give.

psutil is not asked here: what it calls swapped in are page-ins of files. No call needs root. Every value comes out of
a pure function over the bytes that the system filled, so that recorded ones go the same way; a field that an older
system does not fill is left out.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
from collections.abc import Mapping
from typing import Any

from quanttui import format
from quanttui.probes import Absent, Probe
from quanttui.probes.counters import Rising

Values = dict[str, float]

SYSTEM = "/usr/lib/libSystem.B.dylib"
FRAMEWORK = "/System/Library/Frameworks/{0}.framework/{0}"
RUSAGE_INFO_V4 = 4
HOST_VM_INFO64 = 4
VM_INTS = 64
"""More than any version of vm_statistics64 has; the kernel says how many it filled."""
UTF8 = 0x08000100
BINARY_PLIST = 200
LEVELS = (1, 2, 4)
"""What kern.memorystatus_vm_pressure_level may be: normal, warning, critical."""

PARTS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "ane_mj", "dram_mj")
"""What zeus-apple-silicon counts in millijoules, of which none holds another. Its single cores and clusters are in
cpu_total_mj already."""

U32, U64 = ctypes.c_uint32, ctypes.c_uint64


class Rusage(ctypes.Structure):
    """struct rusage_info_v4 of sys/resource.h: 296 bytes. Times in Mach's ticks, sizes in bytes."""

    _fields_ = [
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", U64),
        ("ri_system_time", U64),
        ("ri_pkg_idle_wkups", U64),
        ("ri_interrupt_wkups", U64),
        ("ri_pageins", U64),
        ("ri_wired_size", U64),
        ("ri_resident_size", U64),
        ("ri_phys_footprint", U64),
        ("ri_proc_start_abstime", U64),
        ("ri_proc_exit_abstime", U64),
        ("ri_child_user_time", U64),
        ("ri_child_system_time", U64),
        ("ri_child_pkg_idle_wkups", U64),
        ("ri_child_interrupt_wkups", U64),
        ("ri_child_pageins", U64),
        ("ri_child_elapsed_abstime", U64),
        ("ri_diskio_bytesread", U64),
        ("ri_diskio_byteswritten", U64),
        ("ri_cpu_time_qos_default", U64),
        ("ri_cpu_time_qos_maintenance", U64),
        ("ri_cpu_time_qos_background", U64),
        ("ri_cpu_time_qos_utility", U64),
        ("ri_cpu_time_qos_legacy", U64),
        ("ri_cpu_time_qos_user_initiated", U64),
        ("ri_cpu_time_qos_user_interactive", U64),
        ("ri_billed_system_time", U64),
        ("ri_serviced_system_time", U64),
        ("ri_logical_writes", U64),
        ("ri_lifetime_max_phys_footprint", U64),
        ("ri_instructions", U64),
        ("ri_cycles", U64),
        ("ri_billed_energy", U64),
        ("ri_serviced_energy", U64),
        ("ri_interval_max_phys_footprint", U64),
        ("ri_runnable_time", U64),
    ]


class VmStatistics(ctypes.Structure):
    """struct vm_statistics64 of mach/vm_statistics.h, 152 bytes; later systems append to it. All are pages."""

    _fields_ = [
        ("free_count", U32),
        ("active_count", U32),
        ("inactive_count", U32),
        ("wire_count", U32),
        ("zero_fill_count", U64),
        ("reactivations", U64),
        ("pageins", U64),
        ("pageouts", U64),
        ("faults", U64),
        ("cow_faults", U64),
        ("lookups", U64),
        ("hits", U64),
        ("purges", U64),
        ("purgeable_count", U32),
        ("speculative_count", U32),
        ("decompressions", U64),
        ("compressions", U64),
        ("swapins", U64),
        ("swapouts", U64),
        ("compressor_page_count", U32),
        ("throttled_count", U32),
        ("external_page_count", U32),
        ("internal_page_count", U32),
        ("total_uncompressed_pages_in_compressor", U64),
    ]


class SwapUsage(ctypes.Structure):
    """struct xsw_usage of sys/sysctl.h, what vm.swapusage gives: 32 bytes."""

    _fields_ = [("total", U64), ("avail", U64), ("used", U64), ("pagesize", U32), ("encrypted", U32)]


class Timebase(ctypes.Structure):
    """struct mach_timebase_info: a tick lasts numer / denom nanoseconds."""

    _fields_ = [("numer", U32), ("denom", U32)]


def fields(kind: type[ctypes.Structure], filled: bytes) -> dict[str, int]:
    """The whole numbers of a structure, as far as its bytes were filled: a field that is cut off is left out."""
    found: dict[str, int] = {}
    for name, what in ((field[0], field[1]) for field in kind._fields_):
        place = getattr(kind, name)
        if what in (U32, U64) and place.offset + place.size <= len(filled):
            found[name] = int.from_bytes(filled[place.offset : place.offset + place.size], "little")
    return found


def spent(usage: Mapping[str, int], numer: int, denom: int) -> Values:
    """engine.* of fields of Rusage: its page-ins (of files), what it read from disks, core-seconds and memory.

    A tick of its times lasts `numer` / `denom` nanoseconds: 125/3 on Apple silicon.
    """
    names = {"ri_pageins": "engine.majflt", "ri_diskio_bytesread": "engine.read", "ri_resident_size": "engine.rss"}
    found: Values = {names[field]: value for field, value in usage.items() if field in names}
    user, system = usage.get("ri_user_time"), usage.get("ri_system_time")
    if user is not None and system is not None and denom:
        found["engine.cpu"] = round((user + system) * numer / denom / 1e9, 6)
    return found


def memory(pages: Mapping[str, int], page: int, total: int) -> Values:
    """mem.* in bytes, of fields of VmStatistics, the kernel's page size and the bytes of memory in all.

    Available is what Activity Monitor does not count as used: free pages (without the speculative ones, which hold
    files read ahead), pages of files that are not wired, and purgeable ones. Where a system does not count pages of
    files: free and inactive ones, as psutil has it.
    """
    found: Values = {"mem.total": total} if total else {}
    if "wire_count" in pages:
        found["mem.wired"] = pages["wire_count"] * page
    free, speculative = pages.get("free_count"), pages.get("speculative_count")
    files, purgeable = pages.get("external_page_count"), pages.get("purgeable_count", 0)
    available: int | None = None
    if free is not None and files is not None:
        available = max(0, free - (speculative or 0)) + files + purgeable
    elif free is not None and "inactive_count" in pages:
        available = free + pages["inactive_count"]
    if available is not None and total:
        found["mem.available"] = min(total, available * page)
        found["mem.used"] = total - found["mem.available"]
    return found


def traffic(pages: Mapping[str, int], page: int) -> Values:
    """Bytes swapped in and out, and taken back from the compressor, since boot and by anybody."""
    names = {"swap.in": "swapins", "swap.out": "swapouts", "zswap.in": "decompressions"}
    return {name: pages[field] * page for name, field in names.items() if field in pages}


def space(usage: bytes) -> Values:
    """swap.total and swap.used in bytes. The total grows as it is needed, and being used costs nothing."""
    found = fields(SwapUsage, usage)
    return {f"swap.{name}": found[name] for name in ("total", "used") if name in found}


def count(value: bytes) -> int | None:
    """A number that sysctl gave, of 4 or 8 bytes; None for anything else, and for negative ones."""
    found = int.from_bytes(value, "little", signed=True) if len(value) in (4, 8) else -1
    return found if found >= 0 else None


def accelerator(plist: bytes) -> Values:
    """util and mem_used of a GPU, of its PerformanceStatistics as a property list: by itself as IOKit gives it, or
    inside of the devices that `ioreg -r -c IOAccelerator -a` prints."""
    found = _plist(plist)
    devices = found if isinstance(found, list) else [{"PerformanceStatistics": found}]
    tables = [device.get("PerformanceStatistics") for device in devices if isinstance(device, dict)]
    table: dict[str, Any] = next((table for table in tables if isinstance(table, dict)), {})
    util = _within(table.get("Device Utilization %"), 100)
    used = _within(table.get("In use system memory"), math.inf)
    return {name: value for name, value in (("util", util), ("mem_used", used)) if value is not None}


def _within(value: object, most: float) -> float | None:
    """A number from 0 to `most`, None for anything else."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else -1
    return number if 0 <= number <= most else None


def _plist(text: bytes) -> object:
    import plistlib

    try:
        return plistlib.loads(text)
    except Exception:  # its readers raise whatever bad bytes make them stumble over
        return None


def joules(metrics: object) -> Values:
    """Joules since boot, by part of the chip, of an AppleEnergyMetrics; parts that it does not count are left out."""
    counts = {part: getattr(metrics, part, None) for part in PARTS}
    return {part: value / 1000 for part, value in counts.items() if isinstance(value, int) and value >= 0}


BANDWIDTH: dict[str, float | dict[int, float]] = {
    "M1": 68.25, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800,
    "M2": 100, "M2 Pro": 200, "M2 Max": 400, "M2 Ultra": 800,
    "M3": 100, "M3 Pro": 150, "M3 Max": {30: 300, 40: 400}, "M3 Ultra": 819,
    "M4": 120, "M4 Pro": 273, "M4 Max": {32: 410, 40: 546},
    "M5": 153, "M5 Pro": 307, "M5 Max": {32: 460, 40: 614},
}  # fmt: skip
"""GB/s (1e9 bytes per second) as Apple's technical specifications give them; by the GPU's cores where a chip is sold
with more than one width of bus."""


def looked_up(chip: str, gpu_cores: int | None = None) -> float | None:
    """What a chip's memory gives at most, in GB/s, by its name (`Apple M4 Max`): Apple's figure, nothing measured.

    None for a chip that is not in the table. One that is sold with two bandwidths is told apart by its GPU's cores;
    without them the lower is taken, as `ambiguous` says.
    """
    found = BANDWIDTH.get(_family(chip))
    if isinstance(found, dict):
        return found.get(gpu_cores or 0, min(found.values()))
    return found


def ambiguous(chip: str, gpu_cores: int | None = None) -> str:
    """Why `looked_up` may be too low for a chip, "" where it is not in doubt."""
    family = _family(chip)
    found = BANDWIDTH.get(family)
    if not isinstance(found, dict) or gpu_cores in found:
        return ""
    widths = " or ".join(f"{gb_s:g} with {cores} GPU cores" for cores, gb_s in found.items())
    return f"{family} has {widths}, and which it is was not told: the lower is taken"


def _family(chip: str) -> str:
    """`M4 Max` of `Apple M4 Max`, of `Apple M4 Max GPU` and of a virtual machine's `Apple M4 Max (Virtual)`."""
    name = chip.partition("(")[0].strip().removesuffix(" GPU")
    return name.removeprefix("Apple ") if name.startswith("Apple ") else ""


class Mac:
    """The calls, each of which gives bytes as the system filled them, or nothing.

    Raises:
        Absent: this is no macOS.
    """

    def __init__(self) -> None:
        try:
            self._system = ctypes.CDLL(SYSTEM, use_errno=True)
            self._kit, self._core = (ctypes.CDLL(FRAMEWORK.format(name)) for name in ("IOKit", "CoreFoundation"))
            self._declare()
            self._host: int = self._system.mach_host_self()
        except (OSError, AttributeError) as error:
            raise Absent(f"macOS's libraries cannot be called: {error}") from None

    def _declare(self) -> None:
        """Pointers are 64 bits, and ctypes takes an undeclared result for 32."""
        pointer, system, kit, core = ctypes.c_void_p, self._system, self._kit, self._core
        system.proc_pid_rusage.argtypes = (ctypes.c_int, ctypes.c_int, pointer)
        system.mach_host_self.restype = U32
        system.host_statistics64.argtypes = (U32, ctypes.c_int, pointer, pointer)
        system.mach_timebase_info.argtypes = (pointer,)
        system.sysctlbyname.argtypes = (ctypes.c_char_p, pointer, pointer, pointer, ctypes.c_size_t)
        kit.IOServiceMatching.argtypes, kit.IOServiceMatching.restype = (ctypes.c_char_p,), pointer
        kit.IOServiceGetMatchingService.argtypes = (U32, pointer)
        kit.IOServiceGetMatchingService.restype = U32
        kit.IORegistryEntryCreateCFProperty.argtypes = (U32, pointer, pointer, U32)
        kit.IORegistryEntryCreateCFProperty.restype = pointer
        kit.IOObjectRelease.argtypes = (U32,)
        core.CFStringCreateWithCString.argtypes = (pointer, ctypes.c_char_p, U32)
        core.CFStringCreateWithCString.restype = pointer
        core.CFPropertyListCreateData.argtypes = (pointer, pointer, ctypes.c_long, ctypes.c_ulong, pointer)
        core.CFPropertyListCreateData.restype = pointer
        core.CFDataGetLength.argtypes, core.CFDataGetLength.restype = (pointer,), ctypes.c_long
        core.CFDataGetBytePtr.argtypes, core.CFDataGetBytePtr.restype = (pointer,), pointer
        core.CFRelease.argtypes, core.CFRelease.restype = (pointer,), None

    def rusage(self, pid: int) -> bytes:
        """struct rusage_info_v4 of a process; nothing of one that has died or is another user's."""
        filled = Rusage()
        failed: int = self._system.proc_pid_rusage(pid, RUSAGE_INFO_V4, ctypes.byref(filled))
        return b"" if failed else bytes(filled)

    def timebase(self) -> tuple[int, int]:
        """How many nanoseconds a tick lasts, as a fraction."""
        found = Timebase()
        failed: int = self._system.mach_timebase_info(ctypes.byref(found))
        return (0, 0) if failed else (found.numer, found.denom)

    def vm(self) -> bytes:
        """struct vm_statistics64, as far as this kernel fills it."""
        filled, ints = (U32 * VM_INTS)(), U32(VM_INTS)
        failed: int = self._system.host_statistics64(self._host, HOST_VM_INFO64, filled, ctypes.byref(ints))
        return b"" if failed else bytes(filled)[: 4 * ints.value]

    def page(self) -> int:
        """The kernel's page size in bytes, which is not the process's own where that is translated from x86."""
        return int(ctypes.c_size_t.in_dll(self._system, "vm_kernel_page_size").value)

    def sysctl(self, name: str) -> bytes:
        """The value under a name; nothing where there is none."""
        value, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
        failed: int = self._system.sysctlbyname(name.encode(), value, ctypes.byref(size), None, 0)
        return b"" if failed else value.raw[: size.value]

    def accelerator(self, key: str) -> bytes:
        """A property of the first GPU in IOKit's registry, as a binary property list; nothing where it has none."""
        service: int = self._kit.IOServiceGetMatchingService(0, self._kit.IOServiceMatching(b"IOAccelerator"))
        if not service:
            return b""
        name = self._core.CFStringCreateWithCString(None, key.encode(), UTF8)
        found = self._kit.IORegistryEntryCreateCFProperty(service, name, None, 0)
        self._core.CFRelease(name)
        self._kit.IOObjectRelease(service)
        if not found:
            return b""
        listed = self._core.CFPropertyListCreateData(None, found, BINARY_PLIST, 0, None)
        self._core.CFRelease(found)
        if not listed:
            return b""
        text = ctypes.string_at(self._core.CFDataGetBytePtr(listed), self._core.CFDataGetLength(listed))
        self._core.CFRelease(listed)
        return text


def gpu_cores(mac: Mac | None = None) -> int | None:
    """How many cores the GPU has, for `looked_up`; None where the system does not say, and elsewhere."""
    try:
        found = _plist((mac or Mac()).accelerator("gpu-core-count"))
    except Absent:
        return None
    return found if type(found) is int and found > 0 else None


class Apple(Probe):
    """A probe that macOS itself answers: connects to it once."""

    def __init__(self, mac: Mac | None = None) -> None:
        self._connected = mac

    @property
    def _mac(self) -> Mac:
        if self._connected is None:
            self._connected = Mac()
        return self._connected


class Memory(Apple):
    """mem.total, used, available, wired, wired_limit, pressure."""

    name = "memory"

    def open(self) -> str:
        found = self.read()
        if "mem.available" not in found:
            raise Absent("host_statistics64 and hw.memsize say nothing of memory")
        own = "; how much of it a GPU may wire is left to macOS (iogpu.wired_limit_mb)"
        return "the machine's memory" + ("" if "mem.wired_limit" in found else own)

    def read(self) -> dict[str, float]:
        mac = self._mac
        found = memory(fields(VmStatistics, mac.vm()), mac.page(), count(mac.sysctl("hw.memsize")) or 0)
        limit = count(mac.sysctl("iogpu.wired_limit_mb"))
        level = count(mac.sysctl("kern.memorystatus_vm_pressure_level"))
        if limit:  # 0 is "as macOS thinks best", and it does not say what that is
            found["mem.wired_limit"] = limit << 20
        if level in LEVELS:
            found["mem.pressure"] = level
        return found


class Swap(Apple):
    """swap.total, used, in, out, and zswap.in: what macOS's compressor gave back."""

    name = "swap"

    def __init__(self, mac: Mac | None = None) -> None:
        super().__init__(mac)
        self._rising = Rising(())

    def open(self) -> str:
        self._rising = Rising(("swap.in", "swap.out", "zswap.in"))
        found = self.read()
        if not found:
            raise Absent("vm.swapusage and host_statistics64 say nothing of swap")
        missing = [name for name in ("swap.total", "swap.in", "swap.out", "zswap.in") if name not in found]
        return "without " + ", ".join(missing) if missing else "zswap.in is what the compressor gave back"

    def read(self) -> dict[str, float]:
        mac = self._mac
        pages = fields(VmStatistics, mac.vm())
        return self._rising.kept({**space(mac.sysctl("vm.swapusage")), **traffic(pages, mac.page())})


class Engine(Apple):
    """engine.rss, read, majflt, cpu of the process that is watched: its own counters, by proc_pid_rusage.

    engine.anonymous stays away: the footprint that macOS tells holds compressed pages as well.
    """

    name = "engine"

    def __init__(self, mac: Mac | None = None) -> None:
        super().__init__(mac)
        self._timebase = (0, 0)
        self.watch(None)

    def open(self) -> str:
        self._timebase = self._mac.timebase()
        if not spent(fields(Rusage, self._mac.rusage(os.getpid())), *self._timebase):
            raise Absent("proc_pid_rusage says nothing of a process of one's own")
        return "its own page-ins and disk reads, by proc_pid_rusage"

    def watch(self, pid: int | None) -> None:
        self._pid = pid
        self._started: int | None = None
        self._rising = Rising(("engine.majflt", "engine.read", "engine.cpu"))

    def read(self) -> dict[str, float]:
        if self._pid is None:
            return {}
        usage = fields(Rusage, self._mac.rusage(self._pid))
        started = usage.get("ri_proc_start_abstime")
        if self._started is None:
            self._started = started
        if started != self._started:  # it has died, and another process has its number
            return {}
        return self._rising.kept(spent(usage, *self._timebase))


class Accelerator(Apple):
    """gpu0.util and gpu0.mem_used of the chip's GPU, as IOKit's registry has them at each read: no subprocess.

    What it uses is memory of the machine, so it is no spill, and there is no total of its own.
    """

    name = "gpu0"

    def open(self) -> str:
        found = self.read()
        if not found:
            raise Absent("no IOAccelerator tells its PerformanceStatistics: no GPU, or a virtual machine")
        missing = [name for name in ("util", "mem_used") if f"{self.name}.{name}" not in found]
        chip = self._mac.sysctl("machdep.cpu.brand_string").rstrip(b"\0").decode("utf-8", "replace")
        return f"{format.clean(chip, 60) or 'Apple'} GPU" + (f" without {', '.join(missing)}" if missing else "")

    def read(self) -> dict[str, float]:
        found = accelerator(self._mac.accelerator("PerformanceStatistics"))
        return {f"{self.name}.{name}": value for name, value in found.items()}


class Energy(Probe):
    """package.energy: what the chip counts of its CPU, GPU, neural engine and memory, added, by zeus-apple-silicon.

    The parts that answered when it was opened are the parts that are added: a sum of fewer would run backwards.
    """

    name = "power"

    def __init__(self, package: Any = None) -> None:
        self._package = package
        self._monitor: Any = None
        self._parts: set[str] = set()
        self._rising = Rising(())

    def open(self) -> str:
        if self._package is None:
            try:
                self._package = importlib.import_module("zeus_apple_silicon")
            except ImportError as error:
                raise Absent(
                    f"no package for the chip's energy counters ({error}): pip install 'quanttui[apple]', no root"
                ) from None
        try:
            self._monitor = self._package.AppleEnergyMonitor()
            found = joules(self._monitor.get_cumulative_energy())
        except (AttributeError, RuntimeError) as error:
            raise Absent(f"the chip's energy counters do not answer: {error}") from None
        if not {"cpu_total_mj", "gpu_mj"} <= set(found):
            raise Absent("the chip's energy counters lack its CPU or its GPU")
        self._parts, self._rising = set(found), Rising(("package.energy",))
        names = [part.removesuffix("_mj").removesuffix("_total").replace("_", " ") for part in PARTS if part in found]
        return "energy of " + ", ".join(names) + ", by IOReport"

    def read(self) -> dict[str, float]:
        found = joules(self._monitor.get_cumulative_energy())
        if not self._parts <= set(found):
            return {}
        return self._rising.kept({"package.energy": round(sum(found[part] for part in self._parts), 3)})

    def close(self) -> None:
        self._monitor = None


def probes(mac: Mac | None = None, package: Any = None) -> list[Probe]:
    """What macOS tells beside core-seconds; none of them opened."""
    return [Memory(mac), Swap(mac), Engine(mac), Energy(package), Accelerator(mac)]
