"""The campaign's table: how often each fault was done, and what was lost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .ground import Fault, Outcome

HEADS = (
    "fault", "times", "sweeps lost", "recorded units lost", "wrong resumes", "qualities differ", "other failures"
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A fault with what became of it each time. `skipped` says why the host does not allow it, "" where it does."""

    fault: Fault
    outcomes: Sequence[Outcome] = ()
    skipped: str = ""

    @property
    def counts(self) -> tuple[int, ...]:
        """Times, then what HEADS names after it."""
        each = self.outcomes
        return (
            len(each),
            sum(one.lost_sweep for one in each),
            sum(one.lost_units for one in each),
            sum(one.wrong_resume for one in each),
            sum(one.quality for one in each),
            sum(_is_other(one) for one in each),
        )


def _is_other(one: Outcome) -> bool:
    return bool(one.said) and not (one.lost_sweep or one.lost_units or one.wrong_resume or one.quality)


def totals(rows: Sequence[Row]) -> tuple[int, ...]:
    """All rows together."""
    return tuple(sum(column) for column in zip(*(row.counts for row in rows), strict=True)) or (0,) * (len(HEADS) - 1)


def sound(rows: Sequence[Row]) -> bool:
    """Whether something was done and nothing is amiss."""
    done, *amiss = totals(rows)
    return done > 0 and not any(amiss)


def text(rows: Sequence[Row]) -> str:
    """The table, a line for each fault in its group, and the totals."""
    lines: list[tuple[str, ...]] = [HEADS]
    group = ""
    for row in rows:
        if row.fault.group != group:
            group = row.fault.group
            lines.append((group,))
        lines.append((f"  {row.fault.name}", *((f"skipped: {row.skipped}",) if row.skipped else map(str, row.counts))))
    lines.append(("all", *map(str, totals(rows))))
    first = max(len(line[0]) for line in lines)
    return "\n".join(_line(line, first) for line in lines)


def _line(cells: Sequence[str], first: int) -> str:
    rest = (cell.rjust(len(head)) for cell, head in zip(cells[1:], HEADS[1:], strict=False))
    return "  ".join((cells[0].ljust(first), *rest)).rstrip()
