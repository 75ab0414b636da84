"""The test at the end of reinforcement learning: the same problems, asked of the model before and after.

Each problem is asked of both, so the gain is measured pair by pair, which is more precise than the difference of two
scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatsmith.data.problems import Problem
from chatsmith.evals.statistics import Z_95, Score
from chatsmith.runtime.logs import Reporter


@dataclass(frozen=True)
class BeforeAfter:
    """What was right before, and what after, problem by problem."""

    problems: Sequence[Problem]
    before: Sequence[bool]
    after: Sequence[bool]

    @property
    def scores(self) -> tuple[Score, Score]:
        """Before and after."""
        return Score(sum(self.before), len(self.before)), Score(sum(self.after), len(self.after))

    @property
    def gain(self) -> tuple[float, float, float]:
        """The gain in pass@1 and its 95 % interval, from the paired differences."""
        n = len(self.problems)
        differences = [after - before for before, after in zip(self.before, self.after, strict=True)]
        mean = sum(differences) / n
        variance = sum((difference - mean) ** 2 for difference in differences) / max(n - 1, 1)
        half_width = Z_95 * math.sqrt(variance / n)
        return mean, mean - half_width, mean + half_width

    def facts(self) -> dict[str, float]:
        """The numbers that come first in the table of results."""
        before, after = self.scores
        return {"pass_at_1_before": round(before.accuracy, 4), "pass_at_1_after": round(after.accuracy, 4)}

    def to_json(self) -> dict[str, Any]:
        """Scores, intervals, the gain, and the same by section."""
        before, after = self.scores
        gain, low, high = self.gain
        return {
            "n": len(self.problems),
            "pass_at_1_before": before.accuracy,
            "pass_at_1_before_interval": list(before.interval),
            "pass_at_1_after": after.accuracy,
            "pass_at_1_after_interval": list(after.interval),
            "gain": gain,
            "gain_interval": [low, high],
            "sections": {name: part._section_json() for name, part in self._sections().items()},
        }

    def show(self, reporter: Reporter) -> None:
        """The table, for people."""
        rows = [
            [name, *(f"{score.accuracy:.1%}" for score in part.scores), str(len(part.problems))]
            for name, part in [*self._sections().items(), ("all", self)]
        ]
        reporter.table("The test", ["section", "before", "after", "problems"], rows)
        gain, low, high = self.gain
        reporter.line(
            f"Gain: {100 * gain:+.1f} points of greedy pass@1, with a 95 % interval from {100 * low:+.1f} "
            f"to {100 * high:+.1f}"
        )

    def _sections(self) -> "dict[str, BeforeAfter]":
        parts: dict[str, BeforeAfter] = {}
        for name in sorted({problem.section for problem in self.problems}):
            indices = [index for index, problem in enumerate(self.problems) if problem.section == name]
            parts[name] = BeforeAfter(
                [self.problems[index] for index in indices],
                [self.before[index] for index in indices],
                [self.after[index] for index in indices],
            )
        return parts

    def _section_json(self) -> dict[str, Any]:
        before, after = self.scores
        return {
            "n": len(self.problems),
            "before": before.accuracy,
            "before_interval": list(before.interval),
            "after": after.accuracy,
            "after_interval": list(after.interval),
        }
