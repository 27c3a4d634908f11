"""How a quant ran: its phases in time, what its engine said, what it was asked with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from quanttui.events import ContextMade
from quanttui.flags import brief as short
from quanttui.format import clean, clock, duration, size
from quanttui.state import Span as Phase
from quanttui.tui.dossier.forms import Grid, Item, Lane, Section, Subject, absent, fact, plural, says
from quanttui.tui.parts import Line, Span, Stretch

STDERR = 200
"""How many of the engine's last lines are shown."""

SPANS = 60
"""A quant with more spans than this took turns with others: they are told by phase, not one by one."""

SHARES = ("precision", "drift", "tolerance")
"""Settings that are shares of one."""


def timeline(at: Subject) -> Section:
    """The phases to scale, and when each began."""
    spans = [one for one in at.state.spans if one.arm == at.arm.id]
    if not spans:
        return Section("timeline", (says(absent(at, "load")),))
    now = at.state.t
    stretches = tuple(
        Stretch(at.mine.id, clean(one.phase, 20), one.start, _end(one, now), one.end is None) for one in spans
    )
    lane = Lane(stretches, spans[0].start, max(_end(one, now) for one in spans))
    whole = sum(_end(one, now) - one.start for one in spans)
    grid = _spans(spans, now) if len(spans) <= SPANS else _turns(spans, now)
    failed = [one for one in spans if one.error]
    errors = [fact("failed", f"{short(clean(one.phase, 20))}: ", (clean(one.error), "bad")) for one in failed]
    return Section("timeline", (lane, grid, *errors), (f"{duration(whole)} in all", "dim"))


def _end(one: Phase, now: float) -> float:
    return now if one.end is None else one.end


def _spans(spans: Sequence[Phase], now: float) -> Grid:
    """Every span."""
    several = any(one.attempt > 1 for one in spans)
    rows = []
    for one in spans:
        note: Span = ("running", "accent") if one.end is None else ("failed" if one.error else "", "bad")
        again = f" #{one.attempt}" if several else ""
        rows.append(_row(f"{short(one.phase)}{again}", one.start, _end(one, now) - one.start, note))
    return Grid(("phase", "", "began", "took"), tuple(rows), 2)


def _turns(spans: Sequence[Phase], now: float) -> Grid:
    """The spans by phase and attempt, where turns with other quants make them many."""
    found: dict[tuple[str, int], list[Phase]] = {}
    for one in spans:
        found.setdefault((one.phase, one.attempt), []).append(one)
    rows = []
    for (phase, attempt), each in found.items():
        again = f" #{attempt}" if attempt > 1 else ""
        took = sum(_end(one, now) - one.start for one in each)
        rows.append(_row(f"{short(phase)}{again}", each[0].start, took, (plural(len(each), "turn"), "dim")))
    return Grid(("phase", "", "began", "took"), tuple(rows), 2)


def _row(phase: str, start: float, seconds: float, note: Span) -> Line:
    took = f"{seconds:.1f}s" if seconds < 60 else duration(seconds)
    return (clean(phase, 30), "text"), note, (clock(start), "text"), (took, "text")


def last_words(at: Subject, stderr: Sequence[str]) -> Section:
    """The last lines that are not empty; of a failed engine those that the log quotes, where no others are at hand."""
    failed = at.arm.attempt.failed if at.arm.attempt is not None else None
    quoted = not stderr and failed is not None and bool(failed.stderr)
    said = failed.stderr if quoted and failed is not None else stderr
    lines = [text for line in said[-STDERR:] if (text := clean(line))]
    if not lines:
        return Section("stderr", (says("nothing at hand"),), wide=True)
    origin = "as the log quotes it" if quoted else f"the last {plural(len(lines), 'line')}"
    return Section("stderr", tuple(says(line, "text") for line in lines), (origin, "dim"), wide=True)


def tail(block: bytes, whole: bool = True) -> tuple[str, ...]:
    """The last lines of a file of stderr, for `of`.

    Args:
        block: the end of the file.
        whole: the file begins with it; otherwise its first line is torn, and left out.
    """
    lines = block.decode("utf-8", "replace").splitlines()
    return tuple(lines[0 if whole else 1 :][-STDERR:])


def requested(at: Subject) -> Section:
    """Every setting as asked, with what came of it where the engine said something."""
    loaded = at.attempt.loaded if at.attempt is not None else None
    came: dict[str, str] = {}
    if loaded is not None:
        came = {"gpu_layers": str(loaded.gpu_layers), "threads": str(loaded.threads)}
    if at.arm.plan.kv:
        came["kv"] = f"{clean(at.arm.plan.kv, 20)} for this arm"
    items: list[Item] = []
    for name, value in msgspec.structs.asdict(at.state.settings).items():
        asked = _asked(name, value)
        got = f" → {came[name]}" if came.get(name, asked) != asked else ""
        items.append(fact(name, asked, got))
    contexts = at.attempt.contexts if at.attempt is not None else {}
    items += [fact(f"{short(clean(phase, 20))}: context", _context(one)) for phase, one in contexts.items()]
    return Section("settings", tuple(items), ("as asked → as it came out", "dim"))


def _asked(name: str, value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, (tuple, list)):
        if value and isinstance(value[0], (tuple, list)):
            return ", ".join(f"{clean(str(key), 40)} {one:g}" for key, one in value)
        return ", ".join(clean(str(one), 80) for one in value) or "none"
    if name in SHARES:
        return f"{100 * value:g} %"
    if name == "gpu_layers" and value < 0:
        return "all"
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value)) or "not set"


def _context(one: ContextMade) -> str:
    flash = {True: "on", False: "off", None: "not told"}[one.flash_attn]
    return (
        f"n_ctx {one.n_ctx}, n_batch {one.n_batch}, n_ubatch {one.n_ubatch}, {plural(one.n_seq, 'sequence')}, KV "
        f"{clean(one.kv, 20) or 'not told'} {size(one.kv_bytes)}, compute {size(one.compute_bytes)}, flash attention "
        f"{flash}"
    )
