"""What a dossier consists of, and whom it is about. Owns the forms, and the words for what is absent."""

from __future__ import annotations

from typing import Union

import msgspec

from quanttui.diagnosis.windows import Bounds
from quanttui.flags import brief as short
from quanttui.state import Arm, Attempt, State
from quanttui.summary import ArmSummary, Summary
from quanttui.tui.parts import Line, Span, Stretch


class Fact(msgspec.Struct, frozen=True, tag=True):
    """Words under a label; without one they stand by themselves."""

    label: str
    words: Line


class Bar(msgspec.Struct, frozen=True, tag=True):
    """A share of a whole, 0 to 1, to be drawn to scale between its label and its words."""

    label: str
    share: float
    words: Line
    role: str


class Grid(msgspec.Struct, frozen=True, tag=True):
    """A table: headings and rows as wide; the first `left` columns are words, the others figures."""

    heads: tuple[str, ...]
    rows: tuple[Line, ...]
    left: int = 1


class Lane(msgspec.Struct, frozen=True, tag=True):
    """Phases to scale in one line, from `start` to `end` in session seconds."""

    stretches: tuple[Stretch, ...]
    start: float
    end: float


Item = Union[Fact, Bar, Grid, Lane]  # noqa: UP007 (msgspec reads it at run time on 3.10)


class Section(msgspec.Struct, frozen=True):
    """A titled block. `status` stands beside the title; `wide`: its lines are long, no column is wide enough."""

    title: str
    items: tuple[Item, ...]
    status: Span = ("", "dim")
    wide: bool = False


class Dossier(msgspec.Struct, frozen=True):
    """One quant: its name, its sign and outcome with their role, the model, and all that is known in sections."""

    arm: str
    sign: str
    outcome: str
    role: str
    model: str
    sections: tuple[Section, ...]


class Subject(msgspec.Struct, frozen=True):
    """Whom the dossier is about. `attempt` is the one whose decode figures count, else the latest, else None."""

    state: State
    summary: Summary
    arm: Arm
    mine: ArmSummary
    attempt: Attempt | None
    bounds: Bounds | None


def fact(label: str, *words: str | Span) -> Fact:
    """Plain words are text."""
    return Fact(label, tuple((one, "text") if isinstance(one, str) else one for one in words if one))


def says(words: str, role: str = "dim") -> Fact:
    return Fact("", ((words, role),))


def absent(at: Subject, phase: str) -> str:
    """Why there is no figure of a phase."""
    settings, mine = at.state.settings, at.mine
    speed = "speed" in settings.tasks and settings.repetitions > 0
    wanted = {
        "prompt": speed and settings.prompt > 0,
        "decode": speed and settings.decode > 0,
        "perplexity": bool({"ppl", "kld"} & set(settings.tasks)) and settings.chunks != 0,
    }
    if phase == "perplexity" and mine.ghost:
        return "never: a ghost, its weights are random"
    if not wanted.get(phase, True):
        return "not measured: the plan has none"
    if mine.outcome == "planned":
        return "not yet: it has not begun"
    return "not yet" if mine.outcome == "running" else f"none: {mine.outcome}"


def plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def test_name(at: Subject, kind: str, depth: int) -> str:
    """A test's name: its depth stands there where there are others."""
    return f"{short(kind)}{f' @{depth}' if depth or len(at.state.settings.depths) > 1 else ''}"
