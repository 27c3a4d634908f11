"""Everything about one quant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rich.style import Style
from textual.binding import Binding, BindingType

from quanttui import session
from quanttui.tui import dossier
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line
from quanttui.tui.screens.page import Page, Scene
from quanttui.tui.widgets import dossier as drawn

BLOCK = 1 << 16
"""Bytes of the engine's messages that are read."""


class ArmPage(Page):
    """The dossier of the arm `arm`, as of the moment at which the cursor stands."""

    KEYS = (
        ("↑↓", "scroll", "scroll by a line (also j and k); page up and page down by a screen"),
        ("tab", "next quant", "the next quant; shift+tab: the one before"),
        ("enter", "next section", "the next section; backspace: the one before"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "turn(1)", show=False),
        Binding("shift+tab", "turn(-1)", show=False),
        Binding("enter", "section(1)", show=False),
        Binding("backspace", "section(-1)", show=False),
    ]

    def __init__(self, glyphs: Glyphs, palette: Mapping[str, Style], scene: Scene, arm: str) -> None:
        super().__init__(glyphs, palette, scene)
        self.arm = arm
        self._dossier = self._made()

    def follow(self, scene: Scene) -> None:
        self.scene = scene
        self._dossier = self._made()
        self.again()

    def _made(self) -> dossier.Dossier:
        return dossier.of(self.scene.state, self.scene.summary, self.arm, stderr(self.scene.folder, self.arm))

    def body(self, width: int, height: int) -> list[Line]:
        return drawn.draw(self._dossier, width, height, self.glyphs, self.top)

    def most(self, width: int, height: int) -> int:
        return drawn.most(self._dossier, width, height, self.glyphs)

    def action_turn(self, by: int) -> None:
        names = [arm.id for arm in self.scene.state.arms.values()]
        if names:
            here = names.index(self.arm) if self.arm in names else 0
            self.arm, self.top = names[(here + by) % len(names)], 0
            self.follow(self.scene)

    def action_section(self, by: int) -> None:
        width, height = self.size.width, max(1, self.size.height - 3)
        self.top = drawn.section(self._dossier, width, height, self.glyphs, self.top, by)
        self.again()


def stderr(folder: Path, arm: str) -> tuple[str, ...]:
    """The last lines of what an arm's engine said; none where there is no such file."""
    try:
        with open(session.part(folder, "stderr", f"{arm}.txt"), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - BLOCK))
            return dossier.tail(file.read(), size <= BLOCK)
    except OSError:
        return ()
