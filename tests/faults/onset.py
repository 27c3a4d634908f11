"""How long it takes from the beginning of a fault, amid a clean decode, until a viewer could see it. Follows the log as
a viewer does: fold each event, ask for the verdicts that hold now."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quanttui import events as e
from quanttui import session
from quanttui.diagnosis import verdicts
from quanttui.state import State

from . import conditions, watch
from .conditions import FAULTY, Model, Site
from .lab import Failed, Lab, pids, used
from .machine import Neighbour, drop, warm
from .matrix import ONSET
from .records import NOTHING, Onset, Record, Said
from .swapfile import SwapFile
from .watch import Facts, Watch

CLEAN_SECONDS = (5.0, 8.0)
"""So long is timed before the fault begins, drawn at random: samples and tokens come at any moment of it."""

LONGEST = 30.0
"""Seconds after which a fault was not seen."""

AFTER = 20.0
"""Seconds to wait, once it was seen, for the token that it was seen in."""

LOADING = 120.0
LOOK = 0.02

TOKEN = 5.0
"""Seconds that a token takes where the disk is slow."""


Prepare = Callable[[Site, ExitStack], tuple[Callable[[], None], list[Neighbour]]]
"""Makes ready until the stack is closed, and gives what begins the fault and the neighbours that take part in it."""


@dataclass(frozen=True)
class Begins:
    """A fault that can begin at a moment.

    Args:
        right: what is right to say.
        came: why a run counts for nothing, "" where it counts.
        limits: it needs memory cgroups.
        slow: it must be seen inside a token that takes longer than matrix.ONSET.
    """

    name: str
    tells: str
    model: Model
    words: tuple[str, ...]
    prepare: Prepare
    right: tuple[str, ...]
    came: Callable[[Facts], str]
    limits: bool = False
    slow: bool = False


def _less_memory(share: float, swap: bool = False, slow: bool = False) -> Prepare:
    """Take so much of what a token reads away from what is in use. A slow disk needs TOKEN seconds to read it again.

    Where the weights lie in anonymous memory, the page cache is no part of what is in use.
    """

    def prepare(site: Site, held: ExitStack) -> tuple[Callable[[], None], list[Neighbour]]:
        drop(site.file)
        if swap:
            held.enter_context(SwapFile(site.work, 2 * site.file.stat().st_size))
        group = site.limited
        if slow:
            group.limits_disks()

        def begin() -> None:
            if slow:
                group.disk(site.file, int(site.active / TOKEN))
            cache = group.page_cache() if swap else 0
            group.limit(int(group.usage() - cache - share * site.active), swap)

        return begin, []

    return prepare


def _spinning(site: Site, held: ExitStack) -> tuple[Callable[[], None], list[Neighbour]]:
    warm(site.file)
    neighbours = site.spinners(held)

    def begin() -> None:
        for neighbour in neighbours:
            neighbour.go()

    return begin, neighbours


def table(threads: int) -> dict[str, Begins]:
    """All onsets by name."""
    q8, all_of_them = conditions.Q8, ("--threads", str(threads))
    long = ("--decode", "2000", "--repetitions", "1", *all_of_them)
    many = ("--decode", "32", "--repetitions", "500", *all_of_them)
    own = ("--load-mode", "none")
    found = [
        Begins(
            "onset-page-in", "memory taken away, mapped", q8, long, _less_memory(0.4), ("page-in-thrash",),
            conditions.reread, limits=True,
        ),
        Begins(
            "onset-token", "the same on a slow disk, which makes a token take seconds", q8, long,
            _less_memory(0.4, slow=True), ("page-in-thrash",), conditions.reread, limits=True, slow=True,
        ),
        Begins(
            "onset-swap", "memory taken away, not mapped, and swap", q8, (*long, *own), _less_memory(0.7, swap=True),
            ("swap-contaminated",), conditions.swapped, limits=True,
        ),
        Begins(
            "onset-spin", "neighbours begin to spin amid a long decode", q8, long, _spinning, ("cpu-contention",),
            conditions.spun(threads),
        ),
        Begins(
            "onset-spins", "the same amid short repetitions", q8, many, _spinning, ("cpu-contention",),
            conditions.spun(threads),
        ),
    ]
    return {one.name: one for one in found}


def run(lab: Lab, onset: Begins) -> Record:
    """Begin a fault amid a decode, and say when it could be seen.

    Raises:
        Unusable: the host does not allow it. Failed: nothing was decoded.
    """
    lab.machine.wait()
    begun = time.monotonic()
    with ExitStack() as held:
        group = lab.group(held, "run", onset.limits)
        site = lab.site(onset.model, group, False)
        begin, neighbours = onset.prepare(site, held)
        process, folder = held.enter_context(lab.started(onset.name, [site.file], onset.words, group))
        seen = held.enter_context(
            Watch(time.monotonic, group, pids(process.pid, group), lambda: used(neighbours))
        )
        follower = Follower(folder, process)
        held.callback(follower.close)
        follower.until(LOADING, lambda: follower.decoding is not None)
        clean = random.uniform(*CLEAN_SECONDS)
        follower.until(clean, lambda: bool(follower.accused))
        early = next(iter(follower.accused), "")
        at = time.monotonic()
        if not early:
            with _meanwhile(begin):
                follower.until(LONGEST, lambda: bool(set(onset.right) & set(follower.accused)))
                follower.until(AFTER, lambda: follower.last_token > at)
        done = time.monotonic()
    found = watch.facts(seen.taken, [(at, min(done, seen.taken[-1].at))], 1, site.active)
    token = follower.slowest(at)
    void = f"{early} was seen before anything began" if early else onset.came(found)
    if onset.slow and not void and token <= ONSET:
        void = f"the slowest token took {token:.1f} s only"
    return Record(
        condition=onset.name,
        kind=FAULTY,
        right=onset.right,
        said=next(iter(follower.accused), NOTHING),
        void=void,
        verdicts=tuple(Said(code, "decode", "contaminated") for code in follower.accused),
        facts=found,
        onset=Onset(
            flagged=min((when - at for code, when in follower.accused.items() if code in onset.right), default=None),
            first=min((when - at for when in follower.accused.values()), default=None),
            token=token,
            waited=done - at,
            clean=clean,
        ),
        **lab.about(time.monotonic() - begun),
    )


class Follower:
    """A viewer without a screen: the session folded up to the latest event.

    `accused` are the contaminated verdicts that ever held, in their order, and when each was first seen.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.state = State()
        self.decoding: float | None = None
        self.accused: dict[str, float] = {}
        self.last_token = 0.0
        self._tokens: list[tuple[float, float]] = []
        self._folder, self._process = folder, process
        self._reader: session.Reader | None = None

    def until(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Follow for so long, or until there is enough.

        Raises:
            Failed: quanttui ended.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and not enough():
            if not self._look():
                if self._process.poll() is not None:
                    raise Failed("quanttui ended before the fault was over: a longer decode is needed")
                time.sleep(LOOK)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def slowest(self, since: float) -> float:
        """Seconds of the longest token that came after a moment, and of the one that has not come yet."""
        each = [seconds for at, seconds in self._tokens if at > since]
        return max([*each, time.monotonic() - max(self.last_token, since)])

    def _look(self) -> bool:
        """Take the events that are there; False where there are none."""
        if self._reader is None:
            if not (self._folder / session.EVENTS).exists():
                return False
            self._reader = session.Reader(self._folder)
        any_ = False
        for event in self._reader.events():
            any_ = True
            self.state.apply(event)
            self._note(event)
            for one in verdicts.live(self.state):
                if one.kind == "contaminated":
                    self.accused.setdefault(one.code, time.monotonic())
        return any_

    def _note(self, event: e.Event | e.Unknown) -> None:
        now = time.monotonic()
        if isinstance(event, e.Tokens) and event.unit.kind == "decode":
            self.last_token = now
            self._tokens += [(now, ns / 1e9) for ns in event.ns]
        if isinstance(event, e.UnitStarted) and event.unit.kind == "decode" and self.decoding is None:
            self.decoding = now


@contextmanager
def _meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Taking memory away may take a while, in which the fault can be seen already."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(act)
        yield
        doing.result()
