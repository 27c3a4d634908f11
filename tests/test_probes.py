"""Probes: what kernel texts and drivers say becomes numbers, and what they do not say is left out, never 0."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvml import FakeNvml

from quanttui.events import READINGS, Gpu
from quanttui.probes import (
    Absent,
    Kept,
    Probe,
    cpu,
    host,
    memory,
    number,
    nvidia,
    power,
    pressure,
    process,
    swap,
    whole,
)

GIB = 1 << 30
NO_LIMIT_V1 = "9223372036854771712"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEMINFO = """MemTotal:       16777216 kB
MemFree:         1000000 kB
MemAvailable:    8388608 kB
SwapTotal:       2097152 kB
SwapFree:        1458176 kB
"""
VMSTAT = "nr_free_pages 6034695\npswpin 120\npswpout 40\nthp_swpout 9\nswpin_zero 3\nzswpin 7\nzswpout 8\n"
STAT = "cpu  68559 11 7727 57257 214 5 86 574 300 0\ncpu0 33001 0 3774 30071 48 0 4 297 0 0\nintr 331291\n"
PRESSURE = "some avg10=0.93 avg60=1.93 avg300=17.65 total=192709901\nfull avg10=0.00 avg60=0.00 avg300=0.0 total=77\n"
PROCESS_STAT = "6159 (a) R (x y) R 6156 6156 4636 0 -1 4194304 97 0 41 0 250 30 0 0 20 0 3 0 67233 3133440 388"
PROCESS_STATUS = (
    "Name:\tllama\nVmHWM:\t    9999 kB\nVmRSS:\t    1720 kB\nRssAnon:\t     112 kB\nRssFile:\t    1608 kB\n"
)
PROCESS_IO = "rchar: 6976\nwchar: 5\nread_bytes: 1363148800\nwrite_bytes: 12\ncancelled_write_bytes: 0\n"

CGROUP_V1 = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n"
MOUNT_V1 = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"
CGROUP_V2 = "0::/user.slice/app.scope\n"
MOUNT_V2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
STAT_V1 = "cache 1\ninactive_file 5\nactive_file 6\ntotal_inactive_file 1073741824\ntotal_active_file 536870912\n"
STAT_V2 = "anon 1\nfile 2\ninactive_file 1073741824\nactive_file 536870912\n"


Tree = Callable[[dict[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def plant(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return plant


def container_v2(limits: dict[str, str], usage: str = str(3 * GIB)) -> dict[str, str]:
    """A machine of 16 GiB, 8 available, whose cgroup v2 levels have these limits."""
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": CGROUP_V2, "proc/self/mountinfo": MOUNT_V2}
    for level, limit in limits.items():
        base = f"sys/fs/cgroup/{level}".rstrip("/")
        files |= {f"{base}/memory.max": limit, f"{base}/memory.current": usage, f"{base}/memory.stat": STAT_V2}
    return files


def opened(probe: Probe) -> dict[str, float]:
    probe.open()
    try:
        return probe.read()
    finally:
        probe.close()


class TestParsers:
    """The pure functions that all probes share."""

    @given(st.binary(max_size=400))
    def test_no_parser_raises_on_arbitrary_bytes(self, text: bytes) -> None:
        whole(text)
        number(text, b"MemTotal:")
        swap.space(text)
        swap.traffic(text, 4096)
        pressure.total(text, b"some ")
        cpu.core_seconds(text, 100)
        process.spent(text, 100)
        process.resident(text)
        process.fetched(text)
        memory.place(text, text)
        memory.account(1, text, text, text)
        memory.account(2, text, text, text)
        host.cpu_list(text)
        host.binary_size(text)

    @given(st.binary(max_size=30), st.sampled_from([b"pswpin ", b"cpu ", b"some total=", b"0::", b"VmRSS:", b"total="]))
    def test_no_parser_raises_on_garbage_after_a_known_key(self, garbage: bytes, key: bytes) -> None:
        text = key + garbage + b"\n" + key + garbage
        for parse in (swap.space, process.resident, process.fetched, host.cpu_list, host.binary_size):
            parse(text)
        swap.traffic(text, 4096)
        pressure.total(text, b"some ")
        cpu.core_seconds(text, 100)
        process.spent(b"1 (x) " + garbage + b" 1" * 20, 100)
        memory.place(text, MOUNT_V2.encode())
        number(text, key)

    @given(st.integers(0, 2**64 - 1))
    def test_every_64_bit_counter_is_read_exactly(self, value: int) -> None:
        assert number(b"first 1\nkey %d\nlast 2\n" % value, b"key ") == value

    @pytest.mark.parametrize("text", [b"1_000", b"-1", b"1.5", b"", b"0x10", "٣".encode(), b"9" * 5000, b"max"])
    def test_what_is_not_plain_digits_is_no_number(self, text: bytes) -> None:
        assert whole(text) is None
        assert number(b"key " + text, b"key ") is None

    def test_a_key_is_only_found_at_the_start_of_a_line(self) -> None:
        assert number(b"workingset_pswpin 5\npswpin 7\n", b"pswpin ") == 7
        assert number(b"workingset_pswpin 5\n", b"pswpin ") is None

    def test_kilobytes_of_the_kernel_are_1024_bytes(self) -> None:
        assert number(MEMINFO.encode(), b"MemTotal:") == 16 * GIB

    @linux
    def test_a_file_of_many_pages_is_read_whole_and_again_from_its_start(self) -> None:
        file = Kept(Path("/proc/kallsyms") if Path("/proc/kallsyms").stat().st_mode & 0o444 else Path("/proc/vmstat"))
        first = file.read()
        assert first.count(b"\n") == file.read().count(b"\n") == file.path.read_bytes().count(b"\n")
        file.close()


class TestMemory:
    """The container's limit first."""

    def test_without_a_container_the_machine_counts(self, tree: Tree) -> None:
        now = opened(memory.Memory(tree({"proc/meminfo": MEMINFO})))
        assert now == {"mem.total": 16 * GIB, "mem.used": 8 * GIB, "mem.available": 8 * GIB}

    def test_v2_page_cache_does_not_count_as_used(self, tree: Tree) -> None:
        now = opened(memory.Memory(tree(container_v2({"user.slice/app.scope": str(4 * GIB)}))))
        assert now == {"mem.total": 4 * GIB, "mem.used": 1.5 * GIB, "mem.available": 2.5 * GIB}

    def test_v1_takes_the_hierarchy_s_totals_and_cuts_the_mount_s_root_off_the_path(self, tree: Tree) -> None:
        base = "sys/fs/cgroup/memory"
        files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": CGROUP_V1, "proc/self/mountinfo": MOUNT_V1}
        files |= {f"{base}/memory.limit_in_bytes": str(4 * GIB), f"{base}/memory.stat": STAT_V1}
        files |= {f"{base}/memory.usage_in_bytes": str(3 * GIB)}
        now = opened(memory.Memory(tree(files)))
        assert now == {"mem.total": 4 * GIB, "mem.used": 1.5 * GIB, "mem.available": 2.5 * GIB}

    def test_nested_limits_bind_by_the_smallest(self, tree: Tree) -> None:
        limits = {"user.slice/app.scope": "max", "user.slice": str(2 * GIB), "": str(9 * GIB)}
        now = opened(memory.Memory(tree(container_v2(limits))))
        assert (now["mem.total"], now["mem.available"]) == (2 * GIB, 0.5 * GIB)

    @pytest.mark.parametrize("limit", ["max", NO_LIMIT_V1, str(16 * GIB), "", "nonsense"])
    def test_no_limit_is_the_machine(self, tree: Tree, limit: str) -> None:
        now = opened(memory.Memory(tree(container_v2({"user.slice/app.scope": limit}))))
        assert now["mem.total"] == 16 * GIB

    def test_a_container_cannot_give_more_than_the_machine_has_left(self, tree: Tree) -> None:
        now = opened(memory.Memory(tree(container_v2({"user.slice": str(15 * GIB)}))))
        assert now["mem.available"] == 8 * GIB

    def test_a_limit_that_is_set_under_way_is_seen(self, tree: Tree) -> None:
        root = tree(container_v2({"user.slice": "max"}))
        probe = memory.Memory(root)
        probe.open()
        assert probe.read()["mem.total"] == 16 * GIB
        (root / "sys/fs/cgroup/user.slice/memory.max").write_text(str(2 * GIB))
        assert probe.read()["mem.total"] == 2 * GIB
        probe.close()

    def test_a_cgroup_that_lost_its_files_is_passed_over(self, tree: Tree) -> None:
        root = tree(container_v2({"user.slice/app.scope": str(GIB), "user.slice": str(4 * GIB)}))
        (root / "sys/fs/cgroup/user.slice/app.scope/memory.current").unlink()
        assert opened(memory.Memory(root))["mem.total"] == 4 * GIB

    def test_a_path_outside_of_the_mount_is_its_top(self) -> None:
        assert memory.place(b"0::/../../elsewhere\n", MOUNT_V2.encode()) == (2, "/sys/fs/cgroup", "")
        assert memory.place(b"4:memory:/host/x\n", MOUNT_V1.encode()) == (1, "/sys/fs/cgroup/memory", "")

    def test_a_hybrid_host_accounts_memory_in_v1(self) -> None:
        both = MOUNT_V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ") + MOUNT_V1
        found = memory.place(CGROUP_V1.encode(), both.encode())
        assert found is not None and (found.version, found.mount) == (1, "/sys/fs/cgroup/memory")

    def test_without_meminfo_it_is_absent_and_named(self, tmp_path: Path) -> None:
        with pytest.raises(Absent, match="proc/meminfo"):
            memory.Memory(tmp_path).open()

    def test_limits_tell_machine_and_container_apart(self, tree: Tree) -> None:
        root = tree(container_v2({"user.slice": str(4 * GIB)}))
        assert memory.limits(root) == (16 * GIB, 4 * GIB, 2.5 * GIB)

    @given(st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**62))
    def test_used_and_free_are_never_negative(self, limit: int, current: int, inactive: int, active: int) -> None:
        stat = b"inactive_file %d\nactive_file %d\n" % (inactive, active)
        found = memory.account(2, b"%d\n" % limit, b"%d\n" % current, stat)
        assert found is not None and found.used >= 0 and 0 <= found.free <= limit


class TestSwap:
    """Pages become bytes of the host's own page size."""

    def test_pages_count_with_the_page_size(self) -> None:
        now = swap.traffic(VMSTAT.encode(), 16384)
        assert now == {"swap.in": 120 * 16384, "swap.out": 40 * 16384, "zswap.in": 7 * 16384}

    def test_counters_that_a_kernel_lacks_are_left_out_and_named(self, tree: Tree) -> None:
        probe = swap.Swap(tree({"proc/meminfo": MEMINFO, "proc/vmstat": "pswpin 1\npswpout 2\n"}))
        assert "zswap.in" in probe.open()
        assert set(probe.read()) == {"swap.total", "swap.used", "swap.in", "swap.out"}
        probe.close()

    def test_a_sandbox_that_says_nothing_is_absent(self, tree: Tree) -> None:
        with pytest.raises(Absent):
            swap.Swap(tree({"proc/meminfo": "MemTotal: 5 kB\n", "proc/vmstat": ""})).open()

    def test_psutil_s_swap_counters_are_never_used(self) -> None:
        assert set(opened(swap.SwapElsewhere())) == {"swap.total", "swap.used"}


class TestPressure:
    """Totals, and why there are none."""

    def test_totals_are_read_by_their_kind(self, tree: Tree) -> None:
        root = tree({f"proc/pressure/{source}": PRESSURE for source in ("memory", "io", "cpu")})
        assert opened(pressure.Pressure(root)) == {
            "psi.memory.some": 192709901, "psi.memory.full": 77, "psi.io.some": 192709901, "psi.cpu.some": 192709901
        }  # fmt: skip

    def test_a_kernel_without_it_is_absent(self, tmp_path: Path) -> None:
        with pytest.raises(Absent, match=r"4\.20"):
            pressure.Pressure(tmp_path).open()

    def test_pressure_switched_off_names_the_switch(self) -> None:
        class Off(pressure.Pressure):
            def read(self) -> dict[str, float]:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        with pytest.raises(Absent, match="psi=1"):
            Off().open()


class TestCpu:
    """Core-seconds of everybody."""

    def test_idle_waiting_steal_and_guests_are_not_busy(self) -> None:
        ticks = 68559 + 11 + 7727 + 5 + 86
        assert cpu.core_seconds(STAT.encode(), 100) == {"cpu.busy": ticks / 100, "cpu.steal": 5.74}

    def test_an_old_kernel_s_short_line_has_no_steal(self) -> None:
        assert cpu.core_seconds(b"cpu 1 2 3 4 5 6 7\n", 100) == {"cpu.busy": 0.19}

    def test_a_sandbox_without_times_is_absent(self, tree: Tree) -> None:
        with pytest.raises(Absent):
            cpu.Cpu(tree({"proc/stat": "btime 5\n"})).open()


class TestEngine:
    """The watched process."""

    def test_a_command_with_brackets_and_blanks_moves_no_field(self) -> None:
        assert process.spent(PROCESS_STAT.encode(), 100) == {"engine.majflt": 41, "engine.cpu": 2.8}

    def test_all_three_files_give_their_readings(self, tree: Tree) -> None:
        base = "proc/77"
        root = tree({f"{base}/stat": PROCESS_STAT, f"{base}/status": PROCESS_STATUS, f"{base}/io": PROCESS_IO})
        probe = process.Engine(root, ticks=100)
        probe.open()
        assert probe.read() == {}
        probe.watch(77)
        assert probe.read() == {
            "engine.majflt": 41, "engine.cpu": 2.8, "engine.rss": 1720 * 1024, "engine.anonymous": 112 * 1024,
            "engine.read": 1363148800,
        }  # fmt: skip
        probe.watch(None)
        assert probe.read() == {}

    def test_io_that_may_not_be_read_takes_only_its_own_value_away(self, tree: Tree) -> None:
        probe = process.Engine(tree({"proc/77/stat": PROCESS_STAT, "proc/77/status": PROCESS_STATUS}))
        probe.watch(77)
        assert "engine.read" not in probe.read() and "engine.rss" in probe.read()
        probe.close()

    @linux
    def test_a_process_that_dies_gives_nothing_more_and_the_next_is_read(self) -> None:
        probe = process.Engine()
        with _child() as first, _child() as second:
            probe.watch(first.pid)
            assert set(probe.read()) == {name for name in READINGS if name.startswith("engine.")} - SWITCHES
            first.kill()
            first.wait()
            assert probe.read() == {}
            probe.watch(second.pid)
            assert probe.read()["engine.rss"] > 0
            second.kill()
        probe.close()

    def test_elsewhere_a_process_that_is_not_there_gives_nothing(self) -> None:
        probe = process.EngineElsewhere()
        probe.open()
        probe.watch(os.getpid())
        assert probe.read()["engine.rss"] > 0
        with _child() as child:
            child.kill()
            child.wait()
            probe.watch(child.pid)
            assert probe.read() == {}


SWITCHES = {"engine.nvcsw", "engine.nivcsw"}


def _child() -> subprocess.Popen[bytes]:
    """A process that waits for ever, and has begun to."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin and child.stdout
    child.stdin.write(b"x")
    child.stdin.flush()
    child.stdout.read(1)
    return child


class TestPower:
    """RAPL."""

    @given(st.lists(st.integers(0, 999), min_size=2, max_size=20), st.integers(1000, 5000))
    def test_a_counter_that_wraps_goes_on_growing_by_what_was_used(self, steps: list[int], span: int) -> None:
        raw, total, before = steps[0], steps[0], steps[0]
        for step in steps[1:]:
            raw = (before + step) % span
            total = power.unwrapped(before, total, raw, span)
            before = raw
        assert total == sum(steps)

    def test_packages_are_added_and_their_parts_are_not(self, tree: Tree) -> None:
        root = tree(
            {
                "sys/class/powercap/intel-rapl:0/name": "package-0\n",
                "sys/class/powercap/intel-rapl:0/energy_uj": "5000000\n",
                "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "9000000\n",
                "sys/class/powercap/intel-rapl:1/name": "package-1\n",
                "sys/class/powercap/intel-rapl:1/energy_uj": "1000000\n",
                "sys/class/powercap/intel-rapl:0:0/name": "core\n",
                "sys/class/powercap/intel-rapl:0:0/energy_uj": "3000000\n",
            }
        )
        probe = power.Power(root)
        assert probe.open() == "2 packages"
        assert probe.read() == {"package.energy": 6.0}
        (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("2000000\n")
        assert probe.read() == {"package.energy": 12.0}
        probe.close()

    def test_a_machine_without_it_is_absent(self, tmp_path: Path) -> None:
        with pytest.raises(Absent, match="RAPL"):
            power.Power(tmp_path).open()

    def test_a_counter_for_root_only_names_file_and_permission(self, tree: Tree) -> None:
        class Locked(power.Power):
            def read(self) -> dict[str, float]:
                raise PermissionError(errno.EACCES, "Permission denied", str(counter))

        root = tree(
            {"sys/class/powercap/intel-rapl:0/name": "package-0", "sys/class/powercap/intel-rapl:0/energy_uj": "1"}
        )
        counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
        with pytest.raises(Absent, match=re.escape(f"sudo chmod a+r {counter}")):
            Locked(root).open()


def topology(cpus: int, siblings: int, l3: str = "32768K", l3_shared: int = 4) -> dict[str, str]:
    """`cpus` logical ones, `siblings` to a core, `l3_shared` to a last-level cache."""
    files = {}
    for number_ in range(cpus):
        base = f"sys/devices/system/cpu/cpu{number_}"
        core, group = number_ // siblings, number_ // l3_shared
        files[f"{base}/topology/thread_siblings"] = f"{core:x}\n"
        for index, (level, kind, size, shared) in enumerate(
            [("1", "Data", "48K", core), ("1", "Instruction", "32K", core), ("3", "Unified", l3, f"g{group}")]
        ):
            cache = f"{base}/cache/index{index}"
            files |= {f"{cache}/level": level, f"{cache}/type": kind, f"{cache}/size": size}
            files[f"{cache}/shared_cpu_list"] = str(shared)
    return files


class TestHost:
    """The machine as it is."""

    def test_hyperthreads_are_not_cores(self, tree: Tree) -> None:
        assert host.cores(tree(topology(8, 2)), allowed=set(range(8))) == 4

    def test_of_a_hybrid_processor_only_performance_cores_count(self, tree: Tree) -> None:
        files = topology(8, 2) | {"sys/devices/cpu_core/cpus": "0-3\n", "sys/devices/cpu_atom/cpus": "4-7\n"}
        assert host.cores(tree(files), allowed=set(range(8))) == 2

    def test_cores_outside_of_the_affinity_do_not_count(self, tree: Tree) -> None:
        assert host.cores(tree(topology(8, 2)), allowed={0, 1, 2}) == 2

    def test_every_last_level_cache_counts_once(self, tree: Tree) -> None:
        root = tree(topology(8, 2, "16M", 4))
        assert host.caches(root) == (16 << 20, 16 << 20)
        assert host.cache_bytes(root) == 32 << 20

    def test_a_host_that_hides_its_caches_has_none(self, tmp_path: Path) -> None:
        if sys.platform == "linux":
            assert host.cache_bytes(tmp_path) is None

    @given(st.sets(st.integers(0, 300)))
    def test_cpu_lists_are_read_as_the_kernel_writes_them(self, cpus: set[int]) -> None:
        ordered = sorted(cpus)
        runs: list[list[int]] = []
        for number_ in ordered:
            if runs and runs[-1][-1] == number_ - 1:
                runs[-1].append(number_)
            else:
                runs.append([number_])
        text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
        assert host.cpu_list(text.encode() + b"\n") == cpus

    def test_model_names_come_without_control_characters(self, tree: Tree) -> None:
        root = tree(
            topology(2, 1)
            | {"proc/cpuinfo": "processor\t: 0\nmodel name\t: Evil\x1b[2J CPU\n", "proc/meminfo": MEMINFO}
        )
        found = host.host(root, FakeNvml(1))
        assert "\x1b" not in found.cpu and found.cpu.startswith("Evil")
        assert (found.memory, found.memory_limit) == (16 * GIB, None)
        assert found.gpus[0].memory == 80 * GIB

    @linux
    def test_this_host_is_described(self) -> None:
        found = host.host()
        assert found.memory > 0 and 1 <= found.cores <= found.threads and found.os and found.cpu

    def test_cards_of_the_pci_bus_are_gpus_and_their_outputs_and_other_vendors_are_not(self, tree: Tree) -> None:
        files = {
            "sys/class/drm/card0/device/vendor": "0x1002\n",
            "sys/class/drm/card0/device/device": "0x744c\n",
            "sys/class/drm/card0/device/mem_info_vram_total": str(24 * GIB),
            "sys/class/drm/card0-HDMI-A-1/device/vendor": "0x1002\n",
            "sys/class/drm/card1/device/vendor": "0x1a03\n",
            "sys/class/drm/card2/device/vendor": "0x10de\n",
        }
        root = tree(files)
        refused = FakeNvml()
        refused.errors["nvmlInit"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        names = [gpu.name for gpu in host.gpus(root, refused)]
        assert names[:1] == ["AMD GPU 744c"] and len(names) == 2 and names[1].startswith("NVIDIA")
        assert [gpu.name for gpu in host.gpus(root, FakeNvml(1))] == ["NVIDIA H100 80GB HBM3", "AMD GPU 744c"]


class TestBuildAdvice:
    """One line, with the command."""

    NVIDIA = Gpu(name="NVIDIA H100", driver="570.86")

    def test_the_whole_line(self, tmp_path: Path) -> None:
        assert host.build_advice(False, [self.NVIDIA], tmp_path, "0.3.36", windows=False) == (
            'CPU-only build: the GPU is unused; reinstall with: CMAKE_ARGS="-DGGML_CUDA=on" pip install '
            "--force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36"
        )

    @pytest.mark.parametrize(
        ("gpu", "flag"),
        [
            (Gpu(name="Apple M4 GPU", driver="Metal"), "GGML_METAL"),
            (Gpu(name="AMD GPU 744c", driver="amdgpu"), "GGML_VULKAN"),
            (Gpu(name="Intel GPU 56a0", driver="xe"), "GGML_VULKAN"),
        ],
    )
    def test_the_backend_fits_the_device(self, tmp_path: Path, gpu: Gpu, flag: str) -> None:
        assert f"-D{flag}=on" in host.build_advice(False, [gpu], tmp_path, "1")

    def test_amd_with_rocm_takes_hip(self, tmp_path: Path) -> None:
        (tmp_path / "opt/rocm").mkdir(parents=True)
        assert "-DGGML_HIP=on" in host.build_advice(False, [Gpu(name="AMD GPU 744c", driver="amdgpu")], tmp_path, "1")

    def test_no_advice_for_a_build_that_uses_it_or_without_a_usable_gpu(self, tmp_path: Path) -> None:
        assert host.build_advice(True, [self.NVIDIA], tmp_path, "1") == ""
        assert host.build_advice(False, [], tmp_path, "1") == ""
        assert host.build_advice(False, [Gpu(name="NVIDIA GPU 2684", driver="nouveau")], tmp_path, "1") == ""


@linux
class TestIdle:
    """What `--polite` waits for, over a window that a fake clock makes."""

    @pytest.fixture
    def quiet(self) -> Iterator[FakeNvml]:
        fake = FakeNvml(1)
        fake.errors["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        yield fake

    def ask(self, root: Path, nvml: FakeNvml, ticks: int) -> str:
        """The answer after one second in which everybody together used `ticks` hundredths of a core."""
        times = iter([0.0, 1.0])
        seconds = iter([{5: ("make", 1.0), 6: ("cc1plus", 2.0)}, {5: ("make", 1.1), 6: ("cc1plus", 3.5)}])

        def wait(_: float) -> None:
            (root / "proc/stat").write_text(f"cpu  {1000 + ticks} 0 0 0 0 0 0 0\n")

        return host.idle(1.0, root, nvml, wait, lambda: next(times), lambda: next(seconds))

    def test_a_quiet_machine_is_idle(self, tree: Tree, quiet: FakeNvml) -> None:
        assert self.ask(tree({"proc/stat": "cpu  1000 0 0 0 0 0 0 0\n"}), quiet, 3) == ""

    def test_other_processes_are_named_with_what_they_use(self, tree: Tree, quiet: FakeNvml) -> None:
        answer = self.ask(tree({"proc/stat": "cpu  1000 0 0 0 0 0 0 0\n"}), quiet, 160)
        assert re.fullmatch(r"other processes use 1\.[56] cores, cc1plus most", answer)

    def test_a_busy_gpu_is_named_without_waiting(self, tree: Tree) -> None:
        answer = self.ask(tree({"proc/stat": "cpu  1000 0 0 0 0 0 0 0\n"}), FakeNvml(1), 0)
        assert answer == "GPU 0 is 97 % busy"

    def test_what_cannot_be_read_is_not_held_against_it(self, tmp_path: Path, quiet: FakeNvml) -> None:
        (tmp_path / "proc").mkdir()
        assert host.idle(0.0, tmp_path, quiet, lambda _: None) == ""

    def test_this_process_s_own_work_is_not_others(self, tree: Tree, quiet: FakeNvml) -> None:
        """All that the machine did in the second, a third of a core, this process did itself."""
        root = tree({"proc/stat": "cpu  1000 0 0 0 0 0 0 0\n"})
        times = iter([0.0, 1.0])

        def work(_: float) -> None:
            start = time.process_time()
            while time.process_time() - start < 0.33:
                sum(range(1000))
            (root / "proc/stat").write_text("cpu  1033 0 0 0 0 0 0 0\n")

        assert host.idle(1.0, root, quiet, work, lambda: next(times), dict) == ""


def test_every_reading_has_a_meaning(tree: Tree) -> None:
    """No probe gives a name that events.READINGS does not explain."""
    root = tree(
        {"proc/meminfo": MEMINFO, "proc/vmstat": VMSTAT, "proc/stat": STAT}
        | {f"proc/pressure/{source}": PRESSURE for source in ("memory", "io", "cpu")}
    )
    probes: list[Probe] = [memory.Memory(root), swap.Swap(root), pressure.Pressure(root), cpu.Cpu(root), process.Own()]
    names = {name for probe in [*probes, nvidia.Device(3, FakeNvml(4))] for name in opened(probe)}
    assert {re.sub(r"^gpu\d+", "gpuN", name) for name in names} <= set(READINGS)
