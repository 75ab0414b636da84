"""The results of one model, read back from where `evaluate` has written them. It measures nothing."""

import json
from dataclasses import dataclass
from typing import Any

from chatsmith.evals.chat import exam_as_task
from chatsmith.evals.target import ResultPlaces
from chatsmith.evals.task_result import TaskResult, read_task


@dataclass(frozen=True)
class Results:
    """What is known of one model, by suite."""

    text: tuple[dict[str, Any], ...]
    """The parts of the validation text: bits, bytes, tokens. Empty if bits per byte were not measured."""
    by_suite: dict[str, list[TaskResult]]

    def tasks(self, suite: str) -> list[TaskResult]:
        """The tasks of a suite that were measured."""
        return self.by_suite.get(suite, [])


def read_results(places: ResultPlaces) -> Results:
    """Whatever results are there; damaged files count as absent."""
    by_suite = {}
    for suite in ("core", "chat"):
        folder = places.task(suite, "any").parent
        read = [read_task(file) for file in sorted(folder.glob("*.json"))]
        by_suite[suite] = [task for task in read if task is not None]
    exam = _transcript(places, "exam")
    if exam:
        by_suite["exam"] = [exam_as_task("kindergarten exam", exam, 0.0)]
    return Results(_transcript(places, "base"), by_suite)


def _transcript(places: ResultPlaces, suite: str) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(json.loads(places.suite(suite).read_bytes())["transcript"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()
