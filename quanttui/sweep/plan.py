"""Which units an arm consists of. Pure: settings and what is recorded in, units out.

A unit is never repeated once it is recorded: resuming is nothing but asking for the units that are missing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import count

import msgspec

from quanttui import events as e
from quanttui.decide import paired
from quanttui.diagnosis import thresholds
from quanttui.state import Arm, Attempt
from quanttui.stats.sequential import mean_sequence

MOST_REPETITIONS = 500
"""Decode ends here even below the seconds that a verdict needs."""

TUNED_FOR = 8
"""The number of repetitions at which the interval of tok/s is at its best: ± 1 % takes some 12 at a spread of 0.5 %."""


Test = tuple[str, int, int]
"""A speed test: kind (prompt, decode), tokens, depth."""

Tasks = tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
"""Tasks by name, with the names of their items, those side by side that are asked at once."""


def with_kv(planned: Sequence[e.PlannedArm], types: Sequence[str]) -> tuple[e.PlannedArm, ...]:
    """The arms with each of these types of the KV cache: those after the first are arms of their own."""
    others = [
        msgspec.structs.replace(arm, id=f"{arm.id}-kv-{kv}", kv=kv) for kv in types[1:] for arm in planned
    ]
    return (*planned, *others)


def base_first(settings: e.Settings, planned: Sequence[e.PlannedArm]) -> tuple[str, ...]:
    """The arms' ids in the plan's order, the base before all others: these are compared with it as they come."""
    base = paired.choose(settings, [Arm(plan=arm) for arm in planned if not arm.ghost])
    names = [arm.id for arm in planned]
    if base is None or not wants_perplexity(settings):
        return tuple(names)
    return (base.id, *(name for name in names if name != base.id))


def shuffled(settings: e.Settings, planned: Sequence[e.PlannedArm]) -> tuple[str, ...]:
    """The same in a random order by the settings' seed, so that what changes while a sweep goes on (a machine that gets
    hot) is not taken for what changes from large quants to small ones."""
    first, *rest = base_first(settings, planned)
    return (first, *(rest[at] for at in draws(len(rest), settings.seed)))


def tests(settings: e.Settings, arm: e.PlannedArm | None = None) -> list[Test]:
    """The speed tests that the settings ask for: kind, tokens, depth, in llama-bench's order at each depth.

    They are as many for every arm: one may have tokens of its own in them, but no tests of its own.
    """
    if "speed" not in settings.tasks or settings.repetitions == 0:
        return []
    own = {"prompt": arm.prompt, "decode": arm.decode} if arm is not None else {}
    asked = (("prompt", settings.prompt), ("decode", settings.decode))
    return [(kind, own.get(kind) or tokens, depth) for depth in settings.depths for kind, tokens in asked if tokens > 0]


def repetition(
    settings: e.Settings, arm: Arm, attempt: Attempt | None, test: Test, number: int = 1
) -> e.Unit | None:
    """The next repetition of a test that is missing; None when there are enough.

    Enough are the settings' number, and of a decode that asks for what a verdict needs to clear it (llama-bench's five
    repetitions), also as many seconds as that needs and an interval within the precision, as long as that takes no more
    than the settings' seconds. Those that were disturbed do not count, and are done again at most as often as there are
    to be repetitions.
    """
    kind, tokens, depth = test
    number = attempt.number if attempt else number
    first = e.Unit(arm=arm.id, kind=kind, index=0, tokens=tokens, depth=depth, attempt=number)
    each = (msgspec.structs.replace(first, index=index) for index in count())
    unit = next(unit for unit in each if unit.id not in arm.units)
    done = attempt.at_depth(kind, depth) if attempt else []
    if len(done) < settings.repetitions:
        return unit if unit.index < 2 * settings.repetitions else None
    needed = thresholds.of(settings)
    if kind != "decode" or settings.repetitions < needed.repetitions or unit.index >= MOST_REPETITIONS:
        return None
    seconds = sum(one.ns for one in done) / 1e9
    if seconds < needed.seconds:
        return unit
    precise = settings.precision <= 0 or is_precise([one.tok_s for one in done], settings.precision)
    return None if precise or seconds >= settings.speed_seconds else unit


def is_precise(rates: list[float], precision: float) -> bool:
    """Whether the confidence sequence of the mean rate lies within ± `precision` (a share) of it."""
    found = mean_sequence(rates, tuned_for=TUNED_FOR)
    return found.radius is not None and found.radius <= precision * found.mean


def wants_perplexity(settings: e.Settings, arm: e.PlannedArm | None = None) -> bool:
    """Whether the settings ask for perplexity units; of an arm: a ghost has none."""
    if arm is not None and arm.ghost:
        return False
    return bool({"ppl", "kld"} & set(settings.tasks)) and settings.chunks != 0


@lru_cache(maxsize=64)
def items(tasks: Tasks, arm: str) -> tuple[tuple[e.Unit, ...], ...]:
    """Task units: one for each item, in their order, the same for every arm; side by side those asked at once."""
    groups: list[tuple[e.Unit, ...]] = []
    for task, asked in tasks:
        at = count()
        groups += (
            tuple(e.Unit(arm=arm, kind="task", index=next(at), task=task, item=item) for item in names)
            for names in asked
        )
    return tuple(groups)


@lru_cache(maxsize=64)
def _names(tasks: Tasks, arm: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(unit.id for unit in units) for units in items(tasks, arm))


def item(tasks: Tasks, arm: Arm) -> tuple[int, tuple[e.Unit, ...]] | None:
    """The first items asked at once of which an arm has not answered all, and their place among those of all tasks.

    They are asked whole, the answered ones too: what is weighed together is the same to the bit only together.
    """
    found = next((at for at, names in enumerate(_names(tasks, arm.id)) if not names <= arm.units.keys()), None)
    return None if found is None else (found, items(tasks, arm.id)[found])


def group(settings: e.Settings) -> int:
    """How many chunks llama-perplexity decodes together: n_batch / n_ctx."""
    return max(1, settings.batch // settings.context)


@lru_cache(maxsize=8)
def draws(chunks: int, seed: int) -> tuple[int, ...]:
    """All chunks of a text in the random order in which every arm draws them.

    By random(), whose numbers for a seed Python promises to keep.
    """
    source = random.Random(seed)
    keys = [source.random() for _ in range(chunks)]
    return tuple(sorted(range(chunks), key=keys.__getitem__))


@lru_cache(maxsize=64)
def groups(settings: e.Settings, chunks: int, arm: str) -> tuple[e.Unit, ...]:
    """Perplexity units: the chunks that llama-perplexity decodes together, in the text's order or as they are drawn."""
    drawn = draws(chunks, settings.seed) if settings.until == "decided" else ()
    together = group(settings)
    return tuple(
        e.Unit(
            arm=arm,
            kind="perplexity",
            index=first,
            count=min(together, chunks - first),
            chunks=drawn[first : first + together],
        )
        for first in range(0, chunks, together)
    )


def missing(units: tuple[e.Unit, ...], arm: Arm) -> list[e.Unit]:
    """Those of `units` that are not recorded yet."""
    return [unit for unit in units if unit.id not in arm.units]
