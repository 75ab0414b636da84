"""The test at the end of reinforcement learning: the same problems, asked of the model before and after.

Each problem is asked of both, so the gain is measured pair by pair, which is more precise than the difference of two
scores. Replies are right or wrong, which makes pass@1, or a graded reward says how good they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatsmith.data.problems import Problem
from chatsmith.evals.statistics import paired_interval, points_interval
from chatsmith.rl.rollouts import is_graded
from chatsmith.runtime.console import Reporter

Pairs = list[tuple[float, float]]
"""Before and after, problem by problem."""


@dataclass(frozen=True)
class BeforeAfter:
    """What the replies before and after were worth, problem by problem; problems whose reward failed are left out."""

    problems: Sequence[Problem]
    before: Sequence[float]
    after: Sequence[float]

    @property
    def is_graded(self) -> bool:
        """Whether the reward is more than right or wrong."""
        return is_graded([*self.before, *self.after])

    def facts(self) -> dict[str, float]:
        """The numbers that come first in the table of results."""
        means = {name: value for name, value in self.to_json().items() if name.endswith(("before", "after"))}
        return {name: round(value, 4) for name, value in means.items()}

    def to_json(self) -> dict[str, Any]:
        """Scores, intervals, the gain, and the same by section; of a graded reward also that of its means."""
        pairs, graded = self._pairs(), self.is_graded
        right = _right(pairs)
        found = {"n": len(self.problems), **(_scores("reward_", pairs) if graded else {})}
        found |= (
            _scores("pass_at_1_", right)
            | _gain("gain", right)
            | (_gain("reward_gain", pairs) if graded else {})
        )
        sections = {
            name: {"n": len(part), **_scores("", part if graded else _right(part))}
            for name, part in self._sections().items()
        }
        return {**found, "sections": sections}

    def show(self, reporter: Reporter) -> None:
        """The table, for people."""
        pairs, rows = self._pairs(), []
        form, scale, unit, what = (".1%", 100, " points", "greedy pass@1")
        if self.is_graded:
            form, scale, unit, what = (".3f", 1, "", "mean reward")
        for name, part in (self._sections() | {"all": pairs}).items():
            found = _scores("", part)
            rows.append([name, f"{found['before']:{form}}", f"{found['after']:{form}}", str(len(part))])
        reporter.table("The test", ["section", "before", "after", "problems"], rows)
        gain, low, high = (f"{scale * value:+{form.replace('%', 'f')}}" for value in paired_interval(pairs))
        reporter.line(f"Gain: {gain}{unit} of {what}, with a 95 % interval from {low} to {high}")
        if failed := len(self.problems) - len(pairs):
            reporter.notice(f"{failed:,} of the problems are left out: their reward could not be computed")

    def _pairs(self, section: str | None = None) -> Pairs:
        """Of the problems (of a section, if one is named) that both are known of."""
        rows = zip(self.problems, self.before, self.after, strict=True)
        of_section = [(before, after) for one, before, after in rows if section in (None, one.section)]
        return [pair for pair in of_section if not any(map(math.isnan, pair))]

    def _sections(self) -> dict[str, Pairs]:
        return {name: self._pairs(name) for name in sorted({problem.section for problem in self.problems})}


def _right(pairs: Pairs) -> Pairs:
    """The same with 1 for right and 0 for wrong."""
    return [(float(before >= 1), float(after >= 1)) for before, after in pairs]


def _scores(prefix: str, pairs: Pairs) -> dict[str, Any]:
    """Means and their 95 % intervals, before and after."""
    found: dict[str, Any] = {}
    for index, when in enumerate(("before", "after")):
        values = [pair[index] for pair in pairs]
        found[f"{prefix}{when}"] = sum(values) / max(1, len(values))
        found[f"{prefix}{when}_interval"] = list(points_interval(values))
    return found


def _gain(name: str, pairs: Pairs) -> dict[str, Any]:
    gain, *interval = paired_interval(pairs)
    return {name: gain, f"{name}_interval": interval}
