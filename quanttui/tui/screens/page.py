"""A whole screen of lines between the monitor's header and a footer of its own; follows the time cursor like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from quanttui.state import State
from quanttui.summary import Summary
from quanttui.tui import keys
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, View
from quanttui.tui.screens.over import Help
from quanttui.tui.widgets import bars
from quanttui.tui.widgets.sheet import Sheet, crop

FRAME = 3
"""Lines of a page that are header, status line and footer."""


class Scene(NamedTuple):
    """What a page is made of: the session's folder, the state at the cursor, all that is known, and what the monitor
    makes of them."""

    folder: Path
    state: State
    tail: State
    summary: Summary
    view: View


class Page(Screen[str], inherit_bindings=False):
    """A page. Its kinds say what it shows (`body`) and which keys it has beside those that work everywhere, each with
    the footer's word and the help's sentence."""

    KEYS: ClassVar[tuple[tuple[str, str, str], ...]] = (("↑↓", "scroll", "scroll"),)

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(",".join(one.keys), "help" if one.id == "help" else f"app.{one.id}", show=False, id=one.id)
            for one in keys.ACTIONS
            if one.scope == keys.EVERYWHERE
        ),
        *(Binding(key, "dismiss('')", show=False) for key in ("escape", "q", "ctrl+c", "ctrl+z")),
        Binding("down,j", "scroll_by(1)", show=False),
        Binding("up,k", "scroll_by(-1)", show=False),
        Binding("pagedown", "scroll_pages(1)", show=False),
        Binding("pageup", "scroll_pages(-1)", show=False),
    ]

    def __init__(self, glyphs: Glyphs, palette: Mapping[str, Style], scene: Scene) -> None:
        super().__init__()
        self.glyphs, self.scene = glyphs, scene
        self._palette = palette
        self.top = 0
        self._sheet = Sheet(self._draw, glyphs, id="page")

    def compose(self) -> ComposeResult:
        yield self._sheet

    def on_mount(self) -> None:
        self._sheet.styles.width = self._sheet.styles.height = "100%"
        self.dress(self._palette)
        self.follow(self.scene)

    def follow(self, scene: Scene) -> None:
        """Show another moment."""
        self.scene = scene
        self._sheet.show(scene.view)

    def again(self) -> None:
        """Draw anew what the page shows now."""
        self._sheet.show(self.scene.view)

    def dress(self, palette: Mapping[str, Style]) -> None:
        """Take a theme's colours."""
        self._palette = palette
        self._sheet.dress(palette)

    @property
    def arranged(self) -> bool:
        """Whether the page has its size."""
        return self._sheet.extent == (self.size.width, self.size.height)

    def body(self, width: int, height: int) -> list[Line]:
        """The lines between header and footer, at most `height`, `width` wide."""
        raise NotImplementedError

    def most(self, width: int, height: int) -> int:
        """How far down the body can be scrolled."""
        return 0

    def action_scroll_by(self, lines: int) -> None:
        room = max(1, self.size.height - FRAME)
        self.top = max(0, min(self.top + lines, self.most(self.size.width, room)))
        self.again()

    def action_scroll_pages(self, pages: int) -> None:
        self.action_scroll_by(pages * max(1, self.size.height - FRAME - 1))

    def action_help(self) -> None:
        """The keys of this page, those that work everywhere, and the marks."""
        own = (*((key, words) for key, _, words in self.KEYS), ("esc", "back to where this page was opened (also q)"))
        self.app.push_screen(Help(self.scene.view, self.glyphs, self._palette, own))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.action_scroll_by(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.action_scroll_by(-3)

    def _draw(self, view: View, width: int, height: int, glyphs: Glyphs) -> Sequence[Line]:
        room = max(0, height - FRAME)
        found = [crop(line, width) for line in self.body(width, room)[:room]] if room else []
        lines = [
            *bars.header(view, width, 1, glyphs),
            *found,
            *[crop((), width)] * (room - len(found)),
            *bars.status(view, width, 1, glyphs),
            self._footer(width),
        ]
        return lines[:height] if height >= FRAME else [crop(line, width) for line in lines[:height]]

    def _footer(self, width: int) -> Line:
        own = ((key, word) for key, word, _ in self.KEYS)
        return bars.keyed(
            (*own, ("space", "freeze"), ("←→", "time"), ("esc", "back"), ("?", "help")), width, self.glyphs
        )
