"""What was worth a line, and when: notes, verdicts, the beginnings of what contaminated a figure. Pure.

Derived from the fold on every read, like all that is shown. The events panel lists flags, and the time cursor goes from
one doubtful one to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from quanttui.diagnosis import taint, thresholds, verdicts, windows
from quanttui.diagnosis.case import Verdict
from quanttui.diagnosis.taint import Interval
from quanttui.format import clean
from quanttui.state import Arm, State
from quanttui.summary import ArmSummary, Summary

SIGNS = {"info": "[i]", "ok": "[ok]", "warn": "[!]", "bad": "[x]"}
"""A note's level as its glyph."""

LEVELS = {"contaminated": "bad", "caution": "warn", "explained": "info"}
"""A verdict's kind as a level."""

BRIEF = {"decode": "gen", "perplexity": "ppl", "bandwidth": "bus", "quantize": "make"}
"""Phases whose name is said shorter."""


class Flag(msgspec.Struct, frozen=True):
    """A line for people at session time `t`. `level`: info, ok, warn or bad; `text` is clean.

    Where it is the beginning of a contaminated stretch, `code` is the verdict's and `until` the stretch's end: the
    verdict itself stands somewhere between.
    """

    t: float
    level: str
    glyph: str
    text: str
    arm: str = ""
    code: str = ""
    until: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Whether somebody who looks for trouble wants to see it."""
        return self.level in ("warn", "bad")


def of(state: State, summary: Summary) -> tuple[Flag, ...]:
    """All flags, in the order of time."""
    found = [Flag(note.t, note.level, SIGNS.get(note.level, "[i]"), clean(note.text), note.arm) for note in state.notes]
    ends = _ends(state)
    for one in summary.arms:
        arm = state.arms.get(one.id)
        if arm is not None:
            found += _judged(state, arm, one, ends)
    return tuple(sorted(found, key=lambda one: one.t))


def doubtful(state: State, summary: Summary) -> tuple[Flag, ...]:
    """Where to look for trouble, in the order of time: of several at one moment the first."""
    found: dict[float, Flag] = {}
    for one in of(state, summary):
        if one.doubtful:
            found.setdefault(one.t, one)
    return tuple(found.values())


def _judged(state: State, arm: Arm, one: ArmSummary, ends: dict[tuple[str, str], float]) -> Iterator[Flag]:
    """An arm's verdicts: those that have a beginning there, the others where their phase ended or now stands."""
    begun = {interval.code: interval for interval in reversed(_stretches(state, arm, one.verdicts))}
    for verdict in one.verdicts:
        if verdict.kind != "contaminated" and one.outcome == "running":
            continue
        whose = " ".join(filter(None, (clean(one.id, 24), brief(verdict.phase))))
        text = f"{whose}: {clean(verdict.sentence)}"
        stretch = begun.get(verdict.code)
        level = LEVELS[verdict.kind]
        if stretch is not None:
            yield Flag(stretch.start, level, verdict.glyph, text, arm.id, verdict.code, stretch.end)
        else:
            yield Flag(ends.get((one.id, verdict.phase), state.t), level, verdict.glyph, text, arm.id)


def _stretches(state: State, arm: Arm, judged: Iterable[Verdict]) -> tuple[Interval, ...]:
    """What contaminated the decode that counts, in order; nothing is looked for where no verdict says so."""
    codes = {one.code for one in judged if one.kind == "contaminated" and one.phase == "decode"}
    attempt = windows.latest(arm, "decode") if codes else None
    held = windows.bounds(state, arm, attempt, "decode") if attempt is not None else None
    if attempt is None or held is None:
        return ()
    found = taint.of(state, arm, attempt, "decode", held, thresholds.of(state.settings))
    return tuple(one for one in found.intervals if one.code in codes)


def stands(state: State, flag: Flag) -> bool:
    """Whether the verdict of a flag is given at this state, of the unit under way or of its arm."""
    arm = state.arms.get(flag.arm)
    return arm is not None and any(
        one.kind == "contaminated" and one.code == flag.code for one in verdicts.of_arm(state, arm)
    )


def _ends(state: State) -> dict[tuple[str, str], float]:
    """When a phase of an arm last ended, or now where it has not; with the phase "" when the arm last did."""
    found: dict[tuple[str, str], float] = {}
    for span in state.spans:
        found[span.arm, span.phase] = found[span.arm, ""] = state.t if span.end is None else span.end
    return found


def brief(phase: str) -> str:
    """A phase's name in few letters; of one that a log from elsewhere has made up, what can be printed."""
    return BRIEF.get(phase) or clean(phase, 20)
