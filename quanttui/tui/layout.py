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

PANELS = (("speed", "perplexity"), ("memory", "swap"), ("bus", "power"))


def places(width: int, height: int, quants: int = 12) -> dict[str, Place]:
    """The place of each sheet that is shown; none overlap, none reach beyond the screen.

    Args:
        quants: rows that the table would like to have.
    """
    if width >= VAST[0] and height >= VAST[1]:
        return _vast(width, height, quants)
    if width >= LARGE[0] and height >= LARGE[1]:
        return _large(width, height, quants)
    if width >= MEDIUM[0] and height >= MEDIUM[1]:
        return _medium(width, height, quants)
    return _small(width, height)


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
    """One column of wide panels; table and story beside them."""
    found = _stacked([("header", 1), ("strip", 1), ("lane", 1)], 0, 0, width)
    left, rows = width * 3 // 5, height - 5
    weights = {"speed": 9, "perplexity": 9, "memory": 8, "swap": 7, "bus": 7, "power": 5}
    whole = sum(weights.values())
    y, begun = 3, 0
    for name, weight in weights.items():
        share = rows * (begun + weight) // whole - rows * begun // whole
        found[name] = Place(0, y, left, share)
        y, begun = y + share, begun + weight
    table = min(quants + 4, rows - 8)
    aside = [("table", table), ("story", rows - table)]
    found |= _stacked(aside, left, 3, width - left)
    return found | _stacked([("status", 1), ("footer", 1)], 0, height - 2, width)


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
