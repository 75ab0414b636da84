"""What one task found out about one model: a point for every item; and its file, found again by its key.

The file keeps the points by item, so that two models can be compared on the items both answered, and so that an
interrupted suite goes on with the next task. It knows nothing of models or prompts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatsmith.evals.statistics import Answers, bootstrap_interval, centred, points_interval
from chatsmith.runtime.atomic import write_text
from chatsmith.tasks.benchmark_files import find_file
from chatsmith.tasks.benchmark_origins import note_about


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
    model: str = ""
    """The fingerprint of the model that was asked; empty: not written down yet."""
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
    def centred(self) -> float:
        """Accuracy, 0 at chance and 1 for all right."""
        return centred(self.accuracy, self.chance)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of the accuracy."""
        return points_interval(self.points)

    def answers(self) -> Answers:
        """The points as statistics takes them."""
        return Answers(np.array(self.points, dtype=float), self.chance, self.group or self.task)

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` prints for the task."""
        low, high = self.interval
        found: dict[str, Any] = {
            "accuracy": self.accuracy,
            "centered": self.centred,
            "n": self.n,
            "low": low,
            "high": high,
            "chance": self.chance,
            "seconds": round(self.seconds, 2),
            **self.figures,
        }
        return {**found, "notes": list(self.notes)} if self.notes else found


def summary(results: Sequence[TaskResult]) -> dict[str, Any]:
    """What `evaluate --json` prints for several tasks: the mean centred accuracy (CORE, ChatCORE) with its 95 %
    bootstrap interval, the mean accuracy, and every task."""
    low, high = bootstrap_interval([result.answers() for result in results])
    return {
        "centered": sum(result.centred for result in results) / max(1, len(results)),
        "raw": sum(result.accuracy for result in results) / max(1, len(results)),
        "low": low,
        "high": high,
        "n": sum(result.n for result in results),
        "seconds": round(sum(result.seconds for result in results), 2),
        "tasks": {result.task: result.to_json() for result in results},
    }


def notes_on(folder: Path, path: str, num_cropped: int, total: int) -> tuple[str, ...]:
    """What a reader of the score must know: about the file, and about prompts that did not fit."""
    notes = [note_about(find_file(folder, path), path)]
    if num_cropped:
        # By tenths, so that tasks that lose about as much share a line.
        share = "all" if num_cropped == total else f"about {max(1, round(10 * num_cropped / total))}0 %"
        notes.append(f"{share} of the prompts are longer than the context and lost their beginning")
    return tuple(note for note in notes if note)


def write_task(path: Path, key: str, result: TaskResult) -> None:
    """Write the file, atomically."""
    content = {
        "task": result.task,
        "key": key,
        "seconds": result.seconds,
        "chance": result.chance,
        "notes": result.notes,
        "group": result.group,
        "figures": dict(result.figures),
        "model": result.model,
        "file": result.file,
        "ids": result.ids,
        "points": result.points,
        "transcript": result.transcript,
    }
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


def read_task(path: Path, key: str | None = None) -> TaskResult | None:
    """The result in the file at `path`; None if there is none, it is damaged, or, with `key`, its key is another."""
    try:
        content = json.loads(path.read_bytes())
        if key is not None and content["key"] != key:
            return None
        return TaskResult(
            task=content["task"],
            ids=tuple(content["ids"]),
            points=tuple(content["points"]),
            chance=content["chance"],
            seconds=content["seconds"],
            notes=tuple(content["notes"]),
            transcript=tuple(content["transcript"]),
            group=content["group"],
            figures=content["figures"],
            model=content["model"],
            file=content["file"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
