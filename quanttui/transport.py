"""The time cursor: where in a session's log the screen stands, and how it moves. Pure: time comes in as arguments.

Live, attached and replayed screens differ in nothing but this cursor. It knows states, no screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.state import State

LIVE, FROZEN, REPLAY = "live", "frozen", "replay"

STEP, LEAP = 5.0, 50.0
"""Seconds that an arrow key moves the cursor, without and with shift."""

SLOWEST, FASTEST = 0.25, 64.0
"""Times the recorded pace."""

APART = 1e-3
"""Seconds: edges nearer than this to the cursor are where it stands."""

_NUMBER = r"(\d{1,9}(?:\.\d{1,30})?)"
_STRETCH = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s?)?")
_CLOCK = re.compile(rf"(?:(\d{{1,9}}):)?(\d{{1,9}}):{_NUMBER}")


class Cursor(msgspec.Struct, frozen=True):
    """A place in session time. `t` is None at the tail, else seconds. Every move returns a new cursor.

    While `playing` it moves on at `speed` times the recorded pace. `recorded`: of a session that is watched as a
    recording, whose end is an end; in any other the end is the tail, and the cursor is live there.
    """

    t: float | None = None
    speed: float = 1.0
    playing: bool = False
    recorded: bool = False

    @property
    def mode(self) -> str:
        """LIVE follows the newest event, FROZEN stands still while the collection goes on, REPLAY is in a recording,
        or plays what went before."""
        if self.t is None:
            return LIVE
        return REPLAY if self.recorded or self.playing else FROZEN

    def toggled(self, now: float, end: float) -> Cursor:
        """Space: freeze what is shown, `now`, or follow again; of a recording play or pause, at its end from the start.
        What plays is paused."""
        if self.t is None:
            return self._at(now)
        if self.recorded:
            return self._at(0.0 if not self.playing and self.t >= end else self.t, not self.playing)
        return self._at(self.t) if self.playing else self.live()

    def live(self) -> Cursor:
        """At the tail."""
        return Cursor(speed=self.speed)

    def to(self, t: float, end: float) -> Cursor:
        """At `t`, not before the start; at or beyond the end live again, or the end of a recording."""
        if self.recorded:
            return self._at(min(max(0.0, t), end), self.playing)
        return self.live() if t >= end else self._at(max(0.0, t), self.playing)

    def moved(self, by: float, now: float, end: float) -> Cursor:
        """`by` seconds away from what is shown."""
        return self.to((now if self.t is None else self.t) + by, end)

    def faster(self, times: float) -> Cursor:
        """Play at `times` the pace; what stood still begins to play, at the pace that it had."""
        if self.t is None:
            return self
        speed = min(FASTEST, max(SLOWEST, self.speed * times)) if self.playing else self.speed
        return msgspec.structs.replace(self, speed=speed, playing=True)

    def passed(self, seconds: float, end: float) -> Cursor:
        """After `seconds` of real time."""
        if not self.playing or self.t is None:
            return self
        to = self.t + seconds * self.speed
        if to < end:
            return self._at(to, True)
        return self._at(end) if self.recorded else self.live()

    def _at(self, t: float, playing: bool = False) -> Cursor:
        return msgspec.structs.replace(self, t=t, playing=playing)

    @property
    def words(self) -> str:
        """How the header names it: LIVE, FROZEN, REPLAY 4x, REPLAY paused."""
        if self.mode != REPLAY:
            return self.mode.upper()
        return f"REPLAY {self.speed:g}x" if self.playing else "REPLAY paused"


# --- places to go to ------------------------------------------------------------------------------------------------


def phases(state: State) -> list[float]:
    """Where phases began, in order, and where the last one ended."""
    return _edges((span.start for span in state.spans), state)


def quants(state: State) -> list[float]:
    """Where another quant's turn began, in order, and where the last phase ended."""
    starts, before = [], None
    for span in state.spans:
        if span.arm and span.arm != before:
            starts.append(span.start)
            before = span.arm
    return _edges(starts, state)


def _edges(starts: Iterable[float], state: State) -> list[float]:
    found = sorted(set(starts))
    last = state.spans[-1].end if state.spans else None
    return [*found, last] if last is not None and last > found[-1] else found


def neighbour(edges: Sequence[float], t: float, forward: bool) -> float | None:
    """The next edge after `t`, or the last one before it; None where there is none."""
    if forward:
        return next((edge for edge in edges if edge > t + APART), None)
    return next((edge for edge in reversed(edges) if edge < t - APART), None)


def seconds(text: str) -> float | None:
    """Session time as people write it: 90, 90s, 12m, 1h18m, 00:41:22. None where it is something else."""
    word = text.strip().lower()
    if found := _CLOCK.fullmatch(word):
        hours, minutes, rest = (float(part or 0) for part in found.groups())
        return hours * 3600 + minutes * 60 + rest
    if word and (found := _STRETCH.fullmatch(word)):
        hours, minutes, rest = (float(part or 0) for part in found.groups())
        return hours * 3600 + minutes * 60 + rest
    return None


def start_of(state: State, wanted: str) -> float:
    """When a quant began, by its name in any case.

    Raises:
        UserError: it never did.
    """
    known: dict[str, None] = {}
    for span in state.spans:
        arm = state.arms.get(span.arm)
        if arm is None:
            continue
        quant = arm.file.quant if arm.file else arm.plan.quant
        known[clean(quant, 40)] = None
        if wanted.strip().lower() in (arm.id.lower(), quant.lower()):
            return arm.file.t if arm.file else span.start
    names = ", ".join(known) or "no quant started"
    raise UserError(f"--at {clean(wanted, 40)}: no such moment: give a time (12m), flag, or one of: {names}")
