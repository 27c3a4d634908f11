"""The list of sessions in lines: as many columns as fit, the selected row marked, a line at the foot. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from quanttui.tui.catalog import HEADINGS, Catalog
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Row, Span
from quanttui.tui.widgets.bars import clipped
from quanttui.tui.widgets.dossier import fold
from quanttui.tui.widgets.sheet import crop, cut, pad, shown, sides, width_of
from quanttui.tui.widgets.table import SELECTED, window

FIRST_OUT = ("took", "when", "model", "quants")
"""Columns in the order in which a narrow list does without them."""

RIGHT = ("quants", "took")
LEAST = {"name": 24, "model": 16}
"""Cells to which a column's text may be cut before another column leaves."""


def draw(catalog: Catalog, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A title, the headings, the rows around the selected one, and at the foot a question or where that one lies."""
    if width <= 0 or height <= 0:
        return []
    foot = _foot(catalog, width, height, glyphs)
    widths = fitted(catalog, width - 2, glyphs)
    headings = _line({name: (HEADINGS[name], "dim") for name in widths}, widths, "", width, glyphs)
    lines = [_title(catalog, width, glyphs), headings][: _before(height)]
    for row in _shown(catalog, height - len(lines) - len(foot)):
        mark = SELECTED if row.id == catalog.selected else ""
        lines.append(_line(row.cells, widths, mark, width, glyphs))
    return [*lines, *[crop((), width)] * (height - len(lines) - len(foot)), *foot]


def row_at(catalog: Catalog, y: int, width: int, height: int, glyphs: Glyphs) -> str:
    """The id of the session in line `y` of a list of this size; "" where there is none."""
    first = _before(height)
    found = _shown(catalog, height - first - len(_foot(catalog, width, height, glyphs)))
    return found[y - first].id if first <= y < first + len(found) else ""


def _before(height: int) -> int:
    """Lines above the first row: the title and the headings, as far as there is room."""
    return max(0, min(2, height - 2))


def _foot(catalog: Catalog, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A question in full, in as many lines as it takes; a place in one."""
    if not catalog.asked[0]:
        return [crop(cut(shown([(f" {catalog.place}", "dim")], glyphs), width, glyphs), width)]
    lines = fold(shown([catalog.asked], glyphs), width - 2, 0)
    return [crop(((" ", ""), *line), width) for line in clipped(lines, max(1, height - 3), width, glyphs)]


def _shown(catalog: Catalog, room: int) -> tuple[Row, ...]:
    """The rows that there is room for, the selected one among them."""
    if room <= 0:
        return ()
    first, last = window(catalog.rows, catalog.selected, room)
    return catalog.rows[first : min(last, first + room)]


def _title(catalog: Catalog, width: int, glyphs: Glyphs) -> Line:
    count = len(catalog.rows)
    told = f"{count} session{'s' if count != 1 else ''}" if count else "none yet"
    return crop(sides([(" sessions ", "title"), (f" {told}", "text")], [(f"{catalog.where} ", "dim")], width, glyphs),
                width)  # fmt: skip


def fitted(catalog: Catalog, width: int, glyphs: Glyphs) -> dict[str, int]:
    """The columns that fit and their widths: as wide as what is in them; model and name give way first."""
    full = {
        name: max(
            width_of(glyphs.text(title)),
            max((width_of(glyphs.text(row.cells[name][0])) for row in catalog.rows), default=0),
        )
        for name, title in HEADINGS.items()
    }
    least = {name: min(cells, LEAST.get(name, cells)) for name, cells in full.items()}
    names = list(full)
    for name in FIRST_OUT:
        if sum(least[one] + 2 for one in names) - 2 <= width:
            break
        names.remove(name)
    widths = {name: least[name] for name in names}
    spare = width - sum(cells + 2 for cells in widths.values()) + 2
    for name in ("name", "model"):
        if name in widths:
            more = max(min(spare, full[name] - widths[name]), min(0, spare))
            widths[name] = max(1, widths[name] + more)
            spare -= more
    return widths


def _line(cells: Mapping[str, Span], widths: Mapping[str, int], mark: str, width: int, glyphs: Glyphs) -> Line:
    spans: list[Span] = [(" ", mark)]
    for name, room in widths.items():
        text, role = cells[name]
        spans.append((pad(glyphs.text(text), room, name in RIGHT, glyphs.text("…")), role + mark))
        spans.append(("  ", mark))
    line = crop(spans, width)
    # The background of the selected row goes over the whole width, the filling at its end included.
    return tuple((text, role if role.endswith(mark) else role + mark) for text, role in line)
