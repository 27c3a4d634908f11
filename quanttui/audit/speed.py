"""Findings about bytes: the bandwidth's wall and what is not at it, what does not fit, what cannot be, what swapped.

A speed is put down to bandwidth only when the bytes moved say so. What a table cannot tell is called just that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from quanttui import shapes
from quanttui.audit.found import Bus, Expected, Finding, Implied, Judged, Weights
from quanttui.audit.weigh import GIB, lacks_memory, nominal, quant_of
from quanttui.diagnosis.thresholds import Thresholds
from quanttui.format import percent, significant

STARVED = 0.05
"""Of the bus: below it something starves the model. Page-in, swap and the worst contention left 4 % and less of the
ceiling in the runs that the thresholds rest on; clean ones of the slowest type (IQ3_S) had 17."""
SIZE_OFF, SIZE_OFF_EXPERTS = 0.03, 0.05
"""A size further off than this, beyond its rounding, contradicts the quant's bits: llama.cpp's dry runs are within 0.02
of ours for dense shapes and 0.04 with experts (tests/test_shapes.py)."""
ROOM_TOKENS, ROOM_BYTES = 4096, 0.3e9
"""What a model needs beside its weights at the least: an f16 KV cache of so many tokens, and buffers."""
EIGHTH = 0.02
"""So near to an eighth of what the bus gives is an eighth."""

_RATES = re.compile(r"(?<![\w.])([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*(GB/s|tok/s|t/s|tokens/s)(?!/)", re.IGNORECASE)
_BANDWIDTH = re.compile(r"\b(?:bandwidth|memory[- ]bound)\b", re.IGNORECASE)
_FITS = re.compile(r"\bfits?\b", re.IGNORECASE)
_DENIED = re.compile(
    r"(?:\bnot|n't|\bnever|\bhardly)\b[^.;,]{0,20}\b(?:fits?|bandwidth|memory[- ]bound)\b", re.IGNORECASE
)
_BUSY = re.compile(r"\bGPU\b[^0-9;,.]{0,20}[0-9]{1,3}\s*%", re.IGNORECASE)


def findings(one: Judged, larger: str, limits: Thresholds) -> Iterator[Finding]:
    """All that a row's bytes say against it, or for it.

    Args:
        larger: the quant of a row beside it that reads more for a token and is faster; "" where there is none.
    """
    yield from _swapped(one, limits)
    yield from _fit(one)
    yield from _speed(one, larger, limits)
    yield from _per_watt(one)
    yield from _eighth(one)
    yield from _size(one)


def agreements(one: Judged) -> Iterator[str]:
    """What was checked and is right, where `findings` gave none."""
    if one.row.size_gb and one.weights.real is not None:
        yield f"its size is what {one.row.quant} takes (about {significant(one.weights.real)} GB)"


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, six at the most: a, b and c."""
    every = list(names)
    if len(every) > 6:
        every = [*every[:5], f"{len(every) - 5} more"]
    *most, last = every
    return f"{', '.join(most)} and {last}" if most else last


# --- swap, memory ---------------------------------------------------------------------------------------------------


def _swapped(one: Judged, limits: Thresholds) -> Iterator[Finding]:
    row = one.row
    if not row.swapped or not (row.tok_s or row.tok_s_per_w):
        return
    said = ["The source says that it swapped meanwhile: no figure of it is this quant's, and it wins no ranking."]
    evidence: dict[str, float | str] = {}
    bus, tok_s, implied = one.bus, row.tok_s, None
    if row.tok_s_per_w and one.implied:
        implied = one.implied
        bus, tok_s = implied.bus, implied.tok_s
        said.append(f"{row.tok_s_per_w.text} tok/s/W x {implied.watts:g} W = {tok_s.text} tok/s.")
        evidence |= {"tok/s per W": row.tok_s_per_w.value, "watts of the claim": implied.watts}
    elif row.tok_s_per_w and tok_s is None:
        said.append("The power behind it is not published.")
    if bus and tok_s and bus.gb_s is not None:
        said.append(f"{_moved(bus, one.weights, tok_s.text)}{_while_swapping(bus.share, implied, limits)}.")
        evidence |= _numbers(bus, one.weights, tok_s.value)
    yield Finding("swap-contaminated", "contaminated", "swap-contaminated", " ".join(said), evidence)


def _while_swapping(share: float | None, implied: Implied | None, limits: Thresholds) -> str:
    """What a speed during swap means, by its share of the bus."""
    wrong = "the power" if implied else "the speed"
    if share is None:
        return ""
    if share > 1:
        return f": more than the memory can carry, so {wrong} is wrong"
    if share >= limits.wall:
        return f": near the wall at its size, so either the swap was idle or {wrong} is wrong: the cause is unproven"
    return ": swapping might leave that, and so might something else: the cause is unproven"


def _fit(one: Judged) -> Iterator[Finding]:
    row, gb, memory = one.row, one.weights.gb, one.row.memory_gb
    if memory is None or gb is None:
        return
    shape = shapes.named(row.model)
    room = (ROOM_BYTES + (shapes.kv_bytes(shape, ROOM_TOKENS) if shape else 0.0)) / 1e9
    evidence: dict[str, float | str] = {"GB of weights": gb, "memory, GB": memory.value, "needed beside, GB": room}
    weights = f"{'About ' if one.weights.how == 'computed' else ''}{significant(gb)} GB of weights"
    if lacks_memory(one):
        claimed = bool(_FITS.search(row.claim)) and not _DENIED.search(row.claim)
        said = f"{weights} do not fit into {memory.text} GB" + (", though the claim says so." if claimed else ".")
        if row.tok_s:
            over = significant(gb - memory.value * GIB, 2)
            said += f" At least {over} GB lay elsewhere, so the speed is not this device's own."
        kind = "contaminated" if claimed or row.tok_s else "caution"
        yield Finding("does-not-fit", kind, "does not fit", said, evidence)
    elif gb + room > memory.value * GIB:
        said = f"{weights} leave less than {significant(room, 2)} GB of {memory.text} for an f16 KV cache of "
        said += f"{ROOM_TOKENS} tokens and buffers: part of it may have been elsewhere."
        yield Finding("edge-of-memory", "caution", "edge of memory", said, evidence)


# --- speed ----------------------------------------------------------------------------------------------------------


def _speed(one: Judged, larger: str, limits: Thresholds) -> Iterator[Finding]:
    row, bus, weights = one.row, one.bus, one.weights
    if bus is None or row.tok_s is None or row.swapped:
        return
    evidence = _numbers(bus, weights, row.tok_s.value)
    if bus.gb_s is None:
        yield _unweighed(bus, weights, evidence, limits)
        return
    moved = _moved(bus, weights, row.tok_s.text)
    if bus.share is None:
        said = f"{moved}: no bandwidth is given to hold that against."
        yield Finding("not-judged", "", "no bandwidth given", said, evidence)
    elif bus.share > 1:
        yield _impossible(bus, moved, evidence)
    elif bus.share < limits.wall:
        yield _below(one, bus, moved, larger, evidence, limits)
    elif lacks_memory(one):
        said = f"{moved}: by chance, since it is not that memory which holds the weights."
        yield Finding("unexplained", "caution", f"unexplained {percent(bus.share)}%", said, evidence)
    else:
        said = f"{moved}: memory bandwidth sets this speed."
        yield Finding("bandwidth-wall", "explained", f"wall {percent(bus.share)}%", said, evidence)


def _moved(bus: Bus, weights: Weights, tok_s: str) -> str:
    """The arithmetic of a speed in words."""
    active, gb = significant(weights.active), significant(weights.gb)
    about = f" (of about {gb})" if weights.how == "computed" and gb != active else ""
    said = f"{tok_s} tok/s x {active} GB a token{about} = {significant(bus.gb_s)} GB/s"
    if bus.share is None:
        return said
    said += f", {percent(bus.share)} % of {bus.ceiling:.4g}"
    apart = bus.whole_share is not None and percent(bus.whole_share) != percent(bus.share)
    return said + (f" ({percent(bus.whole_share)} % by the whole file)" if apart else "")


def _numbers(bus: Bus, weights: Weights, tok_s: float) -> dict[str, float | str]:
    """The evidence of a speed; what is not known has no key."""
    numbers = {
        "tok/s": tok_s,
        "GB of weights": weights.gb,
        "active GB per token": weights.active,
        "GB/s": bus.gb_s,
        "ceiling GB/s": bus.ceiling,
        "share of the ceiling, %": None if bus.share is None else 100 * bus.share,
        "the same by the whole file, %": None if bus.whole_share is None else 100 * bus.whole_share,
        "devices": float(bus.devices) if bus.devices > 1 else None,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _unweighed(bus: Bus, weights: Weights, evidence: dict[str, float | str], limits: Thresholds) -> Finding:
    """A speed whose active bytes are not known: they are no more than the file."""
    why = weights.why or "its size is less than what its embedding takes"
    why, share = f"{why[0].upper()}{why[1:]}", bus.whole_share
    if share is None:
        said = f"{why}: nothing was computed from its size."
        return Finding("not-judged", "", "nothing to check", said, evidence)
    said = f"{why}: if a token read the whole file, {percent(share)} % of the bus"
    if share < limits.wall:
        said += " at the most: not the memory bandwidth's wall."
        return Finding("unexplained", "caution", f"unexplained <{percent(share)}%", said, evidence)
    return Finding("not-judged", "", "nothing to check", f"{said}, which tells nothing.", evidence)


def _impossible(bus: Bus, moved: str, evidence: dict[str, float | str]) -> Finding:
    gb_s, total = bus.gb_s or 0.0, bus.total or 0.0
    if gb_s <= total:
        by_file = f" ({percent(bus.whole / total)} % by the whole file)" if bus.whole is not None else ""
        said = (
            f"{moved}. It is {percent(gb_s / total)} %{by_file} of what all {bus.devices} devices have, if the column "
            "is their sum; but split by layers they work one after another for each token, and one device's "
            f"{bus.ceiling:.4g} GB/s are the most. Only with every tensor split over them could it be."
        )
        return Finding("impossible", "contaminated", "impossible by layers", said, evidence)
    said = (
        f"{moved}: more than the memory can carry. Size, speed or bandwidth is wrong, unless several tokens shared one "
        "reading of the weights (a batch, a draft model)."
    )
    return Finding("impossible", "contaminated", "impossible", said, evidence)


def _below(
    one: Judged, bus: Bus, moved: str, larger: str, evidence: dict[str, float | str], limits: Thresholds
) -> Finding:
    """A speed below the wall: bandwidth is not the reason; what may be."""
    claim, share = one.row.claim, bus.share or 0.0
    starved = share < STARVED
    said = [f"{moved}: not the memory bandwidth's wall."]
    if _BANDWIDTH.search(claim) and not _DENIED.search(claim):
        said.append("The claim says so" + (", and a busy GPU is no evidence of it." if _BUSY.search(claim) else "."))
    if starved:
        without = " (page-ins are no swap, so no swap does not exclude it)" if one.row.swapped is False else ""
        said.append(f"Page-in or contention is suspected{without}.")
    elif larger:
        said.append(f"{larger} reads more and is faster here: arithmetic (dequantization) or a neighbour sets it.")
    else:
        said.append("What sets it, a table cannot tell.")
    if one.expected:
        said.append(_would(one.expected))
        evidence = evidence | {"expected tok/s": one.expected.tok_s}
    elif one.weights.active and bus.ceiling:
        begins = limits.wall * bus.ceiling / one.weights.active
        said.append(f"The wall begins at {significant(begins)} tok/s.")
    kind = "contaminated" if starved else "caution"
    return Finding("unexplained", kind, f"unexplained {percent(share)}%", " ".join(said), evidence)


def _would(expected: Expected) -> str:
    """What the wall would give."""
    low, high = significant(expected.low), significant(expected.high)
    span = "" if low == high else f" ({low} to {high})"
    about = f"About {significant(expected.tok_s, 2)} tok/s{span} expected at the wall"
    return f"{about}, as {listed(expected.quants)} reached it."


def _per_watt(one: Judged) -> Iterator[Finding]:
    """A figure per watt against the speed and the power beside it."""
    row, implied = one.row, one.implied
    if row.tok_s_per_w is None or implied is None or row.swapped:
        return
    evidence: dict[str, float | str] = {"tok/s per W": row.tok_s_per_w.value, "watts of the claim": implied.watts}
    product = f"{row.tok_s_per_w.text} tok/s/W x {implied.watts:g} W = {implied.tok_s.text} tok/s"
    if row.tok_s and (implied.tok_s.low > row.tok_s.high or implied.tok_s.high < row.tok_s.low):
        said = f"{product}, not the {row.tok_s.text} published: speed, power or efficiency is wrong."
        yield Finding("efficiency-contradicts", "contaminated", "efficiency off", said, evidence)
    elif row.tok_s is None and implied.bus.share is not None and implied.bus.share > 1:
        said = f"{product}: {percent(implied.bus.share)} % of the bus, more than the memory can carry."
        evidence |= _numbers(implied.bus, one.weights, implied.tok_s.value)
        yield Finding("impossible", "contaminated", "impossible", said, evidence)


def _eighth(one: Judged) -> Iterator[Finding]:
    """GB/s divided by 8 as if they were Gbit/s: in the speed, or in a figure of the claim."""
    row = one.row
    if row.peak_gbps is None:
        return
    peak = row.peak_gbps.value
    sizes = [gb for gb in (one.weights.active, one.weights.gb) if gb]
    stated = [(float(text), unit.lower(), f"The claim's {text} {unit}") for text, unit in _RATES.findall(row.claim)]
    if row.tok_s:
        stated.append((row.tok_s.value, "tok/s", f"{row.tok_s.text} tok/s"))
    for value, unit, named in stated:
        eighths = [peak / 8] if unit == "gb/s" else [peak / 8 / gb for gb in sizes]
        if any(abs(value / each - 1) <= EIGHTH for each in eighths):
            said = f"{named} is an eighth of what {row.peak_gbps.text} GB/s give: were bytes taken for bits?"
            evidence: dict[str, float | str] = {"stated": value, "an eighth": eighths[0]}
            yield Finding("divided-by-8", "caution", "divided by 8", said, evidence)


# --- size -----------------------------------------------------------------------------------------------------------


def _size(one: Judged) -> Iterator[Finding]:
    """A published size against the quant's real bits."""
    row, real, published = one.row, one.weights.real, one.row.size_gb
    shape, quant = shapes.named(row.model), quant_of(row)
    if real is None or published is None or shape is None or quant is None:
        return
    product, most = nominal(published, real, row, shape, quant), SIZE_OFF_EXPERTS if shape.experts else SIZE_OFF
    if not product and max(published.low / real - 1, 1 - published.high / real) <= most:
        return
    times = published.value / real
    takes = f"{quant.name} takes {8e9 * real / shape.parameters:.2f} bits a weight here, about {significant(real)} GB"
    if product:
        said = f"{published.text} GB is {product}, but {takes}."
    elif times < 2:
        than = "more" if times > 1 else "less"
        said = f"{published.text} GB is {percent(abs(times - 1))} % {than} than the quant's: {takes}."
    else:
        said = f"{published.text} GB is {significant(times)} times the quant's: {takes}."
    if not product and published.low * GIB <= real * 1.01 and published.high * GIB >= real * 0.99:
        said += " In GiB it would be right."
    if one.weights.how == "computed" and row.tok_s:
        said += " The latter is reckoned with."
    evidence: dict[str, float | str] = {"published GB": published.value, "real GB": real, "off, %": 100 * (times - 1)}
    yield Finding("size-contradicts", "caution", "size off", said, evidence)
