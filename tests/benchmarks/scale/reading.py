"""A session of millions of events on the screen, in the list, in reports; followed while it grows."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from quanttui import events as e
from quanttui import session

from ..figures import median
from ..screen.figure import Broken, Figure
from ..screen.programs import CHECKOUT, Bench, clock, names, shown, stands, words
from ..screen.terminal import Picture, python
from .week import MODEL

OPENED, FIRST, LISTED = 2.0, 2.0, 2.0
"""Seconds: to the end of the session with its key frames, to a first screen without them, of the list of sessions."""

GROWTH, WEEK = 5.0, 168.0
"""Percent by which a week more may add to a viewer's memory after the first half, and its hours. What is measured in
that week stays in it: without any growth nothing could be shown of it."""

PATIENCE = 1800.0
"""Seconds for which a command or a screen may take what it takes, where no limit is named."""

LOOKS = 100
"""So often a viewer's memory is looked at."""

MB = 1e6


@dataclass(frozen=True)
class Opened:
    """Seconds from the command to a first screen that names the model, and to the session's end, and of CPU time until
    then; how many different screens there were, and the longest stretch without another one while the log was read."""

    first: float
    end: float
    cpu: float
    screens: int
    silence: float


def opened(bench: Bench, folder: Path, end: float) -> Opened:
    """`quanttui attach`, until it shows the session's last moment."""
    named, reached = names(MODEL), stands(end)
    seen: set[str] = set()
    changed: list[float] = []

    def last(picture: Picture) -> bool:
        now = "\n".join(picture.lines)
        if now not in seen:
            seen.add(now)
            changed.append(time.monotonic())
        return named(picture) and reached(picture)

    with bench.quanttui("attach", str(folder)) as terminal:
        first = shown(terminal, MODEL, 120)
        at = terminal.until(last, PATIENCE)
        if at is None:
            raise Broken(f"the end of the session is not shown within {PATIENCE:.0f} s: {words(terminal)}")
        used = psutil.Process(terminal.pid).cpu_times()
        silence = max((after - before for before, after in pairwise(changed)), default=0.0)
        cpu = used.user + used.system
        return Opened(first - terminal.begun, at - terminal.begun, cpu, len(seen), silence)


def opening(bench: Bench, folder: Path, end: float) -> list[Figure]:
    """At the tail by the key frames, and without them from the start."""
    framed: list[Opened] = []
    loads = []
    for _ in range(1 if bench.quick else 3):
        bench.machine.wait()
        framed.append(opened(bench, folder, end))
        loads.append(bench.timed("-c", LOAD, str(folder)))
        bench.say(f"at the tail after {framed[-1].end:.2f} s; loaded by a program in {loads[-1]:.2f} s")
    frames = folder / session.FRAMES
    kept = frames.rename(folder.parent / "kept.idx")
    try:
        bench.machine.wait()
        bare = opened(bench, folder, end)
    finally:
        kept.rename(frames)
    bench.say(f"without key frames: a screen after {bare.first:.2f} s, the end after {bare.end:.1f} s")
    told = f"at the end after {bare.end:.1f} s ({bare.cpu:.1f} s of CPU time), {bare.screens} screens until then"
    ends = tuple(one.end for one in framed)
    used = f"{median([one.cpu for one in framed]):.2f} s of CPU time"
    return [
        Figure("at its tail, by key frames", "s", OPENED, median(ends), ends, (used,)),
        Figure("the same state, without a screen", "s", OPENED, median(loads), tuple(loads)),
        Figure("without key frames: first screen", "s", FIRST, bare.first, notes=(told,)),
        Figure("without key frames: between two screens", "s", FIRST, bare.silence),
    ]


LOAD = "import sys; from pathlib import Path; from quanttui import session; assert session.load(Path(sys.argv[1])).arms"


def following(bench: Bench, made: Path, count: int) -> list[Figure]:
    """The memory of a viewer that is attached from the first event on, while the log grows as fast as it is read."""
    resident, times = [], []
    with bench.session() as folder:
        growing = grown(made, folder, count)
        next(growing)
        with bench.quanttui("attach", str(folder)) as terminal:
            shown(terminal, MODEL)
            process = psutil.Process(terminal.pid)
            for at, events in growing:
                if terminal.until(_reaches(at), PATIENCE) is None:
                    raise Broken(f"{at:.0f} s are not shown within {PATIENCE:.0f} s: {words(terminal)}")
                resident.append(process.memory_info().rss / MB)
                times.append(at)
                bench.say(f"followed to {events:,} events, {at / 3600:.1f} h: {resident[-1]:.1f} MB")
    middle = len(resident) // 2 - 1
    half, hours = resident[middle], (times[-1] - times[middle]) / 3600
    marks = [resident[len(resident) * tenth // 10 - 1] for tenth in (1, 3, 5, 7, 9, 10)]
    note = (
        f"MB after 1, 3, 5, 7, 9 and 10 tenths: {', '.join(f'{each:.0f}' for each in marks)}; the second half is "
        f"{hours:.0f} h"
    )
    growth = 100 * (resident[-1] / half - 1) * WEEK / hours
    return [Figure("followed live: growth by a week", "%", GROWTH, growth, tuple(resident), (note,))]


def _reaches(t: float) -> Callable[[Picture], bool]:
    def seen(picture: Picture) -> bool:
        now = clock(picture)
        return now is not None and now >= int(t)

    return seen


def grown(made: Path, folder: Path, count: int) -> Iterator[tuple[float, int]]:
    """A copy of a session that grows in LOOKS steps, its key frames with it, and is not closed; after each step its
    last moment and how many events it has. The first step, of a thousand events, comes before the others."""
    session.create(folder.parent, MODEL, folder)
    frames = session.frames(made)
    with ExitStack() as held:
        source, index = (held.enter_context(open(made / name, "rb")) for name in (session.EVENTS, session.FRAMES))
        log = held.enter_context(open(folder / session.EVENTS, "ab", buffering=1 << 20))
        own = held.enter_context(open(folder / session.FRAMES, "ab", buffering=0))
        due, done, last = iter([*frames, None]), 0, b""
        frame = next(due)
        for goal in (1000, *(count * step // LOOKS for step in range(1, LOOKS + 1))):
            for line in source:
                if b'"event":"session.closed"' in line[:40]:
                    break
                log.write(line)
                last, done = line, done + 1
                if frame is not None and frame.offset <= log.tell():
                    log.flush()
                    own.write(index.read(frame.place + frame.length - index.tell()))
                    frame = next(due)
                if done >= goal:
                    break
            log.flush()
            yield e.decode(last).t, done


@dataclass(frozen=True)
class Run:
    """What a command took: seconds, those of CPU time, bytes of memory at most."""

    seconds: float
    cpu: float
    memory: float

    @property
    def told(self) -> str:
        return f"{self.seconds:.1f} s ({self.cpu:.1f} s of CPU time), {self.memory / MB:.0f} MB"


def commands(bench: Bench, folder: Path) -> list[Figure]:
    """The list of sessions with such a one in it; what report, verify and a resume take is told beside it."""
    bench.machine.wait()
    listed = [_run(bench, "sessions", QUANTTUI_SESSIONS_DIR=str(folder.parent)) for _ in range(1 if bench.quick else 3)]
    notes = [f"of the last: {listed[-1].told}"]
    for name, line in {
        "report": ("report", str(folder)),
        "report --format json": ("report", str(folder), "--format", "json"),
        "verify": ("verify", str(folder)),
    }.items():
        notes.append(f"{name}: {_run(bench, *line, codes=(0, 1)).told}")
        bench.say(notes[-1])
    begun, used = time.monotonic(), time.process_time()
    session.Writer(folder).close()
    cpu = time.process_time() - used
    notes.append(f"ready to be resumed: {time.monotonic() - begun:.1f} s ({cpu:.1f} s of CPU time)")
    bench.say(notes[-1])
    took = tuple(one.seconds for one in listed)
    return [Figure("the list of sessions", "s", LISTED, median(took), took, tuple(notes))]


def _run(bench: Bench, *line: str, codes: tuple[int, ...] = (0,), **more: str) -> Run:
    """A command, to its end.

    Raises:
        Broken: it ends with another exit code.
    """
    begun = time.monotonic()
    with open(bench.folder / "said.txt", "w+b") as said:
        process = subprocess.Popen(
            python("-m", "quanttui", *line), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            env=bench.environment(**more), cwd=CHECKOUT,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - begun
        if process.returncode not in codes:
            said.seek(0)
            last = (said.read().decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
            raise Broken(f"quanttui {' '.join(line)}: exit code {process.returncode}: {last}")
    return Run(took, used.ru_utime + used.ru_stime, 1024.0 * used.ru_maxrss)
