"""Time series: bounded, exact in their means, and gaps stay gaps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui.series import BINS, Series, add_together, column_width

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


@given(
    st.lists(st.floats(-1e6, 1e6), max_size=30), st.integers(0, 5), st.lists(st.lists(st.floats(0, 1e6)), max_size=6),
    st.integers(0, 4), st.booleans(),
)  # fmt: skip
def test_a_run_is_taken_as_its_values_are_one_by_one(
    before: list[float], gap: int, runs: list[list[float]], doubled: int, far: bool
) -> None:
    """To the last bit, over the edges of bins, after a gap, and where the series halves."""
    one, two = Series(width=2.0**doubled), Series(width=2.0**doubled)
    for series in (one, two):
        for x, value in enumerate(before):
            series.add(float(x), value)
    first = len(before) + gap + (int(BINS * 2.0**doubled) - 20 if far else 0)
    for run in runs:
        one.add_run(first, run)
        for x, value in enumerate(run, first):
            two.add(float(x), value)
        first += len(run)
    assert one == two


@given(st.lists(st.tuples(st.floats(0, 5e3), st.dictionaries(st.sampled_from("abc"), st.floats(-1e6, 1e6)))))
def test_values_that_come_together_are_taken_as_they_are_one_by_one(rows: list[tuple[float, dict[str, float]]]) -> None:
    one: dict[str, Series] = {}
    two: dict[str, Series] = {}
    for x, row in rows:
        add_together(one, 0.5, x, row.items())
        for name, value in row.items():
            two.setdefault(name, Series(width=0.5)).add(x, value)
    assert one == two


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=50))
def test_rounded_a_bin_differs_by_less_than_a_millionth(values: list[float]) -> None:
    series = Series(width=1.0)
    for at, value in enumerate(values):
        series.add(at, value)
    series.round()
    assert series.sums == pytest.approx(values, rel=1e-6) and series.last == values[-1]
    again = list(series.sums)
    series.round()
    assert series.sums == again
