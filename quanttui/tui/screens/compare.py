"""Two quants or more beside each other, of one session or of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from rich.style import Style
from textual.binding import Binding, BindingType

from quanttui.decide import compare
from quanttui.decide.candidates import Needs
from quanttui.decide.compare import Chosen, Comparison
from quanttui.report import advise
from quanttui.state import State
from quanttui.summary import Summary
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line
from quanttui.tui.screens.page import Page, Scene
from quanttui.tui.widgets import compare as drawn
from quanttui.tui.widgets.sheet import crop

VIEWS = ("figures", "answers", "quality against speed", "what differs", "advice")

WIDE = 100
"""The least width at which charts stand beside each other."""


class Session(NamedTuple):
    """Another session to compare with."""

    name: str
    state: State
    summary: Summary


class ComparePage(Page):
    """The quant `arm` held against another one of this session, or against the same one of `other`."""

    KEYS = (
        ("tab", "view", "the next view: figures, answers, quality and speed, what differs, advice; shift+tab: back"),
        ("↑↓", "quant", "another quant (also j and k)"),
        ("b", "against", "hold it against another one"),
        ("a", "all", "all quants at once; again: this one"),
        (",.", "item", "in the answers: the item before, the next one; page up and page down scroll"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "view(1)", show=False),
        Binding("shift+tab", "view(-1)", show=False),
        Binding("down,j", "turn(1)", show=False),
        Binding("up,k", "turn(-1)", show=False),
        Binding("b", "base(1)", show=False),
        Binding("a", "all", show=False),
        Binding("full_stop,greater_than_sign", "item(1)", show=False),
        Binding("comma,less_than_sign", "item(-1)", show=False),
        Binding("c", "dismiss('')", show=False),
    ]

    def __init__(
        self,
        glyphs: Glyphs,
        palette: Mapping[str, Style],
        scene: Scene,
        arm: str,
        other: Session | None = None,
    ) -> None:
        super().__init__(glyphs, palette, scene)
        self.arm, self._other = arm, other
        self.base = self._first_base()
        self.all = False
        self.view_ = VIEWS[0]
        self.item = 0
        self._advised: tuple[object, tuple[tuple[str, tuple[str, ...]], ...]] | None = None
        self._comparison = self._made()

    def _first_base(self) -> str:
        """What to hold it against at first: the same quant of the other session, else the base, else its neighbour."""
        if self._other is not None:
            quants = [one.id for one in self._other.summary.arms]
            return self.arm if self.arm in quants else quants[0] if quants else ""
        names = self._names
        base = self.scene.summary.base
        if base in names and base != self.arm:
            return base
        return next((name for name in names if name != self.arm), self.arm)

    @property
    def _names(self) -> list[str]:
        return [one.id for one in self.scene.summary.arms]

    def follow(self, scene: Scene) -> None:
        self.scene = scene
        self._comparison = self._made()
        self.again()

    def _made(self) -> Comparison | None:
        """The comparison; None where there is nothing to compare yet."""
        here = self.scene
        if not here.state.arms or not self.base:
            return None
        name = here.folder.name
        if self._other is not None:
            first = Chosen(self._other.state, self._other.summary, self.base, self._other.name)
        else:
            first = Chosen(here.state, here.summary, self.base, name)
        arms = self._names if self.all else [self.arm]
        return compare.of([first, *(Chosen(here.state, here.summary, one, name) for one in arms)])

    def body(self, width: int, height: int) -> list[Line]:
        tabs = [(f" {name} ", "accent+" if name == self.view_ else "dim") for name in VIEWS]
        lines = [crop(((" ", ""), *tabs), width)] if height > 6 else []
        if self._comparison is None:
            return [*lines, crop(((" there is nothing to compare yet", "dim"),), width)]
        return [*lines, *self._shown(self._comparison, width, height - len(lines))]

    def _shown(self, found: Comparison, width: int, height: int) -> list[Line]:
        if self.view_ == "answers":
            return drawn.answers(found, width, height, self.glyphs, 0, self.item, self.top)
        if self.view_ == "quality against speed":
            return drawn.pareto(found, width, height, self.glyphs)
        if self.view_ == "what differs":
            return drawn.table(found, width, height, self.glyphs)
        if self.view_ == "advice":
            return drawn.advice(self._said(), width, height, self.glyphs, self.top)
        return self._figures(found, width, height)

    def _figures(self, found: Comparison, width: int, height: int) -> list[Line]:
        """The figures, and below them the ghosts: both charts beside each other, or one below the other."""
        above = min(height, max(5, min(len(found.sides) + 4, height // 2)))
        lines = drawn.figures(found, width, above, self.glyphs)
        rest = height - above
        if width >= WIDE:
            half = width // 2
            left = drawn.speed(found, half, rest, self.glyphs)
            right = drawn.perplexity(found, width - half, rest, self.glyphs)
            return [*lines, *((*a, *b) for a, b in zip(left, right, strict=True))]
        upper = rest // 2
        return [
            *lines,
            *drawn.speed(found, width, upper, self.glyphs),
            *drawn.perplexity(found, width, rest - upper, self.glyphs),
        ]

    def _said(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What is advised of this session's quants; worked out again only when something was measured since."""
        arms = self.scene.state.arms.values()
        key = tuple((arm.id, arm.outcome, len(arm.chunks), len(arm.items), len(arm.attempts)) for arm in arms)
        if self._advised is None or self._advised[0] != key:
            found = advise.of(self.scene.state, Needs(), summary=self.scene.summary)
            self._advised = key, advise.blocks(found)
        return self._advised[1]

    def most(self, width: int, height: int) -> int:
        return 10_000 if self.view_ in ("answers", "advice") else 0

    def action_view(self, by: int) -> None:
        self.view_ = VIEWS[(VIEWS.index(self.view_) + by) % len(VIEWS)]
        self.top = 0
        self.again()

    def action_turn(self, by: int) -> None:
        self.arm = _next(self._names, self.arm, by)
        self._anew()

    def action_base(self, by: int) -> None:
        names = [one.id for one in self._other.summary.arms] if self._other is not None else self._names
        self.base = _next(names, self.base, by)
        self._anew()

    def action_all(self) -> None:
        self.all = not self.all
        self._anew()

    def action_item(self, by: int) -> None:
        pairs = self._comparison.against[0].answers if self._comparison and self._comparison.against else ()
        self.item = max(0, min(len(pairs) - 1, self.item + by))
        self.top = 0
        self.again()

    def _anew(self) -> None:
        self.item = self.top = 0
        self.follow(self.scene)


def _next(names: list[str], here: str, by: int) -> str:
    """The name that many places on, round and round."""
    if not names:
        return here
    return names[(names.index(here) + by) % len(names)] if here in names else names[0]
