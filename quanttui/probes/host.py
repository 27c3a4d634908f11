"""The machine a session runs on, read once: what it is, whether it is idle, whether its GPU is used.

Knows no session; readings that change belong to the probes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from quanttui import format
from quanttui.events import Gpu, Host
from quanttui.probes import ROOT, Absent, contents, nvidia, whole
from quanttui.probes.cpu import Cpu, CpuElsewhere
from quanttui.probes.memory import limits

LINUX = sys.platform == "linux"
DARWIN = sys.platform == "darwin"

VENDORS = {b"0x1002": "AMD", b"0x10de": "NVIDIA", b"0x8086": "Intel"}
"""PCI vendors of GPUs that llama.cpp has a backend for; servers' display chips are none."""

IDLE_CORES = 0.10
IDLE_GPU_PERCENT = 5.0
MOST_CPUS = 1 << 16


def host(root: Path = ROOT, nvml: nvidia.Nvml = None) -> Host:
    """What this machine is. Takes as long as the NVIDIA driver takes to answer, else milliseconds."""
    machine, limit, _ = limits(root)
    return Host(
        name=format.clean(platform.node()),
        os=format.clean(os_name()),
        cpu=format.clean(cpu_name(root)),
        cores=cores(root),
        threads=os.cpu_count() or 1,
        memory=machine or 0,
        memory_limit=limit,
        cache=cache_bytes(root),
        gpus=gpus(root, nvml),
        boot_id=contents(root / "proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip(),
    )


def os_name() -> str:
    """The system as its makers name it, with its kernel on Linux."""
    if DARWIN:
        return f"macOS {platform.mac_ver()[0]}"
    if not LINUX:
        return platform.platform()
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = "Linux"
    return f"{name}, Linux {platform.release()}"


def cpu_name(root: Path = ROOT) -> str:
    """The processor's model name, or the board's where ARM names no model, or the architecture."""
    apple = _sysctl(b"machdep.cpu.brand_string")
    if apple:
        return apple.rstrip(b"\0").decode("utf-8", "replace")
    fields: dict[str, str] = {}
    for line in contents(root / "proc/cpuinfo").decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    named = [fields.get(key, "") for key in ("model name", "Model", "Hardware", "cpu model")]
    return next((name for name in [*named, platform.processor()] if name), platform.machine())


def cores(root: Path = ROOT, allowed: set[int] | None = None) -> int:
    """Threads that llama-bench would take: physical cores, and of a hybrid processor only the performance cores.

    As llama.cpp's common_cpu_get_num_math counts them, with one difference: cores outside this process's affinity
    (a container's cpuset) are not counted, since threads for them only wait for each other. `allowed` stands for it.
    """
    if allowed is None and LINUX:
        allowed = os.sched_getaffinity(0)
    devices = root / "sys/devices"
    fast = cpu_list(contents(devices / "cpu_core/cpus"))
    siblings = {
        contents(cpu / "topology/thread_siblings").strip()
        for cpu in (devices / "system/cpu").glob("cpu[0-9]*")
        if _counts(cpu.name, fast, allowed)
    } - {b""}
    if siblings:
        return len(siblings)
    apple = _sysctl(b"hw.perflevel0.physicalcpu") or _sysctl(b"hw.physicalcpu")
    if apple:
        return int.from_bytes(apple[:4], "little")
    import psutil

    logical = os.cpu_count() or 1
    return psutil.cpu_count(logical=False) or (logical if logical <= 4 else logical // 2)


def _counts(name: str, fast: set[int], allowed: set[int] | None) -> bool:
    number = whole(name[3:].encode())
    return number is not None and (not fast or number in fast) and (allowed is None or number in allowed)


def cpu_list(text: bytes) -> set[int]:
    """sysfs's `0-3,8` as CPU numbers; parts that make no sense are skipped."""
    found: set[int] = set()
    for part in text.split(b","):
        first, dash, last = part.partition(b"-")
        low, high = whole(first), whole(last) if dash else whole(first)
        if low is not None and high is not None and high < MOST_CPUS:
            found.update(range(low, high + 1))
    return found


def caches(root: Path = ROOT) -> tuple[int, ...]:
    """Bytes of each last-level cache, largest first; empty where the host does not say.

    A processor may have several, each shared by some of its cores.
    """
    found: dict[int, dict[str, int]] = {}
    for index in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        level, size = whole(contents(index / "level")), binary_size(contents(index / "size"))
        if level is None or size is None or contents(index / "type").strip() == b"Instruction":
            continue
        shared = contents(index / "shared_cpu_list").decode("ascii", "replace").strip()
        found.setdefault(level, {})[shared or str(index)] = size
    if found:
        return tuple(sorted(found[max(found)].values(), reverse=True))
    apple = _sysctl(b"hw.perflevel0.l2cachesize") or _sysctl(b"hw.l2cachesize")
    return (int.from_bytes(apple, "little"),) if apple else ()


def binary_size(text: bytes) -> int | None:
    """sysfs's `32768K` or `32M` in bytes, None for anything else."""
    text = text.strip()
    factor = {b"K": 1 << 10, b"M": 1 << 20, b"G": 1 << 30}.get(text[-1:], 1)
    count = whole(text[:-1] if factor > 1 else text)
    return None if count is None else count * factor


def cache_bytes(root: Path = ROOT) -> int | None:
    """Bytes of last-level cache of the whole machine, None where it does not say."""
    return sum(caches(root)) or None


def _sysctl(name: bytes) -> bytes:
    """macOS's value under `name`, raw; empty where there is none, and on other systems."""
    if not DARWIN:
        return b""
    value, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    failed: int = ctypes.CDLL(None).sysctlbyname(name, value, ctypes.byref(size), None, ctypes.c_size_t(0))
    return b"" if failed else value.raw[: size.value]


def gpus(root: Path = ROOT, nvml: nvidia.Nvml = None) -> tuple[Gpu, ...]:
    """GPUs by NVIDIA's driver, else by the platform: Apple's own chip, or what the kernel lists on the PCI bus."""
    found = nvidia.gpus(nvml)
    cards = [card for card in _cards(root) if not (found and card.name.startswith("NVIDIA"))]
    apple = DARWIN and platform.machine() == "arm64"
    return (*found, *cards, *([Gpu(name=f"{format.clean(cpu_name(root))} GPU", driver="Metal")] if apple else ()))


def _cards(root: Path) -> list[Gpu]:
    """Graphics cards of /sys/class/drm; `driver` is the kernel module's name."""
    found = []
    for card in sorted((root / "sys/class/drm").glob("card[0-9]*")):
        device = card / "device"
        vendor = VENDORS.get(contents(device / "vendor").strip())
        if vendor is None or whole(card.name[4:].encode()) is None:
            continue
        product = contents(device / "product_name").decode("utf-8", "replace").strip()
        number = contents(device / "device").decode("utf-8", "replace").strip().removeprefix("0x")
        driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
        label = format.clean(product if product.startswith(vendor) else f"{vendor} {product or 'GPU ' + number}")
        found.append(Gpu(name=label, memory=whole(contents(device / "mem_info_vram_total")), driver=driver))
    return found


def build_advice(
    supports_gpu: bool,
    gpus: Sequence[Gpu],
    root: Path = ROOT,
    version: str = "",
    windows: bool = sys.platform == "win32",
) -> str:
    """One line for a CPU-only llama-cpp-python beside a GPU that it could use, with the command; else nothing.

    `supports_gpu` is llama_supports_gpu_offload(); `version` the installed one where it is not to be looked up.
    """
    flag = next((flag for flag in (_backend(gpu, root) for gpu in gpus) if flag), "")
    if supports_gpu or not flag:
        return ""
    try:
        version = version or metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return ""
    name = "llama-cpp-python"
    setting = f'$env:CMAKE_ARGS="-D{flag}=on";' if windows else f'CMAKE_ARGS="-D{flag}=on"'
    command = f"{setting} pip install --force-reinstall --no-cache-dir --no-binary {name} {name}=={version}"
    return f"CPU-only build: the GPU is unused; reinstall with: {command}"


def _backend(gpu: Gpu, root: Path) -> str:
    """The build option of llama.cpp for a device, "" where its driver can run none."""
    if gpu.driver == "Metal":
        return "GGML_METAL"
    if gpu.name.startswith("AMD"):
        return "GGML_HIP" if (root / "opt/rocm").exists() else "GGML_VULKAN"
    if gpu.name.startswith("Intel"):
        return "GGML_VULKAN"
    return "" if gpu.driver in ("", "nouveau") else "GGML_CUDA"


Times = Mapping[int, tuple[str, float]]
"""Name and core-seconds of processes, by pid."""


def process_times() -> Times:
    """All other processes that may be looked at."""
    import psutil

    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None and process.pid != os.getpid():
            found[process.pid] = (str(process.info["name"]), times.user + times.system)
    return found


def idle(
    window: float = 0.5,
    root: Path = ROOT,
    nvml: nvidia.Nvml = None,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    processes: Callable[[], Times] = process_times,
) -> str:
    """What keeps the machine too busy to measure on, empty when it is idle. To be asked while no engine computes.

    Busy is more than a tenth of a core used by other processes over `window` seconds, or a GPU with kernels running
    for more than 5 % of the driver's own window. What cannot be read is not held against the machine.
    """
    gpu = {number: busy for number, busy in nvidia.utilization(nvml).items() if busy > IDLE_GPU_PERCENT}
    if gpu:
        number = max(gpu, key=lambda number: gpu[number])
        return f"GPU {number} is {gpu[number]:.0f} % busy"
    before, busy, own, start = processes(), _busy(root), time.process_time(), clock()
    wait(window)
    elapsed, used = clock() - start, time.process_time() - own
    now = _busy(root)
    if busy is None or now is None or elapsed <= 0:
        return ""
    others = (now - busy - used) / elapsed
    if others <= IDLE_CORES:
        return ""
    most = busiest(before, processes())
    return f"other processes use {others:.1f} cores" + (f", {format.clean(most, 40)} most" if most else "")


def _busy(root: Path) -> float | None:
    """Core-seconds used by anybody since boot."""
    probe = Cpu(root) if LINUX else CpuElsewhere()
    try:
        return probe.read().get("cpu.busy")
    except (Absent, OSError):
        return None
    finally:
        probe.close()


def busiest(before: Times, after: Times) -> str:
    """The name of the process that used the cores most between two readings, "" if none did measurably.

    One that began in between counts from its beginning; what ended in between is not seen.
    """
    used = {pid: seconds - before.get(pid, (name, 0.0))[1] for pid, (name, seconds) in after.items()}
    pid = max(used, key=lambda pid: used[pid], default=None)
    return after[pid][0] if pid is not None and used[pid] > 0 else ""
