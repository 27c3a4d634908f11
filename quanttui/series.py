"""Time series of bounded size, with breaks. Pure data: knows nothing of events or screens."""

from __future__ import annotations

import math

import msgspec

BINS = 2048
"""The most bins that a series holds before neighbours are merged: enough for a chart 1,000 dots wide."""


class Series(msgspec.Struct):
    """Values over x (session seconds, token index, chunk), kept as whole bins of one width.

    When there would be more than BINS bins, neighbours merge and the width doubles: the memory is bounded however
    long a sweep lasts, and what a bin says never depends on when somebody looked. An empty bin is a break.

    Args:
        width: of the first bins, in units of x; at least the spacing of the values, or gaps would be seen between them.
    """

    width: float
    sums: list[float] = []
    counts: list[int] = []
    last: float | None = None
    last_x: float = -math.inf

    def add(self, x: float, value: float) -> None:
        """Take a value at x >= 0. Order does not matter, save for `last`."""
        index = int(x / self.width)
        try:
            self.sums[index] += value
        except IndexError:
            index = self._reach(x)
            self.sums[index] += value
        self.counts[index] += 1
        if x >= self.last_x:
            self.last, self.last_x = value, x

    def _reach(self, x: float) -> int:
        """Have a bin for `x`; returns its index."""
        while (index := int(x / self.width)) >= BINS:
            self._halve()
        short = index + 1 - len(self.sums)
        self.sums.extend([0.0] * short)
        self.counts.extend([0] * short)
        return index

    def _halve(self) -> None:
        if len(self.sums) % 2:
            self.sums.append(0.0)
            self.counts.append(0)
        self.sums = [a + b for a, b in zip(self.sums[::2], self.sums[1::2], strict=True)]
        self.counts = [a + b for a, b in zip(self.counts[::2], self.counts[1::2], strict=True)]
        self.width *= 2

    def mean(self, start: float, end: float) -> float | None:
        """Mean of the values in the bins that begin in [start, end), None where there are none."""
        first = max(0, math.ceil(start / self.width))
        beyond = min(len(self.sums), math.ceil(end / self.width))
        if beyond <= first:
            return None
        count = sum(self.counts[first:beyond])
        return sum(self.sums[first:beyond]) / count if count else None

    def columns(self, start: float, width: float, count: int) -> list[float | None]:
        """Means over `count` columns, each `width` wide, from `start`: what a chart draws, None for a break.

        Where columns are narrower than bins, a column takes the bin that it lies in.
        """
        result: list[float | None] = []
        for column in range(count):
            left = start + column * width
            if width < self.width:
                index = int(left // self.width)
                full = 0 <= index < len(self.counts) and self.counts[index]
                result.append(self.sums[index] / self.counts[index] if full else None)
            else:
                result.append(self.mean(left, left + width))
        return result


def column_width(span: float, columns: int, least: float) -> float:
    """The narrowest of least x 1, 2, 4, 8, … with which `columns` columns cover `span`: whole bins, so that a
    column never changes once its time has passed."""
    width = least
    while width * columns < span:
        width *= 2
    return width
