"""NVIDIA devices through NVML. Owns the driver library, loaded when it is first asked for.

NVML's utilization says that a kernel ran, or that memory was touched: never how much of a bandwidth was used. That
is told by GPM's counters alone, which Hopper has and what came after it. A value that a device does not support is
left out. GB10 and Jetson have no memory of their own, so the machine's is told for them; a MIG device has neither
utilization nor power of its own, so memory and processes are the MIG device's and the rest is the whole GPU's.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from quanttui import format
from quanttui.events import Gpu
from quanttui.probes import ROOT, Absent, Kept, Probe, number
from quanttui.probes.counters import Rising

Nvml = Any
"""The module pynvml, or one that answers as it does: it has no types."""

Values = dict[str, float]
Answer = TypeVar("Answer")

FATAL = ("UNINITIALIZED", "GPU_IS_LOST", "RESET_REQUIRED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH")
"""Errors after which a device answers nothing any more (nvmlReturn_t)."""

PROCESSES_S = 1.0
"""Seconds between two looks at a device's processes."""

GPM_S = 0.1
"""Seconds that must lie between two samples of GPM (nvml.h, nvmlGpmSampleGet)."""

ANCESTORS = 64
"""Steps from a process up to its ancestors, after which the search ends."""


def connect(nvml: Nvml = None) -> Nvml:
    """The driver library, ready.

    Raises:
        Absent: there is no driver, or no package to speak to it.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError as error:
            raise Absent(f"no package for NVIDIA's driver ({error}): pip install nvidia-ml-py") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise Absent(f"no NVIDIA driver: {error}") from None
    return nvml


class Query(NamedTuple):
    """One call of NVML, and the readings that its answer holds. `instance`: a MIG device answers it for itself."""

    names: tuple[str, ...]
    ask: Callable[[Nvml, Any], Values]
    instance: bool = False


def _utilization(nvml: Nvml, handle: Any) -> Values:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return {"util": rates.gpu, "mem_util": rates.memory}


def _memory(nvml: Nvml, handle: Any) -> Values:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {"mem_total": memory.total, "mem_used": memory.used}


def _power(nvml: Nvml, handle: Any) -> Values:
    return {"power": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _energy(nvml: Nvml, handle: Any) -> Values:
    return {"energy": nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000}


def _temperature(nvml: Nvml, handle: Any) -> Values:
    return {"temperature": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)}


def _clock(nvml: Nvml, handle: Any) -> Values:
    return {"clock": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)}


def _clock_max(nvml: Nvml, handle: Any) -> Values:
    return {"clock_max": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)}


def _mem_clock(nvml: Nvml, handle: Any) -> Values:
    return {"mem_clock": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)}


def _reasons(nvml: Nvml, handle: Any) -> Values:
    return {"reasons": nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)}


def _reasons_before_535(nvml: Nvml, handle: Any) -> Values:
    return {"reasons": nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)}


def _bandwidth(nvml: Nvml, handle: Any) -> Values:
    """The theoretical peak: a bus of so many bits moves two of each line in a cycle (double data rate)."""
    bits = nvml.nvmlDeviceGetMemoryBusWidth(handle)
    megahertz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
    return {"bandwidth": bits / 8 * megahertz * 2 * 1e6} if bits and megahertz else {}


QUERIES = (
    Query(("util", "mem_util"), _utilization, instance=True),
    Query(("mem_total", "mem_used"), _memory, instance=True),
    Query(("power",), _power),
    Query(("energy",), _energy),
    Query(("temperature",), _temperature),
    Query(("clock",), _clock),
    Query(("mem_clock",), _mem_clock),
    Query(("reasons",), _reasons),
    Query(("reasons",), _reasons_before_535),
)

FIXED = (Query(("clock_max",), _clock_max), Query(("bandwidth",), _bandwidth))
"""What does not change while a device is open."""


class Metric(NamedTuple):
    """One of GPM's metrics: its number in nvml.h, and what its value is multiplied with."""

    name: str
    number: int
    scale: float


METRICS = (Metric("dram", 10, 1.0), Metric("pcie_rx", 21, float(1 << 20)))
"""NVML_GPM_METRIC_DRAM_BW_UTIL in percent of the theoretical bandwidth; NVML_GPM_METRIC_PCIE_RX_PER_SEC in MiB/s."""


class Gpm:
    """Averages of METRICS between two samples that the driver took. Holds two of its buffers until `close`.

    Args:
        handle: the GPU, of a MIG device its parent.
        instance: the number of the GPU instance that a MIG device belongs to, else None.

    Raises:
        Absent: this device or this driver has no GPM, or may not be asked.
    """

    def __init__(self, nvml: Nvml, handle: Any, instance: int | None, clock: Callable[[], float]) -> None:
        self._nvml, self._handle, self._instance, self._clock = nvml, handle, instance, clock
        self._samples: list[Any] = []
        self._last: Values = {}
        try:
            if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                raise Absent("GPM needs Hopper or newer")
            for _ in range(2):
                self._samples.append(nvml.nvmlGpmSampleAlloc())
            self._take(self._samples[0])
        except (AttributeError, nvml.NVMLError) as error:
            self.close()
            if isinstance(error, AttributeError):
                raise Absent("this nvidia-ml-py has no GPM: pip install -U nvidia-ml-py") from None
            raise Absent(f"GPM: {error}") from None
        self._taken = clock()

    def _take(self, sample: Any) -> None:
        if self._instance is None:
            self._nvml.nvmlGpmSampleGet(self._handle, sample)
        else:
            self._nvml.nvmlGpmMigSampleGet(self._handle, self._instance, sample)

    def read(self) -> Values:
        """The averages since the last read; those of then, where it was less than GPM_S ago.

        Raises:
            NVMLError: there was no sample to be had this time.
        """
        if self._clock() - self._taken < GPM_S:
            return self._last
        older, newer = self._samples
        self._take(newer)
        nvml, request = self._nvml, self._nvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(METRICS)
        request.sample1, request.sample2 = older, newer
        for place, metric in enumerate(METRICS):
            request.metrics[place].metricId = metric.number
        nvml.nvmlGpmMetricsGet(request)
        self._samples, self._taken = [newer, older], self._clock()
        answers = [(metric, request.metrics[place]) for place, metric in enumerate(METRICS)]
        self._last = {
            metric.name: answer.value * metric.scale
            for metric, answer in answers
            if answer.nvmlReturn == nvml.NVML_SUCCESS and math.isfinite(answer.value) and answer.value >= 0
        }
        return self._last

    def close(self) -> None:
        """Give the driver its buffers back."""
        samples, self._samples = self._samples, []
        for sample in samples:
            try:
                self._nvml.nvmlGpmSampleFree(sample)
            except self._nvml.NVMLError:  # a driver that has gone has freed them
                continue


def processes(nvml: Nvml, handle: Any) -> dict[int, float | None]:
    """Bytes of memory by pid, of all that compute or draw on a device; None where the driver does not tell bytes."""
    listed = list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    try:
        listed += nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    except (AttributeError, nvml.NVMLError, nvml.NVMLLibraryMismatchError):  # no graphics on this device
        pass
    found: dict[int, float | None] = {}
    for process in listed:
        known = [memory for memory in (found.get(process.pid), process.usedGpuMemory) if memory is not None]
        found[process.pid] = max(known, default=None)
    return found


Parent = Callable[[int], int | None]
"""A process's parent, by pid; None where there is no such process, or it may not be looked at."""


def parent_of(pid: int) -> int | None:
    """The parent as this machine's process table has it. In a container the driver may speak of processes outside."""
    import psutil

    try:
        return int(psutil.Process(pid).ppid())
    except psutil.Error:
        return None


def others(listed: Mapping[int, float | None], engine: int | None, parent: Parent, own: int) -> Values:
    """Those of the processes on a device that are not ours: how many, and the bytes that they use of its memory.

    Ours are `engine`, `own`, and what descends from them. Without the engine among them nothing is told: it does
    not use the device, or its pid is another one to the driver, which does not know the pids of a container
    (NVIDIA/nvidia-docker#1483): then ours cannot be told from a neighbour's. With it, a pid that this machine does
    not know is a neighbour's. `listed` has bytes by pid, None where the driver does not tell them (Windows).
    """
    if engine is None or not any(_descends(pid, {engine}, parent) for pid in listed):
        return {}
    strangers = [memory for pid, memory in listed.items() if not _descends(pid, {engine, own}, parent)]
    known = [memory for memory in strangers if memory is not None]
    memory = {"others_mem": sum(known)} if len(known) == len(strangers) else {}
    return {"others": len(strangers), **memory}


def _descends(pid: int, ancestors: set[int], parent: Parent) -> bool:
    place: int | None = pid
    for _ in range(ANCESTORS):
        if place in ancestors:
            return True
        place = parent(place) if place else None
    return False


class Chosen(NamedTuple):
    """What of a GPU is looked at: all of it, or the MIG device that CUDA takes, and that one's GPU instance."""

    handle: Any
    instance: int | None = None
    label: str = ""


def chosen(nvml: Nvml, handle: Any, visible: str) -> Chosen:
    """The MIG device of a GPU that is split: the one that CUDA_VISIBLE_DEVICES names, else CUDA's own, the first."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return Chosen(handle)
        places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        found = [device for place in places for device in _mig_device(nvml, handle, place)]
        wanted = tuple(name for name in visible.split(",") if name.startswith("MIG-"))
        named = [device for device in found if _text(nvml.nvmlDeviceGetUUID(device)).startswith(wanted)]
        for device in (named or found)[:1]:
            return Chosen(device, int(nvml.nvmlDeviceGetGpuInstanceId(device)), _text(nvml.nvmlDeviceGetName(device)))
    except (AttributeError, nvml.NVMLError):
        pass
    return Chosen(handle)


def _mig_device(nvml: Nvml, handle: Any, place: int) -> list[Any]:
    """The MIG device at a place, none where it is free or not ours to see."""
    try:
        return [nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)]
    except nvml.NVMLError:
        return []


class Device(Probe):
    """One GPU: gpuN.util and so on. What it does not support is found out once, then no longer asked."""

    def __init__(
        self,
        index: int,
        nvml: Nvml = None,
        root: Path = ROOT,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        parent: Parent = parent_of,
    ) -> None:
        self.name = f"gpu{index}"
        self._index = index
        self._nvml = nvml
        self._visible = environ.get("CUDA_VISIBLE_DEVICES", "")
        self._clock, self._parent = clock, parent
        self._gpu: Any = None
        self._chosen = Chosen(None)
        self._meminfo = Kept(root / "proc/meminfo")
        self._shared = False
        self._queries: list[Query] = []
        self._fixed: Values = {}
        self._gpm: Gpm | None = None
        self._engine: int | None = None
        self._others: Values = {}
        self._looked = -math.inf
        self._rising = Rising(())

    def open(self) -> str:
        self.close()
        self._nvml = nvml = connect(self._nvml)
        try:
            self._gpu = nvml.nvmlDeviceGetHandleByIndex(self._index)
            label = described(nvml, self._gpu).name
        except nvml.NVMLError as error:
            raise Absent(f"GPU {self._index}: {error}") from None
        self._chosen = chosen(nvml, self._gpu, self._visible)
        self._rising = Rising(["energy"])
        answered = self._find_queries()
        self._shared = "mem_total" not in answered and self._without_memory()
        answered |= {"mem_total", "mem_used"} if self._shared else set()
        wanted = [name for query in (*QUERIES, *FIXED) for name in query.names]
        missing = [name for name in dict.fromkeys(wanted) if name not in answered]
        words = [label + (f", which does not tell {', '.join(missing)}" if missing else "")]
        if self._chosen.instance is not None:
            words.append(f"memory and processes of {self._chosen.label or 'its MIG device'}, the rest of the whole GPU")
        if self._shared:
            words.append("its memory is the machine's")
        return "; ".join([*words, *self._find_gpm()])

    def _find_queries(self) -> set[str]:
        """Keep the calls that are answered; what they tell, and what is fixed."""
        self._queries, self._fixed, answered = [], {}, set[str]()
        for query in QUERIES:
            if not answered.issuperset(query.names) and self._answer(query):
                self._queries.append(query)
                answered.update(query.names)
        for query in FIXED:
            self._fixed.update(self._answer(query))
        if self._chosen.instance is not None:
            self._fixed.pop("bandwidth", None)  # a MIG device has a part of it, which nobody tells
        return answered | set(self._fixed)

    def _without_memory(self) -> bool:
        """Whether this device has no memory of its own, and the machine's can be told for it."""
        nvml = self._nvml
        try:
            nvml.nvmlDeviceGetMemoryInfo(self._chosen.handle)
        except nvml.NVMLError as error:
            return bool(error.value == nvml.NVML_ERROR_NOT_SUPPORTED and self._machine())
        return False

    def _machine(self) -> Values:
        """The machine's memory as the device's: bytes of all of it, and of what cannot be had any more."""
        try:
            text = self._meminfo.read()
        except OSError:
            return {}
        total, free = number(text, b"MemTotal:"), number(text, b"MemAvailable:")
        return {} if total is None or free is None else {"mem_total": total, "mem_used": max(0, total - free)}

    def _find_gpm(self) -> list[str]:
        """Begin to count traffic; why there is none."""
        try:
            self._gpm = Gpm(self._nvml, self._gpu, self._chosen.instance, self._clock)
        except Absent as absent:
            return [f"no counter of memory or PCIe traffic ({absent})"]
        return []

    def watch(self, pid: int | None) -> None:
        self._engine, self._others, self._looked = pid, {}, -math.inf

    def read(self) -> dict[str, float]:
        found = dict(self._fixed)
        for query in self._queries:
            found.update(self._answer(query))
        found.update(self._machine() if self._shared else {})
        if self._gpm is not None:
            found.update(self._told(self._gpm.read) or {})
        found.update(self._strangers())
        return {f"{self.name}.{name}": value for name, value in self._rising.kept(found).items()}

    def _strangers(self) -> Values:
        """The processes on the device that are not ours, looked up at most every PROCESSES_S."""
        now = self._clock()
        if self._engine is not None and now - self._looked >= PROCESSES_S:
            listed = self._told(lambda: processes(self._nvml, self._chosen.handle)) or {}
            self._others = others(listed, self._engine, self._parent, os.getpid())
            self._looked = now
        return self._others

    def _answer(self, query: Query) -> Values:
        handle = self._chosen.handle if query.instance else self._gpu
        return self._told(lambda: query.ask(self._nvml, handle)) or {}

    def _told(self, ask: Callable[[], Answer]) -> Answer | None:
        """What the device says, None where it does not tell this; Absent when it answers nothing any more."""
        nvml = self._nvml
        try:
            return ask()
        except nvml.NVMLError as error:
            if error.value in {getattr(nvml, f"NVML_ERROR_{name}", None) for name in FATAL}:
                raise Absent(f"GPU {self._index}: {error}") from None
        except (AttributeError, nvml.NVMLLibraryMismatchError):  # an older pynvml or driver, without this call
            pass
        return None

    def close(self) -> None:
        if self._gpm is not None:
            self._gpm.close()
        self._gpm = None
        self._meminfo.close()


class Driver(Probe):
    """Stands for NVML where there is no device to stand for itself: says why."""

    name = "nvidia"

    def __init__(self, why: str) -> None:
        self._why = why

    def open(self) -> str:
        raise Absent(self._why)

    def read(self) -> dict[str, float]:
        raise Absent(self._why)


def probes(nvml: Nvml = None) -> list[Probe]:
    """One probe per device that the driver has; or one that tells why there is none."""
    try:
        nvml = connect(nvml)
    except Absent as absent:
        return [Driver(str(absent))]
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return [Driver(f"NVIDIA's driver does not list its devices: {error}")]
    found: list[Probe] = [Device(index, nvml) for index in range(count)]
    return found or [Driver("NVIDIA's driver is loaded, and has no device")]


def described(nvml: Nvml, handle: Any) -> Gpu:
    """A device as the driver names it. Raises NVMLError where it does not answer even that."""
    try:
        memory = _memory(nvml, handle)["mem_total"]
    except nvml.NVMLError:
        memory = None
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        driver = ""
    name = _text(nvml.nvmlDeviceGetName(handle))
    return Gpu(name=name, memory=None if memory is None else int(memory), driver=driver)


def _text(value: str | bytes) -> str:
    """Older pynvml answers in bytes."""
    return format.clean(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)


def gpus(nvml: Nvml = None) -> tuple[Gpu, ...]:
    """All devices that the driver has, () without a driver."""
    try:
        nvml = connect(nvml)
    except Absent:
        return ()
    try:
        return tuple(described(nvml, nvml.nvmlDeviceGetHandleByIndex(n)) for n in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return ()


def utilization(nvml: Nvml = None) -> dict[int, float]:
    """Percent of time in which a kernel ran, by device; devices that do not tell are left out."""
    try:
        nvml = connect(nvml)
    except Absent:
        return {}
    found = {}
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError:
        return {}
    for index in range(count):
        try:
            found[index] = _utilization(nvml, nvml.nvmlDeviceGetHandleByIndex(index))["util"]
        except nvml.NVMLError:
            continue
    return found


def places(nvml: Nvml = None) -> dict[int, int]:
    """The devices' indices by the number of the PCI bus that each is on; {} without a driver."""
    found: dict[int, int] = {}
    try:
        nvml = connect(nvml)
        for index in range(nvml.nvmlDeviceGetCount()):
            found[int(nvml.nvmlDeviceGetPciInfo(nvml.nvmlDeviceGetHandleByIndex(index)).bus)] = index
    except Absent:
        return {}
    except nvml.NVMLError:  # the buses of the others are known
        pass
    return found
