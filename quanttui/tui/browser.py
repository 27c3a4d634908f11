"""A browser as the screen: Textual's web driver, written to through an Outlet. Knows the wire, not who serves it.

The wire is textual-serve's: on stdout a line `__GANGLION__`, then packets of one byte of kind (D what a terminal would
get, M a message as JSON), four bytes of size, highest first, and the content; on stdin the same the other way.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, cast

from textual import events
from textual.driver import Driver
from textual.drivers.web_driver import WebDriver

from quanttui.tui.terminal import Outlet


class Packets:
    """As much of a text file as an Outlet needs: each text that is written becomes a packet on a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        left = memoryview(b"D" + len(data).to_bytes(4, "big") + data)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def flush(self) -> None:
        pass


def driver_class(hung_up: Callable[[], None]) -> type[Driver]:
    """The driver for an app whose screen is a browser.

    Args:
        hung_up: called in the event loop when the tab is closed or the server is gone.
    """

    class Browser(WebDriver):
        """Textual's driver, never waiting for the browser; a tab that closes is a terminal that hangs up."""

        def __init__(self, app: Any, **options: Any) -> None:
            super().__init__(app, **options)
            self.outlet = Outlet(cast(IO[str], Packets(self.fileno)))
            self.outlet.start()
            self._begun = self._looked_at = False

        def write(self, data: str) -> None:
            self.outlet.write(data)

        def write_meta(self, data: dict[str, object]) -> None:
            # What has not got through by now never will, and a message in the midst of a packet is none.
            if data.get("type") == "exit":
                data = {**data, "sweeping": getattr(self._app, "sweeping", False)}
            if not (self.outlet.backlog or self.outlet.gone):
                with suppress(OSError):
                    super().write_meta(data)

        def start_application_mode(self) -> None:
            super().start_application_mode()
            # A handler of the loop goes with the loop: SIGTERM would then kill a sweep that its screen has left.
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().remove_signal_handler(number)
            if not self._mouse:
                self._disable_mouse_support()
            self._begun = True
            self._tell_focus()

        def stop_application_mode(self) -> None:
            self.outlet.stop()
            super().stop_application_mode()

        def on_meta(self, packet_type: str, payload: dict[str, object]) -> None:
            if packet_type == "quit":
                self._app.call_later(hung_up)
            elif packet_type in ("focus", "blur"):
                self._looked_at = packet_type == "focus"
                self._tell_focus()
            else:
                super().on_meta(packet_type, payload)

        def _tell_focus(self) -> None:
            # Textual's driver says at its start that nobody looks, even if the browser has said before that somebody
            # does: what it said comes after that, in the same queue.
            if self._begun:
                seen = events.AppFocus() if self._looked_at else events.AppBlur()
                self._app.call_later(self._app.post_message, seen)

        def run_input_thread(self) -> None:
            super().run_input_thread()
            if not self.exit_event.is_set():
                self._app.call_later(hung_up)

    return Browser
