"""Whether the machine changed while the sweep went on: the anchor arm, measured again and again. Pure.

A round is a few repetitions of the anchor's decode in a fresh process. What is measured between two rounds that differ,
or that are off the usual, is drifting: its figures are not comparable with the others'. How far the rounds lie apart at
all, the same arm against itself, is the session's own noise: the A/A floor, below which no difference between two arms
is one.
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec

from quanttui.state import Arm, Repetition, State
from quanttui.stats.intervals import median

ROUND_REPETITIONS, ROUND_SECONDS, MOST_IN_ROUND = 3, 1.0, 50
"""A round has this many repetitions and this much timed decoding at least, and no more repetitions than that: 128
tokens of a tiny model last 0.05 s, in which the clock of a core does not even settle."""

LONGEST_COOL = 3
"""How often in a row a cool-down is tried before the sweep goes on all the same."""

COOL_SECONDS = 10.0
"""How long one lasts: cores that ran hot for minutes had their clock back within it."""


class Round(msgspec.Struct, frozen=True):
    """One round of the anchor: session time of its start and end, median decode tok/s."""

    number: int
    start: float
    end: float
    tok_s: float
    whole: bool


def anchor(state: State) -> Arm | None:
    """The arm that is measured again: the smallest one that is no failure; None where none is to be."""
    settings = state.settings
    timed = "speed" in settings.tasks and settings.repetitions > 0 and settings.decode > 0
    if settings.anchor <= 0 or not timed or settings.schedule != "sequential" or len(state.arms) < 2:
        return None
    measured = [arm for arm in state.arms.values() if arm.anchor]
    able = [arm for arm in state.arms.values() if arm.outcome in ("planned", "running", "ok") and arm.plan.bytes]
    return max(measured, key=lambda arm: len(arm.anchor)) if measured else min(
        able, key=lambda arm: arm.plan.bytes or 0, default=None
    )


def rounds(state: State) -> list[Round]:
    """The anchor's rounds so far, in their order."""
    arm = anchor(state)
    by_number: dict[int, list[Repetition]] = {}
    for one in arm.anchor if arm else ():
        by_number.setdefault(one.unit.attempt, []).append(one)
    return [_round(number, done) for number, done in sorted(by_number.items())]


def _round(number: int, done: list[Repetition]) -> Round:
    seconds = sum(one.ns for one in done) / 1e9
    enough = len(done) >= ROUND_REPETITIONS and seconds >= ROUND_SECONDS
    return Round(
        number=number,
        start=done[0].at,
        end=done[-1].at + done[-1].ns / 1e9,
        tok_s=median([one.tok_s for one in done]),
        whole=enough or len(done) >= MOST_IN_ROUND,
    )


def change(a: Round, b: Round) -> float:
    """By how much the anchor's decode tok/s changed from one round to another: 0.05 for 5 % up."""
    return b.tok_s / a.tok_s - 1


def drifted(state: State, a: Round, b: Round) -> bool:
    """Whether that is more than the settings' share, up or down by the same factor."""
    return abs(math.log(b.tok_s / a.tok_s)) > math.log1p(state.settings.drift)


def floor(state: State) -> float | None:
    """The A/A floor, as a share: the largest change of the anchor between neighbouring rounds; None below two."""
    known = rounds(state)
    logs = [abs(math.log(b.tok_s / a.tok_s)) for a, b in pairwise(known)]
    return math.expm1(max(logs)) if logs else None


def usual(known: list[Round]) -> float:
    """The anchor's usual decode tok/s: the median of its rounds."""
    return median([one.tok_s for one in known])


def bracket(state: State, arm: Arm) -> tuple[Round, Round] | None:
    """The rounds before and after the arm's latest decode; None where one is missing."""
    known = rounds(state)
    decoding = next((one.decoding for one in reversed(arm.attempts) if one.decoding), None) if known else None
    if decoding is None:
        return None
    start, end = decoding
    before = [one for one in known if one.end <= start]
    after = [one for one in known if one.start >= end]
    return (before[-1], after[0]) if before and after else None


def of(state: State, arm: Arm) -> float | None:
    """By how much the anchor changed while the arm decoded, or was off its usual speed; None where that is no drift."""
    around = bracket(state, arm)
    if around is None:
        return None
    before, after = around
    if drifted(state, before, after):
        return change(before, after)
    most, middle = math.log1p(state.settings.drift), usual(rounds(state))
    worst = max(around, key=lambda one: abs(math.log(one.tok_s / middle)))
    return worst.tok_s / middle - 1 if abs(math.log(worst.tok_s / middle)) > most else None
