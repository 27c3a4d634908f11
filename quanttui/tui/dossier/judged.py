"""What is to be believed of a quant: verdicts with evidence, the lines that they were drawn at, tainted stretches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from quanttui.diagnosis import parts, taint, thresholds, windows
from quanttui.diagnosis.case import Verdict
from quanttui.diagnosis.taint import Found
from quanttui.flags import LEVELS
from quanttui.flags import brief as short
from quanttui.format import clean, clock, percent, significant, size
from quanttui.state import Attempt
from quanttui.tui import panels
from quanttui.tui.dossier.forms import Fact, Grid, Item, Section, Subject, absent, fact, plural, says, test_name
from quanttui.tui.parts import Line

LINES: dict[str, tuple[str, ...]] = {
    "out-of-memory": (),
    "swap-contaminated": ("contaminated", "edge"),
    "page-in-thrash": ("contaminated", "edge"),
    "edge-of-memory": ("edge", "contaminated"),
    "settling": ("contaminated", "edge", "window"),
    "vram-spill": ("spill", "busy", "idle_memory"),
    "partial-offload": ("wall", "beyond"),
    "gpu-contention": ("tenant", "wall"),
    "throttled": ("throttled", "clock", "wall"),
    "cpu-contention": ("cpu_share", "cpu_share_now", "blame", "window"),
    "memory-bus-contention": ("bus", "others"),
    "drifting": (),
    "compute-bound": ("compute", "computing", "beyond"),
    "bandwidth-wall": ("wall", "beyond"),
    "cache-resident": (),
    "unexplained": ("wall", "beyond"),
}
"""The thresholds (diagnosis.thresholds) that a verdict's rule draws its line at, by its code."""

TOO_SHORT = ("repetitions", "seconds")
"""Those of a phase that is called too short to judge."""

_UNITS = {"repetitions": "", "seconds": " s", "window": " s", "others": " cores"}
"""Thresholds that are no shares, with their units."""


def verdicts(at: Subject) -> Section:
    """Every verdict with its advice, cost and thresholds, then the evidence by phase."""
    judged = at.mine.verdicts
    if not judged:
        fine = "nothing to object" if at.mine.tensor_types else "not judged: only its figures were imported"
        said = fine if at.mine.outcome == "ok" else absent(at, "decode")
        return Section("verdicts", (says(said),))
    items: list[Item] = []
    for one in judged:
        items += _verdict(at, one, judged)
    for phase in dict.fromkeys(one.phase for one in judged):
        items += _evidence(phase, _common(judged, phase))
    return Section("verdicts", tuple(items), (plural(len(judged), "verdict"), "dim"))


def _verdict(at: Subject, one: Verdict, judged: Sequence[Verdict]) -> Iterator[Item]:
    phase = f" {short(one.phase)}" if one.phase else ""
    role = LEVELS[one.kind]
    yield Fact("", ((f"{panels.flag(one)}", role), (f"{phase}  {one.code}, {one.kind}", "dim")))
    yield fact("", f"  {clean(one.sentence, 600)}")
    yield fact("", f"  → {clean(one.advice, 600)}")
    if one.cost is not None and one.phase:
        yield says(f"  cost: about {percent(one.cost)} % of the speed")
    if drawn := _drawn(at, one):
        yield says(f"  lines drawn at: {drawn}")
    own = {name: value for name, value in one.evidence.items() if name not in _common(judged, one.phase)}
    if own:
        yield says(f"  {'; '.join(f'{clean(name, 80)} {_figure(name, value)}' for name, value in own.items())}")


def _drawn(at: Subject, one: Verdict) -> str:
    """The thresholds of a verdict's rule; those that the session has moved say so."""
    limits, told = thresholds.of(at.state.settings), []
    for name in TOO_SHORT if one.words == "too short" else LINES.get(one.code, ()):
        value, usual = getattr(limits, name), getattr(thresholds.DEFAULTS, name)
        moved = f" (moved from {_limit(name, usual)})" if value != usual else ""
        told.append(f"{name.replace('_', ' ')} {_limit(name, value)}{moved}")
    return ", ".join(told)


def _limit(name: str, value: float) -> str:
    return f"{value:g}{_UNITS[name]}" if name in _UNITS else f"{100 * value:g} %"


def _common(judged: Sequence[Verdict], phase: str) -> dict[str, float | str]:
    """The evidence that all verdicts on a phase share: told once."""
    mine = [one.evidence for one in judged if one.phase == phase]
    return {name: value for name, value in mine[0].items() if all(other.get(name) == value for other in mine[1:])}


def _evidence(phase: str, evidence: dict[str, float | str]) -> Iterator[Item]:
    # Of re-reads that there were none of, the share alone is told.
    told = {name: value for name, value in evidence.items() if value != 0 or "%" in name}
    figures = {name: value for name, value in told.items() if not isinstance(value, str)}
    title = f"evidence, {short(phase)}" if phase else "evidence"
    if figures:
        rows = tuple(((clean(name, 80), "dim"), (_figure(name, value), "text")) for name, value in figures.items())
        yield Grid((title, ""), rows)
    for name, words in evidence.items():
        if isinstance(words, str):
            yield Fact("", ((f"{clean(name, 80)}: ", "dim"), (clean(words), "text")))


def _figure(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return clean(value)
    if "bytes" in name and "%" not in name:
        return size(value)
    return str(int(value)) if math.isfinite(value) and value == int(value) else significant(value)


def contaminated(at: Subject) -> Section:
    """The stretches of time in which something contaminated a phase."""
    rows: list[Line] = []
    measured = False
    for kind in ("prompt", "decode"):
        for depth in at.state.settings.depths:
            attempt = parts.under_way(at.state, at.arm, kind, depth) or windows.latest(at.arm, kind)
            if attempt is not None:
                measured = True
                rows += _tainted_rows(stretches(at, attempt, kind, depth), test_name(at, kind, depth))
    if rows:
        grid = Grid(("phase", "what", "from", "to", "seconds", "worst"), tuple(rows), 2)
        return Section("contaminated stretches", (grid,), (str(len(rows)), "bad"))
    said = "none" if measured else absent(at, "decode")
    if measured and any(one.kind == "contaminated" and one.phase != "perplexity" for one in at.mine.verdicts):
        said = "no stretches: what contaminated it holds for all of its phase"
    return Section("contaminated stretches", (says(said),))


def _tainted_rows(found: Found, test: str) -> Iterator[Line]:
    for one in found.intervals:
        of_what = "of its CPU time" if one.code == taint.CPU else "re-read"
        yield (
            (test, "text"),
            (one.code, "bad"),
            (clock(one.start), "text"),
            (clock(one.end), "text"),
            (significant(one.seconds), "text"),
            (f"{percent(one.worst)} % {of_what}", "text"),
        )


def stretches(at: Subject, attempt: Attempt, kind: str, depth: int) -> Found:
    """The contaminated stretches of prompt or decode at one depth, in one attempt."""
    bounds = windows.bounds(at.state, at.arm, attempt, kind, depth)
    if bounds is None:
        return Found()
    return taint.of(at.state, at.arm, attempt, kind, bounds, thresholds.of(at.state.settings), depth)
