"""Charts of bounded cost: columns of values become rows of characters. Pure; knows no widget and no colours.

Every column is a mean over whole bins, so it never changes once its time has passed. A missing value is a break,
never a zero. Areas start at zero; lines may zoom, and print their range.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from quanttui.tui.glyphs import Glyphs, Raster
from quanttui.tui.parts import Line, Span
from quanttui.tui.trace import Trace

Values = Sequence["float | None"]


@lru_cache(maxsize=64)
def plot(trace: Trace, width: int, height: int, glyphs: Glyphs, role: str) -> tuple[Line, ...]:
    """A chart `width` x `height` cells, top line first.

    The newest columns are kept where there are more than fit; fewer are drawn from the left. The ghost is drawn
    dotted, in cells that the values leave free.
    """
    if width <= 0 or height <= 0:
        return ()
    raster = glyphs.area if trace.area else glyphs.curve
    count = width * raster.across
    values, ghost = trace.values[-count:], trace.ghost[-count:]
    rows = height * raster.up
    low, high = trace.low, trace.high
    body = _areas(values, high, rows) if trace.area else _lines(values, low, high, rows)
    behind = _dots(ghost, low, high, height * glyphs.curve.up, glyphs.curve)
    body += [0] * (count - len(body))
    behind += [0] * (count - len(behind))
    here = _cursor_cell(trace, len(trace.values) - len(values), raster.across, width)
    lines = []
    for row in range(height - 1, -1, -1):
        front = raster.line(body, row)
        line = _over(front, glyphs.curve.line(behind, row), role) if ghost else ((front, role),)
        lines.append(line if here is None else _marked(line, here, glyphs))
    return tuple(lines)


def _cursor_cell(trace: Trace, left_out: int, across: int, width: int) -> int | None:
    """The cell that the time cursor stands in; None where there is none, or where it is not on the chart."""
    if trace.cursor is None:
        return None
    cell = (int((trace.cursor - trace.start) / trace.width) - left_out) // across
    return cell if 0 <= cell < width else None


def _marked(line: Line, cell: int, glyphs: Glyphs) -> Line:
    """A line of one-cell characters with the cursor in it, and what lies beyond it dim."""
    spans: list[Span] = []
    x = 0
    for text, role in line:
        before, beyond = text[: max(0, cell - x)], text[max(0, cell + 1 - x) :]
        spans += [(before, role)] if before else []
        if x <= cell < x + len(text):
            spans.append((glyphs.text("│"), "accent"))
        spans += [(beyond, "dim")] if beyond else []
        x += len(text)
    return tuple(spans)


def _over(front: str, back: str, role: str) -> Line:
    """The front's characters, and the back's where the front is blank; runs of one role joined."""
    spans: list[Span] = []
    for a, b in zip(front, back, strict=False):
        char, kind = (a, role) if a != " " else (b, "ghost")
        if spans and spans[-1][1] == kind:
            spans[-1] = (spans[-1][0] + char, kind)
        else:
            spans.append((char, kind))
    return tuple(spans)


def _level(value: float | None, low: float, high: float, rows: int) -> int | None:
    """The row of dots, 0 lowest, that a value falls in; None where there is no value."""
    if value is None or value != value:
        return None
    if high <= low:
        return 0
    share = (min(max(value, low), high) - low) / (high - low)
    return min(rows - 1, int(share * rows))


def _areas(values: Values, high: float, rows: int) -> list[int]:
    """Masks of columns filled from the bottom. A zero still has its lowest dot: it is not missing."""
    masks = []
    for value in values:
        level = _level(value, 0.0, high, rows)
        masks.append(0 if level is None else (2 << level) - 1)
    return masks


def _lines(values: Values, low: float, high: float, rows: int) -> list[int]:
    """Masks of a curve: each column joined to the one before it, none across a break."""
    masks = []
    last: int | None = None
    for value in values:
        level = _level(value, low, high, rows)
        if level is None:
            masks.append(0)
        elif last is None or abs(level - last) <= 1:
            masks.append(1 << level)
        else:
            bottom, top = (last + 1, level) if level > last else (level, last - 1)
            masks.append((2 << top) - (1 << bottom))
        last = level
    return masks


def _dots(values: Values, low: float, high: float, rows: int, raster: Raster) -> list[int]:
    """Masks of a dotted curve: one dot every other cell."""
    masks = []
    for column, value in enumerate(values):
        level = _level(value, low, high, rows) if column % (2 * raster.across) == 0 else None
        masks.append(0 if level is None else 1 << level)
    return masks
