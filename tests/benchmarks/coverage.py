"""How often the statistics of pairs keep what they say: one table. `python -m tests.benchmarks coverage`.

An interval of 95 % must hold the truth in 94 % of studies, in the mean over the shares p = 0.01 to 0.99 of right
answers; a test must not find what is not there, and two quants that differ by just the margin must not be called
equivalent, in more than 5 % at any p. Where the possible outcomes of a study are few enough to go through (a count of
right answers, two of discordant pairs) their probabilities are added up: no chance is left in it, but the bootstrap's
own draws. Otherwise studies are simulated from a seed: "±" is then the standard error of the mean, and a test is
judged by the mean and not by the worst of a few studies.

The studies: 500 items in 10 subjects and 300 sentences, and 100 items. Where answers are paired, ours turns some of
the base's right answers wrong, and some of its wrong ones right (LOSSES), so that p goes with both.

Exit code 0 if every row is met, 1 if one is not.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from quanttui.stats import paired
from quanttui.stats.intervals import wilson
from tests.sequences import running

MET, MISSED, SHOWN = "met", "not met", "shown only"

HEAD = ("what", "n", "must be", "mean over p", "at worst", "")

LOSSES = {"1 % / 1 %": (0.01, 0.01), "6 % / 4 %": (0.06, 0.04), "25 % / 10 %": (0.25, 0.10)}
"""Right answers that ours turns wrong, and wrong ones that it turns right: much like a Q8_0, a Q4_K_M and a Q2_K."""

UNLIKELY = 1e-6
"""Outcomes of a probability below this are left out."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Effort:
    """How much is simulated: every `step`-th p, `studies` at each, `resamples` in each bootstrap.

    `loose` is added to what is allowed, as the shares come out less exactly then; a third of it where nothing is
    simulated.
    """

    step: int = 1
    studies: int = 40
    resamples: int = 1000
    loose: float = 0.0

    @property
    def shares(self) -> Floats:
        return np.arange(1, 100)[:: self.step] / 100


FULL = Effort()
QUICK = Effort(step=14, studies=20, resamples=500, loose=0.03)


@dataclass(frozen=True)
class Row:
    """Shares of studies, one for each p, in which an interval holds the truth: their mean must be `limit` at least.

    Or in which something false is `finds`: the highest must be `limit` at most, or the mean where they are `simulated`,
    of so many studies. No limit: shown only.
    """

    what: str
    n: str
    shares: tuple[float, ...]
    limit: float | None
    finds: bool = False
    simulated: int = 0

    @property
    def mean(self) -> float:
        return sum(self.shares) / len(self.shares)

    @property
    def worst(self) -> float:
        return max(self.shares) if self.finds else min(self.shares)

    @property
    def error(self) -> float:
        """Standard error of the mean, 0 where nothing was simulated."""
        return math.sqrt(self.mean * (1 - self.mean) / self.simulated) if self.simulated else 0.0

    def verdict(self, loose: float = 0.0) -> str:
        if self.limit is None:
            return SHOWN
        allowed = loose if self.simulated else loose / 3
        if self.finds:
            return MET if (self.mean if self.simulated else self.worst) <= self.limit + allowed else MISSED
        return MET if self.mean >= self.limit - allowed else MISSED


def covers(what: str, n: str, shares: Sequence[float], nominal: float = 0.95, simulated: int = 0) -> Row:
    return Row(what, n, tuple(map(float, shares)), nominal - 0.01, simulated=simulated)


def finds(what: str, n: str, shares: Sequence[float], limit: float | None = 0.05, simulated: int = 0) -> Row:
    return Row(what, n, tuple(map(float, shares)), limit, True, simulated)


# --- outcomes that can be gone through ------------------------------------------------------------------------------


@cache
def _log_factorials(n: int) -> Floats:
    return np.array([math.lgamma(k + 1) for k in range(n + 1)])


def binomial(n: int, share: float) -> Floats:
    """Probability of 0 … n hits."""
    k, logs = np.arange(n + 1), _log_factorials(n)
    return np.asarray(
        np.exp(logs[n] - logs - logs[::-1] + k * math.log(share) + (n - k) * math.log1p(-share)), dtype=np.float64
    )


def outcomes(n: int, lost: float, gained: float) -> Iterator[tuple[int, int, float]]:
    """How many of n pairs are lost and gained, and how likely that is, for such shares."""
    rest = max(0.0, 1 - lost)
    for b, chance in enumerate(binomial(n, lost)):
        if chance > UNLIKELY:
            within = binomial(n - b, min(gained / rest, 1 - 1e-12)) * chance
            for c in np.flatnonzero(within > UNLIKELY):
                yield b, int(c), float(within[c])


def pairs(n: int, lost: int, gained: int) -> tuple[Floats, Floats]:
    """Answers with so many discordant pairs."""
    ours, base = np.zeros(n), np.zeros(n)
    base[:lost], ours[lost : lost + gained] = 1, 1
    return ours, base


def turned(p: float, losses: tuple[float, float]) -> tuple[float, float]:
    """Shares of pairs lost and gained where the base is right in p."""
    return p * losses[0], (1 - p) * losses[1]


# --- the rows -------------------------------------------------------------------------------------------------------


def wilson_rows(effort: Effort) -> Iterator[Row]:
    for n in (100, 500):
        held = []
        for p in effort.shares:
            bounds = [wilson(hits, n) for hits in range(n + 1)]
            inside = [low <= p <= high for low, high in bounds]
            held.append(binomial(n, p) @ np.array(inside, dtype=np.float64))
        yield covers("Wilson, accuracy", f"{n}", held)


def bootstrap_rows(effort: Effort) -> Iterator[Row]:
    for n in (100, 300, 500):

        @cache
        def interval(lost: int, gained: int, n: int = n) -> tuple[float, float]:
            found = paired.paired_bootstrap(*pairs(n, lost, gained), resamples=effort.resamples)
            return found.low, found.high

        for name, losses in LOSSES.items():
            held = [_held(interval, n, *turned(p, losses)) for p in effort.shares]
            yield covers(f"paired bootstrap, difference, {name}", f"{n}", held)


def score_rows(effort: Effort) -> Iterator[Row]:
    for n in (100, 500):
        for name, losses in LOSSES.items():
            held = [_refuted_nowhere(n, *turned(p, losses)) for p in effort.shares]
            yield covers(f"90 % interval of TOST, {name}", f"{n}", held, 0.90)


def _refuted_nowhere(n: int, lost: float, gained: float) -> float:
    """How often neither one-sided test refutes the truth: it then lies in score_interval."""
    above, below = gained - lost, lost - gained
    total = held = 0.0
    for b, c, chance in outcomes(n, lost, gained):
        total += chance
        held += chance * (min(paired._not_above(b, c, n, above), paired._not_above(c, b, n, below)) > 0.05)
    return held / total


def _held(interval: Callable[[int, int], tuple[float, float]], n: int, lost: float, gained: float) -> float:
    """How often an interval that goes by the numbers lost and gained holds the truth."""
    total = held = 0.0
    for b, c, chance in outcomes(n, lost, gained):
        low, high = interval(b, c)
        total += chance
        held += chance * (low - 1e-9 <= gained - lost <= high + 1e-9)
    return held / total


def equivalence_rows(effort: Effort) -> Iterator[Row]:
    """The truth is the margin; p is the share of discordant pairs, from the margin to eight of them: with more, so few
    pairs are never equivalent."""
    for n, margin in ((500, 0.01), (300, 0.02), (100, 0.05), (500, 0.05), (2000, 0.01)):
        same = cache(partial(_equivalent, n, margin))
        found = []
        for p in np.geomspace(margin + 1e-6, 8 * margin, len(effort.shares))[:: max(1, 4 // effort.step)]:
            lost, gained = (p + margin) / 2, (p - margin) / 2
            found.append(sum(chance for b, c, chance in outcomes(n, lost, gained) if same(b, c)))
        yield finds(f"TOST, equivalent at a margin of {100 * margin:g} pp", f"{n}", found)


def _equivalent(n: int, margin: float, lost: int, gained: int) -> bool:
    return paired._apart(lost, gained, n, margin) < 0.05  # what tost goes by, without its interval


def mcnemar_rows(effort: Effort) -> Iterator[Row]:
    """As many are lost as gained; p is the share of discordant pairs."""
    p_value = cache(lambda lost, gained: paired.mcnemar(*pairs(lost + gained + 1, lost, gained)).p)
    for n in (100, 500):
        found = []
        for p in effort.shares * 0.6:
            found.append(sum(chance for b, c, chance in outcomes(n, p / 2, p / 2) if p_value(b, c) < 0.05))
        yield finds("McNemar, false alarms", f"{n}", found)


def holm_rows(effort: Effort) -> Iterator[Row]:
    """Arms that hang together, as all are held against one base: a family in which any alarm is false."""
    for n, arms in ((100, 3), (500, 10)):
        found = []
        for random, p in _each(effort, f"holm {n}"):
            alarms = 0
            for _ in range(effort.studies):
                base, item = random.random(n) < p, random.random(n)
                draws = random.random((arms, n))
                flips = np.where(draws < 0.5, item < 0.2, random.random((arms, n)) < 0.2)
                # Ours is right with probability p again where it was flipped: no arm is better or worse.
                ours = np.where(flips, random.random((arms, n)) < p, base)
                alarms += min(paired.holm([paired.mcnemar(each, base).p for each in ours])) < 0.05
            found.append(alarms / effort.studies)
        yield finds(f"Holm over {arms} arms, any false alarm", f"{n}", found, simulated=_total(effort))


def cluster_rows(effort: Effort) -> Iterator[Row]:
    """Subjects drawn from many, each with an accuracy, a share lost and a share gained of its own.

    Asked for is what the study has, 10 subjects, where the share lost scatters by 6 points from subject to subject. Of
    fewer subjects, or more unlike ones, the most telling are seldom among those drawn, and resampling cannot find them.
    """
    for subjects, n, kept, asked in ((10, 500, 20, True), (10, 500, 8, False), (4, 300, 20, False)):
        scatter = 100 * math.sqrt(LOST * (1 - LOST) / (kept + 1))
        draws = _each(effort, f"clusters {subjects}")
        held = [_clusters(random, p, subjects, n // subjects, kept, effort) for random, p in draws]
        name = f"cluster bootstrap, {subjects} subjects ± {scatter:.0f} pp"
        row = covers(name, f"{n}", held, simulated=_total(effort))
        yield row if asked else replace(row, limit=None)


LOST, GAINED = 0.08, 0.06
"""Right answers that are lost and wrong ones that are gained in the mean over all subjects."""


def _clusters(random: np.random.Generator, p: float, subjects: int, items: int, kept: float, effort: Effort) -> float:
    held = 0
    truth = (1 - p) * GAINED - p * LOST
    of = np.repeat(np.arange(subjects), items)
    for _ in range(effort.studies):
        level = random.beta(12 * p, 12 * (1 - p), subjects)[of]
        loses, gains = (random.beta(kept * share, kept * (1 - share), subjects)[of] for share in (LOST, GAINED))
        base = random.random(len(of)) < level
        ours = np.where(base, random.random(len(of)) >= loses, random.random(len(of)) < gains)
        found = paired.paired_bootstrap(ours, base, of, resamples=effort.resamples)
        held += found.low <= truth <= found.high
    return held / effort.studies


def f1_rows(effort: Effort) -> Iterator[Row]:
    """Sentences of CoNLL's kind; p is the share of entities that the base finds."""
    alone, apart, alarms = [], [], []
    for random, p in _each(effort, "f1"):
        worse = partial(Sentences, p, lost=0.08, won=0.03, broken=0.02)
        alone.append(_mean(effort, lambda: _holds_f1(random, worse(), effort)))  # noqa: B023
        apart.append(_mean(effort, lambda: _holds_delta(random, worse(), effort)))  # noqa: B023
        alarms.append(_mean(effort, lambda: _alarm(random, Sentences(p, 0.08, 0.08), effort)))  # noqa: B023
    yield covers("bootstrap, pooled F1", "300", alone, simulated=_total(effort))
    yield covers("paired bootstrap, difference of pooled F1", "300", apart, simulated=_total(effort))
    yield finds("bootstrap's p of pooled F1, false alarms", "300", alarms, simulated=_total(effort))


def f1_equivalence_rows(effort: Effort) -> Iterator[Row]:
    """The truth is the margin; p is the share of entities that the base finds."""
    for n, margin in ((300, 0.01), (300, 0.05), (1000, 0.02)):
        found = []
        for random, p in _each(effort, f"same {n} {margin}"):
            study = Sentences(p, 0.0, 0.0).worse_by(margin)
            if study is not None:
                found.append(_mean(effort, lambda: _same(random, study, n, margin)))  # noqa: B023
        name = f"TOST of pooled F1 at a margin of {100 * margin:g} pp"
        yield finds(name, f"{n}", found, simulated=len(found) * effort.studies)


def _same(random: np.random.Generator, study: Sentences, n: int, margin: float) -> bool:
    return _equal_f1(*study.draw(random, n), margin)


def _equal_f1(ours: Counts, base: Counts, margin: float) -> bool:
    """What f1_tost goes by, without its interval."""
    one, other = paired._imagined(ours, base)
    apart = paired.pooled_f1(one) - paired.pooled_f1(other) + paired._added(one) - paired._added(other)
    return paired._tilted_apart(apart, margin) < 0.05


def _holds_f1(random: np.random.Generator, study: Sentences, effort: Effort) -> bool:
    ours, _ = study.draw(random, 300)
    low, high = paired.f1_interval(ours, effort.resamples)
    return low <= study.f1[0] <= high


def _holds_delta(random: np.random.Generator, study: Sentences, effort: Effort) -> bool:
    found = paired.f1_bootstrap(*study.draw(random, 300), effort.resamples)
    return found.low <= study.f1[0] - study.f1[1] <= found.high


def _alarm(random: np.random.Generator, study: Sentences, effort: Effort) -> bool:
    """Each sentence's two answers change places by chance: neither arm is better."""
    ours, base = study.draw(random, 300)
    change = random.random((300, 1)) < 0.5
    return paired.f1_p(np.where(change, base, ours), np.where(change, ours, base), effort.resamples) < 0.05


@dataclass(frozen=True)
class Sentences:
    """Sentences whose entities the base finds with probability p, and how ours differs: it loses a share of those, wins
    one of the others, and cannot be read in a share of sentences.

    A fifth of the sentences have no entity, the others one and Poisson(0.8) more. How likely the entities of one
    sentence are found is Beta(2 p, 2 (1 - p)): they hang together. Wrong ones are Poisson, the more the smaller p is.
    """

    p: float
    lost: float
    won: float
    broken: float = 0.0

    def draw(self, random: np.random.Generator, n: int) -> tuple[Counts, Counts]:
        """Counts [n, 3] of ours and of the base."""
        gold = np.where(random.random(n) < 0.2, 0, 1 + random.poisson(0.8, n))
        right = random.binomial(gold, random.beta(2 * self.p, 2 * (1 - self.p), n))
        wrong = random.poisson(self._wrong, n)
        read = random.random(n) >= self.broken
        kept = right - random.binomial(right, self.lost) + random.binomial(gold - right, self.won)
        base = np.stack([right, wrong, gold - right], axis=1)
        right, wrong = kept * read, wrong * read
        return np.stack([right, wrong, gold - right], axis=1), base

    @property
    def f1(self) -> tuple[float, float]:
        """The pooled F1 of ours and of the base, of endless sentences."""
        gold, read = 0.8 * 1.8, 1 - self.broken
        right = gold * (self.p * (1 - self.lost) + (1 - self.p) * self.won) * read
        return (
            2 * right / (right + gold + self._wrong * read),
            2 * gold * self.p / (gold * self.p + gold + self._wrong),
        )

    def worse_by(self, margin: float) -> Sentences | None:
        """Sentences of which ours loses just so many that it is worse by `margin`; None where there are not as many."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            ours, base = Sentences(self.p, middle, self.won, self.broken).f1
            low, high = (middle, high) if base - ours < margin else (low, middle)
        return Sentences(self.p, low, self.won, self.broken) if low < 0.5 else None

    @property
    def _wrong(self) -> float:
        return 0.05 + 0.4 * (1 - self.p)


def mean_rows(effort: Effort) -> Iterator[Row]:
    """Values between 0 and 1, as a sentence's own F1 is; p is the mean of the base's."""
    held, apart, alarms = [], [], []
    for random, p in _each(effort, "means"):
        draw = partial(_values, random, p)
        held.append(_mean(effort, lambda: _inside(p, *paired.mean_interval(draw()[1], effort.resamples))))  # noqa: B023
        apart.append(_mean(effort, lambda: _holds_mean(draw(), p, effort)))  # noqa: B023
        alarms.append(_mean(effort, lambda: _mean_alarm(random, draw(), effort)))  # noqa: B023
    yield covers("bootstrap, mean of values", "300", held, simulated=_total(effort))
    yield covers("paired bootstrap, difference of means", "300", apart, simulated=_total(effort))
    yield finds("bootstrap's p of means, false alarms", "300", alarms, simulated=_total(effort))


def mean_equivalence_rows(effort: Effort) -> Iterator[Row]:
    """Ours loses a part of the value in as many items as make the margin; p is the share of the value."""
    for n, margin in ((300, 0.01), (300, 0.05)):
        found = []
        for random, p in _each(effort, f"values {margin}"):
            if p > 2 * margin:
                found.append(_mean(effort, lambda: _same_means(random, p, n, margin)))  # noqa: B023
        name = f"TOST of means at a margin of {100 * margin:g} pp"
        yield finds(name, f"{n}", found, simulated=len(found) * effort.studies)


def _same_means(random: np.random.Generator, p: float, n: int, margin: float) -> bool:
    falls = np.where(random.random(n) < margin / p, p, 0.0)
    return paired._tilted_apart(np.append(-falls, [-1.0, 1.0]), margin) < 0.05  # what tost goes by


def _values(random: np.random.Generator, p: float) -> tuple[Floats, Floats]:
    """Ours and base: 300 values of 0, 1 and thirds between; ours is drawn anew in a tenth."""
    base, again = (random.binomial(3, random.beta(p, 1 - p, 300)) / 3 for _ in range(2))
    return np.where(random.random(300) < 0.1, again * 0.8, base), base


def _holds_mean(values: tuple[Floats, Floats], p: float, effort: Effort) -> bool:
    found = paired.paired_bootstrap(*values, resamples=effort.resamples)
    return _inside(-0.1 * 0.2 * p, found.low, found.high)


def _mean_alarm(random: np.random.Generator, values: tuple[Floats, Floats], effort: Effort) -> bool:
    ours, base = values
    change = random.random(300) < 0.5
    return paired.bootstrap_p(np.where(change, base, ours), np.where(change, ours, base), effort.resamples) < 0.05


def sequence_rows(effort: Effort) -> Iterator[Row]:
    """Watched after each item from the first to the n-th: the chance of having ever missed, to 95 % at any p."""
    for n in (100, 500):
        yield finds("accuracy sequence, ever misses", f"{n}", [_ever(n, p) for p in effort.shares])
    studies = 5 * effort.studies
    for name, losses in LOSSES.items():
        found = []
        for random, p in _each(Effort(4 * effort.step), f"sequence {name}"):
            lost, gained = turned(p, losses)
            found.append(_ever_apart(random.random((studies, 500)), lost, gained))
        total = len(found) * studies
        yield finds(f"difference sequence, ever misses, {name}", "500", found, simulated=total)
    for p_name, shares in (("p ≤ 0.05", (0.01, 0.02, 0.05)), ("p = 0.5", (0.5,))):
        found = [_ever_mean(np.random.default_rng(7).random((400, 500)) < p, p) for p in shares]
        yield finds(f"for comparison: sequential.mean_sequence of 0 and 1, {p_name}", "500", found, None, 400)


def _ever(n: int, p: float) -> float:
    """Exact: the probability of every number of hits with no miss so far, item by item."""
    limit = -math.log(0.05)
    alive, low, high = np.ones(1), 0, 0
    for drawn in range(1, n + 1):
        alive = np.append(alive * (1 - p), 0.0) + np.append(0.0, alive * p)
        # Numbers of hits from low to high do not refute p. Either end moves by one at most.
        high += high < drawn and paired.share_evidence(high + 1, drawn, p) < limit
        low += paired.share_evidence(low, drawn, p) >= limit
        alive[:low], alive[high + 1 :] = 0.0, 0.0
    return 1 - float(alive.sum())


def _ever_apart(draws: Floats, lost: float, gained: float) -> float:
    limit, ever = -math.log(0.05), 0
    evidence = cache(lambda b, c, n: paired.difference_evidence(b, c, n, gained - lost))
    for row in draws:
        b = np.cumsum(row < lost).tolist()
        c = np.cumsum((row >= lost) & (row < lost + gained)).tolist()
        ever += any(evidence(b[at], c[at], at + 1) >= limit for at in range(len(b)))
    return ever / len(draws)


def _ever_mean(right: npt.NDArray[np.bool_], p: float) -> float:
    means, radii = running(right.astype(np.float64))
    with np.errstate(invalid="ignore"):
        return float((np.abs(means - p) > radii + 1e-9).any(axis=-1).mean())


def _each(effort: Effort, name: str) -> Iterator[tuple[np.random.Generator, float]]:
    """Every p, with draws of its own."""
    for p in effort.shares:
        yield np.random.Generator(np.random.PCG64([*name.encode(), round(100 * p)])), float(p)


def _mean(effort: Effort, holds: Callable[[], bool]) -> float:
    return sum(holds() for _ in range(effort.studies)) / effort.studies


def _inside(truth: float, low: float, high: float) -> bool:
    return low <= truth <= high


def _total(effort: Effort) -> int:
    return len(effort.shares) * effort.studies


ROWS: tuple[Callable[[Effort], Iterator[Row]], ...] = (
    wilson_rows,
    bootstrap_rows,
    cluster_rows,
    f1_rows,
    mean_rows,
    score_rows,
    equivalence_rows,
    f1_equivalence_rows,
    mean_equivalence_rows,
    mcnemar_rows,
    holm_rows,
    sequence_rows,
)


# --- the table ------------------------------------------------------------------------------------------------------


def rows(effort: Effort, say: Callable[[str], None] = lambda _: None) -> list[Row]:
    found = []
    for make in ROWS:
        begun = time.monotonic()
        found += list(make(effort))
        say(f"{make.__name__.removesuffix('_rows').replace('_', ' ')}: {time.monotonic() - begun:.0f} s")
    return found


def table(found: Sequence[Row], loose: float = 0.0) -> str:
    """One line a row."""
    cells = [HEAD, *(_cells(row, loose) for row in found)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cells(row: Row, loose: float) -> tuple[str, ...]:
    error = f" ± {100 * row.error:.1f}" if row.simulated else ""
    must = "-" if row.limit is None else f"{'≤' if row.finds else '≥'} {100 * row.limit:.1f} %"
    return (
        row.what,
        row.n,
        must,
        f"{100 * row.mean:.1f} %{error}",
        f"{100 * row.worst:.1f} %",
        row.verdict(loose),
    )


def main(words: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks coverage",
        description="How often intervals hold the truth and tests find what is not there: one table.",
    )
    parser.add_argument("--quick", action="store_true", help="few p and few studies, and bounds that allow for that")
    parser.add_argument("--silent", action="store_true", help="no progress on stderr")
    args = parser.parse_args(words)
    effort = QUICK if args.quick else FULL

    def say(text: str) -> None:
        if not args.silent:
            print(text, file=sys.stderr, flush=True)

    found = rows(effort, say)
    print(table(found, effort.loose))
    return 0 if all(row.verdict(effort.loose) != MISSED for row in found) else 1
