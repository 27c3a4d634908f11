"""What this process costs: CPU, memory, bytes to the terminal."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import psutil

from quanttui.tui.parts import Own


class Cost:
    """Measures it over stretches of at least a second."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._then = (time.monotonic(), time.process_time(), 0)
        self._own = Own()

    def now(self, driver: Any, age: float | None, pace: str, log: str) -> Own:
        """The figures of the last whole stretch.

        Args:
            driver: Textual's, whose outlet counts what was written.
            age: seconds since something new was read.
            pace, log: words on how often is painted, and on the log and who writes it.
        """
        written = getattr(getattr(driver, "outlet", None), "written", 0)
        here = (time.monotonic(), time.process_time(), written)
        elapsed = here[0] - self._then[0]
        if elapsed >= 1:
            cpu, sent = (here[1] - self._then[1]) / elapsed, (here[2] - self._then[2]) / elapsed
            self._own = Own(cpu, float(self._process.memory_info().rss), sent, pace=self._own.pace)
            self._then = here
        self._own = msgspec.structs.replace(self._own, age=age, pace=pace or self._own.pace, log=log)
        return self._own
