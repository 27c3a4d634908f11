"""All sessions: open one, compare with one, delete one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType

from quanttui import session
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.session import Info
from quanttui.summary import summarize
from quanttui.tui import catalog
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Span
from quanttui.tui.screens.compare import ComparePage, Session
from quanttui.tui.screens.page import Page, Scene
from quanttui.tui.widgets import catalog as drawn
from quanttui.tui.widgets.sheet import crop


class SessionsPage(Page):
    """The sessions of a folder. It is dismissed with the folder of the one that is to be opened.

    Args:
        sessions: the folder.
        kept: whether another session may not be opened, for a sweep of this screen runs.
    """

    KEYS = (
        ("↑↓", "select", "select a session (also j and k)"),
        ("enter", "open", "watch it: live where it runs, else from its end"),
        ("c", "compare with", "the quant that is selected on the monitor beside the same one of this session"),
        ("d", "delete", "delete it for good; it is asked first"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", show=False),
        Binding("c", "compare", show=False),
        Binding("d,delete", "delete", show=False),
        Binding("y", "sure", show=False),
    ]

    def __init__(
        self, glyphs: Glyphs, palette: Mapping[str, Style], scene: Scene, sessions: Path, kept: bool = False
    ) -> None:
        super().__init__(glyphs, palette, scene)
        self._sessions, self._kept = sessions, kept
        self._found: list[Info] | None = None
        self._selected = str(scene.folder)
        self._asked: Span = ("", "dim")
        self._doomed: Info | None = None

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(self._list, thread=True, exit_on_error=False)

    def _list(self) -> None:
        found = session.listing(self._sessions)
        self.app.call_from_thread(self._listed, found)

    def _listed(self, found: list[Info]) -> None:
        self._found = found
        if catalog.chosen(found, self._selected) is None and found:
            self._selected = catalog.key(catalog.ordered(found)[0])
        self.again()

    @property
    def chosen(self) -> Info | None:
        return catalog.chosen(self._found or (), self._selected)

    def body(self, width: int, height: int) -> list[Line]:
        if self._found is None:
            return [crop(((" reading the sessions", "dim"),), width)]
        return drawn.draw(self._catalog, width, height, self.glyphs)

    @property
    def _catalog(self) -> catalog.Catalog:
        return catalog.of(self._found or (), str(self._sessions), self._selected, self._asked)

    def on_key(self, event: events.Key) -> None:
        """Any key but y answers no where a question waits."""
        if self._doomed is not None and event.key != "y":
            event.stop()
            event.prevent_default()
            self._ask("")

    def action_scroll_by(self, lines: int) -> None:
        self._selected = catalog.moved(self._found or (), self._selected, lines)
        self._ask("")

    def on_click(self, event: events.Click) -> None:
        found = drawn.row_at(self._catalog, event.y - 1, self.size.width, max(0, self.size.height - 3), self.glyphs)
        if found:
            self._selected = found
            self._ask("")

    def _ask(self, words: str, role: str = "warn", doomed: Info | None = None) -> None:
        self._asked, self._doomed = (words, role), doomed
        self.again()

    def action_open(self) -> None:
        chosen = self.chosen
        if chosen is None:
            return
        if self._kept and chosen.folder.resolve() != self.scene.folder.resolve():
            name = clean(chosen.name, 60)
            self._ask(f"a sweep of this screen runs: `quanttui replay {name}` in another terminal shows that one")
        else:
            self.dismiss(str(chosen.folder))

    def action_compare(self) -> None:
        chosen = self.chosen
        if chosen is None:
            return
        try:
            state = session.load(chosen.folder)
        except UserError as error:
            self._ask(str(error), "bad")
            return
        arm = self.scene.view.selected or self.scene.state.arm
        if not state.arms or arm not in self.scene.state.arms:
            self._ask(f"{clean(chosen.name, 60)}: has no quant to compare with")
            return
        other = Session(chosen.name, state, summarize(state, over=session.status(state, chosen.folder) != "running"))
        self.app.push_screen(ComparePage(self.glyphs, self._palette, self.scene, arm, other))

    def action_delete(self) -> None:
        chosen = self.chosen
        if chosen is None:
            return
        refused = catalog.refusal(chosen)
        if refused is not None:
            self._ask(*refused)
        elif chosen.folder.resolve() == self.scene.folder.resolve():
            self._ask(f"{clean(chosen.name, 60)} is being watched here: open another one first")
        else:
            files = [
                (path.relative_to(chosen.folder).as_posix(), path.lstat().st_size)
                for path in chosen.folder.rglob("*") if not path.is_dir()
            ]  # fmt: skip
            self._ask(*catalog.question(chosen, catalog.weigh(files)), doomed=chosen)

    def action_sure(self) -> None:
        """The answer yes, where a question waits for it."""
        if self._doomed is None:
            return
        doomed = self._doomed
        try:
            left = session.delete(doomed.folder, self._sessions)
        except (UserError, OSError) as error:
            self._ask(clean(str(error)), "bad")
            return
        below = catalog.moved(self._found or (), self._selected, 1)
        above = catalog.moved(self._found or (), self._selected, -1)
        self._selected = below if below != catalog.key(doomed) else above
        self._found = [one for one in self._found or [] if one is not doomed]
        kept = f"; {left} is left: it is not of the session" if left else ""
        self._ask(f"{clean(doomed.name, 60)} is deleted{kept}", "ok")
