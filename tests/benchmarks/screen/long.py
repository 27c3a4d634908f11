"""Sessions of a day and more: opening one, going anywhere in it, and what a viewer keeps in memory."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from quanttui import session

from ..figures import median
from . import recorded
from .figure import Broken, Figure
from .programs import Bench, clock, names, shown, stands, words
from .terminal import Picture, Terminal

OPENED, REBUILT, SOUGHT = 1.5, 6.0, 0.1

PLACES = ("home", "9", "1", "8", "2", "end", "7", "3", "6", "0", "4", "5")
"""Keys that go far each time: a digit is so many tenths of the session."""

KEYS = {"home": "\x1b[H", "end": "\x1b[F"}

MIB = 2.0**20

DAY, MEMORY, GROWTH = 24, 150.0, 5.0
"""Hours; MB at the end; percent by which the second half may add to what was there after the first."""


def _made(bench: Bench, folder: Path) -> float:
    """A session of a million events (of 30 hours), of three hours where it is only a trial; its last moment."""
    if not bench.quick:
        recording = recorded.million(folder)
    else:
        *_, recording = recorded.hours(folder, 3)
    bench.say(f"a session of {recording.count:,} events, {recording.size / MIB:.0f} MiB")
    return recording.t


def opening(bench: Bench) -> list[Figure]:
    """Seconds from `quanttui attach` to the session's last moment on the screen, with its key frames and without."""
    with bench.session() as folder:
        end = _made(bench, folder)
        frames = folder / session.FRAMES
        kept = frames.rename(folder / "kept")
        found: dict[bool, list[tuple[float, float, int]]] = {True: [], False: []}
        for _ in range(1 if bench.quick else 5):
            for framed in found:
                frames.unlink(missing_ok=True)
                if framed:
                    frames.write_bytes(kept.read_bytes())
                bench.machine.wait()
                found[framed].append(_open(bench, folder, end))
                bench.say(f"key frames {'present' if framed else 'to be built'}: {found[framed][-1][0]:.2f} s")
    return [
        _opened(found[True], "key frames present", OPENED),
        _opened(found[False], "key frames to be built", REBUILT),
    ]


def _open(bench: Bench, folder: Path, end: float) -> tuple[float, float, int]:
    """Seconds to the end of the session and to the first paint, and how many different screens there were between."""
    pictures: set[str] = set()
    reached, named = stands(end), names(recorded.MODEL)

    def seen(picture: Picture) -> bool:
        pictures.add("\n".join(picture.lines))
        return named(picture) and reached(picture)

    with bench.quanttui("attach", str(folder)) as terminal:
        first = terminal.until(lambda picture: any(line.strip() for line in picture.lines), 60)
        at = None if first is None else terminal.until(seen, 120)
        if first is None or at is None:
            raise Broken(f"the end of the session is not shown within 120 s: {words(terminal)}")
        return at - terminal.begun, first - terminal.begun, len(pictures)


def _opened(found: list[tuple[float, float, int]], what: str, limit: float) -> Figure:
    took = tuple(one[0] for one in found)
    paint, screens = median([one[1] for one in found]), min(one[2] for one in found)
    note = f"something on the screen after {paint:.2f} s, {screens} different screens until then"
    return Figure(f"open, {what}", "s", limit, median(took), took, (note,))


def seeking(bench: Bench) -> list[Figure]:
    """Milliseconds from a key to its moment in the header: of the slowest place, the median of some presses."""
    with bench.session() as folder:
        end = _made(bench, folder)
        bench.machine.wait()
        with bench.quanttui("attach", str(folder)) as terminal:
            if terminal.until(stands(end), 120) is None:
                raise Broken(f"the end of the session is not shown within 120 s: {words(terminal)}")
            time.sleep(1)
            took: dict[str, list[float]] = {place: [] for place in PLACES}
            for _ in range(1 if bench.quick else 5):
                for place in PLACES:
                    took[place].append(_seek(terminal, place, end))
    middle = {place: median(found) for place, found in took.items()}
    slowest = max(middle, key=lambda place: middle[place])
    every = tuple(1e3 * seconds for found in took.values() for seconds in found)
    told = ", ".join(f"{place} {1e3 * seconds:.0f}" for place, seconds in middle.items())
    return [Figure(f"seek, slowest place ({slowest})", "ms", 1e3 * SOUGHT, 1e3 * middle[slowest], every, (told,))]


def _seek(terminal: Terminal, place: str, end: float) -> float:
    share = {"home": 0.0, "end": 1.0}.get(place)
    t = end * (int(place) / 10 if share is None else share)
    if stands(t)(terminal.show()):
        raise Broken(f"{place} leads nowhere else: the screen stands at {t:.0f} s already")
    pressed = terminal.press(KEYS.get(place, place))
    at = terminal.until(stands(t), 10)
    if at is None:
        raise Broken(f"{place} does not lead to {t:.0f} s within 10 s: the header shows {clock(terminal.show())} s")
    time.sleep(0.4)
    return at - pressed


def day(bench: Bench) -> list[Figure]:
    """Memory of an attached viewer, hour after hour of a log that grows as fast as it is read."""
    resident = []
    with bench.session() as folder:
        recording = recorded.hours(folder, 4 if bench.quick else DAY, closed=False, frames=False)
        next(recording)
        with bench.quanttui("attach", str(folder)) as terminal:
            shown(terminal, recorded.MODEL)
            process = psutil.Process(terminal.pid)
            for written in recording:
                if terminal.until(stands(written.t), 60) is None:
                    raise Broken(f"{written.t:.0f} s are not shown within 60 s: {words(terminal)}")
                time.sleep(0.5)
                resident.append(process.memory_info().rss / 1e6)
                bench.say(f"{written.t / recorded.HOUR:.0f} h, {written.count:,} events: {resident[-1]:.1f} MB")
    half = resident[len(resident) // 2 - 1]
    growth = 100 * (resident[-1] / half - 1)
    note = f"after 1 h {resident[0]:.0f} MB, after half {half:.0f} MB, at the end {resident[-1]:.0f} MB"
    return [
        Figure(f"viewer's memory after {len(resident)} h", "MB", MEMORY, max(resident), tuple(resident), (note,)),
        Figure("growth in the second half", "%", GROWTH, growth),
    ]
