"""What the runs amount to: the confusion matrix, the figures that must be reached, the onsets. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from quanttui.diagnosis.case import CODES

from .records import NOTHING, Record

REACHED, MISSED, OPEN = "reached", "NOT reached", "too few runs to tell"

RUNS, CLEAN_RUNS, ARMS, SESSIONS = 40, 20, 5, 2
"""How many there must be: runs, clean ones among them, arms of a session, sessions."""

SHARE_RIGHT, ONSET, MBU_RATIO = 0.95, 3.0, 1.10
"""What must be reached: share of runs called right, seconds (median), the larger session's median over the other's."""

TRUSTING = frozenset({"bandwidth-wall", "compute-bound", "cache-resident", NOTHING})
"""What calls a speed the quant's own."""

MBU_OF = ("wall-arms", "wall-arms-1")
"""Conditions whose sessions are several equal arms."""

MARK = "!"
"""Beside a count in a cell that is not right."""


@dataclass(frozen=True)
class Figure:
    """One figure that must be reached: what it is, what it must be, what it is, and whether that is enough."""

    name: str
    must: str
    found: str
    verdict: str


def counted(records: Iterable[Record]) -> list[Record]:
    """The runs of the matrix: those that count, without onsets."""
    return [record for record in records if record.counts and record.onset is None]


def figures(records: Sequence[Record]) -> list[Figure]:
    """What the issue asks for, in its order."""
    runs = counted(records)
    return [_right(runs), _trusted(runs), _accused(runs), _onset(records), _mbu(runs)]


def _judged(good: bool, enough: bool) -> str:
    """What is missed is missed, however few there are."""
    return MISSED if not good else REACHED if enough else OPEN


def _right(runs: Sequence[Record]) -> Figure:
    right = sum(record.correct for record in runs)
    share = right / len(runs) if runs else None
    found = "no run" if share is None else f"{right} of {len(runs)} = {100 * share:.1f} %"
    # A few wrong ones among few runs may still be few enough among all.
    enough = len(runs) >= RUNS
    good = share is None or share >= SHARE_RIGHT or (not enough and len(runs) - right <= (1 - SHARE_RIGHT) * RUNS)
    return Figure("called right", f">= {100 * SHARE_RIGHT:.0f} % of >= {RUNS} runs", found, _judged(good, enough))


def _trusted(runs: Sequence[Record]) -> Figure:
    faulty = [record for record in runs if record.kind == "faulty"]
    wrong = [record for record in faulty if record.said in TRUSTING]
    found = f"{len(wrong)} of {len(faulty)}{_names(wrong)}"
    return Figure("contaminated, called clean or bandwidth", "0", found, _judged(not wrong, len(runs) >= RUNS))


def _accused(runs: Sequence[Record]) -> Figure:
    clean = [record for record in runs if record.kind == "clean"]
    wrong = [record for record in clean if any(said.accuses for said in record.verdicts)]
    found = f"{len(wrong)} of {len(clean)}{_names(wrong)}"
    enough = len(clean) >= CLEAN_RUNS
    return Figure("clean, called contaminated", f"0 of >= {CLEAN_RUNS}", found, _judged(not wrong, enough))


def _onset(records: Sequence[Record]) -> Figure:
    seconds = _seconds(record for record in records if record.counts)
    slow = _seconds(record for record in records if record.counts and _in_token(record))
    found = "none measured"
    good = True
    if seconds:
        good = median(seconds) <= ONSET and (not slow or median(slow) <= ONSET)
        found = f"{median(seconds):.1f} s over {len(seconds)}"
        found += f", {median(slow):.1f} s over {len(slow)} inside a token of more than {ONSET:g} s" if slow else ""
    return Figure("onset to flag, median", f"<= {ONSET:g} s, inside a slow token too", found, _judged(good, bool(slow)))


def _seconds(records: Iterable[Record]) -> list[float]:
    """Seconds from onset to the right flag; what was never seen took for ever."""
    told = [record.onset for record in records if record.onset is not None]
    return [math.inf if one.flagged is None else one.flagged for one in told]


def _in_token(record: Record) -> bool:
    return record.onset is not None and record.onset.token > ONSET


def medians(runs: Sequence[Record], condition: str) -> list[float]:
    """Median MBU of each session of that condition in which enough arms were called bandwidth-bound."""
    sessions: dict[str, list[float]] = {}
    for one in runs:
        if one.condition == condition and one.said == "bandwidth-wall" and one.mbu is not None:
            sessions.setdefault(one.session, []).append(one.mbu)
    return [median(values) for values in sessions.values() if len(values) >= ARMS]


def _mbu(runs: Sequence[Record]) -> Figure:
    """The sessions of one condition against each other, all of them."""
    told, ratios = [], []
    for condition in MBU_OF:
        if found := medians(runs, condition):
            told.append(f"{condition} {', '.join(f'{value:.3f}' for value in found)}")
        if len(found) >= SESSIONS:
            ratios.append(max(found) / min(found))
            told[-1] += f": ratio {ratios[-1]:.3f}"
    must = f"medians of >= {ARMS} arms within {100 * (MBU_RATIO - 1):.0f} %, {SESSIONS} sessions"
    verdict = _judged(max(ratios, default=1.0) <= MBU_RATIO, bool(ratios))
    return Figure("MBU of clean bandwidth-bound arms", must, "; ".join(told) or "none measured", verdict)


def _names(records: Sequence[Record]) -> str:
    counts = Counter(f"{record.condition} as {record.said}" for record in records)
    told = ", ".join(f"{name} x {count}" if count > 1 else name for name, count in counts.items())
    return f" ({told})" if told else ""


def reached(found: Sequence[Figure]) -> bool:
    return all(figure.verdict == REACHED for figure in found)


# --- text -----------------------------------------------------------------------------------------------------------


def text(records: Sequence[Record]) -> str:
    """The matrix, the figures, the onsets, and what counted for nothing."""
    runs = counted(records)
    parts = [_matrix(runs), _onsets(records), _void(records), _figures(figures(records))]
    return "\n\n".join(part for part in parts if part)


def _matrix(runs: Sequence[Record]) -> str:
    """A row for each condition and what was right, a column for each class that was said."""
    if not runs:
        return ""
    order = {code: at for at, code in enumerate(CODES)}
    said = sorted({record.said for record in runs}, key=lambda code: (order.get(code, len(order)), code))
    rows = [("condition", "right", *said, "right")]
    for name in dict.fromkeys(record.condition for record in runs):
        of = [record for record in runs if record.condition == name]
        right = dict.fromkeys(code for record in of for code in record.right)
        cells = [_cell([record for record in of if record.said == code]) for code in said]
        rows.append((name, " or ".join(right), *cells, f"{sum(record.correct for record in of)}/{len(of)}"))
    return f"What was said (columns) under each condition; {MARK} marks what is wrong:\n{_table(rows)}"


def _cell(records: Sequence[Record]) -> str:
    if not records:
        return "."
    return f"{len(records)}{'' if all(record.correct for record in records) else MARK}"


def _onsets(records: Sequence[Record]) -> str:
    runs = [record for record in records if record.onset is not None and record.counts]
    if not runs:
        return ""
    rows = [("onset", "seen as", "runs", "median s", "longest s", "each", "longest token s", "first flag, median s")]
    for name in dict.fromkeys(record.condition for record in runs):
        of = [record for record in runs if record.condition == name]
        seconds = _seconds(of)
        begun = [record.onset for record in of if record.onset is not None]
        first = [math.inf if one.first is None else one.first for one in begun]
        rows.append(
            (
                name,
                ", ".join(dict.fromkeys(f"{record.said}{'' if record.correct else MARK}" for record in of)),
                str(len(of)),
                f"{median(seconds):.1f}",
                f"{max(seconds):.1f}",
                " ".join(f"{each:.1f}" for each in seconds),
                f"{max(one.token for one in begun):.1f}",
                f"{median(first):.1f}",
            )
        )
    return f"From the beginning of a fault to the right flag ({MARK}: another came first):\n{_table(rows)}"


def _void(records: Sequence[Record]) -> str:
    counts = Counter((record.condition, record.void) for record in records if record.void)
    lines = [f"  {name}: {why}" + (f" ({count} times)" if count > 1 else "") for (name, why), count in counts.items()]
    return "\n".join(["What counted for nothing:", *lines]) if lines else ""


def _figures(found: Sequence[Figure]) -> str:
    return _table([("figure", "must be", "is", ""), *((one.name, one.must, one.found, one.verdict) for one in found)])


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
