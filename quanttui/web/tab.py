"""One tab: the process behind it, what it paints, what it is told. Knows no HTTP; the wire is tui/browser.py's.

The processes are plain ones: asyncio's own kill theirs when the loop goes, and a sweep must outlive a server.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import IO

from quanttui.format import clean

DRIVER = "textual.drivers.web_driver:WebDriver"

GRACE = 5.0
"""Seconds that an app has to end, once its tab is closed."""

WIDEST, TALLEST = 500, 300
"""The largest screen, in cells: a frame's cost grows with it."""

_PIECE = 400
"""Bytes of input in one packet: a pipe takes what is below 512 bytes whole or not at all (POSIX)."""

_LARGEST = 2**24
"""Bytes of a packet beyond which it is none."""

_BEGUN = b"__GANGLION__\n"


class Tab:
    """A running app. `sweeping` is what it said when its screen ended: whether a sweep of its own goes on."""

    def __init__(self, process: subprocess.Popen[bytes], output: asyncio.StreamReader, errors: IO[bytes]) -> None:
        self.process = process
        self.sweeping: bool | None = None
        self._output, self._errors = output, errors

    @classmethod
    async def open(cls, command: Sequence[str], environ: Mapping[str, str], size: tuple[int, int]) -> Tab:
        """Start it, in a session of its own: ctrl-c on the server's terminal is not for it.

        Args:
            size: columns and rows of the browser's terminal.

        Raises:
            OSError: it cannot be started.
        """
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (the tab keeps it)
        width, height = within(*size)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**environ, "TEXTUAL_DRIVER": DRIVER, "COLUMNS": str(width), "ROWS": str(height)},
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        output = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(output), process.stdout)
        return cls(process, output, errors)

    async def painted(self) -> AsyncIterator[bytes]:
        """What the app writes to its terminal, until its screen ends; why, where it ended without a word."""
        if await self._begins():
            async for painted in self._packets():
                yield painted
        if self.sweeping is None:
            yield self._complaint()

    async def _packets(self) -> AsyncIterator[bytes]:
        with suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            while True:
                head = await self._output.readexactly(5)
                size = int.from_bytes(head[1:], "big")
                if head[:1] not in b"DMP" or size > _LARGEST:
                    return
                content = await self._output.readexactly(size)
                if head[:1] == b"D":
                    yield content
                elif head[:1] == b"M" and (said := json.loads(content)).get("type") == "exit":
                    self.sweeping = bool(said.get("sweeping"))
                    return

    async def _begins(self) -> bool:
        with suppress(ValueError):  # a line without an end
            for _ in range(10):
                line = await self._output.readline()
                if line == _BEGUN or not line:
                    return bool(line)
        return False

    def _complaint(self) -> bytes:
        """The last line of an app's stderr, as the browser's terminal can show it."""
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4000))
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"\r\n {clean(said[-1]) if said else 'quanttui ended and said nothing'}\r\n".encode()

    def type(self, text: str) -> None:
        """Give it what was typed, or what the terminal answered."""
        data = text.encode("utf-8", "replace")
        for start in range(0, len(data), _PIECE):
            self._put(b"D", data[start : start + _PIECE])

    def resize(self, width: int, height: int) -> None:
        """Tell it the size in cells."""
        width, height = within(width, height)
        self._tell({"type": "resize", "width": width, "height": height})

    def focus(self, focused: bool) -> None:
        """Tell it whether somebody looks."""
        self._tell({"type": "focus" if focused else "blur"})

    def hang_up(self) -> None:
        """The tab is closed: the app ends its screen."""
        self._tell({"type": "quit"})
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def _tell(self, message: dict[str, object]) -> None:
        self._put(b"M", json.dumps(message).encode())

    def _put(self, kind: bytes, content: bytes) -> None:
        """An app that reads no more is told no more."""
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            with suppress(OSError):
                os.write(self.process.stdin.fileno(), kind + len(content).to_bytes(4, "big") + content)

    async def gone(self, grace: float = GRACE) -> bool:
        """See to it, after `hang_up`, that the process ends; False where it goes on.

        Only a process that said that it runs no sweep is killed: of any other that is not sure.
        """
        if await self._ended(grace):
            return True
        if self.sweeping:
            return False
        self.process.terminate()
        if await self._ended(grace):
            return True
        if self.sweeping is None:
            return False
        self.process.kill()
        return await self._ended(grace)

    async def _ended(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, seconds)
        return self.process.returncode is not None


def within(width: int, height: int) -> tuple[int, int]:
    """A size that an app may be given."""
    return min(max(1, width), WIDEST), min(max(1, height), TALLEST)
