"""The test at the end of reinforcement learning: the same problems, greedy, before and after.

Each problem is asked of both models, so the gain is measured pair by pair, which is surer than the difference of two
scores. Goes to `<run>/evals/rl.json`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatsmith.data.problems import Problem
from chatsmith.evals.statistics import Z_95, Score
from chatsmith.rl.rollouts import Roller
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_numbers
from chatsmith.runtime.run_directory import RunDirectory


def ask_test(roller: Roller, problems: Sequence[Problem], runtime: Runtime) -> list[bool]:
    """Which problems are solved by one greedy reply each; the processes share them."""
    mine = range(runtime.rank, len(problems), runtime.world_size)
    groups = roller.answer([problems[place] for place in mine])
    right = dict.fromkeys(map(str, range(len(problems))), 0.0)
    right |= {str(place): float(group.num_right) for place, group in zip(mine, groups, strict=True)}
    return [value > 0 for value in sum_numbers(right, runtime).values()]


@dataclass(frozen=True)
class TestResult:
    """What was right before, and what after, problem by problem."""

    __test__ = False  # pytest would take the name for tests

    problems: Sequence[Problem]
    before: Sequence[bool]
    after: Sequence[bool]

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
        """The figures that come first in the table of results."""
        before, after = _score(self.before), _score(self.after)
        return {"pass_at_1_before": round(before.accuracy, 4), "pass_at_1_after": round(after.accuracy, 4)}

    def to_json(self) -> dict[str, Any]:
        """Scores, intervals, the gain, and the same by section."""
        before, after = _score(self.before), _score(self.after)
        gain, low, high = self.gain
        return {
            "n": len(self.problems),
            "pass_at_1_before": before.accuracy,
            "pass_at_1_before_interval": list(before.interval),
            "pass_at_1_after": after.accuracy,
            "pass_at_1_after_interval": list(after.interval),
            "gain": gain,
            "gain_interval": [low, high],
            "sections": {name: part._sections_json() for name, part in self._sections().items()},
        }

    def show(self, reporter: Reporter) -> None:
        """The table, for people."""
        rows = [
            [
                name,
                *(f"{_score(right).accuracy:.1%}" for right in (part.before, part.after)),
                str(len(part.problems)),
            ]
            for name, part in [*self._sections().items(), ("all", self)]
        ]
        reporter.table("The test", ["section", "before", "after", "problems"], rows)
        gain, low, high = self.gain
        reporter.line(
            f"Gain: {100 * gain:+.1f} points of greedy pass@1, with 95 % certainty between {100 * low:+.1f} "
            f"and {100 * high:+.1f}"
        )

    def _sections(self) -> "dict[str, TestResult]":
        names = sorted({problem.section for problem in self.problems})
        parts: dict[str, TestResult] = {}
        for name in names:
            places = [place for place, problem in enumerate(self.problems) if problem.section == name]
            parts[name] = TestResult(
                [self.problems[place] for place in places],
                [self.before[place] for place in places],
                [self.after[place] for place in places],
            )
        return parts

    def _sections_json(self) -> dict[str, Any]:
        before, after = _score(self.before), _score(self.after)
        return {
            "n": len(self.problems),
            "before": before.accuracy,
            "before_interval": list(before.interval),
            "after": after.accuracy,
            "after_interval": list(after.interval),
        }


def write_test(
    run: RunDirectory, key: str, result: TestResult, *, task: str, seed: int, facts: dict[str, float]
) -> Path:
    """Write `<run>/evals/rl.json`, atomically; returns its path."""
    path = run.evals / "rl.json"
    content = {"key": key, "task": task, "seed": seed, **result.to_json(), "facts": facts}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def _score(right: Sequence[bool]) -> Score:
    return Score(sum(right), len(right))
