"""B: how fast the memory that the weights lie in is read, with the threads used. Owns the one measurement.

Every thread sums blocks of its own as 64-bit integers: numpy lets go of the interpreter lock meanwhile, and integer
addition keeps up with memory where sums of floats do not. The probe must never make the fault that it is asked
about: it reads blocks of the arm's own file that are in memory already, or an anonymous buffer small enough to push
nothing out, or it stays away and says why.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from quanttui import format, paths
from quanttui.events import Ceiling, Host
from quanttui.probes import ROOT, Absent
from quanttui.probes.host import caches
from quanttui.probes.memory import limits
from quanttui.stats.intervals import median

Words = NDArray[np.uint64]
"""Memory as 64-bit words; a block of it is BLOCK bytes."""

REPEATS = 5
BLOCK = 4 << 20
PER_THREAD = 256 << 20
MOST = 2 << 30
CACHES = 4
SHARE_OF_FREE = 4
LOOK = 4
FILL_S = 1.0
BEYOND = 0.4
CONTENDED_S = 60.0
ENOUGH, REMEMBERED = 3, 32
"""How many quants' bandwidths of earlier sessions make one to go by, and how many are kept."""


def measure(file: str, threads: int, seconds: float = 0.5, root: Path = ROOT, fill_s: float = FILL_S) -> Ceiling:
    """The read bandwidth next to an arm: best of REPEATS windows of `seconds` altogether, and every one of them.

    Reads blocks of `file` that are resident; else an anonymous buffer of at most a quarter of the memory that is free
    beside the whole file, filled for at most `fill_s` seconds (a virtual machine may get its memory slowly); else
    how="absent" with the reason. Aims at 256 MiB a thread up to 2 GiB, and takes no less than four times the
    last-level caches that so many threads can reach: less would measure the cache.
    """
    threads = max(1, threads)
    reach = sum(caches(root)[:threads])
    least = max(CACHES * reach or PER_THREAD, threads * BLOCK)
    wanted = max(least, min(threads * PER_THREAD, MOST))
    try:
        blocks, over = _resident(file, wanted), "the mapped file"
        if len(blocks) * BLOCK < least:
            blocks, over = _anonymous(file, least, wanted, threads, fill_s, root), "anonymous memory"
        repeats = _read(blocks, threads, seconds)
    except (Absent, OSError, RuntimeError, MemoryError) as error:
        return Ceiling(arm="", how="absent", threads=threads, why=format.clean(str(error)) or type(error).__name__)
    return Ceiling(
        arm="",
        how="measured",
        gb_s=max(repeats),
        repeats=repeats,
        threads=threads,
        over=f"{format.size(len(blocks) * BLOCK)} of {over}",
    )


def recall(cache: Path, machine: Host, threads: int) -> Ceiling | None:
    """What earlier sessions on this machine measured with so many threads, as a ceiling of no arm: the median of the
    last REMEMBERED of them. None below ENOUGH, or where nothing can be read."""
    values = _remembered(cache).get(_key(machine, threads), [])
    if len(values) < ENOUGH:
        return None
    return Ceiling(arm="", how="remembered", gb_s=round(median(values), 3), repeats=tuple(values), threads=threads)


def remember(cache: Path, machine: Host, threads: int, values: Sequence[float]) -> None:
    """Keep what a session measured, in GB/s, for later ones. A cache that cannot be written is done without."""
    if not values:
        return
    known = _remembered(cache)
    key = _key(machine, threads)
    known[key] = [*known.get(key, []), *values][-REMEMBERED:]
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        paths.made(cache.parent)
        paths.write(part, msgspec.json.encode(known))
        os.replace(part, cache)
    except OSError:
        with suppress(OSError):
            part.unlink()


def _remembered(cache: Path) -> dict[str, list[float]]:
    """What is kept, nothing where the file is torn or foreign."""
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, list[float]])
    except (OSError, msgspec.DecodeError):
        return {}


def _key(machine: Host, threads: int) -> str:
    return f"{machine.cpu}, {machine.cores} cores, {machine.memory >> 20} MiB, {threads} threads"


def _resident(file: str, wanted: int) -> list[Words]:
    """Blocks of the file whose pages are all in memory, up to `wanted` bytes of them; none where that is not told.

    Looks at blocks spread evenly over the file, at most LOOK times as many as are wanted: asking for every page of
    a large file would take longer than the measurement.
    """
    count = Path(file).stat().st_size // BLOCK
    if count == 0 or not _residency_is_told(file):
        return []
    with open(file, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), count * BLOCK, access=mmap.ACCESS_READ)
    words: Words = np.frombuffer(mapped, dtype=np.uint64)
    found: list[Words] = []
    for at in range(0, count, max(1, count * BLOCK // (LOOK * wanted))):
        block = words[at * BLOCK // 8 : (at + 1) * BLOCK // 8]
        if _in_core(block):
            found.append(block)
        if len(found) * BLOCK >= wanted:
            break
    return found


def _residency_is_told(file: str) -> bool:
    """Whether mincore tells the truth. Of a file that one neither owns nor may write, Linux calls every page
    resident (mm/mincore.c, can_do_mincore); what macOS says of files was never measured here."""
    return sys.platform == "linux" and (os.stat(file).st_uid == os.geteuid() or os.access(file, os.W_OK))


def _in_core(block: Words) -> bool:
    """Whether every page under a page-aligned block is in memory; asking touches none of them."""
    flags = np.zeros(-(-block.nbytes // mmap.PAGESIZE), dtype=np.uint8)
    mincore = ctypes.CDLL(None).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    answer: int = mincore(block.ctypes.data, block.nbytes, flags.ctypes.data)
    return answer == 0 and bool(np.all(flags & 1))


def _anonymous(file: str, least: int, wanted: int, threads: int, fill_s: float, root: Path) -> list[Words]:
    """Blocks of fresh memory, written once so that they exist.

    Raises:
        Absent: a quarter of what is free with all of the file left in memory is too little to be told from cache,
            or the memory came too slowly.
    """
    available = limits(root)[2]
    if available is None:
        raise Absent("how much memory is free is unknown, so no buffer was taken to measure with")
    spare = max(0, available - Path(file).stat().st_size) // SHARE_OF_FREE
    if spare < least:
        raise Absent(
            f"too little of the file is in memory, and a buffer of {format.size(least)} would be more than a quarter "
            f"of the memory that is free beside it ({format.size(available)}): free some memory"
        )
    words: Words = np.empty(min(wanted, spare) // BLOCK * BLOCK // 8, dtype=np.uint64)
    start = time.perf_counter()

    def fill(at: int) -> Words | None:
        # What is more than enough is given up sooner than what is needed.
        if time.perf_counter() - start > (fill_s if at * 8 < least else BEYOND * fill_s):
            return None
        block = words[at : at + BLOCK // 8]
        block[...] = 1
        return block

    with ThreadPoolExecutor(threads) as pool:
        filled = list(pool.map(fill, range(0, len(words), BLOCK // 8)))
    blocks = [block for block in filled if block is not None]
    if len(blocks) * BLOCK < least:
        raise Absent(f"only {format.size(len(blocks) * BLOCK)} of memory could be had in {fill_s:g} s")
    return blocks


def _read(blocks: list[Words], threads: int, seconds: float) -> tuple[float, ...]:
    """GB/s of each repeat: all threads begin a window together, and the rates that they reach in it are added.

    Each goes round its own blocks and on from where the last window left it, so that none is met again in cache.
    """
    together = threading.Barrier(threads, timeout=CONTENDED_S)

    def rates(part: int) -> list[float]:
        mine = blocks[part::threads]
        for block in mine:
            np.add.reduce(block[:: mmap.PAGESIZE // 8])  # maps the pages, which are in memory already
        turn = _round(mine)
        return [_window(turn, together, seconds / REPEATS) for _ in range(REPEATS)]

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(rates, range(threads)))
    return tuple(round(sum(window) / 1e9, 3) for window in zip(*found, strict=True))


def _round(blocks: list[Words]) -> Iterator[Words]:
    while True:
        yield from blocks


def _window(turn: Iterator[Words], together: threading.Barrier, seconds: float) -> float:
    """Bytes per second that one thread reads in one window, at least a block."""
    together.wait()
    count, start = 0, time.perf_counter()
    while True:
        block = next(turn)
        np.add.reduce(block)
        count += block.nbytes
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return count / elapsed
