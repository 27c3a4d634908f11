"""The start screen's two pages in lines. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Span
from quanttui.tui.start import ANSWERED, HEADINGS, Offer, Row, Selection
from quanttui.tui.widgets.bars import keyed, wrap
from quanttui.tui.widgets.sheet import crop, cut, pad, shown, sides, width_of

NAME = 30
"""Cells for a model's name where there is room."""

WIDE = 80
"""Columns from which tasks are said in words."""

FIRST_OUT = ("context", "time", "size", "need", "rate", "fit")
"""Columns of the second page in the order in which a narrow screen does without them."""

OFFER_KEYS = (("↑↓", "choose"), ("enter", "next"), ("?", "help"), ("q", "quit"))
SELECTION_KEYS = (("enter", "go"), ("space", "take or leave"), ("a", "all"), ("esc", "back"), ("?", "help"))


def offer(view: Offer, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """What there is: headings, rows around the chosen one, what was searched, keys."""
    title = " quanttui  what is to be measured?"
    lines: list[Line] = [sides([(title, "title")], [(f"{view.machine} ", "dim")], width, glyphs)] if height > 2 else []
    foot: list[Line] = []
    if height > 6:
        said = view.notice or view.where
        busy = "looking for models … " if view.busy else ""
        foot = [*_wrapped(f" {busy}{said}", "warn" if view.notice else "dim", width, 2, glyphs)]
    foot = [*foot, keyed(OFFER_KEYS, width, glyphs)] if height > 1 else []
    body: list[tuple[Line, str]] = []
    for row in view.rows:
        if row.heading and height > 8:
            body += [(crop((), width), ""), (crop(((f" {row.heading}", "title"),), width), "")]
        body.append((_row(row, row.id == view.selected, width, glyphs), row.id))
    room = max(0, height - len(lines) - len(foot))
    here = next((index for index, (_, name) in enumerate(body) if name == view.selected), 0)
    first = max(0, min(here - room + 2, len(body) - room)) if len(body) > room else 0
    kept = [line for line, _ in body[first : first + room]]
    return [*lines, *kept, *[crop((), width)] * (room - len(kept)), *foot][:height]


def _row(row: Row, chosen: bool, width: int, glyphs: Glyphs) -> Line:
    mark = "+" if chosen else ""
    pointer = glyphs.text("▶" if chosen else " ")
    name = pad(glyphs.text(row.name), min(NAME, max(12, width // 3)), mark=glyphs.text("…"))
    head: Line = ((f" {pointer} ", f"accent{mark}"), (f"{glyphs.text(row.sign[0])} ", f"{row.sign[1]}{mark}"),
                  (f"{name} ", f"strong{mark}"))  # fmt: skip
    note = glyphs.text(row.note[0])
    room = width - sum(width_of(text) for text, _ in head) - width_of(note) - 2
    if room < 8:
        return crop((*head, (note, f"{row.note[1]}{mark}"), (" " * width, mark)), width)
    detail = pad(glyphs.text(row.detail), room, mark=glyphs.text("…"))
    return crop((*head, (detail, f"dim{mark}"), (" ", mark), (note, f"{row.note[1]}{mark}"), (" ", mark)), width)


def selection(view: Selection, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The quants with what they need, the tasks, how long it takes, keys."""
    title = sides([(f" {view.model}", "title")], [(f"{view.machine} ", "dim")], width, glyphs)
    foot: list[Line] = []
    if height > 9:
        foot += [crop((), width), *_tasks(view, width, glyphs)[: 2 if height > 14 else 1]]
        foot += [_score(view, width, glyphs)]
        foot += _wrapped(f" {view.takes}", "strong", width, 1, glyphs)
    if view.error and height > 4:
        foot += _wrapped(f" {view.error}", "bad", width, 2, glyphs)
    for note in view.notes[: max(0, height // 8 - 1)]:
        foot += _wrapped(f" {note}", "dim", width, 2, glyphs)
    foot.append(keyed(SELECTION_KEYS, width, glyphs))
    room = max(0, height - 2 - len(foot))
    widths = fitted(view, width)
    heading = "      " + "  ".join(pad(HEADINGS[name], cells, name not in LEFT) for name, cells in widths.items())
    here = next((index for index, line in enumerate(view.lines) if line.id == view.selected), 0)
    first = max(0, min(here - room + 1, len(view.lines) - room))
    rows = [
        _quant(line.cells, line.wanted, line.id == view.selected, widths, width, glyphs)
        for line in view.lines[first : first + room]
    ]
    blank = [crop((), width)] * (room - len(rows))
    return [title, crop(((heading, "dim"),), width), *rows, *blank, *foot][:height]


LEFT = ("quant", "fit")


def fitted(view: Selection, width: int) -> dict[str, int]:
    """The columns that fit, with their widths."""
    names = list(HEADINGS)
    widths = {
        name: max([width_of(HEADINGS[name]), *(width_of(line.cells[name][0]) for line in view.lines)]) for name in names
    }
    for name in FIRST_OUT:
        if sum(widths[kept] + 2 for kept in names) + 6 <= width:
            break
        names.remove(name)
    return {name: widths[name] for name in names}


def _quant(
    cells: Mapping[str, Span], wanted: bool, chosen: bool, widths: Mapping[str, int], width: int, glyphs: Glyphs
) -> Line:
    mark = "+" if chosen else ""
    spans: list[Span] = [(f" [{'x' if wanted else ' '}]  ", f"{'accent' if wanted else 'dim'}{mark}")]
    for name, cells_wide in widths.items():
        text, role = cells[name]
        shade = role if wanted or name in ("quant", "fit") else "dim"
        spans += [(pad(glyphs.text(text), cells_wide, name not in LEFT), f"{shade}{mark}"), ("  ", mark)]
    return crop((*spans, (" " * width, mark)), width)


def _tasks(view: Selection, width: int, glyphs: Glyphs) -> list[Line]:
    """What is measured, and below it what is answered, each with its key; in short where all of it has no room."""
    wide = width >= WIDE
    rows: dict[str, list[Span]] = {"measure": [], "answer": []}
    for number, (name, words, on) in enumerate(view.tasks, 1):
        said = f" [{'x' if on else ' '}] {words}   " if wide else f"[{'x' if on else ' '}]{name} "
        rows["answer" if name in ANSWERED else "measure"] += [(f"{number}", "key"), (said, "text" if on else "dim")]
    lines = [((f" {head:<9}" if wide else " ", "dim"), *spans) for head, spans in rows.items() if spans]
    return [crop(cut(shown(line, glyphs), width, glyphs), width) for line in lines]


def _score(view: Selection, width: int, glyphs: Glyphs) -> Line:
    """How much of the text is scored, and which."""
    if not view.text:
        return crop((), width)
    sign, role = ("x", "text") if view.decided else (" ", "dim")
    spans: list[Span] = [(" text     ", "dim"), (f"{view.text}   ", "text"), ("d ", "key")]
    spans.append((f"[{sign}] only until each quant is decided", role))
    if width < WIDE:
        spans = [(" ", ""), ("d", "key"), (f"[{sign}]until decided  ", role), (view.text, "dim")]
    return crop(cut(shown(spans, glyphs), width, glyphs), width)


def _wrapped(text: str, role: str, width: int, most: int, glyphs: Glyphs) -> list[Line]:
    lines = wrap(shown([(text, role)], glyphs), width, 2)[:most]
    return [crop(line, width) for line in lines]


HELP = (
    ("↑ ↓ j k", "choose a model, a session, a quant"),
    ("enter", "the model's quants; there: begin the sweep. A session is watched, or played again"),
    ("space", "take the quant into the sweep, or leave it out"),
    ("a", "all quants, or none"),
    ("1 2 3", "measure speed, perplexity, KL divergence from the base"),
    ("4 to 8", "have prompts, traps, JSON by a schema, MMLU or entities answered"),
    ("d", "score the text only until it is decided whether each quant keeps within the tolerance"),
    ("esc", "back to the models"),
    ("q", "quit"),
    ("", ""),
    ("needs", "weights, KV cache, buffers and the engine, as predicted from the file's header"),
    ("fits?", "✓ fits  ! tight: less than a tenth or a GiB to spare  ✗ does not fit  ? free memory is not known"),
    ("~", "predicted: tok/s from the memory bandwidth that was measured here; times are guesses"),
    ("", ""),
    ("more", "`quanttui run --help` has every setting; a sweep's own keys are behind ? on its screen"),
)
"""What the keys and signs of both pages mean."""


def help_(width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The start screen's help."""
    lines: list[Line] = [crop(((" help", "title"),), width), crop((), width)]
    for head, words in HELP:
        first = pad(glyphs.text(head), 9)
        for index, line in enumerate(wrap(shown([(words, "text")], glyphs), max(8, width - 12), 0) or [()]):
            lines.append(crop(((f" {first if index == 0 else ' ' * 9} ", "key"), *line), width))
    lines += [crop((), width)] * (height - len(lines) - 1)
    return [*lines[: max(0, height - 1)], keyed((("esc", "back"),), width, glyphs)][:height]
