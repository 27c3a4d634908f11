"""NVIDIA's driver, as it answers and as it refuses: a stand-in for NVML speaks, with NVML's own structures."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvml import ANSWERS, GIB, H100, FakeNvml

from quanttui.events import READINGS, Gpu
from quanttui.probes import Absent, nvidia

ENGINE, CHILD, NEIGHBOUR, GHOST = 500, 501, 900, 7
PARENTS = {CHILD: ENGINE, ENGINE: 400, NEIGHBOUR: 1, 400: 1, 1: 0}
"""The process table of these tests; GHOST is a pid of another namespace."""


class Clock:
    """Seconds that pass as they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def device(fake: FakeNvml, root: Path, clock: Clock | None = None, visible: str = "") -> nvidia.Device:
    """A device beside no other memory than `root` tells of."""
    environ = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    return nvidia.Device(0, fake, root, environ, clock or Clock(), PARENTS.get)


def read(fake: FakeNvml, root: Path, **options: Any) -> dict[str, float]:
    """What a device tells a second after it was opened."""
    clock = Clock()
    probe = device(fake, root, clock, **options)
    probe.open()
    clock.now += 1
    found = probe.read()
    probe.close()
    return found


class TestDevice:
    """One reading after the other, in its unit."""

    def test_every_reading_of_a_device_in_its_unit(self, tmp_path: Path) -> None:
        assert read(FakeNvml(1), tmp_path) == {
            "gpu0.util": 97, "gpu0.mem_util": 41, "gpu0.mem_total": 80 * GIB, "gpu0.mem_used": 5 * GIB,
            "gpu0.power": 312.5, "gpu0.energy": 9000.5, "gpu0.temperature": 61, "gpu0.clock": 1755,
            "gpu0.clock_max": 1980, "gpu0.mem_clock": 1755, "gpu0.reasons": 4,
            "gpu0.bandwidth": 3352.32e9, "gpu0.dram": 62.5, "gpu0.pcie_rx": 512 * 2**20,
        }  # fmt: skip

    def test_a_device_that_tells_everything_is_named_and_no_more(self, tmp_path: Path) -> None:
        assert device(FakeNvml(1), tmp_path).open() == H100

    def test_every_device_has_its_own_number(self) -> None:
        second = nvidia.probes(FakeNvml())[1]
        second.open()
        assert {name.partition(".")[0] for name in second.read()} == {"gpu1"}
        second.close()

    def test_every_reading_has_a_meaning(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        fake.compute = [(ENGINE, GIB), (NEIGHBOUR, GIB)]
        clock = Clock()
        probe = device(fake, tmp_path, clock)
        probe.open()
        probe.watch(ENGINE)
        clock.now += 1
        names = {name.replace("gpu0", "gpuN") for name in probe.read()}
        assert names == {name for name in READINGS if name.startswith("gpuN.")} - {"gpuN.shared_used"}

    @pytest.mark.parametrize(
        "call", [name for name in ANSWERS if name.startswith("nvmlDeviceGet") and "Reasons" not in name]
    )
    def test_a_value_that_is_not_supported_is_left_out_and_the_rest_stays(self, tmp_path: Path, call: str) -> None:
        fake = FakeNvml(1)
        whole_set = set(read(fake, tmp_path))
        fake.errors[call] = pynvml.NVML_ERROR_NOT_SUPPORTED
        if call == "nvmlDeviceGetName":
            with pytest.raises(Absent, match="Not Supported"):
                read(fake, tmp_path)
        else:
            rest = set(read(fake, tmp_path))
            assert rest < whole_set and len(rest) >= len(whole_set) - 2

    def test_what_is_not_supported_is_named_and_asked_only_once(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        fake.errors["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        probe = device(fake, tmp_path)
        assert "which does not tell util, mem_util" in probe.open()
        fake.calls.clear()
        probe.read()
        assert "nvmlDeviceGetUtilizationRates" not in fake.calls

    def test_reasons_come_from_the_older_call_where_the_driver_lacks_the_newer(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        fake.errors["nvmlDeviceGetCurrentClocksEventReasons"] = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
        assert read(fake, tmp_path)["gpu0.reasons"] == 4

    def test_a_single_failing_value_under_way_is_left_out_for_that_read(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        probe = device(fake, tmp_path)
        probe.open()
        fake.errors["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_UNKNOWN
        assert "gpu0.power" not in probe.read()
        fake.errors.clear()
        assert "gpu0.power" in probe.read()

    def test_an_energy_counter_that_ran_backwards_is_left_out_until_it_is_where_it_was(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        probe = device(fake, tmp_path)
        probe.open()
        told = []
        for millijoules in (9_000_000, 9_000_500, 3, 9_000_499, 9_000_500, 9_100_000):
            fake.answers["nvmlDeviceGetTotalEnergyConsumption"] = millijoules
            told.append(probe.read().get("gpu0.energy"))
        assert told == [9000, 9000.5, None, None, 9000.5, 9100]

    @pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNINITIALIZED])
    def test_a_lost_gpu_is_absent_with_the_driver_s_words(self, code: int) -> None:
        fake = FakeNvml(2)
        lost, other = nvidia.probes(fake)
        lost.open(), other.open()
        fake.errors["any", 0] = code
        with pytest.raises(Absent, match=f"GPU 0: {pynvml.NVMLError(code)}"):
            lost.read()
        assert other.read()["gpu1.util"] == 97

    def test_the_peak_needs_both_of_its_factors(self, tmp_path: Path) -> None:
        for call in ("nvmlDeviceGetMemoryBusWidth", "nvmlDeviceGetMaxClockInfo"):
            fake = FakeNvml(1)
            fake.errors[call] = pynvml.NVML_ERROR_NOT_SUPPORTED
            assert "gpu0.bandwidth" not in read(fake, tmp_path)

    def test_a_bus_of_no_width_has_no_peak(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        fake.answers["nvmlDeviceGetMemoryBusWidth"] = 0
        assert "gpu0.bandwidth" not in read(fake, tmp_path)


class TestDriver:
    """The driver as a whole."""

    @pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
    def test_without_a_driver_one_probe_tells_why(self, code: int) -> None:
        fake = FakeNvml()
        fake.errors["nvmlInit"] = code
        (only,) = nvidia.probes(fake)
        with pytest.raises(Absent, match=f"no NVIDIA driver: {pynvml.NVMLError(code)}"):
            only.open()
        assert nvidia.gpus(fake) == () and nvidia.utilization(fake) == {} and nvidia.places(fake) == {}

    def test_a_driver_without_devices_says_so(self) -> None:
        (only,) = nvidia.probes(FakeNvml(0))
        with pytest.raises(Absent, match="no device"):
            only.open()

    def test_a_device_without_memory_of_its_own_has_none(self) -> None:
        fake = FakeNvml(1)
        fake.errors["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        assert nvidia.gpus(fake) == (Gpu(name=H100, driver="570.86.15"),)

    def test_devices_are_found_by_the_bus_that_they_are_on(self) -> None:
        assert nvidia.places(FakeNvml(2)) == {0x41: 0, 0x42: 1}

    def test_a_device_that_does_not_tell_its_bus_takes_no_other_s_away(self) -> None:
        fake = FakeNvml(2)
        fake.errors["nvmlDeviceGetPciInfo", 1] = pynvml.NVML_ERROR_UNKNOWN
        assert nvidia.places(fake) == {0x41: 0}


class TestUnifiedMemory:
    """GB10 and Jetson, whose memory is the machine's."""

    @pytest.fixture
    def gb10(self) -> FakeNvml:
        fake = FakeNvml(1)
        for call in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryBusWidth"):
            fake.errors[call] = pynvml.NVML_ERROR_NOT_SUPPORTED
        return fake

    def test_the_machine_s_memory_is_told_for_it_and_said_so(self, tmp_path: Path, gb10: FakeNvml) -> None:
        _meminfo(tmp_path, "MemTotal: 125829120 kB\nMemAvailable: 104857600 kB\n")
        probe = device(gb10, tmp_path)
        assert "its memory is the machine's" in probe.open()
        now = probe.read()
        assert (now["gpu0.mem_total"], now["gpu0.mem_used"]) == (120 * GIB, 20 * GIB)
        assert "gpu0.bandwidth" not in now

    @pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemAvailable: 5 kB\n", "MemTotal: x kB\n"])
    def test_a_machine_that_does_not_tell_its_own_leaves_it_out(
        self, tmp_path: Path, gb10: FakeNvml, text: str
    ) -> None:
        _meminfo(tmp_path, text)
        probe = device(gb10, tmp_path)
        assert "does not tell mem_total, mem_used" in probe.open()
        assert not any("mem_total" in name or "mem_used" in name for name in probe.read())

    def test_memory_that_may_not_be_asked_for_is_not_the_machine_s(self, tmp_path: Path) -> None:
        _meminfo(tmp_path, "MemTotal: 5 kB\nMemAvailable: 5 kB\n")
        fake = FakeNvml(1)
        fake.errors["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_NO_PERMISSION
        assert "gpu0.mem_total" not in read(fake, tmp_path)


def _meminfo(root: Path, text: str) -> None:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(text)


class TestMig:
    """A GPU that is split."""

    @pytest.fixture
    def split(self) -> FakeNvml:
        fake = FakeNvml(1)
        fake.mig = ["", "MIG-aaaa", "MIG-bbbb"]
        fake.errors["nvmlDeviceGetMemoryInfo", 0] = pynvml.NVML_ERROR_NO_PERMISSION
        fake.errors["nvmlDeviceGetUtilizationRates", 0] = pynvml.NVML_ERROR_NOT_SUPPORTED
        return fake

    def test_memory_is_the_mig_device_s_and_power_the_whole_gpu_s(self, tmp_path: Path, split: FakeNvml) -> None:
        now = read(split, tmp_path)
        assert (now["gpu0.mem_total"], now["gpu0.mem_used"], now["gpu0.power"]) == (10 * GIB, 3 * GIB, 312.5)

    def test_utilization_and_the_whole_gpu_s_peak_are_left_out(self, tmp_path: Path, split: FakeNvml) -> None:
        assert not {"gpu0.util", "gpu0.mem_util", "gpu0.bandwidth"} & set(read(split, tmp_path))

    def test_traffic_is_that_of_its_gpu_instance(self, tmp_path: Path, split: FakeNvml) -> None:
        assert read(split, tmp_path)["gpu0.dram"] == 62.5
        assert "nvmlGpmMigSampleGet" in split.calls and "nvmlGpmSampleGet" not in split.calls

    def test_it_says_whose_readings_they_are(self, tmp_path: Path, split: FakeNvml) -> None:
        detail = device(split, tmp_path).open()
        assert f"memory and processes of {H100} MIG 1g.10gb, the rest of the whole GPU" in detail

    @pytest.mark.parametrize(
        ("visible", "uuid"),
        [("", "MIG-aaaa"), ("MIG-bbbb", "MIG-bbbb"), ("MIG-b", "MIG-bbbb"), ("0", "MIG-aaaa"), ("MIG-zz", "MIG-aaaa")],
    )
    def test_the_device_that_cuda_takes_is_looked_at(self, split: FakeNvml, visible: str, uuid: str) -> None:
        found = nvidia.chosen(split, 0, visible)
        assert (found.handle, found.instance) == (uuid, 7 + split.mig.index(uuid))

    def test_a_split_gpu_without_a_mig_device_is_looked_at_as_a_whole(self, split: FakeNvml) -> None:
        split.mig = ["", ""]
        assert nvidia.chosen(split, 0, "") == nvidia.Chosen(0)

    @pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
    def test_a_gpu_that_cannot_be_split_is_whole(self, code: int) -> None:
        fake = FakeNvml(1)
        fake.errors["nvmlDeviceGetMigMode"] = code
        assert nvidia.chosen(fake, 0, "MIG-aaaa") == nvidia.Chosen(0)


class TestGpm:
    """Traffic counters between two samples."""

    def test_each_read_is_of_the_time_since_the_last(self, tmp_path: Path) -> None:
        fake, clock = FakeNvml(1), Clock()
        probe = device(fake, tmp_path, clock)
        probe.open()
        for _ in range(4):
            clock.now += 0.25
            probe.read()
        assert fake.asked == [(1, 2), (2, 3), (3, 4), (4, 5)]

    def test_reads_that_follow_at_once_tell_the_same_and_ask_for_nothing(self, tmp_path: Path) -> None:
        fake, clock = FakeNvml(1), Clock()
        probe = device(fake, tmp_path, clock)
        probe.open()
        assert "gpu0.dram" not in probe.read()
        clock.now += 0.25
        assert probe.read()["gpu0.dram"] == 62.5
        fake.metrics[10] = 99.0
        assert probe.read()["gpu0.dram"] == 62.5
        assert fake.asked == [(1, 2)]

    @pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1.0])
    def test_a_metric_without_a_sensible_value_is_left_out_alone(self, tmp_path: Path, value: float | None) -> None:
        fake = FakeNvml(1)
        fake.metrics[10] = value
        now = read(fake, tmp_path)
        assert "gpu0.dram" not in now and now["gpu0.pcie_rx"] == 512 * 2**20

    def test_a_sample_that_fails_leaves_the_values_out_and_the_next_spans_the_gap(self, tmp_path: Path) -> None:
        fake, clock = FakeNvml(1), Clock()
        probe = device(fake, tmp_path, clock)
        probe.open()
        clock.now += 0.25
        fake.errors["nvmlGpmSampleGet"] = pynvml.NVML_ERROR_UNKNOWN
        assert not {"gpu0.dram", "gpu0.pcie_rx"} & set(probe.read())
        fake.errors.clear()
        clock.now += 0.25
        assert probe.read()["gpu0.dram"] == 62.5
        assert fake.asked == [(1, 2)]

    def test_both_buffers_are_given_back_once(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        probe = device(fake, tmp_path)
        probe.open()
        assert len(fake.taken) == 2
        probe.close()
        probe.close()
        assert fake.taken == {}

    def test_opening_again_leaks_nothing(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        probe = device(fake, tmp_path)
        for _ in range(3):
            probe.open()
        assert len(fake.taken) == 2

    def test_a_driver_that_has_gone_does_not_hinder_closing(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        probe = device(fake, tmp_path)
        probe.open()
        fake.errors["nvmlGpmSampleFree"] = pynvml.NVML_ERROR_UNINITIALIZED
        probe.close()

    def test_before_hopper_there_is_none_and_it_says_so(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        fake.gpm = False
        probe = device(fake, tmp_path)
        assert probe.open() == f"{H100}; no counter of memory or PCIe traffic (GPM needs Hopper or newer)"
        assert "gpu0.dram" not in probe.read() and fake.taken == {}

    @pytest.mark.parametrize("call", ["nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleGet"])
    def test_a_refusal_at_any_step_is_told_in_the_driver_s_words_and_leaks_nothing(
        self, tmp_path: Path, call: str
    ) -> None:
        fake = FakeNvml(1)
        fake.errors[call] = pynvml.NVML_ERROR_NO_PERMISSION
        probe = device(fake, tmp_path)
        assert re.search(r"\(GPM: .*Permission.*\)", probe.open())
        assert fake.taken == {} and "gpu0.util" in probe.read()

    @pytest.mark.parametrize("call", ["nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc"])
    def test_an_older_package_without_these_calls_is_named(self, tmp_path: Path, call: str) -> None:
        fake = FakeNvml(1)
        fake.lacks = {call}
        assert "pip install -U nvidia-ml-py" in device(fake, tmp_path).open()

    def test_its_structures_are_nvml_s(self) -> None:
        """nvml.h: a metric is 40 bytes, and the request's metrics begin after two numbers and two pointers."""
        import ctypes

        assert ctypes.sizeof(pynvml.c_nvmlGpmMetric_t) == 40
        assert pynvml.c_nvmlGpmMetricsGet_t.metrics.offset == 24


class TestOthers:
    """Whose processes are on the device."""

    def ask(self, listed: dict[int, float | None], engine: int | None = ENGINE) -> dict[str, float]:
        return nvidia.others(listed, engine, PARENTS.get, own=400)

    def test_the_engine_alone_has_no_company(self) -> None:
        assert self.ask({ENGINE: 5.0}) == {"others": 0, "others_mem": 0}

    def test_children_of_the_engine_and_this_process_are_ours(self) -> None:
        assert self.ask({ENGINE: 5.0, CHILD: 1.0, 400: 2.0}) == {"others": 0, "others_mem": 0}

    def test_a_child_that_computes_stands_for_the_engine(self) -> None:
        assert self.ask({CHILD: 1.0, NEIGHBOUR: 2.0}) == {"others": 1, "others_mem": 2}

    def test_neighbours_are_counted_with_their_memory_also_those_of_another_namespace(self) -> None:
        assert self.ask({ENGINE: 5.0, NEIGHBOUR: 2.0, GHOST: 3.0}) == {"others": 2, "others_mem": 5}

    def test_without_the_engine_among_them_nobody_is_accused(self) -> None:
        assert self.ask({NEIGHBOUR: 2.0, GHOST: 3.0}) == {}
        assert self.ask({}) == {}

    def test_without_an_engine_there_are_no_others(self) -> None:
        assert self.ask({NEIGHBOUR: 2.0}, engine=None) == {}

    def test_memory_that_the_driver_does_not_tell_leaves_only_the_sum_out(self) -> None:
        assert self.ask({ENGINE: None, NEIGHBOUR: None, GHOST: 3.0}) == {"others": 2}
        assert self.ask({ENGINE: None, NEIGHBOUR: 2.0}) == {"others": 1, "others_mem": 2}

    @given(st.dictionaries(st.integers(0, 2**32), st.integers(0, 2**40), max_size=8), st.integers(0, 2**32))
    def test_a_process_table_that_goes_in_circles_ends(self, listed: dict[int, float | None], engine: int) -> None:
        found = nvidia.others(listed, engine, lambda pid: (pid + 1) % 3, own=-1)
        assert found.get("others", 0) <= len(listed)

    def test_compute_and_graphics_are_one_list_with_every_process_once(self) -> None:
        fake = FakeNvml(1)
        fake.compute, fake.graphics = [(ENGINE, 10), (NEIGHBOUR, None)], [(NEIGHBOUR, 5), (ENGINE, 7)]
        assert nvidia.processes(fake, 0) == {ENGINE: 10, NEIGHBOUR: 5}

    def test_a_device_without_graphics_has_its_compute_processes(self) -> None:
        fake = FakeNvml(1)
        fake.compute = [(ENGINE, 10)]
        fake.errors["nvmlDeviceGetGraphicsRunningProcesses"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        assert nvidia.processes(fake, 0) == {ENGINE: 10}

    def test_the_list_is_asked_for_once_a_second_and_told_meanwhile(self, tmp_path: Path) -> None:
        fake, clock = FakeNvml(1), Clock()
        fake.compute = [(ENGINE, GIB), (NEIGHBOUR, GIB)]
        probe = device(fake, tmp_path, clock)
        probe.open()
        probe.watch(ENGINE)
        told = []
        for _ in range(8):
            told.append(probe.read()["gpu0.others"])
            clock.now += 0.25
        assert told == [1] * 8
        assert fake.calls.count("nvmlDeviceGetComputeRunningProcesses") == 2

    def test_a_new_engine_is_looked_for_at_once_and_none_is_not(self, tmp_path: Path) -> None:
        fake = FakeNvml(1)
        fake.compute = [(CHILD, GIB), (NEIGHBOUR, GIB)]
        probe = device(fake, tmp_path)
        probe.open()
        probe.watch(ENGINE)
        assert probe.read()["gpu0.others"] == 1
        probe.watch(NEIGHBOUR)
        assert probe.read()["gpu0.others_mem"] == GIB
        probe.watch(None)
        fake.calls.clear()
        assert "gpu0.others" not in probe.read()
        assert "nvmlDeviceGetComputeRunningProcesses" not in fake.calls

    @pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_SUPPORTED])
    def test_a_list_that_is_refused_tells_nothing_and_takes_nothing_else_away(self, tmp_path: Path, error: int) -> None:
        fake = FakeNvml(1)
        fake.errors["nvmlDeviceGetComputeRunningProcesses"] = error
        probe = device(fake, tmp_path)
        probe.open()
        probe.watch(ENGINE)
        now = probe.read()
        assert "gpu0.others" not in now and "gpu0.util" in now

    def test_a_driver_older_than_the_package_s_list_tells_nothing(self, tmp_path: Path) -> None:
        class Older(FakeNvml):
            def _nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
                raise pynvml.NVMLLibraryMismatchError("versions differ")

        probe = device(Older(1), tmp_path)
        probe.open()
        probe.watch(ENGINE)
        assert "gpu0.util" in probe.read()

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_parents_are_those_of_this_machine(self) -> None:
        assert nvidia.parent_of(os.getpid()) == os.getppid()
        assert nvidia.parent_of(2**22 + 1) is None
