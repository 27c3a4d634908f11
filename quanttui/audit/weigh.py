"""The bytes behind a row: what its file takes, what a token reads of it, what its speed moves. Judges nothing.

The bytes of a token are the file's without the embedding; the KV cache is left out, since no table tells the depth.
Tables count whole files, so the share of the bus by the whole file stands beside the other.
"""

from __future__ import annotations

import re

from quanttui import quants, shapes
from quanttui.audit.found import Bus, Implied, Judged, Weights
from quanttui.audit.table import Figure, Row
from quanttui.format import significant
from quanttui.quants import Quant
from quanttui.shapes import KnownShape

NOMINAL_OFF = 0.05
"""A size this far off that is the quant's number times the weights is a product, and of no file."""
OTHER_FILE = 0.10
"""A size further off than this is of no file of that quant: from here on the real one is reckoned with."""
GIB = 2**30 / 1e9
"""A maker's GB of memory are taken as GiB, which favours the claim."""

_DEVICES = re.compile(r"([0-9]{1,3})\s*[x\u00d7]\s+\S")
_WATTS = re.compile(r"(?<![\w.])([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*W\b")
_TENSORS = re.compile(r"\b(?:tensor|row)[- ](?:parallel|split)", re.IGNORECASE)


def weighed(row: Row) -> Judged:
    """A row with its weights and what its speed moves, without a finding."""
    weights = weights_of(row)
    bus = _bus(row, weights, row.tok_s.value) if row.tok_s else None
    return Judged(row, weights, bus, _implied(row, weights))


def quant_of(row: Row) -> Quant | None:
    """The quant that a row names: FP16 and FP32 are F16 and F32."""
    return quants.named(re.sub(r"^FP(?=16$|32$)", "F", row.quant, flags=re.IGNORECASE))


def weights_of(row: Row) -> Weights:
    """What the row's file takes: as published where it is of a file of that quant, else real bits x known shape."""
    shape, quant = shapes.named(row.model), quant_of(row)
    published = row.size_gb.value if row.size_gb else None
    if shape is None or quant is None:
        return Weights(gb=published, how="published" if published else "", why=_why(row, shape))
    size = shapes.file_bytes(shape, quant)
    real = None if size is None else size / 1e9
    if real is not None and not (row.size_gb and _is_files(row.size_gb, real, row, shape, quant)):
        gb, how = real, "computed"
    elif published is not None:
        gb, how = published, "published"
    else:
        return Weights(why=shapes.obstacle(shape, quant))
    active = shapes.active_bytes(shape, quant, gb * 1e9) / 1e9
    return Weights(real, gb, how, active or None)


def nominal(published: Figure, real: float, row: Row, shape: KnownShape, quant: Quant) -> str:
    """The product that a wrong size is, "4 bits x 70e9 weights"; "" where it is none, or near to the truth."""
    bits = re.search(r"[0-9]+", quant.name)
    if bits is None or abs(published.value / real - 1) < NOMINAL_OFF:
        return ""
    for count in (shapes.billions(row.model), shape.parameters / 1e9):
        if count and published.low - 1e-9 <= int(bits[0]) * count / 8 <= published.high + 1e-9:
            return f"{bits[0]} bits x {count:.4g}e9 weights"
    return ""


def lacks_memory(one: Judged) -> bool:
    """Whether the weights alone are more than the memory."""
    memory = one.row.memory_gb
    return memory is not None and one.weights.gb is not None and one.weights.gb > memory.value * GIB


def _why(row: Row, shape: KnownShape | None) -> str:
    if shape is None:
        return "no known shape by that name" if row.model else "no model is named"
    return "no quant of that name is known" if row.quant else "no quant is named"


def _is_files(published: Figure, real: float, row: Row, shape: KnownShape, quant: Quant) -> bool:
    """Whether a published size may be a file's, if perhaps of another mix."""
    return abs(published.value / real - 1) <= OTHER_FILE and not nominal(published, real, row, shape, quant)


def _bus(row: Row, weights: Weights, tok_s: float) -> Bus:
    """What `tok_s` moves. Several devices (a name such as "2x A card") are split by layers, llama.cpp's default, unless
    the claim speaks of tensors; their bandwidth is taken to be published as the sum."""
    shape, found = shapes.named(row.model), _DEVICES.match(row.device)
    devices = max(1, int(found[1])) if found else 1
    whole = None if weights.gb is None or (shape and shape.experts) else weights.gb * tok_s
    total = row.peak_gbps.value if row.peak_gbps else None
    ceiling = total if total is None or _TENSORS.search(row.claim) else total / devices
    return Bus(None if weights.active is None else weights.active * tok_s, whole, ceiling, total, devices)


def _implied(row: Row, weights: Weights) -> Implied | None:
    per_watt, found = row.tok_s_per_w, _WATTS.search(row.claim)
    if per_watt is None or found is None or not float(found[1]):
        return None
    watts = float(found[1])
    value = per_watt.value * watts
    high = per_watt.high * (watts + 0.5 * 10.0 ** -len(found[1].partition(".")[2]))
    return Implied(watts, Figure(significant(value), value, high - value), _bus(row, weights, value))
