"""What may be believed of a counter. Owns nothing; knows no source."""

from __future__ import annotations

from collections.abc import Collection


class Rising:
    """Counters by name, each left out while it lies below what it has shown already.

    A driver that is loaded anew, or a field that wraps round, makes a counter smaller: a difference across that would
    be negative, and nobody knows what it should have been. So there is none until the counter has passed its mark.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._marks = dict.fromkeys(names, 0.0)

    def kept(self, readings: dict[str, float]) -> dict[str, float]:
        """The readings without those counters that ran backwards; what is none of the counters passes as it is."""
        found = {name: value for name, value in readings.items() if value >= self._marks.get(name, value)}
        self._marks.update({name: value for name, value in found.items() if name in self._marks})
        return found
