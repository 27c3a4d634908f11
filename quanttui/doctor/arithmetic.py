"""The checks that need no engine: the codec, the fold, the scorer, the confidence sequence.

What they check is an argument of each, so that a test can hand in something broken.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from quanttui import events as e
from quanttui import state as known
from quanttui.doctor.check import Check, equal, near
from quanttui.measure import divergence, perplexity
from quanttui.stats.sequential import Interval, mean_sequence

Array = npt.NDArray[np.float64]

SEQUENCE = tuple(math.sin(k) + k / 10 for k in range(30))
SEQUENCE_MEAN, SEQUENCE_RADIUS = 1.4922693993454959, 0.830906674023882
"""Of SEQUENCE, drawn from 72 values: worked out with plain floats from the formula in stats.sequential."""


def checks() -> Iterator[Check]:
    """All of them."""
    yield from codec()
    yield from fold()
    yield from scorer()
    yield from base_file()
    yield from sequence()


# --- the codec ------------------------------------------------------------------------------------------------------


def codec(
    encode: Callable[[e.Event], bytes] = e.encode, decode: Callable[[bytes], e.Event | e.Unknown] = e.decode
) -> Iterator[Check]:
    """Every event of the vocabulary comes back as it was; a line that is cut off anywhere does not come back at all."""
    events = [example(kind) for kind in get_args(e.Known)]
    lost = [type(event).__name__ for event in events if _decoded(decode, encode(event)) != event]
    yield equal(
        "codec: event types that come back", f"{len(events)}", ", ".join(lost) + " lost" if lost else f"{len(events)}"
    )
    torn = [line[:end] for line in map(encode, events) for end in range(len(line) - 1)]
    taken = sum(_decoded(decode, line) is not None for line in torn)
    yield equal("codec: torn lines that are refused", f"{len(torn)}", f"{len(torn) - taken}")


def _decoded(decode: Callable[[bytes], e.Event | e.Unknown], line: bytes) -> e.Event | e.Unknown | None:
    try:
        return decode(line)
    except ValueError:
        return None


def example(kind: type[e.Event]) -> e.Event:
    """An event of a type with something in every field, no two of them alike."""
    made: e.Event = msgspec.convert(_value(msgspec.inspect.type_info(kind), itertools.count(1)), kind)
    return made


def _value(kind: Any, count: Iterator[int]) -> Any:
    if isinstance(kind, msgspec.inspect.StructType):
        fields = {field.encode_name: _value(field.type, count) for field in kind.fields}
        return {kind.tag_field: kind.tag, **fields} if kind.tag_field else fields
    if isinstance(kind, msgspec.inspect.UnionType):
        return next(_value(one, count) for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    if isinstance(kind, msgspec.inspect.DictType):
        return {_value(kind.key_type, count): _value(kind.value_type, count)}
    if isinstance(kind, msgspec.inspect.TupleType):
        return [_value(one, count) for one in kind.item_types]
    if isinstance(kind, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
        return [_value(kind.item_type, count) for _ in range(2)]
    if isinstance(kind, msgspec.inspect.BoolType):
        return True
    number = next(count)
    if isinstance(kind, msgspec.inspect.FloatType):
        return number / 7
    return number if isinstance(kind, msgspec.inspect.IntType) else f"text {number} \u00b1 \u2028\n"


PERPLEXITY, ERROR = math.exp(2.1), math.exp(2.1) * math.sqrt(1.01 / 509)
"""Of the log: 510 tokens with a mean nll of 2.1 and a variance of 1 + 0.1^2."""


# --- the fold -------------------------------------------------------------------------------------------------------


def fold(folded: Callable[[Iterable[e.Event]], known.State] = known.fold) -> Iterator[Check]:
    """A small sweep, one repetition of it disturbed, folds to the figures that it was made to have."""
    state = folded(log())
    arm = state.arms.get("Q8_0")
    attempt = arm.attempt if arm is not None else None
    found = arm.perplexity() if arm is not None else None
    rates = " ".join(f"{one.tok_s:g}" for one in (attempt.decode if attempt is not None else ()))
    value, error = found if found is not None else (math.nan, None)
    yield equal("fold: tok/s of what was not disturbed", "20 25", rates)
    yield near("fold: perplexity of two chunks", PERPLEXITY, value, 1e-12, digits=9)
    yield near("fold: its standard error", ERROR, math.nan if error is None else error, 1e-9, digits=9)
    yield equal("fold: outcome", "ok, closed ok", f"{arm.outcome if arm is not None else ''}, closed {state.closed}")


def log() -> list[e.Event]:
    """Three decodes of one quant, 20, 10 and 25 tok/s, the second disturbed; two chunks at nll 2.0 and 2.2."""
    name = "Q8_0"
    units = [e.Unit(arm=name, kind="decode", index=index, tokens=4) for index in range(3)]
    chunks = e.Unit(arm=name, kind="perplexity", index=0, count=2)
    host = e.Host(name="a host", os="an OS", cpu="a CPU", cores=2, threads=2, memory=1 << 30)
    build = e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False)
    events: list[e.Event] = [
        e.SessionOpened(
            schema=e.SCHEMA, model="a model", host=host, build=build, settings=e.Settings(),
            plan=(e.PlannedArm(id=name, quant=name),), wall=1.7e9, origin_ns=0, pid=1, pid_started=0.0,
        ),
        e.PhaseStarted(arm=name, phase="decode", units=2),
    ]  # fmt: skip
    for unit, rate in zip(units, (20, 10, 25), strict=True):
        events.append(e.UnitStarted(unit=unit, at=0.0))
        events += [e.UnitDisturbed(unit=unit, why="a key was answered")] if rate == 10 else []
        events.append(e.UnitDone(unit=unit, at=0.0, tokens=4, ns=4 * 10**9 // rate))
    events += [e.PhaseDone(arm=name, phase="decode"), e.PhaseStarted(arm=name, phase="perplexity", units=1)]
    for chunk, nll in enumerate((2.0, 2.2)):
        squares = 255 * (nll * nll + 1)
        events.append(e.Perplexity(unit=chunks, chunk=chunk, chunks=2, scored=255, nll=255 * nll, nll2=squares))
    events += [
        e.UnitDone(unit=chunks, at=0.0, tokens=1024, ns=10**9),
        e.PhaseDone(arm=name, phase="perplexity"),
        e.ArmDone(arm=name),
        e.SessionClosed(outcome="ok"),
    ]
    return [msgspec.structs.replace(event, n=n, t=float(n)) for n, event in enumerate(events)]


# --- the scorer -----------------------------------------------------------------------------------------------------


def logits(apart: float = 0.0) -> divergence.Logits:
    """Fixed logits, float32 [40, 301]; `apart` puts a quant that far from the base."""
    grid = np.arange(40 * 301, dtype=np.float64).reshape(40, 301)
    return (9 * np.sin(0.37 * grid) * np.sin(0.011 * grid**2) + apart * np.cos(0.3 * grid)).astype(np.float32)


TARGETS = np.where(np.arange(40) % 2, logits().argmax(axis=1), np.arange(40) * 7 % 301).astype(np.int32)
"""The tokens that came, of the 301 there are: every other one the likeliest."""


def _exact(values: npt.NDArray[Any]) -> Array:
    """Log-probabilities in float64 throughout."""
    wide = values.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def scorer(
    nll: Callable[..., Any] = perplexity.nll, diverge: Callable[..., Any] = divergence.diverge
) -> Iterator[Check]:
    """Sums over fixed logits against float64 arithmetic: llama-perplexity's own is float32 with float64 sums."""
    base, quant, each = logits(), logits(0.4), np.arange(len(TARGETS))
    codes = divergence.encode(base)
    exact, held = _exact(quant), divergence.log_probs(codes, base.shape[1]).astype(np.float64)
    rows = diverge(codes, quant, TARGETS)
    counted = np.where(held > -divergence.DEPTH, np.exp(held) * (held - exact), 0.0)
    apart = np.abs(held - np.maximum(_exact(base), _exact(base).max(axis=1, keepdims=True) - divergence.DEPTH))
    yield near("scorer: sum of nll", float(-exact[each, TARGETS].sum()), float(nll(quant, TARGETS).sum()), 1e-6)
    yield near("scorer: sum of KL divergence", float(counted.sum()), float(rows.kld.sum()), 2e-5)
    change = np.exp(exact[each, TARGETS]) - np.exp(held[each, TARGETS])
    yield near("scorer: sum of squared changes of p", float((change**2).sum()), float((rows.p_diff**2).sum()), 2e-5)
    same = int((exact.argmax(axis=1) == held.argmax(axis=1)).sum())
    yield equal("scorer: tokens with the same favourite", f"{same}", f"{int(rows.same_top.sum())}")
    step = divergence.DEPTH / 65535
    yield Check(
        what="scorer: a base row's 16 bits",
        ok=bool(apart.max() <= 0.5 * step + 2e-5),
        expected=f"within {0.5 * step + 2e-5:.6f}",
        found=f"{apart.max():.6f}",
    )


def base_file(opened: Callable[[Path], divergence.BaseFile] = divergence.BaseFile.open) -> Iterator[Check]:
    """A file of base logits gives back the rows that were put into it, in whatever order."""
    context, vocabulary = 42, 301
    scored = context - 1 - context // 2
    tokens = np.arange(2 * context, dtype=np.int32) % vocabulary
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.logits"
        file = divergence.BaseFile.create(path, context, vocabulary, 2, tokens)
        for chunk in (1, 0):
            file.put(chunk, logits()[chunk * scored : (chunk + 1) * scored])
        file.finish()
        size = path.stat().st_size
        again = opened(path)
        held = [again.codes(chunk) for chunk in range(2)]
        again.close()
    same = sum(int((rows == divergence.encode(logits()[: 2 * scored])[k * scored :][:scored]).all()) for k, rows in
               enumerate(held))  # fmt: skip
    yield equal("base file: bytes", f"{20 + 4 * 84 + 2 * 2 * scored * (4 + 302)}", f"{size}")
    yield equal("base file: chunks that come back", "2", f"{same}")


# --- the confidence sequence ----------------------------------------------------------------------------------------


def sequence(estimate: Callable[..., Interval] = mean_sequence) -> Iterator[Check]:
    """The interval of a fixed sample, drawn from a population that is known to be finite."""
    found = estimate(SEQUENCE, population=72)
    radius = found.radius if found.radius is not None else math.nan
    yield near("confidence sequence: mean", SEQUENCE_MEAN, found.mean, 1e-9)
    yield near("confidence sequence: radius", SEQUENCE_RADIUS, radius, 1e-9)
