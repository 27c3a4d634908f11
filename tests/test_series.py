"""Time series: bounded, exact in their means, and gaps stay gaps."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from quanttui.series import BINS, Series, column_width

POINTS = st.lists(st.tuples(st.floats(0, 5e5), st.floats(-1e6, 1e6)), min_size=1, max_size=200)


@given(POINTS)
def test_a_series_stays_bounded_and_keeps_its_total(points: list[tuple[float, float]]) -> None:
    series = Series(width=0.5)
    for x, value in points:
        series.add(x, value)
    assert len(series.sums) <= BINS
    assert sum(series.counts) == len(points)
    assert math.isclose(sum(series.sums), sum(value for _, value in points), rel_tol=1e-9, abs_tol=1e-3)
    mean = series.mean(0, 1e6)
    assert mean is not None
    assert math.isclose(mean, sum(v for _, v in points) / len(points), rel_tol=1e-9, abs_tol=1e-3)


@given(POINTS, st.randoms())
def test_the_order_of_arrival_does_not_matter(points: list[tuple[float, float]], random: object) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = Series(width=0.5), Series(width=0.5)
    for x, value in points:
        one.add(x, value)
    for x, value in shuffled:
        two.add(x, value)
    assert (one.width, one.counts) == (two.width, two.counts)


def test_a_gap_is_a_break_and_never_a_zero() -> None:
    series = Series(width=1.0)
    for x in (0, 1, 2, 7, 8):
        series.add(x, 5.0)
    assert series.columns(0, 1, 10) == [5.0, 5.0, 5.0, None, None, None, None, 5.0, 5.0, None]
    assert series.columns(0, 2, 5) == [5.0, 5.0, None, 5.0, 5.0]


@given(st.floats(0.1, 1e6), st.integers(1, 300))
def test_columns_cover_the_span_with_whole_bins(span: float, columns: int) -> None:
    width = column_width(span, columns, 0.5)
    assert width * columns >= span
    assert math.log2(width / 0.5).is_integer()
