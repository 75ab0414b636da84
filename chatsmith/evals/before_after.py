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

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Before and after, of the problems that both are known of."""
        pairs = zip(self.before, self.after, strict=True)
        return [pair for pair in pairs if not any(map(math.isnan, pair))]

    @property
    def right(self) -> "BeforeAfter":
        """The same with 1 for right and 0 for wrong."""
        before, after = ([float(one >= 1) for one in column] for column in (self.before, self.after))
        return BeforeAfter(self.problems, before, after)

    def facts(self) -> dict[str, float]:
        """The numbers that come first in the table of results."""
        return {name: round(value, 4) for name, value in self._named().items() if isinstance(value, float)}

    def to_json(self) -> dict[str, Any]:
        """Scores, intervals, the gain, and the same by section; of a graded reward also that of its means."""
        found = {"n": len(self.problems), **self._named(), **_gains("gain", self.right)}
        if self.is_graded:
            found |= _gains("reward_gain", self)
        sections = {
            name: {"n": len(part.pairs), **(part if self.is_graded else part.right).scores("")}
            for name, part in self._sections().items()
        }
        return {**found, "sections": sections}

    def _named(self) -> dict[str, Any]:
        means = self.scores("reward_") if self.is_graded else {}
        return means | self.right.scores("pass_at_1_")

    def show(self, reporter: Reporter) -> None:
        """The table, for people."""
        rows = []
        for name, part in [*self._sections().items(), ("all", self)]:
            found = part.scores("")
            ends = (f"{_number(found[when], self.is_graded)}" for when in ("before", "after"))
            rows.append([name, *ends, str(len(part.pairs))])
        reporter.table("The test", ["section", "before", "after", "problems"], rows)
        scale, unit, what = (1, "", "mean reward") if self.is_graded else (100, " points", "greedy pass@1")
        gain, low, high = (
            f"{scale * value:+.{3 if self.is_graded else 1}f}" for value in paired_interval(self.pairs)
        )
        reporter.line(f"Gain: {gain}{unit} of {what}, with a 95 % interval from {low} to {high}")
        if failed := len(self.problems) - len(self.pairs):
            reporter.notice(f"{failed:,} of the problems are left out: their reward could not be computed")

    def _sections(self) -> "dict[str, BeforeAfter]":
        parts: dict[str, BeforeAfter] = {}
        for name in sorted({problem.section for problem in self.problems}):
            indices = [index for index, problem in enumerate(self.problems) if problem.section == name]
            columns = ([column[index] for index in indices] for column in (self.before, self.after))
            parts[name] = BeforeAfter([self.problems[index] for index in indices], *columns)
        return parts

    def scores(self, prefix: str) -> dict[str, Any]:
        """Means and their 95 % intervals, before and after."""
        found: dict[str, Any] = {}
        for index, when in enumerate(("before", "after")):
            values = [pair[index] for pair in self.pairs]
            mean, interval = sum(values) / max(1, len(values)), list(points_interval(values))
            found |= {f"{prefix}{when}": mean, f"{prefix}{when}_interval": interval}
        return found


def _gains(name: str, tested: BeforeAfter) -> dict[str, Any]:
    gain, *interval = paired_interval(tested.pairs)
    return {name: gain, f"{name}_interval": interval}


def _number(value: float, is_graded: bool) -> str:
    return f"{value:.3f}" if is_graded else f"{value:.1%}"
