"""B is measured over memory that is there already, or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from quanttui import events as e
from quanttui.probes import bandwidth
from quanttui.probes.bandwidth import BLOCK, REPEATS, measure
from quanttui.probes.host import cache_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks mincore")


def machine(root: Path, available: int, cache: str = "64K") -> Path:
    """A host with so many bytes of memory available, and one last-level cache."""
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: {available // 512} kB\nMemAvailable: {available // 1024} kB\n")
    index = root / "sys/devices/system/cpu/cpu0/cache/index0"
    index.mkdir(parents=True)
    for name, text in {"level": "3", "type": "Unified", "size": cache, "shared_cpu_list": "0-1"}.items():
        (index / name).write_text(text)
    return root


def weights(path: Path, blocks: int) -> Path:
    path.write_bytes(np.arange(blocks * BLOCK // 8, dtype=np.uint64).tobytes())
    return path


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_measurement_reports_its_best_and_every_repeat(tmp_path: Path, threads: int) -> None:
    root = machine(tmp_path, 256 << 20)
    found = measure(str(weights(tmp_path / "w.gguf", 1)), threads, 0.02, root, fill_s=60)
    assert (found.how, found.arm, found.threads, len(found.repeats)) == ("measured", "", threads, REPEATS)
    assert found.gb_s == max(found.repeats) and min(found.repeats) > 0


@linux
def test_a_resident_file_is_read_itself(tmp_path: Path) -> None:
    """There is no other memory to take: the host has none free."""
    file = weights(tmp_path / "w.gguf", 8)
    found = measure(str(file), 2, 0.02, machine(tmp_path, 0))
    assert (found.how, found.over) == ("measured", "32.0 MiB of the mapped file")


@linux
def test_pages_that_are_not_in_memory_are_never_fetched(tmp_path: Path) -> None:
    file = weights(tmp_path / "w.gguf", 8)
    if not _dropped(file):
        pytest.skip("this file system keeps its pages")
    found = measure(str(file), 1, 0.02, machine(tmp_path, 0))
    assert found.how == "absent" and "too little of the file is in memory" in found.why
    assert bandwidth._resident(str(file), 8 * BLOCK) == []


def _dropped(file: Path) -> bool:
    """Whether the file's pages could be put out of memory."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return bandwidth._resident(str(file), 8 * BLOCK) == []


def test_a_file_that_fits_in_cache_is_not_what_is_read(tmp_path: Path) -> None:
    file = weights(tmp_path / "w.gguf", 2)
    found = measure(str(file), 1, 0.02, machine(tmp_path, 256 << 20, cache="4M"), fill_s=60)
    assert found.over.endswith("of anonymous memory")


def test_no_more_than_a_quarter_of_what_is_free_beside_the_file_is_taken(tmp_path: Path) -> None:
    """128 MiB free and a file of 8 MiB: 30 MiB, in whole blocks."""
    file = weights(tmp_path / "w.gguf", 2)
    found = measure(str(file), 1, 0.02, machine(tmp_path, 128 << 20, cache="4M"), fill_s=60)
    assert found.over == "28.0 MiB of anonymous memory"


def test_too_little_free_memory_is_absent_and_says_so(tmp_path: Path) -> None:
    file = weights(tmp_path / "w.gguf", 1)
    found = measure(str(file), 1, 0.02, machine(tmp_path, 128 << 20, cache="32M"))
    assert (found.how, found.gb_s, found.repeats) == ("absent", None, ())
    assert "128 MiB" in found.why and "quarter" in found.why


def test_memory_that_comes_too_slowly_is_absent(tmp_path: Path) -> None:
    file = weights(tmp_path / "w.gguf", 1)
    found = measure(str(file), 1, 0.02, machine(tmp_path, 128 << 20, cache="4M"), fill_s=-1)
    assert found.how == "absent" and "could be had" in found.why


def test_a_host_that_does_not_tell_its_free_memory_gives_no_buffer(tmp_path: Path) -> None:
    if sys.platform == "linux":
        root = tmp_path / "bare"
        root.mkdir()
        (root / "proc").mkdir()
        (root / "proc/meminfo").write_text("nothing\n")
        found = measure(str(weights(tmp_path / "w.gguf", 1)), 1, 0.02, root)
        assert found.how == "absent" and "unknown" in found.why


def test_a_missing_file_is_absent_and_named(tmp_path: Path) -> None:
    found = measure(str(tmp_path / "gone.gguf"), 1, 0.02, machine(tmp_path, 1 << 30))
    assert found.how == "absent" and "gone.gguf" in found.why


@linux
@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_no_more_of_a_file_is_read_than_is_wanted(tmp_path: Path, blocks: int) -> None:
    file = weights(tmp_path / "w.gguf", 8)
    taken = bandwidth._resident(str(file), blocks * BLOCK)
    assert len(taken) == blocks
    assert len({int(block[0]) for block in taken}) == blocks


@linux
def test_on_this_host_it_reads_well_beyond_the_cache() -> None:
    found = measure(__file__, 1, 0.02)
    if found.how == "measured":
        count, unit, *_ = found.over.split()
        assert float(count) * {"MiB": 1 << 20, "GiB": 1 << 30}[unit] >= 3.9 * (cache_bytes() or 0)


HOST = e.Host(name="h", os="o", cpu="Zen", cores=2, threads=2, memory=24 << 30)


def test_what_sessions_measured_is_remembered_by_machine_and_threads(tmp_path: Path) -> None:
    cache = tmp_path / "deep/bandwidth.json"
    assert bandwidth.recall(cache, HOST, 2) is None
    bandwidth.remember(cache, HOST, 2, [30.0, 34.0])
    assert bandwidth.recall(cache, HOST, 2) is None  # two are no usual one
    bandwidth.remember(cache, HOST, 2, [33.0])
    found = bandwidth.recall(cache, HOST, 2)
    assert found is not None and (found.how, found.gb_s, found.repeats) == ("remembered", 33.0, (30.0, 34.0, 33.0))
    assert bandwidth.recall(cache, HOST, 1) is None
    assert bandwidth.recall(cache, e.Host(name="h", os="o", cpu="M4", cores=2, threads=2, memory=24 << 30), 2) is None


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    cache = tmp_path / "bandwidth.json"
    for _ in range(3):
        bandwidth.remember(cache, HOST, 2, [float(n) for n in range(20)])
    found = bandwidth.recall(cache, HOST, 2)
    assert found is not None and len(found.repeats) == bandwidth.REMEMBERED


@pytest.mark.parametrize("torn", [b"", b"{", b"[1]", b'{"a": "b"}', b"\xff\xfe"])
def test_a_torn_memory_is_none_and_is_replaced(tmp_path: Path, torn: bytes) -> None:
    cache = tmp_path / "bandwidth.json"
    cache.write_bytes(torn)
    assert bandwidth.recall(cache, HOST, 2) is None
    bandwidth.remember(cache, HOST, 2, [30.0, 31.0, 32.0])
    assert bandwidth.recall(cache, HOST, 2) is not None


def test_a_memory_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bandwidth.remember(tmp_path / "file/bandwidth.json", HOST, 2, [30.0, 31.0, 32.0])
    assert bandwidth.recall(tmp_path / "file/bandwidth.json", HOST, 2) is None
