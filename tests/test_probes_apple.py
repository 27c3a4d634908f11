"""macOS's probes: bytes as its kernel's headers lay them out go through the parsers that read a real Mac.

The structures here are packed by hand, field by field, so that a wrong declaration cannot prove itself right.
"""

from __future__ import annotations

import ctypes
import math
import plistlib
import struct
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui.events import READINGS
from quanttui.probes import Absent, apple
from quanttui.probes.counters import Rising

GIB = 1 << 30
PAGE = 16384
ENGINE = 4242
TICKS = (125, 3)
"""mach_timebase_info of Apple silicon: 24 MHz."""


def rusage(pageins: int = 11, read: int = 5 * GIB, user: int = 24_000_000, started: int = 77) -> bytes:
    """A struct rusage_info_v4: the UUID, then 35 words."""
    words = [0] * 35
    words[0], words[1] = user, 12_000_000  # ri_user_time, ri_system_time
    words[4], words[6], words[7] = pageins, 3 * GIB, 4 * GIB  # ri_pageins, ri_resident_size, ri_phys_footprint
    words[8] = started  # ri_proc_start_abstime
    words[16] = read  # ri_diskio_bytesread
    words[17] = 999  # ri_diskio_byteswritten
    return bytes(range(16)) + struct.pack("<35Q", *words)


def vm(swapins: int = 40, decompressions: int = 90, external: int = 200_000, **counts: int) -> bytes:
    """A struct vm_statistics64 as macOS 13 fills it: 4 counts, 9 counters, 2 counts, 4 counters, 4 counts, 1 more."""
    low = [counts.get("free", 60_000), 300_000, 150_000, 70_000]
    counters = [1, 2, 555_000, 4, 5, 6, 7, 8, 9]  # pageins are 555_000: page-ins of files, which are no swap-ins
    purgeable, speculative = 10_000, 20_000
    flow = [decompressions, 91, swapins, 41]
    last = [80_000, 0, external, 250_000]
    return (
        struct.pack("<4I", *low)
        + struct.pack("<9Q", *counters)
        + struct.pack("<2I", purgeable, speculative)
        + struct.pack("<4Q", *flow)
        + struct.pack("<4I", *last)
        + struct.pack("<Q", 160_000)
    )


SYSCTL = {
    "hw.memsize": struct.pack("<Q", 16 * GIB),
    "vm.swapusage": struct.pack("<QQQII", 3 * GIB, 2 * GIB, GIB, PAGE, 1),
    "kern.memorystatus_vm_pressure_level": struct.pack("<i", 2),
    "iogpu.wired_limit_mb": struct.pack("<i", 12288),
    "machdep.cpu.brand_string": b"Apple M4 Max\0",
}

STATISTICS = {
    "Alloc system memory": 4272832512, "Device Utilization %": 57, "In use system memory": 1200357376,
    "In use system memory (driver)": 0, "Renderer Utilization %": 57, "recoveryCount": 0,
}  # fmt: skip
"""PerformanceStatistics as ioreg prints it of an Apple GPU."""


class FakeMac(apple.Mac):
    """A Mac that answers with what is recorded here."""

    def __init__(self) -> None:
        self.usage: dict[int, bytes] = {ENGINE: rusage()}
        self.statistics = vm()
        self.values = dict(SYSCTL)
        self.registry = {"PerformanceStatistics": plistlib.dumps(STATISTICS, fmt=plistlib.FMT_BINARY)}
        self.ticks = TICKS

    def rusage(self, pid: int) -> bytes:
        return self.usage.get(pid, rusage())

    def timebase(self) -> tuple[int, int]:
        return self.ticks

    def vm(self) -> bytes:
        return self.statistics

    def page(self) -> int:
        return PAGE

    def sysctl(self, name: str) -> bytes:
        return self.values.get(name, b"")

    def accelerator(self, key: str) -> bytes:
        return self.registry.get(key, b"")


class Monitor:
    """zeus-apple-silicon 1.x: millijoules by part, None for one that the chip does not count."""

    counts: dict[str, int | None] = {
        "cpu_total_mj": 5000, "gpu_mj": 7000, "gpu_sram_mj": 10, "ane_mj": 20, "dram_mj": 300,
    }  # fmt: skip

    def get_cumulative_energy(self) -> Any:
        return SimpleNamespace(**self.counts)


def package(**counts: int | None) -> Any:
    """The package, whose chip counts this much."""
    own = type("Own", (Monitor,), {"counts": {**Monitor.counts, **counts}})
    return SimpleNamespace(AppleEnergyMonitor=own)


class TestStructures:
    """They are the kernel's."""

    @pytest.mark.parametrize(
        ("kind", "size"), [(apple.Rusage, 296), (apple.VmStatistics, 152), (apple.SwapUsage, 32), (apple.Timebase, 8)]
    )
    def test_sizes_are_those_of_the_headers(self, kind: type[ctypes.Structure], size: int) -> None:
        assert ctypes.sizeof(kind) == size

    @given(st.binary(max_size=320))
    def test_a_buffer_of_any_length_gives_the_fields_that_it_holds_whole(self, filled: bytes) -> None:
        for kind in (apple.Rusage, apple.VmStatistics, apple.SwapUsage):
            found = apple.fields(kind, filled)
            whole = apple.fields(kind, filled + bytes(320))
            assert found.items() <= whole.items()
            ends = [getattr(kind, name).offset + getattr(kind, name).size for name in found]
            assert all(end <= len(filled) for end in ends)

    @given(st.binary(max_size=320))
    def test_no_parser_raises_on_arbitrary_bytes_or_gives_a_negative(self, text: bytes) -> None:
        pages = apple.fields(apple.VmStatistics, text)
        values = {
            **apple.spent(apple.fields(apple.Rusage, text), *TICKS),
            **apple.memory(pages, PAGE, 16 * GIB),
            **apple.traffic(pages, PAGE),
            **apple.space(text),
            **apple.accelerator(text),
        }
        assert all(value >= 0 for value in values.values())
        assert (apple.count(text) or 0) >= 0

    def test_every_reading_has_a_meaning(self) -> None:
        mac = FakeMac()
        for probe in apple.probes(mac, package()):
            probe.open()
            probe.watch(ENGINE)
            names = {name.replace("gpu0", "gpuN") for name in probe.read()}
            assert names and names <= set(READINGS), probe.name


class TestEngine:
    """The process's own page-ins and reads."""

    def test_every_counter_in_its_unit(self) -> None:
        probe = apple.Engine(FakeMac())
        assert "own page-ins" in probe.open()
        assert probe.read() == {}
        probe.watch(ENGINE)
        assert probe.read() == {
            "engine.majflt": 11, "engine.read": 5 * GIB, "engine.cpu": 1.5, "engine.rss": 3 * GIB
        }  # fmt: skip

    @pytest.mark.parametrize(("ticks", "seconds"), [((125, 3), 1.5), ((1, 1), 0.036)])
    def test_core_seconds_are_counted_in_the_machine_s_own_ticks(self, ticks: tuple[int, int], seconds: float) -> None:
        assert apple.spent(apple.fields(apple.Rusage, rusage()), *ticks)["engine.cpu"] == pytest.approx(seconds)

    def test_without_a_timebase_only_the_time_is_left_out(self) -> None:
        found = apple.spent(apple.fields(apple.Rusage, rusage()), 0, 0)
        assert "engine.cpu" not in found and "engine.read" in found

    def test_a_process_that_died_gives_nothing(self) -> None:
        mac = FakeMac()
        probe = apple.Engine(mac)
        probe.open()
        probe.watch(ENGINE)
        probe.read()
        mac.usage[ENGINE] = b""
        assert probe.read() == {}

    def test_another_process_of_the_same_number_is_not_taken_for_it(self) -> None:
        mac = FakeMac()
        probe = apple.Engine(mac)
        probe.open()
        probe.watch(ENGINE)
        probe.read()
        mac.usage[ENGINE] = rusage(started=78, read=9 * GIB)
        assert probe.read() == {}
        probe.watch(ENGINE)
        assert probe.read()["engine.read"] == 9 * GIB

    def test_counters_that_ran_backwards_are_left_out_and_memory_may_shrink(self) -> None:
        mac = FakeMac()
        probe = apple.Engine(mac)
        probe.open()
        probe.watch(ENGINE)
        probe.read()
        mac.usage[ENGINE] = rusage(pageins=12, read=4 * GIB)
        now = probe.read()
        assert now["engine.majflt"] == 12 and "engine.read" not in now and now["engine.rss"] == 3 * GIB

    def test_a_short_buffer_gives_what_it_holds(self) -> None:
        mac = FakeMac()
        probe = apple.Engine(mac)
        probe.open()
        mac.usage[ENGINE] = rusage()[:88]  # up to ri_proc_start_abstime, as in version 0
        probe.watch(ENGINE)
        assert set(probe.read()) == {"engine.majflt", "engine.cpu", "engine.rss"}

    def test_a_system_that_refuses_its_own_process_is_absent(self) -> None:
        class Refusing(FakeMac):
            def rusage(self, pid: int) -> bytes:
                return b""

        with pytest.raises(Absent, match="proc_pid_rusage"):
            apple.Engine(Refusing()).open()


class TestMemory:
    """The machine's."""

    def test_files_and_purgeable_pages_are_available_and_speculative_ones_count_once(self) -> None:
        now = apple.Memory(FakeMac()).read()
        available = (60_000 - 20_000 + 200_000 + 10_000) * PAGE
        assert now == {
            "mem.total": 16 * GIB, "mem.available": available, "mem.used": 16 * GIB - available,
            "mem.wired": 70_000 * PAGE, "mem.wired_limit": 12 * GIB, "mem.pressure": 2,
        }  # fmt: skip

    def test_a_system_that_does_not_count_pages_of_files_has_free_and_inactive_ones(self) -> None:
        mac = FakeMac()
        mac.statistics = vm()[:96]
        assert apple.Memory(mac).read()["mem.available"] == (60_000 + 150_000) * PAGE

    def test_no_more_is_available_than_there_is(self) -> None:
        mac = FakeMac()
        mac.statistics = vm(free=2**31, external=2**31)
        now = apple.Memory(mac).read()
        assert (now["mem.available"], now["mem.used"]) == (16 * GIB, 0)

    def test_a_limit_that_is_left_to_macos_is_left_out_and_said_so(self) -> None:
        mac = FakeMac()
        mac.values["iogpu.wired_limit_mb"] = struct.pack("<i", 0)
        probe = apple.Memory(mac)
        assert "iogpu.wired_limit_mb" in probe.open()
        assert "mem.wired_limit" not in probe.read()

    @pytest.mark.parametrize("value", [b"", struct.pack("<i", 3), struct.pack("<i", -1), b"\1\2\3"])
    def test_a_level_of_pressure_that_there_is_not_is_left_out(self, value: bytes) -> None:
        mac = FakeMac()
        mac.values["kern.memorystatus_vm_pressure_level"] = value
        assert "mem.pressure" not in apple.Memory(mac).read()

    @pytest.mark.parametrize("gone", ["hw.memsize", ""])
    def test_a_machine_that_does_not_tell_its_memory_is_absent(self, gone: str) -> None:
        mac = FakeMac()
        mac.values.pop(gone, None)
        if not gone:
            mac.statistics = b""
        with pytest.raises(Absent, match="nothing of memory"):
            apple.Memory(mac).open()


class TestSwap:
    """Swapping and compressing, by anybody."""

    def test_page_ins_of_files_are_no_swap_ins(self) -> None:
        probe = apple.Swap(FakeMac())
        probe.open()
        assert probe.read() == {
            "swap.total": 3 * GIB, "swap.used": GIB, "swap.in": 40 * PAGE, "swap.out": 41 * PAGE,
            "zswap.in": 90 * PAGE,
        }  # fmt: skip

    def test_counters_that_ran_backwards_are_left_out_and_used_space_may_shrink(self) -> None:
        mac = FakeMac()
        probe = apple.Swap(mac)
        probe.open()
        mac.statistics = vm(swapins=3, decompressions=95)
        mac.values["vm.swapusage"] = struct.pack("<QQQII", 3 * GIB, 3 * GIB, 0, PAGE, 1)
        now = probe.read()
        assert "swap.in" not in now and (now["zswap.in"], now["swap.used"]) == (95 * PAGE, 0)

    def test_what_is_missing_is_named(self) -> None:
        mac = FakeMac()
        mac.statistics = vm()[:96]
        assert apple.Swap(mac).open() == "without swap.in, swap.out, zswap.in"
        mac.values["vm.swapusage"] = b"short"
        with pytest.raises(Absent, match="nothing of swap"):
            apple.Swap(mac).open()


class TestAccelerator:
    """The chip's GPU."""

    def test_utilization_and_memory_under_the_first_gpu_s_name(self) -> None:
        probe = apple.Accelerator(FakeMac())
        assert probe.open() == "Apple M4 Max GPU"
        assert probe.read() == {"gpu0.util": 57, "gpu0.mem_used": 1200357376}

    def test_what_ioreg_prints_reads_the_same_as_what_iokit_gives(self) -> None:
        printed = plistlib.dumps([{"IOClass": "AGXAcceleratorG16X"}, {"PerformanceStatistics": STATISTICS}])
        assert apple.accelerator(printed) == apple.accelerator(plistlib.dumps(STATISTICS)) != {}

    @pytest.mark.parametrize("util", [-1, 101, 5000, "57", True, math.nan])
    def test_a_utilization_that_makes_no_sense_is_left_out_alone(self, util: object) -> None:
        found = apple.accelerator(plistlib.dumps({**STATISTICS, "Device Utilization %": util}))
        assert found == {"mem_used": 1200357376}

    @pytest.mark.parametrize(
        "listed", [[], [5], {"PerformanceStatistics": 5}, "text", [{"PerformanceStatistics": [1]}], 7]
    )
    def test_a_list_of_another_shape_gives_nothing(self, listed: object) -> None:
        assert apple.accelerator(plistlib.dumps(listed)) == {}

    def test_a_machine_without_one_is_absent(self) -> None:
        mac = FakeMac()
        mac.registry = {}
        with pytest.raises(Absent, match="IOAccelerator"):
            apple.Accelerator(mac).open()

    def test_its_cores_tell_chips_of_one_name_apart(self) -> None:
        mac = FakeMac()
        assert apple.gpu_cores(mac) is None
        mac.registry["gpu-core-count"] = plistlib.dumps(40, fmt=plistlib.FMT_BINARY)
        assert apple.looked_up("Apple M4 Max", apple.gpu_cores(mac)) == 546


class TestEnergy:
    """Joules by IOReport."""

    def test_the_parts_are_added_in_joules(self) -> None:
        probe = apple.Energy(package())
        assert probe.open() == "energy of cpu, gpu, gpu sram, ane, dram, by IOReport"
        assert probe.read() == {"package.energy": 12.33}

    def test_parts_that_a_chip_does_not_count_are_left_out_of_the_sum_and_its_name(self) -> None:
        probe = apple.Energy(package(ane_mj=None, gpu_sram_mj=None, dram_mj=None))
        assert probe.open() == "energy of cpu, gpu, by IOReport"
        assert probe.read() == {"package.energy": 12.0}

    def test_a_part_that_stops_counting_leaves_the_sum_out_rather_than_smaller(self) -> None:
        own = package()
        probe = apple.Energy(own)
        probe.open()
        own.AppleEnergyMonitor.counts = {**Monitor.counts, "dram_mj": None}
        assert probe.read() == {}
        own.AppleEnergyMonitor.counts = {**Monitor.counts, "cpu_total_mj": 6000}
        assert probe.read() == {"package.energy": 13.33}

    @pytest.mark.parametrize("part", ["cpu_total_mj", "gpu_mj"])
    def test_energy_without_cpu_or_gpu_is_none_at_all(self, part: str) -> None:
        with pytest.raises(Absent, match="lack its CPU or its GPU"):
            apple.Energy(package(**{part: None})).open()

    def test_a_chip_that_does_not_answer_is_absent_with_its_words(self) -> None:
        def refuse() -> None:
            raise RuntimeError("Failed to create IOReport subscription.")

        with pytest.raises(Absent, match="IOReport subscription"):
            apple.Energy(SimpleNamespace(AppleEnergyMonitor=refuse)).open()

    @pytest.mark.skipif(sys.platform == "darwin", reason="the package may be there")
    def test_where_the_package_is_not_installed_the_extra_is_named(self) -> None:
        with pytest.raises(Absent, match=r"pip install 'quanttui\[apple\]'"):
            apple.Energy().open()


class TestLookedUp:
    """Apple's own figures by the chip's name."""

    @pytest.mark.parametrize(
        ("chip", "gb_s"),
        [("Apple M1", 68.25), ("Apple M2 Ultra", 800), ("Apple M4 Pro GPU", 273), ("Apple M4 (Virtual)", 120)],
    )
    def test_a_chip_with_one_bandwidth_has_that(self, chip: str, gb_s: float) -> None:
        assert apple.looked_up(chip) == gb_s and apple.ambiguous(chip) == ""

    @pytest.mark.parametrize(("cores", "gb_s"), [(30, 300), (40, 400), (None, 300), (36, 300)])
    def test_a_chip_with_two_is_told_apart_by_its_gpu_else_the_lower_is_taken_and_said_so(
        self, cores: int | None, gb_s: float
    ) -> None:
        assert apple.looked_up("Apple M3 Max", cores) == gb_s
        assert bool(apple.ambiguous("Apple M3 Max", cores)) == (cores not in (30, 40))

    @pytest.mark.parametrize("chip", ["", "Apple", "Apple M99", "Apple M4 Mega", "Intel(R) Core(TM) m3-7Y32", "AMD M4"])
    def test_an_unknown_chip_has_none(self, chip: str) -> None:
        assert apple.looked_up(chip) is None and apple.ambiguous(chip) == ""

    def test_within_a_generation_more_is_never_less(self) -> None:
        for generation in "12345":
            names = [f"Apple M{generation}{rank}" for rank in ("", " Pro", " Max", " Ultra")]
            found = [gb_s for gb_s in map(apple.looked_up, names) if gb_s is not None]
            assert found == sorted(found) and len(found) >= 3


class TestElsewhere:
    """No Mac."""

    @pytest.mark.skipif(sys.platform == "darwin", reason="this is one")
    def test_on_another_system_every_probe_says_why_and_nothing_breaks(self) -> None:
        for probe in apple.probes():
            with pytest.raises(Absent):
                probe.open()
            probe.close()
        assert apple.gpu_cores() is None

    @pytest.mark.skipif(sys.platform != "darwin", reason="asks a real Mac")
    def test_a_real_mac_answers(self) -> None:
        import os

        memory, swap, engine = apple.Memory(), apple.Swap(), apple.Engine()
        for probe in (memory, swap, engine):
            probe.open()
        engine.watch(os.getpid())
        now = memory.read()
        assert 0 < now["mem.available"] <= now["mem.total"]
        assert {"swap.in", "swap.out", "zswap.in"} <= set(swap.read())
        assert {"engine.read", "engine.majflt", "engine.cpu", "engine.rss"} <= set(engine.read())


class TestRising:
    """What is believed of counters."""

    @given(st.lists(st.integers(-5, 20), max_size=30))
    def test_a_counter_that_is_told_never_falls_and_nothing_that_rises_is_withheld(self, values: list[int]) -> None:
        rising = Rising(("c",))
        told = [rising.kept({"c": value}).get("c") for value in values]
        known = [value for value in told if value is not None]
        assert known == sorted(known) and all(value >= 0 for value in known)
        if values and max(values) >= 0:
            assert max(values) in known

    def test_what_is_no_counter_passes(self) -> None:
        rising = Rising(("c",))
        rising.kept({"c": 5, "gauge": 5})
        assert rising.kept({"c": 4, "gauge": 4}) == {"gauge": 4}
