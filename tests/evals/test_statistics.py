"""The Wilson interval against published values and against its definition."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.evals.statistics import Z_95, Score, wilson_interval


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_z_covers_95_percent_of_a_normal_distribution() -> None:
    assert math.erf(Z_95 / math.sqrt(2)) == pytest.approx(0.95, abs=1e-12)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=50, deadline=None)
def test_bounds_are_the_shares_that_lie_z_standard_errors_away(counts: tuple[int, int]) -> None:
    correct, n = counts
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    for bound in (low, high):
        standard_error = math.sqrt(bound * (1 - bound) / n)
        assert abs(correct / n - bound) == pytest.approx(Z_95 * standard_error, abs=1e-9)


def test_no_items_tell_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert Score(0, 0).accuracy == 0.0


def test_a_score_that_cannot_be_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Score(3, 2)
