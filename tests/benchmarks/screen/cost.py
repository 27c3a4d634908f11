"""What watching costs: CPU of the app's own process by its threads' clocks, and bytes to the terminal, at 120x40."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from . import recorded
from .figure import Figure
from .live import MODEL, Clocks
from .programs import REMOTE, Bench, clocks, shown
from .terminal import Terminal

SETTLING = 8.0

LONGEST_SILENCE = 3.0
"""Seconds between whole frames, in a quiet window."""

KIB = 1024.0

_STEADY = ("--prompt", "0", "--decode", "128", "--repetitions", "100", "--arms", "8")
"""One decode after another, 6.4 s each, for longer than anybody looks."""


@dataclass(frozen=True)
class Cost:
    """What a stretch of `seconds` has cost: shares of one core, in all and by part; bytes per second; frames."""

    seconds: float
    process: float
    parts: dict[str, float]
    sent: float
    frames: tuple[tuple[float, str], ...]
    span: tuple[float, float]

    @property
    def told(self) -> str:
        parts = sorted(self.parts.items(), key=lambda part: -part[1])
        rates = {due: sum(one == due for _, one in self.frames) / self.seconds for due in ("whole", "numbers", "few")}
        painted = ", ".join(f"{due} {rate:.2g} Hz" for due, rate in rates.items() if rate)
        return f"{', '.join(f'{name} {100 * share:.2f} %' for name, share in parts)}; painted: {painted or 'nothing'}"

    @property
    def silence(self) -> float:
        """The longest stretch without a whole frame."""
        begin, end = self.span
        moments = [begin, *(at for at, due in self.frames if due == "whole"), end]
        return max(after - before for before, after in pairwise(moments))


def between(before: Clocks, after: Clocks, sent: int) -> Cost:
    """The difference of two looks."""
    seconds = after.at - before.at
    parts = {name: (spent - before.parts.get(name, 0.0)) / seconds for name, spent in after.parts.items()}
    frames = tuple((at, due) for at, due in after.frames if before.at <= at < after.at)
    process = (after.process - before.process) / seconds
    return Cost(seconds, process, parts, sent / seconds, frames, (before.at, after.at))


def measured(
    bench: Bench,
    words: tuple[str, ...],
    model: str = MODEL,
    prepare: Callable[[Path], object] = lambda folder: None,
    begin: Callable[[Terminal], object] = lambda terminal: None,
    **environment: str,
) -> Cost:
    """The cost of the screen over a minute.

    Args:
        words: for live.py.
        prepare: makes the session where it is only watched.
        begin: done once the screen is up.
    """
    bench.machine.wait()
    with bench.session() as folder:
        prepare(folder)
        with bench.live(folder, *words, **environment) as terminal:
            shown(terminal, model)
            begin(terminal)
            time.sleep(2 if bench.quick else SETTLING)
            before = clocks(terminal, folder)
            time.sleep(5 if bench.quick else 60)
            after = clocks(terminal, folder)
            sent = len(terminal.output(before.at, after.at))
    return between(before, after, sent)


def _cpu(cost: Cost, limit: float, what: str) -> Figure:
    return Figure(what, "% of a core", limit, 100 * cost.process, notes=(cost.told,), detail={"parts": cost.parts})


def _sent(cost: Cost, limit: float) -> Figure:
    return Figure("to the terminal", "KiB/s", limit, cost.sent / KIB)


def live(bench: Bench) -> list[Figure]:
    """With a core to spare: ordinary rates."""
    cost = measured(bench, _STEADY)
    return [_cpu(cost, 3.0, "CPU, live, a core to spare"), _sent(cost, 20.0)]


def remote(bench: Bench) -> list[Figure]:
    """The same over SSH."""
    cost = measured(bench, _STEADY, **REMOTE)
    return [_cpu(cost, 1.5, "CPU, live, over SSH"), _sent(cost, 6.0)]


def quiet(bench: Bench) -> list[Figure]:
    """Where the timed threads fill every core."""
    cost = measured(bench, (*_STEADY, "--cores", "2"))
    return [
        _cpu(cost, 1.0, "CPU, in quiet windows"),
        Figure("without a whole frame", "s", LONGEST_SILENCE, round(cost.silence, 1), notes=("to a tenth",)),
    ]


def idle(bench: Bench) -> list[Figure]:
    """Attached to a session that is over."""
    cost = measured(bench, ("--attach",), recorded.MODEL, recorded.short)
    return [_cpu(cost, 0.5, "CPU, nothing happens")]


def unfocused(bench: Bench) -> list[Figure]:
    """Live, in a window that somebody has turned away from: what looking costs. The sampler and the sweep go on
    measuring as ever, and are told beside it."""
    cost = measured(bench, _STEADY, begin=lambda terminal: terminal.press("\x1b[O"))
    looking = sum(cost.parts.get(part, 0.0) for part in ("screen", "follower"))
    told = (cost.told, f"with the sampler and the sweep {100 * cost.process:.2f} %")
    what = "CPU of the screen, live, unfocused"
    return [Figure(what, "% of a core", 0.5, 100 * looking, notes=told, detail={"parts": cost.parts})]
