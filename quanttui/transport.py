"""The time cursor: where in a session's log the screen stands, and how it moves. Pure: time comes in as arguments.

Live, attached and replayed screens differ in nothing but this cursor. It knows states and events, no screen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from quanttui import events as e
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.format import clean, clock

LIVE, FROZEN, REPLAY = "live", "frozen", "replay"

STEP = 5.0
"""Seconds that one press of an arrow key moves the cursor."""

_STRETCH = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")

_DECISIVE = (e.UnitDone, e.PhaseFailed, e.ArmFailed, e.ArmDone)


class Cursor(msgspec.Struct, frozen=True):
    """A place in session time. `t` is None at the tail (mode live), else seconds.

    live: follows the newest event. frozen: stands still while the collection goes on. replay: moves at `speed`
    while `playing`. Every move returns a new cursor; `now` is the session time shown, `end` that of the last event.
    """

    mode: str = LIVE
    t: float | None = None
    speed: float = 1.0
    playing: bool = True

    def toggled(self, now: float) -> Cursor:
        """Space: freeze or follow again; in a replay pause or play."""
        if self.mode == REPLAY:
            return msgspec.structs.replace(self, playing=not self.playing)
        return Cursor(FROZEN, now, self.speed, False) if self.mode == LIVE else Cursor(speed=self.speed)

    def moved(self, by: float, now: float, end: float) -> Cursor:
        """`by` seconds away from what is shown, not before the start; beyond the end a frozen cursor is live again."""
        to = max(0.0, (now if self.t is None else self.t) + by)
        if self.mode == REPLAY:
            return msgspec.structs.replace(self, t=min(to, end))
        return Cursor(speed=self.speed) if to >= end else Cursor(FROZEN, to, self.speed, False)

    def to_start(self) -> Cursor:
        """The first event."""
        if self.mode == REPLAY:
            return msgspec.structs.replace(self, t=0.0)
        return Cursor(FROZEN, 0.0, self.speed, False)

    def to_end(self, end: float) -> Cursor:
        """The newest event: live again, or the end of a replay."""
        return msgspec.structs.replace(self, t=end) if self.mode == REPLAY else Cursor(speed=self.speed)

    def passed(self, seconds: float, end: float) -> Cursor:
        """After `seconds` of real time. A replay stops at the end."""
        if self.mode != REPLAY or not self.playing or self.t is None:
            return self
        to = self.t + seconds * self.speed
        if to >= end:
            return msgspec.structs.replace(self, t=end, playing=False)
        return msgspec.structs.replace(self, t=to)

    @property
    def words(self) -> str:
        """How the header names it: LIVE, FROZEN, REPLAY 4x, REPLAY paused."""
        if self.mode != REPLAY:
            return self.mode.upper()
        return f"REPLAY {self.speed:g}x" if self.playing else "REPLAY paused"


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


def locate(events: Iterable[e.Event | e.Unknown], at: str, flagged: Callable[[fold.State], bool]) -> float:
    """The session time that `at` names: a time, a quant (its start), or `flag` (the first doubt or failure).

    Args:
        events: the session's, from the first one.
        at: 12m, 90s, 00:41:22, a quant's name in any case, or "flag".
        flagged: whether a state holds a verdict or a failure worth stopping at.

    Raises:
        UserError: no such quant, or nothing was flagged.
    """
    when = seconds(at)
    if when is not None:
        return when
    wanted = at.strip().lower()
    return _first_flag(events, flagged) if wanted == "flag" else _first_start(events, wanted)


def _first_start(events: Iterable[e.Event | e.Unknown], wanted: str) -> float:
    known: dict[str, None] = {}
    for event in events:
        if isinstance(event, e.ArmStarted):
            known[clean(event.quant, 40)] = None
            if wanted in (event.arm.lower(), event.quant.lower()):
                return event.t
    names = ", ".join(known) or "no quant started"
    raise UserError(f"--at {clean(wanted, 40)}: no such moment: give a time (12m), flag, or one of: {names}")


def _first_flag(events: Iterable[e.Event | e.Unknown], flagged: Callable[[fold.State], bool]) -> float:
    state, judged = fold.State(), -1.0
    for event in events:
        state.apply(event)
        # Judging costs more than folding: between records once a second of session time is often enough.
        if isinstance(event, _DECISIVE) or event.t >= judged + 1:
            judged = event.t
            if flagged(state):
                return event.t
    raise UserError(f"--at flag: nothing was flagged in the {clock(state.t)} of this session: give a time (12m)")
