"""A quant held against the base: how much worse its perplexity is, with an interval that may be watched, and whether
that lies within the tolerance. Pure.

The difference is ln(PPL / PPL of the base) over the chunks that both have scored, the chunk as the unit: tokens of a
chunk are correlated, chunks far less. Its interval is a confidence sequence (stats.sequential).
"""

from __future__ import annotations

import msgspec

from quanttui.events import Settings
from quanttui.quants import UNQUANTIZED
from quanttui.state import Arm, State
from quanttui.stats import sequential
from quanttui.stats.sequential import Interval


class Call(msgspec.Struct, frozen=True):
    """What the interval says to the tolerance.

    call: within, worse, better, or "" while it is open; `chunks`: after how many that was clear, or how many there are.
    """

    call: str
    chunks: int


def quant(arm: Arm) -> str:
    """The quant that the arm's file says it is, or that was planned."""
    return arm.file.quant if arm.file else arm.plan.quant


def size(arm: Arm) -> int:
    """Bytes of the arm's file, or their estimate; 0 where neither is known."""
    return (arm.file.bytes if arm.file else arm.plan.bytes) or 0


def base_of(state: State) -> Arm | None:
    """The arm that the others are held against, of those that have chunks."""
    return choose(state.settings, [arm for arm in scored(state) if arm.chunks])


def planned_base(state: State) -> Arm | None:
    """The same, of all arms that have or may still get chunks."""
    able = [arm for arm in scored(state) if arm.chunks or arm.outcome in ("planned", "running")]
    return choose(state.settings, able)


def scored(state: State) -> list[Arm]:
    """The arms that have a quality: all but ghosts, whose weights are random."""
    return [arm for arm in state.arms.values() if not arm.plan.ghost]


def choose(settings: Settings, arms: list[Arm]) -> Arm | None:
    """The base among `arms`: the one that was asked for, else an unquantized one, else the largest; with the settings'
    own KV type before others."""
    asked = settings.base
    named = [arm for arm in arms if asked and (arm.id == asked or quant(arm) == asked)]
    whole = [arm for arm in arms if quant(arm) in UNQUANTIZED]
    own = settings.kv
    return max(named or whole or arms, key=lambda arm: (arm.plan.kv in ("", own), size(arm)), default=None)


def population(state: State, arm: Arm) -> int | None:
    """How many chunks there are where they are drawn at random: then the interval is of all of this text's mean.

    None where they come in the text's order: the interval is then of the mean of such texts.
    """
    return arm.chunks_planned if state.settings.until == "decided" else None


def difference(state: State, arm: Arm, base: Arm) -> Interval | None:
    """The confidence sequence (95 %) of ln(PPL / PPL of the base); None without a common chunk."""
    if arm.exact.base == base.id and arm.exact.chunks.n:
        return arm.exact.chunks.interval(population=population(state, arm))
    values = [
        (ours.nll - theirs.nll) / ours.scored
        for chunk, ours in arm.chunks.items()
        if (theirs := base.chunks.get(chunk)) is not None and theirs.scored == ours.scored
    ]
    return sequential.mean_sequence(values, population=population(state, arm)) if values else None


def divergence(state: State, arm: Arm) -> Interval | None:
    """The confidence sequence (95 %) of the mean KL divergence, in nats per token; None without one."""
    return arm.rows.chunks.interval(population=population(state, arm))


def call(state: State, arm: Arm, base: Arm) -> Call:
    """Whether the arm's perplexity lies within the tolerance around the base's, over all of this text.

    The base's own is within. Once all of the text is scored nothing is left to chance, in whatever order that was done.
    """
    if arm is base:
        return Call("within", len(arm.chunks))
    found = difference(state, arm, base)
    if found is None:
        return Call("", 0)
    if found.n == arm.chunks_planned:
        return Call(sequential.decide(found.mean, found.mean, state.settings.tolerance), found.n)
    return Call(sequential.decide(found.low, found.high, state.settings.tolerance), found.n)
