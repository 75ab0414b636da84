"""CORE of a model: each of the 22 tasks decided by a scorer, item by item.

The items, prompts and examples are those of `tasks.core`; here they become passages and decisions.
"""

import time
from collections.abc import Iterator, Sequence

from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import TaskResult
from chatsmith.evals.scoring import Decision, Question, Scorer, decide_all, make_question
from chatsmith.runtime.console import Bar
from chatsmith.tasks.benchmark_files import find_file, note_about
from chatsmith.tasks.core import CoreTask, Item, core_items, prompts

_ITEMS_AT_ONCE = 32


def measure_core_task(evaluation: Evaluation, task: CoreTask) -> TaskResult:
    """Decide the items of a task, or the first `max_examples` of the fixed order, each with the examples it has in the
    whole task. Raises UserError if the file is not there."""
    items = core_items(task, evaluation.benchmarks)
    indices = range(len(items))[: evaluation.max_examples]
    started = time.perf_counter()
    mine = evaluation.share(indices)
    with evaluation.reporter.progress(task.name, len(mine), "items") as bar:
        decisions = decide_items(evaluation.scorer, task, items, mine, bar)
    points, notes = points_and_notes(evaluation, task.path, decisions, len(indices))
    seconds = time.perf_counter() - started
    ids = tuple(map(str, indices))
    return TaskResult(task.name, ids, points, task.chance, seconds, notes, group=task.file)


def points_and_notes(
    evaluation: Evaluation, path: str, decisions: Sequence[Decision], total: int
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The points of all `total` items, of which the decisions are this process's share; and what a reader of the score
    must know: about the file `path` of the items, and about prompts that did not fit."""
    pairs = [(float(decision.is_right), decision.was_cropped) for decision in decisions]
    points, cropped = zip(*evaluation.collect(pairs, total), strict=True)
    notes = notes_on_file(evaluation, path)
    if any(cropped):
        # By tenths, so that tasks that lose about as much share a line.
        share = "all" if all(cropped) else f"about {max(1, round(10 * sum(cropped) / total))}0 %"
        notes += (f"{share} of the prompts are longer than the context and lost their beginning",)
    return points, notes


def notes_on_file(evaluation: Evaluation, path: str) -> tuple[str, ...]:
    """What a reader of a score must know about the file of the items, if anything."""
    note = note_about(find_file(evaluation.benchmarks, path), path)
    return (note,) if note else ()


def decide_items(
    scorer: Scorer, task: CoreTask, items: Sequence[Item], indices: Sequence[int], bar: Bar
) -> list[Decision]:
    """What becomes of each of these items."""
    questions = questions_of(scorer, task, items, indices)
    return decide_all(scorer, task.kind, questions, [items[index].get("gold") for index in indices], bar)


def questions_of(
    scorer: Scorer, task: CoreTask, items: Sequence[Item], indices: Sequence[int]
) -> Iterator[Question]:
    """The passages of these items, made as they are asked for."""
    for start in range(0, len(indices), _ITEMS_AT_ONCE):
        texts = [prompts(task, items, index) for index in indices[start : start + _ITEMS_AT_ONCE]]
        encoded = iter(scorer.encode([text for group in texts for text in group]))
        for group in texts:
            ids = [[scorer.bos_id, *next(encoded)] for _ in group]
            yield make_question(task.kind, ids, scorer.context_length)
