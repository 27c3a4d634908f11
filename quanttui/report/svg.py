"""A report's charts as SVG text, to stand inside a page: no script, no font of its own, no address. Pure.

Every chart has a title and a description for those who do not see it, and nothing is told by colour alone: tainted
points are hollow, lines differ in their dashes, verdicts in their hatching, with their mark in words beside it. Colours
are the page's (STYLE). Coordinates are pixels of the view box; the page scales it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from quanttui.decide.compare import Point, Scatter
from quanttui.format import duration, significant
from quanttui.report import charts
from quanttui.report.charts import Axis, Band, Curve, Run, Strip, Timeline, Trace
from quanttui.report.markup import Markup, element, number

STYLE = """
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--text); } svg .dim { fill: var(--dim); } svg .strong { font-weight: 600; }
svg .frame { fill: none; stroke: var(--line); } svg .grid { stroke: var(--line); stroke-width: .5; }
svg .zero { stroke: var(--dim); } svg .limit { stroke: var(--warn); stroke-dasharray: 6 3; }
svg .error { stroke: var(--dim); stroke-width: 1.2; } svg .bad-text { fill: var(--bad); }
svg .front { fill: none; stroke: var(--accent); stroke-width: 1.2; stroke-dasharray: 2 4; }
svg .mark { fill: var(--dim); stroke: var(--dim); } svg .mark.best { fill: var(--accent); stroke: var(--accent); }
svg .mark.hollow { fill: var(--page); stroke: var(--bad); stroke-width: 1.8; }
svg .curve { fill: none; stroke: var(--curve); stroke-width: 1.6; } svg .within { fill: var(--curve); opacity: .2; }
svg .line { fill: none; stroke-width: 1.3; } svg .area { stroke: none; opacity: .25; }
svg .line.a { stroke: var(--a); } svg .line.b { stroke: var(--b); stroke-dasharray: 5 3; }
svg .line.c { stroke: var(--c); stroke-dasharray: 1.5 2.5; }
svg .area.a { fill: var(--a); } svg .area.b { fill: var(--b); } svg .area.c { fill: var(--c); }
svg .run { fill: var(--soft); stroke: var(--page); stroke-width: .6; }
svg .run.strong-run { fill: var(--softer); }
svg .band { stroke: none; } svg .band.contaminated { fill: var(--bad-soft); }
svg .band.caution { fill: var(--warn-soft); } svg .band.explained { fill: var(--soft); }
svg .hatch { stroke: var(--bad); stroke-width: 1.2; }
svg .dots { fill: var(--warn); }
""".strip()

_CHARACTER = 6.5
"""Pixels of a character of 11 px, about; less where it is no bold one."""

_CLASSES = ("a", "b", "c")


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def x(self, share: float) -> float:
        """A share of the width as a place."""
        return self.left + share * (self.right - self.left)

    def y(self, share: float) -> float:
        """A share of the height as a place: 0 at the bottom."""
        return self.bottom - share * (self.bottom - self.top)


def _drawing(name: str, size: tuple[float, float], title: str, said: str, *parts: str) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", said, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {number(size[0])} {number(size[1])}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def _text(x: float, y: float, text: str, kind: str | None = None, anchor: str | None = None) -> Markup:
    return element("text", text, x=x, y=y, class_=kind, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _rect(box: Box, kind: str, *inside: str, fill: str | None = None) -> Markup:
    width, height = max(0.0, box.right - box.left), max(0.0, box.bottom - box.top)
    return element("rect", *inside, x=box.left, y=box.top, width=width, height=height, class_=kind, fill=fill)


def _path(places: Iterable[tuple[float, float]], kind: str, closed: bool = False) -> Markup:
    told = "L".join(f"{number(x)} {number(y)}" for x, y in places)
    return element("path", d=Markup(f"M{told}{'Z' if closed else ''}"), class_=kind)


def short(name: str, most: int) -> str:
    """A name cut to so many characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def figure(value: float) -> str:
    """A mark on an axis."""
    return f"{value:.6g}" if value else "0"


def _up(box: Box, axis: Axis) -> Iterator[Markup]:
    """Grid and numbers of an upward axis; a number that has no room is left out."""
    last = math.inf
    for mark in axis.marks:
        y = box.y(axis.share(mark))
        yield _line(box.left, y, box.right, y, "zero" if mark == 0 else "grid")
        if last - y >= 11:
            yield _text(box.left - 6, y + 4, figure(mark), "dim", "end")
            last = y


def _across(box: Box, axis: Axis) -> Iterator[Markup]:
    for mark in axis.marks:
        x = box.x(axis.share(mark))
        yield _line(x, box.top, x, box.bottom, "grid")
        yield _text(x, box.bottom + 15, figure(mark), "dim", "middle")


# --- quality against speed ------------------------------------------------------------------------------------------


def pareto(scatter: Scatter) -> Markup:
    """Each quant by tok/s and by what it loses, with the intervals of both; tainted ones hollow, never on the front."""
    size, box = (760.0, 420.0), Box(64, 30, 730, 372)
    across = charts.axis([x for one in scatter.points for x in (one.tok_s, one.tok_low, one.tok_high)])
    up = charts.losses(scatter)
    bent = ", bent scale" if up.bend else ""
    said = "; ".join(_said(one) for one in scatter.points)
    return _drawing(
        "pareto", size, "Quality against speed", f"Lower right is better. {said}.",
        *_up(box, up), *_across(box, across), _rect(box, "frame"),
        _text(box.left, 18, f"{scatter.quality}{bent}: lower is better", "dim"),
        _text(box.right, box.bottom + 34, "generation, tok/s: more is better", "dim", "end"),
        *_steps(scatter.points, across, up, box),
        *(bar for one in scatter.points for bar in _bars(one, across, up, box)),
        *(_mark(one, _place(one, across, up, box)) for one in scatter.points),
        *_names(scatter.points, across, up, box),
    )  # fmt: skip


def _said(one: Point) -> str:
    lost = f"{one.quality:+.3g} %"
    if one.quality_low is not None and one.quality_high is not None:
        lost += f" ({one.quality_low:+.3g} to {one.quality_high:+.3g})"
    radius = "" if one.tok_high is None else f" ± {significant(one.tok_high - one.tok_s, 2)}"
    place = "contaminated, of no rank" if one.tainted else "on the front" if one.front else "beaten by another"
    return f"{one.name}: {significant(one.tok_s)}{'*' if one.tainted else ''}{radius} tok/s, {lost}, {place}"


def _place(one: Point, across: Axis, up: Axis, box: Box) -> tuple[float, float]:
    return box.x(across.share(one.tok_s)), box.y(up.share(one.quality))


def _steps(points: Sequence[Point], across: Axis, up: Axis, box: Box) -> Iterator[Markup]:
    best = sorted((one for one in points if one.front), key=lambda one: (one.tok_s, one.quality))
    corners: list[tuple[float, float]] = []
    for one, after in pairwise(best):
        (x, y), (over, _) = (_place(each, across, up, box) for each in (one, after))
        corners += [(x, y), (over, y)]
    if corners:
        yield _path([*corners, _place(best[-1], across, up, box)], "front")


def _bars(one: Point, across: Axis, up: Axis, box: Box) -> Iterator[Markup]:
    x, y = _place(one, across, up, box)
    if one.tok_low is not None and one.tok_high is not None:
        yield _line(box.x(across.share(one.tok_low)), y, box.x(across.share(one.tok_high)), y, "error")
    if one.quality_low is not None and one.quality_high is not None:
        yield _line(x, box.y(up.share(one.quality_low)), x, box.y(up.share(one.quality_high)), "error")


def _mark(one: Point, place: tuple[float, float]) -> Markup:
    kind = "mark hollow" if one.tainted else "mark best" if one.front else "mark"
    return element("circle", element("title", _said(one)), cx=place[0], cy=place[1], r=5, class_=kind)


def _names(points: Sequence[Point], across: Axis, up: Axis, box: Box) -> Iterator[Markup]:
    """The names, each at the first place beside its mark that no mark and no other name has taken."""
    taken = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in (_place(one, across, up, box) for one in points)]
    for own, one in enumerate(points):
        name = short(one.name, 28) + ("*" if one.tainted else "")
        x, y = _place(one, across, up, box)
        free = [
            where
            for where in _beside(x, y, len(name) * _CHARACTER)
            if not any(where.meets(other) for index, other in enumerate(taken) if index != own)
            and box.left <= where.left and where.right <= box.right and box.top <= where.top
            and where.bottom <= box.bottom
        ]  # fmt: skip
        where = free[0] if free else next(iter(_beside(x, y, len(name) * _CHARACTER)))
        taken.append(where)
        kind = "bad-text" if one.tainted else "strong" if one.front else None
        yield _text(where.left, where.bottom - 3, name, kind)


def _beside(x: float, y: float, width: float) -> Iterator[Box]:
    for off in (-11, 11, -25, 25, -39, 39, -53, 53):
        yield Box(x + 7, y + off - 7, x + 7 + width, y + off + 7)
        yield Box(x - 7 - width, y + off - 7, x - 7, y + off + 7)


# --- perplexity -----------------------------------------------------------------------------------------------------


def curve(found: Curve, name: str) -> Markup:
    """A running figure over the chunks, its interval shaded. `name` is unique in the page."""
    size, box = (360.0, 216.0), Box(52, 34, 350, 180)
    up = charts.reach(found)
    last = found.chunks[-1]
    across = Axis(0.0, float(max(last, 1)), charts.axis([0.0, float(last)], most=5).marks)
    across = Axis(0.0, across.high, tuple(mark for mark in across.marks if mark <= last))
    xs = [box.x(across.share(float(chunk))) for chunk in found.chunks]
    what = f"Δppl against {found.base}, %" if found.base else "perplexity ± one standard error"
    return _drawing(
        name, size, f"{found.arm}: {what}", _curve_said(found),
        *_up(box, up), *_across(box, across), _rect(box, "frame"),
        _text(box.left, 14, short(found.arm, 20), "strong"), _text(box.left, 28, what, "dim"),
        _text(box.right, 14, _ends(found), None, "end"),
        *_limits(found, up, box), *_interval(found, xs, up, box),
        _path(zip(xs, (box.y(up.share(value)) for value in found.mean), strict=True), "curve"),
        _text(box.right, box.bottom + 30, "chunks scored", "dim", "end"),
    )  # fmt: skip


def _ends(found: Curve) -> str:
    """Where a curve ends, with its interval."""
    form = "+.3f" if found.base else ".4f"
    low, high = found.low[-1], found.high[-1]
    span = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{found.mean[-1]:{form}}{span}"


def _curve_said(found: Curve) -> str:
    kind = "one standard error" if not found.base else "95 % confidence sequence"
    planned = f" of {found.planned}" if found.planned else ""
    return f"After {found.chunks[-1]}{planned} chunks: {_ends(found)}, shaded: {kind}."


def _limits(found: Curve, up: Axis, box: Box) -> Iterator[Markup]:
    """The tolerance to either side, where it is in sight."""
    for at in (-found.tolerance, found.tolerance) if found.tolerance else ():
        if up.low < at < up.high:
            y = box.y(up.share(at))
            yield _line(box.left, y, box.right, y, "limit")


def _interval(found: Curve, xs: Sequence[float], up: Axis, box: Box) -> Iterator[Markup]:
    known = [
        (x, box.y(up.share(low)), box.y(up.share(high)))
        for x, low, high in zip(xs, found.low, found.high, strict=True)
        if low is not None and high is not None
    ]
    if len(known) > 1:
        above, below = [(x, high) for x, _, high in known], [(x, low) for x, low, _ in reversed(known)]
        yield _path([*above, *below], "within", closed=True)


# --- differences ----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A difference with its interval, and what is said of it beside it."""

    name: str
    delta: float
    low: float
    high: float
    said: str


def forest(rows: Sequence[Row], margin: float, name: str, what: str) -> Markup:
    """Differences in percentage points below each other, with ± `margin` marked. `name` is unique in the page."""
    height = 40.0 + 22 * len(rows)
    size, box = (760.0, height + 24), Box(170, 24, 560, height - 4)
    axis = charts.axis([0.0, -margin, margin, *(x for row in rows for x in (row.low, row.high))])
    around = Box(box.x(axis.share(-margin)), box.top, box.x(axis.share(margin)), box.bottom)
    parts: list[Markup] = []
    for place, row in enumerate(rows):
        y = box.top + 14 + 22 * place
        low, mid, high = (box.x(axis.share(value)) for value in (row.low, row.delta, row.high))
        parts += [
            _text(box.left - 8, y + 4, short(row.name, 24), None, "end"), _line(low, y, high, y, "error"),
            element("circle", cx=mid, cy=y, r=4, class_="mark best"),
            _text(box.right + 10, y + 4, row.said),
        ]  # fmt: skip
    said = "; ".join(f"{row.name}: {row.delta:+.2f} ({row.low:+.2f} to {row.high:+.2f}), {row.said}" for row in rows)
    zero = box.x(axis.share(0.0))
    return _drawing(
        name, size, what, f"{said}. Shaded: ± {figure(margin)} points.",
        _rect(around, "band explained"), *_across(box, axis), _line(zero, box.top, zero, box.bottom, "zero"), *parts,
        _text(box.left, 14, what, "dim"),
    )  # fmt: skip


# --- over time ------------------------------------------------------------------------------------------------------

LETTERS = {
    "quantize": "Q", "hash": "H", "load": "L", "bandwidth": "B", "warm": "W", "prompt": "P", "decode": "G",
    "perplexity": "X", "task": "T", "cool": "C", "anchor": "A", "idle": "I", "paused": "Z",
}  # fmt: skip
"""A phase's letter where there is no room for its name."""

_MEASURING = ("prompt", "decode", "perplexity", "task")
_LEFT, _RIGHT, _HIGH = 76.0, 978.0, 86.0


def timeline(found: Timeline) -> Markup:
    """A session over time: whose turn it was, the phases, the verdicts, and strips of readings below them.

    What is contaminated is hatched through all strips, just where the readings say so if they do."""
    lanes = (Box(_LEFT, 4, _RIGHT, 22), Box(_LEFT, 24, _RIGHT, 40), Box(_LEFT, 42, _RIGHT, 60))
    boxes = [_strip_box(place, found.strips) for place in range(len(found.strips))]
    bottom = boxes[-1].bottom if boxes else lanes[-1].bottom
    field = Box(_LEFT, lanes[-1].bottom, _RIGHT, bottom)
    return _drawing(
        "timeline", (1000.0, bottom + 26), f"The session over time, {duration(found.end)}", _timeline_said(found),
        element("defs", _hatch(), _dots()),
        *_lane(lanes[0], turns(found.runs), found.end, ("quant", "run strong-run")),
        *_phases(lanes[1], found), *_verdicts(lanes[2], found), *_shades(field, found),
        *(part for strip, box in zip(found.strips, boxes, strict=True) for part in _strip(strip, box, found.end)),
        *_clock(field, found.end),
    )  # fmt: skip


def _strip_box(place: int, strips: Sequence[Strip]) -> Box:
    """The field of a strip: one without readings is a line of text."""
    top = 66.0 + sum(_HIGH + 24 if strip.traces else 20 for strip in strips[:place])
    return Box(_LEFT, top + 18, _RIGHT, top + 18 + _HIGH) if strips[place].traces else Box(_LEFT, top, _RIGHT, top + 20)


def _timeline_said(found: Timeline) -> str:
    bad = [band for band in found.bands if band.exact]
    told = [f"{band.arm}, {duration(band.start)} to {duration(band.end)}: {band.verdict.words}" for band in bad[:20]]
    most = [f"{trace.name} {_peak(strip, trace)} at most" for strip in found.strips for trace in strip.traces]
    return f"{'Contaminated: ' + '; '.join(told) if told else 'No contaminated stretch is known'}. {', '.join(most)}."


def _hatch() -> Markup:
    lines = element("path", d="M0 6L6 0", class_="hatch")
    return element("pattern", lines, id="hatch", width=6, height=6, patternUnits="userSpaceOnUse")


def _dots() -> Markup:
    dot = element("circle", cx=2, cy=2, r=0.9, class_="dots")
    return element("pattern", dot, id="dots", width=6, height=6, patternUnits="userSpaceOnUse")


_FILL = {"contaminated": "url(#hatch)", "caution": "url(#dots)"}


def _stretch(box: Box, start: float, end: float, whole: float) -> Box:
    return Box(box.x(min(1.0, start / whole)), box.top, box.x(min(1.0, end / whole)), box.bottom)


def _fits(box: Box, *words: str) -> str:
    """The first of these that has room."""
    return next((word for word in words if len(word) * _CHARACTER + 4 <= box.right - box.left), "")


def turns(runs: Sequence[Run]) -> list[Run]:
    """Whose turn it was, phases put together."""
    found = []
    for arm, group in groupby(runs, key=lambda run: run.arm):
        each = list(group)
        if arm:
            found.append(Run(each[0].start, each[-1].end, arm, ""))
    return found


def _lane(box: Box, runs: Sequence[Run], whole: float, words: tuple[str, str]) -> Iterator[Markup]:
    name, kind = words
    yield _text(_LEFT - 6, box.bottom - 5, name, "dim", "end")
    for run in runs:
        where = _stretch(box, run.start, run.end, whole)
        yield _rect(where, kind, element("title", f"{run.arm}, {duration(run.start)} to {duration(run.end)}"))
        yield from _word(where, _fits(where, run.arm, short(run.arm, 16), short(run.arm, 7)))


def _phases(box: Box, found: Timeline) -> Iterator[Markup]:
    yield _text(_LEFT - 6, box.bottom - 4, "phase", "dim", "end")
    for run in found.runs:
        where = _stretch(box, run.start, run.end, found.end)
        kind = "run strong-run" if run.phase in _MEASURING else "run"
        title = element("title", f"{run.arm} {run.phase}, {duration(run.start)} to {duration(run.end)}")
        yield _rect(where, kind, title)
        yield from _word(where, _fits(where, run.phase, LETTERS.get(run.phase, "")))


def _verdicts(box: Box, found: Timeline) -> Iterator[Markup]:
    yield _text(_LEFT - 6, box.bottom - 5, "verdict", "dim", "end")
    for band in found.bands:
        if band.exact:
            continue
        where, verdict = _stretch(box, band.start, band.end, found.end), band.verdict
        title = element("title", f"{band.arm} {verdict.phase}: {verdict.glyph} {verdict.words}")
        yield _rect(where, f"band {verdict.kind}", title)
        if verdict.kind in _FILL:
            yield _rect(where, "band-mark", fill=_FILL[verdict.kind])
        yield from _word(where, _fits(where, f"{verdict.glyph} {verdict.words}", verdict.glyph))


def _word(box: Box, word: str) -> Iterator[Markup]:
    if word:
        yield _text((box.left + box.right) / 2, box.bottom - 5, word, None, "middle")


def contaminated(found: Timeline) -> list[Band]:
    """What is contaminated: the stretches themselves; of a verdict that has none, all of its phase."""
    exact = {(band.arm, band.verdict.phase) for band in found.bands if band.exact}
    return [
        band
        for band in found.bands
        if band.verdict.kind == "contaminated" and (band.exact or (band.arm, band.verdict.phase) not in exact)
    ]


def _shades(field: Box, found: Timeline) -> Iterator[Markup]:
    for band in contaminated(found):
        where, verdict = _stretch(field, band.start, band.end, found.end), band.verdict
        said = f"{band.arm} {verdict.phase}: {verdict.glyph} {verdict.words}"
        yield _rect(where, "band contaminated", element("title", said))
        yield _rect(where, "band-mark", fill=_FILL["contaminated"])


def _strip(strip: Strip, box: Box, whole: float) -> Iterator[Markup]:
    if not strip.traces:
        yield _text(box.left, box.top + 12, f"{strip.title}: not known", "dim")
        return
    most = max((one for trace in strip.traces for one in trace.high if one is not None), default=0.0)
    factor, unit = scale(most, strip.unit)
    up = charts.axis([0.0, most / factor], most=3, zero=True)
    yield _text(box.left, box.top - 6, f"{strip.title} ({unit})", "strong")
    yield from _key(strip, box)
    yield from _up(box, up)
    yield _rect(box, "frame")
    for kind, trace in zip(_CLASSES, strip.traces, strict=False):
        yield from _trace(trace, kind, box, up, factor, whole)


def _key(strip: Strip, box: Box) -> Iterator[Markup]:
    """The lines with their names, at the right."""
    x = box.right
    for kind, trace in reversed(list(zip(_CLASSES, strip.traces, strict=False))):
        said = f"{trace.name}, at most {_peak(strip, trace)}"
        yield _text(x, box.top - 6, said, "dim", "end")
        x -= 0.9 * len(said) * _CHARACTER
        yield _line(x - 26, box.top - 10, x - 4, box.top - 10, f"line {kind}")
        x -= 40


def _peak(strip: Strip, trace: Trace) -> str:
    most = max((one for one in trace.high if one is not None), default=0.0)
    factor, unit = scale(most, strip.unit)
    return f"{significant(most / factor)} {unit}"


def scale(most: float, unit: str) -> tuple[float, str]:
    """What a unit is divided by so that its largest value reads well, and what it is called then."""
    if not unit.startswith("bytes"):
        return 1.0, unit
    power = min(4, int(math.log(most, 1024))) if most >= 1 else 0
    return 1024.0**power, ("B", "KiB", "MiB", "GiB", "TiB")[power] + unit.removeprefix("bytes")


def _trace(trace: Trace, kind: str, box: Box, up: Axis, factor: float, whole: float) -> Iterator[Markup]:
    """From the smallest to the largest value of each column, the largest as a line; a break is a break."""
    columns = list(enumerate(zip(trace.low, trace.high, strict=True)))
    for known, group in groupby(columns, key=lambda one: one[1][0] is not None):
        if not known:
            continue
        low, high = [], []
        for place, (least, most) in group:
            x = box.x(min(1.0, (place + 0.5) * trace.width / whole))
            low.append((x, box.y(up.share((least or 0.0) / factor))))
            high.append((x, box.y(up.share((most or 0.0) / factor))))
        yield _path([*high, *reversed(low)], f"area {kind}", closed=True)
        yield _path(high if len(high) > 1 else [*high, (high[0][0] + 0.5, high[0][1])], f"line {kind}")


_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def moments(end: float) -> list[float]:
    """Round moments of a session, for marks on its axis."""
    step = next((one for one in _STEPS if end / one <= 12), 86400 * math.ceil(end / 86400 / 12))
    return [float(index * step) for index in range(int(end / step) + 1)]


def _clock(field: Box, whole: float) -> Iterator[Markup]:
    for moment in moments(whole):
        x = field.x(moment / whole)
        yield _line(x, field.top, x, field.bottom, "grid")
        yield _text(x, field.bottom + 15, duration(moment), "dim", "middle")


def letters(found: Timeline) -> str:
    """The letters that stand for phases there, in words."""
    seen = dict.fromkeys(run.phase for run in found.runs)
    return ", ".join(f"{LETTERS[phase]} {phase}" for phase in seen if phase in LETTERS)
