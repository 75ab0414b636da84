"""The suites: each is measured task by task, and what is known is not measured again.

`base` is bits per byte, `core` the 22 tasks of CORE, `chat` what a model that holds conversations can do, `exam` the
kindergarten's. Each task's result is written as soon as it is there, so an interrupted suite goes on with the next
task. With several processes each works on a part of the items, and the main one writes.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from chatsmith.bundle import Bundle
from chatsmith.data.dataset import file_sha256
from chatsmith.evals import chat, results
from chatsmith.evals.bpb import measure_text
from chatsmith.evals.chat import ChatTask
from chatsmith.evals.core import measure_core_task
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.exam import exam_problems, measure_exam
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import gathered
from chatsmith.runtime.errors import UserError
from chatsmith.tasks import core
from chatsmith.tasks.benchmark_files import find_file
from chatsmith.tasks.core import CoreTask
from chatsmith.tasks.problem_set import problem_to_json
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.tools.sandbox import require_sandbox

Benchmark = Callable[[GPT], dict[str, float]]

METHOD = 2
"""Raised when scores come to mean something else, or their files to say more, so that they are measured again."""


def measure(suite: str, evaluation: Evaluation) -> results.SuiteResult:
    """The result of `base`, `core`, `chat` or `exam`: read where it is known, else measured and written down.

    Raises UserError if files, a sandbox or data are missing.
    """
    path = evaluation.files.suite(suite) if evaluation.files and not evaluation.tasks else None
    key = suite_key(suite, evaluation)
    return _kept(results.SuiteResult, suite, path, key, evaluation, lambda: _measure_suite(suite, evaluation))


def _measure_suite(suite: str, evaluation: Evaluation) -> results.SuiteResult:
    if suite == "base":
        return measure_text(evaluation)
    if suite == "exam":
        return measure_exam(evaluation)
    tasks = _measure_tasks(suite, evaluation)
    if suite == "chat" and _has_exam(evaluation):
        exam = measure("exam", evaluation)
        tasks.append(results.exam_as_task(exam.transcript, exam.seconds))
    found = results.summary(tasks)
    return results.SuiteResult(suite, found, found["seconds"])


ALONG = 500
"""Items of each task that are asked along the way, as in nanochat's base_train."""


def along_training(suite: str, tokenizer: Tokenizer, runtime: Runtime, folder: Path) -> Benchmark:
    """CORE or ChatCORE (without the kindergarten's exam) of a model that is being trained, as {suite: score}. Raises
    UserError, before a step is done, if files or the sandbox are missing."""

    def evaluation(bundle: Bundle | None) -> Evaluation:
        return Evaluation(
            Path(), "", runtime, Reporter(silent=True), folder, loaded=bundle, max_examples=ALONG
        )

    def score(model: GPT) -> dict[str, float]:
        bundle = Bundle(model, tokenizer, model.config, {}, {}, Path())
        return {suite: results.summary(_measure_tasks(suite, evaluation(bundle)))["centered"]}

    _require(suite, evaluation(None))
    return score


def suite_key(suite: str, evaluation: Evaluation) -> str:
    """What a suite's result depends on, as a hash."""
    parts: dict[str, Any] = {
        "method": METHOD,
        "bundle": evaluation.fingerprint,
        "n": evaluation.max_examples,
        "dtype": evaluation.dtype,
    }
    if suite in ("base", "exam") and evaluation.manifest:  # the baseline of the exam is from the data, too
        parts["data"] = evaluation.manifest.fingerprint
    if suite == "exam":
        parts["problems"] = [problem_to_json(problem) for problem in exam_problems(evaluation)]
    if suite in ("core", "chat"):
        parts["tasks"] = [_task_key(task, evaluation) for task in tasks_of(suite, evaluation)]
    if suite == "chat" and _has_exam(evaluation):
        parts["exam"] = suite_key("exam", evaluation)
    return results.result_key(suite=suite, **parts)


def all_tasks(suite: str) -> tuple[CoreTask | ChatTask, ...]:
    """The tasks of `core` or `chat`, the kindergarten's exam apart."""
    return core.TASKS if suite == "core" else chat.TASKS


def tasks_of(suite: str, evaluation: Evaluation) -> list[CoreTask | ChatTask]:
    """Those that are asked: that have the split, are among the evaluation's tasks, and, in nanochat's wording, have
    one."""
    wanted = evaluation.tasks
    return [
        task
        for task in all_tasks(suite)
        if evaluation.part in task.files
        and (not wanted or f"{suite}/{task.name}" in wanted)
        and not (suite == "chat" and evaluation.prompts == results.NANOCHAT and task.name in chat.OWN)
    ]


def _has_exam(evaluation: Evaluation) -> bool:
    """Whether the kindergarten's exam is a part of ChatCORE: if the model was taught it."""
    return evaluation.was_taught_kindergarten and evaluation.prompts == "own" and not evaluation.tasks


def _measure_tasks(suite: str, evaluation: Evaluation) -> list[results.TaskResult]:
    found = []
    for task in _require(suite, evaluation):
        path = evaluation.files.task(suite, task.name) if evaluation.files else None
        key, measured = _task_key(task, evaluation), partial(_measure_task, task, evaluation)
        found.append(_kept(results.TaskResult, task.name, path, key, evaluation, measured))
    return found


def _measure_task(task: CoreTask | ChatTask, evaluation: Evaluation) -> results.TaskResult:
    if isinstance(task, CoreTask):
        result = measure_core_task(evaluation, task)
    else:
        measured = chat.measure_written if task.max_tokens else chat.measure_letters
        result = measured(evaluation, task)
    return replace(result, file=_digest(task, evaluation))


def _require(suite: str, evaluation: Evaluation) -> list[CoreTask | ChatTask]:
    """The suite's tasks. Raises UserError for what they lack: better now than after an hour."""
    tasks = tasks_of(suite, evaluation)
    for task in tasks:
        find_file(evaluation.benchmarks, task.files[evaluation.part])
        if isinstance(task, ChatTask) and task.are_programs:
            require_sandbox()
    return tasks


def _task_key(task: CoreTask | ChatTask, evaluation: Evaluation) -> str:
    changed: dict[str, Any] = {}
    if isinstance(task, ChatTask):
        changed = {"task_method": task.method} if task.method > 1 else {}
        changed |= {"prompts": evaluation.prompts} if evaluation.prompts != "own" else {}
    return results.result_key(
        method=METHOD,
        bundle=evaluation.fingerprint,
        task=task.name,
        file=_digest(task, evaluation),
        part=evaluation.part,
        n=evaluation.max_examples,
        tries=evaluation.tries,
        dtype=evaluation.dtype,
        **changed,
    )


def _digest(task: CoreTask | ChatTask, evaluation: Evaluation) -> str:
    return file_sha256(find_file(evaluation.benchmarks, task.files[evaluation.part]))


def _kept(
    kind: type[results.Result],
    name: str,
    path: Path | None,
    key: str,
    evaluation: Evaluation,
    measured: Callable[[], results.Result],
) -> results.Result:
    """The result in the file at `path` if that has the key; else what is `measured` now, which is written there. What
    the main process finds decides for all, since they must measure together."""
    reads = path is not None and evaluation.runtime.is_main
    read = results.read_result(kind, path, key) if path and reads else None
    known = gathered([read], evaluation.runtime)[0]
    if known is not None:
        evaluation.reporter.line(f"{name}: measured before, see {path}")
        return known
    if path and not os.access(next(one for one in path.absolute().parents if one.exists()), os.W_OK):
        raise UserError(
            f"{name} is not measured yet, and {path.parent} cannot be written to; choose another folder",
            setting="results",
        )
    result = replace(measured(), key=key, model=evaluation.fingerprint)
    if path and reads:
        results.write_result(path, result)
    return result
