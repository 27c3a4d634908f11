"""Quality against speed: a point for each quant, the front of those that nothing beats, names that do not overlap.
Pure.

● measured, ○ tainted (`*` in ascii): never on the front. Bars are intervals, the dotted steps are the front. Lower
right is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from quanttui.decide.compare import Point, Scatter
from quanttui.format import clean, significant
from quanttui.report import charts
from quanttui.report.charts import FAR, Axis
from quanttui.summary import Summary
from quanttui.tui.glyphs import Glyphs, Raster
from quanttui.tui.parts import Line, Span
from quanttui.tui.trace import bounds
from quanttui.tui.widgets.sheet import crop, framed, pad, sides, width_of

LEAST = (24, 6)
"""The least size (columns, rows) of a plot; below it the points are listed."""

BETTER = "lower right is better"

Cell = tuple[int, int]
"""Column, and row from the top."""


def points(summary: Summary) -> Scatter:
    """The session's quants by decode tok/s, and by perplexity against the base's in percent; ghosts have none."""
    models = tuple(one for one in summary.arms if not one.ghost)
    found = charts.points(msgspec.structs.replace(summary, arms=models))
    short = f"Δppl % vs {clean(summary.base, 20)}" if summary.base else "Δppl %"
    return msgspec.structs.replace(found, quality=short)


def boxed(scatter: Scatter, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The plot in a frame."""
    title = (("quality against speed", "title"),)
    body = draw(scatter, max(0, width - 4), max(0, height - 2), glyphs)
    return framed(title, ((BETTER, "dim"),), body, width, height, glyphs)


def draw(scatter: Scatter, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The plot, `width` x `height` cells: a heading, the field with numbers at its left, numbers below it."""
    if width <= 0 or height <= 0:
        return []
    known = scatter.points
    if not known:
        why = "; ".join(scatter.missing) or "no quant has both a speed and a perplexity yet"
        return filled([sides(((why, "dim"),), (), width, glyphs)], width, height)
    if width < LEAST[0] or height < LEAST[1]:
        return _listed(known, width, height, glyphs)
    rows = height - 3
    across = axis([one.tok_s for one in known], max(2, width // 12))
    up = upward([one.quality for one in known], max(2, min(6, rows // 2)))
    margin = max(width_of(glyphs.text(number(mark))) for mark in up.marks) + 1
    room = width - margin - 1
    body, unnamed = field(known, across, up, room, rows, glyphs)
    body = _numbered(body, up, margin, glyphs)
    missing = [*scatter.missing, *([f"{unnamed} without room for a name"] if unnamed else [])]
    quality = f"{scatter.quality}, bent scale" if up.bend else scatter.quality
    head = sides(((quality, "dim"),), (("; ".join(missing), "dim"),), width, glyphs)
    return [head, *body, *_below(across, margin, width, glyphs)]


def filled(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    """Lines cut or filled up to `height`."""
    return [*lines[:height], *([crop((), width)] * (height - len(lines)))]


def number(value: float) -> str:
    """A mark on an axis."""
    return f"{value:.6g}" if value else "0"


def _listed(known: Sequence[Point], width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A line for each point, fastest first."""
    ordered = sorted(known, key=lambda one: -one.tok_s)
    lines = []
    for one in ordered[: height if len(ordered) <= height else height - 1]:
        left = ((sign(one, glyphs), role(one)), (" " + label(one), "text"))
        figures = f"{significant(one.tok_s)}{'*' if one.tainted else ''} tok/s  {one.quality:+.2g} %"
        lines.append(sides(left, ((figures, "text"),), width, glyphs))
    if len(ordered) > height:
        lines.append(sides(((f"+{len(ordered) - len(lines)}", "dim"),), (), width, glyphs))
    return filled(lines, width, height)


def sign(one: Point, glyphs: Glyphs) -> str:
    """A point's mark: hollow where it is tainted."""
    return ("*" if glyphs.plain else "○") if one.tainted else "●"


def role(one: Point) -> str:
    return "bad" if one.tainted else "accent" if one.front else "dim"


def label(one: Point) -> str:
    return f"{one.name}*" if one.tainted else one.name


def axis(values: Sequence[float], most: int) -> Axis:
    """A round range around the values with at most `most` steps of 1, 2 or 5 times a power of 10 marked on it."""
    low, high = bounds(values)
    if not (math.isfinite(high - low) and high > low):
        low, high = 0.0, 1.0
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * power for step in (1, 2, 5, 10, 20) if (high - low) / (step * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    marks = tuple(min(high, max(low, round(index * step, 12))) for index in range(first, last + 1))
    return Axis(low, high, marks or (low,))


def upward(values: Sequence[float], most: int) -> Axis:
    """The same for lost quality, bent where one value lies FAR beyond the others."""
    sizes = sorted(abs(value) for value in values if value)
    middle = sizes[(len(sizes) - 1) // 2] if sizes else 0.0
    if len(sizes) < 3 or sizes[-1] <= FAR * middle or not math.isfinite(sizes[-1] / middle):
        return axis(values, most)
    low, high = min(0.0, *values), max(0.0, *values)
    powers = range(math.floor(math.log10(middle)), math.ceil(math.log10(sizes[-1])) + 1)
    tens = [sign * 10.0**power for power in reversed(powers) for sign in (1, -1)]
    marks = (0.0, *tens, *(step * ten for step in (5, 2) for ten in tens))
    return Axis(low, high, tuple(mark for mark in marks if low <= mark <= high), middle)


# --- the field ------------------------------------------------------------------------------------------------------


def field(
    known: Sequence[Point], across: Axis, up: Axis, width: int, height: int, glyphs: Glyphs
) -> tuple[list[Line], int]:
    """The points with their bars, the front and as many names as have room: lines, and how many have none.

    Points of one cell are one mark; its name is all of theirs.
    """
    raster = glyphs.curve
    dots = (width * raster.across, height * raster.up)
    cells: dict[Cell, list[Point]] = {}
    for one in sorted(known, key=lambda one: (not one.front, one.tainted, one.quality)):
        x, y = _dot(one.tok_s, one.quality, across, up, dots)
        cells.setdefault((x // raster.across, height - 1 - y // raster.up), []).append(one)
    grid = [[(char, kind) for char in line] for line, kind in _layers(known, across, up, dots, height, raster)]
    steps, bars = grid[:height], grid[height:]
    canvas = [[b if b[0] != " " else s for b, s in zip(*rows, strict=True)] for rows in zip(bars, steps, strict=True)]
    for (x, y), group in cells.items():
        canvas[y][x] = (glyphs.text(sign(group[0], glyphs)), role(group[0]))
    taken, unnamed = set(cells), 0
    for (x, y), group in cells.items():
        name = glyphs.text(", ".join(label(one) for one in group))
        name = pad(name, min(width_of(name), max(4, width // 2)), mark=glyphs.text("…"))
        place = _place(name, x, y, canvas, taken)
        if place is None:
            unnamed += len(group)
            continue
        _write(canvas, place, name, "bad" if group[0].tainted else "text")
        taken |= {(place[0] + i, place[1]) for i in range(width_of(name))}
    return [crop(_joined(row), width) for row in canvas], unnamed


def _dot(x: float, y: float, across: Axis, up: Axis, dots: tuple[int, int]) -> Cell:
    """The dot of a value, counted from the lower left."""
    return min(dots[0] - 1, int(across.share(x) * dots[0])), min(dots[1] - 1, int(up.share(y) * dots[1]))


def _layers(
    known: Sequence[Point], across: Axis, up: Axis, dots: tuple[int, int], height: int, raster: Raster
) -> list[tuple[str, str]]:
    """The front's dotted steps, top line first, then the bars, each line with its role."""
    steps, bars = [0] * dots[0], [0] * dots[0]
    best = sorted((one for one in known if one.front), key=lambda one: one.tok_s)
    for a, b in pairwise(best):
        (x, y), (end, top) = (_dot(one.tok_s, one.quality, across, up, dots) for one in (a, b))
        for column in range(x - x % (2 * raster.across), end, 2 * raster.across):
            steps[max(x, column)] |= 1 << y
        for row in range(y, top, 2):
            steps[end] |= 1 << row
    for one in known:
        x, y = _dot(one.tok_s, one.quality, across, up, dots)
        if one.tok_low is not None and one.tok_high is not None:
            first, last = (_dot(rate, one.quality, across, up, dots)[0] for rate in (one.tok_low, one.tok_high))
            for column in range(first, last + 1):
                bars[column] |= 1 << y
        if one.quality_low is not None and one.quality_high is not None:
            low, high = (_dot(one.tok_s, end, across, up, dots)[1] for end in (one.quality_low, one.quality_high))
            bars[x] |= (2 << high) - (1 << low)
    rows = range(height - 1, -1, -1)
    layers = ((steps, "ghost"), (bars, "border"))
    return [(raster.line(masks, row), kind) for masks, kind in layers for row in rows]


def _place(name: str, x: int, y: int, canvas: Sequence[Sequence[Span]], taken: set[Cell]) -> Cell | None:
    """The best place for a name near the mark at (x, y): beside it or up to two lines off, on no mark and no other
    name, a cell away from both; over as few bars as can be. None where there is none."""
    size, width, height = width_of(name), len(canvas[0]), len(canvas)
    best: tuple[int, Cell] | None = None
    for cost, left, row in _near(x, y, size):
        if left < 0 or left + size > width or not 0 <= row < height:
            continue
        if any((column, row) in taken for column in range(left - 1, left + size + 1) if (column, row) != (x, y)):
            continue
        cost += 2 * sum(canvas[row][column][0] != " " for column in range(left, left + size))
        if best is None or cost < best[0]:
            best = cost, (left, row)
    return best[1] if best else None


def _near(x: int, y: int, size: int) -> list[tuple[int, int, int]]:
    """Places for a name of `size` cells near (x, y), each with what it costs: (cost, column, row)."""
    found = [(0, x + 2, y), (1, x - 1 - size, y)]
    for off in (1, 2):
        for row in (y - off, y + off):
            found += [(3 * off, x + 1, row), (3 * off, x - size // 2, row), (3 * off + 1, x - size, row)]
    return found


def _write(canvas: list[list[Span]], place: Cell, name: str, kind: str) -> None:
    """Put a name into the cells; a wide character takes two, the second of them empty."""
    x, y = place
    for char in name:
        size = width_of(char)
        if size == 0:
            before, its = canvas[y][x - 1]
            canvas[y][x - 1] = (before + char, its)
            continue
        canvas[y][x] = (char, kind)
        for rest in range(1, size):
            canvas[y][x + rest] = ("", kind)
        x += size


def _joined(row: Sequence[Span]) -> Line:
    """Cells of one role put together."""
    spans: list[Span] = []
    for text, kind in row:
        if spans and spans[-1][1] == kind:
            spans[-1] = (spans[-1][0] + text, kind)
        else:
            spans.append((text, kind))
    return tuple(spans)


# --- the axes -------------------------------------------------------------------------------------------------------


def _numbered(body: Sequence[Line], up: Axis, margin: int, glyphs: Glyphs) -> list[Line]:
    """The field with the upward axis at its left."""
    height = len(body)
    numbers: dict[int, str] = {}
    for mark in up.marks:
        row = height - 1 - min(height - 1, int(up.share(mark) * height))
        if not {row - 1, row, row + 1} & numbers.keys():
            numbers[row] = number(mark)
    lines = []
    for row, line in enumerate(body):
        text = pad(glyphs.text(numbers.get(row, "")), margin - 1, right=True)
        lines.append(((text + " ", "dim"), (glyphs.text("│"), "border"), *line))
    return lines


def _below(across: Axis, margin: int, width: int, glyphs: Glyphs) -> list[Line]:
    """The lower edge, and the numbers below it with their unit."""
    room, unit = width - margin - 1, " tok/s"
    cells = [" "] * room
    for mark in across.marks:
        text = number(mark)
        x = min(room - 1, int(across.share(mark) * room))
        left = min(max(0, x - len(text) // 2), room - len(text))
        clear = all(cell == " " for cell in cells[max(0, left - 1) : left + len(text) + 1])
        if left >= 0 and clear and left + len(text) <= room - len(unit):
            cells[left : left + len(text)] = text
    cells[room - len(unit) :] = unit
    edge = ((" " * margin, ""), (glyphs.text("╰") + glyphs.text("─") * room, "border"))
    return [crop(edge, width), crop(((" " * (margin + 1) + "".join(cells), "dim"),), width)]
