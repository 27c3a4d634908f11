"""Which units an arm consists of. Pure: settings and what is recorded in, units out.

A unit is never repeated once it is recorded: resuming is nothing but asking for the units that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from quanttui import events as e
from quanttui.state import Arm, Attempt

TIMED = ("prompt", "decode", "anchor")
"""Kinds of units whose time is their result."""

EVIDENCE_SECONDS = 3.0
"""Decode goes on until this much is timed: below it the engine's counters are too short to judge by
(128 tokens of a tiny model last 0.05 s)."""

EVIDENCE_REPETITIONS = 5
"""llama-bench's own number; who asks for fewer gets just those, and a verdict that says "too short to judge"."""

MOST_REPETITIONS = 500
"""Decode ends here even below EVIDENCE_SECONDS."""


def groups(settings: e.Settings, chunks: int, arm: str) -> list[e.Unit]:
    """Perplexity units: the chunks that llama-perplexity decodes together (n_batch / n_ctx of them), in text order."""
    together = max(1, settings.batch // settings.context)
    return [
        e.Unit(arm=arm, kind="perplexity", index=first, count=min(together, chunks - first))
        for first in range(0, chunks, together)
    ]


def missing(units: list[e.Unit], arm: Arm) -> list[e.Unit]:
    """Those of `units` that are not recorded yet."""
    return [unit for unit in units if unit.id not in arm.units]


def kinds(settings: e.Settings) -> list[str]:
    """The speed phases that the settings ask for, in llama-bench's order."""
    if "speed" not in settings.tasks or settings.repetitions == 0:
        return []
    return [kind for kind, tokens in (("prompt", settings.prompt), ("decode", settings.decode)) if tokens > 0]


def wants_perplexity(settings: e.Settings) -> bool:
    """Whether the settings ask for perplexity units."""
    return "ppl" in settings.tasks and settings.chunks != 0


def repetitions(settings: e.Settings, arm: str, attempt: Attempt, kind: str) -> Iterator[e.Unit]:
    """Repetitions of one speed phase, one by one: as many as asked for, and of decode more until EVIDENCE_SECONDS
    are timed. Looks at `attempt` anew before each, so that what was just recorded counts."""
    tokens = settings.prompt if kind == "prompt" else settings.decode
    for index in range(max(settings.repetitions, MOST_REPETITIONS)):
        enough = index >= settings.repetitions
        if enough and (kind != "decode" or settings.repetitions < EVIDENCE_REPETITIONS):
            return
        if enough and sum(one.ns for one in attempt.decode) >= EVIDENCE_SECONDS * 1e9:
            return
        yield e.Unit(arm=arm, kind=kind, index=index, tokens=tokens, depth=settings.depths[0], attempt=attempt.number)
