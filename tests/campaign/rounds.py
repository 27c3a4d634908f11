"""Does faults, some at a time, and gathers what becomes of them. Knows how often, and nothing of what a fault is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from .ground import Broken, Fault, Ground, Missed, Outcome, Unusable
from .table import Row

TRIES = 6
"""So often a fault is tried that comes too late, each time at another moment."""


def once(ground: Ground, fault: Fault, seed: int, number: int) -> Outcome:
    """A fault for the `number`-th time: the same moment for the same seed, whatever else is done beside it.

    Raises:
        Unusable: the host does not allow it.
    """
    chance = random.Random(f"{seed} {fault.name} {number}")
    for _ in range(TRIES):
        try:
            return fault.run(ground, chance)
        except Missed:
            continue
        except Broken as broken:
            return Outcome(said=str(broken))
    return Outcome(said=f"it came too late {TRIES} times")


def rows(
    ground: Ground,
    asked: Sequence[tuple[Fault, int]],
    seed: int,
    jobs: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Each fault so many times, `jobs` of them side by side."""

    def job(fault: Fault, number: int) -> Outcome | str:
        try:
            outcome = once(ground, fault, seed, number)
        except Unusable as error:
            return str(error)
        if outcome.amiss:
            say(f"{fault.name} #{number}: {outcome.said}")
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [(fault, [pool.submit(job, fault, number) for number in range(count)]) for fault, count in asked]
        found = []
        for fault, each in waiting:
            told = [one.result() for one in each]
            outcomes = [one for one in told if isinstance(one, Outcome)]
            why = next((one for one in told if isinstance(one, str)), "")
            found.append(Row(fault, outcomes, "" if outcomes else why))
            say(f"{fault.name}: {len(outcomes)} done, {sum(one.amiss for one in outcomes)} amiss{why and f': {why}'}")
        return found
