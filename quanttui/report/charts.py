"""What the charts of a report show, as data: quality against speed, perplexity over the chunks, a session over time.

Pure, for whoever draws them (report.svg, report.plots): no markup, no pixels. Figures are summary's, and what is made
of single chunks here ends in the same ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import msgspec

from quanttui.decide import paired
from quanttui.decide.compare import Point, Scatter, front
from quanttui.diagnosis import taint, thresholds, windows
from quanttui.diagnosis.case import Verdict
from quanttui.format import clean, size
from quanttui.series import Series, column_width
from quanttui.state import Arm, Attempt, Chunk, State
from quanttui.stats import intervals, sequential
from quanttui.summary import ArmSummary, Summary

if TYPE_CHECKING:
    import numpy as np
else:
    from quanttui.stats.late import numpy as np

BINS = 600
"""Columns of a chart over time at most: a session of a week takes no more room than one of an hour."""

POINTS = 240
"""Points of a curve over chunks at most."""

LEAST = 1.0
"""Seconds; the narrowest column: readings may be no closer."""

FAR = 10
"""Where the worst quant has lost more than so many times what the middle one has, the axis is bent, or all others would
lie in one line."""


class Axis(msgspec.Struct, frozen=True):
    """A range with round marks on it. `bend`: below this size it is nearly linear, above nearly logarithmic (asinh);
    0 for a straight one."""

    low: float
    high: float
    marks: tuple[float, ...]
    bend: float = 0.0

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1; one beyond an end lies at that end."""
        low, high, place = (math.asinh(x / self.bend) if self.bend else x for x in (self.low, self.high, value))
        return min(1.0, max(0.0, (place - low) / (high - low)))


class Curve(msgspec.Struct, frozen=True):
    """A running figure of one arm over its chunks, in the order in which they were scored.

    `chunks` are numbers of chunks; `mean`, `low` and `high` what was known after so many, the interval None where that
    was nothing yet. With a `base` it is the perplexity against the base's in percent and its 95 % confidence sequence,
    of this text (`of_text`) or of texts like it; `tolerance` is in percent, too. Without one it is the perplexity
    ± one standard error.
    """

    arm: str
    base: str
    chunks: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    planned: int | None = None
    of_text: bool = False
    tolerance: float = 0.0
    call: str = ""


class Trace(msgspec.Struct, frozen=True):
    """A reading over session time: the smallest and the largest value of each column, None for a break. Column k
    begins at `k * width` seconds, and is as many whole bins of the series as fit in it."""

    name: str
    width: float
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


class Strip(msgspec.Struct, frozen=True):
    """Readings of one unit on one axis: bytes, bytes/s, W or tok/s. Without any, `why` there are none."""

    title: str
    unit: str
    traces: tuple[Trace, ...]
    why: str = ""


class Run(msgspec.Struct, frozen=True):
    """A stretch of session time that is one arm's, in one phase."""

    start: float
    end: float
    arm: str
    phase: str


class Band(msgspec.Struct, frozen=True):
    """A stretch of session time that a verdict on an arm is about. `exact`: the readings say that it was just there."""

    start: float
    end: float
    arm: str
    verdict: Verdict
    exact: bool = False


class Timeline(msgspec.Struct, frozen=True):
    """A session over time, `end` seconds long."""

    end: float
    runs: tuple[Run, ...]
    bands: tuple[Band, ...]
    strips: tuple[Strip, ...]


# --- quality against speed ------------------------------------------------------------------------------------------


def points(found: Summary) -> Scatter:
    """The session's quants by decode tok/s, and by perplexity against the base's in percent."""
    known, missing = [], []
    for one in found.arms:
        lost = 0.0 if one.id == found.base and one.perplexity else one.delta.percent if one.delta else None
        if one.decode is not None and lost is not None:
            known.append(_point(one, lost))
        elif one.outcome not in ("planned", "skipped"):
            missing.append(f"{one.id}: {_lacks(one)}")
    against = f" against {clean(found.base, 40)}" if found.base else ""
    return Scatter(front(known), f"Δppl, %{against}", tuple(missing))


def _lacks(one: ArmSummary) -> str:
    if one.ghost:
        return "a ghost has no quality"
    return "no speed" if one.decode is None else "no perplexity"


def _point(one: ArmSummary, lost: float) -> Point:
    assert one.decode is not None
    rate, radius, delta = one.decode.tok_s, one.decode.radius, one.delta
    return Point(
        name=one.id,
        tok_s=rate,
        quality=lost,
        tok_low=None if radius is None else rate - radius,
        tok_high=None if radius is None else rate + radius,
        quality_low=delta.low if delta else None,
        quality_high=delta.high if delta else None,
        tainted=one.tainted,
    )


_TINY = 1e-100


# --- axes -----------------------------------------------------------------------------------------------------------


def axis(values: Iterable[float | None], most: int = 6, zero: bool = False) -> Axis:
    """A round range around the values with about `most` steps of 1, 2 or 5 times a power of 10 marked on it.

    `zero`: it begins at 0 or holds it. Where all values are the same, a range around that one.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if zero:
        low, high = min(0.0, low), max(0.0, high)
    if not high - low > max(_TINY, 1e-9 * max(abs(low), abs(high))):
        apart = 0.05 * abs(high) if abs(high) > _TINY else 1.0
        low, high = (0.0, high + apart) if zero else (low - apart, high + apart)
    step = _step((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))
    return Axis(marks[0], marks[-1], marks)


def _step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of 10 that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= least * (1 - 1e-9))


def losses(scatter: Scatter) -> Axis:
    """An axis for lost quality with all intervals on it, bent where one value lies FAR beyond the others."""
    ends = [(one.quality, one.quality_low, one.quality_high) for one in scatter.points]
    values = [value for each in ends for value in each if value is not None and math.isfinite(value)]
    sizes = sorted(abs(one.quality) for one in scatter.points if one.quality)
    middle = sizes[(len(sizes) - 1) // 2] if sizes else 0.0
    if len(sizes) < 3 or sizes[-1] <= FAR * middle or not math.isfinite(sizes[-1] / middle):
        return axis(values, zero=True)
    low, high = min(0.0, *values), max(0.0, *values)
    powers = range(math.ceil(math.log10(middle)), math.ceil(math.log10(sizes[-1])) + 2)
    tens = [sign * 10.0**power for power in powers for sign in (-1, 1)]
    marks = sorted({0.0, *(mark for mark in tens if low <= mark <= high)})
    return Axis(low, high, tuple(marks), middle)


# --- perplexity -----------------------------------------------------------------------------------------------------


def curves(state: State, found: Summary) -> tuple[Curve, ...]:
    """A curve for each arm that has chunks, the base's own perplexity first."""
    base = paired.base_of(state)
    if base is None:
        return ()
    calls = {arm.id: arm.decision.call for arm in found.arms if arm.decision}
    others = [_against(state, arm, base, calls) for arm in paired.scored(state) if arm is not base and arm.chunks]
    return (_own(base), *(curve for curve in others if curve is not None))


def _own(arm: Arm) -> Curve:
    """Perplexity ± one standard error after each chunk."""
    each = np.array([(one.scored, one.nll, one.nll2) for one in arm.chunks.values()], dtype=np.float64)
    sums, places = np.cumsum(each, axis=0), _places(len(each))
    known = [_perplexity(*sums[place - 1]) for place in places]
    low = tuple(None if error is None else value - error for value, error in known)
    high = tuple(None if error is None else value + error for value, error in known)
    return Curve(clean(arm.id, 80), "", places, tuple(value for value, _ in known), low, high, arm.chunks_planned)


def _perplexity(scored: float, nll: float, nll2: float) -> tuple[float, float | None]:
    try:
        return intervals.perplexity(int(scored), float(nll), float(nll2))
    except OverflowError:
        return math.inf, None


def _against(state: State, arm: Arm, base: Arm, calls: dict[str, str]) -> Curve | None:
    """ln(PPL / PPL of the base) in percent after each common chunk, with the sequence that the summary ends in."""
    common = [
        (ours, theirs)
        for chunk, ours in arm.chunks.items()
        if (theirs := base.chunks.get(chunk)) is not None and theirs.scored == ours.scored
    ]
    if not common:
        return None
    population = paired.population(state, arm)
    places = _places(len(common))
    found = sequential.running([_apart(*pair) for pair in common], population=population, after=set(places))
    name = clean(arm.id, 80)
    return Curve(
        arm=name,
        base=clean(base.id, 80),
        chunks=places,
        mean=tuple(_percent(one.mean) for one in found),
        low=tuple(_end(one.low) for one in found),
        high=tuple(_end(one.high) for one in found),
        planned=arm.chunks_planned,
        of_text=population is not None,
        tolerance=100 * state.settings.tolerance,
        call=calls.get(name, ""),
    )


def _apart(ours: Chunk, theirs: Chunk) -> float:
    return (ours.nll - theirs.nll) / ours.scored


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(min(log_ratio, 700.0))


def _end(log_ratio: float | None) -> float | None:
    return _percent(log_ratio) if log_ratio is not None else None


def _places(count: int) -> tuple[int, ...]:
    """Numbers of chunks to draw at, from 1 to all of them."""
    if count <= POINTS:
        return tuple(range(1, count + 1))
    return tuple(sorted({round(1 + place * (count - 1) / (POINTS - 1)) for place in range(POINTS)}))


def reach(curve: Curve) -> Axis:
    """An axis for a curve: what it and its interval were after the first quarter, which is unsettled, and no change."""
    begin = len(curve.chunks) // 4
    drawn = [*curve.mean[begin:], *curve.low[begin:], *curve.high[begin:]]
    return axis([*drawn, 0.0] if curve.base else drawn, most=4)


# --- over time ------------------------------------------------------------------------------------------------------

_STRIPS = (
    ("generation", "tok/s", (("decode", "decode.tok_s"),)),
    ("memory", "bytes", (("in use on the machine", "mem.used"), ("held by the engine", "engine.rss"))),
    (
        "swap and storage",
        "bytes/s",
        (("swapped in", "swap.in/s"), ("swapped out", "swap.out/s"), ("read by the engine", "engine.read/s")),
    ),
    ("power", "W", (("GPUs, as the driver averages them", "gpu.power"),)),
)
"""Charts over time: title, unit, and the series by the names that they are told as."""


def timeline(state: State, found: Summary) -> Timeline:
    """The session over time: phases, verdicts, and the readings that these rest on."""
    end = max(state.t, 1e-3)
    strips = tuple(_strip(state, title, unit, names, end) for title, unit, names in _STRIPS)
    return Timeline(end, tuple(_runs(state, end)), tuple(_bands(state, found, end)), strips)


def _strip(state: State, title: str, unit: str, names: Sequence[tuple[str, str]], end: float) -> Strip:
    traces = tuple(envelope(told, state.series[name], end) for told, name in names if name in state.series)
    whole = state.readings.get("mem.total") if title == "memory" else None
    return Strip(f"{title}, of {size(whole)}" if whole else title, unit, traces, "" if traces else _why(state, title))


def _why(state: State, title: str) -> str:
    """Why there is nothing to draw, in the words of the probe that is missing."""
    if title == "generation":
        return "nothing was decoded"
    if title != "power":
        return "there are no readings of it in this session"
    if any(arm.energy for arm in _attempts(state)):
        return "no GPU told its power; what the energy counter of the processor gave stands in the table of figures"
    lost = [clean(state.lost[probe]) for probe in ("nvidia", "amd", "power") if probe in state.lost]
    return "no GPU told its power" + (f" ({'; '.join(lost)})" if lost else "")


def _attempts(state: State) -> Iterator[Attempt]:
    return (attempt for arm in state.arms.values() for attempt in arm.attempts)


def envelope(name: str, series: Series, end: float) -> Trace:
    """The smallest and the largest bin of a series in each of BINS columns at most, from 0 to `end` seconds."""
    width = column_width(end, BINS, max(series.width, LEAST))
    means = [total / count if count else None for total, count in zip(series.sums, series.counts, strict=True)]
    each = max(1, round(width / series.width))
    columns = [[one for one in means[at : at + each] if one is not None] for at in range(0, len(means), each)]
    low = tuple(min(column, default=None) for column in columns)
    return Trace(name, width, low, tuple(max(column, default=None) for column in columns))


def _runs(state: State, end: float) -> Iterator[Run]:
    """Who ran when."""
    spans = [
        (span.start, end if span.end is None else span.end, (clean(span.arm, 80), clean(span.phase, 40)))
        for span in state.spans
    ]
    for start, over, (arm, phase) in _owned(spans, end):
        yield Run(start, over, arm, phase)


_Key = TypeVar("_Key", bound=Hashable)


def _owned(stretches: Iterable[tuple[float, float, _Key]], end: float) -> Iterator[tuple[float, float, _Key]]:
    """Stretches, however many, as BINS at most: each moment goes to whoever took most of it, and equal neighbours are
    one stretch."""
    width = end / BINS
    taken: list[defaultdict[_Key, float]] = [defaultdict(float) for _ in range(BINS)]
    for start, over, key in stretches:
        over = min(over, end)
        for at in range(max(0, int(start / width)), min(BINS, math.ceil(over / width))):
            taken[at][key] += max(0.0, min(over, (at + 1) * width) - max(start, at * width))
    owners = [max(one, key=lambda key: one[key]) if one else None for one in taken]
    for owner, group in groupby(range(BINS), key=lambda at: owners[at]):
        places = list(group)
        if owner is not None:
            yield places[0] * width, (places[-1] + 1) * width, owner


def _bands(state: State, found: Summary, end: float) -> Iterator[Band]:
    """The gravest verdict on each phase of each arm, over the spans that it is about; then the contaminated stretches
    themselves, where it is known where they lie."""
    known = {clean(arm.id, 80): arm for arm in state.arms.values()}
    judged: list[tuple[str, Verdict]] = []
    whole: list[tuple[float, float, int]] = []
    exact: list[tuple[float, float, int]] = []
    for one in found.arms:
        arm, gravest = known[one.id], dict[str, Verdict]()
        for verdict in one.verdicts:  # contaminated first
            gravest.setdefault(verdict.phase, verdict)
        for phase, verdict in gravest.items():
            whole += [(*stretch, len(judged)) for stretch in _spans(state, arm, phase)]
            judged.append((one.id, verdict))
        for start, over, verdict in _stretches(state, arm, one):
            exact.append((start, over, len(judged)))
            judged.append((one.id, verdict))
    for stretches in (whole, exact):
        for start, over, place in _owned(stretches, end):
            yield Band(start, over, *judged[place], exact=stretches is exact)


def _spans(state: State, arm: Arm, phase: str) -> list[tuple[float, float]]:
    """Where the attempt lies that a verdict on a phase is about; one on the whole arm is about what it did last."""
    spans = [span for span in state.spans if span.arm == arm.id and phase in (span.phase, "")]
    if phase:
        attempt = windows.latest(arm, phase) if phase in ("prompt", "decode") else None
        number = attempt.number if attempt is not None else max((span.attempt for span in spans), default=1)
        spans = [span for span in spans if span.attempt == number]
    else:
        spans = spans[-1:]
    return [(span.start, state.t if span.end is None else span.end) for span in spans]


def _stretches(state: State, arm: Arm, one: ArmSummary) -> Iterator[tuple[float, float, Verdict]]:
    for kind in ("prompt", "decode"):
        bad = {each.code: each for each in one.verdicts if (each.phase, each.kind) == (kind, "contaminated")}
        attempt = windows.latest(arm, kind) if bad else None
        held = windows.bounds(state, arm, attempt, kind) if attempt is not None else None
        if attempt is None or held is None:
            continue
        for each in taint.of(state, arm, attempt, kind, held, thresholds.of(state.settings)).intervals:
            if each.code in bad:
                yield each.start, each.end, bad[each.code]
