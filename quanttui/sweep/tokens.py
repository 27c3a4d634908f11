"""Times of tokens that the log is not to take one by one: of fast ones they go to raw/, and sums to the log; of answers
to tasks, on whose single tokens nothing rests, only sums are kept. Owns which they are, and that file's layout.
"""

from __future__ import annotations

import sys
from array import array
from itertools import pairwise
from pathlib import Path

import msgspec

from quanttui import events as e
from quanttui import paths, session

FAST = 50.0
"""Tokens a second up to which the log has each: at 500 they would make 18 MB of it an hour, more than all else."""

LONGEST_NS = 2**32
"""A token of four seconds fits no uint32: those that came with it stay in the log."""


def kept(folder: Path, event: e.Tokens) -> e.Tokens:
    """The event as it goes to the log. What cannot be written to raw/ stays in it."""
    count, total = len(event.ns), sum(event.ns)
    parts = max(1, int(FAST * total / 1e9))
    if event.count or count > e.TOGETHER:
        return event
    if event.unit.kind == "task" and count > 1:
        return msgspec.structs.replace(event, ns=(total,), count=count)
    if parts >= count or max(event.ns) >= LONGEST_NS:
        return event
    path = session.part(folder, "raw", f"{event.unit.arm}.tokens")
    try:
        offset = _put(path, event.ns)
    except OSError:
        return event
    edges = [part * count // parts for part in range(parts + 1)]
    sums = tuple(sum(event.ns[begin:end]) for begin, end in pairwise(edges))
    return msgspec.structs.replace(event, ns=sums, count=count, file=f"raw/{path.name}", offset=offset)


def _put(path: Path, ns: tuple[int, ...]) -> int:
    """Append the times; where they begin."""
    row = array("I", ns)
    if sys.byteorder == "big":
        row.byteswap()
    with open(path, "ab", opener=paths.private) as file:
        file.write(row.tobytes())
        return file.tell() - len(row) * row.itemsize
