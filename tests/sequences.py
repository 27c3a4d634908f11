"""sequential.mean_sequence for many sweeps and every number of values at once: what simulations watch.

The same formulas on arrays; a property test holds the two against each other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from quanttui.stats.sequential import LEAST, SEEN_FROM, TUNED_FOR, UNSEEN

Array = npt.NDArray[np.float64]


def running(
    values: npt.ArrayLike,
    alpha: float = 0.05,
    tuned_for: float = TUNED_FOR,
    population: int | None = None,
    least: int = LEAST,
) -> tuple[Array, Array]:
    """Mean and radius after each value: float64 of the shape of `values`, [..., n]; NaN where mean_sequence, which
    explains the arguments, has None."""
    x = np.asarray(values, dtype=np.float64)
    count = x.shape[-1]
    n = np.arange(1, count + 1, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = x - x[..., :1]  # from the first value, so that powers keep their digits
        first, second, third = (np.cumsum(apart**power, axis=-1) / n for power in (1, 2, 3))
        variance = np.maximum(second - first**2, 0.0)
        skewed = third - 3 * first * second + 2 * first**3
    radius = _radius(n, variance, skewed, alpha, tuned_for, population)
    exhausted = n == population
    return x[..., :1] + first, np.where((n < least) & ~exhausted, np.nan, radius)


def _radius(
    n: Array, variance: Array, skewed: Array, alpha: float, tuned_for: float, population: int | None
) -> Array:
    """Half-width after `n` values with these second and third central moments; NaN where it is infinite."""
    share = 1 / n - (1 / population if population else 0.0)
    boundary = _boundary(n, share, alpha, tuned_for)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(variance * n / (n - 1) * share)
        skewness = np.where(variance > 0, np.abs(skewed) / variance**1.5, 0.0)
    unseen = UNSEEN * np.sqrt(np.minimum(1.0, SEEN_FROM / n))
    radius = error * (boundary + (skewness + unseen) * (2 * boundary**2 + 1) / (6 * np.sqrt(n)))
    return np.where(share > 0, radius, 0.0 * variance)


def _boundary(n: Array, share: Array, alpha: float, tuned_for: float) -> Array:
    """How many standard errors the mean may ever stray; NaN where that is infinite."""
    x = -2 * math.log(alpha)
    rho2 = (x + math.log1p(x)) / tuned_for
    h = share / (share + rho2)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.exp((x - np.log(h)) / n)
        return np.where(q * h < 1, np.sqrt((n - 1) * (q - 1) / (1 - q * h)), np.nan)
