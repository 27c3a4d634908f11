"""A stand-in for pynvml: answers as it does, with its own exceptions and structures."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 1 << 30
H100 = "NVIDIA H100 80GB HBM3"

ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=41),
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB, used=5 * GIB),
    "nvmlDeviceGetPowerUsage": 312500,
    "nvmlDeviceGetTotalEnergyConsumption": 9000500,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetClockInfo": 1755,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetMemoryBusWidth": 5120,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4,
    "nvmlDeviceGetName": H100,
    "nvmlSystemGetDriverVersion": b"570.86.15",
}
MEMORY_CLOCK = 2619

ON_MIG: dict[str, Any] = {
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=10 * GIB, used=3 * GIB),
    "nvmlDeviceGetName": f"{H100} MIG 1g.10gb",
}
"""What a MIG device answers for itself; everything else it does not support."""

OWN = (
    "nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo", "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetUUID",
    "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlGpmMigSampleGet",
    "nvmlGpmMetricsGet",
)  # fmt: skip


class FakeNvml:
    """A handle is a GPU's index, or a MIG device's UUID.

    `answers` are a GPU's. `errors`: by (call, device), by call for all devices, by ("any", device) for all calls.
    `lacks`: calls that this pynvml has not. `mig`: UUIDs of GPU 0's MIG devices, "" where a place is free.
    `compute`, `graphics`: (pid, bytes) of the processes. `metrics`: GPM's values by number, None for one without data.
    `taken`: which sample (counted from 1) lies in which of GPM's buffers, `asked` the pairs that metrics were asked of.
    """

    def __init__(self, devices: int = 2) -> None:
        self.devices = devices
        self.answers = dict(ANSWERS)
        self.errors: dict[str | tuple[str, Any], int] = {}
        self.lacks: set[str] = set()
        self.calls: list[str] = []
        self.mig: list[str] = []
        self.gpm = True
        self.compute: list[tuple[int, int | None]] = []
        self.graphics: list[tuple[int, int | None]] = []
        self.metrics: dict[int, float | None] = {10: 62.5, 21: 512.0}
        self.samples = 0
        self.taken: dict[int, int] = {}
        self.asked: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("NVML", "c_nvmlGpm")):
            return getattr(pynvml, name)
        if name in (*OWN, *ANSWERS) and name not in self.lacks:
            return lambda *arguments: self._call(name, arguments)
        raise AttributeError(name)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self.calls.append(name)
        device = arguments[0] if arguments and isinstance(arguments[0], (int, str)) else -1
        for key in (name, (name, device), ("any", device)):
            if key in self.errors:
                raise pynvml.NVMLError(self.errors[key])
        if name in OWN:
            return getattr(self, f"_{name}")(*arguments)
        if isinstance(device, str) and name not in ON_MIG:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if name == "nvmlDeviceGetMaxClockInfo" and arguments[1] == pynvml.NVML_CLOCK_MEM:
            return MEMORY_CLOCK
        return (ON_MIG if isinstance(device, str) else self.answers)[name]

    def _nvmlInit(self) -> None:
        pass

    def _nvmlDeviceGetCount(self) -> int:
        return self.devices

    def _nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def _nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return SimpleNamespace(bus=0x41 + handle, device=0, domain=0)

    def _nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        return [int(bool(self.mig) and handle == 0)] * 2

    def _nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return len(self.mig)

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, place: int) -> str:
        if not self.mig[place]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.mig[place]

    def _nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def _nvmlDeviceGetGpuInstanceId(self, handle: str) -> int:
        return 7 + self.mig.index(handle)

    def _nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in self.compute]

    def _nvmlDeviceGetGraphicsRunningProcesses(self, handle: Any) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in self.graphics]

    def _nvmlGpmQueryDeviceSupport(self, handle: int) -> Any:
        return SimpleNamespace(isSupportedDevice=int(self.gpm))

    def _nvmlGpmSampleAlloc(self) -> Any:
        place = 4096 + max(self.taken, default=0)
        self.taken[place] = 0
        return ctypes.cast(place, pynvml.c_nvmlGpmSample_t)

    def _nvmlGpmSampleFree(self, sample: Any) -> None:
        del self.taken[_place(sample)]

    def _nvmlGpmSampleGet(self, handle: int, sample: Any) -> None:
        self.samples += 1
        self.taken[_place(sample)] = self.samples

    def _nvmlGpmMigSampleGet(self, handle: int, instance: int, sample: Any) -> None:
        assert (handle, instance) == (0, 7 + [bool(name) for name in self.mig].index(True))
        self._nvmlGpmSampleGet(handle, sample)

    def _nvmlGpmMetricsGet(self, request: Any) -> None:
        assert request.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        self.asked.append((self.taken[_place(request.sample1)], self.taken[_place(request.sample2)]))
        for metric in request.metrics[: request.numMetrics]:
            value = self.metrics[metric.metricId]
            metric.nvmlReturn = pynvml.NVML_SUCCESS if value is not None else pynvml.NVML_ERROR_NO_DATA
            metric.value = value or 0.0


def _place(sample: Any) -> int:
    """The address that a pointer holds."""
    return ctypes.cast(sample, ctypes.c_void_p).value or 0
