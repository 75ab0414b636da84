"""What an evaluation found out, and the files that keep it: `STAGE-SUITE.json`, `STAGE-SUITE/TASK.json`.

A file is written whole and found again by its key, which says what was measured on what. A task's file keeps the points
by item, so that two models can be compared on the items both answered, and so that an interrupted suite goes on with
the next task. Nothing here measures.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from chatsmith.evals.statistics import Answers, bootstrap_interval, centered, points_interval
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError

SplitName = Literal["exam", "development"]

KINDERGARTEN = "kindergarten"
"""The exam as a task of the chat suite."""

LENGTHS = {"continued": 24, "free": 64, "answered": 64}
"""Sections of fixed prompts (`evals.bpb`), and tokens of a reply at most."""

NANOCHAT = "nanochat"
"""Whose wording of the chat tasks can be chosen."""

_RESULT_FILE = re.compile(r"(.+?)-(?:base|core|chat|exam)(?:-nanochat)?(?:-development)?(?:-\d+)?\.json$")


@dataclass(frozen=True)
class SuiteResult:
    """What one suite found out about one model."""

    suite: str
    """`base`, `core`, `chat` or `exam`."""
    result: dict[str, Any]
    """What a program reads: exactly what `evaluate --json` prints under the suite's name."""
    seconds: float
    """How long it took."""
    baseline: dict[str, Any] | None = None
    """The result of a method that has learned nothing, in the same form, for comparison."""
    transcript: tuple[dict[str, Any], ...] = ()
    """Every single reply, or every part of the text with its bits."""
    key: str = ""
    """What the result depends on, as a hash; empty: not written yet."""
    model: str = ""
    """The fingerprint of the model that was measured; empty: not written yet."""
    train: dict[str, Any] | None = None
    """For `base`: the same figures on training text."""


@dataclass(frozen=True)
class TaskResult:
    """One task's items and how they came out."""

    task: str
    ids: tuple[str, ...]
    """The items, by names that are the same for every model."""
    points: tuple[float, ...]
    """For each item 1 (right), 0, or a share: how often it is right in several tries."""
    chance: float
    """The accuracy of guessing."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What a reader of the score must know, e.g. that the items are a subset."""
    transcript: tuple[dict[str, Any], ...] = ()
    """Every single reply, where there are replies."""
    group: str = ""
    """Tasks of one group ask the same items; empty: a group of its own."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else was found out, by name."""
    key: str = ""
    model: str = ""
    file: str = ""
    """SHA-256 of the file that the items are from; empty: from no file, and named by what they ask."""

    @property
    def n(self) -> int:
        """How many items."""
        return len(self.points)

    @property
    def accuracy(self) -> float:
        """The mean of the points; 0 for no items."""
        return sum(self.points) / self.n if self.n else 0.0

    @property
    def centered(self) -> float:
        """Accuracy, 0 at chance and 1 for all right."""
        return centered(self.accuracy, self.chance)

    def answers(self) -> Answers:
        """The points as statistics takes them."""
        return Answers(np.array(self.points, dtype=float), self.chance, self.group or self.task)

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` prints for the task; the interval is of the accuracy, 95 %."""
        low, high = points_interval(self.points)
        found: dict[str, Any] = {
            "accuracy": self.accuracy,
            "centered": self.centered,
            "n": self.n,
            "low": low,
            "high": high,
            "chance": self.chance,
            "seconds": round(self.seconds, 2),
            **self.figures,
        }
        return {**found, "notes": list(self.notes)} if self.notes else found


def summary(results: Sequence[TaskResult]) -> dict[str, Any]:
    """What `evaluate --json` prints for several tasks: the mean centered accuracy (CORE, ChatCORE) with its 95 %
    bootstrap interval, the mean accuracy, and every task."""
    low, high = bootstrap_interval([result.answers() for result in results])
    return {
        "centered": sum(result.centered for result in results) / max(1, len(results)),
        "raw": sum(result.accuracy for result in results) / max(1, len(results)),
        "low": low,
        "high": high,
        "n": sum(result.n for result in results),
        "seconds": round(sum(result.seconds for result in results), 2),
        "tasks": {result.task: result.to_json() for result in results},
    }


def exam_as_task(replies: Sequence[Mapping[str, Any]], seconds: float) -> TaskResult:
    """A finished exam, from its transcript, as one task of the chat suite."""
    ids = tuple(reply["id"] for reply in replies)
    return TaskResult(KINDERGARTEN, ids, tuple(float(reply["correct"]) for reply in replies), 0.0, seconds)


@dataclass(frozen=True)
class ResultFiles:
    """Where the results of one model are. Parts of a suite never take the place of all of it."""

    folder: Path
    stage: str
    """What the results are called by: in a run the stage that made the bundle, else the bundle's folder."""
    split: SplitName = "exam"
    max_examples: int | None = None
    model: str = ""
    """The fingerprint of the model that is there now; empty: unknown."""
    prompts: str = "own"

    def suite(self, suite: str) -> Path:
        """The file of a suite."""
        prompts = f"-{self.prompts}" if suite == "chat" and self.prompts != "own" else ""
        split = "-development" if suite != "base" and self.split == "development" else ""
        part = f"-{self.max_examples}" if self.max_examples else ""
        return self.folder / f"{self.stage}-{suite}{prompts}{split}{part}.json"

    def task(self, suite: str, task: str) -> Path:
        """The file of one task of a suite."""
        return self.suite(suite).with_suffix("") / f"{task}.json"


def files_in(path: Path, split: SplitName, max_examples: int | None) -> ResultFiles:
    """The results in a folder or of a file that was written outside a run. Raises UserError if there are none, or those
    of several models."""
    files = [path] if path.is_file() else list(path.glob("*.json"))
    models = {match[1] for file in files if (match := _RESULT_FILE.match(file.name))}
    if len(models) > 1:
        raise UserError(
            f"{path} holds results of {', '.join(sorted(models))}: name a file of the one that is meant"
        )
    if not models:
        raise UserError(
            f"{path} holds no results: give a run that was evaluated, or a folder that an evaluation has written"
        )
    return ResultFiles(path.parent if path.is_file() else path, models.pop(), split, max_examples)


def result_key(**parts: Any) -> str:
    """SHA-256 of what a result depends on: JSON values by name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


Result = TypeVar("Result", SuiteResult, TaskResult)


def write_result(path: Path, result: SuiteResult | TaskResult) -> None:
    """Write the file, atomically."""
    if isinstance(result, SuiteResult):
        content, indent = asdict(replace(result, seconds=round(result.seconds, 2))), 1
    else:
        content, indent = asdict(result), None
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def read_result(kind: type[Result], path: Path, key: str | None = None) -> Result | None:
    """The result in the file at `path`; None if there is none, it is damaged, or, with `key`, has a different key."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError):
        return None
    return result if key is None or result.key == key else None


@dataclass(frozen=True)
class Results:
    """What is known of one model."""

    text: tuple[dict[str, Any], ...]
    """The parts of the validation text: bits, bytes, tokens. Empty if bits per byte were not measured."""
    tasks: dict[str, list[TaskResult]]
    """The tasks that were measured, by suite: core, chat, exam."""


def read_results(files: ResultFiles) -> Results:
    """Whatever results of the model are there; damaged files, and those of a model that is no longer there, count as
    absent. Raises UserError where results of several models have one name, and nothing says which is meant."""
    tasks: dict[str, list[TaskResult]] = {"exam": []}
    for suite in ("core", "chat"):
        folder = files.task(suite, "any").parent
        read = [read_result(TaskResult, file) for file in sorted(folder.glob("*.json"))]
        tasks[suite] = [task for task in read if task and files.model in ("", task.model)]
        if len({task.model for task in tasks[suite]}) > 1:
            raise UserError(
                f"{folder} has results of more than one model: measure the one that is meant again"
            )
    base, exam, chat = (read_result(SuiteResult, files.suite(suite)) for suite in ("base", "exam", "chat"))
    if exam and exam.transcript and files.model in ("", exam.model):
        # A part of ChatCORE for models that were taught the kindergarten.
        is_part = bool(tasks["chat"]) and chat is not None and KINDERGARTEN in chat.result["tasks"]
        tasks["chat" if is_part else "exam"].append(exam_as_task(exam.transcript, 0.0))
    text = base.transcript if base and files.model in ("", base.model) else ()
    return Results(tuple(part for part in text if "bits" in part), tasks)
