"""CORE of a model: each of the 22 tasks decided by a scorer, item by item, and what is known of the files.

The items, prompts and examples are those of `tasks.core`; here they become passages and decisions. It reads the
benchmarks' folder and writes nothing.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from chatsmith.evals.passages import Decision, Question, Scorer, decide, make_question
from chatsmith.evals.ranks import collect, share
from chatsmith.evals.task_result import TaskResult, notes_on
from chatsmith.runtime.console import Bar, Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.tasks.core import CoreTask, Item, core_items, prompts

_ITEMS_AT_ONCE = 32


def measure_core_task(
    scorer: Scorer,
    task: CoreTask,
    folder: Path,
    *,
    max_examples: int | None,
    runtime: Runtime,
    reporter: Reporter,
) -> TaskResult:
    """Decide the items of a task, at most `max_examples` (None: all): the first ones of the fixed order, with the
    examples they have in the whole task. Raises UserError if the file is not there."""
    items = core_items(task, folder)
    indices = range(len(items))[:max_examples]
    started = time.perf_counter()
    mine = share(indices, runtime)
    with reporter.progress(task.name, len(mine), "items") as bar:
        decisions = decide_items(scorer, task, items, mine, bar)
    points = collect([float(decision.is_right) for decision in decisions], len(indices), runtime)
    cropped = collect([decision.was_cropped for decision in decisions], len(indices), runtime)
    return TaskResult(
        task=task.name,
        ids=tuple(str(index) for index in indices),
        points=tuple(points),
        chance=task.chance,
        seconds=time.perf_counter() - started,
        notes=notes_on(folder, task.path, sum(cropped), len(cropped)),
        group=task.file,
    )


def decide_items(
    scorer: Scorer, task: CoreTask, items: Sequence[Item], indices: Sequence[int], bar: Bar
) -> list[Decision]:
    """What becomes of each of these items."""
    cropped: list[bool] = []

    def noted() -> Iterator[Question]:
        for question in questions_of(scorer, task, items, indices):
            cropped.append(any(passage.is_cropped for passage in question))
            yield question

    scores = scorer.score(noted(), lambda _: bar.advance(1))
    return [
        replace(decide(task.kind, found, items[index].get("gold")), was_cropped=was_cropped)
        for index, found, was_cropped in zip(indices, scores, cropped, strict=True)
    ]


def questions_of(
    scorer: Scorer, task: CoreTask, items: Sequence[Item], indices: Sequence[int]
) -> Iterator[Question]:
    for start in range(0, len(indices), _ITEMS_AT_ONCE):
        texts = [prompts(task, items, index) for index in indices[start : start + _ITEMS_AT_ONCE]]
        encoded = iter(scorer.encode([text for group in texts for text in group]))
        for group in texts:
            ids = [[scorer.bos_id, *next(encoded)] for _ in group]
            yield make_question(task.kind, ids, scorer.context_length)
