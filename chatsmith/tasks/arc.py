"""ARC: science questions from school exams, an easy and a hard set (Clark et al. 2018, 1803.05457).

It reads a folder with `arc/<easy|challenge>-<train|validation|test>.jsonl`. The text is CC BY-SA 4.0.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import read_items
from chatsmith.tasks.letters import LetterQuestion
from chatsmith.tasks.splits import Splits
from chatsmith.text.chat import Conversation

Level = Literal["easy", "challenge"]

SPLITS = Splits(
    train="<level>-train.jsonl: easy 2,251, challenge 1,119 questions",
    development="<level>-validation.jsonl: easy 570, challenge 299 questions",
    test="<level>-test.jsonl: easy 2,376, challenge 1,172 questions, which are also two tasks of CORE",
)
_FILES = {"train": "train", "development": "validation", "test": "test"}


def arc_path(level: Level, split: str) -> str:
    """The file of a split in the benchmarks' folder."""
    SPLITS.check("ARC", split)
    return f"arc/{level}-{_FILES[split]}.jsonl"


def arc_questions(level: Level, split: str, folder: Path) -> list[LetterQuestion]:
    """The questions of a split: "train", "development" or "test". `folder` is that of the benchmarks."""
    path = arc_path(level, split)
    items = read_items(folder, path, ("id", "question", "choices", "answerKey"))
    return [_question(level, split, path, item) for item in items]


def arc_conversations(level: Level, split: str, folder: Path) -> Iterator[Conversation]:
    """The questions of "train" or "development" with the right letter, to learn from."""
    if split == "test":
        raise UserError("the test questions of ARC are not for training")
    return (question.solved for question in arc_questions(level, split, folder))


def _question(level: Level, split: str, path: str, item: dict[str, Any]) -> LetterQuestion:
    try:
        texts, labels = item["choices"]["text"], item["choices"]["label"]
        gold = labels.index(item["answerKey"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path}: question {item['id']} has no choices, or a key that is none of them"
        ) from None
    return LetterQuestion(f"arc_{level}/{split}/{item['id']}", item["question"], tuple(texts), gold)
