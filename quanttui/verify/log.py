"""What a session's log says, read without the fold: which events there are, and what of them the report's figures rest
on. Knows no formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from quanttui import events as e
from quanttui.errors import UserError
from quanttui.session import EVENTS
from quanttui.state import energy_counter, tolerance, total

NOT_OF_AN_ARM = ("bandwidth", "idle", "paused")
"""Phases in which the memory is not the model's."""

BEGUN = ("load", "warm", "prompt", "decode", "perplexity")
"""Phases in which an arm has an attempt under way."""


class Timed(NamedTuple):
    """A timed repetition: its tokens, and the nanoseconds that it took by its own words and by its tokens' (None where
    they were not told one by one)."""

    unit: e.Unit
    tokens: int
    ns: int
    by_token: int | None

    @property
    def tok_s(self) -> float:
        return self.tokens * 1e9 / (self.by_token or self.ns)


@dataclass
class Log:
    """All of it. By arm: its plan, its file, its chunks, answers and timed repetitions, `attempts` in the order in
    which they began, those that `failed`, and the most memory (`peaks`: rss, anonymous, device) by phase. `energy` is
    [joules, seconds] by arm, attempt and kind of unit, `idle` the same of the resting machine.

    `count` events up to number `last`, `unknown` of them a newer quanttui's: `gaps` are the numbers after which some
    are missing. `damaged` lines, from 1 on, are no events; `torn` bytes at the end are no whole line. `tolerances` are
    all that were asked for.
    """

    writer: e.SessionOpened | e.SessionResumed | None = None
    model: str = ""
    plans: dict[str, e.PlannedArm] = field(default_factory=dict)
    files: dict[str, e.ArmStarted] = field(default_factory=dict)
    chunks: dict[str, dict[int, e.Perplexity]] = field(default_factory=dict)
    items: dict[str, dict[str, e.Item]] = field(default_factory=dict)
    timed: dict[str, list[Timed]] = field(default_factory=dict)
    attempts: dict[str, list[int]] = field(default_factory=dict)
    failed: set[tuple[str, int]] = field(default_factory=set)
    peaks: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    energy: dict[tuple[str, int, str], list[float]] = field(default_factory=dict)
    idle: list[float] | None = None
    tolerances: set[float] = field(default_factory=set)
    count: int = 0
    unknown: int = 0
    last: int = -1
    gaps: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    torn: int = 0

    @property
    def settings(self) -> e.Settings:
        """The latest writer's."""
        return self.writer.settings if self.writer else e.Settings()

    def latest(self, arm: str, kind: str, depth: int) -> int | None:
        """The attempt whose figures count: the last with such repetitions, one that failed only where all did."""
        having = {one.unit.attempt for one in self.of_kind(arm, kind, depth)}
        timed = [one for one in self.attempts.get(arm, []) if one in having]
        sound = [one for one in timed if (arm, one) not in self.failed]
        return next(reversed(sound or timed), None)

    def of_kind(self, arm: str, kind: str, depth: int, attempt: int | None = None) -> list[Timed]:
        """An arm's repetitions of one kind at one depth, of one attempt unless that is None."""
        return [
            one
            for one in self.timed.get(arm, [])
            if (one.unit.kind, one.unit.depth) == (kind, depth) and attempt in (None, one.unit.attempt)
        ]


def read(folder: Path) -> Log:
    """A session's log.

    Raises:
        UserError: it cannot be read.
    """
    reading = _Reading()
    try:
        with open(folder / EVENTS, "rb") as file:
            for number, line in enumerate(file, 1):
                reading.line(number, line)
    except OSError as error:
        raise UserError(
            f"{folder}: is no session ({error.strerror}: {EVENTS}): `quanttui sessions` lists them"
        ) from None
    return reading.log


class _Reading:
    """A log while it is read, with what is under way in it: a phase since when, a unit, the last readings."""

    def __init__(self) -> None:
        self.log = Log()
        self._phase: tuple[str, str, float] | None = None
        self._unit: tuple[e.Unit, float] | None = None
        self._disturbed = False
        self._ns: list[int] = []
        self._readings: dict[str, float] = {}
        self._then: float | None = None

    def line(self, number: int, line: bytes) -> None:
        log = self.log
        if not line.endswith(b"\n"):
            log.torn = len(line)
            return
        if not line.strip():
            return
        try:
            event = e.decode(line)
        except ValueError:
            log.damaged.append(number)
            return
        log.count += 1
        if event.n != log.last + 1:
            log.gaps.append(log.last)
        log.last = event.n
        log.unknown += isinstance(event, e.Unknown)
        rule = _RULES.get(type(event))
        if rule is not None:
            rule(self, event)

    def writer(self, event: e.SessionOpened | e.SessionResumed) -> None:
        self.log.writer = event
        if isinstance(event, e.SessionOpened):
            self.log.model = event.model
        self.log.plans |= {plan.id: plan for plan in event.plan}
        self.log.tolerances.add(event.settings.tolerance)
        self._phase, self._unit, self._readings = None, None, {}

    def control(self, event: e.Control) -> None:
        share = tolerance(event.value) if event.request == "tolerance" and not event.refused else None
        if share is not None:
            self.log.tolerances.add(share)

    def started(self, event: e.ArmStarted) -> None:
        self.log.files[event.arm] = event
        self._attempt(event.arm, event.attempt)
        self.log.failed.discard((event.arm, event.attempt))

    def _attempt(self, arm: str, number: int) -> None:
        known = self.log.attempts.setdefault(arm, [])
        if number not in known:
            known.append(number)

    def phase(self, event: e.PhaseStarted) -> None:
        self._phase, self._unit = (event.arm, event.phase, event.t), None
        if event.phase in BEGUN:
            self._attempt(event.arm, event.attempt)

    def over(self, event: e.Event) -> None:
        self._phase, self._unit = None, None

    def arm_failed(self, event: e.ArmFailed) -> None:
        if self._phase is None or self._phase[0] == event.arm:
            self.over(event)
        self._attempt(event.arm, event.attempt)
        self.log.failed.add((event.arm, event.attempt))

    def unit_started(self, event: e.UnitStarted) -> None:
        self._unit, self._disturbed, self._ns = (event.unit, event.at), False, []

    def tokens(self, event: e.Tokens) -> None:
        if self._unit is not None and self._unit[0] == event.unit:
            self._ns += event.each

    def disturbed(self, event: e.UnitDisturbed) -> None:
        self._disturbed |= self._unit is not None and self._unit[0] == event.unit

    def unit_done(self, event: e.UnitDone) -> None:
        unit, own = event.unit, self._unit is not None and self._unit[0] == event.unit
        if unit.kind != "anchor":
            self._attempt(unit.arm, unit.attempt)
        if unit.kind in ("prompt", "decode") and not (own and self._disturbed) and event.tokens and event.ns:
            by_token = sum(self._ns) if own and len(self._ns) == event.tokens else None
            self.log.timed.setdefault(unit.arm, []).append(Timed(unit, event.tokens, event.ns, by_token))
        self._peak(unit.arm, unit.kind, event.counters.rss, event.counters.anonymous, None)
        self._unit = None

    def perplexity(self, event: e.Perplexity) -> None:
        if event.sound:
            self.log.chunks.setdefault(event.unit.arm, {})[event.chunk] = event

    def item(self, event: e.Item) -> None:
        self.log.items.setdefault(event.unit.arm, {})[f"{event.unit.task}/{event.unit.item}"] = event

    def sample(self, event: e.Sample) -> None:
        now, phase = event.readings, self._phase
        if phase is not None and phase[1] not in NOT_OF_AN_ARM and self.log.attempts.get(phase[0]):
            gpus = {name: value for name, value in now.items() if name.startswith("gpu")}
            held = now.get("engine.rss"), now.get("engine.anonymous"), total(gpus, "mem_used")
            self._peak(phase[0], phase[1], *held)
        self._energy(event)
        self._readings, self._then = now, event.t

    def _peak(self, arm: str, phase: str, *held: float | None) -> None:
        most = self.log.peaks.setdefault(arm, {}).setdefault(phase, [None, None, None])
        for place, value in enumerate(held):
            before = most[place]
            if value is not None and (before is None or value > before):
                most[place] = value

    def _energy(self, event: e.Sample) -> None:
        """Joules between two samples within one unit, or while nothing computes."""
        before, now = energy_counter(self._readings), energy_counter(event.readings)
        if self._then is None or before is None or now is None or before[0] != now[0] or now[1] < before[1]:
            return
        spent = now[1] - before[1], event.t - self._then
        if self._unit is None:
            if self._phase is not None and self._phase[1] == "idle" and self._then >= self._phase[2]:
                self.log.idle = _added(self.log.idle, spent)
        elif self._then >= self._unit[1] and (numbers := self.log.attempts.get(self._unit[0].arm)):
            key = self._unit[0].arm, numbers[-1], self._unit[0].kind
            self.log.energy[key] = _added(self.log.energy.get(key), spent)


def _added(before: list[float] | None, spent: tuple[float, float]) -> list[float]:
    joules, seconds = before or (0.0, 0.0)
    return [joules + spent[0], seconds + spent[1]]


_RULES: dict[type, Callable[[_Reading, Any], None]] = {
    e.SessionOpened: _Reading.writer,
    e.SessionResumed: _Reading.writer,
    e.Control: _Reading.control,
    e.ArmStarted: _Reading.started,
    e.ArmDone: _Reading.over,
    e.ArmFailed: _Reading.arm_failed,
    e.PhaseStarted: _Reading.phase,
    e.PhaseDone: _Reading.over,
    e.PhaseFailed: _Reading.over,
    e.SessionClosed: _Reading.over,
    e.UnitStarted: _Reading.unit_started,
    e.Tokens: _Reading.tokens,
    e.UnitDisturbed: _Reading.disturbed,
    e.UnitDone: _Reading.unit_done,
    e.Perplexity: _Reading.perplexity,
    e.Item: _Reading.item,
    e.Sample: _Reading.sample,
}
"""What of the log the figures rest on; other events change none of them."""
