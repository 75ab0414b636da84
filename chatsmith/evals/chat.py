"""The chat suite: what a model that holds conversations knows and can do, task by task; ChatCORE is their mean.

Two kinds of tasks. Questions with lettered choices are decided by which letter is likeliest after the prompt. Problems
are answered by writing, with the calculator at hand, and decided by their own rules (a number, tests of a program in
the sandbox, letters).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from chatsmith.evals.core import decided, notes_on_file
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.exam import answered, choose_problems
from chatsmith.evals.results import NANOCHAT, TaskResult
from chatsmith.evals.scoring import Passage
from chatsmith.evals.statistics import pass_at_k, points_interval
from chatsmith.tasks import benchmark_files, gsm8k, humaneval, multiple_choice, spelling
from chatsmith.tasks.multiple_choice import LetterQuestion
from chatsmith.text.chat import render_prompt
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.worlds.kindergarten.world import spelling_words

OWN = ("spelling",)
"""Tasks without a fixed wording in nanochat."""


@dataclass(frozen=True)
class ChatTask:
    """A task of questions with lettered choices, or of problems that are answered by writing."""

    name: str
    files: Mapping[str, str]
    """The splits it has, and their files in the benchmarks' folder."""
    load: Callable[[str, Path], list[Any]]
    """Its questions (`LetterQuestion`) or problems, from a split and the benchmarks' folder."""
    max_tokens: int = 0
    """Longer replies are cut. 0: nothing is written, the likeliest letter counts."""
    are_programs: bool = False
    """Whether replies are run, in the sandbox; then several tries a problem make sense: pass@k."""
    method: int = 1
    """Raised when the task's scores come to mean something else, so that it is measured again."""


_LOADERS: dict[str, Callable[[str, Path], list[Any]]] = {
    "arc_easy": partial(multiple_choice.arc_questions, "easy"),
    "arc_challenge": partial(multiple_choice.arc_questions, "challenge"),
    "mmlu": multiple_choice.mmlu_questions,
    "gsm8k": gsm8k.gsm8k_problems,
    "humaneval": humaneval.humaneval_problems,
    "spelling": lambda split, folder: spelling.spelling_problems(split, folder, spelling_words()),
}
TASKS = tuple(ChatTask(name, load=_LOADERS[name], **entry) for name, entry in benchmark_files.TASKS.items())


def measure_letters(evaluation: Evaluation, task: ChatTask) -> TaskResult:
    """The score of a task of lettered questions. Raises UserError if its file is not there."""
    tokenizer, length = evaluation.bundle.tokenizer, evaluation.scorer.context_length
    questions = choose_problems(task.load(evaluation.part, evaluation.benchmarks), evaluation.max_examples)
    mine = [replace(question, wording=evaluation.prompts) for question in evaluation.share(questions)]
    passages = (letter_passages(question, tokenizer, length) for question in mine)
    golds = [question.gold for question in mine]
    ids = [question.id for question in questions]
    path = task.files[evaluation.part]
    result = decided(evaluation, task.name, path, "multiple choice", passages, golds, ids)
    return replace(result, chance=multiple_choice.chance(questions))


def letter_passages(
    question: LetterQuestion, tokenizer: Tokenizer, context_length: int
) -> tuple[Passage, ...]:
    """The prompt with each of the letters as the reply's first token. A long prompt loses its beginning."""
    whole = render_prompt(question.messages, tokenizer)
    prompt = whole[-(context_length - 1) :]
    # A reply has no space before its first word, and a single byte is always a token.
    ids = [tokenizer.encode(letter)[0] for letter in question.letters]
    return tuple(Passage((*prompt, id), len(prompt), len(prompt) < len(whole)) for id in ids)


def measure_written(evaluation: Evaluation, task: ChatTask) -> TaskResult:
    """The score of a task of problems: pass@1, and pass@k if there are several tries. Raises UserError if its file is
    not there."""
    problems = choose_problems(task.load(evaluation.part, evaluation.benchmarks), evaluation.max_examples)
    if evaluation.prompts == NANOCHAT:  # which asks GSM8K as it is
        problems = list(map(humaneval.prompt_alone, problems))
    tries = evaluation.tries if task.are_programs else 1
    replies, seconds = answered(evaluation, problems, task.name, task.max_tokens, tries)
    tried = [replies[start : start + tries] for start in range(0, len(replies), tries)]
    num_right = [sum(reply["correct"] for reply in group) for group in tried]
    return TaskResult(
        task=task.name,
        ids=tuple(problem.id for problem in problems),
        points=tuple(pass_at_k(tries, number, 1) for number in num_right),
        chance=0.0,
        seconds=seconds,
        notes=notes_on_file(evaluation, task.files[evaluation.part]),
        transcript=tuple(replies),
        figures=_pass_at_more(tries, num_right),
    )


def _pass_at_more(tries: int, num_right: Sequence[int]) -> dict[str, float]:
    """pass@10 and pass@100, as far as there are so many tries, with 95 % intervals; `num_right` has one number a
    problem."""
    figures = {}
    for k in (10, 100):
        if k <= tries and num_right:
            points = [pass_at_k(tries, number, k) for number in num_right]
            low, high = points_interval(points)
            figures |= {f"pass@{k}": sum(points) / len(points), f"pass@{k} low": low, f"pass@{k} high": high}
    return figures
