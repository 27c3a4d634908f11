"""A terminal that takes nothing, one that is gone, one that changes its size all the time: the sweep does not care."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from quanttui import events as e
from quanttui import session

from .figure import Broken, Figure
from .programs import Bench, clock, shown, words
from .terminal import SIZE, Picture, Terminal

ARMS, DECODE, TOK_S, PROMPT, PROMPT_TOK_S = 2, 20, 20.0, 512, 4096.0

CHUNKS, GROUP = 4, 4
"""Chunks of the perplexity, and how many of them are a unit."""

STALLED = {False: 60.0, True: 4.0}
"""Seconds for which a terminal takes nothing, in the row and where it is only a trial."""

BEATS = 2.0
"""Seconds between two beats of a sweep that goes on; it beats once a second."""

RECOVERED = 3.0
"""Seconds until the screen shows again what is going on."""


@dataclass(frozen=True)
class Swept:
    """What a session's log says of its sweep: events that are missing from it or were torn, units of the plan that are
    missing and units that were recorded twice, the longest stretch between two beats in seconds, how it was closed."""

    lost: int
    amiss: int
    silence: float
    closed: str


def swept(folder: Path, units: int) -> Swept:
    """Read a log whose plan has so many units."""
    reader = session.Reader(folder)
    try:
        events = [event for event in reader.events() if isinstance(event, e.Event)]
    finally:
        reader.close()
    done = [event.unit for event in events if isinstance(event, e.UnitDone)]
    planned = {unit.id for unit in done if unit.attempt == 1}
    beats = [event.t for event in events if isinstance(event, e.Beat)]
    closed = next((event.outcome for event in events if isinstance(event, e.SessionClosed)), "never")
    lost = sum(after.n - before.n != 1 for before, after in pairwise(events)) + reader.dropped
    silence = max((after - before for before, after in pairwise(beats)), default=math.inf)
    twice = len(done) - len({unit.id for unit in done})
    return Swept(lost, units - len(planned) + twice, silence, closed)


def plan(seconds: float) -> tuple[tuple[str, ...], int]:
    """Arguments of live.py for a sweep of at least so many seconds, and its units."""
    each = PROMPT / PROMPT_TOK_S + DECODE / TOK_S
    repetitions = max(2, math.ceil(seconds / ARMS / each))
    named = {
        "--arms": ARMS, "--prompt": PROMPT, "--decode": DECODE, "--repetitions": repetitions, "--chunks": CHUNKS,
        "--tok-s": TOK_S, "--prompt-tok-s": PROMPT_TOK_S,
    }  # fmt: skip
    return tuple(str(part) for pair in named.items() for part in pair), ARMS * (2 * repetitions + CHUNKS // GROUP)


def last(folder: Path) -> float:
    """Session time of the log's last event."""
    return session.load(folder).t


def back(terminal: Terminal, folder: Path, seconds: float = 30.0) -> float:
    """Seconds until the screen shows what the log says now.

    Raises:
        Broken: it does not.
    """
    begun, t = time.monotonic(), last(folder)

    def seen(picture: Picture) -> bool:
        shown_t = clock(picture)
        return shown_t is not None and shown_t >= int(t)

    at = terminal.until(seen, seconds)
    if at is None:
        raise Broken(f"the screen does not come back within {seconds:.0f} s: {words(terminal)}")
    return max(0.0, at - begun)


def leave(terminal: Terminal, seconds: float = 30.0) -> int | None:
    """Wait for the sweep's end, then `q` until the program ends: its exit code."""
    terminal.until(lambda picture: "left" not in picture.lines[0] and "LIVE ●" not in picture.lines[0], seconds)
    for _ in range(5):
        if terminal.wait(0) is None:
            terminal.press("q")
        if terminal.wait(2.0) is not None:
            break
    return terminal.code


def ended(folder: Path, seconds: float) -> None:
    """Wait until the session is closed.

    Raises:
        Broken: it never is.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if b'"session.closed"' in _tail(folder):
            return
        time.sleep(0.2)
    raise Broken(f"the sweep is not over after {seconds:.0f} s more")


def _tail(folder: Path) -> bytes:
    with open(folder / session.EVENTS, "rb") as log:
        log.seek(max(0, log.seek(0, 2) - 512))
        return log.read()


def _figures(what: str, found: Swept, viewer: Figure) -> list[Figure]:
    """What is told of each of them."""
    if found.closed != "ok":
        raise Broken(f"{what}: the sweep ended {found.closed}")
    return [
        Figure(f"{what}: events and units lost", "", 0, found.lost + found.amiss),
        Figure(f"{what}: between two beats", "s", BEATS, found.silence),
        viewer,
    ]


def stalled(bench: Bench) -> list[Figure]:
    """Nobody reads for a minute."""
    seconds = STALLED[bench.quick]
    arguments, units = plan(seconds + (2 if bench.quick else 10))
    with bench.session() as folder, bench.live(folder, *arguments) as terminal:
        shown(terminal)
        time.sleep(1)
        terminal.stall()
        time.sleep(seconds)
        terminal.resume()
        took = back(terminal, folder)
        ended(folder, seconds + 60)
        found, code = swept(folder, units), leave(terminal)
    viewer = Figure("stalled: until the screen is back", "s", RECOVERED, took, notes=(f"exit code {code}",))
    return _figures(f"stalled {seconds:.0f} s", found, viewer)


def killed(bench: Bench) -> list[Figure]:
    """The terminal hangs up."""
    arguments, units = plan(3.0 if bench.quick else 20.0)
    with bench.session() as folder, bench.live(folder, *arguments) as terminal:
        shown(terminal)
        time.sleep(1)
        terminal.hang_up()
        ended(folder, 90)
        begun = time.monotonic()
        code = terminal.wait(15)
        took = time.monotonic() - begun
        found = swept(folder, units)
    viewer = Figure("killed: ends after its sweep", "s", RECOVERED, None if code is None else took)
    return _figures("killed", found, viewer)


def resized(bench: Bench) -> list[Figure]:
    """Fifty sizes a second."""
    seconds = 2.0 if bench.quick else 20.0
    arguments, units = plan(seconds + (2 if bench.quick else 10))
    with bench.session() as folder, bench.live(folder, *arguments) as terminal:
        shown(terminal)
        time.sleep(1)
        storm(terminal, seconds)
        took = back(terminal, folder)
        ended(folder, seconds + 60)
        found, code = swept(folder, units), leave(terminal)
    viewer = Figure("resized: until the screen is back", "s", RECOVERED, took, notes=(f"exit code {code}",))
    return _figures(f"{seconds:.0f} s of 50 sizes/s", found, viewer)


def storm(terminal: Terminal, seconds: float, rate: float = 50.0) -> None:
    """Sizes drawn at random, and the usual one at the end."""
    sizes, begun = random.Random(5), time.monotonic()
    for at in range(int(seconds * rate)):
        terminal.resize(sizes.randint(20, 200), sizes.randint(5, 60))
        time.sleep(max(0.0, begun + (at + 1) / rate - time.monotonic()))
    terminal.resize(*SIZE)
