"""What lies over a screen for a moment: the help, questions, a line to be typed, the palette. Drawn like everything
else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from quanttui.format import clean
from quanttui.tui import keys
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, View
from quanttui.tui.widgets.bars import share, wrap
from quanttui.tui.widgets.sheet import Sheet, crop, framed, pad, shown


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
        wide = min(self.breadth(width), width)
        sheet = self.query_one(Sheet)
        sheet.styles.width = wide
        sheet.styles.height = min(len(self.body(wide - 4, self._glyphs)) + 2, height)

    def breadth(self, width: int) -> int:
        """How wide the box would be on a screen of this width."""
        return self.WIDTH

    def body(self, width: int, glyphs: Glyphs) -> list[Line]:
        """The lines inside the box: each kind of box has its own."""
        return []

    def _draw(self, view: View, width: int, height: int, glyphs: Glyphs) -> Sequence[Line]:
        status = self.status(height - 2, width - 4, glyphs)
        return framed(((self.title_, "title"),), status, self.body(width - 4, glyphs), width, height, glyphs)

    @property
    def title_(self) -> str:
        """The words in the upper edge."""
        return self.TITLE_

    def status(self, height: int, width: int, glyphs: Glyphs) -> Line:
        """What stands at the right of the upper edge."""
        return ()


class Help(Over):
    """All keys and all marks. `own`: a page's keys with their words; of the registry's then those that work there."""

    TITLE_ = "help"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, "dismiss('')", show=False) for key in ("escape", "q", "question_mark", "enter", "ctrl+c")),
        *(Binding(key, "scroll_by(1)", show=False) for key in ("down", "j")),
        *(Binding(key, "scroll_by(-1)", show=False) for key in ("up", "k")),
        *(Binding(key, "scroll_by(10)", show=False) for key in ("pagedown", "space")),
        Binding("pageup", "scroll_by(-10)", show=False),
    ]

    def __init__(
        self, view: View, glyphs: Glyphs, palette: Mapping[str, Style], own: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(view, glyphs, palette)
        self._top, self._own = 0, own

    def action_scroll_by(self, lines: int) -> None:
        sheet = self.query_one(Sheet)
        most = len(self.every(sheet.extent[0] - 4, self._glyphs)) - (sheet.extent[1] - 2)
        self._top = max(0, min(self._top + lines, most))
        sheet.show(self._view)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.action_scroll_by(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.action_scroll_by(-3)

    def status(self, height: int, width: int, glyphs: Glyphs) -> Line:
        beyond = len(self.every(width, glyphs)) - self._top - height
        return ((f"{glyphs.text('↓')} {beyond} more lines", "accent"),) if beyond > 0 else ()

    def body(self, width: int, glyphs: Glyphs) -> list[Line]:
        return self.every(width, glyphs)[self._top :]

    def every(self, width: int, glyphs: Glyphs) -> list[Line]:
        """All of the help: keys, then marks, beside each other where there is room."""
        if width < 2 * self.WIDTH - 4:
            return [*self._keys(width, glyphs), (), *self._marks(width, glyphs)]
        half = width // 2 - 1
        left, right = self._keys(half, glyphs), self._marks(width - half - 2, glyphs)
        rows = max(len(left), len(right))
        left, right = left + [()] * (rows - len(left)), right + [()] * (rows - len(right))
        return [(*crop(a, half), ("  ", ""), *b) for a, b in zip(left, right, strict=True)]

    def breadth(self, width: int) -> int:
        return 2 * self.WIDTH if width >= 2 * self.WIDTH else self.WIDTH

    def _keys(self, width: int, glyphs: Glyphs) -> list[Line]:
        lines = [line for key, words in self._own for line in _pair(key, words, 10, width, glyphs)]
        for action in keys.ACTIONS:
            if action.words and (not self._own or action.scope == keys.EVERYWHERE):
                lines += _pair(keys.shown(action, self._view.keymap), action.words, 10, width, glyphs)
        return lines

    def _marks(self, width: int, glyphs: Glyphs) -> list[Line]:
        lines: list[Line] = []
        for mark, words in keys.MARKS:
            lines += _pair(mark, words, 13, width, glyphs)
        return [*lines, (), *_pair("observer", _observer(self._view), 13, width, glyphs)]


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


class Choice(Over):
    """A question with answers, each with its key: (name, key, brief, words). The first one is chosen at first; `stay`
    is what every way out means."""

    CHOICES: tuple[tuple[str, str, str, str], ...] = ()
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, "dismiss('stay')", show=False) for key in ("escape", "q", "n", "ctrl+c", "ctrl+z")),
        *(Binding(key, "choose(1)", show=False) for key in ("down", "j", "tab")),
        *(Binding(key, "choose(-1)", show=False) for key in ("up", "k", "shift+tab")),
        Binding("enter", "take", show=False),
    ]

    def __init__(self, view: View, glyphs: Glyphs, palette: Mapping[str, Style]) -> None:
        super().__init__(view, glyphs, palette)
        self._chosen = 0
        self._answer_to(self.CHOICES)

    def _answer_to(self, choices: tuple[tuple[str, str, str, str], ...]) -> None:
        """The answers' own keys: as bindings, so that one typed right after the key that asked is not lost."""
        for name, key, _, _ in choices:
            self._bindings.bind(key, f"dismiss('{name}')", show=False)

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


class Leave(Choice):
    """Before quitting while a sweep of this process runs: leave it running, stop it, or stay."""

    TITLE_ = "a sweep is running"
    CHOICES = (
        ("leave", "l", "leave it running", "finish the unit, then go on without a terminal"),
        ("stop", "s", "stop", "give up the unit under way; --resume goes on"),
        ("stay", "escape", "stay", "back to the screen"),
    )


class Sure(Choice):
    """Whether something is to be done that cannot be undone; doing nothing is what enter does."""

    def __init__(
        self, question: str, yes: str, view: View, glyphs: Glyphs, palette: Mapping[str, Style], no: str = "leave it"
    ) -> None:
        super().__init__(view, glyphs, palette)
        self._question = question
        self.CHOICES = (("stay", "escape", "no", no), ("yes", "y", "yes", yes))
        self._answer_to(self.CHOICES)

    @property
    def title_(self) -> str:
        return self._question


class Ask(Over):
    """A line to be typed: enter hands it over, escape gives it up. `wrong` says what a text is not, "" for nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, "dismiss(None)", show=False) for key in ("escape", "ctrl+c", "ctrl+z", "ctrl+q")),
        Binding("enter", "take", show=False),
        Binding("backspace", "rub", show=False),
    ]

    def __init__(
        self,
        question: str,
        view: View,
        glyphs: Glyphs,
        palette: Mapping[str, Style],
        wrong: Callable[[str], str] = lambda text: "",
    ) -> None:
        super().__init__(view, glyphs, palette)
        self._question, self._wrong = question, wrong
        self._text = self._said = ""

    @property
    def title_(self) -> str:
        return self._question

    def body(self, width: int, glyphs: Glyphs) -> list[Line]:
        line = crop((("> ", "key"), (glyphs.text(self._text)[-max(1, width - 4) :], "strong"), ("_", "accent")), width)
        return [line, ((self._said or "enter: take it   escape: leave it", "bad" if self._said else "dim"),)]

    def on_key(self, event: events.Key) -> None:
        """A character more."""
        if event.character is not None and event.is_printable and len(self._text) < 400:
            event.stop()
            self._put(self._text + event.character)

    def on_paste(self, event: events.Paste) -> None:
        self._put((self._text + clean(event.text))[:400])

    def action_rub(self) -> None:
        self._put(self._text[:-1])

    def _put(self, text: str) -> None:
        self._text, self._said = text, ""
        self.query_one(Sheet).show(self._view)

    def action_take(self) -> None:
        self._said = self._wrong(self._text.strip())
        if self._said:
            self.query_one(Sheet).show(self._view)
        else:
            self.dismiss(self._text.strip())


class Palette(Over):
    """Actions found by their words, those that work on the screen below: type, choose, enter. The answer is an
    action's id."""

    TITLE_ = "actions"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, "dismiss('')", show=False) for key in ("escape", "ctrl+c", "ctrl+p", "ctrl+z")),
        *(Binding(key, "choose(1)", show=False) for key in ("down", "tab")),
        *(Binding(key, "choose(-1)", show=False) for key in ("up", "shift+tab")),
        Binding("enter", "take", show=False),
        Binding("backspace", "rub", show=False),
    ]
    ROWS = 12

    def __init__(self, view: View, glyphs: Glyphs, palette: Mapping[str, Style], scope: str = keys.MONITOR) -> None:
        super().__init__(view, glyphs, palette)
        self._text, self._chosen, self._scope = "", 0, scope

    @property
    def found(self) -> list[keys.Action]:
        """The actions whose words hold all that was typed."""
        typed = self._text.lower().split()
        here = (keys.EVERYWHERE, self._scope)
        each = [one for one in keys.ACTIONS if one.words and "(" not in one.id and one.scope in here]
        return [one for one in each if all(word in f"{one.id} {one.brief} {one.words}".lower() for word in typed)]

    def body(self, width: int, glyphs: Glyphs) -> list[Line]:
        lines: list[Line] = [(("> ", "key"), (glyphs.text(self._text), "strong"), ("_", "accent"))]
        first = max(0, self._chosen - self.ROWS + 1)
        for index, one in enumerate(self.found[first : first + self.ROWS], first):
            mark = "+" if index == self._chosen else ""
            key = pad(glyphs.text(keys.shown(one, self._view.keymap)), 10)
            words = pad(glyphs.text(one.words), max(0, width - 10), mark=glyphs.text("…"))
            lines.append(((key, f"key{mark}"), (words, f"text{mark}")))
        return [*lines, *[()] * (self.ROWS + 1 - len(lines))]

    def on_key(self, event: events.Key) -> None:
        if event.character is not None and event.is_printable and len(self._text) < 60:
            event.stop()
            self._put(self._text + event.character)

    def action_rub(self) -> None:
        self._put(self._text[:-1])

    def _put(self, text: str) -> None:
        self._text, self._chosen = text, 0
        self.query_one(Sheet).show(self._view)

    def action_choose(self, by: int) -> None:
        self._chosen = (self._chosen + by) % max(1, len(self.found))
        self.query_one(Sheet).show(self._view)

    def action_take(self) -> None:
        found = self.found
        self.dismiss(found[self._chosen].id if self._chosen < len(found) else "")
