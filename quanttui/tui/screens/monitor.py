"""The monitor: all sheets, placed by the size of the screen. Shows views; knows neither the log nor the sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
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

from quanttui import transport
from quanttui.tui import keys
from quanttui.tui import layout as plan
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import View
from quanttui.tui.widgets import bars, lines, pareto, table
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
    **{name: panel(name) for name in ("speed", "perplexity", "memory", "swap", "both", "bus", "gpu", "power")},
    "pareto": lambda view, width, height, glyphs: pareto.boxed(view.scatter, width, height, glyphs),
    "table": table.boxed,
    "bare": table.bare,
    "story": bars.story,
    "status": bars.status,
    "footer": bars.footer,
}
"""Every sheet by name; `layout.places` says which are shown where."""

CHARTED = ("speed", "perplexity", "memory", "swap", "both", "bus", "gpu", "power")
"""The panels with a chart over time or progress."""

PARTS: dict[str, Callable[[View], object]] = {
    **{name: lambda view, name=name: view.panels[name] for name in CHARTED},  # type: ignore[misc]
    **{name: attrgetter("rows", "headings", "order", "selected") for name in ("table", "bare")},
    "story": attrgetter("verdict", "events", "notes"),
}
"""What the dearest sheets draw of a view; most of it seldom changes."""

NUMBERS = ("header", "steps", "lane", "headline", "speed", "metrics", "brief")
"""The sheets that are kept up to date while a repetition is timed on all cores."""


class Places(Layout):
    """Textual's view of `layout.places`."""

    name = "places"

    def __init__(self, form: str) -> None:
        self.quants = 12
        self.form = form
        self.zoomed = ""

    def of(self, size: Size) -> dict[str, plan.Place]:
        """The places on a screen of this size."""
        if self.zoomed:
            return plan.zoomed(self.zoomed, size.width, size.height)
        return plan.places(size.width, size.height, self.quants, self.form)

    def arrange(self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True) -> ArrangeResult:
        found = self.of(size)
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

    class Moved(Message):
        """The cursor is to go to session time `t`, or by so many seconds."""

        def __init__(self, t: float | None = None, by: float = 0.0) -> None:
            super().__init__()
            self.t, self.by = t, by

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(",".join(action.keys), f"app.{action.id}", action.brief, show=False, id=action.id)
        for action in keys.ACTIONS
    ]

    def __init__(self, glyphs: Glyphs, form: str = "auto", **options: Any) -> None:
        super().__init__(**options)
        self.glyphs = glyphs
        self._places = Places(form)
        self._sheets: dict[str, Sheet] = {}
        self._palette: Mapping[str, Style] = {}
        self._view: View | None = None

    @property
    def layout(self) -> Layout:
        return self._places

    def compose(self) -> ComposeResult:
        self._sheets = {name: Sheet(draw, self.glyphs, PARTS.get(name), id=name) for name, draw in DRAWN.items()}
        self.dress(self._palette)
        yield from self._sheets.values()

    def show(self, view: View, only: Iterable[str] = DRAWN) -> None:
        """Give a view to the sheets that are on the screen."""
        self._view = view
        if self._places.quants != view.total and view.total:
            self._places.quants = view.total
            self._arrange_again()
        shown = self._places.of(self.size)
        for name in only:
            if name in shown:
                self._sheets[name].show(view)
        self._paint_at_once()

    def _paint_at_once(self) -> None:
        """Have what changed painted before anything else. Textual passes a message for each widget, and waits for the
        next sixtieth of a second: on a machine whose cores are busy each such turn may wait for long."""
        changed = [sheet for sheet in self._sheets.values() if sheet._repaint_required]
        if changed and self.is_current and not self._layout_required and not self.app._batch_count:
            for sheet in changed:
                sheet._repaint_required = False
            self._dirty_widgets.update(changed)
            self._on_timer_update()

    @property
    def arranged(self) -> bool:
        """Whether every sheet has the size that its place gives it: not so between a change and the next layout."""
        places = self._places.of(self.size)
        return all(self._sheets[name].extent == (place.width, place.height) for name, place in places.items())

    def dress(self, palette: Mapping[str, Style]) -> None:
        """Take a theme's colours."""
        self._palette = palette
        for sheet in self._sheets.values():
            sheet.dress(palette)

    def zoom(self, by: int) -> None:
        """Show the next panel alone, those of `plan.ZOOMED` in turn; 0: all of them."""
        here = plan.ZOOMED.index(self._places.zoomed) if self._places.zoomed in plan.ZOOMED else -1
        found = here + by if by else len(plan.ZOOMED)
        self._places.zoomed = plan.ZOOMED[found] if found < len(plan.ZOOMED) else ""
        self._arrange_again()

    def _arrange_again(self) -> None:
        self._clear_arrangement_cache()
        self.refresh(layout=True)

    def on_click(self, event: events.Click) -> None:
        """Select the quant whose row was clicked; go to the moment of an event or of the lane."""
        sheet, region = self.get_widget_at(event.screen_x, event.screen_y)
        if not isinstance(sheet, Sheet) or self._view is None:
            return
        x, y = event.screen_x - region.x, event.screen_y - region.y
        if sheet.id in ("table", "bare"):
            frame = sheet.id == "table"
            if arm := table.row_at(self._view, y - frame, region.height - 2 * frame):
                self.post_message(self.Picked(arm))
            return
        t = None
        if sheet.id == "lane":
            t = bars.time_at(self._view, region.width, x, self.glyphs)
        elif sheet.id == "story":
            t = bars.moment_at(self._view, region.width, region.height, y, self.glyphs)
        if t is not None:
            self.post_message(self.Moved(t))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel moves the cursor: up is back."""
        self.post_message(self.Moved(by=-transport.STEP))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.post_message(self.Moved(by=transport.STEP))

    def chart_columns(self) -> int:
        """Columns of dots that a chart of this screen has."""
        found = self._places.of(self.size)
        panels = [place.width - MARGIN for name, place in found.items() if name in CHARTED]
        cells = max(panels, default=max(8, lines.chart_cells(self.size.width)))
        return max(2, cells * self.glyphs.area.across)
