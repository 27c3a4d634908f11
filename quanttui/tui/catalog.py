"""The list of sessions as frozen data: a row each, the newest first, one selected, and the question before one is
deleted. Pure: what the folders hold is handed in, nothing is read or removed here. All text in it is clean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from quanttui.format import ABSENT, clean, duration, size
from quanttui.session import Info
from quanttui.tui.parts import Row, Span

STATES: dict[str, tuple[str, str]] = {
    "running": ("▶", "accent"),
    "done": ("✓", "ok"),
    "interrupted": ("!", "warn"),
    "empty": ("·", "dim"),
    "unreadable": ("?", "bad"),
}
"""A session's state with its sign and role."""

HEADINGS = {"state": "state", "name": "session", "model": "model", "quants": "quants", "took": "took", "when": "when"}
"""The columns in order."""


class Weight(msgspec.Struct, frozen=True):
    """What is lost with a session: bytes on the disk, and snapshots, each of several files."""

    bytes: int = 0
    snapshots: int = 0


class Catalog(msgspec.Struct, frozen=True):
    """The screen's content. `selected` is a row's id, "" where there is none; `where` the folder that was listed.

    `place` says where the selected session lies, or what to do where there is none; `asked` is a question that waits
    for y or n, or a refusal, "" without.
    """

    where: str
    rows: tuple[Row, ...]
    selected: str
    place: str
    asked: Span = ("", "dim")


def of(
    found: Iterable[Info],
    where: str,
    selected: str = "",
    asked: Span = ("", "dim"),
    local: Callable[[float], time.struct_time] = time.localtime,
) -> Catalog:
    """The list.

    Args:
        found: the sessions, in any order.
        where: the folder that they lie in.
        selected: the id of a row (`key`); the first one where there is none of that id.
        asked: a question or a refusal (`question`, `refusal`).
        local: this machine's clock for a Unix time.
    """
    known = ordered(found)
    here = chosen(known, selected) or (known[0] if known else None)
    place = clean(str(here.folder)) if here is not None else "`quanttui demo` records one"
    place = f"{place}: {clean(here.note)}" if here is not None and here.note else place
    rows = tuple(Row(key(one), _cells(one, local)) for one in known)
    return Catalog(clean(where), rows, key(here) if here is not None else "", place, asked)


def key(one: Info) -> str:
    """A session's id on this screen."""
    return str(one.folder)


def ordered(found: Iterable[Info]) -> list[Info]:
    """The newest first; of one moment, by name."""
    return sorted(found, key=lambda one: (-one.wall, one.name))


def moved(found: Iterable[Info], selected: str, by: int) -> str:
    """The id of the session that many rows further down; the ends hold."""
    keys = [key(one) for one in ordered(found)]
    if not keys:
        return ""
    here = keys.index(selected) if selected in keys else 0
    return keys[max(0, min(len(keys) - 1, here + by))]


def chosen(found: Iterable[Info], selected: str) -> Info | None:
    """The selected session."""
    return next((one for one in found if key(one) == selected), None)


def weigh(listing: Iterable[tuple[str, int]]) -> Weight:
    """What a session's files amount to, by their paths (with slashes, from its folder on) and bytes.

    A snapshot's SVG, text and JSON go by one name, and are one.
    """
    files = [(path.split("/"), count) for path, count in listing]
    named = {parts[-1].rsplit(".", 1)[0] for parts, _ in files if len(parts) > 1 and parts[0] == "snapshots"}
    return Weight(sum(count for _, count in files), len(named))


def question(one: Info, lost: Weight) -> Span:
    """`delete NAME, 12 MiB, 3 snapshots? y/n`."""
    kept = f", {lost.snapshots} snapshot{'s' if lost.snapshots != 1 else ''}" if lost.snapshots else ""
    return f"delete {clean(one.name, 80)}, {size(lost.bytes)}{kept}? y/n", "warn"


def refusal(one: Info) -> Span | None:
    """Why a session is not deleted, None where it may be asked about."""
    if one.state != "running":
        return None
    return f"{clean(one.name, 80)} is running: stop its sweep first, then delete it", "bad"


def _when(wall: float, local: Callable[[float], time.struct_time]) -> str:
    """A moment as 2026-01-12 14:40."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", local(wall)) if wall > 0 else ABSENT
    except (OverflowError, ValueError, OSError):  # a log that says it is from the year 60000
        return ABSENT


def _cells(one: Info, local: Callable[[float], time.struct_time]) -> dict[str, Span]:
    sign, role = STATES.get(one.state, ("?", "dim"))
    whole = one.arms_done == one.arms
    return {
        "state": (f"{sign} {clean(one.state, 20)}", role),
        "name": (clean(one.name, 80) or ABSENT, "strong"),
        "model": (clean(one.model, 80) or ABSENT, "text"),
        "quants": (f"{one.arms_done}/{one.arms}" if one.arms else ABSENT, "text" if whole else "warn"),
        "took": (duration(one.seconds) if one.seconds > 0 else ABSENT, "text"),
        "when": (_when(one.wall, local), "dim"),
    }
