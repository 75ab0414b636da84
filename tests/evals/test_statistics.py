"""Intervals against published values and definitions, and tests of differences against what they must see or not."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.data.problems import Problem
from chatsmith.evals.before_after import BeforeAfter
from chatsmith.evals.statistics import (
    Z_95,
    Answers,
    bootstrap_interval,
    centered,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_interval,
    pass_at_k,
    points_interval,
    ratio_difference,
    ratio_interval,
    wilson_interval,
)
from chatsmith.tasks.rules import Number
from chatsmith.text.chat import Message


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


def points(*values: float, chance: float = 0.0, group: str = "") -> Answers:
    return Answers(np.array(values), chance, group)


def test_centring_puts_chance_at_nought_and_everything_right_at_one():
    assert centered(0.25, 0.25) == 0
    assert centered(1.0, 0.62) == 1
    assert centered(0.552294, 0.62) == pytest.approx(-0.178175, abs=2e-6)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    """Against all ways to draw k of n."""
    for n, correct, k in ((5, 2, 3), (6, 1, 2), (4, 4, 4), (5, 0, 5), (7, 3, 1)):
        tries = [True] * correct + [False] * (n - correct)
        draws = list(itertools.combinations(tries, k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_a_bootstrap_interval_agrees_with_the_formula_for_one_task():
    rng = np.random.default_rng(1)
    answers = Answers((rng.random(500) < 0.3).astype(float), 0.0, "a")
    low, high = bootstrap_interval([answers])
    expected = wilson_interval(int(answers.points.sum()), 500)
    assert (low, high) == pytest.approx(expected, abs=0.012)
    assert bootstrap_interval([answers]) == (low, high), "the same every time"


def test_points_that_are_all_alike_are_not_certain():
    assert points_interval([0.0] * 50) == wilson_interval(0, 50)
    low, high = points_interval([0.0, 0.5, 1.0, 0.25] * 10)
    assert 0.25 < low < 0.4375 < high < 0.65


def test_tasks_with_the_same_items_are_drawn_together():
    """Two tasks that are right on the same items say no more than one; on opposite items their mean is certain."""
    right = [1.0, 0.0] * 50
    wrong = [0.0, 1.0] * 50

    def width(*tasks: Answers) -> float:
        low, high = bootstrap_interval(tasks)
        return high - low

    one = width(points(*right, group="a"))
    assert width(points(*right, group="a"), points(*right, group="a")) == pytest.approx(one)
    assert width(points(*right, group="a"), points(*wrong, group="a")) == pytest.approx(0)
    assert width(points(*right, group="a"), points(*right, group="b")) < 0.85 * one


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 5), (3, 9), (10, 11), (400, 500)])
def test_mcnemar_is_a_binomial_test_of_the_items_they_disagree_on(only_a: int, only_b: int):
    a = [1.0] * only_a + [0.0] * only_b + [1.0] * 7 + [0.0] * 3
    b = [0.0] * only_a + [1.0] * only_b + [1.0] * 7 + [0.0] * 3
    n, k = only_a + only_b, min(only_a, only_b)
    expected = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_a_paired_test_sees_what_separate_intervals_hide():
    """Both right on about half the items, B on a few more of the same ones."""
    rng = np.random.default_rng(2)
    a = (rng.random(400) < 0.5).astype(float)
    b = a.copy()
    b[np.flatnonzero(a == 0)[:20]] = 1
    separate = [bootstrap_interval([points(*values)]) for values in (a, b)]
    assert separate[0][1] > separate[1][0], "the intervals overlap"
    found = paired_bootstrap([points(*a)], [points(*b)])
    assert found.difference == pytest.approx(0.05)
    assert 0 < found.low < 0.05 < found.high
    assert found.p < 0.01
    assert paired_bootstrap([points(*a)], [points(*a)]).p == 1.0


def test_luck_is_called_luck_about_as_often_as_it_should_be():
    """Of comparisons of equally good models, one in twenty looks real."""
    rng = np.random.default_rng(3)
    verdicts = []
    for _ in range(200):
        a, b = (points(*(rng.random(60) < 0.4).astype(float)) for _ in range(2))
        verdicts.append(paired_bootstrap([a], [b]).p < 0.05)
    assert 0.01 <= np.mean(verdicts) <= 0.11


def test_many_comparisons_need_smaller_p_values():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
    assert holm([]) == []


def test_a_ratio_of_sums_has_an_interval_and_a_paired_difference():
    rng = np.random.default_rng(4)
    sizes, bits = rng.integers(50, 200, 60), rng.normal(2, 0.2, 60)
    parts = [(float(size * each), float(size)) for size, each in zip(sizes, bits, strict=True)]
    low, high = ratio_interval(parts)
    assert low < sum(a for a, _ in parts) / sum(b for _, b in parts) < high
    better = [(bits * 0.98, size) for bits, size in parts]
    found = ratio_difference(parts, better)
    assert found.high < 0 and found.p < 0.01


def test_row_12_a_gain_from_few_problems_is_not_certain():
    """Newcombe's own example (1998, table II, method 10): 36 both, 12 only before, 2 only after, 0 neither of 50."""
    pairs = [(1.0, 1.0)] * 36 + [(1.0, 0.0)] * 12 + [(0.0, 1.0)] * 2
    gain, low, high = paired_interval(pairs)
    assert gain == pytest.approx(-0.2)
    assert (-high, -low) == (pytest.approx(0.0569, abs=2e-3), pytest.approx(0.3404, abs=2e-3))
    gain, low, high = paired_interval([(0.0, 0.0)] * 5)
    assert gain == 0 and low < -0.3 and high > 0.3
    gain, low, high = paired_interval([(-150.0 - n, -48.0 + n) for n in range(10)])
    assert gain == pytest.approx(111.0) and low < gain < high and high - low < 20
    assert paired_interval([]) == (0.0, -1.0, 1.0)


def test_problems_whose_reward_failed_count_on_neither_side():
    problems = [Problem(str(n), "sums", (Message.of("user", "?"),), "1", Number(1)) for n in range(4)]
    tested = BeforeAfter(problems, [1.0, 0.0, math.nan, 0.0], [1.0, 1.0, 1.0, math.nan])
    found = tested.to_json()
    assert (found["n"], found["pass_at_1_before"], found["pass_at_1_after"], found["gain"]) == (
        4,
        0.5,
        1.0,
        0.5,
    )
    assert found["sections"]["sums"] | {"n": 2, "before": 0.5, "after": 1.0} == found["sections"]["sums"]
    assert tested.facts() == {"pass_at_1_before": 0.5, "pass_at_1_after": 1.0}
