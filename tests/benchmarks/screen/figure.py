"""A figure of the monitor: what it is, what it must be, what was measured. The table of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MET, MISSED, FAILED = "met", "not met", "failed"

HEAD = ("row", "what", "must be", "measured", "lowest–highest", "n", "verdict")


class Broken(Exception):
    """A row cannot be measured: one clear line."""


@dataclass(frozen=True)
class Figure:
    """`value` in `unit` of so many `values` must not be above `limit`; None could not be measured."""

    what: str
    unit: str
    limit: float
    value: float | None
    values: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    row: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.value is None or math.isnan(self.value):
            return FAILED
        return MET if self.value <= self.limit else MISSED


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(figures: Sequence[Figure]) -> str:
    """One line a figure, with its notes below it."""
    rows = [HEAD, *map(_cells, figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    told = [lines[0], "  ".join("-" * width for width in widths)]
    for line, figure in zip(lines[1:], figures, strict=True):
        told += [line, *(f"    {note}" for note in figure.notes)]
    return "\n".join(told)


def _cells(figure: Figure) -> tuple[str, ...]:
    one, values = _words(figure.unit), figure.values
    return (
        figure.row,
        figure.what,
        f"≤ {one(figure.limit)}",
        "-" if figure.value is None else one(figure.value),
        f"{one(min(values))}–{one(max(values))}" if len(values) > 1 else "-",
        str(len(values) or 1),
        figure.verdict,
    )


def _words(unit: str) -> Callable[[float], str]:
    """How a value is written: three digits and its unit."""
    return lambda value: f"{value:.3g} {unit}".rstrip()


def line(figure: Figure, about: dict[str, Any]) -> dict[str, Any]:
    """A figure as one JSON object, with what is to be known about its measurement."""
    return {
        "row": figure.row,
        "what": figure.what,
        "unit": figure.unit,
        "limit": figure.limit,
        "value": figure.value if figure.value is not None and math.isfinite(figure.value) else None,
        "values": [value if math.isfinite(value) else None for value in figure.values],
        "verdict": figure.verdict,
        "notes": list(figure.notes),
        "detail": figure.detail,
        **about,
    }
