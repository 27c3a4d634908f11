"""A pseudo terminal with a program on it: who reads what it writes and when, what is pressed, what size it has.

Knows nothing of quanttui. `Picture` is what a person would see, told by pyte from the bytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyte

SIZE = (120, 40)
"""Columns and rows."""

_LOOK = 0.05
_FOREIGN = re.compile(rb"\x1b\[[<=>][\d;:]*[A-Za-z]")
"""Sequences that pyte does not know and would show the end of."""


@dataclass(frozen=True)
class Chunk:
    """What one read gave, and when (monotonic seconds)."""

    at: float
    data: bytes


class Picture:
    """The screen after the bytes that were fed so far."""

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        self._screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, data: bytes) -> None:
        self._stream.feed(_FOREIGN.sub(b"", data))

    @property
    def lines(self) -> list[str]:
        """The text of each row."""
        return list(self._screen.display)

    def cells(self, rows: slice = slice(None)) -> tuple[object, ...]:
        """Everything that is to be seen in some rows, colours included: equal if they look the same."""
        wanted = range(self._screen.lines)[rows]
        return tuple(tuple(self._screen.buffer[y][x] for x in range(self._screen.columns)) for y in wanted)


class Terminal:
    """A program on a terminal of its own, whose output a thread reads.

    Args:
        words: the program and its arguments.
        environment: all of its own.
        folder: where it is started.
    """

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, size: tuple[int, int] = SIZE
    ) -> None:
        self.chunks: list[Chunk] = []
        self.picture = Picture(size)
        self.code: int | None = None
        self._shown = 0
        self._reading, self._closing = threading.Event(), threading.Event()
        self._reading.set()
        self.begun = time.monotonic()
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            try:
                _set_size(0, *size)
                os.chdir(folder)
                os.execve(words[0], list(words), dict(environment))
            finally:
                os._exit(127)
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        if self.wait(1.0) is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait(10.0)

    def _read(self) -> None:
        poll = select.poll()  # select() takes no descriptor beyond 1023, and a long run of tests has many
        poll.register(self._master, select.POLLIN)
        while not self._closing.is_set():
            if not self._reading.wait(_LOOK) or not poll.poll(1000 * _LOOK):
                continue
            try:
                data = os.read(self._master, 1 << 16)
            except OSError as error:
                if error.errno == errno.EIO:  # nobody holds the other end any more
                    return
                raise
            if not data:
                return
            self.chunks.append(Chunk(time.monotonic(), data))

    # --- what a person does

    def press(self, keys: str) -> float:
        """Type; the moment just before it."""
        at = time.monotonic()
        os.write(self._master, keys.encode())
        return at

    def resize(self, columns: int, rows: int) -> None:
        """The kernel tells the program by SIGWINCH, which then paints everything anew: so does the picture."""
        _set_size(self._master, columns, rows)
        self.picture, self._shown = Picture((columns, rows)), len(self.chunks)

    def stall(self) -> None:
        """Read nothing from now on."""
        self._reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._reading.set()

    def hang_up(self) -> None:
        """The terminal is gone; the program gets SIGHUP."""
        if not self._closing.is_set():
            self._closing.set()
            self._reader.join()
            os.close(self._master)

    def wait(self, seconds: float) -> int | None:
        """Its exit code (negative: the signal that killed it) if it ends within that time."""
        end = time.monotonic() + seconds
        while self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                break
            else:
                time.sleep(0.02)
        return self.code

    @property
    def echoes(self) -> bool:
        """Whether what is typed is shown at once, as in a shell."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    # --- what a person sees

    def show(self) -> Picture:
        """The picture of all that has come."""
        while self._shown < len(self.chunks):
            self.picture.feed(self.chunks[self._shown].data)
            self._shown += 1
        return self.picture

    def until(self, seen: Callable[[Picture], bool], seconds: float = 30.0) -> float | None:
        """When the bytes came after which something is to be seen; None if that is not within `seconds`."""
        end = time.monotonic() + seconds
        if seen(self.picture):
            return self.chunks[self._shown - 1].at if self._shown else self.begun
        while time.monotonic() < end:
            while self._shown < len(self.chunks):
                chunk = self.chunks[self._shown]
                self.picture.feed(chunk.data)
                self._shown += 1
                if seen(self.picture):
                    return chunk.at
            if not self._reader.is_alive() and self._shown == len(self.chunks):
                return None
            time.sleep(0.005)
        return None

    def output(self, begin: float = 0.0, end: float = float("inf")) -> bytes:
        """What came in a stretch of time."""
        return b"".join(chunk.data for chunk in self.chunks if begin <= chunk.at < end)


def _set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def python(*words: str) -> list[str]:
    """This Python with some arguments."""
    return [sys.executable, *words]
