"""A process that does one harmful thing beside an engine, started as a program of its own. Knows no lab.

    neighbour.py spin               keeps a core busy
    neighbour.py stream MIB         copies memory that no cache holds, without end
    neighbour.py swap MIB PAUSE     goes over its memory again and again, a MiB at a time, with so many seconds between
    neighbour.py hold MIB           writes its memory once, and keeps it

It says `ready` when its memory is written, begins with the first line on its stdin, and ends when that ends: whoever
started it need only die.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

MIB = 1 << 20


def main(words: list[str]) -> None:
    act, *numbers = words
    memory = written(int(numbers[0]), huge=act == "stream") if numbers else memoryview(b"")
    print("ready", flush=True)
    if sys.stdin.readline():
        threading.Thread(target=end_with_stdin, daemon=True).start()
        ACTS[act](memory, *map(float, numbers[1:]))


def end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def written(mib: int, huge: bool) -> memoryview:
    """Memory of which every page was written: huge pages are read fastest, small ones go to swap one by one."""
    memory = mmap.mmap(-1, mib * MIB)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with suppress(OSError):
            memory.madvise(advice)
    view = memoryview(memory)
    block = os.urandom(MIB)
    for at in range(0, len(view), MIB):
        view[at : at + MIB] = block
    return view


def spin(memory: memoryview) -> None:
    while True:
        pass


def stream(memory: memoryview) -> None:
    half = len(memory) // 2
    while True:
        memory[:half] = memory[half:]


def swap(memory: memoryview, pause: float) -> None:
    while True:
        for at in range(0, len(memory), MIB):
            bytes(memory[at : at + MIB : mmap.PAGESIZE])
            time.sleep(pause)


def hold(memory: memoryview) -> None:
    threading.Event().wait()


ACTS: dict[str, Callable[..., None]] = {"spin": spin, "stream": stream, "swap": swap, "hold": hold}

if __name__ == "__main__":
    main(sys.argv[1:])
