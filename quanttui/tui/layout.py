"""Where everything stands on a screen of a given size. Pure: a size in, places out; it knows the sheets by name only.

No size is refused: what does not fit is left out, from the least important on.
"""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A rectangle of cells."""

    x: int
    y: int
    width: int
    height: int


LARGE, MEDIUM = (100, 34), (60, 20)
"""The least size (columns, rows) for panels, and for lines with small charts."""

VAST = (170, 44)
"""The least size at which the table stands beside the panels."""

PANELS = (("speed", "perplexity"), ("memory", "swap"), ("both", "power"))
"""The panels of the form "panels", two beside each other; "both" is bus and GPU in one."""

ZOOMED = ("speed", "perplexity", "memory", "swap", "bus", "gpu", "power", "table", "pareto", "story")
"""What can have the whole screen, in turn."""

FORMS = {"lines": (1, 1), "rows": MEDIUM, "panels": LARGE, "wide": VAST}
"""The forms, smallest first, with the least size of each: those of 40x10, 80x24, 120x40 and 200x50."""


def largest(width: int, height: int, asked: str = "auto") -> str:
    """The largest form that a screen has room for, up to the one that was asked for; "lines" where none has."""
    names = list(FORMS)
    allowed = names if asked == "auto" else names[: names.index(asked) + 1]
    fitting = [name for name in allowed if width >= FORMS[name][0] and height >= FORMS[name][1]]
    return fitting[-1] if fitting else names[0]


def places(width: int, height: int, quants: int = 12, form: str = "auto") -> dict[str, Place]:
    """The place of each sheet that is shown; none overlap, none reach beyond the screen.

    Args:
        quants: rows that the table would like to have.
        form: one of FORMS, or "auto"; one that has no room gives way to the largest below it that has.
    """
    chosen = largest(width, height, form)
    if chosen == "wide":
        return _vast(width, height, quants)
    if chosen == "panels":
        return _large(width, height, quants)
    if chosen == "rows":
        return _medium(width, height, quants)
    return _small(width, height)


def zoomed(name: str, width: int, height: int) -> dict[str, Place]:
    """One panel on the whole screen, between header and footer where there is room for them."""
    if height < 8:
        return {name: Place(0, 0, width, height)}
    named = [("header", 1), ("lane", 1), (name, height - 4), ("status", 1), ("footer", 1)]
    return _stacked(named, 0, 0, width)


def _stacked(names: list[tuple[str, int]], x: int, y: int, width: int) -> dict[str, Place]:
    found = {}
    for name, height in names:
        found[name] = Place(x, y, width, height)
        y += height
    return found


def _large(width: int, height: int, quants: int) -> dict[str, Place]:
    """Two columns of panels, the table below them."""
    spare = height - 34
    tall, low, story = 7 + min(2, spare // 5), 6 if spare >= 3 else 5, 4 if spare >= 3 else 3
    extra = max(0, height - 3 - 2 * tall - low - story - 2 - max(5, quants + 3))
    story += extra // 3
    tall += (extra - extra // 3) // 3
    table = height - 3 - 2 * tall - low - story - 2
    found = _stacked([("header", 1), ("strip", 1), ("lane", 1)], 0, 0, width)
    half, y = width // 2, 3
    for (left, right), rows in zip(PANELS, (tall, tall, low), strict=True):
        found[left] = Place(0, y, half, rows)
        found[right] = Place(half, y, width - half, rows)
        y += rows
    below = [("table", table), ("story", story), ("status", 1), ("footer", 1)]
    return found | _stacked(below, 0, y, width)


def _vast(width: int, height: int, quants: int) -> dict[str, Place]:
    """One column of wide panels, bus and gpu apart; table, quality against speed, and story beside them."""
    found = _stacked([("header", 1), ("strip", 1), ("lane", 1)], 0, 0, width)
    left, rows = width * 3 // 5, height - 5
    found |= _stacked(_shared(_WEIGHTS, rows), 0, 3, left)
    table = min(quants + 4, rows - 2 * _LEAST)
    plot = max(_LEAST, min(rows - table - _LEAST, (rows - table) * 3 // 5))
    aside = [("table", table), ("pareto", plot), ("story", rows - table - plot)]
    found |= _stacked(aside, left, 3, width - left)
    return found | _stacked([("status", 1), ("footer", 1)], 0, height - 2, width)


_WEIGHTS = {"speed": 8, "perplexity": 8, "memory": 7, "swap": 6, "bus": 6, "gpu": 5, "power": 5}
"""How the vast form divides its left column; their rows at 50 lines."""

_LEAST = 8
"""Rows that the plot and the story have at least."""


def _shared(weights: dict[str, int], rows: int) -> list[tuple[str, int]]:
    """Rows divided by weight; all of them are given away."""
    whole, begun, found = sum(weights.values()), 0, []
    for name, weight in weights.items():
        found.append((name, rows * (begun + weight) // whole - rows * begun // whole))
        begun += weight
    return found


def _medium(width: int, height: int, quants: int) -> dict[str, Place]:
    """A line for each metric with a small chart, and the table."""
    metrics = 8 if height >= 22 else 6
    rest = height - 3 - 1 - metrics - 1 - 2
    story = 1 if rest < 7 else 2 + max(0, rest - 3 - (quants + 1))
    table = rest - story - 1
    names = [
        ("header", 1), ("strip", 1), ("steps", 1), ("rule1", 1), ("metrics", metrics), ("rule2", 1), ("bare", table),
        ("rule3", 1), ("story", story), ("status", 1), ("footer", 1),
    ]  # fmt: skip
    return _stacked([(name, rows) for name, rows in names if rows > 0], 0, 0, width)


def _small(width: int, height: int) -> dict[str, Place]:
    """A line for each metric; on the smallest screens the first few."""
    names: list[tuple[str, int]] = [("headline", 1)] if height >= 2 else []
    foot = [("flagged", 1), ("footer", 1)] if height >= 5 else []
    room = height - len(names) - len(foot)
    names.append(("brief", room))
    return _stacked([(name, rows) for name, rows in (*names, *foot) if rows > 0], 0, 0, width)
