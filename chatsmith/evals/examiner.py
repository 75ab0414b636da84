"""The examiner: measures suites of one target, task by task, and keeps what is known from being measured again.

A model is loaded when the first task needs it. Where results have a place, each task's are written as soon as they are
there, so an interrupted suite goes on with the next task. With several processes each works on a part of the items;
the main one writes. It prints nothing but progress.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from chatsmith.bundle import Bundle
from chatsmith.data.dataset import file_sha256
from chatsmith.data.packing import ValidationRows
from chatsmith.data.problems import Problem, problem_to_json
from chatsmith.data.tokens import TokenCache
from chatsmith.engine.engine import Engine
from chatsmith.evals import chat, core
from chatsmith.evals.bits_per_byte import score_text
from chatsmith.evals.engine_scorer import EngineScorer
from chatsmith.evals.exam import ExamResult, Reply, choose_problems, grade, run_exam
from chatsmith.evals.passages import Scorer
from chatsmith.evals.ranks import collect, share
from chatsmith.evals.result_file import SuiteResult, read_result, suite_key, write_result
from chatsmith.evals.target import ResultPlaces, SplitName, Target
from chatsmith.evals.task_result import TaskResult, read_task, summary, write_task
from chatsmith.evals.validation_text import named_text, run_text
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import main_number
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import find_file
from chatsmith.tasks.core import TASKS
from chatsmith.tools.calculator import calculator_tool
from chatsmith.tools.sandbox import require_sandbox
from chatsmith.worlds.kindergarten import Kindergarten
from chatsmith.worlds.kindergarten.baseline import NearestQuestion

METHOD = 2
"""Raised when scores come to mean something else, or their files to say more, so that they are measured anew."""


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    folder: Path
    """Where the benchmarks' files are."""
    split: SplitName = "exam"
    max_examples: int | None = None
    tries: int = 1
    """For each HumanEval problem."""
    text: tuple[Path, ...] = ()
    """Measure bits per byte on this text, and not on that of the run."""
    dtype: str = "auto"
    batch_size: int = 64
    """Replies written at once."""
    batch_tokens: int = 8192
    """Tokens of validation text scored at once."""

    @property
    def part(self) -> str:
        """The benchmarks' own name of the split."""
        return "test" if self.split == "exam" else "development"


class Examiner:
    """Measures one target."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        *,
        load: Callable[[], Bundle],
        places: ResultPlaces | None,
        runtime: Runtime,
        reporter: Reporter,
    ) -> None:
        """`load` gives the target's bundle; `places` says where results are kept, None: nowhere."""
        self._target = target
        self._settings = settings
        self._load = load
        self._places = places
        self._runtime = runtime
        self._reporter = reporter
        self.was_known: set[str] = set()
        """Suites whose results were found, not measured."""

    def measure(self, suite: str) -> SuiteResult:
        """The result of `base`, `core`, `chat` or `exam`: read where it is known, else measured and written down.

        Raises UserError if files, a sandbox or data are missing.
        """
        key = self.key(suite)
        path = self._places.suite(suite) if self._places else None
        known = read_result(path, key) if path else None
        if self._everyone_knows(known is not None):
            self.was_known.add(suite)
            return known or SuiteResult(suite, {}, 0.0)  # the main process has it, and it alone speaks
        measure = {"base": self._base, "core": self._core, "chat": self._chat, "exam": self._exam}[suite]
        result = measure()
        if path and self._runtime.is_main:
            write_result(path, key, result, self._target.fingerprint)
        return result

    def key(self, suite: str) -> str:
        """What a suite's result depends on, as a hash."""
        parts: dict[str, Any] = {
            "method": METHOD,
            "bundle": self._target.fingerprint,
            "n": self._settings.max_examples,
            "dtype": self._settings.dtype,
        }
        if (
            suite in ("base", "exam") and self._target.manifest
        ):  # the baseline of the exam, too, is from the data
            parts["data"] = self._target.manifest.fingerprint
        if suite == "exam":
            parts["problems"] = [problem_to_json(problem) for problem in self.exam_problems()]
        if suite == "core":
            parts["tasks"] = [self._task_key(task.name, task.path) for task in TASKS]
        if suite == "chat":
            parts["tasks"] = [
                self._task_key(task.name, task.path(self._settings.part)) for task in self.chat_tasks()
            ]
            parts["exam"] = self.key("exam")
        return suite_key(suite=suite, **parts)

    def exam_problems(self) -> list[Problem]:
        """The kindergarten's problems that are asked, the same every time."""
        return choose_problems(
            list(Kindergarten().problems(self._settings.split)), self._settings.max_examples
        )

    def chat_tasks(self) -> list[chat.LetterTask | chat.WrittenTask]:
        """The tasks of the chat suite that have the split, the kindergarten apart."""
        part = self._settings.part
        return [
            task
            for task in chain(chat.LETTER_TASKS, chat.WRITTEN_TASKS)
            if getattr(task.splits, part) is not None
        ]

    @cached_property
    def _bundle(self) -> Bundle:
        return self._load()

    @cached_property
    def _scorer(self) -> Scorer:
        if self._target.is_transformers:
            from chatsmith.evals.transformers_scorer import TransformersScorer

            runtime = self._runtime
            return TransformersScorer(self._target.path, device=runtime.device, dtype=runtime.compute_dtype)
        return EngineScorer(self._bundle)

    @cached_property
    def _engine(self) -> Engine:
        size = self._settings.batch_size
        return Engine(
            self._bundle.model,
            self._bundle.tokenizer,
            tool=calculator_tool,
            max_running=size,
            tokens_per_step=max(1024, size),
        )

    def _base(self) -> SuiteResult:
        settings, runtime = self._settings, self._runtime
        length = self._bundle.config.context_length
        with self._validation_text() as cache:
            rows = ValidationRows(cache, length)
            if rows.num_targets == 0:
                raise UserError(
                    f"{self._target.path} has no validation text; give its run some with `chatsmith data prepare`, "
                    "or name a file with --text"
                )
            num_rows = min(rows.num_rows, settings.max_examples or rows.num_rows)
            batches = rows.batches(
                max(1, settings.batch_tokens // length),
                rank=runtime.rank,
                world_size=runtime.world_size,
                max_rows=settings.max_examples,
            )
            mine = score_text(
                self._bundle.model,
                batches,
                self._bundle.tokenizer.token_byte_lengths,
                reporter=self._reporter,
                total_tokens=rows.num_targets * num_rows // rows.num_rows // runtime.world_size,
            )
        shares = collect([mine.parts], runtime.world_size, runtime)
        score = replace(mine, parts=tuple(tuple(part) for parts in shares for part in parts))
        transcript = tuple(
            {"bits": bits, "bytes": size, "tokens": tokens} for bits, size, tokens in score.parts
        )
        return SuiteResult("base", score.to_json(), score.seconds, transcript=transcript)

    def _validation_text(self) -> AbstractContextManager[TokenCache]:
        if self._settings.text:
            return named_text(self._settings.text, self._target.path)
        assert self._target.run is not None
        return run_text(self._target.run, self._target.path, build=self._runtime.is_main)

    def _core(self) -> SuiteResult:
        for task in TASKS:
            find_file(self._settings.folder, task.path)
        results = [
            self._task(
                "core",
                task.name,
                task.path,
                lambda task=task: core.measure_core_task(
                    self._scorer,
                    task,
                    self._settings.folder,
                    max_examples=self._settings.max_examples,
                    runtime=self._runtime,
                    reporter=self._reporter,
                ),
            )
            for task in TASKS
        ]
        found = summary(results)
        return SuiteResult("core", found, found["seconds"])

    def _chat(self) -> SuiteResult:
        settings = self._settings
        tasks = self.chat_tasks()
        for task in tasks:
            find_file(settings.folder, task.path(settings.part))
            if isinstance(task, chat.WrittenTask) and task.needs_sandbox:
                require_sandbox()
        results = [
            self._task(
                "chat",
                task.name,
                task.path(settings.part),
                lambda task=task: self._chat_task(task),
            )
            for task in tasks
        ]
        exam = self.measure("exam")
        results.append(chat.exam_as_task(chat.KINDERGARTEN, exam.transcript, exam.seconds))
        found = summary(results)
        return SuiteResult("chat", found, found["seconds"])

    def _chat_task(self, task: chat.LetterTask | chat.WrittenTask) -> TaskResult:
        settings = self._settings
        common: dict[str, Any] = {
            "max_examples": settings.max_examples,
            "runtime": self._runtime,
            "reporter": self._reporter,
        }
        tokenizer = self._bundle.tokenizer
        if isinstance(task, chat.LetterTask):
            return chat.measure_letters(
                self._scorer, tokenizer, task, settings.part, settings.folder, **common
            )
        return chat.measure_written(
            self._engine, tokenizer, task, settings.part, settings.folder, tries=settings.tries, **common
        )

    def _task(self, suite: str, name: str, file: str, measure: Callable[[], TaskResult]) -> TaskResult:
        """The result of the task `name` on the items of `file`: read where it is known, else measured and written
        down."""
        key = self._task_key(name, file)
        path = self._places.task(suite, name) if self._places else None
        known = read_task(path, key) if path else None
        if self._everyone_knows(known is not None):
            if known is None:
                return TaskResult(name, (), (), 0.0, 0.0)  # the main process has it, and it alone speaks
            self._reporter.line(f"{name}: measured before")
            return known
        result = measure()
        if path and self._runtime.is_main:
            digest = file_sha256(find_file(self._settings.folder, file))
            write_task(path, key, replace(result, model=self._target.fingerprint, file=digest))
        return result

    def _task_key(self, name: str, path: str) -> str:
        settings = self._settings
        return suite_key(
            method=METHOD,
            bundle=self._target.fingerprint,
            task=name,
            file=file_sha256(find_file(settings.folder, path)),
            part=settings.part,
            n=settings.max_examples,
            tries=settings.tries,
            dtype=settings.dtype,
        )

    def _everyone_knows(self, is_known: bool) -> bool:
        """What the main process knows decides for all, since they must measure together."""
        return bool(main_number(float(is_known), self._runtime))

    def _exam(self) -> SuiteResult:
        problems = self.exam_problems()
        mine = share(problems, self._runtime)
        result = run_exam(self._engine, mine, self._bundle.tokenizer, reporter=self._reporter)
        replies = collect(result.transcript(), len(problems), self._runtime)
        result = ExamResult(tuple(Reply(**reply) for reply in replies), result.seconds)
        baseline = self._nearest_question(problems)
        return SuiteResult("exam", result.to_json(), result.seconds, baseline, tuple(result.transcript()))

    def _nearest_question(self, problems: list[Problem]) -> dict[str, Any] | None:
        """The exam's result for the answer to the nearest training question; None if its matter is not taught."""
        manifest = self._target.manifest
        if manifest is None or manifest.source != chat.KINDERGARTEN:
            return None
        with self._reporter.progress("baseline", len(problems), "problems") as bar:
            nearest = NearestQuestion(manifest.read_conversations("train"))
            texts = []
            for problem in problems:
                texts.append(nearest.answer(problem.messages))
                bar.advance()
        return grade(problems, texts).to_json()
