"""The statistics of pairs: what they say of known cases, against scipy and statsmodels, and how often they keep it."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from benchmarks import coverage
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from quanttui.stats import paired
from quanttui.stats.intervals import wilson
from quanttui.stats.paired import (
    Tost,
    accuracy_sequence,
    bootstrap_p,
    difference_sequence,
    f1_bootstrap,
    f1_interval,
    f1_p,
    f1_tost,
    holm,
    mcnemar,
    mean_interval,
    minimum_detectable,
    paired_bootstrap,
    pooled_f1,
    score_interval,
    tost,
)

Values = npt.NDArray[Any]

PAIRS = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 400)).map(lambda t: (t[0], t[1], sum(t)))
SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=60)
COUNTS = st.lists(st.tuples(*[st.integers(0, 5)] * 6), min_size=1, max_size=40).map(lambda rows: np.array(rows))


def answers(lost: int, gained: int, n: int) -> tuple[Values, Values]:
    """Ours and base: right or wrong, with so many discordant pairs of n."""
    ours, base = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    ours[:lost], base[lost : lost + gained] = False, False
    return ours, base


def random(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- bootstraps


@given(PAIRS)
@given_settings(max_examples=40, deadline=None)
def test_the_difference_lies_in_its_interval_and_the_interval_has_a_width(pairs: tuple[int, int, int]) -> None:
    lost, gained, n = pairs
    found = paired_bootstrap(*answers(lost, gained, n), resamples=300)
    assert found.delta == pytest.approx((gained - lost) / n)
    assert found.low <= found.delta <= found.high
    assert found.low < found.high


@given(PAIRS)
@given_settings(max_examples=20, deadline=None)
def test_the_other_way_round_the_interval_is_its_mirror_image(pairs: tuple[int, int, int]) -> None:
    """Within what 3,000 resamples leave open."""
    ours, base = answers(*pairs)
    one, other = paired_bootstrap(ours, base, resamples=3000), paired_bootstrap(base, ours, resamples=3000)
    assert one.delta == pytest.approx(-other.delta)
    step = 1 / pairs[2] + 0.2 * (one.high - one.low)
    assert one.low == pytest.approx(-other.high, abs=step) and one.high == pytest.approx(-other.low, abs=step)


def test_without_a_discordant_pair_a_difference_may_still_be_there() -> None:
    """Exact: no discordant pair of n is seen in 5 % of studies where their share is 1 - 0.05^(1/n)."""
    for n in (20, 100, 500):
        found = paired_bootstrap(*answers(0, 0, n))
        assert found.delta == 0 and found.low == -found.high
        assert 0.5 * (1 - 0.05 ** (1 / n)) < found.high < 2 * (1 - 0.05 ** (1 / n))


def test_the_same_seed_gives_the_same_figures_whatever_the_order_of_the_items() -> None:
    ours, base = random().random(400) < 0.7, random(2).random(400) < 0.7
    mixed = random(3).permutation(400)
    assert paired_bootstrap(ours, base) == paired_bootstrap(ours[mixed], base[mixed])
    values = random(4).random(400)
    assert mean_interval(values, 500) == mean_interval(values[mixed], 500)
    assert mean_interval(values, 500, seed=1) != mean_interval(values, 500, seed=2)


def test_figures_that_a_seed_has_given_do_not_change() -> None:
    found = paired_bootstrap(*answers(30, 18, 500))
    assert (found.delta, found.low, found.high, found.resamples) == (-0.024, -0.051792828685, 0.003984063745, 10_000)
    assert found.how == "95 % paired bootstrap over items"
    counts = np.tile([[2, 0, 0], [1, 1, 0], [0, 0, 1]], (100, 1))
    assert f1_interval(counts) == (0.717277486911, 0.779499404052)
    assert mean_interval(np.arange(50) / 49) == (0.41169544741, 0.584080124269)


def test_the_percentiles_are_those_of_scipys_bootstrap() -> None:
    """Of the same sample, the two imagined pairs among it, at the expanded level."""
    stats = pytest.importorskip("scipy.stats")
    values = random().normal(0.05, 0.3, 200).clip(-1, 1)
    found = paired_bootstrap(values.clip(0), -values.clip(None, 0), resamples=20_000)
    seen = np.append(values, [-1, 1])
    level = 1 - 2 * stats.norm.sf(stats.t.ppf(0.975, 199) * math.sqrt(200 / 199))
    theirs = stats.bootstrap(
        (seen,), np.mean, n_resamples=20_000, confidence_level=level, method="percentile", rng=random(5)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.001)


@pytest.mark.parametrize("n", [30, 2000])
def test_drawing_counts_and_drawing_rows_is_the_same(n: int) -> None:
    """Mean and covariance of resampled sums are those of n draws of rows, whichever way they are drawn."""
    for levels in (3, 10_000):
        rows = random().integers(levels, size=(n, 2)).astype(np.float64) / levels
        drawn = paired._sums(rows, 20_000, 1)
        spread = np.cov(rows.T, bias=True) * n
        assert drawn.mean(axis=0) == pytest.approx(rows.sum(axis=0), abs=5 * math.sqrt(spread.max() / 20_000))
        assert np.cov(drawn.T) == pytest.approx(spread, abs=0.06 * spread.max())


@given(COUNTS)
@given_settings(max_examples=40, deadline=None)
def test_pooled_f1_is_the_harmonic_mean_of_precision_and_recall(counts: Values) -> None:
    tp, fp, fn = counts[:, :3].sum(axis=0)
    expected = 0.0
    if tp:
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        expected = 2 * precision * recall / (precision + recall)
    assert pooled_f1(counts[:, :3]) == pytest.approx(expected)


@given(COUNTS)
@given_settings(max_examples=30, deadline=None)
def test_a_pooled_f1_lies_in_its_interval(counts: Values) -> None:
    ours, base = counts[:, :3], counts[:, 3:]
    low, high = f1_interval(ours, 200)
    assert 0 <= low <= pooled_f1(ours) <= high <= 1 and low < high
    apart = f1_bootstrap(ours, base, 200)
    assert apart.delta == pytest.approx(pooled_f1(ours) - pooled_f1(base))
    assert apart.low <= apart.delta <= apart.high


def test_counts_are_pooled_and_not_averaged() -> None:
    """One long sentence outweighs many short ones: the mean of the sentences' own F1 would be 0.99."""
    counts = np.array([[0, 50, 50]] + [[1, 0, 0]] * 99)
    assert pooled_f1(counts) == pytest.approx(198 / 298)
    assert f1_interval(counts)[0] < 0.6


def test_sentences_of_0_and_1_have_the_interval_of_their_shares() -> None:
    """Where each sentence has one entity that is found or missed, 2 tp / (tp + n) goes with the share found."""
    found = random().random(300) < 0.8
    counts = np.stack([found, np.zeros(300), ~found], axis=1)
    share = found.mean()
    low, high = wilson(int(found.sum()), 300)
    assert pooled_f1(counts) == pytest.approx(2 * share / (1 + share))
    assert f1_interval(counts) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)), abs=0.01)


def test_subjects_that_differ_make_the_interval_wider_and_like_ones_do_not_make_it_narrower() -> None:
    of = np.repeat(np.arange(10), 50)
    unlike, base = of % 2 == 0, np.ones(500, dtype=bool)
    items, clusters = paired_bootstrap(unlike, base), paired_bootstrap(unlike, base, of)
    assert clusters.delta == items.delta == -0.5
    assert clusters.high - clusters.low > 5 * (items.high - items.low)
    like = np.tile(np.arange(50) < 25, 10)
    alike, by_item = paired_bootstrap(like, base, of), paired_bootstrap(like, base)
    assert (alike.low, alike.high) == (by_item.low, by_item.high)
    assert clusters.how == "95 % paired bootstrap over 10 clusters"


def test_a_few_subjects_have_students_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    shares = np.array([0.1, 0.5, 0.3, 0.9, 0.2])
    ours = np.concatenate([np.arange(100) < 100 * share for share in shares])
    found = paired_bootstrap(ours, np.zeros(500), np.repeat([3, 1, 4, 15, 9], 100))
    theirs = stats.t.interval(0.95, 4, shares.mean(), stats.sem(shares))
    assert (found.low, found.high) == pytest.approx(theirs, abs=0.005)
    assert found.how == "95 % Student's t over 5 clusters"


def test_clusters_of_one_item_each_are_items() -> None:
    ours, base = answers(40, 20, 300)
    items, clusters = paired_bootstrap(ours, base), paired_bootstrap(ours, base, np.arange(300))
    assert (clusters.low, clusters.high) == pytest.approx((items.low, items.high), abs=0.005)


def test_a_p_is_small_just_where_the_interval_leaves_0_out() -> None:
    base = random().random(300)
    for shift in (0.0, 0.004, 0.008, 0.01, 0.012, 0.02):
        ours = base + shift + random(2).normal(0, 0.08, 300)
        found, p = paired_bootstrap(ours, base), bootstrap_p(ours, base)
        assert (p < 0.048) <= (not found.low <= 0 <= found.high) <= (p < 0.052)
    assert bootstrap_p(base, base) == 1.0
    assert 0 < bootstrap_p(np.ones(300), np.zeros(300)) < 0.001


def test_a_p_of_pooled_f1_tells_a_large_difference_from_none() -> None:
    base = np.tile([[2, 0, 0], [1, 1, 1], [0, 0, 0]], (100, 1))
    worse = base + np.tile([[-1, 0, 1], [0, 0, 0], [0, 1, 0]], (100, 1))
    assert f1_p(worse, base, 2000) < 0.01
    assert f1_p(base, base, 2000) == 1.0


def test_ten_thousand_resamples_of_five_thousand_items_take_under_a_second() -> None:
    """CPU time of this thread, the better of two; with an allowance of four for slow and busy machines."""
    ours, base = random().random(5000) < 0.7, random(2).random(5000) < 0.7
    counts, others = random(3).poisson(1, (5000, 3)), random(4).poisson(1, (5000, 3))
    for what in (
        lambda: paired_bootstrap(ours, base, np.arange(5000) % 10),
        lambda: paired_bootstrap(random(5).random(5000), random(6).random(5000)),
        lambda: f1_bootstrap(counts, others),
    ):
        took = []
        for _ in range(2):
            begun = time.thread_time()
            what()
            took.append(time.thread_time() - begun)
        assert min(took) < 4.0


def test_memory_is_bounded() -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        paired_bootstrap(random().random(5000), random(2).random(5000), resamples=1000)
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired_bootstrap([], []),
        lambda: paired_bootstrap([1, 0], [1]),
        lambda: paired_bootstrap([[1, 0]], [[1, 0]]),
        lambda: paired_bootstrap([math.nan, 1], [0, 1]),
        lambda: paired_bootstrap([1, 0], [0, 1], clusters=[1, 1]),
        lambda: paired_bootstrap([1, 0], [0, 1], clusters=[1]),
        lambda: f1_bootstrap([[1, 0, 0]], [[1, 0, 0]] * 2),
        lambda: f1_bootstrap(np.zeros((0, 3)), np.zeros((0, 3))),
        lambda: f1_interval([1, 2]),
        lambda: mcnemar([0.5, 1], [0, 1]),
        lambda: tost([1, 0], [1, 0], 0.0),
        lambda: tost([0.5, 0.1], [1, 0], -0.1),
        lambda: f1_tost([[1, 0, 0]], [[1, 0, 0]], math.nan),
        lambda: difference_sequence([True], []),
    ],
)
def test_what_are_no_pairs_is_refused(call: Any) -> None:
    with pytest.raises(ValueError):
        call()


# --- McNemar, Holm


@given(PAIRS)
@given_settings(deadline=None)
def test_mcnemar_is_statsmodels(pairs: tuple[int, int, int]) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    lost, gained, n = pairs
    found = mcnemar(*answers(lost, gained, n))
    exact = lost + gained <= 25
    if not exact and lost == gained:
        assert found.p == 1.0  # their correction takes 1 from a difference of 0
        return
    theirs = tables.mcnemar([[n - lost - gained, lost], [gained, 0]], exact=exact, correction=True)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.lost, found.gained) == (lost, gained)
    assert found.test == ("McNemar, exact" if exact else "McNemar, continuity-corrected")


def test_both_of_mcnemars_tests_meet_at_the_border() -> None:
    for lost in range(3, 13):
        below, above = (paired._mcnemar(lost, n - lost)[0] for n in (25, 26))
        assert above < below < 4 * above or below == pytest.approx(above, abs=0.25)
    assert paired._mcnemar(0, 0)[0] == 1.0


@given(st.lists(st.floats(0, 1), max_size=12))
@given_settings(max_examples=15, deadline=None)
def test_holm_is_statsmodels(ps: list[float]) -> None:
    multiple = pytest.importorskip("statsmodels.stats.multitest")
    theirs = multiple.multipletests(ps, method="holm")[1] if ps else []
    assert holm(ps) == pytest.approx(tuple(theirs))


# --- equivalence


def null_likelihood(lost: int, gained: int, n: int, delta: float) -> tuple[float, float]:
    """By search: the largest log-likelihood with gained less lost at delta, and the share lost there."""
    low, high = max(0.0, -delta), (1 - delta) / 2

    def log(share: float) -> float:
        parts = ((lost, share), (gained, share + delta), (n - lost - gained, 1 - 2 * share - delta))
        return math.fsum(times * math.log(max(of, 1e-300)) for times, of in parts if times)

    for _ in range(200):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if log(a) > log(b) else (a, high)
    return log(low), low


@given(PAIRS, st.floats(-0.5, 0.5))
@given_settings(max_examples=60, deadline=None)
def test_the_share_under_the_margin_is_the_likeliest(pairs: tuple[int, int, int], delta: float) -> None:
    lost, gained, n = pairs
    assert paired._null_lost(lost, gained, n, delta) == pytest.approx(null_likelihood(*pairs, delta)[1], abs=1e-5)


@given(PAIRS)
@given_settings(max_examples=40, deadline=None)
def test_what_the_score_test_does_not_refute_is_its_interval(pairs: tuple[int, int, int]) -> None:
    lost, gained, n = pairs
    low, high = score_interval(lost, gained, n)
    assert -1 <= low < (gained - lost) / n < high <= 1
    assert score_interval(gained, lost, n) == pytest.approx((-high, -low), abs=1e-9)
    assert low == -1 or paired._not_above(lost, gained, n, low) == pytest.approx(0.025, abs=1e-5)
    assert high == 1 or paired._not_above(gained, lost, n, -high) == pytest.approx(0.025, abs=1e-5)


def test_without_discordant_pairs_the_score_interval_is_wilsons_or_the_exact_one() -> None:
    for n in (20, 100, 500):
        high = score_interval(0, 0, n)[1]
        assert high == pytest.approx(max(wilson(0, n)[1], 1 - 0.025 ** (1 / n)), abs=1e-6)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.001, 0.999))
@given_settings(max_examples=60, deadline=None)
def test_the_binomial_tail_is_scipys(most: int, n: int, share: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binom.cdf(most, n, share)
    assert paired._binomial(min(most, n), n, share) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@given(PAIRS, st.floats(0.002, 0.3))
@given_settings(max_examples=40, deadline=None)
def test_quants_are_equivalent_where_the_interval_lies_within_the_margin(
    pairs: tuple[int, int, int], margin: float
) -> None:
    found = tost(*answers(*pairs), margin)
    assert found.equivalent == (found.p < 0.05)
    if min(abs(abs(found.low) - margin), abs(found.high - margin)) > 1e-6:
        assert found.equivalent == (-margin < found.low and found.high < margin)


def test_of_many_values_the_tests_of_equivalence_are_students() -> None:
    weights = pytest.importorskip("statsmodels.stats.weightstats")
    base = random().random(3000)
    ours = base - 0.02 + random(2).normal(0, 0.5, 3000)
    found = tost(ours, base, 0.05)
    theirs = weights.ttost_paired(ours, base, -0.05, 0.05)[0]
    assert found.p == pytest.approx(theirs, rel=0.1)
    low, high = weights.DescrStatsW(ours - base).tconfint_mean(0.1)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.0005)
    shares, others = random(3).random(3000) < 0.71, random(4).random(3000) < 0.7
    theirs = weights.ttost_paired(shares.astype(float), others.astype(float), -0.05, 0.05)[0]
    assert tost(shares, others, 0.05).p == pytest.approx(theirs, rel=0.1)


def test_no_difference_among_few_pairs_proves_nothing() -> None:
    """At ± 1 pp: with n pairs alike, a loss of 1 % would have stayed unseen in 0.99^n of studies."""
    for n in (1, 20, 100, 298):
        same = np.ones(n)
        assert not tost(same, same, 0.01).equivalent
        assert not tost(same * 0.5, same * 0.5, 0.01).equivalent
    for n in (1, 20, 140):  # here 1 pp of F1 is 2 % of the entities
        counts = np.tile([[1, 0, 0]], (n, 1))
        assert not f1_tost(counts, counts, 0.01, resamples=500).equivalent
    many = np.ones(2000)
    assert tost(many, many, 0.01).equivalent and tost(many * 0.5, many * 0.5, 0.01).equivalent


def test_pooled_f1_is_equivalent_within_the_margin_only() -> None:
    base = np.tile([[2, 0, 0], [1, 0, 1], [0, 0, 0]], (200, 1))
    worse = base.copy()
    worse[:60:3] = [1, 0, 1]
    near = f1_tost(worse, base, 0.05)
    assert near.equivalent and -0.05 < near.low < pooled_f1(worse) - pooled_f1(base) < near.high < 0.05
    far = f1_tost(worse, base, 0.015)
    assert isinstance(far, Tost) and not far.equivalent and far.p > near.p


@given(SHARES, st.floats(-0.9, 0.9))
@given_settings(max_examples=60, deadline=None)
def test_tilting_is_monotonous(values: list[float], at: float) -> None:
    seen = np.append(np.array(values) - 0.5, [-1.0, 1.0])
    assert paired._tilted(seen, at) <= paired._tilted(seen, at + 0.05) + 1e-9
    assert paired._tilted(seen, float(seen.mean())) == pytest.approx(0.5, abs=1e-6)


# --- what could have been found


@pytest.mark.parametrize(("n", "discordant"), [(500, 0.05), (500, 0.2), (300, 0.1), (2000, 0.02), (500, 0.0)])
def test_a_detectable_difference_is_found_in_four_of_five_studies(n: int, discordant: float) -> None:
    """Over all outcomes: the asymptotic formula promises somewhat more than McNemar's tests, which are conservative."""
    delta = minimum_detectable(n, discordant)
    lost, gained = (max(discordant, delta) + delta) / 2, max((discordant - delta) / 2, 1e-9)
    power = sum(p for b, c, p in coverage.outcomes(n, lost, gained) if paired._mcnemar(b, c)[0] < 0.05)
    assert 0.70 < power < 0.86


def test_more_items_and_fewer_discordant_pairs_let_smaller_differences_be_found() -> None:
    for less, more in ((500, 1000), (20, 100), (1, 2)):
        assert minimum_detectable(more, 0.1) <= minimum_detectable(less, 0.1) <= 1
    each = [minimum_detectable(500, share) for share in (0.0, 0.01, 0.05, 0.2, 0.5)]
    assert each == sorted(each) and each[0] > 0
    assert minimum_detectable(500, 0.1, alpha=0.025) > minimum_detectable(500, 0.1)
    assert minimum_detectable(500, 0.1, power=0.9) > minimum_detectable(500, 0.1)


@pytest.mark.parametrize(("freedom", "within"), [(2, 0.05), (5, 0.005), (9, 0.001), (499, 1e-6)])
def test_the_quantile_is_students(freedom: int, within: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert paired._quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=within)


# --- while the answers come


@given(st.lists(st.booleans(), min_size=1, max_size=80))
@given_settings(max_examples=40, deadline=None)
def test_the_shares_in_the_sequence_are_those_that_the_mixture_does_not_refute(right: list[bool]) -> None:
    """From the definition: binomial probability of the hits seen above alpha / (n + 1)."""
    found = accuracy_sequence(right)
    assert found is not None
    n, hits = len(right), sum(right)
    assert found.low <= found.value == hits / n <= found.high
    for at, known in ((found.low, hits > 0), (found.high, hits < n)):
        if known:
            assert math.comb(n, hits) * at**hits * (1 - at) ** (n - hits) == pytest.approx(0.05 / (n + 1), rel=1e-6)
    assert (found.low == 0) == (hits == 0) and (found.high == 1) == (hits == n)


@given(PAIRS)
@given_settings(max_examples=40, deadline=None)
def test_at_the_ends_of_the_difference_sequence_the_mixture_has_won_just_enough(pairs: tuple[int, int, int]) -> None:
    lost, gained, n = pairs
    found = difference_sequence(*(list(map(bool, each)) for each in answers(*pairs)))
    assert found is not None and found.n == n
    assert found.low < found.value < found.high
    a = (0.5 + lost, 0.5 + gained, 5 + n - lost - gained)
    mixed = sum(map(math.lgamma, a)) - math.lgamma(6 + n) - (2 * math.lgamma(0.5) + math.lgamma(5) - math.lgamma(6))
    for at in (found.low, found.high):
        if abs(at) < 1:
            assert mixed - null_likelihood(*pairs, at)[0] == pytest.approx(math.log(20), abs=0.01)


def test_where_all_are_right_so_far_the_next_may_be_wrong() -> None:
    found = accuracy_sequence([True] * 20)
    assert found is not None and found.high == 1 and 0.7 < found.low < 0.78
    apart = difference_sequence([True] * 20, [True] * 20)
    assert apart is not None and apart.low == pytest.approx(-apart.high) and apart.high > 0.1


def test_before_the_first_answer_there_is_nothing() -> None:
    assert accuracy_sequence([]) is None and difference_sequence([], []) is None


def test_a_watched_interval_is_wider_than_that_of_fixed_n_and_says_what_it_is() -> None:
    ours, base = answers(30, 18, 500)
    watched, fixed = difference_sequence(list(ours), list(base)), paired_bootstrap(ours, base)
    assert watched is not None and watched.low < fixed.low and watched.high > fixed.high
    assert "confidence sequence" in watched.how and "bootstrap" in fixed.how
    alone = accuracy_sequence(list(ours))
    assert alone is not None and (alone.low, alone.high) != wilson(470, 500)
    assert alone.low < wilson(470, 500)[0] and alone.high > wilson(470, 500)[1]


# --- how often they keep it


@pytest.fixture(scope="module")
def rows() -> list[coverage.Row]:
    return coverage.rows(coverage.QUICK)


def test_every_statistic_keeps_what_it_says(rows: list[coverage.Row]) -> None:
    assert len(rows) > 30
    missed = [row for row in rows if row.verdict(coverage.QUICK.loose) == coverage.MISSED]
    assert not missed, coverage.table(missed, coverage.QUICK.loose)


def test_what_is_not_used_would_not_have_kept_it(rows: list[coverage.Row]) -> None:
    """A sequence with the sample's spread for rare errors, and a bootstrap of what was seen alone."""
    (shown,) = [row for row in rows if row.what.endswith("p ≤ 0.05")]
    assert shown.mean > 0.2

    def plain(lost: int, gained: int) -> tuple[float, float]:
        ours, base = answers(lost, gained, 300)
        drawn = paired._sums((ours.astype(float) - base)[:, None], 300, 1)[:, 0] / 300
        return paired._percentiles(drawn, 300, 0.05)

    held = [coverage._held(plain, 300, *coverage.turned(p, (0.06, 0.001))) for p in (0.05, 0.1, 0.3)]
    assert coverage.covers("plain", "300", held).verdict(0.03) == coverage.MISSED


def test_a_row_that_misses_is_told_and_ends_in_failure(capsys: pytest.CaptureFixture[str]) -> None:
    poor = [coverage.covers("poor", "1", [0.9, 0.95]), coverage.finds("alarms", "1", [0.01, 0.06])]
    assert [row.verdict() for row in poor] == [coverage.MISSED] * 2
    assert [coverage.covers("good", "1", [0.93, 0.95]).verdict()] == [coverage.MET]
    assert coverage.table(poor).count("not met") == 2


def test_the_outcomes_of_a_study_are_all_of_them() -> None:
    for lost, gained in ((0.01, 0.02), (0.2, 0.1), (0.001, 0.5)):
        assert sum(p for _, _, p in coverage.outcomes(200, lost, gained)) == pytest.approx(1, abs=1e-2)
