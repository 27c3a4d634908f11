"""What became of a session: its log as it was when a fault came against the log as it is now, and its qualities against
those of a sweep that nothing disturbed. Reads session folders; starts and ends nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from quanttui import events as e
from quanttui import session

KEPT = (e.UnitDone, e.Perplexity, e.Item)
"""Events that hold a result."""


@dataclass(frozen=True)
class Recorded:
    """The whole lines of a log."""

    log: bytes = b""

    @property
    def lines(self) -> list[bytes]:
        return self.log.splitlines()

    @property
    def events(self) -> list[e.Event]:
        """Those that this version knows; a line that is none is left out."""
        found = []
        for line in self.lines:
            with suppress(ValueError):
                event = e.decode(line)
                if isinstance(event, e.Event):
                    found.append(event)
        return found

    @property
    def begun(self) -> bool:
        """Whether there is a session at all: the first line opens it."""
        return bool(self.log)

    @property
    def closed(self) -> str:
        """How the last writer ended it, "" while it writes or where it was cut off."""
        last = self.events[-1:]
        return last[0].outcome if last and isinstance(last[0], e.SessionClosed) else ""

    @property
    def done(self) -> list[str]:
        """The units recorded, in their order."""
        return [event.unit.id for event in self.events if isinstance(event, e.UnitDone)]

    @property
    def failed(self) -> dict[str, e.ArmFailed]:
        """The arms that failed and were not done again."""
        last: dict[str, e.Event] = {}
        for event in self.events:
            if isinstance(event, (e.ArmFailed, e.ArmDone)):
                last[event.arm] = event
        return {arm: event for arm, event in last.items() if isinstance(event, e.ArmFailed)}

    @property
    def complete(self) -> set[str]:
        """The arms that are done."""
        return {event.arm for event in self.events if isinstance(event, e.ArmDone)} - set(self.failed)

    @property
    def planned(self) -> set[str]:
        """The arms of the plan."""
        return {arm.id for event in self.events if isinstance(event, e.SessionOpened) for arm in event.plan}


def recorded(folder: Path) -> Recorded:
    """What a session's log holds now; nothing where there is none."""
    try:
        data = (folder / session.EVENTS).read_bytes()
    except OSError:
        return Recorded()
    return Recorded(data[: data.rfind(b"\n") + 1])


# --- the log --------------------------------------------------------------------------------------------------------


def lost(before: Recorded, after: Recorded) -> int:
    """Results that were recorded and are there no more."""
    if after.log.startswith(before.log):
        return 0
    there = set(after.lines)
    return sum(isinstance(_event(line), KEPT) for line in before.lines if line not in there)


def _event(line: bytes) -> e.Event | e.Unknown | None:
    try:
        return e.decode(line)
    except ValueError:
        return None


def run_again(after: Recorded) -> list[str]:
    """Units that were recorded and yet begun or recorded once more."""
    done: set[str] = set()
    again: dict[str, None] = {}
    for event in after.events:
        if isinstance(event, (e.UnitStarted, e.UnitDone)) and event.unit.id in done:
            again[event.unit.id] = None
        if isinstance(event, e.UnitDone):
            done.add(event.unit.id)
    return list(again)


def irregular(after: Recorded) -> Iterator[str]:
    """What no log of ours may have: lines that are no event, gaps in the numbers, time that runs back."""
    events = [_event(line) for line in after.lines]
    amiss = sum(not isinstance(event, e.Event) for event in events)
    if amiss:
        yield f"{amiss} lines of the log are no event"
    known = [event for event in events if isinstance(event, e.Event)]
    if [event.n for event in known] != list(range(known[0].n, known[0].n + len(known)) if known else ()):
        yield "the numbers of the log's events have gaps"
    if any(after.t < before.t for before, after in pairwise(known)):
        yield "the log's time runs back"


# --- qualities ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A result as it must come out every time. `own` follows from the arm alone, `base` from the base's logits too:
    None where there were none."""

    own: bytes
    base: bytes | None = None


@dataclass(frozen=True)
class Qualities:
    """What a session says of its arms, clocks left out. Keys are an arm and the chunk or item.

    `torn`: a result was recorded twice, and not the same.
    """

    values: Mapping[tuple[str, str], Value] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    torn: tuple[str, ...] = ()

    def of(self, arm: str) -> dict[str, Value]:
        return {name: value for (one, name), value in self.values.items() if one == arm}


def qualities(folder: Path) -> Qualities:
    """All that a session recorded of quality: chunks with the tokens' own values in raw/, and answers with their lines
    there."""
    values: dict[tuple[str, str], Value] = {}
    torn = []
    for event in recorded(folder).events:
        if isinstance(event, e.Perplexity):
            key, value = (event.unit.arm, f"chunk {event.chunk}"), _chunk(folder, event)
        elif isinstance(event, e.Item):
            key, value = (event.unit.arm, f"{event.unit.task} {event.unit.item}"), _item(folder, event)
        else:
            continue
        known = values.setdefault(key, value)
        if known.own != value.own:
            torn.append(" ".join(key))
        values[key] = value
    raw = {path.name: path.read_bytes() for path in sorted((folder / "raw").glob("*")) if path.suffix in _ROWS}
    return Qualities(values, raw, tuple(torn))


_ROWS = (".nll", ".kld")


def _chunk(folder: Path, event: e.Perplexity) -> Value:
    bare = msgspec.structs.replace(event, n=0, t=0.0, at=0.0, ns=0, against=None, diverged=None)
    own = e.encode(bare) + _bytes(folder, event.file, event.offset, 8 * event.scored)
    against = msgspec.json.encode(event.against) if event.against else b""
    if event.diverged is None:
        return Value(own, against or None)
    rows = _bytes(folder, event.diverged.file, event.diverged.offset, 32 * event.scored)
    return Value(own, against + msgspec.json.encode(event.diverged) + rows)


def _item(folder: Path, event: e.Item) -> Value:
    """How many of a prompt's tokens were in memory already is another matter after a break."""
    bare = msgspec.structs.replace(event, n=0, t=0.0, at=0.0, ns=0, offset=0, shared=0)
    line = _bytes(folder, event.file, event.offset, 1 << 20).partition(b"\n")[0]
    told: dict[str, Any] = msgspec.json.decode(line or b"{}")
    rest = {name: part for name, part in told.items() if name not in ("ns", "shared")}
    return Value(e.encode(bare) + msgspec.json.encode(rest, order="sorted"))


def _bytes(folder: Path, file: str, offset: int, length: int) -> bytes:
    """A stretch of a file of raw/, shorter where that ends; nothing where there is no file."""
    if not file:
        return b""
    try:
        with open(folder / file, "rb") as opened:
            return os.pread(opened.fileno(), length, offset)
    except OSError:
        return b""


def differences(found: Qualities, wanted: Qualities, complete: set[str], base: str = "") -> list[str]:
    """Where the qualities of a session are not those of an undisturbed one.

    Args:
        complete: arms that are done: they must have everything. Of others what there is must be the same.
        base: the arm that others are held against. Where it is not done, nothing is said of what follows from it.
    """
    told = [f"{name} recorded twice, and not the same" for name in found.torn]
    for arm in sorted({arm for arm, _ in wanted.values}):
        mine, theirs = found.of(arm), wanted.of(arm)
        if arm in complete:
            told += [f"{arm} {name} is missing" for name in theirs if name not in mine]
        told += [f"{arm} {name} is too much" for name in mine if name not in theirs]
        for name in (name for name in mine if name in theirs):
            ours, its = mine[name], theirs[name]
            if ours.own != its.own or (base in complete and ours.base != its.base):
                told.append(f"{arm} {name} differs")
    for name, content in wanted.files.items():
        arm, kind = os.path.splitext(name)
        whole = arm in complete and (kind != ".kld" or base in complete)
        if whole and found.files.get(name) != content:
            told.append(f"raw/{name} differs")
    return told


def manifest(folder: Path) -> str:
    """What is wrong with a session's manifest, "" where nothing is."""
    try:
        json.loads((folder / session.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{session.MANIFEST}: {error}"
    return ""
