"""Windows, by its performance counters (PDH), its process list and its graphics kernel, through ctypes. Owns their
structures, which are those of 64-bit Windows.

`\\Memory\\Pages Input/sec` is not read: it counts page-ins of files and of the pagefile together, and everybody's, so
it would be taken for swapping. A process's own hard faults are counted by the kernel's process list alone; how many
bytes they fetched is told by nobody. Every value comes out of a pure function over the bytes that Windows filled.
"""

from __future__ import annotations

import ctypes
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from quanttui.probes import Absent, Probe, nvidia
from quanttui.probes.counters import Rising
from quanttui.probes.process import EngineElsewhere
from quanttui.probes.swap import SwapElsewhere

Values = dict[str, float]

POLL_S = 1.0
"""Seconds between two looks: each of these calls walks lists of all processes or all drivers."""

COUNTERS = {
    "shared_used": r"\GPU Adapter Memory(*)\Shared Usage",
    "mem_used": r"\GPU Adapter Memory(*)\Dedicated Usage",
}
"""Readings of an adapter, and their counters' English names. Windows 10 1709 has them, and later ones."""

PDH_MORE_DATA = 0x800007D2
PDH_FMT_LARGE = 0x400
PDH_FMT_NOSCALE = 0x1000
VALID = (0, 1)
"""PDH_CSTATUS_VALID_DATA, PDH_CSTATUS_NEW_DATA."""

REASONS = {
    0x800007D5: "Windows has no data for them",
    0xC0000BB8: "this Windows has no counters of graphics memory: they came with Windows 10 1709",
    0xC0000BB9: "this Windows has no counters of graphics memory: they came with Windows 10 1709",
    0xC0000BDB: "they may not be read: add your user to the group Performance Monitor Users",
}
"""Of PDH's statuses those that a user can do something about (pdhmsg.h)."""

SYSTEM_PROCESS_INFORMATION = 5
LENGTH_MISMATCH = 0xC0000004
ADAPTER_ADDRESS = 6
MOST_BYTES = 64 << 20

U32, U64, I64, Handle = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64, ctypes.c_void_p


class CounterItem(ctypes.Structure):
    """PDH_FMT_COUNTERVALUE_ITEM_W of pdh.h with PDH_FMT_LARGE: 24 bytes. The name lies further on in its buffer."""

    _fields_ = [("name", U64), ("status", U32), ("value", I64)]


class ProcessItem(ctypes.Structure):
    """SYSTEM_PROCESS_INFORMATION of ntexapi.h up to its threads: 256 bytes."""

    _fields_ = [
        ("next_entry", U32),
        ("threads", U32),
        ("working_set_private", I64),
        ("hard_faults", U32),
        ("threads_high", U32),
        ("cycles", U64),
        ("created", I64),
        ("user", I64),
        ("kernel", I64),
        ("image_length", ctypes.c_uint16),
        ("image_most", ctypes.c_uint16),
        ("image", U64),
        ("priority", ctypes.c_int32),
        ("pid", U64),
        ("parent", U64),
        ("handles", U32),
        ("session", U32),
        ("key", U64),
        ("peak_virtual", U64),
        ("virtual", U64),
        ("faults", U32),
        ("peak_working_set", U64),
        ("working_set", U64),
        ("quotas", U64 * 4),
        ("pagefile", U64),
        ("peak_pagefile", U64),
        ("private", U64),
        ("transfers", I64 * 6),
    ]


class OpenAdapter(ctypes.Structure):
    """D3DKMT_OPENADAPTERFROMLUID of d3dkmthk.h: 12 bytes."""

    _fields_ = [("low", U32), ("high", ctypes.c_int32), ("adapter", U32)]


class QueryAdapter(ctypes.Structure):
    """D3DKMT_QUERYADAPTERINFO of d3dkmthk.h: 24 bytes."""

    _fields_ = [("adapter", U32), ("type", U32), ("data", Handle), ("size", U32)]


class AdapterAddress(ctypes.Structure):
    """D3DKMT_ADAPTERADDRESS of d3dkmthk.h: 12 bytes, where on the PCI bus an adapter is."""

    _fields_ = [("bus", U32), ("device", U32), ("function", U32)]


class Luid(NamedTuple):
    """A graphics adapter's number until the next boot."""

    high: int
    low: int


def instances(filled: bytes, items: int, base: int) -> dict[str, int]:
    """Values by the names of their instances, of a buffer of CounterItem that lay at the address `base`.

    An item without a valid value, or whose name lies outside of the buffer, is left out.
    """
    found: dict[str, int] = {}
    size = ctypes.sizeof(CounterItem)
    for place in range(0, min(items, len(filled) // size) * size, size):
        item = CounterItem.from_buffer_copy(filled, place)
        name = _wide(filled, item.name - base)
        if name and item.status in VALID and item.value >= 0:
            found[name] = item.value
    return found


def _wide(filled: bytes, offset: int) -> str:
    """The UTF-16 text from an offset on to its null character, "" where there is none."""
    if not 0 <= offset < len(filled):
        return ""
    for end in range(offset, len(filled) - 1, 2):
        if filled[end : end + 2] == b"\0\0":
            return filled[offset:end].decode("utf-16-le", "replace")
    return ""


def luid(instance: str) -> Luid | None:
    """The adapter that an instance `luid_0x00000000_0x0000D3C1_phys_0` is of."""
    found = re.match(r"luid_0x([0-9A-Fa-f]{1,8})_0x([0-9A-Fa-f]{1,8})_", instance)
    return Luid(int(found[1], 16), int(found[2], 16)) if found else None


def numbered(buses: Mapping[Luid, int | None], places: Mapping[int, int]) -> dict[Luid, int]:
    """The GPU number of adapters. NVML's devices have its indices, found by their PCI bus (`places`: index by bus).

    Where it has none, the adapters are numbered in the order of their buses. Where it has some, others stay out: the
    processor's own graphics always share memory, which would look like a spill of the card beside it. An adapter
    without a bus is drawn by software.
    """
    real = {adapter: bus for adapter, bus in buses.items() if bus is not None}
    if places:
        return {adapter: places[bus] for adapter, bus in real.items() if bus in places}
    return {adapter: place for place, adapter in enumerate(sorted(real, key=lambda adapter: (real[adapter], adapter)))}


def usage(values: Mapping[str, Mapping[str, int]], numbers: Mapping[Luid, int], own: bool) -> Values:
    """gpuN.shared_used in bytes, and gpuN.mem_used where NVML does not tell it (`own`), added over an adapter's
    instances. `values` are those of COUNTERS by instance."""
    found: Values = {}
    for name in ("shared_used", "mem_used") if own else ("shared_used",):
        for instance, value in values.get(name, {}).items():
            adapter = luid(instance)
            if adapter is not None and adapter in numbers:
                key = f"gpu{numbers[adapter]}.{name}"
                found[key] = found.get(key, 0) + value
    return found


def processes(filled: bytes) -> Iterator[ProcessItem]:
    """The processes of a list that the kernel filled, as far as it makes sense."""
    place = 0
    while place + ctypes.sizeof(ProcessItem) <= len(filled):
        item = ProcessItem.from_buffer_copy(filled, place)
        yield item
        if item.next_entry < ctypes.sizeof(ProcessItem):
            return
        place += item.next_entry


def hard_faults(filled: bytes, pid: int) -> int | None:
    """How often a process waited for a page from a disk since it began; None where it is not in the list."""
    return next((int(item.hard_faults) for item in processes(filled) if item.pid == pid), None)


class Query:
    """An open query of performance counters, by their English names whatever Windows speaks.

    Raises:
        Absent: PDH or one of the counters is not there, or may not be read.
    """

    def __init__(self, counters: Mapping[str, str]) -> None:
        self._pdh = _library("pdh")
        self._query, self._counters = Handle(), dict[str, ctypes.c_void_p]()
        none = ctypes.c_size_t(0)
        self._call("PdhOpenQueryW", None, none, ctypes.byref(self._query))
        try:
            for name, path in counters.items():
                counter = self._counters[name] = Handle()
                self._call("PdhAddEnglishCounterW", self._query, ctypes.c_wchar_p(path), none, ctypes.byref(counter))
        except Absent:
            self.close()
            raise

    def read(self) -> dict[str, dict[str, int]]:
        """The values now, by counter and instance."""
        self._call("PdhCollectQueryData", self._query)
        return {name: self._array(counter) for name, counter in self._counters.items()}

    def _array(self, counter: ctypes.c_void_p) -> dict[str, int]:
        size, items = U32(0), U32(0)
        asked = (counter, U32(PDH_FMT_LARGE | PDH_FMT_NOSCALE), ctypes.byref(size), ctypes.byref(items))
        self._call("PdhGetFormattedCounterArrayW", *asked, None, fine=(0, PDH_MORE_DATA))
        if not 0 < size.value <= MOST_BYTES:
            return {}
        filled = ctypes.create_string_buffer(size.value)
        self._call("PdhGetFormattedCounterArrayW", *asked, filled)
        return instances(filled.raw, items.value, ctypes.addressof(filled))

    def _call(self, name: str, *arguments: object, fine: tuple[int, ...] = (0,)) -> None:
        function = getattr(self._pdh, name)
        function.restype = U32
        status: int = function(*arguments)
        if status not in fine:
            raise Absent(f"performance counters: {REASONS.get(status, f'{name} answers {status:#010x}')}")

    def close(self) -> None:
        """Let go of the query."""
        if self._query:
            self._call("PdhCloseQuery", self._query, fine=(0, 0xC0000BBC))
            self._query = Handle()


class Kernel:
    """Calls of ntdll and gdi32, each of which gives what Windows filled.

    Raises:
        Absent: this is no Windows.
    """

    def __init__(self) -> None:
        self._nt, self._gdi = _library("ntdll"), _library("gdi32")
        self._room = 1 << 20

    def query(self, counters: Mapping[str, str]) -> Query:
        """Performance counters, opened."""
        return Query(counters)

    def process_list(self) -> bytes:
        """SYSTEM_PROCESS_INFORMATION of all processes; nothing where Windows does not give it."""
        self._nt.NtQuerySystemInformation.restype = U32
        while self._room <= MOST_BYTES:
            filled, needed = ctypes.create_string_buffer(self._room), U32(0)
            asked = (SYSTEM_PROCESS_INFORMATION, filled, U32(self._room), ctypes.byref(needed))
            status: int = self._nt.NtQuerySystemInformation(*asked)
            if status != LENGTH_MISMATCH:
                return b"" if status else filled.raw[: needed.value]
            self._room = 2 * max(self._room, needed.value)
        return b""

    def bus(self, adapter: Luid) -> int | None:
        """The PCI bus of a graphics adapter; None of one that is drawn by software."""
        opened = OpenAdapter(low=adapter.low, high=ctypes.c_int32(adapter.high).value)
        if self._gdi.D3DKMTOpenAdapterFromLuid(ctypes.byref(opened)):
            return None
        address = AdapterAddress()
        size = ctypes.sizeof(address)
        asked = QueryAdapter(opened.adapter, ADAPTER_ADDRESS, ctypes.addressof(address), size)
        failed: int = self._gdi.D3DKMTQueryAdapterInfo(ctypes.byref(asked))
        self._gdi.D3DKMTCloseAdapter(ctypes.byref(U32(opened.adapter)))
        return None if failed or address.bus == 0xFFFFFFFF else int(address.bus)


def _library(name: str) -> ctypes.CDLL:
    """A system library. On 64-bit Windows there is one calling convention, so CDLL serves."""
    try:
        return ctypes.CDLL(f"{name}.dll")
    except OSError as error:
        raise Absent(f"Windows's {name}.dll cannot be loaded: {error}") from None


class Adapters(Probe):
    """gpuN.shared_used: the machine's memory that an adapter uses as its own; gpuN.mem_used where NVML has no device.

    Looks once in POLL_S; what it found is told until it looks again.
    """

    name = "adapters"

    def __init__(
        self,
        places: Mapping[int, int] | None = None,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places, self._kernel, self._clock = places, kernel, clock
        self._query: Query | None = None
        self._numbers: dict[Luid, int] = {}
        self._last: Values = {}
        self._looked = -math.inf

    def open(self) -> str:
        self.close()
        kernel = self._kernel = self._kernel or Kernel()
        self._places = nvidia.places() if self._places is None else self._places
        self._query = kernel.query(COUNTERS)
        names = {name for values in self._query.read().values() for name in values}
        adapters = {adapter for adapter in map(luid, names) if adapter is not None}
        self._numbers = numbered({adapter: kernel.bus(adapter) for adapter in adapters}, self._places)
        if not self._numbers:
            raise Absent("no graphics adapter on a PCI bus has counters of its memory")
        gpus = ", ".join(f"gpu{number}" for number in sorted(self._numbers.values()))
        return f"shared memory of {gpus}, looked up once a second"

    def read(self) -> dict[str, float]:
        now = self._clock()
        if self._query is not None and now - self._looked >= POLL_S:
            self._last, self._looked = usage(self._query.read(), self._numbers, own=not self._places), now
        return self._last

    def close(self) -> None:
        query, self._query, self._last, self._looked = self._query, None, {}, -math.inf
        if query is not None:
            query.close()


class Engine(EngineElsewhere):
    """engine.rss and engine.cpu by psutil, and engine.majflt: the hard faults of the process that is watched.

    The faults are looked up once in POLL_S and told until they are again. engine.read stays away: what Windows counts
    as read are calls of ReadFile, page-ins left out.
    """

    def __init__(self, kernel: Kernel | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._kernel, self._clock = kernel, clock
        self.watch(None)

    def open(self) -> str:
        super().open()
        try:
            self._kernel = self._kernel or Kernel()
        except Absent as absent:
            return f"memory and core-seconds only ({absent})"
        return "memory, core-seconds and hard faults; bytes that were paged in are not told by Windows"

    def watch(self, pid: int | None) -> None:
        super().watch(pid)
        self._rising = Rising(("engine.majflt",))
        self._faults: Values = {}
        self._looked = -math.inf

    def read(self) -> dict[str, float]:
        found = super().read()
        if not found or self._kernel is None or self._pid is None:
            return found
        now = self._clock()
        if now - self._looked >= POLL_S:
            count = hard_faults(self._kernel.process_list(), self._pid)
            self._faults, self._looked = {} if count is None else {"engine.majflt": count}, now
        return {**found, **self._rising.kept(self._faults)}


class Swap(SwapElsewhere):
    """Space of the pagefile alone, with the reason."""

    def open(self) -> str:
        super().open()
        return "space only: Windows counts page-ins of files and of the pagefile together"


def probes(places: Mapping[int, int] | None = None, kernel: Kernel | None = None) -> list[Probe]:
    """What Windows tells beside memory, core-seconds and NVIDIA's driver; none of them opened."""
    return [Swap(), Engine(kernel), Adapters(places, kernel)]
