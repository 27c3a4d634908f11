"""C(type) is ggml's own product, measured once per machine and build, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_cpp import llama_cpp
from numpy.typing import NDArray

from quanttui import quants
from quanttui.events import KernelRate
from quanttui.probes import Absent, kernels
from quanttui.probes.kernels import MATRICES, NUMBERS, SAMPLE, Ggml, copy_gb_s, measure

BOTH = min(2, os.cpu_count() or 1)
"""Threads that this machine has a core for."""

BUSY = "a core each"
"""What a rate is absent for beside busy neighbours."""


def rates(types: list[str], threads: int = 1, seconds: float = 0.005, device: str = "cpu") -> list[KernelRate]:
    """Measured now and not remembered; a machine that is busy says so, and the test is skipped."""
    found = measure("arm", types, threads, None, "b1", seconds, device)
    if any(BUSY in rate.why for rate in found):
        pytest.skip("other processes have the cores")
    return found


# -- what is measured


@pytest.mark.parametrize("threads", [1, BOTH])
def test_a_measurement_reports_its_best_and_every_repeat(threads: int) -> None:
    names = ["F32", "F16", "Q8_0", "Q4_K", "IQ3_S"]
    found = rates(names, threads)
    assert [rate.type for rate in found] == names
    for rate in found:
        assert (rate.arm, rate.how, rate.threads, rate.device) == ("arm", "measured", threads, "cpu")
        assert (rate.wall, rate.why) == (None, "")
        assert kernels.LEAST <= len(rate.repeats) <= kernels.REPEATS
        assert rate.gb_s == max(rate.repeats) and min(rate.repeats) > 0


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_every_type_that_a_quant_is_made_of_has_a_rate(name: str) -> None:
    [found] = rates([name])
    assert (found.how, found.why) == ("measured", "") and found.gb_s


@pytest.mark.parametrize("threads", [1, BOTH])
@pytest.mark.parametrize("name", sorted(MATRICES))
def test_what_is_timed_is_the_product(name: str, threads: int) -> None:
    """As numpy finds it from the same blocks dequantized; ggml rounds the vector to 8 bits meanwhile."""
    rows, columns = 64 * threads, 2048
    result, blocks = product(name, rows, columns, threads)
    try:
        weights = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(NUMBERS[name]))
    except (NotImplementedError, ValueError):
        pytest.skip("the gguf package cannot read this type")
    expected = np.resize(weights, rows * columns).reshape(rows, columns) @ kernels.normal(1, columns)
    assert np.linalg.norm(result - expected) < 0.02 * np.linalg.norm(expected)


def product(name: str, rows: int, columns: int, threads: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """What the last node of a graph like the measured one holds, and the blocks that its matrix repeats."""
    ggml, nodes = kernels.loaded(), []
    get = llama_cpp._lib["ggml_backend_tensor_get"]
    get.argtypes, get.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t), None
    with ExitStack() as stack:
        device = stack.enter_context(kernels._opened(ggml, "cpu", threads))
        multiply = kernels._product(stack, device, NUMBERS[name], rows, columns)

        def noted(context: int) -> int:
            nodes.append(multiply(context))
            return nodes[-1]

        stack.enter_context(kernels._graph(device, noted, 3))()
        result = np.zeros(rows, dtype=np.float32)
        get(nodes[-1], result.ctypes.data, 0, result.nbytes)
    return result, kernels.sample(ggml, NUMBERS[name])


def test_a_device_is_found_by_its_name() -> None:
    [found] = rates(["Q8_0"], device="CPU")
    assert (found.how, found.device) == ("measured", "CPU") and found.gb_s


def test_a_matrix_lies_where_llama_cpp_would_put_it() -> None:
    """Where it is repacked first, if this build repacks; only in plain memory beside a device that has the host's."""
    repacks = b"REPACK = 1" in llama_cpp.llama_print_system_info()
    with kernels._opened(kernels.loaded(), "cpu", 1) as device:
        *special, plain = device.weight_buffer_types()
        assert plain == device.buffer_type and (special or not repacks)
    beside: Any = Altered("ggml_backend_dev_host_buffer_type", 1)
    with kernels._opened(beside, "cpu", 1) as device:
        assert list(device.weight_buffer_types()) == [device.buffer_type]


def test_each_type_is_measured_once() -> None:
    assert [rate.type for rate in rates(["Q8_0", "F32", "Q8_0"])] == ["Q8_0", "F32"]


def test_a_type_that_takes_more_work_per_byte_is_slower() -> None:
    """One was seen to go through seven times the bytes of the other in a second; medians of five."""
    found = [rates(["Q8_0", "IQ3_S"], seconds=0.02) for _ in range(5)]
    q8_0, iq3_s = (statistics.median(each[place].gb_s or 0 for each in found) for place in (0, 1))
    assert iq3_s < q8_0


# -- what cannot be measured


@pytest.mark.parametrize(
    ("name", "why"),
    [("Q9_Z", "no tensor type Q9_Z"), ("Q8_K", "no file"), ("I32", "no file"), ("q8_0", "no tensor type"), ("", "no")],
)
def test_a_type_without_matrices_is_absent_and_says_why(name: str, why: str) -> None:
    absent, measured = rates([name, "F32"])
    assert (absent.how, absent.gb_s, absent.repeats) == ("absent", None, ())
    assert why in absent.why
    assert measured.how == "measured"


def test_a_foreign_name_reaches_no_terminal_as_it_is() -> None:
    [found] = rates(["\x1b[31mQ4\x07"])
    assert "\x1b" not in found.type + found.why and "\x07" not in found.type + found.why


def test_a_device_that_is_not_there_is_absent_and_named() -> None:
    [rate], copy = rates(["Q8_0"], device="CUDA7"), copy_gb_s("CUDA7")
    assert rate.how == copy.how == "absent"
    assert "CUDA7" in rate.why and "CUDA7" in copy.why


@pytest.mark.skipif(os.name != "posix", reason="the process itself as a library")
def test_a_library_without_the_functions_is_absent_and_names_the_first() -> None:
    nothing = Ggml(ctypes.CDLL(None))
    with pytest.raises(Absent, match="ggml_mul_mat"):
        _ = nothing.ggml_mul_mat
    found = copy_gb_s("cpu", ggml=nothing)
    assert found.how == "absent" and "ggml_backend_dev_by_name" in found.why


class Altered:
    """The real ggml with one function replaced, or always giving one answer."""

    def __init__(self, name: str, answer: Any) -> None:
        self._ggml = kernels.loaded()
        self._name, self._function = name, answer if callable(answer) else lambda *_: answer

    def __getattr__(self, name: str) -> Any:
        return self._function if name == self._name else getattr(self._ggml, name)


@pytest.mark.parametrize(
    ("function", "answer"),
    [("ggml_type_size", 145), ("ggml_blck_size", 128), ("ggml_type_name", b"q4_K_new"), ("ggml_type_name", None)],
)
def test_a_type_that_is_another_in_this_ggml_is_absent(function: str, answer: Any) -> None:
    other: Any = Altered(function, answer)
    with pytest.raises(Absent, match="another Q4_K"):
        kernels._number(other, "Q4_K")


def test_a_device_that_does_not_multiply_the_type_is_absent() -> None:
    other: Any = Altered("ggml_backend_dev_supports_op", False)
    with pytest.raises(Absent, match="does not multiply matrices of Q4_K"):
        kernels._product_rate(other, "Q4_K", 1, 0.005, "cpu", Path("/"))


def test_a_graph_that_fails_is_absent() -> None:
    other: Any = Altered("ggml_backend_graph_compute", -1)
    with pytest.raises(Absent, match="could not compute"):
        kernels._product_rate(other, "Q4_K", 1, 0.005, "cpu", Path("/"))


def test_memory_that_a_device_has_not_is_absent() -> None:
    other: Any = Altered("ggml_backend_alloc_ctx_tensors_from_buft", None)
    with pytest.raises(Absent, match="no memory"):
        kernels._product_rate(other, "Q4_K", 1, 0.005, "cpu", Path("/"))


def test_threads_that_have_no_core_each_are_absent_and_say_so() -> None:
    """Waiting for each other they would seem hundreds of times slower than the kernel is."""
    [found] = measure("arm", ["Q8_0"], 2 * (os.cpu_count() or 1), None, "b1", 0.005)
    assert (found.how, found.gb_s) == ("absent", None) and BUSY in found.why


def test_a_process_without_llama_cpp_is_absent_and_does_not_load_it() -> None:
    code = (
        "import sys; from quanttui.probes import kernels;"
        "[found] = kernels.measure('a', ['Q8_0'], 1, None, 'b');"
        "print(found.how, found.why, 'llama_cpp' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout.strip() == "absent llama.cpp is not loaded in this process False"


# -- the cache


class Counted:
    """A measurement that costs nothing, and who was measured."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> tuple[float, ...]:
        self.names.append(name)
        if name not in NUMBERS:
            raise Absent("unknown")
        return 1.5, float(len(self.names) + 1)


def ask(cache: Path | None, take: Counted, types: tuple[str, ...] = ("Q8_0", "Q4_K"), **other: Any) -> list[KernelRate]:
    return measure("arm", types, other.pop("threads", 1), cache, other.pop("build", "b1"), take=take, **other)


def test_a_rate_is_measured_once_and_then_remembered_with_its_time(tmp_path: Path) -> None:
    cache, take = tmp_path / "new" / "kernels.json", Counted()
    before = time.time()
    first, second = ask(cache, take), ask(cache, take)
    assert take.names == ["Q8_0", "Q4_K"]
    assert [rate.wall for rate in first] == [None, None]
    for then, now in zip(first, second, strict=True):
        assert (now.type, now.how, now.gb_s, now.repeats) == (then.type, "measured", then.gb_s, then.repeats)
        assert now.wall is not None and before - 1 <= now.wall <= time.time() + 1
    assert [path.name for path in cache.parent.iterdir()] == ["kernels.json"]


@pytest.mark.parametrize("other", [{"build": "b2"}, {"threads": 2}, {"device": "CUDA0"}])
def test_another_build_thread_count_or_device_is_measured_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    cache, take = tmp_path / "kernels.json", Counted()
    ask(cache, take)
    ask(cache, take, **other)
    assert take.names == ["Q8_0", "Q4_K"] * 2
    ask(cache, take)
    ask(cache, take, **other)
    assert len(take.names) == 4


def test_another_machine_is_measured_anew(tmp_path: Path) -> None:
    cache, take = tmp_path / "kernels.json", Counted()
    for name in ("AMD EPYC 1", "AMD EPYC 2"):
        root = tmp_path / name
        (root / "proc").mkdir(parents=True)
        (root / "proc/cpuinfo").write_text(f"model name\t: {name}\n")
        ask(cache, take, root=root)
        ask(cache, take, root=root)
    assert len(take.names) == (4 if sys.platform == "linux" else 2)


def test_what_is_asked_later_joins_what_is_remembered(tmp_path: Path) -> None:
    cache, take = tmp_path / "kernels.json", Counted()
    ask(cache, take, ("Q8_0",))
    ask(cache, take, ("Q8_0", "F16"))
    ask(cache, take, ("F16", "Q8_0"))
    assert take.names == ["Q8_0", "F16"]


def test_what_is_absent_is_not_remembered(tmp_path: Path) -> None:
    cache, take = tmp_path / "kernels.json", Counted()
    for _ in range(2):
        assert [rate.how for rate in ask(cache, take, ("Q8_0", "Q9_Z"))] == ["measured", "absent"]
    assert take.names == ["Q8_0", "Q9_Z", "Q9_Z"]


def test_what_was_measured_long_ago_is_measured_anew_and_stands_in_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor's clock is another one tomorrow."""
    cache, take = tmp_path / "kernels.json", Counted()
    ask(cache, take, ("Q8_0",))
    monkeypatch.setattr(kernels, "LASTING", 0.0)
    [fresh] = ask(cache, take, ("Q8_0",))
    assert take.names == ["Q8_0", "Q8_0"] and fresh.wall is None

    def busy(name: str) -> tuple[float, ...]:
        raise Absent("the threads did not have a core each")

    [kept] = measure("arm", ("Q8_0",), 1, cache, "b1", take=busy)
    assert (kept.how, kept.repeats) == ("measured", fresh.repeats) and kept.wall is not None


def test_without_a_cache_everything_is_measured() -> None:
    take = Counted()
    ask(None, take)
    ask(None, take)
    assert len(take.names) == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(torn=st.one_of(st.binary(max_size=64), st.sampled_from([b"[]", b"{}", b"null", b'[{"key":{}}]'])))
def test_a_cache_that_makes_no_sense_is_replaced(tmp_path: Path, torn: bytes) -> None:
    cache, take = tmp_path / "kernels.json", Counted()
    cache.write_bytes(torn)
    ask(cache, take)
    ask(cache, take)
    assert take.names == ["Q8_0", "Q4_K"]


@given(share=st.floats(0, 0.99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_a_torn_end_loses_no_more_than_the_file(tmp_path: Path, share: float) -> None:
    cache = tmp_path / "kernels.json"
    ask(cache, Counted())
    whole = cache.read_bytes()
    cache.write_bytes(whole[: int(share * len(whole))])
    assert [rate.how for rate in ask(cache, Counted())] == ["measured", "measured"]
    after, take = cache.read_bytes(), Counted()
    assert all(rate.wall for rate in ask(cache, take)) and take.names == [] and cache.read_bytes() == after


@pytest.mark.parametrize("rate", ["0", "-3.5", '"fast"', "null", "1e999"])
def test_a_remembered_rate_that_no_machine_has_is_measured_anew(tmp_path: Path, rate: str) -> None:
    cache, take = tmp_path / "kernels.json", Counted()
    ask(cache, take, ("Q8_0",))
    cache.write_text(cache.read_text().replace("1.5", rate))
    [found] = ask(cache, take, ("Q8_0",))
    assert take.names == ["Q8_0", "Q8_0"] and found.wall is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for cache in (tmp_path / "file" / "kernels.json", tmp_path / "folder"):
        assert [rate.how for rate in ask(cache, Counted())] == ["measured", "measured"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


# -- the matrix


@given(
    name=st.sampled_from(sorted(MATRICES)),
    threads=st.integers(1, 256),
    private=st.integers(128 << 10, kernels.MOST_PRIVATE),
)
def test_every_thread_has_rows_of_its_own_in_its_own_cache(name: str, threads: int, private: int) -> None:
    """Rows are shared out in whole groups, fewer than 256 for each thread; the blocks sampled fill it evenly."""
    kind = quants.BY_TYPE_NAME[name]
    rows, columns = kernels.shape(kind, threads, private)
    each = rows // threads
    assert rows % threads == 0 and each % 32 == 0 and 32 <= each < 256
    assert columns % 256 == 0 and 2048 <= columns <= 16384
    size = each * columns // kind.block * kind.bytes
    assert size <= max(private // 2, 32 * 2048 * kind.bits / 8)
    assert size >= min(private // 4, 224 * 16384 * kind.bits / 8)
    assert SAMPLE % kind.block == 0


def cached(root: Path, **caches: tuple[str, str, str, str]) -> Path:
    """A host with one data cache a core: its level, size, and which threads share it and the core."""
    for cpu, (level, size, sharing, siblings) in caches.items():
        index = root / "sys/devices/system/cpu" / cpu / "cache/index2"
        index.mkdir(parents=True)
        for name, text in {"level": level, "type": "Unified", "size": size, "shared_cpu_list": sharing}.items():
            (index / name).write_text(text + "\n")
        (index.parent.parent / "topology").mkdir()
        (index.parent.parent / "topology/thread_siblings_list").write_text(siblings + "\n")
    return root


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        ({"cpu0": ("2", "1024K", "0", "0")}, 1 << 20),
        ({"cpu0": ("2", "1024K", "0-1", "0-1")}, 1 << 20),
        ({"cpu0": ("2", "2M", "0-3", "0")}, 512 << 10),
        ({"cpu0": ("2", "2M", "0-1", "0-1"), "cpu8": ("2", "4M", "8-11", "8")}, 1 << 20),
        ({"cpu0": ("2", "64M", "0", "0")}, 2 << 20),
        ({"cpu0": ("3", "32M", "0-7", "0")}, 512 << 10),
        ({"cpu0": ("2", "", "0", "0")}, 512 << 10),
        ({}, 512 << 10),
    ],
)
def test_a_core_has_its_part_of_a_shared_cache(tmp_path: Path, caches: dict[str, Any], expected: int) -> None:
    """Threads of one core share it anyway; the smallest core decides, and 512 KiB where the host is silent."""
    assert kernels.private_cache(cached(tmp_path, **caches)) == expected


# -- copying


@pytest.mark.parametrize("device", ["cpu", "CPU"])
def test_a_copy_reports_its_best_and_every_repeat(device: str) -> None:
    found = copy_gb_s(device, 8 << 20, 0.02)
    assert (found.how, found.arm, found.device, found.over) == ("measured", "", device, "device copy")
    assert found.gb_s == max(found.repeats) and min(found.repeats) > 0
    assert len(found.repeats) == kernels.COPIES


def test_a_copy_never_takes_more_than_a_quarter_of_what_is_free(tmp_path: Path) -> None:
    """Two times 16 MiB of 128 MiB just fit."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 262144 kB\nMemAvailable: 131072 kB\n")
    if sys.platform == "linux":
        assert copy_gb_s("cpu", 16 << 20, 0.01, root=tmp_path).how == "measured"
        found = copy_gb_s("cpu", 17 << 20, 0.01, root=tmp_path)
        assert (found.how, found.gb_s) == ("absent", None) and "quarter" in found.why and "128 MiB" in found.why


@pytest.mark.skipif(sys.platform != "linux", reason="reads a recorded /proc")
def test_a_host_that_does_not_tell_its_free_memory_is_not_copied_on(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("nothing\n")
    found = copy_gb_s("cpu", 1 << 20, 0.01, root=tmp_path)
    assert found.how == "absent" and "unknown" in found.why


def test_a_device_that_is_no_processor_has_threads_memory_and_caches_of_its_own() -> None:
    """The processor poses as one. It is told of no threads, every window counts, and its own word is taken for what
    is free."""
    other: Any = Altered("ggml_backend_dev_type", 1)
    assert len(kernels._product_rate(other, "Q8_0", 64, 0.01, "cpu", Path("/"))) == kernels.REPEATS
    nowhere = Path("/nowhere")
    assert copy_gb_s("cpu", 1 << 20, 0.01, ggml=other, root=nowhere).how == "measured"
    assert "quarter" in copy_gb_s("cpu", 1 << 50, 0.01, ggml=other, root=nowhere).why


# -- what is left behind


class Counting:
    """The real ggml, and which handles of it are held."""

    PAIRS = {
        "ggml_init": "ggml_free",
        "ggml_backend_alloc_ctx_tensors_from_buft": "ggml_backend_buffer_free",
        "ggml_backend_dev_init": "ggml_backend_free",
    }

    def __init__(self, status: int) -> None:
        self._ggml, self._status = kernels.loaded(), status
        self.held: set[tuple[str, int]] = set()
        self.taken = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._ggml, name)

        def counted(*arguments: Any) -> Any:
            answer = function(*arguments)
            if name in self.PAIRS and answer:
                self.held.add((self.PAIRS[name], answer))
                self.taken += 1
            if name in self.PAIRS.values():
                self.held.remove((name, arguments[0]))
            return self._status if name == "ggml_backend_graph_compute" else answer

        return counted


@pytest.mark.parametrize("status", [0, -1])
def test_every_handle_is_given_back_after_a_failure_too(status: int) -> None:
    other: Any = Counting(status)
    for name in ("Q4_K", "IQ3_S"):
        with suppress(Absent):
            kernels._product_rate(other, name, 1, 0.005, "cpu", Path("/"))
    assert copy_gb_s("cpu", 1 << 20, 0.005, ggml=other).how == ("absent" if status else "measured")
    assert other.taken > 9 and other.held == set()


def test_memory_is_given_back() -> None:
    """One matrix not freed would be 256 KiB or more a time; copies 4 MiB."""
    process = psutil.Process()

    def once() -> None:
        rates(["Q4_K", "F32", "IQ3_S"], 1, 0.002)
        copy_gb_s("cpu", 2 << 20, 0.002)

    for _ in range(5):
        once()
    before = process.memory_info().rss
    for _ in range(20):
        once()
    assert process.memory_info().rss - before < 5 << 20


def test_no_thread_goes_on_spinning() -> None:
    rates(["Q8_0"], BOTH)
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_backend_computes_with_the_threads_asked_for(threads: int) -> None:
    real, told = kernels.loaded(), []
    note = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(lambda _, count: told.append(count))

    def address(registry: int, name: bytes) -> int | None:
        if name == b"ggml_backend_set_n_threads":
            return ctypes.cast(note, ctypes.c_void_p).value
        found: int | None = real.ggml_backend_reg_get_proc_address(registry, name)
        return found

    other: Any = Altered("ggml_backend_reg_get_proc_address", address)
    with kernels._opened(other, "cpu", threads):
        assert told == [threads]
