"""What may be said of a row of ratios: median, interval, spread, verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95

REACHED, MISSED, OPEN = "reached", "not reached", "undecided at the cap"


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """An interval that holds the median of whatever independent values come from, whatever their distribution.

    Between the k-th smallest and the k-th largest value the median is missed with probability 2 * P(B < k), B binomial
    (n, 1/2), at most (David & Nagaraja, Order Statistics, 7.1); k is the largest that keeps to the confidence. None
    where no k does: at 95 %, below 6 values.
    """
    n, below, rank = len(values), 0, 0
    while True:
        below += math.comb(n, rank)
        if 2 * below > (1 - confidence) * 2**n or rank > n // 2:
            break
        rank += 1
    if not rank:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[n - rank]


def spread(values: Sequence[float]) -> float:
    """From the median of the lower half to that of the upper half; 0 for fewer than two values."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return median(ordered[-half:]) - median(ordered[:half]) if half else 0.0


@dataclass(frozen=True)
class Target:
    """What must be reached. Both bounds: the interval reaches into the range. One: the median does."""

    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g}–{self.high:g}"
        return f"≥ {self.low:g}" if self.low is not None else f"≤ {self.high:g}"

    def verdict(self, values: Sequence[float], width: float, last: bool) -> str:
        """What the values say; "" where more are needed, which is no answer when these are the `last`.

        Before the last only an interval no wider than `width` says anything: who stops as soon as a wide one looks
        right is wrong too often. At the last, a wider one speaks if it lies wholly within the bounds, or wholly on the
        wrong side.
        """
        found = interval(values)
        if found is not None and found[1] - found[0] <= width:
            return REACHED if self._holds(median(values), found) else MISSED
        if not last:
            return ""
        if self.is_clear(values):
            return REACHED
        return MISSED if found is not None and self._beyond(found) else OPEN

    def is_clear(self, values: Sequence[float]) -> bool:
        """Whether the whole interval lies within the bounds, however wide it is."""
        found = interval(values)
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        return found is not None and low <= found[0] and found[1] <= high

    def _holds(self, middle: float, found: tuple[float, float]) -> bool:
        if self.low is not None and self.high is not None:
            return not self._beyond(found)
        return (self.low is None or middle >= self.low) and (self.high is None or middle <= self.high)

    def _beyond(self, found: tuple[float, float]) -> bool:
        """Whether the whole interval lies on the wrong side."""
        return (self.low is not None and found[1] < self.low) or (self.high is not None and found[0] > self.high)
