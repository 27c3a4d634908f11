"""Whether several models may be loaded at once without making each other's memory tight. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quanttui.state import State

SPARE = 0.20
"""The share of memory that is left free with all of them loaded."""

OVERHEAD, BESIDE = 1.10, 512 << 20
"""What an engine needs beside its file: repacked copies of some tensors, and KV cache, compute and output buffers of a
perplexity's context (of a 8B model about that)."""

STALLED = 10_000
"""Microseconds a second in which some task waited for memory, above which memory is under pressure: 1 %."""


def fits(sizes: Iterable[int | None], memory: Mapping[str, float], gpus: tuple[float, float] | None = None) -> bool:
    """Whether files of these sizes (bytes) may be loaded together: SPARE of the memory stays free.

    Args:
        memory: mem.total and mem.available before any of them is loaded, in bytes; empty where they are unknown.
        gpus: where layers are offloaded: total and free memory of all devices, in bytes. They must hold it all, too.
    """
    known = list(sizes)
    if not memory or None in known:
        return False
    needs = sum(OVERHEAD * size + BESIDE for size in known if size is not None)
    host = memory["mem.available"] - needs >= SPARE * memory["mem.total"]
    return host and (gpus is None or gpus[1] - needs >= SPARE * gpus[0])


def arms_fit(state: State, names: Iterable[str], memory: Mapping[str, float]) -> bool:
    """Whether arms of a session may be loaded together, as things stand: nothing waits for memory now."""
    arms = [state.arms[name] for name in names]
    waits = state.series.get("psi.memory.some/s")
    if waits is not None and waits.last is not None and waits.last > STALLED:
        return False
    return fits([arm.file.bytes if arm.file else arm.plan.bytes for arm in arms], memory, gpus(state))


def gpus(state: State) -> tuple[float, float] | None:
    """Total and free memory of the devices, where layers are offloaded; (0, 0) where that is not known."""
    if state.settings.gpu_layers == 0 or not (state.build and state.build.gpu_offload):
        return None
    total = sum(value for name, value in state.readings.items() if name.endswith(".mem_total"))
    used = sum(value for name, value in state.readings.items() if name.endswith(".mem_used"))
    return total, total - used
