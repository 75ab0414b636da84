"""The results of one model, read back from where `evaluate` has written them. It measures nothing."""

import json
from dataclasses import dataclass
from typing import Any

from chatsmith.evals.chat import KINDERGARTEN, exam_as_task
from chatsmith.evals.target import ResultPlaces
from chatsmith.evals.task_result import TaskResult, read_task
from chatsmith.runtime.errors import UserError


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
    """Whatever results of the model are there; damaged files, and those of a model that is no longer there, count as
    absent. Raises UserError where results of several models stand under one name, and nothing says which is meant."""
    by_suite = {}
    for suite in ("core", "chat"):
        folder = places.task(suite, "any").parent
        read = [read_task(file) for file in sorted(folder.glob("*.json"))]
        by_suite[suite] = [task for task in read if task and task.model == (places.model or task.model)]
        if len({task.model for task in by_suite[suite]}) > 1:
            raise UserError(
                f"{folder} has results of more than one model: measure the one that is meant again"
            )
    exam = _transcript(places, "exam")
    if exam and by_suite["chat"]:  # it is a part of ChatCORE
        by_suite["chat"].append(exam_as_task(KINDERGARTEN, exam, 0.0))
    elif exam:
        by_suite["exam"] = [exam_as_task(KINDERGARTEN, exam, 0.0)]
    return Results(_transcript(places, "base"), by_suite)


def _transcript(places: ResultPlaces, suite: str) -> tuple[dict[str, Any], ...]:
    try:
        content = json.loads(places.suite(suite).read_bytes())
        is_meant = content["model"] == (places.model or content["model"])
        return tuple(content["transcript"]) if is_meant else ()
    except (OSError, ValueError, KeyError, TypeError):
        return ()
