"""What a chart shows, as data: columns of values with their range. Pure: series in, traces out; no characters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from quanttui.series import Series, column_width

Columns = tuple["float | None", ...]

_HUGE = 1e300

_STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


class Trace(msgspec.Struct, frozen=True):
    """Columns of a chart, each a mean over whole bins, None for a break; `ghost` is drawn dotted behind them.

    `low` and `high` are round numbers that hold all values; an area's `low` is 0. `start` and `width` say which
    stretch the columns cover: session seconds, or tokens, or chunks. `cursor` is where on it the time cursor stands,
    None where nothing lies beyond.
    """

    values: Columns
    ghost: Columns = ()
    area: bool = False
    low: float = 0.0
    high: float = 1.0
    start: float = 0.0
    width: float = 1.0
    cursor: float | None = None


def at_cursor(trace: Trace | None, x: float) -> Trace | None:
    """The trace with the cursor at `x`, where anything of it lies beyond."""
    if trace is None or not any(value is not None for value in trace.values[_column(trace, x) + 1 :]):
        return trace
    return msgspec.structs.replace(trace, cursor=x)


def _column(trace: Trace, x: float) -> int:
    return max(0, math.floor((x - trace.start) / trace.width))


def over_time(series: Series, now: float, start: float, columns: int, least: float, binary: bool = False) -> Trace:
    """An area of a series of session time, from `start` or earlier to `now`, or to where the chart is to end.

    Columns begin at multiples of their width; as much of the past is shown as there are columns for.
    """
    width = column_width(now - start, columns - 1, least)
    last = math.floor(now / width)
    first = max(0, last - columns + 1)
    values = tuple(series.columns(first * width, width, last - first + 1))
    return Trace(values, area=True, high=ceiling(values, binary), start=first * width, width=width)


def over_progress(series: Series, ghost: Series | None, span: float, columns: int, zoom: bool = True) -> Trace:
    """A curve over tokens or chunks from 0 to `span`, of one quant and dotted of another at the same places.

    `zoom`: the range is that of the usual values; what lies beyond it is drawn at the edge. Else an area from 0.
    """
    least = max(1.0, series.width, ghost.width if ghost is not None else 0.0)
    width = column_width(span, columns, least)
    # A short stretch is spread over the whole chart: several columns then show the one bin that they lie in.
    while width * columns >= 2 * span > 0:
        width /= 2
    count = min(columns, math.ceil(span / width))
    values = tuple(series.columns(0.0, width, count))
    behind = tuple(ghost.columns(0.0, width, count)) if ghost is not None else ()
    low, high = bounds([*_usual(values), *_usual(behind)]) if zoom else (0.0, ceiling(values))
    return Trace(values, behind, not zoom, low, high, 0.0, width)


def _usual(values: Columns) -> list[float]:
    """The values without the first eighth, which is unsettled (the first token after a load, a perplexity of few
    chunks), and without one in thirty at either end; all of them where there are few."""
    later = finite(values[len(values) // 8 :])
    known = sorted(later or finite(values))
    beyond = len(known) // 30
    return known[beyond : len(known) - beyond]


def mapped(trace: Trace, change: Callable[[float, float], float | None], high: float | None = None) -> Trace:
    """The trace with `change(x, value)` of each column's beginning and value."""
    values = tuple(
        None if value is None else change(trace.start + index * trace.width, value)
        for index, value in enumerate(trace.values)
    )
    return msgspec.structs.replace(trace, values=values, high=ceiling(values) if high is None else high)


def joined(trace: Trace, slow: Callable[[float], float]) -> Trace:
    """Breaks closed that are no longer than `slow(value)` says the value after them took to come about."""
    values = list(trace.values)
    for index, value in enumerate(trace.values):
        if value is None:
            continue
        gap = index
        while gap > 0 and trace.values[gap - 1] is None:
            gap -= 1
        if gap > 0 and (index - gap - 1) * trace.width <= slow(value):
            values[gap:index] = [value] * (index - gap)
    return msgspec.structs.replace(trace, values=tuple(values))


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers, and not so large that a range of them is none."""
    return [value for value in values if value is not None and abs(value) < _HUGE]


def ceiling(values: Iterable[float | None], binary: bool = False) -> float:
    """A round number at or above all values, for the top of an area: 1, 1.2, 1.5, 2, … times a power of 10.

    `binary`: round in KiB, MiB, GiB instead.
    """
    most = max(finite(values), default=0.0)
    if most <= 0:
        return 0.0
    if binary and most >= 1024:
        unit = 1024.0 ** min(4, math.floor(math.log(most, 1024)))
        return ceiling([most / unit]) * unit
    power = 10.0 ** math.floor(math.log10(most))
    return next((step * power for step in _STEPS if most <= step * power * (1 + 1e-9)), 10 * power)


def bounds(values: Sequence[float | None]) -> tuple[float, float]:
    """Round numbers around all values, at least 5 % of their size apart, so that noise does not fill a chart."""
    known = finite(values)
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    least = 0.05 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        middle = (high + low) / 2
        low, high = middle - least / 2, middle + least / 2
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step * power for step in (1, 2, 5, 10) if (high - low) / (step * power) <= 5)
    below, above = math.floor(low / step) * step, math.ceil(high / step) * step
    return (max(0.0, below) if min(known) >= 0 else below), above
