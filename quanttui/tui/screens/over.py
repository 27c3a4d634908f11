"""What lies over the monitor for a moment: the help, and the question before leaving. Drawn like everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from quanttui.tui import keys
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, View
from quanttui.tui.widgets.bars import share, wrap
from quanttui.tui.widgets.sheet import Sheet, framed, pad, shown


class Over(ModalScreen[str]):
    """A box in the middle with a title and some lines; as large as they are, or as the screen is."""

    TITLE_ = ""
    WIDTH = 76

    def __init__(self, view: View, glyphs: Glyphs, palette: Mapping[str, Style]) -> None:
        super().__init__()
        self._view, self._glyphs, self._palette = view, glyphs, palette

    def compose(self) -> ComposeResult:
        yield Sheet(self._draw, self._glyphs, id="over")

    def on_mount(self) -> None:
        self._fit(self.app.size.width, self.app.size.height)
        sheet = self.query_one(Sheet)
        sheet.dress(self._palette)
        sheet.show(self._view)

    def on_resize(self, event: events.Resize) -> None:
        self._fit(event.size.width, event.size.height)

    def _fit(self, width: int, height: int) -> None:
        wide = min(self.WIDTH, width)
        sheet = self.query_one(Sheet)
        sheet.styles.width = wide
        sheet.styles.height = min(len(self.body(wide - 4, self._glyphs)) + 2, height)

    def body(self, width: int, glyphs: Glyphs) -> list[Line]:
        """The lines inside the box: each kind of box has its own."""
        return []

    def _draw(self, view: View, width: int, height: int, glyphs: Glyphs) -> Sequence[Line]:
        return framed(((self.TITLE_, "title"),), (), self.body(width - 4, glyphs), width, height, glyphs)


class Help(Over):
    """All keys and all marks."""

    TITLE_ = "help"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, "dismiss('')", show=False) for key in ("escape", "q", "question_mark", "enter", "space", "ctrl+c")
    ]

    def body(self, width: int, glyphs: Glyphs) -> list[Line]:
        lines: list[Line] = []
        for action in filter(lambda one: one.words, keys.ACTIONS):
            lines += _pair(action.shown, action.words, 9, width, glyphs)
        lines.append(())
        for mark, words in keys.MARKS:
            lines += _pair(mark, words, 13, width, glyphs)
        lines.append(())
        lines += _pair("observer", _observer(self._view), 13, width, glyphs)
        return lines


def _observer(view: View) -> str:
    found = view.observer
    if found is None:
        return "what watching costs was not measured on this machine: quanttui doctor --observer does it"
    return (
        f"this screen costs {share(found.live)} of the decode speed, recording without it {share(found.headless)} "
        f"(measured on this machine with these threads, median of {found.pairs} pairs)"
    )


def _pair(head: str, words: str, cells: int, width: int, glyphs: Glyphs) -> list[Line]:
    wrapped = wrap(shown([(words, "text")], glyphs), max(8, width - cells), 0)
    first = pad(glyphs.text(head), cells)
    return [((first if index == 0 else " " * cells, "key"), *line) for index, line in enumerate(wrapped)]


class Leave(Over):
    """Before quitting while a sweep of this process runs: leave it running, stop it, or stay."""

    TITLE_ = "a sweep is running"
    WIDTH = 76
    CHOICES = (
        ("leave", "l", "leave it running", "finish the unit, then go on without a terminal"),
        ("stop", "s", "stop", "give up the unit under way; --resume goes on"),
        ("stay", "escape", "stay", "back to the screen"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, f"dismiss('{name}')", show=False) for name, key, _, _ in CHOICES),
        *(Binding(key, "dismiss('stay')", show=False) for key in ("q", "n", "ctrl+c", "ctrl+z")),
        *(Binding(key, "choose(1)", show=False) for key in ("down", "j", "tab")),
        *(Binding(key, "choose(-1)", show=False) for key in ("up", "k", "shift+tab")),
        Binding("enter", "take", show=False),
    ]

    def __init__(self, view: View, glyphs: Glyphs, palette: Mapping[str, Style]) -> None:
        super().__init__(view, glyphs, palette)
        self._chosen = 0

    def body(self, width: int, glyphs: Glyphs) -> list[Line]:
        lines: list[Line] = []
        for index, (_, key, brief, words) in enumerate(self.CHOICES):
            mark = "+" if index == self._chosen else ""
            shown_key = "esc" if key == "escape" else key
            cells = max(0, width - 23)
            said = pad(words, cells, mark=glyphs.text("…"))
            lines.append(((pad(f" {shown_key:<4}{brief:<18}", 23), f"key{mark}"), (said, f"text{mark}")))
        return lines

    def action_choose(self, by: int) -> None:
        self._chosen = (self._chosen + by) % len(self.CHOICES)
        self.query_one(Sheet).show(self._view)

    def action_take(self) -> None:
        self.dismiss(self.CHOICES[self._chosen][0])
