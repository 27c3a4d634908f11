"""Made-up events through the program's own writer: what each append costs, and what is on the disk afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from quanttui import events as e
from quanttui import session
from quanttui.sweep import tokens

from .week import HZ, MODEL, Told, Week, planned

LAST = 0.1
"""The share of the events, at the end, whose cost is told apart: it must not grow with the session."""

PACKED = 1e-3
"""Seconds of CPU time from which on an append has made a key frame, too."""

TELL = 0.1
"""A share of the events after which it is said how far it is."""


class Writer(session.Writer):
    """The session's writer, to whom the time is told: session time, in seconds."""

    at = 0.0

    def now(self) -> float:
        return self.at


@dataclass(frozen=True)
class Written:
    """A session of `events` over `seconds` of session time: bytes of its log and of its key frames, the largest frame.

    `cpu`: seconds of the writing thread in `Writer.append`, `packed` of them in the appends that made a key frame.
    `last`: (seconds of CPU, seconds of session time) of the last tenth.
    """

    folder: Path
    events: int
    seconds: float
    log: int
    frames: int
    largest: int
    cpu: float
    packed: float
    last: tuple[float, float]

    @property
    def share(self) -> float:
        """Of a core, at the pace at which the events come."""
        return self.cpu / self.seconds

    @property
    def last_share(self) -> float:
        cpu, seconds = self.last
        return cpu / seconds

    @property
    def per_hour(self) -> float:
        """Bytes of log."""
        return self.log * 3600 / self.seconds


def write(folder: Path, told: Iterable[Told], count: int, say: Callable[[str], None]) -> Written:
    """A session of `count` events in a folder that is not there yet. The last of them closes it."""
    session.create(folder.parent, MODEL, folder)
    writer, cpu, packed, seconds = Writer(folder), 0.0, 0.0, 0.0
    clock, begins = time.thread_time, int(count * (1 - LAST))
    before = (0.0, 0.0)
    try:
        for number, (at, event) in enumerate(_closed(told, count), 1):
            writer.at = seconds = at
            if isinstance(event, e.Tokens):
                event = tokens.kept(folder, event)
            begun = clock()
            writer.append(event)
            took = clock() - begun
            cpu += took
            packed += took if took >= PACKED else 0.0
            if number == begins:
                before = cpu, seconds
            if number % max(1, int(count * TELL)) == 0:
                say(f"{number:,} events, {seconds / 3600:.1f} h, {1e6 * cpu / number:.1f} µs each")
    finally:
        writer.close()
    frames = session.frames(folder)
    return Written(
        folder, writer.state.n + 1, seconds, size(folder / session.EVENTS), size(folder / session.FRAMES),
        max((frame.length for frame in frames), default=0), cpu, packed, (cpu - before[0], seconds - before[1]),
    )  # fmt: skip


def _closed(told: Iterable[Told], count: int) -> Iterable[Told]:
    at = 0.0
    for at, event in islice(told, count - 1):
        yield Told(at, event)
    yield Told(at, e.SessionClosed(outcome="interrupted"))


def week(folder: Path, count: int, say: Callable[[str], None]) -> Written:
    """The sweep of so many events, over as many arms as it takes."""
    return write(folder, Week(planned(count)).events(), count, say)


def of_speed(folder: Path, tok_s: float, hours: float, say: Callable[[str], None]) -> Written:
    """A sweep whose arms all decode at `tok_s`, for about so many hours."""
    count = round(hours * 3600 * (HZ + 6))
    return write(folder, Week(planned(2 * count, (tok_s,))).events(), count, say)


def size(file: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return file.stat().st_size if file.exists() else 0
