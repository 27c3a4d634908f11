"""What a task tells of an arm against the base, recomputed from answers that were judged again.

Which answers are paired, McNemar's test, Holm's correction and the calls are written anew here; the bootstraps and the
tests of equivalence are stats.paired's, on these pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from quanttui.decide.study import ALPHA, POWER, RESAMPLES, SEED, Finding, Subject
from quanttui.stats import paired
from quanttui.verify.answers import F1, Answered, Answers, of_task, pooled, spans
from quanttui.verify.figure import ERRORS, WITHIN, Figure, Lacking, lacking, numbers, texts

EXACT = 25
"""Pairs that are not alike, up to which McNemar's test is the binomial one."""


class Pairs(NamedTuple):
    """An arm's and the base's answers to the same items, in the items' order; what of the task's is no pair."""

    ours: list[Answered]
    base: list[Answered]
    excluded: int

    @property
    def lost(self) -> int:
        return sum(b.is_right and not a.is_right for a, b in zip(self.ours, self.base, strict=True))

    @property
    def gained(self) -> int:
        return sum(a.is_right and not b.is_right for a, b in zip(self.ours, self.base, strict=True))


def of_all(told: Sequence[Finding], every: Mapping[str, Answers]) -> Iterator[Figure]:
    """All findings, those of a task together, as they were corrected. `every` has all arms' answers."""
    for task in dict.fromkeys(one.task for one in told):
        family = [one for one in told if one.task == task]
        tables = {arm: found for arm, each in every.items() if (found := dict(of_task(each, task)))}
        known = [_pairs(one, tables) for one in family]
        ps = [1.0 if pairs is None else _p(one.measure, pairs) for one, pairs in zip(family, known, strict=True)]
        for one, pairs, p, p_holm in zip(family, known, ps, holm(ps), strict=True):
            if pairs is None:
                why = Lacking("raw/ has no answers that can be paired")
                yield lacking(one.arm, f"{one.task}: against {one.base}", (one.delta, one.low, one.high), why)
            else:
                yield from _finding(one, pairs, p, p_holm, len(family))


def _pairs(told: Finding, tables: Mapping[str, Mapping[str, Answered]]) -> Pairs | None:
    """The items that all arms were asked in the same words and had room for."""
    if told.arm not in tables or told.base not in tables:
        return None
    common = [item for item in sorted(tables[told.base]) if _is_pair([found.get(item) for found in tables.values()])]
    ours, base = ([tables[arm][item] for item in common] for arm in (told.arm, told.base))
    return Pairs(ours, base, len(set().union(*tables.values())) - len(common)) if common else None


def _is_pair(each: Sequence[Answered | None]) -> bool:
    first = each[0]
    return first is not None and all(
        one is not None and one.counts and one.line.prompt == first.line.prompt for one in each
    )


def _finding(told: Finding, pairs: Pairs, p: float, p_holm: float, family: int) -> Iterator[Figure]:
    what, source = f"{told.task}: against {told.base}", f"raw/{told.arm}.items.jsonl, raw/{told.base}.items.jsonl"

    def figure(name: str, recorded: Sequence[float | None], found: Sequence[float | None]) -> Figure:
        within = ERRORS if name.startswith("p ") else WITHIN
        return numbers(told.arm, f"{what}, {name}", recorded, found, source, within=within)

    yield figure("pairs and excluded", [told.n, told.excluded], [len(pairs.ours), pairs.excluded])
    yield figure("lost and gained", [told.lost, told.gained], [pairs.lost, pairs.gained])
    delta, *ends = _difference(told.measure, pairs)
    yield figure(told.measure, [told.delta], [delta])
    yield figure("95 % interval", [told.low, told.high], ends)
    yield figure("95 % interval by groups", [told.cluster_low, told.cluster_high], _clustered(told.measure, pairs))
    yield figure(f"p ({told.test}), and by Holm", [told.p, told.p_holm], [p, p_holm])
    tost_p = _equivalent(told, pairs)
    yield figure(f"p of no equivalence within ±{100 * told.margin:g} points", [told.tost_p], [tost_p])
    yield figure("detectable difference", [told.detectable], [_detectable(told, pairs, ends, ALPHA / family)])
    call = "worse" if delta < 0 else "better"
    if p_holm >= ALPHA or not delta:
        call = "equivalent" if tost_p < ALPHA else "open"
    yield texts(told.arm, f"{what}, call", [told.call], [call], source)
    yield from _subjects(told, pairs, what, source)


def _right(each: Sequence[Answered]) -> list[bool]:
    return [one.is_right for one in each]


def _difference(measure: str, pairs: Pairs) -> tuple[float, float, float]:
    """The difference and the ends of its interval."""
    if measure in F1:
        found = paired.f1_bootstrap(spans(pairs.ours), spans(pairs.base), RESAMPLES, SEED)
        return pooled(measure, pairs.ours) - pooled(measure, pairs.base), found.low, found.high
    a, b = _right(pairs.ours), _right(pairs.base)
    found = paired.paired_bootstrap(a, b, resamples=RESAMPLES, seed=SEED)
    return (sum(a) - sum(b)) / len(a), found.low, found.high


def _groups(pairs: Pairs) -> list[str]:
    return sorted({one.told.group for one in pairs.base})


def _clustered(measure: str, pairs: Pairs) -> tuple[float | None, float | None]:
    """The interval with whole groups drawn again, where there are several."""
    groups = _groups(pairs)
    if measure in F1 or len(groups) < 2:
        return None, None
    codes = np.array([groups.index(one.told.group) for one in pairs.base])
    a, b = _right(pairs.ours), _right(pairs.base)
    found = paired.paired_bootstrap(a, b, clusters=codes, resamples=RESAMPLES, seed=SEED)
    return found.low, found.high


def _p(measure: str, pairs: Pairs) -> float:
    if measure in F1:
        return paired.f1_p(spans(pairs.ours), spans(pairs.base), RESAMPLES, SEED)
    return mcnemar(pairs.lost, pairs.gained)


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p of McNemar's test: twice the binomial tail, or chi-squared with a continuity correction (Edwards
    1948, Psychometrika 13) above EXACT pairs that are not alike."""
    unlike = lost + gained
    if unlike > EXACT:
        return math.erfc(math.sqrt(max(0, abs(lost - gained) - 1) ** 2 / unlike / 2))
    tail = sum(math.comb(unlike, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2.0 * tail / 2.0**unlike)


def holm(ps: Sequence[float]) -> list[float]:
    """The p of a family, each times how many are not smaller, none smaller than one before it (Holm 1979)."""
    corrected, least = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda at: ps[at])):
        least = max(least, min(1.0, ps[at] * (len(ps) - rank)))
        corrected[at] = least
    return corrected


def _equivalent(told: Finding, pairs: Pairs) -> float:
    if told.margin <= 0:
        return 1.0
    if told.measure in F1:
        return paired.f1_tost(spans(pairs.ours), spans(pairs.base), told.margin).p
    return paired.tost(_right(pairs.ours), _right(pairs.base), told.margin).p


def _detectable(told: Finding, pairs: Pairs, ends: Sequence[float], alpha: float) -> float:
    """By the share of pairs that are not alike, one more on either side; of F1 by the interval's width."""
    if told.measure in F1:
        normal = NormalDist().inv_cdf
        return (normal(1 - alpha / 2) + normal(POWER)) * (ends[1] - ends[0]) / 2 / normal(1 - ALPHA / 2)
    n = len(pairs.ours)
    return paired.minimum_detectable(n, (pairs.lost + pairs.gained + 2) / (n + 2), alpha, POWER)


def _subjects(told: Finding, pairs: Pairs, what: str, source: str) -> Iterator[Figure]:
    """Each group by itself: pairs, difference, p, and p corrected over the groups."""
    if not told.subjects:
        return
    each = [_within(pairs, group) for group in _groups(pairs)]
    ps = [mcnemar(one.lost, one.gained) for one in each]
    found: list[float] = []
    for one, p, p_holm in zip(each, ps, holm(ps), strict=True):
        found += [len(one.ours), (one.gained - one.lost) / len(one.ours), p, p_holm]
    recorded = [value for one in told.subjects for value in _subject(one)]
    names = [one.group for one in told.subjects for _ in range(4)]
    yield numbers(told.arm, f"{what}, groups", recorded, found, source, names, within=ERRORS)


def _within(pairs: Pairs, group: str) -> Pairs:
    mine = [at for at, one in enumerate(pairs.base) if one.told.group == group]
    return Pairs([pairs.ours[at] for at in mine], [pairs.base[at] for at in mine], 0)


def _subject(one: Subject) -> tuple[float, ...]:
    return one.n, one.delta, one.p, one.p_holm
