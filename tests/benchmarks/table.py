"""The table of results, and their lines of JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import figures
from .rounds import Result

HEAD = ("row", "must be", "median", "95 % interval", "pairs", "spread", "floor (tool ÷ itself)", "verdict")


def table(results: Sequence[Result]) -> str:
    """One line a row, with its notes below it."""
    rows = [HEAD, *map(_cells, results)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    told = [lines[0], "  ".join("-" * width for width in widths)]
    for line, result in zip(lines[1:], results, strict=True):
        told += [line, *(f"    {note}" for note in result.notes)]
    return "\n".join(told)


def _cells(result: Result) -> tuple[str, ...]:
    values = result.values
    middle = f"{figures.median(values):.4f}" if values else "-"
    return (
        result.row,
        result.target.words,
        middle,
        _span(values),
        str(len(values)),
        f"{figures.spread(values):.4f}" if len(values) > 1 else "-",
        f"{figures.median(result.floor):.4f} ({_span(result.floor)})" if result.floor else "-",
        result.verdict,
    )


def _span(values: Sequence[float]) -> str:
    found = figures.interval(values)
    return f"{found[0]:.4f}–{found[1]:.4f}" if found else "-"


def line(result: Result, about: dict[str, Any]) -> dict[str, Any]:
    """A result as one JSON object, with what is to be known about its measurement."""
    found, floor = figures.interval(result.values), figures.interval(result.floor)
    return {
        "row": result.row,
        "target": {"low": result.target.low, "high": result.target.high},
        "median": figures.median(result.values) if result.values else None,
        "interval": found,
        "pairs": len(result.values),
        "spread": figures.spread(result.values),
        "floor": {"median": figures.median(result.floor) if result.floor else None, "interval": floor},
        "verdict": result.verdict,
        "notes": result.notes,
        "values": result.values,
        "floor_values": result.floor,
        "detail": result.detail,
        **about,
    }
