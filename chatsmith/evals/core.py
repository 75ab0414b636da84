"""CORE of a model: each of the 22 tasks decided by a scorer, item by item.

The items, prompts and examples are those of `tasks.core`; here they become passages and decisions.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import TaskResult
from chatsmith.evals.scoring import Question, Scorer, decide_all, make_question
from chatsmith.tasks.benchmark_files import find_file, note_about
from chatsmith.tasks.core import CoreTask, Item, Kind, core_items, prompts

_ITEMS_AT_ONCE = 32


def measure_core_task(evaluation: Evaluation, task: CoreTask) -> TaskResult:
    """Decide the items of a task, or the first `max_examples` of the fixed order, each with the examples it has in the
    whole task. Raises UserError if the file is not there."""
    items = core_items(task, evaluation.benchmarks)
    indices = range(len(items))[: evaluation.max_examples]
    mine = evaluation.share(indices)
    questions = questions_of(evaluation.scorer, task, items, mine)
    golds = [items[index].get("gold") for index in mine]
    result = decided(evaluation, task.name, task.path, task.kind, questions, golds, [*map(str, indices)])
    return replace(result, chance=task.chance, group=task.file)


def decided(
    evaluation: Evaluation,
    name: str,
    path: str,
    kind: Kind,
    questions: Iterable[Question],
    golds: Sequence[int | None],
    ids: Sequence[str],
) -> TaskResult:
    """The result of the items `ids` of a task, which are from the file `path`; `questions` and `golds` are this
    process's share of them. Its notes say what a reader of the score must know: about the file of the items, and about
    prompts that did not fit."""
    scorer, started = evaluation.scorer, time.perf_counter()
    with evaluation.reporter.progress(name, len(golds), "items") as bar:
        decisions = decide_all(scorer, kind, questions, golds, bar)
    pairs = [(float(decision.is_right), decision.was_cropped) for decision in decisions]
    points, cropped = zip(*evaluation.collect(pairs, len(ids)), strict=True)
    notes = notes_on_file(evaluation, path)
    if any(cropped):
        # By tenths, so that tasks that lose about as much share a line.
        share = "all" if all(cropped) else f"about {max(1, round(10 * sum(cropped) / len(ids)))}0 %"
        notes += (f"{share} of the prompts are longer than the context and lost their beginning",)
    return TaskResult(name, tuple(ids), points, 0.0, time.perf_counter() - started, notes)


def notes_on_file(evaluation: Evaluation, path: str) -> tuple[str, ...]:
    """What a reader of a score must know about the file of the items, if anything."""
    note = note_about(find_file(evaluation.benchmarks, path), path)
    return (note,) if note else ()


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
