"""How often what is painted. Pure: time comes in as an argument.

A dashboard at ordinary rates takes 6 % off a decode that fills every core (measured, 2 threads on 2 cores): so while
repetitions are timed on all cores only a few numbers are painted, every 1.4 s, and whole frames where one repetition
ends and the next begins, or every 3 s inside a long one. The sweep of this process waits there for a frame; one of
another process goes on, and is told of a moment later.
"""

from __future__ import annotations

import msgspec


class Rates(msgspec.Struct, frozen=True):
    """Seconds between repaints: of the numbers, of all with the charts; and whether only a few numbers are painted.

    `between`: seconds after which a whole frame may come where a repetition ends, 0 where that makes no difference.
    """

    numbers: float
    whole: float
    few: bool = False
    between: float = 0.0

    @property
    def words(self) -> str:
        return f"charts {1 / self.whole:.2g} Hz  numbers {1 / self.numbers:.2g} Hz"


ORDINARY = Rates(0.2, 1.0)
REMOTE = Rates(1.0, 3.0)
UNFOCUSED = Rates(4.0, 12.0)
STILL = Rates(2.0, 30.0)
QUIET = Rates(1.4, 2.8, few=True, between=1.5)

ROOM = 0.7
"""Seconds after which a whole frame may come where the next repetition waits for it: it takes nothing from any."""

SLACK = 0.02
"""Seconds by which a timer may be early."""


def rates(quiet: bool, remote: bool, focused: bool, still: bool = False) -> Rates:
    """The rates to keep to. `still`: nothing that is shown can change by itself."""
    if quiet:
        return QUIET
    if still:
        return STILL
    return UNFOCUSED if not focused else REMOTE if remote else ORDINARY


class Pace:
    """Remembers what was painted when. `due` says what is to be painted now."""

    def __init__(self) -> None:
        self._numbers = self._whole = float("-inf")
        self._quiet = False

    def due(self, now: float, rates: Rates, free: bool = False) -> str:
        """ "whole", "few", "numbers", or "" for nothing; leaving the quiet is always a whole frame.

        Args:
            free: no repetition is timed now, or one has only just ended.
        """
        left, self._quiet = self._quiet and not rates.few, rates.few
        whole = rates.between if rates.few and free else rates.whole
        if left or now - self._whole >= whole - SLACK:
            self._whole = self._numbers = now
            return "whole"
        if now - self._numbers >= rates.numbers - SLACK:
            self._numbers = now
            return "few" if rates.few else "numbers"
        return ""

    def welcomes(self, now: float, rates: Rates, waits: bool = False) -> bool:
        """Whether a look is worth while where a repetition ends: a whole frame would be due. Callable by any thread.

        Args:
            waits: the next repetition waits for the frame. Where the screen has yet to see that it should be quiet, it
                had better look in any case.
        """
        if waits:
            return not rates.few or now - self._whole >= ROOM - SLACK
        return rates.few and now - self._whole >= rates.between - SLACK

    def answered(self, now: float) -> None:
        """A whole frame was painted out of turn, for a key: the next one has its time from here."""
        self._whole = self._numbers = now

    def hurry(self) -> None:
        """A whole frame is due at once."""
        self._whole = float("-inf")
