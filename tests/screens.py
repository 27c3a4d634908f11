"""What the tests of screens share: a session that every page has something to show of, expected screens, waiting."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
from textual.pilot import Pilot

from quanttui import events as e
from quanttui import session
from quanttui.tui.app import Monitor

GOLDEN = Path(__file__).parent / "snapshots"

HOSTILE = (
    "\x1b]0;owned\x07\x1b[31m", "[red]x[/red][link=file:///etc/passwd]", "\u202eabc\u2066 \u05d0\u05d1", "日本語" * 20,
    "a" * 300, "e\u0301\u0323\u200d" * 9,
)  # fmt: skip
"""Escapes, markup, right-to-left, wide, long, and combining characters."""

FIRST = {
    "capital": ("The capital of France is Paris, a city on the Seine.", True), "sum": ("17 + 25 = 42", True),
    "json": ('{"name": "Ada", "born": 1815}', None),
}  # fmt: skip
SECOND = {
    "capital": ("The capital of France is Lyon, a city on the Rhône.", False), "sum": ("17 + 25 = 42", True),
    "json": ('{"name": "Ada", "age": 36}', None),
}  # fmt: skip
ARMS = (
    builders.Arm("Q8_0", chunks=12, answers=FIRST),
    builders.Arm("Q5_K_M", chunks=12, tok_s=3.1, swap=0.021, ppl=8.1, kld=0.01, answers=FIRST),
    builders.Arm("Q4_K_M", chunks=12, tok_s=25.0, ppl=8.2, kld=0.02, answers=SECOND),
    builders.Arm("IQ3_XS", chunks=12, fails="oom", error="killed by signal 9"),
    builders.Arm("Q2_K", planned_only=True),
)
"""A base, one that is contaminated, one that answers otherwise, one that fails, one to come."""


@functools.cache
def stream() -> tuple[e.Event, ...]:
    """A sweep of all tasks over ARMS that nobody has closed, on a host without a GPU and an energy counter."""
    asked = builders.settings(prompt=64, tasks=("speed", "ppl", "kld", "prompts"))
    made = builders.events(*ARMS, closed=None, settings=asked)
    probes: list[e.Event] = [
        e.ProbeFound(probe="memory"), e.ProbeFound(probe="swap"), e.ProbeLost(probe="nvidia", why="no NVIDIA driver"),
        e.ProbeLost(probe="power", why="no counter"),
    ]  # fmt: skip
    told = [made[0], *(msgspec.structs.replace(one, t=0.0) for one in probes), *made[1:]]
    return tuple(msgspec.structs.replace(one, n=n) for n, one in enumerate(told))


def alive(events: tuple[e.Event, ...] | list[e.Event]) -> list[e.Event]:
    """The same, written by this process: its sweep runs, for all that a viewer can tell."""
    import psutil

    own = {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    return [msgspec.structs.replace(events[0], **own), *events[1:]]


def recorded(folder: Path, events: tuple[e.Event, ...] | list[e.Event]) -> Path:
    """A session's folder with these events in its log."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, events)))
    return folder


def compared(name: str, text: str) -> None:
    """Against the expected screen in tests/snapshots; QUANTTUI_TEST_REGENERATE=1 writes it anew, to be read before it
    is kept."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("QUANTTUI_TEST_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


async def waited(pilot: Pilot[Any], passes: Callable[[], bool]) -> None:
    """Wait until something is so."""
    for _ in range(1000):
        if passes():
            await pilot.pause()
            return
        await pilot.pause(0.01)
    raise AssertionError("it did not come about")


async def settled(pilot: Pilot[Any], passes: Callable[[], bool] = lambda: True) -> None:
    """Wait until the monitor stands at its cursor, and for what else is asked."""
    app = pilot.app
    assert isinstance(app, Monitor)
    await waited(pilot, lambda: app.settled and passes())
