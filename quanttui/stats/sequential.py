"""Errors that survive watching: intervals for a mean that hold at every number of values at once.

Owns confidence sequences and the call that one allows. Knows no chunk, arm or engine: one value comes in for each unit
that was drawn (a chunk's mean difference of nll, its mean KLD, a repetition's tok/s).

A fixed-n interval is right for one number of values, chosen beforehand. Looked at after every value and stopped when
it pleases, it misses the truth many times as often as it says. A confidence sequence bounds by alpha the chance that
it *ever* misses. This one is that of a t-test mixed over normal effect sizes (Wang and Ramdas, arXiv 2310.03722, after
Lai 1976): exact for normal values of unknown spread, and with growing n the asymptotic confidence sequence of
Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Annals of Statistics 2024), which is Robbins's normal-mixture boundary
(Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 2021) with the sample's own spread. Two things are added
and tested by simulation: an allowance for skewed values, and what drawing without replacement from a finite number
gains.

No library serves: confseq is compiled, has no wheel after Python 3.10 and no asymptotic sequence; ville is in its
first release, needs scipy and gives nothing below 100 values; neither allows for skew.

What it asks for: values drawn in random order and each by itself (of neighbours in a text that were drawn together,
the mean is *one* value), and no rare outliers that dwarf all the rest: in simulation it keeps its promise up to a
skewness of about 4, and misses in 7 % of sweeps at 11. The promise is for one mean: where several are watched and none
may be wrong, divide alpha among them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

import msgspec

TUNED_FOR = 64
"""The number of values at which the interval is at its best. From 20 to 500 it is at most 1.2 times as wide as one
tuned for just that number."""

LEAST = 5
"""No interval below this many values, llama-bench's own number of repetitions. The boundary may ask for more: it is
infinite below 5 values tuned for 8, below 9 tuned for 64."""

UNSEEN, SEEN_FROM = 3.0, 45
"""Skewness that a sample may not have shown yet: all of it up to SEEN_FROM values, then falling with their root.

Differences of a Q2_K had a skewness of 3.3, most of it from 2 chunks of 72. Of 20,000 simulated sweeps that drew such
chunks, 13.0 % missed the truth without this allowance and 4.1 % with it; of those that drew these very 72, 16.6 % and
4.4 %.
"""


_LARGEST = 700.0
"""Exponents below it have a power of e."""


class Interval(msgspec.Struct, frozen=True):
    """The mean of `n` values and how far from it the truth may lie, None where that is not known yet.

    All in the values' own unit.
    """

    mean: float
    radius: float | None
    n: int

    @property
    def low(self) -> float | None:
        return None if self.radius is None else self.mean - self.radius

    @property
    def high(self) -> float | None:
        return None if self.radius is None else self.mean + self.radius


class Moments(msgspec.Struct):
    """What an interval needs of the values that came so far, in constant space: their number, the first one, and the
    sums of the powers of how far each lies from the first (so that they keep their digits)."""

    n: int = 0
    first: float = 0.0
    sum1: float = 0.0
    sum2: float = 0.0
    sum3: float = 0.0

    def add(self, value: float) -> None:
        """Take the next value."""
        if self.n == 0:
            self.first = value
        apart = value - self.first
        self.n += 1
        self.sum1 += apart
        self.sum2 += apart * apart
        self.sum3 += apart * apart * apart

    def interval(
        self,
        alpha: float = 0.05,
        tuned_for: float = TUNED_FOR,
        population: int | None = None,
        least: int = LEAST,
    ) -> Interval | None:
        """The confidence sequence of the mean as it stands, as mean_sequence has it; None without a value. O(1)."""
        if self.n == 0:
            return None
        first, second, third = self.sum1 / self.n, self.sum2 / self.n, self.sum3 / self.n
        variance = second - first * first
        skewed = third - 3 * first * second + 2 * first * first * first
        radius = _radius(self.n, 0.0 if variance < 0 else variance, skewed, alpha, tuned_for, population)
        known = math.isfinite(radius) and (self.n >= least or self.n == population)
        return Interval(self.first + first, radius if known else None, self.n)


def mean_sequence(
    values: Sequence[float],
    alpha: float = 0.05,
    tuned_for: float = TUNED_FOR,
    population: int | None = None,
    least: int = LEAST,
) -> Interval:
    """The confidence sequence of the mean as it stands after `values`, whatever their order. O(n).

    Args:
        values: one or more, one for each unit. Where all are equal the radius is 0; one that is not finite leaves none.
        alpha: the chance that the sequence ever misses.
        tuned_for: the number of values at which it is to be at its best.
        population: how many units there are, where these were drawn from them without replacement. The truth is then
            the mean of all of them, and the radius 0 once all are drawn. None: the mean of what made the values.
        least: the radius is None below this many values, and while the boundary is infinite.

    Raises:
        ValueError: no values, more than the population, or an alpha outside (0, 1).
    """
    return running(values, alpha, tuned_for, population, least, (len(values),))[-1]


def running(
    values: Sequence[float],
    alpha: float = 0.05,
    tuned_for: float = TUNED_FOR,
    population: int | None = None,
    least: int = LEAST,
    after: Collection[int] | None = None,
) -> list[Interval]:
    """The confidence sequence after each value, or after so many as are in `after`: for a chart.

    As mean_sequence, which explains the arguments.
    """
    if not values:
        raise ValueError("a mean needs one value at least")
    if population is not None and len(values) > population:
        raise ValueError(f"{len(values)} values were drawn of {population}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is not between 0 and 1")
    moments, found = Moments(), []
    for n, value in enumerate(values, 1):
        moments.add(value)
        if after is None or n in after:
            found.append(moments.interval(alpha, tuned_for, population, least))
    return [one for one in found if one is not None]


def decide(low: float | None, high: float | None, tolerance: float) -> Literal["within", "worse", "better", ""]:
    """What an interval of ln(PPL / PPL of the base) says to a tolerance on that ratio: 0.01 for 0.99 to 1.01.

    within: wholly inside; worse: wholly above; better: wholly below; "" while it lies across an end or is not known.

    Raises:
        ValueError: a tolerance outside [0, 1).
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance {tolerance} is not in [0, 1)")
    if low is None or high is None:
        return ""
    bottom, top = math.log1p(-tolerance), math.log1p(tolerance)
    if low > top:
        return "worse"
    if high < bottom:
        return "better"
    return "within" if bottom <= low and high <= top else ""


def _radius(
    n: int, variance: float, skewed: float, alpha: float, tuned_for: float, population: int | None
) -> float:
    """Half-width after `n` values with these second and third central moments; NaN where it is infinite.

    Skewed values: the boundary of b standard errors becomes b + |skewness| (2 b^2 + 1) / (6 sqrt n), the first term of
    the Edgeworth expansion of a studentized mean (Hall 1992, The Bootstrap and Edgeworth Expansion, 2.6), on both
    sides, with what the sample may not have shown yet added to its skewness.

    Drawn without replacement: over the share still to come, the summed deviations S_n / (1 - n / N) are a martingale
    with variance sigma^2 v, v = n N / (N - n), as if v values had been independent (a Brownian bridge turned into
    Brownian motion, Doob 1949; confidence sequences for such draws: Waudby-Smith and Ramdas 2020, NeurIPS 33). So v
    stands for n in the boundary, and 1 / v = 1 / n - 1 / N in the standard error, the usual finite-population one.
    """
    share = 1 / n - (1 / population if population else 0.0)
    if share <= 0:
        return 0.0 * variance
    boundary = _boundary(n, share, alpha, tuned_for)
    if math.isnan(boundary):
        return math.nan
    error = math.sqrt(variance * n / (n - 1) * share)
    cubed = variance * math.sqrt(variance)
    skewness = 0.0 if variance <= 0 else abs(skewed) / cubed if cubed else math.nan
    unseen = UNSEEN * math.sqrt(min(1.0, SEEN_FROM / n))
    return error * (boundary + (skewness + unseen) * (2 * boundary * boundary + 1) / (6 * math.sqrt(n)))


def _boundary(n: int, share: float, alpha: float, tuned_for: float) -> float:
    """How many standard errors the mean may ever stray; NaN where that is infinite. `share` is 1 / v, see _radius.

    The t-test mixed over effect sizes of variance rho^2 stays below 1 / alpha (Ville's inequality) while
        t^2 < (n - 1) (q - 1) / (1 - q h), h = 1 / (1 + v rho^2), q = (alpha^2 h)^(-1/n),
    t the studentized mean, and without end while q h >= 1 (Wang and Ramdas, solved for t). For large n that is
        t^2 < 2 (1 + 1 / (v rho^2)) log(sqrt(1 + v rho^2) / alpha).
    rho^2 = (x + log(1 + x)) / tuned_for with x = -2 log alpha makes it narrowest there (Waudby-Smith et al. 2024).
    """
    x = -2 * math.log(alpha)
    rho2 = (x + math.log1p(x)) / tuned_for
    h = share / (share + rho2)
    exponent = (x - math.log(h)) / n
    q = math.exp(exponent) if exponent < _LARGEST else math.inf
    return math.sqrt((n - 1) * (q - 1) / (1 - q * h)) if n > 1 and q * h < 1 else math.nan
