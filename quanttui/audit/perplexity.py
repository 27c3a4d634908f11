"""Findings about perplexities: deltas against the table's own values, and one quant as several sources have it.

A rounded number may be anything that rounds to it, so a contradiction is one that no digits behind the last can mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from quanttui import quants, shapes
from quanttui.audit.found import Comparison, Entry, Finding
from quanttui.audit.table import Figure, Row
from quanttui.audit.weigh import quant_of
from quanttui.format import percent, significant

APART = 0.01
"""Perplexities of one quant this far apart are of different texts, contexts or bases: batch, flash attention and
backend move the last digits only."""
BETTER = -0.5
"""A perplexity this much below its base's, in percent, is noise or the importance matrix's own text."""

Key = tuple[str, str, str]
"""Source, device, and the model's name in one spelling."""


class Base(msgspec.Struct, frozen=True):
    """The row that a source's deltas are held against. All of them would fit any perplexity from `low` to `high`, and
    none where `low` is above `high`."""

    row: Row
    ppl: Figure
    low: float
    high: float


def key(row: Row) -> Key:
    """Rows of one key share a base."""
    return row.source, row.device, shapes.weights_named(row.model)


def bases(rows: Iterable[Row]) -> dict[Key, Base]:
    """The base of each source, device and model: the row whose delta is 0, else the unquantized one; of several, that
    of most bits."""
    members: dict[Key, list[tuple[Row, Figure]]] = {}
    for row in rows:
        if row.ppl:
            members.setdefault(key(row), []).append((row, row.ppl))
    found = {}
    for each, ours in members.items():
        zero = [one for one in ours if one[0].ppl_delta_pct and one[0].ppl_delta_pct.value == 0]
        chosen = zero or [one for one in ours if (quant := quant_of(one[0])) and quant.family == "float"]
        if chosen:
            row, ppl = max(chosen, key=lambda one: _bits(one[0]))
            found[each] = Base(row, ppl, *_fitting(ours))
    return found


def findings(row: Row, base: Base | None) -> Iterator[Finding]:
    """What a row's delta contradicts, and a quant that betters its base."""
    delta, increase = row.ppl_delta_pct, _increase(row, base)
    if base and delta and increase and row.line != base.row.line and row.ppl and _apart(delta, increase):
        said = (
            f"{row.ppl.text} against the {base.ppl.text} of line {base.row.line} is {increase.text} (by their digits "
            f"{increase.low:.2f} to {increase.high:.2f}), not {delta.text} %."
        )
        if base.low <= base.high < float("inf"):
            said += f" All its table's deltas fit a base of {base.low:.4g} to {base.high:.4g}, which it does not give."
        evidence: dict[str, float | str] = {"published, %": delta.value, "by its perplexities, %": increase.value}
        yield Finding("delta-contradicts", "caution", "delta off", said, evidence)
    change = delta or increase
    if change and change.high < BETTER:
        better = significant(abs(change.value))
        said = f"{better} % better than its base: noise, or an importance matrix of the same text."
        yield Finding("better-than-base", "caution", "better than its base", said, {"change, %": change.value})


def agreements(row: Row, base: Base | None) -> Iterator[str]:
    """What was checked and is right, where `findings` gave none."""
    if base and row.ppl and row.ppl_delta_pct and row.line != base.row.line:
        yield f"its delta is that of {row.ppl.text} over the {base.ppl.text} of line {base.row.line}"


def comparisons(rows: Iterable[Row], known: dict[Key, Base]) -> Iterator[Comparison]:
    """Perplexities of one quant and one shape that several sources publish: shape by shape, most bits first."""
    entries: dict[tuple[str, ...], dict[str, dict[tuple[str, str], Entry]]] = {}
    for row in rows:
        quant, shape, model = quant_of(row), shapes.named(row.model), shapes.weights_named(row.model)
        if row.ppl and quant and model:
            entry = Entry(row.source, row.model, row.line, row.ppl, _increase(row, known.get(key(row))))
            same = entries.setdefault(shape.names if shape else (model,), {}).setdefault(quant.name, {})
            same.setdefault((row.source, model), entry)
    for of_shape in entries.values():
        several = {
            name: tuple(sorted(found.values(), key=lambda entry: entry.ppl.value))
            for name, found in of_shape.items()
            if len({entry.source for entry in found.values()}) > 1
        }
        models = tuple(dict.fromkeys(entry.model for found in several.values() for entry in found))
        for name in sorted(several, key=lambda name: -quants.BY_NAME[name].bits_per_weight):
            yield _compared(models, name, several[name])


def _bits(row: Row) -> float:
    quant = quant_of(row)
    return quant.bits_per_weight if quant else 0.0


def _apart(one: Figure, other: Figure) -> bool:
    """Whether no digits behind their last could make them equal."""
    return one.low > other.high + 1e-9 or one.high < other.low - 1e-9


def _fitting(rows: Iterable[tuple[Row, Figure]]) -> tuple[float, float]:
    """The base perplexities that all deltas of these rows allow."""
    low, high = 1.0, float("inf")
    for row, ppl in rows:
        delta = row.ppl_delta_pct
        if delta and delta.low > -100:
            low, high = max(low, ppl.low / (1 + delta.high / 100)), min(high, ppl.high / (1 + delta.low / 100))
    return low, high


def _increase(row: Row, base: Base | None) -> Figure | None:
    """Percent over the base, with all that the printed digits leave open."""
    if row.ppl is None or base is None:
        return None
    if row.line == base.row.line:
        return Figure("base", 0.0)
    value = 100 * (row.ppl.value / base.ppl.value - 1)
    return Figure(f"{value:+.2f} %", value, 100 * (row.ppl.high / base.ppl.low - 1) - value)


def _compared(models: tuple[str, ...], quant: str, entries: tuple[Entry, ...]) -> Comparison:
    """Entries in the order of their perplexities."""
    clusters: dict[str, list[Entry]] = {}
    for entry in entries:
        clusters.setdefault(shapes.weights_named(entry.model), []).append(entry)
    said = [_of_one_model(same) for same in clusters.values() if len(same) > 1]
    if len(clusters) > 1:
        said.append(_of_two_models(entries))
    agree = len(clusters) == 1 and all(_far(same) <= APART for same in clusters.values())
    return Comparison(models, quant, "explained" if agree else "caution", " ".join(said), entries)


def _far(same: Sequence[Entry]) -> float:
    """How far the largest is above the smallest, their rounding taken off."""
    return max(0.0, same[-1].ppl.low / same[0].ppl.high - 1)


def _of_one_model(same: Sequence[Entry]) -> str:
    """What several perplexities of one quant of the same weights mean."""
    low, high = same[0], same[-1]
    apart = percent(high.ppl.value / low.ppl.value - 1)
    if _far(same) <= APART:
        return f"{low.model}: {high.source} and {low.source} agree ({apart} % apart)."
    said = f"{low.model}: {high.source} is {apart} % above {low.source}, so of another text, context or base"
    known = sorted((one.increase for one in same if one.increase and one.increase.half), key=lambda one: one.value)
    if len(known) < 2:
        return f"{said}."
    if _apart(known[0], known[-1]):
        return f"{said}; the increases differ too."
    return f"{said}; the increases agree within their digits."


def _of_two_models(entries: Sequence[Entry]) -> str:
    """What perplexities of other weights mean: the two nearest are neighbours by value."""
    gap, one, other = min(
        (
            (other.ppl.value / one.ppl.value - 1, one, other)
            for one, other in pairwise(entries)
            if shapes.weights_named(one.model) != shapes.weights_named(other.model)
        ),
        key=lambda found: found[0],
    )
    return (
        f"{other.model} ({other.source}) is {percent(gap)} % above {one.model} ({one.source}): another model of that "
        "shape, and maybe another text or base."
    )
