"""B: how fast the memory that the weights lie in is read, with the threads used. Owns the one measurement.

Every thread sums its own part of a buffer as 64-bit integers: numpy lets go of the interpreter lock meanwhile, and
integer addition keeps up with memory where sums of floats do not. The probe must never make the fault that it is
asked about: it reads pages of the arm's own file that are in memory already, or an anonymous buffer small enough to
push nothing out, or it stays away and says why.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quanttui import format
from quanttui.events import Ceiling
from quanttui.probes import ROOT, Absent
from quanttui.probes.host import caches
from quanttui.probes.memory import limits

Words = NDArray[np.uint64]

REPEATS = 5
PER_THREAD = 256 << 20
MOST = 2 << 30
CACHES = 4
SHARE_OF_FREE = 4
WINDOWS = 8
STEP = (16 << 20) // 8


def measure(file: str, threads: int, seconds: float = 0.5, root: Path = ROOT) -> Ceiling:
    """The read bandwidth next to an arm: best of REPEATS windows, `seconds` of them altogether, all reported.

    Reads pages of `file` that are resident; else an anonymous buffer of at most a quarter of the memory that is free
    beside the whole file; else how="absent" with the reason. At least 256 MiB per thread up to 2 GiB, and never less
    than four times the last-level caches that so many threads can reach: less would measure the cache.
    """
    threads = max(1, threads)
    reach = sum(caches(root)[:threads])
    least = CACHES * reach or PER_THREAD
    wanted = max(least, min(threads * PER_THREAD, MOST))
    try:
        words, over = _resident(file, least, wanted), "the mapped file"
        if words is None:
            words, over = _anonymous(file, least, wanted, root), "anonymous memory"
        repeats = _read(words, threads, seconds, fill=over == "anonymous memory")
    except (Absent, OSError, RuntimeError, MemoryError) as error:
        return Ceiling(arm="", how="absent", threads=threads, why=format.clean(str(error)) or type(error).__name__)
    return Ceiling(
        arm="",
        how="measured",
        gb_s=max(repeats),
        repeats=repeats,
        threads=threads,
        over=f"{format.size(words.nbytes)} of {over}",
    )


def _resident(file: str, least: int, wanted: int) -> Words | None:
    """A stretch of the file whose pages are all in memory, as 64-bit words, or None.

    `wanted` bytes, or the whole of a smaller file if that is still `least`. Looks at WINDOWS stretches spread over
    the file: asking for every page of a large one would take longer than the measurement.
    """
    size = Path(file).stat().st_size
    length = min(wanted, size) // mmap.PAGESIZE * mmap.PAGESIZE
    if length < least or not _residency_is_told(file):
        return None
    with open(file, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    words: Words = np.frombuffer(mapped, dtype=np.uint64, count=size // 8)
    last = (size - length) // mmap.PAGESIZE
    for page in sorted({last * window // (WINDOWS - 1) for window in range(WINDOWS)}):
        start = page * mmap.PAGESIZE // 8
        stretch = words[start : start + length // 8]
        if _in_core(stretch):
            return stretch
    return None


def _residency_is_told(file: str) -> bool:
    """Whether mincore tells the truth: of a file that we neither own nor may write, Linux calls every page resident."""
    return sys.platform == "linux" and (os.stat(file).st_uid == os.geteuid() or os.access(file, os.W_OK))


def _in_core(words: Words) -> bool:
    """Whether every page under a page-aligned stretch is in memory; asking reads none of them."""
    pages = -(-words.nbytes // mmap.PAGESIZE)
    flags = np.zeros(pages, dtype=np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    told = libc.mincore(
        ctypes.c_void_p(words.ctypes.data), ctypes.c_size_t(words.nbytes), ctypes.c_void_p(flags.ctypes.data)
    )
    return told == 0 and bool(np.all(flags & 1))


def _anonymous(file: str, least: int, wanted: int, root: Path) -> Words:
    """Fresh memory of our own, not touched yet.

    Raises:
        Absent: a quarter of what is free, with all of the file left in memory, is too little to be told from cache.
    """
    available = limits(root)[2]
    if available is None:
        raise Absent("how much memory is free is unknown, so no buffer was taken to measure it with")
    spare = max(0, available - Path(file).stat().st_size) // SHARE_OF_FREE
    if spare < least:
        raise Absent(
            f"the file is not all in memory, and a buffer of {format.size(least)} (4 x the last-level cache) is more "
            f"than a quarter of the memory free beside it ({format.size(spare)})"
        )
    return np.empty(min(wanted, spare) // 8, dtype=np.uint64)


def _read(words: Words, threads: int, seconds: float, fill: bool) -> tuple[float, ...]:
    """GB/s of each repeat: all threads start a window together, and the rates that they reach in it are added."""
    barrier = threading.Barrier(threads, timeout=60)
    window = seconds / REPEATS
    edges = [len(words) * part // threads for part in range(threads + 1)]

    def one(part: int) -> list[float]:
        mine = words[edges[part] : edges[part + 1]]
        if fill:
            mine[...] = part + 1
        else:
            np.add.reduce(mine)  # maps the pages, which are in memory already
        steps = [mine[at : at + STEP] for at in range(0, len(mine), STEP)]
        rates, step = [], 0
        for _ in range(REPEATS):
            barrier.wait()
            count, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < window or not count:
                np.add.reduce(steps[step])
                count += steps[step].nbytes
                step = (step + 1) % len(steps)
            rates.append(count / elapsed)
        return rates

    with ThreadPoolExecutor(threads, thread_name_prefix="bandwidth") as pool:
        rates = list(pool.map(one, range(threads)))
    return tuple(round(sum(together) / 1e9, 3) for together in zip(*rates, strict=True))
