"""The table of quants: as many columns as fit, the selected row marked. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Row, Span, View
from quanttui.tui.widgets.sheet import crop, cut, framed, pad, width_of

FIRST_OUT = (
    "bits", "energy", "top", "right", "prompt", "size", "efficiency", "peak", "bus", "kld", "call", "delta", "ppl"
)  # fmt: skip
"""Columns in the order in which a narrow table does without them."""

DEAR = ("kld", "call", "delta", "ppl")
"""For these the verdict, which is spelled out below the table, is cut short."""

LEFT = ("quant", "call", "verdict")
SHORT = {"prompt": "prompt", "gen": "gen ±sd", "ppl": "ppl", "call": "call", "top": "top %", "peak": "peak"}
"""Headings where the whole table is narrower than NARROW, or would else do without a column."""

NARROW = 100

SELECTED = "+"
"""Appended to a role: the same on the background of the selected row."""


def boxed(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The table in a frame."""
    body = table(view, width - 4, height - 2, glyphs)
    begun = any(row.cells["quant"][0].startswith("◐") for row in view.rows)
    marks = f"{'◐ begun  ' if begun else ''}* tainted  … running  ~ predicted"
    status = ((f"sort: {view.order}   {marks if width >= 90 else ''}".rstrip(), "dim"),) if width >= 40 else ()
    return framed((("quants", "title"),), status, body, width, height, glyphs)


def bare(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The table between two rules."""
    body = table(view, width - 2, height, glyphs)
    return [((" ", ""), *line, (" ", "")) for line in body]


def table(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A heading and the rows around the selected one; the last line counts those that are out of sight."""
    if width <= 0 or height <= 0:
        return []
    keys, widths, titles = fitted(view, width, glyphs)
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


def fitted(view: View, width: int, glyphs: Glyphs) -> tuple[list[str], dict[str, int], dict[str, str]]:
    """The columns that fit, their widths (as wide as what is in them, the verdict with what is left) and headings."""
    keys = list(view.headings)
    cells = {key: max((width_of(glyphs.text(row.cells[key][0])) for row in view.rows), default=0) for key in keys}
    cells["quant"] = min(cells.get("quant", 0), max(6, width // 5))
    least = max(18, width // 4)
    short = max(14, width // 5)
    titles = headings(view, width < NARROW, glyphs)
    if _needed(keys, cells, titles, least) > width:
        titles = headings(view, True, glyphs)
    for key in FIRST_OUT:
        if _needed(keys, cells, titles, short if key in DEAR else least) <= width:
            break
        if key in keys:
            keys.remove(key)
    widths = {key: max(cells[key], width_of(titles[key])) for key in keys}
    if "verdict" in keys:
        widths["verdict"] = max(0, width - sum(widths[key] + 2 for key in keys if key != "verdict"))
    return keys, widths, titles


def _needed(keys: Sequence[str], cells: Mapping[str, int], titles: Mapping[str, str], least: int) -> int:
    """Cells that these columns need, the verdict `least` at most."""
    widths = {key: max(cells[key], width_of(titles[key])) for key in keys}
    return sum(min(cells, least) if key == "verdict" else cells + 2 for key, cells in widths.items())


def headings(view: View, short: bool, glyphs: Glyphs) -> dict[str, str]:
    """The headings by column, shorter ones on request."""
    return {key: glyphs.text((SHORT if short else {}).get(key, title)) for key, title in view.headings.items()}


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
