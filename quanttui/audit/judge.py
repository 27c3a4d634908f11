"""A whole table judged: rows by source and device, what each group says of its rows, and who wins what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from quanttui.audit import perplexity, speed
from quanttui.audit.found import Audit, Expected, Finding, Group, Judged, Ranked
from quanttui.audit.perplexity import Base
from quanttui.audit.table import Table
from quanttui.audit.weigh import lacks_memory, weighed
from quanttui.diagnosis.case import GLYPHS
from quanttui.diagnosis.thresholds import DEFAULTS, Thresholds
from quanttui.format import percent
from quanttui.stats.intervals import median

_KINDS = (*GLYPHS, "")
_SPEED = ("bandwidth-wall", "unexplained")


def audit(table: Table, limits: Thresholds = DEFAULTS) -> Audit:
    """Hold a table's figures against each other, the known shapes and the real bits of the quants."""
    bases = perplexity.bases(table.rows)
    members: dict[tuple[str, str], list[Judged]] = {}
    for row in table.rows:
        members.setdefault((row.source, row.device), []).append(weighed(row))
    groups = tuple(_group(source, device, rows, bases, limits) for (source, device), rows in members.items())
    ranking = _ranking(one for group in groups for one in group.rows)
    return Audit(table.name, groups, tuple(perplexity.comparisons(table.rows, bases)), ranking, table.notes)


class _Wall(msgspec.Struct, frozen=True):
    """The rows of a group at the wall: their lines, quants, and shares of the bus in order."""

    lines: frozenset[int]
    quants: tuple[str, ...]
    shares: tuple[float, ...]


def _group(
    source: str, device: str, rows: Sequence[Judged], bases: dict[perplexity.Key, Base], limits: Thresholds
) -> Group:
    wall, larger = _wall(rows, limits), _faster_and_larger(rows)
    judged = []
    for one in rows:
        one = msgspec.structs.replace(one, expected=_expected(one, wall))
        found = _findings(one, larger.get(one.row.line, ""), bases.get(perplexity.key(one.row)), limits)
        judged.append(msgspec.structs.replace(one, findings=found))
    return Group(source, device, tuple(judged), _summed(judged, wall))


def _findings(one: Judged, larger: str, base: Base | None, limits: Thresholds) -> tuple[Finding, ...]:
    """What contaminates it first, then what its speed is, then the rest by gravity; there is always one."""
    found = [*speed.findings(one, larger, limits), *perplexity.findings(one.row, base)]
    if not found:
        found = [_agreed(one, base)]
    return tuple(sorted(found, key=_rank))


def _rank(one: Finding) -> tuple[bool, bool, int]:
    return one.kind != "contaminated", one.code not in _SPEED or not one.kind, _KINDS.index(one.kind)


def _agreed(one: Judged, base: Base | None) -> Finding:
    """Of a row that nothing contradicts: what was checked, or that nothing could be."""
    good = [*speed.agreements(one), *perplexity.agreements(one.row, base)]
    if good:
        said = " and ".join(good)
        return Finding("consistent", "explained", "consistent", f"{said[0].upper()}{said[1:]}.")
    why = "not enough columns are filled"
    if one.row.size_gb and one.weights.why:
        why = one.weights.why
    elif one.row.ppl and not (one.row.tok_s or one.row.size_gb):
        why = "a perplexity by itself says nothing of its row"
    return Finding("not-judged", "", "nothing to check", f"{why[0].upper()}{why[1:]}.")


def _wall(rows: Iterable[Judged], limits: Thresholds) -> _Wall:
    at = [
        (one.bus.share, one.row)
        for one in rows
        if one.bus and one.bus.share and limits.wall <= one.bus.share <= 1
        if not one.row.swapped and not lacks_memory(one)
    ]
    shares = tuple(sorted(share for share, _ in at))
    return _Wall(frozenset(row.line for _, row in at), tuple(dict.fromkeys(row.quant for _, row in at)), shares)


def _expected(one: Judged, wall: _Wall) -> Expected | None:
    """What the row would give at the wall, as the group's rows there reached it; None for those."""
    bus = one.bus or (one.implied.bus if one.implied else None)
    if not wall.shares or bus is None or not bus.ceiling or not one.weights.active or one.row.line in wall.lines:
        return None
    each = bus.ceiling / one.weights.active
    return Expected(median(wall.shares) * each, wall.shares[0] * each, wall.shares[-1] * each, wall.quants)


def _faster_and_larger(rows: Iterable[Judged]) -> dict[int, str]:
    """By line, the quant of a row that reads more for a token and is faster all the same: whatever the bus gives, it is
    not what holds this one."""
    timed = [
        (one.weights.active, one.row.tok_s.value, one.row)
        for one in rows
        if one.weights.active and one.row.tok_s and not one.row.swapped
    ]
    found: dict[int, str] = {}
    best = most = 0.0
    named = ""
    for active, tok_s, row in sorted(timed, key=lambda each: (-each[0], -each[1])):
        if tok_s < best and active < most:
            found[row.line] = named
        if tok_s > best:
            best, most, named = tok_s, active, row.quant
    return found


def _summed(rows: Sequence[Judged], wall: _Wall) -> str:
    shares = [one.bus.share for one in rows if one.bus and one.bus.share is not None]
    wholes = [one.bus.whole_share for one in rows if one.bus and one.bus.whole_share is not None]
    if len(shares) < 2:
        return ""
    by_file = f" ({_span(wholes)} % by whole files)" if wholes else ""
    at = f"at the wall: {speed.listed(wall.quants)}" if wall.quants else "none is at the wall"
    return f"{len(shares)} speeds move {_span(shares)} % of the bus{by_file}: {at}."


def _span(shares: Sequence[float]) -> str:
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low} to {high}"


def _ranking(rows: Iterable[Judged]) -> tuple[Ranked, ...]:
    """Published tok/s per watt; a tainted row's is among them, and never wins."""
    found = []
    for one in rows:
        row = one.row
        if row.tok_s_per_w:
            why = one.findings[0].words if one.tainted else ""
            found.append(
                Ranked(row.line, row.source, row.device, row.model, row.quant, row.tok_s_per_w, not one.tainted, why)
            )
    return tuple(sorted(found, key=lambda one: (not one.counts, -one.tok_s_per_w.value)))
