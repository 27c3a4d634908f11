"""Rules on the processor and the memory bus: who else used them, and which of the two ceilings the speed stands at."""

from __future__ import annotations

from quanttui.diagnosis.case import Case, Verdict, brief, for_seconds
from quanttui.diagnosis.taint import CPU
from quanttui.format import clean, percent, significant, size


def contention(case: Case) -> Verdict | None:
    """Threads that lacked CPU time, on the CPU backend: over the whole phase, or over stretches of it."""
    window, bounds = case.window, case.bounds
    share = window.cpu_share(bounds.threads)
    if bounds.offloaded != 0 or share is None:
        return None
    advice = "Stop what runs beside it, or use fewer threads, and run it again (r)."
    lacking = share < case.limits.cpu_share and window.cpu_seconds >= case.limits.seconds
    if lacking and not window.blamed:
        # What threads that wait for storage have asked for is not counted yet: only the whole phase says so.
        return None if window.under_way else _waited(case, share)
    if lacking:
        return case.verdict(
            CPU,
            "contaminated",
            f"cpu {significant(share, 2)}",
            f"Its {bounds.threads} threads got {percent(share)} % of the CPU time that they could have used, and "
            "nothing was re-read: something else ran on these cores.",
            advice,
            1 - share,
        )
    if not case.seconds(CPU):
        return None
    worst = min(one.worst for one in case.tainted.intervals if one.code == CPU)
    return case.verdict(
        CPU,
        "contaminated",
        f"cpu for {significant(case.seconds(CPU), 2)} s",
        f"{for_seconds(case, CPU).capitalize()} its {bounds.threads} threads got as little as {percent(worst)} % of "
        "the CPU time that they could have used, and nothing was re-read: something else ran on these cores.",
        advice,
        case.part(CPU) * (1 - worst),
    )


def _waited(case: Case, share: float) -> Verdict:
    """Threads that lacked CPU time which nobody else used, or of which nobody tells who used it."""
    if case.window.blamed is None or case.reread.file is None:
        unknown = [
            *(["whether bytes were re-read"] if case.reread.file is None else []),
            *(["whether others ran on these cores"] if case.window.blamed is None else []),
        ]
        return case.verdict(
            "unexplained",
            "contaminated",
            f"waited, cpu {significant(share, 2)}",
            f"Its {case.bounds.threads} threads got {percent(share)} % of the CPU time that they could have used: they "
            f"waited. What for cannot be told on this host: {' and '.join(unknown)} is not known.",
            "Look for page-ins (weights that do not stay in memory) and for busy neighbours, and run it again (r).",
            1 - share,
        )
    return case.verdict(
        CPU,
        "contaminated",
        f"cpu {significant(share, 2)}",
        f"Its {case.bounds.threads} threads got {percent(share)} % of the CPU time that they could have used, nothing "
        "was re-read, and nobody else used these cores: a CPU quota holds it back, or it waited for a device.",
        "Look for a CPU limit of the container or the slice (cpu.max), and run it again (r) without it.",
        1 - share,
    )


def bus(case: Case) -> Verdict | None:
    """A memory bus that gives less than usual, while the threads have their CPU time.

    It convicts where other processes were seen at work. Where none was, the machine's neighbours are outside of it (a
    virtual machine's), and that is a caution; as is a neighbour who takes little, or nobody knows how much. A speed
    that arithmetic sets does not care for the bus.
    """
    bounds, limits, others = case.bounds, case.limits, case.window.others_cores
    on_the_bus = case.window.phase == "decode" and bounds.offloaded == 0 and bounds.cache is None
    if not on_the_bus or case.window.cpu_share(bounds.threads) is None or _compute_bound(case) is not None:
        return None
    neighbours = others is not None and others >= limits.others
    known = [bounds.usual, bounds.remembered] if neighbours else [bounds.usual]
    usual = max((value for value in known if value), default=None)
    share = bounds.probed / usual if bounds.probed and usual else None
    slow = share is not None and share < limits.bus
    if not slow and not neighbours:
        return None
    gave = "there is no usual bandwidth yet to tell how much of it they took"
    if share is not None:
        gave = (
            f"memory gave {significant(bounds.probed)} GB/s next to it, {percent(share)} % of the {significant(usual)} "
            "GB/s that are usual here, while its threads had their CPU time"
        )
    if not neighbours:
        said = f"{gave[0].upper()}{gave[1:]}: {_nobody(others)}"
        advice = "Run it again (r) later: the host of this machine may share its memory."
    else:
        said = f"Other processes used {significant(others, 2)} cores beside it, and {gave}."
        advice = "Stop what runs beside it, and run it again (r)."
    return case.verdict(
        "memory-bus-contention",
        "contaminated" if slow and neighbours else "caution",
        f"bus {percent(share)}% of usual" if slow and share is not None else "busy neighbour",
        said,
        advice,
        None if share is None else max(0.0, 1 - share),
    )


def _nobody(others: float | None) -> str:
    if others is None:
        return "what took the rest, this host does not tell."
    return "nothing on this machine was seen at work meanwhile, so it may be from outside."


def cache_resident(case: Case, cache: float) -> Verdict:
    """Weights that the last-level cache holds."""
    return case.verdict(
        "cache-resident",
        "explained",
        "cache",
        f"All of its weights ({size(case.bounds.resident)} with the embedding) fit in the last-level cache "
        f"({size(cache)}): memory bandwidth has no part in this speed.",
        "Do not carry this speed over to models that are larger than the cache.",
        last_level_cache_bytes=cache,
    )


def too_short(case: Case) -> Verdict:
    """Too little evidence to clear the phase."""
    window, limits = case.window, case.limits
    so_far = " so far" if window.under_way else ""
    return case.verdict(
        "unexplained",
        "caution",
        "too short",
        f"Too short to judge{so_far}: {window.repetitions} repetitions and {significant(window.seconds, 2)} s timed, "
        f"where {limits.repetitions} and {significant(limits.seconds, 2)} s are needed to call a speed clean.",
        "Wait until the phase is done." if window.under_way else "Give it more repetitions or more tokens.",
    )


def explanation(case: Case) -> Verdict:
    """Which ceiling a clean speed stands at, if any."""
    mbu, gb_s, ceiling = case.mbu, case.gb_s, case.bounds.ceiling
    if (computed := _compute_bound(case)) is not None:
        return computed
    if mbu is None or gb_s is None or ceiling is None:
        why = clean(case.bounds.why) or "the ceiling is not known"
        return case.verdict(
            "unexplained",
            "caution",
            "unexplained",
            f"There is nothing to hold this speed against: {why}.",
            "Let the bandwidth be measured next to this quant (memory free, nothing else running).",
        )
    moved = (
        f"It moved {significant(gb_s)} of {significant(ceiling.gb_s)} GB/s, {percent(mbu)} % of the "
        f"{clean(ceiling.how)} ceiling"
    )
    if case.limits.wall <= mbu <= case.limits.beyond:
        return case.verdict(
            "bandwidth-wall",
            "explained",
            "wall",
            f"{moved}: memory bandwidth sets this speed.",
            "Only fewer bytes per token make it faster: a smaller quant, or faster memory.",
        )
    if mbu > case.limits.beyond:
        return case.verdict(
            "unexplained",
            "caution",
            f"unexplained {brief(mbu)}%",
            f"{moved}, more than memory can give: the ceiling was measured in a slower moment, or a cache helps.",
            "Run it again (r): the ceiling is measured anew next to it.",
        )
    return _unexplained(case, mbu, moved)


def _compute_bound(case: Case) -> Verdict | None:
    compute, ceiling, reached = case.bounds.compute, case.bounds.ceiling, case.of_compute
    if compute is None or ceiling is None or not ceiling.gb_s or reached is None or case.gb_s is None:
        return None
    if compute >= case.limits.compute * ceiling.gb_s or not case.limits.computing <= reached <= case.limits.beyond:
        return None
    return case.verdict(
        "compute-bound",
        "explained",
        f"compute {percent(reached)}%",
        f"It works through {significant(case.gb_s)} GB/s of weights, {percent(reached)} % of the "
        f"{significant(compute)} GB/s that the arithmetic of its tensor types allows out of the cache; memory gives "
        f"{significant(ceiling.gb_s)}: dequantization sets this speed.",
        "More threads or a type with cheaper arithmetic (Q4_0, Q4_K) make it faster; faster memory does not.",
        1 - compute / ceiling.gb_s,
    )


def _unexplained(case: Case, mbu: float, moved: str) -> Verdict:
    """A speed below all ceilings that are known. `N % of ceiling` is of the lower one."""
    unseen = " Whether bytes were re-read cannot be told on this host." if case.reread.file is None else ""
    share, of_which = mbu, ""
    if case.of_compute is not None and case.of_compute > mbu:
        share, of_which = case.of_compute, f", {percent(case.of_compute)} % of what its arithmetic allows"
    advice = "Run it again (r) with nothing else running."
    if case.reread.file is None:
        advice = "Look for page-ins (weights that do not stay in memory) first; run it again with more memory free."
    elif case.bounds.compute is None:
        advice = "Run it again (r) with nothing else running; what stays may be the quant's own arithmetic (IQ types)."
    return case.verdict(
        "unexplained",
        "caution",
        f"unexplained {brief(share)}%",
        f"{moved}{of_which}: this is not the memory bandwidth's limit, and nothing that was measured says what is."
        f"{unseen}",
        advice,
    )
