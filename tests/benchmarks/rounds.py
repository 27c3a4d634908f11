"""Rounds of two contestants until enough is known. Owns the order of measurements; knows no contestant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from . import figures
from .figures import Target
from .machine import OTHERS, Machine

FLOOR = 3
"""In every so-manieth round the tool is held against itself as well."""

Contestant = Callable[[], float]
"""One measurement: a rate, or seconds."""


@dataclass
class Result:
    """A row's outcome. `values` are the rounds' ratios of ours to the tool, `floor` those of the tool to itself."""

    row: str
    target: Target
    values: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    verdict: str = figures.OPEN
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """When a row ends: the width of the interval that is wanted, and the rounds after which none is added.

    `again` is how many disturbed rounds are done again at most; the disturbed ones after them count.
    """

    width: float = 0.01
    cap: int = 200
    again: int = 200


def compare(
    result: Result, ours: Contestant, tool: Contestant, limits: Limits, machine: Machine, say: Callable[[str], None]
) -> Result:
    """Measure in rounds, and judge.

    A round is ours, tool or the other way round, in turn, so that what drifts steadily cancels. In every FLOOR-th the
    tool is measured once more: the ratio that the floor is made of spans the same time as the one that it is held
    against.
    """
    turn = count()

    def once(backwards: bool) -> tuple[float, float, float | None]:
        runs = [ours, tool, tool][: 2 if next(turn) % FLOOR else 3]
        rates = [run() for run in (reversed(runs) if backwards else runs)]
        mine, first, *again = reversed(rates) if backwards else rates
        say(f"{result.row}: {mine:.5g} / {first:.5g}")
        return mine, first, again[0] if again else None

    return repeat(result, once, limits, machine, say)


def repeat(
    result: Result,
    once: Callable[[bool], tuple[float, float, float | None]],
    limits: Limits,
    machine: Machine,
    say: Callable[[str], None],
) -> Result:
    """Round after round until enough is known, and judge. A disturbed one is done again.

    Args:
        once: a round, backwards or not: ours, the tool's, and the tool's once more where it was measured again, as
            rates that compare.
    """
    disturbed = counted = 0
    while True:
        machine.wait()
        mine, first, second = once((len(result.values) + disturbed) % 2 == 1)
        others = machine.others()
        if others > OTHERS and disturbed < limits.again:
            disturbed += 1
            say(f"{result.row}: a round in which others used {others:.2f} cores counts for nothing")
            continue
        counted += others > OTHERS
        result.values.append(mine / first)
        if second is not None:
            result.floor.append(second / first)
        last = len(result.values) >= limits.cap
        result.verdict = result.target.verdict(result.values, limits.width, last)
        say(f"{result.row}: {len(result.values)}  {mine / first:.4f}")
        if result.verdict:
            break
    if disturbed:
        result.notes.append(f"{disturbed} disturbed rounds done again")
    if counted:
        result.notes.append(f"{counted} disturbed rounds counted")
    if machine.given_up:
        result.notes.append(f"{machine.given_up} rounds begun on a busy machine")
    return result
