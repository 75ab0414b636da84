"""Two models side by side on what both were asked: is the difference real, or could it be luck?

Paired, item by item: McNemar's exact test for a task, a paired bootstrap for a mean over tasks and for bits per byte.
Many tasks make some difference look real by chance, so their p-values are corrected for their number. It reads result
files that `evaluate` has written, and measures nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from chatsmith.evals.results import TaskResult
from chatsmith.evals.statistics import Difference, holm, mcnemar, paired_bootstrap, ratio_difference

LEVEL = 0.05
"""A difference is called real if chance would bring it about less often than this."""


@dataclass(frozen=True)
class Comparison:
    """One line of the table."""

    name: str
    a: float
    """A's figure on the items both answered."""
    b: float
    difference: Difference
    is_corrected: bool = False
    """Whether p is corrected for the number of comparisons."""
    higher_is_better: bool = True

    @property
    def is_real(self) -> bool:
        """Whether luck is an unlikely explanation."""
        return self.difference.p < LEVEL

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if not self.is_real:
            return "no difference seen"
        return "B is better" if (self.difference.difference > 0) == self.higher_is_better else "A is better"

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --compare … --json` prints of it."""
        return {"a": self.a, "b": self.b, **asdict(self.difference), "verdict": self.verdict}


def compare_tasks(a: Sequence[TaskResult], b: Sequence[TaskResult]) -> list[Comparison]:
    """A line for each task that both have, with p-values corrected together."""
    lines = []
    for one, two in _common(a, b):
        paired = paired_bootstrap(*([replace(task.answers(), chance=0.0)] for task in (one, two)))
        is_exact = all(point in (0, 1) for point in (*one.points, *two.points))
        p = mcnemar(one.points, two.points) if is_exact else paired.p
        lines.append(Comparison(one.task, one.accuracy, two.accuracy, replace(paired, p=p)))
    corrected = holm([line.difference.p for line in lines])
    return [
        replace(line, difference=replace(line.difference, p=p), is_corrected=True)
        for line, p in zip(lines, corrected, strict=True)
    ]


def compare_means(name: str, a: Sequence[TaskResult], b: Sequence[TaskResult]) -> Comparison | None:
    """The mean centered accuracies (CORE, ChatCORE) over the tasks both have; None if there is none."""
    common = _common(a, b)
    if not common:
        return None
    difference = paired_bootstrap([one.answers() for one, _ in common], [two.answers() for _, two in common])
    means = [float(np.mean([task.centered for task in side])) for side in zip(*common, strict=True)]
    return Comparison(name, means[0], means[1], difference)


def compare_text(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> Comparison | None:
    """Bits per byte, from the parts of the text; None if they were not measured on the same text in the same parts,
    as when the tokenizers or contexts differ."""
    if len(a) < 2 or [part["bytes"] for part in a] != [part["bytes"] for part in b]:
        return None
    one, two = ([(part["bits"], float(part["bytes"])) for part in side] for side in (a, b))
    figures = [sum(bits for bits, _ in side) / sum(size for _, size in side) for side in (one, two)]
    return Comparison(
        "bits per byte", figures[0], figures[1], ratio_difference(one, two), higher_is_better=False
    )


def on_different_files(a: Sequence[TaskResult], b: Sequence[TaskResult]) -> list[str]:
    """Tasks that both have, but whose items are from different files, e.g. a subset and the published one: they have
    no items in common, whatever those are called."""
    others = {task.task: task.file for task in b}
    return [task.task for task in a if others.get(task.task, task.file) != task.file]


def _common(a: Sequence[TaskResult], b: Sequence[TaskResult]) -> list[tuple[TaskResult, TaskResult]]:
    """The tasks both have on the same file, cut down to the items both answered, in one order."""
    others = {task.task: task for task in b}
    pairs = []
    for one in a:
        two = others.get(one.task)
        shared = set(one.ids) & set(two.ids) if two and one.file == two.file else set()
        if two and shared:
            kept = [id for id in one.ids if id in shared]
            pairs.append((_only(one, kept), _only(two, kept)))
    return pairs


def _only(task: TaskResult, ids: Sequence[str]) -> TaskResult:
    point_of = dict(zip(task.ids, task.points, strict=True))
    return replace(task, ids=tuple(ids), points=tuple(point_of[id] for id in ids), transcript=())
