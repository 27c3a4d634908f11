"""Confidence sequences: what holds for any values, and how often watched sweeps miss the truth."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequences import running

from quanttui.stats import sequential
from quanttui.stats.sequential import Interval, decide, mean_sequence

Array = npt.NDArray[np.float64]

SWEEPS, CHUNKS = 2000, 500
FIRST_LOOK = 10

Q2_K = np.array(
    [
        [169, 92, 169, 80, 297, 78, 109, 129, 72, -12, 84, 92, 82, 21, 112, 80, 88, 38],
        [206, 124, 134, 26, 57, 213, 94, 392, 122, 34, 163, 150, 94, 126, 33, 320, 142, 356],
        [105, 110, 112, 421, 1135, 136, 72, 47, 65, 963, 45, 162, 164, 601, -8, 123, 20, 13],
        [-1, 140, 284, 67, 158, 60, 40, 122, 416, 123, 325, 17, 61, 66, 71, 60, 4, 124],
    ],
    dtype=np.float64,
).ravel()
"""Mean nll of the pocket model's Q2_K less that of its F16 in 72 chunks of its held-out text, in 1e-4 nats."""

VALUES = st.lists(st.integers(-1000, 1000).map(lambda i: i / 10), min_size=12, max_size=60)


def close(a: float | None, b: float | None, size: float = 1.0) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6 * size)


@given(VALUES, st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_a_shift_moves_the_interval_and_a_factor_stretches_it(values: list[float], shift: float, factor: float) -> None:
    plain = mean_sequence(values)
    moved = mean_sequence([shift + factor * value for value in values])
    assert close(moved.mean, shift + factor * plain.mean, 1e4)
    assert plain.radius is not None
    assert close(moved.radius, factor * plain.radius, 1e4)
    mirrored = mean_sequence([-value for value in values])
    assert close(mirrored.low, -(plain.mean + plain.radius), 100)


@given(VALUES, st.randoms(use_true_random=False), st.none() | st.integers(60, 100))
def test_the_order_of_what_came_before_does_not_matter(
    values: list[float], shuffle: random.Random, population: int | None
) -> None:
    plain = mean_sequence(values, population=population)
    mixed = list(values)
    shuffle.shuffle(mixed)
    other = mean_sequence(mixed, population=population)
    assert close(plain.mean, other.mean, 100) and close(plain.radius, other.radius, 100)


@given(VALUES, st.none() | st.integers(60, 100))
def test_the_running_intervals_are_those_of_each_beginning(values: list[float], population: int | None) -> None:
    means, radii = running(values, population=population)
    each = sequential.running(values, population=population)
    last = sequential.running(values, population=population, after={len(values)})
    assert len(each) == len(values) and each[-1:] == last
    for n, found in enumerate(each, 1):
        then = mean_sequence(values[:n], population=population)
        assert then.n == n and then == found
        assert close(then.mean, float(means[n - 1]), 100)
        assert (then.radius is None) == math.isnan(radii[n - 1])
        assert then.radius is None or close(then.radius, float(radii[n - 1]), 100)


@given(VALUES, st.floats(1, 500), st.integers(2, 12))
def test_there_is_no_interval_below_the_least_number(values: list[float], tuned_for: float, least: int) -> None:
    _, radii = running(values, tuned_for=tuned_for, least=least)
    assert np.isnan(radii[: least - 1]).all()
    assert mean_sequence(values[: least - 1], tuned_for=tuned_for, least=least).low is None
    known = np.isfinite(radii)
    assert (known[1:] >= known[:-1]).all(), "once there is an interval there always is"


@pytest.mark.parametrize(("tuned_for", "first"), [(8, 5), (64, 9)])
def test_a_sequence_begins_where_its_documentation_says(tuned_for: float, first: int) -> None:
    _, radii = running(np.arange(20.0), tuned_for=tuned_for)
    assert np.flatnonzero(np.isfinite(radii))[0] + 1 == first


def test_an_interval_shrinks_as_values_of_one_spread_come_in() -> None:
    _, radii = running([1.0, -1.0] * 500)
    even = radii[11::2]
    assert (np.diff(even) < 0).all()
    assert even[-1] < 0.2 * even[20]


@given(VALUES)
def test_more_risk_is_a_narrower_interval(values: list[float]) -> None:
    each = [mean_sequence(values, alpha=alpha).radius for alpha in (0.2, 0.05, 0.01)]
    known = [radius for radius in each if radius is not None]
    assert known == sorted(known) and (len(set(known)) == len(known) or max(known) == 0)


@given(VALUES)
def test_of_a_finite_number_nothing_is_left_open_in_the_end(values: list[float]) -> None:
    endless = mean_sequence(values)
    assert endless.radius is not None
    spread = max(values) > min(values)
    for population in (len(values) + 1, 2 * len(values), 10 * len(values)):
        radius = mean_sequence(values, population=population).radius
        assert radius is not None and (radius < endless.radius or not spread)
        assert (radius > 0) == spread
    assert mean_sequence(values, population=len(values)) == Interval(endless.mean, 0.0, len(values))
    assert close(mean_sequence(values, population=10**9).radius, endless.radius, 100)
    assert mean_sequence(values[:1], population=1).radius == 0


def test_tuning_makes_the_interval_narrowest_there() -> None:
    n = np.arange(20.0, 501)
    tuned = [radius_of(n, tuned_for=t) for t in np.geomspace(4, 2000, 60)]
    best = np.nanmin(np.array(tuned), axis=0)
    assert (radius_of(n) / best).max() < 1.2
    assert radius_of(n)[64 - 20] / best[64 - 20] < 1.01


def radius_of(n: Array, **settings: Any) -> Array:
    """Radius after n values of spread 1 and no skewness."""
    chosen: dict[str, Any] = {"alpha": 0.05, "tuned_for": sequential.TUNED_FOR, "population": None, **settings}
    return np.array([sequential._radius(int(each), (each - 1) / each, 0.0, **chosen) for each in n.tolist()])


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_of_many_values_the_interval_is_the_asymptotic_sequence(alpha: float) -> None:
    """Waudby-Smith et al. 2024: sd sqrt(2 (n rho^2 + 1) / (n^2 rho^2) log(sqrt(n rho^2 + 1) / alpha))."""
    n = np.array([1e6])
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / 1e5
    theirs = np.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * np.log(np.sqrt(n * rho2 + 1) / alpha))
    assert radius_of(n, alpha=alpha, tuned_for=1e5) == pytest.approx(theirs, rel=1e-3)


@given(st.lists(st.floats(-10, 10), min_size=10, max_size=40, unique=True), st.floats(4, 200))
def test_on_the_boundary_the_mixture_of_t_tests_has_just_reached_its_limit(values: list[float], tuned: float) -> None:
    """Wang and Ramdas, from the sums: sqrt(c / (n + c)) ((n + c) V / ((n + c) V - S^2))^(n/2), c = 1 / rho^2."""
    n, alpha = len(values), 0.05
    boundary = sequential._boundary(n, 1 / n, alpha, tuned)
    if math.isnan(boundary):
        return
    x = np.array(values)
    x = x - x.mean() + boundary * x.std(ddof=1) / math.sqrt(n)
    squares, total = float((x**2).sum()), float(x.sum())
    twice = -2 * math.log(alpha)
    c = tuned / (twice + math.log1p(twice))
    reached = math.sqrt(c / (n + c)) * ((n + c) * squares / ((n + c) * squares - total**2)) ** (n / 2)
    assert reached == pytest.approx(1 / alpha, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_leaves_no_interval_from_then_on(bad: float) -> None:
    values = [1.0, 2.0] * 10
    assert mean_sequence([*values, bad, *values]).radius is None
    assert mean_sequence([*values, bad], population=21).radius is None
    assert np.isfinite(running([*values, bad])[1][12:20]).all()


@pytest.mark.parametrize(
    ("values", "settings"),
    [([], {}), ([1.0] * 9, {"population": 8}), ([1.0] * 9, {"alpha": 0.0}), ([1.0] * 9, {"alpha": 1.0})],
)
def test_what_has_no_interval_by_its_nature_is_refused(values: list[float], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        mean_sequence(values, **settings)


# The decision.


@pytest.mark.parametrize(
    ("low", "high", "call"),
    [
        (-0.002, 0.004, "within"),
        (math.log1p(-0.01), math.log1p(0.01), "within"),
        (0.0267, 0.0289, "worse"),
        (-0.05, -0.02, "better"),
        (0.005, 0.02, ""),
        (-0.02, 0.005, ""),
        (-0.5, 0.5, ""),
        (0.0, math.log1p(0.01) + 1e-9, ""),
        (math.nan, math.nan, ""),
        (None, None, ""),
    ],
)
def test_a_call_is_made_when_the_interval_lies_on_one_side(low: float | None, high: float | None, call: str) -> None:
    assert decide(low, high, 0.01) == call


@given(st.floats(-0.5, 0.5), st.floats(0, 0.5), st.floats(0, 0.9))
def test_what_is_decided_stays_so_as_the_interval_shrinks(middle: float, radius: float, tolerance: float) -> None:
    wide = decide(middle - radius, middle + radius, tolerance)
    narrow = decide(middle - radius / 2, middle + radius / 2, tolerance)
    assert wide in ("", narrow)


@given(st.floats(0.5, 2), st.floats(0, 0.9))
def test_a_ratio_that_is_known_exactly_is_called_by_its_distance_from_1(ratio: float, tolerance: float) -> None:
    if not math.isclose(abs(ratio - 1), tolerance, abs_tol=1e-9):
        call = "within" if abs(ratio - 1) < tolerance else "worse" if ratio > 1 else "better"
        assert decide(math.log(ratio), math.log(ratio), tolerance) == call


@pytest.mark.parametrize("tolerance", [-0.01, 1.0])
def test_a_tolerance_is_a_share(tolerance: float) -> None:
    with pytest.raises(ValueError):
        decide(0.0, 0.0, tolerance)


# Simulated sweeps, each watched at every value from its first interval on.


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def missed(values: Array, truth: float, **settings: Any) -> float:
    """The share of sweeps, one a row, whose sequence ever misses the truth."""
    means, radii = running(values, **settings)
    with np.errstate(invalid="ignore"):
        return float((np.abs(means - truth) > radii + 1e-9).any(axis=-1).mean())


def missed_by_fixed(values: Array, truth: float, looks: Sequence[int], population: float = math.inf) -> float:
    """The share whose fixed-n 95 % t-interval misses at any of the looks (numbers of values)."""
    outside = np.zeros(len(values), dtype=bool)
    for n in looks:
        seen = values[:, :n]
        error = seen.std(axis=1, ddof=1) * math.sqrt(1 / n - 1 / population)
        outside |= np.abs(seen.mean(axis=1) - truth) > t_quantile(n - 1) * error + 1e-9
    return float(outside.mean())


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, from the normal one (Abramowitz and Stegun 26.7.5): 1e-3 from 9 on."""
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def drawn(population: Array, name: str) -> Array:
    """Every sweep draws all of them, each by itself, in a random order of its own."""
    return generator(name).permuted(np.tile(population, (SWEEPS, 1)), axis=1)


def text() -> Array:
    """47 articles of 12 chunks: skewed differences that share half their variance within an article."""
    random_ = generator("text")
    articles = np.repeat(random_.normal(size=47), 12)
    skewed = random_.lognormal(0, 0.5, 47 * 12)
    chunks: Array = articles + (skewed - skewed.mean()) / skewed.std()
    return chunks


def endless(name: str) -> tuple[Array, float]:
    """Sweeps of values that are drawn independently, and the mean of what they are drawn from."""
    random_, shape = generator(name), (SWEEPS, CHUNKS)
    if name == "normal":
        return random_.normal(3, 2, shape), 3.0
    if name == "shifted lognormal":
        return random_.lognormal(0, 0.75, shape) - 1, math.exp(0.75**2 / 2) - 1
    assert name == "chunks of a Q2_K"
    return random_.choice(Q2_K, shape), float(Q2_K.mean())


@pytest.mark.parametrize("name", ["normal", "shifted lognormal", "chunks of a Q2_K"])
def test_a_watched_sequence_misses_in_at_most_5_percent_of_sweeps(name: str) -> None:
    """... and the fixed-n interval, watched the same way, in more than 20 %."""
    values, truth = endless(name)
    assert missed(values, truth) <= 0.05
    assert missed_by_fixed(values, truth, range(FIRST_LOOK, CHUNKS + 1)) >= 0.20


def test_the_fixed_n_interval_is_right_for_one_look_only() -> None:
    values, truth = endless("normal")
    for n in (FIRST_LOOK, 64, CHUNKS):
        assert 0.035 < missed_by_fixed(values, truth, [n]) < 0.065


@pytest.mark.parametrize(("name", "chunks"), [("all chunks of a Q2_K", Q2_K), ("text", text())])
def test_drawing_all_of_a_finite_number_keeps_the_promise(name: str, chunks: Array) -> None:
    values, truth = drawn(chunks, name), float(chunks.mean())
    assert missed(values, truth, population=len(chunks)) <= 0.05
    looks = range(FIRST_LOOK, len(chunks))
    assert missed_by_fixed(values, truth, looks, len(chunks)) >= 0.20


def test_a_text_read_in_its_own_order_breaks_the_promise() -> None:
    """Why a sweep that is to decide draws its chunks in random order: texts begin anywhere in this one."""
    chunks, random_ = text(), generator("text order")
    starts = random_.integers(0, len(chunks), (SWEEPS, 1))
    values = chunks[(starts + np.arange(len(chunks))) % len(chunks)]
    assert missed(values, float(chunks.mean()), population=len(chunks)) >= 0.20


def test_neighbours_that_were_drawn_together_are_one_value() -> None:
    """Four chunks in a row of one article: counted as four, they promise too much; their mean keeps the promise."""
    chunks = text().reshape(-1, 4)
    order = generator("groups").permuted(np.tile(np.arange(len(chunks)), (SWEEPS, 1)), axis=1)
    groups, truth = chunks[order], float(chunks.mean())
    assert missed(groups.reshape(SWEEPS, -1), truth, population=chunks.size) >= 0.10
    assert missed(groups.mean(axis=2), truth, population=len(chunks)) <= 0.05


@pytest.mark.parametrize("slowed", [0.0, 0.03, 0.1])
def test_repetitions_keep_the_promise_though_some_are_disturbed(slowed: float) -> None:
    """tok/s over up to 60 repetitions, a share of them 8 standard deviations slower, tuned for 8."""
    random_ = generator(f"slowed {slowed}")
    values = random_.normal(100, 0.5, (SWEEPS, 60)) - 4 * (random_.random((SWEEPS, 60)) < slowed)
    truth = 100 - 4 * slowed
    assert missed(values, truth, tuned_for=8) <= 0.05
    assert missed_by_fixed(values, truth, range(FIRST_LOOK, 61)) >= 0.20
