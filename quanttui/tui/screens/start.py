"""The start screen: a model, its quants, go. An app of its own, so that the sweep's begins when all is known."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from quanttui import catalog, paths, session
from quanttui.catalog import Found
from quanttui.diagnosis.fit import Plan
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.session import Info
from quanttui.tui import evidence, start, theming
from quanttui.tui import glyphs as sets
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line
from quanttui.tui.start import Choice, Offer, Selection
from quanttui.tui.terminal import driver_class
from quanttui.tui.widgets import start as drawn
from quanttui.tui.widgets.sheet import Sheet

REFRESH = 0.2
"""Seconds between looks at what was found meanwhile."""

Look = Callable[[Callable[[], bool]], Iterator[catalog.File]]
"""Searches this machine; asked `stop` all the while."""

Outline = Callable[[tuple[str, ...], tuple[str, ...], str], Plan]
"""What fits of a model (its arguments, none for the shipped one), measured by these tasks, until decided or full."""


class Start(App[Choice], inherit_bindings=False):
    """Returns what is to be done, None where nothing is.

    Args:
        look, outline: how models are found, and what fits of one; called in threads.
        places: where is looked.
        sessions: the folder of all sessions.
        machine: this machine in a few words.
        tasks, until, text: the configuration's.
        notice: why the last choice came to nothing.
    """

    CSS_PATH = "../monitor.tcss"
    TITLE = "quanttui"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("enter", "next", show=False),
        Binding("space", "take", show=False),
        Binding("a", "all", show=False),
        Binding("d", "decided", show=False),
        *(Binding(str(number), f"task({number})", show=False) for number in range(1, len(start.TASKS) + 1)),
        Binding("escape,backspace", "return", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q,ctrl+c,ctrl+q,ctrl+z", "leave", show=False),
    ]

    def __init__(
        self,
        look: Look,
        outline: Outline,
        places: tuple[catalog.Place, ...],
        sessions: Path,
        machine: str,
        *,
        tasks: tuple[str, ...],
        until: str,
        text: str,
        notice: str = "",
        theme: str = theming.DEFAULT,
        glyphs: str = "auto",
        mouse: bool = True,
        keymap: Any = None,
        form: str = "auto",
    ) -> None:
        bare = evidence.settled(os.environ) == "none"  # else Textual greys the terminal's own colours: black on black
        super().__init__(driver_class=driver_class(lambda: self.exit(None)), ansi_color=bare or None)
        self._look, self._outline, self._places = look, outline, places
        self._sessions, self._machine, self._text = sessions, machine, text
        self._tasks, self._until, self._notice = tasks, until, notice
        self._mouse = mouse
        self.glyphs: Glyphs = sets.choose(glyphs, os.environ)
        themes, _ = theming.load(paths.themes())
        themes = theming.usable(themes, evidence.settled(os.environ))
        self._theme = themes.get(theme) or next(iter(themes.values()))
        self.register_theme(self._theme.textual())
        self.theme = self._theme.name
        self._over = threading.Event()
        self._found = Found((), (), places, complete=False)
        self._infos: list[Info] = []
        self._plans: dict[str, Plan | str] = {}
        self._here = self._quant = ""
        self._plan: Plan | None = None
        self._model = ""
        self._wanted: set[str] = set()
        self._error = ""
        self._helping = False
        self.sheet = Sheet(self._draw, self.glyphs, id="start")

    # --- life -------------------------------------------------------------------------------------------------------

    def run(self, **options: Any) -> Choice | None:
        options.setdefault("mouse", self._mouse)
        return super().run(**options)

    def compose(self) -> ComposeResult:
        yield self.sheet

    def get_default_screen(self) -> Screen[Any]:
        return Screen()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return theming.defaults()

    def on_mount(self) -> None:
        self.sheet.styles.width = self.sheet.styles.height = "100%"
        self.sheet.dress(self._theme.palette())
        self.run_worker(self._search, thread=True, exit_on_error=False)
        self.set_interval(REFRESH, self._show)
        self.call_after_refresh(self._show)

    def on_unmount(self) -> None:
        self._over.set()

    def _search(self) -> None:
        """In a thread: the sessions, then the models, then what fits of each."""
        self._infos = session.listing(self._sessions)
        files: list[catalog.File] = []
        told = time.monotonic()
        for file in self._look(self._over.is_set):
            files.append(file)
            if time.monotonic() - told > REFRESH:
                told = time.monotonic()
                self._found = catalog.gather(files, self._places, complete=False)
        self._found = catalog.gather(files, self._places)
        for model in self._found.models:
            if self._over.is_set():
                return
            row = start.key(model)
            self._plans[row] = self._planned(start.arguments(row))

    def _planned(self, models: tuple[str, ...]) -> Plan | str:
        try:
            return self._outline(models, self._tasks, self._until)
        except (UserError, OSError) as error:
            return clean(str(error), 300)

    # --- frames -----------------------------------------------------------------------------------------------------

    @property
    def page(self) -> Offer | Selection:
        """What is shown."""
        if self._plan is None:
            return start.offer(
                self._found, self._plans, self._infos, self._machine, self._here, self._error or self._notice
            )
        text = "the shipped one" if self._model == start.DEMO else self._text
        return start.selection(self._plan, self._wanted, self._quant, self._tasks, self._until, text, self._error)

    def _show(self) -> None:
        self.sheet.show(self.page)

    def _draw(self, view: Offer | Selection, width: int, height: int, glyphs: Glyphs) -> list[Line]:
        if self._helping:
            return drawn.help_(width, height, glyphs)
        if isinstance(view, Offer):
            return drawn.offer(view, width, height, glyphs)
        return drawn.selection(view, width, height, glyphs)

    # --- actions ----------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """While the help is shown, keys that would change what lies behind it do nothing."""
        return not self._helping or action in ("help", "next", "return", "leave")

    def action_move(self, by: int) -> None:
        view = self.page
        names = [row.id for row in view.rows] if isinstance(view, Offer) else [line.id for line in view.lines]
        if names:
            here = names.index(view.selected) if view.selected in names else 0
            found = names[max(0, min(len(names) - 1, here + by))]
            if isinstance(view, Offer):
                self._here = found
            else:
                self._quant = found
        self._error = self._notice = ""
        self._show()

    def action_next(self) -> None:
        """Take what is selected: a session is watched, a model's quants are shown, the quants are swept."""
        if self._helping:
            self.action_help()
            return
        view = self.page
        self._error = ""
        if isinstance(view, Selection):
            self._go()
        elif view.selected.startswith("session:"):
            folder = view.selected.removeprefix("session:")
            info = next((one for one in self._infos if str(one.folder) == folder), None)
            running = info is not None and info.state == "running"
            self.exit(Choice("attach" if running else "replay", folder=folder))
        elif view.selected.startswith("broken:"):
            self._error = "this one cannot be used: choose another"
            self._show()
        else:
            self._open(view.selected)

    def _open(self, row: str) -> None:
        """Show what fits of a model; it takes some milliseconds for each quant."""
        models = () if row == start.DEMO else start.arguments(row)
        plan = self._planned(models)
        if isinstance(plan, str):
            self._error = plan
        else:
            self._model, self._plan, self._quant = row, plan, ""
            self._wanted = {arm.id for arm in plan.arms if arm.verdict != "no"} or {arm.id for arm in plan.arms[-1:]}
        self._show()

    def _again(self) -> None:
        """The times, after a change of what is measured."""
        if self._plan is None:
            return
        plan = self._planned(() if self._model == start.DEMO else start.arguments(self._model))
        self._error = plan if isinstance(plan, str) else ""
        if not isinstance(plan, str):
            self._plan = plan
        self._show()

    def action_take(self) -> None:
        view = self.page
        if isinstance(view, Selection):
            self._error = ""
            self._wanted ^= {view.selected}
            self._show()

    def action_all(self) -> None:
        if self._plan is not None:
            self._error = ""
            every = {arm.id for arm in self._plan.arms}
            self._wanted = set() if self._wanted == every else every
            self._show()

    def action_decided(self) -> None:
        self._until = "full" if self._until == "decided" else "decided"
        self._again()

    def action_task(self, number: int) -> None:
        name = list(start.TASKS)[number - 1]
        chosen = set(self._tasks) ^ {name}
        self._tasks = tuple(one for one in start.TASKS if one in chosen)
        self._again()

    def _go(self) -> None:
        if self._plan is None:
            return
        if not self._wanted or not self._tasks:
            self._error = "choose a quant: space takes one" if self._tasks else "choose what is measured: 1 to 8"
            self._show()
            return
        quants = {arm.id: arm.quant for arm in self._plan.arms}
        chosen = [quants[name] for name in quants if name in self._wanted]
        models = () if self._model == start.DEMO else start.arguments(self._model)
        self.exit(Choice("sweep", models, ",".join(dict.fromkeys(chosen)), self._tasks, self._until))

    def action_return(self) -> None:
        if self._helping:
            self._helping = False
        elif self._plan is not None:
            self._plan, self._error = None, ""
        self._show()

    def action_help(self) -> None:
        self._helping = not self._helping
        self._show()

    def action_leave(self) -> None:
        if self._helping:
            self.action_help()
        else:
            self.exit(None)
