"""What was made of a model, for people and for programs. Plain text of 100 columns, or one JSON object, schema 1:

    {"schema": 1, "kind": "quants", "model", "source", "bytes", "weights", "imatrix", "tensor_types": [[pattern, type]],
     "folder", "free", "dry", "notes": [text], "made": [{"quant", "state", "bytes", "bits_per_weight",
       "types": {type: share of the blocks' weights}, "file", "seconds", "why"}]}
    {"schema": 1, "kind": "imatrix", "model", "file", "form", "bytes", "text", "chunks", "tokens", "context", "entries",
     "experts", "silent", "seconds", "notes", "gain": null or {"text", "chunks", "context", "overlap", "base", "ppl",
       "quants": [{"quant", "without", "with", "change", "low", "high", "bought"}]}}

Sizes are bytes; of a file that is not made they are what it will have. A state is one of STATES. `change` is the paired
difference of the matrix, ln(PPL with / PPL without), `low` and `high` its interval (95 %); `bought` the share of what
quantizing loses without it. What is absent is null.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from quanttui.format import ABSENT, clean, duration, percent, significant, size
from quanttui.stats.overlap import NOTABLE, WINDOW

SCHEMA = 1
WIDTH = 100

STATES = ("to make", "made", "there", "refused", "failed")
"""`there`: it was already, and is what was asked for."""

MARKS = {"refused": "✗ ", "failed": "✗ "}


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One quant: what became of it, `why` where it is not made. `types` are the tensor types of the blocks by share."""

    quant: str
    state: str
    bytes: int
    bits_per_weight: float
    types: dict[str, float] = {}
    file: str = ""
    seconds: float | None = None
    why: str = ""


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """The quants of one source; `folder` is where they are to lie, "" for the cache, whose disk has `free` bytes."""

    model: str
    source: str
    bytes: int
    weights: int
    imatrix: str = ""
    tensor_types: tuple[tuple[str, str], ...] = ()
    folder: str = ""
    free: int | None = None
    dry: bool = False
    notes: tuple[str, ...] = ()
    made: tuple[Made, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that was asked for is there, or would be."""
        return not any(one.state in MARKS for one in self.made)


class Bought(msgspec.Struct, frozen=True, kw_only=True):
    """One quant's perplexity without and with a matrix, over the same chunks.

    `change` is ln(with / without), chunk by chunk; `low` and `high` its interval (Student's t with the chunk as the
    unit: their number was chosen beforehand), None below the chunks that one needs.
    `without` and all of these are None for a quant that llama.cpp makes only with a matrix.
    """

    quant: str
    with_: float = msgspec.field(name="with")
    without: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    bought: float | None = None

    @property
    def words(self) -> str:
        """What the interval says."""
        if self.change is None:
            return "cannot be made without"
        if self.low is None or self.high is None:
            return "too few chunks to tell"
        return "better with it" if self.high < 0 else "worse with it" if self.low > 0 else "no difference shown"


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What a matrix buys over the text `text`: `ppl` is that of `base`, the source itself.

    `overlap` is the share of that text which the matrix was computed over (stats.overlap).
    """

    text: str
    chunks: int
    context: int
    overlap: float
    base: str
    ppl: float
    quants: tuple[Bought, ...]


class Computed(msgspec.Struct, frozen=True, kw_only=True):
    """An importance matrix that was computed: protocol.Summed has the counts."""

    model: str
    source: str
    file: str
    form: str
    bytes: int
    text: str
    chunks: int
    tokens: int
    context: int
    entries: int
    experts: int
    silent: int
    seconds: float
    notes: tuple[str, ...] = ()
    gain: Gain | None = None


def report(found: Making | Computed) -> str:
    """All of it as text."""
    return "\n".join(_making(found) if isinstance(found, Making) else _computed(found))


def data(found: Making | Computed) -> dict[str, Any]:
    """All of it as the object above."""
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return {"schema": SCHEMA, "kind": "quants" if isinstance(found, Making) else "imatrix", **plain}


# --- quants ---------------------------------------------------------------------------------------------------------


def _making(found: Making) -> Iterator[str]:
    weights = f"{significant(found.weights / 1e9)}B" if found.weights >= 1e9 else f"{significant(found.weights / 1e6)}M"
    yield clean(f"{found.model}: {weights} weights in {found.source}, {size(found.bytes)}", WIDTH)
    if found.imatrix:
        yield from _wrapped(f"importance matrix: {found.imatrix}")
    for pattern, kind in found.tensor_types:
        yield clean(f"tensors with {pattern} in their name: {kind}", WIDTH)
    yield ""
    yield f"{'quant':<10} {'size':>9} {'bits':>5} {'share':>6}  {'':<14} {'mostly':<30}"
    for one in found.made:
        yield from _made(one, found)
    yield ""
    yield from _total(found)
    for note in found.notes:
        yield from _wrapped(f"note: {note}")


def _made(one: Made, found: Making) -> Iterator[str]:
    share = percent(one.bytes / found.bytes) if found.bytes else ABSENT
    types = ", ".join(f"{kind} {percent(part)} %" for kind, part in list(one.types.items())[:3])
    took = f" in {duration(one.seconds)}" if one.seconds is not None else ""
    state = f"{MARKS.get(one.state, '')}{one.state}{took}"
    bits = significant(one.bits_per_weight)
    cells = f"{clean(one.quant, 10):<10} {size(one.bytes):>9} {bits:>5} {share:>4} %  {state:<14} {types}"
    yield cells[:WIDTH].rstrip()
    if one.why:
        yield from _wrapped(one.why, " " * 4)
    if one.file and one.state in ("made", "there"):
        yield f"    {clean(one.file, 400)}"


def _total(found: Making) -> Iterator[str]:
    to_make = [one for one in found.made if one.state == "to make"]
    made = [one for one in found.made if one.state in ("made", "there")]
    where = f"{found.folder}" if found.folder else "the cache (--out DIR writes them elsewhere)"
    free = f", whose disk has {size(found.free)} free" if found.free is not None else ""
    if to_make:
        total = size(sum(one.bytes for one in to_make))
        yield from _wrapped(f"{_some(len(to_make))}, {total}, would go into {where}{free}; nothing was written")
    elif made:
        total = size(sum(one.bytes for one in made))
        yield from _wrapped(f"{_some(len(made))}, {total}, in {where}")
    if not found.ok:
        missing = [clean(one.quant, 20) for one in found.made if one.state in MARKS]
        yield from _wrapped(f"not made: {', '.join(missing)}")


def _some(count: int) -> str:
    return "1 quant" if count == 1 else f"{count} quants"


# --- importance matrices --------------------------------------------------------------------------------------------


def _computed(found: Computed) -> Iterator[str]:
    yield from _wrapped(
        f"importance matrix of {found.model}: {found.entries} tensors, over {found.chunks} chunks of {found.context} "
        f"tokens of {found.text}, in {duration(found.seconds)}"
    )
    yield f"    {clean(found.file, 400)} ({size(found.bytes)}, {found.form})"
    if found.silent:
        yield from _wrapped(
            f"note: {found.silent} of {found.experts} experts saw no token of this text: a longer one or another would "
            "reach them; quantizing weighs their columns alike"
        )
    for note in found.notes:
        yield from _wrapped(f"note: {note}")
    if found.gain is not None:
        yield ""
        yield from _gain(found.gain)


def _gain(gain: Gain) -> Iterator[str]:
    yield from _wrapped(f"what it buys over {gain.chunks} chunks of {gain.context} tokens of {gain.text}:")
    yield ""
    yield f"{'quant':<10} {'PPL without':>12} {'with':>10}  {'change, 95 %':<28} {'bought back':>11}"
    yield f"{clean(gain.base, 10):<10} {_ppl(gain.ppl):>12}"
    for one in gain.quants:
        bought = f"{percent(one.bought)} %" if one.bought is not None else ABSENT
        change = f"{_change(one):<28} {bought:>11}"
        yield f"{clean(one.quant, 10):<10} {_ppl(one.without):>12} {_ppl(one.with_):>10}  {change}  {one.words}"[:WIDTH]
    yield ""
    yield from _wrapped(
        "change: of the perplexity by the matrix, paired chunk by chunk; bought back: the share of what quantizing"
        " loses without it"
    )
    if gain.overlap >= NOTABLE:
        yield from _wrapped(
            f"! {percent(gain.overlap)} % of {gain.text} lies in runs of {WINDOW} characters that the matrix was made"
            " of, too: the gain is flattered; give another text with --eval FILE"
        )
    else:
        yield from _wrapped(f"{percent(gain.overlap)} % of {gain.text} was in the text of the matrix")


def _ppl(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"


def _change(one: Bought) -> str:
    if one.change is None:
        return ABSENT
    if one.low is None or one.high is None:
        return _signed(one.change)
    return f"{_signed(one.change)} ({_signed(one.low)} to {_signed(one.high)})"


def _signed(ratio: float) -> str:
    """A logarithm of a ratio as its change in percent."""
    change = 100 * math.expm1(ratio)
    return f"{'+' if change > 0 else '-' if change < 0 else ''}{significant(abs(change), 2)} %"


def _wrapped(text: str, indent: str = "") -> list[str]:
    whole = clean(text, 2000)
    return textwrap.wrap(
        whole, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
