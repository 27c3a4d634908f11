"""Verdicts."""

from __future__ import annotations

import msgspec

from quanttui.state import Arm, State

CODES = (
    "out-of-memory",
    "swap-contaminated",
    "page-in-thrash",
    "edge-of-memory",
    "settling",
    "vram-spill",
    "partial-offload",
    "throttled",
    "cpu-contention",
    "memory-bus-contention",
    "compute-bound",
    "bandwidth-wall",
    "cache-resident",
    "unexplained",
)

GLYPHS = {"contaminated": "[!!]", "caution": "[!]", "explained": "[=]"}


class Verdict(msgspec.Struct, frozen=True):
    """A judgement on one phase of one arm, with its evidence."""

    code: str
    phase: str
    kind: str
    words: str
    sentence: str
    advice: str
    evidence: dict[str, float | str]

    @property
    def glyph(self) -> str:
        return GLYPHS[self.kind]


def of_arm(state: State, arm: Arm) -> tuple[Verdict, ...]:
    return ()


def live(state: State) -> tuple[Verdict, ...]:
    return ()
