"""Parts: what is known of each stretch of timed work, whole repetitions or pieces of them. Pure.

Owns where a part's counters come from: a repetition's own, which the engine reads at its edges, are the measure of it;
pieces of it, and the one under way, go by the samples' cumulative readings. Knows no threshold and no judgement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from quanttui.events import Settings, Unit
from quanttui.state import Arm, Attempt, Repetition, Running, Slice, State, growth

TOLD = 1.0
"""Seconds of tokens that an engine may hold back before it tells of them: samples run ahead of tokens by so much."""

COLD_FAULTS = 1
"""A first reading of the file takes at most so many major faults (measured: 0 or 1); eviction takes more."""

FULL = 0.75
"""From this share of a host's hardware threads in use on, its schedulers make threads wait for each other."""

LEAST_REST = 0.05
"""Seconds of a repetition outside of its slices below which nothing can be told of them."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One repetition, what is known of the one under way, or a stretch of either: `at` is when the unit began, and the
    part itself goes from `start` on for `seconds`. Tokens and passes of a stretch need not be whole."""

    at: float
    start: float
    tokens: float
    passes: float
    seconds: float
    tok_s: float | None
    read: float | None
    majflt: float | None
    swap_in: float | None
    zswap_in: float | None
    cpu: float | None
    cpu_seconds: float
    others: float | None = None
    stolen: float = 0.0
    swap_out: float = 0.0


def under_way(state: State, arm: Arm, kind: str, depth: int | None = None) -> Attempt | None:
    """The attempt that is in the middle of a unit of this kind, None where there is none.

    Args:
        depth: of prompt and decode; the first of the settings' depths unless given. A repetition at another one is
            none: its speed and its bytes are not the same.
    """
    unit = state.running.unit if state.running else None
    if unit is None or unit.arm != arm.id or unit.kind != kind:
        return None
    if kind in ("prompt", "decode") and unit.depth != (state.settings.depths[0] if depth is None else depth):
        return None
    return next((one for one in arm.attempts if one.number == unit.attempt), None)


def repetitions(state: State, attempt: Attempt, kind: str, depth: int | None = None) -> list[Repetition]:
    """The attempt's repetitions of one kind at one depth."""
    if kind not in ("prompt", "decode"):
        return []
    return attempt.at_depth(kind, state.settings.depths[0] if depth is None else depth)


def whole(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int | None = None) -> list[Part]:
    """The repetitions of one kind, each a part, and the one under way so far."""
    slices = _by_unit(attempt)
    done = repetitions(state, attempt, kind, depth)
    found = [of_repetition(one, state.settings, slices.get(one.at, ())) for one in done]
    if under_way(state, arm, kind, depth) is attempt and state.running is not None:
        found.append(_partial(state, state.running))
    return found


def fine(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int | None = None) -> list[Part]:
    """The same in order and as fine as it is known: slices, what is left of the repetition beside them, and the open
    one, where a unit was long enough for them."""
    slices, done = _by_unit(attempt), repetitions(state, attempt, kind, depth)
    found: list[Part] = []
    for one in done:
        found += _pieces(of_repetition(one, state.settings), slices.get(one.at, ()), kind)
    if under_way(state, arm, kind, depth) is attempt and (running := state.running) is not None:
        most = None if kind == "decode" else float(_passes(running.unit, state.settings))
        mine = [_sliced(one, most) for one in slices.get(running.at, ())]
        if (rest := _open(state, running, most)) is not None:
            mine.append(rest)
        found += [_with_untold(one, running, _rate(running, done)) for one in mine] if kind == "decode" else mine
    return found


def slices_of(attempt: Attempt, parts: Iterable[Part]) -> list[Slice]:
    """The slices of the units that these parts are of."""
    begun = {part.at for part in parts}
    return [one for one in attempt.slices if one.at in begun]


_PARTS: dict[tuple[int, int], tuple[Repetition, Settings, Part]] = {}
"""Parts of repetitions that were asked for before, by the repetition's identity: it never changes, and its slices are
told apart by their number. Small models have hundreds of repetitions, each asked for ten times a frame."""

_MOST_PARTS = 4_000


def of_repetition(one: Repetition, settings: Settings, slices: Sequence[Slice] = ()) -> Part:
    """A whole repetition by its own counters; those that the host does not give a process of itself, by its slices."""
    key = id(one), len(slices)
    known = _PARTS.get(key)
    if known is not None and known[0] is one and known[1] is settings:
        return known[2]
    part = _of_repetition(one, settings, slices)
    if len(_PARTS) >= _MOST_PARTS:
        _PARTS.clear()
    _PARTS[key] = one, settings, part
    return part


def _of_repetition(one: Repetition, settings: Settings, slices: Sequence[Slice]) -> Part:
    counted = one.counters

    def known(own: float | None, name: str) -> float | None:
        return own if own is not None or not slices else known_sum(getattr(_sliced(x, None), name) for x in slices)

    cpu = _seconds(counted.cpu_ns)
    return Part(
        at=one.at,
        start=one.at,
        tokens=one.tokens,
        passes=_passes(one.unit, settings),
        seconds=one.ns / 1e9,
        tok_s=one.tok_s,
        read=known(counted.read, "read"),
        majflt=known(counted.majflt, "majflt"),
        swap_in=known(counted.swap_in, "swap_in"),
        zswap_in=known(counted.zswap_in, "zswap_in"),
        cpu=cpu,
        cpu_seconds=one.ns / 1e9,
        others=known(_others(_seconds(counted.busy_ns), cpu), "others"),
    )


def _by_unit(attempt: Attempt) -> dict[float, list[Slice]]:
    found: dict[float, list[Slice]] = {}
    for one in attempt.slices:
        if one.end > one.start:
            found.setdefault(one.at, []).append(one)
    return found


def _pieces(one: Part, slices: Sequence[Slice], kind: str) -> list[Part]:
    """A repetition as its slices, with what is left of it beside them first; as a whole where it has none."""
    if not slices:
        return [one]
    each = one.passes / one.seconds
    pieces = [_sliced(piece, None if kind == "decode" else each * (piece.end - piece.start)) for piece in slices]
    rest = one.seconds - math.fsum(piece.seconds for piece in pieces)
    if rest < LEAST_REST:
        return pieces

    def left(of: Callable[[Part], float | None]) -> float | None:
        total, told = of(one), [of(piece) for piece in pieces]
        known = [value for value in told if value is not None]
        return None if total is None or len(known) < len(told) else max(0.0, total - math.fsum(known))

    tokens = max(0.0, one.tokens - math.fsum(piece.tokens for piece in pieces))
    remainder = Part(
        at=one.at,
        start=one.at,
        tokens=tokens,
        passes=tokens if kind == "decode" else each * rest,
        seconds=rest,
        tok_s=tokens / rest,
        read=left(lambda part: part.read),
        majflt=left(lambda part: part.majflt),
        swap_in=left(lambda part: part.swap_in),
        zswap_in=left(lambda part: part.zswap_in),
        cpu=left(lambda part: part.cpu),
        cpu_seconds=rest,
        others=left(lambda part: part.others),
    )
    return [remainder, *pieces]


def _passes(unit: Unit, settings: Settings) -> int:
    """How often a whole unit reads the weights. The sequences of a perplexity group share their batches."""
    if unit.kind == "decode":
        return unit.tokens
    tokens = unit.count * settings.context if unit.kind == "perplexity" else unit.tokens
    return -(-tokens // max(1, settings.ubatch))


def _others(busy: float | None, own: float | None, watching: float | None = None) -> float | None:
    """Core-seconds of other processes: all that were used, less the engine's, and our own where they are known."""
    return None if busy is None or own is None else max(0.0, busy - own - (watching or 0.0))


def _partial(state: State, running: Running) -> Part:
    """The unit under way, from its first sample to the last one.

    Passes are never counted too few: tokens may be held back for TOLD seconds, and of a prompt nothing is told
    before its end, so that its bytes are held against all of its passes.
    """
    begun = running.first_t if running.first_t is not None else running.at
    sampled = max(0.0, (state.readings_t or begun) - begun)
    if running.unit.kind == "decode":
        held_back = int(TOLD * running.tokens * 1e9 / running.ns) if running.ns else 0
        passes = running.tokens - running.first_tokens + held_back
    else:
        passes = max(0, _passes(running.unit, state.settings) - 1)

    def since(name: str) -> float | None:
        if name not in running.first or name not in state.readings:
            return None
        change = state.readings[name] - running.first[name]
        return change if change >= 0 else None

    return Part(
        at=running.at,
        start=running.at,
        tokens=running.tokens,
        passes=passes,
        seconds=max(running.ns / 1e9, sampled),
        tok_s=running.tokens * 1e9 / running.ns if running.ns else None,
        read=since("engine.read"),
        majflt=since("engine.majflt"),
        swap_in=since("swap.in"),
        zswap_in=since("zswap.in"),
        cpu=since("engine.cpu"),
        cpu_seconds=sampled,
        others=_others(since("cpu.busy"), since("engine.cpu"), since("self.cpu")),
    )


def _sliced(one: Slice, passes: float | None) -> Part:
    """A slice as a part. `passes` None: a token each."""
    seconds = one.end - one.start
    return Part(
        at=one.at,
        start=one.start,
        tokens=one.tokens,
        passes=one.tokens if passes is None else passes,
        seconds=seconds,
        tok_s=one.tokens / seconds if seconds > 0 else None,
        read=one.grew("engine.read"),
        majflt=one.grew("engine.majflt"),
        swap_in=one.grew("swap.in"),
        zswap_in=one.grew("zswap.in"),
        cpu=one.grew("engine.cpu"),
        cpu_seconds=seconds,
        others=_others(*(one.grew(name) for name in ("cpu.busy", "engine.cpu", "self.cpu"))),
        stolen=one.grew("cpu.steal") or 0.0,
        swap_out=one.grew("swap.out") or 0.0,
    )


def _open(state: State, running: Running, passes: float | None) -> Part | None:
    """What came after the last slice of the unit under way, up to the last sample; None where nothing did."""
    if running.edge_t is None or state.readings_t is None or state.readings_t <= running.edge_t:
        return None
    tokens = math.fsum(
        count * max(0.0, min(end, state.readings_t) - max(begin, running.edge_t)) / (end - begin)
        for begin, end, count in running.untaken
        if end > begin
    )
    grown = growth(running.edge, state.readings)
    return _sliced(Slice(running.at, running.unit.kind, running.edge_t, state.readings_t, tokens, grown), passes)


def _rate(running: Running, done: Sequence[Repetition]) -> float:
    """Tokens per second of the unit under way, else of the repetition before it; 0 where nothing is known."""
    if running.ns:
        return running.tokens * 1e9 / running.ns
    return done[-1].tok_s if done else 0.0


def _with_untold(part: Part, running: Running, rate: float) -> Part:
    """The part with the tokens counted as passes that an engine may hold back: those of TOLD seconds after the last one
    that it told, never too few of them."""
    told = running.at + running.ns / 1e9
    untold = max(0.0, min(part.start + part.seconds, told + TOLD) - max(part.start, told))
    return msgspec.structs.replace(part, passes=part.passes + rate * untold) if untold else part


def is_blamed(parts: Sequence[Part], threads: int, share: float, cores: int) -> bool | None:
    """Whether others, or the hypervisor, used that share of the CPU time that `threads` lacked; None where it is not
    told. On a host with idle cores (FULL of its `cores` hardware threads are not used) nobody took anything away."""
    told = [part for part in parts if part.cpu is not None and part.others is not None]
    if not told:
        return None
    wall = math.fsum(part.cpu_seconds for part in told)
    own = math.fsum(part.cpu or 0.0 for part in told)
    taken = math.fsum((part.others or 0.0) + part.stolen for part in told)
    return taken >= share * (threads * wall - own) and own + taken >= FULL * cores * wall


def is_cold(at: float, parts: Sequence[Part]) -> bool:
    """Whether what the unit that began then read may have been its first reading: it took no major faults."""
    faults = [one.majflt for one in parts if one.at == at]
    return None not in faults and math.fsum(one for one in faults if one is not None) <= COLD_FAULTS


def first_after_loads(state: State, arm: Arm, attempt: Attempt) -> set[float]:
    """When the first unit after each load of the attempt began."""
    begun = [one.at for one in attempt.prompt + attempt.decode]
    if state.running and state.running.unit.arm == arm.id and state.running.unit.attempt == attempt.number:
        begun.append(state.running.at)
    loads = [s.start for s in state.spans if (s.arm, s.phase, s.attempt) == (arm.id, "load", attempt.number)]
    after = ([at for at in begun if at >= load] for load in loads or [0.0])
    return {min(each) for each in after if each}


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9


def known_sum(values: Iterable[float | None]) -> float | None:
    """Sum of what is known: an unknown part can only hide bytes, never add them. None where nothing is known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None
