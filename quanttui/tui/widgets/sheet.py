"""Lines of spans, and the one widget that shows them. Owns padding, cropping and what has to be painted again.

A widget of this screen is a pure function `draw(view, width, height, glyphs) -> lines`; a sheet keeps the last
lines, compares, and has only the cells that changed painted. No markup is parsed anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual._styles_cache import StylesCache
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from quanttui.tui.glyphs import SETS, Glyphs
from quanttui.tui.parts import Line, Span

LEAST_RIGHT = 8
"""Cells below which the right end of a line is left out rather than cut."""

Draw = Callable[[Any, int, int, Glyphs], Sequence[Line]]
"""What is shown, width and height in cells, and a set of characters in; lines out."""


def width_of(text: str) -> int:
    """Cells that a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def pad(text: str, width: int, right: bool = False, mark: str = "…") -> str:
    """A text made exactly `width` cells wide: cut with `mark` at its end where too long, else padded."""
    if width <= 0:
        return ""
    size = width_of(text)
    if size > width:
        mark = mark[:width]
        return set_cell_size(text, width - len(mark)) + mark
    return " " * (width - size) + text if right else text + " " * (width - size)


def length(spans: Iterable[Span]) -> int:
    """Cells that spans take."""
    return sum(width_of(text) for text, _ in spans)


def shown(spans: Iterable[Span], glyphs: Glyphs) -> Line:
    """Spans in the characters of a set, empty ones left out."""
    return tuple((glyphs.text(text), role) for text, role in spans if text)


def crop(spans: Iterable[Span], width: int) -> Line:
    """Spans cut and filled to exactly `width` cells."""
    kept: list[Span] = []
    left = width
    for text, role in spans:
        if left <= 0:
            break
        size = width_of(text)
        kept.append((text if size <= left else set_cell_size(text, left), role))
        left -= size
    if left > 0:
        kept.append((" " * left, ""))
    return tuple(kept)


def sides(left: Iterable[Span], right: Iterable[Span], width: int, glyphs: Glyphs) -> Line:
    """One line with something at either end. Where both do not fit, the right one is cut, or left out."""
    head, tail = shown(left, glyphs), shown(right, glyphs)
    space = width - length(head) - length(tail)
    if not tail or (space < 1 and width - length(head) < LEAST_RIGHT + 2):
        return crop(cut(head, width, glyphs), width)
    if space < 1:
        space, tail = 2, cut(tail, width - length(head) - 2, glyphs)
    return (*head, (" " * space, ""), *tail)


def cut(spans: Line, width: int, glyphs: Glyphs) -> Line:
    """Spans made to fit `width` cells, with a sign at the end where something was cut off."""
    mark = glyphs.text("…")
    return spans if length(spans) <= width else (*crop(spans, max(0, width - len(mark))), (mark, "dim"))


def rule(width: int, glyphs: Glyphs) -> Line:
    """A horizontal line."""
    return ((glyphs.text("─") * width, "border"),)


def framed(title: Line, status: Line, body: Sequence[Line], width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A box with a title at the left of its upper edge and a status at the right; `body` is cut or filled to it."""
    if width < 4 or height < 2:
        return [crop(line, width) for line in body[:height]]
    edge = glyphs.text("─")
    head: list[Span] = [(glyphs.text("╭") + edge, "border"), (" ", ""), *shown(title, glyphs), (" ", "")]
    tail: list[Span] = [*shown(status, glyphs)]
    if tail:
        tail = [(" ", ""), *tail, (" ", "")]
    tail.append((edge + glyphs.text("╮"), "border"))
    space = width - length(head) - length(tail)
    if space < 0:
        tail, space = tail[-1:], width - length(head) - 2
    lines = [crop((*head, (edge * max(0, space), "border"), *tail), width)]
    side = (glyphs.text("│"), "border")
    for index in range(height - 2):
        inner = body[index] if index < len(body) else ()
        lines.append((side, (" ", ""), *crop(inner, width - 4), (" ", ""), side))
    lines.append(((glyphs.text("╰") + edge * (width - 2) + glyphs.text("╯"), "border"),))
    return lines


def changed(old: Line, new: Line, width: int) -> tuple[int, int] | None:
    """The stretch of cells (start, end) in which two lines differ, None where they do not."""
    if old == new:
        return None
    a, b = _cells(old), _cells(new)
    if len(a) != len(b) or len(a) != width:
        return 0, width
    start = 0
    while start < width and a[start] == b[start]:
        start += 1
    end = width
    while end > start and a[end - 1] == b[end - 1]:
        end -= 1
    return (start, end) if end > start else None


def _cells(line: Line) -> list[Span]:
    """One entry a cell; of another length than the line is wide if it holds characters that are not one cell wide."""
    cells: list[Span] = []
    for text, role in line:
        if not text.isascii() and cell_len(text) != len(text):
            return []
        cells.extend([(char, role) for char in text])
    return cells


class Sheet(Widget, can_focus=False):
    """Shows what `draw` makes of a view, in the size that it has.

    Without an app: set `extent` to (width, height), call `show`, read `render_line(y).text`.

    Args:
        part: what of a view is drawn: where it stays the same, nothing is drawn again.
    """

    ALLOW_SELECT = False

    def __init__(
        self,
        draw: Draw,
        glyphs: Glyphs = SETS["braille"],
        part: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.extent = (0, 0)
        self.glyphs = glyphs
        self._draw, self._part = draw, part
        self._drawn: object = None
        self._palette: Mapping[str, Style] = {}
        self._view: Any = None
        self._lines: Sequence[Line] = ()

    def show(self, view: Any) -> None:
        """Draw the view; only cells that differ from the last lines will be painted."""
        self._view = view
        width, height = self.extent
        if width <= 0 or height <= 0:
            return
        if self._part is not None:
            part = self._part(view)
            if self._lines and part == self._drawn:
                return
            self._drawn = part
        before, self._lines = self._lines, self._draw(view, width, height, self.glyphs)
        if len(before) != len(self._lines):
            self.refresh()
            return
        dirty = []
        for y, (old, new) in enumerate(zip(before, self._lines, strict=True)):
            if stretch := changed(old, new, width):
                dirty.append(Region(stretch[0], y, stretch[1] - stretch[0], 1))
        if dirty:
            self.refresh(*dirty)

    def dress(self, palette: Mapping[str, Style]) -> None:
        """Take the colours of a theme."""
        self._palette = palette
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        self.extent = (event.size.width, event.size.height)
        self._lines = ()
        if self._view is not None:
            self.show(self._view)

    def on_unmount(self) -> None:
        """Let go of the drawn lines: Textual keeps those of a thousand widgets that are gone, half a megabyte each, as
        keys of a cache of their two styles."""
        StylesCache.get_inner_outer.cache_clear()

    def render_line(self, y: int) -> Strip:
        width = self.extent[0]
        if y >= len(self._lines):
            return Strip.blank(width, self._palette.get(""))
        style, plain = self._palette.get, self._palette.get("")
        segments = [Segment(text, style(role, plain)) for text, role in self._lines[y]]
        return Strip(segments).adjust_cell_length(width, plain)
