"""A metric at length: a frame with a title, figures, a bar, a chart and its caption. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Panel, Share, Span, View
from quanttui.tui.widgets.bars import wrap
from quanttui.tui.widgets.chart import plot
from quanttui.tui.widgets.sheet import Draw, crop, framed, length, shown, sides

MARGIN = 4
"""Cells of a panel's width that its frame takes."""


def panel(name: str) -> Draw:
    """The drawing of the panel `name` of a view."""

    def draw(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
        return boxed(view.panels[name], width, height, glyphs)

    return draw


def boxed(one: Panel, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A panel in its frame."""
    body = _body(one, max(0, width - MARGIN), max(0, height - 2), glyphs)
    return framed(((one.title, "title"),), ((one.status, one.level),), body, width, height, glyphs)


def _body(one: Panel, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    figures = [sides(left, right, width, glyphs) for left, right in one.lines]
    if one.bar and height > len(figures) + 2:
        figures.insert(1, bar(one.bar, width, glyphs))
    room = height - len(figures)
    if one.trace is None or room < 1:
        said = wrap(shown([(one.why, "dim")], glyphs), width, 0) if one.why else []
        return [*figures, *said]
    captioned = room >= 3 and any(one.caption)
    chart = plot(one.trace, width, room - captioned, glyphs, one.role)
    below = [sides(((one.caption[0], "dim"),), ((one.caption[1], "dim"),), width, glyphs)] if captioned else []
    return [*figures, *chart, *below]


def bar(shares: Sequence[Share], width: int, glyphs: Glyphs) -> Line:
    """Parts of a whole side by side; every part that is not nothing has at least a cell while there is room."""
    spans: list[Span] = []
    used, reached = 0, 0.0
    left = sum(share.share > 0 for share in shares)
    for share in shares:
        reached += share.share
        left -= share.share > 0
        end = max(used, min(width - left, max(round(reached * width), used + (share.share > 0))))
        spans.append((share.sign * (end - used), share.role))
        used = end
    line = shown(spans, glyphs)
    return crop(line, min(width, length(line)))
