"""The table of quants: as many columns as fit, the selected row marked. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Row, Span, View
from quanttui.tui.widgets.sheet import crop, cut, framed, pad, width_of

FIRST_OUT = ("bits", "energy", "prompt", "size", "efficiency", "bus", "peak", "delta", "ppl")
"""Columns in the order in which a narrow table does without them."""

LEFT = ("quant", "verdict")
SHORT = {"prompt": "prompt", "gen": "gen", "ppl": "ppl", "peak": "peak"}
"""Headings where the whole table is narrower than NARROW."""

NARROW = 100

SELECTED = "+"
"""Appended to a role: the same on the background of the selected row."""


def boxed(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The table in a frame."""
    body = table(view, width - 4, height - 2, glyphs)
    status = (("* tainted  … running  ~ predicted", "dim"),) if width >= 70 else ()
    return framed((("7 quants", "title"),), status, body, width, height, glyphs)


def bare(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The table between two rules."""
    body = table(view, width - 2, height, glyphs)
    return [((" ", ""), *line, (" ", "")) for line in body]


def table(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A heading and the rows around the selected one; the last line counts those that are out of sight."""
    if width <= 0 or height <= 0:
        return []
    keys, widths = fitted(view, width, glyphs)
    titles = headings(view, width, glyphs)
    heading = [(pad(titles[key], widths[key], key not in LEFT, glyphs.text("…")) + "  ", "dim") for key in keys]
    lines = [crop(heading, width)]
    first, last = window(view.rows, view.selected, height - 1)
    for row in view.rows[first:last]:
        lines.append(_line(row, keys, widths, width, glyphs, row.id == view.selected))
    hidden = [row.cells["quant"][0] for row in (*view.rows[:first], *view.rows[last:])]
    if hidden and height > 2:
        more = glyphs.text(f"  {len(hidden)} more: {' '.join(hidden)}")
        lines.append(crop(cut(((more, "dim"),), width, glyphs), width))
    return [*lines, *[crop((), width)] * max(0, height - len(lines))][:height]


def row_at(view: View, y: int, height: int) -> str:
    """The quant in line `y` of a table `height` lines high, its heading line 0; "" where there is none."""
    first, last = window(view.rows, view.selected, height - 1)
    return view.rows[first + y - 1].id if 1 <= y <= last - first else ""


def window(rows: Sequence[Row], selected: str, height: int) -> tuple[int, int]:
    """The rows (first, end) to show in `height` lines: all, or all but a line, with the selected one among them."""
    if len(rows) <= height:
        return 0, len(rows)
    room = max(1, height - 1) if height > 1 else 1
    here = next((index for index, row in enumerate(rows) if row.id == selected), 0)
    first = min(max(0, here - room // 2), len(rows) - room)
    return first, first + room


def fitted(view: View, width: int, glyphs: Glyphs) -> tuple[list[str], dict[str, int]]:
    """The columns that fit and their widths: as wide as what is in them, the verdict with what is left over."""
    keys = list(view.headings)
    widths = {}
    for key, title in headings(view, width, glyphs).items():
        cells = [glyphs.text(row.cells[key][0]) for row in view.rows]
        widths[key] = max(width_of(text) for text in (title, *cells))
    widths["quant"] = min(widths.get("quant", 0), max(6, width // 5))
    wanted = min(widths.get("verdict", 0), max(18, width // 3))
    for key in FIRST_OUT:
        if sum(widths[k] + 2 for k in keys if k != "verdict") + wanted <= width:
            break
        if key in keys:
            keys.remove(key)
    if "verdict" in keys:
        widths["verdict"] = max(0, width - sum(widths[k] + 2 for k in keys if k != "verdict"))
    return keys, widths


def headings(view: View, width: int, glyphs: Glyphs) -> dict[str, str]:
    """The headings by column, shorter ones where the table is narrow."""
    short = SHORT if width < NARROW else {}
    return {key: glyphs.text(short.get(key, title)) for key, title in view.headings.items()}


def _line(row: Row, keys: list[str], widths: dict[str, int], width: int, glyphs: Glyphs, selected: bool) -> Line:
    spans: list[Span] = []
    mark = SELECTED if selected else ""
    for key in keys:
        text, role = row.cells[key]
        spans.append((pad(glyphs.text(text), widths[key], key not in LEFT, glyphs.text("…")), role + mark))
        spans.append(("  ", mark))
    line = crop(spans, width)
    # The background of a selected row goes over the whole width, the filling at its end included.
    return tuple((text, role if role.endswith(mark) else role + mark) for text, role in line)
