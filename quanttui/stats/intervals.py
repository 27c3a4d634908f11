"""Means, spreads and errors of what was measured. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence


def perplexity(scored: int, nll: float, nll2: float) -> tuple[float, float | None]:
    """Perplexity and its standard error from sums over `scored` tokens of the nll (nats) and of its square.

    PPL = exp(m), m = nll / N; error = PPL * sqrt((nll2 / N - m^2) / (N - 1)): what llama-perplexity prints as its
    final estimate (tools/perplexity). The error is None for a single token.
    """
    mean = nll / scored
    value = math.exp(mean)
    if scored < 2:
        return value, None
    return value, value * math.sqrt(max(0.0, nll2 / scored - mean * mean) / (scored - 1))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation with n - 1, as llama-bench's avg_ts and stddev_ts. sd is None for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired_ratio(
    scored: Sequence[int], ours: Sequence[float], base: Sequence[float]
) -> tuple[float, float | None]:
    """ln(PPL / PPL of the base) over the same chunks, and its standard error with the chunk as the unit.

    `scored`, `ours`, `base`: tokens and sums of nll of each chunk, in the same order. The error is the standard
    error of the mean of the per-chunk mean differences (tokens of a chunk are correlated, chunks far less), which
    is right for chunks of one length; None below three chunks.
    """
    difference = (math.fsum(ours) - math.fsum(base)) / sum(scored)
    if len(scored) < 3:
        return difference, None
    each = [(a - b) / n for a, b, n in zip(ours, base, scored, strict=True)]
    _, sd = mean_sd(each)
    assert sd is not None
    return difference, sd / math.sqrt(len(each))


def student(freedom: int, z: float = 1.959964) -> float:
    """How many standard errors of a mean its interval reaches to either side, with so many degrees of freedom.

    95 % with the z given. Fisher's expansion of the t distribution's quantile about the normal one's (Abramowitz and
    Stegun 26.7.5, four terms): within 0.1 % from 4 degrees on. For a number of values that was chosen beforehand.
    """
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def wilson(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share after Wilson (1927), 95 % with the z given: right for few trials and at the ends.

    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)
    """
    share, width = hits / trials, z * z / trials
    middle, half = share + width / 2, z * math.sqrt(share * (1 - share) / trials + width / (4 * trials))
    return max(0.0, (middle - half) / (1 + width)), min(1.0, (middle + half) / (1 + width))
