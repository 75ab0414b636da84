"""MMLU: questions of 57 subjects, from school to the professions (Hendrycks et al. 2020, 2009.03300).

It reads a folder with `mmlu/<dev|validation|test>.jsonl`. The larger `auxiliary_train` is not part of it.
"""

from collections.abc import Iterator
from pathlib import Path

from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import read_items
from chatsmith.tasks.letters import LetterQuestion
from chatsmith.tasks.splits import Splits
from chatsmith.text.chat import Conversation

NAME = "mmlu"
SPLITS = Splits(
    train="dev.jsonl, 285 questions, meant as examples",
    development="validation.jsonl, 1,531 questions",
    test="test.jsonl, 14,042 questions",
)
_FILES = {"train": "dev", "development": "validation", "test": "test"}


def mmlu_path(split: str) -> str:
    """The file of a split in the benchmarks' folder."""
    SPLITS.check("MMLU", split)
    return f"{NAME}/{_FILES[split]}.jsonl"


def mmlu_questions(split: str, folder: Path) -> list[LetterQuestion]:
    """The questions of a split: "train", "development" or "test". `folder` is that of the benchmarks."""
    path = mmlu_path(split)
    items = read_items(folder, path, ("subject", "question", "choices", "answer"))
    questions = []
    for number, item in enumerate(items, start=1):
        choices, gold = item["choices"], item["answer"]
        if not isinstance(choices, list) or not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise UserError(f"{path}, line {number}: the answer must be the index of a choice")
        name = f"{NAME}/{split}/{item['subject']}/{number}"
        questions.append(LetterQuestion(name, item["question"], tuple(choices), gold))
    return questions


def mmlu_conversations(split: str, folder: Path) -> Iterator[Conversation]:
    """The questions of "train" or "development" with the right letter, to learn from."""
    if split == "test":
        raise UserError("the test questions of MMLU are not for training")
    return (question.solved for question in mmlu_questions(split, folder))
