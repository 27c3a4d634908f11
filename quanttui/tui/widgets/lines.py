"""Small screens: one line for each metric. Pure."""

from __future__ import annotations

from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Metric, View
from quanttui.tui.widgets.chart import plot
from quanttui.tui.widgets.sheet import crop, cut, length, pad, shown, sides, width_of

ORDER = ("gen", "ppl", "bus", "reread", "memory", "swap", "gpu", "power")
"""The metrics from the top; those further down leave first."""

NAME, VALUE, NOTE = 9, 21, 21
"""Cells for a metric's name, value and note where there is a chart between them."""


def chart_cells(width: int) -> int:
    """How wide the small charts are on a screen `width` cells wide."""
    return max(0, width - NAME - VALUE - NOTE - 4)


def metrics(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Name, value, small chart, note."""
    lines = [_line(view.metrics[name], width, glyphs) for name in ORDER if name in view.metrics]
    return [*lines, *[crop((), width)] * max(0, height - len(lines))][:height]


def _line(one: Metric, width: int, glyphs: Glyphs) -> Line:
    cells = chart_cells(width)
    name = (f" {one.name:<{NAME - 1}}", "dim")
    if one.why:
        return crop(cut(shown([name, (f"{one.value}: {one.why}", "dim")], glyphs), width, glyphs), width)
    if cells < 8:
        return _bare(one, width, glyphs)
    value = (pad(glyphs.text(one.value), VALUE, True, glyphs.text("…")), one.role)
    note = shown([(one.note, one.level)], glyphs)
    spare = max(0, min(width_of(note[0][0]) if note else 0, cells - 8 + NOTE) - NOTE)
    chart = _chart(one, cells - spare, glyphs)
    head = (name, value, ("  ", ""), *chart, ("  ", ""))
    return crop((*head, *cut(note, width - length(head), glyphs)), width)


def _chart(one: Metric, cells: int, glyphs: Glyphs) -> Line:
    if one.trace is None:
        return ((" " * cells, ""),)
    drawn = plot(one.trace, cells, 1, glyphs, one.role)[0]
    return crop(drawn, cells) if length(drawn) != cells else drawn


def brief(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Name, value, note: all that fits on a very small screen. What the phase is comes first."""
    lines = [sides([(f" {view.phase_left}", "accent")], [(view.left and f"{view.left} ", "dim")], width, glyphs)]
    lines += [_bare(view.metrics[name], width, glyphs) for name in ORDER if name in view.metrics]
    return [*lines, *[crop((), width)] * max(0, height - len(lines))][:height]


def _bare(one: Metric, width: int, glyphs: Glyphs) -> Line:
    value = f"{one.value}: {one.why}" if one.why else one.value
    left = shown([(f" {one.name:<7}", "dim"), (value, "dim" if one.why else one.role)], glyphs)
    room = width - length(left) - 2
    note = glyphs.text(one.note)
    if not note or room < 4:
        return crop(left, width)
    return sides(left, [*cut(((note, one.level),), room, glyphs), (" ", "")], width, glyphs)


def headline(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The header of a very small screen: mode, quant, how many are done."""
    here = next((mark for mark in view.marks if mark.role == "accent"), None)
    name = here.name if here else view.model
    left = [(f" {view.mode} ", view.mode_role), (name, "strong"), (f" {view.done}/{view.total}", "text")]
    return [sides(left, [(f"{view.clock} ", "dim")], width, glyphs)]


def flagged(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The one line that matters most: a notice, else the first verdict on the quant under way."""
    if view.own.notice:
        return [crop(shown([(" ", ""), (view.own.notice, view.own.level)], glyphs), width)]
    first = view.verdict[0] if view.verdict else ()
    return [crop(shown([(" ", ""), *first[1:]], glyphs), width)]
