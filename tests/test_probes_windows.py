"""Windows's probes: buffers as its headers lay them out go through the parsers that read a real Windows.

The structures here are packed by hand, field by field, so that a wrong declaration cannot prove itself right.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui.events import READINGS
from quanttui.probes import Absent, windows
from quanttui.probes.windows import Luid

GIB = 1 << 30
BASE = 0x1F0_0000_0000
CARD, CHIP, SOFTWARE = Luid(0, 0xD3C1), Luid(0, 0xE0AA), Luid(0, 0x12345)
BUSES = {CARD: 0x41, CHIP: 0, SOFTWARE: None}


def instance(adapter: Luid, part: int = 0) -> str:
    """An instance's name of `GPU Adapter Memory`."""
    return f"luid_0x{adapter.high:08X}_0x{adapter.low:08X}_phys_{part}"


def array(values: Mapping[str, int], status: int = 0, base: int = BASE) -> bytes:
    """What PdhGetFormattedCounterArrayW fills: items of 24 bytes, then their names, which the items point to."""
    names, offset = b"", 24 * len(values)
    items = b""
    for name, value in values.items():
        items += struct.pack("<QI4xq", base + offset + len(names), status, value)
        names += name.encode("utf-16-le") + b"\0\0"
    return items + names


def process(pid: int, faults: int, last: bool = False, threads: int = 2) -> bytes:
    """One SYSTEM_PROCESS_INFORMATION and its threads: faults at offset 16, the pid at 80, 80 bytes a thread at 256."""
    size = 256 + 80 * threads
    head = struct.pack("<IIqII", 0 if last else size, threads, 7, faults, 3)
    head += bytes(80 - len(head)) + struct.pack("<QQ", pid, 4) + bytes(256 - 96)
    return head + b"\xff" * 80 * threads


class FakeQuery:
    """Counters that say what they are told to."""

    def __init__(self, values: dict[str, dict[str, int]]) -> None:
        self.values = values
        self.reads = 0
        self.closed = 0

    def read(self) -> dict[str, dict[str, int]]:
        self.reads += 1
        return {name: dict(found) for name, found in self.values.items()}

    def close(self) -> None:
        self.closed += 1


class FakeKernel(windows.Kernel):
    """A Windows of three adapters and two processes."""

    def __init__(self) -> None:
        shared = {instance(CARD): GIB, instance(CHIP): 2 * GIB, instance(SOFTWARE): 5}
        self.opened = FakeQuery({"shared_used": shared, "mem_used": {name: 3 * GIB for name in shared}})
        self.listed = process(4, 1) + process(os.getpid(), 250, last=True)
        self.lists = 0

    def query(self, counters: Mapping[str, str]) -> Any:
        assert counters == windows.COUNTERS
        return self.opened

    def process_list(self) -> bytes:
        self.lists += 1
        return self.listed

    def bus(self, adapter: Luid) -> int | None:
        return BUSES[adapter]


class Clock:
    """Seconds that pass as they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestStructures:
    """They are those of 64-bit Windows."""

    @pytest.mark.parametrize(
        ("kind", "size"),
        [
            (windows.CounterItem, 24),
            (windows.ProcessItem, 256),
            (windows.OpenAdapter, 12),
            (windows.QueryAdapter, 24),
            (windows.AdapterAddress, 12),
        ],
    )
    def test_sizes_are_those_of_the_headers(self, kind: type[ctypes.Structure], size: int) -> None:
        assert ctypes.sizeof(kind) == size

    @given(st.binary(max_size=600), st.integers(0, 50), st.integers(0, 2**64))
    def test_no_parser_raises_on_arbitrary_bytes_or_gives_a_negative(
        self, filled: bytes, items: int, base: int
    ) -> None:
        assert all(value >= 0 for value in windows.instances(filled, items, base).values())
        assert (windows.hard_faults(filled, 0) or 0) >= 0

    @given(st.integers(0, 200))
    def test_a_buffer_that_is_cut_off_gives_what_it_holds_whole(self, length: int) -> None:
        whole = array({"first": 1, "second": 2})
        found = windows.instances(whole[:length], 2, BASE)
        assert found.items() <= {"first": 1, "second": 2}.items()


class TestCounters:
    """Arrays of counters by instance."""

    def test_values_come_by_the_names_that_lie_behind_them(self) -> None:
        values = {instance(CARD): GIB, instance(CHIP): 0}
        assert windows.instances(array(values), 2, BASE) == values

    @pytest.mark.parametrize("status", [0xC0000BBA, 0xC0000BC6, 0x800007D1])
    def test_a_value_that_is_not_valid_is_left_out(self, status: int) -> None:
        assert windows.instances(array({"a": 1}, status), 1, BASE) == {}

    def test_new_data_is_valid_and_a_negative_value_is_none(self) -> None:
        assert windows.instances(array({"a": 1}, status=1), 1, BASE) == {"a": 1}
        assert windows.instances(array({"a": -1}), 1, BASE) == {}

    def test_a_name_outside_of_the_buffer_is_not_followed(self) -> None:
        assert windows.instances(array({"a": 1}, base=BASE + 4096), 1, BASE) == {}
        assert windows.instances(array({"a": 1}, base=BASE - 4096), 1, BASE) == {}

    def test_more_items_than_the_buffer_holds_are_not_read(self) -> None:
        assert windows.instances(array({"a": 1}), 5, BASE).get("a") == 1

    @pytest.mark.parametrize("name", ["", "_total", "luid_0x_0x_phys_0", "pid_4_luid_0x0_0x1_phys_0", "luid_0xZ_0x1_"])
    def test_what_is_no_adapter_has_no_luid(self, name: str) -> None:
        assert windows.luid(name) is None

    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
    def test_an_adapter_s_luid_is_read_out_of_its_name(self, high: int, low: int) -> None:
        assert windows.luid(instance(Luid(high, low))) == Luid(high, low)


class TestNumbers:
    """Which adapter is which GPU."""

    def test_nvml_s_devices_have_its_numbers_and_others_stay_out(self) -> None:
        assert windows.numbered(BUSES, {0x41: 1, 0x90: 0}) == {CARD: 1}

    def test_without_nvml_adapters_are_numbered_by_bus_and_software_is_none(self) -> None:
        assert windows.numbered(BUSES, {}) == {CHIP: 0, CARD: 1}

    def test_parts_of_one_adapter_are_added(self) -> None:
        values = {"shared_used": {instance(CARD): 1, instance(CARD, 1): 2, "_total": 9}}
        assert windows.usage(values, {CARD: 0}, own=True) == {"gpu0.shared_used": 3}

    def test_memory_of_its_own_is_told_only_where_nvml_does_not(self) -> None:
        values = {"shared_used": {instance(CARD): 1}, "mem_used": {instance(CARD): 2}}
        assert windows.usage(values, {CARD: 0}, own=False) == {"gpu0.shared_used": 1}
        assert windows.usage(values, {CARD: 0}, own=True) == {"gpu0.shared_used": 1, "gpu0.mem_used": 2}


class TestAdapters:
    """The probe of them."""

    def test_beside_nvml_only_its_device_s_shared_memory_is_told(self) -> None:
        probe = windows.Adapters({0x41: 0}, FakeKernel(), Clock())
        assert probe.open() == "shared memory of gpu0, looked up once a second"
        assert probe.read() == {"gpu0.shared_used": GIB}

    def test_without_nvml_every_real_adapter_is_told_under_names_with_a_meaning(self) -> None:
        probe = windows.Adapters({}, FakeKernel(), Clock())
        probe.open()
        found = probe.read()
        assert found == {
            "gpu0.shared_used": 2 * GIB, "gpu1.shared_used": GIB, "gpu0.mem_used": 3 * GIB, "gpu1.mem_used": 3 * GIB
        }  # fmt: skip
        assert {f"gpuN.{name.partition('.')[2]}" for name in found} <= set(READINGS)

    def test_windows_is_asked_once_a_second_and_told_meanwhile(self) -> None:
        kernel, clock = FakeKernel(), Clock()
        probe = windows.Adapters({0x41: 0}, kernel, clock)
        probe.open()
        kernel.opened.reads = 0
        for _ in range(8):
            assert probe.read() == {"gpu0.shared_used": GIB}
            clock.now += 0.25
        assert kernel.opened.reads == 2

    def test_an_adapter_that_vanishes_is_left_out(self) -> None:
        kernel, clock = FakeKernel(), Clock()
        probe = windows.Adapters({0x41: 0}, kernel, clock)
        probe.open()
        del kernel.opened.values["shared_used"][instance(CARD)]
        assert probe.read() == {}

    def test_only_software_is_absent(self) -> None:
        kernel = FakeKernel()
        kernel.opened.values = {"shared_used": {instance(SOFTWARE): 5}}
        with pytest.raises(Absent, match="no graphics adapter"):
            windows.Adapters({}, kernel, Clock()).open()

    def test_the_query_is_closed_once(self) -> None:
        kernel = FakeKernel()
        probe = windows.Adapters({0x41: 0}, kernel, Clock())
        probe.open()
        probe.close()
        probe.close()
        assert kernel.opened.closed == 1 and probe.read() == {}


class TestEngine:
    """The process's own hard faults."""

    def test_hard_faults_are_the_watched_process_s(self) -> None:
        listed = process(4, 1) + process(600, 77) + process(8, 2, last=True)
        assert (windows.hard_faults(listed, 600), windows.hard_faults(listed, 9)) == (77, None)

    @given(st.integers(0, 700))
    def test_a_list_that_is_cut_off_ends_there(self, length: int) -> None:
        listed = (process(4, 1) + process(600, 77, last=True))[:length]
        assert windows.hard_faults(listed, 600) == (77 if length >= 416 + 256 else None)

    def test_a_list_that_points_at_itself_ends(self) -> None:
        broken = struct.pack("<I", 8) + process(4, 1)[4:]
        assert windows.hard_faults(broken * 3, 600) is None

    def test_faults_come_beside_what_psutil_tells_under_names_with_a_meaning(self) -> None:
        probe = windows.Engine(FakeKernel(), Clock())
        assert "hard faults" in probe.open()
        assert probe.read() == {}
        probe.watch(os.getpid())
        now = probe.read()
        assert now["engine.majflt"] == 250 and now["engine.rss"] > 0
        assert set(now) <= set(READINGS) and "engine.read" not in now

    def test_the_list_is_asked_for_once_a_second_and_told_meanwhile(self) -> None:
        kernel, clock = FakeKernel(), Clock()
        probe = windows.Engine(kernel, clock)
        probe.open()
        probe.watch(os.getpid())
        for _ in range(8):
            assert probe.read()["engine.majflt"] == 250
            clock.now += 0.25
        assert kernel.lists == 2

    def test_a_count_that_wrapped_round_and_a_process_that_vanished_are_left_out(self) -> None:
        kernel, clock = FakeKernel(), Clock()
        probe = windows.Engine(kernel, clock)
        probe.open()
        probe.watch(os.getpid())
        probe.read()
        for listed in (process(os.getpid(), 3, last=True), process(4, 1, last=True), b""):
            kernel.listed, clock.now = listed, clock.now + 1
            assert "engine.majflt" not in probe.read()


class TestElsewhere:
    """No Windows."""

    def test_swap_says_why_it_knows_space_only(self) -> None:
        probe = windows.Swap()
        assert "page-ins of files and of the pagefile" in probe.open()
        assert set(probe.read()) == {"swap.total", "swap.used"}

    @pytest.mark.skipif(sys.platform == "win32", reason="this is one")
    def test_on_another_system_every_probe_tells_what_it_can_and_why_no_more(self) -> None:
        _, engine, adapters = windows.probes({})
        assert "ntdll" in engine.open()
        engine.watch(os.getpid())
        assert set(engine.read()) == {"engine.rss", "engine.cpu"}
        with pytest.raises(Absent, match=r"ntdll\.dll"):
            adapters.open()
        adapters.close()

    @pytest.mark.skipif(sys.platform != "win32", reason="asks a real Windows")
    def test_a_real_windows_answers(self) -> None:
        engine = windows.Engine()
        engine.open()
        engine.watch(os.getpid())
        assert {"engine.majflt", "engine.rss", "engine.cpu"} <= set(engine.read())
