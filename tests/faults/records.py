"""A run of the lab as one line of JSON, so that runs add up in a file over several sittings. Pure but for the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from quanttui.errors import UserError

from .watch import Facts

CONTAMINATING = frozenset(
    {
        "out-of-memory",
        "swap-contaminated",
        "page-in-thrash",
        "settling",
        "vram-spill",
        "gpu-contention",
        "throttled",
        "cpu-contention",
        "memory-bus-contention",
    }
)
"""Codes that accuse, where the report does not name a verdict's kind."""

NOTHING = "nothing"
"""What an arm without any verdict on its decoding is called by."""


class Said(msgspec.Struct, frozen=True):
    """One verdict of the report, as far as the lab looks at it."""

    code: str
    phase: str = ""
    kind: str = ""

    @property
    def accuses(self) -> bool:
        """Whether it calls the speed contaminated."""
        return self.kind == "contaminated" if self.kind else self.code in CONTAMINATING

    @property
    def decodes(self) -> bool:
        """Whether it is about the arm's decode."""
        return self.phase in ("", "decode")


class Onset(msgspec.Struct, frozen=True):
    """A fault that begins amid a clean decode, and when a viewer could first see it. Seconds.

    `flagged`: from its beginning to the right verdict, None where that did not come before `waited` was over. `first`:
    to the first verdict that accuses, which may be another. `token`: the longest time without a token after the
    beginning. `clean`: timed before it.
    """

    flagged: float | None
    first: float | None = None
    token: float = 0.0
    waited: float = 0.0
    clean: float = 0.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of one run under one condition: what was right, what was said, and what is known of both.

    `kind` is clean, faulty, or either (near the fit). `void` is why it counts for nothing, "" where it counts.
    `session` is the same for the arms of one session. `seconds` is the run's whole duration.
    """

    condition: str
    kind: str
    right: tuple[str, ...]
    said: str
    void: str = ""
    verdicts: tuple[Said, ...] = ()
    outcome: str = ""
    error: str = ""
    tok_s: float | None = None
    gb_s: float | None = None
    mbu: float | None = None
    facts: Facts | None = None
    evidence: dict[str, Any] = {}
    onset: Onset | None = None
    arm: str = ""
    session: str = ""
    sitting: str = ""
    wall: float = 0.0
    seconds: float = 0.0
    threads: int = 0
    host: str = ""
    version: str = ""

    @property
    def counts(self) -> bool:
        return not self.void

    @property
    def correct(self) -> bool:
        return self.said in self.right


def of_arm(arm: dict[str, Any]) -> tuple[str, tuple[Said, ...], dict[str, Any]]:
    """What a report's arm says of its decode: the class, all verdicts in the report's order, the evidence of the first.

    The class is the code of the first verdict, those that accuse before the others.
    """
    found = [(Said(one["code"], one["phase"] or "", one.get("kind") or ""), one) for one in arm["verdicts"]]
    ours = [pair for pair in found if pair[0].decodes]
    ours.sort(key=lambda pair: not pair[0].accuses)
    verdicts = tuple(said for said, _ in found)
    if not ours:
        return (NOTHING if arm["outcome"] == "ok" else str(arm["outcome"])), verdicts, {}
    return ours[0][0].code, verdicts, dict(ours[0][1].get("evidence") or {})


def append(file: Path, record: Record) -> None:
    """Add a line. A file that cannot be written is told as a UserError."""
    try:
        with open(file, "ab") as out:
            out.write(msgspec.json.encode(record) + b"\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from None


def read(file: Path) -> Iterator[Record]:
    """The records of a file.

    Raises:
        UserError: it cannot be read, or a line is none.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield msgspec.json.decode(line, type=Record)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise UserError(f"{file}: line {number} is no run of the lab: {error}") from None
