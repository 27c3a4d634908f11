"""The parent's side of an engine process: starts it, asks it, stops it, and says how it ended.

An engine runs in a session of its own, its stdout and stderr in a file, and ends when its stdin does. Whatever becomes
of it (an exit, a signal, an abort inside native code, the OOM killer, a hang) is one exception with the last lines
that it wrote. Knows the protocol, nothing of llama.cpp.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

import msgspec
import psutil

import quanttui
from quanttui import paths
from quanttui.engine import protocol
from quanttui.engine.protocol import OUT_OF_MEMORY
from quanttui.errors import UserError
from quanttui.format import clean

STOP_SECONDS = 1.0
"""How long a stopped engine may take to come to rest before it is killed: its abort flag works on CPU graphs only."""

STALL_SECONDS = 60.0
"""An engine that neither answers nor uses the CPU or a disk for this long hangs."""

LAST_LINES = 12
"""How much of its stderr is kept with a failure."""

_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "PYTHONSAFEPATH": "1"}
"""An aborting llama.cpp forks no debugger that would hold our pipes open and bury the reason under frames, and no
module of the working directory stands in for one of ours."""

_WATCH = 5.0
_TAIL = 16384

_DOING = {
    protocol.Load: "loading the model",
    protocol.Speed: "measuring speed",
    protocol.Warm: "warming up",
    protocol.Tokenize: "tokenizing the text",
    protocol.Score: "scoring the text",
    protocol.Render: "reading the prompts",
    protocol.Generate: "answering a prompt",
    protocol.Quantize: "quantizing",
    protocol.Imatrix: "computing the importance matrix",
    protocol.Bandwidth: "measuring bandwidth",
    protocol.Kernels: "measuring arithmetic",
}


class EngineFailure(Exception):
    """A request came to nothing. `outcome` is one of events.OUTCOMES."""

    def __init__(
        self,
        outcome: str,
        error: str,
        signal: int | None = None,
        exit_code: int | None = None,
        stderr: tuple[str, ...] = (),
    ):
        super().__init__(error)
        self.outcome, self.error, self.signal, self.exit_code, self.stderr = outcome, error, signal, exit_code, stderr


class Refused(EngineFailure):
    """The engine said no, in one line, and lives on."""


class EngineDied(EngineFailure):
    """The process is gone: outcome oom or crashed, with its signal or exit code."""


class Hung(EngineFailure):
    """It did not answer in time, and was killed: outcome timeout."""


class Interrupted(Exception):
    """The request was given up because `interrupt` was called."""


class Engine:
    """One engine process. `ask` and `close` belong to one thread; `interrupt` may come from any, or a signal handler.

    Args:
        stderr: the file that the process writes to, for its last lines.
        written: how long that file was before, in bytes.
        stall: seconds without an answer and without CPU time or I/O after which it counts as hung.
        kills: how many processes the kernel killed for want of memory so far.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stderr: Path,
        written: int = 0,
        stall: float = STALL_SECONDS,
        kills: Callable[[], int] | None = None,
    ) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._process = process
        self._requests: IO[bytes] = process.stdin
        self._replies: IO[bytes] = process.stdout
        self._stderr, self._written = stderr, written
        self._stall = stall
        self._kills = kills or oom_kills
        self._killed = self._kills()
        self._lock = threading.RLock()
        self._interrupted = threading.Event()
        self._number = 0
        self._pending = 0
        self._doing = "starting"
        self._answers: queue.Queue[protocol.Answer | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"engine {self.pid}", daemon=True)
        self._reader.start()

    @classmethod
    def start(
        cls, stderr: Path, origin_ns: int, stall: float = STALL_SECONDS, kills: Callable[[], int] | None = None
    ) -> Engine:
        """A new engine process whose stdout and stderr go to the file `stderr`.

        Args:
            origin_ns: where session time 0 lies on the monotonic clock.

        Raises:
            UserError: the file cannot be written, or no process can be started.
        """
        package = str(Path(quanttui.__file__).parents[1])
        path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
        try:
            with open(stderr, "ab", opener=paths.private) as file:
                written = file.tell()
                process = subprocess.Popen(
                    [sys.executable, "-m", "quanttui.engine.child"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    start_new_session=True,
                    env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                )
        except OSError as error:
            raise UserError(f"{error.filename or stderr}: cannot start an engine ({error.strerror})") from None
        engine = cls(process, stderr, written, stall, kills)
        engine._send(0, protocol.Hello(origin_ns=origin_ns))
        return engine

    def ask(self, request: protocol.Request, patience: float = 600.0) -> Iterator[protocol.Answer]:
        """Have one request met: yields its answers as they come, and returns when it is done.

        The request goes out with the first answer that is asked for. Who stops listening before the end kills the
        engine: its answers could not be told from the next request's.

        Args:
            patience: the longest time without any answer, in seconds.

        Raises:
            Refused, EngineDied, Hung: it came to nothing.
            Interrupted: it was given up on request.
        """
        with self._lock:
            if self._interrupted.is_set():
                raise Interrupted
            self._number += 1
            self._pending = self._number
        self._doing = _DOING.get(type(request), "starting")
        self._send(self._number, request)
        ended = False
        try:
            while True:
                answer = self._wait(patience)
                ended = isinstance(answer, (protocol.Answered, protocol.Refusal))
                if isinstance(answer, protocol.Answered):
                    return
                if isinstance(answer, protocol.Refusal):
                    if self._interrupted.is_set():
                        raise Interrupted
                    raise Refused(answer.outcome, answer.error)
                yield answer
        finally:
            with self._lock:
                self._pending = 0
            if not ended:
                self._process.kill()

    def interrupt(self) -> None:
        """Give up what is asked now, and all that would be asked later: within STOP_SECONDS, by a kill if need be."""
        with self._lock:
            known = self._interrupted.is_set()
            self._interrupted.set()
            number = self._pending
        if known or not number:
            return
        with suppress(OSError, ValueError, RuntimeError):  # the last: a signal handler amid a write of the same thread
            protocol.write(self._requests, protocol.Envelope(number, protocol.Stop()))
        timer = threading.Timer(STOP_SECONDS, self._kill_if_pending, (number,))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """End the process: its stdin closes, and it is killed if that is not enough. Leaves no zombie."""
        with suppress(OSError, ValueError):
            self._requests.close()
        self._reap()
        self._reader.join()
        self._replies.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, number: int, request: protocol.Request) -> None:
        """A request that cannot be delivered is no error here: the engine's death is told by `_wait`."""
        with suppress(OSError, ValueError):
            protocol.write(self._requests, protocol.Envelope(number, request))

    def _read(self) -> None:
        """Queue the answers as they come, None after the last. The one to Hello must not be taken for another's."""
        greeted = False
        while True:
            try:
                answer = protocol.read_answer(self._replies)
            except (msgspec.DecodeError, OSError, ValueError):
                answer = None
            if not greeted and isinstance(answer, protocol.Answered):
                greeted = True
                continue
            self._answers.put(answer)
            if answer is None:
                return

    def _wait(self, patience: float) -> protocol.Answer:
        begun = moved = time.monotonic()
        before: tuple[float, ...] | None = None  # asked for once nothing came: most answers come at once
        while True:
            try:
                answer = self._answers.get(timeout=min(_WATCH, self._stall, patience))
            except queue.Empty:
                now, activity = time.monotonic(), self._activity()
                if activity != before:
                    before, moved = activity, now
                if now - begun >= patience:
                    self._hung(f"no answer for {patience:.0f} s while {self._doing}")
                if now - moved >= self._stall:
                    self._hung(f"hangs while {self._doing}: no answer, no CPU time and no I/O for {self._stall:.0f} s")
                continue
            if answer is None:
                self._died()
            return answer

    def _activity(self) -> tuple[float, ...]:
        """What grows while the process works, as far as the host tells: core-seconds, bytes read and written."""
        grows: list[float] = []
        with suppress(psutil.Error, OSError, AttributeError):
            process = psutil.Process(self.pid)
            cpu = process.cpu_times()
            grows += [cpu.user, cpu.system]
            disk = process.io_counters()
            grows += [disk.read_bytes, disk.write_bytes]
        return tuple(grows)

    def _kill_if_pending(self, number: int) -> None:
        with self._lock:
            due = self._pending == number
        if due:
            self._process.kill()

    def _reap(self) -> int:
        """Wait for the end of a process that has no reason to go on, and kill it if it does; its exit code."""
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _hung(self, why: str) -> NoReturn:
        self._process.kill()
        self._process.wait()
        if self._interrupted.is_set():
            raise Interrupted
        raise Hung("timeout", f"{why}: killed", stderr=self._last_lines())

    def _died(self) -> NoReturn:
        self._answers.put(None)
        code = self._reap()
        if self._interrupted.is_set():
            raise Interrupted
        lines = self._last_lines()
        told = f" while {self._doing}{_said(lines)}"
        if code >= 0:
            raise EngineDied("crashed", f"the engine exited with code {code}{told}", None, code, lines)
        number = -code
        if number == signal.SIGKILL and self._kills() > self._killed:
            error = f"the kernel killed the engine while {self._doing}: out of memory"
            raise EngineDied("oom", error, number, None, lines)
        outcome = "oom" if number == signal.SIGABRT and OUT_OF_MEMORY.search(told) else "crashed"
        raise EngineDied(outcome, _signalled(number, told, self._doing), number, None, lines)

    def _last_lines(self) -> tuple[str, ...]:
        """What the process wrote last. What an earlier one wrote into the same file is not its own."""
        try:
            with open(self._stderr, "rb") as file:
                file.seek(max(self._written, os.fstat(file.fileno()).st_size - _TAIL))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ()
        lines = (clean(line) for line in text.splitlines())
        return tuple([line for line in lines if line.strip(" .")][-LAST_LINES:])


def _signalled(number: int, told: str, doing: str) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    if name == "SIGABRT":
        return f"aborted inside llama.cpp{told}"
    if name == "SIGBUS":
        return f"killed by SIGBUS while {doing}: the model file changed or became unreadable while it was mapped"
    if name == "SIGILL":
        return "killed by SIGILL: this llama.cpp was built for another CPU: install llama-cpp-python from source"
    return f"the engine was killed by signal {number} ({name}) while {doing}"


def _said(lines: tuple[str, ...]) -> str:
    """What an aborting process said last of why: an assertion, an exception, or just its last line."""
    telling = ("what():", "GGML_ASSERT", "error", "Error", "terminate", "assert")
    found = next((line for word in telling for line in reversed(lines) if word in line), lines[-1] if lines else "")
    return f": {found}" if found else ""


def oom_kills() -> int:
    """How many processes the kernel killed for want of memory, here and in our cgroup: only its growth means anything.

    0 where nothing tells.
    """
    return sum(map(_count_of_kills, ("/proc/vmstat", *_cgroup_files())))


def _cgroup_files() -> tuple[str, ...]:
    """Where our memory cgroup counts its kills: version 1 and 2, named from the root or from inside a container."""
    files = []
    with suppress(OSError, ValueError), open("/proc/self/cgroup") as cgroups:
        for line in cgroups:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if "memory" in controllers.split(","):
                files += [f"/sys/fs/cgroup/memory{path}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
            elif not controllers:
                files += [f"/sys/fs/cgroup{path}/memory.events", "/sys/fs/cgroup/memory.events"]
    return tuple(dict.fromkeys(files))


def _count_of_kills(path: str) -> int:
    with suppress(OSError, ValueError), open(path) as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
