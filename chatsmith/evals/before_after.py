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
    def name(self) -> str:
        """Of the score, in files."""
        return "reward" if self.is_graded else "pass_at_1"

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Before and after, of the problems that both are known of."""
        pairs = zip(self.before, self.after, strict=True)
        return [pair for pair in pairs if not any(map(math.isnan, pair))]

    @property
    def gain(self) -> tuple[float, float, float]:
        """The gain and its 95 % interval, from the pairs."""
        return paired_interval(self.pairs)

    def facts(self) -> dict[str, float]:
        """The numbers that come first in the table of results."""
        found = self._scores(self.name)
        return {f"{self.name}_{when}": round(found[f"{self.name}_{when}"], 4) for when in ("before", "after")}

    def to_json(self) -> dict[str, Any]:
        """Scores, intervals, the gain, and the same by section."""
        gain, low, high = self.gain
        return {
            "n": len(self.pairs),
            **self._scores(self.name),
            "gain": gain,
            "gain_interval": [low, high],
            "sections": {
                name: {"n": len(part.pairs), **part._scores("")} for name, part in self._sections().items()
            },
        }

    def show(self, reporter: Reporter) -> None:
        """The table, for people."""
        rows = []
        for name, part in [*self._sections().items(), ("all", self)]:
            found = part._scores("")
            ends = (f"{_number(found[when], self.is_graded)}" for when in ("before", "after"))
            rows.append([name, *ends, str(len(part.pairs))])
        reporter.table("The test", ["section", "before", "after", "problems"], rows)
        scale, unit, what = (1, "", "mean reward") if self.is_graded else (100, " points", "greedy pass@1")
        gain, low, high = (f"{scale * value:+.{3 if self.is_graded else 1}f}" for value in self.gain)
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

    def _scores(self, name: str) -> dict[str, Any]:
        """Means and their 95 % intervals, under `name` and when."""
        found: dict[str, Any] = {}
        for index, when in enumerate(("before", "after")):
            values, key = [pair[index] for pair in self.pairs], f"{name}_{when}".removeprefix("_")
            found |= {
                key: sum(values) / max(1, len(values)),
                f"{key}_interval": list(points_interval(values)),
            }
        return found


def _number(value: float, is_graded: bool) -> str:
    return f"{value:.3f}" if is_graded else f"{value:.1%}"
