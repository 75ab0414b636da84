"""How sure a score is, and whether two scores differ: intervals, centering, paired tests.

Pure functions of counts and of right answers; knows nothing of models, exams or files. Whatever draws random numbers
draws the same ones every time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The 97.5 % point of the normal distribution: that many standard errors on each side cover 95 %.
Z_95 = 1.959963984540054

RESAMPLES = 2000
"""Of a bootstrap: enough for the ends of a 95 % interval to be steady to a twentieth of its width or so."""


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The Wilson score interval for a share of `correct` out of `n`, as (low, high) within [0, 1].

    Unlike the share ± z standard errors, it stays inside [0, 1], does not shrink to a point at 0 % or 100 %,
    and covers the truth about as often as it says at small n. With n = 0 it is (0, 1): nothing is known.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    share, z = correct / n, Z_95
    shrink = 1 + z * z / n
    center = (share + z * z / (2 * n)) / shrink
    half_width = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n right answers the bound is exactly 0 and 1; rounding would leave it a hair outside.
    low = 0.0 if correct == 0 else center - half_width
    high = 1.0 if correct == n else center + half_width
    return low, high


def centered(accuracy: float, chance: float) -> float:
    """`accuracy` on a scale where `chance` is 0 and all right is 1; below chance it is negative."""
    return (accuracy - chance) / (1 - chance)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of `k` samples is right, when `correct` of `n` were: without the bias of
    1 - (1 - correct / n)^k. Source: Chen et al. 2021, 2107.03374."""
    assert 0 <= correct <= n and 1 <= k <= n
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


@dataclass(frozen=True)
class Answers:
    """The points of one task's items, 1 for a right answer, and what guessing gets."""

    points: np.ndarray
    """(n,) floats in [0, 1], in the order of the items."""
    chance: float
    group: str
    """Tasks of one group ask the same items in the same order, so they are resampled together."""


def bootstrap_interval(tasks: Sequence[Answers]) -> tuple[float, float]:
    """The 95 % interval of the mean centered accuracy over `tasks`, by resampling items within each task.

    It says how much another draw of items could change the score; not how much another training run could. Source:
    percentile bootstrap, Efron 1979.
    """
    return _percentiles(_resampled_means(tasks))


def points_interval(points: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of `points`: Wilson's if each is 0 or 1, since a bootstrap of equal points is but a
    point; else a bootstrap's."""
    if all(point in (0, 1) for point in points):
        return wilson_interval(round(sum(points)), len(points))
    return bootstrap_interval([Answers(np.array(points, dtype=float), 0.0, "")])


def ratio_interval(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The 95 % bootstrap interval of a ratio of sums, from its (above, below) parts; NaN for fewer than two parts."""
    return _percentiles(_resampled_ratios(parts)) if len(parts) > 1 else (math.nan, math.nan)


def paired_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The mean of after minus before, and its 95 % interval, of two measurements of each item.

    Of right and wrong answers Newcombe's (1998, Statistics in Medicine 17, method 10): from Wilson's intervals, so that
    a few items that came out alike give no certainty. Of other numbers a bootstrap's.
    """
    if not pairs:
        return 0.0, -1.0, 1.0
    before, after = zip(*pairs, strict=True)
    gain = sum(after) / len(after) - sum(before) / len(before)
    if not all(value in (0, 1) for value in (*before, *after)):
        return gain, *points_interval([b - a for a, b in pairs])
    p, q = sum(before) / len(before), sum(after) / len(after)
    (low_p, high_p), (low_q, high_q) = points_interval(before), points_interval(after)
    both = sum(a * b for a, b in pairs) / len(pairs)
    spread = math.sqrt(p * (1 - p) * q * (1 - q))
    phi = (both - p * q) / spread if spread else 0.0  # how alike the answers are
    low = math.hypot(q - low_q, high_p - p) ** 2 - 2 * phi * (q - low_q) * (high_p - p)
    high = math.hypot(high_q - q, p - low_p) ** 2 - 2 * phi * (high_q - q) * (p - low_p)
    return gain, gain - math.sqrt(max(0.0, low)), gain + math.sqrt(max(0.0, high))


@dataclass(frozen=True)
class Difference:
    """How far B is above A, on the items that both answered."""

    difference: float
    """Figure of B minus figure of A."""
    low: float
    high: float
    """95 % interval of the difference."""
    p: float
    """How often a difference at least as large would come about if there were none."""
    n: int
    """Items that both answered."""


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value of McNemar's exact test that two models, asked the same items, are equally often right.

    `a` and `b` are 1 where the answer was right, 0 where not. Only items on which they disagree count: if the models
    were equal, each would win half of those. Source: McNemar 1947, in its exact binomial form.
    """
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(x < y for x, y in zip(a, b, strict=True))
    n, k = only_a + only_b, min(only_a, only_b)
    tail = term = 1  # integers, for 2^n overflows
    for i in range(k):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / 2**n)


def paired_bootstrap(a: Sequence[Answers], b: Sequence[Answers]) -> Difference:
    """The difference of mean centered accuracies, B minus A, of two models asked the same items of the same tasks.

    Each resample draws the same items for both, so what is hard for both does not blur the difference.
    """
    assert [one.points.shape for one in a] == [one.points.shape for one in b], "paired means the same items"
    # Centering is linear, so the difference of centered means is the centered difference, with chance 0 and a scale.
    pairs = [
        Answers((two.points - one.points) / (1 - one.chance), 0.0, one.group)
        for one, two in zip(a, b, strict=True)
    ]
    difference = float(np.mean([pair.points.mean() for pair in pairs]))
    return _difference(difference, _resampled_means(pairs), sum(len(pair.points) for pair in pairs))


def ratio_difference(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> Difference:
    """The difference of two ratios of sums, B minus A, whose parts are pairwise of the same text."""
    assert len(a) == len(b) > 1
    whole_a, whole_b = (np.array(parts).sum(axis=0) for parts in (a, b))
    difference = float(whole_b[0] / whole_b[1] - whole_a[0] / whole_a[1])
    return _difference(difference, _resampled_ratios(b) - _resampled_ratios(a), len(a))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979): of 22 comparisons, one would look real by chance."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


def _resampled_means(tasks: Sequence[Answers]) -> np.ndarray:
    """(RESAMPLES,) mean centered accuracies over items drawn with replacement within each task."""
    total = np.zeros(RESAMPLES)
    groups: dict[tuple[str, int], list[Answers]] = {}
    for task in tasks:
        groups.setdefault((task.group, len(task.points)), []).append(task)
    generator = np.random.default_rng(0)
    for (_, n), members in groups.items():
        if n == 0:
            continue
        scaled = np.sum([(task.points - task.chance) / (1 - task.chance) for task in members], axis=0)
        chunk = max(1, 2_000_000 // n)  # indices held at once: 16 MB
        for start in range(0, RESAMPLES, chunk):
            rows = min(chunk, RESAMPLES - start)
            total[start : start + rows] += scaled[generator.integers(n, size=(rows, n))].mean(axis=1)
    return total / max(1, len(tasks))


def _resampled_ratios(parts: Sequence[tuple[float, float]]) -> np.ndarray:
    """(RESAMPLES,) ratios of sums over parts drawn with replacement, the same for as many parts."""
    drawn = np.random.default_rng(0).integers(len(parts), size=(RESAMPLES, len(parts)))
    sums = np.array(parts)[drawn].sum(axis=1)  # (RESAMPLES, 2)
    return sums[:, 0] / sums[:, 1]


def _difference(difference: float, resampled: np.ndarray, n: int) -> Difference:
    low, high = _percentiles(resampled)
    # Shifted to the hypothesis of no difference; +1, for a p-value of 0 cannot be known from a sample.
    beyond = int((np.abs(resampled - difference) >= abs(difference) - 1e-12).sum())
    return Difference(difference, low, high, (beyond + 1) / (len(resampled) + 1), n)


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
