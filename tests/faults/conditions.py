"""The conditions: what is done to an engine, on which model, and what is right to say. Owns the table; runs nothing.

What is right follows from what was done, and near the fit from what the kernel counted. `came` says whether the fault
was really there: a run in which it was not counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from quanttui.models.ghost import GhostShape

from .cgroups import Group, Parent
from .machine import Neighbour, drop, warm
from .swapfile import SwapFile
from .watch import Facts

MIB = 1 << 20

CLEAN, FAULTY, EITHER = "clean", "faulty", "either"
"""What is done to an engine: nothing that harms it, a fault, or what only the kernel's counts can tell (`kind`)."""

LARGE = GhostShape(5, 2048, 16, 4, 5632, 32000)
"""356 million weights: 379 MB as Q8_0, ten times a common last-level cache. Few layers and wide, since what a token
takes beside its bytes goes with the number of operations: as 24 narrow layers they moved 31 GB/s where memory gave 42
or 63."""

SMALL = GhostShape(4, 384, 6, 2, 1024, 2048)
"""8 million weights: 8 MB as Q8_0."""

CACHES = 4
"""So many times the last-level cache must a token read, where memory is to hold its speed."""

QUIET = 0.1
"""Cores that others may use beside a clean run."""

CONTAMINATED, EDGE = 0.01, 0.002
"""What the issue calls page-in thrash and edge of memory: shares of the active bytes, fetched again per token."""

NEAR = 1.25
"""So close to one of these lines, as a factor, both sides are right: the kernel counts whole readaheads."""

SPUN = 0.25
"""Of the cores that an engine has threads for, the share that spinning neighbours must have had."""

STREAMED, SLOWED = 0.7, 0.85
"""Of a core, what a streaming neighbour must have had; of the clean speed, what it must have left at most. Where memory
has bandwidth to spare for both, nothing is contended."""

SWAPPED_OUT = 64 * MIB
"""Bytes of swap that count as used."""


@dataclass(frozen=True)
class Model:
    """A ghost, quantized."""

    shape: GhostShape
    quant: str


Q8, IQ3, CACHED = Model(LARGE, "Q8_0"), Model(LARGE, "IQ3_S"), Model(SMALL, "Q8_0")


@dataclass(frozen=True)
class Site:
    """Where a fault is made: all that it may touch.

    Args:
        file: the model's. `active` bytes of it are read for a token, `overhead` is what a run takes beside the file.
        group: quanttui's own, None where the condition needs none and the host allows none.
        parent: where groups of neighbours are made.
        work: the lab's folder, for swap files.
        cores: of the machine. `cache`: bytes of its last-level cache.
    """

    file: Path
    active: float
    overhead: int
    group: Group | None
    parent: Parent | None
    work: Path
    cores: int
    cache: int

    @property
    def limited(self) -> Group:
        assert self.group is not None
        return self.group

    def beside(self, held: ExitStack, name: str, most: int) -> Group:
        """A neighbour's group with so many bytes of memory, and swap."""
        assert self.parent is not None
        group = held.enter_context(Group(self.parent, name))
        group.limit(most, swap=True)
        return group

    def spinners(self, held: ExitStack) -> list[Neighbour]:
        """As many as there are cores."""
        return [held.enter_context(Neighbour("spin")) for _ in range(self.cores)]


Fault = Callable[[Site, ExitStack], Sequence[Neighbour]]
"""Makes the fault until the stack is closed; gives the neighbours, who wait for their `go`."""


@dataclass(frozen=True)
class Condition:
    """One row of the matrix.

    Args:
        right: the codes that are right, given the facts.
        came: why a run counts for nothing, "" where it counts.
        words: flags of `quanttui run`.
        limits: quanttui's own memory is limited. `groups`: a neighbour's is. Both need cgroups.
        after: the clean condition with the same flags that is run right before: its speed is the clean one.
        arms: how many times the model is an arm of the session.
    """

    name: str
    kind: str
    tells: str
    model: Model
    words: tuple[str, ...]
    fault: Fault
    right: Callable[[Facts], frozenset[str]]
    came: Callable[[Facts], str] = field(default=lambda facts: "")
    limits: bool = False
    groups: bool = False
    after: str = ""
    arms: int = 1


# --- faults ---------------------------------------------------------------------------------------------------------


def _nothing(site: Site, held: ExitStack) -> list[Neighbour]:
    warm(site.file)
    return []


def _cold(site: Site, held: ExitStack) -> list[Neighbour]:
    drop(site.file)
    return []


def _page_in(share: float) -> Fault:
    """Memory for so much of what a token reads, the file mapped and no swap."""

    def fault(site: Site, held: ExitStack) -> list[Neighbour]:
        drop(site.file)
        site.limited.limit(int(site.overhead + share * site.active))
        return []

    return fault


def _fit(site: Site, held: ExitStack) -> list[Neighbour]:
    """Memory for the file and all that a run takes beside it, and no page more."""
    drop(site.file)
    site.limited.limit(site.overhead + site.file.stat().st_size)
    return []


def _swap(share: float) -> Fault:
    """The same where the weights can only go to swap."""

    def fault(site: Site, held: ExitStack) -> list[Neighbour]:
        drop(site.file)
        held.enter_context(SwapFile(site.work, 2 * site.file.stat().st_size))
        site.limited.limit(int(site.overhead + share * site.active), swap=True)
        return []

    return fault


def _too_little(site: Site, held: ExitStack) -> list[Neighbour]:
    """Weights that nothing can take out of memory, and less memory than they need."""
    drop(site.file)
    site.limited.limit(int(site.overhead + 0.4 * site.active))
    return []


def _spinning(site: Site, held: ExitStack) -> list[Neighbour]:
    warm(site.file)
    return site.spinners(held)


def _streaming(site: Site, held: ExitStack) -> list[Neighbour]:
    """On every core that the engine's one thread leaves."""
    warm(site.file)
    mib = max(256, 8 * site.cache // MIB)
    return [held.enter_context(Neighbour("stream", str(mib))) for _ in range(max(1, site.cores - 1))]


def _swapping_neighbour(site: Site, held: ExitStack) -> list[Neighbour]:
    """It goes over twice the memory that it may have, slowly: the machine swaps all the time, and no core is busy."""
    warm(site.file)
    held.enter_context(SwapFile(site.work, 512 * MIB))
    group = site.beside(held, "neighbour", 128 * MIB)
    return [held.enter_context(Neighbour("swap", "256", "0.005", group=group))]


def _idle_swap(site: Site, held: ExitStack) -> list[Neighbour]:
    warm(site.file)
    held.enter_context(SwapFile(site.work, 512 * MIB))
    group = site.beside(held, "neighbour", 64 * MIB)
    return [held.enter_context(Neighbour("hold", "256", group=group))]


# --- what is right --------------------------------------------------------------------------------------------------


def only(*codes: str) -> Callable[[Facts], frozenset[str]]:
    return lambda facts: frozenset(codes)


def page_in(facts: Facts) -> frozenset[str]:
    """By the share of the active bytes that the kernel fetched again for the cgroup.

    Near the fit that comes in bursts: one repetition may thrash among clean ones, and both may be said of the whole.
    """
    share, peak = (1.0 if one is None else one for one in (facts.file, facts.peak))
    right = set()
    if max(share, peak) >= CONTAMINATED / NEAR:
        right.add("page-in-thrash")
    if EDGE / NEAR <= share < CONTAMINATED * NEAR:
        right.add("edge-of-memory")
    if share < EDGE * NEAR:
        right.add("bandwidth-wall")
    return frozenset(right)


def kind(condition: Condition, facts: Facts) -> str:
    """Whether a run was clean or faulty: EITHER stays where so much was fetched again that it is neither."""
    if condition.kind != EITHER or facts.file is None or facts.peak is None:
        return condition.kind
    if facts.file >= CONTAMINATED:
        return FAULTY
    return CLEAN if facts.peak < EDGE else EITHER


def unfit(condition: Condition, active: float, cache: int) -> str:
    """Why a model is the wrong one for a condition on a machine with such a last-level cache (0: not told), else ""."""
    told = f"its last-level cache has {cache / MIB:.0f} MiB, and a token reads {active / MIB:.0f}"
    if condition.model == CACHED:
        return "" if active <= cache else f"not in the cache: {told}"
    large = CACHES * cache if condition.kind == CLEAN else cache
    return "" if active > large else f"too much of it is in the cache: {told}"


# --- whether it came ------------------------------------------------------------------------------------------------


def quiet(facts: Facts) -> str:
    if facts.others is not None and facts.others > QUIET:
        return f"others used {facts.others:.2f} cores"
    return ""


def reread(facts: Facts) -> str:
    return "" if facts.file is None or facts.file >= CONTAMINATED else "nothing was fetched from the file again"


def swapped(facts: Facts) -> str:
    return "" if facts.swapped is None or facts.swapped >= CONTAMINATED else "nothing was swapped in"


def spun(threads: int) -> Callable[[Facts], str]:
    """Of an engine with so many threads."""

    def came(facts: Facts) -> str:
        had = facts.hogs or 0.0
        return "" if had >= SPUN * threads else f"the neighbours used {had:.2f} cores only"

    return came


def streamed(facts: Facts) -> str:
    had = facts.hogs or 0.0
    if had < STREAMED:
        return f"the neighbours used {had:.2f} cores only"
    if facts.of_clean is not None and facts.of_clean > SLOWED:
        return f"the neighbours left {100 * facts.of_clean:.0f} % of the clean speed"
    return quiet(facts)


def while_a_neighbour_swaps(facts: Facts) -> str:
    return quiet(facts) or swapped(facts)


def while_swap_is_used(facts: Facts) -> str:
    used = facts.swap_used
    if used is not None and used < SWAPPED_OUT:
        return f"{used / MIB:.0f} MiB of swap were used only"
    return quiet(facts)


# --- the table ------------------------------------------------------------------------------------------------------

# Tokens of a repetition: some tenths of a second where nothing is wrong, some seconds where much is.
_LONG = ("--decode", "32", "--repetitions", "5")
_SHORT = ("--decode", "16", "--repetitions", "5")
_SPUN = ("--decode", "8", "--repetitions", "5")
_SLOW = ("--decode", "2", "--repetitions", "3")
_SLOWEST = ("--decode", "1", "--repetitions", "3")
_ONE = ("--threads", "1")
_FAST = ("--decode", "512", "--repetitions", "5", *_ONE)
_OWN_MEMORY = ("--load-mode", "none")

_WALL = only("bandwidth-wall")


def table(threads: int) -> dict[str, Condition]:
    """All conditions by name, for an engine with so many threads where a condition does not say otherwise."""
    all_ = ("--threads", str(threads))
    long, long_1 = (*_LONG, *all_), (*_LONG, *_ONE)
    short, short_1 = (*_SHORT, *all_), (*_SHORT, *_ONE)
    slow, slowest = (*_SLOW, *all_), (*_SLOWEST, *all_)
    compute, cached = only("compute-bound"), only("cache-resident")
    found = [
        Condition("wall", CLEAN, "Q8_0 on a quiet machine", Q8, long, _nothing, _WALL, quiet),
        Condition("wall-1", CLEAN, "the same with one thread", Q8, long_1, _nothing, _WALL, quiet),
        Condition(
            "bus", FAULTY, "neighbours that copy memory beside one thread", Q8, long_1, _streaming,
            only("memory-bus-contention"), streamed, after="wall-1",
        ),
        Condition("wall-arms", CLEAN, "five times Q8_0 in one session", Q8, long, _nothing, _WALL, quiet, arms=5),
        Condition("wall-arms-1", CLEAN, "the same with one thread", Q8, long_1, _nothing, _WALL, quiet, arms=5),
        Condition("compute", CLEAN, "IQ3_S: dequantization", IQ3, long, _nothing, compute, quiet),
        Condition("compute-1", CLEAN, "the same with one thread", IQ3, short_1, _nothing, compute, quiet),
        Condition("cache", CLEAN, "8 MB, which the cache holds", CACHED, _FAST, _nothing, cached, quiet),
        Condition("cold", CLEAN, "nothing of the file in memory before", Q8, long, _cold, _WALL, quiet),
        Condition(
            "swap-idle", CLEAN, "swap in use by somebody who sleeps", Q8, long, _idle_swap, _WALL, while_swap_is_used,
            groups=True,
        ),
        Condition(
            "swap-neighbour", CLEAN, "a neighbour that swaps beside one thread", IQ3, short_1, _swapping_neighbour,
            compute, while_a_neighbour_swaps, groups=True,
        ),
        *(
            Condition(
                f"page-in-{percent}", FAULTY, f"memory for {percent} % of what a token reads, mapped", Q8, slow,
                _page_in(percent / 100), only("page-in-thrash"), reread, limits=True,
            )
            for percent in (60, 75, 90)
        ),
        Condition(
            "fit", EITHER, "memory for just the whole file, mapped", Q8, short, _fit, page_in, quiet, limits=True
        ),
        *(
            Condition(
                f"swap-{percent}", FAULTY, f"memory for {percent} % of what a token reads, not mapped, and swap", Q8,
                (*slowest, *_OWN_MEMORY), _swap(percent / 100), only("swap-contaminated"), swapped, limits=True,
            )
            for percent in (60, 80)
        ),
        Condition(
            "oom", FAULTY, "memory for 40 % of it, not mapped, no swap", Q8, (*slow, *_OWN_MEMORY), _too_little,
            only("out-of-memory"), limits=True,
        ),
        Condition(
            "spin", FAULTY, "a spinning neighbour on every core", Q8, (*_SPUN, *all_), _spinning,
            only("cpu-contention"), spun(threads),
        ),
    ]
    return {condition.name: condition for condition in found}
