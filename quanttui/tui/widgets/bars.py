"""The lines above and below the panels: header, strip of quants, lane, steps, verdict, events, status, footer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from quanttui.format import clock, size
from quanttui.tui import keys
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Entry, Line, Mark, Span, Stretch, View
from quanttui.tui.widgets.sheet import crop, cut, length, pad, rule, shown, sides, width_of

LETTERS = {
    "quantize": "Q", "hash": "H", "load": "L", "bandwidth": "B", "warm": "W", "prompt": "P", "decode": "G",
    "perplexity": "X", "task": "T", "cool": "C", "anchor": "A", "idle": "I", "paused": "Z",
}  # fmt: skip
"""A phase's letter in the lane."""

LANE = " lane  "

ROLES = {"prompt": "prompt", "decode": "speed", "perplexity": "perplexity"}
"""A phase's colour; those that measure nothing are dim."""


def header(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Model, machine, mode, quants done, session time, time left."""
    right: list[Span] = [(view.mode, view.mode_role), (f"  {view.done}/{view.total}", "text")]
    right += [(" quants", "dim")] if width >= 100 else []
    right += [(f"  {view.clock}", "text"), (f" of {view.end}" if view.end and width >= 60 else "", "dim")]
    right += [(f"  {view.left}" if view.left and not view.end else "", "text"), (" ", "")]
    tail = shown(right, glyphs)
    room = width - length(tail) - 2
    left: list[Span] = [(" quanttui ", "title"), (" ", "")]
    where = glyphs.text(view.where)
    model = glyphs.text(view.model)
    if width < 60:
        left = [(" ", "")]
    space = room - length(left)
    if space > 4:
        left += cut(((model, "strong"),), space, glyphs)
        space -= min(space, width_of(model)) + 3
        if space >= width_of(where) and where:
            left.append((f"   {where}", "dim"))
    return [sides(left, tail, width, glyphs)]


def strip(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The quants with their signs, as many as fit around the one under way."""
    gap = 2 if width >= 100 else 1
    marks = view.marks
    first, last = _fitting(marks, width - 6, gap, view.selected)
    spans: list[Span] = [(" ", "")]
    if first:
        spans.append((f"+{first} ", "dim"))
    for mark in marks[first:last]:
        name_role = mark.role if mark.role in ("accent", "bad", "warn") else "text" if mark.role == "ok" else "dim"
        spans += [(mark.sign, mark.role), (mark.name, name_role), (" " * gap, "")]
    if last < len(marks):
        spans.append((f"+{len(marks) - last}", "dim"))
    return [crop(shown(spans, glyphs), width)]


def _fitting(marks: Sequence[Mark], width: int, gap: int, near: str) -> tuple[int, int]:
    """A run of marks (first, end) that fits in `width` and holds the one that runs, from the first if that will do."""
    sizes = [width_of(mark.sign) + width_of(mark.name) + gap for mark in marks]
    here = next((i for i, mark in enumerate(marks) if mark.role == "accent"), None)
    if here is None:
        here = next((i for i, mark in enumerate(marks) if mark.id == near), 0)
    first = 0
    while first < here and sum(sizes[first : here + 1]) > width:
        first += 1
    last = first
    while last < len(marks) and sum(sizes[first : last + 1]) <= width:
        last += 1
    return first, last


def lane(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """All phases so far to scale, a letter each; what is to come as dots; the phase under way at the right."""
    tail = shown([("  ", ""), (view.phase_left, "accent"), (" ", "")], glyphs) if view.phase_left else ()
    room = max(0, width - len(LANE) - length(tail))
    cells: list[Span] = [("·", "dim")] * room
    total = max(view.lane_end, view.t, 1e-9)
    for stretch in view.lane:
        _lay(cells, stretch, total, room)
    if view.cursor is not None and room:
        here = min(room - 1, int(view.cursor / total * room))
        cells[here:] = [("│", "accent"), *((sign, "dim") for sign, _ in cells[here + 1 :])]
    spans = _merged(shown(cells, glyphs))
    return [crop(((LANE, "dim"), *spans, *tail), width)]


def time_at(view: View, width: int, x: int, glyphs: Glyphs) -> float | None:
    """The session time at a cell of the lane; None beside it, and where nothing was recorded yet."""
    tail = length(shown([("  ", ""), (view.phase_left, ""), (" ", "")], glyphs)) if view.phase_left else 0
    room, cell = width - len(LANE) - tail, x - len(LANE)
    if not 0 <= cell < room:
        return None
    return (cell + 0.5) / room * max(view.lane_end, view.t, 1e-9)


def _lay(cells: list[Span], stretch: Stretch, total: float, room: int) -> None:
    """Put one phase into the lane's cells; one that is narrower than a cell is seen only where nothing follows it."""
    first, last = (min(room, round(x / total * room)) for x in (stretch.start, stretch.end))
    role = ROLES.get(stretch.phase, "dim")
    if last <= first:
        return
    for index in range(first, last):
        cells[index] = ("─", role)
    letter = LETTERS.get(stretch.phase, "?")
    cells[first + (last - first) // 2] = (letter, role)
    if last - first > 1:
        cells[first] = ("╟" if stretch.phase == "load" else "╫", "dim") if last - first > 2 else cells[first]
    if stretch.running and last - first > 1:
        cells[last - 1] = ("▶", "accent")


def _merged(spans: Sequence[Span]) -> Line:
    merged: list[Span] = []
    for text, role in spans:
        if merged and merged[-1][1] == role:
            merged[-1] = (merged[-1][0] + text, role)
        else:
            merged.append((text, role))
    return tuple(merged)


def steps(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The phases of the quant under way as bars."""
    tail = shown([("  ", ""), (view.phase_left, "accent"), (" ", "")], glyphs) if view.phase_left else ()
    known = view.steps
    names = sum(len(step.phase) + 2 for step in known)
    room = max(0, width - 1 - names - length(tail))
    parts: list[Span] = [(" ", "")]
    weights = {"load": 1, "prompt": 2, "gen": 4, "ppl": 4, "task": 2}
    whole = sum(weights.get(step.phase, 1) for step in known) or 1
    for step in known:
        cells = min(14 * weights.get(step.phase, 1) // 4 + 1, room * weights.get(step.phase, 1) // whole)
        full = round(step.fraction * cells)
        role = {"gen": "speed", "ppl": "perplexity", "prompt": "prompt"}.get(step.phase, "text")
        parts += [(f"{step.phase} ", "dim"), ("█" * full, role), ("░" * (cells - full), "dim"), (" ", "")]
    return [sides(parts, tail, width, glyphs)]


def line(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A rule."""
    return [rule(width, glyphs)]


def story(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The verdicts on the selected quant with their evidence, then what happened, newest first.

    A standing note of the session keeps the last lines to itself.
    """
    return [line for line, _ in told(view, width, height, glyphs)]


def moment_at(view: View, width: int, height: int, y: int, glyphs: Glyphs) -> float | None:
    """The session time of the event in line `y` of the story, None where the line is none."""
    lines = told(view, width, height, glyphs)
    return lines[y][1] if 0 <= y < len(lines) else None


def told(view: View, width: int, height: int, glyphs: Glyphs) -> list[tuple[Line, float | None]]:
    """The story's lines, each with its event's session time."""
    notes: list[Line] = []
    for note in view.notes if height >= 2 else ():
        spans = shown([(" note      ", "dim"), ("[!]  ", "warn"), (note, "text")], glyphs)
        notes += clipped(wrap(spans, width - 1, 16), max(1, height // 4), width, glyphs)
    notes = notes[: height // 2]
    happened = [one for one in view.events if one.text not in view.notes]
    room = height - len(notes)
    judged: list[Line] = []
    for spelled in view.verdict:
        lines = [((" ", ""), *part) for part in wrap(shown(spelled, glyphs), width - 2, 4)]
        left = room - len(judged) - min(len(happened), room // 3)
        if left <= 0 or (judged and len(lines) > left):
            break
        judged += clipped(lines, left, width, glyphs)
    events = [(entry(one, width, glyphs), one.t) for one in happened[: max(0, room - len(judged))]]
    blank: list[Line] = [()] * (height - len(judged) - len(events) - len(notes))
    every: list[tuple[Line, float | None]] = [*((line, None) for line in judged), *events]
    every += [(line, None) for line in (*blank, *notes)]
    return [(crop(line, width), t) for line, t in every]


def clipped(lines: Sequence[Line], height: int, width: int, glyphs: Glyphs) -> list[Line]:
    """At most `height` lines; where some are left out, the last one ends in a sign that says so."""
    if len(lines) <= height:
        return list(lines)
    if height <= 0:
        return []
    mark = glyphs.text("…")
    last = crop(lines[height - 1], min(width - len(mark), length(lines[height - 1])))
    return [*lines[: height - 1], (*last, (mark, "dim"))]


def wrap(spans: Line, width: int, indent: int) -> list[Line]:
    """Spans broken at blanks into lines of at most `width` cells, later ones indented."""
    if width < 8:
        return [crop(spans, max(0, width))]
    lines: list[list[Span]] = [[]]
    used = 0
    for text, role in spans:
        for word in _words(text):
            room = width - (indent if len(lines) > 1 else 0)
            if used and used + width_of(word.rstrip()) > room:
                lines.append([(" " * indent, "")])
                used, word = 0, word.lstrip()
            if word:
                lines[-1].append((word, role))
                used += width_of(word)
    return [_merged(one) for one in lines]


def _words(text: str) -> list[str]:
    """A text cut after each blank."""
    return [part for part in text.replace(" ", " \0").split("\0") if part]


def entry(one: Entry, width: int, glyphs: Glyphs) -> Line:
    """One event in one line: session time, flag, text."""
    spans = shown([(f" {clock(one.t)}  ", "dim"), (f"{one.glyph:<5}", one.role), (one.text, "text")], glyphs)
    return crop(cut(spans, width, glyphs), width)


def status(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """What the screen itself costs, which probes answer, how old the newest reading is; or a passing notice."""
    own = view.own
    if own.notice:
        return [crop(shown([(" ", ""), (own.notice, own.level)], glyphs), width)]
    cost = []
    if own.cpu is not None:
        cost.append(f"{own.cpu * 100:.1f}% cpu")
    if own.rss is not None:
        cost.append(size(own.rss))
    if own.bytes_s is not None:
        cost.append(f"{size(own.bytes_s)}/s")
    left: list[Span] = [(" self " if cost else " ", "dim"), ("  ".join(cost), "text")]
    if view.quiet and cost:
        left.append(("  quiet while timed", "info"))
    elif own.pace and width >= 100:
        left.append((f"  {own.pace}", "dim"))
    watching = observed(view)
    if cost and width >= (100 if view.observer else 200):
        left.append((f"  {watching}", "dim"))
    if own.log and width >= 160:
        left.append((f"  {own.log}", "dim"))
    age = f"age {own.age:.1f}s " if own.age is not None else ""
    tail: Line = ((age, "dim" if own.age is None or own.age < 5 else "warn"),)
    room = width - length(left) - length(tail) - 6
    probes = glyphs.text(view.probes)
    if room > 12 and probes:
        left += [
            ("  │ " if len(left) > 2 or cost else "", "border"),
            (pad(probes, room).rstrip() if width_of(probes) > room else probes, "dim"),
        ]
    return [sides(left, tail, width, glyphs)]


def observed(view: View) -> str:
    """What watching costs, as it was measured on this machine, or how to find out."""
    if view.observer is None:
        return "observer not measured: quanttui doctor --observer"
    return f"watching costs {share(view.observer.live)} (measured)"


def share(value: float) -> str:
    """A share in percent with one decimal: 0.6 %, -0.2 %."""
    return f"{round(value * 100, 1) + 0.0:.1f} %"


def keyed(pairs: Sequence[tuple[str, str]], width: int, glyphs: Glyphs) -> Line:
    """Keys with their words, as many as fit: the last two stay longest, the others leave from the right."""
    fitting, gap = list(pairs), keys.gap(width)
    while len(fitting) > 1 and sum(width_of(f"{key} {word}") + gap for key, word in fitting) - gap >= width:
        del fitting[max(0, len(fitting) - 3)]
    spans: list[Span] = [(" ", "")]
    for key, word in fitting:
        spans += [(key, "key"), (f" {word}{' ' * gap}", "dim")]
    return crop(shown(spans, glyphs), width)


def footer(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The keys that work, as many as fit."""
    spans: list[Span] = [(" ", "")]
    for key, word in keys.footer(width - 1, view.keymap):
        spans += [(key, "key"), (f" {word}{' ' * keys.gap(width - 1)}", "dim")]
    return [crop(shown(spans, glyphs), width)]
