"""How sure a score is: an interval for a share of right answers.

Pure functions of counts; knows nothing of models or exams.
"""

import math
from dataclasses import dataclass

# The 97.5 % point of the normal distribution: that many standard errors on each side cover 95 %.
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """`correct` right answers out of `n`. Shares and interval bounds are between 0 and 1."""

    correct: int
    n: int

    def __post_init__(self) -> None:
        assert 0 <= self.correct <= self.n, f"{self.correct} of {self.n} cannot be right"

    @property
    def accuracy(self) -> float:
        """The share of right answers; 0 where nothing was asked."""
        return self.correct / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval."""
        return wilson_interval(self.correct, self.n)


def wilson_interval(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval for a share of `correct` out of `n`, as (low, high) within [0, 1].

    Unlike the share ± z standard errors, it stays inside [0, 1], does not shrink to a point at 0 % or 100 %,
    and covers the truth about as often as it says at small n. With n = 0 it is (0, 1): nothing is known.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half_width = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n right answers the bound is exactly 0 and 1; rounding would leave it a hair outside.
    low = 0.0 if correct == 0 else centre - half_width
    high = 1.0 if correct == n else centre + half_width
    return low, high
