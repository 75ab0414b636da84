"""The test sets as plain texts, for finding them in what a model learns from."""

from pathlib import Path

from chatsmith.evals.leakage import TestSet
from chatsmith.tasks import arc, core, gsm8k, humaneval, mmlu
from chatsmith.tasks.benchmark_files import has_file
from chatsmith.tasks.core import CoreTask, Item
from chatsmith.tasks.letters import LetterQuestion
from chatsmith.worlds.kindergarten import Kindergarten


def find_test_sets(folder: Path) -> list[TestSet]:
    """Every set of items that scores are reported on: the benchmarks whose files are in `folder`, and the
    kindergarten's exam."""
    found = []
    for task in {task.file: task for task in core.TASKS}.values():
        if has_file(folder, task.path):
            texts = tuple(_core_text(task, item) for item in core.core_items(task, folder))
            found.append(TestSet(f"core/{task.file.rpartition('/')[2]}", texts))
    for level in ("easy", "challenge"):
        if has_file(folder, arc.arc_path(level, "test")):
            found.append(TestSet(f"arc_{level}", _letter_texts(arc.arc_questions(level, "test", folder))))
    if has_file(folder, mmlu.mmlu_path("test")):
        found.append(TestSet("mmlu", _letter_texts(mmlu.mmlu_questions("test", folder))))
    if has_file(folder, gsm8k.gsm8k_path("test")):
        problems = gsm8k.gsm8k_problems("test", folder)
        found.append(TestSet("gsm8k", tuple(problem.messages[0].text for problem in problems)))
    if has_file(folder, humaneval.PATH):
        problems = humaneval.humaneval_problems(folder)
        found.append(
            TestSet(
                "humaneval", tuple(f"{problem.messages[0].text}\n{problem.answer}" for problem in problems)
            )
        )
    exam = Kindergarten().problems("exam")
    texts = tuple(" ".join([*(message.text for message in one.messages), one.answer]) for one in exam)
    return [*found, TestSet("kindergarten exam", texts)]


def _core_text(task: CoreTask, item: Item) -> str:
    match task.kind:
        case "multiple choice":
            return f"{item['query']} {item['choices'][item['gold']]}"
        case "schema":
            return f"{item['context_options'][item['gold']]} {item['continuation']}"
        case "language modelling":
            return f"{item['context']} {item['continuation']}"


def _letter_texts(questions: list[LetterQuestion]) -> tuple[str, ...]:
    return tuple(" ".join([question.question, *question.choices]) for question in questions)
