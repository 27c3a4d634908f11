"""The monitor: all sheets, placed by the size of the screen. Shows views; knows neither the log nor the sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import NULL_OFFSET, NULL_SPACING, Region, Size
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

from quanttui.tui import keys
from quanttui.tui import layout as plan
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import View
from quanttui.tui.widgets import bars, lines, table
from quanttui.tui.widgets.panel import MARGIN, panel
from quanttui.tui.widgets.sheet import Draw, Sheet

DRAWN: dict[str, Draw] = {
    "header": bars.header,
    "strip": bars.strip,
    "lane": bars.lane,
    "steps": bars.steps,
    "rule1": bars.line,
    "rule2": bars.line,
    "rule3": bars.line,
    "metrics": lines.metrics,
    "headline": lines.headline,
    "brief": lines.brief,
    "flagged": lines.flagged,
    **{name: panel(name) for pair in plan.PANELS for name in pair},
    "table": table.boxed,
    "bare": table.bare,
    "story": bars.story,
    "status": bars.status,
    "footer": bars.footer,
}
"""Every sheet by name; `layout.places` says which are shown where."""

NUMBERS = ("header", "steps", "lane", "headline", "speed", "metrics", "brief")
"""The sheets that are kept up to date while a repetition is timed on all cores."""


class Places(Layout):
    """Textual's view of `layout.places`."""

    name = "places"

    def __init__(self) -> None:
        self.quants = 12

    def arrange(self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True) -> ArrangeResult:
        found = plan.places(size.width, size.height, self.quants)
        return [
            WidgetPlacement(Region(*found[child.id]), NULL_OFFSET, NULL_SPACING, child)
            for child in children
            if child.id in found
        ]


class MonitorScreen(Screen[None], inherit_bindings=False):
    """All sheets of the monitor."""

    class Picked(Message):
        """A quant was clicked."""

        def __init__(self, arm: str) -> None:
            super().__init__()
            self.arm = arm

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(",".join(action.keys), f"app.{action.id}", action.brief, show=False, id=action.id)
        for action in keys.ACTIONS
    ]

    def __init__(self, glyphs: Glyphs, **options: Any) -> None:
        super().__init__(**options)
        self.glyphs = glyphs
        self._places = Places()
        self._sheets: dict[str, Sheet] = {}
        self._palette: Mapping[str, Style] = {}
        self._view: View | None = None

    @property
    def layout(self) -> Layout:
        return self._places

    def compose(self) -> ComposeResult:
        self._sheets = {name: Sheet(draw, self.glyphs, id=name) for name, draw in DRAWN.items()}
        self.dress(self._palette)
        yield from self._sheets.values()

    def show(self, view: View, only: Iterable[str] = DRAWN) -> None:
        """Give a view to the sheets that are on the screen."""
        self._view = view
        if self._places.quants != view.total and view.total:
            self._places.quants = view.total
            self._clear_arrangement_cache()
            self.refresh(layout=True)
        shown = plan.places(self.size.width, self.size.height, self._places.quants)
        for name in only:
            if name in shown:
                self._sheets[name].show(view)

    @property
    def arranged(self) -> bool:
        """Whether every sheet has the size that its place gives it: not so between a change and the next layout."""
        places = plan.places(self.size.width, self.size.height, self._places.quants)
        return all(self._sheets[name].extent == (place.width, place.height) for name, place in places.items())

    def dress(self, palette: Mapping[str, Style]) -> None:
        """Take a theme's colours."""
        self._palette = palette
        for sheet in self._sheets.values():
            sheet.dress(palette)

    def on_click(self, event: events.Click) -> None:
        """Select the quant whose row was clicked."""
        sheet, region = self.get_widget_at(event.screen_x, event.screen_y)
        if isinstance(sheet, Sheet) and sheet.id in ("table", "bare") and self._view is not None:
            frame = sheet.id == "table"
            arm = table.row_at(self._view, event.screen_y - region.y - frame, region.height - 2 * frame)
            if arm:
                self.post_message(self.Picked(arm))

    def chart_columns(self) -> int:
        """Columns of dots that a chart of this screen has."""
        return chart_columns(self.size.width, self.size.height, self.glyphs)


def chart_columns(width: int, height: int, glyphs: Glyphs) -> int:
    """Columns of dots that a chart has on a screen of this size."""
    found = plan.places(width, height)
    cells = found["speed"].width - MARGIN if "speed" in found else max(8, lines.chart_cells(width))
    return max(2, cells * glyphs.area.across)
