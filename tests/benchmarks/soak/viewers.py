"""Viewers of a sweep, on terminals: one that stays, others that come, press keys, ask for something, and leave."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from quanttui import session

from ..screen.figure import Broken
from ..screen.programs import Bench, shown, words
from ..screen.terminal import SIZE, Terminal
from .sweep import MODEL

KEYS = ("\x1b[H", "\x1b[F", "1", "5", "9", "[", "]", "{", "n", "N", " ", "\t", "o", "z", "\x1b", "\r", "\x1b", "c", "?")
"""What is pressed: to and fro in time, panels, an arm's page, a comparison, the help."""

BACK = ("\x1b", "\x1b", "G")
"""Keys that lead from anywhere to the live monitor."""

BETWEEN = 0.15
"""Seconds between keys: an escape and what follows it at once would be another key."""

STAY = (3.0, 12.0)
"""Seconds for which a visitor stays, drawn between these."""

LEAVING = 60.0
"""Seconds in which a viewer has to be gone."""

LOOK = 0.5
"""Seconds between looks at a process."""

SIZES = (SIZE, (80, 24), (200, 50))


@dataclass(frozen=True)
class Look:
    """A process at session time `t`: bytes in memory, descriptors, threads."""

    t: float
    memory: int
    descriptors: int
    threads: int


def look(process: psutil.Process, t: float) -> Look:
    """Raises psutil.Error where it has ended."""
    with process.oneshot():
        return Look(t, process.memory_info().rss, process.num_fds(), process.num_threads())


@dataclass
class Visits:
    """What is known of the viewers: looks at the one that stayed, the last look at each visitor before it left, what
    went wrong. `now` is the session time, as the campaign knows it."""

    stayed: list[Look] = field(default_factory=list)
    left: list[Look] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    now: float = 0.0


class Viewers:
    """Three of them, each in a thread, until `over` is set. They ask for nothing any more once `quiet` is set.

    Args:
        settled: session time from which on the one that stays is looked at. It opens each page then, with what is
            loaded and started for it, and has unpacked as much of quants that are over as it ever keeps.
    """

    def __init__(
        self, bench: Bench, folder: Path, visits: Visits, environment: dict[str, str], settled: float
    ) -> None:
        self.over, self.quiet = threading.Event(), threading.Event()
        self._settled = settled
        self._bench, self._folder, self._visits, self._environment = bench, folder, visits, environment
        runs: tuple[Callable[[], None], ...] = (self._stays, *(partial(self._comes, seed) for seed in (1, 2)))
        self._threads = [threading.Thread(target=self._told, args=(run,), name="viewer") for run in runs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """All of them have left."""
        self.over.set()
        for thread in self._threads:
            thread.join()

    def _told(self, run: Callable[[], None]) -> None:
        try:
            run()
        except (Broken, OSError, psutil.Error) as error:
            self._visits.wrong.append(str(error))

    def _stays(self) -> None:
        """Here from the beginning to the end; now and then it looks at something else, and comes back."""
        drawn = random.Random(0)
        with self._attached() as terminal:
            process = psutil.Process(terminal.pid)
            while not self.over.wait(LOOK):
                if self._visits.now >= self._settled:
                    if not self._visits.stayed:
                        for key in KEYS:
                            self._presses(terminal, (key,))
                    self._visits.stayed.append(look(process, self._visits.now))
                if drawn.random() < 0.1:
                    self._presses(terminal, drawn.choices(KEYS, k=3))
            self._leaves(terminal, drawn, "q")

    def _comes(self, seed: int) -> None:
        drawn = random.Random(seed)
        while not self.over.is_set():
            with self._attached(drawn.choice(SIZES)) as terminal:
                process = psutil.Process(terminal.pid)
                until = time.monotonic() + drawn.uniform(*STAY)
                while time.monotonic() < until and not self.over.wait(LOOK):
                    self._presses(terminal, drawn.choices(KEYS, k=drawn.randint(0, 4)))
                    if drawn.random() < 0.2 and not self.quiet.is_set():
                        self._asks(drawn)
                self._visits.left.append(look(process, self._visits.now))
                self._leaves(terminal, drawn, drawn.choice(("q", "q", "hangs up")))

    def _attached(self, size: tuple[int, int] = SIZE) -> Terminal:
        """A viewer on the screen.

        Raises:
            Broken: it does not come.
        """
        terminal = self._bench.quanttui("attach", str(self._folder), size=size, **self._environment)
        try:
            shown(terminal, MODEL, 60)
        except Broken:
            terminal.__exit__()
            raise
        return terminal

    def _presses(self, terminal: Terminal, keys: Sequence[str]) -> None:
        for key in (*keys, *(BACK if keys else ())):
            terminal.press(key)
            time.sleep(BETWEEN)

    def _asks(self, drawn: random.Random) -> None:
        """What a viewer's keys ask for, by way of the same file."""
        for act, value in self._wishes(drawn):
            session.request(self._folder, act, value=value)
            self.over.wait(0.2)

    def _wishes(self, drawn: random.Random) -> Iterator[tuple[str, str]]:
        wish = drawn.choice(("tolerance", "pause", "nothing that there is"))
        yield wish, f"{drawn.uniform(0.5, 3):.2f}" if wish == "tolerance" else ""
        if wish == "pause":
            yield "resume", ""

    def _leaves(self, terminal: Terminal, drawn: random.Random, how: str) -> None:
        if how == "q":
            for key in (*BACK, "q"):
                terminal.press(key)
                time.sleep(BETWEEN)
        else:
            terminal.hang_up()
        code = terminal.wait(LEAVING)
        if code is None:
            self._visits.wrong.append(f"a viewer is still there {LEAVING:.0f} s after it was to leave ({how})")
        elif how == "q" and code != 0:
            self._visits.wrong.append(f"a viewer left with exit code {code}: {words(terminal)}")
