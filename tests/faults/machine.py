"""The machine that runs are measured on: its page cache, the neighbours put beside an engine, and whether all of it is
left as it was found. Knows no condition."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from quanttui.probes import contents, whole

from . import cgroups, neighbour, swapfile
from .cgroups import Parent, Unusable

SWAPS = Path("/proc/swaps")

RUN = "run-"
"""What the names of folders begin with that a run needs."""

READY_SECONDS = 60.0
"""How long a neighbour may take until its memory is written, into swap where it has to."""


# --- page cache -----------------------------------------------------------------------------------------------------


def drop(file: Path) -> None:
    """Have nothing of a file in memory, as far as nobody has it mapped.

    Page cache belongs to the cgroup that first touched it: what is limited has to read its file itself.
    """
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(file: Path) -> None:
    """Have all of a file in memory."""
    with open(file, "rb", buffering=0) as opened:
        while opened.read(1 << 22):
            pass


def resident(file: Path) -> float:
    """The share of a file's pages that are in memory. The kernel tells it of a file of one's own."""
    size = file.stat().st_size
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), size, prot=mmap.PROT_READ | mmap.PROT_WRITE,
                                               flags=mmap.MAP_PRIVATE) as mapped:
        pages = -(-size // mmap.PAGESIZE)
        flags = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(mapped)  # it must be writable to have an address; nothing is written
        try:
            told: int = ctypes.CDLL(None, use_errno=True).mincore(
                ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), flags
            )
        finally:
            del start
    if told:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    return sum(flag & 1 for flag in flags) / pages


# --- neighbours -----------------------------------------------------------------------------------------------------


class Neighbour:
    """A process beside the engine (neighbour.py), from entering to leaving. It does nothing before `go`.

    Args:
        words: what it does, as neighbour.py's command line has it.
        group: the cgroup that it runs in.
    """

    def __init__(self, *words: str, group: cgroups.Group | None = None) -> None:
        self._words = [sys.executable, neighbour.__file__, *words]
        if group is not None:
            self._words = group.inside(self._words)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Neighbour:
        self._process = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self._wait_ready(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def go(self) -> None:
        """Begin."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def cpu(self) -> float:
        """Core-seconds that it used so far; 0 once it has ended."""
        assert self._process is not None
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def _wait_ready(self, process: subprocess.Popen[str]) -> None:
        """A neighbour that never gets there is killed, which ends the wait."""
        assert process.stdout is not None
        with _deadline(READY_SECONDS, process.kill):
            said = process.stdout.readline()
        if said != "ready\n":
            raise Unusable(f"a neighbour ({' '.join(self._words[-3:])}) did not start: exit code {process.wait()}")

    def _end(self) -> None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.kill()
        process.wait()
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()


@contextmanager
def _deadline(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# --- left as found --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """What a lab may leave behind: swap that is on, cgroups, processes, files. As names, of the lab's own only where
    others may have some, too."""

    swaps: frozenset[str]
    groups: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]

    def beyond(self, before: Left) -> list[str]:
        """What is there now and was not before, and what is gone: one line each."""
        told = []
        for kind in ("swaps", "groups", "processes", "files"):
            now, then = getattr(self, kind), getattr(before, kind)
            told += [f"{kind}: {name} is left" for name in sorted(now - then)]
            told += [f"{kind}: {name} is gone" for name in sorted(then - now) if kind == "swaps"]
        return told


def left(parent: Parent | None, work: Path) -> Left:
    """What there is now: all swap of the machine, the lab's groups in `parent`, processes that belong to a lab working
    in the folder `work`, and files that a run puts there for its time."""
    groups = map(str, cgroups.made(parent)) if parent else ()
    files = [str(file) for pattern in (f"{swapfile.PREFIX}*", f"{RUN}*") for file in work.glob(pattern)]
    return Left(
        frozenset(swapfile.active(contents(SWAPS).decode("utf-8", "replace"))),
        frozenset(groups),
        frozenset(_processes(work)),
        frozenset(files),
    )


def _processes(work: Path) -> Iterator[str]:
    """Engines, quanttui itself and neighbours: by what they were started as and the cache folder they were given."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            words = process.cmdline()
            ours = neighbour.__file__ in words and process.ppid() in (os.getpid(), 1)
            if not ours and any("quanttui" in word for word in words) and process.pid != os.getpid():
                ours = process.environ().get("QUANTTUI_CACHE_DIR", "").startswith(str(work))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield f"{process.pid} {' '.join(words)[:120]}"


def recover(
    parent: Parent | None,
    work: Path,
    say: Callable[[str], None],
    alive: Callable[[int], bool] = psutil.pid_exists,
    off: swapfile.Call = swapfile.switch_off,
) -> None:
    """Take away what labs that were killed outright have left in the same places. What is in swap goes first."""
    for folder in cgroups.leftover(parent, alive) if parent else []:
        say(f"{folder}: a cgroup that an earlier lab left is removed, and what runs in it killed")
        cgroups.remove(folder)
    on = swapfile.active(contents(SWAPS).decode("utf-8", "replace"))
    for file in work.glob(f"{swapfile.PREFIX}*"):
        if not alive(_owner(file, swapfile.PREFIX)):
            if str(file) in on:
                say(f"{file}: swap that an earlier lab left on is switched off")
                off(str(file))
            file.unlink()
    for folder in work.glob(f"{RUN}*"):
        if not alive(_owner(folder, RUN)):
            shutil.rmtree(folder, ignore_errors=True)


def run_folder(work: Path) -> Path:
    """A new folder for the time of a run, which tells whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{RUN}{os.getpid()}-", dir=work))


def _owner(file: Path, prefix: str) -> int:
    """The process that made a file by its name, 0 (which nobody is) where that tells none."""
    return whole(re.split(r"[-.]", file.name.removeprefix(prefix))[0].encode()) or 0


class Told(BaseException):
    """SIGTERM or SIGHUP: told to end. What is open is closed on the way out."""


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP unwind the stack like ctrl-c; a second one, while that goes on, changes nothing.
    What is ignored (nohup) stays so."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in kinds:
            signal.signal(each, signal.SIG_IGN)
        raise Told(signal.Signals(number).name)

    kinds = [kind for kind in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(kind) != signal.SIG_IGN]
    before = [signal.signal(kind, stop) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
