"""A plan or a matrix for people and for programs. Plain text of 100 columns at most, or one JSON object, schema 1:

    {"schema": 1, "kind": "plan", "model", "context", "kv", "rooms": [{"device", "total", "free", "note", "within"}],
     "bandwidth": {device: GB/s}, "seconds": {"low", "high"}, "notes": [text],
     "arms": [{"id", "quant", "bytes", "context", "weights", "kv", "compute", "need" (bytes by device), "output",
       "twice", "offloaded", "verdict", "spare", "device", "longest", "trained", "tok_s", "tok_s_full"
       ({"low", "high"}), "slow_why", "seconds", "estimated", "note"}]}
    {"schema": 1, "kind": "matrix", "model", "kv", "memories", "contexts", "notes",
     "rows": [[{"memory", "context", "quant", "need", "tight"}]]}

Sizes are bytes; what is absent is null. A verdict is fits, tight, no or unknown; a cell without a quant has the bytes
that the smallest one needs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from quanttui.diagnosis.fit import Cell, Fitted, Matrix, Plan, Range, Room
from quanttui.format import ABSENT, clean, gib, significant, size

SCHEMA = 1
WIDTH = 100

GLYPHS = {"fits": "✓", "tight": "!", "no": "✗", "unknown": "?"}
"""Beside the word, never instead of it."""


def report(found: Plan | Matrix) -> str:
    """The plan or the matrix as text."""
    return "\n".join(_plan(found) if isinstance(found, Plan) else _matrix(found))


def data(found: Plan | Matrix) -> dict[str, Any]:
    """The plan or the matrix as the object above."""
    plain: dict[str, Any] = msgspec.to_builtins(found)
    if isinstance(found, Matrix):
        return {"schema": SCHEMA, "kind": "matrix", **plain}
    seconds = {"low": plain.pop("seconds_low"), "high": plain.pop("seconds_high")}
    arms = [{**plain_arm, "kv": arm.kv} for plain_arm, arm in zip(plain.pop("arms"), found.arms, strict=True)]
    return {"schema": SCHEMA, "kind": "plan", **plain, "seconds": seconds, "arms": arms}


# --- plan -----------------------------------------------------------------------------------------------------------


def _plan(plan: Plan) -> Iterator[str]:
    yield clean(f"{plan.model}: what fits at a context of {plan.context} tokens, KV cache {plan.kv}", WIDTH)
    yield from (f"  {_room(room)}" for room in plan.rooms)
    if not plan.rooms:
        yield "  how much memory is free is not known here"
    yield ""
    wide = max([5, *(len(clean(arm.id, 16)) for arm in plan.arms)])
    yield f"{'quant':<{wide}} weights     KV  buffers   needs    spare  {'GiB':<14} longest    tok/s    sweep"
    for arm in plan.arms:
        yield _arm(arm, wide)
        if len([held for held in arm.need.values() if held]) > 1:
            each = ", ".join(f"{device} {gib(held)} GiB" for device, held in arm.need.items())
            yield " " * (wide + 1) + clean(f"{each}; {arm.offloaded} layers offloaded", 90 - wide)
    yield ""
    yield f"the sweep of those that fit: {_between(plan.seconds_low, plan.seconds_high)}, a guess"
    for note in plan.notes:
        yield from _wrapped(f"note: {clean(note, 400)}")


def _room(room: Room) -> str:
    shared = f", part of {room.within}'s" if room.within else ""
    return clean(f"{room.device}: {size(room.free)} free of {size(room.total)}{shared}", WIDTH - 2)


def _arm(arm: Fitted, wide: int) -> str:
    """Figures in GiB; a star where buffers are estimated."""
    buffers = sum(arm.compute.values()) + arm.output
    cells = (
        f"{clean(arm.id, 16):<{wide}}",
        f"{gib(sum(arm.weights.values())):>7}",
        f"{gib(sum(arm.kv.values())):>6}",
        f"{gib(buffers, 2) + ('*' if arm.estimated else ''):>8}",
        f"{gib(arm.total):>7}",
        f"{gib(arm.spare):>8}",
        f" {GLYPHS[arm.verdict]} {arm.words:<12}",
        f"{_context(arm.longest):>7}",
        f"{_rate(arm.tok_s):>9}",
        f"{_between(arm.seconds.low, arm.seconds.high):>8}",
    )
    return " ".join(cells)[:WIDTH].rstrip()


def _context(tokens: int | None) -> str:
    """In whole thousands of 1024 where it is that much: 128K, 9.5K, 512."""
    if tokens is None:
        return ABSENT
    if tokens < 1024:
        return str(tokens)
    return f"{significant(tokens / 1024, 2 if tokens < 10240 else 3).removesuffix('.0')}K"


def _rate(rate: Range | None) -> str:
    return ABSENT if rate is None else f"{significant(rate.low, 2)}-{significant(rate.high, 2)}"


def _between(low: float, high: float) -> str:
    short, long = _about(low), _about(high)
    return short if short == long else f"{short}-{long}"


def _about(seconds: float) -> str:
    """No more digits than a guess has: seconds, minutes, hours or days."""
    for unit, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f}{letter}"
    return f"{max(0.0, seconds):.0f}s"


# --- matrix ---------------------------------------------------------------------------------------------------------


def _matrix(matrix: Matrix) -> Iterator[str]:
    yield clean(f"{matrix.model}: the best quant by free memory and context, KV cache {matrix.kv}", WIDTH)
    yield ""
    shown = max(1, (WIDTH - 9) // _CELL)
    for start in range(0, len(matrix.contexts), shown):
        columns = slice(start, start + shown)
        yield f"{'memory':>9}" + "".join(f"{_context(context):>{_CELL}}" for context in matrix.contexts[columns])
        for memory, row in zip(matrix.memories, matrix.rows, strict=True):
            yield f"{size(memory):>9}" + _cells(row[columns])
        yield ""
    yield "with each quant the GiB that it needs; ! is tight, ✗ where none fits: what the smallest needs"
    for note in matrix.notes:
        yield from _wrapped(f"note: {clean(note, 400)}")


_CELL = 17


def _cells(row: Sequence[Cell]) -> str:
    said = (f"{clean(cell.quant, 8) or '✗'}{' !' if cell.tight else ''} {gib(cell.need)}" for cell in row)
    return "".join(f"{each:>{_CELL}}" for each in said)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
