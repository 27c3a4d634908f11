"""An audit for people and for programs. Plain text of 100 columns, marks in ASCII; or one JSON object, schema 1:

    {"schema": 1, "table": name, "counts": {"contaminated": n, "caution": n, "explained": n, "nothing to check": n},
     "groups": [{"source", "device", "sentence", "rows": [{"row": {…}, "weights": {…}, "bus", "implied", "expected",
       "kind", "findings": [{"code", "kind", "words", "sentence", "evidence": {…}}]}]}],
     "comparisons": [{"models", "quant", "kind", "sentence",
       "entries": [{"source", "model", "line", "ppl", "increase"}]}],
     "ranking": [{"line", "source", "device", "model", "quant", "tok_s_per_w", "counts", "why"}], "notes": [text]}

What is absent is null. A published number is {"text", "value", "half"}: `half` is half a unit of its last digit. `row`
has the table's columns and `line`; `weights` GB (audit.found.Weights), `bus` GB/s with `share` and `whole_share` of its
ceiling (audit.found.Bus), `expected` tokens per second at the wall. A row's `kind` is its gravest finding's; "" is
nothing to check. `comparisons`: one quant in several sources, `increase` in percent over each one's own base. `ranking`
is by tok/s per watt; what does not count stands behind whatever does.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from quanttui.audit.found import Audit, Bus, Comparison, Finding, Group, Judged, Ranked
from quanttui.audit.table import Figure
from quanttui.diagnosis.case import GLYPHS
from quanttui.format import clean, percent, significant

SCHEMA = 1
WIDTH = 100

_NOTHING = "nothing to check"
_HEAD = f"{'line':>6}  {'model':<21} {'quant':<7} {'GB':>7} {'tok/s':>7} {'% of bus':>11}  verdict"
_COMPARED = (
    "In parentheses the increase over the source's own base: where values are of other texts, contexts or bases, only "
    "these compare, and roughly."
)
_MOST = 20
"""Notes that are printed; the JSON has them all."""


def report(found: Audit) -> str:
    """The audit as text: rows by source and device, sources beside each other, the ranking, notes, a summary line."""
    blocks = [f"quanttui audit: {found.table}", *("\n".join(_group(group)) for group in found.groups)]
    blocks += ["\n".join(_comparisons(found.comparisons)), "\n".join(_ranking(found.ranking))]
    blocks += ["\n".join(_notes(found.notes)), _summary(found)]
    return "\n\n".join(filter(None, blocks))


def data(found: Audit) -> dict[str, Any]:
    """The audit as the object above."""
    return {
        "schema": SCHEMA,
        "table": found.table,
        "counts": _counts(found),
        "groups": [
            {
                "source": group.source,
                "device": group.device,
                "sentence": group.sentence,
                "rows": [_judged(one) for one in group.rows],
            }
            for group in found.groups
        ],
        "comparisons": msgspec.to_builtins(found.comparisons),
        "ranking": msgspec.to_builtins(found.ranking),
        "notes": list(found.notes),
    }


def _judged(one: Judged) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(one)
    plain["bus"] = _bus(one.bus)
    if one.implied:
        plain["implied"]["bus"] = _bus(one.implied.bus)
    return plain | {"kind": one.kind}


def _bus(bus: Bus | None) -> dict[str, Any] | None:
    if bus is None:
        return None
    plain: dict[str, Any] = msgspec.to_builtins(bus)
    return plain | {"share": bus.share, "whole_share": bus.whole_share}


def _counts(found: Audit) -> dict[str, int]:
    """Rows by their gravest kind."""
    kinds = Counter(one.kind for one in found.rows)
    return {kind or _NOTHING: kinds[kind] for kind in (*GLYPHS, "")}


# --- text -----------------------------------------------------------------------------------------------------------


def _group(group: Group) -> Iterator[str]:
    yield from _wrapped(_heading(group), "", "  ")
    yield _HEAD
    for one in group.rows:
        yield from _row(one)
    if group.sentence:
        yield from _wrapped(group.sentence, "  ", "  ")


def _heading(group: Group) -> str:
    """Source and device, with the memory and the bandwidth that all of its rows give."""
    said = f"{group.source or 'no source'}: {group.device or 'no device'}"
    for column, unit in (("memory_gb", "GB"), ("peak_gbps", "GB/s")):
        figures = {figure.text if (figure := getattr(one.row, column)) else "" for one in group.rows}
        if len(figures) == 1 and (text := figures.pop()):
            said += f", {text} {unit}"
    return said


def _row(one: Judged) -> Iterator[str]:
    row, bus = one.row, one.bus
    gb = f"~{significant(one.weights.gb)}" if one.weights.how == "computed" else _short(row.size_gb)
    star = "*" if one.tainted else ""
    speed = f"{_short(row.tok_s)}{star}" if row.tok_s else ""
    if row.tok_s_per_w and not row.tok_s:
        speed = f"{_short(row.tok_s_per_w)}{star}/W"
    cells = f"{row.line:>6}  {clean(row.model, 21):<21} {clean(row.quant, 7):<7} {gb:>7} {speed:>7} {_share(bus):>11}"
    yield f"{cells}  {_verdict(one.findings, max(0, WIDTH - len(cells) - 2))}"[:WIDTH].rstrip()
    for finding in one.findings:
        mark = f"{finding.glyph} " if finding.glyph else ""
        yield from _wrapped(f"{mark}{finding.sentence}", " " * 8, " " * (8 + len(mark)))


def _short(figure: Figure | None) -> str:
    """As published, where that fits its column."""
    if figure is None:
        return ""
    return figure.text if len(figure.text) <= 7 else significant(figure.value)


def _verdict(findings: Iterable[Finding], width: int) -> str:
    """The words of the first finding, and of as many more as there is room for."""
    said = ""
    for finding in findings:
        words = f"{finding.glyph} {finding.words}".strip()
        longer = f"{said}, {words}" if said else words
        if said and len(longer) > width:
            break
        said = longer
    return said[:width]


def _share(bus: Bus | None) -> str:
    """Percent of the bus, by the whole file in parentheses where that is another figure."""
    if bus is None or (bus.share is None and bus.whole_share is None):
        return ""
    if bus.share is None:
        return f"<{percent(bus.whole_share)}"
    share, whole = percent(bus.share), percent(bus.whole_share)
    return share if bus.whole_share is None or whole == share else f"{share} ({whole})"


def _comparisons(found: Iterable[Comparison]) -> Iterator[str]:
    models: tuple[str, ...] = ()
    for one in found:
        if one.models != models:
            models = one.models
            yield from _wrapped(f"perplexity in several sources: {', '.join(models)}", "", "  ")
            yield from _wrapped(_COMPARED, "  ", "  ")
        values = "; ".join(
            f"{entry.ppl.text}{f' ({entry.increase.text})' if entry.increase else ''} {entry.source or 'no source'}"
            for entry in one.entries[:6]
        )
        more = f"; {len(one.entries) - 6} more" if len(one.entries) > 6 else ""
        yield from _wrapped(f"{one.glyph} {one.quant}: {values}{more}", "  ", " " * 6)
        yield from _wrapped(one.sentence, " " * 6, " " * 6)


def _ranking(ranking: tuple[Ranked, ...]) -> Iterator[str]:
    """What counts, best first, and what does not."""
    if not ranking:
        return
    counted = [_efficiency(one) for one in ranking if one.counts]
    starred = [f"{_efficiency(one)} ({one.why})" for one in ranking if not one.counts]
    yield from _wrapped(f"tok/s per watt, best first: {'; '.join(counted[:_MOST]) or 'none that counts'}", "", "  ")
    if starred:
        yield from _wrapped(f"not ranked: {'; '.join(starred[:_MOST])}", "  ", "    ")


def _efficiency(one: Ranked) -> str:
    place = ", ".join(filter(None, (one.source, one.device, one.quant)))
    return f"{one.tok_s_per_w.text}{'' if one.counts else '*'} {place or f'line {one.line}'}"


def _notes(notes: tuple[str, ...]) -> Iterator[str]:
    for note in notes[:_MOST]:
        yield from _wrapped(f"note: {note}", "", "  ")
    if len(notes) > _MOST:
        yield f"note: {len(notes) - _MOST} more like these"


def _summary(found: Audit) -> str:
    counts = _counts(found)
    said = ", ".join(f"{count} {GLYPHS.get(kind, '')} {kind}".replace("  ", " ") for kind, count in counts.items())
    stars = " A * marks a figure that is not what it claims to be." if counts["contaminated"] else ""
    notes = f" {len(found.notes)} notes." if found.notes else ""
    return textwrap.fill(f"{len(found.rows)} rows: {said}.{notes}{stars}", WIDTH)


def _wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
