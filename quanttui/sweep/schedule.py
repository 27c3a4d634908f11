"""Which unit comes next. Pure: what is recorded in, one step out; it is asked anew after every step.

So a schedule is an ordering of units, an early decision is a rule that asks for no more of them, and resuming is
nothing of its own.

    sequential    one arm after the other: speed, perplexity, tasks; the anchor between them (diagnosis.drift)
    round-robin   a repetition of each arm in turn, all of them loaded, then perplexity arm by arm, then an item of the
                  tasks of each arm in turn, or the items that are asked at once
    abba          the same, there and back, so that a steady drift falls on all arms alike

Where not all arms fit into memory together, round-robin and abba take turns in two blocks of repetitions instead, and
answer all items arm by arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from quanttui import events as e
from quanttui.decide import paired
from quanttui.diagnosis import ceilings, drift
from quanttui.state import Arm, State
from quanttui.sweep import plan

FIRST_DRAWS, GROWTH = 16, 1.5
"""A deciding sweep scores this many chunks of the base, then each arm goes as far; when all that is open has come up
against the base, the base goes on to GROWTH times as many: few reloads, and little scored in vain."""


class Step(msgspec.Struct, frozen=True):
    """What to do next: `units` of one phase of an arm. With `phase` count: how many chunks its text makes; bandwidth:
    of the memory, once more; cool: wait for the machine to be what it was; skip: somebody asked for it; done:
    nothing is left of the arm."""

    arm: str
    phase: str
    attempt: int = 1
    units: tuple[e.Unit, ...] = ()
    why: str = ""


def following(
    state: State, counted: Mapping[str, int], together: bool = False, ahead: int = 1, tasks: plan.Tasks = ()
) -> Step | None:
    """The next step, None when nothing is left.

    Args:
        counted: how many chunks of the text are to be scored, by arm, where that was asked already.
        together: all arms are loaded at once.
        ahead: at most how many perplexity units go together.
        tasks: whose items every arm answers.
    """
    if state.skips:
        return Step(state.skips[0], "skip", _number(state.arms[state.skips[0]]))
    arms = [arm for arm in state.ordered if arm.outcome in ("planned", "running")]
    turns = state.settings.schedule != "sequential"
    step = _in_turns(state, arms, together) if turns else None
    step = step or _again(state, slow=True)
    if not any(arm.outcome == "running" for arm in arms):
        step = step or _asked(state)
    step = step or _first(state, arms, counted, ahead, tasks, turns and together)
    step = step or _again(state, slow=False) or _asked(state)
    return (None if turns else _anchor(state, step)) or step


def has_more(state: State, arm: Arm, phase: str, tasks: plan.Tasks = ()) -> bool:
    """Whether a timed phase of an arm's latest attempt misses a repetition, or an arm an item of its tasks."""
    if phase == "task":
        return plan.item(tasks, arm) is not None
    tests = [test for test in plan.tests(state.settings, arm.plan) if test[0] == phase]
    return any(plan.repetition(state.settings, arm, arm.attempt, test) for test in tests)


def _number(arm: Arm) -> int:
    return arm.attempt.number if arm.attempt else 1


def _speed(state: State, arm: Arm, number: int) -> Step | None:
    """The arm's next repetition."""
    attempt = next((one for one in arm.attempts if one.number == number), None)
    for test in plan.tests(state.settings, arm.plan):
        if unit := plan.repetition(state.settings, arm, attempt, test, number):
            return Step(arm.id, test[0], number, (unit,))
    return None


def _first(
    state: State, arms: list[Arm], counted: Mapping[str, int], ahead: int, tasks: plan.Tasks, in_turns: bool
) -> Step | None:
    """What the first arm has left that needs not wait for the base; where all wait, the base's next chunks. Items of
    tasks that are answered `in_turns` begin when no arm has anything else left."""
    waiting = False
    turns: list[tuple[int, tuple[e.Unit, ...]]] = []
    for arm in arms:
        number = _number(arm)
        if step := _speed(state, arm, number):
            return step
        if _is_unprobed(state, arm):
            return Step(arm.id, "bandwidth", number)
        if number == 1 and plan.wants_perplexity(state.settings, arm.plan):
            if (known := arm.chunks_planned or counted.get(arm.id)) is None:
                return Step(arm.id, "count")
            units = _chunks(state, arm, plan.groups(state.settings, known, arm.id))
            if units:
                return Step(arm.id, "perplexity", 1, tuple(units[:ahead]))
            if units is None:
                waiting = True
                continue
        if in_turns and (item := _item(arm, number, tasks)):
            turns.append(item)
        else:
            return _last(arm, number, tasks)
    if waiting:
        return _for_those_who_wait(state, arms, counted, tasks)
    return _item_in_turns(turns, state.settings.schedule == "abba")


def _last(arm: Arm, number: int, tasks: plan.Tasks) -> Step:
    """The next item that an arm has to answer once its other figures are there; then its end."""
    item = _item(arm, number, tasks)
    return Step(arm.id, "task", 1, item[1]) if item else Step(arm.id, "done", number)


def _item(arm: Arm, number: int, tasks: plan.Tasks) -> tuple[int, tuple[e.Unit, ...]] | None:
    """The next item that an arm has to answer, and its place among all. Nothing asks a ghost, and nobody twice."""
    return plan.item(tasks, arm) if number == 1 and not arm.plan.ghost else None


def _item_in_turns(turns: list[tuple[int, tuple[e.Unit, ...]]], back: bool) -> Step | None:
    """The earliest of the arms' next items: of the same item the first arm's, or `back` every other time the last's."""
    if not turns:
        return None
    first = min(place for place, _ in turns)
    asked = [units for place, units in turns if place == first]
    units = asked[-1 if back and first % 2 else 0]
    return Step(units[0].arm, "task", 1, units)


def _is_unprobed(state: State, arm: Arm) -> bool:
    """Whether the bandwidth is to be measured again right after the arm's decode: a neighbour may have come meanwhile.

    Where arms take turns there is no such moment, and where layers are on a device the host's memory says little.
    """
    attempt = arm.attempt
    if attempt is None or not attempt.decode or state.settings.schedule != "sequential":
        return False
    offloaded = attempt.loaded is not None and attempt.loaded.gpu_layers > 0
    return not offloaded and not any(one.when == "after" for one in attempt.ceilings)


def _chunks(state: State, arm: Arm, units: tuple[e.Unit, ...]) -> list[e.Unit] | None:
    """The perplexity units that the arm may score now, none where it is done, None while it waits for the base."""
    left, base = plan.missing(units, arm), paired.planned_base(state)
    if not left or state.settings.until != "decided" or base is None or len(paired.scored(state)) < 2:
        return left
    if arm is base:
        at = _drawn(units, arm)
        end = next(level for level in _levels(state.settings, units) if level >= max(1, at))
        others = [one for one in paired.scored(state) if one is not base and one.outcome in ("planned", "running")]
        if not any(_is_open(state, one, base) for one in others):
            return []
        return [unit for unit in left if unit.index < end] or None
    if not _is_open(state, arm, base):
        return []
    reach = _drawn(units, base)
    can = [unit for unit in left if unit.index + unit.count <= reach]
    return can or ([] if base.outcome not in ("planned", "running") else None)


def _is_open(state: State, arm: Arm, base: Arm) -> bool:
    return not paired.call(state, arm, base).call


def _for_those_who_wait(
    state: State, arms: list[Arm], counted: Mapping[str, int], tasks: plan.Tasks
) -> Step | None:
    """The base's next chunks; or an end, where it has no more of them."""
    base = paired.planned_base(state)
    if base is None or base not in arms:
        return _last(arms[0], 1, tasks)
    known = base.chunks_planned or counted.get(base.id, 0)
    left = plan.missing(plan.groups(state.settings, known, base.id), base)
    return Step(base.id, "perplexity", 1, tuple(left[:1])) if left else _last(base, 1, tasks)


def _drawn(units: tuple[e.Unit, ...], arm: Arm) -> int:
    """How many draws an arm has scored, without a gap."""
    at = 0
    for unit in units:
        if msgspec.structs.replace(unit, arm=arm.id).id not in arm.units:
            break
        at = unit.index + unit.count
    return at


def _levels(settings: e.Settings, units: tuple[e.Unit, ...]) -> list[int]:
    """Up to how many draws the base goes at a time: whole groups."""
    population, together = units[-1].index + units[-1].count, plan.group(settings)
    levels: list[int] = []
    level = float(FIRST_DRAWS)
    while not levels or levels[-1] < population:
        levels.append(min(population, -(-round(level) // together) * together))
        level *= GROWTH
    return levels


def _in_turns(state: State, arms: list[Arm], together: bool) -> Step | None:
    """The next repetition where the arms take turns."""
    first = [arm for arm in arms if _number(arm) == 1]
    back = state.settings.schedule == "abba"
    if not arms:
        return None
    count = len(plan.tests(state.settings, arms[0].plan))
    if together:
        for place in range(count):
            if step := _turn(state, first, slice(place, place + 1), 1, back):
                return step
        return None
    return _turn(state, first, slice(count), -(-state.settings.repetitions // 2), back)


def _turn(state: State, arms: list[Arm], which: slice, block: int, back: bool) -> Step | None:
    """The first missing repetition of the earliest turn, of `which` tests of each arm; a turn is `block` repetitions of
    each test, the last of two blocks all that remain."""
    found: tuple[tuple[int, int], Step] | None = None
    for place, arm in enumerate(arms):
        for test in plan.tests(state.settings, arm.plan)[which]:
            if unit := plan.repetition(state.settings, arm, arm.attempt, test):
                turn = unit.index if block == 1 else min(unit.index // block, 1)
                key = turn, -place if back and turn % 2 else place
                if found is None or key < found[0]:
                    found = key, Step(arm.id, test[0], 1, (unit,))
    return found[1] if found else None


def _again(state: State, slow: bool) -> Step | None:
    """Speed once more in a fresh process: of an arm that was far too slow at once, of those that were measured while
    the machine drifted at the end."""
    for arm in state.arms.values():
        if arm.outcome != "ok" or _number(arm) > 1 or arm.attempt is None or not arm.attempt.decode:
            continue
        if slow and ceilings.is_slow(state, arm):
            return _speed(state, arm, 2)
        if not slow and drift.of(state, arm) is not None:
            return _cooled(state, arm) or _speed(state, arm, 2)
    return None


def _asked(state: State) -> Step | None:
    """Speed once more of an arm for which somebody asked: never amid another one."""
    for name, number in state.rerun.items():
        arm = state.arms.get(name)
        if arm is not None and arm.outcome not in ("planned", "running") and _number(arm) < number:
            return _speed(state, arm, number)
    return None


def _cooled(state: State, arm: Arm) -> Step | None:
    """A wait, as long as the anchor is off its usual speed and the cap is not reached."""
    rounds = drift.rounds(state)
    off = rounds[-1].tok_s / drift.usual(rounds) - 1
    cools = [span for span in state.spans if span.phase == "cool" and span.end and span.start >= rounds[-1].end]
    since = [span for span in state.spans if span.phase == "cool" and span.start >= _decoded(arm)]
    if cools or len(since) >= drift.LONGEST_COOL or abs(math.log1p(off)) <= math.log1p(state.settings.drift):
        return None
    why = f"the anchor's decode is {100 * off:+.1f} % off its usual speed"
    return Step(arm.id, "cool", _number(arm), why=why)


def _decoded(arm: Arm) -> float:
    """When the arm's decode ended, in session time."""
    done = arm.attempt.decode if arm.attempt else []
    return done[-1].at + done[-1].ns / 1e9 if done else 0.0


def _anchor(state: State, step: Step | None) -> Step | None:
    """A repetition of the anchor, where one is due before `step`: a round before the first arm, after every few, and
    after the last."""
    anchor, rounds = drift.anchor(state), drift.rounds(state)
    if anchor is None or (anchor.attempt is not None and anchor.attempt.failed is not None):
        return None
    if rounds and not rounds[-1].whole:
        return _repetition(state, anchor, rounds[-1].number)
    since = rounds[-1].end if rounds else 0.0
    measured = [arm for arm in state.arms.values() if _decoded(arm) > since and not has_more(state, arm, "decode")]
    if step is None:
        cooled = any(span.phase == "cool" and span.start >= since for span in state.spans)
        due = bool(rounds) and bool(measured or cooled)
    else:
        fresh = step.phase in ("prompt", "decode") and not _begun(state, step)
        due = fresh and (not rounds or len(measured) >= state.settings.anchor)
        cooled = any(span.phase == "cool" and span.start >= since and span.end for span in state.spans)
        due = due or (fresh and bool(rounds) and cooled)
    return _repetition(state, anchor, rounds[-1].number + 1 if rounds else 1) if due else None


def _begun(state: State, step: Step) -> bool:
    """Whether anything of the step's attempt is timed already."""
    attempt = next((one for one in state.arms[step.arm].attempts if one.number == step.attempt), None)
    return attempt is not None and bool(attempt.prompt or attempt.decode or attempt.deeper)


def _repetition(state: State, anchor: Arm, number: int) -> Step:
    settings = state.settings
    index = sum(one.unit.attempt == number for one in anchor.anchor)
    while True:
        unit = e.Unit(
            arm=anchor.id, kind="anchor", index=index, tokens=settings.decode, depth=settings.depths[0], attempt=number
        )
        if unit.id not in anchor.units:
            return Step(anchor.id, "anchor", _number(anchor), (unit,))
        index += 1
