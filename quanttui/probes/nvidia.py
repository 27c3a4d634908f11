"""NVIDIA devices through NVML. Owns the driver library, loaded when it is first asked for.

NVML's utilization says that a kernel ran, or that memory was touched: never how much of a bandwidth was used. A value
that a device does not support is left out: MIG has no utilization, GB10 and Jetson have no memory of their own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from quanttui import format
from quanttui.events import Gpu
from quanttui.probes import Absent, Probe

Nvml = Any
"""The module pynvml, or one that answers as it does: it has no types."""

Values = dict[str, float]

FATAL = ("UNINITIALIZED", "GPU_IS_LOST", "RESET_REQUIRED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH")
"""Errors after which a device answers nothing any more (nvmlReturn_t)."""


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
    """One call of NVML, and the readings that its answer holds."""

    names: tuple[str, ...]
    ask: Callable[[Nvml, Any], Values]


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


QUERIES = (
    Query(("util", "mem_util"), _utilization),
    Query(("mem_total", "mem_used"), _memory),
    Query(("power",), _power),
    Query(("energy",), _energy),
    Query(("temperature",), _temperature),
    Query(("clock",), _clock),
    Query(("mem_clock",), _mem_clock),
    Query(("reasons",), _reasons),
    Query(("reasons",), _reasons_before_535),
)


class Device(Probe):
    """One GPU: gpuN.util and so on. What it does not support is found out once, then no longer asked."""

    def __init__(self, index: int, nvml: Nvml = None) -> None:
        self.name = f"gpu{index}"
        self._index = index
        self._nvml = nvml
        self._handle: Any = None
        self._queries: list[Query] = []
        self._fixed: Values = {}

    def open(self) -> str:
        self._nvml = nvml = connect(self._nvml)
        try:
            self._handle = nvml.nvmlDeviceGetHandleByIndex(self._index)
            label = described(nvml, self._handle).name
        except nvml.NVMLError as error:
            raise Absent(f"GPU {self._index}: {error}") from None
        self._queries, answered = [], set[str]()
        for query in QUERIES:
            if not answered.issuperset(query.names) and self._answer(query):
                self._queries.append(query)
                answered.update(query.names)
        self._fixed = self._answer(Query(("clock_max",), _clock_max))
        wanted = [name for query in QUERIES for name in query.names]
        missing = [name for name in dict.fromkeys([*wanted, "clock_max"]) if name not in answered | set(self._fixed)]
        return label + (f", which does not tell {', '.join(missing)}" if missing else "")

    def read(self) -> dict[str, float]:
        found = dict(self._fixed)
        for query in self._queries:
            found.update(self._answer(query))
        return {f"{self.name}.{name}": value for name, value in found.items()}

    def _answer(self, query: Query) -> Values:
        """What the device says, nothing where it does not tell this; Absent when it answers nothing any more."""
        nvml = self._nvml
        try:
            return query.ask(nvml, self._handle)
        except nvml.NVMLError as error:
            if error.value in {getattr(nvml, f"NVML_ERROR_{name}", None) for name in FATAL}:
                raise Absent(f"GPU {self._index}: {error}") from None
            return {}
        except AttributeError:  # an older pynvml, without this call
            return {}


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
