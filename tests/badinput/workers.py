"""Cases in forked processes with limits: whatever a case does, it is told apart and the next one runs.

A case that takes more than SECONDS of CPU (or WAITS on the clock, where it only waits) hangs; one that asks for more
than MEMORY above what was there blows up. Either, and a process that ends by itself, is a failure like a traceback.
"""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from quanttui.errors import UserError

from .target import Target, Wrong, refusal

SECONDS, WAITS, GRACE = 5.0, 90.0, 15.0
MEMORY = 500 << 20
SLACK = 64 << 20
"""Address space beside it that libraries take for themselves."""
KINDS = ("traceback", "hang", "memory", "wrong")

_PLACE = struct.Struct("<Qd")


class Hang(BaseException):
    """No `except Exception` of the program's keeps it."""


@dataclass
class Tally:
    """How cases came out: `refused` and `read`, and how many failed by KINDS; `told`: each failure once, by what it
    says, with the first input that made it."""

    cases: int = 0
    refused: int = 0
    read: int = 0
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    told: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def put(self, kind: str, said: str, data: bytes) -> None:
        """Take one case."""
        self.cases += 1
        if kind == "read":
            self.read += 1
        elif kind == "refused":
            self.refused += 1
        else:
            self.failed[kind] += 1
            self.told.setdefault((kind, said), data)

    def add(self, other: Tally) -> None:
        """Take another's."""
        self.cases, self.refused, self.read = (
            self.cases + other.cases, self.refused + other.refused, self.read + other.read
        )  # fmt: skip
        self.failed = {kind: self.failed[kind] + other.failed[kind] for kind in KINDS}
        self.told = {**other.told, **self.told}

    @property
    def failures(self) -> int:
        return sum(self.failed.values())


Tell = Callable[[bytes], None]
"""Runs one case."""

Way = Callable[[Target, int, int, Tell], None]
"""Makes so many inputs for a target from a seed, and tells each."""


def run(target: Target, way: Way, count: int, seed: int, until: float) -> Tally:
    """So many cases in processes of their own, one after the other: a new one goes on where one ended.

    Args:
        until: on the monotonic clock; no further case begins then.
    """
    whole = Tally()
    while whole.cases < count and time.monotonic() < until:
        whole.add(_forked(target, way, count - whole.cases, seed + whole.cases, until))
        if not whole.cases:
            raise RuntimeError(f"{target.name}: makes no case")
    return whole


def outcome(target: Target, data: bytes, folder: Path) -> tuple[str, str]:
    """What comes of one input: "refused" or "read", or one of KINDS with what is said of it."""
    try:
        _timed(SECONDS, WAITS)
        try:
            target.run(data, folder)
            return "read", ""
        except UserError as error:
            refusal(error, target.names)
            return "refused", ""
        finally:
            _timed(0, 0)
    except KeyboardInterrupt:
        raise
    except Wrong as error:
        return "wrong", str(error)[:400]
    except Hang:
        return "hang", _where()
    except MemoryError:
        return "memory", _where()
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:160]!r} {_where()}"


def limit() -> None:
    """Set the limits of this process, from here on for ever."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY + SLACK
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGPROF, _hang)
    signal.signal(signal.SIGALRM, _hang)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for files, in memory where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="badinput-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def _timed(seconds: float, waits: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, waits)


def _hang(_: int, __: FrameType | None) -> None:
    raise Hang


def _where() -> str:
    """The last place in quanttui, or else the last at all."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [one for one in frames if f"{os.sep}quanttui{os.sep}" in one.filename and "tests" not in one.filename]
    last = (ours or list(frames))[-1]
    return f"at {Path(last.filename).name}:{last.lineno}"


# --- processes ------------------------------------------------------------------------------------------------------


def _forked(target: Target, way: Way, count: int, seed: int, until: float) -> Tally:
    """The cases of one process, up to its end; one that it ended amid is a failure."""
    place = mmap.mmap(-1, 2 * _PLACE.size + (1 << 21))
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(read)
        code = 1
        try:
            _work(target, way, count, seed, until, place, os.fdopen(write, "wb"))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with open(read, "rb") as answers:
        found, ended = _awaited(child, answers, place)
    if not ended:
        kind, said = ("hang", "in one call") if found is None else ("traceback", f"the process ended: {found}")
        tally, data = _last(place)
        tally.put(kind, said, data)
        return tally
    assert isinstance(found, Tally)
    return found


def _work(target: Target, way: Way, count: int, seed: int, until: float, place: mmap.mmap, answers: BinaryIO) -> None:
    """Run cases, and send what came of them. A case that hung or blew up leaves nothing that goes on with others."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What NumPy warns of would stand beside the one line on stderr.
    warnings.simplefilter("error", RuntimeWarning)
    tally = Tally()

    class Enough(BaseException):
        pass

    limit()
    with scratch() as folder:

        def tell(data: bytes) -> None:
            _note(place, tally, data)
            kind, said = outcome(target, data, folder)
            tally.put(kind, said, data)
            if kind in ("hang", "memory") or tally.cases >= count or time.monotonic() >= until:
                raise Enough

        with suppress(Enough):
            way(target, count, seed, tell)
    _note(place, tally, b"", False)
    answers.write(pickle.dumps(tally))
    answers.close()


def _note(place: mmap.mmap, tally: Tally, data: bytes, busy: bool = True) -> None:
    """Leave word of the case that begins, for whoever finds this process ended."""
    kept = pickle.dumps((tally.cases, tally.refused, tally.read, tally.failed, data[: 1 << 20]))
    place[_PLACE.size : _PLACE.size + len(kept)] = kept
    place[: _PLACE.size] = _PLACE.pack(len(kept), time.monotonic() if busy else 0.0)


def _last(place: mmap.mmap) -> tuple[Tally, bytes]:
    length, _ = _PLACE.unpack(place[: _PLACE.size])
    if not length:
        return Tally(), b""
    cases, refused, read, failed, data = pickle.loads(place[_PLACE.size : _PLACE.size + length])
    return Tally(cases, refused, read, failed), data


def _awaited(child: int, answers: BinaryIO, place: mmap.mmap) -> tuple[Tally | str | None, bool]:
    """The tally of a process and whether it ended as it should; else how it ended, None where it had to be ended."""
    parts = []
    while True:
        ready, _, _ = select.select([answers], [], [], 1.0)
        if ready:
            part = os.read(answers.fileno(), 1 << 16)
            if not part:
                break
            parts.append(part)
            continue
        _, since = _PLACE.unpack(place[: _PLACE.size])
        if since and time.monotonic() - since > WAITS + GRACE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, False
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if parts and code == 0:
        tally: Tally = pickle.loads(b"".join(parts))
        return tally, True
    return (signal.Signals(-code).name if code < 0 else f"exit code {code}"), False
