"""Windows: what the repetitions of one phase amount to, and the bytes that they read again. Pure.

Owns the sums, and whose bytes and whose time they are. A repetition's own counters, which the engine reads at its
edges, are the measure of it; stretches of it, and the one under way, go by the samples' cumulative readings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from quanttui.diagnosis import ceilings, roofline, thresholds
from quanttui.events import Ceiling, Settings, Unit
from quanttui.state import Arm, Attempt, Repetition, Running, Slice, State

TOLD = 1.0
"""Seconds of tokens that an engine may hold back before it tells of them: samples run ahead of tokens by so much."""

COLD_FAULTS = 1
"""A first reading of the file takes at most so many major faults (measured: 0 or 1); eviction takes more."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The repetitions of one phase of one attempt and the one under way, or a stretch of them.

    `passes` is how often the weights were read whole: once a token when decoding, once a batch otherwise.
    `read`, `swap_in`, `zswap_in` in bytes and `majflt` are sums over it, `swap_in` and `zswap_in` those of the whole
    machine. `cold_read` is what of `read` may have been the first reading after a load. `cpu` core-seconds were used
    in `cpu_seconds` of it, and others used `others` core-seconds in `others_seconds`; `blamed`: that is part of what
    its threads lacked, or it is not known. `devices` are levels of the GPUs
    as means over it (state.Slice). None where the host does not tell.
    """

    phase: str
    repetitions: int
    tokens: float
    passes: float
    seconds: float
    tok_s: float | None = None
    read: float | None = None
    majflt: float | None = None
    swap_in: float | None = None
    zswap_in: float | None = None
    cold_read: float = 0.0
    cpu: float | None = None
    cpu_seconds: float = 0.0
    others: float | None = None
    others_seconds: float = 0.0
    blamed: bool = True
    devices: dict[str, float] = {}
    under_way: bool = False

    @property
    def others_cores(self) -> float | None:
        """Cores that other processes used, None where it is not told."""
        return None if self.others is None or self.others_seconds <= 0 else self.others / self.others_seconds

    @property
    def most_passes(self) -> float:
        """Passes that the bytes may belong to: the one under way counts whole."""
        return self.passes + self.under_way

    def cpu_share(self, threads: int) -> float | None:
        """Own CPU time as a share of what `threads` could have used, None where it is not told."""
        if self.cpu is None or self.cpu_seconds <= 0 or threads <= 0:
            return None
        return self.cpu / (threads * self.cpu_seconds)


class Reread(msgspec.Struct, frozen=True):
    """Bytes read again in a window, from swap and from the file; None where they cannot be told, `note` says why."""

    swap: float | None
    file: float | None
    note: str = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a window is held against.

    `active` bytes are read by one pass, `resident` bytes must stay in memory. `offloaded` of `layers` lie on a GPU
    (None: not known). `cache` is the last-level cache in bytes where it holds all the weights, else None. `ceiling` is
    None for the reason `why`.
    `compute` is C, in GB/s of weights: what the arm's own mixture of tensor types allows from the cache; None where it
    is not known. `probed` is the lowest bandwidth that was measured next to the arm, `usual` the one of this machine.
    `split` is the tok/s that partly offloaded weights are predicted to give, `split_why` why none is predicted.
    `spilled` bytes of the host's memory a GPU took as its own since before the load; `best_clock` is the largest share
    of its best clock that the session has seen.
    """

    active: float
    resident: float
    threads: int
    offloaded: int | None = None
    layers: int = 0
    cache: float | None = None
    ceiling: Ceiling | None = None
    why: str = ""
    compute: float | None = None
    probed: float | None = None
    usual: float | None = None
    split: float | None = None
    split_why: str = ""
    spilled: float | None = None
    best_clock: float | None = None


def reread(window: Window, resident: float) -> Reread:
    """S and F of the window: bytes read again from swap and from the file.

    S = min(swap-ins + zswap-ins, own reads + zswap-ins) if there were major faults, else 0; F = own reads - S. So a
    neighbour's swapping stays the neighbour's. What a cold start reads for the first time, `resident` bytes at most,
    is no re-reading.
    """
    if window.read is None:
        return Reread(None, None, "this host does not tell what the engine reads from storage")
    first = min(window.cold_read, resident)
    if window.majflt == 0:
        return Reread(0.0, max(0.0, window.read - first))
    if window.swap_in is None:
        return Reread(None, max(0.0, window.read - first), "page-ins and swap-ins cannot be told apart on this host")
    zswap = window.zswap_in or 0.0
    swap = min(window.swap_in + zswap, window.read + zswap)
    note = "compressed memory (zswap) gave pages back, and the kernel does not say whose" if zswap else ""
    return Reread(swap, max(0.0, window.read - swap - first), note)


def latest(arm: Arm, kind: str) -> Attempt | None:
    """The latest attempt that has repetitions of this kind: the one whose figures count."""
    return next((one for one in reversed(arm.attempts) if one.repetitions(kind)), None)


def under_way(state: State, arm: Arm, kind: str) -> Attempt | None:
    """The attempt that is in the middle of a unit of this kind, None where there is none.

    A repetition at one of the deeper depths is none: its speed and its bytes are not those of the first.
    """
    unit = state.running.unit if state.running else None
    if unit is None or unit.arm != arm.id or unit.kind != kind:
        return None
    if kind in ("prompt", "decode") and unit.depth != state.settings.depths[0]:
        return None
    return next((one for one in arm.attempts if one.number == unit.attempt), None)


def window(state: State, arm: Arm, attempt: Attempt, kind: str) -> Window | None:
    """The attempt's repetitions of one kind joined, with the unit under way if it is one of them; None without any."""
    done = attempt.repetitions(kind) if kind in ("prompt", "decode") else []
    parts = [of_repetition(one, state.settings) for one in done]
    if under_way(state, arm, kind) is attempt and state.running is not None:
        parts.append(_partial(state, state.running))
    if not parts:
        return None
    begun = {part.at for part in parts}
    rates = [one.tok_s for one in done]
    return joined(
        kind,
        parts,
        _first_after_loads(state, arm, attempt),
        tok_s=math.fsum(rates) / len(rates) if rates else parts[-1].tok_s,
        repetitions=len(done),
        slices=[one for one in attempt.slices if one.at in begun],
        under_way=len(parts) > len(done),
        threads=(attempt.loaded.threads if attempt.loaded else 0) or state.settings.threads,
        blame=thresholds.of(state.settings).blame,
    )


def joined(
    kind: str,
    parts: Sequence[Part],
    first: set[float],
    tok_s: float | None = None,
    repetitions: int = 0,
    slices: Sequence[Slice] = (),
    under_way: bool = False,
    threads: int = 1,
    blame: float = 0.0,
) -> Window:
    """Parts as one window. `first` are the units that came right after a load; `threads` lacked CPU time through others
    if those used the share `blame` of it."""
    cold = [part for part in parts if part.at in first and part.read and is_cold(part.at, parts)]
    others = [(part, part.others) for part in parts if part.others is not None]
    samples = sum(one.samples for one in slices)
    levels: dict[str, float] = {}
    for one in slices:
        for name, value in one.devices.items():
            levels[name] = levels.get(name, 0.0) + value
    return Window(
        phase=kind,
        repetitions=repetitions,
        tokens=sum(part.tokens for part in parts),
        passes=math.fsum(part.passes for part in parts),
        seconds=math.fsum(part.seconds for part in parts),
        tok_s=tok_s,
        read=_sum(part.read for part in parts),
        majflt=_sum(part.majflt for part in parts),
        swap_in=_sum(part.swap_in for part in parts),
        zswap_in=_sum(part.zswap_in for part in parts),
        cold_read=sum(part.read or 0.0 for part in cold),
        cpu=_sum(part.cpu for part in parts),
        cpu_seconds=math.fsum(part.cpu_seconds for part in parts if part.cpu is not None),
        others=math.fsum(found for _, found in others) if others else None,
        others_seconds=math.fsum(one.cpu_seconds for one, _ in others),
        blamed=is_blamed(parts, threads, blame),
        devices={name: value / samples for name, value in levels.items()} if samples else {},
        under_way=under_way,
    )


def parts(state: State, arm: Arm, attempt: Attempt, kind: str) -> tuple[list[Part], set[float]]:
    """The attempt's timed stretches of one kind in order, as fine as they are known: slices, and the open one, where
    a unit was long enough for them, else whole repetitions. Also the units that came right after a load."""
    done = attempt.repetitions(kind) if kind in ("prompt", "decode") else []
    by_unit: dict[float, list[Slice]] = {}
    for one in attempt.slices:
        by_unit.setdefault(one.at, []).append(one)
    found: list[Part] = []
    for repetition in done:
        slices, seconds = by_unit.get(repetition.at, []), repetition.ns / 1e9
        if math.fsum(one.end - one.start for one in slices) >= seconds / 2:
            each = _passes(repetition.unit, state.settings) / seconds
            found += [_sliced(one, None if kind == "decode" else each * (one.end - one.start)) for one in slices]
        else:
            found.append(of_repetition(repetition, state.settings))
    if under_way(state, arm, kind) is attempt and (running := state.running) is not None:
        most = None if kind == "decode" else float(_passes(running.unit, state.settings))
        mine = [_sliced(one, most) for one in by_unit.get(running.at, [])]
        if (rest := _open(state, running, most)) is not None:
            mine.append(rest)
        found += [_with_untold(one, running, _rate(running, done)) for one in mine] if kind == "decode" else mine
    return found, _first_after_loads(state, arm, attempt)


def bounds(state: State, arm: Arm, attempt: Attempt, kind: str) -> Bounds | None:
    """What the attempt's windows of one kind are held against, None before the file's header is known."""
    if arm.file is None:
        return None
    shape, settings, loaded = arm.file.shape, state.settings, attempt.loaded
    ceiling, why = ceilings.best_ceiling(attempt)
    kv = arm.plan.kv or settings.kv
    active = roofline.batch_bytes(shape)
    split, split_why = None, ""
    if kind == "decode":
        active = roofline.active_bytes(shape, settings.depths[0], kv)
        split, split_why = ceilings.split(attempt, shape, settings.depths[0], kv)
    return Bounds(
        active=active,
        resident=roofline.resident_bytes(shape),
        threads=(loaded.threads if loaded else 0) or settings.threads,
        offloaded=loaded.gpu_layers if loaded else None,
        layers=loaded.layers if loaded else 0,
        cache=state.host.cache if state.host and ceilings.cached(state, attempt, shape) else None,
        ceiling=ceiling,
        why=why,
        compute=ceilings.compute(attempt, shape),
        probed=ceilings.probed(attempt),
        usual=ceilings.usual(state, attempt),
        split=split,
        split_why=split_why,
        spilled=_spilled(attempt),
        best_clock=max(_clocks(state), default=None) if loaded and loaded.gpu_layers else None,
    )


def _clocks(state: State) -> Iterable[float]:
    """The shares of their best clock that GPUs ran at, over slices."""
    for arm in state.arms.values():
        for attempt in arm.attempts:
            for one in attempt.slices:
                if "clock" in one.devices and one.samples:
                    yield one.devices["clock"] / one.samples


def _spilled(attempt: Attempt) -> float | None:
    """By how much the host memory that GPUs use as their own lay above what it was before the load, in bytes."""
    before = [value for name, value in attempt.before.items() if name.endswith(".shared_used")]
    seen = [one for one in attempt.slices if "shared" in one.devices and one.samples]
    if not before or not seen:
        return None
    return max(one.devices["shared"] / one.samples for one in seen) - math.fsum(before)


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


def _passes(unit: Unit, settings: Settings) -> int:
    """How often a whole unit reads the weights. The sequences of a perplexity group share their batches."""
    if unit.kind == "decode":
        return unit.tokens
    tokens = unit.count * settings.context if unit.kind == "perplexity" else unit.tokens
    return -(-tokens // max(1, settings.ubatch))


def of_repetition(one: Repetition, settings: Settings) -> Part:
    """A whole repetition by its own counters."""
    counted = one.counters
    return Part(
        at=one.at,
        start=one.at,
        tokens=one.tokens,
        passes=_passes(one.unit, settings),
        seconds=one.ns / 1e9,
        tok_s=one.tok_s,
        read=counted.read,
        majflt=counted.majflt,
        swap_in=counted.swap_in,
        zswap_in=counted.zswap_in,
        cpu=_seconds(counted.cpu_ns),
        cpu_seconds=one.ns / 1e9,
        others=_others(_seconds(counted.busy_ns), _seconds(counted.cpu_ns)),
    )


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
        seconds=running.ns / 1e9,
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
        read=one.grown.get("engine.read"),
        majflt=one.grown.get("engine.majflt"),
        swap_in=one.grown.get("swap.in"),
        zswap_in=one.grown.get("zswap.in"),
        cpu=one.grown.get("engine.cpu"),
        cpu_seconds=seconds,
        others=_others(*(one.grown.get(name) for name in ("cpu.busy", "engine.cpu", "self.cpu"))),
        stolen=one.grown.get("cpu.steal", 0.0),
    )


def _open(state: State, running: Running, passes: float | None) -> Part | None:
    """What came after the last slice of the unit under way, up to the last sample; None where nothing did."""
    if running.edge_t is None or state.readings_t is None or state.readings_t <= running.edge_t:
        return None
    grown = {
        name: state.readings[name] - value
        for name, value in running.edge.items()
        if state.readings.get(name, -1.0) >= value
    }
    tokens = math.fsum(
        count * max(0.0, min(end, state.readings_t) - max(begin, running.edge_t)) / (end - begin)
        for begin, end, count in running.untaken
        if end > begin
    )
    return _sliced(Slice(running.at, running.unit.kind, running.edge_t, state.readings_t, tokens, grown), passes)


def _rate(running: Running, done: Sequence[Repetition]) -> float:
    """Tokens per second of the unit under way, else of the repetition before it; 0 where nothing is known."""
    if running.ns:
        return running.tokens * 1e9 / running.ns
    return done[-1].tok_s if done else 0.0


def _with_untold(part: Part, running: Running, rate: float) -> Part:
    """The part with the tokens that an engine may hold back counted as passes: never too few of them."""
    told = running.at + running.ns / 1e9
    untold = min(TOLD, max(0.0, part.start + part.seconds - max(part.start, told)))
    return msgspec.structs.replace(part, passes=part.passes + rate * untold) if untold else part


def is_blamed(parts: Sequence[Part], threads: int, share: float) -> bool:
    """Whether others, or the hypervisor, used that share of the CPU time that `threads` lacked; also where it is not
    told what others used."""
    told = [part for part in parts if part.cpu is not None and part.others is not None]
    if not told:
        return True
    lacked = math.fsum(threads * part.cpu_seconds - (part.cpu or 0.0) for part in told)
    return math.fsum((part.others or 0.0) + part.stolen for part in told) >= share * lacked


def is_cold(at: float, parts: Sequence[Part]) -> bool:
    """Whether what the unit that began then read may have been its first reading: it took no major faults."""
    faults = [one.majflt for one in parts if one.at == at]
    return None not in faults and math.fsum(one for one in faults if one is not None) <= COLD_FAULTS


def _first_after_loads(state: State, arm: Arm, attempt: Attempt) -> set[float]:
    """When the first unit after each load of the attempt began."""
    begun = [one.at for one in attempt.prompt + attempt.decode]
    if state.running and state.running.unit.arm == arm.id and state.running.unit.attempt == attempt.number:
        begun.append(state.running.at)
    loads = [s.start for s in state.spans if (s.arm, s.phase, s.attempt) == (arm.id, "load", attempt.number)]
    after = ([at for at in begun if at >= load] for load in loads or [0.0])
    return {min(each) for each in after if each}


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9


def _sum(values: Iterable[float | None]) -> float | None:
    """Sum of what is known: an unknown part can only hide bytes, never add them. None where nothing is known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None
