"""The chat suite: what a model that holds conversations knows and can do, task by task; ChatCORE is their mean.

Two kinds of tasks. Questions with lettered choices are decided by which letter is likeliest after the prompt. Problems
are answered by writing, with the calculator at hand, and decided by their own rules (a number, tests of a program in
the sandbox, letters). It reads the benchmarks' folder and writes nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatsmith.data.problems import Problem
from chatsmith.engine.engine import Engine
from chatsmith.evals.exam import choose_problems, run_exam
from chatsmith.evals.passages import Passage, Scorer, decide
from chatsmith.evals.ranks import collect, share
from chatsmith.evals.statistics import pass_at_k, points_interval
from chatsmith.evals.task_result import TaskResult, notes_on
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.tasks import arc, gsm8k, humaneval, letters, mmlu, spelling
from chatsmith.tasks.letters import LetterQuestion
from chatsmith.tasks.splits import Splits
from chatsmith.text.chat import render_prompt
from chatsmith.text.tokenizer import Tokenizer

KINDERGARTEN = "kindergarten"
"""What its exam is called as a task of the suite."""

TRIES_TEMPERATURE = 0.8
"""At which several tries a problem are drawn, as in the HumanEval paper."""


@dataclass(frozen=True)
class LetterTask:
    """A task of questions with lettered choices."""

    name: str
    splits: Splits
    path: Callable[[str], str]
    """The file of a split in the benchmarks' folder."""
    load: Callable[[str, Path], list[LetterQuestion]]


@dataclass(frozen=True)
class WrittenTask:
    """A task of problems that are answered by writing."""

    name: str
    splits: Splits
    path: Callable[[str], str]
    load: Callable[[str, Path], list[Problem]]
    max_tokens: int
    """Longer replies are cut."""
    needs_sandbox: bool = False
    may_try_again: bool = False
    """Whether several tries a problem make sense: pass@k."""


LETTER_TASKS = (
    LetterTask(
        "arc_easy",
        arc.SPLITS,
        lambda split: arc.arc_path("easy", split),
        lambda split, folder: arc.arc_questions("easy", split, folder),
    ),
    LetterTask(
        "arc_challenge",
        arc.SPLITS,
        lambda split: arc.arc_path("challenge", split),
        lambda split, folder: arc.arc_questions("challenge", split, folder),
    ),
    LetterTask("mmlu", mmlu.SPLITS, mmlu.mmlu_path, mmlu.mmlu_questions),
)

WRITTEN_TASKS = (
    WrittenTask("gsm8k", gsm8k.SPLITS, gsm8k.gsm8k_path, gsm8k.gsm8k_problems, max_tokens=320),
    WrittenTask(
        "humaneval",
        humaneval.SPLITS,
        lambda _: humaneval.PATH,
        lambda _, folder: humaneval.humaneval_problems(folder),
        max_tokens=512,
        needs_sandbox=True,
        may_try_again=True,
    ),
    WrittenTask(
        "spelling", spelling.SPLITS, lambda _: spelling.PATH, spelling.spelling_problems, max_tokens=160
    ),
)


def measure_letters(
    scorer: Scorer,
    tokenizer: Tokenizer,
    task: LetterTask,
    split: str,
    folder: Path,
    *,
    max_examples: int | None,
    runtime: Runtime,
    reporter: Reporter,
) -> TaskResult:
    """The score of a task of lettered questions. Raises UserError if its file is not there."""
    questions = choose_problems(task.load(split, folder), max_examples)
    started = time.perf_counter()
    mine = share(questions, runtime)
    with reporter.progress(task.name, len(mine), "questions") as bar:
        passages = (letter_passages(question, tokenizer, scorer.context_length) for question in mine)
        scores = scorer.score(passages, lambda _: bar.advance(1))
    points = [
        float(decide("multiple choice", found, question.gold).is_right)
        for question, found in zip(mine, scores, strict=True)
    ]
    cropped = [
        len(render_prompt(question.messages, tokenizer)) >= scorer.context_length for question in questions
    ]
    return TaskResult(
        task=task.name,
        ids=tuple(question.id for question in questions),
        points=tuple(collect(points, len(questions), runtime)),
        chance=letters.chance(questions),
        seconds=time.perf_counter() - started,
        notes=notes_on(folder, task.path(split), sum(cropped), len(cropped)),
    )


def letter_passages(
    question: LetterQuestion, tokenizer: Tokenizer, context_length: int
) -> tuple[Passage, ...]:
    """The prompt with each of the letters as the reply's first token. A long prompt loses its beginning."""
    prompt = render_prompt(question.messages, tokenizer)[-(context_length - 1) :]
    passages = []
    for letter in question.letters:
        # A reply has no space before its first word, and a single byte is always a token.
        (id,) = tokenizer.encode(letter)
        passages.append(Passage((*prompt, id), len(prompt)))
    return tuple(passages)


def measure_written(
    engine: Engine,
    tokenizer: Tokenizer,
    task: WrittenTask,
    split: str,
    folder: Path,
    *,
    max_examples: int | None,
    tries: int,
    runtime: Runtime,
    reporter: Reporter,
) -> TaskResult:
    """The score of a task of problems: pass@1, and pass@k if there are several tries. Raises UserError if its file is
    not there."""
    problems = choose_problems(task.load(split, folder), max_examples)
    tries = tries if task.may_try_again else 1
    mine = share(problems, runtime)
    result = run_exam(
        engine,
        mine,
        tokenizer,
        reporter=reporter,
        max_tokens=task.max_tokens,
        label=task.name,
        tries=tries,
        temperature=TRIES_TEMPERATURE if tries > 1 else 0.0,
    )
    replies = result.transcript()
    grouped = [replies[start : start + tries] for start in range(0, len(replies), tries)]
    transcript = collect(grouped, len(problems), runtime)
    numbers = [sum(reply["correct"] for reply in group) for group in transcript]
    return TaskResult(
        task=task.name,
        ids=tuple(problem.id for problem in problems),
        points=tuple(pass_at_k(tries, number, 1) for number in numbers),
        chance=0.0,
        seconds=result.seconds,
        notes=notes_on(folder, task.path(split), 0, 0),
        transcript=tuple(reply for group in transcript for reply in group),
        figures=_figures(tries, numbers),
    )


def _figures(tries: int, numbers: Sequence[int]) -> dict[str, float]:
    """pass@10 and pass@100, as far as there are so many tries, with 95 % intervals, from how many tries at each problem
    were right."""
    figures = {}
    for k in (10, 100):
        if k <= tries and numbers:
            points = [pass_at_k(tries, number, k) for number in numbers]
            low, high = points_interval(points)
            figures |= {f"pass@{k}": sum(points) / len(points), f"pass@{k} low": low, f"pass@{k} high": high}
    return figures


def exam_as_task(name: str, replies: Sequence[dict[str, Any]], seconds: float) -> TaskResult:
    """A finished exam, from its transcript, as one task of the suite."""
    return TaskResult(
        task=name,
        ids=tuple(reply["id"] for reply in replies),
        points=tuple(float(reply["correct"]) for reply in replies),
        chance=0.0,
        seconds=seconds,
    )
