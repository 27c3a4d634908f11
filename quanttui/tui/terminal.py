"""The way to the terminal: counts what is written, never holds up the screen, outlives a terminal that is gone.

Textual's own writer blocks the event loop once 30 writes wait (a stalled link); here the queue is never full, and
the screen asks `backlog` and paints nothing while there is one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from textual.driver import Driver

from quanttui.tui import evidence

HIDDEN = "\x1b[?1049h\x1b[?25l"
"""The alternate screen, without a cursor."""


class Outlet(threading.Thread):
    """A thread that writes text to a file. `written` bytes have left, `backlog` bytes wait; an error ends all writing.

    Both counts are of UTF-8. Once the file fails (the terminal hung up) what comes is dropped.

    Args:
        written: bytes that another one has written before.
    """

    def __init__(self, file: IO[str], written: int = 0) -> None:
        super().__init__(name="terminal-output", daemon=True)
        self.written = written
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
    import termios

    from textual.drivers.linux_driver import LinuxDriver

    class Terminal(LinuxDriver):
        """Textual's driver, writing through an Outlet."""

        def __init__(self, app: Any, **options: Any) -> None:
            super().__init__(app, **options)
            self.outlet = self._opened(0)
            self._up: tuple[asyncio.AbstractEventLoop, list[Any]] | None = None

        def _opened(self, written: int) -> Outlet:
            assert self._file is not None
            made = Outlet(self._file, written)
            made.start()
            return made

        def write(self, data: str) -> None:
            self.outlet.write(data)

        def start_application_mode(self) -> None:
            if not self.outlet.is_alive():  # come back from a stop
                self.outlet = self._opened(self.outlet.written)
            super().start_application_mode()  # type: ignore[no-untyped-call]
            again = self._up is not None
            with suppress(termios.error):
                self._up = asyncio.get_running_loop(), termios.tcgetattr(self.fileno)
            if again:
                self._anew()

        def _sigtstp_application(self, *_: object) -> None:
            if self._up is not None and self._app.is_running:
                super()._sigtstp_application()
            else:
                os.kill(os.getpid(), signal.SIGSTOP)

        def _sigcont_application(self, *_: object) -> None:
            # It comes with every hang-up, too, and to a sweep that its screen has left.
            if self._up is None or not self._app.is_running:
                return
            if self._must_signal_resume:
                super()._sigcont_application()
            else:  # after SIGSTOP: Textual would start anew what still runs, a second reader of the keys with it
                with suppress(termios.error):
                    termios.tcsetattr(self.fileno, termios.TCSANOW, self._up[1])
                self.write(HIDDEN)
                self._anew()

        def _anew(self) -> None:
            """Paint all of the screen: others may have written on it."""
            if self._up is not None and not self._up[0].is_closed():
                self._up[0].call_soon_threadsafe(self._paint)

        def _paint(self) -> None:
            if self._app.is_running and self._app.screen_stack:
                self._app.screen.refresh(layout=True)

        def close(self) -> None:
            self.outlet.stop()
            super().close()

        def _run_input_thread(self) -> None:
            # A terminal that hung up ends the reading with an error: SIGHUP tells the app, no traceback has to.
            try:
                self.run_input_thread()
            except OSError:
                self.outlet.gone = True
                self._app.call_later(hung_up)

    return Terminal
