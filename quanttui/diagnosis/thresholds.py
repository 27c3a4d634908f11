"""Where the lines between verdicts are drawn, each with the runs that it rests on. The one place for them.

A session may move any of them (`thresholds` in config.toml, recorded in its settings): the same log gives the same
verdicts, whoever reads it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import msgspec

from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.format import clean


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Shares from 0 to 1 unless a unit is named. Where no source is, they were set after seeing runs of a Q8_0 file
    with 1381 MB of active bytes on a 2-core, 24 GiB KVM guest, its memory limited by a cgroup, llama.cpp of
    llama-cpp-python 0.3.36.

    contaminated: share of the active bytes read again for each token. 2.1 % from swap cost 79 % of the speed, 9.3 %
        from the file 67 %; clean runs re-read nothing.
    edge: from here on a caution, and below it re-reading is over. 0.28 % from the file cost 12 %.
    cpu_share: own CPU time of threads x wall, over a phase. Clean runs had 0.92 to 1.0, runs beside compilers 0.33 to
        0.67.
    cpu_share_now: the same over the last `window` seconds: the middle between the two groups, since a short stretch
        scatters more.
    blame: of the CPU time that threads lacked the share that others must have used for it to be contention: threads
        that wait for storage lack it too, before a byte is counted. A proposal.
    bus: a bandwidth below this share of the usual one is a contended bus: a neighbour on it took 15.1 tok/s down to 9.0
        while the threads had 0.99 of their CPU time.
    others: core-seconds per second of other processes beside a decode that count as a neighbour.
    wall: achieved bandwidth as a share of the ceiling. Clean Q8_0 had 0.57 to 0.92; contended and compute-bound runs
        had 0.38 at most.
    beyond: no model reads faster than its memory; more than the spread of adjacent probes above 1, the ceiling is what
        is wrong.
    compute: C(type) below this share of B makes arithmetic the lower ceiling (IQ3_S: 4.1 of 20 GB/s).
    computing: achieved over C(type) from which on it is what holds the speed.
    throttled: share of samples with a thermal or hardware slowdown bit. A proposal: no throttled run was measured.
    clock: SM clock as a share of the best one seen, below which it counts as slowed. A proposal too.
    busy, idle_memory: a GPU whose kernels run for `busy` of the time while its memory is used for `idle_memory` of it
        at most waits for the host's memory (llama.cpp#4498).
    tenant: memory that other processes hold on a GPU, as a share of the weights, below which they are taken for a
        desktop's. A proposal.
    spill: growth of the host memory that a GPU uses as its own, as a share of the weights (llama.cpp#26432).
    unaccounted: a gap between the memory that llama.cpp reserves and the one that the driver counts, as a share.
    repetitions, seconds: the least evidence to clear a phase: llama-bench's 5 repetitions, and 3 s, since 128 tokens of
        a tiny model last 0.05 s.
    window: seconds of a stretch that is judged by itself.
    """

    contaminated: float = 0.01
    edge: float = 0.002
    cpu_share: float = 0.85
    cpu_share_now: float = 0.75
    blame: float = 0.25
    bus: float = 0.80
    others: float = 0.3
    wall: float = 0.55
    beyond: float = 1.15
    compute: float = 0.8
    computing: float = 0.6
    throttled: float = 0.2
    clock: float = 0.85
    busy: float = 0.9
    idle_memory: float = 0.1
    tenant: float = 0.05
    spill: float = 0.02
    unaccounted: float = 0.05
    repetitions: int = 5
    seconds: float = 3.0
    window: float = 3.0


DEFAULTS = Thresholds()


def of(settings: Settings) -> Thresholds:
    """The thresholds of a session. Names that this version does not know are of no effect."""
    if not settings.thresholds:
        return DEFAULTS
    known = {name: value for name, value in settings.thresholds if name in Thresholds.__struct_fields__}
    return msgspec.convert({**msgspec.to_builtins(DEFAULTS), **known}, Thresholds, strict=False)


def check(moved: Mapping[str, float]) -> None:
    """Whether these may be a session's thresholds.

    Raises:
        UserError: there is no threshold of that name, or its value makes no sense.
    """
    for name, value in moved.items():
        if name not in Thresholds.__struct_fields__:
            near = difflib.get_close_matches(name, Thresholds.__struct_fields__, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(Thresholds.__struct_fields__)}"
            raise UserError(f"thresholds: unknown name {clean(name, 40)!r}: {hint}")
        whole = isinstance(getattr(DEFAULTS, name), int)
        if not 0 < value < 1e6 or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise UserError(f"thresholds: {name} = {value:g}: must be {kind} above 0")
