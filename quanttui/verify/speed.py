"""Speeds, memory and energy, recomputed from the log's own lines: repetitions by the nanoseconds of each token, peaks
and joules by the samples. Knows nothing of verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from quanttui.stats import sequential
from quanttui.summary import REPETITIONS, ArmSummary, Energy, Speed
from quanttui.verify.figure import ERRORS, Figure, numbers, texts
from quanttui.verify.log import Log, Timed

SOURCE = "events.jsonl, unit.done and tokens"


def of_arm(log: Log, row: ArmSummary, arm: str) -> Iterator[Figure]:
    """All speeds of an arm, what its files weigh, its peaks of memory and its energy, as the report has them."""
    yield from _file(log, row, arm)
    yield from _each_token(log, arm)
    first, *deeper = log.settings.depths
    for kind, told in (("prompt", row.prompt), ("decode", row.decode)):
        done = log.of_kind(arm, kind, first, log.latest(arm, kind, first))
        yield from _speed(arm, kind, told, done)
    yield from _deeper(log, row, arm, deeper)
    yield from _peaks(log, row, arm)
    if row.energy is not None:
        yield from _energy(log, row.energy, arm, first)


def _file(log: Log, row: ArmSummary, arm: str) -> Iterator[Figure]:
    """Bits per weight, by the tensors that the file's header names."""
    file = log.files.get(arm)
    if file is None or not file.shape.tensors:
        return
    weights, size = (sum(getattr(one, name) for one in file.shape.tensors) for name in ("elements", "bytes"))
    if weights:
        yield numbers(arm, "bits per weight", [row.bits_per_weight], [8 * size / weights], "the tensors in arm.started")


def _each_token(log: Log, arm: str) -> Iterator[Figure]:
    """Whether a repetition's nanoseconds are those of its tokens."""
    told = [one for one in log.timed.get(arm, []) if one.by_token is not None]
    if told:
        sums = [one.by_token for one in told]
        names = [one.unit.id for one in told]
        yield numbers(arm, "ns of each repetition", [one.ns for one in told], sums, SOURCE, names)


def _speed(arm: str, what: str, told: Speed | None, done: Sequence[Timed]) -> Iterator[Figure]:
    """Mean, spread, median and sequence of some repetitions' tok/s."""
    if told is None and not done:
        return
    rates = np.array([one.tok_s for one in done])
    if told is None or not len(rates):
        yield numbers(arm, f"{what} repetitions", [told.n if told else 0], [len(rates)], SOURCE)
        return
    spread = float(rates.std(ddof=1)) if len(rates) > 1 else None
    radius = sequential.mean_sequence(rates.tolist(), tuned_for=REPETITIONS).radius
    known = radius if radius is not None and radius < rates.mean() else None
    yield numbers(arm, f"{what} tok/s and repetitions", [told.tok_s, told.n], [float(rates.mean()), len(rates)], SOURCE)
    yield numbers(arm, f"{what} tok/s, median", [told.tok_s_median], [float(np.median(rates))], SOURCE)
    yield numbers(arm, f"{what} tok/s, sd", [told.sd], [spread], SOURCE, within=ERRORS)
    yield numbers(arm, f"{what} tok/s, ± of the 95 % sequence", [told.radius], [known], SOURCE, within=ERRORS)


def _deeper(log: Log, row: ArmSummary, arm: str, depths: Sequence[int]) -> Iterator[Figure]:
    """The speeds at further depths, of the latest attempt that has any."""
    at_depth = [one for one in log.timed.get(arm, []) if one.unit.depth != log.settings.depths[0]]
    having = {one.unit.attempt for one in at_depth}
    attempt = next((one for one in reversed(log.attempts.get(arm, [])) if one in having), None)
    told = {one.depth: one for one in row.deeper}
    for depth in depths:
        known = told.get(depth)
        for kind in ("prompt", "decode"):
            done = log.of_kind(arm, kind, depth, attempt) if attempt is not None else []
            yield from _speed(arm, f"{kind} at {depth}", getattr(known, kind) if known else None, done)


def _peaks(log: Log, row: ArmSummary, arm: str) -> Iterator[Figure]:
    """The most memory in each phase."""
    seen = log.peaks.get(arm, {})
    for phase in sorted({*row.peak_memory, *seen}):
        told = row.peak_memory.get(phase, {})
        recorded = [told.get(name) for name in ("rss", "anonymous", "device")]
        found = seen.get(phase, [None, None, None])
        if recorded != [None, None, None] or found != recorded:
            yield numbers(arm, f"peak memory in {phase}, bytes", recorded, found, "events.jsonl, samples")


def _energy(log: Log, told: Energy, arm: str, depth: int) -> Iterator[Figure]:
    """Joules per token, net of what the resting machine takes where that is known and less."""
    attempt = log.latest(arm, "decode", depth)
    counted = log.energy.get((arm, attempt or 0, "decode"))
    rates = [one.tok_s for one in log.of_kind(arm, "decode", depth, attempt)]
    if told.joules_per_token is None or counted is None or not rates:
        have = "a figure" if told.joules_per_token is not None else "none"
        ours = "a figure" if counted is not None and rates and counted[0] > 0 and counted[1] > 0 else "none"
        yield texts(arm, "energy", [have], [ours], "events.jsonl, samples")
        return
    watts, rate = counted[0] / counted[1], sum(rates) / len(rates)
    idle = log.idle[0] / log.idle[1] if told.idle_watts is not None and log.idle and log.idle[1] else 0.0
    net = (watts - idle) / rate
    recorded = [told.joules_per_token, told.gross_joules_per_token]
    gross = [net, watts / rate if told.gross_joules_per_token is not None else None]
    yield numbers(arm, "joules per token, net and gross", recorded, gross, "events.jsonl, samples")
