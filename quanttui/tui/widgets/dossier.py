"""A dossier in lines: sections below each other, in two columns where there is room, scrolled as a whole. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from rich.cells import chop_cells

from quanttui.tui.dossier.forms import Bar, Dossier, Fact, Grid, Item, Lane, Section
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Span
from quanttui.tui.widgets.bars import LETTERS, ROLES, wrap
from quanttui.tui.widgets.sheet import crop, length, pad, shown, sides, width_of

TWO = 150
"""The least width at which the sections stand in two columns."""

LABEL = 14
"""Cells for a label; a longer one pushes its words on."""

Drawn = tuple[tuple[Line, ...], tuple[int, ...]]
"""Lines, and the numbers of those that begin a section."""


def draw(dossier: Dossier, width: int, height: int, glyphs: Glyphs, top: int = 0) -> list[Line]:
    """A heading with the place in it, and the lines from number `top` on, as far as they go."""
    if width <= 0 or height <= 0:
        return []
    body, _ = _body(dossier, width, glyphs)
    room = height - 1
    first = max(0, min(top, most(dossier, width, height, glyphs)))
    lines = [_heading(dossier, first, min(first + room, len(body)), len(body), width, glyphs)]
    lines += body[first : first + room]
    return [*lines, *[crop((), width)] * (height - len(lines))]


def most(dossier: Dossier, width: int, height: int, glyphs: Glyphs) -> int:
    """How far down it can be scrolled: the `top` with which the last line is the lowest."""
    body, _ = _body(dossier, width, glyphs)
    return max(0, len(body) - (height - 1))


def section(dossier: Dossier, width: int, height: int, glyphs: Glyphs, top: int, by: int) -> int:
    """The `top` that shows the section after this one from its first line on; before it, where `by` is negative."""
    _, edges = _body(dossier, width, glyphs)
    lowest = most(dossier, width, height, glyphs)
    if by > 0:
        return min(lowest, next((edge for edge in edges if edge > top), lowest))
    return min(lowest, next((edge for edge in reversed(edges) if edge < top), 0))


def _heading(dossier: Dossier, first: int, end: int, count: int, width: int, glyphs: Glyphs) -> Line:
    place = f"{first + 1}–{end} of {count}" if end > first else f"0 of {count}"
    tail: Line = ((f"line {place} " if width >= 60 else f"{place} ", "dim"),)
    room = max(0, width - length(shown(tail, glyphs)) - 2)
    cells = max(0, room - 2 - width_of(dossier.outcome) - 2)
    name = glyphs.text(dossier.arm)
    left: list[Span] = [(f" {dossier.sign} ", dossier.role), (pad(name, min(cells, width_of(name))), "strong")]
    left.append((f" {dossier.outcome}", dossier.role))
    if room - length(left) > 12:
        left.append((f"  {dossier.model}", "dim"))
    return crop(sides(left, tail, width, glyphs), width)


@lru_cache(maxsize=4)
def _body(dossier: Dossier, width: int, glyphs: Glyphs) -> Drawn:
    """All lines of a dossier, each `width` cells."""
    if width < TWO:
        return _stacked(dossier.sections, width, glyphs)
    half = (width - 3) // 2
    narrow = [one for one in dossier.sections if not one.wide]
    drawn = [_section(one, half, glyphs) for one in narrow]
    cut = _balanced([len(lines) for lines in drawn])
    left, left_edges = _stacked(narrow[:cut], half, glyphs)
    right, right_edges = _stacked(narrow[cut:], width - 3 - half, glyphs)
    beside = ((" ", ""), (glyphs.text("│"), "border"), (" ", ""))
    lines = []
    for row in range(max(len(left), len(right))):
        one, other = (side[row] if row < len(side) else () for side in (left, right))
        lines.append((*crop(one, half), *beside, *crop(other, width - 3 - half)))
    below, below_edges = _stacked([one for one in dossier.sections if one.wide], width, glyphs)
    edges = {*left_edges, *right_edges, *(len(lines) + edge for edge in below_edges)}
    return (*lines, *below), tuple(sorted(edges))


def _balanced(heights: Sequence[int]) -> int:
    """How many sections go into the first of two columns, so that the longer one is as short as can be."""
    whole = sum(heights)
    return min(range(len(heights) + 1), key=lambda cut: max(sum(heights[:cut]), whole - sum(heights[:cut])))


def _stacked(sections: Sequence[Section], width: int, glyphs: Glyphs) -> Drawn:
    lines: list[Line] = []
    edges: list[int] = []
    for one in sections:
        edges.append(len(lines))
        lines += [crop(line, width) for line in _section(one, width, glyphs)]
    return tuple(lines), tuple(edges)


def _section(one: Section, width: int, glyphs: Glyphs) -> list[Line]:
    """A title, the items, a blank line."""
    lines = [_title(one, width, glyphs)]
    for item in one.items:
        lines += [((" ", ""), *line) for line in _item(item, width - 2, glyphs)]
    return [*lines, ()]


def _title(one: Section, width: int, glyphs: Glyphs) -> Line:
    edge = glyphs.text("─")
    left = ((edge + " ", "border"), (f"{glyphs.text(one.title)} ", "title"))
    text = glyphs.text(one.status[0])
    right: Line = ((f" {text} ", one.status[1]), (edge, "border")) if text else ((edge, "border"),)
    if length(left) + length(right) > width - 1:
        right = ()
    return (*left, (edge * max(0, width - length(left) - length(right)), "border"), *right)


def _item(item: Item, width: int, glyphs: Glyphs) -> list[Line]:
    if isinstance(item, Fact):
        return _fact(item, width, glyphs)
    if isinstance(item, Bar):
        return _bar(item, width, glyphs)
    if isinstance(item, Grid):
        return _grid(item, width, glyphs)
    return [_lane(item, width, glyphs)]


def _fact(one: Fact, width: int, glyphs: Glyphs) -> list[Line]:
    """The words in a column of their own beside the label; lines without a label go over the whole width."""
    words = shown(one.words, glyphs)
    if not one.label:
        return fold(words, width, 4)
    label = pad(glyphs.text(one.label), max(LABEL, width_of(glyphs.text(one.label)) + 1))
    return fold(((label, "dim"), *words), width, min(LABEL, width // 3), width_of(label))


def fold(spans: Line, width: int, indent: int, head: int = 0) -> list[Line]:
    """Spans broken at blanks, and words that no line can hold anywhere, into lines of at most `width` cells; later ones
    are indented.

    Args:
        head: cells of the first line that a label takes.
    """
    room = max(2, width - max(indent, head))
    return wrap(tuple(piece for span in spans for piece in _pieces(span, room)), width, indent)


def _pieces(span: Span, room: int) -> Iterator[Span]:
    """A span, in pieces where it has a word that is longer than `room` cells."""
    text, role = span
    if all(width_of(word) <= room for word in text.split(" ")):
        yield span
        return
    for word in text.replace(" ", " \0").split("\0"):
        for piece in chop_cells(word, room):
            yield piece, role


def _bar(one: Bar, width: int, glyphs: Glyphs) -> list[Line]:
    """Label, bar, words. A share that is not nothing has a cell at least."""
    cells = max(4, min(24, (width - LABEL) // 3))
    full = min(cells, max(round(one.share * cells), int(one.share > 0)))
    head: Line = ((pad(glyphs.text(one.label), LABEL - 1), "dim"), (" ", ""), (glyphs.text("█") * full, one.role),
                  (glyphs.text("░") * (cells - full), "dim"), ("  ", ""))  # fmt: skip
    words = fold(shown(one.words, glyphs), max(8, width - LABEL - cells - 2), 0)
    blank: Line = ((" " * (LABEL + cells + 2), ""),)
    return [(*(blank if index else head), *line) for index, line in enumerate(words)]


def _grid(one: Grid, width: int, glyphs: Glyphs) -> list[Line]:
    """A table where it fits; else each row as words, its figures under the headings' names."""
    heads = tuple(glyphs.text(head) for head in one.heads)
    rows = [tuple((glyphs.text(text), role) for text, role in row) for row in one.rows]
    widths = [max(width_of(head), *(width_of(row[at][0]) for row in rows)) for at, head in enumerate(heads)]
    if sum(widths) + 2 * (len(widths) - 1) > width:
        return [line for row in rows for line in fold(_told(row, heads, one.left), width, 4)]
    table = [tuple((head, "dim") for head in heads), *rows]
    return [
        tuple(
            (pad(text, cells, at >= one.left) + "  " * (at < len(widths) - 1), role)
            for at, ((text, role), cells) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def _told(row: Line, heads: Sequence[str], left: int) -> Line:
    spans: list[Span] = []
    for at, (text, role) in enumerate(row):
        if text.strip():
            spans += [(f"{heads[at]} ", "dim")] if at >= left else []
            spans.append((f"{text}  ", role))
    return tuple(spans)


def _lane(one: Lane, width: int, glyphs: Glyphs) -> Line:
    """Phases to scale, a letter each; dots where other quants took their turns."""
    cells: list[Span] = [(glyphs.text("·"), "dim")] * max(0, width)
    whole = max(one.end - one.start, 1e-9)
    for stretch in one.stretches:
        first, end = (min(width, round((x - one.start) / whole * width)) for x in (stretch.start, stretch.end))
        role = ROLES.get(stretch.phase, "dim")
        for at in range(first, end):
            cells[at] = (glyphs.text("─"), role)
        if end > first:
            cells[first] = (LETTERS.get(stretch.phase, "?"), role)
            if stretch.running:
                cells[end - 1] = (glyphs.text("▶"), "accent")
    return tuple(cells)
