"""What a screen shows, as frozen data: no widget, no size, no character set. A snapshot's JSON is a View.

A span is (text, role): the role is a key of the theme's palette. All text in here is clean: safe to print.
"""

from __future__ import annotations

import msgspec

from quanttui.decide.compare import Scatter
from quanttui.tui.trace import Trace

Span = tuple[str, str]
Line = tuple[Span, ...]


class Own(msgspec.Struct, frozen=True):
    """What the screen itself costs: CPU as a share of one core, memory in bytes, bytes a second to the terminal.

    `age` is how many seconds ago something new was read, `log` words on the log and its writer, `notice` a passing
    message, `level` its role.
    """

    cpu: float | None = None
    rss: float | None = None
    bytes_s: float | None = None
    age: float | None = None
    pace: str = ""
    log: str = ""
    notice: str = ""
    level: str = "info"


class Observed(msgspec.Struct, frozen=True):
    """What watching was found to cost on this machine: shares of the decode speed, with the live screen and without
    any, against nobody looking; medians over so many pairs."""

    live: float
    headless: float
    pairs: int


class Mark(msgspec.Struct, frozen=True):
    """One quant in the strip of quants: its sign, its name, their role."""

    id: str
    sign: str
    name: str
    role: str


class Stretch(msgspec.Struct, frozen=True):
    """A phase in the lane: session seconds; `end` of a running one is now."""

    arm: str
    phase: str
    start: float
    end: float
    running: bool


class Step(msgspec.Struct, frozen=True):
    """A phase of the quant under way: how far it is, 0 to 1, None if it will not be run again or is not known."""

    phase: str
    fraction: float


class Metric(msgspec.Struct, frozen=True):
    """One metric in one line: a value with its unit, a note with its role. `why` says why there is no value."""

    name: str
    value: str
    role: str
    note: str = ""
    level: str = "dim"
    why: str = ""
    trace: Trace | None = None


class Share(msgspec.Struct, frozen=True):
    """A part of a bar: its share of the whole, the sign that fills it, its role."""

    share: float
    sign: str
    role: str


class Panel(msgspec.Struct, frozen=True):
    """One metric at length: lines with a left and a right part, a bar, a chart with a caption.

    `why` stands where the chart would, when there is nothing to draw.
    """

    title: str
    status: str = ""
    level: str = "dim"
    role: str = "text"
    lines: tuple[tuple[Line, Line], ...] = ()
    bar: tuple[Share, ...] = ()
    trace: Trace | None = None
    caption: tuple[str, str] = ("", "")
    why: str = ""


class Row(msgspec.Struct, frozen=True):
    """One quant in the table: its cells by column, with their roles."""

    id: str
    cells: dict[str, Span]


class Entry(msgspec.Struct, frozen=True):
    """A line of the events panel, at session time `t`."""

    t: float
    glyph: str
    role: str
    text: str


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The whole screen. `t` is session time; `headings` are the table's by column, in order; `quiet` asks for as
    little painting as can be; `observer` is None where it was not measured. Where the cursor stands before the tail,
    `cursor` is where, and `end` the tail's clock time. `keymap`: the user's own keys by action."""

    t: float
    mode: str
    mode_role: str
    model: str
    where: str
    done: int
    total: int
    clock: str
    left: str
    phase: str
    fraction: float
    phase_left: str
    marks: tuple[Mark, ...]
    lane: tuple[Stretch, ...]
    lane_end: float
    steps: tuple[Step, ...]
    metrics: dict[str, Metric]
    panels: dict[str, Panel]
    rows: tuple[Row, ...]
    headings: dict[str, str]
    selected: str
    verdict: tuple[Line, ...]
    events: tuple[Entry, ...]
    notes: tuple[str, ...]
    probes: str
    own: Own
    quiet: bool
    observer: Observed | None = None
    cursor: float | None = None
    end: str = ""
    order: str = ""
    keymap: dict[str, str] = {}
    scatter: Scatter = Scatter((), "")
