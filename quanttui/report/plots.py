"""A report's charts as files, PNG and SVG, for a paper or a slide: the same data as the page's (report.charts), drawn
by matplotlib, which the extra `report` brings. Nothing of it is imported before a plot is asked for.

Owns the drawing and the files. The same log gives the same SVG with the same matplotlib: no date, no random names.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quanttui.decide.compare import Scatter
from quanttui.errors import UserError
from quanttui.format import duration
from quanttui.report import charts, svg
from quanttui.report.charts import Curve, Strip, Timeline
from quanttui.state import State
from quanttui.summary import summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCH = 160
"""Pixels of a PNG to the inch."""

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,
    "svg.hashsalt": "quanttui",
    "svg.fonttype": "none",
}
"""Names are never formulas, identifiers never random."""

_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#2f63b0", "#ae581c", "#4f7114", "#b3212a", "#6c7079"
_LINES = ((_BLUE, "-"), (_ORANGE, "--"), (_GREEN, ":"))
_HATCH = {"contaminated": "////", "caution": "..", "explained": ""}


def write(state: State, folder: Path, over: bool = True) -> list[Path]:
    """Draw what there is to draw into `folder`, which is made if it is missing: pareto, perplexity and timeline, each
    as SVG and as PNG. Returns the files; none where the session has nothing to show yet.

    Raises:
        UserError: matplotlib is not installed, or the folder cannot be written.
    """
    matplotlib = _matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name may have letters that no font here has
            return [path for name, drawn in _drawings(state, over) for path in _save(drawn, folder / name)]
    except OSError as error:
        raise UserError(f"{folder}: the plots cannot be written there: {error.strerror or error}") from None


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise UserError("plots need matplotlib, which is not installed: pip install 'quanttui[report]'") from None
    return matplotlib


def _save(drawn: Figure, path: Path) -> Iterator[Path]:
    for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        file = path.with_suffix(f".{ending}")
        drawn.savefig(file, dpi=INCH, metadata=metadata)
        yield file


def _drawings(state: State, over: bool) -> Iterator[tuple[str, Figure]]:
    found = summarize(state, over)
    if (scatter := charts.points(found)).points:
        yield "pareto", _pareto(scatter)
    if curves := charts.curves(state, found):
        yield "perplexity", _perplexity(curves)
    if state.spans:
        yield "timeline", _timeline(charts.timeline(state, found))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# --- quality against speed ------------------------------------------------------------------------------------------


def _pareto(scatter: Scatter) -> Figure:
    drawn = _figure(7.0, 4.2)
    axes = drawn.add_subplot()
    up = charts.losses(scatter)
    if up.bend:
        _bend(axes, up.bend)
    for place, one in enumerate(sorted(scatter.points, key=lambda one: (one.tok_s, one.quality))):
        colour = _RED if one.tainted else _BLUE if one.front else _GREY
        across = None if one.tok_high is None else one.tok_high - one.tok_s
        ends = (one.quality_low, one.quality_high)
        errors = None if None in ends else [[one.quality - (ends[0] or 0.0)], [(ends[1] or 0.0) - one.quality]]
        axes.errorbar(
            one.tok_s, one.quality, xerr=across, yerr=errors, fmt="o", color=colour, ecolor=_GREY, elinewidth=0.9,
            markerfacecolor="none" if one.tainted else colour,
        )  # fmt: skip
        name = svg.short(one.name, 28) + ("*" if one.tainted else "")
        beside, ends_at = ((6, 5), "left") if place % 2 == 0 else ((-6, 5), "right")
        axes.annotate(
            name, (one.tok_s, one.quality), beside, textcoords="offset points", ha=ends_at, color=colour, fontsize=8
        )
    best = sorted((one.tok_s, one.quality) for one in scatter.points if one.front)
    axes.step([x for x, _ in best], [y for _, y in best], where="post", linestyle=":", color=_BLUE, linewidth=1)
    axes.set_yticks(up.marks, [svg.figure(mark) for mark in up.marks])
    axes.set_ylim(*_apart(up))
    axes.set_xlabel("generation, tok/s")
    axes.set_ylabel(f"{scatter.quality}{', bent scale' if up.bend else ''}")
    hollow = "; hollow: contaminated" if any(one.tainted for one in scatter.points) else ""
    axes.set_title(f"lower right is better{hollow}", loc="left", fontsize=9)
    return drawn


def _bend(axes: Axes, size: float) -> None:
    """The axis of report.charts: asinh of the value over `size`."""
    axes.set_yscale("asinh", linear_width=size)


def _apart(axis: charts.Axis) -> tuple[float, float]:
    """The ends of an axis with a little room, on its own scale."""
    bend: Callable[[float], float] = (lambda x: math.asinh(x / axis.bend)) if axis.bend else (lambda x: x)
    back: Callable[[float], float] = (lambda x: axis.bend * math.sinh(x)) if axis.bend else (lambda x: x)
    low, high = bend(axis.low), bend(axis.high)
    return back(low - 0.05 * (high - low)), back(high + 0.05 * (high - low))


# --- perplexity -----------------------------------------------------------------------------------------------------


def _perplexity(curves: tuple[Curve, ...]) -> Figure:
    """One field for each quant, the scales their own."""
    across = min(3, len(curves))
    down = -(-len(curves) // across)
    drawn = _figure(3.2 * across, 2.3 * down)
    for place, one in enumerate(curves):
        axes = drawn.add_subplot(down, across, place + 1)
        axes.plot(one.chunks, one.mean, color=_BLUE, linewidth=1.2)
        known = [
            (chunk, low, high)
            for chunk, low, high in zip(one.chunks, one.low, one.high, strict=True)
            if low is not None and high is not None
        ]
        if known:
            chunks, low, high = zip(*known, strict=True)
            axes.fill_between(chunks, low, high, color=_BLUE, alpha=0.2, linewidth=0)
        for limit in (-one.tolerance, one.tolerance) if one.tolerance else ():
            axes.axhline(limit, color=_ORANGE, linestyle="--", linewidth=0.8)
        reach = charts.reach(one)
        axes.set_ylim(reach.low, reach.high)
        axes.set_title(svg.short(one.arm, 40), loc="left", fontsize=9)
        axes.set_ylabel(f"Δppl, % against {one.base}" if one.base else "perplexity ± se", fontsize=8)
        axes.set_xlabel("chunks", fontsize=8)
    return drawn


# --- over time ------------------------------------------------------------------------------------------------------


def _timeline(found: Timeline) -> Figure:
    strips = [strip for strip in found.strips if strip.traces]
    heights = [0.5, *(1.0 for _ in strips)]
    drawn = _figure(10.0, 1.0 + 1.5 * len(strips))
    lanes, *rest = drawn.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    _lanes(lanes, found)
    for strip, axes in zip(strips, rest, strict=True):
        _strip(axes, strip)
        _shade(axes, found)
    lanes.set_xlim(0, found.end)
    last = rest[-1] if rest else lanes
    ticks = svg.moments(found.end)
    last.set_xticks(ticks, [duration(mark) for mark in ticks])
    return drawn


def _lanes(axes: Axes, found: Timeline) -> None:
    """Whose turn it was, and the verdicts below."""
    for run in svg.turns(found.runs):
        axes.broken_barh([(run.start, run.end - run.start)], (1, 0.9), facecolor="#e2e0d9", edgecolor="white")
        if run.end - run.start > 0.05 * found.end:
            axes.text((run.start + run.end) / 2, 1.45, svg.short(run.arm, 16), ha="center", va="center", fontsize=8)
    for band in found.bands:
        if band.exact:
            continue
        kind, span = band.verdict.kind, band.end - band.start
        colour = {"contaminated": "#f6d9d8", "caution": "#f7e9cd"}.get(kind, "#efede7")
        axes.broken_barh(
            [(band.start, span)], (0, 0.9), facecolor=colour, edgecolor=_GREY, linewidth=0, hatch=_HATCH[kind]
        )
        if span > 0.05 * found.end:
            told = f"{band.verdict.glyph} {band.verdict.words}"
            axes.text((band.start + band.end) / 2, 0.45, told, ha="center", va="center", fontsize=7)
    axes.set_yticks([0.45, 1.45], ["verdict", "quant"])
    axes.grid(False)
    axes.set_ylim(0, 2)


def _strip(axes: Axes, strip: Strip) -> None:
    most = max((one for trace in strip.traces for one in trace.high if one is not None), default=0.0)
    factor, unit = svg.scale(most, strip.unit)
    for (colour, dashes), trace in zip(_LINES, strip.traces, strict=False):
        x = [(place + 0.5) * trace.width for place in range(len(trace.high))]
        low, high = (
            [math.nan if one is None else one / factor for one in values] for values in (trace.low, trace.high)
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, high, color=colour, linestyle=dashes, linewidth=1, label=trace.name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.set_title(strip.title, loc="left", fontsize=9)
    if len(strip.traces) > 1:
        axes.legend(loc="upper right", ncols=3)


def _shade(axes: Axes, found: Timeline) -> None:
    for band in svg.contaminated(found):
        axes.axvspan(band.start, band.end, facecolor="#f6d9d8", edgecolor=_RED, linewidth=0, hatch="////", zorder=0)
