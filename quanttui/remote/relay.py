"""The far end, on the machine of the sweep: sends a session's log as it grows, and leaves a viewer's requests.

It reads the log and nothing of the sweep waits for it: where the connection stalls, it stalls alone. It looks four
times a second and decodes no event but those that say who writes.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from quanttui import events as e
from quanttui import session
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.remote import wire

POLL = 0.25
"""Seconds between looks at the log."""

BEAT = 1.0
"""Seconds between words about the writer."""

_PIECE = 1 << 16
_NICE = 10
_SESSION = b'{"event":"session.'


class Log:
    """A session's log, read in whole lines from byte `read` on. `writer` and `outcome` are those of the last run in
    what was read of it ever; `at_end` after a read that found no more than it gave."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / session.EVENTS
        self.read = 0
        self.at_end = False
        self.writer: tuple[int, float] | None = None
        self.outcome = ""
        self._known = 0
        self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))

    def lines(self) -> bytes:
        """The next whole lines, about 64 KiB of them; nothing where there is no more."""
        size = _PIECE
        while True:
            block = os.pread(self._file, size, self.read)
            whole = block[: block.rfind(b"\n") + 1]
            self.at_end = len(block) < size
            if whole or self.at_end:
                self.read += len(whole)
                if self.read > self._known:
                    self._known = self.read
                    self._note(whole)
                return whole
            size *= 2

    def _note(self, lines: bytes) -> None:
        """Keep who writes."""
        if _SESSION not in lines:
            return
        for line in lines.split(b"\n"):
            if line.startswith(_SESSION):
                with suppress(ValueError):
                    event = e.decode(line)
                    if isinstance(event, (e.SessionOpened, e.SessionResumed)):
                        self.writer, self.outcome = (event.pid, event.pid_started), ""
                    elif isinstance(event, e.SessionClosed):
                        self.outcome = event.outcome

    @property
    def alive(self) -> bool:
        """Whether the writer runs."""
        return not self.outcome and self.writer is not None and session.writes(self.writer, self.path.parent)

    @property
    def over(self) -> bool:
        """Whether it ended by itself. One that was interrupted may go on at any moment, in another process."""
        return self.outcome not in ("", "interrupted")

    def is_boundary(self, offset: int) -> bool:
        """Whether a line begins at this byte."""
        return offset == 0 or (0 < offset <= self.size() and os.pread(self._file, 1, offset - 1) == b"\n")

    def size(self) -> int:
        """Bytes."""
        return os.fstat(self._file).st_size

    def age(self) -> float:
        """Seconds since it grew."""
        return max(0.0, time.time() - os.fstat(self._file).st_mtime)

    def close(self) -> None:
        os.close(self._file)


class _Asked(threading.Thread):
    """Queues what the mirror says after its first word; `over` when it says no more. `spoken` tells of either."""

    def __init__(self, source: IO[bytes]) -> None:
        super().__init__(name="relay asked", daemon=True)
        self.queue: queue.SimpleQueue[wire.Ask] = queue.SimpleQueue()
        self.spoken = threading.Event()
        self.over = False
        self._source = source

    def run(self) -> None:
        with suppress(OSError, ValueError):
            while line := self._source.readline(wire.LINE):
                with suppress(ValueError):
                    said = wire.of_mirror(line)
                    if isinstance(said, wire.Ask):
                        self.queue.put(said)
                        self.spoken.set()
        self.over = True
        self.spoken.set()


def run(folder: Path) -> int:
    """Relay a session over stdin and stdout, and let everything else on this machine go first.

    Raises:
        UserError: nothing is recorded in it, or the other end speaks otherwise.
    """
    if hasattr(os, "nice"):
        os.nice(_NICE)
    with suppress(BrokenPipeError):
        serve(folder, sys.stdin.buffer, sys.stdout.buffer)
    return 0


def serve(folder: Path, source: IO[bytes], sink: IO[bytes], poll: float = POLL) -> None:
    """Speak with a mirror until it says no more.

    Args:
        source, sink: from and to the mirror.
        poll: seconds between looks at the log.

    Raises:
        UserError: nothing is recorded in it, or the other end speaks otherwise.
        BrokenPipeError: the mirror went away amid a piece.
    """
    log = Log(folder)
    try:
        _send(sink, hello(folder, log))
        first = source.readline(wire.LINE)
        if first:
            _relay(folder, log, _start(log, first), source, sink, poll)
    finally:
        log.close()


def hello(folder: Path, log: Log) -> wire.Hello:
    """What a mirror is told of a session before anything else.

    Raises:
        UserError: nothing is recorded in it.
    """
    first = log.lines().partition(b"\n")[0]
    if not first:
        raise UserError(f"{folder}: nothing is recorded there yet: try again in a moment")
    while log.lines():
        pass  # who writes now is said in the last run's first line, wherever that is
    return wire.Hello(
        protocol=wire.PROTOCOL,
        session=folder.resolve().name,
        folder=str(folder.resolve()),
        key=hashlib.sha256(first).hexdigest()[:16],
        size=log.size(),
        alive=log.alive,
        wall=time.time(),
    )


def _start(log: Log, line: bytes) -> int:
    """The byte that the mirror wants to go on from."""
    try:
        said = wire.of_mirror(line)
    except ValueError:
        said = None
    if not isinstance(said, wire.From) or not log.is_boundary(said.offset):
        raise UserError(f"relay: {clean(line.decode('utf-8', 'replace'), 60)}: is no place in {log.path}")
    return said.offset


def _relay(folder: Path, log: Log, start: int, source: IO[bytes], sink: IO[bytes], poll: float) -> None:
    asked = _Asked(source)
    asked.start()
    log.read = start
    told, due = (False, False), 0.0
    while not asked.over:
        lines = log.lines()
        if lines:
            _send(sink, wire.Piece(offset=log.read - len(lines), size=len(lines), crc=zlib.crc32(lines)), lines)
        asked.spoken.clear()
        _take(folder, asked, sink)
        now, ended = time.monotonic(), (bool(log.outcome), log.over and log.at_end)
        if now >= due or ended != told:
            told, due = ended, now + BEAT
            _send(sink, wire.Beat(alive=log.alive, whole=log.at_end, over=ended[1], wall=time.time(), age=log.age()))
        if not lines and not asked.over:
            asked.spoken.wait(poll)
    _take(folder, asked, sink)


def _take(folder: Path, asked: _Asked, sink: IO[bytes]) -> None:
    """Leave what was asked for, and confirm it."""
    taken = []
    while not asked.queue.empty():
        ask = asked.queue.get()
        leave(folder, ask)
        taken.append(ask.at)
    for at in taken:
        _send(sink, wire.Took(at=at))


def _send(sink: IO[bytes], message: wire.FromRelay, more: bytes = b"") -> None:
    sink.write(wire.encode(message) + more)
    sink.flush()


def leave(folder: Path, ask: wire.Ask) -> None:
    """Append a viewer's request to the session's control.jsonl, unless it lies there: its answer was lost then."""
    said = {"request": clean(ask.request, 40), "arm": clean(ask.arm, 80), "value": clean(ask.value, 40)}
    mark = msgspec.json.encode({"via": clean(ask.via, 80)})[1:-1]
    with suppress(FileNotFoundError):
        if any(mark in line for line in (folder / session.CONTROL).read_bytes().split(b"\n")[:-1]):
            return
    session.leave(folder, msgspec.json.encode({**said, "wall": time.time()})[:-1] + b"," + mark + b"}\n")
