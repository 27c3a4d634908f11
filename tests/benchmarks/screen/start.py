"""From a command to what it shows, warm, in turn with a Python that does nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ..figures import median
from . import recorded
from .figure import Broken, Figure
from .programs import Bench, names, words
from .terminal import Picture

FIRST_PAINT, PRINTED = 0.7, 0.25

WARM_UP = 1


def paint(bench: Bench) -> list[Figure]:
    """Seconds from the command to the first frame with the model's name in the header (the first frame at all where
    the command has yet to ask for a model)."""
    folder = str(recorded.short(bench.place()))
    named = names(recorded.MODEL)
    screens: dict[str, tuple[tuple[str, ...], Callable[[Picture], bool]]] = {
        "attach": (("attach", folder), named),
        "replay": (("replay", folder, "--at", "1m"), named),
        "without a command": ((), lambda picture: any("quanttui" in line for line in picture.lines)),
    }

    def first(name: str) -> float:
        command, seen = screens[name]
        with bench.quanttui(*command) as terminal:
            at = terminal.until(seen, 30)
            if at is None:
                raise Broken(f"quanttui {' '.join(command)}: no screen within 30 s: {words(terminal)}")
            return at - terminal.begun

    return _in_turn(bench, {name: lambda name=name: first(name) for name in screens}, FIRST_PAINT)  # type: ignore[misc]


def printed(bench: Bench) -> list[Figure]:
    """Seconds of commands that print."""
    folder = str(recorded.short(bench.place()))
    commands = {"--help": ("--help",), "report": ("report", folder)}
    return _in_turn(
        bench,
        {name: lambda line=line: bench.timed("-m", "quanttui", *line) for name, line in commands.items()},  # type: ignore[misc]
        PRINTED,
    )


def _in_turn(bench: Bench, contestants: Mapping[str, Callable[[], float]], limit: float) -> list[Figure]:
    """Medians over rounds of all of them and of a bare Python."""
    found: dict[str, list[float]] = {name: [] for name in ("python", *contestants)}
    for at in range(WARM_UP + (2 if bench.quick else 15)):
        bench.machine.wait()
        took = {"python": bench.timed("-c", "pass")} | {name: run() for name, run in contestants.items()}
        if at >= WARM_UP:
            for name, seconds in took.items():
                found[name].append(seconds)
        bench.say("  ".join(f"{name} {seconds:.3f} s" for name, seconds in took.items()))
        time.sleep(0.2)
    bare = median(found.pop("python"))
    return [
        Figure(name, "s", limit, median(values), tuple(values), (f"python -c pass: {bare:.3f} s",))
        for name, values in found.items()
    ]
