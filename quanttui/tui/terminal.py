"""The way to the terminal: counts what is written, never holds up the screen, outlives a terminal that is gone.

Textual's own writer blocks the event loop once 30 writes wait (a stalled link); here the queue is never full, and
the screen asks `backlog` and paints nothing while there is one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import IO, Any

from textual.driver import Driver

from quanttui.tui import evidence


class Outlet(threading.Thread):
    """A thread that writes text to a file. `written` bytes have left, `backlog` bytes wait; an error ends all writing.

    Both counts are of UTF-8. Once the file fails (the terminal hung up) what comes is dropped.
    """

    def __init__(self, file: IO[str]) -> None:
        super().__init__(name="terminal-output", daemon=True)
        self.written = 0
        self.backlog = 0
        self.gone = False
        self._file = file
        self._waiting: deque[str] = deque()
        self._turn = threading.Condition()
        self._over = False

    def write(self, text: str) -> None:
        """Have the text written; returns at once."""
        with self._turn:
            if not self.gone and not self._over:
                self._waiting.append(text)
                self.backlog += len(text)
                self._turn.notify()

    def run(self) -> None:
        while True:
            with self._turn:
                while not self._waiting and not self._over:
                    self._turn.wait()
                if not self._waiting:
                    return
                text = "".join(self._waiting)
                self._waiting.clear()
            self._put(text)

    def _put(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except (OSError, ValueError):
            self.gone = True
        with self._turn:
            self.backlog = 0 if self.gone else self.backlog - len(text)
            self.written += len(text.encode("utf-8", "replace"))

    def stop(self, patience: float = 1.0) -> None:
        """Write what waits and end; a terminal that takes nothing is waited for no longer than `patience` seconds."""
        with self._turn:
            self._over = True
            self._turn.notify()
        if self.is_alive():
            self.join(patience)


def driver_class(hung_up: Callable[[], None]) -> type[Driver] | None:
    """The driver with an outlet of ours, None where the platform has one of its own (Windows).

    Args:
        hung_up: called in the event loop when the terminal can no longer be read.
    """
    if sys.platform == "win32":
        return None
    if evidence.in_browser(os.environ):
        from quanttui.tui import browser

        return browser.driver_class(hung_up)
    from textual.drivers.linux_driver import LinuxDriver

    class Terminal(LinuxDriver):
        """Textual's driver, writing through an Outlet."""

        def __init__(self, app: Any, **options: Any) -> None:
            super().__init__(app, **options)
            assert self._file is not None
            self.outlet = Outlet(self._file)
            self.outlet.start()

        def write(self, data: str) -> None:
            self.outlet.write(data)

        def close(self) -> None:
            self.outlet.stop()
            super().close()
            # Textual's handlers would have the screen come back, of which nothing is left: a terminal that hangs up
            # sends SIGCONT, too, to a sweep that its screen has left.
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTSTP, signal.SIGCONT):
                    signal.signal(number, signal.SIG_DFL)

        def _run_input_thread(self) -> None:
            # A terminal that hung up ends the reading with an error: SIGHUP tells the app, no traceback has to.
            try:
                self.run_input_thread()
            except OSError:
                self.outlet.gone = True
                self._app.call_later(hung_up)

    return Terminal
