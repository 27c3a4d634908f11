"""A program on a terminal of its own, all of whose output a thread reads into a file. Knows nothing of quanttui."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SIZE = (120, 40)
"""Columns and rows."""

_LOOK_MS = 50


class Terminal:
    """As subprocess.Popen has it as far as the campaign asks: pid, poll, send_signal, kill.

    Args:
        words: the program and its arguments.
        environment: all of its own.
        out: the file that its output is added to.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], out: Path) -> None:
        self.returncode: int | None = None
        self._gone = threading.Event()
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
                os.execve(words[0], list(words), dict(environment))
            finally:
                os._exit(127)
        self._reader = threading.Thread(target=self._read, args=(out,), name="terminal", daemon=True)
        self._reader.start()

    def _read(self, out: Path) -> None:
        poll = select.poll()  # select() takes no descriptor beyond 1023, and a long run of tests has many
        poll.register(self._master, select.POLLIN)
        with open(out, "ab", buffering=0) as file:
            while not self._gone.is_set():
                if not poll.poll(_LOOK_MS):
                    continue
                try:
                    data = os.read(self._master, 1 << 16)
                except OSError:  # nobody holds the other end any more
                    return
                if not data:
                    return
                file.write(data)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def hang_up(self) -> None:
        """The terminal is gone; the program gets SIGHUP."""
        if not self._gone.is_set():
            self._gone.set()
            self._reader.join()
            os.close(self._master)

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the program alone. Nothing where it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
