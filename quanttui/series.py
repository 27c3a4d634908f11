"""Time series of bounded size, with breaks. Pure data: knows nothing of events or screens."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

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
        self.put(int(x / self.width), x, value)

    def put(self, index: int, x: float, value: float) -> None:
        """The same by who knows in which bin `x` lies."""
        sums = self.sums
        if index < len(sums):
            sums[index] += value
            self.counts[index] += 1
        elif index == len(sums) < BINS:  # as most values come: a little later than the one before
            sums.append(0.0 + value)
            self.counts.append(1)
        else:
            index = self._reach(x)
            self.sums[index] += value
            self.counts[index] += 1
        if x >= self.last_x:
            self.last, self.last_x = value, x

    def add_run(self, first: int, values: Sequence[float]) -> None:
        """Take values at first, first + 1, …: what as many calls of `add` would do, in a third of the time. The bins
        are 1, 2, 4, … wide."""
        count, sums, counts = len(values), self.sums, self.counts
        width, last = int(self.width), first + count - 1
        if not count or last >= BINS * width or first // width > len(sums):
            for x, value in enumerate(values, first):
                self.add(float(x), value)
            return
        done = 0
        while done < count:
            index = (first + done) // width
            until = min(count, (index + 1) * width - first)
            total = sums[index] if index < len(sums) else 0.0
            for value in values[done:until]:
                total += value
            if index < len(sums):
                sums[index] = total
                counts[index] += until - done
            else:
                sums.append(total)
                counts.append(until - done)
            done = until
        if last >= self.last_x:
            self.last, self.last_x = values[-1], float(last)

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

    def round(self) -> None:
        """Keep seven digits of what the bins hold, as float32 has them: packed, it takes half the room."""
        self.sums = array("f", self.sums).tolist()

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


def add_together(series: dict[str, Series], width: float, x: float, values: Iterable[tuple[str, float]]) -> None:
    """Take a value each for some series at the same x >= 0: what `add` does, with one call for all of them.

    Args:
        series: by name; one that is not there yet begins with bins of this `width`.
    """
    known, index = 0.0, 0
    for name, value in values:
        one = series.get(name)
        if one is None:
            one = series[name] = Series(width=width)
        if one.width != known:
            known = one.width
            index = int(x / known)
        one.put(index, x, value)


def column_width(span: float, columns: int, least: float) -> float:
    """The narrowest of least x 1, 2, 4, 8, … with which `columns` columns cover `span`: whole bins, so that a
    column never changes once its time has passed."""
    width = least
    while width * columns < span:
        width *= 2
    return width
