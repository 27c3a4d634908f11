"""What an audit says, as data: rows with their arithmetic and findings, comparisons, a ranking. Decides nothing."""

from __future__ import annotations

import msgspec

from quanttui.audit.table import Figure, Row
from quanttui.diagnosis.case import GLYPHS


class Weights(msgspec.Struct, frozen=True):
    """What a row's file takes, in GB.

    `real`: the quant's real bits x the known shape, about. `gb` is what is reckoned with, and `how` it came about:
    published, or computed. `active`: what a token reads of it. `why` one is absent.
    """

    real: float | None = None
    gb: float | None = None
    how: str = ""
    active: float | None = None
    why: str = ""


class Bus(msgspec.Struct, frozen=True):
    """What a speed moves, in GB/s.

    `gb_s` by active bytes, `whole` as if a token read the whole file (absent where experts rest). `ceiling`: the most
    that a token can be read at, one device's bandwidth where layers are split over `devices`; `total`: all devices'.
    """

    gb_s: float | None
    whole: float | None
    ceiling: float | None
    total: float | None
    devices: int = 1

    @property
    def share(self) -> float | None:
        """Of the ceiling, by active bytes."""
        return self.gb_s / self.ceiling if self.gb_s is not None and self.ceiling else None

    @property
    def whole_share(self) -> float | None:
        """Of the ceiling, by the whole file."""
        return self.whole / self.ceiling if self.whole is not None and self.ceiling else None


class Implied(msgspec.Struct, frozen=True):
    """The speed that a figure per watt comes to with the watts that the claim names."""

    watts: float
    tok_s: Figure
    bus: Bus


class Expected(msgspec.Struct, frozen=True):
    """Tokens per second at the shares of the bus that the source's rows at the wall reached on the same device: at the
    middle one, the least and the most."""

    tok_s: float
    low: float
    high: float
    quants: tuple[str, ...]


class Finding(msgspec.Struct, frozen=True):
    """What is to be said of a row.

    `code` is a verdict's where one fits. `kind`: contaminated (a figure is not what it claims to be), caution,
    explained, or "" where there is nothing to judge. `evidence` has readable keys that name the unit.
    """

    code: str
    kind: str
    words: str
    sentence: str
    evidence: dict[str, float | str] = {}

    @property
    def glyph(self) -> str:
        """The kind as [!!], [!], [=] or nothing."""
        return GLYPHS.get(self.kind, "")


class Judged(msgspec.Struct, frozen=True):
    """A row with what follows from it: what contaminates it first, then what is said of its speed."""

    row: Row
    weights: Weights
    bus: Bus | None = None
    implied: Implied | None = None
    expected: Expected | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def kind(self) -> str:
        """The gravest kind of its findings."""
        kinds = {one.kind for one in self.findings}
        return next((kind for kind in GLYPHS if kind in kinds), "")

    @property
    def tainted(self) -> bool:
        """Whether some figure of it is not what it claims to be: it wins no ranking."""
        return self.kind == "contaminated"


class Group(msgspec.Struct, frozen=True):
    """The rows of one source on one device. `sentence` sums up their speeds, "" where there are not two."""

    source: str
    device: str
    rows: tuple[Judged, ...]
    sentence: str = ""


class Entry(msgspec.Struct, frozen=True):
    """A perplexity in a comparison; `increase` in percent over its own source's base, whose own text is "base"."""

    source: str
    model: str
    line: int
    ppl: Figure
    increase: Figure | None = None


class Comparison(msgspec.Struct, frozen=True):
    """One quant of one shape as several sources have it, by perplexity.

    `models`: all of that shape that are compared, in this quant or another. `kind` as in Finding.
    """

    models: tuple[str, ...]
    quant: str
    kind: str
    sentence: str
    entries: tuple[Entry, ...]

    @property
    def glyph(self) -> str:
        """The kind as [!] or [=]."""
        return GLYPHS.get(self.kind, "")


class Ranked(msgspec.Struct, frozen=True):
    """A published efficiency. It counts unless its row is tainted, and then `why`."""

    line: int
    source: str
    device: str
    model: str
    quant: str
    tok_s_per_w: Figure
    counts: bool
    why: str = ""


class Audit(msgspec.Struct, frozen=True):
    """All that a table says. `ranking`: tok/s per watt, those that count first, best first."""

    table: str
    groups: tuple[Group, ...]
    comparisons: tuple[Comparison, ...]
    ranking: tuple[Ranked, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[Judged, ...]:
        """All rows, group by group."""
        return tuple(one for group in self.groups for one in group.rows)
