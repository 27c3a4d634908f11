"""Rules on GPUs: memory that spilled to the host, layers that stayed there, other processes, and slowed clocks."""

from __future__ import annotations

from quanttui.diagnosis.case import Case, Verdict
from quanttui.format import percent, significant, size


def rules(case: Case) -> list[Verdict]:
    """What a device says of the phase; nothing where no layer lies on one."""
    if not case.bounds.offloaded:
        return []
    found = [_spill(case), _contention(case), _throttled(case), _partial(case)]
    return [one for one in found if one is not None]


def _spill(case: Case) -> Verdict | None:
    limits, bounds, seen = case.limits, case.bounds, case.window.devices
    grown = bounds.spilled if bounds.spilled and bounds.spilled >= limits.spill * bounds.resident else None
    waits = seen.get("util", 0.0) >= 100 * limits.busy and seen.get("dram", 100.0) <= 100 * limits.idle_memory
    if grown is None and not (waits and case.window.phase == "decode"):
        return None
    if grown is not None:
        said = f"{size(grown)} of its memory lie in the host's since the load: they come over the bus for every token."
    else:
        said = (
            f"Its kernels run for {significant(seen['util'], 2)} % of the time while its memory is used for "
            f"{significant(seen['dram'], 2)} %: they wait for memory that is not its own."
        )
    return case.verdict(
        "vram-spill",
        "contaminated",
        "vram spill",
        said,
        "Offload fewer layers (--gpu-layers), take a shorter context, or switch off the driver's fallback to memory of "
        "the host.",
        None if case.mbu is None else max(0.0, 1 - case.mbu),
    )


def _contention(case: Case) -> Verdict | None:
    """Other processes on a device, where something of the speed is missing. Those that hold next to nothing of its
    memory (a desktop's) are a caution."""
    others = case.window.devices.get("others", 0.0)
    if others < 0.5 or not case.is_below or case.window.phase != "decode":
        return None
    held = case.window.devices.get("others_mem")
    holding = f", which hold {size(held)} of its memory" if held else ""
    idle = held is not None and held < case.limits.tenant * case.bounds.resident
    return case.verdict(
        "gpu-contention",
        "caution" if idle else "contaminated",
        "gpu shared",
        f"About {others:.0f} other process{'es' if others >= 1.5 else ''} used the GPU meanwhile{holding}, and the "
        "speed is below what its bandwidth allows.",
        "End what else runs on the GPU, and run it again (r).",
        None if case.mbu is None else max(0.0, 1 - case.mbu),
    )


def _throttled(case: Case) -> Verdict | None:
    limits, seen, best = case.limits, case.window.devices, case.bounds.best_clock
    slowed, clock = seen.get("slowed", 0.0), seen.get("clock")
    down = clock / best if clock is not None and best else None
    by_clock = down is not None and down < limits.clock and case.is_below and case.window.phase == "decode"
    if slowed < limits.throttled and not by_clock:
        return None
    why = f"in {percent(slowed)} % of the readings heat or the hardware held its clock down"
    if slowed < limits.throttled and down is not None:
        why = f"its clock was at {percent(down)} % of the best one seen"
    return case.verdict(
        "throttled",
        "contaminated",
        "throttled",
        f"The GPU was slowed: {why}. A power cap alone would not count.",
        "Let it cool down, or fix its clocks for all quants alike, and run it again (r).",
        None if down is None else max(0.0, 1 - down),
    )


def _partial(case: Case) -> Verdict | None:
    bounds, rate = case.bounds, case.window.tok_s
    if case.window.phase != "decode" or not 0 < (bounds.offloaded or 0) < bounds.layers:
        return None
    layers = f"{bounds.offloaded} of {bounds.layers} layers"
    advice = "Offload all layers with a smaller quant or a shorter context, or compare with the CPU alone."
    if bounds.split is None or rate is None:
        why = f": no speed is predicted, {bounds.split_why}" if bounds.split_why else ""
        said = f"{layers} are on the GPU, the others on the host{why}."
        return case.verdict("partial-offload", "caution", f"partial {bounds.offloaded}/{bounds.layers}", said, advice)
    reached = rate / bounds.split
    kind = "explained" if case.limits.wall <= reached <= case.limits.beyond else "caution"
    return case.verdict(
        "partial-offload",
        kind,
        f"partial {bounds.offloaded}/{bounds.layers}",
        f"{layers} are on the GPU, the others on the host: both memories read in turn allow "
        f"{significant(bounds.split)} tok/s, of which it reached {percent(reached)} %.",
        advice,
    )
