"""Perplexity and KL divergence, recomputed from the per-token values in a session's raw/: float64, little-endian.

The formulas are written anew here, from llama-perplexity's definitions: what is checked are the sums and figures of the
log and of the report. The confidence sequences alone are stats.sequential's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from quanttui import events as e
from quanttui import session
from quanttui.format import clean
from quanttui.stats import divergence, sequential
from quanttui.summary import ArmSummary, Delta, Kld
from quanttui.verify.figure import ERRORS, Figure, Lacking, numbers, texts
from quanttui.verify.figure import lacking as not_there
from quanttui.verify.log import Log
from quanttui.verify.raw import Array, Session, per_token, per_token_base

ROUNDED = 1e-5
"""Percentiles are float32, as llama-perplexity has them."""


class Estimated(NamedTuple):
    """A mean and its standard error, None of one value."""

    value: float
    error: float | None


def of_arm(known: Session, row: ArmSummary, arm: str) -> Iterator[Figure]:
    """All figures of the quality of an arm, as the report has them."""
    chunks = known.log.chunks.get(arm)
    if not chunks or row.perplexity is None:
        return
    source = f"raw/{arm}.nll"
    try:
        values = per_token(known, arm)
    except Lacking as why:
        yield not_there(arm, "perplexity", (row.perplexity.value, row.perplexity.se), why)
        if row.delta is not None:
            yield not_there(arm, "Δppl %", (row.delta.percent, row.delta.low, row.delta.high), why)
        if row.kld is not None:
            yield not_there(arm, "KL divergence", (row.kld.found.kld.value,), why)
        return
    names = [f"chunk {chunk}" for chunk in chunks for _ in "12"]
    told = [value for one in chunks.values() for value in (one.nll, one.nll2)]
    found = [float(value) for row in values.values() for value in (row.sum(), (row * row).sum())]
    yield numbers(arm, "sums of nll of each chunk", told, found, source, names)
    yield numbers(arm, "places in raw/", [one.offset for one in chunks.values()], _places(chunks), source, names[::2])
    joined = np.concatenate(list(values.values()))
    yield numbers(arm, "perplexity", [row.perplexity.value], [math.exp(joined.mean())], source)
    error = _mean(joined).error
    ours = None if error is None else math.exp(joined.mean()) * error
    yield numbers(arm, "perplexity, error", [row.perplexity.se], [ours], source, within=ERRORS)
    if row.delta is not None:
        yield from _against(known, row.delta, arm, values)
    if row.decision is not None:
        yield from _called(known, row, arm, values)
    if row.kld is not None:
        yield from _diverged(known, row.kld, arm, values)


def _places(chunks: Mapping[int, e.Perplexity]) -> list[float]:
    return [8.0 * chunk * one.scored for chunk, one in chunks.items()]


# --- against the base -----------------------------------------------------------------------------------------------


def _against(known: Session, delta: Delta, arm: str, values: Mapping[int, Array]) -> Iterator[Figure]:
    """The difference in perplexity: with the chunk as the unit, as a sequence, and over the tokens."""
    base, what = _named(known.log, delta.base), f"Δppl % against {delta.base}"
    try:
        other = per_token(known, base)
    except Lacking as why:
        yield not_there(arm, what, (delta.percent, delta.low, delta.high), why)
        return
    source = f"raw/{arm}.nll, raw/{base}.nll"
    yield from _base_sums(known, arm, base, other)
    common = [chunk for chunk in values if chunk in other and len(other[chunk]) == len(values[chunk])]
    each = [float(values[chunk].mean() - other[chunk].mean()) for chunk in common]
    weights = [len(values[chunk]) for chunk in common]
    mean = float(np.average(each, weights=weights))
    yield numbers(arm, what, [delta.percent], [100 * math.expm1(mean)], source)
    spread = 100 * math.exp(mean) * float(np.std(each, ddof=1)) / math.sqrt(len(each)) if len(each) > 2 else None
    yield numbers(arm, f"{what}, error over chunks", [delta.percent_error], [spread], source, within=ERRORS)
    watched = sequential.mean_sequence(each, population=_population(known, arm))
    ends = [None if end is None else 100 * math.expm1(end) for end in (watched.low, watched.high)]
    yield numbers(arm, f"{what}, 95 % sequence", [delta.low, delta.high], ends, source, within=ERRORS)
    if (tokens := delta.tokens) is not None:
        both = [
            (values[chunk], other[chunk])
            for chunk, one in known.log.chunks[arm].items()
            if one.against is not None and one.against.base == base and chunk in other
        ]
        ours, theirs = (np.concatenate(side) for side in zip(*both, strict=True))
        yield from _over_tokens(f"{what.replace('Δppl %', 'perplexity')}, over tokens", arm, tokens, ours, theirs)


def _named(log: Log, clean_name: str) -> str:
    """The arm that the report calls so."""
    return next((name for name in log.plans if clean(name, 80) == clean_name), clean_name)


def _population(known: Session, arm: str) -> int | None:
    chunks = next(iter(known.log.chunks[arm].values())).chunks
    return chunks if known.log.settings.until == "decided" else None


def _base_sums(known: Session, arm: str, base: str, other: Mapping[int, Array]) -> Iterator[Figure]:
    """What the log says of the base's own nll beside each chunk."""
    told, found, names = [], [], []
    ours = per_token(known, arm)
    for chunk, one in known.log.chunks[arm].items():
        if one.against is None or one.against.base != base or chunk not in other:
            continue
        row = other[chunk]
        told += [one.against.nll, one.against.nll2, one.against.products]
        found += [float(row.sum()), float((row * row).sum()), float((row * ours[chunk]).sum())]
        names += [f"chunk {chunk}"] * 3
    if told:
        source = f"raw/{arm}.nll, raw/{base}.nll"
        yield numbers(arm, f"sums with {base}'s nll of each chunk", told, found, source, names)


def _over_tokens(what: str, arm: str, told: divergence.Divergence, ours: Array, theirs: Array) -> Iterator[Figure]:
    """llama-perplexity's figures of two perplexities over the same tokens: errors are those of differences."""
    ppl, ppl_base = math.exp(ours.mean()), math.exp(theirs.mean())
    ratio = _mean(ours - theirs)
    weighed = _mean(ppl * ours - ppl_base * theirs).error
    source = f"raw/{arm}.nll"
    values = [ratio.value, math.exp(ratio.value), ppl - ppl_base]
    errors = [ratio.error, _times(math.exp(ratio.value), ratio.error), weighed]
    recorded = (told.ln_ratio, told.ratio, told.difference)
    yield numbers(arm, f"{what}: ln ratio, ratio, difference", [one.value for one in recorded], values, source)
    yield numbers(arm, f"{what}: their errors", [one.error for one in recorded], errors, source, within=ERRORS)
    varies = told.correlation is not None
    correlation = float(np.corrcoef(ours, theirs)[0, 1]) if varies else None
    yield numbers(arm, f"{what}: correlation", [told.correlation], [correlation], source, within=ERRORS)


def _called(known: Session, row: ArmSummary, arm: str, values: Mapping[int, Array]) -> Iterator[Figure]:
    """The call, within the tolerance or not."""
    told, delta = row.decision, row.delta
    if told is None or delta is None:
        return
    try:
        other = per_token(known, _named(known.log, delta.base))
    except Lacking as why:
        yield not_there(arm, "call", told.call, why)
        return
    each = [float(values[chunk].mean() - other[chunk].mean()) for chunk in values if chunk in other]
    watched = sequential.mean_sequence(each, population=_population(known, arm))
    whole = len(each) == next(iter(known.log.chunks[arm].values())).chunks
    low, high = (watched.mean, watched.mean) if whole else (watched.low, watched.high)
    call = sequential.decide(low, high, told.tolerance) or "undecided"
    yield texts(arm, f"call at ±{100 * told.tolerance:g} %", [told.call], [call], f"raw/{arm}.nll")


# --- KL divergence --------------------------------------------------------------------------------------------------

SUMS = ("nll_base", "nll_base2", "nll_nll_base", "kld", "kld2", "p_diff", "p_diff2", "p_diff4", "same_top")


def _diverged(known: Session, told: Kld, arm: str, values: Mapping[int, Array]) -> Iterator[Figure]:
    """Everything that is told of the KL divergence."""
    found = told.found
    try:
        rows = per_token_base(known, arm)
    except Lacking as why:
        yield not_there(arm, "KL divergence", (found.kld.value, told.low, told.high), why)
        return
    yield _diverged_sums(known, arm, values, rows)
    source, joined = f"raw/{arm}.kld", np.concatenate(list(rows.values()), axis=1)
    nll = np.concatenate([values[chunk] for chunk in rows])
    base, kld, p_diff, same_top = joined
    squares = _mean(p_diff * p_diff)
    root = math.sqrt(squares.value)
    rms = Estimated(root, _times(0.5 / root, squares.error) if root else None)
    both = (
        ("KL divergence, nats", found.kld, _mean(kld)),
        ("change of probability", found.p_diff, _mean(p_diff)),
        ("change of probability, rms", found.p_diff_rms, rms),
        ("same favourite", found.same_top, _mean(same_top)),
        ("ln ratio by the base's rows", found.ln_ratio, _mean(nll - base)),
    )
    for what, recorded, ours in both:
        yield numbers(arm, what, [recorded.value], [ours.value], source)
        yield numbers(arm, f"{what}, error", [recorded.error], [ours.error], source, within=ERRORS)
    yield numbers(arm, "perplexity of the base by its rows", [found.ppl_base.value], [math.exp(base.mean())], source)
    each = [float(row[1].mean()) for row in rows.values()]
    watched = sequential.mean_sequence(each, population=_population(known, arm))
    ends = [watched.low, watched.high]
    yield numbers(arm, "KL divergence, 95 % sequence", [told.low, told.high], ends, source, within=ERRORS)
    yield from _percentiles(known, arm, kld, p_diff)


def _diverged_sums(known: Session, arm: str, values: Mapping[int, Array], rows: Mapping[int, Array]) -> Figure:
    told: list[float | None] = []
    found: list[float | None] = []
    names = []
    for chunk, (base, kld, p_diff, same_top) in rows.items():
        recorded = known.log.chunks[arm][chunk].diverged
        square = p_diff * p_diff
        told += [getattr(recorded, name) for name in SUMS]
        parts = (base, base * base, values[chunk] * base, kld, kld * kld, p_diff, square, square * square, same_top)
        found += [float(part.sum()) for part in parts]
        names += [f"chunk {chunk} {name}" for name in SUMS]
    return numbers(arm, "sums against the base's rows of each chunk", told, found, f"raw/{arm}.kld", names)


def _percentiles(known: Session, arm: str, kld: Array, p_diff: Array) -> Iterator[Figure]:
    """The percentiles as the report takes them from raw/, and by linear interpolation here."""
    rows = session.rows(known.folder, known.state.arms[arm])
    if rows is None:
        why = Lacking("what raw/ adds up to is not what the log says", damaged=True)
        yield not_there(arm, "percentiles", "", why)
        return
    told = divergence.from_rows(rows)
    for what, recorded, values in (("KL divergence", told.kld_at, kld), ("probability", told.p_diff_at, p_diff)):
        found = [float(np.quantile(values, fraction)) for fraction in recorded]
        names = [f"{100 * fraction:g} %" for fraction in recorded]
        given: Sequence[float] = list(recorded.values())
        yield _rounded(arm, f"{what}, percentiles", given, found, f"raw/{arm}.kld", names)


def _rounded(
    arm: str, what: str, told: Sequence[float], found: Sequence[float], source: str, names: Sequence[str]
) -> Figure:
    """Percentiles are the same within float32's digits of the largest of them."""
    largest = max(map(abs, (*told, *found)), default=0.0)
    near = [a if abs(a - b) <= ROUNDED * largest else b for a, b in zip(told, found, strict=True)]
    return numbers(arm, what, told, near, source, names)


def _mean(values: Array) -> Estimated:
    """Mean and standard error of independent values: sqrt(variance / (n - 1)), as llama-perplexity has it."""
    n = len(values)
    return Estimated(float(values.mean()), float(values.std()) / math.sqrt(n - 1) if n > 1 else None)


def _times(factor: float, error: float | None) -> float | None:
    return None if error is None else factor * error
