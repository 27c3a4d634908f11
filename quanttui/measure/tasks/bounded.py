"""What others wrote and this program runs, in a process of its own with limits: regular expressions, JSON Schemas, chat
templates. Owns the process; knows neither checks nor templates by more than their names.

Each is a small program. Some never end and some take all memory there is, and nothing in the process that runs them
could stop them: Python's regular expressions hold its one lock, and no thread but the main one gets signals. So they
run elsewhere, one call after the other, and what takes too long or too much ends with that process. It counts CPU time,
so that a busy machine changes nothing; where the system counts none it is ended from here, by the clock.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

SECONDS = 2.0
"""CPU time of one call: what ends at all ends in a thousandth of it."""

PATIENCE = 20.0
"""Seconds on the clock after which a call is given up, whatever the process does."""

MEMORY = 256 << 20
"""Bytes that all calls may take together, beside the process itself."""

LONGEST = 1 << 22
"""Characters of an argument or a result: no prompt and no answer has as many."""

_SCRIPT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import {0}; sys.exit({0}._serve())"

_lock = threading.Lock()
_held: tuple[int, subprocess.Popen[bytes]] | None = None


class Exceeded(Exception):
    """A call took too long or too much, or could not be made."""


def call(function: Callable[..., T], *given: Any) -> T:
    """What a function of a module gives for plain data (JSON's), made in the process that has limits.

    Raises:
        Exceeded: it took too long or too much.
    """
    try:
        line = json.dumps([function.__module__, function.__name__, given])
    except (ValueError, RecursionError):
        raise Exceeded from None
    if len(line) > LONGEST:
        raise Exceeded
    with _lock:
        answer = _answered(_process(), line.encode() + b"\n")
    if answer is None:
        raise Exceeded
    result: T = json.loads(answer)
    return result


def _answered(process: subprocess.Popen[bytes], line: bytes) -> bytes | None:
    """What the process says to a line; None where it ended over it."""
    assert process.stdin is not None and process.stdout is not None
    patience = threading.Timer(PATIENCE, process.kill)
    patience.daemon = True
    patience.start()
    answer = b""
    try:
        with suppress(OSError):
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline()
    finally:
        # Also where somebody pressed ctrl-c: the next call must not get this one's answer.
        patience.cancel()
        if not answer.endswith(b"\n"):
            _end()
    return answer.rstrip(b"\n") or None


def _process() -> subprocess.Popen[bytes]:
    """The process, begun where there is none. A fork of this one begins its own."""
    global _held
    if _held is not None and _held[0] == os.getpid() and _held[1].poll() is None:
        return _held[1]
    _end()
    paths = [str(Path(part).resolve()) for part in sys.path if part]
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _SCRIPT.format(__name__), json.dumps(paths)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    _held = os.getpid(), process
    return process


@atexit.register
def _end() -> None:
    """End the process, where it is one of ours."""
    global _held
    held, _held = _held, None
    if held is None or held[0] != os.getpid():
        return
    process = held[1]
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()


# --- in that process ------------------------------------------------------------------------------------------------


def _serve() -> int:
    """Answer a line for each line, until there are no more."""
    _limit()
    for line in sys.stdin.buffer:
        module, name, given = json.loads(line)
        function = getattr(importlib.import_module(module), name)
        _count(SECONDS)
        try:
            answer = json.dumps(function(*given))
        except MemoryError:
            return 1
        except (ValueError, RecursionError):
            answer = ""
        _count(0)
        sys.stdout.write((answer if len(answer) <= LONGEST else "") + "\n")
        sys.stdout.flush()
    return 0


def _limit() -> None:
    """Bound the memory, beyond what is taken already, where the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _count(seconds: float) -> None:
    """End this process after so many seconds of its CPU time, where the system counts them; never, for 0."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)
